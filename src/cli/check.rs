//! `amberfs check`: what a repository says of itself, compared with its bytes.
//! `repair.rs` mends, `findings.rs` tells.

use std::collections::{HashMap, HashSet};

use super::args::{CheckArgs, Global};
use super::findings::Report;
use super::opening::{Access, Found, find, open};
use super::{Exit, Result, repair};
use crate::crypto::{Hash, hex};
use crate::format::commit::Name;
use crate::format::container::Codec;
use crate::format::node::Id;
use crate::io::{Clock as _, DirSynced, SyncedFolder, SystemClock};
use crate::store::{Listing, Oddity, StoreError, Stray, check_name, is_arriving};
use crate::volume::repository::{HeadFile, Repository};
use crate::volume::{Notice, Presence, Volume};

/// Runs the check; damage is exit code 26, missing files 20.
pub fn run(global: &Global, args: &CheckArgs) -> Result<Exit> {
    if args.repair {
        return repair::run(global, &args.repo);
    }
    let mut report = Report::default();
    let Found { path, early: repository } = find(&args.repo)?;
    let folder = DirSynced::new(&path, None);
    // An opening tells it too.
    if args.no_key
        && let Some(trouble) = &repository.header_trouble
    {
        report.damage.push(format!("header: {trouble}"));
    }
    let opened = if args.no_key { None } else { Some(open(global, &args.repo, Access::Check)?) };
    if let Some(opened) = &opened {
        report.known = still_bad(opened.fs.volume(), &repository);
    }
    let listing = Listing::of(&folder, &devices(&repository))?;
    for stray in repository.strays.iter().chain(&listing.strays) {
        tell_stray(stray, &mut report);
    }
    if args.no_key || args.read_data {
        names(&folder, &repository, &listing, &mut report);
    }
    if let Some(opened) = &opened {
        let volume = opened.fs.volume();
        for notice in &volume.notices {
            report.add_notice(notice);
        }
        let bad = if args.read_data { data(volume, &repository, &mut report) } else { Bad::new() };
        files(volume, &bad, &mut report)?;
    }
    let behind = opened.as_ref().map_or(&[][..], |opened| &opened.fs.volume().behind);
    report.conclude(global, &args.repo, behind)
}

/// What an opening tells as a notice, a check does not tell twice.
fn tell_stray(stray: &Stray, report: &mut Report) {
    match stray.what {
        Oddity::Link if stray.in_place => report.add_notice(&Notice::Missing(stray.to_string())),
        Oddity::Unreadable(_) => report.add_notice(&Notice::Unread(stray.to_string())),
        _ => report.add_notice(&Notice::Note(stray.to_string())),
    }
}

pub(super) fn devices(repository: &Repository) -> Vec<[u8; 16]> {
    repository.heads.keys().copied().collect()
}

/// Names against bytes: needs no key.
pub(super) fn names(
    folder: &dyn SyncedFolder,
    repository: &Repository,
    listing: &Listing,
    report: &mut Report,
) {
    let now = SystemClock.now();
    let heads = repository.heads.values().flatten().map(|head| (head.hash, head.name().path()));
    let objects = listing
        .objects
        .iter()
        .map(|(hash, (device, _))| (*hash, Name::Object { device: *device, hash: *hash }.path()));
    let mut all: Vec<_> = heads.chain(objects).collect();
    all.sort_unstable_by(|a, b| a.1.cmp(&b.1));
    for (hash, path) in all {
        report.checked += 1;
        match folder.open(&path).and_then(|file| check_name(&*file, &hash)) {
            Ok(true) => {}
            Ok(false) if is_arriving(folder, now, &path) => {
                report.missing.push(format!("{path}: it has just changed, and is not whole yet"));
                report.arriving.push(path);
            }
            Ok(false) if report.known.contains(&hash) => {
                report.notes.push(format!("{path}: its bytes changed, as a repair found before"));
            }
            Ok(false) => {
                report.damage.push(format!("{path}: its bytes changed"));
                report.bad.insert(hash);
            }
            Err(error) => match StoreError::io(&path, error) {
                StoreError::Missing { .. } => match copy_of(folder, repository, &hash) {
                    Some(copy) => {
                        let what =
                            format!("{path}: it is not in its place; {copy} is a copy of it");
                        report.misplaced.push(what);
                    }
                    None => report.missing.push(format!("{path}: no copy of it is whole")),
                },
                error => report.add(&error),
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
fn objects(volume: &Volume, report: &mut Report) -> HashMap<Hash, Presence> {
    let mut states = HashMap::new();
    for (name, size, listed) in volume.store.absent() {
        let Some(hash) = name.hash() else { continue };
        let state = match (volume.store.verify(&name), listed) {
            (Ok(true), _) => {
                let path = name.path();
                report.misplaced.push(format!("{path}: it is not in its place; a copy stands in"));
                Presence::Good
            }
            (Ok(false), Some(listed)) if listed > size => Presence::Damaged,
            (Err(error @ StoreError::Io { .. }), _) => {
                report.add(&error);
                Presence::Unread
            }
            // Behind a link it is not here either, which is told of the link.
            _ => Presence::Missing,
        };
        if state == Presence::Missing {
            report.objects_missing += 1;
        }
        states.insert(hash, state);
    }
    states.extend(report.known.iter().map(|hash| (*hash, Presence::Damaged)));
    states
}

/// Every inode has a name, every entry an inode and a back reference, every
/// chunk a place; and what of which file has not.
fn files(volume: &Volume, bad: &Bad, report: &mut Report) -> Result<()> {
    let states = objects(volume, report);
    let in_container = |name: &Name, id: &Id| {
        let Some(hash) = name.hash() else { return Presence::Good };
        let state = states.get(&hash).copied().unwrap_or(Presence::Good);
        match bad.get(&(hash, *id)) {
            Some(found) if state == Presence::Good => *found,
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
    let found = volume.inspect(&has, usize::MAX)?;
    report.checked += found.checked;
    for error in &found.lost {
        report.add(error);
    }
    report.damage.extend(found.disagreements);
    report.files = found.files;
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
    let bad = &volume.base().commit.bad;
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
fn data(volume: &Volume, repository: &Repository, report: &mut Report) -> Bad {
    let mut bad = Bad::new();
    for name in containers(volume, repository) {
        let Some(hash) = name.hash().filter(|hash| !report.known.contains(hash)) else { continue };
        let reader = match volume.store.open(&name) {
            Ok(reader) => reader,
            Err(error) => {
                report.add(&error);
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
                report.checked += 1;
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
            report.add_with(&error, &more);
        }
    }
    bad
}
