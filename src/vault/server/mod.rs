//! A site of the vault, without its network: records as a pure state machine
//! ([`step`]) and the thin part that evaluates, writes and only then answers.
//!
//! Invariant: a reply that depends on a write sits inside the [`Write`] and
//! comes out only against the ledger's [`Durable`](super::ledger::Durable).

#[cfg(feature = "pkcs11")]
pub mod ceremony;
mod effect;
mod evaluate;
mod folder;
mod metrics;
mod openly;
mod orders;
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

pub use effect::{Admission, Effect, Enrolment, Write};
pub use folder::{
    FolderError, Opened, accept, add_generation, copy_generations, create_site, drop_generation,
    install_manifest, join_site, open_rolled_back, open_site, view_site,
};
pub use metrics::Metrics;
pub use orders::{Answer, ORDER_LIMIT, Order, Which};
pub use record::{DAILY, Label, Material, PENDING_LIMIT, Pending, Record, State};
pub use rights::{COUNTED, REGISTRATIONS};
pub use roots::{Change, Made, NEXT, change_manifest, change_roots};
pub use rounds::{Census, Swept};
pub use served::{KEEP_EVERY, Served};
pub use site::{Caller, Site};
pub use staff::{Deed, Sight};
pub use step::{Asked, Policy, spend_step, step, sweep_step};
