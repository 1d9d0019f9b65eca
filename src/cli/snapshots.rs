//! `amberfs snapshots` and `amberfs diff`: the states of the past.

use super::args::{DiffArgs, Global, SnapshotsListArgs};
use super::files::shown;
use super::opening::{Wanted, find};
use super::{Exit, Failure, Result};
use crate::crypto::hex;
use crate::io::{byte_count, local_time, output};
use crate::sync::{Snapshot, Snapshots, thinned};
use crate::volume::{Change, ChangeKind, changes, named};

/// Runs `amberfs snapshots list`: lists the states of the past, the newest first.
pub fn list(global: &Global, args: &SnapshotsListArgs) -> Result<Exit> {
    let scanned = find(&args.repo)?.obtain_key(global)?.read_state(global).scan()?;
    let opened = scanned.open(global, &Wanted::default())?;
    opened.print_notices();
    let volume = opened.fs.volume();
    let (mut found, unreadable) = Snapshots::default().list(volume, &opened.repository);
    let all = found.len();
    if !args.all {
        found = thinned(&found, volume.world().clock.now());
    }
    for snapshot in found.iter().rev() {
        let Snapshot { device, name, generation, time, inodes, bytes, .. } = snapshot;
        if global.json {
            output::object(&serde_json::json!({
                "message_type": "snapshot",
                "time": time.secs,
                "device": name,
                "id": hex(device),
                "generation": generation,
                "inodes": inodes,
                "bytes": bytes,
            }))?;
        } else {
            let (time, size) = (local_time(time.secs), byte_count(*bytes));
            let device = named(name, device);
            say!(
                "{time}  {inodes:>9} files and folders {size:>11}  state {generation} of {device}"
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

/// Runs `amberfs diff`: lists the paths that changed from one time to another.
pub fn diff(global: &Global, args: &DiffArgs) -> Result<Exit> {
    if args.to.is_some_and(|to| to < args.from) {
        return Err(Failure::new(Exit::Usage, "the second time is before the first one"));
    }
    let scanned = find(&args.repo)?.obtain_key(global)?.read_state(global).scan()?;
    let wanted = Wanted { until: args.to, ..Wanted::default() };
    let mut opened = scanned.open(global, &wanted)?;
    opened.print_notices();
    opened.refuse_less(global)?;
    let before = opened.past(global, args.from)?;
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
