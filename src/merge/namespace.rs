//! The namespace of a head, as it is stored and as it is shown.
//!
//! Invariant: what is shown is a plain tree, and the repairs of what is stored make it. An edit
//! changes of what is shown what it names, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::conflicts::Search;
use super::narrow::narrow;
use super::{
    ConflictFile, FoundConflict, Group, Joined, Knot, Repairs, Scope, Suspects, Values, repair,
};
use crate::format::clock::Dot;
use crate::format::namespace::{Ino, Key, Value, Xattr};
use crate::format::node::{Dotted, MapItem};
use crate::format::versions::Versions;
use crate::format::wire::DecodeError;
use crate::io::Timestamp;
use crate::store::{Result, Store, StoreError, Unpublished};
use crate::tree::{Keys, NewNodes, Root, diff, join as tree_join, map};

/// A namespace that was joined of several, or one that still has repairs that nobody stored.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// The namespace as a head stores it: concurrent changes stand beside each other.
    pub stored: Root,
    /// The namespace as it is shown: a plain tree. Nodes that only it has are in memory, and
    /// can be read for as long as this value is held.
    pub shown: Root,
    /// The repairs that make one of the other.
    pub repairs: Arc<Repairs>,
    /// Keeps the nodes that only the shown tree has.
    _nodes: Option<Arc<Unpublished>>,
}

impl Namespace {
    /// The namespace of a root that needs no repair.
    pub fn plain(root: Root) -> Self {
        Self { stored: root, shown: root, repairs: Arc::default(), _nodes: None }
    }

    /// The conflicts in these scopes, ascending by path. Reads all directories below them.
    pub fn conflicts(&self, store: &Store, scopes: &[Scope]) -> Result<Vec<FoundConflict>> {
        self.search(store, |search| search.all(scopes, &self.repairs.conflicts))
    }

    /// The files of a directory that stand beside another one of it because of a conflict.
    pub fn conflicts_in(&self, store: &Store, dir: Ino) -> Result<Vec<ConflictFile>> {
        self.search(store, |search| search.in_directory(dir))
    }

    fn search<T>(
        &self,
        store: &Store,
        search: impl FnOnce(&Search<'_, Stored<'_>>) -> Result<T>,
    ) -> Result<T> {
        let (shown, stored) =
            (&Stored { store, root: self.shown }, &Stored { store, root: self.stored });
        search(&Search { ids: &store.context().ids, shown, stored })
    }
}

/// Edits of a namespace by encoded key: the item, or none if it goes.
pub type Edits = BTreeMap<Vec<u8>, Option<MapItem>>;

/// Joins the namespaces of several heads. New nodes of what is stored are staged. The work
/// grows with what differs. Every order of `roots` has the same outcome. Fails with
/// [`StoreError::Crowded`] if a key comes to more values than a tree takes.
///
/// # Panics
///
/// If there is no root.
pub fn join(store: &Store, roots: &[Root]) -> Result<Namespace> {
    let keys = Keys(&store.context().ids);
    let mut stored = roots[0];
    for other in &roots[1..] {
        let mut new = NewNodes::new();
        let joined = tree_join::join(keys, store, (stored, *other), &mut new)?;
        stored = joined.ok_or_else(|| StoreError::Crowded { what: "a state".into() })?;
        store.stage_nodes(new);
    }
    let mut suspects = rows(store, stored)?;
    for root in roots {
        for difference in diff::maps(store, stored, *root) {
            suspects.add_difference(&difference?).map_err(damaged)?;
        }
    }
    shown(store, stored, &suspects)
}

/// The namespace after `edits` of what is shown. New nodes of what is stored are staged.
///
/// Of several versions of a file only the edited one is replaced, if everything else looks as
/// before then. Otherwise the groups of repairs that hang together with an edit are stored with it,
/// under the dot `settling`, which no head has yet. If the repairs that are left do not show the
/// rest as it was shown, all are stored. Rows say which are left.
///
/// # Panics
///
/// If `base` has repairs and there is no dot.
pub fn edit(
    store: &Store,
    base: &Namespace,
    mut edits: Edits,
    settling: Option<Dot>,
) -> Result<Namespace> {
    let (touched, left) = divide(&base.repairs.groups, &edits);
    let rows_before = row_keys(store, base.stored)?;
    if touched.is_empty() && left.is_empty() {
        // Rows of repairs that nothing needs any more.
        edits.extend(rows_before.iter().map(|key| (key.encode(), None)));
        let (root, new) = edited(store, base.stored, &edits)?;
        store.stage_nodes(new);
        return Ok(Namespace::plain(root));
    }
    let dot = settling.expect("whoever edits a base with repairs makes a change");
    if let Some(namespace) = edit_narrowly(store, base, (&edits, &rows_before), dot)? {
        return Ok(namespace);
    }
    let all: Vec<&Group> = touched.iter().chain(&left).copied().collect();
    let mut settled = edits.clone();
    settle(&mut settled, &all, dot);
    settle(&mut edits, &touched, dot);
    mark(&mut edits, &rows_before, &left, dot);
    let (stored, new) = edited(store, base.stored, &edits)?;
    store.stage_nodes(new);
    let namespace = shown(store, stored, &rows(store, stored)?)?;
    let (expected, _) = edited(store, base.shown, &edits)?;
    if namespace.shown == expected {
        return Ok(namespace);
    }
    log::debug!("all repairs are stored: the others would change what is shown");
    mark(&mut settled, &rows_before, &[], dot);
    let (root, new) = edited(store, base.stored, &settled)?;
    store.stage_nodes(new);
    Ok(Namespace::plain(root))
}

/// The root after edits, with its new nodes.
fn edited(store: &Store, root: Root, edits: &Edits) -> Result<(Root, NewNodes)> {
    let edits: Vec<map::Edit> =
        edits.iter().map(|(key, item)| (key.clone(), item.clone())).collect();
    let mut new = NewNodes::new();
    let root = map::edit(Keys(&store.context().ids), store, root, &edits, &mut new)?;
    Ok((root, new))
}

/// The namespace after edits of which no repair is stored: of the versions of a file only the
/// edited one is another. None if that is not enough, or would change how something else looks.
fn edit_narrowly(
    store: &Store,
    base: &Namespace,
    (edits, rows_before): (&Edits, &BTreeSet<Key>),
    dot: Dot,
) -> Result<Option<Namespace>> {
    let below = Stored { store, root: base.stored };
    let Some(mut narrowed) = narrow(&below, &base.repairs, edits, dot)? else { return Ok(None) };
    let (root, new) = edited(store, base.stored, &narrowed)?;
    store.stage_nodes(new);
    let stored = Stored { store, root };
    let mut suspects = rows(store, root)?;
    for key in narrowed.keys() {
        let key = Key::decode(key).map_err(damaged)?;
        for (_, value) in stored.values(&key)? {
            suspects.add(&key, &value);
        }
    }
    // What was joined just now has no rows yet.
    for repair in base.repairs.groups.iter().flat_map(|group| &group.repairs) {
        let values = stored.values(&repair.key)?;
        for (_, value) in values.iter().chain(&repair.value) {
            suspects.add(&repair.key, value);
        }
    }
    let left = shown(store, root, &suspects)?.repairs;
    mark(&mut narrowed, rows_before, &left.groups.iter().collect::<Vec<_>>(), dot);
    let (root, new) = edited(store, base.stored, &narrowed)?;
    store.stage_nodes(new);
    let namespace = shown(store, root, &rows(store, root)?)?;
    let (expected, new) = edited(store, base.shown, edits)?;
    let _expected = store.keep_unpublished(&new);
    Ok(looks_the_same(store, namespace.shown, expected)?.then_some(namespace))
}

/// Whether two plain trees look the same to somebody who reads them. These may differ: dots, lists
/// of replaced versions, ctime and atime. A tree in which a key has several values looks like none.
fn looks_the_same(store: &Store, one: Root, other: Root) -> Result<bool> {
    let look = |item: Option<&MapItem>| -> Result<Option<Value>> {
        let Some(item) = item else { return Ok(None) };
        let key = Key::decode(&item.key).map_err(damaged)?;
        let value = decoded(&key, item)?.pop().map(|(_, value)| value);
        Ok(value.and_then(|value| match value {
            Value::Writer(..) | Value::Unsettled => None,
            Value::Xattr(xattr) if xattr.is_removed() => None,
            Value::Xattr(xattr) => {
                Some(Value::Xattr(Xattr { versions: Versions::default(), ..xattr }))
            }
            Value::Inode(mut inode) => {
                inode.history = Box::default();
                // All versions of a file have those of the newest.
                (inode.ctime, inode.atime) = (Timestamp::default(), None);
                Some(Value::Inode(inode))
            }
            other => Some(other),
        }))
    };
    for difference in diff::maps(store, one, other) {
        let difference = difference?;
        let (left, right) = difference.sides();
        let rows = [Key::writers(), Key::unsettled()];
        let is_plain = |item: &MapItem| {
            item.values.len() == 1 || rows.iter().any(|prefix| item.key.starts_with(prefix))
        };
        let is_tree = left.is_none_or(is_plain) && right.is_none_or(is_plain);
        if !is_tree || look(left)? != look(right)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a namespace shows whose repairs are among the suspects.
fn shown(store: &Store, stored: Root, suspects: &Suspects) -> Result<Namespace> {
    let ids = &store.context().ids;
    let repairs = repair(&Stored { store, root: stored }, ids, suspects)?;
    if repairs.is_empty() {
        return Ok(Namespace { repairs: Arc::new(repairs), ..Namespace::plain(stored) });
    }
    let all = repairs.groups.iter().flat_map(|group| &group.repairs);
    let edits: Edits = all
        .map(|repair| {
            let key = repair.key.encode();
            let shown = repair.value.as_ref().map(|value| item(&key, std::slice::from_ref(value)));
            (key, shown)
        })
        .collect();
    let (shown, new) = edited(store, stored, &edits)?;
    let nodes = Some(store.keep_unpublished(&new));
    Ok(Namespace { stored, shown, repairs: Arc::new(repairs), _nodes: nodes })
}

/// An item of a tree: values of one encoded key, ascending by dot.
pub(super) fn item(key: &[u8], values: &[(Dot, Value)]) -> MapItem {
    let dotted = |(dot, value): &(Dot, Value)| Dotted { dot: *dot, bytes: value.encode() };
    MapItem { key: key.to_vec().into(), values: values.iter().map(dotted).collect() }
}

/// The groups that hang together with one of the edits, and the others.
fn divide<'a>(groups: &'a [Group], edits: &Edits) -> (Vec<&'a Group>, Vec<&'a Group>) {
    if groups.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let mut knots: BTreeSet<Knot> = BTreeSet::new();
    for (encoded, item) in edits {
        match Key::decode(encoded) {
            Ok(key @ Key::Entry(..)) => {
                let value = item.iter().flat_map(|item| &item.values);
                for value in value.filter_map(|value| Value::decode(&key, &value.bytes).ok()) {
                    if let Value::Entry(ino, _) = value {
                        knots.insert(Knot::Ino(ino));
                    }
                }
                if let Key::Entry(dir, _, name) = key {
                    knots.insert(Knot::Name(dir, name));
                }
            }
            Ok(Key::Writer(_) | Key::Unsettled(..)) | Err(_) => {}
            Ok(key) => {
                knots.insert(Knot::Ino(key.ino()));
            }
        }
    }
    groups.iter().partition(|group| group.knots.iter().any(|knot| knots.contains(knot)))
}

/// Adds the repairs of the groups, under this dot, to edits that come after them.
fn settle(edits: &mut Edits, groups: &[&Group], dot: Dot) {
    for repair in groups.iter().flat_map(|group| &group.repairs) {
        let key = repair.key.encode();
        let settled = repair.value.as_ref().map(|(_, value)| item(&key, &[(dot, value.clone())]));
        edits.entry(key).or_insert(settled);
    }
}

/// Adds the rows that say which repairs are left, and removes the others.
fn mark(edits: &mut Edits, before: &BTreeSet<Key>, left: &[&Group], dot: Dot) {
    let repairs = left.iter().flat_map(|group| &group.repairs);
    let rows: BTreeSet<Key> = repairs.map(|repair| row(&repair.key)).collect();
    for key in before.difference(&rows) {
        edits.insert(key.encode(), None);
    }
    for key in rows.difference(before) {
        let key = key.encode();
        edits.insert(key.clone(), Some(item(&key, &[(dot, Value::Unsettled)])));
    }
}

/// The row for a key that a repair changes.
fn row(key: &Key) -> Key {
    match key {
        Key::Entry(dir, hash, _) => Key::Unsettled(*dir, Some(*hash)),
        key => Key::Unsettled(key.ino(), None),
    }
}

/// The rows of a namespace that say what is unsettled.
fn row_keys(store: &Store, root: Root) -> Result<BTreeSet<Key>> {
    let from = Key::unsettled();
    let to = [&from[..], &[0xff; 17]].concat();
    let rows = Stored { store, root }.scan(&from, &to)?;
    Ok(rows.into_iter().map(|(key, _)| key).collect())
}

/// What a namespace itself says that repairs may change.
fn rows(store: &Store, root: Root) -> Result<Suspects> {
    let stored = Stored { store, root };
    let mut suspects = Suspects::default();
    for key in row_keys(store, root)? {
        let Key::Unsettled(ino, hash) = key else { continue };
        let named = match hash {
            // The highest hash and one is still a number.
            Some(hash) => {
                stored.scan(&Key::entries_from(ino, hash), &Key::entries_from(ino, hash + 1))?
            }
            None => Vec::new(),
        };
        suspects.add_row(ino, &named);
    }
    Ok(suspects)
}

fn damaged(error: DecodeError) -> StoreError {
    StoreError::damaged("a value of the namespace", error)
}

/// A namespace with all values of each key.
struct Stored<'a> {
    store: &'a Store,
    root: Root,
}

fn decoded(key: &Key, item: &MapItem) -> Result<Values> {
    let value =
        |value: &Dotted| Ok((value.dot, Value::decode(key, &value.bytes).map_err(damaged)?));
    item.values.iter().map(value).collect()
}

impl Joined for Stored<'_> {
    type Error = StoreError;

    fn values(&self, key: &Key) -> Result<Values> {
        let found = map::get(self.store, self.root, &key.encode(), |item| decoded(key, item))?;
        found.unwrap_or_else(|| Ok(Vec::new()))
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Result<Vec<(Key, Values)>> {
        let (mut found, mut failed) = (Vec::new(), Ok(()));
        map::scan(self.store, self.root, from, &mut |item| {
            if &*item.key >= to {
                return ControlFlow::Break(());
            }
            let pair = Key::decode(&item.key).map_err(damaged).and_then(|key| {
                let values = decoded(&key, item)?;
                Ok((key, values))
            });
            match pair {
                Ok(pair) => found.push(pair),
                Err(error) => {
                    failed = Err(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        failed.map(|()| found)
    }
}
