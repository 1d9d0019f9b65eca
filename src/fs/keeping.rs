//! What the owner says of states of the past: which are kept, and for how long.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::{Fs, FsError, Result};
use crate::format::commit::Name;
use crate::format::namespace::Value;
use crate::format::node::Dotted;
use crate::format::record::Change;
use crate::format::setting::Retention;
use crate::io::Timestamp;
use crate::volume::{Fate, GivenBack, KeptChange, Portion, StoreError, SweepPlan, Swept};

/// How often a sweep is planned while others go on publishing, before they wait for it.
const PLANS: u32 = 2;

/// A state of the past of this device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptState {
    /// The one that has this name.
    Named(String),
    /// The newest that was made at this time or before.
    At(Timestamp),
}

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

    /// What would be given back of this device's folder. What is acknowledged and not published counts as
    /// it was published last; files that are open here count as they are.
    ///
    /// # Errors
    ///
    /// If a state that counts cannot be read: then nothing is known.
    pub fn plan_sweep(&self) -> Result<SweepPlan> {
        self.with_plan(&|| Ok(true), |plan| Ok(plan.unwrap_or_default()))
    }

    /// Calls `prepare` with `flushing` held, which says whether there is anything to plan for, plans without
    /// it, and gives the plan to `act` with `flushing` held, if the states are those of which it was made.
    /// If they changed too often it is planned with `flushing` held.
    fn with_plan<T>(
        &self,
        prepare: &dyn Fn() -> Result<bool>,
        act: impl FnOnce(Option<SweepPlan>) -> Result<T>,
    ) -> Result<T> {
        let own = self.volume.state().device;
        for left in (0..=PLANS).rev() {
            let mut flushing = Some(self.flushing_next());
            if !prepare()? {
                return act(None);
            }
            if left > 0 {
                flushing = None;
            }
            // First: what the states have that it names, or a file that is open then, is seen by the plan.
            let basis = self.volume.basis_of_plan(own);
            let plan = self.volume.plan_sweep(own, &self.open_contents());
            let _flushing = flushing.unwrap_or_else(|| self.flushing_next());
            // Of states that changed meanwhile a part may be gone.
            if self.volume.basis_of_plan(own) == basis {
                return act(Some(plan.map_err(|error| self.store_failed(&error))?));
            }
        }
        Err(FsError::Io)
    }

    /// Gives back what nobody needs of this device's folder: publishes everything acknowledged so far,
    /// removes what is due, and has a head say what is given back from now on. Nothing is done, and
    /// nothing returned of it, if the plan has a doubt, the portion leaves everything, or sweeps were
    /// ended. Operations go on meanwhile. Who needs a checkpoint while files are removed has it soon: the rest
    /// is left for the next sweep.
    ///
    /// # Errors
    ///
    /// As [`Fs::checkpoint`], and if a state that counts cannot be read: then nothing is given back.
    pub fn sweep(&self, portion: Portion) -> Result<(SweepPlan, Option<Swept>)> {
        if self.options.read_only {
            return Err(FsError::ReadOnly);
        }
        self.with_plan(&|| self.publish_for_sweep(), |plan| match plan {
            Some(plan) => self.sweep_by(plan, portion),
            None => Ok((SweepPlan::default(), Some(Swept::default()))),
        })
    }

    /// From here on no sweep changes anything.
    pub fn end_sweeps(&self) {
        self.sweeps_ended.store(true, Ordering::Relaxed);
    }

    /// With `flushing` held: publishes everything acknowledged. Returns whether this device has a folder.
    fn publish_for_sweep(&self) -> Result<bool> {
        if let Some((_, Some(withheld))) = self.checkpoint_locked(false)? {
            return Err(self.store_failed(&withheld));
        }
        if self.volume.state().generation == 0 {
            return Ok(false);
        }
        self.volume.count_days().map_err(|error| self.store_failed(&error))?;
        Ok(true)
    }

    /// With `flushing` held: does what the plan says, which is of the states that there are now.
    fn sweep_by(
        &self,
        mut plan: SweepPlan,
        portion: Portion,
    ) -> Result<(SweepPlan, Option<Swept>)> {
        let volume = &self.volume;
        let failed = |error| self.store_failed(&error);
        for doubt in volume.doubts(volume.state().device) {
            if !plan.doubts.contains(&doubt) {
                plan.doubts.push(doubt);
            }
        }
        let is_ended = self.sweeps_ended.load(Ordering::Relaxed);
        if !plan.doubts.is_empty() || plan.is_too_much(portion) || is_ended {
            return Ok((plan, None));
        }
        let (files, bytes, _) = plan.total(Fate::Unneeded);
        plan.keep_to(portion);
        let (taken, taken_bytes, _) = plan.total(Fate::Unneeded);
        let mut swept = volume.remove_given(&mut plan, &|| self.is_awaited()).map_err(failed)?;
        swept.left = (files - taken, bytes - taken_bytes);
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
        volume.note_sweep().map_err(failed)?;
        swept.condemned = volume.condemned_of(&plan).map_err(failed)?;
        let is_alone = |given: &&GivenBack| given.is_needed_alone;
        let alone: Vec<Name> =
            plan.given.iter().filter(is_alone).map(|given| given.name.clone()).collect();
        plan.given = volume.given_back(volume.state().device).map_err(failed)?;
        for given in &mut plan.given {
            given.is_needed_alone = alone.contains(&given.name);
        }
        Ok((plan, Some(swept)))
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
        self.publish_kept(KeptChange::Named(label.into()))?;
        let (generation, kept) = kept()?.ok_or(FsError::Io)?;
        Ok((generation, kept.time))
    }

    /// Publishes everything acknowledged so far, and keeps a state of this device of the past no longer.
    /// Returns the generation of its head, and when it was made.
    ///
    /// # Errors
    ///
    /// As [`Fs::checkpoint`]. [`FsError::NotFound`] if this device keeps no such state.
    pub fn remove_kept(&self, which: &KeptState) -> Result<(u64, Timestamp)> {
        if self.options.read_only {
            return Err(FsError::ReadOnly);
        }
        let _one = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |error| self.store_failed(&error);
        let found = match which {
            KeptState::Named(label) => self.volume.kept_as(label),
            KeptState::At(time) => self.volume.kept_at(*time),
        };
        let (generation, kept) = found.map_err(failed)?.ok_or(FsError::NotFound)?;
        self.publish_kept(KeptChange::Removed(generation))?;
        if self.volume.is_kept(generation).map_err(failed)? {
            return Err(FsError::Io);
        }
        Ok((generation, kept.time))
    }

    /// Publishes a head that changes what is kept so.
    fn publish_kept(&self, change: KeptChange) -> Result<()> {
        self.volume.change_kept(Some(change));
        let made = self.checkpoint();
        self.volume.change_kept(None);
        made.map(drop)
    }
}
