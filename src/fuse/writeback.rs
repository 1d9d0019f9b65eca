//! Brings down what the kernel has written and not sent yet.
//!
//! syncfs(2) on FUSE starts this and does not wait for it (Linux 6.18 and
//! later skip such mappings), and fsync(2) needs an open file. So each inode
//! that is open for writing is opened by number, under a name in the root
//! directory that only this thread can look up, and fsynced. Invariant: never
//! in an event loop; whoever waits for it does so with a limit, because a
//! write that waits for the very checkpoint that pulls holds its inode.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use fuser::INodeNo;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::shared::Shared;
use crate::io::{Random as _, SystemRandom};

/// Names that stand for inode numbers, for one thread.
pub(super) struct Aliases {
    /// Random, so that no answer about it is in the kernel's cache.
    prefix: String,
    /// The thread; 0 before it runs.
    puller: AtomicU32,
}

impl Aliases {
    pub(super) fn new() -> Self {
        let mut random = [0; 16];
        SystemRandom.fill(&mut random);
        let token = u128::from_le_bytes(random);
        Self { prefix: format!(".amberfs-inode-{token:032x}-"), puller: AtomicU32::new(0) }
    }

    fn name(&self, ino: u64) -> String {
        format!("{}{ino}", self.prefix)
    }

    /// Whether the thread is ours.
    pub(super) fn is_writeback_thread(&self, thread: u32) -> bool {
        thread != 0 && thread == self.puller.load(Ordering::Relaxed)
    }

    /// The inode that our thread means by a name.
    pub(super) fn inode(&self, thread: u32, name: &[u8]) -> Option<u64> {
        let digits = name.strip_prefix(self.prefix.as_bytes())?;
        let digits =
            std::str::from_utf8(digits).ok().filter(|_| self.is_writeback_thread(thread))?;
        digits.parse().ok()
    }
}

struct Job {
    root: Option<File>,
    done: Sender<io::Result<()>>,
}

/// Pulls in a thread of its own.
pub(super) struct Writeback {
    jobs: Sender<Job>,
}

impl Writeback {
    /// Starts the thread; it ends when this is dropped.
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let (jobs, received) = mpsc::channel::<Job>();
        thread::Builder::new().name("writeback".into()).spawn(move || {
            let thread = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
            shared.aliases.puller.store(thread, Ordering::Relaxed);
            for job in received {
                let result = write_back(&shared, job.root.as_ref());
                // The mount must not be held longer than it takes.
                drop(job.root);
                // Whoever waited may have given up.
                let _ = job.done.send(result);
            }
        })?;
        Ok(Self { jobs })
    }

    /// Pulls everything; `TimedOut` if that takes longer than `limit`. Without a
    /// root, because no path leads there, caches are dropped, which writes too.
    pub(super) fn write_back(&self, root: Option<File>, limit: Duration) -> io::Result<()> {
        let (done, result) = mpsc::channel();
        let gone = || io::Error::other("the mount has ended");
        self.jobs.send(Job { root, done }).map_err(|_| gone())?;
        match result.recv_timeout(limit) {
            Ok(result) => result,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

fn write_back(shared: &Shared, root: Option<&File>) -> io::Result<()> {
    // Starts all at once, so that the files below are waited for together. It
    // may tell of errors that belong to others.
    if let Some(Err(error)) = root.map(rustix::fs::syncfs) {
        log::debug!("syncfs: {error}");
    }
    let mut result = Ok(());
    for ino in shared.writers.all() {
        let pulled =
            match root.map_or(Err(Errno::ACCESS), |root| write_back_inode(shared, root, ino)) {
                // Closed and gone meanwhile: close has written its pages.
                Ok(()) | Err(Errno::NOENT | Errno::STALE) => Ok(()),
                // Only writable for others, say: dropping its cache writes too.
                Err(Errno::ACCESS | Errno::PERM) => shared.write_back_range(ino, 0, 0),
                Err(error) => Err(error.into()),
            };
        // One that cannot be pulled does not keep the others back.
        result = result.and(pulled);
    }
    result
}

fn write_back_inode(shared: &Shared, root: &File, ino: u64) -> rustix::io::Result<()> {
    let name = shared.aliases.name(ino);
    let open = |flags| {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        rustix::fs::openat(root, name.as_str(), flags, Mode::empty())
    };
    let file = open(OFlags::RDONLY)
        .or_else(|error| if error == Errno::ACCESS { open(OFlags::WRONLY) } else { Err(error) })?;
    let pulled = rustix::io::retry_on_intr(|| rustix::fs::fdatasync(&file));
    drop(file);
    // The kernel would keep the name, and with it the inode after its last real
    // name is gone.
    if let Some(notifier) = shared.notifier.get() {
        let _ = notifier.inval_entry(INodeNo::ROOT, OsStr::new(&name));
    }
    pulled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pulling_thread_knows_the_names() {
        let aliases = Aliases::new();
        let name = aliases.name(77);
        assert_eq!(aliases.inode(5, name.as_bytes()), None, "before it runs");
        assert_eq!(aliases.inode(0, name.as_bytes()), None);
        aliases.puller.store(5, Ordering::Relaxed);
        assert_eq!(aliases.inode(5, name.as_bytes()), Some(77));
        assert_eq!(aliases.inode(6, name.as_bytes()), None);
        assert_eq!(aliases.inode(5, b".amberfs-inode-0-77"), None);
        assert_eq!(aliases.inode(5, format!("{name}x").as_bytes()), None);
    }
}
