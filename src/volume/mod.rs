//! Trees over a store at a commit, and the checkpoint that makes the next one.
//!
//! Invariant: a commit refers only to objects that are durable in REPO; local
//! state never claims a head that is not.

mod apart;
mod changes;
mod check;
mod chunker;
pub mod content;
mod devices;
mod ensure;
mod error;
mod files;
mod findings;
pub mod flush;
mod giving;
mod inherited;
mod kept;
mod known;
mod listed;
mod live;
mod look;
mod publish;
mod repair;
pub mod repository;
mod restore;
mod retention;
mod search;
pub mod shape;
mod shortfall;
mod spans;
mod stamp;
pub mod state;
mod sweep;
#[cfg(test)]
mod tests_damage;
#[cfg(test)]
mod tests_publish;
#[cfg(test)]
mod tests_state;
#[cfg(test)]
mod tests_strays;
mod tree;
mod unfit;
mod values;
mod world;

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::crypto::{DeviceId, Hash, Secret};
use crate::format::clock::{Dot, Generations, HeadContent, Seen, Tag, Writer};
use crate::format::commit::{Commit, Name, Retired};
use crate::format::namespace::{Ino, Key, Value};
use crate::format::register::{Features, Register, SLOT_VAULT, Slot, Stamp};
use crate::io::{Random, Timestamp};
use crate::merge::{ConflictFile, FoundConflict, Scope};
pub use crate::store::StoreError;
use crate::store::{Context, Result, Store};
use crate::tree::Root;
pub(crate) use changes::changes;
pub use changes::{Change, ChangeKind};
pub(crate) use check::{check, check_names};
pub use error::VolumeError;
pub(crate) use findings::{Findings, Worst};
use giving::Giving;
pub use giving::Swept;
pub(crate) use inherited::Own;
pub use inherited::{Base, Inherited};
pub use kept::{KeptChange, KeptCommits, kept_in};
pub use known::{Behind, Notice, Unusable};
pub(crate) use known::{name_of, named};
use listed::WaitingRows;
pub(crate) use listed::containers_in;
pub use repair::{Lost, Repaired};
pub(crate) use restore::{RestoreError, Restored, restore};
pub use retention::{Candidate, DaySteps, staying};
pub use shortfall::{Gap, Inspection, Presence, Shortfall};
pub use stamp::Origins;
use state::State;
pub use sweep::{Awaited, Doubt, Fate, GivenBack, Planned, Portion, SweepPlan, WAIT_STEPS};
pub use tree::Tree;
pub use unfit::{Held, Unfit};
pub(crate) use unfit::{journal_keys, unfit};
pub use world::World;

/// How many bases before the present one are held. What only they show can be read until then.
const EARLIER_BASES: usize = 3;

/// An open repository.
pub struct Volume {
    /// Chunks and nodes.
    pub(crate) store: Arc<Store>,
    world: World,
    register: RwLock<Register>,
    features: Features,
    state: Mutex<State>,
    base: RwLock<Arc<Base>>,
    /// The last bases before the present one, for reading that began on one of them.
    earlier: Mutex<VecDeque<Arc<Base>>>,
    /// The number of this mount's [`Writer`].
    writer: AtomicU64,
    /// Generations used up by heads that failed to enter REPO, whole or torn,
    /// since the last that did: no two heads of a device share one.
    spent: AtomicU64,
    /// An own head cannot be read: nothing is swept.
    own_unread: bool,
    /// It is based on older heads than are here, because changes in the journal were made on
    /// those.
    is_replay: bool,
    /// Devices that the next head retires.
    retiring: Mutex<Vec<Retired>>,
    /// Whether somebody on this device waits for the answers of other devices: the next head says
    /// so.
    asks: AtomicBool,
    /// The name under which what the next head shows is kept.
    keeping: Mutex<Option<KeptChange>>,
    /// Rows that the ledger of the newest head lacks.
    waiting_rows: Mutex<WaitingRows>,
    /// What the next head gives back.
    giving: Mutex<Giving>,
    /// When the changes were frozen that the next head will have.
    frozen_at: Mutex<Option<Timestamp>>,
    /// What this device's newest head says of the device alone.
    own: Mutex<Own>,
    /// Things that the owner should be told.
    pub notices: Vec<Notice>,
    heads: RwLock<Arc<Heads>>,
}

/// What is known of the heads of all devices.
#[derive(Debug, Default)]
pub struct Heads {
    /// The newest head of each device that can be used.
    pub newest: Vec<DeviceHead>,
    /// Devices whose newest heads are known and not here.
    pub behind: Vec<Behind>,
    /// Newer heads that are here and cannot be used; none of a volume that is opened to be
    /// repaired.
    pub unusable: Vec<Unusable>,
    /// Which of this device's states the newest heads of others hold.
    pub holders: Vec<Holder>,
}

/// Another device that has said which state of this device it holds: its changes, and all
/// content that they name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The id of the device that holds it.
    pub device: DeviceId,
    /// The name that the device that holds it gives itself.
    pub name: String,
    /// The generation of the newest head of this device that is held.
    pub generation: u64,
    /// When the changes of that head were frozen: all that this device acknowledged before is in
    /// it, but for files that could not be stored. None if the head is not here any more.
    pub time: Option<Timestamp>,
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

impl DeviceHead {
    /// What it has of all devices' changes.
    pub fn content(&self) -> HeadContent<'_> {
        let Commit { news, ref processed, .. } = self.commit;
        HeadContent { device: self.device, generation: self.generation, news, processed }
    }

    /// The newest head of another device of which this head says that its device holds it: all its
    /// changes, and the content that they name. None if it says so of none. None too if that is a
    /// head of another copy of the device, whose newest head has this generation and hash.
    pub fn held_of(
        &self,
        device: &DeviceId,
        (generation, hash): (u64, &Hash),
    ) -> Option<(u64, Tag)> {
        let (held, tag) = self.commit.processed.get(device)?;
        let is_of_copy = held == generation && tag != Tag::of(hash);
        (tag != Tag::default() && !is_of_copy).then_some((held, tag))
    }
}

/// An answer that other devices wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    /// One of them is new, asks for it, or retired a device.
    pub is_soon: bool,
    /// When the oldest of the heads was made that are to be answered.
    pub oldest: Timestamp,
}

/// An edit of the namespace map: the encoded key, and the value with the change that made
/// it, or removal.
pub type Edit = (Vec<u8>, Option<(Dot, Value)>);

/// Changes of the namespace that are to be published.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// What changes, strictly ascending by encoded key.
    pub edits: Vec<Edit>,
    /// The newest changes of each inode that made versions.
    pub origins: HashMap<Ino, Origins>,
    /// The newest of all changes, of each writer.
    pub seen: Seen,
    /// Writers of the changes, in the order of their first ones: after a crash there are more
    /// than one.
    pub writers: Vec<Writer>,
}

/// A panic elsewhere does not make what is behind these locks wrong: each is changed in one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A writer that was perhaps drawn before.
pub(crate) fn draw_writer(random: &dyn Random) -> Writer {
    loop {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        if let Some(writer) = Writer::draw(bytes) {
            return writer;
        }
    }
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

/// What a volume is made of. Whoever opens it has decided everything.
pub(crate) struct Parts {
    pub world: World,
    pub store: Arc<Store>,
    pub register: Register,
    pub features: Features,
    pub state: State,
    pub base: Base,
    pub own: Own,
    pub writer: Writer,
    pub own_unread: bool,
    pub is_replay: bool,
    pub retiring: Vec<Retired>,
    pub notices: Vec<Notice>,
    pub heads: Heads,
}

impl Volume {
    /// A volume of these parts.
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            store: parts.store,
            world: parts.world,
            register: RwLock::new(parts.register),
            features: parts.features,
            state: Mutex::new(parts.state),
            base: RwLock::new(Arc::new(parts.base)),
            earlier: Mutex::default(),
            writer: AtomicU64::new(parts.writer.number()),
            spent: AtomicU64::new(0),
            own_unread: parts.own_unread,
            is_replay: parts.is_replay,
            retiring: Mutex::new(parts.retiring),
            asks: AtomicBool::new(false),
            keeping: Mutex::default(),
            waiting_rows: Mutex::default(),
            giving: Mutex::default(),
            frozen_at: Mutex::default(),
            own: Mutex::new(parts.own),
            notices: parts.notices,
            heads: RwLock::new(Arc::new(parts.heads)),
        }
    }

    /// A volume that shows another base out of the same store, and is only read: a state of the past.
    #[must_use]
    pub fn of_past(&self, base: Base) -> Self {
        Self::new(Parts {
            world: World { state: None, ..self.world.clone() },
            store: Arc::clone(&self.store),
            register: self.register(),
            features: self.features,
            state: self.state(),
            base,
            own: Own::none(),
            writer: self.writer(),
            own_unread: false,
            is_replay: false,
            retiring: Vec::new(),
            notices: Vec::new(),
            heads: Heads::default(),
        })
    }

    fn keeping(&self) -> MutexGuard<'_, Option<KeptChange>> {
        locked(&self.keeping)
    }

    /// The outside world.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// A copy of local state.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn store_state(&self) -> std::io::Result<()> {
        let folder = self.world.state.as_ref().expect("only a volume with state writes");
        self.state().store(&**folder)
    }

    /// Whether this volume is based on the very heads on which the records in the journal were
    /// made.
    pub fn is_base_of_journal(&self) -> bool {
        self.state().base == self.base().heads()
    }

    /// Notes durably on which heads records of the journal are made from here on.
    pub fn note_base_of_journal(&self) -> Result<()> {
        if self.is_base_of_journal() {
            return Ok(());
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).base = self.base().heads();
        self.store_state().map_err(|error| StoreError::state("device record", error))
    }

    /// Removes or adopts what a crash left in REPO: objects that the intent log has and no
    /// head names. What lies under an earlier id of this device is adopted and never removed: a copy
    /// of local state may need it. With `keep`, because the journal names chunks, data objects
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
        let State { journal_of, retires, .. } = self.state();
        for (hash, owner, _) in self.store.objects() {
            let name = Name::Object { device: owner, hash };
            let is_own = owner == device || owner == journal_of || retires.contains(&owner);
            if !is_own || self.store.is_known(&name) || !intents.contains(&name.path()) {
                continue;
            }
            if owner != device {
                if keep {
                    self.store.adopt(&name)?;
                }
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

    /// What everything is based on.
    pub fn base(&self) -> Arc<Base> {
        self.base.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known of the heads of all devices.
    pub fn heads(&self) -> Arc<Heads> {
        self.heads.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes on from another base. With local state, nothing may be in the journal that is in no
    /// head; notes durably on what records are made from here on. If that fails, the base is as
    /// before, and nobody knows which one is noted: nothing may be logged any more.
    pub fn rebase(&self, base: Base, heads: Heads, seen: Generations) -> std::io::Result<()> {
        if let Some(folder) = &self.world.state {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let next = State { base: base.heads(), seen, ..state.clone() };
            next.store(&**folder)?;
            *state = next;
        }
        self.set_base(base);
        self.set_heads(heads);
        Ok(())
    }

    fn set_base(&self, base: Base) {
        let mut current = self.base.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, Arc::new(base));
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        earlier.push_back(before);
        if earlier.len() > EARLIER_BASES {
            earlier.pop_front();
        }
    }

    /// Takes over what was found of the heads of all devices.
    pub fn set_heads(&self, heads: Heads) {
        *self.heads.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(heads);
    }

    /// The namespace that is shown below any overlay.
    pub fn tree(&self) -> Tree<'_> {
        self.tree_at(self.base().namespace.shown)
    }

    /// The namespace at another root: of a kept commit, or of another device's head.
    pub fn tree_at(&self, root: Root) -> Tree<'_> {
        Tree { store: &self.store, root }
    }

    /// The id and the keys of the repository.
    pub(crate) fn context(&self) -> Arc<Context> {
        self.store.context().clone()
    }

    /// Whether newer heads were here at the opening than those that it is based on, because
    /// changes in the journal were made on these. Once the changes are published, another
    /// opening joins all.
    pub fn is_replay(&self) -> bool {
        self.is_replay
    }

    /// The conflicts in these scopes, in what is shown below any overlay; ascending by path.
    pub fn conflicts(&self, scopes: &[Scope]) -> Result<Vec<FoundConflict>> {
        self.base().namespace.conflicts(&self.store, scopes)
    }

    /// The files of a directory that stand beside another one of it because of a conflict, in
    /// what is shown below any overlay.
    pub fn conflicts_in(&self, dir: Ino) -> Result<Vec<ConflictFile>> {
        self.base().namespace.conflicts_in(&self.store, dir)
    }

    /// Whether what is shown has repairs that no head has.
    pub fn has_repairs(&self) -> bool {
        !self.base().namespace.repairs.is_empty()
    }

    /// The writer of this mount's changes.
    pub fn writer(&self) -> Writer {
        Writer::new(self.writer.load(Ordering::Relaxed)).expect("only a writer is stored")
    }

    /// Draws another writer for the changes to come, without a look at the tree: that it is used
    /// already has a chance of 2^-39 for each writer there is.
    pub fn draw_another_writer(&self) -> Writer {
        let writer = draw_writer(&*self.world.random);
        self.writer.store(writer.number(), Ordering::Relaxed);
        writer
    }

    /// Draws the writer anew until neither a row of the tree nor the number of an inode
    /// has it. To be called before the first change.
    pub fn draw_writer(&self) -> Result<Writer> {
        loop {
            let writer = draw_writer(&*self.world.random);
            let tree = self.tree();
            let mut used = tree.get(&Key::Writer(writer))?.is_some();
            tree.scan(&writer.first_ino().to_be_bytes(), &mut |key, _| {
                used |= key.ino() <= writer.last_ino();
                ControlFlow::Break(())
            })?;
            if !used {
                self.writer.store(writer.number(), Ordering::Relaxed);
                return Ok(writer);
            }
        }
    }
}
