//! Limits that the system sets this process: the size of a file, and how many are
//! open.
//!
//! Invariant: programs that this one starts have the limits that it was started
//! with, and signals as they were.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many descriptors this process was started with.
static FIRST: OnceLock<Rlimit> = OnceLock::new();

/// Prepares the process, at its start. A write beyond the limit of file sizes
/// (`ulimit -f`) then is an error, EFBIG, that names its file; the signal SIGXFSZ
/// would end the process without a word. As many descriptors may be open as the
/// system lets this process have, and not only as many as a program that waits with
/// select(2) can take.
pub fn widen_limits() -> io::Result<()> {
    // A handler and not SIG_IGN: exec(2) takes a handler away.
    signal_hook::flag::register(libc::SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let limit = getrlimit(Resource::Nofile);
    if FIRST.set(limit).is_ok() {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(())
}

/// Lets a program start with the descriptors that this process was started with.
pub fn with_first_limits(command: &mut Command) -> &mut Command {
    let Some(first) = FIRST.get() else { return command };
    let limit = *first;
    #[expect(unsafe_code, reason = "pre_exec has no safe form; see SAFETY")]
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(move || Ok(setrlimit(Resource::Nofile, limit)?))
    }
}
