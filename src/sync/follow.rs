//! What other devices write while a volume is open.
//!
//! Invariant: a look changes nothing of the volume but what its store knows of containers.
//! Whoever asked for it decides whether the volume goes on from the new base.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::base::based_on;
use super::open::{known, take_unusable};
use super::options::OpenOptions;
use super::plan::{Plan, Verdict, Wanted, plan};
use super::read::{LeftOut, load_heads};
use super::tell;
use crate::crypto::{DeviceId, unhex};
use crate::format::clock::Generations;
use crate::io::SyncedFolder;
use crate::store::Stray;
use crate::volume::repository::Repository;
use crate::volume::{Base, Heads, Volume, VolumeError};

/// Looks for new heads of other devices, for one open volume.
pub struct Follower {
    wanted: Wanted,
    /// Paths and sizes of other devices' heads at the last look; none if another look is due in
    /// any case.
    last: Mutex<Option<BTreeSet<(String, u64)>>>,
}

/// What a look found.
pub struct Looked {
    /// What the volume would be based on from here on; none if that is the same as before.
    pub base: Option<Base>,
    /// The heads of all devices.
    pub heads: Heads,
    /// The newest generation of each device that local state has seen from here on.
    pub seen: Generations,
}

impl Follower {
    /// Of a volume that was opened with these options.
    pub fn new(options: &OpenOptions) -> Self {
        Self { wanted: options.wanted(), last: Mutex::default() }
    }

    /// Whether other heads of other devices are in REPO than at the last look, or that one has to
    /// be repeated. Lists folders and reads no file.
    pub fn has_news(&self, volume: &Volume) -> std::io::Result<bool> {
        let files = head_files(&*volume.world().repo, &volume.state().device)?;
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(last.as_ref() != Some(&files))
    }

    /// The next look is due in any case: what the last one found was not taken over.
    pub fn look_again(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Reads the heads that are here now, and joins them if the volume is not based on them.
    pub fn look(&self, volume: &Volume) -> Result<Looked, VolumeError> {
        let (world, store, state) = (volume.world(), &*volume.store, volume.state());
        let files = head_files(&*world.repo, &state.device)
            .map_err(|error| crate::store::StoreError::io("", error))?;
        let repository = Repository::find(&*world.repo)?;
        if repository.repo != state.repo {
            return Err(VolumeError::Waiting("the folder of this repository".into()));
        }
        store.list_objects(&repository.devices())?;
        store.add_copies(&repository.copies);
        let mut loaded = load_heads(store, &repository.heads, true, &LeftOut::new());
        loaded.here.features.merge(store.context().keyring.features);
        loaded.here.closed = tell::closed(&repository).map(|(_, device)| device).collect();
        loaded.here.hides = repository.strays.iter().any(Stray::hides);
        let own = known(&state, &repository.heads, &[]);
        let Plan { verdict, behind, seen, newest, unusable, .. } =
            plan(&loaded.here, &own, None, &self.wanted);
        let tips = match verdict {
            Verdict::StandOn(at) => at.into_iter().collect(),
            Verdict::Join(tips) => tips,
            Verdict::Replay => Vec::new(),
            Verdict::Refuse(refusal) => {
                return Err(tell::refused(refusal, loaded, &repository, state.generation));
            }
        };
        let hashes: BTreeSet<_> = tips.iter().map(|at| loaded.heads[*at].0.hash).collect();
        let is_same = tips.is_empty() || volume.base().heads() == Vec::from_iter(hashes);
        let base = if is_same {
            None
        } else {
            let tips: Vec<_> = tips.iter().map(|at| &loaded.heads[*at]).collect();
            Some(based_on(store, &tips)?)
        };
        let unusable = take_unusable(&mut loaded, &unusable, state.device);
        // What is on its way is looked for again.
        let is_whole = unusable.is_empty() && loaded.heads.iter().all(|(head, _)| head.complete);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = is_whole.then_some(files);
        let heads = loaded.heads.into_iter().enumerate();
        let heads = heads.filter(|(at, _)| newest.contains(at)).map(|(_, (head, _))| head);
        Ok(Looked { base, heads: Heads { newest: heads.collect(), behind, unusable }, seen })
    }
}

/// Paths and sizes of what lies in the folders of heads of all devices but `own`.
fn head_files(repo: &dyn SyncedFolder, own: &DeviceId) -> std::io::Result<BTreeSet<(String, u64)>> {
    let mut files = BTreeSet::new();
    for device in repo.list("")? {
        if unhex::<16>(&device.name).is_none_or(|id| id == *own) {
            continue;
        }
        let path = format!("{}/head", device.name);
        let listed = match repo.list(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            listed => listed?,
        };
        files.extend(listed.into_iter().map(|file| (format!("{path}/{}", file.name), file.size)));
    }
    Ok(files)
}
