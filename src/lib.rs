//! amberfs: an encrypted backup file system for chat backups in cloud-sync
//! folders.
//!
//! The modules are layers: each imports only from those before it, in the
//! order below. `docs/architecture.md` has the picture.

#![cfg_attr(
    not(test),
    deny(
        clippy::disallowed_methods,
        clippy::print_stdout,
        clippy::print_stderr,
        clippy::dbg_macro
    )
)]

pub mod io;

pub mod crypto;

pub mod format;

pub mod tree;

pub mod store;

pub mod journal;

pub mod volume;

pub mod fs;

pub mod vault;

pub mod control;

pub mod fuse;

pub mod daemon;

pub mod cli;

#[cfg(all(feature = "server", any(test, feature = "fuzzing")))]
pub mod fuzzing;
