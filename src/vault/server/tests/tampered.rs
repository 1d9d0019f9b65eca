//! Somebody who can write to the ledger, but has no keys, puts values back: the
//! tries of a record must not come back with them.

use super::*;

const TAMPERED: Refusal = Refusal::Tampered;

fn refused(reply: &Reply, with: Refusal) -> bool {
    matches!(reply, Reply::Refused(refusal) if *refusal == with)
}

impl World {
    fn name(&self) -> Name {
        self.ledger.list(None, 1).unwrap()[0]
    }

    fn newest(&self) -> Value {
        self.ledger.read(&self.name()).unwrap().unwrap().value
    }

    fn guess(&mut self, times: usize) {
        for _ in 0..times {
            let which = self.attempt(false);
            assert!(matches!(self.send(0, which), Reply::Challenge { .. }));
        }
    }

    /// Nothing is told, evaluated, refilled or written any more.
    fn assert_frozen(&mut self, owner: usize, proof: [u8; KE3]) {
        let writes = self.ledger.log().len();
        for right in [true, false] {
            let which = self.attempt(right);
            assert!(refused(&self.send(0, which), TAMPERED));
        }
        assert!(refused(&self.send(1, owner), TAMPERED), "not even a stored KE2");
        assert!(refused(&self.redeem(0, owner, proof), TAMPERED));
        assert!(refused(&self.ask(&Request::Status { ticket: TICKET }), TAMPERED));
        self.clock.pass(2 * GRACE);
        let swept = Swept { names: 1, ..Swept::default() };
        assert_eq!(self.sites[0].sweep().unwrap(), swept);
        let census = Census { frozen: 1, ..Census::default() };
        assert_eq!(self.sites[0].census().unwrap(), census);
        assert_eq!(self.ledger.log().len(), writes);
    }
}

#[derive(Clone, Copy, Debug)]
enum Back {
    Put,
    DeleteAndPut,
    Twice,
}

const WAYS: [Back; 3] = [Back::Put, Back::DeleteAndPut, Back::Twice];

impl World {
    fn put_back(&self, how: Back, value: &Value) {
        let name = self.name();
        match how {
            Back::Put => self.ledger.put(&name, value),
            Back::DeleteAndPut => {
                self.ledger.delete(&name);
                self.ledger.put(&name, value);
            }
            Back::Twice => {
                self.ledger.put(&name, value);
                self.ledger.put(&name, value);
            }
        }
    }
}

#[test]
fn an_old_value_put_back_freezes_the_record() {
    for how in WAYS {
        let mut world = World::new(false);
        world.register(true);
        let owner = world.attempt(true);
        world.send(0, owner);
        let proof = world.proof(owner).unwrap();
        let full = world.newest();
        world.guess(4);
        world.put_back(how, &full);
        world.assert_frozen(owner, proof);
    }
}

/// It is the newest value, and would open; but who can delete and put can do so
/// with another.
#[test]
fn the_newest_value_put_again_freezes_the_record_too() {
    for how in WAYS {
        let mut world = World::new(false);
        world.register(true);
        let owner = world.attempt(true);
        world.send(0, owner);
        let proof = world.proof(owner).unwrap();
        world.put_back(how, &world.newest());
        world.assert_frozen(owner, proof);
    }
}

#[test]
fn a_dead_record_stays_dead() {
    for how in WAYS {
        let mut world = World::new(false);
        world.register(true);
        let owner = world.attempt(true);
        world.send(0, owner);
        let proof = world.proof(owner).unwrap();
        world.guess(7);
        let last = world.newest();
        world.guess(1);
        world.clock.pass(GRACE);
        assert_eq!(world.sites[0].sweep().unwrap().ended, 1);
        assert_eq!(world.status(), RecordState::Ended(Ended::Exhausted));
        world.put_back(how, &last);
        world.assert_frozen(owner, proof);
    }
}

/// The value of the first evaluation could not state what the ledger would
/// report of it. Deleted and put back, it took another upload, and its owner,
/// who was somebody else, had the OPRF key of the record evaluated nine more
/// times.
#[test]
fn a_registration_cannot_be_taken_up_again_after_activation() {
    for how in WAYS {
        for stored in [false, true] {
            let world = World::new(false);
            let steps = world.register(true);
            let log = world.ledger.log();
            let open = |(name, value): &(Name, Value)| {
                Record::decode(&open_value(&*world.keys, name, value).ok().unwrap()).unwrap().state
            };
            let wanted = if stored { State::Stored } else { State::Started };
            let old = log.iter().find(|entry| open(entry) == wanted).unwrap().1.clone();
            world.put_back(how, &old);
            for step in &steps {
                assert!(refused(&world.ask(step), TAMPERED), "{how:?}");
            }
        }
    }
}

/// What takes a name is worth nothing: put back, it is evaluated under another
/// key, which is another registration.
#[test]
fn a_reservation_put_back_gives_no_second_evaluation() {
    let world = World::new(false);
    let steps = world.register(true);
    let first = world.records()[1].material.as_ref().unwrap().credential;
    let reservation = world.ledger.log()[0].1.clone();
    world.put_back(Back::Put, &reservation);
    assert!(refused(&world.ask(&steps[0]), TAMPERED));
    world.put_back(Back::DeleteAndPut, &reservation);
    assert!(matches!(world.ask(&steps[0]), Reply::Registered { .. }));
    let again = world.records().pop().unwrap().material.as_ref().unwrap().credential;
    assert_ne!(again, first);
}

/// A site that died after it took the name, before it evaluated.
#[test]
fn a_reservation_is_taken_up_by_any_site_and_ends_by_itself() {
    let world = World::new(false);
    let request = world.register(false).remove(0);
    let world = World::new(false);
    // The answer to the first write is lost.
    world.ledger.next_write(Fault::CrashAfter);
    assert!(refused(&world.ask(&request), Refusal::TryLater));
    assert_eq!(world.status(), RecordState::Registering);
    let mut other = request.clone();
    if let Request::RegisterStart { registration, .. } = &mut other {
        registration[0] ^= 1;
    }
    assert!(refused(&world.ask(&other), Refusal::Taken));
    // The name was given to it when it asked first.
    assert!(matches!(
        world.sites[1].handle(&request, &Caller::unknown(false)),
        Reply::Registered { .. }
    ));

    let world = World::new(false);
    world.ledger.next_write(Fault::CrashAfter);
    world.ask(&request);
    world.clock.pass(24 * 3600 + 1);
    assert_eq!(world.sites[0].sweep().unwrap(), Swept { names: 1, ended: 1, ..Swept::default() });
    assert_eq!(world.status(), RecordState::Ended(Ended::Abandoned));
}

#[test]
fn a_value_of_another_name_or_of_nobody_freezes_the_record() {
    let mut world = World::new(false);
    world.register(true);
    let owner = world.attempt(true);
    world.send(0, owner);
    let name = world.name();
    let mut other = name;
    other[0] ^= 1;
    let value = world.newest();
    world.ledger.put(&other, &value);
    let mut broken = value;
    broken[1000] ^= 1;
    world.ledger.put(&name, &broken);
    let which = world.attempt(true);
    assert!(refused(&world.send(0, which), TAMPERED));
    let census = Census { unreadable: 2, ..Census::default() };
    assert_eq!(world.sites[0].census().unwrap(), census);
}

/// Who owns the record can still have it destroyed.
#[test]
fn the_owner_can_end_a_frozen_record() {
    for how in WAYS {
        let mut world = World::new(false);
        world.register(true);
        let full = world.newest();
        world.guess(1);
        world.put_back(how, &full);
        let (_, mut binding) = ids();
        binding.fleet = world.keys.fleet();
        let retire = |key: [u8; 32]| {
            let statement = Retirement::Deleted.statement(&binding);
            Request::Retire {
                ticket: TICKET,
                registration: REGISTRATION,
                reason: Retirement::Deleted,
                signature: SigningKey::from_bytes(&key).sign(&statement).to_bytes(),
            }
        };
        let stranger = world.ask(&retire([9; 32]));
        assert!(matches!(stranger, Reply::Refused(Refusal::BadProof(_))));
        assert!(matches!(world.ask(&retire(SIGNING)), Reply::Retired(Ended::Deleted)));
        assert_eq!(world.status(), RecordState::Ended(Ended::Deleted));
        let last = world.records().pop().unwrap();
        assert!(last.material.is_none());
    }
}

/// A site read the value before it was put back, and writes after.
#[test]
fn a_swap_does_not_go_over_what_was_put_back_meanwhile() {
    let mut world = World::new(false);
    world.register(true);
    let entry = world.ledger.read(&world.name()).unwrap().unwrap();
    world.put_back(Back::Put, &entry.value);
    let name = world.name();
    let outcome = world.ledger.swap(&name, Some(entry.revision), &entry.value, false).ok().unwrap();
    assert!(matches!(outcome, Swap::Lost));
    let which = world.attempt(false);
    assert!(refused(&world.send(0, which), TAMPERED));
}
