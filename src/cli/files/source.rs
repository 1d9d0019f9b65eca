//! What `put` reads from.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::super::{Exit, Failure, Result};
use super::beneath::{Folder, Identity, look};
use super::{of, shown_path};

/// What SOURCE leads to, open.
pub(super) enum Source<'a> {
    /// Standard input, since no source was given.
    Stdin,
    /// A folder, with its path.
    Folder(&'a Path, Folder),
    /// A regular file, only held.
    File(&'a Path, File),
}

impl<'a> Source<'a> {
    /// Opens it. It may be a symlink: whoever gave it meant where it leads.
    pub fn open(path: Option<&'a Path>, repo: Identity) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdin) };
        let failed =
            |code, error: &dyn std::fmt::Display| of(&shown_path(path), Failure::new(code, error));
        let (data, file) = look(path)
            .and_then(|file| Ok((file.metadata()?, file)))
            .map_err(|error| failed(Exit::Usage, &error))?;
        if data.is_file() {
            return Ok(Self::File(path, file));
        }
        if !data.is_dir() {
            return Err(failed(Exit::Usage, &"neither a file nor a folder")
                .hint("what comes out of it can be put from standard input"));
        }
        let folder = Folder::at(path).map_err(|error| failed(Exit::Other, &error))?;
        if folder.identity() == repo {
            return Err(failed(Exit::Unusable, &"this is the repository itself"));
        }
        Ok(Self::Folder(path, folder))
    }

    /// The name that a file has where none is given.
    pub fn own_name(&self) -> Option<&'a [u8]> {
        match self {
            Self::File(path, _) => path.file_name().map(OsStr::as_bytes),
            Self::Stdin | Self::Folder(..) => None,
        }
    }
}

/// A folder that is being put.
pub(super) struct Level {
    /// The inode of the directory in the repository.
    pub dir: u64,
    /// What fstat(2) said of it.
    pub data: Metadata,
    /// Names in it that are still to be put.
    pub children: std::vec::IntoIter<OsString>,
}

impl Level {
    /// The beginning of an open folder.
    pub fn new(folder: &Folder, dir: u64) -> io::Result<Self> {
        let children = folder.names()?.into_iter();
        Ok(Self { dir, data: folder.metadata()?, children })
    }
}
