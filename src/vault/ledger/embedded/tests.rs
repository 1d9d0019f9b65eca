use super::*;
use crate::io::DirFolder;
use crate::io::sim::{Crash, Fault, SimWorld, Unsynced};
use proptest::prelude::*;
use std::os::unix::fs::FileExt;

fn value(byte: u8) -> Value {
    Box::new([byte; VALUE_SIZE])
}

fn fresh() -> (tempfile::TempDir, DirFolder) {
    let dir = tempfile::tempdir().unwrap();
    let folder = DirFolder::new(dir.path());
    EmbeddedLedger::create(&folder).unwrap();
    (dir, folder)
}

fn swap(ledger: &EmbeddedLedger, name: u8, expected: Option<Revision>, byte: u8) -> bool {
    matches!(ledger.swap(&[name; 32], expected, &value(byte), false).unwrap(), Swap::Written(_))
}

fn read(ledger: &EmbeddedLedger, name: u8) -> Option<(Revision, u8)> {
    ledger.read(&[name; 32]).unwrap().map(|entry| (entry.revision, entry.value[0]))
}

#[test]
fn values_survive_opening_again() {
    let (_dir, folder) = fresh();
    let ledger = EmbeddedLedger::open(&folder).unwrap();
    assert!(swap(&ledger, 1, None, 10));
    assert!(swap(&ledger, 2, None, 20));
    let (revision, _) = read(&ledger, 1).unwrap();
    assert!(swap(&ledger, 1, Some(revision), 11));
    assert!(!swap(&ledger, 1, Some(revision), 12), "an old revision loses");
    assert!(!swap(&ledger, 1, None, 12), "a name is there already");
    assert!(!swap(&ledger, 3, Some(revision), 12), "a name is not there");
    drop(ledger);
    let ledger = EmbeddedLedger::open(&folder).unwrap();
    assert_eq!(read(&ledger, 1).map(|(_, byte)| byte), Some(11));
    assert_eq!(read(&ledger, 2).map(|(_, byte)| byte), Some(20));
    assert_eq!(ledger.list(None, 10).unwrap(), [[1; 32], [2; 32]]);
    assert_eq!(ledger.list(Some(&[1; 32]), 10).unwrap(), [[2; 32]]);
    assert!(EmbeddedLedger::create(&folder).is_err(), "a ledger is never replaced");
}

/// What a record states about itself must still be so after opening anew.
#[test]
fn a_name_keeps_its_lineage() {
    let (_dir, folder) = fresh();
    let ledger = EmbeddedLedger::open(&folder).unwrap();
    assert!(swap(&ledger, 1, None, 10) && swap(&ledger, 2, None, 20));
    let lineage = |ledger: &EmbeddedLedger| ledger.read(&[2; 32]).unwrap().unwrap().lineage;
    assert_eq!(lineage(&ledger), Lineage { created: Revision(2), version: 1 });
    let (revision, _) = read(&ledger, 2).unwrap();
    assert!(swap(&ledger, 2, Some(revision), 21));
    drop(ledger);
    let ledger = EmbeddedLedger::open(&folder).unwrap();
    assert_eq!(lineage(&ledger), Lineage { created: Revision(2), version: 2 });
    assert_eq!(ledger.head().unwrap(), Head { cluster: 0, revision: Revision(3) });
}

/// Pages of before had zeros there, and so have the records in them.
#[test]
fn a_page_of_before_counts_from_zero() {
    let (dir, folder) = fresh();
    let page = encode_page(&[1; 32], Revision(7), Lineage::default(), &value(1), false);
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join(FILE)).unwrap();
    file.write_all_at(&page, offset(0, 0)).unwrap();
    let ledger = EmbeddedLedger::open(&folder).unwrap();
    assert_eq!(ledger.read(&[1; 32]).unwrap().unwrap().lineage, Lineage::default());
    assert!(swap(&ledger, 1, Some(Revision(7)), 2));
    let lineage = ledger.read(&[1; 32]).unwrap().unwrap().lineage;
    assert_eq!(lineage, Lineage { created: Revision(0), version: 1 });
}

#[test]
fn a_tombstone_leaves_nothing_of_the_values_before() {
    let (dir, folder) = fresh();
    let ledger = EmbeddedLedger::open(&folder).unwrap();
    swap(&ledger, 1, None, 0xa1);
    let (revision, _) = read(&ledger, 1).unwrap();
    swap(&ledger, 1, Some(revision), 0xa2);
    let (revision, _) = read(&ledger, 1).unwrap();
    ledger.swap(&[1; 32], Some(revision), &value(0xdd), true).ok().unwrap();
    let bytes = std::fs::read(dir.path().join(FILE)).unwrap();
    for old in [0xa1, 0xa2] {
        assert!(!bytes.windows(64).any(|window| window.iter().all(|byte| *byte == old)));
    }
    drop(ledger);
    assert_eq!(read(&EmbeddedLedger::open(&folder).unwrap(), 1).map(|(_, byte)| byte), Some(0xdd));
}

#[test]
fn damage_is_never_taken_for_an_older_counter_when_both_copies_are_bad() {
    let (dir, folder) = fresh();
    let ledger = EmbeddedLedger::open(&folder).unwrap();
    swap(&ledger, 1, None, 1);
    let (revision, _) = read(&ledger, 1).unwrap();
    swap(&ledger, 1, Some(revision), 2);
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join(FILE)).unwrap();
    file.write_all_at(&[7], offset(0, 0) + 50).unwrap();
    file.write_all_at(&[7], offset(0, 1) + 50).unwrap();
    assert!(matches!(ledger.read(&[1; 32]), Err(LedgerError::Damaged(_))));
    drop(ledger);
    assert!(matches!(EmbeddedLedger::open(&folder), Err(LedgerError::Damaged(_))));
    std::fs::write(dir.path().join(FILE), b"something else").unwrap();
    assert!(EmbeddedLedger::open(&folder).is_err());
}

/// The system may call a page clean although its write failed: whoever opens
/// the ledger then sees a value that a power cut takes away. A counter that was
/// shown must not go back.
#[test]
fn what_opening_shows_survives_a_power_cut() {
    for last in [false, true] {
        let world = SimWorld::new();
        let folder = world.folder("vault");
        EmbeddedLedger::create(&*folder).unwrap();
        let ledger = EmbeddedLedger::open(&*folder).unwrap();
        assert!(swap(&ledger, 1, None, 1) && swap(&ledger, 2, None, 9));
        let (revision, _) = read(&ledger, 1).unwrap();
        // The second page of a tombstone, or the only one of another value.
        world.fail_at(world.operations() + if last { 4 } else { 2 }, Fault::Io);
        assert!(ledger.swap(&[1; 32], Some(revision), &value(2), last).is_err());
        assert!(!ledger.is_usable(), "until it is opened anew");
        drop(ledger);
        let shown = read(&EmbeddedLedger::open(&*folder).unwrap(), 1).unwrap();
        assert_eq!(shown.1, 2);
        let world = world.crash(Crash { data: Unsynced::Lost, names_kept: true });
        let ledger = EmbeddedLedger::open(&*world.folder("vault")).unwrap();
        assert_eq!(read(&ledger, 1), Some(shown));
        let left = world.get("vault/ledger").unwrap().chunks(PAGE).filter(|p| p[100] == 1).count();
        assert_eq!(left, usize::from(!last), "a tombstone leaves nothing to erase");
    }
}

/// The process died between the two pages of a tombstone: one of them kept the
/// key material that the other said was gone.
#[test]
fn half_a_tombstone_is_made_whole() {
    let world = SimWorld::new();
    let folder = world.folder("vault");
    EmbeddedLedger::create(&*folder).unwrap();
    let ledger = EmbeddedLedger::open(&*folder).unwrap();
    assert!(swap(&ledger, 1, None, 0xa1));
    let (revision, _) = read(&ledger, 1).unwrap();
    world.freeze_at(world.operations() + 2);
    assert!(ledger.swap(&[1; 32], Some(revision), &value(0xdd), true).is_err());
    let world = world.crash(Crash { data: Unsynced::Lost, names_kept: true });
    let has = |byte| world.get("vault/ledger").unwrap().chunks(PAGE).any(|page| page[100] == byte);
    assert!(has(0xa1) && has(0xdd), "half of it is there");
    let folder = world.folder("vault");
    // To look at it changes nothing.
    assert_eq!(read(&EmbeddedLedger::view(&*folder).unwrap(), 1).map(|(_, byte)| byte), Some(0xdd));
    assert!(has(0xa1));
    assert_eq!(read(&EmbeddedLedger::open(&*folder).unwrap(), 1).map(|(_, byte)| byte), Some(0xdd));
    assert!(!has(0xa1));
}

/// A crash tears one page. A second bad one is damage: its counter may have
/// been newer than the copy beside it.
#[test]
fn more_bad_pages_than_one_are_damage() {
    let torn = |pairs: &[u64]| {
        let (dir, folder) = fresh();
        let ledger = EmbeddedLedger::open(&folder).unwrap();
        for name in 1..=2 {
            assert!(swap(&ledger, name, None, 1));
            let (revision, _) = read(&ledger, name).unwrap();
            assert!(swap(&ledger, name, Some(revision), 2));
        }
        let file = std::fs::OpenOptions::new().write(true).open(dir.path().join(FILE)).unwrap();
        for pair in pairs {
            file.write_all_at(&[7], offset(*pair, 1) + 50).unwrap();
        }
        (dir, folder)
    };
    let (_dir, folder) = torn(&[0, 1]);
    assert!(matches!(EmbeddedLedger::open(&folder), Err(LedgerError::Damaged(_))));
    // One is mended, so that the next crash finds none.
    let (dir, folder) = torn(&[0]);
    assert_eq!(read(&EmbeddedLedger::open(&folder).unwrap(), 1).map(|(_, byte)| byte), Some(1));
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join(FILE)).unwrap();
    file.write_all_at(&[7], offset(1, 1) + 50).unwrap();
    assert!(EmbeddedLedger::open(&folder).is_ok());
}

/// A full disk met while a name was new poisoned the ledger for all others.
#[test]
fn a_full_disk_stops_new_names_only() {
    let world = SimWorld::new();
    let folder = world.folder("vault");
    EmbeddedLedger::create(&*folder).unwrap();
    let ledger = EmbeddedLedger::open(&*folder).unwrap();
    assert!(swap(&ledger, 1, None, 1));
    world.set_capacity(3 * PAGE as u64 + 100);
    assert!(matches!(ledger.swap(&[2; 32], None, &value(1), false), Err(LedgerError::Io(_))));
    let (revision, _) = read(&ledger, 1).unwrap();
    assert!(swap(&ledger, 1, Some(revision), 2), "what is there can be counted on");
    world.set_capacity(1 << 20);
    assert!(swap(&ledger, 2, None, 1));
    drop(ledger);
    assert_eq!(EmbeddedLedger::open(&*folder).unwrap().list(None, 9).unwrap().len(), 2);
}

/// Names that go leave no bytes, and their room is used again.
#[test]
fn a_name_that_goes_leaves_nothing_and_its_room() {
    let (dir, folder) = fresh();
    let ledger = EmbeddedLedger::open(&folder).unwrap();
    for round in 0..5 {
        assert!(swap(&ledger, 1, None, 0xa1) && swap(&ledger, 2 + round, None, 2));
        let (revision, _) = read(&ledger, 1).unwrap();
        let gone = |revision| matches!(ledger.remove(&[1; 32], revision), Ok(Swap::Written(_)));
        assert!(!gone(Revision(revision.0 - 1)), "somebody else wrote it");
        assert!(gone(revision) && !gone(revision));
        assert_eq!(read(&ledger, 1), None);
    }
    let bytes = std::fs::read(dir.path().join(FILE)).unwrap();
    assert!(!bytes.windows(64).any(|window| window.iter().all(|byte| *byte == 0xa1)));
    assert_eq!(bytes.len(), (1 + 2 * 6) * PAGE, "five names, and the room of one");
    let before = ledger.head().unwrap();
    drop(ledger);
    let ledger = EmbeddedLedger::open(&folder).unwrap();
    assert_eq!(ledger.head().unwrap(), before);
    assert_eq!(ledger.list(None, 99).unwrap().len(), 5);
}

/// Revisions are counted by the pages there are: one that went was counted again after
/// opening, and a copy of what it was would have been taken for the newest.
#[test]
fn the_newest_write_does_not_go() {
    let (_dir, folder) = fresh();
    let ledger = EmbeddedLedger::open(&folder).unwrap();
    assert!(swap(&ledger, 2, None, 2) && swap(&ledger, 1, None, 1));
    let (revision, _) = read(&ledger, 1).unwrap();
    assert!(matches!(ledger.remove(&[1; 32], revision), Ok(Swap::Lost)));
    drop(ledger);
    let ledger = EmbeddedLedger::open(&folder).unwrap();
    assert_eq!(ledger.head().unwrap().revision, revision);
}

/// At each step of it: the name is there as it was, or it is gone.
#[test]
fn a_crash_while_a_name_goes_leaves_it_or_takes_it() {
    for step in 0..8 {
        let world = SimWorld::new();
        let folder = world.folder("vault");
        EmbeddedLedger::create(&*folder).unwrap();
        let ledger = EmbeddedLedger::open(&*folder).unwrap();
        assert!(swap(&ledger, 1, None, 1));
        let (revision, _) = read(&ledger, 1).unwrap();
        assert!(swap(&ledger, 1, Some(revision), 2) && swap(&ledger, 2, None, 9));
        let (revision, _) = read(&ledger, 1).unwrap();
        world.freeze_at(world.operations() + step);
        let done = ledger.remove(&[1; 32], revision).is_ok();
        let crash = Crash { data: Unsynced::Lost, names_kept: true };
        let world = world.crash(crash);
        let ledger = EmbeddedLedger::open(&*world.folder("vault")).unwrap();
        let found = read(&ledger, 1);
        assert!(found.is_none() || !done && found == Some((revision, 2)), "{step}: {found:?}");
        assert_eq!(read(&ledger, 2).map(|(_, byte)| byte), Some(9));
        assert!(swap(&ledger, 3, None, 3));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A write torn at any byte leaves what was acknowledged before it.
    #[test]
    fn a_torn_write_leaves_the_value_before(writes in 1usize..5, torn in 0usize..PAGE) {
        let (dir, folder) = fresh();
        let ledger = EmbeddedLedger::open(&folder).unwrap();
        let mut revision = None;
        for byte in 1..=writes {
            prop_assert!(swap(&ledger, 1, revision, byte as u8));
            revision = read(&ledger, 1).map(|(revision, _)| revision);
        }
        drop(ledger);
        // What the next write would do, cut off.
        let side = (writes % 2) as u64;
        let page = encode_page(&[1; 32], Revision(99), Lineage::FIRST, &value(99), false);
        let file = std::fs::OpenOptions::new().write(true).open(dir.path().join(FILE)).unwrap();
        file.write_all_at(&page[..torn], offset(0, side)).unwrap();
        drop(file);
        let ledger = EmbeddedLedger::open(&folder).unwrap();
        prop_assert_eq!(read(&ledger, 1), revision.map(|revision| (revision, writes as u8)));
    }

    /// A first write torn at any byte leaves no record and no damage.
    #[test]
    fn a_torn_first_write_leaves_nothing(torn in 1usize..PAGE) {
        let (dir, folder) = fresh();
        let page = encode_page(&[1; 32], Revision(1), Lineage::FIRST, &value(1), false);
        let file = std::fs::OpenOptions::new().write(true).open(dir.path().join(FILE)).unwrap();
        file.write_all_at(&page[..torn], offset(0, 0)).unwrap();
        let ledger = EmbeddedLedger::open(&folder).unwrap();
        prop_assert_eq!(read(&ledger, 1), None);
        prop_assert!(swap(&ledger, 2, None, 2));
        prop_assert!(swap(&ledger, 3, None, 3));
        drop(ledger);
        let ledger = EmbeddedLedger::open(&folder).unwrap();
        prop_assert_eq!(read(&ledger, 2).map(|(_, byte)| byte), Some(2));
        prop_assert_eq!(read(&ledger, 3).map(|(_, byte)| byte), Some(3));
    }
}
