//! Where the sockets of this user's daemons are.
//!
//! A daemon is registered by its sockets: whoever answers is alive, and a
//! socket that nobody answers is removed. It has one in the runtime folder and one
//! in the folder of local state: the first is emptied at the last logout, and commands
//! run with other variables than the mount. Invariant: each folder belongs to
//! the daemon's user and is closed to others; a name stands for one daemon, which
//! listened before it had it, and is never used again.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::client::{Client, ControlError};
use super::message::Described;
use super::socket;
use crate::crypto::{hex, random_id};
use crate::io::SystemRandom;

const SUFFIX: &str = "sock";
/// The folder for sockets in a folder of local state.
const RUN: &str = "run";
/// The lowest bits of a mode; all zero where nobody else is let in.
const GROUP_AND_OTHER_BITS: u32 = 6;

/// The folders that may hold sockets of one user's daemons.
#[derive(Clone, Debug)]
pub struct Registry {
    /// The first usable one takes a socket. They are the system's to make.
    runtime: Vec<PathBuf>,
    /// Each takes a socket, and is made with what is above it.
    kept: Vec<PathBuf>,
    owner: u32,
}

/// A daemon that answered over its socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningDaemon {
    /// The path of the socket that the daemon listens on.
    pub socket: PathBuf,
    /// The user id that the daemon runs as.
    pub owner: u32,
    /// The mountpoint, repository and process that the daemon names as its own.
    pub described: Described,
}

impl Registry {
    /// For this user: `$XDG_RUNTIME_DIR/amberfs`, the user's usual runtime folder (a
    /// mount made at boot has no `XDG_RUNTIME_DIR`), and `run` in each of `states`.
    pub(crate) fn new(runtime: Option<&Path>, states: &[PathBuf]) -> Self {
        Self::of(rustix::process::geteuid().as_raw(), runtime, states)
    }

    /// The registry of the user with the id `owner`, otherwise as [`Registry::new`].
    pub(crate) fn of(owner: u32, runtime: Option<&Path>, states: &[PathBuf]) -> Self {
        let usual = match owner {
            0 => PathBuf::from("/run"),
            _ => PathBuf::from(format!("/run/user/{owner}")),
        };
        let mut folders: Vec<PathBuf> = runtime
            .filter(|path| path.is_absolute())
            .into_iter()
            .chain([usual.as_path()])
            .map(|folder| folder.join("amberfs"))
            .collect();
        folders.dedup();
        let kept = states.iter().map(|state| state.join(RUN)).collect();
        Self { runtime: folders, kept, owner }
    }

    /// A registry in one given folder.
    pub fn at(folder: &Path) -> Self {
        let owner = rustix::process::geteuid().as_raw();
        Self { runtime: Vec::new(), kept: vec![folder.to_path_buf()], owner }
    }

    /// The folders in the order in which [`Registry::scan`] reads them.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        self.runtime.iter().chain(&self.kept)
    }

    /// The paths for the sockets of a new daemon, in folders that are ours alone;
    /// fails where there is none.
    pub(crate) fn new_sockets(&self) -> io::Result<Vec<PathBuf>> {
        let id = random_id(&SystemRandom);
        let name = format!("{}-{}.{SUFFIX}", std::process::id(), hex(&id[..4]));
        let mut last = io::Error::other("no folder for sockets");
        let mut usable = |folder: &PathBuf, recursive| match make_private(folder, recursive) {
            Ok(()) => Some(folder.join(&name)),
            Err(error) => {
                last = io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
                None
            }
        };
        let first = self.runtime.iter().find_map(|folder| usable(folder, false));
        let kept = self.kept.iter().filter_map(|folder| usable(folder, true));
        let paths: Vec<PathBuf> = first.into_iter().chain(kept).collect();
        if paths.is_empty() { Err(last) } else { Ok(paths) }
    }

    /// Asks all daemons of this user who they are, and returns those that answer.
    pub fn all(&self) -> Vec<RunningDaemon> {
        self.scan().into_iter().flatten().collect()
    }

    /// Asks all daemons of this user who they are. Daemons that answer come first, by
    /// mountpoint; then come the sockets on which a daemon listens and does not answer, by path.
    pub(crate) fn scan(&self) -> Vec<Result<RunningDaemon, PathBuf>> {
        self.scan_folders(self.folders())
    }

    fn scan_folders<'a>(
        &self,
        folders: impl Iterator<Item = &'a PathBuf>,
    ) -> Vec<Result<RunningDaemon, PathBuf>> {
        let mut found = Vec::new();
        let mut seen: HashSet<OsString> = HashSet::new();
        for folder in folders.filter(|folder| is_private(folder, self.owner)) {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            for entry in entries.flatten() {
                let (name, socket) = (entry.file_name(), entry.path());
                let is_socket = socket.extension().is_some_and(|extension| extension == SUFFIX);
                // In two folders, one name is one daemon.
                if !is_socket || seen.contains(&name) {
                    continue;
                }
                if let Some(daemon) = ask(&socket, self.owner) {
                    seen.insert(name);
                    found.push(daemon);
                }
            }
        }
        found.sort_by_key(|daemon| match daemon {
            Ok(daemon) => (0, daemon.described.mountpoint.clone()),
            Err(socket) => (1, socket.clone()),
        });
        found
    }

    /// Finds the daemon that has mounted the file system at `path`, or the repository at `path`.
    pub fn find(&self, path: &Path) -> Option<RunningDaemon> {
        Self::choose(self.all(), path)
    }

    /// Finds the daemon of `path` wherever its sockets are: in all folders for which the kernel
    /// lists a bound socket, whatever the variables of this process say.
    pub(crate) fn find_anywhere(&self, path: &Path) -> Option<RunningDaemon> {
        let listed = std::fs::read("/proc/net/unix").unwrap_or_default();
        let folders = socket_folders(&listed);
        Self::choose(self.scan_folders(folders.iter()).into_iter().flatten().collect(), path)
    }

    fn choose(mut candidates: Vec<RunningDaemon>, path: &Path) -> Option<RunningDaemon> {
        let path = resolve(path);
        candidates.retain(|daemon| {
            path.starts_with(&daemon.described.mountpoint) || path == daemon.described.repo
        });
        candidates.into_iter().max_by_key(|daemon| daemon.described.mountpoint.as_os_str().len())
    }
}

/// The folders of all sockets that are bound under such names as ours have.
fn socket_folders(listed: &[u8]) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = listed
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.iter().position(|&byte| byte == b'/').map(|at| &line[at..]))
        .map(|path| Path::new(OsStr::from_bytes(path)))
        .filter(|path| path.extension().is_some_and(|extension| extension == socket::ASIDE))
        .filter_map(|path| path.parent().map(Path::to_path_buf))
        .filter(|folder| folder.ends_with("amberfs") || folder.ends_with(RUN))
        .collect();
    folders.sort_unstable();
    folders.dedup();
    folders
}

/// Absolute and without symlinks where that can be found out: a path inside a
/// dead mount cannot.
fn resolve(path: &Path) -> PathBuf {
    path.canonicalize()
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_path_buf())
}

fn ask(socket: &Path, owner: u32) -> Option<Result<RunningDaemon, PathBuf>> {
    match Client::connect_to(socket, owner).and_then(|mut client| client.describe()) {
        Ok(described) => Some(Ok(RunningDaemon { socket: socket.to_path_buf(), owner, described })),
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
    if is_private(folder, rustix::process::geteuid().as_raw()) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is open to others"))
    }
}

fn is_private(folder: &Path, owner: u32) -> bool {
    std::fs::symlink_metadata(folder).is_ok_and(|metadata| {
        metadata.is_dir()
            && metadata.uid() == owner
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
        assert!(Registry::at(&open).new_sockets().is_err());
        assert!(Registry::at(&folder.path().join("own")).new_sockets().is_ok());
    }

    /// With `--state` elsewhere nothing of the usual place was there yet.
    #[test]
    fn the_folder_below_state_is_made_with_what_is_above_it() {
        let folder = tempfile::tempdir().expect("folder");
        let state = folder.path().join("local/state/amberfs");
        let registry = Registry {
            runtime: vec![folder.path().join("none/amberfs")],
            ..Registry::new(None, std::slice::from_ref(&state))
        };
        assert_eq!(registry.kept, [state.join("run")]);
        let paths = registry.new_sockets().expect("path");
        assert_eq!(paths.len(), 1);
        assert_eq!(paths[0].parent(), Some(state.join("run").as_path()));
        assert!(!folder.path().join("none").exists());
        let own = rustix::process::geteuid().as_raw();
        assert!(is_private(&folder.path().join("local"), own));
    }

    #[test]
    fn a_dead_socket_is_removed() {
        let folder = tempfile::tempdir().expect("folder");
        let registry = Registry::at(&folder.path().join("run"));
        let paths = registry.new_sockets().expect("path");
        drop(std::os::unix::net::UnixListener::bind(&paths[0]).expect("bind"));
        assert_eq!(registry.all(), []);
        assert!(!paths[0].exists());
    }

    #[test]
    fn folders_of_bound_sockets_are_read() {
        let listed = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            ffff: 00000002 00000000 00010000 0001 01 1 /run/user/7/a b/amberfs/1-0a.new\n\
            ffff: 00000002 00000000 00010000 0001 01 2 /x/state/run/1-0a.new\n\
            ffff: 00000002 00000000 00010000 0001 01 3 /x/state/run/2-0b.new\n\
            ffff: 00000002 00000000 00010000 0001 01 4 @abstract/amberfs/1-0a.new\n\
            ffff: 00000002 00000000 00010000 0001 01 5\n\
            ffff: 00000002 00000000 00010000 0001 01 6 /run/other/1-0a.sock\n";
        let folders = socket_folders(listed);
        for folder in ["/run/user/7/a b/amberfs", "/x/state/run"] {
            assert!(folders.contains(&PathBuf::from(folder)), "{folders:?}");
        }
        assert!(!folders.contains(&PathBuf::from("/run/other")));
    }
}
