//! Going on from what other devices wrote, while the file system is mounted.
//!
//! Invariant: the base changes only while nothing is acknowledged that no head has, no operation
//! is in progress, and no file is open that another device changed. What the mount shows
//! changes in one step.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::{File, Fs, Replaced, State};
use crate::format::namespace::{Ino, Key, Value};
use crate::format::node::MapItem;
use crate::sync::{Follower, Looked};
use crate::volume::{StoreError, Tree, VolumeError};

/// What of the namespace is another than before: the kernel has to forget it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Names, each with its directory.
    pub names: BTreeSet<(Ino, Vec<u8>)>,
    /// Inodes whose record, attributes or entries changed.
    pub inodes: BTreeSet<Ino>,
    /// Of those the files whose content, and the inodes whose existence, changed.
    contents: BTreeSet<Ino>,
}

/// What came of following.
#[derive(Debug)]
pub enum Followed {
    /// Nothing new is here.
    Nothing,
    /// The mount shows what others wrote.
    Changed(Changed),
    /// Not yet: files are written just now, or the file of this name is open and another device
    /// changed it.
    Later(Option<Vec<u8>>),
}

impl Fs {
    /// Looks for heads of other devices, publishes what is acknowledged, and goes on from the
    /// join of all. If nothing new is here, nothing is published.
    pub fn follow(&self, follower: &Follower) -> std::result::Result<Followed, VolumeError> {
        let _flushing = self.flushing_next();
        let mut looked = follower.look(&self.volume)?;
        let Some(base) = &looked.base else {
            self.volume.set_heads(looked.heads);
            return Ok(Followed::Nothing);
        };
        let mut changed = self.changed(&self.volume.tree_at(base.namespace.shown))?;
        // What is not open is published first.
        let is_open = |file: &File| file.opens > 0;
        let held = Self::held(&self.lock(), &changed, is_open);
        if let Some(ino) = held {
            follower.look_again();
            return Ok(Followed::Later(Some(self.name_of(ino)?)));
        }
        if !self.options.read_only && self.lock().overlays.all_changes() > 0 {
            // What fails is told where it happens; then nothing is gone on from.
            if !matches!(self.checkpoint_locked(false), Ok(None | Some((_, None)))) {
                follower.look_again();
                return Ok(Followed::Later(None));
            }
            // Now with the head that was published.
            looked = follower.look(&self.volume)?;
            let Some(base) = &looked.base else {
                self.volume.set_heads(looked.heads);
                return Ok(Followed::Nothing);
            };
            changed = self.changed(&self.volume.tree_at(base.namespace.shown))?;
        }
        let Looked { base: Some(base), heads, seen } = looked else { unreachable!("it is there") };
        let Ok((_draining, mut state)) = self.drained() else {
            follower.look_again();
            return Ok(Followed::Later(None));
        };
        if state.overlays.all_changes() > 0 || state.overlays.is_frozen() {
            follower.look_again();
            return Ok(Followed::Later(None));
        }
        if let Some(ino) = Self::held(&state, &changed, |file| file.opens > 0 || !file.is_clean()) {
            drop(state);
            follower.look_again();
            return Ok(Followed::Later(Some(self.name_of(ino)?)));
        }
        let (inodes, bytes) = (base.inherited.inodes, base.inherited.bytes);
        if let Err(error) = self.volume.rebase(base, heads, seen) {
            // What is logged from here on would be replayed on nobody knows what.
            self.fail_for_good(&error);
            return Err(StoreError::state("device record", error).into());
        }
        state.inodes = inodes;
        state.bytes = bytes;
        state.subdirs.clear();
        state.names.clear();
        for ino in &changed.contents {
            if state.lookups.contains_key(ino) {
                let replaced = state.replaced.entry(*ino).or_default();
                *replaced = Replaced { times: replaced.times + 1, is_stale: true };
            }
            state.files.remove(ino);
            // One that was removed here, and that another device changed, is back.
            state.orphans.remove(ino);
        }
        Ok(Followed::Changed(changed))
    }

    /// Looks what other devices say, and shows nothing of what they wrote.
    pub fn read_heads(&self, follower: &Follower) -> std::result::Result<(), VolumeError> {
        let _flushing = self.flushing_next();
        self.volume.set_heads(follower.read(&self.volume)?);
        Ok(())
    }

    /// A file whose content changed elsewhere and that keeps this mount from showing it.
    fn held(state: &State, changed: &Changed, is_held: impl Fn(&File) -> bool) -> Option<Ino> {
        let is_held = |ino: &&Ino| state.files.get(ino).is_some_and(&is_held);
        changed.contents.iter().find(is_held).copied()
    }

    /// A name of a file, for messages; none if it has none in the tree.
    fn name_of(&self, ino: Ino) -> std::result::Result<Vec<u8>, StoreError> {
        let mut found = Vec::new();
        self.volume.tree().scan(&Key::backs(ino), &mut |key, _| {
            if let Key::Back(of, _, name) = key
                && of == ino
            {
                found = name;
            }
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Where another namespace differs from the one that is shown.
    fn changed(&self, other: &Tree<'_>) -> std::result::Result<Changed, StoreError> {
        let mut changed = Changed::default();
        for difference in self.volume.tree().diff(other) {
            let difference = difference?;
            let (before, after) = difference.sides();
            let Some(item) = before.or(after) else { continue };
            match Tree::decode_key(&item.key)? {
                Key::Entry(dir, _, name) => {
                    changed.inodes.insert(dir);
                    changed.names.insert((dir, name));
                }
                Key::Back(ino, dir, name) => {
                    changed.inodes.insert(ino);
                    changed.names.insert((dir, name));
                }
                key @ Key::Inode(ino) => {
                    let value = |item: Option<&MapItem>| {
                        item.map(|item| Tree::value_of(&key, item)).transpose()
                    };
                    changed.inodes.insert(ino);
                    let same = match (value(before)?, value(after)?) {
                        (Some(Value::Inode(one)), Some(Value::Inode(other))) => {
                            (one.size, one.content, &one.inline)
                                == (other.size, other.content, &other.inline)
                        }
                        _ => false,
                    };
                    if !same {
                        changed.contents.insert(ino);
                    }
                    // The kernel believes its own size and times for as long as it knows a name.
                    let prefix = Key::backs(ino);
                    other.scan(&prefix, &mut |key, _| match key {
                        Key::Back(of, dir, name) if of == ino => {
                            changed.names.insert((dir, name));
                            ControlFlow::Continue(())
                        }
                        _ => ControlFlow::Break(()),
                    })?;
                }
                Key::Writer(_) | Key::Unsettled(..) => {}
                key => drop(changed.inodes.insert(key.ino())),
            }
        }
        Ok(changed)
    }
}
