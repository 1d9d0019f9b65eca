//! How many connections each account has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Connections of each account.
#[derive(Default)]
pub(super) struct Counts(Mutex<HashMap<String, usize>>);

/// A connection that counts for an account, until the value is dropped.
pub(super) struct Held(Arc<Counts>, String);

impl Counts {
    /// One more of `account`, if there are fewer than `limit`.
    pub(super) fn admit(self: &Arc<Self>, account: &str, limit: usize) -> Option<Held> {
        let mut counts = self.0.lock().expect("counting does not panic");
        let count = counts.entry(account.to_owned()).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Held(Arc::clone(self), account.to_owned()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().expect("counting does not panic");
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}
