//! Every kind of damage to every kind of file in REPO: what an opening for
//! writing says, what an opening for reading says and shows, and that no wrong
//! byte is ever shown.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::crypto::{Secret, hex, unhex};
use crate::format::container::Class;
use crate::format::namespace::{Content, Inode, Owner};
use crate::io::sim::{SimRandom, SimWorld};
use crate::io::{PrivateFolder, SyncedFolder, Timestamp};
use crate::store::Context;
use crate::sync::{self, OpenOptions};
use crate::volume::repository::{OpenFailure, Repository, init};

const NEWEST: u64 = 3;

pub(super) fn key() -> Secret {
    Secret::take(&mut [7; 32])
}

/// A repository of three heads; in each its own object with the content of one
/// inode, whose number is the generation.
pub(super) fn repository() -> SimWorld {
    let world = SimWorld::new();
    init(&*world.synced("repo"), &key(), [9; 16], [1; 16], Vec::new(), &SimRandom::new(1)).unwrap();
    for generation in 1..=NEWEST {
        let volume = open(&world, Some("state"), &OpenOptions::default(), generation).unwrap();
        publish(&volume, generation);
    }
    world
}

fn content(ino: u64) -> Vec<u8> {
    let mut bytes = vec![0; 200_000];
    blake3::Hasher::new().update(&ino.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Publishes a checkpoint in which inode `ino` has an object of its own.
pub(super) fn publish(volume: &Volume, ino: u64) {
    let bytes = content(ino);
    let id = volume.store.context().ids.chunk_id(&bytes);
    volume.store.stage(Class::Incompressible, id, &bytes).unwrap();
    volume.store.publish_objects(0).unwrap();
    let mut inode = Inode::new(0o100_644, Owner::Id(0), Owner::Id(0), Timestamp::default());
    inode.size = bytes.len() as u64;
    inode.content = Content::Chunk(id);
    let edit = (Key::Inode(ino).encode(), Some(Value::Inode(Box::new(inode))));
    checkpoint(volume, vec![edit], (ino, 0)).unwrap();
}

/// Publishes values and removals as the next change of this mount.
pub(super) fn checkpoint(
    volume: &Volume,
    values: Vec<(Vec<u8>, Option<Value>)>,
    counts: (u64, u64),
) -> Result<Published> {
    let writer = volume.writer();
    let dot = Dot { writer, record: volume.last_of(writer).unwrap() + 1 };
    let mut seen = Seen::default();
    seen.add(dot);
    let edits =
        values.into_iter().map(|(key, value)| (key, value.map(|value| (dot, value)))).collect();
    let changes = Changes { edits, seen, ..Changes::default() };
    volume.checkpoint(volume.stamp(changes)?, counts, 0, &[])
}

pub(super) fn open(
    world: &SimWorld,
    state: Option<&str>,
    options: &OpenOptions,
    life: u64,
) -> std::result::Result<Volume, VolumeError> {
    open_beside(world, state.map(|name| (world, name)), options, life)
}

/// Opens a repository whose local state is on another disk, as [`open`] does.
pub(super) fn open_beside(
    world: &SimWorld,
    state: Option<(&SimWorld, &str)>,
    options: &OpenOptions,
    life: u64,
) -> std::result::Result<Volume, VolumeError> {
    open_in(world, world.synced("repo"), state, options, life)
}

/// Opens what is in a folder that may be odd.
pub(super) fn open_in(
    world: &SimWorld,
    repo: Arc<dyn SyncedFolder>,
    state: Option<(&SimWorld, &str)>,
    options: &OpenOptions,
    life: u64,
) -> std::result::Result<Volume, VolumeError> {
    let volume = open_unresolved(world, repo, state, options, life)?;
    if state.is_some() && !options.read_only {
        volume.resolve_intents(false)?;
    }
    Ok(volume)
}

/// Opens a repository, and leaves what a crash left in it as it is.
pub(super) fn open_unresolved(
    world: &SimWorld,
    repo: Arc<dyn SyncedFolder>,
    state: Option<(&SimWorld, &str)>,
    options: &OpenOptions,
    life: u64,
) -> std::result::Result<Volume, VolumeError> {
    let repository = Repository::find(&*repo)?;
    let (keyring, register, _) = repository.unlock(&key()).ok_or(VolumeError::WrongKey)?;
    let outside = World {
        repo,
        state: state.map(|(disk, name)| disk.folder(name) as Arc<dyn PrivateFolder>),
        clock: world.clock(),
        random: Arc::new(SimRandom::new(life)),
    };
    let mut options = options.clone();
    options.read_only |= state.is_none();
    if options.device_name.is_empty() {
        options.device_name = state.map_or("", |(_, name)| name).into();
    }
    let context = Arc::new(Context::new(repository.repo, keyring));
    sync::open(outside, &repository, context, register, &options)
}

/// The index of chunks is in files of local state, if it is long. When these could
/// not be read, nothing was known of any chunk, and a repair would have gone on
/// without them all.
#[test]
fn an_index_that_cannot_be_read_is_no_damage() {
    let (world, disk) = (SimWorld::new(), SimWorld::new());
    init(&*world.synced("repo"), &key(), [9; 16], [1; 16], Vec::new(), &SimRandom::new(1)).unwrap();
    let open = || open_beside(&world, Some((&disk, "state")), &OpenOptions::default(), 1).unwrap();
    let volume = open();
    for ino in 1..60 {
        publish(&volume, ino);
    }
    drop(volume);
    let volume = open();
    disk.freeze_at(0);
    assert!(disk.folder("state").make_dir("x").is_err());
    let repository = Repository::find(&*world.synced("repo")).unwrap();
    let repaired = volume.repair(&repository, &HashSet::new());
    assert!(matches!(repaired, Err(StoreError::State { .. })), "{:?}", repaired.err());
    let ids = (1..60).map(|ino| volume.store.context().ids.chunk_id(&content(ino)));
    let mut unknown = 0;
    for id in ids {
        match volume.store.is_in(&id, &|_| true) {
            // Its row is one of the newest, which are in memory.
            Ok(here) => assert!(here),
            Err(StoreError::State { .. }) => {
                unknown += 1;
                let read = volume.store.read(&id, 0, 9);
                assert!(matches!(read, Err(StoreError::State { .. })), "{read:?}");
                // What is not known to be stored is stored again.
                assert!(!volume.store.has(&id));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(unknown > 5, "{unknown}");
}

/// What an opening gives, in a few letters: `Ok` with the generation it stands
/// on and the inodes whose content can be read, or the kind of error. Bytes
/// that are read are always right.
pub(super) fn outcome(opened: &std::result::Result<Volume, VolumeError>) -> String {
    let volume = match opened {
        Ok(volume) => volume,
        Err(error) => return kind(error).into(),
    };
    let mut text = format!("{}:", volume.base().commit.generation);
    for ino in 1..=NEWEST {
        match volume.tree().get(&Key::Inode(ino)) {
            Ok(Some(Value::Inode(inode))) => {
                let Content::Chunk(id) = inode.content else { panic!("content is one chunk") };
                match volume.store.read(&id, 0, inode.size) {
                    Ok(bytes) => {
                        assert!(bytes == content(ino), "wrong bytes of inode {ino}");
                        text.push_str(&ino.to_string());
                    }
                    Err(StoreError::Damaged { .. }) => text.push('d'),
                    Err(StoreError::Missing { .. }) => text.push('m'),
                    Err(error) => panic!("{error}"),
                }
            }
            Ok(None) => text.push('-'),
            Ok(other) => panic!("{other:?}"),
            Err(StoreError::Damaged { .. }) => text.push('D'),
            Err(StoreError::Missing { .. }) => text.push('M'),
            Err(error) => panic!("{error}"),
        }
    }
    if !volume.notices.is_empty() {
        text.push('!');
    }
    text
}

fn kind(error: &VolumeError) -> &'static str {
    match error {
        VolumeError::Open(OpenFailure::NoRepository) => "no repository",
        VolumeError::Open(OpenFailure::HeaderDamaged(_)) => "header damaged",
        VolumeError::Open(OpenFailure::Store(error)) | VolumeError::Store(error) => match error {
            StoreError::Damaged { .. } => "damaged",
            StoreError::Missing { .. } => "missing",
            StoreError::Newer { .. } => "newer",
            StoreError::UnknownEpoch { .. } => "unknown epoch",
            _ => "other",
        },
        VolumeError::Open(OpenFailure::Newer(_)) => "newer",
        VolumeError::Open(_) => "other",
        VolumeError::WrongKey => "wrong key",
        VolumeError::State(_) | VolumeError::Unfit { .. } => "state",
        VolumeError::Waiting(_) => "waiting",
        VolumeError::NoDevice { .. } => "no device",
        VolumeError::TooEarly { .. } => "too early",
        VolumeError::SeveralDevices { .. } => "several devices",
        VolumeError::RolledBack(_) => "rolled back",
        VolumeError::Unwritable { .. } => "unwritable",
    }
}

/// Path of the header, of the head of a generation, or of the object in it.
pub(super) fn path(world: &SimWorld, what: &str) -> String {
    let paths = world.paths();
    let head = |generation: &str| {
        let part = format!("/head/000000000000000{generation}-");
        paths.iter().find(|path| path.contains(&part)).unwrap().clone()
    };
    match what.split_at(what.len() - 1) {
        ("head", generation) => head(generation),
        ("object", generation) => {
            let volume = open(world, None, &OpenOptions::default(), 77).unwrap();
            let bytes = content(generation.parse().unwrap());
            let id = volume.store.context().ids.chunk_id(&bytes);
            let holds = |path: &&String| {
                let name = path.rsplit('/').next().unwrap();
                crate::format::commit::parse_object_name(name).is_some_and(|hash| {
                    let device = unhex(path.split('/').nth(1).unwrap()).unwrap();
                    let reader = volume.store.open(&Name::Object { device, hash }).unwrap();
                    reader.directory().find(&id).is_some()
                })
            };
            paths.iter().filter(|path| path.contains("/obj/")).find(holds).unwrap().clone()
        }
        _ => paths.iter().find(|path| path.contains("/amberfs-")).unwrap().clone(),
    }
}

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Removed,
    Emptied,
    /// Cut to this many of a hundred parts.
    Cut(usize),
    /// One bit, at this of a thousand places.
    Flipped(usize),
    /// The bytes of another file of its kind.
    Replaced(&'static str),
    /// Its name is given to another generation, or device.
    Regenerated,
    Moved,
    /// A good copy with this in its name lies beside what is `Removed` (or, if
    /// false, `Flipped` in the middle).
    Copied(fn(&str) -> String, bool),
}

fn harm(world: &SimWorld, what: &str, harm: Harm) {
    let target = path(world, what);
    let bytes = world.get(&target).unwrap();
    let repo = world.synced("repo");
    let remove = || SyncedFolder::remove(&*repo, &target["repo/".len()..]).unwrap();
    match harm {
        Harm::Removed => remove(),
        Harm::Emptied => drop(world.tamper(&target, Vec::clear)),
        Harm::Cut(parts) => {
            let len = bytes.len() * parts / 100;
            world.tamper(&target, |bytes| bytes.truncate(len));
        }
        Harm::Flipped(place) => {
            let at = bytes.len() * place / 1000;
            world.tamper(&target, |bytes| bytes[at] ^= 1 << (place % 8));
        }
        Harm::Replaced(by) => {
            let other = world.get(&path(world, by)).unwrap();
            world.tamper(&target, |bytes| *bytes = other);
        }
        Harm::Regenerated => {
            remove();
            world.put(&target.replace("/head/0000000000000003", "/head/0000000000000007"), &bytes);
        }
        Harm::Moved => {
            remove();
            let device = target.split('/').nth(1).unwrap();
            world.put(&target.replace(device, &hex(&[5u8; 16])), &bytes);
        }
        Harm::Copied(named, removed) => {
            if removed {
                remove();
            } else {
                world.tamper(&target, |bytes| {
                    let at = bytes.len() / 2;
                    bytes[at] ^= 1;
                });
            }
            let (folder, name) = target.rsplit_once('/').unwrap();
            world.put(&format!("{folder}/{}", named(name)), &bytes);
        }
    }
    // Long ago.
    world.clock().advance(Duration::from_secs(600));
}

fn before_extension(name: &str, tag: &str) -> String {
    format!("{}{tag}.amb", name.strip_suffix(".amb").unwrap())
}

/// How each client names a copy.
const COPIES: &[fn(&str) -> String] = &[
    |name| before_extension(name, " (laptop's conflicted copy 2026-11-23)"),
    |name| before_extension(name, " (Case Conflict 1)"),
    |name| before_extension(name, " (1)"),
    |name| before_extension(name, "-LAPTOP"),
    |name| before_extension(name, "-laptop-safeBackup-0001"),
    |name| before_extension(name, " (conflicted copy ann 2026-11-23 101112)"),
    |name| before_extension(name, "_conflict-20261123-101112"),
    |name| before_extension(name, ".sync-conflict-20261123-101112-ABCDEFG"),
    |name| before_extension(name, " 2"),
    |name| format!("{name}.conflict1"),
    |name| before_extension(name, ".conflict1"),
    |name| before_extension(name, " [conflicted]"),
    |name| format!("[Conflict] {name}"),
];

/// File, harm, and what is to be seen by: the device itself, a new device that
/// wants to write, a reader.
const ROWS: &[(&str, Harm, [&str; 3])] = &[
    ("header0", Harm::Removed, ["3:123!", "3:123!", "3:123!"]),
    ("header0", Harm::Emptied, ["3:123!", "3:123!", "3:123!"]),
    ("header0", Harm::Cut(50), ["3:123!", "3:123!", "3:123!"]),
    ("header0", Harm::Flipped(0), ["3:123!", "3:123!", "3:123!"]),
    ("header0", Harm::Flipped(300), ["3:123!", "3:123!", "3:123!"]),
    ("head3", Harm::Removed, ["rolled back", "2:12-", "2:12-"]),
    ("head3", Harm::Emptied, ["waiting", "2:12-!", "2:12-!"]),
    ("head3", Harm::Cut(1), ["waiting", "2:12-!", "2:12-!"]),
    ("head3", Harm::Cut(60), ["waiting", "2:12-!", "2:12-!"]),
    ("head3", Harm::Flipped(0), ["damaged", "damaged", "2:12-!"]),
    ("head3", Harm::Flipped(1), ["damaged", "damaged", "2:12-!"]),
    ("head3", Harm::Flipped(100), ["damaged", "damaged", "2:12-!"]),
    ("head3", Harm::Flipped(500), ["damaged", "damaged", "2:12-!"]),
    ("head3", Harm::Flipped(999), ["damaged", "damaged", "2:12-!"]),
    ("head3", Harm::Replaced("head2"), ["damaged", "damaged", "2:12-!"]),
    ("head3", Harm::Regenerated, ["damaged", "damaged", "2:12-!"]),
    ("head3", Harm::Moved, ["damaged", "damaged", "2:12-!"]),
    ("head2", Harm::Removed, ["3:123!", "3:123!", "3:123!"]),
    ("head2", Harm::Flipped(999), ["3:123!", "3:123!", "3:123!"]),
    ("object2", Harm::Removed, ["3:1m3", "3:1m3", "3:1m3"]),
    ("object2", Harm::Emptied, ["3:1m3", "3:1m3", "3:1m3"]),
    ("object2", Harm::Cut(50), ["3:1m3", "3:1m3", "3:1m3"]),
    ("object2", Harm::Flipped(0), ["3:1d3", "3:1d3", "3:1d3"]),
    ("object2", Harm::Flipped(500), ["3:1d3", "3:1d3", "3:1d3"]),
    // In the padding.
    ("object2", Harm::Flipped(999), ["3:123", "3:123", "3:123"]),
    ("object2", Harm::Replaced("object1"), ["3:1d3", "3:1d3", "3:1d3"]),
];

fn seen(world: &SimWorld) -> [String; 3] {
    let before: Vec<_> = world.paths().into_iter().filter(|p| p.starts_with("repo/")).collect();
    let options = OpenOptions::default();
    let own = outcome(&open(world, Some("state"), &options, 50));
    let new = outcome(&open(world, Some("new"), &options, 51));
    let reader = outcome(&open(world, None, &options, 52));
    let after: Vec<_> = world.paths().into_iter().filter(|p| p.starts_with("repo/")).collect();
    assert_eq!(before, after, "opening changed REPO");
    [own, new, reader]
}

#[test]
fn each_harm_is_named_and_costs_only_what_it_must() {
    let whole = repository();
    assert_eq!(seen(&whole.kill()), ["3:123"; 3]);
    let mut wrong = Vec::new();
    for (what, done, expected) in ROWS {
        let world = whole.kill();
        harm(&world, what, *done);
        let found = seen(&world);
        if found != *expected {
            wrong.push(format!("{what} {done:?}: {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Some clients make a file at full size and fill it in place.
#[test]
fn wrong_bytes_of_a_moment_ago_are_not_here_yet() {
    let whole = repository();
    for (what, early, late) in [
        ("head3", ["waiting", "2:12-!", "2:12-!"], ["damaged", "damaged", "2:12-!"]),
        ("object2", ["3:1m3", "3:1m3", "3:1m3"], ["3:1d3", "3:1d3", "3:1d3"]),
    ] {
        for place in [0, 500] {
            let world = whole.kill();
            let target = path(&world, what);
            let mut bytes = world.get(&target).unwrap();
            let at = bytes.len() * place / 1000;
            bytes[at] ^= 1;
            world.put(&target, &bytes);
            assert_eq!(seen(&world), early, "{what}");
            world.clock().advance(Duration::from_secs(599));
            assert_eq!(seen(&world), early, "{what}");
            world.clock().advance(Duration::from_secs(1));
            assert_eq!(seen(&world), late, "{what}");
        }
    }
}

#[test]
fn a_conflict_copy_stands_in_for_what_is_missing_or_bad() {
    let whole = repository();
    let mut wrong = Vec::new();
    for what in ["header0", "head3", "head2", "object2"] {
        for named in COPIES {
            for removed in [true, false] {
                let world = whole.kill();
                harm(&world, what, Harm::Copied(*named, removed));
                let found = seen(&world);
                if found.iter().any(|found| found.trim_end_matches('!') != "3:123") {
                    wrong.push(format!("{what} {} {removed}: {found:?}", named("NAME.amb")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Bits all over each file: never a panic, never wrong bytes (`outcome`), and
/// never an opening of its own device for writing upon an older head. Another device goes on
/// from the older one while the newer may be on its way.
#[test]
fn no_flipped_bit_shows_wrong_bytes_or_is_written_over() {
    let whole = repository();
    for what in ["header0", "head3", "head2", "object2"] {
        let len = whole.get(&path(&whole, what)).unwrap().len();
        let places = (0..200.min(len)).chain((200..len).step_by(len / 60));
        for at in places {
            let world = whole.kill();
            world.tamper(&path(&whole, what), |bytes| bytes[at] ^= 1 << (at % 8));
            let found = seen(&world);
            let may: &[&str] = match what {
                "head3" => &["damaged", "waiting", "2:12-!"],
                "object2" => &["3:123", "3:1d3", "3:1m3"],
                "head2" => &["3:123", "3:123!"],
                _ => &["3:123!"],
            };
            for seen in &found[..2] {
                assert!(may.contains(&seen.as_str()), "{what}, byte {at}: {found:?}");
            }
            assert!(what != "head3" || !found[0].starts_with('2'), "byte {at}: {found:?}");
        }
    }
}
