//! The file system without a kernel: operations, checkpoints and reopening,
//! against a model.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::crypto::{Secret, random_id};
use crate::io::{DirFolder, DirSynced, SystemClock, SystemRandom};
use crate::store::Context;
use crate::sync::{self, OpenOptions};
use crate::volume::World;
use crate::volume::repository::{Repository, init};

pub(super) struct Place {
    dir: tempfile::TempDir,
    key: Secret,
}

impl Place {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["repo", "state"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let key = Secret::random(&SystemRandom);
        let folder = DirSynced::new(dir.path().join("repo"), None);
        init(&folder, &key, random_id(&SystemRandom), [1; 16], Vec::new(), &SystemRandom).unwrap();
        Self { dir, key }
    }

    pub(super) fn open(&self) -> Fs {
        self.open_with(Box::new(NoLog))
    }

    /// Opens as after a crash: with the records that `log` kept.
    pub(super) fn recover(&self, log: &Arc<Kept>) -> Fs {
        let fs = self.open_with(Box::new(log.clone()));
        let records = std::mem::take(&mut *log.records.lock().unwrap());
        let contained = fs.volume().state().journal;
        for (sequence, record) in &records {
            if *sequence > contained {
                fs.replay(*sequence, record).unwrap();
            }
        }
        *log.records.lock().unwrap() = records;
        fs
    }

    pub(super) fn open_with(&self, log: Box<dyn Log>) -> Fs {
        let folder = Arc::new(DirSynced::new(self.dir.path().join("repo"), None));
        let repository = Repository::find(&*folder).unwrap();
        let (keyring, register, _) = repository.unlock(&self.key).unwrap();
        let world = World {
            repo: folder,
            state: Some(Arc::new(DirFolder::new(self.dir.path().join("state")))),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        };
        let context = Arc::new(Context::new(repository.repo, keyring));
        let options = OpenOptions { device_name: "test".into(), ..OpenOptions::default() };
        let volume = sync::open(world, &repository, context, register, &options).unwrap();
        let ownership =
            Ownership { uid: 1000, gid: 1000, record_self: true, force_uid: None, force_gid: None };
        Fs::new(volume, log, Options { read_only: false, ownership }).unwrap()
    }
}

/// A log in memory that outlives the file system, as a journal outlives a
/// crash.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) records: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl Log for Arc<Kept> {
    fn append(&self, record: &[&[u8]], _: bool) -> std::io::Result<u64> {
        let mut records = self.records.lock().unwrap();
        let sequence = records.last().map_or(1, |last| last.0 + 1);
        records.push((sequence, record.concat()));
        Ok(sequence)
    }
    fn reserve_room(&self, len: usize, _: bool) -> std::io::Result<u64> {
        Ok(len as u64)
    }
    fn cancel_reservation(&self, _: u64) {}
    fn append_reserved(&self, record: &[&[u8]], _: u64) -> std::io::Result<u64> {
        self.append(record, false)
    }
    fn write_out(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn sync(&self, _: u64) -> std::io::Result<()> {
        Ok(())
    }
    fn rotate(&self) -> std::io::Result<u64> {
        Ok(self.records.lock().unwrap().last().map_or(0, |last| last.0))
    }
    fn last(&self) -> u64 {
        0
    }
    fn release(&self, _: u64) -> std::io::Result<()> {
        Ok(())
    }
    fn bytes(&self) -> u64 {
        0
    }
}

pub(super) const ME: Caller = Caller { uid: 1000, gid: 1000 };

fn names(fs: &Fs, dir: Ino) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    fs.readdir(dir, 0, true, &mut |entry| {
        found.push(entry.name.clone());
        true
    })
    .unwrap();
    let mut found = found.split_off(2);
    found.sort();
    found
}

#[test]
fn a_tree_survives_a_checkpoint_and_reopening() {
    let place = Place::new();
    let big: Vec<u8> = (0..3_000_000u32).flat_map(|i| (i ^ i >> 7).to_le_bytes()).collect();
    {
        let fs = place.open();
        let dir = fs.mkdir(ME, ROOT, b"photos", 0o755).unwrap().ino;
        for index in 0..1000u32 {
            let name = format!("IMG-{index:04}.jpg");
            let file = fs.mknod(ME, dir, name.as_bytes(), 0o100_644, 0).unwrap().ino;
            let bytes = index.to_le_bytes().repeat(index as usize * 10);
            fs.write(file, 0, &bytes, false).unwrap();
        }
        let file = fs.mknod(ME, ROOT, b"big", 0o100_600, 0).unwrap().ino;
        for (index, piece) in big.chunks(1 << 20).enumerate() {
            fs.write(file, (index << 20) as u64, piece, false).unwrap();
        }
        fs.symlink(ME, ROOT, b"link", b"photos/IMG-0001.jpg").unwrap();
        fs.link(file, dir, b"again").unwrap();
        fs.setxattr(file, b"user.note", b"hello", 0).unwrap();
        fs.checkpoint().unwrap().unwrap();
        assert!(fs.checkpoint().unwrap().is_none());
    }
    let fs = place.open();
    assert_eq!(names(&fs, ROOT), [&b"big"[..], b"link", b"photos"]);
    let dir = fs.lookup(ROOT, b"photos").unwrap();
    assert_eq!((dir.uid, dir.nlink), (1000, 2));
    assert_eq!(names(&fs, dir.ino).len(), 1001);
    for index in [0u32, 5, 6, 25, 26, 500, 999] {
        let name = format!("IMG-{index:04}.jpg");
        let file = fs.lookup(dir.ino, name.as_bytes()).unwrap();
        let bytes = index.to_le_bytes().repeat(index as usize * 10);
        assert_eq!(file.size, bytes.len() as u64);
        assert_eq!(fs.read(file.ino, 0, 1 << 20).unwrap(), bytes);
    }
    let file = fs.lookup(ROOT, b"big").unwrap();
    assert_eq!(file.nlink, 2);
    assert_eq!(fs.lookup(dir.ino, b"again").unwrap().ino, file.ino);
    assert_eq!(fs.getxattr(file.ino, b"user.note").unwrap(), b"hello");
    let mut read = Vec::new();
    while read.len() < big.len() {
        read.extend(fs.read(file.ino, read.len() as u64, 300_000).unwrap());
    }
    assert!(read == big);
    let link = fs.lookup(ROOT, b"link").unwrap();
    assert_eq!(fs.readlink(link.ino).unwrap(), b"photos/IMG-0001.jpg");
}

#[test]
fn an_unlinked_open_file_lives_until_it_is_closed() {
    let place = Place::new();
    let fs = place.open();
    let ino = fs.mknod(ME, ROOT, b"gone", 0o100_644, 0).unwrap().ino;
    fs.open(ino, true, false).unwrap();
    fs.write(ino, 0, b"before", false).unwrap();
    fs.unlink(ROOT, b"gone").unwrap();
    fs.write(ino, 6, b" after", false).unwrap();
    fs.checkpoint().unwrap();
    assert_eq!(fs.read(ino, 0, 100).unwrap(), b"before after");
    assert_eq!(fs.getattr(ino).unwrap().nlink, 0);
    fs.forget(ino, 1);
    fs.release(ino, true);
    assert_eq!(fs.getattr(ino), Err(FsError::Stale));
}

/// The kernel knows a file long after it was closed. Each took 350 bytes here for
/// as long, which a million of them made too much.
#[test]
fn what_is_closed_and_stored_leaves_memory_though_the_kernel_knows_it() {
    let place = Place::new();
    let fs = place.open();
    let files: Vec<(Ino, Vec<u8>)> = (0..600u32)
        .map(|number| {
            let ino = fs.mknod(ME, ROOT, format!("{number}").as_bytes(), 0o100_644, 0).unwrap().ino;
            let bytes = number.to_le_bytes().repeat(number as usize);
            fs.open(ino, true, false).unwrap();
            fs.write(ino, 0, &bytes, false).unwrap();
            (ino, bytes)
        })
        .collect();
    for (ino, _) in &files[1..] {
        fs.release(*ino, true);
    }
    // Nobody can look it up again, so its content stays.
    let (orphan, orphan_bytes) = &files[500];
    fs.unlink(ROOT, b"500").unwrap();
    fs.checkpoint().unwrap();
    let mut kept: Vec<Ino> = fs.lock().files.keys().copied().collect();
    kept.sort_unstable();
    let mut expected = vec![files[0].0, *orphan];
    expected.sort_unstable();
    assert_eq!(kept, expected, "one is open, one has no name");
    assert!(fs.lock().files.capacity() < 100);
    for (ino, bytes) in &files {
        assert_eq!(fs.getattr(*ino).unwrap().size, bytes.len() as u64);
        assert_eq!(fs.read(*ino, 0, 4096).unwrap(), bytes[..bytes.len().min(4096)]);
    }
    assert_eq!(fs.read(*orphan, 0, 4096).unwrap(), orphan_bytes[..]);
    fs.forget(*orphan, 1);
    assert!(!fs.lock().files.contains_key(orphan));
}

/// The kernel writes back times of a file after its last name is gone. The
/// journal had that change after the removal, so a crash brought the inode back
/// without a name.
#[test]
fn a_crash_does_not_bring_back_an_unlinked_inode() {
    let place = Place::new();
    let log = Arc::new(Kept::default());
    let fs = place.open_with(Box::new(log.clone()));
    let ino = fs.mknod(ME, ROOT, b"gone", 0o100_644, 0).unwrap().ino;
    fs.open(ino, true, false).unwrap();
    fs.unlink(ROOT, b"gone").unwrap();
    fs.write(ino, 0, b"after", false).unwrap();
    fs.setattr(ino, &SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
    fs.setxattr(ino, b"user.x", b"y", 0).unwrap();
    drop(fs);
    let fs = place.recover(&log);
    fs.checkpoint().unwrap();
    let mut keys = Vec::new();
    fs.volume()
        .tree()
        .scan(&[], &mut |key, _| {
            keys.push(key);
            ControlFlow::Continue(())
        })
        .unwrap();
    keys.retain(|key| !matches!(key, Key::Writer(_)));
    assert_eq!(keys, [Key::Inode(ROOT)]);
}

/// A file that was partly overwritten while its old bytes could not be read
/// kept every later change of the whole mount out of REPO, until it was removed.
#[test]
fn a_file_that_cannot_be_stored_keeps_nothing_else_back() {
    let place = Place::new();
    let log = Arc::new(Kept::default());
    let fs = place.open_with(Box::new(log.clone()));
    let file = |name: &[u8]| fs.mknod(ME, ROOT, name, 0o100_644, 0).unwrap().ino;
    let (torn, short) = (file(b"torn"), file(b"short"));
    let old = fill(3_000_000, 1);
    fs.write(torn, 0, &old, false).unwrap();
    fs.write(short, 0, &old[1..], false).unwrap();
    fs.checkpoint().unwrap();
    drop(fs);
    // As a sync client does that has not brought the objects yet.
    let away = place.dir.path().join("away");
    std::fs::create_dir(&away).unwrap();
    let objects = objects_of(&place.dir.path().join("repo"));
    assert!(!objects.is_empty());
    for (number, path) in objects.iter().enumerate() {
        std::fs::rename(path, away.join(number.to_string())).unwrap();
    }

    let fs = place.recover(&log);
    fs.write(torn, 1_000_000, b"overwritten", false).unwrap();
    fs.write(torn, 4_000_000, b"beyond", false).unwrap();
    let resize = |size| SetAttr { size: Some(size), ..SetAttr::default() };
    fs.setattr(short, &resize(1_500_000)).unwrap();
    fs.setattr(short, &resize(1_600_000)).unwrap();
    fs.write(short, 1_550_000, b"late", false).unwrap();
    let good = fs.mknod(ME, ROOT, b"good", 0o100_644, 0).unwrap().ino;
    fs.write(good, 0, &fill(50_000, 3), false).unwrap();
    fs.rename((ROOT, b"torn"), (ROOT, b"renamed"), RenameMode::NoReplace).unwrap();
    let before = fs.volume().base().commit.generation;
    assert_eq!(fs.checkpoint().unwrap_err(), FsError::NotHere);
    assert_eq!(fs.volume().base().commit.generation, before + 1);
    let sizes = |fs: &Fs| [torn, short, good].map(|ino| fs.getattr(ino).unwrap().size);
    assert_eq!(sizes(&fs), [4_000_006, 1_600_000, 50_000]);
    fs.write(torn, 1_000_004, b"twice", false).unwrap();
    // The folder alone has all but these contents.
    let folder = place.open();
    assert_eq!(sizes(&folder), [3_000_000, 2_999_999, 50_000]);
    assert!(folder.read(good, 0, 50_000).unwrap() == fill(50_000, 3));
    assert_eq!(folder.lookup(ROOT, b"renamed").unwrap().ino, torn);
    drop((fs, folder));

    // After a crash nothing of it is lost, and the objects have come.
    let mut expected = old.clone();
    expected[1_000_000..1_000_011].copy_from_slice(b"overtwiceen");
    expected.resize(4_000_000, 0);
    expected.extend_from_slice(b"beyond");
    let mut expected_short = old[1..1_500_001].to_vec();
    expected_short.resize(1_600_000, 0);
    expected_short[1_550_000..1_550_004].copy_from_slice(b"late");
    let all = |fs: &Fs| {
        assert_eq!(sizes(fs), [4_000_006, 1_600_000, 50_000]);
        assert!(fs.read(torn, 0, 5_000_000).unwrap() == expected);
        assert!(fs.read(short, 0, 5_000_000).unwrap() == expected_short);
    };
    let fs = place.recover(&log);
    assert_eq!(fs.read(torn, 1_000_000, 11).unwrap(), b"overtwiceen");
    assert_eq!(fs.checkpoint().unwrap_err(), FsError::NotHere);
    drop(fs);
    for (number, path) in objects.iter().enumerate() {
        std::fs::rename(away.join(number.to_string()), path).unwrap();
    }
    let fs = place.recover(&log);
    all(&fs);
    fs.checkpoint().unwrap();
    all(&fs);
    drop(fs);
    all(&place.open());
}

fn objects_of(repo: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![repo.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.components().any(|part| part.as_os_str() == "obj") {
                found.push(path);
            }
        }
    }
    found
}

/// A chmod while a checkpoint ran was journaled with the file's content from
/// before the checkpoint. After a crash its replay put that content back over
/// the new commit, and the file read as zeros.
#[test]
fn a_change_during_a_checkpoint_keeps_the_content_after_a_crash() {
    let place = Place::new();
    let log = Arc::new(Kept::default());
    let fs = place.open_with(Box::new(log.clone()));
    let ino = fs.mknod(ME, ROOT, b"file", 0o100_644, 0).unwrap().ino;
    let bytes = fill(500_000, 1);
    fs.write(ino, 0, &bytes, false).unwrap();
    let (overlay, files, counts, sequence) = fs.freeze(false, true).unwrap().unwrap();
    fs.setattr(ino, &SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
    fs.link(ino, ROOT, b"again").unwrap();
    let made = fs.publish(&overlay, &files, counts, sequence).unwrap();
    fs.discard_frozen(files, made.contents).unwrap();
    drop(fs);
    let fs = place.recover(&log);
    let attr = fs.lookup(ROOT, b"again").unwrap();
    assert_eq!((attr.mode, attr.nlink), (0o100_600, 2));
    assert!(fs.read(ino, 0, 1 << 20).unwrap() == bytes);
    fs.checkpoint().unwrap();
    let fs = place.open();
    assert!(fs.read(ino, 0, 1 << 20).unwrap() == bytes);
}

/// What was changed here and there in a file was cut each time it came to 8 MiB,
/// every time with all that lies around it, in one buffer as long as the file: a
/// burst of random writes took the daemon to 450 MiB.
#[test]
fn scattered_changes_are_cut_together_and_in_windows() {
    let place = Place::new();
    let fs = place.open();
    let ino = fs.mknod(ME, ROOT, b"file", 0o100_644, 0).unwrap().ino;
    let mut whole = vec![0; 24 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut whole);
    fs.write(ino, 0, &whole, false).unwrap();
    fs.checkpoint().unwrap();
    let page = fill(4096, 1);
    for at in (1000..whole.len() - 4096).step_by(10_000) {
        fs.write(ino, at as u64, &page, false).unwrap();
        whole[at..at + 4096].copy_from_slice(&page);
    }
    assert_eq!(fs.volume().store.new_bytes(), 0, "nothing was cut yet");
    assert!(fs.progress().waiting_bytes > pressure::CHUNK_FILE_AT);
    // Holes that reach from one window into another, and whole windows.
    for (from, to) in [(900_000, 1_300_000), (2_097_000, 2_097_300), (5_000_001, 9_000_001)] {
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        fs.fallocate(ino, from as u64, (to - from) as u64, punch).unwrap();
        whole[from..to].fill(0);
    }
    fs.checkpoint().unwrap();
    for fs in [fs, place.open()] {
        assert!(fs.read(ino, 0, 24 << 20).unwrap() == whole);
        assert_eq!(fs.seek(ino, 6_000_000, Seek::Data).unwrap(), 9_000_001 / 4096 * 4096);
    }
}

/// Memory ran short while a file with stored content was being appended to.
/// Its last stored chunk was taken out of the tree, to be cut again with what
/// would follow, and only the appended bytes stayed in memory: the chunk read
/// as zeros, and the next checkpoint published that.
#[test]
fn cutting_an_open_file_early_keeps_what_was_stored() {
    let place = Place::new();
    let fs = place.open();
    for (name, before, after) in [
        (&b"log"[..], fill(100_000, 1), fill(100, 2)),
        (b"inline", fill(200, 1), fill(300, 2)),
        (b"large", fill(3_000_000, 1), fill(20_000, 4)),
    ] {
        let ino = fs.mknod(ME, ROOT, name, 0o100_644, 0).unwrap().ino;
        fs.write(ino, 0, &before, false).unwrap();
        fs.checkpoint().unwrap();
        fs.open(ino, true, false).unwrap();
        fs.write(ino, before.len() as u64, &after, false).unwrap();
        let whole = [before, after].concat();
        for open in [true, false, true] {
            fs.flush_file(ino, Least::Nothing, open).unwrap();
            assert!(fs.read(ino, 0, 8 << 20).unwrap() == whole);
        }
        let size = whole.len() as u64 / 2;
        fs.setattr(ino, &SetAttr { size: Some(size), ..SetAttr::default() }).unwrap();
        fs.flush_file(ino, Least::Nothing, true).unwrap();
        fs.write(ino, size, &whole[size as usize..], false).unwrap();
        fs.checkpoint().unwrap();
        assert!(fs.read(ino, 0, 8 << 20).unwrap() == whole);
        fs.release(ino, true);
    }
}

/// A file shortened right behind a small overwrite: the end was made anew twice,
/// and the checkpoint panicked.
#[test]
fn a_file_cut_behind_an_overwrite_is_stored() {
    let place = Place::new();
    let fs = place.open();
    let ino = fs.mknod(ME, ROOT, b"file", 0o100_644, 0).unwrap().ino;
    let resize = |size| fs.setattr(ino, &SetAttr { size: Some(size), ..SetAttr::default() });
    resize(501).unwrap();
    fs.flush_file(ino, Least::Nothing, false).unwrap();
    fs.write(ino, 0, &[7; 258], false).unwrap();
    fs.flush_file(ino, Least::Nothing, false).unwrap();
    fs.write(ino, 256, &[8; 244], false).unwrap();
    resize(259).unwrap();
    fs.checkpoint().unwrap();
    drop(fs);
    let read = place.open().read(ino, 0, 1000).unwrap();
    assert_eq!(read, [&[7; 256][..], &[8; 3]].concat());
}

/// In memory, in a content tree, and both; what is at hand needs no room again.
#[test]
fn only_what_has_no_data_lacks_room() {
    let place = Place::new();
    let fs = place.open();
    let ino = fs.mknod(ME, ROOT, b"a", 0o100_644, 0).unwrap().ino;
    fs.open(ino, true, false).unwrap();
    fs.setattr(ino, &SetAttr { size: Some(1 << 40), ..SetAttr::default() }).unwrap();
    assert_eq!(fs.lacking(ino, 0, 1 << 40), 1 << 40);
    fs.write(ino, 1 << 30, &fill(1 << 20, 1), false).unwrap();
    for _ in 0..2 {
        assert_eq!(fs.lacking(ino, 1 << 30, (1 << 30) + (1 << 20)), 0);
        assert_eq!(fs.lacking(ino, (1 << 30) - 1, (1 << 30) + 1), 4096);
        assert_eq!(fs.lacking(ino, 0, 1 << 40), (1 << 40) - (1 << 20));
        fs.checkpoint().unwrap();
    }
    fs.write(ino, 5, b"x", false).unwrap();
    assert_eq!(fs.lacking(ino, 0, 1 << 40), (1 << 40) - (1 << 20) - 4096);
    let attr = fs.lookup(ROOT, b"a").unwrap();
    assert_eq!(attr.blocks, 8 * 257);
    fs.checkpoint().unwrap();
    let mut listed = Vec::new();
    fs.readdir(ROOT, 2, true, &mut |entry| {
        listed.push(entry.attr.blocks);
        true
    })
    .unwrap();
    assert_eq!(listed, [8 * 257]);
    fs.release(ino, true);
}

#[test]
fn renames_keep_counts_and_refuse_cycles() {
    let place = Place::new();
    let fs = place.open();
    let a = fs.mkdir(ME, ROOT, b"a", 0o755).unwrap().ino;
    let b = fs.mkdir(ME, a, b"b", 0o755).unwrap().ino;
    assert_eq!(fs.getattr(a).unwrap().nlink, 3);
    let cycle = fs.rename((ROOT, b"a"), (b, b"c"), RenameMode::Replace);
    assert_eq!(cycle, Err(FsError::Invalid));
    fs.rename((a, b"b"), (ROOT, b"b"), RenameMode::Replace).unwrap();
    assert_eq!(fs.getattr(a).unwrap().nlink, 2);
    assert_eq!(fs.getattr(ROOT).unwrap().nlink, 4);
    assert_eq!(fs.lookup(b, b"..").unwrap().ino, ROOT);
    fs.rename((ROOT, b"a"), (ROOT, b"b"), RenameMode::Exchange).unwrap();
    assert_eq!(fs.lookup(ROOT, b"a").unwrap().ino, b);
    let exists = fs.rename((ROOT, b"a"), (ROOT, b"b"), RenameMode::NoReplace);
    assert_eq!(exists, Err(FsError::Exists));
}

/// Bytes of an unlinked file that was still written to, and the length of a
/// symlink, stayed in or went out of the sum for good.
#[test]
fn sums_count_what_has_a_name() {
    let place = Place::new();
    let fs = place.open();
    let kept = fs.mknod(ME, ROOT, b"kept", 0o100_644, 0).unwrap().ino;
    fs.write(kept, 0, &[1; 5000], false).unwrap();
    fs.symlink(ME, ROOT, b"link", b"somewhere/else").unwrap();
    let gone = fs.mknod(ME, ROOT, b"gone", 0o100_644, 0).unwrap().ino;
    fs.open(gone, true, false).unwrap();
    fs.write(gone, 0, &[1; 300], false).unwrap();
    fs.unlink(ROOT, b"gone").unwrap();
    fs.write(gone, 0, &fill(700_000, 3), false).unwrap();
    fs.setattr(gone, &SetAttr { size: Some(10), ..SetAttr::default() }).unwrap();
    fs.unlink(ROOT, b"link").unwrap();
    let progress = fs.progress();
    assert_eq!((progress.inodes, progress.bytes), (2, 5000));
}

#[test]
fn many_names_are_counted_right() {
    let place = Place::new();
    let fs = place.open();
    let ino = fs.mknod(ME, ROOT, b"first", 0o100_644, 0).unwrap().ino;
    for number in 0..100 {
        fs.link(ino, ROOT, format!("n{number}").as_bytes()).unwrap();
        if number == 50 {
            fs.checkpoint().unwrap();
        }
        assert_eq!(fs.getattr(ino).unwrap().nlink, number + 2);
    }
    let other = fs.mknod(ME, ROOT, b"other", 0o100_644, 0).unwrap().ino;
    fs.rename((ROOT, b"other"), (ROOT, b"n7"), RenameMode::Replace).unwrap();
    fs.rename((ROOT, b"n8"), (ROOT, b"moved"), RenameMode::Replace).unwrap();
    assert_eq!(fs.getattr(ino).unwrap().nlink, 100);
    for number in (9..100).chain([0]) {
        fs.unlink(ROOT, format!("n{number}").as_bytes()).unwrap();
    }
    assert_eq!((fs.getattr(ino).unwrap().nlink, fs.getattr(other).unwrap().nlink), (8, 1));
}

/// What can be read no more is replaced by writing the file again: nothing of
/// the old content is looked at for that, and the same content is stored anew.
#[test]
fn writing_a_damaged_file_again_heals_it() {
    let place = Place::new();
    let bytes = fill(3_000_000, 1);
    let fs = place.open();
    let ino = fs.mknod(ME, ROOT, b"file", 0o100_644, 0).unwrap().ino;
    fs.write(ino, 0, &bytes, false).unwrap();
    fs.checkpoint().unwrap();
    // The tree's root lies in the newest head, which another one follows.
    fs.mkdir(ME, ROOT, b"later", 0o755).unwrap();
    fs.checkpoint().unwrap();
    drop(fs);
    let mut damaged = 0;
    for device in std::fs::read_dir(place.dir.path().join("repo")).unwrap() {
        let Ok(heads) = std::fs::read_dir(device.unwrap().path().join("head")) else { continue };
        let mut heads: Vec<_> = heads.map(|entry| entry.unwrap().path()).collect();
        heads.sort();
        heads.pop();
        for head in heads {
            // Frames; prefix and directory stay as they are.
            let mut bytes = std::fs::read(&head).unwrap();
            bytes[1500..20_000].fill(0);
            std::fs::write(&head, bytes).unwrap();
            // Else it could still be arriving.
            let file = std::fs::File::options().write(true).open(&head).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    let fs = place.open();
    let Ok(attr) = fs.lookup(ROOT, b"file") else { panic!("names are in the newest head") };
    assert_eq!(fs.read(attr.ino, 0, 100), Err(FsError::Damaged));
    fs.open(attr.ino, true, true).unwrap();
    fs.write(attr.ino, 0, &bytes, false).unwrap();
    fs.release(attr.ino, true);
    fs.checkpoint().unwrap();
    drop(fs);
    let fs = place.open();
    assert!(fs.read(attr.ino, 0, 4_000_000).unwrap() == bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// A folder lists what was made and not removed, whether that is stored,
    /// being published, or newer; from any cookie on.
    #[test]
    fn a_listing_equals_a_model(
        steps in prop::collection::vec((0u8..6, 0u16..400), 1..600),
        freeze in any::<bool>(),
    ) {
        let place = Place::new();
        let fs = place.open();
        let mut model = std::collections::BTreeSet::new();
        let mut frozen = false;
        for (index, (step, number)) in steps.iter().enumerate() {
            let name = format!("name-{number}").into_bytes();
            match step {
                0..=3 if model.insert(name.clone()) => {
                    fs.mknod(ME, ROOT, &name, 0o100_644, 0).unwrap();
                }
                4 if model.remove(&name) => fs.unlink(ROOT, &name).unwrap(),
                5 if number % 40 == 0 && !frozen => drop(fs.checkpoint().unwrap()),
                5 if number % 40 < 5 && freeze && !frozen && index > steps.len() / 2 => {
                    // A checkpoint that is under way for the rest of the time.
                    frozen = fs.freeze(false, true).unwrap().is_some();
                }
                _ => {}
            }
        }
        prop_assert_eq!(names(&fs, ROOT), model.iter().cloned().collect::<Vec<_>>());
        let mut found = Vec::new();
        let mut cookie = 2;
        loop {
            let mut batch = Vec::new();
            fs.readdir(ROOT, cookie, true, &mut |entry| {
                batch.push((entry.name.clone(), entry.cookie));
                batch.len() < 7
            }).unwrap();
            let Some(last) = batch.last() else { break };
            cookie = last.1;
            found.extend(batch.into_iter().map(|entry| entry.0));
        }
        found.sort();
        prop_assert_eq!(found, model.into_iter().collect::<Vec<_>>());
    }
}

/// One step on one of a few files.
#[derive(Clone, Debug)]
enum Step {
    Write(usize, u64, usize, u8),
    Truncate(usize, u64),
    Punch(usize, u64, u64),
    /// Cuts what is in memory, as a writer does when that is much; with the
    /// end of the file left open or not.
    Cut(usize, bool),
    Checkpoint,
    Reopen,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let offset = prop_oneof![0u64..600, 0u64..20_000, 0u64..700_000];
    let len = prop_oneof![1usize..300, 1usize..9000, 1usize..300_000];
    let step = prop_oneof![
        6 => (0usize..3, offset.clone(), len, any::<u8>())
            .prop_map(|(file, offset, len, byte)| Step::Write(file, offset, len, byte)),
        2 => (0usize..3, offset.clone()).prop_map(|(file, size)| Step::Truncate(file, size)),
        1 => (0usize..3, offset, 1u64..200_000)
            .prop_map(|(file, offset, len)| Step::Punch(file, offset, len)),
        3 => (0usize..3, any::<bool>()).prop_map(|(file, open)| Step::Cut(file, open)),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..40)
}

fn fill(len: usize, byte: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[byte]);
    if byte.is_multiple_of(3) {
        bytes.fill(byte);
    } else {
        hasher.finalize_xof().fill(&mut bytes);
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Content of files equals a plain vector of bytes, whatever the order of
    /// writes, truncations, holes, checkpoints and reopening.
    #[test]
    fn content_equals_a_model(steps in steps()) {
        let place = Place::new();
        let log = Arc::new(Kept::default());
        let mut fs = place.open_with(Box::new(log.clone()));
        let mut model: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let mut touched = [const { BTreeSet::<u64>::new() }; 3];
        let mut inos = Vec::new();
        for file in 0..3usize {
            let name = format!("f{file}");
            inos.push(fs.mknod(ME, ROOT, name.as_bytes(), 0o100_644, 0).unwrap().ino);
            model.insert(file, Vec::new());
        }
        for step in &steps {
            let blocks = |fs: &Fs| inos.iter().map(|ino| fs.getattr(*ino).unwrap().blocks).collect();
            let before: Vec<u64> = blocks(&fs);
            match step {
                Step::Write(file, offset, len, byte) => {
                    touched[*file].extend(offset / 4096..(offset + *len as u64).div_ceil(4096));
                    let bytes = fill(*len, *byte);
                    fs.write(inos[*file], *offset, &bytes, false).unwrap();
                    let content = model.get_mut(file).unwrap();
                    let end = *offset as usize + len;
                    if content.len() < end {
                        content.resize(end, 0);
                    }
                    content[*offset as usize..end].copy_from_slice(&bytes);
                }
                Step::Truncate(file, size) => {
                    let change = SetAttr { size: Some(*size), ..SetAttr::default() };
                    fs.setattr(inos[*file], &change).unwrap();
                    touched[*file].split_off(&size.div_ceil(4096));
                    model.get_mut(file).unwrap().resize(*size as usize, 0);
                }
                Step::Punch(file, offset, len) => {
                    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                    fs.fallocate(inos[*file], *offset, *len, mode).unwrap();
                    let whole = offset.div_ceil(4096)..(offset + len) / 4096;
                    touched[*file].retain(|page| !whole.contains(page));
                    let content = model.get_mut(file).unwrap();
                    let end = content.len().min((offset + len) as usize);
                    if (*offset as usize) < end {
                        content[*offset as usize..end].fill(0);
                    }
                }
                Step::Cut(file, open) => fs.flush_file(inos[*file], Least::Nothing, *open).unwrap(),
                Step::Checkpoint => { fs.checkpoint().unwrap(); }
                Step::Reopen => {
                    fs.checkpoint().unwrap();
                    fs = place.recover(&log);
                }
                Step::Crash => {
                    // As each second: large writes wait that long.
                    fs.write_log(Duration::ZERO).unwrap();
                    drop(fs);
                    fs = place.recover(&log);
                }
            }
            if matches!(step, Step::Cut(..) | Step::Checkpoint | Step::Reopen) {
                prop_assert_eq!(blocks(&fs), before, "after {:?}", step);
            }
            for (file, content) in &model {
                // Whether zeros that were written have been cut off makes the difference.
                let least = content.chunks(4096).filter(|page| page.iter().any(|b| *b != 0));
                let pages = fs.getattr(inos[*file]).unwrap().blocks / 8;
                let most = touched[*file].len() as u64;
                prop_assert!((least.count() as u64..=most).contains(&pages), "{pages}, {most}");
                let read = fs.read(inos[*file], 0, 2_000_000).unwrap();
                prop_assert!(read == *content, "file {} after {:?}", file, step);
                let mut at = 0;
                while (at as usize) < content.len() {
                    let Ok(data) = fs.seek(inos[*file], at, Seek::Data) else { break };
                    prop_assert!(content[at as usize..data as usize].iter().all(|b| *b == 0));
                    at = fs.seek(inos[*file], data, Seek::Hole).unwrap();
                    prop_assert!(at > data);
                }
            }
        }
    }
}
