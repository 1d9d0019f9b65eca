//! What else may hold the bytes of a file that is missing or bad: conflict
//! copies that sync clients made, and objects whose head is lost.
//!
//! Invariant: a copy stands in only if its bytes have the hash in its name.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use super::container::check_name;
use super::objects::Store;
use super::{Result, StoreError};
use crate::crypto::Hash;
use crate::format::commit::Name;
use crate::io::{SyncedFolder, Timestamp};

/// Paths of conflict copies, by the hash in their names.
pub type Copies = HashMap<Hash, Vec<String>>;

/// How long a file must have been still before wrong bytes in it are damage,
/// seconds.
const SETTLED: u64 = 600;

/// Whether a file changed so lately that a sync client may still be at it.
pub fn is_arriving(folder: &dyn SyncedFolder, now: Timestamp, path: &str) -> bool {
    let found = folder.look(path).ok().flatten();
    found.is_some_and(|found| now.secs.abs_diff(found.changed.secs) < SETTLED)
}

impl Store {
    /// Takes conflict copies of heads.
    pub fn learn_copies(&self, copies: &Copies) {
        let copies = copies.iter().map(|(hash, paths)| (*hash, paths.clone()));
        self.known.write().unwrap_or_else(PoisonError::into_inner).copies.extend(copies);
    }

    /// Whether a file's bytes have the hash in its name; a conflict copy that
    /// has them stands in for one that has not.
    pub fn verify(&self, name: &Name) -> Result<bool> {
        let Some(hash) = name.hash() else { return Ok(true) };
        let path = self.place(name);
        let good = self.folder().open(&path).and_then(|file| check_name(&*file, &hash));
        match good.map_err(|error| StoreError::io(&path, error)) {
            Ok(true) => Ok(true),
            Ok(false) => Ok(self.turn_to_copy(name)),
            Err(error @ StoreError::Missing { .. }) => {
                if self.turn_to_copy(name) {
                    Ok(true)
                } else {
                    Err(error)
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Some sync clients fill a file in place: wrong bytes in one that changed
    /// a moment ago are not damage yet.
    pub fn unless_arriving(&self, error: StoreError) -> StoreError {
        match &error {
            StoreError::Damaged { path, what } if is_arriving(self.folder(), self.now(), path) => {
                StoreError::Missing { what: format!("{path} has just changed: {what}; it") }
            }
            _ => error,
        }
    }

    /// Where a file is: under its name, or a copy of it.
    pub fn place(&self, name: &Name) -> String {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .stand_ins
            .get(name)
            .cloned()
            .unwrap_or_else(|| name.path())
    }

    /// Looks for a conflict copy with the right bytes; from then on it stands
    /// in for the file.
    pub(super) fn turn_to_copy(&self, name: &Name) -> bool {
        let Some(hash) = name.hash() else { return false };
        let paths = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if known.stand_ins.contains_key(name) {
                return false;
            }
            known.copies.get(&hash).cloned().unwrap_or_default()
        };
        let good = |path: &String| {
            self.folder().open(path).and_then(|file| check_name(&*file, &hash)).unwrap_or(false)
        };
        let Some(path) = paths.into_iter().find(good) else { return false };
        log::warn!("{} is missing or bad; a conflict copy stands in for it", name.path());
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.stand_ins.insert(name.clone(), path);
        let number = known.numbers.get(name).copied();
        drop(known);
        if let Some(number) = number {
            self.readers.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        }
        true
    }

    /// Whether a conflict copy stands in for a file.
    pub fn is_copied(&self, name: &Name) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).stand_ins.contains_key(name)
    }

    /// Learns from the objects that no head names, once: the head that does
    /// may be lost, and every object explains itself.
    pub(super) fn search(&self) -> bool {
        let names: Vec<Name> = {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if known.searched.is_some() {
                return false;
            }
            let names = known
                .objects
                .iter()
                .map(|(hash, (device, _))| Name::Object { device: *device, hash: *hash });
            let names: Vec<Name> = names.filter(|name| !known.numbers.contains_key(name)).collect();
            known.searched = Some(names.clone());
            names
        };
        for name in &names {
            match self.open(name) {
                Ok(reader) => {
                    self.learn_container(name, Arc::new(reader));
                    // Its owner may remove it: it serves, and nothing new is
                    // to rest on it.
                    let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
                    let number = known.numbers[name];
                    known.doubtful.insert(number);
                }
                Err(error) => log::info!("an object that no head names: {error}"),
            }
        }
        !names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::sim::SimWorld;

    /// Whoever writes into the folder sets any time: the difference to the
    /// earliest one is more than a number with a sign holds.
    #[test]
    fn only_what_changed_lately_is_arriving() {
        let world = SimWorld::new();
        for (secs, arriving) in
            [(0, true), (599, true), (600, false), (-599, true), (-600, false), (i64::MIN, false)]
        {
            world.clock().set_wall(Timestamp { secs, nanos: 0 });
            world.put("repo/folder/file", b"x");
            let now = Timestamp { secs: 0, nanos: 0 };
            assert_eq!(is_arriving(&*world.synced("repo"), now, "folder/file"), arriving, "{secs}");
        }
        assert!(!is_arriving(&*world.synced("repo"), Timestamp::default(), "folder/none"));
    }
}
