//! When a mount gives back by itself what nobody needs: once on each day on which it runs, while nothing
//! waits to be published.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::fs::Fs;

/// How long a mount waits before its first sweep: programs that begin come first.
const FIRST: Duration = Duration::from_secs(60);
/// How long it waits after a try, which may come to nothing because of a doubt or a failure.
const RETRY: Duration = Duration::from_secs(3600);
/// Days without a sweep after which it is made although programs write all the time.
const DAYS_MAX: u64 = 2;

/// When the next sweep may be tried, by the clock that counts from the start.
#[derive(Debug)]
pub(super) struct Upkeep(Mutex<Duration>);

impl Upkeep {
    /// For a mount of this file system that is made now.
    pub(super) fn new(fs: &Fs) -> Self {
        Self(Mutex::new(fs.volume().world().clock.elapsed() + FIRST))
    }

    /// Whether it is time for a sweep.
    pub(super) fn is_due(&self, fs: &Fs) -> bool {
        let volume = fs.volume();
        let next = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if volume.world().clock.elapsed() < next || !fs.may_checkpoint() {
            return false;
        }
        let days = volume.days_since_sweep();
        days >= DAYS_MAX || (days > 0 && !fs.has_changes())
    }

    /// A sweep is tried: whatever comes of it, the next is not before a while.
    pub(super) fn note_try(&self, fs: &Fs) {
        let next = fs.volume().world().clock.elapsed() + RETRY;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::tests_devices::Device;
    use crate::volume::Portion;

    const DAY: u32 = 24 * 3600;

    #[test]
    fn a_mount_sweeps_once_a_day_while_nothing_waits() {
        let laptop = Device::first("LAPTOP");
        let fs = laptop.fs();
        laptop.checkpoint();
        let upkeep = Upkeep::new(fs);
        assert!(!upkeep.is_due(fs), "it was mounted just now");
        laptop.later(60);
        assert!(upkeep.is_due(fs));
        upkeep.note_try(fs);
        laptop.later(3599);
        assert!(!upkeep.is_due(fs), "it came to nothing just now");
        laptop.later(1);
        assert!(upkeep.is_due(fs));
        assert!(laptop.write("file", "text"));
        assert!(!upkeep.is_due(fs), "a change waits");
        laptop.checkpoint();
        fs.sweep(Portion::Fifth).unwrap();
        assert!(!upkeep.is_due(fs));
        laptop.later(DAY / 2);
        assert!(!upkeep.is_due(fs));
        laptop.later(DAY);
        assert!(upkeep.is_due(fs));
        // The day of the last sweep outlives the mount.
        fs.sweep(Portion::Fifth).unwrap();
        let laptop = laptop.remount(30);
        let upkeep = Upkeep::new(laptop.fs());
        laptop.later(3600);
        assert!(!upkeep.is_due(laptop.fs()));
        // Programs that write all the time do not put it off for ever.
        laptop.later(2 * DAY);
        assert!(laptop.write("file", "more"));
        assert!(!upkeep.is_due(laptop.fs()));
        laptop.fs().volume().count_days().unwrap();
        laptop.later(DAY);
        assert!(upkeep.is_due(laptop.fs()));
    }
}
