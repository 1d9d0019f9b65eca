//! What a kernel interface asks of a file system: the boundary between `fuse`
//! and `fs`.

use crate::io::{Exit, Timestamp};

/// Whether an extended attribute that is no access list has a namespace that is
/// kept: xattr(7) knows no others, and ext4 takes none.
pub fn has_namespace(attribute: &[u8]) -> bool {
    [&b"user."[..], b"trusted.", b"security."]
        .iter()
        .any(|space| attribute.len() > space.len() && attribute.starts_with(space))
}

/// Why an operation failed, sorted by errno.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum FsError {
    /// ENOENT: there is no file or directory of this name.
    #[error("no such file or directory")]
    NotFound,
    /// EEXIST: the name is taken.
    #[error("exists already")]
    Exists,
    /// ENOTDIR: something on the path is no directory.
    #[error("not a directory")]
    NotDir,
    /// EISDIR: the operation is not for directories.
    #[error("is a directory")]
    IsDir,
    /// ENOTEMPTY: the directory still has entries.
    #[error("directory is not empty")]
    NotEmpty,
    /// ENOSPC: there is no room, in REPO or for the journal.
    #[error("no space left")]
    NoSpace,
    /// EROFS: the file system is mounted read-only.
    #[error("read-only")]
    ReadOnly,
    /// EPERM: the caller may not do that, or nobody may.
    #[error("not permitted")]
    NotPermitted,
    /// EACCES: permissions deny access.
    #[error("access denied")]
    Access,
    /// EINVAL: an argument makes no sense for this operation.
    #[error("invalid argument")]
    Invalid,
    /// ENAMETOOLONG: a name or the target of a symlink is too long.
    #[error("name is too long")]
    NameTooLong,
    /// EMLINK: the inode has as many names as are allowed.
    #[error("too many links")]
    TooManyLinks,
    /// ENODATA: there is no extended attribute of this name.
    #[error("no such attribute")]
    NoData,
    /// ERANGE: a name or value does not fit.
    #[error("does not fit")]
    Range,
    /// E2BIG: a value is longer than is allowed.
    #[error("too large")]
    TooBig,
    /// EFBIG: the file would become longer than is allowed.
    #[error("file would be too large")]
    FileTooBig,
    /// ENXIO: no data or hole follows the offset.
    #[error("no data there")]
    NoSuchData,
    /// EOPNOTSUPP: amberfs has no such operation.
    #[error("not supported")]
    NotSupported,
    /// ESTALE: the inode has no name and no user any more.
    #[error("inode is gone")]
    Stale,
    /// EIO: something in REPO that is not here yet; the log says what.
    #[error("its content is not here (yet)")]
    NotHere,
    /// EIO: damage in REPO; the log says where.
    #[error("it is damaged")]
    Damaged,
    /// EIO: what is at REPO's place is not the folder that was mounted.
    #[error("REPO is not there")]
    Away,
    /// EIO: anything else, such as a failed local state; the log says what.
    #[error("input/output error")]
    Io,
}

impl FsError {
    /// How a command ends whose request to the file system failed so.
    pub fn exit(self) -> Exit {
        match self {
            Self::NoSpace => Exit::NoSpace,
            Self::NotHere => Exit::NotAllHere,
            Self::Damaged => Exit::Damage,
            Self::Away => Exit::Unusable,
            _ => Exit::Other,
        }
    }

    /// The errno that a system call returns for this error. No other place maps errors to errno.
    pub fn errno(self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::Exists => libc::EEXIST,
            Self::NotDir => libc::ENOTDIR,
            Self::IsDir => libc::EISDIR,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::NoSpace => libc::ENOSPC,
            Self::ReadOnly => libc::EROFS,
            Self::NotPermitted => libc::EPERM,
            Self::Access => libc::EACCES,
            Self::Invalid => libc::EINVAL,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::TooManyLinks => libc::EMLINK,
            Self::NoData => libc::ENODATA,
            Self::Range => libc::ERANGE,
            Self::TooBig => libc::E2BIG,
            Self::FileTooBig => libc::EFBIG,
            Self::NoSuchData => libc::ENXIO,
            Self::NotSupported => libc::EOPNOTSUPP,
            Self::Stale => libc::ESTALE,
            Self::NotHere | Self::Damaged | Self::Away | Self::Io => libc::EIO,
        }
    }
}

/// The result of an operation of the file system.
pub type Result<T> = std::result::Result<T, FsError>;

/// The user on whose behalf the kernel asks. The kernel itself checks permissions
/// (`default_permissions`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user id, as fsuid.
    pub uid: u32,
    /// The group id, as fsgid.
    pub gid: u32,
}

/// The attributes of an inode, as stat(2) shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The inode number.
    pub ino: u64,
    /// How many times another device's change took the place of the content while the kernel
    /// knew the inode. Of another generation the kernel takes it for another inode.
    pub generation: u64,
    /// The length in bytes.
    pub size: u64,
    /// How many units of 512 bytes have data, as `st_blocks`; holes do not count.
    pub blocks: u64,
    /// When the content was read last.
    pub atime: Timestamp,
    /// When the content changed last.
    pub mtime: Timestamp,
    /// When the inode changed last.
    pub ctime: Timestamp,
    /// When the inode was made.
    pub btime: Timestamp,
    /// The type and the permissions, as `st_mode`.
    pub mode: u32,
    /// How many names a file has; for a directory 2, and one for each directory in it.
    pub nlink: u32,
    /// The user that is shown as the owner.
    pub uid: u32,
    /// The group that is shown as the owner.
    pub gid: u32,
    /// The device number of a device node, as `st_rdev`.
    pub rdev: u32,
}

/// A time that setattr sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSet {
    /// The time at which the file system handles the request.
    Now,
    /// The time that the caller gives.
    At(Timestamp),
}

/// The attributes that a setattr request changes. A field that is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// The new permissions; bits of the type are ignored.
    pub mode: Option<u32>,
    /// The new owner.
    pub uid: Option<u32>,
    /// The new group.
    pub gid: Option<u32>,
    /// The new length in bytes. The file is truncated, or extended by a hole.
    pub size: Option<u64>,
    /// The new time of the last access.
    pub atime: Option<TimeSet>,
    /// The new time of the last change of the content.
    pub mtime: Option<TimeSet>,
    /// The time of the last change of the inode, as the kernel's writeback cache reports it.
    pub ctime: Option<Timestamp>,
}

/// What a rename does if the target name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// It replaces the target.
    Replace,
    /// It fails with [`FsError::Exists`] (`RENAME_NOREPLACE`).
    NoReplace,
    /// It exchanges the two names (`RENAME_EXCHANGE`).
    Exchange,
}

/// What lseek(2) searches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that has data: `SEEK_DATA`.
    Data,
    /// The next byte in a hole, or the end of the file: `SEEK_HOLE`.
    Hole,
}

/// The room in a file system, as statfs(2) shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceStat {
    /// The size of a block in bytes.
    pub block: u32,
    /// How many blocks the file system has.
    pub blocks: u64,
    /// How many blocks this user may still write.
    pub free: u64,
    /// How many inodes the file system can have.
    pub files: u64,
    /// How many inodes can still be made.
    pub files_free: u64,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name of the entry, without a `/`.
    pub name: Vec<u8>,
    /// The position behind this entry, at which readdir goes on. It stays valid for as long as
    /// the directory exists, also across mounts.
    pub cookie: u64,
    /// The attributes of the inode. If the caller did not ask for attributes, only `ino` and the
    /// bits of the type in `mode` are right.
    pub attr: Attr,
}

/// A file system, as the kernel uses one. All methods may be called from many
/// threads at once. Inode 1 is the root. An inode stays valid while the kernel
/// knows it (lookup counts) or has it open, also after its last name is gone.
pub trait Operations: Send + Sync + 'static {
    /// Finds the inode of a name in a directory. On success the kernel knows the inode: this
    /// counts one lookup.
    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr>;
    /// Takes back `count` lookups, which the kernel has forgotten.
    fn forget(&self, ino: u64, count: u64);
    /// Returns the attributes of an inode.
    fn getattr(&self, ino: u64) -> Result<Attr>;
    /// Changes attributes of an inode, and returns all of them as they are then.
    fn setattr(&self, ino: u64, change: &SetAttr) -> Result<Attr>;
    /// Returns the target of a symlink. [`FsError::Invalid`] if the inode is something else.
    fn readlink(&self, ino: u64) -> Result<Vec<u8>>;
    /// Makes a file, fifo, socket or device node: `mode` has the bits of the type. Counts one
    /// lookup. If the parent has sgid, the new inode has the parent's group.
    fn mknod(&self, caller: Caller, parent: u64, name: &[u8], mode: u32, rdev: u32)
    -> Result<Attr>;
    /// Makes a directory, and counts one lookup of it.
    fn mkdir(&self, caller: Caller, parent: u64, name: &[u8], mode: u32) -> Result<Attr>;
    /// Makes a symlink to `target`, and counts one lookup of it.
    fn symlink(&self, caller: Caller, parent: u64, name: &[u8], target: &[u8]) -> Result<Attr>;
    /// Gives an inode another name, and counts one lookup of it.
    fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Attr>;
    /// Removes a name. [`FsError::IsDir`] if it is the name of a directory.
    fn unlink(&self, parent: u64, name: &[u8]) -> Result<()>;
    /// Removes an empty directory.
    fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()>;
    /// Moves a name to another name, in one step that no other operation sees half done.
    fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), mode: RenameMode) -> Result<()>;
    /// Opens a file for reading, or with `write` for writing, and counts one open. With
    /// `truncate` its length becomes 0.
    fn open(&self, ino: u64, write: bool, truncate: bool) -> Result<()>;
    /// Takes back one open. `write` is what [`Operations::open`] was called with.
    fn release(&self, ino: u64, write: bool);
    /// Reads at `offset` into `out`, and returns how many bytes it read: fewer than fit only at
    /// the end of the file. The rest of `out`, and after an error all of it, has no defined
    /// content.
    fn read_into(&self, ino: u64, offset: u64, out: &mut [u8]) -> Result<usize>;
    /// Reads at most `len` bytes at `offset` into a new buffer; fewer only at the end of
    /// the file.
    fn read(&self, ino: u64, offset: u64, len: u32) -> Result<Vec<u8>> {
        let left = self.getattr(ino)?.size.saturating_sub(offset);
        let mut out = vec![0; left.min(u64::from(len)) as usize];
        let read = self.read_into(ino, offset, &mut out)?;
        out.truncate(read);
        Ok(out)
    }
    /// Writes all of `bytes` at `offset`. With `kill_privileges` it clears suid and sgid.
    fn write(&self, ino: u64, offset: u64, bytes: &[u8], kill_privileges: bool) -> Result<()>;
    /// The next write brings pages of the kernel's cache, or bytes that passed it by. Of a file whose
    /// pages it has, the kernel shows times of its own: what it told last, else what it was given.
    fn before_write(&self, _ino: u64, _is_paged: bool) {}
    /// A file was closed after writes that passed the kernel's cache by: the times that the kernel shows
    /// may be those from before them, for as long as it has the inode.
    fn closed_uncached(&self, _ino: u64) {}
    /// Whether a write would have to wait for room, in memory or in the log. The caller then
    /// makes the write in a thread in which no other request waits for it.
    fn is_congested(&self) -> bool {
        false
    }
    /// Makes everything that was acknowledged for the file durable on this machine. Blocks until
    /// that is done.
    fn fsync(&self, ino: u64) -> Result<()>;
    /// Calls `fill` for `.` and `..` (cookies 1 and 2) and the entries after
    /// `cookie` in stable order until it returns false.
    fn readdir(
        &self,
        ino: u64,
        cookie: u64,
        attributes: bool,
        fill: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()>;
    /// Counts one lookup of an entry that readdirplus handed to the kernel.
    fn remember(&self, ino: u64);
    /// Returns how much room the file system has.
    fn statfs(&self) -> Result<SpaceStat>;
    /// Sets an extended attribute. `flags` are those of setxattr(2).
    fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], flags: i32) -> Result<()>;
    /// Returns the value of an extended attribute; [`FsError::NoData`] if there is none.
    fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>>;
    /// Returns the names of all extended attributes.
    fn listxattr(&self, ino: u64) -> Result<Vec<Vec<u8>>>;
    /// Removes an extended attribute; [`FsError::NoData`] if there is none.
    fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()>;
    /// Does what fallocate(2) does with the modes 0, keep size, punch hole and zero range. Other
    /// modes are [`FsError::NotSupported`].
    fn fallocate(&self, ino: u64, offset: u64, len: u64, mode: i32) -> Result<()>;
    /// Returns the offset of the next data or hole at or after `offset`.
    /// [`FsError::NoSuchData`] at or beyond the end of the file.
    fn seek(&self, ino: u64, offset: u64, what: Seek) -> Result<u64>;
    /// Copies `len` bytes from one file and offset to another, and returns how many bytes it
    /// copied.
    fn copy_file_range(&self, from: (u64, u64), to: (u64, u64), len: u64) -> Result<u64>;
    /// Whether to find or list what is in a directory, or to read a file, may take as long as REPO
    /// takes, whatever is cached. The caller then asks in a thread in which few others wait.
    fn waits_for_repo(&self, _ino: u64) -> bool {
        false
    }
    /// Whether names come into a directory, or go, without a request and without the kernel being told.
    fn changes_unasked(&self, _dir: u64) -> bool {
        false
    }
}
