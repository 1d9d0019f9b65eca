//! What we ship beside the programs: units, the mount helper, `make install`;
//! and what happens to tries where the machine is short of memory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use amberfs::vault::client::VaultError;
use amberfs::vault::line::{Greeting, Timeouts};
use amberfs::vault::listen::descriptors_for;
use amberfs::vault::protocol::{Address, Request, Tries};
use amberfs::vault::relay::{CONNECTIONS_MAX, DESCRIPTORS_EACH, RelayLimits};
use amberfs::vault::serve::Limits;

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
    let tries = Tries { left: 9, failures_left: 49, wait: 0 };
    let unanswered =
        VaultError::Unanswered { host: String::new(), why: String::new(), right: false };
    for error in [
        VaultError::WrongPassword(tries),
        VaultError::Closed { left: 0 },
        VaultError::Memory { counted: true },
        VaultError::ForeignKey,
        VaultError::Unexpected(""),
        unanswered,
    ] {
        let code = error.exit_code().number().to_string();
        assert!(prevented.split(' ').any(|listed| listed == code), "{code}: {error}");
    }
    assert_eq!(value("StartLimitIntervalSec"), "1d");
    assert!(value("StartLimitBurst").parse::<u32>().unwrap() < 10);
}

const SERVERS: [(&str, &str); 2] = [
    ("amberfs-vault.service", include_str!("../../mount-helper/systemd/amberfs-vault.service")),
    ("amberfs-relay.service", include_str!("../../mount-helper/systemd/amberfs-relay.service")),
];

/// Most bytes of memory that a unit gives its program.
fn memory_max(unit: &str) -> u64 {
    let line = unit.lines().find_map(|line| line.strip_prefix("MemoryMax="));
    let mebibytes = line.expect("MemoryMax is set").strip_suffix('M').expect("in mebibytes");
    mebibytes.parse::<u64>().unwrap() << 20
}

/// A leak, or strangers, took the machine's memory; and keys could be swapped out.
#[test]
fn the_units_of_servers_bound_memory_and_hide_the_machine() {
    for (name, unit) in SERVERS {
        for wanted in ["MemorySwapMax=0", "ProcSubset=pid", "ProtectProc=invisible"] {
            assert!(unit.lines().any(|line| line == wanted), "{name}: {wanted}");
        }
        assert!(memory_max(unit) >= 128 << 20, "{name}");
    }
}

/// What systemd thinks of them: a setting that it does not know would be passed over.
#[test]
fn systemd_understands_the_units_of_servers() {
    let world = World::new();
    let analyze = |arguments: &[&str]| world.program("systemd-analyze", arguments).output();
    if analyze(&["--version"]).is_err() {
        println!("SKIPPED: units of servers: systemd-analyze is missing");
        return;
    }
    for (name, unit) in SERVERS {
        let program = env!("CARGO_BIN_EXE_amberfs-vault");
        fs::write(world.path(name), unit.replace("/usr/local/bin/amberfs-vault", program)).unwrap();
        let verified = analyze(&["verify", &format!("./{name}")]).unwrap();
        let told = String::from_utf8_lossy(&verified.stderr).into_owned();
        let ours: Vec<_> = told.lines().filter(|line| line.contains(name)).collect();
        assert!(ours.is_empty(), "{ours:?}");
        let judged = analyze(&["security", "--offline=true", &format!("./{name}")]).unwrap();
        let told = String::from_utf8_lossy(&judged.stdout).into_owned();
        let level = told.lines().find_map(|line| {
            let (_, level) = line.split_once("exposure level for")?;
            level.split_whitespace().nth(1)?.parse::<f64>().ok()
        });
        println!("{name}: exposure level {level:?}");
        assert!(level.is_some_and(|level| level < 2.0), "{told}");
    }
}

/// `ProcSubset=pid` shows processes below /proc and nothing else.
#[test]
fn a_vault_serves_where_proc_has_only_processes() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: ProcSubset: needs root");
        return;
    }
    let world = World::new();
    secret(&world, "password", "seven small boats drift home\n");
    let script = format!(
        r#"
        mount -t proc -o subset=pid,hidepid=invisible proc /proc
        test ! -e /proc/meminfo
        {vault} init vault
        {vault} serve vault --listen 127.0.0.1:0 >served 2>log &
        trap "kill $!" EXIT
        n=0
        until grep -q address served; do n=$((n+1)); test $n -lt 200; sleep 0.1; done
        {vault} probe "$(sed 's/vault address: //' served)"
        {vault} invite vault
        {vault} relay init relay --listen 127.0.0.1:0 \
            --site "$(sed 's,.*//\([^/]*\)/.*,\1,' served)"
        "#,
        vault = env!("CARGO_BIN_EXE_amberfs-vault"),
    );
    let output = world.program("unshare", &["-m", "/bin/sh", "-exc", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("amber-invite-"), "{shown}{said}");
}

/// The unit's limit leaves room for as many clients as the program takes.
#[test]
fn a_full_vault_needs_a_part_of_what_its_unit_gives() {
    let world = World::new();
    let vault = Vault::start(&world);
    let memory = || {
        let status = fs::read_to_string(format!("/proc/{}/status", vault.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    };
    let address: Address = vault.address.parse().unwrap();
    let before = memory();
    let connections = Limits::default().connections;
    let mut lines = Vec::new();
    for _ in 0..connections {
        let greeting = Greeting::open(vault.place(), &Timeouts::default()).expect("it has room");
        lines.push(greeting.verify(address.fingerprint(), 0).expect("the vault"));
    }
    // All at once ask of the ledger: each has a thread of its own then.
    std::thread::scope(|scope| {
        for line in &mut lines {
            scope.spawn(|| {
                for _ in 0..4 {
                    let _ = line.call(&Request::Status { ticket: [1; 16] });
                }
            });
        }
    });
    let after = memory();
    println!(
        "a vault: {} MiB at first, {} MiB with {connections} clients",
        before >> 20,
        after >> 20
    );
    assert!(after < memory_max(SERVERS[0].1) / 4, "{after}");
}

/// It cleared a killed daemon's mount away, and programs wrote plain files into the
/// folder below until the next start.
#[test]
fn the_unit_leaves_a_killed_daemons_mount_closed() {
    let unit = include_str!("../../mount-helper/systemd/amberfs@.service");
    assert!(!unit.contains("fusermount3"), "{unit}");
}

/// The unit set no limit: a relay had 1024 descriptors, or what the system gives, for
/// twice as many.
#[test]
fn the_units_of_servers_give_the_descriptors_that_their_connections_take() {
    let unit = include_str!("../../mount-helper/systemd/amberfs-relay.service");
    let limit = unit.lines().find_map(|line| line.strip_prefix("LimitNOFILE="));
    let limit: usize = limit.expect("the relay's unit has a limit").parse().unwrap();
    // As many as relay.toml may say, and so also what it says by itself.
    assert!(RelayLimits::default().connections <= CONNECTIONS_MAX);
    let needed = descriptors_for(CONNECTIONS_MAX, DESCRIPTORS_EACH);
    assert!(limit >= needed, "{limit} < {needed}");
    // Linux gives no process more (fs.nr_open).
    assert!(limit <= 1 << 20);
}

/// A user manager of systemd's, of its own: with this world's home, and a /run where
/// nothing else is. `script` runs beside it; what it prints.
fn under_systemd(world: &World, test: &str, script: &str) -> Option<String> {
    const MANAGER: &str = "/lib/systemd/systemd";
    let root = rustix::process::geteuid().is_root();
    if !root || !Path::new(MANAGER).exists() {
        println!("SKIPPED: {test}: needs root and systemd");
        return None;
    }
    let begin = format!(
        r#"
        mount -t tmpfs none /run
        mkdir -p /run/systemd/system
        {MANAGER} --user >&2 &
        manager=$!
        # Whatever comes: what stays here keeps all mounts that others have now.
        trap 'command systemctl --user stop "amberfs@*"; kill -9 $manager $(jobs -p)' EXIT
        systemctl() {{ command systemctl --user "$@"; }}
        # until COMMAND: waits for it, two minutes at most.
        until_() {{ n=0; until "$@"; do n=$((n+1)); [ $n -lt 1200 ] || return 1; sleep 0.1; done; }}
        until_ test -S "$XDG_RUNTIME_DIR/systemd/private" || exit 77
        "#
    );
    let end = "systemctl exit >&2; wait $manager; trap - EXIT; true";
    let script = format!("{begin}\n{script}\n{end}");
    // What others unmount meanwhile must not stay mounted here.
    let all = ["-m", "--propagation", "slave", "/bin/bash", "-c", &script];
    let output = world.program("unshare", &all).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) {
        println!("SKIPPED: {test}: no user manager runs here: {said}");
        return None;
    }
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}: {shown}{said}", output.status);
    Some(shown)
}

/// The unit as `make install` makes it, for this world's home.
fn installed_unit(world: &World, programs: &Path) {
    let bin = world.path("opt/bin");
    fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(programs.join("amberfs"), bin.join("amberfs")).unwrap();
    let units = world.path(".config/systemd/user");
    fs::create_dir_all(units.join("amberfs@.service.d")).unwrap();
    fs::create_dir_all(world.path(".config/amberfs")).unwrap();
    let unit = include_str!("../../mount-helper/systemd/amberfs@.service");
    let unit = unit.replace("/usr/local/bin", bin.to_str().unwrap());
    fs::write(units.join("amberfs@.service"), unit).unwrap();
    // The test's patience is shorter.
    let quick = "[Service]\nRestartSec=200ms\n\
                 ExecStopPost=/bin/sh -c 'echo \"$$EXIT_STATUS\" >>%h/ended'\n";
    fs::write(units.join("amberfs@.service.d/quick.conf"), quick).unwrap();
}

/// Five starts without a network, and it was not tried again before the next day; and
/// systemd 252 did not know two of its settings.
#[test]
fn the_unit_waits_for_a_network_that_is_late() {
    let Some(programs) = programs("user unit") else { return };
    if !has_fuse("user unit") {
        return;
    }
    let world = World::new();
    installed_unit(&world, &programs);
    let vault = Vault::start(&world);
    let listen = vault.place().to_string();
    secret(&world, "password", "seven small boats drift home\n");
    let all = ["init", "repo", "--vault", &vault.address, "--key-out", "key"];
    world.ok(&[&all[..], &["--password-file", "password"], &COST].concat());
    drop(vault);
    fs::create_dir(world.path("mnt")).unwrap();
    let environment = format!(
        "REPO={}\nMOUNTPOINT={}\nAMBERFS_PASSWORD_FILE={}\nXDG_STATE_HOME={}\n",
        world.path("repo").display(),
        world.path("mnt").display(),
        world.path("password").display(),
        world.path("state").display()
    );
    fs::write(world.path(".config/amberfs/chats.env"), environment).unwrap();
    let script = format!(
        r#"
        systemd-analyze --user verify "$HOME/.config/systemd/user/amberfs@.service" 2>&1
        touch ended
        more_than_a_day_has() {{ [ "$(grep -cx 15 ended)" -gt 7 ]; }}
        systemctl start --no-block amberfs@chats
        until_ more_than_a_day_has || {{ systemctl status amberfs@chats >&2; exit 1; }}
        {vault} serve vault --listen {listen} --no-delays >served 2>&1 &
        vault=$!
        until_ systemctl is-active --quiet amberfs@chats || {{ cat ended served >&2; exit 1; }}
        grep -c " $PWD/mnt " /proc/mounts
        systemctl stop amberfs@chats
        systemctl is-failed amberfs@chats
        # A wrong password is not tried again.
        echo wrong drift boats seven >password
        systemctl start amberfs@chats
        systemctl is-failed amberfs@chats
        sleep 1
        grep -cx 12 ended
        kill $vault
        "#,
        vault = env!("CARGO_BIN_EXE_amberfs-vault"),
    );
    let Some(shown) = under_systemd(&world, "user unit", &script) else { return };
    assert_eq!(shown, "1\ninactive\nfailed\n1\n");
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

/// mount(8) ran the helper of another package for it, which said "unrecognized
/// subcommand"; ours said "mount option remount is not understood".
#[test]
fn a_remount_is_refused_in_words() {
    let Some(programs) = programs("remount") else { return };
    if !has_fuse("remount") || !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::with_repo();
    for folder in ["sbin", "mnt"] {
        fs::create_dir(world.path(folder)).unwrap();
    }
    for (program, name) in [("amberfs", "amberfs"), ("mount-amberfs", "mount.amberfs")] {
        fs::copy(programs.join(program), world.path("sbin").join(name)).unwrap();
        executable(&world.path("sbin").join(name));
    }
    std::os::unix::fs::symlink("mount.amberfs", world.path("sbin/mount.fuse.amberfs")).unwrap();
    let script = r#"
        sbin=$(readlink -f /sbin)
        mount -t overlay -o "lowerdir=$PWD/sbin:$sbin" none "$sbin"
        refused() { rc=0; mount "$@" 2>>said || rc=$?; test "$rc" = 32; }
        for options in rw ro; do
            mount -t amberfs -o "$options,key_file=$PWD/key" "$PWD/repo" "$PWD/mnt"
            before=$(grep " $PWD/mnt " /proc/self/mountinfo)
            refused -o remount,ro "$PWD/mnt"
            refused -o remount,rw "$PWD/mnt"
            refused -t amberfs -o remount,ro "$PWD/repo" "$PWD/mnt"
            cat /etc/fstab >fstab || true
            echo "$PWD/repo $PWD/mnt amberfs noauto,key_file=$PWD/key 0 0" >>fstab
            mount --bind fstab /etc/fstab
            refused -o remount,ro "$PWD/mnt"
            umount /etc/fstab
            test "$before" = "$(grep " $PWD/mnt " /proc/self/mountinfo)"
            if [ $options = ro ]; then
                # Past the helper: it says rw then, and is not.
                mount -i -o remount,rw "$PWD/mnt"
                if touch mnt/file 2>/dev/null; then exit 9; fi
            fi
            umount "$PWD/mnt"
        done
        grep -c "cannot remount" said
    "#;
    let output = world.program("unshare", &["-m", "/bin/sh", "-exc", script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "8\n", "{said}");
}

#[test]
fn what_is_installed_is_all_there_and_finds_itself() {
    let Some(programs) = programs("install") else { return };
    let world = World::new();
    // As root with a strict umask does it, from and to folders with odd names.
    let make = |target: &str, prefix: &str| {
        let root = env!("CARGO_MANIFEST_DIR");
        let script = r#"umask 077; exec make -s -C "$0" install "$@""#;
        let destination = format!("DESTDIR={}", world.path("in to").display());
        let all = ["-c", script, root, &destination, &format!("PREFIX={prefix}")];
        let mut command = world.program("sh", &all);
        command.env("CARGO_TARGET_DIR", world.path(target)).output().unwrap()
    };
    fs::create_dir(world.path("built here")).unwrap();
    std::os::unix::fs::symlink(&programs, world.path("built here/release")).unwrap();
    let output = make("built here", "/opt/amber");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let installed: Vec<String> = world
        .files("in to")
        .iter()
        .map(|path| path.strip_prefix(world.path("in to")).unwrap())
        .map(|path| path.display().to_string())
        .collect();
    // There is one for each command.
    let is_of_a_command = |path: &&String| path.contains("/share/man/") && path.contains("fs-");
    let (pages, others): (Vec<_>, Vec<_>) = installed.iter().partition(is_of_a_command);
    for page in ["man1/amberfs-init.1", "man1/amberfs-key-show.1", "man1/amberfs-vault-add.1"] {
        assert!(pages.iter().any(|path| path.ends_with(page)), "{page} is not in {pages:?}");
    }
    for page in ["man8/amberfs-vault.8", "man8/amberfs-vault-relay-serve.8"] {
        assert!(pages.iter().any(|path| path.ends_with(page)), "{page} is not in {pages:?}");
    }
    assert_eq!(
        others,
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
            "opt/amber/share/doc/amberfs/cli.md",
            "opt/amber/share/doc/amberfs/format.md",
            "opt/amber/share/doc/amberfs/operations.md",
            "opt/amber/share/doc/amberfs/recovery.md",
            "opt/amber/share/doc/amberfs/semantics.md",
            "opt/amber/share/doc/amberfs/threat-model.md",
            "opt/amber/share/doc/amberfs/vault.md",
            "opt/amber/share/fish/vendor_completions.d/amberfs.fish",
            "opt/amber/share/man/man1/amberfs.1",
            "opt/amber/share/man/man8/mount.amberfs.8",
            "opt/amber/share/zsh/site-functions/_amberfs",
            "sbin/mount.amberfs",
            "sbin/mount.fuse.amberfs",
        ]
    );
    let unit = world.path("in to/opt/amber/lib/systemd/user/amberfs@.service");
    let unit = fs::read_to_string(unit).unwrap();
    assert!(unit.contains("ExecStart=/opt/amber/bin/amberfs mount"), "{unit}");
    let sleep = world.path("in to/opt/amber/lib/systemd/system/sleep.target.wants");
    let sleep = fs::read_to_string(sleep.join("amberfs-sleep.service")).unwrap();
    assert!(sleep.contains("ExecStart=/opt/amber/lib/amberfs/before-sleep\n"), "{sleep}");
    let script = world.path("in to/opt/amber/lib/amberfs/before-sleep");
    assert!(fs::read_to_string(&script).unwrap().contains("AMBERFS=/opt/amber/bin/amberfs\n"));
    assert_eq!(fs::metadata(script).unwrap().permissions().mode() & 0o777, 0o755);
    let completions = world.path("in to/opt/amber/share/zsh/site-functions/_amberfs");
    assert!(fs::read_to_string(completions).unwrap().starts_with("#compdef amberfs"));
    let page = fs::read_to_string(world.path("in to/opt/amber/share/man/man5/amberfs-format.5"));
    assert!(page.unwrap().contains(".IR /opt/amber/share/doc/amberfs/format.md"));
    for path in &installed {
        let path = world.path("in to").join(path);
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert!(matches!(mode, 0o644 | 0o755), "{}: {mode:o}", path.display());
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777,
            0o755
        );
    }
    for (name, built) in
        [("opt/amber/bin/amberfs", "amberfs"), ("sbin/mount.amberfs", "mount-amberfs")]
    {
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        let path = world.path("in to").join(name);
        assert!(size(&path) < size(&programs.join(built)) / 2, "{name} is not stripped");
        let told = Command::new(&path).arg("--version").output().unwrap();
        assert!(told.status.success() || name.starts_with("sbin"), "{told:?}");
    }
    let output = make("none", "/opt/amber");
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
