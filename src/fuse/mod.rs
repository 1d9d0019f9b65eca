//! Kernel requests to `fs::Operations` calls, and nothing else: this module
//! could be replaced by another kernel interface without touching `fs`.
//!
//! Invariant: every request is answered exactly once, a panic in one answers
//! EIO, and no event loop ever waits for the kernel (which may be waiting for
//! that event loop).

pub(crate) mod acl;
mod adapter;
mod answer;
mod capabilities;
mod convert;
mod dead;
mod direct;
mod dirty;
mod entries;
mod invalidate;
mod kernel_mount;
mod options;
mod privileges;
mod reading;
mod session;
mod shared;
mod syncs;
mod worker;
mod writeback;

pub use dead::{DeadMount, dead_mount_at, end_connection};
pub use invalidate::Invalidator;
pub use options::{Access, MountOptions};
pub use session::{MountError, Session, Unmount};
