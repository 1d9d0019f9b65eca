//! Looking at REPO before something is said to be in it.
//!
//! The index tells where chunks were. A sync client, its owner or a disk that
//! is unmounted may have taken them away since. Invariant: a file enters REPO,
//! or is removed from it, only in a folder that was recognised a moment before;
//! nothing new rests on a container that was not seen at its full size.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::PoisonError;
use std::time::Duration;

use super::objects::Store;
use super::{Result, StoreError};
use crate::format::register::{HEADER_MAX, Header};
use crate::io::{EntryKind, SyncedFolder};

/// How long a look at a container counts.
const LOOK: Duration = Duration::from_secs(5);

/// What REPO's folder must have to be taken for the one that was opened.
#[derive(Clone, Debug, Default)]
pub struct Landmarks {
    /// Path of the header, unless it was lost or damaged already.
    pub header: Option<String>,
    /// Path and size of a head: this device's newest, or the one that it
    /// stands on.
    pub head: Option<(String, u64)>,
}

/// Containers on which chunks rest that no head of this device names there yet.
#[derive(Debug, Default)]
pub(super) struct Relied {
    /// For content that was cut before the present checkpoint began: its bytes
    /// are in memory no more.
    before: BTreeSet<u32>,
    /// For content that is cut by the present checkpoint, which has its bytes
    /// still.
    now: BTreeSet<u32>,
}

impl Store {
    /// Sets by what REPO's folder is recognised from now on.
    pub fn recognise_by(&self, landmarks: Landmarks) {
        *self.landmarks.lock().unwrap_or_else(PoisonError::into_inner) = landmarks;
    }

    /// REPO's folder, held open and recognised.
    pub(super) fn home(&self) -> Result<Box<dyn SyncedFolder + '_>> {
        let folder = self.folder();
        let away = |why: String| StoreError::Away { place: folder.place(), why };
        let held = folder.hold().map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => away(error.to_string()),
            _ => StoreError::writing(&folder.place(), error),
        })?;
        let landmarks = self.landmarks.lock().unwrap_or_else(PoisonError::into_inner).clone();
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
        if let Some((path, size)) = landmarks.head {
            let found = held.look(&path).map_err(|error| StoreError::writing(&path, error))?;
            match found {
                Some(found) if found.kind == EntryKind::File && found.size == size => {}
                Some(_) => return Err(away(format!("its {path} is not the one that was there"))),
                None => return Err(away(format!("{path}, which was there, is not in it"))),
            }
        }
        Ok(held)
    }

    /// Whether a container is in REPO at its full size, by a look that is at most so
    /// old; without an age, by one that is made now.
    fn is_seen(&self, number: u32, age: Option<Duration>) -> bool {
        let now = self.elapsed();
        let name = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let container = &known.containers[number as usize];
            match container.looked {
                Some((at, seen)) if age.is_some_and(|age| now.saturating_sub(at) <= age) => {
                    return seen;
                }
                _ => container.name.clone(),
            }
        };
        let path = self.place(&name);
        let found = self.folder().look(&path);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let container = &mut known.containers[number as usize];
        let seen = match found {
            Ok(Some(found)) => found.kind == EntryKind::File && found.size == container.size,
            Ok(None) => false,
            Err(ref error) => {
                log::warn!("{path}: {error}");
                false
            }
        };
        if !seen && container.looked.is_none_or(|(_, before)| before) {
            log::warn!("{path} is not in REPO at its full size: what it holds is stored again");
        }
        container.looked = Some((now, seen));
        seen
    }

    /// Whether new content may rest on a container: it is not known to be bad,
    /// and it was seen. That it does is noted.
    pub(super) fn rest_on(&self, numbers: &[u32]) -> bool {
        let good: Vec<u32> = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            numbers.iter().copied().filter(|number| !known.doubtful.contains(number)).collect()
        };
        let Some(number) = good.into_iter().find(|number| self.is_seen(*number, Some(LOOK))) else {
            return false;
        };
        self.relied.lock().unwrap_or_else(PoisonError::into_inner).now.insert(number);
        true
    }

    /// Whether a container of `numbers` that passes `test` was seen.
    pub(super) fn is_any_seen(&self, numbers: &[u32], test: impl Fn(u32) -> bool) -> bool {
        numbers.iter().any(|number| test(*number) && self.is_seen(*number, Some(LOOK)))
    }

    /// Tells that a checkpoint begins to cut what it froze.
    pub fn begin_chunking(&self) {
        let mut relied = self.relied.lock().unwrap_or_else(PoisonError::into_inner);
        let now = std::mem::take(&mut relied.now);
        relied.before.extend(now);
    }

    /// Looks once more, before a head is sealed, at all that it is the first to
    /// rest on. An error if something is gone whose content the checkpoint still
    /// has: cut again, it is stored anew. Else the paths of what is gone of
    /// earlier content.
    pub(super) fn look_again(&self) -> Result<Vec<String>> {
        let (before, now) = {
            let mut relied = self.relied.lock().unwrap_or_else(PoisonError::into_inner);
            (relied.before.clone(), std::mem::take(&mut relied.now))
        };
        let gone = |numbers: BTreeSet<u32>| -> Vec<String> {
            let gone = numbers.into_iter().filter(|number| !self.is_seen(*number, None));
            gone.map(|number| self.container(number).path()).collect()
        };
        if let Some(path) = gone(now).into_iter().next() {
            return Err(StoreError::Vanished { path });
        }
        Ok(gone(before))
    }

    /// A head names all: nothing rests on anything without one.
    pub(super) fn forget_relied(&self) {
        *self.relied.lock().unwrap_or_else(PoisonError::into_inner) = Relied::default();
    }

    /// Closes files that nobody read since the last call: open, they would keep
    /// the owner's disk from being unmounted.
    pub fn close_idle(&self) {
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        for reader in readers.values() {
            reader.close_if_idle();
        }
    }
}
