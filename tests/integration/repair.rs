//! `check --repair` as people run it. What it does to trees is tested in
//! `src/fs/tests_repair.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::world::{World, noise, settle};

/// Two files, each with an object and a head of its own, and a third small one.
fn world() -> World {
    let world = World::with_repo();
    for (name, seed) in [("one", 1), ("two", 2)] {
        fs::write(world.path(name), noise(3 << 20, seed)).unwrap();
        world.ok(&["put", "repo", &format!("/dir/{name}"), "--from", name]);
    }
    fs::write(world.path("three"), b"three").unwrap();
    world.ok(&["put", "repo", "/three", "--from", "three"]);
    world
}

/// Files of REPO whose path has this part, in order.
fn parts(world: &World, part: &str) -> Vec<PathBuf> {
    let mut files = world.files("repo");
    files.retain(|path| path.to_str().unwrap().contains(part));
    files.sort();
    files
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
    settle(path);
}

fn content(world: &World, path: &str) -> Option<Vec<u8>> {
    let output = world.run(&["cat", "repo", path, "--key-file", "key"]);
    output.status.success().then_some(output.stdout)
}

fn repair(world: &World) -> (i32, String) {
    let output = world.run(&["check", "repo", "--repair", "--key-file", "key"]);
    let said = [output.stderr, output.stdout].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

fn snapshot(world: &World) -> Vec<(PathBuf, Vec<u8>)> {
    world.files("repo").into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn a_whole_repository_is_left_as_it_is() {
    let world = world();
    let before = snapshot(&world);
    assert_eq!(repair(&world), (0, "nothing to repair\n".into()));
    assert!(before == snapshot(&world));
    let said = world.fails(&["check", "repo", "--repair", "--no-key"], 2);
    assert!(said.contains("--no-key"), "{said}");
    fs::write(world.path("wrong"), "0".repeat(64)).unwrap();
    let output = world.run(&["check", "repo", "--repair", "--key-file", "wrong"]);
    assert!(output.status.code() == Some(2) || output.status.code() == Some(12));
    assert!(before == snapshot(&world));
}

#[test]
fn a_header_is_written_anew() {
    let world = world();
    let header = parts(&world, "/amberfs-").remove(0);
    for harm in ["removed", "emptied", "flipped"] {
        match harm {
            "removed" => fs::remove_file(&header).unwrap(),
            "emptied" => fs::write(&header, "").unwrap(),
            _ => {
                let mut bytes = fs::read(&header).unwrap();
                bytes[0] ^= 1;
                fs::write(&header, bytes).unwrap();
            }
        }
        if harm != "removed" {
            let (code, said) = repair(&world);
            assert!(code == 20 && said.contains("still arriving"), "{harm}: {code} {said}");
            settle(&header);
        }
        world.fails(&["check", "repo"], 26);
        let (code, said) = repair(&world);
        assert!(code == 0 && said.contains("is written anew"), "{harm}: {code} {said}");
        world.ok(&["check", "repo", "--read-data"]);
        // It opens without any head.
        fs::create_dir(world.path("alone")).unwrap();
        let name = header.file_name().unwrap();
        fs::copy(&header, world.path("alone").join(name)).unwrap();
        assert_eq!(world.ok(&["ls", "alone"]), "");
        fs::remove_dir_all(world.path("alone")).unwrap();
    }
}

#[test]
fn a_damaged_object_costs_its_file_only_and_writing_it_again_heals() {
    let world = world();
    // The content of one of the files, whichever it is.
    let object = parts(&world, "/obj/").remove(0);
    let whole = fs::read(&object).unwrap();
    flip(&object);
    let (code, said) = repair(&world);
    assert_eq!(code, 26, "{said}");
    assert!(said.contains("lost content: dir/"), "{said}");
    assert!(said.contains("1 files lost content; all others can be read"), "{said}");
    assert!(object.exists(), "what is damaged stays where it is");
    let lost = if said.contains("dir/one") { "one" } else { "two" };
    let other = if lost == "one" { "two" } else { "one" };
    assert_eq!(content(&world, &format!("dir/{lost}")), None);
    assert!(content(&world, &format!("dir/{other}")) == fs::read(world.path(other)).ok());
    assert_eq!(content(&world, "three"), Some(b"three".into()));

    // That the damage is known does not make the file whole.
    for options in [&["check", "repo"][..], &["check", "repo", "--read-data"]] {
        let said = world.fails(options, 26);
        let line = said.lines().find(|line| line.starts_with(&format!("damage: dir/{lost}: ")));
        let end = format!(" of {} bytes are damaged", 3 << 20);
        assert!(line.is_some_and(|line| line.ends_with(&end)), "{options:?}: {said}");
    }
    let harmed = fs::read(&object).unwrap();
    fs::write(&object, whole).unwrap();
    world.ok(&["check", "repo", "--read-data"]);
    assert!(content(&world, &format!("dir/{lost}")) == fs::read(world.path(lost)).ok());
    fs::write(&object, harmed).unwrap();
    settle(&object);
    let (code, again) = repair(&world);
    assert!(code == 26 && !again.contains("repaired:"), "nothing is left to do: {again}");
    world.ok(&["put", "repo", &format!("/dir/{lost}"), "--from", lost]);
    assert!(content(&world, &format!("dir/{lost}")) == fs::read(world.path(lost)).ok());
    world.ok(&["check", "repo", "--read-data"]);
    assert_eq!(repair(&world).0, 0);
}

#[test]
fn without_its_newest_head_it_goes_on_from_the_one_before() {
    let world = world();
    let heads = parts(&world, "/head/");
    flip(heads.last().unwrap());
    world.fails(&["put", "repo", "/three", "--from", "three"], 26);
    let (code, said) = repair(&world);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("went on without what cannot be had"), "{said}");
    assert!(said.contains(".before-repair-"), "the old state is named: {said}");
    let states = fs::read_dir(world.path("state/amberfs")).unwrap();
    let names = states.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.contains(".before-repair-")).count(), 1);
    assert_eq!(world.ok(&["ls", "repo", "-R"]), "dir\ndir/one\ndir/two\n");
    world.ok(&["put", "repo", "/three", "--from", "three"]);
    world.ok(&["check", "repo", "--read-data"]);
    assert_eq!(content(&world, "three"), Some(b"three".into()));
    // Another device, which knows nothing of it all.
    assert_eq!(
        world.ok(&["ls", "repo", "-R", "--state", "other"]),
        "dir\ndir/one\ndir/two\nthree\n"
    );

    // The head was removed, not damaged: this device has seen it.
    let newest = parts(&world, "/head/")
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
    fs::remove_file(newest.unwrap()).unwrap();
    // Set aside once more.
    world.fails(&["put", "repo", "/four", "--from", "three"], 27);
    let (code, said) = repair(&world);
    assert_eq!(code, 0, "{said}");
    world.ok(&["put", "repo", "/four", "--from", "three"]);
    assert_eq!(world.ok(&["ls", "repo", "-R"]), "dir\ndir/one\ndir/two\nfour\n");
}

#[test]
fn what_is_still_arriving_is_not_given_up() {
    let world = world();
    for part in ["/head/", "/obj/"] {
        let path = parts(&world, part).remove(0);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let before = snapshot(&world);
        let (code, said) = repair(&world);
        assert!(code == 20 && said.contains("still arriving"), "{code} {said}");
        assert!(before == snapshot(&world));
        fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn conflict_copies_go_to_their_place() {
    let world = world();
    for part in ["/head/", "/obj/"] {
        for removed in [true, false] {
            let path = parts(&world, part).remove(0);
            let copy = path.with_extension("sync-conflict-20261123-101112-ABCDEFG.amb");
            let bytes = fs::read(&path).unwrap();
            fs::rename(&path, &copy).unwrap();
            settle(&copy);
            if !removed {
                fs::write(&path, "something else").unwrap();
                settle(&path);
            }
            let (code, said) = repair(&world);
            assert!(code == 0 && said.contains("is put back from"), "{code} {said}");
            assert!(fs::read(&path).unwrap() == bytes);
            fs::remove_file(&copy).unwrap();
            world.ok(&["check", "repo", "--read-data"]);
        }
    }
}

#[test]
fn lost_files_are_told_in_json_too() {
    let world = world();
    for object in parts(&world, "/obj/") {
        fs::remove_file(object).unwrap();
    }
    let output = world.run(&["check", "repo", "--repair", "--json", "-q", "--key-file", "key"]);
    assert_eq!(output.status.code(), Some(26));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines =
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let summary = lines.find(|line| line["message_type"] == "summary").unwrap();
    let lost: Vec<_> = summary["lost"].as_array().unwrap().iter().map(|l| &l["path"]).collect();
    assert_eq!(lost, ["dir/one", "dir/two"]);
    assert_eq!(summary["lost"][0]["size"], 3 << 20);
}
