//! From what is shown to edits, and from edits to groups of those that hang together.

use std::collections::{BTreeMap, BTreeSet};

use super::loaded::Loaded;
use super::show::{Tree, is_opaque};
use super::target::{Target, target, written_again};
use super::{Group, Knot, Repair, Values};
use crate::format::clock::Dot;
use crate::format::namespace::{Ino, Key, Value};

/// What comes to stand in the place of all values of a key.
struct Edit {
    value: Option<Value>,
    drops: Vec<Dot>,
}

type Edits = BTreeMap<Key, Edit>;
/// Edits by encoded key.
type Encoded = BTreeMap<Vec<u8>, (Key, Edit)>;

/// The groups after which what is loaded is what is shown of it.
pub(super) fn groups(loaded: &Loaded<'_>, tree: &Tree) -> Vec<Group> {
    let target = target(loaded, tree);
    let mut edits = differences(loaded, &target);
    if edits.is_empty() {
        return Vec::new();
    }
    // First, since a database is written with its names.
    write_names_again(loaded, &target, &mut edits);
    write_together(loaded, tree, &target, &mut edits);
    divide(loaded, tree, edits)
}

fn dots(values: &Values) -> Vec<Dot> {
    values.iter().map(|(dot, _)| *dot).collect()
}

/// What is loaded and is not as it is shown.
fn differences(loaded: &Loaded<'_>, target: &Target) -> Edits {
    let mut edits = Edits::new();
    for (key, values) in &loaded.items {
        let value = match target.get(key) {
            _ if matches!(key, Key::Writer(_)) => continue,
            None => None,
            Some(_) if is_opaque(key) => continue,
            Some(value) if values.len() == 1 && values[0].1 == *value => continue,
            Some(value) => Some(value.clone()),
        };
        edits.insert(key.clone(), Edit { value, drops: dots(values) });
    }
    for (key, value) in target.iter().filter(|(key, _)| !loaded.items.contains_key(key)) {
        edits.insert(key.clone(), Edit { value: Some(value.clone()), drops: Vec::new() });
    }
    edits
}

/// Inodes whose records are written.
fn records(edits: &Edits) -> impl Iterator<Item = Ino> {
    let written = |(key, edit): (&Key, &Edit)| match key {
        Key::Inode(ino) if edit.value.is_some() => Some(*ino),
        _ => None,
    };
    edits.iter().filter_map(written)
}

/// Writes again what must not stand under an older dot than what is edited.
fn write_together(loaded: &Loaded<'_>, tree: &Tree, target: &Target, edits: &mut Edits) {
    // What stands for something that is dropped, or another's removal of it would take both.
    let mut stamp: BTreeSet<Ino> = tree.heirs.clone();
    // A record is never written without what lies beside it.
    stamp.extend(records(edits));
    // Nor a name of a database: its back references say which names the maker of the version
    // saw.
    let databases: BTreeSet<Ino> = tree.mains.values().map(|(main, _)| *main).collect();
    let named = edits.keys().filter(|key| matches!(key, Key::Back(..))).map(Key::ino);
    stamp.extend(named.filter(|ino| databases.contains(ino)).collect::<Vec<_>>());
    // Nor a database without its side files.
    let mut written: BTreeSet<Ino> = records(edits).chain(stamp.iter().copied()).collect();
    loop {
        let pairs = tree.mains.iter().map(|(side, (main, _))| (*side, *main));
        let half = |(side, main): &(Ino, Ino)| written.contains(side) != written.contains(main);
        let Some((side, main)) = pairs.into_iter().find(half) else { break };
        written.extend([side, main]);
        stamp.extend([side, main]);
    }
    for ino in stamp {
        let beside = loaded.beside(ino).map(|(key, _)| key.clone());
        let keys: Vec<Key> = std::iter::once(Key::Inode(ino)).chain(beside).collect();
        for key in keys.into_iter().filter(|key| !edits.contains_key(key)).collect::<Vec<_>>() {
            let (Some(values), Some(value)) = (loaded.items.get(&key), target.get(&key)) else {
                continue;
            };
            let last = values.last().expect("no key is without a value").0;
            let edit = Edit { value: Some(written_again(last, value)), drops: dots(values) };
            edits.insert(key, edit);
        }
    }
}

/// Where a name is dropped the others are written again, or another's removal of them leaves
/// none. So are all names of an inode of which an entry is made: else its keys say nothing of
/// the inode. The record is not: what somebody deleted does not come back because of that.
fn write_names_again(loaded: &Loaded<'_>, target: &Target, edits: &mut Edits) {
    let is_named = |(key, edit): (&Key, &Edit)| match (key, &edit.value) {
        (Key::Back(ino, ..), None) | (_, Some(Value::Entry(ino, _))) => Some(*ino),
        _ => None,
    };
    let named: BTreeSet<Ino> = edits.iter().filter_map(is_named).collect();
    for (key, values) in named.into_iter().flat_map(|ino| loaded.backs(ino)) {
        if target.contains_key(key) && !edits.contains_key(key) {
            let edit = Edit { value: Some(Value::Back), drops: dots(values) };
            edits.insert(key.clone(), edit);
        }
    }
}

/// Sets of knots that hang together.
#[derive(Default)]
struct Sets {
    number: BTreeMap<Knot, usize>,
    up: Vec<usize>,
}

impl Sets {
    fn find(&mut self, knot: &Knot) -> usize {
        let next = self.up.len();
        let mut at = *self.number.entry(knot.clone()).or_insert(next);
        if at == next {
            self.up.push(next);
        }
        while self.up[at] != at {
            self.up[at] = self.up[self.up[at]];
            at = self.up[at];
        }
        at
    }

    fn tie(&mut self, one: &Knot, other: &Knot) {
        let (one, other) = (self.find(one), self.find(other));
        self.up[one.max(other)] = one.min(other);
    }
}

/// The edits in groups, each ascending by encoded key.
fn divide(loaded: &Loaded<'_>, tree: &Tree, edits: Edits) -> Vec<Group> {
    let mut sets = Sets::default();
    for (one, other) in &tree.ties {
        sets.tie(one, other);
    }
    for (key, edit) in &edits {
        match key {
            Key::Entry(dir, _, name) => {
                let name = Knot::Name(*dir, name.clone());
                let old = loaded.items.get(key).into_iter().flatten().map(|(_, value)| value);
                for value in old.chain(&edit.value) {
                    if let Value::Entry(ino, _) = value {
                        sets.tie(&name, &Knot::Ino(*ino));
                    }
                }
            }
            Key::Back(ino, dir, name) if edit.value.is_some() => {
                sets.tie(&Knot::Ino(*ino), &Knot::Name(*dir, name.clone()));
            }
            _ => {}
        }
    }
    let mut groups: BTreeMap<usize, Encoded> = BTreeMap::new();
    for (key, edit) in edits {
        let knot = match &key {
            Key::Entry(dir, _, name) => Knot::Name(*dir, name.clone()),
            key => Knot::Ino(key.ino()),
        };
        groups.entry(sets.find(&knot)).or_default().insert(key.encode(), (key, edit));
    }
    let mut knots: BTreeMap<usize, Vec<Knot>> = BTreeMap::new();
    for knot in sets.number.keys().cloned().collect::<Vec<_>>() {
        let set = sets.find(&knot);
        if groups.contains_key(&set) {
            knots.entry(set).or_default().push(knot);
        }
    }
    let mut groups: Vec<(usize, Encoded)> = groups.into_iter().collect();
    groups.sort_by(|(_, one), (_, other)| one.keys().next().cmp(&other.keys().next()));
    let group = |(set, edits): (usize, Encoded)| Group {
        repairs: dotted(loaded, edits.into_values().collect()),
        knots: knots.remove(&set).expect("each edit has a knot"),
    };
    groups.into_iter().map(group).collect()
}

/// A group under one dot: the newest of all that it is made of.
fn dotted(loaded: &Loaded<'_>, group: Vec<(Key, Edit)>) -> Vec<Repair> {
    let record =
        |ino: Ino| loaded.records.get(&ino).and_then(|all| all.last()).map(|(dot, _)| *dot);
    let dots = group.iter().flat_map(|(key, edit)| {
        let named = match &edit.value {
            Some(Value::Entry(ino, _)) => record(*ino),
            _ => None,
        };
        // Another change in the directory of a name changes nothing of that name.
        let own = if matches!(key, Key::Entry(..)) { None } else { record(key.ino()) };
        let dots = edit.drops.iter().copied();
        dots.chain(own).chain(named).collect::<Vec<_>>()
    });
    let dot = dots.max().expect("what is added is made of what is there");
    let repair = |(key, Edit { value, drops })| Repair {
        key,
        value: value.map(|value| (dot, value)),
        drops,
    };
    group.into_iter().map(repair).collect()
}
