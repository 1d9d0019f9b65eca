//! "Point by point": names, inodes, attributes, rights.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::Proof::{Elsewhere, Here, With};
use super::{Place, Row, error_of, is_error};
use crate::world::{World, noise, wait_for};

const SECTION: &str = "Point by point";
const KEY: &[&str] = &["--key-file", "key"];

pub const ROWS: &[Row] = &[
    (SECTION, "names", Here(names)),
    (SECTION, "inode numbers", Here(inode_numbers)),
    (SECTION, "hard links", Here(hard_links)),
    (SECTION, "link count of a directory", Here(links_of_a_directory)),
    (SECTION, "symlinks", Here(symlinks)),
    (SECTION, "fifos, sockets, device nodes", Here(special_files)),
    (SECTION, "extended attributes", Here(attributes)),
    (SECTION, "access control lists", Here(access_lists)),
    (SECTION, "attributes of an open file without a name", Here(attributes_without_a_name)),
    (SECTION, "chattr, lsattr, project ids, quotas", Here(flags)),
    (SECTION, "mtime, ctime", Here(times)),
    (SECTION, "atime", Here(time_of_access)),
    (
        SECTION,
        "birth time",
        With(
            "What FUSE makes impossible",
            "Possible in FUSE, but not in the library below amberfs (fuser 0.18)",
        ),
    ),
    (SECTION, "suid, sgid", Here(suid)),
    (SECTION, "permissions", Here(permissions)),
    (SECTION, "rename", Here(rename)),
    (SECTION, "readdir", Here(readdir)),
    (
        SECTION,
        "O_TMPFILE",
        With(
            "What FUSE makes impossible",
            "Possible in FUSE, but not in the library below amberfs (fuser 0.18)",
        ),
    ),
    (
        SECTION,
        "unlinked files that are open",
        Elsewhere(&[
            "tests/integration/mounted.rs::unlinked_files_live_while_open",
            "src/fs/tests.rs::an_unlinked_open_file_lives_until_it_is_closed",
            "src/fs/tests.rs::a_crash_does_not_bring_back_an_unlinked_inode",
        ]),
    ),
    (SECTION, "open_by_handle_at, NFS export", Here(handles)),
    (SECTION, "statfs", Here(statfs)),
    (SECTION, "remount", Here(remount)),
];

fn listed(folder: &Path) -> BTreeSet<Vec<u8>> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect()
}

fn names(place: &Place) {
    let every = (1..=255u8).filter(|&byte| byte != b'/').collect::<Vec<u8>>();
    let wanted: BTreeSet<Vec<u8>> = [
        every.clone(),
        vec![b'n'; 255],
        b"a".to_vec(),
        b"A".to_vec(),
        // One letter in two ways, and neither.
        "\u{e9}".into(),
        "e\u{301}".into(),
        vec![0xff, 0xfe],
        b"\n".to_vec(),
        b"...".to_vec(),
    ]
    .into();
    for name in &wanted {
        fs::write(place.dir.join(OsStr::from_bytes(name)), name).unwrap();
    }
    assert_eq!(listed(&place.dir), wanted);
    for name in &wanted {
        assert_eq!(&fs::read(place.dir.join(OsStr::from_bytes(name))).unwrap(), name);
    }
    is_error(fs::write(place.path(&"n".repeat(256)), "x"), libc::ENAMETOOLONG);
    is_error(fs::create_dir(place.path(&"n".repeat(256))), libc::ENAMETOOLONG);
}

fn inode_numbers(_: &Place) {
    let world = Rc::new(World::with_repo());
    let mount = world.mount("repo", "mnt", KEY);
    let mut used = BTreeSet::new();
    for round in 0..50 {
        let path = world.path("mnt").join("again");
        fs::write(&path, "x").unwrap();
        assert!(used.insert(fs::metadata(&path).unwrap().ino()), "round {round}");
        fs::remove_file(path).unwrap();
    }
    fs::write(world.path("mnt/kept"), "x").unwrap();
    let kept = fs::metadata(world.path("mnt/kept")).unwrap().ino();
    assert!(kept > u64::from(u32::MAX));
    mount.unmount(&world);
    let mount = world.mount("repo", "mnt", KEY);
    assert_eq!(fs::metadata(world.path("mnt/kept")).unwrap().ino(), kept);
    fs::write(world.path("mnt/new"), "x").unwrap();
    assert!(used.insert(fs::metadata(world.path("mnt/new")).unwrap().ino()));
    let place = Place { world: Rc::clone(&world), dir: world.path("mnt"), row: "inode numbers" };
    if cfg!(target_arch = "x86_64") {
        assert_eq!(place.call("old_stat", &["kept"]), "EOVERFLOW");
    } else {
        println!("SKIPPED: semantics: inode numbers: no 32-bit call on this machine");
    }
    mount.unmount(&world);
}

fn hard_links(place: &Place) {
    const MOST: u64 = 65_000;
    let first = place.path("first");
    fs::write(&first, "x").unwrap();
    for number in 1..MOST {
        fs::hard_link(&first, place.path(&number.to_string())).unwrap();
    }
    assert_eq!(fs::metadata(&first).unwrap().nlink(), MOST);
    is_error(fs::hard_link(&first, place.path("one more")), libc::EMLINK);
    fs::remove_file(place.path("1")).unwrap();
    fs::hard_link(&first, place.path("one more")).unwrap();
    fs::create_dir(place.path("folder")).unwrap();
    is_error(fs::hard_link(place.path("folder"), place.path("same")), libc::EPERM);
}

fn links_of_a_directory(place: &Place) {
    let links = || fs::metadata(&place.dir).unwrap().nlink();
    assert_eq!(links(), 2);
    for number in 0..100 {
        fs::create_dir(place.path(&number.to_string())).unwrap();
        fs::write(place.path(&format!("file {number}")), "x").unwrap();
    }
    assert_eq!(links(), 102);
    fs::remove_dir(place.path("7")).unwrap();
    assert_eq!(links(), 101);
}

fn symlinks(place: &Place) {
    let longest = "t".repeat(4095);
    symlink(&longest, place.path("link")).unwrap();
    assert_eq!(fs::read_link(place.path("link")).unwrap(), Path::new(&longest));
    is_error(symlink("t".repeat(4096), place.path("longer")), libc::ENAMETOOLONG);
}

fn special_files(place: &Place) {
    let make = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, place.path(name), kind, Mode::from_raw_mode(0o666), device)
    };
    make("fifo", FileType::Fifo, 0).unwrap();
    assert!(fs::metadata(place.path("fifo")).unwrap().file_type().is_fifo());
    let listener = std::os::unix::net::UnixListener::bind(place.path("socket")).unwrap();
    std::os::unix::net::UnixStream::connect(place.path("socket")).unwrap();
    drop(listener);
    if place.is_root() {
        let device = rustix::fs::makedev(1, 3);
        make("null", FileType::CharacterDevice, device).unwrap();
        let stat = fs::metadata(place.path("null")).unwrap();
        assert!(stat.file_type().is_char_device());
        assert_eq!(stat.rdev(), device);
        is_error(fs::read(place.path("null")), libc::EACCES);
        let world = World::with_repo();
        let mount = world.mount("repo", "mnt", &[KEY, &["-o", "dev"]].concat());
        let path = world.path("mnt/null");
        rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::RUSR, device).unwrap();
        assert_eq!(fs::read(path).unwrap(), b"");
        mount.unmount(&world);
    }
}

fn attributes(place: &Place) {
    place.file("a");
    let path = place.path("a");
    let set =
        |name: &str, value: &[u8]| rustix::fs::setxattr(&path, name, value, XattrFlags::empty());
    set("user.large", &vec![7; 65536]).unwrap();
    assert_eq!(set("user.larger", &vec![7; 65537]), Err(Errno::TOOBIG));
    set(&format!("user.{}", "n".repeat(250)), b"x").unwrap();
    for number in 2..1024 {
        set(&format!("user.{number}"), b"x").unwrap();
    }
    assert_eq!(set("user.one more", b"x"), Err(Errno::NOSPC));
    let mut value = vec![0; 65536];
    assert_eq!(rustix::fs::getxattr(&path, "user.large", &mut value[..]), Ok(65536));
    assert!(value.iter().all(|byte| *byte == 7));
    if place.is_root() {
        place.file("b");
        for name in ["trusted.a", "security.a"] {
            let path = place.path("b");
            rustix::fs::setxattr(path, name, b"x", XattrFlags::empty()).unwrap();
        }
        fs::set_permissions(place.path("b"), fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(place.as_other("setfattr -n user.a -v x b"), 0);
        assert_ne!(place.as_other("setfattr -n trusted.a -v x b"), 0);
        assert_ne!(place.as_other("getfattr -n trusted.a b"), 0);
        assert_ne!(place.as_other("setfattr -n security.a -v x b"), 0);
    }
}

/// An access list of this many entries, as the kernel has it: version 2, then
/// tag, rights and number of each.
fn list(count: u32) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    let mut entry = |tag: u16, perm: u16, id: u32| {
        bytes.extend([tag.to_le_bytes(), perm.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    };
    entry(1, 6, u32::MAX);
    (4..count).for_each(|number| entry(2, 4, 1000 + number));
    for (tag, perm) in [(4, 4), (16, 6), (32, 4)] {
        entry(tag, perm, u32::MAX);
    }
    bytes
}

fn access_lists(place: &Place) {
    const ACCESS: &str = "system.posix_acl_access";
    const DEFAULT: &str = "system.posix_acl_default";
    let set = |name: &str, which: &str, count| {
        rustix::fs::setxattr(place.path(name), which, &list(count), XattrFlags::empty())
    };
    let get = |name: &str, which: &str| {
        let mut bytes = [0; 5000];
        let len = rustix::fs::getxattr(place.path(name), which, &mut bytes)?;
        Ok::<_, Errno>(bytes[..len].to_vec())
    };
    fs::create_dir(place.path("d")).unwrap();
    for which in [ACCESS, DEFAULT] {
        set("d", which, 511).unwrap();
        assert_eq!(get("d", which).unwrap(), list(511));
        assert_eq!(set("d", which, 512), Err(Errno::TOOBIG));
    }
    fs::create_dir(place.path("e")).unwrap();
    set("e", DEFAULT, 5).unwrap();
    fs::create_dir(place.path("e/inner")).unwrap();
    assert_eq!(get("e/inner", DEFAULT).unwrap(), list(5));
    // Of what the default list grants, nobody gets more than the creator asks for.
    fs::write(place.path("e/file"), "x").unwrap();
    assert_eq!(get("e/file", ACCESS).unwrap(), list(5));
    fs::set_permissions(place.path("e/file"), fs::Permissions::from_mode(0o600)).unwrap();
    let narrowed = get("e/file", ACCESS).unwrap();
    // The mask, before the last, has no rights any more, the named user his own.
    assert_eq!(narrowed[4 + 8 + 2], 4);
    assert_eq!(narrowed[narrowed.len() - 16 + 2], 0);
    if place.is_root() {
        // User 1004 is in list(5), 1000 is not.
        fs::set_permissions(place.path("e/file"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(place.path("e"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(place.as_other("cat e/file"), 0);
        let status = Command::new("setpriv")
            .args(["--reuid=1004", "--regid=1004", "--clear-groups", "cat", "e/file"])
            .current_dir(&place.dir)
            .output();
        assert!(status.unwrap().status.success());
    }
}

fn attributes_without_a_name(place: &Place) {
    let file = place.file("a");
    rustix::fs::fsetxattr(&file, "user.a", b"x", XattrFlags::empty()).unwrap();
    fs::remove_file(place.path("a")).unwrap();
    assert_eq!(rustix::fs::fgetxattr(&file, "user.a", &mut [0; 8][..]), Err(Errno::NODATA));
    assert_eq!(rustix::fs::flistxattr(&file, &mut [0; 100][..]), Ok(0));
}

fn flags(place: &Place) {
    place.file("a");
    for call in ["getflags", "setflags", "getproject", "setproject"] {
        assert_eq!(place.call(call, &["a"]), "ENOTTY", "{call}");
    }
    let path = place.path("a");
    for program in [&["lsattr"][..], &["chattr", "+i"]] {
        let output = Command::new(program[0]).args(&program[1..]).arg(&path).output().unwrap();
        assert!(!output.stderr.is_empty(), "{program:?}");
    }
}

fn set_times(path: &Path, atime: Timespec, mtime: Timespec) {
    let times = Timestamps { last_access: atime, last_modification: mtime };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

fn times(place: &Place) {
    place.file("a");
    let path = place.path("a");
    let year_9999 = 253_402_300_799;
    for (secs, nanos) in [(-1, 999_999_999), (-4_000_000_000, 1), (0, 5), (year_9999, 123_456_789)]
    {
        let time = Timespec { tv_sec: secs, tv_nsec: nanos };
        set_times(&path, time, time);
        let stat = fs::metadata(&path).unwrap();
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (secs, nanos));
        let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert!(stat.ctime().abs_diff(age.as_secs() as i64) < 60, "{}", stat.ctime());
    }
    // The kernel tells no time of a write in the tick of its clock in which the file was made, and the
    // pages come later.
    let world = World::with_repo();
    let mounted = world.mount("repo", "mnt", KEY);
    for number in 0..210 {
        let size = if number < 200 { 2000 } else { 5_000_000 };
        fs::write(world.path("mnt").join(number.to_string()), noise(size, number)).unwrap();
    }
    let times = || -> Vec<_> {
        let stat = |number: u64| fs::metadata(world.path("mnt").join(number.to_string())).unwrap();
        (0..210).map(stat).map(|stat| (stat.mtime(), stat.mtime_nsec())).collect()
    };
    let before = times();
    mounted.unmount(&world);
    let mounted = world.mount("repo", "mnt", KEY);
    assert_eq!(times(), before);
    mounted.unmount(&world);
}

fn time_of_access(place: &Place) {
    fs::write(place.path("a"), "x").unwrap();
    let path = place.path("a");
    let (early, late) = (Timespec { tv_sec: 1, tv_nsec: 2 }, Timespec { tv_sec: 9, tv_nsec: 8 });
    set_times(&path, early, late);
    fs::read(&path).unwrap();
    let stat = fs::metadata(&path).unwrap();
    assert_eq!((stat.atime(), stat.atime_nsec()), (1, 2));
    // As relatime would move it on: it is older than mtime.
    fs::write(place.path("b"), "x").unwrap();
    let stat = fs::metadata(place.path("b")).unwrap();
    assert_eq!((stat.atime(), stat.atime_nsec()), (stat.mtime(), stat.mtime_nsec()));
    let world = World::with_repo();
    world.mount("repo", "mnt", &[KEY, &["-o", "relatime"]].concat()).unmount(&world);
}

fn suid(place: &Place) {
    if !place.is_root() {
        return;
    }
    suid_without_the_cache(place);
    for what in ["changes", "capability"] {
        assert_eq!(place.python("privileges.py", &[what, "."]), "");
    }
    // A program of root's, run by another: whose rights has it?
    let becomes_root = |place: &Place| {
        fs::copy("/usr/bin/id", place.path("id")).unwrap();
        fs::set_permissions(place.path("id"), fs::Permissions::from_mode(0o4755)).unwrap();
        place.as_other("test \"$(./id -u)\" = 0") == 0
    };
    assert!(!becomes_root(place));
    let world = Rc::new(World::with_repo());
    let mount = world.mount("repo", "mnt", &[KEY, &["-o", "suid,allow_other"]].concat());
    for folder in ["", "mnt"] {
        fs::set_permissions(world.path(folder), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let inside = Place { world: Rc::clone(&world), dir: world.path("mnt"), row: "suid, sgid" };
    assert!(becomes_root(&inside));
    assert_eq!(inside.python("privileges.py", &["run_meanwhile", "."]), "");
    mount.unmount(&world);
}

/// With so little room that files bypass the kernel's cache, it announces no write.
fn suid_without_the_cache(place: &Place) {
    if !place.is_root() {
        return;
    }
    let world = Rc::new(World::with_repo());
    fs::create_dir(world.path("small")).unwrap();
    let small = world.path("small");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=200m,mode=700", "none"])
        .arg(&small)
        .status();
    assert!(mounted.unwrap().success());
    let options = ["--state", "small", "-o", "suid,allow_other"];
    let mount = world.mount("repo", "mnt", &[KEY, &options].concat());
    for folder in ["", "mnt"] {
        fs::set_permissions(world.path(folder), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let inside = Place { world: Rc::clone(&world), dir: world.path("mnt"), row: "suid, sgid" };
    // It looks at the room each second.
    wait_for("files that bypass the cache", Duration::from_secs(20), || {
        inside.call("bypasses", &["probe"]) == "bypasses"
    });
    for what in ["changes", "capability", "opened_before", "run_meanwhile"] {
        assert_eq!(inside.python("privileges.py", &[what, "."]), "", "{what}");
    }
    mount.unmount(&world);
    assert!(Command::new("umount").arg("-l").arg(&small).status().unwrap().success());
}

fn permissions(place: &Place) {
    fs::write(place.path("private"), "x").unwrap();
    fs::set_permissions(place.path("private"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(place.path("closed")).unwrap();
    fs::set_permissions(place.path("closed"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::write(place.path("closed/open"), "x").unwrap();
    fs::set_permissions(place.path("closed/open"), fs::Permissions::from_mode(0o644)).unwrap();
    if place.is_root() {
        for (script, may) in [
            ("cat private", false),
            ("echo x >>private", false),
            ("ls closed", false),
            ("cat closed/open", true),
            ("echo x >>closed/open", false),
            ("echo x >closed/new", false),
            ("rm -f closed/open", false),
            ("chmod 666 private", false),
        ] {
            assert_eq!(place.as_other(script) == 0, may, "{script}");
        }
    }
}

fn rename(place: &Place) {
    let with = |from: &str, to: &str, flags| {
        rustix::fs::renameat_with(CWD, place.path(from), CWD, place.path(to), flags)
    };
    let text = |name: &str| fs::read_to_string(place.path(name)).unwrap();
    fs::write(place.path("a"), "a").unwrap();
    fs::write(place.path("b"), "b").unwrap();
    assert_eq!(with("a", "b", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    with("a", "b", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((text("a"), text("b")), ("b".into(), "a".into()));
    assert_eq!(with("a", "none", RenameFlags::EXCHANGE), Err(Errno::NOENT));
    assert_eq!(place.call("whiteout", &["a", "c"]), "EINVAL");
    // Somebody who looks meanwhile always finds one of the two.
    let watched = place.path("b");
    let watcher = std::thread::spawn(move || (0..500).all(|_| fs::read(&watched).is_ok()));
    while !watcher.is_finished() {
        fs::write(place.path("new"), "new").unwrap();
        fs::rename(place.path("new"), place.path("b")).unwrap();
    }
    assert!(watcher.join().unwrap());
}

fn readdir(_: &Place) {
    let world = Rc::new(World::with_repo());
    let mount = world.mount("repo", "mnt", KEY);
    fs::create_dir(world.path("mnt/d")).unwrap();
    for number in 0..500 {
        fs::write(world.path("mnt/d").join(number.to_string()), "").unwrap();
    }
    let place = Place { world: Rc::clone(&world), dir: world.path("mnt"), row: "readdir" };
    let before = place.call("names_after", &["d", "0"]);
    let lines: Vec<&str> = before.lines().collect();
    assert_eq!(lines.len(), 502);
    mount.unmount(&world);
    let mount = world.mount("repo", "mnt", KEY);
    assert_eq!(place.call("names_after", &["d", "0"]), before);
    for at in [1, 2, 250, 500] {
        let (cookie, name) = lines[at].split_once(' ').unwrap();
        assert_eq!(place.call("names_after", &["d", cookie]), lines[at + 1..].join("\n"), "{name}");
    }
    // What comes and goes elsewhere does not move the rest.
    let (cookie, name) = lines[250].split_once(' ').unwrap();
    let gone = lines[100].split_once(' ').unwrap().1;
    for name in [name, gone] {
        fs::remove_file(world.path("mnt/d").join(name)).unwrap();
    }
    assert_eq!(place.call("names_after", &["d", cookie]), lines[251..].join("\n"));
    mount.unmount(&world);
}

/// On a mount of its own: the kernel has to forget all inodes of it.
fn handles(place: &Place) {
    if !place.is_root() {
        return;
    }
    let world = Rc::new(World::with_repo());
    let mount = world.mount("repo", "mnt", KEY);
    let inside = Place { world: Rc::clone(&world), dir: world.path("mnt"), row: "handles" };
    let mnt = inside.dir.clone();
    fs::create_dir_all(mnt.join("d/e")).unwrap();
    for name in ["file", "d/e/deep", "gone", "open"] {
        fs::write(mnt.join(name), name).unwrap();
    }
    symlink("target", mnt.join("link")).unwrap();
    let names = ["file", "d", "d/e", "d/e/deep", "link", "gone", "open"];
    let handles = names.map(|name| inside.call("handle_of", &[name]));
    let opened = |handle: &str| inside.call("opened", &[".", handle]);
    let forget = || {
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    };
    let open = fs::File::open(mnt.join("open")).unwrap();
    fs::remove_file(mnt.join("gone")).unwrap();
    fs::remove_file(mnt.join("open")).unwrap();
    fs::rename(mnt.join("d/e"), mnt.join("moved")).unwrap();
    let kept = ["file: file", "folder:", "folder: deep", "file: d/e/deep", "link: target"];
    forget();
    for (name, (handle, expected)) in names.iter().zip(handles.iter().zip(&kept)) {
        assert_eq!(&opened(handle), expected, "{name}");
    }
    assert_eq!(opened(&handles[5]), "ESTALE");
    assert_eq!(opened(&handles[6]), "file: open", "somebody has it open");
    drop(open);
    forget();
    assert_eq!(opened(&handles[6]), "ESTALE");
    mount.unmount(&world);
    let mount = world.mount("repo", "mnt", KEY);
    for (name, (handle, expected)) in names.iter().zip(handles.iter().zip(&kept)) {
        assert_eq!(&opened(handle), expected, "{name}");
    }
    for handle in &handles[5..] {
        assert_eq!(opened(handle), "ESTALE");
    }
    // Of an inode that is new since, and of one that was never there.
    fs::write(mnt.join("file"), "new").unwrap();
    assert_eq!(opened(&handles[0]), "file: new");
    assert_eq!(inside.call("opened_unknown", &[".", &handles[0]]), "ESTALE");
    mount.unmount(&world);
}

fn statfs(place: &Place) {
    if !place.is_root() {
        return;
    }
    // Smaller than what REPO lies on; then the other way round.
    for small in ["state", "far"] {
        let world = World::new();
        fs::create_dir(world.path(small)).unwrap();
        let folder = world.path(small);
        let run = |arguments: &[&str]| {
            let status = Command::new(arguments[0]).args(&arguments[1..]).arg(&folder).status();
            assert!(status.unwrap().success());
        };
        run(&["mount", "-t", "tmpfs", "-o", "size=300m,mode=700", "none"]);
        fs::create_dir_all(world.path("far")).unwrap();
        world.ok(&["init", "far/repo", "--key-out", "key"]);
        let mount = world.mount("far/repo", "mnt", KEY);
        let shown = rustix::fs::statvfs(world.path("mnt")).unwrap();
        let below = rustix::fs::statvfs(&folder).unwrap();
        assert_eq!(shown.f_blocks * shown.f_frsize, 300 << 20, "{small}");
        let free = |stat: &rustix::fs::StatVfs| stat.f_bavail * stat.f_frsize;
        assert!(free(&shown).abs_diff(free(&below)) < 8 << 20, "{small}");
        mount.unmount(&world);
        run(&["umount", "-l"]);
    }
}

fn remount(place: &Place) {
    if !place.is_root() {
        return;
    }
    let mnt = place.world.path("mnt");
    let remount = |how: &str| {
        // -i: mount(8) would hand it to a helper, which mounts anew.
        let status = Command::new("mount").args(["-i", "-o", how]).arg(&mnt).status();
        assert!(status.unwrap().success(), "{how}");
    };
    remount("remount,ro");
    let refused = fs::write(place.path("a"), "x");
    // amberfs goes on as before: it can still write by itself.
    let synced = place.world.run(&["sync", "mnt"]);
    remount("remount,rw");
    assert_eq!(error_of(refused), libc::EROFS);
    assert!(synced.status.success());
    fs::write(place.path("a"), "x").unwrap();
}
