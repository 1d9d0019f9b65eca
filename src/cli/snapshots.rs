//! `amberfs snapshots` and `amberfs diff`: the states of the past, and which of them are kept.

use std::path::Path;
use std::str::FromStr;

use super::args::{
    DiffArgs, Global, SnapshotsAddArgs, SnapshotsListArgs, SnapshotsPolicyArgs, SnapshotsRemoveArgs,
};
use super::control::{ask, served};
use super::files::{shown, with_cause};
use super::opening::{Access, OpenRepository, Wanted, find, open};
use super::when::Moment;
use super::{Exit, Failure, Result, owner};
use crate::control::{Request, RunningDaemon};
use crate::crypto::hex;
use crate::daemon::{Call, NewRetention};
use crate::format::ledger::LABEL_MAX;
use crate::format::setting::Retention;
use crate::fs::{FsError, KeptState};
use crate::io::{byte_count, local_time, output, shown as shown_text};
use crate::sync::{Snapshot, Snapshots, bytes_apart, thinned};
use crate::volume::{Change, ChangeKind, changes, named};

/// Runs `amberfs snapshots list`: lists the states of the past, the newest first.
pub fn list(global: &Global, args: &SnapshotsListArgs) -> Result<Exit> {
    let scanned = find(&args.repo)?.obtain_key(global)?.read_state(global).scan()?;
    let opened = scanned.open(global, &Wanted::default())?;
    opened.print_notices();
    let volume = opened.fs.volume();
    let (mut found, unreadable) = Snapshots::default().list(volume, &opened.repository);
    let all = found.len();
    let every = found.clone();
    let apart = if args.sizes { bytes_apart(volume, &every)? } else { Vec::new() };
    let apart_of = |state: &Snapshot| {
        let found = apart.iter().zip(&every).find(|(_, other)| *other == state);
        found.map(|(bytes, _)| *bytes)
    };
    if !args.all {
        let retention = volume.tree().retention()?;
        found = thinned(&found, volume.world().clock.now(), &retention);
    }
    for snapshot in found.iter().rev() {
        let apart = apart_of(snapshot);
        let Snapshot { device, name, generation, time, inodes, bytes, label, .. } = snapshot;
        if global.json {
            output::object(&serde_json::json!({
                "message_type": "snapshot",
                "time": time.secs,
                "device": name,
                "id": hex(device),
                "generation": generation,
                "inodes": inodes,
                "bytes": bytes,
                "label": label,
                "apart": apart,
            }))?;
        } else {
            let (time, size) = (local_time(time.secs), byte_count(*bytes));
            let device = named(name, device);
            let label = if label.is_empty() {
                String::new()
            } else {
                format!("  \"{}\"", shown_text(label))
            };
            let apart = apart.map_or_else(String::new, |bytes| {
                format!(", {:>11} in no other", byte_count(bytes))
            });
            say!(
                "{time}  {inodes:>9} files and folders {size:>11}{apart}  state {generation} of {device}{label}"
            )?;
        }
    }
    if !global.json && !global.quiet {
        if found.is_empty() {
            say!("nothing was written here yet")?;
        } else if found.len() < all {
            let hidden = all - found.len();
            note!("amberfs: {hidden} more states can be gone back to; --all lists them");
        }
    }
    Ok(opened.exit(if unreadable == 0 { Exit::Done } else { Exit::Partial }))
}

/// The name of a state, as an argument: 1 to 255 bytes, none of them a control character.
pub fn label(text: &str) -> std::result::Result<String, String> {
    if text.is_empty() || text.len() > LABEL_MAX || text.chars().any(char::is_control) {
        return Err(format!("a name has 1 to {LABEL_MAX} bytes and no control character"));
    }
    Ok(text.into())
}

/// Runs `amberfs snapshots add`: gives what is here now a name.
pub fn add(global: &Global, args: &SnapshotsAddArgs) -> Result<Exit> {
    let label = &args.name;
    let (repo, daemon) = served(global, &args.repo)?;
    let (generation, secs) = if let Some(daemon) = daemon {
        asked_state(&daemon, &Call::Keep(label.clone()))?
    } else {
        let opened = open_to_write(global, &repo)?;
        let named = Snapshots::named(opened.fs.volume(), &opened.repository, label);
        if let (Some(state), _) = named {
            return Err(Failure::new(Exit::Usage, state.has_name()));
        }
        let kept = opened.fs.keep(label);
        let (generation, time) =
            kept.map_err(|error| with_cause(opened.fs.take_cause(), error.into()))?;
        (generation, time.secs)
    };
    if global.json {
        output::object(&serde_json::json!({
            "message_type": "named",
            "label": label,
            "generation": generation,
            "time": secs,
        }))?;
    } else if !global.quiet {
        let time = local_time(secs);
        note!("state {generation} of this device, of {time}, is kept as {}", shown_text(label));
    }
    Ok(Exit::Done)
}

/// Runs `amberfs snapshots remove`: keeps a state of this device no longer.
pub fn remove(global: &Global, args: &SnapshotsRemoveArgs) -> Result<Exit> {
    let which = match &args.which {
        Moment::Named(label) => KeptState::Named(label.clone()),
        Moment::Time(time) => KeptState::At(*time),
    };
    let (repo, daemon) = served(global, &args.repo)?;
    let hint = "each device keeps its own: snapshots list names the one that made a state";
    let (generation, secs) = if let Some(daemon) = daemon {
        let asked = asked_state(&daemon, &Call::Remove(which));
        asked.map_err(
            |failure| {
                if failure.code == Exit::Usage { failure.hint(hint) } else { failure }
            },
        )?
    } else {
        let opened = open_to_write(global, &repo)?;
        let (generation, time) = opened.fs.remove_kept(&which).map_err(|error| match error {
            FsError::NotFound => {
                Failure::new(Exit::Usage, "this device keeps no such state").hint(hint)
            }
            error => with_cause(opened.fs.take_cause(), error.into()),
        })?;
        (generation, time.secs)
    };
    if global.json {
        output::object(&serde_json::json!({
            "message_type": "removed_state",
            "generation": generation,
            "time": secs,
        }))?;
    } else if !global.quiet {
        let time = local_time(secs);
        note!("state {generation} of this device, of {time}, is not kept any longer");
    }
    Ok(Exit::Done)
}

/// Has a mount publish what was written before, and asks it for a change of what is kept: the generation
/// of the state, and when it was made, in seconds since 1970.
fn asked_state(daemon: &RunningDaemon, call: &Call) -> Result<(u64, i64)> {
    ask(daemon, &Request::Sync)?;
    let answer = ask(daemon, &Request::Call(call.encode()))?;
    let [generation, secs] = numbers::<2, i64>(&answer)?;
    Ok((generation.unsigned_abs(), secs))
}

/// Runs `amberfs snapshots policy`: shows or says for how long states of the past are kept.
pub fn policy(global: &Global, args: &SnapshotsPolicyArgs) -> Result<Exit> {
    let SnapshotsPolicyArgs { hours, days, months, .. } = *args;
    let new = NewRetention { hours, days, months };
    let (repo, daemon) = served(global, &args.repo)?;
    let [hours, days, months] = if let Some(daemon) = daemon {
        let answer = ask(&daemon, &Request::Call(Call::Retention(new).encode()))?;
        if !new.is_empty() {
            ask(&daemon, &Request::Sync)?;
        }
        numbers(&answer)?
    } else {
        let retention = if new.is_empty() {
            let opened = open(global, &repo, Access::Read)?;
            opened.fs.volume().tree().retention()?
        } else {
            let opened = open_to_write(global, &repo)?;
            let retention = opened.fs.change_retention(|retention| new.apply(retention))?;
            opened.publish()?;
            retention
        };
        let Retention { hours, days, months, .. } = retention;
        [hours, days, months]
    };
    if global.json {
        output::object(&serde_json::json!({
            "message_type": "policy",
            "hours": hours,
            "days": days,
            "months": months,
        }))?;
    } else {
        say!("the newest state of each hour is kept for    {hours} hours")?;
        say!("the newest state of each day is kept for     {days} days")?;
        say!("the newest state of each month is kept for   {months} months")?;
    }
    Ok(Exit::Done)
}

/// Opens a repository for a command that publishes, as its owner.
fn open_to_write(global: &Global, repo: &Path) -> Result<OpenRepository> {
    owner::act(global, repo)?;
    let opened = open(global, repo, Access::Write)?;
    // What a crash left in the journal counts too.
    opened.publish()?;
    Ok(opened)
}

/// Decimal numbers with spaces between, as a daemon answers.
fn numbers<const N: usize, T: FromStr>(answer: &[u8]) -> Result<[T; N]> {
    let text = String::from_utf8_lossy(answer);
    let read: Vec<T> = text.split(' ').filter_map(|number| number.parse().ok()).collect();
    read.try_into().map_err(|_| {
        let text = format!("the mount's answer was not understood: {}", shown_text(&text));
        Failure::new(Exit::Other, text)
    })
}

/// Runs `amberfs diff`: lists the paths that changed from one time to another.
pub fn diff(global: &Global, args: &DiffArgs) -> Result<Exit> {
    let scanned = find(&args.repo)?.obtain_key(global)?.read_state(global).scan()?;
    let wanted = Wanted { until: args.to.clone(), ..Wanted::default() };
    let mut opened = scanned.open(global, &wanted)?;
    opened.print_notices();
    opened.refuse_less(global)?;
    let from = opened.time_of(&args.from)?;
    if opened.follower.until().is_some_and(|to| to < from) {
        return Err(Failure::new(Exit::Usage, "the second time is before the first one"));
    }
    let before = opened.past(global, from)?;
    let volume = opened.fs.volume();
    let found = changes(&volume.tree_at(before.namespace.shown), &volume.tree())?;
    for change in &found {
        if global.json {
            output::object(&change_object(change))?;
        } else {
            say!("{}", change_line(change))?;
        }
    }
    if found.is_empty() && !global.json && !global.quiet {
        say!("nothing changed")?;
    }
    Ok(opened.exit(Exit::Done))
}

fn word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "added",
        ChangeKind::Removed => "removed",
        ChangeKind::Renamed => "renamed",
        ChangeKind::Content => "changed",
        ChangeKind::Attributes => "attributes",
    }
}

fn change_object(change: &Change) -> serde_json::Value {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    serde_json::json!({
        "message_type": "difference",
        "kind": word(change.kind),
        "path": text(&change.path),
        "from": change.from.as_deref().map(text),
        "size_before": change.size_before,
        "size_after": change.size_after,
    })
}

fn change_line(change: &Change) -> String {
    let path = match &change.from {
        Some(from) => format!("{} -> {}", shown(from), shown(&change.path)),
        None => shown(&change.path),
    };
    let sizes = match (change.size_before, change.size_after) {
        (Some(before), Some(after)) if before != after => {
            format!("  {} -> {}", byte_count(before), byte_count(after))
        }
        (Some(size), None) | (None, Some(size)) => format!("  {}", byte_count(size)),
        _ => String::new(),
    };
    format!("{:<10}  {path}{sizes}", word(change.kind))
}
