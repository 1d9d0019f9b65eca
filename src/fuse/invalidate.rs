//! Tells the kernel what changed behind its back (a merge from another device).
//!
//! Invariant: the kernel is told from a thread that holds no lock, since
//! invalidating writes dirty pages back and waits for directories in use.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::mpsc::{self, Sender};
use std::thread;

use fuser::{INodeNo, Notifier};

enum Job {
    Inode(u64),
    Attributes(u64),
    Entry(u64, Vec<u8>),
    Barrier(Sender<()>),
}

/// Queues invalidations; every method returns at once. Cheap to clone.
#[derive(Clone)]
pub struct Invalidator {
    jobs: Sender<Job>,
}

impl Invalidator {
    pub(super) fn start(notifier: Notifier) -> std::io::Result<Self> {
        let (jobs, received) = mpsc::channel();
        thread::Builder::new().name("invalidate".into()).spawn(move || {
            for job in received {
                let result = match job {
                    Job::Inode(ino) => notifier.inval_inode(INodeNo(ino), 0, 0),
                    // A negative offset leaves the pages.
                    Job::Attributes(ino) => notifier.inval_inode(INodeNo(ino), -1, 0),
                    Job::Entry(parent, name) => {
                        notifier.inval_entry(INodeNo(parent), OsStr::from_bytes(&name))
                    }
                    Job::Barrier(done) => {
                        let _ = done.send(());
                        Ok(())
                    }
                };
                if let Err(error) = result {
                    log::debug!("invalidation was refused: {error}");
                }
            }
        })?;
        Ok(Self { jobs })
    }

    fn push(&self, job: Job) {
        // Closed only after the session ended; then nothing is cached.
        let _ = self.jobs.send(job);
    }

    /// Content, attributes and lists of an inode changed (for a directory:
    /// its cached listing). For a file whose size or times changed, call
    /// `entry` for each of its names as well: with the writeback cache the
    /// kernel believes its own for as long as it knows the inode.
    pub fn inode(&self, ino: u64) {
        self.push(Job::Inode(ino));
    }

    /// Only attributes of an inode changed.
    pub fn attributes(&self, ino: u64) {
        self.push(Job::Attributes(ino));
    }

    /// A name in a directory appeared, went or means another inode.
    pub fn entry(&self, parent: u64, name: &[u8]) {
        self.push(Job::Entry(parent, name.to_vec()));
    }

    /// Waits until the kernel was told everything queued so far. Never from an
    /// event loop or with a lock held.
    pub fn wait_until_sent(&self) {
        let (done, told) = mpsc::channel();
        self.push(Job::Barrier(done));
        let _ = told.recv();
    }
}
