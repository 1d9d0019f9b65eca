//! What session and adapter both hold, and what the kernel is told besides answers.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier};

use super::direct::Direct;
use super::dirty::Writers;
use super::writeback::Aliases;
use crate::fs::{Attr, FsError, Result};

/// What session and adapter both hold.
pub(super) struct Shared {
    /// Set once the session exists.
    pub(super) notifier: Arc<OnceLock<Notifier>>,
    pub(super) writers: Arc<Writers>,
    pub(super) aliases: Aliases,
    /// Files opened for writing bypass the kernel's cache.
    pub(super) direct_writes: AtomicBool,
    pub(super) direct: Direct,
}

impl Shared {
    /// Attributes as the kernel should have them.
    pub(super) fn shown(&self, attr: Attr) -> Attr {
        Attr { blocks: self.writers.show(attr.ino, attr.blocks), ..attr }
    }

    /// Has the kernel write back an inode's pages from `offset` on, `len` bytes or
    /// with 0 all, and drop them. Not from an event loop: that is where they come
    /// down.
    pub(super) fn write_back_range(&self, ino: u64, offset: u64, len: u64) -> std::io::Result<()> {
        let Some(notifier) = self.notifier.get() else { return Ok(()) };
        let [offset, len] = [offset, len].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        notifier.inval_inode(INodeNo(ino), offset, len).inspect_err(|error| {
            log::warn!("inode {ino}: pages could not be pulled: {error}");
        })
    }

    /// Has the kernel ask for an inode's attributes before it uses them again. It
    /// waits for nothing of ours to do so, and may be told from an event loop.
    pub(super) fn forget_attributes(&self, ino: u64) -> Result<()> {
        let Some(notifier) = self.notifier.get() else { return Ok(()) };
        // A negative offset leaves the pages.
        notifier.inval_inode(INodeNo(ino), -1, 0).map_err(|error| {
            log::error!("inode {ino}: the kernel cannot be told of a change: {error}");
            FsError::Io
        })
    }
}
