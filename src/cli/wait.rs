//! `amberfs wait`: returns when something has been seen to hold.

use std::time::{Duration, Instant};

use super::args::{Global, WaitArgs};
use super::control::{ask, find, status_of};
use super::{Exit, Failure, Result};
use crate::control::{Request, RunningDaemon};
use crate::daemon::ASK;
use crate::io::output;
use crate::sync::plan::is_called;

/// How often the daemon is asked what it has seen.
const PAUSE: Duration = Duration::from_secs(1);

/// A device that has said that it holds all that was to be held.
struct Holder {
    name: String,
    id: String,
    generation: u64,
}

/// Runs `amberfs wait --elsewhere`: returns when another device has said that it holds everything
/// that was written here before.
pub fn run(global: &Global, args: &WaitArgs) -> Result<Exit> {
    let daemon = find(global, &args.mountpoint)?;
    let begin = Instant::now();
    let mut target = None;
    loop {
        let status = status_of(&daemon)?;
        let holder = held(&status, target, args.device.as_deref());
        if let Some(holder) = holder {
            return told(global, &daemon, &holder);
        }
        // What the daemon saw before this command began says nothing.
        let age = status["looked"].as_u64().map(Duration::from_secs);
        let is_seen_since = age.is_some_and(|age| age + PAUSE < begin.elapsed());
        if is_seen_since && status["others"].as_u64() == Some(0) {
            return Err(Failure::new(Exit::NotAllHere, "no other device has a state here")
                .hint("mount the repository on another device, and let the sync client finish"));
        }
        if target.is_none() && status["others"].as_u64() != Some(0) {
            ask(&daemon, &Request::Call(ASK.to_vec()))?;
            ask(&daemon, &Request::Sync)?;
            target = status_of(&daemon)?["news"].as_u64();
            continue;
        }
        if args.timeout.is_some_and(|timeout| begin.elapsed() >= timeout) {
            let seconds = begin.elapsed().as_secs();
            let who = args.device.as_deref().unwrap_or("any other device");
            let text = format!(
                "{who} has not said within {seconds} s that it holds state {} of this one",
                target.unwrap_or(0)
            );
            return Err(Failure::new(Exit::NotAllHere, text).hint(
                "a device says so soon after the files came if it is mounted with -o follow, else \
                 when it is mounted the next time, or at amberfs sync",
            ));
        }
        std::thread::sleep(PAUSE);
    }
}

/// The device that holds everything, or this state of it.
fn held(status: &serde_json::Value, target: Option<u64>, wanted: Option<&str>) -> Option<Holder> {
    let holders = status["elsewhere"].as_array()?.iter().map(|holder| {
        let text = |name: &str| holder[name].as_str().unwrap_or_default().to_owned();
        let generation = holder["generation"].as_u64().unwrap_or(0);
        let has_all = match target {
            Some(target) => generation >= target,
            None => holder["all"].as_bool() == Some(true),
        };
        (Holder { name: text("name"), id: text("id"), generation }, has_all)
    });
    let is_wanted = |holder: &Holder| {
        let id = crate::crypto::unhex::<16>(&holder.id).unwrap_or_default();
        wanted.is_none_or(|wanted| is_called(wanted, &holder.name, &id))
    };
    let mut found = holders.filter(|(holder, has_all)| *has_all && is_wanted(holder));
    found.next().map(|(holder, _)| holder)
}

fn told(global: &Global, daemon: &RunningDaemon, holder: &Holder) -> Result<Exit> {
    let Holder { name, id, generation } = holder;
    if global.json {
        output::object(&serde_json::json!({
            "message_type": "elsewhere",
            "mountpoint": daemon.described.mountpoint.display().to_string(),
            "name": name,
            "id": id,
            "generation": generation,
        }))?;
    } else if !global.quiet {
        let id = id.get(..8).unwrap_or_default();
        say!("{name} ({id}) has said that it holds state {generation} of this device")?;
    }
    Ok(Exit::Done)
}
