//! The ordered map from encoded keys to values.

use std::ops::ControlFlow;

use super::build::{Builder, Shape};
use super::{Keys, NewNodes, Root, Source};
use crate::format::node::{Id, MapChild, MapItem, NO_ID, Node, Sought};

/// One key in this many ends a node.
const ENDS_EVERY: u32 = 48;

struct Map;

impl Shape for Map {
    type Leaf = MapItem;
    type Child = MapChild;
    const JOINS: bool = false;

    fn leaf(items: Vec<MapItem>) -> Node {
        Node::MapLeaf(items)
    }
    fn branch(level: u8, items: Vec<MapChild>) -> Node {
        Node::MapBranch(level, items)
    }
    fn leaf_items(node: &Node) -> Option<&[MapItem]> {
        match node {
            Node::MapLeaf(items) => Some(items),
            _ => None,
        }
    }
    fn children(node: &Node, level: u8) -> Option<&[MapChild]> {
        match node {
            Node::MapBranch(found, items) if *found == level => Some(items),
            _ => None,
        }
    }
    fn id(child: &MapChild) -> Id {
        child.id
    }
    fn child_of_leaf(id: Id, items: &[MapItem]) -> MapChild {
        MapChild { first: items[0].key.clone(), id }
    }
    fn child_of_branch(id: Id, items: &[MapChild]) -> MapChild {
        MapChild { first: items[0].first.clone(), id }
    }
    fn leaf_ends(keys: Keys<'_>, item: &MapItem) -> bool {
        keys.0.boundary(0, &item.key).is_multiple_of(ENDS_EVERY)
    }
    fn child_ends(keys: Keys<'_>, level: u8, item: &MapChild) -> bool {
        keys.0.boundary(level, &item.first).is_multiple_of(ENDS_EVERY)
    }
    fn join(_: &mut MapItem, _: &MapItem) -> bool {
        false
    }
}

/// What `found` makes of the item with this key.
pub fn get<N: Source, T>(
    source: &N,
    root: Root,
    key: &[u8],
    found: impl FnOnce(&MapItem) -> T,
) -> Result<Option<T>, N::Error> {
    let (mut id, mut level) = root;
    if id == NO_ID {
        return Ok(None);
    }
    let sought = Sought::new(key);
    loop {
        let node = source.node(&id)?;
        if level == 0 {
            let items = Map::leaf_items(&node).ok_or_else(|| source.misfit(&id))?;
            let at = items.binary_search_by(|item| sought.order(&item.key));
            return Ok(at.ok().map(|at| found(&items[at])));
        }
        let children = Map::children(&node, level).ok_or_else(|| source.misfit(&id))?;
        let after = children.partition_point(|child| sought.order(&child.first).is_le());
        if after == 0 {
            return Ok(None);
        }
        id = children[after - 1].id;
        level -= 1;
    }
}

/// Calls `visit` for the items from `from` on, in order, until it breaks.
pub fn scan<N: Source>(
    source: &N,
    root: Root,
    from: &[u8],
    visit: &mut dyn FnMut(&MapItem) -> ControlFlow<()>,
) -> Result<(), N::Error> {
    if root.0 == NO_ID {
        return Ok(());
    }
    scan_node(source, root, Sought::new(from), visit).map(|_| ())
}

fn scan_node<N: Source>(
    source: &N,
    (id, level): Root,
    from: Sought<'_>,
    visit: &mut dyn FnMut(&MapItem) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, N::Error> {
    let node = source.node(&id)?;
    if level == 0 {
        let items = Map::leaf_items(&node).ok_or_else(|| source.misfit(&id))?;
        let start = items.partition_point(|item| from.order(&item.key).is_lt());
        for item in &items[start..] {
            if visit(item).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        return Ok(ControlFlow::Continue(()));
    }
    let children = Map::children(&node, level).ok_or_else(|| source.misfit(&id))?;
    let start = children.partition_point(|child| from.order(&child.first).is_le()).max(1) - 1;
    for child in &children[start..] {
        if scan_node(source, (child.id, level - 1), from, visit)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Keys `[from, to)`; no `to`: up to the end.
pub type KeyRange = (Vec<u8>, Option<Vec<u8>>);

/// Like [`scan`] over a range, but goes on where a node cannot be read: `lost`
/// is called with the keys that are, or would be, below it.
pub fn salvage<N: Source>(
    source: &N,
    (id, level): Root,
    range: KeyRange,
    visit: &mut dyn FnMut(&MapItem),
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
        let Some(items) = Map::leaf_items(&node) else { return lost(range, source.misfit(&id)) };
        items.iter().filter(|item| *item.key >= **from && !ends(&item.key)).for_each(visit);
        return;
    }
    let Some(children) = Map::children(&node, level) else {
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
        salvage(source, (child.id, level - 1), (first, below), visit, lost);
    }
}

/// One change: the key, and its new item or `None` to remove it.
pub type Edit = (Vec<u8>, Option<MapItem>);

/// Applies edits, which must be strictly ascending by key; new nodes go into
/// `new`. Returns the new root.
pub fn edit<N: Source>(
    keys: Keys<'_>,
    source: &N,
    root: Root,
    edits: &[Edit],
    new: &mut NewNodes,
) -> Result<Root, N::Error> {
    assert!(edits.windows(2).all(|pair| pair[0].0 < pair[1].0), "edits ascend by key");
    let mut builder = Builder::<Map, N>::new(keys, source, new);
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
fn copy<N: Source>(
    builder: &mut Builder<'_, Map, N>,
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
fn copy_node<N: Source>(
    builder: &mut Builder<'_, Map, N>,
    source: &N,
    (id, level): Root,
    next: Option<&[u8]>,
    after: Option<&[u8]>,
    before: Option<&[u8]>,
) -> Result<(), N::Error> {
    let node = source.node(&id)?;
    if level == 0 {
        let items = Map::leaf_items(&node).ok_or_else(|| source.misfit(&id))?;
        let start = after.map_or(0, |key| items.partition_point(|i| *i.key <= *key));
        let end = before.map_or(items.len(), |key| items.partition_point(|i| *i.key < *key));
        for item in items.get(start..end).unwrap_or_default() {
            builder.push(item.clone());
        }
        return Ok(());
    }
    let children = Map::children(&node, level).ok_or_else(|| source.misfit(&id))?;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::format::clock::{Dot, Writer};
    use crate::format::node::Dotted;
    use crate::tree::testing::{Memory, keys};

    fn item(key: u32, value: u8) -> (Vec<u8>, MapItem) {
        let key = key.to_be_bytes().to_vec();
        let dot = Dot { writer: Writer::new(1).unwrap(), record: u64::from(value) + 1 };
        let values = vec![Dotted { dot, bytes: vec![value; 10] }];
        (key.clone(), MapItem { key: key.into(), values })
    }

    fn build(model: &BTreeMap<Vec<u8>, MapItem>, memory: &mut Memory) -> Root {
        let edits: Vec<Edit> =
            model.iter().map(|(key, item)| (key.clone(), Some(item.clone()))).collect();
        let mut new = NewNodes::new();
        let root = edit(Keys(&keys()), memory, (NO_ID, 0), &edits, &mut new).unwrap();
        memory.0.extend(new);
        root
    }

    fn all(memory: &Memory, root: Root) -> Vec<MapItem> {
        let mut found = Vec::new();
        scan(memory, root, &[], &mut |item| {
            found.push(item.clone());
            ControlFlow::Continue(())
        })
        .unwrap();
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// History does not matter: editing gives the tree that building gives.
        #[test]
        fn edits_give_the_same_root_as_building_anew(
            start in prop::collection::btree_set(0u32..4000, 0..2500),
            batches in prop::collection::vec(
                prop::collection::btree_map(0u32..4200, prop::option::of(0u8..9), 0..120), 1..6),
        ) {
            let mut memory = Memory::default();
            let mut model: BTreeMap<_, _> = start.iter().map(|key| item(*key, 0)).collect();
            let mut root = build(&model, &mut memory);
            for batch in batches {
                let mut edits = Vec::new();
                for (key, value) in batch {
                    let (bytes, new) = item(key, value.unwrap_or(0));
                    if value.is_some() {
                        model.insert(bytes.clone(), new.clone());
                    } else {
                        model.remove(&bytes);
                    }
                    edits.push((bytes, value.map(|_| new)));
                }
                let mut new = NewNodes::new();
                root = edit(Keys(&keys()), &memory, root, &edits, &mut new).unwrap();
                memory.0.extend(new);
                prop_assert_eq!(root, build(&model, &mut memory));
                prop_assert_eq!(all(&memory, root), model.values().cloned().collect::<Vec<_>>());
                for key in [0u32, 17, 2000, 4100] {
                    let bytes = key.to_be_bytes();
                    let found = get(&memory, root, &bytes, MapItem::clone).unwrap();
                    prop_assert_eq!(found.as_ref(), model.get(&bytes[..]));
                }
            }
        }
    }

    #[test]
    fn one_change_in_a_large_map_makes_few_nodes() {
        let mut memory = Memory::default();
        let model: BTreeMap<_, _> = (0..100_000).map(|key| item(key, 0)).collect();
        let root = build(&model, &mut memory);
        let (key, changed) = item(50_000, 7);
        let mut new = NewNodes::new();
        edit(Keys(&keys()), &memory, root, &[(key, Some(changed))], &mut new).unwrap();
        // The last node of each level is made again, the same as it was.
        new.retain(|id, _| !memory.0.contains_key(id));
        assert!(new.len() <= usize::from(root.1) + 1, "{} nodes", new.len());
    }

    /// Whatever nodes are gone: what is left and the ranges named lost are all.
    #[test]
    fn salvage_finds_what_is_left_and_names_the_rest() {
        let mut memory = Memory::default();
        let model: BTreeMap<_, _> = (0..20_000).map(|key| item(key, 0)).collect();
        let root = build(&model, &mut memory);
        let ids: Vec<Id> = memory.0.keys().copied().collect();
        for (every, skip) in [(1, 0), (2, 1), (17, 3), (100, 0), (ids.len(), 5)] {
            let mut holed = memory.clone();
            ids.iter().skip(skip).step_by(every).for_each(|id| drop(holed.0.remove(id)));
            for range in [
                (Vec::new(), None),
                (1234u32.to_be_bytes().to_vec(), Some(15_000u32.to_be_bytes().to_vec())),
            ] {
                let (mut found, mut ranges) = (Vec::new(), Vec::new());
                salvage(
                    &holed,
                    root,
                    range.clone(),
                    &mut |item| found.push(item.clone()),
                    &mut |range, _| ranges.push(range),
                );
                let inside = |(from, to): &KeyRange, key: &Vec<u8>| {
                    key >= from && to.as_ref().is_none_or(|to| key < to)
                };
                for key in model.keys() {
                    let lost = ranges.iter().filter(|range| inside(range, key)).count();
                    let here = usize::from(found.binary_search_by(|i| (*i.key).cmp(key)).is_ok());
                    assert_eq!(lost + here, usize::from(inside(&range, key)), "{every} {key:?}");
                }
                assert!(found.iter().all(|item| model[&*item.key] == *item));
            }
        }
    }

    #[test]
    fn an_emptied_map_is_the_empty_root() {
        let mut memory = Memory::default();
        let model: BTreeMap<_, _> = (0..500).map(|key| item(key, 0)).collect();
        let root = build(&model, &mut memory);
        let edits: Vec<Edit> = model.keys().map(|key| (key.clone(), None)).collect();
        let mut new = NewNodes::new();
        assert_eq!(edit(Keys(&keys()), &memory, root, &edits, &mut new).unwrap(), (NO_ID, 0));
    }
}
