//! `amberfs check --repair`: mends what can be mended, and lists what was lost.
//!
//! Nothing is deleted: a file in REPO is only ever replaced by the bytes that
//! its name says, and local state that cannot go on is set aside.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::Global;
use super::check::{devices, names};
use super::findings::Report;
use super::opening::{Looked, Wanted, file_system, find, open_keyring, refuse_behind};
use super::search::Search;
use super::{Exit, Failure, Result, place};
use crate::crypto::{DeviceId, Hash, Secret};
use crate::format::clock::Generations;
use crate::format::commit::Name;
use crate::format::register::{HEADER_MAX, Header};
use crate::io::{
    Clock as _, DirSynced, LocalState, SyncedFolder, SystemClock, SystemRandom, output,
};
use crate::store::{CacheSizes, Context, Listing, Store, StoreError, Stray, is_arriving};
use crate::volume::repository::{Repository, open_head};
use crate::volume::state::State;
use crate::volume::{OpenOptions, Repaired};

/// Runs the repair.
pub fn run(global: &Global, repo: &Path) -> Result<Exit> {
    let looked = find(repo)?.key(global)?.lock(global)?.look()?;
    let folder = DirSynced::new(&looked.path, Some(&state(&looked).path.join("pending")));

    let mut report = Report::default();
    let listing = Listing::of(&folder, &devices(&looked.repository))?;
    names(&folder, &looked.repository, &listing, &mut report);
    if !report.arriving.is_empty() {
        let what = report.arriving.join(", ");
        return Err(Failure::new(Exit::NotAllHere, format!("still arriving: {what}")).hint(
            "let the sync client finish; ten minutes after their last change, repair again",
        ));
    }
    if !report.unread.is_empty() {
        return Err(Failure::new(Exit::Other, report.unread.join("; ")).hint(
            "nothing was changed: what cannot be read is not lost. See to it that it can be; moved \
             out of the repository, it is given up",
        ));
    }
    let mut done = restore_header(&folder, &looked.repository, looked.key())?;
    let search = Search::new(&folder, &looked.repository, &listing)?;
    done.extend(search.restore_heads(&mut report)?);
    // Only now: heads that were put back name objects too.
    let heads = Repository::find(&folder)?;
    let wanted = wanted(&looked.path, &heads, looked.key())?;
    done.extend(search.restore_objects(&wanted, &mut report)?);
    let mut closed = search.closed;
    closed.extend(heads.strays.iter().chain(&listing.strays).filter(|s| s.hides()).cloned());

    // Only now: what stood in before is in its place.
    let mut looked = looked.look_again()?;
    let repaired = match go_on(global, &looked, &report, &closed) {
        Err(failure)
            if matches!(failure.code, Exit::Damage | Exit::NotAllHere | Exit::Rollback) =>
        {
            refuse_closed(&closed)?;
            done.push(format!("went on without what cannot be had: {}", failure.message));
            let seen = seen_by(state(&looked))?;
            if let Some(aside) = set_aside(state(&looked))? {
                done.push(format!(
                    "local state is set aside in {}; changes in it that are not in the repository \
                     are not brought back",
                    aside.display()
                ));
            }
            let path = state(&looked).path.clone();
            looked.replace_state(None);
            looked.replace_state(Some(place::lock(path, &looked.path)?));
            start_anew(global, &looked, &report, seen)?
        }
        other => other?,
    };
    conclude(global, done, &repaired)
}

fn state(looked: &Looked) -> &LocalState {
    looked.state().expect("a repair locks local state")
}

fn conclude(global: &Global, mut done: Vec<String>, repaired: &Repaired) -> Result<Exit> {
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
    if !global.json {
        for text in done.iter().filter(|_| !global.quiet) {
            say!("repaired: {text}")?;
        }
        for lost in &repaired.lost {
            say!("lost content: {lost}")?;
        }
    }
    if !repaired.lost.is_empty() {
        return Err(Failure::new(
            Exit::Damage,
            format!("{} files lost content; all others can be read", repaired.lost.len()),
        )
        .hint(
            "what the cloud keeps of older versions may still bring it back: put it in place and \
             check again. Or write these files anew",
        ));
    }
    if done.is_empty() && !global.quiet && !global.json {
        say!("nothing to repair")?;
    }
    Ok(Exit::Done)
}

/// Writes a lost or damaged header anew.
fn restore_header(
    folder: &dyn SyncedFolder,
    repository: &Repository,
    key: &Secret,
) -> Result<Vec<String>> {
    let path = Name::Header(repository.repo).path();
    let (keyring, register, _) = open_keyring(repository, key)?;
    match folder.read(&path, HEADER_MAX) {
        Ok(bytes) => {
            let good = |header: Header| {
                header.repo == repository.repo && header.features == keyring.features
            };
            if Header::decode(&bytes).is_ok_and(good) {
                return Ok(Vec::new());
            }
        }
        // It is too long for a header.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {}
        Err(error) => match StoreError::io(&path, error) {
            StoreError::Missing { .. } => {}
            error => return Err(error.into()),
        },
    }
    if is_arriving(folder, SystemClock.now(), &path) {
        return Err(Failure::new(Exit::NotAllHere, format!("still arriving: {path}")));
    }
    let header = Header { features: keyring.features, repo: repository.repo, register };
    folder.publish(&path, &header.encode()).map_err(|error| StoreError::writing(&path, error))?;
    Ok(vec![format!("{path} is written anew")])
}

/// Objects that heads name, each with the device of a head that does.
fn wanted(path: &Path, repository: &Repository, key: &Secret) -> Result<HashMap<Hash, DeviceId>> {
    let (keyring, ..) = open_keyring(repository, key)?;
    let store = Store::new(
        Arc::new(Context::new(repository.repo, keyring)),
        Arc::new(DirSynced::new(path, None)),
        None,
        (Arc::new(SystemClock), Arc::new(SystemRandom)),
        [0; 16],
        CacheSizes::default(),
    );
    let commits = repository.heads.values().flatten().filter_map(|head| {
        open_head(&store, head).inspect_err(|error| log::info!("a head: {error}")).ok()
    });
    Ok(commits
        .flat_map(|(commit, ..)| {
            commit.objects.into_iter().map(move |object| (object.hash, commit.device))
        })
        .collect())
}

/// Nothing is given up that may lie where nobody could look.
fn refuse_closed(closed: &[Stray]) -> Result<()> {
    if closed.is_empty() {
        return Ok(());
    }
    let errno = closed.iter().any(|stray| stray.error().is_some());
    let code = if errno { Exit::Other } else { Exit::NotAllHere };
    let named: Vec<String> = closed.iter().map(Stray::to_string).collect();
    Err(Failure::new(code, named.join("; ")).hint(
        "something is not here and may lie there, so nothing was given up. Put it right, or move \
         it out of the repository, and repair again",
    ))
}

/// With the local state as it is: nothing newer is lost.
fn go_on(global: &Global, looked: &Looked, report: &Report, closed: &[Stray]) -> Result<Repaired> {
    let volume = looked.volume(&looked.options(global, &Wanted::default()))?;
    if !global.accept_older {
        refuse_behind(&volume.behind)?;
    }
    if !volume.store.missing().is_empty() {
        refuse_closed(closed)?;
    }
    let (fs, replayed) = file_system(volume, true, (None, None))?;
    if replayed > 0 {
        fs.checkpoint()?;
    }
    Ok(fs.volume().repair(&looked.repository, &report.bad)?)
}

/// As a new device, from the newest heads that can be used.
fn start_anew(
    global: &Global,
    looked: &Looked,
    report: &Report,
    seen: Generations,
) -> Result<Repaired> {
    let options = looked.options(global, &Wanted::default());
    let volume = looked.volume(&OpenOptions { repair: Some(seen), ..options })?;
    volume.settle(false)?;
    Ok(volume.repair(&looked.repository, &report.bad)?)
}

/// Generations that a state has seen, its own among them; none if its bytes are
/// damaged.
fn seen_by(state: &LocalState) -> Result<Generations> {
    let state = match State::load(&*state.folder) {
        Ok(Some(state)) => state,
        Ok(None) => return Ok(Generations::default()),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Ok(Generations::default());
        }
        Err(error) => return Err(error.into()),
    };
    let mut seen = state.seen;
    if state.generation > 0 {
        seen.add(state.device, state.generation);
    }
    Ok(seen)
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
