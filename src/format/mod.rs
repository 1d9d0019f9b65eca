//! Bytes to values and back for everything stored or sent, as `docs/format.md`
//! describes it.
//!
//! Invariant: encodings are canonical (one value, one encoding) and every
//! length that comes from outside has a limit.

pub mod clock;
pub mod commit;
pub mod container;
mod inode;
pub mod ledger;
pub mod namespace;
pub mod node;
pub mod record;
pub mod register;
pub mod setting;
pub mod side_files;
pub mod versions;
pub mod wire;
