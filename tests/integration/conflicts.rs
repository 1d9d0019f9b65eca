//! What people are shown of files that two machines changed at once, and how they settle it.

use std::fs;

use serde_json::Value;

use crate::many::{KEY, carry, files, two_folders};
use crate::mounted::has_fuse;
use crate::world::World;

/// Each machine writes in its own mount, apart from the other, after `begin` in the first one.
/// Then each has what both wrote.
fn apart(begin: &[&str], write: impl Fn(&World, &str)) -> World {
    let world = two_folders();
    let one = world.mount("repo", "one", &KEY);
    fs::create_dir(world.path("one/chats")).expect("creates");
    for name in begin {
        fs::write(world.path("one/chats").join(name), "base").expect("writes");
    }
    one.unmount(&world);
    carry(&world, "repo", "other");
    for (repo, mnt) in [("repo", "one"), ("other", "two")] {
        let mount = world.mount(repo, mnt, &KEY);
        write(&world, mnt);
        mount.unmount(&world);
    }
    exchange(&world);
    world
}

fn exchange(world: &World) {
    carry(world, "repo", "other");
    carry(world, "other", "repo");
}

/// The conflicts that a machine lists.
fn list(world: &World, arguments: &[&str]) -> Vec<Value> {
    let all = [&["conflicts", "list"], arguments, &["--json"]].concat();
    let lines = world.ok(&all);
    lines.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect()
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} in {value}"))
}

#[test]
fn versions_of_a_file_are_listed_and_one_is_kept_for_both_machines() {
    if !has_fuse("conflicts, versions") {
        return;
    }
    let world = apart(&["both.txt", "other.txt"], |world, mnt| {
        fs::write(world.path(mnt).join("chats/both.txt"), format!("of {mnt}")).expect("writes");
    });
    let all = list(&world, &["repo"]);
    assert_eq!(all.len(), 1, "{all:?}");
    let path = text(&all[0], "path").to_owned();
    assert!(path.starts_with("chats/both (from "), "{path}");
    assert_eq!((text(&all[0], "kind"), text(&all[0], "of")), ("version", "chats/both.txt"));
    assert_eq!(text(&all[0], "message_type"), "conflict");
    assert_eq!(text(&all[0], "device_id").len(), 32);
    assert!(path.contains(text(&all[0], "device")) && all[0]["time"].as_i64() > Some(1_000_000));
    assert_eq!(list(&world, &["other"]), all, "both machines find the same");
    let shown = world.ok(&["conflicts", "list", "repo"]);
    let words = format!("{path}\n  another version of chats/both.txt, from ");
    assert!(shown.starts_with(&words), "{shown}");
    // What is asked for, and nothing else.
    for (scope, count) in [("chats", 1), ("/chats/both.txt", 1), ("chats/other.txt", 0)] {
        assert_eq!(list(&world, &["repo", scope]).len(), count, "{scope}");
    }
    assert_eq!(world.ok(&["conflicts", "list", "repo", "chats/other.txt"]), "no conflicts\n");
    world.fails(&["conflicts", "list", "repo", "none"], 1);

    let said = world.fails(&["conflicts", "keep", "repo", "chats/other.txt"], 1);
    assert!(said.contains("no other version") && said.contains("conflicts list"), "{said}");
    world.fails(&["conflicts", "keep", "repo", "chats"], 1);
    world.fails(&["conflicts", "keep", "repo", "/"], 1);
    world.fails(&["conflicts", "keep", "repo", "none"], 1);
    let mount = world.mount("repo", "one", &KEY);
    let said = world.fails(&["conflicts", "keep", "repo", &path], 11);
    assert!(said.contains("in the mount, deleting the other versions"), "{said}");
    mount.unmount(&world);
    assert_eq!(list(&world, &["repo"]), all, "nothing was changed");

    let kept = world.ok(&["cat", "repo", &path]);
    let said = world.ok(&["conflicts", "keep", "repo", &path, "--json"]);
    let said: Value = serde_json::from_str(&said).expect("is JSON");
    assert_eq!((text(&said, "message_type"), text(&said, "path")), ("kept", "chats/both.txt"));
    assert_eq!(said["removed"], serde_json::json!(["chats/both.txt"]));
    exchange(&world);
    for repo in ["repo", "other"] {
        assert_eq!(world.ok(&["conflicts", "list", repo]), "no conflicts\n");
        assert_eq!(world.ok(&["ls", repo, "chats"]), "chats/both.txt\nchats/other.txt\n");
        assert_eq!(world.ok(&["cat", repo, "chats/both.txt"]), kept);
        world.ok(&["check", repo, "--read-data"]);
    }
}

/// The log of one version never stands beside the database of the other.
#[test]
fn a_database_is_kept_with_its_own_log() {
    if !has_fuse("conflicts, databases") {
        return;
    }
    for keeps_plain in [false, true] {
        let world = apart(&["chat.db", "chat.db-wal"], |world, mnt| {
            for name in ["chat.db", "chat.db-wal"] {
                let path = world.path(mnt).join("chats").join(name);
                fs::write(path, format!("{name} of {mnt}")).expect("writes");
            }
            let index = world.path(mnt).join("chats/chat.db-shm");
            (mnt == "one").then(|| fs::write(index, "of one").expect("writes"));
        });
        let all = list(&world, &["repo"]);
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!((text(&all[0], "kind"), text(&all[0], "of")), ("version", "chats/chat.db"));
        let path = if keeps_plain { "chats/chat.db" } else { text(&all[0], "path") };
        let kept = world.ok(&["cat", "repo", path]);
        world.ok(&["conflicts", "keep", "repo", path]);
        carry(&world, "repo", "other");
        let other = world.mount("other", "two", &KEY);
        let mut found = files(&world.path("two/chats"));
        assert_eq!(found.remove("chat.db"), Some(kept.clone()));
        let log = kept.replace("chat.db", "chat.db-wal");
        assert_eq!(found.remove("chat.db-wal"), Some(log), "{kept} has its own log");
        assert_eq!(found.remove("chat.db-shm").is_some(), kept.ends_with("one"), "{kept}");
        assert!(found.is_empty(), "{found:?}");
        other.unmount(&world);
        assert_eq!(list(&world, &["other"]), [Value::Null; 0]);
        world.ok(&["check", "other", "--read-data"]);
    }
}

#[test]
fn who_edits_deletes_or_renames_a_version_in_the_mount_has_settled_it() {
    if !has_fuse("conflicts, settled in the mount") {
        return;
    }
    let names = ["edited", "deleted", "renamed"];
    let world = apart(&names, |world, mnt| {
        for name in names {
            let path = world.path(mnt).join("chats").join(name);
            fs::write(path, format!("of {mnt}")).expect("writes");
        }
    });
    let all = list(&world, &["repo"]);
    assert_eq!(all.len(), 3, "{all:?}");
    let of = |name: &str| {
        let is_it = |one: &&Value| text(one, "of").ends_with(name);
        world.path("one").join(text(all.iter().find(is_it).expect("is listed"), "path"))
    };
    let one = world.mount("repo", "one", &KEY);
    fs::write(of("edited"), "by people").expect("writes");
    fs::remove_file(of("deleted")).expect("removes");
    fs::rename(of("renamed"), world.path("one/chats/mine")).expect("renames");
    one.unmount(&world);
    exchange(&world);
    for repo in ["repo", "other"] {
        assert_eq!(world.ok(&["conflicts", "list", repo]), "no conflicts\n");
    }
    assert_eq!(world.ok(&["ls", "repo", "chats"]).lines().count(), 5);
}

/// Without a mount: each machine makes another file of one name.
#[test]
fn of_two_files_with_one_name_one_is_kept() {
    for keeps_plain in [false, true] {
        let world = two_folders();
        for (repo, bytes) in [("repo", "of one"), ("other", "of two")] {
            fs::write(world.path("notes"), bytes).expect("writes");
            world.ok(&["put", repo, "notes", "--from", "notes"]);
        }
        exchange(&world);
        let all = list(&world, &["repo"]);
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!((text(&all[0], "kind"), text(&all[0], "of")), ("name", "notes"));
        // Somebody stores what was joined, and goes on.
        world.ok(&["put", "other", "notes", "--from", "key"]);
        carry(&world, "other", "repo");
        assert_eq!(list(&world, &["repo"]), all);
        let path = if keeps_plain { "notes" } else { text(&all[0], "path") };
        let kept = world.ok(&["cat", "repo", path]);
        world.ok(&["conflicts", "keep", "repo", path]);
        carry(&world, "repo", "other");
        for repo in ["repo", "other"] {
            assert_eq!(world.ok(&["ls", repo]), "notes\n");
            assert_eq!(world.ok(&["cat", repo, "notes"]), kept);
            assert_eq!(list(&world, &[repo]), [Value::Null; 0]);
        }
    }
}

#[test]
fn what_cannot_have_the_plain_name_is_not_kept() {
    if !has_fuse("conflicts, refused") {
        return;
    }
    let world = apart(&["linked"], |world, mnt| {
        let path = |name: &str| world.path(mnt).join("chats").join(name);
        fs::write(path("linked"), format!("of {mnt}")).expect("writes");
        if mnt == "one" {
            fs::write(path("what"), "a file").expect("writes");
            fs::write(path("chat.db"), "a database").expect("writes");
        } else {
            fs::create_dir(path("what")).expect("creates");
            fs::write(path("chat.db-wal"), "no log of it").expect("writes");
        }
    });
    let one = world.mount("repo", "one", &KEY);
    let linked = world.path("one/chats/linked");
    fs::hard_link(linked, world.path("one/chats/again")).expect("links");
    one.unmount(&world);
    let all = list(&world, &["repo"]);
    let kinds: Vec<&str> = all.iter().map(|one| text(one, "kind")).collect();
    assert_eq!(kinds, ["side_file", "version", "name"], "{all:?}");
    for (one, said) in
        all.iter().zip(["must not stand beside it", "has other names too", "a directory has this"])
    {
        let found = world.fails(&["conflicts", "keep", "repo", text(one, "path")], 1);
        assert!(found.contains(said), "{found}");
    }
    assert_eq!(list(&world, &["repo"]), all);
    // The plain file may be kept whatever names it has.
    world.ok(&["conflicts", "keep", "repo", "chats/linked"]);
    assert_eq!(list(&world, &["repo"]).len(), 2);
}

#[test]
fn a_repository_that_is_new_has_no_conflicts() {
    let world = World::with_repo();
    assert_eq!(world.ok(&["conflicts", "list", "repo"]), "no conflicts\n");
    assert_eq!(world.ok(&["conflicts", "list", "repo", "/", "--quiet"]), "");
    world.fails(&["conflicts", "list", "repo", "../x"], 2);
}
