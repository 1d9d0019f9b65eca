//! Trees over a store at a commit, and the checkpoint that makes the next one.
//!
//! Invariant: a commit refers only to objects that are durable in REPO; local
//! state never claims a head that is not.

mod check;
mod chunker;
pub mod content;
mod error;
mod findings;
pub mod flush;
mod heads;
mod known;
mod live;
mod look;
mod open;
mod parts;
mod repair;
pub mod repository;
mod restore;
mod search;
pub mod shape;
mod shortfall;
mod stamp;
pub mod state;
#[cfg(test)]
mod tests_damage;
#[cfg(test)]
mod tests_publish;
#[cfg(test)]
mod tests_state;
#[cfg(test)]
mod tests_strays;
mod trust;
mod unfit;
mod world;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::crypto::{DeviceId, Hash, Secret};
use crate::format::clock::{Dot, Processed, Seen, Tag, Writer};
use crate::format::commit::{Commit, Name, NewObject, Retired};
use crate::format::container::Kind;
use crate::format::ledger::{Container, Key as LedgerKey};
use crate::format::namespace::{Ino, Key, Value};
use crate::format::node::{Dotted, LedgerItem, MapItem, NO_ID};
use crate::format::register::{Features, HeadExtension, Register, SLOT_VAULT, Slot, Stamp};
use crate::io::Random;
use crate::store::{Entered, HEAD_DATA_MAX, Result, Store, StoreError};
use crate::tree::{Keys, NewNodes, Root, ledger, map};
pub(crate) use check::{check, check_names};
pub use error::VolumeError;
pub(crate) use findings::{Findings, Worst};
pub use known::{Behind, Notice, Unusable};
pub use repair::{Lost, Repaired};
pub(crate) use restore::{RestoreError, Restored, restore};
pub use shortfall::{Gap, Inspection, Presence, Shortfall};
pub use stamp::Origins;
use state::State;
pub use unfit::{Held, Unfit, journal_keys};
pub use world::{Beside, OpenOptions, World};

/// Bytes of tree nodes that a head carries; more go into metadata objects.
const HEAD_NODES_MAX: usize = 4 << 20;

/// A commit with where it came from.
#[derive(Clone, Debug)]
pub struct Base {
    /// The commit; a fresh repository has an empty one of generation 0.
    pub commit: Commit,
    /// The hash of its head.
    pub hash: Hash,
}

/// What a head says of its device, and no head of another device takes over.
#[derive(Clone, Debug)]
struct Own {
    /// The newest heads of others that it has processed.
    processed: Processed,
    /// The root of the ledger that the head names; the empty tree before the first head.
    ledger: Root,
    /// Bytes of the head.
    bytes: u64,
}

/// An open repository.
pub struct Volume {
    /// Chunks and nodes.
    pub store: Arc<Store>,
    world: World,
    register: RwLock<Register>,
    features: Features,
    state: Mutex<State>,
    base: RwLock<Arc<Base>>,
    /// The number of this mount's [`Writer`].
    writer: AtomicU64,
    /// Generations used up by heads that failed to enter REPO, whole or torn,
    /// since the last that did: no two heads of a device share one.
    spent: AtomicU64,
    /// An own head cannot be read: nothing is swept.
    own_unread: bool,
    /// What a repair goes on without.
    without: Vec<Retired>,
    /// What this device's newest head says of the device alone.
    own: Mutex<Own>,
    /// Things that the owner should be told.
    pub notices: Vec<Notice>,
    /// Devices whose newest heads are known and not here.
    pub behind: Vec<Behind>,
    /// Newer heads that are here and cannot be used; of a volume that is only
    /// read.
    pub unusable: Vec<Unusable>,
    /// Newest head of each device, by name, for status.
    pub devices: Vec<DeviceHead>,
}

/// What is known of a device's newest head.
#[derive(Clone, Debug)]
pub struct DeviceHead {
    /// The device.
    pub device: DeviceId,
    /// What it calls itself.
    pub name: String,
    /// Newest generation.
    pub generation: u64,
    /// The hash of that head.
    pub hash: Hash,
    /// Its commit.
    pub commit: Commit,
    /// Whether all objects that its heads name are here at full size.
    pub complete: bool,
}

/// An edit of the namespace map: the encoded key, and the value with the change that made
/// it, or removal.
pub type Edit = (Vec<u8>, Option<(Dot, Value)>);

/// Changes of the namespace that are to be published.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// What changes, strictly ascending by encoded key.
    pub edits: Vec<Edit>,
    /// Of each inode the newest changes that made versions.
    pub origins: HashMap<Ino, Origins>,
    /// The newest of all changes, of each writer.
    pub seen: Seen,
}

/// An item of the namespace tree with one value, beside its key.
fn item(key: Vec<u8>, dot: Dot, bytes: Vec<u8>) -> (Vec<u8>, MapItem) {
    let values = vec![Dotted { dot, bytes }];
    (key.clone(), MapItem { key: key.into(), values })
}

/// A writer that was perhaps drawn before.
fn draw_writer(random: &dyn Random) -> Writer {
    loop {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        if let Some(writer) = Writer::draw(bytes) {
            return writer;
        }
    }
}

/// The fields of later versions that a head takes over from the one it stands on: those
/// with even tags.
fn inherited(fields: &[(u64, Vec<u8>)]) -> Vec<(u64, Vec<u8>)> {
    fields.iter().filter(|(tag, _)| tag % 2 == 0).cloned().collect()
}

/// What only the commit of a repair says.
#[derive(Default)]
struct Mended {
    /// Objects that no other commit names.
    objects: Vec<NewObject>,
    /// Devices that it goes on without.
    retired: Vec<Retired>,
    /// Bad heads and objects; without it, as before.
    bad: Option<Vec<Hash>>,
}

/// What a checkpoint made.
#[derive(Clone, Debug)]
pub struct Published {
    /// The head.
    pub name: Name,
    /// Bytes of the head.
    pub head_bytes: u64,
    /// Objects published with it: count and bytes.
    pub objects: (usize, u64),
    /// Paths of heads and objects that files written before this checkpoint began
    /// rest on, and that are not in REPO any more.
    pub gone: Vec<String>,
}

impl Volume {
    /// The outside world.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// A copy of local state.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn store_state(&self) -> std::io::Result<()> {
        let folder = self.world.state.as_ref().expect("only a volume with state writes");
        self.state().store(&**folder)
    }

    /// Whether records in the journal were made on the head that this volume
    /// stands on.
    pub fn stands_where_journal_does(&self) -> bool {
        self.state().base == self.base().hash
    }

    /// Notes durably what records of the journal stand on from here on.
    pub fn stand(&self) -> Result<()> {
        if self.stands_where_journal_does() {
            return Ok(());
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).base = self.base().hash;
        self.store_state().map_err(|error| StoreError::state("device record", error))
    }

    /// Removes or adopts what a crash left in REPO: objects that the intent log has and no
    /// head names. With `keep`, because the journal names chunks, data objects
    /// become part of the next head, and those that are not whole are returned: if
    /// the journal turns out not to need them, [`Volume::remove_objects`] removes
    /// them. All others are removed. To be called before anything is published.
    /// While an own head cannot be read, nothing is removed: it may be the one.
    pub fn resolve_intents(&self, keep: bool) -> Result<Vec<Name>> {
        let folder = self.world.state.as_ref().expect("only a volume with state settles");
        if self.own_unread && !keep {
            return Ok(Vec::new());
        }
        let failed = |error| StoreError::state("intent log", error);
        let device = self.state().device;
        let intents: HashSet<String> =
            Store::intents(&**folder).map_err(failed)?.into_iter().collect();
        let (mut useless, mut torn) = (Vec::new(), Vec::new());
        for (hash, owner, _) in self.store.objects() {
            let name = Name::Object { device, hash };
            if owner != device || self.store.is_known(&name) || !intents.contains(&name.path()) {
                continue;
            }
            match if keep { self.store.adopt(&name)? } else { None } {
                Some(true) => log::info!("kept an object that no head names yet"),
                Some(false) => torn.push(name),
                None => useless.push(name),
            }
        }
        self.remove_objects(&useless)?;
        // As long as no head names what was kept, it stays noted.
        if !keep {
            Store::clear_intents(&**folder).map_err(failed)?;
        }
        Ok(torn)
    }

    /// Removes objects that no head and no record of the journal needs.
    pub fn remove_objects(&self, names: &[Name]) -> Result<()> {
        if self.own_unread || names.is_empty() {
            return Ok(());
        }
        log::info!("removing {} objects that no head names", names.len());
        self.store.remove_objects(names)
    }

    /// The register that the next head will carry.
    pub fn register(&self) -> Register {
        self.register.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a new register with these vault slots, sealed under K, for the
    /// next head to carry. `key` must open the present one.
    pub fn set_vault_slots(
        &self,
        key: &Secret,
        vaults: Vec<Vec<u8>>,
    ) -> std::result::Result<(), VolumeError> {
        let state = self.state();
        let mut register = self.register.write().unwrap_or_else(PoisonError::into_inner);
        let (keyring, _, slots) =
            register.open(key, &state.repo).map_err(|_| VolumeError::WrongKey)?;
        let slots = slots
            .into_iter()
            .filter(|slot| slot.kind != SLOT_VAULT)
            .chain(vaults.into_iter().map(|bytes| Slot { kind: SLOT_VAULT, bytes }))
            .collect();
        let stamp = Stamp { counter: register.stamp.counter + 1, device: state.device };
        *register = Register::seal(key, &state.repo, stamp, slots, &keyring, &*self.world.random);
        Ok(())
    }

    /// The commit that everything stands on.
    pub fn base(&self) -> Arc<Base> {
        self.base.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn root(&self) -> Root {
        self.base().commit.root
    }

    /// The writer of this mount's changes.
    pub fn writer(&self) -> Writer {
        Writer::new(self.writer.load(Ordering::Relaxed)).expect("only a writer is stored")
    }

    /// Draws the writer anew until neither a row of the tree nor the number of an inode
    /// has it. To be called before the first change.
    pub fn draw_writer(&self) -> Result<Writer> {
        loop {
            let writer = draw_writer(&*self.world.random);
            let mut used = self.get(&Key::Writer(writer))?.is_some();
            self.scan(&writer.first_ino().to_be_bytes(), &mut |key, _| {
                used |= key.ino() <= writer.last_ino();
                ControlFlow::Break(())
            })?;
            if !used {
                self.writer.store(writer.number(), Ordering::Relaxed);
                return Ok(writer);
            }
        }
    }

    /// A value of the namespace map, below any overlay.
    pub fn get(&self, key: &Key) -> Result<Option<Value>> {
        self.get_encoded(key, &key.encode())
    }

    /// The same of a key that is encoded already.
    pub fn get_encoded(&self, key: &Key, encoded: &[u8]) -> Result<Option<Value>> {
        let value = |item: &MapItem| Self::value_of(key, item);
        map::get(&*self.store, self.root(), encoded, value)?.transpose()
    }

    /// The value that counts: the one with the highest dot until merging
    /// settles siblings.
    pub fn value_of(key: &Key, item: &MapItem) -> Result<Value> {
        let newest = item.values.last().expect("decoded items have a value");
        Value::decode(key, &newest.bytes)
            .map_err(|error| StoreError::damaged("a value of the namespace", error))
    }

    /// The dot of the value that counts.
    fn dot_of(item: &MapItem) -> Dot {
        item.values.last().expect("decoded items have a value").dot
    }

    /// The key of an item.
    pub fn decode_key(encoded: &[u8]) -> Result<Key> {
        Key::decode(encoded).map_err(|error| StoreError::damaged("a key of the namespace", error))
    }

    /// Visits items from `from` on until `visit` breaks.
    pub fn scan_items(
        &self,
        from: &[u8],
        visit: &mut dyn FnMut(&MapItem) -> ControlFlow<()>,
    ) -> Result<()> {
        map::scan(&*self.store, self.root(), from, visit)
    }

    /// Visits keys and values from `from` on until `visit` breaks.
    pub fn scan(
        &self,
        from: &[u8],
        visit: &mut dyn FnMut(Key, Value) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut failed = None;
        self.scan_items(from, &mut |item| {
            let decoded = Self::decode_key(&item.key)
                .and_then(|key| Self::value_of(&key, item).map(|value| (key, value)));
            match decoded {
                Ok((key, value)) => visit(key, value),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Publishes a checkpoint: `changes` become the next commit. `counts` are inodes and bytes
    /// in it, `journal` the last sequence it contains, `open` content roots that are in use and
    /// not part of it.
    pub fn checkpoint(
        &self,
        changes: Changes,
        counts: (u64, u64),
        journal: u64,
        open: &[crate::format::namespace::Content],
    ) -> Result<Published> {
        let base = self.base();
        let Changes { edits, origins, seen } = changes;
        let edits = stamp::complete(&self.store, base.commit.root, edits, &origins)?;
        self.check_law(&edits)?;
        let news = !edits.is_empty();
        let rows = self.rows(&seen).into_iter().map(|(key, row)| (key, Some(row)));
        let edits = edits.into_iter().map(|(key, edit)| match edit {
            None => (key, None),
            Some((dot, value)) => {
                let (key, item) = item(key, dot, value.encode());
                (key, Some(item))
            }
        });
        let edits: Vec<map::Edit> = rows.chain(edits).collect();
        let mut new = NewNodes::new();
        let keys = Keys(&self.store.context().ids);
        let root = map::edit(keys, &*self.store, base.commit.root, &edits, &mut new)?;
        self.store.stage_nodes(new);
        self.store.drop_unreachable(root, open)?;
        if self.store.staged_bytes() > HEAD_DATA_MAX {
            self.store.publish_objects(0)?;
        }
        self.commit(root, counts, journal, news, Mended::default())
    }

    /// The rows that say how far each writer of this head's changes has come, in the order
    /// of their keys, which come before all others.
    fn rows(&self, seen: &Seen) -> Vec<(Vec<u8>, MapItem)> {
        let State { device, name, .. } = self.state();
        let row = |dot: Dot| {
            let bytes = Value::Writer(device, name.clone()).encode();
            item(Key::Writer(dot.writer).encode(), dot, bytes)
        };
        seen.dots().map(row).collect()
    }

    /// The law of heads: a head that covers a dot holds its value. So no value may be
    /// published under a dot that the commit below covers, unless it is there already.
    fn check_law(&self, edits: &[Edit]) -> Result<()> {
        let mut last: HashMap<Writer, u64> = HashMap::new();
        for (encoded, edit) in edits {
            let Some((dot, value)) = edit else { continue };
            let last = match last.entry(dot.writer) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => *unknown.insert(self.last_of(dot.writer)?),
            };
            if dot.record > last {
                continue;
            }
            let held = map::get(&*self.store, self.root(), encoded, |item| {
                let bytes = value.encode();
                item.values.iter().any(|held| held.dot == *dot && held.bytes == bytes)
            })?;
            if held != Some(true) {
                return Err(StoreError::Republished { dot: *dot });
            }
        }
        Ok(())
    }

    /// The writer's last change that the commit below contains, 0 for none.
    fn last_of(&self, writer: Writer) -> Result<u64> {
        let row = Key::Writer(writer).encode();
        let last = |item: &MapItem| item.values.iter().map(|value| value.dot.record).max();
        Ok(map::get(&*self.store, self.root(), &row, last)?.flatten().unwrap_or(0))
    }

    /// What the next head has processed: what the device's last one had, the head that
    /// everything stands on, and what that had. Only what this device found here whole has
    /// its tag.
    fn processed(&self, base: &Base, device: DeviceId) -> Processed {
        let mut processed = self.own().processed;
        processed.join(&base.commit.processed.by_hearsay());
        if base.commit.generation > 0 {
            processed.add(base.commit.device, base.commit.generation, Tag::default());
        }
        for head in self.devices.iter().filter(|head| head.complete) {
            if processed.generation(&head.device) >= head.commit.news {
                processed.add(head.device, head.generation, Tag::of(&head.hash));
            }
        }
        processed.remove(&device);
        processed
    }

    fn own(&self) -> Own {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The device's ledger with what this commit brings: its objects, and the head before.
    /// Rows that cannot be read are left out: a file in no ledger is never deleted.
    fn ledger(&self, commit: &Commit, state: &State) -> (Root, NewNodes) {
        let mut rows: BTreeMap<Vec<u8>, Container> = BTreeMap::new();
        let mut keep = |hash: &Hash, kind, generation, size| {
            let key = LedgerKey::Container(state.device, *hash).encode();
            rows.insert(key, Container { kind, generation, size, condemned: 0 });
        };
        // A repair may name objects in folders of others.
        let is_own = |hash: &Hash| self.store.owner(hash).is_none_or(|owner| owner == state.device);
        for object in commit.objects.iter().filter(|object| is_own(&object.hash)) {
            keep(&object.hash, object.kind, commit.generation, object.size);
        }
        let own = self.own();
        if state.generation > 0 {
            keep(&state.head, Kind::Head, state.generation, own.bytes);
        }
        let edits = rows.into_iter().map(|(key, row)| {
            let item = LedgerItem { key: key.clone().into(), bytes: row.encode() };
            (key, Some(item))
        });
        let edits: Vec<ledger::Edit> = edits.collect();
        let keys = Keys(&self.store.context().ids);
        let edit = |root, new: &mut NewNodes| ledger::edit(keys, &*self.store, root, &edits, new);
        let mut new = NewNodes::new();
        let root = edit(own.ledger, &mut new).or_else(|error| {
            log::warn!("the ledger of this device cannot be read and begins anew: {error}");
            new.clear();
            edit((NO_ID, 0), &mut new)
        });
        (root.expect("an empty tree has no node that cannot be read"), new)
    }

    /// Publishes what is staged with a head whose commit has this root. It has `news` if
    /// other devices must answer it.
    fn commit(
        &self,
        root: Root,
        counts: (u64, u64),
        journal: u64,
        news: bool,
        mended: Mended,
    ) -> Result<Published> {
        let base = self.base();
        let state = self.state();
        let processed = self.processed(&base, state.device);
        let generation = state.generation + 1 + self.spent.load(Ordering::Relaxed);
        let news = news || state.generation == 0 || !mended.retired.is_empty();
        let mut commit = Commit {
            device: state.device,
            generation,
            time: self.world.clock.now(),
            writer: self.writer(),
            previous: state.head,
            root,
            ledger: (NO_ID, 0),
            processed: processed.clone(),
            announcement: false,
            news: if news { generation } else { state.news },
            journal,
            inodes: counts.0,
            bytes: counts.1,
            device_name: state.name.clone(),
            objects: mended.objects,
            retired: [&base.commit.retired[..], &mended.retired].concat(),
            bad: mended.bad.unwrap_or_else(|| base.commit.bad.clone()),
            lost: base.commit.lost.clone(),
            unknown: inherited(&base.commit.unknown),
        };
        let extension = HeadExtension {
            features: self.features,
            repo: state.repo,
            device: state.device,
            generation: commit.generation,
            register: self.register.read().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        let Entered { name, bytes: head_bytes, gone } = self
            .store
            .publish_head(&mut commit, extension.encode(), HEAD_NODES_MAX, &|commit| {
                self.ledger(commit, &state)
            })
            .inspect_err(|_| {
                self.spent.fetch_add(1, Ordering::Relaxed);
            })?;
        self.spent.store(0, Ordering::Relaxed);
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) =
            Own { processed, ledger: commit.ledger, bytes: head_bytes };
        let Name::Head { hash, .. } = &name else { unreachable!("publish_head returns a head") };
        let objects = (commit.objects.len(), commit.objects.iter().map(|object| object.size).sum());
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.generation = commit.generation;
            state.news = commit.news;
            state.head = *hash;
            state.base = *hash;
            state.journal = journal;
            let device = state.device;
            state.seen.set(device, commit.generation);
        }
        *self.base.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Base { hash: *hash, commit });
        if !self.store.is_stateless() {
            let folder = self.world.state.as_ref().expect("only a volume with state writes");
            self.store_state().map_err(|error| StoreError::state("device record", error))?;
            Store::clear_intents(&**folder)
                .map_err(|error| StoreError::state("intent log", error))?;
        }
        Ok(Published { name, head_bytes, objects, gone })
    }
}
