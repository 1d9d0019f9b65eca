//! The vault's own time: for how many seconds it has been served.
//!
//! Waits are measured by it, for no wall clock is fit to: one that is put forward would
//! skip them, and one that once ran years ahead would make them last years. A site
//! counts the seconds in which it runs (`CLOCK_MONOTONIC`), and goes on from the highest
//! count that it finds in the ledger: in the records, each of which states when it was
//! written, and under a name of its own, which is written now and then.
//!
//! Invariant: a count is never ahead of the seconds that passed, so a wait is never
//! shorter than it should be. It is longer by the time in which no site runs, and by at
//! most [`KEEP_EVERY`] and some seconds for each crash of the only site.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::record::{Record, State};
use super::site::{Site, Undecided};
use zeroize::DefaultIsZeroes;

use crate::io::Clock;
use crate::vault::ledger::{LedgerError, clock_name};
use crate::vault::protocol::Seconds;

/// Seconds between two writes of the count.
pub const KEEP_EVERY: Seconds = 300;

/// For how many seconds a vault has been served, by any of its sites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Served(pub u64);

impl DefaultIsZeroes for Served {}

impl Served {
    /// So many seconds later.
    #[must_use]
    pub(crate) fn plus(self, seconds: Seconds) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds from `now` until then; 0 if that has passed.
    pub(crate) fn left_at(self, now: Self) -> Seconds {
        self.0.saturating_sub(now.0)
    }
}

/// Counts the seconds in which one site served the vault.
pub(super) struct Stopwatch {
    clock: Arc<dyn Clock>,
    state: Mutex<Count>,
}

struct Count {
    /// The count when the clock said `at`.
    base: Served,
    at: Duration,
    /// What the ledger holds under the name of its own; none before it was looked at.
    kept: Option<Served>,
}

impl Count {
    fn now(&self, clock: &dyn Clock) -> Served {
        self.base.plus(clock.elapsed().saturating_sub(self.at).as_secs())
    }
}

impl Stopwatch {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let at = clock.elapsed();
        Self { clock, state: Mutex::new(Count { base: Served(0), at, kept: None }) }
    }

    fn count(&self) -> std::sync::MutexGuard<'_, Count> {
        self.state.lock().expect("counting does not panic")
    }

    /// The vault's own time, as far as this site knows it.
    pub fn now(&self) -> Served {
        self.count().now(&*self.clock)
    }

    /// Goes on from `found`, which a site of this fleet counted, if that is higher.
    pub fn adopt(&self, found: Served) {
        let mut count = self.count();
        if found > count.now(&*self.clock) {
            (count.base, count.at) = (found, self.clock.elapsed());
        }
    }
}

impl Site {
    /// The vault's own time.
    pub(super) fn served(&self) -> Result<Served, Undecided> {
        if self.stopwatch.count().kept.is_none() {
            // Reading adopts what is there.
            self.read(&clock_name(self.keys())?)?;
            self.stopwatch.count().kept = Some(Served(0));
        }
        Ok(self.stopwatch.now())
    }

    /// Takes notice of the ledger, and notes the vault's own time there; to be called
    /// now and then.
    pub fn tend(&self) -> Result<(), LedgerError> {
        self.ledger.tend()?;
        let now = self.served().map_err(Undecided::into_ledger)?;
        let kept = self.stopwatch.count().kept.unwrap_or_default();
        if kept.plus(KEEP_EVERY) > now { Ok(()) } else { self.keep_time() }
    }

    /// Notes the vault's own time in the ledger; to be called when serving ends.
    pub fn keep_time(&self) -> Result<(), LedgerError> {
        let keep = || {
            let now = self.served()?;
            let name = clock_name(self.keys())?;
            let newer = |record: &Record| {
                let counts = record.state == State::Clock && record.touched >= now;
                (!counts).then(|| Record { state: State::Clock, ..record.clone() })
            };
            self.change(&name, newer)?;
            self.stopwatch.count().kept = Some(now);
            Ok(())
        };
        keep().map_err(Undecided::into_ledger)
    }
}
