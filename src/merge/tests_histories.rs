//! What holds whatever devices did: on random histories.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::conflicts::Search;
use super::tests_devices::Device;
use super::tests_maps::{Line, Listing, Map, Pairs, checked, joined, pairs, repairs, settled};
use super::{Conflict, ConflictKind, FoundConflict, ROOT, Scope};
use crate::format::side_files::main_name;

/// What a device does: to the path of this number, and of that.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Write(usize),
    Append(usize),
    Save(usize),
    Rename(usize, usize),
    Link(usize, usize),
    Unlink(usize),
    Mkdir(usize),
    Rmdir(usize),
    Chmod(usize, u32),
    SetXattr(usize),
    RemoveXattr(usize),
}

pub(crate) const FILES: [&str; 14] = [
    "f",
    "g",
    "D/f",
    "D/g",
    "E/f",
    "D/F/f",
    "E/F/g",
    "db",
    "db-wal",
    "D/db",
    "D/db-wal",
    "E/db",
    "E/db-wal",
    "db-journal",
];
pub(crate) const DIRS: [&str; 6] = ["D", "E", "D/F", "E/F", "D/E", "E/D"];

fn act() -> impl Strategy<Value = Act> {
    let file = || 0..FILES.len();
    let any = || 0..FILES.len() + DIRS.len();
    prop_oneof![
        4 => file().prop_map(Act::Write),
        1 => file().prop_map(Act::Append),
        2 => file().prop_map(Act::Save),
        4 => (any(), any()).prop_map(|(from, to)| Act::Rename(from, to)),
        // A log with two names is no log.
        1 => (0usize..8, 0usize..8).prop_map(|(from, to)| Act::Link(from, to)),
        3 => file().prop_map(Act::Unlink),
        2 => any().prop_map(Act::Mkdir),
        1 => any().prop_map(Act::Rmdir),
        1 => (any(), 0u32..4).prop_map(|(at, mode)| Act::Chmod(at, 0o600 | mode)),
        1 => file().prop_map(Act::SetXattr),
        1 => file().prop_map(Act::RemoveXattr),
    ]
}

pub(crate) fn acts(most: usize) -> impl Strategy<Value = Vec<Act>> {
    prop::collection::vec(act(), 0..most)
}

fn path(at: usize) -> &'static str {
    FILES.iter().chain(&DIRS).nth(at).unwrap()
}

/// What makes the name at a path that of a log; none if nothing does.
fn suffix(at: usize) -> Option<&'static [u8]> {
    let name = path(at).as_bytes();
    main_name(name).map(|main| &name[main.len()..])
}

/// Does all of it, as far as it can be done. Bytes are made once.
pub(crate) fn play(device: &Device, name: &str, acts: &[Act], made: &mut u32) {
    for act in acts {
        *made += 1;
        let bytes = format!("{name}{made};");
        match *act {
            Act::Write(at) => device.write(path(at), &bytes),
            Act::Append(at) => device.append(path(at), &bytes),
            Act::Save(at) => {
                let is_saved = device.write("t", &bytes) && device.rename("t", path(at));
                // What was to be saved there once is not what is saved elsewhere later.
                is_saved || device.unlink("t")
            }
            // Not yet: a file that becomes a log, a log of another kind, or none any more.
            Act::Rename(from, to) if from < FILES.len() && suffix(from) != suffix(to) => false,
            Act::Rename(from, to) => device.rename(path(from), path(to)),
            Act::Link(from, to) => device.link(path(from), path(to)),
            Act::Unlink(at) => device.unlink(path(at)),
            Act::Mkdir(at) => device.mkdir(path(at)),
            Act::Rmdir(at) => device.rmdir(path(at)),
            Act::Chmod(at, mode) => device.chmod(path(at), mode),
            Act::SetXattr(at) => device.set_xattr(path(at), &bytes),
            Act::RemoveXattr(at) => device.remove_xattr(path(at)),
        };
    }
}

/// What a device of a history does next.
#[derive(Clone, Debug)]
pub(crate) enum Turn {
    /// It changes files.
    Act(usize, Vec<Act>),
    /// It publishes.
    Publish(usize),
    /// The first gets all that the second has in REPO, and follows: it publishes what it has first.
    Carry(usize, usize),
}

/// A turn of one of so many devices.
pub(crate) fn turn(devices: usize) -> impl Strategy<Value = Turn> {
    let device = move || 0..devices;
    prop_oneof![
        3 => (device(), acts(5)).prop_map(|(device, acts)| Turn::Act(device, acts)),
        4 => device().prop_map(Turn::Publish),
        3 => (device(), device()).prop_map(|(to, from)| Turn::Carry(to, from)),
    ]
}

impl Turn {
    pub(crate) fn play(self, devices: &[Device], made: &mut u32) {
        match self {
            Self::Act(at, acts) => play(&devices[at], "x", &acts, made),
            Self::Carry(to, from) if to == from => {}
            Self::Carry(to, from) => {
                devices[to].receive(&devices[from]);
                devices[to].tick();
                devices[to].follow();
            }
            Self::Publish(at) => {
                devices[at].tick();
                devices[at].checkpoint();
            }
        }
    }
}

fn contents(listing: &Listing) -> BTreeSet<String> {
    listing.values().filter(|line| !line.is_dir).map(|line| line.bytes.clone()).collect()
}

/// Whether these bytes are those of a file with the name of a log.
fn is_log(all: &[Listing], bytes: &str) -> bool {
    let is_it = |(path, line): (&String, &Line)| {
        !line.is_dir && line.bytes == bytes && main_name(path.as_bytes()).is_some()
    };
    all.iter().any(|listing| listing.iter().any(is_it))
}

/// Checks a join of heads of devices that had all seen `base` and nothing of one another.
fn check(base: &Map, maps: &[&Map], ids: &crate::crypto::IdKeys) -> Result<(), String> {
    let (map, _) = checked(maps, ids)?;
    let listing = map.listing()?;
    let all: Vec<Listing> = maps.iter().map(|map| map.listing().unwrap()).collect();
    let (before, shown) = (contents(&base.listing().unwrap()), contents(&listing));
    for listing in &all {
        let lost =
            contents(listing).into_iter().find(|b| !before.contains(b) && !shown.contains(b));
        if let Some(bytes) = lost {
            return Err(format!("{bytes:?} is lost"));
        }
    }
    let known: BTreeSet<String> = all.iter().flat_map(contents).collect();
    if let Some(bytes) = shown.iter().find(|bytes| !known.contains(*bytes)) {
        return Err(format!("{bytes:?} came from nowhere"));
    }
    let known: Pairs = all.iter().flat_map(pairs).collect();
    // What looked like a log and was set apart is a file like any other.
    let mut shown = pairs(&listing);
    shown.retain(|(bytes, _, beside)| beside.is_some() || !is_log(&all, bytes));
    if let Some(pair) = shown.into_iter().find(|pair| !known.contains(pair)) {
        return Err(format!("nobody had {pair:?} beside each other"));
    }
    Ok(())
}

/// Checks that people are shown the same conflicts whether the repairs of a join were stored or
/// not, and all that the repairs say of versions.
fn check_conflicts(maps: &[&Map], ids: &crate::crypto::IdKeys) -> Result<(), String> {
    let (map, suspects) = joined(maps);
    let repairs = repairs(&map, ids, &suspects);
    let found = |shown: &Map| -> Vec<FoundConflict> {
        let scope = Scope { dir: ROOT, path: Vec::new(), name: None };
        let Ok(found) = Search { ids, shown, stored: &map }.all(&[scope], &[]);
        found
    };
    let before = found(&map.with(&repairs.groups, None));
    let after = found(&map.with(&repairs.groups, Some(map.new_writer())));
    if before != after {
        return Err(format!("shown before: {before:#?}\nand after: {after:#?}"));
    }
    // Of a name that a file lost nobody may have the plain one: a database without room for its
    // side files gets another.
    let is_version = |one: &&Conflict| one.kind == ConflictKind::Version;
    for conflict in repairs.conflicts.iter().filter(is_version) {
        if !before.iter().any(|found| found.conflict == *conflict) {
            return Err(format!("not found: {conflict:#?}\namong {before:#?}"));
        }
    }
    Ok(())
}

/// How many times more histories are tried than in the gate.
pub(crate) fn factor() -> u32 {
    std::env::var("AMBERFS_TEST_FACTOR").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300 * factor()))]
    #[test]
    fn three_devices_join_to_a_plain_tree(
        first in acts(14), a in acts(9), b in acts(9), c in acts(7),
        more in acts(5), choice in any::<u64>(), seed in 1u64..1 << 40,
    ) {
        let mut made = 0;
        let laptop = Device::first_of("LAPTOP", seed);
        DIRS[..3].iter().for_each(|dir| assert!(laptop.mkdir(dir)));
        play(&laptop, "base", &first, &mut made);
        let base = laptop.publish();
        let (phone, desk) = (laptop.another("PHONE", seed + 1), laptop.another("DESK", seed + 2));
        play(&laptop, "laptop", &a, &mut made);
        play(&phone, "phone", &b, &mut made);
        play(&desk, "desk", &c, &mut made);
        let [a, b, c] = [&laptop, &phone, &desk].map(Device::publish);
        let ids = laptop.ids();
        let story = |error: String| TestCaseError::fail(error);
        let nothing = repairs(&a, ids, &a.suspects());
        prop_assert!(nothing.is_empty(), "one device made {:#?}", nothing);
        check(&base, &[&a, &b], ids).map_err(story)?;
        check(&base, &[&a, &b, &c], ids).map_err(story)?;
        check_conflicts(&[&a, &b, &c], ids).map_err(story)?;

        // Somebody stores what two have, or a part of it; one of them goes on, and a third
        // comes with what it did before.
        let (map, suspects) = joined(&[&a, &b]);
        let found = repairs(&map, ids, &suspects);
        let whole = settled(&map, ids, &found).map_err(story)?;
        play(&laptop, "more", &more, &mut made);
        let later = laptop.publish();
        checked(&[&whole, &later], ids).map_err(story)?;
        checked(&[&whole, &c], ids).map_err(story)?;
        checked(&[&whole, &later, &c], ids).map_err(story)?;
        let chosen = found.groups.iter().enumerate();
        let chosen = chosen.filter(|(at, _)| choice >> (at % 64) & 1 == 1).map(|(_, group)| group);
        let part = map.with(chosen, Some(map.new_writer()));
        // What was not stored may need a repair wherever it is.
        let (map, _) = joined(&[&part, &later, &c]);
        let rest = repairs(&map, ids, &map.suspects());
        settled(&map, ids, &rest).map_err(story)?;
    }
}
