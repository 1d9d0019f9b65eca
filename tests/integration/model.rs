//! Random operations on a real mount and, the same ones, on a folder of the
//! local file system: every answer and every tree must be equal, also after a
//! remount, after a kill that follows an fsync, and, up to some operation since
//! the last fsync, after a kill that follows none.
//!
//! `AMBERFS_TEST_SEED` runs one seed alone, `AMBERFS_TEST_FACTOR` more of them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{AtFlags, CWD, FallocateFlags, RenameFlags, Timespec, Timestamps, XattrFlags};

use crate::mounted::has_fuse;
use crate::world::{Mount, World, factor};

const OPERATIONS: usize = 400;
const COMPARED_EVERY: usize = 20;
const HANDLES: usize = 3;
/// Times before it were set by the test, and are compared; others were made by
/// a clock.
const OLD: i64 = 1_000_000_000;

/// One operation; a path is relative to the root of either tree, a handle is a
/// place in the table of open files.
#[derive(Clone, Debug)]
enum Op {
    Create(String),
    /// Path, offset, length, seed of the bytes.
    Write(String, u64, usize, u64),
    Append(String, usize, u64),
    /// By open(2) with `O_TRUNC`.
    Empty(String),
    Truncate(String, u64),
    Fallocate(String, Space, u64, u64),
    /// From, its offset, to, its offset, length.
    Copy(String, u64, String, u64, usize),
    Rename(String, String, RenameFlags),
    Link(String, String),
    Unlink(String),
    Mkdir(String),
    Rmdir(String),
    Symlink(String, String),
    Chmod(String, u32),
    SetXattr(String, u8, usize, u64),
    RemoveXattr(String, u8),
    /// Seconds and nanoseconds, of mtime.
    Touch(String, i64, i64),
    TouchNow(String),
    Open(usize, String),
    HandleWrite(usize, u64, usize, u64),
    HandleTruncate(usize, u64),
    /// What it reads is part of the answer.
    HandleRead(usize, u64, usize),
    HandleSync(usize),
    Close(usize),
    /// Of the mount: the end of one and the next, which may have the
    /// repository only, and no local state.
    Remount {
        forgets: bool,
    },
    Kill {
        synced: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Space {
    Reserve,
    Keep,
    Punch,
    Zero,
    ZeroKeep,
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![seed as u8; len];
    // Every third compresses.
    if !seed.is_multiple_of(3) {
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    }
    bytes
}

/// A tree on which operations are done.
struct Tree {
    root: std::path::PathBuf,
    handles: [Option<File>; HANDLES],
    /// Whether it is the local file system, which may know fewer calls.
    local: bool,
}

/// What an operation answered: bytes it read, a hash of them where they are many.
type Answer = io::Result<Vec<u8>>;

impl Tree {
    fn new(root: std::path::PathBuf, local: bool) -> Self {
        Self { root, handles: Default::default(), local }
    }

    fn handle(&self, number: usize) -> io::Result<&File> {
        self.handles[number].as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn writable(&self, path: &str) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.root.join(path))
    }

    fn fallocate(&self, path: &str, how: Space, offset: u64, len: u64) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(self.root.join(path))?;
        let keep = FallocateFlags::KEEP_SIZE;
        let flags = match how {
            Space::Reserve => FallocateFlags::empty(),
            Space::Keep => keep,
            Space::Punch => FallocateFlags::PUNCH_HOLE | keep,
            Space::Zero => FallocateFlags::ZERO_RANGE,
            Space::ZeroKeep => FallocateFlags::ZERO_RANGE | keep,
        };
        if self.local && matches!(how, Space::Zero | Space::ZeroKeep) {
            // tmpfs has no such call.
            let end = match how {
                Space::ZeroKeep => file.metadata()?.len().min(offset + len),
                _ => offset + len,
            };
            file.write_all_at(&vec![0; end.saturating_sub(offset) as usize], offset)?;
        } else {
            rustix::fs::fallocate(&file, flags, offset, len)?;
        }
        Ok(())
    }

    fn copy(
        &self,
        from: &str,
        mut at: u64,
        to: &str,
        mut into: u64,
        mut len: usize,
    ) -> io::Result<()> {
        let from = File::open(self.root.join(from))?;
        let to = self.writable(to)?;
        while len > 0 {
            let done =
                rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut into), len)?;
            if done == 0 {
                break;
            }
            len -= done;
        }
        Ok(())
    }

    fn perform(&mut self, op: &Op) -> Answer {
        let at = |path: &String| self.root.join(path);
        match op {
            Op::Create(path) => drop(File::create_new(at(path))?),
            Op::Write(path, offset, len, seed) => {
                self.writable(path)?.write_all_at(&bytes(*len, *seed), *offset)?;
            }
            Op::Append(path, len, seed) => {
                let mut file = OpenOptions::new().append(true).open(at(path))?;
                io::Write::write_all(&mut file, &bytes(*len, *seed))?;
            }
            Op::Empty(path) => {
                drop(OpenOptions::new().write(true).truncate(true).open(at(path))?);
            }
            Op::Truncate(path, size) => self.writable(path)?.set_len(*size)?,
            Op::Fallocate(path, how, offset, len) => self.fallocate(path, *how, *offset, *len)?,
            Op::Copy(from, offset, to, into, len) => self.copy(from, *offset, to, *into, *len)?,
            Op::Rename(from, to, flags) => {
                rustix::fs::renameat_with(CWD, at(from), CWD, at(to), *flags)?;
            }
            Op::Link(from, to) => fs::hard_link(at(from), at(to))?,
            Op::Unlink(path) => fs::remove_file(at(path))?,
            Op::Mkdir(path) => fs::create_dir(at(path))?,
            Op::Rmdir(path) => fs::remove_dir(at(path))?,
            Op::Symlink(target, path) => symlink(target, at(path))?,
            Op::Chmod(path, mode) => {
                fs::set_permissions(at(path), Permissions::from_mode(*mode))?;
            }
            Op::SetXattr(path, name, len, seed) => {
                let name = format!("user.{name}");
                let value = bytes(*len, *seed);
                rustix::fs::setxattr(at(path), name, &value, XattrFlags::empty())?;
            }
            Op::RemoveXattr(path, name) => {
                rustix::fs::removexattr(at(path), format!("user.{name}"))?;
            }
            Op::Touch(path, seconds, nanos) => {
                let time = Timespec { tv_sec: *seconds, tv_nsec: *nanos };
                let times = Timestamps { last_access: time, last_modification: time };
                rustix::fs::utimensat(CWD, at(path), &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Op::TouchNow(path) => {
                self.writable(path)?.set_modified(std::time::SystemTime::now())?;
            }
            Op::Open(number, path) => {
                let file = OpenOptions::new().read(true).write(true).open(at(path))?;
                self.handles[*number] = Some(file);
            }
            Op::HandleWrite(number, offset, len, seed) => {
                self.handle(*number)?.write_all_at(&bytes(*len, *seed), *offset)?;
            }
            Op::HandleTruncate(number, size) => self.handle(*number)?.set_len(*size)?,
            Op::HandleRead(number, offset, len) => {
                let file = self.handle(*number)?;
                let mut found = vec![0; *len];
                let count = file.read_at(&mut found, *offset)?;
                found.truncate(count);
                let seen = file.metadata()?;
                found.extend(seen.len().to_le_bytes());
                found.extend(seen.nlink().to_le_bytes());
                return Ok(found);
            }
            Op::HandleSync(number) => self.handle(*number)?.sync_data()?,
            Op::Close(number) => self.handles[*number] = None,
            Op::Remount { .. } | Op::Kill { .. } => {}
        }
        Ok(Vec::new())
    }
}

/// What one path shows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    links: u64,
    /// The first path of the same inode, in the order of names.
    same: String,
    /// Of a directory the file system's own.
    size: u64,
    /// If it is old.
    mtime: Option<(i64, i64)>,
    /// Hash of the content, or the target.
    content: Vec<u8>,
    xattrs: BTreeMap<String, Vec<u8>>,
}

type Shown = BTreeMap<String, Seen>;

fn show(root: &Path) -> Shown {
    let mut shown = Shown::new();
    walk(root, "", &mut shown);
    let mut first: BTreeMap<u64, String> = BTreeMap::new();
    for (path, seen) in &mut shown {
        let ino = seen.same.parse().expect("walk put it there");
        seen.same.clone_from(first.entry(ino).or_insert_with(|| path.clone()));
    }
    shown
}

fn walk(root: &Path, folder: &str, shown: &mut Shown) {
    for entry in fs::read_dir(root.join(folder)).expect("lists") {
        let entry = entry.expect("lists");
        let name = entry.file_name().into_string().expect("is text");
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        let full = root.join(&path);
        let found = fs::symlink_metadata(&full).expect("stat");
        assert_eq!(entry.ino(), found.ino(), "{path}");
        let content = if found.is_symlink() {
            fs::read_link(&full).expect("readlink").into_os_string().into_encoded_bytes()
        } else if found.is_dir() {
            walk(root, &path, shown);
            Vec::new()
        } else {
            let content = fs::read(&full).expect("reads");
            assert_eq!(content.len() as u64, found.len(), "{path}");
            blake3::hash(&content).as_bytes()[..8].to_vec()
        };
        let seen = Seen {
            mode: found.mode(),
            links: found.nlink(),
            same: found.ino().to_string(),
            size: if found.is_dir() { 0 } else { found.len() },
            mtime: (found.mtime() < OLD).then(|| (found.mtime(), found.mtime_nsec())),
            content,
            xattrs: if found.is_symlink() { BTreeMap::new() } else { xattrs(&full) },
        };
        shown.insert(path, seen);
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = [0; 1000];
    let len = rustix::fs::listxattr(path, &mut names).expect("listxattr");
    let names = String::from_utf8(names[..len].to_vec()).expect("is text");
    // A security module may add its own to one of the trees.
    let ours = names.split_terminator('\0').filter(|name| name.starts_with("user."));
    ours.map(|name| {
        let mut value = [0; 5000];
        let len = rustix::fs::getxattr(path, name, &mut value).expect("getxattr");
        (name.to_owned(), value[..len].to_vec())
    })
    .collect()
}

/// How two trees differ.
fn differences(expected: &Shown, found: &Shown) -> Vec<String> {
    let paths: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    paths
        .into_iter()
        .filter(|path| expected.get(*path) != found.get(*path))
        .map(|path| {
            format!("{path}:\n  local {:?}\n  mount {:?}", expected.get(path), found.get(path))
        })
        .collect()
}

/// Draws operations that mostly fit what is there.
struct Draw(StdRng);

/// What an operation may be drawn for.
struct There {
    all: Vec<String>,
    files: Vec<String>,
    folders: Vec<String>,
    open: [bool; HANDLES],
}

impl There {
    fn new(shown: &Shown, handles: &[Option<File>; HANDLES]) -> Self {
        let of = |kind: u32| {
            let paths = shown.iter().filter(|(_, seen)| seen.mode & libc::S_IFMT == kind);
            paths.map(|(path, _)| path.clone()).collect()
        };
        Self {
            all: shown.keys().cloned().collect(),
            files: of(libc::S_IFREG),
            folders: of(libc::S_IFDIR),
            open: handles.each_ref().map(Option::is_some),
        }
    }
}

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0.gen_range(0..limit)
    }

    fn one(&mut self, of: &[String]) -> Option<String> {
        of.get(self.below(of.len().max(1) as u64) as usize).cloned()
    }

    fn name(&mut self) -> String {
        let names = ["a", "b", "c", "d", "e", "f", "g", "a longer name"];
        names[self.below(8) as usize].to_owned()
    }

    /// In the root, in a folder, or in something that may be none.
    fn new_path(&mut self, there: &There) -> String {
        let name = self.name();
        let parent = match self.below(12) {
            0 => Some(self.name()),
            1..=5 => None,
            _ => self.one(&there.folders),
        };
        // Trees that grow no deeper without an end.
        let parent = parent.filter(|parent| parent.matches('/').count() < 4);
        parent.map_or_else(|| name.clone(), |parent| format!("{parent}/{name}"))
    }

    /// One of those given; seldom another.
    fn path(&mut self, of: &[String], there: &There) -> String {
        let other = self.below(12) == 0;
        let one = self.one(of).filter(|_| !other);
        one.unwrap_or_else(|| self.new_path(there))
    }

    /// Small, about a page, or some pages.
    fn size(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(100),
            1 => 4096 * self.below(20),
            2 => 4000 + self.below(200),
            _ => self.below(150_000),
        }
    }

    fn op(&mut self, there: &There) -> Vec<Op> {
        let (seed, handle) = (self.below(1 << 32), self.below(HANDLES as u64) as usize);
        let len = 1 + self.size() as usize;
        let op = match self.below(100) {
            0..=11 => Op::Create(self.new_path(there)),
            12..=20 => Op::Write(self.path(&there.files, there), self.size(), len, seed),
            21..=25 => Op::Append(self.path(&there.files, there), len, seed),
            26..=28 => {
                let path = self.path(&there.files, there);
                return vec![Op::Empty(path.clone()), Op::Write(path, 0, len, seed)];
            }
            29..=32 => Op::Truncate(self.path(&there.files, there), self.size()),
            33..=38 => {
                let how = [Space::Reserve, Space::Keep, Space::Punch, Space::Zero, Space::ZeroKeep];
                let how = how[self.below(5) as usize];
                let path = self.path(&there.files, there);
                // File systems differ in whether it changes mtime: here it is
                // no old one, which are compared.
                let touch = Op::TouchNow(path.clone());
                return vec![touch, Op::Fallocate(path, how, self.size(), len as u64)];
            }
            39..=42 => {
                let (from, to) = (self.path(&there.files, there), self.path(&there.files, there));
                Op::Copy(from, self.size(), to, self.size(), len)
            }
            43..=52 => {
                let from = self.path(&there.all, there);
                let to = if self.below(2) == 0 {
                    self.new_path(there)
                } else {
                    self.path(&there.all, there)
                };
                let flags = [RenameFlags::empty(), RenameFlags::EXCHANGE, RenameFlags::NOREPLACE];
                Op::Rename(from, to, flags[self.below(3) as usize])
            }
            53..=57 => Op::Link(self.path(&there.files, there), self.new_path(there)),
            58..=61 => Op::Unlink(if self.below(8) == 0 {
                self.path(&there.all, there)
            } else {
                self.path(&there.files, there)
            }),
            62..=67 => Op::Mkdir(self.new_path(there)),
            68 | 69 => Op::Rmdir(self.path(&there.folders, there)),
            70..=72 => Op::Symlink(self.new_path(there), self.new_path(there)),
            // Readable, or the test could not compare unless root runs it.
            73..=75 => Op::Chmod(self.path(&there.all, there), 0o700 | self.below(0o10000) as u32),
            76..=79 => Op::SetXattr(
                self.path(&there.all, there),
                self.below(4) as u8,
                self.below(300) as usize,
                seed,
            ),
            80 => Op::RemoveXattr(self.path(&there.all, there), self.below(4) as u8),
            81..=83 => Op::Touch(
                self.path(&there.all, there),
                self.below(2 * OLD as u64) as i64 - OLD,
                self.below(1_000_000_000) as i64,
            ),
            84..=86 => Op::Open(handle, self.path(&there.files, there)),
            87..=95 if !there.open[handle] => Op::Open(handle, self.path(&there.files, there)),
            87..=90 => Op::HandleWrite(handle, self.size(), len, seed),
            91 => Op::HandleTruncate(handle, self.size()),
            92..=94 => Op::HandleRead(handle, self.size(), len),
            95 => Op::HandleSync(handle),
            96 | 97 => Op::Close(handle),
            98 => Op::Remount { forgets: self.below(2) == 0 },
            _ => Op::Kill { synced: self.below(2) == 0 },
        };
        vec![op]
    }
}

struct Run<'a> {
    world: &'a World,
    mount: Option<Mount>,
    ours: Tree,
    local: Tree,
    /// The tree after each operation since the last fsync.
    since: Vec<Shown>,
    /// Whether the kernel may hold writes that are older than later changes.
    held: bool,
    done: Vec<Op>,
    kills: usize,
    remounts: usize,
    refused: usize,
}

impl<'a> Run<'a> {
    fn new(world: &'a World, number: u64) -> Self {
        // Each seed in a folder of its own, of one repository.
        let local = world.path(&format!("local{number}"));
        fs::create_dir(&local).expect("creates");
        let mount = Some(Self::mount(world));
        let root = world.path(&format!("mnt/{number}"));
        fs::create_dir(&root).expect("creates");
        File::open(&root).and_then(|root| root.sync_all()).expect("syncs");
        Self {
            world,
            mount,
            ours: Tree::new(root, false),
            local: Tree::new(local, true),
            since: vec![Shown::new()],
            held: false,
            done: Vec::new(),
            kills: 0,
            remounts: 0,
            refused: 0,
        }
    }

    fn mount(world: &World) -> Mount {
        world.mount("repo", "mnt", &["-o", "checkpoint=1s,2s", "--key-file", "key"])
    }

    fn compare(&self, what: &str) {
        let different = differences(&show(&self.local.root), &show(&self.ours.root));
        assert!(different.is_empty(), "{what}:\n{}", different.join("\n"));
    }

    fn close_all(&mut self) {
        self.ours.handles = Default::default();
        self.local.handles = Default::default();
    }

    fn kill(&mut self, synced: bool) {
        let synced = synced || self.held;
        self.close_all();
        if synced {
            File::open(&self.ours.root).and_then(|root| root.sync_all()).expect("syncs");
        }
        self.mount.take().expect("is there").kill();
        self.mount = Some(Self::mount(self.world));
        self.kills += 1;
        if synced {
            return self.compare("after fsync and kill");
        }
        let found = show(&self.ours.root);
        if !self.since.contains(&found) {
            let nearest = self.since.iter().map(|tree| differences(tree, &found));
            let nearest = nearest.min_by_key(Vec::len).expect("there is one");
            panic!(
                "after a kill: none of {} trees since the last fsync; from the nearest:\n{}",
                self.since.len(),
                nearest.join("\n")
            );
        }
        // The model goes on from what is there.
        fs::remove_dir_all(&self.local.root).expect("removes");
        let copied = Command::new("cp")
            .args(["-a", "-T"])
            .args([&self.ours.root, &self.local.root])
            .status();
        assert!(copied.expect("cp").success());
        self.compare("after a kill, and copied");
    }

    fn step(&mut self, op: &Op) {
        self.done.push(op.clone());
        let local = self.local.perform(op);
        let ours = self.ours.perform(op);
        let told = |answer: &Answer| answer.as_ref().map_err(io::Error::raw_os_error).cloned();
        let (expected, found) = (told(&local), told(&ours));
        let short = |answer: &Result<Vec<u8>, Option<i32>>| match answer {
            Ok(bytes) => format!("{} bytes", bytes.len()),
            Err(errno) => format!("{errno:?}"),
        };
        assert!(expected == found, "local {}, mount {}", short(&expected), short(&found));
        self.refused += usize::from(found.is_err());
        match op {
            // Of this file; others may be held yet.
            Op::HandleSync(_) if found.is_ok() && !self.held => self.since.clear(),
            Op::HandleWrite(..) if found.is_ok() => self.held = true,
            Op::Remount { forgets } => {
                self.close_all();
                self.mount.take().expect("is there").unmount(self.world);
                if *forgets {
                    fs::remove_dir_all(self.world.path("state")).expect("removes");
                }
                self.mount = Some(Self::mount(self.world));
                self.remounts += 1;
                self.compare("after a remount");
                (self.held, self.since) = (false, Vec::new());
            }
            Op::Kill { synced } => {
                self.kill(*synced);
                (self.held, self.since) = (false, Vec::new());
            }
            _ => {}
        }
        self.since.push(show(&self.local.root));
        if self.done.len().is_multiple_of(COMPARED_EVERY) {
            self.compare("in between");
        }
    }
}

/// Tells how to get there again, should the test fail.
struct Story<'a> {
    seed: u64,
    run: Run<'a>,
}

impl Drop for Story<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let done = &self.run.done;
            println!("AMBERFS_TEST_SEED={} failed at operation {}:", self.seed, done.len());
            for op in &done[done.len().saturating_sub(60)..] {
                println!("  {op:?}");
            }
        }
        // A file that is open would keep the mount.
        self.run.close_all();
    }
}

#[test]
fn a_mount_does_what_a_local_folder_does() {
    if !has_fuse("model") {
        return;
    }
    let one = std::env::var("AMBERFS_TEST_SEED").ok().map(|text| text.parse().expect("a number"));
    let first = one.unwrap_or_else(|| StdRng::from_entropy().gen_range(0..1 << 32));
    let seeds = if one.is_some() { 1 } else { 12 * factor() as u64 };
    let world = World::with_repo();
    let (mut operations, mut refused, mut kills, mut remounts) = (0, 0, 0, 0);
    for seed in first..first + seeds {
        println!("seed {seed}");
        let mut draw = Draw(StdRng::seed_from_u64(seed));
        let mut story = Story { seed, run: Run::new(&world, seed) };
        let run = &mut story.run;
        for _ in 0..OPERATIONS {
            let shown = run.since.last().expect("there is one");
            let there = There::new(shown, &run.local.handles);
            for op in draw.op(&there) {
                run.step(&op);
            }
        }
        run.step(&Op::Remount { forgets: true });
        run.mount.take().expect("is there").unmount(&world);
        operations += run.done.len();
        refused += run.refused;
        kills += run.kills;
        remounts += run.remounts;
        world.ok(&["check", "repo", "--read-data"]);
    }
    println!(
        "model: {operations} operations, {refused} of them refused, {kills} kills, \
         {remounts} remounts, {seeds} seeds"
    );
}
