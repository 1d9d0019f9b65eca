//! Why a volume cannot be opened.

use super::repository::OpenFailure;
use super::unfit::{Held, Unfit};
use crate::io::{Timestamp, local_time};
use crate::store::StoreError;

/// Why a volume cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The folder or its header.
    #[error(transparent)]
    Open(#[from] OpenFailure),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// K does not open it.
    #[error("wrong key")]
    WrongKey,
    /// Local state cannot be used.
    #[error("local state: {0}")]
    State(String),
    /// Local state is sound, and not to be gone on with here.
    #[error("local state: {what}; {held}")]
    Unfit {
        /// Why, for the program.
        why: Unfit,
        /// Why, in words.
        what: String,
        /// What only it holds.
        held: Held,
    },
    /// No device of that name has a head here; those that have.
    #[error("no device {wanted} in this repository; there are: {}", .here.join(", "))]
    NoDevice {
        /// What was asked for.
        wanted: String,
        /// Names, each with the first digits of its id.
        here: Vec<String>,
    },
    /// All states that are here were made later than is asked for.
    #[error("nothing was here yet at that time: {}", oldest_state(.oldest.as_ref()))]
    TooEarly {
        /// When the oldest of them was made; none if there is none.
        oldest: Option<Timestamp>,
    },
    /// Several devices have that name, or ids that begin so.
    #[error("{wanted} is not one device: there are {}", .here.join("; "))]
    SeveralDevices {
        /// What was asked for.
        wanted: String,
        /// Each with its name, id and generation.
        here: Vec<String>,
    },
    /// Newer heads are named by others but not here.
    #[error("waiting for {0} (sync not finished), not damage")]
    Waiting(String),
    /// This device published newer heads than the folder has.
    #[error("{0}")]
    RolledBack(String),
    /// No file can enter the folder.
    #[error("the repository cannot be written: {place}: {source}")]
    Unwritable {
        /// Which folder.
        place: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

fn oldest_state(oldest: Option<&Timestamp>) -> String {
    oldest.map_or_else(
        || "no state of this repository is here".into(),
        |oldest| format!("the oldest state is of {}", local_time(oldest.secs)),
    )
}
