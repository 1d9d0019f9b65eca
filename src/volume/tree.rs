//! The namespace at one root. Whose root it is makes no difference: that of the base, of
//! a kept commit, or of another device's head.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::values;
use crate::format::namespace::{Ino, Key, ROOT, Value, XattrState};
use crate::format::node::MapItem;
use crate::store::{Result, Store, StoreError};
use crate::tree::diff::{self, Difference};
use crate::tree::map::{self, KeyRange};
use crate::tree::{Keys, NewNodes, Root};

/// Deeper paths cannot be made through a mount.
const DEPTH_MAX: usize = 1 << 20;

/// The namespace at one root, with the store that has its nodes.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    /// Where its nodes and the content of its files come from.
    pub store: &'a Store,
    /// The root of the namespace tree: a node and its level.
    pub root: Root,
}

impl<'a> Tree<'a> {
    /// The value of a key.
    pub fn get(&self, key: &Key) -> Result<Option<Value>> {
        self.get_encoded(key, &key.encode())
    }

    /// The value of a key that is encoded already.
    pub fn get_encoded(&self, key: &Key, encoded: &[u8]) -> Result<Option<Value>> {
        self.get_item(encoded, |item| Self::value_of(key, item))?.transpose()
    }

    /// What `found` makes of the item with this encoded key.
    pub fn get_item<T>(
        &self,
        encoded: &[u8],
        found: impl FnOnce(&MapItem) -> T,
    ) -> Result<Option<T>> {
        map::get(self.store, self.root, encoded, found)
    }

    /// The value of an item that counts.
    pub fn value_of(key: &Key, item: &MapItem) -> Result<Value> {
        Value::decode(key, &values::counting(item).bytes)
            .map_err(|error| StoreError::damaged("a value of the namespace", error))
    }

    /// The key of an item.
    pub fn decode_key(encoded: &[u8]) -> Result<Key> {
        Key::decode(encoded).map_err(|error| StoreError::damaged("a key of the namespace", error))
    }

    /// The key and the value of an item.
    pub fn decode(item: &MapItem) -> Result<(Key, Value)> {
        let key = Self::decode_key(&item.key)?;
        let value = Self::value_of(&key, item)?;
        Ok((key, value))
    }

    /// The names of an inode, each with its directory.
    pub fn names_of(&self, ino: Ino) -> Result<Vec<(Ino, Vec<u8>)>> {
        let mut names = Vec::new();
        self.scan(&Key::backs(ino), &mut |key, _| match key {
            Key::Back(of, dir, name) if of == ino => {
                names.push((dir, name));
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        })?;
        Ok(names)
    }

    /// The extended attributes of an inode that were not removed, by name.
    pub fn xattrs(&self, of: Ino) -> Result<BTreeMap<Vec<u8>, XattrState>> {
        let mut found = BTreeMap::new();
        self.scan(&Key::xattrs(of), &mut |key, value| match (key, value) {
            (Key::Xattr(ino, name), Value::Xattr(xattr)) if ino == of => {
                if xattr.state != XattrState::Removed {
                    found.insert(name, xattr.state);
                }
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        })?;
        Ok(found)
    }

    /// What has a name in a directory.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>> {
        let hash = self.store.context().ids.name_hash(name);
        Ok(match self.get(&Key::Entry(dir, hash, name.to_vec()))? {
            Some(Value::Entry(ino, _)) => Some(ino),
            _ => None,
        })
    }

    /// The names that lead from the root to a directory; none if there are none.
    pub fn path_of(&self, dir: Ino) -> Result<Option<Vec<Vec<u8>>>> {
        let (mut path, mut at) = (Vec::new(), dir);
        while at != ROOT {
            let Some((above, name)) = self.names_of(at)?.pop() else { return Ok(None) };
            path.push(name);
            if path.len() > DEPTH_MAX {
                return Err(StoreError::damaged("a directory of the namespace", "it is in itself"));
            }
            at = above;
        }
        path.reverse();
        Ok(Some(path))
    }

    /// Visits items from `from` on until `visit` breaks.
    pub fn scan_items(
        &self,
        from: &[u8],
        visit: &mut dyn FnMut(&MapItem) -> ControlFlow<()>,
    ) -> Result<()> {
        map::scan(self.store, self.root, from, visit)
    }

    /// Visits keys and values from `from` on until `visit` breaks.
    pub fn scan(
        &self,
        from: &[u8],
        visit: &mut dyn FnMut(Key, Value) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut failed = None;
        self.scan_items(from, &mut |item| match Self::decode(item) {
            Ok((key, value)) => visit(key, value),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Visits the items of a range and goes on where a node cannot be read: `lost` is
    /// called with the keys that are, or would be, below it.
    pub fn salvage(
        &self,
        range: KeyRange,
        visit: &mut dyn FnMut(&MapItem),
        lost: &mut dyn FnMut(KeyRange, StoreError),
    ) {
        map::salvage(self.store, self.root, range, visit, lost);
    }

    /// The items in which `other` differs, by key; this tree is the left one. Nodes that
    /// both have are not read. Ends after a node that cannot be read.
    pub fn diff(
        &self,
        other: &Tree<'_>,
    ) -> impl Iterator<Item = Result<Difference<MapItem>>> + use<'a> {
        diff::maps(self.store, self.root, other.root)
    }

    /// The root after edits, which must be strictly ascending by key; new nodes go into
    /// `new`.
    pub(super) fn edit(&self, edits: &[map::Edit], new: &mut NewNodes) -> Result<Root> {
        map::edit(Keys(&self.store.context().ids), self.store, self.root, edits, new)
    }
}
