//! `mount.amberfs`: lets mount(8), fstab and systemd mount an amberfs
//! repository. It turns their options into arguments of `amberfs mount` and
//! becomes that program.
//!
//! It may run as root. So: no shell, an environment made from nothing,
//! programs by fixed paths only, and with `setuid=USER` nothing of root is
//! left before `amberfs` starts.

mod options;
mod user;

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use options::{Call, parse};
use user::User;

/// mount(8)'s exit codes: wrong use, and a mount that failed.
const WRONG_USE: u8 = 1;
const FAILED: u8 = 32;

/// What programs started from here find by name.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The only variables that are passed on: systemd's socket and credentials,
/// and the language of messages.
const PASSED_ON: [&str; 5] =
    ["NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "LANG", "LC_ALL", "LC_MESSAGES"];

fn main() -> ExitCode {
    let call = match parse(std::env::args_os().skip(1).collect()) {
        Ok(call) => call,
        Err(text) => {
            eprintln!("mount.amberfs: {text}");
            eprintln!("usage: mount.amberfs REPO MOUNTPOINT [-fnrsvw] [-o OPTIONS]");
            return ExitCode::from(WRONG_USE);
        }
    };
    if call.fake {
        return ExitCode::SUCCESS;
    }
    let error = become_amberfs(&call);
    eprintln!("mount.amberfs: {error}");
    ExitCode::from(FAILED)
}

/// Does not return unless it fails.
fn become_amberfs(call: &Call) -> String {
    let program = match find_amberfs() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut command = Command::new(&program);
    command.args(&call.arguments).env_clear().env("PATH", SEARCH_PATH);
    for name in PASSED_ON {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let user = match &call.setuid {
        Some(name) => User::named(name),
        None => User::current(),
    };
    let user = match user {
        Ok(user) => user,
        Err(error) => return error,
    };
    if call.setuid.is_some()
        && let Err(error) = user.become_entirely()
    {
        return format!("user {} could not be become: {error}", user.name);
    }
    command.env("HOME", &user.home).env("USER", &user.name).env("LOGNAME", &user.name);
    let runtime = format!("/run/user/{}", user.uid);
    if std::fs::metadata(&runtime).is_ok_and(|folder| folder.uid() == user.uid) {
        command.env("XDG_RUNTIME_DIR", runtime);
    }
    if let Err(error) = std::env::set_current_dir("/") {
        return format!("/ cannot be entered: {error}");
    }
    let error = command.exec();
    format!("{} could not be started: {error}", program.display())
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

/// Absolute, as far as that can be known here.
fn absolute(path: &OsString) -> OsString {
    std::path::absolute(path).map_or_else(|_| path.clone(), PathBuf::into_os_string)
}
