//! Ordered maps from encoded keys to items: what the namespace and a ledger share.

use std::ops::ControlFlow;

use super::build::{Builder, Shape};
use super::{Keys, NewNodes, Root, Source};
use crate::format::node::{ItemKey, MapChild, NO_ID, Sought};

/// One key in this many ends a node.
pub(super) const ENDS_EVERY: u32 = 48;

/// A tree whose items have keys, ascending.
pub(super) trait Keyed: Shape<Child = MapChild> {
    fn key(item: &Self::Leaf) -> &ItemKey;
}

/// Makes the kind of tree whose leaves are nodes `$leaf` of `$item` and whose branches are
/// nodes `$branch`.
macro_rules! shape {
    ($tree:ident, $item:ident, $leaf:ident, $branch:ident) => {
        pub(super) struct $tree;

        impl $crate::tree::build::Shape for $tree {
            type Leaf = $item;
            type Child = $crate::format::node::MapChild;
            const JOINS: bool = false;

            fn leaf(items: Vec<$item>) -> $crate::format::node::Node {
                $crate::format::node::Node::$leaf(items)
            }
            fn branch(level: u8, items: Vec<Self::Child>) -> $crate::format::node::Node {
                $crate::format::node::Node::$branch(level, items)
            }
            fn leaf_items(node: &$crate::format::node::Node) -> Option<&[$item]> {
                match node {
                    $crate::format::node::Node::$leaf(items) => Some(items),
                    _ => None,
                }
            }
            fn children(node: &$crate::format::node::Node, level: u8) -> Option<&[Self::Child]> {
                match node {
                    $crate::format::node::Node::$branch(found, items) if *found == level => {
                        Some(items)
                    }
                    _ => None,
                }
            }
            fn id(child: &Self::Child) -> $crate::format::node::Id {
                child.id
            }
            fn child_of_leaf(id: $crate::format::node::Id, items: &[$item]) -> Self::Child {
                Self::Child { first: items[0].key.clone(), id }
            }
            fn child_of_branch(id: $crate::format::node::Id, items: &[Self::Child]) -> Self::Child {
                Self::Child { first: items[0].first.clone(), id }
            }
            fn weight(item: &$item) -> usize {
                item.weight()
            }
            fn leaf_ends(keys: $crate::tree::Keys<'_>, item: &$item) -> bool {
                $crate::tree::keyed::ends(keys, 0, &item.key)
            }
            fn child_ends(keys: $crate::tree::Keys<'_>, level: u8, item: &Self::Child) -> bool {
                $crate::tree::keyed::ends(keys, level, &item.first)
            }
            fn join(_: &mut $item, _: &$item) -> bool {
                false
            }
        }

        impl $crate::tree::keyed::Keyed for $tree {
            fn key(item: &$item) -> &$crate::format::node::ItemKey {
                &item.key
            }
        }
    };
}
pub(super) use shape;

/// Whether a node of `level` may end after this key.
pub(super) fn ends(keys: Keys<'_>, level: u8, key: &[u8]) -> bool {
    keys.0.boundary(level, key).is_multiple_of(ENDS_EVERY)
}

/// What `found` makes of the item with this key.
pub(super) fn get<S: Keyed, N: Source, T>(
    source: &N,
    root: Root,
    key: &[u8],
    found: impl FnOnce(&S::Leaf) -> T,
) -> Result<Option<T>, N::Error> {
    let (mut id, mut level) = root;
    if id == NO_ID {
        return Ok(None);
    }
    let sought = Sought::new(key);
    loop {
        let node = source.node(&id)?;
        if level == 0 {
            let items = S::leaf_items(&node).ok_or_else(|| source.misfit(&id))?;
            let at = items.binary_search_by(|item| sought.order(S::key(item)));
            return Ok(at.ok().map(|at| found(&items[at])));
        }
        let children = S::children(&node, level).ok_or_else(|| source.misfit(&id))?;
        let after = children.partition_point(|child| sought.order(&child.first).is_le());
        if after == 0 {
            return Ok(None);
        }
        id = children[after - 1].id;
        level -= 1;
    }
}

/// Calls `visit` for the items from `from` on, in order, until it breaks.
pub(super) fn scan<S: Keyed, N: Source>(
    source: &N,
    root: Root,
    from: &[u8],
    visit: &mut dyn FnMut(&S::Leaf) -> ControlFlow<()>,
) -> Result<(), N::Error> {
    if root.0 == NO_ID {
        return Ok(());
    }
    scan_node::<S, N>(source, root, Sought::new(from), visit).map(|_| ())
}

fn scan_node<S: Keyed, N: Source>(
    source: &N,
    (id, level): Root,
    from: Sought<'_>,
    visit: &mut dyn FnMut(&S::Leaf) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, N::Error> {
    let node = source.node(&id)?;
    if level == 0 {
        let items = S::leaf_items(&node).ok_or_else(|| source.misfit(&id))?;
        let start = items.partition_point(|item| from.order(S::key(item)).is_lt());
        for item in &items[start..] {
            if visit(item).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        return Ok(ControlFlow::Continue(()));
    }
    let children = S::children(&node, level).ok_or_else(|| source.misfit(&id))?;
    let start = children.partition_point(|child| from.order(&child.first).is_le()).max(1) - 1;
    for child in &children[start..] {
        if scan_node::<S, N>(source, (child.id, level - 1), from, visit)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Keys `[from, to)`; no `to`: up to the end.
pub type KeyRange = (Vec<u8>, Option<Vec<u8>>);

/// Visits all entries of a range in ascending order of keys. Where a node cannot be read it
/// calls `lost` with the keys that are, or would be, below it, and goes on.
pub(super) fn salvage<S: Keyed, N: Source>(
    source: &N,
    (id, level): Root,
    range: KeyRange,
    visit: &mut dyn FnMut(&S::Leaf),
    lost: &mut dyn FnMut(KeyRange, N::Error),
) {
    if id == NO_ID {
        return;
    }
    let node = match source.node(&id) {
        Ok(node) => node,
        Err(error) => return lost(range, error),
    };
    let (from, to) = &range;
    let ends = |key: &[u8]| to.as_ref().is_some_and(|to| key >= to.as_slice());
    if level == 0 {
        let Some(items) = S::leaf_items(&node) else { return lost(range, source.misfit(&id)) };
        let inside = |item: &&S::Leaf| **S::key(item) >= **from && !ends(S::key(item));
        items.iter().filter(inside).for_each(visit);
        return;
    }
    let Some(children) = S::children(&node, level) else {
        return lost(range, source.misfit(&id));
    };
    let start = children.partition_point(|child| *child.first <= **from).max(1) - 1;
    for (at, child) in children.iter().enumerate().skip(start) {
        if ends(&child.first) {
            break;
        }
        let next = children.get(at + 1).map(|next| next.first.to_vec());
        let below = match (next, to) {
            (Some(next), Some(to)) => Some(next.min(to.clone())),
            (next, to) => next.or_else(|| to.clone()),
        };
        let first = if at == start { from.clone() } else { child.first.to_vec() };
        salvage::<S, N>(source, (child.id, level - 1), (first, below), visit, lost);
    }
}

/// One change: the key, and its new item or `None` to remove it.
pub type Edit<T> = (Vec<u8>, Option<T>);

/// Applies edits, which must be strictly ascending by key; new nodes go into
/// `new`. Returns the new root.
pub(super) fn edit<S: Keyed, N: Source>(
    keys: Keys<'_>,
    source: &N,
    root: Root,
    edits: &[Edit<S::Leaf>],
    new: &mut NewNodes,
) -> Result<Root, N::Error> {
    assert!(edits.windows(2).all(|pair| pair[0].0 < pair[1].0), "edits ascend by key");
    let mut builder = Builder::<S, N>::new(keys, source, new);
    let mut after: Option<&[u8]> = None;
    for (key, item) in edits {
        copy(&mut builder, source, root, after, Some(key))?;
        if let Some(item) = item {
            builder.push(item.clone());
        }
        after = Some(key);
    }
    copy(&mut builder, source, root, after, None)?;
    Ok(builder.finish())
}

/// Copies the old items strictly between the two keys.
fn copy<S: Keyed, N: Source>(
    builder: &mut Builder<'_, S, N>,
    source: &N,
    root: Root,
    after: Option<&[u8]>,
    before: Option<&[u8]>,
) -> Result<(), N::Error> {
    if root.0 == NO_ID {
        return Ok(());
    }
    copy_node(builder, source, root, None, after, before)
}

/// `next`: the first key after this node, `None` if it is the last of its level.
fn copy_node<S: Keyed, N: Source>(
    builder: &mut Builder<'_, S, N>,
    source: &N,
    (id, level): Root,
    next: Option<&[u8]>,
    after: Option<&[u8]>,
    before: Option<&[u8]>,
) -> Result<(), N::Error> {
    let node = source.node(&id)?;
    if level == 0 {
        let items = S::leaf_items(&node).ok_or_else(|| source.misfit(&id))?;
        let start = after.map_or(0, |key| items.partition_point(|i| **S::key(i) <= *key));
        let end = before.map_or(items.len(), |key| items.partition_point(|i| **S::key(i) < *key));
        for item in items.get(start..end).unwrap_or_default() {
            builder.push(item.clone());
        }
        return Ok(());
    }
    let children = S::children(&node, level).ok_or_else(|| source.misfit(&id))?;
    let start =
        after.map_or(0, |key| children.partition_point(|child| *child.first <= *key).max(1) - 1);
    for index in start..children.len() {
        let child = &children[index];
        let next = children.get(index + 1).map_or(next, |child| Some(&*child.first));
        if before.is_some_and(|key| *child.first >= *key) {
            break;
        }
        let from_start = after.is_none_or(|key| *child.first > *key);
        let to_end = next.is_some_and(|next| before.is_none_or(|key| next <= key));
        if from_start && to_end {
            builder.push_subtree(child, level - 1, true)?;
        } else {
            copy_node(builder, source, (child.id, level - 1), next, after, before)?;
        }
    }
    Ok(())
}
