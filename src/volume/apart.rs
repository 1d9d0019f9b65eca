//! What only one of several states needs: what its removal would free.

use std::collections::HashMap;

use super::Volume;
use super::live::{Reference, references};
use crate::format::node::{Id, NO_ID};
use crate::store::{Result, Store};
use crate::tree::Source as _;

/// Who needs a node or chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The state with this place in the list, and no other one looked at so far.
    One(usize),
    /// Several states, or one that stays. So it is with all that a node refers to.
    Several,
}

struct Owners<'a> {
    store: &'a Store,
    of: HashMap<Id, Owner>,
    /// Bytes of content that only the state in this place needs.
    apart: Vec<u64>,
}

impl Owners<'_> {
    /// Notes that `by` needs an id. Returns who needs it then, if that changed, and who did before.
    fn note(&mut self, id: Id, by: Owner) -> Option<(Owner, Option<Owner>)> {
        let before = self.of.get(&id).copied();
        let now = if before.is_none_or(|before| before == by) { by } else { Owner::Several };
        if before == Some(now) {
            return None;
        }
        self.of.insert(id, now);
        Some((now, before))
    }

    fn add(&mut self, reference: Reference, by: Owner) -> Result<()> {
        match reference {
            Reference::Node(id) if id != NO_ID => {
                let Some((now, _)) = self.note(id, by) else { return Ok(()) };
                let node = self.store.node(&id)?;
                references(&node, &mut |below| self.add(below, now))
            }
            Reference::Chunk(id, len) if id != NO_ID => {
                match self.note(id, by) {
                    // Records of others may give one chunk two lengths.
                    Some((Owner::One(at), _)) => {
                        self.apart[at] = self.apart[at].saturating_add(len);
                    }
                    Some((Owner::Several, Some(Owner::One(at)))) => {
                        self.apart[at] = self.apart[at].saturating_sub(len);
                    }
                    _ => {}
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Volume {
    /// Of each of the states with these roots the bytes of content, before compression, that no other one
    /// of them needs, and no newest state of any device.
    ///
    /// # Errors
    ///
    /// If a node of any of them cannot be read: then nothing is known.
    pub fn bytes_apart(&self, roots: &[Id]) -> Result<Vec<u64>> {
        let apart = vec![0; roots.len()];
        let mut owners = Owners { store: &self.store, of: HashMap::new(), apart };
        let shown = self.base().namespace.shown.0;
        let newest = self.heads().newest.iter().map(|head| head.commit.root.0).collect::<Vec<_>>();
        for root in newest.into_iter().chain([shown]) {
            owners.add(Reference::Node(root), Owner::Several)?;
        }
        for (at, root) in roots.iter().enumerate() {
            owners.add(Reference::Node(*root), Owner::One(at))?;
        }
        Ok(owners.apart)
    }
}
