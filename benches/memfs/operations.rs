//! The operations of the file system in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use amberfs::fs::{
    Attr, Caller, DirEntry, FsError, Operations, RenameMode, Result, Seek, SetAttr, SpaceStat,
    TimeSet,
};
use amberfs::io::Timestamp;

use super::{Dir, MemFs, Meta, Node, ROOT, Tree, now};

const LOCKED: &str = "no panic while locked";
/// What statfs shows: 64 GiB in blocks of 4 KiB.
const BLOCKS: u64 = 1 << 24;

fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > 255 { Err(FsError::NameTooLong) } else { Ok(()) }
}

impl MemFs {
    /// Makes an inode under a new name.
    fn make(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        mut mode: u32,
        rdev: u32,
        target: &[u8],
    ) -> Result<Attr> {
        check_name(name)?;
        let is_dir = mode & libc::S_IFMT == libc::S_IFDIR;
        let mut tree = self.tree.write().expect(LOCKED);
        if tree.dir(parent)?.names.contains_key(name) {
            return Err(FsError::Exists);
        }
        let above = Arc::clone(tree.node(parent)?);
        let mut gid = caller.gid;
        {
            let mut meta = above.meta();
            if meta.nlink == 0 {
                return Err(FsError::NotFound);
            }
            if meta.mode & libc::S_ISGID != 0 {
                gid = meta.gid;
                if is_dir {
                    mode |= libc::S_ISGID;
                }
            }
            meta.modified();
            meta.nlink += u32::from(is_dir);
        }
        let node = self.node(mode, (caller.uid, gid), rdev, target);
        let attr = node.attr();
        if is_dir {
            tree.dirs.insert(attr.ino, Dir { parent, ..Dir::default() });
        }
        tree.nodes.insert(attr.ino, node);
        tree.dir_mut(parent)?.insert(name, attr.ino);
        Ok(attr)
    }

    fn remove(&self, parent: u64, name: &[u8], directory: bool) -> Result<()> {
        let mut tree = self.tree.write().expect(LOCKED);
        let ino = tree.dir(parent)?.get(name)?;
        let node = Arc::clone(tree.node(ino)?);
        match (directory, node.is_dir()) {
            (true, false) => return Err(FsError::NotDir),
            (false, true) => return Err(FsError::IsDir),
            _ => {}
        }
        if directory && !tree.dir(ino)?.names.is_empty() {
            return Err(FsError::NotEmpty);
        }
        tree.dir_mut(parent)?.remove(name);
        let mut above = tree.node(parent)?.meta();
        above.modified();
        above.nlink -= u32::from(directory);
        drop(above);
        unnamed(&mut tree, &node, directory);
        Ok(())
    }
}

/// One name of the inode has gone.
fn unnamed(tree: &mut Tree, node: &Node, directory: bool) {
    let mut meta = node.meta();
    meta.nlink = if directory { 0 } else { meta.nlink - 1 };
    meta.ctime = now();
    drop(meta);
    tree.drop_if_dead(node.ino);
}

fn set_time(field: &mut Timestamp, time: Option<TimeSet>) {
    match time {
        Some(TimeSet::Now) => *field = now(),
        Some(TimeSet::At(time)) => *field = time,
        None => {}
    }
}

fn apply(meta: &mut Meta, change: &SetAttr) {
    if let Some(mode) = change.mode {
        meta.mode = meta.mode & libc::S_IFMT | mode & !libc::S_IFMT;
    }
    meta.uid = change.uid.unwrap_or(meta.uid);
    meta.gid = change.gid.unwrap_or(meta.gid);
    if change.size.is_some() {
        meta.modified();
    }
    meta.ctime = now();
    set_time(&mut meta.atime, change.atime);
    set_time(&mut meta.mtime, change.mtime);
    meta.ctime = change.ctime.unwrap_or(meta.ctime);
}

impl Operations for MemFs {
    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr> {
        self.looked_up.fetch_add(1, Ordering::Relaxed);
        check_name(name)?;
        let tree = self.tree.read().expect(LOCKED);
        let node = tree.node(tree.dir(parent)?.get(name)?)?;
        node.meta().lookups += 1;
        Ok(node.attr())
    }

    fn forget(&self, ino: u64, count: u64) {
        let Ok(node) = self.find(ino) else { return };
        let mut meta = node.meta();
        meta.lookups = meta.lookups.saturating_sub(count);
        let dead = meta.nlink == 0 && meta.lookups == 0;
        drop(meta);
        if dead {
            self.tree.write().expect(LOCKED).drop_if_dead(ino);
        }
    }

    fn getattr(&self, ino: u64) -> Result<Attr> {
        Ok(self.find(ino)?.attr())
    }

    fn setattr(&self, ino: u64, change: &SetAttr) -> Result<Attr> {
        let node = self.find(ino)?;
        let mut meta = node.meta();
        if let Some(size) = change.size {
            if meta.mode & libc::S_IFMT == libc::S_IFDIR {
                return Err(FsError::IsDir);
            }
            node.content.write().expect(LOCKED).resize(size);
        }
        apply(&mut meta, change);
        drop(meta);
        Ok(node.attr())
    }

    fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        assert!(!self.panics.load(Ordering::Relaxed), "as was asked for");
        Ok(self.find(ino)?.target.clone())
    }

    fn mknod(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Result<Attr> {
        self.make(caller, parent, name, mode, rdev, &[])
    }

    fn mkdir(&self, caller: Caller, parent: u64, name: &[u8], mode: u32) -> Result<Attr> {
        self.make(caller, parent, name, mode & !libc::S_IFMT | libc::S_IFDIR, 0, &[])
    }

    fn symlink(&self, caller: Caller, parent: u64, name: &[u8], target: &[u8]) -> Result<Attr> {
        self.make(caller, parent, name, libc::S_IFLNK | 0o777, 0, target)
    }

    fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Attr> {
        check_name(name)?;
        let mut tree = self.tree.write().expect(LOCKED);
        if tree.dir(parent)?.names.contains_key(name) {
            return Err(FsError::Exists);
        }
        let node = Arc::clone(tree.node(ino)?);
        let mut meta = node.meta();
        if meta.nlink == 0 {
            return Err(FsError::NotFound);
        }
        meta.nlink += 1;
        meta.lookups += 1;
        meta.ctime = now();
        drop(meta);
        tree.dir_mut(parent)?.insert(name, ino);
        tree.node(parent)?.meta().modified();
        Ok(node.attr())
    }

    fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.remove(parent, name, false)
    }

    fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.remove(parent, name, true)
    }

    fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), mode: RenameMode) -> Result<()> {
        check_name(to.1)?;
        let mut guard = self.tree.write().expect(LOCKED);
        let tree = &mut *guard;
        let ino = tree.dir(from.0)?.get(from.1)?;
        let target = tree.dir(to.0)?.get(to.1).ok();
        let node = Arc::clone(tree.node(ino)?);
        let other = target.map(|ino| tree.node(ino).cloned()).transpose()?;
        if node.is_dir() && tree.is_below(to.0, ino) {
            return Err(FsError::Invalid);
        }
        let other_is_dir = other.as_ref().is_some_and(|other| other.is_dir());
        match (mode, &other) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            (RenameMode::Exchange, Some(other))
                if other_is_dir && tree.is_below(from.0, other.ino) =>
            {
                return Err(FsError::Invalid);
            }
            (RenameMode::Exchange, Some(_)) => {}
            (_, Some(other)) => {
                if other.ino == ino {
                    return Ok(());
                }
                match (node.is_dir(), other_is_dir) {
                    (true, false) => return Err(FsError::NotDir),
                    (false, true) => return Err(FsError::IsDir),
                    _ => {}
                }
                if other_is_dir && !tree.dir(other.ino)?.names.is_empty() {
                    return Err(FsError::NotEmpty);
                }
            }
            _ => {}
        }
        tree.dir_mut(from.0)?.remove(from.1);
        if other.is_some() {
            tree.dir_mut(to.0)?.remove(to.1);
        }
        tree.dir_mut(to.0)?.insert(to.1, ino);
        let mut moves = vec![(&node, from.0, to.0)];
        match (&other, mode) {
            (Some(other), RenameMode::Exchange) => {
                tree.dir_mut(from.0)?.insert(from.1, other.ino);
                moves.push((other, to.0, from.0));
            }
            (Some(other), _) => {
                if other_is_dir {
                    tree.node(to.0)?.meta().nlink -= 1;
                }
                unnamed(tree, other, other_is_dir);
            }
            _ => {}
        }
        for (node, old, new) in moves {
            node.meta().ctime = now();
            if node.is_dir() {
                tree.dir_mut(node.ino)?.parent = new;
                tree.node(old)?.meta().nlink -= 1;
                tree.node(new)?.meta().nlink += 1;
            }
        }
        for dir in [from.0, to.0] {
            tree.node(dir)?.meta().modified();
        }
        Ok(())
    }

    fn open(&self, ino: u64, _: bool, truncate: bool) -> Result<()> {
        let node = self.find(ino)?;
        let mut meta = node.meta();
        meta.opens += 1;
        if truncate {
            node.content.write().expect(LOCKED).resize(0);
            meta.modified();
        }
        Ok(())
    }

    fn release(&self, ino: u64, _: bool) {
        let Ok(node) = self.find(ino) else { return };
        let mut meta = node.meta();
        meta.opens -= 1;
        let dead = meta.nlink == 0 && meta.opens == 0;
        drop(meta);
        if dead {
            self.tree.write().expect(LOCKED).drop_if_dead(ino);
        }
    }

    fn read_into(&self, ino: u64, offset: u64, out: &mut [u8]) -> Result<usize> {
        let node = self.find(ino)?;
        let content = node.content.read().expect(LOCKED);
        Ok(content.read(offset, out))
    }

    fn write(&self, ino: u64, offset: u64, bytes: &[u8], kill_privileges: bool) -> Result<()> {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > i64::MAX as u64) {
            return Err(FsError::FileTooBig);
        }
        // In pieces: a long one may be called off.
        let started = Instant::now();
        let left = || {
            let delay = Duration::from_millis(self.write_delay.load(Ordering::Relaxed));
            delay.saturating_sub(started.elapsed()).min(Duration::from_millis(10))
        };
        while !left().is_zero() {
            std::thread::sleep(left());
        }
        let node = self.find(ino)?;
        let mut meta = node.meta();
        meta.modified();
        if kill_privileges {
            meta.kill_privileges();
        }
        drop(meta);
        node.content.write().expect(LOCKED).write(offset, bytes);
        Ok(())
    }

    fn is_congested(&self) -> bool {
        self.congested.load(Ordering::Relaxed)
    }

    fn fsync(&self, ino: u64) -> Result<()> {
        self.find(ino).map(|_| ())
    }

    fn readdir(
        &self,
        ino: u64,
        cookie: u64,
        _: bool,
        fill: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        let tree = self.tree.read().expect(LOCKED);
        let dir = tree.dir(ino)?;
        let dots = [(1, &b"."[..], ino), (2, &b".."[..], dir.parent)];
        for (at, name, ino) in dots {
            // A removed parent is possible for a removed directory.
            let node = tree.node(ino).or_else(|_| tree.node(ROOT))?;
            let entry = DirEntry { name: name.to_vec(), cookie: at, attr: node.attr() };
            if at > cookie && !fill(&entry) {
                return Ok(());
            }
        }
        for (&at, name) in dir.order.range(cookie.max(2) + 1..) {
            let attr = tree.node(dir.get(name)?)?.attr();
            if !fill(&DirEntry { name: name.clone(), cookie: at, attr }) {
                break;
            }
        }
        Ok(())
    }

    fn remember(&self, ino: u64) {
        if let Ok(node) = self.find(ino) {
            node.meta().lookups += 1;
        }
    }

    fn statfs(&self) -> Result<SpaceStat> {
        Ok(SpaceStat {
            block: 4096,
            blocks: BLOCKS,
            free: BLOCKS / 2,
            files: 1 << 32,
            files_free: 1 << 31,
        })
    }

    fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        let node = self.find(ino)?;
        let mut meta = node.meta();
        let there = meta.xattrs.contains_key(name);
        if flags & libc::XATTR_CREATE != 0 && there {
            return Err(FsError::Exists);
        }
        if flags & libc::XATTR_REPLACE != 0 && !there {
            return Err(FsError::NoData);
        }
        meta.xattrs.insert(name.to_vec(), value.to_vec());
        meta.ctime = now();
        Ok(())
    }

    fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        self.find(ino)?.meta().xattrs.get(name).cloned().ok_or(FsError::NoData)
    }

    fn listxattr(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        Ok(self.find(ino)?.meta().xattrs.keys().cloned().collect())
    }

    fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        let node = self.find(ino)?;
        let mut meta = node.meta();
        meta.xattrs.remove(name).ok_or(FsError::NoData)?;
        meta.ctime = now();
        Ok(())
    }

    fn fallocate(&self, ino: u64, offset: u64, len: u64, mode: i32) -> Result<()> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        let node = self.find(ino)?;
        let mut meta = node.meta();
        let mut content = node.content.write().expect(LOCKED);
        let end = offset.checked_add(len).ok_or(FsError::FileTooBig)?;
        if mode & !(KEEP | libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0 {
            return Err(FsError::NotSupported);
        }
        if mode & !KEEP != 0 {
            content.punch(offset, len);
        }
        if mode & KEEP == 0 && end > content.size() {
            content.resize(end);
        }
        meta.modified();
        Ok(())
    }

    fn seek(&self, ino: u64, offset: u64, what: Seek) -> Result<u64> {
        let node = self.find(ino)?;
        let content = node.content.read().expect(LOCKED);
        content.seek(offset, what == Seek::Data).ok_or(FsError::NoSuchData)
    }

    fn copy_file_range(&self, from: (u64, u64), to: (u64, u64), len: u64) -> Result<u64> {
        let mut bytes = vec![0; len as usize];
        let read = self.find(from.0)?.content.read().expect(LOCKED).read(from.1, &mut bytes);
        bytes.truncate(read);
        self.write(to.0, to.1, &bytes, false)?;
        Ok(bytes.len() as u64)
    }
}
