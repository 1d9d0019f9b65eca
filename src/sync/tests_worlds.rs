//! Worlds of several devices whose folders a sync client carries that is late, brings files in any
//! order, in halves, as empty placeholders, under other names or twice, takes files away and brings
//! them back. Machines lose power at any change of their disks, disks fail, and clocks are wrong.
//! Whatever happens: what was acknowledged, and nobody removed who had seen it, is there in the end;
//! all devices show the same; and none of them was told of damage or of a rollback.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::tests_machines::{Devices, end_of, play_counted, play_world};
use super::tests_steps::{During, EVERYTHING, FOLLOWING, SWEEPING, Step, step};
use crate::io::sim::Fault;
use crate::merge::tests_histories::{Act, FILES, acts, factor};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10 * factor()))]
    #[test]
    fn one_seed_gives_one_world(
        first in acts(10), steps in prop::collection::vec(step(&EVERYTHING), 5..50),
    ) {
        prop_assert!(end_of(&first, &steps) == end_of(&first, &steps));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150 * factor()))]
    #[test]
    fn whatever_clients_and_power_do_nothing_is_lost_and_nobody_is_alarmed(
        first in acts(10), steps in prop::collection::vec(step(&EVERYTHING), 5..50),
    ) {
        play_world(&first, steps)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8 * factor()))]
    #[test]
    fn mounts_that_stay_follow_whatever_happens(
        first in acts(10), steps in prop::collection::vec(step(&FOLLOWING), 100..400),
    ) {
        play_world(&first, steps)?;
    }
}

#[test]
fn whoever_gives_back_nothing_is_lost_and_nobody_is_alarmed() {
    let cases = 60 * factor();
    let swept = Cell::new(0);
    let worlds = (acts(10), prop::collection::vec(step(&SWEEPING), 20..100));
    let played =
        TestRunner::new(ProptestConfig::with_cases(cases)).run(&worlds, |(first, steps)| {
            swept.set(swept.get() + play_counted(&first, steps)?);
            Ok(())
        });
    played.unwrap_or_else(|failed| panic!("{failed}"));
    println!("{} files were removed", swept.get());
    assert!(swept.get() > cases as usize / 10, "{} files were removed", swept.get());
}

/// A mount went on from a head whose content another one names, which came later. Until the next look it
/// said of that content that it was not here.
#[test]
fn what_came_since_the_last_look_is_found() {
    let steps = vec![
        Step::Act(1, vec![Act::Write(3), Act::Write(2)], true),
        Step::Answer(1),
        Step::Act(1, vec![Act::SetXattr(2)], false),
        Step::Publish(1),
        Step::Crash(1, During::Fsync, 0, 0, true),
        Step::Follow(2),
        Step::Open(2, 2),
        Step::WriteOpen(2),
    ];
    play_world(&[], steps).unwrap();
}

/// A head failed to enter, and a client had read it. Power went while the next one was being made, when
/// the copy of the first one had been replaced: "restored or copied" once the client brought it.
#[test]
fn a_head_that_failed_to_enter_and_was_read_is_brought_back() {
    let (mut failed, mut read) = (0, 0);
    for fault in 0..30 {
        for crash in 0..30 {
            let mut devices = Devices::new(&[]);
            devices.step(Step::Act(1, vec![Act::Write(0)], false)).unwrap();
            devices.step(Step::Fault(1, During::Publish, fault, Fault::Io)).unwrap();
            failed += u32::from(
                devices
                    .machine(1)
                    .mounted()
                    .is_some_and(|device| device.fs().progress().trouble.is_some()),
            );
            let known = devices.written.len();
            devices.note_written();
            read += devices.written.len() - known;
            devices.step(Step::Crash(1, During::Publish, crash, 0, false)).unwrap();
            let outcome = devices.finish();
            assert!(outcome.is_ok(), "{fault} {crash}: {outcome:?}");
        }
    }
    assert!(failed > 100 && read > 10, "{failed} {read}");
}

/// A mount stood on three heads while one between them was hidden. Once that was back, two of them said
/// the same: "the journal cannot be replayed: 1 records were made on another state".
#[test]
fn changes_are_replayed_where_fewer_heads_have_the_same() {
    let steps = vec![
        Step::Answer(2),
        Step::Carry(0, 2, 794018920856326040),
        Step::Act(1, vec![Act::Save(0)], false),
        Step::Act(0, vec![Act::Write(0)], false),
        Step::Act(2, vec![Act::Save(0)], false),
        Step::Publish(0),
        Step::Carry(2, 0, 941424283804513894),
        Step::Carry(1, 2, 849691900075415961),
        Step::Mount(1, false),
        Step::Publish(2),
        Step::Act(2, vec![Act::Save(0)], false),
        Step::Crash(1, During::Fsync, 0, 0, true),
        Step::Follow(2),
        Step::Carry(0, 1, 71674298493134196),
        Step::Act(1, vec![Act::Write(0)], false),
        Step::Act(0, vec![Act::Chmod(14, 384)], false),
        Step::Follow(0),
        Step::Carry(2, 0, 1303190912673914948),
        Step::Answer(2),
        Step::Mount(2, false),
        Step::Act(2, vec![Act::Save(0)], false),
        Step::Publish(2),
        Step::Carry(1, 2, 81966526029934047),
        Step::Answer(0),
        Step::Carry(1, 0, 7244299028444666418),
        Step::Hide(1, 2848865842779554171),
        Step::Crash(1, During::Publish, 6, 216, false),
        Step::Act(1, vec![Act::Mkdir(1)], false),
        Step::Fsync(1),
        Step::Fault(1, During::Mount, 0, Fault::Io),
    ];
    play_world(&[], steps).unwrap();
}

/// One device takes a log away from its database and saves the database anew; another one changes the
/// mode of both. The log was shown with the old database only, and that not at all.
#[test]
fn a_log_that_was_taken_away_is_not_hidden_with_its_old_database() {
    let (db, log, elsewhere) = (11, 12, 8);
    assert_eq!([FILES[db], FILES[log], FILES[elsewhere]], ["E/db", "E/db-wal", "db-wal"]);
    let steps = vec![
        Step::Act(0, vec![Act::Write(log)], false),
        Step::Publish(0),
        Step::Carry(1, 0, 636_139_695_964_461_564),
        Step::Mount(1, false),
        Step::Act(1, vec![Act::Rename(log, elsewhere), Act::Save(db)], false),
        Step::Act(0, vec![Act::Chmod(db, 0o600)], false),
    ];
    play_world(&[Act::Write(db)], steps).unwrap();
}

/// A flush of the journal failed and the daemon died: the next one replayed what only the page cache had,
/// and a power cut took it.
#[test]
fn what_a_mount_replayed_survives_although_a_flush_had_failed() {
    let steps = vec![
        Step::Act(0, vec![Act::Write(0)], false),
        Step::Fault(0, During::Fsync, 1, Fault::Io),
        Step::Mount(0, true),
        Step::Crash(0, During::Fsync, 0, 0, false),
    ];
    play_world(&[], steps).unwrap();
}

/// A client left a copy of a head that was given back. It was taken for another branch of its device, and
/// what this one showed differed from what the others did.
#[test]
fn a_copy_of_a_head_that_was_given_back_is_no_branch() {
    let mut steps = vec![Step::Exchange; 4];
    steps.push(Step::Carry(2, 1, 1_730_386_298_077_337_524));
    steps.extend(vec![Step::Exchange; 4]);
    steps.extend([
        Step::Sweep(1, false),
        Step::Exchange,
        Step::Act(0, vec![Act::Mkdir(7)], false),
        Step::Act(2, vec![Act::Save(0)], false),
        Step::Answer(2),
        Step::Exchange,
        Step::Sweep(1, true),
    ]);
    play_world(&[], steps).unwrap();
}

/// What was looked for in vain came within a second after that: the next head has it.
#[test]
fn a_checkpoint_looks_again_for_what_was_missing_just_now() {
    let steps = vec![
        Step::Act(2, vec![Act::Save(9)], true),
        Step::Mount(2, false),
        Step::Answer(1),
        Step::Carry(1, 2, 2_515_494_313_823_384_927),
        Step::Follow(1),
        Step::Act(1, vec![Act::Write(0)], false),
        Step::Hide(1, 3_433_009_610_964_374_840),
        Step::Crash(1, During::Publish, 7, 0, false),
        Step::Answer(1),
        Step::Open(1, 9),
        Step::Show(1),
        Step::WriteOpen(1),
        Step::Publish(1),
    ];
    play_world(&[], steps).unwrap();
}
