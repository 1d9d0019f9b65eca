//! amberfs: an encrypted backup file system for chat backups in cloud-sync
//! folders.
//!
//! The library is what the programs `amberfs` and `amberfs-vault` are made of, and what tests,
//! benchmarks and fuzz targets call. It has no stable interface: programs by others go by the
//! command line (`docs/cli.md`) or by the format (`docs/format.md`), which stay.
//!
//! The modules are layers: each imports only from those before it, in the order of this table.
//! `docs/architecture.md` has the picture.
//!
//! | module | who calls it |
//! |---|---|
//! | [`io`], [`crypto`], [`format`], [`tree`], [`store`], [`journal`] | the layers above; tests and benchmarks, each part alone |
//! | [`volume`], [`sync`], [`fs`] | whoever opens a repository without the command line, as below |
//! | [`vault`] | `amberfs-vault`, which serves a vault, and [`cli`], which is its client |
//! | [`control`] | [`cli`] and [`daemon`], which speak with each other by it |
//! | [`fuse`], [`daemon`] | whoever mounts something that has [`fs::Operations`], as the file system in memory of the benchmarks |
//! | [`cli`] | the program `amberfs`, by [`cli::main`] alone |
//! | `fuzzing` | the targets in `fuzz/`, with the feature of its name |
//!
//! # Example
//!
//! A repository is opened with its 64-digit key, without local state, and its root is listed.
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use amberfs::crypto::parse_key;
//! use amberfs::format::namespace::ROOT;
//! use amberfs::fs::{Fs, NoLog, Operations, Options, Ownership};
//! use amberfs::io::{DirSynced, SystemClock, SystemRandom};
//! use amberfs::store::Context;
//! use amberfs::sync::{self, OpenOptions};
//! use amberfs::volume::World;
//! use amberfs::volume::repository::Repository;
//!
//! fn list(repo: &Path, digits: &str) -> Result<Vec<Vec<u8>>, Box<dyn std::error::Error>> {
//!     let key = parse_key(digits)?;
//!     let folder = Arc::new(DirSynced::new(repo, None));
//!     let repository = Repository::find(&*folder)?;
//!     let (keyring, register, _) = repository.unlock(&key).ok_or("the key of another one")?;
//!     let context = Arc::new(Context::new(repository.repo, keyring));
//!     let world = World {
//!         repo: folder,
//!         state: None,
//!         clock: Arc::new(SystemClock),
//!         random: Arc::new(SystemRandom),
//!     };
//!     let options = OpenOptions { read_only: true, ..OpenOptions::default() };
//!     let volume = sync::open(world, &repository, context, register, &options)?;
//!     let ownership =
//!         Ownership { uid: 0, gid: 0, record_self: false, force_uid: None, force_gid: None };
//!     let fs = Fs::new(volume, Box::new(NoLog), Options { read_only: true, ownership })?;
//!     let mut names = Vec::new();
//!     fs.readdir(ROOT, 0, false, &mut |entry| {
//!         names.push(entry.name.clone());
//!         true
//!     })?;
//!     Ok(names)
//! }
//! # use amberfs::crypto::{Secret, format_key, random_id};
//! # use amberfs::fs::Caller;
//! # use amberfs::io::DirFolder;
//! # use amberfs::volume::repository::init;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let place = tempfile::tempdir()?;
//! # let (repo, state) = (place.path().join("repo"), place.path().join("state"));
//! # std::fs::create_dir(&repo)?;
//! # std::fs::create_dir(&state)?;
//! # let (folder, random) = (Arc::new(DirSynced::new(&repo, None)), Arc::new(SystemRandom));
//! # let key = Secret::random(&*random);
//! # init(&*folder, &key, random_id(&*random), random_id(&*random), Vec::new(), &*random)?;
//! # let repository = Repository::find(&*folder)?;
//! # let (keyring, register, _) = repository.unlock(&key).ok_or("another key")?;
//! # let context = Arc::new(Context::new(repository.repo, keyring));
//! # let state = Some(Arc::new(DirFolder::new(&state)) as _);
//! # let world = World { repo: folder, state, clock: Arc::new(SystemClock), random };
//! # let first = OpenOptions { first: true, device_name: "a".into(), ..OpenOptions::default() };
//! # let volume = sync::open(world, &repository, context, register, &first)?;
//! # let ownership =
//! #     Ownership { uid: 0, gid: 0, record_self: false, force_uid: None, force_gid: None };
//! # let options = Options { read_only: false, ownership };
//! # let (fs, _) = Fs::recover(volume, amberfs::journal::Options::default(), options)?;
//! # fs.mkdir(Caller { uid: 0, gid: 0 }, ROOT, b"WhatsApp", 0o40_755)?;
//! # fs.checkpoint()?;
//! # drop(fs);
//! # assert_eq!(list(&repo, &format_key(&key))?, [&b"."[..], b"..", b"WhatsApp"]);
//! # Ok(())
//! # }
//! ```

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

pub mod merge;

pub mod journal;

pub mod volume;

pub mod sync;

pub mod fs;

pub mod vault;

pub mod control;

pub mod fuse;

pub mod daemon;

pub mod cli;

#[cfg(all(feature = "server", any(test, feature = "fuzzing")))]
pub mod fuzzing;
