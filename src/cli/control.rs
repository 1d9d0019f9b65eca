//! `umount`, `sync` and `status`: asking daemons.

use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::args::{Global, StatusArgs, TargetArgs};
use super::{Exit, Failure, Result, opening, place, print_failure};
use crate::control::{
    Client, ControlError, MountEntry, Registry, Request, RunningDaemon, daemon_of, mount_at,
    mount_over, read_mounts, take_end,
};
use crate::daemon::find_dead;
use crate::fuse::DeadMount;
use crate::io::DirSynced;
use crate::io::output::{self, OutputError};
use crate::io::{byte_count, local_time};
use crate::volume::repository::Repository;

/// The type of our mounts, as the kernel shows it.
const MOUNT_TYPE: &str = "fuse.amberfs";

/// The register of this user's mounts. It includes the state folder of `--state`.
pub fn registry(global: &Global) -> Registry {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    Registry::new(runtime.as_deref(), &place::note_folders(global))
}

/// Asks a daemon, and returns the bytes of its answer. A failure names the daemon's mountpoint.
pub fn ask(daemon: &RunningDaemon, request: &Request) -> Result<Vec<u8>> {
    with_mountpoint(daemon, try_ask(daemon, request))
}

fn try_ask(
    daemon: &RunningDaemon,
    request: &Request,
) -> std::result::Result<Vec<u8>, ControlError> {
    let mut answer = Vec::new();
    Client::connect_to(&daemon.socket, daemon.owner)?.ask(request, |piece| {
        answer.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(answer)
}

/// Names the mountpoint in the failure of a request to its daemon.
fn with_mountpoint(
    daemon: &RunningDaemon,
    asked: std::result::Result<Vec<u8>, ControlError>,
) -> Result<Vec<u8>> {
    let mountpoint = &daemon.described.mountpoint;
    match asked {
        Ok(answer) => Ok(answer),
        Err(ControlError::Busy(text)) => {
            Err(Failure::new(Exit::InUse, text).hint("try again when that has ended"))
        }
        Err(error) => {
            let mut failure = match error {
                ControlError::Failed(failure) => Failure::from(failure),
                other => Failure::new(Exit::Other, other),
            };
            failure.message = format!("{}: {}", mountpoint.display(), failure.message);
            Err(failure)
        }
    }
}

/// Finds the daemon of the mount at `path`, or at which `path` lies.
pub fn find(global: &Global, path: &Path) -> Result<RunningDaemon> {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let registry = registry(global);
    if let Some(daemon) = registry.find(&real) {
        return Ok(daemon);
    }
    let mounts = read_mounts()?;
    let over = mount_over(&mounts, &real).filter(|mount| mount.kind == MOUNT_TYPE);
    let Some(mount) = over else {
        let text = format!("{} is not mounted by amberfs", path.display());
        let mut failure = Failure::new(Exit::Unusable, text);
        failure.hints = registry
            .scan()
            .iter()
            .filter_map(|daemon| daemon.as_ref().err().map(|socket| silent(socket)))
            .collect();
        return Err(failure);
    };
    let own = rustix::process::geteuid().as_raw();
    let owner = mount.owner().unwrap_or(own);
    // Its sockets are where the variables of whoever mounted it said. Another user's
    // daemon is believed about that user's mount only.
    let elsewhere = (owner == own || own == 0)
        .then(|| Registry::of(owner, None, &[]))
        .and_then(|registry| registry.find_anywhere(&real).or_else(|| registry.find(&real)))
        .filter(|daemon| owner == own || daemon.described.mountpoint == mount.mountpoint);
    elsewhere.ok_or_else(|| unanswered(mount))
}

/// The folder of a repository, by its path or one in a mount of it, and the daemon that has it mounted
/// for writing if one has. A folder that is a repository is meant itself, wherever it lies.
pub fn served(global: &Global, path: &Path) -> Result<(PathBuf, Option<RunningDaemon>)> {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let all = registry(global).all();
    // A mount is not asked for files: its daemon may wait for REPO.
    let is_mountpoint = all.iter().any(|daemon| daemon.described.mountpoint == real);
    let is_repository = !is_mountpoint
        && (all.iter().any(|daemon| daemon.described.repo == real)
            || Repository::find(&DirSynced::new(&real, None)).is_ok());
    let mut repo = real.clone();
    if !is_repository {
        let within = all.iter().filter(|daemon| real.starts_with(&daemon.described.mountpoint));
        let depth = |daemon: &&RunningDaemon| daemon.described.mountpoint.components().count();
        if let Some(daemon) = within.max_by_key(depth) {
            repo.clone_from(&daemon.described.repo);
            if is_writing(daemon)? {
                return Ok((repo, Some(daemon.clone())));
            }
        }
    }
    let mut writing = Vec::new();
    for daemon in all.iter().filter(|daemon| daemon.described.repo == repo) {
        if is_writing(daemon)? {
            writing.push(daemon);
        }
    }
    if writing.len() > 1 {
        let places = writing.iter().map(|daemon| daemon.described.mountpoint.display().to_string());
        let places: Vec<String> = places.collect();
        let text = format!("{} is mounted at {}", repo.display(), places.join(" and at "));
        return Err(Failure::new(Exit::Usage, text).hint("say which of these mounts is meant"));
    }
    Ok((repo, writing.first().map(|daemon| (*daemon).clone())))
}

/// Whether a daemon has its repository mounted for writing. One that has just ended has nothing mounted.
fn is_writing(daemon: &RunningDaemon) -> Result<bool> {
    match try_ask(daemon, &Request::Status) {
        Err(ControlError::Gone) => Ok(false),
        asked => Ok(read_status(&with_mountpoint(daemon, asked)?)?["read_only"] == false),
    }
}

/// The kernel shows a mount, and nobody answers for it.
fn unanswered(mount: &MountEntry) -> Failure {
    let shown = mount.mountpoint.display();
    let own = rustix::process::geteuid().as_raw();
    let owner = mount.owner().unwrap_or(own);
    if owner != own && own != 0 {
        let text = format!("{shown} is mounted by amberfs, for user {owner}");
        return Failure::new(Exit::Unusable, text).hint("ask as that user, or as root");
    }
    let unmounts = "makes it put everything into the repository and unmount";
    let text =
        format!("{shown} is mounted by amberfs, and no socket that its daemon answers was found");
    let failure = Failure::new(Exit::Unusable, text);
    if let Some(pid) = daemon_of(mount, owner) {
        return failure.hint(format!("its daemon is process {pid}: kill {pid} {unmounts}"));
    }
    // A mount whose daemon lives is not asked: it might not answer.
    let asked = rustix::fs::statvfs(&mount.mountpoint);
    if matches!(asked, Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED)) {
        let text = format!("{shown} was mounted by amberfs, and its daemon has ended");
        return Failure::new(Exit::Unusable, text)
            .hint("amberfs mount clears it away, and brings back what local state holds");
    }
    failure.hint(format!("its daemon's process was not found either; SIGTERM {unmounts}"))
}

fn silent(socket: &Path) -> String {
    format!("a daemon of yours does not answer at {}, named after its process", socket.display())
}

/// What a command is about: one mount, or all of this user; of those, what the kernel
/// shows and nobody answers for comes last.
fn targets(global: &Global, path: Option<&Path>) -> Result<Vec<Result<RunningDaemon>>> {
    if let Some(path) = path {
        return Ok(vec![Ok(find(global, path)?)]);
    }
    let answers = registry(global).scan();
    let own = rustix::process::geteuid().as_raw();
    let answered: Vec<PathBuf> =
        answers.iter().flatten().map(|daemon| daemon.described.mountpoint.clone()).collect();
    let mounts = read_mounts()?;
    let others = mounts.iter().filter(|mount| {
        mount.kind == MOUNT_TYPE
            && mount.owner() == Some(own)
            && !answered.contains(&mount.mountpoint)
    });
    // Another name of a mount that answers is not another mount.
    let names = |a: &&MountEntry| {
        !mounts.iter().any(|b| b.device == a.device && answered.contains(&b.mountpoint))
    };
    let unanswered = others.filter(names).map(|mount| Err(unanswered(mount)));
    let answers = answers
        .into_iter()
        .map(|daemon| daemon.map_err(|socket| Failure::new(Exit::Other, silent(&socket))));
    Ok(answers.chain(unanswered).collect())
}

/// Does something with each, whatever becomes of the others. The first failure
/// is the command's own; the others are told here.
fn each(
    all: Vec<Result<RunningDaemon>>,
    mut one: impl FnMut(&RunningDaemon) -> Result<()>,
) -> Result<Exit> {
    let mut first = None;
    for failure in all.into_iter().filter_map(|daemon| daemon.and_then(|daemon| one(&daemon)).err())
    {
        match first {
            None => first = Some(failure),
            Some(_) => print_failure(&failure),
        }
    }
    first.map_or(Ok(Exit::Done), Err)
}

/// Runs `amberfs umount`.
pub fn umount(global: &Global, args: &TargetArgs) -> Result<Exit> {
    let targets = match (targets(global, args.mountpoint.as_deref()), &args.mountpoint) {
        (Err(failure), Some(path)) => {
            return match find_dead(path) {
                Some(dead) => clear(global, &dead),
                None if has_ended_well(global, path) => Ok(Exit::Done),
                None => Err(failure),
            };
        }
        (targets, _) => targets?,
    };
    each(targets, |daemon| {
        match try_ask(daemon, &Request::Unmount) {
            // It ended a moment before.
            Err(ControlError::Gone) if has_ended_well(global, &daemon.described.mountpoint) => {}
            asked => drop(with_mountpoint(daemon, asked)?),
        }
        if global.json {
            done("unmounted", &daemon.described.repo, &daemon.described.mountpoint)?;
        } else if !global.quiet && args.all {
            note!("unmounted {}", daemon.described.mountpoint.display());
        }
        Ok(())
    })
}

/// Whether the last mount at `mountpoint` is gone, and its daemon left word that all
/// of it is in REPO: it was unmounted by other means.
fn has_ended_well(global: &Global, mountpoint: &Path) -> bool {
    let real = std::fs::canonicalize(mountpoint).unwrap_or_else(|_| mountpoint.to_path_buf());
    let mounts = read_mounts().unwrap_or_default();
    let mounted = mount_at(&mounts, &real).is_ok_and(|mount| mount.is_some());
    !mounted && take_end(&registry(global), &real)
}

/// Clears away a mount whose daemon has died, and says what became of what was
/// written there. Not everything is in REPO then, as far as anybody knows.
fn clear(global: &Global, dead: &DeadMount) -> Result<Exit> {
    let (mountpoint, repo) = (dead.mountpoint.display(), Path::new(&dead.source));
    dead.clear().map_err(|error| {
        Failure::new(Exit::Unusable, format!("the dead mount on {mountpoint} stays: {error}"))
    })?;
    let what = format!(
        "{mountpoint} was a dead mount of {}, whose connection to its daemon had ended without \
         unmounting; it is cleared away",
        repo.display()
    );
    if dead.read_only {
        if !global.quiet {
            note!("amberfs: {what}");
        }
        return Ok(Exit::Done);
    }
    let failure = Failure::new(Exit::Partial, what);
    let state = opening::find(repo)
        .and_then(|found| place::state_folder(global, &found.path, &found.early));
    let state = match state {
        Ok(state) => state,
        Err(why) => return Err(failure.hint(why.message)),
    };
    Err(match holds_changes(&state) {
        Ok(Held::Locked) => failure.hint(format!(
            "a daemon still works with its local state {}: mount it when that has ended",
            state.display()
        )),
        Ok(Held::Journal) => failure.hint(format!(
            "what was acknowledged there and is not in REPO yet is in {}: mount {} again to bring \
             it back",
            state.display(),
            repo.display()
        )),
        Ok(Held::Nothing) => failure.hint(format!(
            "no local state of it is in {}: mount {} with the --state it had",
            state.display(),
            repo.display()
        )),
        Err(error) => failure.hint(format!("{}: {error}", state.display())),
    })
}

/// What is seen of a local state from outside.
enum Held {
    /// Another amberfs uses it.
    Locked,
    /// Nobody does, and it has a journal.
    Journal,
    /// There is no local state, or it has no journal.
    Nothing,
}

fn holds_changes(state: &Path) -> std::io::Result<Held> {
    let lock = match std::fs::File::open(state.join("lock")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Held::Nothing),
        opened => opened?,
    };
    // It falls again when the file is closed.
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Held::Locked),
        locked => locked?,
    }
    let journal = state.join("journal");
    Ok(if journal.try_exists()? { Held::Journal } else { Held::Nothing })
}

/// Adds a hint to the failure of a command that found `repo` in use: which daemon uses it.
pub fn add_users(global: &Global, mut failure: Failure, repo: &Path) -> Failure {
    let registry = (failure.code == Exit::InUse).then(|| registry(global));
    let repo = place::canonical(repo).ok();
    let daemons = registry.iter().flat_map(Registry::all);
    for daemon in daemons.filter(|daemon| Some(&daemon.described.repo) == repo.as_ref()) {
        let said = ask(&daemon, &Request::Users).ok();
        if let Some(text) = said.as_deref().map(String::from_utf8_lossy) {
            failure =
                failure.hint(format!("the daemon with process {} {text}", daemon.described.pid));
        }
    }
    failure
}

/// Runs `amberfs sync`: has the daemons of the mounts publish a checkpoint.
pub fn sync(global: &Global, args: &TargetArgs) -> Result<Exit> {
    each(targets(global, args.mountpoint.as_deref())?, |daemon| {
        ask(daemon, &Request::Sync)?;
        if global.json {
            done("synced", &daemon.described.repo, &daemon.described.mountpoint)?;
        }
        Ok(())
    })
}

/// Prints one object of JSON that says what was done with a mount.
pub fn done(what: &str, repo: &Path, mountpoint: &Path) -> std::result::Result<(), OutputError> {
    output::object(&serde_json::json!({
        "message_type": what,
        "repo": repo.display().to_string(),
        "mountpoint": mountpoint.display().to_string(),
    }))
}

/// Asks a daemon for the status of its mount: the object that `docs/cli.md` describes.
pub fn status_of(daemon: &RunningDaemon) -> Result<serde_json::Value> {
    read_status(&ask(daemon, &Request::Status)?)
}

fn read_status(answer: &[u8]) -> Result<serde_json::Value> {
    serde_json::from_slice(answer)
        .map_err(|_| Failure::new(Exit::Other, "the daemon's answer is not understood"))
}

/// Runs `amberfs status`.
pub fn status(global: &Global, args: &StatusArgs) -> Result<Exit> {
    let mounts = targets(global, args.path.as_deref())?;
    if mounts.is_empty() && !global.json {
        say!("nothing is mounted")?;
    }
    each(mounts, |daemon| {
        let mut value = status_of(daemon)?;
        value["message_type"] = "status".into();
        value["mountpoint"] = daemon.described.mountpoint.display().to_string().into();
        value["repo"] = daemon.described.repo.display().to_string().into();
        if global.json {
            if let Some(time) = value["time"].as_i64() {
                value["time_text"] = local_time(time).into();
            }
            output::object(&value)?;
        } else {
            show(&value)?;
        }
        Ok(())
    })
}

fn show(value: &serde_json::Value) -> std::result::Result<(), OutputError> {
    let number = |name: &str| value[name].as_u64().unwrap_or(0);
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_string();
    say!("{} on {}", text("repo"), text("mountpoint"))?;
    if let Some(until) = value["until"].as_i64() {
        let (inodes, bytes) = (number("inodes"), byte_count(number("bytes")));
        let newest = value["newest"]["time"].as_i64().unwrap_or_default();
        say!(
            "  as of          {}: {inodes} files and folders, {bytes}; the latest state then is \
             of {}",
            local_time(until),
            local_time(newest)
        )?;
    } else {
        show_present(value)?;
    }
    let failed = value["failed"].as_bool() == Some(true);
    match value["trouble"].as_str() {
        Some(why) if failed => say!("  trouble        {why}: read-only until mounted anew")?,
        Some(why) => say!("  trouble        the last checkpoint failed: {why}")?,
        None if failed => {
            say!("  trouble        local state failed: read-only until mounted anew")?;
        }
        None => (),
    }
    super::sweep::show_summary(&value["given_back"])?;
    if let Some(why) = value["following"].as_str() {
        say!("  following      {why}")?;
    }
    for behind in texts(value, "behind") {
        say!("  behind         {behind}")?;
    }
    for unusable in texts(value, "unusable") {
        say!("  unusable       a state that is not shown: {unusable}")?;
    }
    Ok(())
}

/// What is on this disk, in REPO and elsewhere.
fn show_present(value: &serde_json::Value) -> std::result::Result<(), OutputError> {
    let number = |name: &str| value[name].as_u64().unwrap_or(0);
    say!(
        "  on this disk   {} files and folders, {}; {} and {} changes wait for the next checkpoint",
        number("inodes"),
        byte_count(number("bytes")),
        byte_count(number("waiting_bytes")),
        number("waiting_changes"),
    )?;
    say!("  in REPO        {}", in_repo(value))?;
    match value["elsewhere"].as_array().map(Vec::as_slice) {
        Some([]) | None => {
            let is_known = texts(value, "unusable").next().is_none();
            say!("  elsewhere      {}", nowhere(number("others"), is_known))?;
        }
        Some(devices) => {
            for device in devices {
                let generation = device["generation"].as_u64().unwrap_or(0);
                let what = match device["time"].as_i64() {
                    _ if device["all"].as_bool() == Some(true) => "everything".into(),
                    Some(time) => format!("what was written before {}", local_time(time)),
                    None => "what was written".into(),
                };
                say!(
                    "  elsewhere      {} ({}) has {what}, up to state {generation}",
                    device["name"].as_str().unwrap_or_default(),
                    device["id"].as_str().and_then(|id| id.get(..8)).unwrap_or_default(),
                )?;
            }
        }
    }
    Ok(())
}

fn texts<'a>(value: &'a serde_json::Value, name: &str) -> impl Iterator<Item = &'a str> {
    value[name].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str)
}

/// What of this device is in REPO, and else who wrote last.
fn in_repo(value: &serde_json::Value) -> String {
    let newest = &value["newest"];
    let at = |time: &serde_json::Value| local_time(time.as_i64().unwrap_or_default());
    if value["time"].is_i64() {
        let generation = value["generation"].as_u64().unwrap_or(0);
        format!("generation {generation}, made at {}", at(&value["time"]))
    } else if newest.is_object() {
        let name = newest["name"].as_str().unwrap_or_default();
        format!("nothing of this device yet; {name} wrote last, at {}", at(&newest["time"]))
    } else {
        "nothing yet".into()
    }
}

/// Why no other device is known to have anything of this one. `is_known`: all states can be used.
fn nowhere(others: u64, is_known: bool) -> String {
    match others {
        0 if !is_known => {
            "what other devices have is not known: a state cannot be used (below)".into()
        }
        0 => "no other device has written here: only the sync client can tell what it uploaded"
            .into(),
        1 => "the other device has not shown yet that it has anything of this one".into(),
        _ => {
            format!("none of {others} other devices has shown yet that it has anything of this one")
        }
    }
}
