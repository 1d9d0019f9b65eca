//! What the kernel makes of the adapter, with the file system in memory.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use amberfs::fs::{Caller, Operations as _};
use amberfs::fuse::{Access, MountOptions, Session, Unmount};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use crate::memfs::MemFs;

/// A mount that goes when it is dropped.
pub struct Mounted {
    session: Session,
    fs: Arc<MemFs>,
    folder: tempfile::TempDir,
}

/// Whether there is FUSE here; a skip is said aloud.
pub fn has_fuse(test: &str) -> bool {
    let there = Path::new("/dev/fuse").exists();
    if !there {
        eprintln!("SKIPPED {test}: /dev/fuse is missing");
    }
    there
}

impl Mounted {
    fn new(test: &str, event_loops: usize) -> Option<Self> {
        if !has_fuse(test) {
            return None;
        }
        let folder = tempfile::tempdir().expect("folder");
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let fs = Arc::new(MemFs::new(uid, gid));
        let root = rustix::process::geteuid().is_root();
        let access = if root { Access::Everybody } else { Access::Owner };
        let options = MountOptions { access, event_loops, ..MountOptions::default() };
        let session =
            Session::mount(Arc::clone(&fs), folder.path(), &options, || ()).expect("mounts");
        Some(Self { session, fs, folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut idle = self.session.unmount(Unmount::IfIdle);
        // Another test may be between fork and exec, with our files open.
        for _ in 0..50 {
            if !idle.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            idle = self.session.unmount(Unmount::IfIdle);
        }
        if !std::thread::panicking() {
            idle.expect("nobody uses it");
            assert!(self.session.wait(Duration::from_secs(10)), "the event loops end");
        }
    }
}

#[test]
fn files_are_written_read_and_listed() {
    let Some(mounted) = Mounted::new("files", 2) else { return };
    std::fs::create_dir(mounted.path("d")).expect("mkdir");
    for number in 0..3000 {
        std::fs::write(mounted.path(&format!("d/{number}")), number.to_string()).expect("write");
    }
    assert_eq!(std::fs::read_dir(mounted.path("d")).expect("list").count(), 3000);
    assert_eq!(std::fs::read_to_string(mounted.path("d/77")).expect("read"), "77");
    std::fs::remove_dir_all(mounted.path("d")).expect("remove");
    assert_eq!(std::fs::read_dir(mounted.path("")).expect("list").count(), 0);
}

/// cp(1) of a file that is open for writing asks for its data with LSEEK; the
/// file system's size was still 0 and the copy all zeros, without any error.
/// With one event loop the pages that must come down need that very loop.
#[test]
fn seeking_sees_pages_that_the_kernel_still_holds() {
    for event_loops in [1, 2] {
        let Some(mounted) = Mounted::new("seek", event_loops) else { return };
        let file = File::create(mounted.path("a")).expect("create");
        file.set_len(8 << 20).expect("extend");
        file.write_all_at(&[7; 5000], 1 << 20).expect("write");
        file.write_all_at(&[8; 10], 5 << 20).expect("write");
        let seeks: Vec<_> = (0..4)
            .map(|_| {
                let path = mounted.path("a");
                std::thread::spawn(move || {
                    let file = File::open(path).expect("open");
                    rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).expect("data")
                })
            })
            .collect();
        for seek in seeks {
            assert_eq!(seek.join().expect("joins"), 1 << 20);
        }
        let copied =
            Command::new("cp").arg(mounted.path("a")).arg(mounted.path("b")).status().expect("cp");
        assert!(copied.success());
        let copy = std::fs::read(mounted.path("b")).expect("read");
        assert_eq!(copy.len(), 8 << 20);
        assert!(copy == std::fs::read(mounted.path("a")).expect("read"));
        assert_eq!(copy[1 << 20], 7);
    }
}

#[test]
fn times_before_1970_survive() {
    let Some(mounted) = Mounted::new("times", 2) else { return };
    let path = mounted.path("a");
    std::fs::write(&path, "x").expect("write");
    for (secs, nanos) in [(-1, 999_999_999), (-2, 1), (-86_400, 250_000_000), (0, 5), (1, 0)] {
        let time = Timespec { tv_sec: secs, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).expect("utimensat");
        let metadata = std::fs::metadata(&path).expect("stat");
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (secs, nanos));
        assert_eq!((metadata.atime(), metadata.atime_nsec()), (secs, nanos));
    }
    // fuser negates the seconds: the smallest number must not end a thread.
    let time = Timespec { tv_sec: i64::MIN, tv_nsec: 1 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).expect("utimensat");
    assert_eq!(std::fs::metadata(&path).expect("is alive").mtime(), i64::MIN);
}

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[test]
fn default_lists_are_inherited_in_place_of_the_umask() {
    let Some(mounted) = Mounted::new("acl", 2) else { return };
    let none = u32::MAX;
    let list = acl(&[(1, 7, none), (2, 6, 1234), (4, 5, none), (16, 7, none), (32, 0, none)]);
    let dir = mounted.path("d");
    std::fs::create_dir(&dir).expect("mkdir");
    rustix::fs::setxattr(&dir, "system.posix_acl_default", &list, XattrFlags::empty())
        .expect("setfacl -d");
    std::fs::write(dir.join("f"), "").expect("create");
    std::fs::create_dir(dir.join("s")).expect("mkdir");
    let mode = |path: PathBuf| std::fs::metadata(path).expect("stat").mode() & 0o7777;
    assert_eq!(mode(dir.join("f")), 0o660, "open(2) asks for 0666; others get nothing");
    assert_eq!(mode(dir.join("s")), 0o770);
    let mut value = [0; 100];
    let len = rustix::fs::getxattr(dir.join("s"), "system.posix_acl_default", &mut value)
        .expect("is passed on");
    assert_eq!(value[..len], list);
    let len = rustix::fs::getxattr(dir.join("f"), "system.posix_acl_access", &mut value)
        .expect("is there");
    let expected = acl(&[(1, 6, none), (2, 6, 1234), (4, 5, none), (16, 6, none), (32, 0, none)]);
    assert_eq!(value[..len], expected);
    // chmod changes the mask, and the mode follows the list.
    let narrow = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(dir.join("f"), narrow).expect("chmod");
    let len = rustix::fs::getxattr(dir.join("f"), "system.posix_acl_access", &mut value)
        .expect("is there");
    let expected = acl(&[(1, 6, none), (2, 6, 1234), (4, 5, none), (16, 0, none), (32, 0, none)]);
    assert_eq!(value[..len], expected);
}

#[test]
fn unlinked_files_live_while_open() {
    let Some(mounted) = Mounted::new("unlinked", 2) else { return };
    let path = mounted.path("a");
    let mut options = OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(true).open(&path).expect("open");
    file.write_all(b"still here").expect("write");
    std::fs::remove_file(&path).expect("unlink");
    file.seek(SeekFrom::Start(0)).expect("seek");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "still here");
    assert_eq!(file.metadata().expect("stat").nlink(), 0);
}

/// Of a long directory the kernel took attributes with its first entries, and looked
/// each of the others up.
#[test]
fn a_long_listing_brings_all_attributes() {
    let Some(mounted) = Mounted::new("listing", 2) else { return };
    let caller = Caller { uid: 0, gid: 0 };
    for number in 0..1000 {
        let name = format!("a name of some length {number}");
        let made = mounted.fs.mknod(caller, 1, name.as_bytes(), libc::S_IFREG | 0o644, 0);
        mounted.fs.forget(made.expect("mknod").ino, 1);
    }
    let listed = std::fs::read_dir(mounted.folder.path()).expect("opens");
    let listed: Vec<PathBuf> = listed.map(|entry| entry.expect("entry").path()).collect();
    for path in &listed {
        assert!(path.symlink_metadata().expect("is there").is_file());
    }
    assert_eq!((listed.len(), mounted.fs.looked_up.load(Ordering::Relaxed)), (1000, 0));
}

/// What a checkpoint relies on: after `write_back` nothing that write(2) returned
/// for is only in the kernel, however slow the file system is.
#[test]
fn pulling_brings_everything_down() {
    let Some(mounted) = Mounted::new("pull", 2) else { return };
    let files: Vec<_> = (0..8)
        .map(|number| File::create(mounted.path(&number.to_string())).expect("create"))
        .collect();
    mounted.fs.write_delay.store(20, Ordering::SeqCst);
    for round in 1..=5u8 {
        for file in &files {
            file.write_all_at(&vec![round; 300_000], 0).expect("write");
        }
        mounted.session.write_back(Duration::from_secs(20)).expect("pulls");
        for number in 0..8 {
            let attr = mounted.fs.lookup(1, number.to_string().as_bytes()).expect("is there");
            let bytes = mounted.fs.read(attr.ino, 0, 300_000).expect("read");
            mounted.fs.forget(attr.ino, 1);
            assert!(bytes == vec![round; 300_000], "round {round}, file {number}");
        }
    }
}

/// The other half of it: a file that nobody has open is not pulled, since its
/// last close has written its pages.
#[test]
fn closing_brings_a_file_down() {
    let Some(mounted) = Mounted::new("close", 2) else { return };
    mounted.fs.write_delay.store(20, Ordering::SeqCst);
    for round in 1..=5u8 {
        std::fs::write(mounted.path("a"), vec![round; 3_000_000]).expect("write");
        let attr = mounted.fs.lookup(1, b"a").expect("is there");
        let bytes = mounted.fs.read(attr.ino, 0, 3_000_000).expect("read");
        mounted.fs.forget(attr.ino, 1);
        assert!(bytes == vec![round; 3_000_000], "round {round}");
    }
}

#[test]
fn a_panic_is_an_error_and_the_mount_lives() {
    let Some(mounted) = Mounted::new("panic", 1) else { return };
    std::os::unix::fs::symlink("target", mounted.path("a")).expect("symlink");
    mounted.fs.panics.store(true, Ordering::SeqCst);
    let error = std::fs::read_link(mounted.path("a")).expect_err("panicked");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    mounted.fs.panics.store(false, Ordering::SeqCst);
    assert_eq!(std::fs::read_link(mounted.path("a")).expect("lives"), Path::new("target"));
}

/// The kernel leaves it to us to clear suid and sgid, in return for not asking
/// for security.capability on each write; fuser passes on only part of it.
#[test]
fn writing_and_giving_away_clear_suid_and_sgid() {
    let Some(mounted) = Mounted::new("suid", 2) else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED suid: needs root to act as another user");
        return;
    }
    let path = mounted.path("a");
    let file = path.to_str().expect("text");
    for (script, cleared) in [
        ("printf x >> $0", true),
        ("printf x > $0", true),
        ("truncate -s 3 $0", true),
        ("fallocate -l 100 $0", true),
        ("chgrp 1000 $0", true),
        ("cat $0", false),
    ] {
        std::fs::write(&path, "content").expect("write");
        std::os::unix::fs::chown(&path, Some(1000), Some(1000)).expect("chown");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o6755)).expect("chmod");
        let status = Command::new("setpriv")
            .args(["--reuid=1000", "--regid=1000", "--clear-groups", "sh", "-c", script, file])
            .stdout(std::process::Stdio::null())
            .status()
            .expect("setpriv");
        assert!(status.success(), "{script}");
        let mode = std::fs::metadata(&path).expect("stat").mode() & 0o7777;
        assert_eq!(mode, if cleared { 0o755 } else { 0o6755 }, "{script}");
    }
}

/// As after a merge. With the writeback cache the kernel believes its own size
/// and times of a file for as long as it knows the inode, so its names must be
/// invalidated too.
#[test]
fn changes_from_behind_show_after_invalidation() {
    let Some(mounted) = Mounted::new("invalidation", 2) else { return };
    let invalidator = mounted.session.invalidator();
    let caller = Caller { uid: 0, gid: 0 };
    std::fs::write(mounted.path("a"), "old").expect("write");
    assert!(!mounted.path("new").exists(), "is kept as absent");
    assert_eq!(std::fs::read_dir(mounted.path("")).expect("list").count(), 1);

    let a = mounted.fs.lookup(1, b"a").expect("is there").ino;
    mounted.fs.write(a, 0, b"newer text", false).expect("write");
    mounted.fs.forget(a, 1);
    let made = mounted.fs.mknod(caller, 1, b"new", libc::S_IFREG | 0o644, 0).expect("mknod");
    mounted.fs.forget(made.ino, 1);
    assert_eq!(std::fs::read_to_string(mounted.path("a")).expect("read"), "old", "is kept");

    invalidator.inode(a);
    invalidator.entry(1, b"a");
    invalidator.entry(1, b"new");
    invalidator.wait_until_sent();
    assert_eq!(std::fs::read_to_string(mounted.path("a")).expect("read"), "newer text");
    assert!(mounted.path("new").exists());
    assert_eq!(std::fs::read_dir(mounted.path("")).expect("list").count(), 2);

    mounted.fs.unlink(1, b"new").expect("unlink");
    invalidator.entry(1, b"new");
    invalidator.wait_until_sent();
    assert!(!mounted.path("new").exists());
    assert_eq!(std::fs::read_dir(mounted.path("")).expect("list").count(), 1);
}

/// Writes that had to wait for a checkpoint waited in the event loops, and with
/// them the whole mount.
#[test]
fn writes_that_wait_for_room_keep_nobody_else_waiting() {
    let Some(mounted) = Mounted::new("room", 1) else { return };
    let file = File::create(mounted.path("a")).expect("create");
    std::fs::write(mounted.path("b"), "x").expect("write");
    mounted.fs.congested.store(true, Ordering::SeqCst);
    mounted.fs.write_delay.store(3000, Ordering::SeqCst);
    file.write_all_at(b"x", 0).expect("write");
    let writer = std::thread::spawn(move || file.sync_all().expect("fsync"));
    std::thread::sleep(Duration::from_millis(300));
    let started = std::time::Instant::now();
    for name in ["b", "not there"] {
        let _ = std::fs::metadata(mounted.path(name));
    }
    std::fs::create_dir(mounted.path("d")).expect("mkdir");
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    writer.join().expect("joins");
}

/// The kernel kept the name by which a file was pulled, and with it the file
/// after it was removed and closed.
#[test]
fn a_file_that_was_pulled_goes_when_it_is_removed() {
    let Some(mounted) = Mounted::new("pulled", 2) else { return };
    let file = File::create(mounted.path("a")).expect("create");
    file.write_all_at(b"x", 0).expect("write");
    let ino = file.metadata().expect("stat").ino();
    mounted.session.write_back(Duration::from_secs(20)).expect("pulls");
    std::fs::remove_file(mounted.path("a")).expect("unlink");
    drop(file);
    // Release and forget have no answer that somebody waits for.
    for _ in 0..100 {
        if mounted.fs.getattr(ino).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("it is kept");
}

/// A write that waits for a checkpoint must not stop the checkpoint.
#[test]
fn pulling_has_a_limit() {
    let Some(mounted) = Mounted::new("limit", 2) else { return };
    let file = File::create(mounted.path("a")).expect("create");
    mounted.fs.write_delay.store(1000, Ordering::SeqCst);
    file.write_all_at(b"x", 0).expect("write");
    let error = mounted.session.write_back(Duration::from_millis(50)).expect_err("is slow");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    mounted.session.write_back(Duration::from_secs(20)).expect("gets there");
}

#[test]
fn direct_writes_are_seen_at_once() {
    let Some(mounted) = Mounted::new("direct", 2) else { return };
    mounted.session.set_direct_writes(true);
    let file = File::create(mounted.path("a")).expect("create");
    file.write_all_at(b"small", 0).expect("write");
    let ino = file.metadata().expect("stat").ino();
    assert_eq!(mounted.fs.read(ino, 0, 10).expect("read"), b"small");
    assert_eq!(std::fs::read(mounted.path("a")).expect("read"), b"small");
}

#[test]
fn a_read_only_mount_refuses_changes() {
    if !has_fuse("read-only") {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let fs = Arc::new(MemFs::new(0, 0));
    let options = MountOptions { read_only: true, ..MountOptions::default() };
    let session = Session::mount(fs, folder.path(), &options, || ()).expect("mounts");
    let error = std::fs::write(folder.path().join("a"), "x").expect_err("is read-only");
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    // Dropped while mounted: the name is cleared away.
    drop(session);
    std::fs::write(folder.path().join("a"), "x").expect("is the folder below again");
}

#[test]
fn a_busy_mount_stays() {
    let Some(mounted) = Mounted::new("busy", 2) else { return };
    let file = File::create(mounted.path("a")).expect("create");
    let error = mounted.session.unmount(Unmount::IfIdle).expect_err("is busy");
    assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    (&file).write_all(b"x").expect("still works");
}

/// Names outside the namespaces of xattr(7) were kept, and removing a list that
/// was not there was an error.
#[test]
fn attributes_have_the_namespaces_of_other_file_systems() {
    let Some(mounted) = Mounted::new("namespaces", 2) else { return };
    let file = mounted.path("file");
    std::fs::write(&file, "x").expect("write");
    let set = |name: &str| rustix::fs::setxattr(&file, name, b"value", XattrFlags::empty());
    for name in ["system.other", "noname", "user.", "com.other.name"] {
        assert!(set(name).is_err(), "{name}");
    }
    assert_eq!(set("com.other.name"), Err(rustix::io::Errno::OPNOTSUPP));
    set("user.name").expect("set");
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        let on = if name.ends_with("access") { &file } else { &mounted.path("") };
        rustix::fs::removexattr(on, name).expect("nothing to remove is no error");
    }
    assert_eq!(rustix::fs::removexattr(&file, "user.other"), Err(rustix::io::Errno::NODATA));
}
