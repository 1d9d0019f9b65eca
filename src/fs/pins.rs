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
use crate::merge::{kept_beside, numbered};
use crate::volume::{StoreError, Tree};

/// How long following waits for the operations that are in progress.
const PATIENCE: Duration = Duration::from_millis(200);
/// Between two looks whether they have ended.
const PAUSE: Duration = Duration::from_millis(2);
/// Of how many names of an inode the kernel is told at most.
const FORGOTTEN_NAMES: usize = 64;

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

    /// The kernel's number of each of two inodes means the other one from here on.
    fn exchange(&mut self, one: Ino, other: Ino) {
        let numbers = (self.number(one), self.number(other));
        for (number, ino) in [(numbers.0, other), (numbers.1, one)] {
            self.inodes.insert(number, ino);
            self.numbers.insert(ino, number);
        }
    }
}

/// A directory in whose place another one is, of another number: two devices made one of the same name,
/// or one removed it and made it again.
pub(super) struct ReplacedDirectory {
    before: Ino,
    after: Ino,
    /// The names that lead to the one that is there now; one.
    names: Vec<(Ino, Vec<u8>)>,
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
        if self.is_in_database(ino, other)? {
            return Ok(None);
        }
        let Some(place) = tree.names_of(ino)?.into_iter().next() else { return Ok(None) };
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

    /// Whether a file is a database, or a side file of one, now or in the namespace `other`.
    pub(super) fn is_in_database(
        &self,
        ino: Ino,
        other: &Tree<'_>,
    ) -> std::result::Result<bool, StoreError> {
        // A database keeps its class whether or not it has a log just now.
        if let Some(Value::Inode(inode)) = self.volume.tree().get(&Key::Inode(ino))?
            && matches!(inode.class, ContentClass::Pages(_))
        {
            return Ok(true);
        }
        Ok(self.name_in_database(ino, other)?.is_some())
    }

    /// The name by which a file is a database with side files, or a side file, now or in the
    /// namespace `other`.
    pub(super) fn name_in_database(
        &self,
        ino: Ino,
        other: &Tree<'_>,
    ) -> std::result::Result<Option<Vec<u8>>, StoreError> {
        let tree = self.volume.tree();
        for (dir, name) in tree.names_of(ino)? {
            if without_suffix(&name).is_some()
                || self.has_side_files(&tree, dir, &name)?
                || self.has_side_files(other, dir, &name)?
            {
                return Ok(Some(name));
            }
        }
        Ok(None)
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

    /// The directories of these changes that the kernel knows, that are not in the namespace `other`
    /// any more, and in whose place it has others.
    pub(super) fn replaced_directories(
        &self,
        changed: &Changed,
        other: &Tree<'_>,
    ) -> std::result::Result<Vec<ReplacedDirectory>, StoreError> {
        let known: Vec<Ino> = {
            let state = self.lock();
            let is_known = |ino: &&Ino| state.lookups.contains_key(ino);
            changed.inodes.iter().filter(is_known).copied().collect()
        };
        let mut found = Vec::new();
        for before in known {
            let tree = self.volume.tree();
            if !is_directory(&tree, before)? || other.get(&Key::Inode(before))?.is_some() {
                continue;
            }
            let Some(path) = tree.path_of(before)? else { continue };
            let Some(after) = resolve(other, &path)? else { continue };
            if is_directory(other, after)? {
                found.push(ReplacedDirectory { before, after, names: other.names_of(after)? });
            }
        }
        Ok(found)
    }

    /// What the kernel knows as a directory is the one that took its place from here on, so that
    /// who works in it goes on. The kernel has nothing to forget of its name then. If the kernel knows
    /// both, each stays what it is.
    pub(super) fn hand_number_on(
        state: &mut State,
        numbers: &mut KernelNumbers,
        changed: &mut Changed,
        directory: &ReplacedDirectory,
    ) {
        let ReplacedDirectory { before, after, names } = directory;
        if state.lookups.contains_key(after) {
            return;
        }
        let Some(count) = state.lookups.remove(before) else { return };
        state.lookups.insert(*after, count);
        numbers.exchange(*before, *after);
        for name in names {
            changed.names.remove(name);
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
        self.alarm.ring();
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
        let Some(of) = self.find(state, dir, &name)? else { return Ok((dir, name)) };
        let own = self.volume.state().name;
        let context = self.volume.context();
        let first = kept_beside((&name, of), (&own, self.now()), ino, &context.ids);
        let mut candidate = first.clone();
        for number in 2.. {
            if self.find(state, dir, &candidate)?.is_none() {
                break;
            }
            candidate = numbered(&first, number);
        }
        Ok((dir, candidate))
    }

    /// The kernel is to look an inode up once more: it has its times anew then, unless somebody uses it.
    pub(super) fn forget_names(&self, ino: Ino) {
        let mut state = self.lock();
        let backs = Key::backs(ino);
        // What cannot be read now is told where it is looked up.
        let names = self.range(&state, &backs, &backs, FORGOTTEN_NAMES).unwrap_or_default();
        let untold = state.untold.get_or_insert_default();
        for (key, _) in names {
            if let Key::Back(_, dir, name) = key {
                untold.names.insert((dir, name));
            }
        }
        drop(state);
        self.alarm.ring();
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

fn resolve(tree: &Tree<'_>, path: &[Vec<u8>]) -> std::result::Result<Option<Ino>, StoreError> {
    let mut at = ROOT;
    for name in path {
        let Some(ino) = tree.lookup(at, name)? else { return Ok(None) };
        at = ino;
    }
    Ok(Some(at))
}

fn is_directory(tree: &Tree<'_>, ino: Ino) -> std::result::Result<bool, StoreError> {
    let found = tree.get(&Key::Inode(ino))?;
    Ok(matches!(found, Some(Value::Inode(inode)) if inode.is_dir()))
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
            directories: self.directories,
            moves_directories: self.moves_directories,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exchanged_and_exchanged_back() {
        let mut numbers = KernelNumbers::default();
        let all = |numbers: &KernelNumbers| {
            [10, 20, 30].map(|ino| {
                assert_eq!(numbers.ino(numbers.number(ino)), ino);
                numbers.number(ino)
            })
        };
        for (one, other, expected) in [
            (10, 20, [20, 10, 30]),
            (20, 10, [10, 20, 30]),
            (20, 30, [10, 30, 20]),
            (30, 10, [20, 30, 10]),
            (10, 30, [10, 30, 20]),
        ] {
            numbers.exchange(one, other);
            assert_eq!(all(&numbers), expected, "{one} and {other}");
        }
    }
}
