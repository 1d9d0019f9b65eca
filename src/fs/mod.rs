//! Inode operations as plain functions with our own types.
//!
//! Invariant: an operation is one record of changes, applied to the overlay
//! and appended to the journal under one lock; it is answered only after both.
//! Replay applies the same records by the same code.
//!
//! Lock order: `flushing`, then `draining`, then `state`, then `queue`. An operation holds
//! `kernel_numbers` for reading around all of them; who changes it has `flushing`, and only tries.
//! `state` is never held while file content is read from or written to REPO.

mod apply;
mod attr;
mod blocks;
mod bring_back;
mod checkpoint;
mod data;
mod dir;
mod failing;
mod follow;
mod hold;
mod journaled;
mod keeping;
mod mount;
mod names;
mod numbers;
mod operations;
mod overlay;
mod ownership;
mod past;
mod perform;
mod pins;
mod pressure;
mod queue;
mod record_log;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::Duration;

pub use checkpoint::Progress;
pub use follow::{Changed, Followed, Later};
pub use journaled::RecoverError;
pub use keeping::KeptState;
pub use operations::{
    Attr, Caller, DirEntry, FsError, Operations, RenameMode, Result, Seek, SetAttr, SpaceStat,
    TimeSet, has_namespace,
};
pub use ownership::Ownership;
pub use past::WithPast;
pub use pressure::{When, is_scarce};
pub use record_log::{Log, NoLog};

use failing::Failing;
use numbers::Numbers;
use overlay::Overlays;
use pins::{KernelNumbers, Pinned};
use pressure::{Amounts, Least, Pace, Relief};

use crate::format::namespace::{Content, Ino, Inode, Key, ROOT, Value};
use crate::format::record::Change;
use crate::io::{Alarm, Timestamp};
use crate::volume::content::{Layer, Stored};
use crate::volume::{StoreError, Volume};

/// A machine is suspended for so long at least; less is how long it takes to read two clocks.
const SHORTEST_SLEEP: Duration = Duration::from_millis(100);

/// How a file system behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether all changes are refused with EROFS.
    pub read_only: bool,
    /// How owners are stored and shown.
    pub ownership: Ownership,
}

/// A file whose content is open or changed.
#[derive(Default)]
struct File {
    /// The stored content, below all layers.
    stored: Stored,
    /// Changes that a checkpoint is flushing.
    frozen: Option<Arc<Layer>>,
    /// The changes since the last freeze of the file.
    layer: Layer,
    /// The length of the file with all layers, in bytes.
    size: u64,
    /// How many times the kernel has the file open.
    opens: u32,
    /// The kernel's mtime and ctime, as it told them last in this open, or as it was given them if it
    /// told none and writes pages. None if bytes passed its cache by since.
    told: Option<(Timestamp, Timestamp)>,
    /// Pages that have data, where they were counted.
    pages: blocks::Pages,
}

impl File {
    fn is_clean(&self) -> bool {
        self.frozen.is_none() && self.layer.is_clean()
    }

    /// Whether its changes are worth chunking before a checkpoint.
    fn is_long(&self) -> bool {
        Least::Large.is_met(self.layer.bytes) && !self.layer.is_scattered()
    }
}

/// A file whose content another device's took the place of. The kernel keeps the length that it
/// knows for as long as it has the inode; so it is given another one, by the generation.
#[derive(Clone, Copy, Default)]
struct Replaced {
    /// How many times that happened.
    times: u64,
    /// Whether the kernel may still have the inode from before the last time: nobody may open it.
    is_stale: bool,
}

/// Everything that the file system has in memory, behind one lock.
#[derive(Default)]
struct State {
    /// The changes of the namespace that are in no head yet.
    overlays: Overlays,
    files: HashMap<Ino, File>,
    /// Files that were written and closed, in that order.
    closed: VecDeque<Ino>,
    /// Lookups that the kernel remembers.
    lookups: HashMap<Ino, u64>,
    /// Files whose content another device's took the place of, while the kernel knew them.
    replaced: HashMap<Ino, Replaced>,
    /// Inodes without a name that are still open or known to the kernel.
    orphans: HashMap<Ino, Inode>,
    /// Of those the ones whose place another device's version took while they were open.
    pinned: HashMap<Ino, Pinned>,
    /// Open files of databases: following goes on once they are closed.
    holding: BTreeSet<Ino>,
    /// What changed in the namespace without the kernel asking for it, and it was not told yet.
    untold: Option<Changed>,
    /// Number of directories in a directory, where it was counted.
    subdirs: HashMap<Ino, u32>,
    /// Number of names, where it was counted and is large.
    names: HashMap<Ino, usize>,
    /// Inodes and bytes, with all changes.
    inodes: u64,
    bytes: u64,
    /// Bytes of data in layers.
    dirty: u64,
    /// Bytes of new chunks that no layer in memory has too. `None`: all of them. Set
    /// while layers are chunked, and once that or a checkpoint failed.
    apart: Option<u64>,
    /// Numbers for new inodes; none where nothing is changed.
    numbers: Option<Numbers>,
    /// How long the machine had been suspended in all when that was looked at last.
    asleep: Duration,
    /// Changes that this mount made.
    made: u64,
    /// Time of the first and the last change since the last freeze.
    changed: Option<(Duration, Duration)>,
    /// How quickly checkpoints follow one another.
    pace: Pace,
    /// A checkpoint failed; before this time none is made unasked.
    retry_at: Duration,
    /// Whose pages could not be counted without reading from REPO.
    uncounted: Vec<Ino>,
}

impl State {
    /// Notes that the kernel is given the present generation of a file, or has no inode of it any
    /// more.
    fn note_present_inode(&mut self, ino: Ino) {
        if let Some(replaced) = self.replaced.get_mut(&ino) {
            replaced.is_stale = false;
        }
    }

    /// Whether a database is open for whose end following waits.
    fn is_following_held(&self) -> bool {
        self.holding.iter().any(|ino| self.is_open(*ino))
    }

    /// Whether the kernel has a file open.
    fn is_open(&self, ino: Ino) -> bool {
        self.files.get(&ino).is_some_and(|file| file.opens > 0)
    }

    /// Bytes of changes in files that were written and closed; forgets those that were
    /// removed or stored since.
    fn closed_bytes(&mut self) -> u64 {
        let mut bytes = 0;
        self.closed.retain(|ino| {
            let file = self.files.get(ino).filter(|file| !file.layer.is_clean());
            let waits = file.filter(|_| !self.orphans.contains_key(ino));
            // One that is open again is counted when it is closed.
            bytes += waits.filter(|file| file.opens == 0).map_or(0, |file| file.layer.bytes);
            waits.is_some()
        });
        bytes
    }

    /// Whether so much waits in closed files that the first of them is chunked.
    fn is_much_closed(&mut self) -> bool {
        let amounts = Amounts { closed: self.closed_bytes(), ..Amounts::default() };
        amounts.of_closed() == Relief::Chunk
    }
}

/// A file system over a volume.
pub struct Fs {
    volume: Volume,
    log: Box<dyn Log>,
    options: Options,
    /// Held for reading by each operation.
    kernel_numbers: RwLock<KernelNumbers>,
    state: Mutex<State>,
    /// Held while layers are flushed and while a checkpoint runs.
    flushing: Mutex<()>,
    /// Checkpoints that wait for it: whoever chunks lets them go first.
    awaited: AtomicUsize,
    /// Held while the queue goes to the log.
    draining: Mutex<()>,
    /// The acknowledged records that are not in the log yet.
    queue: Mutex<queue::Queue>,
    /// The queue has room, or nobody makes any.
    queue_room: Condvar,
    /// Changes wait for following.
    hold: hold::Hold,
    /// Opening files waits for following.
    hold_of_opens: hold::Hold,
    /// How many times in a row following found no moment without changes.
    busy_follows: AtomicUsize,
    /// Held while a state gets a name.
    naming: Mutex<()>,
    /// No sweep changes anything any more.
    sweeps_ended: AtomicBool,
    /// Rings when what following waits for has happened, or the kernel is to be told something.
    alarm: Alarm,
    failing: Failing,
}

impl Fs {
    /// A file system over `volume`. A repository that never had a head gets
    /// its root directory.
    pub fn new(
        volume: Volume,
        log: Box<dyn Log>,
        options: Options,
    ) -> std::result::Result<Self, StoreError> {
        let inherited = &volume.base().inherited;
        let state = State { inodes: inherited.inodes, bytes: inherited.bytes, ..State::default() };
        let fresh = volume.tree().get(&Key::Inode(ROOT))?.is_none();
        let fs = Self {
            volume,
            log,
            options,
            kernel_numbers: RwLock::default(),
            state: Mutex::new(state),
            flushing: Mutex::default(),
            awaited: AtomicUsize::new(0),
            draining: Mutex::default(),
            queue: Mutex::default(),
            queue_room: Condvar::new(),
            hold: hold::Hold::default(),
            hold_of_opens: hold::Hold::default(),
            busy_follows: AtomicUsize::new(0),
            naming: Mutex::default(),
            sweeps_ended: AtomicBool::new(false),
            alarm: Alarm::default(),
            failing: Failing::default(),
        };
        // Who only reads needs no number, and may lack the nodes that would show it free.
        if !options.read_only {
            fs.lock().numbers = Some(Numbers::of(fs.volume.draw_writer()?));
        }
        if fresh {
            let now = fs.now();
            let ownership = &options.ownership;
            let (uid, gid) = ownership.stored(ownership.uid, ownership.gid);
            let inode = Inode::new(0o040_755, uid, gid, now);
            let mut state = fs.lock();
            // Not journaled: replay starts from the same empty repository.
            let set = Change::Set(Key::Inode(ROOT), Value::Inode(Box::new(inode)));
            let dot = fs.take_dot(&mut state);
            fs.apply(&mut state, dot, &set)
                .map_err(|_| StoreError::Missing { what: "the empty root".into() })?;
        }
        Ok(fs)
    }

    /// The volume in which the file system is stored.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Rings when it is time to follow again, or to tell the kernel something.
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// Nobody changes anything without it.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.notice_sleep(&mut state);
        state
    }

    fn flushing(&self) -> MutexGuard<'_, ()> {
        self.flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `flushing` for a checkpoint: nobody begins to chunk meanwhile, or goes on for long.
    fn flushing_next(&self) -> MutexGuard<'_, ()> {
        self.awaited.fetch_add(1, Ordering::Relaxed);
        let guard = self.flushing();
        self.awaited.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) > 0
    }

    /// Takes `flushing` if nobody has it, or waits for it.
    fn try_flushing(&self) -> Option<MutexGuard<'_, ()>> {
        if self.is_awaited() {
            return None;
        }
        match self.flushing.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn now(&self) -> Timestamp {
        self.volume.world().clock.now()
    }

    /// Draws another writer if the machine was suspended: its memory may have been copied meanwhile,
    /// and go on elsewhere too. No two changes may have one dot.
    fn notice_sleep(&self, state: &mut State) {
        let asleep = self.volume.world().clock.asleep();
        if asleep < state.asleep + SHORTEST_SLEEP {
            return;
        }
        state.asleep = asleep;
        if state.numbers.is_some() {
            state.numbers = Some(Numbers::of(self.volume.draw_another_writer()));
        }
    }
}

/// What is stored of a file, out of its record.
fn stored_of(inode: &Inode) -> Stored {
    let is_file = inode.is_file();
    Stored {
        class: inode.class,
        content: if is_file { inode.content } else { Content::None },
        inline: if is_file { inode.inline.clone() } else { Vec::new() },
        size: if is_file { inode.size } else { 0 },
        holes: inode.holes,
    }
}

/// Puts what is stored of a file into its record, but for the length.
fn set_stored(inode: &mut Inode, stored: &Stored) {
    inode.class = stored.class;
    inode.content = stored.content;
    inode.inline.clone_from(&stored.inline);
    inode.holes = stored.holes;
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_clock;
#[cfg(test)]
mod tests_crash;
#[cfg(test)]
mod tests_golden;
#[cfg(test)]
mod tests_queue;
#[cfg(test)]
mod tests_repair;
#[cfg(test)]
mod tests_times;
#[cfg(test)]
mod tests_versions;
