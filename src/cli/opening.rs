//! Opens a repository for a command, step by step. Each step has a type, and the next
//! step consumes its value.
//!
//! 1. [`FoundRepository`]: the folder was read once, to learn where the key may come from.
//! 2. [`RepositoryWithKey`]: the key, or what the user gave for it, is there.
//! 3. [`RepositoryWithState`]: local state is locked. A command that only reads has read
//!    it instead.
//! 4. [`ScannedRepository`]: the heads are listed.
//! 5. [`OpenRepository`]: the file system is open, at one of these heads.
//!
//! Invariant: the heads that decide are listed once, after the key is there and the
//! lock is held. A list made before a prompt or while another process still
//! publishes would make a rollback, or a second history, out of nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::Global;
use super::files::with_cause;
use super::place::{self, canonical, machine_name, place_of, state_folder, state_folder_if_there};
use super::secrets::{self, Obtained};
use super::when::{EXAMPLES, Moment};
use super::{Exit, Failure, Result};
use crate::crypto::{DeviceId, Hash, Secret};
use crate::format::register::{Keyring, Register, Slot};
use crate::fs::{Fs, NoLog, Options, Ownership, RecoverError};
use crate::io::{DirFolder, DirSynced, LocalState, SystemClock, SystemRandom, Timestamp, shown};
use crate::journal::{Journal, Options as JournalOptions};
use crate::store::{CacheSizes, Context, StoreError};
use crate::sync::plan::{Less, first_behind, less};
use crate::sync::{self, Beside, Follower, OpenOptions, Snapshots};
use crate::vault::protocol::{Locator, Mark};
use crate::volume::repository::{Repository, vault_slots};
use crate::volume::state::State;
use crate::volume::{Base, Behind, Unusable, Volume, VolumeError, World, journal_keys};

/// Descriptors that a process needs beside those of open containers.
const OTHER_DESCRIPTORS: u64 = 48;

/// A folder that holds a repository.
pub struct FoundRepository {
    /// The folder, without symlinks.
    pub path: PathBuf,
    /// What the folder showed before anybody was asked for a key. Use it for the
    /// repository's id and for finding its vault only: heads may arrive until local
    /// state is locked.
    pub early: Repository,
}

/// A repository with the key, or what the user gave for it. Nobody has tried yet
/// whether the key opens the repository.
pub struct RepositoryWithKey {
    path: PathBuf,
    early: Repository,
    obtained: Obtained,
}

/// A repository with its key whose local state is locked, or was read.
pub struct RepositoryWithState {
    with_key: RepositoryWithKey,
    state: Option<LocalState>,
    beside: Option<Beside>,
    notices: Vec<String>,
}

/// A repository whose heads are listed and whose keyring the key has opened.
pub struct ScannedRepository {
    /// The folder, without symlinks.
    pub path: PathBuf,
    /// The heads, registers and strays that the folder holds.
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

/// An open file system with what must live as long as it.
pub struct OpenRepository {
    /// The file system, open.
    pub fs: Fs,
    /// What the owner should be told.
    pub notices: Vec<String>,
    /// Local state, locked; none if it is only read.
    pub state: Option<LocalState>,
    /// Looks for what other devices write while the file system is open.
    pub follower: Follower,
    /// The heads, registers and strays that the folder held.
    pub repository: Repository,
    /// Something that is known of is not here, or cannot be used: what is read is
    /// not all there is.
    is_partial: bool,
}

/// Reads what a folder holds. Fails if that is no repository.
pub fn find(repo: &Path) -> Result<FoundRepository> {
    let path = canonical(repo)?;
    let early = scan(&path)?;
    Ok(FoundRepository { path, early })
}

fn scan(path: &Path) -> Result<Repository> {
    Repository::find(&DirSynced::new(path, None)).map_err(|error| {
        let mut failure = Failure::from(error);
        failure.message = format!("{}: {}", path.display(), failure.message);
        failure
    })
}

impl FoundRepository {
    /// Obtains the key from where the options say, or asks the user for it or for the
    /// password. With a password, asks the vault. Blocks on user and network.
    pub fn obtain_key(self, global: &Global) -> Result<RepositoryWithKey> {
        let obtained = secrets::obtain_all(global, &self.path, &self.early)?;
        Ok(self.with_key(obtained))
    }

    /// Goes on with a key that the caller has.
    pub fn with_key(self, obtained: Obtained) -> RepositoryWithKey {
        RepositoryWithKey { path: self.path, early: self.early, obtained }
    }
}

impl RepositoryWithKey {
    /// Locks local state, for writing. Waits for a process that is ending.
    pub fn lock_state(self, global: &Global) -> Result<RepositoryWithState> {
        let folder = state_folder(global, &self.path, &self.early)?;
        let state = place::lock(folder, &self.path)?;
        Ok(RepositoryWithState {
            with_key: self,
            state: Some(state),
            beside: None,
            notices: Vec::new(),
        })
    }

    /// Reads the local state of this machine, if there is one: it may know of newer
    /// heads. Nothing is locked or written.
    pub fn read_state(self, global: &Global) -> RepositoryWithState {
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
        RepositoryWithState { with_key: self, state: None, beside, notices }
    }
}

impl RepositoryWithState {
    /// Lists the heads. Fails if the key does not open the keyring.
    pub fn scan(self) -> Result<ScannedRepository> {
        let Self { with_key: RepositoryWithKey { path, obtained, .. }, state, beside, mut notices } =
            self;
        let repository = scan(&path)?;
        let Obtained { key, marks, .. } = obtained;
        let (_, _, slots) = open_keyring(&repository, &key)?;
        notices.extend(changed_entry(&repository, &slots));
        let key = Some(key);
        Ok(ScannedRepository { path, repository, key, slots, marks, state, beside, notices })
    }
}

/// What a command asks of an opening beside its access.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// What this device calls itself from now on. Without it a new one has the machine's name.
    pub device_name: Option<String>,
    /// Only this device's newest head.
    pub only_device: Option<String>,
    /// Without the states that were published later than this.
    pub until: Option<Moment>,
    /// Bytes of unpacked frames that are kept.
    pub cache: Option<usize>,
    /// Files belong to this user and group.
    pub owner: (Option<u32>, Option<u32>),
    /// Goes on with local state of another machine or folder.
    pub adopt: bool,
    /// The repository was made just now.
    pub first: bool,
}

impl ScannedRepository {
    /// K, the 64-digit key.
    pub fn key(&self) -> &Secret {
        self.key.as_ref().expect("it is there until the file system is open")
    }

    /// Opens the volume and keeps K, since a repair may open it a second time.
    pub fn volume(&self, options: &OpenOptions) -> Result<Volume> {
        Ok(self.try_volume(options)?)
    }

    /// Opens the volume and keeps K, for a caller that goes on if it is refused.
    pub fn try_volume(&self, options: &OpenOptions) -> std::result::Result<Volume, VolumeError> {
        let opened = self.repository.unlock(self.key());
        let (keyring, register, _) = opened.ok_or(VolumeError::WrongKey)?;
        self.volume_with(keyring, register, options)
    }

    fn volume_with(
        &self,
        keyring: Keyring,
        register: Register,
        options: &OpenOptions,
    ) -> std::result::Result<Volume, VolumeError> {
        let context = Arc::new(Context::new(self.repository.repo, keyring));
        sync::open(self.world(), &self.repository, context, register, options)
    }

    /// The device of the local state that lies beside a repository which is only read.
    pub fn own_device(&self) -> Option<DeviceId> {
        self.beside.as_ref().map(|beside| beside.state.device)
    }

    /// What its volume reads and writes: REPO, local state, clock and random numbers.
    pub fn world(&self) -> World {
        let staging = self.state.as_ref().map(|state| state.path.join("pending"));
        World {
            repo: Arc::new(DirSynced::new(&self.path, staging.as_deref())),
            state: self.state.as_ref().map(|state| state.folder.clone()),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        }
    }

    /// The options with which this machine opens the volume.
    pub fn options(&self, global: &Global, wanted: &Wanted) -> OpenOptions {
        let cache = CacheSizes::default();
        OpenOptions {
            device_name: machine_name(),
            new_name: wanted.device_name.clone(),
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

    /// Lists the heads once more, after a repair has put files back.
    pub fn rescan(mut self) -> Result<Self> {
        self.repository = scan(&self.path)?;
        Ok(self)
    }

    /// Local state, if it is locked; none if it was only read.
    pub fn state(&self) -> Option<&LocalState> {
        self.state.as_ref()
    }

    /// Replaces the lock of local state. With none, the lock is released, so that the
    /// folder can be renamed.
    pub fn replace_state(&mut self, state: Option<LocalState>) {
        self.state = state;
    }

    /// How many changes are in the journal, and in no head, that were made on a head that is
    /// not here; 0 if all those heads are here, or the journal cannot be read.
    pub fn changes_without_base(&self) -> Result<usize> {
        let Some(local) = &self.state else { return Ok(0) };
        let Ok(Some(state)) = State::load(&*local.folder) else { return Ok(0) };
        let is_here =
            |hash: &Hash| self.repository.heads.values().flatten().any(|head| head.hash == *hash);
        if state.base.iter().all(is_here) {
            return Ok(0);
        }
        let (keyring, ..) = open_keyring(&self.repository, self.key())?;
        let keys = journal_keys(&Context::new(self.repository.repo, keyring), state.journal_of);
        let read = Journal::read(&*local.folder, &keys, state.journal);
        Ok(read.map_or(0, |replay| replay.records.len()))
    }

    /// Opens the file system, and replays what a crash left in the journal. Wipes K as
    /// soon as the keyring is open.
    pub fn open(mut self, global: &Global, wanted: &Wanted) -> Result<OpenRepository> {
        let mut options = self.options(global, wanted);
        options.until = match &wanted.until {
            None => None,
            Some(Moment::Time(time)) => Some(*time),
            Some(Moment::Named(name)) => {
                let now = OpenOptions { read_only: true, ..options.clone() };
                Some(time_of(&self.volume(&now)?, &self.repository, name)?)
            }
        };
        let (keyring, register, _) = open_keyring(&self.repository, self.key())?;
        self.key = None;
        let writes = self.state.is_some();
        let volume = self.volume_with(keyring, register, &options)?;
        let mut told = told_by(&volume);
        let (mut fs, replayed) = file_system(volume, writes, wanted.owner)?;
        if writes && fs.volume().is_replay() {
            match fs.checkpoint() {
                Ok(_) => {
                    let volume = self.volume_again(fs, &options)?;
                    told = told_by(&volume);
                    fs = file_system(volume, writes, wanted.owner)?.0;
                }
                Err(error) => told.push(format!(
                    "what other devices wrote is not shown yet: the changes of this one could \
                     not be published first ({error})"
                )),
            }
        }
        let Self { state, mut notices, repository, .. } = self;
        notices.append(&mut told);
        if replayed > 0 {
            notices.push(format!(
                "brought back {replayed} changes that were not in the repository yet"
            ));
        }
        let heads = fs.volume().heads();
        let is_partial = !heads.behind.is_empty() || !heads.unusable.is_empty();
        let follower = Follower::new(&options);
        Ok(OpenRepository { fs, notices, state, follower, repository, is_partial })
    }

    /// Opens the volume of a file system once more, after it published what its journal held.
    fn volume_again(&self, fs: Fs, options: &OpenOptions) -> Result<Volume> {
        let volume = fs.volume();
        let (context, register) = (volume.context(), volume.register());
        drop(fs);
        let repository = scan(&self.path)?;
        Ok(sync::open(self.world(), &repository, context, register, options)?)
    }
}

/// When the state was published that has a name.
fn time_of(volume: &Volume, repository: &Repository, name: &str) -> Result<Timestamp> {
    let (found, unreadable) = Snapshots::named(volume, repository, name);
    if let Some(state) = found {
        return Ok(state.time);
    }
    let name = shown(name);
    Err(if unreadable == 0 {
        let text = format!("no state here has the name {name}, and it is no time");
        Failure::new(Exit::Usage, text).hint(EXAMPLES)
    } else {
        let text =
            format!("no state that can be read has the name {name}, and {unreadable} cannot");
        Failure::new(Exit::NotAllHere, text)
            .hint("let the sync client finish, or see amberfs check")
    })
}

/// What the owner should be told of an opening.
fn told_by(volume: &Volume) -> Vec<String> {
    let notices = volume.notices.iter().map(ToString::to_string);
    notices.chain(volume.heads().behind.iter().map(ToString::to_string)).collect()
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
    /// For reading, by a command that reports itself what is known and not here.
    Check,
    /// With local state, for writing.
    Write,
}

/// Opens a repository for one command and prints its notices. Except with
/// [`Access::Check`], fails if newer changes are known than can be used here, unless the
/// owner accepts that with `--accept-older`.
pub fn open(global: &Global, repo: &Path, access: Access) -> Result<OpenRepository> {
    open_wanted(global, repo, access, &Wanted::default())
}

/// Opens a repository to read it, as it was at a time if one is given. As [`open`].
pub fn open_at(global: &Global, repo: &Path, at: Option<&Moment>) -> Result<OpenRepository> {
    let wanted = Wanted { until: at.cloned(), ..Wanted::default() };
    open_wanted(global, repo, Access::Read, &wanted)
}

fn open_wanted(
    global: &Global,
    repo: &Path,
    access: Access,
    wanted: &Wanted,
) -> Result<OpenRepository> {
    let with_key = find(repo)?.obtain_key(global)?;
    let with_state = match access {
        Access::Write => with_key.lock_state(global)?,
        Access::Read | Access::Check => with_key.read_state(global),
    };
    let opened = with_state.scan()?.open(global, wanted)?;
    opened.print_notices();
    if access != Access::Check {
        opened.refuse_less(global)?;
    }
    Ok(opened)
}

impl OpenRepository {
    /// Prints the notices on standard error, one a line.
    pub fn print_notices(&self) {
        for notice in &self.notices {
            note!("amberfs: {notice}");
        }
    }

    /// Fails if more is known than can be used here, unless the owner accepts it.
    pub fn refuse_less(&self, global: &Global) -> Result<()> {
        let heads = self.fs.volume().heads();
        refuse_less(global, &heads.unusable, &heads.behind)
    }

    /// What the repository showed at a time; tells which state was the latest then. Fails, as opening
    /// does, if more is known of that time than can be used here.
    pub fn past(&mut self, global: &Global, time: Timestamp) -> Result<Base> {
        // This command may have published since it was opened.
        let repository = Repository::find(&*self.fs.volume().world().repo)?;
        let past = self.follower.past(self.fs.volume(), &repository, time)?;
        if let Some(notice) = &past.notice {
            note!("amberfs: {notice}");
        }
        refuse_less(global, &past.unusable, &past.behind)?;
        self.is_partial |= !past.behind.is_empty() || !past.unusable.is_empty();
        Ok(past.base)
    }

    /// The time that is meant.
    pub fn time_of(&self, moment: &Moment) -> Result<Timestamp> {
        match moment {
            Moment::Time(time) => Ok(*time),
            Moment::Named(name) => time_of(self.fs.volume(), &self.repository, name),
        }
    }

    /// Publishes what is acknowledged: all of it is in REPO then.
    pub fn publish(&self) -> Result<()> {
        let published = self.fs.checkpoint();
        published.map(drop).map_err(|error| with_cause(self.fs.take_cause(), error.into()))
    }

    /// The exit code of a command that would end with `exit`: [`Exit::Partial`] if that is
    /// success and not all that is known could be read.
    pub fn exit(&self, exit: Exit) -> Exit {
        if exit == Exit::Done && self.is_partial { Exit::Partial } else { exit }
    }
}

fn refuse_less(global: &Global, unusable: &[Unusable], behind: &[Behind]) -> Result<()> {
    let hint = "--accept-older goes on with what is here";
    if global.accept_older {
        return Ok(());
    }
    match less(unusable, behind) {
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

/// The failure for devices whose newest heads are known and not here.
pub fn refuse_behind(behind: &[Behind]) -> Result<()> {
    first_behind(behind).map_or(Ok(()), |behind| Err(is_behind(behind)))
}

fn is_behind(behind: &Behind) -> Failure {
    let code = if behind.own { Exit::Rollback } else { Exit::NotAllHere };
    Failure::new(code, behind).hint("let the sync client finish")
}

/// Opens the keyring with K. The failure says what is wrong with K.
pub fn open_keyring(
    repository: &Repository,
    key: &Secret,
) -> Result<(Keyring, Register, Vec<Slot>)> {
    repository.unlock(key).ok_or_else(|| secrets::wrong_key(repository, key))
}

/// A warning for the owner if the vault entry that the folder shows in the clear is not
/// the one that was sealed with K. A password is sent to the vault of the former.
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

/// Opens the file system over a volume, as this user sees it. With `writes`, replays what
/// a crash left in the journal of local state. Returns how many changes that were.
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
        RecoverError::Journal(error) if error.is_full() => {
            let text = format!("no space left for local state: {error}");
            Failure::new(Exit::NoSpace, text)
                .hint("nothing was changed; free some space on its disk, and try again")
        }
        RecoverError::Journal(error) => Failure::new(Exit::Other, format!("local state: {error}"))
            .hint(
                "what was acknowledged and not yet in the repository is in this journal; keep a \
                 copy of the state folder before you change anything",
            ),
        error @ RecoverError::Replay(_) => Failure::new(Exit::Damage, error),
    }
}
