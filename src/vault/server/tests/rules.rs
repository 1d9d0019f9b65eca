//! The rules, one by one.

use super::*;

#[test]
fn ten_guesses_in_all_count_the_registration_and_close_the_record() {
    let mut world = World::new(false);
    world.register(true);
    for left in (0..9).rev() {
        let which = world.attempt(false);
        let reply = world.send(0, which);
        assert!(matches!(reply, Reply::Challenge { tries, .. } if tries.left == left));
        let reply = world.redeem(0, which, [9; KE3]);
        assert!(matches!(reply, Reply::Refused(Refusal::BadProof(tries)) if tries.left == left));
    }
    let which = world.attempt(true);
    assert_eq!(world.status(), RecordState::Closed { left: GRACE });
    assert!(matches!(world.send(1, which), Reply::Refused(Refusal::WrongState(_))));
    world.clock.pass(GRACE);
    assert_eq!(world.sites[0].sweep().unwrap(), Swept { names: 1, ended: 1, ..Swept::default() });
    assert_eq!(world.status(), RecordState::Ended(Ended::Exhausted));
    let last = world.records().pop().unwrap();
    assert!(last.material.is_none() && last.pending.is_empty(), "nothing is left to guess");
    world.audit();
}

#[test]
fn a_paid_attempt_reopens_a_closed_record_within_the_days_of_grace() {
    for (wait, opens) in [(GRACE - 1, true), (GRACE, false)] {
        let mut world = World::new(false);
        world.register(true);
        let owner = world.attempt(true);
        world.send(0, owner);
        for _ in 0..8 {
            let which = world.attempt(false);
            world.send(1, which);
        }
        assert!(matches!(world.status(), RecordState::Closed { .. }));
        world.clock.pass(wait);
        let reply = world.redeem(0, owner, world.proof(owner).unwrap());
        if opens {
            assert!(matches!(reply, Reply::Opened { tries, .. } if tries.left == 10));
            assert!(matches!(world.status(), RecordState::Active { .. }));
        } else {
            let ended = RecordState::Ended(Ended::Exhausted);
            assert!(matches!(reply, Reply::Refused(Refusal::WrongState(s)) if s == ended));
        }
        world.audit();
    }
}

/// The owner learns what happened between two openings, and nobody else does.
#[test]
fn a_right_proof_is_told_what_happened_before() {
    let mut world = World::new(false);
    world.register(true);
    let mut open_after = |wrong: usize| {
        for _ in 0..wrong {
            world.clock.pass(60);
            let which = world.attempt(false);
            world.send(0, which);
        }
        world.clock.pass(60);
        let owner = world.attempt(true);
        world.send(1, owner);
        let proof = world.proof(owner).unwrap();
        let Reply::Opened { events, .. } = world.redeem(0, owner, proof) else { panic!() };
        let kinds = events.since_opened().iter().map(|event| event.kind as u8).collect::<Vec<_>>();
        let rising = events.all().windows(2).all(|pair| pair[0].time <= pair[1].time);
        assert!(rising && events.all().last().unwrap().kind == EventKind::Opened);
        kinds
    };
    let [activated, failed, closed] =
        [EventKind::Activated, EventKind::Failed, EventKind::Closed].map(|kind| kind as u8);
    assert_eq!(open_after(2), [activated, failed, failed]);
    assert_eq!(open_after(0), [] as [u8; 0]);
    assert_eq!(open_after(1), [failed]);
    // The tenth attempt closes the record, and is proven after all.
    assert_eq!(open_after(9), [&[failed; 9][..], &[closed]].concat());
    assert_eq!(open_after(0), [] as [u8; 0]);
    world.audit();
}

#[test]
fn a_repeated_proof_gets_the_payload_again_and_no_second_refill() {
    let mut world = World::new(false);
    world.register(true);
    let owner = world.attempt(true);
    world.send(0, owner);
    let proof = world.proof(owner).unwrap();
    assert!(
        matches!(world.redeem(0, owner, proof), Reply::Opened { tries, .. } if tries.left == 10)
    );
    let guess = world.attempt(false);
    world.send(0, guess);
    let again = world.redeem(1, owner, proof);
    assert!(
        matches!(again, Reply::Opened { payload, tries, .. } if tries.left == 9 && *payload == PAYLOAD)
    );
    world.audit();
}

#[test]
fn a_retry_is_free_and_the_same_id_with_another_ke1_is_refused() {
    let mut world = World::new(false);
    world.register(true);
    let first = world.attempt(false);
    world.send(0, first);
    let ke2 = world.attempts[first].ke2.clone();
    let again = world.send(1, first);
    assert!(matches!(&again, Reply::Challenge { tries, .. } if tries.left == 8));
    assert!(world.attempts[first].ke2 == ke2);
    let other = world.attempt(false);
    let (id, request) = (world.attempts[first].id, world.attempts[other].request.clone());
    let Request::Attempt { ke1, .. } = request else { panic!() };
    let forged = Request::Attempt { ticket: TICKET, attempt: id, terms: TERMS, ke1 };
    assert!(matches!(world.ask(&forged), Reply::Refused(Refusal::Malformed)));
    world.send(0, other);
    // No longer the newest: its KE2 is gone, and a retry is no evaluation.
    assert!(matches!(world.send(0, first), Reply::Refused(Refusal::UnknownAttempt)));
    world.audit();
}

#[test]
fn nothing_can_be_guessed_before_activation_nor_registered_after() {
    let mut world = World::new(false);
    let [start, finish, active] = world.register(false).try_into().ok().unwrap();
    let which = world.attempt(true);
    let registering = Refusal::WrongState(RecordState::Registering);
    assert!(matches!(world.send(0, which), Reply::Refused(r) if r == registering));
    // The same bytes again get the stored reply; other bytes are refused.
    assert!(matches!(world.ask(&start), Reply::Registered { .. }));
    assert!(matches!(world.ask(&finish), Reply::Uploaded));
    let mut other = start.clone();
    if let Request::RegisterStart { registration, .. } = &mut other {
        registration[0] ^= 1;
    }
    assert!(matches!(world.ask(&other), Reply::Refused(Refusal::Taken)));
    let mut forged = active.clone();
    if let Request::Activate { signature, .. } = &mut forged {
        signature[7] ^= 1;
    }
    assert!(matches!(world.ask(&forged), Reply::Refused(Refusal::BadProof(_))));
    assert!(matches!(world.ask(&active), Reply::Activated(_)));
    assert!(matches!(world.ask(&active), Reply::Activated(_)), "a repeated activation is fine");
    assert!(matches!(world.ask(&start), Reply::Refused(Refusal::Taken)));
    assert!(matches!(world.ask(&finish), Reply::Refused(Refusal::Taken)));
    world.audit();
}

#[test]
fn a_registration_that_is_never_activated_is_dropped() {
    let world = World::new(false);
    let steps = world.register(false);
    world.clock.pass(24 * 3600 + 1);
    let ended = Refusal::WrongState(RecordState::Ended(Ended::Abandoned));
    assert!(matches!(world.ask(&steps[2]), Reply::Refused(refusal) if refusal == ended));
    assert_eq!(world.status(), RecordState::Ended(Ended::Abandoned));
}

#[test]
fn only_the_key_derived_from_k_ends_a_registration() {
    let world = World::new(false);
    world.register(true);
    let (_, mut binding) = ids();
    binding.fleet = world.keys.fleet();
    let retire = |key: &[u8; 32], signed: Retirement, reason: Retirement| Request::Retire {
        ticket: TICKET,
        registration: REGISTRATION,
        reason,
        signature: SigningKey::from_bytes(key).sign(&signed.statement(&binding)).to_bytes(),
    };

    let stranger = world.ask(&retire(&[6; 32], Retirement::Deleted, Retirement::Deleted));
    assert!(matches!(stranger, Reply::Refused(Refusal::BadProof(_))));
    let turned = world.ask(&retire(&SIGNING, Retirement::Superseded, Retirement::Deleted));
    assert!(matches!(turned, Reply::Refused(Refusal::BadProof(_))));
    assert!(matches!(
        world.ask(&retire(&SIGNING, Retirement::Deleted, Retirement::Deleted)),
        Reply::Retired(_)
    ));
    assert!(matches!(
        world.ask(&retire(&SIGNING, Retirement::Deleted, Retirement::Deleted)),
        Reply::Retired(_)
    ));
    assert_eq!(world.status(), RecordState::Ended(Ended::Deleted));
}

#[test]
fn unknown_tickets_get_one_answer_and_no_write() {
    let mut world = World::new(false);
    let which = world.attempt(true);
    assert!(matches!(world.send(0, which), Reply::Refused(Refusal::UnknownTicket)));
    let status = world.ask(&Request::Status { ticket: TICKET });
    assert!(matches!(status, Reply::Refused(Refusal::UnknownTicket)));
    let start = Request::RegisterStart {
        ticket: TICKET,
        registration: REGISTRATION,
        repo: REPO,
        right: Right::Open,
        bind: Bind::Usual,
        terms: TERMS,
        request: [0; REGISTER_REQUEST],
    };
    let request = Registering::start(TICKET, &SystemRandom).request;
    let closed = world.sites[0].handle(&request, &Caller::unknown(false));
    assert!(matches!(closed, Reply::Refused(Refusal::RegistrationClosed)));
    assert!(matches!(world.ask(&start), Reply::Refused(Refusal::Malformed)));
    assert!(world.ledger.log().is_empty());
}

#[test]
fn malformed_guesses_cost_nothing() {
    let world = World::new(false);
    world.register(true);
    // Not a prefix, not a prefix, and an x that is not on the curve.
    for byte in [0, 0xff, 3] {
        let ke1 = Box::new([byte; KE1]);
        let reply =
            world.ask(&Request::Attempt { ticket: TICKET, attempt: [7; 16], terms: TERMS, ke1 });
        assert!(matches!(reply, Reply::Refused(Refusal::Malformed)));
    }
    assert!(matches!(world.status(), RecordState::Active { tries, .. } if tries.left == 9));
}

#[test]
fn delays_grow() {
    let mut world = World::new(true);
    world.register(true);
    // The registration counts as the first of the row.
    for wait in [0, 60, 600, 3600] {
        let which = world.attempt(false);
        let reply = world.send(0, which);
        assert!(matches!(reply, Reply::Challenge { tries, .. } if tries.wait == wait));
        if wait > 0 {
            world.clock.pass(wait - 1);
            let early = world.attempt(true);
            let reply = world.send(1, early);
            assert!(matches!(reply, Reply::Refused(Refusal::TooEarly(tries)) if tries.wait == 1));
            world.clock.pass(1);
        }
    }
    world.audit();
}

#[test]
fn fifty_failures_in_a_life_close_the_record() {
    let mut world = World::new(false);
    world.register(true);
    for round in 0..10 {
        for _ in 0..5 {
            let which = world.attempt(false);
            world.send(0, which);
        }
        let owner = world.attempt(true);
        let reply = world.send(0, owner);
        if round == 9 {
            let closed = Refusal::WrongState(world.status());
            assert!(matches!(reply, Reply::Refused(refusal) if refusal == closed));
            assert!(matches!(world.status(), RecordState::Closed { .. }));
        } else {
            let proof = world.proof(owner).unwrap();
            assert!(matches!(world.redeem(0, owner, proof), Reply::Opened { .. }));
        }
    }
    world.audit();
}
