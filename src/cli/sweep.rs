//! `amberfs sweep`: what of a device's folder nobody needs any more.

use std::path::Path;

use serde_json::Value;

use super::args::{Global, SweepArgs};
use super::control::{ask, served};
use super::files::with_cause;
use super::opening::{Access, Wanted, find, open};
use super::{Exit, Failure, Result, owner};
use crate::control::Request;
use crate::daemon::{Call, report};
use crate::io::{byte_count, local_time, output, shown};
use crate::volume::{Portion, WAIT_STEPS};

type Printed = std::result::Result<(), output::OutputError>;

/// Runs `amberfs sweep`: gives back what nobody needs of this device's folder, or only says what that is.
pub fn run(global: &Global, args: &SweepArgs) -> Result<Exit> {
    let (repo, daemon) = served(global, &args.repo)?;
    let portion = if args.all { Portion::All } else { Portion::AllIfFifth };
    let portion = (!args.dry_run).then_some(portion);
    let (report, exit) = if let Some(daemon) = daemon {
        // What was written before this command counts.
        ask(&daemon, &Request::Sync)?;
        let answer = ask(&daemon, &Request::Call(Call::Sweep(portion).encode()))?;
        let report: Value = serde_json::from_slice(&answer).map_err(|error| {
            Failure::new(Exit::Other, format!("the mount's answer was not understood: {error}"))
        })?;
        (report, Exit::Done)
    } else if let Some(portion) = portion {
        give_back(global, &repo, portion)?
    } else {
        plan(global, &repo)?
    };
    let is_done = report["message_type"] == "swept";
    let is_doubtful = report["doubts"].as_array().is_some_and(|doubts| !doubts.is_empty());
    if portion.is_some() && !is_done && !is_doubtful {
        let (files, bytes) = count(&report["unneeded"]);
        let bytes = byte_count(bytes);
        let text =
            format!("{files} files with {bytes} are not needed: more than a fifth of the folder");
        return Err(Failure::new(Exit::Usage, text)
            .hint("nothing was given back; --dry-run says more, and --all gives them back"));
    }
    if global.json {
        output::object(&report)?;
    } else if is_done {
        if !global.quiet {
            show_swept(&report)?;
        }
    } else if portion.is_some() {
        // Nothing was done: that is said even to who wants to hear of failures only.
        for doubt in texts(&report["doubts"]) {
            say!("nothing was given back: {doubt}")?;
        }
    } else {
        show_plan(&report)?;
    }
    // Nobody can say that there is nothing to give back where it is not known.
    Ok(if portion.is_some() && is_doubtful { Exit::Partial } else { exit })
}

/// Removes what is due, and has a head say what is given back from now on.
fn give_back(global: &Global, repo: &Path, portion: Portion) -> Result<(Value, Exit)> {
    owner::act(global, repo)?;
    let opened = open(global, repo, Access::Write)?;
    // What a crash left in the journal counts too.
    opened.publish()?;
    let swept = opened.fs.sweep(portion);
    let (plan, swept) = swept.map_err(|error| with_cause(opened.fs.take_cause(), error.into()))?;
    let report = report(&plan, swept.as_ref(), &opened.fs.volume().heads());
    Ok((report, opened.exit(Exit::Done)))
}

fn plan(global: &Global, repo: &Path) -> Result<(Value, Exit)> {
    let scanned = find(repo)?.obtain_key(global)?.read_state(global).scan()?;
    let own = scanned.own_device();
    let opened = scanned.open(global, &Wanted::default())?;
    opened.print_notices();
    let Some(own) = own else {
        return Err(Failure::new(Exit::Usage, "this machine has written nothing here")
            .hint("each device gives back what is in its own folder: ask on the others"));
    };
    let volume = opened.fs.volume();
    let report = report(&volume.plan_sweep(own, &[])?, None, &volume.heads());
    Ok((report, opened.exit(Exit::Done)))
}

/// The members `files` and `bytes`.
fn count(told: &Value) -> (u64, u64) {
    (number(told, "files"), number(told, "bytes"))
}

fn number(told: &Value, name: &str) -> u64 {
    told[name].as_u64().unwrap_or(0)
}

fn texts(list: &Value) -> impl Iterator<Item = String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(|text| shown(text).into())
}

/// The devices of a list, as messages name them, and when the newest state of each was made.
fn devices(list: &Value) -> impl Iterator<Item = (String, Option<String>)> {
    list.as_array().into_iter().flatten().map(|device| {
        let text = |member| device[member].as_str().unwrap_or_default();
        let (name, id) = (shown(text("name")), text("id").get(..8).unwrap_or_default());
        let name =
            if name.is_empty() { format!("the device {id}") } else { format!("{name} ({id})") };
        (name, device["time"].as_i64().map(local_time))
    })
}

fn line(what: &str, (files, bytes): (u64, u64), why: &str) -> Printed {
    say!("{what:<20} {files:>7} files {:>11}{why}", byte_count(bytes))
}

fn show_swept(report: &Value) -> Printed {
    line("removed", count(&report["removed"]), "")?;
    line("given back from now", count(&report["given_back"]), "")?;
    let needed = number(report, "needed");
    if needed > 0 {
        let bytes = byte_count(needed);
        say!(
            "{bytes} stay for now: something in them is needed, and its other copy is too new or bad"
        )?;
    }
    show_waiting(&report["waiting"])
}

/// What is given back and not removed yet, and what it waits for.
fn show_waiting(waiting: &Value) -> Printed {
    let (files, bytes) = count(waiting);
    if files == 0 {
        return Ok(());
    }
    say!("{files} files with {} are given back, and wait to be removed:", byte_count(bytes))?;
    waits(waiting).iter().try_for_each(|wait| say!("  {wait}"))
}

/// What files wait for that are given back.
fn waits(waiting: &Value) -> Vec<String> {
    let (days, due) = (number(waiting, "days"), number(waiting, "due"));
    let days = (days > 0).then(|| {
        format!(
            "for {days} more {} on which this device runs, at most",
            if days == 1 { "day" } else { "days" }
        )
    });
    let due = (due > 0).then(|| format!("{due} of them for the next sweep"));
    let devices = devices(&waiting["for"]).map(|(name, time)| {
        let seen = time.map_or_else(String::new, |time| format!("; its newest state is of {time}"));
        format!("for {name}, which does not know of them yet{seen}")
    });
    days.into_iter().chain(due).chain(devices).collect()
}

/// What the status of a mount tells of its last sweep.
pub(super) fn show_summary(told: &Value) -> Printed {
    let Some(looked) = told["looked"].as_i64().map(local_time) else { return Ok(()) };
    let (files, bytes) = count(told);
    if files > 0 {
        let (bytes, waits) = (byte_count(bytes), waits(told).join("; "));
        say!(
            "  given back     {files} files with {bytes} wait to be removed, at {looked}: {waits}"
        )?;
    }
    for doubt in texts(&told["doubts"]) {
        say!("  not given back at {looked}: {doubt}")?;
    }
    let (files, bytes) = count(&told["unneeded"]);
    if files > 0 {
        let bytes = byte_count(bytes);
        say!("  not needed     {files} files with {bytes}, at {looked}: sweep gives them back")?;
    }
    Ok(())
}

fn show_plan(report: &Value) -> Printed {
    say!("in the folder of this device")?;
    line("  not needed", count(&report["unneeded"]), ", and would be given back")?;
    let again = byte_count(number(report, "stored_again"));
    let why = format!(", and would become one; {again} in them is needed and stored again");
    line("  old heads", count(&report["folded"]), &why)?;
    line("  stay", count(&report["stays"]), "")?;
    let (files, bytes) = count(&report["partly"]);
    if files > 0 {
        line("    of these partly", (files, bytes), " in them is not needed")?;
    }
    show_waiting(&report["waiting"])?;
    let unlisted = count(&report["unlisted"]);
    if unlisted.0 > 0 {
        line("  in no ledger", unlisted, ", and stay")?;
    }
    for doubt in texts(&report["doubts"]) {
        say!("nothing may be given back now: {doubt}")?;
    }
    for (name, time) in devices(&report["awaited"]) {
        let time = time.unwrap_or_default();
        say!(
            "before anything is removed, {name} has to know of it; its newest state is of {time}"
        )?;
    }
    say!("before anything is removed, this device runs on {WAIT_STEPS} days")?;
    say!("nothing was changed")
}
