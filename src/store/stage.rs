//! Staging: chunks and nodes that wait for a container.
//!
//! Invariant: what is staged is left here until the catalogue has a container with it, so that
//! it can be read at any time.
//!
//! Beside them are nodes that are read and never published: those of a tree that this device
//! computed and no head names. They are here for as long as somebody has their [`Unpublished`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use bytes::Bytes;

use super::{Result, Store, StoreError};
use crate::crypto::{SEGMENT, hex};
use crate::format::container::Class;
use crate::format::node::{Id, Node};
use crate::tree::NewNodes;

/// A chunk that waits for a container.
#[derive(Clone)]
pub struct Staged {
    /// The class of the chunk, which decides with which others it is compressed.
    pub class: Class,
    /// How many bytes behind the start of a page of 4096 bytes of its file the chunk begins.
    pub phase: u16,
    /// The plaintext of the chunk. Several chunks may share one buffer.
    pub bytes: Bytes,
}

/// A node with its bytes.
#[derive(Clone)]
pub(super) struct StagedNode {
    pub id: Id,
    pub node: Arc<Node>,
    pub bytes: Arc<[u8]>,
}

/// Chunks in the order in which they came, and nodes.
#[derive(Default)]
struct Waiting {
    order: VecDeque<Id>,
    chunks: HashMap<Id, Staged>,
    bytes: usize,
    nodes: HashMap<Id, (Arc<Node>, Arc<[u8]>)>,
    /// What stands in for a stored copy that is bad or not here. What refers
    /// to it may be stored already and is then not looked through for what is
    /// live, so it stays in any case.
    replaces_bad: HashSet<Id>,
}

impl Waiting {
    fn add(&mut self, id: Id, chunk: Staged) {
        self.bytes += chunk.bytes.len();
        match self.chunks.insert(id, chunk) {
            None => self.order.push_back(id),
            // Two threads can bring the same chunk at once.
            Some(before) => self.bytes -= before.bytes.len(),
        }
    }

    fn oldest(&self, limit: usize) -> Vec<(Id, Staged)> {
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

    fn retain(&mut self, live: &HashSet<Id>) {
        let keep = |id: &Id| live.contains(id) || self.replaces_bad.contains(id);
        self.nodes.retain(|id, _| keep(id));
        self.chunks.retain(|id, _| keep(id));
        self.order.retain(keep);
        self.bytes = self.chunks.values().map(|chunk| chunk.bytes.len()).sum();
    }

    fn drop_oldest(&mut self, count: usize) {
        for id in self.order.drain(..count) {
            if let Some(chunk) = self.chunks.remove(&id) {
                self.bytes -= chunk.bytes.len();
            }
        }
    }
}

/// Nodes that no container will have. The store reads them for as long as this is held.
#[derive(Debug)]
pub struct Unpublished(HashMap<Id, Arc<Node>>);

/// The chunks and nodes that wait for a container.
#[derive(Default)]
pub(super) struct Stage {
    waiting: RwLock<Waiting>,
    /// Nodes that no container will have, as long as others hold them.
    unpublished: RwLock<Vec<Weak<Unpublished>>>,
    /// Bytes of chunks, to be read without the lock.
    bytes: AtomicUsize,
}

impl Stage {
    // A panic elsewhere does not make the maps wrong: each is changed in one step.
    fn read(&self) -> RwLockReadGuard<'_, Waiting> {
        self.waiting.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Waiting> {
        self.waiting.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> T {
        let mut waiting = self.write();
        let result = change(&mut waiting);
        self.bytes.store(waiting.bytes, Ordering::Relaxed);
        result
    }

    /// Bytes of chunks that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether a chunk or node waits.
    fn contains(&self, id: &Id) -> bool {
        let waiting = self.read();
        waiting.chunks.contains_key(id) || waiting.nodes.contains_key(id)
    }

    /// Returns the plaintext of a chunk, if it waits for a container.
    pub(super) fn chunk(&self, id: &Id) -> Option<Bytes> {
        self.read().chunks.get(id).map(|chunk| chunk.bytes.clone())
    }

    /// Returns a node, if it waits for a container.
    fn waiting_node(&self, id: &Id) -> Option<Arc<Node>> {
        self.read().nodes.get(id).map(|(node, _)| node.clone())
    }

    /// A node that waits, or that is never published.
    pub(super) fn node(&self, id: &Id) -> Option<Arc<Node>> {
        self.waiting_node(id).or_else(|| {
            let sets = self.unpublished.read().unwrap_or_else(PoisonError::into_inner);
            sets.iter().find_map(|set| set.upgrade()?.0.get(id).cloned())
        })
    }

    /// The oldest chunks, up to `limit` bytes, at least one.
    pub(super) fn oldest(&self, limit: usize) -> Vec<(Id, Staged)> {
        self.read().oldest(limit)
    }

    /// Returns all nodes that wait for a container, in the order of their ids.
    pub(super) fn nodes(&self) -> Vec<StagedNode> {
        let waiting = self.read();
        let mut nodes: Vec<_> = waiting
            .nodes
            .iter()
            .map(|(id, (node, bytes))| StagedNode {
                id: *id,
                node: node.clone(),
                bytes: bytes.clone(),
            })
            .collect();
        nodes.sort_unstable_by_key(|node| node.id);
        nodes
    }

    /// Adds a chunk. Returns how many bytes of chunks wait.
    fn add(&self, id: Id, chunk: Staged, replaces_bad: bool) -> usize {
        self.change(|waiting| {
            if replaces_bad {
                waiting.replaces_bad.insert(id);
            }
            waiting.add(id, chunk);
            waiting.bytes
        })
    }

    fn add_node(&self, id: Id, node: Arc<Node>, bytes: Arc<[u8]>, replaces_bad: bool) {
        let mut waiting = self.write();
        if replaces_bad {
            waiting.replaces_bad.insert(id);
        }
        waiting.nodes.insert(id, (node, bytes));
    }

    fn keep_unpublished(&self, nodes: HashMap<Id, Arc<Node>>) -> Arc<Unpublished> {
        let set = Arc::new(Unpublished(nodes));
        let mut sets = self.unpublished.write().unwrap_or_else(PoisonError::into_inner);
        sets.retain(|set| set.strong_count() > 0);
        sets.push(Arc::downgrade(&set));
        set
    }

    /// Drops what is not in `live`, but for what replaces bad bytes.
    fn retain(&self, live: &HashSet<Id>) {
        self.change(|waiting| waiting.retain(live));
    }

    /// Forgets the `count` oldest chunks and these nodes, which are in REPO now.
    pub(super) fn forget(&self, count: usize, nodes: &[StagedNode]) {
        self.change(|waiting| {
            waiting.drop_oldest(count);
            for node in nodes {
                waiting.nodes.remove(&node.id);
            }
        });
    }
}

impl Store {
    /// Whether a chunk or node is staged, or stored where new content may refer to
    /// it; that it then does is recorded.
    pub fn has(&self, id: &Id) -> bool {
        self.stage.contains(id) || self.is_stored(id)
    }

    fn is_stored(&self, id: &Id) -> bool {
        let held = self.catalogue.lookup(id).map(|found| self.refer_to(&found));
        held.unwrap_or_else(|error| store_again(&error))
    }

    /// Whether a chunk is in a data object that entered REPO, durably, since the
    /// last mount, and is there. Others may be damaged, and nobody has looked.
    pub fn is_fresh(&self, id: &Id) -> bool {
        let fresh = |number| self.catalogue.is_fresh(number);
        let held = self.catalogue.lookup(id).map(|found| self.is_any_seen(&found, fresh));
        held.unwrap_or_else(|error| store_again(&error))
    }

    /// Whether a chunk or node waits for a container.
    pub(super) fn is_staged(&self, id: &Id) -> bool {
        self.stage.contains(id)
    }

    /// Stages a chunk or node once more, from the first of these containers that has it.
    pub(super) fn store_again(&self, id: &Id, numbers: &[u32]) -> Result<()> {
        let mut last = StoreError::Missing { what: format!("chunk {}", hex(id)) };
        for number in numbers {
            match self.whole_from(*number, id) {
                Ok((Class::Nodes, _, bytes)) => {
                    let what = format!("tree node {}", hex(id));
                    let node =
                        Node::decode(&bytes).map_err(|error| StoreError::damaged(&what, error))?;
                    self.stage.add_node(*id, Arc::new(node), bytes.into(), true);
                    return Ok(());
                }
                Ok((class, phase, bytes)) => {
                    return self.stage_new(*id, Staged { class, phase, bytes: bytes.into() });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Stages a chunk unless it is stored already. Full objects go to REPO at
    /// once.
    pub fn stage(&self, class: Class, id: Id, bytes: &[u8]) -> Result<()> {
        if self.has(&id) {
            Ok(())
        } else {
            let bytes = Bytes::copy_from_slice(bytes);
            self.stage_new(id, Staged { class, phase: 0, bytes })
        }
    }

    /// Stages those chunks of one buffer that are not stored already; it lies at `start` in its file. They share the
    /// buffer if most of it is new: a few would keep all of it in memory. Full objects go
    /// to REPO at once.
    pub fn stage_all(
        &self,
        class: Class,
        start: u64,
        buffer: &Bytes,
        chunks: &[(Id, Range<usize>)],
    ) -> Result<()> {
        let new: Vec<_> = chunks.iter().filter(|(id, _)| !self.has(id)).collect();
        let bytes: usize = new.iter().map(|(_, range)| range.len()).sum();
        for (id, range) in new {
            let phase = ((start + range.start as u64) % SEGMENT as u64) as u16;
            let bytes = if bytes >= buffer.len() / 2 {
                buffer.slice(range.clone())
            } else {
                Bytes::copy_from_slice(&buffer[range.clone()])
            };
            // Once more: a buffer may hold the same chunk twice.
            if !self.has(id) {
                self.stage_new(*id, Staged { class, phase, bytes })?;
            }
        }
        Ok(())
    }

    fn stage_new(&self, id: Id, chunk: Staged) -> Result<()> {
        let replaces_bad = self.replaces_bad(&id);
        let waiting = self.stage.add(id, chunk, replaces_bad);
        self.publish_full_object(waiting)
    }

    /// Whether what is staged now stands for something stored that is bad. If nobody
    /// knows, it is kept as if it did.
    fn replaces_bad(&self, id: &Id) -> bool {
        self.catalogue.contains(id).unwrap_or(true)
    }

    /// Bytes of chunks that wait for an object.
    pub fn staged_bytes(&self) -> usize {
        self.stage.bytes()
    }

    /// Stages the nodes that are new.
    pub fn stage_nodes(&self, nodes: NewNodes) {
        for (id, bytes) in nodes {
            if !self.has(&id) {
                let node = Arc::new(Node::decode(&bytes).expect("nodes we encode are valid"));
                let replaces_bad = self.replaces_bad(&id);
                self.stage.add_node(id, node, bytes.into(), replaces_bad);
            }
        }
    }

    /// Has nodes read that are never published: those of a tree that no head names. They can be
    /// read until what is returned is dropped.
    #[must_use]
    pub fn keep_unpublished(&self, nodes: &NewNodes) -> Arc<Unpublished> {
        let decode = |bytes: &Vec<u8>| Node::decode(bytes).expect("nodes we encode are valid");
        let nodes = nodes.iter().map(|(id, bytes)| (*id, Arc::new(decode(bytes))));
        self.stage.keep_unpublished(nodes.collect())
    }

    /// A node, if it is staged.
    pub fn staged_node(&self, id: &Id) -> Option<Arc<Node>> {
        self.stage.waiting_node(id)
    }

    /// Drops staged nodes and chunks that are not in `live`.
    pub fn retain_staged(&self, live: &HashSet<Id>) {
        self.stage.retain(live);
    }
}

/// What may be stored is taken as not stored: then it is, once more.
fn store_again(error: &StoreError) -> bool {
    log::error!("{error}");
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set went when four others had come: those of trees that nobody took over, too.
    #[test]
    fn nodes_that_are_not_published_are_read_for_as_long_as_somebody_holds_them() {
        let stage = Stage::default();
        let set = |id: u8| {
            stage.keep_unpublished(HashMap::from([([id; 16], Arc::new(Node::MapLeaf(Vec::new())))]))
        };
        let held = set(1);
        for id in 2..20 {
            drop(set(id));
        }
        assert!(stage.node(&[1; 16]).is_some() && stage.waiting_node(&[1; 16]).is_none());
        assert!(stage.node(&[2; 16]).is_none());
        drop(held);
        assert!(stage.node(&[1; 16]).is_none() && stage.nodes().is_empty());
    }

    /// Its bytes were counted twice for as long as the process lived.
    #[test]
    fn a_chunk_that_comes_twice_is_counted_once() {
        let stage = Stage::default();
        let chunk = || Staged {
            class: Class::Incompressible,
            phase: 0,
            bytes: Bytes::from_static(b"chunk"),
        };
        stage.add([1; 16], chunk(), false);
        stage.add([1; 16], chunk(), false);
        assert_eq!((stage.bytes(), stage.read().order.len()), (5, 1));
        stage.forget(1, &[]);
        assert_eq!((stage.bytes(), stage.read().order.len()), (0, 0));
    }
}
