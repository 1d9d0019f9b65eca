//! The namespace with all changes: two overlays in memory above the volume's tree.
//!
//! Invariant: of a key, the current overlay is asked first, then the one that a checkpoint has
//! frozen, then the tree; the first that has an edit or a value of it is right. Only the
//! current one changes.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use super::{Fs, FsError, Result, State};
use crate::format::clock::{Dot, Seen, Writer};
use crate::format::namespace::{Ino, Inode, Key, Value};
use crate::format::node::MapItem;
use crate::format::versions::History;
use crate::volume::{Changes, Origins, StoreError, Tree};

/// A value of the namespace with the change that made it, or that there is none.
type Edit = Option<(Dot, Value)>;

/// Changes of the namespace above what is below.
#[derive(Clone, Default)]
pub(super) struct Overlay {
    /// The newest edit of each key, by the encoded key.
    edits: BTreeMap<Vec<u8>, Edit>,
    /// The newest changes of each inode that made versions.
    origins: HashMap<Ino, Origins>,
    /// The changes that made them.
    seen: Seen,
    /// Writers of the changes, in the order of their first ones.
    writers: Vec<Writer>,
}

impl Overlay {
    /// The inode record under the key, if it is set here, with its dot.
    pub(super) fn inode_mut(&mut self, key: &[u8]) -> Option<(&mut Dot, &mut Inode)> {
        match self.edits.get_mut(key) {
            Some(Some((dot, Value::Inode(inode)))) => Some((dot, inode)),
            _ => None,
        }
    }

    /// The content of a file did not change, as far as a commit has it.
    pub(super) fn withhold_content(&mut self, ino: Ino) {
        if let Some(origins) = self.origins.get_mut(&ino) {
            origins.content = None;
        }
    }

    /// Turns the overlay into the changes that the volume publishes.
    pub(super) fn into_changes(self) -> Changes {
        let Self { edits, origins, seen, writers } = self;
        Changes { edits: edits.into_iter().collect(), origins, seen, writers }
    }

    /// Adds the changes of `newer`, which replace earlier ones of the same keys.
    fn absorb(&mut self, newer: Self) {
        self.edits.extend(newer.edits);
        for (ino, origins) in newer.origins {
            self.origins.entry(ino).or_default().absorb(origins);
        }
        self.seen.join(&newer.seen);
        newer.writers.into_iter().for_each(|writer| self.add_writer(writer));
    }

    fn add_writer(&mut self, writer: Writer) {
        if !self.writers.contains(&writer) {
            self.writers.push(writer);
        }
    }

    /// The edits of keys from `from` on that have a prefix.
    fn range<'a>(&'a self, from: &[u8], prefix: &'a [u8]) -> impl Edited<'a> {
        self.edits
            .range::<[u8], _>((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }
}

/// Edits in the order of their keys.
trait Edited<'a>: Iterator<Item = (&'a Vec<u8>, &'a Edit)> {}

impl<'a, I: Iterator<Item = (&'a Vec<u8>, &'a Edit)>> Edited<'a> for I {}

/// All changes of the namespace in memory.
#[derive(Default)]
pub(super) struct Overlays {
    /// Changes that a checkpoint is publishing.
    frozen: Option<Arc<Overlay>>,
    /// Changes since the last freeze.
    current: Overlay,
}

impl Overlays {
    /// The newest edit of a key, if there is one.
    fn get(&self, key: &[u8]) -> Option<&Edit> {
        let frozen = || self.frozen.as_ref().and_then(|frozen| frozen.edits.get(key));
        self.current.edits.get(key).or_else(frozen)
    }

    /// The newest value of a key with the change that made it, if one of the changes did.
    pub(super) fn edited(&self, key: &[u8]) -> Option<&(Dot, Value)> {
        self.get(key)?.as_ref()
    }

    /// Sets a value, which the change `dot` made.
    pub(super) fn set(&mut self, key: Vec<u8>, dot: Dot, value: Value) {
        self.current.edits.insert(key, Some((dot, value)));
    }

    /// Removes the value of a key.
    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.current.edits.insert(key, None);
    }

    /// The inode record under the key, if it was set since the last freeze, with its dot.
    pub(super) fn inode_mut(&mut self, key: &[u8]) -> Option<(&mut Dot, &mut Inode)> {
        self.current.inode_mut(key)
    }

    /// A change made new content of a file.
    pub(super) fn content_changed(&mut self, ino: Ino, dot: Dot) {
        self.current.origins.entry(ino).or_default().content = Some(dot);
    }

    /// A change made new attributes of an inode.
    pub(super) fn attributes_changed(&mut self, ino: Ino, dot: Dot) {
        self.current.origins.entry(ino).or_default().attributes = Some(dot);
    }

    /// Records that the change `dot` was made.
    pub(super) fn see(&mut self, dot: Dot) {
        self.current.seen.add(dot);
        self.current.add_writer(dot.writer);
    }

    /// Changed names and inodes since the last freeze.
    pub(super) fn changes(&self) -> usize {
        self.current.edits.len()
    }

    /// Changed names and inodes in all.
    pub(super) fn all_changes(&self) -> u64 {
        let frozen = self.frozen.as_ref().map_or(0, |frozen| frozen.edits.len());
        self.current.edits.len() as u64 + frozen as u64
    }

    /// Whether a checkpoint is publishing frozen changes.
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Sets what changed aside and goes on with a fresh overlay. Nothing may be frozen.
    pub(super) fn freeze(&mut self) -> Arc<Overlay> {
        let overlay = Arc::new(std::mem::take(&mut self.current));
        self.frozen = Some(overlay.clone());
        overlay
    }

    /// Discards what was frozen: the tree has it.
    pub(super) fn discard_frozen(&mut self) {
        self.frozen = None;
    }

    /// Puts what was frozen back, below what came since.
    pub(super) fn restore_frozen(&mut self) {
        let Some(frozen) = self.frozen.take() else { return };
        let newer = std::mem::take(&mut self.current);
        let mut all = Arc::try_unwrap(frozen).unwrap_or_else(|shared| (*shared).clone());
        all.absorb(newer);
        self.current = all;
    }

    /// The newest edits of all keys from `from` on that have a prefix.
    fn range<'a>(
        &'a self,
        from: &'a [u8],
        prefix: &'a [u8],
    ) -> Upper<impl Edited<'a>, impl Edited<'a>> {
        let frozen = self.frozen.iter().flat_map(move |frozen| frozen.range(from, prefix));
        Upper { current: self.current.range(from, prefix).peekable(), frozen: frozen.peekable() }
    }
}

impl Fs {
    /// A value of the namespace with all changes.
    pub(super) fn get(&self, state: &State, key: &Key) -> Result<Option<Value>> {
        let bytes = key.encode();
        if let Some(edit) = state.overlays.get(&bytes) {
            return Ok(edit.as_ref().map(|(_, value)| value.clone()));
        }
        let stored = self.volume.tree().get_encoded(key, &bytes);
        stored.map(|value| value.filter(is_there)).map_err(|error| self.store_failed(&error))
    }

    pub(super) fn inode(&self, state: &State, ino: Ino) -> Result<Inode> {
        if let Some(inode) = state.orphans.get(&ino) {
            return Ok(inode.clone());
        }
        match self.get(state, &Key::Inode(ino))? {
            Some(Value::Inode(mut inode)) => {
                // The checkpoint makes it, from what is stored and what changed.
                *inode.history = History::default();
                Ok(*inode)
            }
            _ => Err(FsError::Stale),
        }
    }

    pub(super) fn dir(&self, state: &State, ino: Ino) -> Result<Inode> {
        let inode = self.inode(state, ino)?;
        if inode.is_dir() { Ok(inode) } else { Err(FsError::NotDir) }
    }

    /// Visits the items whose encoded key starts with `prefix`, from `from` on,
    /// in order, until `visit` breaks.
    pub(super) fn scan(
        &self,
        state: &State,
        from: &[u8],
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], Item<'_>) -> Step,
    ) -> Result<()> {
        let mut upper = state.overlays.range(from, prefix);
        let mut ended = ControlFlow::Continue(());
        let stored = self.volume.tree().scan_items(from, &mut |item| {
            if !item.key.starts_with(prefix) {
                return ControlFlow::Break(());
            }
            let mut hidden = false;
            while ended.is_continue()
                && let Some((key, above)) = upper.next_up_to(&item.key)
            {
                hidden = **key == *item.key;
                if let Some((_, value)) = above {
                    ended = visit(key, Item::Above(value));
                }
            }
            if !hidden && ended.is_continue() {
                ended = visit(&item.key, Item::Stored(item));
            }
            if ended.is_break() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        while stored.is_ok()
            && ended.is_continue()
            && let Some((key, above)) = upper.next()
        {
            if let Some((_, value)) = above {
                ended = visit(key, Item::Above(value));
            }
        }
        stored.and(ended.break_value().unwrap_or(Ok(()))).map_err(|error| self.store_failed(&error))
    }

    /// What `scan` visits, at most `limit` items.
    pub(super) fn range(
        &self,
        state: &State,
        from: &[u8],
        prefix: &[u8],
        limit: usize,
    ) -> Result<Vec<(Key, Value)>> {
        let mut found = Vec::new();
        self.scan(state, from, prefix, &mut |bytes, seen| {
            let key = Tree::decode_key(bytes);
            match key.and_then(|key| seen.value(&key).map(|value| (key, value))) {
                Ok((_, value)) if !is_there(&value) => {}
                Ok(item) => found.push(item),
                Err(error) => return ControlFlow::Break(Err(error)),
            }
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(Ok(())) }
        })?;
        Ok(found)
    }

    /// How many items `scan` visits, counted up to `limit`.
    pub(super) fn count(&self, state: &State, prefix: &[u8], limit: usize) -> Result<usize> {
        let mut count = 0;
        self.scan(state, prefix, prefix, &mut |_, _| {
            count += 1;
            if count < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(Ok(())) }
        })?;
        Ok(count)
    }
}

/// Whether a stored value is one that users see: a removed attribute is none.
fn is_there(value: &Value) -> bool {
    !matches!(value, Value::Xattr(xattr) if xattr.is_removed())
}

/// Whether a way through overlays and tree goes on, and if not, whether it failed.
pub(super) type Step = ControlFlow<std::result::Result<(), StoreError>>;

/// An item on a way through overlays and tree.
pub(super) enum Item<'a> {
    Above(&'a Value),
    Stored(&'a MapItem),
}

impl Item<'_> {
    /// Decodes the value of the item, whose key is `key`.
    pub(super) fn value(&self, key: &Key) -> std::result::Result<Value, StoreError> {
        match self {
            Self::Above(value) => Ok((*value).clone()),
            Self::Stored(item) => Tree::value_of(key, item),
        }
    }
}

/// The two overlays as one ordered list; the current one hides the frozen.
struct Upper<C: Iterator, F: Iterator> {
    current: Peekable<C>,
    frozen: Peekable<F>,
}

impl<'a, C: Edited<'a>, F: Edited<'a>> Upper<C, F> {
    fn next_up_to(&mut self, limit: &[u8]) -> Option<C::Item> {
        let first = [self.current.peek(), self.frozen.peek()].into_iter().flatten();
        let first = first.map(|(key, _)| *key).min()?;
        if first.as_slice() <= limit { self.next() } else { None }
    }

    fn next(&mut self) -> Option<C::Item> {
        let (current, frozen) = (self.current.peek(), self.frozen.peek());
        let order = match (current, frozen) {
            (Some((current, _)), Some((frozen, _))) => current.cmp(frozen),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        if order.is_eq() {
            self.frozen.next();
        }
        if order.is_gt() { self.frozen.next() } else { self.current.next() }
    }
}
