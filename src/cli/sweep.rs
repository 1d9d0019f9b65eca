//! `amberfs sweep`: what of a device's folder nobody needs any more.

use super::args::{Global, SweepArgs};
use super::control::served;
use super::opening::{Wanted, find};
use super::{Exit, Failure, Result};
use crate::io::{byte_count, local_time, output};
use crate::volume::{Doubt, Fate, SweepPlan, WAIT_STEPS, name_of, named};

/// Runs `amberfs sweep --dry-run`: says what this device would give back, and what it waits for.
pub fn run(global: &Global, args: &SweepArgs) -> Result<Exit> {
    let (repo, _) = served(global, &args.repo)?;
    let scanned = find(&repo)?.obtain_key(global)?.read_state(global).scan()?;
    let own = scanned.own_device();
    let opened = scanned.open(global, &Wanted::default())?;
    opened.print_notices();
    let Some(own) = own else {
        return Err(Failure::new(Exit::Usage, "this machine has written nothing here")
            .hint("each device gives back what is in its own folder: ask on the others"));
    };
    let volume = opened.fs.volume();
    let plan = volume.plan_sweep(own)?;
    if global.json {
        output::object(&json(&plan))?;
    } else {
        show(&plan, &name_of(&volume.heads().newest, &own))?;
    }
    Ok(opened.exit(Exit::Done))
}

fn of(doubt: &Doubt) -> String {
    match doubt {
        Doubt::NotAllHere(what) => what.clone(),
        Doubt::Unknown => {
            "a later version of amberfs has written here what this one does not know".into()
        }
    }
}

fn json(plan: &SweepPlan) -> serde_json::Value {
    let total = |fate| {
        let (files, bytes, _) = plan.total(fate);
        serde_json::json!({ "files": files, "bytes": bytes })
    };
    let partly = plan.partly();
    let awaited = plan.awaited.iter().map(|device| {
        serde_json::json!({
            "name": device.name,
            "id": crate::crypto::hex(&device.device),
            "time": device.time.secs,
        })
    });
    serde_json::json!({
        "message_type": "sweep",
        "stays": total(Fate::Stays),
        "unneeded": total(Fate::Unneeded),
        "folded": total(Fate::Folded),
        "stored_again": plan.total(Fate::Folded).2,
        "partly": { "files": partly.0, "bytes": partly.1 },
        "unlisted": { "files": plan.unlisted.0, "bytes": plan.unlisted.1 },
        "doubts": plan.doubts.iter().map(of).collect::<Vec<_>>(),
        "awaited": awaited.collect::<Vec<_>>(),
    })
}

fn show(plan: &SweepPlan, name: &str) -> std::result::Result<(), output::OutputError> {
    let line = |what: &str, (files, bytes): (u64, u64), why: &str| {
        say!("  {what:<16} {files:>7} files {:>11}{why}", byte_count(bytes))
    };
    let total = |fate| {
        let (files, bytes, _) = plan.total(fate);
        (files, bytes)
    };
    say!("in the folder of {name}")?;
    line("not needed", total(Fate::Unneeded), ", and would be given back")?;
    let again = byte_count(plan.total(Fate::Folded).2);
    let why = format!(", and would become one; {again} in them is needed and stored again");
    line("old heads", total(Fate::Folded), &why)?;
    line("stay", total(Fate::Stays), "")?;
    let (files, bytes) = plan.partly();
    if files > 0 {
        line("  of these partly", (files, bytes), " in them is not needed")?;
    }
    if plan.unlisted.0 > 0 {
        line("in no ledger", plan.unlisted, ", and stay")?;
    }
    for doubt in &plan.doubts {
        say!("nothing may be given back now: {}", of(doubt))?;
    }
    for device in &plan.awaited {
        let (name, time) = (named(&device.name, &device.device), local_time(device.time.secs));
        say!(
            "before anything is removed, {name} has to know of it; its newest state is of {time}"
        )?;
    }
    say!("before anything is removed, this device runs on {WAIT_STEPS} days")?;
    say!("nothing was changed")
}
