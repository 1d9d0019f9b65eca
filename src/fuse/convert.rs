//! Our types to fuser's and back.
//!
//! Invariant: a time survives the way in and out to the nanosecond, before
//! 1970 too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::fs::{Attr, TimeSet};
use crate::io::Timestamp;

/// The preferred size of a read or write that stat(2) shows.
const BLOCK_SIZE: u32 = 4096;

/// What a mode's type bits say; anything unknown shows as a file.
pub(super) fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// Attributes for the kernel.
pub(super) fn attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: time_out(attr.atime),
        mtime: time_out(attr.mtime),
        ctime: time_out(attr.ctime),
        crtime: time_out(attr.btime),
        kind: kind(attr.mode),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// "There is no such name", with a lifetime: the kernel takes inode 0 so.
pub(super) fn no_entry() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

fn time_out(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let base =
        if time.secs >= 0 { UNIX_EPOCH.checked_add(whole) } else { UNIX_EPOCH.checked_sub(whole) };
    base.and_then(|base| base.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// A time from the kernel. fuser 0.18 turns (-s, n), which means n nanoseconds
/// *after* -s, into the moment n nanoseconds *before* -s. Nothing is lost by
/// that, so it is turned back here.
pub(super) fn time_in(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp { secs: after.as_secs() as i64, nanos: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            Timestamp {
                secs: 0i64.checked_sub_unsigned(before.as_secs()).unwrap_or(i64::MIN),
                nanos: before.subsec_nanos(),
            }
        }
    }
}

/// A time to set, from the kernel.
pub(super) fn time_set(time: TimeOrNow) -> TimeSet {
    match time {
        TimeOrNow::Now => TimeSet::Now,
        TimeOrNow::SpecificTime(time) => TimeSet::At(time_in(time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuser 0.18 makes of the kernel's numbers (`system_time_from_time`).
    fn as_fuser_does(secs: i64, nanos: u32) -> SystemTime {
        if secs >= 0 {
            UNIX_EPOCH + Duration::new(secs as u64, nanos)
        } else {
            UNIX_EPOCH - Duration::new(secs.wrapping_neg() as u64, nanos)
        }
    }

    /// utimensat(2) with a fraction before 1970 came back as another time:
    /// fuser subtracts the nanoseconds instead of adding them.
    #[test]
    fn times_before_1970_keep_their_fraction() {
        let far = i64::from(u32::MAX) * 4;
        let times = [
            (0, 0),
            (0, 1),
            (5, 999_999_999),
            (-1, 0),
            (-1, 1),
            (-2, 800_000_000),
            (-far, 7),
            (far, 3),
        ];
        for (secs, nanos) in times {
            let ours = time_in(as_fuser_does(secs, nanos));
            assert_eq!(ours, Timestamp { secs, nanos });
            let out = time_out(ours);
            let expected = if secs >= 0 {
                UNIX_EPOCH + Duration::new(secs as u64, nanos)
            } else {
                UNIX_EPOCH - Duration::from_secs(secs.unsigned_abs())
                    + Duration::from_nanos(u64::from(nanos))
            };
            assert_eq!(out, expected);
        }
        assert_eq!(time_in(as_fuser_does(i64::MIN, 0)).secs, i64::MIN);
    }

    #[test]
    fn types_are_told_apart() {
        assert_eq!(kind(libc::S_IFDIR | 0o755), FileType::Directory);
        assert_eq!(kind(libc::S_IFSOCK), FileType::Socket);
        assert_eq!(kind(libc::S_IFREG | libc::S_ISUID), FileType::RegularFile);
    }
}
