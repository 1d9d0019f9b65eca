//! What an owner can count on, at every site of every vault.

use super::Seconds;

/// Guesses between two successes.
pub const TRIES: u8 = 10;
/// Failures in the life of a registration; never refilled.
pub const FAILURES: u8 = 50;
/// Days of grace in which a paid attempt still counts, in seconds.
pub const GRACE: Seconds = 7 * 24 * 3600;
/// Proofs of one attempt that are written down, right or wrong. Each is a write of the
/// ledger, and one try pays for all of them.
pub const PROOFS: u8 = 16;
