//! Builds a tree level by level out of items and of whole subtrees of an
//! older one.
//!
//! Invariant: the tree depends on the sequence of leaf items only. A subtree
//! may stand in for its items where every level at and below its root's stands
//! at a node's start: the subtree's nodes then end where these would.

use std::sync::Arc;

use super::{Keys, NewNodes, Root, Source};
use crate::format::node::{ITEMS_MAX, ITEMS_MIN, Id, LEAF_BYTES, LEVEL_MAX, NO_ID, Node};

/// What a kind of tree adds to the common shape.
pub(super) trait Shape {
    /// An item of a leaf.
    type Leaf: Clone;
    /// An item of a branch.
    type Child: Clone;

    fn leaf(items: Vec<Self::Leaf>) -> Node;
    fn branch(level: u8, items: Vec<Self::Child>) -> Node;
    /// The parts of a leaf.
    fn leaf_items(node: &Node) -> Option<&[Self::Leaf]>;
    /// The parts of a branch of this level.
    fn children(node: &Node, level: u8) -> Option<&[Self::Child]>;
    fn id(child: &Self::Child) -> Id;
    /// How a parent names a node.
    fn child_of_leaf(id: Id, items: &[Self::Leaf]) -> Self::Child;
    fn child_of_branch(id: Id, items: &[Self::Child]) -> Self::Child;
    /// Bytes that the item counts for where a leaf ends.
    fn weight(item: &Self::Leaf) -> usize;
    /// Whether a node may end after this item.
    fn leaf_ends(keys: Keys<'_>, item: &Self::Leaf) -> bool;
    fn child_ends(keys: Keys<'_>, level: u8, item: &Self::Child) -> bool;
    /// Joins `next` to `last` if the two are one item.
    fn join(last: &mut Self::Leaf, next: &Self::Leaf) -> bool;
    /// Whether items can be joined at all.
    const JOINS: bool;
}

pub(super) struct Builder<'a, S: Shape, N: Source> {
    keys: Keys<'a>,
    source: &'a N,
    new: &'a mut NewNodes,
    /// The last leaf item, while a following one may still be joined to it.
    pending: Option<S::Leaf>,
    leaf: Vec<S::Leaf>,
    /// Bytes that the items of `leaf` count for.
    leaf_bytes: usize,
    /// Open nodes of level 1 and above.
    branches: Vec<Vec<S::Child>>,
    /// How many nodes of level 1 and above were closed.
    closed: Vec<usize>,
}

impl<'a, S: Shape, N: Source> Builder<'a, S, N> {
    pub fn new(keys: Keys<'a>, source: &'a N, new: &'a mut NewNodes) -> Self {
        Self {
            keys,
            source,
            new,
            pending: None,
            leaf: Vec::new(),
            leaf_bytes: 0,
            branches: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// Appends an item to the leaves. Items must come in the order of the tree.
    pub fn push(&mut self, item: S::Leaf) {
        if let Some(last) = &mut self.pending {
            if S::join(last, &item) {
                return;
            }
            self.flush_pending();
        }
        if S::JOINS {
            self.pending = Some(item);
        } else {
            self.place(item);
        }
    }

    /// Says that nothing will be joined to the last item any more.
    pub fn flush_pending(&mut self) {
        if let Some(item) = self.pending.take() {
            self.place(item);
        }
    }

    fn place(&mut self, item: S::Leaf) {
        let ends = S::leaf_ends(self.keys, &item);
        self.leaf_bytes += S::weight(&item);
        self.leaf.push(item);
        if full(self.leaf.len(), ends) || self.leaf_bytes >= LEAF_BYTES {
            self.close_leaf();
        }
    }

    fn close_leaf(&mut self) {
        let items = std::mem::take(&mut self.leaf);
        self.leaf_bytes = 0;
        let node = S::leaf(items);
        let id = self.store(&node);
        let items = S::leaf_items(&node).expect("just made as a leaf");
        self.push_child(1, S::child_of_leaf(id, items));
    }

    fn store(&mut self, node: &Node) -> Id {
        let bytes = node.encode();
        let id = self.keys.0.node_id(&bytes);
        self.new.insert(id, bytes);
        id
    }

    fn push_child(&mut self, level: u8, child: S::Child) {
        assert!(level <= LEVEL_MAX, "a tree of this height holds more than 2^64 items");
        let index = usize::from(level) - 1;
        if self.branches.len() <= index {
            self.branches.resize_with(index + 1, Vec::new);
            self.closed.resize(index + 1, 0);
        }
        let ends = S::child_ends(self.keys, level, &child);
        self.branches[index].push(child);
        if full(self.branches[index].len(), ends) {
            self.close_branch(level);
        }
    }

    fn close_branch(&mut self, level: u8) {
        let index = usize::from(level) - 1;
        let items = std::mem::take(&mut self.branches[index]);
        self.closed[index] += 1;
        let node = S::branch(level, items);
        let id = self.store(&node);
        let items = S::children(&node, level).expect("just made as a branch");
        self.push_child(level + 1, S::child_of_branch(id, items));
    }

    /// Appends all items of an old node of `level`, as the node itself where
    /// that is possible. The node must not be the last of its level.
    /// `follows`: the item before it in the new tree is the one before it in
    /// the old tree, so the two are known not to join.
    pub fn push_subtree(
        &mut self,
        child: &S::Child,
        level: u8,
        follows: bool,
    ) -> Result<(), N::Error> {
        if follows {
            self.flush_pending();
        }
        let at_start = self.pending.is_none()
            && self.leaf.is_empty()
            && self.branches.iter().take(usize::from(level)).all(Vec::is_empty);
        if at_start {
            self.push_child(level + 1, child.clone());
            return Ok(());
        }
        let id = S::id(child);
        let node = self.source.node(&id)?;
        if level == 0 {
            for item in S::leaf_items(&node).ok_or_else(|| self.source.misfit(&id))? {
                self.push(item.clone());
            }
        } else {
            let children = S::children(&node, level).ok_or_else(|| self.source.misfit(&id))?;
            for (index, child) in children.iter().enumerate() {
                self.push_subtree(child, level - 1, follows || index > 0)?;
            }
        }
        Ok(())
    }

    /// Closes what is open; the root is the lowest level with a single node.
    pub fn finish(mut self) -> Root {
        self.flush_pending();
        if !self.leaf.is_empty() {
            self.close_leaf();
        }
        let mut level = 1u8;
        loop {
            let index = usize::from(level) - 1;
            if index >= self.branches.len() {
                return (NO_ID, 0);
            }
            let alone =
                self.closed[index] == 0 && self.branches[index + 1..].iter().all(Vec::is_empty);
            match (self.branches[index].as_slice(), alone) {
                ([only], true) => return (S::id(only), level - 1),
                ([], _) => {}
                _ => self.close_branch(level),
            }
            level += 1;
        }
    }
}

fn full(items: usize, ends: bool) -> bool {
    items >= ITEMS_MAX || (ends && items >= ITEMS_MIN)
}

/// Loads a node and checks that it is a leaf.
pub(super) fn load_leaf<S: Shape, N: Source>(source: &N, id: &Id) -> Result<Arc<Node>, N::Error> {
    let node = source.node(id)?;
    if S::leaf_items(&node).is_none() { Err(source.misfit(id)) } else { Ok(node) }
}
