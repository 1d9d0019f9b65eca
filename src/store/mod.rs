//! Objects, frames, directories, index and cache.
//!
//! Invariant: bytes handed out were authenticated and belong to the id that
//! was asked for; nothing enters REPO but sealed, complete and named by its
//! hash.

mod container;
mod copies;
mod index;
mod objects;
mod presence;
mod stage;
mod strays;
mod weighted;

use crate::crypto::{FileCipher, IdKeys, Purpose, RepoId, derive};
use crate::format::clock::Dot;
use crate::format::container::Prefix;
use crate::format::register::Keyring;

pub use container::{Built, HEAD_DATA_MAX, OBJECT_TARGET, Reader, Writer, check_name, hash_of};
pub use copies::{
    Candidate, Copies, Listing, files_below, is_arriving, is_no_folder, join, not_a_folder,
    renamed, unreadable,
};
pub use index::Index;
pub use objects::{CacheSizes, Entered, Store};
pub use presence::Landmarks;
pub use stage::Staged;
pub use strays::{
    Likeness, Oddity, Stray, is_of_a_client, like_device, like_folder, misplaced_file,
};

/// Why stored bytes cannot be had, sorted by what the receiver can do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Wrong bytes: repair, or restore the file from the cloud's versions.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// Path within REPO.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// Not here: wait for the sync client, or find out who deleted it.
    #[error("{what} is not here (yet)")]
    Missing {
        /// Path or id.
        what: String,
    },
    /// Sealed under an epoch that this keyring lacks: ask for the newer key.
    #[error("{path} is sealed under a newer key")]
    UnknownEpoch {
        /// Path within REPO.
        path: String,
    },
    /// Written by a newer version: update amberfs.
    #[error("{path} needs a newer amberfs: {what}")]
    Newer {
        /// Path within REPO.
        path: String,
        /// What this version does not know.
        what: String,
    },
    /// What is at REPO's place is not the folder that was opened: it goes on once
    /// that is back.
    #[error("REPO is not there (unmounted? moved?): {place}: {why}")]
    Away {
        /// Where REPO was.
        place: String,
        /// What was found there.
        why: String,
    },
    /// A file was in REPO when new content was made to rest on it, and is not any
    /// more: the content must be stored again.
    #[error("{path} has vanished from REPO")]
    Vanished {
        /// Path within REPO.
        path: String,
    },
    /// This program is wrong: it would publish a second value under the dot of one that is
    /// published. Nothing was published.
    #[error(
        "the change {} of writer {:010x} was published before with another value: this is a fault of the program",
        dot.record, dot.writer.number()
    )]
    Republished {
        /// The dot.
        dot: Dot,
    },
    /// No room in REPO: free some, then it goes on.
    #[error("no space left in the repository folder or for local state")]
    Full,
    /// Local state failed: it must be opened anew.
    #[error("local state: {what}: {source}")]
    State {
        /// Which part.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The operating system said no.
    #[error("{path}: {source}")]
    Io {
        /// Path within REPO.
        path: String,
        /// Its error.
        source: std::io::Error,
    },
}

impl StoreError {
    pub(crate) fn damaged(path: &str, what: impl std::fmt::Display) -> Self {
        Self::Damaged { path: path.to_string(), what: what.to_string() }
    }

    /// For a repair: nothing, if the bytes cannot be had; the error, if it is local
    /// state that failed, which says nothing about REPO.
    pub(crate) fn lost<T>(self) -> Result<Option<T>> {
        match self {
            Self::State { .. } => Err(self),
            _ => Ok(None),
        }
    }

    /// Sorts an error of local state.
    pub(crate) fn state(what: &'static str, source: std::io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::Full,
            _ => Self::State { what, source },
        }
    }

    /// Sorts an error of the operating system, met while something was read. What
    /// lacks is not here; something else under its name is damage; all other errors
    /// say nothing of the repository.
    pub(crate) fn io(path: &str, source: std::io::Error) -> Self {
        use std::io::ErrorKind::{InvalidData, NotFound};
        match source.raw_os_error() {
            // A placeholder that the sync client has not filled (macOS).
            Some(libc::EDEADLK) => Self::Missing { what: path.to_string() },
            _ if source.kind() == NotFound => Self::Missing { what: path.to_string() },
            _ if source.kind() == InvalidData => Self::damaged(path, source),
            _ => Self::writing(path, source),
        }
    }

    /// Sorts an error of the operating system, met while something was written.
    pub(crate) fn writing(path: &str, source: std::io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::Full,
            _ => Self::Io { path: path.to_string(), source },
        }
    }
}

/// Result of the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// The keys of an open repository.
pub struct Context {
    /// Its id.
    pub repo: RepoId,
    /// Its epochs.
    pub keyring: Keyring,
    /// Its keyed ids.
    pub ids: IdKeys,
}

impl Context {
    /// Derives what follows from the keyring.
    pub fn new(repo: RepoId, keyring: Keyring) -> Self {
        let ids = IdKeys::new(&keyring.id_key, &keyring.chunker_key, &repo);
        Self { repo, keyring, ids }
    }

    /// The cipher of a file with this prefix, if its epoch is known.
    pub fn file_cipher(&self, prefix: &Prefix) -> Option<FileCipher> {
        let epoch = self.keyring.epoch_key(&prefix.epoch)?;
        let key = derive(Purpose::FileSeal, epoch, &[&self.repo, &prefix.epoch, &prefix.salt]);
        Some(FileCipher::new(&key, prefix.aad(&self.repo)))
    }
}
