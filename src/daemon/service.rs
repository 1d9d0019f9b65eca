//! What a daemon serves: the seam to the real volume.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::control::{Answer, Exchange, Failure};
use crate::fs::{Changed, Operations};
use crate::fuse::Session;
use crate::io::Exit;

/// Why a checkpoint is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// `tick` or the service's own request said that it is time.
    Due,
    /// The user asked (`amberfs sync`).
    Asked,
    /// The mount is about to be unmounted.
    Unmount,
}

/// A file system with a life of its own. Methods may be called from several
/// threads; `checkpoint` and `close` never at the same time as each other.
pub trait Service: Send + Sync + 'static {
    /// The file system's type.
    type Operations: Operations;

    /// The operations that serve the kernel's requests.
    fn operations(&self) -> Arc<Self::Operations>;

    /// Called once, when the mount is usable.
    fn started(&self, handle: Handle);

    /// Called twice a second; true lets the checkpoint thread make a checkpoint.
    /// Must not take long.
    fn tick(&self) -> bool;

    /// Tells the kernel of names that changed without its asking. Called every few seconds.
    fn tell_kernel(&self) {}

    /// Waits until something may have come from elsewhere, at most for `limit` and some seconds.
    fn wait_for_news(&self, limit: Duration) {
        std::thread::sleep(limit);
    }

    /// Whether something came from elsewhere that the file system would show. Called every few
    /// seconds; must not take long.
    fn has_news(&self) -> bool {
        false
    }

    /// Shows what came from elsewhere. The kernel's dirty pages were pulled just before. Never
    /// at the same time as a checkpoint.
    fn follow(&self) {}

    /// Does what can wait. Called every few seconds, in a thread of its own; may take long.
    fn maintain(&self) {}

    /// Everything acknowledged goes into REPO. The kernel's dirty pages were
    /// pulled just before.
    fn checkpoint(&self, why: Why) -> Result<(), Failure>;

    /// The status: one line of JSON, without the newline.
    fn status(&self) -> Vec<u8>;

    /// A command of a later layer, as bytes.
    fn call(&self, request: &[u8], exchange: &mut Exchange<'_>) -> Answer {
        let _ = (request, exchange);
        Answer::Failed(Failure {
            code: Exit::Other,
            text: "this daemon does not know that command".into(),
        })
    }

    /// The last checkpoint, after the kernel has let go; nothing is called
    /// afterwards.
    fn close(&self) -> Result<(), Failure>;
}

/// What a service can ask of the daemon it runs in. Cheap to clone; no method
/// waits for the service.
#[derive(Clone)]
pub struct Handle {
    pub(super) session: Weak<Session>,
    pub(super) checkpoints: Sender<()>,
}

impl Handle {
    /// Has a checkpoint made soon, in the checkpoint thread.
    pub fn request_checkpoint(&self) {
        let _ = self.checkpoints.send(());
    }

    /// Has the kernel forget what changed, after it changed.
    pub(crate) fn forget(&self, changed: &Changed) {
        let Some(session) = self.session.upgrade() else { return };
        let invalidator = session.invalidator();
        for (dir, name) in &changed.names {
            invalidator.entry(*dir, name);
        }
        for ino in &changed.inodes {
            invalidator.inode(*ino);
        }
    }

    /// Files opened for writing from now on bypass the kernel's cache, so that
    /// write(2) itself sees ENOSPC.
    pub(crate) fn set_direct_writes(&self, direct: bool) {
        if let Some(session) = self.session.upgrade() {
            session.set_direct_writes(direct);
        }
    }
}
