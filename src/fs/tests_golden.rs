//! A repository of this version with everything in it (`tests/golden`): whatever program comes
//! later has to open it.
//!
//! With `AMBERFS_WRITE_GOLDEN=1` it is made anew; that is right only for as long as nobody has a
//! repository.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::tests::ME;
use super::*;
use crate::crypto::{Secret, hash, hex, random_id};
use crate::format::clock::{Dot, Seen};
use crate::format::namespace::{Recipe, XATTR_MAX, XattrState};
use crate::io::{DirFolder, DirSynced, SystemClock, SystemRandom};
use crate::store::Context;
use crate::sync::{self, OpenOptions};
use crate::volume::repository::{Repository, init};
use crate::volume::{Changes, World};

const WRITE: &str = "AMBERFS_WRITE_GOLDEN";
/// Bytes of the key.
const K: [u8; 32] = [7; 32];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn key() -> Secret {
    Secret::take(&mut K.clone())
}

/// Opens `repo`: for writing, with the local state in `state`; else for reading.
fn open(repo: &Path, state: Option<&Path>) -> Fs {
    let folder = Arc::new(DirSynced::new(repo.to_owned(), None));
    let repository = Repository::find(&*folder).unwrap();
    let (keyring, register, _) = repository.unlock(&key()).unwrap();
    let world = World {
        repo: folder,
        state: state.map(|state| Arc::new(DirFolder::new(state.to_owned())) as _),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    };
    let context = Arc::new(Context::new(repository.repo, keyring));
    let device_name = state
        .map_or("none".into(), |state| state.file_name().unwrap().to_string_lossy().into_owned());
    let read_only = state.is_none();
    let options = OpenOptions { device_name, read_only, ..OpenOptions::default() };
    let volume = sync::open(world, &repository, context, register, &options).unwrap();
    let ownership =
        Ownership { uid: 1000, gid: 1000, record_self: true, force_uid: None, force_gid: None };
    Fs::new(volume, Box::new(NoLog), Options { read_only, ownership }).unwrap()
}

fn file(fs: &Fs, dir: Ino, name: &[u8], bytes: &[u8]) -> Ino {
    let ino = fs.mknod(ME, dir, name, 0o100_644, 0).unwrap().ino;
    fs.write(ino, 0, bytes, false).unwrap();
    ino
}

fn text(lines: u32) -> Vec<u8> {
    (0..lines).flat_map(|line| format!("line {line} of a long text\n").into_bytes()).collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
    bytes
}

/// What a first device writes, in two mounts.
fn first_device(open: &dyn Fn() -> Fs) {
    let fs = open();
    let dir = fs.mkdir(ME, ROOT, b"chats", 0o755).unwrap().ino;
    let small = file(&fs, dir, b"small.txt", b"hello\n");
    fs.link(small, ROOT, b"the same.txt").unwrap();
    fs.symlink(ME, ROOT, b"link", b"chats/small.txt").unwrap();
    fs.mknod(ME, ROOT, b"pipe", 0o010_600, 0).unwrap();
    file(&fs, ROOT, &[b'n'; 255], b"a long name");
    // More than a head takes: an object, and a content tree of two levels.
    file(&fs, dir, b"long.txt", &text(60_000));
    file(&fs, dir, b"photo.jpg", &noise(50_000));
    // Of several chunks, of which the second begins within a page.
    file(&fs, dir, b"video.mp4", &noise(500_000));
    let sparse = file(&fs, dir, b"sparse", b"start");
    fs.write(sparse, 8 << 20, b"end", false).unwrap();
    let database = [&b"SQLite format 3\0\x10\0"[..], &[0; 8174], &[1; 16384]].concat();
    file(&fs, dir, b"chat.db", &database);
    for number in 0..300u32 {
        file(&fs, dir, format!("message {number}").as_bytes(), &number.to_le_bytes());
    }
    fs.setxattr(small, b"user.note", b"short", 0).unwrap();
    fs.setxattr(small, b"user.long", &noise(XATTR_MAX), 0).unwrap();
    fs.setxattr(small, b"user.gone", b"gone", 0).unwrap();
    fs.checkpoint().unwrap();
    drop(fs);

    let fs = open();
    let chats = fs.lookup(ROOT, b"chats").unwrap().ino;
    let small = fs.lookup(chats, b"small.txt").unwrap().ino;
    fs.removexattr(small, b"user.gone").unwrap();
    fs.write(small, 0, b"HELLO", false).unwrap();
    fs.setattr(small, &SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
    file(&fs, chats, b"chat.db-wal", b"a log");
    file(&fs, chats, b"photo.tmp", &noise(300));
    fs.rename((chats, b"photo.tmp"), (chats, b"photo.jpg"), RenameMode::Replace).unwrap();
    fs.unlink(chats, b"message 7").unwrap();
    fs.checkpoint().unwrap();
    later_values(&fs, small);
}

/// Values that only later versions make.
fn later_values(fs: &Fs, ino: Ino) {
    let volume = &fs.volume;
    let dot = fs.take_dot(&mut fs.lock());
    let content = b"a recipe, as some later version makes one".repeat(20);
    let id = volume.store.context().ids.chunk_id(&content);
    volume.store.stage(crate::format::container::Class::Compressible, id, &content).unwrap();
    let recipe = Recipe {
        form: 1,
        origin: dot,
        size: 900,
        hash: [0x77; 32],
        name: b"small.txt.crypt15".to_vec(),
        len: content.len() as u64,
        content: Content::Chunk(id),
    };
    let setting = [&[0][..], &[1, 1, 24, 2, 1, 30, 3, 1, 120]].concat();
    let opaque = |ino: Ino, kind, rest: &[u8], bytes: &[u8]| {
        (Key::Opaque(ino, kind, rest.to_vec()), Value::Opaque(bytes.to_vec()))
    };
    let Some(Value::Inode(mut inode)) = volume.tree().get(&Key::Inode(ino)).unwrap() else {
        panic!()
    };
    inode.unknown = vec![(40, b"a field of later".to_vec())];
    let values = [
        (Key::Inode(ino), Value::Inode(inode)),
        (Key::Recipe(ino), Value::Recipe(Box::new(recipe))),
        opaque(ino, 60, b"", b"a kind of later"),
        opaque(0, 9, b"snapshots", &setting),
        opaque(0, 10, b"\x01phone", &[9; 97]),
    ];
    let edits: BTreeMap<_, _> =
        values.into_iter().map(|(key, value)| (key.encode(), Some((dot, value)))).collect();
    let mut seen = Seen::default();
    seen.add(dot);
    let changes = Changes { edits: edits.into_iter().collect(), seen, ..Changes::default() };
    let changes = volume.stamp(changes).unwrap();
    let commit = volume.base().commit.clone();
    volume.checkpoint(changes, (commit.inodes, commit.bytes), commit.journal, &[]).unwrap();
}

/// What a second device adds, which stands on the head of the first.
fn second_device(fs: &Fs) {
    let chats = fs.lookup(ROOT, b"chats").unwrap().ino;
    file(fs, chats, b"from another.txt", b"written elsewhere\n");
    let long = fs.lookup(chats, b"long.txt").unwrap().ino;
    fs.write(long, 100_000, b"changed elsewhere", false).unwrap();
    fs.checkpoint().unwrap();
}

fn paths(fs: &Fs, dir: Ino, at: &str, found: &mut BTreeMap<String, String>) {
    let mut entries = Vec::new();
    fs.readdir(dir, 0, true, &mut |entry| {
        entries.push((String::from_utf8_lossy(&entry.name).into_owned(), entry.attr));
        true
    })
    .unwrap();
    for (name, attr) in entries.into_iter().filter(|(name, _)| name != "." && name != "..") {
        let path = format!("{at}{name}");
        let content = match attr.mode & 0o170_000 {
            0o100_000 => {
                fs.open(attr.ino, false, false).unwrap();
                let bytes = fs.read(attr.ino, 0, attr.size as u32).unwrap();
                assert_eq!(bytes.len() as u64, attr.size);
                fs.release(attr.ino, false);
                hex(&hash(&bytes)[..16])
            }
            0o120_000 => String::from_utf8(fs.readlink(attr.ino).unwrap()).unwrap(),
            _ => String::new(),
        };
        let times = attr.mtime.secs;
        let (mode, links, size, blocks) = (attr.mode, attr.nlink, attr.size, attr.blocks);
        let line = format!("{mode:06o} {links} {size} {blocks} {times} {content}");
        if attr.mode & 0o170_000 == 0o040_000 {
            paths(fs, attr.ino, &format!("{path}/"), found);
        }
        found.insert(path, line);
    }
}

fn tree(fs: &Fs) -> String {
    let mut found = BTreeMap::new();
    paths(fs, ROOT, "", &mut found);
    let lines: Vec<String> =
        found.into_iter().map(|(path, line)| format!("{line} {path}\n")).collect();
    lines.concat()
}

#[test]
fn the_golden_repository_opens_and_has_everything() {
    let (repo, listing) = (golden().join("repo"), golden().join("tree.txt"));
    if std::env::var_os(WRITE).is_some() {
        let _ = std::fs::remove_dir_all(&repo);
        std::fs::create_dir_all(&repo).unwrap();
        let states = tempfile::tempdir().unwrap();
        let state = |name: &str| {
            let state = states.path().join(name);
            std::fs::create_dir_all(&state).unwrap();
            state
        };
        let folder = DirSynced::new(repo.clone(), None);
        init(&folder, &key(), random_id(&SystemRandom), [1; 16], Vec::new(), &SystemRandom)
            .unwrap();
        first_device(&|| open(&repo, Some(&state("first"))));
        second_device(&open(&repo, Some(&state("second"))));
        std::fs::write(&listing, tree(&open(&repo, None))).unwrap();
    }
    let fs = open(&repo, None);
    assert_eq!(tree(&fs), std::fs::read_to_string(&listing).unwrap());
    assert!(fs.volume.notices.is_empty(), "{:?}", fs.volume.notices);

    let chats = fs.lookup(ROOT, b"chats").unwrap().ino;
    let small = fs.lookup(chats, b"small.txt").unwrap().ino;
    assert_eq!(fs.getxattr(small, b"user.note").unwrap(), b"short");
    assert_eq!(fs.getxattr(small, b"user.long").unwrap(), noise(XATTR_MAX));
    assert_eq!(fs.getxattr(small, b"user.gone"), Err(FsError::NoData));
    let photo = fs.lookup(chats, b"photo.jpg").unwrap().ino;
    let wal = fs.lookup(chats, b"chat.db-wal").unwrap().ino;
    let database = fs.lookup(chats, b"chat.db").unwrap().ino;

    // Of everything that has no place in a listing.
    let (mut kinds, mut dots) = (BTreeMap::<u8, usize>::new(), HashMap::<Ino, Dot>::new());
    let mut inodes = HashMap::new();
    let mut removed = 0;
    fs.volume
        .tree()
        .scan_items(&[], &mut |item| {
            *kinds.entry(item.key[8]).or_default() += 1;
            let key = Key::decode(&item.key).unwrap();
            let value = Value::decode(&key, &item.values[0].bytes).unwrap();
            match value {
                Value::Inode(inode) => {
                    dots.insert(key.ino(), item.values[0].dot);
                    inodes.insert(key.ino(), inode);
                }
                Value::Xattr(xattr) if xattr.state == XattrState::Removed => removed += 1,
                Value::Recipe(recipe) => {
                    let bytes = fs.volume.read_beside(recipe.len, recipe.content).unwrap();
                    assert!(bytes.starts_with(b"a recipe, as some later"));
                }
                _ => {}
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(removed, 1);
    let expected = [(1, 312), (3, 3), (4, 312), (5, 312), (6, 1), (7, 3), (9, 1), (10, 1), (60, 1)];
    assert_eq!(kinds, BTreeMap::from(expected));
    let history = |ino: Ino| &inodes[&ino].history;
    assert!(!history(small).content.is_empty() && !history(small).attributes.is_empty());
    assert_eq!(inodes[&small].unknown, [(40, b"a field of later".to_vec())]);
    assert_eq!(history(photo).over.len(), 1);
    let origin = history(database).content.origin(dots[&database]);
    assert_eq!(history(wal).main, Some((database, origin)));
    let commit = &fs.volume.base().commit;
    assert_eq!(commit.device_name, "second");
}
