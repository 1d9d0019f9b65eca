//! Power cuts on a real mount: repository and local state lie on an ext4 image
//! in memory, and copies of that image are taken while programs write. What
//! ext4 has not sent to its disk is not in a copy; so a copy is what a machine
//! has left that lost its power. Each is mounted anew, and all that fsync
//! returned for before must be there.
//!
//! What a disk does to writes that it was not told to flush is not tried here
//! (`src/fs/tests_crash.rs` does, on a simulated one).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};

use crate::mounted::has_fuse;
use crate::world::{Mount, World, factor};

/// Cuts in one life of a repository.
const CUTS: usize = 5;
const PAGE: usize = 4096;
const PAGES: usize = 100;

/// Size of the image and options of ext4, one after another. With little room
/// amberfs lets the kernel cache no writes.
const DISKS: [(&str, &str); 4] = [
    ("700M", "noinit_itable,commit=1"),
    ("700M", "noinit_itable,data=writeback,commit=1"),
    ("200M", "noinit_itable"),
    ("700M", "noinit_itable,nodelalloc"),
];

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("is text")
}

/// An image, mounted; gone when it is dropped.
pub struct Disk {
    folder: PathBuf,
    loop_device: String,
}

impl Disk {
    pub fn mount(image: &Path, folder: PathBuf, options: &str) -> Self {
        fs::create_dir_all(&folder).expect("creates");
        run("mount", &["-t", "ext4", "-o", &format!("loop,{options}"), text(image), text(&folder)]);
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
        let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(text(&folder)));
        let device = line.and_then(|line| line.split(" - ext4 /dev/").nth(1)).expect("is listed");
        let loop_device = device.split(' ').next().expect("has a name").to_owned();
        Self { folder, loop_device }
    }

    /// Writes, discards and flushes that the device has finished; none if it
    /// is at one.
    fn written(&self) -> Option<Vec<u64>> {
        let stat = fs::read_to_string(format!("/sys/block/{}/stat", self.loop_device));
        let stat = stat.expect("reads");
        let fields: Vec<u64> =
            stat.split_whitespace().map(|field| field.parse().expect("a number")).collect();
        (fields[8] == 0).then(|| [&fields[4..7], &fields[11..14], &fields[15..16]].concat())
    }

    pub fn unmount(mut self) {
        // The daemon's guard may be about to end.
        for _ in 0..100 {
            let done = Command::new("umount").arg(&self.folder).output().expect("starts");
            if done.status.success() {
                self.folder = PathBuf::new();
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{} stays busy", self.folder.display());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.folder != PathBuf::new() {
            let _ = Command::new("umount").arg("-l").arg(&self.folder).output();
        }
    }
}

/// A process that does nothing until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(mount: &Mount) -> Self {
        let pid = Pid::from_raw(mount.pid() as i32).expect("is a process");
        kill_process(pid, Signal::STOP).expect("is ours");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

fn noise(len: usize, seed: &str) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The last version that fsync returned for, and the last that was begun.
type Versions = (u64, u64);

/// What must be there.
#[derive(Clone)]
struct Manifest {
    files: BTreeMap<String, Versions>,
    /// Synced through their parent.
    folders: Vec<String>,
    /// Records of the log.
    log: Versions,
    pages: Vec<Versions>,
}

/// Of each sixth version there is no file.
fn content(name: &str, version: u64) -> Option<Vec<u8>> {
    let place = format!("{name} {version}");
    let len = noise(4, &place).iter().fold(0, |sum, byte| sum * 61 + *byte as usize);
    (!version.is_multiple_of(6)).then(|| noise(len % [300, 9000, 200_000][len % 3], &place))
}

fn record(number: u64) -> Vec<u8> {
    let place = format!("record {number}");
    noise(1 + noise(1, &place)[0] as usize * 20, &place)
}

fn page(number: usize, version: u64) -> Vec<u8> {
    if version == 0 { vec![0; PAGE] } else { noise(PAGE, &format!("page {number} {version}")) }
}

struct Workload {
    root: PathBuf,
    manifest: Mutex<Manifest>,
    ends: AtomicBool,
    /// Bytes that may still be written: how long a cut takes, and so how much is
    /// written meanwhile, is the machine's, and the disk is small.
    left: AtomicU64,
}

/// Ends the workload, whatever happens.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Workload {
    fn new(root: PathBuf, left: u64) -> Self {
        let files = (0..16).map(|number| (format!("file{number}"), (0, 0))).collect();
        let manifest =
            Manifest { files, folders: Vec::new(), log: (0, 0), pages: vec![(0, 0); PAGES] };
        File::create(root.join("log")).expect("creates");
        let pages = File::create(root.join("pages")).expect("creates");
        pages.set_len((PAGE * PAGES) as u64).expect("extends");
        pages.sync_all().expect("syncs");
        let left = AtomicU64::new(left);
        Self { root, manifest: Mutex::new(manifest), ends: AtomicBool::new(false), left }
    }

    fn note(&self, change: impl FnOnce(&mut Manifest)) {
        change(&mut self.manifest.lock().expect("no panic"));
    }

    fn manifest(&self) -> Manifest {
        self.manifest.lock().expect("no panic").clone()
    }

    fn goes_on(&self) -> bool {
        let ends = || self.ends.load(Ordering::Relaxed);
        while !ends() && self.left.load(Ordering::Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        !ends()
    }

    /// What is written costs a page or two more in the journal.
    fn spend(&self, bytes: usize) {
        let less = |left: u64| Some(left.saturating_sub(bytes as u64 + 8192));
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn sync_root(&self) -> io::Result<()> {
        File::open(&self.root)?.sync_all()
    }

    /// Files with an even number change at once, by rename; the others are
    /// removed and written anew.
    fn files(&self, seed: u64) -> io::Result<()> {
        let mut draw = StdRng::seed_from_u64(seed);
        for turn in 0.. {
            if !self.goes_on() {
                break;
            }
            if turn % 5 == 0 {
                // Folders came back without what makes them one (gocryptfs
                // issue 1033).
                let name = format!("folder{turn}");
                fs::create_dir(self.root.join(&name))?;
                self.sync_root()?;
                self.note(|manifest| manifest.folders.push(name));
            }
            let number = draw.gen_range(0..16);
            let name = format!("file{number}");
            let path = self.root.join(&name);
            let version = self.manifest().files[&name].1 + 1;
            self.note(|manifest| manifest.files.get_mut(&name).expect("is there").1 = version);
            let content = content(&name, version);
            self.spend(content.as_ref().map_or(0, Vec::len));
            match content {
                None => {
                    fs::remove_file(&path)?;
                    self.sync_root()?;
                }
                Some(bytes) if number % 2 == 0 => {
                    let new = self.root.join("new");
                    let mut file = File::create(&new)?;
                    file.write_all(&bytes)?;
                    if draw.gen_bool(0.5) {
                        file.sync_all()?;
                    }
                    fs::rename(&new, &path)?;
                    if draw.gen_bool(0.5) { file.sync_all()? } else { self.sync_root()? }
                }
                Some(bytes) => {
                    if path.exists() {
                        fs::remove_file(&path)?;
                    }
                    let mut file = File::create(&path)?;
                    file.write_all(&bytes)?;
                    file.sync_all()?;
                }
            }
            self.note(|manifest| manifest.files.get_mut(&name).expect("is there").0 = version);
        }
        Ok(())
    }

    fn log(&self) -> io::Result<()> {
        let mut log = OpenOptions::new().append(true).open(self.root.join("log"))?;
        for number in 1.. {
            if !self.goes_on() {
                break;
            }
            self.note(|manifest| manifest.log.1 = number);
            let record = record(number);
            self.spend(record.len());
            log.write_all(&record)?;
            if number % 4 == 0 {
                log.sync_data()?;
                self.note(|manifest| manifest.log.0 = number);
            }
        }
        Ok(())
    }

    fn pages(&self, seed: u64) -> io::Result<()> {
        let mut draw = StdRng::seed_from_u64(seed);
        let pages = OpenOptions::new().write(true).open(self.root.join("pages"))?;
        while self.goes_on() {
            let changed: Vec<usize> =
                (0..draw.gen_range(1..10)).map(|_| draw.gen_range(0..PAGES)).collect();
            for number in &changed {
                let version = self.manifest().pages[*number].1 + 1;
                self.note(|manifest| manifest.pages[*number].1 = version);
                pages.write_all_at(&page(*number, version), (number * PAGE) as u64)?;
            }
            self.spend(changed.len() * PAGE);
            pages.sync_data()?;
            self.note(|manifest| {
                for number in &changed {
                    manifest.pages[*number].0 = manifest.pages[*number].1;
                }
            });
        }
        Ok(())
    }
}

/// One power cut: the image it left, and what was promised before and begun
/// after.
struct Cut {
    image: PathBuf,
    before: Manifest,
    after: Manifest,
}

fn cut(disk: &Disk, mount: &Mount, image: &Path, copy: PathBuf, workload: &Workload) -> Cut {
    for _ in 0..50 {
        let before = workload.manifest();
        let stopped = Stopped::new(mount);
        let written = disk.written();
        copy_sparse(image, &copy).expect("copies");
        // ext4 may have written meanwhile: then the copy is no one moment's.
        let is_whole = written.is_some() && written == disk.written();
        drop(stopped);
        if is_whole {
            return Cut { image: copy, before, after: workload.manifest() };
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("ext4 never stops writing");
}

/// Copies what is no hole. Within this process: one that is started has our
/// files until it runs its program, and closing them asks the daemon.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{SeekFrom, seek};
    let (from, to) = (File::open(from)?, File::create(to)?);
    let len = from.metadata()?.len();
    to.set_len(len)?;
    let mut bytes = vec![0; 1 << 20];
    let mut at = 0;
    while let Ok(start) = seek(&from, SeekFrom::Data(at)) {
        let end = seek(&from, SeekFrom::Hole(start))?;
        at = start;
        while at < end {
            let piece = &mut bytes[..(end - at).min(1 << 20) as usize];
            from.read_exact_at(piece, at)?;
            to.write_all_at(piece, at)?;
            at += piece.len() as u64;
        }
    }
    Ok(())
}

/// What was looked at.
#[derive(Default, Debug)]
struct Looked {
    files: usize,
    in_flight: usize,
    folders: usize,
    records: u64,
    pages: usize,
}

fn check(root: &Path, Cut { before, after, .. }: &Cut, looked: &mut Looked) {
    for (name, (promised, _)) in &before.files {
        let begun = after.files[name].1;
        let found = match fs::read(root.join(name)) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => panic!("{name}: {error}"),
        };
        let number: u64 = name["file".len()..].parse().expect("a number");
        if begun > *promised && !number.is_multiple_of(2) {
            looked.in_flight += 1;
            continue;
        }
        assert!(
            (*promised..=begun).any(|version| content(name, version) == found),
            "{name}: {:?} bytes are none of versions {promised} to {begun}",
            found.map(|bytes| bytes.len())
        );
        looked.files += 1;
    }
    for name in &before.folders {
        let folder = root.join(name);
        assert_eq!(fs::read_dir(&folder).expect(name).count(), 0, "{name}");
        fs::write(folder.join("inside"), name).expect(name);
        looked.folders += 1;
    }
    let log = fs::read(root.join("log")).expect("log");
    let (mut len, mut number) = (0, 0);
    while len < log.len() {
        number += 1;
        let record = record(number);
        let found = &log[len..log.len().min(len + record.len())];
        assert!(*found == record[..found.len()], "record {number} of the log");
        len += record.len();
        // A part of one does not count as it.
        looked.records += u64::from(len <= log.len());
    }
    let whole = number - u64::from(len > log.len());
    assert!((before.log.0..=after.log.1).contains(&whole), "{whole} records");
    let pages = fs::read(root.join("pages")).expect("pages");
    assert_eq!(pages.len(), PAGE * PAGES);
    for (number, found) in pages.chunks(PAGE).enumerate() {
        let (promised, begun) = (before.pages[number].0, after.pages[number].1);
        assert!(
            (promised..=begun).any(|version| page(number, version) == found),
            "page {number} is none of versions {promised} to {begun}"
        );
        looked.pages += 1;
    }
}

const SECRET: [&str; 6] = ["--state", "disk/state", "--key-file", "key", "-o", "checkpoint=1s,2s"];

/// One life of a repository, and what is left at each cut.
fn life(round: usize, looked: &mut Looked) {
    let (size, options) = DISKS[round % DISKS.len()];
    let (images, image) = new_image(size);
    let world = World::new();
    let disk = Disk::mount(&image, world.path("disk"), options);
    let init = ["init", "disk/repo", "--key-out", "key", "--state", "disk/state"];
    let made = world.run(&init);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mount = world.mount("disk/repo", "mnt", &SECRET);
    let room = size.trim_end_matches('M').parse::<u64>().expect("is in MiB") << 20;
    let workload = Workload::new(world.path("mnt"), room / 4);
    let seed = StdRng::from_entropy().gen_range(0..1 << 32);
    println!("round {round}: {size}, {options}, seed {seed}");
    let mut draw = StdRng::seed_from_u64(seed);
    let cuts: Vec<Cut> = std::thread::scope(|scope| {
        let ending = Ending(&workload.ends);
        let writers = [
            scope.spawn(|| workload.files(seed)),
            scope.spawn(|| workload.log()),
            scope.spawn(|| workload.pages(seed + 1)),
        ];
        let cuts = (0..CUTS)
            .map(|number| {
                std::thread::sleep(Duration::from_millis(draw.gen_range(20..1500)));
                let copy = images.path().join(format!("cut{number}"));
                cut(&disk, &mount, &image, copy, &workload)
            })
            .collect();
        drop(ending);
        for writer in writers {
            writer.join().expect("no panic").expect("writes");
        }
        cuts
    });
    mount.kill();
    disk.unmount();
    for (number, cut) in cuts.iter().enumerate() {
        println!("cut {number}");
        let disk = Disk::mount(&cut.image, world.path("disk"), options);
        let mount = world.mount("disk/repo", "mnt", &SECRET);
        check(&world.path("mnt"), cut, looked);
        mount.unmount(&world);
        world.ok(&["check", "disk/repo", "--read-data", "--state", "disk/state"]);
        disk.unmount();
        fs::remove_file(&cut.image).expect("removes");
    }
}

/// Whether power can be cut here; a skip is said aloud.
pub fn can_be_cut(test: &str) -> bool {
    let has_loop = Path::new("/dev/loop-control").exists();
    let mkfs = Command::new("mkfs.ext4").arg("-V").output().is_ok();
    let can = rustix::process::geteuid().is_root() && has_loop && mkfs;
    if !can {
        println!("SKIPPED {test}: needs root, loop devices and mkfs.ext4");
    }
    can && has_fuse(test)
}

/// A folder for images, in memory if it can be, and an empty image in it.
pub fn new_image(size: &str) -> (tempfile::TempDir, PathBuf) {
    let memory = Path::new("/dev/shm");
    let images = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let images = images.expect("makes a folder");
    let image = images.path().join("image");
    run("truncate", &["-s", size, text(&image)]);
    run("mkfs.ext4", &["-q", "-F", text(&image)]);
    (images, image)
}

#[test]
fn what_fsync_returned_for_survives_a_power_cut() {
    if !can_be_cut("power") {
        return;
    }
    let mut looked = Looked::default();
    let rounds = 2 * factor();
    let first = StdRng::from_entropy().gen_range(0..DISKS.len());
    for round in first..first + rounds {
        life(round, &mut looked);
    }
    println!("power: {} cuts, {looked:?}", rounds * CUTS);
}
