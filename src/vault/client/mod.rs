//! The owner's side: steps that consume their state, without any network, and
//! a thin blocking driver over them.
//!
//! Invariant: once a KE2 was seen no new attempt is started; the client's state
//! between KE1 and KE3 never leaves memory.

mod driver;
mod error;
mod login;
mod register;
#[cfg(all(test, feature = "server"))]
mod tests;

pub use driver::{Client, NewRecord, Pin, Token};
pub use error::VaultError;
pub use login::LoggingIn;
pub(crate) use login::Unlocked;
pub use register::Claim;
