//! What the simulated world keeps and loses.

use super::*;
use crate::io::{OpenMode, PrivateFolder, SyncedFolder};

const LOSE_ALL: Crash = Crash { data: Unsynced::Lost, names_kept: false };

#[test]
fn only_synced_bytes_and_names_survive_a_power_cut() {
    let world = SimWorld::new();
    let folder = world.folder("state");
    let file = folder.open("a", OpenMode::CreateNew).unwrap();
    file.write_at(0, b"one").unwrap();
    file.sync_data().unwrap();
    assert_eq!(world.crash(LOSE_ALL).paths(), Vec::<String>::new());
    folder.sync_dir("").unwrap();
    file.write_at(3, b"two").unwrap();
    assert_eq!(world.crash(LOSE_ALL).get("state/a").unwrap(), b"one");
    assert_eq!(world.kill().get("state/a").unwrap(), b"onetwo");
    let torn = Crash { data: Unsynced::LastTorn(1), names_kept: false };
    assert_eq!(world.crash(torn).get("state/a").unwrap(), b"onet");
    file.write_at(6, b"three").unwrap();
    let one = Crash { data: Unsynced::OneLost(0), names_kept: true };
    assert_eq!(world.crash(one).get("state/a").unwrap(), b"one\0\0\0three");
    assert_eq!(world.pending_writes(), 2);
    folder.rename("a", "b").unwrap();
    assert_eq!(world.crash(LOSE_ALL).paths(), ["state/a"]);
    folder.sync_dir("").unwrap();
    assert_eq!(world.crash(LOSE_ALL).paths(), ["state/b"]);
}

#[test]
fn a_failed_sync_loses_what_it_should_have_kept() {
    let world = SimWorld::new();
    let folder = world.folder("state");
    let file = folder.open("a", OpenMode::CreateNew).unwrap();
    folder.sync_dir("").unwrap();
    file.write_at(0, b"one").unwrap();
    world.fail_at(world.operations() + 1, Fault::Io);
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(libc::EIO));
    file.sync_data().unwrap();
    assert_eq!(world.crash(LOSE_ALL).get("state/a").unwrap(), b"");
}

#[test]
fn published_files_are_durable_and_counted_with_the_rest() {
    let world = SimWorld::new();
    let (folder, synced) = (world.folder("state"), world.synced("repo"));
    folder.open("a", OpenMode::CreateNew).unwrap();
    synced.publish("device/head/x", b"bytes").unwrap();
    assert_eq!(world.crash(LOSE_ALL).get("repo/device/head/x").unwrap(), b"bytes");
    assert_eq!(synced.list("").unwrap()[0].name, "device");
    let count = world.operations();
    world.freeze_at(count + 2);
    assert!(synced.publish("device/head/y", b"more").is_err());
    assert!(synced.list("").is_err() && PrivateFolder::list(&*folder, "").is_err());
    assert_eq!(world.operations(), count + 2);
}

#[test]
fn capacity_and_injected_faults_answer_with_their_error() {
    let world = SimWorld::new();
    let folder = world.folder("state");
    world.set_capacity(10);
    let file = folder.open("a", OpenMode::CreateNew).unwrap();
    file.write_at(0, &[1; 10]).unwrap();
    assert_eq!(file.write_at(8, &[1; 4]).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(PrivateFolder::space(&*folder).unwrap().free, 0);
    world.fail_at(world.operations() + 1, Fault::NoSpace);
    assert_eq!(file.write_at(0, &[2]).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    file.write_at(0, &[2]).unwrap();
}

#[test]
fn clock_and_random_numbers_follow_from_what_they_are_told() {
    let clock = SimClock::new(Timestamp { secs: 5, nanos: 900_000_000 });
    clock.advance(Duration::from_millis(1200));
    assert_eq!(clock.now(), Timestamp { secs: 7, nanos: 100_000_000 });
    assert_eq!(clock.elapsed(), Duration::from_millis(1200));
    let draw = |seed| {
        let (random, mut bytes) = (SimRandom::new(seed), [0; 8]);
        random.fill(&mut bytes);
        random.fill(&mut bytes);
        bytes
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}
