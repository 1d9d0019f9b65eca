//! What the file system does about errors: which of them stop it, what is answered, and what is
//! remembered for whoever asks why.
//!
//! Invariant: once something that was acknowledged is not in the log, nothing is written any
//! more; once memory is not what was acknowledged, nothing is published either.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Fs, FsError, Result};
use crate::volume::StoreError;

/// The failures that stop the file system, and what is remembered of the last ones.
#[derive(Default)]
pub(super) struct Failing {
    /// Read-only with EIO until reopened.
    failed: AtomicBool,
    /// What is in memory is not what was acknowledged: it must not be published.
    broken: AtomicBool,
    /// Why the last checkpoint failed, or local state.
    trouble: Mutex<Option<String>>,
    /// The system's error behind the last [`FsError::Io`].
    cause: Mutex<Option<String>>,
}

impl Failing {
    /// Whether the file system is read-only with EIO until it is opened anew.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether what is in memory must not be published.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Why the last checkpoint failed, or local state.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A checkpoint ended, with this trouble or none.
    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn remember_cause(&self, cause: String) {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
    }

    /// Read-only with EIO from here on; logged once.
    fn go_read_only(&self, why: &str) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            log::error!("{why}; the mount is read-only until it is mounted anew");
            self.remember_cause(why.to_string());
            self.set_trouble(Some(why.to_string()));
        }
    }
}

impl Fs {
    /// An error if nothing may be changed.
    pub(super) fn check_writable(&self) -> Result<()> {
        if self.failing.has_failed() {
            Err(FsError::Io)
        } else if self.options.read_only {
            Err(FsError::ReadOnly)
        } else {
            Ok(())
        }
    }

    /// The answer to a failed write of local state. But for a lack of room, it is logged once, and
    /// all is read-only with EIO from then on.
    pub(super) fn fail(&self, error: &std::io::Error) -> FsError {
        if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) {
            return FsError::NoSpace;
        }
        self.failing.go_read_only(&format!("local state failed ({error})"));
        FsError::Io
    }

    /// The answer to a failed write of something that was acknowledged: without it in the
    /// log, all is read-only with EIO from then on, even if only room is lacking.
    pub(super) fn fail_for_good(&self, error: &std::io::Error) -> FsError {
        self.failing.go_read_only(&format!("local state failed ({error})"));
        FsError::Io
    }

    /// Read-only with EIO from here on, and what is in memory is not published.
    pub(super) fn stop(&self, why: &str) {
        self.failing.broken.store(true, Ordering::Relaxed);
        self.failing.go_read_only(why);
    }

    /// A panic while something was set aside leaves it there: setting aside
    /// more would drop it.
    pub(super) fn check_not_set_aside(&self, already: bool) -> Result<()> {
        if already {
            self.stop("a checkpoint before this one did not end");
            return Err(FsError::Io);
        }
        Ok(())
    }

    /// The exit from the store's errors to ours; the log has the details.
    pub(super) fn store_failed(&self, error: &StoreError) -> FsError {
        match error {
            StoreError::Full => FsError::NoSpace,
            StoreError::State { source, .. } => self.fail(source),
            other => {
                // A log has no paths but those within REPO.
                match other {
                    StoreError::Away { why, .. } => log::error!("REPO is not there: {why}"),
                    other => log::error!("{other}"),
                }
                match other {
                    StoreError::Missing { .. } | StoreError::Vanished { .. } => FsError::NotHere,
                    StoreError::Damaged { .. } => FsError::Damaged,
                    StoreError::Away { .. } => FsError::Away,
                    _ => {
                        self.failing.remember_cause(other.to_string());
                        FsError::Io
                    }
                }
            }
        }
    }

    /// What the system answered when [`FsError::Io`] was answered last, for commands:
    /// they have no log. Each is returned once.
    pub fn take_cause(&self) -> Option<String> {
        self.failing.cause.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
