//! `SEEK_HOLE` and `SEEK_DATA` under the writeback cache.
//!
//! The kernel may hold written pages that the file system has not seen, so an
//! answer from the file system alone would call data a hole, and cp(1) of an
//! open file would silently make zeros. Invalidating the inode writes those
//! pages back first. Invariant: that wait happens in a thread of its own,
//! because the kernel needs the event loops for the pages.

use std::collections::HashMap;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use fuser::{Errno, INodeNo, Notifier, ReplyLseek};

use super::answer::guarded;
use crate::fs::{Operations, Seek};

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

    /// All inodes that may have dirty pages.
    pub(super) fn all(&self) -> Vec<u64> {
        self.table().keys().copied().collect()
    }

    fn any(&self, ino: u64) -> bool {
        self.table().contains_key(&ino)
    }
}

struct Job {
    ino: u64,
    offset: u64,
    what: Seek,
    reply: ReplyLseek,
}

/// Answers seeks, in its own thread where pages must come down first.
pub(super) struct Seeker<O> {
    operations: Arc<O>,
    writers: Arc<Writers>,
    jobs: Sender<Job>,
}

impl<O: Operations> Seeker<O> {
    /// Starts the thread; it ends when this is dropped.
    pub(super) fn start(
        operations: Arc<O>,
        writers: Arc<Writers>,
        notifier: Arc<OnceLock<Notifier>>,
    ) -> std::io::Result<Self> {
        let (jobs, received) = mpsc::channel::<Job>();
        let worker = Arc::clone(&operations);
        thread::Builder::new().name("seek".into()).spawn(move || {
            for job in received {
                let offset = i64::try_from(job.offset).unwrap_or(i64::MAX);
                // A length of 0 is "to the end".
                let pulled = notifier
                    .get()
                    .map_or(Ok(()), |notifier| notifier.inval_inode(INodeNo(job.ino), offset, 0));
                match pulled {
                    Ok(()) => answer(&*worker, job),
                    Err(error) => {
                        log::warn!("inode {}: pages could not be pulled: {error}", job.ino);
                        job.reply.error(Errno::EIO);
                    }
                }
            }
        })?;
        Ok(Self { operations, writers, jobs })
    }

    /// Answers now if nothing can be dirty, else hands over to the thread.
    pub(super) fn seek(&self, ino: u64, offset: u64, what: Seek, reply: ReplyLseek) {
        let job = Job { ino, offset, what, reply };
        if !self.writers.any(ino) {
            return answer(&*self.operations, job);
        }
        // The channel is closed only if the thread died; the reply in the job
        // that comes back then answers EIO as it is dropped.
        let _ = self.jobs.send(job);
    }
}

fn answer<O: Operations>(operations: &O, job: Job) {
    match guarded(|| operations.seek(job.ino, job.offset, job.what)) {
        Ok(offset) => job.reply.offset(offset as i64),
        Err(errno) => job.reply.error(errno),
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
