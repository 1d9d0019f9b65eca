//! How often somebody may come: token buckets, in bounded memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;

/// Buckets kept at once.
const KEPT: usize = 65_536;
/// Time between two looks for full ones.
const PURGE: Duration = Duration::from_secs(1);

/// A bucket for each key. Each holds `burst` at most and gains `burst` in each period.
/// When there are too many keys to remember, all may pass: the budget protects the
/// servers' peace, not anybody's tries.
pub struct Budget<K> {
    burst: f64,
    period: Duration,
    kept: Mutex<Kept<K>>,
}

struct Kept<K> {
    buckets: HashMap<K, (f64, Duration)>,
    /// When full ones were dropped last: looking through all takes time.
    purged: Duration,
}

impl<K: Hash + Eq> Budget<K> {
    /// `burst` at once, and as many each minute.
    pub fn new(burst: u32) -> Self {
        Self::within(burst, Duration::from_secs(60))
    }

    /// `burst` at once, and as many in each `period`.
    pub fn within(burst: u32, period: Duration) -> Self {
        let kept = Kept { buckets: HashMap::new(), purged: Duration::ZERO };
        Self { burst: burst.into(), period, kept: Mutex::new(kept) }
    }

    fn level(&self, (level, then): (f64, Duration), now: Duration) -> f64 {
        let periods = now.saturating_sub(then).as_secs_f64() / self.period.as_secs_f64();
        let gained = periods * self.burst;
        (level + gained).min(self.burst)
    }

    /// Whether `key` may come now, by a clock that never goes back.
    pub fn take(&self, key: K, now: Duration) -> bool {
        let mut kept = self.kept.lock().expect("counting does not panic");
        let Kept { buckets, purged } = &mut *kept;
        if buckets.len() >= KEPT && now.saturating_sub(*purged) >= PURGE {
            buckets.retain(|_, bucket| self.level(*bucket, now) < self.burst);
            *purged = now;
        }
        if buckets.len() >= KEPT && !buckets.contains_key(&key) {
            return true;
        }
        let bucket = buckets.entry(key).or_insert((self.burst, now));
        let level = self.level(*bucket, now);
        *bucket = (if level >= 1.0 { level - 1.0 } else { level }, now);
        level >= 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_as_many_a_minute() {
        let budget = Budget::new(6);
        let at = Duration::from_secs;
        assert!((0..6).all(|_| budget.take("a", at(100))));
        assert!(!budget.take("a", at(100)) && !budget.take("a", at(109)));
        assert!(budget.take("b", at(109)), "another one has another bucket");
        assert!(budget.take("a", at(111)) && !budget.take("a", at(111)));
        assert_eq!((0..99).filter(|_| budget.take("a", at(1000))).count(), 6);
    }

    #[test]
    fn memory_is_bounded_and_whoever_is_not_remembered_passes() {
        let budget = Budget::new(1);
        for number in 0..2 * KEPT {
            assert!(budget.take(number, Duration::ZERO));
        }
        assert_eq!(budget.kept.lock().unwrap().buckets.len(), KEPT);
        assert!(!budget.take(0, Duration::ZERO));
        assert!(budget.take(usize::MAX, Duration::from_secs(61)));
        assert_eq!(budget.kept.lock().unwrap().buckets.len(), 1);
    }
}
