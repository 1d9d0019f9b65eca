//! What a kernel interface asks of a file system: the boundary between `fuse`
//! and `fs`.

use crate::io::Timestamp;

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
    /// ENOENT.
    #[error("no such file or directory")]
    NotFound,
    /// EEXIST.
    #[error("exists already")]
    Exists,
    /// ENOTDIR.
    #[error("not a directory")]
    NotDir,
    /// EISDIR.
    #[error("is a directory")]
    IsDir,
    /// ENOTEMPTY.
    #[error("directory is not empty")]
    NotEmpty,
    /// ENOSPC.
    #[error("no space left")]
    NoSpace,
    /// EROFS.
    #[error("read-only")]
    ReadOnly,
    /// EPERM.
    #[error("not permitted")]
    NotPermitted,
    /// EACCES.
    #[error("access denied")]
    Access,
    /// EINVAL.
    #[error("invalid argument")]
    Invalid,
    /// ENAMETOOLONG.
    #[error("name is too long")]
    NameTooLong,
    /// EMLINK.
    #[error("too many links")]
    TooManyLinks,
    /// ENODATA.
    #[error("no such attribute")]
    NoData,
    /// ERANGE.
    #[error("does not fit")]
    Range,
    /// E2BIG.
    #[error("too large")]
    TooBig,
    /// EFBIG.
    #[error("file would be too large")]
    FileTooBig,
    /// ENXIO.
    #[error("no data there")]
    NoSuchData,
    /// EOPNOTSUPP.
    #[error("not supported")]
    NotSupported,
    /// ESTALE.
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
    /// The one map to errno.
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

/// Result of an operation.
pub type Result<T> = std::result::Result<T, FsError>;

/// Who asks. Permission checks are the kernel's (`default_permissions`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
}

/// What stat(2) shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes that are not holes.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// Number of names (a directory: 2 and one for each directory in it).
    pub nlink: u32,
    /// Shown user.
    pub uid: u32,
    /// Shown group.
    pub gid: u32,
    /// Device number, as `st_rdev`.
    pub rdev: u32,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSet {
    /// The current time.
    Now,
    /// This time.
    At(Timestamp),
}

/// What setattr changes; `None` leaves a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permissions (type bits are ignored).
    pub mode: Option<u32>,
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length: truncates or extends with a hole.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<TimeSet>,
    /// Last change of content.
    pub mtime: Option<TimeSet>,
    /// Last change of the inode, as the kernel's writeback cache tells it.
    pub ctime: Option<Timestamp>,
}

/// How rename treats an existing target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// Fail (`RENAME_NOREPLACE`).
    NoReplace,
    /// Swap the two (`RENAME_EXCHANGE`).
    Exchange,
}

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

/// What statfs(2) shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceStat {
    /// Bytes of a block.
    pub block: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks free.
    pub free: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes free.
    pub files_free: u64,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name.
    pub name: Vec<u8>,
    /// Where reading goes on after this entry: stable, stateless.
    pub cookie: u64,
    /// The inode's attributes (only `ino` and the type bits of `mode` are
    /// right if attributes were not asked for).
    pub attr: Attr,
}

/// A file system, as the kernel uses one. All methods may be called from many
/// threads at once. Inode 1 is the root. An inode stays valid while the kernel
/// knows it (lookup counts) or has it open, also after its last name is gone.
pub trait Operations: Send + Sync + 'static {
    /// Finds a name; counts one lookup on success.
    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr>;
    /// The kernel drops `count` lookups.
    fn forget(&self, ino: u64, count: u64);
    /// Attributes.
    fn getattr(&self, ino: u64) -> Result<Attr>;
    /// Changes attributes.
    fn setattr(&self, ino: u64, change: &SetAttr) -> Result<Attr>;
    /// Target of a symlink.
    fn readlink(&self, ino: u64) -> Result<Vec<u8>>;
    /// Makes a file, fifo, socket or device node (`mode` with type bits);
    /// counts one lookup. The group is inherited from a setgid parent.
    fn mknod(&self, caller: Caller, parent: u64, name: &[u8], mode: u32, rdev: u32)
    -> Result<Attr>;
    /// Makes a directory; counts one lookup.
    fn mkdir(&self, caller: Caller, parent: u64, name: &[u8], mode: u32) -> Result<Attr>;
    /// Makes a symlink; counts one lookup.
    fn symlink(&self, caller: Caller, parent: u64, name: &[u8], target: &[u8]) -> Result<Attr>;
    /// Gives an inode another name; counts one lookup.
    fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Attr>;
    /// Removes a name of something that is not a directory.
    fn unlink(&self, parent: u64, name: &[u8]) -> Result<()>;
    /// Removes an empty directory.
    fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()>;
    /// Moves a name.
    fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), mode: RenameMode) -> Result<()>;
    /// Opens a file for reading or writing; counts one open.
    fn open(&self, ino: u64, write: bool, truncate: bool) -> Result<()>;
    /// Closes; `write` as at open.
    fn release(&self, ino: u64, write: bool);
    /// Reads into `out` and returns how many bytes that were; fewer than it takes
    /// only at the end of the file. What it holds besides, and after an error all
    /// of it, means nothing.
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
    /// Writes all of `bytes`; `kill_privileges` clears suid and sgid.
    fn write(&self, ino: u64, offset: u64, bytes: &[u8], kill_privileges: bool) -> Result<()>;
    /// Whether a write would have to wait for room, in memory or in the log:
    /// then it is made where it keeps nobody else waiting.
    fn is_congested(&self) -> bool {
        false
    }
    /// Returns once everything acknowledged for the file is durable here.
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
    /// Space.
    fn statfs(&self) -> Result<SpaceStat>;
    /// Sets an extended attribute; `flags` as setxattr(2).
    fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], flags: i32) -> Result<()>;
    /// An extended attribute.
    fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>>;
    /// Names of extended attributes.
    fn listxattr(&self, ino: u64) -> Result<Vec<Vec<u8>>>;
    /// Removes an extended attribute.
    fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()>;
    /// fallocate(2): 0, keep size, punch hole and zero range.
    fn fallocate(&self, ino: u64, offset: u64, len: u64, mode: i32) -> Result<()>;
    /// Next data or hole at or after `offset`.
    fn seek(&self, ino: u64, offset: u64, what: Seek) -> Result<u64>;
    /// Copies within the file system by sharing chunks where it can; returns
    /// bytes copied.
    fn copy_file_range(&self, from: (u64, u64), to: (u64, u64), len: u64) -> Result<u64>;
}
