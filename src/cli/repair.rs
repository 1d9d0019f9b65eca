//! `amberfs check --repair`: mends what can be mended, and lists what was lost.
//!
//! Nothing is deleted: a file in REPO is only ever replaced by the bytes that
//! its name says, and local state that cannot go on is set aside.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::args::Global;
use super::check::{Report, names};
use super::opening::{Looked, Wanted, file_system, find, open_keyring, refuse_behind};
use super::place::LocalState;
use super::{Code, Failure, Result};
use crate::crypto::{Hash, Secret};
use crate::format::commit::{Name, Vector, find_object_name, object_folder, parse_object_name};
use crate::format::register::{HEADER_MAX, Header};
use crate::io::{Clock as _, DirSynced, SyncedFolder, SystemClock, output};
use crate::store::{Copies, check_name, is_arriving};
use crate::volume::repository::Repository;
use crate::volume::state::State;
use crate::volume::{OpenOptions, Repaired};

/// Largest file that is put back from a conflict copy.
const FILE_MAX: u64 = 1 << 30;

/// Runs the repair.
pub fn run(global: &Global, repo: &Path) -> Result<u8> {
    let looked = find(repo)?.key(global)?.lock(global)?.look()?;
    let folder = DirSynced::new(&looked.path, Some(&state(&looked).path.join("pending")));

    let mut report = Report::default();
    names(&folder, &looked.repository, &mut report)?;
    if !report.arriving.is_empty() {
        let what = report.arriving.join(", ");
        return Err(Failure::new(Code::NotAllHere, format!("still arriving: {what}")).hint(
            "let the sync client finish; ten minutes after their last change, repair again",
        ));
    }
    let mut done = restore_header(&folder, &looked.repository, looked.key())?;
    done.extend(restore_copies(&folder, &looked.repository, &mut report)?);

    // Only now: what stood in before is in its place.
    let mut looked = looked.look_again()?;
    let repaired = match go_on(global, &looked, &report) {
        Err(failure)
            if matches!(failure.code, Code::Damage | Code::NotAllHere | Code::Rollback) =>
        {
            done.push(format!("went on without what cannot be had: {}", failure.message));
            let seen = seen_by(state(&looked));
            if let Some(aside) = set_aside(state(&looked))? {
                done.push(format!(
                    "local state is set aside in {}; changes in it that are not in the repository \
                     are not brought back",
                    aside.display()
                ));
            }
            let path = state(&looked).path.clone();
            looked.replace_state(None);
            looked.replace_state(Some(LocalState::lock(path, &looked.path)?));
            start_anew(global, &looked, &report, seen)?
        }
        other => other?,
    };
    conclude(global, done, &repaired)
}

fn state(looked: &Looked) -> &LocalState {
    looked.state().expect("a repair locks local state")
}

fn conclude(global: &Global, mut done: Vec<String>, repaired: &Repaired) -> Result<u8> {
    done.extend(repaired.changes.iter().cloned());
    if repaired.healed > 0 {
        done.push(format!(
            "{} pieces that only damaged files held were stored again",
            repaired.healed
        ));
    }
    if let Some(published) = &repaired.published {
        done.push(format!("a new head: {}", published.name.path()));
    }
    if global.json {
        let lost = repaired.lost.iter().map(|lost| {
            serde_json::json!({
                "path": String::from_utf8_lossy(&lost.path),
                "bytes": lost.bytes,
                "size": lost.size,
            })
        });
        let lost: Vec<_> = lost.collect();
        output::object(
            &serde_json::json!({"message_type": "summary", "repaired": done, "lost": lost}),
        )?;
    }
    for text in &done {
        if !global.quiet {
            note!("repaired: {text}");
        }
    }
    for lost in &repaired.lost {
        note!("lost content: {lost}");
    }
    if !repaired.lost.is_empty() {
        return Err(Failure::new(
            Code::Damage,
            format!("{} files lost content; all others can be read", repaired.lost.len()),
        )
        .hint(
            "what the cloud keeps of older versions may still bring it back: put it in place and \
             check again. Or write these files anew",
        ));
    }
    if done.is_empty() && !global.quiet && !global.json {
        note!("nothing to repair");
    }
    Ok(0)
}

/// Writes a lost or damaged header anew.
fn restore_header(
    folder: &dyn SyncedFolder,
    repository: &Repository,
    key: &Secret,
) -> Result<Vec<String>> {
    let path = Name::Header(repository.repo).path();
    let present = folder.read(&path, HEADER_MAX).ok().and_then(|bytes| Header::decode(&bytes).ok());
    if present.is_some_and(|header| header.repo == repository.repo) {
        return Ok(Vec::new());
    }
    if is_arriving(folder, SystemClock.now(), &path) {
        return Err(Failure::new(Code::NotAllHere, format!("still arriving: {path}")));
    }
    let (_, register, _) = open_keyring(repository, key)?;
    let header = Header { features: repository.features, repo: repository.repo, register };
    folder.publish(&path, &header.encode())?;
    Ok(vec![format!("{path} is written anew")])
}

/// Puts conflict copies in the place of what is missing or bad.
fn restore_copies(
    folder: &dyn SyncedFolder,
    repository: &Repository,
    report: &mut Report,
) -> Result<Vec<String>> {
    let mut copies: HashMap<(Hash, String), Vec<String>> = HashMap::new();
    let heads: &Copies = &repository.copies;
    for (hash, paths) in heads {
        let named = repository.heads.values().flatten().find(|head| head.hash == *hash);
        if let Some(head) = named {
            copies.entry((*hash, head.name().path())).or_default().extend(paths.iter().cloned());
        }
    }
    for device in repository.heads.keys() {
        for digit in "0123456789abcdef".chars() {
            let path = object_folder(device, &digit.to_string());
            for file in folder.list(&path)? {
                if parse_object_name(&file.name).is_none()
                    && let Some(hash) = find_object_name(&file.name)
                {
                    let object = Name::Object { device: *device, hash }.path();
                    copies.entry((hash, object)).or_default().push(format!("{path}/{}", file.name));
                }
            }
        }
    }
    let is_good = |path: &str, hash: &Hash| {
        folder.open(path).and_then(|file| check_name(&*file, hash)).unwrap_or(false)
    };
    let mut done = Vec::new();
    for ((hash, path), from) in copies {
        if is_good(&path, &hash) {
            continue;
        }
        if let Some(good) = from.iter().find(|from| is_good(from, &hash)) {
            folder.publish(&path, &folder.read(good, FILE_MAX)?)?;
            report.bad.remove(&hash);
            done.push(format!("{path} is put back from {good}"));
        }
    }
    done.sort_unstable();
    Ok(done)
}

/// With the local state as it is: nothing newer is lost.
fn go_on(global: &Global, looked: &Looked, report: &Report) -> Result<Repaired> {
    let volume = looked.volume(&looked.options(global, &Wanted::default()))?;
    if !global.accept_older {
        refuse_behind(&volume.behind)?;
    }
    let (fs, replayed) = file_system(volume, true, (None, None))?;
    if replayed > 0 {
        fs.checkpoint()?;
    }
    Ok(fs.volume().repair(&looked.repository, &report.bad)?)
}

/// As a new device, from the newest heads that can be used.
fn start_anew(global: &Global, looked: &Looked, report: &Report, seen: Vector) -> Result<Repaired> {
    let options = looked.options(global, &Wanted::default());
    let volume = looked.volume(&OpenOptions { repair: Some(seen), ..options })?;
    volume.settle(false)?;
    Ok(volume.repair(&looked.repository, &report.bad)?)
}

/// Generations that a state has seen, its own among them.
fn seen_by(state: &LocalState) -> Vector {
    let Ok(Some(state)) = State::load(&*state.folder) else { return Vector::new() };
    let mut seen = state.seen;
    if state.generation > 0 {
        seen.insert(state.device, state.generation);
    }
    seen
}

/// Moves local state to a name beside it, if there is any. The lock goes with it.
fn set_aside(state: &LocalState) -> Result<Option<PathBuf>> {
    if State::load(&*state.folder).is_ok_and(|state| state.is_none()) {
        return Ok(None);
    }
    let named = |nth: u32| {
        let mut name = state.path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".before-repair-{nth}"));
        state.path.with_file_name(name)
    };
    let free = (1..=u32::MAX).map(named).find(|path| !path.exists());
    let aside = free.expect("a number is free");
    std::fs::rename(&state.path, &aside)?;
    Ok(Some(aside))
}
