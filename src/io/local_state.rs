//! The folder of local state, which one process at a time has.
//!
//! Invariant: whoever has a [`LocalState`] holds its lock, until it is dropped.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::{DirFolder, PrivateFolder};

/// How long another process may hold the lock that does not say that it is ending.
const BRIEFLY: Duration = Duration::from_secs(5);
/// How long one that is ending may: it publishes what is not in REPO yet.
const ENDING: Duration = Duration::from_secs(600);
/// What the lock's file holds while its owner is ending.
const IS_ENDING: &[u8] = b"ending\n";
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why local state could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Others can read or write it, or own it.
    #[error("must belong to you alone (mode 0700)")]
    OpenToOthers,
    /// Another process has it, and does not let go.
    #[error("is in use by another amberfs")]
    InUse,
    /// The folder cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Local state, locked for this process.
pub struct LocalState {
    /// The path of the folder.
    pub path: PathBuf,
    /// The folder, opened for its files.
    pub folder: Arc<dyn PrivateFolder>,
    lock: fs::File,
}

impl LocalState {
    /// Makes the folder if it is not there, and locks it. A process that is ending is
    /// waited for; `waiting` is called once if that takes long.
    pub fn lock(path: PathBuf, waiting: impl FnOnce(&Path)) -> Result<Self, LockError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        if !belongs_to_us_alone(&fs::metadata(&path)?) {
            return Err(LockError::OpenToOthers);
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path.join("pending"))?;
        let lock = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))?;
        if !wait_for(&lock, || waiting(&path))? {
            return Err(LockError::InUse);
        }
        lock.set_len(0)?;
        let folder = Arc::new(DirFolder::new(&path));
        Ok(Self { path, folder, lock })
    }

    /// Tells whoever waits for the lock that this process is ending, and only
    /// publishes what is not in REPO yet.
    pub fn is_ending(&self) {
        // Without it, they wait for a shorter time.
        let _ = self.lock.write_all_at(IS_ENDING, 0);
    }
}

/// Whether this user owns it, and nobody else can read or write it.
pub fn belongs_to_us_alone(data: &fs::Metadata) -> bool {
    let open_to_others = data.mode() & 0o077;
    open_to_others == 0 && data.uid() == rustix::process::geteuid().as_raw()
}

/// Waits for the lock as long as its owner may be ending; `false` if it does not
/// come. A daemon tells that it has unmounted a moment before it ends, and umount(8)
/// long before.
fn wait_for(lock: &fs::File, waiting: impl FnOnce()) -> std::io::Result<bool> {
    let started = Instant::now();
    let mut waiting = Some(waiting);
    loop {
        match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error.into()),
        }
        let mut said = [0; IS_ENDING.len()];
        let ending = lock.read_at(&mut said, 0)? == said.len() && said == IS_ENDING;
        let waited = started.elapsed();
        if waited >= if ending { ENDING } else { BRIEFLY } {
            return Ok(false);
        }
        if ending
            && waited >= BRIEFLY
            && let Some(waiting) = waiting.take()
        {
            waiting();
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}
