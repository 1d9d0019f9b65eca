//! The connection slots of a site or relay. Each connection has one.
//!
//! Invariant: there are never more connections than slots. A connection that is evicted
//! keeps its slot until its sockets are closed.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::origin::Origin;
use super::table::{Dropped, State, Table};

/// How long a newcomer waits for an evicted connection to close before another one is
/// evicted.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);
/// Shortest time between two log lines of one kind.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What happened to a connection because there were too few slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// The server evicted it before it had sent a request.
    Silent,
    /// The server evicted it while it was idle.
    Idle,
    /// The server refused it, because all others were busy.
    Refused,
}

/// The connection slots of one site or relay.
pub struct ConnectionSlots {
    table: Mutex<Table>,
    /// Changes whenever a slot is left.
    left: watch::Sender<()>,
    counts: Mutex<ShortageCounts>,
    /// When the log last had an error that comes with many connections.
    erred: Mutex<Option<Instant>>,
    counter: Box<dyn Fn(Shortage) + Send + Sync>,
}

/// How often each [`Shortage`] happened, and when the log last had a line about it.
#[derive(Default)]
struct ShortageCounts {
    silent: u64,
    idle: u64,
    refused: u64,
    last: Option<Instant>,
}

impl fmt::Display for ShortageCounts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "connection slots are short: since the start {} silent and {} idle connections were dropped to \
             make room, and {} were refused",
            self.silent, self.idle, self.refused
        )
    }
}

/// Whether it is time for another log line. If so, it is logged now.
fn is_due(last: &mut Option<Instant>) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL);
    if due {
        *last = Some(Instant::now());
    }
    due
}

/// The slot of one connection. Dropping the value frees the slot.
pub struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    at: u64,
    evicted: Arc<Notify>,
}

impl ConnectionSlots {
    /// Makes `most` slots. One subscriber can have `each` of them, and one network four
    /// times as many. `counter` is called for each connection that is evicted or refused.
    pub fn new(
        most: usize,
        each: usize,
        counter: impl Fn(Shortage) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::new(Table::new(most, each)),
            left: watch::Sender::new(()),
            counts: Mutex::default(),
            erred: Mutex::default(),
            counter: Box::new(counter),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("counting does not panic")
    }

    /// Counts, and logs the counts at most once a minute.
    fn count(&self, shortage: Shortage) {
        (self.counter)(shortage);
        let mut counts = self.counts.lock().expect("counting does not panic");
        match shortage {
            Shortage::Silent => counts.silent += 1,
            Shortage::Idle => counts.idle += 1,
            Shortage::Refused => counts.refused += 1,
        }
        if is_due(&mut counts.last) {
            log::warn!("{counts}");
        }
    }

    /// Logs an error that may come with every connection, at most once a minute.
    pub fn warn(&self, what: &str, error: &io::Error) {
        if is_due(&mut self.erred.lock().expect("counting does not panic")) {
            log::warn!("{what}: {error}");
        }
    }

    fn count_dropped(&self, dropped: Option<Dropped>) {
        match dropped {
            None => {}
            Some(Dropped::Silent) => self.count(Shortage::Silent),
            Some(Dropped::Idle) => self.count(Shortage::Idle),
        }
    }

    /// Gives a slot to a connection from `origin`. Evicts another connection for it where
    /// a limit is reached, and waits until that has closed. None if all others are busy.
    pub(crate) async fn admit(self: &Arc<Self>, origin: Option<Origin>) -> Option<ConnectionSlot> {
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
            if let Some((at, evicted)) = entered {
                return Some(ConnectionSlot { slots: Arc::clone(self), at, evicted });
            }
            if timeout(CLOSE_TIMEOUT, left.changed()).await.is_err() {
                let dropped = self.table().evict(None);
                self.count_dropped(dropped);
            }
        }
    }

    /// Evicts a connection although there are free slots: the process is out of
    /// descriptors or memory. Waits up to 100 ms until it has closed. False if all
    /// connections are busy.
    pub(crate) async fn evict(&self) -> bool {
        self.evict_except(None).await
    }

    async fn evict_except(&self, except: Option<u64>) -> bool {
        let mut left = self.left.subscribe();
        let dropped = self.table().evict(except);
        self.count_dropped(dropped);
        if dropped.is_some() {
            let _ = timeout(CLOSE_TIMEOUT, left.changed()).await;
        }
        dropped.is_some()
    }

    /// Waits until all connections have closed.
    pub async fn wait_until_empty(&self) {
        let mut left = self.left.subscribe();
        while !self.table().is_empty() {
            left.changed().await.expect("the sender is here");
        }
    }
}

impl ConnectionSlot {
    /// Runs a connection until it is over. None if it was evicted.
    pub async fn run_until_evicted<T>(&self, connection: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            outcome = connection => Some(outcome),
            () = self.evicted.notified() => None,
        }
    }

    /// Notes that a request came: the connection is not evicted until [`Self::set_idle`].
    /// False if it was evicted before.
    #[must_use]
    pub fn set_busy(&self) -> bool {
        self.slots.table().set_state(self.at, State::Busy)
    }

    /// Notes that all requests of the connection are answered.
    pub fn set_idle(&self) {
        self.slots.table().set_state(self.at, State::Idle);
    }

    /// Logs an error that may come with every connection, at most once a minute.
    pub fn warn(&self, what: &str, error: &io::Error) {
        self.slots.warn(what, error);
    }

    /// Evicts another connection than this one, and waits up to 100 ms until it has
    /// closed. False if all others are busy.
    pub(crate) async fn evict_another(&self) -> bool {
        self.slots.evict_except(Some(self.at)).await
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.slots.table().leave(self.at);
        self.slots.left.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    async fn hold(slot: ConnectionSlot) {
        slot.run_until_evicted(std::future::pending::<()>()).await;
    }

    #[tokio::test]
    async fn there_are_never_more_connections_than_slots() {
        let dropped = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&dropped);
        let slots = ConnectionSlots::new(3, 16, move |shortage| {
            assert_eq!(shortage, Shortage::Silent);
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let held = Arc::new(AtomicUsize::new(0));
        for _ in 0..20 {
            let slot = slots.admit(None).await.unwrap();
            assert!(held.fetch_add(1, Ordering::SeqCst) < 3);
            let held = Arc::clone(&held);
            tokio::spawn(async move {
                slot.run_until_evicted(std::future::pending::<()>()).await;
                held.fetch_sub(1, Ordering::SeqCst);
            });
        }
        assert_eq!(dropped.load(Ordering::SeqCst), 17);
    }

    #[tokio::test]
    async fn nobody_is_dropped_while_it_is_answered() {
        let slots = ConnectionSlots::new(1, 16, |_| ());
        let slot = slots.admit(None).await.unwrap();
        assert!(slot.set_busy());
        assert!(slots.admit(None).await.is_none() && !slots.evict().await);
        slot.set_idle();
        assert!(!slot.evict_another().await, "there is no other");
        let holding = tokio::spawn(hold(slot));
        let next = slots.admit(None).await;
        assert!(next.is_some() && holding.await.is_ok());
    }

    /// A task that is stuck, in a token's library say, closes nothing.
    #[tokio::test]
    async fn one_that_does_not_close_does_not_hold_up_the_others() {
        let slots = ConnectionSlots::new(2, 16, |_| ());
        let stuck = slots.admit(None).await.unwrap();
        let other = tokio::spawn(hold(slots.admit(None).await.unwrap()));
        assert!(slots.admit(None).await.is_some());
        assert!(other.await.is_ok() && !stuck.set_busy());
    }

    #[tokio::test]
    async fn all_have_left_in_the_end() {
        let slots = ConnectionSlots::new(2, 16, |_| ());
        let slot = slots.admit(None).await.unwrap();
        let emptied = timeout(Duration::from_millis(20), slots.wait_until_empty());
        assert!(emptied.await.is_err());
        drop(slot);
        slots.wait_until_empty().await;
    }
}
