//! The Merkle trees: the namespace map, the content of files, and the ledger of a device.
//!
//! All are prolly trees: where a node ends is decided by its items alone, so
//! equal content has an equal root whatever the history, and a change makes
//! new nodes only on its paths (`docs/format.md`, "Trees"). No I/O here: nodes
//! come from a [`Source`], new ones are handed back.

mod build;
pub mod content;
pub mod diff;
pub mod join;
mod keyed;
pub mod ledger;
pub mod map;

use std::collections::HashMap;
use std::sync::Arc;

use crate::crypto::IdKeys;
use crate::format::node::{Id, Node};

/// A root: the id of its node and that node's level. `NO_ID` is the empty tree.
pub type Root = (Id, u8);

/// Where trees read their nodes from.
pub trait Source {
    /// Why a node cannot be had.
    type Error;
    /// The node with this id.
    fn node(&self, id: &Id) -> Result<Arc<Node>, Self::Error>;
    /// The error for a node that authenticates and does not fit its place.
    fn misfit(&self, id: &Id) -> Self::Error;
}

/// Encoded nodes that an edit made, by id.
pub type NewNodes = HashMap<Id, Vec<u8>>;

/// Keys that a tree needs: node ids and boundaries.
#[derive(Clone, Copy)]
pub struct Keys<'a>(pub &'a IdKeys);

#[cfg(test)]
pub(crate) mod testing {
    //! A source in memory.
    use super::*;

    /// A source of nodes that has them in a map, for tests.
    #[derive(Clone, Default)]
    pub struct Memory(pub NewNodes);

    impl Source for Memory {
        type Error = String;
        fn node(&self, id: &Id) -> Result<Arc<Node>, String> {
            let bytes = self.0.get(id).ok_or("missing node")?;
            Node::decode(bytes).map(Arc::new).map_err(|error| error.to_string())
        }
        fn misfit(&self, _: &Id) -> String {
            "misfit".into()
        }
    }

    /// Keys made of fixed secrets.
    pub fn keys() -> IdKeys {
        let secret = |byte| crate::crypto::Secret::take(&mut [byte; 32]);
        IdKeys::new(&secret(1), &secret(2), &[3; 16])
    }
}
