//! Content: open, read, write, allocate, seek.

use std::sync::Arc;

use bytes::Bytes;

use super::dir::drop_unused;
use super::ownership::kill_privileges;
use super::pressure::{Amounts, Least, Relief, is_large};
use super::{Fs, FsError, Result, Seek, State};
use crate::format::namespace::{Ino, Key, Value};
use crate::format::record::Change;
use crate::io::Timestamp;
use crate::volume::StoreError;
use crate::volume::content::{Layer, Stored};

/// A consistent view of a file's content.
struct View {
    stored: Stored,
    frozen: Option<Arc<Layer>>,
    layer: Layer,
    size: u64,
}

impl View {
    fn layers(&self) -> Vec<&Layer> {
        let mut layers: Vec<&Layer> = self.frozen.as_deref().into_iter().collect();
        if !self.layer.is_clean() {
            layers.push(&self.layer);
        }
        layers
    }
}

impl Fs {
    fn view(&self, state: &mut State, ino: Ino, from: u64, to: u64) -> Result<View> {
        let file = self.file(state, ino)?;
        Ok(View {
            stored: file.stored.clone(),
            frozen: file.frozen.clone(),
            layer: file.layer.part(from, to),
            size: file.size,
        })
    }

    pub(super) fn do_open(&self, ino: Ino, write: bool, truncate: bool) -> Result<()> {
        if write || truncate {
            self.check_writable()?;
        }
        let now = self.now();
        self.hold_of_opens.wait();
        let mut state = self.lock();
        if state.replaced.get(&ino).is_some_and(|replaced| replaced.is_stale) {
            // Whoever opens it by a path looks that up again, and finds the new one.
            return Err(FsError::Stale);
        }
        let file = self.file(&mut state, ino)?;
        file.opens += 1;
        if truncate && file.size > 0 {
            let result = self.perform(&mut state, &[Change::Resize { ino, size: 0, time: now }]);
            if result.is_err() {
                self.file(&mut state, ino)?.opens -= 1;
            }
            return result;
        }
        Ok(())
    }

    pub(super) fn do_release(&self, ino: Ino) {
        let should_chunk = {
            let mut guard = self.lock();
            let state = &mut *guard;
            let mut waits = false;
            if let Some(file) = state.files.get_mut(&ino) {
                file.opens = file.opens.saturating_sub(1);
                if file.opens == 0 {
                    waits = file.is_long();
                    if waits && !state.closed.contains(&ino) {
                        state.closed.push_back(ino);
                    }
                    if let Some(told) = file.told.take() {
                        self.restore_times(state, ino, told);
                    }
                }
            }
            drop_unused(state, ino);
            if state.holding.contains(&ino) && !state.is_following_held() {
                self.alarm.ring();
            }
            waits && state.is_much_closed()
        };
        if should_chunk {
            self.chunk_closed();
        }
    }

    /// Makes chunks of files that were closed until there is room, unless another thread makes
    /// chunks already. So many files of some megabytes bypass the log, as long ones do. The
    /// caller may be slow here: nobody waits for the answer when the kernel releases a file.
    pub(super) fn chunk_closed(&self) {
        let Some(_flushing) = self.try_flushing() else { return };
        loop {
            let ino = {
                let mut state = self.lock();
                let much = state.is_much_closed() && !self.is_awaited();
                let next = if much { state.closed.pop_front() } else { None };
                let Some(ino) = next else { return };
                ino
            };
            if let Err(error) = self.flush_file(ino, Least::Large, false) {
                log::warn!("changes could not be chunked yet: {error}");
                return;
            }
        }
    }

    /// Keeps the times that the kernel has of a file, before a write changes those that are stored.
    /// It tells none if the file was made, or written before, in the same tick of its clock.
    pub(super) fn note_kernel_times(&self, ino: Ino, is_paged: bool) {
        let mut state = self.lock();
        let Some(file) = state.files.get_mut(&ino) else { return };
        if !is_paged {
            file.told = None;
        } else if file.told.is_none() {
            let times = self.inode(&state, ino).ok().map(|inode| (inode.mtime, inode.ctime));
            if let Some(file) = state.files.get_mut(&ino) {
                file.told = times;
            }
        }
    }

    /// With its writeback cache the kernel decides a file's times, and shows
    /// its own. A write that it sent after it told them has left a later time.
    fn restore_times(&self, state: &mut State, ino: Ino, (mtime, ctime): (Timestamp, Timestamp)) {
        let Ok(mut inode) = self.inode(state, ino) else { return };
        if inode.mtime > mtime && self.check_writable().is_ok() {
            (inode.mtime, inode.ctime) = (mtime, ctime);
            let set = Change::Set(Key::Inode(ino), Value::Inode(Box::new(inode)));
            // Without room the later time stays, which is no harm.
            let _ = self.perform(state, &[set]);
        }
    }

    pub(super) fn do_read(&self, ino: Ino, offset: u64, out: &mut [u8]) -> Result<usize> {
        let to = offset.saturating_add(out.len() as u64);
        let mut again = true;
        loop {
            let view = self.view(&mut self.lock(), ino, offset, to)?;
            let to = to.min(view.size);
            if offset >= to {
                return Ok(0);
            }
            let out = &mut out[..(to - offset) as usize];
            match self.volume.read_content(&view.stored, &view.layers(), offset, to, out) {
                Ok(()) => return Ok(out.len()),
                // What the view names may have been replaced and dropped since
                // without ever having been stored.
                Err(StoreError::Missing { .. }) if again => again = false,
                Err(error) => return Err(self.store_failed(&error)),
            }
        }
    }

    pub(super) fn do_write(
        &self,
        ino: Ino,
        offset: u64,
        bytes: &[u8],
        clear_privileges: bool,
    ) -> Result<()> {
        self.check_writable()?;
        let end = offset.checked_add(bytes.len() as u64).ok_or(FsError::FileTooBig)?;
        if end > i64::MAX as u64 {
            return Err(FsError::FileTooBig);
        }
        let time = self.now();
        // Only a write that found the queue, or memory, full waits for room: it was told
        // so before it came (`is_congested`).
        let queue = Amounts { queued: self.queued(), ..Amounts::default() };
        let (memory, in_all) = {
            let mut state = self.lock();
            let dirty = state.dirty;
            self.keep_pinned(&mut state, ino)?;
            self.file(&mut state, ino)?;
            let mut changes = vec![Change::Write { ino, offset, bytes: bytes.into(), time }];
            if clear_privileges {
                self.clear_privileges(&state, ino, &mut changes)?;
            }
            let plain = changes.len() == 1 && is_large(bytes.len());
            if !(plain && self.write_large(&mut state, ino, offset, bytes, time)?) {
                self.perform(&mut state, &changes)?;
            }
            let layer = state.files.get(&ino).map(|file| &file.layer);
            // Scattered changes become chunks together with the content around them, so it is
            // better to wait for more of them.
            let in_file = layer.filter(|layer| !layer.is_scattered()).map_or(0, |l| l.bytes);
            (Amounts { dirty, in_file, ..Amounts::default() }, state.dirty)
        };
        let relieved = match memory.of_memory() {
            Relief::ChunkAll => self.chunk_all(),
            Relief::Chunk => match self.try_flushing() {
                Some(_flushing) => self.flush_file(ino, Least::Full, true),
                // Somebody else is at it; there is room enough to go on meanwhile.
                None => Ok(()),
            },
            _ => Ok(()),
        };
        if queue.of_queue() == Relief::Wait {
            self.make_queue_room()?;
        }
        let exhausted = Amounts { dirty: in_all, ..Amounts::default() }.is_exhausted();
        match relieved {
            // The write itself is done and logged; chunking it is tried again
            // with the next one, until memory runs out.
            Err(error) if !exhausted && self.check_writable().is_ok() => {
                log::warn!("changes could not be chunked yet: {error}");
                Ok(())
            }
            other => other,
        }
    }

    /// A write whose bytes are logged later, or not at all: `false` if it must be
    /// logged as others are.
    fn write_large(
        &self,
        state: &mut State,
        ino: Ino,
        offset: u64,
        bytes: &[u8],
        time: Timestamp,
    ) -> Result<bool> {
        if state.orphans.contains_key(&ino) {
            return Ok(false);
        }
        let bytes = Bytes::copy_from_slice(bytes);
        if !self.enqueue_write(self.next_dot(state), (ino, offset), &bytes, time) {
            return Ok(false);
        }
        let dot = self.take_dot(state);
        let end = offset + bytes.len() as u64;
        let applied = self.change_content(state, ino, (dot, time), |file| {
            file.layer.share(offset, bytes);
            file.size.max(end)
        });
        applied.inspect_err(|error| {
            self.stop(&format!("a logged change could not be made in memory: {error}"));
        })?;
        self.note_change(state);
        Ok(true)
    }

    /// Makes chunks of the changes of all files, so that these leave memory. New chunks wait
    /// for an object; the others are stored already.
    fn chunk_all(&self) -> Result<()> {
        let dirty: Vec<Ino> = {
            let state = self.lock();
            let files = state.files.iter().filter(|(_, file)| file.layer.bytes > 0);
            let mut dirty: Vec<Ino> = files.map(|(ino, _)| *ino).collect();
            dirty.sort_unstable();
            dirty
        };
        // A file that cannot be chunked, because stored content below its changes cannot be
        // read, does not keep the others in memory.
        let results = dirty.into_iter().map(|ino| {
            let _flushing = self.flushing();
            self.flush_file(ino, Least::Anything, false)
        });
        results.fold(Ok(()), Result::and)
    }

    fn clear_privileges(
        &self,
        state: &State,
        ino: Ino,
        changes: &mut Vec<Change<'_>>,
    ) -> Result<()> {
        let mut inode = self.inode(state, ino)?;
        let before = inode.mode;
        kill_privileges(&mut inode);
        if inode.mode != before {
            let set = Change::Set(Key::Inode(ino), Value::Inode(Box::new(inode)));
            changes.insert(0, set);
        }
        Ok(())
    }

    /// Makes chunks of the changes of a file before a checkpoint does, if they are `least` or
    /// more. So a stream of any length takes bounded memory. If the file is `streaming`, its
    /// last chunk stays in memory, because more may follow. The caller holds `flushing`.
    pub(super) fn flush_file(&self, ino: Ino, least: Least, streaming: bool) -> Result<()> {
        let (stored, frozen, size, apart) = {
            let mut state = self.lock();
            let Some(file) = state.files.get_mut(&ino) else { return Ok(()) };
            if !least.is_met(file.layer.bytes) {
                return Ok(());
            }
            // The first bytes of a file decide how it is chunked, and they may come later: the
            // kernel's requests are handled side by side.
            let is_new = file.stored == Stored::default() || file.layer.shows_below == 0;
            if streaming && is_new && !file.layer.starts_with_data() {
                return Ok(());
            }
            self.check_not_set_aside(file.frozen.is_some())?;
            let frozen = Arc::new(std::mem::take(&mut file.layer));
            file.frozen = Some(frozen.clone());
            let (stored, size) = (file.stored.clone(), file.size);
            state.dirty -= frozen.bytes;
            let apart = state.apart;
            state.apart.get_or_insert_with(|| self.volume.new_bytes());
            (stored, frozen, size, apart)
        };
        let chunking = self.begin_chunking();
        let flushed = self.volume.flush(&stored, &frozen, size, streaming);
        let chunked = match &flushed {
            Ok(flushed) => self.chunks_of_writes(ino, &frozen, flushed),
            Err(_) => Vec::new(),
        };
        self.note_chunked(chunked);
        drop(chunking);
        let mut state = self.lock();
        if let Ok(flushed) = &flushed {
            // After a failure all that left the layer counts as new, which is the most
            // that it can be.
            let moved = frozen.bytes.saturating_sub(flushed.rest.bytes);
            state.apart = apart.map(|bytes| (bytes + moved).min(self.volume.new_bytes()));
        }
        let Some(file) = state.files.get_mut(&ino) else { return Ok(()) };
        file.frozen = None;
        file.pages.forget();
        let above = std::mem::take(&mut file.layer);
        let (mut below, result) = match flushed {
            Ok(flushed) => {
                file.stored = flushed.stored;
                (flushed.rest, Ok(()))
            }
            Err(error) => {
                log::error!("inode {ino}: its changes cannot be stored: {error}");
                let layer = Arc::try_unwrap(frozen).unwrap_or_else(|shared| (*shared).clone());
                (layer, Err(self.store_failed(&error)))
            }
        };
        let before = above.bytes;
        if below.is_clean() {
            below = above;
        } else {
            below.absorb(above);
        }
        let after = below.bytes;
        file.layer = below;
        state.dirty = state.dirty - before + after;
        let file = &state.files[&ino];
        if file.is_clean() {
            // The record must not be behind when the file leaves memory.
            let stored = file.stored.clone();
            self.note_stored(&mut state, ino, &stored)?;
            drop_unused(&mut state, ino);
        }
        result
    }

    pub(super) fn do_fsync(&self) -> Result<()> {
        if self.failing.has_failed() {
            return Err(FsError::Io);
        }
        self.drain()?;
        self.log.sync(self.logged()).map_err(|error| self.fail(&error))
    }

    pub(super) fn do_fallocate(&self, ino: Ino, offset: u64, len: u64, mode: i32) -> Result<()> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        self.check_writable()?;
        let end = offset.checked_add(len).ok_or(FsError::FileTooBig)?;
        if end > i64::MAX as u64 {
            return Err(FsError::FileTooBig);
        }
        if len == 0 {
            return Err(FsError::Invalid);
        }
        if mode & libc::FALLOC_FL_PUNCH_HOLE == 0 && self.lacking(ino, offset, end) > self.free()? {
            return Err(FsError::NoSpace);
        }
        let time = self.now();
        let mut state = self.lock();
        self.keep_pinned(&mut state, ino)?;
        let size = self.file(&mut state, ino)?.size;
        let mut changes = Vec::new();
        let grow = matches!(mode, 0 | ZERO) && end > size;
        match mode {
            // It is not reserved: the checkpoint's chunks do not exist yet.
            0 | KEEP => {}
            PUNCH | ZERO | ZERO_KEEP => {
                changes.push(Change::Zero { ino, from: offset, to: end.min(size), time });
            }
            _ => return Err(FsError::NotSupported),
        }
        if grow {
            changes.push(Change::Resize { ino, size: end, time });
        }
        if changes.is_empty() { Ok(()) } else { self.perform(&mut state, &changes) }
    }

    pub(super) fn do_seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64> {
        let mut state = self.lock();
        let file = &*self.file(&mut state, ino)?;
        if offset >= file.size {
            return Err(FsError::NoSuchData);
        }
        let mut layers: Vec<&Layer> = file.frozen.as_deref().into_iter().collect();
        layers.push(&file.layer);
        let mut at = offset;
        while at < file.size {
            let (data, end) = self
                .volume
                .is_data(&file.stored, &layers, at, file.size)
                .map_err(|error| self.store_failed(&error))?;
            if data == (what == Seek::Data) {
                return Ok(at);
            }
            at = end.max(at + 1);
        }
        if what == Seek::Hole { Ok(file.size) } else { Err(FsError::NoSuchData) }
    }

    /// Copies by reading and writing: equal chunks are stored once, so the
    /// copy costs tree nodes.
    pub(super) fn do_copy(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<u64> {
        const PIECE: u64 = 1 << 20;
        let (mut done, mut buffer) = (0, vec![0; len.min(PIECE) as usize]);
        while done < len {
            let piece = &mut buffer[..(len - done).min(PIECE) as usize];
            let copied = self.do_read(from.0, from.1 + done, piece).and_then(|read| {
                if read > 0 {
                    self.do_write(to.0, to.1 + done, &piece[..read], false)?;
                }
                Ok(read as u64)
            });
            match copied {
                Ok(0) => break,
                Ok(copied) => done += copied,
                // As of a short write, the rest says why.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
