//! Attributes, extended attributes, space.

use std::ops::ControlFlow;

use super::{Attr, Fs, FsError, Result, SetAttr, SpaceStat, State, TimeSet};
use crate::format::namespace::{Ino, Inode, Key, NAME_MAX, Value, XATTR_MAX, Xattr, XattrState};
use crate::format::record::Change;
use crate::io::Space;
use crate::volume::Tree;

/// Count of names beyond which link(2) fails; ext4 has the same limit.
pub(super) const LINKS_MAX: usize = 65000;
/// From this many names on their count is kept, so that giving one inode very
/// many does not count them again for each.
const LINKS_KEPT: usize = 32;
/// Extended attributes of one inode: removing it must fit into one record.
const XATTRS_MAX: usize = 1024;
const BLOCK: u32 = 4096;

impl Fs {
    pub(super) fn attr_of(&self, state: &mut State, ino: Ino, inode: &Inode) -> Result<Attr> {
        let nlink = if state.orphans.contains_key(&ino) {
            0
        } else if inode.is_dir() {
            2 + self.subdirs(state, ino)?
        } else {
            self.links(state, ino)? as u32
        };
        let (uid, gid) = self.options.ownership.shown(inode);
        let size = match inode.kind() {
            0o120_000 => inode.inline.len() as u64,
            0o040_000 => 4096,
            _ => inode.size,
        };
        Ok(Attr {
            ino,
            generation: state.replaced.get(&ino).map_or(0, |replaced| replaced.times),
            size,
            blocks: Self::blocks(state, ino, inode, size),
            atime: inode.atime.unwrap_or(inode.mtime),
            mtime: inode.mtime,
            ctime: inode.ctime,
            btime: inode.btime,
            mode: inode.mode,
            nlink,
            uid,
            gid,
            rdev: inode.rdev as u32,
        })
    }

    /// Returns how many names the inode has: the number of its back references. A large number is
    /// counted once and then kept in memory.
    pub(super) fn links(&self, state: &mut State, ino: Ino) -> Result<usize> {
        if let Some(count) = state.names.get(&ino) {
            return Ok(*count);
        }
        let count = self.count(state, &Key::backs(ino), LINKS_MAX + 1)?;
        if count >= LINKS_KEPT {
            state.names.insert(ino, count);
        }
        Ok(count)
    }

    fn subdirs(&self, state: &mut State, ino: Ino) -> Result<u32> {
        if let Some(count) = state.subdirs.get(&ino) {
            return Ok(*count);
        }
        let mut prefix = Key::entries_from(ino, 0);
        prefix.truncate(9);
        let mut count = 0;
        self.scan(state, &prefix, &prefix, &mut |bytes, seen| {
            match Tree::decode_key(bytes).and_then(|key| seen.value(&key)) {
                Ok(value) => count += u32::from(matches!(value, Value::Entry(_, 0o040_000))),
                Err(error) => return ControlFlow::Break(Err(error)),
            }
            ControlFlow::Continue(())
        })?;
        state.subdirs.insert(ino, count);
        Ok(count)
    }

    pub(super) fn do_getattr(&self, ino: Ino) -> Result<Attr> {
        let (state, attr) = self.counted(|state| {
            let inode = self.inode(state, ino)?;
            self.attr_of(state, ino, &inode)
        })?;
        drop(state);
        Ok(attr)
    }

    pub(super) fn do_setattr(&self, ino: Ino, change: &SetAttr) -> Result<Attr> {
        self.check_writable()?;
        let now = self.now();
        let mut state = self.lock();
        // Times alone the kernel also sends by itself.
        if change.size.or(change.mode.or(change.uid).or(change.gid).map(u64::from)).is_some() {
            self.keep_pinned(&mut state, ino)?;
        }
        let mut inode = self.inode(&state, ino)?;
        let mut changes = Vec::new();
        if let Some(size) = change.size {
            if inode.is_dir() {
                return Err(FsError::IsDir);
            }
            if !inode.is_file() {
                return Err(FsError::Invalid);
            }
            if size > i64::MAX as u64 {
                return Err(FsError::FileTooBig);
            }
            // A file that has this length already changes no time: the kernel, which shows times of its
            // own, changes none either (`fuse_do_setattr()` in `fs/fuse/dir.c`).
            if size != inode.size {
                changes.push(Change::Resize { ino, size, time: now });
                inode.size = size;
                inode.mtime = now;
            } else if *change == (SetAttr { size: change.size, ..SetAttr::default() }) {
                drop(state);
                return self.do_getattr(ino);
            }
        }
        if let Some(mode) = change.mode {
            inode.mode = inode.kind() | mode & 0o7777;
        }
        self.options.ownership.set(&mut inode, change.uid, change.gid);
        let time = |set: TimeSet| match set {
            TimeSet::Now => now,
            TimeSet::At(time) => time,
        };
        if let Some(set) = change.atime {
            inode.atime = Some(time(set));
        }
        if let Some(set) = change.mtime {
            inode.mtime = time(set);
        }
        inode.ctime = change.ctime.unwrap_or(now);
        if let (Some(ctime), Some(file)) = (change.ctime, state.files.get_mut(&ino)) {
            // A change of the mode alone tells no mtime: that of a write since may be later than
            // what the kernel shows.
            let mtime = change.mtime.map(|_| inode.mtime).or(file.told.map(|(mtime, _)| mtime));
            file.told = mtime.map(|mtime| (mtime, ctime));
        }
        changes.push(Change::Set(Key::Inode(ino), Value::Inode(Box::new(inode))));
        self.perform(&mut state, &changes)?;
        drop(state);
        self.do_getattr(ino)
    }

    /// Returns how many bytes may still be written, by the file systems of REPO and of local state.
    pub(super) fn free(&self) -> Result<u64> {
        Ok(self.space()?.free)
    }

    fn space(&self) -> Result<Space> {
        let io = |error: std::io::Error| {
            log::error!("free space cannot be read: {error}");
            FsError::Io
        };
        let world = self.volume.world();
        let local = world.state.as_ref().map(|folder| folder.space()).transpose().map_err(io)?;
        let space = match (world.repo.space(), local) {
            (Ok(repo), Some(local)) => Space {
                free: repo.free.min(local.free),
                total: repo.total.min(local.total),
                ..repo
            },
            (Ok(repo), None) => repo,
            // Its disk is unmounted, say: what is written now goes to local state.
            (Err(error), Some(local)) if error.kind() == std::io::ErrorKind::NotFound => local,
            (Err(error), _) => return Err(io(error)),
        };
        Ok(space)
    }

    pub(super) fn do_statfs(&self) -> Result<SpaceStat> {
        let space = self.space()?;
        let inodes = self.lock().inodes;
        Ok(SpaceStat {
            block: BLOCK,
            blocks: space.total / u64::from(BLOCK),
            free: space.free / u64::from(BLOCK),
            files: inodes + space.free / u64::from(BLOCK),
            files_free: space.free / u64::from(BLOCK),
        })
    }

    pub(super) fn do_setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        self.check_writable()?;
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(FsError::Range);
        }
        if value.len() > XATTR_MAX {
            // As the kernel answers (setxattr(2)), which asks for none of these.
            return Err(FsError::TooBig);
        }
        let now = self.now();
        let mut state = self.lock();
        self.keep_pinned(&mut state, ino)?;
        let mut inode = self.inode(&state, ino)?;
        let key = Key::Xattr(ino, name.to_vec());
        let present = self.get(&state, &key)?.is_some();
        if flags & libc::XATTR_CREATE != 0 && present {
            return Err(FsError::Exists);
        }
        if flags & libc::XATTR_REPLACE != 0 && !present {
            return Err(FsError::NoData);
        }
        if !present && self.xattr_names(&state, ino)?.len() >= XATTRS_MAX {
            return Err(FsError::NoSpace);
        }
        inode.ctime = now;
        self.perform(
            &mut state,
            &[
                Change::Set(key, Value::Xattr(Xattr::new(value.to_vec()))),
                Change::Set(Key::Inode(ino), Value::Inode(Box::new(inode))),
            ],
        )
    }

    pub(super) fn do_getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let state = self.lock();
        let value = self.get(&state, &Key::Xattr(ino, name.to_vec()))?;
        drop(state);
        match value {
            Some(Value::Xattr(Xattr { state: XattrState::Inline(bytes), .. })) => Ok(bytes),
            Some(Value::Xattr(Xattr { state: XattrState::Stored(size, content), .. })) => {
                let bytes = self.volume.read_beside(size, content);
                bytes.map_err(|error| self.store_failed(&error))
            }
            _ => Err(FsError::NoData),
        }
    }

    fn xattr_names(&self, state: &State, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let prefix = Key::xattrs(ino);
        let found = self.range(state, &prefix, &prefix, usize::MAX)?;
        let name = |(key, _)| match key {
            Key::Xattr(_, name) => Some(name),
            _ => None,
        };
        Ok(found.into_iter().filter_map(name).collect())
    }

    pub(super) fn do_listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let state = self.lock();
        self.xattr_names(&state, ino)
    }

    pub(super) fn do_removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        let now = self.now();
        let mut state = self.lock();
        self.keep_pinned(&mut state, ino)?;
        let mut inode = self.inode(&state, ino)?;
        let key = Key::Xattr(ino, name.to_vec());
        if self.get(&state, &key)?.is_none() {
            return Err(FsError::NoData);
        }
        inode.ctime = now;
        self.perform(
            &mut state,
            &[Change::Remove(key), Change::Set(Key::Inode(ino), Value::Inode(Box::new(inode)))],
        )
    }
}
