//! Mounts whose daemon has died.
//!
//! Such a mount stays, and every call in it fails: programs that went on writing
//! would otherwise write plain files into the folder below. Invariant: what is
//! ended or cleared here was seen to be the mount that is meant, a moment before.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::process::{Gid, Uid};

use super::kernel_mount::{TYPE, unmount_path};
use crate::control::{MountEntry, MountId, MountLocation, look_at, read_mounts};

/// How long a live mount may take to answer; one that takes longer counts as alive.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Where the kernel shows connections (fuse(4), "fusectl"), as systemd mounts it.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// A mount whose connection to a daemon has ended.
#[derive(Clone, Debug)]
pub struct DeadMount {
    /// Where the dead mount is.
    pub mountpoint: PathBuf,
    /// What it shows as its source: REPO.
    pub source: OsString,
    /// Whether it was mounted read-only.
    pub read_only: bool,
    id: MountId,
}

/// Looks whether what is on top at `path` is a mount of ours that has died.
pub fn dead_mount_at(path: &Path) -> io::Result<Option<DeadMount>> {
    let path = std::path::absolute(path)?;
    let top = look_at(&path)?;
    let id = MountId::of(&top)?;
    let entry = read_mounts()?.into_iter().find(|entry| id.is_entry(entry));
    // Only of our own kind: another program's dead mount is not ours to clear.
    let Some(entry) = entry.filter(|entry| entry.mountpoint == path && entry.kind == TYPE) else {
        return Ok(None);
    };
    if answers(top, &entry) != Some(false) {
        return Ok(None);
    }
    let MountEntry { source, read_only, .. } = entry;
    Ok(Some(DeadMount { mountpoint: path, source, read_only, id }))
}

impl DeadMount {
    /// Clears it away, also if programs still have files of it open.
    pub fn clear(&self) -> io::Result<()> {
        if MountId::at(&self.mountpoint)? != self.id {
            return Err(io::Error::other("it is not what is mounted there any more"));
        }
        let by_root = rustix::process::geteuid().is_root();
        match unmount_path(&self.mountpoint, true, by_root) {
            // A container's root may lack CAP_SYS_ADMIN.
            Err(error) if by_root && error.kind() == io::ErrorKind::PermissionDenied => {
                unmount_path(&self.mountpoint, true, false)
            }
            result => result,
        }
    }
}

/// Whether the file system of a mount has a daemon; `None` if it does not answer
/// in time.
fn answers(root: OwnedFd, entry: &MountEntry) -> Option<bool> {
    let (told, answer) = mpsc::channel();
    let owner = owner_of(entry);
    let ask = move || {
        // To others than its owner the kernel answers in its place. This changes
        // the rights of this thread only.
        if let Some((uid, gid)) = owner.filter(|_| rustix::process::geteuid().is_root()) {
            let _ = rustix::thread::set_thread_res_gid(gid, gid, gid);
            let _ = rustix::thread::set_thread_res_uid(uid, uid, uid);
        }
        // stat(2) would be answered from the kernel's cache.
        let asked = rustix::fs::fstatvfs(&root);
        drop(root);
        let _ = told.send(!matches!(asked, Err(Errno::NOTCONN | Errno::CONNABORTED)));
    };
    std::thread::Builder::new().name("asking".into()).spawn(ask).ok()?;
    answer.recv_timeout(ANSWER_LIMIT).ok()
}

/// The user and group that a mount belongs to, by the options that the kernel shows.
fn owner_of(entry: &MountEntry) -> Option<(Uid, Gid)> {
    let value = |name: &[u8]| {
        let mut options = entry.options.as_bytes().split(|&byte| byte == b',');
        let digits = options.find_map(|option| option.strip_prefix(name))?;
        std::str::from_utf8(digits).ok()?.parse::<u32>().ok()
    };
    Some((Uid::from_raw(value(b"user_id=")?), Gid::from_raw(value(b"group_id=")?)))
}

/// Ends the connection of a mount whose daemon is gone, although one of its
/// threads may still keep it open: nothing that waits for it would ever go on.
/// The mount stays, and answers `ENOTCONN`. Does nothing where the mount is gone,
/// or cannot be told from another one.
pub fn end_connection(mount: &MountId) -> io::Result<()> {
    let MountLocation::At(path) = mount.find()? else { return Ok(()) };
    // While it is open, nothing else gets its device number.
    let root = look_at(&path)?;
    if MountId::of(&root)? != *mount {
        return Ok(());
    }
    if !mount.is_unique() {
        // The next mount may have the same numbers. That one answers.
        let entry = read_mounts()?.into_iter().find(|entry| mount.is_entry(entry));
        let again = look_at(&path)?;
        if entry.is_none_or(|entry| answers(again, &entry) == Some(true)) {
            return Ok(());
        }
    }
    abort(mount.device())
}

/// Ends the connection of a file system. Its owner may, where fusectl is mounted;
/// root may everywhere.
fn abort(device: u64) -> io::Result<()> {
    let connection = rustix::fs::minor(device).to_string();
    let file = Path::new(&connection).join("abort");
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let usual = Path::new(CONNECTIONS).join(&file);
    let opened = rustix::fs::openat(CWD, usual, flags, Mode::empty()).or_else(|_| {
        // One of our own, which is mounted nowhere.
        let context = rustix::mount::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(&context)?;
        let attributes = MountAttrFlags::empty();
        let root = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        rustix::fs::openat(root, &file, flags, Mode::empty())
    });
    rustix::io::write(opened?, b"1")?;
    Ok(())
}
