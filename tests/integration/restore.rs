//! `restore`: files of the past are brought back into the present.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::Value;

use crate::many::KEY;
use crate::mounted::has_fuse;
use crate::snapshots::{list, object_bytes, seconds, utc, wait_beyond};
use crate::world::{World, assert_same_tree, noise};

/// The time of the newest state, as an argument; whatever is published next is of a later second.
fn then(world: &World) -> String {
    let second = seconds(list(world).last().unwrap());
    wait_beyond(second);
    format!("{}Z", utc(second))
}

/// Puts a file with this text.
fn put(world: &World, path: &str, text: &str) {
    fs::write(world.path("source"), text).unwrap();
    world.ok(&["put", "repo", path, "--from", "source"]);
}

fn restore(world: &World, paths: &[&str], then: &str) -> Value {
    let all = [&["restore", "repo"], paths, &["--at", then, "--json"]].concat();
    serde_json::from_str(&world.ok(&all)).unwrap()
}

fn names(world: &World, dir: &str) -> Vec<String> {
    let lines = world.ok(&["ls", "repo", dir]);
    lines.lines().map(|path| path.rsplit('/').next().unwrap().to_owned()).collect()
}

#[test]
fn files_are_brought_back_without_a_byte_uploaded_again() {
    let world = World::with_repo();
    let source = world.path("source");
    fs::create_dir_all(source.join("deep/er")).unwrap();
    fs::write(source.join("deep/er/large"), noise(3_000_000, 1)).unwrap();
    fs::write(source.join("deep/small"), "small").unwrap();
    fs::hard_link(source.join("deep/small"), source.join("deep/er/link")).unwrap();
    fs::write(source.join("kept"), "kept").unwrap();
    std::os::unix::fs::symlink("small", source.join("deep/symlink")).unwrap();
    world.ok(&["put", "repo", "all", "--from", "source"]);
    let second = seconds(list(&world).last().unwrap());
    let then = format!("{}Z", utc(second));
    wait_beyond(second);
    // All of it is spoiled, or gone.
    fs::write(world.path("new"), "new").unwrap();
    for path in ["all/deep/er/large", "all/deep/small", "all/came"] {
        world.ok(&["put", "repo", path, "--from", "new"]);
    }
    if has_fuse("snapshots, restore") {
        let mount = world.mount("repo", "mnt", &KEY);
        let said = world.fails(&["restore", "repo", "all", "--at", &then], 11);
        assert!(said.contains("snapshot=WHEN"), "{said}");
        fs::remove_dir_all(world.path("mnt/all/deep/er")).unwrap();
        mount.unmount(&world);
    }
    let before = object_bytes(&world);
    let said = world.ok(&["restore", "repo", "all/deep", "--at", &then, "--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((said["left_out"].as_u64(), said["time"].as_u64()), (Some(0), Some(second)));
    assert_eq!(object_bytes(&world), before, "content was stored again");
    world.ok(&["extract", "repo", "back"]);
    assert_same_tree(&source.join("deep"), &world.path("back/all/deep"));
    assert_eq!(fs::read_to_string(world.path("back/all/came")).unwrap(), "new");
    let links = |path: &str| fs::metadata(world.path(path)).unwrap().ino();
    assert_eq!(links("back/all/deep/small"), links("back/all/deep/er/link"));
    world.ok(&["check", "repo", "--read-data"]);
    // Once more nothing is left to do, and what was not there is told.
    let said = world.ok(&["restore", "repo", "/", "--at", &then, "--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((said["restored"].as_u64(), said["same"].as_u64()), (Some(0), Some(5)), "{said}");
    let said = world.fails(&["restore", "repo", "all/came", "--at", &then], 1);
    assert!(said.contains("it was not there at that time"), "{said}");
    let said = world.fails(&["restore", "repo", "all/came", "all/kept", "--at", &then], 3);
    assert!(said.contains("all/came: ") && said.contains("left out: 1"), "{said}");
    // A folder that has the path of a file stays, and is named.
    world.ok(&["put", "repo", "all/other", "--from", "source"]);
    let second = seconds(list(&world).last().unwrap());
    wait_beyond(second);
    fs::create_dir(world.path("folder")).unwrap();
    if has_fuse("snapshots, restore in the way") {
        let mount = world.mount("repo", "mnt", &KEY);
        fs::remove_file(world.path("mnt/all/kept")).unwrap();
        fs::create_dir(world.path("mnt/all/kept")).unwrap();
        mount.unmount(&world);
        let said = world.fails(&["restore", "repo", "all", "--at", &then], 3);
        assert!(said.contains("all/kept: a folder has this name now"), "{said}");
    }
}

/// A database of then beside the log of now would be another database, or none.
#[test]
fn a_database_has_the_side_files_of_then_and_no_others() {
    let world = World::with_repo();
    put(&world, "d/db", "one");
    let without = then(&world);
    put(&world, "d/db", "two");
    put(&world, "d/db-wal", "log of two");
    let with = then(&world);
    put(&world, "d/db", "three");
    put(&world, "d/db-wal", "log of three");
    put(&world, "d/db-journal", "journal");
    let now = then(&world);
    for paths in [&["d"][..], &["/"], &["d/db"], &["d/db", "d/db-wal", "d/db-journal"]] {
        let said = restore(&world, paths, &without);
        assert_eq!((said["removed"].as_u64(), said["left_out"].as_u64()), (Some(2), Some(0)));
        assert_eq!(names(&world, "d"), ["db"], "{paths:?}");
        assert_eq!(world.ok(&["cat", "repo", "d/db"]), "one");
        // Also where the database itself is as it was.
        put(&world, "d/db-wal", "log of now");
        assert_eq!(restore(&world, paths, &without)["removed"].as_u64(), Some(1));
        restore(&world, &["/"], &now);
        assert_eq!(names(&world, "d"), ["db", "db-journal", "db-wal"]);
    }
    // Whichever of them is named, they come together.
    for paths in [&["d"][..], &["d/db"], &["d/db-wal"]] {
        restore(&world, paths, &with);
        assert_eq!(names(&world, "d"), ["db", "db-wal"], "{paths:?}");
        let both = ["d/db", "d/db-wal"].map(|path| world.ok(&["cat", "repo", path]));
        assert_eq!(both, ["two", "log of two"]);
        restore(&world, &["/"], &now);
    }
}

/// With one of them alone the database would be spoiled.
#[test]
fn a_database_and_its_log_come_back_together_or_not_at_all() {
    let world = World::with_repo();
    put(&world, "d/db", "then");
    fs::write(world.path("source"), noise(3_000_000, 1)).unwrap();
    world.ok(&["put", "repo", "d/db-wal", "--from", "source"]);
    let then = then(&world);
    put(&world, "d/db", "now");
    put(&world, "d/db-wal", "log of now");
    put(&world, "d/other", "now");
    let gone: Vec<_> = world.files("repo").into_iter().filter(|path| is_object(path)).collect();
    let aside: Vec<Vec<u8>> = gone.iter().map(|path| fs::read(path).unwrap()).collect();
    for path in &gone {
        fs::remove_file(path).unwrap();
    }
    for path in ["d", "d/db", "d/db-wal"] {
        let said = world.fails(&["restore", "repo", path, "--at", &then], 3);
        assert!(said.contains("its content is not here (yet)"), "{said}");
        assert_eq!(names(&world, "d"), ["db", "db-wal", "other"], "{path}");
        let both = ["d/db", "d/db-wal"].map(|path| world.ok(&["cat", "repo", path]));
        assert_eq!(both, ["now", "log of now"]);
    }
    for (path, bytes) in gone.iter().zip(aside) {
        fs::write(path, bytes).unwrap();
    }
    assert_eq!(restore(&world, &["d"], &then)["restored"].as_u64(), Some(2));
    assert_eq!(world.ok(&["cat", "repo", "d/db"]), "then");
    world.ok(&["check", "repo", "--read-data"]);
}

#[test]
fn what_is_named_twice_is_brought_back_once() {
    let world = World::with_repo();
    put(&world, "d/f", "one");
    let then = then(&world);
    for paths in [&["d", "d/f"][..], &["d/f", "d"], &["d/f", "d/f"], &["/", "d"]] {
        put(&world, "d/f", "two");
        let said = restore(&world, paths, &then);
        assert_eq!((said["restored"].as_u64(), said["left_out"].as_u64()), (Some(1), Some(0)));
        let all = world.ok(&["ls", "repo", "-R"]);
        assert!(!all.contains("amberfs-put"), "{all}");
    }
}

#[test]
fn attributes_and_further_names_come_back() {
    if !has_fuse("restore, attributes") {
        return;
    }
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &KEY);
    let path = |name: &str| world.path(&format!("mnt/{name}"));
    let set = |name: &str, value: &str| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path(name), "user.k", value.as_bytes(), flags).unwrap();
    };
    let get = |name: &str| {
        let mut value = [0; 20];
        let len = rustix::fs::getxattr(path(name), "user.k", &mut value).unwrap_or(0);
        String::from_utf8(value[..len].to_vec()).unwrap()
    };
    for name in ["changed", "removed", "x", "a"] {
        fs::write(path(name), name).unwrap();
        set(name, "then");
    }
    fs::write(path("added"), "added").unwrap();
    for (of, name) in [("x", "y"), ("x", "z"), ("a", "b"), ("a", "c")] {
        fs::hard_link(path(of), path(name)).unwrap();
    }
    mount.unmount(&world);
    let then = then(&world);
    let mount = world.mount("repo", "mnt", &KEY);
    set("changed", "now");
    set("added", "now");
    rustix::fs::removexattr(path("removed"), "user.k").unwrap();
    // Of three names of a file one is left; of others the first is another file.
    for name in ["y", "z", "a"] {
        fs::remove_file(path(name)).unwrap();
    }
    fs::write(path("y"), "another").unwrap();
    fs::write(path("a"), "another").unwrap();
    mount.unmount(&world);
    let said = restore(&world, &["/"], &then);
    assert_eq!(said["left_out"].as_u64(), Some(0));
    assert_eq!(world.ok(&["diff", "repo", &then]), "nothing changed\n");
    let mount = world.mount("repo", "mnt", &KEY);
    assert_eq!(["changed", "removed", "added", "x"].map(get), ["then", "then", "", "then"]);
    let number = |name: &str| fs::metadata(path(name)).unwrap().ino();
    for (of, names) in [("x", ["y", "z"]), ("a", ["b", "c"])] {
        assert_eq!(names.map(number), [number(of); 2]);
        assert_eq!(fs::metadata(path(of)).unwrap().nlink(), 3);
    }
    mount.unmount(&world);
}

/// What can be read is not replaced by what cannot.
#[test]
fn what_is_not_here_is_left_out() {
    let world = World::with_repo();
    fs::write(world.path("source"), noise(3_000_000, 1)).unwrap();
    world.ok(&["put", "repo", "big", "--from", "source"]);
    put(&world, "small", "then");
    let then = then(&world);
    put(&world, "big", "now");
    put(&world, "small", "now");
    let gone: Vec<_> = world.files("repo").into_iter().filter(|path| is_object(path)).collect();
    let aside: Vec<Vec<u8>> = gone.iter().map(|path| fs::read(path).unwrap()).collect();
    for path in &gone {
        fs::remove_file(path).unwrap();
    }
    let said = world.fails(&["restore", "repo", "/", "--at", &then], 3);
    assert!(said.contains("big: its content is not here (yet)"), "{said}");
    assert_eq!(world.ok(&["cat", "repo", "big"]), "now");
    assert_eq!(world.ok(&["cat", "repo", "small"]), "then");
    for (path, bytes) in gone.iter().zip(aside) {
        fs::write(path, bytes).unwrap();
    }
    assert_eq!(restore(&world, &["/"], &then)["left_out"].as_u64(), Some(0));
    world.ok(&["check", "repo", "--read-data"]);
}

fn is_object(path: &Path) -> bool {
    path.to_str().unwrap().contains("/obj/")
}

/// A restore publishes what a crash left first: it took its own head for one that is not here.
#[test]
fn what_a_crash_left_is_published_first() {
    if !has_fuse("restore, after a crash") {
        return;
    }
    let world = World::with_repo();
    put(&world, "f", "one");
    let then = then(&world);
    let mount = world.mount("repo", "mnt", &KEY);
    fs::write(world.path("mnt/f"), "two").unwrap();
    fs::write(world.path("mnt/kept"), "kept").unwrap();
    fs::File::open(world.path("mnt/kept")).unwrap().sync_all().unwrap();
    mount.kill();
    let said = world.ok(&["restore", "repo", "f", "--at", &then]);
    assert!(said.is_empty(), "{said}");
    assert_eq!(world.ok(&["cat", "repo", "f"]), "one");
    assert_eq!(world.ok(&["cat", "repo", "kept"]), "kept");
}
