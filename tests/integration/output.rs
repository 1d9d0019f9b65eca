//! What programs say: where it cannot be written, and what must not reach a terminal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use crate::world::World;

/// All that makes a terminal or a log do something: ESC, BEL, CSI in C1, DEL, line ends, an
/// override of direction, and the separators of Unicode.
const STEERING: &str =
    "a\u{1b}]0;x\u{7}b\u{9b}31mc\u{7f}d\ne\rf\u{202e}g\u{2066}h\u{2028}i\u{200f}j";

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn full() -> fs::File {
    fs::File::options().write(true).open("/dev/full").unwrap()
}

/// Commands that write to standard output.
const WRITING: [&[&str]; 9] = [
    &["key", "show", "repo", "--key-file", "key"],
    &["key", "sheet", "repo", "--key-file", "key"],
    &["ls", "repo", "--key-file", "key"],
    &["ls", "repo", "--key-file", "key", "--json"],
    &["cat", "repo", "file", "--key-file", "key"],
    &["check", "repo", "--no-key", "--json"],
    &["completions", "bash"],
    &["--help"],
    &["--version"],
];

fn world() -> World {
    let world = World::with_repo();
    fs::write(world.path("file"), b"content").unwrap();
    world.ok(&["put", "repo", "/file", "--from", "file"]);
    world
}

/// They ended as internal errors (101), or without a word.
#[test]
fn an_output_without_room_is_told_and_no_internal_error() {
    let world = world();
    for arguments in WRITING {
        let output = world.command(arguments).stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(28), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains("standard output: No space"), "{}", said(&output));
    }
    let vault = env!("CARGO_BIN_EXE_amberfs-vault");
    for arguments in [&["--help"][..], &["init", "vault"]] {
        let output = world.program(vault, arguments).stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(28), "{arguments:?}: {}", said(&output));
    }
}

/// The standard library puts `/dev/null` there, so what was asked for went nowhere with 0.
#[test]
fn an_output_that_is_closed_is_told() {
    let world = world();
    let closed = |program: &str, arguments: &[&str]| {
        let mut shell = world.program("/bin/sh", &["-c", "exec \"$0\" \"$@\" >&-", program]);
        shell.args(arguments).output().unwrap()
    };
    for arguments in WRITING {
        let output = closed(env!("CARGO_BIN_EXE_amberfs"), arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains("standard output: Bad file"), "{}", said(&output));
    }
    assert_eq!(closed(env!("CARGO_BIN_EXE_amberfs-vault"), &["--help"]).status.code(), Some(1));
    // What says nothing there does not need it, and `/dev/null` is somebody's wish.
    let quiet = ["key", "verify", "repo", "--key-file", "key"];
    assert_eq!(closed(env!("CARGO_BIN_EXE_amberfs"), &quiet).status.code(), Some(0));
    let null = fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    assert!(world.command(WRITING[0]).stdout(null).status().unwrap().success());
}

/// A message that cannot be written was an internal error in the middle of the work.
#[test]
fn messages_without_room_change_nothing() {
    let world = world();
    fs::create_dir(world.path("folder")).unwrap();
    fs::write(world.path("folder/file"), b"content").unwrap();
    for arguments in [
        &["put", "repo", "/", "--from", "folder", "--key-file", "key"][..],
        &["key", "verify", "repo", "--key-file", "key"],
        &["check", "repo", "--key-file", "key"],
        &["init", "other", "--key-out", "other.key"],
    ] {
        let status = world.command(arguments).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(0), "{arguments:?}");
    }
    let status = world.command(&["surprise"]).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(2));
    // Nobody reads messages: the command goes on.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let arguments = ["key", "verify", "repo", "--key-file", "key"];
    let status = world.command(&arguments).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

fn steers(text: &str) -> Option<char> {
    text.chars().find(|&c| c != '\n' && amberfs::io::steers(c))
}

/// Names went to terminals and logs as they were.
#[test]
fn nothing_that_steers_reaches_a_terminal() {
    let world = world();
    let spoiled = STEERING.replace('\n', "");
    let below = world.path(&spoiled);
    fs::create_dir(&below).unwrap();
    let file = below.join("file");
    fs::write(&file, b"x").unwrap();
    fs::set_permissions(&below, fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir_all(world.path("repo").join(STEERING)).unwrap();
    for arguments in [
        &["ls", STEERING, "--key-file", "key"][..],
        &["ls", "repo", STEERING, "--key-file", "key"],
        &["ls", "repo", "--key-file", STEERING],
        &["cat", "repo", STEERING, "--key-file", "key"],
        &["extract", "repo", STEERING, STEERING, "--key-file", "key"],
        &["put", "repo", "/", "--from", STEERING, "--key-file", "key"],
        &["mount", "repo", STEERING, "--key-file", "key"],
        &["mount", "repo", "mnt", "-o", STEERING, "--key-file", "key"],
        &["mount", "repo", "mnt", "--log-file", STEERING, "--key-file", "key"],
        &["umount", STEERING],
        &["status", STEERING],
        &["check", "repo", "--no-key"],
        &["init", STEERING, "--key-out", "/nowhere/\u{9b}key"],
        &["key", "show", "repo", "--vault", STEERING, "--key-file", STEERING],
        &[STEERING],
        &["ls", "repo", &format!("--{STEERING}")],
        &["ls", "repo", "--verbose", &format!("--jso{STEERING}")],
        &["completions", STEERING],
    ] {
        let output = world.run(arguments);
        let told = said(&output);
        assert_eq!(steers(&told), None, "{arguments:?}: {told:?}");
        // Each line is one of ours: none begins in the middle of a name.
        assert!(!told.lines().any(|line| line.starts_with("e?f")), "{arguments:?}: {told:?}");
        let mut json = arguments.to_vec();
        json.push("--json");
        let output = world.run(&json);
        let told =
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(steers(&told), None, "{json:?}: {told:?}");
    }
    let vault = env!("CARGO_BIN_EXE_amberfs-vault");
    for arguments in
        [&["status", STEERING][..], &["record", "list", STEERING, STEERING], &[STEERING]]
    {
        let told = said(&world.program(vault, arguments).output().unwrap());
        assert_eq!(steers(&told), None, "{arguments:?}: {told:?}");
        assert!(!told.lines().any(|line| line.starts_with("e?f")), "{arguments:?}: {told:?}");
    }
}

/// What a variable says is from outside too.
#[test]
fn variables_reach_no_terminal_as_they_are() {
    let world = world();
    let mut command = world.command(&["ls", "repo"]);
    let output = command.env("AMBERFS_KEY_FILE", STEERING).output().unwrap();
    assert_eq!(steers(&said(&output)), None, "{:?}", said(&output));
    let mut command = world.command(&["put", "repo", "/x", "--key-file", "key"]);
    let output = command.env("AMBERFS_STATE", "key/\u{9b}\n\u{202e}").output().unwrap();
    assert!(!output.status.success());
    assert_eq!(steers(&said(&output)), None, "{:?}", said(&output));
    assert_eq!(said(&output).lines().count(), 1, "{:?}", said(&output));
}

/// In a pipe `ls` gives names as they are, for programs; in JSON they are escaped and exact.
#[test]
fn names_are_exact_for_programs_and_shown_for_people() {
    let world = world();
    let odd = "odd\n\u{1b}[31m\u{9b}\u{202e}";
    fs::create_dir(world.path("folder")).unwrap();
    fs::write(world.path("folder").join(odd), b"content").unwrap();
    world.ok(&["put", "repo", "/", "--from", "folder"]);
    assert!(world.ok(&["ls", "repo"]).contains(odd));
    let json = world.ok(&["ls", "repo", "--json"]);
    assert_eq!(steers(&json), None, "{json:?}");
    let paths: Vec<String> = json
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|node| node["path"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(paths, ["file", odd]);
    // On a terminal.
    let line = format!("{} ls repo --key-file key", env!("CARGO_BIN_EXE_amberfs"));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(world.path(""));
    let output = script.stdin(Stdio::null()).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n");
    assert_eq!(steers(&shown), None, "{shown:?}");
    assert!(shown.contains("odd??[31m??"), "{shown:?}");
}

/// The key was lost, and the repository stayed.
#[test]
fn init_makes_all_or_nothing() {
    let world = World::new();
    let state = world.path("state");
    let nothing = |what: &str| {
        assert!(!world.path("above").exists(), "{what}: the folder stays");
        assert!(!world.path("key").exists(), "{what}: the key file stays");
        let states = fs::read_dir(state.join("amberfs")).map_or(0, |entries| {
            entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
        });
        assert_eq!(states, 0, "{what}: local state stays");
    };
    let output = world.command(&["init", "above/repo"]).stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(28), "{}", said(&output));
    nothing("a full output");
    let line = "exec \"$0\" \"$@\" >&-";
    let amberfs = env!("CARGO_BIN_EXE_amberfs");
    let mut shell = world.program("/bin/sh", &["-c", line, amberfs, "init", "above/repo"]);
    assert_eq!(shell.output().unwrap().status.code(), Some(1));
    nothing("no output");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = world.command(&["init", "above/repo"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(141), "{}", said(&output));
    nothing("no reader");
    let json = ["init", "above/repo", "--key-out", "key", "--json"];
    assert_eq!(world.command(&json).stdout(full()).status().unwrap().code(), Some(28));
    nothing("a full output for JSON");
    // Local state cannot be made: the key was shown for nothing, and that is said.
    fs::write(world.path("file"), "").unwrap();
    let output = world.run(&["init", "above/repo", "--state", "file/state"]);
    assert!(!output.status.success());
    assert!(said(&output).contains("opens nothing"), "{}", said(&output));
    nothing("no local state");
    world.fails(&["init", "above/repo", "--key-out", "key", "--state", "file/state"], 1);
    nothing("no local state, and a key file");
    // A folder that was there stays, with what is in it of others.
    fs::create_dir(world.path("there")).unwrap();
    world.fails(&["init", "there", "--key-out", "key", "--state", "file/state"], 1);
    assert!(fs::read_dir(world.path("there")).unwrap().next().is_none());
    // With room all is as before: the key that was shown opens.
    let output = world.run(&["init", "above/repo"]);
    assert!(output.status.success());
    fs::write(world.path("key"), &output.stdout).unwrap();
    fs::set_permissions(world.path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    world.ok(&["ls", "above/repo"]);
}

/// What is put and a secret both came from standard input: a file of a key's rest.
#[test]
fn standard_input_is_one_thing() {
    let world = world();
    let key = fs::File::open(world.path("key")).unwrap();
    let arguments = ["put", "repo", "/x", "--key-file", "-"];
    let output = world.command(&arguments).stdin(key).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("standard input"), "{}", said(&output));
}

/// Some commands printed nothing with it, others what people read.
#[test]
fn json_is_honoured_or_refused() {
    let world = world();
    let objects = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let text = world.ok(&[arguments, &["--json"]].concat());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let key = fs::read_to_string(world.path("key")).unwrap();
    for (arguments, kind) in [
        (&["put", "repo", "/more", "--from", "file"][..], "summary"),
        (&["ls", "repo"], "node"),
        (&["extract", "repo", "out"], "summary"),
        (&["check", "repo"], "summary"),
        (&["check", "repo", "--repair"], "summary"),
        (&["key", "show", "repo"], "key"),
        (&["key", "verify", "repo"], "verified"),
        (&["vault", "show", "repo"], "vault"),
        (&["init", "new", "--key-out", "new.key"], "initialized"),
    ] {
        let told = objects(arguments);
        assert!(!told.is_empty(), "{arguments:?}");
        assert!(told.iter().all(|object| object["message_type"] == kind), "{told:?}");
        if kind == "key" {
            let shown = told[0]["key"].as_str().unwrap();
            assert_eq!(
                shown.split(' ').collect::<Vec<_>>(),
                key.split_whitespace().collect::<Vec<_>>()
            );
        }
        if arguments[0] == "extract" {
            assert_eq!((&told[0]["files"], &told[0]["left_out"]), (&2.into(), &0.into()));
        }
    }
    for refused in [
        &["cat", "repo", "file", "--key-file", "key"][..],
        &["key", "sheet", "repo", "--key-file", "key"],
        &["completions", "bash"],
    ] {
        let output = world.run(&[refused, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(2), "{refused:?}");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(told["message"].as_str().unwrap().contains("has no --json"), "{told}");
    }
    let vault = env!("CARGO_BIN_EXE_amberfs-vault");
    let output = world.program(vault, &["status", "vault", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// `ps` shows what stands on a command line.
#[test]
fn no_secret_is_an_argument() {
    let world = World::new();
    for option in ["--invite", "--ticket", "--key", "--password"] {
        let output = world.run(&["init", "repo", option, "amber-invite-00"]);
        assert_eq!(output.status.code(), Some(2), "{option}");
        let vault = env!("CARGO_BIN_EXE_amberfs-vault");
        for words in [&["record", "show", "vault"][..], &["probe", "amber-vault://x:1/#00"]] {
            let arguments = [words, &[option, "00"]].concat();
            let output = world.program(vault, &arguments).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        }
    }
}

/// A mount, and what is done with it, as a program hears it.
#[test]
fn mounts_tell_programs_what_was_done() {
    if !crate::mounted::has_fuse("JSON of mounts") {
        return;
    }
    let world = world();
    fs::create_dir(world.path("mnt")).unwrap();
    let told = |arguments: &[&str]| -> serde_json::Value {
        let output = world.run_patiently(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let mounted = told(&["mount", "repo", "mnt", "--key-file", "key"]);
    let (sync, status) = (told(&["sync", "mnt"]), told(&["status", "mnt"]));
    let unmounted = told(&["umount", "mnt"]);
    for (object, kind) in [
        (mounted, "mounted"),
        (sync, "synced"),
        (unmounted, "unmounted"),
        (status.clone(), "status"),
    ] {
        assert_eq!(object["message_type"], kind);
        assert_eq!(object["mountpoint"], world.path("mnt").display().to_string());
        assert_eq!(object["repo"], world.path("repo").display().to_string());
    }
    assert!(status["time"].is_i64() && status["time_text"].is_string(), "{status}");
}
