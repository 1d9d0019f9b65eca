//! The `fuser::Filesystem`: each handler turns arguments, makes one call and
//! answers; one that may have to wait is answered in a worker. (Long because the
//! trait has that many methods; what is more than that is in `entries`, `dirty`
//! and `writeback`.)
//!
//! Invariant: no handler answers ENOSYS, which the kernel takes as "never ask
//! again"; the one exception is flush, where exactly that is wanted.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::answer::{
    LIFETIME, generation, guarded, reply_attr, reply_empty, reply_entry, reply_value,
};
use super::capabilities;
use super::convert;
use super::direct::Answer;
use super::entries::{self, New};
use super::privileges::{self, Who};
use super::reading;
use super::shared::Shared;
use super::syncs::Syncs;
use super::worker::Worker;
use crate::fs::{Attr, Caller, FsError, Operations, RenameMode, Seek, SetAttr};

/// The most one `copy_file_range` copies: the caller, who asks again for the
/// rest, can be interrupted in between.
const MAX_COPY: u64 = 16 << 20;
const NAME_MAX: u32 = 255;
/// The handle of an open that goes by the kernel's cache.
const CACHED: FileHandle = FileHandle(0);
/// The handle of an open that only pulls pages.
const WRITEBACK_HANDLE: FileHandle = FileHandle(1);
/// The handle of an open that bypasses the kernel's cache.
const UNCACHED: FileHandle = FileHandle(2);

pub(super) struct Adapter<O> {
    operations: Arc<O>,
    shared: Arc<Shared>,
    /// For what waits for the kernel's pages.
    pages: Worker,
    /// For writes that wait for room, and for long copies.
    room: Worker,
    /// For dropping pages that a direct write made old.
    stale: Worker,
    /// For looking at free space, which may be a network folder's.
    space: Worker,
    /// For what waits for REPO whatever is cached.
    repo: Worker,
    syncs: Syncs,
    writeback: bool,
}

impl<O: Operations> Adapter<O> {
    pub(super) fn new(
        operations: Arc<O>,
        shared: Arc<Shared>,
        writeback: bool,
    ) -> std::io::Result<Self> {
        Ok(Self {
            operations,
            shared,
            pages: Worker::start("pages", 1)?,
            room: Worker::start("room", 2)?,
            stale: Worker::start("stale", 1)?,
            space: Worker::start("space", 1)?,
            repo: Worker::start("repo", 2)?,
            syncs: Syncs::start()?,
            writeback,
        })
    }

    /// The inode of a name, if the kernel may hold pages of it.
    fn dirty_at(&self, (parent, name): (u64, &[u8])) -> Option<u64> {
        if self.shared.writers.none() {
            return None;
        }
        let found = guarded(|| {
            let attr = self.operations.lookup(parent, name)?;
            self.operations.forget(attr.ino, 1);
            Ok(attr.ino)
        });
        found.ok().filter(|ino| self.shared.writers.any(*ino))
    }

    /// Runs `work` once the pages of the inodes are down; at once, if none are
    /// given.
    fn after_writeback(
        &self,
        inodes: Vec<u64>,
        work: impl FnOnce(&O, std::io::Result<()>) + Send + 'static,
    ) {
        if inodes.is_empty() {
            return work(&self.operations, Ok(()));
        }
        let (shared, operations) = (Arc::clone(&self.shared), Arc::clone(&self.operations));
        self.pages.run(move || {
            let down = inodes.iter().try_for_each(|ino| shared.write_back_range(*ino, 0, 0));
            work(&operations, down);
        });
    }

    /// Has a request answered in a worker in which only those wait that need REPO.
    fn in_worker(&self, answer: impl FnOnce((&O, &Shared)) + Send + 'static) {
        let (operations, shared) = (Arc::clone(&self.operations), Arc::clone(&self.shared));
        self.repo.run(move || answer((&operations, &shared)));
    }

    /// Counts the open and says how the kernel may cache the file; its attributes from
    /// before the open, if it is written.
    fn opened(&self, ino: u64, writes: Option<&Attr>) -> (FileHandle, FopenFlags) {
        if let Some(attr) = writes {
            self.shared.writers.opened(ino, attr.blocks);
            // Only of files that it caches the kernel announces each change, and suid
            // and sgid need that.
            let has_set_ids = attr.mode & (libc::S_ISUID | libc::S_ISGID) != 0;
            if self.shared.direct_writes.load(Ordering::Relaxed) && !has_set_ids {
                return (UNCACHED, FopenFlags::FOPEN_DIRECT_IO);
            }
        }
        (CACHED, FopenFlags::FOPEN_KEEP_CACHE)
    }
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid() }
}

fn who(request: &Request) -> Who {
    Who { caller: caller(request), pid: request.pid() }
}

fn writes(flags: i32) -> bool {
    OpenFlags(flags).acc_mode() != OpenAccMode::O_RDONLY
}

impl<O: Operations> Filesystem for Adapter<O> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        capabilities::request(config, self.writeback);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if let Some(ino) = self.shared.aliases.inode(request.pid(), name.as_bytes()) {
            let found = guarded(|| {
                let attr = self.operations.getattr(ino)?;
                self.operations.remember(ino);
                Ok(attr)
            });
            return match found {
                // Not to be kept under this name.
                Ok(attr) => {
                    let (number, never) = (generation(&attr), Duration::ZERO);
                    let attr = convert::attr(&self.shared.shown(attr));
                    reply.entry_with_ttls(&LIFETIME, &never, &attr, number);
                }
                Err(errno) => reply.error(errno),
            };
        }
        if self.operations.waits_for_repo(parent.0) {
            let name = name.as_bytes().to_vec();
            return self.in_worker(move |both| reading::lookup(both, parent.0, &name, reply));
        }
        reading::lookup((&*self.operations, &self.shared), parent.0, name.as_bytes(), reply);
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.shared.direct.forget(ino.0);
        // Nothing to answer; a panic in it was logged by the hook.
        let _ = guarded(|| {
            self.operations.forget(ino.0, count);
            Ok(())
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let result = guarded(|| self.operations.getattr(ino.0));
        reply_attr(reply, result.map(|attr| self.shared.shown(attr)));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut change = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(convert::time_set),
            mtime: mtime.map(convert::time_set),
            ctime: ctime.map(convert::time_in),
        };
        let result =
            guarded(|| entries::set_attr(&*self.operations, &who(request), ino.0, &mut change));
        let offered =
            |attr: Attr| Attr { blocks: self.shared.writers.offer(attr.ino, attr.blocks), ..attr };
        reply_attr(reply, result.map(offered));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match guarded(|| self.operations.readlink(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let result = guarded(|| {
            let place = (parent.0, name.as_bytes());
            let new = New::Node { rdev };
            entries::make(&*self.operations, caller(request), place, (mode, umask), &new)
        });
        reply_entry(reply, result);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let result = guarded(|| {
            let place = (parent.0, name.as_bytes());
            entries::make(&*self.operations, caller(request), place, (mode, umask), &New::Directory)
        });
        reply_entry(reply, result);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_bytes();
        let result =
            guarded(|| self.operations.symlink(caller(request), parent.0, name.as_bytes(), target));
        reply_entry(reply, result);
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let dirty = Some(ino.0).filter(|ino| self.shared.writers.any(*ino));
        let name = name.as_bytes().to_vec();
        self.after_writeback(dirty.into_iter().collect(), move |operations, down| {
            let result = guarded(|| {
                down.map_err(|_| FsError::Io)?;
                operations.link(ino.0, parent.0, &name)
            });
            // Its pages are down, so there is nothing to hide.
            reply_entry(reply, result);
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, guarded(|| self.operations.unlink(parent.0, name.as_bytes())));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, guarded(|| self.operations.rmdir(parent.0, name.as_bytes())));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            // Whiteouts, or a contradiction.
            return reply.error(Errno::EINVAL);
        };
        let mut dirty: Vec<u64> = self.dirty_at((parent.0, name.as_bytes())).into_iter().collect();
        if mode == RenameMode::Exchange {
            dirty.extend(self.dirty_at((new_parent.0, new_name.as_bytes())));
        }
        let (name, new_name) = (name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        self.after_writeback(dirty, move |operations, down| {
            let result = guarded(|| {
                down.map_err(|_| FsError::Io)?;
                operations.rename((parent.0, &name), (new_parent.0, &new_name), mode)
            });
            reply_empty(reply, result);
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.shared.aliases.is_writeback_thread(request.pid()) {
            return reply.opened(WRITEBACK_HANDLE, FopenFlags::FOPEN_KEEP_CACHE);
        }
        let write = writes(flags.0);
        let truncate = flags.0 & libc::O_TRUNC != 0;
        let result = guarded(|| {
            let operations = &*self.operations;
            let before = if write { Some(operations.getattr(ino.0)?) } else { None };
            operations.open(ino.0, write, truncate)?;
            let told = if truncate {
                privileges::clear((operations, &self.shared), &who(request), ino.0)
            } else if before.is_some_and(|attr| attr.blocks == 0) {
                // From here on it is shown with some.
                self.shared.forget_attributes(ino.0)
            } else {
                Ok(())
            };
            told.inspect_err(|_| operations.release(ino.0, write))?;
            Ok(before)
        });
        match result {
            Ok(writes) => {
                let (handle, flags) = self.opened(ino.0, writes.as_ref());
                reply.opened(handle, flags);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let write = writes(flags);
        let result = guarded(|| {
            let place = (parent.0, name.as_bytes());
            let mode = mode & 0o7777 | libc::S_IFREG;
            let new = New::Node { rdev: 0 };
            let operations = &*self.operations;
            let attr = entries::make(operations, caller(request), place, (mode, umask), &new)?;
            if let Err(error) = operations.open(attr.ino, write, false) {
                operations.forget(attr.ino, 1);
                return Err(error);
            }
            Ok(attr)
        });
        match result {
            Ok(attr) => {
                let (handle, flags) = self.opened(attr.ino, Some(&attr).filter(|_| write));
                let number = generation(&attr);
                let attr = convert::attr(&self.shared.shown(attr));
                reply.created(&LIFETIME, &attr, number, handle, flags);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if owner.is_none() {
            self.shared.direct.paged(ino.0);
        }
        let place = (ino.0, offset, size as usize);
        if self.operations.waits_for_repo(ino.0) {
            return self.in_worker(move |(operations, _)| reading::read(operations, place, reply));
        }
        reading::read(&*self.operations, place, reply);
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        how: WriteFlags,
        _: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let is_paged = how.contains(WriteFlags::FUSE_WRITE_CACHE);
        if is_paged {
            self.shared.direct.paged(ino.0);
        }
        if self.writeback {
            self.operations.before_write(ino.0, is_paged);
        }
        // Pages were announced when they were written.
        let is_direct = handle == UNCACHED && !is_paged;
        if is_direct || how.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            let cleared = guarded(|| {
                privileges::clear((&*self.operations, &self.shared), &who(request), ino.0)?;
                if is_direct {
                    privileges::clear_capability(&*self.operations, ino.0)
                } else {
                    Ok(())
                }
            });
            if let Err(errno) = cleared {
                return reply.error(errno);
            }
        }
        // The kernel names the owner only where it locks no page meanwhile: what waits
        // for its pages cannot wait for itself.
        let answer = Answer {
            shared: Arc::clone(&self.shared),
            stale: owner.is_some().then(|| self.stale.clone()),
            place: (ino.0, offset),
            reply,
        };
        if self.operations.is_congested() {
            let (operations, bytes) = (Arc::clone(&self.operations), bytes.to_vec());
            self.room.run(move || answer.write(&*operations, &bytes));
        } else {
            answer.write(&*self.operations, bytes);
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // The kernel has written the file's pages and reported their errors
        // before it asks; there is nothing left to do here, and after this
        // answer it saves the request on every close.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        flags: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        if handle == WRITEBACK_HANDLE {
            return reply.ok();
        }
        let write = writes(flags.0);
        if write {
            self.shared.writers.released(ino.0);
        }
        let result = guarded(|| {
            self.operations.release(ino.0, write);
            if handle == UNCACHED {
                self.operations.closed_uncached(ino.0);
            }
            Ok(())
        });
        reply_empty(reply, result);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        if handle == WRITEBACK_HANDLE {
            // The pages came before; nobody asked for them to be durable.
            return reply.ok();
        }
        self.syncs.sync((&self.operations, &self.shared), ino.0, reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.syncs.sync((&self.operations, &self.shared), ino.0, reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Cookies are stateless, so there is nothing to open. The kernel keeps
        // the listing until the directory changes.
        let flags = if self.operations.changes_unasked(ino.0) {
            FopenFlags::empty()
        } else {
            FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR
        };
        reply.opened(FileHandle(0), flags);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        cookie: u64,
        reply: ReplyDirectory,
    ) {
        if self.operations.waits_for_repo(ino.0) {
            return self.in_worker(move |both| reading::readdir(both.0, ino.0, cookie, reply));
        }
        reading::readdir(&*self.operations, ino.0, cookie, reply);
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        cookie: u64,
        reply: ReplyDirectoryPlus,
    ) {
        if self.operations.waits_for_repo(ino.0) {
            return self.in_worker(move |both| reading::readdirplus(both, ino.0, cookie, reply));
        }
        reading::readdirplus((&*self.operations, &self.shared), ino.0, cookie, reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let operations = Arc::clone(&self.operations);
        self.space.run(move || match guarded(|| operations.statfs()) {
            Ok(space) => reply.statfs(
                space.blocks,
                space.free,
                space.free,
                space.files,
                space.files_free,
                space.block,
                NAME_MAX,
                space.block,
            ),
            Err(errno) => reply.error(errno),
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let (who, what) = (who(request), (name.as_bytes(), value, flags));
        reply_empty(reply, guarded(|| entries::set_xattr(&*self.operations, &who, ino.0, what)));
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        reply_value(reply, size, guarded(|| self.operations.getxattr(ino.0, name.as_bytes())));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let result = guarded(|| {
            let names = self.operations.listxattr(ino.0)?;
            Ok(names.into_iter().flat_map(|name| [name, vec![0]].concat()).collect())
        });
        reply_value(reply, size, result);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let result = guarded(|| entries::remove_xattr(&*self.operations, ino.0, name.as_bytes()));
        reply_empty(reply, result);
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (operations, shared) = (Arc::clone(&self.operations), Arc::clone(&self.shared));
        let who = who(request);
        self.space.run(move || {
            let result = guarded(|| {
                privileges::clear((&*operations, &shared), &who, ino.0)?;
                operations.fallocate(ino.0, offset, len, mode)
            });
            reply_empty(reply, result);
        });
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let dirty = Some(ino.0).filter(|ino| self.shared.writers.any(*ino));
        self.after_writeback(dirty.into_iter().collect(), move |operations, down| {
            let result = guarded(|| {
                down.map_err(|_| FsError::Io)?;
                operations.seek(ino.0, offset, what)
            });
            match result {
                Ok(offset) => reply.offset(offset as i64),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from: INodeNo,
        _: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (len, who) = (len.min(MAX_COPY), who(request));
        let (operations, shared) = (Arc::clone(&self.operations), Arc::clone(&self.shared));
        self.room.run(move || {
            let result = guarded(|| {
                privileges::clear((&*operations, &shared), &who, to.0)?;
                let (from, to) = ((from.0, from_offset), (to.0, to_offset));
                operations.copy_file_range(from, to, len)
            });
            match result {
                Ok(copied) => reply.written(copied as u32),
                Err(errno) => reply.error(errno),
            }
        });
    }

    // What follows the kernel does not ask with our capabilities, or does
    // itself after the answer given here.

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        // Permissions are the kernel's (`default_permissions`).
        reply.ok();
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        events: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        // A file is always ready.
        let ready = PollEvents::POLLIN
            | PollEvents::POLLOUT
            | PollEvents::POLLRDNORM
            | PollEvents::POLLWRNORM;
        reply.poll(events & ready);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::EINVAL);
    }

    fn getlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        reply: ReplyLock,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn setlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }
}
