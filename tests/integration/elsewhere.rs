//! A mount that lives on elsewhere: bind mounts, other mount namespaces, overlays.
//! `umount` hung there for ever, and said nothing.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::mounted::has_fuse;
use crate::world::{Mount, World, is_mounted, noise, wait_for};

/// Within this, `umount` answers.
const SOON: Duration = Duration::from_secs(20);

fn can_mount(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: {test}: needs root");
    }
    root && has_fuse(test)
}

/// A process, ended with the test.
struct Process(Child);

impl Process {
    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn end(mut self) {
        self.kill();
    }

    fn kill(&mut self) {
        // Whoever it started goes with it.
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-9", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a script in a mount namespace of its own, and waits until it says so.
fn elsewhere(world: &World, propagation: &str, script: &str) -> Process {
    use std::os::unix::process::CommandExt as _;
    let script = format!("set -e; {script}; echo there; exec sleep 600");
    let mut child = world
        .program("unshare", &["-m", "--propagation", propagation, "/bin/sh", "-c", &script])
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert_eq!(line, "there\n");
    Process(child)
}

/// Runs `umount`, which must refuse soon, and returns what it says.
fn refused(world: &World) -> String {
    let started = Instant::now();
    let said = world.fails(&["umount", "mnt"], 11);
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert!(said.contains("everything so far is in"), "{said}");
    said
}

fn program(name: &str, arguments: &[&str], path: &Path) {
    let done = Command::new(name).args(arguments).arg(path).status().unwrap();
    assert!(done.success(), "{name}");
}

/// The mount of a test, detached if the test fails.
struct Detached<'a>(&'a World, &'a str);

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        let path = self.0.path(self.1);
        if is_mounted(&path) {
            let _ = Command::new("umount").arg("-l").arg(path).status();
        }
    }
}

fn mount(world: &World) -> Mount {
    world.mount("repo", "mnt", &["--key-file", "key"])
}

#[test]
fn a_mount_that_another_namespace_has_is_in_use() {
    if !can_mount("namespace") {
        return;
    }
    let world = World::with_repo();
    let daemon = mount(&world);
    fs::write(world.path("mnt/file"), "x").unwrap();
    let other = elsewhere(&world, "private", "true");
    for _ in 0..2 {
        let said = refused(&world);
        assert!(said.contains(&format!("sleep (process {})", other.pid())), "{said}");
        assert!(said.contains(world.path("mnt").to_str().unwrap()), "{said}");
    }
    assert_eq!(world.ok(&["ls", "repo"]), "file\n", "what it said is so");
    assert_eq!(fs::read(world.path("mnt/file")).unwrap(), b"x", "the mount stays");
    other.end();
    daemon.unmount(&world);
}

#[test]
fn a_mount_that_is_gone_here_is_served_until_the_last_has_left() {
    if !can_mount("gone here") {
        return;
    }
    let world = World::with_repo();
    let daemon = mount(&world);
    let held = "exec 3>mnt/held; echo early >&3; read line <go; echo late >&3; echo plain >mnt/new";
    program("mkfifo", &[], &world.path("go"));
    // It waits for a line; by then the mount is gone here.
    let script = format!("({held}; exec sleep 600) & while [ ! -s mnt/held ]; do sleep 0.1; done");
    let other = elsewhere(&world, "private", &script);
    program("umount", &[], &world.path("mnt"));
    for line in ["", "late"] {
        if !line.is_empty() {
            fs::write(world.path("go"), "\n").unwrap();
            let root = format!("/proc/{}/root{}", other.pid(), world.path("mnt/new").display());
            wait_for("a file made there", SOON, || Path::new(&root).exists());
        }
        let said = refused(&world);
        assert!(said.contains("unmounted here") && !said.contains("covers"), "{said}");
        assert!(said.contains(&other.pid().to_string()), "{said}");
        // What the kernel held of a file that is open there is in REPO too.
        assert_eq!(
            world.ok(&["cat", "repo", "held"]),
            format!("early\n{line}{}", if line.is_empty() { "" } else { "\n" })
        );
    }
    let said = world.fails(&["mount", "repo", "mnt"], 11);
    assert!(said.contains("unmounted") && said.contains(&other.pid().to_string()), "{said}");
    other.end();
    assert!(daemon.ended_well(), "{}", world.log());
    assert_eq!(world.ok(&["cat", "repo", "new"]), "plain\n");
    world.ok(&["mount", "repo", "mnt"]);
    world.ok(&["umount", "mnt"]);
}

#[test]
fn a_bind_mount_is_named() {
    if !can_mount("bind") {
        return;
    }
    let world = World::with_repo();
    let daemon = mount(&world);
    fs::create_dir(world.path("other")).unwrap();
    program("mount", &["--bind", world.path("mnt").to_str().unwrap()], &world.path("other"));
    let _other = Detached(&world, "other");
    let said = refused(&world);
    assert!(said.contains("another mount of it on") && said.contains("/other"), "{said}");
    assert!(is_mounted(&world.path("mnt")));
    program("umount", &[], &world.path("other"));
    daemon.unmount(&world);
}

#[test]
fn an_overlay_is_named() {
    if !can_mount("overlay") {
        return;
    }
    let world = World::with_repo();
    let daemon = mount(&world);
    for name in ["mnt/lower", "upper", "work", "over"] {
        fs::create_dir(world.path(name)).unwrap();
    }
    let path = |name: &str| world.path(name).display().to_string();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        path("mnt/lower"),
        path("upper"),
        path("work")
    );
    program("mount", &["-t", "overlay", "-o", &options, "none"], &world.path("over"));
    let _over = Detached(&world, "over");
    let said = refused(&world);
    assert!(said.contains("overlay") && said.contains("/over"), "{said}");
    // Below an overlay the mount itself is not busy.
    program("umount", &[], &world.path("mnt"));
    let said = refused(&world);
    assert!(said.contains("unmounted here") && said.contains("/over"), "{said}");
    program("umount", &[], &world.path("over"));
    assert!(daemon.ended_well(), "{}", world.log());
}

/// A copy that goes with the mount keeps nobody from unmounting.
#[test]
fn a_copy_that_follows_is_no_use() {
    if !can_mount("slave") {
        return;
    }
    let world = World::with_repo();
    fs::create_dir(world.path("mnt")).unwrap();
    // Most systems share all mounts; where this runs they may be private.
    let script = r#"
        mount --bind . . && mount --make-shared . && cd "$PWD"
        "$0" mount repo mnt --key-file key
        unshare -m --propagation slave sleep 600 & other=$!
        while [ "$(readlink /proc/$other/ns/mnt)" = "$(readlink /proc/self/ns/mnt)" ] ||
            ! grep -q " $PWD/mnt " /proc/$other/mountinfo; do sleep 0.1; done
        rc=0; timeout 20 "$0" umount mnt || rc=$?
        if grep " $PWD/mnt " /proc/$other/mountinfo; then rc=99; fi
        kill $other
        exit $rc
    "#;
    let amberfs = env!("CARGO_BIN_EXE_amberfs");
    let output = world
        .program("unshare", &["-m", "--propagation", "private", "/bin/sh", "-ec", script, amberfs])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {said}", output.status);
}

/// "Another file system covers the mountpoint" was told of mounts that were gone.
#[test]
fn umount_after_the_kernels_own_waits_for_the_daemon() {
    if !can_mount("umount twice") {
        return;
    }
    let world = World::with_repo();
    for (round, tool) in [["umount"].as_slice(), &["fusermount3", "-u"]].into_iter().enumerate() {
        // The daemon may have ended before anybody asks.
        for number in 0..10 {
            let daemon = mount(&world);
            fs::write(world.path("mnt/small"), format!("{round}.{number}")).unwrap();
            program(tool[0], &tool[1..], &world.path("mnt"));
            world.ok(&["umount", "mnt"]);
            assert_eq!(world.ok(&["cat", "repo", "small"]), format!("{round}.{number}"));
            assert!(daemon.ended_well(), "{}", world.log());
            world.fails(&["umount", "mnt"], 17);
        }
        let daemon = mount(&world);
        let name = format!("big{round}");
        let content = noise(30 << 20, round as u64);
        fs::write(world.path("mnt").join(&name), &content).unwrap();
        program(tool[0], &tool[1..], &world.path("mnt"));
        world.ok(&["umount", "mnt"]);
        let output = world.run(&["cat", "repo", &name, "--key-file", "key"]);
        assert!(output.stdout == content, "not all is in REPO");
        assert!(daemon.ended_well(), "{}", world.log());
    }
}

/// The mount of another program over ours was taken for ours, or the reverse.
#[test]
fn what_lies_over_a_mount_is_never_touched() {
    if !can_mount("covered") {
        return;
    }
    let world = World::with_repo();
    let daemon = mount(&world);
    let mnt = world.path("mnt");
    fs::write(mnt.join("below"), "x").unwrap();
    program("mount", &["-t", "tmpfs", "none"], &mnt);
    let _over = Detached(&world, "mnt");
    fs::write(mnt.join("over"), "y").unwrap();
    // Its content is reached without the path.
    world.ok(&["sync", "mnt"]);
    assert_eq!(world.ok(&["ls", "repo"]), "below\n");
    let said = refused(&world);
    assert!(said.contains("what is mounted on"), "{said}");
    assert_eq!(fs::read(mnt.join("over")).unwrap(), b"y");
    daemon.kill_only();
    // Nor by the guard of a killed daemon, nor by clearing what it left.
    world.fails(&["umount", "mnt"], 17);
    world.fails(&["mount", "repo", "mnt"], 11);
    assert_eq!(fs::read(mnt.join("over")).unwrap(), b"y");
    program("umount", &[], &mnt);
    wait_for("the dead mount", SOON, || fs::read_dir(&mnt).is_err());
    world.fails(&["umount", "mnt"], 3);
}

/// A mount that was moved is found where it is.
#[test]
fn a_moved_mount_is_unmounted_where_it_is() {
    if !can_mount("moved") {
        return;
    }
    let world = World::with_repo();
    let daemon = mount(&world);
    fs::write(world.path("mnt/file"), "x").unwrap();
    fs::create_dir(world.path("there")).unwrap();
    program("mount", &["--move", world.path("mnt").to_str().unwrap()], &world.path("there"));
    let _there = Detached(&world, "there");
    world.ok(&["sync", "repo"]);
    world.ok(&["umount", "repo"]);
    assert!(!is_mounted(&world.path("there")));
    assert!(daemon.ended_well(), "{}", world.log());
}

/// Root's mount namespaces are seen by others too; root's open files are not, and
/// that is said.
#[test]
fn another_user_is_told_what_cannot_be_seen() {
    if !can_mount("another user") {
        return;
    }
    let world = World::with_repo();
    fs::create_dir(world.path("mnt")).unwrap();
    let script = r#"
        cat /etc/passwd >passwd && echo "ada:x:61234:61234::$PWD:/bin/sh" >>passwd
        mount --bind passwd /etc/passwd
        mknod -m 666 fuse c 10 229 && mount --bind fuse /dev/fuse
        chmod 755 . && rm -rf state && chown -R 61234:61234 repo key mnt run && chown 61234 .
        cp "$0" amberfs && chmod 755 amberfs
        as="setpriv --reuid=61234 --regid=61234 --clear-groups"
        $as ./amberfs mount repo mnt --key-file key
        unshare -m --propagation private sleep 600 & other=$!
        while [ "$(readlink /proc/$other/ns/mnt)" = "$(readlink /proc/self/ns/mnt)" ]; do sleep 0.1; done
        rc=0; $as timeout 20 ./amberfs umount mnt || rc=$?
        echo "$rc $other"
        kill $other; wait $other || true
        $as ./amberfs umount mnt
    "#;
    let amberfs = env!("CARGO_BIN_EXE_amberfs");
    let output =
        world.program("unshare", &["-m", "/bin/sh", "-ec", script, amberfs]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let shown = String::from_utf8_lossy(&output.stdout);
    let (code, pid) = shown.trim().split_once(' ').unwrap();
    assert_eq!(code, "11", "{said}");
    assert!(
        said.contains(&format!("(process {pid})")) && said.contains("only root can see"),
        "{said}"
    );
}
