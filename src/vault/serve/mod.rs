//! A site's end of the line: who may come, and what they ask.
//!
//! Invariant: a request is taken only from whoever finished a handshake; under an
//! assertion of a relay one connection goes on, and no other.

mod admission;
mod seen;
mod site;
#[cfg(test)]
pub(crate) mod tests;
mod tls;

pub use admission::{Admission, Relays};
pub use site::{Limits, serve};
pub use tls::server_config;
