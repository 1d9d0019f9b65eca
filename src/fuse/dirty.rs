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

/// Counts opens for writing: only such an inode can have dirty pages, since
/// close and munmap write them back before the kernel releases the open.
#[derive(Default)]
pub(super) struct Writers(Mutex<HashMap<u64, u32>>);

impl Writers {
    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<u64, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn opened(&self, ino: u64) {
        *self.table().entry(ino).or_default() += 1;
    }

    pub(super) fn released(&self, ino: u64) {
        let mut table = self.table();
        if let Some(count) = table.get_mut(&ino) {
            *count -= 1;
            if *count == 0 {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_are_counted() {
        let writers = Writers::default();
        writers.opened(5);
        writers.opened(5);
        writers.released(5);
        assert!(writers.any(5));
        writers.released(5);
        writers.released(5);
        assert!(!writers.any(5));
    }
}
