//! The items in which two trees of one kind differ, in the order of their keys.
//!
//! Invariant: a node that both trees have is not read, the two roots aside. So the work
//! grows with what differs, and not with the trees. In memory are the nodes on the way
//! to one place in each tree.

use std::cmp::Ordering;
use std::sync::Arc;

use super::keyed::Keyed;
use super::ledger::Ledger;
use super::map::Map;
use super::{Root, Source};
use crate::format::node::{Id, ItemKey, LedgerItem, MapChild, MapItem, NO_ID, Node};

/// A key whose items are not the same in two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference<T> {
    /// Only the left tree has an item with this key.
    Left(T),
    /// Only the right tree has an item with this key.
    Right(T),
    /// Both trees have one: the left one's, then the right one's.
    Both(T, T),
}

impl<T> Difference<T> {
    /// The item of the left tree, and that of the right tree.
    pub fn sides(&self) -> (Option<&T>, Option<&T>) {
        match self {
            Self::Left(left) => (Some(left), None),
            Self::Right(right) => (None, Some(right)),
            Self::Both(left, right) => (Some(left), Some(right)),
        }
    }
}

/// The keys under which two namespace trees have different values, ascending. Ends after
/// a node that cannot be read.
pub fn maps<N: Source>(
    source: &N,
    left: Root,
    right: Root,
) -> impl Iterator<Item = Result<Difference<MapItem>, N::Error>> {
    Diff::<Map, N>::new(source, left, right)
}

/// The keys under which two ledgers have different rows, ascending. Ends after a node that
/// cannot be read.
pub fn ledgers<N: Source>(
    source: &N,
    left: Root,
    right: Root,
) -> impl Iterator<Item = Result<Difference<LedgerItem>, N::Error>> {
    Diff::<Ledger, N>::new(source, left, right)
}

/// What a cursor meets next in its tree.
enum Place<'c, T> {
    /// A node that was not read. What its lowest key is, its parent says; a root has none.
    Node { id: Id, level: u8, first: Option<&'c ItemKey> },
    /// An item of a leaf.
    Item { item: &'c T, key: &'c ItemKey },
    /// The end of the tree.
    End,
}

impl<T> Place<'_, T> {
    fn key(&self) -> Option<&ItemKey> {
        match self {
            Self::Node { first, .. } => *first,
            Self::Item { key, .. } => Some(key),
            Self::End => None,
        }
    }

    /// How many nodes lie between this and an item, this one among them.
    fn height(&self) -> u8 {
        match self {
            Self::Node { level, .. } => level + 1,
            Self::Item { .. } | Self::End => 0,
        }
    }

    fn is_end(&self) -> bool {
        matches!(self, Self::End)
    }

    /// Whether both are the same node.
    fn is_node_of(&self, other: &Self) -> bool {
        let node = |place: &Self| match place {
            Self::Node { id, level, .. } => Some((*id, *level)),
            Self::Item { .. } | Self::End => None,
        };
        node(self).is_some_and(|this| node(other) == Some(this))
    }
}

/// A node on the way to a cursor's place.
struct Step {
    node: Arc<Node>,
    level: u8,
    /// The item that comes next.
    next: usize,
}

/// A place in a tree, from the first item to the end.
struct Cursor {
    /// The root, until it was read or passed.
    root: Option<Root>,
    /// Nodes that were read, from the top, each with something left.
    path: Vec<Step>,
}

impl Cursor {
    fn new(root: Root) -> Self {
        Self { root: Some(root).filter(|root| root.0 != NO_ID), path: Vec::new() }
    }

    fn place<S: Keyed>(&self) -> Place<'_, S::Leaf> {
        if let Some((id, level)) = self.root {
            return Place::Node { id, level, first: None };
        }
        let Some(Step { node, level, next }) = self.path.last() else { return Place::End };
        if let Some(items) = S::leaf_items(node) {
            let item = &items[*next];
            return Place::Item { item, key: S::key(item) };
        }
        let MapChild { first, id } = &branch::<S>(node, *level)[*next];
        Place::Node { id: *id, level: level - 1, first: Some(first) }
    }

    /// Goes beyond the item or the node that comes next.
    fn pass<S: Keyed>(&mut self) {
        if self.root.take().is_none()
            && let Some(last) = self.path.last_mut()
        {
            last.next += 1;
        }
        while self.path.last().is_some_and(|last| last.next == len::<S>(last)) {
            self.path.pop();
        }
    }

    /// Reads the node that comes next, so that what it holds comes next. Must not be
    /// called at an item.
    fn open<S: Keyed, N: Source>(&mut self, source: &N) -> Result<(), N::Error> {
        let Place::Node { id, level, first } = self.place::<S>() else {
            unreachable!("only nodes are opened")
        };
        let node = source.node(&id)?;
        let lowest = if level == 0 {
            let items = S::leaf_items(&node).ok_or_else(|| source.misfit(&id))?;
            items.first().map(S::key)
        } else {
            let children = S::children(&node, level).ok_or_else(|| source.misfit(&id))?;
            children.first().map(|child| &child.first)
        };
        if first.is_some() && first != lowest {
            return Err(source.misfit(&id));
        }
        let is_empty = lowest.is_none();
        self.pass::<S>();
        if !is_empty {
            self.path.push(Step { node, level, next: 0 });
        }
        Ok(())
    }
}

/// The children of a node that was checked to be a branch when it was read.
fn branch<S: Keyed>(node: &Node, level: u8) -> &[MapChild] {
    S::children(node, level).expect("checked when it was read")
}

fn len<S: Keyed>(Step { node, level, .. }: &Step) -> usize {
    S::leaf_items(node).map_or_else(|| branch::<S>(node, *level).len(), <[S::Leaf]>::len)
}

/// Two cursors that go through their trees together.
struct Diff<'a, S, N> {
    source: &'a N,
    left: Cursor,
    right: Cursor,
    kind: std::marker::PhantomData<S>,
}

impl<'a, S: Keyed<Leaf: PartialEq>, N: Source> Diff<'a, S, N> {
    fn new(source: &'a N, left: Root, right: Root) -> Self {
        let [left, right] = [left, right].map(Cursor::new);
        Self { source, left, right, kind: std::marker::PhantomData }
    }

    /// Goes on by one item or node. `None` where there was no difference yet.
    fn step(&mut self) -> Result<Option<Difference<S::Leaf>>, N::Error> {
        let (left, right) = (self.left.place::<S>(), self.right.place::<S>());
        if left.is_node_of(&right) {
            self.left.pass::<S>();
            self.right.pass::<S>();
            return Ok(None);
        }
        let order = match (left.key(), right.key()) {
            _ if right.is_end() => Ordering::Less,
            _ if left.is_end() => Ordering::Greater,
            (Some(left), Some(right)) => left.cmp(right),
            // Of a root nobody knows its lowest key.
            _ => Ordering::Equal,
        };
        // What begins before all that is left of the other tree is not in it. Of two that
        // begin together, the higher one may have the other one below it.
        let turn = order.then_with(|| right.height().cmp(&left.height()));
        match (&left, &right) {
            (Place::Item { item: one, .. }, Place::Item { item: other, .. }) if turn.is_eq() => {
                let found =
                    (*one != *other).then(|| Difference::Both((*one).clone(), (*other).clone()));
                self.left.pass::<S>();
                self.right.pass::<S>();
                Ok(found)
            }
            (Place::Item { item, .. }, _) if turn.is_lt() => {
                let found = Difference::Left((*item).clone());
                self.left.pass::<S>();
                Ok(Some(found))
            }
            (_, Place::Item { item, .. }) if turn.is_gt() => {
                let found = Difference::Right((*item).clone());
                self.right.pass::<S>();
                Ok(Some(found))
            }
            _ if turn.is_gt() => self.right.open::<S, N>(self.source).map(|()| None),
            _ => self.left.open::<S, N>(self.source).map(|()| None),
        }
    }
}

impl<S: Keyed<Leaf: PartialEq>, N: Source> Iterator for Diff<'_, S, N> {
    type Item = Result<Difference<S::Leaf>, N::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.left.place::<S>().is_end() || !self.right.place::<S>().is_end() {
            match self.step() {
                Ok(None) => {}
                Ok(Some(found)) => return Some(Ok(found)),
                Err(error) => {
                    let end = (NO_ID, 0);
                    (self.left, self.right) = (Cursor::new(end), Cursor::new(end));
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::format::clock::{Dot, Writer};
    use crate::format::node::Dotted;
    use crate::tree::testing::{Memory, keys};
    use crate::tree::{Keys, NewNodes, ledger, map};

    /// The items of a tree: how many values each key has, and what is in them.
    type Model = BTreeMap<u32, (u8, u8)>;

    fn item(key: u32, (values, byte): (u8, u8)) -> MapItem {
        let value = |writer: u8| Dotted {
            dot: Dot { writer: Writer::new(writer.into()).unwrap(), record: u64::from(byte) + 1 },
            bytes: vec![byte; 10],
        };
        let key = key.to_be_bytes().to_vec().into();
        MapItem { key, values: (1..=values).map(value).collect() }
    }

    /// The root of a tree, and its nodes, which are in `memory` then.
    fn build(model: &Model, memory: &mut Memory) -> (Root, BTreeSet<Id>) {
        let edits: Vec<map::Edit> = model
            .iter()
            .map(|(key, value)| (key.to_be_bytes().to_vec(), Some(item(*key, *value))))
            .collect();
        let mut new = NewNodes::new();
        let root = map::edit(Keys(&keys()), memory, (NO_ID, 0), &edits, &mut new).unwrap();
        let nodes = new.keys().copied().collect();
        memory.0.extend(new);
        (root, nodes)
    }

    fn naive(left: &Model, right: &Model) -> Vec<Difference<MapItem>> {
        let all: BTreeSet<u32> = left.keys().chain(right.keys()).copied().collect();
        let of = |model: &Model, key| model.get(&key).map(|value| item(key, *value));
        all.into_iter()
            .filter_map(|key| match (of(left, key), of(right, key)) {
                (Some(left), Some(right)) if left == right => None,
                (Some(left), Some(right)) => Some(Difference::Both(left, right)),
                (Some(left), None) => Some(Difference::Left(left)),
                (None, right) => right.map(Difference::Right),
            })
            .collect()
    }

    /// Writes down which nodes are read.
    struct Watched<'a> {
        memory: &'a Memory,
        read: RefCell<Vec<Id>>,
    }

    impl<'a> Watched<'a> {
        fn new(memory: &'a Memory) -> Self {
            Self { memory, read: RefCell::default() }
        }
    }

    impl Source for Watched<'_> {
        type Error = String;
        fn node(&self, id: &Id) -> Result<Arc<Node>, String> {
            self.read.borrow_mut().push(*id);
            self.memory.node(id)
        }
        fn misfit(&self, id: &Id) -> String {
            self.memory.misfit(id)
        }
    }

    fn compare(left: &Model, right: &Model) {
        let mut memory = Memory::default();
        let (left_root, left_nodes) = build(left, &mut memory);
        let (right_root, right_nodes) = build(right, &mut memory);
        let watched = Watched::new(&memory);
        let found: Result<Vec<_>, _> = maps(&watched, left_root, right_root).collect();
        assert_eq!(found.unwrap(), naive(left, right));
        let read = watched.read.into_inner();
        let once: BTreeSet<Id> = read.iter().copied().collect();
        assert_eq!(once.len(), read.len(), "no node is read twice");
        for id in &once {
            let both = left_nodes.contains(id) && right_nodes.contains(id);
            let is_root = *id == left_root.0 || *id == right_root.0;
            assert!(!both || is_root, "a node that both trees have was read");
        }
        if left_root == right_root {
            assert!(read.is_empty(), "equal trees are not read");
        }
    }

    fn value() -> impl Strategy<Value = (u8, u8)> {
        (prop_oneof![9 => Just(1u8), 1 => 1u8..5], 0u8..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_two_trees_differ_as_their_items_do(
            left in prop::collection::btree_map(0u32..2000, value(), 0..900),
            right in prop::collection::btree_map(0u32..2000, value(), 0..900),
        ) {
            compare(&left, &right);
        }

        /// Two devices that changed a little each, after a common state.
        #[test]
        fn trees_of_one_origin_differ_as_their_items_do(
            start in prop::collection::btree_map(0u32..30_000, value(), 0..4000),
            edits in prop::collection::vec(
                prop::collection::btree_map(0u32..30_000, prop::option::of(value()), 0..40), 2),
            cut in prop::option::of(0u32..30_000),
        ) {
            let mut sides = [start.clone(), start];
            for (side, edits) in sides.iter_mut().zip(edits) {
                for (key, value) in edits {
                    match value {
                        Some(value) => drop(side.insert(key, value)),
                        None => drop(side.remove(&key)),
                    }
                }
            }
            // One side may lack all from a key on, or all before it: roots of other levels.
            let [mut left, right] = sides;
            if let Some(cut) = cut {
                let after = left.split_off(&cut);
                compare(&right, &after);
            }
            compare(&left, &right);
        }
    }

    #[test]
    fn few_changes_in_a_large_tree_read_few_nodes() {
        const ITEMS: u32 = 200_000;
        const CHANGES: u32 = 100;
        let mut memory = Memory::default();
        let model: Model = (0..ITEMS).map(|key| (key, (1, 0))).collect();
        let (left, nodes) = build(&model, &mut memory);
        let edits: Vec<map::Edit> = (0..CHANGES)
            .map(|nth| nth * (ITEMS / CHANGES))
            .map(|key| (key.to_be_bytes().to_vec(), Some(item(key, (2, 7)))))
            .collect();
        let mut new = NewNodes::new();
        let right = map::edit(Keys(&keys()), &memory, left, &edits, &mut new).unwrap();
        memory.0.extend(new);
        let watched = Watched::new(&memory);
        assert_eq!(maps(&watched, left, right).count(), CHANGES as usize);
        let read = watched.read.into_inner().len();
        let most = 2 * CHANGES as usize * usize::from(left.1 + 1);
        assert!(read <= most, "{read} of {} nodes were read", nodes.len());
    }

    #[test]
    fn one_tree_may_be_empty() {
        let some: Model = (0..3000).map(|key| (key, (1, 1))).collect();
        for (left, right) in [
            (Model::new(), Model::new()),
            (some.clone(), Model::new()),
            (Model::new(), some.clone()),
            (some.clone(), some),
        ] {
            compare(&left, &right);
        }
    }

    #[test]
    fn a_node_that_is_not_here_ends_it() {
        let mut memory = Memory::default();
        let (left, _) = build(&(0..3000).map(|key| (key, (1, 1))).collect(), &mut memory);
        let (right, nodes) = build(&(0..3000).map(|key| (key, (1, 2))).collect(), &mut memory);
        for id in nodes {
            let mut holed = memory.clone();
            holed.0.remove(&id);
            let mut diff = maps(&holed, left, right).skip_while(Result::is_ok);
            assert_eq!(diff.next(), Some(Err("missing node".into())));
            assert_eq!(diff.next(), None);
        }
    }

    /// A branch that says another lowest key than its child has would hide a difference.
    #[test]
    fn a_child_that_begins_elsewhere_is_refused() {
        let mut memory = Memory::default();
        let (left, _) = build(&(0..3000).map(|key| (key, (1, 1))).collect(), &mut memory);
        let (right, _) = build(&(0..3000).map(|key| (key, (1, 2))).collect(), &mut memory);
        let Node::MapBranch(level, mut children) = (*memory.node(&right.0).unwrap()).clone() else {
            panic!("a tree of this size has a branch at its top");
        };
        children[1].first = [&*children[1].first, &[0]].concat().into();
        memory.0.insert(right.0, Node::MapBranch(level, children).encode());
        let last = maps(&memory, left, right).last();
        assert_eq!(last, Some(Err("misfit".into())));
    }

    #[test]
    fn ledgers_differ_by_their_rows() {
        let mut memory = Memory::default();
        let row = |key: u16, byte: u8| {
            let key = key.to_be_bytes().to_vec();
            (key.clone(), Some(LedgerItem { key: key.into(), bytes: vec![byte] }))
        };
        let mut edit = |root, edits: &[ledger::Edit]| {
            let mut new = NewNodes::new();
            let root = ledger::edit(Keys(&keys()), &memory, root, edits, &mut new).unwrap();
            memory.0.extend(new);
            root
        };
        let rows: Vec<_> = (0..2000).map(|key| row(key, 0)).collect();
        let left = edit((NO_ID, 0), &rows);
        let gone = (300u16.to_be_bytes().to_vec(), None);
        let right = edit(left, &[row(7, 1), gone, row(5000, 2)]);
        let found: Result<Vec<_>, _> = ledgers(&memory, left, right).collect();
        let [changed, removed, added] = &found.unwrap()[..] else { panic!("three rows differ") };
        assert!(matches!(changed, Difference::Both(one, other) if one.bytes < other.bytes));
        assert_eq!(removed.sides().1, None);
        assert_eq!(added.sides().0, None);
    }
}
