//! `umount`, `sync` and `status`: asking daemons.

use std::path::{Path, PathBuf};

use super::args::{Global, StatusArgs, TargetArgs};
use super::{Code, Failure, Result, place, tell};
use crate::control::{Client, ControlError, Found, Registry, Request, holders, read_mounts};

/// The register of this user's mounts.
pub fn registry() -> Result<Registry> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    Ok(Registry::new(runtime.as_deref(), &place::state_base()?))
}

fn ask(found: &Found, request: &Request) -> Result<Vec<u8>> {
    let mountpoint = &found.described.mountpoint;
    let mut answer = Vec::new();
    let asked = Client::connect(&found.socket).and_then(|mut client| {
        client.ask(request, |piece| {
            answer.extend_from_slice(piece);
            Ok(())
        })
    });
    match asked {
        Ok(()) => Ok(answer),
        Err(ControlError::Busy(_)) => Err(in_use(mountpoint)),
        Err(error) => {
            let code = match &error {
                ControlError::Failed(failure) => Code::from_number(failure.code),
                _ => Code::Other,
            };
            Err(Failure::new(code, format!("{}: {error}", mountpoint.display())))
        }
    }
}

/// Says who uses it, as far as we can see that.
fn in_use(mountpoint: &Path) -> Failure {
    let processes = holders(mountpoint)
        .into_iter()
        .map(|holder| format!("{} (process {})", holder.name, holder.pid));
    let mounts = read_mounts().unwrap_or_default();
    let within = mounts
        .iter()
        .map(|mount| mount.mountpoint.as_path())
        .filter(|path| path.starts_with(mountpoint) && *path != mountpoint)
        .map(|path| format!("what is mounted on {}", path.display()));
    let mut who: Vec<String> = processes.chain(within).collect();
    if who.is_empty() {
        who.push("another user, whose processes only root can see".into());
    }
    Failure::new(Code::InUse, format!("{} is in use by {}", mountpoint.display(), who.join(", ")))
        .hint("everything so far is in the repository; close it there and try again")
}

fn find(path: &Path) -> Result<Found> {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let registry = registry()?;
    registry.find(&real).ok_or_else(|| {
        let text = format!("{} is not mounted by amberfs", path.display());
        let mut failure = Failure::new(Code::Unusable, text);
        failure.hints = registry
            .look()
            .iter()
            .filter_map(|daemon| daemon.as_ref().err().map(|socket| silent(socket)))
            .collect();
        failure
    })
}

fn silent(socket: &Path) -> String {
    format!("a daemon of yours does not answer at {}, named after its process", socket.display())
}

/// What a command is about: one mount, or all of this user.
fn targets(path: Option<&Path>) -> Result<Vec<Result<Found>>> {
    Ok(match path {
        Some(path) => vec![Ok(find(path)?)],
        None => registry()?
            .look()
            .into_iter()
            .map(|daemon| daemon.map_err(|socket| Failure::new(Code::Other, silent(&socket))))
            .collect(),
    })
}

/// Does something with each, whatever becomes of the others. The first failure
/// is the command's own; the others are told here.
fn each(all: Vec<Result<Found>>, mut one: impl FnMut(&Found) -> Result<()>) -> Result<u8> {
    let mut first = None;
    for failure in all.into_iter().filter_map(|found| found.and_then(|found| one(&found)).err()) {
        match first {
            None => first = Some(failure),
            Some(_) => tell(&failure),
        }
    }
    first.map_or(Ok(0), Err)
}

/// `umount`.
pub fn umount(global: &Global, args: &TargetArgs) -> Result<u8> {
    each(targets(args.mountpoint.as_deref())?, |found| {
        ask(found, &Request::Unmount)?;
        if !global.quiet && args.all {
            eprintln!("unmounted {}", found.described.mountpoint.display());
        }
        Ok(())
    })
}

/// `sync`.
pub fn sync(_: &Global, args: &TargetArgs) -> Result<u8> {
    each(targets(args.mountpoint.as_deref())?, |found| ask(found, &Request::Sync).map(drop))
}

/// `status`.
pub fn status(global: &Global, args: &StatusArgs) -> Result<u8> {
    let mounts = targets(args.path.as_deref())?;
    if mounts.is_empty() && !global.json {
        println!("nothing is mounted");
    }
    each(mounts, |found| {
        let answer = ask(found, &Request::Status)?;
        let mut value: serde_json::Value = serde_json::from_slice(&answer)
            .map_err(|_| Failure::new(Code::Other, "the daemon's answer is not understood"))?;
        value["message_type"] = "status".into();
        value["mountpoint"] = found.described.mountpoint.display().to_string().into();
        value["repo"] = found.described.repo.display().to_string().into();
        if global.json {
            println!("{value}");
        } else {
            show(&value);
        }
        Ok(())
    })
}

fn show(value: &serde_json::Value) {
    let number = |name: &str| value[name].as_u64().unwrap_or(0);
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_string();
    println!("{} on {}", text("repo"), text("mountpoint"));
    println!(
        "  on this disk   {} files and folders, {}; {} and {} changes wait for the next checkpoint",
        number("inodes"),
        bytes(number("bytes")),
        bytes(number("waiting_bytes")),
        number("waiting_changes"),
    );
    println!("  in REPO        {}", in_repo(value));
    match value["elsewhere"].as_array().map(Vec::as_slice) {
        Some([]) | None => println!("  elsewhere      {}", nowhere(number("others"))),
        Some(devices) => {
            for device in devices {
                println!(
                    "  elsewhere      {} holds up to generation {}",
                    device["name"].as_str().unwrap_or_default(),
                    device["generation"].as_u64().unwrap_or(0),
                );
            }
        }
    }
    let failed = value["failed"].as_bool() == Some(true);
    match value["trouble"].as_str() {
        Some(why) if failed => println!("  trouble        {why}: read-only until mounted anew"),
        Some(why) => println!("  trouble        the last checkpoint failed: {why}"),
        None if failed => {
            println!("  trouble        local state failed: read-only until mounted anew");
        }
        None => (),
    }
}

/// What of this device is in REPO, and else who wrote last.
fn in_repo(value: &serde_json::Value) -> String {
    let newest = &value["newest"];
    let at = |time: &serde_json::Value| local_time(time.as_i64().unwrap_or_default());
    if value["time"].is_i64() {
        let generation = value["generation"].as_u64().unwrap_or(0);
        format!("generation {generation}, made at {}", at(&value["time"]))
    } else if newest.is_object() {
        let name = newest["name"].as_str().unwrap_or_default();
        format!("nothing of this device yet; {name} wrote last, at {}", at(&newest["time"]))
    } else {
        "nothing yet".into()
    }
}

/// Why no other device is known to have anything of this one.
fn nowhere(others: u64) -> String {
    match others {
        0 => "no other device has written here: only the sync client can tell what it uploaded"
            .into(),
        1 => "the other device has not shown yet that it has anything of this one".into(),
        _ => {
            format!("none of {others} other devices has shown yet that it has anything of this one")
        }
    }
}

/// Seconds since 1970 as people read them, in the zone of this machine.
pub fn local_time(secs: i64) -> String {
    jiff::Timestamp::from_second(secs).map_or_else(
        |_| format!("{secs} s"),
        |time| {
            time.to_zoned_datetime(jiff::tz::TimeZone::system())
                .strftime("%Y-%m-%d %H:%M:%S")
                .to_string()
        },
    )
}

/// A size as people read it.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}
