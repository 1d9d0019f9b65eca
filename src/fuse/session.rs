//! A mount with its event loops.
//!
//! Invariant: dropping a session leaves no dead mountpoint behind ("transport
//! endpoint is not connected"), whatever state it is in.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use fuser::SessionACL;

use super::adapter::{Adapter, Shared};
use super::invalidate::Invalidator;
use super::kernel_mount::{self, KernelMount};
use super::options::{Access, MountOptions};
use super::pull::{Aliases, Puller};
use crate::fs::Operations;

/// Why a mount failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel or fusermount3 refused.
    #[error("{mountpoint} could not be mounted: {source}")]
    Refused {
        /// Where.
        mountpoint: String,
        /// Why.
        source: io::Error,
    },
    /// /dev/fuse is not there.
    #[error("/dev/fuse is missing: load the kernel's fuse module (modprobe fuse)")]
    NoFuse,
}

/// How to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Only if nobody uses it; else EBUSY and the mount stays.
    IfIdle,
    /// The name goes at once, the rest when its last user has gone.
    Detach,
}

#[derive(Default)]
struct Ended {
    ended: Mutex<bool>,
    changed: Condvar,
}

/// A mounted file system.
pub struct Session {
    mountpoint: PathBuf,
    mount: KernelMount,
    shared: Arc<Shared>,
    invalidator: Invalidator,
    puller: Puller,
    ended: Arc<Ended>,
    /// The name is gone already.
    detached: AtomicBool,
}

impl Session {
    /// Mounts `operations` and starts the event loops; the mount is usable on
    /// return. `on_end` runs once, when the kernel has let go of the mount
    /// (by whoever unmounted it).
    pub fn mount<O: Operations>(
        operations: Arc<O>,
        mountpoint: &Path,
        options: &MountOptions,
        on_end: impl FnOnce() + Send + 'static,
    ) -> Result<Self, MountError> {
        let refused = |source: io::Error| MountError::Refused {
            mountpoint: mountpoint.display().to_string(),
            source,
        };
        let mountpoint = mountpoint.canonicalize().map_err(refused)?;
        let (device, by_root) =
            kernel_mount::mount(&mountpoint, options).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound if !Path::new("/dev/fuse").exists() => MountError::NoFuse,
                _ => refused(error),
            })?;
        let started = start(operations, device, options, on_end);
        let (shared, invalidator, puller, ended) = match started {
            Ok(started) => started,
            Err(error) => {
                // The connection is closed: only the name is left to clear.
                let _ = kernel_mount::unmount_path(&mountpoint, true, by_root);
                return Err(refused(error));
            }
        };
        match KernelMount::find(&mountpoint, by_root) {
            Ok(mount) => {
                let detached = AtomicBool::new(false);
                Ok(Self { mountpoint, mount, shared, invalidator, puller, ended, detached })
            }
            Err(error) => {
                let _ = kernel_mount::unmount_path(&mountpoint, true, by_root);
                Err(refused(error))
            }
        }
    }

    /// Where it is mounted, absolute and without symlinks.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The device number of the mounted file system.
    pub fn device(&self) -> u64 {
        self.mount.device()
    }

    /// For telling the kernel what changed behind its back.
    pub fn invalidator(&self) -> Invalidator {
        self.invalidator.clone()
    }

    /// Makes files opened for writing from now on bypass the kernel's cache,
    /// so that write(2) itself sees ENOSPC.
    pub fn set_direct_writes(&self, direct: bool) {
        self.shared.direct_writes.store(direct, Ordering::Relaxed);
    }

    /// Brings down what the kernel has written and not sent yet; `TimedOut` if
    /// that takes longer than `limit`. Not from an event loop.
    pub fn pull(&self, limit: Duration) -> io::Result<()> {
        if self.has_ended() { Ok(()) } else { self.puller.pull(self.mount.open_root()?, limit) }
    }

    /// Detaches although it is in use, and brings down what its users wrote.
    pub fn detach_and_pull(&self, limit: Duration) -> io::Result<()> {
        if self.has_ended() || self.detached.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        // Opened first: afterwards no name leads there.
        let root = self.mount.open_root();
        self.mount.unmount(true)?;
        self.puller.pull(root?, limit)
    }

    /// Unmounts; afterwards `wait` tells when the event loops have ended.
    pub fn unmount(&self, how: Unmount) -> io::Result<()> {
        if self.has_ended() || self.detached.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.mount.unmount(how == Unmount::Detach)?;
        // Gone from here also if others keep it alive.
        self.detached.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Whether the kernel has let go.
    pub fn has_ended(&self) -> bool {
        *self.ended.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the kernel has let go, or the time is over; tells which.
    pub fn wait(&self, limit: Duration) -> bool {
        let ended = self.ended.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended, _) = self
            .ended
            .changed
            .wait_timeout_while(ended, limit, |ended| !*ended)
            .unwrap_or_else(PoisonError::into_inner);
        *ended
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.unmount(Unmount::Detach).is_err() {
            log::warn!("the mountpoint could not be cleared");
        }
    }
}

type Started = (Arc<Shared>, Invalidator, Puller, Arc<Ended>);

fn start<O: Operations>(
    operations: Arc<O>,
    device: std::os::fd::OwnedFd,
    options: &MountOptions,
    on_end: impl FnOnce() + Send + 'static,
) -> io::Result<Started> {
    let shared = Arc::new(Shared {
        notifier: Arc::default(),
        writers: Arc::default(),
        aliases: Aliases::new(),
        direct_writes: AtomicBool::new(false),
    });
    let adapter = Adapter::new(operations, Arc::clone(&shared), options.writeback)?;
    // Without allow_other the kernel itself lets in only the owner, and its
    // writeback of times comes in the name of root: fuser must not filter.
    let filter = match options.access {
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        Access::Owner | Access::Everybody => SessionACL::All,
    };
    let mut config = fuser::Config::default();
    config.n_threads = Some(options.event_loops.max(1));
    config.clone_fd = true;
    let session = fuser::Session::from_fd(adapter, device, filter, config)?;
    let notifier = session.notifier();
    let invalidator = Invalidator::start(notifier.clone())?;
    let _ = shared.notifier.set(notifier);
    let puller = Puller::start(Arc::clone(&shared))?;
    let ended = Arc::new(Ended::default());
    let signal = Arc::clone(&ended);
    thread::Builder::new().name("session".into()).spawn(move || {
        if let Err(error) = session.run() {
            log::error!("the connection to the kernel ended: {error}");
        }
        *signal.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        signal.changed.notify_all();
        on_end();
    })?;
    Ok((shared, invalidator, puller, ended))
}
