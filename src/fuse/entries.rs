//! Operations that need more than one `Operations` call: making inodes under
//! umask and default lists, changing modes and owners, setting lists.
//!
//! Invariant: mode and access list stay in step, and suid and sgid go when
//! content or owner change.

use super::acl::{self, Acl};
use super::privileges::{Who, after_chown, after_write};
use crate::fs::{Attr, Caller, FsError, Operations, Result, SetAttr, has_namespace};

pub(super) const TYPE: u32 = libc::S_IFMT;

/// What a request of the kernel makes: a file, a directory or another node.
pub(super) enum New {
    Directory,
    /// Mode's type bits and the device number say which.
    Node {
        rdev: u32,
    },
}

/// Makes an inode with the mode and lists it must have: the umask counts only
/// where the directory has no default list (acl(5), "Object creation").
pub(super) fn make<O: Operations>(
    operations: &O,
    caller: Caller,
    (parent, name): (u64, &[u8]),
    (mode, umask): (u32, u32),
    new: &New,
) -> Result<Attr> {
    let inherited = default_list(operations, parent)?;
    let (mode, access) = match &inherited {
        None => (mode & !(umask & 0o777), None),
        Some(default) => {
            let (access, mode) = default.inherit(mode);
            (mode, access.says_more_than_mode().then_some(access))
        }
    };
    let attr = match new {
        New::Directory => operations.mkdir(caller, parent, name, mode)?,
        New::Node { rdev } => operations.mknod(caller, parent, name, mode, *rdev)?,
    };
    let pass_on = matches!(new, New::Directory).then_some(inherited).flatten();
    let lists = [(acl::ACCESS, access), (acl::DEFAULT, pass_on)];
    for (attribute, list) in lists {
        let Some(list) = list else { continue };
        if let Err(error) = operations.setxattr(attr.ino, attribute, &list.bytes(), 0) {
            // Wider permissions than asked for must not remain.
            let _ = match new {
                New::Directory => operations.rmdir(parent, name),
                New::Node { .. } => operations.unlink(parent, name),
            };
            operations.forget(attr.ino, 1);
            return Err(error);
        }
    }
    Ok(attr)
}

fn default_list<O: Operations>(operations: &O, parent: u64) -> Result<Option<Acl>> {
    match operations.getxattr(parent, acl::DEFAULT) {
        Ok(value) => Ok(Some(Acl::parse(&value)?).filter(|list| !list.is_empty())),
        Err(FsError::NoData | FsError::NotSupported) => Ok(None),
        Err(error) => Err(error),
    }
}

/// setattr: a new mode is carried into the access list; a new owner or length
/// clears suid and sgid. So does a change of nothing, by which the kernel announces
/// a change of content.
pub(super) fn set_attr<O: Operations>(
    operations: &O,
    who: &Who,
    ino: u64,
    change: &mut SetAttr,
) -> Result<Attr> {
    if let Some(mode) = change.mode {
        match operations.getxattr(ino, acl::ACCESS) {
            Ok(value) => {
                let mut list = Acl::parse(&value)?;
                list.follow_mode(mode);
                operations.setxattr(ino, acl::ACCESS, &list.bytes(), 0)?;
            }
            Err(FsError::NoData | FsError::NotSupported) => {}
            Err(error) => return Err(error),
        }
    } else {
        change.mode = mode_left(operations, who, ino, change)?;
    }
    operations.setattr(ino, change)
}

/// The mode that is left after a change that does not name one; `None` if it stays.
fn mode_left<O: Operations>(
    operations: &O,
    who: &Who,
    ino: u64,
    change: &SetAttr,
) -> Result<Option<u32>> {
    let ctime = change.ctime;
    let is_empty = *change == SetAttr { ctime, ..SetAttr::default() };
    let owner_changes = change.uid.is_some() || change.gid.is_some();
    if !is_empty && !owner_changes && change.size.is_none() {
        return Ok(None);
    }
    let attr = operations.getattr(ino)?;
    if owner_changes {
        return Ok(after_chown(&attr, who));
    }
    if !is_empty || ctime.is_none() && attr.mode & TYPE == libc::S_IFREG {
        return Ok(after_write(&attr, who));
    }
    // What is left of chown(2) to nobody and no group. The kernel did not look at who
    // that is.
    match after_chown(&attr, who) {
        Some(_) if !who.may_change(attr.uid) => Err(FsError::NotPermitted),
        mode => Ok(mode),
    }
}

/// setxattr; an access list changes the mode, and one that says no more than
/// a mode is not kept.
pub(super) fn set_xattr<O: Operations>(
    operations: &O,
    who: &Who,
    ino: u64,
    (name, value, flags): (&[u8], &[u8], i32),
) -> Result<()> {
    if !is_list(name) {
        if !has_namespace(name) {
            return Err(FsError::NotSupported);
        }
        return operations.setxattr(ino, name, value, flags);
    }
    let list = Acl::parse(value)?;
    if name == acl::DEFAULT {
        return if list.is_empty() {
            remove_list(operations, ino, name)
        } else {
            operations.setxattr(ino, name, value, flags)
        };
    }
    if list.is_empty() {
        return remove_list(operations, ino, name);
    }
    let attr = operations.getattr(ino)?;
    let mut mode = attr.mode & !TYPE & !0o777 | list.mode_bits();
    // As with chmod.
    if mode & libc::S_ISGID != 0 && !who.may_set_group(attr.gid) {
        mode &= !libc::S_ISGID;
    }
    if list.says_more_than_mode() {
        operations.setxattr(ino, name, value, flags)?;
    } else {
        remove_list(operations, ino, name)?;
    }
    if mode != attr.mode & !TYPE {
        operations.setattr(ino, &SetAttr { mode: Some(mode), ..SetAttr::default() })?;
    }
    Ok(())
}

/// removexattr; a list that is not there is removed all the same, as everywhere.
pub(super) fn remove_xattr<O: Operations>(operations: &O, ino: u64, name: &[u8]) -> Result<()> {
    if is_list(name) {
        remove_list(operations, ino, name)
    } else {
        operations.removexattr(ino, name)
    }
}

fn is_list(name: &[u8]) -> bool {
    name == acl::ACCESS || name == acl::DEFAULT
}

fn remove_list<O: Operations>(operations: &O, ino: u64, name: &[u8]) -> Result<()> {
    match operations.removexattr(ino, name) {
        Err(FsError::NoData) => Ok(()),
        other => other,
    }
}
