//! Freezing what was acknowledged and publishing it, while operations go on.

use std::sync::Arc;
use std::sync::atomic::Ordering as Atomic;
use std::time::Duration;

use super::data::DIRTY_MAX;
use super::{Fs, FsError, Overlay, Result, State};
use crate::format::namespace::{Content, Ino, Key, Value};
use crate::store::StoreError;
use crate::volume::Published;
use crate::volume::content::{Layer, Stored, flush};

/// Bytes of the log after which the next operation makes a checkpoint first.
const LOG_MAX: u64 = 256 << 20;
/// Changes of names and attributes in memory at which a checkpoint is due.
const CHANGES_MAX: usize = 200_000;
/// Pause after a checkpoint that failed.
const RETRY: Duration = Duration::from_secs(10);

/// When a checkpoint is due.
#[derive(Clone, Copy, Debug)]
pub struct When {
    /// This long after the last change.
    pub quiet: Duration,
    /// This long after the first change.
    pub latest: Duration,
    /// When this many bytes wait.
    pub bytes: u64,
}

impl Default for When {
    fn default() -> Self {
        Self { quiet: Duration::from_secs(30), latest: Duration::from_secs(600), bytes: 64 << 20 }
    }
}

/// What waits.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Bytes of file data on this disk and not in REPO yet.
    pub waiting_bytes: u64,
    /// Changed names and inodes on this disk and not in REPO yet.
    pub waiting_changes: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Sum of file sizes.
    pub bytes: u64,
    /// Why the last checkpoint failed.
    pub trouble: Option<String>,
    /// Local state failed; read-only.
    pub failed: bool,
}

/// A file whose changes are being flushed.
pub(super) struct Frozen {
    ino: Ino,
    stored: Stored,
    layer: Arc<Layer>,
    size: u64,
}

impl Fs {
    /// What waits for the next checkpoint.
    pub fn progress(&self) -> Progress {
        let state = self.lock();
        Progress {
            waiting_bytes: state.dirty
                + state
                    .files
                    .values()
                    .filter_map(|file| file.frozen.as_ref())
                    .map(|l| l.bytes)
                    .sum::<u64>()
                + self.volume.store.staged_bytes() as u64,
            waiting_changes: state.current.len() as u64
                + state.frozen.as_ref().map_or(0, |frozen| frozen.len() as u64),
            inodes: state.inodes,
            bytes: state.bytes,
            trouble: self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone(),
            failed: self.failed.load(Atomic::Relaxed),
        }
    }

    /// Whether a checkpoint is due.
    pub fn is_due(&self, when: &When) -> bool {
        let now = self.volume.world().clock.elapsed();
        let state = self.lock();
        let Some((first, last)) = state.changed else { return false };
        if now < state.retry_at || self.failed.load(Atomic::Relaxed) {
            return false;
        }
        now.saturating_sub(last) >= when.quiet
            || now.saturating_sub(first) >= when.latest
            || state.dirty + self.volume.store.staged_bytes() as u64 >= when.bytes
            || state.current.len() >= CHANGES_MAX
            || self.log.bytes() >= LOG_MAX / 2
    }

    /// Whether a write has to wait until chunks or a head are in REPO.
    pub(super) fn lacks_room(&self) -> bool {
        self.lock().dirty >= DIRTY_MAX || self.log.bytes() >= LOG_MAX
    }

    /// Makes a checkpoint before an operation if the log has grown long: it
    /// must not fill up with records that a head could hold. If that fails, the
    /// log says when there is no room any more. Only who may `wait` does so for
    /// a checkpoint that is under way.
    pub(super) fn make_room(&self, wait: bool) {
        if self.log.bytes() < LOG_MAX {
            return;
        }
        let flushing = if wait { Some(self.flushing()) } else { self.try_flushing() };
        let Some(_flushing) = flushing else { return };
        let early = self.volume.world().clock.elapsed() < self.lock().retry_at;
        // Another writer may have made one meanwhile.
        if !early && self.log.bytes() >= LOG_MAX {
            let _ = self.checkpoint_locked(false);
        }
    }

    /// Hands buffered log records to the operating system, and with `flush`
    /// to the disk.
    pub fn write_log(&self, flush: bool) -> Result<()> {
        self.log.write_out().map_err(|error| self.fail(&error))?;
        if flush {
            let sequence = self.lock().sequence;
            self.log.sync(sequence).map_err(|error| self.fail(&error))?;
        }
        Ok(())
    }

    /// Publishes everything acknowledged so far. Returns `None` if there was
    /// nothing to publish. What fails is kept and tried again next time.
    pub fn checkpoint(&self) -> Result<Option<Published>> {
        self.checkpoint_if(false)
    }

    /// Publishes a head even if no file changed: its register did.
    pub fn publish_register(&self) -> Result<()> {
        self.checkpoint_if(true).map(drop)
    }

    fn checkpoint_if(&self, always: bool) -> Result<Option<Published>> {
        let _flushing = self.flushing();
        self.checkpoint_locked(always)
    }

    /// With `flushing` held.
    fn checkpoint_locked(&self, always: bool) -> Result<Option<Published>> {
        if self.failed.load(Atomic::Relaxed) {
            return Err(FsError::Io);
        }
        let Some((overlay, files, counts, sequence)) = self.freeze(always)? else {
            return Ok(None);
        };
        let published = self.publish(&overlay, &files, counts, sequence);
        let trouble = published.as_ref().err().map(ToString::to_string);
        *self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = trouble;
        match published {
            Ok((published, contents)) => {
                self.thaw(&files, contents);
                self.log.release(sequence).map_err(|error| self.fail(&error))?;
                Ok(Some(published))
            }
            Err(error) => {
                self.refreeze(files);
                self.lock().retry_at = self.volume.world().clock.elapsed() + RETRY;
                Err(self.store_failed(&error))
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "four things frozen together, used once")]
    pub(super) fn freeze(
        &self,
        always: bool,
    ) -> Result<Option<(Arc<Overlay>, Vec<Frozen>, (u64, u64), u64)>> {
        let mut state = self.lock();
        if state.current.is_empty() && !always {
            // At most files without a name changed.
            state.changed = None;
            return Ok(None);
        }
        let mut files = state.files.values();
        let already = state.frozen.is_some() || files.any(|file| file.frozen.is_some());
        self.check_not_set_aside(already)?;
        let sequence = self.log.rotate().map_err(|error| self.fail(&error))?;
        let overlay = Arc::new(std::mem::take(&mut state.current));
        state.frozen = Some(overlay.clone());
        state.changed = None;
        let state = &mut *state;
        let mut files = Vec::new();
        for (ino, file) in &mut state.files {
            if file.layer.is_clean() && file.stored.size == file.size
                || state.orphans.contains_key(ino)
            {
                continue;
            }
            let layer = Arc::new(std::mem::take(&mut file.layer));
            state.dirty -= layer.bytes;
            file.frozen = Some(layer.clone());
            files.push(Frozen { ino: *ino, stored: file.stored.clone(), layer, size: file.size });
        }
        // Small files of one folder are made one after the other: their
        // numbers ascend, so they are packed beside each other.
        files.sort_unstable_by_key(|file| file.ino);
        Ok(Some((overlay, files, (state.inodes, state.bytes), sequence)))
    }

    pub(super) fn publish(
        &self,
        overlay: &Overlay,
        files: &[Frozen],
        counts: (u64, u64),
        sequence: u64,
    ) -> std::result::Result<(Published, Vec<Stored>), StoreError> {
        let mut contents = Vec::with_capacity(files.len());
        let mut edits = overlay.clone();
        for file in files {
            let flushed = flush(&self.volume.store, &file.stored, &file.layer, file.size, false)
                .inspect_err(|error| {
                    log::error!("inode {}: its changes cannot be stored: {error}", file.ino);
                })?;
            if let Some(Some(Value::Inode(inode))) = edits.get_mut(&Key::Inode(file.ino).encode()) {
                inode.class = flushed.stored.class;
                inode.content = flushed.stored.content;
                inode.inline.clone_from(&flushed.stored.inline);
                inode.size = file.size;
            }
            contents.push(flushed.stored);
        }
        let open: Vec<Content> = {
            let state = self.lock();
            let unnamed = state.orphans.values().map(|inode| inode.content);
            state.files.values().map(|file| file.stored.content).chain(unnamed).collect()
        };
        let edits = edits.into_iter().collect();
        let published = self.volume.checkpoint(edits, counts, sequence, &open)?;
        Ok((published, contents))
    }

    /// The commit holds everything frozen: drops it from memory.
    pub(super) fn thaw(&self, files: &[Frozen], contents: Vec<Stored>) {
        let mut state = self.lock();
        state.frozen = None;
        for (frozen, stored) in files.iter().zip(contents) {
            let Some(file) = state.files.get_mut(&frozen.ino) else { continue };
            file.frozen = None;
            file.stored = stored.clone();
            if let Some(Some(Value::Inode(inode))) =
                state.current.get_mut(&Key::Inode(frozen.ino).encode())
            {
                inode.class = stored.class;
                inode.content = stored.content;
                inode.inline = stored.inline;
            }
            super::dir::drop_unused(&mut state, frozen.ino);
        }
    }

    /// Nothing was published: what was frozen goes back below what came since.
    fn refreeze(&self, files: Vec<Frozen>) {
        let mut state = self.lock();
        if let Some(frozen) = state.frozen.take() {
            let newer = std::mem::take(&mut state.current);
            let mut all = Arc::try_unwrap(frozen).unwrap_or_else(|shared| (*shared).clone());
            all.extend(newer);
            state.current = all;
        }
        let now = self.volume.world().clock.elapsed();
        state.changed.get_or_insert((now, now));
        for frozen in files {
            put_back(&mut state, frozen);
        }
    }
}

fn put_back(state: &mut State, frozen: Frozen) {
    let Some(file) = state.files.get_mut(&frozen.ino) else { return };
    file.frozen = None;
    let above = std::mem::take(&mut file.layer);
    let before = above.bytes;
    let mut below = Arc::try_unwrap(frozen.layer).unwrap_or_else(|shared| (*shared).clone());
    below.absorb(above);
    let after = below.bytes;
    file.layer = below;
    state.dirty = state.dirty - before + after;
}
