//! What joining needs to know of a change, added when it is published (`docs/merging.md`,
//! sections 6 and 7).
//!
//! The file system says which keys changed. Here each changed inode gets its lists of versions,
//! what lies beside it is written again under its dot, the directories above a new name are
//! stamped, and a database is tied to its side files. All of it is a function of the tree below
//! and of the changes, so it is done once for each checkpoint and not in each operation.
//!
//! Invariant: a value that is written here for the first time stands under a dot of these
//! changes, and nobody has seen that dot.

mod databases;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use super::{Changes, Tree, values};
use crate::format::clock::{Dot, Seen, Writer};
use crate::format::container::Class;
use crate::format::namespace::{
    Content, Ino, Inode, Key, ROOT, VALUE_MAX, Value, XATTR_INLINE_MAX, Xattr, XattrState,
};
use crate::format::versions::{History, OVER_MAX, Versions};
use crate::store::{Result, StoreError};
use crate::tree::join;

const DIRECTORY: u32 = 0o040_000;
/// Most removed attributes that are written again beside an inode. Writers have no order, so those
/// with the lowest origins go.
const REMOVED_MAX: usize = 64;

/// The newest changes of an inode since the last head that made a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// The newest change of its content.
    pub content: Option<Dot>,
    /// The newest change of its attributes, times aside.
    pub attributes: Option<Dot>,
}

impl Origins {
    /// Takes over what came later.
    pub fn absorb(&mut self, newer: Self) {
        self.content = newer.content.or(self.content);
        self.attributes = newer.attributes.or(self.attributes);
    }
}

/// Completes `changes`, which are to be made on the tree `below`. What is staged for them is
/// staged in its store. What that tree has already, because it was published and the noting
/// of it failed, is left out.
pub(super) fn complete(below: Tree<'_>, changes: Changes) -> Result<Changes> {
    let Changes { edits, origins, seen, writers } = changes;
    let known = join::seen(below.store, below.root)?;
    let mut stamper = Stamper {
        below,
        edits: edits.into_iter().collect(),
        origins,
        writers: &writers,
        over: HashMap::new(),
        main: HashMap::new(),
        forgotten: HashSet::new(),
    };
    stamper.leave_out_published(&known)?;
    let entries = stamper.changed_entries()?;
    stamper.databases(&entries)?;
    stamper.names(&entries)?;
    for (ino, dot) in stamper.changed_inodes() {
        match dot {
            Some(dot) => stamper.inode(ino, dot)?,
            None => stamper.removed_inode(ino)?,
        }
    }
    stamper.xattrs()?;
    let (edits, origins) = (stamper.edits.into_iter().collect(), stamper.origins);
    Ok(Changes { edits, origins, seen, writers })
}

/// Whether two records differ in no more than their lists of versions.
fn is_same_inode(one: &Inode, other: &Inode) -> bool {
    let plain = |inode: &Inode| Inode { history: Box::default(), ..inode.clone() };
    plain(one) == plain(other)
}

/// Drops what is oldest from the lists of an inode that would not fit into a value otherwise.
fn shorten(inode: &mut Inode) {
    let len = |inode: &Inode| Value::Inode(Box::new(inode.clone())).encode().len();
    while len(inode) > VALUE_MAX {
        let History { content, attributes, over, .. } = &mut *inode.history;
        if over.is_empty() {
            // Neither loses its last run, which has the origin.
            if !content.forget_oldest() && !attributes.forget_oldest() {
                return;
            }
        } else {
            over.remove(0);
        }
    }
}

/// A directory and a name in it.
type Place = (Ino, Vec<u8>);

/// A name that is edited.
struct ChangedEntry {
    /// The directory and the name.
    place: Place,
    /// The inode for which the name stands in the tree below, and the type of that.
    before: Option<(Ino, u32)>,
    /// The inode for which the name stands from here on, and the dot of that.
    after: Option<(Ino, Dot)>,
}

struct Stamper<'a> {
    below: Tree<'a>,
    edits: BTreeMap<Vec<u8>, Option<(Dot, Value)>>,
    origins: HashMap<Ino, Origins>,
    /// Writers of the changes, in the order of their first ones.
    writers: &'a [Writer],
    /// Files that a file was renamed over.
    over: HashMap<Ino, Vec<Ino>>,
    /// The database beside which a side file stands from here on.
    main: HashMap<Ino, Option<Ino>>,
    /// Removed attributes that are too many to keep.
    forgotten: HashSet<Vec<u8>>,
}

impl Stamper<'_> {
    /// Where a change stands in the order in which the changes were made. Numbers of writers
    /// are random, so the order of dots is another one.
    fn rank(&self, dot: Dot) -> (Option<usize>, u64) {
        (self.writers.iter().position(|writer| *writer == dot.writer), dot.record)
    }

    /// The later of two changes.
    fn later(&self, one: Dot, other: Dot) -> Dot {
        if self.rank(other) > self.rank(one) { other } else { one }
    }

    /// Leaves out what the tree below, which has seen `known`, has already.
    fn leave_out_published(&mut self, known: &Seen) -> Result<()> {
        let is_new = |dot: &Dot| !known.covers(*dot);
        for origins in self.origins.values_mut() {
            origins.content = origins.content.filter(is_new);
            origins.attributes = origins.attributes.filter(is_new);
        }
        let is_known = |edit: &Option<(Dot, Value)>| edit.as_ref().is_some_and(|e| !is_new(&e.0));
        let covered: Vec<Vec<u8>> = self
            .edits
            .iter()
            .filter(|(_, edit)| is_known(edit))
            .map(|(key, _)| key.clone())
            .collect();
        for encoded in covered {
            let key = Tree::decode_key(&encoded)?;
            let held = self.before(&key)?.map(|(_, value)| value);
            let Some(Some((_, value))) = self.edits.get(&encoded) else { continue };
            let is_same = match (value, &held) {
                (Value::Inode(new), Some(Value::Inode(held))) => is_same_inode(new, held),
                (Value::Xattr(new), Some(Value::Xattr(held))) => {
                    self.stored_form(&new.state) == held.state
                }
                (new, held) => Some(new) == held.as_ref(),
            };
            if is_same {
                self.edits.remove(&encoded);
            }
        }
        Ok(())
    }

    /// What stands under a key in the tree below.
    fn before(&self, key: &Key) -> Result<Option<(Dot, Value)>> {
        let found = self.below.get_item(&key.encode(), |item| {
            Tree::value_of(key, item).map(|value| (values::counting(item).dot, value))
        })?;
        found.transpose()
    }

    /// What stands under a key once the changes are made.
    fn after(&self, key: &Key) -> Result<Option<(Dot, Value)>> {
        match self.edits.get(&key.encode()) {
            Some(edit) => Ok(edit.clone()),
            None => self.before(key),
        }
    }

    fn inode_before(&self, ino: Ino) -> Result<Option<(Dot, Box<Inode>)>> {
        Ok(match self.before(&Key::Inode(ino))? {
            Some((dot, Value::Inode(inode))) => Some((dot, inode)),
            _ => None,
        })
    }

    fn is_dir_after(&self, ino: Ino) -> Result<bool> {
        let inode = self.after(&Key::Inode(ino))?;
        Ok(matches!(inode, Some((_, Value::Inode(inode))) if inode.is_dir()))
    }

    fn is_removed(&self, ino: Ino) -> bool {
        matches!(self.edits.get(&Key::Inode(ino).encode()), Some(None))
    }

    fn is_file_after(&self, ino: Ino) -> Result<bool> {
        let inode = self.after(&Key::Inode(ino))?;
        Ok(matches!(inode, Some((_, Value::Inode(inode))) if inode.is_file()))
    }

    /// The new record of an inode and its dot, if it has one.
    fn edit_of(&mut self, ino: Ino) -> Option<&mut (Dot, Value)> {
        self.edits.get_mut(&Key::Inode(ino).encode())?.as_mut()
    }

    /// Writes the record of an inode again under this dot, or a later one if it has that
    /// already.
    fn touch(&mut self, ino: Ino, dot: Dot) -> Result<()> {
        if let Some(own) = self.edit_of(ino).map(|(own, _)| *own) {
            let later = self.later(own, dot);
            self.edit_of(ino).expect("it was there").0 = later;
        } else if let Some((_, inode)) = self.inode_before(ino)? {
            self.edits.insert(Key::Inode(ino).encode(), Some((dot, Value::Inode(inode))));
        }
        Ok(())
    }

    /// Inodes whose records are edited, with the dot of the new one; none if it goes.
    fn changed_inodes(&self) -> Vec<(Ino, Option<Dot>)> {
        let inode = |(key, edit): (&Vec<u8>, &Option<(Dot, Value)>)| match Key::decode(key) {
            Ok(Key::Inode(ino)) => Some((ino, edit.as_ref().map(|(dot, _)| *dot))),
            _ => None,
        };
        self.edits.iter().filter_map(inode).collect()
    }

    fn changed_entries(&self) -> Result<Vec<ChangedEntry>> {
        let mut found = Vec::new();
        for (bytes, edit) in &self.edits {
            let Ok(key @ Key::Entry(..)) = Key::decode(bytes) else { continue };
            let before = match self.before(&key)? {
                Some((_, Value::Entry(ino, kind))) => Some((ino, kind)),
                _ => None,
            };
            let after = match edit {
                Some((dot, Value::Entry(ino, _))) => Some((*ino, *dot)),
                _ => None,
            };
            let Key::Entry(dir, _, name) = key else { continue };
            found.push(ChangedEntry { place: (dir, name), before, after });
        }
        Ok(found)
    }

    /// Visits items of the tree below from `from` on, as long as `inside` says so of the key.
    fn scan(
        &self,
        from: &[u8],
        inside: &dyn Fn(&[u8]) -> bool,
        visit: &mut dyn FnMut(Key, Dot, Value),
    ) -> Result<()> {
        let mut failed = Ok(());
        self.below.scan_items(from, &mut |item| {
            if !inside(&item.key) {
                return ControlFlow::Break(());
            }
            let decoded = Tree::decode(item);
            match decoded {
                Ok((key, value)) => {
                    visit(key, values::counting(item).dot, value);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Err(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failed
    }

    /// What lies beside an inode's record in the tree below; entries of a directory do not.
    fn beside(&self, ino: Ino) -> Result<Vec<(Key, Dot, Value)>> {
        let mut found = Vec::new();
        let mut visit = |key, dot, value| {
            if !matches!(key, Key::Inode(_)) {
                found.push((key, dot, value));
            }
        };
        let prefix = ino.to_be_bytes();
        let (first, last) = (Key::entries_from(ino, 0), Key::entries_from(ino, u64::MAX));
        // Entries may be very many, so they are passed by.
        let before = |key: &[u8]| key.starts_with(&prefix) && *key < *first;
        self.scan(&prefix, &before, &mut visit)?;
        self.scan(&last, &|key| key.starts_with(&prefix), &mut visit)?;
        Ok(found)
    }

    /// The names of an inode once the changes are made.
    fn names_after(&self, ino: Ino) -> Result<BTreeSet<Place>> {
        let prefix = Key::backs(ino);
        let mut names = BTreeSet::new();
        self.scan(&prefix, &|key| key.starts_with(&prefix), &mut |key, _, _| {
            if let Key::Back(_, dir, name) = key {
                names.insert((dir, name));
            }
        })?;
        for (bytes, edit) in self.edits.range(prefix.clone()..) {
            if !bytes.starts_with(&prefix) {
                break;
            }
            if let Key::Back(_, dir, name) = Tree::decode_key(bytes)? {
                match edit {
                    Some(_) => names.insert((dir, name)),
                    None => names.remove(&(dir, name)),
                };
            }
        }
        Ok(names)
    }

    fn entry_key(&self, (dir, name): &Place) -> Key {
        Key::Entry(*dir, self.below.store.context().ids.name_hash(name), name.clone())
    }

    /// The files for which a name stands in the tree below, and once the changes are made.
    fn files(&self, place: &Place) -> Result<(Option<Ino>, Option<Ino>)> {
        let file = |value: Option<&Value>| match value {
            Some(Value::Entry(ino, 0o100_000)) => Some(*ino),
            _ => None,
        };
        let key = self.entry_key(place);
        let before = file(self.before(&key)?.as_ref().map(|(_, value)| value));
        Ok(match self.edits.get(&key.encode()) {
            Some(edit) => (before, file(edit.as_ref().map(|(_, value)| value))),
            None => (before, before),
        })
    }

    // --- names

    /// A new name keeps the directories above it alive. A file that takes the name of one that
    /// goes was renamed over it.
    fn names(&mut self, entries: &[ChangedEntry]) -> Result<()> {
        let mut stamps: BTreeMap<Ino, Dot> = BTreeMap::new();
        for ChangedEntry { place: (dir, _), before, after } in entries {
            let Some((ino, dot)) = *after else { continue };
            let stamp = stamps.get(dir).map_or(dot, |stamp| self.later(*stamp, dot));
            stamps.insert(*dir, stamp);
            match *before {
                Some((old, kind))
                    if old != ino
                        && kind != DIRECTORY
                        && self.is_removed(old)
                        && !self.is_dir_after(ino)? =>
                {
                    self.over.entry(ino).or_default().push(old);
                }
                _ => {}
            }
        }
        // From the newest on, each directory is stamped once.
        let mut newest: Vec<(Dot, Ino)> = stamps.into_iter().map(|(dir, dot)| (dot, dir)).collect();
        newest.sort_by_key(|(dot, _)| std::cmp::Reverse(self.rank(*dot)));
        let mut stamped: BTreeSet<Ino> = BTreeSet::new();
        for (dot, dir) in newest {
            let mut at = dir;
            while at != ROOT && stamped.insert(at) {
                self.touch(at, dot)?;
                match self.names_after(at)?.pop_first() {
                    Some((parent, _)) => at = parent,
                    None => break,
                }
            }
        }
        Ok(())
    }

    // --- versions

    /// The history of an inode, and what lies beside its record, under the dot of that.
    fn inode(&mut self, ino: Ino, dot: Dot) -> Result<()> {
        let before = self.inode_before(ino)?;
        let origins = self.origins.get(&ino).copied().unwrap_or_default();
        let mut history =
            before.as_ref().map(|(_, inode)| *inode.history.clone()).unwrap_or_default();
        if let Some((old, _)) = &before {
            let next = |versions: &Versions, origin: Option<Dot>| match origin {
                Some(origin) => Versions::replacing(&[(*old, versions)], origin),
                None => versions.kept(*old),
            };
            history.content = next(&history.content, origins.content);
            history.attributes = next(&history.attributes, origins.attributes);
        }
        for target in self.over.remove(&ino).unwrap_or_default() {
            // What no head has, nobody knows.
            if let Some((old, inode)) = self.inode_before(target)? {
                history.over.extend(inode.history.over.iter().cloned());
                history.over.push((target, inode.history.content.kept(old)));
            }
        }
        history.over.retain(|(target, _)| *target != ino);
        history.over.drain(..history.over.len().saturating_sub(OVER_MAX));
        if let Some(main) = self.main.get(&ino).copied() {
            history.main = match main {
                Some(main) => Some((main, self.content_origin(main)?)),
                None => None,
            };
        } else if let Some((main, _)) = history.main
            && !(self.is_file_after(main)? && self.sides_after(main)?.contains(&ino))
        {
            // It moved away, and its database moved or went.
            history.main = None;
        }
        if let Some((_, Value::Inode(inode))) = self.edit_of(ino) {
            *inode.history = history;
            shorten(inode);
        }
        self.lift_beside(ino, dot);
        if before.is_some() {
            self.stamp_beside(ino, dot)?;
        }
        Ok(())
    }

    /// The change that made the content of a file, once all changes are made.
    fn content_origin(&mut self, ino: Ino) -> Result<Dot> {
        let changed = self.origins.get(&ino).and_then(|origins| origins.content);
        match (self.inode_before(ino)?, changed) {
            (Some(_), Some(origin)) => Ok(origin),
            (Some((dot, inode)), None) => Ok(inode.history.content.origin(dot)),
            (None, _) => match self.edit_of(ino) {
                Some((dot, _)) => Ok(*dot),
                None => Err(StoreError::damaged("a database", "it has no record")),
            },
        }
    }

    /// What changed beside a record stands under the dot of that: both have one writer then.
    fn lift_beside(&mut self, ino: Ino, dot: Dot) {
        let start = ino.to_be_bytes().to_vec();
        let (first, last) = (Key::entries_from(ino, 0), Key::entries_from(ino, u64::MAX));
        let lift = |(_, edit): (&Vec<u8>, &mut Option<(Dot, Value)>)| {
            if let Some((own, _)) = edit {
                *own = dot;
            }
        };
        // Entries may be very many, and have dots of their own.
        self.edits.range_mut(start.clone()..first).for_each(lift);
        let behind = self.edits.range_mut(last..);
        behind.take_while(|(key, _)| key.starts_with(&start)).for_each(lift);
    }

    fn stamp_beside(&mut self, ino: Ino, dot: Dot) -> Result<()> {
        let mut removed = Vec::new();
        for (key, old, value) in self.beside(ino)? {
            let encoded = key.encode();
            if self.edits.contains_key(&encoded) {
                continue;
            }
            let value = match value {
                Value::Xattr(xattr) => {
                    let versions = xattr.versions.kept(old);
                    if xattr.is_removed() {
                        removed.push((versions.origin(old), encoded.clone()));
                    }
                    Value::Xattr(Xattr { versions, ..xattr })
                }
                other => other,
            };
            self.edits.insert(encoded, Some((dot, value)));
        }
        removed.sort_unstable();
        let many = removed.len().saturating_sub(REMOVED_MAX);
        for (_, key) in removed.into_iter().take(many) {
            self.edits.insert(key.clone(), None);
            self.forgotten.insert(key);
        }
        Ok(())
    }

    /// Everything goes that lies beside an inode's record.
    fn removed_inode(&mut self, ino: Ino) -> Result<()> {
        for (key, ..) in self.beside(ino)? {
            self.edits.insert(key.encode(), None);
        }
        Ok(())
    }

    /// Versions of extended attributes that changed. One that was removed stays as that; a long
    /// one becomes a chunk.
    fn xattrs(&mut self) -> Result<()> {
        let keys = self.edits.keys().filter(|key| !self.forgotten.contains(*key));
        let keys = keys.filter_map(|key| Key::decode(key).ok());
        let changed: Vec<Key> = keys.filter(|key| matches!(key, Key::Xattr(..))).collect();
        for key in changed {
            let ino = key.ino();
            let before = match self.before(&key)? {
                Some((dot, Value::Xattr(xattr))) => Some((dot, xattr)),
                _ => None,
            };
            let encoded = key.encode();
            let replaced = |dot: Dot| {
                before.as_ref().map_or_else(Versions::default, |(old, xattr)| {
                    Versions::replacing(&[(*old, &xattr.versions)], dot)
                })
            };
            let (dot, versions, state) = match self.edits.get(&encoded).cloned().flatten() {
                Some((dot, Value::Xattr(xattr))) => {
                    if !xattr.versions.is_empty() {
                        // It was stamped.
                        continue;
                    }
                    (dot, replaced(dot), xattr.state)
                }
                Some(_) => continue,
                None => match (self.edit_of(ino).map(|(dot, _)| *dot), &before) {
                    (Some(dot), Some((old, xattr))) if xattr.is_removed() => {
                        (dot, xattr.versions.kept(*old), XattrState::Removed)
                    }
                    (Some(dot), Some(_)) => (dot, replaced(dot), XattrState::Removed),
                    (None, Some((_, xattr))) if xattr.is_removed() && !self.is_removed(ino) => {
                        // Its removal was published, and the noting of that failed.
                        self.edits.remove(&encoded);
                        continue;
                    }
                    // It goes with its inode, or was in no head.
                    _ => continue,
                },
            };
            let state = self.stored(&state)?;
            let value = Value::Xattr(Xattr { versions, state });
            self.edits.insert(encoded, Some((dot, value)));
        }
        Ok(())
    }

    /// An attribute as a tree holds it: a long one names the chunk of its bytes.
    fn stored_form(&self, state: &XattrState) -> XattrState {
        match state {
            XattrState::Inline(bytes) if bytes.len() > XATTR_INLINE_MAX => {
                let id = self.below.store.context().ids.chunk_id(bytes);
                XattrState::Stored(bytes.len() as u64, Content::Chunk(id))
            }
            other => other.clone(),
        }
    }

    /// An attribute as a tree holds it; the chunk of a long one is staged.
    fn stored(&self, state: &XattrState) -> Result<XattrState> {
        let form = self.stored_form(state);
        if let (XattrState::Inline(bytes), XattrState::Stored(_, Content::Chunk(id))) =
            (state, &form)
        {
            self.below.store.stage(Class::Compressible, *id, bytes)?;
        }
        Ok(form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::namespace::Owner;
    use crate::io::Timestamp;

    /// Full lists beside long fields of a later version are more than a value takes: it would
    /// have been written, and refused by every reader.
    #[test]
    fn an_inode_with_all_lists_full_fits_into_a_value() {
        let dot = |writer: u64| {
            Dot::new(Writer::new((1 << 39) - writer).unwrap(), u64::MAX - writer).unwrap()
        };
        let mut full = Versions::default();
        for writer in 1..=40 {
            full = Versions::replacing(&[(dot(writer), &full)], dot(writer + 1));
        }
        let own = Owner::Id(u32::MAX);
        let mut inode = Inode::new(0o100_644, own, own, Timestamp::default());
        inode.inline = vec![1; 256];
        inode.history.content = full.clone();
        inode.history.attributes = full.clone();
        inode.history.over = (0..8).map(|at| (u64::MAX - at, full.clone())).collect();
        assert!(Value::Inode(Box::new(inode.clone())).encode().len() <= VALUE_MAX);
        inode.unknown = vec![(40, vec![0; 4000])];
        assert!(Value::Inode(Box::new(inode.clone())).encode().len() > VALUE_MAX);
        shorten(&mut inode);
        let bytes = Value::Inode(Box::new(inode.clone())).encode();
        assert!(bytes.len() <= VALUE_MAX && inode.history.over.len() >= 4, "{}", bytes.len());
        assert_eq!(inode.history.content, full);
        // A long link has room for little.
        let mut link = Inode::new(0o120_777, own, own, Timestamp::default());
        link.inline = vec![b'x'; 4095];
        link.history.content = Versions::default().kept(dot(1));
        link.history.attributes = full.clone();
        link.unknown = vec![(40, vec![0; 4200])];
        shorten(&mut link);
        let origin = link.history.attributes.origin(dot(99));
        assert_eq!(origin, full.origin(dot(99)));
        assert!(Value::Inode(Box::new(link)).encode().len() <= VALUE_MAX);
    }
}
