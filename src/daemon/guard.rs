//! A second process that clears the mountpoint if the daemon is killed.
//!
//! SIGKILL alone leaves a mountpoint where every call fails ("transport
//! endpoint is not connected"). Worse, a thread of the daemon that waits for
//! pages of its own mount cannot end: it keeps the connection to the kernel
//! open, and whoever enters the mountpoint waits for ever. The guard has
//! nothing of that connection, and no secret: it is the same program, started
//! anew. The kernel signals it when the daemon's main thread has ended, which
//! that of a killed daemon does at once (prctl(2), `PR_SET_PDEATHSIG`).
//!
//! Invariant: it touches nothing but the mount whose device it was told, and
//! not while the daemon lives.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

/// The argument that makes the program a guard; not for people.
const ARGUMENT: &str = "--guard-of";
/// How long a main thread that has sent its signal may take to be gone.
const GONE_TRIES: u32 = 50;
const GONE_PAUSE: Duration = Duration::from_millis(20);

/// Starts the guard of this process for a mount. To be called by the main
/// thread: it is that one whose end is told. The program's `main` must begin
/// with [`guard_if_asked`].
pub(super) fn start(mountpoint: &Path, device: u64) -> io::Result<()> {
    let daemon = rustix::process::getpid();
    Command::new("/proc/self/exe")
        .arg0("amberfs")
        .arg(ARGUMENT)
        .arg(daemon.to_string())
        .arg(device.to_string())
        .arg(mountpoint)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        // It outlives this process; init reaps it.
        .map(drop)
}

/// If the arguments say so, this process is a guard: does not return before
/// the daemon has ended, and tells whether it was one.
pub fn guard_if_asked() -> bool {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != ARGUMENT) {
        return false;
    }
    let mut number = || arguments.next()?.into_string().ok()?.parse::<u64>().ok();
    let numbers = (number(), number());
    if let ((Some(daemon), Some(device)), Some(mountpoint)) = (numbers, arguments.next()) {
        guard(daemon, device, Path::new(&mountpoint));
    }
    true
}

fn guard(daemon: u64, device: u64, mountpoint: &Path) {
    // A service manager signals all processes of a unit: those signals are the
    // daemon's.
    let Ok(mut signals) = Signals::new([SIGUSR1, SIGTERM, SIGINT, SIGHUP]) else { return };
    if set_parent_process_death_signal(Some(Signal::USR1)).is_err() {
        return;
    }
    let _ = rustix::thread::set_name(c"amberfs-guard");
    // The daemon may have ended before its end would be told.
    std::thread::sleep(GONE_PAUSE);
    if !has_ended(daemon) {
        for signal in signals.forever() {
            if signal == SIGUSR1 && soon(|| has_ended(daemon)) {
                break;
            }
        }
    }
    crate::fuse::clear_orphan(mountpoint, device);
}

fn soon(condition: impl Fn() -> bool) -> bool {
    (0..GONE_TRIES).any(|_| {
        condition() || {
            std::thread::sleep(GONE_PAUSE);
            false
        }
    })
}

/// Whether the main thread of the daemon, our parent, has ended. Other threads
/// may still hold the process.
fn has_ended(daemon: u64) -> bool {
    let parent = getppid().map(Pid::as_raw_nonzero);
    if parent.is_none_or(|parent| parent.get() as u64 != daemon) {
        return true;
    }
    // Our parent is there, if only its rest. What cannot be read is no reason to
    // end a mount that may live.
    let stat = std::fs::read(format!("/proc/{daemon}/stat")).unwrap_or_default();
    // The name before the state is in parentheses and may hold any.
    let name_end = stat.iter().rposition(|byte| *byte == b')');
    let state = name_end.and_then(|end| stat.get(end + 2));
    matches!(state, Some(b'Z' | b'X'))
}
