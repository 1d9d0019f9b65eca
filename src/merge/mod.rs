//! Repairs: ordinary edits, in groups, after which a joined namespace is a plain tree
//! (`docs/merging.md`, sections 5 and 6).
//!
//! Invariant: a pure function of the joined namespace. Every device that has joined the same
//! heads computes the same groups, in whatever order it joined them. To store any choice of
//! the groups changes nothing of what the rest shows.
//!
//! It reads what hangs together with the [`Suspects`] and nothing else: the names of an inode,
//! who else claims a name, the directories above, all of united directories, the files beside
//! a database.

mod conflicts;
mod files;
mod groups;
mod loaded;
mod names;
mod namespace;
mod narrow;
mod place;
mod show;
mod sides;
mod target;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_conflicts;
#[cfg(test)]
pub(crate) mod tests_devices;
#[cfg(test)]
pub(crate) mod tests_histories;
#[cfg(test)]
pub(crate) mod tests_maps;

use std::collections::BTreeSet;

pub use conflicts::{ConflictFile, FoundConflict, Scope, VersionNames, version_names};
pub use names::{kept_beside, numbered};
pub use namespace::{Edits, Namespace, edit, join};

use crate::crypto::{DeviceId, IdKeys};
use crate::format::clock::Dot;
use crate::format::namespace::{Ino, Key, ROOT, Value};
use crate::format::node::MapItem;
use crate::format::wire;
use crate::io::Timestamp;
use crate::tree::diff::Difference;

/// A joined namespace: all values of a key, each under its dot, ascending.
pub trait Joined {
    /// Why it cannot be read.
    type Error;

    /// The values of a key; none if it is not there.
    fn values(&self, key: &Key) -> Result<Values, Self::Error>;

    /// The keys from `from` on and before `to`, encoded, with their values, ascending.
    fn scan(&self, from: &[u8], to: &[u8]) -> Result<Vec<(Key, Values)>, Self::Error>;
}

/// The values of one key, ascending by dot.
pub type Values = Vec<(Dot, Value)>;
/// The name of a file in a directory.
type Name = Vec<u8>;
/// A directory and a name in it.
type Place = (Ino, Name);

/// What may need a repair. All else of the namespace is a plain tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    inodes: BTreeSet<Ino>,
    places: BTreeSet<Place>,
}

impl Suspects {
    /// Takes in a key and one of its values.
    pub fn add(&mut self, key: &Key, value: &Value) {
        match key {
            Key::Entry(dir, _, name) => {
                self.inodes.insert(*dir);
                self.places.insert((*dir, name.clone()));
                if let Value::Entry(ino, _) = value {
                    self.inodes.insert(*ino);
                }
            }
            Key::Back(ino, dir, name) => {
                self.inodes.insert(*ino);
                self.places.insert((*dir, name.clone()));
            }
            key => {
                self.inodes.insert(key.ino());
            }
        }
    }

    /// Takes in a row of what is unsettled. `named` are the entries of the directory with the
    /// row's hash, each with its values.
    pub fn add_row(&mut self, ino: Ino, named: &[(Key, Values)]) {
        self.inodes.insert(ino);
        for (key, values) in named {
            for (_, value) in values {
                self.add(key, value);
            }
        }
    }

    /// Takes in a key under which two trees differ. Of a joined tree and each of those from
    /// which it was joined, these are all that may need a repair, if each of those is a plain
    /// tree.
    pub fn add_difference(&mut self, difference: &Difference<MapItem>) -> wire::Result<()> {
        let (left, right) = difference.sides();
        for item in left.into_iter().chain(right) {
            let key = Key::decode(&item.key)?;
            for value in &item.values {
                self.add(&key, &Value::decode(&key, &value.bytes)?);
            }
        }
        Ok(())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty() && self.places.is_empty()
    }
}

/// What comes to stand in the place of all values of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The key.
    pub key: Key,
    /// The value, and a dot under which it may be shown; none if the key goes. Whoever stores
    /// it stores it under a dot of its own.
    pub value: Option<(Dot, Value)>,
    /// The dots of the values that go.
    pub drops: Vec<Dot>,
}

/// What happened on two devices at once, and was put beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConflictKind {
    /// A file was changed on both: another version of it stands beside it.
    Version,
    /// Two files got one name: this one has another name now.
    Name,
    /// A file has the name of a side file of a database and does not belong to that database:
    /// it has another name now.
    Apart,
    /// Directories were moved into each other: this one lies in the root now.
    Cycle,
    /// A file was changed that another file took the place of: the other one stands for it.
    Replaced,
}

/// A conflict for people to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The file or directory: where it is, its back references in the repaired tree say.
    pub ino: Ino,
    /// What happened to it.
    pub kind: ConflictKind,
    /// The file of which it is another version; else itself.
    pub of: Ino,
    /// The device that made the change, and what it called itself; none if its row is not
    /// here.
    pub device: Option<(DeviceId, String)>,
    /// The time of the version: its last change of content.
    pub time: Timestamp,
}

/// What may hang together: an inode, or a name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knot {
    /// An inode, with what belongs to it.
    Ino(Ino),
    /// A name in a directory.
    Name(Ino, Vec<u8>),
}

/// Repairs that hang together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The repairs, ascending by encoded key.
    pub repairs: Vec<Repair>,
    /// All that hangs together with them, ascending.
    pub knots: Vec<Knot>,
}

/// The repairs of a joined namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Groups: what is stored of one is stored with all of it.
    pub groups: Vec<Group>,
    /// What people should look at, ascending.
    pub conflicts: Vec<Conflict>,
}

impl Repairs {
    /// Whether the namespace is a plain tree already.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

/// The repairs of a joined namespace. `ids` are those of the repository.
pub fn repair<J: Joined>(
    joined: &J,
    ids: &IdKeys,
    suspects: &Suspects,
) -> Result<Repairs, J::Error> {
    if suspects.is_empty() {
        return Ok(Repairs::default());
    }
    let mut loaded = loaded::Loaded::new(ids, suspects);
    loop {
        loaded.load(joined)?;
        let mut tree = show::show(&loaded);
        let groups = groups::groups(&loaded, &tree);
        // Whatever was asked for and is not here yet may change the answer.
        if loaded.is_whole() {
            let mut conflicts = std::mem::take(&mut tree.conflicts);
            conflicts.sort_unstable();
            conflicts.dedup();
            return Ok(Repairs { groups, conflicts });
        }
    }
}
