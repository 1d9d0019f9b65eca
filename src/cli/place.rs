//! Where REPO and local state are, and opening the two.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

use super::args::Global;
use super::{Code, Failure, Result, secrets};
use crate::crypto::{Hash, Secret, hash, hex};
use crate::format::register::{Keyring, Register, Slot};
use crate::fs::{Fs, NoLog, Options, Ownership, RecoverError};
use crate::io::{DirFolder, DirSynced, PrivateFolder, SystemClock, SystemRandom};
use crate::journal::Options as JournalOptions;
use crate::store::Context;
use crate::vault::protocol::Locator;
use crate::volume::repository::{Repository, vault_slots};
use crate::volume::{OpenOptions, Volume, World};

/// The folder, as it really is.
pub fn canonical(repo: &Path) -> Result<PathBuf> {
    let path = fs::canonicalize(repo).map_err(|error| {
        Failure::new(Code::NoRepository, format!("{}: {error}", repo.display()))
    })?;
    if !path.is_dir() {
        return Err(Failure::new(
            Code::NoRepository,
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
fn machine() -> Vec<u8> {
    fs::read("/etc/machine-id").unwrap_or_default()
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

/// Finds what lies in `repo`.
pub fn find(repo: &Path) -> Result<(PathBuf, Repository)> {
    let path = canonical(repo)?;
    let repository = Repository::find(&DirSynced::new(&path, None)).map_err(|error| {
        let mut failure = Failure::from(error);
        failure.message = format!("{}: {}", repo.display(), failure.message);
        failure
    })?;
    Ok((path, repository))
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

/// The folder of this user's local state.
pub fn state_base() -> Result<PathBuf> {
    std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state")))
        .map(|base| base.join("amberfs"))
        .ok_or_else(|| {
            Failure::new(Code::Other, "neither HOME nor XDG_STATE_HOME is set; give --state DIR")
        })
}

/// Does `work` on files in the folder of all local state, one process at a time, and
/// makes the folder if it is not there.
pub fn with_base<T>(folder: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let held = fs::File::open(folder)?;
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive)
        .map_err(std::io::Error::from)?;
    work()
}

/// How long a daemon that is ending may hold its lock.
const ENDING: std::time::Duration = std::time::Duration::from_secs(5);

/// Local state, locked for this process.
pub struct LocalState {
    /// Where it is.
    pub path: PathBuf,
    /// The folder.
    pub folder: Arc<dyn PrivateFolder>,
    /// Held as long as this lives.
    _lock: fs::File,
}

impl LocalState {
    /// Makes the folder if it is not there, and locks it.
    pub fn lock(path: PathBuf, repo: &Path) -> Result<Self> {
        let trouble = |error: std::io::Error| {
            let mut failure = Failure::from(error);
            failure.message = format!("local state {}: {}", path.display(), failure.message);
            failure
        };
        if followed(&path)?.starts_with(repo) {
            return Err(Failure::new(
                Code::Unusable,
                format!("local state {} must not lie inside the repository", path.display()),
            ));
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(trouble)?;
        let data = fs::metadata(&path).map_err(trouble)?;
        if data.mode() & 0o077 != 0 || data.uid() != rustix::process::geteuid().as_raw() {
            return Err(Failure::new(
                Code::Unusable,
                format!("local state {} must belong to you alone (mode 0700)", path.display()),
            ));
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path.join("pending"))
            .map_err(trouble)?;
        let lock = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(trouble)?;
        // A daemon tells that it has unmounted a moment before it ends, and
        // umount(8) long before; only then its lock falls.
        let until = std::time::Instant::now() + ENDING;
        let locked = loop {
            let locked = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive);
            if locked != Err(rustix::io::Errno::WOULDBLOCK) || std::time::Instant::now() >= until {
                break locked;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        };
        match locked {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Failure::new(
                    Code::InUse,
                    format!("{} is in use by another amberfs (mounted?)", repo.display()),
                )
                .hint("unmount it first, or use the mountpoint"));
            }
            Err(error) => return Err(trouble(error.into())),
        }
        let folder = Arc::new(DirFolder::new(&path));
        Ok(Self { path, folder, _lock: lock })
    }
}

/// How a repository is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Without local state; nothing is written anywhere.
    Read,
    /// With local state, for writing.
    Write,
}

/// An open repository with what must live as long as it.
pub struct Opened {
    /// The file system.
    pub fs: Fs,
    /// Local state.
    pub _state: Option<LocalState>,
}

/// Opens a repository for one command.
pub fn open(global: &Global, repo: &Path, access: Access) -> Result<Opened> {
    let (path, repository) = find(repo)?;
    let key = secrets::obtain(global, &path, &repository)?;
    let state = match access {
        Access::Read => None,
        Access::Write => Some(LocalState::lock(state_folder(global, &path, &repository)?, &path)?),
    };
    let options = OpenOptions {
        device_name: machine_name(),
        read_only: access == Access::Read,
        place: place_of(&path),
        ..OpenOptions::default()
    };
    let (keyring, register, slots) = open_keyring(&repository, &key)?;
    drop(key);
    tell_changed_entry(&repository, &slots);
    let volume = open_volume(&path, &repository, keyring, register, state.as_ref(), &options)?;
    for notice in &volume.notices {
        eprintln!("amberfs: {notice}");
    }
    let (fs, replayed) = file_system(volume, access == Access::Write, (None, None))?;
    if replayed > 0 {
        eprintln!("amberfs: brought back {replayed} changes that were not in the repository yet");
    }
    Ok(Opened { fs, _state: state })
}

/// Opens the keyring with K, or says what is wrong with K.
pub fn open_keyring(
    repository: &Repository,
    key: &Secret,
) -> Result<(Keyring, Register, Vec<Slot>)> {
    repository.unlock(key).ok_or_else(|| secrets::wrong_key(repository, key))
}

/// What to say if the vault entry that the folder shows, which a password would
/// go by, is not the one that was sealed with K.
pub fn changed_entry(repository: &Repository, sealed: &[Slot]) -> Option<String> {
    let sealed: Vec<&[u8]> = vault_slots(sealed).collect();
    if repository.clear_vault_slots() == sealed {
        return None;
    }
    let address = |slot: &&[u8]| Some(Locator::decode(slot).ok()?.address.to_string());
    let named = sealed.iter().find_map(address).unwrap_or_else(|| "none".into());
    Some(format!(
        "the folder's vault entry is not the one that was sealed with the key: somebody changed \
         it, or files are missing or damaged. The sealed one: {named}"
    ))
}

/// Says it on standard error.
pub fn tell_changed_entry(repository: &Repository, sealed: &[Slot]) {
    if let Some(notice) = changed_entry(repository, sealed) {
        eprintln!("amberfs: {notice}");
    }
}

/// Opens the volume. K is not needed: whoever has no other use for it wipes it
/// before.
pub fn open_volume(
    path: &Path,
    repository: &Repository,
    keyring: Keyring,
    register: Register,
    state: Option<&LocalState>,
    options: &OpenOptions,
) -> Result<Volume> {
    let staging = state.map(|state| state.path.join("pending"));
    let world = World {
        repo: Arc::new(DirSynced::new(path, staging.as_deref())),
        state: state.map(|state| state.folder.clone()),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    };
    let context = Arc::new(Context::new(repository.repo, keyring));
    Ok(Volume::open(world, repository, context, register, options)?)
}

/// The file system over a volume, seen by this user. With `writes` there is
/// local state: what a crash left in its journal is brought back, and counted.
pub fn file_system(
    volume: Volume,
    writes: bool,
    (force_uid, force_gid): (Option<u32>, Option<u32>),
) -> Result<(Fs, usize)> {
    let uid = rustix::process::geteuid().as_raw();
    let ownership = Ownership {
        uid,
        gid: rustix::process::getegid().as_raw(),
        record_self: uid != 0,
        force_uid,
        force_gid,
    };
    let options = Options { read_only: !writes, ownership };
    if writes {
        Fs::recover(volume, JournalOptions::default(), options).map_err(not_recovered)
    } else {
        Ok((Fs::new(volume, Box::new(NoLog), options)?, 0))
    }
}

fn not_recovered(error: RecoverError) -> Failure {
    match error {
        RecoverError::Store(error) => error.into(),
        RecoverError::Journal(error) => Failure::new(Code::Other, format!("local state: {error}"))
            .hint(
                "what was acknowledged and not yet in the repository is in this journal; keep a \
                 copy of the state folder before you change anything",
            ),
        error @ RecoverError::Diverged(_) => Failure::new(Code::Unusable, error).hint(
            "nothing is lost: they stay in local state. To look at what the others wrote, mount \
             with -o ro; to go on here without them, mount as a new device with --state DIR",
        ),
        error @ RecoverError::Replay(_) => Failure::new(Code::Damage, error),
    }
}
