//! Orders of crashes, retries, timeouts and concurrent guesses against sites
//! that share a simulated ledger; the law is checked in the ledger's own order.

mod keys;
mod orders;
mod rules;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::io::{Clock, SystemRandom, Timestamp};
use crate::vault::hsm::{FileKeys, KeyProtection};
use crate::vault::ledger::sim::{Fault, SimLedger};
use crate::vault::ledger::{Ledger, LedgerError, Name, Revision, Swap, Value, open_value};
use crate::vault::protocol::*;
use ed25519_dalek::{Signer, SigningKey};
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

struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp { secs: self.0.load(Ordering::SeqCst), nanos: 0 }
    }
    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

/// Passes on, and remembers every value that became durable, in order.
#[derive(Default)]
struct Audited {
    inner: SimLedger,
    log: Mutex<Vec<(Name, Value)>>,
}

impl Ledger for Audited {
    fn read(&self, name: &Name) -> Result<Option<(Revision, Value)>, LedgerError> {
        self.inner.read(name)
    }
    fn swap(
        &self,
        name: &Name,
        expected: Option<Revision>,
        value: &Value,
        last: bool,
    ) -> Result<Swap, LedgerError> {
        let mut log = self.log.lock().unwrap();
        let outcome = self.inner.swap(name, expected, value, last);
        // After a crash the write may have happened: ask the ledger.
        if self.inner.read(name)?.is_some_and(|(_, now)| now == *value) {
            log.push((*name, value.clone()));
        }
        outcome
    }
    fn list(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Name>, LedgerError> {
        self.inner.list(after, limit)
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
    ledger: Arc<Audited>,
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
        let ledger = Arc::new(Audited::default());
        let clock = Arc::new(TestClock(AtomicI64::new(START)));
        let site = || {
            Arc::new(Site::new(
                Arc::<FileKeys>::clone(&keys),
                Arc::<Audited>::clone(&ledger),
                Arc::new(SystemRandom),
                Arc::<TestClock>::clone(&clock),
                Vec::new(),
                delays,
            ))
        };
        let sites = vec![site(), site()];
        Self { keys, ledger, clock, sites, attempts: Vec::new() }
    }

    fn ask(&self, request: &Request) -> Reply {
        self.sites[0].handle(request, true)
    }

    fn register(&self, activate: bool) -> Vec<Request> {
        let mut rng = Rng(&SystemRandom);
        let started = ClientRegistration::<Suite>::start(&mut rng, b"right").unwrap();
        let request: [u8; REGISTER_REQUEST] = started.message.serialize().into();
        let start = Request::RegisterStart {
            ticket: TICKET,
            registration: REGISTRATION,
            repo: REPO,
            invite: [0; 16],
            request,
        };
        let Reply::Registered { reply, generation } = self.ask(&start) else { panic!() };
        let (client, mut binding) = ids();
        binding.fleet = self.keys.fleet();
        let finished = started
            .state
            .finish(
                &mut rng,
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
            ticket: TICKET,
            registration: REGISTRATION,
            upload: Box::new(upload),
            verifying,
            payload: Box::new(PAYLOAD),
        };
        assert!(matches!(self.ask(&finish), Reply::Uploaded));
        let hash =
            record_hash(&binding, generation, &request, &reply[..], &upload, &verifying, &PAYLOAD);
        let signature = signing.sign(&activation_statement(&hash)).to_bytes();
        let active = Request::Activate { ticket: TICKET, registration: REGISTRATION, signature };
        if activate {
            assert!(matches!(self.ask(&active), Reply::Activated(Tries { left: 9, .. })));
        }
        vec![start, finish, active]
    }

    fn attempt(&mut self, right: bool) -> usize {
        let mut id = [0; 16];
        crate::io::Random::fill(&SystemRandom, &mut id);
        let password: &[u8] = if right { b"right" } else { b"wrong" };
        let started = ClientLogin::<Suite>::start(&mut Rng(&SystemRandom), password).unwrap();
        let ke1 = Box::new(started.message.serialize().as_slice().try_into().unwrap());
        let request = Request::Attempt { ticket: TICKET, attempt: id, ke1 };
        self.attempts.push(Attempt { id, request, state: started.state, right, ke2: None });
        self.attempts.len() - 1
    }

    fn send(&mut self, site: usize, which: usize) -> Reply {
        let reply = self.sites[site].handle(&self.attempts[which].request, true);
        if let Reply::Challenge { ke2, .. } = &reply {
            self.attempts[which].ke2 = Some(ke2.clone());
        }
        reply
    }

    fn proof(&self, which: usize) -> Option<[u8; KE3]> {
        let attempt = &self.attempts[which];
        let (client, mut binding) = ids();
        binding.fleet = self.keys.fleet();
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

    fn redeem(&self, site: usize, which: usize, ke3: [u8; KE3]) -> Reply {
        let attempt = self.attempts[which].id;
        self.sites[site].handle(&Request::Redeem { ticket: TICKET, attempt, ke3 }, true)
    }

    fn status(&self) -> Standing {
        match self.ask(&Request::Status { ticket: TICKET }) {
            Reply::Standing(standing) => standing,
            _ => panic!("a ticket holder is told how the record stands"),
        }
    }

    fn records(&self) -> Vec<Record> {
        let log = self.ledger.log.lock().unwrap();
        let open = |(name, value): &(Name, Value)| {
            Record::decode(&open_value(&*self.keys, name, value).ok().unwrap()).unwrap()
        };
        log.iter().map(open).collect()
    }

    /// The law, read off the durable values in the ledger's order; and that
    /// every KE2 that left had been written first.
    fn audit(&self) {
        let mut evaluated: u32 = 1; // The registration's.
        let mut failures: u32 = 0;
        let mut seen: HashMap<AttemptId, (bool, [u8; 32])> = HashMap::new();
        let mut newest_ke2: HashMap<AttemptId, [u8; KE2]> = HashMap::new();
        let mut written: HashSet<(AttemptId, [u8; KE2])> = HashSet::new();
        for record in self.records() {
            // An attempt that was pushed out is a new one if it comes again,
            // and is paid for again.
            let known =
                |id: &AttemptId| record.pending.iter().any(|pending| pending.attempt == *id);
            seen.retain(|id, _| known(id));
            newest_ke2.retain(|id, _| known(id));
            for pending in &record.pending {
                let first = seen.insert(pending.attempt, (pending.redeemed, pending.ke1));
                match first {
                    None => {
                        assert!(!pending.redeemed);
                        evaluated += 1;
                        failures += 1;
                    }
                    Some((was, ke1)) => {
                        assert_eq!(ke1, pending.ke1, "one attempt, one KE1");
                        assert!(!was || pending.redeemed, "redeemed once");
                        if !was && pending.redeemed {
                            evaluated = 0;
                            failures -= 1;
                        }
                    }
                }
            }
            assert!(evaluated <= 10, "more than 10 guesses between two successes");
            assert!(failures <= 50, "more than 50 failures in a life");
            assert!(record.pending.len() <= PENDING_LIMIT);
            if let (Some(newest), Some(material)) = (record.pending.last(), &record.material) {
                written.insert((newest.attempt, material.ke2));
                let before = newest_ke2.insert(newest.attempt, material.ke2);
                assert!(before.is_none_or(|ke2| ke2 == material.ke2), "one attempt, one KE2");
            }
        }
        for attempt in &self.attempts {
            if let Some(ke2) = &attempt.ke2 {
                assert!(written.contains(&(attempt.id, **ke2)), "KE2 left before its write");
            }
        }
    }
}
