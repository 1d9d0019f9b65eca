//! The checkpoint that makes the next head.

use std::cell::Cell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::inherited::{Base, Inherited, Own};
use super::state::State;
use super::{Changes, DeviceHead, Edit, Published, Volume, locked, stamp, values};
use crate::crypto::DeviceId;
use crate::format::clock::{Dot, HeadContent, Processed, Seen, Tag, Writer};
use crate::format::commit::{Commit, Name, NewObject};
use crate::format::namespace::{Content, Key, Value};
use crate::format::node::{MapItem, NO_ID};
use crate::format::register::HeadExtension;
use crate::merge::{self, Namespace};
use crate::store::{Entered, HEAD_DATA_MAX, Result, Store, StoreError};

/// Bytes of tree nodes that a head carries; more go into metadata objects.
const HEAD_NODES_MAX: usize = 4 << 20;

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
        self.commit(next, namespace, journal, news, (Vec::new(), open))
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
    /// here whole has its tag; and none of the `unsure` devices, of whose files something is needed that
    /// they give back and that cannot be had.
    fn processed(
        &self,
        inherited: &Inherited,
        device: DeviceId,
        unsure: &BTreeSet<DeviceId>,
    ) -> Processed {
        let mut processed = self.own().processed;
        processed.join(&inherited.merged);
        // What is here beside the heads of a journal that is replayed is not in the base.
        let is_complete = |head: &&DeviceHead| head.complete && !self.is_replay;
        for head in self.heads().newest.iter().filter(is_complete) {
            let tag = Tag::of(&head.hash);
            let is_said = processed.get(&head.device) == Some((head.generation, tag));
            if !is_said
                && !unsure.contains(&head.device)
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

    /// Publishes what is staged with a head that hands this on, whose root is that of the
    /// `namespace`. It has `news` if other devices must answer it, and names `objects` beside
    /// those that are new. The contents that are `open` stay readable.
    pub(super) fn commit(
        &self,
        inherited: Inherited,
        namespace: Namespace,
        journal: u64,
        news: bool,
        (objects, open): (Vec<NewObject>, &[Content]),
    ) -> Result<Published> {
        let state = self.state();
        let unsure = self.ensure(&inherited, open)?;
        let giving = locked(&self.giving).clone();
        if self.store.staged_bytes() > HEAD_DATA_MAX || giving.stores_again {
            self.store.publish_objects(0)?;
        }
        let nodes_max = if giving.stores_again { 0 } else { HEAD_NODES_MAX };
        let processed = self.processed(&inherited, state.device, &unsure);
        let generation = state.generation + 1 + self.spent.load(Ordering::Relaxed);
        let retiring = self.retiring();
        let news = news || state.generation == 0 || !retiring.is_empty() || giving.is_news();
        let objects = [objects, giving.named.clone()].concat();
        let frozen_at = self.frozen_at.lock().unwrap_or_else(PoisonError::into_inner).take();
        let asks = self.asks.load(Ordering::Relaxed);
        let change = self.keeping().clone();
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
            features: self.features_with(&giving),
            repo: state.repo,
            device: state.device,
            generation: commit.generation,
            register: self.register.read().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        let waiting = Cell::default();
        let Entered { name, bytes: head_bytes, gone } = self
            .store
            .publish_head(&mut commit, extension.encode(), nodes_max, &|commit| {
                let also = (change.as_ref(), &giving);
                let (root, new, rows) = self.ledger(commit, also, &state, believed);
                waiting.set(rows);
                (root, new)
            })
            .inspect_err(|_| {
                self.spent.fetch_add(1, Ordering::Relaxed);
            })?;
        self.spent.store(0, Ordering::Relaxed);
        if asks {
            self.asks.store(false, Ordering::Relaxed);
        }
        self.keeping().take_if(|keeping| change.as_ref() == Some(keeping));
        self.set_waiting_rows(waiting.into_inner());
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
        self.note_given(&giving, &commit, *hash);
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
