//! What a registration and an attempt are bound to, and the statements that
//! the owner signs. One function a statement, each with its own label.

use super::{Argon2Cost, AttemptId, FleetId, RegistrationId, SUITE, Ticket};
use crate::crypto::{Hash, RepoId, hash};
use crate::format::wire::Encoder;

/// The names that are sealed into the OPAQUE envelope at registration.
/// Changing one later locks the owner out, so they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The id of the repository.
    pub repo: RepoId,
    /// The id of the registration.
    pub registration: RegistrationId,
    /// The id of the fleet.
    pub fleet: FleetId,
}

impl Binding {
    /// OPAQUE's client identifier: repository id, registration id.
    pub fn client_id(&self) -> [u8; 32] {
        let mut id = [0; 32];
        id[..16].copy_from_slice(&self.repo);
        id[16..].copy_from_slice(&self.registration);
        id
    }

    /// OPAQUE's server identifier: the fleet id.
    pub fn server_id(&self) -> [u8; 16] {
        self.fleet
    }

    /// OPAQUE's context of one attempt: protocol version, fleet id,
    /// registration id, attempt id. No channel binding: a stored KE2 must stay
    /// valid on a second connection.
    pub fn context(&self, attempt: &AttemptId) -> Vec<u8> {
        let mut context = b"amberfs-vault/2".to_vec();
        context.extend_from_slice(&self.fleet);
        context.extend_from_slice(&self.registration);
        context.extend_from_slice(attempt);
        context
    }

    /// Associated data of the sealed payload.
    pub(crate) fn payload_aad(&self) -> Vec<u8> {
        let mut aad = b"amberfs-vault payload 1".to_vec();
        aad.extend_from_slice(&self.fleet);
        aad.extend_from_slice(&self.client_id());
        aad
    }
}

/// Why a registration is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ended {
    /// All tries were used up, and the seven days after that are over.
    Exhausted = 1,
    /// A newer registration took its place.
    Superseded = 2,
    /// The owner deleted the record.
    Deleted = 3,
    /// The owner did not activate the record within 24 hours.
    Abandoned = 4,
    /// The vault's operator deleted it.
    Removed = 5,
}

impl Ended {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Exhausted,
            2 => Self::Superseded,
            3 => Self::Deleted,
            4 => Self::Abandoned,
            5 => Self::Removed,
            _ => return None,
        })
    }
}

/// By what right somebody registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// None: where anybody may, or whoever has an account.
    Open,
    /// An invite from the operator.
    Invite(Invite),
    /// The owner has an active record at this vault, which the new one replaces.
    Successor {
        /// Names the old record.
        ticket: Ticket,
        /// The id of the registration that is replaced.
        registration: RegistrationId,
        /// Over [`succession_statement`], by the key derived from K for the old one.
        signature: [u8; 64],
    },
}

/// Whether a record opens for one account only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Bind {
    /// As the vault's operator has set it; a successor as the record before it.
    #[default]
    Usual = 0,
    /// Only for the account that registers it.
    Account = 1,
    /// For everybody who has ticket and password.
    Nobody = 2,
}

impl Bind {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Usual, Self::Account, Self::Nobody].into_iter().find(|bind| *bind as u8 == byte)
    }
}

/// Hash of what a client takes from the folder and computes with: repository id,
/// registration id, Argon2id cost. The client sends it with each attempt, and the vault
/// takes no try where it is not what was registered: whoever writes to the folder could
/// make the right password a wrong one otherwise.
pub fn terms_hash(repo: &RepoId, registration: &RegistrationId, cost: Argon2Cost) -> Hash {
    let mut terms = Encoder::new();
    terms.raw(b"amberfs-vault terms 1").raw(repo).raw(registration);
    cost.encode(&mut terms);
    hash(&terms.finish())
}

/// Longest name of an account.
pub const ACCOUNT_MAX: usize = 64;

/// Whether a text can name an account: 1 to [`ACCOUNT_MAX`] printable ASCII
/// characters, no space.
pub fn is_account(text: &str) -> bool {
    (1..=ACCOUNT_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What an invite is known by; random, 16 bytes.
pub type Invite = [u8; 16];

/// The statement that a new registration follows an old one of the same owner.
pub fn succession_statement(
    old: &Binding,
    registration: &RegistrationId,
    ticket: &Ticket,
) -> Vec<u8> {
    let mut statement = b"amberfs-vault succeed 1".to_vec();
    statement.extend_from_slice(&old.fleet);
    statement.extend_from_slice(&old.client_id());
    statement.extend_from_slice(registration);
    statement.extend_from_slice(ticket);
    statement
}

/// The statement that a note is the owner's.
pub fn note_statement(binding: &Binding, note: &[u8]) -> Vec<u8> {
    let mut statement = b"amberfs-vault note 1".to_vec();
    statement.extend_from_slice(&binding.fleet);
    statement.extend_from_slice(&binding.client_id());
    statement.extend_from_slice(note);
    statement
}

/// Why an owner ends a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retirement {
    /// A newer one is active.
    Superseded,
    /// Password opening is turned off.
    Deleted,
}

impl Retirement {
    /// What the tombstone will say.
    pub fn ended(self) -> Ended {
        match self {
            Self::Superseded => Ended::Superseded,
            Self::Deleted => Ended::Deleted,
        }
    }

    /// The statement signed by the key derived from K.
    pub(crate) fn statement(self, binding: &Binding) -> Vec<u8> {
        let mut statement = b"amberfs-vault retire 1".to_vec();
        statement.extend_from_slice(&binding.fleet);
        statement.extend_from_slice(&binding.client_id());
        statement.push(self.ended() as u8);
        statement
    }
}

/// All that was registered under a [`Binding`].
#[derive(Clone, Copy)]
pub struct Enrolled<'a> {
    /// Generation of the keys that evaluated the password.
    pub generation: u32,
    /// Whether the record opens only for the account that registered it.
    pub bound: bool,
    /// The client's [`terms_hash`], which says what it understood the vault to promise.
    pub terms: &'a Hash,
    /// OPAQUE's registration request, with the blinded password.
    pub request: &'a [u8],
    /// The evaluation of the blinded password.
    pub reply: &'a [u8],
    /// OPAQUE's registration upload, with the envelope.
    pub upload: &'a [u8],
    /// Public half of the key derived from K.
    pub verifying: &'a [u8; 32],
    /// Public half of the key for notes.
    pub note_key: &'a [u8; 32],
    /// What the record gives after a right proof, sealed by the client.
    pub payload: &'a [u8],
}

impl Enrolled<'_> {
    /// The hash of everything that was registered. Client and vault compute it each for
    /// itself; the activation signs it.
    pub fn hash(&self, binding: &Binding) -> Hash {
        let mut record = Encoder::new();
        record.raw(b"amberfs-vault record 2").u8(SUITE).u32(self.generation);
        record.raw(&binding.fleet).raw(&binding.client_id());
        record.u8(u8::from(self.bound)).raw(self.terms);
        record.bytes(self.request).bytes(self.reply).bytes(self.upload);
        record.raw(self.verifying).raw(self.note_key).bytes(self.payload);
        hash(&record.finish())
    }
}

/// The statement that activates a record.
pub fn activation_statement(record: &Hash) -> Vec<u8> {
    let mut statement = b"amberfs-vault activate 1".to_vec();
    statement.extend_from_slice(record);
    statement
}
