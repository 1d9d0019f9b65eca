//! The file system in memory as a daemon's service; it counts what it is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use amberfs::control::{Answer, Exchange, Failure};
use amberfs::daemon::{Handle, Service, Why};

use crate::memfs::MemFs;

/// Serves a file system until it is unmounted, then forgets it.
pub struct MemService {
    pub fs: Arc<MemFs>,
    pub checkpoints: AtomicUsize,
    pub closed: AtomicUsize,
}

impl MemService {
    pub fn new() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let fs = Arc::new(MemFs::new(uid, gid));
        Self { fs, checkpoints: AtomicUsize::new(0), closed: AtomicUsize::new(0) }
    }
}

impl Service for MemService {
    type Operations = MemFs;

    fn operations(&self) -> Arc<MemFs> {
        Arc::clone(&self.fs)
    }

    fn started(&self, handle: Handle) {
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
