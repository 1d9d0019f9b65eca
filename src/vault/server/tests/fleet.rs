//! A whole fleet in one process, from one seed: several sites, owners and
//! guessers at work at once, and a ledger that loses questions, loses answers,
//! writes later than it is asked, and cuts sites off. One thread runs at a
//! time; at every call of the ledger the seed says who goes on.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, OnceLock};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};

use super::*;
use crate::io::sim::SimRandom;
use crate::vault::ledger::history::{History, Recorded};
use crate::vault::ledger::sim::Contents;
use crate::vault::ledger::{Entry, Head, LedgerError, Revision};

const SITES: usize = 5;
/// Worlds in one run of the tests.
const SEEDS: u64 = 1000;

/// How much more than usual is tried (`AMBERFS_TEST_FACTOR`).
fn factor() -> u64 {
    std::env::var("AMBERFS_TEST_FACTOR").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// A record that opens for anna's account only.
const BOUND: Ticket = [5; 16];

fn from(account: &str) -> Caller {
    Caller { account: Some(account.into()), ..Caller::unknown(true) }
}

/// Nobody but the scheduler.
const SCHEDULER: usize = usize::MAX;

thread_local! {
    static ME: Cell<usize> = const { Cell::new(SCHEDULER) };
}

/// Who may run.
#[derive(Default)]
struct Turns {
    turn: Mutex<Option<usize>>,
    changed: Condvar,
}

impl Turns {
    fn give(&self, to: usize) {
        *self.turn.lock().unwrap() = Some(to);
        self.changed.notify_all();
    }

    fn wait_for(&self, me: usize) {
        let turn = self.turn.lock().unwrap();
        drop(self.changed.wait_while(turn, |turn| *turn != Some(me)).unwrap());
    }

    /// An actor lets the others run; outside of a world nothing happens.
    fn pause(&self) {
        let me = ME.get();
        if me != SCHEDULER {
            self.give(SCHEDULER);
            self.wait_for(me);
        }
    }
}

/// How the network is, as the seed says.
struct Weather {
    rng: StdRng,
    /// Of 100 calls, how many go wrong.
    trouble: u32,
    cut_off: [bool; SITES],
    calm: bool,
}

/// One site's way to the ledger.
struct Line {
    site: usize,
    ledger: Arc<SimLedger>,
    turns: Arc<Turns>,
    weather: Arc<Mutex<Weather>>,
}

impl Line {
    fn trouble(&self) -> Option<u32> {
        let mut weather = self.weather.lock().unwrap();
        if weather.calm {
            return None;
        }
        let kind = weather.rng.gen_range(0..4);
        let trouble = weather.trouble;
        (weather.cut_off[self.site] || weather.rng.gen_range(0..100) < trouble).then_some(kind)
    }
}

fn unanswered<T>() -> Result<T, LedgerError> {
    Err(LedgerError::Unanswered("simulated".into()))
}

impl Ledger for Line {
    fn read(&self, name: &Name) -> Result<Option<Entry>, LedgerError> {
        self.turns.pause();
        let entry = self.ledger.read(name)?;
        self.turns.pause();
        if self.trouble().is_some() { unanswered() } else { Ok(entry) }
    }

    fn swap(
        &self,
        name: &Name,
        expected: Option<Revision>,
        value: &Value,
        last: bool,
    ) -> Result<Swap, LedgerError> {
        self.turns.pause();
        self.ledger.next_write(match self.trouble() {
            None => Fault::None,
            Some(0) => Fault::CrashBefore,
            Some(1) => Fault::CrashAfter,
            Some(_) => Fault::Late,
        });
        let outcome = self.ledger.swap(name, expected, value, last);
        self.turns.pause();
        outcome
    }

    fn remove(&self, _name: &Name, _expected: Revision) -> Result<Swap, LedgerError> {
        Ok(Swap::Lost)
    }

    fn list(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Name>, LedgerError> {
        self.turns.pause();
        self.ledger.list(after, limit)
    }

    fn head(&self) -> Result<Head, LedgerError> {
        self.ledger.head()
    }
}

/// What all worlds begin with, made once: keys, a registered record, messages.
struct Start {
    keys: Arc<FileKeys>,
    contents: Contents,
    log: Vec<(Name, Value)>,
}

fn start() -> &'static Start {
    static START: OnceLock<Start> = OnceLock::new();
    START.get_or_init(|| {
        let world = World::new(false);
        world.register(true);
        // One more record, bound to its account.
        let mut bound = Registering::start(BOUND, &SystemRandom);
        if let Request::RegisterStart { bind, .. } = &mut bound.request {
            *bind = Bind::Account;
        }
        let reply = world.sites[0].handle(&bound.request, &from("anna"));
        let Reply::Registered { reply, generation, bound: true } = reply else { panic!() };
        bound.bound = true;
        let (finish, active) = bound.finish(&world.keys, &reply, generation, &SystemRandom);
        assert!(matches!(world.ask(&finish), Reply::Uploaded));
        assert!(matches!(world.ask(&active), Reply::Activated(_)));
        let (contents, log) = (world.ledger.contents(), world.ledger.log());
        Start { keys: world.keys, contents, log }
    })
}

/// What became of an actor's attempts.
#[derive(Default)]
struct Seen {
    attempts: Vec<Attempt>,
    /// Attempts whose payload came out.
    opened: Vec<AttemptId>,
    /// Whether the actor's own registration was acknowledged.
    registered: bool,
}

struct Fleet {
    ledger: Arc<SimLedger>,
    history: Arc<History>,
    clock: Arc<TestClock>,
    turns: Arc<Turns>,
    weather: Arc<Mutex<Weather>>,
    sites: Vec<Arc<Site>>,
    open: bool,
}

/// One who asks, with luck of its own.
struct Actor<'a> {
    fleet: &'a Fleet,
    seed: u64,
    rng: StdRng,
    random: SimRandom,
    ticket: Ticket,
    seen: Seen,
}

impl Fleet {
    fn new(seed: u64) -> Self {
        let start = start();
        let mut rng = StdRng::seed_from_u64(seed);
        let ledger = Arc::new(SimLedger::default());
        ledger.restore(start.contents.clone());
        let history = Arc::new(History::default());
        for name in ledger.list(None, 9).unwrap() {
            history.begin(&name, &ledger.read(&name).unwrap().unwrap());
        }
        let clock = Arc::new(TestClock::new());
        let turns = Arc::new(Turns::default());
        let trouble = [0, 5, 15, 40][rng.gen_range(0..4)];
        let delays = rng.gen_range(0..4) == 0;
        let open = rng.gen_range(0..4) > 0;
        let weather = Weather { rng, trouble, cut_off: [false; SITES], calm: false };
        let weather = Arc::new(Mutex::new(weather));
        let site = |number: usize| {
            let line = Line {
                site: number,
                ledger: Arc::clone(&ledger),
                turns: Arc::clone(&turns),
                weather: Arc::clone(&weather),
            };
            Arc::new(Site::new(
                Arc::<FileKeys>::clone(&start.keys),
                Arc::new(Recorded::new(line, Arc::clone(&history))),
                Arc::new(SimRandom::new(seed.wrapping_mul(1000) + number as u64)),
                Arc::<TestClock>::clone(&clock),
                Vec::new(),
                delays,
            ))
        };
        let sites = (0..SITES).map(site).collect();
        Self { ledger, history, clock, turns, weather, sites, open }
    }

    fn actor(&self, seed: u64, number: u64) -> Actor<'_> {
        let own = seed.wrapping_mul(7919) + number;
        Actor {
            fleet: self,
            seed,
            rng: StdRng::seed_from_u64(own),
            random: SimRandom::new(own),
            ticket: TICKET,
            seen: Seen::default(),
        }
    }

    /// Lets actors run, one at a time, until all are done.
    fn schedule(&self, rng: &mut StdRng, mut alive: Vec<usize>, done: &Mutex<Vec<usize>>) {
        while !alive.is_empty() {
            match rng.gen_range(0..40) {
                0 => {
                    let cut_off = rng.r#gen::<u32>();
                    let mut weather = self.weather.lock().unwrap();
                    // At most two of five at a time.
                    weather.cut_off = [false; SITES];
                    weather.cut_off[cut_off as usize % SITES] = cut_off & 0x100 != 0;
                    weather.cut_off[(cut_off >> 4) as usize % SITES] = cut_off & 0x200 != 0;
                }
                1 => self.clock.pass(rng.gen_range(0..90)),
                2 if rng.gen_range(0..30) == 0 => {
                    let days = rng.gen_range(1..9) * 24 * 3600;
                    self.clock.pass(days);
                }
                3..=6 => {
                    let under_way = self.ledger.under_way();
                    if under_way > 0 {
                        self.ledger.arrive(rng.gen_range(0..under_way));
                    }
                }
                _ => {
                    let who = alive[rng.gen_range(0..alive.len())];
                    self.turns.give(who);
                    self.turns.wait_for(SCHEDULER);
                    alive.retain(|one| !done.lock().unwrap().contains(one));
                }
            }
        }
    }

    /// What strangers began and left goes: the ledger holds what it held before them.
    fn forgets_strangers(&self, registered: bool) {
        let site = Site::new(
            Arc::<FileKeys>::clone(&start().keys),
            Arc::<SimLedger>::clone(&self.ledger),
            Arc::new(SimRandom::new(1)),
            Arc::<TestClock>::clone(&self.clock),
            Vec::new(),
            false,
        );
        // It goes on from what the records say. One sweep ends, the next one removes.
        for _ in 0..3 {
            assert_eq!(site.sweep().unwrap().failed, 0);
            self.clock.pass(25 * 3600);
        }
        let names = self.ledger.list(None, 99).unwrap().len();
        // One whose registration was not acknowledged may be there all the same.
        assert!(names == 2 + usize::from(registered) || !registered && names == 3, "{names}");
    }

    fn now_calm(&self) {
        self.weather.lock().unwrap().calm = true;
        while self.ledger.under_way() > 0 {
            self.ledger.arrive(0);
        }
    }
}

impl Actor<'_> {
    fn lucky(&mut self, of: u32) -> bool {
        self.rng.gen_range(0..of) == 0
    }

    /// Asks any site; the line to it may break on the way there and back.
    fn ask(&mut self, request: &Request) -> Option<Reply> {
        self.ask_as(&Caller::unknown(self.fleet.open), request)
    }

    fn ask_as(&mut self, caller: &Caller, request: &Request) -> Option<Reply> {
        let calm = self.fleet.weather.lock().unwrap().calm;
        if !calm && self.lucky(12) {
            return None;
        }
        let site = self.rng.gen_range(0..SITES);
        let reply = self.fleet.sites[site].handle(request, caller);
        (calm || !self.lucky(12)).then_some(reply)
    }

    /// Asks again, mostly at another site, until there is a decided answer.
    fn insist(&mut self, request: &Request, times: usize) -> Option<Reply> {
        (0..times).find_map(|_| match self.ask(request) {
            None | Some(Reply::Refused(Refusal::TryLater)) => None,
            reply => reply,
        })
    }

    fn attempt(&mut self, right: bool) -> usize {
        let password: &[u8] = if right { b"right" } else { b"wrong" };
        let started = ClientLogin::<Suite>::start(&mut Rng(&self.random), password).unwrap();
        let ke1 = Box::new(started.message.serialize().as_slice().try_into().unwrap());
        let id = crate::crypto::random_id(&self.random);
        let request = Request::Attempt { ticket: self.ticket, attempt: id, terms: TERMS, ke1 };
        self.seen.attempts.push(Attempt { id, request, state: started.state, right, ke2: None });
        self.seen.attempts.len() - 1
    }

    /// One attempt to its end, as a client makes it. Whether it opened.
    fn try_once(&mut self, right: bool) -> bool {
        let which = self.attempt(right);
        let request = self.seen.attempts[which].request.clone();
        let Some(Reply::Challenge { ke2, .. }) = self.insist(&request, 6) else { return false };
        self.seen.attempts[which].ke2 = Some(ke2);
        let attempt = &self.seen.attempts[which];
        let (id, ke3) = (attempt.id, proof(&start().keys, attempt));
        let redeem =
            Request::Redeem { ticket: self.ticket, attempt: id, ke3: ke3.unwrap_or([8; KE3]) };
        let opened = match self.insist(&redeem, if right { 12 } else { 1 }) {
            Some(Reply::Opened { payload, .. }) => {
                assert!(right && *payload == PAYLOAD, "only for the right password");
                self.seen.opened.push(id);
                true
            }
            _ => false,
        };
        if self.lucky(4) {
            // The same proof once more, and an old attempt once more.
            let again = self.insist(&redeem, 1);
            assert!(right || !matches!(again, Some(Reply::Opened { .. })));
            let old = self.rng.gen_range(0..self.seen.attempts.len());
            let request = self.seen.attempts[old].request.clone();
            if let Some(Reply::Challenge { ke2, .. }) = self.insist(&request, 1) {
                self.seen.attempts[old].ke2 = Some(ke2);
            }
        }
        opened
    }

    /// Registers under a ticket of its own and logs in.
    fn register(&mut self, ticket: Ticket) -> Option<()> {
        self.ticket = ticket;
        let registering = Registering::start(ticket, &self.random);
        let Reply::Registered { reply, generation, .. } = self.insist(&registering.request, 20)?
        else {
            return None;
        };
        let (finish, active) = registering.finish(&start().keys, &reply, generation, &self.random);
        let Reply::Uploaded = self.insist(&finish, 20)? else { return None };
        let Reply::Activated(_) = self.insist(&active, 20)? else { return None };
        self.seen.registered = true;
        self.try_once(true);
        Some(())
    }

    /// Does what strangers can: proofs without end for one try, guesses under terms that
    /// nobody registered and at a record of somebody else's account, registrations that it
    /// leaves.
    fn annoy(&mut self) {
        let which = self.attempt(false);
        let request = self.seen.attempts[which].request.clone();
        if let Some(Reply::Challenge { ke2, .. }) = self.insist(&request, 6) {
            self.seen.attempts[which].ke2 = Some(ke2);
        }
        let attempt = self.seen.attempts[which].id;
        for _ in 0..2 * PROOFS {
            self.ask(&Request::Redeem { ticket: TICKET, attempt, ke3: [8; KE3] });
        }
        for ticket in [TICKET, BOUND] {
            let which = self.attempt(true);
            let Request::Attempt { attempt, ke1, .. } = self.seen.attempts[which].request.clone()
            else {
                panic!()
            };
            let terms = if ticket == BOUND { TERMS } else { [9; 32] };
            let request = Request::Attempt { ticket, attempt, terms, ke1 };
            for _ in 0..4 {
                let reply = self.ask_as(&from("eve"), &request);
                assert!(!matches!(reply, Some(Reply::Challenge { .. })), "no try is taken");
            }
        }
        for _ in 0..4 {
            let id = crate::crypto::random_id(&self.random);
            let begun = Registering::by(Right::Open, id, id, &self.random);
            self.ask(&begun.request);
        }
    }

    fn run(&mut self, number: usize) {
        match number {
            6 => self.annoy(),
            // In every third world the owner is away, and the tries run out.
            0..=3 => {
                let right = number == 0 && !self.seed.is_multiple_of(3);
                for _ in 0..4 {
                    self.try_once(right);
                }
            }
            4 if self.fleet.open => drop(self.register([4; 16])),
            _ => {
                for _ in 0..3 {
                    let site = self.rng.gen_range(0..SITES);
                    let _ = self.fleet.sites[site].sweep();
                    let status = Request::Status { ticket: TICKET };
                    self.ask(&status);
                }
            }
        }
    }
}

/// How often what happened, over all worlds: a world in which nothing goes
/// wrong tests nothing.
#[derive(Default, Debug)]
struct Count {
    evaluated: usize,
    most_between_successes: u32,
    opened: usize,
    closed: usize,
    ended: usize,
    registered: usize,
    operations: usize,
    unanswered: usize,
}

/// Runs a world and checks all that is promised.
fn run(seed: u64, count: &mut Count) -> Vec<u8> {
    let fleet = Fleet::new(seed);
    let mut rng = StdRng::seed_from_u64(!seed);
    let actors: Vec<usize> = (0..7).collect();
    let done = Mutex::new(Vec::new());
    let mut seen: Vec<Seen> = std::thread::scope(|scope| {
        let threads: Vec<_> = actors
            .iter()
            .map(|number| {
                let (fleet, done) = (&fleet, &done);
                scope.spawn(move || {
                    ME.set(*number);
                    fleet.turns.wait_for(*number);
                    let mut actor = fleet.actor(seed, *number as u64);
                    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        actor.run(*number);
                    }));
                    done.lock().unwrap().push(*number);
                    fleet.turns.give(SCHEDULER);
                    outcome.map(|()| actor.seen)
                })
            })
            .collect();
        fleet.schedule(&mut rng, actors.clone(), &done);
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    fleet.now_calm();

    // Afterwards, with all sites there, whoever has tries gets in.
    let mut owner = fleet.actor(seed, 77);
    for (ticket, exists) in [(TICKET, true), ([4; 16], seen[4].registered)] {
        owner.ticket = ticket;
        fleet.clock.pass(2 * 24 * 3600);
        match owner.ask(&Request::Status { ticket }).unwrap() {
            Reply::State(RecordState::Active { tries, .. }) => {
                assert!(tries.left > 0 && owner.try_once(true), "the right password gets in");
                count.opened += 1;
            }
            Reply::State(RecordState::Closed { .. }) => count.closed += 1,
            Reply::State(RecordState::Ended(_)) => count.ended += 1,
            _ => assert!(!exists, "an acknowledged registration is there"),
        }
    }
    seen.push(std::mem::take(&mut owner.seen));

    // Strangers left the bound record as it was.
    owner.ticket = BOUND;
    let status = owner.ask(&Request::Status { ticket: BOUND });
    let whole = |tries: &Tries| (tries.left, tries.failures_left) == (9, 50);
    let is_whole = |state: &RecordState| matches!(state, RecordState::Active { tries, bound: true } if whole(tries));
    assert!(matches!(&status, Some(Reply::State(state)) if is_whole(state)));
    let which = owner.attempt(true);
    let request = owner.seen.attempts[which].request.clone();
    let reply = owner.ask_as(&from("anna"), &request);
    let Some(Reply::Challenge { ke2, .. }) = reply else { panic!("anna may try") };
    owner.seen.attempts[which].ke2 = Some(ke2);
    seen.push(std::mem::take(&mut owner.seen));

    let mut by_name: BTreeMap<Name, Vec<Record>> = BTreeMap::new();
    for (name, value) in start().log.iter().chain(&fleet.ledger.log()) {
        let record = Record::decode(&open_value(&*start().keys, name, value).ok().unwrap());
        by_name.entry(*name).or_default().push(record.unwrap());
    }
    let mut written = HashSet::new();
    for records in by_name.values() {
        let proofs = records.iter().flat_map(|record| &record.pending).map(|one| one.proofs);
        assert!(proofs.max().unwrap_or(0) <= PROOFS);
        let law = check_law(records);
        count.evaluated += law.evaluated;
        count.most_between_successes = count.most_between_successes.max(law.most);
        written.extend(law.written);
        for id in seen.iter().flat_map(|seen| &seen.opened).filter(|id| law.known.contains(*id)) {
            assert!(law.redeemed.contains(id), "a payload left before its write");
        }
    }
    for attempt in seen.iter().flat_map(|seen| &seen.attempts) {
        if let Some(ke2) = &attempt.ke2 {
            assert!(written.contains(&(attempt.id, **ke2)), "KE2 left before its write");
        }
    }
    assert!(fleet.history.is_linearizable(), "the ledger itself behaved");
    fleet.forgets_strangers(seen[4].registered);
    count.registered += usize::from(seen[4].registered);
    count.operations += fleet.history.len();
    count.unanswered += fleet.history.unknown();
    let log = fleet.ledger.log();
    log.iter().flat_map(|(_, value)| crate::crypto::hash(&value[..])).collect()
}

#[test]
fn no_order_of_faults_gives_an_eleventh_guess() {
    let one = std::env::var("AMBERFS_TEST_SEED").ok().map(|text| text.parse().expect("a number"));
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        None => 0..SEEDS * factor(),
    };
    let (worlds, halves) = (seeds.end - seeds.start, 2);
    let counts: Vec<Count> = std::thread::scope(|scope| {
        let run_half = |half: u64| {
            let seeds = seeds.clone();
            move || {
                let mut count = Count::default();
                for seed in seeds.filter(|seed| seed % halves == half) {
                    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        run(seed, &mut count);
                    }));
                    assert!(outcome.is_ok(), "AMBERFS_TEST_SEED={seed} failed");
                }
                count
            }
        };
        let threads: Vec<_> = (0..halves).map(|half| scope.spawn(run_half(half))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let sum = |of: fn(&Count) -> usize| counts.iter().map(of).sum::<usize>();
    let most = counts.iter().map(|count| count.most_between_successes).max().unwrap();
    println!(
        "fleet: {worlds} worlds, {} guesses evaluated, at most {most} between successes, {} closed, \
         {} ended, {} registered meanwhile, {} ledger operations, {} of them unanswered",
        sum(|count| count.evaluated),
        sum(|count| count.closed),
        sum(|count| count.ended),
        sum(|count| count.registered),
        sum(|count| count.operations),
        sum(|count| count.unanswered),
    );
    if one.is_none() {
        assert_eq!(most, 10, "the limit was reached, or nothing was tested");
        let all = [
            sum(|count| count.opened),
            sum(|count| count.closed),
            sum(|count| count.ended),
            sum(|count| count.registered),
            sum(|count| count.unanswered),
        ];
        assert!(all.iter().all(|times| *times as u64 > worlds / 50), "{all:?}");
    }
}

/// A seed that failed must fail again.
#[test]
fn a_seed_decides_all_that_happens() {
    for seed in [3, 4] {
        assert_eq!(run(seed, &mut Count::default()), run(seed, &mut Count::default()));
    }
}
