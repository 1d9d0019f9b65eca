//! What a daemon has of whoever started it, and how it is found again.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use crate::memory::process_with;
use crate::mounted::has_fuse;
use crate::world::{World, is_mounted, wait_for};

const LIMIT: Duration = Duration::from_secs(30);

/// Ends a mount whatever became of the test.
struct Cleared(PathBuf);

impl Drop for Cleared {
    fn drop(&mut self) {
        if is_mounted(&self.0) {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
}

/// A world with a repository and an empty `mnt`.
fn prepared() -> (World, Cleared) {
    let world = World::with_repo();
    fs::create_dir(world.path("mnt")).unwrap();
    let cleared = Cleared(world.path("mnt"));
    (world, cleared)
}

fn in_time(mut command: Command) -> Output {
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("a command's end", LIMIT, || child.try_wait().unwrap().is_some());
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn open_files(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect()
}

/// A lock held by `flock` fell only with the mount, and a pipe had no end before.
#[test]
fn a_daemon_keeps_no_lock_and_no_pipe_of_its_caller() {
    if !has_fuse("descriptors") {
        return;
    }
    let (world, _cleared) = prepared();
    let amberfs = env!("CARGO_BIN_EXE_amberfs");
    let arguments = ["-n", "lock", amberfs, "mount", "repo", "mnt", "--key-file", "key"];
    let output = in_time(world.program("flock", &arguments));
    assert!(output.status.success(), "{}", said(&output));
    assert!(in_time(world.program("flock", &["-n", "lock", "true"])).status.success());
    world.ok(&["umount", "mnt"]);

    let script = "\"$0\" mount repo mnt --key-file key 3>&1 4>&2 | cat";
    let output = in_time(world.program("/bin/sh", &["-c", script, amberfs]));
    assert!(output.status.success(), "{}", said(&output));
    world.ok(&["umount", "mnt"]);
}

/// In the foreground a program keeps what it was given; its guard, which outlives it,
/// and commands for secrets get nothing of that.
#[test]
fn programs_started_by_amberfs_get_three_descriptors() {
    if !has_fuse("guard") || !rustix::process::geteuid().is_root() {
        println!("SKIPPED: guard: needs root, to see what a daemon has open");
        return;
    }
    let (world, _cleared) = prepared();
    // The shell's own descriptor for the folder is its highest.
    let command = "cat key; ls -l /proc/self/fd >fds";
    let amberfs = env!("CARGO_BIN_EXE_amberfs");
    let script = "exec 7>lock; exec \"$@\"";
    let arguments = ["-c", script, "sh", amberfs, "mount", "-f", "repo", "mnt", "--key-command"];
    let mut daemon = world.program("/bin/sh", &arguments).arg(command).spawn().unwrap();
    let mountpoint = world.path("mnt");
    wait_for("the mount", LIMIT, || is_mounted(&mountpoint));
    world.ok(&["sync", "mnt"]);
    let lock = world.path("lock");
    let fds = fs::read_to_string(world.path("fds")).unwrap();
    assert!(!fds.contains("lock"), "{fds}");
    assert!(open_files(daemon.id()).contains(&lock));
    let guard = process_with("--guard-of");
    wait_for("the guard", LIMIT, || {
        fs::read(format!("/proc/{guard}/cmdline")).is_ok_and(|line| !line.is_empty())
    });
    // Of other tests there may be guards too: none has it.
    assert!(!open_files(guard).contains(&lock));
    world.ok(&["umount", "mnt"]);
    assert!(daemon.wait().unwrap().success());
}

/// logind removes the runtime folder at the last logout; cron, sudo and mount(8) have
/// other variables: "not mounted by amberfs".
#[test]
fn a_daemon_is_found_whatever_became_of_the_runtime_folder() {
    if !has_fuse("sockets") {
        return;
    }
    let (world, _cleared) = prepared();
    for state in [&[][..], &["--state", "local"]] {
        let lost: [&dyn Fn(&mut Command); 6] = [
            &|_| fs::remove_dir_all(world.path("run/amberfs")).unwrap(),
            &|_| {
                for entry in fs::read_dir(world.path("run/amberfs")).unwrap() {
                    fs::remove_file(entry.unwrap().path()).unwrap();
                }
            },
            &|command| {
                command.env_remove("XDG_RUNTIME_DIR");
            },
            &|command| {
                command.env("XDG_RUNTIME_DIR", world.path("none"));
            },
            &|command| {
                let gone = |name: &str| world.path(name).to_str().unwrap().to_owned();
                command.env("XDG_STATE_HOME", gone("none")).env("XDG_RUNTIME_DIR", gone("none"));
            },
            &|command| {
                command.env_clear();
            },
        ];
        for (number, lose) in lost.iter().enumerate() {
            world.ok(&[&["mount", "repo", "mnt"][..], state].concat());
            fs::write(world.path("mnt/file"), [number as u8]).unwrap();
            for name in ["status", "sync", "umount"] {
                let mut command = world.command(&[name, "mnt"]);
                if number > 1 || name == "status" {
                    lose(&mut command);
                }
                let output = in_time(command);
                assert!(output.status.success(), "{state:?} {number} {name}: {}", said(&output));
            }
        }
    }
    // Where only the folder of --state is left, it is looked into.
    world.ok(&["mount", "repo", "mnt", "--state", "local"]);
    for folder in ["run/amberfs", "state/amberfs/run"] {
        fs::remove_dir_all(world.path(folder)).unwrap();
    }
    world.ok(&["sync", "mnt", "--state", "local"]);
    world.ok(&["umount", "mnt", "--state", "local"]);
}

/// Without any socket nothing was said but "not mounted by amberfs".
#[test]
fn a_mount_that_cannot_be_asked_is_told_with_a_way_out() {
    if !has_fuse("no socket") {
        return;
    }
    let (world, _cleared) = prepared();
    world.ok(&["mount", "repo", "mnt"]);
    fs::write(world.path("mnt/file"), "x").unwrap();
    for folder in ["run/amberfs", "state/amberfs/run"] {
        fs::remove_dir_all(world.path(folder)).unwrap();
    }
    let daemon = process_with("--guard-of");
    assert!(daemon > 0);
    let text = world.fails(&["sync", "mnt"], 17);
    assert!(text.contains("is mounted by amberfs") && !text.contains("not mounted"), "{text}");
    let number = text.split("kill ").nth(1).and_then(|rest| rest.split(' ').next());
    let number = number.unwrap_or_else(|| panic!("names the process: {text}"));
    for command in [&["status"][..], &["sync", "--all"], &["umount", "mnt"]] {
        let said = world.fails(command, 17);
        assert!(said.contains(world.path("mnt").to_str().unwrap()), "{command:?}: {said}");
    }
    assert!(Command::new("kill").arg(number).status().unwrap().success());
    let process = format!("/proc/{number}");
    wait_for("the daemon's end", LIMIT, || !fs::exists(&process).unwrap());
    assert_eq!(world.ok(&["ls", "repo"]), "file\n");
    assert!(!is_mounted(&world.path("mnt")));
    let said = world.fails(&["sync", "mnt"], 17);
    assert!(said.contains("not mounted"), "{said}");
}

/// Below a deep folder no socket could be bound, and nothing was mounted.
#[test]
fn a_state_folder_may_lie_deep() {
    if !has_fuse("deep") {
        return;
    }
    let (world, _cleared) = prepared();
    let deep = format!("{}/{}", "d".repeat(120), "e".repeat(120));
    let with = |arguments: &[&str]| {
        let mut command = world.command(arguments);
        command.env_remove("XDG_RUNTIME_DIR").env("XDG_STATE_HOME", world.path(&deep));
        let output = in_time(command);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    };
    with(&["mount", "repo", "mnt", "--key-file", "key", "--state", &format!("{deep}/own")]);
    assert!(world.path(&deep).join("amberfs/run").is_dir());
    with(&["sync", "mnt"]);
    with(&["umount", "mnt", "--state", &format!("{deep}/own")]);
}

/// Runs a script as root in a world with a repository and its key in `own`, which
/// belongs to the user `$user`, as `mnt` does. It has a mount namespace of its own, with
/// a /dev/fuse for all. Returns what it printed.
fn with_user(user: &str, script: &str) -> (World, String) {
    let world = World::with_repo();
    for folder in ["own", "mnt"] {
        fs::create_dir(world.path(folder)).unwrap();
    }
    let before = r#"
        mv repo key own
        cp "$amberfs" amberfs
        chmod 755 . amberfs
        chown -R "$user" own mnt
        mknod -m 666 fuse c 10 229
        mount --bind fuse /dev/fuse
        cd own
        bare() { env -i PATH="$PATH" "$@"; }
        as_user() { bare setpriv --reuid="$user" --regid="$user" --clear-groups "$@"; }
        trap 'umount -l ../mnt 2>/dev/null || true' EXIT
        set -x
    "#;
    let script = format!("{before}\n{script}");
    let mut command = world.program("unshare", &["-m", "/bin/sh", "-ec", &script]);
    command.env("user", user).env("amberfs", env!("CARGO_BIN_EXE_amberfs"));
    let output = in_time(command);
    assert!(output.status.success(), "{user}: {}", said(&output));
    (world, format!("{}{}", String::from_utf8_lossy(&output.stdout), said(&output)))
}

fn needs_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: {test}: needs root, to become another user");
    }
    !root
}

/// mount(8) clears the environment: `--state` was given, and the advice was to give it.
#[test]
fn with_a_state_folder_nothing_needs_a_home() {
    if !has_fuse("home") || needs_root("home") {
        return;
    }
    let script = r#"
        amber() { as_user ../amberfs "$@" --key-file key --state local; }
        amber put repo file --from key
        amber ls repo
        as_user ../amberfs init empty --key-out other --state second
    "#;
    // A number that no user has. Without --state, what is missing is said.
    let lacking = "as_user ../amberfs put repo file --key-file key && exit 1 || true";
    let (_, told) = with_user("3987654321", &format!("{script}\n{lacking}"));
    assert!(told.contains("give --state DIR"), "{told}");
    // A user who may not write into his home folder: fusermount3 wants one with a name.
    let mounting = r"
        for options in rw ro; do
            amber mount repo ../mnt -o $options
            amber status ../mnt
            as_user ../amberfs sync ../mnt
            amber umount ../mnt
        done
    ";
    with_user("daemon", &format!("{script}\n{mounting}"));
}

/// Whose a folder's files are, with modes; of all that lie in it.
fn owners_and_modes(folder: &std::path::Path, found: &mut Vec<(u32, u32, PathBuf)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let data = fs::symlink_metadata(&path).unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode(&data);
        found.push((std::os::unix::fs::MetadataExt::uid(&data), mode, path.clone()));
        if data.is_dir() {
            owners_and_modes(&path, found);
        }
    }
}

/// `sudo amberfs mount` and `put` left files of root's in a user's repository.
#[test]
fn root_writes_into_a_repository_as_its_owner() {
    if !has_fuse("owner") || needs_root("owner") {
        return;
    }
    let script = r#"
        key="--key-file key --state local"
        bare ../amberfs init new/made --key-out other --state second
        bare ../amberfs put repo file --from key $key
        bare ../amberfs mount repo ../mnt $key
        grep " $(cd ..; pwd)/mnt .*user_id=$(id -u "$user")," /proc/self/mounts
        bare ../amberfs sync ../mnt
        bare ../amberfs umount ../mnt
        bare ../amberfs mount repo ../mnt $key
        as_user ../amberfs umount ../mnt
        bare ../amberfs check repo --repair $key
        test -z "$(find . ! -user "$user")"
        # Of root's, where that is meant; and nobody else chooses whom to be.
        cp key ../roots-key
        bare ../amberfs put repo file --from key --key-file ../roots-key --state ../roots --as root
        test -n "$(find repo -user root)"
        as_user ../amberfs put repo file --from key $key --as root && exit 1 || test $? = 2
    "#;
    let (_, told) = with_user("daemon", script);
    assert_eq!(told.matches("amberfs: acting as user daemon, whose").count(), 5, "{told}");
}

/// A daemon's umask, a command's and the way a file entered made modes of their own.
#[test]
fn files_in_a_repository_have_one_mode() {
    if !has_fuse("modes") {
        return;
    }
    let (world, _cleared) = prepared();
    let amberfs = env!("CARGO_BIN_EXE_amberfs");
    for (number, umask) in ["077", "027", "000"].iter().enumerate() {
        let script = format!("umask {umask}; exec \"$@\"");
        let with_umask = |arguments: &[&str]| {
            let output = world
                .program("/bin/sh", &["-c", &script, "sh", amberfs])
                .args(arguments)
                .output()
                .unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        };
        let repo = format!("repo{number}");
        with_umask(&["init", &repo, "--key-out", &format!("{repo}.key")]);
        fs::write(world.path("big"), crate::world::noise(3 << 20, number as u64)).unwrap();
        let key = format!("{repo}.key");
        with_umask(&["put", &repo, "one", "--from", "big", "--key-file", &key]);
        with_umask(&["mount", &repo, "mnt", "--key-file", &key]);
        fs::write(world.path("mnt/two"), crate::world::noise(3 << 20, 9)).unwrap();
        world.ok(&["umount", "mnt"]);
        let mut found = Vec::new();
        owners_and_modes(&world.path(&repo), &mut found);
        let odd: Vec<_> = found
            .iter()
            .filter(|(_, mode, path)| mode & 0o7777 != if path.is_dir() { 0o755 } else { 0o644 })
            .collect();
        assert!(odd.is_empty(), "{umask}: {odd:?}");
        assert!(found.iter().filter(|(_, _, path)| path.is_file()).count() > 4);
    }
}

/// Of two devices of one name the first was shown, without a word.
#[test]
fn a_name_of_two_devices_is_refused_with_their_ids() {
    if !has_fuse("devices") {
        return;
    }
    let (world, _cleared) = prepared();
    for state in ["one", "two"] {
        world.ok(&["put", "repo", state, "--from", "key", "--state", state]);
    }
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let wanted = |wanted: &str| format!("ro,device={wanted}");
    let said = world.fails(&["mount", "repo", "mnt", "-o", &wanted(&name)], 2);
    let ids: Vec<String> = fs::read_dir(world.path("repo"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.len() == 32)
        .collect();
    let named: Vec<&String> = ids.iter().filter(|id| said.contains(*id)).collect();
    assert!(named.len() >= 2, "{ids:?}: {said}");
    for id in named {
        world.ok(&["mount", "repo", "mnt", "-o", &wanted(&id[..8])]);
        world.ok(&["umount", "mnt"]);
        let said = world.fails(&["mount", "repo", "mnt", "-o", &wanted(&id[..3])], 2);
        assert!(said.contains("no device"), "{said}");
    }
}
