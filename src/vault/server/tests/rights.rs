//! By what right somebody registers, what the staff can do, and the owner's note.

use super::*;
use crate::vault::protocol::Right;

const CLOSED: Refusal = Refusal::RegistrationClosed;

fn is_refused(reply: &Reply, refusal: Refusal) -> bool {
    matches!(reply, Reply::Refused(found) if *found == refusal)
}

fn account(name: &str) -> Caller {
    Caller { open: true, account: Some(name.into()), origin: None }
}

impl World {
    fn start(&self, right: Right, which: u8, caller: &Caller) -> Reply {
        let registering = Registering::by(right, [which; 16], [which; 16], &SystemRandom);
        self.sites[0].handle(&registering.request, caller)
    }

    fn label(&self, ticket: &Ticket) -> Option<String> {
        let name = self.sites[0].name_of(ticket).unwrap();
        self.sites[0].view(&name).unwrap().unwrap().label
    }

    fn binding(&self) -> Binding {
        Binding { repo: REPO, registration: REGISTRATION, fleet: self.keys.fleet() }
    }
}

#[test]
fn an_invite_is_good_for_one_record() {
    let world = World::new(false);
    let nobody = Caller::unknown(false);
    let strange = world.start(Right::Invite([9; 16]), 9, &nobody);
    assert!(is_refused(&strange, Refusal::Invite) && world.ledger.log().is_empty());
    assert!(is_refused(&world.start(Right::Open, 9, &nobody), CLOSED));

    let invite = world.sites[1].invite(&Some("anna".into()), 100).unwrap();
    let right = Right::Invite(invite);
    assert_eq!(world.sites[0].census().unwrap(), Census { invites: 1, ..Census::default() });
    assert!(matches!(world.start(right, 1, &nobody), Reply::Registered { .. }));
    assert_eq!(world.label(&[1; 16]).as_deref(), Some("anna"));
    // The registration was cut off: the invite can be used once more, and only one
    // record comes of it.
    let second = Registering::by(right, REGISTRATION, TICKET, &SystemRandom);
    let reply = world.sites[1].handle(&second.request, &nobody);
    let Reply::Registered { reply, generation, .. } = reply else { panic!("taken again") };
    let first = Request::Status { ticket: [1; 16] };
    let Reply::State(state) = world.ask(&first) else { panic!() };
    assert_eq!(state, RecordState::Ended(Ended::Abandoned));
    let (finish, active) = second.finish(&world.keys, &reply, generation, &SystemRandom);
    for request in [&finish, &active] {
        assert!(!matches!(world.sites[0].handle(request, &nobody), Reply::Refused(_)));
    }
    assert!(is_refused(&world.start(right, 6, &nobody), Refusal::Invite));
    // In an open vault too: who shows an invite is told that it does not count.
    assert!(is_refused(&world.start(right, 6, &Caller::unknown(true)), Refusal::Invite));

    let late = world.sites[0].invite(&None, 100).unwrap();
    world.clock.pass(100);
    assert!(is_refused(&world.start(Right::Invite(late), 4, &nobody), Refusal::Invite));
    assert_eq!(world.sites[0].sweep().unwrap().ended, 1);
}

/// Several at once, at both sites. Who came second kept its name, and was counted, once in
/// 80 times.
#[test]
fn one_of_many_gets_an_invite_that_is_used_at_once() {
    (0..20).for_each(|_| one_of_many_gets_it());
}

fn one_of_many_gets_it() {
    let world = World::new(false);
    let invite = world.sites[0].invite(&None, 100).unwrap();
    std::thread::scope(|scope| {
        for which in 0..8_u8 {
            let site = Arc::clone(&world.sites[usize::from(which % 2)]);
            scope.spawn(move || {
                let right = Right::Invite(invite);
                let id = [which + 1; 16];
                let registering = Registering::by(right, id, id, &SystemRandom);
                site.handle(&registering.request, &Caller::unknown(false));
            });
        }
    });
    let census = world.sites[0].census().unwrap();
    assert!(census.registering <= 1 && census.active == 0, "{census:?}");
    assert!(census.registering + census.ended >= 1, "{census:?}");
}

#[test]
fn an_account_registers_three_times_a_day() {
    let world = World::new(false);
    let anna = account("anna");
    for which in [1, 2, 2, 3] {
        let reply = world.start(Right::Open, which, &anna);
        // The second and its repetition have other blinded passwords.
        assert!(!is_refused(&reply, Refusal::Budget), "{which}");
    }
    assert!(is_refused(&world.start(Right::Open, 4, &anna), Refusal::Budget));
    assert!(matches!(world.start(Right::Open, 4, &account("bert")), Reply::Registered { .. }));
    assert_eq!(world.label(&[4; 16]).as_deref(), Some("bert"));
    world.clock.pass(COUNTED);
    for which in 5..8 {
        assert!(matches!(world.start(Right::Open, which, &anna), Reply::Registered { .. }));
    }
    assert!(is_refused(&world.start(Right::Open, 8, &anna), Refusal::Budget));
    // An account whose name was taken and nothing more is not swept away.
    assert_eq!(REGISTRATIONS, 3);
}

#[test]
fn the_owner_of_a_record_may_register_its_successor() {
    let world = World::new(false);
    world.register(true);
    let nobody = Caller::unknown(false);
    let signed = |key: [u8; 32], old: [u8; 16], registration: [u8; 16], ticket: [u8; 16]| {
        let statement = succession_statement(&world.binding(), &registration, &ticket);
        let signature = SigningKey::from_bytes(&key).sign(&statement).to_bytes();
        Right::Successor { ticket: TICKET, registration: old, signature }
    };
    let wrong = [
        signed([9; 32], REGISTRATION, [1; 16], [1; 16]),
        signed(SIGNING, [8; 16], [1; 16], [1; 16]),
        signed(SIGNING, REGISTRATION, [2; 16], [1; 16]),
        signed(SIGNING, REGISTRATION, [1; 16], [2; 16]),
    ];
    for right in wrong {
        assert!(is_refused(&world.start(right, 1, &nobody), CLOSED));
    }
    let right = signed(SIGNING, REGISTRATION, [1; 16], [1; 16]);
    let name = world.sites[0].name_of(&TICKET).unwrap();
    world.sites[0].apply_staff_action(StaffAction::Freeze, &name).unwrap();
    assert!(is_refused(&world.start(right, 1, &nobody), CLOSED), "not while it is stopped");
    world.sites[0].apply_staff_action(StaffAction::Release, &name).unwrap();
    assert!(matches!(world.start(right, 1, &nobody), Reply::Registered { .. }));
    assert!(matches!(world.status(), RecordState::Active { .. }), "the old one is still there");
    // Where anybody may register, a record that is over is no reason to refuse.
    let gone = Right::Successor { ticket: [7; 16], registration: [7; 16], signature: [7; 64] };
    assert!(matches!(world.start(gone, 5, &Caller::unknown(true)), Reply::Registered { .. }));
}

#[test]
fn the_staff_can_stop_look_and_delete_and_nothing_else() {
    let mut world = World::new(false);
    world.register(true);
    let site = Arc::clone(&world.sites[0]);
    let name = site.name_of(&TICKET).unwrap();
    let before = site.view(&name).unwrap().unwrap();
    assert!(before.state == Some(State::Active) && before.left == (9, 50), "{before}");
    site.apply_staff_action(StaffAction::Freeze, &name).unwrap();
    site.apply_staff_action(StaffAction::Freeze, &name).unwrap();
    for right in [true, false] {
        let which = world.attempt(right);
        assert!(is_refused(&world.send(1, which), Refusal::FrozenByStaff));
    }
    let status = world.ask(&Request::Status { ticket: TICKET });
    assert!(is_refused(&status, Refusal::FrozenByStaff));
    assert_eq!(site.census().unwrap(), Census { active: 1, held: 1, ..Census::default() });
    site.apply_staff_action(StaffAction::Release, &name).unwrap();
    let view = site.view(&name).unwrap().unwrap();
    assert_eq!(view.left, (9, 50), "no try was spent, and none given back");
    let kinds: Vec<EventKind> = view.events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Activated, EventKind::FrozenByStaff, EventKind::Released]);
    let printed = view.to_string();
    assert!(printed.contains("frozen by staff") && printed.lines().count() > 4, "{printed}");

    site.apply_staff_action(StaffAction::Remove, &name).unwrap();
    assert_eq!(world.status(), RecordState::Ended(Ended::Removed));
    assert!(world.records().pop().unwrap().material.is_none());
    for action in [StaffAction::Freeze, StaffAction::Release, StaffAction::Remove] {
        assert!(site.apply_staff_action(action, &name).unwrap_err().contains("over"));
        assert!(site.apply_staff_action(action, &[7; 32]).unwrap_err().contains("no such record"));
    }
    world.audit();
}

/// A record that staff stopped can still be ended by its owner.
#[test]
fn a_stopped_record_is_its_owners_to_end() {
    let world = World::new(false);
    world.register(true);
    let name = world.sites[0].name_of(&TICKET).unwrap();
    world.sites[0].apply_staff_action(StaffAction::Freeze, &name).unwrap();
    let statement = Retirement::Deleted.statement(&world.binding());
    let signature = SigningKey::from_bytes(&SIGNING).sign(&statement).to_bytes();
    let (ticket, registration, reason) = (TICKET, REGISTRATION, Retirement::Deleted);
    let reply = world.ask(&Request::Retire { ticket, registration, reason, signature });
    assert!(matches!(reply, Reply::Retired(Ended::Deleted)));
}

#[test]
fn a_note_follows_the_one_before_and_is_handed_out_to_its_owner() {
    let mut world = World::new(false);
    world.register(true);
    let send = |world: &World, key: [u8; 32], note: &Note| {
        let statement = note_statement(&world.binding(), note.bytes());
        let signature = SigningKey::from_bytes(&key).sign(&statement).to_bytes();
        let (ticket, registration, note) = (TICKET, REGISTRATION, note.clone());
        world.ask(&Request::Note { ticket, registration, note, signature })
    };
    let is = |reply: &Reply, note: &Note| matches!(reply, Reply::Noted(found) if found == note);
    let (first, second) = (Note::new(1, &[1; NOTE_TEXT]), Note::new(2, &[2; NOTE_TEXT]));
    let stranger = send(&world, [9; 32], &first);
    assert!(matches!(stranger, Reply::Refused(Refusal::BadProof(_))));
    let writes = world.ledger.log().len();
    assert!(is(&send(&world, SIGNING, &Note::default()), &Note::default()));
    assert!(is(&send(&world, SIGNING, &second), &Note::default()), "1 is missing");
    assert_eq!(world.ledger.log().len(), writes);
    assert!(is(&send(&world, SIGNING, &first), &first));
    assert!(is(&send(&world, SIGNING, &Note::new(1, &[3; NOTE_TEXT])), &first), "too late");
    assert!(is(&send(&world, SIGNING, &second), &second));
    assert!(is(&send(&world, SIGNING, &Note::new(u64::MAX, &[3; NOTE_TEXT])), &second));
    let which = world.attempt(true);
    assert!(matches!(world.send(0, which), Reply::Challenge { .. }));
    let ke3 = world.proof(which).unwrap();
    let Reply::Opened { note, .. } = world.redeem(1, which, ke3) else { panic!() };
    assert!(note == second);
    world.audit();
}
