//! Where the sockets of this user's daemons are.
//!
//! A daemon is registered by its socket: whoever answers is alive, and a
//! socket that nobody answers is removed. Invariant: the folder belongs to
//! this user and is closed to others; a name stands for one socket, which
//! listened before it had it, and is never used again.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::client::{Client, ControlError};
use super::message::Described;
use crate::crypto::{hex, random_id};
use crate::io::SystemRandom;

const SUFFIX: &str = "sock";
/// The lowest bits of a mode; all zero where nobody else is let in.
const GROUP_AND_OTHER_BITS: u32 = 6;

/// The folders that may hold sockets.
#[derive(Clone, Debug)]
pub struct Registry {
    folders: Vec<PathBuf>,
}

/// A daemon that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its socket.
    pub socket: PathBuf,
    /// What it says of itself.
    pub described: Described,
}

impl Registry {
    /// `$XDG_RUNTIME_DIR/amberfs`, else the user's usual runtime folder, else
    /// `run` under `state`. All are looked into, the first usable one is where
    /// new sockets go: a mount made at boot has no `XDG_RUNTIME_DIR`.
    pub fn new(runtime: Option<&Path>, state: &Path) -> Self {
        let usual = if rustix::process::geteuid().is_root() {
            PathBuf::from("/run")
        } else {
            PathBuf::from(format!("/run/user/{}", rustix::process::geteuid().as_raw()))
        };
        let mut folders: Vec<PathBuf> = runtime
            .filter(|path| path.is_absolute())
            .into_iter()
            .chain([usual.as_path()])
            .map(|folder| folder.join("amberfs"))
            .chain([state.join("run")])
            .collect();
        folders.dedup();
        Self { folders }
    }

    /// A registry in one given folder.
    pub fn at(folder: &Path) -> Self {
        Self { folders: vec![folder.to_path_buf()] }
    }

    /// The folders, as they are looked into.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// The path for a new socket, in a folder that is ours alone.
    pub fn new_socket(&self) -> io::Result<PathBuf> {
        let id = random_id(&SystemRandom);
        let name = format!("{}-{}.{SUFFIX}", std::process::id(), hex(&id[..4]));
        let mut last = io::Error::other("no folder for sockets");
        for (at, folder) in self.folders.iter().enumerate() {
            // The last may have to be made with what is above it. A runtime
            // folder is the system's to make: without it, there is none.
            match make_private(folder, at + 1 == self.folders.len()) {
                Ok(()) => return Ok(folder.join(name)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks all daemons of this user who they are; those that answer.
    pub fn all(&self) -> Vec<Found> {
        self.look().into_iter().flatten().collect()
    }

    /// Asks all daemons of this user who they are; by mountpoint, then those
    /// that live and do not say, by the path of their socket.
    pub fn look(&self) -> Vec<Result<Found, PathBuf>> {
        let mut found = Vec::new();
        for folder in self.folders.iter().filter(|folder| is_private(folder)) {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            for socket in entries.flatten().map(|entry| entry.path()) {
                if socket.extension().is_some_and(|extension| extension == SUFFIX) {
                    found.extend(ask(&socket));
                }
            }
        }
        found.sort_by_key(|daemon| match daemon {
            Ok(found) => (0, found.described.mountpoint.clone()),
            Err(socket) => (1, socket.clone()),
        });
        found
    }

    /// The daemon whose mount `path` is in, or whose repository it is.
    pub fn find(&self, path: &Path) -> Option<Found> {
        let path = resolve(path);
        let mut candidates = self.all();
        candidates.retain(|found| {
            path.starts_with(&found.described.mountpoint) || path == found.described.repo
        });
        candidates.into_iter().max_by_key(|found| found.described.mountpoint.as_os_str().len())
    }
}

/// Absolute and without symlinks where that can be found out: a path inside a
/// dead mount cannot.
fn resolve(path: &Path) -> PathBuf {
    path.canonicalize()
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_path_buf())
}

fn ask(socket: &Path) -> Option<Result<Found, PathBuf>> {
    match Client::connect(socket).and_then(|mut client| client.describe()) {
        Ok(described) => Some(Ok(Found { socket: socket.to_path_buf(), described })),
        Err(ControlError::Gone) => {
            // Left by a daemon that was killed.
            let _ = std::fs::remove_file(socket);
            None
        }
        Err(_) => Some(Err(socket.to_path_buf())),
    }
}

fn make_private(folder: &Path, recursive: bool) -> io::Result<()> {
    match std::fs::DirBuilder::new().recursive(recursive).mode(0o700).create(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    if is_private(folder) {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} is open to others", folder.display()),
        ))
    }
}

fn is_private(folder: &Path) -> bool {
    std::fs::symlink_metadata(folder).is_ok_and(|metadata| {
        metadata.is_dir()
            && metadata.uid() == rustix::process::geteuid().as_raw()
            && metadata.mode().trailing_zeros() >= GROUP_AND_OTHER_BITS
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_folder_open_to_others_is_not_used() {
        let folder = tempfile::tempdir().expect("folder");
        let open = folder.path().join("open");
        std::fs::create_dir(&open).expect("create");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        assert!(Registry::at(&open).new_socket().is_err());
        assert!(Registry::at(&folder.path().join("own")).new_socket().is_ok());
    }

    /// With `--state` elsewhere nothing of the usual place was there yet.
    #[test]
    fn the_folder_below_state_is_made_with_what_is_above_it() {
        let folder = tempfile::tempdir().expect("folder");
        let deep = folder.path().join("local/state/amberfs/run");
        let folders = vec![folder.path().join("none/amberfs"), deep.clone()];
        let path = Registry { folders }.new_socket().expect("path");
        assert_eq!(path.parent(), Some(deep.as_path()));
        assert!(!folder.path().join("none").exists());
        assert!(is_private(&folder.path().join("local")));
    }

    #[test]
    fn a_dead_socket_is_removed() {
        let folder = tempfile::tempdir().expect("folder");
        let registry = Registry::at(&folder.path().join("run"));
        let path = registry.new_socket().expect("path");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
        assert_eq!(registry.all(), []);
        assert!(!path.exists());
    }
}
