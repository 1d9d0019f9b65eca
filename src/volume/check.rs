//! What a repository says of itself, compared with its bytes.

use std::collections::{HashMap, HashSet};

use super::repository::{HeadFile, Repository};
use super::{Findings, Presence, Volume};
use crate::crypto::{Hash, hex};
use crate::format::commit::Name;
use crate::format::container::Codec;
use crate::format::node::Id;
use crate::io::{Clock, SyncedFolder};
use crate::store::{Listing, Result, StoreError, check_name, is_arriving};

/// Looks at a repository. Without a volume, which takes the key, names are compared with
/// bytes and nothing else; with one, trees are looked at too, and with `read_data` names and
/// all bytes.
pub(crate) fn check(
    folder: &dyn SyncedFolder,
    clock: &dyn Clock,
    repository: &Repository,
    volume: Option<&Volume>,
    read_data: bool,
) -> Result<Findings> {
    let mut found = Findings::default();
    match (volume, &repository.header_trouble) {
        (Some(volume), _) => found.known = still_bad(volume, repository),
        (None, Some(trouble)) => found.damage.push(format!("header: {trouble}")),
        (None, None) => {}
    }
    let listing = Listing::of(folder, &repository.devices())?;
    for stray in repository.strays.iter().chain(&listing.strays) {
        found.add_stray(stray);
    }
    if volume.is_none() || read_data {
        let is_given_back = |name: &Name| volume.is_some_and(|of| of.store.is_given_back(name));
        check_names(folder, clock, repository, (&listing, &is_given_back), &mut found);
    }
    if let Some(volume) = volume {
        for notice in &volume.notices {
            found.add_notice(notice);
        }
        let bad = if read_data { data(volume, repository, &mut found) } else { Bad::new() };
        files(volume, &bad, &mut found)?;
    }
    Ok(found)
}

/// Names against bytes: needs no key. Nobody misses what its device has given back, as far as that is
/// known.
pub(crate) fn check_names(
    folder: &dyn SyncedFolder,
    clock: &dyn Clock,
    repository: &Repository,
    (listing, is_given_back): (&Listing, &dyn Fn(&Name) -> bool),
    found: &mut Findings,
) {
    let now = clock.now();
    let heads = repository.heads.values().flatten().map(|head| (head.hash, head.name()));
    let objects = listing
        .objects
        .iter()
        .map(|(hash, (device, _))| (*hash, Name::Object { device: *device, hash: *hash }));
    let missed = heads.chain(objects).filter(|(_, name)| {
        let is_here = !matches!(folder.look(&name.path()), Ok(None));
        is_here || !is_given_back(name)
    });
    let mut all: Vec<_> = missed.map(|(hash, name)| (hash, name.path())).collect();
    all.sort_unstable_by(|a, b| a.1.cmp(&b.1));
    for (hash, path) in all {
        found.checked += 1;
        match folder.open(&path).and_then(|file| check_name(&*file, &hash)) {
            Ok(true) => {}
            Ok(false) if is_arriving(folder, now, &path) => {
                found.missing.push(format!("{path}: it has just changed, and is not whole yet"));
                found.arriving.push(path);
            }
            Ok(false) if found.known.contains(&hash) => {
                found.notes.push(format!("{path}: its bytes changed, as a repair found before"));
            }
            Ok(false) => {
                found.damage.push(format!("{path}: its bytes changed"));
                found.bad.insert(hash);
            }
            Err(error) => match StoreError::io(&path, error) {
                StoreError::Missing { .. } => match copy_of(folder, repository, &hash) {
                    Some(copy) => {
                        let what =
                            format!("{path}: it is not in its place; {copy} is a copy of it");
                        found.misplaced.push(what);
                    }
                    None => found.missing.push(format!("{path}: no copy of it is whole")),
                },
                error => found.add(&error),
            },
        }
    }
}

/// A copy of a head that is whole.
fn copy_of(folder: &dyn SyncedFolder, repository: &Repository, hash: &Hash) -> Option<String> {
    let good = |path: &&String| {
        folder.open(path).and_then(|file| check_name(&*file, hash)).unwrap_or(false)
    };
    repository.copies.get(hash)?.iter().find(good).cloned()
}

/// What can be had of objects that are not whole in their place.
fn objects(volume: &Volume, found: &mut Findings) -> HashMap<Hash, Presence> {
    let mut states = HashMap::new();
    for (name, size, listed) in volume.store.absent() {
        let Some(hash) = name.hash() else { continue };
        let state = match (volume.store.verify(&name), listed) {
            (Ok(true), _) => {
                let path = name.path();
                found.misplaced.push(format!("{path}: it is not in its place; a copy stands in"));
                Presence::Good
            }
            (Ok(false), Some(listed)) if listed > size => Presence::Damaged,
            (Err(error @ StoreError::Io { .. }), _) => {
                found.add(&error);
                Presence::Unread
            }
            // Behind a link it is not here either, which is told of the link.
            _ => Presence::Missing,
        };
        if state == Presence::Missing {
            found.objects_missing += 1;
        }
        states.insert(hash, state);
    }
    states.extend(found.known.iter().map(|hash| (*hash, Presence::Damaged)));
    states
}

/// Every inode has a name, every entry an inode and a back reference, every
/// chunk a place; and what of which file has not.
fn files(volume: &Volume, bad: &Bad, found: &mut Findings) -> Result<()> {
    let states = objects(volume, found);
    let in_container = |name: &Name, id: &Id| {
        let Some(hash) = name.hash() else { return Presence::Good };
        let state = states.get(&hash).copied().unwrap_or(Presence::Good);
        match bad.get(&(hash, *id)) {
            Some(worse) if state == Presence::Good => *worse,
            _ => state,
        }
    };
    let has = |id: &Id| {
        // From best to worst: one good container is enough.
        for wanted in [Presence::Good, Presence::Unread, Presence::Damaged] {
            if volume.store.is_in(id, &|name| in_container(name, id) == wanted)? {
                return Ok(wanted);
            }
        }
        Ok(Presence::Missing)
    };
    let inspected = volume.inspect(&has, usize::MAX)?;
    found.checked += inspected.checked;
    for error in &inspected.lost {
        found.add(error);
    }
    found.damage.extend(inspected.disagreements);
    found.files = inspected.files;
    Ok(())
}

/// All heads and objects that are here.
fn containers(volume: &Volume, repository: &Repository) -> Vec<Name> {
    let heads = repository.heads.values().flatten().map(HeadFile::name);
    let objects =
        volume.store.objects().into_iter().map(|(hash, device, _)| Name::Object { device, hash });
    let mut all: Vec<Name> = heads.chain(objects).collect();
    all.sort_unstable();
    all
}

/// What a repair found bad and nobody has put right since.
fn still_bad(volume: &Volume, repository: &Repository) -> HashSet<Hash> {
    let bad = &volume.base().inherited.bad;
    if bad.is_empty() {
        return HashSet::new();
    }
    let is_bad = |name: &Name| {
        let hash = name.hash().filter(|hash| bad.contains(hash))?;
        (!volume.store.verify(name).unwrap_or(false)).then_some(hash)
    };
    containers(volume, repository).iter().filter_map(is_bad).collect()
}

/// Chunks that a container should have and does not give.
type Bad = HashMap<(Hash, Id), Presence>;

/// Every frame of every container opens, and every chunk has the bytes that
/// its id names. Each container that is not whole is told once.
fn data(volume: &Volume, repository: &Repository, found: &mut Findings) -> Bad {
    let mut bad = Bad::new();
    for name in containers(volume, repository) {
        let Some(hash) = name.hash().filter(|hash| !found.known.contains(hash)) else { continue };
        let reader = match volume.store.open(&name) {
            Ok(reader) => reader,
            Err(error) => {
                found.add(&error);
                continue;
            }
        };
        let ids = &volume.store.context().ids;
        let directory = reader.directory();
        let mut first = None;
        let mut wrong = 0;
        for (number, frame) in directory.frames.iter().enumerate() {
            if frame.codec == Codec::Padding {
                continue;
            }
            let number = number as u32;
            let chunks = directory.chunks.iter().filter(|chunk| chunk.frame == number);
            let plain = match reader.frame(number) {
                Ok(plain) => plain,
                Err(error) => {
                    let error = volume.store.unless_arriving(error);
                    let state = match error {
                        StoreError::Missing { .. } => Presence::Missing,
                        StoreError::Io { .. } => Presence::Unread,
                        _ => Presence::Damaged,
                    };
                    bad.extend(chunks.map(|chunk| ((hash, chunk.id), state)));
                    wrong += 1;
                    first.get_or_insert(error);
                    continue;
                }
            };
            for chunk in chunks {
                let bytes = &plain[chunk.offset as usize..(chunk.offset + chunk.len) as usize];
                found.checked += 1;
                if ids.chunk_id(bytes) != chunk.id && ids.node_id(bytes) != chunk.id {
                    bad.insert((hash, chunk.id), Presence::Damaged);
                    wrong += 1;
                    let what =
                        format!("chunk {} has other bytes than its id names", hex(&chunk.id));
                    first.get_or_insert(StoreError::damaged(&name.path(), what));
                }
            }
        }
        if let Some(error) = first {
            let more = if wrong > 1 {
                format!(", and {} more places in it", wrong - 1)
            } else {
                String::new()
            };
            found.add_with(&error, &more);
        }
    }
    bad
}
