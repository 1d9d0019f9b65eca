//! Tests of the programs as people run them, and of the sources as a whole.
//!
//! Where /dev/fuse is missing the mounting ones are skipped, and say so.

#[path = "integration/asked.rs"]
mod asked;
#[path = "../benches/chats/lib.rs"]
mod chats;
#[path = "integration/cli.rs"]
mod cli;
#[path = "integration/commandline.rs"]
mod commandline;
#[path = "integration/conflicts.rs"]
mod conflicts;
#[cfg(all(feature = "etcd", feature = "fuzzing"))]
#[path = "integration/contended.rs"]
mod contended;
#[path = "integration/crowd.rs"]
mod crowd;
#[path = "integration/daemon.rs"]
mod daemon;
#[path = "integration/dependencies.rs"]
mod dependencies;
#[path = "integration/devices.rs"]
mod devices;
#[path = "integration/elsewhere.rs"]
mod elsewhere;
#[path = "integration/files.rs"]
mod files;
#[cfg(all(feature = "etcd", feature = "fuzzing"))]
#[path = "integration/fleet.rs"]
mod fleet;
#[cfg(all(feature = "etcd", feature = "fuzzing"))]
#[path = "integration/fleet_faults.rs"]
mod fleet_faults;
#[path = "integration/hung.rs"]
mod hung;
#[path = "integration/joined_reader.rs"]
mod joined_reader;
#[path = "integration/killed.rs"]
mod killed;
#[path = "integration/layers.rs"]
mod layers;
#[path = "integration/leaks.rs"]
mod leaks;
#[path = "integration/lifetime.rs"]
mod lifetime;
#[path = "integration/limits.rs"]
mod limits;
#[path = "integration/load.rs"]
mod load;
#[path = "integration/looked.rs"]
mod looked;
#[path = "integration/main_job.rs"]
mod main_job;
#[path = "integration/many.rs"]
mod many;
#[path = "../benches/memfs/mod.rs"]
mod memfs;
#[path = "integration/memory.rs"]
mod memory;
#[path = "integration/model.rs"]
mod model;
#[path = "integration/mounted.rs"]
mod mounted;
#[path = "integration/operations.rs"]
mod operations;
#[path = "integration/output.rs"]
mod output;
#[path = "integration/power.rs"]
mod power;
#[path = "integration/process.rs"]
mod process;
#[path = "integration/relay.rs"]
mod relay;
#[path = "integration/repair.rs"]
mod repair;
#[path = "integration/restore.rs"]
mod restore;
#[path = "integration/semantics.rs"]
mod semantics;
#[path = "../benches/memfs/service.rs"]
mod service;
#[path = "integration/snapshots.rs"]
mod snapshots;
#[path = "integration/strangers.rs"]
mod strangers;
#[path = "integration/strays.rs"]
mod strays;
#[path = "integration/token.rs"]
mod token;
#[path = "integration/trouble.rs"]
mod trouble;
#[path = "integration/units.rs"]
mod units;
#[path = "integration/vault.rs"]
mod vault;
#[path = "integration/walks.rs"]
mod walks;
#[path = "integration/wire.rs"]
mod wire;
#[path = "integration/world.rs"]
mod world;
