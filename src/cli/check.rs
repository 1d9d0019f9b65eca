//! `amberfs check`: what a repository says of itself, compared with its bytes.
//! `repair.rs` mends.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use super::args::{CheckArgs, Global};
use super::opening::{Access, Found, find, open, refuse_behind};
use super::{Code, Failure, Result};
use crate::crypto::{DeviceId, Hash, hex};
use crate::format::commit::{Name, object_folder, parse_object_name};
use crate::format::container::Codec;
use crate::format::namespace::{Content, Key, Value};
use crate::format::node::Id;
use crate::io::{Clock as _, DirSynced, SyncedFolder, SystemClock, output};
use crate::store::{StoreError, check_name, is_arriving};
use crate::tree::content::range;
use crate::volume::repository::{HeadFile, Repository};
use crate::volume::{Behind, Notice, Volume};

/// What was found.
#[derive(Default)]
pub(super) struct Report {
    checked: u64,
    damage: Vec<String>,
    missing: Vec<String>,
    /// What the system would not let be read, which says nothing of it.
    unread: Vec<String>,
    notes: Vec<String>,
    /// Heads and objects that are here with other bytes than they should have.
    pub bad: HashSet<Hash>,
    /// Files that changed so lately that they may not be whole yet.
    pub arriving: Vec<String>,
    /// What a repair found bad before: known, and no news.
    known: HashSet<Hash>,
}

impl Report {
    fn add(&mut self, error: &StoreError) {
        let list = match error {
            StoreError::Missing { .. } => &mut self.missing,
            StoreError::Io { .. } => &mut self.unread,
            _ => &mut self.damage,
        };
        list.push(error.to_string());
    }
}

/// Runs the check; damage is exit code 26, missing files 20.
pub fn run(global: &Global, args: &CheckArgs) -> Result<u8> {
    if args.repair {
        return super::repair::run(global, &args.repo);
    }
    let mut report = Report::default();
    let Found { path, early: repository } = find(&args.repo)?;
    let folder = DirSynced::new(&path, None);
    if let Some(trouble) = &repository.header_trouble {
        report.damage.push(format!("header: {trouble}"));
    }
    for name in &repository.foreign {
        report.notes.push(format!("{name}: not a file of amberfs; left alone"));
    }
    let opened = if args.no_key { None } else { Some(open(global, &args.repo, Access::Check)?) };
    if let Some(opened) = &opened {
        report.known = still_bad(opened.fs.volume(), &repository);
    }
    if args.no_key || args.read_data {
        names(&folder, &repository, &mut report)?;
    }
    if let Some(opened) = &opened {
        let volume = opened.fs.volume();
        for notice in &volume.notices {
            match notice {
                Notice::Note(text) => report.notes.push(text.clone()),
                Notice::Missing(text) => report.missing.push(text.clone()),
                Notice::Damage(text) => report.damage.push(text.clone()),
                Notice::Unread(text) => report.unread.push(text.clone()),
            }
        }
        namespace(volume, &mut report)?;
        if args.read_data {
            data(volume, &repository, &mut report);
        }
    }
    let behind = opened.as_ref().map_or(&[][..], |opened| &opened.fs.volume().behind);
    conclude(global, &report, behind)
}

fn conclude(global: &Global, report: &Report, behind: &[Behind]) -> Result<u8> {
    for note in &report.notes {
        if !global.quiet {
            note!("note: {note}");
        }
    }
    for missing in &report.missing {
        note!("not here: {missing}");
    }
    for damage in &report.damage {
        note!("damage: {damage}");
    }
    if global.json {
        output::object(&serde_json::json!({
            "message_type": "summary",
            "checked": report.checked,
            "damage": report.damage,
            "missing": report.missing,
            "notes": report.notes,
        }))?;
    }
    if !report.damage.is_empty() {
        return Err(Failure::new(
            Code::Damage,
            format!("{} places are damaged", report.damage.len()),
        )
        .hint("restore the files named above from the cloud's older versions, then check again"));
    }
    if !global.accept_older {
        refuse_behind(behind)?;
    }
    for unread in &report.unread {
        note!("not read: {unread}");
    }
    if !report.unread.is_empty() {
        return Err(Failure::new(
            Code::Partial,
            format!("{} things could not be read, and so not checked", report.unread.len()),
        ));
    }
    if !report.missing.is_empty() {
        return Err(Failure::new(
            Code::NotAllHere,
            format!("{} things are not here (yet)", report.missing.len()),
        )
        .hint("let the sync client finish, then check again"));
    }
    if !global.quiet && !global.json {
        note!("no damage found; {} things checked", report.checked);
    }
    Ok(0)
}

fn objects(
    folder: &dyn SyncedFolder,
    repository: &Repository,
) -> Result<Vec<(DeviceId, Hash, String)>> {
    let mut found = Vec::new();
    for device in repository.heads.keys() {
        for digit in "0123456789abcdef".chars() {
            let path = object_folder(device, &digit.to_string());
            for file in folder.list(&path)? {
                if let Some(hash) = parse_object_name(&file.name) {
                    found.push((*device, hash, format!("{path}/{}", file.name)));
                }
            }
        }
    }
    Ok(found)
}

/// Names against bytes: needs no key.
pub(super) fn names(
    folder: &dyn SyncedFolder,
    repository: &Repository,
    report: &mut Report,
) -> Result<()> {
    let now = SystemClock.now();
    let heads = repository.heads.values().flatten().map(|head| (head.hash, head.name().path()));
    let objects = objects(folder, repository)?.into_iter().map(|(_, hash, path)| (hash, path));
    for (hash, path) in heads.chain(objects) {
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
            Err(error) => report.add(&StoreError::io(&path, error)),
        }
    }
    Ok(())
}

/// The namespace: every inode has a name, every entry an inode and a back
/// reference, every chunk a place.
fn namespace(volume: &Volume, report: &mut Report) -> Result<()> {
    let mut inodes: HashMap<u64, (u32, u64)> = HashMap::new();
    let mut entries: HashSet<(u64, Vec<u8>, u64)> = HashSet::new();
    let mut backs: HashSet<(u64, Vec<u8>, u64)> = HashSet::new();
    let mut contents = Vec::new();
    volume.scan(&[], &mut |key, value| {
        match (key, value) {
            (Key::Inode(ino), Value::Inode(inode)) => {
                inodes.insert(ino, (inode.kind(), 0));
                contents.push((ino, inode.content, inode.size));
            }
            (Key::Entry(dir, _, name), Value::Entry(ino, _)) => {
                entries.insert((dir, name, ino));
            }
            (Key::Back(ino, dir, name), Value::Back) => {
                backs.insert((dir, name, ino));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    for (dir, _, ino) in entries.symmetric_difference(&backs) {
        report.damage.push(format!("inode {ino} and directory {dir} disagree about a name"));
    }
    for (dir, _, ino) in &entries {
        if !inodes.contains_key(dir) {
            report.damage.push(format!("directory {dir} has an entry and no inode"));
        }
        match inodes.get_mut(ino) {
            Some((_, names)) => *names += 1,
            None => report.damage.push(format!("inode {ino} has a name and no record")),
        }
    }
    for (ino, (kind, names)) in &inodes {
        let expected = u64::from(*ino != crate::format::namespace::ROOT);
        if *names < expected || (*kind == 0o040_000 && *names > 1) {
            report.damage.push(format!("inode {ino} has {names} names"));
        }
    }
    report.checked += inodes.len() as u64;
    let listed: HashSet<Hash> = volume.store.objects().into_iter().map(|(hash, ..)| hash).collect();
    let here = |name: &Name| match name {
        Name::Object { hash, .. } => listed.contains(hash),
        _ => true,
    };
    // A repair stored again what could be read of these.
    let good = |name: &Name| here(name) && name.hash().is_none_or(|h| !report.known.contains(&h));
    let (mut missing, mut damage, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen: HashSet<Id> = HashSet::new();
    for (ino, content, size) in contents {
        let mut chunk = |id: &Id| -> crate::store::Result<()> {
            if !seen.insert(*id) || volume.store.is_in(id, &good)? {
                return Ok(());
            }
            let what = format!("a chunk of inode {ino}: {}", hex(id));
            if volume.store.is_in(id, &here)? {
                damage.push(format!("{what} is in damaged files only"));
            } else {
                missing.push(what);
            }
            Ok(())
        };
        match content {
            Content::None => {}
            Content::Chunk(id) => chunk(&id)?,
            Content::Tree(id, level) => {
                let runs = range(&*volume.store, (id, level), 0, u64::MAX)?;
                for placed in &runs {
                    if !placed.run.is_hole() {
                        chunk(&placed.run.id)?;
                    }
                }
                let end = runs.last().map_or(0, |placed| placed.start + placed.run.total());
                if end != size {
                    wrong.push(format!("inode {ino} has {end} of {size} bytes"));
                }
            }
        }
    }
    report.missing.extend(missing);
    report.damage.extend(damage.into_iter().chain(wrong));
    report.checked += seen.len() as u64;
    Ok(())
}

/// All heads and objects that are here.
fn files(volume: &Volume, repository: &Repository) -> Vec<Name> {
    let heads = repository.heads.values().flatten().map(HeadFile::name);
    let objects =
        volume.store.objects().into_iter().map(|(hash, device, _)| Name::Object { device, hash });
    heads.chain(objects).collect()
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
    files(volume, repository).iter().filter_map(is_bad).collect()
}

/// Every frame of every container opens, and every chunk has the bytes that
/// its id names.
fn data(volume: &Volume, repository: &Repository, report: &mut Report) {
    for name in files(volume, repository) {
        if name.hash().is_some_and(|hash| report.known.contains(&hash)) {
            continue;
        }
        let reader = match volume.store.open(&name) {
            Ok(reader) => reader,
            Err(error) => {
                report.add(&error);
                continue;
            }
        };
        let ids = &volume.store.context().ids;
        let directory = reader.directory();
        for (number, frame) in directory.frames.iter().enumerate() {
            if frame.codec == Codec::Padding {
                continue;
            }
            let number = number as u32;
            let plain = match reader.frame(number) {
                Ok(plain) => plain,
                Err(error) => {
                    report.add(&volume.store.unless_arriving(error));
                    continue;
                }
            };
            for chunk in directory.chunks.iter().filter(|chunk| chunk.frame == number) {
                let bytes = &plain[chunk.offset as usize..(chunk.offset + chunk.len) as usize];
                report.checked += 1;
                if ids.chunk_id(bytes) != chunk.id && ids.node_id(bytes) != chunk.id {
                    report.damage.push(format!(
                        "{}: chunk {} has other bytes than its id names",
                        name.path(),
                        hex(&chunk.id)
                    ));
                }
            }
        }
    }
}
