//! `put`, `ls`, `cat` and `extract`: what they must not do, and what comes back.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use amberfs::crypto::parse_key;
use amberfs::format::clock::Dot;
use amberfs::format::namespace::{Key, ROOT, Value};
use amberfs::format::record::{Change, encode};
use amberfs::fs::{Caller, Fs, NoLog, Operations, Options, Ownership};
use amberfs::io::{DirFolder, DirSynced, SystemClock, SystemRandom};
use amberfs::store::Context;
use amberfs::sync::{self, OpenOptions};
use amberfs::volume::repository::Repository;

use crate::world::{World, noise, settle};

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: {test}: needs root");
    }
    root
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) -> bool {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).is_ok()
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 8192];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

fn set_mtime(path: &Path, secs: i64) {
    let time = rustix::fs::Timespec { tv_sec: secs, tv_nsec: 7 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).unwrap();
}

fn objects(world: &World) -> Vec<PathBuf> {
    let mut files = world.files("repo");
    files.retain(|path| path.to_str().unwrap().contains("/obj/"));
    files
}

/// Runs as somebody without rights, where the tests run as root. The world is
/// given to that user.
fn plainly(world: &World, arguments: &[&str]) -> Output {
    if !rustix::process::geteuid().is_root() {
        return world.run(arguments);
    }
    let status =
        Command::new("chown").args(["-R", "-h", "65534:65534"]).arg(world.path(".")).status();
    assert!(status.unwrap().success());
    let program = world.path("amberfs");
    if !program.exists() {
        // By another process: what other tests start has our open files until it
        // runs, and a program that is open for writing cannot be.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_amberfs")).arg(&program).status();
        assert!(copied.unwrap().success());
    }
    let all = ["--reuid=65534", "--regid=65534", "--clear-groups", program.to_str().unwrap()];
    let mut command = world.program("setpriv", &[&all[..], arguments].concat());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Changes the repository from within, as no command does.
fn tinker(world: &World, change: impl FnOnce(&Fs, &Context)) {
    let key = parse_key(&fs::read_to_string(world.path("key")).unwrap()).ok().unwrap();
    let folder = Arc::new(DirSynced::new(world.path("repo"), None));
    let repository = Repository::find(&*folder).unwrap();
    let (keyring, register, _) = repository.unlock(&key).unwrap();
    fs::create_dir_all(world.path("tinker")).unwrap();
    let outside = amberfs::volume::World {
        repo: folder,
        state: Some(Arc::new(DirFolder::new(world.path("tinker")))),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    };
    let context = Arc::new(Context::new(repository.repo, keyring));
    let options = OpenOptions { device_name: "tinker".into(), ..OpenOptions::default() };
    let volume = sync::open(outside, &repository, context.clone(), register, &options).unwrap();
    let ownership =
        Ownership { uid: 0, gid: 0, record_self: false, force_uid: None, force_gid: None };
    let fs = Fs::new(volume, Box::new(NoLog), Options { read_only: false, ownership }).unwrap();
    change(&fs, &context);
    fs.checkpoint().unwrap();
}

/// `..` went up to the root and on; `.` and nothing were dropped silently.
#[test]
fn paths_that_lead_elsewhere_are_wrong_use() {
    let world = World::with_repo();
    fs::write(world.path("file"), "x").unwrap();
    world.ok(&["put", "repo", "/a/b", "--from", "file"]);
    for path in ["..", "../b", "a/../a/b", "./a", "a/.", "a//b", "//a", "", "a/b/../../.."] {
        world.fails(&["ls", "repo", path], 2);
        world.fails(&["cat", "repo", path], 2);
        world.fails(&["extract", "repo", "out", path], 2);
        world.fails(&["put", "repo", path, "--from", "file"], 2);
    }
    assert!(!world.path("out").exists() && !world.path("b").exists());
    for path in ["a/b", "/a/b", "/a/b/"] {
        world.ok(&["ls", "repo", path]);
    }
    assert_eq!(world.ok(&["ls", "repo", "/"]), "a\n");
}

/// Files were made with what the umask left of 0666, written, and closed to
/// others only then; and under their own name while they were not whole.
#[test]
fn an_extracted_file_is_private_and_nameless_until_it_is_whole() {
    const SIZE: u64 = 64 << 20;
    let world = World::with_repo();
    fs::create_dir(world.path("source")).unwrap();
    fs::write(world.path("source/private"), noise(SIZE as usize, 1)).unwrap();
    chmod(&world.path("source/private"), 0o600);
    chmod(&world.path("source"), 0o755);
    world.ok(&["put", "repo", "in", "--from", "source"]);
    let program = env!("CARGO_BIN_EXE_amberfs");
    let script = format!("umask 0; exec {program} extract repo out --key-file key");
    let mut child = world.program("sh", &["-c", &script]).spawn().unwrap();
    let folder = world.path("out/in");
    let mut seen = 0;
    while child.try_wait().unwrap().is_none() {
        // The mode first: what is not whole after it was read was not before.
        let Ok(before) = fs::metadata(&folder) else { continue };
        if names(&folder) != ["private"] {
            assert_eq!(before.mode() & 0o077, 0);
        }
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(data) = entry.metadata() else { continue };
            assert_eq!(data.mode() & 0o077, 0, "{:?}", entry.file_name());
            assert!(entry.file_name() != "private" || data.size() == SIZE);
            seen += 1;
        }
    }
    assert!(child.wait().unwrap().success());
    assert!(seen > 0, "it was too fast to be watched");
    assert_eq!((mode(&world.path("out")), mode(&folder)), (0o700, 0o755));
    assert_eq!(names(&folder), ["private"]);
}

/// A symlink in DEST that had the name of a folder was written through.
#[test]
fn nothing_is_written_through_a_link_in_the_destination() {
    let world = World::with_repo();
    fs::create_dir_all(world.path("source/folder/deep")).unwrap();
    fs::write(world.path("source/folder/deep/file"), "new").unwrap();
    fs::write(world.path("source/other"), "new").unwrap();
    fs::write(world.path("source/last"), "new").unwrap();
    world.ok(&["put", "repo", "/", "--from", "source"]);
    for name in ["outside", "out"] {
        fs::create_dir(world.path(name)).unwrap();
    }
    fs::write(world.path("outside/file"), "old").unwrap();
    symlink(world.path("outside"), world.path("out/folder")).unwrap();
    symlink(world.path("outside/file"), world.path("out/other")).unwrap();
    chmod(&world.path("outside"), 0o711);
    let told = world.fails(&["extract", "repo", "out"], 3);
    assert!(told.contains("out/folder") && told.contains("out/other"), "{told}");
    assert_eq!(names(&world.path("outside")), ["file"]);
    assert_eq!(fs::read_to_string(world.path("outside/file")).unwrap(), "old");
    assert_eq!(mode(&world.path("outside")), 0o711);
    // The rest is there.
    assert_eq!(fs::read_to_string(world.path("out/last")).unwrap(), "new");
    // The same with the folder in the middle.
    fs::remove_file(world.path("out/folder")).unwrap();
    fs::create_dir(world.path("out/folder")).unwrap();
    symlink(world.path("outside"), world.path("out/folder/deep")).unwrap();
    world.fails(&["extract", "repo", "out"], 3);
    assert_eq!(names(&world.path("outside")), ["file"]);
    // DEST itself may be a link.
    symlink(world.path("out"), world.path("link")).unwrap();
    world.ok(&["extract", "repo", "link", "folder/deep/file"]);
    assert_eq!(fs::read_to_string(world.path("out/file")).unwrap(), "new");
}

/// The first file that was there already ended the whole command.
#[test]
fn what_is_there_stays_and_the_rest_is_extracted() {
    let world = World::with_repo();
    fs::create_dir(world.path("source")).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(world.path("source").join(name), "new").unwrap();
    }
    world.ok(&["put", "repo", "/", "--from", "source"]);
    fs::create_dir(world.path("out")).unwrap();
    fs::write(world.path("out/b"), "mine").unwrap();
    let told = world.fails(&["extract", "repo", "out"], 3);
    assert!(told.contains("out/b"), "{told}");
    assert_eq!(fs::read_to_string(world.path("out/b")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(world.path("out/c")).unwrap(), "new");
    assert_eq!(names(&world.path("out")), ["a", "b", "c"]);
}

/// One that was mistyped kept all others back, and the code was not that of a part.
#[test]
fn a_path_that_is_not_there_keeps_no_other_back() {
    let world = World::with_repo();
    fs::create_dir_all(world.path("source/folder")).unwrap();
    fs::write(world.path("source/folder/file"), "x").unwrap();
    fs::write(world.path("source/other"), "x").unwrap();
    symlink("folder", world.path("source/link")).unwrap();
    world.ok(&["put", "repo", "/", "--from", "source"]);
    let paths = ["folder", "nowhere", "other/below", "link/file", "other"];
    let told = world.fails(&[&["extract", "repo", "out"], &paths[..]].concat(), 3);
    for path in ["nowhere: ", "other/below: ", "/link is a symlink"] {
        assert!(told.contains(path), "{told}");
    }
    assert!(told.contains("3 files or attributes"), "{told}");
    assert_eq!(names(&world.path("out")), ["folder", "other"]);
    assert_eq!(names(&world.path("out/folder")), ["file"]);
    // With none of them there is nothing to make.
    let told = world.fails(&["extract", "repo", "none", "nowhere", "/nor/here"], 1);
    assert!(told.contains("nowhere: ") && told.contains("/nor/here: "), "{told}");
    assert!(!world.path("none").exists());
}

/// Plain files in REPO would be uploaded.
#[test]
fn nothing_is_extracted_into_the_repository() {
    let world = World::with_repo();
    let before = world.files("repo");
    world.fails(&["extract", "repo", "repo"], 17);
    world.fails(&["extract", "repo", "repo/sub/folder"], 17);
    assert_eq!(world.files("repo"), before);
    assert!(!world.path("repo/sub").exists());
}

/// What could be read of a damaged file lay there as if it were the file.
#[test]
fn a_file_that_cannot_be_read_whole_is_not_there() {
    let world = World::with_repo();
    fs::create_dir(world.path("source")).unwrap();
    fs::write(world.path("source/big"), noise(40 << 20, 2)).unwrap();
    fs::write(world.path("source/small"), "small").unwrap();
    world.ok(&["put", "repo", "/", "--from", "source"]);
    let object = objects(&world).pop().unwrap();
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, bytes).unwrap();
    let told = world.fails(&["extract", "repo", "out"], 3);
    assert!(told.contains("out/big"), "{told}");
    assert_eq!(names(&world.path("out")), ["small"]);
}

/// Both were told as code 1.
#[test]
fn cat_tells_damage_from_what_is_not_here() {
    let world = World::with_repo();
    fs::write(world.path("big"), noise(20 << 20, 3)).unwrap();
    world.ok(&["put", "repo", "/a/big", "--from", "big"]);
    let object = objects(&world).remove(0);
    let good = fs::read(&object).unwrap();
    let mut bytes = good.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, bytes).unwrap();
    settle(&object);
    assert!(world.fails(&["cat", "repo", "/a/big"], 26).contains("/a/big"));
    fs::write(&object, &good[..good.len() / 2]).unwrap();
    assert!(world.fails(&["cat", "repo", "/a/big"], 20).contains("/a/big"));
    fs::remove_file(&object).unwrap();
    assert!(world.fails(&["cat", "repo", "/a/big"], 20).contains("/a/big"));
}

#[test]
fn modes_are_shown_to_people_as_letters_and_to_programs_as_digits() {
    let world = World::with_repo();
    fs::create_dir_all(world.path("source/folder")).unwrap();
    fs::write(world.path("source/file"), "x").unwrap();
    symlink("file", world.path("source/link")).unwrap();
    chmod(&world.path("source/file"), 0o4640);
    chmod(&world.path("source/folder"), 0o1777);
    world.ok(&["put", "repo", "/", "--from", "source"]);
    let listed = world.ok(&["ls", "repo", "-l"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines[0].starts_with("-rwSr----- ") && lines[0].ends_with(" file"), "{listed}");
    assert!(lines[1].starts_with("drwxrwxrwt ") && lines[1].ends_with(" folder"), "{listed}");
    assert!(lines[2].starts_with("lrwxrwxrwx ") && lines[2].ends_with(" link -> file"), "{listed}");
    let listed = world.ok(&["ls", "repo", "--json"]);
    for mode in ["104640", "041777", "120777"] {
        assert!(listed.contains(&format!(r#""mode":"{mode}""#)), "{listed}");
    }
}

/// docs/cli.md said "not extended attributes"; a backup without them is not one
/// of the files as they were.
#[test]
fn extended_attributes_go_in_and_come_back() {
    let world = World::with_repo();
    fs::create_dir_all(world.path("source/folder")).unwrap();
    let file = world.path("source/file");
    fs::write(&file, "x").unwrap();
    if !set_xattr(&file, "user.note", b"about the file") {
        println!("SKIPPED: xattrs: the temporary folder's file system has none");
        return;
    }
    set_xattr(&file, "user.empty", b"");
    set_xattr(&world.path("source/folder"), "user.note", b"about the folder");
    chmod(&file, 0o400);
    world.ok(&["put", "repo", "/", "--from", "source"]);
    world.ok(&["extract", "repo", "out"]);
    assert_eq!(xattr(&world.path("out/file"), "user.note").unwrap(), b"about the file");
    assert_eq!(xattr(&world.path("out/file"), "user.empty").unwrap(), b"");
    assert_eq!(xattr(&world.path("out/folder"), "user.note").unwrap(), b"about the folder");
    assert_eq!(mode(&world.path("out/file")), 0o400);
    // A file that is put again has the attributes of the new one, and no others.
    fs::remove_file(&file).unwrap();
    fs::write(&file, "y").unwrap();
    set_xattr(&file, "user.other", b"z");
    world.ok(&["put", "repo", "/", "--from", "source"]);
    world.ok(&["extract", "repo", "again"]);
    assert_eq!(xattr(&world.path("again/file"), "user.note"), None);
    assert_eq!(xattr(&world.path("again/file"), "user.other").unwrap(), b"z");
    // Somebody without rights gets them too, on a file that he may not write.
    fs::remove_dir_all(world.path("out")).unwrap();
    let output = plainly(&world, &["extract", "repo", "out", "file", "--key-file", "key"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(xattr(&world.path("out/file"), "user.other").unwrap(), b"z");
}

const ACL: &str = "system.posix_acl_access";

/// owner rw, user 7 rw, group nothing, mask rw, other nothing: `st_mode` shows 0660.
fn an_acl() -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (1u16, 6u16, u32::MAX),
        (2, 6, 7),
        (4, 0, u32::MAX),
        (0x10, 6, u32::MAX),
        (0x20, 0, u32::MAX),
    ] {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&perm.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// The bits of the group in `st_mode` are the mask where there is a list:
/// without the list they would let in the group that it kept out.
#[test]
fn access_lists_and_capabilities_come_back() {
    if !is_root("capabilities") {
        return;
    }
    let world = World::with_repo();
    fs::create_dir(world.path("source")).unwrap();
    let file = world.path("source/file");
    fs::write(&file, "x").unwrap();
    let capability =
        b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    if !set_xattr(&file, ACL, &an_acl()) || !set_xattr(&file, "security.capability", capability) {
        println!("SKIPPED: capabilities: the temporary folder's file system has none");
        return;
    }
    rustix::fs::chown(&file, None, None).unwrap();
    assert_eq!(mode(&file), 0o660);
    set_xattr(&file, "security.capability", capability);
    world.ok(&["put", "repo", "/", "--from", "source"]);
    world.ok(&["extract", "repo", "out"]);
    assert_eq!(xattr(&world.path("out/file"), ACL).unwrap(), an_acl());
    assert_eq!(xattr(&world.path("out/file"), "security.capability").unwrap(), capability);
    assert_eq!(mode(&world.path("out/file")), 0o660);
    // A file system without lists: the group stays out, and it is told once.
    let bare = world.path("bare");
    fs::create_dir(&bare).unwrap();
    let arguments = ["-t", "ramfs", "none", bare.to_str().unwrap()];
    if !Command::new("mount").args(arguments).output().unwrap().status.success() {
        println!("SKIPPED: access lists: no file system without them could be mounted");
        return;
    }
    let output = world.run(&["extract", "repo", "bare/out", "--key-file", "key"]);
    let found = mode(&world.path("bare/out/file"));
    Command::new("umount").arg("-l").arg(&bare).status().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert_eq!(found, 0o600, "{}", said(&output));
    assert_eq!(said(&output).matches(ACL).count(), 1, "{}", said(&output));
}

/// Fifos were left out, with code 3; so were device nodes, also for root.
#[test]
fn fifos_and_for_root_devices_come_back() {
    let world = World::with_repo();
    fs::create_dir(world.path("source")).unwrap();
    let fifo = world.path("source/fifo");
    assert!(Command::new("mkfifo").arg("-m").arg("640").arg(&fifo).status().unwrap().success());
    set_mtime(&fifo, 1_000_000);
    let node = world.path("source/node");
    let devices =
        Command::new("mknod").arg(&node).args(["c", "1", "3"]).output().unwrap().status.success();
    let socket = std::os::unix::net::UnixListener::bind(world.path("source/socket")).unwrap();
    let told = world.fails(&["put", "repo", "/", "--from", "source"], 3);
    assert!(told.contains("source/socket") && !told.contains("fifo"), "{told}");
    drop(socket);
    world.ok(&["extract", "repo", "out"]);
    let data = fs::symlink_metadata(world.path("out/fifo")).unwrap();
    assert_eq!((data.mode(), data.mtime()), (0o010_640, 1_000_000));
    if devices {
        let data = fs::symlink_metadata(world.path("out/node")).unwrap();
        assert_eq!((data.mode() & 0o170_000, data.rdev()), (0o020_000, 0x103));
        let output = plainly(&world, &["extract", "repo", "plain", "--key-file", "key"]);
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        assert!(said(&output).contains("plain/node"), "{}", said(&output));
        assert_eq!(names(&world.path("plain")), ["fifo"]);
    }
}

/// A hole of a gigabyte was read, sealed as zeros, and written out.
#[test]
fn holes_stay_holes() {
    let world = World::with_repo();
    let file = fs::File::create(world.path("sparse")).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"middle", 3 << 30).unwrap();
    file.set_len(8 << 30).unwrap();
    if file.metadata().unwrap().blocks() > 1000 {
        println!("SKIPPED: holes: the temporary folder's file system makes none");
        return;
    }
    let started = std::time::Instant::now();
    world.ok(&["put", "repo", "/sparse", "--from", "sparse"]);
    world.ok(&["extract", "repo", "out"]);
    let out = fs::File::open(world.path("out/sparse")).unwrap();
    let data = out.metadata().unwrap();
    assert_eq!(data.len(), 8 << 30);
    assert!(data.blocks() < 10_000, "{} blocks", data.blocks());
    let mut bytes = [0; 6];
    out.read_exact_at(&mut bytes, 3 << 30).unwrap();
    assert_eq!(&bytes, b"middle");
    assert!(started.elapsed().as_secs() < 30, "it read eight gigabytes of zeros");
}

/// Folders that nobody may enter, files with several names among them, for
/// somebody without rights.
#[test]
fn closed_folders_and_links_between_them_come_back() {
    let world = World::with_repo();
    fs::create_dir_all(world.path("source/a/deep")).unwrap();
    fs::create_dir(world.path("source/b")).unwrap();
    fs::write(world.path("source/a/deep/one"), "x").unwrap();
    fs::hard_link(world.path("source/a/deep/one"), world.path("source/b/two")).unwrap();
    set_mtime(&world.path("source/a/deep/one"), 3_000_000);
    for (name, mode) in [("a/deep", 0o000), ("a", 0o100), ("b", 0o555)] {
        set_mtime(&world.path("source").join(name), 2_000_000);
        chmod(&world.path("source").join(name), mode);
    }
    if !is_root("closed folders") {
        return; // they could not be put
    }
    world.ok(&["put", "repo", "/", "--from", "source"]);
    let output = plainly(&world, &["extract", "repo", "out", "--key-file", "key"]);
    assert!(output.status.success(), "{}", said(&output));
    let one = fs::metadata(world.path("out/a/deep/one")).unwrap();
    let two = fs::metadata(world.path("out/b/two")).unwrap();
    assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    assert_eq!((one.mtime(), one.mtime_nsec()), (3_000_000, 7));
    for (name, wanted) in [("a/deep", 0o000), ("a", 0o100), ("b", 0o555)] {
        let path = world.path("out").join(name);
        assert_eq!(mode(&path), wanted, "{name}");
        assert_eq!(fs::metadata(&path).unwrap().mtime(), 2_000_000, "{name}");
    }
}

/// A file that ran as its owner would run as whoever extracted it.
#[test]
fn suid_comes_back_only_with_its_owner() {
    if !is_root("suid") {
        return;
    }
    let world = World::with_repo();
    fs::create_dir(world.path("source")).unwrap();
    let (own, others) = (world.path("source/own"), world.path("source/others"));
    for path in [&own, &others] {
        fs::write(path, "x").unwrap();
    }
    std::os::unix::fs::chown(&others, Some(7), Some(8)).unwrap();
    chmod(&own, 0o6755);
    chmod(&others, 0o6755);
    world.ok(&["put", "repo", "/", "--from", "source"]);
    world.ok(&["extract", "repo", "out"]);
    assert_eq!(mode(&world.path("out/own")), 0o6755);
    // It belongs to root in the repository, as all that root puts.
    assert_eq!(mode(&world.path("out/others")), 0o755);
    let output = plainly(&world, &["extract", "repo", "plain", "--key-file", "key"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(mode(&world.path("plain/own")), 0o755);
}

/// Owners that came in through a mount, given back by root.
#[test]
fn owners_come_back_to_root() {
    if !is_root("owners") {
        return;
    }
    let world = World::with_repo();
    tinker(&world, |fs, _| {
        let who = Caller { uid: 7, gid: 8 };
        fs.mknod(who, ROOT, b"file", 0o104_755, 0).unwrap();
        fs.symlink(who, ROOT, b"link", b"file").unwrap();
        let folder = fs.mkdir(who, ROOT, b"folder", 0o2750).unwrap();
        // Nobody's number: chown(2) would leave the owner as it is.
        fs.mknod(Caller { uid: u32::MAX, gid: 0 }, folder.ino, b"odd", 0o104_755, 0).unwrap();
    });
    let told = world.fails(&["extract", "repo", "out"], 3);
    assert!(told.contains("folder/odd"), "{told}");
    for (name, wanted) in [("file", 0o4755), ("link", 0o777), ("folder", 0o2750)] {
        let data = fs::symlink_metadata(world.path("out").join(name)).unwrap();
        assert_eq!((data.uid(), data.gid(), data.mode() & 0o7777), (7, 8, wanted), "{name}");
    }
    assert_eq!(mode(&world.path("out/folder/odd")), 0o755);
}

/// A folder within itself, which only damage or malice makes, was walked until
/// the stack was full.
#[test]
fn a_folder_within_itself_is_walked_once() {
    let world = World::with_repo();
    tinker(&world, |fs, context| {
        let who = Caller { uid: 0, gid: 0 };
        let folder = fs.mkdir(who, ROOT, b"folder", 0o755).unwrap();
        fs.mknod(who, folder.ino, b"file", 0o100_644, 0).unwrap();
        let entry = Key::Entry(folder.ino, context.ids.name_hash(b"loop"), b"loop".to_vec());
        let change = Change::Set(entry, Value::Entry(folder.ino, 0o040_000));
        let dot = Dot { writer: fs.volume().writer(), record: 77 };
        fs.replay(1, &encode(dot, &[change]).0).unwrap();
    });
    let told = world.fails(&["ls", "repo", "-R"], 26);
    assert!(told.contains("folder/loop"), "{told}");
    let told = world.fails(&["extract", "repo", "out"], 3);
    assert!(told.contains("folder/loop"), "{told}");
    assert_eq!(names(&world.path("out/folder")), ["file"]);
}

/// An error named no file, and the first one ended the command.
#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_put() {
    let world = World::with_repo();
    fs::create_dir_all(world.path("source/closed")).unwrap();
    for name in ["a", "b", "closed/c", "d"] {
        fs::write(world.path("source").join(name), name).unwrap();
    }
    chmod(&world.path("source/b"), 0);
    chmod(&world.path("source/closed"), 0);
    let output = plainly(&world, &["put", "repo", "/", "--from", "source", "--key-file", "key"]);
    chmod(&world.path("source/closed"), 0o700);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("source/b: "), "{}", said(&output));
    assert!(said(&output).contains("source/closed: "), "{}", said(&output));
    let output = plainly(&world, &["ls", "repo", "-R", "--key-file", "key"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a\nclosed\nd\n");
    // Of a single file nothing is left to be put.
    let output = plainly(&world, &["put", "repo", "/b", "--from", "source/b", "--key-file", "key"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("source/b: "), "{}", said(&output));
}

/// "Not a directory", and nothing more.
#[test]
fn a_link_in_the_way_in_the_repository_is_named() {
    let world = World::with_repo();
    fs::create_dir_all(world.path("source/a")).unwrap();
    fs::write(world.path("source/a/file"), "x").unwrap();
    symlink("a", world.path("source/link")).unwrap();
    world.ok(&["put", "repo", "/", "--from", "source"]);
    for arguments in [
        &["put", "repo", "/link/file", "--from", "source/a/file"][..],
        &["put", "repo", "/link", "--from", "source/a"],
        &["cat", "repo", "/link/file"],
        &["ls", "repo", "/link/file"],
        &["extract", "repo", "out", "/link/file"],
    ] {
        let told = world.fails(arguments, 1);
        assert!(told.contains("/link") && told.contains("symlink"), "{arguments:?}: {told}");
    }
    // Within a folder it is named, and the rest is put.
    fs::create_dir_all(world.path("next/link")).unwrap();
    fs::write(world.path("next/link/file"), "x").unwrap();
    fs::write(world.path("next/more"), "x").unwrap();
    fs::write(world.path("next/a"), "a file where a folder is").unwrap();
    let told = world.fails(&["put", "repo", "/", "--from", "next"], 3);
    assert!(told.contains("next/link") && told.contains("next/a"), "{told}");
    assert_eq!(world.ok(&["ls", "repo", "-R"]), "a\na/file\nlink\nmore\n");
    // A file takes the place of a link.
    world.ok(&["put", "repo", "/link", "--from", "next/more"]);
    assert_eq!(world.ok(&["cat", "repo", "/link"]), "x");
}

/// The old file was emptied and written anew: its other names changed with it,
/// it kept its owner, and what failed half-way left it half.
#[test]
fn a_file_that_is_put_again_is_replaced_at_once() {
    let world = World::with_repo();
    fs::create_dir(world.path("source")).unwrap();
    fs::write(world.path("source/one"), "old").unwrap();
    fs::hard_link(world.path("source/one"), world.path("source/two")).unwrap();
    world.ok(&["put", "repo", "/", "--from", "source"]);
    world.ok(&["put", "repo", "/", "--from", "source"]);
    let listed = world.ok(&["ls", "repo", "-l"]);
    assert_eq!(listed.matches(" 2 ").count(), 2, "{listed}");
    fs::write(world.path("new"), "new").unwrap();
    world.ok(&["put", "repo", "/one", "--from", "new"]);
    assert_eq!(world.ok(&["cat", "repo", "/one"]), "new");
    assert_eq!(world.ok(&["cat", "repo", "/two"]), "old");
    // Reading fails in the middle: the old file stays.
    let output =
        world.run(&["put", "repo", "/one", "--from", "/proc/self/mem", "--key-file", "key"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("/proc/self/mem"), "{}", said(&output));
    world.ok(&["put", "repo", "/three", "--from", "new"]);
    assert_eq!(world.ok(&["cat", "repo", "/one"]), "new");
    assert_eq!(world.ok(&["ls", "repo", "-R"]), "one\nthree\ntwo\n");
}

/// What a killed one had begun lay in the repository under its own name, cut
/// off; now it has another, and the next one removes it.
#[test]
fn what_a_killed_put_had_begun_does_not_stay() {
    let world = World::with_repo();
    fs::write(world.path("file"), "x").unwrap();
    fs::create_dir(world.path("source")).unwrap();
    world.ok(&["put", "repo", "/folder/stream", "--from", "file"]);
    let mut command = world.command(&["put", "repo", "/folder/stream", "--key-file", "key"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, &noise(6 << 20, 8)).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    drop(input);
    world.ok(&["put", "repo", "/other", "--from", "file"]);
    assert_eq!(world.ok(&["cat", "repo", "/folder/stream"]), "x");
    // How much of it is there is chance.
    tinker(&world, |fs, _| {
        let who = Caller { uid: 0, gid: 0 };
        let folder = fs.lookup(ROOT, b"folder").unwrap();
        let name = b".amberfs-put-0123456789abcdef";
        let begun = fs.mknod(who, folder.ino, name, 0o100_600, 0).unwrap();
        fs.write(begun.ino, 0, &noise(3 << 20, 8)[..1 << 20], false).unwrap();
    });
    assert!(world.ok(&["ls", "repo", "/folder"]).contains(".amberfs-put-0123456789abcdef"));
    fs::create_dir(world.path("source/folder")).unwrap();
    world.ok(&["put", "repo", "/", "--from", "source"]);
    assert_eq!(world.ok(&["ls", "repo", "-R"]), "folder\nfolder/stream\nother\n");
}

/// A stream keeps the mode of what it replaces; a pipe is not put as a fifo.
#[test]
fn a_stream_is_written_as_into_the_file_that_is_there() {
    let world = World::with_repo();
    fs::write(world.path("file"), "x").unwrap();
    chmod(&world.path("file"), 0o600);
    world.ok(&["put", "repo", "/file", "--from", "file"]);
    let mut command = world.command(&["put", "repo", "/file", "--key-file", "key"]);
    command.stdin(fs::File::open(world.path("key")).unwrap());
    assert!(command.status().unwrap().success());
    assert!(world.ok(&["ls", "repo", "-l"]).starts_with("-rw------- "));
    assert_eq!(world.ok(&["cat", "repo", "file"]), fs::read_to_string(world.path("key")).unwrap());
    assert!(Command::new("mkfifo").arg(world.path("fifo")).status().unwrap().success());
    world.fails(&["put", "repo", "/fifo", "--from", "fifo"], 2);
    world.fails(&["put", "repo", "/null", "--from", "/dev/null"], 2);
    assert_eq!(world.ok(&["ls", "repo"]), "file\n");
}

/// What did not fit any more stayed, cut off.
#[test]
fn a_full_destination_has_its_code_and_no_half_file() {
    if !is_root("full destination") {
        return;
    }
    let world = World::with_repo();
    fs::create_dir(world.path("source")).unwrap();
    fs::write(world.path("source/a"), "small").unwrap();
    fs::write(world.path("source/b"), noise(8 << 20, 9)).unwrap();
    world.ok(&["put", "repo", "/", "--from", "source"]);
    fs::create_dir(world.path("disk")).unwrap();
    let disk = world.path("disk");
    let arguments = ["-t", "tmpfs", "-o", "size=4m", "none", disk.to_str().unwrap()];
    assert!(Command::new("mount").args(arguments).status().unwrap().success());
    let output = world.run(&["extract", "repo", "disk/out", "--key-file", "key"]);
    let found = names(&world.path("disk/out"));
    Command::new("umount").arg("-l").arg(&disk).status().unwrap();
    assert_eq!(output.status.code(), Some(28), "{}", said(&output));
    assert!(said(&output).contains("out/b"), "{}", said(&output));
    assert_eq!(found, ["a"]);
}

/// A log that grew faster than it was read was read for ever.
#[test]
fn a_file_that_grows_is_put_as_long_as_it_was() {
    let world = World::with_repo();
    let path = world.path("log");
    fs::write(&path, noise(32 << 20, 5)).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (done, file) = (done.clone(), fs::OpenOptions::new().append(true).open(&path).unwrap());
        move || {
            let piece = noise(1 << 20, 6);
            while !done.load(Ordering::Relaxed) {
                std::io::Write::write_all(&mut &file, &piece[..100_000]).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
    });
    let output = world.run(&["put", "repo", "/log", "--from", "log", "--key-file", "key"]);
    done.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("log: changed"), "{}", said(&output));
    let stored = world.run(&["cat", "repo", "/log", "--key-file", "key"]).stdout;
    assert!(fs::read(&path).unwrap().starts_with(&stored) && stored.len() >= 32 << 20);
}

/// A folder around REPO would be put with what putting it makes.
#[test]
fn the_repository_is_not_put_into_itself() {
    let world = World::with_repo();
    fs::create_dir(world.path("around")).unwrap();
    fs::write(world.path("around/file"), "x").unwrap();
    fs::rename(world.path("repo"), world.path("around/repo")).unwrap();
    let told = world.fails(&["put", "around/repo", "/", "--from", "around"], 3);
    assert!(told.contains("around/repo"), "{told}");
    assert_eq!(world.ok(&["ls", "around/repo", "-R"]), "file\n");
    world.fails(&["put", "around/repo", "/", "--from", "around/repo"], 17);
}

/// Whoever lists or restores sees what a name holds, and his terminal does not
/// obey it.
#[test]
fn names_do_not_steer_the_terminal() {
    let world = World::with_repo();
    fs::create_dir(world.path("source")).unwrap();
    let name = "a\u{1b}[2Jb\n";
    fs::write(world.path("source").join(name), "x").unwrap();
    world.ok(&["put", "repo", "/", "--from", "source"]);
    fs::create_dir(world.path("out")).unwrap();
    fs::write(world.path("out").join(name), "mine").unwrap();
    let told = world.fails(&["extract", "repo", "out"], 3);
    assert!(!told.contains('\u{1b}') && told.contains("a?[2Jb?"), "{told:?}");
    // Programs get the bytes.
    assert!(world.ok(&["ls", "repo"]).contains(name));
}
