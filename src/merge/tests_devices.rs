//! Devices that change copies of one repository apart from each other, and what their trees
//! join to. Each join is checked for what holds of every join.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::crypto::{Secret, hash, hex, random_id};
use crate::format::clock::Writer;
use crate::format::namespace::{Inode, XattrState};
use crate::format::node::{Dotted, NO_ID};
use crate::format::side_files::{SIDE_SUFFIXES, main_name};
use crate::fs::{
    Caller, Followed, Fs, Operations, Options, Ownership, RecoverError, RenameMode, SetAttr,
};
use crate::io::sim::{Crash, SimRandom, SimWorld};
use crate::journal::Options as JournalOptions;
use crate::store::Context;
use crate::sync::{self, OpenOptions};
use crate::tree::testing::{Memory, keys};
use crate::tree::{Keys, NewNodes, Root, diff, join, map};
use crate::volume::repository::{Repository, init};
use crate::volume::state::State;
use crate::volume::{Volume, VolumeError, World};

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
    fs: Fs,
    name: String,
}

/// All that another machine has in REPO is here, too.
fn take_over(world: &SimWorld, other: &SimWorld) {
    for path in other.paths().iter().filter(|path| path.starts_with("repo/")) {
        world.put(path, &other.get(path).unwrap());
    }
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
                Ok(Device { world, key, hands, fs, name })
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
        Self::open(
            world,
            key,
            Hands { now: Rc::new(Cell::new(BEGIN)), ahead: Cell::default() },
            name,
            seed,
        )
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
        let (keyring, register, _) = repository.unlock(key).unwrap();
        let parts = World {
            repo: folder,
            state: Some(world.folder("state")),
            clock: world.clock(),
            random: Arc::new(SimRandom::new(seed)),
        };
        let context = Arc::new(Context::new(repository.repo, keyring));
        let options = OpenOptions { device_name: name.into(), ..OpenOptions::default() };
        sync::open(parts, &repository, context, register, &options)
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
        follower.has_news(self.volume()).unwrap()
    }

    /// Looks what other devices say; the error is a text.
    pub fn read_heads(&self, follower: &sync::Follower) -> Result<(), String> {
        self.fs.read_heads(follower).map_err(|error| error.to_string())
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

    /// The same, and the whole bytes are there under another name.
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
    fn tick(&self) {
        self.hands.now.set(self.hands.now.get() + 1);
        self.world.clock().advance(Duration::from_secs(1));
        self.world.clock().set_wall(self.hands.shown());
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
        let mut listing = Listing::new();
        self.walk(ROOT, "", &mut listing)?;
        Ok(listing)
    }

    fn walk(&self, dir: Ino, above: &str, listing: &mut Listing) -> crate::fs::Result<()> {
        let mut entries = Vec::new();
        let mut fill = |entry: &crate::fs::DirEntry| {
            entries.push(entry.clone());
            true
        };
        self.fs.readdir(dir, 2, true, &mut fill)?;
        for entry in entries {
            let path = format!("{above}{}", String::from_utf8(entry.name).unwrap());
            let ino = entry.attr.ino;
            let is_dir = entry.attr.mode & 0o170_000 == 0o040_000;
            let bytes = if is_dir {
                self.walk(ino, &format!("{path}/"), listing)?;
                Vec::new()
            } else {
                self.fs.read(ino, 0, u32::MAX)?
            };
            let line = Line {
                is_dir,
                bytes: String::from_utf8(bytes).unwrap(),
                mode: entry.attr.mode,
                links: if is_dir { 1 } else { entry.attr.nlink as usize },
                xattrs: self.fs.getxattr(ino, b"user.x").into_iter().collect(),
            };
            listing.insert(path, line);
        }
        Ok(())
    }

    /// What a head holds that is published now.
    pub fn publish(&self) -> Map {
        self.checkpoint();
        self.shown()
    }

    /// What is shown below what is not published.
    pub fn shown(&self) -> Map {
        let mut items = BTreeMap::new();
        let tree = self.fs.volume().tree();
        tree.scan_items(&[], &mut |item| {
            items.insert(item.key.to_vec(), item.values.clone());
            ControlFlow::Continue(())
        })
        .unwrap();
        Map { items }
    }
}

/// A namespace as a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Map {
    items: BTreeMap<Vec<u8>, Vec<Dotted>>,
}

fn decoded(key: &Key, values: &[Dotted]) -> Values {
    values.iter().map(|v| (v.dot, Value::decode(key, &v.bytes).unwrap())).collect()
}

impl Joined for Map {
    type Error = std::convert::Infallible;

    fn values(&self, key: &Key) -> Result<Values, Self::Error> {
        Ok(self.items.get(&key.encode()).map_or(Vec::new(), |values| decoded(key, values)))
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Result<Vec<(Key, Values)>, Self::Error> {
        let range = self.items.range(from.to_vec()..to.to_vec());
        Ok(range
            .map(|(key, values)| {
                let key = Key::decode(key).unwrap();
                let values = decoded(&key, values);
                (key, values)
            })
            .collect())
    }
}

/// What is seen of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub is_dir: bool,
    pub bytes: String,
    mode: u32,
    links: usize,
    xattrs: Vec<Vec<u8>>,
}

/// All paths.
pub(crate) type Listing = BTreeMap<String, Line>;

impl Map {
    fn all(&self) -> impl Iterator<Item = (Key, Values)> + '_ {
        self.items.iter().map(|(key, values)| {
            let key = Key::decode(key).unwrap();
            let values = decoded(&key, values);
            (key, values)
        })
    }

    /// A writer of which nothing is in it.
    pub fn new_writer(&self) -> Writer {
        let mut all = (0x7f_0000_0001..).map(|number| Writer::new(number).unwrap());
        all.find(|writer| !self.items.contains_key(&Key::Writer(*writer).encode())).unwrap()
    }

    /// All of it is suspected.
    pub fn suspects(&self) -> Suspects {
        let mut suspects = Suspects::default();
        for (key, values) in self.all() {
            for (_, value) in &values {
                suspects.add(&key, value);
            }
        }
        suspects
    }

    fn store(&self, memory: &mut Memory) -> Root {
        let edit = |(key, values): (&Vec<u8>, &Vec<Dotted>)| {
            let item = MapItem { key: key.clone().into(), values: values.clone() };
            (key.clone(), Some(item))
        };
        let edits: Vec<map::Edit> = self.items.iter().map(edit).collect();
        let mut new = NewNodes::new();
        let root = map::edit(Keys(&keys()), memory, (NO_ID, 0), &edits, &mut new).unwrap();
        memory.0.extend(new);
        root
    }

    /// The map with these groups. They stand under the dots that they have, or each under one
    /// of this writer.
    pub fn with<'r>(
        &self,
        groups: impl IntoIterator<Item = &'r Group>,
        writer: Option<Writer>,
    ) -> Self {
        let mut map = self.clone();
        for (at, group) in groups.into_iter().enumerate() {
            for Repair { key, value, drops } in &group.repairs {
                let encoded = key.encode();
                assert!(Key::decode(&encoded).as_ref() == Ok(key), "{key:?} is no key");
                let mut values = map.items.remove(&encoded).unwrap_or_default();
                values.retain(|value| !drops.contains(&value.dot));
                if let Some((dot, value)) = value {
                    let dot = writer.map_or(*dot, |w| Dot::new(w, at as u64 + 1).unwrap());
                    let bytes = value.encode();
                    assert!(Value::decode(key, &bytes).as_ref() == Ok(value), "{value:?}");
                    values.retain(|value| value.dot != dot);
                    values.push(Dotted { dot, bytes });
                    values.sort_by_key(|value| value.dot);
                }
                if !values.is_empty() {
                    map.items.insert(encoded, values);
                }
            }
        }
        if let Some(writer) = writer {
            let key = Key::Writer(writer);
            let dot = Dot::new(writer, 1 << 20).unwrap();
            let bytes = Value::Writer([9; 16], "settler".into()).encode();
            map.items.insert(key.encode(), vec![Dotted { dot, bytes }]);
        }
        map
    }

    /// All names, or why it is no plain tree.
    pub fn listing(&self) -> Result<Listing, String> {
        let mut records: BTreeMap<Ino, Inode> = BTreeMap::new();
        let mut entries: BTreeMap<Place, (Ino, u32)> = BTreeMap::new();
        let mut backs: BTreeMap<Ino, BTreeSet<Place>> = BTreeMap::new();
        let mut xattrs: BTreeMap<Ino, Vec<Vec<u8>>> = BTreeMap::new();
        for (key, mut values) in self.all() {
            // Two devices may have left the same.
            if values.len() != 1 && !matches!(key, Key::Unsettled(..)) {
                return Err(format!("{key:?} has {} values", values.len()));
            }
            match (key, values.pop().unwrap().1) {
                (Key::Inode(ino), Value::Inode(inode)) => drop(records.insert(ino, *inode)),
                (Key::Entry(dir, _, name), Value::Entry(ino, kind)) => {
                    entries.insert((dir, name), (ino, kind));
                }
                (Key::Back(ino, dir, name), _) => {
                    backs.entry(ino).or_default().insert((dir, name));
                }
                (Key::Xattr(ino, _), Value::Xattr(xattr)) => match xattr.state {
                    XattrState::Inline(bytes) => xattrs.entry(ino).or_default().push(bytes),
                    _ => drop(xattrs.entry(ino).or_default()),
                },
                _ => {}
            }
        }
        for (place, (ino, kind)) in &entries {
            let Some(inode) = records.get(ino) else { return Err(format!("{place:?}: no inode")) };
            if inode.kind() != *kind {
                return Err(format!("{place:?} has another kind"));
            }
            if !records.get(&place.0).is_some_and(Inode::is_dir) {
                return Err(format!("{place:?} lies in no directory"));
            }
            if !backs.get(ino).is_some_and(|names| names.contains(place)) {
                return Err(format!("{place:?} has no back reference"));
            }
        }
        for (ino, names) in &backs {
            let stray = names.iter().find(|place| entries.get(*place).map(|e| e.0) != Some(*ino));
            if let Some(place) = stray {
                return Err(format!("{ino:x} has a back reference without an entry: {place:?}"));
            }
            if records[ino].is_dir() && names.len() > 1 {
                return Err(format!("directory {ino:x} has {} names", names.len()));
            }
        }
        if let Some(ino) = xattrs.keys().find(|ino| !records.contains_key(ino)) {
            return Err(format!("{ino:x} has attributes and no record"));
        }
        let mut listing = Listing::new();
        let mut reached = BTreeSet::from([ROOT]);
        for ((dir, name), (ino, _)) in &entries {
            let (mut path, mut at) = (String::from_utf8_lossy(name).into_owned(), *dir);
            let mut steps = 0;
            while at != ROOT {
                let (up, name) = backs[&at].first().unwrap();
                path = format!("{}/{path}", String::from_utf8_lossy(name));
                at = *up;
                steps += 1;
                if steps > records.len() {
                    return Err(format!("{path} hangs in a cycle"));
                }
            }
            reached.insert(*ino);
            let inode = &records[ino];
            let line = Line {
                is_dir: inode.is_dir(),
                bytes: String::from_utf8_lossy(&inode.inline).into_owned(),
                mode: inode.mode,
                links: backs[ino].len(),
                xattrs: xattrs.get(ino).cloned().unwrap_or_default(),
            };
            listing.insert(path, line);
        }
        if let Some(ino) = records.keys().find(|ino| !reached.contains(ino)) {
            return Err(format!("nothing names {ino:x}"));
        }
        self.check_sides(&entries, &records)?;
        Ok(listing)
    }

    /// A file beside a database goes with that very version of it.
    fn check_sides(
        &self,
        entries: &BTreeMap<Place, (Ino, u32)>,
        records: &BTreeMap<Ino, Inode>,
    ) -> Result<(), String> {
        for (place, (side, kind)) in entries {
            let Some(main) = main_name(&place.1) else { continue };
            let Some((main, of)) = entries.get(&(place.0, main.to_vec())) else { continue };
            // A file with both names is no log of itself.
            if (*kind, *of) != (0o100_000, 0o100_000) || side == main {
                continue;
            }
            let dot = self.items[&Key::Inode(*main).encode()][0].dot;
            let from = records[main].history.content.origin(dot);
            if records[side].history.main != Some((*main, from)) {
                let name = String::from_utf8_lossy(&place.1);
                return Err(format!(
                    "{name} stands beside another version: {:?}",
                    records[side].history.main
                ));
            }
        }
        Ok(())
    }
}

/// Of each file that is no side file its bytes, and those of each side file beside it.
pub(crate) type Pairs = BTreeSet<(String, usize, Option<String>)>;

pub(crate) fn pairs(listing: &Listing) -> Pairs {
    let mut pairs = Pairs::new();
    for (path, line) in listing.iter().filter(|(_, line)| !line.is_dir) {
        let name = path.rsplit('/').next().unwrap();
        if main_name(name.as_bytes()).is_some() {
            continue;
        }
        for (at, suffix) in SIDE_SUFFIXES.iter().enumerate() {
            let beside = listing.get(&format!("{path}{}", String::from_utf8_lossy(suffix)));
            // Equal bytes are one file with both names: bytes are made once.
            let beside = beside.filter(|side| !side.is_dir && side.bytes != line.bytes);
            let beside = beside.map(|side| side.bytes.clone());
            pairs.insert((line.bytes.clone(), at, beside));
        }
    }
    pairs
}

/// The join of maps, in their order, and what of it may need a repair.
pub(crate) fn joined(maps: &[&Map]) -> (Map, Suspects) {
    let mut memory = Memory::default();
    let roots: Vec<Root> = maps.iter().map(|map| map.store(&mut memory)).collect();
    let mut root = roots[0];
    for other in &roots[1..] {
        let mut new = NewNodes::new();
        root = join::join(Keys(&keys()), &memory, (root, *other), &mut new).unwrap().unwrap();
        memory.0.extend(new);
    }
    let mut suspects = Suspects::default();
    for one in roots {
        for difference in diff::maps(&memory, root, one) {
            suspects.add_difference(&difference.unwrap()).unwrap();
        }
    }
    let mut items = BTreeMap::new();
    map::scan(&memory, root, &[], &mut |item| {
        items.insert(item.key.to_vec(), item.values.clone());
        ControlFlow::Continue(())
    })
    .unwrap();
    (Map { items }, suspects)
}

pub(crate) fn repairs(map: &Map, ids: &IdKeys, suspects: &Suspects) -> Repairs {
    let Ok(repairs) = repair(map, ids, suspects);
    repairs
}

/// What rows for these repairs suspect in a map.
pub(crate) fn of_rows(map: &Map, repairs: &Repairs) -> Suspects {
    let mut suspects = Suspects::default();
    for repair in repairs.groups.iter().flat_map(|group| &group.repairs) {
        let Ok(values) = map.values(&repair.key);
        let named = match &repair.key {
            key @ Key::Entry(..) => vec![(key.clone(), values)],
            _ => Vec::new(),
        };
        suspects.add_row(repair.key.ino(), &named);
    }
    suspects
}

/// What a joined map and its repairs show; any choice of them, stored, shows the same.
pub(crate) fn settled(map: &Map, ids: &IdKeys, repairs: &Repairs) -> Result<Map, String> {
    let view = map.with(&repairs.groups, None);
    let listing = view.listing()?;
    let again = self::repairs(&view, ids, &view.suspects());
    if !again.is_empty() {
        return Err(format!("repaired again: {:#?}\nafter {:#?}", again.groups, repairs.groups));
    }
    let writer = map.new_writer();
    let count = repairs.groups.len();
    let choices: Vec<u64> = match count {
        0..=3 => (1..1 << count).collect(),
        _ => (0..8u64).map(|n| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3).collect(),
    };
    for choice in choices {
        let chosen = repairs.groups.iter().enumerate();
        let chosen = chosen.filter(|(at, _)| choice >> (at % 60) & 1 == 1).map(|(_, group)| group);
        let stored = map.with(chosen, Some(writer));
        let rest = self::repairs(&stored, ids, &stored.suspects());
        let known = self::repairs(&stored, ids, &of_rows(&stored, repairs));
        if known != rest {
            return Err(format!(
                "choice {choice:b} of {:#?} leaves {:#?}\nby rows {:#?}",
                repairs.groups, rest, known
            ));
        }
        let shown = stored.with(&rest.groups, None).listing()?;
        if shown != listing {
            let groups = &repairs.groups;
            return Err(format!(
                "choice {choice:b} shows {shown:#?}\nnot {listing:#?}\n{groups:#?}"
            ));
        }
    }
    Ok(map.with(&repairs.groups, Some(writer)))
}

/// What plain trees join to, with its repairs: checked for all that holds of every join.
pub(crate) fn checked(maps: &[&Map], ids: &IdKeys) -> Result<(Map, Repairs), String> {
    let (map, suspects) = joined(maps);
    let repairs = self::repairs(&map, ids, &suspects);
    let backwards: Vec<&Map> = maps.iter().rev().copied().collect();
    let (other, others) = joined(&backwards);
    if map != other || repairs != self::repairs(&other, ids, &others) {
        return Err("the order of joins matters".into());
    }
    let whole = self::repairs(&map, ids, &map.suspects());
    if whole != repairs {
        return Err(format!("of the whole map: {whole:#?}\nof what differs: {repairs:#?}"));
    }
    let known = self::repairs(&map, ids, &of_rows(&map, &repairs));
    if known != repairs {
        return Err(format!("by rows: {known:#?}\nof what differs: {repairs:#?}"));
    }
    settled(&map, ids, &repairs)?;
    Ok((map.with(&repairs.groups, None), repairs))
}

/// All that is shown of a join: paths of directories end with a slash, files have their bytes
/// behind them. Digits in names of losers are hidden, as they follow from random numbers.
pub(crate) fn shown(maps: &[&Map], ids: &IdKeys) -> Vec<String> {
    let (map, _) = checked(maps, ids).unwrap_or_else(|error| panic!("{error}"));
    let line = |(path, line): (&String, &Line)| {
        let path = match path.find(" (from ").and_then(|at| Some(at + path[at..].find(')')?)) {
            Some(end) => format!("{}####{}", &path[..end - 4], &path[end..]),
            None => path.clone(),
        };
        if line.is_dir { format!("{path}/") } else { format!("{path}={}", line.bytes) }
    };
    let mut lines: Vec<String> = map.listing().unwrap().iter().map(line).collect();
    lines.sort();
    lines
}

impl Line {
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }
    pub fn links(&self) -> usize {
        self.links
    }
    pub fn xattrs(&self) -> &[Vec<u8>] {
        &self.xattrs
    }
}
