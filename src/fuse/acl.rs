//! POSIX access control lists in the form of `system.posix_acl_*`: what a new
//! inode inherits, and how a list and the mode follow each other.
//!
//! The kernel checks permissions by these lists; keeping list and mode in step
//! is the file system's part (POSIX 1003.1e draft 17, section 23.1; acl(5)).
//! Invariant: the mode's user, group and other bits always equal the list's
//! owner, mask (else owning group) and other entries.

use crate::fs::{FsError, Result};

/// Name of the list that grants access.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// Name of the list that new inodes in a directory inherit.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// Version of the attribute's form (`POSIX_ACL_XATTR_VERSION`).
const VERSION: u32 = 2;
/// Bytes of the version and of one entry: tag, permissions, id.
const HEAD: usize = 4;
const ENTRY: usize = 8;
/// More entries than an attribute of 64 KiB has room for are refused.
const MAX_ENTRIES: usize = 8191;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A list, as the kernel sorted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acl {
    entries: Vec<Entry>,
}

impl Acl {
    /// Reads the attribute. The kernel checks lists before it sends them; one
    /// that came another way must not be trusted to be whole.
    pub(crate) fn parse(value: &[u8]) -> Result<Self> {
        let body = value.get(HEAD..).ok_or(FsError::Invalid)?;
        if value[..HEAD] != VERSION.to_le_bytes()
            || body.len() % ENTRY != 0
            || body.len() / ENTRY > MAX_ENTRIES
        {
            return Err(FsError::Invalid);
        }
        let entries: Vec<Entry> = body
            .chunks_exact(ENTRY)
            .map(|bytes| Entry {
                tag: u16::from_le_bytes([bytes[0], bytes[1]]),
                perm: u16::from_le_bytes([bytes[2], bytes[3]]),
                id: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            })
            .collect();
        let known = |entry: &Entry| {
            entry.perm <= 7
                && matches!(entry.tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER)
        };
        let count = |tag| entries.iter().filter(|entry| entry.tag == tag).count();
        let named = count(USER) + count(GROUP) > 0;
        let whole = entries.is_empty()
            || (entries.iter().all(known)
                && [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|&tag| count(tag) == 1)
                && count(MASK) <= 1
                && (!named || count(MASK) == 1));
        if whole { Ok(Self { entries }) } else { Err(FsError::Invalid) }
    }

    /// The value of the extended attribute.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.tag.to_le_bytes());
            bytes.extend_from_slice(&entry.perm.to_le_bytes());
            bytes.extend_from_slice(&entry.id.to_le_bytes());
        }
        bytes
    }

    /// Whether there is no entry: setting such a list removes it.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the list says more than a mode can.
    pub(crate) fn says_more_than_mode(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.tag, USER | GROUP | MASK))
    }

    /// The nine permission bits that go with the list.
    pub(crate) fn mode_bits(&self) -> u32 {
        let mut bits = 0;
        for entry in &self.entries {
            let perm = u32::from(entry.perm);
            match entry.tag {
                USER_OBJ => bits |= perm << 6,
                OTHER => bits |= perm,
                _ => {}
            }
        }
        bits | u32::from(self.group_class()) << 3
    }

    fn group_class(&self) -> u16 {
        let perm = |tag| self.entries.iter().find(|entry| entry.tag == tag).map(|entry| entry.perm);
        perm(MASK).or(perm(GROUP_OBJ)).unwrap_or(0)
    }

    /// Makes the list follow a new mode (chmod).
    pub(crate) fn follow_mode(&mut self, mode: u32) {
        self.set_classes(|class, _| (mode >> class & 7) as u16);
    }

    /// What an inode inherits that is made with `mode` (not masked by a umask)
    /// in a directory with this default list: its access list and its mode.
    /// The list grants what both the default list and the creator allow.
    pub(crate) fn inherit(&self, mode: u32) -> (Self, u32) {
        let mut access = self.clone();
        access.set_classes(|class, perm| perm & (mode >> class & 7) as u16);
        let bits = access.mode_bits();
        (access, mode & !0o777 | bits)
    }

    /// Replaces the entries that the mode's three classes stand for; `value`
    /// gets the class's shift in the mode and the permissions so far.
    fn set_classes(&mut self, value: impl Fn(u32, u16) -> u16) {
        let group =
            if self.entries.iter().any(|entry| entry.tag == MASK) { MASK } else { GROUP_OBJ };
        for entry in &mut self.entries {
            let class = match entry.tag {
                USER_OBJ => 6,
                OTHER => 0,
                tag if tag == group => 3,
                _ => continue,
            };
            entry.perm = value(class, entry.perm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        let entries = entries.iter().map(|&(tag, perm, id)| Entry { tag, perm, id }).collect();
        Acl { entries }
    }

    fn extended() -> Acl {
        acl(&[
            (USER_OBJ, 7, u32::MAX),
            (USER, 6, 1000),
            (GROUP_OBJ, 5, u32::MAX),
            (MASK, 6, u32::MAX),
            (OTHER, 4, u32::MAX),
        ])
    }

    #[test]
    fn lists_survive() {
        let bytes = extended().bytes();
        assert_eq!(bytes.len(), HEAD + 5 * ENTRY);
        assert_eq!(Acl::parse(&bytes), Ok(extended()));
        assert!(Acl::parse(&acl(&[]).bytes()).expect("empty is valid").is_empty());
    }

    #[test]
    fn malformed_lists_are_refused() {
        let good = extended().bytes();
        for cut in [0, 3, 5, 11, good.len() - 1] {
            assert_eq!(Acl::parse(&good[..cut]), Err(FsError::Invalid), "cut at {cut}");
        }
        let mut version = good.clone();
        version[0] = 3;
        let mut perm = good.clone();
        perm[6] = 8;
        let mut tag = good.clone();
        tag[4] = 0x40;
        for bad in [version, perm, tag] {
            assert_eq!(Acl::parse(&bad), Err(FsError::Invalid));
        }
        let no_mask = acl(&[(USER_OBJ, 7, 0), (USER, 7, 1), (GROUP_OBJ, 7, 0), (OTHER, 7, 0)]);
        let no_other = acl(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 7, 0)]);
        for bad in [no_mask, no_other] {
            assert_eq!(Acl::parse(&bad.bytes()), Err(FsError::Invalid));
        }
    }

    #[test]
    fn the_mask_is_the_group_class() {
        assert_eq!(extended().mode_bits(), 0o764);
        assert!(extended().says_more_than_mode());
        let plain = acl(&[(USER_OBJ, 6, 0), (GROUP_OBJ, 4, 0), (OTHER, 0, 0)]);
        assert_eq!(plain.mode_bits(), 0o640);
        assert!(!plain.says_more_than_mode());
    }

    #[test]
    fn chmod_changes_the_mask_and_not_the_group() {
        let mut list = extended();
        list.follow_mode(0o700);
        assert_eq!(list.entries[2].perm, 5);
        assert_eq!(list.entries[3].perm, 0);
        assert_eq!(list.mode_bits(), 0o700);
    }

    #[test]
    fn a_new_file_gets_what_list_and_creator_both_allow() {
        let (access, mode) = extended().inherit(0o100_644);
        assert_eq!(mode, 0o100_644);
        assert_eq!(access.mode_bits(), 0o644);
        assert_eq!(access.entries[1].perm, 6, "named entries stay and are masked");
        let (_, mode) = extended().inherit(0o41_777);
        assert_eq!(mode, 0o41_764, "bits above the nine stay");
    }
}
