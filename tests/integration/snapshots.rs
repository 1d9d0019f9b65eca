//! Going back to states of the past.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::many::{KEY, files};
use crate::mounted::has_fuse;
use crate::world::{World, noise, wait_for};

/// The states that are listed, the oldest first.
pub fn list(world: &World) -> Vec<Value> {
    let lines = world.ok(&["snapshots", "list", "repo", "--all", "--json"]);
    let mut found: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect();
    found.reverse();
    found
}

pub fn seconds(state: &Value) -> u64 {
    state["time"].as_u64().expect("is a number")
}

/// Waits until a state that is published now has another second than this one.
pub fn wait_beyond(second: u64) {
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(second + 1);
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    std::thread::sleep(left);
}

/// A repository in which these were put one after another, and the time of each, as an argument.
fn written(texts: &[&str]) -> (World, Vec<String>) {
    let world = World::with_repo();
    let mut times = Vec::new();
    for text in texts {
        fs::write(world.path("source"), text).unwrap();
        world.ok(&["put", "repo", "chats/anna", "--from", "source"]);
        let second = seconds(list(&world).last().unwrap());
        times.push(format!("{}Z", utc(second)));
        wait_beyond(second);
    }
    (world, times)
}

pub fn utc(second: u64) -> String {
    let time = jiff::Timestamp::from_second(second as i64).unwrap();
    jiff::tz::TimeZone::UTC.to_datetime(time).to_string()
}

#[test]
fn the_past_is_listed_read_and_extracted() {
    let (world, times) = written(&["one", "two", "three"]);
    let at = |what: &[&str], time: &str| world.ok(&[what, &["--at", time]].concat());
    for (text, time) in ["one", "two", "three"].into_iter().zip(&times) {
        assert_eq!(at(&["cat", "repo", "chats/anna"], time), text);
        assert!(at(&["ls", "repo", "-lR"], time).contains(" 5 ") == (text == "three"));
        at(&["extract", "repo", text], time);
        let back = files(&world.path(text));
        assert_eq!(back.into_values().collect::<Vec<_>>(), [text]);
    }
    // People's words, in the zone of the machine.
    assert_eq!(at(&["cat", "repo", "chats/anna"], "now"), "three");
    let said = world.fails(&["ls", "repo", "--at", "yesterday"], 2);
    assert!(said.contains("nothing was here yet at that time: the oldest state is of"), "{said}");
    for (wrong, why) in [("tomorrow", "a time looks like"), ("2999-01-01", "in the future")] {
        let said = world.fails(&["ls", "repo", "--at", wrong], 2);
        assert!(said.contains(why), "{said}");
    }
    // Of states within the same hour the last is listed; all of them if asked.
    let all = list(&world);
    let shown = world.ok(&["snapshots", "list", "repo"]);
    assert!(shown.lines().count() <= 2 && all.len() == 4, "{shown}{all:?}");
    let newest = all.last().unwrap();
    assert_eq!((newest["inodes"].as_u64(), newest["bytes"].as_u64()), (Some(3), Some(5)));
    assert!(shown.contains(&format!("state {} of ", newest["generation"])), "{shown}");
}

#[test]
fn a_mount_of_the_past_shows_nothing_that_came_later() {
    if !has_fuse("snapshots, mount") {
        return;
    }
    let (world, times) = written(&["one", "two"]);
    // Local state belongs to a mount that writes at the same time.
    let mount = world.mount("repo", "now", &KEY);
    let option = format!("snapshot={}", times[0]);
    let past = world.mount("repo", "past", &[&KEY[..], &["-o", &option]].concat());
    let said = world.log();
    assert!(said.contains("the latest state then is state"), "{said}");
    fs::write(world.path("now/chats/anna"), "three").unwrap();
    world.ok(&["sync", "now"]);
    assert_eq!(fs::read_to_string(world.path("past/chats/anna")).unwrap(), "one");
    let refused = fs::write(world.path("past/chats/anna"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    let status = world.ok(&["status", "past"]);
    assert!(status.contains("as of") && !status.contains("in REPO"), "{status}");
    past.unmount(&world);
    assert_eq!(fs::read_to_string(world.path("now/chats/anna")).unwrap(), "three");
    mount.unmount(&world);
    assert_eq!(list(&world).len(), 4, "the empty one of init, and three");
}

#[test]
fn what_changed_is_told_by_path() {
    let (world, times) = written(&["one", "two"]);
    fs::write(world.path("source"), "new").unwrap();
    world.ok(&["put", "repo", "chats/bob", "--from", "source"]);
    let diff = |times: &[&String]| {
        let times = times.iter().map(|time| time.as_str());
        world.ok(&["diff", "repo"].into_iter().chain(times).collect::<Vec<_>>())
    };
    assert_eq!(diff(&[&times[0], &times[1]]), "changed     chats/anna\n");
    assert_eq!(diff(&[&times[1]]), "added       chats/bob  3 B\n");
    assert_eq!(diff(&[&times[0], &times[0]]), "nothing changed\n");
    let lines = world.ok(&["diff", "repo", &times[0], "--json"]);
    let found: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = found.iter().map(|change| change["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["changed", "added"]);
    assert_eq!((&found[0]["size_before"], &found[1]["path"]), (&3.into(), &"chats/bob".into()));
    let said = world.fails(&["diff", "repo", &times[1], &times[0]], 2);
    assert!(said.contains("the second time is before the first one"), "{said}");
}

/// How many bytes all objects are.
pub fn object_bytes(world: &World) -> u64 {
    let objects =
        world.files("repo").into_iter().filter(|path| path.to_str().unwrap().contains("/obj/"));
    objects.map(|path| fs::metadata(path).unwrap().len()).sum()
}

/// The directory of the newest state below `.snapshots`, and how many there are.
fn newest_in(mount: &Path) -> (PathBuf, usize) {
    let dir = mount.join(".snapshots");
    let mut found: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    found.sort();
    (dir.join(found.last().unwrap()), found.len())
}

/// A state gets a name, and the policy another number, with a mount and without.
#[test]
fn the_owner_says_what_is_kept() {
    let (world, _) = written(&["one", "two"]);
    let policy = |target: &str, args: &[&str]| {
        let told = world.ok(&[&["snapshots", "policy", target, "--json"], args].concat());
        let told: Value = serde_json::from_str(&told).unwrap();
        ["hours", "days", "months"].map(|name| told[name].as_u64().unwrap())
    };
    let before = world.files("repo");
    assert_eq!(policy("repo", &[]), [24, 31, 120]);
    assert_eq!(world.files("repo"), before, "nothing is written to show it");
    assert_eq!(policy("repo", &["--days", "7"]), [24, 7, 120]);
    world.ok(&["snapshots", "add", "repo", "before the trip"]);
    let named = |name: &str| {
        let all = list(&world);
        let found = all.iter().filter(|state| state["label"] == name);
        found.map(|state| state["generation"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(named("before the trip").len(), 1);
    let said = world.fails(&["snapshots", "add", "repo", "before the trip"], 2);
    assert!(said.contains("has the name before the trip already"), "{said}");
    for wrong in ["", "two\nlines", &"x".repeat(256)] {
        let said = world.fails(&["snapshots", "add", "repo", wrong], 2);
        assert!(said.contains("1 to 255 bytes"), "{said}");
    }
    if !has_fuse("snapshots, what the owner says") {
        return;
    }
    let mount = world.mount("repo", "mnt", &KEY);
    // A mount of the past beside it is not asked.
    let past = world.mount("repo", "past", &[&KEY[..], &["-o", "ro"]].concat());
    fs::write(world.path("mnt/chats/anna"), "three").unwrap();
    let told = world.ok(&["snapshots", "add", "repo", "in the mount", "--json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    let state = named("in the mount");
    assert_eq!(state, [told["generation"].as_u64().unwrap()]);
    let said = world.fails(&["snapshots", "add", "mnt", "in the mount"], 2);
    assert!(said.contains("has the name in the mount already"), "{said}");
    assert_eq!(policy("mnt", &[]), [24, 7, 120]);
    assert_eq!(policy("mnt/chats", &["--hours", "0", "--months", "3"]), [0, 7, 3]);
    assert_eq!(policy("repo", &[]), [0, 7, 3]);
    assert_eq!(policy("past", &["--hours", "5"]), [5, 7, 3]);
    past.unmount(&world);
    world.ok(&["snapshots", "add", "mnt", "for a while"]);
    let told = world.ok(&["snapshots", "remove", "mnt", "for a while", "--json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["message_type"], "removed_state");
    assert!(named("for a while").is_empty());
    let said = world.fails(&["snapshots", "remove", "mnt", "for a while"], 2);
    assert!(said.contains("keeps no such state") && said.contains("snapshots list"), "{said}");
    mount.unmount(&world);
    world.ok(&["snapshots", "add", "repo", "for a while"]);
    let told = world.ok(&["snapshots", "list", "repo", "--all", "--sizes", "--json"]);
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let apart = |label: &str| told.iter().find(|of| of["label"] == label).unwrap()["apart"].clone();
    assert_eq!((apart("for a while"), apart("before the trip").is_u64()), (0.into(), true));
    let said = world.ok(&["snapshots", "list", "repo", "--sizes"]);
    assert!(said.contains("in no other"), "{said}");
    world.ok(&["snapshots", "remove", "repo", "for a while"]);
    assert!(named("for a while").is_empty());
    world.fails(&["snapshots", "remove", "repo", "no such state"], 2);
    assert_eq!(policy("repo", &[]), [5, 7, 3]);
    for (name, text) in [("in the mount", "three"), ("before the trip", "two")] {
        assert_eq!(world.ok(&["cat", "repo", "chats/anna", "--at", name]), text);
        let option = format!("snapshot={name}");
        let past = [&KEY[..], &["-o", &option]].concat();
        let past = world.mount("repo", "past", &past);
        assert_eq!(fs::read_to_string(world.path("past/chats/anna")).unwrap(), text);
        past.unmount(&world);
    }
    let changed = world.ok(&["diff", "repo", "before the trip", "in the mount"]);
    assert_eq!(changed, "changed     chats/anna  3 B -> 5 B\n");
    world.fails(&["diff", "repo", "in the mount", "before the trip"], 2);
    let said = world.fails(&["ls", "repo", "--at", "somewhen"], 2);
    assert!(said.contains("no state here has the name somewhen"), "{said}");
    world.ok(&["restore", "repo", "chats/anna", "--at", "before the trip"]);
    assert_eq!(world.ok(&["cat", "repo", "chats/anna"]), "two");
    // Both are listed, and the newest.
    let shown = world.ok(&["snapshots", "list", "repo"]);
    for name in ["\"before the trip\"", "\"in the mount\""] {
        assert!(shown.contains(name), "{shown}");
    }
    world.ok(&["check", "repo", "--read-data"]);
}

/// The very mount, or repository, that is named gets the name, and of several at once each its own.
#[test]
fn a_name_is_given_where_it_is_asked_for() {
    if !has_fuse("snapshots, where a name is given") {
        return;
    }
    let world = World::with_repo();
    let mounts = ["one", "two"].map(|name| {
        let state = format!("state-{name}");
        let options = [&KEY[..], &["--state", &state, "--device-name", name]].concat();
        world.mount("repo", name, &options)
    });
    let device_of = |label: &str| {
        let all = list(&world);
        let found: Vec<&Value> = all.iter().filter(|state| state["label"] == label).collect();
        assert_eq!(found.len(), 1, "{label}: {all:?}");
        found[0]["device"].as_str().unwrap().to_owned()
    };
    for name in ["one", "two"] {
        fs::write(world.path(name).join(name), name).unwrap();
        world.ok(&["snapshots", "add", name, &format!("in {name}")]);
        assert_eq!(device_of(&format!("in {name}")), name);
    }
    let said = world.fails(&["snapshots", "add", "repo", "which"], 2);
    assert!(said.contains("is mounted at") && said.contains("which of these"), "{said}");
    // A repository within a mount.
    world.ok(&["init", "one/inner", "--key-out", "inner-key"]);
    let inner = ["snapshots", "policy", "one/inner", "--hours", "7", "--key-file", "inner-key"];
    assert!(world.run(&inner).status.success());
    let outer = world.ok(&["snapshots", "policy", "one", "--json"]);
    assert!(outer.contains("\"hours\":24"), "{outer}");
    // Three at once, two of them by one name.
    let names = ["first", "second", "second"];
    let added = std::thread::scope(|scope| {
        let world = &world;
        let run = |name| scope.spawn(move || world.run(&["snapshots", "add", "two", name]));
        names.map(run).map(|thread| thread.join().unwrap().status.code().unwrap())
    });
    assert!(added[0] == 0 && (added[1..] == [0, 2] || added[1..] == [2, 0]), "{added:?}");
    assert_eq!([device_of("first"), device_of("second")], ["two", "two"]);
    for mount in mounts {
        mount.unmount(&world);
    }
    world.ok(&["check", "repo", "--read-data"]);
}

/// What was replaced is not needed once no state keeps it. It is given back, and waits.
#[test]
fn a_sweep_gives_back_what_nobody_needs() {
    let world = World::with_repo();
    let put = |seed| {
        fs::write(world.path("source"), noise(3_000_000, seed)).unwrap();
        world.ok(&["put", "repo", "large", "--from", "source"]);
    };
    let dry_run = || -> Value {
        let told = world.ok(&["sweep", "repo", "--dry-run", "--json"]);
        serde_json::from_str(&told).unwrap()
    };
    put(1);
    assert_eq!(dry_run()["unneeded"]["files"], 0);
    world.ok(&["snapshots", "policy", "repo", "--hours", "0", "--days", "0", "--months", "0"]);
    world.ok(&["snapshots", "add", "repo", "first"]);
    put(2);
    put(3);
    let before = world.files("repo");
    let told = dry_run();
    assert_eq!(told["unneeded"]["files"], 1, "the first has a name: {told}");
    assert!(told["unneeded"]["bytes"].as_u64().unwrap() > 3_000_000, "{told}");
    assert!(told["folded"]["files"].as_u64().unwrap() > 0, "{told}");
    let said = world.ok(&["sweep", "repo", "--dry-run"]);
    assert!(said.contains("would be given back") && said.contains("nothing was changed"), "{said}");
    assert_eq!(world.files("repo"), before);
    let refused = world.fails(&["sweep", "repo"], 2);
    assert!(refused.contains("more than a fifth"), "{refused}");
    assert_eq!(world.files("repo"), before);
    let listed = world.ok(&["ls", "repo", "--json"]);
    let swept = || -> Value {
        serde_json::from_str(&world.ok(&["sweep", "repo", "--all", "--json"])).unwrap()
    };
    let told = swept();
    assert!(told["given_back"]["bytes"].as_u64().unwrap() > 3_000_000, "{told}");
    assert_eq!(told["removed"]["files"], 0, "{told}");
    let given_back = told["given_back"]["files"].as_u64();
    let after = world.files("repo");
    assert!(before.iter().all(|file| after.contains(file)), "all wait");
    let told = swept();
    assert_eq!(told["given_back"]["files"], 0, "{told}");
    assert_eq!(told["waiting"]["files"].as_u64(), given_back, "{told}");
    let said = world.ok(&["sweep", "repo"]);
    assert!(said.contains("for 7 more days on which this device runs"), "{said}");
    assert_eq!(world.files("repo"), after, "no head without need");
    assert_eq!(world.ok(&["ls", "repo", "--json"]), listed);
    let past = world.run(&[&["ls", "repo", "--at", "first"], &KEY[..]].concat());
    let said = String::from_utf8_lossy(&past.stderr);
    assert!(past.status.success() && !said.contains("features"), "{said}");
    world.ok(&["check", "repo", "--read-data"]);
    if has_fuse("a sweep while mounted") {
        sweep_a_mount(&world);
    }
}

/// A mount gives back what nobody needs, and keeps what a program has open.
fn sweep_a_mount(world: &World) {
    let mount = world.mount("repo", "mnt", &KEY);
    let run = |args: &[&str]| {
        let ran = world.run(args);
        let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        assert!(ran.status.success(), "{args:?}: {said}");
        said
    };
    let sweep = |args: &[&str]| -> Value {
        serde_json::from_str(&run(&[&["sweep", "mnt", "--json"], args].concat())).unwrap()
    };
    let path = world.path("mnt/open");
    let bytes = noise(3_000_000, 7);
    fs::write(&path, &bytes).unwrap();
    run(&["sync", "mnt"]);
    let mut open = File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let told = sweep(&["--dry-run"]);
    assert_eq!((&told["message_type"], &told["unneeded"]["files"]), (&"sweep".into(), &0.into()));
    let told = sweep(&["--all"]);
    assert!(
        told["given_back"]["bytes"].as_u64() < Some(1_000_000),
        "a program has it open: {told}"
    );
    let mut read = Vec::new();
    open.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    drop(open);
    // The kernel lets go of a file a moment after it was closed.
    let mut told = Value::Null;
    wait_for("the kernel to close it", Duration::from_secs(20), || {
        told = sweep(&["--all"]);
        told["given_back"]["bytes"].as_u64() > Some(3_000_000)
    });
    // It says so in the status, too.
    let status: Value = serde_json::from_str(&run(&["status", "mnt", "--json"])).unwrap();
    assert!(status["given_back"]["files"].as_u64() >= Some(1), "{status}");
    assert_eq!(status["given_back"]["days"], 7, "{status}");
    let said = run(&["status", "mnt"]);
    assert!(said.contains("7 more days"), "{said}");
    mount.unmount(world);
    world.ok(&["check", "repo", "--read-data"]);
}

#[test]
fn the_past_is_in_the_mount() {
    if !has_fuse("snapshots, in the mount") {
        return;
    }
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &KEY);
    let root = world.path("mnt");
    let run = |program: &str, args: &[&str]| {
        let ran = Command::new(program).args(args).current_dir(&root).output().expect("runs");
        (ran.status.success(), String::from_utf8_lossy(&ran.stdout).into_owned())
    };
    fs::create_dir(root.join("chats")).unwrap();
    fs::write(root.join("chats/anna"), noise(3_000_000, 1)).unwrap();
    fs::write(root.join("chats/bob"), "hello").unwrap();
    std::os::unix::fs::symlink("bob", root.join("chats/link")).unwrap();
    world.ok(&["sync", "mnt"]);
    // What was looked for in vain before is found once it is there.
    assert!(!root.join(".snapshots/2000-01-01_00-00-00").exists());
    let (past, states) = newest_in(&root);
    let before = object_bytes(&world);
    fs::write(root.join("chats/bob"), "changed").unwrap();
    fs::remove_file(root.join("chats/anna")).unwrap();
    wait_beyond(seconds(list(&world).last().unwrap()));
    world.ok(&["sync", "mnt"]);
    let name = past.file_name().unwrap().to_str().unwrap().to_owned();
    // It stays as it was, whatever is written, and looks like what it was.
    assert_eq!(fs::read_to_string(past.join("chats/bob")).unwrap(), "hello");
    assert!(fs::read(past.join("chats/anna")).unwrap() == noise(3_000_000, 1));
    assert_eq!(fs::read_link(past.join("chats/link")).unwrap(), Path::new("bob"));
    let (same, told) = run("diff", &["-r", &format!(".snapshots/{name}"), "."]);
    assert!(!same && told.contains("Only in") && told.contains("anna"), "{told}");
    // Who goes through the whole mount does not enter it.
    let (_, all) = run("find", &["."]);
    assert!(!all.contains("snapshots") && all.contains("chats/bob"), "{all}");
    let numbers: Vec<u64> = ["mnt", &format!("mnt/.snapshots/{name}")]
        .into_iter()
        .flat_map(|dir| [dir.to_owned(), format!("{dir}/chats"), format!("{dir}/chats/bob")])
        .map(|path| fs::metadata(world.path(&path)).unwrap().ino())
        .collect();
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), 6, "{numbers:?}");
    for refused in [
        fs::write(past.join("chats/bob"), "x").unwrap_err(),
        fs::remove_file(past.join("chats/bob")).unwrap_err(),
        fs::create_dir(root.join(".snapshots/x")).unwrap_err(),
        fs::rename(root.join("chats"), past.join("y")).unwrap_err(),
        fs::hard_link(past.join("chats/bob"), root.join("y")).unwrap_err(),
    ] {
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS), "{refused}");
    }
    // What is copied back is in the repository already.
    assert!(run("cp", &["-a", &format!(".snapshots/{name}/chats/anna"), "chats/anna"]).0);
    assert!(run("rsync", &["-a", &format!(".snapshots/{name}/chats/"), "back/"]).0);
    assert!(run("diff", &["-r", &format!(".snapshots/{name}/chats"), "back"]).0);
    world.ok(&["sync", "mnt"]);
    assert_eq!(object_bytes(&world), before, "no object was written for it");
    wait_for("the new state to be listed", Duration::from_secs(10), || {
        newest_in(&root).0 != past && newest_in(&root).1 >= states
    });
    let (newest, _) = newest_in(&root);
    assert!(run("diff", &["-r", "--exclude=.snapshots", newest.to_str().unwrap(), "."]).0);
    mount.unmount(&world);
    world.ok(&["check", "repo", "--read-data"]);
}
