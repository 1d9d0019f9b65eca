//! An old copy of the ledger was put back, and an operator counts on in it.

use super::*;

fn left(world: &World) -> u8 {
    match world.status() {
        RecordState::Active { tries, .. } => tries.left,
        other => panic!("{other:?}"),
    }
}

#[test]
fn tries_that_came_back_are_taken_again() {
    let mut world = World::new(false);
    world.register(true);
    let copy = world.ledger.contents();
    for _ in 0..4 {
        let which = world.attempt(false);
        world.send(0, which);
    }
    assert_eq!(left(&world), 5);
    world.ledger.restore(copy.clone());
    assert_eq!(left(&world), 9, "a copy is whole: nothing in it is out of place");
    assert_eq!(world.sites[0].spend(4).unwrap(), 1);
    assert_eq!(left(&world), 5);
    assert_eq!(world.sites[1].spend(0).unwrap(), 0, "at the other sites");
    let owner = world.attempt(true);
    world.send(0, owner);
    let proof = world.proof(owner).unwrap();
    assert!(matches!(world.redeem(0, owner, proof), Reply::Opened { .. }));

    for all in [9, 10, u8::MAX] {
        world.ledger.restore(copy.clone());
        assert_eq!(world.sites[0].spend(all).unwrap(), 1);
        assert!(matches!(world.status(), RecordState::Closed { .. }), "{all}");
        let which = world.attempt(true);
        assert!(matches!(world.send(0, which), Reply::Refused(Refusal::WrongState(_))));
        assert_eq!(world.sites[0].spend(all).unwrap(), 0, "and stays closed");
    }
}

/// The copy was made before the record was activated: activating it again would
/// have given nine tries.
#[test]
fn a_record_that_was_not_active_in_the_copy_has_less_too() {
    for (spend, left_then) in [(4, Some(5)), (u8::MAX, None)] {
        let world = World::new(false);
        let steps = world.register(false);
        assert_eq!(world.sites[0].spend(spend).unwrap(), 1);
        match (world.ask(&steps[2]), left_then) {
            (Reply::Activated(tries), Some(left)) => assert_eq!(tries.left, left),
            (Reply::Refused(Refusal::WrongState(state)), None) => {
                assert_eq!(state, RecordState::Ended(Ended::Abandoned));
            }
            _ => panic!("{spend}"),
        }
    }
}

/// The failures of a life count on.
#[test]
fn what_is_taken_counts_as_failures() {
    let world = World::new(false);
    world.register(true);
    for round in 1..=5 {
        assert_eq!(world.sites[0].spend(1).unwrap(), 1);
        assert_eq!(world.records().last().unwrap().failures, round);
    }
}

/// A record that could not be spent must keep the site from serving.
#[test]
fn a_ledger_that_does_not_answer_is_not_spent() {
    let world = World::new(false);
    world.register(true);
    for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::Late] {
        world.ledger.next_write(fault);
        assert!(world.sites[0].spend(1).is_err());
    }
    // Somebody else's write came first: it is done again, on that.
    world.ledger.next_write(Fault::Race);
    let before = left(&world);
    assert_eq!(world.sites[0].spend(1).unwrap(), 1);
    assert_eq!(left(&world), before - 1);
}
