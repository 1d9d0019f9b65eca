//! Applying changes to memory: the same for an operation and for its replay.

use super::{File, Fs, FsError, Result, State, stored_of};
use crate::format::clock::Dot;
use crate::format::namespace::{Ino, Inode, Key, Value};
use crate::format::record::Change;
use crate::io::Timestamp;

impl Fs {
    /// Applies one change of the record that made `dot` to the overlay.
    pub(super) fn apply(&self, state: &mut State, dot: Dot, change: &Change<'_>) -> Result<()> {
        match change {
            Change::Set(key, value) => {
                let mut value = value.clone();
                if let (Key::Inode(ino), Value::Inode(inode)) = (key, &mut value) {
                    match self.inode(state, *ino) {
                        // Content belongs to Write, Resize and Zero, and to the
                        // flush: a record made while a checkpoint ran names
                        // content from before it.
                        Ok(old) => {
                            keep_content(inode, &old);
                            if !has_same_attributes(inode, &old) {
                                state.overlays.attributes_changed(*ino, dot);
                            }
                        }
                        Err(FsError::Stale) => {
                            state.inodes += 1;
                            if inode.is_file() {
                                state.bytes = state.bytes.wrapping_add(inode.size);
                            }
                        }
                        Err(error) => return Err(error),
                    }
                    if let Some(orphan) = state.orphans.get_mut(ino) {
                        orphan.clone_from(inode);
                        return Ok(());
                    }
                }
                if let Key::Xattr(ino, _) = key
                    && state.orphans.contains_key(ino)
                {
                    return Ok(());
                }
                if let (Key::Entry(dir, ..), Value::Entry(_, kind)) = (key, &value) {
                    self.count_subdir(state, *dir, key, *kind == 0o040_000)?;
                }
                if let Key::Back(ino, ..) = key {
                    self.count_name(state, *ino, key, true)?;
                }
                state.overlays.set(key.encode(), dot, value);
                Ok(())
            }
            Change::Remove(key) => {
                match key {
                    Key::Back(ino, ..) => self.count_name(state, *ino, key, false)?,
                    Key::Inode(ino) => {
                        if let Ok(inode) = self.inode(state, *ino) {
                            state.inodes = state.inodes.saturating_sub(1);
                            if inode.is_file() {
                                state.bytes = state.bytes.wrapping_sub(inode.size);
                            }
                            state.subdirs.remove(ino);
                            state.names.remove(ino);
                            Self::orphan(state, *ino, inode);
                        }
                    }
                    Key::Entry(dir, ..) => self.count_subdir(state, *dir, key, false)?,
                    _ => {}
                }
                state.overlays.remove(key.encode());
                Ok(())
            }
            Change::Write { ino, offset, bytes, time } => {
                let end = offset + bytes.len() as u64;
                self.change_content(state, *ino, (dot, *time), |file| {
                    file.layer.write(*offset, bytes);
                    file.size.max(end)
                })
            }
            // Replay fetches the bytes before.
            Change::Stored { .. } => Err(FsError::Invalid),
            Change::Resize { ino, size, time } => {
                self.change_content(state, *ino, (dot, *time), |file| {
                    if *size < file.size {
                        file.layer.truncate(*size);
                    } else if file.layer.is_clean() {
                        // Marks the file as changed.
                        file.layer.zero(file.size, *size);
                    }
                    *size
                })
            }
            Change::Zero { ino, from, to, time } => {
                self.change_content(state, *ino, (dot, *time), |file| {
                    file.layer.zero(*from, (*to).min(file.size));
                    file.size
                })
            }
        }
    }

    /// Keeps an inode that lost its last name while it is in use.
    fn orphan(state: &mut State, ino: Ino, inode: Inode) {
        let used = state.lookups.get(&ino).is_some_and(|count| *count > 0) || state.is_open(ino);
        if used {
            state.orphans.insert(ino, inode);
        } else if let Some(file) = state.files.remove(&ino) {
            state.dirty -= file.layer.bytes;
        }
    }

    /// Keeps the count of a directory's directories right, where it is known.
    fn count_subdir(&self, state: &mut State, dir: Ino, key: &Key, will_be: bool) -> Result<()> {
        if !state.subdirs.contains_key(&dir) {
            return Ok(());
        }
        let was = matches!(self.get(state, key)?, Some(Value::Entry(_, 0o040_000)));
        let count = state.subdirs.get_mut(&dir).expect("checked just now");
        *count = count.saturating_add(u32::from(will_be)).saturating_sub(u32::from(was));
        Ok(())
    }

    /// Keeps the count of an inode's names right, where it is known.
    fn count_name(&self, state: &mut State, ino: Ino, key: &Key, will_be: bool) -> Result<()> {
        if !state.names.contains_key(&ino) {
            return Ok(());
        }
        let was = self.get(state, key)?.is_some();
        let count = state.names.get_mut(&ino).expect("checked just now");
        *count = (*count + usize::from(will_be)).saturating_sub(usize::from(was));
        Ok(())
    }

    /// The file's content state, made from its record where there is none yet.
    pub(super) fn file<'a>(&self, state: &'a mut State, ino: Ino) -> Result<&'a mut File> {
        if !state.files.contains_key(&ino) {
            let inode = self.inode(state, ino)?;
            if inode.is_dir() {
                return Err(FsError::IsDir);
            }
            if !inode.is_file() {
                return Err(FsError::Invalid);
            }
            let file = File { stored: stored_of(&inode), size: inode.size, ..File::default() };
            state.files.insert(ino, file);
        }
        Ok(state.files.get_mut(&ino).expect("inserted just now"))
    }

    pub(super) fn change_content(
        &self,
        state: &mut State,
        ino: Ino,
        (dot, time): (Dot, Timestamp),
        change: impl FnOnce(&mut File) -> u64,
    ) -> Result<()> {
        let file = self.file(state, ino)?;
        let (dirty, old) = (file.layer.bytes, file.size);
        file.size = change(file);
        file.pages.forget();
        let (now_dirty, size) = (file.layer.bytes, file.size);
        state.dirty = state.dirty - dirty + now_dirty;
        if !state.orphans.contains_key(&ino) {
            // Two sparse files of the largest size are 2^64 - 2 bytes.
            state.bytes = state.bytes.wrapping_add(size).wrapping_sub(old);
        }
        if !state.orphans.contains_key(&ino) {
            state.overlays.content_changed(ino, dot);
        }
        self.change_inode(state, ino, dot, |inode| {
            inode.size = size;
            inode.mtime = time;
            inode.ctime = time;
        })
    }

    /// Changes a record in place in the overlay (copied up first).
    pub(super) fn change_inode(
        &self,
        state: &mut State,
        ino: Ino,
        dot: Dot,
        change: impl FnOnce(&mut Inode),
    ) -> Result<()> {
        if let Some(inode) = state.orphans.get_mut(&ino) {
            change(inode);
            return Ok(());
        }
        let key = Key::Inode(ino).encode();
        if let Some((made, inode)) = state.overlays.inode_mut(&key) {
            *made = dot;
            change(inode);
            return Ok(());
        }
        let mut inode = self.inode(state, ino)?;
        change(&mut inode);
        state.overlays.set(key, dot, Value::Inode(Box::new(inode)));
        Ok(())
    }
}

/// Whether no attribute differs, times aside.
fn has_same_attributes(one: &Inode, other: &Inode) -> bool {
    let of =
        |inode: &Inode| (inode.mode, inode.uid, inode.gid, inode.rdev, inode.flags, inode.project);
    of(one) == of(other) && one.unknown == other.unknown
}

/// Copies what only changes of content may change.
fn keep_content(inode: &mut Inode, old: &Inode) {
    inode.class = old.class;
    inode.content = old.content;
    inode.size = old.size;
    inode.inline.clone_from(&old.inline);
    inode.holes = old.holes;
}
