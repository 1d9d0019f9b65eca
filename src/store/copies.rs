//! What else may hold the bytes of a file that is missing or bad: conflict
//! copies that sync clients made, and objects whose head is lost.
//!
//! Invariant: a copy stands in only if its bytes have the hash in its name.

use std::sync::Arc;

use super::container::check_name;
use super::listing::Copies;
use super::{Result, Store, StoreError};
use crate::format::commit::{Name, NewObject};
use crate::io::{SyncedFolder, Timestamp};

/// How long a file must have been still before wrong bytes in it are damage,
/// seconds.
const STABLE_AFTER: u64 = 600;

/// Whether a file changed so lately that a sync client may still be at it.
pub fn is_arriving(folder: &dyn SyncedFolder, now: Timestamp, path: &str) -> bool {
    let found = folder.look(path).ok().flatten();
    found.is_some_and(|found| now.secs.abs_diff(found.changed.secs) < STABLE_AFTER)
}

impl Store {
    /// Takes files that may be copies of heads and objects.
    pub fn add_copies(&self, copies: &Copies) {
        self.catalogue.add_copies(copies);
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
        self.catalogue.stand_in(name).unwrap_or_else(|| name.path())
    }

    /// Looks for a conflict copy with the right bytes; from then on it stands in for the file. If one did
    /// and is gone, or bad, the file itself may be in its place again.
    pub(super) fn turn_to_copy(&self, name: &Name) -> bool {
        let Some(hash) = name.hash() else { return false };
        let good = |path: &String| {
            self.folder().open(path).and_then(|file| check_name(&*file, &hash)).unwrap_or(false)
        };
        let candidates = self.catalogue.candidates(name, &hash);
        let Some(path) = candidates.into_iter().find(good) else { return false };
        if path == name.path() {
            log::info!("{path} is in its place again");
        } else {
            log::warn!("{} is missing or bad; a conflict copy stands in for it", name.path());
        }
        if let Some(number) = self.catalogue.set_stand_in(name, path) {
            self.caches.forget_reader(number);
        }
        true
    }

    /// Whether a conflict copy stands in for a file.
    pub fn is_copied(&self, name: &Name) -> bool {
        self.catalogue.is_copied(name)
    }

    /// Indexes the objects that no head names, once: the head that does
    /// may be lost, and every object explains itself. Returns whether there are any.
    pub(super) fn search(&self) -> bool {
        let Some(names) = self.catalogue.begin_search() else { return false };
        for name in &names {
            match self.open(name) {
                Ok(reader) => {
                    let number = self.add_container(name, Arc::new(reader));
                    // Its owner may remove it: it serves, and nothing new is
                    // to refer to it.
                    self.catalogue.mark_bad(number);
                }
                Err(error) => log::info!("an object that no head names: {error}"),
            }
        }
        !names.is_empty()
    }

    /// Objects that open and are named by no head, with what a head says of
    /// them: their head is lost, or still to come.
    pub fn unnamed(&self) -> Vec<NewObject> {
        self.search();
        self.catalogue.searched().iter().filter_map(|name| self.describe(name)).collect()
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
