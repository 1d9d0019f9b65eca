//! Which staged nodes and chunks a commit needs: what was written and replaced
//! again before the checkpoint is not uploaded.

use std::collections::HashSet;

use crate::format::namespace::{Content, Key, Value};
use crate::format::node::{Id, NO_ID, Node};
use crate::store::{Result, Store};
use crate::tree::Root;

/// Ids reachable through staged nodes.
#[derive(Default)]
struct Live {
    ids: HashSet<Id>,
}

impl Live {
    fn content(&mut self, store: &Store, content: &Content) -> Result<()> {
        match content {
            Content::None => Ok(()),
            Content::Chunk(id) => {
                self.ids.insert(*id);
                Ok(())
            }
            Content::Tree(id, _) => self.node(store, id),
        }
    }

    fn node(&mut self, store: &Store, id: &Id) -> Result<()> {
        if *id == NO_ID {
            return Ok(());
        }
        // What lies below a node that is stored already is stored too.
        let Some(node) = store.staged_node(id) else { return Ok(()) };
        if !self.ids.insert(*id) {
            return Ok(());
        }
        match &*node {
            Node::MapLeaf(items) => {
                for item in items {
                    let Ok(key) = Key::decode(&item.key) else { continue };
                    for value in &item.values {
                        if let Ok(value) = Value::decode(&key, &value.bytes) {
                            self.content(store, &value.stored().0)?;
                        }
                    }
                }
            }
            Node::MapBranch(_, children) => {
                for child in children {
                    self.node(store, &child.id)?;
                }
            }
            Node::ContentLeaf(runs) => self.ids.extend(runs.iter().map(|run| run.id)),
            Node::ContentBranch(_, children) => {
                for child in children {
                    self.node(store, &child.id)?;
                }
            }
            // Nodes of ledgers are not staged: the head that brings them holds them.
            Node::LedgerLeaf(_) | Node::LedgerBranch(..) => {}
        }
        Ok(())
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
        for content in open {
            live.content(self, content)?;
        }
        self.retain_staged(&live.ids);
        Ok(())
    }
}
