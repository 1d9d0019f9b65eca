//! What nobody needs is given back and removed, and nothing else is: whatever the others do meanwhile.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::tests_sweep::{Edit, all_states, edit, forget, noise, publish};
use crate::crypto::hex;
use crate::fs::Operations as _;
use crate::merge::tests_devices::Device;
use crate::merge::tests_histories::factor;
use crate::volume::{Fate, Notice, Portion, SweepPlan, Swept, WAIT_STEPS, check};

const DAY: u32 = 24 * 3600;

fn sweep(device: &Device) -> (SweepPlan, Swept) {
    let (plan, swept) = device.fs().sweep(Portion::All).unwrap();
    (plan, swept.unwrap_or_default())
}

/// Bytes of all files in REPO.
fn size(device: &Device) -> u64 {
    let world = device.world();
    let repo = world.paths().into_iter().filter(|path| path.starts_with("repo/"));
    repo.map(|path| world.get(&path).unwrap().len() as u64).sum()
}

/// A client carries what a device has in its folder, and that it removed files there.
fn carry(from: &Device, to: &Device) {
    to.receive(from);
    let own = format!("repo/{}/", hex(&from.volume().state().device));
    let there = from.world().paths();
    for path in to.world().paths().iter().filter(|path| path.starts_with(&own)) {
        if !there.contains(path) {
            assert!(to.world().remove_file(path));
        }
    }
}

/// Each hears of what the others have.
fn exchange(devices: &[&Device]) {
    for from in devices {
        for to in devices.iter().filter(|to| !std::ptr::eq(**to, *from)) {
            carry(from, to);
        }
    }
    for device in devices {
        device.follow();
    }
}

#[test]
fn one_device_alone_gets_its_space_back_after_the_wait() {
    let laptop = Device::first("LAPTOP");
    forget(&laptop);
    for seed in 1..=6 {
        publish(&laptop, "large", seed);
        assert!(laptop.write(&format!("small{seed}"), "text"));
    }
    let before = size(&laptop);
    let (plan, swept) = sweep(&laptop);
    assert!(plan.doubts.is_empty(), "{:?}", plan.doubts);
    assert_eq!(swept.removed, (0, 0));
    assert!(swept.condemned.1 > before * 4 / 6, "{swept:?} of {before}");
    let shown = laptop.seen();
    for day in 1..WAIT_STEPS {
        laptop.later(DAY);
        assert_eq!(sweep(&laptop).1.removed, (0, 0), "day {day}");
    }
    laptop.later(DAY);
    let (_, swept) = sweep(&laptop);
    assert!(swept.removed.0 > 5, "{swept:?}");
    assert!(size(&laptop) < before / 3, "{} of {before}", size(&laptop));
    let laptop = laptop.remount(30);
    assert!(laptop.seen() == shown);
    // Only what can be shown is listed.
    let (states, unreadable) = laptop.snapshots();
    assert!(!states.is_empty() && unreadable == 0);
    for state in states {
        assert!(laptop.read_at(Some(state.time)).unwrap().try_seen().is_ok(), "{state:?}");
    }
    assert!(laptop.volume().notices.is_empty(), "{:?}", laptop.volume().notices);
    let other = laptop.another("PHONE", 40);
    assert!(other.seen() == shown);
    assert!(other.volume().notices.is_empty(), "{:?}", other.volume().notices);
}

#[test]
fn what_a_program_has_open_stays() {
    let laptop = Device::first("LAPTOP");
    forget(&laptop);
    publish(&laptop, "large", 1);
    publish(&laptop, "other", 2);
    let open = laptop.open_file("large").unwrap();
    assert!(laptop.unlink("large"));
    laptop.checkpoint();
    publish(&laptop, "other", 3);
    for _ in 0..=WAIT_STEPS {
        laptop.later(DAY);
        let (_, swept) = sweep(&laptop);
        let bytes = swept.condemned.1.max(swept.removed.1);
        assert!(bytes < 1_000_000, "more than what other was, and some heads: {swept:?}");
    }
    assert!(laptop.fs().read(open, 0, 2_000_000).unwrap() == noise(1).as_bytes());
    laptop.close(open);
    laptop.fs().forget(open, 100);
    let (_, swept) = sweep(&laptop);
    assert!(swept.condemned.1 > 500_000, "{swept:?}");
}

/// Two devices that know of each other, and a large file that LAPTOP wrote.
fn two_with_a_large_file() -> (Device, Device) {
    let laptop = Device::first("LAPTOP");
    forget(&laptop);
    publish(&laptop, "large", 1);
    let phone = laptop.another("PHONE", 3);
    phone.checkpoint();
    phone.answer();
    exchange(&[&laptop, &phone]);
    laptop.answer();
    exchange(&[&laptop, &phone]);
    (laptop, phone)
}

/// LAPTOP replaces the large file, PHONE answers, and LAPTOP gives the first content back.
fn replace_and_give_back(laptop: &Device, phone: &Device) {
    publish(laptop, "large", 2);
    phone.later(120);
    exchange(&[laptop, phone]);
    phone.answer();
    exchange(&[laptop, phone]);
    let (_, swept) = sweep(laptop);
    assert!(swept.condemned.1 > 500_000, "{swept:?}");
}

/// PHONE has a file open that LAPTOP replaces: PHONE says that it knows only once it has the content
/// itself.
#[test]
fn what_a_program_has_open_elsewhere_stays_readable_there() {
    let (laptop, phone) = two_with_a_large_file();
    let open = phone.open_file("large").unwrap();
    replace_and_give_back(&laptop, &phone);
    exchange(&[&laptop, &phone]);
    phone.later(120);
    phone.answer();
    exchange(&[&laptop, &phone]);
    let mut removed = 0;
    for _ in 0..=WAIT_STEPS {
        laptop.later(DAY);
        removed += sweep(&laptop).1.removed.1;
    }
    assert!(removed > 500_000, "{removed}");
    exchange(&[&laptop, &phone]);
    phone.volume().close_idle();
    phone.volume().close_idle();
    assert!(phone.fs().read(open, 0, 2_000_000).unwrap() == noise(1).as_bytes());
}

#[test]
fn a_copy_of_what_was_given_back_is_no_damage() {
    let laptop = Device::first("LAPTOP");
    forget(&laptop);
    for seed in 1..=6 {
        publish(&laptop, "large", seed);
    }
    let own = format!("repo/{}/", hex(&laptop.volume().state().device));
    let world = laptop.world();
    for path in world.paths().iter().filter(|path| path.starts_with(&own)) {
        world.put(&path.replace(".amb", " (1).amb"), &world.get(path).unwrap());
    }
    for _ in 0..=WAIT_STEPS {
        laptop.later(DAY);
        sweep(&laptop);
    }
    let laptop = laptop.remount(40);
    let notices = &laptop.volume().notices;
    assert!(!notices.iter().any(|of| matches!(of, Notice::Misplaced(_))), "{notices:?}");
    let (world, repository) = (laptop.volume().world(), laptop.repository());
    let volume = Some(laptop.volume());
    let found = check(&*world.repo, &*world.clock, &repository, volume, true).unwrap();
    assert!(found.misplaced.is_empty(), "{:?}", found.misplaced);
}

#[test]
fn a_sweep_that_nobody_asked_for_gives_back_a_fifth_at_a_time() {
    let laptop = Device::first("LAPTOP");
    forget(&laptop);
    for seed in 1..=10 {
        publish(&laptop, "large", seed);
    }
    let given = |portion| {
        let (plan, swept) = laptop.fs().sweep(portion).unwrap();
        if let Some(swept) = &swept {
            let (files, bytes, _) = laptop.fs().plan_sweep().unwrap().total(Fate::Unneeded);
            assert_eq!(swept.left, (files, bytes));
        }
        (plan.all_bytes(), swept.map(|swept| swept.condemned.1))
    };
    assert_eq!(given(Portion::AllIfFifth).1, None, "it is more than a fifth");
    let mut total = 0;
    for day in 1..=30 {
        laptop.later(DAY);
        let (all, condemned) = given(Portion::Fifth);
        let condemned = condemned.unwrap();
        total += condemned;
        // Heads are folded beside it, and one object has 700 kB.
        assert!(condemned <= (all / 5).max(710_000) + 500_000, "{condemned} of {all} on day {day}");
    }
    assert!(total > 9 * 600_000, "{total}");
    assert_eq!(laptop.fs().plan_sweep().unwrap().total(Fate::Unneeded).0, 0);
    assert!(laptop.seen()["large"].bytes == noise(10));
}

#[test]
fn a_plan_holds_only_for_the_states_of_which_it_was_made() {
    let laptop = Device::first("LAPTOP");
    publish(&laptop, "large", 1);
    let own = laptop.volume().state().device;
    let basis = || laptop.volume().basis_of_plan(own);
    let first = basis();
    assert!(basis() == first);
    publish(&laptop, "large", 2);
    let second = basis();
    assert!(second != first);
    let phone = laptop.another("PHONE", 3);
    phone.answer();
    laptop.receive(&phone);
    laptop.follow();
    assert!(basis() != second);
    laptop.fs().end_sweeps();
    let (_, swept) = laptop.fs().sweep(Portion::All).unwrap();
    assert_eq!(swept, None);
}

#[test]
fn what_is_given_back_waits_for_all_devices_and_is_referred_to_by_none() {
    let (laptop, phone) = two_with_a_large_file();
    replace_and_give_back(&laptop, &phone);
    for _ in 0..20 {
        laptop.later(DAY);
        assert_eq!(sweep(&laptop).1.removed, (0, 0), "PHONE has not said that it knows");
    }
    // Its content is stored again by who writes it, there and here.
    phone.later(20 * DAY);
    exchange(&[&laptop, &phone]);
    for device in [&laptop, &phone] {
        let before = size(device);
        publish(device, "again", 1);
        assert!(size(device) > before + 500_000, "it refers to what is given back");
        assert!(device.unlink("again"));
        device.checkpoint();
    }
    exchange(&[&laptop, &phone]);
    phone.answer();
    exchange(&[&laptop, &phone]);
    laptop.later(DAY);
    let (_, swept) = sweep(&laptop);
    assert!(swept.removed.1 > 500_000, "{swept:?}");
    exchange(&[&laptop, &phone]);
    for device in [laptop.remount(50), phone.remount(51)] {
        assert!(device.seen()["large"].bytes == noise(2));
        assert!(device.volume().notices.is_empty(), "{:?}", device.volume().notices);
        assert!(device.volume().heads().newest.iter().all(|head| head.complete));
    }
}

/// A copy of a client stood in for each file, and was taken away once the file itself was there: reads
/// failed until the next mount, and nothing could be published.
#[test]
fn a_file_is_read_in_its_place_again_once_its_copy_is_gone() {
    let laptop = Device::first("LAPTOP");
    for number in 0..8 {
        publish(&laptop, &format!("f{number}"), number);
    }
    let whole = |device: &Device| -> Vec<(String, Vec<u8>)> {
        let paths = device.world().paths().into_iter();
        let paths = paths.filter(|path| path.matches('/').count() > 2 && !path.contains(" (1)"));
        paths.map(|path| (path.clone(), device.world().get(&path).unwrap())).collect()
    };
    let files = whole(&laptop);
    for is_renamed_while_mounted in [false, true] {
        let reader = laptop.another("PHONE", 3);
        let ended = reader.end();
        let rename = |world: &crate::io::sim::SimWorld, away: bool| {
            for (path, bytes) in &files {
                let copy = format!("{path} (1)");
                let (from, to) = if away { (path, &copy) } else { (&copy, path) };
                world.put(to, bytes);
                assert!(world.remove_file(from));
            }
        };
        let phone = if is_renamed_while_mounted {
            let phone = ended.mount(5);
            rename(phone.world(), true);
            phone.later(5);
            phone.follow();
            phone
        } else {
            rename(&ended.world, true);
            ended.mount(5)
        };
        assert!(phone.find("f7").is_some());
        rename(phone.world(), false);
        phone.later(20);
        assert!(phone.seen() == laptop.seen(), "{is_renamed_while_mounted}");
        assert!(phone.write("own", "text"));
        phone.checkpoint();
        assert!(phone.remount(9).seen().len() == 9);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Edit(usize, Edit),
    Pass(u8),
    Publish(usize),
    Sweep(usize),
    Week(usize),
    Exchange,
    Carry(usize, usize),
    Remount(usize),
    Kill(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let device = 0..3_usize;
    prop_oneof![
        7 => (device.clone(), edit()).prop_map(|(at, edit)| Step::Edit(at, edit)),
        3 => (1..10_u8).prop_map(Step::Pass),
        4 => device.clone().prop_map(Step::Publish),
        3 => device.clone().prop_map(Step::Sweep),
        3 => device.clone().prop_map(Step::Week),
        3 => Just(Step::Exchange),
        6 => (device.clone(), device.clone()).prop_map(|(from, to)| Step::Carry(from, to)),
        1 => device.clone().prop_map(Step::Remount),
        1 => device.prop_map(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12 * factor()))]
    /// Three devices write, sweep, and hear of each other or do not: whatever one of them shows, or its
    /// newest state or a kept one has, can be read there for as long as all that was carried is there.
    #[test]
    fn whoever_sweeps_whatever_is_shown_or_kept_can_be_read(
        steps in prop::collection::vec(step(), 20..120),
    ) {
        let laptop = Device::first("LAPTOP");
        forget(&laptop);
        publish(&laptop, "f0", 9);
        let mut devices =
            vec![laptop.another("PHONE", 3), laptop.another("DESK", 4), laptop];
        let (mut names, mut seed) = (0, 100);
        let mut removed = 0;
        for step in steps {
            match step {
                Step::Edit(at, edit) => edit.apply(&devices[at], &mut names),
                Step::Pass(days) => devices.iter().for_each(|device| {
                    device.later(u32::from(days) * DAY);
                }),
                Step::Publish(at) => devices[at].answer(),
                Step::Sweep(at) => removed += sweep(&devices[at]).1.removed.0,
                Step::Week(at) => (0..8).for_each(|_| {
                    devices[at].later(DAY);
                    removed += sweep(&devices[at]).1.removed.0;
                }),
                Step::Exchange => {
                    exchange(&devices.iter().collect::<Vec<_>>());
                    for device in &devices {
                        device.later(120);
                        device.answer();
                    }
                    exchange(&devices.iter().collect::<Vec<_>>());
                }
                Step::Carry(from, to) if from != to => {
                    carry(&devices[from], &devices[to]);
                    devices[to].follow();
                }
                Step::Carry(..) => {}
                Step::Remount(at) => {
                    seed += 1;
                    let device = devices.remove(at).remount(seed);
                    devices.insert(at, device);
                }
                Step::Kill(at) => {
                    seed += 1;
                    let ended = devices.remove(at);
                    ended.fs().flush_log().unwrap();
                    devices.insert(at, ended.kill().mount(seed));
                }
            }
            for device in &devices {
                prop_assert!(device.try_seen().is_ok());
            }
        }
        // All that is there is carried, twice: what nobody has removed is shown by all.
        for _ in 0..3 {
            for device in &devices {
                device.later(120);
                device.answer();
            }
            exchange(&devices.iter().collect::<Vec<_>>());
        }
        for device in &devices {
            prop_assert!(!all_states(device).is_empty());
            let (states, unreadable) = device.snapshots();
            prop_assert!(!states.is_empty() && unreadable == 0);
            for state in states {
                let read = device.read_at(Some(state.time));
                let told = format!("state {} of {}", state.generation, state.name);
                prop_assert!(read.is_ok_and(|read| read.try_seen().is_ok()), "{}", told);
            }
            prop_assert!(device.seen() == devices[0].seen());
        }
        println!("{removed} removed");
    }
}

/// A message every half an hour, and a sweep a day. What is needed of old heads goes into objects: in the
/// head it was stored again each day, and as its newest copy was always new, older ones could never go.
#[test]
fn weeks_of_messages_are_few_files_and_little_is_stored_again() {
    const A_DAY: u64 = 48;
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("chat", ""));
    let mut known = BTreeSet::new();
    for day in 1..=20 {
        let words = noise(day);
        for at in 0..A_DAY as usize {
            laptop.later(1800);
            assert!(laptop.append("chat", &words[at * 600..][..600]));
            laptop.checkpoint();
        }
        let (_, swept) = laptop.fs().sweep(Portion::Fifth).unwrap();
        let swept = swept.unwrap();
        assert_eq!(swept.needed, 0, "day {day}: {swept:?}");
        assert!((swept.removed.0 > A_DAY - 4) == (day > 7), "day {day}: {swept:?}");
        let world = laptop.world();
        let paths: BTreeSet<String> =
            world.paths().into_iter().filter(|path| path.starts_with("repo/")).collect();
        let written: usize =
            paths.difference(&known).map(|path| world.get(path).unwrap().len()).sum();
        let heads = (A_DAY as usize + 1) * 65536;
        assert!(written < heads + heads / 4, "day {day}: {written} bytes for {heads}");
        known.extend(paths.iter().cloned());
        // Those of eight days wait; of each day before two objects and an index run are left.
        let most = 8 * (A_DAY + 5) + 3 * day;
        assert!(paths.len() as u64 <= most, "day {day}: {} files", paths.len());
    }
}
