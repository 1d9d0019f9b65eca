//! As whom a command writes into REPO.
//!
//! Files of root's in a user's REPO are closed to that user's later mounts, and may be to
//! the sync client. So root becomes REPO's owner for good, by running this program anew,
//! before anything is read or asked: with that user's rights, groups, home folder and
//! local state. Invariant: what runs after `act` in a process of root's was meant to.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::args::Global;
use super::user::User;
use super::{Exit, Failure, Result};

/// Variables that name folders of whoever ran this.
const ANOTHERS: [&str; 6] = [
    "XDG_STATE_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "MAIL",
];

/// Makes sure that this process acts as the owner of `repo`, or as `--as` says. Does not
/// return where it has to become somebody else.
pub fn act(global: &Global, repo: &Path) -> Result<()> {
    let own = rustix::process::geteuid();
    let user = match &global.as_user {
        Some(name) => {
            let user = known(name)
                .map_err(|text| Failure::new(Exit::Usage, format!("--as {name}: {text}")))?;
            if user.uid != own.as_raw() && !own.is_root() {
                return Err(Failure::new(Exit::Usage, "only root can act as another user"));
            }
            user
        }
        None if own.is_root() => match owner(repo) {
            // Whoever opens it says what is wrong with it.
            None | Some((0, _)) => return Ok(()),
            Some((uid, gid)) => known(&uid.to_string()).unwrap_or_else(|_| nameless(uid, gid)),
        },
        None => return Ok(()),
    };
    if user.uid == own.as_raw() {
        return Ok(());
    }
    if !global.quiet {
        let name = &user.name;
        let why = if global.as_user.is_some() { "" } else { ", whose repository it is" };
        note!("amberfs: acting as user {name}{why}, with {name}'s rights and local state");
    }
    let error = run_as(&user);
    Err(Failure::new(Exit::Other, format!("user {} could not be become: {error}", user.name))
        .hint("--as root goes on as root; its files in the repository will be root's"))
}

/// The user and group of a folder; of one that is not there, those of the first above it
/// that is.
fn owner(repo: &Path) -> Option<(u32, u32)> {
    let path = std::path::absolute(repo).ok()?;
    for folder in path.ancestors() {
        match fs::metadata(folder) {
            Ok(data) => return Some((data.uid(), data.gid())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => return None,
        }
    }
    None
}

/// The user of this name or number.
fn known(name: &str) -> std::result::Result<User, String> {
    // Of the system's own there is no question, even where it has no list of users.
    if name == "root" || name == "0" { Ok(root()) } else { User::named(name) }
}

fn root() -> User {
    User { name: "root".into(), uid: 0, gid: 0, groups: vec![0], home: "/root".into() }
}

/// An owner that this system has no entry for, as in a container.
fn nameless(uid: u32, gid: u32) -> User {
    User { name: uid.to_string(), uid, gid, groups: vec![gid], home: String::new() }
}

/// Runs this program anew as `user`; returns only why that failed.
fn run_as(user: &User) -> std::io::Error {
    if let Err(error) = user.become_entirely() {
        return error;
    }
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(arguments.next().unwrap_or_else(|| "amberfs".into())).args(arguments);
    for name in ANOTHERS {
        command.env_remove(name);
    }
    if user.home.is_empty() {
        command.env_remove("HOME");
    } else {
        command.env("HOME", &user.home);
    }
    command.env("USER", &user.name).env("LOGNAME", &user.name);
    let runtime = PathBuf::from(format!("/run/user/{}", user.uid));
    if fs::metadata(&runtime).is_ok_and(|folder| folder.uid() == user.uid) {
        command.env("XDG_RUNTIME_DIR", runtime);
    }
    command.exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_belongs_to_whoever_has_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        let data = fs::metadata(folder.path()).unwrap();
        let expected = Some((data.uid(), data.gid()));
        assert_eq!(owner(folder.path()), expected);
        assert_eq!(owner(&folder.path().join("none/of/these")), expected);
        fs::write(folder.path().join("file"), "").unwrap();
        assert_eq!(owner(&folder.path().join("file/below")), None);
    }
}
