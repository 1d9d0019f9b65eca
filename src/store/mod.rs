//! Chunks and nodes in containers (heads and objects): index, caches, and what waits to be
//! published.
//!
//! Invariant: bytes handed out were authenticated and belong to the id that
//! was asked for; nothing enters REPO but sealed, complete and named by its
//! hash.
//!
//! Lock order: `published`, then that of `stage`, then that of `catalogue`, then those of its
//! index, then those of `caches`. No lock is held while a file is read or written, but for
//! `published` and the index's `spilling`.

mod catalogue;
mod container;
mod copies;
mod error;
mod index;
mod intents;
mod listing;
mod presence;
mod publishing;
mod reading;
mod reliance;
mod runs;
mod stage;
mod strays;
mod weighted;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use catalogue::Catalogue;
use intents::Intents;
use presence::Presence;
use publishing::Published;
use reading::Caches;
use stage::Stage;

use crate::crypto::{DeviceId, FileCipher, IdKeys, Purpose, RepoId, derive};
use crate::format::container::{FRAME_MAX, Prefix};
use crate::format::register::Keyring;
use crate::io::{Clock, PrivateFolder, Random, SyncedFolder, Timestamp};

pub use container::{Built, HEAD_DATA_MAX, OBJECT_TARGET, Reader, Writer, check_name, hash_of};
pub use copies::is_arriving;
pub use error::{Result, StoreError};
pub use index::Index;
pub use listing::{
    Candidate, Copies, Listing, files_below, is_no_folder, join, not_a_folder, renamed, unreadable,
};
pub use presence::Landmarks;
pub use publishing::Entered;
pub use reading::CacheSizes;
pub use reliance::{Reliance, Rows};
pub use stage::{Staged, Unpublished};
pub use strays::{
    Likeness, Oddity, Stray, is_of_a_client, like_device, like_folder, misplaced_file,
};

/// The keys of an open repository.
pub struct Context {
    /// The id of the repository.
    pub repo: RepoId,
    /// The epochs with their data keys, and the feature sets that count.
    pub keyring: Keyring,
    /// The keys for the ids of chunks and nodes, for hashes of names and for the chunker.
    pub ids: IdKeys,
}

impl Context {
    /// Makes a context of an opened keyring: derives the keys for ids.
    pub fn new(repo: RepoId, keyring: Keyring) -> Self {
        let ids = IdKeys::new(&keyring.id_key, &keyring.chunker_key, &repo);
        Self { repo, keyring, ids }
    }

    /// The cipher of a file with this prefix, if its epoch is known.
    pub fn file_cipher(&self, prefix: &Prefix) -> Option<FileCipher> {
        let epoch = self.keyring.epoch_key(&prefix.epoch)?;
        let key = derive(Purpose::FileSeal, epoch, &[&self.repo, &prefix.epoch, &prefix.salt]);
        Some(FileCipher::new(&key, prefix.aad(&self.repo)))
    }
}

/// Looks for what came into REPO since it was listed.
pub trait Lookout: Send + Sync {
    /// Has the store know the heads and objects that are in REPO at the time `now` of
    /// [`Clock::elapsed`]. Returns false if it did not look.
    fn look_again(&self, store: &Store, now: Duration) -> bool;

    /// The next look is made at once, however short a time after the last one.
    fn forget_last_look(&self);
}

/// The containers of one repository, as one device sees them: reads chunks and nodes from
/// them, and publishes new ones.
pub struct Store {
    context: Arc<Context>,
    folder: Arc<dyn SyncedFolder>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    device: DeviceId,
    published: Published,
    stage: Stage,
    catalogue: Catalogue,
    caches: Caches,
    intents: Intents,
    presence: Presence,
    lookout: OnceLock<Box<dyn Lookout>>,
}

impl Store {
    /// The longest chunk that a store takes, bytes.
    pub const CHUNK_MAX: u64 = FRAME_MAX;

    /// A store that knows no container yet. Without `state` nothing can be
    /// published.
    pub fn new(
        context: Arc<Context>,
        folder: Arc<dyn SyncedFolder>,
        state: Option<Arc<dyn PrivateFolder>>,
        (clock, random): (Arc<dyn Clock>, Arc<dyn Random>),
        device: DeviceId,
        sizes: CacheSizes,
    ) -> Self {
        Self {
            context,
            folder,
            clock,
            random,
            device,
            published: Published::default(),
            stage: Stage::default(),
            catalogue: Catalogue::new(device, state.clone()),
            caches: Caches::new(sizes),
            intents: Intents::new(state),
            presence: Presence::default(),
            lookout: OnceLock::new(),
        }
    }

    /// Who looks again before something counts as missing. The first one stays.
    pub fn set_lookout(&self, lookout: Box<dyn Lookout>) {
        let _ = self.lookout.set(lookout);
    }

    /// What is missing from here on is looked for at least once more.
    pub fn look_at_once(&self) {
        if let Some(lookout) = self.lookout.get() {
            lookout.forget_last_look();
        }
    }

    /// The id and the keys of the repository.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The device that opened the repository.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// REPO's folder, from which the store reads.
    pub fn folder(&self) -> &dyn SyncedFolder {
        &*self.folder
    }

    /// The time by the wall clock.
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Time since some fixed moment.
    fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }
}
