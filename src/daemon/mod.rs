//! Threads and lifetime of a mount.
//!
//! Invariant: `amberfs mount` returns success only when the mount is usable,
//! and the daemon ends only after everything acknowledged was handed to the
//! service's `close`.

mod clients;
mod guard;
mod launch;
mod log_file;
mod logging;
mod mounted;
mod mountpoint;
mod noting;
mod process;
mod requests;
mod run;
mod service;
mod swap;
mod synced;

pub use clients::Settings;
pub use guard::guard_if_asked;
pub use launch::{Child, Launched, Parent, launch};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use launch::{receive, reported, send};
pub use logging::{Destination, start_logging};
pub(crate) use mounted::Mounted;
pub use mountpoint::{Checks, Unfit, check_mountpoint, find_dead};
pub(crate) use noting::NoteWriter;
pub use process::{LockedBytes, harden, lock_in_memory, note_inherited, share_one_arena};
pub use run::{Setup, notify_ready, run};
pub use service::{Handle, Service, Why};
pub use swap::unencrypted_swap;
pub use synced::{Evidence, Synced, holder_of_both, synced_by};
