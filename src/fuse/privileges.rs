//! When suid and sgid go. `FUSE_HANDLE_KILLPRIV_V2` makes that our part; without
//! it the kernel would ask for `security.capability` before every write(2).
//!
//! Invariant: the kernel never shows an older mode, nor runs a program with it.
//! Before a cached or direct write, a fallocate and a copy it sends a setattr
//! that changes nothing, and takes the mode from the answer while it holds the
//! inode; so bits are cleared there. Where it does not ask, it is told to forget
//! the attributes before the answer.

use super::entries::TYPE;
use super::shared::Shared;
use crate::fs::{Attr, Caller, FsError, Operations, Result, SetAttr};

const SET_IDS: u32 = libc::S_ISUID | libc::S_ISGID;
/// The right to keep suid and sgid, a bit of `CapEff` in /proc/PID/status.
const CAP_FSETID: u64 = 1 << 4;
/// The bit of `CAP_FOWNER` in a set of capabilities (capability.h): whoever has it may
/// change the mode of what belongs to others.
const CAP_FOWNER: u64 = 1 << 3;

/// The thread that asks, as the kernel knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) caller: Caller,
    /// 0 if it is in no process namespace of ours.
    pub(super) pid: u32,
}

impl Who {
    /// Whether it has a capability of the whole machine, which only root counts as
    /// having here.
    fn is_capable(&self, capability: u64) -> bool {
        self.caller.uid == 0
            && capabilities(&self.about("status")) & capability != 0
            && is_everybody(&self.about("uid_map"))
    }

    /// Whether it acts for this group. The kernel sends only one of its groups.
    fn is_in_group(&self, group: u32) -> bool {
        self.caller.gid == group || groups(&self.about("status")).any(|id| id == group)
    }

    /// Whether it may leave an inode of this group with sgid.
    pub(super) fn may_set_group(&self, group: u32) -> bool {
        self.is_in_group(group) || self.is_capable(CAP_FSETID)
    }

    /// Whether it may change an inode of this owner.
    pub(super) fn may_change(&self, owner: u32) -> bool {
        self.caller.uid == owner || self.is_capable(CAP_FOWNER)
    }

    /// A file of /proc about it; what cannot be read grants nothing.
    fn about(&self, what: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{what}", self.pid)).unwrap_or_default()
    }
}

/// The mode without type that is left when the owner changes, whoever changes it; `None`
/// if it stays.
pub(super) fn after_chown(attr: &Attr, who: &Who) -> Option<u32> {
    if attr.mode & TYPE == libc::S_IFDIR || attr.mode & SET_IDS == 0 {
        return None;
    }
    let mut gone = libc::S_ISUID;
    // Without it, sgid once meant mandatory locks.
    let runs_as_group = attr.mode & libc::S_IXGRP != 0;
    if attr.mode & libc::S_ISGID != 0 && (runs_as_group || !who.may_set_group(attr.gid)) {
        gone |= libc::S_ISGID;
    }
    (attr.mode & gone != 0).then_some(attr.mode & !TYPE & !gone)
}

/// The mode of a file after its content changed, if that takes set-id bits away.
pub(super) fn after_write(attr: &Attr, who: &Who) -> Option<u32> {
    let is_file = attr.mode & TYPE == libc::S_IFREG;
    let concerned = is_file && attr.mode & SET_IDS != 0 && !who.is_capable(CAP_FSETID);
    if concerned { after_chown(attr, who) } else { None }
}

/// Clears suid and sgid before a change of content that the kernel may not have
/// announced.
pub(super) fn clear<O: Operations>(
    (operations, shared): (&O, &Shared),
    who: &Who,
    ino: u64,
) -> Result<()> {
    let Some(mode) = after_write(&operations.getattr(ino)?, who) else { return Ok(()) };
    operations.setattr(ino, &SetAttr { mode: Some(mode), ..SetAttr::default() })?;
    shared.forget_attributes(ino)
}

/// Takes the file capabilities away, which a program has whoever starts it.
pub(super) fn clear_capability<O: Operations>(operations: &O, ino: u64) -> Result<()> {
    const CAPABILITY: &[u8] = b"security.capability";
    match operations.getxattr(ino, CAPABILITY) {
        Ok(_) => operations.removexattr(ino, CAPABILITY),
        Err(FsError::NoData | FsError::NotSupported) => Ok(()),
        Err(error) => Err(error),
    }
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim()
}

fn groups(status: &str) -> impl Iterator<Item = u32> {
    field(status, "Groups:").split_ascii_whitespace().filter_map(|id| id.parse().ok())
}

fn capabilities(status: &str) -> u64 {
    u64::from_str_radix(field(status, "CapEff:"), 16).unwrap_or_default()
}

/// Whether a map of users is the first namespace's. In another the kernel takes no
/// capability for one of the whole machine.
fn is_everybody(map: &str) -> bool {
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Timestamp;

    #[test]
    fn groups_and_capabilities_are_found() {
        let status = "Name:\tcat\nGid:\t5\t5\t5\t5\nGroups:\t4 24 1000 \nNStgid:\t1\n\
                      CapPrm:\t0000000000000000\nCapEff:\t000001ffffffffef\n";
        assert_eq!(groups(status).collect::<Vec<_>>(), [4, 24, 1000]);
        assert_eq!(capabilities(status) & CAP_FSETID, 0);
        assert_ne!(capabilities(status) & CAP_FOWNER, 0);
        assert_eq!(groups("Name:\tx\n").count(), 0);
        assert_eq!(capabilities(""), 0);
        assert!(is_everybody("         0          0 4294967295\n"));
        assert!(!is_everybody("         0       1000          1\n"));
        assert!(!is_everybody(""));
    }

    #[test]
    fn nobody_knows_more_of_an_unknown_process() {
        let who = Who { caller: Caller { uid: 0, gid: 7 }, pid: 0 };
        assert!(!who.is_capable(CAP_FSETID));
        assert!(who.may_set_group(7));
        assert!(!who.may_set_group(8));
    }

    #[test]
    fn sgid_stays_with_its_group_where_the_group_may_not_run_the_file() {
        let who = Who { caller: Caller { uid: 5, gid: 7 }, pid: 0 };
        let left = |mode, gid| {
            let zero = Timestamp::default();
            let (atime, mtime, ctime, btime) = (zero, zero, zero, zero);
            let (size, blocks, nlink, uid, rdev) = (0, 0, 1, 5, 0);
            let attr = Attr {
                ino: 9,
                generation: 0,
                size,
                blocks,
                atime,
                mtime,
                ctime,
                btime,
                mode,
                nlink,
                uid,
                gid,
                rdev,
            };
            (after_write(&attr, &who), after_chown(&attr, &who))
        };
        assert_eq!(left(0o106_777, 7), (Some(0o777), Some(0o777)));
        assert_eq!(left(0o106_767, 7), (Some(0o2767), Some(0o2767)));
        assert_eq!(left(0o106_767, 8), (Some(0o767), Some(0o767)));
        assert_eq!(left(0o102_767, 7), (None, None));
        assert_eq!(left(0o100_777, 8), (None, None));
        assert_eq!(left(0o010_000 | 0o6777, 8), (None, Some(0o777)), "a fifo");
        assert_eq!(left(0o040_000 | 0o6777, 8), (None, None), "a directory");
    }
}
