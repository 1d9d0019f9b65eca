//! The examples of `docs/format.md`, sections 8 and 12, made byte by byte: each value that the
//! page shows is the one that this program has.

use super::*;
use crate::crypto::{IdKeys, Purpose, Secret, ValueCipher, derive, hex};
use crate::format::clock::{Dot, Writer as Mount};
use crate::format::commit::{Commit, Name, NewObject};
use crate::format::namespace::{Content, ContentClass, Inode, Key, Owner, ROOT, Recipe, Value};
use crate::format::node::{Dotted, MapItem, Node};
use crate::format::register::{
    Epoch, Features, HeadExtension, Header, Keyring, Register, SLOT_KEY_CHECK, Slot, Stamp,
};
use crate::format::setting::Retention;
use crate::format::wire::Encoder;
use crate::io::Timestamp;

const PAGE: &str = include_str!("../../../docs/format.md");
const REPO: [u8; 16] = [0x11; 16];
const DEVICE: [u8; 16] = [0x22; 16];
const SECOND: i64 = 1_764_000_000;
const NOTE: u64 = 0x80_0001;
const FOX: u64 = 0x80_0002;

/// Random numbers that are one byte again and again.
struct Always(u8);

impl Random for Always {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(self.0);
    }
}

fn secret(mut bytes: [u8; 32]) -> Secret {
    Secret::take(&mut bytes)
}

/// What the page must show and does not.
#[derive(Default)]
struct Missing(Vec<String>);

impl Missing {
    fn need(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !PAGE.contains(&text) {
            self.0.push(text);
        }
    }

    /// A line of a table that begins and ends so.
    fn row(&mut self, start: &str, end: &str) {
        let stands = |line: &str| line.starts_with(start) && line.ends_with(end);
        if !PAGE.lines().any(stands) {
            self.0.push(format!("{start} ...{end}"));
        }
    }
}

fn key_hex(key: &Key) -> String {
    let bytes = key.encode();
    let (ino, rest) = bytes.split_at(8);
    let name = |from: usize| String::from_utf8(rest[from..].to_vec()).unwrap();
    match key {
        Key::Writer(_) => format!("{} {} {}", hex(ino), hex(&rest[..1]), hex(&rest[1..])),
        Key::Entry(..) | Key::Back(..) => {
            format!("{} {} {} {}", hex(ino), hex(&rest[..1]), hex(&rest[1..9]), name(9))
        }
        _ => format!("{} {}", hex(ino), hex(rest)),
    }
}

fn items(ids: &IdKeys, fox: Id) -> Vec<(Key, Value, u64)> {
    let time = Timestamp { secs: SECOND, nanos: 5 };
    let own = Owner::SelfOwned;
    let note =
        Inode { size: 6, inline: b"hello\n".to_vec(), ..Inode::new(0o100_644, own, own, time) };
    let content = Content::Chunk(fox);
    let class = ContentClass::Unknown;
    let file = Inode { size: 900, content, class, ..Inode::new(0o100_644, own, own, time) };
    let root = Inode::new(0o040_755, own, own, time);
    let inode = |inode| Value::Inode(Box::new(inode));
    let entry = |name: &[u8]| Key::Entry(ROOT, ids.name_hash(name), name.to_vec());
    vec![
        (Key::Writer(Mount::new(1).unwrap()), Value::Writer(DEVICE, "laptop".into()), 3),
        (Key::Inode(ROOT), inode(root), 1),
        (entry(b"note.txt"), Value::Entry(NOTE, 0o100_000), 2),
        (entry(b"fox.txt"), Value::Entry(FOX, 0o100_000), 3),
        (Key::Inode(NOTE), inode(note), 2),
        (Key::Back(NOTE, ROOT, b"note.txt".to_vec()), Value::Back, 2),
        (Key::Inode(FOX), inode(file), 3),
        (Key::Back(FOX, ROOT, b"fox.txt".to_vec()), Value::Back, 3),
    ]
}

#[test]
fn the_examples_of_the_page_are_what_the_program_makes() {
    let mut missing = Missing::default();
    let key = secret(std::array::from_fn(|at| at as u8));
    let stamp = Stamp { counter: 1, device: DEVICE };
    let keyring = Keyring {
        id_key: secret([0x33; 32]),
        chunker_key: secret([0x44; 32]),
        epochs: vec![Epoch { id: [0x55; 16], key: secret([0x66; 32]) }],
        features: Features::default(),
    };
    let context = Context::new(REPO, keyring);
    let ids = &context.ids;
    let check = crate::crypto::key_check(&key, &REPO);
    let slots = vec![Slot { kind: SLOT_KEY_CHECK, bytes: check.to_vec() }];
    let register = Register::seal(&key, &REPO, stamp, slots, &context.keyring, &Always(0x77));
    missing.need(format!("| key check value | `{}` |", hex(&check)));
    let fox = b"The quick brown fox jumps over the lazy dog.\n".repeat(20);
    assert_eq!(fox.len(), 900);
    let fox_id = ids.chunk_id(&fox);
    missing.need(format!("| chunk id of the 900 bytes of `fox.txt` | `{}` |", hex(&fox_id)));
    for name in ["note.txt", "fox.txt"] {
        let hash = ids.name_hash(name.as_bytes());
        missing.need(format!("| name hash of `{name}` | `{hash:016x}` |"));
    }

    let items = items(ids, fox_id);
    assert!(items.windows(2).all(|pair| pair[0].0.encode() < pair[1].0.encode()));
    let mut leaf = Vec::new();
    for (key, value, record) in &items {
        let boundary = ids.boundary(0, &key.encode()) % 48;
        missing.row(&format!("| `{}` | {record} |", key_hex(key)), &format!(" | {boundary} |"));
        let dot = Dot { writer: Mount::new(1).unwrap(), record: *record };
        let values = vec![Dotted { dot, bytes: value.encode() }];
        leaf.push(MapItem { key: key.encode().into(), values });
    }
    let leaf = Node::MapLeaf(leaf).encode();
    let root = ids.node_id(&leaf);
    missing.need(format!("one leaf of {} bytes", leaf.len()));
    missing.need(format!("`{}`", hex(&root)));

    let features = Features::default();
    let header = Header { features, repo: REPO, register: register.clone() }.encode();
    missing.need(format!("Header, {} bytes, BLAKE3 `{}`", header.len(), hex(&hash(&header))));

    let extension =
        HeadExtension { features, repo: REPO, device: DEVICE, generation: 1, register }.encode();
    let commit = Commit {
        generation: 1,
        time: Timestamp { secs: SECOND, nanos: 0 },
        root: (root, 0),
        news: 1,
        journal: 3,
        inodes: 3,
        bytes: 906,
        device_name: "laptop".into(),
        ..Commit::empty(DEVICE, Mount::new(1).unwrap())
    }
    .encode();
    missing.need(format!("commit {}", commit.len()));
    let material: [&[u8]; 3] = [&REPO, &[0x55; 16], &[0x99; 32]];
    let file = derive(Purpose::FileSeal, &context.keyring.newest().key, &material);
    missing.need(format!("its AES key is\n`{}`", hex(file.expose())));
    let extension_len = extension.len();
    let mut head = Writer::new(&context, Kind::Head, extension, &Always(0x99));
    head.put_frame(Class::Nodes, &leaf, &[(root, 0, leaf.len() as u32)], 0, false);
    head.put_frame(Class::Compressible, &fox, &[(fox_id, 0, 900)], 0, false);
    let first = PREFIX + extension_len;
    let second = first + leaf.len() + 16;
    let third = second + 900 + 16;
    missing.need(format!("| 100 | {extension_len} | extension"));
    missing.need(format!(
        "| {first} | {} | frame 0: the leaf, {} + 16 |",
        leaf.len() + 16,
        leaf.len()
    ));
    missing.need(format!("| {second} | 916 | frame 1: the chunk, 900 + 16 |"));
    let built = head.finish(commit, true);
    let read = |at: usize, salt| {
        let (kind, epoch) = (Kind::Head, [0x55; 16]);
        let prefix = Prefix { kind, epoch, salt, extension: built.bytes[PREFIX..at].to_vec() };
        let sealed = &built.bytes[PLACE_AT..PLACE_AT + PLACE_SEALED];
        context.file_cipher(&prefix).unwrap().open(Domain::Place, 0, sealed).unwrap()
    };
    let place = read(first, [0x99; 32])[..8].try_into().unwrap();
    let place = u64::from_le_bytes(place) as usize;
    missing.need(format!("| {third} | {} | frame 2: padding", grouped(place - third)));
    let rest = built.bytes.len() - place;
    missing.need(format!("| {} | {rest} | directory, {} + 16:", grouped(place), rest - 16));
    let name = Name::Head { device: DEVICE, generation: 1, hash: built.hash };
    let hash = hex(&built.hash);
    missing.need(format!("BLAKE3 of the whole is `{hash}`"));
    missing.need(format!("{}...{}.amb", &hash[..8], &hash[59..]));
    assert!(name.path().starts_with("22222222"));
    assert!(missing.0.is_empty(), "docs/format.md does not show:\n{}", missing.0.join("\n"));
}

/// What later versions store, made from the words of section 16.
#[test]
fn what_later_versions_store_has_the_bytes_of_the_page() {
    let mut missing = Missing::default();
    let (id_key, epoch) = (secret([0x33; 32]), secret([0x66; 32]));
    let dot = Dot { writer: Mount::new(1).unwrap(), record: 3 };
    let mut made = |what: &str, bytes: &[u8]| {
        missing.row(&format!("| {what}"), &format!(" | `{}` |", hex(bytes)));
    };
    let recipe = Recipe {
        form: 1,
        origin: dot,
        size: 900,
        hash: [0x77; 32],
        name: b"fox.crypt15".to_vec(),
        len: 45,
        content: Content::Chunk([0x88; 16]),
    };
    made("recipe of form 1", &Value::Recipe(Box::new(recipe)).encode());

    made("setting `snapshots`", &Retention::new(24, 30, 120).encode());
    made("its key", &Retention::key().encode());

    let row = [&[0; 8][..], &[10, 1], b"phone"].concat();
    let material: [&[u8]; 3] = [&REPO, &[0x55; 16], &[0xaa; 32]];
    let cipher = ValueCipher::new(&derive(Purpose::ChatKeySeal, &epoch, &material));
    let mut sealed = [&[0][..], &[0x55; 16], &[0xaa; 32], &[0x99; 32]].concat();
    cipher.seal(0, &[&REPO[..], &row].concat(), &mut sealed, 49);
    made("chat key of bytes 0x99", &sealed);
    assert_eq!(Key::decode(&row), Ok(Key::Opaque(0, 10, row[9..].to_vec())));

    let key: [u8; 32] = std::array::from_fn(|at| at as u8);
    let mut slot = [&[1, 4][..], &[0xbb; 4], &[0xcc; 32], &[0xee; 32]].concat();
    let material: [&[u8]; 2] = [&REPO, &[0xee; 32]];
    let cipher =
        ValueCipher::new(&derive(Purpose::SecurityKeySeal, &secret([0xdd; 32]), &material));
    let aad = [&REPO[..], &slot].concat();
    let from = slot.len();
    slot.extend(key);
    cipher.seal(0, &aad, &mut slot, from);
    made("slot of type 3", &slot);

    let number = derive(Purpose::LoserNumber, &id_key, &[&REPO]);
    let named = [&FOX.to_be_bytes()[..], &dot.writer.to_bytes(), &dot.record.to_be_bytes()];
    let hashed = blake3::keyed_hash(number.expose(), &named.concat());
    let number = u64::from_le_bytes(hashed.as_bytes()[..8].try_into().unwrap());
    let number = 1 << 62 | number & ((1 << 62) - 1);
    missing.row("| loser number of inode", &format!(" | `{number:016x}` |"));

    let ids = IdKeys::new(&id_key, &secret([0x44; 32]), &REPO);
    let fox = ids.chunk_id(&b"The quick brown fox jumps over the lazy dog.\n".repeat(20));
    let object =
        NewObject { hash: [0xab; 32], kind: Kind::Data, size: 16 << 20, chunks: vec![fox] };
    let mut run = Encoder::new();
    NewObject::encode_all(std::slice::from_ref(&object), &mut run);
    let run = run.finish();
    missing.row("| extra of an index run", &format!(" | `{}` |", hex(&run)));
    assert_eq!(NewObject::decode_run(&run), Ok(vec![object]));
    assert!(missing.0.is_empty(), "docs/format.md does not show:\n{}", missing.0.join("\n"));
}

/// With a comma before the last three digits.
fn grouped(number: usize) -> String {
    if number < 10_000 {
        number.to_string()
    } else {
        format!("{},{:03}", number / 1000, number % 1000)
    }
}
