//! `mount.amberfs`: lets mount(8), fstab and systemd mount an amberfs
//! repository. It turns their options into arguments of `amberfs mount`, and
//! what becomes of that into their exit codes.
//!
//! It may run as root. So: no shell, an environment made from nothing,
//! programs by fixed paths only, and nothing of root is left before `amberfs`
//! starts: it runs as `setuid=USER`, else as REPO's owner. Only a REPO of
//! root's is mounted by root.

#[path = "../../src/io/exit.rs"]
mod exit;
mod options;
#[path = "../../src/io/shown.rs"]
mod shown;
#[path = "../../src/cli/user.rs"]
mod user;

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Arc;

use exit::Exit;
use options::{Call, parse};
use user::User;

/// mount(8)'s exit codes. 16, for its table of mounts, does not happen here.
const WRONG_USE: u8 = 1;
const SYSTEM: u8 = 2;
const INTERNAL: u8 = 4;
const INTERRUPTED: u8 = 8;
const FAILED: u8 = 32;

/// What programs started from here find by name.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The only variables that are passed on: systemd's socket and credentials,
/// and the language of messages.
const PASSED_ON: [&str; 5] =
    ["NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "LANG", "LC_ALL", "LC_MESSAGES"];

/// Why nothing was mounted: an exit code and what to tell.
type Failure = (u8, String);

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err((code, text)) => {
            // Without a reader there is still the exit code.
            let _ = writeln!(std::io::stderr(), "mount.amberfs: {}", shown::shown(&text));
            ExitCode::from(code)
        }
    }
}

fn run() -> Result<u8, Failure> {
    // What cannot be written because of `ulimit -f` is an error and no death without
    // a word. A handler and not SIG_IGN: amberfs starts without it.
    let _ = signal_hook::flag::register(libc::SIGXFSZ, Arc::default());
    // With borrowed rights, whoever calls would choose whom to become.
    if rustix::process::getuid() != rustix::process::geteuid()
        || rustix::process::getgid() != rustix::process::getegid()
    {
        return Err((WRONG_USE, "must not be installed setuid or setgid".into()));
    }
    let call = parse(std::env::args_os().skip(1).collect()).map_err(|text| {
        let usage = "usage: mount.amberfs REPO MOUNTPOINT [-fnrsvw] [-o OPTIONS]";
        (WRONG_USE, format!("{text}; {usage}"))
    })?;
    if call.remount {
        // The kernel does not tell amberfs of a change; what reads only has no local
        // state to write with.
        let text = format!(
            "{} stays as it is mounted: amberfs cannot remount. Unmount it (amberfs umount {0}), \
             then mount it with the options that it should have, such as ro",
            call.mountpoint.display()
        );
        return Err((FAILED, text));
    }
    if call.fake {
        return Ok(0);
    }
    run_amberfs(&call).map(answer)
}

fn run_amberfs(call: &Call) -> Result<ExitStatus, Failure> {
    let program = find_amberfs().map_err(|text| (SYSTEM, text))?;
    let uid = rustix::process::geteuid();
    let user = match &call.setuid {
        Some(name) => User::named(name).map_err(|text| (WRONG_USE, text))?,
        None if uid.is_root() => owner(&call.repo)?,
        None => User::named(&uid.as_raw().to_string()).map_err(|text| (SYSTEM, text))?,
    };
    if call.setuid.is_some() || user.uid != uid.as_raw() {
        user.become_entirely().map_err(|error| {
            (WRONG_USE, format!("user {} could not be become: {error}", user.name))
        })?;
    }
    let mut command = Command::new(&program);
    command.args(&call.arguments).env_clear().env("PATH", SEARCH_PATH);
    if call.setuid.is_some() {
        // Root too is meant then, whoever owns REPO.
        command.env("AMBERFS_AS", user.uid.to_string());
    }
    for name in PASSED_ON {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("HOME", &user.home).env("USER", &user.name).env("LOGNAME", &user.name);
    let runtime = format!("/run/user/{}", user.uid);
    if std::fs::metadata(&runtime).is_ok_and(|folder| folder.uid() == user.uid) {
        command.env("XDG_RUNTIME_DIR", runtime);
    }
    command
        .current_dir("/")
        .status()
        .map_err(|error| (SYSTEM, format!("{} could not be started: {error}", program.display())))
}

/// Whose REPO it is: a daemon of root's would leave files in it that its owner,
/// and the sync client, cannot read.
fn owner(repo: &Path) -> Result<User, Failure> {
    let data = std::fs::metadata(repo)
        .map_err(|error| (FAILED, format!("{}: {error}", repo.display())))?;
    User::named(&data.uid().to_string()).map_err(|text| {
        let whose = format!("{} belongs to user {}", repo.display(), data.uid());
        (FAILED, format!("{whose}: {text}; give setuid=USER"))
    })
}

/// How mount(8) puts what `amberfs` said by its exit code.
fn answer(status: ExitStatus) -> u8 {
    const SIGINT: i32 = 2;
    const SIGTERM: i32 = 15;
    let exit = status.code().and_then(|code| Exit::from_number(code.try_into().ok()?));
    match (exit, status.signal()) {
        (Some(Exit::Done), _) => 0,
        (Some(Exit::Usage), _) => WRONG_USE,
        (Some(Exit::NoMemory | Exit::NoSpace), _) => SYSTEM,
        (Some(Exit::Interrupted), _) | (None, Some(SIGINT | SIGTERM)) => INTERRUPTED,
        // A panic, or a crash.
        (Some(Exit::Internal), _) => INTERNAL,
        (None, _) if status.code().is_none() => INTERNAL,
        _ => FAILED,
    }
}

/// `amberfs` next to this program, else where it is usually installed; it must
/// be of root or of whoever runs this, and not writable for others.
fn find_amberfs() -> Result<PathBuf, String> {
    let own = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_path_buf));
    let folders = own.into_iter().chain(["/usr/local/bin".into(), "/usr/bin".into()]);
    let uid = rustix::process::geteuid().as_raw();
    folders
        .map(|folder: PathBuf| folder.join("amberfs"))
        .find(|path| {
            std::fs::metadata(path).is_ok_and(|file| {
                file.is_file() && (file.uid() == 0 || file.uid() == uid) && file.mode() & 0o022 == 0
            })
        })
        .ok_or_else(|| "the program amberfs is not installed".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_mount() {
        // wait(2) has the exit code in the second byte, a signal in the first.
        for (amberfs, mount) in [
            (0, 0),
            (2, 1),
            (18, 2),
            (28, 2),
            (101, 4),
            (130, 8),
            (1, 32),
            (11, 32),
            (12, 32),
            (17, 32),
        ] {
            assert_eq!(answer(ExitStatus::from_raw(amberfs << 8)), mount, "{amberfs}");
        }
        for (signal, mount) in [(2, 8), (15, 8), (9, 4), (11, 4)] {
            assert_eq!(answer(ExitStatus::from_raw(signal)), mount, "signal {signal}");
        }
    }
}
