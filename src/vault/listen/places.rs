//! The places of a site or relay, and connections that hold them.
//!
//! Invariant: never more connections than places; a connection that has to give up its
//! place holds it until its sockets are closed.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::origin::Origin;
use super::table::{Dropped, State, Table};

/// How long a newcomer waits for one connection to close before another one has to.
const CLOSING: Duration = Duration::from_millis(100);
/// Time between two log lines of one kind.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What became of a connection for want of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// It was dropped to make room before it had spoken.
    Silent,
    /// It was dropped to make room while it rested.
    Resting,
    /// It was refused, for all others were being answered.
    Refused,
}

/// All places.
pub struct Places {
    table: Mutex<Table>,
    /// Changes whenever a place is left.
    left: watch::Sender<()>,
    told: Mutex<Told>,
    /// When the log last had an error that comes with many connections.
    erred: Mutex<Option<Instant>>,
    counter: Box<dyn Fn(Shortage) + Send + Sync>,
}

/// How often what happened, and when the log last said so.
#[derive(Default)]
struct Told {
    silent: u64,
    resting: u64,
    refused: u64,
    last: Option<Instant>,
}

impl fmt::Display for Told {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "places are short: since the start {} silent and {} idle connections were dropped to \
             make room, and {} were refused",
            self.silent, self.resting, self.refused
        )
    }
}

/// Whether it is time for another log line. If so, it is logged now.
fn is_due(last: &mut Option<Instant>) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= TELL_EVERY);
    if due {
        *last = Some(Instant::now());
    }
    due
}

/// One connection's place; given back when dropped.
pub struct Place {
    places: Arc<Places>,
    at: u64,
    told: Arc<Notify>,
}

impl Places {
    /// `most` places, `each` of one subscriber, four times as many of one network.
    /// `counter` hears of each connection that was dropped or refused.
    pub fn new(
        most: usize,
        each: usize,
        counter: impl Fn(Shortage) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::new(Table::new(most, each)),
            left: watch::Sender::new(()),
            told: Mutex::default(),
            erred: Mutex::default(),
            counter: Box::new(counter),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("counting does not panic")
    }

    /// Counts, and tells the operator now and then.
    fn count(&self, shortage: Shortage) {
        (self.counter)(shortage);
        let mut told = self.told.lock().expect("counting does not panic");
        match shortage {
            Shortage::Silent => told.silent += 1,
            Shortage::Resting => told.resting += 1,
            Shortage::Refused => told.refused += 1,
        }
        if is_due(&mut told.last) {
            log::warn!("{told}");
        }
    }

    /// Logs an error that may come with every connection, now and then.
    pub fn warn(&self, what: &str, error: &io::Error) {
        if is_due(&mut self.erred.lock().expect("counting does not panic")) {
            log::warn!("{what}: {error}");
        }
    }

    fn count_dropped(&self, dropped: Option<Dropped>) {
        match dropped {
            None => {}
            Some(Dropped::Silent) => self.count(Shortage::Silent),
            Some(Dropped::Resting) => self.count(Shortage::Resting),
        }
    }

    /// A place for a connection from `origin`, for which another one may have to go.
    /// None if all others are being answered.
    pub(crate) async fn admit(self: &Arc<Self>, origin: Option<Origin>) -> Option<Place> {
        let mut left = self.left.subscribe();
        let made = self.table().make_room(origin);
        let Ok(dropped) = made else {
            self.count(Shortage::Refused);
            return None;
        };
        self.count_dropped(dropped);
        loop {
            left.mark_unchanged();
            let entered = {
                let mut table = self.table();
                table.has_room().then(|| table.enter(origin))
            };
            if let Some((at, told)) = entered {
                return Some(Place { places: Arc::clone(self), at, told });
            }
            if timeout(CLOSING, left.changed()).await.is_err() {
                let dropped = self.table().shed(None);
                self.count_dropped(dropped);
            }
        }
    }

    /// Drops a connection although there are places: the process is out of something
    /// else. Returns when it has closed, or soon; false if all are being answered.
    pub(crate) async fn shed(&self) -> bool {
        self.shed_except(None).await
    }

    async fn shed_except(&self, except: Option<u64>) -> bool {
        let mut left = self.left.subscribe();
        let dropped = self.table().shed(except);
        self.count_dropped(dropped);
        if dropped.is_some() {
            let _ = timeout(CLOSING, left.changed()).await;
        }
        dropped.is_some()
    }

    /// Returns when nobody is left.
    pub async fn emptied(&self) {
        let mut left = self.left.subscribe();
        while !self.table().is_empty() {
            left.changed().await.expect("the sender is here");
        }
    }
}

impl Place {
    /// Runs a connection until it is over, or has to give up its place.
    pub async fn hold<T>(&self, connection: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            outcome = connection => Some(outcome),
            () = self.told.notified() => None,
        }
    }

    /// A request came, and nothing is dropped until it is answered. False if the place
    /// has to be given up first.
    #[must_use]
    pub fn works(&self) -> bool {
        self.places.table().becomes(self.at, State::Working)
    }

    /// The connection has spoken, and waits for what comes.
    pub fn rests(&self) {
        self.places.table().becomes(self.at, State::Resting);
    }

    /// Logs as [`Places::warn`] does.
    pub fn warn(&self, what: &str, error: &io::Error) {
        self.places.warn(what, error);
    }

    /// Drops another connection, as [`Places::shed`] does.
    pub(crate) async fn shed_another(&self) -> bool {
        self.places.shed_except(Some(self.at)).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table().leave(self.at);
        self.places.left.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    async fn hold(place: Place) {
        place.hold(std::future::pending::<()>()).await;
    }

    #[tokio::test]
    async fn there_are_never_more_than_places() {
        let dropped = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&dropped);
        let places = Places::new(3, 16, move |shortage| {
            assert_eq!(shortage, Shortage::Silent);
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let held = Arc::new(AtomicUsize::new(0));
        for _ in 0..20 {
            let place = places.admit(None).await.unwrap();
            assert!(held.fetch_add(1, Ordering::SeqCst) < 3);
            let held = Arc::clone(&held);
            tokio::spawn(async move {
                place.hold(std::future::pending::<()>()).await;
                held.fetch_sub(1, Ordering::SeqCst);
            });
        }
        assert_eq!(dropped.load(Ordering::SeqCst), 17);
    }

    #[tokio::test]
    async fn nobody_is_dropped_while_it_is_answered() {
        let places = Places::new(1, 16, |_| ());
        let place = places.admit(None).await.unwrap();
        assert!(place.works());
        assert!(places.admit(None).await.is_none() && !places.shed().await);
        place.rests();
        assert!(!place.shed_another().await, "there is no other");
        let holding = tokio::spawn(hold(place));
        let next = places.admit(None).await;
        assert!(next.is_some() && holding.await.is_ok());
    }

    /// A task that is stuck, in a token's library say, closes nothing.
    #[tokio::test]
    async fn one_that_does_not_close_does_not_hold_up_the_others() {
        let places = Places::new(2, 16, |_| ());
        let stuck = places.admit(None).await.unwrap();
        let other = tokio::spawn(hold(places.admit(None).await.unwrap()));
        assert!(places.admit(None).await.is_some());
        assert!(other.await.is_ok() && !stuck.works());
    }

    #[tokio::test]
    async fn all_have_left_in_the_end() {
        let places = Places::new(2, 16, |_| ());
        let place = places.admit(None).await.unwrap();
        let emptied = timeout(Duration::from_millis(20), places.emptied());
        assert!(emptied.await.is_err());
        drop(place);
        places.emptied().await;
    }
}
