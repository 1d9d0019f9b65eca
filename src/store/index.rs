//! Which container holds a chunk, and no more: place and length come from the
//! container's sealed directory, so a wrong row cannot serve other bytes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::format::node::Id;

/// Ids are keyed hashes already: their first bytes are as good as any hash.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        let mut word = [0; 8];
        let taken = bytes.len().min(8);
        word[..taken].copy_from_slice(&bytes[..taken]);
        self.0 = u64::from_le_bytes(word);
    }
    fn write_usize(&mut self, _: usize) {}
}

/// Rows from chunk id to container numbers.
#[derive(Default)]
pub struct Index {
    rows: HashMap<Id, u32, BuildHasherDefault<IdHasher>>,
    /// Further copies of chunks that are in more than one container.
    copies: HashMap<Id, Vec<u32>>,
}

impl Index {
    /// Adds a row; the first container of a chunk is preferred.
    pub fn insert(&mut self, id: Id, container: u32) {
        let first = *self.rows.entry(id).or_insert(container);
        if first != container {
            let copies = self.copies.entry(id).or_default();
            if !copies.contains(&container) {
                copies.push(container);
            }
        }
    }

    /// The containers that should hold a chunk.
    pub fn lookup(&self, id: &Id) -> impl Iterator<Item = u32> {
        let copies = self.copies.get(id).map_or(&[][..], Vec::as_slice);
        self.rows.get(id).into_iter().chain(copies).copied()
    }

    /// Whether a chunk has a row.
    pub fn contains(&self, id: &Id) -> bool {
        self.rows.contains_key(id)
    }

    /// Chunks known.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no chunk is known.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}
