//! What a machine goes through: it sleeps, loses its power right after an
//! unmount, starts before its network does.

use std::fs;
use std::time::Instant;

use crate::main_job::{COST, Vault, secret};
use crate::mounted::has_fuse;
use crate::power::{Disk, can_be_cut, new_image};
use crate::units::{executable, programs};
use crate::world::{World, noise};

const HOOK: &str = include_str!("../../mount-helper/systemd/before-sleep");

/// It is run before systemd-suspend.service, which comes after sleep.target, and
/// before systemd holds users' processes still; and it ends by itself.
#[test]
fn the_unit_for_sleep_runs_before_anything_sleeps() {
    let unit = include_str!("../../mount-helper/systemd/amberfs-sleep.service");
    for line in ["Type=oneshot", "Before=sleep.target", "WantedBy=sleep.target"] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
    let number = |text: &str, name: &str| -> u32 {
        let value = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        value.parse().unwrap()
    };
    let limit = number(HOOK, "LIMIT=");
    assert!(limit <= 10 && limit + 5 <= number(unit, "TimeoutStartSec="));
}

/// Writes the hook into a world as `make install` does, for this program.
fn hook(world: &World, program: &str, limit: u32) {
    let hook = HOOK.replace("/usr/local/bin/amberfs", program);
    let hook = hook.replace("LIMIT=10\n", &format!("LIMIT={limit}\n"));
    fs::write(world.path("hook"), hook).unwrap();
    executable(&world.path("hook"));
}

/// Mounts as a user who is not root, changes something, and calls the hook as
/// systemd does. The user, and /run, are of a mount namespace of its own.
fn as_ada(world: &World, script: &str) -> String {
    let programs = programs("sleep").unwrap();
    fs::copy(programs.join("amberfs"), world.path("amberfs")).unwrap();
    executable(&world.path("amberfs"));
    fs::create_dir(world.path("home")).unwrap();
    fs::create_dir(world.path("mnt")).unwrap();
    let before = r#"
        cat /etc/passwd > passwd
        echo "ada:x:61234:61234::$PWD/home:/bin/sh" >> passwd
        mount --bind passwd /etc/passwd
        mknod -m 666 fuse c 10 229
        mount --bind fuse /dev/fuse
        mount -t tmpfs none /run
        mkdir -p /run/user/61234
        chown -R 61234:61234 . /run/user/61234
        chmod 700 /run/user/61234
        as_ada() {
            setpriv --reuid=61234 --regid=61234 --clear-groups env -u XDG_STATE_HOME HOME="$PWD/home" \
                XDG_RUNTIME_DIR=/run/user/61234 "$@"
        }
        waiting() { as_ada ./amberfs status --json mnt | sed 's/.*"waiting_changes":\([0-9]*\).*/\1/'; }
        as_ada ./amberfs init -q repo --key-out key
        as_ada ./amberfs mount repo mnt --key-file key
        trap 'as_ada ./amberfs umount mnt 2>/dev/null || umount -l mnt' EXIT
        as_ada sh -c 'echo changed > mnt/file'
    "#;
    let script = format!("{before}\n{script}");
    let output = world.program("unshare", &["-m", "/bin/sh", "-ec", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

fn can_sleep(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: {test}: needs root");
        return false;
    }
    has_fuse(test) && programs(test).is_some()
}

#[test]
fn before_sleep_everything_goes_into_the_repository() {
    if !can_sleep("sleep") {
        return;
    }
    let world = World::new();
    hook(&world, world.path("amberfs").to_str().unwrap(), 10);
    let script = r#"
        test "$(waiting)" -gt 0 && echo waits
        ./hook
        waiting
        as_ada sh -c 'cat mnt/file'
        find repo ! -user 61234
    "#;
    assert_eq!(as_ada(&world, script), "waits\n0\nchanged\n");
}

/// A daemon that does not answer must not keep the machine awake.
#[test]
fn what_hangs_does_not_keep_a_machine_from_sleeping() {
    if !can_sleep("awake") {
        return;
    }
    let world = World::new();
    // It hears no SIGTERM. Other mounts of this machine are asked for too.
    fs::write(world.path("hangs"), "#!/bin/sh\ntrap '' TERM\necho \"$@\" >>asked\nsleep 1000\n")
        .unwrap();
    executable(&world.path("hangs"));
    hook(&world, world.path("hangs").to_str().unwrap(), 2);
    let script = r"
        started=$(date +%s)
        ./hook >/dev/null 2>&1
        echo took $(($(date +%s) - started))
        sort -u asked
    ";
    let started = Instant::now();
    let said = as_ada(&world, script);
    let (took, asked) = said.split_once('\n').unwrap();
    let took: u64 = took.strip_prefix("took ").unwrap().parse().unwrap();
    assert!((2..8).contains(&took), "{took} s, {:?} in all", started.elapsed());
    assert_eq!(asked, "sync --all\n");
}

/// All that `umount` returned for is on the disk, with nothing flushed after.
#[test]
fn power_may_go_in_the_moment_after_umount() {
    if !can_be_cut("umount and power off") {
        return;
    }
    for (round, large) in [false, true].into_iter().enumerate() {
        let (images, image) = new_image("300M");
        let world = World::new();
        // By itself it sends nothing that nobody waits for.
        let options = "noinit_itable,commit=300";
        let disk = Disk::mount(&image, world.path("disk"), options);
        let secret = ["--state", "disk/state", "--key-file", "key"];
        let made = world.run(&["init", "disk/repo", "--key-out", "key", "--state", "disk/state"]);
        assert!(made.status.success());
        let mount = world.mount("disk/repo", "mnt", &secret);
        fs::create_dir(world.path("mnt/folder")).unwrap();
        fs::write(world.path("mnt/folder/small"), "small").unwrap();
        let size = if large { 30 << 20 } else { 300 };
        fs::write(world.path("mnt/large"), noise(size, round as u64)).unwrap();
        mount.unmount(&world);
        let copy = images.path().join("copy");
        fs::copy(&image, &copy).unwrap();
        disk.unmount();
        let disk = Disk::mount(&copy, world.path("disk"), options);
        // From REPO alone, as on another machine; then with this one's state.
        let alone = ["cat", "disk/repo", "folder/small", "--state", "other"];
        assert_eq!(world.ok(&alone), "small");
        world.ok(&["check", "disk/repo", "--read-data", "--state", "other"]);
        let mount = world.mount("disk/repo", "mnt", &secret);
        assert!(fs::read(world.path("mnt/large")).unwrap() == noise(size, round as u64));
        assert!(!world.log().contains("brought back"), "{}", world.log());
        mount.unmount(&world);
        disk.unmount();
    }
}

/// At boot there may be no network yet: the vault cannot be reached, which costs
/// no try, and the unit tries again. With a key nobody needs the network.
#[test]
fn a_mount_before_the_network_is_made_once_it_is_there() {
    if !has_fuse("network") {
        return;
    }
    let unit = include_str!("../../mount-helper/systemd/amberfs@.service");
    let prevented = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus="));
    assert!(prevented.unwrap().split(' ').all(|code| code != "15"), "15 is tried again");
    assert!(unit.contains("\nRestart=on-failure\n"));
    let world = World::new();
    let vault = Vault::start(&world);
    let place = vault.place().to_string();
    secret(&world, "password", "seven small boats drift home\n");
    secret(&world, "wrong", "seven small boats drift away\n");
    let arguments = ["init", "repo", "--vault", &vault.address, "--key-out", "key"];
    world.ok(&[&arguments[..], &["--password-file", "password"], &COST].concat());
    drop(vault);
    fs::create_dir(world.path("mnt")).unwrap();
    for _ in 0..3 {
        let output = world.run(&["mount", "-f", "repo", "mnt", "--password-file", "password"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(15), "{said}");
    }
    world.mount("repo", "mnt", &["--key-file", "key"]).unmount(&world);
    let _vault = Vault::serve(&world, "vault", &place);
    let mount = world.mount("repo", "mnt", &["--password-file", "password"]);
    mount.unmount(&world);
    let wrong = world.run(&["ls", "repo", "--json", "--password-file", "wrong"]);
    let said: serde_json::Value = serde_json::from_slice(&wrong.stdout).unwrap();
    assert_eq!(said["tries_left"], 9, "none was spent before");
}

/// On a machine alone, `status` said "not proven by another device yet" for ever; and
/// a device that had published nothing showed another's time as that of its own
/// generation 0.
#[test]
fn status_says_of_one_machine_what_one_machine_can_know() {
    if !has_fuse("status") {
        return;
    }
    let world = World::with_repo();
    let status = || {
        let run = |more: &[&str]| world.ok(&[&["status", "mnt"], more].concat());
        (run(&[]), serde_json::from_str::<serde_json::Value>(&run(&["--json"])).unwrap())
    };
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    fs::write(world.path("mnt/file"), "x").unwrap();
    world.ok(&["sync", "mnt"]);
    let (shown, value) = status();
    assert!(shown.contains("no other device has written here: only the sync client"), "{shown}");
    assert!(value["others"] == 0 && value["time"].is_i64(), "{value}");
    assert_eq!(value["newest"]["time"], value["time"]);
    mount.unmount(&world);
    let mount = world.mount("repo", "mnt", &["--key-file", "key", "--state", "other"]);
    let (shown, value) = status();
    assert!(shown.contains("nothing of this device yet; "), "{shown}");
    assert!(shown.contains("the other device has not shown yet"), "{shown}");
    assert!(!shown.contains("generation 0"), "{shown}");
    assert!(value["time"].is_null() && value["others"] == 1, "{value}");
    assert!(value["newest"]["time"].is_i64(), "{value}");
    mount.unmount(&world);
}
