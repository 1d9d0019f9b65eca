//! Where REPO and local state are.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::args::Global;
use super::{Exit, Failure, Result};
use crate::crypto::{Hash, hash, hex};
use crate::io::{LocalState, LockError, belongs_to_us_alone, read_regular};
use crate::volume::repository::Repository;

/// The folder, as it really is.
pub fn canonical(repo: &Path) -> Result<PathBuf> {
    let path = fs::canonicalize(repo).map_err(|error| {
        Failure::new(Exit::NoRepository, format!("{}: {error}", repo.display()))
    })?;
    if !path.is_dir() {
        return Err(Failure::new(
            Exit::NoRepository,
            format!("{} is not a folder", repo.display()),
        ));
    }
    Ok(path)
}

/// Where `path` leads, followed as far as it exists.
pub fn followed(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let real = path.ancestors().find_map(|above| {
        let rest = path.strip_prefix(above).ok()?;
        let real = fs::canonicalize(above).ok()?;
        // Joining nothing would add a slash, and no file has a name with one.
        Some(if rest.as_os_str().is_empty() { real } else { real.join(rest) })
    });
    Ok(real.unwrap_or(path))
}

/// The machine's id, which binds local state to it.
pub fn machine() -> Vec<u8> {
    read_regular(Path::new("/etc/machine-id"), 4096).unwrap_or_default()
}

/// Machine and folder, hashed.
pub fn place_of(repo: &Path) -> Hash {
    let mut bytes = machine();
    bytes.push(0);
    bytes.extend_from_slice(repo.as_os_str().as_encoded_bytes());
    hash(&bytes)
}

/// What this machine is called.
pub fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().chars().take(64).collect()
}

/// The folder of local state for a repository.
pub fn state_folder(global: &Global, repo: &Path, repository: &Repository) -> Result<PathBuf> {
    if let Some(path) = &global.state {
        return Ok(path.clone());
    }
    let identity = hash(repo.as_os_str().as_encoded_bytes());
    let name = format!("{}-{}", hex(&repository.repo), hex(&identity[..8]));
    Ok(state_base()?.join(name))
}

/// The folder of a repository's local state, if there is one.
pub fn state_folder_if_there(
    global: &Global,
    repo: &Path,
    repository: &Repository,
) -> Option<PathBuf> {
    // Without a home there is no state of this user.
    state_folder(global, repo, repository).ok().filter(|folder| folder.is_dir())
}

/// The folder of this user's local state: where `HOME` is not set, below the home folder
/// that the system has for the user.
pub fn state_base() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    set("XDG_STATE_HOME")
        .or_else(|| {
            let home = set("HOME").or_else(std::env::home_dir);
            home.filter(|home| home.is_absolute()).map(|home| home.join(".local/state"))
        })
        .map(|base| base.join("amberfs"))
        .ok_or_else(|| {
            Failure::new(
                Exit::Usage,
                "neither HOME nor XDG_STATE_HOME is set, and this user has no home folder; give \
                 --state DIR",
            )
        })
}

/// Where this user keeps what belongs to no repository (trusted vaults, refused
/// passwords, sockets): the folder of all local state, and that of `--state`, which is there
/// where the first one is not, or cannot be written to. One that others can write to
/// is not believed.
pub fn note_folders(global: &Global) -> Vec<PathBuf> {
    let given = global.state.clone().filter(|path| match fs::metadata(path) {
        Ok(data) => belongs_to_us_alone(&data),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    });
    state_base().ok().into_iter().chain(given).collect()
}

/// Notes something in the first of the folders that takes it.
pub fn note_in_one(global: &Global, note: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let mut outcome = Err(state_base().err().unwrap_or_else(|| Failure::new(Exit::Other, "")));
    for folder in note_folders(global) {
        outcome = note(&folder);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Does `work` on files in the folder of all local state, one process at a time, and
/// makes the folder if it is not there.
pub fn with_base<T>(folder: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let held = fs::File::open(folder)?;
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive)
        .map_err(std::io::Error::from)?;
    work()
}

/// Makes the folder of local state if it is not there, and locks it.
pub fn lock(path: PathBuf, repo: &Path) -> Result<LocalState> {
    let shown = path.display().to_string();
    if followed(&path)?.starts_with(repo) {
        return Err(Failure::new(
            Exit::Unusable,
            format!("local state {shown} must not lie inside the repository"),
        ));
    }
    let waiting = |path: &Path| {
        note!(
            "amberfs: waiting for the mount that is ending: it still puts changes into the \
             repository (local state {})",
            path.display()
        );
    };
    LocalState::lock(path, waiting).map_err(|error| match error {
        LockError::OpenToOthers => {
            Failure::new(Exit::Unusable, format!("local state {shown} {error}"))
        }
        LockError::InUse => Failure::new(
            Exit::InUse,
            format!("{} is in use by another amberfs (mounted?)", repo.display()),
        )
        .hint("unmount it first, or use the mountpoint"),
        LockError::Io(error) => {
            let mut failure = Failure::from(error);
            failure.message = format!("local state {shown}: {}", failure.message);
            failure
        }
    })
}
