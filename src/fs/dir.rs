//! Finding and listing names.

use super::{Attr, DirEntry, Fs, FsError, Result, State};
use crate::format::namespace::{Ino, Key, NAME_MAX, ROOT, Value};

/// How many entries are read from the tree at once, when attributes are not wanted.
const BATCH: usize = 256;
/// Entries read at once with their attributes. They are fewer, since attributes cost more
/// and those that do not fit into the answer are read in vain.
const ATTRIBUTES_BATCH: usize = 32;

impl Fs {
    pub(super) fn entry_key(&self, dir: Ino, name: &[u8]) -> Result<Key> {
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(FsError::Invalid);
        }
        if name.len() > NAME_MAX {
            return Err(FsError::NameTooLong);
        }
        let hash = self.volume.name_hash(name);
        Ok(Key::Entry(dir, hash, name.to_vec()))
    }

    /// The inode that a name stands for.
    pub(super) fn find(&self, state: &State, dir: Ino, name: &[u8]) -> Result<Option<Ino>> {
        match self.get(state, &self.entry_key(dir, name)?)? {
            Some(Value::Entry(ino, _)) => Ok(Some(ino)),
            _ => Ok(None),
        }
    }

    pub(super) fn parent_of(&self, state: &State, ino: Ino) -> Result<Ino> {
        if ino == ROOT {
            return Ok(ROOT);
        }
        let prefix = Key::backs(ino);
        match self.range(state, &prefix, &prefix, 1)?.first() {
            Some((Key::Back(_, parent, _), _)) => Ok(*parent),
            _ => Ok(ROOT),
        }
    }

    pub(super) fn is_empty_dir(&self, state: &State, ino: Ino) -> Result<bool> {
        let mut prefix = Key::entries_from(ino, 0);
        prefix.truncate(9);
        Ok(self.count(state, &prefix, 1)? == 0)
    }

    pub(super) fn do_lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        let (mut state, attr) = self.counted(|state| self.looked_up(state, parent, name))?;
        *state.lookups.entry(attr.ino).or_default() += 1;
        state.note_present_inode(attr.ino);
        Ok(attr)
    }

    fn looked_up(&self, state: &mut State, parent: Ino, name: &[u8]) -> Result<Attr> {
        let ino = match name {
            // The kernel asks so for an inode that it has forgotten: an orphan that it
            // does not know is gone.
            b"." | b".." if state.orphans.contains_key(&parent) => return Err(FsError::Stale),
            b"." => parent,
            b".." => self.inode(state, parent).and_then(|_| self.parent_of(state, parent))?,
            // What has the name has it in a folder, so only an error needs a look.
            _ => match self.find(state, parent, name)? {
                Some(ino) => ino,
                None => return Err(self.dir(state, parent).err().unwrap_or(FsError::NotFound)),
            },
        };
        let inode = self.inode(state, ino)?;
        self.attr_of(state, ino, &inode)
    }

    pub(super) fn do_forget(&self, ino: Ino, count: u64) {
        let mut state = self.lock();
        let Some(known) = state.lookups.get_mut(&ino) else { return };
        *known = known.saturating_sub(count);
        if *known == 0 {
            state.lookups.remove(&ino);
            state.note_present_inode(ino);
            drop_unused(&mut state, ino);
        }
    }

    pub(super) fn do_readdir(
        &self,
        ino: Ino,
        cookie: u64,
        attributes: bool,
        fill: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        let mut cookie = cookie;
        for (number, name) in [(1, &b"."[..]), (2, b"..")] {
            if cookie >= number {
                continue;
            }
            let attr = {
                let mut state = self.lock();
                self.dir(&state, ino)?;
                let target = if number == 1 { ino } else { self.parent_of(&state, ino)? };
                let inode = self.inode(&state, target)?;
                self.attr_of(&mut state, target, &inode)?
            };
            if !fill(&DirEntry { name: name.to_vec(), cookie: number, attr }) {
                return Ok(());
            }
            cookie = number;
        }
        let mut prefix = Key::entries_from(ino, 0);
        prefix.truncate(9);
        loop {
            let most = if attributes { ATTRIBUTES_BATCH } else { BATCH };
            let from = Key::entries_from(ino, cookie + 1);
            let (state, batch) = self.counted(|state| {
                let mut batch = Vec::with_capacity(most);
                for (key, value) in self.range(state, &from, &prefix, most)? {
                    let (Key::Entry(_, hash, name), Value::Entry(target, kind)) = (key, value)
                    else {
                        continue;
                    };
                    let attr = if attributes {
                        match self.inode(state, target) {
                            Ok(inode) => self.attr_of(state, target, &inode)?,
                            Err(FsError::Stale) => continue,
                            Err(error) => return Err(error),
                        }
                    } else {
                        bare(target, kind)
                    };
                    batch.push(DirEntry { name, cookie: hash, attr });
                }
                Ok(batch)
            })?;
            drop(state);
            let Some(last) = batch.last().map(|entry| entry.cookie) else { return Ok(()) };
            for entry in &batch {
                if !fill(entry) {
                    return Ok(());
                }
            }
            cookie = last;
        }
    }
}

/// Attributes of which only the number and the type are known.
fn bare(ino: Ino, kind: u32) -> Attr {
    let zero = crate::io::Timestamp::default();
    Attr {
        ino,
        generation: 0,
        size: 0,
        blocks: 0,
        atime: zero,
        mtime: zero,
        ctime: zero,
        btime: zero,
        mode: kind,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
    }
}

/// Forgets what nobody uses any more of an inode: its content, once it is closed and
/// stored, can be had from its record again. That of an orphan cannot.
pub(super) fn drop_unused(state: &mut State, ino: Ino) {
    if state.is_open(ino) {
        return;
    }
    let known = state.lookups.contains_key(&ino);
    let gone = !known && state.orphans.remove(&ino).is_some();
    if gone {
        state.pinned.remove(&ino);
        state.replaced.remove(&ino);
    }
    let stored = !state.orphans.contains_key(&ino)
        && state.files.get(&ino).is_some_and(super::File::is_clean);
    if (gone || stored)
        && let Some(file) = state.files.remove(&ino)
    {
        state.dirty -= file.layer.bytes;
    }
}
