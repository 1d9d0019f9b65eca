//! Two machines that write to one repository, each through its own copy of the folder, which a
//! sync client carries.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::mounted::has_fuse;
use crate::world::{Mount, World, wait_for};

/// The key of the repository, as arguments.
pub const KEY: [&str; 2] = ["--key-file", "key"];

/// Holds a file and does not open it (open(2), Linux).
const O_PATH: i32 = 0o10_000_000;
/// How long a mount may take to show what has come.
const LIMIT: Duration = Duration::from_secs(40);

/// A repository, and the copy of its folder on another machine.
pub fn two_folders() -> World {
    let world = World::with_repo();
    fs::create_dir(world.path("other")).expect("creates");
    carry(&world, "repo", "other");
    world
}

/// All that is in one folder and not in the other comes there.
pub fn carry(world: &World, from: &str, to: &str) {
    let from = format!("{}/.", world.path(from).display());
    let status = Command::new("cp").arg("-an").arg(from).arg(world.path(to)).status();
    assert!(status.expect("runs").success());
}

/// What the mount at `one` or `two` has is published, and comes into the other folder.
pub fn hand_over(world: &World, mountpoint: &str) {
    world.ok(&["sync", mountpoint]);
    let (from, to) = if mountpoint == "one" { ("repo", "other") } else { ("other", "repo") };
    carry(world, from, to);
}

/// LAPTOP at `one` and PHONE at `two`: each follows the other in its own copy of the folder.
pub fn two_following(world: &World) -> [Mount; 2] {
    [("repo", "one", "LAPTOP"), ("other", "two", "PHONE")].map(|(repo, mountpoint, name)| {
        world.mount(repo, mountpoint, &[&KEY[..], &["--device-name", name]].concat())
    })
}

/// All files below a folder: path and content.
pub fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![folder.to_owned()];
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(&dir).expect("lists") {
            let path = entry.expect("lists").path();
            if path.is_dir() {
                ahead.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("lies below").display().to_string();
                let bytes = fs::read(&path).expect("reads");
                found.insert(name, String::from_utf8_lossy(&bytes).into_owned());
            }
        }
    }
    found
}

#[test]
fn two_machines_write_apart_and_both_have_everything() {
    if !has_fuse("many, apart") {
        return;
    }
    let world = two_folders();
    let one = world.mount("repo", "one", &KEY);
    fs::create_dir(world.path("one/chats")).expect("creates");
    fs::write(world.path("one/chats/both"), "base").expect("writes");
    fs::write(world.path("one/chats/gone"), "base").expect("writes");
    one.unmount(&world);
    carry(&world, "repo", "other");
    let one = world.mount("repo", "one", &KEY);
    let other = world.mount("other", "two", &KEY);
    for (at, name) in ["one", "two"].into_iter().enumerate() {
        fs::write(world.path(&format!("{name}/chats/both")), name).expect("writes");
        fs::write(world.path(&format!("{name}/only-{name}")), name).expect("writes");
        if at == 0 {
            fs::remove_file(world.path("one/chats/gone")).expect("removes");
        }
    }
    one.unmount(&world);
    other.unmount(&world);
    carry(&world, "repo", "other");
    carry(&world, "other", "repo");
    let one = world.mount("repo", "one", &KEY);
    let said = world.log();
    assert!(said.contains("joined") && said.contains("changed on two devices at once"), "{said}");
    let other = world.mount("other", "two", &KEY);
    let (mine, theirs) = (files(&world.path("one")), files(&world.path("two")));
    assert_eq!(mine, theirs);
    let mut both: Vec<&str> = mine.values().map(String::as_str).collect();
    both.sort_unstable();
    assert_eq!(both, ["one", "one", "two", "two"], "{mine:?}");
    assert!(mine.keys().any(|path| path.starts_with("chats/both (from ")), "{mine:?}");
    // Whoever deletes the other version has decided, for both.
    let beside = mine.keys().find(|path| path.contains("(from")).expect("is there").clone();
    fs::remove_file(world.path("one").join(&beside)).expect("removes");
    one.unmount(&world);
    other.unmount(&world);
    carry(&world, "repo", "other");
    let other = world.mount("other", "two", &KEY);
    assert!(!files(&world.path("two")).contains_key(&beside));
    assert_eq!(world.log(), "", "nothing is left to be told");
    other.unmount(&world);
    for repo in ["repo", "other"] {
        world.ok(&["check", repo, "--read-data"]);
    }
}

/// All bytes of an open file.
fn read_all(file: &fs::File) -> String {
    let mut bytes = vec![0; file.metadata().expect("stats").len() as usize];
    file.read_exact_at(&mut bytes, 0).expect("reads");
    String::from_utf8(bytes).expect("is text")
}

/// The newest head file in a folder, by its name.
fn newest_head(repo: &Path, than: &BTreeMap<String, String>) -> std::path::PathBuf {
    let new = files(repo).into_keys().filter(|path| path.contains("/head/"));
    let new = new.filter(|path| !than.contains_key(path));
    repo.join(new.max_by_key(|path| path.rsplit('/').next().map(str::to_owned)).expect("is new"))
}

/// What a device did on another's head was given up by a repair when the sync client took that
/// head away for a while.
#[test]
fn a_repair_does_not_give_up_what_waits_for_a_head() {
    if !has_fuse("many, repairing") {
        return;
    }
    let world = two_folders();
    let one = world.mount("repo", "one", &KEY);
    fs::write(world.path("one/file"), "base").expect("writes");
    one.unmount(&world);
    carry(&world, "repo", "other");
    let before = files(&world.path("other"));
    let other = world.mount("other", "two", &KEY);
    fs::write(world.path("two/file"), "of the other").expect("writes");
    other.unmount(&world);
    carry(&world, "other", "repo");
    let one = world.mount("repo", "one", &KEY);
    fs::write(world.path("one/mine"), "acknowledged").expect("writes");
    fs::File::open(world.path("one/mine")).and_then(|file| file.sync_all()).expect("syncs");
    one.kill();
    let head = newest_head(&world.path("repo"), &before);
    fs::rename(&head, world.path("aside")).expect("moves");
    let said = world.fails(&["check", "repo", "--repair"], 20);
    assert!(said.contains("in its journal only"), "{said}");
    fs::rename(world.path("aside"), &head).expect("moves");
    let one = world.mount("repo", "one", &KEY);
    assert_eq!(fs::read_to_string(world.path("one/mine")).expect("reads"), "acknowledged");
    assert_eq!(fs::read_to_string(world.path("one/file")).expect("reads"), "of the other");
    one.unmount(&world);
}

/// A program that watches a file, or holds it without having it open, kept the kernel from learning
/// its new length: what was appended overwrote what another device had written.
#[test]
fn what_is_appended_here_stands_behind_what_another_machine_wrote() {
    if !has_fuse("many, watched") {
        return;
    }
    let world = two_folders();
    let [one, other] = two_following(&world);
    fs::write(world.path("one/longer"), "short\n").expect("writes");
    fs::write(world.path("one/shorter"), "a text that is long\n").expect("writes");
    hand_over(&world, "one");
    let path = world.path("two/shorter");
    wait_for("the files to be there", LIMIT, || path.exists());
    let watched = ["one/longer", "one/shorter"].map(|name| {
        let held = fs::OpenOptions::new().read(true).custom_flags(O_PATH).open(world.path(name));
        held.expect("opens")
    });
    for name in ["one/longer", "one/shorter"] {
        fs::metadata(world.path(name)).expect("stats");
    }
    fs::write(world.path("two/longer"), "short\nand much more\n").expect("writes");
    fs::write(world.path("two/shorter"), "now short\n").expect("writes");
    hand_over(&world, "two");
    let is_new = || fs::read_to_string(world.path("one/shorter")).is_ok_and(|s| s == "now short\n");
    wait_for("the change to be shown", LIMIT, is_new);
    let longer = world.path("one/longer");
    // The kernel forgets one name after another.
    let has_new_length = || fs::metadata(&longer).expect("stats").len() == 20;
    wait_for("the new length to be shown", LIMIT, has_new_length);
    let append = fs::OpenOptions::new().append(true).open(&longer);
    append.and_then(|mut file| file.write_all(b"appended\n")).expect("appends");
    let all = "short\nand much more\nappended\n";
    assert_eq!(fs::read_to_string(&longer).expect("reads"), all);
    drop(watched);
    one.unmount(&world);
    other.unmount(&world);
    assert_eq!(world.ok(&["cat", "repo", "longer"]), all);
}

#[test]
fn a_mount_that_follows_shows_what_another_machine_wrote() {
    if !has_fuse("many, following") {
        return;
    }
    let world = two_folders();
    let [one, other] = two_following(&world);
    fs::write(world.path("one/file"), "first").expect("writes");
    fs::write(world.path("one/held"), "first").expect("writes");
    hand_over(&world, "one");
    let shows = |path: &str, content: &str| {
        let path = world.path(path);
        wait_for(&format!("{content} in {}", path.display()), LIMIT, || {
            fs::read_to_string(&path).is_ok_and(|found| found == content)
        });
    };
    shows("two/file", "first");
    let names = || fs::read_dir(world.path("two")).expect("lists").count();
    assert_eq!(names(), 2);
    // What the kernel has of it is forgotten: content, length, names.
    fs::write(world.path("one/file"), "second, and longer").expect("writes");
    fs::write(world.path("one/more"), "more").expect("writes");
    hand_over(&world, "one");
    shows("two/file", "second, and longer");
    assert_eq!((names(), fs::metadata(world.path("two/file")).expect("stats").len()), (3, 18));
    // Who has a file open goes on with its version; its path shows the other one.
    let open = |path: &str| {
        fs::File::options().read(true).append(true).open(world.path(path)).expect("opens")
    };
    let (held, written) = (open("one/held"), open("one/file"));
    assert_eq!(read_all(&held), "first");
    for name in ["two/held", "two/file"] {
        fs::write(world.path(name), "by the other").expect("writes");
    }
    fs::remove_file(world.path("two/more")).expect("removes");
    hand_over(&world, "two");
    shows("one/held", "by the other");
    shows("one/file", "by the other");
    assert!(!world.path("one/more").exists());
    assert_eq!(
        (read_all(&held), read_all(&written)),
        ("first".into(), "second, and longer".into())
    );
    assert_eq!(held.metadata().expect("stats").nlink(), 0);
    // What it writes stands beside what the other device wrote.
    (&written).write_all(b" still").expect("writes");
    written.sync_all().expect("syncs");
    assert_eq!(read_all(&written), "second, and longer still");
    let beside = || {
        let names = files(&world.path("one")).into_iter();
        names.filter(|(name, _)| name.starts_with("file (from LAPTOP, ")).collect::<Vec<_>>()
    };
    wait_for("the name to be listed", LIMIT, || beside().len() == 1);
    assert_eq!(beside()[0].1, "second, and longer still");
    drop((held, written));
    assert_eq!(files(&world.path("one")).len(), 3);
    hand_over(&world, "one");
    let theirs = world.path("two").join(&beside()[0].0);
    wait_for("the other device to show it", LIMIT, || theirs.exists());
    assert_eq!(files(&world.path("two")), files(&world.path("one")));
    one.unmount(&world);
    other.unmount(&world);
    for repo in ["repo", "other"] {
        world.ok(&["check", repo, "--read-data"]);
    }
}

/// A database that is open here is not exchanged for another device's, nor is its log.
#[test]
fn an_open_database_waits_for_its_end() {
    if !has_fuse("many, databases") {
        return;
    }
    let world = two_folders();
    let [one, other] = two_following(&world);
    let sql = |path: &str, text: &str| {
        let connection = rusqlite::Connection::open(world.path(path)).expect("opens");
        connection.execute_batch(text).expect("works");
        connection
    };
    drop(sql(
        "one/chat.db",
        "PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)",
    ));
    hand_over(&world, "one");
    wait_for("the database to be there", LIMIT, || world.path("two/chat.db").exists());
    let open = sql("one/chat.db", "SELECT * FROM t");
    drop(sql("two/chat.db", "INSERT INTO t VALUES (2)"));
    hand_over(&world, "two");
    let waits = || world.ok(&["status", "one"]).contains("another device changed chat.db");
    wait_for("status to say so", LIMIT, waits);
    let count = |open: &rusqlite::Connection| -> i64 {
        open.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("reads")
    };
    assert_eq!(count(&open), 1);
    drop(open);
    wait_for("what the other wrote", LIMIT, || count(&sql("one/chat.db", "")) == 2);
    one.unmount(&world);
    other.unmount(&world);
}

/// Who works in a directory goes on there, whatever another device does in it, and also where another
/// device made one of the same name.
/// A directory that was removed here while a program was in it, and into which another machine wrote: it
/// is back, and it was empty until the next mount.
#[test]
fn a_directory_that_is_back_can_be_used() {
    if !has_fuse("many, directories that are back") {
        return;
    }
    let world = two_folders();
    let [one, other] = two_following(&world);
    for name in ["gone", "again"] {
        fs::create_dir(world.path("one").join(name)).expect("makes");
        fs::write(world.path("one").join(name).join("first"), "first").expect("writes");
    }
    hand_over(&world, "one");
    wait_for("the first files", LIMIT, || world.path("two/again/first").exists());
    let mut users = ["gone", "again"].map(|name| {
        let within = world.path("two").join(name);
        Command::new("sleep").arg("600").current_dir(within).spawn().expect("starts")
    });
    for name in ["gone", "again"] {
        fs::remove_dir_all(world.path("two").join(name)).expect("removes");
    }
    fs::create_dir(world.path("two/again")).expect("makes");
    fs::write(world.path("two/again/own"), "own").expect("writes");
    for name in ["gone", "again"] {
        fs::write(world.path("one").join(name).join("new"), "new").expect("writes");
    }
    world.ok(&["sync", "two"]);
    hand_over(&world, "one");
    carry(&world, "other", "repo");
    wait_for("what is back", LIMIT, || world.path("two/gone/new").exists());
    wait_for("what is back beside it", LIMIT, || world.path("two/again/new").exists());
    fs::write(world.path("two/gone/mine"), "mine").expect("writes");
    let expected =
        [("again/new", "new"), ("again/own", "own"), ("gone/mine", "mine"), ("gone/new", "new")];
    let expected = expected.map(|(path, text)| (path.to_owned(), text.to_owned()));
    assert_eq!(files(&world.path("two")), BTreeMap::from(expected.clone()));
    hand_over(&world, "two");
    wait_for("what was written into it", LIMIT, || world.path("one/gone/mine").exists());
    assert_eq!(files(&world.path("one")), BTreeMap::from(expected));
    for user in &mut users {
        user.kill().expect("ends");
        user.wait().expect("ends");
    }
    one.unmount(&world);
    other.unmount(&world);
    for repo in ["repo", "other"] {
        world.ok(&["check", repo, "--read-data"]);
    }
}

#[test]
fn who_works_in_a_directory_goes_on_there() {
    if !has_fuse("many, directories") {
        return;
    }
    let world = two_folders();
    let [one, other] = two_following(&world);
    for (mountpoint, own) in [("one", "laptop"), ("two", "phone")] {
        let folder = world.path(mountpoint).join("D");
        fs::create_dir(&folder).expect("makes");
        fs::write(folder.join(own), own).expect("writes");
    }
    let mut shells = ["one", "two"].map(|mountpoint| {
        let mut shell = Command::new("sh");
        shell.current_dir(world.path(mountpoint).join("D"));
        let shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        (mountpoint, shell.expect("starts"))
    });
    hand_over(&world, "one");
    hand_over(&world, "two");
    for mountpoint in ["one", "two"] {
        for name in ["laptop", "phone"] {
            let path = world.path(mountpoint).join("D").join(name);
            wait_for(&format!("{}", path.display()), LIMIT, || path.exists());
        }
    }
    // Who lists what is above tells the kernel of it once more.
    for mountpoint in ["one", "two"] {
        assert_eq!(fs::read_dir(world.path(mountpoint)).expect("lists").count(), 1);
    }
    // Names in it changed, and its times.
    fs::write(world.path("one/D/more"), "more").expect("writes");
    hand_over(&world, "one");
    wait_for("the new name", LIMIT, || world.path("two/D/more").exists());
    for (mountpoint, shell) in &mut shells {
        let own = world.path(mountpoint).join("D");
        let mut input = shell.stdin.take().expect("piped");
        input.write_all(b"cat laptop phone && /bin/pwd -P && echo x >made && ls").expect("writes");
        drop(input);
        let mut said = String::new();
        shell.stdout.take().expect("piped").read_to_string(&mut said).expect("reads");
        shell.wait().expect("ends");
        let own = own.canonicalize().expect("is there");
        assert_eq!(said, format!("laptopphone{}\nlaptop\nmade\nmore\nphone\n", own.display()));
        fs::remove_file(own.join("made")).expect("removes");
    }
    one.unmount(&world);
    other.unmount(&world);
    for repo in ["repo", "other"] {
        world.ok(&["check", repo, "--read-data"]);
    }
}
