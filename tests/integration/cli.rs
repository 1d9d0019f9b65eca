//! The command line without a mount: the main path, and bad input with its
//! exit codes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use amberfs::control::{Answer, Described, Exchange, Failure, Handler, Request, Server};
use amberfs::io::Exit;

use crate::chats;
use crate::world::{World, assert_same_tree, copy_tree, settle};

#[test]
fn a_phones_folder_comes_back_and_a_later_day_is_cheap() {
    let world = World::with_repo();
    let source = world.path("phone");
    chats::generate(&source, &chats::Profile::TINY, 7).unwrap();
    world.ok(&["put", "repo", "/", "--from", "phone"]);
    let before = world.files("repo");
    let day = chats::advance(&source, &chats::Profile::TINY, 7, 1).unwrap();
    world.ok(&["put", "repo", "/", "--from", "phone"]);
    let new: Vec<_> =
        world.files("repo").into_iter().filter(|path| !before.contains(path)).collect();
    assert!(new.len() <= 3, "{new:?}");
    let bytes: u64 = new.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(bytes < day.new_bytes * 3 / 2 + (256 << 10), "{bytes} for {}", day.new_bytes);

    world.ok(&["extract", "repo", "out"]);
    assert_same_tree(&source, &world.path("out"));
    world.ok(&["check", "repo", "--read-data"]);
    // No key, no state: names against bytes.
    let output = world.run(&["check", "repo", "--no-key"]);
    assert!(output.status.success());
}

/// Has the second reader write the tree of `repo` to `to`; false if it cannot run here.
fn extract_with_python(world: &World, to: &str) -> bool {
    world.read_again("repo", &["extract", world.path(to).to_str().unwrap()]).is_some()
}

/// The second reader knows only docs/format.md.
#[test]
fn the_python_reader_sees_the_same_tree() {
    let world = World::with_repo();
    chats::generate(&world.path("phone"), &chats::Profile::TINY, 8).unwrap();
    world.ok(&["put", "repo", "/", "--from", "phone"]);
    chats::advance(&world.path("phone"), &chats::Profile::TINY, 8, 1).unwrap();
    world.ok(&["put", "repo", "/", "--from", "phone"]);
    if extract_with_python(&world, "out") {
        assert_same_tree(&world.path("phone"), &world.path("out"));
    }
}

/// A repository of this version, made once, with everything in it: both readers go on to read
/// it.
#[test]
fn the_golden_repository_is_read_and_written_on() {
    let world = World::new();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    copy_tree(&golden.join("repo"), &world.path("repo"));
    fs::write(world.path("key"), "07".repeat(32)).unwrap();
    fs::set_permissions(world.path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    world.ok(&["check", "repo", "--read-data"]);
    // Few file systems hold an attribute of 64 KiB.
    let output = world.run(&["extract", "repo", "out", "--key-file", "key"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("user.long"), "{said}");
    let listed = fs::read_to_string(golden.join("tree.txt")).unwrap();
    assert_eq!(world.ok(&["ls", "repo", "-R"]).lines().count(), listed.lines().count());
    // Who compares trees would wait for a writer of the pipe.
    let without_pipe = |tree: &str| {
        let pipe = world.path(tree).join("pipe");
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
        fs::remove_file(pipe).unwrap();
    };
    without_pipe("out");
    if extract_with_python(&world, "again") {
        without_pipe("again");
        assert_same_tree(&world.path("out"), &world.path("again"));
    }
    fs::write(world.path("more"), "more").unwrap();
    world.ok(&["put", "repo", "/more", "--from", "more"]);
    assert_eq!(world.ok(&["cat", "repo", "/chats/small.txt"]), "HELLO\n");
    world.ok(&["check", "repo", "--read-data"]);
    if extract_with_python(&world, "later") {
        without_pipe("later");
        fs::remove_file(world.path("later/more")).unwrap();
        assert_same_tree(&world.path("out"), &world.path("later"));
    }
}

#[test]
fn streams_go_in_and_out() {
    let world = World::with_repo();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(i) >> 5) as u8).collect();
    fs::write(world.path("stream"), &bytes).unwrap();
    let mut command = world.command(&["put", "repo", "/a/b/stream", "--key-file", "key"]);
    command.stdin(fs::File::open(world.path("stream")).unwrap());
    assert!(command.status().unwrap().success());
    let output = world.run(&["cat", "repo", "/a/b/stream", "--key-file", "key"]);
    assert!(output.stdout == bytes);
    assert_eq!(world.ok(&["ls", "repo", "-R"]), "a\na/b\na/b/stream\n");
}

#[test]
fn a_wrong_key_is_told_and_the_mistyped_group_named() {
    let world = World::with_repo();
    let key = fs::read_to_string(world.path("key")).unwrap();
    let mut groups: Vec<String> = key.split_whitespace().map(str::to_string).collect();
    groups[4] = if groups[4] == "0000" { "1111".into() } else { "0000".into() };
    let write = |name: &str, text: &str| {
        fs::write(world.path(name), text).unwrap();
        fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("typo", &groups.join(" "));
    let said = world.fails(&["ls", "repo", "--key-file", "typo"], 12);
    assert!(said.contains("group 5 of 16"), "{said}");
    write("other", &"ab".repeat(32));
    assert!(world.fails(&["ls", "repo", "--key-file", "other"], 12).contains("does not open"));
    write("short", "1234");
    assert!(world.fails(&["ls", "repo", "--key-file", "short"], 12).contains("4 digits"));
    // Written in any way, it is the same key.
    write("upper", &key.to_uppercase().replace([' ', '\n'], "-"));
    assert!(world.run(&["ls", "repo", "--key-file", "upper"]).status.success());
}

#[test]
fn secrets_files_that_others_can_read_are_refused() {
    let world = World::with_repo();
    fs::set_permissions(world.path("key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(world.fails(&["ls", "repo"], 2).contains("chmod 600"));
    fs::set_permissions(world.path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(world.path("key"), world.path("repo/key")).unwrap();
    let said = world.fails(&["ls", "repo", "--key-file", "repo/key"], 2);
    assert!(said.contains("uploaded"), "{said}");
}

#[test]
fn folders_that_are_no_repository_have_their_own_code() {
    let world = World::new();
    fs::create_dir(world.path("empty")).unwrap();
    for folder in ["empty", "missing"] {
        let output = world.run(&["ls", folder, "--key-file", "key"]);
        assert_eq!(output.status.code(), Some(10));
    }
    fs::write(world.path("empty/file"), b"x").unwrap();
    world.fails(&["init", "empty", "--key-out", "key"], 17);
    assert_eq!(world.run(&["surprise"]).status.code(), Some(2));
}

#[test]
fn a_newer_format_is_not_called_damage() {
    let world = World::with_repo();
    let header = world
        .files("repo")
        .into_iter()
        .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("amberfs-"))
        .unwrap();
    let mut bytes = fs::read(&header).unwrap();
    bytes[8] = 9;
    fs::write(&header, bytes).unwrap();
    // Heads of this version stand in: then it was a flipped bit.
    world.ok(&["ls", "repo"]);
    for path in world.files("repo") {
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = 9;
        fs::write(&path, bytes).unwrap();
    }
    assert!(world.fails(&["ls", "repo"], 10).contains("newer"));
}

#[test]
fn damage_and_missing_files_are_told_apart_and_named() {
    let world = World::with_repo();
    chats::generate(&world.path("phone"), &chats::Profile::TINY, 9).unwrap();
    world.ok(&["put", "repo", "/", "--from", "phone"]);
    let object = world
        .files("repo")
        .into_iter()
        .find(|path| path.to_str().unwrap().contains("/obj/"))
        .unwrap();
    let name = object.file_name().unwrap().to_str().unwrap().to_string();
    let bytes = fs::read(&object).unwrap();

    let mut flipped = bytes.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&object, flipped).unwrap();
    // It has just changed: a sync client may be filling it.
    assert!(world.fails(&["check", "repo", "--read-data"], 20).contains("just changed"));
    assert_eq!(world.run(&["check", "repo", "--no-key"]).status.code(), Some(20));
    settle(&object);
    assert!(world.fails(&["check", "repo", "--read-data"], 26).contains(&name));
    let output = world.run(&["check", "repo", "--no-key"]);
    assert_eq!(output.status.code(), Some(26));

    fs::remove_file(&object).unwrap();
    world.fails(&["check", "repo"], 20);
    // Names and small things are in the head: everything is listed.
    assert!(world.ok(&["ls", "repo", "-R"]).lines().count() > 50);

    fs::write(&object, bytes).unwrap();
    world.ok(&["check", "repo", "--read-data"]);
}

#[test]
fn a_lost_header_is_replaced_by_a_head() {
    let world = World::with_repo();
    fs::write(world.path("file"), b"content").unwrap();
    world.ok(&["put", "repo", "/file", "--from", "file"]);
    for path in world.files("repo") {
        if path.file_name().unwrap().to_str().unwrap().starts_with("amberfs-") {
            fs::remove_file(path).unwrap();
        }
    }
    assert_eq!(world.ok(&["cat", "repo", "/file"]), "content");
}

#[test]
fn a_folder_put_back_is_noticed_by_the_device_that_saw_newer() {
    let world = World::with_repo();
    fs::write(world.path("file"), b"one").unwrap();
    world.ok(&["put", "repo", "/file", "--from", "file"]);
    copy_tree(&world.path("repo"), &world.path("old"));
    fs::write(world.path("file"), b"two").unwrap();
    world.ok(&["put", "repo", "/file", "--from", "file"]);
    fs::rename(world.path("repo"), world.path("newer")).unwrap();
    fs::rename(world.path("old"), world.path("repo")).unwrap();
    let said = world.fails(&["put", "repo", "/file", "--from", "file"], 27);
    assert!(said.contains("generation 3") && said.contains("only 2"), "{said}");
}

#[test]
fn what_two_devices_wrote_apart_is_joined() {
    let world = World::with_repo();
    fs::write(world.path("file"), b"one").unwrap();
    world.ok(&["put", "repo", "/file", "--from", "file"]);
    copy_tree(&world.path("repo"), &world.path("other"));
    // The copy is a new device's folder; both go on from the same head.
    world.ok(&["put", "other", "/b", "--from", "file", "--state", "state-b"]);
    world.ok(&["put", "repo", "/a", "--from", "file"]);
    copy_tree(&world.path("other"), &world.path("repo"));
    let output = world.command(&["ls", "repo", "--key-file", "key"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a\nb\nfile\n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("what these devices wrote apart from each other is joined"), "{said}");
    world.ok(&["put", "repo", "/c", "--from", "file"]);
    // The head of the last one has all of it.
    let output = world.command(&["ls", "repo", "--key-file", "key"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a\nb\nc\nfile\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    // Going on after the other device is no conflict.
    let world = World::with_repo();
    fs::write(world.path("file"), b"one").unwrap();
    world.ok(&["put", "repo", "/file", "--from", "file"]);
    world.ok(&["put", "repo", "/b", "--from", "file", "--state", "state-b"]);
    world.ok(&["put", "repo", "/a", "--from", "file"]);
    assert_eq!(world.ok(&["ls", "repo"]), "a\nb\nfile\n");
}

/// An object that was lost or spoiled went on serving deduplication by its
/// index rows: writing the same file again stored nothing and healed nothing.
#[test]
fn writing_a_file_again_heals_it() {
    let world = World::with_repo();
    let mut bytes = vec![0; 3 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    fs::write(world.path("file"), &bytes).unwrap();
    world.ok(&["put", "repo", "/file", "--from", "file"]);
    let object = world
        .files("repo")
        .into_iter()
        .find(|path| path.to_str().unwrap().contains("/obj/"))
        .unwrap();
    fs::remove_file(object).unwrap();
    assert!(!world.run(&["cat", "repo", "/file", "--key-file", "key"]).status.success());
    world.ok(&["put", "repo", "/again", "--from", "file"]);
    let output = world.run(&["cat", "repo", "/again", "--key-file", "key"]);
    assert!(output.stdout == bytes);
    let output = world.run(&["cat", "repo", "/file", "--key-file", "key"]);
    assert!(output.stdout == bytes, "the old name shares the chunks");
}

/// Short commands hold the key too: none of them leaves a core.
#[test]
fn commands_turn_core_dumps_off() {
    let world = World::with_repo();
    let output = world
        .command(&["ls", "repo", "--key-command", "ulimit -c > limit; cat key"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(world.path("limit")).unwrap().trim(), "0");
}

/// The command line is wrong in a script, too.
#[test]
fn usage_errors_are_json_where_json_is_asked_for() {
    let world = World::new();
    for wrong in [&["surprise", "--json"][..], &["--json", "mount"], &["ls", "a", "--json", "--no"]]
    {
        let output = world.run(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&said["message_type"], &said["code"]), (&"exit_error".into(), &2.into()));
        let message = said["message"].as_str().unwrap();
        assert!(!message.is_empty() && !message.starts_with("error"), "{message}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
    let output = world.run(&["--help", "--json"]);
    assert!(output.status.success() && output.stdout.starts_with(b"Encrypted"));
    // No option: a file of that name.
    let output = world.run(&["surprise", "--", "--json"]);
    assert!(output.stdout.is_empty());
}

/// `amberfs key show | true` was an internal error, `amberfs ls | head` a
/// broken pipe.
#[test]
fn a_reader_that_leaves_is_no_error_to_tell() {
    let world = World::with_repo();
    fs::write(world.path("file"), b"content").unwrap();
    world.ok(&["put", "repo", "/file", "--from", "file"]);
    for arguments in [
        &["key", "show", "repo", "--key-file", "key"][..],
        &["ls", "repo", "--key-file", "key"],
        &["cat", "repo", "file", "--key-file", "key"],
        &["completions", "bash"],
        &["--help"],
        &["ls", "none", "--json"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = world.command(arguments).stdout(writer).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        assert_eq!(output.status.code(), Some(141), "{arguments:?}");
    }
}

/// A daemon that can do nothing.
struct Failing(&'static str);

impl Handler for Failing {
    fn describe(&self) -> Described {
        Described { pid: 1, mountpoint: self.0.into(), repo: "/repo".into() }
    }

    fn handle(&self, request: Request, exchange: &mut Exchange<'_>) -> Answer {
        match (self.0, request) {
            ("/b", Request::Status) => {
                exchange.send(b"{}").unwrap();
                Answer::Done
            }
            ("/b", _) => Answer::Done,
            ("/c", _) => Answer::Failed(Failure { code: Exit::NoSpace, text: "no room".into() }),
            _ => Answer::Failed(Failure { code: Exit::Damage, text: "no sense".into() }),
        }
    }
}

/// The first mount that failed kept the others from being unmounted.
#[test]
fn one_mount_that_fails_does_not_stop_the_others() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: all: needs root, to hide the mounts of this machine");
        return;
    }
    let world = World::new();
    fs::create_dir(world.path("run/amberfs")).unwrap();
    fs::set_permissions(world.path("run/amberfs"), fs::Permissions::from_mode(0o700)).unwrap();
    let servers = ["/a", "/b", "/c"].map(|name| {
        let socket = world.path(&format!("run/amberfs{name}.sock"));
        Server::start(&[socket], &std::sync::Arc::new(Failing(name))).unwrap()
    });
    // Bound and never served: a daemon that hangs.
    let hung = world.path("run/amberfs/7-hung.sock");
    let _hung = std::os::unix::net::UnixListener::bind(hung).unwrap();
    let alone = "mount -t tmpfs none /run && exec \"$0\" \"$@\"";
    for command in [&["umount", "--all"][..], &["sync", "--all"], &["status"]] {
        let amberfs = env!("CARGO_BIN_EXE_amberfs");
        let output = world
            .program("unshare", &["-m", "/bin/sh", "-c", alone, amberfs])
            .args(command)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(26), "{command:?}: {said}");
        assert!(said.contains("/a: no sense") && said.contains("/c: no room"), "{said}");
        assert!(said.contains("7-hung.sock"), "{said}");
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(command[0] != "status" || shown.contains("/repo on /b"), "{shown}");
        assert!(command[0] != "umount" || said.contains("unmounted /b"), "{said}");
    }
    drop(servers);
}

/// A password among systemd's credentials, or one typed, was tried at the vault.
#[test]
fn key_verify_takes_no_password() {
    let world = World::with_repo();
    fs::write(world.path("amberfs.password"), "seven small boats").unwrap();
    fs::set_permissions(world.path("amberfs.password"), fs::Permissions::from_mode(0o600)).unwrap();
    let verify = |more: &[&str]| {
        let mut command = world.command(&["key", "verify", "repo"]);
        command.args(more).env("CREDENTIALS_DIRECTORY", world.path("")).output().unwrap()
    };
    let output = verify(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(12), "{said}");
    assert!(said.contains("no key was given"), "{said}");
    let output = verify(&["--password-file", "amberfs.password"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(verify(&["--key-file", "key"]).status.success());
}

/// The options in a text, such as `--key-file`.
fn options(text: &str) -> BTreeSet<String> {
    let part = |c: char| c.is_ascii_lowercase() || c == '-';
    let words = text.split(|c: char| !part(c)).filter(|word| word.starts_with("--"));
    words.filter(|word| word.len() > 3).map(str::to_string).collect()
}

/// The options of a program, and of all its commands, by their help.
fn options_of(world: &World, program: &str, commands: &[&str]) -> BTreeSet<String> {
    let output = world.program(program, &[commands, &["--help"]].concat()).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let mut found = options(&help);
    let listed = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    for line in listed.lines().take_while(|line| !line.is_empty()) {
        let name = line.split_whitespace().next().unwrap_or_default();
        if line.starts_with("  ") && !line.starts_with("   ") && name != "help" {
            found.extend(options_of(world, program, &[commands, &[name]].concat()));
        }
    }
    found
}

/// README named `--invite` for a while after there was only `--invite-file`.
#[test]
fn every_option_that_the_documents_name_is_there() {
    let world = World::new();
    let mut known = options_of(&world, env!("CARGO_BIN_EXE_amberfs"), &[]);
    known.extend(options_of(&world, env!("CARGO_BIN_EXE_amberfs-vault"), &[]));
    assert!(known.contains("--invite-file") && known.contains("--open-registration"), "{known:?}");
    // Of cargo and rustc; of etcd, which docs/vault.md sets up; of curl.
    let others = [
        "--auto-compaction-mode",
        "--auto-compaction-retention",
        "--cfg",
        "--client-cert-auth",
        "--election-timeout",
        "--features",
        "--heartbeat-interval",
        "--max-time",
        "--peer-client-cert-auth",
        "--quota-backend-bytes",
        "--unsafe-no-fsync",
    ];
    known.extend(others.map(str::to_string));
    if !cfg!(feature = "pkcs11") {
        known.insert("--for-ceremony".into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|page| page.extension().is_some_and(|end| end == "md"));
    let (mut named, mut unknown) = (0, Vec::new());
    for page in pages.chain([root.join("README.md")]) {
        for line in fs::read_to_string(&page).unwrap().lines() {
            let spans = line.split('`').skip(1).step_by(2);
            for span in spans.chain([line]) {
                let ours = ["--", "amberfs ", "amberfs-vault "];
                if !ours.iter().any(|start| span.starts_with(start)) {
                    continue;
                }
                named += options(span).len();
                let strange = options(span).into_iter().filter(|option| !known.contains(option));
                unknown.extend(strange.map(|option| format!("{}: {option}", page.display())));
            }
        }
    }
    assert!(named > 100, "only {named} were looked for");
    assert!(unknown.is_empty(), "{unknown:#?}");
}
