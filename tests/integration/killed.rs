//! Daemons that get SIGKILL.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use amberfs::control::{Client, Registry, Request};

use crate::mounted::has_fuse;
use crate::world::{World, factor, is_mounted, noise, wait_for};

const LIMIT: Duration = Duration::from_secs(20);

/// Waits until the mount answers that nobody serves it any more, and sees that it
/// is there.
fn is_dead(mountpoint: &Path) {
    use rustix::io::Errno;
    let dead = |asked| matches!(asked, Err(Errno::NOTCONN | Errno::CONNABORTED));
    wait_for("the connection to end", LIMIT, || dead(rustix::fs::statvfs(mountpoint).map(drop)));
    assert!(is_mounted(mountpoint), "it went, and the folder below is open");
}

/// The guard took the mount away, and programs went on writing into the folder
/// below: not encrypted, and not backed up.
#[test]
fn a_killed_daemon_leaves_a_mount_that_takes_nothing() {
    if !has_fuse("killed") {
        return;
    }
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    fs::write(world.path("mnt/file"), "kept").expect("writes");
    fs::File::open(world.path("mnt/file")).and_then(|file| file.sync_all()).expect("syncs");
    let held = fs::File::open(world.path("mnt")).expect("opens");
    mount.kill_only();
    is_dead(&world.path("mnt"));
    fs::write(world.path("mnt/plain"), "in the clear").expect_err("nobody takes it");
    // A mount that comes to nothing opens nothing either.
    fs::write(world.path("wrong"), "0".repeat(64)).expect("writes");
    private(&world.path("wrong"));
    world.fails(&["mount", "repo", "mnt", "--key-file", "wrong"], 12);
    is_dead(&world.path("mnt"));
    drop(held);
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    assert_eq!(fs::read_to_string(world.path("mnt/file")).expect("reads"), "kept");
    assert!(!world.path("mnt/plain").exists());
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
    wait_for("the guard to end", LIMIT, || has_ended(&guards[0]));
}

/// Whether a process has; whoever should reap it may not.
fn has_ended(process: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

fn private(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
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
    is_dead(&world.path("mnt"));
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
fn a_daemon_killed_while_it_writes_back_is_gone() {
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
    let waits = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.contains("Name:\twriteback\n") && status.contains("State:\tD")
    };
    let tasks = format!("/proc/{}/task", daemon.id());
    wait_for("the writeback", LIMIT, || fs::read_dir(&tasks).expect("runs").flatten().any(waits));
    daemon.kill().expect("is there");
    // Reaped only once its last thread is gone.
    wait_for("the daemon to end", LIMIT, || daemon.try_wait().expect("is ours").is_some());
    assert!(asked.join().expect("no panic").is_err());
    assert!(file.sync_all().is_err());
    is_dead(&mountpoint);
}

/// The guard of a mount went by the device number, which the kernel had given to the
/// next mount meanwhile: it took away a mount that lived.
#[test]
fn a_guard_leaves_the_next_mount_alone() {
    if !has_fuse("next mount") {
        return;
    }
    let world = World::with_repo();
    let mountpoint = world.path("mnt");
    let device = || rustix::fs::stat(&mountpoint).expect("is there").st_dev;
    let signal = |signal: &str, process: &str| {
        assert!(Command::new("kill").args([signal, process]).status().expect("runs").success());
    };
    let mut same = 0;
    for round in 0..8 {
        let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
        let mut guards = Vec::new();
        wait_for("the guard", LIMIT, || {
            guards = guards_of(mount.pid());
            !guards.is_empty()
        });
        let [guard] = &guards[..] else { panic!("one guard: {guards:?}") };
        let before = device();
        signal("-STOP", guard);
        if round % 2 == 0 {
            mount.unmount(&world);
        } else {
            // Not a clean end; and its mount is gone.
            mount.kill();
        }
        let next = world.mount("repo", "mnt", &["--key-file", "key"]);
        same += usize::from(device() == before);
        signal("-CONT", guard);
        wait_for("the guard to end", LIMIT, || has_ended(guard));
        fs::write(mountpoint.join("file"), "lives").expect("the next mount lives");
        next.unmount(&world);
    }
    if same == 0 {
        println!("SKIPPED: next mount: the kernel gave other numbers each time");
    }
}

/// `umount` of a dead mount said that it was not mounted.
#[test]
fn a_dead_mount_is_cleared_by_umount_which_says_what_is_left() {
    if !has_fuse("dead umount") {
        return;
    }
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    fs::write(world.path("mnt/file"), "kept").expect("writes");
    fs::File::open(world.path("mnt/file")).and_then(|file| file.sync_all()).expect("syncs");
    mount.abandon();
    is_dead(&world.path("mnt"));
    let said = world.fails(&["umount", "mnt"], 3);
    assert!(said.contains("dead mount") && said.contains("state"), "{said}");
    assert!(!is_mounted(&world.path("mnt")));
    assert_eq!(world.ok(&["ls", "repo"]), "", "nothing is in REPO yet");
    world.fails(&["umount", "mnt"], 17);
    // A mount that read only held nothing back.
    world.mount("repo", "mnt", &["-o", "ro", "--key-file", "key"]).abandon();
    is_dead(&world.path("mnt"));
    world.ok(&["umount", "mnt"]);
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    assert_eq!(fs::read_to_string(world.path("mnt/file")).expect("reads"), "kept");
    mount.unmount(&world);
}

/// Somebody ends the connection while the daemon lives: it publishes and ends, and
/// the dead mount stays.
#[test]
fn a_connection_that_others_end_leaves_a_dead_mount() {
    if !has_fuse("aborted") || !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    fs::write(world.path("mnt/file"), "kept").expect("writes");
    let held = fs::File::open(world.path("mnt")).expect("opens");
    // In use, so it stays; the connection ends all the same.
    let forced = Command::new("umount").arg("-f").arg(world.path("mnt")).output().expect("runs");
    assert!(!forced.status.success());
    assert!(mount.ended_well(), "{}", world.log());
    is_dead(&world.path("mnt"));
    drop(held);
    assert_eq!(world.ok(&["cat", "repo", "file"]), "kept");
    world.fails(&["umount", "mnt"], 3);
    assert!(!is_mounted(&world.path("mnt")));
}

/// With the folder below a mountpoint made read-only, nothing can be written there
/// while nothing is mounted; it can be mounted on all the same.
#[test]
fn a_mountpoint_may_be_read_only() {
    if !has_fuse("read-only mountpoint") {
        return;
    }
    let root = rustix::process::geteuid().is_root();
    let world = World::with_repo();
    let mnt = world.path("mnt");
    fs::create_dir(&mnt).expect("makes");
    let change = |mode: &str| Command::new("chattr").arg(mode).arg(&mnt).status();
    if root && change("+i").is_ok_and(|status| status.success()) {
        let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
        fs::write(mnt.join("file"), "x").expect("the mount is writable");
        mount.unmount(&world);
        let refused = fs::write(mnt.join("plain"), "in the clear");
        assert!(change("-i").expect("runs").success());
        refused.expect_err("the folder is immutable");
    } else {
        println!("SKIPPED: read-only mountpoint: chattr +i needs root and a file system for it");
    }
    fs::set_permissions(&mnt, fs::Permissions::from_mode(0o555)).expect("chmod");
    if !root {
        let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
        mount.unmount(&world);
        assert_eq!(fs::metadata(&mnt).expect("is there").permissions().mode() & 0o777, 0o555);
        return;
    }
    // As another user, in a world where that one may mount.
    let script = r#"
        cat /etc/passwd >passwd && echo "ada:x:61234:61234::$PWD:/bin/sh" >>passwd
        mount --bind passwd /etc/passwd
        mknod -m 666 fuse c 10 229 && mount --bind fuse /dev/fuse
        chmod 755 . && chown -R 61234:61234 mnt && chown 61234 . run
        as="setpriv --reuid=61234 --regid=61234 --clear-groups"
        cp "$0" amberfs && chmod 755 amberfs && rm -r repo key
        $as ./amberfs init repo --key-out key >/dev/null
        $as ./amberfs mount repo mnt --key-file key
        $as touch mnt/file
        $as ./amberfs umount mnt
        stat -c %a mnt
        if $as touch mnt/plain 2>/dev/null; then exit 9; fi
        $as ./amberfs mount repo mnt --key-file key
        kill -9 $(pgrep -u 61234 -x amberfs)
        while $as ls mnt >/dev/null 2>&1; do sleep 0.1; done
        rc=0; $as ./amberfs umount mnt || rc=$?
        if grep " $PWD/mnt " /proc/mounts; then exit 8; fi
        echo $rc
    "#;
    fs::remove_dir_all(world.path("state")).ok();
    let amberfs = env!("CARGO_BIN_EXE_amberfs");
    let output = world
        .program("unshare", &["-m", "/bin/sh", "-ec", script, amberfs])
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {said}", output.status);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "555
3
",
        "{said}"
    );
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

/// The kernel tells the guard when the daemon's main thread has ended. During an unmount that thread opened
/// the mount: killed then, it waited for its own process for ever, and the guard with it.
#[test]
fn the_main_thread_leaves_the_mount_to_another_one() {
    if !has_fuse("killed, main thread") {
        return;
    }
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    let pid = mount.pid();
    let threads: Vec<String> = fs::read_dir(format!("/proc/{pid}/task"))
        .expect("lists")
        .map(|entry| entry.expect("is an entry").path().join("comm"))
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect();
    assert!(threads.iter().any(|name| name.trim() == "life"), "{threads:?}");
    // While somebody keeps it from being unmounted, it is asked again and again.
    let file = fs::File::create(world.path("mnt/open")).expect("creates");
    for _ in 0..3 {
        world.fails(&["umount", "mnt"], 11);
        let call = fs::read_to_string(format!("/proc/{pid}/syscall")).expect("reads");
        let futex = libc::SYS_futex.to_string();
        assert_eq!(call.split(' ').next(), Some(futex.as_str()), "the main thread only waits");
    }
    drop(file);
    mount.unmount(&world);
}
