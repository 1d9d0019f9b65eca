//! What a caller asks of an opening.

use super::plan::{Purpose, Wanted};
use crate::crypto::Hash;
use crate::format::clock::Generations;
use crate::io::{PrivateFolder, Timestamp};
use crate::store::{CacheSizes, Store};
use crate::volume::state::State;

/// What is asked of an opening.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Name given to this device if it is new.
    pub device_name: String,
    /// What this device calls itself from now on, new or not.
    pub new_name: Option<String>,
    /// Use this device's newest head and no other (read-only).
    pub only_device: Option<String>,
    /// Without the heads that were made later than this (read-only).
    pub until: Option<Timestamp>,
    /// Opens for reading alone.
    pub read_only: bool,
    /// Repairs: goes on from the newest heads that can be used, as a new device.
    /// Holds the generations that an older state saw.
    pub repair: Option<Generations>,
    /// Read-only: the local state of this machine for the repository, if there is
    /// one.
    pub beside: Option<Beside>,
    /// Generations that devices told the vault.
    pub told: Generations,
    /// Goes on from what is here although newer heads of other devices are known:
    /// they are not missed again.
    pub accept_older: bool,
    /// Machine and folder, hashed.
    pub place: Hash,
    /// Goes on with local state that was bound to another machine or folder.
    pub adopt: bool,
    /// The repository was made just now: it has no head, and that is right.
    pub first: bool,
    /// How much the store's caches may hold.
    pub caches: CacheSizes,
}

impl OpenOptions {
    /// What of it decides on which head a volume is based.
    pub(super) fn wanted(&self) -> Wanted {
        let purpose = match &self.repair {
            Some(seen) => Purpose::Repair(seen.clone()),
            None if self.read_only => Purpose::Read,
            None => Purpose::Write,
        };
        Wanted {
            purpose,
            only_device: self.only_device.clone(),
            until: self.until,
            accept_older: self.accept_older,
            told: self.told.clone(),
        }
    }
}

/// Local state that lies beside a repository that is only read: what it knows of
/// newer heads. It was read before the repository was looked at.
#[derive(Clone, Debug)]
pub struct Beside {
    /// The record of the device.
    pub state: State,
    /// Names in its intent log.
    pub intents: Vec<String>,
}

impl Beside {
    /// Reads local state; none if there is none yet.
    pub fn load(folder: &dyn PrivateFolder) -> std::io::Result<Option<Self>> {
        let intents = Store::intents(folder)?;
        Ok(State::load(folder)?.map(|state| Self { state, intents }))
    }
}
