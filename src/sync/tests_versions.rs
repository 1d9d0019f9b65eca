//! Versions of one file that devices made apart from each other, and what becomes of them when
//! somebody edits or removes one.

use super::tests_devices::{both_changed, listing, loser, publish};
use crate::merge::tests_devices::Device;

/// What the versions of `f` hold, ascending.
fn versions(device: &Device) -> Vec<String> {
    let shown = listing(device);
    let of_f = shown.iter().filter(|(path, _)| *path == "f" || path.starts_with("f (from"));
    let mut all: Vec<String> = of_f.map(|(_, line)| line.bytes.clone()).collect();
    all.sort_unstable();
    all
}

/// Who edited one version stored the other one as a file, too. That file stayed when its author
/// replaced the version.
#[test]
fn a_version_that_its_author_replaces_does_not_come_back() {
    // Also where something else is to be decided that was joined at the same time.
    for others in [false, true] {
        let laptop = Device::first("LAPTOP");
        assert!(laptop.write("f", "base") && laptop.mkdir("D") && laptop.write("D/g", "base"));
        let phone = laptop.another("PHONE", 3);
        let write = |device: &Device, text: &str| {
            assert!(device.write("f", text));
            assert!(!others || device.write("D/g", "too") && device.write("D/new", text));
            device.checkpoint();
        };
        write(&laptop, "laptop 1");
        write(&phone, "phone 1");
        phone.receive(&laptop);
        let phone = phone.remount(10);
        assert_eq!(versions(&phone), ["laptop 1", "phone 1"]);
        assert!(phone.write("f", "phone 2"));
        publish(&phone).unwrap();
        assert_eq!(versions(&phone), ["laptop 1", "phone 2"]);
        // The other one goes on without having seen any of it.
        assert!(laptop.write("f", "laptop 2"));
        laptop.checkpoint();
        laptop.receive(&phone);
        let laptop = laptop.remount(11);
        assert_eq!(versions(&laptop), ["laptop 2", "phone 2"]);
        // Also the other way round: the version that is shown as a file is edited as that.
        let shown = listing(&laptop);
        let lost = shown.keys().find(|path| path.starts_with("f (from")).unwrap();
        assert!(laptop.write(lost, "decided"));
        publish(&laptop).unwrap();
        phone.receive(&laptop);
        let phone = phone.remount(12);
        assert_eq!(listing(&phone), listing(&laptop));
        assert_eq!(versions(&phone).len(), 2);
    }
}

/// Two devices edit one file in turn, each a round late.
#[test]
fn editing_in_turn_leaves_one_version_for_each_device() {
    let mut laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "base"));
    let mut phone = laptop.another("PHONE", 3);
    for round in 0..8 {
        assert!(laptop.write("f", &format!("laptop {round}")));
        publish(&laptop).unwrap();
        assert!(phone.write("f", &format!("phone {round}")));
        publish(&phone).unwrap();
        if round % 2 == 0 {
            phone.receive(&laptop);
            phone = phone.remount(100 + round);
        } else {
            laptop.receive(&phone);
            laptop = laptop.remount(100 + round);
        }
    }
    laptop.receive(&phone);
    phone.receive(&laptop);
    let (laptop, phone) = (laptop.remount(200), phone.remount(201));
    assert_eq!(listing(&laptop), listing(&phone));
    let left = versions(&laptop);
    // Each time somebody went on from the version of the other, the own one stayed undecided.
    assert!(left.len() <= 5, "{left:#?}");
    assert!(left.contains(&"laptop 7".into()) && left.contains(&"phone 7".into()), "{left:#?}");
}

/// One removes the version that lost; the other goes on with the one that won.
#[test]
fn a_version_that_was_removed_stays_away() {
    let (laptop, phone) = both_changed();
    let won = listing(&laptop)["f"].bytes.clone();
    assert!(laptop.unlink(&loser(&laptop)));
    publish(&laptop).unwrap();
    assert_eq!(versions(&laptop), [won.as_str()]);
    assert!(phone.append("f", " and more"));
    publish(&phone).unwrap();
    laptop.receive(&phone);
    let laptop = laptop.remount(12);
    assert_eq!(versions(&laptop), [format!("{won} and more")]);
}

/// Each of two devices joined an older state of the other, gave the other's file a name of its own,
/// and went on with the own one. Joined, both files had both names, and a database stood under one
/// of them without its log.
#[test]
fn a_name_that_a_repair_gave_goes_where_its_file_has_another() {
    for (name, log) in [("c", None), ("c.db", Some("c.db-wal"))] {
        let laptop = Device::first("LAPTOP");
        let phone = laptop.another("PHONE", 3);
        let write = |device: &Device, bytes: &str| {
            assert!(device.write(name, bytes));
            if let Some(log) = log {
                assert!(device.write(log, &format!("log of {bytes}")));
            }
        };
        write(&phone, "phone 1");
        phone.checkpoint();
        write(&laptop, "laptop 1");
        laptop.checkpoint();
        laptop.receive(&phone);
        phone.receive(&laptop);
        write(&phone, "phone 2");
        phone.checkpoint();
        let laptop = laptop.remount(10);
        write(&laptop, "laptop 2");
        publish(&laptop).unwrap();
        let phone = phone.remount(11);
        write(&phone, "phone 3");
        publish(&phone).unwrap();
        laptop.receive(&phone);
        phone.receive(&laptop);
        let (laptop, phone) = (laptop.remount(12), phone.remount(13));
        let shown = listing(&laptop);
        assert_eq!(shown, listing(&phone));
        assert!(shown.values().all(|line| line.links() == 1), "{shown:#?}");
        assert_eq!(shown[name].bytes, "phone 3");
        if let Some(log) = log {
            assert_eq!(shown[log].bytes, "log of phone 3");
        }
        assert!(shown.values().any(|line| line.bytes == "laptop 2"), "{shown:#?}");
        let each = if log.is_some() { 2 } else { 1 };
        assert_eq!(shown.len(), 2 * each, "{shown:#?}");
    }
}

/// A version of a log was stored as a file of its own, beside that of its database. Meanwhile another
/// device took the database away from that log: the stored file went with the version of the database
/// that was replaced, and the log itself counted as that stored file.
#[test]
fn a_log_whose_database_was_moved_away_outlives_the_version_that_was_stored() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("db", "base") && laptop.write("db-wal", "log"));
    let (phone, desk) = (laptop.another("PHONE", 3), laptop.another("DESK", 4));
    assert!(phone.write("t", "saved") && phone.rename("t", "db"));
    phone.checkpoint();
    assert!(desk.append("db-wal", "+desk"));
    desk.checkpoint();
    phone.receive(&desk);
    let phone = phone.remount(10);
    assert!(desk.rename("db", "moved"));
    desk.checkpoint();
    // It stores what it joined.
    assert!(phone.write("db-journal", "phone"));
    phone.checkpoint();
    for device in [&laptop, &desk] {
        device.receive(&phone);
    }
    laptop.receive(&desk);
    phone.receive(&desk);
    let mut shown = Vec::new();
    for (device, seed) in [(laptop, 20), (phone, 21), (desk, 22)] {
        let seen = device.remount(seed).seen();
        let files = seen.into_iter().map(|(path, line)| (path, line.bytes));
        shown.push(files.collect::<std::collections::BTreeMap<_, _>>());
    }
    assert_eq!(shown[0], shown[1]);
    assert_eq!(shown[0], shown[2]);
    let texts: Vec<&str> = shown[0].values().map(String::as_str).collect();
    assert_eq!(texts.iter().filter(|text| **text == "log+desk").count(), 1, "{shown:#?}");
    assert_eq!(shown[0]["moved"], "base");
}
