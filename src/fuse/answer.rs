//! Runs one request's work, and answers with what came of it.
//!
//! Invariant: nothing that an operation does ends an event loop; a panic in it
//! becomes EIO.

use std::panic::{AssertUnwindSafe, catch_unwind};

use std::time::Duration;

use fuser::{Errno, Generation, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyXattr};

use super::convert;
use crate::fs::{Attr, FsError, Result};

/// How long the kernel may keep names, absent names and attributes. Only we
/// change the file system, and a merge invalidates.
pub(super) const LIFETIME: Duration = Duration::from_secs(3600);
/// Inode numbers are never used again. Another generation is a file whose content another device
/// changed: the kernel would keep the length that it knows.
pub(super) fn generation(attr: &Attr) -> Generation {
    Generation(attr.generation)
}

/// The errno of an error, as fuser has it.
pub(super) fn errno(error: FsError) -> Errno {
    Errno::from_i32(error.errno())
}

/// Runs `work`; a panic is EIO. The panic hook logs where it happened, and
/// only that: a message could hold names or content.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Errno> {
    // The state behind a panic is guarded by its own locks, which refuse or
    // recover; nothing of it is touched here.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(errno),
        Err(_) => Err(Errno::EIO),
    }
}

pub(super) fn reply_entry(reply: ReplyEntry, result: std::result::Result<Attr, Errno>) {
    match result {
        Ok(attr) => reply.entry(&LIFETIME, &convert::attr(&attr), generation(&attr)),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn reply_attr(reply: ReplyAttr, result: std::result::Result<Attr, Errno>) {
    match result {
        Ok(attr) => reply.attr(&LIFETIME, &convert::attr(&attr)),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn reply_empty(reply: ReplyEmpty, result: std::result::Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// A value of an extended attribute, or its length if `size` is 0.
pub(super) fn reply_value(
    reply: ReplyXattr,
    size: u32,
    result: std::result::Result<Vec<u8>, Errno>,
) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_eio() {
        assert_eq!(guarded(|| Ok(7)).map_err(i32::from), Ok(7));
        let error = guarded::<()>(|| Err(FsError::NotEmpty)).map_err(i32::from);
        assert_eq!(error, Err(libc::ENOTEMPTY));
        let panicked = guarded::<()>(|| panic!("a bug")).map_err(i32::from);
        assert_eq!(panicked, Err(libc::EIO));
    }
}
