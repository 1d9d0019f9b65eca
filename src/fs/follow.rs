//! Going on from what other devices wrote, while the file system is mounted.
//!
//! Invariant: the base changes only while nothing is acknowledged that no head has. What the mount
//! shows changes in one step. A file that is open and that another device changed stays as it is
//! for whoever has it open (`pins`); only an open database keeps the base from changing.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use super::pins::{KernelNumbers, Pin, ReplacedDirectory};
use super::{Fs, Replaced, State};
use crate::format::clock::Generations;
use crate::format::namespace::{Ino, Key, Value};
use crate::format::node::MapItem;
use crate::sync::Follower;
use crate::volume::{Base, Heads, StoreError, Tree, VolumeError};

/// What of the namespace is another than before: the kernel has to forget it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Names, each with its directory.
    pub names: BTreeSet<(Ino, Vec<u8>)>,
    /// Inodes whose record, attributes or entries changed.
    pub inodes: BTreeSet<Ino>,
    /// Of those the files whose content, and the inodes whose existence, changed.
    pub(super) contents: BTreeSet<Ino>,
    /// Of these the directories. The kernel keeps no content of one.
    pub(super) directories: BTreeSet<Ino>,
    /// Whether a directory has another name, or another one has its name.
    pub(super) moves_directories: bool,
}

/// What came of following.
#[derive(Debug)]
pub enum Followed {
    /// Nothing new is here.
    Nothing,
    /// The mount shows what others wrote.
    Changed(Changed),
    /// Nothing new is shown yet.
    Later(Later),
}

/// Why what others wrote is not shown yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Later {
    /// Programs use the file system just now.
    Busy,
    /// What was acknowledged here could not be published, or not all of it.
    Unpublished,
    /// Another device changed the file of this name, which is open here and belongs to a database.
    Database(Vec<u8>),
    /// The heads that are here lack changes that are shown: one was taken away, or is not here yet.
    Older,
}

/// After how many tries in vain changes wait for the next one.
const BUSY_MAX: usize = 2;

/// What a mount would be based on next.
struct NextBase {
    base: Base,
    /// The newest generation of each device that local state has seen then.
    seen: Generations,
    changed: Changed,
    /// Files of which anything changed, and that were open.
    open: BTreeSet<Ino>,
    /// Files whose content changed, and that are open or have changes here.
    used: BTreeSet<Ino>,
    /// Those of them that can be pinned.
    pinnable: HashMap<Ino, Pin>,
    directories: Vec<ReplacedDirectory>,
}

impl Fs {
    /// Looks for heads of other devices, publishes what is acknowledged, and goes on from the
    /// join of all. If nothing new is here, nothing is published.
    pub fn follow(&self, follower: &Follower) -> std::result::Result<Followed, VolumeError> {
        let _flushing = self.flushing_next();
        let mut heads = None;
        // A database that was closed just now stays closed for so long.
        let held = (self.held_following() == Some(false)).then(|| self.hold_of_opens.begin());
        let followed = self.follow_to(follower, &mut heads)?;
        drop(held);
        let is_busy = matches!(followed, Followed::Later(Later::Busy));
        if matches!(followed, Followed::Later(_)) {
            follower.look_again(is_busy);
        }
        if is_busy {
            self.busy_follows.fetch_add(1, Ordering::Relaxed);
        } else {
            self.busy_follows.store(0, Ordering::Relaxed);
        }
        if !matches!(followed, Followed::Later(Later::Database(_))) {
            self.lock().holding.clear();
        }
        // What the others say is told, whether it is shown or not.
        if let Some(heads) = heads {
            self.volume.set_heads(heads);
        }
        Ok(followed)
    }

    /// Follows; `heads` are those that were found and that the volume does not have.
    fn follow_to(
        &self,
        follower: &Follower,
        heads: &mut Option<Heads>,
    ) -> std::result::Result<Followed, VolumeError> {
        // What is not open is published first.
        let mut next = match self.next_base(follower, heads)? {
            ControlFlow::Continue(next) => next,
            ControlFlow::Break(followed) => return Ok(followed),
        };
        let mut held = None;
        if !self.options.read_only && self.has_changes() {
            // What fails is told where it happens; then nothing is gone on from.
            let publish = || matches!(self.checkpoint_locked(false), Ok(None | Some((_, None))));
            if !publish() {
                return Ok(Followed::Later(Later::Unpublished));
            }
            // Programs that never pause wait for a moment: there is little left to publish.
            if self.busy_follows.load(Ordering::Relaxed) >= BUSY_MAX {
                held = Some(self.hold.begin());
                if self.has_changes() && !publish() {
                    return Ok(Followed::Later(Later::Unpublished));
                }
            }
            // Now with the head that was published.
            next = match self.next_base(follower, heads)? {
                ControlFlow::Continue(next) => next,
                ControlFlow::Break(followed) => return Ok(followed),
            };
        }
        let followed = self.go_on_from(next, heads);
        drop(held);
        followed
    }

    /// Whether a database is open that kept the last try from showing what others wrote. None if none
    /// did.
    pub fn held_following(&self) -> Option<bool> {
        let state = self.lock();
        (!state.holding.is_empty()).then(|| state.is_following_held())
    }

    /// Whether something is acknowledged that no head has.
    pub fn has_changes(&self) -> bool {
        self.lock().overlays.all_changes() > 0
    }

    /// Looks for heads of other devices, and what would be other than now if their join was shown.
    fn next_base(
        &self,
        follower: &Follower,
        heads: &mut Option<Heads>,
    ) -> std::result::Result<ControlFlow<Followed, NextBase>, VolumeError> {
        let looked = follower.look(&self.volume)?;
        *heads = Some(looked.heads);
        if looked.is_older {
            return Ok(ControlFlow::Break(Followed::Later(Later::Older)));
        }
        let Some(base) = looked.base else { return Ok(ControlFlow::Break(Followed::Nothing)) };
        let other = self.volume.tree_at(base.namespace.shown);
        let changed = self.changed(&other)?;
        let used = Self::in_use(&self.lock(), &changed.contents);
        let pinnable = self.pinnable(&used, &other)?;
        if let Some(later) = self.held(&used, &pinnable, &other)? {
            return Ok(ControlFlow::Break(Followed::Later(later)));
        }
        let open = Self::open_and_changed(&self.lock(), &changed);
        if let Some(later) = self.renamed_database(&open, &other)? {
            return Ok(ControlFlow::Break(Followed::Later(later)));
        }
        let directories = self.replaced_directories(&changed, &other)?;
        let seen = looked.seen;
        let next = NextBase { base, seen, changed, open, used, pinnable, directories };
        Ok(ControlFlow::Continue(next))
    }

    /// Shows another base, if nothing is acknowledged that no head has.
    fn go_on_from(
        &self,
        next: NextBase,
        heads: &mut Option<Heads>,
    ) -> std::result::Result<Followed, VolumeError> {
        let NextBase { base, seen, mut changed, open, used, mut pinnable, directories } = next;
        let mut numbers = None;
        if !used.is_empty() || !directories.is_empty() {
            let Some(all) = self.all_numbers() else {
                return Ok(Followed::Later(Later::Busy));
            };
            numbers = Some(all);
        }
        let Ok((_draining, mut state)) = self.drained() else {
            return Ok(Followed::Later(Later::Unpublished));
        };
        if state.overlays.all_changes() > 0 || state.overlays.is_frozen() {
            return Ok(Followed::Later(Later::Busy));
        }
        // It may be a database.
        if !Self::open_and_changed(&state, &changed).is_subset(&open) {
            return Ok(Followed::Later(Later::Busy));
        }
        let mut pins = Vec::new();
        for ino in Self::in_use(&state, &changed.contents) {
            let is_clean = state.files.get(&ino).is_some_and(super::File::is_clean);
            let pin = match state.orphans.get(&ino) {
                Some(inode) => Some(Pin::nameless(ino, inode.clone())),
                None => pinnable.remove(&ino).filter(|_| is_clean),
            };
            // Opened or written since it was looked at: the next time.
            let Some(pin) = pin.filter(|_| numbers.is_some()) else {
                return Ok(Followed::Later(Later::Busy));
            };
            pins.push(pin);
        }
        let (inodes, bytes) = (base.inherited.inodes, base.inherited.bytes);
        let found = heads.take().expect("a look found them");
        if let Err(error) = self.volume.rebase(base, found, seen) {
            // What is logged from here on would be replayed on nobody knows what.
            self.fail_for_good(&error);
            return Err(StoreError::state("device record", error).into());
        }
        state.inodes = inodes;
        state.bytes = bytes;
        state.subdirs.clear();
        state.names.clear();
        if let Some(table) = numbers.as_deref_mut() {
            for pin in pins {
                self.pin(&mut state, table, pin);
            }
            for directory in directories {
                Self::hand_number_on(&mut state, table, &mut changed, &directory);
            }
        }
        for ino in &changed.contents {
            // A directory that was removed here is dead for the kernel, for as long as somebody uses it.
            let is_dead = state.orphans.contains_key(ino);
            if state.lookups.contains_key(ino) && (is_dead || !changed.directories.contains(ino)) {
                let replaced = state.replaced.entry(*ino).or_default();
                *replaced = Replaced { times: replaced.times + 1, is_stale: true };
            }
            state.files.remove(ino);
            // One that was removed here, and that another device changed, is back.
            state.orphans.remove(ino);
        }
        drop(state);
        let numbers: &KernelNumbers = match &numbers {
            Some(numbers) => numbers,
            None => &self.kernel_numbers(),
        };
        Ok(Followed::Changed(changed.with_numbers(numbers)))
    }

    /// Looks what other devices say, and shows nothing of what they wrote. If the mount `follows`, that is
    /// news still.
    pub fn read_heads(
        &self,
        follower: &Follower,
        follows: bool,
    ) -> std::result::Result<(), VolumeError> {
        let _flushing = self.flushing_next();
        self.volume.set_heads(follower.read(&self.volume)?);
        if follows {
            follower.look_again(true);
        }
        Ok(())
    }

    /// An open file among those `used` that keeps this mount from showing anything new: it belongs to a
    /// database.
    fn held(
        &self,
        used: &BTreeSet<Ino>,
        pinnable: &HashMap<Ino, Pin>,
        other: &Tree<'_>,
    ) -> std::result::Result<Option<Later>, StoreError> {
        let mut holding = Self::open_of(&self.lock(), used);
        holding.retain(|ino| !pinnable.contains_key(ino));
        let Some(first) = holding.first().copied() else { return Ok(None) };
        self.wait_for_end(holding);
        self.held_by(first, other).map(Some)
    }

    /// The alarm rings once all these files are closed.
    fn wait_for_end(&self, mut holding: BTreeSet<Ino>) {
        let mut state = self.lock();
        holding.retain(|ino| state.is_open(*ino));
        let is_over = holding.is_empty();
        if !is_over {
            state.holding = holding;
        }
        drop(state);
        if is_over {
            self.alarm.ring();
        }
    }

    /// What says that this file holds following up: its name as a database, if it has one, else another.
    fn held_by(&self, ino: Ino, other: &Tree<'_>) -> std::result::Result<Later, StoreError> {
        if let Some(name) = self.name_in_database(ino, other)? {
            return Ok(Later::Database(name));
        }
        let name = self.volume.tree().names_of(ino)?.pop().map(|(_, name)| name);
        Ok(Later::Database(name.unwrap_or_default()))
    }

    /// A database, or a file of one, among these open files that another device gave another name, or
    /// another path: what the program opens beside it would belong to another file.
    fn renamed_database(
        &self,
        open: &BTreeSet<Ino>,
        other: &Tree<'_>,
    ) -> std::result::Result<Option<Later>, StoreError> {
        let tree = self.volume.tree();
        for ino in open {
            let names = tree.names_of(*ino)?;
            let mut is_moved = names != other.names_of(*ino)?;
            for (dir, _) in names {
                is_moved |= tree.path_of(dir)? != other.path_of(dir)?;
            }
            if is_moved && self.is_in_database(*ino, other)? {
                self.wait_for_end([*ino].into());
                return self.held_by(*ino, other).map(Some);
            }
        }
        Ok(None)
    }

    /// Files that are open by a name, and that have another record, attributes or names in what is to be
    /// shown; all of them if directories moved.
    fn open_and_changed(state: &State, changed: &Changed) -> BTreeSet<Ino> {
        if changed.moves_directories {
            Self::open_of(state, &state.files.keys().copied().collect())
        } else {
            Self::open_of(state, &changed.inodes)
        }
    }

    /// Those of these files that are open by a name.
    fn open_of(state: &State, inodes: &BTreeSet<Ino>) -> BTreeSet<Ino> {
        let is_open = |ino: &&Ino| state.is_open(**ino) && !state.orphans.contains_key(ino);
        inodes.iter().filter(is_open).copied().collect()
    }

    /// Where another namespace differs from the one that is shown.
    fn changed(&self, other: &Tree<'_>) -> std::result::Result<Changed, StoreError> {
        let mut changed = Changed::default();
        for difference in self.volume.tree().diff(other) {
            let difference = difference?;
            let (before, after) = difference.sides();
            let Some(item) = before.or(after) else { continue };
            let key = Tree::decode_key(&item.key)?;
            let value =
                |item: Option<&MapItem>| item.map(|item| Tree::value_of(&key, item)).transpose();
            match &key {
                Key::Entry(dir, _, name) => {
                    changed.inodes.insert(*dir);
                    // Who works in a directory whose name is forgotten has no path any more.
                    let (one, another) = (value(before)?, value(after)?);
                    let is_directory =
                        |value: &Option<Value>| matches!(value, Some(Value::Entry(_, 0o040_000)));
                    if one != another {
                        changed.moves_directories |= is_directory(&one) || is_directory(&another);
                        changed.names.insert((*dir, name.clone()));
                    }
                }
                // An entry is on the other side of it.
                Key::Back(ino, ..) => drop(changed.inodes.insert(*ino)),
                Key::Inode(ino) => {
                    changed.inodes.insert(*ino);
                    let (one, another) = (value(before)?, value(after)?);
                    let mut same = false;
                    if let (Some(Value::Inode(one)), Some(Value::Inode(another))) = (&one, &another)
                    {
                        // As above.
                        if one.is_dir() && another.is_dir() {
                            continue;
                        }
                        same = (one.size, one.content, &one.inline)
                            == (another.size, another.content, &another.inline);
                    }
                    if let Some(Value::Inode(inode)) = one.or(another)
                        && inode.is_dir()
                    {
                        changed.directories.insert(*ino);
                    }
                    if !same {
                        changed.contents.insert(*ino);
                    }
                    // The kernel believes its own size and times for as long as it knows a name.
                    changed.names.extend(other.names_of(*ino)?);
                }
                Key::Writer(_) | Key::Unsettled(..) => {}
                _ => drop(changed.inodes.insert(key.ino())),
            }
        }
        Ok(changed)
    }
}
