//! Orders of crashes, retries, timeouts and concurrent guesses against sites
//! that share a simulated ledger; the law is checked in the ledger's own order.

mod fleet;
mod keys;
mod law;
mod orders;
mod rights;
mod rollback;
mod rules;
mod served;
mod sites;
mod strangers;
mod tampered;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::record::DAILY;
use super::rights::{COUNTED, REGISTRATIONS};
use super::rounds::{Census, Swept};
use super::served::KEEP_EVERY;
use super::staff::StaffAction;
use super::*;
use crate::io::{Clock, Random, SystemRandom, Timestamp};
use crate::vault::hsm::{FileKeys, KeyProtection};
use crate::vault::ledger::sim::{Fault, SimLedger};
use crate::vault::ledger::{Ledger, Name, Swap, Value, open_value};
use crate::vault::protocol::*;
use ed25519_dalek::{Signer, SigningKey};
use law::check_law;
use opaque_ke::{
    ClientLogin, ClientLoginFinishParameters, ClientRegistration,
    ClientRegistrationFinishParameters, CredentialResponse, Identifiers, RegistrationResponse,
};

const REPO: [u8; 16] = [1; 16];
const REGISTRATION: [u8; 16] = [2; 16];
const TICKET: Ticket = [3; 16];
const PAYLOAD: [u8; PAYLOAD_SEALED] = [4; PAYLOAD_SEALED];
const SIGNING: [u8; 32] = [5; 32];
const START: i64 = 1_800_000_000;

/// Cheap on purpose: what is tested here is the counter.
fn stretch() -> Stretch {
    Stretch::claim(Argon2Cost { memory: 8, passes: 1, lanes: 1 }).unwrap()
}

/// What a site is computed with where nothing is computed.
const TERMS: [u8; 32] = [6; 32];

/// A wall clock, and the seconds that really passed.
struct TestClock {
    wall: AtomicI64,
    passed: AtomicU64,
}

impl TestClock {
    fn new() -> Self {
        Self { wall: AtomicI64::new(START), passed: AtomicU64::new(0) }
    }

    /// Time passes.
    fn pass(&self, seconds: u64) {
        self.passed.fetch_add(seconds, Ordering::SeqCst);
        self.set_by(seconds as i64);
    }

    /// Somebody sets the wall clock.
    fn set_by(&self, seconds: i64) {
        self.wall.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp { secs: self.wall.load(Ordering::SeqCst), nanos: 0 }
    }
    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.passed.load(Ordering::SeqCst))
    }
}

struct Attempt {
    id: AttemptId,
    request: Request,
    state: ClientLogin<Suite>,
    right: bool,
    ke2: Option<Box<[u8; KE2]>>,
}

struct World {
    keys: Arc<FileKeys>,
    ledger: Arc<SimLedger>,
    clock: Arc<TestClock>,
    sites: Vec<Arc<Site>>,
    attempts: Vec<Attempt>,
}

fn ids() -> ([u8; 32], Binding) {
    let binding = Binding { repo: REPO, registration: REGISTRATION, fleet: [0; 16] };
    (binding.client_id(), binding)
}

impl World {
    fn new(delays: bool) -> Self {
        let keys = Arc::new(FileKeys::create(&SystemRandom).ok().unwrap());
        let ledger = Arc::new(SimLedger::default());
        let clock = Arc::new(TestClock::new());
        let mut world = Self { keys, ledger, clock, sites: Vec::new(), attempts: Vec::new() };
        world.sites = (0..2).map(|_| Arc::new(world.site(delays))).collect();
        world
    }

    /// One more site, that starts now.
    fn site(&self, delays: bool) -> Site {
        Site::new(
            Arc::<FileKeys>::clone(&self.keys),
            Arc::<SimLedger>::clone(&self.ledger),
            Arc::new(SystemRandom),
            Arc::<TestClock>::clone(&self.clock),
            Vec::new(),
            delays,
        )
    }

    fn ask(&self, request: &Request) -> Reply {
        self.sites[0].handle(request, &Caller::unknown(true))
    }

    fn register(&self, activate: bool) -> Vec<Request> {
        let registering = Registering::start(TICKET, &SystemRandom);
        let start = registering.request.clone();
        let Reply::Registered { reply, generation, .. } = self.ask(&start) else { panic!() };
        let (finish, active) = registering.finish(&self.keys, &reply, generation, &SystemRandom);
        assert!(matches!(self.ask(&finish), Reply::Uploaded));
        if activate {
            assert!(matches!(self.ask(&active), Reply::Activated(Tries { left: 9, .. })));
        }
        vec![start, finish, active]
    }

    fn attempt(&mut self, right: bool) -> usize {
        let mut id = [0; 16];
        SystemRandom.fill(&mut id);
        let password: &[u8] = if right { b"right" } else { b"wrong" };
        let started = ClientLogin::<Suite>::start(&mut Rng(&SystemRandom), password).unwrap();
        let ke1 = Box::new(started.message.serialize().as_slice().try_into().unwrap());
        let request = Request::Attempt { ticket: TICKET, attempt: id, terms: TERMS, ke1 };
        self.attempts.push(Attempt { id, request, state: started.state, right, ke2: None });
        self.attempts.len() - 1
    }

    fn send(&mut self, site: usize, which: usize) -> Reply {
        let reply = self.sites[site].handle(&self.attempts[which].request, &Caller::unknown(true));
        if let Reply::Challenge { ke2, .. } = &reply {
            self.attempts[which].ke2 = Some(ke2.clone());
        }
        reply
    }

    fn proof(&self, which: usize) -> Option<[u8; KE3]> {
        proof(&self.keys, &self.attempts[which])
    }

    fn redeem(&self, site: usize, which: usize, ke3: [u8; KE3]) -> Reply {
        let attempt = self.attempts[which].id;
        self.sites[site]
            .handle(&Request::Redeem { ticket: TICKET, attempt, ke3 }, &Caller::unknown(true))
    }

    fn status(&self) -> RecordState {
        match self.ask(&Request::Status { ticket: TICKET }) {
            Reply::State(state) => state,
            _ => panic!("a ticket holder is told the record's state"),
        }
    }

    fn records(&self) -> Vec<Record> {
        let log = self.ledger.log();
        let open = |(name, value): &(Name, Value)| {
            Record::decode(&open_value(&*self.keys, name, value).ok().unwrap()).unwrap()
        };
        log.iter().map(open).collect()
    }

    /// The law; and that every KE2 that left had been written first.
    fn audit(&self) {
        let law = check_law(&self.records());
        for attempt in &self.attempts {
            if let Some(ke2) = &attempt.ke2 {
                let written = law.written.contains(&(attempt.id, **ke2));
                assert!(written, "KE2 left before its write");
            }
        }
    }
}

/// A client that registers.
struct Registering {
    ticket: Ticket,
    request: Request,
    blinded: [u8; REGISTER_REQUEST],
    state: ClientRegistration<Suite>,
    /// What the vault said of it.
    bound: bool,
}

impl Registering {
    fn start(ticket: Ticket, random: &dyn Random) -> Self {
        Self::by(Right::Open, REGISTRATION, ticket, random)
    }

    fn by(right: Right, registration: RegistrationId, ticket: Ticket, random: &dyn Random) -> Self {
        let started = ClientRegistration::<Suite>::start(&mut Rng(random), b"right").unwrap();
        let blinded: [u8; REGISTER_REQUEST] = started.message.serialize().into();
        let (repo, bind, terms, request) = (REPO, Bind::Usual, TERMS, blinded);
        let request =
            Request::RegisterStart { ticket, registration, repo, right, bind, terms, request };
        Self { ticket, request, blinded, state: started.state, bound: false }
    }

    /// What it asks next, and last.
    fn finish(
        self,
        keys: &FileKeys,
        reply: &[u8; REGISTER_REPLY],
        generation: u32,
        random: &dyn Random,
    ) -> (Request, Request) {
        let (client, mut binding) = ids();
        binding.fleet = keys.fleet();
        let finished = self
            .state
            .finish(
                &mut Rng(random),
                b"right",
                RegistrationResponse::deserialize(&reply[..]).unwrap(),
                ClientRegistrationFinishParameters::new(
                    Identifiers { client: Some(&client), server: Some(&binding.fleet) },
                    Some(&stretch()),
                ),
            )
            .unwrap();
        let signing = SigningKey::from_bytes(&SIGNING);
        let verifying = signing.verifying_key().to_bytes();
        let upload: [u8; REGISTER_UPLOAD] =
            finished.message.serialize().as_slice().try_into().unwrap();
        let finish = Request::RegisterFinish {
            ticket: self.ticket,
            registration: REGISTRATION,
            upload: Box::new(upload),
            verifying,
            note_key: verifying,
            payload: Box::new(PAYLOAD),
        };
        let enrolled = Enrolled {
            generation,
            bound: self.bound,
            terms: &TERMS,
            request: &self.blinded,
            reply: &reply[..],
            upload: &upload,
            verifying: &verifying,
            note_key: &verifying,
            payload: &PAYLOAD,
        };
        let statement = activation_statement(&enrolled.hash(&binding));
        let signature = signing.sign(&statement).to_bytes();
        let active =
            Request::Activate { ticket: self.ticket, registration: REGISTRATION, signature };
        (finish, active)
    }
}

/// The proof of an attempt that was answered, if its password is right.
fn proof(keys: &FileKeys, attempt: &Attempt) -> Option<[u8; KE3]> {
    let (client, mut binding) = ids();
    binding.fleet = keys.fleet();
    let context = binding.context(&attempt.id);
    let password: &[u8] = if attempt.right { b"right" } else { b"wrong" };
    let finished = attempt.state.clone().finish(
        &mut Rng(&SystemRandom),
        password,
        CredentialResponse::deserialize(&attempt.ke2.as_ref()?[..]).unwrap(),
        ClientLoginFinishParameters::new(
            Some(&context),
            Identifiers { client: Some(&client), server: Some(&binding.fleet) },
            Some(&stretch()),
        ),
    );
    assert_eq!(finished.is_ok(), attempt.right, "only the right password opens KE2");
    finished.ok().map(|finished| finished.message.serialize().into())
}
