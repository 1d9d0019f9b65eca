//! Who keeps a mount busy, found as fuser(1) does: working and root
//! directories, open files and mappings of all processes.
//!
//! Invariant: nothing of the mount itself is read, so a mount that hangs cannot
//! hang this. Nor can a process that hangs in another one: its mappings cannot be
//! read while it changes them, and are waited for at most `MAPS_LIMIT`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long mappings may take to be read, of all processes together.
const MAPS_LIMIT: Duration = Duration::from_secs(2);

/// A process that uses a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its command's name; empty if it cannot be read.
    pub name: String,
}

/// Processes that use anything at or below `mountpoint`; those of other users
/// can only be seen by root. This process is left out.
pub fn holders(mountpoint: &Path) -> Vec<Holder> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id();
    let (mut found, others): (Vec<u32>, Vec<u32>) = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid: &u32| pid != own)
        .partition(|pid| opens(&format!("/proc/{pid}"), mountpoint));
    found.extend(mapping(others, mountpoint));
    found.into_iter().map(|pid| Holder { pid, name: name(pid) }).collect()
}

/// Those of `processes` that have mapped something, in a thread that is left
/// alone if it hangs.
fn mapping(processes: Vec<u32>, mountpoint: &Path) -> Vec<u32> {
    let (found, arriving) = mpsc::channel();
    let mountpoint = mountpoint.to_path_buf();
    let look = move || {
        for pid in processes {
            let maps = std::fs::read(format!("/proc/{pid}/maps"));
            if maps.is_ok_and(|maps| maps_use(&maps, &mountpoint)) && found.send(pid).is_err() {
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

fn name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().into()
}

fn opens(process: &str, mountpoint: &Path) -> bool {
    let link =
        |path: &Path| std::fs::read_link(path).is_ok_and(|target| target.starts_with(mountpoint));
    ["cwd", "root", "exe"].iter().any(|what| link(&Path::new(process).join(what)))
        || std::fs::read_dir(format!("{process}/fd"))
            .is_ok_and(|open| open.flatten().any(|entry| link(&entry.path())))
}

/// A line of maps is five fields, then the path.
fn maps_use(maps: &[u8], mountpoint: &Path) -> bool {
    maps.split(|&byte| byte == b'\n').any(|line| {
        let path = line.iter().position(|&byte| byte == b'/').map(|start| &line[start..]);
        path.is_some_and(|path| {
            Path::new(std::ffi::OsStr::from_bytes(path)).starts_with(mountpoint)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_found() {
        let maps = b"7f00-7f01 r--p 00000000 00:27 12 /mnt/a/lib.so\n7f02-7f03 rw-p 0 00:00 0 \n";
        assert!(maps_use(maps, Path::new("/mnt/a")));
        assert!(!maps_use(maps, Path::new("/mnt/b")));
        assert!(!maps_use(maps, Path::new("/mnt/a/li")), "only whole names");
    }

    #[test]
    fn a_working_directory_is_found_and_we_are_not() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().canonicalize().expect("path");
        let _open = std::fs::File::create(path.join("x")).expect("file");
        assert_eq!(holders(&path), [], "ourselves");
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .current_dir(&path)
            .spawn()
            .expect("child");
        let found = holders(&path);
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert!(found.iter().any(|holder| holder.pid == child.id()), "{found:?}");
    }
}
