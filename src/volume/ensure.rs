//! Before a head goes out: what it needs is in containers that this device relies on, else it is stored
//! again with the head (`docs/merging.md`, sections 9 and 10).
//!
//! Invariant: a head says that this device holds the head of another one only if nothing that this
//! device needs is in files alone which that one gives back.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::inherited::Inherited;
use super::live::{Reference, references};
use super::{Volume, kept_in};
use crate::crypto::DeviceId;
use crate::format::namespace::{Content, Key, Value};
use crate::format::node::{Id, MapItem, NO_ID, Node};
use crate::store::{Result, Store, StoreError};
use crate::tree::{Root, Source as _, diff};

/// Looks for what is only in containers that are not relied on, and has it stored again.
struct Ensurer<'a> {
    store: &'a Store,
    nodes: HashSet<Id>,
    /// Whether what lies only with devices that do not know of this one is stored again, too.
    with_strangers: bool,
    /// Devices that give something back.
    givers: BTreeSet<DeviceId>,
    /// Devices which give back what could not be stored again, or may do so.
    unsure: BTreeSet<DeviceId>,
}

impl Ensurer<'_> {
    /// Stores a chunk or node again if need be.
    fn check(&mut self, id: &Id) -> Result<()> {
        match self.store.keep_reliable(id, self.with_strangers) {
            Ok(()) => Ok(()),
            Err(error @ (StoreError::Missing { .. } | StoreError::Damaged { .. })) => {
                log::warn!("it is given back, and needed here: {error}");
                self.unsure.extend(self.store.devices_of(id)?);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// A node; none if it cannot be had: what is below it may be anybody's then.
    fn node(&mut self, id: &Id) -> Result<Option<Arc<Node>>> {
        match self.store.node(id) {
            Ok(node) => Ok(Some(node)),
            Err(StoreError::Missing { .. } | StoreError::Damaged { .. }) => {
                self.unsure.extend(&self.givers);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A node, and all below it.
    fn tree(&mut self, id: &Id) -> Result<()> {
        if *id == NO_ID || !self.nodes.insert(*id) {
            return Ok(());
        }
        self.check(id)?;
        let Some(node) = self.node(id)? else { return Ok(()) };
        references(&node, &mut |reference| match reference {
            Reference::Node(id) => self.tree(&id),
            Reference::Chunk(id, _) => self.check(&id),
            Reference::Unknown => Ok(()),
        })
    }

    /// All of a content.
    fn content(&mut self, content: &Content) -> Result<()> {
        match content {
            Content::None => Ok(()),
            Content::Chunk(id) => self.check(id),
            Content::Tree(id, _) => self.tree(id),
        }
    }

    /// The nodes of a map, without what its values name.
    fn map(&mut self, id: &Id) -> Result<()> {
        if *id == NO_ID || !self.nodes.insert(*id) {
            return Ok(());
        }
        self.check(id)?;
        let Some(node) = self.node(id)? else { return Ok(()) };
        if let Node::MapBranch(level, children) = &*node {
            for child in children {
                // Leaves of a map name no nodes of it.
                if *level > 1 { self.map(&child.id)? } else { self.check(&child.id)? }
            }
        }
        Ok(())
    }

    /// The contents that are in the map at `new`, and not under the same key in that at `old`.
    fn changed_contents(&mut self, old: Root, new: Root) -> Result<()> {
        for difference in diff::maps(self.store, old, new) {
            let difference = match difference {
                Err(StoreError::Missing { .. } | StoreError::Damaged { .. }) => {
                    self.unsure.extend(&self.givers);
                    return Ok(());
                }
                other => other?,
            };
            let (before, after) = difference.sides();
            let before = before.map(contents).unwrap_or_default();
            for content in after.map(contents).unwrap_or_default() {
                if !before.contains(&content) {
                    self.content(&content)?;
                }
            }
        }
        Ok(())
    }
}

/// The contents that the values of an item name.
fn contents(item: &MapItem) -> Vec<Content> {
    let Ok(key) = Key::decode(&item.key) else { return Vec::new() };
    let values = item.values.iter().filter_map(|value| Value::decode(&key, &value.bytes).ok());
    values.map(|value| value.stored().0).collect()
}

impl Volume {
    /// Stores again what the next head needs and what is only in containers that are not relied on any
    /// more. Returns the devices of whose files something is needed that cannot be had now: the head must
    /// not say that it holds theirs.
    ///
    /// The states that this device keeps, and the contents that are `open` on it, are looked through, too,
    /// if a device gives back more than this one knew of at its last head.
    pub(super) fn ensure(&self, next: &Inherited, open: &[Content]) -> Result<BTreeSet<DeviceId>> {
        let (heads, own, state) = (self.heads(), self.own(), self.state());
        let others = heads.newest.iter().filter(|head| head.device != state.device);
        let reliance = |device: &DeviceId| self.store.reliance(device);
        let (mut givers, mut unsure) = (BTreeSet::new(), BTreeSet::new());
        let (mut gives_more, mut are_strangers) = (false, false);
        for head in others {
            let Some(of) = reliance(&head.device) else { continue };
            are_strangers |= !of.waits;
            if of.gives_back {
                givers.insert(head.device);
            }
            if of.rows.is_none() {
                // Nobody knows what of its files is needed here.
                unsure.insert(head.device);
            }
            let held = own.processed.held(&head.device).unwrap_or(0);
            gives_more |= of.gives_back && held < head.generation && of.gives_back_after(held);
        }
        let gives_back = !givers.is_empty();
        let mut ensurer = Ensurer {
            store: &self.store,
            nodes: HashSet::new(),
            with_strangers: false,
            givers,
            unsure,
        };
        if gives_more {
            ensurer.tree(&next.root.0)?;
            open.iter().try_for_each(|content| ensurer.content(content))?;
            match kept_in(&self.store, own.ledger) {
                Ok(kept) => kept.values().try_for_each(|kept| ensurer.tree(&kept.root.0))?,
                Err(error) => {
                    log::warn!("what this device keeps cannot be read: {error}");
                    ensurer.unsure.extend(&ensurer.givers);
                }
            }
        } else if gives_back {
            let last = own.shown.as_ref().map_or((NO_ID, 0), |(_, kept)| kept.root);
            ensurer.map(&next.root.0)?;
            ensurer.nodes.clear();
            ensurer.changed_contents(last, next.root)?;
        }
        if are_strangers {
            // They do not wait for this device, so what it writes must not rest on what they have.
            ensurer.with_strangers = true;
            ensurer.nodes.clear();
            ensurer.changed_contents(self.base().inherited.root, next.root)?;
        }
        Ok(ensurer.unsure)
    }
}
