//! How fsyncs are answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fuser::ReplyEmpty;

use super::answer::{guarded, reply_empty};
use super::shared::Shared;
use super::worker::Worker;
use crate::fs::Operations;

/// The fsyncs of a mount.
pub(super) struct Syncs {
    /// For those that come while another is under way.
    worker: Worker,
    under_way: Arc<AtomicUsize>,
}

impl Syncs {
    pub(super) fn start() -> std::io::Result<Self> {
        Ok(Self { worker: Worker::start("sync", 1)?, under_way: Arc::default() })
    }

    /// Answers an fsync of inode `ino` here, or in the worker if one is under way already:
    /// those that wait there are served by one flush.
    pub(super) fn sync<O: Operations>(
        &self,
        (operations, shared): (&Arc<O>, &Arc<Shared>),
        ino: u64,
        reply: ReplyEmpty,
    ) {
        let (operations, shared) = (Arc::clone(operations), Arc::clone(shared));
        let under_way = Arc::clone(&self.under_way);
        let sync = move || {
            let result = guarded(|| {
                operations.fsync(ino)?;
                // All pages are down: who asks now is told what they take.
                if shared.writers.any(ino)
                    && shared.writers.may_differ(ino, operations.getattr(ino)?.blocks)
                {
                    shared.forget_attributes(ino)?;
                }
                Ok(())
            });
            reply_empty(reply, result);
            under_way.fetch_sub(1, Ordering::Relaxed);
        };
        if self.under_way.fetch_add(1, Ordering::Relaxed) == 0 {
            sync();
        } else {
            self.worker.run(sync);
        }
    }
}
