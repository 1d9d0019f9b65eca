//! What strangers can do to a record who know its ticket.

use super::*;
use crate::vault::config::OpenLimits;

fn from(account: &str) -> Caller {
    Caller { open: true, account: Some(account.into()), origin: None }
}

/// One paid attempt bought any number of durable writes: 113,599 in 20 seconds.
#[test]
fn an_attempt_pays_for_sixteen_proofs() {
    let mut world = World::new(false);
    world.register(true);
    let guess = world.attempt(false);
    world.send(0, guess);
    let before = world.ledger.log().len();
    for _ in 0..PROOFS {
        let reply = world.redeem(1, guess, [9; KE3]);
        assert!(matches!(reply, Reply::Refused(Refusal::BadProof(tries)) if tries.left == 8));
    }
    for _ in 0..100 {
        let reply = world.redeem(0, guess, [9; KE3]);
        assert!(matches!(reply, Reply::Refused(Refusal::UnknownAttempt)));
    }
    assert_eq!(world.ledger.log().len() - before, usize::from(PROOFS));
    // It is no evaluation either.
    assert!(matches!(world.status(), RecordState::Active { tries, .. } if tries.left == 8));
    world.audit();
}

/// The owner's answers got lost: the proof is answered however often it comes, and is
/// written down no oftener than a wrong one.
#[test]
fn a_right_proof_is_answered_for_ever_and_written_sixteen_times() {
    let mut world = World::new(false);
    world.register(true);
    let owner = world.attempt(true);
    world.send(0, owner);
    let proof = world.proof(owner).unwrap();
    let before = world.ledger.log().len();
    for _ in 0..300 {
        let reply = world.redeem(0, owner, proof);
        assert!(matches!(reply, Reply::Opened { tries, .. } if tries.left == 10));
    }
    assert_eq!(world.ledger.log().len() - before, usize::from(PROOFS));
    // A wrong one of it is no right one.
    let reply = world.redeem(0, owner, [9; KE3]);
    assert!(matches!(reply, Reply::Refused(Refusal::UnknownAttempt)));
    world.audit();
}

/// Whoever has a password can open and note as often as the network lets them, and each
/// time is a write.
#[test]
fn a_record_is_written_so_many_times_a_day() {
    let mut world = World::new(false);
    world.register(true);
    let keep = |world: &World, number: u64| {
        let note = Note::new(number, &[1; NOTE_TEXT]);
        let binding = Binding { repo: REPO, registration: REGISTRATION, fleet: world.keys.fleet() };
        let statement = note_statement(&binding, note.bytes());
        let signature = SigningKey::from_bytes(&SIGNING).sign(&statement).to_bytes();
        world.ask(&Request::Note { ticket: TICKET, registration: REGISTRATION, note, signature })
    };
    for number in 1..=u64::from(DAILY) {
        assert!(matches!(keep(&world, number), Reply::Noted(note) if note.number() == number));
    }
    let before = world.ledger.log().len();
    let reply = keep(&world, u64::from(DAILY) + 1);
    assert!(matches!(reply, Reply::Refused(Refusal::TooOften)));
    let owner = world.attempt(true);
    assert!(matches!(world.send(0, owner), Reply::Refused(Refusal::TooOften)));
    assert_eq!(world.ledger.log().len(), before);
    world.clock.pass(24 * 3600);
    assert!(matches!(world.send(0, owner), Reply::Challenge { .. }));
    assert!(matches!(keep(&world, u64::from(DAILY) + 1), Reply::Noted(_)));
    world.audit();
}

/// Whoever writes to the folder changed the cost there: the right password was a counted
/// failure.
#[test]
fn an_attempt_under_other_terms_takes_no_try() {
    let mut world = World::new(false);
    world.register(true);
    let which = world.attempt(true);
    let Request::Attempt { ticket, attempt, ke1, .. } = world.attempts[which].request.clone()
    else {
        panic!()
    };
    let before = world.ledger.log().len();
    let cost = Argon2Cost { passes: 4, ..Argon2Cost::FLOOR };
    let good = terms_hash(&REPO, &REGISTRATION, Argon2Cost::FLOOR);
    let forged = [
        terms_hash(&REPO, &REGISTRATION, cost),
        terms_hash(&[9; 16], &REGISTRATION, Argon2Cost::FLOOR),
        terms_hash(&REPO, &[9; 16], Argon2Cost::FLOOR),
    ];
    for terms in forged {
        assert!(terms != good);
        let reply = world.ask(&Request::Attempt { ticket, attempt, terms, ke1: ke1.clone() });
        assert!(matches!(reply, Reply::Refused(Refusal::Terms)));
    }
    assert_eq!(world.ledger.log().len(), before);
    assert!(matches!(world.send(0, which), Reply::Challenge { tries, .. } if tries.left == 8));
    // As a repetition too: the stored answer belongs to the terms it was computed for.
    let reply = world.ask(&Request::Attempt { ticket, attempt, terms: forged[0], ke1 });
    assert!(matches!(reply, Reply::Refused(Refusal::Terms)));
}

impl World {
    /// Registers as somebody, and says whether the record is bound.
    fn registers(&self, bind: Bind, caller: &Caller) -> Result<bool, Refusal> {
        let mut registering = Registering::start(TICKET, &SystemRandom);
        if let Request::RegisterStart { bind: wanted, .. } = &mut registering.request {
            *wanted = bind;
        }
        match self.sites[0].handle(&registering.request, caller) {
            Reply::Registered { reply, generation, bound } => {
                registering.bound = bound;
                let (finish, active) =
                    registering.finish(&self.keys, &reply, generation, &SystemRandom);
                for request in [finish, active] {
                    let reply = self.sites[1].handle(&request, caller);
                    assert!(matches!(reply, Reply::Uploaded | Reply::Activated(_)));
                }
                Ok(bound)
            }
            Reply::Refused(refusal) => Err(refusal),
            _ => panic!("another answer"),
        }
    }

    fn guesses(&mut self, caller: &Caller) -> Option<Refusal> {
        let which = self.attempt(true);
        match self.sites[0].handle(&self.attempts[which].request, caller) {
            Reply::Challenge { ke2, .. } => {
                self.attempts[which].ke2 = Some(ke2);
                None
            }
            Reply::Refused(refusal) => Some(refusal),
            _ => panic!("another answer"),
        }
    }
}

/// With an account of her own and another's folder somebody could use up that record's
/// tries.
#[test]
fn a_bound_record_is_guessed_at_by_its_account_only() {
    let mut world = World::new(false);
    let anna = from("anna");
    assert_eq!(world.registers(Bind::Account, &Caller::unknown(true)), Err(Refusal::Account));
    assert_eq!(world.registers(Bind::Account, &anna), Ok(true));
    let before = world.ledger.log().len();
    for stranger in [from("eve"), from("ann"), Caller::unknown(true), Caller::unknown(false)] {
        for _ in 0..20 {
            assert_eq!(world.guesses(&stranger), Some(Refusal::Account));
        }
    }
    assert_eq!(world.ledger.log().len(), before, "no try was taken, and nothing written");
    assert_eq!(world.guesses(&anna), None);
    // Its proof may come by another way: the attempt is anna's.
    let owner = world.attempts.len() - 1;
    let proof = world.proof(owner).unwrap();
    assert!(matches!(world.redeem(1, owner, proof), Reply::Opened { .. }));
    let bound = |state| matches!(state, RecordState::Active { bound: true, .. });
    assert!(bound(world.status()));
    world.audit();
}

#[test]
fn who_says_whether_a_record_is_bound() {
    let cases = [
        (false, Bind::Usual, "anna", false),
        (true, Bind::Usual, "anna", true),
        (true, Bind::Nobody, "anna", false),
        (false, Bind::Account, "anna", true),
        // There is nothing to bind it to.
        (true, Bind::Usual, "", false),
    ];
    for (operator, owner, account, bound) in cases {
        let mut world = World::new(false);
        world.sites = (0..2).map(|_| Arc::new(world.site(false).binding(operator))).collect();
        let caller = if account.is_empty() { Caller::unknown(true) } else { from(account) };
        assert_eq!(world.registers(owner, &caller), Ok(bound), "{operator} {owner:?} {account}");
        let stranger = world.guesses(&from("eve"));
        assert_eq!(stranger, bound.then_some(Refusal::Account));
    }
}

/// A new password stays bound to the account, unless its owner says otherwise; from a machine
/// without that account it is not made, for nobody could try it there.
#[test]
fn a_successor_is_bound_as_the_record_before_it() {
    for (bind, caller, stays) in [
        (Bind::Usual, from("anna"), Ok(Some("anna"))),
        (Bind::Usual, Caller::unknown(false), Err(Refusal::Account)),
        (Bind::Usual, from("bert"), Err(Refusal::Account)),
        (Bind::Account, from("bert"), Ok(Some("bert"))),
        (Bind::Nobody, from("bert"), Ok(None)),
    ] {
        let world = World::new(false);
        assert_eq!(world.registers(Bind::Account, &from("anna")), Ok(true));
        let binding = Binding { repo: REPO, registration: REGISTRATION, fleet: world.keys.fleet() };
        let statement = succession_statement(&binding, &[8; 16], &[8; 16]);
        let signature = SigningKey::from_bytes(&SIGNING).sign(&statement).to_bytes();
        let right = Right::Successor { ticket: TICKET, registration: REGISTRATION, signature };
        let mut next = Registering::by(right, [8; 16], [8; 16], &SystemRandom);
        if let Request::RegisterStart { bind: wanted, .. } = &mut next.request {
            *wanted = bind;
        }
        let reply = world.sites[0].handle(&next.request, &caller);
        let stays = match (stays, reply) {
            (Err(why), Reply::Refused(refusal)) if why == refusal => continue,
            (Ok(stays), Reply::Registered { bound, .. }) if bound == stays.is_some() => stays,
            _ => panic!("{bind:?}"),
        };
        let name = world.sites[0].name_of(&[8; 16]).unwrap();
        let view = world.sites[0].view(&name).unwrap().unwrap();
        if stays.is_some() {
            assert_eq!(view.label.as_deref(), stays);
        }
        assert_eq!(view.bound, stays.is_some());
    }
}

impl World {
    /// Begins a registration, and goes away.
    fn begins(&self, which: u16, caller: &Caller) -> Reply {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&which.to_le_bytes());
        id[15] = 1;
        let registering = Registering::by(Right::Open, id, id, &SystemRandom);
        self.sites[0].handle(&registering.request, caller)
    }
}

fn at(address: &str) -> Caller {
    let address: std::net::IpAddr = address.parse().unwrap();
    Caller { origin: (!address.is_loopback()).then_some(address), ..Caller::unknown(true) }
}

/// Registrations that were begun and never activated made a ledger grow for good, by
/// 24.6 MB in 3.8 seconds.
#[test]
fn strangers_begin_so_many_registrations_an_hour() {
    let world = World::new(false);
    let OpenLimits { each, all } = OpenLimits::default();
    let mut taken = 0;
    for which in 0..1000_u16 {
        // An address has 20 turns; loopback has as many as it likes.
        let address =
            if which % 2 == 0 { "127.0.0.1".into() } else { format!("192.0.2.{}", which / 40) };
        match world.begins(which, &at(&address)) {
            Reply::Registered { .. } => taken += 1,
            Reply::Refused(Refusal::Budget) => {}
            _ => panic!("neither taken nor too many"),
        }
    }
    assert_eq!(taken, all);
    assert_eq!(world.sites[0].census().unwrap().registering, all as usize);
    // Who has an account or an invite is not kept out by them.
    assert!(matches!(world.begins(2000, &from("anna")), Reply::Registered { .. }));
    world.clock.pass(3600);
    let one = at("192.0.2.200");
    let begun = (3000..3100).map(|which| world.begins(which, &one));
    let taken = begun.filter(|reply| matches!(reply, Reply::Registered { .. })).count();
    assert_eq!(taken, each as usize);
    assert!(matches!(world.begins(4000, &at("192.0.2.201")), Reply::Registered { .. }));
}

/// Strangers who activate what they register stay in the ledger; the last quarter of it is
/// not for them.
#[test]
fn a_ledger_that_fills_takes_no_more_strangers() {
    let world = World::new(false);
    world.sites[0].note_names(crate::vault::ledger::NAMES_LIMIT / 4 * 3 + 1);
    let stranger = world.begins(1, &Caller::unknown(true));
    assert!(matches!(stranger, Reply::Refused(Refusal::Budget)));
    assert!(matches!(world.begins(2, &from("anna")), Reply::Registered { .. }));
    world.sites[0].sweep().unwrap();
    assert!(matches!(world.begins(3, &Caller::unknown(true)), Reply::Registered { .. }));
}

#[test]
fn names_that_were_never_activated_go() {
    let world = World::new(false);
    world.register(true);
    let anna = from("anna");
    assert!(matches!(world.begins(1, &anna), Reply::Registered { .. }));
    for which in 2..50 {
        assert!(matches!(world.begins(which, &Caller::unknown(true)), Reply::Registered { .. }));
    }
    let day = 24 * 3600;
    world.clock.pass(day + 1);
    assert_eq!(world.sites[1].sweep().unwrap().ended, 49);
    world.clock.pass(day - 2);
    assert_eq!(world.sites[1].sweep().unwrap().removed, 0);
    world.clock.pass(day);
    let swept = world.sites[0].sweep().unwrap();
    assert_eq!((swept.removed, swept.failed), (50, 0), "and the account's count");
    // Nobody was harmed: the record that was activated is there, and a ticket that went
    // can be registered.
    assert_eq!(world.ledger.list(None, 99).unwrap().len(), 1);
    assert!(matches!(world.status(), RecordState::Active { .. }));
    assert!(matches!(world.begins(1, &anna), Reply::Registered { .. }));
}
