use super::*;
use crate::io::DirFolder;
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
    ledger.read(&[name; 32]).unwrap().map(|(revision, value)| (revision, value[0]))
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
        let page = encode_page(&[1; 32], Revision(99), &value(99));
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
        let page = encode_page(&[1; 32], Revision(1), &value(1));
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
