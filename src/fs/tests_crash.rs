//! A crash and a fault at every change of the simulated world. The oracle:
//! the visible tree is that after some prefix of the acknowledged operations,
//! no shorter than the last fsync or checkpoint that returned.

pub(super) mod machine;
pub(super) mod model;

use machine::{History, boot, check, crashes, fresh, sound};
use model::{ME, Model, Op, perform, visible};

use super::{FsError, Operations, When};
use crate::io::SyncedFolder as _;
use crate::io::sim::{Crash, Fault, SimWorld, Unsynced};

use Op::{
    Checkpoint, Create, Exchange, Fsync, Link, Mkdir, Punch, Rename, Rmdir, Symlink, Truncate,
    Unlink, Write, WriteOut, Xattr,
};

/// How much more than usual is tried (`AMBERFS_TEST_FACTOR`).
pub(super) fn factor() -> usize {
    std::env::var("AMBERFS_TEST_FACTOR").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

const SMALL: &[Op] = &[
    Mkdir("d"),
    Create("d/a"),
    Write("d/a", 0, 100, 1),
    Create("b"),
    Write("b", 0, 9000, 2),
    Fsync,
    Write("b", 4000, 300, 4),
    Link("b", "d/b2"),
    Rename("d/a", "a"),
    WriteOut,
    Symlink("s", "d/b2"),
    Checkpoint,
    Write("a", 50, 200, 5),
    Truncate("b", 5000),
    Xattr("b", 7),
    Fsync,
    Punch("b", 1000, 2000),
    Mkdir("d/e"),
    Create("d/e/c"),
    Write("d/e/c", 0, 40_000, 6),
    Rename("d/e", "e"),
    Checkpoint,
    Checkpoint,
    Write("e/c", 8192, 4096, 7),
    Create("t"),
    Write("t", 0, 3000, 8),
    Rename("t", "b"),
    WriteOut,
    Fsync,
    Exchange("a", "e/c"),
    Unlink("d/b2"),
    Rmdir("d"),
    Write("a", 30_000, 20_000, 10),
    Truncate("a", 10),
    Truncate("a", 20_000),
    Fsync,
    Unlink("e/c"),
    Checkpoint,
    Unlink("a"),
    Create("a"),
    Write("a", 100_000, 500, 11),
];

/// Runs `ops` in a fresh world that stops after `stop` changes.
fn run(ops: &[Op], stop: Option<u64>) -> (SimWorld, History) {
    let world = fresh();
    if let Some(stop) = stop {
        world.freeze_at(stop);
    }
    let mut history = History::new(Model::default());
    if let Ok(fs) = boot(&world, "state", 100) {
        history.run(&fs, ops, true);
    }
    (world, history)
}

/// A crash after every `stride` changes from `from` on, under every policy; and
/// once for each a second one, in the life after it.
fn crash_everywhere(ops: &[Op], (from, stride): (u64, usize), tears: usize) -> (usize, usize) {
    let first = fresh().operations();
    let (whole, history) = run(ops, None);
    assert!(history.failed.is_empty(), "{:?}", history.failed);
    let (mut points, mut cases) = (0, 0);
    for stop in (first + from..=whole.operations()).step_by(stride) {
        let (world, history) = run(ops, Some(stop));
        points += 1;
        let all = crashes(&world, tears);
        for crash in &all {
            let what = format!("stopped after {stop}, {crash:?}");
            check(&world.crash(*crash), &history, 1000 + 2 * cases as u64, &what);
            cases += 1;
        }
        let next = world.crash(all[points % all.len()]);
        next.freeze_at(next.operations() + points as u64 % 29);
        // Reading and opening change nothing that is visible.
        let _ = boot(&next, "state", 500_000 + points as u64).map(|fs| fs.checkpoint());
        let second = crashes(&next, 1);
        let crash = second[points % second.len()];
        let what = format!("stopped after {stop}, then again, {crash:?}");
        check(&next.crash(crash), &history, 600_000 + 2 * points as u64, &what);
        cases += 1;
    }
    (points, cases)
}

#[test]
fn a_crash_at_every_change_keeps_what_was_promised() {
    let (points, cases) = crash_everywhere(SMALL, (0, 1), 3 * factor());
    println!("{points} crash points, {cases} crashes");
    assert!(cases > 500, "{cases}");
}

/// More than a head takes, so that objects are published before it.
fn objects() -> Vec<Op> {
    let mut ops = vec![Create("big"), Create("small"), Write("small", 0, 500, 1), Fsync];
    for piece in 0..30 {
        ops.push(Write("big", u64::from(piece) * 48_000, 48_000, 4 + 3 * piece));
    }
    ops.extend([Fsync, Checkpoint, Write("big", 100_000, 9000, 100), Fsync]);
    for piece in 0..30 {
        ops.push(Write("small", u64::from(piece) * 48_000, 48_000, 5 + 3 * piece));
    }
    ops.extend([Rename("small", "big"), Checkpoint, Write("big", 0, 10, 1), Checkpoint]);
    ops
}

#[test]
fn a_crash_between_objects_and_their_head_loses_nothing() {
    let ops = objects();
    let (points, cases) = crash_everywhere(&ops, (20, 5_usize.div_ceil(factor())), factor());
    println!("{points} crash points, {cases} crashes");
}

/// More than a stream keeps in memory: it is cut into chunks, and objects are
/// published, long before a checkpoint; records of the inode that are logged
/// later tell of content that no head has.
#[test]
fn a_crash_after_a_stream_was_cut_early_loses_nothing() {
    let mut ops = vec![Create("big"), Create("other")];
    // 20 MB that do not compress: an object is published before any checkpoint.
    for (piece, from) in (1..=247u8).filter(|from| from % 3 != 0).enumerate() {
        // Short enough for a journal file of this size to take it by promise.
        ops.push(Write("big", piece as u64 * 120_000, 120_000, from));
        match piece {
            90 => ops.push(Write("other", 0, 100, 9)),
            120 => ops.push(Fsync),
            130 => ops.push(Write("big", 10_000_000, 100_000, 7)),
            150 => ops.push(WriteOut),
            _ => {}
        }
    }
    let after = ops.len();
    ops.extend([Xattr("big", 1), Rename("big", "b"), Link("b", "c"), Fsync]);
    ops.extend([Write("b", 77, 5000, 3), Truncate("c", 15_000_000), Xattr("c", 2), Fsync]);
    ops.extend([Checkpoint, Write("b", 9_000_000, 500, 4), Fsync, Unlink("c"), Fsync]);
    let changes = |ops| run(ops, None).0.operations();
    let (first, streamed, last) = (changes(&ops[..2]), changes(&ops[..after]), changes(&ops));
    let (mut cases, points) = (0, 5 * factor() as u64);
    let during = (1..points).map(|point| first + (streamed - first) * point / points);
    let behind = (0..=points).map(|point| streamed + (last - streamed) * point / points);
    for stop in during.chain(behind) {
        let (world, history) = run(&ops, Some(stop));
        for crash in crashes(&world, 1).into_iter().take(2 * factor()) {
            let what = format!("stopped after {stop}, {crash:?}");
            check(&world.crash(crash), &history, 1000 + 2 * cases, &what);
            cases += 1;
        }
    }
    println!("{cases} crashes");
}

/// What enters REPO within a second after it was written is not logged a second
/// time: the log names its chunks.
#[test]
fn a_stream_bypasses_the_log_and_comes_back() {
    let bytes = {
        let mut bytes = vec![0; 46 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    };
    let world = fresh();
    let fs = boot(&world, "state", 100).unwrap();
    let ino = fs.mknod(ME, 1, b"big", 0o100_644, 0).unwrap().ino;
    for (piece, part) in bytes.chunks(100_000).enumerate() {
        fs.write(ino, piece as u64 * 100_000, part, false).unwrap();
    }
    perform(&fs, Create("behind")).unwrap();
    fs.fsync(ino).unwrap();
    // Two objects of 16 MiB are out; what waits was logged.
    assert!(fs.log.bytes() < 24 << 20, "{} bytes in the log", fs.log.bytes());
    let objects = |world: &SimWorld| {
        let mut paths = world.paths();
        paths.retain(|path| path.contains("/obj/"));
        paths
    };
    let before = objects(&world);
    assert_eq!(before.len(), 2);
    drop(fs);
    let lost = Crash { data: Unsynced::Lost, names_kept: false };
    let mut world = world.crash(lost);
    // Objects that went away are waited for; nothing is given up.
    let taken: Vec<_> = before.iter().map(|path| (path, world.get(path).unwrap())).collect();
    for (path, _) in &taken {
        world.synced("repo").remove(path.strip_prefix("repo/").unwrap()).unwrap();
    }
    let told = boot(&world, "state", 150).err().expect("it needs the objects");
    assert!(told.contains("is not here (yet)"), "{told}");
    // Nor are they removed because they are not whole.
    for (path, bytes) in &taken {
        world.put(path, &bytes[..bytes.len() / 2]);
    }
    assert!(boot(&world, "state", 160).is_err());
    assert_eq!(objects(&world), before);
    for (path, bytes) in &taken {
        world.put(path, bytes);
    }
    for life in 0..3 {
        // More than once: a crash may follow before the next head.
        let fs = boot(&world, "state", 200 + life).unwrap();
        let ino = fs.lookup(1, b"big").unwrap().ino;
        for at in (0..bytes.len()).step_by(1 << 20) {
            let read = fs.read(ino, at as u64, 1 << 20).unwrap();
            assert!(read == bytes[at..at + (1 << 20)], "life {life}, {at}");
        }
        assert!(fs.lookup(1, b"behind").is_ok());
        drop(fs);
        world = world.crash(lost);
    }
    let fs = boot(&world, "state", 300).unwrap();
    fs.checkpoint().unwrap();
    let named: usize = fs.volume().base().commit.objects.len();
    drop(fs);
    let all = objects(&world);
    assert!(before.iter().all(|path| all.contains(path)), "objects that the log named");
    assert_eq!(named, all.len(), "all are named by the head");
    let other = boot(&world, "other", 400).unwrap();
    let ino = other.lookup(1, b"big").unwrap().ino;
    let read = other.read(ino, 20 << 20, 1 << 20).unwrap();
    assert!(read == bytes[20 << 20..21 << 20]);
}

/// A metadata object that had entered was taken for part of the next head, as the
/// objects that the journal names are. So its nodes counted as stored, and the
/// chunks below them, which were to be in the head that failed, as used by nothing.
#[test]
fn a_head_that_failed_behind_a_stream_takes_nothing_along() {
    let noise = |seed: u64, len: usize| {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    };
    let stream = noise(0, 23 << 20);
    let small = noise(1, 600_000);
    let lost = Crash { data: Unsynced::Lost, names_kept: false };
    let mut failures = 0;
    for at in 1.. {
        let world = fresh();
        let fs = boot(&world, "state", 100).unwrap();
        let big = fs.mknod(ME, 1, b"big", 0o100_644, 0).unwrap().ino;
        let ino = fs.mknod(ME, 1, b"small", 0o100_644, 0).unwrap().ino;
        for (piece, part) in stream.chunks(100_000).enumerate() {
            fs.write(big, piece as u64 * 100_000, part, false).unwrap();
        }
        fs.flush_log().unwrap();
        for (piece, part) in small.chunks(50_000).enumerate() {
            fs.write(ino, piece as u64 * 50_000, part, false).unwrap();
        }
        // More nodes than a head takes.
        for number in 0..600u64 {
            let name = format!("user.{number}");
            for file in [ino, 1] {
                fs.setxattr(file, name.as_bytes(), &noise(2 + number, 4096), 0).unwrap();
            }
        }
        // No more in the head than it takes.
        perform(&fs, Unlink("big")).unwrap();
        fs.forget(big, 1);
        fs.fsync(ino).unwrap();
        world.fail_at(world.operations() + at, Fault::NoSpace);
        let failed = fs.checkpoint().is_err();
        drop(fs);
        if !failed {
            break;
        }
        failures += 1;
        for (nth, world) in [world.kill(), world.crash(lost)].into_iter().enumerate() {
            let what = format!("failed at {at}, {nth}");
            let fs = boot(&world, "state", 200).unwrap_or_else(|e| panic!("{what}: {e}"));
            fs.checkpoint().unwrap_or_else(|e| panic!("{what}: {e}"));
            drop(fs);
            let other = boot(&world.crash(lost), "other", 300).unwrap();
            let ino = other.lookup(1, b"small").unwrap().ino;
            assert!(other.read(ino, 0, 1 << 20).unwrap() == small, "{what}");
            assert!(other.getxattr(ino, b"user.7").unwrap() == noise(9, 4096), "{what}");
            assert!(other.lookup(1, b"big").is_err(), "{what}");
        }
    }
    assert!(failures > 5, "{failures}");
}

/// A head that had entered and failed all the same (its folder could not be
/// synced) was removed after the metadata object that it names: a crash in between
/// left a head that counts, without its nodes.
#[test]
fn a_head_that_failed_is_removed_before_what_it_names() {
    let mut value = vec![0; 4096 * 1200];
    blake3::Hasher::new().finalize_xof().fill(&mut value);
    let begin = || {
        let world = fresh();
        let fs = boot(&world, "state", 100).unwrap();
        let ino = fs.mknod(ME, 1, b"file", 0o100_644, 0).unwrap().ino;
        for (number, part) in value.chunks(4096).enumerate() {
            let file = if number % 2 == 0 { ino } else { 1 };
            fs.setxattr(file, format!("user.{number}").as_bytes(), part, 0).unwrap();
        }
        fs.fsync(ino).unwrap();
        (world, fs)
    };
    let mut cases = 0;
    let (world, fs) = begin();
    let before = world.operations();
    fs.checkpoint().unwrap();
    for at in 1..=world.operations() - before {
        let (world, fs) = begin();
        world.fail_at(world.operations() + at, Fault::Io);
        // A fault of local state: it was tried again, and entered without the log.
        if fs.checkpoint().is_ok() || fs.progress().failed {
            continue;
        }
        for stop in (8..14).chain([1, 20]) {
            let (world, fs) = begin();
            world.fail_at(world.operations() + at, Fault::Io);
            assert!(fs.checkpoint().is_err());
            world.freeze_at(world.operations() + stop);
            let _ = fs.checkpoint();
            drop(fs);
            let world = world.kill();
            let what = format!("failed at {at}, stopped {stop} later");
            let fs = boot(&world, "state", 200).unwrap_or_else(|e| panic!("{what}: {e}"));
            let ino = fs.lookup(1, b"file").unwrap_or_else(|e| panic!("{what}: {e}")).ino;
            assert!(fs.getxattr(ino, b"user.2").unwrap() == value[8192..12288], "{what}");
            cases += 1;
        }
    }
    assert!(cases > 20, "{cases}");
}

/// Copying a backup over the one before made two checkpoints, and so four files
/// to upload, where a twentieth of it was new.
#[test]
fn only_what_is_new_makes_a_checkpoint_due() {
    let mut bytes = vec![0; 66 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let world = fresh();
    let fs = boot(&world, "state", 100).unwrap();
    let hour = std::time::Duration::from_secs(3600);
    let when = When { quiet: hour, latest: hour, ..When::default() };
    for (name, due) in [("first", true), ("again", false)] {
        let ino = fs.mknod(ME, 1, name.as_bytes(), 0o100_644, 0).unwrap().ino;
        for (piece, part) in bytes.chunks(100_000).enumerate() {
            fs.write(ino, piece as u64 * 100_000, part, false).unwrap();
        }
        assert_eq!(fs.is_due(&when), due, "{name}");
        fs.checkpoint().unwrap();
        assert!(!fs.is_due(&when));
    }
}

/// The first megabyte of a database came after the next eight, which another
/// thread took: it was cut as a text, and shared nothing with the day before.
#[test]
fn a_stream_whose_start_comes_late_is_cut_by_its_start() {
    let world = fresh();
    let fs = boot(&world, "state", 100).unwrap();
    let ino = fs.mknod(ME, 1, b"database", 0o100_644, 0).unwrap().ino;
    let mut start = vec![7; 100_000];
    start[..16].copy_from_slice(b"SQLite format 3\0");
    start[16..18].copy_from_slice(&4096u16.to_be_bytes());
    for piece in 1..150u64 {
        fs.write(ino, piece * 100_000, &vec![piece as u8; 100_000], false).unwrap();
    }
    fs.write(ino, 0, &start, false).unwrap();
    fs.checkpoint().unwrap();
    let key = crate::format::namespace::Key::Inode(ino);
    let Ok(Some(crate::format::namespace::Value::Inode(inode))) = fs.volume().tree().get(&key)
    else {
        panic!("it has an inode");
    };
    assert_eq!(inode.class, crate::format::namespace::ContentClass::Pages(4096));
}

/// The second of two writes to one place counts, whatever of them is cut when.
#[test]
fn a_write_over_one_that_waits_is_replayed_after_it() {
    let noise = |seed: u64, len: usize| {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    };
    let world = fresh();
    let fs = boot(&world, "state", 100).unwrap();
    let ino = fs.mknod(ME, 1, b"file", 0o100_644, 0).unwrap().ino;
    let mut expected = noise(1, 9_000_000);
    for (piece, part) in expected.chunks(100_000).enumerate() {
        fs.write(ino, piece as u64 * 100_000, part, false).unwrap();
    }
    for (seed, at, len) in [(2, 100_000, 100_000), (3, 150_000, 70_000), (4, 8_900_000, 100_000)] {
        let bytes = noise(seed, len);
        fs.write(ino, at as u64, &bytes, false).unwrap();
        expected[at..at + len].copy_from_slice(&bytes);
    }
    perform(&fs, Truncate("file", 8_950_000)).unwrap();
    expected.truncate(8_950_000);
    fs.write_log(std::time::Duration::ZERO).unwrap();
    drop(fs);
    let world = world.kill();
    let fs = boot(&world, "state", 200).unwrap();
    let ino = fs.lookup(1, b"file").unwrap().ino;
    assert!(fs.read(ino, 0, 10_000_000).unwrap() == expected);
}

/// The sum of all sizes is more than a number holds: the truncation was answered
/// with an error, each checkpoint panicked, and so did each replay.
#[test]
fn sparse_files_of_the_largest_size_are_counted() {
    const LARGEST: u64 = i64::MAX as u64;
    let world = fresh();
    let fs = boot(&world, "state", 100).unwrap();
    for op in [Create("a"), Create("b"), Create("c"), Write("c", 0, 9000, 1)] {
        perform(&fs, op).unwrap();
    }
    for op in [Truncate("a", LARGEST), Truncate("b", LARGEST), Truncate("c", 8000), Fsync] {
        perform(&fs, op).unwrap();
    }
    drop(fs);
    let fs = boot(&world.kill(), "state", 200).unwrap();
    fs.checkpoint().unwrap();
    machine::sound(&fs);
    for op in [Create("d"), Truncate("d", LARGEST), Checkpoint, Unlink("a"), Unlink("d"), Fsync] {
        perform(&fs, op).unwrap();
    }
    fs.checkpoint().unwrap();
    machine::sound(&fs);
}

/// A random workload that fits what is there.
fn random_ops(seed: u64, count: usize) -> Vec<Op> {
    const FILES: [&str; 4] = ["f", "d/f", "d/g", "e/f"];
    let mut bytes = vec![0; 8 * count];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    let mut ops = vec![Mkdir("d"), Mkdir("e")];
    let mut model = Model::default();
    for draw in bytes.chunks(8) {
        let (file, other) = (FILES[draw[1] as usize % 4], FILES[draw[2] as usize % 4]);
        let offset = u64::from(draw[3]) * [1, 16, 300][draw[4] as usize % 3];
        let len = 1 + draw[5] as usize * [1, 20, 150][draw[6] as usize % 3];
        let op = match draw[0] % 16 {
            12 => WriteOut,
            13 => Fsync,
            14 | 15 => Checkpoint,
            _ if !model.has(file) => Create(file),
            0..=4 => Write(file, offset, len, draw[7]),
            5 => Truncate(file, offset),
            6 => Punch(file, offset, len as u64),
            7 => Xattr(file, draw[7]),
            8 if !model.has(other) => Link(file, other),
            8 | 9 if file != other => Rename(file, other),
            10 if model.has(other) && file != other => Exchange(file, other),
            _ => Unlink(file),
        };
        model.apply(op);
        ops.push(op);
    }
    ops
}

#[test]
fn random_workloads_keep_what_was_promised() {
    let (mut points, mut cases) = (0, 0);
    for seed in 1..=6 * factor() as u64 {
        println!("seed {seed}");
        let counts = crash_everywhere(&random_ops(seed, 60), (seed % 5, 5), 1);
        points += counts.0;
        cases += counts.1;
    }
    println!("{points} crash points, {cases} crashes");
}

/// What the error says of a second value under a dot that a head has.
const REPUBLISHED: &str = "was published before with another value";

/// A fault at every `stride`th change, and the workload goes on. Returns how
/// many there were and how many of them stopped the file system.
fn fault_everywhere(ops: &[Op], stride: usize) -> (usize, usize) {
    let first = fresh().operations();
    let last = run(ops, None).0.operations();
    let (mut faults, mut stops) = (0, 0);
    for at in (first + 1..=last).step_by(stride) {
        for fault in [Fault::Io, Fault::NoSpace] {
            let world = fresh();
            world.fail_at(at, fault);
            let mut history = History::new(Model::default());
            let what = format!("{fault:?} at {at}");
            faults += 1;
            let Ok(fs) = boot(&world, "state", 100) else {
                check(&world.kill(), &history, 1000, &what);
                continue;
            };
            history.run(&fs, ops, false);
            let stopped = fs.progress().failed;
            if stopped {
                stops += 1;
                assert_eq!(fs.fsync(1), Err(FsError::Io), "{what}");
                assert_eq!(perform(&fs, Create("no")), Err(FsError::Io), "{what}");
                // What is in memory is all that was acknowledged: it may still enter REPO.
                history.run(&fs, &[Checkpoint], false);
                let cause = fs.take_cause().unwrap_or_default();
                assert!(!cause.contains(REPUBLISHED), "{what}: {cause}");
            } else {
                history.run(&fs, &[Fsync], false);
                let failed = &history.failed;
                assert_eq!(history.promised, history.trees.len() - 1, "{what}: {failed:?}");
                assert_eq!(visible(&fs).unwrap(), *history.trees.last().unwrap(), "{what}");
                // The fault is over: what was published and not noted is in no one's way.
                let published = fs.checkpoint().map(drop);
                assert_eq!(published, Ok(()), "{what}: {:?}", fs.take_cause());
                sound(&fs);
            }
            drop(fs);
            let lost = Crash { data: Unsynced::Lost, names_kept: false };
            let what = format!("{what} (stopped: {stopped}, {:?})", history.failed);
            for (number, next) in [world.kill(), world.crash(lost)].iter().enumerate() {
                check(next, &history, 2000 + 2 * number as u64, &format!("{what}, {number}"));
            }
        }
    }
    (faults, stops)
}

#[test]
fn a_fault_at_every_change_is_an_answer_and_loses_nothing() {
    let (mut faults, mut stops) = fault_everywhere(SMALL, 1);
    let big = fault_everywhere(&objects(), 7_usize.div_ceil(factor()));
    faults += big.0;
    stops += big.1;
    for seed in 100..100 + 3 * factor() as u64 {
        println!("seed {seed}");
        let random = fault_everywhere(&random_ops(seed, 60), 3);
        faults += random.0;
        stops += random.1;
    }
    println!("{faults} faults, of which {stops} stopped the file system");
    assert!(stops > 10, "{stops}");
}

/// The disk that REPO lies on fills up; what was written stays and is
/// published once there is room.
#[test]
fn a_full_repository_heals_once_there_is_room() {
    let world = fresh();
    let fs = boot(&world, "state", 100).unwrap();
    let mut history = History::new(Model::default());
    history.run(&fs, &SMALL[..12], false);
    let used: usize = world.paths().iter().map(|path| world.get(path).unwrap().len()).sum();
    world.set_capacity(used as u64 + 20_000);
    history.run(&fs, &[Create("x"), Write("x", 0, 40_000, 3), Fsync, Write("x", 5, 9, 4)], false);
    assert!(history.failed.is_empty(), "{:?}", history.failed);
    // What a checkpoint had cut when it failed was counted as waiting once more.
    let waiting = fs.progress().waiting_bytes;
    assert!(waiting >= 40_000, "{waiting}");
    for _ in 0..3 {
        assert_eq!(perform(&fs, Checkpoint), Err(FsError::NoSpace));
        assert!(fs.progress().trouble.is_some());
        assert_eq!(fs.progress().waiting_bytes, waiting);
    }
    check(
        &{
            let next = world.kill();
            next.set_capacity(1 << 40);
            next
        },
        &history,
        3000,
        "full",
    );
    world.set_capacity(1 << 40);
    history.run(&fs, &[Checkpoint, Write("x", 7, 20, 5), Fsync], false);
    assert!(history.failed.is_empty() && fs.progress().trouble.is_none());
    assert_eq!(perform(&fs, Checkpoint), Ok(()));
    assert_eq!(fs.progress().waiting_bytes, 0);
    drop(fs);
    check(&world.kill(), &history, 4000, "healed");
}

/// A crash left records in the journal; before the next mount another device
/// removed their file and published. Replay skipped the fsynced write without a
/// word, and put whole inodes back over what the other device had changed. Records are replayed
/// on what they were made on, and then joined: the fsynced write counts against the removal.
#[test]
fn a_journal_is_not_replayed_over_what_another_device_wrote() {
    let world = fresh();
    let fs = boot(&world, "state", 100).unwrap();
    let mut history = History::new(Model::default());
    history.run(&fs, &[Create("a"), Create("b"), Write("a", 0, 100, 1), Checkpoint], true);
    history.run(&fs, &[Write("a", 50, 9000, 2), Fsync], true);
    drop(fs);
    let (world, before) = (world.kill(), world.kill());
    let other = boot(&world, "desktop", 200).unwrap();
    let mut elsewhere = History::new(Model::default());
    elsewhere.model.apply(Create("a"));
    elsewhere.run(&other, &[Unlink("a"), Checkpoint], true);
    assert!(elsewhere.failed.is_empty());
    drop(other);
    let fs = boot(&world, "state", 300).unwrap();
    assert!(fs.volume().is_replay());
    assert_eq!(visible(&fs), Ok(history.model.tree()));
    assert_eq!(perform(&fs, Checkpoint), Ok(()));
    drop(fs);
    let fs = boot(&world, "state", 400).unwrap();
    assert!(!fs.volume().is_replay());
    sound(&fs);
    assert_eq!(visible(&fs), Ok(history.model.tree()));
    drop(fs);
    check(&before, &history, 500, "without the other device");
}
