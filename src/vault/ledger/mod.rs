//! Where records live: sealed values of one size under names that say nothing.
//!
//! Invariant: [`Durable`] can only be had from a ledger that has the value on
//! stable storage, and names are never deleted.

mod embedded;
mod seal;
#[cfg(test)]
pub(crate) mod sim;

pub use embedded::{EmbeddedLedger, FILE as LEDGER};
pub use seal::{RECORD_LIMIT, SealError, open_value, record_name, seal_value};

/// HMAC of a ticket under the lookup key.
pub type Name = [u8; 32];
/// Bytes of every sealed value.
pub const VALUE_SIZE: usize = 3968;
/// A sealed value.
pub type Value = Box<[u8; VALUE_SIZE]>;
/// Which write of a name a value comes from; rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// Proof that a swap is on stable storage at a quorum.
pub struct Durable(());

impl Durable {
    /// Only for implementations of [`Ledger`], after the write is durable.
    fn after_write() -> Self {
        Self(())
    }
}

/// Outcome of a compare-and-swap that was decided.
pub enum Swap {
    /// Written, durably.
    Written(Durable),
    /// Somebody else was first; nothing was written.
    Lost,
}

/// Why the ledger gave no decided outcome. After it a write may or may not have
/// happened: whoever asked must treat it as done and answer nothing.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The write or read failed.
    #[error("the ledger cannot be used: {0}")]
    Io(#[from] std::io::Error),
    /// A write failed earlier; the ledger must be opened anew.
    #[error("the ledger failed earlier and must be opened anew")]
    Poisoned,
    /// The file is not a ledger, or both copies of a value are damaged.
    #[error("the ledger is damaged: {0}")]
    Damaged(&'static str),
    /// No room for more names.
    #[error("the ledger is full")]
    Full,
}

/// A linearizable map with compare-and-swap. Calls block.
pub trait Ledger: Send + Sync {
    /// The newest value of a name.
    fn read(&self, name: &Name) -> Result<Option<(Revision, Value)>, LedgerError>;
    /// Writes if the name still has the revision `expected` (`None`: no value),
    /// and returns when the value is durable. `last` says that nothing of the
    /// values before may remain.
    fn swap(
        &self,
        name: &Name,
        expected: Option<Revision>,
        value: &Value,
        last: bool,
    ) -> Result<Swap, LedgerError>;
    /// Up to `limit` names above `after`, in order, for sweeping.
    fn list(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Name>, LedgerError>;
    /// Whether it can be used; after `false` it must be opened anew.
    fn is_usable(&self) -> bool {
        true
    }
}
