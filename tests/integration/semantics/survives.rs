//! "What survives what": kills on mounts of their own. Power cuts have tests of
//! their own.

use std::fs;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::time::Duration;

use super::Proof::{Elsewhere, Here, With};
use super::{Place, Row};
use crate::world::{World, noise};

const SECTION: &str = "What survives what";
const KEY: &[&str] = &["--key-file", "key"];

pub const ROWS: &[Row] = &[
    (
        SECTION,
        "After kill -9 every call in the mountpoint fails with ENOTCONN until `amberfs mount` or `amberfs umount` clears it away",
        Elsewhere(&[
            "tests/integration/killed.rs::a_killed_daemon_leaves_a_mount_that_takes_nothing",
        ]),
    ),
    (SECTION, "fsync, fdatasync, O_SYNC returned", Here(each_kind_of_sync_survives_a_kill)),
    (SECTION, "kill -9 of amberfs", Here(what_was_sent_a_while_ago_survives_a_kill)),
    (
        SECTION,
        "power loss",
        Elsewhere(&[
            "tests/integration/power.rs::what_fsync_returned_for_survives_a_power_cut",
            "src/fs/tests_crash.rs::a_crash_at_every_change_keeps_what_was_promised",
        ]),
    ),
    (
        SECTION,
        "`amberfs sync` or `amberfs umount` returned 0",
        Here(what_sync_returned_for_is_in_repo),
    ),
    (
        SECTION,
        "loss of the machine",
        With(SECTION, "`amberfs sync` or `amberfs umount` returned 0"),
    ),
    (
        SECTION,
        "Order is kept",
        Elsewhere(&[
            "tests/integration/trouble.rs::a_rename_over_a_name_is_not_kept_without_the_data",
            "tests/integration/model.rs::a_mount_does_what_a_local_folder_does",
            "src/fs/tests_crash.rs::random_workloads_keep_what_was_promised",
        ]),
    ),
    (
        SECTION,
        "close(2) sends the file's pages to amberfs, and returns no promise about the disk",
        Elsewhere(&["tests/integration/mounted.rs::closing_brings_a_file_down"]),
    ),
    (
        SECTION,
        "sync(2) and syncfs(2) promise nothing",
        With(
            "What FUSE makes impossible",
            "sync(2), syncfs(2) that wait for the disk: the kernel asks only virtiofs",
        ),
    ),
    (SECTION, "fsync of a directory is the same as of a file", Here(fsync_of_a_directory)),
    (
        SECTION,
        "Acknowledged and not yet in REPO",
        Elsewhere(&["src/fs/tests_clock.rs::checkpoints_go_by_the_time_that_passed"]),
    ),
];

/// Each kind of sync is followed by a kill at once.
fn each_kind_of_sync_survives_a_kill(_: &Place) {
    let world = World::with_repo();
    for (round, kind) in ["fsync", "fdatasync", "o_sync"].into_iter().enumerate() {
        let mount = world.mount("repo", "mnt", KEY);
        let bytes = noise(30_000, round as u64);
        // Acknowledged before it, of another file.
        fs::write(world.path(&format!("mnt/{kind}.before")), &bytes).unwrap();
        let mut options = fs::File::options();
        options.write(true).create(true);
        if kind == "o_sync" {
            options.custom_flags(libc::O_SYNC);
        }
        let file = options.open(world.path(&format!("mnt/{kind}"))).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        match kind {
            "fsync" => file.sync_all().unwrap(),
            "fdatasync" => file.sync_data().unwrap(),
            _ => {}
        }
        mount.kill();
    }
    let mount = world.mount("repo", "mnt", KEY);
    for (round, kind) in ["fsync", "fdatasync", "o_sync"].into_iter().enumerate() {
        for name in [kind.to_string(), format!("{kind}.before")] {
            let found = fs::read(world.path("mnt").join(&name)).expect(&name);
            assert!(found == noise(30_000, round as u64), "{name}");
        }
    }
    mount.unmount(&world);
}

fn what_was_sent_a_while_ago_survives_a_kill(_: &Place) {
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", KEY);
    fs::create_dir(world.path("mnt/folder")).unwrap();
    fs::write(world.path("mnt/folder/file"), noise(30_000, 1)).unwrap();
    // It is written out each second; a busy machine is late.
    std::thread::sleep(Duration::from_secs(3));
    mount.kill();
    let mount = world.mount("repo", "mnt", KEY);
    assert!(fs::read(world.path("mnt/folder/file")).unwrap() == noise(30_000, 1));
    mount.unmount(&world);
}

/// With nothing but REPO left, as it was at the last sync: as on a new machine
/// after this one was lost.
fn what_sync_returned_for_is_in_repo(_: &Place) {
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", KEY);
    fs::create_dir(world.path("mnt/folder")).unwrap();
    fs::write(world.path("mnt/folder/file"), noise(300_000, 1)).unwrap();
    world.ok(&["sync", "mnt"]);
    let copied = |from: &str, to: &str| {
        let status = world.program("cp", &["-a", from, to]).status().unwrap();
        assert!(status.success());
    };
    copied("mnt", "as synced");
    copied("repo", "uploaded");
    fs::write(world.path("mnt/folder/file"), "later").unwrap();
    mount.kill();
    let alone = ["--key-file", "key", "--state", "another"];
    let mount = world.mount("uploaded", "other", &alone);
    let status = world.program("diff", &["-r", "as synced", "other"]).status().unwrap();
    assert!(status.success());
    fs::write(world.path("other/more"), "more").unwrap();
    // The state is another: its sockets are in the same folder.
    world.ok(&["umount", "other"]);
    assert!(mount.ended_well());
    let listed = world.ok(&["cat", "uploaded", "more", "--state", "third"]);
    assert_eq!(listed, "more");
}

/// As gocryptfs issue 1033: mkdir, fsync of the parent, crash.
fn fsync_of_a_directory(_: &Place) {
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", KEY);
    fs::create_dir_all(world.path("mnt/parent/child")).unwrap();
    fs::write(world.path("mnt/elsewhere"), "kept too").unwrap();
    fs::File::open(world.path("mnt/parent")).unwrap().sync_all().unwrap();
    mount.kill();
    let mount = world.mount("repo", "mnt", KEY);
    assert!(world.path("mnt/parent/child").is_dir());
    assert_eq!(fs::read_to_string(world.path("mnt/elsewhere")).unwrap(), "kept too");
    mount.unmount(&world);
}
