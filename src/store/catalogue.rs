//! The catalogue: which containers exist, what the folders of objects hold, and which
//! containers should have a chunk. All of it is in memory, but for spilled rows of the index.
//!
//! Invariant: a container keeps its number for as long as the store lives, and each row of the
//! index names a container that has a number.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::container::Reader;
use super::index::Index;
use super::listing::{Copies, Listing};
use super::reliance::{Reliance, Reliances};
use super::strays::Stray;
use super::{Result, Store, StoreError};
use crate::crypto::{DeviceId, Hash};
use crate::format::commit::{Commit, Name, NewObject};
use crate::format::container::Kind;
use crate::format::node::Id;
use crate::io::PrivateFolder;

/// A head or object that chunks may be in.
struct Container {
    name: Name,
    /// The size of the container in bytes, as a head or its own directory states it.
    size: u64,
    /// The last inspection, if there was one.
    inspected: Option<Inspection>,
    /// The device whose heads name it, and the oldest generation that does. None of a head, and of
    /// what no head names yet.
    named: Option<(DeviceId, u64)>,
}

/// What an inspection of a container found.
#[derive(Clone, Copy)]
pub(super) struct Inspection {
    /// When it was, by [`Clock::elapsed`](crate::io::Clock::elapsed).
    pub at: Duration,
    /// Whether the container was in REPO at its full size.
    pub seen: bool,
}

#[derive(Default)]
struct Known {
    copies: Copies,
    /// What else the folders of objects hold.
    strays: Vec<Stray>,
    /// Verified copies that stand in for what is missing or bad.
    stand_ins: HashMap<Name, String>,
    /// Objects that no head names, once they were looked into.
    searched: Option<Vec<Name>>,
    containers: Vec<Container>,
    numbers: HashMap<Name, u32>,
    /// Where each object lies; a device's object may be in another's folder.
    objects: HashMap<Hash, (DeviceId, u64)>,
    /// Data objects that entered REPO since the last mount, or were adopted then.
    fresh: HashSet<u32>,
    /// Containers found bad, or not here at full size: they serve what they
    /// can and take no part in deduplication.
    bad: HashSet<u32>,
    reliances: Reliances,
    /// This device.
    own: DeviceId,
}

impl Known {
    fn number(&mut self, name: &Name, size: u64) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.containers.len() as u32;
        self.containers.push(Container { name: name.clone(), size, inspected: None, named: None });
        self.numbers.insert(name.clone(), number);
        number
    }

    fn add_copies(&mut self, copies: &Copies) {
        for (hash, paths) in copies {
            self.copies.entry(*hash).or_default().extend(paths.iter().cloned());
        }
    }

    /// Objects that heads name and that were not in their place at full size when
    /// they were listed: the name, the size that a head tells, and the size there,
    /// if a file is there.
    fn absent(&self) -> impl Iterator<Item = (&Name, u64, Option<u64>)> {
        let sizes = self.containers.iter().filter_map(|container| {
            let Name::Object { hash, .. } = &container.name else { return None };
            let listed = self.objects.get(hash).map(|found| found.1);
            Some((&container.name, container.size, listed))
        });
        let is_missed = |name: &Name| !self.reliances.is_given_back(name, &self.own);
        sizes.filter(move |(name, size, listed)| *listed != Some(*size) && is_missed(name))
    }

    /// The name of an object that a commit names, by the folder in which it lies, or should lie.
    fn name_of(&self, object: &NewObject, by: DeviceId) -> Name {
        let device = self.objects.get(&object.hash).map_or(by, |found| found.0);
        Name::Object { device, hash: object.hash }
    }

    /// Whether an object that a head of the device `by` names is listed at full size.
    fn is_listed(&self, object: &NewObject) -> bool {
        self.objects.get(&object.hash).is_some_and(|(_, size)| *size == object.size)
    }
}

/// Containers by number and name, listed objects, copies, and the index.
pub(super) struct Catalogue {
    known: RwLock<Known>,
    index: Index,
}

impl Catalogue {
    /// An empty catalogue, whose index spills rows to files of `state`.
    pub(super) fn new(own: DeviceId, state: Option<Arc<dyn PrivateFolder>>) -> Self {
        let known = Known { own, ..Known::default() };
        Self { known: RwLock::new(known), index: Index::new(state) }
    }

    // A panic elsewhere does not make the maps wrong: each is changed in one step.
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was found in the folders of objects in place of what was listed before.
    pub(super) fn list(&self, listing: Listing) {
        let mut known = self.write();
        known.objects = listing.objects;
        known.strays = listing.strays;
        known.searched = None;
        known.add_copies(&listing.copies);
    }

    /// Takes files that may be copies of heads and objects.
    pub(super) fn add_copies(&self, copies: &Copies) {
        self.write().add_copies(copies);
    }

    /// Takes objects off the list: they were removed.
    pub(super) fn forget(&self, names: &[Name]) {
        let mut known = self.write();
        for hash in names.iter().filter_map(Name::hash) {
            known.objects.remove(&hash);
        }
    }

    /// Objects listed: hash, device and size.
    pub(super) fn objects(&self) -> Vec<(Hash, DeviceId, u64)> {
        let known = self.read();
        known.objects.iter().map(|(hash, (device, size))| (*hash, *device, *size)).collect()
    }

    /// The device in whose folder an object lies, if it is listed.
    pub(super) fn owner(&self, object: &Hash) -> Option<DeviceId> {
        self.read().objects.get(object).map(|(owner, _)| *owner)
    }

    /// What else than objects is in the folders of objects.
    pub(super) fn strays(&self) -> Vec<Stray> {
        self.read().strays.clone()
    }

    /// Objects that heads name and that were not in their place at full size when
    /// they were listed: the name, the size that a head tells, and the size there,
    /// if a file is there.
    pub(super) fn absent(&self) -> Vec<(Name, u64, Option<u64>)> {
        let known = self.read();
        known.absent().map(|(name, size, listed)| (name.clone(), size, listed)).collect()
    }

    /// Absent objects that no file could be a copy of.
    pub(super) fn missing(&self) -> Vec<Name> {
        let known = self.read();
        let alone = |name: &&Name| name.hash().is_none_or(|hash| !known.copies.contains_key(&hash));
        known.absent().map(|(name, ..)| name).filter(alone).cloned().collect()
    }

    /// The path of an object with tree nodes that a commit names, and that is not here at its full
    /// size, nor as a copy.
    pub(super) fn lacking_nodes(&self, commit: &Commit) -> Option<String> {
        let known = self.read();
        let lacking = commit.objects.iter().find(|object| {
            object.kind == Kind::Metadata
                && !known.is_listed(object)
                && !known.copies.contains_key(&object.hash)
        })?;
        Some(known.name_of(lacking, commit.device).path())
    }

    /// The objects that a commit names and that are not listed here at full size; and whether a file
    /// could be a copy of each.
    pub(super) fn unlisted(&self, commit: &Commit) -> Vec<(Name, bool)> {
        let known = self.read();
        let unlisted = commit.objects.iter().filter(|object| !known.is_listed(object));
        let named = |object: &NewObject| {
            (known.name_of(object, commit.device), known.copies.contains_key(&object.hash))
        };
        unlisted.map(named).collect()
    }

    /// Whether an object is listed here at this size.
    pub(super) fn is_listed(&self, hash: &Hash, size: u64) -> bool {
        self.read().objects.get(hash).is_some_and(|(_, listed)| *listed == size)
    }

    /// Whether a file could be a copy of a head or object.
    pub(super) fn may_have_copy(&self, hash: &Hash) -> bool {
        self.read().copies.contains_key(hash)
    }

    /// Indexes objects that a head of this device and generation names. Those that are not listed
    /// here at full size take no part in deduplication.
    pub(super) fn add_objects(&self, by: (DeviceId, u64), objects: &[NewObject]) {
        let mut known = self.write();
        for object in objects {
            let listed = known.objects.get(&object.hash).copied();
            let device = listed.map_or(by.0, |found| found.0);
            let number = known.number(&Name::Object { device, hash: object.hash }, object.size);
            let named = &mut known.containers[number as usize].named;
            if named.is_none_or(|before| before.0 == by.0 && before.1 > by.1) {
                *named = Some(by);
            }
            if listed.is_none_or(|found| found.1 != object.size) {
                known.bad.insert(number);
            }
            self.index.insert(object.chunks.iter().copied(), number);
        }
        drop(known);
        self.index.spill_if_large();
    }

    /// Indexes what an index run of a device lists of objects that are here. What it lists
    /// besides may have been deleted since.
    pub(super) fn add_run(&self, by: (DeviceId, u64), mut objects: Vec<NewObject>) {
        {
            let known = self.read();
            objects.retain(|object| known.is_listed(object));
        }
        self.add_objects(by, &objects);
    }

    /// Indexes a container of `size` bytes with these chunks. Returns its number.
    pub(super) fn add(&self, name: &Name, size: u64, ids: impl IntoIterator<Item = Id>) -> u32 {
        let mut known = self.write();
        let number = known.number(name, size);
        self.index.insert(ids, number);
        drop(known);
        self.index.spill_if_large();
        number
    }

    /// Lists and indexes an object that entered REPO in this device's folder.
    pub(super) fn add_own(&self, device: DeviceId, object: NewObject) {
        let mut known = self.write();
        known.objects.insert(object.hash, (device, object.size));
        let number = known.number(&Name::Object { device, hash: object.hash }, object.size);
        if object.kind == Kind::Data {
            known.fresh.insert(number);
        }
        self.index.insert(object.chunks, number);
        drop(known);
        self.index.spill_if_large();
    }

    /// The name of a container.
    pub(super) fn name(&self, number: u32) -> Name {
        self.read().containers[number as usize].name.clone()
    }

    /// Whether a container has a number: a head names it, or it was published here.
    pub(super) fn is_known(&self, name: &Name) -> bool {
        self.read().numbers.contains_key(name)
    }

    /// Whether a container entered REPO since the last mount.
    pub(super) fn is_fresh(&self, number: u32) -> bool {
        self.read().fresh.contains(&number)
    }

    /// The containers that should have a chunk or node.
    pub(super) fn lookup(&self, id: &Id) -> Result<Vec<u32>> {
        self.index.lookup(id).map_err(|error| StoreError::state("index of chunks", error))
    }

    /// The containers that should have a chunk or node, those found bad last.
    pub(super) fn lookup_good_first(&self, id: &Id) -> Result<Vec<u32>> {
        let mut found = self.lookup(id)?;
        if found.len() > 1 {
            let known = self.read();
            found.sort_by_key(|number| known.bad.contains(number));
        }
        Ok(found)
    }

    /// Whether `good` holds for a container that should have a chunk or node.
    pub(super) fn is_in(&self, id: &Id, good: &dyn Fn(&Name) -> bool) -> Result<bool> {
        let found = self.lookup(id)?;
        if found.is_empty() {
            return Ok(false);
        }
        let known = self.read();
        Ok(found.into_iter().any(|number| good(&known.containers[number as usize].name)))
    }

    /// Whether any container should have a chunk or node; an error if the rows of the index
    /// cannot be read.
    pub(super) fn contains(&self, id: &Id) -> std::io::Result<bool> {
        self.index.contains(id)
    }

    /// Takes a container out of deduplication: writing the same content again stores it anew.
    pub(super) fn mark_bad(&self, number: u32) {
        self.write().bad.insert(number);
    }

    /// Takes all containers with these hashes out of deduplication.
    pub(super) fn mark_all_bad(&self, bad: &[Hash]) {
        let mut known = self.write();
        let numbers: Vec<u32> = known
            .numbers
            .iter()
            .filter(|(name, _)| name.hash().is_some_and(|hash| bad.contains(&hash)))
            .map(|(_, number)| *number)
            .collect();
        known.bad.extend(numbers);
    }

    /// Returns those of these containers that are not marked as bad, and that are relied on.
    pub(super) fn relied_on(&self, numbers: &[u32]) -> Vec<u32> {
        let known = self.read();
        let is_relied_on = |number: &u32| {
            let name = &known.containers[*number as usize].name;
            !known.bad.contains(number) && known.reliances.is_relied_on(name, &known.own)
        };
        numbers.iter().copied().filter(is_relied_on).collect()
    }

    /// Takes over what a device says of its folder.
    pub(super) fn set_reliance(&self, device: DeviceId, reliance: Reliance) {
        self.write().reliances.set(device, reliance);
    }

    /// What a device says of its folder, if it was read.
    pub(super) fn reliance(&self, device: &DeviceId) -> Option<Reliance> {
        self.read().reliances.get(device).cloned()
    }

    /// Whether nobody misses a container that is not here.
    pub(super) fn is_given_back(&self, name: &Name) -> bool {
        let known = self.read();
        known.reliances.is_given_back(name, &known.own)
    }

    /// Whether all of these containers are of devices that do not know of this one.
    pub(super) fn are_of_strangers(&self, numbers: &[u32]) -> bool {
        let known = self.read();
        let name = |number: &u32| &known.containers[*number as usize].name;
        numbers.iter().all(|number| known.reliances.is_of_stranger(name(number)))
    }

    /// The numbers of the objects that heads of a device name, up to this generation.
    pub(super) fn named_by(&self, device: &DeviceId, generation: u64) -> Vec<u32> {
        let known = self.read();
        let is_named = |container: &Container| {
            container.named.is_some_and(|(by, first)| by == *device && first <= generation)
                && !known.reliances.is_given_back(&container.name, &known.own)
        };
        let all = (0..).zip(&known.containers);
        all.filter(|(_, container)| is_named(container)).map(|(number, _)| number).collect()
    }

    /// What the last inspection of a container found, if there was one.
    pub(super) fn inspected(&self, number: u32) -> Option<Inspection> {
        self.read().containers[number as usize].inspected
    }

    /// Records an inspection of a container, which found a file of `size` bytes, or none.
    /// Returns what it is recorded as, and what was recorded before.
    pub(super) fn record_inspection(
        &self,
        number: u32,
        at: Duration,
        size: Option<u64>,
    ) -> (Inspection, Option<Inspection>) {
        let mut known = self.write();
        let container = &mut known.containers[number as usize];
        let inspection = Inspection { at, seen: size == Some(container.size) };
        (inspection, container.inspected.replace(inspection))
    }

    /// The copy that stands in for a file, if one does.
    pub(super) fn stand_in(&self, name: &Name) -> Option<String> {
        self.read().stand_ins.get(name).cloned()
    }

    /// Whether a copy stands in for a file.
    pub(super) fn is_copied(&self, name: &Name) -> bool {
        self.read().stand_ins.contains_key(name)
    }

    /// Where a file may be that is not where it was found last: in its place, if a copy stood in for it,
    /// and in other copies.
    pub(super) fn candidates(&self, name: &Name, hash: &Hash) -> Vec<String> {
        let known = self.read();
        let current = known.stand_ins.get(name);
        let copies = known.copies.get(hash).into_iter().flatten();
        let others = copies.filter(|path| Some(*path) != current).cloned();
        current.map(|_| name.path()).into_iter().chain(others).collect()
    }

    /// Has a verified copy stand in for a file, or the file itself, if the path is its own. Returns the
    /// file's number, if it has one.
    pub(super) fn set_stand_in(&self, name: &Name, path: String) -> Option<u32> {
        let mut known = self.write();
        if path == name.path() {
            known.stand_ins.remove(name);
        } else {
            known.stand_ins.insert(name.clone(), path);
        }
        known.numbers.get(name).copied()
    }

    /// Listed objects that no head names, for whoever asks first after they were listed;
    /// `None` for all others.
    pub(super) fn begin_search(&self) -> Option<Vec<Name>> {
        let mut known = self.write();
        if known.searched.is_some() {
            return None;
        }
        let names = known
            .objects
            .iter()
            .map(|(hash, (device, _))| Name::Object { device: *device, hash: *hash });
        let names: Vec<Name> = names.filter(|name| !known.numbers.contains_key(name)).collect();
        known.searched = Some(names.clone());
        Some(names)
    }

    /// The objects that no head named when they were searched for.
    pub(super) fn searched(&self) -> Vec<Name> {
        self.read().searched.clone().unwrap_or_default()
    }
}

impl Store {
    /// Indexes the objects that a commit names. Those that are not listed here at full size take no
    /// part in deduplication.
    pub fn index_commit(&self, commit: &Commit) {
        self.catalogue.add_objects((commit.device, commit.generation), &commit.objects);
        for run in commit.objects.iter().filter(|object| object.kind == Kind::IndexRun) {
            let device = self.catalogue.owner(&run.hash).unwrap_or(commit.device);
            let name = Name::Object { device, hash: run.hash };
            // It says nothing that the objects themselves do not say.
            if let Err(error) = self.index_run(&name, (commit.device, commit.generation)) {
                log::warn!("an index run cannot be read, and objects are opened instead: {error}");
            }
        }
    }

    fn index_run(&self, name: &Name, by: (DeviceId, u64)) -> Result<()> {
        self.catalogue.add_run(by, self.run_at(name)?);
        Ok(())
    }

    fn run_at(&self, name: &Name) -> Result<Vec<NewObject>> {
        let extra = self.open(name)?.into_directory().extra;
        NewObject::decode_run(&extra).map_err(|error| StoreError::damaged(&name.path(), error))
    }

    /// What an index run that a head of this device names says: which chunks other objects have.
    pub fn read_run(&self, by: DeviceId, run: &NewObject) -> Result<Vec<NewObject>> {
        let device = self.catalogue.owner(&run.hash).unwrap_or(by);
        self.run_at(&Name::Object { device, hash: run.hash })
    }

    /// The path of an object with tree nodes that a commit names, and that is not here at its full
    /// size, nor as a copy.
    pub fn lacking_nodes(&self, commit: &Commit) -> Option<String> {
        self.catalogue.lacking_nodes(commit)
    }

    /// The objects that a commit names and that are not listed here at full size; and whether a file
    /// could be a copy of each.
    pub fn unlisted(&self, commit: &Commit) -> Vec<(Name, bool)> {
        self.catalogue.unlisted(commit)
    }

    /// Whether an object is listed here at this size.
    pub fn is_listed(&self, hash: &Hash, size: u64) -> bool {
        self.catalogue.is_listed(hash, size)
    }

    /// Whether a file could be a copy of a head or object.
    pub fn may_have_copy(&self, hash: &Hash) -> bool {
        self.catalogue.may_have_copy(hash)
    }

    /// Whether nobody misses a container that is not here: its device gave it back.
    pub fn is_given_back(&self, name: &Name) -> bool {
        self.catalogue.is_given_back(name)
    }

    /// Indexes an open container (a head, or an object whose head is lost).
    pub fn index_container(&self, name: &Name, reader: Arc<Reader>) {
        self.add_container(name, reader);
    }

    /// Indexes an open container, and keeps it open. Returns its number.
    pub(super) fn add_container(&self, name: &Name, reader: Arc<Reader>) -> u32 {
        let ids = reader.directory().chunks.iter().map(|chunk| chunk.id);
        let number = self.catalogue.add(name, reader.len(), ids);
        self.caches.put_reader(number, reader);
        number
    }

    /// Whether a container that should hold the chunk or node is good.
    pub fn is_in(&self, id: &Id, good: &dyn Fn(&Name) -> bool) -> Result<bool> {
        self.catalogue.is_in(id, good)
    }

    /// Takes containers that a repair found bad out of deduplication.
    pub fn mark_bad(&self, bad: &[Hash]) {
        self.catalogue.mark_all_bad(bad);
    }

    /// Whether a head names this file, or it was published here.
    pub fn is_known(&self, name: &Name) -> bool {
        self.catalogue.is_known(name)
    }
}
