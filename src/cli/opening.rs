//! The one way to open a repository, step by step: each step consumes the one
//! before.
//!
//! [`Found`] has looked at the folder for one thing only, where the key may come
//! from. [`Keyed`] has the key. [`Ready`] holds the lock of local state, or has read
//! what lies beside a repository that is only read. [`Looked`] has listed the heads.
//! [`Opened`] stands on one of them.
//!
//! Invariant: the heads that decide are listed once, after the key is there and the
//! lock is held. A list made before a prompt or while another process still
//! publishes would make a rollback, or a second history, out of nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::Global;
use super::place::{self, canonical, machine_name, place_of, state_folder, state_folder_if_there};
use super::secrets::{self, Obtained};
use super::{Exit, Failure, Result};
use crate::crypto::Secret;
use crate::format::register::{Keyring, Register, Slot};
use crate::fs::{Fs, NoLog, Options, Ownership, RecoverError};
use crate::io::{DirFolder, DirSynced, LocalState, SystemClock, SystemRandom};
use crate::journal::Options as JournalOptions;
use crate::store::{CacheSizes, Context, StoreError};
use crate::sync::plan::{Less, first_behind, less};
use crate::sync::{self, Beside, OpenOptions};
use crate::vault::protocol::{Locator, Mark};
use crate::volume::repository::{Repository, vault_slots};
use crate::volume::{Behind, Volume, World};

/// Descriptors that a process needs beside those of open containers.
const OTHER_DESCRIPTORS: u64 = 48;

/// A folder that holds a repository.
pub struct Found {
    /// The folder, without symlinks.
    pub path: PathBuf,
    /// What a first look showed: good for the repository's id and for finding its
    /// vault, and for nothing else.
    pub early: Repository,
}

/// A repository and the key that opens it.
pub struct Keyed {
    path: PathBuf,
    early: Repository,
    obtained: Obtained,
}

/// A repository whose local state is locked, or was read.
pub struct Ready {
    keyed: Keyed,
    state: Option<LocalState>,
    beside: Option<Beside>,
    notices: Vec<String>,
}

/// A repository whose heads were listed.
pub struct Looked {
    /// The folder, without symlinks.
    pub path: PathBuf,
    /// What lies in it.
    pub repository: Repository,
    /// K, until the file system is open.
    key: Option<Secret>,
    /// The unlock slots that were sealed with K.
    pub slots: Vec<Slot>,
    marks: Vec<Mark>,
    state: Option<LocalState>,
    beside: Option<Beside>,
    notices: Vec<String>,
}

/// An open repository with what must live as long as it.
pub struct Opened {
    /// The file system.
    pub fs: Fs,
    /// What the owner should be told.
    pub notices: Vec<String>,
    /// Local state, locked; none if it is only read.
    pub state: Option<LocalState>,
    /// Something that is known of is not here, or cannot be used: what is read is
    /// not all there is.
    is_partial: bool,
}

/// Looks at a folder.
pub fn find(repo: &Path) -> Result<Found> {
    let path = canonical(repo)?;
    let early = look(&path)?;
    Ok(Found { path, early })
}

fn look(path: &Path) -> Result<Repository> {
    Repository::find(&DirSynced::new(path, None)).map_err(|error| {
        let mut failure = Failure::from(error);
        failure.message = format!("{}: {}", path.display(), failure.message);
        failure
    })
}

impl Found {
    /// Asks for the key, or for the password and then the vault.
    pub fn key(self, global: &Global) -> Result<Keyed> {
        let obtained = secrets::obtain_all(global, &self.path, &self.early)?;
        Ok(self.keyed(obtained))
    }

    /// With a key that is here.
    pub fn keyed(self, obtained: Obtained) -> Keyed {
        Keyed { path: self.path, early: self.early, obtained }
    }
}

impl Keyed {
    /// Locks local state, for writing. Waits for a process that is ending.
    pub fn lock(self, global: &Global) -> Result<Ready> {
        let folder = state_folder(global, &self.path, &self.early)?;
        let state = place::lock(folder, &self.path)?;
        Ok(Ready { keyed: self, state: Some(state), beside: None, notices: Vec::new() })
    }

    /// Reads the local state of this machine, if there is one: it may know of newer
    /// heads. Nothing is locked or written.
    pub fn read_beside(self, global: &Global) -> Ready {
        let mut notices = Vec::new();
        let beside = state_folder_if_there(global, &self.path, &self.early).and_then(|folder| {
            let beside = Beside::load(&DirFolder::new(&folder)).unwrap_or_else(|error| {
                notices.push(format!(
                    "local state {}: {error}. Whether newer heads were here before is not known",
                    folder.display()
                ));
                None
            });
            let place = place_of(&self.path);
            beside.filter(|Beside { state, .. }| {
                state.repo == self.early.repo && state.place == place
            })
        });
        Ready { keyed: self, state: None, beside, notices }
    }
}

impl Ready {
    /// Lists the heads. Fails if the key does not open the keyring.
    pub fn look(self) -> Result<Looked> {
        let Self { keyed: Keyed { path, obtained, .. }, state, beside, mut notices } = self;
        let repository = look(&path)?;
        let Obtained { key, marks, .. } = obtained;
        let (_, _, slots) = open_keyring(&repository, &key)?;
        notices.extend(changed_entry(&repository, &slots));
        let key = Some(key);
        Ok(Looked { path, repository, key, slots, marks, state, beside, notices })
    }
}

/// What a command asks of an opening beside its access.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The name of a device that is new; the machine's if not given.
    pub device_name: Option<String>,
    /// Only this device's newest head.
    pub only_device: Option<String>,
    /// Bytes of unpacked frames that are kept.
    pub cache: Option<usize>,
    /// Files belong to this user and group.
    pub owner: (Option<u32>, Option<u32>),
    /// Goes on with local state of another machine or folder.
    pub adopt: bool,
    /// The repository was made just now.
    pub first: bool,
}

impl Looked {
    /// K.
    pub fn key(&self) -> &Secret {
        self.key.as_ref().expect("it is there until the file system is open")
    }

    /// Opens the volume for a repair, which may want to do that twice.
    pub fn volume(&self, options: &OpenOptions) -> Result<Volume> {
        let (keyring, register, _) = open_keyring(&self.repository, self.key())?;
        self.volume_with(keyring, register, options)
    }

    fn volume_with(
        &self,
        keyring: Keyring,
        register: Register,
        options: &OpenOptions,
    ) -> Result<Volume> {
        let context = Arc::new(Context::new(self.repository.repo, keyring));
        Ok(sync::open(self.world(), &self.repository, context, register, options)?)
    }

    /// The world that its volume lives in.
    pub fn world(&self) -> World {
        let staging = self.state.as_ref().map(|state| state.path.join("pending"));
        World {
            repo: Arc::new(DirSynced::new(&self.path, staging.as_deref())),
            state: self.state.as_ref().map(|state| state.folder.clone()),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        }
    }

    /// How this machine opens it.
    pub fn options(&self, global: &Global, wanted: &Wanted) -> OpenOptions {
        let cache = CacheSizes::default();
        OpenOptions {
            device_name: wanted.device_name.clone().unwrap_or_else(machine_name),
            only_device: wanted.only_device.clone(),
            read_only: self.state.is_none(),
            place: place_of(&self.path),
            beside: self.beside.clone(),
            told: self.marks.iter().copied().collect(),
            accept_older: global.accept_older,
            adopt: wanted.adopt,
            first: wanted.first,
            caches: CacheSizes {
                frames: wanted.cache.unwrap_or(cache.frames),
                containers: containers(cache.containers),
                ..cache
            },
            ..OpenOptions::default()
        }
    }

    /// Lists the heads once more, after some were put back.
    pub fn look_again(mut self) -> Result<Self> {
        self.repository = look(&self.path)?;
        Ok(self)
    }

    /// Local state, if it is locked.
    pub fn state(&self) -> Option<&LocalState> {
        self.state.as_ref()
    }

    /// Gives up local state, so that it can be set aside, and takes another.
    pub fn replace_state(&mut self, state: Option<LocalState>) {
        self.state = state;
    }

    /// Opens the file system: what a crash left in the journal is brought back.
    /// K is wiped as soon as the keyring is open.
    pub fn open(mut self, global: &Global, wanted: &Wanted) -> Result<Opened> {
        let (keyring, register, _) = open_keyring(&self.repository, self.key())?;
        self.key = None;
        let volume = self.volume_with(keyring, register, &self.options(global, wanted))?;
        let Self { state, mut notices, .. } = self;
        notices.extend(volume.notices.iter().map(ToString::to_string));
        notices.extend(volume.behind.iter().map(ToString::to_string));
        let is_partial = !volume.behind.is_empty() || !volume.unusable.is_empty();
        let (fs, replayed) = file_system(volume, state.is_some(), wanted.owner)?;
        if replayed > 0 {
            notices.push(format!(
                "brought back {replayed} changes that were not in the repository yet"
            ));
        }
        Ok(Opened { fs, notices, state, is_partial })
    }
}

/// How many containers may be open at once, `most` or fewer: other files must find
/// descriptors too.
fn containers(most: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let left = limit.unwrap_or(u64::MAX).saturating_sub(OTHER_DESCRIPTORS) / 2;
    most.min(usize::try_from(left).unwrap_or(most)).max(4)
}

/// How a repository is opened by one command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Without local state; nothing is written anywhere.
    Read,
    /// For reading, by a command that tells of all that is known and not here.
    Check,
    /// With local state, for writing.
    Write,
}

/// Opens a repository for one command, and tells what the owner should know. A
/// command that reads does not pass off less than there is: it ends if newer
/// changes are known, unless the owner accepts that.
pub fn open(global: &Global, repo: &Path, access: Access) -> Result<Opened> {
    let keyed = find(repo)?.key(global)?;
    let ready = match access {
        Access::Write => keyed.lock(global)?,
        Access::Read | Access::Check => keyed.read_beside(global),
    };
    let opened = ready.look()?.open(global, &Wanted::default())?;
    opened.tell();
    if access != Access::Check {
        opened.refuse_less(global)?;
    }
    Ok(opened)
}

impl Opened {
    /// Tells the notices on standard error.
    pub fn tell(&self) {
        for notice in &self.notices {
            note!("amberfs: {notice}");
        }
    }

    /// Fails if more is known than can be used here, unless the owner accepts it.
    pub fn refuse_less(&self, global: &Global) -> Result<()> {
        let volume = self.fs.volume();
        let hint = "--accept-older goes on with what is here";
        if global.accept_older {
            return Ok(());
        }
        match less(&volume.unusable, &volume.behind) {
            None => Ok(()),
            Some(Less::Behind(behind)) => Err(is_behind(behind).hint(hint)),
            Some(Less::Unusable(head)) => {
                let code = match &head.error {
                    StoreError::Damaged { .. } => Exit::Damage,
                    StoreError::Missing { .. } => Exit::NotAllHere,
                    StoreError::UnknownEpoch { .. } => Exit::WrongSecret,
                    StoreError::Newer { .. } => Exit::NoRepository,
                    _ => Exit::Other,
                };
                let text = format!("a newer state is here and cannot be used: {}", head.error);
                Err(Failure::new(code, text).hint(hint))
            }
        }
    }

    /// How a command ends that would end with `exit`.
    pub fn exit(&self, exit: Exit) -> Exit {
        if exit == Exit::Done && self.is_partial { Exit::Partial } else { exit }
    }
}

/// The failure for devices whose newest heads are known and not here.
pub fn refuse_behind(behind: &[Behind]) -> Result<()> {
    first_behind(behind).map_or(Ok(()), |behind| Err(is_behind(behind)))
}

fn is_behind(behind: &Behind) -> Failure {
    let code = if behind.own { Exit::Rollback } else { Exit::NotAllHere };
    Failure::new(code, behind).hint("let the sync client finish")
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
        RecoverError::Journal(error) => Failure::new(Exit::Other, format!("local state: {error}"))
            .hint(
                "what was acknowledged and not yet in the repository is in this journal; keep a \
                 copy of the state folder before you change anything",
            ),
        error @ RecoverError::Diverged(_) => Failure::new(Exit::Unusable, error).hint(
            "nothing is lost: they stay in local state. To look at what the others wrote, mount \
             with -o ro; to go on here without them, mount as a new device with --state DIR",
        ),
        error @ RecoverError::Replay(_) => Failure::new(Exit::Damage, error),
    }
}
