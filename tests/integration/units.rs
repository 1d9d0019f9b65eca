//! What we ship beside the programs: units, the mount helper, `make install`;
//! and what happens to tries where the machine is short of memory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use amberfs::vault::client::VaultError;
use amberfs::vault::protocol::Tries;

use crate::main_job::{COST, Vault, secret};
use crate::mounted::has_fuse;
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

/// A daemon that was killed leaves a dead mount; one that ended by itself has
/// cleared up, or found the mount of another there.
#[test]
fn the_unit_clears_what_a_killed_daemon_left() {
    let unit = include_str!("../../mount-helper/systemd/amberfs@.service");
    let after = unit.lines().find_map(|line| line.strip_prefix("ExecStopPost=-")).unwrap();
    let command = after.strip_prefix("/bin/sh -c '").unwrap().strip_suffix('\'').unwrap();
    let command = command.replace("$$", "$");
    let world = World::new();
    fs::create_dir(world.path("bin")).unwrap();
    fs::write(world.path("bin/fusermount3"), "#!/bin/sh\necho \"$@\"\n").unwrap();
    executable(&world.path("bin/fusermount3"));
    for (how, ran) in [("exited", ""), ("killed", "-u -z -- /a b\n"), ("dumped", "-u -z -- /a b\n")]
    {
        let output = world
            .program("/bin/sh", &["-c", &command])
            .env("PATH", world.path("bin"))
            .env("EXIT_CODE", how)
            .env("MOUNTPOINT", "/a b")
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), ran, "{how}");
    }
}

pub fn executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The folder of the programs, if the helper is there too.
pub fn programs(test: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_BIN_EXE_amberfs")).parent().unwrap();
    let built = folder.join("mount-amberfs").exists();
    if !built {
        println!("SKIPPED: {test}: mount-amberfs is not built; cargo build --workspace does it");
    }
    built.then(|| folder.to_path_buf())
}

/// Root's helper ran the daemon as root, and its files in REPO were root's; and
/// its exit codes were those of amberfs.
#[test]
fn the_helper_mounts_as_the_owner_of_the_repository() {
    let Some(programs) = programs("helper") else { return };
    if !has_fuse("helper") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: helper: needs root");
        return;
    }
    let world = World::with_repo();
    for folder in ["bin", "home", "mnt"] {
        fs::create_dir(world.path(folder)).unwrap();
    }
    for program in ["amberfs", "mount-amberfs"] {
        fs::copy(programs.join(program), world.path("bin").join(program)).unwrap();
        executable(&world.path("bin").join(program));
    }
    executable(&world.path(""));
    let script = r#"
        cat /etc/passwd > passwd
        echo "ada:x:61234:61234::$PWD/home:/bin/sh" >> passwd
        chown -R 61234:61234 repo key home mnt
        mount --bind passwd /etc/passwd
        mknod -m 666 fuse c 10 229
        mount --bind fuse /dev/fuse
        helper() { rc=0; bin/mount-amberfs "$@" -o "$options" || rc=$?; echo "$rc"; }
        options=noauto,users,sync,suid,key_file=$PWD/key
        helper repo mnt
        grep " $PWD/mnt " /proc/mounts
        helper repo mnt
        as="setpriv --reuid=61234 --regid=61234 --clear-groups env -u XDG_RUNTIME_DIR"
        $as -u XDG_STATE_HOME HOME="$PWD/home" bin/amberfs umount mnt
        helper none mnt
        options=$options,surprise
        helper repo mnt
        find repo ! -user 61234
    "#;
    let output = world.program("unshare", &["-m", "/bin/sh", "-ec", script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let shown = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = shown.lines().collect();
    let [mounted, mount, twice, nowhere, wrong] = lines[..] else { panic!("{shown}{said}") };
    assert!(mount.contains("nosuid,nodev") && mount.contains("user_id=61234"), "{mount}");
    assert_eq!([mounted, twice, nowhere, wrong], ["0", "32", "32", "1"], "{said}");
}

#[test]
fn what_is_installed_is_all_there_and_finds_itself() {
    let Some(programs) = programs("install") else { return };
    let world = World::new();
    let make = |arguments: &[String]| {
        let root = env!("CARGO_MANIFEST_DIR");
        world.program("make", &["-s", "-C", root, "install"]).args(arguments).output().unwrap()
    };
    let destination = format!("DESTDIR={}", world.path("to").display());
    let built = format!("BUILT={}", programs.display());
    let output = make(&[destination.clone(), built, "PREFIX=/opt/amber".into()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let installed: Vec<String> = world
        .files("to")
        .iter()
        .map(|path| path.strip_prefix(world.path("to")).unwrap())
        .map(|path| path.display().to_string())
        .collect();
    assert_eq!(
        installed,
        [
            "opt/amber/bin/amberfs",
            "opt/amber/bin/amberfs-vault",
            "opt/amber/lib/amberfs/before-sleep",
            "opt/amber/lib/systemd/system/amberfs-relay.service",
            "opt/amber/lib/systemd/system/amberfs-sleep.service",
            "opt/amber/lib/systemd/system/amberfs-vault.service",
            "opt/amber/lib/systemd/system/sleep.target.wants/amberfs-sleep.service",
            "opt/amber/lib/systemd/user/amberfs@.service",
            "opt/amber/share/bash-completion/completions/amberfs",
            "opt/amber/share/fish/vendor_completions.d/amberfs.fish",
            "opt/amber/share/zsh/site-functions/_amberfs",
            "sbin/mount.amberfs",
        ]
    );
    let unit = world.path("to/opt/amber/lib/systemd/user/amberfs@.service");
    let unit = fs::read_to_string(unit).unwrap();
    assert!(unit.contains("ExecStart=/opt/amber/bin/amberfs mount"), "{unit}");
    let sleep = world.path("to/opt/amber/lib/systemd/system/sleep.target.wants");
    let sleep = fs::read_to_string(sleep.join("amberfs-sleep.service")).unwrap();
    assert!(sleep.contains("ExecStart=/opt/amber/lib/amberfs/before-sleep\n"), "{sleep}");
    let script = world.path("to/opt/amber/lib/amberfs/before-sleep");
    assert!(fs::read_to_string(&script).unwrap().contains("AMBERFS=/opt/amber/bin/amberfs\n"));
    assert_eq!(fs::metadata(script).unwrap().permissions().mode() & 0o777, 0o755);
    let completions = world.path("to/opt/amber/share/zsh/site-functions/_amberfs");
    assert!(fs::read_to_string(completions).unwrap().starts_with("#compdef amberfs"));
    let output = make(&[destination, format!("BUILT={}", world.path("none").display())]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("cargo build --release --workspace"));
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
