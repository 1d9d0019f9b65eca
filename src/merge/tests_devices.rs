//! Devices that change copies of one repository apart from each other, on simulated disks.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::tests_maps::{Line, Listing, Map};
use super::*;
use crate::crypto::{Secret, hash, hex, random_id};
use crate::fs::{
    Caller, Followed, Fs, NoLog, Operations, Options, Ownership, RecoverError, RenameMode, SetAttr,
    WithPast,
};
use crate::io::sim::{Crash, SimRandom, SimWorld};
use crate::journal::Options as JournalOptions;
use crate::store::Context;
use crate::sync::{self, Beside, OpenOptions, Snapshot};
use crate::volume::repository::{Repository, init};
use crate::volume::state::State;
use crate::volume::{KeptCommits, Volume, VolumeError, World, kept_in};

const JOURNAL: JournalOptions =
    JournalOptions { file_size: 256 << 10, max_total: 64 << 20, reserve: 64 << 10, spares: 1 };
const ME: Caller = Caller { uid: 1000, gid: 1000 };
/// When everything begins, seconds since 1970: a day in November 2026.
const BEGIN: i64 = 1_795_860_000;

/// What time it is, and how far the clock of one machine is ahead, seconds.
#[derive(Clone)]
struct Hands {
    now: Rc<Cell<i64>>,
    ahead: Cell<i64>,
}

impl Hands {
    /// What the machine's clock shows.
    fn shown(&self) -> Timestamp {
        Timestamp { secs: self.now.get() + self.ahead.get(), nanos: 0 }
    }
}

/// A machine with its own copy of the repository.
pub(crate) struct Device {
    world: SimWorld,
    key: Rc<Secret>,
    hands: Hands,
    fs: Arc<Fs>,
    name: String,
}

/// All that another machine has in REPO is here, too.
fn take_over(world: &SimWorld, other: &SimWorld) {
    for path in other.paths().iter().filter(|path| path.starts_with("repo/")) {
        world.put(path, &other.get(path).unwrap());
    }
}

/// All names below a directory, if all of it can be read.
pub(crate) fn listing(operations: &dyn Operations, dir: u64) -> crate::fs::Result<Listing> {
    let mut listing = Listing::new();
    walk(operations, dir, "", &mut listing)?;
    Ok(listing)
}

fn walk(
    operations: &dyn Operations,
    dir: u64,
    above: &str,
    listing: &mut Listing,
) -> crate::fs::Result<()> {
    let mut entries = Vec::new();
    let mut fill = |entry: &crate::fs::DirEntry| {
        entries.push(entry.clone());
        true
    };
    operations.readdir(dir, 2, true, &mut fill)?;
    for entry in entries {
        let path = format!("{above}{}", String::from_utf8(entry.name).unwrap());
        let ino = entry.attr.ino;
        operations.remember(ino);
        let is_dir = entry.attr.mode & 0o170_000 == 0o040_000;
        let bytes = if is_dir {
            walk(operations, ino, &format!("{path}/"), listing)?;
            Vec::new()
        } else {
            operations.read(ino, 0, u32::MAX)?
        };
        let line = Line {
            is_dir,
            bytes: String::from_utf8(bytes).unwrap(),
            mode: entry.attr.mode,
            links: if is_dir { 1 } else { entry.attr.nlink as usize },
            xattrs: operations.getxattr(ino, b"user.x").into_iter().collect(),
        };
        operations.forget(ino, 1);
        listing.insert(path, line);
    }
    Ok(())
}

/// Why a machine could not mount.
pub(crate) enum MountError {
    Volume(VolumeError),
    Recover(RecoverError),
}

impl std::fmt::Display for MountError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Volume(error) => error.fmt(f),
            Self::Recover(error) => error.fmt(f),
        }
    }
}

/// A machine on which nothing is mounted.
pub(crate) struct Ended {
    pub world: SimWorld,
    key: Rc<Secret>,
    hands: Hands,
    name: String,
}

impl Ended {
    /// Sets the clock of the machine by the time that has passed for everybody.
    pub fn show_time(&self) {
        self.world.clock().set_wall(self.hands.shown());
    }

    pub fn mount(self, seed: u64) -> Device {
        self.try_mount(seed).unwrap_or_else(|failed| panic!("{}", failed.1))
    }

    /// The machine as it was if it cannot mount, and why it cannot.
    pub fn try_mount(self, seed: u64) -> Result<Device, Box<(Self, MountError)>> {
        let Self { world, key, hands, name } = &self;
        let fs = Device::fs_of(world, key, hands, name, seed);
        match fs {
            Ok(fs) => {
                let Self { world, key, hands, name } = self;
                Ok(Device { world, key, hands, fs: Arc::new(fs), name })
            }
            Err(error) => Err(Box::new((self, error))),
        }
    }

    /// The machine after a power cut.
    pub fn crash(mut self, crash: Crash) -> Self {
        self.world = self.world.crash(crash);
        self
    }

    /// Another machine with a copy of all that this one has on its disk.
    pub fn copy(&self) -> Self {
        let world = SimWorld::new();
        for path in self.world.paths() {
            world.put(&path, &self.world.get(&path).unwrap());
        }
        Self { world, key: self.key.clone(), hands: self.hands.clone(), name: self.name.clone() }
    }

    /// It takes over all that another machine has in REPO.
    pub fn with_files_of(self, other: &Device) -> Self {
        take_over(&self.world, &other.world);
        self
    }

    /// Why it cannot mount; none if it can.
    pub fn refusal(&self, seed: u64) -> Option<String> {
        let opened = Device::volume_of(&self.world, &self.key, &self.hands, &self.name, seed);
        opened.err().map(|error| error.to_string())
    }

    /// Gives the device another id.
    pub fn renew(&self, id: u8) {
        let folder = self.world.folder("state");
        let mut state = State::load(&*folder).unwrap().unwrap();
        state.renew([id; 16]);
        state.store(&*folder).unwrap();
    }
}

impl Device {
    /// The device that makes the repository.
    pub fn first(name: &str) -> Self {
        Self::first_of(name, 2)
    }

    /// The device that makes the repository, with numbers of its own.
    pub fn first_of(name: &str, seed: u64) -> Self {
        let world = SimWorld::new();
        let random = SimRandom::new(1);
        let key = Rc::new(Secret::random(&random));
        let repo = random_id(&random);
        init(&*world.synced("repo"), &key, repo, [1; 16], Vec::new(), &random).unwrap();
        let hands = Hands { now: Rc::new(Cell::new(BEGIN)), ahead: Cell::default() };
        Self::open(world, key, hands, name, seed)
    }

    /// Another device, whose repository has all that this one published.
    pub fn another(&self, name: &str, seed: u64) -> Self {
        self.fs.checkpoint().unwrap();
        let world = SimWorld::new();
        for path in self.world.paths().iter().filter(|path| path.starts_with("repo/")) {
            world.put(path, &self.world.get(path).unwrap());
        }
        Self::open(world, self.key.clone(), self.hands.clone(), name, seed)
    }

    fn open(world: SimWorld, key: Rc<Secret>, hands: Hands, name: &str, seed: u64) -> Self {
        Ended { world, key, hands, name: name.into() }.mount(seed)
    }

    fn fs_of(
        world: &SimWorld,
        key: &Secret,
        hands: &Hands,
        name: &str,
        seed: u64,
    ) -> Result<Fs, MountError> {
        let volume = Self::volume_of(world, key, hands, name, seed).map_err(MountError::Volume)?;
        let ownership =
            Ownership { uid: 1000, gid: 1000, record_self: true, force_uid: None, force_gid: None };
        let options = Options { read_only: false, ownership };
        let recovered = Fs::recover(volume, JOURNAL, options).map_err(MountError::Recover)?;
        Ok(recovered.0)
    }

    fn volume_of(
        world: &SimWorld,
        key: &Secret,
        hands: &Hands,
        name: &str,
        seed: u64,
    ) -> Result<Volume, VolumeError> {
        world.clock().set_wall(hands.shown());
        let folder = world.synced("repo");
        let repository = Repository::find(&*folder).unwrap();
        let parts = World {
            repo: folder,
            state: Some(world.folder("state")),
            clock: world.clock(),
            random: Arc::new(SimRandom::new(seed)),
        };
        let options = OpenOptions { device_name: name.into(), ..OpenOptions::default() };
        Self::open_parts(parts, &repository, key, &options)
    }

    fn open_parts(
        parts: World,
        repository: &Repository,
        key: &Secret,
        options: &OpenOptions,
    ) -> Result<Volume, VolumeError> {
        let (keyring, register, _) = repository.unlock(key).unwrap();
        let context = Arc::new(Context::new(repository.repo, keyring));
        sync::open(parts, repository, context, register, options)
    }

    /// What a command shows that only reads this copy of REPO, as it was at a time if one is given.
    pub fn read_at(&self, until: Option<Timestamp>) -> Result<Self, VolumeError> {
        let world = SimWorld::new();
        take_over(&world, &self.world);
        let repo = world.synced("repo");
        let random = Arc::new(SimRandom::new(90));
        let parts = World { repo: repo.clone(), state: None, clock: world.clock(), random };
        let beside = Beside::load(&*self.world.folder("state")).unwrap();
        let options = OpenOptions { read_only: true, until, beside, ..OpenOptions::default() };
        let repository = Repository::find(&*repo).unwrap();
        let volume = Self::open_parts(parts, &repository, &self.key, &options)?;
        let ownership =
            Ownership { uid: 1000, gid: 1000, record_self: true, force_uid: None, force_gid: None };
        let options = Options { read_only: true, ownership };
        let fs = Fs::new(volume, Box::new(NoLog), options).map_err(VolumeError::Store)?;
        let fs = Arc::new(fs);
        Ok(Self { world, key: self.key.clone(), hands: self.hands.clone(), fs, name: "R".into() })
    }

    /// What this copy of REPO holds.
    pub fn repository(&self) -> Repository {
        Repository::find(&*self.world.synced("repo")).unwrap()
    }

    /// The states in this copy of REPO, and how many heads cannot be read.
    pub fn snapshots(&self) -> (Vec<Snapshot>, usize) {
        sync::Snapshots::default().list(self.volume(), &self.repository())
    }

    /// What this copy of REPO showed at a time, to be read with this volume.
    pub fn past(&self, time: Timestamp) -> Result<sync::Past, VolumeError> {
        Self::follower().past(self.volume(), &self.repository(), time)
    }

    /// The file system of the mount with its past.
    pub fn with_past(&self) -> WithPast {
        WithPast::new(Arc::clone(&self.fs), Arc::new(Self::follower()))
    }

    /// What the clock of this machine shows.
    pub fn now(&self) -> Timestamp {
        self.hands.shown()
    }

    /// Ends the mount. What was acknowledged is in the journal.
    pub fn end(self) -> Ended {
        self.fs.flush_log().unwrap();
        self.kill()
    }

    /// The process of the mount is killed.
    pub fn kill(self) -> Ended {
        let Self { world, key, hands, fs, name } = self;
        drop(fs);
        Ended { world, key, hands, name }
    }

    pub fn world(&self) -> &SimWorld {
        &self.world
    }

    pub fn fs(&self) -> &Fs {
        &self.fs
    }

    /// Ends the mount and mounts again. What was acknowledged and not published is in the
    /// journal.
    pub fn remount(self, seed: u64) -> Self {
        let opened = self.end().mount(seed);
        if !opened.fs.volume().is_replay() {
            return opened;
        }
        opened.fs.checkpoint().unwrap();
        opened.remount(seed + 1)
    }

    pub fn volume(&self) -> &crate::volume::Volume {
        self.fs.volume()
    }

    /// Publishes what changed.
    pub fn checkpoint(&self) {
        self.fs.checkpoint().unwrap();
    }

    /// Publishes what changed, or a head that only says what this device holds.
    pub fn answer(&self) {
        self.fs.checkpoint_and_answer(true).unwrap().unwrap();
    }

    /// Whether a checkpoint fails where no more than this fits into REPO; then there is room again.
    pub fn checkpoint_fails_with(&self, capacity: u64) -> bool {
        self.world.set_capacity(capacity);
        let failed = self.fs.checkpoint().is_err();
        self.world.set_capacity(1 << 40);
        self.world.clock().advance(Duration::from_secs(60));
        failed
    }

    /// Takes over the newest head of another device that is not here, and nothing else.
    pub fn receive_newest_head(&self, other: &Self) {
        let mut paths = other.world.paths();
        paths.retain(|path| path.starts_with("repo/") && path.contains("/head/"));
        paths.retain(|path| self.world.get(path).is_none());
        let generation = |path: &String| path.rsplit('/').next().map(str::to_owned);
        let newest = paths.into_iter().max_by_key(generation).unwrap();
        self.world.put(&newest, &other.world.get(&newest).unwrap());
    }

    pub fn follower() -> sync::Follower {
        sync::Follower::new(&OpenOptions::default())
    }

    pub fn has_news(&self, follower: &sync::Follower) -> bool {
        follower.has_news(self.volume(), self.fs.held_following() == Some(true)).unwrap()
    }

    /// Looks what other devices say; the error is a text.
    pub fn read_heads(&self, follower: &sync::Follower) -> Result<(), String> {
        self.fs.read_heads(follower, false).map_err(|error| error.to_string())
    }

    /// Objects have zeros in place of their bytes, or of the second half of them.
    pub fn blank_objects(&self, second_half: bool) {
        for path in self.world.paths().iter().filter(|path| path.contains("/obj/")) {
            self.world.tamper(path, |bytes| {
                let from = if second_half { bytes.len() / 2 } else { 0 };
                bytes[from..].fill(0);
            });
        }
    }

    /// Cuts the heads of this generation in half, as a client that stopped leaves them.
    pub fn cut_head(&self, generation: u64) {
        self.change_heads(generation, |_, _| {});
    }

    /// Cuts the heads of this generation in half, and puts their whole bytes beside them under
    /// another name.
    pub fn copy_and_cut_head(&self, generation: u64) {
        self.change_heads(generation, |path, bytes| self.world.put(&format!("{path} (1)"), bytes));
    }

    fn change_heads(&self, generation: u64, before: impl Fn(&str, &[u8])) {
        let part = format!("/head/{generation:016x}-");
        let paths = self.world.paths();
        let found: Vec<_> = paths.iter().filter(|path| path.contains(&part)).collect();
        assert!(!found.is_empty(), "{paths:#?}");
        for path in found {
            before(path, &self.world.get(path).unwrap());
            self.world.tamper(path, |bytes| bytes.truncate(bytes.len() / 2));
        }
    }

    pub fn follow_with(&self, follower: &sync::Follower) -> Followed {
        self.fs.follow(follower).unwrap()
    }

    /// Goes on from what others wrote, if nothing keeps it from that now.
    pub fn follow(&self) -> Followed {
        self.follow_with(&Self::follower())
    }

    /// The generation of the newest head.
    pub fn heads_written(&self) -> u64 {
        self.volume().state().generation
    }

    /// How many objects lie in this copy of REPO.
    pub fn objects_written(&self) -> usize {
        self.world.paths().iter().filter(|path| path.contains("/obj/")).count()
    }

    /// The clock of this machine is so many seconds ahead from here on, or behind.
    pub fn set_ahead(&self, seconds: i64) {
        self.hands.ahead.set(seconds);
    }

    /// Seconds pass here.
    pub fn pass(&self, seconds: u64) {
        self.world.clock().advance(Duration::from_secs(seconds));
    }

    /// Opens a file, until [`Device::close`].
    pub fn open_file(&self, path: &str) -> Option<Ino> {
        let ino = self.find(path)?;
        self.fs.open(ino, false, false).ok().map(|()| ino)
    }

    /// Opens a file that the kernel knows already.
    pub fn open_again(&self, ino: Ino) -> crate::fs::Result<()> {
        self.fs.open(ino, true, false)
    }

    /// What the kernel is told of a name.
    pub fn look_up(&self, path: &str) -> Option<crate::fs::Attr> {
        let (dir, name) = self.place(path)?;
        self.fs.lookup(dir, name).ok()
    }

    pub fn close(&self, ino: Ino) {
        self.fs.release(ino, false);
    }

    /// Takes all heads and objects over that another device has whole in its copy of REPO, as a
    /// client does that waits until a file is still.
    pub fn receive_whole(&self, other: &Self) {
        for path in other.world.paths().iter().filter(|path| path.starts_with("repo/")) {
            let bytes = other.world.get(path).unwrap();
            if path.ends_with(&format!("{}.amb", hex(&hash(&bytes)))) {
                self.world.put(path, &bytes);
            }
        }
    }

    /// Takes all files over that another device has in its copy of REPO.
    pub fn receive(&self, other: &Self) {
        take_over(&self.world, &other.world);
    }

    pub fn ids(&self) -> &IdKeys {
        &self.fs.volume().tree().store.context().ids
    }

    /// A second passes for everybody.
    pub fn tick(&self) {
        self.later(1);
    }

    /// So many seconds pass, for the clock of this machine too.
    pub fn later(&self, seconds: u32) {
        self.hands.now.set(self.hands.now.get() + i64::from(seconds));
        self.world.clock().advance(Duration::from_secs(u64::from(seconds)));
        self.world.clock().set_wall(self.hands.shown());
    }

    /// Kept commits in the ledger of the head on which this device stands.
    pub fn kept(&self) -> KeptCommits {
        kept_in(&self.volume().store, self.volume().base().commit.ledger).unwrap()
    }

    pub fn find(&self, path: &str) -> Option<Ino> {
        let names = path.split('/').filter(|name| !name.is_empty());
        names.into_iter().try_fold(ROOT, |dir, name| {
            self.fs.lookup(dir, name.as_bytes()).ok().map(|attr| attr.ino)
        })
    }

    fn place<'p>(&self, path: &'p str) -> Option<(Ino, &'p [u8])> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Some((self.find(dir)?, name.as_bytes()))
    }

    // Each says whether it could be done.

    pub fn mkdir(&self, path: &str) -> bool {
        self.tick();
        let Some((dir, name)) = self.place(path) else { return false };
        self.fs.mkdir(ME, dir, name, 0o755).is_ok()
    }

    /// Makes the file if it is not there, and gives it these bytes and no others.
    pub fn write(&self, path: &str, bytes: &str) -> bool {
        self.tick();
        let Some((dir, name)) = self.place(path) else { return false };
        let ino = self.fs.lookup(dir, name).map(|attr| attr.ino);
        let ino = ino.or_else(|_| Ok(self.fs.mknod(ME, dir, name, 0o100_644, 0)?.ino));
        let ino: Result<Ino, crate::fs::FsError> = ino;
        let Ok(ino) = ino else { return false };
        let change = SetAttr { size: Some(0), ..SetAttr::default() };
        self.fs.setattr(ino, &change).is_ok()
            && self.fs.write(ino, 0, bytes.as_bytes(), false).is_ok()
    }

    /// The whole content of a file.
    pub fn read(&self, path: &str) -> String {
        let ino = self.find(path).unwrap();
        String::from_utf8(self.fs.read(ino, 0, u32::MAX).unwrap()).unwrap()
    }

    pub fn append(&self, path: &str, bytes: &str) -> bool {
        self.tick();
        let Some(ino) = self.find(path) else { return false };
        let end = self.fs.getattr(ino).unwrap().size;
        self.fs.write(ino, end, bytes.as_bytes(), false).is_ok()
    }

    pub fn rename(&self, from: &str, to: &str) -> bool {
        self.tick();
        let (Some(from), Some(to)) = (self.place(from), self.place(to)) else { return false };
        self.fs.rename(from, to, RenameMode::Replace).is_ok()
    }

    pub fn link(&self, from: &str, to: &str) -> bool {
        self.tick();
        let (Some(ino), Some((dir, name))) = (self.find(from), self.place(to)) else {
            return false;
        };
        self.fs.link(ino, dir, name).is_ok()
    }

    pub fn unlink(&self, path: &str) -> bool {
        self.tick();
        self.place(path).is_some_and(|(dir, name)| self.fs.unlink(dir, name).is_ok())
    }

    pub fn rmdir(&self, path: &str) -> bool {
        self.tick();
        self.place(path).is_some_and(|(dir, name)| self.fs.rmdir(dir, name).is_ok())
    }

    pub fn chmod(&self, path: &str, mode: u32) -> bool {
        self.tick();
        let change = SetAttr { mode: Some(mode), ..SetAttr::default() };
        self.find(path).is_some_and(|ino| self.fs.setattr(ino, &change).is_ok())
    }

    pub fn set_xattr(&self, path: &str, value: &str) -> bool {
        self.tick();
        let Some(ino) = self.find(path) else { return false };
        self.fs.setxattr(ino, b"user.x", value.as_bytes(), 0).is_ok()
    }

    pub fn remove_xattr(&self, path: &str) -> bool {
        self.tick();
        self.find(path).is_some_and(|ino| self.fs.removexattr(ino, b"user.x").is_ok())
    }

    /// All names, as the mount shows them.
    pub fn seen(&self) -> Listing {
        self.try_seen().unwrap()
    }

    /// All names, as the mount shows them, if all of it can be read.
    pub fn try_seen(&self) -> crate::fs::Result<Listing> {
        listing(&*self.fs, ROOT)
    }

    /// What a head holds that is published now.
    pub fn publish(&self) -> Map {
        self.checkpoint();
        self.shown()
    }

    /// What is shown below what is not published.
    pub fn shown(&self) -> Map {
        self.try_shown().unwrap()
    }

    /// What is shown below what is not published, if all of the tree is here.
    pub fn try_shown(&self) -> Result<Map, crate::volume::StoreError> {
        let mut items = BTreeMap::new();
        let tree = self.fs.volume().tree();
        tree.scan_items(&[], &mut |item| {
            items.insert(item.key.to_vec(), item.values.clone());
            ControlFlow::Continue(())
        })?;
        Ok(Map { items })
    }
}
