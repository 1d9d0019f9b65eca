//! Who a device is, and what others know of it: local state that was copied or put back, devices
//! that are retired, and what each says that it holds.

use std::fmt::Write;

use super::tests_devices::listing;
use crate::io::Timestamp;
use crate::io::sim::{Crash, Fault, Unsynced};
use crate::merge::tests_devices::Device;

/// A machine is copied with its local state, as a virtual machine is. Both write, and nobody of them
/// may go on as the device that they were: under new ids all that both wrote is there.
#[test]
fn a_copied_device_goes_on_under_new_ids_and_nothing_is_lost() {
    let laptop = Device::first("LAPTOP");
    let phone = laptop.another("PHONE", 3);
    assert!(laptop.write("old", "laptop"));
    laptop.checkpoint();
    assert!(laptop.write("waits", "in both journals"));
    let old_id = laptop.volume().state().device;
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
    laptop.checkpoint();
    // What only the copy wrote is not in this head, though it has the number of one that is.
    assert_eq!(laptop.volume().base().commit.processed.held(&old_id), None);
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

/// Of a large file objects under the old id enter REPO before a head names them.
#[test]
fn a_renewed_device_has_large_files_that_were_being_written() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "one"));
    let phone = laptop.another("PHONE", 3);
    let large = text(30 << 20);
    assert!(write_in_pieces(&laptop, "large", &large));
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

/// Bytes that no other text has.
pub(super) fn text(len: usize) -> String {
    let mut text = String::new();
    let mut number = 1u64;
    while text.len() < len {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        write!(text, "{number:016x}").unwrap();
    }
    text
}

/// Writes a text that is longer than one record of the journal.
pub(super) fn write_in_pieces(device: &Device, path: &str, text: &str) -> bool {
    let pieces = (0..text.len()).step_by(128 << 10);
    let mut pieces = pieces.map(|at| &text[at..text.len().min(at + (128 << 10))]);
    device.write(path, "") && pieces.all(|piece| device.append(path, piece))
}

/// A client gave an object its size, and its bytes, or the second half of them, were still to come.
/// What was the same here was taken for stored, and the other device was told that it is here.
#[test]
fn an_object_without_its_bytes_is_neither_referred_to_nor_held() {
    for half in [false, true] {
        let laptop = Device::first("LAPTOP");
        assert!(laptop.write("f", "base"));
        let phone = laptop.another("PHONE", 3);
        let large = text(3 << 20);
        assert!(write_in_pieces(&phone, "large", &large));
        phone.checkpoint();
        assert_eq!(phone.objects_written(), 1);
        laptop.receive(&phone);
        laptop.blank_objects(half);
        let laptop = laptop.remount(10);
        laptop.answer();
        let phone_id = phone.volume().state().device;
        let held = |laptop: &Device| laptop.volume().base().commit.processed.held(&phone_id);
        assert_eq!(held(&laptop), None, "it says that it holds what it has not");
        assert!(laptop.volume().owed_answer().is_none(), "it owes what it cannot say");
        assert!(write_in_pieces(&laptop, "same", &large));
        laptop.checkpoint();
        assert_eq!(laptop.objects_written(), 2, "it was not stored");
        let laptop = laptop.remount(11);
        assert!(laptop.read("same") == large);
        // Once the bytes are there it says so.
        let laptop = laptop_with(&phone, 12);
        laptop.answer();
        assert!(held(&laptop).is_some());
    }
}

/// What a device changed may need objects of a third one, which it held.
#[test]
fn a_device_is_held_with_the_objects_that_its_changes_need() {
    let laptop = Device::first("LAPTOP");
    let phone = laptop.another("PHONE", 3);
    let desk = laptop.another("DESK", 4);
    let large = text(3 << 20);
    assert!(write_in_pieces(&phone, "large", &large));
    phone.checkpoint();
    desk.receive(&phone);
    let desk = desk.remount(10);
    desk.answer();
    // The phone waits for the desk before it removes anything, once it knows of it.
    phone.receive(&desk);
    phone.follow();
    phone.answer();
    desk.receive(&phone);
    desk.follow();
    assert!(write_in_pieces(&desk, "same", &large));
    desk.checkpoint();
    assert_eq!(desk.objects_written(), 1, "it refers to what the phone stored");
    laptop.receive(&desk);
    laptop.blank_objects(false);
    let laptop = laptop.remount(11);
    laptop.answer();
    let desk_id = desk.volume().state().device;
    assert_eq!(laptop.volume().base().commit.processed.held(&desk_id), None);
    laptop.receive(&phone);
    let laptop = laptop.remount(12);
    laptop.answer();
    assert!(laptop.volume().base().commit.processed.held(&desk_id).is_some());
}

/// Another device that has all that the phone has.
fn laptop_with(phone: &Device, seed: u64) -> Device {
    phone.another("LAPTOP", seed).remount(seed + 1)
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
    let told: Vec<String> = phone.volume().notices.iter().map(ToString::to_string).collect();
    let is_told =
        |text: &String| text.starts_with("a state of LAPTOP") && text.contains("not here");
    assert!(told.iter().any(is_told), "{told:#?}");
    assert!(phone.write("own", "phone"));
    phone.checkpoint();
    let laptop_id = laptop.volume().state().device;
    let held = |phone: &Device| phone.volume().base().commit.processed.held(&laptop_id);
    assert_eq!(held(&phone), None);
    phone.receive(&laptop);
    let phone = phone.remount(11);
    phone.answer();
    assert_eq!(held(&phone), Some(3));
}

/// Own heads in the middle were not here: the one before them was taken for that of a copy of this
/// device, since what the newest head has of it could not be read.
#[test]
fn a_head_before_those_that_are_missing_is_no_copy() {
    let mut laptop = Device::first("LAPTOP");
    // Each mount is a writer of its own: more of them than one node of the tree holds.
    for number in 0..100 {
        assert!(laptop.write("f", &format!("{number}")));
        laptop.checkpoint();
        laptop = laptop.remount(100 + number);
    }
    let laptop = laptop.end();
    let paths = laptop.copy().world.paths();
    let heads: Vec<&String> = paths.iter().filter(|path| path.contains("/head/")).collect();
    assert!(heads.len() >= 100);
    for count in 1..3 {
        for first in heads.len() / 2..heads.len() - count {
            let laptop = laptop.copy();
            for head in &heads[first..first + count] {
                assert!(laptop.world.remove_file(head));
            }
            let why = laptop.refusal(10);
            assert_eq!(why, None, "without heads {first} to {}", first + count - 1);
        }
    }
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

/// A head in the middle is here and cannot be read: what only it names was not looked for, and was
/// said to be held.
#[test]
fn a_head_in_the_middle_that_cannot_be_read_is_not_held() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("e", "base"));
    let phone = laptop.another("PHONE", 3);
    assert!(laptop.write("f", "in the middle"));
    laptop.checkpoint();
    assert!(laptop.write("g", "at the end"));
    laptop.checkpoint();
    phone.receive(&laptop);
    phone.cut_head(2);
    let phone = phone.remount(10);
    assert!(phone.write("own", "phone"));
    phone.checkpoint();
    let id = laptop.volume().state().device;
    assert_eq!(phone.volume().base().commit.processed.held(&id), None);
}

/// A mount that does not follow others still looks what they say.
#[test]
fn a_mount_that_shows_nothing_of_others_knows_what_they_hold() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "one"));
    laptop.checkpoint();
    let phone = laptop.another("PHONE", 3);
    assert!(phone.write("g", "phone"));
    phone.checkpoint();
    let (before, follower) = (listing(&laptop), Device::follower());
    assert_eq!(follower.age(laptop.volume()), None, "nobody has looked");
    laptop.read_heads(&follower).unwrap();
    assert!(laptop.volume().heads().holders.is_empty());
    laptop.receive(&phone);
    assert!(laptop.has_news(&follower));
    laptop.read_heads(&follower).unwrap();
    let holders = laptop.volume().heads().holders.clone();
    assert_eq!((holders.len(), holders[0].generation), (1, 1));
    assert_eq!(listing(&laptop), before, "it shows nothing of them");
    laptop.pass(20);
    assert!(!laptop.has_news(&follower), "the folder has not changed");
    assert!(follower.age(laptop.volume()).unwrap().as_secs() < 5, "and that was seen just now");
}

/// A look for a sweep counted as one that was followed: what had come was shown with the next head only.
#[test]
fn a_mount_that_follows_shows_what_a_look_has_seen() {
    let laptop = Device::first("LAPTOP");
    laptop.checkpoint();
    let phone = laptop.another("PHONE", 3);
    assert!(phone.write("g", "phone"));
    phone.checkpoint();
    let follower = Device::follower();
    laptop.follow_with(&follower);
    laptop.receive(&phone);
    laptop.fs().read_heads(&follower, true).unwrap();
    laptop.pass(20);
    assert!(laptop.has_news(&follower));
    laptop.follow_with(&follower);
    assert_eq!(laptop.read("g"), "phone");
}

/// What another device has of a copy of this one was said to be of this one; and a look that failed
/// counted as one.
#[test]
fn who_holds_the_head_of_a_copy_holds_nothing_of_this_device() {
    let laptop = Device::first("LAPTOP");
    let phone = laptop.another("PHONE", 3);
    let laptop = laptop.end();
    let (copy, laptop) = (laptop.copy().mount(20), laptop.mount(21));
    assert!(laptop.write("f", "laptop") && copy.write("f", "copy"));
    laptop.checkpoint();
    copy.checkpoint();
    phone.receive(&copy);
    let phone = phone.remount(22);
    phone.answer();
    let heads = phone.volume().heads();
    let (own, other) = (laptop.volume().state(), copy.volume().state());
    assert_eq!((own.device, own.generation), (other.device, other.generation));
    let head = phone.volume().base().commit.clone();
    let mut said = heads.newest[0].clone();
    said.commit = head;
    let held = |hash| said.held_of(&own.device, (own.generation, hash)).map(|(held, _)| held);
    assert_eq!(held(&other.head), Some(own.generation));
    assert_eq!(held(&own.head), None);
    // Both come to the laptop while it is mounted.
    let follower = Device::follower();
    laptop.read_heads(&follower).unwrap();
    laptop.receive(&phone);
    laptop.receive(&copy);
    assert!(laptop.has_news(&follower));
    let why = laptop.read_heads(&follower).unwrap_err();
    assert!(why.contains("another copy of it published"), "{why}");
    assert!(laptop.volume().heads().holders.is_empty());
    laptop.has_news(&follower);
    assert_eq!(follower.age(laptop.volume()), None, "what is here could not be read");
}

/// A disk failed while a head entered REPO, after a client could read it, and the clock was set before
/// the next head was made of the same changes. When the client brought the first one back, the device
/// was told that it is a copy.
#[test]
fn a_head_that_a_failing_disk_took_back_is_in_the_one_that_follows() {
    let mut is_brought = false;
    for after in 0..60 {
        let laptop = Device::first("LAPTOP");
        assert!(laptop.write("f", "one"));
        laptop.checkpoint();
        let phone = laptop.another("PHONE", 3);
        assert!(laptop.write("f", "two"));
        laptop.world().fail_at(laptop.world().operations() + 1 + after, Fault::Io);
        let failed = laptop.fs().checkpoint().is_err();
        laptop.world().clear_faults();
        let known = laptop.heads_written();
        phone.receive_whole(&laptop);
        laptop.pass(60);
        laptop.world().clock().set_wall(Timestamp { secs: 1_000_000_000, nanos: 0 });
        // Where the journal failed, only the next mount goes on.
        let is_published = laptop.fs().checkpoint().is_ok();
        is_brought |= failed && is_published && laptop.heads_written() > known + 1;
        let laptop = laptop.kill();
        let laptop = laptop.with_files_of(&phone).mount(20).remount(21);
        assert!(laptop.write("g", "three"));
        laptop.checkpoint();
        let shown = listing(&laptop);
        assert_eq!(shown["f"].bytes, "two", "change {after} failed");
        assert_eq!(shown.len(), 2, "change {after} failed: {shown:#?}");
    }
    assert!(is_brought, "no head was made twice");
}

/// A disk had no room while the name of a head was logged. The next mount found the name, which no
/// power cut would have left there, and put the head into REPO.
#[test]
fn a_head_is_brought_back_only_after_its_name_is_durable() {
    for (stop, after) in (0..16).flat_map(|stop| (0..24).map(move |after| (stop, after))) {
        let laptop = Device::first("LAPTOP");
        assert!(laptop.write("f", "one"));
        laptop.checkpoint();
        assert!(laptop.write("f", "two"));
        laptop.world().fail_at(laptop.world().operations() + 1 + stop, Fault::NoSpace);
        let _ = laptop.fs().checkpoint();
        laptop.world().clear_faults();
        let laptop = laptop.kill();
        laptop.world.freeze_at(laptop.world.operations() + after);
        let laptop = match laptop.try_mount(20) {
            Ok(laptop) => laptop.kill(),
            Err(failed) => failed.0,
        };
        let laptop = laptop.crash(Crash { data: Unsynced::Lost, names_kept: false });
        if let Err(failed) = laptop.try_mount(21) {
            panic!("change {stop} failed, and power after {after} more: {}", failed.1);
        }
    }
}

/// The head had its name in REPO, and a client had read it, when the machine lost power before the
/// folder was durable. When the client brought it back, the device was told that it is a copy.
#[test]
fn a_head_that_a_power_cut_took_back_is_the_same_when_a_client_brings_it() {
    let story = |after: u64, client: bool| {
        let laptop = Device::first("LAPTOP");
        assert!(laptop.write("f", "one"));
        laptop.checkpoint();
        let phone = laptop.another("PHONE", 3);
        assert!(laptop.write("f", "two"));
        laptop.world().freeze_at(laptop.world().operations() + after);
        let is_published = laptop.fs().checkpoint().is_ok();
        if client {
            phone.receive_whole(&laptop);
        }
        let laptop = laptop.kill().crash(Crash { data: Unsynced::Lost, names_kept: false });
        let laptop = laptop.mount(20);
        assert!(laptop.write("g", "three"));
        laptop.checkpoint();
        let phone = phone.remount(21);
        assert!(phone.write("h", "phone"));
        phone.checkpoint();
        laptop.receive(&phone);
        phone.receive(&laptop);
        let (laptop, phone) = (laptop.remount(22), phone.remount(23));
        let shown = listing(&laptop);
        assert_eq!(shown, listing(&phone), "after {after} changes");
        assert_eq!(shown.len(), 3, "after {after} changes: {shown:#?}");
        is_published
    };
    for client in [false, true] {
        let last = (0..200).find(|after| story(*after, client)).expect("it is published sometime");
        assert!(last > 10, "{last}");
    }
}
