//! Strangers who know a ticket prove paid attempts wrong at every site of a fleet on etcd, each
//! proof a write to the owner's record: how long the owner's opening takes meanwhile.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use amberfs::io::{SystemClock, SystemRandom};
use amberfs::vault::client::{Client, LoggingIn, Pin};
use amberfs::vault::line::{Greeting, Timeouts};
use amberfs::vault::protocol::{KE3, Locator, PROOFS, Password, Refusal, Reply, Request};

use crate::fleet::{Fleet, Plan, SITES, has_etcd};
use crate::fleet_faults::{REPO, RIGHT, WRONG, registered};
use crate::world::factor;

/// Openings of the owner that are measured, times the factor up to two: a record bears 50
/// failures in its life.
const OPENINGS: usize = 3;
/// Strangers at each site.
const STRANGERS: usize = 8;
/// Attempts that strangers pay for before each opening. Delays are off here and a record has
/// ten tries: they leave the owner two.
const PAID: usize = 8;
/// The longest that an opening may take: a client asks so long. Where an opening alone is slow, on a
/// busy machine, it may take this many times that.
const LONGEST: Duration = Duration::from_secs(20);
const SLOWER: u32 = 20;
/// How long a stranger tries to pay for an attempt.
const PAYING: Duration = Duration::from_secs(60);

/// The proofs that strangers send at present.
type Proofs = Mutex<Vec<Request>>;

fn password(text: &str) -> Password {
    Password::new(text.as_bytes()).unwrap()
}

/// Pays for an attempt at `site`, and returns a wrong proof of it.
fn wrong_proof(fleet: &Plan, locator: &Locator, site: usize) -> Request {
    let connect = || {
        let greeting =
            Greeting::open(&fleet.address(site).endpoints()[0], &Timeouts::default()).ok()?;
        greeting.verify(fleet.fingerprint, 0).ok()
    };
    let end = Instant::now() + PAYING;
    let mut request = None;
    loop {
        assert!(Instant::now() < end, "the attempt could not be paid for");
        // A machine that is busy with all sites at once may let a connection go.
        let Some(mut channel) = connect() else { continue };
        let request = request.get_or_insert_with(|| {
            let manifest = channel.manifest();
            let step = LoggingIn::start(manifest, locator, &REPO, &password(WRONG), &SystemRandom);
            step.ok().unwrap().0
        });
        // Sent again, the same request is answered as before, and pays nothing.
        match channel.call(request) {
            Ok(Reply::Challenge { .. }) => break,
            // The proofs of the attempts before it are still being written.
            Ok(Reply::Refused(Refusal::TryLater)) | Err(_) => {}
            Ok(Reply::Refused(why)) => panic!("the attempt is not paid for: {why:?}"),
            Ok(_) => panic!("an answer to another question"),
        }
    }
    let request = request.expect("it was sent");
    let Request::Attempt { ticket, attempt, .. } = request else { panic!("an attempt") };
    Request::Redeem { ticket, attempt, ke3: [8; KE3] }
}

/// Sends the proofs in turn to one site until `stop`, on connection after connection.
fn disturb(host: &str, fleet: &Plan, proofs: &Proofs, stop: &AtomicBool, wrong: &AtomicUsize) {
    let next = |number: usize| {
        let proofs = proofs.lock().unwrap_or_else(PoisonError::into_inner);
        proofs.get(number % proofs.len().max(1)).cloned()
    };
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(greeting) = Greeting::open(host, &Timeouts::default()) else { continue };
        let Ok(mut channel) = greeting.verify(fleet.fingerprint, 0) else { continue };
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let Some(proof) = next(number) else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            match channel.call(&proof) {
                Ok(Reply::Refused(Refusal::BadProof(_))) => {
                    wrong.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Reply::Refused(_)) => {}
                // A connection bears so many requests; another one follows.
                _ => break,
            }
        }
    }
}

/// How long an opening by the right password takes.
fn open(fleet: &Plan, locator: &Locator) -> Duration {
    let pin = Pin { fingerprint: fleet.fingerprint, epoch: 0 };
    let started = Instant::now();
    let opened = Client::new(&SystemRandom, &SystemClock, Timeouts::default()).unlock(
        locator,
        &REPO,
        &password(RIGHT),
        pin,
    );
    let took = started.elapsed();
    if let Err(error) = opened {
        panic!("the owner was kept out for {took:.1?}: {error}");
    }
    took
}

/// The median and the longest.
fn ends(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

#[test]
fn strangers_at_every_site_do_not_keep_the_owner_out() {
    if !has_etcd("contended") {
        return;
    }
    let openings = OPENINGS * factor().clamp(1, 2);
    let mut fleet = Fleet::new(false);
    let locator = registered(&mut fleet);
    let alone = ends((0..openings).map(|_| open(&fleet, &locator)).collect());
    let proofs = Proofs::default();
    let (stop, wrong) = (AtomicBool::new(false), AtomicUsize::new(0));
    let crowded = std::thread::scope(|scope| {
        for number in 0..SITES * STRANGERS {
            let host = fleet.address(number % SITES).endpoints()[0].clone();
            let (fleet, proofs, stop, wrong) = (&*fleet, &proofs, &stop, &wrong);
            scope.spawn(move || disturb(&host, fleet, proofs, stop, wrong));
        }
        let times = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let opening = |_| {
                let fresh = (0..PAID).map(|at| wrong_proof(&fleet, &locator, at % SITES)).collect();
                *proofs.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
                let took = open(&fleet, &locator);
                proofs.lock().unwrap_or_else(PoisonError::into_inner).clear();
                took
            };
            (0..openings).map(opening).collect()
        }));
        stop.store(true, Ordering::Relaxed);
        ends(times.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let wrong = wrong.load(Ordering::Relaxed);
    println!(
        "contended: an opening takes {:.2?} (median), {:.2?} at most; beside {STRANGERS} strangers \
         at each of {SITES} sites, who proved {wrong} times, {:.2?} and {:.2?}",
        alone.0, alone.1, crowded.0, crowded.1
    );
    assert!(wrong > openings * PAID, "the owner was not disturbed");
    assert!(wrong <= openings * PAID * usize::from(PROOFS), "{wrong} wrong proofs were written");
    let longest = LONGEST.max(alone.1 * SLOWER);
    assert!(crowded.1 < longest, "an opening took {:.1?}, alone {:.1?}", crowded.1, alone.1);
}
