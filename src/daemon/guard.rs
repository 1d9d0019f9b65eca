//! A second process that ends the mount's connection if the daemon is killed.
//!
//! A thread of a killed daemon that waits for pages of its own mount cannot end:
//! it keeps the connection to the kernel open, and whoever enters the mountpoint
//! waits for ever. The guard has nothing of that connection, and no secret: it is
//! the same program, started anew. The kernel signals it when the daemon's main
//! thread has ended, which that of a killed daemon does at once (prctl(2),
//! `PR_SET_PDEATHSIG`). A daemon that ends by itself says so before, through a
//! pipe, and its guard ends too.
//!
//! Invariant: it acts only where the daemon has ended and did not say so, and then
//! on nothing but the very mount it was told ([`MountId`]). It never unmounts: in a
//! dead mount every call fails, and without it programs would write plain files
//! into the folder below.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use crate::control::{GUARD_ARGUMENT, MountId};
use crate::fuse::end_connection;

/// How long a main thread that has sent its signal may take to be gone.
const GONE_TRIES: u32 = 50;
const GONE_PAUSE: Duration = Duration::from_millis(20);

/// The daemon's side of its guard.
pub(super) struct Guard {
    /// Nobody else has this end: a byte says that the daemon ends by itself.
    words: File,
}

impl Guard {
    /// Starts the guard of this process for a mount. To be called by the main
    /// thread: it is that one whose end is told. The program's `main` must begin
    /// with [`guard_if_asked`].
    pub(super) fn start(mount: &MountId) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        Command::new("/proc/self/exe")
            .arg0("amberfs")
            .arg(GUARD_ARGUMENT)
            .arg(rustix::process::getpid().to_string())
            .arg(mount.to_string())
            .current_dir("/")
            .stdin(Stdio::from(read))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // It may outlive this process; init reaps it then.
            .spawn()?;
        Ok(Self { words: write.into() })
    }

    /// Tells the guard that the daemon has done all it has to do, and may end.
    pub(super) fn dismiss(mut self) {
        if let Err(error) = self.words.write_all(b"\n") {
            log::debug!("the guard has ended before: {error}");
        }
    }
}

/// If the arguments say so, this process is a guard: does not return before
/// the daemon has ended, and tells whether it was one.
pub fn guard_if_asked() -> bool {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != GUARD_ARGUMENT) {
        return false;
    }
    let mut next = || arguments.next()?.into_string().ok();
    let daemon = next().and_then(|number| number.parse::<u64>().ok());
    let mount = next().and_then(|id| id.parse::<MountId>().ok());
    if let (Some(daemon), Some(mount)) = (daemon, mount)
        // Where the signals cannot be heard, nothing can be known.
        && wait(daemon).unwrap_or(End::Clean) == End::Died
    {
        // There is nobody to tell.
        let _ = end_connection(&mount);
    }
    true
}

/// How the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By itself: it said so.
    Clean,
    /// The daemon ended without a word to its guard.
    Died,
}

/// Waits for the daemon's end.
fn wait(daemon: u64) -> io::Result<End> {
    // A service manager signals all processes of a unit: those signals are the
    // daemon's.
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    let (mut ended, raised) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGUSR1, raised)?;
    set_parent_process_death_signal(Some(Signal::USR1))?;
    let _ = rustix::thread::set_name(c"amberfs-guard");
    let mut words = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    // The daemon may have ended before its end would be told.
    std::thread::sleep(GONE_PAUSE);
    let mut looked = has_ended(daemon);
    loop {
        if let Some(end) = word(&mut words)? {
            return Ok(end);
        }
        if looked {
            // What it said before it ended was there to be read.
            return Ok(End::Died);
        }
        let mut awaited = [&words as &dyn std::os::fd::AsFd, &ended]
            .map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN));
        match poll(&mut awaited, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !awaited[1].revents().is_empty() {
            let _ = ended.read(&mut [0; 16])?;
            looked = soon(|| has_ended(daemon));
        }
    }
}

/// What the daemon said, if it said anything or can say nothing any more.
fn word(words: &mut File) -> io::Result<Option<End>> {
    let mut awaited = [PollFd::new(&*words, PollFlags::IN)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    if rustix::io::retry_on_intr(|| poll(&mut awaited, Some(&now)))? == 0 {
        return Ok(None);
    }
    Ok(Some(if words.read(&mut [0])? == 0 { End::Died } else { End::Clean }))
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
