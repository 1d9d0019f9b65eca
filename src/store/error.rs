//! Errors of the store, and how errors of the operating system are sorted into them.
//!
//! Invariant: each case tells its receiver something else to do.

use crate::format::clock::Dot;

/// Why stored bytes cannot be had, sorted by what the receiver can do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Wrong bytes: repair, or restore the file from the cloud's versions.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The path of the file within REPO.
        path: String,
        /// The rule that the bytes break, or what else is wrong with the file.
        what: String,
    },
    /// Not here: wait for the sync client, or find out who deleted it.
    #[error("{what} is not here (yet)")]
    Missing {
        /// The path within REPO, or the id, of what is not here.
        what: String,
    },
    /// More devices changed one file at once than a tree can hold versions of it.
    #[error(
        "{what} is not joined: too many devices changed one file without knowing of each other. \
         Change that file where it is shown now, and join again"
    )]
    Crowded {
        /// What was to be joined.
        what: String,
    },
    /// Sealed under an epoch that this keyring lacks: ask for the newer key.
    #[error("{path} is sealed under a newer key")]
    UnknownEpoch {
        /// The path of the file within REPO.
        path: String,
    },
    /// Written by a newer version: update amberfs.
    #[error("{path} needs a newer amberfs: {what}")]
    Newer {
        /// The path of the file within REPO.
        path: String,
        /// What this version does not know.
        what: String,
    },
    /// What is at REPO's place is not the folder that was opened: it goes on once
    /// that is back.
    #[error("REPO is not there (unmounted? moved?): {place}: {why}")]
    Away {
        /// The path at which REPO was opened.
        place: String,
        /// What the path leads to instead, or why it leads nowhere.
        why: String,
    },
    /// A file was in REPO when new content was made to rest on it, and is not any
    /// more: the content must be stored again.
    #[error("{path} has vanished from REPO")]
    Vanished {
        /// The path of the file within REPO.
        path: String,
    },
    /// This program is wrong: it would publish a second value under the dot of one that is
    /// published. Nothing was published.
    #[error(
        "the change {} of writer {:010x} was published before with another value: this is a fault of the program. \
         Nothing was published. Mount anew: the changes are in local state",
        dot.record, dot.writer.number()
    )]
    Republished {
        /// The dot that two values would have.
        dot: Dot,
    },
    /// No room in REPO: free some, then it goes on.
    #[error("no space left in the repository folder or for local state")]
    Full,
    /// Local state failed: it must be opened anew.
    #[error("local state: {what}: {source}")]
    State {
        /// The part of local state that failed.
        what: &'static str,
        /// The error that the operating system returned.
        source: std::io::Error,
    },
    /// The operating system said no.
    #[error("{path}: {source}")]
    Io {
        /// The path of the file or folder within REPO.
        path: String,
        /// The error that the operating system returned.
        source: std::io::Error,
    },
}

impl StoreError {
    pub(crate) fn damaged(path: &str, what: impl std::fmt::Display) -> Self {
        Self::Damaged { path: path.to_string(), what: what.to_string() }
    }

    /// Turns an error met by a repair into "nothing", because the bytes cannot be had. A failure of
    /// local state stays an error: it says nothing about REPO.
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

/// The result of an operation of the store.
pub type Result<T> = std::result::Result<T, StoreError>;
