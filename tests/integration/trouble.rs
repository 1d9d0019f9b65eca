//! Real mounts that are killed, and folders that are odd.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use amberfs::io::{DirSynced, SyncedFolder};

use crate::mounted::has_fuse;
use crate::world::{World, noise, wait_for};

fn run(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program)
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: {test}: needs root");
    }
    root
}

/// A file system of its own, mounted in the world; gone when it is dropped.
struct Disk(std::path::PathBuf);

impl Disk {
    fn mount(world: &World, name: &str, arguments: &[&str]) -> Self {
        let folder = world.path(name);
        fs::create_dir_all(&folder).unwrap();
        let path = [folder.to_str().unwrap()];
        assert!(run("mount", &[arguments, &path].concat()));
        Self(folder)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

/// The rename was in the journal within a second, the bytes in the kernel's
/// cache for thirty: after a kill the name had neither old nor new content.
#[test]
fn a_rename_over_a_name_is_not_kept_without_the_data() {
    if !has_fuse("rename") {
        return;
    }
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    let (old, new) = (noise(50_000, 1), noise(70_000, 2));
    let doc = world.path("mnt/doc");
    fs::write(&doc, &old).unwrap();
    fs::File::open(&doc).unwrap().sync_all().unwrap();
    let file = fs::File::create(world.path("mnt/doc.new")).unwrap();
    file.write_all_at(&new, 0).unwrap();
    fs::rename(world.path("mnt/doc.new"), &doc).unwrap();
    let linked = fs::File::create(world.path("mnt/source")).unwrap();
    linked.write_all_at(&new, 0).unwrap();
    fs::hard_link(world.path("mnt/source"), world.path("mnt/linked")).unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    mount.kill();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    let found = fs::read(&doc).unwrap();
    assert!(found == new || found == old, "{} bytes", found.len());
    if let Ok(found) = fs::read(world.path("mnt/linked")) {
        assert!(found == new, "{} bytes", found.len());
    }
    mount.unmount(&world);
}

/// `umount` answered before the daemon's lock fell, and the next command said
/// that the repository was in use.
#[test]
fn what_follows_umount_at_once_is_not_refused() {
    if !has_fuse("umount") {
        return;
    }
    let world = World::with_repo();
    fs::create_dir(world.path("mnt")).unwrap();
    for round in 0..5 {
        world.ok(&["mount", "repo", "mnt"]);
        // Memory that takes a while to be given back.
        fs::write(world.path("mnt/big"), noise(40 << 20, round)).unwrap();
        world.ok(&["umount", "mnt"]);
    }
    world.ok(&["put", "repo", "key.copy", "--from", "key"]);
}

/// amberfs stamped new files by a finer clock than the kernel stamps writes by:
/// a file written later looked older than an empty one made before it.
#[test]
fn what_is_written_later_looks_no_older() {
    if !has_fuse("clock") {
        return;
    }
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    for number in 0..100 {
        let (first, second) = (world.path("mnt/first"), world.path("mnt/second"));
        fs::File::create(&first).unwrap();
        fs::write(&second, "x").unwrap();
        let time = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        assert!(time(&second) >= time(&first), "round {number}");
        fs::remove_file(first).unwrap();
        fs::remove_file(second).unwrap();
    }
    mount.unmount(&world);
}

/// What a full disk stopped half-way stayed in `pending/` and took each piece
/// of room that was freed later.
#[test]
fn a_file_that_did_not_fit_leaves_nothing_behind() {
    if !is_root("full") {
        return;
    }
    let world = World::new();
    let _disk = Disk::mount(&world, "disk", &["-t", "tmpfs", "-o", "size=2m", "none"]);
    let (repo, pending) = (world.path("disk/repo"), world.path("disk/pending"));
    fs::create_dir(&repo).unwrap();
    fs::create_dir(&pending).unwrap();
    for staging in [None, Some(pending.as_path())] {
        let folder = DirSynced::new(&repo, staging);
        let error = folder.publish("a/b", &noise(4 << 20, 1)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(world.files("disk"), Vec::<std::path::PathBuf>::new());
        folder.publish("a/b", &noise(1 << 20, 1)).unwrap();
        folder.remove("a/b").unwrap();
    }
}

/// The exit code was 1, which is for what nobody foresaw.
#[test]
fn a_full_disk_of_local_state_is_told_as_that() {
    if !is_root("full state") {
        return;
    }
    let world = World::with_repo();
    let _disk = Disk::mount(&world, "disk", &["-t", "tmpfs", "-o", "size=512k", "none"]);
    let filler = world.path("disk/filler");
    fs::write(world.path("file"), "content").unwrap();
    // What fits ends in different places of the opening.
    let sizes = [512, 508, 504, 500, 492, 480, 448, 384];
    let mut refused = 0;
    for size in sizes {
        let _ = fs::write(&filler, noise(size << 10, 1));
        let put = ["put", "repo", "/file", "--from", "file", "--key-file", "key"];
        let put = [&put[..], &["--state", "disk/state"]].concat();
        let ended = world.run(&put);
        if ended.status.success() {
            break;
        }
        refused += 1;
        let text = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(28), "{size} KiB are used: {text}");
        assert!(text.contains("no space left") || text.contains("No space left"), "{text}");
        assert_eq!(world.ok(&["ls", "repo"]), "");
    }
    assert!(refused > 1, "nothing was refused");
    fs::remove_file(filler).unwrap();
    let _ = fs::remove_dir_all(world.path("disk/state"));
    world.ok(&["put", "repo", "/file", "--from", "file"]);
}

/// With little room for local state writes pass the kernel's cache by: it showed the times from before
/// them until the next mount.
#[test]
fn a_write_with_little_room_has_its_time() {
    if !is_root("little room") || !has_fuse("little room") {
        return;
    }
    let world = World::with_repo();
    let _disk = Disk::mount(&world, "disk", &["-t", "tmpfs", "-o", "size=140m", "none"]);
    let arguments = ["--key-file", "key", "--state", "disk/state"];
    let mount = world.mount("repo", "mnt", &arguments);
    let path = world.path("mnt/file");
    fs::write(&path, noise(20_000, 1)).unwrap();
    let modified = || fs::metadata(&path).unwrap().modified().unwrap();
    // Once the mount knows how little there is.
    std::thread::sleep(Duration::from_secs(2));
    for append in [true, false] {
        let before = modified();
        std::thread::sleep(Duration::from_millis(20));
        let mut file = fs::OpenOptions::new().write(true).append(append).open(&path).unwrap();
        file.write_all(b"more").unwrap();
        drop(file);
        wait_for("the new time", Duration::from_secs(20), || modified() > before);
    }
    mount.unmount(&world);
}

/// A bind mount has the device number of what it shows, and no rename leads
/// into it: every checkpoint failed.
#[test]
fn a_repository_behind_a_bind_mount_is_written_in_place() {
    if !is_root("bind") {
        return;
    }
    let world = World::new();
    for name in ["real", "pending"] {
        fs::create_dir(world.path(name)).unwrap();
    }
    let real = world.path("real");
    let _disk = Disk::mount(&world, "repo", &["--bind", real.to_str().unwrap()]);
    let folder = DirSynced::new(world.path("repo"), Some(&world.path("pending")));
    folder.publish("a/b", b"bytes").unwrap();
    assert_eq!(fs::read(world.path("real/a/b")).unwrap(), b"bytes");
    assert_eq!(world.files("pending"), Vec::<std::path::PathBuf>::new());
}

/// Only the plain name was compared with the kernel's list of mounts.
#[test]
fn a_dead_mount_is_cleared_by_whatever_name() {
    if !has_fuse("dead") {
        return;
    }
    let world = World::with_repo();
    std::os::unix::fs::symlink("mnt", world.path("link")).unwrap();
    std::os::unix::fs::symlink(".", world.path("here")).unwrap();
    for name in ["mnt/", "link", "here/mnt", "here/link/"] {
        world.mount("repo", "mnt", &["--key-file", "key"]).abandon();
        world.ok(&["mount", "repo", name]);
        world.ok(&["umount", name]);
    }
}

/// A log that could not be opened was told of after the fork, to nobody.
#[test]
fn a_log_file_that_cannot_be_opened_is_named() {
    let world = World::with_repo();
    fs::create_dir(world.path("mnt")).unwrap();
    let said = world.fails(&["mount", "repo", "mnt", "--log-file", "none/log"], 2);
    assert!(said.contains("none/log"), "{said}");
}

/// The name of a log that was there already got a slash at its end, and the
/// second mount with the same log was refused.
#[test]
fn a_log_file_is_used_again() {
    if !has_fuse("log") {
        return;
    }
    let world = World::with_repo();
    fs::create_dir(world.path("mnt")).unwrap();
    for _ in 0..2 {
        world.ok(&["mount", "repo", "mnt", "--log-file", "log"]);
        world.ok(&["umount", "mnt"]);
    }
}

/// The daemon would wait for its own mount, or the log be uploaded.
#[test]
fn what_the_daemon_writes_is_outside_mount_and_repository() {
    let world = World::with_repo();
    fs::create_dir(world.path("mnt")).unwrap();
    let mount = ["mount", "repo", "mnt"];
    for (wrong, code, named) in [
        (["--state", "mnt/state"], 17, "local state"),
        (["--state", "repo/state"], 17, "local state"),
        (["--log-file", "mnt/log"], 2, "log file"),
        (["--log-file", "repo/log"], 2, "log file"),
    ] {
        let said = world.fails(&[&mount[..], &wrong].concat(), code);
        assert!(said.contains(named) && said.contains(wrong[1]), "{said}");
    }
    world.fails(&["put", "repo", "a", "--from", "key", "--state", "repo/state"], 17);
    let mut inside = world.command(&["mount", "repo", "mnt", "--key-file", "key"]);
    let output = inside.env("XDG_RUNTIME_DIR", world.path("mnt")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(17), "{said}");
    assert!(said.contains("socket"), "{said}");
    assert_eq!(fs::read_dir(world.path("mnt")).unwrap().count(), 0);
    assert!(!world.path("repo/state").exists());
}

/// Whoever is not in the automounter's process group waits at the mountpoint
/// until the mount is made: a daemon, which leaves it, would wait for ever.
#[test]
fn an_automounter_may_have_the_mountpoint() {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !has_fuse("autofs") || !is_root("autofs") {
        return;
    }
    if !known.contains("autofs") || !run("python3", &["--version"]) {
        println!("SKIPPED: autofs: the kernel has none, or python3 is missing");
        return;
    }
    let world = World::with_repo();
    let mnt = world.path("mnt");
    fs::create_dir(&mnt).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/automount.py");
    let amberfs = env!("CARGO_BIN_EXE_amberfs");
    let arguments = [script.to_str().unwrap(), mnt.to_str().unwrap(), amberfs, "mount", "repo"];
    let automounted = |more: &[&str]| {
        let mut automounter = world
            .program("python3", &arguments)
            .args([mnt.to_str().unwrap(), "--key-file", "key"])
            .args(more)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // It says that it is ready.
        let mut byte = [0];
        std::io::Read::read_exact(automounter.stdout.as_mut().unwrap(), &mut byte).unwrap();
        let written = fs::write(mnt.join("file"), "x");
        let unmounted = world.run(&["umount", mnt.to_str().unwrap()]);
        automounter.kill().unwrap();
        automounter.wait().unwrap();
        run("umount", &["-l", mnt.to_str().unwrap()]);
        (written, unmounted)
    };
    // Refused at once, rather than to wait for each other.
    assert!(automounted(&[]).0.is_err());
    let (written, unmounted) = automounted(&["-f"]);
    written.unwrap();
    assert!(unmounted.status.success(), "{}", String::from_utf8_lossy(&unmounted.stderr));
    assert_eq!(world.ok(&["ls", "repo"]), "file\n");
}

#[test]
fn an_unknown_device_is_told_with_those_there_are() {
    if !has_fuse("device") {
        return;
    }
    let world = World::new();
    world.ok(&["init", "repo", "--key-out", "key", "--device-name", "laptop"]);
    fs::create_dir(world.path("mnt")).unwrap();
    let said = world.fails(&["mount", "repo", "mnt", "-o", "ro,device=phone"], 2);
    assert!(said.contains("phone") && said.contains("laptop"), "{said}");
}

/// A mount within it was "another user".
#[test]
fn whoever_keeps_a_mount_busy_is_named() {
    if !has_fuse("busy") || !is_root("busy") {
        return;
    }
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    fs::create_dir(world.path("mnt/within")).unwrap();
    let disk = Disk::mount(&world, "mnt/within", &["-t", "tmpfs", "none"]);
    let said = world.fails(&["umount", "mnt"], 11);
    assert!(said.contains("mounted on") && said.contains("mnt/within"), "{said}");
    drop(disk);
    let mut sleep = world.program("sleep", &["60"]);
    let mut holder = sleep.current_dir(world.path("mnt/within")).spawn().unwrap();
    let said = world.fails(&["umount", "mnt"], 11);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(said.contains(&format!("sleep (process {})", holder.id())), "{said}");
    mount.unmount(&world);
}
