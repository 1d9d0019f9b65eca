//! Who keeps a mounted file system alive: processes that use it, other mounts of
//! it wherever they are, what is mounted on it, and what lies above it.
//!
//! A mount can live on in places that this process has no path to: a bind mount,
//! the mount namespace of a container, an overlay. Invariant: the tables of all
//! mount namespaces that have a process are looked at, and no file system is
//! asked anything.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::holders::{Holder, holders, processes};
use super::mounts::{MountEntry, MountId, parse_mountinfo, read_mounts};

/// How many of each kind are named.
const SHOWN: usize = 8;

/// A mount that keeps a file system alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Where, as those see it who have it.
    pub place: PathBuf,
    /// How it keeps it alive.
    pub how: How,
    /// A process whose mount namespace has the mount, if this process's has not.
    pub process: Option<Holder>,
}

/// How a mount keeps a file system alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Another mount of the same file system.
    Same,
    /// A file system that is mounted on the mount.
    Within,
    /// An overlay file system with the mount as a layer.
    Overlay,
}

/// Who keeps a mounted file system alive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// Processes that use it.
    pub processes: Vec<Holder>,
    /// Mounts that use it, beside the mount that was asked about.
    pub mounts: Vec<Elsewhere>,
    /// Block devices that are made of a file in it.
    pub loops: Vec<String>,
    /// Some processes belong to others, and only root can look into them.
    pub hidden: bool,
    /// A process could not be looked at in time.
    pub unfinished: bool,
}

/// How long scanning the processes may take.
const SCAN_TIMEOUT: Duration = Duration::from_secs(3);

/// Looks, but no longer than that. A process that starts another program cannot be
/// looked into until its files are closed (execve(2) holds `exec_update_lock`
/// meanwhile); where one of those hangs, so does whoever looks.
fn in_time(look: impl FnOnce() -> Users + Send + 'static) -> Users {
    let (done, found) = mpsc::channel();
    // If nobody waits any more, nobody wants it.
    let looking = std::thread::spawn(move || drop(done.send(look())));
    match found.recv_timeout(SCAN_TIMEOUT) {
        Ok(users) => {
            // Whoever forks next must be alone.
            let _ = looking.join();
            users
        }
        Err(_) => Users { unfinished: true, ..Users::default() },
    }
}

/// A table of mounts, and whose it is: a process of another mount namespace, or
/// this one.
struct Table {
    pid: Option<u32>,
    mounts: Vec<MountEntry>,
}

impl Users {
    /// Looks for all that keeps the file system of a mount alive, beside the mount
    /// itself and what goes with it. `place` is where it is, or was.
    pub(crate) fn of(mount: &MountId, place: &Path) -> Self {
        let (mount, place) = (*mount, place.to_path_buf());
        in_time(move || Self::look(&mount, &place))
    }

    fn look(mount: &MountId, place: &Path) -> Self {
        let tables = tables();
        let mounts = elsewhere(&tables, mount, place);
        let mut devices = vec![mount.device()];
        devices.extend(mounts.iter().filter(|(_, at)| at.how == How::Overlay).map(|(on, _)| on));
        let (processes, hidden) = holders(&devices);
        let mounts = mounts.into_iter().map(|(_, elsewhere)| elsewhere).collect();
        Self { processes, mounts, loops: loops(place), hidden, unfinished: false }
    }

    /// Looks for the mounts alone.
    pub(crate) fn mounts_of(mount: &MountId, place: &Path) -> Self {
        let (mount, place) = (*mount, place.to_path_buf());
        in_time(move || {
            let mounts = elsewhere(&tables(), &mount, &place);
            let mounts = mounts.into_iter().map(|(_, elsewhere)| elsewhere).collect();
            Self { mounts, ..Self::default() }
        })
    }

    /// Whether nobody was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.mounts.is_empty() && self.loops.is_empty()
    }

    /// Paths by which this process may reach the file system without its mount.
    pub(crate) fn ways_in(&self) -> impl Iterator<Item = PathBuf> {
        self.mounts.iter().filter(|at| at.how == How::Same).map(|at| match &at.process {
            None => at.place.clone(),
            Some(who) => {
                let inside = at.place.strip_prefix("/").unwrap_or(&at.place);
                Path::new(&format!("/proc/{}/root", who.pid)).join(inside)
            }
        })
    }
}

impl fmt::Display for Users {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = |who: &Holder| match who.name.as_str() {
            "" => format!("process {}", who.pid),
            name => format!("{name} (process {})", who.pid),
        };
        let mount = |at: &Elsewhere| {
            let place = at.place.display();
            let mounted = match (at.how, &at.process) {
                (How::Same, None) => return format!("another mount of it on {place}"),
                (How::Within, _) => return format!("what is mounted on {place}"),
                (How::Overlay, None) => return format!("the overlay mounted on {place}"),
                (How::Same, Some(who)) => format!("{} has it on {place}", process(who)),
                (How::Overlay, Some(who)) => {
                    format!("{} has an overlay of it on {place}", process(who))
                }
            };
            format!("another mount namespace ({mounted})")
        };
        let loops = self.loops.iter().map(|name| format!("the block device {name}"));
        let kinds: [Vec<String>; 3] = [
            self.processes.iter().map(process).collect(),
            self.mounts.iter().map(mount).collect(),
            loops.collect(),
        ];
        let mut all = Vec::new();
        for kind in &kinds {
            all.extend(kind.iter().take(SHOWN).cloned());
            if kind.len() > SHOWN {
                all.push(format!("{} more", kind.len() - SHOWN));
            }
        }
        if self.unfinished {
            return out.write_str(
                "somebody: the processes of this machine could not all be looked at, because one \
                 of them hangs",
            );
        }
        match (all.is_empty(), self.hidden) {
            (true, true) => out.write_str("another user, whose processes only root can see"),
            (true, false) => out.write_str(
                "somebody whom no process and no table of mounts shows (the kernel itself, or a \
                 mount namespace without a process)",
            ),
            (false, true) => {
                write!(out, "{} (only root can see processes of others)", all.join(", "))
            }
            (false, false) => out.write_str(&all.join(", ")),
        }
    }
}

/// The tables of all mount namespaces; this process's own first.
fn tables() -> Vec<Table> {
    let own = std::fs::read_link("/proc/self/ns/mnt").ok();
    let mut namespaces: HashSet<PathBuf> = own.into_iter().collect();
    let mut contents: HashSet<Vec<u8>> = HashSet::new();
    let mut tables = vec![Table { pid: None, mounts: read_mounts().unwrap_or_default() }];
    contents.extend(std::fs::read("/proc/self/mountinfo"));
    for pid in processes() {
        // Of another user's process this may not be read, but its table may.
        let namespace = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        if namespace.as_ref().is_some_and(|namespace| namespaces.contains(namespace)) {
            continue;
        }
        let Ok(content) = std::fs::read(format!("/proc/{pid}/mountinfo")) else { continue };
        namespaces.extend(namespace);
        let mounts = parse_mountinfo(&content);
        if contents.insert(content) {
            tables.push(Table { pid: Some(pid), mounts });
        }
    }
    tables
}

/// Mounts that use the file system of `mount`, each with its own device number.
fn elsewhere(tables: &[Table], mount: &MountId, place: &Path) -> Vec<(u64, Elsewhere)> {
    let followers = Followers::of(tables, mount);
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for table in tables {
        let places: Vec<&Path> = table
            .mounts
            .iter()
            .filter(|entry| entry.device == mount.device())
            .map(|entry| entry.mountpoint.as_path())
            .chain([place])
            .collect();
        for entry in &table.mounts {
            let on_it = table.mounts.iter().any(|on| on.id == entry.parent && mount.is_entry(on));
            let how = if entry.device == mount.device() {
                How::Same
            } else if on_it {
                How::Within
            } else if entry.kind == "overlay" && lies_over(entry, &places) {
                How::Overlay
            } else {
                continue;
            };
            let itself = mount.is_entry(entry);
            if itself || followers.include(table, entry) || !seen.insert(entry.id) {
                continue;
            }
            let process = table.pid.map(Holder::new);
            let place = entry.mountpoint.clone();
            found.push((entry.device, Elsewhere { place, how, process }));
        }
    }
    found
}

/// Whether one of an overlay's layers is at or below one of these places.
fn lies_over(overlay: &MountEntry, places: &[&Path]) -> bool {
    overlay
        .options
        .as_bytes()
        .split(|byte| matches!(byte, b',' | b'=' | b':'))
        .map(|piece| Path::new(std::ffi::OsStr::from_bytes(piece)))
        .any(|piece| piece.is_absolute() && places.iter().any(|place| piece.starts_with(place)))
}

/// Mounts that the kernel unmounts together with a mount: copies at the same place
/// where what is mounted on its parent spreads to (`mount_namespaces(7)`).
struct Followers {
    /// The groups that it spreads to.
    groups: HashSet<u64>,
    parent: Option<MountEntry>,
    /// Where the mount is in the file system below it.
    place: PathBuf,
}

impl Followers {
    fn of(tables: &[Table], mount: &MountId) -> Self {
        let pair = tables.iter().find_map(|table| {
            let entry = table.mounts.iter().find(|entry| mount.is_entry(entry))?;
            let parent = table.mounts.iter().find(|parent| parent.id == entry.parent)?;
            Some((place_in(parent, entry), parent.clone()))
        });
        let Some((place, parent)) = pair else {
            return Self { groups: HashSet::new(), parent: None, place: PathBuf::new() };
        };
        let mut groups: HashSet<u64> = parent.shared.into_iter().collect();
        let all = || tables.iter().flat_map(|table| &table.mounts);
        // A copy's copies too.
        let mut known = usize::MAX;
        while known != groups.len() {
            known = groups.len();
            let next: Vec<u64> = all()
                .filter(|entry| entry.master.is_some_and(|master| groups.contains(&master)))
                .filter_map(|entry| entry.shared)
                .collect();
            groups.extend(next);
        }
        Self { groups, parent: Some(parent), place }
    }

    fn include(&self, table: &Table, entry: &MountEntry) -> bool {
        let Some(own) = &self.parent else { return false };
        let by_number: HashMap<u64, &MountEntry> =
            table.mounts.iter().map(|mount| (mount.id, mount)).collect();
        let Some(parent) = by_number.get(&entry.parent) else { return false };
        let spreads = [parent.shared, parent.master]
            .into_iter()
            .flatten()
            .any(|group| self.groups.contains(&group));
        spreads
            && parent.id != own.id
            && parent.device == own.device
            && place_in(parent, entry) == self.place
    }
}

/// Where `entry` is in the file system that `parent` shows.
fn place_in(parent: &MountEntry, entry: &MountEntry) -> PathBuf {
    let below = entry.mountpoint.strip_prefix(&parent.mountpoint);
    parent.root.join(below.unwrap_or(&entry.mountpoint))
}

/// Block devices made of a file below `place`.
fn loops(place: &Path) -> Vec<String> {
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    devices
        .filter(|device| {
            let file = std::fs::read(device.path().join("loop/backing_file"));
            file.is_ok_and(|file| {
                let file = file.strip_suffix(b"\n").unwrap_or(&file);
                Path::new(std::ffi::OsStr::from_bytes(file)).starts_with(place)
            })
        })
        .map(|device| format!("/dev/{}", device.file_name().to_string_lossy()))
        .collect()
}
