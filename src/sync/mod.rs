//! From the heads of all devices to one volume: what is here is read, [`plan()`] decides,
//! and [`open()`] does it.
//!
//! Invariant: nothing is decided while something is read or written. Whoever changes when
//! a head counts, or when an opening is refused, changes `plan` alone.

mod arrivals;
mod base;
mod follow;
mod open;
mod options;
pub mod plan;
mod read;
mod snapshots;
mod tell;
#[cfg(test)]
mod tests_devices;
#[cfg(test)]
mod tests_giving;
#[cfg(test)]
mod tests_identity;
#[cfg(test)]
mod tests_kept;
#[cfg(test)]
mod tests_machines;
#[cfg(test)]
mod tests_pins;
#[cfg(test)]
mod tests_plan;
#[cfg(test)]
mod tests_snapshots;
#[cfg(test)]
mod tests_steps;
#[cfg(test)]
mod tests_sweep;
#[cfg(test)]
mod tests_versions;
#[cfg(test)]
mod tests_worlds;

pub use follow::{Follower, Looked};
pub use open::open;
pub use options::{Beside, OpenOptions};
pub use plan::plan;
pub use snapshots::{Past, Snapshot, Snapshots, bytes_apart, thinned};
