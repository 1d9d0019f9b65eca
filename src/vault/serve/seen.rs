//! A site's memory of assertions, so that each counts once.
//!
//! An assertion is looked at before the handshake that it vouches for
//! ([`Seen::check`]) and remembered when that handshake has succeeded
//! ([`Seen::record`]). Only the holder of the handshake's private half gets that far:
//! whoever sends hellos and no more fills nothing here. If two connections come with
//! the same assertion, the first one recorded goes on and the other one ends.
//!
//! Invariant: of all connections with one id at most one is recorded while the id is
//! remembered. The memory is bounded; a full one forgets what expires first. A
//! forgotten id is of use to the holder of that handshake's private half only.

use std::collections::{BTreeSet, HashSet};
use std::sync::Mutex;

use crate::crypto::hash;
use crate::vault::protocol::Seconds;
use crate::vault::protocol::assertion::{Assertion, AssertionError, SLACK, VALID};

/// Ids remembered at once.
const SEEN_MAX: usize = 65_536;

/// The ids of assertions whose handshakes succeeded.
pub struct Seen {
    /// Ids remembered at once.
    most: usize,
    ids: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    known: HashSet<[u8; 16]>,
    /// For each known id the last second in which it counts, and the id: the soonest first.
    by_end: BTreeSet<(Seconds, [u8; 16])>,
}

/// An assertion that counts, if its handshake succeeds before its time is over and
/// before another connection's with the same id.
#[must_use]
pub struct Fresh {
    id: [u8; 16],
    /// The last second in which it counts.
    end: Seconds,
}

impl Default for Seen {
    fn default() -> Self {
        Self::new(SEEN_MAX)
    }
}

impl Seen {
    /// A memory of `most` ids, at least one.
    pub fn new(most: usize) -> Self {
        assert!(most > 0, "an assertion must be remembered");
        Self { most, ids: Mutex::default() }
    }

    /// Whether an assertion counts for a connection that begins with `hello`. It
    /// changes nothing.
    pub fn check(
        &self,
        assertion: &Assertion,
        hello: &[u8],
        now: Seconds,
    ) -> Result<Fresh, AssertionError> {
        if hash(hello) != assertion.hello {
            return Err(AssertionError::Hello);
        }
        let end = assertion.expires.saturating_add(SLACK);
        if now > end || assertion.expires > now.saturating_add(VALID + SLACK) {
            return Err(AssertionError::Time);
        }
        let ids = self.ids.lock().expect("remembering does not panic");
        if ids.known.contains(&assertion.id) {
            return Err(AssertionError::Repeated);
        }
        Ok(Fresh { id: assertion.id, end })
    }

    /// Remembers an assertion whose handshake succeeded. An error if its time is over
    /// by now, or another connection's handshake succeeded under it meanwhile.
    #[expect(clippy::needless_pass_by_value, reason = "what was checked is recorded once")]
    pub fn record(&self, fresh: Fresh, now: Seconds) -> Result<(), AssertionError> {
        let Fresh { id, end } = fresh;
        // What is over may be forgotten already.
        if now > end {
            return Err(AssertionError::Time);
        }
        let mut ids = self.ids.lock().expect("remembering does not panic");
        if !ids.known.insert(id) {
            return Err(AssertionError::Repeated);
        }
        while let Some(&(oldest, forgotten)) = ids.by_end.first()
            && (oldest < now || ids.by_end.len() >= self.most)
        {
            ids.by_end.pop_first();
            ids.known.remove(&forgotten);
        }
        ids.by_end.insert((end, id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(id: u64, expires: Seconds) -> Assertion {
        let mut assertion = Assertion {
            relay: [1; 32],
            expires,
            id: [0; 16],
            hello: hash(b"hello"),
            account: None,
        };
        assertion.id[..8].copy_from_slice(&id.to_le_bytes());
        assertion
    }

    fn check(seen: &Seen, assertion: &Assertion, now: Seconds) -> Result<Fresh, AssertionError> {
        seen.check(assertion, b"hello", now)
    }

    fn take(seen: &Seen, assertion: &Assertion, now: Seconds) -> Result<(), AssertionError> {
        check(seen, assertion, now).and_then(|fresh| seen.record(fresh, now))
    }

    #[test]
    fn one_counts_once_in_its_time_for_its_connection() {
        let (seen, one) = (Seen::default(), about(3, 1000));
        let wrong = seen.check(&one, b"other", 1000).err();
        assert_eq!(wrong, Some(AssertionError::Hello));
        assert_eq!(check(&seen, &one, 1301).err(), Some(AssertionError::Time));
        assert_eq!(check(&seen, &one, 579).err(), Some(AssertionError::Time));
        assert_eq!(take(&seen, &one, 1300), Ok(()));
        assert_eq!(take(&seen, &one, 1300), Err(AssertionError::Repeated));
        assert_eq!(take(&seen, &one, 900), Err(AssertionError::Repeated));
    }

    /// Each hello of a stranger took a place for seven minutes, and 65,536 of them all
    /// places: everybody behind relays was refused.
    #[test]
    fn what_never_finishes_its_handshake_is_not_remembered() {
        let seen = Seen::new(2);
        for number in 0..100 {
            drop(check(&seen, &about(number, 1000), 1000));
        }
        for number in 0..100 {
            assert_eq!(take(&seen, &about(number, 1000), 1000), Ok(()), "{number}");
        }
    }

    #[test]
    fn of_two_handshakes_under_one_assertion_the_first_goes_on() {
        let (seen, one) = (Seen::default(), about(1, 1000));
        let both = [(), ()].map(|()| check(&seen, &one, 1000).ok().unwrap());
        let outcomes = both.map(|fresh| seen.record(fresh, 1000));
        assert_eq!(outcomes, [Ok(()), Err(AssertionError::Repeated)]);
    }

    /// The first one's id was forgotten with its time; the other's handshake was slow.
    #[test]
    fn a_handshake_that_outlasts_its_assertion_does_not_count() {
        let (seen, one) = (Seen::default(), about(1, 1000));
        let [first, slow] = [(), ()].map(|()| check(&seen, &one, 1300).ok().unwrap());
        assert_eq!(seen.record(first, 1300), Ok(()));
        assert_eq!(take(&seen, &about(2, 1200), 1301), Ok(()));
        assert_eq!(seen.record(slow, 1301), Err(AssertionError::Time));
    }

    #[test]
    fn a_full_memory_forgets_what_expires_first() {
        let seen = Seen::new(3);
        let expires = [1003, 1001, 1002];
        let ones = [0, 1, 2].map(|at| about(at as u64, expires[at]));
        assert!(ones.iter().all(|one| take(&seen, one, 1000).is_ok()));
        assert_eq!(take(&seen, &about(7, 1004), 1000), Ok(()));
        let known = ones.each_ref().map(|one| check(&seen, one, 1000).is_err());
        assert_eq!(known, [true, false, true]);
        // Also if the new one expires before all others.
        let early = about(8, 900);
        assert_eq!(take(&seen, &early, 1000), Ok(()));
        assert_eq!(take(&seen, &early, 1000), Err(AssertionError::Repeated));
        let ids = seen.ids.lock().unwrap();
        assert_eq!((ids.known.len(), ids.by_end.len()), (3, 3));
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let seen = Seen::default();
        for number in 0..100 {
            assert_eq!(take(&seen, &about(number, 1000), 1000), Ok(()));
        }
        assert_eq!(take(&seen, &about(100, 1400), 1301), Ok(()));
        assert_eq!(seen.ids.lock().unwrap().known.len(), 1);
    }
}
