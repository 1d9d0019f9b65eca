//! What nodes refer to; and which staged nodes and chunks a commit needs: what was written and
//! replaced again before the checkpoint is not uploaded.

use std::collections::HashSet;

use crate::format::namespace::{Content, Key, Value};
use crate::format::node::{Id, NO_ID, Node};
use crate::store::{Result, Store};
use crate::tree::Root;

/// Kinds of keys from this one on may name chunks and nodes, if this version does not know them.
const NAMING_KINDS: u8 = 64;

/// What a node refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    /// Another node.
    Node(Id),
    /// A chunk of content, and its length in bytes.
    Chunk(Id, u64),
    /// Something that this version does not know: the value of a later kind, or one that does not
    /// decode.
    Unknown,
}

impl Reference {
    /// What a content of `len` bytes is.
    pub(super) fn of_content((content, len): (Content, u64)) -> Option<Self> {
        match content {
            Content::None => None,
            Content::Chunk(id) => Some(Self::Chunk(id, len)),
            Content::Tree(id, _) => Some(Self::Node(id)),
        }
    }
}

/// Calls `visit` for all that a node refers to, in its order, until that fails.
pub(super) fn references<E>(
    node: &Node,
    visit: &mut dyn FnMut(Reference) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    match node {
        Node::MapLeaf(items) => {
            for item in items {
                let key = Key::decode(&item.key);
                for value in &item.values {
                    let decoded = key.as_ref().map(|key| Value::decode(key, &value.bytes));
                    let reference = match (&key, decoded) {
                        (Ok(Key::Opaque(_, kind, _)), _) if *kind >= NAMING_KINDS => {
                            Some(Reference::Unknown)
                        }
                        (_, Ok(Ok(value))) => Reference::of_content(value.stored()),
                        _ => Some(Reference::Unknown),
                    };
                    reference.map_or(Ok(()), &mut *visit)?;
                }
            }
        }
        Node::MapBranch(_, children) | Node::LedgerBranch(_, children) => {
            children.iter().try_for_each(|child| visit(Reference::Node(child.id)))?;
        }
        Node::ContentLeaf(runs) => {
            runs.iter().try_for_each(|run| visit(Reference::Chunk(run.id, run.len)))?;
        }
        Node::ContentBranch(_, children) => {
            children.iter().try_for_each(|child| visit(Reference::Node(child.id)))?;
        }
        Node::LedgerLeaf(_) => {}
    }
    Ok(())
}

/// Ids reachable through staged nodes.
#[derive(Default)]
struct Live {
    ids: HashSet<Id>,
}

impl Live {
    fn follow(&mut self, store: &Store, reference: Reference) -> Result<()> {
        match reference {
            Reference::Node(id) => self.node(store, &id)?,
            Reference::Chunk(id, _) => drop(self.ids.insert(id)),
            Reference::Unknown => {}
        }
        Ok(())
    }

    fn node(&mut self, store: &Store, id: &Id) -> Result<()> {
        if *id == NO_ID {
            return Ok(());
        }
        // What lies below a node that is stored already is stored too. Nodes of ledgers are not
        // staged: the head that brings them holds them.
        let Some(node) = store.staged_node(id) else { return Ok(()) };
        if !self.ids.insert(*id) {
            return Ok(());
        }
        references(&node, &mut |reference| self.follow(store, reference))
    }
}

impl Store {
    /// Drops what is staged and reachable neither from the namespaces at `roots`
    /// nor from the `open` contents. The first root is published; staged nodes that only
    /// the others or `open` need stay staged and are published with it: they are few.
    pub fn drop_unreachable(&self, roots: &[Root], open: &[Content]) -> Result<()> {
        let mut live = Live::default();
        for root in roots {
            live.node(self, &root.0)?;
        }
        for reference in open.iter().filter_map(|content| Reference::of_content((*content, 0))) {
            live.follow(self, reference)?;
        }
        self.retain_staged(&live.ids);
        Ok(())
    }
}
