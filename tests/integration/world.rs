//! A folder with a repository, and the program run in it.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use amberfs::control::Registry;

/// How much more than usual is tried (`AMBERFS_TEST_FACTOR`).
pub fn factor() -> usize {
    std::env::var("AMBERFS_TEST_FACTOR").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

pub struct World {
    dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        // As the system makes it: without one the sockets of all worlds would
        // be in one folder.
        fs::DirBuilder::new().mode(0o700).create(world.path("run")).unwrap();
        world
    }

    /// A world with a repository in `repo` and its key in `key`.
    pub fn with_repo() -> Self {
        let world = Self::new();
        world.ok(&["init", "repo", "--key-out", "key"]);
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        self.program(env!("CARGO_BIN_EXE_amberfs"), arguments)
    }

    /// Another program, in this world.
    pub fn program(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(name);
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .stdin(std::process::Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs; repeats an `umount` that only another mount namespace is in the way of:
    /// one that another test made has copies of all mounts for a while.
    pub fn run_patiently(&self, arguments: &[&str]) -> Output {
        let started = std::time::Instant::now();
        loop {
            let output = self.run(arguments);
            let said = [&*output.stderr, &*output.stdout].concat();
            let is_copied = arguments[0] == "umount"
                && String::from_utf8_lossy(&said).contains("another mount namespace");
            if !is_copied || started.elapsed().as_secs() >= 60 {
                return output;
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }

    /// Runs with the key; must succeed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let mut all = arguments.to_vec();
        if arguments[0] != "init" {
            all.extend(["--key-file", "key"]);
        }
        let output = self.run_patiently(&all);
        assert!(
            output.status.success(),
            "{arguments:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs with the key; must fail with this code. Returns what it said, errors
    /// first.
    pub fn fails(&self, arguments: &[&str], code: i32) -> String {
        let mut all = arguments.to_vec();
        if arguments[0] != "init" && !arguments.contains(&"--key-file") {
            all.extend(["--key-file", "key"]);
        }
        let output = self.run(&all);
        let said = [output.stderr, output.stdout].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        said
    }

    /// What the second reader (`tests/reader.py`) prints of a repository; none if it cannot
    /// run here.
    pub fn read_again(&self, repo: &str, arguments: &[&str]) -> Option<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("target/venv/bin/python");
        if !python.exists() {
            println!("SKIPPED: target/venv is missing; make test prepares it");
            return None;
        }
        let output = Command::new(python)
            .args([&root.join("tests/reader.py"), &self.path(repo)])
            .arg("--key-file")
            .arg(self.path("key"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8(output.stdout).unwrap())
    }

    /// Files below `name`, relative to it.
    pub fn files(&self, name: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.path(name), &mut found);
        found.sort();
        found
    }
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, found) } else { found.push(path) }
    }
}

/// Copies a tree to where nothing is, or where parts of it are.
pub fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg("-T").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// Compares two trees: names, types, contents, link targets.
pub fn assert_same_tree(a: &Path, b: &Path) {
    let list = |folder: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let (left, right) = (list(a), list(b));
    assert_eq!(left, right, "{} and {}", a.display(), b.display());
    for name in left {
        let (a, b) = (a.join(&name), b.join(&name));
        let (left, right) = (fs::symlink_metadata(&a).unwrap(), fs::symlink_metadata(&b).unwrap());
        assert_eq!(left.file_type(), right.file_type(), "{}", a.display());
        if left.is_dir() {
            assert_same_tree(&a, &b);
        } else if left.is_symlink() {
            assert_eq!(fs::read_link(&a).unwrap(), fs::read_link(&b).unwrap());
        } else {
            assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap(), "{}", a.display());
            assert_eq!(left.modified().unwrap(), right.modified().unwrap(), "{}", a.display());
        }
    }
}

/// A mount in the foreground of a child process, so that it can be killed.
pub struct Mount {
    child: std::process::Child,
    mountpoint: PathBuf,
}

impl World {
    /// Mounts `repo` at `mnt` with `secret` arguments, and waits until the
    /// mount is usable.
    pub fn mount(&self, repo: &str, mnt: &str, secret: &[&str]) -> Mount {
        let mountpoint = self.path(mnt);
        // A dead mount there is not seen as a folder.
        if let Err(error) = fs::create_dir_all(&mountpoint) {
            assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{error}");
        }
        let mut arguments = vec!["mount", repo, mnt, "-f"];
        arguments.extend(secret);
        let log = fs::File::create(self.path("mount.log")).unwrap();
        let mut child = self.command(&arguments).stderr(log).spawn().unwrap();
        let started = std::time::Instant::now();
        // Commands find it a moment after the kernel does.
        let registry = Registry::at(&self.path("run/amberfs"));
        // A dead mount there is one too, and its daemon's socket is there, until the new daemon
        // clears both away: so it has to answer, and to be mounted after that.
        let answers = || rustix::fs::statvfs(&mountpoint).is_ok() && is_mounted(&mountpoint);
        while !answers() || registry.find(&mountpoint).is_none() {
            let ended = child.try_wait().unwrap();
            let log = fs::read_to_string(self.path("mount.log")).unwrap();
            assert!(ended.is_none(), "{ended:?}: {log}");
            assert!(started.elapsed().as_secs() < 60, "{log}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Mount { child, mountpoint }
    }
}

/// Makes a file look as if it had been still for long: wrong bytes in one that
/// has just changed may be on their way.
pub fn settle(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
}

/// Waits until `condition` holds; fails, naming `what`, after `limit`.
pub fn wait_for(what: &str, limit: std::time::Duration, mut condition: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < limit, "waited in vain for {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

impl World {
    /// What the last mount had to say.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("mount.log")).unwrap_or_default()
    }
}

pub fn is_mounted(mountpoint: &Path) -> bool {
    let mountpoint = mountpoint.to_str().unwrap();
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(mountpoint))
}

impl Mount {
    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Unmounts; returns when everything is in the repository.
    pub fn unmount(mut self, world: &World) {
        let output = world.run_patiently(&["umount", self.mountpoint.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(self.child.wait().unwrap().success());
    }

    /// Kills the daemon as a crash does, and clears the dead mountpoint, or
    /// finds it cleared.
    pub fn kill(mut self) {
        self.die();
        self.clear();
    }

    /// Kills the daemon as a crash does; its dead mount stays.
    pub fn abandon(mut self) {
        self.die();
    }

    fn die(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the daemon's own end; tells whether it was without errors.
    pub fn ended_well(mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    /// Kills the daemon and does nothing else.
    pub fn kill_only(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn clear(&self) {
        for program in [&["umount", "-l"][..], &["fusermount3", "-u", "-z"]] {
            let cleared = Command::new(program[0])
                .args(&program[1..])
                .arg(&self.mountpoint)
                .stderr(std::process::Stdio::null())
                .status();
            if cleared.is_ok_and(|status| status.success()) {
                return;
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            self.clear();
        }
    }
}

pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
