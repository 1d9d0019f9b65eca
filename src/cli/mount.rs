//! `amberfs mount`: the volume, its journal and the kernel put together.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::args::{Global, MountArgs};
use super::control::done;
use super::findings::not_here;
use super::noting::NoteWriter;
use super::opening::{Found, Opened, Wanted, find, refuse_behind};
use super::options::MountSettings;
use super::place::{followed, state_folder};
use super::secrets::Obtained;
use super::{Exit, Failure, Result, secrets, vault};
use crate::control::{self, Registry};
use crate::crypto::Secret;
use crate::daemon::{
    self, Checks, Destination, Handle, Launched, Service, Setup, Why, check_mountpoint, harden,
    launch, lock_in_memory, notify_ready, share_one_arena, start_logging, unencrypted_swap,
};
use crate::fs::{Fs, FsError};
use crate::io::{LocalState, byte_count, shown};
use crate::vault::protocol::{decode_marks, encode_marks};
use crate::volume::Behind;

/// With less room than this for local state, files opened for writing bypass the kernel's
/// cache, so that write(2) itself is told that there is no more.
const LOW_WATER: u64 = 256 << 20;
/// What is that old goes into the log at each tick, so that nothing acknowledged is
/// only in memory for more than a second, the work of a tick included.
const LOG_AGE: Duration = Duration::from_millis(400);
/// Ticks from one flush of the log to the next: less than five seconds.
const FLUSH_TICKS: u64 = 9;
/// Ticks after which files of REPO that nobody read meanwhile are closed.
const IDLE_TICKS: u64 = 4;

/// A file system ready to be mounted, with what must live as long as it.
pub struct Ready {
    /// The file system.
    pub fs: Arc<Fs>,
    /// Local state, locked.
    state: Option<LocalState>,
    /// What the owner should be told.
    pub notices: Vec<String>,
    /// Tells the vault at the end how far this device came.
    note: Option<Arc<NoteWriter>>,
}

/// Opens volume and journal and replays what a crash left. K is wiped as soon
/// as the keyring is open.
pub fn prepare(
    global: &Global,
    repo: &Path,
    settings: &MountSettings,
    obtained: Obtained,
) -> Result<Ready> {
    let keyed = find(repo)?.keyed(obtained);
    let writes = !settings.mount.read_only;
    let ready = if writes { keyed.lock(global)? } else { keyed.read_beside(global) };
    let looked = ready.look()?;
    let note = if writes {
        let place = (&*looked.path, &looked.repository.repo);
        let note = NoteWriter::new(global, place, &looked.slots, looked.key());
        // What is wrong there keeps nobody from their files.
        note.unwrap_or_else(|failure| {
            log::info!("the vault will not be told how far this device comes: {}", failure.message);
            None
        })
        .map(Arc::new)
    } else {
        None
    };
    let wanted = Wanted {
        device_name: None,
        only_device: settings.device.clone(),
        cache: Some(settings.cache),
        owner: (settings.uid, settings.gid),
        adopt: settings.adopt,
        first: false,
    };
    let opened = looked.open(global, &wanted)?;
    let own: Vec<Behind> =
        opened.fs.volume().behind.iter().filter(|behind| behind.own).cloned().collect();
    if !global.accept_older {
        refuse_behind(&own)
            .map_err(|failure| failure.hint("--accept-older goes on with what is here"))?;
    }
    let Opened { fs, mut notices, state, .. } = opened;
    notices.extend(not_here(fs.volume()));
    Ok(Ready { fs: Arc::new(fs), state, notices, note })
}

/// The file system as the daemon's service.
struct Mounted {
    ready: Ready,
    settings: MountSettings,
    ticks: AtomicU64,
    handle: OnceLock<Handle>,
}

impl Service for Mounted {
    type Operations = Fs;

    fn operations(&self) -> Arc<Fs> {
        self.ready.fs.clone()
    }

    fn started(&self, handle: Handle) {
        let _ = self.handle.set(handle);
    }

    fn tick(&self) -> bool {
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed);
        let fs = &self.ready.fs;
        let flush = ticks.is_multiple_of(FLUSH_TICKS);
        // A failure is logged where it happens, and answered to every writer.
        let _ = if flush { fs.flush_log() } else { fs.write_log(LOG_AGE) };
        if !ticks.is_multiple_of(2) {
            return false;
        }
        if ticks.is_multiple_of(IDLE_TICKS) {
            fs.volume().store.close_idle();
        }
        // Of local state only: this thread writes the journal, and must not wait
        // for a REPO that hangs.
        let local = self.ready.fs.volume().world().state.as_ref().map(|state| state.space());
        if let (Some(handle), Some(Ok(space))) = (self.handle.get(), local) {
            handle.set_direct_writes(space.free < LOW_WATER);
        }
        self.ready.fs.is_due(&self.settings.when)
    }

    fn checkpoint(&self, why: Why) -> std::result::Result<(), control::Failure> {
        if self.settings.mount.read_only {
            return Ok(());
        }
        log::debug!("checkpoint: {why:?}");
        self.ready.fs.checkpoint().map(drop).map_err(|error| self.explain(error))
    }

    fn status(&self) -> Vec<u8> {
        let fs = &self.ready.fs;
        let progress = fs.progress();
        let volume = fs.volume();
        let (base, state) = (volume.base(), volume.state());
        let others = || volume.devices.iter().filter(|head| head.device != state.device);
        let elsewhere: Vec<serde_json::Value> = others()
            .filter_map(|head| {
                let generation = head.commit.processed.held(&state.device)?;
                let id = crate::crypto::hex(&head.device);
                Some(serde_json::json!({"name": head.name, "id": id, "generation": generation}))
            })
            .collect();
        // The newest state may be another device's, and no head this one's own.
        let own = if base.commit.device == state.device {
            Some(&base.commit)
        } else {
            volume.devices.iter().find(|head| head.device == state.device).map(|head| &head.commit)
        };
        let own = own.filter(|commit| commit.generation > 0);
        let newest = Some(&base.commit).filter(|commit| commit.generation > 0);
        serde_json::json!({
            "waiting_bytes": progress.waiting_bytes,
            "waiting_changes": progress.waiting_changes,
            "inodes": progress.inodes,
            "bytes": progress.bytes,
            "generation": state.generation,
            "time": own.map(|commit| commit.time.secs),
            "newest": newest.map(|commit| serde_json::json!({
                "name": commit.device_name,
                "generation": commit.generation,
                "time": commit.time.secs,
            })),
            "others": others().count(),
            "elsewhere": elsewhere,
            "behind": volume.behind.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "unusable": volume.unusable.iter().map(|head| head.error.to_string()).collect::<Vec<_>>(),
            "trouble": progress.trouble,
            "failed": progress.failed,
        })
        .to_string()
        .into_bytes()
    }

    fn close(&self) -> std::result::Result<(), control::Failure> {
        if let Some(state) = &self.ready.state {
            state.is_ending();
        }
        let outcome = self.checkpoint(Why::Unmount);
        if let Some(note) = &self.ready.note {
            Arc::clone(note).write(self.ready.fs.volume());
        }
        outcome
    }
}

impl Mounted {
    /// Why not everything is in REPO, where what is not is, and what to do. What it
    /// says of local state was looked at just now.
    fn explain(&self, error: FsError) -> control::Failure {
        let fs = &self.ready.fs;
        let code = match error {
            FsError::NoSpace => Exit::NoSpace,
            FsError::Away => Exit::Unusable,
            FsError::NotHere => Exit::NotAllHere,
            _ => Exit::Other,
        };
        let kept = fs.flush_log().is_ok();
        let progress = fs.progress();
        let trouble = progress.trouble.unwrap_or_else(|| error.to_string());
        // The only line ends of this text are those below.
        let trouble = shown(&trouble);
        let waiting = format!(
            "{} of data and {} changed names and attributes",
            byte_count(progress.waiting_bytes),
            progress.waiting_changes
        );
        let place = self.ready.state.as_ref().map(|state| state.path.display().to_string());
        let place = shown(&place.unwrap_or_default()).into_owned();
        let rest = if kept {
            format!(
                "What is not ({waiting}) was written to local state just now ({place}) and is \
                 still shown at the mountpoint. It enters the repository by itself once that can \
                 be written, or after the next mount.\n  To leave the mount now all the same: \
                 umount(8) or fusermount3 -u, which leaves those changes in local state only"
            )
        } else {
            format!(
                "LOCAL STATE FAILED TOO ({place}): what is not in the repository ({waiting}) is in \
                 the memory of this mount only. Copy out what you need before you unmount"
            )
        };
        control::Failure {
            code,
            text: format!("not everything is in the repository: {trouble}. {rest}"),
        }
    }
}

/// `mount`: returns when the mount is usable.
pub fn run(global: &Global, args: &MountArgs) -> Result<Exit> {
    let mut settings = MountSettings::parse(&args.options)?;
    settings.adopt = args.adopt;
    let Found { path: repo, early: repository } = find(&args.repo)?;
    let checks = Checks {
        allow_nonempty: settings.nonempty,
        allow_synced: args.allow_synced_mountpoint,
        foreground: args.foreground,
    };
    let mountpoint = check_mountpoint(&args.mountpoint, &repo, checks)
        .map_err(|unfit| Failure::new(unfit.exit_code(), unfit))?;
    let swap = unencrypted_swap();
    if !swap.is_empty() && !global.quiet {
        note!("amberfs: swap on {} is not encrypted: plain text could reach it", swap.join(", "));
    }
    // The daemon works in another folder: every path is absolute from here on.
    let mut global = global.clone();
    for path in [
        &mut global.state,
        &mut global.key_file,
        &mut global.password_file,
        &mut global.vault_token,
        &mut global.invite_file,
    ] {
        if let Some(path) = path.as_mut().filter(|path| path.as_os_str() != "-") {
            *path = std::path::absolute(&*path)?;
        }
    }
    if !settings.mount.read_only {
        let state = state_folder(&global, &repo, &repository)?;
        if followed(&state)?.starts_with(&mountpoint) {
            return Err(inside(Exit::Unusable, "local state", &state, &mountpoint));
        }
    }
    let registry = super::control::registry(&global);
    for folder in registry.folders() {
        if followed(folder)?.starts_with(&mountpoint) {
            return Err(inside(Exit::Unusable, "the folder for sockets", folder, &mountpoint));
        }
    }
    // Before the fork: who mounts is told what is wrong with it.
    let log_file = match &args.log_file {
        Some(path) => Some(open_log(path, &[&mountpoint, &repo])?),
        None => None,
    };
    let level = match global.verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    // Before the fork too: later there may be threads.
    share_one_arena();
    let mut mounting = Mounting { global, settings, repo, mountpoint, registry };
    if args.foreground {
        harden()?;
        start_logging(level, log_file.unwrap_or(Destination::Stderr));
        let obtained = mounting.obtain()?;
        let place = (mounting.global.json, mounting.repo.clone(), mounting.mountpoint.clone());
        let ready = || {
            if let (true, repo, mountpoint) = &place {
                // The mount goes on whoever reads this.
                let _ = done("mounted", repo, mountpoint);
            }
            notify_ready();
        };
        mounting.serve(obtained, |notice| note!("amberfs: {notice}"), ready)?;
        return Ok(Exit::Done);
    }
    match launch()? {
        Launched::Parent(mut parent) => {
            let Obtained { key, marks, .. } = mounting.obtain()?;
            // A daemon that is gone already is told of below.
            let _ = parent.send(key.expose());
            drop(key);
            let _ = parent.send(&encode_marks(&marks));
            parent.wait(|notice| note!("amberfs: {notice}"))?;
            if mounting.global.json {
                done("mounted", &mounting.repo, &mounting.mountpoint)?;
            }
            Ok(Exit::Done)
        }
        Launched::Child(mut child) => {
            start_logging(level, log_file.unwrap_or_else(Destination::system));
            let (Ok(mut bytes), Ok(marks)) = (child.receive(), child.receive()) else {
                // The parent said why.
                std::process::exit(Exit::Other.number().into());
            };
            let marks = decode_marks(marks.expose()).unwrap_or_default();
            // Taken where it lies: an array by value would stay on the stack.
            let arrived: &mut [u8; 32] = bytes
                .expose_mut()
                .try_into()
                .map_err(|_| Failure::new(Exit::Other, "the key did not arrive"))?;
            let key = Secret::take(arrived);
            drop(bytes);
            let child = std::cell::RefCell::new(Some(child));
            let result = mounting.serve(
                Obtained { key, marks, outdated: None },
                |notice| {
                    if let Some(child) = child.borrow_mut().as_mut() {
                        child.note(notice);
                    }
                },
                || {
                    if let Some(child) = child.borrow_mut().take() {
                        child.ready();
                    }
                },
            );
            match (result, child.into_inner()) {
                (Ok(()), _) => Ok(Exit::Done),
                (Err(failure), Some(child)) => {
                    let text = std::iter::once(&failure.message)
                        .chain(&failure.hints)
                        .map(|line| shown(line).into_owned())
                        .collect::<Vec<_>>()
                        .join("\n  ");
                    child.failed(&control::Failure { code: failure.code, text });
                    std::process::exit(failure.code.number().into());
                }
                (Err(failure), None) => {
                    // Messages may name paths; the log does not.
                    log::error!("the mount failed with exit code {}", failure.code.number());
                    std::process::exit(failure.code.number().into());
                }
            }
        }
    }
}

fn inside(code: Exit, what: &str, path: &Path, folder: &Path) -> Failure {
    Failure::new(
        code,
        format!("{what} {} must not lie inside {}", path.display(), folder.display()),
    )
}

fn open_log(path: &Path, outside: &[&Path]) -> Result<Destination> {
    let real = followed(path)?;
    match outside.iter().find(|folder| real.starts_with(folder)) {
        Some(folder) => Err(inside(Exit::Usage, "the log file", path, folder)),
        None => Destination::file(&std::path::absolute(path)?).map_err(|error| {
            Failure::new(Exit::Usage, format!("the log file {}: {error}", path.display()))
        }),
    }
}

/// A mount that is being made; all paths are absolute.
struct Mounting {
    global: Global,
    settings: MountSettings,
    repo: PathBuf,
    mountpoint: PathBuf,
    registry: Registry,
}

impl Mounting {
    fn obtain(&self) -> Result<Obtained> {
        let Found { path, early } = find(&self.repo)?;
        let mut obtained = secrets::obtain_all(&self.global, &path, &early)?;
        if let Some(password) = obtained.outdated.take()
            && !self.settings.mount.read_only
        {
            let renewed = vault::renew(&self.global, &path, obtained.key.duplicate(), &password);
            if let Err(failure) = renewed {
                note!(
                    "amberfs: the password could not be registered under the vault's new keys; it \
                     is tried again at the next mount: {}",
                    failure.message
                );
            }
        }
        Ok(obtained)
    }

    fn serve(
        &mut self,
        obtained: Obtained,
        notice: impl Fn(&str),
        ready: impl FnOnce(),
    ) -> Result<()> {
        if let Err(error) = lock_in_memory(obtained.key.expose()) {
            log::warn!("a secret could not be locked in memory: {error}");
        }
        let prepared = prepare(&self.global, &self.repo, &self.settings, obtained)?;
        for text in &prepared.notices {
            notice(text);
        }
        let mut options = self.settings.mount.clone();
        options.source = self.repo.display().to_string();
        let setup = Setup {
            mountpoint: self.mountpoint.clone(),
            repo: self.repo.clone(),
            options,
            registry: self.registry.clone(),
            nonempty: self.settings.nonempty,
            guarded: true,
        };
        let mounted = Mounted {
            ready: prepared,
            settings: self.settings.clone(),
            ticks: AtomicU64::new(0),
            handle: OnceLock::new(),
        };
        Ok(daemon::run(Arc::new(mounted), &setup, ready)?)
    }
}
