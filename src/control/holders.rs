//! Which processes use a file system, found as fuser(1) does: working and root
//! directories, open files and mappings of all processes.
//!
//! Invariant: a file system is known by its device number, never by a path, which
//! other mount namespaces have another one for; and none is asked anything, so
//! one that hangs cannot hang this. Nor can a process that hangs in another one:
//! its mappings cannot be read while it changes them, and are waited for at most
//! `MAPS_LIMIT`.

use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::mounts::device_at;

/// How long mappings may take to be read, of all processes together.
const MAPS_LIMIT: Duration = Duration::from_secs(2);

/// A process that uses a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The number of the process.
    pub pid: u32,
    /// The name of the process's command; empty if it cannot be read.
    pub name: String,
}

impl Holder {
    pub(super) fn new(pid: u32) -> Self {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Self { pid, name: name.trim_end().into() }
    }
}

/// Processes that use anything of a file system, and whether there are some that
/// this user may not look into. This process is left out.
pub(super) fn holders(devices: &[u64]) -> (Vec<Holder>, bool) {
    let mut hidden = false;
    let mut found = Vec::new();
    let mut others = Vec::new();
    for pid in processes() {
        let opened = opens(&format!("/proc/{pid}"), devices);
        hidden |= opened.is_none();
        if opened == Some(true) { found.push(pid) } else { others.push(pid) }
    }
    found.extend(mapping(others, devices));
    (found.into_iter().map(Holder::new).collect(), hidden)
}

/// All processes but this one, in the order of their numbers.
pub(super) fn processes() -> Vec<u32> {
    let own = std::process::id();
    let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut numbers: Vec<u32> = numbers.filter(|pid| *pid != own).collect();
    numbers.sort_unstable();
    numbers
}

/// Those of `processes` that have mapped something, in a thread that is left
/// alone if it hangs.
fn mapping(processes: Vec<u32>, devices: &[u64]) -> Vec<u32> {
    let (found, arriving) = mpsc::channel();
    let devices = devices.to_vec();
    let look = move || {
        for pid in processes {
            let maps = std::fs::read(format!("/proc/{pid}/maps"));
            if maps.is_ok_and(|maps| maps_use(&maps, &devices)) && found.send(pid).is_err() {
                return;
            }
        }
    };
    // Without a thread the others are told.
    let _ = thread::Builder::new().name("mappings".into()).spawn(look);
    let end = Instant::now() + MAPS_LIMIT;
    let next = || arriving.recv_timeout(end.saturating_duration_since(Instant::now())).ok();
    std::iter::from_fn(next).collect()
}

/// Whether a process has opened something; `None` if that may not be known.
fn opens(process: &str, devices: &[u64]) -> Option<bool> {
    let process = Path::new(process);
    let uses = |path: &Path| device_at(path).is_ok_and(|device| devices.contains(&device));
    let open = match std::fs::read_dir(process.join("fd")) {
        Ok(open) => open,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
        // It has ended.
        Err(_) => return Some(false),
    };
    let places = ["cwd", "root", "exe"];
    Some(
        places.iter().any(|place| uses(&process.join(place)))
            || open.flatten().any(|entry| uses(&entry.path())),
    )
}

/// The fourth of the fields in a line of maps is the device, in hexadecimal.
fn maps_use(maps: &[u8], devices: &[u64]) -> bool {
    maps.split(|&byte| byte == b'\n').any(|line| {
        let field = line.split(|&byte| byte == b' ').nth(3);
        let device = field.and_then(|field| {
            let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
            let number = |text| u32::from_str_radix(text, 16).ok();
            Some(rustix::fs::makedev(number(major)?, number(minor)?))
        });
        device.is_some_and(|device| devices.contains(&device))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_found() {
        let maps = b"7f00-7f01 r--p 00000000 00:27 12 /mnt/a/lib.so\n7f02-7f03 rw-p 0 00:00 0 \n";
        assert!(maps_use(maps, &[rustix::fs::makedev(0, 0x27)]));
        assert!(!maps_use(maps, &[rustix::fs::makedev(0, 27)]));
        assert!(!maps_use(b"short\n", &[rustix::fs::makedev(0, 0x27)]));
    }

    #[test]
    fn a_working_directory_is_found_and_we_are_not() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().canonicalize().expect("path");
        let _open = std::fs::File::create(path.join("x")).expect("file");
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .current_dir(&path)
            .spawn()
            .expect("child");
        let (found, _) = holders(&[device_at(&path).expect("is there")]);
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert!(found.iter().any(|holder| holder.pid == child.id()), "{found:?}");
        assert!(found.iter().all(|holder| holder.pid != std::process::id()), "ourselves");
    }
}
