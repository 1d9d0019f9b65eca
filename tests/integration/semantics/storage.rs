//! "Ownership" and "Space".

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::Duration;

use super::Proof::{Elsewhere, Here};
use super::{Place, Row};
use crate::world::{World, noise};

pub const ROWS: &[Row] = &[
    (
        "Ownership",
        "A file that belongs to whoever mounts is stored as *self*, user and group each, and shown \
         as whoever mounts",
        Here(self_travels),
    ),
    (
        "Ownership",
        "By default only the user who mounted may enter, not even root",
        Here(nobody_else_enters),
    ),
    ("Space", "Local disk", Here(a_full_local_disk_is_told_before)),
    (
        "Space",
        "REPO",
        Elsewhere(&["src/fs/tests_crash.rs::a_full_repository_heals_once_there_is_room"]),
    ),
    ("Space", "Space is not reserved", Here(fallocate_looks_at_the_space)),
    (
        "Space",
        "A REPO that is not there (its disk unmounted, the folder moved)",
        Elsewhere(&[
            "tests/integration/looked.rs::a_repository_that_moved_away_is_missed_and_caught_up_with_when_it_is_back",
        ]),
    ),
    (
        "Space",
        "Local state that is removed",
        Elsewhere(&[
            "tests/integration/looked.rs::local_state_that_is_removed_is_an_error_and_what_is_in_memory_is_published",
        ]),
    ),
    (
        "Space",
        "New content refers to heads and objects in REPO only if amberfs saw each there at full size within seconds before",
        Elsewhere(&[
            "src/volume/tests_publish.rs::what_rests_on_an_object_that_is_not_whole_any_more_is_stored_again",
        ]),
    ),
    (
        "Space",
        "A REPO that hangs (a network folder without its server)",
        Elsewhere(&[
            "tests/integration/hung.rs::a_hung_repository_keeps_nobody_waiting_who_does_not_need_it",
        ]),
    ),
];

fn owner(path: &std::path::Path) -> (u32, u32) {
    let stat = fs::metadata(path).unwrap();
    (stat.uid(), stat.gid())
}

/// A folder of user 1's is put by user 1, and mounted by root; and what root's
/// mount changes in what it shows is not stored.
fn self_travels(place: &Place) {
    if !place.is_root() {
        return;
    }
    let world = World::with_repo();
    fs::create_dir(world.path("folder")).unwrap();
    fs::write(world.path("folder/mine"), "x").unwrap();
    fs::set_permissions(world.path("key"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    let all = world.path("");
    assert!(Command::new("chown").args(["-R", "1:1"]).arg(all).status().unwrap().success());
    let amberfs = env!("CARGO_BIN_EXE_amberfs");
    // A copy: the programs may lie where user 1 cannot go.
    fs::copy(amberfs, world.path("amberfs")).unwrap();
    let put = ["--reuid=1", "--regid=1", "--clear-groups", "./amberfs", "put", "repo", "folder"];
    let secret = ["--from", "folder", "--key-file", "key"];
    let output = world.program("setpriv", &[&put[..], &secret].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        Command::new("chown").args(["-R", "0:0"]).arg(world.path("")).status().unwrap().success()
    );
    let secret = ["--key-file", "key", "--state", "roots"];
    let mount = world.mount("repo", "mnt", &secret);
    let path = |name: &str| world.path("mnt").join(name);
    assert_eq!(owner(&path("folder/mine")), (0, 0));
    for (name, uid, gid) in [("other", 1234, 5678), ("own", 0, 0)] {
        fs::write(path(name), "x").unwrap();
        std::os::unix::fs::chown(path(name), Some(uid), Some(gid)).unwrap();
    }
    mount.unmount(&world);
    let shown = [&secret[..], &["-o", "uid=7,gid=8"]].concat();
    let mount = world.mount("repo", "mnt", &shown);
    for name in ["folder/mine", "other", "own"] {
        assert_eq!(owner(&path(name)), (7, 8), "{name}");
    }
    mount.unmount(&world);
    let mount = world.mount("repo", "mnt", &secret);
    assert_eq!(owner(&path("other")), (1234, 5678));
    assert_eq!(owner(&path("own")), (0, 0));
    mount.unmount(&world);
}

/// Whether even root is kept out can be tried only where a user may mount.
fn nobody_else_enters(place: &Place) {
    if !place.is_root() {
        return;
    }
    let world = World::with_repo();
    let open = |name: &str| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(world.path(name), mode).unwrap();
    };
    open("");
    for (options, may) in [("rw", false), ("allow_root", true), ("allow_other", true)] {
        let mount = world.mount("repo", "mnt", &["--key-file", "key", "-o", options]);
        open("mnt");
        let script = format!("cd {} && ls", world.path("mnt").display());
        // `allow_root` lets root in, which the kernel has no word for.
        let entered = place.as_other(&script) == 0;
        assert_eq!(entered, may && options != "allow_root", "{options}");
        mount.unmount(&world);
    }
}

/// Local state of 48 MiB: files opened then bypass the kernel's cache, and
/// write(2) is told; what is there stays, can be removed, and makes room.
fn a_full_local_disk_is_told_before(place: &Place) {
    if !place.is_root() {
        return;
    }
    let world = World::with_repo();
    fs::create_dir(world.path("small")).unwrap();
    let small = world.path("small");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=48m,mode=700", "none"])
        .arg(&small)
        .status();
    assert!(mounted.unwrap().success());
    let result = std::panic::catch_unwind(|| {
        let secret = ["--key-file", "key", "--state", "small", "-o", "checkpoint=1h,2h"];
        let mount = world.mount("repo", "mnt", &secret);
        fs::write(world.path("mnt/first"), noise(1 << 20, 1)).unwrap();
        // It looks at the room each second.
        std::thread::sleep(Duration::from_millis(2500));
        let mut file = fs::File::create(world.path("mnt/second")).unwrap();
        let mut written = 0;
        let error = loop {
            match file.write_all(&noise(64 << 10, written)) {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
            assert!(written < 100 << 4, "100 MiB went into 48");
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{written}");
        drop(file);
        assert!(fs::read(world.path("mnt/first")).unwrap() == noise(1 << 20, 1));
        fs::remove_file(world.path("mnt/second")).unwrap();
        world.ok(&["sync", "mnt"]);
        fs::write(world.path("mnt/third"), noise(1 << 20, 3)).unwrap();
        mount.unmount(&world);
    });
    let _ = Command::new("umount").arg("-l").arg(&small).status();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn fallocate_looks_at_the_space(place: &Place) {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    let file = place.file("a");
    let shown = rustix::fs::fstatvfs(&file).unwrap();
    let free = shown.f_bavail * shown.f_frsize;
    let (keep, zero) = (FallocateFlags::KEEP_SIZE, FallocateFlags::ZERO_RANGE);
    for flags in [FallocateFlags::empty(), keep, zero, zero | keep] {
        for (at, len) in [(0, free * 2), (1 << 50, free * 2), (5, 1 << 61)] {
            assert_eq!(fallocate(&file, flags, at, len), Err(Errno::NOSPC), "{flags:?} {at} {len}");
        }
        let end = i64::MAX as u64;
        assert_eq!(fallocate(&file, flags, end, end), Err(Errno::FBIG));
        assert_eq!(fallocate(&file, flags, 0, 0), Err(Errno::INVAL));
        assert_eq!(file.metadata().unwrap().len(), 0, "{flags:?}");
    }
    fallocate(&file, FallocateFlags::empty(), 0, free / 2).unwrap();
    assert_eq!(file.metadata().unwrap().len(), free / 2);
    // Nothing was taken.
    fallocate(&file, keep, free, free / 2).unwrap();
    // A hole takes no room, however long.
    file.set_len(1 << 50).unwrap();
    fallocate(&file, FallocateFlags::PUNCH_HOLE | keep, 0, 1 << 50).unwrap();
    file.set_len(0).unwrap();
}
