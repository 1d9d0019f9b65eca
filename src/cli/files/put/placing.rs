//! Names in the repository: one of its own until something is whole, then the one it is to
//! have.

use std::fs::{File, Metadata};
use std::path::Path;

use super::super::{DIR, FILE, LINK, SOCKET, TYPE, find};
use super::{Put, Putter, Trouble, left};
use crate::crypto::{hex, unhex};
use crate::fs::{Attr, FsError, Operations, RenameMode};
use crate::io::{Random, SystemRandom};

impl Putter<'_> {
    /// Makes something under a name of its own, lets `fill` make it whole, and
    /// puts it where it belongs.
    pub(super) fn fresh(
        &mut self,
        dir: u64,
        name: &[u8],
        kind: u32,
        rdev: u32,
        fill: impl FnOnce(&mut Self, u64) -> Put<u64>,
    ) -> Put<()> {
        self.check_replaceable(dir, name)?;
        let temporary = temporary();
        let ino = self.fs.mknod(self.caller, dir, &temporary, kind | 0o600, rdev)?.ino;
        let filled = fill(self, ino);
        self.place(dir, &temporary, name, ino, filled)
    }

    pub(super) fn fresh_link(
        &mut self,
        source: &Path,
        found: &File,
        data: &Metadata,
        dir: u64,
        name: &[u8],
        target: &[u8],
    ) -> Put<()> {
        self.check_replaceable(dir, name)?;
        let temporary = temporary();
        let ino = self.fs.symlink(self.caller, dir, &temporary, target)?.ino;
        let filled = self
            .held_attributes(source, found, ino)
            .and_then(|()| self.set_final_attributes(ino, 0o777, Some(data)))
            .map(|()| 0);
        self.place(dir, &temporary, name, ino, filled)
    }

    /// Renames what is whole, and removes what is not.
    fn place(
        &mut self,
        dir: u64,
        temporary: &[u8],
        name: &[u8],
        ino: u64,
        filled: Put<u64>,
    ) -> Put<()> {
        let placed = filled.and_then(|bytes| {
            self.fs.rename((dir, temporary), (dir, name), RenameMode::Replace)?;
            Ok(bytes)
        });
        if placed.is_err() {
            // Why it failed is told; this cannot fail for another reason.
            let _ = self.fs.unlink(dir, temporary);
        }
        self.fs.forget(ino, 1);
        self.bytes += placed?;
        self.files += 1;
        Ok(())
    }

    /// Another name for a file that was put already.
    pub(super) fn link(&mut self, first: u64, dir: u64, name: &[u8]) -> Put<()> {
        match find(self.fs, dir, name) {
            // A rename onto another name of the same file does nothing.
            Ok(attr) if attr.ino == first => return Ok(()),
            _ => self.check_replaceable(dir, name)?,
        }
        let temporary = temporary();
        let ino = self.fs.link(first, dir, &temporary)?.ino;
        self.place(dir, &temporary, name, ino, Ok(0))
    }

    fn check_replaceable(&self, dir: u64, name: &[u8]) -> Put<()> {
        match find(self.fs, dir, name) {
            Ok(attr) if attr.mode & TYPE == DIR => Err(in_the_way(&attr)),
            Ok(_) | Err(FsError::NotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

pub(super) fn in_the_way(attr: &Attr) -> Trouble {
    left(match attr.mode & TYPE {
        DIR => "there is a folder of this name in the repository",
        LINK => "there is a symlink of this name in the repository, and those are not followed",
        SOCKET | FILE => "there is a file of this name in the repository",
        _ => "something has this name in the repository",
    })
}

/// Removes what a command that was killed had not finished in this folder.
/// Nobody else is at it: local state is locked.
pub(in super::super) fn sweep(fs: &dyn Operations, dir: u64) -> std::result::Result<(), FsError> {
    let mut old = Vec::new();
    fs.readdir(dir, 0, false, &mut |entry| {
        if is_temporary(&entry.name) && entry.attr.mode & TYPE != DIR {
            old.push(entry.name.clone());
        }
        true
    })?;
    for name in old {
        fs.unlink(dir, &name)?;
    }
    Ok(())
}

const TEMPORARY: &[u8] = b".amberfs-put-";

/// A name that nothing has.
pub(in super::super) fn temporary() -> Vec<u8> {
    let mut random = [0; 8];
    SystemRandom.fill(&mut random);
    [TEMPORARY, hex(&random).as_bytes()].concat()
}

fn is_temporary(name: &[u8]) -> bool {
    name.strip_prefix(TEMPORARY)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .is_some_and(|digits| unhex::<8>(digits).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_what_is_not_whole_are_known_again() {
        assert!(is_temporary(&temporary()) && temporary() != temporary());
        for name in [&b".amberfs-put-"[..], b".amberfs-put-0123456789abcdeF", b".amberfs-0", b"a"] {
            assert!(!is_temporary(name));
        }
    }
}
