//! The relay: a front end for connections and accounts that reads nothing.
//!
//! A client connects to the relay by TLS with an ordinary certificate, presents
//! its account if the relay wants one ([`greeting`]), and speaks to a site inside
//! that connection, in the TLS of its own that ends at the site. The relay carries
//! those bytes, and tells the site who it lets in ([`assertion`]).
//!
//! [`greeting`]: super::protocol::greeting
//! [`assertion`]: super::protocol::assertion
//!
//! Invariant: nothing that a relay does, or lets be done, gives a password a try
//! more: tries are counted at the site. A relay can keep clients away, and see who
//! comes, when, and how much passes.

pub mod accounts;
mod holders;
pub mod issuer;
pub mod jwt;
mod serve;
mod sites;
#[cfg(test)]
mod tests;
mod tls;

pub use serve::{CONNECTIONS_MAX, DESCRIPTORS_EACH, Relay, RelayLimits, serve_relay};
pub use sites::Sites;
pub use tls::outer_server_config;
