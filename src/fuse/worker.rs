//! Threads for requests that have to wait for something.
//!
//! Invariant: no event loop waits for the kernel or for room. For REPO one waits whose write, or
//! release, cuts chunks, and each that reads what is in no cache; the rest of the mount goes on
//! with the others. Who looks into the past has workers.
//! What waits for the kernel's pages has a worker of its own: these pages come as
//! writes, which may wait for room.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

/// A queue of jobs with its threads, which end when all copies of it are dropped.
#[derive(Clone)]
pub(super) struct Worker(Sender<Job>);

impl Worker {
    pub(super) fn start(name: &str, threads: usize) -> io::Result<Self> {
        let (jobs, received) = mpsc::channel::<Job>();
        let received = Arc::new(Mutex::new(received));
        for _ in 0..threads {
            let received = Arc::clone(&received);
            thread::Builder::new().name(name.into()).spawn(move || {
                loop {
                    let next = received.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = next else { return };
                    job();
                }
            })?;
        }
        Ok(Self(jobs))
    }

    /// Queues a job. Its requests' replies are in it: should it be dropped
    /// instead, they answer EIO by themselves.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let _ = self.0.send(Box::new(job));
    }
}
