//! Reading: chunks and nodes out of containers, through the caches.
//!
//! Invariant: bytes that are handed out were authenticated in a container that has the id that
//! was asked for, or are staged under it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::container::Reader;
use super::weighted::Weighted;
use super::{Result, Store, StoreError};
use crate::crypto::hex;
use crate::format::commit::{Name, NewObject};
use crate::format::container::{Class, Codec, FRAME_MAX, Kind};
use crate::format::node::{Id, Node};
use crate::tree::Source;

/// What the directories of open containers list together: some 32 MiB of it.
const READERS_CHUNKS: usize = 1 << 20;

/// How much memory the caches may take.
#[derive(Clone, Copy, Debug)]
pub struct CacheSizes {
    /// How many bytes the unpacked frames may take.
    pub frames: usize,
    /// How many bytes the decoded tree nodes may take.
    pub nodes: usize,
    /// Open containers; fewer where the process may have few descriptors.
    pub containers: usize,
}

impl Default for CacheSizes {
    fn default() -> Self {
        Self { frames: 64 << 20, nodes: 48 << 20, containers: 128 }
    }
}

/// A container and a frame in it.
type FrameNumber = (u32, u32);

/// What was read and may be asked for again.
pub(super) struct Caches {
    readers: Mutex<Weighted<u32, Arc<Reader>>>,
    frames: Mutex<Weighted<FrameNumber, Arc<Vec<u8>>>>,
    nodes: Mutex<Weighted<Id, Arc<Node>>>,
}

// A panic elsewhere does not make a cache wrong: it is changed in one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Caches {
    /// Caches that hold nothing yet and may grow to these sizes.
    pub(super) fn new(sizes: CacheSizes) -> Self {
        Self {
            readers: Mutex::new(Weighted::new(READERS_CHUNKS, sizes.containers)),
            frames: Mutex::new(Weighted::new(sizes.frames, usize::MAX)),
            nodes: Mutex::new(Weighted::new(sizes.nodes, usize::MAX)),
        }
    }

    /// Puts an open container into the cache, under its number.
    pub(super) fn put_reader(&self, number: u32, reader: Arc<Reader>) {
        let weight = reader.directory().chunks.len();
        locked(&self.readers).put(number, reader, weight);
    }

    /// Forgets an open container: another file stands in for it.
    pub(super) fn forget_reader(&self, number: u32) {
        locked(&self.readers).remove(&number);
    }

    /// Closes the files of all open containers. Each is opened again when it is read.
    fn close_all(&self) {
        for reader in locked(&self.readers).values() {
            reader.close();
        }
    }

    /// Closes files of containers that nobody read since the last call.
    pub(super) fn close_idle(&self) {
        for reader in locked(&self.readers).values() {
            reader.close_if_idle();
        }
    }

    /// Puts a decoded node into the cache, under its id.
    pub(super) fn put_node(&self, id: Id, node: Arc<Node>) {
        let weight = node.memory();
        locked(&self.nodes).put(id, node, weight);
    }

    fn frame(&self, number: u32, frame: u32, reader: &Reader) -> Result<Arc<Vec<u8>>> {
        if let Some(plain) = locked(&self.frames).get(&(number, frame)) {
            return Ok(plain);
        }
        let plain = Arc::new(reader.frame(frame)?);
        locked(&self.frames).put((number, frame), plain.clone(), plain.len());
        Ok(plain)
    }
}

impl Store {
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
                self.caches.close_all();
                Reader::open(&self.context, &path, self.folder.clone(), kinds)
            }
            opened => opened,
        }
    }

    fn reader(&self, number: u32) -> Result<Arc<Reader>> {
        if let Some(reader) = locked(&self.caches.readers).get(&number) {
            return Ok(reader);
        }
        let reader = Arc::new(self.open(&self.catalogue.name(number))?);
        self.caches.put_reader(number, reader.clone());
        Ok(reader)
    }

    /// Closes files that nobody read since the last call: open, they would keep
    /// the owner's disk from being unmounted.
    pub fn close_idle(&self) {
        self.caches.close_idle();
    }

    /// An object as a commit lists it, if it opens.
    pub(super) fn describe(&self, name: &Name) -> Option<NewObject> {
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
        if let Some(chunk) = self.stage.chunk(id) {
            let to = from.saturating_add(out.len() as u64);
            let part = chunk.get(from as usize..to as usize).ok_or_else(|| misplaced(id))?;
            out.copy_from_slice(part);
            return Ok(());
        }
        self.read_stored(id, from, out)
    }

    /// The containers that should hold a chunk or node.
    fn holders(&self, id: &Id) -> Result<Vec<u32>> {
        let found = self.catalogue.lookup_good_first(id)?;
        if !found.is_empty() {
            return Ok(found);
        }
        // No head here names it: the one that does may have come since.
        let lookout = self.lookout.get();
        let has_looked = lookout.is_some_and(|lookout| lookout.look_again(self, self.elapsed()));
        if !has_looked && !self.search() {
            return Ok(found);
        }
        let found = self.catalogue.lookup_good_first(id)?;
        if found.is_empty() && has_looked && self.search() {
            return self.catalogue.lookup_good_first(id);
        }
        Ok(found)
    }

    fn read_stored(&self, id: &Id, from: u64, out: &mut [u8]) -> Result<()> {
        let numbers = self.holders(id)?;
        let mut last = StoreError::Missing { what: format!("chunk {}", hex(id)) };
        for number in numbers {
            match self.read_from(number, id, from, out) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    log::warn!("chunk {}: {error}", hex(id));
                    self.mark_if_bad(number, &error);
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Reads a chunk from one container, or from a conflict copy of it.
    pub(super) fn read_from(&self, number: u32, id: &Id, from: u64, out: &mut [u8]) -> Result<()> {
        match self.read_in_place(number, id, from, out) {
            Err(error @ (StoreError::Damaged { .. } | StoreError::Missing { .. })) => {
                if !self.turn_to_copy(&self.catalogue.name(number)) {
                    return Err(self.unless_arriving(error));
                }
                self.read_in_place(number, id, from, out)
            }
            other => other,
        }
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
        let plain = self.caches.frame(number, place.frame, &reader)?;
        out.copy_from_slice(&plain[start as usize..start as usize + out.len()]);
        Ok(())
    }

    /// A whole chunk or node from one container: its class, how many bytes behind the start of a page it
    /// begins, and its bytes.
    pub(super) fn whole_from(&self, number: u32, id: &Id) -> Result<(Class, u16, Vec<u8>)> {
        let reader = self.reader(number)?;
        let place = *reader.directory().find(id).ok_or_else(|| misplaced(id))?;
        let frame = reader.directory().frames[place.frame as usize];
        let mut bytes = vec![0; place.len as usize];
        self.read_from(number, id, 0, &mut bytes)?;
        Ok((frame.class, frame.phase, bytes))
    }

    fn stored_node(&self, id: &Id) -> Result<Arc<Node>> {
        let numbers = self.holders(id)?;
        let mut last = StoreError::Missing { what: format!("tree node {}", hex(id)) };
        for number in numbers {
            match self.node_from(number, id) {
                Ok(node) => {
                    let node = Arc::new(node);
                    self.caches.put_node(*id, node.clone());
                    return Ok(node);
                }
                Err(error) => {
                    self.mark_if_bad(number, &error);
                    last = error;
                }
            }
        }
        Err(last)
    }

    fn node_from(&self, number: u32, id: &Id) -> Result<Node> {
        let reader = self.reader(number)?;
        let place = *reader.directory().find(id).ok_or_else(|| misplaced(id))?;
        let mut bytes = vec![0; place.len as usize];
        self.read_from(number, id, 0, &mut bytes)?;
        Node::decode(&bytes)
            .map_err(|error| StoreError::damaged(&format!("tree node {}", hex(id)), error))
    }

    /// Takes a container that served wrong bytes or none out of deduplication: writing the
    /// same content again stores it anew.
    fn mark_if_bad(&self, number: u32, error: &StoreError) {
        if matches!(error, StoreError::Damaged { .. } | StoreError::Missing { .. }) {
            self.catalogue.mark_bad(number);
        }
    }
}

fn misplaced(id: &Id) -> StoreError {
    StoreError::damaged(&format!("chunk {}", hex(id)), "it is not where the index says")
}

impl Source for Store {
    type Error = StoreError;

    fn node(&self, id: &Id) -> Result<Arc<Node>> {
        if let Some(node) = locked(&self.caches.nodes).get(id) {
            return Ok(node);
        }
        if let Some(node) = self.stage.node(id) {
            return Ok(node);
        }
        self.stored_node(id)
    }

    fn misfit(&self, id: &Id) -> StoreError {
        StoreError::damaged(&format!("tree node {}", hex(id)), "it is of another kind or level")
    }
}
