//! In what two namespaces of one repository differ, as people see it: by path.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{StoreError, Tree};
use crate::format::namespace::{Ino, Inode, Key, Value, XattrState};

type Result<T> = std::result::Result<T, StoreError>;
/// A directory and a name in it.
type Place = (Ino, Vec<u8>);

/// In what way a path of one namespace is another one in a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It was not there before.
    Added,
    /// It is not there any more.
    Removed,
    /// It had another name before.
    Renamed,
    /// The content is another one, or the kind of file.
    Content,
    /// Only mode, owner, time or extended attributes are others.
    Attributes,
}

/// A path at which two namespaces differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The path: in the later namespace, or that of what was removed.
    pub path: Vec<u8>,
    /// What changed.
    pub kind: ChangeKind,
    /// The path before, of what was renamed.
    pub from: Option<Vec<u8>>,
    /// The size of the content before, in bytes; none of what is no regular file, or was not there.
    pub size_before: Option<u64>,
    /// The size of the content after it; as above.
    pub size_after: Option<u64>,
}

/// The paths at which `after` differs from `before`, ascending. Nodes that both have are not read, so
/// the work grows with what differs. A directory whose times alone differ is left out, and so is
/// what lies in one that only has another name.
pub(crate) fn changes(before: &Tree<'_>, after: &Tree<'_>) -> Result<Vec<Change>> {
    let mut touched = Touched::default();
    for difference in before.diff(after) {
        let difference = difference?;
        let (left, right) = difference.sides();
        let Some(item) = left.or(right) else { continue };
        let key = Tree::decode_key(&item.key)?;
        let value = |item: Option<_>| item.map(|item| Tree::value_of(&key, item)).transpose();
        touched.note(&key, value(left)?, value(right)?);
    }
    let (mut left, mut right) = (Side::new(before), Side::new(after));
    let mut found = Vec::new();
    let (mut removed, mut added) = (BTreeMap::new(), BTreeMap::new());
    let mut renamed = Vec::new();
    for (ino, (gone, new)) in touched.names {
        let (mut gone, mut new) = (gone.into_iter(), new.into_iter());
        loop {
            let (gone, new) = match (gone.next(), new.next()) {
                (None, None) => break,
                pair => pair,
            };
            let gone = gone.map(|place| left.path(&place)).transpose()?;
            let new = new.map(|place| right.path(&place)).transpose()?;
            match (gone, new) {
                // A directory of the same path may be another one.
                (Some(from), Some(path)) if from == path => {}
                (Some(from), Some(path)) => renamed.push((from, path, ino)),
                (Some(path), None) => drop(removed.insert(path, ino)),
                (None, Some(path)) => drop(added.insert(path, ino)),
                (None, None) => {}
            }
        }
    }
    for (from, path, ino) in renamed {
        // A file that is there again as it was, as after a restore, is where it was: the other is new.
        let again = added.get(&from).copied();
        if let Some(again) = again
            && right.inode(again)?.is_some_and(|inode| !inode.is_dir())
            && difference(&left, ino, &right, again)?.is_none()
        {
            added.remove(&from);
            added.insert(path, ino);
            continue;
        }
        let (size_before, size_after) = (left.size(ino)?, right.size(ino)?);
        let kind = ChangeKind::Renamed;
        found.push(Change { path, kind, from: Some(from), size_before, size_after });
    }
    let new_paths: BTreeSet<Vec<u8>> = added.keys().cloned().collect();
    // Programs save a file by renaming a new one over it.
    for (path, ino) in added {
        let size_after = right.size(ino)?;
        let (kind, size_before) = match removed.remove(&path) {
            None => (ChangeKind::Added, None),
            Some(old) => {
                let Some(kind) = difference(&left, old, &right, ino)? else { continue };
                (kind, left.size(old)?)
            }
        };
        found.push(Change { path, kind, from: None, size_before, size_after });
    }
    for (path, ino) in removed {
        let size_before = left.size(ino)?;
        let kind = ChangeKind::Removed;
        found.push(Change { path, kind, from: None, size_before, size_after: None });
    }
    for ino in touched.inodes.union(&touched.xattrs) {
        let (Some(one), Some(other)) = (left.inode(*ino)?, right.inode(*ino)?) else { continue };
        let Some(kind) = compare(&one, &other, touched.xattrs.contains(ino)) else { continue };
        let (size_before, size_after) = (left.size(*ino)?, right.size(*ino)?);
        for place in after.names_of(*ino)? {
            let path = right.path(&place)?;
            // A name that was added to it was told.
            if !new_paths.contains(&path) {
                found.push(Change { path, kind, from: None, size_before, size_after });
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What keys of two namespaces say that differ.
#[derive(Default)]
struct Touched {
    /// The names that an inode has before and not after, and after and not before.
    names: BTreeMap<Ino, (BTreeSet<Place>, BTreeSet<Place>)>,
    /// Inodes with another record.
    inodes: BTreeSet<Ino>,
    /// Inodes with other extended attributes.
    xattrs: BTreeSet<Ino>,
}

impl Touched {
    fn note(&mut self, key: &Key, before: Option<Value>, after: Option<Value>) {
        match key {
            Key::Entry(dir, _, name) => {
                let ino = |value| match value {
                    Some(Value::Entry(ino, _)) => Some(ino),
                    _ => None,
                };
                let (before, after) = (ino(before), ino(after));
                if before == after {
                    return;
                }
                let place = (*dir, name.clone());
                if let Some(ino) = before {
                    self.names.entry(ino).or_default().0.insert(place.clone());
                }
                if let Some(ino) = after {
                    self.names.entry(ino).or_default().1.insert(place);
                }
            }
            Key::Inode(ino) => drop(self.inodes.insert(*ino)),
            Key::Xattr(ino, _) => {
                let shown = |value| match value {
                    Some(Value::Xattr(xattr)) => {
                        Some(xattr.state).filter(|state| *state != XattrState::Removed)
                    }
                    _ => None,
                };
                if shown(before) != shown(after) {
                    self.xattrs.insert(*ino);
                }
            }
            _ => {}
        }
    }
}

/// In what an inode of one namespace differs from one of another, as far as people see it.
fn difference(
    left: &Side<'_>,
    before: Ino,
    right: &Side<'_>,
    after: Ino,
) -> Result<Option<ChangeKind>> {
    let (Some(one), Some(other)) = (left.inode(before)?, right.inode(after)?) else {
        return Ok(Some(ChangeKind::Content));
    };
    let has_other_xattrs = left.tree.xattrs(before)? != right.tree.xattrs(after)?;
    Ok(compare(&one, &other, has_other_xattrs))
}

/// In what two records differ, as far as people see it.
fn compare(one: &Inode, other: &Inode, has_other_xattrs: bool) -> Option<ChangeKind> {
    let content = |inode: &Inode| (inode.kind(), inode.size, inode.content, inode.inline.clone());
    if !one.is_dir() && content(one) != content(other) || one.kind() != other.kind() {
        return Some(ChangeKind::Content);
    }
    let attributes = |inode: &Inode| (inode.mode, inode.uid, inode.gid, inode.rdev);
    // The time of a directory is that of its entries, which are told.
    let has_other_time = !one.is_dir() && one.mtime != other.mtime;
    let differ = has_other_xattrs || has_other_time || attributes(one) != attributes(other);
    differ.then_some(ChangeKind::Attributes)
}

/// One of the two namespaces, with what was looked up in it.
struct Side<'t> {
    tree: &'t Tree<'t>,
    dirs: HashMap<Ino, Vec<u8>>,
}

impl<'t> Side<'t> {
    fn new(tree: &'t Tree<'t>) -> Self {
        Self { tree, dirs: HashMap::new() }
    }

    fn inode(&self, ino: Ino) -> Result<Option<Box<Inode>>> {
        Ok(match self.tree.get(&Key::Inode(ino))? {
            Some(Value::Inode(inode)) => Some(inode),
            _ => None,
        })
    }

    /// The size of a regular file.
    fn size(&self, ino: Ino) -> Result<Option<u64>> {
        Ok(self.inode(ino)?.filter(|inode| inode.is_file()).map(|inode| inode.size))
    }

    fn path(&mut self, (dir, name): &Place) -> Result<Vec<u8>> {
        if !self.dirs.contains_key(dir) {
            let names = self.tree.path_of(*dir)?.ok_or_else(|| {
                StoreError::damaged("a directory of the namespace", "it has no name")
            })?;
            let path = names.into_iter().flat_map(|name| [name, b"/".to_vec()]).flatten();
            self.dirs.insert(*dir, path.collect());
        }
        Ok([self.dirs[dir].as_slice(), name].concat())
    }
}
