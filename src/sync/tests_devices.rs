//! Devices that write to one repository, each through its own copy of REPO, and mount again
//! after others' heads came.

use std::fmt::Write;

use proptest::prelude::*;

use crate::fs::{Followed, FsError};
use crate::merge::tests_devices::{Device, Listing};
use crate::merge::tests_histories::{Act, DIRS, acts, factor, play};

fn listing(device: &Device) -> Listing {
    device.shown().listing().unwrap_or_else(|error| panic!("{error}"))
}

/// Publishes what changed; what is shown below is then what the mount showed before.
fn publish(device: &Device) -> Result<(), TestCaseError> {
    let seen = device.seen();
    device.checkpoint();
    let shown = listing(device);
    prop_assert!(seen == shown, "the mount shows {:#?}\nthe tree {:#?}", seen, shown);
    Ok(())
}

#[test]
fn two_devices_write_and_both_see_everything() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.mkdir("D") && laptop.write("D/f", "base"));
    let phone = laptop.another("PHONE", 3);
    assert!(laptop.write("D/f", "laptop") && laptop.write("only", "laptop"));
    assert!(phone.write("D/f", "phone") && phone.mkdir("E"));
    laptop.checkpoint();
    phone.checkpoint();
    laptop.receive(&phone);
    phone.receive(&laptop);
    let (laptop, phone) = (laptop.remount(10), phone.remount(11));
    let both = listing(&laptop);
    assert_eq!(both, listing(&phone));
    assert_eq!(laptop.volume().tree().root, phone.volume().tree().root);
    let files = both.values().filter(|line| !line.is_dir).map(|line| line.bytes.as_str());
    let mut files: Vec<&str> = files.collect();
    files.sort_unstable();
    assert_eq!(files, ["laptop", "laptop", "phone"]);
    // One of them goes on: what it does not touch is as before, for the other too.
    assert!(laptop.volume().has_repairs());
    assert!(laptop.write("new", "laptop again"));
    laptop.checkpoint();
    assert!(laptop.volume().has_repairs(), "what nobody touched is not stored");
    // Also a new file in the very directory does not touch it.
    assert!(laptop.write("D/new", "laptop"));
    laptop.checkpoint();
    assert!(laptop.volume().has_repairs(), "it was stored with a file beside it");
    phone.receive(&laptop);
    let phone = phone.remount(12);
    let after = listing(&phone);
    assert_eq!(after, listing(&laptop));
    assert_eq!(after.len(), both.len() + 2);
    // The other edits the file that both changed.
    assert!(phone.write("D/f", "phone again"));
    phone.checkpoint();
    assert!(phone.volume().has_repairs(), "the other version is still to be decided about");
    laptop.receive(&phone);
    let laptop = laptop.remount(13);
    assert_eq!(listing(&laptop), listing(&phone));
    assert_eq!(listing(&laptop).len(), after.len());
    assert_eq!(listing(&laptop)["D/f"].bytes, "phone again");
}

/// What a device did before the others' heads came is replayed on what it had then.
#[test]
fn changes_in_the_journal_are_replayed_before_heads_are_joined() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "base"));
    let phone = laptop.another("PHONE", 3);
    assert!(phone.write("f", "phone"));
    phone.checkpoint();
    assert!(laptop.write("f", "laptop"));
    laptop.receive(&phone);
    let laptop = laptop.remount(10);
    let mut files: Vec<String> = listing(&laptop).into_values().map(|line| line.bytes).collect();
    files.sort_unstable();
    assert_eq!(files, ["laptop", "phone"]);
}

/// The first mount after a crash has changes of another writer only.
#[test]
fn rows_that_nothing_needs_any_more_go_with_the_changes_of_an_older_mount() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "base"));
    let phone = laptop.another("PHONE", 3);
    assert!(laptop.write("f", "laptop") && phone.write("f", "phone"));
    laptop.checkpoint();
    phone.checkpoint();
    laptop.receive(&phone);
    phone.receive(&laptop);
    let (laptop, phone) = (laptop.remount(10), phone.remount(11));
    let beside = listing(&phone).keys().find(|path| path.contains("(from")).unwrap().clone();
    assert!(laptop.write("other", "laptop"));
    assert!(phone.write(&beside, "decided") && phone.write("f", "phone again"));
    laptop.checkpoint();
    phone.checkpoint();
    laptop.receive(&phone);
    let laptop = laptop.remount(12);
    assert!(!laptop.volume().has_repairs());
    assert!(laptop.write("more", "laptop"));
    let laptop = laptop.remount(13);
    let before = laptop.seen();
    laptop.checkpoint();
    assert_eq!(listing(&laptop), before);
    assert!(before.contains_key("more") && before.contains_key("other"));
}

fn name(number: u32) -> String {
    format!("a file with a long name {number}")
}

/// A laptop with many files, and a phone that changed all of them in a head before its newest.
fn many_files() -> (Device, Device) {
    let laptop = Device::first("LAPTOP");
    (0..900).for_each(|number| assert!(laptop.write(&name(number), "base")));
    let phone = laptop.another("PHONE", 3);
    (0..900).for_each(|number| assert!(phone.write(&name(number), "phone")));
    phone.checkpoint();
    assert!(phone.write("last", "phone"));
    phone.checkpoint();
    (laptop, phone)
}

/// A sync client brings the newest head first: nothing could be opened.
#[test]
fn a_head_whose_tree_is_not_here_keeps_nobody_from_the_rest() {
    let (laptop, phone) = many_files();
    assert!(laptop.write("own", "laptop"));
    laptop.checkpoint();
    laptop.receive_newest_head(&phone);
    let laptop = laptop.remount(10);
    let seen = laptop.seen();
    assert!(seen.contains_key("own") && !seen.contains_key("last"));
    let heads = laptop.volume().heads();
    let [unusable] = &heads.unusable[..] else { panic!("{:?}", heads.unusable) };
    let told = unusable.error.to_string();
    assert!(told.starts_with("a part of state 2 of PHONE"), "{told}");
    assert!(laptop.write("more", "laptop"));
    laptop.checkpoint();
    laptop.receive(&phone);
    let laptop = laptop.remount(11);
    let seen = laptop.seen();
    assert!(["own", "more", "last"].iter().all(|name| seen.contains_key(*name)));
    assert_eq!(seen[&name(5)].bytes, "phone");
    assert_eq!(laptop.volume().heads().unusable.len(), 0);
}

/// The device had seen all and went on from it: its head was taken, and files that were here
/// could not be read.
#[test]
fn a_head_that_knows_all_and_whose_tree_is_not_here_is_waited_for() {
    let (laptop, phone) = many_files();
    laptop.receive_newest_head(&phone);
    // A mount that follows waits as an opening does.
    assert!(matches!(laptop.follow(), Followed::Nothing));
    let laptop = laptop.remount(10);
    assert_eq!(laptop.seen()[&name(5)].bytes, "base");
    assert_eq!(laptop.volume().heads().unusable.len(), 1);
    laptop.receive(&phone);
    assert!(matches!(laptop.follow(), Followed::Changed(_)));
    assert_eq!(laptop.seen()[&name(5)].bytes, "phone");
    let laptop = laptop.remount(11);
    assert_eq!(laptop.seen()[&name(5)].bytes, "phone");
}

/// What was joined is in no head until the mount publishes: a checkpoint that failed dropped
/// nodes of it, and what the mount showed could not be read any more.
#[test]
fn what_was_joined_outlives_checkpoints_that_fail() {
    for conflict in [false, true] {
        let laptop = Device::first("LAPTOP");
        let path = |number: u32| format!("D/{}", name(number));
        assert!(laptop.mkdir("D"));
        (0..300).for_each(|number| assert!(laptop.write(&path(number), "base")));
        let phone = laptop.another("PHONE", 3);
        for number in (0..300).step_by(2) {
            let other = number + u32::from(!conflict);
            assert!(laptop.write(&path(number), "laptop") && phone.write(&path(other), "phone"));
        }
        laptop.checkpoint();
        phone.checkpoint();
        laptop.receive(&phone);
        let laptop = laptop.remount(10);
        let before = laptop.seen();
        for number in 0..8 {
            assert!(laptop.write(&path(40 * number), "again"));
            assert!(laptop.checkpoint_fails_with(0), "there was room");
            assert_eq!(laptop.seen().len(), before.len(), "after {number}");
        }
        let seen = laptop.seen();
        laptop.checkpoint();
        assert_eq!(listing(&laptop), seen);
    }
}

/// While something is on its way the folder was read, and a head published, every few seconds.
#[test]
fn a_look_that_found_nothing_new_is_repeated_after_a_while() {
    let (laptop, phone) = many_files();
    let follower = Device::follower();
    assert!(laptop.has_news(&follower), "nobody looked yet");
    laptop.follow_with(&follower);
    assert!(!laptop.has_news(&follower));
    laptop.receive_newest_head(&phone);
    assert!(laptop.has_news(&follower));
    assert!(laptop.write("own", "laptop"));
    let heads = laptop.heads_written();
    for pause in [20, 40, 80] {
        laptop.follow_with(&follower);
        laptop.pass(pause / 2 - 6);
        assert!(!laptop.has_news(&follower), "it was looked at just now");
        laptop.pass(pause / 2 + 6);
        assert!(laptop.has_news(&follower), "what is on its way is looked for again");
    }
    assert_eq!(laptop.heads_written(), heads, "nothing new was shown, and a head was published");
}

#[test]
fn a_mount_follows_what_another_device_writes() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.mkdir("D") && laptop.write("D/f", "base") && laptop.write("g", "base"));
    let phone = laptop.another("PHONE", 3);
    assert!(matches!(laptop.follow(), Followed::Nothing));
    assert!(phone.write("D/f", "phone") && phone.write("new", "phone") && phone.unlink("g"));
    phone.checkpoint();
    laptop.receive(&phone);
    // What is open here, and what is not published, is not taken away from under anybody.
    let open = laptop.open_file("D/f").unwrap();
    for _ in 0..6 {
        let held = laptop.follow();
        assert!(matches!(&held, Followed::Later(Some(name)) if name == b"f"), "{held:?}");
    }
    assert_eq!(laptop.seen()["D/f"].bytes, "base");
    laptop.close(open);
    assert!(laptop.write("own", "laptop"));
    let Followed::Changed(changed) = laptop.follow() else { panic!("it is closed") };
    let names: Vec<&[u8]> = changed.names.iter().map(|(_, name)| name.as_slice()).collect();
    for name in [&b"f"[..], b"g", b"new"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let seen = laptop.seen();
    assert_eq!(seen["D/f"].bytes, "phone");
    assert!(seen.contains_key("new") && seen.contains_key("own") && !seen.contains_key("g"));
    assert_eq!(seen, listing(&laptop));
    // It goes on from there, and so does the other.
    assert!(laptop.append("D/f", "+laptop"));
    laptop.checkpoint();
    phone.receive(&laptop);
    assert!(matches!(phone.follow(), Followed::Changed(_)));
    assert_eq!(phone.seen(), laptop.seen());
    assert_eq!(phone.seen()["D/f"].bytes, "phone+laptop");
    assert!(matches!(phone.follow(), Followed::Nothing));
}

fn contents(device: &Device) -> Vec<String> {
    let shown = listing(device);
    let mut all: Vec<String> = shown.values().map(|line| line.bytes.clone()).collect();
    all.sort_unstable();
    all
}

/// Who edited one version stored the other one as a file, too. That file stayed when its author
/// replaced the version.
#[test]
fn a_version_that_its_author_replaces_does_not_come_back() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "base"));
    let phone = laptop.another("PHONE", 3);
    assert!(laptop.write("f", "laptop 1"));
    laptop.checkpoint();
    assert!(phone.write("f", "phone 1"));
    phone.checkpoint();
    phone.receive(&laptop);
    let phone = phone.remount(10);
    assert_eq!(contents(&phone), ["laptop 1", "phone 1"]);
    assert!(phone.write("f", "phone 2"));
    publish(&phone).unwrap();
    assert_eq!(contents(&phone), ["laptop 1", "phone 2"]);
    // The other one goes on without having seen any of it.
    assert!(laptop.write("f", "laptop 2"));
    laptop.checkpoint();
    laptop.receive(&phone);
    let laptop = laptop.remount(11);
    assert_eq!(contents(&laptop), ["laptop 2", "phone 2"]);
    // Also the other way round: the version that is shown as a file is edited as that.
    let beside = listing(&laptop).keys().find(|path| path.contains("(from")).unwrap().clone();
    assert!(laptop.write(&beside, "decided"));
    publish(&laptop).unwrap();
    phone.receive(&laptop);
    let phone = phone.remount(12);
    assert_eq!(listing(&phone), listing(&laptop));
    assert_eq!(contents(&phone).len(), 2);
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
    let left = contents(&laptop);
    // Each time somebody went on from the version of the other, the own one stayed undecided.
    assert!(left.len() <= 5, "{left:#?}");
    assert!(left.contains(&"laptop 7".into()) && left.contains(&"phone 7".into()), "{left:#?}");
}

/// One removes the version that lost; the other goes on with the one that won.
#[test]
fn a_version_that_was_removed_stays_away() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "base"));
    let phone = laptop.another("PHONE", 3);
    assert!(laptop.write("f", "laptop") && phone.write("f", "phone"));
    laptop.checkpoint();
    phone.checkpoint();
    laptop.receive(&phone);
    phone.receive(&laptop);
    let (laptop, phone) = (laptop.remount(10), phone.remount(11));
    let beside = listing(&laptop).keys().find(|path| path.contains("(from")).unwrap().clone();
    let won = listing(&laptop)["f"].bytes.clone();
    assert!(laptop.unlink(&beside));
    publish(&laptop).unwrap();
    assert_eq!(contents(&laptop), [won.as_str()]);
    assert!(phone.append("f", " and more"));
    publish(&phone).unwrap();
    laptop.receive(&phone);
    let laptop = laptop.remount(12);
    assert_eq!(contents(&laptop), [format!("{won} and more")]);
}

/// The newest head came before the one in the middle: the mount said nothing, and said of both that
/// it holds them.
#[test]
fn a_head_that_is_missing_in_the_middle_is_told_and_not_held() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("e", "base"));
    let phone = laptop.another("PHONE", 3);
    assert!(laptop.write("f", &"in the middle".repeat(100)));
    laptop.checkpoint();
    assert!(laptop.write("g", "at the end"));
    laptop.checkpoint();
    phone.receive_newest_head(&laptop);
    let phone = phone.remount(10);
    let told = phone.volume().notices.iter().any(|notice| {
        notice.to_string().contains("a state of LAPTOP") && notice.to_string().contains("not here")
    });
    let left_out = !phone.volume().heads().unusable.is_empty();
    assert!(told || left_out, "{:#?}", phone.volume().notices);
    assert!(phone.write("own", "phone"));
    phone.checkpoint();
    let laptop_id = laptop.volume().state().device;
    let held = |phone: &Device| phone.volume().base().commit.processed.held(&laptop_id);
    assert!(held(&phone).is_none_or(|held| held < 3), "{:?}", held(&phone));
    phone.receive(&laptop);
    let phone = phone.remount(11);
    phone.answer();
    assert_eq!(held(&phone), Some(3));
}

/// The kernel keeps the length that it knows of a file, and appended there: what another device had
/// written was gone.
#[test]
fn a_file_that_changed_elsewhere_is_another_inode_for_the_kernel() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "short") && laptop.write("same", "as before"));
    let phone = laptop.another("PHONE", 3);
    let (known, same) = (phone.look_up("f").unwrap(), phone.look_up("same").unwrap());
    assert_eq!(known.generation, 0);
    assert!(laptop.write("f", "and much longer"));
    laptop.checkpoint();
    phone.receive(&laptop);
    assert!(matches!(phone.follow(), Followed::Changed(_)));
    assert_eq!(phone.open_again(known.ino).unwrap_err(), FsError::Stale);
    assert!(phone.open_again(same.ino).is_ok());
    let new = phone.look_up("f").unwrap();
    assert_eq!((new.ino, new.generation, new.size), (known.ino, 1, 15));
    assert!(phone.open_again(known.ino).is_ok());
    phone.close(known.ino);
    phone.close(same.ino);
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
        assert!(contents(&laptop).contains(&"laptop 2".into()), "{shown:#?}");
        let each = if log.is_some() { 2 } else { 1 };
        assert_eq!(shown.len(), 2 * each, "{shown:#?}");
    }
}

/// A machine is copied with its local state, as a virtual machine is. Both write, and nobody of them
/// may go on as the device that they were: under new ids all that both wrote is there.
#[test]
fn a_copied_device_goes_on_under_new_ids_and_nothing_is_lost() {
    let laptop = Device::first("LAPTOP");
    let phone = laptop.another("PHONE", 3);
    assert!(laptop.write("old", "laptop"));
    laptop.checkpoint();
    assert!(laptop.write("waits", "in both journals"));
    let laptop = laptop.end();
    let (copy, laptop) = (laptop.copy().mount(20), laptop.mount(21));
    assert!(copy.write("copy", "copy") && copy.write("old", "copy"));
    assert!(laptop.write("own", "laptop") && laptop.write("old", "laptop again"));
    copy.checkpoint();
    laptop.checkpoint();
    assert!(laptop.write("last", "only in the journal"));
    // The third sees what both wrote, whichever comes first, and goes on with both.
    phone.receive(&copy);
    let phone = phone.remount(30);
    phone.receive(&laptop);
    let phone = phone.remount(31);
    let shown = listing(&phone);
    for name in ["copy", "own", "old", "waits"] {
        assert!(shown.contains_key(name), "{name}: {shown:#?}");
    }
    let olds = shown.iter().filter(|(path, _)| path.starts_with("old"));
    let olds: Vec<&str> = olds.map(|(_, line)| line.bytes.as_str()).collect();
    assert_eq!(olds.len(), 2, "{shown:#?}");
    assert!(phone.write("phone", "phone"));
    phone.checkpoint();
    assert_eq!(listing(&phone.remount(32)).len(), shown.len() + 1);
    laptop.receive(&copy);
    copy.receive(&laptop);
    let (laptop, copy) = (laptop.end(), copy.end());
    for one in [&laptop, &copy] {
        let why = one.refusal(40).unwrap();
        assert!(why.contains("another copy of it published"), "{why}");
    }
    laptop.renew(0x51);
    let laptop = laptop.mount(41);
    assert!(laptop.volume().is_replay());
    let laptop = laptop.remount(42);
    let shown = listing(&laptop);
    for name in ["copy", "own", "old", "waits", "last"] {
        assert!(shown.contains_key(name), "{name}: {shown:#?}");
    }
    laptop.checkpoint();
    // Who took the id of both out of use is its heir: the copy needs a new one, too.
    let copy = copy.with_files_of(&laptop);
    let why = copy.refusal(43).unwrap();
    assert!(why.contains("LAPTOP (51515151) retired this device"), "{why}");
    copy.renew(0x52);
    let copy = copy.mount(44);
    copy.checkpoint();
    laptop.receive(&copy);
    let (laptop, copy) = (laptop.remount(45), copy.remount(46));
    assert_eq!(listing(&laptop), listing(&copy));
    assert_eq!(listing(&laptop), shown);
    assert_eq!(laptop.volume().tree().root, copy.volume().tree().root);
    assert!(copy.write("after", "copy"));
    copy.checkpoint();
    let heads = copy.heads_written();
    assert_eq!(copy.remount(47).heads_written(), heads, "nothing is retired twice");
}

/// Local state is put back from a backup, after its device wrote more.
#[test]
fn a_state_that_was_put_back_goes_on_under_a_new_id() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "one"));
    laptop.checkpoint();
    assert!(laptop.write("f", "two"));
    let laptop = laptop.end();
    let backup = laptop.copy();
    let laptop = laptop.mount(5);
    assert!(laptop.write("g", "three"));
    laptop.checkpoint();
    let backup = backup.with_files_of(&laptop);
    let why = backup.refusal(6).unwrap();
    assert!(why.contains("restored or copied"), "{why}");
    backup.renew(0x61);
    let restored = backup.mount(7).remount(8);
    let shown = listing(&restored);
    assert_eq!(shown["f"].bytes, "two");
    assert_eq!(shown["g"].bytes, "three");
    assert_eq!(shown.len(), 2, "{shown:#?}");
}

/// A copy of a device is found out by what others say of it, also before a head of it comes.
#[test]
fn a_copy_is_noticed_by_what_another_device_processed() {
    let laptop = Device::first("LAPTOP");
    let phone = laptop.another("PHONE", 3);
    assert!(laptop.write("f", "one"));
    laptop.checkpoint();
    let laptop = laptop.end();
    let (copy, laptop) = (laptop.copy().mount(20), laptop.mount(21));
    assert!(copy.write("f", "copy"));
    copy.checkpoint();
    phone.receive(&copy);
    let phone = phone.remount(22);
    assert!(phone.write("g", "phone"));
    phone.checkpoint();
    laptop.receive_newest_head(&phone);
    let laptop = laptop.end();
    let why = laptop.refusal(23).unwrap();
    assert!(why.contains("restored or copied"), "{why}");
}

#[test]
fn a_retired_device_is_told_by_whom_and_what_it_wrote_stays() {
    let laptop = Device::first("LAPTOP");
    let phone = laptop.another("PHONE", 3);
    assert!(phone.write("f", "phone"));
    phone.checkpoint();
    assert!(phone.write("g", "later"));
    laptop.receive(&phone);
    let laptop = laptop.remount(10);
    let heads = laptop.volume().heads();
    let head = heads.newest.iter().find(|head| head.name == "PHONE").unwrap();
    assert!(laptop.volume().retire(head));
    assert!(!laptop.volume().retire(head), "twice");
    laptop.checkpoint();
    assert!(!laptop.volume().retire(head), "it is published");
    let phone = phone.end().with_files_of(&laptop);
    let why = phone.refusal(11).unwrap();
    assert!(why.contains("LAPTOP") && why.contains("retired this device"), "{why}");
    phone.renew(0x71);
    let phone = phone.mount(12).remount(13);
    phone.checkpoint();
    laptop.receive(&phone);
    let shown = listing(&laptop.remount(14));
    assert_eq!((shown["f"].bytes.as_str(), shown["g"].bytes.as_str()), ("phone", "later"));
}

/// What a device holds it says once, and what says only that is not answered: a quiet folder stays
/// quiet.
#[test]
fn an_answer_is_given_once_and_answers_are_not_answered() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "one"));
    laptop.checkpoint();
    let phone = laptop.another("PHONE", 3);
    assert_eq!(laptop.volume().owed_answer(), None);
    let owed = phone.volume().owed_answer().expect("it has said nothing of the other");
    assert!(owed.is_soon, "and is new");
    phone.answer();
    assert_eq!(phone.volume().owed_answer(), None);
    laptop.receive(&phone);
    let laptop = laptop.remount(10);
    let holders = laptop.volume().heads().holders.clone();
    assert_eq!((holders.len(), holders[0].generation), (1, 1));
    assert!(laptop.volume().owed_answer().expect("the other is new").is_soon);
    laptop.answer();
    phone.receive(&laptop);
    let phone = phone.remount(11);
    for device in [&laptop, &phone] {
        assert_eq!(device.volume().owed_answer(), None);
    }
    // News is answered, later; soon if somebody asks.
    assert!(laptop.write("f", "two"));
    laptop.checkpoint();
    phone.receive(&laptop);
    let phone = phone.remount(12);
    assert!(!phone.volume().owed_answer().expect("there is news").is_soon);
    assert!(phone.write("g", "with a change"));
    phone.checkpoint();
    assert_eq!(phone.volume().owed_answer(), None, "the next head says it anyway");
    laptop.volume().ask();
    laptop.checkpoint();
    phone.receive(&laptop);
    let phone = phone.remount(13);
    assert_eq!(phone.volume().owed_answer(), None, "it has said all that there is to say");
    assert!(laptop.write("f", "three"));
    laptop.volume().ask();
    laptop.checkpoint();
    phone.receive(&laptop);
    let phone = phone.remount(14);
    assert!(phone.volume().owed_answer().expect("there is news").is_soon);
    phone.answer();
    laptop.receive(&phone);
    let laptop = laptop.remount(15);
    let state = laptop.volume().state();
    let holders = laptop.volume().heads().holders.clone();
    assert!(holders[0].generation >= state.news && holders[0].time.is_some());
}

/// What a large file wrote before its device was retired lies in objects under the old id, which no
/// head names.
#[test]
fn a_renewed_device_has_what_its_journal_names_in_objects() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "one"));
    let phone = laptop.another("PHONE", 3);
    let mut number = 1u64;
    let mut large = String::new();
    while large.len() < 30 << 20 {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        write!(large, "{number:016x}").unwrap();
    }
    assert!(laptop.write("large", ""));
    for at in (0..large.len()).step_by(128 << 10) {
        assert!(laptop.append("large", &large[at..large.len().min(at + (128 << 10))]));
    }
    let objects = laptop.objects_written();
    assert!(objects > 0, "it was to enter REPO before the head");
    phone.receive(&laptop);
    let phone = phone.remount(10);
    let heads = phone.volume().heads();
    let head = heads.newest.iter().find(|head| head.name == "LAPTOP").unwrap();
    assert!(phone.volume().retire(head));
    phone.checkpoint();
    let laptop = laptop.end().with_files_of(&phone);
    laptop.renew(0x33);
    let laptop = laptop.mount(11).remount(12);
    laptop.checkpoint();
    assert!(laptop.read("large") == large, "it is another one");
    phone.receive(&laptop);
    let phone = phone.remount(13);
    assert!(phone.read("large") == large, "it is another one");
}

/// A step of a world of three devices.
#[derive(Clone, Debug)]
enum Step {
    /// A device does these things; its clock may be wrong.
    Act(usize, Vec<Act>),
    /// A device publishes.
    Publish(usize),
    /// All that the second has reaches the first.
    Carry(usize, usize),
    /// A device mounts again; without publishing, if told so.
    Mount(usize, bool),
    /// A device goes on from what has come, while it is mounted.
    Follow(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let device = || 0usize..3;
    prop_oneof![
        4 => (device(), acts(5)).prop_map(|(device, acts)| Step::Act(device, acts)),
        2 => device().prop_map(Step::Publish),
        3 => (device(), device()).prop_map(|(to, from)| Step::Carry(to, from)),
        2 => (device(), any::<bool>()).prop_map(|(device, kill)| Step::Mount(device, kill)),
        3 => device().prop_map(Step::Follow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200 * factor()))]
    #[test]
    fn devices_that_joined_the_same_heads_show_the_same(
        first in acts(10), steps in prop::collection::vec(step(), 5..30),
    ) {
        let (mut made, mut seed) = (0, 100);
        let laptop = Device::first("LAPTOP");
        DIRS[..3].iter().for_each(|dir| assert!(laptop.mkdir(dir)));
        play(&laptop, "base", &first, &mut made);
        let (phone, desk) = (laptop.another("PHONE", 3), laptop.another("DESK", 4));
        let mut devices = [Some(laptop), Some(phone), Some(desk)];
        let mut mount = |slot: &mut Option<Device>| {
            seed += 10;
            let before = slot.take().expect("each has one");
            *slot = Some(before.remount(seed));
        };
        for step in steps {
            match step {
                Step::Act(at, acts) => {
                    play(devices[at].as_ref().unwrap(), "x", &acts, &mut made);
                }
                Step::Follow(at) => {
                    let device = devices[at].as_ref().unwrap();
                    let before = device.seen();
                    match device.follow() {
                        Followed::Changed(_) => prop_assert_eq!(device.seen(), listing(device)),
                        Followed::Nothing => prop_assert_eq!(device.seen(), before),
                        Followed::Later(why) => prop_assert!(false, "nothing is open: {why:?}"),
                    }
                }
                Step::Publish(at) => publish(devices[at].as_ref().unwrap())?,
                Step::Carry(to, from) if to == from => {}
                Step::Carry(to, from) => {
                    devices[to].as_ref().unwrap().receive(devices[from].as_ref().unwrap());
                }
                Step::Mount(at, kill) => {
                    if !kill {
                        publish(devices[at].as_ref().unwrap())?;
                    }
                    mount(&mut devices[at]);
                    let device = devices[at].as_ref().unwrap();
                    let seen = device.seen();
                    // What was replayed stands above the tree.
                    if !kill {
                        let shown = listing(device);
                        prop_assert!(seen == shown, "{:#?}\n{:#?}", seen, shown);
                    }
                }
            }
        }
        // All reaches all, and nobody does anything any more.
        for slot in &mut devices {
            publish(slot.as_ref().unwrap())?;
            mount(slot);
            publish(slot.as_ref().unwrap())?;
        }
        for (to, from) in [(0, 1), (0, 2), (1, 0), (2, 0)] {
            devices[to].as_ref().unwrap().receive(devices[from].as_ref().unwrap());
        }
        for slot in &mut devices {
            mount(slot);
        }
        let all: Vec<&Device> = devices.iter().flatten().collect();
        for device in &all[1..] {
            let (one, other) = (all[0].volume().base(), device.volume().base());
            prop_assert_eq!(one.inherited.root, other.inherited.root);
            prop_assert_eq!(one.namespace.shown, other.namespace.shown);
            prop_assert_eq!(&one.namespace.repairs, &other.namespace.repairs);
            prop_assert_eq!(one.inherited.inodes, other.inherited.inodes);
            prop_assert_eq!(one.inherited.bytes, other.inherited.bytes);
        }
    }
}
