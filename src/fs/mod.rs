//! Inode operations as plain functions with our own types.
//!
//! Invariant: an operation is one record of changes, applied to the overlay
//! and appended to the journal under one lock; it is answered only after both.
//! Replay applies the same records by the same code.
//!
//! Lock order: `flushing`, then `draining`, then `state`, then `queue`. `state` is never held while file
//! content is read from or written to REPO.

mod apply;
mod attr;
mod blocks;
mod checkpoint;
mod data;
mod dir;
mod journaled;
mod mount;
mod names;
mod operations;
mod pressure;
mod queue;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering as Atomic};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};

pub use checkpoint::Progress;
pub use journaled::RecoverError;
pub use operations::{
    Attr, Caller, DirEntry, FsError, Operations, RenameMode, Result, Seek, SetAttr, SpaceStat,
    TimeSet, has_namespace,
};
use pressure::{Amounts, Least, Relief};
pub use pressure::{When, is_scarce};

use crate::format::clock::{Dot, Seen, Writer};
use crate::format::namespace::{Content, Ino, Inode, Key, Owner, ROOT, Value};
use crate::format::node::MapItem;
use crate::format::record::{Change, encode};
use crate::format::versions::History;
use crate::io::Timestamp;
use crate::volume::content::{Layer, Stored};
use crate::volume::{Origins, StoreError, Tree, Volume};

/// The local log of what is acknowledged and not in a head yet.
pub trait Log: Send + Sync {
    /// Takes a record, in pieces; returns its sequence number. Fails, before anything is
    /// acknowledged, if there is no room. Records that make room may use the
    /// `reserve` that others leave.
    fn append(&self, record: &[&[u8]], reserve: bool) -> std::io::Result<u64>;
    /// Sets room aside for a record of at most `len` bytes that
    /// [`Log::append_promised`] will bring; returns how much.
    fn promise(&self, len: usize, reserve: bool) -> std::io::Result<u64>;
    /// Takes back so much of what was promised.
    fn take_back(&self, promised: u64);
    /// Takes a record for which `promised` bytes were set aside.
    fn append_promised(&self, record: &[&[u8]], promised: u64) -> std::io::Result<u64>;
    /// Hands what was taken to the operating system.
    fn write_out(&self) -> std::io::Result<()>;
    /// Returns once records up to `sequence` are durable.
    fn sync(&self, sequence: u64) -> std::io::Result<()>;
    /// Later records go to a new file; returns the last sequence before.
    fn rotate(&self) -> std::io::Result<u64>;
    /// The sequence number of the last record taken, also once the log failed.
    fn last(&self) -> u64;
    /// Records up to `sequence` are in a head.
    fn release(&self, sequence: u64) -> std::io::Result<()>;
    /// Bytes that records not released yet take.
    fn bytes(&self) -> u64;
}

/// No log: what is not in a checkpoint yet is lost with the process. For
/// commands that end with a checkpoint.
pub struct NoLog;

impl Log for NoLog {
    fn append(&self, _: &[&[u8]], _: bool) -> std::io::Result<u64> {
        Ok(0)
    }
    fn promise(&self, _: usize, _: bool) -> std::io::Result<u64> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
    fn take_back(&self, _: u64) {}
    fn append_promised(&self, _: &[&[u8]], _: u64) -> std::io::Result<u64> {
        Ok(0)
    }
    fn write_out(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn sync(&self, _: u64) -> std::io::Result<()> {
        Ok(())
    }
    fn rotate(&self) -> std::io::Result<u64> {
        Ok(0)
    }
    fn last(&self) -> u64 {
        0
    }
    fn release(&self, _: u64) -> std::io::Result<()> {
        Ok(())
    }
    fn bytes(&self) -> u64 {
        0
    }
}

/// Whom the files belong to in the eyes of this mount.
#[derive(Clone, Copy, Debug)]
pub struct Ownership {
    /// Who mounts: *self* is shown as this user.
    pub uid: u32,
    /// Who mounts: *self* is shown as this group.
    pub gid: u32,
    /// Whether this user's own numbers are recorded as *self* (a daemon that
    /// is not root).
    pub record_self: bool,
    /// Show everything as this user.
    pub force_uid: Option<u32>,
    /// Show everything as this group.
    pub force_gid: Option<u32>,
}

/// How a file system behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Refuses changes.
    pub read_only: bool,
    /// Owners.
    pub ownership: Ownership,
}

/// A file whose content is open or changed.
#[derive(Default)]
struct File {
    /// Content below all layers.
    stored: Stored,
    /// Changes that a checkpoint is flushing.
    frozen: Option<Arc<Layer>>,
    /// Changes since.
    layer: Layer,
    /// Length with all layers.
    size: u64,
    /// Opens.
    opens: u32,
    /// The kernel's mtime and ctime, as it told them last in this open.
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

/// A value of the namespace with the change that made it, or that there is none.
type Edit = Option<(Dot, Value)>;

/// Changes of the namespace above the tree.
#[derive(Clone, Default)]
struct Overlay {
    /// By encoded key.
    edits: BTreeMap<Vec<u8>, Edit>,
    /// Of each inode the newest changes that made versions.
    origins: HashMap<Ino, Origins>,
    /// The changes that made them.
    seen: Seen,
}

impl Overlay {
    fn set(&mut self, key: Vec<u8>, dot: Dot, value: Value) {
        self.edits.insert(key, Some((dot, value)));
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.edits.insert(key, None);
    }

    /// The inode record under the key, if it is set here, with its dot.
    fn inode_mut(&mut self, key: &[u8]) -> Option<(&mut Dot, &mut Inode)> {
        match self.edits.get_mut(key) {
            Some(Some((dot, Value::Inode(inode)))) => Some((dot, inode)),
            _ => None,
        }
    }

    /// Lays `newer` above it.
    fn absorb(&mut self, newer: Self) {
        self.edits.extend(newer.edits);
        for (ino, origins) in newer.origins {
            self.origins.entry(ino).or_default().absorb(origins);
        }
        self.seen.join(&newer.seen);
    }
}

/// Everything in memory.
#[derive(Default)]
struct State {
    /// Changes that a checkpoint is publishing.
    frozen: Option<Arc<Overlay>>,
    /// Changes since.
    current: Overlay,
    files: HashMap<Ino, File>,
    /// Files that were written and closed, in that order.
    closed: VecDeque<Ino>,
    /// Lookups that the kernel remembers.
    lookups: HashMap<Ino, u64>,
    /// Inodes without a name that are still open or known to the kernel.
    orphans: HashMap<Ino, Inode>,
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
    /// while layers are cut, and once a cut or a checkpoint failed.
    apart: Option<u64>,
    next_ino: Ino,
    /// Changes that this mount made.
    made: u64,
    /// Time of the first and the last change since the last freeze.
    changed: Option<(std::time::Duration, std::time::Duration)>,
    /// A checkpoint failed; before this time none is made unasked.
    retry_at: std::time::Duration,
    /// Whose pages could not be counted without reading from REPO.
    uncounted: Vec<Ino>,
}

impl State {
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
    state: Mutex<State>,
    /// Held while layers are flushed and while a checkpoint runs.
    flushing: Mutex<()>,
    /// Checkpoints that wait for it: whoever cuts lets them go first.
    awaited: AtomicUsize,
    /// Held while the queue goes to the log.
    draining: Mutex<()>,
    /// What is not in the log yet.
    queue: Mutex<queue::Queue>,
    /// The queue has room, or nobody makes any.
    queue_room: Condvar,
    /// Read-only with EIO until reopened.
    failed: AtomicBool,
    /// What is in memory is not what was acknowledged: it must not be published.
    broken: AtomicBool,
    /// Why the last checkpoint failed, or local state.
    trouble: Mutex<Option<String>>,
    /// The system's error behind the last [`FsError::Io`].
    cause: Mutex<Option<String>>,
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
            state: Mutex::new(state),
            flushing: Mutex::default(),
            awaited: AtomicUsize::new(0),
            draining: Mutex::default(),
            queue: Mutex::default(),
            queue_room: Condvar::new(),
            failed: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            trouble: Mutex::default(),
            cause: Mutex::default(),
        };
        // Who only reads needs no number, and may lack the nodes that would show it free.
        if !options.read_only {
            fs.lock().next_ino = fs.volume.draw_writer()?.first_ino();
        }
        if fresh {
            let now = fs.now();
            let owner = fs.owner(options.ownership.uid, options.ownership.gid);
            let inode = Inode::new(0o040_755, owner.0, owner.1, now);
            let mut state = fs.lock();
            // Not journaled: replay starts from the same empty repository.
            let set = Change::Set(Key::Inode(ROOT), Value::Inode(Box::new(inode)));
            let dot = fs.take_dot(&mut state);
            fs.apply(&mut state, dot, &set)
                .map_err(|_| StoreError::Missing { what: "the empty root".into() })?;
        }
        Ok(fs)
    }

    /// The volume below.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Applies a record that the log replayed.
    pub fn replay(&self, sequence: u64, record: &[u8]) -> std::result::Result<(), RecoverError> {
        let failed = |error: &dyn std::fmt::Display| RecoverError::Replay(error.to_string());
        let decoded = crate::format::record::decode(record);
        let (dot, changes) = decoded.map_err(|error| failed(&error))?;
        let mut written = None;
        for change in changes {
            let change = self.fetched(change)?;
            if let Change::Write { ino, .. } = &change {
                written = Some(*ino);
            }
            self.apply(&mut self.lock(), dot, &change).map_err(|error| failed(&error))?;
        }
        {
            self.note_logged(sequence);
            let mut state = self.lock();
            state.current.seen.add(dot);
            let now = self.volume.world().clock.elapsed();
            state.changed.get_or_insert((now, now));
        }
        // Memory stays bounded, as when it was written.
        if let Some(ino) = written {
            let _flushing = self.flushing();
            if let Err(error) = self.flush_file(ino, Least::Full, true) {
                log::warn!("replayed changes could not be chunked yet: {error}");
            }
        }
        Ok(())
    }

    /// A change with its bytes, if chunks in REPO have them.
    fn fetched<'a>(&self, change: Change<'a>) -> std::result::Result<Change<'a>, StoreError> {
        let Change::Stored { ino, offset, pieces, time } = change else { return Ok(change) };
        let mut bytes = Vec::new();
        for piece in pieces {
            bytes.extend(self.volume.read_piece(&piece)?);
        }
        Ok(Change::Write { ino, offset, bytes: bytes.into(), time })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flushing(&self) -> MutexGuard<'_, ()> {
        self.flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for a checkpoint: nobody begins to cut meanwhile, or goes on for long.
    fn flushing_next(&self) -> MutexGuard<'_, ()> {
        self.awaited.fetch_add(1, Atomic::Relaxed);
        let guard = self.flushing();
        self.awaited.fetch_sub(1, Atomic::Relaxed);
        guard
    }

    fn is_awaited(&self) -> bool {
        self.awaited.load(Atomic::Relaxed) > 0
    }

    /// The same if nobody has it, or waits for it.
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

    /// The dot of the next change.
    fn next_dot(&self, state: &State) -> Dot {
        Dot { writer: self.volume.writer(), record: state.made + 1 }
    }

    /// A change is made: its dot.
    fn take_dot(&self, state: &mut State) -> Dot {
        let dot = self.next_dot(state);
        state.made = dot.record;
        state.current.seen.add(dot);
        dot
    }

    fn new_ino(&self, state: &mut State) -> Result<Ino> {
        let ino = state.next_ino;
        state.next_ino += 1;
        if state.next_ino.trailing_zeros() >= 23 {
            // The prefix is used up; the chance that a random one is taken is
            // below 2^-19 even with a million prefixes in the tree.
            let mut bytes = [0; 8];
            self.volume.world().random.fill(&mut bytes);
            bytes[0] |= 1;
            state.next_ino = Writer::draw(bytes).map_or(0, Writer::first_ino);
        }
        if ino == 0 { Err(FsError::Io) } else { Ok(ino) }
    }

    fn check_writable(&self) -> Result<()> {
        if self.failed.load(Atomic::Relaxed) {
            Err(FsError::Io)
        } else if self.options.read_only {
            Err(FsError::ReadOnly)
        } else {
            Ok(())
        }
    }

    /// A failed write of local state: said once, then read-only with EIO.
    fn fail(&self, error: &std::io::Error) -> FsError {
        if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) {
            return FsError::NoSpace;
        }
        self.go_read_only(&format!("local state failed ({error})"));
        FsError::Io
    }

    /// The same where even a lack of room is one: something that was
    /// acknowledged is not in the log.
    fn fail_for_good(&self, error: &std::io::Error) -> FsError {
        self.go_read_only(&format!("local state failed ({error})"));
        FsError::Io
    }

    /// Read-only with EIO from here on, and what is in memory is not published.
    fn stop(&self, why: &str) {
        self.broken.store(true, Atomic::Relaxed);
        self.go_read_only(why);
    }

    /// Read-only with EIO from here on; said once.
    fn go_read_only(&self, why: &str) {
        if !self.failed.swap(true, Atomic::Relaxed) {
            log::error!("{why}; the mount is read-only until it is mounted anew");
            self.note_cause(why.to_string());
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_string());
        }
    }

    /// A panic while something was set aside leaves it there: setting aside
    /// more would drop it.
    fn check_not_set_aside(&self, already: bool) -> Result<()> {
        if already {
            self.stop("a checkpoint before this one did not end");
            return Err(FsError::Io);
        }
        Ok(())
    }

    /// The exit from the store's errors to ours; the log has the details.
    fn store_failed(&self, error: &StoreError) -> FsError {
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
                        self.note_cause(other.to_string());
                        FsError::Io
                    }
                }
            }
        }
    }

    fn note_cause(&self, cause: String) {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
    }

    /// What the system answered when [`FsError::Io`] was answered last, for commands:
    /// they have no log. It is told once.
    pub fn take_cause(&self) -> Option<String> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Logs and applies one operation.
    fn perform(&self, state: &mut State, changes: &[Change<'_>]) -> Result<()> {
        self.perform_in(state, changes, false)
    }

    /// The same; an operation that makes room may use the log's `reserve`.
    fn perform_in(&self, state: &mut State, changes: &[Change<'_>], reserve: bool) -> Result<()> {
        // What happens to an inode without a name is forgotten by a crash:
        // replaying it would bring the inode back.
        let stays = |change: &&Change<'_>| {
            !change.ino().is_some_and(|ino| state.orphans.contains_key(&ino))
        };
        let logged = if changes.iter().all(|change| stays(&change)) {
            Cow::Borrowed(changes)
        } else {
            changes.iter().filter(stays).cloned().collect()
        };
        let is_logged = !logged.is_empty();
        let mut dot = self.next_dot(state);
        if is_logged {
            let (record, data) = encode(dot, &logged);
            self.log_after_queue((&record, data), reserve)?;
            dot = self.take_dot(state);
        }
        for change in changes {
            // It is in the log, and what is not in memory cannot be taken back.
            self.apply(state, dot, change).inspect_err(|error| {
                self.stop(&format!("a logged change could not be made in memory: {error}"));
            })?;
        }
        if is_logged {
            self.note_change(state);
        }
        Ok(())
    }

    fn note_change(&self, state: &mut State) {
        let now = self.volume.world().clock.elapsed();
        state.changed = Some((state.changed.map_or(now, |(first, _)| first), now));
    }

    /// A value of the namespace with all changes.
    fn get(&self, state: &State, key: &Key) -> Result<Option<Value>> {
        let bytes = key.encode();
        let frozen = || state.frozen.as_ref().and_then(|frozen| frozen.edits.get(&bytes));
        if let Some(edit) = state.current.edits.get(&bytes).or_else(frozen) {
            return Ok(edit.as_ref().map(|(_, value)| value.clone()));
        }
        let stored = self.volume.tree().get_encoded(key, &bytes);
        stored.map(|value| value.filter(is_there)).map_err(|error| self.store_failed(&error))
    }

    fn inode(&self, state: &State, ino: Ino) -> Result<Inode> {
        if let Some(inode) = state.orphans.get(&ino) {
            return Ok(inode.clone());
        }
        match self.get(state, &Key::Inode(ino))? {
            Some(Value::Inode(mut inode)) => {
                // The checkpoint makes it, from what is stored and what changed.
                *inode.history = History::default();
                Ok(*inode)
            }
            _ => Err(FsError::Stale),
        }
    }

    fn dir(&self, state: &State, ino: Ino) -> Result<Inode> {
        let inode = self.inode(state, ino)?;
        if inode.is_dir() { Ok(inode) } else { Err(FsError::NotDir) }
    }

    /// Visits the items whose encoded key starts with `prefix`, from `from` on,
    /// in order, until `visit` breaks.
    fn scan(
        &self,
        state: &State,
        from: &[u8],
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], Item<'_>) -> Step,
    ) -> Result<()> {
        let none = Overlay::default();
        let frozen = state.frozen.as_deref().unwrap_or(&none);
        let mut upper = Upper {
            current: overlay_range(&state.current, from, prefix).peekable(),
            frozen: overlay_range(frozen, from, prefix).peekable(),
        };
        let mut ended = ControlFlow::Continue(());
        let stored = self.volume.tree().scan_items(from, &mut |item| {
            if !item.key.starts_with(prefix) {
                return ControlFlow::Break(());
            }
            let mut hidden = false;
            while ended.is_continue()
                && let Some((key, above)) = upper.next_up_to(&item.key)
            {
                hidden = **key == *item.key;
                if let Some((_, value)) = above {
                    ended = visit(key, Item::Above(value));
                }
            }
            if !hidden && ended.is_continue() {
                ended = visit(&item.key, Item::Stored(item));
            }
            if ended.is_break() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        while stored.is_ok()
            && ended.is_continue()
            && let Some((key, above)) = upper.next()
        {
            if let Some((_, value)) = above {
                ended = visit(key, Item::Above(value));
            }
        }
        stored.and(ended.break_value().unwrap_or(Ok(()))).map_err(|error| self.store_failed(&error))
    }

    /// What `scan` visits, at most `limit` items.
    fn range(
        &self,
        state: &State,
        from: &[u8],
        prefix: &[u8],
        limit: usize,
    ) -> Result<Vec<(Key, Value)>> {
        let mut found = Vec::new();
        self.scan(state, from, prefix, &mut |bytes, seen| {
            let key = Tree::decode_key(bytes);
            match key.and_then(|key| seen.value(&key).map(|value| (key, value))) {
                Ok((_, value)) if !is_there(&value) => {}
                Ok(item) => found.push(item),
                Err(error) => return ControlFlow::Break(Err(error)),
            }
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(Ok(())) }
        })?;
        Ok(found)
    }

    /// How many items `scan` visits, counted up to `limit`.
    fn count(&self, state: &State, prefix: &[u8], limit: usize) -> Result<usize> {
        let mut count = 0;
        self.scan(state, prefix, prefix, &mut |_, _| {
            count += 1;
            if count < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(Ok(())) }
        })?;
        Ok(count)
    }

    /// The user and group as stored.
    fn owner(&self, uid: u32, gid: u32) -> (Owner, Owner) {
        let ownership = &self.options.ownership;
        let uid = if ownership.record_self && uid == ownership.uid {
            Owner::SelfOwned
        } else {
            Owner::Id(uid)
        };
        let gid = if ownership.record_self && gid == ownership.gid {
            Owner::SelfOwned
        } else {
            Owner::Id(gid)
        };
        (uid, gid)
    }

    fn shown(&self, inode: &Inode) -> (u32, u32) {
        let ownership = &self.options.ownership;
        let uid = match inode.uid {
            Owner::SelfOwned => ownership.uid,
            Owner::Id(id) => id,
        };
        let gid = match inode.gid {
            Owner::SelfOwned => ownership.gid,
            Owner::Id(id) => id,
        };
        (ownership.force_uid.unwrap_or(uid), ownership.force_gid.unwrap_or(gid))
    }
}

/// Whether a way through overlays and tree goes on, and if not, whether it failed.
type Step = ControlFlow<std::result::Result<(), StoreError>>;

/// An item on a way through overlays and tree.
enum Item<'a> {
    Above(&'a Value),
    Stored(&'a MapItem),
}

impl Item<'_> {
    /// Its value; `key` is its own.
    fn value(&self, key: &Key) -> std::result::Result<Value, StoreError> {
        match self {
            Self::Above(value) => Ok((*value).clone()),
            Self::Stored(item) => Tree::value_of(key, item),
        }
    }
}

/// The two overlays as one ordered list; the current one hides the frozen.
struct Upper<'a, I: Iterator<Item = (&'a Vec<u8>, &'a Edit)>> {
    current: Peekable<I>,
    frozen: Peekable<I>,
}

impl<'a, I: Iterator<Item = (&'a Vec<u8>, &'a Edit)>> Upper<'a, I> {
    fn next_up_to(&mut self, limit: &[u8]) -> Option<I::Item> {
        let first = [self.current.peek(), self.frozen.peek()].into_iter().flatten();
        let first = first.map(|(key, _)| *key).min()?;
        if first.as_slice() <= limit { self.next() } else { None }
    }

    fn next(&mut self) -> Option<I::Item> {
        let (current, frozen) = (self.current.peek(), self.frozen.peek());
        let order = match (current, frozen) {
            (Some((current, _)), Some((frozen, _))) => current.cmp(frozen),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        if order.is_eq() {
            self.frozen.next();
        }
        if order.is_gt() { self.frozen.next() } else { self.current.next() }
    }
}

fn overlay_range<'a>(
    overlay: &'a Overlay,
    from: &[u8],
    prefix: &'a [u8],
) -> impl Iterator<Item = (&'a Vec<u8>, &'a Edit)> {
    overlay
        .edits
        .range::<[u8], _>((Bound::Included(from), Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(prefix))
}

/// Whether a stored value is one that users see: a removed attribute is none.
fn is_there(value: &Value) -> bool {
    !matches!(value, Value::Xattr(xattr) if xattr.is_removed())
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
mod tests_queue;
#[cfg(test)]
mod tests_repair;
#[cfg(test)]
mod tests_versions;
