//! Folders that are open one within another, however deep.
//!
//! Invariant: at most [`OPEN_MOST`] of them hold a descriptor, beside the first,
//! which always does. One that was closed is opened anew when the walk comes back
//! to it, and must be the same folder.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::beneath::{Folder, Identity};

/// Folders that are held open: those deepest down.
const OPEN_MOST: usize = 64;

/// The way from a first folder down to the one that is being walked.
pub(super) struct Chain {
    links: Vec<Link>,
    /// All from here on are open, up to the last that could be.
    open_from: usize,
}

struct Link {
    name: Vec<u8>,
    identity: Identity,
    /// `None`: closed by now, or it could not be opened anew.
    folder: Option<Folder>,
}

impl Chain {
    /// A way that has come no further than its first folder.
    pub fn new(first: Folder) -> Self {
        let link = Link { name: Vec::new(), identity: first.identity(), folder: Some(first) };
        Self { links: vec![link], open_from: 1 }
    }

    /// The last folder; `None` if [`Chain::leave`] could not come back to it.
    pub fn last(&self) -> Option<&Folder> {
        self.links.last().and_then(|link| link.folder.as_ref())
    }

    /// Goes on into a folder that has this name in the last one.
    pub fn go_into(&mut self, name: &[u8], folder: Folder) {
        let identity = folder.identity();
        self.links.push(Link { name: name.to_vec(), identity, folder: Some(folder) });
        if self.links.len() - self.open_from > OPEN_MOST {
            self.links[self.open_from].folder = None;
            self.open_from += 1;
        }
    }

    /// Leaves the last folder. An error if the one above had been closed and is
    /// not found again; then it is the last one, and not open.
    pub fn leave(&mut self) -> io::Result<()> {
        let left = self.links.pop().and_then(|link| link.folder);
        let Some(last) = self.links.last() else { return Ok(()) };
        let wanted = last.identity;
        if last.folder.is_none() {
            let above = left.and_then(|left| left.up().ok());
            let folder = match above.filter(|above| above.identity() == wanted) {
                Some(above) => above,
                None => self.again(wanted)?,
            };
            self.open_from = self.links.len() - 1;
            self.links[self.open_from].folder = Some(folder);
        }
        self.open_from = self.open_from.min(self.links.len());
        Ok(())
    }

    /// Opens the last folder, from the first one down.
    fn again(&self, wanted: Identity) -> io::Result<Folder> {
        let first = self.links[0].folder.as_ref().expect("the first stays open");
        let folder = first.descend(&self.below())?;
        if folder.identity() != wanted {
            return Err(io::Error::other("another folder is in its place by now"));
        }
        Ok(folder)
    }

    /// The last folder's path from the first one.
    pub fn below(&self) -> PathBuf {
        self.links.iter().skip(1).map(|link| Path::new(OsStr::from_bytes(&link.name))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEEP: usize = 3 * OPEN_MOST;

    fn open_descriptors(chain: &Chain) -> usize {
        chain.links.iter().filter(|link| link.folder.is_some()).count()
    }

    fn down(outer: &Path) -> Chain {
        let mut chain = Chain::new(Folder::dest(&outer.join("first")).unwrap());
        for depth in 0..DEEP {
            let folder = chain.last().unwrap().make(b"in").unwrap();
            chain.go_into(b"in", folder);
            assert_eq!(open_descriptors(&chain), (depth + 2).min(OPEN_MOST + 1));
        }
        chain
    }

    #[test]
    fn few_are_open_and_each_is_found_again() {
        let outer = tempfile::tempdir().unwrap();
        let mut chain = down(outer.path());
        let ways: Vec<_> = chain.links.iter().map(|link| link.identity).collect();
        for identity in ways.iter().rev() {
            assert_eq!(chain.last().unwrap().identity(), *identity);
            assert!(open_descriptors(&chain) <= OPEN_MOST + 1);
            chain.leave().unwrap();
        }
        // Down again from where it came back to.
        let mut chain = down(outer.path());
        for _ in 0..DEEP - 1 {
            chain.leave().unwrap();
        }
        assert_eq!(chain.below(), Path::new("in"));
        let folder = chain.last().unwrap().make(b"other").unwrap();
        chain.go_into(b"other", folder);
        assert_eq!(chain.below(), Path::new("in/other"));
    }

    /// It would have gone on in whatever folder lies above by then.
    #[test]
    fn a_folder_that_was_moved_is_not_mistaken_for_another() {
        let outer = tempfile::tempdir().unwrap();
        let mut chain = down(outer.path());
        let at = |depth: usize| {
            let mut path = outer.path().join("first");
            path.extend(std::iter::repeat_n("in", depth));
            path
        };
        // The last of those that are open, with all below it, goes elsewhere.
        let moved = DEEP - OPEN_MOST + 1;
        std::fs::create_dir(outer.path().join("elsewhere")).unwrap();
        std::fs::rename(at(moved), outer.path().join("elsewhere/in")).unwrap();
        let mut left = DEEP;
        while left > moved {
            chain.leave().unwrap();
            left -= 1;
        }
        // The one above is found from the first one down.
        chain.leave().unwrap();
        assert_eq!(chain.below(), at(moved - 1).strip_prefix(at(0)).unwrap());
        assert!(chain.last().unwrap().names().unwrap().is_empty());
        // With another in its place it is not there any more, but those above are.
        std::fs::rename(at(5), outer.path().join("gone")).unwrap();
        std::fs::create_dir_all(at(moved)).unwrap();
        for depth in (1..moved - 1).rev() {
            assert_eq!(chain.leave().is_err(), depth >= 5 && chain.last().is_none(), "{depth}");
        }
        assert_eq!(chain.below(), Path::new("in"));
        assert!(chain.last().is_some());
        chain.leave().unwrap();
        let folder = chain.last().unwrap().make(b"other").unwrap();
        chain.go_into(b"other", folder);
        assert!(chain.last().is_some());
    }
}
