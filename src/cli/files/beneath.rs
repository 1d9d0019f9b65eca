//! Reading and writing below a folder and nowhere else.
//!
//! Invariant: every name is one name, opened in a folder that is open already,
//! and never followed if it is a symlink. So whatever lies in SOURCE or DEST, and
//! whoever changes it meanwhile, nothing outside is read or written.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, RenameFlags};
use rustix::io::Errno;

use crate::crypto::hex;
use crate::io::{Random, SystemRandom};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Closed to everybody else until it is as it was.
const PRIVATE_FOLDER: Mode = Mode::RWXU;
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Only held: to look at it, and for its attributes.
const HELD: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
/// Never waits for whoever writes into a fifo, and takes no terminal.
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// Bytes of names that the kernel lists at once.
const LISTED: usize = 16 << 10;

/// A folder that is open, by its descriptor.
pub(super) struct Folder {
    file: File,
    identity: Identity,
}

/// Refuses what is more than one name. The decoder of names did so already;
/// here it would write outside.
fn one(name: &[u8]) -> io::Result<&[u8]> {
    if name.is_empty() || name.contains(&b'/') || name == b"." || name == b".." {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a name of a file"));
    }
    Ok(name)
}

impl Folder {
    fn of(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let data = file.metadata()?;
        Ok(Self { file, identity: (data.dev(), data.ino()) })
    }

    /// Opens DEST, made with all above it if it is not there. It may be a
    /// symlink: whoever gave it meant where it leads.
    pub fn dest(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Self::at(path)
    }

    /// Opens the folder at a path, which may be a symlink.
    pub fn at(path: &Path) -> io::Result<Self> {
        Self::of(rustix::fs::openat(CWD, path, FOLDER, Mode::empty())?)
    }

    /// Device and inode number.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// What fstat(2) says of it.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Opens a folder in it.
    pub fn enter(&self, name: &[u8]) -> io::Result<Self> {
        let flags = FOLDER | OFlags::NOFOLLOW;
        Self::of(rustix::fs::openat(&self.file, one(name)?, flags, Mode::empty())?)
    }

    /// Opens the folder that it lies in.
    pub fn up(&self) -> io::Result<Self> {
        Self::of(rustix::fs::openat(&self.file, "..", FOLDER | OFlags::NOFOLLOW, Mode::empty())?)
    }

    /// Whether it is the folder with this identity, or lies within it.
    pub fn lies_in(&self, identity: Identity) -> io::Result<bool> {
        let mut at = self.descend(Path::new(""))?;
        loop {
            // One that cannot be listed can be gone through.
            let flags = HELD | OFlags::DIRECTORY;
            let up = Self::of(rustix::fs::openat(&at.file, "..", flags, Mode::empty())?)?;
            if at.identity == identity || up.identity == at.identity {
                return Ok(at.identity == identity);
            }
            at = up;
        }
    }

    /// Opens what a path of single names leads to.
    pub fn descend(&self, path: &Path) -> io::Result<Self> {
        let mut folder = Self { file: self.file.try_clone()?, identity: self.identity };
        for name in path {
            folder = folder.enter(name.as_bytes())?;
        }
        Ok(folder)
    }

    /// The names in it, sorted.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        let mut room = [MaybeUninit::uninit(); LISTED];
        let mut entries = RawDir::new(&self.file, &mut room);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_os_string());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Holds what has this name, whatever it is. Nothing waits for it, and
    /// nothing of it is read.
    pub fn look(&self, name: &[u8]) -> io::Result<File> {
        let flags = HELD | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(&self.file, one(name)?, flags, Mode::empty())?.into())
    }

    /// Opens what should be a regular file, to be read; see [`regular`].
    pub fn read(&self, name: &[u8]) -> io::Result<File> {
        let flags = READ | OFlags::NOFOLLOW;
        regular(rustix::fs::openat(&self.file, one(name)?, flags, Mode::empty())?)
    }

    /// Opens a folder in it, made if it is not there.
    pub fn make(&self, name: &[u8]) -> io::Result<Self> {
        match rustix::fs::mkdirat(&self.file, one(name)?, PRIVATE_FOLDER) {
            Ok(()) | Err(Errno::EXIST) => match self.enter(name) {
                Err(error) if is_no_folder(&error) => Err(taken()),
                entered => entered,
            },
            Err(error) => Err(error.into()),
        }
    }

    /// An error if something has the name already.
    pub fn check_free(&self, name: &[u8]) -> io::Result<()> {
        match rustix::fs::statat(&self.file, one(name)?, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Ok(_) => Err(taken()),
            Err(error) => Err(error.into()),
        }
    }

    /// A new file without its name yet.
    pub fn fresh(&self) -> io::Result<Fresh<'_>> {
        let mut random = [0; 8];
        SystemRandom.fill(&mut random);
        let temporary = format!(".amberfs-{}", hex(&random));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&self.file, &temporary, flags | OFlags::CLOEXEC, PRIVATE_FILE)?;
        Ok(Fresh { folder: self, temporary: Some(temporary), file: File::from(fd) })
    }

    /// Makes a symlink `name` in this folder that leads to `target`.
    pub fn symlink(&self, target: &[u8], name: &[u8]) -> io::Result<()> {
        found(rustix::fs::symlinkat(target, &self.file, one(name)?))
    }

    /// A fifo or a device node, closed to others.
    pub fn node(&self, name: &[u8], mode: u32, device: u64) -> io::Result<()> {
        let kind = FileType::from_raw_mode(mode);
        found(rustix::fs::mknodat(&self.file, one(name)?, kind, PRIVATE_FILE, device))
    }

    /// Another name for the file `first` of the folder `from`, if it is still
    /// the one with this identity.
    pub fn link(
        &self,
        (from, first): (&Self, &[u8]),
        identity: Identity,
        name: &[u8],
    ) -> io::Result<()> {
        let data = rustix::fs::statat(&from.file, one(first)?, AtFlags::SYMLINK_NOFOLLOW)?;
        if identity != (data.st_dev, data.st_ino) {
            return Err(io::Error::other("the file's first name is another file by now"));
        }
        found(rustix::fs::linkat(&from.file, first, &self.file, one(name)?, AtFlags::empty()))
    }

    /// Holds what was just made under this name, to change its attributes and
    /// nothing else. Whoever else may write here could have put another thing in
    /// its place, a file of root's for example; so it must be of this kind.
    pub fn hold(&self, name: &[u8], mode: u32) -> io::Result<OwnedFd> {
        let flags = HELD | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&self.file, one(name)?, flags, Mode::empty())?;
        let found = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        if found != FileType::from_raw_mode(mode) {
            return Err(io::Error::other("something else took its place"));
        }
        Ok(fd)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What a path leads to, whatever it is. Nothing waits for it, and nothing of it
/// is read.
pub(super) fn look(path: &Path) -> io::Result<File> {
    Ok(rustix::fs::openat(CWD, path, HELD, Mode::empty())?.into())
}

/// Opens what a path leads to, to be read; see [`regular`].
pub(super) fn read(path: &Path) -> io::Result<File> {
    regular(rustix::fs::openat(CWD, path, READ, Mode::empty())?)
}

/// An error if it is anything but a regular file: what is open counts, whatever
/// the name meant a moment ago.
fn regular(fd: OwnedFd) -> io::Result<File> {
    let file = File::from(fd);
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::other("it became something else while it was opened"))
}

/// A path to what is only held; it leads to a symlink, not on from it.
pub(super) fn held(fd: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Whether a name was not that of a folder.
pub(super) fn is_no_folder(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTDIR | Errno::LOOP))
}

/// Device and inode number.
pub(super) type Identity = (u64, u64);

fn taken() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "something has this name there already")
}

fn found(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::EXIST) => Err(taken()),
        other => Ok(other?),
    }
}

/// A file that gets its name when it is whole; gone if it is dropped before.
pub(super) struct Fresh<'a> {
    folder: &'a Folder,
    temporary: Option<String>,
    /// To be written to.
    pub file: File,
}

impl Fresh<'_> {
    /// Device and inode number.
    pub fn identity(&self) -> io::Result<Identity> {
        let data = rustix::fs::fstat(&self.file)?;
        Ok((data.st_dev, data.st_ino))
    }

    /// Gives it its name, which nothing may have.
    pub fn finish(mut self, name: &[u8]) -> io::Result<()> {
        let name = one(name)?;
        let temporary = self.temporary.take().expect("it is finished once");
        let dir = &self.folder.file;
        let renamed = rustix::fs::renameat_with(dir, &temporary, dir, name, RenameFlags::NOREPLACE);
        let result = match renamed {
            // File systems that cannot do it at once (NFS) can link.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(dir, &temporary, dir, name, AtFlags::empty())
            }
            // Nothing is left to be removed.
            Ok(()) => return Ok(()),
            Err(error) => Err(error),
        };
        self.temporary = Some(temporary);
        found(result)
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // What failed before is told; a rest of it is closed to others.
            let _ = rustix::fs::unlinkat(&self.folder.file, temporary, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_names_are_taken() {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder::dest(&outer.path().join("dest")).unwrap();
        for name in [&b".."[..], b".", b"", b"a/b", b"/", b"../x"] {
            assert!(folder.make(name).is_err() && folder.enter(name).is_err());
            assert!(folder.symlink(b"x", name).is_err() && folder.check_free(name).is_err());
            assert!(folder.node(name, 0o010_600, 0).is_err());
            assert!(folder.fresh().unwrap().finish(name).is_err());
        }
        assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read_dir(outer.path().join("dest")).unwrap().count(), 0);
    }

    #[test]
    fn links_are_not_followed_and_names_not_taken_away() {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder::dest(&outer.path().join("dest")).unwrap();
        folder.symlink(b"..", b"up").unwrap();
        assert!(folder.hold(b"up", 0o120_777).is_ok() && folder.hold(b"up", 0o010_600).is_err());
        for result in [folder.enter(b"up"), folder.descend("up/x".as_ref())] {
            assert!(is_no_folder(&result.err().unwrap()));
        }
        assert_eq!(folder.make(b"up").err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        let error = folder.fresh().unwrap().finish(b"up").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        // Neither the failed one nor one that was given up leaves anything.
        drop(folder.fresh().unwrap());
        let inner = folder.make(b"in").unwrap();
        let fresh = inner.fresh().unwrap();
        let identity = fresh.identity().unwrap();
        fresh.finish(b"file").unwrap();
        inner.link((&inner, b"file"), identity, b"again").unwrap();
        assert!(inner.link((&inner, b"file"), (0, 0), b"other").is_err());
        let mut names: Vec<_> = std::fs::read_dir(outer.path().join("dest/in"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["again", "file"]);
        assert_eq!(std::fs::read_dir(outer.path().join("dest")).unwrap().count(), 2);
    }
}
