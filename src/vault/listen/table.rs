//! Decides which connections have a server's slots, and which one is evicted for a
//! newcomer.
//!
//! A connection is *silent* until its handshake is done and its first request came (at a
//! relay: its hello). Then it is *busy* while the server answers a request of it, and
//! *idle* between requests.
//!
//! A newcomer always gets a slot, unless all others are busy. There is a limit for one
//! subscriber, one for its network, and one for all connections. At the first limit that
//! is reached, the server evicts one of the connections that this limit counts:
//!
//! - a silent one, if more than a quarter of that limit is silent;
//! - else an idle one; and if there is none of the one kind, one of the other.
//! - Of these it is one of the network with the most of them, there one of the
//!   subscriber with the most, and there the one that has been so longest.
//!
//! So connections that say nothing cannot take more than a quarter of the slots from
//! those that speak, and connections that speak once and stay idle cannot take the last
//! quarter from newcomers. Whoever is alone in a network is evicted after all who have
//! many connections in theirs. An origin at its limit loses its own connections only.
//!
//! Connections without an origin (of loopback, and of a site's relays) count for
//! themselves alone. There is no clock here: each change has a number, and lower is
//! longer ago.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::Notify;

use super::origin::Origin;

/// How many times a subscriber's share its network has.
pub const NETWORK_SHARES: usize = 4;
/// One in so many slots may be silent before a silent connection gives way.
const SILENT_PART: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Silent,
    Idle,
    Busy,
    /// Evicted; its sockets are still open.
    Leaving,
}

struct Taken {
    origin: Option<Origin>,
    state: State,
    /// The number of the change that brought it into its state.
    since: u64,
    evicted: Arc<Notify>,
}

/// Whom a limit counts.
#[derive(Clone, Copy)]
enum Scope {
    Subscriber(Origin),
    Network(Origin),
    All,
}

impl Scope {
    fn counts(self, taken: &Taken) -> bool {
        match self {
            Self::Subscriber(Origin { subscriber, .. }) => {
                taken.origin.is_some_and(|origin| origin.subscriber == subscriber)
            }
            Self::Network(Origin { network, .. }) => {
                taken.origin.is_some_and(|origin| origin.network == network)
            }
            Self::All => true,
        }
    }
}

/// What the connection was that was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// It had sent no request.
    Silent,
    /// It had sent a request, and the server had answered all.
    Idle,
}

/// The server is answering requests of all other connections: none can be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AllBusy;

pub(super) struct Table {
    most: usize,
    each: usize,
    changes: u64,
    taken: BTreeMap<u64, Taken>,
}

impl Table {
    /// `most` slots, `each` of one subscriber.
    pub(super) fn new(most: usize, each: usize) -> Self {
        assert!(most > 0, "a server has slots");
        Self { most, each, changes: 0, taken: BTreeMap::new() }
    }

    fn change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    /// The connections that a scope counts, without those that are evicted.
    fn staying(&self, scope: Scope) -> impl Iterator<Item = (u64, &Taken)> {
        let counted = move |taken: &Taken| taken.state != State::Leaving && scope.counts(taken);
        self.taken.iter().filter(move |(_, taken)| counted(taken)).map(|(at, taken)| (*at, taken))
    }

    /// Evicts a connection, if a newcomer from `origin` needs its slot.
    pub(super) fn make_room(&mut self, origin: Option<Origin>) -> Result<Option<Dropped>, AllBusy> {
        let all = (Scope::All, self.most);
        let limits = match origin {
            None => vec![all],
            Some(origin) => vec![
                (Scope::Subscriber(origin), self.each),
                (Scope::Network(origin), self.each.saturating_mul(NETWORK_SHARES)),
                all,
            ],
        };
        let reached = |(scope, limit): &(Scope, usize)| self.staying(*scope).count() >= *limit;
        match limits.into_iter().find(reached) {
            None => Ok(None),
            Some((scope, limit)) => self.evict_in(scope, limit, None).map(Some).ok_or(AllBusy),
        }
    }

    /// Evicts a connection other than `except`, although no limit is reached. None if
    /// there is none to evict.
    pub(super) fn evict(&mut self, except: Option<u64>) -> Option<Dropped> {
        let all = self.staying(Scope::All).count();
        self.evict_in(Scope::All, all, except)
    }

    fn evict_in(&mut self, scope: Scope, limit: usize, except: Option<u64>) -> Option<Dropped> {
        let is_silent = |(_, taken): &(u64, &Taken)| taken.state == State::Silent;
        let silent = self.staying(scope).filter(is_silent).count();
        let mut order = [(State::Silent, Dropped::Silent), (State::Idle, Dropped::Idle)];
        if silent * SILENT_PART <= limit {
            order.reverse();
        }
        let (at, dropped) = order.into_iter().find_map(|(state, dropped)| {
            self.longest(scope, state, except).map(|at| (at, dropped))
        })?;
        let taken = self.taken.get_mut(&at).expect("it was just found");
        taken.state = State::Leaving;
        taken.evicted.notify_one();
        Some(dropped)
    }

    /// Which of the connections in `state` is evicted first.
    fn longest(&self, scope: Scope, state: State, except: Option<u64>) -> Option<u64> {
        let found = || {
            self.staying(scope)
                .filter(move |(at, taken)| taken.state == state && Some(*at) != except)
        };
        let (mut networks, mut subscribers) = (HashMap::new(), HashMap::new());
        for origin in found().filter_map(|(_, taken)| taken.origin) {
            *networks.entry(origin.network).or_insert(0) += 1;
            *subscribers.entry(origin.subscriber).or_insert(0) += 1;
        }
        let crowd = |origin: Origin| (networks[&origin.network], subscribers[&origin.subscriber]);
        let rank =
            |(_, taken): &(u64, &Taken)| (taken.origin.map_or((1, 1), crowd), Reverse(taken.since));
        found().max_by_key(rank).map(|(at, _)| at)
    }

    /// Whether a slot is free now; one that is being given up is not.
    pub(super) fn has_room(&self) -> bool {
        self.taken.len() < self.most
    }

    /// Whether nobody is here.
    pub(super) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Gives a slot that is free. What comes back is its number, and what tells it to
    /// give it up.
    pub(super) fn enter(&mut self, origin: Option<Origin>) -> (u64, Arc<Notify>) {
        assert!(self.has_room(), "whoever enters found room");
        let at = self.change();
        let evicted = Arc::new(Notify::new());
        let taken =
            Taken { origin, state: State::Silent, since: at, evicted: Arc::clone(&evicted) };
        self.taken.insert(at, taken);
        (at, evicted)
    }

    /// Notes that a connection is in `state` now. False, with nothing changed, if it was
    /// evicted.
    pub(super) fn set_state(&mut self, at: u64, state: State) -> bool {
        let since = self.change();
        let taken = self.taken.get_mut(&at).expect("a slot is known until it is left");
        if taken.state == State::Leaving {
            return false;
        }
        (taken.state, taken.since) = (state, since);
        true
    }

    pub(super) fn leave(&mut self, at: u64) {
        self.taken.remove(&at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> Option<Origin> {
        Origin::of(text.parse().unwrap())
    }

    /// A newcomer that speaks at once, and who went for it.
    fn comes(table: &mut Table, address: &str) -> (u64, Vec<u64>) {
        let at = silent(table, address);
        table.set_state(at.0, State::Idle);
        at
    }

    fn silent(table: &mut Table, address: &str) -> (u64, Vec<u64>) {
        table.make_room(from(address)).unwrap();
        let is_leaving = |taken: &Taken| taken.state == State::Leaving;
        let gone: Vec<u64> =
            table.taken.iter().filter(|(_, taken)| is_leaving(taken)).map(|(at, _)| *at).collect();
        for at in &gone {
            table.leave(*at);
        }
        (table.enter(from(address)).0, gone)
    }

    #[test]
    fn the_longest_silent_one_goes_when_all_slots_are_taken() {
        let mut table = Table::new(4, 16);
        let (speaker, _) = comes(&mut table, "::1");
        let silents = [(); 3].map(|()| silent(&mut table, "::1").0);
        assert_eq!(silent(&mut table, "::1").1, [silents[0]]);
        assert_eq!(comes(&mut table, "::1").1, [silents[1]]);
        assert!(table.taken.contains_key(&speaker));
    }

    #[test]
    fn a_subscriber_and_a_network_have_their_limits_and_lose_their_own() {
        let mut table = Table::new(100, 2);
        let (other, _) = silent(&mut table, "192.0.2.1");
        let (first, _) = silent(&mut table, "2001:db8:1:0::1");
        silent(&mut table, "2001:db8:1:0::2");
        assert_eq!(silent(&mut table, "2001:db8:1:0::3").1, [first], "of that /64");
        for subnet in 1..4 {
            for _ in 0..2 {
                let address = format!("2001:db8:1:{subnet}::1");
                assert!(silent(&mut table, &address).1.is_empty(), "{address}");
            }
        }
        let (_, gone) = silent(&mut table, "2001:db8:1:9::1");
        assert!(gone.len() == 1 && gone != [other], "of that /48");
        assert!(silent(&mut table, "2001:db8:2:0::1").1.is_empty(), "another /48");
        // Loopback is not counted.
        assert!((0..20).all(|_| silent(&mut table, "127.0.0.1").1.is_empty()));
    }

    #[test]
    fn of_those_who_spoke_the_longest_idle_in_the_largest_crowd_goes() {
        let mut table = Table::new(7, 16);
        let (alone, _) = comes(&mut table, "192.0.2.1");
        let crowd =
            [0, 1, 1, 2].map(|subnet| comes(&mut table, &format!("2001:db8:1:{subnet}::1")).0);
        let other = [(); 2].map(|()| comes(&mut table, "192.0.2.2").0);
        // Longest there, but she asks something again.
        table.set_state(crowd[1], State::Idle);
        assert_eq!(comes(&mut table, "192.0.2.3").1, [crowd[2]], "the fullest /64 of it");
        assert_eq!(comes(&mut table, "192.0.2.4").1, [crowd[0]]);
        // Two of that network are left, and two of one address.
        assert_eq!(comes(&mut table, "192.0.2.5").1, [other[0]], "the fuller subscriber");
        assert_eq!(comes(&mut table, "192.0.2.6").1, [crowd[3]]);
        // Everybody is alone.
        assert_eq!(comes(&mut table, "192.0.2.7").1, [alone]);
    }

    /// With all slots at those who spoke once, each newcomer would be dropped for the
    /// next before it could speak.
    #[test]
    fn a_quarter_is_for_those_who_come() {
        let mut table = Table::new(8, 16);
        let speakers = [(); 8].map(|()| comes(&mut table, "::1").0);
        let came = [(); 3].map(|()| silent(&mut table, "::1"));
        for (nth, (_, gone)) in came.iter().enumerate() {
            assert_eq!(*gone, [speakers[nth]]);
        }
        assert_eq!(silent(&mut table, "::1").1, [came[0].0], "more than two of eight are silent");
        assert_eq!(silent(&mut table, "::1").1, [came[1].0]);
        assert!(speakers[3..].iter().all(|at| table.taken.contains_key(at)));
    }

    #[test]
    fn a_busy_connection_stays() {
        let mut table = Table::new(2, 16);
        let works = [(); 2].map(|()| comes(&mut table, "::1").0);
        assert!(works.iter().all(|at| table.set_state(*at, State::Busy)));
        assert_eq!(table.make_room(None), Err(AllBusy));
        assert!(table.set_state(works[1], State::Idle));
        assert_eq!(table.make_room(None), Ok(Some(Dropped::Idle)));
        assert!(!table.set_state(works[1], State::Busy), "it was evicted");
        assert!(!table.has_room());
        table.leave(works[1]);
        assert!(table.has_room());
    }

    #[test]
    fn the_connection_that_asks_for_an_eviction_is_spared() {
        let mut table = Table::new(100, 16);
        let (asks, _) = silent(&mut table, "::1");
        assert_eq!(table.evict(Some(asks)), None);
        let (speaker, _) = comes(&mut table, "::1");
        silent(&mut table, "::1");
        assert_eq!(table.evict(Some(asks)), Some(Dropped::Silent));
        assert_eq!(table.evict(Some(asks)), Some(Dropped::Idle));
        assert_eq!(table.taken[&speaker].state, State::Leaving);
        assert_eq!(table.evict(Some(asks)), None);
    }
}
