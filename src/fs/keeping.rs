//! What the owner says of states of the past: which are kept, and for how long.

use super::{Fs, FsError, Result};
use crate::format::namespace::Value;
use crate::format::node::Dotted;
use crate::format::record::Change;
use crate::format::setting::Retention;
use crate::volume::StoreError;

impl Fs {
    /// Changes for how long all devices keep states of the past; each thins out its own when it makes
    /// a head. Returns what holds then. Nothing is changed where that is what held before.
    ///
    /// # Errors
    ///
    /// If what held before cannot be read; as for any change else.
    pub fn change_retention(&self, change: impl FnOnce(&mut Retention)) -> Result<Retention> {
        self.make_room(true);
        let mut state = self.lock();
        let key = Retention::key();
        let before = match state.overlays.edited(&key.encode()) {
            Some((dot, Value::Opaque(bytes))) => {
                let value = Dotted { dot: *dot, bytes: bytes.clone() };
                Retention::of(&[value])
                    .map_err(|error| StoreError::damaged("the setting of what is kept", error))
            }
            _ => self.volume.tree().retention(),
        };
        let before = before.map_err(|error| self.store_failed(&error))?;
        let mut after = before.clone();
        change(&mut after);
        if after != before {
            if self.options.read_only {
                return Err(FsError::ReadOnly);
            }
            let set = Change::Set(key, Value::Opaque(after.encode()));
            self.perform(&mut state, &[set])?;
        }
        Ok(after)
    }

    /// Has the next head keep what it shows under a name. Nothing is published yet.
    pub fn keep(&self, label: &str) -> Result<()> {
        if self.options.read_only {
            return Err(FsError::ReadOnly);
        }
        self.volume.keep(label);
        Ok(())
    }
}
