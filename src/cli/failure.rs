//! Why a command failed: the one way out for all errors.

use crate::fs::FsError;
use crate::io::Exit;
use crate::io::output::{self, OutputError};
use crate::store::StoreError;
use crate::vault::client::VaultError;
use crate::volume::repository::OpenFailure;
use crate::volume::{Unfit, VolumeError};

/// Why a command failed: one exit for all errors.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code of the program.
    pub code: Exit,
    /// What happened, to what.
    pub message: String,
    /// What to do, a line each.
    pub hints: Vec<String>,
    /// Tries left at the vault, where it said so.
    pub tries_left: Option<u8>,
}

impl Failure {
    /// A failure without hints.
    pub fn new(code: Exit, message: impl std::fmt::Display) -> Self {
        Self { code, message: message.to_string(), hints: Vec::new(), tries_left: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        let mut failure = Self::new(error.exit_code(), &error);
        failure.tries_left = error.tries_left();
        failure
    }
}

impl From<crate::control::Failure> for Failure {
    /// A daemon's text has what happened in its first line, and what to do in the others.
    fn from(failure: crate::control::Failure) -> Self {
        let mut lines = failure.text.lines();
        let message = lines.next().unwrap_or_default();
        let hints = lines.map(|line| line.trim_start().to_owned()).collect();
        Self { hints, ..Self::new(failure.code, message) }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Damaged { .. } => Exit::Damage,
            StoreError::Missing { .. } | StoreError::Vanished { .. } => Exit::NotAllHere,
            StoreError::Away { .. } => Exit::Unusable,
            StoreError::UnknownEpoch { .. } => Exit::WrongSecret,
            StoreError::Newer { .. } => Exit::NoRepository,
            StoreError::Full => Exit::NoSpace,
            StoreError::State { .. }
            | StoreError::Io { .. }
            | StoreError::Republished { .. }
            | StoreError::Crowded { .. } => Exit::Other,
        };
        Self::new(code, error)
    }
}

impl From<OpenFailure> for Failure {
    fn from(error: OpenFailure) -> Self {
        match error {
            OpenFailure::Store(error) => error.into(),
            OpenFailure::HeaderDamaged(_) => Self::new(Exit::Damage, error)
                .hint("restore the file amberfs-*.amb from the cloud's older versions"),
            other => Self::new(Exit::NoRepository, other),
        }
    }
}

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Self {
        match error {
            VolumeError::Open(error) => error.into(),
            VolumeError::Store(error @ StoreError::Damaged { .. }) => Self::from(error).hint(
                "restore that file from the cloud's older versions; reading (-o ro) shows what \
                 was before it. Moved out of the repository, it is given up",
            ),
            VolumeError::Store(error) => error.into(),
            VolumeError::WrongKey => Self::new(Exit::WrongSecret, error),
            VolumeError::State(_) => Self::new(Exit::Other, error),
            VolumeError::Unfit { why, ref held, .. } => {
                let failure = Self::new(Exit::Unusable, &error);
                let failure = match why {
                    Unfit::Elsewhere => failure.hint(
                        "if it was moved, and nobody else uses this state: amberfs mount --adopt \
                         goes on with it",
                    ),
                    Unfit::Overtaken => failure,
                };
                if !held.is_readable() {
                    return failure.hint(
                        "to go on as a new device, give --state another folder; keep this one: \
                         what it holds is not brought back there",
                    );
                }
                let when = match why {
                    Unfit::Elsewhere => "if it was copied: ",
                    Unfit::Overtaken => "",
                };
                failure.hint(format!(
                    "{when}amberfs devices renew REPO gives this device a new id; it goes on with \
                     what its journal holds"
                ))
            }
            VolumeError::NoDevice { .. } | VolumeError::TooEarly { .. } => {
                Self::new(Exit::Usage, error)
            }
            VolumeError::SeveralDevices { .. } => Self::new(Exit::Usage, error)
                .hint("device= takes the first digits of an id too, four or more"),
            VolumeError::Waiting(_) => Self::new(Exit::NotAllHere, error).hint(
                "reading (-o ro) shows what was before it. A file that its device will never \
                 finish can be moved out of the repository: it is given up then",
            ),
            VolumeError::Unwritable { .. } => Self::new(Exit::Unusable, error)
                .hint("amberfs mount -o ro, ls, cat and extract read it without writing"),
            VolumeError::RolledBack(_) => Self::new(Exit::Rollback, error).hint(
                "let the sync client finish; if the folder really was put back, mount with \
                       a new --state folder to go on from what is there",
            ),
        }
    }
}

impl From<FsError> for Failure {
    fn from(error: FsError) -> Self {
        let failure = Self::new(error.exit(), error);
        match error {
            FsError::NotHere | FsError::Damaged => {
                failure.hint("amberfs check names the file in REPO")
            }
            _ => failure,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let code = match error.kind() {
            StorageFull | QuotaExceeded => Exit::NoSpace,
            _ => Exit::Other,
        };
        Self::new(code, error)
    }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        Self::new(error.exit_code(), error)
    }
}

/// Result of a command.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Tells a failure; returns the exit code.
pub(super) fn report(json: bool, failure: &Failure) -> Exit {
    if !json {
        print_failure(failure);
        return failure.code;
    }
    let object = serde_json::json!({
        "message_type": "exit_error",
        "code": failure.code.number(),
        "message": failure.message,
        "hints": failure.hints,
        "tries_left": failure.tries_left,
    });
    match output::object(&object).map_err(Failure::from) {
        Err(unheard) if unheard.code == Exit::NoReader => Exit::NoReader,
        // Where standard output takes nothing, standard error may.
        Err(_) => {
            print_failure(failure);
            failure.code
        }
        Ok(()) => failure.code,
    }
}

/// Prints a failure and its hints on standard error.
pub(super) fn print_failure(failure: &Failure) {
    if failure.code == Exit::NoReader {
        // Nobody reads this either.
        return;
    }
    note!("amberfs: {}", failure.message);
    for hint in &failure.hints {
        note!("  {hint}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What to do stood behind a question mark, in one line with what happened.
    #[test]
    fn a_daemons_lines_become_a_message_and_hints() {
        let text = "what happened\n  what to do\n  and more".into();
        let failure = Failure::from(crate::control::Failure { code: Exit::NoSpace, text });
        assert_eq!((failure.code, &*failure.message), (Exit::NoSpace, "what happened"));
        assert_eq!(failure.hints, ["what to do", "and more"]);
    }
}
