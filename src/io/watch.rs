//! Waiting for files to appear in folders, without looking again and again.
//!
//! Invariant: what is reported is a reason to look, and no more. A file system may report nothing
//! (network folders do), so whoever waits looks from time to time all the same.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
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

/// Wakes a thread that waits, before or while it does (eventfd(2)).
pub struct Alarm(Option<OwnedFd>);

impl Default for Alarm {
    /// An alarm that has not rung. If the kernel has none to give, waiting takes its whole time.
    fn default() -> Self {
        let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Self(made.inspect_err(|error| log::warn!("no alarm could be made: {error}")).ok())
    }
}

impl Alarm {
    /// Wakes whoever waits, or will.
    pub fn ring(&self) {
        if let Some(counter) = &self.0 {
            // It fails only if the counter is full, and then the alarm rings already.
            let _ = rustix::io::write(counter, &1u64.to_ne_bytes());
        }
    }

    /// Whether it rang since this was asked last.
    pub fn has_rung(&self) -> bool {
        self.0.as_ref().is_some_and(|counter| rustix::io::read(counter, &mut [0u8; 8]).is_ok())
    }

    /// Waits until it rings, at most for `limit`.
    pub fn wait(&self, limit: Duration) {
        if self.0.is_none() {
            return std::thread::sleep(limit);
        }
        if let Err(error) = wait_for_any(None, self, limit) {
            log::warn!("an alarm cannot be waited for: {error}");
            std::thread::sleep(limit);
        }
    }
}

/// Waits until something can be read of `queue` or the alarm rings, at most for `limit`. Returns
/// whether something can be read.
fn wait_for_any(queue: Option<&OwnedFd>, alarm: &Alarm, limit: Duration) -> io::Result<bool> {
    let limit = limit.try_into().map_err(io::Error::other)?;
    let all = [queue, alarm.0.as_ref()].into_iter().flatten();
    let mut all: Vec<PollFd<'_>> = all.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    match poll(&mut all, Some(&limit)) {
        Err(Errno::INTR) => Ok(false),
        ready => {
            ready?;
            Ok(queue.is_some() && all[0].revents().contains(PollFlags::IN))
        }
    }
}

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
    /// for `limit` and [`CALM_LIMIT`]; or until the alarm rings. Returns whether something was
    /// reported.
    fn wait_for_reports(&self, limit: Duration, alarm: &Alarm) -> io::Result<bool> {
        if !wait_for_any(Some(&self.queue), alarm, limit)? {
            return Ok(false);
        }
        let end = Instant::now() + CALM_LIMIT;
        loop {
            self.read_all()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !wait_for_any(Some(&self.queue), alarm, left.min(CALM))? {
                return Ok(true);
            }
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
    fn wait(&mut self, folders: &[String], limit: Duration, alarm: &Alarm) -> bool {
        let added = self.add(folders);
        if let (Err(error), true) = (&added, self.is_complete) {
            log::info!("not all new files in REPO are reported, so they are looked for: {error}");
        }
        self.is_complete = added.is_ok();
        self.wait_for_reports(limit, alarm).unwrap_or_else(|error| {
            log::warn!("new files in REPO are not reported: {error}");
            std::thread::sleep(limit);
            false
        })
    }
}
