//! A simulated world: clock, random numbers, private and synced folders.
//!
//! Invariant: deterministic, and pessimistic about power cuts. A file's bytes
//! are durable only after `sync_data`, a name only after `sync_dir` of its
//! folder (or `publish`). All folders of one [`SimWorld`] count their changes
//! together, so that one workload has one numbering.

mod disk;
mod folders;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::{Clock, Random, Timestamp};

use disk::Disk;
pub use folders::{SimFolder, SimSynced};

/// A clock that only moves when told to.
#[derive(Default)]
pub struct SimClock(Mutex<(Timestamp, Duration)>, Mutex<Duration>);

impl SimClock {
    /// A clock that shows `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(Mutex::new((now, Duration::ZERO)), Mutex::default())
    }

    fn lock(&self) -> MutexGuard<'_, (Timestamp, Duration)> {
        self.0.lock().expect("nothing panics while it holds the clock")
    }

    /// Lets this much time pass on both clocks.
    pub fn advance(&self, by: Duration) {
        let mut time = self.lock();
        let nanos = u64::from(time.0.nanos) + u64::from(by.subsec_nanos());
        time.0.secs += by.as_secs() as i64 + (nanos / 1_000_000_000) as i64;
        time.0.nanos = (nanos % 1_000_000_000) as u32;
        time.1 += by;
    }

    /// The machine is suspended for so long.
    pub fn sleep(&self, time: Duration) {
        *self.1.lock().expect("nothing panics while it holds the sum") += time;
        let Timestamp { secs, nanos } = self.now();
        self.set_wall(Timestamp { secs: secs + time.as_secs() as i64, nanos });
    }

    /// Sets the wall clock alone, as an administrator does.
    pub fn set_wall(&self, now: Timestamp) {
        self.lock().0 = now;
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.lock().0
    }

    fn elapsed(&self) -> Duration {
        self.lock().1
    }

    fn asleep(&self) -> Duration {
        *self.1.lock().expect("nothing panics while it holds the sum")
    }
}

/// Random bytes that follow from a seed.
pub struct SimRandom {
    seed: u64,
    calls: Mutex<u64>,
}

impl SimRandom {
    /// A generator for this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, calls: Mutex::new(0) }
    }
}

impl Random for SimRandom {
    fn fill(&self, buffer: &mut [u8]) {
        let mut calls = self.calls.lock().expect("nothing panics while it holds the count");
        *calls += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(&calls.to_le_bytes());
        hasher.finalize_xof().fill(buffer);
    }
}

/// What a failing operation answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// EIO. A failed sync also loses what it should have made durable: the
    /// system calls it clean afterwards.
    Io,
    /// The operation fails with ENOSPC.
    NoSpace,
}

impl Fault {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Io => libc::EIO,
            Self::NoSpace => libc::ENOSPC,
        })
    }
}

/// What becomes of file bytes that were written and not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// All writes that were not synced are there after the power cut.
    Kept,
    /// No write that was not synced is there after the power cut.
    Lost,
    /// All but the write of this index (0 to [`SimWorld::pending_writes`]).
    OneLost(usize),
    /// All, but of the last write only this many bytes.
    LastTorn(usize),
}

/// What a power cut leaves of writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash {
    /// To bytes that were not synced.
    pub data: Unsynced,
    /// Whether names survive that were made, changed or removed, but whose
    /// folder was not synced since.
    pub names_kept: bool,
}

/// One simulated machine's storage, shared by all folders made from it.
#[derive(Clone)]
pub struct SimWorld {
    disk: Arc<Mutex<Disk>>,
    clock: Arc<SimClock>,
}

impl Default for SimWorld {
    fn default() -> Self {
        Self::new()
    }
}

impl SimWorld {
    /// An empty world whose clock stands at 1970.
    pub fn new() -> Self {
        Self::with_disk(Disk::default(), Arc::default())
    }

    fn with_disk(disk: Disk, clock: Arc<SimClock>) -> Self {
        Self { disk: Arc::new(Mutex::new(disk)), clock }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("nothing panics while it holds the disk")
    }

    /// The clock of the simulated world.
    pub fn clock(&self) -> Arc<SimClock> {
        self.clock.clone()
    }

    /// The private folder called `root`, made if it is not there (durably, and
    /// without being counted).
    pub fn folder(&self, root: &str) -> Arc<SimFolder> {
        self.disk().make_root(root);
        Arc::new(SimFolder { world: self.clone(), root: root.to_owned() })
    }

    /// The synced folder called `root`, likewise.
    pub fn synced(&self, root: &str) -> Arc<SimSynced> {
        self.disk().make_root(root);
        Arc::new(SimSynced { world: self.clone(), root: root.to_owned() })
    }

    /// Changes so far: creations, writes, syncs, renames, removals.
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// Successful syncs of file data so far.
    pub fn data_syncs(&self) -> u64 {
        self.disk().data_syncs
    }

    /// Lets `operations` changes happen in all; the next one and everything
    /// after it fails.
    pub fn freeze_at(&self, operations: u64) {
        self.disk().freeze_at = Some(operations);
    }

    /// Lets the change of this number (the first is 1) fail, once.
    pub fn fail_at(&self, operation: u64, fault: Fault) {
        self.disk().faults.insert(operation, fault);
    }

    /// What was to fail and did not yet does not any more.
    pub fn clear_faults(&self) {
        self.disk().faults.clear();
    }

    /// Sets how many bytes all files together may have.
    pub fn set_capacity(&self, bytes: u64) {
        self.disk().capacity = bytes;
    }

    /// Writes that a power cut could lose.
    pub fn pending_writes(&self) -> usize {
        self.disk().pending().len()
    }

    /// Bytes of the last of them.
    pub fn last_pending_len(&self) -> usize {
        self.disk().last_pending_len()
    }

    /// The world after a power cut; this one stays as it is.
    #[must_use]
    pub fn crash(&self, crash: Crash) -> Self {
        Self::with_disk(self.disk().crash(crash), self.clock.clone())
    }

    /// The world after the process was killed: all that was written is there.
    #[must_use]
    pub fn kill(&self) -> Self {
        self.crash(Crash { data: Unsynced::Kept, names_kept: true })
    }

    /// Changes a file behind everybody's back, durably: `path` begins with the
    /// folder's root. `false` if there is no such file.
    pub fn tamper(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.disk().tamper(path, change)
    }

    /// Puts a file there behind everybody's back, durably, as a sync client
    /// does; the folder too.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        let now = self.clock.now();
        self.disk().put(path, bytes, now);
    }

    /// Takes a file away behind everybody's back, durably. `false` if there is no such file.
    pub fn remove_file(&self, path: &str) -> bool {
        self.disk().take_away(path)
    }

    /// The bytes of a file as they are now.
    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.disk().get(path)
    }

    /// Paths of all files, sorted.
    pub fn paths(&self) -> Vec<String> {
        self.disk().paths()
    }
}

#[cfg(test)]
mod tests;
