//! Behaviour of the journal.

use std::sync::Arc;

use super::record::{FileSeal, Frame, OVERHEAD, PAGE};
use super::*;
use crate::crypto::{Secret, hash, hex};
use crate::io::sim::{Crash, Fault, SimRandom, SimWorld, Unsynced};

pub(super) const SMALL: Options =
    Options { file_size: 8192, max_total: 1 << 20, reserve: 4096, spares: 4 };

pub(super) fn keys() -> JournalKeys {
    let key = |byte| Secret::take(&mut [byte; 32]);
    let epochs = vec![([1; 16], key(0x51)), ([2; 16], key(0x52))];
    JournalKeys { repo: [3; 16], device: [4; 16], epoch: [2; 16], epochs }
}

pub(super) fn open_at(world: &SimWorld, contained: u64) -> Result<(Journal, Replay)> {
    // Salts differ whenever anything of an earlier life survived.
    let all: Vec<u8> = world.paths().iter().flat_map(|path| world.get(path).unwrap()).collect();
    let seed = u64::from_le_bytes(hash(&all)[..8].try_into().unwrap());
    let random = Arc::new(SimRandom::new(seed));
    Journal::open(world.folder("state"), keys(), contained, random, SMALL)
}

fn numbers_of(replay: &Replay) -> Vec<u64> {
    replay.records.iter().map(|record| record.0).collect()
}

/// Where in the world's only used file each record begins.
fn places(world: &SimWorld, path: &str) -> Vec<usize> {
    let bytes = world.get(path).unwrap();
    let number = u64::from_str_radix(&path["state/journal/".len()..][..16], 16).unwrap();
    let seal = FileSeal::open(&keys(), number, &bytes).unwrap();
    let (mut at, mut found) = (PAGE, Vec::new());
    while let Some(frame) = seal.read_frame(&bytes[at..]) {
        found.push(at);
        at += frame.total();
    }
    found
}

fn used_file(world: &SimWorld) -> String {
    let mut logs = world.paths();
    logs.retain(|path| !path.ends_with("spare") && !places(world, path).is_empty());
    assert_eq!(logs.len(), 1, "{logs:?}");
    logs.remove(0)
}

#[test]
fn records_survive_a_reopen() {
    let world = SimWorld::new();
    let (journal, replay) = open_at(&world, 0).unwrap();
    assert_eq!(replay, Replay::default());
    for i in 0..50u64 {
        assert_eq!(journal.append(&vec![i as u8; i as usize * 20]).unwrap(), i + 1);
    }
    journal.sync(50).unwrap();
    assert!(journal.bytes() > 24_000 && journal.durable_sequence() == 50);
    for contained in [0, 20, 50] {
        let (journal, replay) = open_at(&world.kill(), contained).unwrap();
        assert_eq!(numbers_of(&replay), (contained + 1..=50).collect::<Vec<_>>());
        assert!(!replay.torn_tail);
        assert!(
            replay
                .records
                .iter()
                .all(|(n, bytes)| *bytes == vec![(n - 1) as u8; (n - 1) as usize * 20])
        );
        assert_eq!(journal.append(b"next").unwrap(), 51);
    }
    let (_, replay) = open_at(&world.kill(), 77).unwrap();
    assert!(replay.records.is_empty());
}

/// A killed process leaves its writes in the page cache, where the next one
/// reads them; a power cut after that must not take what lies below newer ones.
#[test]
fn what_was_replayed_is_durable_before_what_follows() {
    let world = SimWorld::new();
    let (journal, _) = open_at(&world, 0).unwrap();
    journal.append(b"one").unwrap();
    journal.write_out().unwrap();
    drop(journal);
    let (journal, replay) = open_at(&world, 0).unwrap();
    assert_eq!(numbers_of(&replay), [1]);
    assert_eq!(journal.append(b"two").unwrap(), 2);
    journal.sync(2).unwrap();
    let cut = world.crash(Crash { data: Unsynced::Lost, names_kept: false });
    assert_eq!(numbers_of(&open_at(&cut, 0).unwrap().1), [1, 2]);
}

/// A process ended after it had renamed a log to a spare, before that name was durable: the next one
/// wrote a header over the log that a power cut brought back.
#[test]
fn a_spare_is_durable_before_its_header_is_written_over() {
    let last = SimWorld::new();
    drop(open_at(&last, 0).unwrap());
    let opening = last.operations();
    for stop in opening..2 * opening {
        for after in 0..opening {
            let world = SimWorld::new();
            drop(open_at(&world, 0).unwrap());
            world.fail_at(stop, Fault::Io);
            drop(open_at(&world, 0));
            world.clear_faults();
            world.freeze_at(world.operations() + after);
            drop(open_at(&world, 0));
            for names_kept in [false, true] {
                let world = world.crash(Crash { data: Unsynced::Kept, names_kept });
                let opened = open_at(&world, 0).map(|(_, replay)| replay);
                assert_eq!(opened.unwrap(), Replay::default(), "{stop} failed, and {after} more");
            }
        }
    }
}

#[test]
fn numbers_go_on_after_what_a_head_contains() {
    let world = SimWorld::new();
    let (journal, _) = open_at(&world, 7).unwrap();
    assert_eq!(journal.append(b"a").unwrap(), 8);
    journal.sync(8).unwrap();
    let world = world.kill();
    let (journal, replay) = open_at(&world, 20).unwrap();
    assert!(replay.records.is_empty());
    assert_eq!(journal.append(b"b").unwrap(), 21);
    journal.sync(21).unwrap();
    assert_eq!(numbers_of(&open_at(&world.kill(), 20).unwrap().1), [21]);
    assert!(matches!(open_at(&world.kill(), 8), Err(JournalError::Damaged { .. })));
}

#[test]
fn a_torn_tail_is_dropped_and_its_number_used_again() {
    let world = SimWorld::new();
    let (journal, _) = open_at(&world, 0).unwrap();
    for _ in 0..4 {
        journal.append(&[7; 100]).unwrap();
    }
    journal.write_out().unwrap();
    let path = used_file(&world);
    let third = places(&world, &path)[2];
    world.tamper(&path, |bytes| bytes[third + 30] ^= 1);
    let (journal, replay) = open_at(&world, 0).unwrap();
    assert_eq!((numbers_of(&replay), replay.torn_tail), (vec![1, 2], true));
    // The old file still has a valid record 4 after the bad one.
    assert_eq!(journal.append(b"new").unwrap(), 3);
    journal.sync(3).unwrap();
    assert_eq!(journal.append(b"newer").unwrap(), 4);
    journal.sync(4).unwrap();
    let (_, replay) = open_at(&world.kill(), 0).unwrap();
    assert_eq!((numbers_of(&replay), replay.torn_tail), (vec![1, 2, 3, 4], false));
    assert_eq!(replay.records[2].1, b"new");
}

#[test]
fn a_bad_record_that_a_later_one_calls_durable_is_damage() {
    for (bad, contained, damage) in [(0, 0, true), (1, 0, true), (2, 0, false), (1, 2, false)] {
        let world = SimWorld::new();
        let (journal, _) = open_at(&world, 0).unwrap();
        journal.append(b"one").unwrap();
        journal.append(b"two").unwrap();
        journal.sync(2).unwrap();
        journal.append(b"three").unwrap();
        journal.append(b"four").unwrap();
        journal.write_out().unwrap();
        let path = used_file(&world);
        let place = places(&world, &path)[bad];
        for garbage in [0, 4, 9, 20] {
            let world = world.kill();
            world.tamper(&path, |bytes| bytes[place + garbage] ^= 0x81);
            let result = open_at(&world, contained);
            let damaged = matches!(result, Err(JournalError::Damaged { .. }));
            assert_eq!(damaged, damage, "record {bad}, byte {garbage}");
            if contained == 2 {
                assert_eq!(numbers_of(&result.unwrap().1), [3, 4]);
            }
        }
    }
}

#[test]
fn a_missing_file_in_between_is_damage() {
    let world = SimWorld::new();
    let (journal, _) = open_at(&world, 0).unwrap();
    for _ in 0..3 {
        journal.append(&[1; 3000]).unwrap();
        journal.sync(u64::MAX).unwrap();
        journal.rotate().unwrap();
    }
    let folder = world.folder("state");
    let logs: Vec<_> = world.paths().into_iter().filter(|path| path.ends_with("log")).collect();
    let second = &logs[1]["state/".len()..];
    crate::io::PrivateFolder::remove(&*folder, second).unwrap();
    assert!(matches!(open_at(&world.kill(), 0), Err(JournalError::Damaged { .. })));
}

#[test]
fn a_recycled_file_never_replays_old_records() {
    let world = SimWorld::new();
    let (journal, _) = open_at(&world, 0).unwrap();
    for round in 0..30u8 {
        for _ in 0..3 {
            journal.append(&[round; 500]).unwrap();
        }
        journal.sync(u64::MAX).unwrap();
        let contained = journal.rotate().unwrap();
        journal.append(&[round; 10]).unwrap();
        journal.release(contained).unwrap();
        journal.sync(u64::MAX).unwrap();
        let (_, replay) = open_at(&world.kill(), contained).unwrap();
        assert_eq!(replay.records, [(contained + 1, vec![round; 10])]);
    }
    assert!(world.paths().len() <= 8, "{:?}", world.paths());
}

#[test]
fn waiting_threads_share_flushes() {
    let world = SimWorld::new();
    let (journal, _) = open_at(&world, 0).unwrap();
    let before = world.data_syncs();
    let barrier = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let last = journal.append(b"record").unwrap();
                barrier.wait();
                journal.sync(last).unwrap();
                assert!(journal.durable_sequence() >= last);
            });
        }
    });
    // All were appended before anyone asked: the first flush serves everybody.
    assert_eq!(world.data_syncs() - before, 1);
    assert_eq!(open_at(&world.kill(), 0).unwrap().1.records.len(), 8);
}

#[test]
fn a_failed_write_or_sync_stops_the_journal_until_it_is_opened_again() {
    for step in 1..=2 {
        let world = SimWorld::new();
        let (journal, _) = open_at(&world, 0).unwrap();
        journal.append(b"one").unwrap();
        world.fail_at(world.operations() + step, Fault::Io);
        assert!(matches!(journal.sync(1), Err(JournalError::Failed { .. })));
        assert!(journal.failed().is_some());
        assert!(matches!(journal.append(b"two"), Err(JournalError::Failed { .. })));
        assert!(matches!(journal.sync(1), Err(JournalError::Failed { .. })));
        assert!(journal.write_out().is_err() && journal.rotate().is_err());
        assert!(journal.release(1).is_err());
        open_at(&world.kill(), 0).unwrap().0.append(b"three").unwrap();
    }
}

#[test]
fn a_full_disk_is_answered_before_acknowledgement_and_the_reserve_holds() {
    let world = SimWorld::new();
    let (journal, _) = open_at(&world, 0).unwrap();
    world.set_capacity(1);
    let mut taken = 0;
    loop {
        match journal.append(&[1; 100]) {
            Ok(sequence) => taken = sequence,
            Err(JournalError::Full) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(taken > 0);
    for _ in 0..20 {
        taken = journal.append_pieces(&[&[2; 100]], true).unwrap();
    }
    journal.sync(taken).unwrap();
    assert_eq!(journal.failed(), None);
    let contained = journal.rotate().unwrap();
    journal.release(contained).unwrap();
    assert_eq!(journal.append(&[3; 100]).unwrap(), taken + 1);
    journal.sync(taken + 1).unwrap();
    assert_eq!(numbers_of(&open_at(&world.kill(), contained).unwrap().1), [taken + 1]);
}

#[test]
fn records_too_long_are_refused() {
    let (journal, _) = open_at(&SimWorld::new(), 0).unwrap();
    let limit = journal.record_max();
    journal.append(&vec![0; limit]).unwrap();
    assert!(matches!(journal.append(&vec![0; limit + 1]), Err(JournalError::TooLarge { .. })));
}

#[test]
fn other_devices_epochs_and_versions_are_named() {
    let world = SimWorld::new();
    open_at(&world, 0).unwrap().0.append(b"x").unwrap();
    let open = |keys: JournalKeys| {
        let random = Arc::new(SimRandom::new(9));
        Journal::open(world.kill().folder("state"), keys, 0, random, SMALL).err().unwrap()
    };
    let other = JournalKeys { device: [5; 16], ..keys() };
    assert!(matches!(open(other), JournalError::Foreign { .. }));
    let mut other = keys();
    other.epochs.truncate(1);
    other.epoch = [1; 16];
    assert!(matches!(open(other), JournalError::UnknownEpoch { .. }));
    let mut other = keys();
    other.epochs[1].1 = Secret::take(&mut [9; 32]);
    assert!(matches!(open(other), JournalError::Damaged { .. }));
}

#[test]
fn no_truncation_and_no_bit_flip_panics() {
    let world = SimWorld::new();
    let (journal, _) = open_at(&world, 0).unwrap();
    for size in [0, 1, 60] {
        let last = journal.append(&vec![5; size]).unwrap();
        journal.sync(last).unwrap();
    }
    let path = used_file(&world);
    let bytes = world.get(&path).unwrap();
    let number = u64::from_str_radix(&path["state/journal/".len()..][..16], 16).unwrap();
    let original = [(1, vec![]), (2, vec![5]), (3, vec![5; 60])];
    let keys = keys();
    let read = |bytes: &[u8]| {
        if let Ok(file) = replay::read_file(&keys, "x", number, bytes, 0, 1) {
            assert!(original.starts_with(&file.records));
        }
    };
    for len in (0..200).chain(PAGE - 2..PAGE + 300) {
        read(&bytes[..len]);
    }
    for at in (0..128).chain(PAGE..PAGE + 61 + 3 * OVERHEAD) {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            read(&bad);
        }
    }
}

#[test]
fn nothing_readable_reaches_the_disk() {
    let world = SimWorld::new();
    let (journal, _) = open_at(&world, 0).unwrap();
    journal.append(b"a secret of the owner").unwrap();
    journal.sync(1).unwrap();
    for path in world.paths() {
        let bytes = world.get(&path).unwrap();
        assert!(!bytes.windows(8).any(|window| window == b"a secret" || window == [0x52; 8]));
    }
}

/// The bytes of a header and a record, fixed for good.
#[test]
fn the_bytes_of_a_record_are_known() {
    let mut keys = keys();
    keys.epoch = [1; 16];
    let (mut block, seal) = FileSeal::create(&keys, 9, &[6; 32]);
    assert_eq!(block.len(), PAGE);
    block.truncate(128);
    let frame = Frame { sequence: 5, len: 3 };
    let mut record = seal.frame(frame).to_vec();
    record.extend_from_slice(&[0; 8]);
    record.extend_from_slice(b"abc");
    record.extend_from_slice(&[0; 16]);
    assert_eq!(seal.seal(&mut record, 4), frame);
    assert_eq!(hex(&block[104..]), "6231e46ab48e75e8ad01a8d046a6ebbf4241fed657868ee2");
    assert_eq!(
        hex(&record),
        "6231e46a03000000a801a8d046a6ebbf6806cab19cb652b11cd3e039bb8c34be16c28d95d8893a0c42f450"
    );
}

/// Each checkpoint that failed began a new file for the one record that came
/// after it. A minute of full REPO used up the whole journal with next to
/// nothing in it, and then everything got ENOSPC.
#[test]
fn rotating_again_and_again_uses_up_no_files() {
    let world = SimWorld::new();
    let (journal, _) = open_at(&world, 0).unwrap();
    for number in 1..=1000 {
        assert_eq!(journal.append(&[7; 10]).unwrap(), number);
        assert_eq!(journal.rotate().unwrap(), number);
    }
    journal.sync(1000).unwrap();
    let (_, replay) = open_at(&world.kill(), 0).unwrap();
    assert_eq!(numbers_of(&replay), (1..=1000).collect::<Vec<_>>());
}
