//! What a file system asks of a volume beside the namespace: content of files, and how far
//! new chunks are on their way into REPO.
//!
//! Invariant: nothing here changes the commit that the volume is based on; chunks and nodes
//! that are staged here are in no head before the next checkpoint.

use std::ops::Range;

use super::Volume;
use super::content::{self, Layer, Stored};
use super::flush::{self, Flushed};
use super::shape::{self, Stretches};
use super::unfit::journal_keys;
use crate::format::commit::Name;
use crate::format::namespace::Content;
use crate::format::node::Id;
use crate::format::record::Piece;
use crate::journal::JournalKeys;
use crate::store::Result;
use crate::tree::content::range;

impl Volume {
    /// The keys of the journal in local state.
    pub fn journal_keys(&self) -> JournalKeys {
        journal_keys(self.store.context(), self.state().journal_of)
    }

    /// The keyed hash of a name, by which directories are ordered.
    pub fn name_hash(&self, name: &[u8]) -> u64 {
        self.store.context().ids.name_hash(name)
    }

    /// Reads `[from, to)` of layers (lowest first) over stored content into `out`,
    /// which is as long. `to` must not be above the size.
    pub fn read_content(
        &self,
        stored: &Stored,
        layers: &[&Layer],
        from: u64,
        to: u64,
        out: &mut [u8],
    ) -> Result<()> {
        content::read(&self.store, stored, layers, from, to, out)
    }

    /// Whether `offset` lies in data of layers (lowest first) over stored content, and where
    /// that changes at the latest.
    pub fn is_data(
        &self,
        stored: &Stored,
        layers: &[&Layer],
        offset: u64,
        size: u64,
    ) -> Result<(bool, u64)> {
        content::is_data(&self.store, stored, layers, offset, size)
    }

    /// The stretches of stored content in `range` that have data.
    pub fn stretches(&self, stored: &Stored, range: Range<u64>) -> Result<Stretches> {
        shape::read(&self.store, stored, range)
    }

    /// The bytes of a part of a chunk.
    pub fn read_piece(&self, piece: &Piece) -> Result<Vec<u8>> {
        self.store.read(&piece.id, piece.from, piece.from + piece.len)
    }

    /// Chunks a layer of changes over `base`, stages what is new, and makes the content tree
    /// that has them. `size` is the new length. With `streaming`, the end of a file that is
    /// still being appended to is left in the layer.
    pub fn flush(
        &self,
        base: &Stored,
        layer: &Layer,
        size: u64,
        streaming: bool,
    ) -> Result<Flushed> {
        flush::flush(&self.store, base, layer, size, streaming)
    }

    /// Whether content is here, as far as its directory tells, so that a file may refer to it. That one
    /// does so is recorded: the next checkpoint looks at it once more.
    pub fn refer_to(&self, content: &Content) -> Result<bool> {
        let (id, level) = match content {
            Content::None => return Ok(true),
            Content::Chunk(id) => return Ok(self.store.has(id)),
            Content::Tree(id, level) => (*id, *level),
        };
        let runs = range(&*self.store, (id, level), 0, u64::MAX)?;
        let mut chunks = runs.iter().map(|placed| placed.run).filter(|run| !run.is_hole());
        Ok(self.store.has(&id) && chunks.all(|run| self.store.has(&run.id)))
    }

    /// Reports that a checkpoint begins to chunk what it froze.
    pub fn begin_chunking(&self) {
        self.store.begin_chunking();
    }

    /// Whether a chunk is in a data object that entered REPO, durably, since the
    /// last mount, and is there. Others may be damaged, and nobody has looked.
    pub fn is_fresh(&self, id: &Id) -> bool {
        self.store.is_fresh(id)
    }

    /// Bytes that came since the last head: chunks that wait for an object, and
    /// objects that wait for a head.
    pub fn new_bytes(&self) -> u64 {
        self.store.new_bytes()
    }

    /// Publishes staged chunks until at most `leave` bytes wait.
    pub fn publish_objects(&self, leave: usize) -> Result<()> {
        self.store.publish_objects(leave)
    }

    /// Publishes from here on although local state is gone: what is in memory must
    /// not be lost with it. A crash may leave files in REPO that no head names.
    pub fn go_on_without_state(&self) {
        self.store.go_on_without_state();
    }

    /// Closes files of REPO that nobody read since the last call: open, they would keep
    /// the owner's disk from being unmounted.
    pub fn close_idle(&self) {
        self.store.close_idle();
    }

    /// Objects that heads name, that are not here, and that no file could be a copy of.
    pub fn missing_objects(&self) -> Vec<Name> {
        self.store.missing()
    }
}
