//! States of the past stay for as long as the owner says, whatever becomes of their heads.

use super::tests_identity::{text, write_in_pieces};
use super::{Snapshot, thinned};
use crate::format::container::{Class, Kind};
use crate::format::setting::Retention;
use crate::fs::{FsError, KeptState};
use crate::io::Timestamp;
use crate::merge::tests_devices::Device;
use crate::volume::{VolumeError, kept_in};

const MINUTE: u32 = 60;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn set(device: &Device, hours: u64, days: u64, months: u64) {
    let new = Retention::new(hours, days, months);
    let set = device.fs().change_retention(|retention| *retention = new.clone()).unwrap();
    assert_eq!(set, new);
}

/// Publishes a change every so many minutes; returns when each was published.
fn publish(device: &Device, count: usize, minutes: u32) -> Vec<Timestamp> {
    let mut times = Vec::new();
    for _ in 0..count {
        device.later(minutes * MINUTE);
        assert!(device.write("f", &format!("{}", device.now().secs)));
        device.checkpoint();
        times.push(device.now());
    }
    times
}

fn kept_times(device: &Device) -> Vec<i64> {
    device.kept().values().map(|kept| kept.time.secs).collect()
}

#[test]
fn the_last_state_of_each_hour_and_day_is_kept() {
    let laptop = Device::first("LAPTOP");
    let times = publish(&laptop, 3 * 72, 20);
    let now = laptop.now().secs;
    let kept = kept_times(&laptop);
    // Only the newest is kept without a row.
    let last_of = |unit: i64, age: i64| {
        let mut last: Vec<i64> = times.iter().map(|time| time.secs).collect();
        last.dedup_by(|next, last| {
            let is_same = next.div_euclid(unit) == last.div_euclid(unit);
            if is_same {
                *last = *next;
            }
            is_same
        });
        last.retain(|secs| now - secs <= age && *secs != now);
        last
    };
    let mut expected = [last_of(HOUR, 24 * HOUR), last_of(DAY, 31 * DAY)].concat();
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(kept, expected);
    // And they are what is shown to who does not ask for all.
    let (all, _) = laptop.snapshots();
    let shown = thinned(&all, laptop.now(), &Retention::default());
    let shown: Vec<i64> = shown.iter().map(|snapshot| snapshot.time.secs).collect();
    assert_eq!(shown, [expected, vec![now]].concat());
    assert_eq!(all.len(), times.len());
}

#[test]
fn what_shows_the_same_is_no_state_of_its_own() {
    let laptop = Device::first("LAPTOP");
    publish(&laptop, 1, 1);
    for _ in 0..5 {
        laptop.later(2 * 3600);
        laptop.answer();
    }
    let first = laptop.kept();
    assert_eq!(first.len(), 1);
    publish(&laptop, 1, 1);
    assert_eq!(laptop.kept(), first, "and not the last answer");
}

#[test]
fn a_state_with_a_name_stays_until_its_name_goes() {
    let laptop = Device::first("LAPTOP");
    set(&laptop, 0, 0, 0);
    publish(&laptop, 3, 1);
    assert!(kept_times(&laptop).is_empty());
    // Without a change too.
    laptop.fs().keep("before the trip").unwrap();
    assert_eq!(laptop.fs().keep("before the trip"), Err(FsError::Exists));
    let named = laptop.now();
    publish(&laptop, 3, 60 * 24);
    let kept = laptop.kept();
    let labels: Vec<&str> = kept.values().map(|kept| &*kept.label).collect();
    assert_eq!(labels, ["before the trip"]);
    let is_it = |snapshot: &&Snapshot| snapshot.label == "before the trip";
    let (all, _) = laptop.snapshots();
    let found: Vec<&Snapshot> = all.iter().filter(is_it).collect();
    assert!(found.len() == 1 && found[0].time <= named);
    // It is one of few that are shown.
    let none = Retention::new(0, 0, 0);
    assert_eq!(thinned(&all, laptop.now(), &none).iter().filter(is_it).count(), 1);
    // What cannot be published gets no name, and nothing later gets it either.
    assert!(write_in_pieces(&laptop, "g", &text(1 << 20)));
    laptop.world().set_capacity(1000);
    assert!(laptop.fs().keep("full").is_err());
    laptop.world().set_capacity(1 << 40);
    laptop.later(60);
    laptop.checkpoint();
    assert_eq!(laptop.kept(), kept);
    laptop.fs().keep("full").unwrap();
    assert_eq!(laptop.kept().len(), 2);
    laptop.answer();
    assert_eq!(laptop.kept().len(), 2);
    let named = |label: &str| KeptState::Named(label.into());
    assert_eq!(laptop.fs().remove_kept(&named("no such")), Err(FsError::NotFound));
    let (generation, time) = laptop.fs().remove_kept(&named("before the trip")).unwrap();
    assert_eq!(kept.get(&generation).map(|kept| kept.time), Some(time));
    assert!(!laptop.kept().contains_key(&generation) && laptop.kept().len() == 1);
    let phone = laptop.another("PHONE", 3);
    assert_eq!(phone.fs().remove_kept(&named("full")), Err(FsError::NotFound), "it is LAPTOP's");
    laptop.fs().remove_kept(&named("full")).unwrap();
    assert!(laptop.kept().values().all(|kept| kept.label.is_empty()));
}

#[test]
fn a_state_of_a_time_is_removed_and_never_the_present_one() {
    let laptop = Device::first("LAPTOP");
    publish(&laptop, 4, 3600);
    let kept = laptop.kept();
    assert_eq!(kept.len(), 3);
    let present = KeptState::At(laptop.now());
    assert_eq!(laptop.fs().remove_kept(&present), Err(FsError::NotFound));
    assert_eq!(laptop.kept(), kept);
    let (generation, second) = kept.iter().nth(1).map(|(at, kept)| (*at, kept.time)).unwrap();
    assert_eq!(laptop.fs().remove_kept(&KeptState::At(second)), Ok((generation, second)));
    let left: Vec<u64> = laptop.kept().into_keys().collect();
    assert!(!left.contains(&generation), "{left:?}");
    let first = kept.first_key_value().unwrap().1.time;
    let before = Timestamp { secs: first.secs - 1, nanos: 0 };
    assert_eq!(laptop.fs().remove_kept(&KeptState::At(before)), Err(FsError::NotFound));
    // It does not come back with a later head.
    publish(&laptop, 1, 3600);
    assert!(!laptop.kept().contains_key(&generation));
}

/// Ten years ahead, ten years back, and right again: the last state of each day stays, and where the
/// clock goes back, all.
#[test]
fn a_wrong_clock_takes_no_day_away() {
    let laptop = Device::first("LAPTOP");
    publish(&laptop, 20 * 4, 6 * 60);
    let last = laptop.now().secs;
    let before = kept_times(&laptop);
    let days = before.len();
    assert!((20..25).contains(&days), "{days}");
    laptop.set_ahead(-3650 * DAY);
    publish(&laptop, 2, 1);
    let kept = kept_times(&laptop);
    assert!(before.iter().chain([&last]).all(|secs| kept.contains(secs)));
    for ahead in [3650 * DAY, 0] {
        laptop.set_ahead(ahead);
        publish(&laptop, 2, 1);
        let mut kept = kept_times(&laptop);
        kept.push(laptop.now().secs);
        let day = |secs: &i64| secs.div_euclid(DAY);
        let left = |secs: &i64| kept.iter().any(|other| day(other) == day(secs));
        assert!(before.iter().chain([&last]).all(left), "{ahead}: {kept:?}");
    }
}

#[test]
fn what_one_device_says_holds_for_all() {
    let laptop = Device::first("LAPTOP");
    let phone = laptop.another("PHONE", 3);
    set(&laptop, 1, 0, 0);
    // It is in the journal.
    let laptop = laptop.end().mount(20);
    set(&phone, 2, 0, 0);
    laptop.checkpoint();
    phone.checkpoint();
    laptop.receive(&phone);
    phone.receive(&laptop);
    let (one, other) = (laptop.end().mount(21), phone.end().mount(22));
    let of = |device: &Device| device.volume().tree().retention().unwrap();
    assert_eq!(of(&one), of(&other), "both said something at once: one of them counts, on both");
    assert_eq!(of(&one).days, 0);
    set(&one, 3, 4, 5);
    one.checkpoint();
    other.receive(&one);
    let other = other.end().mount(23);
    assert_eq!(of(&other), Retention::new(3, 4, 5));
    other.checkpoint();
    // Nothing is written where nothing changes.
    let heads = other.heads_written();
    set(&other, 3, 4, 5);
    other.checkpoint();
    assert_eq!(other.heads_written(), heads);
    // A mount that follows goes on from it, and what it has itself in the journal counts.
    set(&other, 6, 0, 0);
    set(&other, 6, 7, 0);
    let other = other.end().mount(30);
    set(&other, 6, 7, 8);
    other.checkpoint();
    one.receive(&other);
    one.follow();
    assert_eq!(of(&one), Retention::new(6, 7, 8));
}

/// The nodes and chunks of all heads of a device but the first and the newest are stored once more, and
/// those heads go, although the ledger says that they are kept.
fn fold(device: &Device) {
    let volume = device.volume();
    let newest = volume.state().head;
    let repository = device.repository();
    let own = volume.state().device;
    let heads = repository.heads[&own].iter();
    let heads = heads.filter(|file| file.generation > 1 && file.hash != newest);
    let files: Vec<_> = heads.collect();
    let mut held = Vec::new();
    for file in &files {
        let reader = volume.store.open(&file.name()).unwrap();
        assert_eq!(reader.prefix().kind, Kind::Head);
        for place in &reader.directory().chunks {
            let (id, len) = (place.id, u64::from(place.len));
            held.push((id, volume.store.read(&id, 0, len).unwrap()));
        }
    }
    volume.store.mark_bad(&files.iter().map(|file| file.hash).collect::<Vec<_>>());
    for (id, bytes) in held {
        volume.store.stage(Class::Nodes, id, &bytes).unwrap();
    }
    volume.store.publish_objects(0).unwrap();
    device.answer();
    for file in files {
        device.world().remove_file(&format!("repo/{}", file.name().path()));
    }
}

#[test]
fn a_state_is_shown_although_its_head_is_gone() {
    let laptop = Device::first("LAPTOP");
    let mut states = Vec::new();
    for hour in 0..6 {
        laptop.later(3600);
        assert!(
            laptop.write("f", &format!("{hour}")) && laptop.write(&format!("f{hour}"), &text(500))
        );
        laptop.checkpoint();
        states.push((laptop.now(), laptop.seen()));
    }
    laptop.fs().keep("here").unwrap();
    let (before, _) = laptop.snapshots();
    laptop.later(3600);
    fold(&laptop);
    let (after, unreadable) = laptop.snapshots();
    let told = |state: &Snapshot| (state.time, state.inodes, state.bytes, state.label.clone());
    let all = |states: &[Snapshot]| states.iter().map(told).collect::<Vec<_>>();
    assert_eq!((all(&after), unreadable), (all(&before), 0));
    let laptop = laptop.end().mount(20);
    for (time, seen) in &states {
        let past = laptop.past(*time).unwrap();
        assert!(past.unusable.len() <= 1, "at most the head is missed that the ledger keeps");
        let told = past.notice.unwrap().to_string();
        assert!(told.contains("the latest state then is state"), "{told}");
        assert_eq!(past.base.commit.time, *time);
        assert_eq!(laptop.read_at(Some(*time)).unwrap().seen(), *seen);
        let (inodes, bytes) = (past.base.inherited.inodes, past.base.inherited.bytes);
        let state = before.iter().find(|state| state.time == *time).unwrap();
        assert_eq!((inodes, bytes), (state.inodes, state.bytes));
    }
    let early = Timestamp { secs: states[0].0.secs - 1, nanos: 0 };
    assert!(matches!(laptop.read_at(Some(early)), Err(VolumeError::TooEarly { .. })));
}

/// Each device keeps its own states: what was here at a time is the join of them.
#[test]
fn states_of_several_devices_are_joined_without_their_heads() {
    let laptop = Device::first("LAPTOP");
    let phone = laptop.another("PHONE", 3);
    let mut states = Vec::new();
    for hour in 0..4 {
        laptop.later(3600);
        assert!(
            laptop.write(&format!("l{hour}"), "laptop")
                && laptop.write("both", &format!("l{hour}"))
        );
        laptop.checkpoint();
        phone.later(1);
        assert!(phone.write(&format!("p{hour}"), "phone"));
        phone.checkpoint();
        let watch = laptop.another("WATCH", 9);
        watch.receive(&phone);
        states.push((phone.now(), watch.read_at(None).unwrap().seen()));
    }
    for device in [&laptop, &phone] {
        device.later(3600);
        fold(device);
    }
    let watch = laptop.another("WATCH", 9);
    watch.receive(&phone);
    for (time, seen) in states {
        assert_eq!(watch.read_at(Some(time)).unwrap().seen(), seen);
    }
}

/// A ledger that is not here does not hide what the heads show.
#[test]
fn a_ledger_that_cannot_be_read_is_told() {
    let laptop = Device::first("LAPTOP");
    publish(&laptop, 3, 60);
    assert!(kept_in(&laptop.volume().store, ([9; 16], 0)).is_err());
    assert!(kept_in(&laptop.volume().store, (crate::format::node::NO_ID, 0)).unwrap().is_empty());
}
