//! `check --repair`: a namespace put together from what can be read, and a
//! commit that goes on from there.
//!
//! Invariant: nothing is taken from REPO; what a later look may still find (a
//! chunk, a head that the sync client brings back) is not given up in the tree.

mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::repository::{Repository, open_head};
use super::{Inherited, Published, Tree as View, Volume};
use crate::crypto::Hash;
use crate::format::clock::{Dot, Seen};
use crate::format::commit::{BAD_MAX, Name, NewObject};
use crate::format::container::Class;
use crate::format::namespace::{Content, Ino, Inode, Key};
use crate::format::node::{Id, MapItem, NO_ID, Node};
use crate::merge::Namespace;
use crate::store::{Result, StoreError};
use crate::tree::{NewNodes, Root, Source as _, map};
use tree::Tree;

/// A file that lost content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Its path, without a slash in front.
    pub path: Vec<u8>,
    /// Bytes that cannot be read.
    pub bytes: u64,
    /// Its size.
    pub size: u64,
}

/// What a repair did.
#[derive(Debug, Default)]
pub struct Repaired {
    /// The head that it made; none if nothing was to be done.
    pub published: Option<Published>,
    /// What changed in the tree, in words.
    pub changes: Vec<String>,
    /// Chunks and nodes that were stored again, out of files that are damaged
    /// elsewhere.
    pub healed: usize,
    /// Files that lost content, by path. They keep their place: what was lost
    /// may be put back.
    pub lost: Vec<Lost>,
}

/// Content that is walked: what it needs, and what cannot be had.
struct Walk<'a> {
    volume: &'a Volume,
    /// Whether a head or object is here and whole.
    good: &'a dyn Fn(&Name) -> bool,
    /// Whether a head or object is here and whole, and a head names it.
    named: &'a dyn Fn(&Name) -> bool,
    /// What only objects have that no head names.
    unnamed: HashSet<Id>,
    /// Whether chunks seen before can be read.
    chunks: HashMap<Id, bool>,
    nodes: HashSet<Id>,
    healed: usize,
}

impl Walk<'_> {
    /// Whether a good head or object has it.
    fn is_whole(&mut self, id: &Id) -> Result<bool> {
        let store = &self.volume.store;
        if store.is_in(id, self.named)? {
            return Ok(true);
        }
        let whole = store.is_in(id, self.good)?;
        if whole {
            self.unnamed.insert(*id);
        }
        Ok(whole)
    }

    /// Whether a chunk can be read; one that only bad files hold is stored
    /// again.
    fn chunk(&mut self, id: &Id, len: u64, class: Class) -> Result<bool> {
        if let Some(known) = self.chunks.get(id) {
            return Ok(*known);
        }
        let store = &self.volume.store;
        let here = if self.is_whole(id)? {
            true
        } else if let Some(bytes) =
            store.read(id, 0, len).map_or_else(StoreError::lost, |bytes| Ok(Some(bytes)))?
        {
            store.stage(class, *id, &bytes)?;
            self.healed += 1;
            true
        } else {
            false
        };
        self.chunks.insert(*id, here);
        Ok(here)
    }

    /// Bytes below a content node that cannot be read, of `len`.
    fn node(&mut self, id: &Id, len: u64, class: Class) -> Result<u64> {
        let store = &self.volume.store;
        let node = store.node(id).map_or_else(StoreError::lost, |node| Ok(Some(node)))?;
        let Some(node) = node else { return Ok(len) };
        if self.nodes.insert(*id) && !self.is_whole(id)? {
            let store = &self.volume.store;
            store.stage_nodes(NewNodes::from([(*id, node.encode())]));
            self.healed += 1;
        }
        let mut lost = 0;
        match &*node {
            Node::ContentLeaf(runs) => {
                for run in runs.iter().filter(|run| !run.is_hole()) {
                    if !self.chunk(&run.id, run.len, class)? {
                        lost += run.total();
                    }
                }
            }
            Node::ContentBranch(_, children) => {
                for child in children {
                    lost += self.node(&child.id, child.len, class)?;
                }
            }
            Node::MapLeaf(_)
            | Node::MapBranch(..)
            | Node::LedgerLeaf(_)
            | Node::LedgerBranch(..) => lost = len,
        }
        Ok(lost)
    }

    /// Bytes of content that cannot be read, of `size`.
    fn content(&mut self, content: &Content, size: u64, class: Class) -> Result<u64> {
        match content {
            Content::None => Ok(0),
            Content::Chunk(id) => Ok(if self.chunk(id, size, class)? { 0 } else { size }),
            Content::Tree(id, _) => self.node(id, size, class),
        }
    }

    /// Bytes of a file that cannot be read.
    fn file(&mut self, inode: &Inode) -> Result<u64> {
        self.content(&inode.content, inode.size, super::chunker::frame_class(inode.class))
    }

    /// Bytes that cannot be read of what lies beside each inode: long extended attributes, and
    /// recipes.
    fn beside(&mut self, items: &BTreeMap<Vec<u8>, MapItem>) -> Result<HashMap<Ino, u64>> {
        let mut lost = HashMap::new();
        for (key, item) in items {
            let Ok(key @ (Key::Xattr(ino, _) | Key::Recipe(ino))) = Key::decode(key) else {
                continue;
            };
            let (content, size) = View::value_of(&key, item)?.stored();
            *lost.entry(ino).or_default() += self.content(&content, size, Class::Compressible)?;
        }
        Ok(lost)
    }
}

impl Volume {
    /// Repairs what can be repaired. `bad` are heads and objects whose bytes are
    /// not what their names say. The volume must have no change that is not
    /// published.
    pub fn repair(&self, repository: &Repository, bad: &HashSet<Hash>) -> Result<Repaired> {
        let unnamed = self.store.unnamed();
        let bad_list: Vec<Hash> = BTreeSet::from_iter(bad).into_iter().copied().collect();
        if bad_list.len() > BAD_MAX {
            let what = format!("more than {BAD_MAX} files");
            return Err(StoreError::damaged("the repository", what));
        }
        self.store.mark_bad(&bad_list);
        let (mut items, holes) = self.collect(&self.roots(repository))?;
        self.settle_all(&mut items);
        let mut tree = Self::take_apart(items);
        self.mend(&mut tree);
        let listed: HashSet<Hash> =
            self.store.objects().into_iter().map(|(hash, ..)| hash).collect();
        let good = |name: &Name| match name {
            Name::Object { hash, .. } => listed.contains(hash) && !bad.contains(hash),
            Name::Head { hash, .. } => !bad.contains(hash),
            Name::Header(_) => false,
        };
        let loose: HashSet<Hash> = unnamed.iter().map(|object| object.hash).collect();
        let named =
            |name: &Name| good(name) && name.hash().is_some_and(|hash| !loose.contains(&hash));
        let mut walk = Walk {
            volume: self,
            good: &good,
            named: &named,
            unnamed: HashSet::new(),
            chunks: HashMap::new(),
            nodes: HashSet::new(),
            healed: 0,
        };
        let names = tree.names();
        let mut lost = Vec::new();
        let beside = walk.beside(&tree.items)?;
        for (ino, inode) in &tree.inodes {
            let bytes = walk.file(inode)? + beside.get(ino).copied().unwrap_or_default();
            if bytes > 0 {
                lost.push(Lost { path: Tree::path(&names, *ino), bytes, size: inode.size });
            }
        }
        lost.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let needed = |object: &NewObject| object.chunks.iter().any(|id| walk.unnamed.contains(id));
        let objects: Vec<_> = unnamed
            .into_iter()
            .filter(|object| !bad.contains(&object.hash) && needed(object))
            .collect();
        let base = self.base();
        let mut changes = tree.changes;
        if holes > 0 {
            changes.insert(0, format!("{holes} parts of the tree were taken from older commits"));
        }
        let untouched = changes.is_empty()
            && walk.healed == 0
            && objects.is_empty()
            && !self.owes_head()
            && base.inherited.bad == bad_list;
        let healed = walk.healed;
        if untouched {
            return Ok(Repaired { lost, ..Repaired::default() });
        }
        let bytes = tree.inodes.values().filter(|inode| inode.is_file());
        let bytes = bytes.fold(0u64, |sum, inode| sum.wrapping_add(inode.size));
        let inodes = tree.inodes.len() as u64;
        let mut seen = Seen::default();
        seen.add(self.repair_dot());
        tree.items.extend(self.rows(&seen));
        let edits: Vec<map::Edit> =
            tree.items.into_iter().map(|(key, item)| (key, Some(item))).collect();
        let mut new = NewNodes::new();
        let root = self.tree_at((NO_ID, 0)).edit(&edits, &mut new)?;
        self.store.stage_nodes(new);
        if self.store.staged_bytes() > crate::store::HEAD_DATA_MAX {
            self.store.publish_objects(0)?;
        }
        let inherited = base.inherited.clone();
        let next = Inherited { root, inodes, bytes, bad: bad_list, ..inherited };
        let namespace = Namespace::plain(root);
        let published = self.commit(next, namespace, self.state().journal, true, (objects, &[]))?;
        Ok(Repaired { published: Some(published), changes, healed, lost })
    }

    /// Of what is shown, what no head has is a change of this repair.
    fn settle_all(&self, items: &mut BTreeMap<Vec<u8>, MapItem>) {
        let rows = Key::unsettled();
        items.retain(|key, _| !key.starts_with(&rows));
        let base = self.base();
        for repair in base.namespace.repairs.groups.iter().flat_map(|group| &group.repairs) {
            for value in items.get_mut(&repair.key.encode()).into_iter().flat_map(|i| &mut i.values)
            {
                value.dot = self.repair_dot();
            }
        }
    }

    /// The dot of all that a repair changes: it is one change.
    fn repair_dot(&self) -> Dot {
        Dot { writer: self.writer(), record: 1 }
    }

    /// Roots of all commits that can be read, the newest first.
    fn roots(&self, repository: &Repository) -> Vec<Root> {
        let heads = repository.heads.values().flatten();
        let mut commits: Vec<_> = heads
            .filter_map(|head| open_head(&self.store, head).ok())
            .map(|(commit, ..)| ((commit.time, commit.generation), commit.root))
            .collect();
        commits.sort_unstable_by_key(|(when, _)| std::cmp::Reverse(*when));
        commits.into_iter().map(|(_, root)| root).collect()
    }

    /// Items of the newest commit; where nodes cannot be read, of the newest
    /// older one that has them. Also how many such places there were.
    fn collect(&self, older: &[Root]) -> Result<(BTreeMap<Vec<u8>, MapItem>, usize)> {
        let mut items = BTreeMap::new();
        let mut ranges = vec![(Vec::new(), None)];
        let mut holes = 0;
        let roots = std::iter::once(self.tree().root).chain(older.iter().copied());
        for (nth, root) in roots.enumerate() {
            if nth > 0 && root.0 == NO_ID {
                continue;
            }
            let (mut lost, mut failed) = (Vec::new(), None);
            for range in ranges {
                self.tree_at(root).salvage(
                    range,
                    &mut |item| drop(items.insert(item.key.to_vec(), item.clone())),
                    &mut |range, error| {
                        log::warn!("a part of the tree is gone: {error}");
                        lost.push(range);
                        if let Err(error) = error.lost::<()>() {
                            failed.get_or_insert(error);
                        }
                    },
                );
            }
            if let Some(error) = failed {
                return Err(error);
            }
            if nth == 0 {
                holes = lost.len();
            }
            ranges = lost;
            if ranges.is_empty() {
                break;
            }
        }
        Ok((items, holes))
    }
}

/// For messages.
impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = String::from_utf8_lossy(&self.path);
        write!(f, "{path}: {} of {} bytes", self.bytes, self.size)
    }
}
