//! `check --repair` on a simulated repository: whatever is lost, the tree is
//! whole afterwards, all else can be read, and what cannot is listed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use super::tests_crash::factor;
use super::tests_crash::machine::{boot, fresh, open, sound};
use super::tests_crash::model::{ME, find};
use super::*;
use crate::crypto::Hash;
use crate::format::clock::Generations;
use crate::format::commit::{parse_head_name, parse_object_name};
use crate::io::SyncedFolder as _;
use crate::io::sim::SimWorld;
use crate::volume::{Repaired, VolumeError};

/// Contents by path.
type Files = BTreeMap<String, Vec<u8>>;
/// What is seen: content, or that it cannot be read.
type Seen = BTreeMap<String, Option<Vec<u8>>>;

const GENERATIONS: u64 = 5;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Numbers that follow from a seed.
fn draws(seed: u64) -> impl FnMut(usize) -> usize {
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    move |below| {
        let mut bytes = [0; 8];
        reader.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % below as u64) as usize
    }
}

fn at<'a>(fs: &Fs, path: &'a str) -> (Ino, &'a [u8]) {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    (find(fs, dir).unwrap(), name.as_bytes())
}

fn write(fs: &Fs, path: &str, bytes: &[u8]) {
    let (dir, name) = at(fs, path);
    if fs.lookup(dir, name).is_err() {
        fs.mknod(ME, dir, name, 0o100_644, 0).unwrap();
    }
    let ino = find(fs, path).unwrap();
    for (nth, piece) in bytes.chunks(100_000).enumerate() {
        fs.write(ino, nth as u64 * 100_000, piece, false).unwrap();
    }
    let size = SetAttr { size: Some(bytes.len() as u64), ..SetAttr::default() };
    fs.setattr(ino, &size).unwrap();
}

/// A repository of five commits, and its files after each.
fn repository() -> (SimWorld, Vec<Files>) {
    let world = fresh();
    let mut random = draws(7);
    let (mut files, mut commits) = (Files::new(), Vec::new());
    let fs = boot(&world, "state", 1).unwrap();
    for dir in 0..12 {
        fs.mkdir(ME, ROOT, format!("dir{dir}").as_bytes(), 0o755).unwrap();
        for file in 0..80 {
            let path = format!("dir{dir}/old{file}");
            let bytes = noise(1 << 40 | dir << 8 | file, 20);
            write(&fs, &path, &bytes);
            files.insert(path, bytes);
        }
    }
    for generation in 0..GENERATIONS {
        for change in 0..20 {
            let len = if change < 4 { 400_000 } else { 300 + random(6000) };
            let path = format!("dir{}/file{}", random(12), random(40));
            let bytes = noise(generation << 16 | change, len);
            write(&fs, &path, &bytes);
            files.insert(path, bytes);
        }
        for _ in 0..3 {
            let old = files.keys().nth(random(files.len())).unwrap().clone();
            let new = format!("dir{}/renamed{}", random(12), random(1000));
            fs.rename(at(&fs, &old), at(&fs, &new), RenameMode::Replace).unwrap();
            let bytes = files.remove(&old).unwrap();
            files.insert(new, bytes);
            let gone = files.keys().nth(random(files.len())).unwrap().clone();
            let (dir, name) = at(&fs, &gone);
            fs.unlink(dir, name).unwrap();
            files.remove(&gone);
        }
        world.clock().advance(Duration::from_secs(3600));
        fs.checkpoint().unwrap();
        commits.push(files.clone());
    }
    world.clock().advance(Duration::from_secs(3600));
    drop(fs);
    (world, commits)
}

fn kept(world: &SimWorld) -> Vec<String> {
    world.paths().into_iter().filter(|p| p.contains("/head/") || p.contains("/obj/")).collect()
}

/// Files whose bytes are not what their names say.
fn bad(world: &SimWorld) -> HashSet<Hash> {
    let wrong = kept(world).into_iter().filter_map(|path| {
        let name = path.rsplit('/').next().unwrap();
        let hash = parse_object_name(name).or_else(|| Some(parse_head_name(name)?.1)).unwrap();
        (crate::crypto::hash(&world.get(&path).unwrap()) != hash).then_some(hash)
    });
    wrong.collect()
}

/// Repairs as a new device with the state folder `state`.
fn repair(
    world: &SimWorld,
    state: &str,
    anew: Option<Generations>,
    life: u64,
) -> std::result::Result<Repaired, VolumeError> {
    let (volume, repository) = open(world, state, life, anew)?;
    Ok(volume.repair(&repository, &bad(world))?)
}

fn seen(fs: &Fs) -> Seen {
    fn walk(fs: &Fs, dir: Ino, path: &str, seen: &mut Seen) {
        let mut entries = Vec::new();
        fs.readdir(dir, 2, true, &mut |entry| {
            entries.push(entry.clone());
            true
        })
        .unwrap();
        for entry in entries {
            let name = String::from_utf8(entry.name).unwrap();
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            if entry.attr.mode & 0o170_000 == 0o040_000 {
                walk(fs, entry.attr.ino, &path, seen);
            } else {
                let read = fs.read(entry.attr.ino, 0, u32::MAX);
                seen.insert(path, read.ok().filter(|b| b.len() as u64 == entry.attr.size));
            }
        }
    }
    let mut all = Seen::new();
    walk(fs, ROOT, "", &mut all);
    all
}

fn lost(repaired: &Repaired) -> BTreeSet<String> {
    repaired.lost.iter().map(|lost| String::from_utf8(lost.path.clone()).unwrap()).collect()
}

fn harm(world: &SimWorld, path: &str, how: usize) {
    match how {
        0 => world.synced("repo").remove(path.strip_prefix("repo/").unwrap()).unwrap(),
        1 => drop(world.tamper(path, |bytes| bytes.truncate(bytes.len() / 2))),
        2 => drop(world.tamper(path, Vec::clear)),
        _ => drop(world.tamper(path, |bytes| {
            let at = bytes.len() * (how - 3) / 97;
            bytes.get_mut(at).map(|byte| *byte ^= 1).unwrap_or_default();
        })),
    }
}

#[test]
fn whatever_is_lost_the_tree_is_whole_and_the_rest_can_be_read() {
    let (whole, commits) = repository();
    let all: HashSet<&Vec<u8>> = commits.iter().flat_map(BTreeMap::values).collect();
    let newest = commits.last().unwrap();
    let mut without_head = 0;
    for seed in 0..60 * factor() as u64 {
        let world = whole.kill();
        let mut random = draws(seed);
        let mut only_objects = true;
        for _ in 0..=random(3) {
            let paths = kept(&world);
            let path = &paths[random(paths.len())];
            only_objects &= path.contains("/obj/");
            let how = [0, 1, 2, 3 + random(97)][random(4)];
            harm(&world, path, how);
        }
        world.clock().advance(Duration::from_secs(3600));
        let files = kept(&world);
        let repaired = match repair(&world, "new", Some(Generations::default()), 100) {
            Ok(repaired) => repaired,
            Err(error) => panic!("seed {seed}: {error}"),
        };
        assert!(files.iter().all(|path| world.get(path).is_some()), "seed {seed}: removed a file");
        let fs = boot(&world, "new", 101).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        sound(&fs);
        let found = seen(&fs);
        let unreadable = found.iter().filter(|(_, bytes)| bytes.is_none());
        let unreadable: BTreeSet<String> = unreadable.map(|(path, _)| path.clone()).collect();
        assert_eq!(lost(&repaired), unreadable, "seed {seed}");
        for (path, bytes) in &found {
            assert!(bytes.as_ref().is_none_or(|bytes| all.contains(bytes)), "seed {seed}: {path}");
        }
        if only_objects {
            assert!(found.keys().eq(newest.keys()), "seed {seed}: names");
            let right = |(path, bytes): (&String, &Option<Vec<u8>>)| {
                bytes.as_ref().is_none_or(|bytes| *bytes == newest[path])
            };
            assert!(found.iter().all(right), "seed {seed}: content");
        } else {
            without_head += 1;
        }
        // What was lost can be written anew, and is then everywhere.
        for path in &unreadable {
            let bytes = newest.get(path).cloned().unwrap_or_else(|| noise(seed, 500));
            write(&fs, path, &bytes);
        }
        fs.checkpoint().unwrap_or_else(|error| {
            panic!("seed {seed}: {error}, {:?}: {unreadable:?}", fs.progress().trouble)
        });
        let now = seen(&fs);
        drop(fs);
        assert!(now.values().all(Option::is_some), "seed {seed}: written anew");
        let other = boot(&world, "other", 102).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(seen(&other), now, "seed {seed}: another device");
        drop(other);
        // All is known now: nothing is left to do.
        let again = repair(&world, "new", None, 103).unwrap();
        assert!(again.published.is_none() && again.lost.is_empty(), "seed {seed}: {again:?}");
    }
    assert!(without_head > 10, "{without_head}");
}

/// Nodes that only a lost head held come back in their older form.
#[test]
fn what_a_lost_head_changed_in_the_tree_is_as_before() {
    let (world, commits) = repository();
    let heads: Vec<String> = kept(&world).into_iter().filter(|p| p.contains("/head/")).collect();
    harm(&world, &heads[3], 0);
    let repaired = repair(&world, "new", Some(Generations::default()), 100).unwrap();
    assert!(repaired.changes.iter().any(|text| text.contains("older commits")), "{repaired:?}");
    let fs = boot(&world, "new", 101).unwrap();
    sound(&fs);
    let found = seen(&fs);
    let (third, newest) = (&commits[2], &commits[4]);
    let right = newest.iter().filter(|(path, bytes)| {
        third.get(*path) == Some(bytes) && found.get(*path) != Some(&Some((*bytes).clone()))
    });
    assert_eq!(right.map(|(path, _)| path).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn devices_that_saw_what_was_lost_go_on_or_are_told() {
    let (world, commits) = repository();
    drop(boot(&world, "watcher", 50).unwrap());
    let heads: Vec<String> = kept(&world).into_iter().filter(|p| p.contains("/head/")).collect();
    let newest = world.get(&heads[4]).unwrap();
    harm(&world, &heads[4], 3);
    world.clock().advance(Duration::from_secs(3600));
    for state in ["state", "watcher"] {
        assert!(boot(&world, state, 51).is_err(), "{state}");
    }
    let repaired = repair(&world, "new", Some(Generations::default()), 100).unwrap();
    assert!(lost(&repaired).is_empty(), "{repaired:?}");
    let expected: Seen =
        commits[3].iter().map(|(path, bytes)| (path.clone(), Some(bytes.clone()))).collect();
    for state in ["new", "watcher", "fresh"] {
        let fs = boot(&world, state, 101).unwrap_or_else(|error| panic!("{state}: {error}"));
        assert_eq!(seen(&fs), expected, "{state}");
    }
    let told = boot(&world, "state", 102).err().unwrap();
    assert!(told.contains("retired this device"), "{told}");
    // It comes back: what it changed is there, and what it removed is gone.
    world.put(&heads[4], &newest);
    let fs = boot(&world, "new", 103).unwrap();
    sound(&fs);
    let newest = commits[4].iter().map(|(path, bytes)| (path.clone(), Some(bytes.clone())));
    assert_eq!(seen(&fs), newest.collect());
}

#[test]
fn without_any_head_nothing_is_made_up() {
    let (world, _) = repository();
    for path in kept(&world).iter().filter(|path| path.contains("/head/")) {
        harm(&world, path, 2);
    }
    world.clock().advance(Duration::from_secs(3600));
    let before = kept(&world);
    assert!(matches!(
        repair(&world, "new", Some(Generations::default()), 100),
        Err(VolumeError::Waiting(_) | VolumeError::Open(_))
    ));
    assert_eq!(kept(&world), before);
}
