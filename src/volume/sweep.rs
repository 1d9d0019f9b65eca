//! What of a device's own folder nobody needs any more (`docs/merging.md`, section 11). Nothing is
//! removed here: it is a plan.
//!
//! Invariant: a chunk counts as needed wherever there is a doubt; what cannot be read ends the plan.

use std::collections::{BTreeSet, HashSet};
use std::sync::PoisonError;

use super::listed::containers_in;
use super::live::{Reference, references};
use super::{DeviceHead, Volume, kept_in, name_of};
use crate::crypto::{DeviceId, Hash, hex};
use crate::format::commit::{Commit, Name};
use crate::format::container::Kind;
use crate::format::ledger::Container;
use crate::format::namespace::Content;
use crate::format::node::{Id, NO_ID};
use crate::io::Timestamp;
use crate::store::{Result, Store, StoreError};
use crate::tree::{Root, Source};

/// Days on which a device runs that pass before what it gives back is removed.
pub const WAIT_STEPS: u64 = 7;
/// How many of a device's newest heads are never folded.
const UNFOLDED: usize = 2;
/// Days on which a device runs for which it remembers what it gave back, to remove it again if a client
/// brings it back.
const FORGET_STEPS: u64 = 60;

/// What is to become of a head or object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays: something that only it has is needed, or it is one of the newest heads.
    Stays,
    /// Nothing in it is needed that a newer file of the device does not have.
    Unneeded,
    /// It is an old head: what is needed of it goes into the next one.
    Folded,
}

/// A head or object of the device that makes the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The name of the head or object.
    pub name: Name,
    /// What the ledger of the device says of the file.
    pub row: Container,
    /// What is to become of the file.
    pub fate: Fate,
    /// Bytes of all chunks and nodes in the file, unpacked.
    pub held: u64,
    /// Of these the bytes that are needed and that no newer file of the device has.
    pub needed: u64,
}

/// Why nothing may be given back now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A newer state of a device is known and not here, or here and not to be used: which, in words.
    NotAllHere(String),
    /// Something in a tree is of a later version, and may name what nobody here knows of.
    Unknown,
}

/// A device that has to say that it knows what is given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// The id of the device that is waited for.
    pub device: DeviceId,
    /// What the device calls itself.
    pub name: String,
    /// When the device published its newest state that is here.
    pub time: Timestamp,
}

/// How much of a device's folder a sweep may give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portion {
    /// Everything that is not needed.
    All,
    /// Everything, if it has at most a fifth of the bytes of the folder; else nothing is given back, and nothing
    /// removed that is due.
    AllIfFifth,
    /// Up to a fifth of the bytes of the folder, or one file; the oldest files first.
    Fifth,
}

/// The states of which a plan is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Basis {
    own: (u64, Hash),
    heads: Vec<Hash>,
    parents: Vec<Hash>,
}

/// What would be given back of a device's own folder.
#[derive(Clone, Debug, Default)]
pub struct SweepPlan {
    /// All heads and objects of which the device's ledger has rows, the newest first.
    pub files: Vec<Planned>,
    /// Files of the device in no ledger and with no row: how many, and their bytes. They stay.
    pub unlisted: (u64, u64),
    /// What is given back already, and of which the ledger has a row still.
    pub given: Vec<GivenBack>,
    /// Why nothing may be given back now; empty if it may.
    pub doubts: Vec<Doubt>,
    /// The devices whose answers are waited for.
    pub awaited: Vec<Awaited>,
    /// What the states that count need, as [`short`] numbers, ascending.
    needed: Vec<u64>,
    /// The newest own generation that the device itself, or another one, surely has.
    held: u64,
}

/// A head or object that is given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenBack {
    /// The name of the head or object.
    pub name: Name,
    /// What the ledger of the device says of the file.
    pub row: Container,
    /// Whether the file is here.
    pub is_here: bool,
    /// Days on which the device has to run until it is removed, if all devices know of it.
    pub days: u64,
    /// Devices that do not know yet that it is given back.
    pub awaited: Vec<DeviceId>,
    /// Whether all devices know of it, and the wait is over.
    pub is_due: bool,
    /// Whether something in it is needed and cannot be read elsewhere, as was found when it was to be
    /// removed.
    pub is_needed_alone: bool,
    /// Whether it was removed so long ago that it is not remembered any more.
    is_forgotten: bool,
}

impl SweepPlan {
    /// Whether a state that counts needs a chunk or node, or may need it.
    pub(super) fn is_needed(&self, id: &Id) -> bool {
        self.needed.binary_search(&short(id)).is_ok()
    }

    /// The newest own generation that another device holds, or that this one, alone, has had for long.
    pub(super) fn held_generation(&self) -> u64 {
        self.held
    }

    /// Of what is gone, that of which the ledger needs no row any more: so long ago that no client brings
    /// it back. A head after it names the newest head that is gone.
    pub(super) fn forgotten(&self) -> impl Iterator<Item = Hash> {
        let heads = self.given.iter().filter(|file| file.row.kind == Kind::Head && !file.is_here);
        let newest = heads.map(|file| file.row.generation).max();
        let is_old = move |file: &&GivenBack| {
            let is_newest = file.row.kind == Kind::Head && Some(file.row.generation) == newest;
            !file.is_here && file.is_forgotten && !is_newest
        };
        self.given.iter().filter(is_old).filter_map(|file| file.name.hash())
    }

    /// Whether so much is not needed that the portion has nothing of it.
    pub fn is_too_much(&self, portion: Portion) -> bool {
        portion == Portion::AllIfFifth && self.total(Fate::Unneeded).1 > self.all_bytes() / 5
    }

    /// Leaves what is not needed, and is no part of the portion, for a later sweep.
    pub(crate) fn keep_to(&mut self, portion: Portion) {
        if portion != Portion::Fifth {
            return;
        }
        let most = self.all_bytes() / 5;
        let mut taken = 0;
        // The files are there in the order of their age, the newest first.
        for file in self.files.iter_mut().rev().filter(|file| file.fate == Fate::Unneeded) {
            if taken == 0 || taken + file.row.size <= most {
                taken += file.row.size;
            } else {
                file.fate = Fate::Stays;
            }
        }
    }

    /// Bytes of all files of the device's folder of which the ledger has rows, and that are not removed.
    pub fn all_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.row.size).sum::<u64>() + self.waiting().1
    }

    /// Files that are given back and are not removed yet: how many, and their bytes.
    pub fn waiting(&self) -> (u64, u64) {
        let here = self.given.iter().filter(|file| file.is_here);
        here.fold((0, 0), |(count, size), file| (count + 1, size + file.row.size))
    }

    /// Files with this fate: how many, their bytes, and the bytes that are needed of them, unpacked.
    pub fn total(&self, fate: Fate) -> (u64, u64, u64) {
        let of = self.files.iter().filter(|file| file.fate == fate);
        of.fold((0, 0, 0), |(count, size, needed), file| {
            (count + 1, size + file.row.size, needed + file.needed)
        })
    }

    /// Of files that stay, those of which a part is not needed: how many, and roughly the bytes of the
    /// parts in the files.
    pub fn partly(&self) -> (u64, u64) {
        let partly = |file: &&Planned| file.fate == Fate::Stays && file.needed < file.held;
        self.files.iter().filter(partly).fold((0, 0), |(count, bytes), file| {
            let unneeded = u128::from(file.row.size) * u128::from(file.held - file.needed);
            (count + 1, bytes + (unneeded / u128::from(file.held.max(1))) as u64)
        })
    }
}

/// The first bytes of an id, as a number: where two ids have the same, both count as needed if one is.
fn short(id: &Id) -> u64 {
    let (first, _) = id.split_first_chunk().expect("an id has 16 bytes");
    u64::from_be_bytes(*first)
}

/// Follows trees, and notes what they need: about 8 bytes for each chunk, and 40 for each node.
struct Marker<'a> {
    store: &'a Store,
    nodes: HashSet<Id>,
    needed: Vec<u64>,
    has_unknown: bool,
}

impl Marker<'_> {
    fn node(&mut self, id: &Id) -> Result<()> {
        if *id == NO_ID || !self.nodes.insert(*id) {
            return Ok(());
        }
        self.needed.push(short(id));
        let node = self.store.node(id)?;
        references(&node, &mut |reference| self.follow(reference))
    }

    fn follow(&mut self, reference: Reference) -> Result<()> {
        match reference {
            Reference::Node(id) => self.node(&id)?,
            Reference::Chunk(id, _) => self.needed.push(short(&id)),
            Reference::Unknown => self.has_unknown = true,
        }
        Ok(())
    }

    /// What is needed, ascending.
    fn finish(mut self) -> (Vec<u64>, bool) {
        self.needed.sort_unstable();
        self.needed.dedup();
        (self.needed, self.has_unknown)
    }
}

/// The newest head of the device of which a plan is made.
struct OwnHead {
    device: DeviceId,
    generation: u64,
    hash: Hash,
    root: Root,
    ledger: Root,
}

impl Volume {
    /// Why nothing may be given back of this device's folder now, as far as it can be told without
    /// looking into the trees.
    pub(crate) fn doubts(&self, own: DeviceId) -> Vec<Doubt> {
        let heads = self.heads();
        let behind = heads.behind.iter().map(ToString::to_string);
        let unusable = heads.unusable.iter().map(|head| head.error.to_string());
        let incomplete = heads.newest.iter().filter(|head| !head.complete);
        let incomplete = incomplete.map(|head| {
            format!("not all files of {} are here", super::named(&head.name, &head.device))
        });
        let doubts = behind.chain(unusable).chain(incomplete);
        doubts.chain(self.unseen(&heads.newest, own)).map(Doubt::NotAllHere).collect()
    }

    /// The states of which a plan that is made now would be. To be taken before anything of them is looked at.
    pub(crate) fn basis_of_plan(&self, own: DeviceId) -> Basis {
        let newest = self.own_newest(own).map(|newest| (newest.generation, newest.hash));
        Basis {
            own: newest.unwrap_or_default(),
            heads: self.heads().newest.iter().map(|head| head.hash).collect(),
            parents: self.base().inherited.parents.clone(),
        }
    }

    /// What would be given back of this device's folder, and what that waits for. The heads of all
    /// devices that are here count, and all commits that their ledgers keep; so do these `open` contents,
    /// whoever has them.
    ///
    /// # Errors
    ///
    /// If anything that has to be looked at cannot be read: then nothing is known.
    pub fn plan_sweep(&self, own: DeviceId, open: &[Content]) -> Result<SweepPlan> {
        let heads = self.heads();
        let (doubts, awaited) = (self.doubts(own), self.awaited(own));
        let mut plan = SweepPlan { doubts, awaited, ..SweepPlan::default() };
        let Some(newest) = self.own_newest(own) else { return Ok(plan) };
        let (needed, has_unknown) = self.needed(&heads.newest, &newest, open)?;
        if has_unknown {
            plan.doubts.push(Doubt::Unknown);
        }
        let devices = plan.awaited.len() + 1;
        let rows = containers_in(&self.store, newest.ledger, &own)?;
        let (kept, given) = rows.iter().partition(|(_, row)| row.condemned == 0);
        plan.files = self.planned(&newest, kept, &needed, devices)?;
        (plan.given, plan.held) = self.find_given(&plan.awaited, &newest, given);
        plan.needed = needed;
        let listed: HashSet<Hash> = rows.into_keys().collect();
        for (hash, device, size) in self.store.objects() {
            if device == own && !listed.contains(&hash) {
                plan.unlisted = (plan.unlisted.0 + 1, plan.unlisted.1 + size);
            }
        }
        Ok(plan)
    }

    /// The newest head of the device of which a plan is made: that which this mount made, or the newest
    /// one that is here.
    fn own_newest(&self, own: DeviceId) -> Option<OwnHead> {
        let state = self.state();
        if state.device == own && state.generation > 0 {
            let said = self.own();
            let (generation, kept) = said.shown?;
            let (hash, root, ledger) = (state.head, kept.root, said.ledger);
            return Some(OwnHead { device: own, generation, hash, root, ledger });
        }
        let heads = self.heads();
        let head = heads.newest.iter().find(|head| head.device == own)?;
        let Commit { root, ledger, .. } = head.commit;
        let (generation, hash) = (head.generation, head.hash);
        Some(OwnHead { device: own, generation, hash, root, ledger })
    }

    /// What the ledger of this device has as given back, and what each file waits for.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub(crate) fn given_back(&self, own: DeviceId) -> Result<Vec<GivenBack>> {
        let Some(newest) = self.own_newest(own) else { return Ok(Vec::new()) };
        let rows = containers_in(&self.store, newest.ledger, &own)?;
        let rows = rows.iter().filter(|(_, row)| row.condemned != 0).collect();
        Ok(self.find_given(&self.awaited(own), &newest, rows).0)
    }

    /// The devices that have to know what this device gives back.
    fn awaited(&self, own: DeviceId) -> Vec<Awaited> {
        let (heads, base) = (self.heads(), self.base());
        let others = heads.newest.iter().filter(|head| head.device != own);
        let others = others.filter(|head| !base.inherited.is_retired(&head.device));
        let awaited = others.map(|head| Awaited {
            device: head.device,
            name: head.name.clone(),
            time: head.commit.time,
        });
        awaited.collect()
    }

    /// What is given back, what each file waits for, and the newest own generation that the device
    /// itself, or another one, surely has.
    fn find_given(
        &self,
        awaited: &[Awaited],
        newest: &OwnHead,
        rows: Vec<(&Hash, &Container)>,
    ) -> (Vec<GivenBack>, u64) {
        let (state, heads, own) = (self.state(), self.heads(), newest.device);
        let of_own = (newest.generation, &newest.hash);
        let held = |device: &DeviceId| {
            let head = heads.newest.iter().find(|head| head.device == *device);
            head.and_then(|head| head.held_of(&own, of_own)).map_or(0, |(generation, _)| generation)
        };
        let knows: Vec<(DeviceId, u64)> =
            awaited.iter().map(|of| (of.device, held(&of.device))).collect();
        let steps = |generation: u64| {
            let entered = state.entered.iter().find(|(of, _)| *of == generation);
            entered.map_or(0, |(_, entered)| state.steps.count.saturating_sub(*entered))
        };
        let waited = state.entered.iter().filter(|(of, _)| steps(*of) >= WAIT_STEPS);
        let alone = waited.map(|(generation, _)| *generation).max().unwrap_or(0);
        let held = knows.iter().map(|(_, generation)| *generation).max().unwrap_or(alone);
        let mut given = Vec::new();
        for (hash, row) in rows {
            let name = row.name(own, *hash);
            let days = WAIT_STEPS.saturating_sub(steps(row.condemned));
            let unaware = knows.iter().filter(|(_, generation)| *generation < row.condemned);
            let awaited: Vec<DeviceId> = unaware.map(|(device, _)| *device).collect();
            let is_due = days == 0 && awaited.is_empty();
            let is_forgotten = is_due && steps(row.condemned) >= FORGET_STEPS;
            let (row, is_here) = (*row, self.store.is_in_place(&name));
            let is_needed_alone = false;
            given.push(GivenBack {
                name,
                row,
                is_here,
                days,
                awaited,
                is_due,
                is_needed_alone,
                is_forgotten,
            });
        }
        (given, held)
    }

    /// Notes durably on how many days this device ran before each of its heads that give something back,
    /// and that this is another day, if it is one.
    pub fn count_days(&self) -> Result<()> {
        self.count(false)
    }

    /// As [`Volume::count_days`]; notes, too, that this device swept on this day.
    pub(crate) fn note_sweep(&self) -> Result<()> {
        self.count(true)
    }

    /// How many days on which this device ran have begun since the one on which it swept last.
    pub(crate) fn days_since_sweep(&self) -> u64 {
        let mut state = self.state();
        state.steps.advance(self.world.clock.now());
        state.steps.count.saturating_sub(state.swept)
    }

    fn count(&self, is_swept: bool) -> Result<()> {
        let condemned: BTreeSet<u64> = {
            let (own, device) = (self.own(), self.state().device);
            let rows = containers_in(&self.store, own.ledger, &device)?;
            rows.values().map(|row| row.condemned).filter(|at| *at > 0).collect()
        };
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.steps.advance(self.world.clock.now());
            let count = state.steps.count;
            if is_swept {
                state.swept = count;
            }
            state.entered.retain(|(generation, _)| condemned.contains(generation));
            let known: BTreeSet<u64> = state.entered.iter().map(|(of, _)| *of).collect();
            state.entered.extend(condemned.difference(&known).map(|of| (*of, count)));
            state.entered.sort_unstable();
        }
        self.store_state().map_err(|error| StoreError::state("device record", error))
    }

    /// States that count and that are not among these newest heads, in words: of a device that is named
    /// or has a folder, and of a device that was copied.
    fn unseen(&self, newest: &[DeviceHead], own: DeviceId) -> impl Iterator<Item = String> {
        let base = self.base();
        let is_retired = |device: &DeviceId| base.inherited.is_retired(device);
        let here = |device: &DeviceId| newest.iter().find(|head| head.device == *device);
        let mut found = BTreeSet::new();
        for head in newest {
            for (device, generation) in head.commit.processed.iter() {
                let is_here = here(&device).is_some_and(|head| head.generation >= generation);
                if !is_here && !is_retired(&device) {
                    let name = name_of(newest, &device);
                    found.insert(format!(
                        "state {generation} of {name} is known, and it is not here"
                    ));
                }
            }
        }
        for (_, device, _) in self.store.objects() {
            if device != own && here(&device).is_none() {
                let name = name_of(newest, &device);
                found.insert(format!("{name} has a folder here, and no state that can be used"));
            }
        }
        let own_head = self.state().head;
        let is_newest =
            |hash: &Hash| *hash == own_head || newest.iter().any(|head| head.hash == *hash);
        let mut processed = self.own().processed;
        processed.join(&base.inherited.merged);
        let joined = self.content_with(&processed);
        for head in newest.iter().filter(|head| head.device != own && !is_retired(&head.device)) {
            // A head without news brings nothing, once its device's news is joined.
            if !joined.has_all_of(&head.content()) {
                let name = super::named(&head.name, &head.device);
                found.insert(format!("state {} of {name} is not joined yet", head.generation));
            }
        }
        if !base.inherited.parents.iter().all(is_newest) {
            found.insert("a device was copied, and both copies have written".into());
        }
        found.into_iter()
    }

    /// What the newest heads need, the commits that their ledgers keep, and the `open` contents, as
    /// [`short`] numbers, ascending; and whether something in it is not known.
    fn needed(
        &self,
        heads: &[DeviceHead],
        own: &OwnHead,
        open: &[Content],
    ) -> Result<(Vec<u64>, bool)> {
        let (nodes, needed) = (HashSet::new(), Vec::new());
        let mut marker = Marker { store: &self.store, nodes, needed, has_unknown: false };
        let others = heads.iter().map(|head| (head.commit.root, head.commit.ledger));
        for (root, ledger) in others.chain([(own.root, own.ledger)]) {
            marker.node(&root.0)?;
            for kept in kept_in(&self.store, ledger)?.values() {
                marker.node(&kept.root.0)?;
            }
        }
        marker.node(&own.ledger.0)?;
        for reference in open.iter().filter_map(|content| Reference::of_content((*content, 0))) {
            marker.follow(reference)?;
        }
        Ok(marker.finish())
    }

    /// The fates of all that the ledger of the `newest` own head keeps, where so many devices write.
    fn planned(
        &self,
        newest: &OwnHead,
        rows: Vec<(&Hash, &Container)>,
        needed: &[u64],
        devices: usize,
    ) -> Result<Vec<Planned>> {
        let own = newest.device;
        let rows = rows.into_iter();
        let mut files: Vec<(Name, Container)> =
            rows.map(|(hash, row)| (row.name(own, *hash), *row)).collect();
        files.sort_by_key(|(name, row)| (std::cmp::Reverse(row.generation), name.clone()));
        let heads = files.iter().filter(|(_, row)| row.kind == Kind::Head).count() + 1;
        let folds = heads >= 2 * devices + 2;
        let mut provided = vec![false; needed.len()];
        let newest_name =
            Name::Head { device: own, generation: newest.generation, hash: newest.hash };
        self.weigh(&newest_name, needed, &mut provided)?;
        let (mut planned, mut seen) = (Vec::new(), 1);
        for (name, row) in files {
            let is_head = row.kind == Kind::Head;
            seen += usize::from(is_head);
            let (held, needed) = self.weigh(&name, needed, &mut provided)?;
            // A head that goes alone would be news, and be answered by a head: without an end.
            let fate = match is_head {
                true if folds && seen > UNFOLDED => Fate::Folded,
                // It goes with the heads that name it.
                false if row.kind == Kind::IndexRun => Fate::Stays,
                false if needed == 0 => Fate::Unneeded,
                _ => Fate::Stays,
            };
            planned.push(Planned { name, row, fate, held, needed });
        }
        Ok(planned)
    }

    /// The bytes of what a container holds, and of what of it is needed and not provided yet; it
    /// provides that from here on.
    fn weigh(&self, name: &Name, needed: &[u64], provided: &mut [bool]) -> Result<(u64, u64)> {
        let reader = self.store.open(name)?;
        let (mut held, mut live) = (0, 0);
        for chunk in &reader.directory().chunks {
            let len = u64::from(chunk.len);
            held += len;
            if let Ok(at) = needed.binary_search(&short(&chunk.id))
                && !std::mem::replace(&mut provided[at], true)
            {
                live += len;
            }
        }
        log::debug!("{}: {live} of {held} bytes are needed", hex(&name.hash().unwrap_or_default()));
        Ok((held, live))
    }
}
