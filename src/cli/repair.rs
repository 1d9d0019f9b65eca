//! `amberfs check --repair`: mends what can be mended, and lists what was lost.
//!
//! Nothing is deleted: a file in REPO is only ever replaced by the bytes that
//! its name says, and local state that cannot go on is set aside.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::args::Global;
use super::opening::{ScannedRepository, Wanted, file_system, find, refuse_behind};
use super::{Exit, Failure, Result, place, secrets};
use crate::crypto::Hash;
use crate::format::clock::Generations;
use crate::io::{LocalState, output};
use crate::store::{Listing, Stray};
use crate::sync::OpenOptions;
use crate::volume::state::State;
use crate::volume::{Findings, Repaired, RestoreError, Restored, check_names, restore};

/// Runs `amberfs check --repair`.
pub fn run(global: &Global, repo: &Path) -> Result<Exit> {
    let scanned = find(repo)?.obtain_key(global)?.lock_state(global)?.scan()?;
    let world = scanned.world();
    let folder = &*world.repo;
    let mut found = Findings::default();
    let listing = Listing::of(folder, &scanned.repository.devices())?;
    check_names(folder, &*world.clock, &scanned.repository, (&listing, &|_| false), &mut found);
    if !found.arriving.is_empty() {
        let what = found.arriving.join(", ");
        return Err(Failure::new(Exit::NotAllHere, format!("still arriving: {what}")).hint(
            "let the sync client finish; ten minutes after their last change, repair again",
        ));
    }
    if !found.unread.is_empty() {
        return Err(Failure::new(Exit::Other, found.unread.join("; ")).hint(
            "nothing was changed: what cannot be read is not lost. See to it that it can be; moved \
             out of the repository, it is given up",
        ));
    }
    let bad = &mut found.bad;
    let Restored { mut done, closed } =
        restore(&world, &scanned.repository, scanned.key(), &listing, bad).map_err(|error| {
            match error {
                RestoreError::Arriving(_) => Failure::new(Exit::NotAllHere, error),
                RestoreError::WrongKey => secrets::wrong_key(&scanned.repository, scanned.key()),
                RestoreError::Open(error) => error.into(),
                RestoreError::Store(error) => error.into(),
            }
        })?;

    // Only now: what stood in before is in its place.
    let mut scanned = scanned.rescan()?;
    let repaired = match go_on(global, &scanned, &found.bad, &closed) {
        Err(failure)
            if matches!(failure.code, Exit::Damage | Exit::NotAllHere | Exit::Rollback) =>
        {
            refuse_closed(&closed)?;
            if !global.accept_older {
                refuse_waiting(&scanned)?;
            }
            done.push(format!("went on without what cannot be had: {}", failure.message));
            let seen = State::seen_in(&*state(&scanned).folder)?;
            if let Some(aside) = set_aside(state(&scanned))? {
                done.push(format!(
                    "local state is set aside in {}; changes in it that are not in the repository \
                     are not brought back",
                    aside.display()
                ));
            }
            let path = state(&scanned).path.clone();
            scanned.replace_state(None);
            scanned.replace_state(Some(place::lock(path, &scanned.path)?));
            start_anew(global, &scanned, &found.bad, seen)?
        }
        other => other?,
    };
    conclude(global, done, &repaired)
}

fn state(scanned: &ScannedRepository) -> &LocalState {
    scanned.state().expect("a repair locks local state")
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

/// A repair goes on as a new device, without the changes that only the journal has. They are not
/// given up while all they wait for is a head that may come back.
fn refuse_waiting(scanned: &ScannedRepository) -> Result<()> {
    let waiting = scanned.changes_without_base()?;
    if waiting == 0 {
        return Ok(());
    }
    let text = format!(
        "{waiting} changes of this device are in its journal only, and a head on which they were \
         made is not here. A repair would leave them out"
    );
    Err(Failure::new(Exit::NotAllHere, text).hint(
        "let the sync client bring the file back, and mount; to give those changes up, repair \
         with --accept-older",
    ))
}

/// With the local state as it is: nothing newer is lost.
fn go_on(
    global: &Global,
    scanned: &ScannedRepository,
    bad: &HashSet<Hash>,
    closed: &[Stray],
) -> Result<Repaired> {
    let volume = scanned.volume(&scanned.options(global, &Wanted::default()))?;
    if !global.accept_older {
        refuse_behind(&volume.heads().behind)?;
    }
    if !volume.missing_objects().is_empty() {
        refuse_closed(closed)?;
    }
    let (fs, replayed) = file_system(volume, true, (None, None))?;
    if replayed > 0 {
        fs.checkpoint()?;
    }
    Ok(fs.volume().repair(&scanned.repository, bad)?)
}

/// As a new device, from the newest heads that can be used.
fn start_anew(
    global: &Global,
    scanned: &ScannedRepository,
    bad: &HashSet<Hash>,
    seen: Generations,
) -> Result<Repaired> {
    let options = scanned.options(global, &Wanted::default());
    let volume = scanned.volume(&OpenOptions { repair: Some(seen), ..options })?;
    volume.resolve_intents(false)?;
    Ok(volume.repair(&scanned.repository, bad)?)
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
