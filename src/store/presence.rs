//! Inspecting REPO before anything refers to what is in it.
//!
//! The index has where chunks were. A sync client, its owner or a disk that
//! is unmounted may have taken them away since.
//!
//! Invariant: a file enters REPO, or is removed from it, only in a folder that was recognised a
//! moment before; nothing new refers to a container that was not seen at its full size. An object
//! of another device was opened, too: a client may give a file its size before its bytes.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Result, Store, StoreError};
use crate::crypto::DeviceId;
use crate::format::commit::Name;
use crate::format::register::{HEADER_MAX, Header};
use crate::io::{EntryKind, Listed, SyncedFolder};

/// How long an inspection of a container counts.
const FRESH: Duration = Duration::from_secs(5);
/// How long it counts where a device says what it holds.
const FRESH_TO_SAY: Duration = Duration::from_secs(60);

/// What REPO's folder must have to be taken for the one that was opened.
#[derive(Clone, Debug, Default)]
pub struct Landmarks {
    /// Path of the header, unless it was lost or damaged already.
    pub header: Option<String>,
    /// Name and size of a head: this device's newest, or the one that it
    /// stands on.
    pub head: Option<(Name, u64)>,
}

/// Containers that new content refers to and that no head of this device names for it yet.
#[derive(Debug, Default)]
struct References {
    /// From content that was chunked before the present checkpoint began: its bytes
    /// are in memory no more.
    before: BTreeSet<u32>,
    /// From content that the present checkpoint chunks, which has its bytes
    /// still.
    now: BTreeSet<u32>,
}

/// What is known of REPO's folder, and what new content relies on in it.
#[derive(Debug, Default)]
pub(super) struct Presence {
    landmarks: Mutex<Landmarks>,
    references: Mutex<References>,
    /// Objects of other devices that could be opened.
    opened: Mutex<BTreeSet<u32>>,
}

impl Presence {
    fn landmarks(&self) -> MutexGuard<'_, Landmarks> {
        self.landmarks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn references(&self) -> MutexGuard<'_, References> {
        self.references.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Sets by what REPO's folder is recognised from now on.
    pub fn recognise_by(&self, landmarks: Landmarks) {
        *self.presence.landmarks() = landmarks;
    }

    /// Sets the head by which REPO's folder is recognised from now on.
    pub(super) fn recognise_by_head(&self, name: Name, size: u64) {
        self.presence.landmarks().head = Some((name, size));
    }

    /// The file of a container, or the copy that stands in for it; if that copy is gone, the file in its
    /// place, or another copy.
    fn look_at(&self, folder: &dyn SyncedFolder, name: &Name) -> io::Result<Option<Listed>> {
        let found = folder.look(&self.place(name))?;
        if found.is_none() && self.is_copied(name) && self.turn_to_copy(name) {
            return folder.look(&self.place(name));
        }
        Ok(found)
    }

    /// REPO's root folder, held open and recognised.
    pub(super) fn recognised_root(&self) -> Result<Box<dyn SyncedFolder + '_>> {
        let folder = self.folder();
        let away = |why: String| StoreError::Away { place: folder.place(), why };
        let held = folder.hold().map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => away(error.to_string()),
            _ => StoreError::writing(&folder.place(), error),
        })?;
        let landmarks = self.presence.landmarks().clone();
        if let Some(path) = landmarks.header {
            let header = held.read(&path, HEADER_MAX).map(|bytes| Header::decode(&bytes));
            match header {
                Ok(Ok(header)) if header.repo == self.context().repo => {}
                Ok(_) => return Err(away(format!("its {path} is not the one that was there"))),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(away(format!("{path} is not in it")));
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::IsADirectory) =>
                {
                    return Err(away(format!("its {path} is not the one that was there")));
                }
                Err(error) => return Err(StoreError::writing(&path, error)),
            }
        }
        if let Some((name, size)) = landmarks.head.filter(|(name, _)| !self.is_given_back(name)) {
            let found = self.look_at(&*held, &name);
            let path = self.place(&name);
            match found.map_err(|error| StoreError::writing(&path, error))? {
                Some(found) if found.kind == EntryKind::File && found.size == size => {}
                Some(_) => return Err(away(format!("its {path} is not the one that was there"))),
                None => return Err(away(format!("{path}, which was there, is not in it"))),
            }
        }
        Ok(held)
    }

    /// Whether all objects that the heads of a device name, up to this generation, are here at
    /// their full size and can be opened.
    pub fn has_objects(&self, device: &DeviceId, generation: u64) -> bool {
        let mut named = self.catalogue.named_by(device, generation).into_iter();
        named.all(|number| self.is_seen(number, Some(FRESH_TO_SAY)))
    }

    /// Whether an object of another device can be opened: its directory is in it. One that could is
    /// not opened again.
    fn opens(&self, number: u32, name: &Name) -> bool {
        let Name::Object { device, .. } = name else { return true };
        if *device == self.device || self.presence.opened().contains(&number) {
            return true;
        }
        match self.open(name) {
            Ok(_) => self.presence.opened().insert(number),
            Err(error) => {
                log::warn!("an object cannot be relied on: {error}");
                return false;
            }
        };
        true
    }

    /// Whether a container is in REPO at its full size, by an inspection that is at most so
    /// old; without an age, by one that is made now.
    fn is_seen(&self, number: u32, age: Option<Duration>) -> bool {
        let now = self.elapsed();
        if let Some(last) = self.catalogue.inspected(number)
            && age.is_some_and(|age| now.saturating_sub(last.at) <= age)
        {
            return last.seen;
        }
        let name = self.catalogue.name(number);
        let found = self.look_at(self.folder(), &name);
        let path = self.place(&name);
        let size = match found {
            Ok(found) => found.filter(|found| found.kind == EntryKind::File).map(|file| file.size),
            Err(error) => {
                log::warn!("{path}: {error}");
                None
            }
        };
        let size = size.filter(|_| self.opens(number, &name));
        let (found, before) = self.catalogue.record_inspection(number, now, size);
        if !found.seen && before.is_none_or(|before| before.seen) {
            log::warn!("{path} was not seen in REPO: what it holds is stored again");
        }
        found.seen
    }

    /// Whether new content may refer to one of these containers: it is not known to be bad, it is
    /// relied on, and it was seen. That content does so is recorded.
    pub(super) fn refer_to(&self, numbers: &[u32]) -> bool {
        let good = self.catalogue.relied_on(numbers);
        let Some(number) = good.into_iter().find(|number| self.is_seen(*number, Some(FRESH)))
        else {
            return false;
        };
        let is_new = self.presence.references().now.insert(number);
        // Who gives it back looks at the references after it says so.
        if self.catalogue.relied_on(&[number]).is_empty() {
            if is_new {
                self.presence.references().now.remove(&number);
            }
            return false;
        }
        true
    }

    /// Containers that new content refers to and that no head of this device names for it yet.
    pub fn referred_to(&self) -> BTreeSet<Name> {
        let References { before, now } = &*self.presence.references();
        before.union(now).map(|number| self.catalogue.name(*number)).collect()
    }

    /// Whether anything is in the place of a file at present. What cannot be looked at may be there.
    pub fn is_in_place(&self, name: &Name) -> bool {
        !matches!(self.folder().look(&name.path()), Ok(None))
    }

    /// Whether a container of `numbers` that passes `test` was seen.
    pub(super) fn is_any_seen(&self, numbers: &[u32], test: impl Fn(u32) -> bool) -> bool {
        numbers.iter().any(|number| test(*number) && self.is_seen(*number, Some(FRESH)))
    }

    /// Reports that a checkpoint begins to chunk what it froze.
    pub fn begin_chunking(&self) {
        let mut references = self.presence.references();
        let now = std::mem::take(&mut references.now);
        references.before.extend(now);
    }

    /// Inspects once more, before a head is sealed, all containers that it is the first to
    /// refer to. An error if one is gone whose content the checkpoint still
    /// has: chunked again, it is stored anew. Else the paths of those that are gone with
    /// earlier content.
    pub(super) fn reinspect(&self) -> Result<Vec<String>> {
        let (before, now) = {
            let mut references = self.presence.references();
            (references.before.clone(), std::mem::take(&mut references.now))
        };
        let gone = |numbers: BTreeSet<u32>| -> Vec<String> {
            let gone = numbers.into_iter().filter(|number| !self.is_seen(*number, None));
            gone.map(|number| self.catalogue.name(number).path()).collect()
        };
        if let Some(path) = gone(now).into_iter().next() {
            return Err(StoreError::Vanished { path });
        }
        Ok(gone(before))
    }

    /// A head names all: nothing refers to anything without one.
    pub(super) fn forget_references(&self) {
        *self.presence.references() = References::default();
    }
}
