//! Where records live: sealed values of one size under names that say nothing.
//!
//! Invariant: [`Durable`] can only be had from a ledger that has the value on
//! stable storage. Names go only by [`Ledger::remove`]: those under which nothing was
//! ever guessed at. Whether somebody else deleted one or put an old value back, the
//! [`Lineage`] tells.

mod embedded;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(any(test, feature = "fuzzing"))]
pub mod history;
mod mark;
mod seal;
#[cfg(test)]
pub(crate) mod sim;

pub(crate) use embedded::{EmbeddedLedger, FILE as LEDGER, NAMES_LIMIT};
#[cfg(feature = "etcd")]
pub use etcd::EtcdLedger;
#[cfg(test)]
pub(crate) use mark::MARK;
pub use mark::read_mark;
pub(crate) use mark::{Guarded, MarkError, reset_mark};
pub(crate) use seal::{
    RECORD_LIMIT, SealError, account_name, clock_name, invite_name, seal_value, sealed_under,
};
pub use seal::{open_value, record_name};

/// HMAC of a ticket under the lookup key.
pub type Name = [u8; 32];
/// Bytes of every sealed value.
pub const VALUE_SIZE: usize = 3968;
/// A sealed value of the ledger. All have the same length.
pub type Value = Box<[u8; VALUE_SIZE]>;
/// The number of the write that made a value. It rises with each write of a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// How a name came to its value, as the ledger itself counts: who writes an old
/// value again makes a new version, who deletes and writes makes a new name. A
/// sealed record states the lineage that it must be found under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Revision of the write that made the name; 0 if it cannot be known, that
    /// is: in a value that makes a name, and in ledgers of before.
    pub created: Revision,
    /// Writes of the name since, that one included.
    pub version: u64,
}

impl Lineage {
    /// Of the value that makes a name.
    pub const FIRST: Self = Self { created: Revision(0), version: 1 };

    /// Of the value written next to the same name.
    #[must_use]
    pub fn next(self) -> Self {
        Self { version: self.version + 1, ..self }
    }
}

/// The newest value of a name.
pub struct Entry {
    /// What a swap must expect.
    pub revision: Revision,
    /// As the ledger counts.
    pub lineage: Lineage,
    /// The sealed value.
    pub value: Value,
}

/// A moment in a ledger's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The id of the etcd cluster; 0 for a ledger in a file.
    pub cluster: u64,
    /// Of its newest write of any name.
    pub revision: Revision,
}

/// Proof that a swap is on stable storage at a quorum.
pub struct Durable(Revision);

impl Durable {
    /// Only for implementations of [`Ledger`], after the write is durable.
    fn after_write(revision: Revision) -> Self {
        Self(revision)
    }

    /// The revision of the value that was written.
    pub fn revision(&self) -> Revision {
        self.0
    }
}

/// Outcome of a compare-and-swap that was decided.
pub enum Swap {
    /// The value is written durably.
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
    /// Nobody knows whether the write happened, or the read has no answer.
    #[error("the ledger did not answer: {0}")]
    Unanswered(String),
    /// A value that no vault wrote.
    #[error("the ledger has a value that no vault wrote")]
    Foreign,
    /// A file that the settings name, or what is in it.
    #[error("the ledger's settings: {0}")]
    Settings(String),
    /// The ledger is older than this site has seen it, or another one.
    #[error("{0}")]
    WentBack(#[from] WentBack),
}

/// A ledger that is not the one this site counted in, or was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WentBack {
    /// An old copy was restored, or writes were lost.
    #[error(
        "the ledger is at revision {found}, but this site has seen revision {seen}: an old copy \
         was put back, and tries with it"
    )]
    Older {
        /// The ledger's newest revision.
        found: u64,
        /// The highest that this site knows of.
        seen: u64,
    },
    /// The ledger is of another etcd cluster than the site used before.
    #[error("this is ledger {found:x}, but this site counted in ledger {seen:x}")]
    Other {
        /// The cluster that answers.
        found: u64,
        /// The id of the cluster that the site used before.
        seen: u64,
    },
}

/// A name, and what reading it gave.
pub type Listed = (Name, Result<Option<Entry>, LedgerError>);

/// A linearizable map with compare-and-swap. Calls block.
pub trait Ledger: Send + Sync {
    /// The newest value of a name.
    fn read(&self, name: &Name) -> Result<Option<Entry>, LedgerError>;
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
    /// Takes a name away, if it still has the revision `expected`, and returns when that
    /// is durable. Lost too where this ledger cannot do it now: the name stays, and may go
    /// another time.
    fn remove(&self, name: &Name, expected: Revision) -> Result<Swap, LedgerError>;
    /// Up to `limit` names above `after`, in order, for sweeping.
    fn list(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Name>, LedgerError>;
    /// Lists names in ascending order with their values, each as [`Ledger::read`] gives it:
    /// at most `limit` names that come after `after`.
    fn page(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Listed>, LedgerError> {
        one_by_one(self, after, limit)
    }
    /// The ledger's newest revision, read as [`Ledger::read`] reads.
    fn head(&self) -> Result<Head, LedgerError>;
    /// Takes notice of what others wrote; to be called now and then.
    fn tend(&self) -> Result<(), LedgerError> {
        Ok(())
    }
    /// What its operator should know before it stops.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
    /// Whether it can be used; after `false` it must be opened anew.
    fn is_usable(&self) -> bool {
        true
    }
}

fn one_by_one<L: Ledger + ?Sized>(
    ledger: &L,
    after: Option<&Name>,
    limit: usize,
) -> Result<Vec<Listed>, LedgerError> {
    let names = ledger.list(after, limit)?;
    Ok(names.into_iter().map(|name| (name, ledger.read(&name))).collect())
}

impl<L: Ledger + ?Sized> Ledger for std::sync::Arc<L> {
    fn read(&self, name: &Name) -> Result<Option<Entry>, LedgerError> {
        (**self).read(name)
    }
    fn swap(
        &self,
        name: &Name,
        expected: Option<Revision>,
        value: &Value,
        last: bool,
    ) -> Result<Swap, LedgerError> {
        (**self).swap(name, expected, value, last)
    }
    fn remove(&self, name: &Name, expected: Revision) -> Result<Swap, LedgerError> {
        (**self).remove(name, expected)
    }
    fn list(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Name>, LedgerError> {
        (**self).list(after, limit)
    }
    fn page(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Listed>, LedgerError> {
        (**self).page(after, limit)
    }
    fn head(&self) -> Result<Head, LedgerError> {
        (**self).head()
    }
    fn tend(&self) -> Result<(), LedgerError> {
        (**self).tend()
    }
    fn warnings(&self) -> Vec<String> {
        (**self).warnings()
    }
    fn is_usable(&self) -> bool {
        (**self).is_usable()
    }
}
