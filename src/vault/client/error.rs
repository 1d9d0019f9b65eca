//! What can go wrong between an owner and the vault, sorted by what the owner
//! can do.

use crate::io::Exit;
use crate::vault::line::ConnectError;
use crate::vault::protocol::{
    CostError, Ended, NoMemory, PasswordError, RecordState, Refusal, Seconds, Tries,
};

/// Why the vault did not do it.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The password is wrong; a try was spent.
    #[error("Wrong password. {}", after(.0))]
    WrongPassword(Tries),
    /// No tries are left.
    #[error(
        "The vault has closed this record: all tries are used up. The password can no longer open it; the 64-digit key still can."
    )]
    Closed {
        /// Seconds until the key material is erased.
        left: Seconds,
    },
    /// The registration is over.
    #[error("{}", over(*.0))]
    Ended(Ended),
    /// No such record.
    #[error(
        "The vault has no record for this folder. It may have been made at another vault; the 64-digit key still opens it."
    )]
    UnknownTicket,
    /// The registration was never finished.
    #[error("The record in the vault was never activated. Register the password again.")]
    NotActivated,
    /// Somebody wrote to the vault's ledger without the vault.
    #[error(
        "The vault has frozen this record: its ledger was changed from outside, and the count of tries cannot be trusted. Tell its operator. The 64-digit key still opens the folder; with it, register the password again."
    )]
    Tampered,
    /// Delays are running, or the vault is busy.
    #[error("{}", later(*.wait))]
    TryLater {
        /// Seconds until the next attempt is taken, if the vault said it.
        wait: Option<Seconds>,
        /// What is left, if the vault said it.
        tries: Option<Tries>,
    },
    /// Nothing answers, or what answers is no vault.
    #[error("The vault at {host} cannot be reached: {why}")]
    Unreachable {
        /// The endpoint that was asked.
        host: String,
        /// What the system, or the endpoint, answered.
        why: String,
    },
    /// An attempt was sent, and an answer to it did not arrive.
    #[error("The vault at {host} stopped answering in the middle of an attempt: {why}. {}", spent(*.right))]
    Unanswered {
        /// The endpoint that was asked.
        host: String,
        /// What the system, or the endpoint, answered.
        why: String,
        /// Whether the password was found right before it stopped.
        right: bool,
    },
    /// Another vault than the trusted one.
    #[error("This is not the vault you trust: {0}. Nothing was sent to it.")]
    NotPinned(String),
    /// The manifest is over.
    #[error(
        "The vault's manifest ended on {0}. It may be an old one that somebody kept, and this machine has not seen it before. Ask the operator to renew it (amberfs-vault root renew). The 64-digit key still opens the folder."
    )]
    Over(String),
    /// The password cannot be used; no try was spent.
    #[error("{0}")]
    Password(#[from] PasswordError),
    /// The cost in the locator is outside what amberfs computes.
    #[error("{0}")]
    Cost(#[from] CostError),
    /// Stretching the password failed on this machine.
    #[error(
        "This machine has too little free memory to stretch the password at the cost it was registered with. {}",
        if *.counted { COUNTED } else { "No try was spent." }
    )]
    Memory {
        /// Whether it failed only after an attempt had been sent.
        counted: bool,
    },
    /// The password opened an answer under a key that the root does not know.
    #[error(
        "The vault answered under a key that its manifest does not name: it, or something that stands in for it, is not to be trusted. Ask its operator. {COUNTED}"
    )]
    ForeignKey,
    /// The vault takes no new registrations from here.
    #[error(
        "The vault takes no new registrations without an invite or an account. Ask its operator for an invite, and give it by --invite-file FILE."
    )]
    RegistrationClosed,
    /// The invite does not count.
    #[error(
        "The vault does not take this invite: it is unknown, used, or too old. Ask its operator for another."
    )]
    Invite,
    /// Too many registrations.
    #[error(
        "The vault takes no more registrations for now: it counts those of an account by the day, and those of an address and of all strangers by the hour. Try again later."
    )]
    Budget,
    /// The record is bound to another account.
    #[error(
        "The vault sees no account that this record may be opened from. Give the token of the account that registered it by --vault-token FILE, and come by the relay that knows it. No try was spent. The 64-digit key still opens the folder."
    )]
    Account,
    /// A record was to be bound to an account, and the vault sees none.
    #[error(
        "The vault sees no account to bind the password to. Give an account's token by --vault-token FILE, and come by the relay that knows it; or leave --bind-account out. Nothing was registered."
    )]
    Unbindable,
    /// The folder's entry is not what was registered.
    #[error(
        "The folder's entry for the vault was changed: with it the right password would count as a wrong one. No try was spent. Let the sync client finish, or put the folder's register files back; the 64-digit key still opens the folder."
    )]
    Terms,
    /// The record was asked for too often.
    #[error(
        "This record was opened or noted too often within a day. Try again tomorrow. No try was spent. The 64-digit key still opens the folder."
    )]
    TooOften,
    /// The operator froze the record.
    #[error(
        "The vault's operator has frozen this record. Ask them. The 64-digit key still opens the folder."
    )]
    FrozenByStaff,
    /// The key does not speak for the record.
    #[error("The vault refused the signature: the record was made with another key.")]
    BadSignature,
    /// The vault answered something that the protocol does not allow.
    #[error("The vault answered something unexpected: {0}")]
    Unexpected(&'static str),
    /// Called with no keys or too many.
    #[error("between 1 and 8 keys can be kept in a vault record")]
    Keys,
}

const COUNTED: &str = "The attempt counts as a failure until one succeeds.";

fn after(tries: &Tries) -> String {
    let waiting = if tries.wait == 0 {
        " No waiting time.".to_owned()
    } else {
        " Wait before the next try.".to_owned()
    };
    match tries.left {
        0 => "No tries left: the vault has closed the record and will destroy the key.".to_owned(),
        1 => format!("1 of 10 tries left; after it the vault destroys the key.{waiting}"),
        left => {
            format!("{left} of 10 tries left; after the last the vault destroys the key.{waiting}")
        }
    }
}

fn spent(right: bool) -> &'static str {
    if right {
        "The password was right. Try again; this attempt counts as a failure until one succeeds."
    } else {
        "It may have counted one try. Try again."
    }
}

fn over(ended: Ended) -> &'static str {
    match ended {
        Ended::Exhausted => {
            "The vault has destroyed the key of this record: all tries were used up. The 64-digit key still opens the folder."
        }
        Ended::Superseded => {
            "This folder is behind: its password was changed on another device. Let the sync client finish, then try again."
        }
        Ended::Deleted => {
            "Opening by password was turned off for this folder, and the vault's record was deleted."
        }
        Ended::Removed => {
            "The vault's operator has deleted this record. The 64-digit key still opens the folder; with it, register the password again."
        }
        Ended::Abandoned => {
            "The registration was never finished, and the vault has dropped it. Register the password again."
        }
    }
}

fn later(wait: Option<u64>) -> String {
    match wait {
        Some(seconds) => {
            let (hours, minutes) = (seconds / 3600, (seconds % 3600).div_ceil(60));
            format!(
                "After several wrong passwords the vault makes everybody wait: the next try is possible in {hours} h {minutes} min. No try was spent."
            )
        }
        None => "The vault cannot do this right now. Try again later.".to_owned(),
    }
}

impl VaultError {
    /// The promised exit code.
    pub fn exit_code(&self) -> Exit {
        match self {
            Self::WrongPassword(_) => Exit::WrongSecret,
            Self::Closed { .. }
            | Self::Ended(_)
            | Self::UnknownTicket
            | Self::NotActivated
            | Self::Tampered
            | Self::Account
            | Self::FrozenByStaff => Exit::RecordDead,
            Self::TryLater { .. } | Self::Budget | Self::TooOften => Exit::TryLater,
            Self::Unreachable { .. } => Exit::VaultUnreachable,
            Self::NotPinned(_) | Self::ForeignKey | Self::Terms | Self::Over(_) => {
                Exit::NotThePinnedVault
            }
            Self::Memory { .. } => Exit::NoMemory,
            Self::Unanswered { .. } | Self::Unexpected(_) => Exit::Unanswered,
            Self::Password(_)
            | Self::Cost(_)
            | Self::RegistrationClosed
            | Self::Unbindable
            | Self::Invite
            | Self::BadSignature
            | Self::Keys => Exit::Other,
        }
    }

    /// Tries left, where the vault said it.
    pub fn tries_left(&self) -> Option<u8> {
        match self {
            Self::WrongPassword(tries) => Some(tries.left),
            Self::TryLater { tries, .. } => tries.map(|tries| tries.left),
            Self::Closed { .. } | Self::Ended(_) => Some(0),
            _ => None,
        }
    }

    pub(super) fn connect(host: &str, error: ConnectError) -> Self {
        match error {
            ConnectError::Manifest(crate::vault::protocol::ManifestError::Encoding(error)) => {
                let why = format!("its manifest {error}");
                Self::Unreachable { host: host.to_owned(), why }
            }
            ConnectError::Manifest(error) => Self::NotPinned(error.to_string()),
            ConnectError::NotASite => Self::NotPinned(ConnectError::NotASite.to_string()),
            ConnectError::Io(_) | ConnectError::Protocol(_) | ConnectError::Relay(_) => {
                Self::Unreachable { host: host.to_owned(), why: error.to_string() }
            }
        }
    }
}

impl From<NoMemory> for VaultError {
    fn from(_: NoMemory) -> Self {
        Self::Memory { counted: false }
    }
}

impl From<RecordState> for VaultError {
    fn from(state: RecordState) -> Self {
        match state {
            RecordState::Registering => Self::NotActivated,
            RecordState::Active { .. } => Self::Unexpected("an active record was refused"),
            RecordState::Closed { left } => Self::Closed { left },
            RecordState::Ended(ended) => Self::Ended(ended),
        }
    }
}

impl From<Refusal> for VaultError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownTicket => Self::UnknownTicket,
            Refusal::RegistrationClosed => Self::RegistrationClosed,
            Refusal::Taken => Self::Unexpected("the registration is taken"),
            Refusal::TooEarly(tries) => {
                Self::TryLater { wait: Some(tries.wait), tries: Some(tries) }
            }
            Refusal::WrongState(state) => state.into(),
            Refusal::BadProof(_) => Self::BadSignature,
            Refusal::UnknownAttempt => Self::Unexpected("the attempt is no longer known"),
            Refusal::TryLater => Self::TryLater { wait: None, tries: None },
            Refusal::Malformed => Self::Unexpected("it calls our message malformed"),
            Refusal::Tampered => Self::Tampered,
            Refusal::Invite => Self::Invite,
            Refusal::Budget => Self::Budget,
            Refusal::FrozenByStaff => Self::FrozenByStaff,
            Refusal::Account => Self::Account,
            Refusal::Terms => Self::Terms,
            Refusal::TooOften => Self::TooOften,
        }
    }
}
