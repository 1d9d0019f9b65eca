//! Local state and REPO that do not belong together: restored, lost, copied,
//! rolled back, and two devices that wrote at once.

use std::collections::BTreeMap;

use super::tests_damage::{open, outcome, publish, repository};
use super::*;
use crate::crypto::hex;
use crate::format::clock::Tag;
use crate::format::container::Kind;
use crate::format::ledger::{Container, Key as LedgerKey};
use crate::format::namespace::Xattr;
use crate::io::SyncedFolder;
use crate::io::sim::SimWorld;
use crate::sync::{Beside, OpenOptions};
use crate::tree::ledger;

/// Files under `root`, with their bytes.
fn files(world: &SimWorld, root: &str) -> Vec<(String, Vec<u8>)> {
    let inside = format!("{root}/");
    let paths = world.paths().into_iter().filter(|path| path.starts_with(&inside));
    paths.map(|path| (path.clone(), world.get(&path).unwrap())).collect()
}

/// Puts back what was under `root`.
fn restore(world: &SimWorld, root: &str, old: &[(String, Vec<u8>)]) {
    let synced = world.synced(root);
    for (path, _) in files(world, root) {
        SyncedFolder::remove(&*synced, &path[root.len() + 1..]).unwrap();
    }
    for (path, bytes) in old {
        world.put(path, bytes);
    }
}

/// Opening for writing is refused and nothing is changed anywhere.
fn refused(world: &SimWorld, state: &str, options: &OpenOptions) -> String {
    let before = (files(world, "repo"), files(world, state));
    let error = open(world, Some(state), options, 99).err().expect("it must be refused");
    assert!(before == (files(world, "repo"), files(world, state)), "{error}: changed something");
    let shown = outcome(&Err(error));
    let error = open(world, Some(state), options, 99).err().expect("it must be refused");
    format!("{shown}: {error}")
}

fn plain() -> OpenOptions {
    OpenOptions::default()
}

#[test]
fn a_state_from_before_the_last_checkpoint_is_refused() {
    let world = repository();
    let old = files(&world, "state");
    publish(&open(&world, Some("state"), &plain(), 10).unwrap(), 4);
    restore(&world, "state", &old);
    let error = refused(&world, "state", &plain());
    assert!(error.starts_with("state: ") && error.contains("generation 3 against 4"), "{error}");
}

#[test]
fn a_lost_state_makes_a_new_device_that_goes_on() {
    let world = repository();
    restore(&world, "state", &[]);
    let volume = open(&world, Some("state"), &plain(), 10).unwrap();
    assert_ne!(volume.state().device, volume.base().commit.device);
    assert_eq!(outcome(&Ok(volume)), "3:123");
    let volume = open(&world, Some("state"), &plain(), 11).unwrap();
    publish(&volume, 4);
    drop(volume);
    assert_eq!(outcome(&open(&world, Some("state"), &plain(), 12)), "1:123");
    assert_eq!(outcome(&open(&world, None, &plain(), 13)), "1:123");
}

#[test]
fn a_state_of_another_place_or_repository_is_refused() {
    let world = repository();
    let elsewhere = OpenOptions { place: [1; 32], ..plain() };
    let error = refused(&world, "state", &elsewhere);
    assert!(error.contains("another machine or folder"), "{error}");
    // What would be lost with it was looked at.
    assert!(error.contains("its journal holds no change"), "{error}");
}

/// The advice was to remove the state folder, whose journal could hold the
/// only copy of what fsync had returned for.
#[test]
fn a_state_that_was_moved_is_gone_on_with_if_that_is_asked_for() {
    let world = repository();
    let (elsewhere, adopt) = ([1; 32], true);
    let volume =
        open(&world, Some("state"), &OpenOptions { place: elsewhere, adopt, ..plain() }, 10);
    let device = volume.as_ref().unwrap().state().device;
    assert_eq!(outcome(&volume), "3:123!");
    drop(volume);
    let volume = open(&world, Some("state"), &OpenOptions { place: elsewhere, ..plain() }, 11);
    assert_eq!(volume.as_ref().unwrap().state().device, device);
    assert_eq!(outcome(&volume), "3:123");
    drop(volume);
    assert!(refused(&world, "state", &plain()).starts_with("state: "));
}

#[test]
fn a_damaged_state_is_refused() {
    let world = repository();
    assert!(world.tamper("state/device", |bytes| bytes[20] ^= 1));
    assert!(refused(&world, "state", &plain()).starts_with("state: "));
    world.tamper("state/device", Vec::clear);
    assert!(refused(&world, "state", &plain()).starts_with("state: "));
}

#[test]
fn an_older_repo_is_named_with_device_and_generation() {
    let world = repository();
    let old = files(&world, "repo");
    publish(&open(&world, Some("state"), &plain(), 10).unwrap(), 4);
    drop(open(&world, Some("watcher"), &plain(), 11).unwrap());
    restore(&world, "repo", &old);
    let own = refused(&world, "state", &plain());
    assert!(own.starts_with("rolled back: ") && own.contains("generation 4"), "{own}");
    let watcher = open(&world, Some("watcher"), &plain(), 12).unwrap();
    let behind = watcher.heads().behind.clone();
    let [one] = &behind[..] else { panic!("{behind:?}") };
    assert_eq!((one.known, one.here, one.own), (4, 3, false));
    assert_eq!(one.name.as_deref(), Some("state"));
    assert!(one.time.is_some());
    drop(watcher);
    let again = open(&world, Some("watcher"), &plain(), 13).unwrap();
    assert_eq!(again.heads().behind, behind, "it is not forgotten");
    drop(again);
    assert_eq!(outcome(&open(&world, None, &plain(), 12)), "3:123");
    // Reading beside local state: its own heads are missed, and those of others.
    for (state, own) in [("state", true), ("watcher", false)] {
        let beside = Beside::load(&*world.folder(state)).unwrap();
        assert!(beside.is_some());
        let options = OpenOptions { beside, ..plain() };
        let read = open(&world, None, &options, 14).unwrap();
        let heads = read.heads();
        let [one] = &heads.behind[..] else { panic!("{:?}", heads.behind) };
        assert_eq!((one.known, one.here, one.own), (4, 3, own));
    }
    // So does what the vault was told, the highest of all that is known.
    let told = [(one.device, 9)].into_iter().collect();
    let read = open(&world, None, &OpenOptions { told, ..plain() }, 14).unwrap();
    assert_eq!(read.heads().behind[0].known, 9);
    let accepted = OpenOptions { accept_older: true, ..plain() };
    drop(open(&world, Some("watcher"), &accepted, 15).unwrap());
    let after = open(&world, Some("watcher"), &plain(), 16).unwrap();
    assert_eq!(after.heads().behind, []);
    drop(after);
    let header: Vec<_> = old.into_iter().filter(|(path, _)| path.contains("/amberfs-")).collect();
    restore(&world, "repo", &header);
    assert!(refused(&world, "state", &plain()).starts_with("rolled back: "));
    assert!(refused(&world, "watcher", &plain()).starts_with("rolled back: "));
}

/// What another device held was taken over from its head: status then said that a third
/// device holds what it never saw.
#[test]
fn a_head_has_tags_only_of_heads_that_its_own_device_saw() {
    let world = repository();
    let (third, tag) = ([9; 16], Tag([7; 8]));
    {
        let volume = open(&world, Some("state"), &plain(), 10).unwrap();
        volume.own.lock().unwrap().processed.add(third, 7, tag);
        publish(&volume, 4);
        assert_eq!(volume.base().commit.processed.get(&third), Some((7, tag)));
    }
    let other = open(&world, Some("other"), &plain(), 11).unwrap();
    let first = other.base();
    publish(&other, 5);
    let processed = other.base().commit.processed.clone();
    assert_eq!(processed.get(&third), Some((7, Tag::default())), "its changes are in it");
    assert_eq!(processed.held(&third), None, "it never saw a head of that device");
    let seen = Some((first.commit.generation, Tag::of(&first.heads()[0])));
    assert_eq!(processed.get(&first.commit.device), seen);
    assert_eq!(processed.get(&other.state().device), None, "its own it does not name");
    drop(other);
    let first = open(&world, Some("state"), &plain(), 12).unwrap();
    publish(&first, 6);
    assert_eq!(first.base().commit.processed.get(&third), Some((7, tag)), "its own stays");
}

/// The rows of the ledger of the head that a volume stands on.
fn rows(volume: &Volume) -> Vec<(LedgerKey, Container)> {
    let mut rows = Vec::new();
    ledger::scan(&*volume.store, volume.base().commit.ledger, &[], &mut |item| {
        let key = LedgerKey::decode(&item.key).unwrap();
        rows.push((key, Container::decode(&item.bytes).unwrap()));
        ControlFlow::Continue(())
    })
    .unwrap();
    rows
}

/// All that a device has in its folder stands in its ledger, but for its newest head; what
/// others have does not.
#[test]
fn a_ledger_has_the_own_containers() {
    let world = repository();
    let volume = open(&world, Some("state"), &plain(), 10).unwrap();
    for ino in 4..60 {
        publish(&volume, ino);
    }
    drop(volume);
    let check = |volume: &Volume, heads: u64| {
        let (base, rows) = (volume.base(), rows(volume));
        let own = format!("repo/{}/", hex(&base.commit.device));
        let files = files(&world, "repo").into_iter();
        let mut files: BTreeMap<String, usize> =
            files.filter(|(path, _)| path.starts_with(&own)).map(|(p, b)| (p, b.len())).collect();
        for (key, row) in &rows {
            let LedgerKey::Container(device, hash) = key else { panic!("{key:?}") };
            assert_eq!((*device, row.condemned), (base.commit.device, 0));
            let generation = row.generation;
            let (device, hash) = (*device, *hash);
            let name = match row.kind {
                Kind::Head => Name::Head { device, generation, hash },
                _ => Name::Object { device, hash },
            };
            let size = files.remove(&format!("repo/{}", name.path()));
            assert_eq!(size, Some(row.size as usize), "{}", name.path());
        }
        let left: Vec<_> = files.into_keys().collect();
        assert!(left.len() == 1 && left[0].contains(&hex(&base.heads()[0])), "{left:?}");
        let kinds = rows.iter().filter(|(_, row)| row.kind == Kind::Head).count();
        assert_eq!(kinds as u64, heads - 1);
    };
    let again = open(&world, Some("state"), &plain(), 11).unwrap();
    publish(&again, 60);
    assert!(again.base().commit.ledger.1 > 0, "the ledger has branches");
    check(&again, 60);
    drop(again);
    // Another device has a ledger of its own.
    let other = open(&world, Some("other"), &plain(), 12).unwrap();
    publish(&other, 61);
    check(&other, 1);
    publish(&other, 62);
    check(&other, 2);
}

/// A value under a dot that a head covers stands in that head: a second one would be taken
/// for the first.
#[test]
fn nothing_is_published_twice_under_one_dot() {
    let world = repository();
    let volume = open(&world, Some("state"), &plain(), 10).unwrap();
    publish(&volume, 4);
    let dot = Dot { writer: volume.writer(), record: 1 };
    let mut seen = Seen::default();
    seen.add(dot);
    let name = |name: &[u8]| Key::Xattr(4, name.to_vec()).encode();
    let value = |value: &[u8]| Value::Xattr(Xattr::new(value.to_vec()));
    let publish = |key, dot, value, seen: &Seen| {
        let changes = Changes {
            edits: vec![(key, Some((dot, value)))],
            seen: seen.clone(),
            ..Changes::default()
        };
        volume.checkpoint(volume.stamp(changes)?, (4, 0), 0, &[])
    };
    let again = publish(name(b"a"), dot, value(b"1"), &seen);
    assert!(matches!(again, Err(StoreError::Republished { dot: found }) if found == dot));
    // The same value is no second one, and a later change may come.
    let stored = volume.tree().get(&Key::Inode(4)).unwrap().unwrap();
    publish(Key::Inode(4).encode(), dot, stored, &seen).unwrap();
    let later = Dot { record: 2, ..dot };
    seen.add(later);
    publish(name(b"a"), later, value(b"1"), &seen).unwrap();
    let row = volume.tree().get(&Key::Writer(dot.writer)).unwrap();
    assert_eq!(row, Some(Value::Writer(volume.state().device, volume.state().name)));
    assert_eq!(volume.last_of(dot.writer).unwrap(), 2);
}

#[test]
fn what_two_devices_wrote_is_joined_and_each_can_be_read() {
    let world = repository();
    let (one, two) = ("state", "second");
    let first = open(&world, Some(one), &plain(), 10).unwrap();
    let second = open(&world, Some(two), &plain(), 11).unwrap();
    publish(&first, 4);
    publish(&second, 5);
    drop((first, second));
    let mut shown = Vec::new();
    for state in [None, Some(one), Some(two)] {
        let volume = open(&world, state, &plain(), 12).unwrap();
        let told: Vec<String> = volume.notices.iter().map(ToString::to_string).collect();
        let joined = told.iter().find(|notice| notice.contains("is joined"));
        let joined = joined.unwrap_or_else(|| panic!("{told:?}"));
        assert!(joined.contains(one) && joined.contains(two), "{joined}");
        for ino in [4, 5] {
            assert!(volume.tree().get(&Key::Inode(ino)).unwrap().is_some(), "{ino}");
        }
        shown.push((volume.tree().root, volume.base().inherited.inodes));
    }
    assert!(shown.iter().all(|one| *one == shown[0]), "{shown:?}");
    for (name, seen) in [(one, "4:123"), (two, "1:123")] {
        let only = OpenOptions { only_device: Some(name.into()), ..plain() };
        assert_eq!(outcome(&open(&world, None, &only, 13)), seen);
    }
    let only = OpenOptions { only_device: Some("nobody".into()), ..plain() };
    assert_eq!(outcome(&open(&world, None, &only, 14)), "no device");
}

/// Only the second reader of the format looked at the chain of heads: a head in place of
/// another one was told by none.
#[test]
fn a_head_that_does_not_follow_the_one_before_is_told() {
    let whole = repository();
    let (one, two) = (whole.kill(), whole.kill());
    publish(&open(&one, Some("state"), &plain(), 10).unwrap(), 4);
    let other = open(&two, Some("state"), &plain(), 11).unwrap();
    publish(&other, 5);
    publish(&other, 6);
    let last = format!("repo/{}", {
        let base = other.base();
        Name::Head { device: base.commit.device, generation: 5, hash: base.heads()[0] }.path()
    });
    drop(other);
    let told = |world: &SimWorld| -> Vec<String> {
        let volume = open(world, None, &plain(), 12).unwrap();
        let notices = volume.notices.iter().filter(|notice| matches!(notice, Notice::Damage(_)));
        notices.map(ToString::to_string).collect()
    };
    assert_eq!(told(&two), Vec::<String>::new());
    let bytes = files(&two, "repo").into_iter().find(|(path, _)| *path == last).unwrap().1;
    one.put(&last, &bytes);
    let found = told(&one);
    assert!(found.len() == 1 && found[0].contains("the history of state"), "{found:?}");
    // A head that is not here is no break.
    let fourth =
        files(&one, "repo").into_iter().find(|(path, _)| path.contains("/0000000000000004-"));
    restore(
        &one,
        "repo",
        &files(&one, "repo")
            .into_iter()
            .filter(|file| *file.0 != fourth.as_ref().unwrap().0)
            .collect::<Vec<_>>(),
    );
    assert_eq!(told(&one), Vec::<String>::new());
}

/// A machine was copied with its local state and both copies wrote: two heads
/// of one device and generation. The one with the larger hash was taken, and
/// the other's changes were gone from sight.
#[test]
fn two_heads_of_one_generation_are_two_branches() {
    let whole = repository();
    let (one, two) = (whole.kill(), whole.kill());
    publish(&open(&one, Some("state"), &plain(), 10).unwrap(), 4);
    publish(&open(&two, Some("state"), &plain(), 11).unwrap(), 5);
    for (path, bytes) in files(&two, "repo") {
        one.put(&path, &bytes);
    }
    let error = refused(&one, "state", &plain());
    assert!(error.starts_with("state: ") && error.contains("another copy of it"), "{error}");
    let both = open(&one, None, &plain(), 12).unwrap();
    for ino in [4, 5] {
        assert!(both.tree().get(&Key::Inode(ino)).unwrap().is_some(), "{ino}");
    }
    // The copy's head came and its own was taken away.
    restore(&one, "repo", &files(&two, "repo"));
    assert!(refused(&one, "state", &plain()).starts_with("state: "));
}

/// All rows of the ledger of the newest head, by their keys.
fn all_rows(volume: &Volume) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    ledger::scan(&*volume.store, volume.base().commit.ledger, &[], &mut |item| {
        rows.insert(item.key.to_vec(), item.bytes.clone());
        ControlFlow::Continue(())
    })
    .unwrap();
    rows
}

/// The ledger could not be read when a head was made, for whatever reason: it began anew, and nothing that
/// it had was in it any more.
#[test]
fn a_ledger_that_cannot_be_read_stays_as_it_is() {
    let world = repository();
    let volume = open(&world, Some("state"), &plain(), 10).unwrap();
    for ino in 4..8 {
        publish(&volume, ino);
    }
    let (before, root) = (all_rows(&volume), volume.base().commit.ledger);
    let unreadable = ([9; 16], 1);
    locked(&volume.own).ledger = unreadable;
    volume.change_kept(Some(KeptChange::Named("a name".into())));
    publish(&volume, 8);
    publish(&volume, 9);
    assert_eq!(volume.base().commit.ledger, unreadable, "no other takes its place");
    assert!(volume.kept_as("a name").is_err(), "nobody is told that it is kept");
    // It can be read again: what was to be added is.
    locked(&volume.own).ledger = root;
    publish(&volume, 10);
    let after = all_rows(&volume);
    assert!(before.iter().all(|(key, row)| after.get(key) == Some(row)));
    assert!(volume.kept_as("a name").unwrap().is_some());
    let is_head = |row: &(&Vec<u8>, &Vec<u8>)| {
        row.0[0] == 1 && Container::decode(row.1).unwrap().kind == Kind::Head
    };
    let heads = before.iter().filter(is_head).count();
    assert_eq!(after.iter().filter(is_head).count(), heads + 3, "all but the newest");
}
