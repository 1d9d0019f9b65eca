//! Who keeps a mount busy, found as fuser(1) does: working and root
//! directories, open files and mappings of all processes.
//!
//! Invariant: only links in /proc are read, never the mount itself, so a mount
//! that hangs cannot hang this.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

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
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid: &u32| pid != own && uses(&format!("/proc/{pid}"), mountpoint))
        .map(|pid| Holder { pid, name: name(pid) })
        .collect()
}

fn name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().into()
}

fn uses(process: &str, mountpoint: &Path) -> bool {
    let link =
        |path: &Path| std::fs::read_link(path).is_ok_and(|target| target.starts_with(mountpoint));
    ["cwd", "root", "exe"].iter().any(|what| link(&Path::new(process).join(what)))
        || std::fs::read_dir(format!("{process}/fd"))
            .is_ok_and(|open| open.flatten().any(|entry| link(&entry.path())))
        || std::fs::read(format!("{process}/maps")).is_ok_and(|maps| maps_use(&maps, mountpoint))
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
