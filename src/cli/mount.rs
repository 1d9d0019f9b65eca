//! `amberfs mount`: what is asked before the fork, and the opening in the daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{Global, MountArgs};
use super::control::done;
use super::findings::not_here;
use super::opening::{FoundRepository, OpenRepository, Wanted, find, refuse_behind};
use super::options::MountSettings;
use super::place::{followed, state_folder};
use super::secrets::Obtained;
use super::{Exit, Failure, Result, secrets, vault};
use crate::control::{self, Registry};
use crate::crypto::Secret;
use crate::daemon::{
    self, Checks, Destination, Launched, Mounted, Setup, check_mountpoint, harden, launch,
    lock_in_memory, notify_ready, share_one_arena, start_logging, unencrypted_swap,
};
use crate::io::shown;
use crate::vault::protocol::{decode_marks, encode_marks};
use crate::volume::Behind;

/// Opens volume and journal and replays what a crash left. K is wiped as soon
/// as the keyring is open. Also returns what the owner should be told.
fn prepare(
    global: &Global,
    repo: &Path,
    settings: &MountSettings,
    obtained: Obtained,
) -> Result<(Mounted, Vec<String>)> {
    let with_key = find(repo)?.with_key(obtained);
    let writes = !settings.mount.read_only;
    let with_state =
        if writes { with_key.lock_state(global)? } else { with_key.read_state(global) };
    let scanned = with_state.scan()?;
    let note = if writes {
        // What is wrong there keeps nobody from their files.
        vault::note_writer(global, &scanned).unwrap_or_else(|failure| {
            log::info!("the vault will not be told how far this device comes: {}", failure.message);
            None
        })
    } else {
        None
    };
    let wanted = Wanted {
        device_name: settings.device_name.clone(),
        only_device: settings.device.clone(),
        until: settings.snapshot.clone(),
        cache: Some(settings.cache),
        owner: (settings.uid, settings.gid),
        adopt: settings.adopt,
        first: false,
    };
    let opened = scanned.open(global, &wanted)?;
    let own: Vec<Behind> =
        opened.fs.volume().heads().behind.iter().filter(|behind| behind.own).cloned().collect();
    if !global.accept_older {
        refuse_behind(&own)
            .map_err(|failure| failure.hint("--accept-older goes on with what is here"))?;
    }
    let OpenRepository { fs, mut notices, state, follower, .. } = opened;
    notices.extend(not_here(fs.volume()));
    let note = note.map(Arc::new);
    let mounted = Mounted::new(
        Arc::new(fs),
        state,
        note,
        settings.when,
        (follower, settings.follow),
        settings.sweep,
    );
    Ok((mounted, notices))
}

/// `mount`: returns when the mount is usable.
pub fn run(global: &Global, args: &MountArgs) -> Result<Exit> {
    let mut settings = MountSettings::parse(&args.options)?;
    settings.adopt = args.adopt;
    settings.device_name.clone_from(&args.device_name);
    let FoundRepository { path: repo, early: repository } = find(&args.repo)?;
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
        let FoundRepository { path, early } = find(&self.repo)?;
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
        let (mounted, notices) = prepare(&self.global, &self.repo, &self.settings, obtained)?;
        for text in &notices {
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
        Ok(daemon::run(Arc::new(mounted), &setup, ready)?)
    }
}
