//! A look at REPO by names alone: headers, heads, and what is not as it should
//! be.
//!
//! Invariant: no link is followed, and a folder that cannot be listed stops
//! nothing here. It is told, and whoever knows more says whether it matters.

use std::collections::BTreeMap;

use super::repository::HeadFile;
use crate::crypto::{DeviceId, RepoId, hex};
use crate::format::commit::{
    Name, find_head_name, find_header_name, find_object_name, head_folder, parse_head_name,
    parse_header_name,
};
use crate::io::{EntryKind, Listed, SyncedFolder};
use crate::store::{
    Candidate, Copies, Likeness, Oddity, Result, StoreError, Stray, files_below, is_no_folder,
    is_of_a_client, join, like_device, like_folder, misplaced_file, not_a_folder, renamed,
    unreadable,
};

/// What the names in REPO say, those of objects aside.
#[derive(Default)]
pub(super) struct Look {
    /// Ids in the names of headers.
    pub headers: Vec<RepoId>,
    /// Files that may be copies of headers.
    pub header_copies: Vec<(RepoId, String)>,
    /// Heads of each device, ascending by generation; those that are only in
    /// copies too.
    pub heads: BTreeMap<DeviceId, Vec<HeadFile>>,
    /// Files that may be copies of heads and objects.
    pub copies: Copies,
    /// What is not as it should be.
    pub strays: Vec<Stray>,
}

impl Look {
    /// Looks at a folder.
    pub fn at(folder: &dyn SyncedFolder) -> Result<Self> {
        let mut look = Self::default();
        for file in folder.list("").map_err(|error| StoreError::io("", error))? {
            look.add_at_root(folder, &file)?;
        }
        for heads in look.heads.values_mut() {
            heads.sort_unstable();
            heads.dedup_by_key(|head| (head.generation, head.hash));
        }
        Ok(look)
    }

    fn add_at_root(&mut self, folder: &dyn SyncedFolder, file: &Listed) -> Result<()> {
        let path = file.name.clone();
        if let Some(like) = like_device(&file.name) {
            let (Likeness::Same(device) | Likeness::Case(device) | Likeness::Like(device)) = like;
            match (like, file.kind) {
                (Likeness::Same(_), EntryKind::Folder) => {
                    self.heads.entry(device).or_default();
                    return self.add_device(folder, &device);
                }
                (like, EntryKind::Folder) => {
                    let ours = hex(&device);
                    self.strays.push(match like {
                        Likeness::Case(_) => Stray::in_place(path.clone(), Oddity::Case(ours)),
                        _ => Stray::in_place(path.clone(), Oddity::Renamed(ours)),
                    });
                    return self.add_below(folder, &device, &path);
                }
                (Likeness::Like(_), EntryKind::File) => {}
                (_, kind) => {
                    self.strays.push(not_a_folder(path, kind, true));
                    return Ok(());
                }
            }
        }
        if file.kind == EntryKind::File
            && let Some(repo) = parse_header_name(&file.name)
        {
            self.headers.push(repo);
        } else if let Some(repo) = find_header_name(&file.name.to_ascii_lowercase()) {
            if file.kind == EntryKind::File {
                self.header_copies.push((repo, path.clone()));
            }
            self.strays.push(misplaced_file(path, file, &Name::Header(repo)));
        } else if let Some(hash) = find_object_name(&file.name.to_ascii_lowercase())
            && file.kind == EntryKind::File
        {
            self.copies.entry(hash).or_default().push(path.clone());
            self.strays.push(Stray::in_place(path, Oddity::Copy));
        } else if !is_of_a_client(&file.name) {
            self.strays.push(Stray::other(path, file.kind));
        }
        Ok(())
    }

    fn add_device(&mut self, folder: &dyn SyncedFolder, device: &DeviceId) -> Result<()> {
        let above = hex(device);
        let listed = match folder.list(&above) {
            Ok(listed) => listed,
            Err(error) => {
                self.strays.push(unreadable(&above, error)?);
                return Ok(());
            }
        };
        for file in listed {
            let path = join(&above, &file.name);
            let like = ["head", "obj"]
                .into_iter()
                .find_map(|ours| Some((like_folder(&file.name, ours)?, format!("{above}/{ours}"))));
            match (like, file.kind) {
                (Some((Likeness::Same(()), _)), EntryKind::Folder) => {
                    if file.name == "head" {
                        self.add_heads(folder, device)?;
                    }
                }
                (like, EntryKind::Folder) => {
                    self.strays.push(renamed(path.clone(), like));
                    self.add_below(folder, device, &path)?;
                }
                (None, EntryKind::File) => {
                    let candidate = Candidate::of(&above, &file);
                    let what = if candidate.hash.is_some() { Oddity::Copy } else { Oddity::File };
                    let in_place = candidate.hash.is_some();
                    self.strays.push(Stray { path, what, in_place });
                    self.add_candidate(device, candidate);
                }
                (like, kind) => self.strays.push(not_a_folder(path, kind, like.is_some())),
            }
        }
        Ok(())
    }

    fn add_heads(&mut self, folder: &dyn SyncedFolder, device: &DeviceId) -> Result<()> {
        let above = head_folder(device);
        let listed = match folder.list(&above) {
            Ok(listed) => listed,
            Err(error) if is_no_folder(&error) => {
                self.strays.push(Stray::in_place(above, Oddity::NotAFolder));
                return Ok(());
            }
            Err(error) => {
                self.strays.push(unreadable(&above, error)?);
                return Ok(());
            }
        };
        for file in listed {
            let path = join(&above, &file.name);
            let exact = parse_head_name(&file.name);
            match (exact, find_head_name(&file.name.to_ascii_lowercase()), file.kind) {
                (Some((generation, hash)), _, EntryKind::File) => {
                    let head = HeadFile { generation, hash, device: *device, size: file.size };
                    self.heads.entry(*device).or_default().push(head);
                }
                (_, Some((generation, hash)), kind) => {
                    let place = Name::Head { device: *device, generation, hash };
                    self.strays.push(misplaced_file(path, &file, &place));
                    if kind == EntryKind::File {
                        self.add_candidate(device, Candidate::of(&above, &file));
                    }
                }
                (_, None, EntryKind::Folder) => {
                    self.strays.push(Stray::other(path.clone(), file.kind));
                    self.add_below(folder, device, &path)?;
                }
                (_, None, kind) => {
                    self.strays.push(Stray::other(path, kind));
                    self.add_candidate(device, Candidate::of(&above, &file));
                }
            }
        }
        Ok(())
    }

    /// What a folder of a device that is called otherwise holds.
    fn add_below(
        &mut self,
        folder: &dyn SyncedFolder,
        device: &DeviceId,
        path: &str,
    ) -> Result<()> {
        for candidate in files_below(folder, path, &mut self.strays)? {
            self.add_candidate(device, candidate);
        }
        Ok(())
    }

    fn add_candidate(&mut self, device: &DeviceId, candidate: Candidate) {
        let Some(hash) = candidate.hash else { return };
        self.copies.entry(hash).or_default().push(candidate.path);
        if let Some(generation) = candidate.generation {
            let head = HeadFile { generation, hash, device: *device, size: candidate.size };
            self.heads.entry(*device).or_default().push(head);
        }
    }
}
