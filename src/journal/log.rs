//! The open journal: append, write, flush, rotate, release.
//!
//! Lock order: `files`, then `state`. `files` is held while a file is prepared
//! or recycled, flushes included; only who needs a file waits for it. `state`
//! is held for moments, never over I/O. The writer is not a lock: whoever takes it
//! out of `state` is the one who seals, writes and flushes, and the others wait
//! on `turn`. Those who arrive during a flush are served together by the next.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::io::{OpenMode, PrivateFile, PrivateFolder, Random};

use super::buffer::{Live, State};
use super::files::{FIRST, Files, LogFile, PrepareError, numbers};
use super::record::{OVERHEAD, PAGE, RECORD_MAX};
use super::replay::{join, read_file};
use super::writer::{WriterGuard, WriterState};
use super::{FOLDER, JournalError, JournalKeys, Options, Replay, Result};

/// Buffered bytes at which an append writes them out, if nobody does already.
const BUFFER_FULL: usize = 1 << 20;
/// Buffered bytes at which an append waits for the writer.
const BUFFER_MAX: usize = 16 << 20;
/// Longest file that is opened.
const FILE_MAX: u64 = 256 << 20;

/// The journal of one mount. All methods may be called from any thread.
pub struct Journal {
    options: Options,
    files: Mutex<Files>,
    state: Mutex<State>,
    pub(super) turn: Condvar,
}

impl Journal {
    /// Opens the journal in `folder`: replays what is above `contained` (the
    /// last record in the newest head), makes that durable, and prepares fresh
    /// files. If there is no space for one, appends will say so.
    pub fn open(
        folder: Arc<dyn PrivateFolder>,
        keys: JournalKeys,
        contained: u64,
        random: Arc<dyn Random>,
        options: Options,
    ) -> Result<(Self, Replay)> {
        check(&options, &keys, contained)?;
        let at = |path: &str| {
            let path = path.to_owned();
            move |source| JournalError::Io { path, source }
        };
        folder.make_dir(FOLDER).and_then(|()| folder.sync_dir("")).map_err(at(FOLDER))?;
        let names = folder.list(FOLDER).map_err(at(FOLDER))?;
        let (logs, spares) = (numbers(&names, "log"), numbers(&names, "spare"));
        let next = logs.iter().chain(&spares).max().map_or(1, |number| number.saturating_add(1));

        let (mut found, mut live, mut done) = (Vec::new(), VecDeque::new(), Vec::new());
        let (mut expected, mut total) = (contained + 1, 0);
        for number in logs {
            let name = LogFile::name(number);
            let file = folder.open(&name, OpenMode::Write).map_err(at(&name))?;
            let len = file.len().map_err(at(&name))?;
            total += len;
            let bytes = read_all(&*file, &name)?;
            let records = read_file(&keys, &name, number, &bytes, contained, expected)?;
            match records.last().filter(|last| *last > contained) {
                Some(last) => {
                    keep_durable(&*file, &bytes[..records.end]).map_err(at(&name))?;
                    expected = last + 1;
                    live.push_back(Live { number, len, last, used: len });
                }
                None => done.push((number, len)),
            }
            found.push(records);
        }
        let replay = join(found, contained)?;
        let last = replay.records.last().map_or(contained, |record| record.0);

        if !spares.is_empty() {
            // A process that made spares of them may have been killed, or have failed, before their
            // names were durable. A header that is written over one of those is damage of the log
            // that a power cut brings back.
            folder.sync_dir(FOLDER).map_err(at(FOLDER))?;
        }
        let mut files = Files { folder, random, keys, options, spares: vec![], next, total };
        files.adopt_spares(&spares)?;
        files.recycle(&done)?;
        let writer = WriterState { written: last, durable: last, ..WriterState::default() };
        let state = State {
            failed: None,
            last,
            durable: last,
            runs: Vec::new(),
            buffered: 0,
            reserved: (0, 0),
            tail: None,
            ready: VecDeque::new(),
            live,
            writer: Some(writer),
            kept: Vec::new(),
        };
        let journal = Self {
            options,
            files: Mutex::new(files),
            state: Mutex::new(state),
            turn: Condvar::new(),
        };
        match journal.prepare_ahead() {
            Ok(()) | Err(JournalError::Full) => Ok((journal, replay)),
            Err(error) => Err(error),
        }
    }

    /// What the journal in `folder` holds above `contained`. Nothing is changed.
    pub fn read(folder: &dyn PrivateFolder, keys: &JournalKeys, contained: u64) -> Result<Replay> {
        let at = |path: &str| {
            let path = path.to_owned();
            move |source| JournalError::Io { path, source }
        };
        let names = folder.list(FOLDER).map_err(at(FOLDER))?;
        let (mut found, mut expected) = (Vec::new(), contained + 1);
        for number in numbers(&names, "log") {
            let name = LogFile::name(number);
            let file = folder.open(&name, OpenMode::Read).map_err(at(&name))?;
            let bytes = read_all(&*file, &name)?;
            let records = read_file(keys, &name, number, &bytes, contained, expected)?;
            if let Some(last) = records.last().filter(|last| *last > contained) {
                expected = last + 1;
            }
            found.push(records);
        }
        join(found, contained)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the journal's state")
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().expect("nothing panics while it holds the journal's files")
    }

    /// Appends a record to the buffer and returns its sequence number. Its
    /// space is already on disk when this returns.
    pub fn append(&self, record: &[u8]) -> Result<u64> {
        self.append_pieces(&[record], false)
    }

    /// Appends a record that the caller has in pieces, as [`Self::append`] does with a whole one.
    /// With `use_reserve` the record may use the space that is kept free for deletes and for a
    /// checkpoint's own records.
    pub fn append_pieces(&self, record: &[&[u8]], use_reserve: bool) -> Result<u64> {
        self.append_with(record, if use_reserve { 0 } else { self.options.reserve }, false)
    }

    /// Reserves room for a record of at most `len` bytes, and returns how many bytes that
    /// takes. The record must be appended by [`Self::append_reserved`]. With `use_reserve`
    /// it may use the space that is kept free for deletes and a checkpoint's own records.
    pub fn reserve_room(&self, len: usize, use_reserve: bool) -> Result<u64> {
        let (limit, need) = (self.record_max(), (len + OVERHEAD) as u64);
        // Longer ones could leave half of every file empty.
        if len > limit / 2 {
            return Err(JournalError::TooLarge { len, limit: limit / 2 });
        }
        let reserve = if use_reserve { 0 } else { self.options.reserve };
        let file = self.options.file_size;
        let lacks =
            |state: &State| state.room() < state.room_for_reserved(need, file) + reserve + need;
        loop {
            let mut state = self.state();
            state.check()?;
            if !lacks(&state) {
                state.reserved = (state.reserved.0 + need, state.reserved.1.max(need));
                return Ok(need);
            }
            drop(state);
            self.prepare(lacks)?;
        }
    }

    /// Appends a record for which [`Self::reserve_room`] reserved `reserved` bytes. The
    /// reservation ends, also if appending fails.
    pub fn append_reserved(&self, record: &[&[u8]], reserved: u64) -> Result<u64> {
        let appended = self.append_with(record, 0, true);
        self.cancel_reservation(reserved);
        appended
    }

    /// Cancels the reservation of this many bytes: they are not needed any more.
    pub fn cancel_reservation(&self, reserved: u64) {
        let mut state = self.state();
        state.reserved.0 = state.reserved.0.saturating_sub(reserved);
        if state.reserved.0 == 0 {
            state.reserved.1 = 0;
        }
    }

    /// The longest record that [`Self::append`] takes.
    pub fn record_max(&self) -> usize {
        RECORD_MAX.min((self.options.file_size - FIRST) as usize - OVERHEAD)
    }

    /// Appends a record. It leaves `reserve` bytes free, and what is reserved for other
    /// records; a record that has a reservation itself (`reserved`) uses all room.
    fn append_with(&self, record: &[&[u8]], reserve: u64, reserved: bool) -> Result<u64> {
        let file = self.options.file_size;
        let kept = move |state: &State| {
            if reserved { 0 } else { reserve + state.room_for_reserved(0, file) }
        };
        let (len, limit) = (record.iter().map(|piece| piece.len()).sum(), self.record_max());
        if len > limit {
            return Err(JournalError::TooLarge { len, limit });
        }
        loop {
            let mut state = self.state();
            state.check()?;
            if state.buffered >= BUFFER_MAX {
                drop(state);
                self.write_out()?;
                continue;
            }
            let keep = kept(&state);
            if state.make_room(len + OVERHEAD, keep) {
                let sequence = state.push(record, len);
                let write = state.buffered >= BUFFER_FULL && state.writer.is_some();
                drop(state);
                if write {
                    // The record is appended whatever comes of this; a failure
                    // is what every later call returns.
                    let _ = self.write_out();
                }
                return Ok(sequence);
            }
            drop(state);
            self.prepare(|state| !state.has_room(len + OVERHEAD, kept(state)))?;
        }
    }

    /// Writes the buffer, without a flush, and prepares files ahead of need.
    pub fn write_out(&self) -> Result<()> {
        let mut guard = self.acquire_writer(|_| false)?.expect("no goal ends the wait early");
        guard.write()?;
        drop(guard);
        match self.prepare_ahead() {
            Err(JournalError::Full) => Ok(()),
            other => other,
        }
    }

    /// Returns once the record of that number, and all before it, survive a
    /// power cut. One flush serves all who wait.
    pub fn sync(&self, sequence: u64) -> Result<()> {
        let Some(mut guard) =
            self.acquire_writer(|state| state.durable >= sequence.min(state.last))?
        else {
            return Ok(());
        };
        guard.write()?;
        guard.flush()
    }

    /// Begins a new file with the next record, unless the present one is less
    /// than half full (checkpoints that fail one after another must not use the
    /// files up), and returns the last number before it.
    pub fn rotate(&self) -> Result<u64> {
        let mut state = self.state();
        state.check()?;
        if state.tail_room() < (self.options.file_size - FIRST) / 2 {
            state.tail = None;
        }
        Ok(state.last)
    }

    /// Tells that all records up to `contained` are in a durable head: files
    /// that hold no others are used again.
    pub fn release(&self, contained: u64) -> Result<()> {
        let mut guard = self.acquire_writer(|_| false)?.expect("no goal ends the wait early");
        guard.write()?;
        let mut released = Vec::new();
        {
            let mut state = self.state();
            let open = state.tail.as_ref().map(|(file, _)| file.number);
            // What was appended meanwhile is not written, so it is not released.
            let contained = contained.min(guard.writer().written);
            while let Some(first) = state.live.front() {
                if first.last > contained || Some(first.number) == open {
                    break;
                }
                released.push((first.number, first.len));
                state.live.pop_front();
            }
            let writer = guard.writer();
            if writer
                .file
                .as_ref()
                .is_some_and(|file| released.iter().any(|(number, _)| *number == file.number))
            {
                // Nothing in it is needed, so nothing in it needs a flush.
                writer.file = None;
                writer.page.clear();
            }
            writer.durable = writer.durable.max(contained);
            state.durable = state.durable.max(contained);
        }
        drop(guard);
        let done = self.files().recycle(&released);
        done.map_err(|error| self.fail_prepare(error))
    }

    /// Bytes on disk that hold records not released yet.
    pub fn bytes(&self) -> u64 {
        self.state().live.iter().map(|live| live.used).sum()
    }

    /// The number of the last record appended; 0 if there never was one.
    pub fn last_sequence(&self) -> u64 {
        self.state().last
    }

    /// The number up to which records are known to be durable.
    pub fn durable_sequence(&self) -> u64 {
        self.state().durable
    }

    /// Why the journal stopped, if it did.
    pub fn failed(&self) -> Option<String> {
        self.state().failed.clone()
    }

    pub(super) fn fail(&self, reason: String) -> JournalError {
        let mut state = self.state();
        let reason = state.failed.get_or_insert(reason).clone();
        self.turn.notify_all();
        JournalError::Failed { reason }
    }

    fn fail_prepare(&self, error: PrepareError) -> JournalError {
        match error {
            PrepareError::Full => JournalError::Full,
            PrepareError::Io(path, source) => self.fail(format!("{path}: {source}")),
        }
    }

    /// Prepares a file if `needed` still says so.
    fn prepare(&self, needed: impl Fn(&State) -> bool) -> Result<()> {
        let mut files = self.files();
        let state = self.state();
        state.check()?;
        if !needed(&state) {
            return Ok(());
        }
        drop(state);
        let file = files.prepare().map_err(|error| self.fail_prepare(error))?;
        self.state().ready.push_back(Arc::new(file));
        Ok(())
    }

    /// Keeps half a file more than the reserve ready, so that appends seldom
    /// wait for one.
    fn prepare_ahead(&self) -> Result<()> {
        let wanted = self.options.reserve + self.options.file_size / 2;
        while self.state().room() < wanted {
            self.prepare(|state| state.room() < wanted)?;
        }
        Ok(())
    }

    /// Waits for the writer; `None` if `reached` first.
    fn acquire_writer(&self, reached: impl Fn(&State) -> bool) -> Result<Option<WriterGuard<'_>>> {
        let mut state = self.state();
        loop {
            state.check()?;
            if reached(&state) {
                return Ok(None);
            }
            if let Some(writer) = state.writer.take() {
                return Ok(Some(WriterGuard { journal: self, writer: Some(writer) }));
            }
            state = self.turn.wait(state).expect("nothing panics with the journal's state");
        }
    }
}

fn check(options: &Options, keys: &JournalKeys, contained: u64) -> Result<()> {
    let size = options.file_size;
    let problem = if !size.is_multiple_of(PAGE as u64) || !(2 * FIRST..=FILE_MAX).contains(&size) {
        "the file size is not a multiple of 4096 from 8192 to 256 MiB"
    } else if options.max_total < options.reserve.saturating_add(2 * size) {
        "the total is below the reserve and two files"
    } else if keys.current().is_none() {
        "the current epoch has no key"
    } else if contained > u64::MAX / 2 {
        "no head contains so many records"
    } else {
        return Ok(());
    };
    Err(JournalError::Options(problem))
}

/// Makes durable what was read from a journal file: `bytes` from its start. They may be in the page
/// cache only, and what is replayed must still be there when newer records are. A flush alone is not
/// enough: where one failed before, the kernel calls the pages clean and does not write them again
/// (fsync(2), NOTES).
fn keep_durable(file: &dyn PrivateFile, bytes: &[u8]) -> std::io::Result<()> {
    // The same bytes in the same places: a write that a crash tears changes nothing.
    file.write_at(0, bytes)?;
    file.sync_data()
}

/// All bytes of a journal file.
fn read_all(file: &dyn PrivateFile, name: &str) -> Result<Vec<u8>> {
    let at = |source| JournalError::Io { path: name.to_owned(), source };
    let len = file.len().map_err(at)?;
    if len > FILE_MAX {
        let what = "it is longer than any journal file".to_owned();
        return Err(JournalError::Damaged { file: name.to_owned(), what });
    }
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(0, &mut bytes).map_err(at)?;
    bytes.truncate(read);
    Ok(bytes)
}
