//! What a sweep did, or would do, as one object: a mount answers with it, and commands show it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::crypto::{DeviceId, hex};
use crate::io::Timestamp;
use crate::volume::{Doubt, Fate, GivenBack, Heads, SweepPlan, Swept};

fn count((files, bytes): (u64, u64)) -> Value {
    json!({ "files": files, "bytes": bytes })
}

fn device(name: &str, id: &DeviceId, time: Option<Timestamp>) -> Value {
    json!({ "name": name, "id": hex(id), "time": time.map(|time| time.secs) })
}

/// What is given back and not removed yet: `files`, `bytes`, the most `days` on which the device has to
/// run yet, how many of the files are `due`, and the devices that do not know of all of them (`for`).
pub(crate) fn waiting(given: &[GivenBack], heads: &Heads) -> Value {
    let here = || given.iter().filter(|file| file.is_here);
    let bytes = here().map(|file| file.row.size).sum();
    let mut told = count((here().count() as u64, bytes));
    told["days"] = here().map(|file| file.days).max().unwrap_or(0).into();
    told["due"] = here().filter(|file| file.is_due && !file.is_needed_alone).count().into();
    let unaware: BTreeSet<_> = here().flat_map(|file| &file.awaited).collect();
    let unaware = unaware.into_iter().map(|id| {
        let newest = heads.newest.iter().find(|head| head.device == *id);
        let name = newest.map_or("", |head| &head.name);
        device(name, id, newest.map(|head| head.commit.time))
    });
    told["for"] = unaware.collect();
    told
}

fn of(doubt: &Doubt) -> String {
    match doubt {
        Doubt::NotAllHere(what) => what.clone(),
        Doubt::Unknown => {
            "a later version of amberfs has written here what this one does not know".into()
        }
    }
}

/// The object with what a plan says and, if it was carried out, what came of that. `docs/cli.md` lists
/// its members.
pub(crate) fn report(plan: &SweepPlan, swept: Option<&Swept>, heads: &Heads) -> Value {
    let total = |fate| {
        let (files, bytes, _) = plan.total(fate);
        count((files, bytes))
    };
    let awaited = plan.awaited.iter().map(|of| device(&of.name, &of.device, Some(of.time)));
    let mut told = json!({
        "message_type": "sweep",
        "stays": total(Fate::Stays),
        "unneeded": total(Fate::Unneeded),
        "folded": total(Fate::Folded),
        "stored_again": plan.total(Fate::Folded).2,
        "partly": count(plan.partly()),
        "waiting": waiting(&plan.given, heads),
        "unlisted": count(plan.unlisted),
        "doubts": plan.doubts.iter().map(of).collect::<Vec<_>>(),
        "awaited": awaited.collect::<Vec<_>>(),
    });
    if let Some(swept) = swept {
        told["message_type"] = "swept".into();
        told["given_back"] = count(swept.condemned);
        told["removed"] = count(swept.removed);
        told["left"] = count(swept.left);
        told["needed"] = swept.needed.into();
    }
    told
}

/// Of a report what the status of a mount tells: what waits to be removed, what is not given back yet
/// (`unneeded`) and why (`doubts`), and when that was `looked` at, in seconds since 1970.
pub(crate) fn summary(report: &Value, looked: i64) -> Value {
    let mut told = report["waiting"].clone();
    let is_done = report["message_type"] == "swept";
    told["unneeded"] = report[if is_done { "left" } else { "unneeded" }].clone();
    told["doubts"] = report["doubts"].clone();
    told["looked"] = looked.into();
    told
}
