//! One function for each decoder of bytes from outside: what the targets in
//! `fuzz/` call, and what the tests below replay on `fuzz/corpus`.
//!
//! Every function takes any bytes and must return. What it checks beside that:
//! a value that was read encodes to the bytes it was read from, since an
//! encoding is canonical (`docs/format.md`, "Versions"). Where bytes are sealed
//! or end in a checksum the function seals or sums them, as somebody who has
//! the key can.

use std::sync::{Arc, OnceLock};

use crate::cli::options::MountSettings;
use crate::control;
use crate::crypto::{
    Domain, Purpose, Secret, ValueCipher, derive, format_key, hash, parse_key, resembles_key,
};
use crate::daemon::Call;
use crate::format;
use crate::format::clock;
use crate::format::commit::{self, Commit, Name, NewObject};
use crate::format::container::{
    Class, Codec, Directory, DirectoryPlace, FRAME_MAX, Frame, Kind, PLACE_AT, PLACE_SEALED,
    PREFIX, Prefix, VERSION, version_of,
};
use crate::format::namespace::{Key, ROOT, Value};
use crate::format::node::Node;
use crate::format::record;
use crate::format::register::{Epoch, Features, HeadExtension, Header, Keyring, Register, Stamp};
use crate::format::setting::Retention;
use crate::format::wire::Encoder;
use crate::fs::{Fs, NoLog, Operations, Options as FsOptions, Ownership, Seek};
use crate::io::sim::{SimRandom, SimWorld};
use crate::journal::{Journal, JournalKeys, Options, Replay};
use crate::store::{Context, Reader, Writer};
use crate::sync::{self, OpenOptions};
use crate::vault::protocol::Password;
use crate::volume::World;
use crate::volume::repository::Repository;
use crate::volume::state::State;

mod mounting;
mod vault;

pub use mounting::{acl, helper_options, launch, mountinfo};
pub use vault::{
    ledger, locator, manifest, relay, transfer, vault_keys, vault_mark, vault_note, vault_payload,
    vault_record, vault_reply, vault_request,
};

/// A target's name and function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets, by name.
pub const TARGETS: [Target; 34] = [
    ("acl", acl),
    ("commit", commit),
    ("container", container),
    ("control", control),
    ("device_ledger", device_ledger),
    ("frame", frame),
    ("header", header),
    ("helper_options", helper_options),
    ("journal", journal),
    ("key_text", key_text),
    ("keyring", keyring),
    ("launch", launch),
    ("ledger", ledger),
    ("locator", locator),
    ("manifest", manifest),
    ("mount_options", mount_options),
    ("mountinfo", mountinfo),
    ("name", name),
    ("namespace", namespace),
    ("node", node),
    ("password", password),
    ("record", record),
    ("register", register),
    ("relay", relay),
    ("repository", repository),
    ("state", state),
    ("transfer", transfer),
    ("vault_keys", vault_keys),
    ("vault_mark", vault_mark),
    ("vault_note", vault_note),
    ("vault_payload", vault_payload),
    ("vault_record", vault_record),
    ("vault_reply", vault_reply),
    ("vault_request", vault_request),
];

/// Checks that what `decode` takes has one encoding.
fn canonical<'a, T, E>(
    bytes: &'a [u8],
    decode: impl Fn(&'a [u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    if let Ok(value) = decode(bytes) {
        assert!(encode(&value) == bytes, "another encoding of the same value was taken");
    }
}

/// Splits off the byte that chooses what the rest is.
fn choose(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

fn summed(bytes: &[u8]) -> Vec<u8> {
    [bytes, &hash(bytes)].concat()
}

fn secret(byte: u8) -> Secret {
    Secret::take(&mut [byte; 32])
}

const REPO: [u8; 16] = [0x11; 16];

/// A commit.
pub fn commit(data: &[u8]) {
    canonical(data, Commit::decode, Commit::encode);
}

/// Prefix (0), place (1), directory (2) of a container, or what an index run has beside it (3).
pub fn container(data: &[u8]) {
    let (what, rest) = choose(data);
    match what % 4 {
        0 => {
            if let Ok((mut prefix, extension, place)) = Prefix::decode_fixed(rest) {
                assert_eq!(version_of(rest), Some(VERSION));
                prefix.extension = vec![7; extension];
                let mut again = prefix.encode();
                assert_eq!(again.len(), PREFIX + extension);
                again[PLACE_AT..PLACE_AT + PLACE_SEALED].copy_from_slice(&place);
                assert_eq!(again[..PREFIX], rest[..PREFIX]);
            }
        }
        1 => canonical(rest, DirectoryPlace::decode, |place| place.encode()),
        3 => canonical(rest, NewObject::decode_run, |objects| {
            let mut out = Encoder::new();
            NewObject::encode_all(objects, &mut out);
            out.finish()
        }),
        _ => {
            canonical(rest, Directory::decode, Directory::encode);
            if let Ok(directory) = Directory::decode(rest) {
                directory.frame_offsets(u64::from(u32::MAX));
                assert!(directory.chunks.iter().all(|chunk| directory.find(&chunk.id).is_some()));
            }
        }
    }
}

/// Bytes as a file of REPO.
fn context() -> &'static Context {
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    CONTEXT.get_or_init(|| {
        let epochs = vec![Epoch { id: [0x55; 16], key: secret(0x66) }];
        Context::new(
            REPO,
            Keyring {
                id_key: secret(0x33),
                chunker_key: secret(0x44),
                epochs,
                features: Features::default(),
            },
        )
    })
}

/// A container whose writer has the key: one byte chooses the codec of its only
/// frame and the phase of a raw one, three are the length it claims unpacked, the rest is what it holds.
pub fn frame(data: &[u8]) {
    let Some((head, stored)) = data.split_first_chunk::<4>() else { return };
    let codec = match head[0] % 3 {
        0 => Codec::Raw,
        1 => Codec::Zstd,
        _ => Codec::Padding,
    };
    let claimed = u32::from_le_bytes([head[1], head[2], head[3], 0]).min(FRAME_MAX as u32);
    let plain = if codec == Codec::Zstd { claimed } else { stored.len() as u32 };
    let phase = if codec == Codec::Raw { u16::from(head[0]) * 16 } else { 0 };
    let frame = Frame { codec, class: Class::Pages, stored: stored.len() as u32, plain, phase };
    let directory = Directory { frames: vec![frame], ..Directory::default() };
    let prefix =
        Prefix { kind: Kind::Data, epoch: [0x55; 16], salt: [9; 32], extension: Vec::new() };
    let cipher = context().file_cipher(&prefix).expect("the epoch is known");
    let mut bytes = prefix.encode();
    cipher.seal_segments(Domain::Frame, 0, frame.segments(), stored, &mut bytes);
    let offset = bytes.len() as u64;
    cipher.seal(Domain::Directory, 0, &directory.encode(), &mut bytes);
    let place = DirectoryPlace { offset, len: bytes.len() as u64 - offset };
    let mut sealed = Vec::new();
    cipher.seal(Domain::Place, 0, &place.encode(), &mut sealed);
    bytes[PLACE_AT..PLACE_AT + PLACE_SEALED].copy_from_slice(&sealed);
    let world = SimWorld::new();
    world.put("repo/it", &bytes);
    let Ok(reader) = Reader::open(context(), "it", world.synced("repo"), &[Kind::Data]) else {
        assert!(stored.len() as u64 > FRAME_MAX, "a container was refused");
        return;
    };
    match reader.frame(0) {
        Ok(found) => {
            assert!(found.len() == plain as usize && (codec == Codec::Zstd || found == stored));
        }
        Err(_) => assert_eq!(codec, Codec::Zstd),
    }
    if codec == Codec::Raw && !stored.is_empty() {
        let (from, to) = (u64::from(claimed) % stored.len() as u64, stored.len() as u64);
        let mut found = vec![0; (to - from) as usize];
        reader.raw_range(0, from, &mut found).expect("it was sealed");
        assert!(found == stored[from as usize..]);
    }
}

/// Header (0) and extension of a head (1).
pub fn header(data: &[u8]) {
    let (what, rest) = choose(data);
    if what % 2 == 0 {
        canonical(&summed(rest), Header::decode, Header::encode);
        canonical(rest, Header::decode, Header::encode);
    } else {
        canonical(rest, HeadExtension::decode, HeadExtension::encode);
    }
}

/// A register, with its key checks.
pub fn register(data: &[u8]) {
    canonical(data, Register::decode, Register::encode);
    if let Ok(register) = Register::decode(data) {
        assert!(register.key_checks().count() <= register.slots.len());
        assert!(register.open(&secret(0xee), &REPO).is_err(), "nobody's key");
    }
}

/// The plaintext of a keyring.
pub fn keyring(data: &[u8]) {
    let (key, salt) = (secret(1), [0x77; 32]);
    let mut sealed = data.to_vec();
    let aad = [&REPO[..], &VERSION.to_le_bytes()].concat();
    let cipher = ValueCipher::new(&derive(Purpose::KeyringSeal, &key, &[&REPO, &salt]));
    cipher.seal(0, &aad, &mut sealed, 0);
    let stamp = Stamp { counter: 1, device: [2; 16] };
    let register = Register { stamp, slots: Vec::new(), salt, sealed };
    let Ok((keyring, stamp, slots)) = register.open(&key, &REPO) else { return };
    assert!(keyring.epoch_key(&keyring.newest().id).is_some());
    // What is read can be written again, and is the same then; fields of later
    // versions are gone.
    let again = Register::seal(&key, &REPO, stamp, slots, &keyring, &SimRandom::new(1));
    let Ok((second, stamp, slots)) = again.open(&key, &REPO) else { panic!("just sealed") };
    assert!(stamp == again.stamp && slots == again.slots);
    assert!(second.id_key.expose() == keyring.id_key.expose());
    assert!(second.epochs.len() == keyring.epochs.len());
    assert!(second.features == keyring.features);
}

/// The name of a file in REPO, and of copies of one.
pub fn name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let same = |name: &Name| name.path().rsplit('/').next() == Some(text);
    if let Some(repo) = commit::parse_header_name(text) {
        assert!(same(&Name::Header(repo)) && commit::find_header_name(text) == Some(repo));
    }
    if let Some((generation, hash)) = commit::parse_head_name(text) {
        assert!(same(&Name::Head { device: [1; 16], generation, hash }));
        assert_eq!(commit::find_head_name(text), Some((generation, hash)));
    }
    if let Some(hash) = commit::parse_object_name(text) {
        assert!(same(&Name::Object { device: [1; 16], hash }));
        assert_eq!(commit::find_object_name(text), Some(hash));
    }
    commit::find_header_name(text);
    commit::find_head_name(text);
    commit::find_object_name(text);
}

/// A key of the namespace (0), or the value of a key of each kind.
pub fn namespace(data: &[u8]) {
    let (what, rest) = choose(data);
    let key = match what % 8 {
        0 => return canonical(rest, Key::decode, Key::encode),
        1 => Key::Inode(1),
        2 => Key::Writer(writer()),
        3 => Key::Xattr(1, b"user.a".to_vec()),
        4 => Key::Back(2, 1, b"a".to_vec()),
        5 => Key::Entry(1, 4, b"a".to_vec()),
        6 => Key::Recipe(1),
        _ => Key::Opaque(1, 77, b"a".to_vec()),
    };
    canonical(rest, |bytes| Value::decode(&key, bytes), Value::encode);
}

/// A key of a device's ledger (0), the row of a container (1) or of a kept commit (2), or the setting of
/// what is kept.
pub fn device_ledger(data: &[u8]) {
    let (what, rest) = choose(data);
    match what % 4 {
        3 => canonical(rest, Retention::decode_fields, Retention::encode_fields),
        0 => canonical(rest, format::ledger::Key::decode, format::ledger::Key::encode),
        1 => canonical(rest, format::ledger::Container::decode, format::ledger::Container::encode),
        _ => canonical(rest, format::ledger::Kept::decode, format::ledger::Kept::encode),
    }
}

/// A node of any tree.
pub fn node(data: &[u8]) {
    canonical(data, Node::decode, Node::encode);
    match Node::decode(data) {
        Ok(Node::ContentLeaf(runs)) => {
            let total = runs.iter().try_fold(0u64, |sum, run| sum.checked_add(run.total()));
            assert!(total.is_some_and(|total| total >> 63 == 0), "longer than any file");
        }
        Ok(Node::ContentBranch(_, children)) => {
            let total = children.iter().try_fold(0u64, |sum, child| sum.checked_add(child.len));
            assert!(total.is_some_and(|total| total >> 63 == 0), "longer than any file");
        }
        _ => {}
    }
}

/// A record of changes, as the journal holds it once it is open.
pub fn record(data: &[u8]) {
    canonical(data, record::decode, |(dot, changes)| {
        let (start, data) = record::encode(*dot, changes);
        [&start, data].concat()
    });
}

/// The writer of all that is made here.
fn writer() -> clock::Writer {
    clock::Writer::new(5).expect("39 bits, and not 0")
}

fn journal_keys() -> JournalKeys {
    let epochs = vec![([2; 16], secret(0x52))];
    JournalKeys { repo: [3; 16], device: [4; 16], epoch: [2; 16], epochs }
}

fn open_journal(world: &SimWorld, seed: u64) -> crate::journal::Result<(Journal, Replay)> {
    let options = Options { file_size: 8192, max_total: 1 << 20, reserve: 4096, spares: 1 };
    let random = Arc::new(SimRandom::new(seed));
    Journal::open(world.folder("state"), journal_keys(), 0, random, options)
}

/// A file with records of these lengths, and its path; a flush follows the
/// second.
const RECORDS: [usize; 4] = [0, 10, 700, 33];

fn journal_file() -> &'static (String, Vec<u8>) {
    static FILE: OnceLock<(String, Vec<u8>)> = OnceLock::new();
    FILE.get_or_init(|| {
        let world = SimWorld::new();
        let (journal, _) = open_journal(&world, 1).expect("an empty world");
        for (number, len) in RECORDS.into_iter().enumerate() {
            journal.append(&vec![number as u8; len]).expect("there is room");
            if number == 1 {
                journal.sync(2).expect("nothing fails");
            }
        }
        journal.sync(RECORDS.len() as u64).expect("nothing fails");
        let is_log = |path: &String| path.strip_suffix(".log").is_some();
        let path = world.paths().into_iter().find(is_log).expect("records lie in a file");
        let bytes = world.get(&path).expect("it was listed");
        (path, bytes)
    })
}

/// A journal file: the bytes (0), a good header with the bytes behind it (1),
/// or a good file with pieces of it changed (2).
pub fn journal(data: &[u8]) {
    let (what, rest) = choose(data);
    let (path, mut file) = journal_file().clone();
    match what % 3 {
        0 => file = rest.to_vec(),
        1 => {
            file.truncate(4096);
            file.extend_from_slice(rest);
        }
        _ => {
            for change in rest.chunks_exact(3) {
                let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % file.len();
                file[at] ^= change[2];
            }
        }
    }
    let world = SimWorld::new();
    world.folder("state");
    world.put(&path, &file);
    // Whatever was done to the file, what comes out of it is what went in, from
    // the start and without a gap.
    if let Ok((_, replay)) = open_journal(&world, 2) {
        assert!(replay.records.len() <= RECORDS.len());
        for (number, (sequence, bytes)) in replay.records.iter().enumerate() {
            assert_eq!(*sequence, number as u64 + 1);
            assert!(*bytes == vec![number as u8; RECORDS[number]]);
        }
    }
}

/// Stands in [`repository`] for the id of its content node.
const CONTENT: [u8; 16] = [0xaa; 16];
/// Stands there for the id of the chunk in its head.
const CHUNK: [u8; 16] = [0xbb; 16];
const DEVICE: [u8; 16] = [0x22; 16];

fn replaced(bytes: &[u8], from: [u8; 16], to: [u8; 16]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for at in 0..out.len().saturating_sub(15) {
        if out[at..at + 16] == from {
            out[at..at + 16].copy_from_slice(&to);
        }
    }
    out
}

/// A repository of which somebody with the key wrote the only head: a byte for
/// the level of the root, the length of the root in two, the root, and a node
/// of a content tree. All of it is walked and read.
pub fn repository(data: &[u8]) {
    walked(data);
}

/// How many names are in it.
fn walked(data: &[u8]) -> usize {
    static REGISTER: OnceLock<Register> = OnceLock::new();
    let Some((start, rest)) = data.split_first_chunk::<3>() else { return 0 };
    let len = usize::from(u16::from_le_bytes([start[1], start[2]])).min(rest.len());
    let (root, content) = rest.split_at(len);
    let ids = &context().ids;
    let chunk: Vec<u8> = (0..900u32).map(|at| at as u8).collect();
    let content = replaced(content, CHUNK, ids.chunk_id(&chunk));
    let root = replaced(root, CHUNK, ids.chunk_id(&chunk));
    let root = replaced(&root, CONTENT, ids.node_id(&content));
    let nodes_fit = root.len().max(content.len()) <= FRAME_MAX as usize;
    if root.is_empty() || content.is_empty() || !nodes_fit || root == content {
        return 0;
    }
    let stamp = Stamp { counter: 1, device: DEVICE };
    let register = REGISTER.get_or_init(|| {
        let random = SimRandom::new(1);
        Register::seal(&secret(1), &REPO, stamp, Vec::new(), &context().keyring, &random)
    });
    let features = Features::default();
    let extension = HeadExtension {
        features,
        repo: REPO,
        device: DEVICE,
        generation: 1,
        register: register.clone(),
    };
    let mut head =
        Writer::new(context(), Kind::Head, extension.encode(), &SimRandom::new(data.len() as u64));
    head.add(Class::Nodes, ids.node_id(&root), 0, &root);
    head.add(Class::Nodes, ids.node_id(&content), 0, &content);
    head.add(Class::Pages, ids.chunk_id(&chunk), 0, &chunk);
    let commit = Commit {
        generation: 1,
        news: 1,
        root: (ids.node_id(&root), start[0] % 3),
        inodes: 3,
        bytes: 3,
        device_name: "other".into(),
        ..Commit::empty(DEVICE, writer())
    };
    let built = head.finish(commit.encode(), false);
    let world = SimWorld::new();
    let folder = world.synced("repo");
    let header = Header { features, repo: REPO, register: register.clone() };
    let name = Name::Head { device: DEVICE, generation: 1, hash: built.hash };
    world.put(&format!("repo/{}", Name::Header(REPO).path()), &header.encode());
    world.put(&format!("repo/{}", name.path()), &built.bytes);
    let repository = Repository::find(&*folder).expect("header and head are good");
    let (keyring, register, _) = repository.unlock(&secret(1)).expect("it is the key");
    let outside = World {
        repo: folder,
        state: None,
        clock: world.clock(),
        random: Arc::new(SimRandom::new(2)),
    };
    let opened = Arc::new(Context::new(REPO, keyring));
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let Ok(volume) = sync::open(outside, &repository, opened, register, &options) else {
        return 0;
    };
    let ownership =
        Ownership { uid: 1, gid: 1, record_self: true, force_uid: None, force_gid: None };
    let options = FsOptions { read_only: true, ownership };
    Fs::new(volume, Box::new(NoLog), options).map_or(0, |fs| visit(&fs))
}

/// Asks a file system for everything there is; returns the number of names.
fn visit(fs: &Fs) -> usize {
    let mut count = 0;
    let mut folders = vec![ROOT];
    let mut seen = std::collections::HashSet::new();
    while let Some(dir) = folders.pop() {
        if !seen.insert(dir) {
            continue;
        }
        let mut found = Vec::new();
        // Some of it may be damaged: the rest is asked for all the same.
        let _ = fs.readdir(dir, 0, true, &mut |entry| {
            found.push(entry.clone());
            found.len() < 1000
        });
        for entry in found.iter().filter(|entry| entry.cookie > 2) {
            count += 1;
            let ino = entry.attr.ino;
            assert!(!entry.name.contains(&b'/') && entry.name != b"..");
            if fs.lookup(dir, &entry.name).is_ok() {
                fs.forget(ino, 1);
            }
            let _ = fs.readlink(ino);
            for name in fs.listxattr(ino).unwrap_or_default() {
                let _ = fs.getxattr(ino, &name);
            }
            let size = entry.attr.size;
            if fs.open(ino, false, false).is_ok() {
                for at in [0, 900, size / 2, size.saturating_sub(1), u64::MAX] {
                    let bytes = fs.read(ino, at, 5000).unwrap_or_default();
                    assert!(bytes.len() as u64 <= size.saturating_sub(at).min(5000));
                    for what in [Seek::Data, Seek::Hole] {
                        let found = fs.seek(ino, at, what).unwrap_or(size);
                        assert!(found <= size && found >= at.min(size));
                    }
                }
                fs.release(ino, false);
            }
            folders.push(ino);
        }
    }
    count
}

/// The record of local state.
pub fn state(data: &[u8]) {
    canonical(&summed(data), State::decode, State::encode);
    canonical(data, State::decode, State::encode);
}

/// The 64-digit key as text.
pub fn key_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = parse_key(text) {
        assert!(resembles_key(text));
        let Ok(again) = parse_key(&format_key(&key)) else { panic!("just written") };
        assert!(key.expose() == again.expose());
    }
}

/// What a command asks a daemon (0), and what it answers (1).
pub fn control(data: &[u8]) {
    let (what, rest) = choose(data);
    match what % 3 {
        0 => canonical(rest, control::Request::decode, control::Request::encode),
        1 => canonical(rest, control::Reply::decode, control::Reply::encode),
        _ => canonical(rest, Call::decode, Call::encode),
    }
}

/// The `-o` options of `mount`, one list a line.
pub fn mount_options(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lists: Vec<String> = text.lines().map(str::to_string).collect();
    let joined = MountSettings::parse(&[lists.join(",")]);
    match (MountSettings::parse(&lists), joined) {
        (Ok(apart), Ok(joined)) => {
            assert_eq!(format!("{apart:?}"), format!("{joined:?}"));
            assert!(apart.device.is_none() || apart.mount.read_only);
        }
        (Err(_), Err(_)) => {}
        _ => panic!("several -o are not what one is"),
    }
}

/// A new password.
pub fn password(data: &[u8]) {
    if let Ok(password) = Password::new(data) {
        // Refused or not; estimating must come to an end.
        let _ = password.check_new();
    }
}

#[cfg(test)]
mod seeds;
#[cfg(test)]
mod seeds_vault;
#[cfg(test)]
mod tests;
