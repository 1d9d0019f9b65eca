//! The past is below `.snapshots` as it was, and stays as it was.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::states::name_of;
use super::*;
use crate::fs::TimeSet;
use crate::merge::tests_devices::{Device, listing};
use crate::merge::tests_histories::{acts, factor, play, turn};
use crate::merge::tests_maps::Listing;

const ME: Caller = Caller { uid: 1000, gid: 1000 };

/// Publishes and tells what is shown then, and when that was.
fn published(device: &Device) -> (Timestamp, Listing) {
    device.tick();
    device.checkpoint();
    (device.now(), device.seen())
}

fn look_up(fs: &WithPast, path: &[&[u8]]) -> Result<u64> {
    path.iter().try_fold(ROOT, |dir, name| Ok(fs.lookup(dir, name)?.ino))
}

/// The directory of the state that was published at a time.
fn state_of(fs: &WithPast, time: Timestamp) -> Result<u64> {
    look_up(fs, &[SNAPSHOTS, name_of(time, &TimeZone::system()).as_bytes()])
}

fn names(fs: &WithPast, dir: u64) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    // In pieces, as a kernel asks.
    let mut cookie = 0;
    loop {
        let before = found.len();
        fs.readdir(dir, cookie, false, &mut |entry| {
            if found.len() == before + 2 {
                return false;
            }
            found.push((String::from_utf8(entry.name.clone()).unwrap(), entry.attr.ino));
            cookie = entry.cookie;
            true
        })
        .unwrap();
        if found.len() == before {
            return found;
        }
    }
}

#[test]
fn each_state_is_below_its_time() {
    let laptop = Device::first("LAPTOP");
    let mut states = Vec::new();
    for text in ["one", "two", "three"] {
        assert!(laptop.write("f", text) && laptop.write(text, &text.repeat(2000)));
        states.push(published(&laptop));
    }
    let fs = laptop.with_past();
    let mut numbers = BTreeMap::new();
    for (time, seen) in &states {
        let dir = state_of(&fs, *time).unwrap();
        assert_eq!(listing(&fs, dir).unwrap(), *seen);
        assert_eq!(fs.getattr(dir).unwrap().mtime, *time);
        for (name, number) in names(&fs, dir).into_iter().skip(2) {
            assert!(is_past(number) && numbers.insert(number, name).is_none());
            // A number that the kernel was never told is none.
            assert_eq!(fs.getattr(number), Err(FsError::Stale));
        }
        assert_eq!(names(&fs, dir)[..2], [(".".into(), dir), ("..".into(), STATES)]);
        assert_eq!(fs.lookup(dir, b"..").unwrap().ino, STATES);
    }
    // It is not listed in the root. Of the states of one hour only the last is listed.
    assert!(names(&fs, ROOT).iter().all(|(name, _)| name.as_bytes() != SNAPSHOTS));
    let last = name_of(states[2].0, &TimeZone::system());
    let listed = names(&fs, STATES);
    assert_eq!(listed[..2], [(".".into(), STATES), ("..".into(), ROOT)]);
    assert_eq!(listed.last().unwrap(), &(last, state_of(&fs, states[2].0).unwrap()));
    assert!(listed.len() <= 4, "{listed:?}");
    assert_eq!(look_up(&fs, &[SNAPSHOTS, b"yesterday"]), Err(FsError::NotFound));
    // A state comes to the list within a second.
    assert!(laptop.write("f", "four"));
    let (time, seen) = published(&laptop);
    laptop.world().clock().advance(std::time::Duration::from_secs(1));
    assert_eq!(listing(&fs, state_of(&fs, time).unwrap()).unwrap(), seen);
    assert_eq!(listing(&fs, ROOT).unwrap(), seen);
}

#[test]
fn what_is_of_the_past_cannot_be_changed() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.mkdir("d") && laptop.write("d/f", "text"));
    let (time, seen) = published(&laptop);
    let fs = laptop.with_past();
    let state = state_of(&fs, time).unwrap();
    let dir = fs.lookup(state, b"d").unwrap().ino;
    let file = fs.lookup(dir, b"f").unwrap().ino;
    let present = fs.lookup(ROOT, b"d").unwrap().ino;
    let no = FsError::ReadOnly;
    for dir in [STATES, state, dir] {
        assert_eq!(fs.mkdir(ME, dir, b"x", 0o755), Err(no));
        assert_eq!(fs.mknod(ME, dir, b"x", 0o100_644, 0), Err(no));
        assert_eq!(fs.symlink(ME, dir, b"x", b"y"), Err(no));
        assert_eq!(fs.unlink(dir, b"f"), Err(no));
        assert_eq!(fs.rmdir(dir, b"d"), Err(no));
        assert_eq!(fs.rename((dir, b"f"), (present, b"g"), RenameMode::Replace), Err(no));
        assert_eq!(fs.rename((present, b"f"), (dir, b"g"), RenameMode::Exchange), Err(no));
        assert_eq!(fs.setxattr(dir, b"user.x", b"1", 0), Err(no));
        let times = SetAttr { mtime: Some(TimeSet::Now), ..SetAttr::default() };
        assert_eq!(fs.setattr(dir, &times), Err(no));
    }
    assert_eq!(fs.link(file, present, b"g"), Err(no));
    assert_eq!(fs.open(file, true, false), Err(no));
    assert_eq!(fs.open(file, false, true), Err(no));
    assert_eq!(fs.write(file, 0, b"x", false), Err(no));
    assert_eq!(fs.fallocate(file, 0, 1, 0), Err(no));
    assert_eq!(fs.removexattr(file, b"user.x"), Err(no));
    let live = fs.lookup(present, b"f").unwrap().ino;
    assert_eq!(fs.copy_file_range((live, 0), (file, 0), 4), Err(no));
    assert_eq!(fs.copy_file_range((file, 0), (live, 0), 4), Err(FsError::NotSupported));
    // Its name is not free, and cannot be taken away.
    assert_eq!(fs.mkdir(ME, ROOT, SNAPSHOTS, 0o755), Err(no));
    assert_eq!(fs.rmdir(ROOT, SNAPSHOTS), Err(no));
    assert_eq!(fs.rename((ROOT, b"d"), (ROOT, SNAPSHOTS), RenameMode::Replace), Err(no));
    assert_eq!(fs.rename((ROOT, SNAPSHOTS), (ROOT, b"x"), RenameMode::Replace), Err(no));
    fs.open(file, false, false).unwrap();
    assert_eq!(fs.read(file, 1, 2).unwrap(), b"ex");
    fs.release(file, false);
    assert_eq!((fs.fsync(file), fs.fsync(STATES)), (Ok(()), Ok(())));
    assert_eq!(listing(&fs, state).unwrap(), seen);
    // Where something has that name already, that is what it means.
    assert!(laptop.mkdir(".snapshots"));
    assert!(!is_past(fs.lookup(ROOT, SNAPSHOTS).unwrap().ino));
    fs.rmdir(ROOT, SNAPSHOTS).unwrap();
    assert_eq!(fs.lookup(ROOT, SNAPSHOTS).unwrap().ino, STATES);
}

/// Another device's state of that time comes later: the directory shows it then, under another number.
#[test]
fn what_comes_late_is_shown_too() {
    let laptop = Device::first("LAPTOP");
    published(&laptop);
    let phone = laptop.another("PHONE", 3);
    assert!(phone.write("theirs", "1"));
    published(&phone);
    assert!(laptop.write("mine", "2"));
    let (time, seen) = published(&laptop);
    let fs = laptop.with_past();
    let before = state_of(&fs, time).unwrap();
    assert_eq!(listing(&fs, before).unwrap(), seen);
    laptop.receive(&phone);
    laptop.world().clock().advance(std::time::Duration::from_secs(1));
    let after = state_of(&fs, time).unwrap();
    let shown = listing(&fs, after).unwrap();
    assert_eq!(shown.keys().collect::<Vec<_>>(), ["mine", "theirs"]);
    assert_ne!(before, after);
    assert_eq!(listing(&fs, before).unwrap(), seen, "who is in it goes on with what it showed");
}

#[test]
fn a_state_that_cannot_be_read_is_not_passed_off_as_another() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "one"));
    let (first, _) = published(&laptop);
    assert!(laptop.write("f", "two"));
    let (time, _) = published(&laptop);
    assert!(laptop.write("f", "three"));
    let (last, seen) = published(&laptop);
    let fs = laptop.with_past();
    // The list is read while it is whole.
    let dirs = [first, time].map(|time| state_of(&fs, time).unwrap());
    laptop.cut_head(2);
    // When it was made cannot be read, so it may be of both times.
    for dir in dirs {
        assert_eq!(listing(&fs, dir), Err(FsError::NotHere));
        // To be listed beside others it is not looked into.
        assert_eq!(fs.getxattr(dir, b"user.x"), Err(FsError::NoData));
        assert_eq!(
            (fs.listxattr(dir), fs.getattr(dir).map(|attr| attr.ino)),
            (Ok(vec![]), Ok(dir))
        );
    }
    assert_eq!(listing(&fs, state_of(&fs, last).unwrap()).unwrap(), seen);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20 * factor()))]
    /// A mount shows of each time what a command shows that opens the repository for that time.
    #[test]
    fn a_mount_shows_the_past_that_commands_show(
        first in acts(10), turns in prop::collection::vec(turn(2), 5..20),
    ) {
        let mut made = 0;
        let laptop = Device::first("LAPTOP");
        play(&laptop, "base", &first, &mut made);
        let phone = laptop.another("PHONE", 3);
        let devices = [laptop, phone];
        let fs = devices[0].with_past();
        for turn in turns {
            turn.play(&devices, &mut made);
            // Now and then somebody looks, and goes.
            let listed = names(&fs, STATES);
            prop_assert!(listed.len() >= 2);
        }
        devices[0].world().clock().advance(std::time::Duration::from_secs(1));
        for snapshot in devices[0].snapshots().0 {
            let seen = devices[0].read_at(Some(snapshot.time)).unwrap().seen();
            let dir = state_of(&fs, snapshot.time).unwrap();
            prop_assert_eq!(listing(&fs, dir).unwrap(), seen);
        }
        let known = fs.past.as_ref().map(|past| past.numbers().count());
        // Those of the directories of states, which were looked up, and no others.
        let states = devices[0].snapshots().0;
        let times: std::collections::BTreeSet<_> = states.iter().map(|state| state.time).collect();
        prop_assert_eq!(known, Some(times.len()));
    }
}
