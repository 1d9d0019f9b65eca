//! The journal: the local sealed log of what is acknowledged but not in a head
//! yet.
//!
//! Invariant: after a crash, replay gives a prefix of the appended records
//! that reaches at least as far as the last [`Journal::sync`] that returned
//! `Ok`. Records are opaque bytes with sequence numbers that are contiguous and
//! never start again within one device's state.
//!
//! Files are written with zeros before they are used and are used again later,
//! so that a flush after a small write changes no metadata. Space for a record
//! is found before [`Journal::append`] returns: no space is an answer, never a
//! later failure. After any failed write or flush the journal answers only that
//! error until it is opened again.

mod buffer;
mod files;
mod log;
mod record;
mod replay;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_crash;
#[cfg(test)]
mod tests_example;
mod writer;

use std::io;

use crate::crypto::{DeviceId, EpochId, RepoId, Secret};

pub use log::Journal;
pub use record::RECORD_MAX;

/// The folder of the journal within local state.
pub const FOLDER: &str = "journal";

/// Whose journal it is and the keys that open it.
pub struct JournalKeys {
    /// The id of the repository.
    pub repo: RepoId,
    /// The id of this device.
    pub device: DeviceId,
    /// The epoch under which new files are sealed; one of `epochs`.
    pub epoch: EpochId,
    /// Data keys of all epochs, so that older files open.
    pub epochs: Vec<(EpochId, Secret)>,
}

impl JournalKeys {
    fn get(&self, epoch: &EpochId) -> Option<&Secret> {
        self.epochs.iter().find(|(id, _)| id == epoch).map(|(_, key)| key)
    }

    fn current(&self) -> Option<&Secret> {
        self.get(&self.epoch)
    }
}

/// Sizes, in bytes. The defaults are for a mount; tests take smaller ones.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Length of a file: a multiple of 4096, 8192 to 256 MiB. A record must fit
    /// into one file.
    pub file_size: u64,
    /// The most that all files together take.
    pub max_total: u64,
    /// What only appends with `reserved` may use, for deletes and one
    /// checkpoint.
    pub reserve: u64,
    /// Files kept for later use when what they hold is released.
    pub spares: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { file_size: 16 << 20, max_total: 512 << 20, reserve: 16 << 20, spares: 8 }
    }
}

/// What the journal held when it was opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Sequence number and plaintext: ascending, contiguous, all above the
    /// `contained` that was given.
    pub records: Vec<(u64, Vec<u8>)>,
    /// Whether bytes were dropped at the end that were never called durable.
    pub torn_tail: bool,
}

/// Why the journal cannot do what was asked, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// No space for the record: nothing was appended. A checkpoint frees some.
    #[error("no space is left for the journal")]
    Full,
    /// The record is longer than the limit or than a file.
    #[error("a record of {len} bytes is longer than the journal takes ({limit})")]
    TooLarge {
        /// The length of the record in bytes.
        len: usize,
        /// The longest record that this journal takes, in bytes.
        limit: usize,
    },
    /// A write or flush failed earlier; reopen.
    #[error("the journal stopped: {reason}")]
    Failed {
        /// The operation that failed, and the system's error.
        reason: String,
    },
    /// Bytes that were durable are gone or wrong.
    #[error("{file} is damaged: {what}")]
    Damaged {
        /// The path of the file within local state.
        file: String,
        /// The rule that the bytes break.
        what: String,
    },
    /// The file belongs to another device or repository.
    #[error("{file} belongs to another device or repository; move it away to go on without it")]
    Foreign {
        /// The path of the file within local state.
        file: String,
    },
    /// The file is sealed under an epoch that the keyring lacks.
    #[error("{file} is sealed under a key that is not known here (epoch {epoch})")]
    UnknownEpoch {
        /// The path of the file within local state.
        file: String,
        /// The id of the epoch, in hexadecimal digits.
        epoch: String,
    },
    /// A newer program wrote the file.
    #[error("{file} has journal version {version}, newer than this program")]
    Unsupported {
        /// The path of the file within local state.
        file: String,
        /// The format version that the file states.
        version: u16,
    },
    /// The options or keys given contradict themselves.
    #[error("journal options: {0}")]
    Options(&'static str),
    /// Reading or preparing a file failed while opening.
    #[error("{path}: {source}")]
    Io {
        /// The path of the file or folder within local state.
        path: String,
        /// The error that the operating system returned.
        source: io::Error,
    },
}

impl JournalError {
    /// Whether there was no space left on the disk.
    pub fn is_full(&self) -> bool {
        let full = [libc::ENOSPC, libc::EDQUOT].map(Some);
        match self {
            Self::Full => true,
            Self::Io { source, .. } => full.contains(&source.raw_os_error()),
            _ => false,
        }
    }
}

/// The result of an operation of the journal.
pub type Result<T> = std::result::Result<T, JournalError>;
