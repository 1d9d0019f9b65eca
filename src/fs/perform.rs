//! Making changes: an operation's record goes to the log and into memory, or, at a replay, out of
//! the log into memory.
//!
//! Invariant: the dots of this mount's changes count up by one from 1, in the order of the log.

use std::borrow::Cow;

use super::pressure::Least;
use super::{Fs, RecoverError, Result, State};
use crate::format::clock::Dot;
use crate::format::record::{Change, decode, encode};
use crate::volume::StoreError;

impl Fs {
    /// The dot of the next change.
    pub(super) fn next_dot(&self, state: &State) -> Dot {
        Dot { writer: self.volume.writer(), record: state.made + 1 }
    }

    /// A change is made: its dot.
    pub(super) fn take_dot(&self, state: &mut State) -> Dot {
        let dot = self.next_dot(state);
        state.made = dot.record;
        state.overlays.see(dot);
        dot
    }

    /// Logs and applies one operation.
    pub(super) fn perform(&self, state: &mut State, changes: &[Change<'_>]) -> Result<()> {
        self.perform_in(state, changes, false)
    }

    /// Logs and applies one operation. With `reserve`, since it makes room, it may use what the
    /// log keeps for that.
    pub(super) fn perform_in(
        &self,
        state: &mut State,
        changes: &[Change<'_>],
        reserve: bool,
    ) -> Result<()> {
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

    pub(super) fn note_change(&self, state: &mut State) {
        let now = self.volume.world().clock.elapsed();
        state.changed = Some((state.changed.map_or(now, |(first, _)| first), now));
        state.pace.note_change(now);
    }

    /// Applies a record that the log replayed.
    pub fn replay(&self, sequence: u64, record: &[u8]) -> std::result::Result<(), RecoverError> {
        let failed = |error: &dyn std::fmt::Display| RecoverError::Replay(error.to_string());
        let (dot, changes) = decode(record).map_err(|error| failed(&error))?;
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
            state.overlays.see(dot);
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
}
