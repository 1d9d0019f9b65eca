//! The store: reads chunks and nodes from containers, and publishes new ones.
//!
//! Lock order: `publishing`, then `stage`, then `known`, then those of the index,
//! then the caches. No lock is held while a file is read or written, but for
//! `publishing`.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;

use super::container::{Built, OBJECT_TARGET, Reader, Writer};
use super::copies::{Copies, Listing};
use super::index::Index;
use super::presence::{Landmarks, Relied};
use super::stage::{Stage, Staged};
use super::strays::Stray;
use super::weighted::Weighted;
use super::{Context, Result, StoreError};
use crate::crypto::{DeviceId, Hash, hash, hex};
use crate::format::commit::{Commit, Name, NewObject};
use crate::format::container::{Class, Codec, FRAME_MAX, Kind};
use crate::format::node::{Id, Node};
use crate::io::{Clock, OpenMode, PrivateFolder, Random, SyncedFolder, Timestamp};
use crate::tree::{NewNodes, Root, Source};

/// Where names stand before they enter REPO.
const INTENT: &str = "intent";
/// Longest object that is read whole.
const OBJECT_MAX: u64 = 256 << 20;
/// What the directories of open containers list together: some 32 MiB of it.
const READERS_CHUNKS: usize = 1 << 20;
/// An object is published when this much waits, so that the last one of a
/// checkpoint is stretched and not a small one split off.
const PUBLISH_AT: usize = OBJECT_TARGET + OBJECT_TARGET / 4;

/// How much memory the caches may take.
#[derive(Clone, Copy, Debug)]
pub struct CacheSizes {
    /// Unpacked frames, bytes.
    pub frames: usize,
    /// Tree nodes, bytes.
    pub nodes: usize,
    /// Open containers; fewer where the process may have few descriptors.
    pub containers: usize,
}

impl Default for CacheSizes {
    fn default() -> Self {
        Self { frames: 64 << 20, nodes: 48 << 20, containers: 128 }
    }
}

/// A head that entered REPO.
pub struct Entered {
    /// Its name.
    pub name: Name,
    /// Its bytes.
    pub bytes: u64,
    /// Paths of heads and objects that files written since the last head rest on,
    /// and that are not in REPO any more.
    pub gone: Vec<String>,
}

#[derive(Default)]
pub(super) struct Known {
    pub copies: Copies,
    /// What else the folders of objects hold.
    pub strays: Vec<Stray>,
    /// Verified copies that stand in for what is missing or bad.
    pub stand_ins: HashMap<Name, String>,
    /// Objects that no head names, once they were looked into.
    pub searched: Option<Vec<Name>>,
    pub containers: Vec<Container>,
    pub numbers: HashMap<Name, u32>,
    /// Where each object lies; a device's object may be in another's folder.
    pub objects: HashMap<Hash, (DeviceId, u64)>,
    /// Data objects that entered REPO since the last mount, or were adopted then.
    fresh: HashSet<u32>,
    /// Containers found bad, or not here at full size: they serve what they
    /// can and take no part in deduplication.
    pub doubtful: HashSet<u32>,
}

/// A head or object that chunks may be in.
pub(super) struct Container {
    pub name: Name,
    /// Its bytes, as a head or its own directory tells.
    pub size: u64,
    /// When it was looked for last, by [`Clock::elapsed`], and whether it was in
    /// REPO at its full size.
    pub looked: Option<(Duration, bool)>,
}

impl Known {
    fn number(&mut self, name: &Name, size: u64) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.containers.len() as u32;
        self.containers.push(Container { name: name.clone(), size, looked: None });
        self.numbers.insert(name.clone(), number);
        number
    }
}

/// A container and a frame in it.
type FrameNumber = (u32, u32);

/// The objects of one repository, as one device sees them.
pub struct Store {
    context: Arc<Context>,
    folder: Arc<dyn SyncedFolder>,
    state: Option<Arc<dyn PrivateFolder>>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    device: DeviceId,
    publishing: Mutex<Vec<NewObject>>,
    /// Files whose publishing failed: they may be in REPO, whole or torn.
    failed: Mutex<Vec<Name>>,
    stage: RwLock<Stage>,
    pub(super) known: RwLock<Known>,
    index: Index,
    pub(super) readers: Mutex<Weighted<u32, Arc<Reader>>>,
    frames: Mutex<Weighted<FrameNumber, Arc<Vec<u8>>>>,
    nodes: Mutex<Weighted<Id, Arc<Node>>>,
    staged_bytes: AtomicUsize,
    /// Bytes of objects that no head names yet.
    unnamed_bytes: AtomicU64,
    /// The buffer of the last object, for the next.
    spare: Mutex<Vec<u8>>,
    /// Local state is gone: names are not noted before their files enter REPO.
    stateless: AtomicBool,
    pub(super) landmarks: Mutex<Landmarks>,
    pub(super) relied: Mutex<Relied>,
}

/// A panic elsewhere does not make our maps wrong: each is changed in one step.
macro_rules! locked {
    ($lock:expr) => {
        $lock.unwrap_or_else(PoisonError::into_inner)
    };
}

impl Store {
    /// A store that knows no container yet. Without `state` nothing can be
    /// published.
    pub fn new(
        context: Arc<Context>,
        folder: Arc<dyn SyncedFolder>,
        state: Option<Arc<dyn PrivateFolder>>,
        (clock, random): (Arc<dyn Clock>, Arc<dyn Random>),
        device: DeviceId,
        sizes: CacheSizes,
    ) -> Self {
        let index = Index::new(state.clone());
        Self {
            context,
            folder,
            state,
            clock,
            random,
            device,
            publishing: Mutex::default(),
            failed: Mutex::default(),
            stage: RwLock::default(),
            known: RwLock::default(),
            index,
            readers: Mutex::new(Weighted::new(READERS_CHUNKS, sizes.containers)),
            frames: Mutex::new(Weighted::new(sizes.frames, usize::MAX)),
            nodes: Mutex::new(Weighted::new(sizes.nodes, usize::MAX)),
            staged_bytes: AtomicUsize::new(0),
            unnamed_bytes: AtomicU64::new(0),
            spare: Mutex::default(),
            stateless: AtomicBool::new(false),
            landmarks: Mutex::default(),
            relied: Mutex::default(),
        }
    }

    /// The repository's keys.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The time.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Time since some fixed moment.
    pub(super) fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// The folder it reads from.
    pub fn folder(&self) -> &dyn SyncedFolder {
        &*self.folder
    }

    /// Lists the objects in all devices' folders. What cannot be listed is a stray
    /// then: objects there count as not here.
    pub fn list_objects(&self, devices: &[DeviceId]) -> Result<()> {
        let listing = Listing::of(&*self.folder, devices)?;
        let mut known = locked!(self.known.write());
        known.objects = listing.objects;
        known.strays = listing.strays;
        known.searched = None;
        drop(known);
        self.add_copies(&listing.copies);
        Ok(())
    }

    /// Removes objects from REPO, and forgets them.
    pub fn remove_objects(&self, names: &[Name]) -> Result<()> {
        let home = self.home()?;
        for name in names {
            let path = name.path();
            home.remove(&path).map_err(|error| StoreError::writing(&path, error))?;
        }
        self.forget_objects(names);
        Ok(())
    }

    fn forget_objects(&self, names: &[Name]) {
        let mut known = locked!(self.known.write());
        for hash in names.iter().filter_map(Name::hash) {
            known.objects.remove(&hash);
        }
    }

    /// Objects listed: hash, device and size.
    pub fn objects(&self) -> Vec<(Hash, DeviceId, u64)> {
        let known = locked!(self.known.read());
        known.objects.iter().map(|(hash, (device, size))| (*hash, *device, *size)).collect()
    }

    /// The device in whose folder an object lies, if it is listed.
    pub fn owner(&self, object: &Hash) -> Option<DeviceId> {
        locked!(self.known.read()).objects.get(object).map(|(owner, _)| *owner)
    }

    /// Takes index entries from a commit. Returns whether all its objects are
    /// listed here at full size; those that are not take no part in
    /// deduplication.
    pub fn index_commit(&self, commit: &Commit) -> bool {
        let mut known = locked!(self.known.write());
        let mut complete = true;
        for object in &commit.objects {
            let listed = known.objects.get(&object.hash).copied();
            let device = listed.map_or(commit.device, |found| found.0);
            let number = known.number(&Name::Object { device, hash: object.hash }, object.size);
            if listed.is_none_or(|found| found.1 != object.size) {
                complete = false;
                known.doubtful.insert(number);
            }
            self.index.insert(object.chunks.iter().copied(), number);
        }
        drop(known);
        self.index.spill_if_large();
        complete
    }

    /// The path of an object of tree nodes that a commit names and that is not here
    /// at its full size, nor as a copy.
    pub fn lacking_nodes(&self, commit: &Commit) -> Option<String> {
        let known = locked!(self.known.read());
        let lacking = commit.objects.iter().find(|object| {
            let listed = known.objects.get(&object.hash);
            object.kind == Kind::Metadata
                && listed.is_none_or(|(_, size)| *size != object.size)
                && !known.copies.contains_key(&object.hash)
        })?;
        let device = known.objects.get(&lacking.hash).map_or(commit.device, |found| found.0);
        Some(Name::Object { device, hash: lacking.hash }.path())
    }

    /// Takes index entries from an open container (a head, or an object whose
    /// head is lost).
    pub fn index_container(&self, name: &Name, reader: Arc<Reader>) {
        let number = {
            let mut known = locked!(self.known.write());
            let number = known.number(name, reader.len());
            self.index.insert(reader.directory().chunks.iter().map(|chunk| chunk.id), number);
            number
        };
        self.index.spill_if_large();
        let weight = reader.directory().chunks.len();
        locked!(self.readers.lock()).put(number, reader, weight);
    }

    /// Opens a container by name.
    pub fn open(&self, name: &Name) -> Result<Reader> {
        self.open_or_copy(name).map_err(|error| self.unless_arriving(error))
    }

    fn open_or_copy(&self, name: &Name) -> Result<Reader> {
        match self.open_in_place(name) {
            Err(StoreError::Missing { .. } | StoreError::Damaged { .. })
                if self.turn_to_copy(name) =>
            {
                self.open_in_place(name)
            }
            // What the prefix says in the clear counts only if it is whole.
            Err(error @ (StoreError::Newer { .. } | StoreError::UnknownEpoch { .. })) => {
                if !self.verify(name)? {
                    Err(StoreError::damaged(&name.path(), "its bytes changed"))
                } else if self.is_copied(name) {
                    self.open_in_place(name)
                } else {
                    Err(error)
                }
            }
            other => other,
        }
    }

    fn open_in_place(&self, name: &Name) -> Result<Reader> {
        let path = self.place(name);
        let kinds: &[Kind] = match name {
            Name::Head { .. } => &[Kind::Head],
            _ => &[Kind::Data, Kind::Metadata, Kind::IndexRun],
        };
        match Reader::open(&self.context, &path, self.folder.clone(), kinds) {
            // Those that are open and not in use just now are opened again when
            // they are.
            Err(StoreError::Io { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) =>
            {
                for reader in locked!(self.readers.lock()).values() {
                    reader.close();
                }
                Reader::open(&self.context, &path, self.folder.clone(), kinds)
            }
            opened => opened,
        }
    }

    fn reader(&self, number: u32) -> Result<Arc<Reader>> {
        if let Some(reader) = locked!(self.readers.lock()).get(&number) {
            return Ok(reader);
        }
        let name = self.container(number);
        let reader = Arc::new(self.open(&name)?);
        let weight = reader.directory().chunks.len();
        locked!(self.readers.lock()).put(number, reader.clone(), weight);
        Ok(reader)
    }

    /// Whether a chunk or node is staged, or stored where new content may rest on
    /// it; that it then does is noted.
    pub fn has(&self, id: &Id) -> bool {
        {
            let stage = locked!(self.stage.read());
            if stage.chunks.contains_key(id) || stage.nodes.contains_key(id) {
                return true;
            }
        }
        self.is_stored(id)
    }

    fn is_stored(&self, id: &Id) -> bool {
        let held = self.in_index(id).map(|found| self.rest_on(&found));
        held.unwrap_or_else(|error| store_again(&error))
    }

    /// The name of a container.
    pub(super) fn container(&self, number: u32) -> Name {
        locked!(self.known.read()).containers[number as usize].name.clone()
    }

    /// Whether a chunk is in a data object that entered REPO, durably, since the
    /// last mount, and is there. Others may be damaged, and nobody has looked.
    pub fn is_fresh(&self, id: &Id) -> bool {
        let fresh = |number| locked!(self.known.read()).fresh.contains(&number);
        let held = self.in_index(id).map(|found| self.is_any_seen(&found, fresh));
        held.unwrap_or_else(|error| store_again(&error))
    }

    /// Whether a container that should hold the chunk or node is good.
    pub fn is_in(&self, id: &Id, good: &dyn Fn(&Name) -> bool) -> Result<bool> {
        self.is_held(id, |known, number| good(&known.containers[number as usize].name))
    }

    /// Whether `test` holds for a container that should have it.
    fn is_held(&self, id: &Id, test: impl Fn(&Known, u32) -> bool) -> Result<bool> {
        let found = self.in_index(id)?;
        if found.is_empty() {
            return Ok(false);
        }
        let known = locked!(self.known.read());
        Ok(found.into_iter().any(|number| test(&known, number)))
    }

    fn in_index(&self, id: &Id) -> Result<Vec<u32>> {
        self.index.lookup(id).map_err(|error| StoreError::state("index of chunks", error))
    }

    /// Takes containers that a repair found bad out of deduplication.
    pub fn mark_bad(&self, bad: &[Hash]) {
        let mut known = locked!(self.known.write());
        let numbers: Vec<u32> = known
            .numbers
            .iter()
            .filter(|(name, _)| name.hash().is_some_and(|hash| bad.contains(&hash)))
            .map(|(_, number)| *number)
            .collect();
        known.doubtful.extend(numbers);
    }

    /// Objects that open and are named by no head, with what a head says of
    /// them: their head is lost, or still to come.
    pub fn unnamed(&self) -> Vec<NewObject> {
        self.search();
        let names = locked!(self.known.read()).searched.clone().unwrap_or_default();
        names.iter().filter_map(|name| self.describe(name)).collect()
    }

    /// An object as a commit lists it, if it opens.
    fn describe(&self, name: &Name) -> Option<NewObject> {
        let reader = self.open(name).ok()?;
        let chunks = reader.directory().chunks.iter().map(|chunk| chunk.id).collect();
        let (kind, size) = (reader.prefix().kind, reader.len());
        Some(NewObject { hash: name.hash()?, kind, size, chunks })
    }

    /// Bytes `[from, to)` of a chunk.
    pub fn read(&self, id: &Id, from: u64, to: u64) -> Result<Vec<u8>> {
        // A length out of a damaged tree takes no memory.
        if from > to || to > FRAME_MAX {
            return Err(misplaced(id));
        }
        let mut out = vec![0; (to - from) as usize];
        self.read_into(id, from, &mut out)?;
        Ok(out)
    }

    /// Bytes of a chunk from `from` on, as many as `out` takes. After an error
    /// nothing in `out` means anything.
    pub fn read_into(&self, id: &Id, from: u64, out: &mut [u8]) -> Result<()> {
        if let Some(chunk) = locked!(self.stage.read()).chunks.get(id) {
            let to = from.saturating_add(out.len() as u64);
            let part = chunk.bytes.get(from as usize..to as usize).ok_or_else(|| misplaced(id))?;
            out.copy_from_slice(part);
            return Ok(());
        }
        self.read_stored(id, from, out)
    }

    /// The containers that should hold a chunk or node.
    fn holders(&self, id: &Id) -> Result<Vec<u32>> {
        let lookup = || {
            let mut found = self.in_index(id)?;
            if found.len() > 1 {
                let known = locked!(self.known.read());
                found.sort_by_key(|number| known.doubtful.contains(number));
            }
            Ok(found)
        };
        let found = lookup()?;
        if found.is_empty() && self.search() { lookup() } else { Ok(found) }
    }

    /// Reads a chunk from one container, or from a conflict copy of it.
    fn read_from(&self, number: u32, id: &Id, from: u64, out: &mut [u8]) -> Result<()> {
        match self.read_in_place(number, id, from, out) {
            Err(error @ StoreError::Damaged { .. }) => {
                let name = self.container(number);
                if !self.turn_to_copy(&name) {
                    return Err(self.unless_arriving(error));
                }
                self.read_in_place(number, id, from, out)
            }
            other => other,
        }
    }

    fn read_stored(&self, id: &Id, from: u64, out: &mut [u8]) -> Result<()> {
        let numbers = self.holders(id)?;
        let mut last = StoreError::Missing { what: format!("chunk {}", hex(id)) };
        for number in numbers {
            match self.read_from(number, id, from, out) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    log::warn!("chunk {}: {error}", hex(id));
                    self.mark_doubtful(number, &error);
                    last = error;
                }
            }
        }
        Err(last)
    }

    fn read_in_place(&self, number: u32, id: &Id, from: u64, out: &mut [u8]) -> Result<()> {
        let reader = self.reader(number)?;
        let place = *reader.directory().find(id).ok_or_else(|| misplaced(id))?;
        if from.saturating_add(out.len() as u64) > u64::from(place.len) {
            return Err(misplaced(id));
        }
        if out.is_empty() {
            return Ok(());
        }
        let start = u64::from(place.offset) + from;
        let frame = reader.directory().frames[place.frame as usize];
        if frame.codec == Codec::Raw {
            return reader.raw_range(place.frame, start, out);
        }
        let plain = self.unpacked(number, place.frame, &reader)?;
        out.copy_from_slice(&plain[start as usize..start as usize + out.len()]);
        Ok(())
    }

    fn unpacked(&self, number: u32, frame: u32, reader: &Reader) -> Result<Arc<Vec<u8>>> {
        if let Some(plain) = locked!(self.frames.lock()).get(&(number, frame)) {
            return Ok(plain);
        }
        let plain = Arc::new(reader.frame(frame)?);
        locked!(self.frames.lock()).put((number, frame), plain.clone(), plain.len());
        Ok(plain)
    }

    /// Stages a chunk unless it is stored already. Full objects go to REPO at
    /// once.
    pub fn stage(&self, class: Class, id: Id, bytes: &[u8]) -> Result<()> {
        if self.has(&id) {
            Ok(())
        } else {
            self.stage_new(class, id, Bytes::copy_from_slice(bytes))
        }
    }

    /// The same for chunks of one buffer, which they share if most of it is new:
    /// a few would keep all of it in memory.
    pub fn stage_all(
        &self,
        class: Class,
        buffer: &Bytes,
        chunks: &[(Id, Range<usize>)],
    ) -> Result<()> {
        let new: Vec<_> = chunks.iter().filter(|(id, _)| !self.has(id)).collect();
        let bytes: usize = new.iter().map(|(_, range)| range.len()).sum();
        for (id, range) in new {
            let chunk = if bytes >= buffer.len() / 2 {
                buffer.slice(range.clone())
            } else {
                Bytes::copy_from_slice(&buffer[range.clone()])
            };
            // Once more: a buffer may hold the same chunk twice.
            if !self.has(id) {
                self.stage_new(class, *id, chunk)?;
            }
        }
        Ok(())
    }

    fn stage_new(&self, class: Class, id: Id, bytes: Bytes) -> Result<()> {
        let replaces_bad = self.replaces_bad(&id);
        let staged = {
            let mut stage = locked!(self.stage.write());
            if replaces_bad {
                stage.replaces_bad.insert(id);
            }
            stage.add(id, Staged { class, bytes });
            stage.bytes
        };
        self.staged_bytes.store(staged, Ordering::Relaxed);
        if staged >= PUBLISH_AT { self.publish_oldest(OBJECT_TARGET) } else { Ok(()) }
    }

    /// Whether what is staged now stands for something stored that is bad. If nobody
    /// knows, it is kept as if it did.
    fn replaces_bad(&self, id: &Id) -> bool {
        self.index.contains(id).unwrap_or(true)
    }

    /// Bytes of chunks that wait for an object.
    pub fn staged_bytes(&self) -> usize {
        self.staged_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that came since the last head: chunks that wait for an object, and
    /// objects that wait for a head.
    pub fn new_bytes(&self) -> u64 {
        self.staged_bytes() as u64 + self.unnamed_bytes.load(Ordering::Relaxed)
    }

    /// Stages the nodes that are new.
    pub fn stage_nodes(&self, nodes: NewNodes) {
        for (id, bytes) in nodes {
            if !self.has(&id) {
                let node = Arc::new(Node::decode(&bytes).expect("nodes we encode are valid"));
                let replaces_bad = self.replaces_bad(&id);
                let mut stage = locked!(self.stage.write());
                if replaces_bad {
                    stage.replaces_bad.insert(id);
                }
                stage.nodes.insert(id, (node, bytes.into()));
            }
        }
    }

    /// A node, if it is staged.
    pub fn staged_node(&self, id: &Id) -> Option<Arc<Node>> {
        locked!(self.stage.read()).nodes.get(id).map(|(node, _)| node.clone())
    }

    /// Drops staged nodes and chunks that are not in `live`.
    pub fn retain_staged(&self, live: &HashSet<Id>) {
        let mut stage = locked!(self.stage.write());
        stage.retain(live);
        self.staged_bytes.store(stage.bytes, Ordering::Relaxed);
    }

    /// Publishes staged chunks until at most `leave` bytes wait.
    pub fn publish_objects(&self, leave: usize) -> Result<()> {
        while self.staged_bytes() > leave {
            let waiting = self.staged_bytes();
            let size = if waiting < PUBLISH_AT { waiting } else { OBJECT_TARGET };
            self.publish_oldest(size)?;
        }
        Ok(())
    }

    fn publish_oldest(&self, size: usize) -> Result<()> {
        let mut new = locked!(self.publishing.lock());
        let chunks = locked!(self.stage.read()).oldest(size);
        if chunks.is_empty() {
            return Ok(());
        }
        let mut writer = Writer::new(&self.context, Kind::Data, Vec::new(), &*self.random);
        writer.fill(std::mem::take(&mut *locked!(self.spare.lock())));
        for (id, chunk) in &chunks {
            writer.add(chunk.class, *id, &chunk.bytes);
        }
        let full = size >= OBJECT_TARGET;
        let built = writer.finish(Vec::new(), !full);
        let object = self.publish(Kind::Data, &built)?;
        if full {
            *locked!(self.spare.lock()) = built.bytes;
        }
        new.push(object.clone());
        self.unnamed_bytes.fetch_add(object.size, Ordering::Relaxed);
        self.add(object);
        let mut stage = locked!(self.stage.write());
        stage.drop_oldest(chunks.len());
        self.staged_bytes.store(stage.bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Publishes nodes in metadata objects. What these hold is not known to be
    /// stored before their head is: chunks below a node may wait for that head.
    fn publish_nodes(&self, nodes: &[(Id, Arc<[u8]>)]) -> Result<Vec<NewObject>> {
        let mut objects = Vec::new();
        let mut rest = nodes;
        while !rest.is_empty() {
            let mut writer = Writer::new(&self.context, Kind::Metadata, Vec::new(), &*self.random);
            while let Some(((id, bytes), after)) = rest.split_first()
                && writer.len() < OBJECT_TARGET
            {
                writer.add(Class::Nodes, *id, bytes);
                rest = after;
            }
            let built = writer.finish(Vec::new(), rest.is_empty());
            match self.publish(Kind::Metadata, &built) {
                Ok(object) => objects.push(object),
                Err(error) => {
                    self.give_up(&objects);
                    return Err(error);
                }
            }
        }
        Ok(objects)
    }

    /// Lets an object enter REPO.
    fn publish(&self, kind: Kind, built: &Built) -> Result<NewObject> {
        let name = Name::Object { device: self.device, hash: built.hash };
        self.enter(&name, &built.bytes)?;
        let size = built.bytes.len() as u64;
        Ok(NewObject { hash: built.hash, kind, size, chunks: built.chunks.clone() })
    }

    /// Takes an object of ours into the index.
    fn add(&self, object: NewObject) {
        let mut known = locked!(self.known.write());
        known.objects.insert(object.hash, (self.device, object.size));
        let name = Name::Object { device: self.device, hash: object.hash };
        let number = known.number(&name, object.size);
        if object.kind == Kind::Data {
            known.fresh.insert(number);
        }
        self.index.insert(object.chunks, number);
        drop(known);
        self.index.spill_if_large();
    }

    /// Takes an own data object that no head names: the next one will. `None` if
    /// it is something else, `false` if it is not whole (now). Nodes in metadata
    /// objects must not be known before their head: chunks below them were to be
    /// in it.
    pub fn adopt(&self, name: &Name) -> Result<Option<bool>> {
        let path = name.path();
        let home = self.home()?;
        let whole = match home.read(&path, OBJECT_MAX) {
            Ok(bytes) if name.hash() == Some(hash(&bytes)) => bytes,
            Ok(_) => return Ok(Some(false)),
            Err(error) => match StoreError::io(&path, error) {
                StoreError::Missing { .. } | StoreError::Damaged { .. } => return Ok(Some(false)),
                error => return Err(error),
            },
        };
        let Some(object) = self.describe(name) else { return Ok(Some(false)) };
        if object.kind != Kind::Data {
            return Ok(None);
        }
        // The process may have been killed before its flush.
        home.publish(&path, &whole).map_err(|error| StoreError::writing(&path, error))?;
        drop(home);
        locked!(self.publishing.lock()).push(object.clone());
        self.unnamed_bytes.fetch_add(object.size, Ordering::Relaxed);
        self.add(object);
        Ok(Some(true))
    }

    /// Objects that no head will name are removed with what failed to enter.
    fn give_up(&self, objects: &[NewObject]) {
        let names =
            objects.iter().map(|object| Name::Object { device: self.device, hash: object.hash });
        locked!(self.failed.lock()).extend(names);
    }

    /// Lets a file enter REPO under a name that was noted before.
    fn enter(&self, name: &Name, bytes: &[u8]) -> Result<()> {
        let home = self.home()?;
        self.intend(name)?;
        let path = name.path();
        home.publish(&path, bytes).map_err(|error| {
            locked!(self.failed.lock()).push(name.clone());
            StoreError::writing(&path, error)
        })
    }

    /// Removes from REPO what failed to enter it: no head that entered needs
    /// any of it.
    fn remove_failed(&self) -> Result<()> {
        let mut failed = locked!(self.failed.lock());
        if failed.is_empty() {
            return Ok(());
        }
        let home = self.home()?;
        // A head came before what it names: without it, it must not be there.
        while let Some(name) = failed.first() {
            let path = name.path();
            home.remove(&path).map_err(|error| StoreError::writing(&path, error))?;
            failed.remove(0);
        }
        Ok(())
    }

    /// Whether a head names this file, or it was published here.
    pub fn is_known(&self, name: &Name) -> bool {
        locked!(self.known.read()).numbers.contains_key(name)
    }

    /// Publishes from here on although local state is gone: what is in memory must
    /// not be lost with it. A crash may leave files in REPO that no head names.
    pub fn go_on_without_state(&self) {
        self.stateless.store(true, Ordering::Relaxed);
    }

    /// Whether local state is gone.
    pub fn is_stateless(&self) -> bool {
        self.stateless.load(Ordering::Relaxed)
    }

    /// Notes a name durably before its file enters REPO.
    fn intend(&self, name: &Name) -> Result<()> {
        if self.is_stateless() {
            return Ok(());
        }
        let state = self.state.as_ref().expect("only a store with state publishes");
        let note = || -> std::io::Result<()> {
            let file = match state.open(INTENT, OpenMode::Write) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    let file = state.open(INTENT, OpenMode::CreateNew)?;
                    state.sync_dir("")?;
                    file
                }
                other => other?,
            };
            // What went wrong before may have left half a line.
            file.write_at(file.len()?, format!("\n{}\n", name.path()).as_bytes())?;
            file.sync_data()
        };
        note().map_err(|error| StoreError::state("intent log", error))
    }

    /// Names in the intent log: files that may be in REPO without a head.
    pub fn intents(state: &dyn PrivateFolder) -> std::io::Result<Vec<String>> {
        match state.read(INTENT, 64 << 20) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes)
                .split_inclusive('\n')
                .filter_map(|line| line.strip_suffix('\n'))
                .map(str::to_string)
                .collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Empties the intent log: the head that names everything is durable.
    pub fn clear_intents(state: &dyn PrivateFolder) -> std::io::Result<()> {
        match state.open(INTENT, OpenMode::Write) {
            Ok(file) => {
                file.set_len(0)?;
                file.sync_data()
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Publishes a head: what is still staged goes into it (or, nodes above
    /// `nodes_max` bytes, into a metadata object before it). `commit` is
    /// completed with the objects published since the last head, then with the root that
    /// `ledger` makes of it, whose new nodes the head holds itself: an object that held them
    /// would be missing in them.
    pub fn publish_head(
        &self,
        commit: &mut Commit,
        extension: Vec<u8>,
        nodes_max: usize,
        ledger: &dyn Fn(&Commit) -> (Root, NewNodes),
    ) -> Result<Entered> {
        let gone = self.look_again()?;
        let mut new = locked!(self.publishing.lock());
        let nodes: Vec<(Id, Arc<[u8]>)> = {
            let stage = locked!(self.stage.read());
            let mut nodes: Vec<_> =
                stage.nodes.iter().map(|(id, (_, bytes))| (*id, bytes.clone())).collect();
            nodes.sort_unstable_by_key(|node| node.0);
            nodes
        };
        let node_bytes: usize = nodes.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut metadata = Vec::new();
        let mut in_head = &nodes[..];
        if node_bytes > nodes_max {
            metadata = self.publish_nodes(&nodes)?;
            in_head = &[];
        }
        let chunks = locked!(self.stage.read()).oldest(usize::MAX);
        let mut writer = Writer::new(&self.context, Kind::Head, extension, &*self.random);
        for (id, bytes) in in_head {
            writer.add(Class::Nodes, *id, bytes);
        }
        for (id, chunk) in &chunks {
            writer.add(chunk.class, *id, &chunk.bytes);
        }
        commit.objects.extend(new.iter().chain(&metadata).cloned());
        let (root, rows) = ledger(commit);
        commit.ledger = root;
        for (id, bytes) in &rows {
            writer.add(Class::Nodes, *id, bytes);
        }
        let built = writer.finish(commit.encode(), true);
        let name =
            Name::Head { device: commit.device, generation: commit.generation, hash: built.hash };
        // Before the head: entering its folder makes their removal durable too.
        if let Err(error) = self.remove_failed().and_then(|()| self.enter(&name, &built.bytes)) {
            self.give_up(&metadata);
            return Err(error);
        }
        let bytes = built.bytes.len() as u64;
        locked!(self.landmarks.lock()).head = Some((name.path(), bytes));
        new.clear();
        self.unnamed_bytes.store(0, Ordering::Relaxed);
        *locked!(self.spare.lock()) = Vec::new();
        for object in metadata {
            self.add(object);
        }
        let mut stage = locked!(self.stage.write());
        let mut known = locked!(self.known.write());
        let number = known.number(&name, built.bytes.len() as u64);
        self.index.insert(built.chunks.iter().copied(), number);
        stage.drop_oldest(chunks.len());
        for (id, _) in &nodes {
            if let Some((node, _)) = stage.nodes.remove(id) {
                let weight = node.memory();
                locked!(self.nodes.lock()).put(*id, node, weight);
            }
        }
        self.staged_bytes.store(stage.bytes, Ordering::Relaxed);
        drop(stage);
        drop(known);
        self.index.spill_if_large();
        self.forget_relied();
        Ok(Entered { name, bytes, gone })
    }

    fn node_of(&self, id: &Id) -> Result<Arc<Node>> {
        if let Some(node) = locked!(self.nodes.lock()).get(id) {
            return Ok(node);
        }
        if let Some((node, _)) = locked!(self.stage.read()).nodes.get(id) {
            return Ok(node.clone());
        }
        let numbers = self.holders(id)?;
        let mut last = StoreError::Missing { what: format!("tree node {}", hex(id)) };
        for number in numbers {
            let found = self.reader(number).and_then(|reader| {
                let place = *reader.directory().find(id).ok_or_else(|| misplaced(id))?;
                let mut bytes = vec![0; place.len as usize];
                self.read_from(number, id, 0, &mut bytes)?;
                Node::decode(&bytes)
                    .map_err(|error| StoreError::damaged(&format!("tree node {}", hex(id)), error))
            });
            match found {
                Ok(node) => {
                    let node = Arc::new(node);
                    locked!(self.nodes.lock()).put(*id, node.clone(), node.memory());
                    return Ok(node);
                }
                Err(error) => {
                    self.mark_doubtful(number, &error);
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Takes a bad container out of deduplication: writing the same content
    /// again stores it anew.
    fn mark_doubtful(&self, number: u32, error: &StoreError) {
        if matches!(error, StoreError::Damaged { .. } | StoreError::Missing { .. }) {
            locked!(self.known.write()).doubtful.insert(number);
        }
    }

    /// Longest chunk.
    pub const CHUNK_MAX: u64 = FRAME_MAX;
}

/// What may be stored is taken as not stored: then it is, once more.
fn store_again(error: &StoreError) -> bool {
    log::error!("{error}");
    false
}

fn misplaced(id: &Id) -> StoreError {
    StoreError::damaged(&format!("chunk {}", hex(id)), "it is not where the index says")
}

impl Source for Store {
    type Error = StoreError;

    fn node(&self, id: &Id) -> Result<Arc<Node>> {
        self.node_of(id)
    }

    fn misfit(&self, id: &Id) -> StoreError {
        StoreError::damaged(&format!("tree node {}", hex(id)), "it is of another kind or level")
    }
}
