//! The line from client to site: TLS 1.3 with a raw public key (RFC 7250),
//! X25519MLKEM768 only, no tickets, no resumption, no early data.
//!
//! How a client that knows only a fingerprint gets to a trusted channel: it
//! connects, notes the key the site proved, asks for the manifest (nothing else
//! can be said on a [`Greeting`]), verifies it against the fingerprint, and
//! finds the noted key in it. Only then is there a [`Channel`].
//!
//! Invariant: a [`Channel`] exists only to a site named by a manifest that the
//! pinned root signed; every wait has a limit.

mod carrier;
mod connect;
mod outcome;
pub(crate) mod tls;

pub(crate) use carrier::WANTS_ACCOUNT;
pub(crate) use connect::pause;
pub use connect::{Channel, Greeting};
pub(crate) use outcome::ConnectError;
pub use outcome::Timeouts;
