//! The Backup Key Vault: keeps K for a password, allows a limited number of
//! guesses, and never learns either. `docs/vault.md` describes it.
//!
//! Both ends are here, in layers of their own, which `docs/architecture.md` has: the
//! client's are `protocol`, `line` and `client`; all others are of the feature `server`.
//!
//! Invariant: between two successes of a registration at most ten guesses are
//! evaluated, in the order of the ledger, whatever crashes, retries or races.

pub mod protocol;

pub mod line;

pub mod client;

#[cfg(feature = "server")]
mod budget;

#[cfg(feature = "server")]
pub mod config;

#[cfg(feature = "server")]
pub mod hsm;

#[cfg(feature = "server")]
pub mod ledger;

#[cfg(feature = "server")]
pub mod server;

#[cfg(feature = "server")]
pub mod listen;

#[cfg(feature = "server")]
pub mod serve;

#[cfg(feature = "server")]
pub mod relay;
