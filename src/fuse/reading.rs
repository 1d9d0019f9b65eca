//! Finding names, listing directories and reading files.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use fuser::{
    Errno, Generation, INodeNo, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry,
};

use super::answer::{LIFETIME, generation, guarded};
use super::convert;
use super::shared::Shared;
use crate::fs::Operations;

/// How long the kernel may keep what it was told of a directory that changes unasked.
const SHORT_LIFETIME: Duration = Duration::from_secs(1);

thread_local! {
    /// What a thread reads into, at most the kernel's longest request: a fresh
    /// buffer, zeroed, took a tenth of the time of a read.
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How long the kernel may keep what names in a directory stand for, and its list.
fn lifetime<O: Operations>(operations: &O, dir: u64) -> Duration {
    if operations.changes_unasked(dir) { SHORT_LIFETIME } else { LIFETIME }
}

/// Answers what a name stands for; absence too, where the kernel may keep it.
pub(super) fn lookup<O: Operations>(
    (operations, shared): (&O, &Shared),
    parent: u64,
    name: &[u8],
    reply: ReplyEntry,
) {
    let lifetime = lifetime(operations, parent);
    match guarded(|| operations.lookup(parent, name)) {
        Ok(attr) => {
            // Of a directory that changes unasked the kernel asks for the time again.
            let attributes =
                if operations.changes_unasked(attr.ino) { SHORT_LIFETIME } else { LIFETIME };
            let (number, attr) = (generation(&attr), convert::attr(&shared.shown(attr)));
            reply.entry_with_ttls(&attributes, &lifetime, &attr, number);
        }
        Err(errno) if errno.code() == libc::ENOENT && lifetime == LIFETIME => {
            reply.entry(&LIFETIME, &convert::no_entry(), Generation(0));
        }
        Err(errno) => reply.error(errno),
    }
}

/// Answers with the entries of a directory after a cookie: number, type and name.
pub(super) fn readdir<O: Operations>(
    operations: &O,
    ino: u64,
    cookie: u64,
    mut reply: ReplyDirectory,
) {
    let result = guarded(|| {
        operations.readdir(ino, cookie, false, &mut |entry| {
            let kind = convert::kind(entry.attr.mode);
            let name = OsStr::from_bytes(&entry.name);
            !reply.add(INodeNo(entry.attr.ino), entry.cookie, kind, name)
        })
    });
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with the entries of a directory after a cookie and their attributes.
pub(super) fn readdirplus<O: Operations>(
    (operations, shared): (&O, &Shared),
    ino: u64,
    cookie: u64,
    mut reply: ReplyDirectoryPlus,
) {
    let lifetime = lifetime(operations, ino);
    let result = guarded(|| {
        let mut given = Vec::new();
        operations.readdir(ino, cookie, true, &mut |entry| {
            let number = generation(&entry.attr);
            let attr = convert::attr(&shared.shown(entry.attr));
            let name = OsStr::from_bytes(&entry.name);
            let full = reply.add(attr.ino, entry.cookie, name, &lifetime, &attr, number);
            // The kernel counts no lookup of `.` and `..`.
            if !full && entry.name != b"." && entry.name != b".." {
                given.push(entry.attr.ino);
            }
            !full
        })?;
        // Before the answer: a forget may follow it at once.
        for ino in given {
            operations.remember(ino);
        }
        Ok(())
    });
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with `len` bytes of a file at an offset.
pub(super) fn read<O: Operations>(
    operations: &O,
    (ino, offset, len): (u64, u64, usize),
    reply: ReplyData,
) {
    READ.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        let read: Result<usize, Errno> =
            guarded(|| operations.read_into(ino, offset, &mut buffer[..len]));
        match read {
            Ok(read) => reply.data(&buffer[..read]),
            Err(errno) => reply.error(errno),
        }
    });
}
