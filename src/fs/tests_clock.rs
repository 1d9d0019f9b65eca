//! A wall clock that is set while the file system is in use, as by an
//! administrator or after the machine's battery died.

use std::time::Duration;

use super::tests_crash::machine;
use super::tests_crash::model::ME;
use super::*;
use crate::io::sim::SimWorld;

const YEAR: i64 = 365 * 86_400;

fn fresh() -> SimWorld {
    let world = machine::fresh();
    set(&world, 50 * YEAR);
    world
}

/// `state` names the folder of local state, and so the device.
fn boot(world: &SimWorld, state: &str, life: u64) -> Fs {
    let (volume, _) = machine::open(world, state, life, None).unwrap();
    let is_first = volume.base().commit.generation == 0;
    assert!(is_first || volume.notices.is_empty(), "{:?}", volume.notices);
    let ownership =
        Ownership { uid: 1000, gid: 1000, record_self: true, force_uid: None, force_gid: None };
    Fs::new(volume, Box::new(NoLog), Options { read_only: false, ownership }).unwrap()
}

fn set(world: &SimWorld, secs: i64) {
    world.clock().set_wall(Timestamp { secs, nanos: 0 });
}

fn create(fs: &Fs, name: &str) {
    let ino = fs.mknod(ME, ROOT, name.as_bytes(), 0o100_644, 0).unwrap().ino;
    fs.write(ino, 0, name.as_bytes(), false).unwrap();
    fs.forget(ino, 1);
}

/// Neither early nor late, wherever the hands of the clock are.
#[test]
fn checkpoints_go_by_the_time_that_passed() {
    let world = fresh();
    let fs = boot(&world, "state", 1);
    let when = When::default();
    assert_eq!((when.quiet, when.latest), (Duration::from_secs(30), Duration::from_secs(600)));
    for years in [0, 10, 3000, -60, -1] {
        create(&fs, &format!("before {years}"));
        set(&world, (50 + years) * YEAR);
        assert!(!fs.is_due(&when), "{years} years: nothing passed");
        world.clock().advance(Duration::from_secs(29));
        assert!(!fs.is_due(&when), "{years} years: 29 s after the last change");
        world.clock().advance(Duration::from_secs(1));
        assert!(fs.is_due(&when), "{years} years: 30 s after the last change");
        fs.checkpoint().unwrap();
        assert!(!fs.is_due(&when));
        // Somebody who never stops: at the latest ten minutes after the first.
        for step in 0..30 {
            assert!(!fs.is_due(&when), "{years} years: step {step}");
            create(&fs, &format!("{years} {step}"));
            set(&world, (50 - years) * YEAR + step);
            world.clock().advance(Duration::from_secs(20));
        }
        assert!(fs.is_due(&when), "{years} years: ten minutes after the first change");
        fs.checkpoint().unwrap();
        // After an hour of calm the next change is published as soon as the first one.
        world.clock().advance(Duration::from_secs(3600));
    }
}

/// A checkpoint that failed made no file: the next one does not wait longer for it.
#[test]
fn failed_checkpoints_are_no_reason_to_back_off() {
    let world = fresh();
    let fs = boot(&world, "state", 1);
    create(&fs, "file");
    world.set_capacity(1000);
    for _ in 0..4 {
        world.clock().advance(Duration::from_secs(30));
        assert!(fs.is_due(&When::default()));
        assert!(fs.checkpoint().is_err());
    }
    world.set_capacity(1 << 40);
    world.clock().advance(Duration::from_secs(30));
    assert!(fs.is_due(&When::default()));
    fs.checkpoint().unwrap();
    create(&fs, "next");
    world.clock().advance(Duration::from_secs(30));
    assert!(!fs.is_due(&When::default()), "a head was made");
    world.clock().advance(Duration::from_secs(30));
    assert!(fs.is_due(&When::default()));
}

/// A commit that says it is older than the one before it is the newest all the
/// same: for its own device, and for another that reads REPO alone.
#[test]
fn a_commit_with_an_earlier_time_is_still_the_newest() {
    let world = fresh();
    let fs = boot(&world, "state", 1);
    let mut expected = Vec::new();
    for (number, years) in [50, 80, 20, -30, 51].into_iter().enumerate() {
        set(&world, years * YEAR);
        let name = format!("file {number}");
        create(&fs, &name);
        expected.push(name.into_bytes());
        fs.checkpoint().unwrap().expect("something changed");
        assert_eq!(fs.volume().base().commit.time.secs, years * YEAR);
        let ino = fs.lookup(ROOT, expected[number].as_slice()).unwrap().ino;
        assert_eq!(fs.getattr(ino).unwrap().mtime.secs, years * YEAR, "shown as it was");
    }
    set(&world, 19 * YEAR);
    create(&fs, "last");
    expected.push(b"last".to_vec());
    fs.checkpoint().unwrap();
    drop(fs);
    for (life, state) in [(2, "state"), (3, "another")] {
        let fs = boot(&world, state, life);
        let mut found = Vec::new();
        fs.readdir(ROOT, 2, false, &mut |entry| {
            found.push(entry.name.clone());
            true
        })
        .unwrap();
        found.sort();
        let mut expected = expected.clone();
        expected.sort();
        assert_eq!(found, expected, "{state}");
        assert_eq!(fs.volume().base().commit.time.secs, 19 * YEAR);
    }
}

/// While a machine sleeps its memory may be copied: of two that wake no change has the other's dot, and
/// no inode the other's number.
#[test]
fn after_a_suspend_another_writer_makes_the_changes() {
    let world = fresh();
    let key = |fs: &Fs, name: &str| {
        let ino = fs.lookup(ROOT, name.as_bytes()).unwrap().ino;
        (fs.volume().writer(), ino)
    };
    let boot = |life| machine::boot(&world, "state", life).unwrap();
    let fs = boot(1);
    create(&fs, "before");
    let before = key(&fs, "before");
    // Neither a clock that is set nor time that passes is a suspend.
    set(&world, 70 * YEAR);
    world.clock().advance(Duration::from_secs(3600));
    create(&fs, "soon after");
    assert_eq!(key(&fs, "soon after").0, before.0);
    world.clock().sleep(Duration::from_secs(60));
    create(&fs, "after");
    let after = key(&fs, "after");
    assert_ne!(before.0, after.0);
    assert!(before.0.first_ino() <= before.1 && before.1 <= before.0.last_ino());
    assert!(after.0.first_ino() <= after.1 && after.1 <= after.0.last_ino());
    let ino = before.1;
    fs.write(ino, 0, b"changed", false).unwrap();
    // What both writers did is in one head, and in one journal.
    fs.checkpoint().unwrap();
    let row = |fs: &Fs, writer| fs.volume().tree().get(&Key::Writer(writer)).unwrap().is_some();
    assert!(row(&fs, before.0) && row(&fs, after.0));
    create(&fs, "late");
    world.clock().sleep(Duration::from_secs(60));
    create(&fs, "latest");
    let latest = key(&fs, "latest");
    assert_ne!(latest.0, after.0);
    fs.flush_log().unwrap();
    drop(fs);
    let fs = boot(2);
    for name in ["before", "soon after", "after", "late", "latest"] {
        assert!(fs.lookup(ROOT, name.as_bytes()).is_ok(), "{name}");
    }
    assert_eq!(fs.read(ino, 0, 20).unwrap(), b"changed");
    fs.checkpoint().unwrap();
    assert!(row(&fs, latest.0));
}
