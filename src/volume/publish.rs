//! The checkpoint that makes the next head.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::inherited::{Base, Inherited, Own};
use super::kept::{self, kept_in};
use super::state::State;
use super::{Changes, DeviceHead, Edit, Published, Volume, stamp, values};
use crate::crypto::{DeviceId, Hash};
use crate::format::clock::{Dot, HeadContent, Processed, Seen, Tag, Writer};
use crate::format::commit::{Commit, Name, NewObject};
use crate::format::container::Kind;
use crate::format::ledger::{Container, Kept, Key as LedgerKey};
use crate::format::namespace::{Content, Key, Value};
use crate::format::node::{LedgerItem, MapItem, NO_ID};
use crate::format::register::HeadExtension;
use crate::format::setting::Retention;
use crate::io::Timestamp;
use crate::merge::{self, Namespace};
use crate::store::{Entered, HEAD_DATA_MAX, Result, Store, StoreError};
use crate::tree::{Keys, NewNodes, Root, ledger};

/// Bytes of tree nodes that a head carries; more go into metadata objects.
const HEAD_NODES_MAX: usize = 4 << 20;

/// A row of a ledger that changes: its key, and its bytes or none to remove it.
type Row = (Vec<u8>, Option<Vec<u8>>);

/// Changes with what joining needs to know of them, to be published on the tree for which they
/// were completed.
pub struct Stamped(Changes);

impl Volume {
    /// Completes changes before they are published. Reads of the tree what lies beside them.
    pub fn stamp(&self, changes: Changes) -> Result<Stamped> {
        stamp::complete(self.tree(), changes).map(Stamped)
    }

    /// Publishes a checkpoint: `changes` become the next commit. `counts` are inodes and bytes
    /// in it, `journal` the last sequence it contains, `open` content roots that are in use and
    /// not part of it.
    ///
    /// Repairs that the changes touch are stored with them, under the newest of the changes of
    /// this mount's writer. Whoever has a base with repairs makes one, also if nothing else
    /// changed ([`Volume::has_repairs`]).
    pub fn checkpoint(
        &self,
        changes: Stamped,
        counts: (u64, u64),
        journal: u64,
        open: &[Content],
    ) -> Result<Published> {
        let base = self.base();
        let Changes { edits, seen, writers, .. } = changes.0;
        self.check_law(&edits)?;
        let news = !edits.is_empty();
        let rows = self.rows(&seen).into_iter().map(|(key, row)| (key, Some(row)));
        let edits = edits.into_iter().map(|(key, edit)| match edit {
            None => (key, None),
            Some((dot, value)) => {
                let (key, item) = values::single(key, dot, value.encode());
                (key, Some(item))
            }
        });
        let edits: merge::Edits = rows.chain(edits).collect();
        // After a crash all changes may be those of an older writer.
        let of = |writer: Writer| seen.dots().find(|dot| dot.writer == writer);
        let settling = of(self.writer()).or_else(|| writers.last().copied().and_then(of));
        let namespace = merge::edit(&self.store, &base.namespace, edits, settling)?;
        let root = namespace.stored;
        // If publishing fails, the mount goes on from the base, and what was joined is in no head.
        self.store.drop_unreachable(&[root, base.namespace.stored], open)?;
        if self.store.staged_bytes() > HEAD_DATA_MAX {
            self.store.publish_objects(0)?;
        }
        let (inodes, bytes) = counts;
        let next = Inherited { root, inodes, bytes, ..base.inherited.clone() };
        self.commit(next, namespace, journal, news, Vec::new())
    }

    /// The rows that say how far each writer of this head's changes has come, in the order
    /// of their keys, which come before all others.
    pub(super) fn rows(&self, seen: &Seen) -> Vec<(Vec<u8>, MapItem)> {
        let State { device, name, .. } = self.state();
        let row = |dot: Dot| {
            let bytes = Value::Writer(device, name.clone()).encode();
            values::single(Key::Writer(dot.writer).encode(), dot, bytes)
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
            let is_same = |item: &MapItem| values::holds(item, *dot, &value.encode());
            let held = self.tree().get_item(encoded, is_same)?;
            if held != Some(true) {
                return Err(StoreError::Republished { dot: *dot });
            }
        }
        Ok(())
    }

    /// The writer's last change that the commit below contains, 0 for none.
    pub(super) fn last_of(&self, writer: Writer) -> Result<u64> {
        let row = Key::Writer(writer).encode();
        Ok(self.tree().get_item(&row, values::last_record)?.unwrap_or(0))
    }

    /// What the next head has processed: what the device's last one had, and all whose
    /// changes are in it, those too that they bring of third devices. Only what this device found
    /// here whole has its tag.
    fn processed(&self, inherited: &Inherited, device: DeviceId) -> Processed {
        let mut processed = self.own().processed;
        processed.join(&inherited.merged);
        // What is here beside the heads of a journal that is replayed is not in the base.
        let is_complete = |head: &&DeviceHead| head.complete && !self.is_replay;
        for head in self.heads().newest.iter().filter(is_complete) {
            let tag = Tag::of(&head.hash);
            let is_said = processed.get(&head.device) == Some((head.generation, tag));
            if !is_said
                && self.content_with(&processed).has_all_of(&head.content())
                && self.has_objects_of(head)
            {
                processed.add(head.device, head.generation, tag);
            }
        }
        processed.remove(&device);
        processed
    }

    /// What a head has that this device makes now, if it names these.
    pub(super) fn content_with<'a>(&self, processed: &'a Processed) -> HeadContent<'a> {
        let State { device, generation, news, .. } = self.state();
        HeadContent { device, generation, news, processed }
    }

    pub(super) fn own(&self) -> Own {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The device's ledger with what this commit brings: its objects, the head before, and the kept
    /// commits at the time `now`; it is one itself if it has a label. Rows that cannot be read are left out: a file in no ledger is never
    /// deleted.
    fn ledger(
        &self,
        commit: &Commit,
        label: Option<&str>,
        state: &State,
        now: Timestamp,
    ) -> (Root, NewNodes) {
        let mut rows: BTreeMap<_, _> = BTreeMap::new();
        let mut keep = |hash: &Hash, kind, generation, size| {
            let key = LedgerKey::Container(state.device, *hash).encode();
            let row = Container { kind, generation, size, condemned: 0 };
            rows.insert(key, Some(row.encode()));
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
        let edits_from = |root| -> Result<Vec<ledger::Edit>> {
            let kept = self.kept_rows(root, &own, (commit, label), now)?;
            let item = |(key, row): Row| {
                let item = row.map(|bytes| LedgerItem { key: key.clone().into(), bytes });
                (key, item)
            };
            Ok(rows.clone().into_iter().chain(kept).map(item).collect())
        };
        let keys = Keys(&self.store.context().ids);
        let edit = |root, new: &mut NewNodes| {
            ledger::edit(keys, &*self.store, root, &edits_from(root)?, new)
        };
        let mut new = NewNodes::new();
        let root = edit(own.ledger, &mut new).or_else(|error| {
            log::warn!("the ledger of this device cannot be read and begins anew: {error}");
            new.clear();
            edit((NO_ID, 0), &mut new)
        });
        (root.expect("an empty tree has no node that cannot be read"), new)
    }

    /// What changes of the kept commits in the ledger at `root`, in the order of their keys, which
    /// come after those of containers.
    fn kept_rows(
        &self,
        root: Root,
        own: &Own,
        (commit, label): (&Commit, Option<&str>),
        now: Timestamp,
    ) -> Result<Vec<Row>> {
        let before = kept_in(&self.store, root)?;
        let retention = self.tree_at(commit.root).retention().unwrap_or_else(|error| {
            log::warn!("all states of the past are kept: {error}");
            Retention::new(u64::MAX, u64::MAX, u64::MAX)
        });
        let head = own.shown.as_ref();
        let after = kept::after(before.clone(), head, commit, label, (now, &retention));
        let all: BTreeSet<u64> = before.keys().chain(after.keys()).copied().collect();
        let changed = all.into_iter().filter(|at| before.get(at) != after.get(at));
        let row = |at: u64| (LedgerKey::Kept(at).encode(), after.get(&at).map(Kept::encode));
        Ok(changed.map(row).collect())
    }

    /// Publishes what is staged with a head that hands this on, whose root is that of the
    /// `namespace`. It has `news` if other devices must answer it, and names `objects` beside
    /// those that are new.
    pub(super) fn commit(
        &self,
        inherited: Inherited,
        namespace: Namespace,
        journal: u64,
        news: bool,
        objects: Vec<NewObject>,
    ) -> Result<Published> {
        let state = self.state();
        let processed = self.processed(&inherited, state.device);
        let generation = state.generation + 1 + self.spent.load(Ordering::Relaxed);
        let retiring = self.retiring();
        let news = news || state.generation == 0 || !retiring.is_empty();
        let frozen_at = self.frozen_at.lock().unwrap_or_else(PoisonError::into_inner).take();
        let asks = self.asks.load(Ordering::Relaxed);
        let label = self.keeping().clone();
        let time = frozen_at.unwrap_or_else(|| self.world.clock.now());
        let mut steps = state.steps;
        let believed = steps.advance(time);
        let mut commit = Commit {
            device: state.device,
            generation,
            time,
            writer: self.writer(),
            previous: state.head,
            root: inherited.root,
            ledger: (NO_ID, 0),
            processed,
            announcement: false,
            asks,
            news: if news { generation } else { state.news },
            journal,
            inodes: inherited.inodes,
            bytes: inherited.bytes,
            device_name: state.name.clone(),
            objects,
            retired: [inherited.retired, retiring].concat(),
            bad: inherited.bad,
            lost: inherited.lost,
            unknown: inherited.unknown,
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
                self.ledger(commit, label.as_deref(), &state, believed)
            })
            .inspect_err(|_| {
                self.spent.fetch_add(1, Ordering::Relaxed);
            })?;
        self.spent.store(0, Ordering::Relaxed);
        if asks {
            self.asks.store(false, Ordering::Relaxed);
        }
        self.keeping().take_if(|keeping| label.as_ref() == Some(keeping));
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = Own::of(&commit, head_bytes);
        let Name::Head { hash, .. } = &name else { unreachable!("publish_head returns a head") };
        let objects = (commit.objects.len(), commit.objects.iter().map(|object| object.size).sum());
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.generation = commit.generation;
            state.news = commit.news;
            state.head = *hash;
            state.base = vec![*hash];
            state.journal = journal;
            state.steps = steps;
            state.retires.clear();
            let device = state.device;
            state.seen.set(device, commit.generation);
        }
        self.set_base(Base { inherited: Inherited::of(&commit, *hash), namespace, commit });
        if !self.store.is_stateless() {
            let folder = self.world.state.as_ref().expect("only a volume with state writes");
            self.store_state().map_err(|error| StoreError::state("device record", error))?;
            Store::clear_intents(&**folder)
                .map_err(|error| StoreError::state("intent log", error))?;
        }
        Ok(Published { name, head_bytes, objects, gone })
    }
}
