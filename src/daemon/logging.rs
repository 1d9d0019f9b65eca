//! Where log lines go.
//!
//! Invariant: other crates' lines below warnings are dropped: they may hold
//! names. Our own hold inode numbers and object ids only. One record is one line, and nothing
//! in it steers whoever reads it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::log_file::open_log_file;
use crate::io::{Clock as _, SystemClock, output, shown};

/// Where the system log listens.
const SYSLOG: &str = "/dev/log";
/// Facility "daemon" of syslog(3).
const FACILITY: u8 = 3 << 3;

/// Where log lines go.
pub enum Destination {
    /// Standard error: in the foreground.
    Stderr,
    /// A file, appended to; readable for its owner only.
    File(File),
    /// The system log; silent where there is none.
    System(Option<UnixDatagram>),
}

impl Destination {
    /// A log file, by its absolute path.
    pub fn file(path: &Path) -> io::Result<Self> {
        open_log_file(path).map(Self::File)
    }

    /// Logs to the system log.
    pub(crate) fn system() -> Self {
        let socket = UnixDatagram::unbound().ok().filter(|socket| socket.connect(SYSLOG).is_ok());
        Self::System(socket)
    }
}

struct Logger {
    level: LevelFilter,
    destination: Mutex<Destination>,
}

/// Starts logging at `level`; later calls change nothing.
pub fn start_logging(level: LevelFilter, destination: Destination) {
    let logger = Logger { level, destination: Mutex::new(destination) };
    // A logger lives as long as the process.
    if log::set_logger(Box::leak(Box::new(logger))).is_ok() {
        log::set_max_level(level.max(LevelFilter::Warn));
    }
}

fn is_wanted(target: &str, level: Level, limit: LevelFilter) -> bool {
    let ours = target == "amberfs" || target.starts_with("amberfs::");
    level <= if ours { limit } else { limit.min(LevelFilter::Warn) }
}

fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_wanted(metadata.target(), metadata.level(), self.level)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut destination = self.destination.lock().unwrap_or_else(PoisonError::into_inner);
        let level = record.level();
        let text = record.args().to_string();
        let text = shown(&text);
        // A log that fails has nobody to tell.
        let _ = match &mut *destination {
            Destination::Stderr => {
                output::note(format_args!("amberfs: {text}"));
                Ok(())
            }
            Destination::File(file) => {
                writeln!(file, "{} {level} {text}", SystemClock.now().secs)
            }
            Destination::System(Some(socket)) => {
                let priority = FACILITY | severity(level);
                let pid = std::process::id();
                socket.send(format!("<{priority}>amberfs[{pid}]: {text}").as_bytes()).map(drop)
            }
            Destination::System(None) => Ok(()),
        };
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name with a line end made a line of its own in the log.
    #[test]
    fn a_record_is_one_line_that_steers_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let destination = Destination::file(&path).unwrap();
        let logger = Logger { level: LevelFilter::Info, destination: Mutex::new(destination) };
        let text = "a\n1 ERROR b\u{1b}[2J\u{9b}31m\u{202e}c\u{2028}d\re";
        logger.log(
            &Record::builder()
                .target("amberfs::x")
                .level(Level::Warn)
                .args(format_args!("{text}"))
                .build(),
        );
        let log = std::fs::read_to_string(&path).unwrap();
        assert!(log.ends_with(" WARN a?1 ERROR b?[2J?31m?c?d?e\n"), "{log:?}");
        assert_eq!(log.lines().count(), 1);
    }

    #[test]
    fn other_crates_are_quiet_below_warnings() {
        assert!(is_wanted("amberfs::fuse", Level::Debug, LevelFilter::Debug));
        assert!(!is_wanted("amberfs::fuse", Level::Debug, LevelFilter::Info));
        assert!(!is_wanted("fuser::request", Level::Info, LevelFilter::Trace));
        assert!(is_wanted("fuser::request", Level::Warn, LevelFilter::Trace));
        assert!(!is_wanted("amberfs_other", Level::Info, LevelFilter::Trace));
        assert!(!is_wanted("fuser", Level::Warn, LevelFilter::Off));
    }
}
