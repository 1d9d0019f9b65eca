//! What else may hold the bytes of a file that is missing or bad: conflict
//! copies that sync clients made, and objects whose head is lost.
//!
//! Invariant: a copy stands in only if its bytes have the hash in its name.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use super::container::check_name;
use super::objects::Store;
use super::strays::{Likeness, Oddity, Stray, like_folder, misplaced_file};
use super::{Result, StoreError};
use crate::crypto::{DeviceId, Hash, hex};
use crate::format::commit::{
    Name, find_head_name, find_object_name, object_folder, parse_object_name,
};
use crate::io::{EntryKind, Listed, SyncedFolder, Timestamp};

/// Paths of conflict copies, by the hash in their names.
pub type Copies = HashMap<Hash, Vec<String>>;

/// The first digits of hashes: names of the folders of objects.
const DIGITS: &str = "0123456789abcdef";
/// How deep below a folder that is not ours files of ours are looked for, and
/// how many names are looked at.
const DEPTH_MAX: usize = 64;
const NAMES_MAX: usize = 1 << 20;

/// A file that is not in its place and whose name, or bytes, may be those of a
/// head or object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Path within REPO.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// The hash in its name.
    pub hash: Option<Hash>,
    /// The generation, if the name is a head's.
    pub generation: Option<u64>,
}

impl Candidate {
    /// Of a file with this name in `folder`.
    pub fn of(folder: &str, file: &Listed) -> Self {
        let lower = file.name.to_ascii_lowercase();
        let head = find_head_name(&lower);
        Self {
            path: join(folder, &file.name),
            size: file.size,
            hash: head.map(|head| head.1).or_else(|| find_object_name(&lower)),
            generation: head.map(|head| head.0),
        }
    }
}

/// A path of a name in a folder of REPO.
pub fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") }
}

/// All regular files below a folder, with what their names say. No link is
/// followed; what cannot be listed is told.
pub fn files_below(
    folder: &dyn SyncedFolder,
    path: &str,
    strays: &mut Vec<Stray>,
) -> Result<Vec<Candidate>> {
    let (mut found, mut names) = (Vec::new(), 0);
    let mut ahead = vec![(path.to_string(), 0)];
    while let Some((path, depth)) = ahead.pop() {
        let listed = match folder.list(&path) {
            Ok(listed) => listed,
            Err(error) => {
                strays.push(unreadable(&path, error)?);
                continue;
            }
        };
        names += listed.len();
        if names > NAMES_MAX {
            strays.push(Stray::in_place(path, Oddity::Unfinished));
            break;
        }
        for file in listed {
            match file.kind {
                EntryKind::File => found.push(Candidate::of(&path, &file)),
                EntryKind::Folder if depth < DEPTH_MAX => {
                    ahead.push((join(&path, &file.name), depth + 1));
                }
                EntryKind::Folder => {
                    strays.push(Stray::in_place(join(&path, &file.name), Oddity::Unfinished));
                }
                EntryKind::Link | EntryKind::Other => {}
            }
        }
    }
    Ok(found)
}

/// What to say of a folder that cannot be listed; or the error, if that says
/// nothing of this folder: the machine lacks something.
pub fn unreadable(path: &str, error: std::io::Error) -> Result<Stray> {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR) => {
            Err(StoreError::io(path, error))
        }
        _ => Ok(Stray::unreadable(path, &error)),
    }
}

/// The objects in REPO.
#[derive(Debug, Default)]
pub struct Listing {
    /// Those in their places: the device in whose folder each lies, and its size.
    pub objects: HashMap<Hash, (DeviceId, u64)>,
    /// Files that may be copies of objects.
    pub copies: Copies,
    /// What else is in the folders of objects.
    pub strays: Vec<Stray>,
}

impl Listing {
    /// Lists the objects in these devices' folders. What cannot be listed is
    /// told and passed by.
    pub fn of(folder: &dyn SyncedFolder, devices: &[DeviceId]) -> Result<Self> {
        let mut listing = Self::default();
        for device in devices {
            listing.add_device(folder, device)?;
        }
        Ok(listing)
    }

    fn add_device(&mut self, folder: &dyn SyncedFolder, device: &DeviceId) -> Result<()> {
        let above = format!("{}/obj", hex(device));
        let listed = match folder.list(&above) {
            Ok(listed) => listed,
            // Told by whoever listed the device's folder.
            Err(error) if is_no_folder(&error) => return Ok(()),
            Err(error) => {
                self.strays.push(unreadable(&above, error)?);
                return Ok(());
            }
        };
        for file in listed {
            let path = join(&above, &file.name);
            let digit = |c: char| {
                let digit = c.encode_utf8(&mut [0; 4]).to_string();
                like_folder(&file.name, &digit).map(|like| (like, object_folder(device, &digit)))
            };
            match (DIGITS.chars().find_map(digit), file.kind) {
                (Some((Likeness::Same(()), _)), EntryKind::Folder) => {
                    self.add_folder(folder, device, &path)?;
                }
                (like, EntryKind::Folder) => {
                    self.strays.push(renamed(path.clone(), like));
                    self.add_below(folder, &path)?;
                }
                (None, EntryKind::File) => self.add_file(device, &above, &file, false),
                (like, kind) => self.strays.push(not_a_folder(path, kind, like.is_some())),
            }
        }
        Ok(())
    }

    fn add_folder(
        &mut self,
        folder: &dyn SyncedFolder,
        device: &DeviceId,
        path: &str,
    ) -> Result<()> {
        match folder.list(path) {
            Ok(listed) => {
                for file in listed {
                    if file.kind == EntryKind::Folder {
                        let below = join(path, &file.name);
                        self.strays.push(Stray::other(below.clone(), file.kind));
                        self.add_below(folder, &below)?;
                    } else {
                        self.add_file(device, path, &file, true);
                    }
                }
            }
            Err(error) => self.strays.push(unreadable(path, error)?),
        }
        Ok(())
    }

    fn add_file(&mut self, device: &DeviceId, folder: &str, file: &Listed, place: bool) {
        let candidate = Candidate::of(folder, file);
        let Some(hash) = candidate.hash else {
            return self.strays.push(Stray::other(candidate.path, file.kind));
        };
        let name = Name::Object { device: *device, hash };
        let exact = place
            && file.kind == EntryKind::File
            && parse_object_name(&file.name).is_some()
            && candidate.path == name.path();
        if exact && !self.objects.contains_key(&hash) {
            self.objects.insert(hash, (*device, file.size));
            return;
        }
        // In its place, and in another device's too: if one is bad, the other serves.
        if !exact {
            self.strays.push(misplaced_file(candidate.path.clone(), file, &name));
        }
        if file.kind == EntryKind::File {
            self.copies.entry(hash).or_default().push(candidate.path);
        }
    }

    fn add_below(&mut self, folder: &dyn SyncedFolder, path: &str) -> Result<()> {
        for candidate in files_below(folder, path, &mut self.strays)? {
            if let Some(hash) = candidate.hash {
                self.copies.entry(hash).or_default().push(candidate.path);
            }
        }
        Ok(())
    }
}

/// Whether a path could not be listed because no folder is there: nothing, a
/// file, or a link.
pub fn is_no_folder(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidData)
}

/// A folder that is called like one of ours, or else.
pub fn renamed(path: String, like: Option<(Likeness<()>, String)>) -> Stray {
    match like {
        Some((Likeness::Case(()), ours)) => Stray::in_place(path, Oddity::Case(ours)),
        Some((_, ours)) => Stray::in_place(path, Oddity::Renamed(ours)),
        None => Stray::other(path, EntryKind::Folder),
    }
}

/// Something that is no folder, where or beside where a folder of ours should
/// be.
pub fn not_a_folder(path: String, kind: EntryKind, in_place: bool) -> Stray {
    match kind {
        EntryKind::Link => Stray { path, what: Oddity::Link, in_place },
        _ if in_place => Stray::in_place(path, Oddity::NotAFolder),
        _ => Stray::other(path, kind),
    }
}

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
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for (hash, paths) in copies {
            known.copies.entry(*hash).or_default().extend(paths.iter().cloned());
        }
    }

    /// What else than objects is in the folders of objects.
    pub fn strays(&self) -> Vec<Stray> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).strays.clone()
    }

    /// Objects that heads name and that were not in their place at full size when
    /// they were listed: the name, the size that a head tells, and the size there,
    /// if a file is there.
    pub fn absent(&self) -> Vec<(Name, u64, Option<u64>)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let sizes = known.containers.iter().filter_map(|container| {
            let Name::Object { hash, .. } = &container.name else { return None };
            let listed = known.objects.get(hash).map(|found| found.1);
            Some((container.name.clone(), container.size, listed))
        });
        sizes.filter(|(_, size, listed)| *listed != Some(*size)).collect()
    }

    /// Of those, the ones that no file could be a copy of.
    pub fn missing(&self) -> Vec<Name> {
        let absent = self.absent();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let alone = |name: &Name| name.hash().is_none_or(|hash| !known.copies.contains_key(&hash));
        absent.into_iter().map(|(name, ..)| name).filter(alone).collect()
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
                    self.index_container(name, Arc::new(reader));
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
