//! `put` and `extract` walk folders that somebody changes meanwhile, and trees of
//! any depth.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, mkdirat, openat, renameat_with};

use crate::world::{World, noise};

/// Deeper than the descriptors in [`FEW`] go, and than a path may be long.
const DEEP: usize = 1200;
/// Descriptors that a command gets.
const FEW: &str = "200";

/// Somebody who lets pairs of names change places, again and again.
struct Exchanging {
    done: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Exchanging {
    fn begin(pairs: Vec<(PathBuf, PathBuf)>) -> Self {
        let (done, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (done, rounds) = (done.clone(), rounds.clone());
            move || {
                while !done.load(Ordering::Relaxed) {
                    for (a, b) in &pairs {
                        // What is not there yet cannot be exchanged.
                        let _ = renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE);
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { done, rounds, thread: Some(thread) }
    }

    /// Ends it; how often all pairs were exchanged.
    fn end(mut self) -> u64 {
        self.done.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.rounds.load(Ordering::Relaxed)
    }
}

/// A folder that is exchanged for a link while `put` walks brought what lies
/// elsewhere into the backup: with root's rights, what the owner of the source
/// cannot even read.
#[test]
fn what_is_exchanged_for_a_link_brings_nothing_from_elsewhere() {
    const FOLDERS: usize = 24;
    let world = World::with_repo();
    fs::create_dir_all(world.path("elsewhere/inner")).unwrap();
    for number in 0..20 {
        fs::write(world.path(&format!("elsewhere/foreign-{number}")), "x").unwrap();
        fs::write(world.path(&format!("elsewhere/inner/foreign-{number}")), "x").unwrap();
        fs::write(world.path(&format!("elsewhere/own-{number}")), "foreign").unwrap();
    }
    fs::create_dir(world.path("source")).unwrap();
    let mut pairs = Vec::new();
    for folder in 0..FOLDERS {
        let (real, link) =
            (world.path(&format!("source/{folder:02}")), world.path(&format!("link-{folder}")));
        fs::create_dir_all(real.join("inner")).unwrap();
        for number in 0..20 {
            fs::write(real.join(format!("own-{number}")), "own").unwrap();
            fs::write(real.join(format!("inner/own-{number}")), "own").unwrap();
        }
        symlink(world.path("elsewhere"), &link).unwrap();
        pairs.push((real, link));
    }
    let exchanging = Exchanging::begin(pairs);
    for round in 0..10 {
        let target = format!("/{round}");
        let arguments = ["put", "repo", &target, "--from", "source", "--key-file", "key"];
        let output = world.run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 3)), "{}: {said}", output.status);
    }
    assert!(exchanging.end() > 100, "nothing was exchanged while it ran");
    let listed = world.ok(&["ls", "repo", "-R"]);
    let foreign: Vec<_> = listed.lines().filter(|line| line.contains("foreign")).collect();
    assert!(foreign.is_empty(), "{} files from elsewhere: {foreign:?}", foreign.len());
    world.ok(&["extract", "repo", "out"]);
    assert!(listed.contains("/inner/own-3\n"), "something was put");
    let found = Command::new("grep").arg("-rl").arg("foreign").arg(world.path("out")).output();
    assert_eq!(String::from_utf8_lossy(&found.unwrap().stdout), "");
}

/// A folder in DEST that is exchanged while `extract` fills it: nothing goes
/// where the link leads, and another folder does not get its attributes.
#[test]
fn extract_writes_nothing_through_what_takes_a_folders_place() {
    const FOLDERS: usize = 24;
    let world = World::with_repo();
    for folder in 0..FOLDERS {
        for inner in ["", "inner"] {
            let real = world.path(&format!("source/{folder:02}")).join(inner);
            fs::create_dir_all(&real).unwrap();
            for number in 0..20 {
                fs::write(real.join(format!("file-{number}")), "x").unwrap();
            }
        }
    }
    world.ok(&["put", "repo", "/", "--from", "source"]);
    for name in ["elsewhere", "elsewhere/inner", "out"] {
        fs::create_dir(world.path(name)).unwrap();
    }
    let mut pairs = Vec::new();
    for folder in 0..FOLDERS {
        let link = world.path(&format!("link-{folder}"));
        symlink(world.path("elsewhere"), &link).unwrap();
        pairs.push((world.path(&format!("out/{folder:02}")), link));
    }
    let exchanging = Exchanging::begin(pairs);
    for _ in 0..10 {
        let output = world.run(&["extract", "repo", "out", "--key-file", "key"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 3)), "{}: {said}", output.status);
    }
    assert!(exchanging.end() > 100, "nothing was exchanged while it ran");
    assert_eq!(world.files("elsewhere"), Vec::<PathBuf>::new());
}

/// Folders get their modes and times at the end, by their paths: with root's rights,
/// another folder that was there by then was opened to others.
#[test]
fn a_folder_that_takes_anothers_place_does_not_get_its_mode() {
    let world = World::with_repo();
    fs::create_dir_all(world.path("source/a")).unwrap();
    fs::write(world.path("source/a/file"), "x").unwrap();
    fs::set_permissions(world.path("source/a"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(world.path("source/z"), noise(64 << 20, 3)).unwrap();
    world.ok(&["put", "repo", "/", "--from", "source"]);
    fs::create_dir(world.path("private")).unwrap();
    fs::set_permissions(world.path("private"), fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = world.command(&["extract", "repo", "out", "--key-file", "key"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    // It is at the last file.
    let begun = || {
        let entries = fs::read_dir(world.path("out")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).any(|data| data.size() > 1 << 20)
    };
    while !begun() {
        assert!(child.try_wait().unwrap().is_none(), "it was too fast");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let (made, private) = (world.path("out/a"), world.path("private"));
    renameat_with(CWD, &made, CWD, &private, RenameFlags::EXCHANGE).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o700);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("out/a: another folder"), "{said}");
}

/// Folders within folders, made one in the other: no path leads to the last.
fn make_deep(top: &Path, depth: usize) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut at = openat(CWD, top, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&at, "deep", Mode::RWXU).unwrap();
        at = openat(&at, "deep", flags, Mode::empty()).unwrap();
    }
    at
}

/// How deep it goes, and what the last one holds under `name`.
fn read_deep(top: &Path, name: &str) -> (usize, String) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut at = openat(CWD, top, flags, Mode::empty()).unwrap();
    let mut depth = 0;
    while let Ok(next) = openat(&at, "deep", flags, Mode::empty()) {
        (at, depth) = (next, depth + 1);
    }
    let file = openat(&at, name, OFlags::RDONLY, Mode::empty()).unwrap();
    (depth, std::io::read_to_string(fs::File::from(file)).unwrap())
}

/// A path that is longer than the system takes was left out, and `extract` held a
/// descriptor for each folder on the way down.
#[test]
fn a_deep_tree_goes_in_and_comes_back_with_few_descriptors() {
    let world = World::with_repo();
    fs::create_dir(world.path("source")).unwrap();
    let last = make_deep(&world.path("source"), DEEP);
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let file = openat(&last, "file", flags, Mode::RUSR | Mode::WUSR).unwrap();
    rustix::io::write(&file, b"at the bottom").unwrap();
    fs::write(world.path("source/zzz"), "after it").unwrap();
    let program = env!("CARGO_BIN_EXE_amberfs");
    for arguments in ["put repo / --from source", "extract repo out"] {
        let script = format!("ulimit -n {FEW}; exec {program} {arguments} --key-file key");
        let output = world.program("sh", &["-c", &script]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments}: {}: {said:.500}", output.status);
    }
    let expected = (DEEP, "at the bottom".to_string());
    assert_eq!(read_deep(&world.path("out"), "file"), expected);
    assert_eq!(fs::read_to_string(world.path("out/zzz")).unwrap(), "after it");
    for name in ["source", "out"] {
        // remove_dir_all of the test's folder would take as many descriptors.
        assert!(Command::new("rm").arg("-rf").arg(world.path(name)).status().unwrap().success());
    }
}

/// What blocks or never ends is put as what it is, or named.
#[test]
fn nothing_in_the_source_is_waited_for() {
    let world = World::with_repo();
    fs::create_dir(world.path("source")).unwrap();
    assert!(Command::new("mkfifo").arg(world.path("source/fifo")).status().unwrap().success());
    let endless = fs::File::create(world.path("source/endless")).unwrap();
    endless.set_len(1 << 42).unwrap();
    fs::write(world.path("source/small"), noise(1000, 1)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(world.path("source/socket")).unwrap();
    let told = world.fails(&["put", "repo", "/", "--from", "source"], 3);
    assert!(told.contains("source/socket") && !told.contains("fifo"), "{told}");
    let listed = world.ok(&["ls", "repo", "-l"]);
    assert!(
        listed.lines().any(|line| line.starts_with('p') && line.ends_with(" fifo")),
        "{listed}"
    );
    assert!(listed.contains(" 4398046511104 "), "{listed}");
}
