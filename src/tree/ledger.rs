//! The ledger of a device: what it keeps in its own folder of REPO.

use std::ops::ControlFlow;

use super::keyed;
use super::{Keys, NewNodes, Root, Source};
use crate::format::node::LedgerItem;

/// One change: the key, and its new row or `None` to remove it.
pub type Edit = keyed::Edit<LedgerItem>;

keyed::shape!(Ledger, LedgerItem, LedgerLeaf, LedgerBranch);

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
