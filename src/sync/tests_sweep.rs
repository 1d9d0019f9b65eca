//! What a plan to sweep gives back is needed by nobody, and what nobody needs it gives back.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::bytes_apart;
use super::tests_identity::write_in_pieces;
use crate::crypto::hex;
use crate::format::commit::Commit;
use crate::format::namespace::ROOT;
use crate::format::setting::Retention;
use crate::fs::{Fs, NoLog, Options, Ownership};
use crate::merge::tests_devices::{Device, listing};
use crate::merge::tests_histories::factor;
use crate::merge::tests_maps::Listing;
use crate::volume::{Base, Doubt, Fate, Planned, SweepPlan, kept_in};

const OPTIONS: Options = Options {
    read_only: true,
    ownership: Ownership {
        uid: 1000,
        gid: 1000,
        record_self: true,
        force_uid: None,
        force_gid: None,
    },
};
/// More than a head holds beside its tree.
const LARGE: usize = 1_200_000;

/// Text that has no part in common with that of another seed.
pub fn noise(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::with_capacity(LARGE + 16);
    while text.len() < LARGE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        write!(text, "{state:016x}").unwrap();
    }
    text
}

fn plan(device: &Device) -> SweepPlan {
    // As a command looks at it that opens the repository.
    let read = device.read_at(None).unwrap();
    read.volume().plan_sweep(device.volume().state().device, &[]).unwrap()
}

fn unneeded(device: &Device) -> u64 {
    plan(device).total(Fate::Unneeded).0
}

/// Writes a large file anew and publishes it in an object.
pub fn publish(device: &Device, path: &str, seed: u64) {
    device.later(60);
    assert!(write_in_pieces(device, path, &noise(seed)));
    device.checkpoint();
}

pub fn forget(device: &Device) {
    let set = device.fs().change_retention(|retention| *retention = Retention::new(0, 0, 0));
    set.unwrap();
}

#[test]
fn what_was_replaced_is_given_back_unless_a_state_keeps_it() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("small", "text"));
    laptop.checkpoint();
    publish(&laptop, "large", 1);
    assert_eq!(unneeded(&laptop), 0);
    publish(&laptop, "large", 2);
    assert_eq!(unneeded(&laptop), 1, "of the same hour the last state is kept");
    laptop.later(3600);
    publish(&laptop, "large", 3);
    assert_eq!(unneeded(&laptop), 1, "a state of the hour before is kept");
    laptop.fs().keep("for ever").unwrap();
    laptop.checkpoint();
    publish(&laptop, "large", 4);
    laptop.later(3600);
    publish(&laptop, "large", 5);
    forget(&laptop);
    laptop.checkpoint();
    // Of five contents the newest is needed, and that of the state with a name.
    let plan = plan(&laptop);
    assert_eq!(plan.total(Fate::Unneeded).0, 3);
    assert!(plan.doubts.is_empty() && plan.awaited.is_empty());
    let (_, bytes, _) = plan.total(Fate::Unneeded);
    let objects: u64 = plan.files.iter().map(|file| file.row.size).sum();
    assert!(bytes > objects / 2 && bytes < objects, "{bytes} of {objects}");
}

#[test]
fn what_only_one_state_needs_is_told() {
    let laptop = Device::first("LAPTOP");
    publish(&laptop, "other", 9);
    publish(&laptop, "large", 1);
    laptop.fs().keep("first").unwrap();
    publish(&laptop, "large", 2);
    laptop.fs().keep("second").unwrap();
    laptop.fs().keep("third").unwrap();
    publish(&laptop, "large", 3);
    let (states, _) = laptop.snapshots();
    let apart = bytes_apart(laptop.volume(), &states).unwrap();
    let of = |label: &str| {
        let found = states.iter().zip(&apart).filter(|(state, _)| state.label == label);
        found.map(|(_, bytes)| *bytes).collect::<Vec<_>>()
    };
    assert_eq!(of("first"), [LARGE as u64]);
    // Two states show the second content: the removal of one of them frees nothing.
    assert_eq!((of("second"), of("third")), (vec![0], vec![0]));
    let newest = states.iter().map(|state| state.generation).max();
    let newest = states.iter().zip(&apart).find(|(state, _)| Some(state.generation) == newest);
    assert_eq!(newest.unwrap().1, &0);
}

#[test]
fn what_another_device_needs_stays() {
    let laptop = Device::first("LAPTOP");
    publish(&laptop, "large", 1);
    forget(&laptop);
    laptop.checkpoint();
    let phone = laptop.another("PHONE", 3);
    assert!(phone.write("phone", "text"));
    phone.checkpoint();
    publish(&laptop, "large", 2);
    publish(&laptop, "other", 3);
    assert_eq!(unneeded(&laptop), 1, "nobody here knows of PHONE");
    laptop.receive(&phone);
    assert_eq!(unneeded(&laptop), 0, "the newest state of PHONE has it");
    let awaited: Vec<String> = plan(&laptop).awaited.into_iter().map(|of| of.name).collect();
    assert_eq!(awaited, ["PHONE"]);
    // PHONE goes on from LAPTOP's state, and does not keep the one before.
    phone.receive(&laptop);
    phone.later(60);
    phone.follow();
    phone.answer();
    laptop.receive(&phone);
    assert_eq!(unneeded(&laptop), 1);
    // It keeps one by its name.
    phone.fs().keep("PHONE's").unwrap();
    phone.checkpoint();
    publish(&laptop, "other", 4);
    laptop.receive(&phone);
    phone.receive(&laptop);
    phone.later(60);
    phone.follow();
    phone.answer();
    laptop.receive(&phone);
    assert_eq!(unneeded(&laptop), 1, "the kept state of PHONE has what LAPTOP replaced");
    // Where a state is known and not here, nobody can tell.
    let path = laptop.world().paths().into_iter().rfind(|path| {
        path.contains("/head/") && phone.world().get(path).is_some() && {
            let newest = format!("{:016x}-", phone.volume().state().generation);
            path.contains(&newest) && path.contains(&hex(&phone.volume().state().device))
        }
    });
    laptop.follow();
    laptop.world().remove_file(&path.unwrap());
    assert!(matches!(plan(&laptop).doubts[..], [Doubt::NotAllHere(_), ..]));
}

/// A head that is here has merged a state whose device's folder is not: what that device keeps is not
/// known.
#[test]
fn nothing_is_given_back_while_a_device_that_is_named_is_not_here() {
    let laptop = Device::first("LAPTOP");
    publish(&laptop, "large", 1);
    let phone = laptop.another("PHONE", 3);
    assert!(phone.write("phone", "text"));
    phone.fs().keep("PHONE's").unwrap();
    let desk = phone.another("DESK", 4);
    assert!(desk.write("desk", "text"));
    desk.checkpoint();
    publish(&laptop, "large", 2);
    laptop.receive(&desk);
    let whole = plan(&laptop);
    assert!(whole.doubts.is_empty(), "{:?}", whole.doubts);
    assert_eq!(whole.total(Fate::Unneeded).0, 0);
    let of_phone = hex(&phone.volume().state().device);
    for path in laptop.world().paths().iter().filter(|path| path.contains(&of_phone)) {
        laptop.world().remove_file(path);
    }
    assert!(matches!(plan(&laptop).doubts[..], [Doubt::NotAllHere(_), ..]));
}

/// Both copies of a device count, and the newest head is only one of them.
#[test]
fn nothing_is_given_back_while_a_device_has_two_tips() {
    let laptop = Device::first("LAPTOP");
    publish(&laptop, "large", 1);
    let ended = laptop.end();
    let twin = ended.copy();
    let (laptop, twin) = (ended.mount(20), twin.mount(21));
    publish(&twin, "twin", 2);
    publish(&laptop, "large", 3);
    laptop.receive(&twin);
    let doubts = plan(&laptop).doubts;
    let copied =
        |doubt: &Doubt| matches!(doubt, Doubt::NotAllHere(what) if what.contains("copied"));
    assert!(doubts.iter().any(copied), "{doubts:?}");
}

#[test]
fn old_heads_are_folded_once_they_are_many() {
    let laptop = Device::first("LAPTOP");
    let mut folded = Vec::new();
    for count in 1..=8 {
        laptop.later(60);
        assert!(laptop.write("f", &format!("{count}")));
        laptop.checkpoint();
        let plan = plan(&laptop);
        assert_eq!(plan.total(Fate::Unneeded).0, 0, "a head alone is never given back");
        folded.push(plan.total(Fate::Folded).0);
        assert_eq!(plan.files.len(), count - 1, "all but the newest have a row");
        let is_newer = |file: &&Planned| file.fate == Fate::Stays;
        assert!(plan.files.iter().filter(is_newer).count() <= 3);
    }
    assert_eq!(folded, [0, 0, 0, 2, 3, 4, 5, 6]);
    let again = plan(&laptop).total(Fate::Folded).2;
    assert!(again < 2000, "most of them is replaced: {again}");
}

#[test]
fn a_file_in_no_ledger_stays_and_a_state_that_is_not_whole_ends_the_plan() {
    let laptop = Device::first("LAPTOP");
    publish(&laptop, "large", 1);
    laptop.later(3600);
    publish(&laptop, "large", 2);
    laptop.later(3600);
    assert!(laptop.write("f", "f"));
    laptop.checkpoint();
    let own = hex(&laptop.volume().state().device);
    laptop.world().put(&format!("repo/{own}/obj/a/{}.amb", "a".repeat(64)), b"what is this?");
    assert_eq!(plan(&laptop).unlisted, (1, 13));
    // The first head has nodes of a kept state.
    let path = laptop.world().paths().into_iter().find(|path| path.contains("/0000000000000001-"));
    laptop.world().remove_file(&path.unwrap());
    let read = laptop.read_at(None).unwrap();
    assert!(read.volume().plan_sweep(laptop.volume().state().device, &[]).is_err());
}

/// What a device does to what it shows, or keeps.
#[derive(Clone, Debug)]
pub enum Edit {
    Write(usize, u8),
    Unlink(usize),
    Keep,
}

pub fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (0..3_usize, 0..5_u8).prop_map(|(file, seed)| Edit::Write(file, seed)),
        2 => (0..3_usize).prop_map(Edit::Unlink),
        1 => Just(Edit::Keep),
    ]
}

impl Edit {
    /// Does it; `names` were given to states before.
    pub fn apply(&self, device: &Device, names: &mut u32) {
        match self {
            Self::Write(file, seed) => {
                let _ = write_in_pieces(device, &format!("f{file}"), &noise(u64::from(*seed)));
            }
            Self::Unlink(file) => drop(device.unlink(&format!("f{file}"))),
            Self::Keep => {
                *names += 1;
                device.fs().keep(&format!("{names}")).unwrap();
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Edit(usize, Edit),
    Pass(u8),
    Policy(usize, u8),
    Publish(usize),
    Carry(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let device = 0..2_usize;
    prop_oneof![
        7 => (device.clone(), edit()).prop_map(|(at, edit)| Step::Edit(at, edit)),
        3 => (1..30_u8).prop_map(Step::Pass),
        1 => (device.clone(), 0..3_u8).prop_map(|(at, hours)| Step::Policy(at, hours)),
        5 => device.clone().prop_map(Step::Publish),
        3 => (device.clone(), device).prop_map(|(from, to)| Step::Carry(from, to)),
    ]
}

/// What the newest state of each device in a copy of REPO shows, and each that a ledger keeps.
pub fn all_states(device: &Device) -> Vec<Listing> {
    let read = device.read_at(None).unwrap();
    let volume = read.volume();
    let mut roots = Vec::new();
    for head in &volume.heads().newest {
        roots.push(head.commit.root);
        let kept = kept_in(&volume.store, head.commit.ledger).unwrap();
        roots.extend(kept.values().map(|kept| kept.root));
    }
    let writer = volume.writer();
    let seen = |root| {
        let commit = Commit { root, ..Commit::empty([0; 16], writer) };
        let past = volume.of_past(Base::plain(commit, [0; 32]));
        listing(&Fs::new(past, Box::new(NoLog), OPTIONS).unwrap(), ROOT).unwrap()
    };
    roots.into_iter().map(seen).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20 * factor()))]
    #[test]
    fn whatever_is_given_back_every_kept_state_can_be_read(
        steps in prop::collection::vec(step(), 5..40),
    ) {
        let laptop = Device::first("LAPTOP");
        publish(&laptop, "f0", 9);
        let devices = [laptop.another("PHONE", 3), laptop];
        let mut names = 0;
        for step in steps {
            match step {
                Step::Edit(at, edit) => edit.apply(&devices[at], &mut names),
                Step::Pass(quarters) => devices.iter().for_each(|device| {
                    device.later(u32::from(quarters) * 450);
                }),
                Step::Policy(at, hours) => {
                    let set = |retention: &mut Retention| {
                        *retention = Retention::new(u64::from(hours), 0, 0);
                    };
                    devices[at].fs().change_retention(set).unwrap();
                }
                Step::Publish(at) => devices[at].checkpoint(),
                Step::Carry(from, to) if from != to => {
                    devices[to].receive(&devices[from]);
                    devices[to].follow();
                }
                Step::Carry(..) => {}
            }
            // All clocks show the same.
            for device in &devices {
                device.later(0);
            }
        }
        for device in &devices {
            let before = all_states(device);
            let plan = plan(device);
            for file in plan.files.iter().filter(|file| file.fate == Fate::Unneeded) {
                device.world().remove_file(&format!("repo/{}", file.name.path()));
            }
            prop_assert_eq!(all_states(device), before);
        }
    }
}
