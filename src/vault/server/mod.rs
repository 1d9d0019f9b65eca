//! A site of the vault, without its network: records as a pure state machine
//! ([`step`]) and the thin part that evaluates, writes and only then answers.
//!
//! Invariant: a reply that depends on a write sits inside the [`Write`](effect::Write) and
//! comes out only against the ledger's [`Durable`](super::ledger::Durable).

mod admin;
#[cfg(feature = "pkcs11")]
pub mod ceremony;
mod effect;
mod evaluate;
mod folder;
mod metrics;
mod openly;
mod record;
mod rights;
mod roots;
mod rounds;
mod served;
mod site;
mod staff;
mod step;
#[cfg(test)]
mod tests;

pub use admin::{ADMIN_LIMIT, AdminCommand, Answer, Which};
pub use folder::{
    FolderError, Opened, accept, add_generation, copy_generations, create_site, drop_generation,
    install_manifest, join_site, open_rolled_back, open_site, view_site,
};
#[cfg(test)]
pub(crate) use record::{Material, Pending};
pub use record::{PENDING_LIMIT, Record, State};
pub use roots::{Change, Made, NEXT, change_manifest, change_roots};
#[cfg(test)]
pub(crate) use served::Served;
pub(crate) use site::Caller;
pub use site::Site;
