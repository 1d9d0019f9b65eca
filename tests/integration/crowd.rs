//! Many threads at once in the same folders of a real mount.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::mounted::has_fuse;
use crate::world::{World, noise};

const THREADS: u64 = 8;
const STEPS: u64 = 1500;
const FOLDERS: u64 = 3;
/// Much longer than it takes; who is not done by then never will be.
const LIMIT: Duration = Duration::from_secs(120);

/// A generator of small numbers (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// What others may have done to a shared name meanwhile.
fn tolerate(result: std::io::Result<()>) {
    if let Err(error) = result {
        let code = error.raw_os_error();
        let expected = [libc::ENOENT, libc::EEXIST, libc::ENOTEMPTY, libc::EISDIR, libc::ENOTDIR];
        assert!(code.is_some_and(|code| expected.contains(&code)), "{error}");
    }
}

/// One thread's work: files of its own, wandering about under names that nobody
/// else uses, and quarrels about shared names. Returns where its own files are,
/// and what each holds.
fn work(root: &Path, thread: u64, seed: u64) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut dice = Dice(seed * 1000 + thread + 1);
    let mut own: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    let folder = |dice: &mut Dice| root.join(format!("folder-{}", dice.below(FOLDERS)));
    for step in 0..STEPS {
        let place = folder(&mut dice).join(format!("own-{thread}-{step}"));
        let shared = folder(&mut dice).join(format!("shared-{}", dice.below(6)));
        let other = folder(&mut dice).join(format!("shared-{}", dice.below(6)));
        let pick = dice.below(own.len().max(1) as u64) as usize;
        let mine = own.keys().nth(pick).cloned();
        match (dice.below(10), mine) {
            (0..=2, _) | (3..=5, None) => {
                let bytes = noise(dice.below(20_000) as usize, seed + step);
                fs::write(&place, &bytes).expect("nobody else has the name");
                own.insert(place, bytes);
            }
            (3, Some(mine)) => {
                fs::rename(&mine, &place).expect("nobody else has the names");
                let bytes = own.remove(&mine).expect("is known");
                own.insert(place, bytes);
            }
            (4, Some(mine)) => {
                let more = noise(100, step);
                let mut file = fs::File::options().append(true).open(&mine).expect("is there");
                file.write_all(&more).expect("writes");
                if step % 3 == 0 {
                    file.sync_all().expect("syncs");
                }
                own.get_mut(&mine).expect("is known").extend(more);
            }
            (5, Some(mine)) => {
                fs::hard_link(&mine, &place).expect("nobody else has the names");
                fs::remove_file(&mine).expect("is there");
                let bytes = own.remove(&mine).expect("is known");
                own.insert(place, bytes);
            }
            (6, _) => tolerate(fs::write(&shared, noise(3000, step))),
            (7, _) => tolerate(fs::rename(&shared, &other)),
            (8, _) => tolerate(fs::hard_link(&shared, &other)),
            _ => tolerate(fs::remove_file(&shared)),
        }
        if dice.below(8) == 0 {
            let nest = folder(&mut dice).join(format!("nest-{}", dice.below(2)));
            tolerate(fs::create_dir(&nest));
            tolerate(fs::rename(&nest, folder(&mut dice).join(format!("nest-{}", dice.below(2)))));
            tolerate(fs::remove_dir(&nest));
        }
    }
    own
}

/// All names below a folder, with inode, link count and kind.
fn listing(folder: &Path, found: &mut BTreeMap<PathBuf, (u64, u64, bool)>) {
    for entry in fs::read_dir(folder).expect("lists") {
        let path = entry.expect("lists").path();
        let stat = fs::symlink_metadata(&path).expect("is there");
        found.insert(path.clone(), (stat.ino(), stat.nlink(), stat.is_dir()));
        if stat.is_dir() {
            listing(&path, found);
        }
    }
}

#[test]
fn many_threads_in_the_same_folders_lose_nothing() {
    if !has_fuse("crowd") {
        return;
    }
    let seed = std::process::id().into();
    println!("seed {seed}");
    let world = World::with_repo();
    let mut mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    let root = world.path("mnt");
    for folder in 0..FOLDERS {
        fs::create_dir(root.join(format!("folder-{folder}"))).expect("makes");
    }
    let (done, results) = mpsc::channel();
    for thread in 0..THREADS {
        let (root, done) = (root.clone(), done.clone());
        std::thread::spawn(move || {
            let own = std::panic::catch_unwind(|| work(&root, thread, seed));
            let _ = done.send(own);
        });
    }
    drop(done);
    // Checkpoints run beside them.
    let mut own = BTreeMap::new();
    let mut ended = 0;
    let started = Instant::now();
    while ended < THREADS {
        assert!(started.elapsed() < LIMIT, "they wait for each other");
        match results.recv_timeout(Duration::from_millis(300)) {
            Ok(result) => {
                own.extend(result.expect("each result was as it must be"));
                ended += 1;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => drop(world.ok(&["sync", "mnt"])),
            Err(mpsc::RecvTimeoutError::Disconnected) => panic!("a thread was lost"),
        }
    }
    for round in 0..2 {
        let mut found = BTreeMap::new();
        listing(&root, &mut found);
        let ours = found.keys().filter(|path| path.to_string_lossy().contains("/own-"));
        assert!(ours.eq(own.keys()), "round {round}: names were lost or came back");
        for (path, bytes) in &own {
            assert!(fs::read(path).expect("reads") == *bytes, "{}", path.display());
        }
        let mut names: HashMap<u64, u64> = HashMap::new();
        for (ino, _, is_dir) in found.values() {
            if !is_dir {
                *names.entry(*ino).or_default() += 1;
            }
        }
        for (path, (ino, links, is_dir)) in &found {
            let expected = if *is_dir {
                let below = |(inner, (.., dir)): (&PathBuf, &(u64, u64, bool))| {
                    *dir && inner.parent() == Some(path)
                };
                2 + found.iter().filter(|item| below(*item)).count() as u64
            } else {
                names[ino]
            };
            assert_eq!(*links, expected, "round {round}: links of {}", path.display());
        }
        mount.unmount(&world);
        mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    }
    mount.unmount(&world);
    world.ok(&["check", "repo", "--read-data"]);
}
