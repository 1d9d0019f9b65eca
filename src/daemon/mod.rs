//! Threads and lifetime of a mount.
//!
//! Invariant: `amberfs mount` returns success only when the mount is usable,
//! and the daemon ends only after everything acknowledged was handed to the
//! service's `close`.

mod calls;
mod clients;
mod guard;
mod launch;
mod log_file;
mod logging;
mod mounted;
mod mountpoint;
mod note;
mod process;
mod requests;
mod run;
mod service;
mod swap;
mod swept;
mod synced;
mod upkeep;

pub(crate) use calls::{Call, NewRetention};
pub use guard::guard_if_asked;
pub use launch::{Child, Launched, Parent, launch};
#[cfg(all(feature = "server", any(test, feature = "fuzzing")))]
pub(crate) use launch::{receive, reported, send};
pub use logging::{Destination, start_logging};
pub(crate) use mounted::Mounted;
pub(crate) use mountpoint::find_dead;
pub use mountpoint::{Checks, Unfit, check_mountpoint};
pub(crate) use note::NoteWriter;
pub(crate) use process::{harden, lock_in_memory, note_inherited, share_one_arena};
pub(crate) use run::notify_ready;
pub use run::{Setup, run};
pub use service::{Handle, Service, Why};
pub(crate) use swap::unencrypted_swap;
pub(crate) use swept::report;
