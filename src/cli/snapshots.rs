//! `amberfs snapshots`: the states of the past.

use std::collections::HashSet;

use jiff::tz::TimeZone;

use super::args::{Global, SnapshotsListArgs};
use super::opening::{Wanted, find};
use super::{Exit, Result};
use crate::crypto::{DeviceId, hex};
use crate::io::{Timestamp, byte_count, local_time, output};
use crate::sync::{Snapshot, snapshots};
use crate::volume::named;

/// How long the last state of each hour is listed, in seconds.
const HOURS: i64 = 24 * 3600;
/// How long the last state of each day is listed, in seconds.
const DAYS: i64 = 31 * 24 * 3600;

/// Runs `amberfs snapshots list`: lists the states of the past, the newest first.
pub fn list(global: &Global, args: &SnapshotsListArgs) -> Result<Exit> {
    let scanned = find(&args.repo)?.obtain_key(global)?.read_state(global).scan()?;
    let volume = scanned.volume(&scanned.options(global, &Wanted::default()))?;
    let (mut found, unreadable) = snapshots(&volume, &scanned.repository);
    for error in &unreadable {
        note!("amberfs: a state cannot be listed: {error}");
    }
    let all = found.len();
    found.reverse();
    if !args.all {
        thin(&mut found, jiff::Timestamp::now().as_second());
    }
    for snapshot in &found {
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
    Ok(if unreadable.is_empty() { Exit::Done } else { Exit::Partial })
}

/// The hour, day or month, in the zone of this machine, in which a state is one of many: year, month
/// or 0, day or 0, hour or -1.
fn period(time: Timestamp, now: i64, zone: &TimeZone) -> (i16, i8, i8, i8) {
    let Ok(moment) = jiff::Timestamp::from_second(time.secs) else { return (0, 0, 0, 0) };
    let moment = zone.to_datetime(moment);
    let (year, month, day, hour) = (moment.year(), moment.month(), moment.day(), moment.hour());
    match now.saturating_sub(time.secs) {
        age if age <= HOURS => (year, month, day, hour),
        age if age <= DAYS => (year, month, day, -1),
        _ => (year, month, 0, -1),
    }
}

/// Keeps of states, the newest first, the last of each device in each hour, day or month.
fn thin(found: &mut Vec<Snapshot>, now: i64) {
    let zone = TimeZone::system();
    let mut seen: HashSet<(DeviceId, (i16, i8, i8, i8))> = HashSet::new();
    found.retain(|found| seen.insert((found.device, period(found.time, now, &zone))));
}
