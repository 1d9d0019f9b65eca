//! The file system in memory as a daemon's service; it counts what it is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use amberfs::control::{Answer, Exchange, Failure};
use amberfs::daemon::{Handle, Service, Why};

use crate::memfs::MemFs;

/// Serves a file system until it is unmounted, then forgets it.
pub struct MemService {
    pub fs: Arc<MemFs>,
    pub checkpoints: AtomicUsize,
    pub closed: AtomicUsize,
    /// How long it takes to start, in milliseconds; the mount is there already.
    pub start_delay: AtomicU64,
}

impl MemService {
    pub fn new() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let fs = Arc::new(MemFs::new(uid, gid));
        let (checkpoints, closed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { fs, checkpoints, closed, start_delay: AtomicU64::new(0) }
    }
}

impl Service for MemService {
    type Operations = MemFs;

    fn operations(&self) -> Arc<MemFs> {
        Arc::clone(&self.fs)
    }

    fn started(&self, handle: Handle) {
        std::thread::sleep(Duration::from_millis(self.start_delay.load(Ordering::Relaxed)));
        handle.request_checkpoint();
    }

    fn tick(&self) -> bool {
        false
    }

    fn checkpoint(&self, _: Why) -> Result<(), Failure> {
        self.checkpoints.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn status(&self) -> Vec<u8> {
        format!(r#"{{"checkpoints":{}}}"#, self.checkpoints.load(Ordering::SeqCst)).into_bytes()
    }

    fn call(&self, request: &[u8], exchange: &mut Exchange<'_>) -> Answer {
        exchange.send(request).expect("the client listens");
        Answer::Done
    }

    fn close(&self) -> Result<(), Failure> {
        self.closed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
