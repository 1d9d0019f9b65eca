//! Listing: what the folders of objects hold, by the names of files.
//!
//! Invariant: each file and folder that is listed is an object in its place, or a possible copy of
//! one, or reported as a stray, or below a stray.

use std::collections::HashMap;

use super::strays::{Likeness, Oddity, Stray, like_folder, misplaced_file};
use super::{Result, Store, StoreError};
use crate::crypto::{DeviceId, Hash, hex};
use crate::format::commit::{
    Name, find_head_name, find_object_name, object_folder, parse_object_name,
};
use crate::io::{EntryKind, Listed, SyncedFolder};

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
    /// The path of the file within REPO.
    pub path: String,
    /// The size of the file, bytes.
    pub size: u64,
    /// The hash in its name.
    pub hash: Option<Hash>,
    /// The generation, if the name is a head's.
    pub generation: Option<u64>,
}

impl Candidate {
    /// Describes a listed file with this name in `folder`.
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

/// What the folders of objects in REPO hold.
#[derive(Debug, Default)]
pub struct Listing {
    /// The objects that are in their places: the device in whose folder each is, and its size in
    /// bytes.
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

impl Store {
    /// Lists the objects in all devices' folders. What cannot be listed is a stray
    /// then: objects there count as not here.
    pub fn list_objects(&self, devices: &[DeviceId]) -> Result<()> {
        self.catalogue.list(Listing::of(&*self.folder, devices)?);
        Ok(())
    }

    /// Objects listed: hash, device and size.
    pub fn objects(&self) -> Vec<(Hash, DeviceId, u64)> {
        self.catalogue.objects()
    }

    /// The device in whose folder an object lies, if it is listed.
    pub fn owner(&self, object: &Hash) -> Option<DeviceId> {
        self.catalogue.owner(object)
    }

    /// What else than objects is in the folders of objects.
    pub fn strays(&self) -> Vec<Stray> {
        self.catalogue.strays()
    }

    /// Objects that heads name and that were not in their place at full size when
    /// they were listed: the name, the size that a head tells, and the size there,
    /// if a file is there.
    pub fn absent(&self) -> Vec<(Name, u64, Option<u64>)> {
        self.catalogue.absent()
    }

    /// Absent objects that no file could be a copy of.
    pub fn missing(&self) -> Vec<Name> {
        self.catalogue.missing()
    }
}
