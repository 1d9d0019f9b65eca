//! The units we ship, and what happens to tries where the machine is short of
//! memory.

use amberfs::vault::client::VaultError;
use amberfs::vault::protocol::Tries;

use crate::main_job::{COST, Vault, secret};
use crate::world::World;

/// A service manager that starts a mount again and again must not use tries up.
#[test]
fn the_unit_does_not_repeat_what_costs_tries() {
    let unit = include_str!("../../mount-helper/systemd/amberfs@.service");
    let value = |name: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("{name} is missing")).to_string()
    };
    let prevented = value("RestartPreventExitStatus");
    let tries = Tries { left: 9, failures_left: 49, not_before: 0 };
    let unanswered =
        VaultError::Unanswered { host: String::new(), why: String::new(), right: false };
    for error in [
        VaultError::WrongPassword(tries),
        VaultError::Closed { until: 0 },
        VaultError::Memory { counted: true },
        VaultError::ForeignKey,
        VaultError::Unexpected(""),
        unanswered,
    ] {
        let code = error.exit_code().to_string();
        assert!(prevented.split(' ').any(|listed| listed == code), "{code}: {error}");
    }
    assert_eq!(value("StartLimitIntervalSec"), "1d");
    assert!(value("StartLimitBurst").parse::<u32>().unwrap() < 10);
}

/// Argon2id's memory was claimed only after the vault had counted the attempt.
#[test]
fn want_of_memory_costs_no_try() {
    let world = World::new();
    let vault = Vault::start(&world);
    secret(&world, "password", "seven small boats drift home\n");
    secret(&world, "wrong", "seven small boats drift away\n");
    let mut arguments = vec!["init", "repo", "--vault", &vault.address, "--key-out", "key"];
    arguments.extend(["--password-file", "password"]);
    arguments.extend(COST);
    world.ok(&arguments);
    let mut shell = world.command(&["ls", "repo", "--password-file", "password"]);
    let program = shell.get_program().to_owned();
    let limited = world
        .program("/bin/sh", &["-c", "ulimit -v 60000; exec \"$0\" \"$@\""])
        .arg(program)
        .args(["ls", "repo", "--password-file", "password"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&limited.stderr);
    assert_eq!(limited.status.code(), Some(18), "{said}");
    assert!(said.contains("No try was spent"), "{said}");
    let wrong = world.run(&["ls", "repo", "--json", "--password-file", "wrong"]);
    let said: serde_json::Value = serde_json::from_slice(&wrong.stdout).unwrap();
    assert_eq!(said["tries_left"], 9);
    assert!(shell.status().unwrap().success());
}
