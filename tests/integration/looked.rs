//! What it says is so: nothing is called done, safe or all there that was not looked
//! at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::mounted::has_fuse;
use crate::world::{World, noise, settle, wait_for};

const RARELY: [&str; 4] = ["--key-file", "key", "-o", "checkpoint=1h,1h"];

fn heads(repo: &Path) -> Vec<PathBuf> {
    let found = Command::new("find").arg(repo).args(["-path", "*/head/*.amb"]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(PathBuf::from).collect()
}

fn newest_head(repo: &Path) -> PathBuf {
    heads(repo).into_iter().max_by_key(|path| path.file_name().map(ToOwned::to_owned)).unwrap()
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
}

/// A disk of its own for REPO, in a file; unmounted when it is dropped.
struct Disk {
    image: String,
    at: String,
}

impl Disk {
    /// A disk of `size`, as truncate(1) takes it, mounted on the folder `usb` of a world.
    fn new(world: &World, size: &str) -> Self {
        let path = |name: &str| world.path(name).to_str().unwrap().to_owned();
        let disk = Self { image: path("image"), at: path("usb") };
        fs::create_dir(&disk.at).unwrap();
        assert!(run("truncate", &["-s", size, &disk.image]));
        assert!(run("mke2fs", &["-q", "-F", &disk.image]));
        disk.plug();
        disk
    }

    fn plug(&self) {
        assert!(run("mount", &["-o", "loop", &self.image, &self.at]));
    }

    /// Whether it could be unmounted.
    fn unplug(&self) -> bool {
        run("umount", &["-q", &self.at])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unplug();
    }
}

/// REPO was renamed under a mount. `sync` made a new folder at its old place, put the
/// next head there and ended with 0.
#[test]
fn a_repository_that_moved_away_is_missed_and_caught_up_with_when_it_is_back() {
    if !has_fuse("a repository that moved away") {
        return;
    }
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &RARELY);
    fs::write(world.path("mnt/one"), noise(5000, 1)).unwrap();
    world.ok(&["sync", "mnt"]);
    fs::rename(world.path("repo"), world.path("moved")).unwrap();
    fs::write(world.path("mnt/two"), noise(3_000_000, 2)).unwrap();
    for command in ["sync", "umount"] {
        let said = world.fails(&[command, "mnt"], 17);
        assert!(said.contains("REPO is not there"), "{said}");
        assert!(said.contains("written to local state just now"), "{said}");
    }
    assert!(!world.path("repo").exists());
    let status = world.ok(&["status", "mnt"]);
    assert!(status.contains("REPO is not there"), "{status}");
    assert!(fs::read(world.path("mnt/two")).unwrap() == noise(3_000_000, 2));
    assert!(rustix::fs::statvfs(world.path("mnt")).unwrap().f_blocks > 0);
    fs::rename(world.path("moved"), world.path("repo")).unwrap();
    world.ok(&["sync", "mnt"]);
    // A faithful copy in its place is as good.
    assert!(run(
        "cp",
        &["-a", world.path("repo").to_str().unwrap(), world.path("copy").to_str().unwrap()]
    ));
    fs::rename(world.path("repo"), world.path("moved")).unwrap();
    fs::rename(world.path("copy"), world.path("repo")).unwrap();
    fs::write(world.path("mnt/three"), noise(5000, 3)).unwrap();
    mount.unmount(&world);
    assert_eq!(world.ok(&["ls", "repo"]), "one\nthree\ntwo\n");
}

/// The disk with REPO was unmounted: everything went below the empty mountpoint. Nor
/// may the mount keep the disk busy.
#[test]
fn the_disk_with_the_repository_can_be_unmounted_and_come_back() {
    if !has_fuse("a disk that is unmounted") || !rustix::process::geteuid().is_root() {
        println!("SKIPPED: a disk that is unmounted: needs root");
        return;
    }
    let world = World::new();
    let disk = Disk::new(&world, "64M");
    world.ok(&["init", "usb/chats", "--key-out", "key"]);
    let mount = world.mount("usb/chats", "mnt", &RARELY);
    fs::write(world.path("mnt/one"), noise(3_000_000, 1)).unwrap();
    world.ok(&["sync", "mnt"]);
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    assert!(fs::read(world.path("mnt/one")).unwrap() == noise(3_000_000, 1));
    wait_for("the disk to be free", Duration::from_secs(30), || disk.unplug());
    fs::write(world.path("mnt/two"), noise(5000, 2)).unwrap();
    world.fails(&["sync", "mnt"], 17);
    assert_eq!(fs::read_dir(&disk.at).unwrap().count(), 0, "nothing is written below");
    disk.plug();
    mount.unmount(&world);
    assert_eq!(world.ok(&["ls", "usb/chats"]), "one\ntwo\n");
    assert!(disk.unplug());
}

/// `umount` of a full REPO refused, and said neither where the changes are nor how to leave.
#[test]
fn a_full_repository_is_told_with_where_the_changes_are_and_how_to_leave() {
    if !has_fuse("a full repository") || !rustix::process::geteuid().is_root() {
        println!("SKIPPED: a full repository: needs root");
        return;
    }
    let world = World::new();
    let disk = Disk::new(&world, "8M");
    world.ok(&["init", "usb/chats", "--key-out", "key"]);
    let mount = world.mount("usb/chats", "mnt", &RARELY);
    fs::write(world.path("mnt/one"), noise(1_000_000, 1)).unwrap();
    let fill = world.path("usb/fill");
    let mut filling = fs::File::create(&fill).unwrap();
    while std::io::Write::write_all(&mut filling, &[7; 4096]).is_ok() {}
    drop(filling);
    for command in ["sync", "umount"] {
        let said = world.fails(&[command, "mnt"], 28);
        for part in ["no space left", "written to local state just now", "To leave"] {
            let wanted = command == "umount" || part != "To leave";
            assert!(!wanted || said.contains(part), "{command}: {part}: {said}");
        }
    }
    assert!(fs::read(world.path("mnt/one")).unwrap() == noise(1_000_000, 1));
    fs::remove_file(fill).unwrap();
    mount.unmount(&world);
    assert_eq!(world.ok(&["ls", "usb/chats"]), "one\n");
    assert!(disk.unplug());
}

/// An object was removed by the sync client; the same file was copied in again.
#[test]
fn a_copy_of_a_file_whose_object_is_gone_is_stored_again() {
    if !has_fuse("an object that is gone") {
        return;
    }
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &RARELY);
    let photo = noise(3_000_000, 4);
    fs::write(world.path("mnt/one"), &photo).unwrap();
    world.ok(&["sync", "mnt"]);
    for file in world.files("repo").iter().filter(|file| file.to_str().unwrap().contains("/obj/")) {
        fs::remove_file(world.path("repo").join(file)).unwrap();
    }
    std::thread::sleep(Duration::from_secs(6));
    fs::write(world.path("mnt/two"), &photo).unwrap();
    mount.unmount(&world);
    let output = world.run(&["cat", "repo", "two", "--key-file", "key"]);
    assert!(output.status.success() && output.stdout == photo);
}

/// A cleaner removed local state under a mount: fsync said 0, `sync` that nothing is
/// lost, and it was.
#[test]
fn local_state_that_is_removed_is_an_error_and_what_is_in_memory_is_published() {
    if !has_fuse("local state that is removed") {
        return;
    }
    for fsynced in [true, false] {
        let world = World::with_repo();
        let mount = world.mount("repo", "mnt", &RARELY);
        fs::write(world.path("mnt/one"), "1").unwrap();
        world.ok(&["sync", "mnt"]);
        fs::remove_dir_all(world.path("state")).unwrap();
        fs::write(world.path("mnt/two"), "2").unwrap();
        if fsynced {
            let file = fs::File::open(world.path("mnt/two")).unwrap();
            assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
            let refused = fs::write(world.path("mnt/three"), "3").unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EIO));
        }
        world.ok(&["sync", "mnt"]);
        assert_eq!(world.ok(&["ls", "repo"]), "one\ntwo\n", "fsynced: {fsynced}");
        mount.unmount(&world);
    }
}

/// A mount that could never publish was made all the same.
#[test]
fn a_repository_that_cannot_be_written_is_refused_for_writing() {
    if !has_fuse("a read-only repository") || !rustix::process::geteuid().is_root() {
        println!("SKIPPED: a read-only repository: needs root");
        return;
    }
    let world = World::with_repo();
    let repo = world.path("repo");
    let repo = repo.to_str().unwrap();
    fs::create_dir(world.path("mnt")).unwrap();
    assert!(run("mount", &["--bind", repo, repo]));
    assert!(run("mount", &["-o", "remount,ro,bind", repo]));
    for command in [&["mount", "repo", "mnt"][..], &["put", "repo", "x", "--from", "key"]] {
        let said = world.fails(command, 17);
        assert!(said.contains("cannot be written") && said.contains("-o ro"), "{said}");
        assert!(said.contains("Read-only file system"), "{said}");
    }
    world.mount("repo", "mnt", &["--key-file", "key", "-o", "ro"]).unmount(&world);
    assert!(run("umount", &[repo]));
}

/// The heads were listed before the lock: a mount right after umount(8), while the
/// daemon still published, saw heads older than its local state and told a rollback.
#[test]
fn a_mount_right_after_umount_waits_for_the_one_that_ends() {
    if !has_fuse("a mount right after umount") {
        return;
    }
    let world = World::with_repo();
    for round in 0..4 {
        let mount = world.mount("repo", "mnt", &RARELY);
        fs::write(world.path("mnt").join(round.to_string()), noise(20 << 20, round)).unwrap();
        let mountpoint = world.path("mnt");
        let mountpoint = mountpoint.to_str().unwrap();
        assert!(run("umount", &[mountpoint]) || run("fusermount3", &["-u", mountpoint]));
        world.ok(&["put", "repo", &format!("put{round}"), "--from", "key"]);
        assert!(mount.ended_well(), "{}", world.log());
    }
    let listed = world.ok(&["ls", "repo"]);
    assert_eq!(listed, "0\n1\n2\n3\nput0\nput1\nput2\nput3\n");
}

/// Another process held the lock; `put` had listed the heads before it waited, and
/// published beside a head that came meanwhile.
#[test]
fn a_slow_key_makes_no_second_history() {
    let world = World::with_repo();
    fs::write(world.path("go"), "").unwrap();
    let slow = "touch asked; while [ -e go ]; do sleep 0.05; done; cat key";
    let mut one = world
        .command(&["put", "repo", "one", "--from", "key", "--key-command", slow, "--state", "s1"])
        .spawn()
        .unwrap();
    wait_for("the question", Duration::from_secs(20), || world.path("asked").exists());
    world.ok(&["put", "repo", "two", "--from", "key", "--state", "s2"]);
    fs::remove_file(world.path("go")).unwrap();
    assert!(one.wait().unwrap().success());
    assert_eq!(world.ok(&["ls", "repo"]), "one\ntwo\n");
}

/// Commands that read said nothing of a rollback that local state knew of.
#[test]
fn reading_does_not_pass_off_an_older_state() {
    let world = World::with_repo();
    world.ok(&["put", "repo", "one", "--from", "key", "--state", "a"]);
    world.ok(&["put", "repo", "two", "--from", "key", "--state", "a"]);
    let before = heads(&world.path("repo"));
    // Another device sees all of it.
    world.ok(&["put", "repo", "three", "--from", "key", "--state", "b"]);
    let third = heads(&world.path("repo")).into_iter().find(|head| !before.contains(head)).unwrap();
    let other = fs::read_dir(world.path("repo"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir() && !third.starts_with(path));
    let aside = world.path("aside");
    fs::create_dir(&aside).unwrap();
    // Of the device `a`, only its first head stays.
    let mut own: Vec<PathBuf> = other
        .flat_map(|device| fs::read_dir(device.join("head")).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    own.sort_by_key(|path| path.file_name().map(ToOwned::to_owned));
    let gone = own.last().unwrap();
    fs::rename(gone, aside.join("head")).unwrap();
    fs::rename(&third, aside.join("third")).unwrap();
    for (state, code) in [("a", 27), ("b", 27)] {
        for command in [&["ls", "repo"][..], &["cat", "repo", "one"], &["extract", "repo", "out"]] {
            let said = world.fails(&[command, &["--state", state]].concat(), code);
            assert!(said.contains("state 2") || said.contains("state 1"), "{said}");
            assert!(said.contains("--accept-older"), "{said}");
        }
        let said = world.fails(&["check", "repo", "--state", state], code);
        assert!(said.contains("folder is behind"), "{said}");
    }
    // Its own head is here again, the other device's newest is not.
    fs::rename(aside.join("third"), &third).unwrap();
    for command in [&["ls", "repo"][..], &["extract", "repo", "out"], &["check", "repo"]] {
        let said = world.fails(&[command, &["--state", "b"]].concat(), 20);
        assert!(said.contains("folder is behind"), "{said}");
    }
    let listed = world.run(&["ls", "repo", "--state", "b", "--accept-older", "--key-file", "key"]);
    assert_eq!(listed.status.code(), Some(3));
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), "one\nthree\ntwo\n");
    // A machine that never saw it cannot know.
    world.ok(&["ls", "repo", "--state", "c"]);
}

/// One flipped byte in the newest head gave the older tree, with exit code 0.
#[test]
fn a_newest_head_that_is_damaged_is_told_and_not_passed_by() {
    let world = World::with_repo();
    world.ok(&["put", "repo", "one", "--from", "key"]);
    world.ok(&["put", "repo", "two", "--from", "key"]);
    let head = newest_head(&world.path("repo"));
    let mut bytes = fs::read(&head).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&head, &bytes).unwrap();
    settle(&head);
    for command in [&["ls", "repo"][..], &["cat", "repo", "one"], &["extract", "repo", "out"]] {
        let said = world.fails(command, 26);
        assert!(said.contains(head.file_name().unwrap().to_str().unwrap()), "{said}");
        assert!(said.contains("--accept-older"), "{said}");
    }
    let older = world.run(&["ls", "repo", "--accept-older", "--key-file", "key"]);
    assert_eq!(older.status.code(), Some(3));
    assert_eq!(String::from_utf8(older.stdout).unwrap(), "one\n");
    // Cut short, it is on its way: of this machine's own all is wanted.
    bytes.truncate(middle);
    fs::write(&head, &bytes).unwrap();
    world.fails(&["ls", "repo"], 20);
    // Of another device, what is complete is given.
    let said = world.run(&["ls", "repo", "--state", "new", "--key-file", "key"]);
    assert_eq!(said.status.code(), Some(3), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "one\n");
}
