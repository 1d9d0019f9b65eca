//! The world that a volume lives in.

use std::sync::Arc;

use crate::io::{Clock, PrivateFolder, Random, SyncedFolder};

/// The outside world that a volume lives in.
#[derive(Clone)]
pub struct World {
    /// REPO.
    pub repo: Arc<dyn SyncedFolder>,
    /// Local state; `None` opens read-only without any.
    pub state: Option<Arc<dyn PrivateFolder>>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub random: Arc<dyn Random>,
}
