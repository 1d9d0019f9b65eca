//! Edits that store no more of a conflict than they decide: of the versions of a file only the one
//! that was edited is replaced, or only the one that was removed goes.
//!
//! Invariant: a version that nobody touched keeps its dot. If it were written again, it would come
//! back as a file after another device replaced or removed it.

use std::collections::{BTreeMap, BTreeSet};

use super::namespace::{Edits, item};
use super::{Conflict, ConflictKind, Group, Joined, Repair, Repairs};
use crate::format::clock::Dot;
use crate::format::namespace::{Ino, Inode, Key, Value};
use crate::format::node::MapItem;

/// A version that is shown as a file of its own, and that no head has as that.
struct Loser {
    /// The file of which it is a version.
    of: Ino,
    /// The change that made it.
    from: Dot,
}

/// The versions that are shown as files and not stored so.
fn losers(repairs: &Repairs) -> BTreeMap<Ino, Loser> {
    let of: BTreeMap<Ino, Ino> = repairs
        .conflicts
        .iter()
        .filter(|Conflict { kind, ino, of, .. }| *kind == ConflictKind::Version && ino != of)
        .map(|conflict| (conflict.ino, conflict.of))
        .collect();
    let all = repairs.groups.iter().flat_map(|group| &group.repairs);
    let loser = |repair: &Repair| {
        let (Key::Inode(ino), Some((dot, Value::Inode(inode)))) = (&repair.key, &repair.value)
        else {
            return None;
        };
        let of = *of.get(ino)?;
        Some((*ino, Loser { of, from: inode.history.content.origin(*dot) }))
    };
    all.filter_map(loser).collect()
}

/// The origin of a value of an inode; none of a directory.
fn origin_of((dot, value): &(Dot, Value)) -> Option<Dot> {
    match value {
        Value::Inode(inode) if !inode.is_dir() => Some(inode.history.content.origin(*dot)),
        _ => None,
    }
}

/// Whether versions of a database are among the repairs, whose side files go with them.
fn has_side_files(group: &Group) -> bool {
    group.repairs.iter().any(|repair| match &repair.value {
        Some((_, Value::Inode(inode))) => inode.history.main.is_some(),
        _ => false,
    })
}

fn is_edited(group: &Group, edits: &Edits) -> bool {
    group.repairs.iter().any(|repair| edits.contains_key(&repair.key.encode()))
}

/// The inode that an edit of this key writes, and its dot.
fn written(item: &MapItem, key: &Key) -> Option<(Dot, Box<Inode>)> {
    let value = item.values.first()?;
    match Value::decode(key, &value.bytes) {
        Ok(Value::Inode(inode)) => Some((value.dot, inode)),
        _ => None,
    }
}

/// Turns edits of what is shown into edits of the stored namespace that store no repair. A version
/// that was edited, and that was shown as a file of its own, becomes that file: its names and
/// attributes are stored under `dot`, which no head has yet.
///
/// None if the edits decide no conflict of versions, if they need a repair to be stored, or if they
/// touch versions of a database with side files.
pub(super) fn narrow<J: Joined>(
    stored: &J,
    repairs: &Repairs,
    edits: &Edits,
    dot: Dot,
) -> Result<Option<Edits>, J::Error> {
    let losers = losers(repairs);
    if losers.is_empty() {
        return Ok(None);
    }
    if repairs.groups.iter().any(|group| has_side_files(group) && is_edited(group, edits)) {
        return Ok(None);
    }
    let mut narrowed = edits.clone();
    // Of each file the origins of versions that have gone, or are files of their own now.
    let mut gone: BTreeMap<Ino, BTreeSet<Dot>> = BTreeMap::new();
    let mut own: BTreeSet<Ino> = BTreeSet::new();
    let mut changed: BTreeSet<Ino> = BTreeSet::new();
    let with_losers: BTreeSet<Ino> = losers.values().map(|loser| loser.of).collect();
    for (encoded, edit) in edits {
        let Ok(Key::Inode(ino)) = Key::decode(encoded) else { continue };
        if let Some(Loser { of, from }) = losers.get(&ino) {
            gone.entry(*of).or_default().insert(*from);
            if edit.is_some() {
                own.insert(ino);
            }
        } else if with_losers.contains(&ino) {
            changed.insert(ino);
        }
    }
    if gone.is_empty() && changed.is_empty() {
        return Ok(None);
    }
    changed.extend(gone.keys());
    for ino in changed {
        let key = Key::Inode(ino);
        let mut values = stored.values(&key)?;
        let from = gone.remove(&ino).unwrap_or_default();
        values.retain(|value| origin_of(value).is_none_or(|origin| !from.contains(&origin)));
        match edits.get(&key.encode()) {
            // The other versions need a file of their own then.
            Some(None) => return Ok(None),
            Some(Some(edit)) => {
                let Some((new, inode)) = written(edit, &key) else { return Ok(None) };
                let history = &inode.history.content;
                let is_other = |old: Dot| old != history.origin(new) && !history.contain(old);
                values.retain(|value| origin_of(value).is_some_and(is_other));
                values.push((new, Value::Inode(inode)));
                values.sort_by_key(|(dot, _)| *dot);
            }
            None => {}
        }
        if values.is_empty() {
            return Ok(None);
        }
        narrowed.insert(key.encode(), Some(item(&key.encode(), &values)));
    }
    // A version that was edited is a file now, with all that it was shown with.
    for repair in repairs.groups.iter().flat_map(|group| &group.repairs) {
        let is_own = match (&repair.key, &repair.value) {
            (Key::Entry(..), Some((_, Value::Entry(ino, _)))) => own.contains(ino),
            (Key::Entry(..), _) => false,
            (key, _) => own.contains(&key.ino()),
        };
        if let (true, Some((_, value))) = (is_own, &repair.value) {
            let key = repair.key.encode();
            let whole = item(&key, &[(dot, value.clone())]);
            narrowed.entry(key).or_insert(Some(whole));
        }
    }
    Ok(Some(narrowed))
}
