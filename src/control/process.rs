//! The process of a mount's daemon, found without its socket.
//!
//! The daemon is closed to others, even to its own user; its guard is not, and has the
//! daemon's number and the mount's on its command line. Invariant: a process of
//! another user is not believed, whatever it calls itself.

use super::mounts::{MountEntry, MountId};

/// The argument of a guard that the number of its daemon follows.
pub(crate) const GUARD_ARGUMENT: &str = "--guard-of";

/// The daemon of a mount, if it is `owner`'s and has a guard.
pub(crate) fn daemon_of(mount: &MountEntry, owner: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?;
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| is_of(*pid, owner))
        .filter_map(|pid: u32| guarded(&std::fs::read(format!("/proc/{pid}/cmdline")).ok()?, mount))
        .find(|pid| is_of(*pid, owner))
}

/// The daemon whose guard for `mount` has this command line.
fn guarded(line: &[u8], mount: &MountEntry) -> Option<u32> {
    let mut arguments = line.split(|&byte| byte == 0).skip(1);
    if arguments.next()? != GUARD_ARGUMENT.as_bytes() {
        return None;
    }
    let mut next = || std::str::from_utf8(arguments.next()?).ok();
    let daemon = next()?.parse().ok()?;
    let id: MountId = next()?.parse().ok()?;
    id.is_entry(mount).then_some(daemon)
}

/// Whether a process is there and is `owner`'s.
fn is_of(pid: u32, owner: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = line.and_then(|uids| uids.split_ascii_whitespace().next()?.parse().ok());
    uid == Some(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_guard_of_this_mount_tells() {
        let line = b"42 27 0:39 / /mnt/a rw - fuse.amberfs /r rw,user_id=0\n";
        let mount = &crate::control::parse_mountinfo(line)[0];
        let device = rustix::fs::makedev(0, 39);
        let guard = format!("amberfs\0--guard-of\x0012\x0077:42:{device}\0");
        assert_eq!(guarded(guard.as_bytes(), mount), Some(12));
        let other = format!("amberfs\0--guard-of\x0012\x0077:43:{device}\0");
        assert_eq!(guarded(other.as_bytes(), mount), None);
        assert_eq!(guarded(b"amberfs\0mount\0/mnt/a\0", mount), None);
        assert_eq!(guarded(b"x\0--guard-of\0no\0/mnt/a\0", mount), None);
    }

    #[test]
    fn a_process_is_its_users() {
        let own = rustix::process::getuid().as_raw();
        assert!(is_of(std::process::id(), own));
        assert!(!is_of(std::process::id(), own + 1));
    }
}
