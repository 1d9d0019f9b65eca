//! How the program guards what it holds: no core dumps, no secrets in messages,
//! no files that others can read or change.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use amberfs::io::output::{self, json_line};
use amberfs::io::{
    Clock, SecretFrom, SystemClock, open_secret, read_secret, read_secret_from_stdin,
};
use amberfs::vault::config::CONFIG;
use zeroize::Zeroizing;

use super::{Exit, Failure};

/// To standard error, a line each.
pub struct Stderr {
    json: AtomicBool,
}

impl Stderr {
    /// From now on lines are JSON objects.
    pub fn use_json(&self, json: bool) {
        self.json.store(json, Ordering::Relaxed);
    }
}

impl log::Log for Stderr {
    fn enabled(&self, data: &log::Metadata<'_>) -> bool {
        let ours = data.target().starts_with("amberfs");
        data.level() <= if ours { log::Level::Info } else { log::Level::Warn }
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (level, text) = (record.level(), record.args());
        let line = if self.json.load(Ordering::Relaxed) {
            let now = SystemClock.now();
            let time = now.secs * 1000 + i64::from(now.nanos) / 1_000_000;
            let level = level.as_str().to_ascii_lowercase();
            let text = text.to_string();
            json_line(&serde_json::json!({"time_ms": time, "level": level, "message": text}))
        } else {
            format!("{level}: {text}")
        };
        output::note(format_args!("{line}"));
    }

    fn flush(&self) {}
}

pub static LOGGER: Stderr = Stderr { json: AtomicBool::new(false) };

/// No core dumps, and no panic message: both could hold secrets.
pub fn harden() -> Result<(), Failure> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none)
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable))
        .map_err(|error| Failure::other(format!("core dumps could not be turned off: {error}")))?;
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, ToString::to_string);
        output::note(format_args!("ERROR: a request failed at {place}; please report it"));
    }));
    Ok(())
}

/// Who can write to the folder can put another ledger or other keys there.
pub fn check_owner(dir: &Path) -> Result<(), Failure> {
    let Ok(data) = std::fs::metadata(dir) else { return Ok(()) };
    let owner = rustix::process::geteuid().as_raw();
    let bad = |what: &str| Err(Failure::other(format!("{} {what}", dir.display())));
    if ![owner, 0].contains(&data.uid()) {
        return bad("belongs to somebody else");
    }
    if data.mode() & 0o022 != 0 {
        return bad("can be written by others: chmod go-w it, and look at what is in it");
    }
    Ok(())
}

/// Secret files must be ours (or root's) and closed to everybody else; nobody
/// else may say where the keys are.
pub fn check_private(dir: &Path) -> Result<(), Failure> {
    check_owner(dir)?;
    check_owner(&dir.join(CONFIG))?;
    ["keys", "root.key"].iter().try_for_each(|name| check_secret(&dir.join(name)))
}

/// A secret from a file, or from standard input (`-`); on a terminal it is asked for.
pub fn read_secret_file(path: &Path, question: &str) -> Result<Zeroizing<String>, Failure> {
    let text = if path == Path::new("-") {
        read_secret_from_stdin(question)
    } else {
        open_secret(path, SecretFrom::User).and_then(read_secret)
    };
    text.map_err(|error| Failure { code: Exit::Usage, text: format!("{} {error}", path.display()) })
}

/// A secret file, if it is there, must be closed to others.
pub fn check_secret(path: &Path) -> Result<(), Failure> {
    let Ok(data) = std::fs::symlink_metadata(path) else { return Ok(()) };
    let owner = rustix::process::geteuid().as_raw();
    if !data.is_file() || data.mode() & 0o077 != 0 || ![owner, 0].contains(&data.uid()) {
        return Err(Failure::other(format!(
            "{} can be read by others: chmod 600 it, and think about who did",
            path.display()
        )));
    }
    Ok(())
}
