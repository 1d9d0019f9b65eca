//! The line between client and site: TLS 1.3 with a raw public key (RFC 7250),
//! X25519MLKEM768 only, no tickets, no resumption, no early data.
//!
//! How a client that knows only a fingerprint gets to a trusted channel: it
//! connects, notes the key the site proved, asks for the manifest (nothing else
//! can be said on a [`Greeting`]), verifies it against the fingerprint, and
//! finds the noted key in it. Only then is there a [`Channel`].
//!
//! Invariant: a [`Channel`] exists only to a site named by a manifest that the
//! pinned root signed; every wait and every count has a limit.

mod carrier;
mod connect;
mod descriptors;
mod entrance;
mod origin;
mod places;
mod serve;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod tls;

pub use carrier::WANTS_ACCOUNT;
pub use connect::{Channel, ConnectError, Greeting, Timeouts, pause};
pub use descriptors::{TooFew, affordable, descriptors_for};
pub(crate) use descriptors::{is_own_trouble, wants_room};
pub use entrance::{Entrance, Relays};
pub(crate) use origin::Origin;
pub(crate) use places::{Place, Places};
pub(crate) use serve::not_accepted;
pub use serve::{Limits, serve};
pub(crate) use tls::outer_client_config;
pub use tls::{client_config, outer_server_config, server_config, spki};
