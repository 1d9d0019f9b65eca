//! Files that are open here while another device's version takes their place.
//!
//! Who has such a file open goes on with the version that it opened, as with a file over which
//! another was renamed. That version gets an inode number of its own, and is an inode without a
//! name. The first change to it gives it a name beside the other device's version.
//!
//! Invariant: the kernel's number of the open inode means that version from then on, and the inode
//! of the namespace has another number for the kernel. An operation holds the table of numbers for
//! as long as it runs, so that it finds one inode from its beginning to its end.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::{Duration, Instant};

use super::{Attr, Changed, DirEntry, File, Fs, FsError, Replaced, Result, State};
use crate::format::namespace::{ContentClass, Ino, Inode, Key, ROOT, Value};
use crate::format::record::Change;
use crate::format::side_files::{SIDE_SUFFIXES, without_suffix};
use crate::format::versions::History;
use crate::merge::{beside, numbered};
use crate::volume::{StoreError, Tree};

/// How long following waits for the operations that are in progress.
const PATIENCE: Duration = Duration::from_millis(200);
/// Between two looks whether they have ended.
const PAUSE: Duration = Duration::from_millis(2);

/// The kernel's numbers of inodes, where they are not those of the namespace.
#[derive(Default)]
pub(super) struct KernelNumbers {
    inodes: HashMap<u64, Ino>,
    numbers: HashMap<Ino, u64>,
}

impl KernelNumbers {
    /// The inode that the kernel means by a number.
    pub(super) fn ino(&self, number: u64) -> Ino {
        self.inodes.get(&number).copied().unwrap_or(number)
    }

    /// The kernel's number of an inode.
    pub(super) fn number(&self, ino: Ino) -> u64 {
        self.numbers.get(&ino).copied().unwrap_or(ino)
    }

    /// Attributes as the kernel gets them.
    pub(super) fn attr(&self, attr: Attr) -> Attr {
        Attr { ino: self.number(attr.ino), ..attr }
    }

    /// An entry of a directory as the kernel gets it.
    pub(super) fn entry(&self, entry: &DirEntry) -> DirEntry {
        DirEntry { attr: self.attr(entry.attr), ..entry.clone() }
    }

    /// What the kernel calls the inode means `pinned` from here on; the inode is called `pinned`.
    fn exchange(&mut self, ino: Ino, pinned: Ino) {
        let number = self.number(ino);
        self.inodes.insert(number, pinned);
        self.numbers.insert(pinned, number);
        self.inodes.insert(pinned, ino);
        self.numbers.insert(ino, pinned);
    }
}

/// The version of a file that somebody has open, after another took its place.
#[derive(Clone)]
pub(super) struct Pinned {
    /// The file in whose place it was.
    of: Ino,
    /// A name that it had then, with its directory.
    place: (Ino, Vec<u8>),
    /// The names and values of its extended attributes.
    xattrs: Vec<(Vec<u8>, Value)>,
}

/// A file that can be pinned, as it is before another version takes its place.
pub(super) struct Pin {
    ino: Ino,
    inode: Inode,
    /// None if it had lost its last name here before: what is written to it is in no head.
    pinned: Option<Pinned>,
}

impl Pin {
    /// A file that is open here without a name, and that another device changed.
    pub(super) fn nameless(ino: Ino, inode: Inode) -> Self {
        Self { ino, inode, pinned: None }
    }
}

impl Fs {
    /// The table of the kernel's numbers, for the time of an operation.
    pub(super) fn kernel_numbers(&self) -> RwLockReadGuard<'_, KernelNumbers> {
        self.kernel_numbers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table, with no operation in progress; none if some do not end soon.
    pub(super) fn all_numbers(&self) -> Option<RwLockWriteGuard<'_, KernelNumbers>> {
        let begin = Instant::now();
        loop {
            match self.kernel_numbers.try_write() {
                Ok(numbers) => return Some(numbers),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if begin.elapsed() < PATIENCE => {
                    std::thread::sleep(PAUSE);
                }
                Err(TryLockError::WouldBlock) => return None,
            }
        }
    }

    /// Those of these files that can be pinned when the namespace `other` is shown, as they are in
    /// the one that is shown now: all but databases and their side files, which are one thing.
    pub(super) fn pinnable(
        &self,
        used: &BTreeSet<Ino>,
        other: &Tree<'_>,
    ) -> std::result::Result<HashMap<Ino, Pin>, StoreError> {
        let mut found = HashMap::new();
        for ino in used {
            if let Some(pin) = self.pin_of(*ino, other)? {
                found.insert(*ino, pin);
            }
        }
        Ok(found)
    }

    fn pin_of(&self, ino: Ino, other: &Tree<'_>) -> std::result::Result<Option<Pin>, StoreError> {
        let tree = self.volume.tree();
        let Some(Value::Inode(mut inode)) = tree.get(&Key::Inode(ino))? else { return Ok(None) };
        // A database keeps its class whether or not it has a log just now.
        if matches!(inode.class, ContentClass::Pages(_)) {
            return Ok(None);
        }
        let names = tree.names_of(ino)?;
        for (dir, name) in &names {
            if without_suffix(name).is_some()
                || self.has_side_files(&tree, *dir, name)?
                || self.has_side_files(other, *dir, name)?
            {
                return Ok(None);
            }
        }
        let Some(place) = names.into_iter().next() else { return Ok(None) };
        let mut xattrs = Vec::new();
        tree.scan(&Key::xattrs(ino), &mut |key, value| match key {
            Key::Xattr(of, name) if of == ino => {
                xattrs.push((name, value));
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        })?;
        *inode.history = History::default();
        Ok(Some(Pin { ino, inode: *inode, pinned: Some(Pinned { of: ino, place, xattrs }) }))
    }

    fn has_side_files(
        &self,
        tree: &Tree<'_>,
        dir: Ino,
        name: &[u8],
    ) -> std::result::Result<bool, StoreError> {
        for suffix in SIDE_SUFFIXES {
            let side = [name, suffix].concat();
            if tree.get(&Key::Entry(dir, self.volume.name_hash(&side), side))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whoever has the file open goes on with the version that it has.
    pub(super) fn pin(&self, state: &mut State, numbers: &mut KernelNumbers, pin: Pin) {
        let Pin { ino, inode, pinned } = pin;
        let number = self.draw_number(state);
        numbers.exchange(ino, number);
        if let Some(file) = state.files.remove(&ino) {
            state.files.insert(number, file);
        }
        if let Some(count) = state.lookups.remove(&ino) {
            state.lookups.insert(number, count);
        }
        // The kernel goes on with the generation that it knows. Who opens a path that leads there
        // still looks that up again.
        let replaced = state.replaced.remove(&ino).unwrap_or_default();
        state.replaced.insert(number, Replaced { is_stale: true, ..replaced });
        state.orphans.insert(number, inode);
        if let Some(pinned) = pinned {
            state.pinned.insert(number, pinned);
        }
    }

    /// A number that no inode has.
    fn draw_number(&self, state: &mut State) -> Ino {
        let random = &*self.volume.world().random;
        if let Some(numbers) = state.numbers.as_mut() {
            return numbers.allot(random);
        }
        // Who only reads makes no inode; the number is the kernel's alone.
        super::numbers::draw(random).first_ino()
    }

    /// Gives a pinned file a name before something of it changes: its own if that is free, else one
    /// beside the version that took its place.
    pub(super) fn keep_pinned(&self, state: &mut State, ino: Ino) -> Result<()> {
        let Some(pinned) = state.pinned.get(&ino).cloned() else { return Ok(()) };
        let now = self.now();
        let (dir, name) = self.free_place(state, ino, &pinned)?;
        let mut above = self.dir(state, dir)?;
        (above.mtime, above.ctime) = (now, now);
        let Some(mut inode) = state.orphans.remove(&ino) else { return Err(FsError::Stale) };
        let orphan = inode.clone();
        inode.ctime = now;
        let kind = inode.kind();
        let mut changes = vec![
            Change::Set(Key::Inode(ino), Value::Inode(Box::new(inode))),
            Change::Set(self.entry_key(dir, &name)?, Value::Entry(ino, kind)),
            Change::Set(Key::Back(ino, dir, name.clone()), Value::Back),
        ];
        for (attribute, value) in pinned.xattrs {
            changes.push(Change::Set(Key::Xattr(ino, attribute), value));
        }
        changes.push(Change::Set(Key::Inode(dir), Value::Inode(Box::new(above))));
        if let Err(error) = self.perform(state, &changes) {
            state.orphans.insert(ino, orphan);
            return Err(error);
        }
        state.pinned.remove(&ino);
        log::info!("inode {ino}: another device's version took its place while it was open here");
        let untold = state.untold.get_or_insert_default();
        untold.names.insert((dir, name));
        untold.inodes.insert(dir);
        Ok(())
    }

    /// Where a pinned file is to have a name.
    fn free_place(&self, state: &State, ino: Ino, pinned: &Pinned) -> Result<(Ino, Vec<u8>)> {
        let backs = Key::backs(pinned.of);
        let (dir, name) = match self.range(state, &backs, &backs, 1)?.pop() {
            Some((Key::Back(_, dir, name), _)) => (dir, name),
            _ => pinned.place.clone(),
        };
        let dir = if self.dir(state, dir).is_ok() && !state.orphans.contains_key(&dir) {
            dir
        } else {
            ROOT
        };
        if self.find(state, dir, &name)?.is_none() {
            return Ok((dir, name));
        }
        let own = self.volume.state().name;
        let first = beside(&name, &own, self.now(), ino);
        let mut candidate = first.clone();
        for number in 2.. {
            if self.find(state, dir, &candidate)?.is_none() {
                break;
            }
            candidate = numbered(&first, number);
        }
        Ok((dir, candidate))
    }

    /// What changed in the namespace without the kernel asking for it, since this was asked last.
    pub fn take_untold(&self) -> Option<Changed> {
        let numbers = self.kernel_numbers();
        let untold = self.lock().untold.take()?;
        Some(untold.with_numbers(&numbers))
    }

    /// Those of these files that are open or have changes.
    pub(super) fn in_use(state: &State, inodes: &BTreeSet<Ino>) -> BTreeSet<Ino> {
        let is_used = |file: &File| file.opens > 0 || !file.is_clean();
        let used = |ino: &&Ino| state.files.get(ino).is_some_and(is_used);
        inodes.iter().filter(used).copied().collect()
    }
}

impl Changed {
    /// These changes with the kernel's numbers of inodes in place of those of the namespace. Inodes
    /// that it does not know are among them: what it is told of them does nothing.
    pub(super) fn with_numbers(self, numbers: &KernelNumbers) -> Self {
        let names = self.names.into_iter();
        Self {
            names: names.map(|(dir, name)| (numbers.number(dir), name)).collect(),
            inodes: self.inodes.into_iter().map(|ino| numbers.number(ino)).collect(),
            contents: self.contents,
        }
    }
}
