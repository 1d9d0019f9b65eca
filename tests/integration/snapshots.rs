//! Going back to states of the past.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::many::{KEY, files};
use crate::mounted::has_fuse;
use crate::world::World;

/// The states that are listed, the oldest first.
fn list(world: &World) -> Vec<Value> {
    let lines = world.ok(&["snapshots", "list", "repo", "--all", "--json"]);
    let mut found: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect();
    found.reverse();
    found
}

fn seconds(state: &Value) -> u64 {
    state["time"].as_u64().expect("is a number")
}

/// Waits until a state that is published now has another second than this one.
fn wait_beyond(second: u64) {
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

fn utc(second: u64) -> String {
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
