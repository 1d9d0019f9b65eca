//! The devices of a repository: their names, one that is retired, one that was copied, and what
//! each says that it holds of the others.

use std::fs;
use std::time::{Duration, Instant};

use crate::many::{KEY, carry, hand_over, two_folders, two_following};
use crate::mounted::has_fuse;
use crate::world::{Mount, World, copy_tree};

/// One object of JSON for each line that a command prints.
fn objects(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The object that a command prints with `--json`.
fn object(world: &World, arguments: &[&str]) -> serde_json::Value {
    let text = world.ok(&[arguments, &["--json"]].concat());
    let [object] = &objects(&text)[..] else { panic!("{text}") };
    object.clone()
}

/// What LAPTOP wrote in `repo` lies in `other`, too, where PHONE is mounted at `two`.
fn laptop_and_phone(world: &World) -> Mount {
    let one = world.mount("repo", "one", &[&KEY[..], &["--device-name", "LAPTOP"]].concat());
    fs::write(world.path("one/file"), "one").expect("writes");
    one.unmount(world);
    carry(world, "repo", "other");
    world.mount("other", "two", &[&KEY[..], &["--device-name", "PHONE"]].concat())
}

#[test]
fn a_device_has_a_name_that_can_be_changed() {
    if !has_fuse("devices, names") {
        return;
    }
    let world = two_folders();
    let said = world.fails(&["devices", "rename", "other", "PHONE"], 17);
    assert!(said.contains("--device-name"), "{said}");
    let other = laptop_and_phone(&world);
    fs::write(world.path("two/file"), "two").expect("writes");
    world.fails(&["devices", "rename", "other", "TABLET"], 11);
    other.unmount(&world);
    let shown = world.ok(&["devices", "list", "other"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines.iter().any(|line| line.starts_with("LAPTOP (")), "{shown}");
    let own = lines.iter().position(|line| line.starts_with("PHONE (")).expect("is listed");
    assert!(lines[own].ends_with(", this device"), "{shown}");
    let has = lines[own + 2].trim();
    assert!(has.starts_with("has            LAPTOP (") && has.contains("): all up to"), "{shown}");
    let renamed = world.ok(&["devices", "rename", "other", "TABLET"]);
    assert!(renamed.contains("TABLET"), "{renamed}");
    let renamed = object(&world, &["devices", "rename", "other", "TABLET"]);
    assert_eq!((&renamed["message_type"], &renamed["name"]), (&"renamed".into(), &"TABLET".into()));
    let other = world.mount("other", "two", &KEY);
    fs::write(world.path("two/more"), "two").expect("writes");
    other.unmount(&world);
    let listed = objects(&world.ok(&["devices", "list", "other", "--json"]));
    let names: Vec<&str> = listed.iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"TABLET") && names.contains(&"LAPTOP") && names.len() == 2);
    let tablet = listed.iter().find(|device| device["name"] == "TABLET").expect("is listed");
    assert_eq!(tablet["id"], renamed["id"]);
    for bad in ["", "a\nb", &"x".repeat(65)] {
        world.fails(&["devices", "rename", "other", bad], 2);
    }
}

#[test]
fn a_device_that_is_gone_is_retired_and_may_come_back_under_a_new_id() {
    if !has_fuse("devices, retiring") {
        return;
    }
    let world = two_folders();
    let other = laptop_and_phone(&world);
    fs::write(world.path("two/phone"), "two").expect("writes");
    hand_over(&world, "two");
    fs::write(world.path("two/late"), "acknowledged").expect("writes");
    let late = fs::File::open(world.path("two/late")).expect("opens");
    late.sync_all().expect("syncs");
    drop(late);
    other.kill();

    let said = world.fails(&["devices", "retire", "repo", "NOBODY", "--yes"], 2);
    assert!(said.contains("LAPTOP") && said.contains("PHONE"), "{said}");
    let said = world.fails(&["devices", "retire", "repo", "LAPTOP", "--yes"], 2);
    assert!(said.contains("is this device"), "{said}");
    // Nobody can be asked, and nothing is done.
    let said = world.fails(&["devices", "retire", "repo", "PHONE"], 2);
    assert!(said.contains("--yes"), "{said}");
    assert!(!world.ok(&["devices", "list", "repo"]).contains("retired"));
    let said = world.ok(&["devices", "retire", "repo", "PHONE", "--yes"]);
    assert!(said.contains("is retired"), "{said}");
    let said = world.ok(&["devices", "retire", "repo", "PHONE", "--yes"]);
    assert!(said.contains("was retired before"), "{said}");
    let said = object(&world, &["devices", "retire", "repo", "PHONE", "--yes"]);
    assert_eq!((&said["message_type"], &said["new"]), (&"retired".into(), &false.into()));
    let shown = world.ok(&["devices", "list", "repo"]);
    assert!(shown.contains(", retired\n") && shown.contains("takes its place"), "{shown}");

    carry(&world, "repo", "other");
    let said = world.fails(&["put", "other", "x", "--from", "key"], 17);
    assert!(said.contains("retired this device") && said.contains("devices renew"), "{said}");
    let said = world.ok(&["devices", "renew", "other"]);
    assert!(said.contains("this device is PHONE ("), "{said}");
    let said = world.ok(&["devices", "renew", "other"]);
    assert!(said.contains("needs no new id"), "{said}");
    let said = object(&world, &["devices", "renew", "other"]);
    assert_eq!((&said["message_type"], &said["id"]), (&"renewed".into(), &said["before"]));
    carry(&world, "other", "repo");
    for repo in ["repo", "other"] {
        assert_eq!(world.ok(&["cat", repo, "late"]), "acknowledged");
        assert_eq!(world.ok(&["cat", repo, "phone"]), "two");
        world.ok(&["check", repo, "--read-data"]);
    }
}

/// A machine is copied with its disk: the copy, and whoever of the two comes second, is told, and
/// goes on with all that it has.
#[test]
fn a_copied_state_goes_on_under_a_new_id() {
    if !has_fuse("devices, copying") {
        return;
    }
    let world = two_folders();
    let first = ["--state", "first"];
    let second = ["--state", "second", "--adopt"];
    let one = world.mount("repo", "one", &[&KEY[..], &first].concat());
    fs::write(world.path("one/file"), "one").expect("writes");
    one.unmount(&world);
    carry(&world, "repo", "other");
    copy_tree(&world.path("first"), &world.path("second"));
    let one = world.mount("repo", "one", &[&KEY[..], &first].concat());
    fs::write(world.path("one/by-first"), "first").expect("writes");
    one.unmount(&world);
    let two = world.mount("other", "two", &[&KEY[..], &second].concat());
    fs::write(world.path("two/by-second"), "second").expect("writes");
    world.ok(&["sync", "two"]);
    carry(&world, "repo", "other");
    carry(&world, "other", "repo");
    fs::write(world.path("two/late"), "acknowledged").expect("writes");
    fs::File::open(world.path("two/late")).and_then(|file| file.sync_all()).expect("syncs");
    two.kill();
    let own = |arguments: &[&'static str]| [arguments, &["--state", "second"]].concat();
    let said = world.fails(&own(&["put", "other", "x", "--from", "key"]), 17);
    assert!(said.contains("another copy of it") && said.contains("devices renew"), "{said}");
    let said = world.ok(&own(&["devices", "renew", "other"]));
    assert!(said.contains("this device is"), "{said}");
    carry(&world, "other", "repo");
    for path in ["file", "by-first", "by-second", "late"] {
        world.ok(&["cat", "repo", path, "--state", "first"]);
        world.ok(&["cat", "other", path, "--state", "second"]);
    }
    let said = world.fails(&["put", "repo", "x", "--from", "key", "--state", "first"], 17);
    assert!(said.contains("retired this device"), "{said}");
    world.ok(&["devices", "renew", "repo", "--state", "first"]);
    world.ok(&["put", "repo", "x", "--from", "key", "--state", "first"]);
    carry(&world, "repo", "other");
    world.ok(&["put", "other", "y", "--from", "key", "--state", "second"]);
    assert_eq!(world.ok(&["ls", "other"]).lines().count(), 6);
    world.ok(&["check", "other", "--read-data"]);
}

#[test]
fn what_is_elsewhere_is_what_another_device_said() {
    if !has_fuse("devices, elsewhere") {
        return;
    }
    let world = two_folders();
    let [one, other] = two_following(&world);
    fs::write(world.path("one/file"), "one").expect("writes");
    let said = world.fails(&["wait", "one", "--elsewhere"], 20);
    assert!(said.contains("no other device"), "{said}");
    hand_over(&world, "one");
    hand_over(&world, "two");
    fs::write(world.path("one/file"), "two").expect("writes");
    let wait = ["wait", "one", "--elsewhere", "--timeout", "12s", "--device", "PHONE"];
    let said = world.fails(&wait, 20);
    assert!(said.contains("PHONE has not said within"), "{said}");
    // From here on a client carries both ways.
    let mut waiting = world.command(&["wait", "one", "--elsewhere"]).spawn().expect("starts");
    let begin = Instant::now();
    let ended = loop {
        carry(&world, "repo", "other");
        carry(&world, "other", "repo");
        if let Some(ended) = waiting.try_wait().expect("waits") {
            break ended;
        }
        assert!(begin.elapsed() < Duration::from_secs(150), "nobody answered");
        std::thread::sleep(Duration::from_millis(500));
    };
    assert!(ended.success());
    assert_eq!(fs::read_to_string(world.path("two/file")).expect("reads"), "two");
    let said = object(&world, &["wait", "one", "--elsewhere"]);
    assert_eq!((&said["message_type"], &said["name"]), (&"elsewhere".into(), &"PHONE".into()));
    let shown = world.ok(&["status", "one"]);
    assert!(shown.contains("has everything, up to state"), "{shown}");
    // What is written from here on nobody has yet.
    fs::write(world.path("one/file"), "three").expect("writes");
    let shown = world.ok(&["status", "one"]);
    assert!(shown.contains("has what was written before"), "{shown}");
    one.unmount(&world);
    other.unmount(&world);
    let read_only = world.mount("repo", "one", &[&KEY[..], &["-o", "ro"]].concat());
    let said = world.fails(&["wait", "one", "--elsewhere"], 2);
    assert!(said.contains("read-only") && said.contains("the mount that wrote"), "{said}");
    read_only.unmount(&world);
}

/// Who mounts and changes nothing makes files only until each device has said what it holds.
#[test]
fn a_quiet_folder_stays_quiet() {
    if !has_fuse("devices, quiet") {
        return;
    }
    let world = two_folders();
    let heads = || {
        let all = ["repo", "other"].map(|repo| world.files(repo));
        all.iter().flatten().filter(|path| path.to_string_lossy().contains("head")).count()
    };
    let mut counts = Vec::new();
    for round in 0..6 {
        for (repo, mnt, peer) in [("repo", "one", "other"), ("other", "two", "repo")] {
            let mount = world.mount(repo, mnt, &KEY);
            if round == 0 {
                fs::write(world.path(mnt).join("same name"), mnt).expect("writes");
            }
            mount.unmount(&world);
            carry(&world, repo, peer);
        }
        counts.push(heads());
    }
    assert_eq!(counts[3..], [counts[2]; 3], "{counts:?}");
}
