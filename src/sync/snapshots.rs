//! The states of the past: what each head of each device shows.

use super::base::{Joining, based_on, read_and_join};
use super::plan::{Known, Verdict, Wanted, plan};
use super::tell;
use crate::crypto::DeviceId;
use crate::format::node::Id;
use crate::io::Timestamp;
use crate::store::StoreError;
use crate::volume::repository::{Repository, open_head};
use crate::volume::{Base, Volume, VolumeError};

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

/// What the repository showed at a time: of each device the newest state that it had published by then,
/// joined. It is read with the store of this volume, for as long as the result lives.
pub fn base_at(
    volume: &Volume,
    repository: &Repository,
    until: Timestamp,
) -> Result<Base, VolumeError> {
    let (store, own, until) = (&*volume.store, volume.state().device, Some(until));
    let wanted = Wanted { until, ..Wanted::default() };
    let heads = &repository.heads;
    let joining = Joining { own: Some(&own), until, ..Joining::default() };
    let decided = read_and_join(store, repository, heads, joining, |loaded| {
        Ok(plan(&loaded.here, &Known::default(), None, &wanted))
    })?;
    let oldest = decided.loaded.here.oldest_later;
    match (decided.plan.verdict, decided.joined) {
        (_, Some((base, _))) => Ok(base),
        (Verdict::StandOn(Some(at)), _) => Ok(based_on(store, &[&decided.loaded.heads[at]])?),
        (Verdict::Refuse(refusal), _) => Err(tell::refused(refusal, decided.loaded, repository, 0)),
        _ => Err(VolumeError::TooEarly { oldest }),
    }
}
