//! The main job: seal a folder of chats, open it on another machine with a
//! password; and what a crash leaves.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use crate::chats;
use crate::mounted::has_fuse;
use crate::world::{World, assert_same_tree, factor};

/// Quick, and allowed: the floor.
pub const COST: [&str; 2] = ["--argon2-cost", "65536,3"];

/// A world with a vault, and a repository there whose password is in the file `password`.
pub fn registered(password: &str) -> (World, Vault) {
    let world = World::new();
    let vault = Vault::start(&world);
    secret(&world, "password", password);
    let mut arguments = vec!["init", "repo", "--vault", &vault.address, "--key-out", "key"];
    arguments.extend(["--password-file", "password"]);
    arguments.extend(COST);
    world.ok(&arguments);
    (world, vault)
}

pub struct Vault {
    child: Child,
    pub address: String,
}

impl Vault {
    pub fn start(world: &World) -> Self {
        Self::serve(world, "vault", "127.0.0.1:0")
    }

    /// Serves the vault in `folder`, made if it is not there.
    pub fn serve(world: &World, folder: &str, listen: &str) -> Self {
        let program = env!("CARGO_BIN_EXE_amberfs-vault");
        let folder = world.path(folder);
        if !folder.exists() {
            let made = Command::new(program).arg("init").arg(&folder).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        let mut child = Command::new(program)
            .arg("serve")
            .arg(&folder)
            .args(["--listen", listen, "--no-delays", "--registrations", "1000000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("vault address: ").expect(&line).to_string();
        Self { child, address }
    }

    /// The id of the process that serves.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `HOST:PORT`.
    pub fn place(&self) -> &str {
        self.address.strip_prefix("amber-vault://").unwrap().split_once('/').unwrap().0
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn secret(world: &World, name: &str, text: &str) {
    fs::write(world.path(name), text).unwrap();
    fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_password_alone_brings_everything_back_on_another_machine() {
    if !has_fuse("main job") {
        return;
    }
    let world = World::new();
    let vault = Vault::start(&world);
    secret(&world, "password", "seven small boats drift home\n");
    secret(&world, "wrong", "seven small boats drift away\n");
    let mut arguments = vec!["init", "repo", "--vault", &vault.address, "--key-out", "key"];
    arguments.extend(["--password-file", "password"]);
    arguments.extend(COST);
    world.ok(&arguments);
    chats::generate(&world.path("phone"), &chats::Profile::TINY, 3).unwrap();
    let mount = world.mount("repo", "mnt", &["--password-file", "password"]);
    let copied = Command::new("cp")
        .arg("-a")
        .arg(world.path("phone"))
        .arg(world.path("mnt/phone"))
        .status()
        .unwrap();
    assert!(copied.success());
    assert_same_tree(&world.path("phone"), &world.path("mnt/phone"));
    mount.unmount(&world);

    // Another machine: no local state, a copy of the folder.
    let copy = Command::new("cp")
        .arg("-a")
        .arg(world.path("repo"))
        .arg(world.path("copy"))
        .status()
        .unwrap();
    assert!(copy.success());
    let elsewhere = |arguments: &[&str]| {
        let mut command = world.command(arguments);
        command.env("XDG_STATE_HOME", world.path("elsewhere"));
        command.output().unwrap()
    };
    let unknown = elsewhere(&["ls", "copy", "--password-file", "password"]);
    assert_eq!(unknown.status.code(), Some(16), "an unknown vault is not asked");
    let vault_option = ["--vault", vault.address.as_str()];
    let wrong = elsewhere(
        &[&["ls", "copy", "--json", "--password-file", "wrong"], &vault_option[..]].concat(),
    );
    assert_eq!(wrong.status.code(), Some(12));
    let said: serde_json::Value = serde_json::from_slice(&wrong.stdout).unwrap();
    assert_eq!(said["tries_left"], 9);
    let right = elsewhere(
        &[&["extract", "copy", "out", "--password-file", "password"], &vault_option[..]].concat(),
    );
    assert!(right.status.success(), "{}", String::from_utf8_lossy(&right.stderr));
    assert_same_tree(&world.path("phone"), &world.path("out/phone"));
    // The key alone does too, with the vault gone.
    drop(vault);
    let gone = elsewhere(&["ls", "copy", "--password-file", "password"]);
    assert_eq!(gone.status.code(), Some(15), "{}", String::from_utf8_lossy(&gone.stderr));
    let by_key = elsewhere(&["extract", "copy", "by-key", "--key-file", "key"]);
    assert!(by_key.status.success());
    assert_same_tree(&world.path("phone"), &world.path("by-key/phone"));
}

/// Who can write to the vault's folder can put an older ledger there.
#[test]
fn a_vaults_folder_that_others_can_write_is_refused() {
    let world = World::new();
    let program = env!("CARGO_BIN_EXE_amberfs-vault");
    let run = |arguments: &[&str]| world.program(program, arguments).output().unwrap();
    let set = |mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(world.path("vault"), permissions).unwrap();
    };
    let refused = |arguments: &[&str]| {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    fs::create_dir(world.path("vault")).unwrap();
    set(0o770);
    assert!(refused(&["init", "vault"]).contains("written by others"));
    set(0o700);
    assert!(run(&["init", "vault"]).status.success());
    set(0o707);
    let serve = ["serve", "vault", "--listen", "127.0.0.1:0"];
    assert!(refused(&serve).contains("written by others"));
    if rustix::process::geteuid().is_root() {
        set(0o700);
        std::os::unix::fs::chown(world.path("vault"), Some(1234), None).unwrap();
        assert!(refused(&serve).contains("somebody else"));
    }
}

#[test]
fn ten_wrong_passwords_close_the_record_and_the_key_still_opens() {
    let world = World::new();
    let vault = Vault::start(&world);
    secret(&world, "password", "seven small boats drift home\n");
    secret(&world, "wrong", "seven small boats drift away\n");
    let mut arguments = vec!["init", "repo", "--vault", &vault.address, "--key-out", "key"];
    arguments.extend(["--password-file", "password"]);
    arguments.extend(COST);
    world.ok(&arguments);
    for left in (0..10).rev() {
        let output = world.run(&["ls", "repo", "--json", "--password-file", "wrong", "--retry"]);
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &said["tries_left"]), (Some(12), &left.into()));
    }
    let closed = world.run(&["ls", "repo", "--password-file", "password"]);
    assert_eq!(closed.status.code(), Some(13));
    world.ok(&["ls", "repo"]);
    // A new password by the key: the old record stays dead, a new one opens.
    secret(&world, "new", "eleven quiet lamps by the water\n");
    let mut arguments = vec!["passwd", "repo", "--new-password-file", "new"];
    arguments.extend(COST);
    world.ok(&arguments);
    assert!(world.run(&["ls", "repo", "--password-file", "new"]).status.success());
}

/// kill -9 at twenty moments (`factor` times) of a copy with fsyncs: after the next mount every
/// fsynced file is as it was, and the repository is whole.
#[test]
fn what_fsync_returned_for_survives_a_kill() {
    if !has_fuse("kill") {
        return;
    }
    let rounds = 20 * factor() as u64;
    let world = World::with_repo();
    let mut synced: Vec<(String, blake3::Hash)> = Vec::new();
    let check = |(name, hash): &(String, blake3::Hash), when: &str| {
        let read = fs::read(world.path("mnt").join(name)).unwrap();
        assert!(blake3::hash(&read) == *hash, "{name} {when}");
    };
    for round in 0..rounds {
        let mount = world.mount("repo", "mnt", &["-o", "checkpoint=1s,2s", "--key-file", "key"]);
        // All of them once more at the end.
        for file in synced.iter().rev().take(1000) {
            check(file, &format!("at the beginning of round {round}"));
        }
        let limit = std::time::Duration::from_millis(50 + round * 137 % 1500);
        let started = std::time::Instant::now();
        let mut number = 0u64;
        while started.elapsed() < limit {
            let name = format!("r{round}-{number}");
            // Many rounds must not fill the disk.
            let most = if number.is_multiple_of(10) { 300_000 } else { 300_000 * 20 / rounds };
            let len = (number * number * 7919 % most) as usize + 1;
            let mut bytes = vec![0; len];
            let mut hasher = blake3::Hasher::new();
            hasher.update(name.as_bytes());
            hasher.finalize_xof().fill(&mut bytes);
            let path = world.path("mnt").join(&name);
            let mut file = fs::File::create(&path).unwrap();
            file.write_all(&bytes).unwrap();
            file.sync_all().unwrap();
            let hash = blake3::hash(&bytes);
            if number.is_multiple_of(3) {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            }
            if number.is_multiple_of(5) {
                let renamed = format!("{name}-renamed");
                fs::rename(&path, world.path("mnt").join(&renamed)).unwrap();
                fs::File::open(world.path("mnt")).unwrap().sync_all().unwrap();
                synced.push((renamed, hash));
            } else {
                synced.push((name, hash));
            }
            number += 1;
        }
        mount.kill();
    }
    println!("{} fsynced files in {rounds} rounds", synced.len());
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    for file in &synced {
        check(file, "at the end");
    }
    mount.unmount(&world);
    world.ok(&["check", "repo", "--read-data"]);
}
