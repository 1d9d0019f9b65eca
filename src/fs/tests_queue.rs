//! What passes the log on its way into REPO, and when the rest is logged.

use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;

use super::pressure::QUEUE_MAX;
use super::queue::ROOM_TIMEOUT;
use super::tests_crash::machine::{fresh, open};
use super::tests_crash::model::ME;
use super::*;
use crate::io::sim::{Crash, SimWorld, Unsynced};
use crate::journal::Options as JournalOptions;

const MIB: usize = 1 << 20;

/// With a journal that has room for whole queues.
fn boot(world: &SimWorld, state: &str, life: u64) -> Fs {
    let (volume, _) = open(world, state, life, None).unwrap();
    let ownership =
        Ownership { uid: 1000, gid: 1000, record_self: true, force_uid: None, force_gid: None };
    let journal = JournalOptions {
        file_size: 8 << 20,
        max_total: 256 << 20,
        reserve: 1 << 20,
        ..JournalOptions::default()
    };
    Fs::recover(volume, journal, Options { read_only: false, ownership }).unwrap().0
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes a whole file and closes it, as a copy does.
fn copy(fs: &Fs, name: &str, bytes: &[u8]) {
    let ino = match fs.lookup(ROOT, name.as_bytes()) {
        Ok(attr) => attr.ino,
        Err(_) => fs.mknod(ME, ROOT, name.as_bytes(), 0o100_644, 0).unwrap().ino,
    };
    fs.open(ino, true, true).unwrap();
    for (piece, part) in bytes.chunks(MIB).enumerate() {
        fs.write(ino, (piece * MIB) as u64, part, false).unwrap();
    }
    fs.release(ino, true);
    fs.forget(ino, 1);
}

fn objects(world: &SimWorld) -> usize {
    world.paths().iter().filter(|path| path.contains("/obj/")).count()
}

/// Each was sealed and written twice, and once memory was full all waited for one
/// writer: photos were copied at a third of the speed of one long video.
#[test]
fn many_files_go_by_the_log_as_a_long_one_does() {
    let world = fresh();
    let fs = boot(&world, "state", 100);
    let files: Vec<Vec<u8>> = (0..24).map(|seed| noise(seed, 3 * MIB + 77)).collect();
    for (number, bytes) in files.iter().enumerate() {
        copy(&fs, &format!("photo {number}"), bytes);
    }
    assert_eq!(objects(&world), 3, "of 16 MiB");
    assert!(fs.lock().dirty < 12 << 20, "{} bytes in memory", fs.lock().dirty);
    fs.fsync(ROOT).unwrap();
    let logged = fs.log.bytes();
    assert!(logged < 28 << 20, "{logged} bytes in the log, of {}", 72 * MIB);
    drop(fs);
    let world = world.crash(Crash { data: Unsynced::Lost, names_kept: false });
    let fs = boot(&world, "state", 200);
    for (number, bytes) in files.iter().enumerate() {
        let ino = fs.lookup(ROOT, format!("photo {number}").as_bytes()).unwrap().ino;
        let read = fs.read(ino, 0, bytes.len() as u32 + 1).unwrap();
        assert!(read == *bytes, "photo {number}");
    }
}

/// What is written anew, or removed, a moment later never enters REPO.
#[test]
fn a_few_closed_files_wait_for_a_checkpoint() {
    let world = fresh();
    let fs = boot(&world, "state", 100);
    let mut last = Vec::new();
    for seed in 0..30 {
        last = noise(seed, 3 * MIB);
        copy(&fs, "export", &last);
        copy(&fs, "draft", &noise(100 + seed, 3 * MIB));
        fs.unlink(ROOT, b"draft").unwrap();
    }
    assert_eq!(objects(&world), 0);
    fs.checkpoint().unwrap();
    let stored: u64 = fs.volume().base().commit.objects.iter().map(|object| object.size).sum();
    assert!(stored < 4 << 20, "{stored} bytes for {} that are left", last.len());
}

/// Whoever copied without a pause kept a checkpoint waiting.
#[test]
fn whoever_cuts_lets_a_checkpoint_go_first() {
    let world = fresh();
    let fs = boot(&world, "state", 100);
    let dirty = || fs.lock().dirty;
    let cutting = fs.flushing();
    std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| fs.checkpoint().unwrap());
        while !fs.is_awaited() {
            std::thread::yield_now();
        }
        for number in 0..4 {
            copy(&fs, &format!("photo {number}"), &noise(number, 3 * MIB));
        }
        assert!(dirty() > 11 << 20);
        drop(cutting);
        assert!(checkpoint.join().unwrap().is_some());
    });
    assert_eq!(dirty(), 0);
    for number in 0..4 {
        copy(&fs, &format!("photo {number}"), &noise(10 + number, 3 * MIB));
    }
    assert!(dirty() < 9 << 20, "{} bytes in memory", dirty());
}

/// A checkpoint begins with all of the queue in the log: what was about to enter REPO
/// does so before.
#[test]
fn a_checkpoint_lets_a_long_queue_bypass_the_log() {
    let world = fresh();
    let fs = boot(&world, "state", 100);
    let ino = fs.mknod(ME, ROOT, b"video", 0o100_644, 0).unwrap().ino;
    let bytes = noise(1, 38 * MIB);
    for (piece, part) in bytes.chunks(MIB).enumerate() {
        fs.write(ino, (piece * MIB) as u64, part, false).unwrap();
    }
    assert!(fs.queued() > 16 << 20);
    fs.chunk_before_freeze();
    assert!(fs.queued() < 9 << 20, "{} bytes in the queue", fs.queued());
    fs.fsync(ino).unwrap();
    assert!(fs.log.bytes() < 10 << 20, "{} bytes in the log", fs.log.bytes());
    fs.checkpoint().unwrap();
    drop(fs);
    let other = boot(&world, "other", 200);
    let ino = other.lookup(ROOT, b"video").unwrap().ino;
    assert!(other.read(ino, 0, 39 * MIB as u32).unwrap() == bytes);
}

#[test]
fn what_is_old_enough_is_logged_and_all_before_a_flush() {
    let world = fresh();
    let fs = boot(&world, "state", 100);
    let ino = fs.mknod(ME, ROOT, b"a", 0o100_644, 0).unwrap().ino;
    let half = Duration::from_millis(500);
    let write = |piece: u64| fs.write(ino, piece << 20, &noise(piece, MIB), false).unwrap();
    write(0);
    fs.write_log(half).unwrap();
    assert_eq!(fs.queued(), 1 << 20);
    world.clock().advance(half);
    write(1);
    fs.write_log(half).unwrap();
    assert_eq!(fs.queued(), 1 << 20, "the first is logged");
    world.clock().advance(half);
    fs.write_log(half).unwrap();
    assert_eq!(fs.queued(), 0);
    write(2);
    fs.flush_log().unwrap();
    assert_eq!(fs.queued(), 0);
}

/// Who finds the queue full waits for whoever is cutting, and no longer.
#[test]
fn a_full_queue_waits_for_whoever_cuts() {
    let world = fresh();
    let fs = boot(&world, "state", 100);
    let ino = fs.mknod(ME, ROOT, b"a", 0o100_644, 0).unwrap().ino;
    let before = fs.log.bytes();
    let bytes = Bytes::from(noise(1, MIB));
    let fill = || {
        for piece in 0..QUEUE_MAX >> 20 {
            let mut state = fs.lock();
            let dot = fs.take_dot(&mut state);
            assert!(fs.enqueue_write(dot, (ino, piece << 20), &bytes, fs.now()));
        }
        assert!(fs.is_congested());
    };
    fill();
    std::thread::scope(|scope| {
        let (done, made) = mpsc::channel();
        let cutting = fs.begin_chunking();
        let fs = &fs;
        scope.spawn(move || done.send(fs.make_queue_room()).unwrap());
        let early = made.recv_timeout(Duration::from_millis(100));
        assert!(early.is_err() && fs.log.bytes() == before);
        drop(cutting);
        made.recv_timeout(ROOM_TIMEOUT / 2).unwrap().unwrap();
    });
    assert_eq!(fs.queued(), 0);
    fs.write_log(Duration::ZERO).unwrap();
    assert!(fs.log.bytes() > before + QUEUE_MAX);
    // One that hangs holds nobody up for long.
    fill();
    let _cutting = fs.begin_chunking();
    fs.make_queue_room().unwrap();
    assert_eq!(fs.queued(), 0);
}
