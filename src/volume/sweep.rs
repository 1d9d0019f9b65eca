//! What of a device's own folder nobody needs any more (`docs/merging.md`, section 11). Nothing is
//! removed here: it is a plan.
//!
//! Invariant: a chunk counts as needed wherever there is a doubt; what cannot be read ends the plan.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;

use super::kept::rows_in;
use super::live::{Reference, references};
use super::{DeviceHead, Volume, kept_in, name_of};
use crate::crypto::{DeviceId, Hash, hex};
use crate::format::commit::Name;
use crate::format::container::Kind;
use crate::format::ledger::{Container, Key as LedgerKey};
use crate::format::node::{Id, NO_ID};
use crate::io::Timestamp;
use crate::store::{Result, Store};
use crate::tree::{Root, Source};

/// Days on which a device runs that pass before what it gives back is removed.
pub const WAIT_STEPS: u64 = 7;
/// How many of a device's newest heads are never folded.
const UNFOLDED: usize = 2;

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

/// What would be given back of a device's own folder.
#[derive(Clone, Debug, Default)]
pub struct SweepPlan {
    /// All heads and objects of which the device's ledger has rows, the newest first.
    pub files: Vec<Planned>,
    /// Files of the device in no ledger and with no row: how many, and their bytes. They stay.
    pub unlisted: (u64, u64),
    /// Why nothing may be given back now; empty if it may.
    pub doubts: Vec<Doubt>,
    /// The devices whose answers are waited for.
    pub awaited: Vec<Awaited>,
}

impl SweepPlan {
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
        references(&node, &mut |reference| {
            match reference {
                Reference::Node(id) => self.node(&id)?,
                Reference::Chunk(id) => self.needed.push(short(&id)),
                Reference::Unknown => self.has_unknown = true,
            }
            Ok(())
        })
    }

    /// What is needed, ascending.
    fn finish(mut self) -> (Vec<u64>, bool) {
        self.needed.sort_unstable();
        self.needed.dedup();
        (self.needed, self.has_unknown)
    }
}

/// Rows of a ledger for heads and objects in the folder of a device.
fn containers_in(store: &Store, root: Root, of: &DeviceId) -> Result<BTreeMap<Hash, Container>> {
    let mut found = BTreeMap::new();
    rows_in(store, root, &[], |key, bytes| match key {
        LedgerKey::Container(device, hash) => {
            if device == *of {
                found.insert(hash, Container::decode(bytes)?);
            }
            Ok(ControlFlow::Continue(()))
        }
        _ => Ok(ControlFlow::Break(())),
    })?;
    Ok(found)
}

impl Volume {
    /// What would be given back of this device's folder, and what that waits for. The heads of all
    /// devices that are here count, and all commits that their ledgers keep.
    ///
    /// # Errors
    ///
    /// If anything that has to be looked at cannot be read: then nothing is known.
    pub fn plan_sweep(&self, own: DeviceId) -> Result<SweepPlan> {
        let (heads, base) = (self.heads(), self.base());
        let mut plan = SweepPlan::default();
        let behind = heads.behind.iter().map(ToString::to_string);
        let unusable = heads.unusable.iter().map(|head| head.error.to_string());
        let incomplete = heads.newest.iter().filter(|head| !head.complete);
        let incomplete = incomplete.map(|head| {
            format!("not all files of {} are here", super::named(&head.name, &head.device))
        });
        plan.doubts.extend(behind.chain(unusable).chain(incomplete).map(Doubt::NotAllHere));
        plan.doubts.extend(self.unseen(&heads.newest).map(Doubt::NotAllHere));
        let is_retired = |device: &DeviceId| base.inherited.is_retired(device);
        let others = heads.newest.iter().filter(|head| head.device != own);
        plan.awaited.extend(others.filter(|head| !is_retired(&head.device)).map(|head| Awaited {
            device: head.device,
            name: head.name.clone(),
            time: head.commit.time,
        }));
        let Some(newest) = heads.newest.iter().find(|head| head.device == own) else {
            return Ok(plan);
        };
        let (needed, has_unknown) = self.needed(&heads.newest, newest)?;
        if has_unknown {
            plan.doubts.push(Doubt::Unknown);
        }
        let devices = plan.awaited.len() + 1;
        plan.files = self.planned(newest, &needed, devices)?;
        let listed: HashSet<Hash> = plan.files.iter().filter_map(|file| file.name.hash()).collect();
        for (hash, device, size) in self.store.objects() {
            if device == own && !listed.contains(&hash) {
                plan.unlisted = (plan.unlisted.0 + 1, plan.unlisted.1 + size);
            }
        }
        Ok(plan)
    }

    /// States that count and that are not among these newest heads, in words: of a device that is named
    /// or has a folder, and of a device that was copied.
    fn unseen(&self, newest: &[DeviceHead]) -> impl Iterator<Item = String> {
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
            if here(&device).is_none() {
                let name = name_of(newest, &device);
                found.insert(format!("{name} has a folder here, and no state that can be used"));
            }
        }
        let is_newest = |hash: &Hash| newest.iter().any(|head| head.hash == *hash);
        if !base.inherited.parents.iter().all(is_newest) {
            found.insert("a device was copied, and both copies have written".into());
        }
        found.into_iter()
    }

    /// What the newest heads need, and the commits that their ledgers keep, as [`short`] numbers,
    /// ascending; and whether something in it is not known.
    fn needed(&self, heads: &[DeviceHead], own: &DeviceHead) -> Result<(Vec<u64>, bool)> {
        let (nodes, needed) = (HashSet::new(), Vec::new());
        let mut marker = Marker { store: &self.store, nodes, needed, has_unknown: false };
        for head in heads {
            marker.node(&head.commit.root.0)?;
            for kept in kept_in(&self.store, head.commit.ledger)?.values() {
                marker.node(&kept.root.0)?;
            }
        }
        marker.node(&own.commit.ledger.0)?;
        Ok(marker.finish())
    }

    /// The fates of all that the ledger of the `newest` own head has, where so many devices write.
    fn planned(&self, newest: &DeviceHead, needed: &[u64], devices: usize) -> Result<Vec<Planned>> {
        let own = newest.device;
        let rows = containers_in(&self.store, newest.commit.ledger, &own)?;
        let mut files: Vec<(Name, Container)> = Vec::new();
        for (hash, row) in rows {
            let name = match row.kind {
                Kind::Head => Name::Head { device: own, generation: row.generation, hash },
                _ => Name::Object { device: own, hash },
            };
            files.push((name, row));
        }
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
