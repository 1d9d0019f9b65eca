//! A crash at every operation. The oracle: replay is a prefix of the appended
//! records, no shorter than the last sync that returned.

use proptest::prelude::*;

use super::tests::open_at;
use super::*;
use crate::io::sim::{Crash, Fault, SimWorld, Unsynced};

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    WriteOut,
    Sync,
    /// Rotate, and the head that contains what was before becomes durable.
    Checkpoint,
}

#[derive(Default)]
struct Outcome {
    appended: Vec<Vec<u8>>,
    synced: u64,
    contained: u64,
}

fn record(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (number * 31 + i * 7) as u8 | 1).collect()
}

/// Runs until something fails.
fn run(world: &SimWorld, steps: &[Step], outcome: &mut Outcome) -> Result<()> {
    let (journal, _) = open_at(world, outcome.contained)?;
    for step in steps {
        match step {
            Step::Append(len) => {
                let record = record(outcome.appended.len(), *len);
                let sequence = journal.append(&record)?;
                outcome.appended.push(record);
                assert_eq!(sequence, outcome.appended.len() as u64);
            }
            Step::WriteOut => journal.write_out()?,
            Step::Sync => {
                journal.sync(outcome.appended.len() as u64)?;
                outcome.synced = outcome.appended.len() as u64;
            }
            Step::Checkpoint => {
                outcome.contained = journal.rotate()?;
                outcome.synced = outcome.synced.max(outcome.contained);
                journal.release(outcome.contained)?;
            }
        }
    }
    Ok(())
}

/// Opens what the power cut left, checks it, and goes on from there.
fn check(world: &SimWorld, outcome: &mut Outcome, what: &str) {
    let (_, replay) =
        open_at(world, outcome.contained).unwrap_or_else(|error| panic!("{what}: {error}"));
    let last = outcome.contained + replay.records.len() as u64;
    assert!(last >= outcome.synced, "{what}: {last} of {} synced", outcome.synced);
    for (index, (sequence, bytes)) in replay.records.iter().enumerate() {
        assert_eq!(*sequence, outcome.contained + 1 + index as u64, "{what}");
        assert_eq!(*bytes, outcome.appended[*sequence as usize - 1], "{what}");
    }
    outcome.appended.truncate(last as usize);
    outcome.synced = last;
}

fn crashes(world: &SimWorld) -> Vec<Crash> {
    let len = world.last_pending_len();
    let mut data = vec![Unsynced::Kept, Unsynced::Lost];
    data.extend((0..world.pending_writes()).map(Unsynced::OneLost));
    let cuts = [1, 100, len / 3, len / 2, 4096, len.saturating_sub(1)];
    data.extend(cuts.into_iter().filter(|cut| *cut < len).map(Unsynced::LastTorn));
    let both = |data| [true, false].map(|names_kept| Crash { data, names_kept });
    data.into_iter().flat_map(both).collect()
}

/// Crashes after every operation under every policy; after each, opens, runs a
/// second life that crashes too (once, by `second`), and opens again.
fn crash_everywhere(steps: &[Step], stride: usize) -> usize {
    let whole = SimWorld::new();
    run(&whole, steps, &mut Outcome::default()).unwrap();
    let mut cases = 0;
    for stop in (0..whole.operations()).step_by(stride) {
        let world = SimWorld::new();
        world.freeze_at(stop);
        let mut outcome = Outcome::default();
        assert!(run(&world, steps, &mut outcome).is_err());
        for crash in crashes(&world) {
            let what = format!("stopped after {stop}, {crash:?}");
            let mut after = Outcome { appended: outcome.appended.clone(), ..outcome };
            let next = world.crash(crash);
            check(&next, &mut after, &what);
            // The second life, stopped at a place that differs from case to case.
            next.freeze_at(next.operations() + cases as u64 % 23);
            let _ = run(&next, &steps[..steps.len().min(8)], &mut after);
            let choices = crashes(&next);
            let second = choices[cases % choices.len()];
            check(&next.crash(second), &mut after, &format!("{what}, then {second:?}"));
            cases += 1;
        }
    }
    cases
}

#[test]
fn a_crash_at_every_operation_keeps_what_was_synced() {
    use Step::{Append, Checkpoint, Sync, WriteOut};
    let steps = [
        Append(10),
        Append(3000),
        WriteOut,
        Append(200),
        Sync,
        Append(1500),
        WriteOut,
        Append(3900),
        Append(1),
        WriteOut,
        Append(4000),
        Checkpoint,
        Append(50),
        WriteOut,
        Append(60),
        Sync,
        Append(3000),
        Append(3000),
        Checkpoint,
        Append(3000),
        Append(20),
        WriteOut,
        Append(30),
        WriteOut,
    ];
    let cases = crash_everywhere(&steps, 1);
    assert!(cases > 500, "{cases}");
    println!("{cases} crashes");
}

#[test]
fn a_fault_at_every_operation_keeps_what_was_synced() {
    use Step::{Append, Checkpoint, Sync, WriteOut};
    let steps = [
        Append(2000),
        Sync,
        Append(3000),
        WriteOut,
        Append(3000),
        Sync,
        Checkpoint,
        Append(9),
        Sync,
    ];
    let whole = SimWorld::new();
    run(&whole, &steps, &mut Outcome::default()).unwrap();
    for operation in 1..=whole.operations() {
        for fault in [Fault::Io, Fault::NoSpace] {
            for is_opened in [false, true] {
                let world = SimWorld::new();
                world.fail_at(operation, fault);
                let mut outcome = Outcome::default();
                let _ = run(&world, &steps, &mut outcome);
                let what = format!("{fault:?} at {operation}, {is_opened}");
                if is_opened {
                    // The process ended and the next one replays what is in the page cache: it stays.
                    check(&world, &mut outcome, &what);
                }
                for crash in crashes(&world) {
                    let mut after = Outcome { appended: outcome.appended.clone(), ..outcome };
                    check(&world.crash(crash), &mut after, &format!("{what}, {crash:?}"));
                }
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4056usize).prop_map(Step::Append),
        2 => Just(Step::WriteOut),
        2 => Just(Step::Sync),
        1 => Just(Step::Checkpoint),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn longer_random_workloads_keep_what_was_synced(
        steps in proptest::collection::vec(step(), 1..60),
        stride in 1..9usize,
    ) {
        crash_everywhere(&steps, stride);
    }
}
