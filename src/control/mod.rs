//! Messages between command line and daemon, over a Unix socket that only the
//! user (and root) can speak to.
//!
//! Invariant: whatever comes through the socket is limited in length and
//! checked before it is used, and neither side waits for ever on the other.

mod client;
mod ended;
mod holders;
mod message;
mod mounts;
mod process;
mod registry;
mod server;
mod socket;
mod users;

pub use client::{Client, ControlError};
pub(crate) use ended::{note_end, take_end};
pub(crate) use message::char_boundary;
pub use message::{Described, Failure, Reply, Request};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use mounts::parse_mountinfo;
pub(crate) use mounts::{
    MountEntry, MountId, MountLocation, look_at, mount_at, mount_over, read_mounts,
};
pub(crate) use process::{GUARD_ARGUMENT, daemon_of};
pub use registry::{Registry, RunningDaemon};
pub use server::{Answer, Exchange, Handler, Server};
pub(crate) use users::Users;
