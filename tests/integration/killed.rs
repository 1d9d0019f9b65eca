//! Daemons that get SIGKILL.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use amberfs::control::{Client, Registry, Request};

use crate::mounted::has_fuse;
use crate::world::{World, factor, is_mounted, noise, wait_for};

const LIMIT: Duration = Duration::from_secs(20);

/// Waits until the mountpoint is an ordinary empty folder again.
fn is_cleared(mountpoint: &Path) {
    wait_for("the mountpoint to be cleared", LIMIT, || !is_mounted(mountpoint));
    assert_eq!(fs::read_dir(mountpoint).expect("is a folder").count(), 0);
}

#[test]
fn a_killed_daemon_leaves_no_dead_mountpoint() {
    if !has_fuse("killed") {
        return;
    }
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    fs::write(world.path("mnt/file"), "kept").expect("writes");
    fs::File::open(world.path("mnt/file")).and_then(|file| file.sync_all()).expect("syncs");
    // In use: detached all the same.
    let held = fs::File::open(world.path("mnt")).expect("opens");
    mount.kill_only();
    is_cleared(&world.path("mnt"));
    drop(held);
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    assert_eq!(fs::read_to_string(world.path("mnt/file")).expect("reads"), "kept");
    // A signal that the service manager sends to all is not the guard's.
    let guards = guards_of(mount.pid());
    assert_eq!(guards.len(), 1);
    for signal in ["-TERM", "-INT", "-HUP", "-USR1"] {
        assert!(Command::new("kill").args([signal, &guards[0]]).status().expect("runs").success());
    }
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(guards_of(mount.pid()), guards);
    assert!(world.path("mnt/file").exists());
    mount.unmount(&world);
    wait_for("the guard to end", LIMIT, || {
        // Whoever should reap it may not.
        let stat = fs::read_to_string(format!("/proc/{}/stat", guards[0])).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
}

/// What was written and closed more than a second ago is in the log, or by it in REPO,
/// also while more is written all the time. (Half a second more for a busy machine.)
#[test]
fn a_killed_daemon_keeps_what_is_more_than_a_second_old() {
    if !has_fuse("killed, a second later") {
        return;
    }
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    let content =
        |number: u64| noise(if number.is_multiple_of(2) { 400_000 } else { 9_000 }, number);
    let began = Instant::now();
    let mut closed = Vec::new();
    for number in 0.. {
        fs::write(world.path(&format!("mnt/{number}")), content(number)).expect("writes");
        closed.push(Instant::now());
        if began.elapsed() > Duration::from_secs(4) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = Instant::now();
    mount.kill_only();
    is_cleared(&world.path("mnt"));
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    let old = closed.iter().filter(|at| killed - **at > Duration::from_millis(1500)).count();
    assert!(old > 20, "{old} of {}", closed.len());
    for number in 0..old as u64 {
        let found = fs::read(world.path(&format!("mnt/{number}"))).expect("is there");
        assert!(found == content(number), "{number} of {old}");
    }
    mount.unmount(&world);
}

/// The child processes of a process that are guards.
fn guards_of(pid: u32) -> Vec<String> {
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
    children.split_whitespace().map(str::to_string).collect()
}

/// Ends the connection, or a test that fails would hang in closing its file.
struct Forced(PathBuf);

impl Drop for Forced {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-f", "-l"]).arg(&self.0).output();
    }
}

/// The thread that waited for pages of its own mount kept the connection to the
/// kernel open: the process stayed, and whoever entered the mountpoint hung.
#[test]
fn a_daemon_killed_while_it_pulls_is_gone() {
    if !has_fuse("killed pulling") {
        return;
    }
    let world = World::new();
    for name in ["mnt", "repo"] {
        fs::create_dir(world.path(name)).expect("creates");
    }
    let memfs = std::env::current_exe().expect("has a path");
    let memfs = memfs.ancestors().nth(2).expect("target").join("examples/memfs");
    let mut daemon = Command::new(memfs)
        .arg("--stuck")
        .args(["mnt", "repo", "run"].map(|name| world.path(name)))
        .spawn()
        .expect("starts");
    let mountpoint = world.path("mnt");
    wait_for("the mount", LIMIT, || is_mounted(&mountpoint));
    let file = fs::File::create(mountpoint.join("file")).expect("creates");
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 1 << 20], 0).expect("is cached");
    let _forced = Forced(mountpoint.clone());
    let registry = Registry::at(&world.path("run"));
    let mut found = None;
    wait_for("the socket", LIMIT, || {
        found = registry.find(&world.path("repo"));
        found.is_some()
    });
    let mut client = Client::connect(&found.expect("found").socket).expect("connects");
    let asked = std::thread::spawn(move || client.ask(&Request::Sync, |_| Ok(())));
    let pulls = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.contains("Name:\tpull\n") && status.contains("State:\tD")
    };
    let tasks = format!("/proc/{}/task", daemon.id());
    wait_for("the pull", LIMIT, || fs::read_dir(&tasks).expect("runs").flatten().any(pulls));
    daemon.kill().expect("is there");
    let killed = Instant::now();
    while is_mounted(&mountpoint) && killed.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!is_mounted(&mountpoint), "the mountpoint is dead");
    // Reaped only once its last thread is gone.
    daemon.wait().expect("ends");
    assert!(asked.join().expect("no panic").is_err());
    assert!(file.sync_all().is_err());
}

/// A stream enters REPO by objects that no head names yet: what was synced comes
/// back from them and the journal, and nothing behind it but what was written.
#[test]
fn a_stream_comes_back_as_far_as_it_was_synced() {
    const BLOCK: usize = 1 << 20;
    if !has_fuse("a killed stream") {
        return;
    }
    let world = World::with_repo();
    let path = world.path("mnt/stream");
    let block = |round: usize, number: usize| noise(BLOCK, (round * 10_000 + number) as u64);
    for round in 0..4 * factor() {
        let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
        // Over the one before, where there is one.
        let mut file = fs::File::create(&path).expect("creates");
        let limit = Duration::from_millis(300 + (round as u64 * 619) % 2000);
        let (started, mut written, mut synced) = (Instant::now(), 0, 0);
        while started.elapsed() < limit || synced == 0 {
            file.write_all(&block(round, written)).expect("writes");
            written += 1;
            if written % 37 == 0 {
                file.sync_data().expect("syncs");
                synced = written;
            }
        }
        drop(file);
        mount.kill();
        let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
        let found = fs::read(&path).expect("reads");
        assert!(found.len() >= synced * BLOCK, "round {round}: {} of {synced}", found.len());
        for (number, bytes) in found.chunks(BLOCK).enumerate() {
            let same = block(round, number)[..bytes.len()] == *bytes;
            // The kernel sends pages of a file in any order.
            let unsent = number >= synced
                && bytes.chunks(4096).all(|page| {
                    page.iter().all(|byte| *byte == 0)
                        || block(round, number).chunks(4096).any(|sent| sent.starts_with(page))
                });
            assert!(same || unsent, "round {round}: block {number}, {synced} were synced");
        }
        if round % 2 == 0 {
            // Again without a checkpoint between.
            mount.kill();
        } else {
            mount.unmount(&world);
        }
    }
    world.ok(&["check", "repo", "--read-data"]);
}
