//! The corpus: seeds, and inputs that once broke a decoder.

use super::seeds::*;
use super::vault::framed;
use super::*;
use crate::crypto::{hash, hex};
use crate::daemon::receive;
use crate::io::Random;
use crate::vault::hsm::FileKeys;
use crate::vault::hsm::transfer::{Aloud, Parcel, SiteRequest};
use crate::vault::protocol::{
    REPLY_SIZE, REQUEST_SIZE, decode_marks, decode_reply, decode_request,
};

/// Set to any value, the test below writes the seeds instead of comparing them.
const WRITE: &str = "AMBERFS_WRITE_SEEDS";

/// A seed that differs means that the encoding of a value changed: people have
/// such bytes.
#[test]
fn values_encode_to_the_bytes_of_the_corpus() {
    let write = std::env::var_os(WRITE).is_some();
    let seeds = seeds();
    assert!(seeds.keys().eq(TARGETS.iter().map(|(name, _)| name)));
    for (target, inputs) in seeds {
        let folder = corpus().join(target);
        for (number, bytes) in inputs.into_iter().enumerate() {
            let path = folder.join(format!("seed-{number}"));
            if write {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &bytes).unwrap();
            }
            let found = std::fs::read(&path).unwrap_or_default();
            assert!(found == bytes, "{}: {}", path.display(), hex(&bytes));
        }
    }
}

/// People have records, and folders that name them: the bytes of the vault's protocol
/// (version 2), of its records and manifests (2), of locators (2) and of what relays say (1)
/// are settled. Whoever changes one makes a new version beside the old.
#[test]
fn what_vaults_exchange_and_keep_is_settled() {
    let settled = [
        ("locator", "f2b5c75aea4cd60d5ed1af4b71efdf05"),
        ("manifest", "6ca93016fa8935454f7baec993effeed"),
        ("relay", "80e6f769669533c5bd25209fdf6b1c52"),
        ("vault_note", "75e09d696bdcd9118650a5b38cbb181b"),
        ("vault_payload", "ab41e4ef6c2ee56b3cf2459d3f5b59a5"),
        ("vault_record", "cb7765964cffeaba39c56a6dc8210a66"),
        ("vault_reply", "658ebb4b2794786f27cd276a727db653"),
        ("vault_request", "ef626d3ed98a262d655649da0e9ea2ac"),
    ];
    let seeds = seeds();
    let found = settled.map(|(target, _)| {
        let all: Vec<u8> = seeds[target].iter().flat_map(|bytes| hash(bytes)).collect();
        (target, hex(&hash(&all)[..16]))
    });
    assert_eq!(found, settled.map(|(target, digits)| (target, digits.to_owned())));
}

/// Seeds, what fuzzing found, and each cut off at every place.
#[test]
fn the_corpus_passes() {
    for (name, target) in TARGETS {
        let mut count = 0;
        for entry in std::fs::read_dir(corpus().join(name)).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            target(&bytes);
            let step = if name == "password" { 7 } else { bytes.len() / 300 + 1 };
            (0..bytes.len()).step_by(step).for_each(|cut| target(&bytes[..cut]));
            count += 1;
        }
        assert!(count > 0, "{name}");
    }
}

/// What the corpus is not: a byte of it changed, one more, one less.
#[test]
fn the_corpus_passes_with_mistakes_in_it() {
    const MISTAKES: u64 = 60;
    let random = SimRandom::new(7);
    let number = |below: usize| {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % below.max(1) as u64) as usize
    };
    // Estimating a password takes its time.
    let seeds = seeds();
    for (name, target) in TARGETS.into_iter().filter(|(name, _)| *name != "password") {
        for bytes in &seeds[name] {
            for _ in 0..MISTAKES {
                let mut bytes = bytes.clone();
                for _ in 0..=number(3) {
                    let at = number(bytes.len());
                    match number(3) {
                        0 if !bytes.is_empty() => bytes[at] = number(256) as u8,
                        1 if !bytes.is_empty() => drop(bytes.remove(at)),
                        _ => bytes.insert(at, number(256) as u8),
                    }
                }
                target(&bytes);
            }
        }
    }
}

/// cargo-fuzz runs what is written down for it, and nothing else.
#[test]
fn every_target_can_be_run_by_cargo_fuzz() {
    let folder = corpus().join("..");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let target = std::fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs")));
        assert!(target.unwrap().contains(&format!("amberfs::fuzzing::{name}(data)")), "{name}");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}

#[test]
fn a_journal_that_nobody_touched_has_all_records() {
    let (path, file) = journal_file();
    let world = SimWorld::new();
    world.folder("state");
    world.put(path, file);
    let (_, replay) = open_journal(&world, 2).unwrap();
    assert_eq!(replay.records.len(), RECORDS.len());
}

/// Seeds are of use only if the decoders take them.
#[test]
fn seeds_are_taken() {
    let seeds = seeds();
    let taken = |target: &str, take: &dyn Fn(&[u8]) -> bool| {
        seeds[target].iter().for_each(|bytes| assert!(take(bytes), "{target}: {}", hex(bytes)));
    };
    taken("repository", &|bytes| walked(bytes) == 5);
    taken("acl", &|bytes| crate::fuse::acl::Acl::parse(&bytes[2..]).is_ok());
    taken("mountinfo", &|bytes| !control::parse_mountinfo(bytes).is_empty());
    taken("transfer", &|bytes| match bytes[0] {
        0 => SiteRequest::decode(&bytes[1..]).is_ok(),
        1 => Parcel::decode(&bytes[1..]).is_ok(),
        _ => std::str::from_utf8(&bytes[1..]).is_ok_and(|text| text.parse::<Aloud>().is_ok()),
    });
    taken("commit", &|bytes| Commit::decode(bytes).is_ok());
    taken("node", &|bytes| Node::decode(bytes).is_ok());
    taken("record", &|bytes| record::decode(bytes).is_ok());
    taken("register", &|bytes| Register::decode(bytes).is_ok());
    taken("state", &|bytes| State::decode(&summed(bytes)).is_ok());
    taken("vault_reply", &|bytes| decode_reply(&framed(bytes, REPLY_SIZE)).is_ok());
    taken("vault_request", &|bytes| decode_request(&framed(bytes, REQUEST_SIZE)).is_ok());
    taken("vault_keys", &|bytes| FileKeys::decode(bytes).is_ok());
    taken("vault_note", &|bytes| bytes[0] != 2 || decode_marks(&bytes[1..]).is_some());
    taken("launch", &|bytes| receive(&mut &*bytes).is_ok());
    taken("key_text", &|bytes| parse_key(std::str::from_utf8(bytes).unwrap()).is_ok());
    taken("device_ledger", &|bytes| match bytes[0] {
        0 => format::ledger::Key::decode(&bytes[1..]).is_ok(),
        1 => format::ledger::Container::decode(&bytes[1..]).is_ok(),
        3 => Retention::decode_fields(&bytes[1..]).is_ok(),
        _ => format::ledger::Kept::decode(&bytes[1..]).is_ok(),
    });
    taken("namespace", &|bytes| match bytes[0] {
        0 => Key::decode(&bytes[1..]).is_ok(),
        1 => Value::decode(&Key::Inode(1), &bytes[1..]).is_ok(),
        _ => true,
    });
}
