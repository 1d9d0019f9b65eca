//! Waiting for files to appear in folders, without looking again and again.
//!
//! Invariant: what is reported is a reason to look, and no more. A file system may report nothing
//! (network folders do), so whoever waits looks from time to time all the same.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::FolderWatch;
use super::synced::DirSynced;

/// A wait ends once nothing more has appeared for this long: a sync client brings several files.
const CALM: Duration = Duration::from_millis(300);
/// A wait ends this long after the first file, however many follow.
const CALM_LIMIT: Duration = Duration::from_secs(2);
/// Bytes of events that are read at once.
const BUFFER: usize = 4096;

/// Folders of a REPO on disk of which the kernel reports what appears in them (inotify(7)).
pub(super) struct DirWatch {
    repo: DirSynced,
    /// The kernel's reports.
    queue: OwnedFd,
    /// Whether all folders of the last wait could be watched.
    is_complete: bool,
}

impl DirWatch {
    /// A watch of no folder yet.
    pub(super) fn new(repo: DirSynced) -> io::Result<Self> {
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { repo, queue, is_complete: true })
    }

    /// Adds folders to those that are watched. One that is watched already stays so.
    fn add(&self, folders: &[String]) -> io::Result<()> {
        let flags = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        for folder in self.repo.open_paths(folders)?.into_iter().flatten() {
            let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
            inotify::add_watch(&self.queue, path, flags)?;
        }
        Ok(())
    }

    /// Waits until something was reported and then [`CALM`] has passed without a report, at most
    /// for `limit` and [`CALM_LIMIT`]. Returns whether something was reported.
    fn wait_for_reports(&self, limit: Duration) -> io::Result<bool> {
        if !self.has_reports(limit)? {
            return Ok(false);
        }
        let end = Instant::now() + CALM_LIMIT;
        loop {
            self.read_all()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.has_reports(left.min(CALM))? {
                return Ok(true);
            }
        }
    }

    fn has_reports(&self, limit: Duration) -> io::Result<bool> {
        let limit = limit.try_into().map_err(io::Error::other)?;
        let mut queue = [PollFd::from_borrowed_fd(self.queue.as_fd(), PollFlags::IN)];
        match poll(&mut queue, Some(&limit)) {
            Err(Errno::INTR) => Ok(false),
            ready => Ok(ready? > 0),
        }
    }

    fn read_all(&self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(&self.queue, &mut buffer);
        loop {
            match reader.next() {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl FolderWatch for DirWatch {
    fn wait(&mut self, folders: &[String], limit: Duration) -> bool {
        let added = self.add(folders);
        if let (Err(error), true) = (&added, self.is_complete) {
            log::info!("not all new files in REPO are reported, so they are looked for: {error}");
        }
        self.is_complete = added.is_ok();
        self.wait_for_reports(limit).unwrap_or_else(|error| {
            log::warn!("new files in REPO are not reported: {error}");
            std::thread::sleep(limit);
            false
        })
    }
}
