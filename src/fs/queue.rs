//! Records on their way to the log.
//!
//! A large write is not logged at once: within the second that the log may take,
//! its bytes mostly enter REPO in an object, and then the record need only name
//! the chunks. What is done meanwhile queues behind it, so the log has all in
//! order.
//!
//! Invariants: room in the log is reserved for every record before it is
//! acknowledged; whoever drains holds `draining`, and nothing is appended past a
//! queue that is not empty. The queue has a lock of its own, the last of all: the
//! log is written even while an operation that has the state waits for REPO.

use std::collections::VecDeque;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::pressure::{Amounts, Relief};
use super::{Fs, FsError, Result, State};
use crate::format::clock::Dot;
use crate::format::namespace::Ino;
use crate::format::record::{Change, PIECES_MAX, Piece, encode};
use crate::io::Timestamp;
use crate::volume::content::Layer;
use crate::volume::flush::Flushed;

/// How long a writer waits for room in the queue before it uses the log. Longer in unit
/// tests, where a busy machine must not look like a lost call.
pub(super) const ROOM_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 10 } else { 1 });
/// Room for what further records need beside their data if a write is split.
const SPARE: usize = 4096;
/// Bytes taken out of the queue at a time.
const BATCH: u64 = 1 << 20;

/// A large write that waits in the queue before the journal.
pub(super) struct Waiting {
    dot: Dot,
    ino: Ino,
    offset: u64,
    time: Timestamp,
    /// What was written; empty once `known` is durable.
    bytes: Bytes,
    /// The chunks of what was written, once it is chunked.
    known: Option<Vec<Piece>>,
}

enum Record {
    Encoded(Vec<u8>),
    Write(Waiting),
}

/// A record, the bytes of the log that are reserved for it, and when it was acknowledged.
struct Queued {
    reserved: u64,
    since: Duration,
    record: Record,
}

/// A waiting write, or its start up to `end`, in chunks.
pub(super) struct ChunkedWrite {
    offset: u64,
    bytes: Bytes,
    end: u64,
    known: Vec<Piece>,
}

/// Acknowledged records that the log does not have yet.
#[derive(Default)]
pub(super) struct Queue {
    records: VecDeque<Queued>,
    /// The bytes of all records in the queue.
    bytes: u64,
    /// Last sequence number of the log.
    sequence: u64,
    /// Some were taken out and are not in the log yet.
    draining: bool,
    /// Bytes that bypassed the log since the last freeze: objects hold them.
    bypassed: u64,
    /// How many threads chunk files or make a checkpoint. What is durable afterwards needs no room in
    /// the queue.
    chunking: usize,
}

impl Record {
    fn len(&self) -> u64 {
        match self {
            Self::Encoded(record) => record.len() as u64,
            Self::Write(write) => write.bytes.len() as u64,
        }
    }
}

impl Queue {
    /// Whether a record may go to the log directly.
    fn is_idle(&self) -> bool {
        self.records.is_empty() && !self.draining
    }

    fn push(&mut self, queued: Queued) {
        self.bytes += queued.record.len();
        self.records.push_back(queued);
    }

    /// The first ones, of about `most` bytes, that were acknowledged up to `until`.
    fn take(&mut self, most: u64, until: Duration) -> Vec<Queued> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < most
            && self.records.front().is_some_and(|queued| queued.since <= until)
            && let Some(queued) = self.records.pop_front()
        {
            self.bytes -= queued.record.len();
            bytes += queued.reserved;
            taken.push(queued);
        }
        taken
    }
}

impl Waiting {
    fn len(&self) -> u64 {
        match &self.known {
            Some(known) => known.iter().map(|piece| piece.len).sum(),
            None => self.bytes.len() as u64,
        }
    }

    /// Splits off what is at and above `at`, which lies within.
    fn split(&mut self, at: u64) -> Self {
        let bytes = self.bytes.split_off((at - self.offset) as usize);
        Self { dot: self.dot, ino: self.ino, offset: at, time: self.time, bytes, known: None }
    }
}

/// Marks that a thread is making chunks. While it lives, writers that need room in the queue wait
/// for that thread.
pub(super) struct ChunkingGuard<'a>(&'a Fs);

impl Drop for ChunkingGuard<'_> {
    fn drop(&mut self) {
        self.0.queue().chunking -= 1;
        self.0.queue_room.notify_all();
    }
}

/// A panic would lose records that were taken out of the queue.
struct StopOnPanic<'a>(&'a Fs);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop("a record was not logged");
        }
    }
}

impl Fs {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that wait for the log.
    pub(super) fn queued(&self) -> u64 {
        self.queue().bytes
    }

    /// Bytes that bypassed the log since the last freeze.
    pub(super) fn bypassed(&self) -> u64 {
        self.queue().bypassed
    }

    /// The last record in the log.
    pub(super) fn logged(&self) -> u64 {
        self.queue().sequence
    }

    /// Sets the sequence number of the last record that replay found in the journal.
    pub(super) fn note_logged(&self, sequence: u64) {
        self.queue().sequence = sequence;
    }

    /// Queues a large write that makes `dot`, whoever calls holding the state. `false` if
    /// the log could not reserve room for it: then nothing was done.
    pub(super) fn enqueue_write(
        &self,
        dot: Dot,
        (ino, offset): (Ino, u64),
        bytes: &Bytes,
        time: Timestamp,
    ) -> bool {
        let change = [Change::Write { ino, offset, bytes: bytes[..].into(), time }];
        let len = encode(dot, &change).0.len() + bytes.len() + SPARE;
        let Ok(reserved) = self.log.reserve_room(len, false) else { return false };
        let write = Waiting { dot, ino, offset, time, bytes: bytes.clone(), known: None };
        self.queue().push(self.queued_now(reserved, Record::Write(write)));
        true
    }

    /// Logs a record that comes after all in the queue, whoever calls holding the
    /// state.
    pub(super) fn log_after_queue(
        &self,
        (record, data): (&[u8], &[u8]),
        reserve: bool,
    ) -> Result<()> {
        let mut queue = self.queue();
        if !queue.is_idle() {
            if let Ok(reserved) = self.log.reserve_room(record.len() + data.len(), reserve) {
                let record = Record::Encoded([record, data].concat());
                queue.push(self.queued_now(reserved, record));
                return Ok(());
            }
            // What is reserved for others may be more than they will need.
            let Ok(guard) = self.draining.try_lock() else { return Err(FsError::NoSpace) };
            self.log_all(&guard, &mut queue)?;
        }
        let logged = self.log.append(&[record, data], reserve);
        queue.sequence = logged.map_err(|error| self.fail(&error))?;
        Ok(())
    }

    fn queued_now(&self, reserved: u64, record: Record) -> Queued {
        Queued { reserved, since: self.volume.world().clock.elapsed(), record }
    }

    /// Makes room in a full queue. A write whose chunks are durable in an object needs none, so
    /// this first waits for the thread that makes chunks, or makes chunks itself. What is left
    /// then goes into the log.
    pub(super) fn make_queue_room(&self) -> Result<()> {
        let is_full = |queue: &Queue| {
            let amounts = Amounts { queued: queue.bytes, ..Amounts::default() };
            amounts.of_queue() == Relief::Wait
        };
        let waits = |queue: &mut Queue| is_full(queue) && queue.chunking > 0;
        let waited = self.queue_room.wait_timeout_while(self.queue(), ROOM_TIMEOUT, waits);
        let (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let full = is_full(&queue);
        drop(queue);
        if full {
            self.chunk_closed();
        }
        if full && is_full(&self.queue()) { self.drain() } else { Ok(()) }
    }

    /// Marks this thread as one that makes chunks, for as long as the guard lives. Writers that
    /// need room in the queue wait for it.
    pub(super) fn begin_chunking(&self) -> ChunkingGuard<'_> {
        self.queue().chunking += 1;
        ChunkingGuard(self)
    }

    /// Hands the whole queue to the log.
    pub(super) fn drain(&self) -> Result<()> {
        self.drain_until(Duration::MAX)
    }

    /// Hands to the log what was acknowledged at least so long ago.
    pub(super) fn drain_old(&self, age: Duration) -> Result<()> {
        let now = self.volume.world().clock.elapsed();
        now.checked_sub(age).map_or(Ok(()), |until| self.drain_until(until))
    }

    fn drain_until(&self, until: Duration) -> Result<()> {
        let guard = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
        self.drain_with(&guard, until)
    }

    /// The state with nothing in the queue; as long as the guard is held, nobody
    /// else takes from it.
    pub(super) fn drained(&self) -> Result<(MutexGuard<'_, ()>, MutexGuard<'_, State>)> {
        let guard = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
        self.drain_with(&guard, Duration::MAX)?;
        let state = self.lock();
        // What came since.
        self.log_all(&guard, &mut self.queue())?;
        Ok((guard, state))
    }

    /// Locks the state without waiting for the log, which takes nothing any more: memory
    /// has it all.
    pub(super) fn lock_undrained(&self) -> (MutexGuard<'_, ()>, MutexGuard<'_, State>) {
        let guard = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
        (guard, self.lock())
    }

    /// The log begins anew: what bypassed it is in the commit that is made now.
    pub(super) fn reset_bypassed(&self) {
        self.queue().bypassed = 0;
    }

    /// Marks that records are out of the queue and not in the log. After an error
    /// or a panic the mark stays, and nothing is logged any more: it would come
    /// after a gap.
    fn begin(&self, queue: &mut Queue) -> Result<()> {
        if queue.draining {
            self.stop("records were not logged");
            return Err(FsError::Io);
        }
        queue.draining = true;
        Ok(())
    }

    /// Hands the whole queue to the log while others wait.
    fn log_all(&self, _: &MutexGuard<'_, ()>, queue: &mut Queue) -> Result<()> {
        self.begin(queue)?;
        let _unless_panic = StopOnPanic(self);
        for queued in queue.take(u64::MAX, Duration::MAX) {
            queue.sequence = self.log_record(&mut queue.bypassed, queued)?;
        }
        queue.draining = false;
        Ok(())
    }

    fn drain_with(&self, _: &MutexGuard<'_, ()>, until: Duration) -> Result<()> {
        let _unless_panic = StopOnPanic(self);
        self.begin(&mut self.queue())?;
        loop {
            let batch = {
                let mut queue = self.queue();
                let batch = queue.take(BATCH, until);
                queue.draining = !batch.is_empty();
                batch
            };
            if batch.is_empty() {
                return Ok(());
            }
            let (mut bypassed, mut logged) = (0, 0);
            for queued in batch {
                logged = self.log_record(&mut bypassed, queued)?;
            }
            let mut queue = self.queue();
            queue.sequence = logged;
            queue.bypassed += bypassed;
        }
    }

    fn log_record(&self, bypassed: &mut u64, queued: Queued) -> Result<u64> {
        let Queued { reserved, record, .. } = queued;
        let log = |record: &[&[u8]]| {
            self.log.append_reserved(record, reserved).map_err(|error| self.fail_for_good(&error))
        };
        let write = match record {
            Record::Encoded(record) => return log(&[&record]),
            Record::Write(write) => write,
        };
        let (len, Waiting { dot, ino, offset, time, bytes, known }) = (write.len(), write);
        let known = known.filter(|known| bytes.is_empty() || self.are_durable(known));
        if let Some(pieces) = known {
            *bypassed += len;
            let (record, _) = encode(dot, &[Change::Stored { ino, offset, pieces, time }]);
            return log(&[&record]);
        }
        let change = [Change::Write { ino, offset, bytes: bytes[..].into(), time }];
        let (record, data) = encode(dot, &change);
        log(&[&record, data])
    }

    fn are_durable(&self, known: &[Piece]) -> bool {
        known.iter().all(|piece| self.volume.is_fresh(&piece.id))
    }

    /// Waiting writes of a file that a flush of `layer` chunked, with their chunks.
    pub(super) fn chunks_of_writes(
        &self,
        ino: Ino,
        layer: &Layer,
        flushed: &Flushed,
    ) -> Vec<ChunkedWrite> {
        let waiting: Vec<(u64, Bytes)> = {
            let queue = self.queue();
            let writes = queue.records.iter().filter_map(|queued| match &queued.record {
                Record::Write(write) if write.ino == ino && write.known.is_none() => {
                    Some((write.offset, write.bytes.clone()))
                }
                _ => None,
            });
            writes.collect()
        };
        let chunked = |(offset, bytes): (u64, Bytes)| {
            // The end of a stream may not be chunked yet.
            let end = (offset + bytes.len() as u64).min(flushed.stored.size);
            if offset >= end || !layer.has(offset, &bytes) {
                return None;
            }
            let known = flushed.pieces(offset, end)?;
            (known.len() as u64 <= PIECES_MAX).then_some(ChunkedWrite { offset, bytes, end, known })
        };
        waiting.into_iter().filter_map(chunked).collect()
    }

    /// Records the chunks of waiting writes. Then all waiting writes, of any file, whose chunks
    /// are durable by now give up their bytes.
    pub(super) fn note_chunked(&self, chunked: Vec<ChunkedWrite>) {
        let mut queue = self.queue();
        let queue = &mut *queue;
        for ChunkedWrite { offset, bytes, end, known } in chunked {
            let place = queue.records.iter().position(|queued| {
                matches!(&queued.record, Record::Write(write) if write.offset == offset
                    && write.bytes.as_ptr() == bytes.as_ptr() && write.bytes.len() == bytes.len())
            });
            // Else it was logged meanwhile.
            let Some(place) = place else { continue };
            let Queued { reserved, since, record: Record::Write(write) } =
                &mut queue.records[place]
            else {
                continue;
            };
            if end < offset + bytes.len() as u64 {
                let rest = write.split(end);
                let spare = *reserved - bytes.len() as u64;
                let share = rest.bytes.len() as u64 + spare / 2;
                *reserved -= share;
                write.known = Some(known);
                let rest = Queued { reserved: share, since: *since, record: Record::Write(rest) };
                queue.records.insert(place + 1, rest);
            } else {
                write.known = Some(known);
            }
        }
        for Queued { reserved, record, .. } in &mut queue.records {
            if let Record::Write(write) = record
                && !write.bytes.is_empty()
                && write.known.as_ref().is_some_and(|known| self.are_durable(known))
            {
                let len = write.bytes.len() as u64;
                queue.bytes -= len;
                write.bytes = Bytes::new();
                // The chunks' names take little of it.
                let spare = (*reserved).min(len) / 8 * 7;
                *reserved -= spare;
                self.log.cancel_reservation(spare);
            }
        }
    }
}
