//! What client and vault say to each other, and the values both compute.
//!
//! Invariant: every frame has one fixed size in each direction, every decoder
//! accepts exactly one encoding of a value, and nothing secret is named here
//! that is not wiped.

mod address;
pub mod assertion;
mod binding;
mod event;
pub mod greeting;
mod limits;
mod locator;
mod manifest;
mod message;
mod note;
mod password;
mod payload;
mod suite;
mod token;

pub use address::{Address, AddressError, ENDPOINTS_LIMIT, Endpoint, Fingerprint, Transport};
pub use binding::{
    ACCOUNT_MAX, Bind, Binding, Ended, Enrolled, Invite, Retirement, Right, activation_statement,
    is_account, note_statement, succession_statement, terms_hash,
};
pub use event::{EVENT, EVENTS, Event, EventKind, Events};
pub use limits::{FAILURES, GRACE, PROOFS, TRIES};
pub use locator::{LOCATOR_LIMIT, Locator};
pub use manifest::{
    AkeKey, MANIFEST_LASTS, MANIFEST_LIMIT, MANIFEST_WARNS, Manifest, ManifestError, Protection,
    Roots, SiteKey, sign_manifest, sign_more, signatures_of,
};
pub use message::{
    PROTOCOL, REPLY_SIZE, REQUEST_SIZE, RecordState, Refusal, Reply, Request, Tries, decode_reply,
    decode_request, encode_reply, encode_request,
};
pub use note::{MARKS_LIMIT, Mark, NOTE, NOTE_TEXT, Note, NoteError, NoteKeys};
pub(crate) use note::{decode_marks, encode_marks};
pub use password::{Password, PasswordError, UNICODE_VERSION};
pub use payload::{KEYS_LIMIT, PAYLOAD_SEALED, PayloadError, open_payload, seal_payload};
pub(crate) use suite::Rng;
pub use suite::{
    AKE_PUBLIC, Argon2Choice, Argon2Cost, CostError, KE1, KE2, KE3, LOGIN_STATE, NoMemory,
    REGISTER_REPLY, REGISTER_REQUEST, REGISTER_UPLOAD, SUITE, Stretch, Suite,
};
pub use token::{audience, new_token};

/// Names a fleet; random, 16 bytes.
pub type FleetId = [u8; 16];
/// What a client shows to reach its record; random, 16 bytes, new at every
/// registration.
pub type Ticket = [u8; 16];
/// Names a registration; random, 16 bytes.
pub type RegistrationId = [u8; 16];
/// Names an attempt; random, 16 bytes.
pub type AttemptId = [u8; 16];
/// A time in seconds since 1970, in UTC.
pub type Seconds = u64;
