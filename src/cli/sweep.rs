//! `amberfs sweep`: what of a device's folder nobody needs any more.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;

use super::args::{Global, SweepArgs};
use super::control::served;
use super::files::with_cause;
use super::opening::{Access, Wanted, find, open};
use super::{Exit, Failure, Result, owner};
use crate::io::{byte_count, local_time, output};
use crate::volume::{Doubt, Fate, Heads, SweepPlan, Swept, WAIT_STEPS, name_of, named};

/// Runs `amberfs sweep`: gives back what nobody needs of this device's folder, or only says what that is.
pub fn run(global: &Global, args: &SweepArgs) -> Result<Exit> {
    let (repo, _) = served(global, &args.repo)?;
    if args.dry_run { dry_run(global, &repo) } else { give_back(global, &repo, args.all) }
}

/// Removes what is due, and has a head say what is given back from now on.
fn give_back(global: &Global, repo: &Path, all: bool) -> Result<Exit> {
    owner::act(global, repo)?;
    let opened = open(global, repo, Access::Write)?;
    // What a crash left in the journal counts too.
    opened.publish()?;
    let too_much = Cell::new(None);
    let agrees = |plan: &SweepPlan| {
        let (files, bytes, _) = plan.total(Fate::Unneeded);
        let is_much = bytes > plan.all_bytes() / 5;
        if is_much && !all {
            too_much.set(Some((files, bytes)));
        }
        all || !is_much
    };
    let swept = opened.fs.sweep(&agrees);
    let (plan, swept) = swept.map_err(|error| with_cause(opened.fs.take_cause(), error.into()))?;
    if let Some((files, bytes)) = too_much.get() {
        let bytes = byte_count(bytes);
        let text =
            format!("{files} files with {bytes} are not needed: more than a fifth of the folder");
        return Err(Failure::new(Exit::Usage, text)
            .hint("nothing was given back; --dry-run says more, and --all gives them back"));
    }
    let heads = opened.fs.volume().heads();
    if global.json {
        let mut told = json(&plan);
        let count = |(files, bytes)| serde_json::json!({ "files": files, "bytes": bytes });
        told["message_type"] = "swept".into();
        told["given_back"] = count(swept.condemned);
        told["removed"] = count(swept.removed);
        output::object(&told)?;
    } else if !global.quiet {
        show_swept(&plan, &swept, &heads)?;
    }
    // Nobody can say that there is nothing to give back where it is not known.
    Ok(if plan.doubts.is_empty() { opened.exit(Exit::Done) } else { Exit::Partial })
}

fn show_swept(
    plan: &SweepPlan,
    swept: &Swept,
    heads: &Heads,
) -> std::result::Result<(), output::OutputError> {
    for doubt in &plan.doubts {
        say!("nothing was given back: {}", of(doubt))?;
    }
    let line = |what: &str, (files, bytes): (u64, u64)| {
        say!("{what:<20} {files:>7} files {:>11}", byte_count(bytes))
    };
    line("removed", swept.removed)?;
    line("given back from now", swept.condemned)?;
    if swept.needed > 0 {
        let bytes = byte_count(swept.needed);
        say!(
            "{bytes} stay for now: something in them is needed, and its other copy is too new or bad"
        )?;
    }
    show_waiting(plan, heads)
}

/// What is given back and not removed yet, and what it waits for.
fn show_waiting(plan: &SweepPlan, heads: &Heads) -> std::result::Result<(), output::OutputError> {
    let (files, bytes) = plan.waiting();
    if files == 0 {
        return Ok(());
    }
    say!("{files} files with {} were given back before, and wait:", byte_count(bytes))?;
    let here = || plan.given.iter().filter(|file| file.is_here);
    if let Some(days) = here().map(|file| file.days).max().filter(|days| *days > 0) {
        say!("  for {days} more days on which this device runs, at most")?;
    }
    let due = here().filter(|file| file.is_due && !file.is_needed_alone).count();
    if due > 0 {
        say!("  {due} of them for the next sweep")?;
    }
    let unaware: BTreeSet<_> = here().flat_map(|file| file.awaited.clone()).collect();
    for device in unaware {
        let name = name_of(&heads.newest, &device);
        let newest = heads.newest.iter().find(|head| head.device == device);
        let seen = newest.map_or_else(String::new, |head| {
            format!("; its newest state is of {}", local_time(head.commit.time.secs))
        });
        say!("  for {name}, which does not know of them yet{seen}")?;
    }
    Ok(())
}

fn dry_run(global: &Global, repo: &Path) -> Result<Exit> {
    let scanned = find(repo)?.obtain_key(global)?.read_state(global).scan()?;
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
        show(&plan, &volume.heads(), &name_of(&volume.heads().newest, &own))?;
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
        "waiting": { "files": plan.waiting().0, "bytes": plan.waiting().1 },
        "unlisted": { "files": plan.unlisted.0, "bytes": plan.unlisted.1 },
        "doubts": plan.doubts.iter().map(of).collect::<Vec<_>>(),
        "awaited": awaited.collect::<Vec<_>>(),
    })
}

fn show(
    plan: &SweepPlan,
    heads: &Heads,
    name: &str,
) -> std::result::Result<(), output::OutputError> {
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
    show_waiting(plan, heads)?;
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
