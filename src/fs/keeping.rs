//! What the owner says of states of the past: which are kept, and for how long.

use std::sync::PoisonError;

use super::{Fs, FsError, Result};
use crate::format::namespace::Value;
use crate::format::node::Dotted;
use crate::format::record::Change;
use crate::format::setting::Retention;
use crate::io::Timestamp;
use crate::volume::{StoreError, SweepPlan, Swept};

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

    /// Gives back what nobody needs of this device's folder: publishes everything acknowledged so far,
    /// removes what is due, and has a head say what is given back from now on, if `agrees` to the plan.
    ///
    /// # Errors
    ///
    /// As [`Fs::checkpoint`], and if a state that counts cannot be read: then nothing is given back.
    pub fn sweep(&self, agrees: &dyn Fn(&SweepPlan) -> bool) -> Result<(SweepPlan, Swept)> {
        if self.options.read_only {
            return Err(FsError::ReadOnly);
        }
        let failed = |error| self.store_failed(&error);
        let _flushing = self.flushing_next();
        if let Some((_, Some(withheld))) = self.checkpoint_locked(false)? {
            return Err(self.store_failed(&withheld));
        }
        let volume = &self.volume;
        let own = volume.state().device;
        if volume.state().generation == 0 {
            return Ok(Default::default());
        }
        volume.count_days().map_err(failed)?;
        let mut plan = volume.plan_sweep(own).map_err(failed)?;
        if !plan.doubts.is_empty() || !agrees(&plan) {
            return Ok((plan, Swept::default()));
        }
        let mut swept = volume.remove_given(&mut plan).map_err(failed)?;
        let begun = volume.begin_giving(&plan).map_err(failed);
        // Others wait for this device, too.
        let is_owed = volume.owed_answer().is_some();
        let made = match begun {
            Ok(is_any) if is_any || is_owed => self.checkpoint_locked(true),
            other => other.map(|_| None),
        };
        volume.end_giving();
        if let Some((_, Some(withheld))) = made? {
            return Err(self.store_failed(&withheld));
        }
        volume.count_days().map_err(failed)?;
        swept.condemned = volume.condemned_of(&plan).map_err(failed)?;
        Ok((plan, swept))
    }

    /// Publishes everything acknowledged so far, and keeps that state under a name. Returns the
    /// generation of its head, and when it was made.
    ///
    /// # Errors
    ///
    /// As [`Fs::checkpoint`]: then no later state gets the name. [`FsError::Exists`] if a state of this
    /// device has it.
    pub fn keep(&self, label: &str) -> Result<(u64, Timestamp)> {
        if self.options.read_only {
            return Err(FsError::ReadOnly);
        }
        let _one = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = || self.volume.kept_as(label).map_err(|error| self.store_failed(&error));
        if kept()?.is_some() {
            return Err(FsError::Exists);
        }
        self.volume.keep(Some(label));
        let made = self.checkpoint();
        self.volume.keep(None);
        made?;
        let (generation, kept) = kept()?.ok_or(FsError::Io)?;
        Ok((generation, kept.time))
    }
}
