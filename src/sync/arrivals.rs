//! What came into REPO since it was listed, for a read that does not find what it needs.
//!
//! Invariant: it adds to what the store knows of containers, and changes nothing else.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::read::{LeftOut, Usable, load_heads};
use crate::crypto::DeviceId;
use crate::store::{Lookout, Store};
use crate::volume::repository::Repository;

/// How long after one look the next one is made.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks for heads and objects that came.
pub(super) struct Arrivals {
    own: DeviceId,
    /// When it looked last, by the clock that counts from the start.
    last: Mutex<Option<Duration>>,
}

impl Arrivals {
    /// Looks on behalf of this device, whose own heads are known.
    pub(super) fn new(own: DeviceId) -> Self {
        Self { own, last: Mutex::default() }
    }
}

impl Lookout for Arrivals {
    fn look_again(&self, store: &Store, now: Duration) -> bool {
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| now.saturating_sub(last) < PAUSE) {
                return false;
            }
            // Reading heads may lack something, too: it asks in vain then.
            *last = Some(now);
        }
        let found = Repository::find(store.folder())
            .ok()
            .filter(|found| found.repo == store.context().repo);
        let Some(repository) = found else { return false };
        if let Err(error) = store.list_objects(&repository.devices()) {
            log::info!("what is missing is not looked for again: {error}");
            return false;
        }
        store.add_copies(&repository.copies);
        let mut heads = repository.heads;
        heads.remove(&self.own);
        for files in heads.values_mut() {
            files.retain(|file| !store.is_known(&file.name()));
        }
        let left_out = LeftOut::new();
        load_heads(store, &heads, Usable { with_nodes: false, left_out: &left_out, until: None });
        true
    }

    fn forget_last_look(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
