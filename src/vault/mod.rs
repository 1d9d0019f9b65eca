//! The Backup Key Vault: keeps K for a password, allows a limited number of
//! guesses, and never learns either. `docs/vault.md` describes it.
//!
//! Invariant: between two successes of a registration at most ten guesses are
//! evaluated, in the order of the ledger, whatever crashes, retries or races.

mod budget;
pub mod client;
pub mod config;
pub mod hsm;
pub mod ledger;
pub mod line;
pub mod listen;
pub mod protocol;
pub mod relay;
pub mod serve;
pub mod server;
