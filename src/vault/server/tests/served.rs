//! Waits, and clocks that are wrong.

use super::*;

const YEAR: i64 = 365 * 24 * 3600;
const MONTH: i64 = 30 * 24 * 3600;

impl World {
    /// Wrong passwords until the next attempt has to wait; how long, in seconds.
    fn guess_until_told_to_wait(&mut self) -> u64 {
        loop {
            let which = self.attempt(false);
            let Reply::Challenge { tries, .. } = self.send(0, which) else { panic!() };
            if tries.wait > 0 {
                return tries.wait;
            }
        }
    }

    /// The wait that an owner is told by a site; 0 if the owner gets in.
    fn owner_waits(&mut self, site: usize) -> u64 {
        let owner = self.attempt(true);
        match self.send(site, owner) {
            Reply::Refused(Refusal::TooEarly(tries)) => tries.wait,
            Reply::Challenge { .. } => {
                let proof = self.proof(owner).unwrap();
                assert!(matches!(self.redeem(site, owner, proof), Reply::Opened { .. }));
                0
            }
            _ => panic!("neither let in nor told to wait"),
        }
    }

    /// All sites stop, having noted the time if `in_order`, and start after a while that
    /// only the wall clock shows.
    fn starts_anew(&mut self, in_order: bool) {
        if in_order {
            self.sites[0].keep_time().unwrap();
        }
        self.sites = (0..2).map(|_| Arc::new(self.site(true))).collect();
    }
}

/// The clock was a year ahead while wrong passwords came in. Afterwards every attempt
/// was answered with "later", for a year.
#[test]
fn a_clock_that_ran_ahead_locks_nobody_out() {
    for restarted in [false, true] {
        let mut world = World::new(true);
        world.register(true);
        world.clock.set_by(10 * YEAR);
        let wait = world.guess_until_told_to_wait();
        world.clock.set_by(-10 * YEAR);
        if restarted {
            world.starts_anew(true);
        }
        assert_eq!(world.owner_waits(1), wait);
        world.clock.pass(wait);
        assert_eq!(world.owner_waits(1), 0);
        world.audit();
    }
}

#[test]
fn no_wall_clock_shortens_a_wait() {
    for jump in [10 * YEAR, -10 * YEAR, -START, 90, 24 * 3600] {
        for restarted in [false, true] {
            let mut world = World::new(true);
            world.register(true);
            let wait = world.guess_until_told_to_wait();
            world.clock.set_by(jump);
            if restarted {
                world.starts_anew(false);
            }
            assert_eq!(world.owner_waits(0), wait, "{jump} {restarted}");
            world.clock.pass(wait - 1);
            assert_eq!(world.owner_waits(1), 1, "{jump} {restarted}");
            world.clock.pass(1);
            assert_eq!(world.owner_waits(0), 0, "{jump} {restarted}");
        }
    }
}

/// Neither the end of a closed record comes sooner, nor that of a registration, nor that
/// of an invite.
#[test]
fn a_clock_that_is_put_forward_ends_nothing() {
    let mut world = World::new(false);
    world.register(true);
    let invite = world.sites[0].invite(&None, 100).unwrap();
    let begun = Registering::by(Right::Open, [9; 16], [9; 16], &SystemRandom);
    assert!(matches!(world.ask(&begun.request), Reply::Registered { .. }));
    let owner = world.attempt(true);
    world.send(0, owner);
    for _ in 0..8 {
        let which = world.attempt(false);
        world.send(0, which);
    }
    world.clock.set_by(10 * YEAR);
    assert_eq!(world.status(), RecordState::Closed { left: GRACE });
    assert_eq!(world.sites[0].sweep().unwrap().ended, 0);
    let proof = world.proof(owner).unwrap();
    assert!(matches!(world.redeem(1, owner, proof), Reply::Opened { .. }));
    let invited = Registering::by(Right::Invite(invite), [8; 16], [8; 16], &SystemRandom);
    let reply = world.sites[0].handle(&invited.request, &Caller::unknown(false));
    assert!(matches!(reply, Reply::Registered { .. }));
}

/// A vault that was off for a month starts by itself, and waits go on where they were.
#[test]
fn a_vault_that_was_off_goes_on() {
    for in_order in [false, true] {
        let mut world = World::new(true);
        world.register(true);
        let wait = world.guess_until_told_to_wait();
        world.clock.set_by(MONTH);
        world.starts_anew(in_order);
        assert_eq!(world.owner_waits(0), wait);
        world.clock.pass(wait);
        assert_eq!(world.owner_waits(0), 0);
        assert_eq!(world.sites[1].sweep().unwrap().failed, 0);
    }
}

/// A home server that is on for some minutes a day: each start began the wait anew.
#[test]
fn a_long_wait_ends_although_the_vault_is_often_off() {
    let mut world = World::new(true);
    world.register(true);
    let mut wait = 0;
    while wait < 3600 {
        wait = world.guess_until_told_to_wait();
        world.clock.pass(if wait < 3600 { wait } else { 0 });
    }
    let mut starts = 0;
    while world.owner_waits(0) > 0 {
        // Killed, not stopped.
        world.starts_anew(false);
        for _ in 0..2 * KEEP_EVERY / 10 {
            world.clock.pass(10);
            world.sites[0].tend().unwrap();
        }
        starts += 1;
        assert!(starts < 20, "it never ends");
    }
    assert!(starts > 5, "{starts} times ten minutes are no hour");
}

/// One site has counted on while another was cut off.
#[test]
fn a_site_that_is_behind_goes_on_from_what_it_reads() {
    let mut world = World::new(true);
    world.register(true);
    world.clock.pass(100_000);
    let wait = world.guess_until_told_to_wait();
    // It starts at zero, and nobody has noted the time.
    let late = Arc::new(world.site(true));
    world.sites.push(late);
    assert_eq!(world.owner_waits(2), wait);
    world.clock.pass(wait);
    assert_eq!(world.owner_waits(2), 0);
}
