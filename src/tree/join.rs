//! The join of two namespace trees (`docs/merging.md`, section 4): a value that only one of them
//! has stays, unless the other has seen the change that made it.
//!
//! Invariant: the join is commutative, associative and idempotent. It settles nothing: of
//! concurrent changes all values stay beside each other under their key.

use std::ops::ControlFlow;

use super::diff::{self, Difference};
use super::map::{self, Edit};
use super::{Keys, NewNodes, Root, Source};
use crate::format::clock::Seen;
use crate::format::namespace::Key;
use crate::format::node::{Dotted, ITEM_BYTES_MAX, MapItem, SIBLINGS_MAX};

/// What a namespace tree has seen, out of its rows of writers.
pub fn seen<N: Source>(source: &N, root: Root) -> Result<Seen, N::Error> {
    let mut seen = Seen::default();
    let prefix = Key::writers();
    map::scan(source, root, &prefix, &mut |item| {
        if !item.key.starts_with(&prefix) {
            return ControlFlow::Break(());
        }
        item.values.iter().for_each(|value| seen.add(value.dot));
        ControlFlow::Continue(())
    })?;
    Ok(seen)
}

/// The root of the join of two trees; nodes that neither has go into `new`. The work grows with
/// what differs. None if a key comes to more values ([`SIBLINGS_MAX`]), or more bytes of them
/// ([`ITEM_BYTES_MAX`]), than a leaf takes.
pub fn join<N: Source>(
    keys: Keys<'_>,
    source: &N,
    (left, right): (Root, Root),
    new: &mut NewNodes,
) -> Result<Option<Root>, N::Error> {
    let (seen_left, seen_right) = (seen(source, left)?, seen(source, right)?);
    let rows = Key::writers();
    let mut edits: Vec<Edit> = Vec::new();
    for difference in diff::maps(source, left, right) {
        let difference = difference?;
        let (mine, theirs) = difference.sides();
        let of = |item: Option<&MapItem>| item.map_or(Vec::new(), |item| item.values.clone());
        let key = match &difference {
            Difference::Left(item) | Difference::Right(item) | Difference::Both(item, _) => {
                &item.key
            }
        };
        let values = if key.starts_with(&rows) {
            newest(of(mine), of(theirs))
        } else {
            values((&of(mine), &seen_left), (&of(theirs), &seen_right))
        };
        if mine.is_none_or(|item| item.values != values) && !(mine.is_none() && values.is_empty()) {
            let item = (!values.is_empty()).then(|| MapItem { key: key.clone(), values });
            let is_too_much = |item: &MapItem| {
                item.values.len() as u64 > SIBLINGS_MAX || item.weight() > ITEM_BYTES_MAX
            };
            if item.as_ref().is_some_and(is_too_much) {
                return Ok(None);
            }
            edits.push((key.to_vec(), item));
        }
    }
    map::edit(keys, source, left, &edits, new).map(Some)
}

/// Of the values of a writer's row on both sides, returns the newest.
fn newest(left: Vec<Dotted>, right: Vec<Dotted>) -> Vec<Dotted> {
    let all = left.into_iter().chain(right);
    let order = |one: &Dotted, other: &Dotted| {
        // Of two values of one dot the lesser, as everywhere.
        one.dot.cmp(&other.dot).then_with(|| other.bytes.cmp(&one.bytes))
    };
    all.max_by(order).into_iter().collect()
}

/// The join of the values of one key, each side with what its tree has seen.
fn values(left: (&[Dotted], &Seen), right: (&[Dotted], &Seen)) -> Vec<Dotted> {
    let mut joined = Vec::new();
    for value in left.0 {
        match right.0.iter().find(|other| other.dot == value.dot) {
            // One change that two copies of a device stored in two ways.
            Some(other) if other.bytes < value.bytes => joined.push(other.clone()),
            Some(_) => joined.push(value.clone()),
            None if right.1.covers(value.dot) => {}
            None => joined.push(value.clone()),
        }
    }
    let missing = right.0.iter().filter(|value| !left.1.covers(value.dot));
    joined.extend(missing.filter(|value| left.0.iter().all(|own| own.dot != value.dot)).cloned());
    joined.sort_unstable_by_key(|value| value.dot);
    joined
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::format::clock::{Dot, Writer};
    use crate::format::node::{Id, NO_ID, Node};
    use crate::tree::testing::{Memory, keys};

    /// A device: its own tree, and how many changes its writer made.
    #[derive(Clone, Default)]
    struct Device {
        items: BTreeMap<Vec<u8>, Vec<Dotted>>,
        seen: Seen,
        made: u64,
    }

    /// A step of one device in a random history.
    #[derive(Clone, Debug)]
    enum Act {
        /// Sets a key, in the place of all values that it has.
        Set(u8),
        /// Removes a key and all values that it has.
        Remove(u8),
        /// Joins what another device has.
        Join(usize),
    }

    fn key(number: u8) -> Vec<u8> {
        Key::Opaque(u64::from(number) + 1, 60, Vec::new()).encode()
    }

    impl Device {
        fn change(&mut self, writer: u64, number: u8, set: bool) {
            self.made += 1;
            let dot = Dot::new(Writer::new(writer).unwrap(), self.made).unwrap();
            self.seen.add(dot);
            self.items.remove(&key(number));
            if set {
                let value = Dotted { dot, bytes: vec![number, self.made as u8] };
                self.items.insert(key(number), vec![value]);
            }
        }

        /// The join as the page says it, without trees.
        fn join(&mut self, other: &Self) {
            for number in 0..u8::MAX {
                let of = |items: &BTreeMap<Vec<u8>, Vec<Dotted>>| {
                    items.get(&key(number)).cloned().unwrap_or_default()
                };
                let (mine, theirs) = (of(&self.items), of(&other.items));
                let mut all: Vec<Dotted> = Vec::new();
                for value in mine.iter().chain(&theirs) {
                    let both = mine.contains(value) && theirs.contains(value);
                    let seen_by_both = self.seen.covers(value.dot) && other.seen.covers(value.dot);
                    if (both || !seen_by_both) && !all.contains(value) {
                        all.push(value.clone());
                    }
                }
                all.sort_by_key(|value| value.dot);
                self.items.remove(&key(number));
                if !all.is_empty() {
                    self.items.insert(key(number), all);
                }
            }
            self.seen.join(&other.seen);
        }

        fn store(&self, memory: &mut Memory) -> Root {
            let row = |dot: Dot| {
                (Key::Writer(dot.writer).encode(), vec![Dotted { dot, bytes: b"w".to_vec() }])
            };
            let items = self.seen.dots().map(row);
            let items =
                items.chain(self.items.iter().map(|(key, values)| (key.clone(), values.clone())));
            let edit = |(key, values): (Vec<u8>, Vec<Dotted>)| {
                (key.clone(), Some(MapItem { key: key.into(), values }))
            };
            let edits: Vec<Edit> = items.map(edit).collect();
            let mut new = NewNodes::new();
            let root = map::edit(Keys(&keys()), memory, (NO_ID, 0), &edits, &mut new).unwrap();
            memory.0.extend(new);
            root
        }
    }

    fn joined(memory: &mut Memory, left: Root, right: Root) -> Root {
        let mut new = NewNodes::new();
        let root = join(Keys(&keys()), memory, (left, right), &mut new).unwrap();
        memory.0.extend(new);
        root.expect("there is room")
    }

    fn acts() -> impl Strategy<Value = Vec<(usize, Act)>> {
        let act = prop_oneof![
            3 => (0u8..40).prop_map(Act::Set),
            1 => (0u8..40).prop_map(Act::Remove),
            1 => (0usize..3).prop_map(Act::Join),
        ];
        prop::collection::vec((0usize..3, act), 0..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        /// Whatever three devices did: their trees join to what the page says, in any order.
        #[test]
        fn joins_follow_the_page_and_its_laws(acts in acts()) {
            let mut devices = vec![Device::default(); 3];
            for (at, act) in acts {
                match act {
                    Act::Set(number) => devices[at].change(at as u64 + 1, number, true),
                    Act::Remove(number) => devices[at].change(at as u64 + 1, number, false),
                    Act::Join(other) => {
                        let other = devices[other].clone();
                        devices[at].join(&other);
                    }
                }
            }
            let mut memory = Memory::default();
            let [a, b, c] = [0, 1, 2].map(|at: usize| devices[at].store(&mut memory));
            let mut both = devices[0].clone();
            both.join(&devices[1]);
            let ab = joined(&mut memory, a, b);
            prop_assert_eq!(ab, both.store(&mut memory), "as the page says");
            prop_assert_eq!(joined(&mut memory, b, a), ab, "commutative");
            prop_assert_eq!(joined(&mut memory, a, a), a, "idempotent");
            prop_assert_eq!(joined(&mut memory, ab, b), ab, "absorbs what it has");
            let bc = joined(&mut memory, b, c);
            let (left, right) = (joined(&mut memory, ab, c), joined(&mut memory, a, bc));
            prop_assert_eq!(left, right, "associative");
            prop_assert_eq!(seen(&memory, left).unwrap(), {
                let mut all = devices[0].seen.clone();
                all.join(&devices[1].seen);
                all.join(&devices[2].seen);
                all
            });
        }
    }

    #[test]
    fn a_removal_and_a_concurrent_change() {
        let mut memory = Memory::default();
        let mut one = Device::default();
        one.change(1, 7, true);
        one.change(1, 8, true);
        let mut other = one.clone();
        other.made = 0;
        other.change(2, 7, false);
        other.change(2, 8, false);
        // It was written again without a look at the removal.
        one.change(1, 8, true);
        let (a, b) = (one.store(&mut memory), other.store(&mut memory));
        let root = joined(&mut memory, a, b);
        let has = |number| map::get(&memory, root, &key(number), |_| ()).unwrap().is_some();
        assert!(!has(7), "the removal had seen it");
        assert!(has(8), "and not this one");
    }

    /// A source of nodes that counts how many were read.
    struct Counting<'a>(&'a Memory, Cell<usize>);

    impl Source for Counting<'_> {
        type Error = String;
        fn node(&self, id: &Id) -> Result<Arc<Node>, String> {
            self.1.set(self.1.get() + 1);
            self.0.node(id)
        }
        fn misfit(&self, id: &Id) -> String {
            self.0.misfit(id)
        }
    }

    /// What passed the limit of a leaf stopped the process, of whoever opened the repository.
    #[test]
    fn more_values_of_a_key_than_a_leaf_takes_are_told() {
        let mut memory = Memory::default();
        let key = Key::Opaque(9, 60, Vec::new()).encode();
        let mut all: Option<Root> = None;
        for number in 1..=SIBLINGS_MAX + 1 {
            let dot = Dot::new(Writer::new(number).unwrap(), 1).unwrap();
            let item = |key: &[u8], bytes: &[u8]| {
                let values = vec![Dotted { dot, bytes: bytes.to_vec() }];
                Some(MapItem { key: key.to_vec().into(), values })
            };
            let row = Key::Writer(dot.writer).encode();
            let edits = [(row.clone(), item(&row, b"w")), (key.clone(), item(&key, b"v"))];
            let mut new = NewNodes::new();
            let root = map::edit(Keys(&keys()), &memory, (NO_ID, 0), &edits, &mut new).unwrap();
            memory.0.extend(new.drain());
            let before = all.unwrap_or(root);
            all = join(Keys(&keys()), &memory, (before, root), &mut new).unwrap();
            memory.0.extend(new);
            assert_eq!(all.is_some(), number <= SIBLINGS_MAX);
        }
    }

    #[test]
    fn a_join_reads_what_differs() {
        let mut memory = Memory::default();
        let dot = |writer, record| Dot::new(Writer::new(writer).unwrap(), record).unwrap();
        let item = |ino: u64, dot| {
            let key = Key::Opaque(ino, 60, Vec::new()).encode();
            let values = vec![Dotted { dot, bytes: b"value".to_vec() }];
            (key.clone(), Some(MapItem { key: key.into(), values }))
        };
        let row = |dot: Dot| {
            let key = Key::Writer(dot.writer).encode();
            let values = vec![Dotted { dot, bytes: b"w".to_vec() }];
            (key.clone(), Some(MapItem { key: key.into(), values }))
        };
        let all: Vec<Edit> = [row(dot(1, 1))]
            .into_iter()
            .chain((1..=200_000).map(|ino| item(ino, dot(1, 1))))
            .collect();
        let mut edit = |root, edits: &[Edit]| {
            let mut new = NewNodes::new();
            let root = map::edit(Keys(&keys()), &memory, root, edits, &mut new).unwrap();
            memory.0.extend(new);
            root
        };
        let base = edit((NO_ID, 0), &all);
        let changed = |writer: u64, from: u64| -> Vec<Edit> {
            let items = (0..50).map(|at| item(from + at * 4000, dot(writer, 1)));
            [row(dot(writer, 1))].into_iter().chain(items).collect()
        };
        let (left, right) = (edit(base, &changed(2, 1)), edit(base, &changed(3, 2000)));
        let counting = Counting(&memory, Cell::new(0));
        let mut new = NewNodes::new();
        let root = join(Keys(&keys()), &counting, (left, right), &mut new).unwrap();
        let (read, made) = (counting.1.get(), new.len());
        let root = root.expect("there is room");
        assert_ne!(root, left);
        assert!(
            read < 1500 && made < 300,
            "{read} nodes read and {made} made of {}",
            memory.0.len()
        );
    }
}
