//! States of the past are shown as they were.

use proptest::prelude::*;

use super::Snapshot;
use crate::io::Timestamp;
use crate::merge::tests_devices::Device;
use crate::merge::tests_histories::{Act, DIRS, acts, factor, play};
use crate::merge::tests_maps::Listing;
use crate::volume::VolumeError;

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
    laptop.cut_head(3);
    assert_eq!(heads(times[0]), ("one".into(), 0, 2));
    assert_eq!(laptop.snapshots().1, 2);
    for path in laptop.world().paths().iter().filter(|path| path.contains("/head/")) {
        if !path.contains("/0000000000000001-") {
            laptop.world().remove_file(path);
        }
    }
    assert_eq!(heads(times[0]), ("one".into(), 1, 0), "local state knows of newer ones");
}

/// What happens to a repository that somebody watches.
#[derive(Clone, Debug)]
enum Step {
    Act(usize, Vec<Act>),
    Publish(usize),
    Carry(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let device = || 0usize..3;
    prop_oneof![
        3 => (device(), acts(5)).prop_map(|(device, acts)| Step::Act(device, acts)),
        4 => device().prop_map(Step::Publish),
        3 => (device(), device()).prop_map(|(to, from)| Step::Carry(to, from)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40 * factor()))]
    #[test]
    fn the_past_is_what_was_shown_then(
        first in acts(10), steps in prop::collection::vec(step(), 5..30),
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
        for step in steps {
            match step {
                Step::Act(at, acts) => play(&devices[at], "x", &acts, &mut made),
                Step::Carry(to, from) if to == from => {}
                Step::Carry(to, from) => {
                    devices[to].receive(&devices[from]);
                    devices[to].tick();
                    // It publishes what it has first.
                    devices[to].follow();
                }
                Step::Publish(at) => {
                    devices[at].tick();
                    devices[at].checkpoint();
                }
            }
            for device in &devices {
                watch.receive(device);
            }
            watch.tick();
            shown.push((watch.now(), watch.read_at(None).unwrap().seen()));
        }
        for (time, seen) in shown {
            let past = seen_at(&watch, time);
            prop_assert!(past == seen, "at {time:?} it shows {past:#?}, and it was {seen:#?}");
        }
    }
}
