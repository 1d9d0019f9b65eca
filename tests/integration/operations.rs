//! What the people who run a vault do: invites, records, the admin port, the probe,
//! the notify hook; and the note by which an owner learns that a folder was put back.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::main_job::{COST, Vault, secret};
use crate::mounted::has_fuse;
use crate::world::{World, wait_for};

const PROGRAM: &str = env!("CARGO_BIN_EXE_amberfs-vault");
const BY_PASSWORD: [&str; 4] = ["ls", "repo", "--password-file", "password"];

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A vault that is set up by its file alone.
struct Site {
    child: Child,
    /// What it logs.
    log: BufReader<ChildStderr>,
    address: String,
}

impl Site {
    /// Registration is closed: what it advertises is elsewhere.
    fn closed(world: &World, more: &str) -> Self {
        let folder = world.path("vault");
        let made = Command::new(PROGRAM).arg("init").arg(&folder).output().unwrap();
        assert!(made.status.success());
        let place = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let settings = format!(
            "[serve]\nlisten = \"{place}\"\nadvertise = [\"vault.example:1\"]\ndelays = false\n{more}"
        );
        fs::write(folder.join("vault.toml"), settings).unwrap();
        Self::start(world, &place.to_string())
    }

    fn start(world: &World, place: &str) -> Self {
        let mut child = Command::new(PROGRAM)
            .arg("serve")
            .arg(world.path("vault"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let print = line.trim().rsplit_once('#').expect("it serves").1;
        let address = format!("amber-vault://{place}/#{print}");
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log, address }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `amberfs-vault WORDS... vault ARGUMENTS...`
fn staff(world: &World, words: &[&str], arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(words).arg(world.path("vault")).args(arguments);
    command.output().unwrap()
}

fn done(output: Output) -> String {
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn init(world: &World, repo: &str, site: &Site, more: &[&str]) -> Output {
    let key = format!("{repo}.key");
    let mut all = vec!["init", repo, "--vault", &site.address, "--key-out", &key];
    all.extend(["--password-file", "password"].iter().chain(&COST).chain(more));
    world.run(&all)
}

#[test]
fn invites_let_people_in_and_staff_can_find_stop_and_delete_a_record() {
    let world = World::new();
    let site = Site::closed(&world, "");
    secret(&world, "password", "seven small boats drift home\n");
    secret(&world, "new", "eleven quiet lamps by the water\n");
    let closed = init(&world, "repo", &site, &[]);
    assert!(closed.status.code() == Some(1) && said(&closed).contains("no new registrations"));
    assert!(!world.path("repo.key").exists());

    let invite = done(staff(&world, &["invite"], &["--account", "anna"]));
    assert!(invite.starts_with("amber-invite-"), "{invite}");
    secret(&world, "invite", &format!("\u{feff}{invite}\r\n"));
    secret(&world, "no-invite", "x");
    let opened = init(&world, "repo", &site, &["--invite-file", "invite"]);
    assert!(opened.status.success(), "{}", said(&opened));
    let again = init(&world, "other", &site, &["--invite-file", "invite"]);
    assert!(again.status.code() == Some(1) && said(&again).contains("invite"), "{}", said(&again));
    assert_eq!(
        init(&world, "other", &site, &["--invite-file", "no-invite"]).status.code(),
        Some(2)
    );
    // A new password needs none, and the account stays with it.
    let mut passwd = vec!["passwd", "repo", "--new-password-file", "new"];
    passwd.extend(["--password-file", "password"].iter().chain(&COST));
    let changed = world.run(&passwd);
    assert!(changed.status.success(), "{}", said(&changed));
    fs::copy(world.path("new"), world.path("password")).unwrap();

    let list = done(staff(&world, &["record", "list"], &["anna"]));
    assert!(list.contains("  active") && list.ends_with("records: 1"), "{list}");
    assert_eq!(done(staff(&world, &["record", "list"], &["bert"])), "records: 0");
    let ticket = done(world.run(&["vault", "show", "repo", "--ticket"]));
    secret(&world, "ticket", &ticket);
    secret(&world, "no-ticket", "zz");
    let no_ticket = world.path("no-ticket").display().to_string();
    let by_ticket = ["--ticket-file", &*world.path("ticket").display().to_string()];
    let show = done(staff(&world, &["record", "show"], &by_ticket));
    assert!(list.starts_with(&show), "{show}");

    done(staff(&world, &["record", "freeze"], &by_ticket));
    let frozen = world.run(&BY_PASSWORD);
    assert!(frozen.status.code() == Some(13) && said(&frozen).contains("frozen"));
    assert!(done(staff(&world, &["status"], &[])).contains("1 held"));
    done(staff(&world, &["record", "thaw"], &by_ticket));
    let opened = world.run(&BY_PASSWORD);
    assert!(opened.status.success() && said(&opened).contains("operator froze the record"));

    // The same where nobody serves it.
    drop(site);
    assert!(done(staff(&world, &["record", "show"], &by_ticket)).contains("frozen by staff"));
    done(staff(&world, &["record", "delete"], &by_ticket));
    let over = staff(&world, &["record", "delete"], &by_ticket);
    assert!(over.status.code() == Some(1) && said(&over).contains("over"), "{}", said(&over));
    let place = {
        let settings = fs::read_to_string(world.path("vault/vault.toml")).unwrap();
        settings.lines().nth(1).unwrap().split('"').nth(1).unwrap().to_owned()
    };
    let site = Site::start(&world, &place);
    let gone = world.run(&BY_PASSWORD);
    assert!(gone.status.code() == Some(13) && said(&gone).contains("operator has deleted"));
    assert!(world.run(&["ls", "repo", "--key-file", "repo.key"]).status.success());

    for (words, bad) in [
        (&["invite"][..], &["--days", "0"][..]),
        (&["invite"], &["--account", "anna b"]),
        (&["record", "show"], &["--ticket-file", &no_ticket]),
        (&["record", "show"], &["--name", &"0".repeat(63)]),
        (&["record", "show"], &["--name", &"0".repeat(64)]),
    ] {
        let output = staff(&world, words, bad);
        assert_eq!(output.status.code(), Some(1), "{words:?} {bad:?}: {}", said(&output));
    }
    let mode = fs::metadata(world.path("vault/control")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(site);
}

/// Only the documents said that the root's key is to lie elsewhere; it stayed in DIR.
#[test]
fn a_root_key_beside_the_vault_is_warned_of_at_each_start() {
    let world = World::new();
    let of_root = |site: Site| {
        let place = site.address.strip_prefix("amber-vault://").unwrap();
        let place = place.split_once('/').unwrap().0.to_owned();
        site.signal(Signal::KILL);
        let mut site = site;
        let mut log = String::new();
        site.log.read_to_string(&mut log).unwrap();
        let lines = log.lines().filter(|line| line.contains("root.key"));
        (place, lines.map(str::to_owned).collect::<Vec<_>>())
    };
    let status = || done(staff(&world, &["status"], &[]));
    let (place, first) = of_root(Site::closed(&world, ""));
    let (_, second) = of_root(Site::start(&world, &place));
    for lines in [first, second] {
        let [line] = &lines[..] else { panic!("one line at each start: {lines:?}") };
        let file = world.path("vault/root.key").display().to_string();
        for part in ["WARN", &*file, "signs", "stand in for this vault", "another medium"] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    assert!(status().contains("root key: in root.key"), "{}", status());
    fs::rename(world.path("vault/root.key"), world.path("elsewhere")).unwrap();
    let (_, without) = of_root(Site::start(&world, &place));
    assert!(without.is_empty(), "{without:?}");
    assert!(status().contains("root key: not in this folder"), "{}", status());
}

fn get(place: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(place).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[test]
fn the_admin_port_counts_and_a_command_is_called_when_people_guess() {
    let world = World::new();
    let (told, more) = (world.path("told"), world.path("page"));
    fs::write(&more, format!("#!/bin/sh\necho \"$1: $2\" >>{0}\n", told.display())).unwrap();
    fs::set_permissions(&more, fs::Permissions::from_mode(0o700)).unwrap();
    let settings = format!(
        "admin = \"127.0.0.1:0\"\nlog_json = true\nlinger_seconds = 10\n\
         [notify]\ncommand = [\"{}\"]\nwrong_per_hour = 2\n",
        more.display()
    );
    let mut site = Site::closed(&world, &settings);
    let mut port = String::new();
    while port.is_empty() {
        let mut line = String::new();
        assert!(site.log.read_line(&mut line).unwrap() > 0, "it says where the admin port is");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = line["message"].as_str().unwrap();
        assert!(line["time_ms"].as_u64().unwrap() > 1_700_000_000_000, "{line}");
        if let Some(place) = text.strip_prefix("admin port: http://") {
            port = place.trim_end_matches("/metrics").to_owned();
        }
    }
    secret(&world, "password", "seven small boats drift home\n");
    secret(&world, "wrong", "seven small boats drift away\n");
    let invite = done(staff(&world, &["invite"], &[]));
    secret(&world, "invite", &invite);
    assert!(init(&world, "repo", &site, &["--invite-file", "invite"]).status.success());
    for _ in 0..2 {
        let wrong = world.run(&["ls", "repo", "--password-file", "wrong", "--retry"]);
        assert_eq!(wrong.status.code(), Some(12));
    }
    assert!(world.run(&BY_PASSWORD).status.success());
    let (status, metrics) = get(&port, "/metrics");
    assert_eq!(status, 200);
    for line in [
        "amberfs_vault_requests_total{request=\"redeem\",reply=\"wrong\"} 2",
        "amberfs_vault_requests_total{request=\"redeem\",reply=\"done\"} 2",
        "amberfs_vault_requests_total{request=\"attempt\",reply=\"done\"} 4",
        "amberfs_vault_requests_total{request=\"activate\",reply=\"done\"} 1",
        "amberfs_vault_ledger_unknown_total 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    assert_eq!(get(&port, "/health").0, 200);
    assert_eq!(get(&port, "/ready"), (200, "ready\n".into()));
    assert_eq!(get(&port, "/").0, 404);
    // Nobody needs to be polite to it.
    TcpStream::connect(&*port).unwrap().write_all(&[0xff; 100]).unwrap();
    wait_for("the command", Duration::from_secs(20), || {
        fs::read_to_string(&told).is_ok_and(|text| {
            text.starts_with("guessing: 2 wrong passwords") && text.lines().count() == 1
        })
    });
    site.signal(Signal::TERM);
    wait_for("it is not ready", Duration::from_secs(8), || get(&port, "/ready").0 == 503);
    // It still serves whoever comes meanwhile, and then ends well.
    assert!(world.run(&BY_PASSWORD).status.success());
    assert!(site.child.wait().unwrap().success());
}

#[test]
fn a_probe_tries_every_place_and_leaves_nothing() {
    let world = World::new();
    let vault = Vault::start(&world);
    let probe = |address: &str| Command::new(PROGRAM).args(["probe", address]).output().unwrap();
    let good = done(probe(&vault.address));
    for step in ["ok (register ", ", open ", ", wrong ", ", delete "] {
        assert!(good.contains(step), "{good}");
    }
    assert!(done(staff(&world, &["status"], &[])).contains("0 active"));
    // One place of two is dead.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let two = vault.address.replace("/#", &format!(",{dead}/#"));
    let half = probe(&two);
    let text = String::from_utf8_lossy(&half.stdout).into_owned();
    assert!(half.status.code() == Some(1) && text.lines().count() == 2, "{text}");
    assert!(text.contains(&format!("{dead}: registering failed")), "{text}");
    assert_eq!(probe("amber-vault://x").status.code(), Some(1));
}

/// A new machine opens a folder that somebody put back: the vault knows better.
#[test]
fn a_folder_that_was_put_back_is_noticed_at_the_next_mount() {
    if !has_fuse("a folder put back") {
        return;
    }
    let world = World::new();
    let vault = Vault::start(&world);
    secret(&world, "password", "seven small boats drift home\n");
    let mut arguments = vec!["init", "repo", "--vault", &vault.address, "--key-out", "key"];
    arguments.extend(["--password-file", "password"]);
    arguments.extend(COST);
    world.ok(&arguments);
    let copy = |from: &str, to: &str| {
        let copied = Command::new("cp").arg("-a").args([world.path(from), world.path(to)]).status();
        assert!(copied.unwrap().success());
    };
    for round in 0..2 {
        if round == 1 {
            copy("repo", "old");
        }
        // With the key: the note needs no password.
        let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
        fs::write(world.path("mnt").join(format!("chat {round}")), "hello").unwrap();
        mount.unmount(&world);
    }
    let elsewhere = |repo: &str| {
        let arguments =
            ["mount", repo, "mnt", "--state", "elsewhere", "--password-file", "password"];
        let mounted = world.run(&[&arguments[..], &["-o", "ro"]].concat());
        assert!(mounted.status.success(), "{}", said(&mounted));
        world.ok(&["umount", "mnt"]);
        said(&mounted)
    };
    let notices = elsewhere("old");
    assert!(notices.contains("the folder is behind"), "{notices}");
    let notices = elsewhere("repo");
    assert!(!notices.contains("behind"), "{notices}");
    // Without its vault a mount ends as well.
    drop(vault);
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    mount.unmount(&world);
}

/// New keys a year: whoever mounts is registered under them without being asked, and
/// the old ones can go.
#[test]
fn a_mount_takes_its_record_to_the_vaults_new_keys() {
    if !has_fuse("new keys of a vault") {
        return;
    }
    let world = World::new();
    let vault = Vault::start(&world);
    let place = vault.place().to_owned();
    secret(&world, "password", "seven small boats drift home\n");
    let mut arguments = vec!["init", "repo", "--vault", &vault.address, "--key-out", "key"];
    arguments.extend(["--password-file", "password"]);
    arguments.extend(COST);
    world.ok(&arguments);
    let ticket = || done(world.run(&["vault", "show", "repo", "--ticket"]));
    let before = ticket();
    drop(vault);
    let added = done(staff(&world, &["generation", "add"], &[]));
    assert_eq!(added, "generation: 2\nmanifest epoch: 2");
    assert!(!staff(&world, &["generation", "drop"], &["2"]).status.success(), "the newest");
    let vault = Vault::serve(&world, "vault", &place);
    assert_eq!(done(staff(&world, &["record", "list"], &["x"])), "records: 0");
    let sealed = done(staff(&world, &["generation", "reseal"], &[]));
    assert_eq!(sealed, "sealed anew: 1, not yet: 0, outdated: 1");
    // To look at it changes nothing.
    let opened = world.run(&BY_PASSWORD);
    assert!(opened.status.success() && said(&opened).contains("new: keys of generation 2"));
    assert_eq!(ticket(), before);
    let early = staff(&world, &["generation", "drop"], &["1"]);
    assert_eq!(early.status.code(), Some(11), "it is served");

    let cost = [&["--password-file", "password"], &COST[..]].concat();
    let mount = world.mount("repo", "mnt", &cost);
    fs::write(world.path("mnt/chat"), "hello").unwrap();
    mount.unmount(&world);
    assert_ne!(ticket(), before);
    assert!(done(staff(&world, &["status"], &[])).contains("1 active"));
    assert!(said(&world.run(&BY_PASSWORD)).is_empty());
    let sealed = done(staff(&world, &["generation", "reseal"], &[]));
    assert!(sealed.ends_with("outdated: 0"), "{sealed}");
    drop(vault);
    done(staff(&world, &["generation", "drop"], &["1"]));
    let vault = Vault::serve(&world, "vault", &place);
    let cat = world.run(&["cat", "repo", "/chat", "--password-file", "password"]);
    assert!(cat.status.success() && cat.stdout == b"hello", "{}", said(&cat));
    drop(vault);
}
