//! The states of the past: what each head of each device shows.

use crate::crypto::DeviceId;
use crate::format::node::Id;
use crate::io::Timestamp;
use crate::store::StoreError;
use crate::volume::Volume;
use crate::volume::repository::{Repository, open_head};

/// A state that a device published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The device that published it.
    pub device: DeviceId,
    /// What the device called itself then.
    pub name: String,
    /// The generation of its head, from 1.
    pub generation: u64,
    /// When it was published, by the wall clock of the device.
    pub time: Timestamp,
    /// How many files, directories and other inodes it has.
    pub inodes: u64,
    /// Sum of the sizes of its files, bytes.
    pub bytes: u64,
    root: Id,
}

/// The states in a repository, by time, and heads that cannot be read. Of heads of one device that
/// follow each other and show the same, the first counts.
pub fn snapshots(volume: &Volume, repository: &Repository) -> (Vec<Snapshot>, Vec<StoreError>) {
    let (mut found, mut unreadable): (Vec<Snapshot>, _) = (Vec::new(), Vec::new());
    for file in repository.heads.values().flatten() {
        let commit = match open_head(&volume.store, file) {
            Ok((commit, ..)) => commit,
            Err(error) => {
                unreadable.push(error);
                continue;
            }
        };
        let (root, _) = commit.root;
        let is_same = |last: &Snapshot| last.device == file.device && last.root == root;
        if !found.last().is_some_and(is_same) {
            found.push(Snapshot {
                device: file.device,
                name: commit.device_name,
                generation: file.generation,
                time: commit.time,
                inodes: commit.inodes,
                bytes: commit.bytes,
                root,
            });
        }
    }
    found.sort_by_key(|snapshot| (snapshot.time, snapshot.device, snapshot.generation));
    (found, unreadable)
}
