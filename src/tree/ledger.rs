//! The ledger of a device: what it keeps in its own folder of REPO.

use std::ops::ControlFlow;

use super::build::Shape;
use super::keyed::{self, Keyed};
use super::{Keys, NewNodes, Root, Source};
use crate::format::node::{Id, ItemKey, LedgerItem, MapChild, Node};

/// One change: the key, and its new row or `None` to remove it.
pub type Edit = keyed::Edit<LedgerItem>;

struct Ledger;

impl Shape for Ledger {
    type Leaf = LedgerItem;
    type Child = MapChild;
    const JOINS: bool = false;

    fn leaf(items: Vec<LedgerItem>) -> Node {
        Node::LedgerLeaf(items)
    }
    fn branch(level: u8, items: Vec<MapChild>) -> Node {
        Node::LedgerBranch(level, items)
    }
    fn leaf_items(node: &Node) -> Option<&[LedgerItem]> {
        match node {
            Node::LedgerLeaf(items) => Some(items),
            _ => None,
        }
    }
    fn children(node: &Node, level: u8) -> Option<&[MapChild]> {
        match node {
            Node::LedgerBranch(found, items) if *found == level => Some(items),
            _ => None,
        }
    }
    fn id(child: &MapChild) -> Id {
        child.id
    }
    fn child_of_leaf(id: Id, items: &[LedgerItem]) -> MapChild {
        MapChild { first: items[0].key.clone(), id }
    }
    fn child_of_branch(id: Id, items: &[MapChild]) -> MapChild {
        MapChild { first: items[0].first.clone(), id }
    }
    fn leaf_ends(keys: Keys<'_>, item: &LedgerItem) -> bool {
        keyed::ends(keys, 0, &item.key)
    }
    fn child_ends(keys: Keys<'_>, level: u8, item: &MapChild) -> bool {
        keyed::ends(keys, level, &item.first)
    }
    fn join(_: &mut LedgerItem, _: &LedgerItem) -> bool {
        false
    }
}

impl Keyed for Ledger {
    fn key(item: &LedgerItem) -> &ItemKey {
        &item.key
    }
}

/// Calls `visit` for the rows from `from` on, in order, until it breaks.
pub fn scan<N: Source>(
    source: &N,
    root: Root,
    from: &[u8],
    visit: &mut dyn FnMut(&LedgerItem) -> ControlFlow<()>,
) -> Result<(), N::Error> {
    keyed::scan::<Ledger, N>(source, root, from, visit)
}

/// Applies edits, which must be strictly ascending by key; new nodes go into `new`.
/// Returns the new root.
pub fn edit<N: Source>(
    keys: Keys<'_>,
    source: &N,
    root: Root,
    edits: &[Edit],
    new: &mut NewNodes,
) -> Result<Root, N::Error> {
    keyed::edit::<Ledger, N>(keys, source, root, edits, new)
}
