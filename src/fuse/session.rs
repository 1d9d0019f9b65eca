//! A mount with its event loops.
//!
//! Invariant: dropping a session that has not ended leaves no dead mountpoint
//! behind ("transport endpoint is not connected").

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use fuser::SessionACL;

use super::adapter::Adapter;
use super::direct::Direct;
use super::invalidate::Invalidator;
use super::kernel_mount::{self, KernelMount};
use super::options::{Access, MountOptions};
use super::shared::Shared;
use super::writeback::{Aliases, Writeback};
use crate::control::{MountId, MountLocation, Users};
use crate::fs::Operations;

/// How long event loops may take to see that the kernel has let go.
const ENDING: Duration = Duration::from_secs(1);

/// Why a mount failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel or fusermount3 refused.
    #[error("{mountpoint} could not be mounted: {source}")]
    Refused {
        /// The path of the mountpoint.
        mountpoint: String,
        /// The error of the system.
        source: io::Error,
    },
    /// /dev/fuse is not there.
    #[error("/dev/fuse is missing: load the kernel's fuse module (modprobe fuse)")]
    NoFuse,
}

/// How a mount is unmounted.
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
    puller: Writeback,
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
        // Where this fails, the connection is closed on return, and what is left is
        // a dead mount, which `umount` and the next mount clear.
        let mount = KernelMount::find(&mountpoint, by_root).map_err(refused)?;
        match start(operations, device, options, on_end) {
            Ok((shared, invalidator, puller, ended)) => {
                mount.raise_readahead();
                let detached = AtomicBool::new(false);
                Ok(Self { mountpoint, mount, shared, invalidator, puller, ended, detached })
            }
            Err(error) => {
                let _ = mount.unmount(true);
                Err(refused(error))
            }
        }
    }

    /// Where it is mounted, absolute and without symlinks.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The identity of the mount, which no other mount ever has.
    pub fn id(&self) -> MountId {
        self.mount.id()
    }

    /// Where the mount is now: others may have unmounted, moved or covered it.
    pub fn location(&self) -> io::Result<MountLocation> {
        self.mount.location()
    }

    /// Who keeps the file system alive, beside the mount itself.
    pub fn users(&self) -> Users {
        self.mount.users()
    }

    /// Which mounts keep it alive, beside the mount itself and what goes with it.
    pub fn other_mounts(&self) -> Users {
        self.mount.other_mounts()
    }

    /// Whether the kernel still has the file system, mounted here or not.
    pub fn is_alive(&self) -> bool {
        !self.has_ended() && self.mount.is_alive()
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
    pub fn write_back(&self, limit: Duration) -> io::Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        match self.puller.write_back(self.mount.open_root(), limit) {
            // Unmounted meanwhile: the kernel has written all it had.
            Err(error) if error.kind() != io::ErrorKind::TimedOut && self.wait(ENDING) => {
                log::debug!("the mount ended while its pages were pulled: {error}");
                Ok(())
            }
            result => result,
        }
    }

    /// Detaches although it is in use, and brings down what its users wrote.
    pub fn detach_and_write_back(&self, limit: Duration) -> io::Result<()> {
        if self.has_ended() || self.detached.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        // Opened first: afterwards no name leads there.
        let root = self.mount.open_root();
        self.mount.unmount(true)?;
        self.puller.write_back(root, limit)
    }

    /// Unmounts; afterwards `wait` tells when the event loops have ended. Where
    /// somebody ended the connection, it clears the dead mount that is left.
    pub fn unmount(&self, how: Unmount) -> io::Result<()> {
        if self.detached.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.mount.unmount(how == Unmount::Detach || self.has_ended())?;
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
        // With the connection ended by others, its mount stays until somebody
        // unmounts it: programs must not write into the folder below.
        if !self.has_ended()
            && let Err(error) = self.unmount(Unmount::Detach)
        {
            log::warn!("the mountpoint could not be cleared: {error}");
        }
    }
}

type Started = (Arc<Shared>, Invalidator, Writeback, Arc<Ended>);

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
        direct: Direct::default(),
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
    let puller = Writeback::start(Arc::clone(&shared))?;
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
