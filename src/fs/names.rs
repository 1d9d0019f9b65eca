//! Making, linking, removing and renaming.

use super::attr::LINKS_MAX;
use super::{Attr, Caller, Fs, FsError, RenameMode, Result, State};
use crate::format::namespace::{Ino, Inode, Key, ROOT, SYMLINK_MAX, Value};
use crate::format::record::Change;
use crate::io::Timestamp;

fn set(ino: Ino, inode: Inode) -> Change<'static> {
    Change::Set(Key::Inode(ino), Value::Inode(Box::new(inode)))
}

impl Fs {
    /// Makes an inode with a name.
    pub(super) fn make(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        rdev: u64,
        inline: &[u8],
    ) -> Result<Attr> {
        self.check_writable()?;
        let now = self.now();
        let mut state = self.lock();
        let mut dir = self.dir(&state, parent)?;
        if state.orphans.contains_key(&parent) {
            return Err(FsError::NotFound);
        }
        let entry = self.entry_key(parent, name)?;
        if self.get(&state, &entry)?.is_some() {
            return Err(FsError::Exists);
        }
        let numbers = state.numbers.as_mut().ok_or(FsError::Io)?;
        let ino = numbers.allot(&*self.volume.world().random);
        let (uid, gid, mode) = self.options.ownership.of_new(caller, &dir, mode);
        let mut inode = Inode::new(mode, uid, gid, now);
        inode.rdev = rdev;
        inode.inline = inline.to_vec();
        if inode.kind() == 0o120_000 {
            inode.size = inline.len() as u64;
        }
        dir.mtime = now;
        dir.ctime = now;
        let kind = inode.kind();
        self.perform(
            &mut state,
            &[
                set(ino, inode.clone()),
                Change::Set(entry, Value::Entry(ino, kind)),
                Change::Set(Key::Back(ino, parent, name.to_vec()), Value::Back),
                set(parent, dir),
            ],
        )?;
        if inode.is_dir() {
            state.subdirs.insert(ino, 0);
        }
        *state.lookups.entry(ino).or_default() += 1;
        self.attr_of(&mut state, ino, &inode)
    }

    pub(super) fn do_symlink(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        target: &[u8],
    ) -> Result<Attr> {
        if target.len() > SYMLINK_MAX {
            return Err(FsError::NameTooLong);
        }
        self.make(caller, parent, name, 0o120_777, 0, target)
    }

    pub(super) fn do_link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.check_writable()?;
        let now = self.now();
        let mut state = self.lock();
        let mut inode = self.inode(&state, ino)?;
        if inode.is_dir() {
            return Err(FsError::NotPermitted);
        }
        let mut dir = self.dir(&state, parent)?;
        if state.orphans.contains_key(&ino) || state.orphans.contains_key(&parent) {
            return Err(FsError::NotFound);
        }
        let entry = self.entry_key(parent, name)?;
        if self.get(&state, &entry)?.is_some() {
            return Err(FsError::Exists);
        }
        if self.links(&mut state, ino)? >= LINKS_MAX {
            return Err(FsError::TooManyLinks);
        }
        inode.ctime = now;
        dir.mtime = now;
        dir.ctime = now;
        self.perform(
            &mut state,
            &[
                Change::Set(entry, Value::Entry(ino, inode.kind())),
                Change::Set(Key::Back(ino, parent, name.to_vec()), Value::Back),
                set(ino, inode),
                set(parent, dir),
            ],
        )?;
        *state.lookups.entry(ino).or_default() += 1;
        let inode = self.inode(&state, ino)?;
        let attr = self.attr_of(&mut state, ino, &inode)?;
        state.note_present_inode(ino);
        Ok(attr)
    }

    /// The changes that take one name from an inode; the inode goes with its
    /// last name.
    fn drop_name(
        &self,
        state: &State,
        parent: Ino,
        name: &[u8],
        ino: Ino,
        now: Timestamp,
        changes: &mut Vec<Change<'static>>,
    ) -> Result<()> {
        let mut inode = self.inode(state, ino)?;
        changes.push(Change::Remove(Key::Back(ino, parent, name.to_vec())));
        if inode.is_dir() || self.count(state, &Key::backs(ino), 2)? <= 1 {
            let prefix = Key::xattrs(ino);
            for (key, _) in self.range(state, &prefix, &prefix, usize::MAX)? {
                changes.push(Change::Remove(key));
            }
            inode.ctime = now;
            changes.push(set(ino, inode));
            changes.push(Change::Remove(Key::Inode(ino)));
        } else {
            inode.ctime = now;
            changes.push(set(ino, inode));
        }
        Ok(())
    }

    pub(super) fn remove(&self, parent: Ino, name: &[u8], directory: bool) -> Result<()> {
        self.check_writable()?;
        let now = self.now();
        let mut state = self.lock();
        let mut dir = self.dir(&state, parent)?;
        let entry = self.entry_key(parent, name)?;
        let Some(Value::Entry(ino, _)) = self.get(&state, &entry)? else {
            return Err(FsError::NotFound);
        };
        match (self.inode(&state, ino)?.is_dir(), directory) {
            (true, false) => return Err(FsError::IsDir),
            (false, true) => return Err(FsError::NotDir),
            (true, true) if !self.is_empty_dir(&state, ino)? => return Err(FsError::NotEmpty),
            _ => {}
        }
        dir.mtime = now;
        dir.ctime = now;
        let mut changes = vec![Change::Remove(entry)];
        self.drop_name(&state, parent, name, ino, now, &mut changes)?;
        changes.push(set(parent, dir));
        self.perform_in(&mut state, &changes, true)
    }

    pub(super) fn do_rename(
        &self,
        (from_dir, from_name): (Ino, &[u8]),
        (to_dir, to_name): (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<()> {
        self.check_writable()?;
        let now = self.now();
        let mut state = self.lock();
        self.dir(&state, from_dir)?;
        self.dir(&state, to_dir)?;
        if state.orphans.contains_key(&to_dir) {
            return Err(FsError::NotFound);
        }
        let from_key = self.entry_key(from_dir, from_name)?;
        let to_key = self.entry_key(to_dir, to_name)?;
        let Some(Value::Entry(ino, kind)) = self.get(&state, &from_key)? else {
            return Err(FsError::NotFound);
        };
        let target = match self.get(&state, &to_key)? {
            Some(Value::Entry(target, kind)) => Some((target, kind)),
            _ => None,
        };
        if mode == RenameMode::NoReplace && target.is_some() {
            return Err(FsError::Exists);
        }
        if kind == 0o040_000 && self.is_below(&state, to_dir, ino)? {
            return Err(FsError::Invalid);
        }
        let mut changes = Vec::new();
        if mode == RenameMode::Exchange {
            let (other, other_kind) = target.ok_or(FsError::NotFound)?;
            if other_kind == 0o040_000 && self.is_below(&state, from_dir, other)? {
                return Err(FsError::Invalid);
            }
            if other == ino {
                return Ok(());
            }
            changes.push(Change::Set(from_key, Value::Entry(other, other_kind)));
            changes.push(Change::Remove(Key::Back(other, to_dir, to_name.to_vec())));
            changes.push(Change::Set(Key::Back(other, from_dir, from_name.to_vec()), Value::Back));
            let mut moved = self.inode(&state, other)?;
            moved.ctime = now;
            changes.push(set(other, moved));
        } else {
            if let Some((target, target_kind)) = target {
                if target == ino {
                    return Ok(());
                }
                match (kind == 0o040_000, target_kind == 0o040_000) {
                    (true, false) => return Err(FsError::NotDir),
                    (false, true) => return Err(FsError::IsDir),
                    (true, true) if !self.is_empty_dir(&state, target)? => {
                        return Err(FsError::NotEmpty);
                    }
                    _ => {}
                }
                self.drop_name(&state, to_dir, to_name, target, now, &mut changes)?;
            }
            changes.push(Change::Remove(from_key));
        }
        changes.push(Change::Remove(Key::Back(ino, from_dir, from_name.to_vec())));
        changes.push(Change::Set(to_key, Value::Entry(ino, kind)));
        changes.push(Change::Set(Key::Back(ino, to_dir, to_name.to_vec()), Value::Back));
        let mut moved = self.inode(&state, ino)?;
        moved.ctime = now;
        changes.push(set(ino, moved));
        for dir in if from_dir == to_dir { vec![from_dir] } else { vec![from_dir, to_dir] } {
            let mut inode = self.inode(&state, dir)?;
            inode.mtime = now;
            inode.ctime = now;
            changes.push(set(dir, inode));
        }
        self.perform(&mut state, &changes)
    }

    /// Whether `dir` is `ancestor` or lies below it.
    fn is_below(&self, state: &State, dir: Ino, ancestor: Ino) -> Result<bool> {
        /// Deeper paths cannot be made through a mount; a cycle would be
        /// damage.
        const DEPTH_MAX: usize = 1 << 20;
        let mut at = dir;
        for _ in 0..DEPTH_MAX {
            if at == ancestor {
                return Ok(true);
            }
            if at == ROOT {
                return Ok(false);
            }
            at = self.parent_of(state, at)?;
        }
        Err(FsError::Io)
    }
}
