//! Chunks and nodes that are not in REPO yet.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::format::container::Class;
use crate::format::node::{Id, Node};

/// A chunk with its class.
#[derive(Clone)]
pub struct Staged {
    /// Its class, which decides how it is packed.
    pub class: Class,
    /// Its plaintext; several chunks may share one buffer.
    pub bytes: Bytes,
}

/// Chunks in the order in which they came, and nodes.
#[derive(Default)]
pub(super) struct Stage {
    pub order: VecDeque<Id>,
    pub chunks: HashMap<Id, Staged>,
    pub bytes: usize,
    pub nodes: HashMap<Id, (Arc<Node>, Arc<[u8]>)>,
    /// What stands in for a stored copy that is bad or not here. What refers
    /// to it may be stored already and is then not looked through for what is
    /// live, so it stays in any case.
    pub replaces_bad: HashSet<Id>,
}

impl Stage {
    pub fn add(&mut self, id: Id, chunk: Staged) {
        self.bytes += chunk.bytes.len();
        match self.chunks.insert(id, chunk) {
            None => self.order.push_back(id),
            // Two threads can bring the same chunk at once.
            Some(before) => self.bytes -= before.bytes.len(),
        }
    }

    /// The oldest chunks, up to `limit` bytes, at least one.
    pub fn oldest(&self, limit: usize) -> Vec<(Id, Staged)> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        for id in &self.order {
            let chunk = &self.chunks[id];
            if !taken.is_empty() && bytes + chunk.bytes.len() > limit {
                break;
            }
            bytes += chunk.bytes.len();
            taken.push((*id, chunk.clone()));
        }
        taken
    }

    /// Drops what is not in `live`, but for what replaces bad bytes.
    pub fn retain(&mut self, live: &HashSet<Id>) {
        let keep = |id: &Id| live.contains(id) || self.replaces_bad.contains(id);
        self.nodes.retain(|id, _| keep(id));
        self.chunks.retain(|id, _| keep(id));
        self.order.retain(keep);
        self.bytes = self.chunks.values().map(|chunk| chunk.bytes.len()).sum();
    }

    /// Forgets the `count` oldest chunks, which are in REPO now.
    pub fn drop_oldest(&mut self, count: usize) {
        for id in self.order.drain(..count) {
            if let Some(chunk) = self.chunks.remove(&id) {
                self.bytes -= chunk.bytes.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its bytes were counted twice for as long as the process lived.
    #[test]
    fn a_chunk_that_comes_twice_is_counted_once() {
        let mut stage = Stage::default();
        let chunk = || Staged { class: Class::Incompressible, bytes: Bytes::from_static(b"chunk") };
        stage.add([1; 16], chunk());
        stage.add([1; 16], chunk());
        assert_eq!((stage.bytes, stage.order.len()), (5, 1));
        stage.drop_oldest(1);
        assert_eq!((stage.bytes, stage.order.len()), (0, 0));
    }
}
