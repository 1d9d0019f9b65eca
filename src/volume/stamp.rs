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

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use super::{Edit, Tree, values};
use crate::format::clock::Dot;
use crate::format::container::Class;
use crate::format::namespace::{
    Content, Ino, Inode, Key, ROOT, Value, XATTR_INLINE_MAX, Xattr, XattrState,
};
use crate::format::versions::{OVER_MAX, Versions};
use crate::store::{Result, StoreError};

/// Most removed attributes that an inode keeps; the oldest go.
const REMOVED_MAX: usize = 64;
/// What `SQLite` adds to the name of a database for the files beside it ("Temporary Files Used
/// By `SQLite`" in its documentation).
const SIDE_SUFFIXES: [&[u8]; 3] = [b"-journal", b"-shm", b"-wal"];

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

/// Completes `edits`, which are to be made on this tree. What is staged for them is staged
/// in its store.
pub(super) fn complete(
    below: Tree<'_>,
    edits: Vec<Edit>,
    origins: &HashMap<Ino, Origins>,
) -> Result<Vec<Edit>> {
    let mut stamper = Stamper {
        below,
        edits: edits.into_iter().collect(),
        origins: origins.clone(),
        over: HashMap::new(),
        main: HashMap::new(),
        forgotten: HashSet::new(),
    };
    stamper.databases()?;
    stamper.names()?;
    for (ino, dot) in stamper.changed_inodes() {
        match dot {
            Some(dot) => stamper.inode(ino, dot)?,
            None => stamper.removed_inode(ino)?,
        }
    }
    stamper.xattrs()?;
    Ok(stamper.edits.into_iter().collect())
}

/// The name of the database to which a file of this name would be a side file.
fn main_name(name: &[u8]) -> Option<&[u8]> {
    fn stripped(name: &[u8]) -> Option<&[u8]> {
        SIDE_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(*suffix))
    }
    stripped(name).filter(|main| !main.is_empty() && stripped(main).is_none())
}

/// A directory and a name in it.
type Place = (Ino, Vec<u8>);

/// A name that changes: its key, its place, and the inode that it names from here on with the
/// dot of that; none if it goes.
type ChangedEntry = (Key, Place, Option<(Ino, Dot)>);

/// What happened to a database or its side files.
#[derive(Clone, Copy)]
struct Touched {
    /// The newest change of one of them.
    dot: Dot,
    /// Whether one changed its content, or came, went or moved.
    is_version: bool,
}

struct Stamper<'a> {
    below: Tree<'a>,
    edits: BTreeMap<Vec<u8>, Option<(Dot, Value)>>,
    origins: HashMap<Ino, Origins>,
    /// Files that a file was renamed over.
    over: HashMap<Ino, Vec<Ino>>,
    /// The database beside which a side file stands from here on.
    main: HashMap<Ino, Option<Ino>>,
    /// Removed attributes that are too many to keep.
    forgotten: HashSet<Vec<u8>>,
}

impl Stamper<'_> {
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
        if let Some((own, _)) = self.edit_of(ino) {
            *own = dot.max(*own);
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

    /// Edits of names: place, the inode that is named and the dot; none if the name goes.
    fn changed_entries(&self) -> Vec<ChangedEntry> {
        let mut found = Vec::new();
        for (bytes, edit) in &self.edits {
            let Ok(key) = Key::decode(bytes) else { continue };
            let Key::Entry(dir, _, name) = &key else { continue };
            let place = (*dir, name.clone());
            let named = match edit {
                Some((dot, Value::Entry(ino, _))) => Some((*ino, *dot)),
                _ => None,
            };
            found.push((key, place, named));
        }
        found
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

    /// The file that a name stood for in the tree below.
    fn file_before(&self, place: &Place) -> Result<Option<Ino>> {
        Ok(match self.before(&self.entry_key(place))? {
            Some((_, Value::Entry(ino, 0o100_000))) => Some(ino),
            _ => None,
        })
    }

    /// The file that a name stands for once the changes are made.
    fn file_after(&self, place: &Place) -> Result<Option<Ino>> {
        Ok(match self.after(&self.entry_key(place))? {
            Some((_, Value::Entry(ino, 0o100_000))) => Some(ino),
            _ => None,
        })
    }

    // --- names

    /// A new name keeps the directories above it alive. A file that takes the name of one that
    /// goes was renamed over it.
    fn names(&mut self) -> Result<()> {
        let mut stamps: BTreeMap<Ino, Dot> = BTreeMap::new();
        for (key, (dir, _), named) in self.changed_entries() {
            let Some((ino, dot)) = named else { continue };
            let stamp = stamps.entry(dir).or_insert(dot);
            *stamp = dot.max(*stamp);
            let old = match self.before(&key)? {
                Some((_, Value::Entry(old, 0o100_000))) if old != ino => old,
                _ => continue,
            };
            let goes = matches!(self.edits.get(&Key::Inode(old).encode()), Some(None));
            if goes && self.is_file_after(ino)? {
                self.over.entry(ino).or_default().push(old);
            }
        }
        // From the newest on, each directory is stamped once.
        let mut newest: Vec<(Dot, Ino)> = stamps.into_iter().map(|(dir, dot)| (dot, dir)).collect();
        newest.sort_unstable_by(|one, other| other.cmp(one));
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

    // --- databases

    /// A database and its side files are one version: a change of one of them makes a new
    /// version of the database, and each side file beside it says which.
    fn databases(&mut self) -> Result<()> {
        let mut touched: BTreeMap<Place, Touched> = BTreeMap::new();
        let mut touch = |(dir, name): Place, dot: Dot, is_version: bool| {
            let main = main_name(&name).map_or_else(|| name.clone(), <[u8]>::to_vec);
            let all = touched.entry((dir, main)).or_insert(Touched { dot, is_version });
            all.dot = dot.max(all.dot);
            all.is_version |= is_version;
        };
        // A name that goes has no dot of its own: its directory's record has one as late.
        let gone = |stamper: &mut Self, dir| stamper.edit_of(dir).map(|(dot, _)| *dot);
        for (_, place, named) in self.changed_entries() {
            let dot = match named {
                Some((_, dot)) => Some(dot),
                None => gone(self, place.0),
            };
            if let Some(dot) = dot {
                touch(place, dot, true);
            }
        }
        for (ino, dot) in self.changed_inodes() {
            let Some(dot) = dot else { continue };
            if !self.is_file_after(ino)? {
                continue;
            }
            let origin = self.origins.get(&ino).copied().unwrap_or_default().content;
            for place in self.names_after(ino)? {
                touch(place, dot, origin.is_some());
            }
        }
        for (place, what) in touched {
            self.database(&place, what)?;
        }
        Ok(())
    }

    /// The names of the side files of a database with this name.
    fn side_places((dir, name): &Place) -> impl Iterator<Item = Place> {
        SIDE_SUFFIXES.iter().map(|suffix| (*dir, [name, *suffix].concat()))
    }

    /// The side files beside a database, under any of its names.
    fn sides_after(&self, main: Ino) -> Result<BTreeSet<Ino>> {
        let mut sides = BTreeSet::new();
        for place in self.names_after(main)? {
            if main_name(&place.1).is_some() {
                continue;
            }
            for side in Self::side_places(&place) {
                sides.extend(self.file_after(&side)?);
            }
        }
        sides.remove(&main);
        Ok(sides)
    }

    fn database(&mut self, place: &Place, what: Touched) -> Result<()> {
        let (mut sides, mut had) = (BTreeSet::new(), false);
        for side in Self::side_places(place) {
            let before = self.file_before(&side)?;
            had |= before.is_some();
            sides.extend(before);
            sides.extend(self.file_after(&side)?);
        }
        if sides.is_empty() {
            return Ok(());
        }
        let mut mains = BTreeSet::new();
        if had {
            mains.extend(self.file_before(place)?);
        }
        mains.extend(self.file_after(place)?);
        for main in mains {
            if !self.is_file_after(main)? {
                continue;
            }
            let beside = self.sides_after(main)?;
            if !had && beside.is_empty() {
                continue;
            }
            self.touch(main, what.dot)?;
            if what.is_version {
                let origins = self.origins.entry(main).or_default();
                origins.content = origins.content.max(Some(what.dot));
            }
            for side in beside {
                self.touch(side, what.dot)?;
                self.main.insert(side, Some(main));
            }
        }
        for side in sides {
            if self.main.contains_key(&side) || !self.is_file_after(side)? {
                continue;
            }
            let Some((_, inode)) = self.inode_before(side)? else { continue };
            let Some((main, _)) = inode.history.main else { continue };
            if !self.sides_after(main)?.contains(&side) {
                self.touch(side, what.dot)?;
                self.main.insert(side, None);
            }
        }
        Ok(())
    }

    // --- versions

    /// The history of an inode, and what lies beside its record, under the dot of that.
    fn inode(&mut self, ino: Ino, dot: Dot) -> Result<()> {
        let before = self.inode_before(ino)?;
        if before.as_ref().is_some_and(|(old, _)| *old == dot) {
            // It is there already.
            return Ok(());
        }
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
        }
        if let Some((_, Value::Inode(inode))) = self.edit_of(ino) {
            *inode.history = history;
        }
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
                    // It was stamped, or is there already.
                    let known = before.as_ref().is_some_and(|(old, _)| *old == dot);
                    if known || !xattr.versions.is_empty() {
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
                    // It goes with its inode, or was in no head.
                    _ => continue,
                },
            };
            let state = self.stored(state)?;
            let value = Value::Xattr(Xattr { versions, state });
            self.edits.insert(encoded, Some((dot, value)));
        }
        Ok(())
    }

    fn stored(&self, state: XattrState) -> Result<XattrState> {
        match state {
            XattrState::Inline(bytes) if bytes.len() > XATTR_INLINE_MAX => {
                let id = self.below.store.context().ids.chunk_id(&bytes);
                self.below.store.stage(Class::Compressible, id, &bytes)?;
                Ok(XattrState::Stored(bytes.len() as u64, Content::Chunk(id)))
            }
            other => Ok(other),
        }
    }
}
