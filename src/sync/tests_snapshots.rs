//! States of the past are shown as they were.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::Snapshot;
use super::tests_identity::{text, write_in_pieces};
use crate::format::namespace::ROOT;
use crate::fs::FsError;
use crate::io::Timestamp;
use crate::merge::tests_devices::Device;
use crate::merge::tests_histories::{DIRS, acts, factor, play, turn};
use crate::merge::tests_maps::Listing;
use crate::volume::{Change, ChangeKind, VolumeError, changes};

fn seen_at(device: &Device, until: Timestamp) -> Listing {
    device.read_at(Some(until)).unwrap_or_else(|error| panic!("{error}")).seen()
}

fn before(time: Timestamp) -> Timestamp {
    Timestamp { secs: time.secs - 1, nanos: 999_999_999 }
}

/// Publishes and tells what is shown then, and when that was.
fn published(device: &Device) -> (Timestamp, Listing) {
    device.tick();
    device.checkpoint();
    (device.now(), device.seen())
}

#[test]
fn each_state_that_was_published_is_shown_again() {
    let laptop = Device::first("LAPTOP");
    let mut states = Vec::new();
    for text in ["one", "two", "three"] {
        assert!(laptop.write("f", text) && laptop.write(text, &text.repeat(2000)));
        states.push(published(&laptop));
    }
    assert!(laptop.unlink("f"));
    states.push(published(&laptop));
    for (at, (time, seen)) in states.iter().enumerate() {
        assert_eq!(seen_at(&laptop, *time), *seen);
        if at > 0 {
            assert_eq!(seen_at(&laptop, before(*time)), states[at - 1].1);
        }
    }
    let told = laptop.read_at(Some(states[1].0)).unwrap();
    let told: Vec<String> = told.volume().notices.iter().map(ToString::to_string).collect();
    assert!(told[0].contains("the latest state then is state 2 of LAPTOP"), "{told:?}");
    assert_eq!(told.len(), 1);
    // Nothing was here before.
    match laptop.read_at(Some(before(states[0].0))).err().unwrap() {
        VolumeError::TooEarly { oldest } => assert_eq!(oldest, Some(states[0].0)),
        error => panic!("{error}"),
    }
    let (found, unreadable) = laptop.snapshots();
    let times: Vec<Timestamp> = found.iter().map(|snapshot| snapshot.time).collect();
    assert_eq!(times, states.iter().map(|(time, _)| *time).collect::<Vec<_>>());
    assert_eq!(unreadable, 0);
    let Snapshot { name, generation, inodes, bytes, .. } = &found[2];
    assert_eq!(
        (name.as_str(), *generation, *inodes, *bytes),
        ("LAPTOP", 3, 5, 6000 + 6000 + 10000 + 5)
    );
    // A state that shows nothing new is none.
    laptop.answer();
    assert_eq!(laptop.snapshots().0.len(), 4);
}

#[test]
fn a_repository_without_a_state_has_none_at_any_time() {
    let laptop = Device::first("LAPTOP");
    assert_eq!(laptop.snapshots(), (Vec::new(), 0));
    let error = laptop.read_at(Some(laptop.now())).err().unwrap();
    assert!(matches!(error, VolumeError::TooEarly { oldest: None }), "{error}");
}

/// Whether more is known than can be used is said of the past too, and what is merely later is not
/// that.
#[test]
fn states_that_cannot_be_used_are_told_unless_they_are_later() {
    let laptop = Device::first("LAPTOP");
    let mut times = Vec::new();
    for text in ["one", "two", "three"] {
        assert!(laptop.write("f", text));
        times.push(published(&laptop).0);
    }
    let heads = |until| {
        let read = laptop.read_at(Some(until)).unwrap();
        let heads = read.volume().heads();
        (read.read("f"), heads.behind.len(), heads.unusable.len())
    };
    assert_eq!(heads(times[0]), ("one".into(), 0, 0));
    laptop.cut_head(2);
    assert_eq!(heads(times[2]), ("three".into(), 0, 0));
    assert_eq!(heads(times[1]), ("one".into(), 0, 1), "it may be of that time");
    assert_eq!(heads(times[0]), ("one".into(), 0, 1));
    let past = laptop.past(times[1]).unwrap();
    assert_eq!((past.behind.len(), past.unusable.len()), (0, 1));
    laptop.cut_head(3);
    assert_eq!(heads(times[0]), ("one".into(), 0, 2));
    assert_eq!(laptop.snapshots().1, 2);
    for path in laptop.world().paths().iter().filter(|path| path.contains("/head/")) {
        if !path.contains("/0000000000000001-") {
            laptop.world().remove_file(path);
        }
    }
    assert_eq!(heads(times[0]), ("one".into(), 1, 0), "local state knows of newer ones");
    let past = laptop.past(times[0]).unwrap();
    assert_eq!((past.behind.len(), past.unusable.len()), (1, 0));
}

/// The head of that time is not here, and a later one of its device names it: what was before is not all
/// that there was.
#[test]
fn a_state_that_a_later_one_names_is_missed() {
    let laptop = Device::first("LAPTOP");
    let mut times = Vec::new();
    for text in ["one", "two", "three"] {
        assert!(laptop.write("f", text));
        times.push(published(&laptop).0);
    }
    let path = laptop.world().paths().into_iter().find(|path| path.contains("/0000000000000002-"));
    let path = path.unwrap();
    let head = laptop.world().get(&path).unwrap();
    laptop.world().remove_file(&path);
    let heads = |until| {
        let past = laptop.past(until).unwrap();
        let told: Vec<String> = past.unusable.iter().map(|head| head.error.to_string()).collect();
        (past.behind.len(), told)
    };
    let name = crate::volume::named("LAPTOP", &laptop.volume().state().device);
    let missing = format!("the state of {name} before state 3 is not here (yet)");
    assert_eq!(heads(times[1]), (0, vec![missing.clone()]));
    assert_eq!(heads(times[0]), (0, vec![missing]), "it may be of that time, too");
    assert_eq!(heads(times[2]), (0, Vec::new()));
    laptop.world().put(&path, &head);
    assert_eq!(heads(times[1]), (0, Vec::new()));
}

/// The files that differ between two listings, by path: those of other bytes, and those that only one
/// has. Of a file in a directory that has another name now nothing is told.
fn paths_that_differ(before: &Listing, after: &Listing) -> BTreeSet<String> {
    let all = before.keys().chain(after.keys());
    let file = |listing: &Listing, path: &str| {
        listing.get(path).filter(|line| !line.is_dir).map(|line| line.bytes.clone())
    };
    all.filter(|path| file(before, path) != file(after, path)).cloned().collect()
}

/// The paths of files that differ at two times, by what the changes from one to the other say: a directory
/// that was renamed takes along what lies below it.
fn paths_changed(device: &Device, from: Timestamp, to: Timestamp) -> BTreeSet<String> {
    let read = device.read_at(Some(to)).unwrap();
    let past = device.read_at(Some(from)).unwrap().seen();
    let before = read.past(from).unwrap().base;
    let found = changes(&read.volume().tree_at(before.namespace.shown), &read.volume().tree());
    let text = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
    let mut now = past.clone();
    let found = found.unwrap();
    let seen = read.seen();
    for change in &found {
        let old = text(change.from.as_ref().unwrap_or(&change.path));
        if matches!(change.kind, ChangeKind::Renamed | ChangeKind::Removed) {
            let below = format!("{old}/");
            now.retain(|path, _| *path != old && !path.starts_with(&below));
        }
    }
    for change in found.iter().filter(|change| change.kind != ChangeKind::Removed) {
        let new = text(&change.path);
        let below = format!("{new}/");
        let taken = seen.iter().filter(|(path, _)| **path == new || path.starts_with(&below));
        now.extend(taken.map(|(path, line)| (path.clone(), line.clone())));
    }
    paths_that_differ(&past, &now)
}

/// A file of the past has its content, attributes and times again, after a kill and on other devices too,
/// and nothing of it was stored once more.
#[test]
fn a_file_is_brought_back_by_its_record() {
    let laptop = Device::first("LAPTOP");
    let large = text(3 << 20);
    assert!(laptop.mkdir("D") && write_in_pieces(&laptop, "D/large", &large));
    assert!(laptop.set_xattr("D/large", "label") && laptop.chmod("D/large", 0o640));
    assert!(laptop.write("D/small", "small"));
    let (then, seen) = published(&laptop);
    assert!(laptop.unlink("D/large") && laptop.unlink("D/small") && laptop.rmdir("D"));
    published(&laptop);
    let objects = laptop.objects_written();
    {
        let past = laptop.past(then).unwrap().base;
        let tree = laptop.volume().tree_at(past.namespace.shown);
        let of = tree.lookup(ROOT, b"D").unwrap().unwrap();
        let dir = laptop.fs().bring_back(&tree, of, (ROOT, b"D")).unwrap().ino;
        for name in [&b"large"[..], b"small"] {
            let of = tree.lookup(of, name).unwrap().unwrap();
            let attr = laptop.fs().bring_back(&tree, of, (dir, name)).unwrap();
            let again = laptop.fs().bring_back(&tree, of, (dir, name));
            assert_eq!(again.unwrap_err(), FsError::Exists);
            assert!(attr.mtime < laptop.now(), "it has the time of then");
        }
        assert_eq!(laptop.seen(), seen);
    }
    // The journal brings it back after a kill.
    let laptop = laptop.end().mount(20);
    assert_eq!(laptop.seen(), seen);
    laptop.checkpoint();
    assert_eq!(laptop.objects_written(), objects);
    let phone = laptop.another("PHONE", 21);
    assert_eq!(phone.seen(), seen);
    assert!(phone.append("D/large", "+"));
    assert_eq!(phone.read("D/large").len(), large.len() + 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40 * factor()))]
    #[test]
    fn the_past_is_what_was_shown_then(
        first in acts(10), turns in prop::collection::vec(turn(3), 5..30),
    ) {
        let mut made = 0;
        let laptop = Device::first("LAPTOP");
        DIRS[..3].iter().for_each(|dir| assert!(laptop.mkdir(dir)));
        play(&laptop, "base", &first, &mut made);
        let (phone, desk) = (laptop.another("PHONE", 3), laptop.another("DESK", 4));
        let devices = [laptop, phone, desk];
        // A copy of REPO to which everything comes at once.
        let watch = devices[0].another("WATCH", 5);
        let mut shown = vec![(watch.now(), watch.read_at(None).unwrap().seen())];
        for turn in turns {
            turn.play(&devices, &mut made);
            for device in &devices {
                watch.receive(device);
            }
            watch.tick();
            shown.push((watch.now(), watch.read_at(None).unwrap().seen()));
        }
        for (time, seen) in &shown {
            let past = seen_at(&watch, *time);
            prop_assert!(past == *seen, "at {time:?} it shows {past:#?}, and it was {seen:#?}");
        }
        let ends = [&shown[0], &shown[shown.len() / 2], &shown[shown.len() - 1]];
        for (one, other) in [(0, 1), (1, 2), (0, 2)] {
            let told = paths_changed(&watch, ends[one].0, ends[other].0);
            prop_assert_eq!(told, paths_that_differ(&ends[one].1, &ends[other].1));
        }
    }
}

/// The paths that changed from what was published at one time to what was at another, in words.
fn changed(device: &Device, from: Timestamp, to: Timestamp) -> Vec<String> {
    let read = device.read_at(Some(to)).unwrap();
    let before = read.past(from).unwrap().base;
    let found = changes(&read.volume().tree_at(before.namespace.shown), &read.volume().tree());
    let utf8 = |path: Vec<u8>| String::from_utf8(path).unwrap();
    let words = |change: Change| {
        let from = change.from.map(|from| format!("{} ", utf8(from))).unwrap_or_default();
        let sizes = (change.size_before, change.size_after);
        format!("{:?} {from}{} {sizes:?}", change.kind, utf8(change.path))
    };
    found.unwrap().into_iter().map(words).collect()
}

#[test]
fn what_changed_between_two_times_is_told_by_path() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.mkdir("D") && laptop.mkdir("D/E") && laptop.mkdir("F"));
    for path in ["D/E/kept", "D/moved", "saved", "edited", "chmod", "gone", "F/gone", "label"] {
        assert!(laptop.write(path, path));
    }
    let first = published(&laptop).0;
    assert!(laptop.rename("D/moved", "moved") && laptop.rename("D", "d"));
    assert!(laptop.write("t", "saved anew") && laptop.rename("t", "saved"));
    assert!(laptop.append("edited", "+") && laptop.chmod("chmod", 0o600));
    assert!(laptop.unlink("gone") && laptop.unlink("F/gone") && laptop.rmdir("F"));
    assert!(laptop.write("new", &"n".repeat(3000)) && laptop.set_xattr("label", "x"));
    assert!(laptop.link("new", "d/link"));
    let second = published(&laptop).0;
    let there = [
        "Attributes chmod (Some(5), Some(5))",
        "Renamed D d (None, None)",
        "Added d/link (None, Some(3000))",
        "Content edited (Some(6), Some(7))",
        "Removed F (None, None)",
        "Removed F/gone (Some(6), None)",
        "Removed gone (Some(4), None)",
        "Attributes label (Some(5), Some(5))",
        "Renamed D/moved moved (Some(7), Some(7))",
        "Added new (None, Some(3000))",
        "Content saved (Some(5), Some(10))",
    ];
    let mut found = changed(&laptop, first, second);
    let mut there: Vec<String> = there.map(str::to_owned).to_vec();
    found.sort();
    there.sort();
    assert_eq!(found, there);
    assert_eq!(changed(&laptop, second, second), Vec::<String>::new());
    assert_eq!(changed(&laptop, first, first), Vec::<String>::new());
}

/// A file that is back is where it was, whatever became of the one that was there; and no path is told to
/// be renamed to itself.
#[test]
fn what_is_there_again_has_not_changed() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("file", "text") && laptop.mkdir("D") && laptop.write("D/f", "text"));
    assert!(laptop.set_xattr("file", "then"));
    let then = published(&laptop).0;
    assert!(laptop.rename("file", "other") && laptop.append("other", "+"));
    assert!(laptop.rename("D", "E") && laptop.mkdir("D") && laptop.rename("E/f", "D/f"));
    assert!(laptop.rmdir("E"));
    let moved = published(&laptop).0;
    let told = ["Renamed file other (Some(4), Some(5))", "Content other (Some(4), Some(5))"];
    assert_eq!(changed(&laptop, then, moved), told);
    {
        let past = laptop.past(then).unwrap().base;
        let tree = laptop.volume().tree_at(past.namespace.shown);
        let of = tree.lookup(ROOT, b"file").unwrap().unwrap();
        laptop.fs().bring_back(&tree, of, (ROOT, b"file")).unwrap();
    }
    let back = published(&laptop).0;
    assert_eq!(changed(&laptop, then, back), ["Added other (None, Some(5))"]);
    // With other attributes it is another one.
    assert!(laptop.set_xattr("file", "now"));
    let later = published(&laptop).0;
    assert_eq!(changed(&laptop, then, later).len(), 3);
}
