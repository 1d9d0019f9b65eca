//! What the kernel may still have in its cache of a file that is written directly.
//!
//! Of a direct write that goes on in the background (`io_submit`, `io_uring`) the kernel
//! drops the pages when it begins, and not when it ends: a read meanwhile leaves old
//! bytes in the cache. So they are dropped here, before the write is answered.
//! Invariant: a request is noted before it is carried out; who then finds no note
//! of pages, after its own write, knows that none are older than that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{Errno, ReplyWrite};

use super::answer::guarded;
use super::shared::Shared;
use super::worker::Worker;
use crate::fs::Operations;

/// What has to be dropped after a direct write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stale {
    /// The kernel has no pages of the file.
    Nothing,
    /// Pages where it was written.
    Range,
    /// All, for nobody knows what it has. With what [`Direct::dropped`] wants to know.
    All(Noted),
}

/// How many requests for pages were noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted(u64);

/// What is known of a file that was written directly.
struct Written {
    noted: u64,
    may_have_pages: bool,
}

/// Files that were written directly, and whether the kernel has asked for pages of
/// them, or sent some, since all were dropped.
#[derive(Default)]
pub(super) struct Direct(Mutex<HashMap<u64, Written>>);

impl Direct {
    fn files(&self) -> MutexGuard<'_, HashMap<u64, Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel asks for pages of a file, or sends some.
    pub(super) fn paged(&self, ino: u64) {
        if let Some(file) = self.files().get_mut(&ino) {
            file.noted += 1;
            file.may_have_pages = true;
        }
    }

    /// A file was written; whoever asks drops what is stale.
    pub(super) fn written(&self, ino: u64) -> Stale {
        let mut files = self.files();
        match files.get(&ino) {
            Some(Written { may_have_pages: true, .. }) => Stale::Range,
            Some(_) => Stale::Nothing,
            None => {
                // Until they are dropped, whoever else writes drops its own.
                files.insert(ino, Written { noted: 0, may_have_pages: true });
                Stale::All(Noted(0))
            }
        }
    }

    /// All pages were dropped, and none came since if as many are noted.
    pub(super) fn dropped(&self, ino: u64, noted: Noted) {
        if let Some(file) = self.files().get_mut(&ino)
            && file.noted == noted.0
        {
            file.may_have_pages = false;
        }
    }

    /// The kernel has no such inode any more.
    pub(super) fn forget(&self, ino: u64) {
        self.files().remove(&ino);
    }
}

/// How a write is answered.
pub(super) struct Answer {
    pub(super) shared: Arc<Shared>,
    /// Where to wait for the kernel's pages, if some may be older than the write.
    pub(super) stale: Option<Worker>,
    /// The inode that is written to, and the offset in bytes.
    pub(super) place: (u64, u64),
    pub(super) reply: ReplyWrite,
}

impl Answer {
    /// Writes the bytes, and answers the kernel.
    pub(super) fn write<O: Operations>(self, operations: &O, bytes: &[u8]) {
        let Self { shared, stale, place: (ino, offset), reply } = self;
        if let Err(errno) = guarded(|| operations.write(ino, offset, bytes, false)) {
            return reply.error(errno);
        }
        let len = bytes.len() as u32;
        let Some(worker) = stale else { return reply.written(len) };
        let stale = shared.direct.written(ino);
        let (from, old) = match stale {
            Stale::Nothing => return reply.written(len),
            Stale::Range => (offset, u64::from(len)),
            Stale::All(_) => (0, 0),
        };
        worker.run(move || {
            if shared.write_back_range(ino, from, old).is_err() {
                return reply.error(Errno::EIO);
            }
            if let Stale::All(noted) = stale {
                shared.direct.dropped(ino, noted);
            }
            reply.written(len);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_old_is_dropped_and_nothing_else() {
        let direct = Direct::default();
        direct.paged(5);
        let Stale::All(noted) = direct.written(5) else { panic!("of before") };
        assert_eq!(direct.written(5), Stale::Range, "they are not dropped yet");
        direct.dropped(5, noted);
        assert_eq!(direct.written(5), Stale::Nothing);
        direct.paged(5);
        assert_eq!(direct.written(5), Stale::Range);
        assert_eq!(direct.written(5), Stale::Range, "others may be there");
        let Stale::All(noted) = direct.written(6) else { panic!("of before") };
        direct.paged(6);
        direct.dropped(6, noted);
        assert_eq!(direct.written(6), Stale::Range, "one came while all were dropped");
        direct.forget(5);
        assert_eq!(direct.written(5), Stale::All(Noted(0)));
    }
}
