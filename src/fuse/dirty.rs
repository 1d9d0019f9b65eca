//! Which inodes may have pages that the file system has not seen, and bringing
//! these down before a request that depends on them.
//!
//! `SEEK_HOLE` and `SEEK_DATA` under the writeback cache: an answer from the
//! file system alone would call data a hole, and cp(1) of an open file would
//! silently make zeros. `rename` and `link`: a name must not be durable before
//! the data of what it names. Invalidating the inode writes its pages back;
//! unlike an fsync it needs no lock of the inode or its directory, which the
//! kernel holds while it asks.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Fewest blocks of a file that may have data: a page.
const BLOCKS_MIN: u64 = 8;

/// Counts opens for writing: only such an inode can have dirty pages, since
/// close and munmap write them back before the kernel releases the open.
#[derive(Default)]
pub(super) struct Writers(Mutex<HashMap<u64, Written>>);

/// An inode that is open for writing.
struct Written {
    opens: u32,
    /// The `st_blocks` that the kernel was told last; it goes on with that until the
    /// last close.
    shown: u64,
    /// Whether the kernel may have another value than `shown`.
    is_doubtful: bool,
}

impl Writers {
    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An inode that had so many `st_blocks` before is opened.
    pub(super) fn opened(&self, ino: u64, blocks: u64) {
        let shown = blocks.max(BLOCKS_MIN);
        self.table().entry(ino).or_insert(Written { opens: 0, shown, is_doubtful: false }).opens +=
            1;
    }

    pub(super) fn released(&self, ino: u64) {
        let mut table = self.table();
        if let Some(written) = table.get_mut(&ino) {
            written.opens -= 1;
            if written.opens == 0 {
                table.remove(&ino);
            }
        }
    }

    pub(super) fn none(&self) -> bool {
        self.table().is_empty()
    }

    /// All inodes that may have dirty pages.
    pub(super) fn all(&self) -> Vec<u64> {
        self.table().keys().copied().collect()
    }

    pub(super) fn any(&self, ino: u64) -> bool {
        self.table().contains_key(&ino)
    }

    /// The `st_blocks` to tell the kernel of an inode that has so many as far as is
    /// known. One that seems to have no data may have some in the kernel's pages, and
    /// programs take 0 for all zeros.
    pub(super) fn show(&self, ino: u64, blocks: u64) -> u64 {
        match self.table().get_mut(&ino) {
            Some(written) => {
                written.shown = blocks.max(BLOCKS_MIN);
                written.is_doubtful = false;
                written.shown
            }
            None => blocks,
        }
    }

    /// The `st_blocks` to answer SETATTR with. The kernel does not take them from an
    /// answer to times that it writes back (`fuse_flush_times()` in `fs/fuse/dir.c`),
    /// and takes them from others; which it is cannot be told.
    pub(super) fn offer(&self, ino: u64, blocks: u64) -> u64 {
        match self.table().get_mut(&ino) {
            Some(written) => {
                let offered = blocks.max(BLOCKS_MIN);
                written.is_doubtful |= written.shown != offered;
                offered
            }
            None => blocks,
        }
    }

    /// Whether the kernel may show another `st_blocks`.
    pub(super) fn may_differ(&self, ino: u64, blocks: u64) -> bool {
        let differs =
            |written: &Written| written.is_doubtful || written.shown != blocks.max(BLOCKS_MIN);
        self.table().get(&ino).is_some_and(differs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_are_counted() {
        let writers = Writers::default();
        writers.opened(5, 0);
        writers.opened(5, 0);
        writers.released(5);
        assert!(writers.any(5));
        writers.released(5);
        writers.released(5);
        assert!(!writers.any(5));
    }

    #[test]
    fn a_file_that_is_written_has_blocks() {
        let writers = Writers::default();
        assert_eq!(writers.show(5, 0), 0);
        writers.opened(5, 24);
        assert!(writers.may_differ(5, 0));
        assert_eq!(writers.show(5, 0), BLOCKS_MIN);
        assert!(!writers.may_differ(5, 0) && writers.may_differ(5, 16));
        assert_eq!(writers.show(5, 16), 16);
        assert!(!writers.may_differ(5, 16) && !writers.may_differ(6, 16));
        // Whether the kernel took what SETATTR was answered with is not known.
        assert_eq!(writers.offer(5, 16), 16);
        assert!(!writers.may_differ(5, 16));
        assert_eq!(writers.offer(5, 24), 24);
        assert!(writers.may_differ(5, 24) && writers.may_differ(5, 16));
        assert_eq!(writers.show(5, 24), 24);
        assert!(!writers.may_differ(5, 24));
        assert_eq!((writers.offer(6, 0), writers.offer(5, 0)), (0, BLOCKS_MIN));
    }
}
