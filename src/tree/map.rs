//! The namespace tree: an ordered map from encoded keys to values with dots.

use std::ops::ControlFlow;

use super::keyed;
use super::{Keys, NewNodes, Root, Source};
use crate::format::node::MapItem;

pub use super::keyed::KeyRange;

/// One change: the key, and its new item or `None` to remove it.
pub type Edit = keyed::Edit<MapItem>;

keyed::shape!(Map, MapItem, MapLeaf, MapBranch);

/// What `found` makes of the item with this key.
pub fn get<N: Source, T>(
    source: &N,
    root: Root,
    key: &[u8],
    found: impl FnOnce(&MapItem) -> T,
) -> Result<Option<T>, N::Error> {
    keyed::get::<Map, N, T>(source, root, key, found)
}

/// Calls `visit` for the items from `from` on, in order, until it breaks.
pub fn scan<N: Source>(
    source: &N,
    root: Root,
    from: &[u8],
    visit: &mut dyn FnMut(&MapItem) -> ControlFlow<()>,
) -> Result<(), N::Error> {
    keyed::scan::<Map, N>(source, root, from, visit)
}

/// Visits all entries of a range in ascending order of keys. Where a node cannot be read it
/// calls `lost` with the keys that are, or would be, below it, and goes on.
pub fn salvage<N: Source>(
    source: &N,
    root: Root,
    range: KeyRange,
    visit: &mut dyn FnMut(&MapItem),
    lost: &mut dyn FnMut(KeyRange, N::Error),
) {
    keyed::salvage::<Map, N>(source, root, range, visit, lost);
}

/// Applies edits, which must be strictly ascending by key; new nodes go into
/// `new`. Returns the new root.
pub fn edit<N: Source>(
    keys: Keys<'_>,
    source: &N,
    root: Root,
    edits: &[Edit],
    new: &mut NewNodes,
) -> Result<Root, N::Error> {
    keyed::edit::<Map, N>(keys, source, root, edits, new)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::format::clock::{Dot, Writer};
    use crate::format::node::{Dotted, Id, NO_ID};
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
