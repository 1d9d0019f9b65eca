//! What of each device's folder may be relied on, as the ledger of its newest head says
//! (`docs/merging.md`, section 10).
//!
//! Invariant: new content refers to no container that its device gives back, and to none of a
//! device that does not know of this one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Result, Store};
use crate::crypto::{DeviceId, Hash, hex};
use crate::format::commit::Name;
use crate::format::ledger::Container;
use crate::format::node::Id;
use crate::tree::Root;

/// Rows of a ledger for heads and objects in the folder of its device, by hash.
pub type Rows = BTreeMap<Hash, Container>;

/// What a device says of its own folder.
#[derive(Clone, Debug)]
pub struct Reliance {
    /// The ledger of the device's newest head.
    pub ledger: Root,
    /// The rows of that ledger; empty as long as the device gives nothing back. None if they cannot be
    /// read: then nothing is known of what it keeps or gave back.
    pub rows: Option<Arc<Rows>>,
    /// The hash of the newest head, of which the ledger has no row.
    pub newest: Hash,
    /// Whether the device gives back what is in its folder.
    pub gives_back: bool,
    /// Whether the device waits for this one before it removes anything: it is this one, or knows
    /// of it, or writes no more.
    pub waits: bool,
}

impl Reliance {
    /// Whether the device gives something back since a later head of it than that of this generation.
    pub fn gives_back_after(&self, generation: u64) -> bool {
        self.rows().any(|(_, row)| row.condemned > generation)
    }

    /// The rows of the ledger, as far as they can be read.
    pub fn rows(&self) -> impl Iterator<Item = (&Hash, &Container)> {
        self.rows.iter().flat_map(|rows| rows.iter())
    }

    /// Whether new content may refer to a container of the device, as far as the ledger tells.
    fn is_relied_on(&self, hash: &Hash, is_own: bool) -> bool {
        let is_kept = self.rows.as_ref().is_some_and(|rows| match rows.get(hash) {
            Some(row) => row.condemned == 0,
            None => !self.gives_back || is_own || *hash == self.newest,
        });
        self.waits && is_kept
    }

    /// Whether nobody misses a container of the device that is not here.
    fn is_given_back(&self, hash: &Hash, is_own: bool) -> bool {
        self.rows.as_ref().is_some_and(|rows| match rows.get(hash) {
            Some(row) => row.condemned != 0,
            None => self.gives_back && !is_own && *hash != self.newest,
        })
    }
}

/// What all devices say of their folders.
#[derive(Debug, Default)]
pub(super) struct Reliances(BTreeMap<DeviceId, Reliance>);

impl Reliances {
    fn of(&self, name: &Name) -> Option<(&Reliance, Hash)> {
        let (Name::Head { device, hash, .. } | Name::Object { device, hash }) = name else {
            return None;
        };
        Some((self.0.get(device)?, *hash))
    }

    /// Whether new content of the device `own` may refer to a container. Nothing is known against one
    /// of a device without a head.
    pub(super) fn is_relied_on(&self, name: &Name, own: &DeviceId) -> bool {
        self.of(name).is_none_or(|(of, hash)| of.is_relied_on(&hash, is_in_folder(name, own)))
    }

    /// Whether nobody misses a container that is not here.
    pub(super) fn is_given_back(&self, name: &Name, own: &DeviceId) -> bool {
        self.of(name).is_some_and(|(of, hash)| of.is_given_back(&hash, is_in_folder(name, own)))
    }

    /// Whether a device would remove a container without having heard of this one.
    pub(super) fn is_of_stranger(&self, name: &Name) -> bool {
        self.of(name).is_some_and(|(of, _)| !of.waits)
    }

    pub(super) fn set(&mut self, device: DeviceId, reliance: Reliance) {
        self.0.insert(device, reliance);
    }

    pub(super) fn get(&self, device: &DeviceId) -> Option<&Reliance> {
        self.0.get(device)
    }
}

fn folder_of(name: &Name) -> Option<DeviceId> {
    match name {
        Name::Head { device, .. } | Name::Object { device, .. } => Some(*device),
        Name::Header(_) => None,
    }
}

fn is_in_folder(name: &Name, of: &DeviceId) -> bool {
    folder_of(name).as_ref() == Some(of)
}

impl Store {
    /// Stores a chunk or node again, unless it waits for a container or is in one that is relied on.
    /// What is in no container that is known here stays as it is; and so does what only devices have
    /// that do not know of this one, unless it is asked for (`with_strangers`).
    ///
    /// # Errors
    ///
    /// As for reading it.
    pub fn keep_reliable(&self, id: &Id, with_strangers: bool) -> Result<()> {
        if self.is_staged(id) {
            return Ok(());
        }
        let numbers = self.catalogue.lookup(id)?;
        let is_left = numbers.is_empty()
            || !self.catalogue.relied_on(&numbers).is_empty()
            || !with_strangers && self.catalogue.are_of_strangers(&numbers);
        if is_left { Ok(()) } else { self.store_again(id, &numbers) }
    }

    /// Stores a chunk of this length, or a node, again, unless it waits for a container or can be read
    /// now in one that is relied on.
    ///
    /// # Errors
    ///
    /// As for reading it.
    pub fn keep_readable(&self, id: &Id, len: u32) -> Result<()> {
        if self.is_staged(id) || self.is_readable_in(id, len, &|_| true)? {
            return Ok(());
        }
        self.store_again(id, &self.catalogue.lookup(id)?)
    }

    /// The devices in whose folders a chunk or node is.
    pub fn devices_of(&self, id: &Id) -> Result<Vec<DeviceId>> {
        let names =
            self.catalogue.lookup(id)?.into_iter().map(|number| self.catalogue.name(number));
        Ok(names.filter_map(|name| folder_of(&name)).collect())
    }

    /// Whether a chunk of this length, or a node, is in a container that is relied on and passes
    /// `test`, and can be read there now.
    pub fn is_readable_in(&self, id: &Id, len: u32, test: &dyn Fn(&Name) -> bool) -> Result<bool> {
        let numbers = self.catalogue.relied_on(&self.catalogue.lookup(id)?);
        for number in numbers.into_iter().filter(|number| test(&self.catalogue.name(*number))) {
            let mut bytes = vec![0; len as usize];
            match self.read_from(number, id, 0, &mut bytes) {
                Ok(()) => return Ok(true),
                Err(error) => log::warn!("chunk {}: {error}", hex(id)),
            }
        }
        Ok(false)
    }

    /// Takes over what a device says of its folder.
    pub fn set_reliance(&self, device: DeviceId, reliance: Reliance) {
        self.catalogue.set_reliance(device, reliance);
    }

    /// What a device says of its folder, if it was read.
    pub fn reliance(&self, device: &DeviceId) -> Option<Reliance> {
        self.catalogue.reliance(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::container::Kind;

    /// Where the ledger could not be read, all that had no row counted as given back: nothing was missed.
    #[test]
    fn a_ledger_that_cannot_be_read_says_nothing() {
        let row = |condemned| Container { kind: Kind::Data, generation: 3, size: 9, condemned };
        let rows: Rows = [([1; 32], row(0)), ([2; 32], row(7))].into();
        let of = |rows: Option<Rows>, gives_back| Reliance {
            ledger: ([9; 16], 0),
            rows: rows.map(Arc::new),
            newest: [3; 32],
            gives_back,
            waits: true,
        };
        let told = |of: &Reliance, is_own| {
            [1, 2, 3, 4].map(|hash| {
                (of.is_relied_on(&[hash; 32], is_own), of.is_given_back(&[hash; 32], is_own))
            })
        };
        let (kept, given, nothing) = ((true, false), (false, true), (false, false));
        assert_eq!(told(&of(Some(rows.clone()), true), false), [kept, given, kept, given]);
        assert_eq!(told(&of(Some(rows), true), true), [kept, given, kept, kept]);
        assert_eq!(told(&of(Some(Rows::new()), false), false), [kept; 4]);
        assert_eq!(told(&of(None, true), false), [nothing; 4]);
    }
}
