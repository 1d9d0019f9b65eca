//! Publishing: staged chunks and nodes are sealed in containers, which enter REPO.
//!
//! Invariant: a file enters REPO complete, after its name was logged; a head enters after
//! everything that it names, and after what failed to enter before it was removed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::container::{Built, OBJECT_TARGET, Writer};
use super::stage::StagedNode;
use super::{Result, Store, StoreError};
use crate::crypto::hash;
use crate::format::commit::{Commit, Name, NewObject};
use crate::format::container::{Class, Kind};
use crate::format::wire::Encoder;
use crate::tree::{NewNodes, Root};

/// Longest object that is read whole.
const OBJECT_MAX: u64 = 256 << 20;
/// An object is published when this much waits, so that the last one of a
/// checkpoint is stretched and not a small one split off.
const PUBLISH_AT: usize = OBJECT_TARGET + OBJECT_TARGET / 4;

/// A head that entered REPO.
pub struct Entered {
    /// The name under which the head entered REPO.
    pub name: Name,
    /// The size of the head, bytes.
    pub bytes: u64,
    /// Paths of heads and objects that files written since the last head refer to,
    /// and that are not in REPO any more.
    pub gone: Vec<String>,
}

/// What was published since the last head, and what could not be.
#[derive(Default)]
pub(super) struct Published {
    /// Objects that the next head will name. Whoever publishes holds this lock.
    new: Mutex<Vec<NewObject>>,
    /// The size of these objects in bytes. Readers need no lock for it.
    unnamed_bytes: AtomicU64,
    /// Files whose publishing failed: they may be in REPO, whole or torn.
    failed: Mutex<Vec<Name>>,
    /// The buffer of the last object, for the next.
    spare: Mutex<Vec<u8>>,
}

// A panic elsewhere does not make the lists wrong: each is changed in one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Published {
    /// Adds an object to those that the next head will name.
    fn add(&self, new: &mut Vec<NewObject>, object: NewObject) {
        self.unnamed_bytes.fetch_add(object.size, Ordering::Relaxed);
        new.push(object);
    }

    /// A head names all of them.
    fn named(&self, new: &mut Vec<NewObject>) {
        new.clear();
        self.unnamed_bytes.store(0, Ordering::Relaxed);
        *locked(&self.spare) = Vec::new();
    }
}

impl Store {
    /// Bytes that came since the last head: chunks that wait for an object, and
    /// objects that wait for a head.
    pub fn new_bytes(&self) -> u64 {
        self.staged_bytes() as u64 + self.published.unnamed_bytes.load(Ordering::Relaxed)
    }

    /// Publishes an object if `waiting`, the bytes of staged chunks, are enough for one.
    pub(super) fn publish_full_object(&self, waiting: usize) -> Result<()> {
        if waiting >= PUBLISH_AT { self.publish_oldest(OBJECT_TARGET) } else { Ok(()) }
    }

    /// Publishes staged chunks until at most `leave` bytes wait.
    pub fn publish_objects(&self, leave: usize) -> Result<()> {
        while self.staged_bytes() > leave {
            let waiting = self.staged_bytes();
            let size = if waiting < PUBLISH_AT { waiting } else { OBJECT_TARGET };
            self.publish_oldest(size)?;
        }
        Ok(())
    }

    fn publish_oldest(&self, size: usize) -> Result<()> {
        let mut new = locked(&self.published.new);
        let chunks = self.stage.oldest(size);
        if chunks.is_empty() {
            return Ok(());
        }
        let mut writer = Writer::new(&self.context, Kind::Data, Vec::new(), &*self.random);
        writer.fill(std::mem::take(&mut *locked(&self.published.spare)));
        for (id, chunk) in &chunks {
            writer.add(chunk.class, *id, chunk.phase, &chunk.bytes);
        }
        let full = size >= OBJECT_TARGET;
        let built = writer.finish(Vec::new(), !full);
        let object = self.publish(Kind::Data, &built)?;
        if full {
            *locked(&self.published.spare) = built.bytes;
        }
        self.published.add(&mut new, object.clone());
        self.catalogue.add_own(self.device, object);
        self.stage.forget(chunks.len(), &[]);
        Ok(())
    }

    /// Publishes an index run, which says which chunks these objects have. The next head will name it.
    pub fn publish_run(&self, objects: &[NewObject]) -> Result<()> {
        let mut extra = Encoder::new();
        NewObject::encode_all(objects, &mut extra);
        let writer = Writer::new(&self.context, Kind::IndexRun, Vec::new(), &*self.random);
        let built = writer.finish(extra.finish(), true);
        let mut new = locked(&self.published.new);
        let object = self.publish(Kind::IndexRun, &built)?;
        self.published.add(&mut new, object.clone());
        self.catalogue.add_own(self.device, object);
        Ok(())
    }

    /// Whether anything is staged.
    pub fn waits_for_container(&self) -> bool {
        self.staged_bytes() > 0 || !self.stage.nodes().is_empty()
    }

    /// Publishes nodes in metadata objects. What these hold is not known to be
    /// stored before their head is: chunks below a node may wait for that head.
    fn publish_nodes(&self, nodes: &[StagedNode]) -> Result<Vec<NewObject>> {
        let mut objects = Vec::new();
        let mut rest = nodes;
        while !rest.is_empty() {
            let mut writer = Writer::new(&self.context, Kind::Metadata, Vec::new(), &*self.random);
            while let Some((node, after)) = rest.split_first()
                && writer.len() < OBJECT_TARGET
            {
                writer.add(Class::Nodes, node.id, 0, &node.bytes);
                rest = after;
            }
            let built = writer.finish(Vec::new(), rest.is_empty());
            match self.publish(Kind::Metadata, &built) {
                Ok(object) => objects.push(object),
                Err(error) => {
                    self.give_up(&objects);
                    return Err(error);
                }
            }
        }
        Ok(objects)
    }

    /// Lets an object enter REPO.
    fn publish(&self, kind: Kind, built: &Built) -> Result<NewObject> {
        let name = Name::Object { device: self.device, hash: built.hash };
        self.enter(&name, &built.bytes)?;
        let size = built.bytes.len() as u64;
        Ok(NewObject { hash: built.hash, kind, size, chunks: built.chunks.clone() })
    }

    /// Takes an own data object that no head names: the next one will. `None` if
    /// it is something else, `false` if it is not whole (now). Nodes in metadata
    /// objects must not be known before their head: chunks below them were to be
    /// in it.
    pub fn adopt(&self, name: &Name) -> Result<Option<bool>> {
        let path = name.path();
        let root = self.recognised_root()?;
        let whole = match root.read(&path, OBJECT_MAX) {
            Ok(bytes) if name.hash() == Some(hash(&bytes)) => bytes,
            Ok(_) => return Ok(Some(false)),
            Err(error) => match StoreError::io(&path, error) {
                StoreError::Missing { .. } | StoreError::Damaged { .. } => return Ok(Some(false)),
                error => return Err(error),
            },
        };
        let Some(object) = self.describe(name) else { return Ok(Some(false)) };
        if object.kind != Kind::Data {
            return Ok(None);
        }
        // The process may have been killed before its flush.
        root.publish(&path, &whole).map_err(|error| StoreError::writing(&path, error))?;
        drop(root);
        self.published.add(&mut locked(&self.published.new), object.clone());
        // It may lie in the folder that this device had under an earlier id.
        let Name::Object { device, .. } = name else { return Ok(None) };
        self.catalogue.add_own(*device, object);
        Ok(Some(true))
    }

    /// Objects that no head will name are removed with what failed to enter.
    fn give_up(&self, objects: &[NewObject]) {
        let names =
            objects.iter().map(|object| Name::Object { device: self.device, hash: object.hash });
        locked(&self.published.failed).extend(names);
    }

    /// Lets a file enter REPO, after its name was logged durably.
    pub fn enter(&self, name: &Name, bytes: &[u8]) -> Result<()> {
        let root = self.recognised_root()?;
        self.intents.log(name)?;
        let path = name.path();
        root.publish(&path, bytes).map_err(|error| {
            locked(&self.published.failed).push(name.clone());
            StoreError::writing(&path, error)
        })
    }

    /// Removes from REPO what failed to enter it: no head that entered needs
    /// any of it.
    fn remove_failed(&self) -> Result<()> {
        let mut failed = locked(&self.published.failed);
        if failed.is_empty() {
            return Ok(());
        }
        let root = self.recognised_root()?;
        // A head came before what it names: without it, it must not be there.
        while let Some(name) = failed.first() {
            let path = name.path();
            root.remove(&path).map_err(|error| StoreError::writing(&path, error))?;
            failed.remove(0);
        }
        Ok(())
    }

    /// Removes objects from REPO, and takes them off the list.
    pub fn remove_objects(&self, names: &[Name]) -> Result<()> {
        let root = self.recognised_root()?;
        for name in names {
            let path = name.path();
            root.remove(&path).map_err(|error| StoreError::writing(&path, error))?;
        }
        self.catalogue.forget(names);
        Ok(())
    }

    /// Publishes a head: what is still staged goes into it (or, nodes above
    /// `nodes_max` bytes, into a metadata object before it). `commit` is
    /// completed with the objects published since the last head, then with the root that
    /// `ledger` makes of it, whose new nodes the head holds itself: an object that held them
    /// would be missing in them.
    pub fn publish_head(
        &self,
        commit: &mut Commit,
        extension: Vec<u8>,
        nodes_max: usize,
        ledger: &dyn Fn(&Commit) -> (Root, NewNodes),
    ) -> Result<Entered> {
        let gone = self.reinspect()?;
        let mut new = locked(&self.published.new);
        let nodes = self.stage.nodes();
        let node_bytes: usize = nodes.iter().map(|node| node.bytes.len()).sum();
        let mut metadata = Vec::new();
        let mut in_head = &nodes[..];
        if node_bytes > nodes_max {
            metadata = self.publish_nodes(&nodes)?;
            in_head = &[];
        }
        let chunks = self.stage.oldest(usize::MAX);
        let mut writer = Writer::new(&self.context, Kind::Head, extension, &*self.random);
        for node in in_head {
            writer.add(Class::Nodes, node.id, 0, &node.bytes);
        }
        for (id, chunk) in &chunks {
            writer.add(chunk.class, *id, chunk.phase, &chunk.bytes);
        }
        commit.objects.extend(new.iter().chain(&metadata).cloned());
        let (root, rows) = ledger(commit);
        commit.ledger = root;
        for (id, bytes) in &rows {
            writer.add(Class::Nodes, *id, 0, bytes);
        }
        let built = writer.finish(commit.encode(), true);
        let name =
            Name::Head { device: commit.device, generation: commit.generation, hash: built.hash };
        // In place of one that failed to enter, before what that one needs is removed.
        let staged = self.intents.stage_head(&built.bytes);
        // Before the head: entering its folder makes their removal durable too.
        let entered = staged.and_then(|()| self.remove_failed());
        if let Err(error) = entered.and_then(|()| self.enter(&name, &built.bytes)) {
            self.give_up(&metadata);
            return Err(error);
        }
        let bytes = built.bytes.len() as u64;
        self.recognise_by_head(name.clone(), bytes);
        self.published.named(&mut new);
        for object in metadata {
            self.catalogue.add_own(self.device, object);
        }
        self.catalogue.add(&name, bytes, built.chunks.iter().copied());
        for node in &nodes {
            self.caches.put_node(node.id, node.node.clone());
        }
        self.stage.forget(chunks.len(), &nodes);
        self.forget_references();
        Ok(Entered { name, bytes, gone })
    }
}
