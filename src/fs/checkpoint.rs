//! Freezing what was acknowledged and publishing it, while operations go on.

use std::sync::Arc;
use std::time::Duration;

use super::overlay::Overlay;
use super::pressure::{Amounts, Least, Relief, STAGED_AT_FREEZE, When};
use super::{Fs, FsError, Result, State, set_stored};
use crate::format::namespace::{Content, Ino, Inode, Key, Value};
use crate::format::record::{Change, encode};
use crate::volume::content::{Extent, Layer, Stored};
use crate::volume::{Published, StoreError};

/// How often a checkpoint is tried at once: content that rests on what has vanished
/// is cut again, and what a failing log has not is published without it.
const TRIES: u32 = 3;
/// Pause after a checkpoint that failed.
const RETRY: Duration = Duration::from_secs(10);

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
    /// Read-only until mounted anew, mostly because local state failed.
    pub failed: bool,
}

/// Bytes of data in one record that writes a change again.
const RELOG_BYTES: usize = 1 << 20;

/// What [`Fs::publish`] made.
pub(super) struct Made {
    published: Published,
    /// Of each frozen file; none if its changes could not be stored.
    pub(super) contents: Vec<Option<Stored>>,
    /// Why some could not.
    withheld: Option<StoreError>,
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
                + state.apart.unwrap_or_else(|| self.volume.new_bytes()),
            waiting_changes: state.overlays.all_changes(),
            inodes: state.inodes,
            bytes: state.bytes,
            trouble: self.failing.trouble(),
            failed: self.failing.has_failed(),
        }
    }

    /// Whether a checkpoint that nobody asked for may be tried: the last one did not fail just
    /// before, and the log goes on.
    pub fn may_checkpoint(&self) -> bool {
        let now = self.volume.world().clock.elapsed();
        now >= self.lock().retry_at && !self.failing.has_failed()
    }

    /// Whether a checkpoint is due.
    pub fn is_due(&self, when: &When) -> bool {
        if !self.may_checkpoint() {
            return false;
        }
        let now = self.volume.world().clock.elapsed();
        let state = self.lock();
        let (Some((first, last)), pace) = (state.changed, state.pace) else { return false };
        let amounts = Amounts {
            new: self.volume.new_bytes(),
            edits: state.overlays.changes(),
            logged: self.log.bytes(),
            bypassed: self.bypassed(),
            ..Amounts::default()
        };
        let since = (now.saturating_sub(first), now.saturating_sub(last));
        amounts.with_time(when, pace, since) == Relief::Checkpoint
    }

    /// Whether a write has to wait until chunks or a head are in REPO.
    pub(super) fn is_congested(&self) -> bool {
        let dirty = self.lock().dirty;
        self.hold.is_held() || Amounts { dirty, ..self.log_amounts() }.is_congested()
    }

    fn log_amounts(&self) -> Amounts {
        Amounts { queued: self.queued(), logged: self.log.bytes(), ..Amounts::default() }
    }

    /// What goes before each change. It waits for following if that asks for a moment without
    /// changes. It makes a checkpoint if the log has grown long: it
    /// must not fill up with records that a head could hold. If that fails, the
    /// log says when there is no room any more. Only who may `wait` does so for
    /// a checkpoint that is under way.
    pub(super) fn make_room(&self, wait: bool) {
        self.hold.wait();
        if self.log_amounts().before_change() == Relief::Go {
            return;
        }
        let flushing = if wait { Some(self.flushing()) } else { self.try_flushing() };
        let Some(_flushing) = flushing else { return };
        let early = self.volume.world().clock.elapsed() < self.lock().retry_at;
        // Another writer may have made one meanwhile.
        if !early && self.log_amounts().before_change() == Relief::Checkpoint {
            let _ = self.checkpoint_locked(false);
        }
    }

    /// Hands to the operating system what was acknowledged at least `age` ago.
    pub fn write_log(&self, age: Duration) -> Result<()> {
        let drained = self.drain_old(age);
        // What the log has already goes out whatever comes of the queue.
        self.log.write_out().map_err(|error| self.fail(&error))?;
        drained
    }

    /// Brings everything acknowledged to the disk.
    pub fn flush_log(&self) -> Result<()> {
        self.write_log(Duration::ZERO)?;
        self.log.sync(self.logged()).map_err(|error| self.fail(&error))
    }

    /// Publishes everything acknowledged so far. Returns `None` if there was
    /// nothing to publish. What fails is kept and tried again next time. A file
    /// whose changes cannot be stored, because what is below them cannot be
    /// read, keeps nothing else back; its error is returned at the end.
    pub fn checkpoint(&self) -> Result<Option<Published>> {
        self.checkpoint_and_answer(false)
    }

    /// Publishes everything acknowledged so far; a head even if nothing changed, if it `answers`
    /// other devices. Fails as [`Fs::checkpoint`] does.
    pub fn checkpoint_and_answer(&self, answers: bool) -> Result<Option<Published>> {
        let _flushing = self.flushing_next();
        match self.checkpoint_locked(answers)? {
            Some((_, Some(withheld))) => Err(self.store_failed(&withheld)),
            Some((published, None)) => Ok(Some(published)),
            None => Ok(None),
        }
    }

    /// Before a freeze, which needs the whole queue in the log: what a long queue holds
    /// enters REPO in objects, as it would in a moment. What fails stays in the queue.
    pub(super) fn chunk_before_freeze(&self) {
        let queue = Amounts { queued: self.queued(), ..Amounts::default() };
        if queue.before_freeze() == Relief::Go {
            return;
        }
        let long: Vec<Ino> = {
            let state = self.lock();
            let files = state.files.iter().filter(|(_, file)| file.is_long());
            files.map(|(ino, _)| *ino).collect()
        };
        let cut = long.into_iter().try_for_each(|ino| self.flush_file(ino, Least::Large, true));
        let stored = self.volume.publish_objects(STAGED_AT_FREEZE);
        self.note_chunked(Vec::new());
        if let Err(error) = cut.and(stored.map_err(|error| self.store_failed(&error))) {
            log::warn!("changes could not be chunked yet: {error}");
        }
    }

    /// Publishes a head even if no file changed: its register did.
    pub fn publish_register(&self) -> Result<()> {
        let _flushing = self.flushing_next();
        self.checkpoint_locked(true).map(drop)
    }

    /// With `flushing` held. Also returns why some files are not in it.
    pub(super) fn checkpoint_locked(
        &self,
        always: bool,
    ) -> Result<Option<(Published, Option<StoreError>)>> {
        let _cutting = self.begin_chunking();
        let mut tries = TRIES;
        loop {
            // Without a log, what is in memory is still published: it holds all that
            // was acknowledged, and nothing more is taken.
            let logged = !self.failing.has_failed();
            let outcome = self.checkpoint_once(always, logged);
            tries -= 1;
            let log_failed = logged && self.failing.has_failed();
            match outcome {
                Err((Some(StoreError::Vanished { .. }), _)) if tries > 0 => {}
                Err(_) if log_failed && tries > 0 => {}
                outcome => return outcome.map_err(|(_, error)| error),
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "what was made, and why not, used once")]
    fn checkpoint_once(
        &self,
        always: bool,
        logged: bool,
    ) -> std::result::Result<Option<(Published, Option<StoreError>)>, (Option<StoreError>, FsError)>
    {
        if self.failing.is_broken() {
            return Err((None, FsError::Io));
        }
        let without = |error| (None, error);
        if logged {
            self.chunk_before_freeze();
        } else {
            let folder = self.volume.world().state.as_ref();
            if folder.is_some_and(|folder| folder.is_gone()) {
                self.volume.go_on_without_state();
            }
        }
        self.volume.begin_checkpoint();
        let frozen = self.freeze(always, logged).map_err(without)?;
        let Some((overlay, files, counts, sequence)) = frozen else { return Ok(None) };
        self.volume.begin_chunking();
        let made = self.publish(&overlay, &files, counts, sequence);
        let trouble = match &made {
            Ok(made) => made.withheld.as_ref(),
            Err(error) => Some(error),
        };
        let trouble = trouble.map(ToString::to_string);
        self.failing.set_trouble(trouble);
        match made {
            Ok(Made { published, contents, withheld }) => {
                self.discard_frozen(files, contents).map_err(without)?;
                self.lock().pace.note_checkpoint();
                if logged {
                    self.log.release(sequence).map_err(|error| without(self.fail(&error)))?;
                }
                if withheld.is_some() {
                    self.lock().retry_at = self.volume.world().clock.elapsed() + RETRY;
                }
                Ok(Some((published, withheld)))
            }
            Err(error) => {
                self.restore_frozen(files);
                self.lock().retry_at = self.volume.world().clock.elapsed() + RETRY;
                let failure = self.store_failed(&error);
                Err((Some(error), failure))
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "four things frozen together, used once")]
    pub(super) fn freeze(
        &self,
        always: bool,
        logged: bool,
    ) -> Result<Option<(Arc<Overlay>, Vec<Frozen>, (u64, u64), u64)>> {
        let (_draining, mut state) = if logged { self.drained()? } else { self.lock_undrained() };
        if state.overlays.changes() == 0 && !always && !self.volume.owes_head() {
            // At most files without a name changed.
            state.changed = None;
            return Ok(None);
        }
        let mut files = state.files.values();
        let already = state.overlays.is_frozen() || files.any(|file| file.frozen.is_some());
        self.check_not_set_aside(already)?;
        let sequence = if logged {
            self.log.rotate().map_err(|error| self.fail(&error))?
        } else {
            self.log.last()
        };
        if self.volume.has_repairs() {
            // The change under which the next head stores those that it touches.
            self.take_dot(&mut state);
        }
        let overlay = state.overlays.freeze();
        state.changed = None;
        self.reset_bypassed();
        let state = &mut *state;
        state.closed.clear();
        state.apart.get_or_insert_with(|| self.volume.new_bytes());
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
        (inodes, mut bytes): (u64, u64),
        sequence: u64,
    ) -> std::result::Result<Made, StoreError> {
        let mut contents = Vec::with_capacity(files.len());
        let mut withheld = None;
        let mut overlay = overlay.clone();
        for file in files {
            let flushed = self.volume.flush(&file.stored, &file.layer, file.size, false);
            let flushed = match flushed {
                Ok(flushed) => Some(flushed.stored),
                Err(error @ (StoreError::Full | StoreError::State { .. })) => return Err(error),
                // If it was writing that failed, so will the commit.
                Err(error) => {
                    log::error!("inode {}: its changes cannot be stored: {error}", file.ino);
                    withheld.get_or_insert(error);
                    None
                }
            };
            if flushed.is_none() {
                overlay.withhold_content(file.ino);
            }
            let stored = flushed.as_ref().unwrap_or(&file.stored);
            if let Some((_, inode)) = overlay.inode_mut(&Key::Inode(file.ino).encode()) {
                set_stored(inode, stored);
                inode.size = stored.size;
                bytes = bytes.wrapping_add(stored.size).wrapping_sub(file.size);
            }
            contents.push(flushed);
        }
        // It reads, and may fail: before anything is logged again.
        let changes = self.volume.stamp(overlay.into_changes())?;
        let without = files.iter().zip(&contents).filter(|(_, stored)| stored.is_none());
        self.log_again(&without.map(|(file, _)| file.ino).collect::<Vec<_>>())?;
        let counts = (inodes, bytes);
        let open = self.open_contents();
        let published = self.volume.checkpoint(changes, counts, sequence, &open)?;
        if let Some(path) = published.gone.first() {
            withheld.get_or_insert(StoreError::Vanished { path: path.clone() });
        }
        Ok(Made { published, contents, withheld })
    }

    /// The stored contents of all files that are open or have changes, with and without a name.
    pub(super) fn open_contents(&self) -> Vec<Content> {
        let state = self.lock();
        let unnamed = state.orphans.values().map(|inode| inode.content);
        state.files.values().map(|file| file.stored.content).chain(unnamed).collect()
    }

    /// Logs once more, durably, what the commit will not have of these files,
    /// although it counts as containing all that was logged before. Replayed
    /// above the older head, each of these changes changes nothing.
    fn log_again(&self, files: &[Ino]) -> std::result::Result<(), StoreError> {
        let failed = |source| StoreError::State { what: "the journal", source };
        if files.is_empty() {
            return Ok(());
        }
        let stopped = |_| failed(std::io::Error::other("it has stopped"));
        let (_draining, mut state) = self.drained().map_err(stopped)?;
        for &ino in files {
            let Some(file) = state.files.get(&ino) else { continue };
            let Ok(inode) = self.inode(&state, ino) else { continue };
            if state.orphans.contains_key(&ino) {
                continue;
            }
            let mut layer = file.frozen.as_deref().cloned().unwrap_or_default();
            layer.absorb(file.layer.clone());
            for record in rewrite(&layer, file.size, ino, inode) {
                let dot = self.take_dot(&mut state);
                let (record, data) = encode(dot, &record);
                let sequence = self.log.append(&[&record, data], true).map_err(failed)?;
                self.note_logged(sequence);
            }
        }
        drop(state);
        self.log.sync(self.logged()).map_err(failed)
    }

    /// The commit holds everything frozen, but for the files without a content:
    /// drops it from memory.
    pub(super) fn discard_frozen(
        &self,
        files: Vec<Frozen>,
        contents: Vec<Option<Stored>>,
    ) -> Result<()> {
        let mut state = self.lock();
        for (frozen, _) in files.iter().zip(&contents).filter(|(_, stored)| stored.is_none()) {
            // Its record in the commit is behind: the one in memory stays, under a dot that
            // the commit does not cover.
            let dot = self.take_dot(&mut state);
            state.overlays.content_changed(frozen.ino, dot);
            let changed = self.change_inode(&mut state, frozen.ino, dot, |_| ());
            changed.or_else(|error| if error == FsError::Stale { Ok(()) } else { Err(error) })?;
        }
        state.overlays.discard_frozen();
        state.apart = None;
        for (frozen, stored) in files.into_iter().zip(contents) {
            let ino = frozen.ino;
            let Some(stored) = stored else {
                put_back(&mut state, frozen);
                continue;
            };
            let Some(file) = state.files.get_mut(&ino) else { continue };
            file.frozen = None;
            file.pages.forget();
            file.stored = stored.clone();
            if let Some((_, inode)) = state.overlays.inode_mut(&Key::Inode(ino).encode()) {
                set_stored(inode, &stored);
            }
            super::dir::drop_unused(&mut state, ino);
        }
        // Many files at once leave a large table behind.
        if state.files.capacity() / 4 > state.files.len() {
            let twice = 2 * state.files.len();
            state.files.shrink_to(twice);
        }
        Ok(())
    }

    /// Notes in a file's record what is stored of it; its content is as it was.
    pub(super) fn note_stored(&self, state: &mut State, ino: Ino, stored: &Stored) -> Result<()> {
        if let Some((_, inode)) = state.overlays.inode_mut(&Key::Inode(ino).encode()) {
            set_stored(inode, stored);
            return Ok(());
        }
        let dot = self.next_dot(state);
        self.change_inode(state, ino, dot, |inode| set_stored(inode, stored))?;
        if !state.orphans.contains_key(&ino) {
            self.take_dot(state);
        }
        Ok(())
    }

    /// Nothing was published: what was frozen goes back below what came since.
    fn restore_frozen(&self, files: Vec<Frozen>) {
        let mut state = self.lock();
        state.overlays.restore_frozen();
        let now = self.volume.world().clock.elapsed();
        state.changed.get_or_insert((now, now));
        for frozen in files {
            put_back(&mut state, frozen);
        }
    }
}

/// A file's changes as records, each of bounded length.
fn rewrite(layer: &Layer, size: u64, ino: Ino, inode: Inode) -> Vec<Vec<Change<'_>>> {
    let time = inode.mtime;
    let mut changes = vec![Change::Resize { ino, size, time }];
    // Where neither the layer nor what is below it shows there are zeros.
    let mut reached = layer.shows_below.min(size);
    for (start, extent) in &layer.extents {
        if *start > reached {
            changes.push(Change::Zero { ino, from: reached, to: *start, time });
        }
        let end = start + extent.len();
        reached = reached.max(end);
        match extent {
            Extent::Zero(_) => changes.push(Change::Zero { ino, from: *start, to: end, time }),
            Extent::Data(bytes) => {
                let pieces = (*start..).step_by(RELOG_BYTES).zip(bytes.chunks(RELOG_BYTES));
                changes.extend(pieces.map(|(offset, bytes)| Change::Write {
                    ino,
                    offset,
                    bytes: bytes.into(),
                    time,
                }));
            }
        }
    }
    if reached < size {
        changes.push(Change::Zero { ino, from: reached, to: size, time });
    }
    changes.push(Change::Set(Key::Inode(ino), Value::Inode(Box::new(inode))));
    let mut records: Vec<Vec<Change<'_>>> = Vec::new();
    let mut room = 0;
    for change in changes {
        let bytes = if let Change::Write { bytes, .. } = &change { bytes.len() } else { 0 };
        // A change takes some bytes besides its data; so counted, their number
        // is bounded too.
        let bytes = bytes + RELOG_BYTES / 1024;
        if bytes > room {
            records.push(Vec::new());
            room = RELOG_BYTES + RELOG_BYTES / 1024;
        }
        room -= bytes;
        records.last_mut().expect("pushed at the first").push(change);
    }
    records
}

fn put_back(state: &mut State, frozen: Frozen) {
    let Some(file) = state.files.get_mut(&frozen.ino) else { return };
    file.frozen = None;
    file.pages.forget();
    let above = std::mem::take(&mut file.layer);
    let before = above.bytes;
    let mut below = Arc::try_unwrap(frozen.layer).unwrap_or_else(|shared| (*shared).clone());
    below.absorb(above);
    let after = below.bytes;
    file.layer = below;
    state.dirty = state.dirty - before + after;
}
