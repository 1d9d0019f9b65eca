//! Looking for heads and objects of ours in all of REPO, whatever folders and
//! files are called now.
//!
//! Invariant: nothing is moved or removed. What is found is written once more,
//! in its place, and only if its bytes are right.

use std::collections::{HashMap, HashSet};

use super::repository::{Repository, read_copy};
use crate::crypto::{DeviceId, Hash};
use crate::format::commit::Name;
use crate::format::container::{Kind, MAGIC, PREFIX};
use crate::io::SyncedFolder;
use crate::store::{
    Candidate, Likeness, Listing, Result, StoreError, Stray, check_name, files_below, hash_of,
    like_device,
};

/// Largest file that is put back.
const FILE_MAX: u64 = 1 << 30;

/// Files in REPO that are not in their place.
pub(super) struct Search<'a> {
    folder: &'a dyn SyncedFolder,
    repository: &'a Repository,
    listing: &'a Listing,
    candidates: Vec<Candidate>,
    /// Paths of candidates that are in folders of ours, or in folders that are
    /// called like ours.
    near: HashSet<&'a str>,
    /// What could not be looked into.
    pub closed: Vec<Stray>,
}

impl<'a> Search<'a> {
    /// Lists all files that may be ours: by their names, else by how they begin.
    pub fn new(
        folder: &'a dyn SyncedFolder,
        repository: &'a Repository,
        listing: &'a Listing,
    ) -> Result<Self> {
        let heads = repository.heads.values().flatten().map(|head| head.name().path());
        let objects = listing
            .objects
            .iter()
            .map(|(hash, (device, _))| Name::Object { device: *device, hash: *hash }.path());
        let in_place: HashSet<String> = heads.chain(objects).collect();
        let mut closed = Vec::new();
        let mut candidates = files_below(folder, "", &mut closed)?;
        candidates.retain(|file| {
            let fits = file.size >= PREFIX as u64 && file.size <= FILE_MAX;
            fits && !in_place.contains(&file.path)
        });
        for file in candidates.iter_mut().filter(|file| file.hash.is_none()) {
            file.hash = by_content(folder, file);
        }
        candidates.retain(|file| file.hash.is_some());
        candidates.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let near = repository.copies.values().chain(listing.copies.values());
        let near = near.flatten().map(String::as_str).collect();
        Ok(Self { folder, repository, listing, candidates, near, closed })
    }

    /// Writes heads of this repository in their places, where those are empty or
    /// hold other bytes.
    pub fn restore_heads(&self, bad: &mut HashSet<Hash>) -> Result<Vec<String>> {
        let mut done = Vec::new();
        for file in &self.candidates {
            let Some(hash) = file.hash else { continue };
            if file.generation.is_none() && kind_of(self.folder, &file.path) != Some(Kind::Head) {
                continue;
            }
            let Ok(extension) = read_copy(self.folder, &file.path, &hash) else { continue };
            if extension.repo != self.repository.repo {
                continue;
            }
            let (device, generation) = (extension.device, extension.generation);
            let place = Name::Head { device, generation, hash };
            done.extend(self.put(&place, file, bad)?);
        }
        Ok(done)
    }

    /// Writes objects in their places: those in folders of ours, and of all
    /// others those that a head names.
    pub fn restore_objects(
        &self,
        wanted: &HashMap<Hash, DeviceId>,
        bad: &mut HashSet<Hash>,
    ) -> Result<Vec<String>> {
        let mut done = Vec::new();
        for file in &self.candidates {
            let Some(hash) = file.hash else { continue };
            let near = self.near.contains(file.path.as_str());
            if file.generation.is_some() || !(near || wanted.contains_key(&hash)) {
                continue;
            }
            let device = match self.listing.objects.get(&hash) {
                Some((device, _)) if bad.contains(&hash) => Some(*device),
                // It is whole where it is.
                Some(_) => continue,
                None => device_in(&file.path).filter(|d| self.repository.heads.contains_key(d)),
            };
            let Some(device) = device.or_else(|| wanted.get(&hash).copied()) else { continue };
            if matches!(kind_of(self.folder, &file.path), Some(Kind::Head | Kind::Header) | None) {
                continue;
            }
            done.extend(self.put(&Name::Object { device, hash }, file, bad)?);
        }
        Ok(done)
    }

    fn put(
        &self,
        place: &Name,
        from: &Candidate,
        bad: &mut HashSet<Hash>,
    ) -> Result<Option<String>> {
        let (path, hash) = (place.path(), place.hash().expect("heads and objects have one"));
        let is_good = |path: &str| {
            self.folder.open(path).and_then(|file| check_name(&*file, &hash)).unwrap_or(false)
        };
        if is_good(&path) || !is_good(&from.path) {
            return Ok(None);
        }
        let bytes = self.folder.read(&from.path, FILE_MAX);
        let bytes = bytes.map_err(|error| StoreError::io(&from.path, error))?;
        let written = self.folder.publish(&path, &bytes);
        written.map_err(|error| StoreError::writing(&path, error))?;
        bad.remove(&hash);
        Ok(Some(format!("{path} is put back from {}", from.path)))
    }
}

/// The device whose folder a path was below, by the innermost name that is like
/// one.
fn device_in(path: &str) -> Option<DeviceId> {
    let (folder, _) = path.rsplit_once('/')?;
    folder.rsplit('/').find_map(like_device).map(|like| {
        let (Likeness::Same(device) | Likeness::Case(device) | Likeness::Like(device)) = like;
        device
    })
}

/// The kind of a container, as it says in the clear.
fn kind_of(folder: &dyn SyncedFolder, path: &str) -> Option<Kind> {
    let mut start = [0; MAGIC.len() + 3];
    let read = folder.open(path).and_then(|file| file.read_at(0, &mut start)).ok()?;
    (read == start.len() && start.starts_with(&MAGIC)).then(|| Kind::from_byte(start[10]).ok())?
}

/// The hash of a file's bytes, if it begins as our containers do.
fn by_content(folder: &dyn SyncedFolder, file: &Candidate) -> Option<Hash> {
    let kind = kind_of(folder, &file.path)?;
    if kind == Kind::Header {
        return None;
    }
    let opened = folder.open(&file.path).ok()?;
    hash_of(&*opened).ok()
}
