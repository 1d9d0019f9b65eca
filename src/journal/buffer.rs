//! What the journal's lock protects: the buffer, and where its records go.
//!
//! Invariant: a record in the buffer has its place in a pre-written file.

use std::collections::VecDeque;
use std::sync::Arc;

use super::files::{FIRST, LogFile};
use super::record::{CLAIM, FRAME, Frame, OVERHEAD, PAGE};
use super::writer::WriterState;
use super::{JournalError, Result};

/// Consecutive records on their way to one file. `bytes` has a page of room
/// for what the file's last page holds already, then records not sealed yet.
pub(super) struct Run {
    pub file: Arc<LogFile>,
    /// Where the first record goes.
    pub offset: u64,
    pub last: u64,
    pub bytes: Vec<u8>,
}

/// A file with records that are not released.
pub(super) struct Live {
    pub number: u64,
    pub len: u64,
    /// The sequence number of the file's last record; in the newest file, of the last record so
    /// far.
    pub last: u64,
    pub used: u64,
}

pub(super) struct State {
    pub failed: Option<String>,
    pub last: u64,
    pub durable: u64,
    pub runs: Vec<Run>,
    pub buffered: usize,
    /// Reservations for records that are appended later: how many bytes all of them take
    /// at most, and the longest of them.
    pub reserved: (u64, u64),
    /// Where the next record goes, if it fits.
    pub tail: Option<(Arc<LogFile>, u64)>,
    pub ready: VecDeque<Arc<LogFile>>,
    pub live: VecDeque<Live>,
    pub writer: Option<WriterState>,
    pub kept: Vec<Vec<u8>>,
}

impl State {
    pub fn check(&self) -> Result<()> {
        match &self.failed {
            Some(reason) => Err(JournalError::Failed { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub fn tail_room(&self) -> u64 {
        self.tail.as_ref().map_or(0, |(file, offset)| file.len - offset)
    }

    /// Pre-written bytes that no record has.
    pub fn room(&self) -> u64 {
        self.tail_room() + self.ready.iter().map(|file| file.len - FIRST).sum::<u64>()
    }

    /// Whether a record of `need` bytes in the file leaves `reserve` free. What
    /// is left at the end of a file that it does not fit into is lost.
    pub fn has_room(&self, need: usize, reserve: u64) -> bool {
        let (need, tail) = (need as u64, self.tail_room());
        let lost = if need <= tail { 0 } else { tail };
        (need <= tail || !self.ready.is_empty()) && self.room() - lost >= need + reserve
    }

    /// Room that records with a reservation, and one of `need` bytes more, need in files of
    /// `file` bytes. At the end of each file less than the longest is lost.
    pub fn room_for_reserved(&self, need: u64, file: u64) -> u64 {
        let (bytes, longest) = (self.reserved.0 + need, self.reserved.1.max(need));
        if bytes == 0 {
            return 0;
        }
        let files = bytes.div_ceil((file - FIRST).saturating_sub(longest).max(1)) + 1;
        bytes + files * longest
    }

    /// Sees to it that `tail` takes a record of `need` bytes.
    pub fn make_room(&mut self, need: usize, reserve: u64) -> bool {
        if !self.has_room(need, reserve) {
            return false;
        }
        if self.tail_room() < need as u64 {
            let file = self.ready.pop_front().expect("has_room found one");
            let live = Live { number: file.number, len: file.len, last: self.last, used: FIRST };
            self.live.push_back(live);
            self.tail = Some((file, FIRST));
        }
        true
    }

    /// Appends a record that comes in pieces, of `len` bytes in all.
    pub fn push(&mut self, record: &[&[u8]], len: usize) -> u64 {
        let sequence = self.last + 1;
        let (file, offset) = self.tail.as_mut().expect("make_room found a file");
        if self.runs.last().is_none_or(|run| run.file.number != file.number) {
            let mut bytes = self.kept.pop().unwrap_or_default();
            bytes.clear();
            bytes.resize(PAGE, 0);
            self.runs.push(Run { file: file.clone(), offset: *offset, last: sequence, bytes });
        }
        let run = self.runs.last_mut().expect("pushed if there was none");
        let frame = Frame { sequence, len };
        let seal = file.seal.as_ref().expect("files made since opening have a seal");
        let total = frame.total();
        run.bytes.reserve(total);
        run.bytes.extend_from_slice(&seal.frame(frame));
        run.bytes.extend_from_slice(&[0; CLAIM]);
        for piece in record {
            run.bytes.extend_from_slice(piece);
        }
        run.bytes.extend_from_slice(&[0; OVERHEAD - FRAME - CLAIM]);
        run.last = sequence;
        *offset += total as u64;
        self.buffered += total;
        self.last = sequence;
        let live = self.live.back_mut().expect("the tail is the newest live file");
        live.last = sequence;
        live.used += total as u64;
        sequence
    }
}
