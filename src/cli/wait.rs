//! `amberfs wait`: returns when another device has said that it holds what was written here.

use std::time::{Duration, Instant};

use super::args::{Global, WaitArgs};
use super::control::{ask, find, status_of};
use super::{Exit, Failure, Result};
use crate::control::{Request, RunningDaemon};
use crate::crypto::unhex;
use crate::daemon::Call;
use crate::io::output;
use crate::sync::plan::is_called;

/// How often the daemon is asked what it has seen.
const PAUSE: Duration = Duration::from_secs(1);
/// How long after asking other devices they are asked again at the earliest.
const ASK_PAUSE: Duration = Duration::from_secs(30);

/// A device that has said which state of this one it holds.
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
    let number = |status: &serde_json::Value, name: &str| status[name].as_u64().unwrap_or(0);
    // What programs wrote may still be in the kernel's memory.
    ask(&daemon, &Request::Sync)?;
    let mut status = status_of(&daemon)?;
    if status["read_only"].as_bool() == Some(true) {
        return Err(Failure::new(Exit::Usage, "this mount is read-only: it has written nothing")
            .hint("wait at the mount that wrote"));
    }
    let target = number(&status, "news");
    let mut asked: Option<(u64, Instant)> = None;
    loop {
        if let Some(holder) = held(&status, target, args.device.as_deref()) {
            return told(global, &daemon, &holder);
        }
        // What the daemon saw before this command began says nothing.
        let age = status["looked"].as_u64().map(Duration::from_secs);
        let is_seen_since = age.is_some_and(|age| age + PAUSE < begin.elapsed());
        let others = number(&status, "others");
        if is_seen_since && others == 0 {
            return Err(Failure::new(Exit::NotAllHere, "no other device has a state here")
                .hint("mount the repository on another device, and let the sync client finish"));
        }
        if args.timeout.is_some_and(|timeout| begin.elapsed() >= timeout) {
            let seconds = begin.elapsed().as_secs();
            let who = args.device.as_deref().unwrap_or("any other device");
            let text = format!(
                "{who} has not said within {seconds} s that it holds state {target} of this one"
            );
            return Err(Failure::new(Exit::NotAllHere, text).hint(
                "a device says so a minute after the files came, if it is mounted and shows what is new; \
                 else when it is mounted the next time, or at amberfs sync",
            ));
        }
        // A head that came after the one that asks hides it.
        let is_asked = asked.is_some_and(|(generation, when)| {
            number(&status, "generation") == generation || when.elapsed() < ASK_PAUSE
        });
        if others > 0 && !is_asked {
            ask(&daemon, &Request::Call(Call::Ask.encode()))?;
            ask(&daemon, &Request::Sync)?;
            asked = Some((number(&status_of(&daemon)?, "generation"), Instant::now()));
        }
        std::thread::sleep(PAUSE);
        status = status_of(&daemon)?;
    }
}

/// A device that holds the state `target` of this one: the `wanted` one, if that is given.
fn held(status: &serde_json::Value, target: u64, wanted: Option<&str>) -> Option<Holder> {
    let mut holders = status["elsewhere"].as_array()?.iter().map(|holder| {
        let text = |name: &str| holder[name].as_str().unwrap_or_default().to_owned();
        let generation = holder["generation"].as_u64().unwrap_or(0);
        Holder { name: text("name"), id: text("id"), generation }
    });
    holders.find(|holder| {
        let id = unhex::<16>(&holder.id).unwrap_or_default();
        let is_wanted = wanted.is_none_or(|wanted| is_called(wanted, &holder.name, &id));
        is_wanted && holder.generation >= target
    })
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
