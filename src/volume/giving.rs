//! Giving back what nobody needs (`docs/merging.md`, sections 11 and 12): the next head says in its ledger
//! which heads and objects of this device's folder it gives back; once all devices know that, and the
//! wait is over, they are removed.
//!
//! Invariant: what is given back is referred to by nothing new, and what is needed of it is stored again
//! with the head that says so. Nothing is removed of which a needed part cannot be read elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::listed::containers_in;
use super::sweep::{Fate, GivenBack, SweepPlan};
use super::{Volume, locked};
use crate::crypto::Hash;
use crate::format::commit::{Commit, Name, NewObject};
use crate::format::container::Kind;
use crate::format::ledger::{Container, Key as LedgerKey};
use crate::format::register::Features;
use crate::store::{Reliance, Result, Rows, StoreError};

/// An index run that is at least so long is named again, and not written anew with what came since.
const RUN_KEPT: u64 = 1 << 20;

/// What the next head says of files in this device's folder.
#[derive(Clone, Debug, Default)]
pub(super) struct Giving {
    /// Heads and objects that are given back from then on.
    condemned: BTreeSet<Hash>,
    /// Heads and objects of which the ledger needs no row any more.
    forgotten: BTreeSet<Hash>,
    /// Index runs that heads name which are given back, and that stay.
    pub(super) named: Vec<NewObject>,
    /// Whether something of old heads is stored again. It goes into objects: in the head it would be
    /// stored again with each sweep, and its newest copy would never be old enough for the others to go.
    pub(super) stores_again: bool,
}

impl Giving {
    /// Whether other devices must answer it.
    pub(super) fn is_news(&self) -> bool {
        !self.condemned.is_empty()
    }

    /// Whether rows of the ledger change.
    pub(super) fn changes_rows(&self) -> bool {
        !self.condemned.is_empty() || !self.forgotten.is_empty()
    }

    /// The rows that the head with this commit changes, of those that its ledger has.
    pub(super) fn rows(&self, commit: &Commit, rows: &Rows) -> Vec<(Vec<u8>, Option<Container>)> {
        let key = |hash: &Hash| LedgerKey::Container(commit.device, *hash).encode();
        let listed = self.condemned.iter().filter_map(|hash| Some((hash, rows.get(hash)?)));
        let kept = listed.filter(|(_, row)| row.condemned == 0);
        let condemned = kept.map(|(hash, row)| {
            (key(hash), Some(Container { condemned: commit.generation, ..*row }))
        });
        condemned.chain(self.forgotten.iter().map(|hash| (key(hash), None))).collect()
    }
}

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Heads and objects that are given back from now on: how many, and their bytes.
    pub condemned: (u64, u64),
    /// Heads and objects that were removed: how many, and their bytes.
    pub removed: (u64, u64),
    /// Heads and objects that are not needed and are left for a later sweep: how many, and their bytes.
    pub left: (u64, u64),
    /// Bytes that were to be removed and stay, because something in them is needed, and another copy of
    /// it is missing, cannot be read, or is too new. What cannot be read elsewhere was stored again.
    pub needed: u64,
}

impl Volume {
    /// The feature sets of the next head.
    pub(super) fn features_with(&self, giving: &Giving) -> Features {
        let mut features = self.features;
        // That another device gives back, its own heads say.
        features.read_only_compatible &= !Features::GIVES_BACK;
        let own = self.store.reliance(&self.state().device);
        if giving.changes_rows() || own.is_some_and(|own| own.gives_back) {
            features.read_only_compatible |= Features::GIVES_BACK;
        }
        features
    }

    /// A head was published with this.
    pub(super) fn note_given(&self, giving: &Giving, commit: &Commit, hash: Hash) {
        if !giving.changes_rows() {
            return;
        }
        match containers_in(&self.store, commit.ledger, &commit.device) {
            Ok(rows) => self.rely_on_own(rows, commit, hash),
            // What is condemned stays out of use as long as this process lives.
            Err(error) => log::error!("what this device keeps cannot be read: {error}"),
        }
    }

    fn rely_on_own(&self, rows: Rows, commit: &Commit, newest: Hash) {
        let (ledger, rows) = (commit.ledger, Some(Arc::new(rows)));
        let reliance = Reliance { ledger, rows, newest, gives_back: true, waits: true };
        self.store.set_reliance(commit.device, reliance);
    }

    /// Has the next head give back what the plan says: nothing new refers to that from here on, and what is
    /// needed of it waits for the head. Returns whether there is anything. To be ended by
    /// [`Volume::end_giving`], whatever comes of the head.
    ///
    /// # Errors
    ///
    /// If something that is needed cannot be read or stored again.
    pub fn begin_giving(&self, plan: &SweepPlan) -> Result<bool> {
        let own = self.state().device;
        let is_going = |fate| matches!(fate, Fate::Unneeded | Fate::Folded);
        let mut going: Vec<_> = plan.files.iter().filter(|file| is_going(file.fate)).collect();
        let mut rows = containers_in(&self.store, self.own().ledger, &own)?;
        let is_needed = plan.given.iter().any(|given| given.is_needed_alone);
        if going.is_empty() && plan.forgotten().next().is_none() && !is_needed {
            return Ok(false);
        }
        for hash in going.iter().filter_map(|file| file.name.hash()) {
            if let Some(row) = rows.get_mut(&hash) {
                row.condemned = u64::MAX;
            }
        }
        let base = self.base();
        self.rely_on_own(rows.clone(), &Commit { device: own, ..base.commit.clone() }, [0; 32]);
        // Content that is in no head yet may refer to it since the plan was made.
        let referred = self.store.referred_to();
        going.retain(|file| !referred.contains(&file.name));
        let mut giving = Giving::default();
        let folded = going.iter().filter(|file| file.fate == Fate::Folded);
        let folded: Vec<&Name> = folded.map(|file| &file.name).collect();
        giving.condemned = going.iter().filter_map(|file| file.name.hash()).collect();
        giving.forgotten = plan.forgotten().collect();
        giving.stores_again = going.iter().any(|file| file.needed > 0);
        for file in going.iter().filter(|file| file.needed > 0) {
            self.store_needed_again(&file.name, plan)?;
        }
        for given in plan.given.iter().filter(|given| given.is_needed_alone) {
            let reader = self.store.open(&given.name)?;
            for chunk in reader.directory().chunks.iter().filter(|of| plan.is_needed(&of.id)) {
                match self.store.keep_readable(&chunk.id, chunk.len) {
                    Err(error @ (StoreError::Missing { .. } | StoreError::Damaged { .. })) => {
                        log::error!("it is needed, and cannot be read anywhere: {error}");
                    }
                    other => other?,
                }
            }
        }
        self.list_again(&folded, &rows, &mut giving)?;
        let is_any = giving.changes_rows() || self.store.waits_for_container();
        *locked(&self.giving) = giving;
        Ok(is_any)
    }

    /// The heads from here on give nothing more back.
    pub fn end_giving(&self) {
        *locked(&self.giving) = Giving::default();
    }

    /// Of what the plan gives back, that which the ledger of the newest head has as given back: how many
    /// files, and their bytes.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn condemned_of(&self, plan: &SweepPlan) -> Result<(u64, u64)> {
        let rows = containers_in(&self.store, self.own().ledger, &self.state().device)?;
        let row = |name: &Name| name.hash().and_then(|hash| rows.get(&hash));
        let given = plan.files.iter().filter_map(|file| row(&file.name));
        let given = given.filter(|row| row.condemned != 0);
        Ok(given.fold((0, 0), |(count, size), row| (count + 1, size + row.size)))
    }

    /// Stores again what is needed of a head or object and in nothing else that is relied on.
    fn store_needed_again(&self, name: &Name, plan: &SweepPlan) -> Result<()> {
        let reader = self.store.open(name)?;
        let mut needed = reader.directory().chunks.iter().filter(|of| plan.is_needed(&of.id));
        needed.try_for_each(|chunk| self.store.keep_reliable(&chunk.id, true))
    }

    /// Lists again the objects that these heads name, as far as they stay: in an index run.
    fn list_again(&self, heads: &[&Name], rows: &Rows, giving: &mut Giving) -> Result<()> {
        let mut listed = Vec::new();
        for name in heads {
            let reader = self.store.open(name)?;
            let commit = Commit::decode(&reader.directory().extra);
            let commit = commit.map_err(|error| StoreError::damaged(&name.path(), error))?;
            for object in commit.objects {
                let stays = rows.get(&object.hash).is_some_and(|row| row.condemned == 0);
                if !stays {
                    continue;
                }
                if object.kind != Kind::IndexRun {
                    listed.push(object);
                } else if object.size >= RUN_KEPT {
                    giving.named.push(object);
                } else {
                    giving.condemned.insert(object.hash);
                    listed.extend(self.store.read_run(commit.device, &object)?);
                }
            }
        }
        let stays = |object: &NewObject| {
            let row = rows.get(&object.hash);
            row.is_some_and(|row| row.condemned == 0) && !giving.condemned.contains(&object.hash)
        };
        listed.retain(stays);
        if listed.is_empty() { Ok(()) } else { self.store.publish_run(&listed) }
    }

    /// Removes what the plan says is due, until `is_awaited`. What is needed of it was read elsewhere just
    /// now.
    pub fn remove_given(
        &self,
        plan: &mut SweepPlan,
        is_awaited: &dyn Fn() -> bool,
    ) -> Result<Swept> {
        let mut swept = Swept::default();
        let floor = plan.held_generation();
        let own = self.state().device;
        let rows = self.store.reliance(&own).and_then(|of| of.rows);
        let is_old = |name: &Name| {
            let (Name::Head { device, hash, .. } | Name::Object { device, hash }) = name else {
                return false;
            };
            let row = rows.as_ref().and_then(|rows| rows.get(hash));
            *device != own || row.is_some_and(|row| row.generation <= floor)
        };
        let mut given = std::mem::take(&mut plan.given);
        for file in given.iter_mut().filter(|file| file.is_due && file.is_here) {
            if is_awaited() {
                break;
            }
            let reader = match self.store.open(&file.name) {
                Ok(reader) => reader,
                Err(error) => {
                    // What is in it nobody knows then.
                    log::warn!("it is given back, and stays: {error}");
                    continue;
                }
            };
            let needed = reader.directory().chunks.iter().filter(|of| plan.is_needed(&of.id));
            let mut is_elsewhere = true;
            for chunk in needed {
                is_elsewhere &= self.store.is_readable_in(&chunk.id, chunk.len, &is_old)?;
            }
            if is_elsewhere {
                self.remove(file, &mut swept)?;
            } else {
                file.is_needed_alone = true;
                swept.needed += file.row.size;
            }
        }
        plan.given = given;
        Ok(swept)
    }

    fn remove(&self, file: &mut GivenBack, swept: &mut Swept) -> Result<()> {
        log::info!("removing {}: nobody needs it", file.name.path());
        self.store.remove_objects(std::slice::from_ref(&file.name))?;
        file.is_here = false;
        swept.removed = (swept.removed.0 + 1, swept.removed.1 + file.row.size);
        Ok(())
    }
}
