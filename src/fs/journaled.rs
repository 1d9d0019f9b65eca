//! A file system whose changes go to the journal first, and its recovery.

use std::sync::Arc;

use super::{Fs, Log, Options};
use crate::format::record::{Change, decode};
use crate::journal::{Journal, JournalError, Options as JournalOptions};
use crate::volume::{StoreError, Volume};

impl Log for Journal {
    fn append(&self, record: &[&[u8]], reserve: bool) -> std::io::Result<u64> {
        self.append_pieces(record, reserve).map_err(journal_failed)
    }
    fn reserve_room(&self, len: usize, reserve: bool) -> std::io::Result<u64> {
        Journal::reserve_room(self, len, reserve).map_err(journal_failed)
    }
    fn cancel_reservation(&self, reserved: u64) {
        Journal::cancel_reservation(self, reserved);
    }
    fn append_reserved(&self, record: &[&[u8]], reserved: u64) -> std::io::Result<u64> {
        Journal::append_reserved(self, record, reserved).map_err(journal_failed)
    }
    fn write_out(&self) -> std::io::Result<()> {
        Journal::write_out(self).map_err(journal_failed)
    }
    fn sync(&self, sequence: u64) -> std::io::Result<()> {
        Journal::sync(self, sequence).map_err(journal_failed)
    }
    fn rotate(&self) -> std::io::Result<u64> {
        Journal::rotate(self).map_err(journal_failed)
    }
    fn last(&self) -> u64 {
        Journal::last_sequence(self)
    }
    fn release(&self, sequence: u64) -> std::io::Result<()> {
        Journal::release(self, sequence).map_err(journal_failed)
    }
    fn bytes(&self) -> u64 {
        Journal::bytes(self)
    }
}

fn journal_failed(error: JournalError) -> std::io::Error {
    match error {
        JournalError::Full => std::io::Error::from_raw_os_error(libc::ENOSPC),
        other => std::io::Error::other(other),
    }
}

/// Why a file system cannot go on from its journal.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The repository cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record does not fit what is there.
    #[error("the journal cannot be replayed: {0}")]
    Replay(String),
}

/// Whether a record needs chunks that are in REPO.
fn rests_on_chunks(record: &[u8]) -> bool {
    let rests = |(_, changes): (_, Vec<Change<'_>>)| {
        changes.iter().any(|change| matches!(change, Change::Stored { .. }))
    };
    // One that does not decode may.
    decode(record).map_or(true, rests)
}

impl Fs {
    /// The file system over a volume with local state: opens its journal and
    /// replays what a crash left. Returns how many records that were.
    pub fn recover(
        volume: Volume,
        journal: JournalOptions,
        options: Options,
    ) -> Result<(Self, usize), RecoverError> {
        let world = volume.world().clone();
        let folder = world.state.expect("only a volume with state has a journal");
        let known = volume.state();
        let keys = volume.journal_keys();
        let random = Arc::clone(&world.random);
        let (journal, replay) = Journal::open(folder, keys, known.journal, random, journal)?;
        if !replay.records.is_empty() && !volume.is_base_of_journal() {
            let count = replay.records.len();
            let text = format!("{count} records were made on another state of the repository");
            return Err(RecoverError::Replay(text));
        }
        volume.note_base_of_journal()?;
        let keep = replay.records.iter().any(|(_, record)| rests_on_chunks(record));
        let torn = volume.resolve_intents(keep)?;
        let fs = Self::new(volume, Box::new(journal), options)?;
        let count = replay.records.len();
        for (sequence, record) in replay.records {
            fs.replay(sequence, &record)?;
        }
        // All was found without them.
        fs.volume.remove_objects(&torn)?;
        Ok((fs, count))
    }
}
