//! Devices that write to one repository, each through its own copy of REPO, and mount again
//! after others' heads came.

use proptest::prelude::*;

use super::tests_identity::{text, write_in_pieces};
use crate::crypto::hex;
use crate::fs::{Followed, FsError, Later};
use crate::merge::tests_devices::Device;
use crate::merge::tests_histories::{Act, DIRS, acts, factor, play};
use crate::merge::tests_maps::Listing;

pub(super) fn listing(device: &Device) -> Listing {
    device.shown().listing().unwrap_or_else(|error| panic!("{error}"))
}

/// Publishes what changed; what is shown below is then what the mount showed before.
pub(super) fn publish(device: &Device) -> Result<(), TestCaseError> {
    let seen = device.seen();
    device.checkpoint();
    let shown = listing(device);
    prop_assert!(seen == shown, "the mount shows {:#?}\nthe tree {:#?}", seen, shown);
    Ok(())
}

/// A laptop and a phone that both changed `f`, and have joined what both wrote.
pub(super) fn both_changed() -> (Device, Device) {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "base"));
    let phone = laptop.another("PHONE", 3);
    assert!(laptop.write("f", "laptop") && phone.write("f", "phone"));
    laptop.checkpoint();
    phone.checkpoint();
    laptop.receive(&phone);
    phone.receive(&laptop);
    (laptop.remount(10), phone.remount(11))
}

/// The path of a version that lost.
pub(super) fn loser(device: &Device) -> String {
    listing(device).into_keys().find(|path| path.contains("(from")).expect("one lost")
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

/// A device that changed nothing said that it holds what another one did. Its head has no news, and
/// a third device that had seen its news only passed it by: with it what the other one did was gone.
#[test]
fn what_a_head_without_news_brings_of_another_device_is_joined() {
    let a = Device::first("A");
    assert!(a.write("f", "a"));
    let (b, c) = (a.another("B", 3), a.another("C", 4));
    assert!(b.write("b", "b"));
    b.checkpoint();
    for device in [&a, &c] {
        device.receive(&b);
        assert!(matches!(device.follow(), Followed::Changed(_)));
        device.answer();
    }
    b.receive(&a);
    b.receive(&c);
    assert!(c.write("c", "c"));
    c.checkpoint();
    assert!(a.write("new", "a"));
    a.checkpoint();
    b.receive(&a);
    assert!(matches!(b.follow(), Followed::Changed(_)));
    // Of all heads the answer is the latest.
    b.pass(1000);
    b.answer();
    for (to, from) in [(&a, &b), (&a, &c), (&b, &c), (&c, &a), (&c, &b)] {
        to.receive(from);
    }
    for (at, device) in [a, b, c].into_iter().enumerate() {
        let device = device.remount(10 * (at as u64 + 1));
        let shown = listing(&device);
        let names: Vec<&str> = shown.keys().map(String::as_str).collect();
        assert_eq!(names, ["b", "c", "f", "new"]);
    }
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
    let (laptop, phone) = both_changed();
    assert!(laptop.write("other", "laptop"));
    assert!(phone.write(&loser(&phone), "decided") && phone.write("f", "phone again"));
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

/// A client brought a head whole under another name and a part of it under its own: whoever had gone
/// on from it could publish nothing once the rest came, for REPO was taken for another folder.
#[test]
fn a_head_that_is_whole_under_another_name_first_is_the_same_one_later() {
    let laptop = Device::first("LAPTOP");
    let phone = laptop.another("PHONE", 3);
    assert!(laptop.write("f", "laptop"));
    laptop.checkpoint();
    phone.receive(&laptop);
    phone.copy_and_cut_head(2);
    let phone = phone.remount(10);
    assert_eq!(phone.seen()["f"].bytes, "laptop");
    phone.receive(&laptop);
    assert!(phone.write("g", "phone"));
    phone.checkpoint();
    assert_eq!(listing(&phone).len(), 2);
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
    // Files came that are no heads: it may be what is missing.
    laptop.follow_with(&follower);
    follower.note_arrivals();
    assert!(!laptop.has_news(&follower), "more may come");
    laptop.pass(3);
    assert!(laptop.has_news(&follower));
    laptop.follow_with(&follower);
    assert!(!laptop.has_news(&follower));
    laptop.pass(3);
    assert!(!laptop.has_news(&follower), "nothing came since");
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
    // What is not published is not taken away from under anybody.
    assert!(laptop.write("own", "laptop"));
    let Followed::Changed(changed) = laptop.follow() else { panic!("nothing is open") };
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

/// The content of small files is in heads. A client brought the newest one first: what could be read
/// before was EIO.
#[test]
fn a_state_is_not_shown_while_an_older_one_that_it_needs_is_not_here() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "base"));
    let phone = laptop.another("PHONE", 3);
    assert!(laptop.write("f", &"2".repeat(5000)));
    laptop.checkpoint();
    assert!(laptop.write("g", "later"));
    laptop.checkpoint();
    phone.receive_newest_head(&laptop);
    assert!(matches!(phone.follow(), Followed::Nothing));
    assert_eq!(phone.read("f"), "base");
    let told: Vec<String> =
        phone.volume().heads().unusable.iter().map(|head| head.error.to_string()).collect();
    assert!(told.len() == 1 && told[0].contains("(state 2 of device"), "{told:?}");
    // A half one is not here either.
    phone.receive(&laptop);
    phone.cut_head(2);
    assert!(matches!(phone.follow(), Followed::Nothing));
    assert_eq!(phone.read("f"), "base");
    phone.receive(&laptop);
    assert!(matches!(phone.follow(), Followed::Changed(_)));
    assert_eq!(phone.seen(), laptop.seen());
}

/// Whoever removes a directory leaves a dead one in the kernel, while somebody uses it. Another device
/// had put a file into it: the directory was back, and nothing was in it.
#[test]
fn a_directory_that_is_back_is_another_inode_for_the_kernel() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.mkdir("D") && laptop.mkdir("E"));
    let phone = laptop.another("PHONE", 3);
    let (known, other) = (phone.look_up("D").unwrap(), phone.look_up("E").unwrap());
    assert!(phone.rmdir("D"));
    phone.checkpoint();
    assert!(laptop.write("D/f", "text") && laptop.rmdir("E"));
    laptop.checkpoint();
    phone.receive(&laptop);
    assert!(matches!(phone.follow(), Followed::Changed(_)));
    let back = phone.look_up("D").unwrap();
    assert_eq!((back.ino, known.generation, back.generation), (known.ino, 0, 1));
    assert_eq!(phone.read("D/f"), "text");
    // What another device removed is not dead for the kernel here.
    assert!(laptop.mkdir("E"));
    laptop.checkpoint();
    phone.receive(&laptop);
    assert!(matches!(phone.follow(), Followed::Changed(_)));
    assert_eq!(phone.look_up("E").unwrap().generation, other.generation);
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

/// A client took away one of the heads on which changes in the journal rest: the mount said that the
/// journal could not be replayed.
#[test]
fn a_journal_waits_for_a_head_on_which_it_rests_and_that_is_away() {
    let laptop = Device::first("LAPTOP");
    let phone = laptop.another("PHONE", 3);
    assert!(laptop.write("own", "laptop") && phone.write("f", "phone"));
    laptop.checkpoint();
    phone.checkpoint();
    laptop.receive(&phone);
    assert!(matches!(laptop.follow(), Followed::Changed(_)));
    assert!(laptop.write("more", "laptop"));
    let folder = format!("repo/{}/", hex(&phone.volume().state().device));
    let ended = laptop.end();
    let theirs = ended.world.paths().into_iter().filter(|path| path.starts_with(&folder));
    let taken: Vec<_> = theirs.map(|path| (ended.world.get(&path).unwrap(), path)).collect();
    assert!(taken.iter().all(|(_, path)| ended.world.remove_file(path)) && !taken.is_empty());
    let refusal = ended.refusal(20).expect("it cannot go on");
    assert!(refusal.contains("on which changes in the journal rest"), "{refusal}");
    for (bytes, path) in &taken {
        ended.world.put(path, bytes);
    }
    let seen = ended.mount(30).seen();
    assert!(["own", "f", "more"].iter().all(|path| seen.contains_key(*path)), "{seen:#?}");
}

/// The client takes another device's newest head away for a while. What had been shown grew older, and
/// what was edited meanwhile was a conflict with what its author had seen.
#[test]
fn what_is_shown_does_not_grow_older() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "base"));
    let phone = laptop.another("PHONE", 3);
    let heads = format!("{}/head/", hex(&phone.volume().state().device));
    let mut states = Vec::new();
    for text in ["first", "second"] {
        assert!(phone.write("f", text) && phone.write(text, text));
        phone.checkpoint();
        let paths = phone.world().paths();
        states.push(paths.into_iter().filter(|path| path.contains(&heads)).max().unwrap());
        laptop.receive(&phone);
        assert!(matches!(laptop.follow(), Followed::Changed(_)));
    }
    let newest = laptop.world().get(&states[1]).unwrap();
    laptop.world().remove_file(&states[1]);
    let follower = Device::follower();
    let is_older = |followed| matches!(followed, Followed::Later(Later::Older));
    assert!(is_older(laptop.follow_with(&follower)));
    assert_eq!((laptop.read("f"), laptop.read("second")), ("second".into(), "second".into()));
    assert_eq!(laptop.volume().heads().behind.len(), 1, "that is told");
    assert!(laptop.append("f", "+laptop"));
    assert!(is_older(laptop.follow_with(&follower)));
    laptop.world().put(&states[1], &newest);
    assert!(matches!(laptop.follow_with(&follower), Followed::Nothing), "it is shown already");
    laptop.checkpoint();
    assert_eq!(laptop.read("f"), "second+laptop");
    assert_eq!(laptop.seen().len(), 3, "no conflict");
    phone.receive(&laptop);
    assert!(matches!(phone.follow(), Followed::Changed(_)));
    assert_eq!(phone.seen(), laptop.seen());
}

/// A device had joined what two others wrote, and said so with a head of its own. Whatever one of the two
/// wrote next, without that head, was shown at the next mount only.
#[test]
fn a_mount_that_answered_follows_who_has_not_seen_the_answer() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "base"));
    let (phone, desk) = (laptop.another("PHONE", 3), laptop.another("DESK", 4));
    assert!(phone.write("theirs", "phone") && desk.write("ours", "desk"));
    phone.checkpoint();
    desk.checkpoint();
    for (to, from) in [(&laptop, &phone), (&laptop, &desk), (&phone, &desk), (&desk, &phone)] {
        to.receive(from);
    }
    for device in [&laptop, &phone, &desk] {
        assert!(matches!(device.follow(), Followed::Changed(_)));
    }
    laptop.answer();
    assert!(desk.write("ours", "changed"));
    desk.checkpoint();
    laptop.receive(&desk);
    assert!(matches!(laptop.follow(), Followed::Changed(_)));
    assert_eq!(laptop.read("ours"), "changed");
    assert_eq!(laptop.seen(), desk.seen());
}

/// A head came before the objects that it needs: files that a program could read gave errors.
#[test]
fn a_mount_does_not_go_on_to_what_is_not_here() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "base"));
    let (phone, desk) = (laptop.another("PHONE", 3), laptop.another("DESK", 4));
    let large = text(3 << 20);
    assert!(write_in_pieces(&phone, "f", &large) && phone.write("new", "phone"));
    phone.checkpoint();
    laptop.receive_newest_head(&phone);
    let unusable = || {
        let heads = laptop.volume().heads();
        heads.unusable.iter().map(|head| head.error.to_string()).collect::<Vec<_>>()
    };
    assert!(matches!(laptop.follow(), Followed::Nothing));
    assert_eq!((laptop.read("f"), laptop.find("new")), ("base".into(), None));
    assert!(unusable().concat().contains("a part of state 1 of PHONE"), "{:?}", unusable());
    // Another device has joined it, and of the first one nothing is here.
    let mut paths = laptop.world().paths().into_iter();
    let is_new = |path: &String| path.contains("/head/") && desk.world().get(path).is_none();
    laptop.world().remove_file(&paths.find(is_new).unwrap());
    desk.receive(&phone);
    assert!(matches!(desk.follow(), Followed::Changed(_)) && desk.write("own", "desk"));
    desk.checkpoint();
    let folder = hex(&desk.volume().state().device);
    for path in desk.world().paths().iter().filter(|path| path.contains(&folder)) {
        laptop.world().put(path, &desk.world().get(path).unwrap());
    }
    assert!(matches!(laptop.follow(), Followed::Nothing));
    assert_eq!((laptop.read("f"), laptop.find("own")), ("base".into(), None));
    assert!(unusable().concat().contains("of DESK"), "{:?}", unusable());
    // Once all of it is here it is shown.
    laptop.receive(&phone);
    laptop.receive(&desk);
    assert!(matches!(laptop.follow(), Followed::Changed(_)));
    assert!(laptop.read("f") == large && laptop.read("own") == "desk");
    assert_eq!(unusable(), Vec::<String>::new());
}

/// The dots that a head without news took are in no head after it, where its device went on from what
/// another one wrote. So nothing but the ledger tells that the head is an older one of the same device.
#[test]
fn an_older_head_is_no_branch_although_heads_after_it_are_not_here() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("both", "first"));
    laptop.checkpoint();
    let phone = laptop.another("PHONE", 3);
    assert!(phone.write("both", "of PHONE"));
    assert!(laptop.write("both", "of LAPTOP"));
    phone.checkpoint();
    laptop.checkpoint();
    laptop.receive(&phone);
    phone.receive(&laptop);
    phone.follow();
    // It stores repairs, and has no news.
    phone.answer();
    let taken = phone.volume().state().generation;
    for text in ["1", "2", "3"] {
        laptop.later(60);
        phone.later(60);
        laptop.follow();
        for name in laptop.seen().keys().filter(|name| name.starts_with("both")) {
            assert!(laptop.unlink(name));
        }
        assert!(laptop.write("more", text));
        laptop.checkpoint();
        phone.receive(&laptop);
        phone.follow();
        phone.answer();
    }
    laptop.receive(&phone);
    let newest = phone.volume().state().generation;
    let is_between = |path: &&String| {
        (taken + 1..newest).any(|generation| path.contains(&format!("/head/{generation:016x}-")))
            && path.contains(&hex(&phone.volume().state().device))
    };
    let paths = laptop.world().paths();
    let between: Vec<&String> = paths.iter().filter(is_between).collect();
    assert!(between.len() >= 2 && between.iter().all(|path| laptop.world().remove_file(path)));
    let laptop = laptop.remount(40);
    let bases = laptop.volume().base().heads();
    assert!(bases.len() == 1, "its own head has everything: {bases:?}");
}
