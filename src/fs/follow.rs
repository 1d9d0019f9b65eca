//! Going on from what other devices wrote, while the file system is mounted.
//!
//! Invariant: the base changes only while nothing is acknowledged that no head has, no operation
//! is in progress, and no file is open that another device changed. What the mount shows
//! changes in one step.

use std::collections::BTreeSet;

use super::Fs;
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
    /// Not yet: files are written just now, or this one is open and another device changed it.
    Later(Option<Ino>),
}

impl Fs {
    /// Publishes what is acknowledged, looks for heads of other devices, and goes on from them.
    pub fn follow(&self, follower: &Follower) -> std::result::Result<Followed, VolumeError> {
        let _flushing = self.flushing_next();
        if !self.options.read_only {
            // What fails is told where it happens; then nothing is gone on from.
            let published = self.checkpoint_locked(false);
            if !matches!(published, Ok(None | Some((_, None)))) {
                follower.look_again();
                return Ok(Followed::Later(None));
            }
        }
        let Looked { base, heads, seen } = follower.look(&self.volume)?;
        let Some(base) = base else {
            self.volume.set_heads(heads);
            return Ok(Followed::Nothing);
        };
        let changed = self.changed(&self.volume.tree_at(base.namespace.shown))?;
        let draining = if self.options.read_only { None } else { self.drained().ok() };
        let (_draining, mut state) = match draining {
            Some((draining, state)) => (Some(draining), state),
            None => (None, self.lock()),
        };
        if state.overlays.all_changes() > 0 || state.overlays.is_frozen() {
            follower.look_again();
            return Ok(Followed::Later(None));
        }
        let is_held = |ino: &&Ino| {
            let file = state.files.get(ino);
            file.is_some_and(|file| file.opens > 0 || !file.is_clean())
        };
        if let Some(ino) = changed.contents.iter().find(is_held) {
            follower.look_again();
            return Ok(Followed::Later(Some(*ino)));
        }
        let (inodes, bytes) = (base.inherited.inodes, base.inherited.bytes);
        self.volume.rebase(base, heads, seen)?;
        state.inodes = inodes;
        state.bytes = bytes;
        state.subdirs.clear();
        state.names.clear();
        for ino in &changed.contents {
            state.files.remove(ino);
            // One that was removed here, and that another device changed, is back.
            state.orphans.remove(ino);
        }
        Ok(Followed::Changed(changed))
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
                            std::ops::ControlFlow::Continue(())
                        }
                        _ => std::ops::ControlFlow::Break(()),
                    })?;
                }
                Key::Writer(_) | Key::Unsettled(..) => {}
                key => drop(changed.inodes.insert(key.ino())),
            }
        }
        Ok(changed)
    }
}
