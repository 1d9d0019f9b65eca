//! "Errors": each is provoked, and its text is that of the messages.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, symlink};

use amberfs::fs::FsError;
use rustix::fs::XattrFlags;

use super::Proof::{Elsewhere, Here, With};
use super::{DOCUMENT, Place, Row, error_of, is_error};
use crate::world::{World, noise, settle};

const SECTION: &str = "Errors";

pub const ROWS: &[Row] = &[
    (SECTION, "EIO", Here(damage_is_eio)),
    (SECTION, "ENOSPC", With("Space", "Local disk")),
    (SECTION, "EROFS", Here(read_only)),
    (SECTION, "ESTALE", With("Point by point", "open_by_handle_at, NFS export")),
    (SECTION, "EMLINK", With("Point by point", "hard links")),
    (SECTION, "ENAMETOOLONG", With("Point by point", "names")),
    (SECTION, "EFBIG", Here(too_large)),
    (SECTION, "ENXIO", Here(nothing_to_seek)),
    (SECTION, "ENODATA", Here(no_attribute)),
    (SECTION, "ERANGE", Here(names_and_buffers_of_attributes)),
    (SECTION, "EOPNOTSUPP", Here(not_supported)),
    (SECTION, "EPERM", With("Point by point", "hard links")),
    (SECTION, "EINVAL", Here(invalid)),
    (SECTION, "ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY", Here(as_everywhere)),
    (
        SECTION,
        "A bug that makes amberfs panic in a request answers EIO to that request; the mount goes on",
        Elsewhere(&["tests/integration/mounted.rs::a_panic_is_an_error_and_the_mount_lives"]),
    ),
];

/// Every errno of the table has the text that amberfs has for it.
#[test]
fn texts_of_errors_are_those_of_the_program() {
    let all = [
        ("EIO", FsError::Io),
        ("ENOSPC", FsError::NoSpace),
        ("EROFS", FsError::ReadOnly),
        ("ESTALE", FsError::Stale),
        ("EMLINK", FsError::TooManyLinks),
        ("ENAMETOOLONG", FsError::NameTooLong),
        ("EFBIG", FsError::FileTooBig),
        ("ENXIO", FsError::NoSuchData),
        ("ENODATA", FsError::NoData),
        ("ERANGE", FsError::Range),
        ("EOPNOTSUPP", FsError::NotSupported),
        ("EPERM", FsError::NotPermitted),
        ("EINVAL", FsError::Invalid),
        ("ENOENT", FsError::NotFound),
        ("EEXIST", FsError::Exists),
        ("ENOTDIR", FsError::NotDir),
        ("EISDIR", FsError::IsDir),
        ("ENOTEMPTY", FsError::NotEmpty),
    ];
    let table = DOCUMENT.split("\n## Errors\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut found = Vec::new();
    for row in table.lines().filter(|line| line.starts_with("| E")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        found.extend(cells[1].split(", ").zip(cells[2].split(", ")));
    }
    let expected: Vec<(&str, String)> =
        all.iter().map(|(name, error)| (*name, error.to_string())).collect();
    let found: Vec<(&str, String)> =
        found.into_iter().map(|(name, text)| (name, text.to_string())).collect();
    assert_eq!(found, expected);
}

/// `check` tells damage from what is not here yet by its exit code.
fn damage_is_eio(_: &Place) {
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    fs::write(world.path("mnt/file"), noise(3 << 20, 1)).unwrap();
    fs::write(world.path("mnt/small"), "whole").unwrap();
    mount.unmount(&world);
    let objects =
        world.files("repo").into_iter().filter(|path| path.to_string_lossy().contains("/obj/"));
    let objects: Vec<_> = objects.collect();
    assert!(!objects.is_empty());
    let read = || {
        let mount = world.mount("repo", "mnt", &["--key-file", "key", "-o", "ro"]);
        let error = error_of(fs::read(world.path("mnt/file")));
        assert_eq!(fs::read_to_string(world.path("mnt/small")).unwrap(), "whole");
        let log = world.log();
        mount.unmount(&world);
        assert_eq!(error, libc::EIO);
        log
    };
    for object in &objects {
        let mut bytes = fs::read(object).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 1000].fill(0);
        fs::write(object, bytes).unwrap();
        settle(object);
    }
    assert!(read().contains("damaged"), "{}", world.log());
    world.fails(&["check", "repo", "--read-data"], 26);
    for object in &objects {
        fs::remove_file(object).unwrap();
    }
    assert!(read().contains("not here"), "{}", world.log());
    world.fails(&["check", "repo", "--read-data"], 20);
}

fn read_only(_: &Place) {
    let world = World::with_repo();
    world.ok(&["put", "repo", "file", "--from", "key"]);
    let mount = world.mount("repo", "mnt", &["--key-file", "key", "-o", "ro"]);
    let path = world.path("mnt/file");
    is_error(fs::write(&path, "x"), libc::EROFS);
    is_error(fs::remove_file(&path), libc::EROFS);
    is_error(fs::create_dir(world.path("mnt/folder")), libc::EROFS);
    is_error(fs::rename(&path, world.path("mnt/other")), libc::EROFS);
    let attribute = rustix::fs::setxattr(&path, "user.a", b"x", XattrFlags::empty());
    assert_eq!(attribute, Err(rustix::io::Errno::ROFS));
    mount.unmount(&world);
}

/// Of a write the kernel says EINVAL before amberfs is asked.
fn too_large(place: &Place) {
    let file = place.file("a");
    let largest = i64::MAX.to_string();
    assert_eq!(place.call("fallocate", &["a", "0", &largest, "10"]), "EFBIG");
    is_error(file.write_at(b"xy", i64::MAX as u64), libc::EINVAL);
    assert_eq!(file.metadata().unwrap().len(), 0);
}

fn nothing_to_seek(place: &Place) {
    use rustix::fs::SeekFrom::{Data, Hole};
    let file = place.file("a");
    file.set_len(10_000).unwrap();
    assert_eq!(rustix::fs::seek(&file, Hole(0)), Ok(0));
    for from in [Data(0), Data(10_000), Hole(10_000), Data(20_000), Hole(20_000)] {
        assert_eq!(rustix::fs::seek(&file, from), Err(rustix::io::Errno::NXIO), "{from:?}");
    }
}

fn no_attribute(place: &Place) {
    place.file("a");
    let path = place.path("a");
    let got = rustix::fs::getxattr(&path, "user.none", &mut [0; 8][..]);
    assert_eq!(got, Err(rustix::io::Errno::NODATA));
    assert_eq!(rustix::fs::removexattr(&path, "user.none"), Err(rustix::io::Errno::NODATA));
    let replaced = rustix::fs::setxattr(&path, "user.none", b"x", XattrFlags::REPLACE);
    assert_eq!(replaced, Err(rustix::io::Errno::NODATA));
}

fn names_and_buffers_of_attributes(place: &Place) {
    place.file("a");
    let path = place.path("a");
    let set = |name: &str| rustix::fs::setxattr(&path, name, b"12345678", XattrFlags::empty());
    assert_eq!(set(""), Err(rustix::io::Errno::RANGE));
    assert_eq!(set(&format!("user.{}", "n".repeat(251))), Err(rustix::io::Errno::RANGE));
    set(&format!("user.{}", "n".repeat(250))).unwrap();
    set("user.a").unwrap();
    let got = rustix::fs::getxattr(&path, "user.a", &mut [0; 7][..]);
    assert_eq!(got, Err(rustix::io::Errno::RANGE));
    let listed = rustix::fs::listxattr(&path, &mut [0; 5][..]);
    assert_eq!(listed, Err(rustix::io::Errno::RANGE));
}

fn not_supported(place: &Place) {
    place.file("a");
    let path = place.path("a");
    for name in ["system.other", "com.example.name"] {
        let set = rustix::fs::setxattr(&path, name, b"x", XattrFlags::empty());
        assert_eq!(set, Err(rustix::io::Errno::OPNOTSUPP), "{name}");
    }
    assert_eq!(place.call("fallocate", &["a", "0x08", "0", "4096"]), "EOPNOTSUPP");
}

fn invalid(place: &Place) {
    fs::create_dir_all(place.path("d/inner")).unwrap();
    is_error(fs::rename(place.path("d"), place.path("d/inner/d")), libc::EINVAL);
    is_error(fs::read_link(place.path("d")), libc::EINVAL);
    // The entry for all others is missing: version 2; owner, owning group.
    let entries = [(1u16, 7u16), (4, 5)];
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, perm) in entries {
        list.extend([tag.to_le_bytes(), perm.to_le_bytes()].concat());
        list.extend(u32::MAX.to_le_bytes());
    }
    let set = rustix::fs::setxattr(
        place.path("d"),
        "system.posix_acl_access",
        &list,
        XattrFlags::empty(),
    );
    assert_eq!(set, Err(rustix::io::Errno::INVAL));
}

fn as_everywhere(place: &Place) {
    fs::create_dir_all(place.path("d/inner")).unwrap();
    fs::write(place.path("f"), "x").unwrap();
    let none = place.path("none");
    is_error(fs::read(&none), libc::ENOENT);
    is_error(fs::remove_file(&none), libc::ENOENT);
    is_error(fs::rename(&none, place.path("other")), libc::ENOENT);
    is_error(fs::create_dir(place.path("f")), libc::EEXIST);
    is_error(fs::hard_link(place.path("f"), place.path("d")), libc::EEXIST);
    is_error(symlink(std::ffi::OsStr::from_bytes(b"x"), place.path("f")), libc::EEXIST);
    is_error(fs::read(place.path("f/below")), libc::ENOTDIR);
    is_error(fs::remove_dir(place.path("f")), libc::ENOTDIR);
    is_error(fs::rename(place.path("d"), place.path("f")), libc::ENOTDIR);
    is_error(fs::remove_file(place.path("d")), libc::EISDIR);
    is_error(fs::rename(place.path("f"), place.path("d")), libc::EISDIR);
    is_error(fs::write(place.path("d"), "x"), libc::EISDIR);
    is_error(fs::remove_dir(place.path("d")), libc::ENOTEMPTY);
    fs::create_dir(place.path("empty")).unwrap();
    is_error(fs::rename(place.path("empty"), place.path("d")), libc::ENOTEMPTY);
}
