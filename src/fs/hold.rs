//! A moment in which nobody changes, or opens, anything: following exchanges the base only while all
//! that was acknowledged is in a head, and no database is open that another device changed.
//!
//! Invariant: nobody waits longer for it than [`HOLD_MAX`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long anybody waits at most.
const HOLD_MAX: Duration = Duration::from_secs(1);

/// Whether changes, or programs that open files, wait.
#[derive(Default)]
pub(super) struct Hold {
    is_held: AtomicBool,
    /// Until when they wait at most.
    until: Mutex<Option<Instant>>,
    ended: Condvar,
}

/// They wait while it is there.
pub(super) struct Held<'a>(&'a Hold);

impl Hold {
    /// What begins from here on waits until the result is dropped, or for [`HOLD_MAX`].
    pub(super) fn begin(&self) -> Held<'_> {
        *self.lock() = Some(Instant::now() + HOLD_MAX);
        self.is_held.store(true, Ordering::Release);
        Held(self)
    }

    /// Whether somebody would wait.
    pub(super) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Acquire)
    }

    /// Waits until everybody may go on.
    pub(super) fn wait(&self) {
        if !self.is_held() {
            return;
        }
        let mut until = self.lock();
        while let Some(end) = *until {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.ended.wait_timeout(until, left);
            until = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.is_held.store(false, Ordering::Release);
        *self.0.lock() = None;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_wait_until_the_hold_ends_and_no_longer_than_a_second() {
        let hold = Hold::default();
        hold.wait();
        let begin = Instant::now();
        let held = hold.begin();
        assert!(hold.is_held());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                drop(held);
            });
            hold.wait();
        });
        assert!(begin.elapsed() >= Duration::from_millis(20) && !hold.is_held());
        let begin = Instant::now();
        let _held = hold.begin();
        hold.wait();
        assert!(begin.elapsed() >= HOLD_MAX);
    }
}
