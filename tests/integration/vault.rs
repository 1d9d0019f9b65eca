//! Passwords and vaults as the command line handles them: what the folder says
//! is a hint, what is replaced ends, and what costs nothing is tried.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use amberfs::format::register::{Header, SLOT_VAULT};
use amberfs::vault::protocol::{Address, Fingerprint, Locator, Manifest, sign_manifest};
use ed25519_dalek::SigningKey;

use crate::main_job::{self, COST, Vault, secret};
use crate::world::World;

const BY_PASSWORD: [&str; 4] = ["ls", "repo", "--password-file", "password"];

/// A world with a vault and a repository whose password is in `password`.
fn registered() -> (World, Vault) {
    let (world, vault) = main_job::registered("seven small boats drift home\n");
    secret(&world, "wrong", "seven small boats drift away\n");
    secret(&world, "new", "eleven quiet lamps by the water\n");
    (world, vault)
}

fn header(world: &World) -> PathBuf {
    let is_header =
        |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("amberfs-");
    world.files("repo").into_iter().find(is_header).unwrap()
}

/// Writes a header that is newer in the clear and names another record.
fn forge(world: &World, change: impl FnOnce(&mut Locator)) {
    let path = header(world);
    let mut header = Header::decode(&fs::read(&path).unwrap()).unwrap();
    let register = &mut header.register;
    register.stamp.counter = 99;
    let slot = register.slots.iter_mut().find(|slot| slot.kind == SLOT_VAULT).unwrap();
    let mut locator = Locator::decode(&slot.bytes).unwrap();
    change(&mut locator);
    slot.bytes = locator.encode();
    fs::write(path, header.encode()).unwrap();
}

fn elsewhere(locator: &mut Locator) {
    locator.address = Address::new(vec!["evil.example:1".into()], Fingerprint([7; 32])).unwrap();
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// How many records are active and how many are over.
fn records(world: &World, folder: &str) -> (String, String) {
    let program = env!("CARGO_BIN_EXE_amberfs-vault");
    let output = world.program(program, &["status", folder]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let count = |what: &str| {
        let before = text.split(what).next().unwrap();
        before.rsplit([' ', ',']).next().unwrap().to_string()
    };
    (count(" active"), count(" ended"))
}

/// The page to print named the vault that stands in the clear, which whoever
/// writes the folder chooses; a password typed by that page goes there.
#[test]
fn a_key_sheet_names_the_sealed_vault() {
    let (world, vault) = registered();
    let sheet = world.run(&["key", "sheet", "repo", "--key-file", "key"]);
    assert!(!said(&sheet).contains("somebody changed"), "{}", said(&sheet));
    forge(&world, elsewhere);
    let sheet = world.run(&["key", "sheet", "repo", "--key-file", "key"]);
    let page = String::from_utf8(sheet.stdout.clone()).unwrap();
    assert!(page.contains(&vault.address) && !page.contains("evil.example"), "{page}");
    for arguments in [["key", "sheet", "repo", "--key-file", "key"], BY_KEY] {
        let output = world.run(&arguments);
        assert!(output.status.success());
        assert!(said(&output).contains("somebody changed"), "{}", said(&output));
    }
}

const BY_KEY: [&str; 5] = ["ls", "repo", "/", "--key-file", "key"];

/// Only the first entry of the register that claimed to be the newest was
/// tried: a forged one kept the password from opening.
#[test]
fn a_password_goes_on_to_what_other_registers_name() {
    let (world, _vault) = registered();
    // Another vault, which nobody trusts; then no record at the trusted one.
    for forgery in [elsewhere as fn(&mut Locator), |locator| locator.ticket[0] ^= 1] {
        forget_the_entry(&world);
        let before = fs::read(header(&world)).unwrap();
        forge(&world, forgery);
        let opened = world.run(&BY_PASSWORD);
        assert!(opened.status.success(), "{}", said(&opened));
        fs::write(header(&world), before).unwrap();
    }
}

/// A flipped bit in a head's clear part made the right password wrong, and
/// spent a try.
#[test]
fn a_damaged_head_costs_no_try() {
    let (world, _vault) = registered();
    let locator = {
        let header = Header::decode(&fs::read(header(&world)).unwrap()).unwrap();
        let slots = header.register.slots.into_iter();
        slots.map(|slot| slot.bytes).find(|bytes| Locator::decode(bytes).is_ok()).unwrap()
    };
    let head =
        world.files("repo").into_iter().find(|path| path.to_str().unwrap().contains("/head/"));
    let (head, mut bytes) = (head.clone().unwrap(), fs::read(head.unwrap()).unwrap());
    let at = bytes.windows(locator.len()).position(|window| window == locator).unwrap();
    // The cost of Argon2id: three passes become seven.
    assert_eq!(bytes[at + 70], 3);
    bytes[at + 70] = 7;
    fs::write(head, bytes).unwrap();
    let output = world.run(&BY_PASSWORD);
    // The password is right; it is the folder that is not whole.
    assert_eq!(output.status.code(), Some(20), "{}", said(&output));
    let mut wrong = BY_PASSWORD;
    wrong[3] = "wrong";
    let output = world.run(&[&wrong[..], &["--json"]].concat());
    let tries: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &tries["tries_left"]), (Some(12), &9.into()));
}

/// This machine has never opened the folder: nothing is known but the vaults it trusts.
fn forget_the_entry(world: &World) {
    for file in world.files("state") {
        if file.to_str().unwrap().contains("entry-") {
            fs::remove_file(world.path("state").join(file)).unwrap();
        }
    }
}

/// Who listens at a place, and how many came.
struct Trap {
    place: String,
    came: Arc<AtomicUsize>,
}

impl Trap {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = format!("plainrelay+{}", listener.local_addr().unwrap());
        let came = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&came);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counted.fetch_add(1, Ordering::SeqCst);
                drop(stream);
            }
        });
        Self { place, came }
    }

    fn first_in(&self, locator: &mut Locator) {
        let hosts = std::iter::once(self.place.clone()).chain(locator.address.endpoints().to_vec());
        locator.address = Address::new(hosts.collect(), locator.address.fingerprint()).unwrap();
    }
}

/// Whoever writes to the folder, and has no key, put a relay of his own first: the account's
/// token went there, whole.
#[test]
fn no_command_goes_where_only_the_folder_says() {
    let (world, vault) = registered();
    let trap = Trap::new();
    forge(&world, |locator| trap.first_in(locator));
    secret(&world, "token", "eyJhbGciOiJFUzI1NiJ9.e30.c2ln\n");
    let with_token = |arguments: &[&str]| {
        let output = world.run(&[arguments, &["--vault-token", "token"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        said(&output)
    };
    for known in [true, false] {
        if !known {
            forget_the_entry(&world);
        }
        with_token(&["vault", "show", "repo"]);
        let told = with_token(&BY_PASSWORD);
        assert!(told.contains("somebody changed"), "{told}");
    }
    // A new machine that was given the vault's address.
    fs::remove_dir_all(world.path("state")).unwrap();
    let typed = ["--vault", vault.address.as_str()];
    with_token(&[&["vault", "show", "repo"], &typed[..]].concat());
    with_token(&[&BY_PASSWORD[..], &typed].concat());
    assert_eq!(trap.came.load(Ordering::SeqCst), 0, "nobody came to the forged place");
    // It knows the vault and its place from now on.
    let pins = fs::read_to_string(world.path("state/amberfs/vaults")).unwrap();
    assert!(pins.contains(vault.place()) && !pins.contains("plainrelay"), "{pins}");
    with_token(&BY_PASSWORD);
    // Where the known place is silent, the other is told and not asked.
    drop(vault);
    let output = world.run(&[&BY_PASSWORD[..], &["--vault-token", "token"]].concat());
    assert_eq!(output.status.code(), Some(15));
    assert!(said(&output).contains(&trap.place), "{}", said(&output));
    assert_eq!(trap.came.load(Ordering::SeqCst), 0);
}

/// Pinned on this machine, one line for each vault.
fn pins(world: &World) -> String {
    fs::read_to_string(world.path("state/amberfs/vaults")).unwrap()
}

/// A place that was typed for `vault show` was forgotten: the next command went where only
/// the folder said.
#[test]
fn a_place_that_was_typed_once_is_known() {
    let (world, vault) = registered();
    let trap = Trap::new();
    fs::remove_dir_all(world.path("state")).unwrap();
    world.ok(&["vault", "show", "repo", "--vault", &vault.address]);
    assert!(pins(&world).contains(vault.place()), "{}", pins(&world));
    forge(&world, |locator| trap.first_in(locator));
    let opened = world.run(&BY_PASSWORD);
    assert!(opened.status.success(), "{}", said(&opened));
    assert_eq!(trap.came.load(Ordering::SeqCst), 0);
}

/// The password is refused at the entry that this machine kept, and the vault that the
/// folder names now does not answer.
#[test]
fn a_refusal_is_remembered_whoever_else_is_silent() {
    let (world, _vault) = registered();
    assert!(world.run(&BY_PASSWORD).status.success());
    forge(&world, |locator| {
        let silent = vec!["127.0.0.1:1".to_owned()];
        locator.address = Address::new(silent, Fingerprint([7; 32])).unwrap();
        locator.ticket[0] ^= 1;
    });
    let pinned = format!("{}{} 1 127.0.0.1:1\n", pins(&world), "07".repeat(32));
    fs::write(world.path("state/amberfs/vaults"), pinned).unwrap();
    let mut wrong = BY_PASSWORD;
    wrong[3] = "wrong";
    let output = world.run(&wrong);
    assert_eq!(output.status.code(), Some(12), "{}", said(&output));
    assert!(said(&output).contains("9 of 10 tries left"), "{}", said(&output));
    let again = world.run(&wrong);
    assert!(said(&again).contains("it was not sent again"), "{}", said(&again));
}

/// The root says where the vault is, and when its manifest ends; what it does not name any
/// more is forgotten.
#[test]
fn the_root_says_where_the_vault_is_and_until_when_its_manifest_is_good() {
    let (world, vault) = registered();
    let place = vault.place().to_owned();
    let program = env!("CARGO_BIN_EXE_amberfs-vault");
    let root = |arguments: &[&str]| {
        let output = world.program(program, arguments).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    };
    assert!(world.run(&BY_PASSWORD).status.success());
    drop(vault);
    // It ends in ten days: its owner is told, and goes on.
    let file = world.path("vault/manifest");
    let mut manifest = Manifest::own(&fs::read(&file).unwrap()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    (manifest.epoch, manifest.ends) = (2, now.as_secs() + 10 * 24 * 3600);
    let key = fs::read(world.path("vault/root.key")).unwrap().try_into().unwrap();
    let signed = sign_manifest(&manifest, &[&SigningKey::from_bytes(&key)]);
    fs::write(&file, signed).unwrap();
    let vault = Vault::serve(&world, "vault", &place);
    let opened = world.run(&BY_PASSWORD);
    assert!(opened.status.success() && said(&opened).contains("root renew"), "{}", said(&opened));
    drop(vault);
    root(&["root", "renew", "vault"]);
    root(&["root", "places", "vault", "other.example:7007", &place]);
    let vault = Vault::serve(&world, "vault", &place);
    let opened = world.run(&BY_PASSWORD);
    assert!(opened.status.success() && !said(&opened).contains("root renew"), "{}", said(&opened));
    let known = {
        let fingerprint = vault.address.rsplit_once('#').unwrap().1;
        format!("{fingerprint} 4 other.example:7007,{place}\n")
    };
    assert_eq!(pins(&world), known);
}

/// Whoever writes to the folder changed the cost of Argon2id there: the right password was a
/// counted failure, and its file was refused for good.
#[test]
fn a_forged_cost_takes_no_try_and_no_file_is_refused() {
    for known in [true, false] {
        let (world, _vault) = registered();
        let tries = || {
            let shown = world.run(&["vault", "show", "repo", "--json"]);
            let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
            (shown["tries_left"].clone(), shown["failures_left"].clone())
        };
        let before = tries();
        let good = fs::read(header(&world)).unwrap();
        forge(&world, |locator| locator.cost.passes += 1);
        if !known {
            forget_the_entry(&world);
        }
        // By the entry that this machine kept, or by that of the next register.
        let opened = world.run(&BY_PASSWORD);
        assert!(opened.status.success(), "{known}: {}", said(&opened));
        assert!(said(&opened).contains("somebody changed"), "{}", said(&opened));
        assert_eq!(tries(), before, "{known}");
        fs::write(header(&world), good).unwrap();
        let opened = world.run(&BY_PASSWORD);
        assert!(opened.status.success(), "{known}: {}", said(&opened));
    }
}

/// The vault moved: it has another address and the same root.
#[test]
fn a_vault_that_moved_is_found_where_the_user_says() {
    let (world, vault) = registered();
    let old = vault.place().to_owned();
    drop(vault);
    assert_eq!(world.run(&BY_PASSWORD).status.code(), Some(15));
    let vault = Vault::start(&world);
    assert_ne!(vault.place(), old);
    let option = ["--vault", vault.address.as_str()];
    let opened = world.run(&[&BY_PASSWORD[..], &option].concat());
    assert!(opened.status.success(), "{}", said(&opened));
    let shown = world.run(&[&["vault", "show", "repo"], &option[..]].concat());
    assert!(shown.status.success(), "{}", said(&shown));
    // A new password is registered there, and the old record ends there too.
    let mut arguments = vec!["passwd", "repo", "--new-password-file", "new"];
    arguments.extend(COST);
    arguments.extend(option);
    world.ok(&arguments);
    assert_eq!(records(&world, "vault"), ("1".into(), "1".into()));
    let mut by_new = BY_PASSWORD;
    by_new[3] = "new";
    assert!(world.run(&by_new).status.success());
}

/// The new vault's address was taken for the one to open at, and refused.
#[test]
fn the_old_password_is_enough_to_move_to_another_vault() {
    let (world, _vault) = registered();
    let other = Vault::serve(&world, "other", "127.0.0.1:0");
    let mut arguments = vec!["passwd", "repo", "--password-file", "password"];
    arguments.extend(["--vault", &other.address, "--new-password-file", "new"]);
    arguments.extend(COST);
    let moved = world.run(&arguments);
    assert!(moved.status.success(), "{}", said(&moved));
    assert_eq!(records(&world, "vault"), ("0".into(), "1".into()));
    assert_eq!(records(&world, "other"), ("1".into(), "0".into()));
}

/// A record that could not be ended when its password was replaced (a vault
/// that was away, a crash in between) was never ended.
#[test]
fn replaced_records_end_later() {
    let (world, vault) = registered();
    let place = vault.place().to_owned();
    drop(vault);
    let other = Vault::serve(&world, "other", "127.0.0.1:0");
    let change = |new: &str, vault: &str| {
        let mut arguments = vec!["passwd", "repo", "--key-file", "key", "--vault", vault];
        arguments.extend(["--new-password-file", new]);
        arguments.extend(COST);
        let output = world.run(&arguments);
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    let warned = change("new", &other.address);
    assert!(warned.contains("vault remove --replaced"), "{warned}");
    let again = ["vault", "remove", "--replaced", "repo"];
    world.fails(&again, 15);
    let back = Vault::serve(&world, "vault", &place);
    assert_eq!(records(&world, "vault"), ("1".into(), "0".into()));
    world.ok(&again);
    assert_eq!(records(&world, "vault"), ("0".into(), "1".into()));
    assert_eq!(records(&world, "other"), ("1".into(), "0".into()));
    world.ok(&again);
    // The next change of the password does it by itself.
    drop(back);
    change("password", &other.address);
    let back = Vault::serve(&world, "vault", &place);
    drop(other);
    let other_away = change("new", &back.address);
    assert!(other_away.contains("could not be ended"), "{other_away}");
    let other = Vault::serve(&world, "other", "127.0.0.1:0");
    change("password", &other.address);
    assert_eq!(records(&world, "other"), ("1".into(), "2".into()));
    assert_eq!(records(&world, "vault"), ("0".into(), "2".into()));
}

#[test]
fn a_vault_that_is_gone_can_be_given_up() {
    let (world, vault) = registered();
    drop(vault);
    let said = world.fails(&["vault", "remove", "repo"], 15);
    assert!(said.contains("nothing was changed") && said.contains("--give-up"), "{said}");
    world.ok(&["vault", "remove", "repo", "--give-up"]);
    assert!(world.ok(&["vault", "show", "repo"]).contains("no vault"));
    world.ok(&["ls", "repo"]);
}

#[test]
fn failures_are_shown_at_the_next_opening() {
    let (world, _vault) = registered();
    assert_eq!(said(&world.run(&BY_PASSWORD)), "");
    let mut wrong = BY_PASSWORD;
    wrong[3] = "wrong";
    for _ in 0..2 {
        let again = [&wrong[..], &["--retry"]].concat();
        assert_eq!(world.run(&again).status.code(), Some(12));
    }
    let opened = world.run(&BY_PASSWORD);
    assert!(said(&opened).contains("2 of 50 failed attempts"), "{}", said(&opened));
}

#[test]
fn what_looks_like_a_key_is_no_new_password() {
    let (world, vault) = registered();
    secret(&world, "digits", &"4f".repeat(32));
    secret(&world, "mistyped", &"4f7q".repeat(12).replacen('q', "a", 9));
    for new in ["digits", "mistyped"] {
        let said = world.fails(&["passwd", "repo", "--new-password-file", new], 2);
        assert!(said.contains("look like a 64-digit key"), "{said}");
    }
    assert_eq!(records(&world, "vault").0, "1");
    // Two secrets from one stream: said before anything is asked or spent.
    drop(vault);
    let twice = ["passwd", "repo", "-p", "-", "--new-password-file", "-"];
    let output = world.run(&twice);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("standard input"));
}

/// At the one question, a key with a mistake in it went to the vault as a
/// password, and spent a try.
#[test]
fn a_mistyped_key_is_not_sent_to_the_vault() {
    let (world, _vault) = registered();
    let command = format!("{} ls repo", env!("CARGO_BIN_EXE_amberfs"));
    let terminal = world
        .program("script", &["-qec", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut terminal) = terminal else {
        println!("SKIPPED: mistyped key: script(1) is missing");
        return;
    };
    let mut shown = Vec::new();
    let mut output = terminal.stdout.take().unwrap();
    while !shown.ends_with(b"64-digit key: ") {
        let mut byte = [0];
        output.read_exact(&mut byte).unwrap();
        shown.push(byte[0]);
    }
    let key = fs::read_to_string(world.path("key")).unwrap().replace(char::is_whitespace, " ");
    let mut input = terminal.stdin.take().unwrap();
    writeln!(input, "{}", key.trim().replacen(|digit: char| digit.is_ascii_digit(), "o", 1))
        .unwrap();
    output.read_to_end(&mut shown).unwrap();
    assert_eq!(terminal.wait().unwrap().code(), Some(12));
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("in group"), "{shown}");
    let opened = world.run(&BY_PASSWORD);
    assert_eq!(said(&opened), "", "no try was spent");
}

/// The key file could not be made only after the vault had a record.
#[test]
fn init_takes_the_key_files_place_first() {
    let world = World::new();
    let vault = Vault::start(&world);
    secret(&world, "password", "seven small boats drift home\n");
    secret(&world, "key", "something else");
    let init = |vault: &str| {
        let mut arguments = vec!["init", "repo", "--vault", vault, "--key-out", "key"];
        arguments.extend(["--password-file", "password"]);
        arguments.extend(COST);
        world.run(&arguments)
    };
    assert_eq!(init(&vault.address).status.code(), Some(2));
    assert_eq!(fs::read_to_string(world.path("key")).unwrap(), "something else");
    assert_eq!(records(&world, "vault"), ("0".into(), "0".into()));
    // Without a registration there is no key file either.
    fs::remove_file(world.path("key")).unwrap();
    let mut unbindable = vec!["init", "repo", "--vault", &vault.address, "--key-out", "key"];
    unbindable.extend(["--password-file", "password", "--bind-account", "yes"]);
    unbindable.extend(COST);
    let refused = world.run(&unbindable);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("no account to bind the password to"), "{}", said(&refused));
    assert_eq!(records(&world, "vault"), ("0".into(), "0".into()));
    assert!(!world.path("key").exists());
    let address = vault.address.clone();
    drop(vault);
    assert_eq!(init(&address).status.code(), Some(15));
    assert!(!world.path("key").exists());
}

/// The record, and the invite it took, stayed for a repository that was never made.
#[test]
fn an_init_that_fails_late_ends_its_record() {
    let world = World::new();
    let vault = Vault::start(&world);
    secret(&world, "password", "seven small boats drift home\n");
    fs::write(world.path("file"), "").unwrap();
    let mut arguments = vec!["init", "repo", "--vault", &vault.address, "--key-out", "key"];
    arguments.extend(["--password-file", "password", "--state", "file/state"]);
    arguments.extend(COST);
    let told = world.fails(&arguments, 1);
    assert!(told.contains("file/state") && !told.contains("could not be"), "{told}");
    assert_eq!(records(&world, "vault"), ("0".into(), "1".into()));
    assert!(!world.path("key").exists() && !world.path("repo").exists());
}

/// systemd gives a unit with `User=` its credentials as files of root's, mode
/// 0440, that an access list opens: the list's mask shows as the group's.
#[test]
fn credentials_of_a_units_user_are_taken() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: credentials: needs root to own a file as systemd does");
        return;
    }
    let world = World::with_repo();
    fs::create_dir(world.path("credentials")).unwrap();
    let credential = world.path("credentials/amberfs.key");
    fs::copy(world.path("key"), &credential).unwrap();
    let code = |mode, given: bool| {
        fs::set_permissions(&credential, fs::Permissions::from_mode(mode)).unwrap();
        let mut command = world.command(&["ls", "repo"]);
        if given {
            command.arg("--key-file").arg(&credential);
        } else {
            command.env("CREDENTIALS_DIRECTORY", world.path("credentials"));
        }
        command.output().unwrap().status.code()
    };
    assert_eq!(code(0o440, false), Some(0));
    assert_eq!(code(0o440, true), Some(2), "only for what systemd gives");
    for open in [0o444, 0o460, 0o401] {
        assert_eq!(code(open, false), Some(2), "{open:o}");
    }
}

/// A machine that starts again and again with the same wrong file used up all tries.
#[test]
fn a_refused_password_file_is_not_sent_again_until_it_changes() {
    let (world, _vault) = registered();
    let tries = |arguments: &[&str]| {
        let output = world.run(&[&["ls", "repo", "--json"], arguments].concat());
        assert_eq!(output.status.code(), Some(12), "{}", said(&output));
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (answer["tries_left"].clone(), answer["message"].to_string())
    };
    let wrong = ["--password-file", "wrong"];
    assert_eq!(tries(&wrong).0, 9);
    let (left, error) = tries(&wrong);
    assert!(left.is_null() && error.contains("not sent again"), "{left} {error}");
    // By another name it is the same file.
    std::os::unix::fs::symlink("wrong", world.path("link")).unwrap();
    assert!(tries(&["--password-file", "link"]).1.contains("not sent again"));
    assert_eq!(tries(&[&wrong[..], &["--retry"]].concat()).0, 8);
    assert!(tries(&wrong).1.contains("not sent again"));
    // Changed, it is another one; nothing of it was kept but where it lies and when it changed.
    secret(&world, "wrong", "seven small boats drift about\n");
    assert_eq!(tries(&wrong).0, 7);
    let kept = world.files("state/amberfs").into_iter().find(|path| path.ends_with("refused"));
    let kept = fs::read_to_string(kept.expect("it is remembered")).unwrap();
    assert!(!kept.contains("boats") && kept.lines().count() <= 2, "{kept}");
    fs::copy(world.path("password"), world.path("wrong")).unwrap();
    world.run(&["ls", "repo", "--password-file", "wrong"]);
    assert!(world.run(&BY_PASSWORD).status.success());
}

/// A command that printed the same wrong password at every start used up all tries: only
/// files were remembered.
#[test]
fn a_refused_password_of_a_command_is_not_sent_again() {
    let (world, _vault) = registered();
    let tries = |command: &str, more: &[&str]| {
        let all = [&["ls", "repo", "--json", "--password-command", command], more].concat();
        let output = world.run(&all);
        assert_eq!(output.status.code(), Some(12), "{}", said(&output));
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (answer["tries_left"].clone(), answer["message"].to_string())
    };
    assert_eq!(tries("cat wrong", &[]).0, 9);
    for command in ["cat wrong", "tr -d '\\n' <wrong", "sed 's/$/\r/' wrong"] {
        let (left, error) = tries(command, &[]);
        assert!(left.is_null() && error.contains("not sent again"), "{command}: {left} {error}");
    }
    assert_eq!(tries("cat wrong", &["--retry"]).0, 8);
    assert!(tries("cat wrong", &[]).1.contains("not sent again"));
    // What is kept is too little to guess by, and nothing of the command.
    let kept = world.files("state/amberfs").into_iter().find(|path| path.ends_with("refused"));
    let kept = fs::read_to_string(kept.expect("it is remembered")).unwrap();
    let [line] = kept.lines().collect::<Vec<_>>()[..] else { panic!("one line: {kept}") };
    let words: Vec<&str> = line.split(' ').collect();
    assert!(matches!(words[..], [_, "command", tag] if tag.len() == 2), "{line}");
    // The right one opens by the same command; on one of 256 machines it looks like the wrong.
    fs::copy(world.path("password"), world.path("wrong")).unwrap();
    let by_command = ["ls", "repo", "--password-command", "cat wrong"];
    let mut opened = world.run(&by_command);
    if said(&opened).contains("not sent again") {
        opened = world.run(&[&by_command[..], &["--retry"]].concat());
    }
    assert!(opened.status.success(), "{}", said(&opened));
    // A file with the same text is a file still.
    secret(&world, "file", "seven small boats drift away\n");
    let by_file = world.run(&["ls", "repo", "--json", "--password-file", "file"]);
    let answer: serde_json::Value = serde_json::from_slice(&by_file.stdout).unwrap();
    assert_eq!(answer["tries_left"], 9);
}
