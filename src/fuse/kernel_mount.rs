//! mount(2) and umount(2), or fusermount3 for users who are not root.
//!
//! fuser's own mounting is not used: it cannot pass commas in the source,
//! loses the mount when unmounting is refused as busy, and filters requests
//! by user in a way that refuses the kernel's own writeback of times.
//! Invariant: only a mount whose device number is ours is unmounted.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::FdFlags;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::options::{Access, MountOptions};
use crate::control::{mount_at, read_mounts};
use crate::io::with_first_limits;

/// The type that /proc/self/mountinfo shows.
const TYPE: &str = "fuse.amberfs";
/// The environment variable by which fusermount3 gets its socket.
const FUSERMOUNT_SOCKET: &str = "_FUSE_COMMFD";
/// How much the kernel reads ahead, where we may say so.
const READAHEAD_KIB: u32 = 1024;

/// A mount in place.
pub(super) struct KernelMount {
    path: PathBuf,
    /// Of the mounted file system; known once it answers.
    device: u64,
    by_root: bool,
}

/// Mounts and returns the open connection to the kernel. `mountpoint` must be
/// absolute and free of symlinks.
pub(super) fn mount(mountpoint: &Path, options: &MountOptions) -> io::Result<(OwnedFd, bool)> {
    if rustix::process::geteuid().is_root() {
        match mount_by_root(mountpoint, options) {
            // A container's root may lack CAP_SYS_ADMIN.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            result => return result.map(|device| (device, true)),
        }
    }
    mount_by_helper(mountpoint, options).map(|device| (device, false))
}

fn mount_by_root(mountpoint: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mut flags = MountFlags::empty();
    for (set, flag) in [
        (options.read_only, MountFlags::RDONLY),
        (options.no_devices, MountFlags::NODEV),
        (options.no_suid, MountFlags::NOSUID),
        (options.no_exec, MountFlags::NOEXEC),
        (true, MountFlags::NOATIME),
    ] {
        if set {
            flags |= flag;
        }
    }
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if options.access != Access::Owner {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).expect("has no NUL");
    rustix::mount::mount(options.shown_source(), mountpoint, TYPE, flags, data.as_c_str())?;
    Ok(device)
}

fn mount_by_helper(mountpoint: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    // The helper finds its end by number, so it must outlive the exec.
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?;
    let mut list = format!(
        "{},nosuid,nodev,noatime,default_permissions,subtype=amberfs,fsname={}",
        if options.read_only { "ro" } else { "rw" },
        options.shown_source(),
    );
    if options.no_exec {
        list.push_str(",noexec");
    }
    if options.access != Access::Owner {
        list.push_str(",allow_other");
    }
    let output = with_first_limits(&mut Command::new("fusermount3"))
        .arg("-o")
        .arg(list)
        .arg("--")
        .arg(mountpoint)
        .env(FUSERMOUNT_SOCKET, theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "fusermount3 could not be started ({error}); is the package fuse3 installed?"
                ),
            )
        })?;
    drop(theirs);
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(text.trim().to_string()));
    }
    receive_descriptor(&ours)
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(
        socket.as_fd(),
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(descriptor);
        }
    }
    Err(io::Error::other("fusermount3 sent no descriptor"))
}

impl KernelMount {
    /// Finds a mount that was made just now. Asks the kernel only, not the mount:
    /// killed while it waits for an answer of its own event loops, which are gone
    /// then, the process would keep the connection, and the mountpoint hang, for
    /// ever; the guard that would end it needs to know the device.
    pub(super) fn find(path: &Path, by_root: bool) -> io::Result<Self> {
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let device = device_of(&root)?;
        let mount = Self { path: path.to_path_buf(), device, by_root };
        mount.raise_readahead();
        Ok(mount)
    }

    pub(super) fn device(&self) -> u64 {
        self.device
    }

    /// fuser can only lower the readahead that the kernel offers; root can
    /// raise it here, for others this does nothing.
    fn raise_readahead(&self) {
        let (major, minor) = (rustix::fs::major(self.device), rustix::fs::minor(self.device));
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        if let Err(error) = std::fs::write(path, READAHEAD_KIB.to_string()) {
            log::debug!("readahead stays at the kernel's default: {error}");
        }
    }

    /// The mount's root directory, also usable after detaching.
    pub(super) fn open_root(&self) -> io::Result<File> {
        let root = File::open(&self.path)?;
        if rustix::fs::fstat(&root)?.st_dev != self.device {
            return Err(io::Error::other("another file system covers the mountpoint"));
        }
        Ok(root)
    }

    /// Unmounts; `detach` also if busy: the name goes at once, the rest when
    /// the last user is gone.
    pub(super) fn unmount(&self, detach: bool) -> io::Result<()> {
        // Unmounting what somebody else mounted over ours would be worse than
        // leaving ours.
        match rustix::fs::stat(&self.path) {
            Ok(stat) if stat.st_dev != self.device => {
                return Err(io::Error::other("another file system covers the mountpoint"));
            }
            // A connection that is gone still has its mount.
            _ => {}
        }
        unmount_path(&self.path, detach, self.by_root)
    }
}

/// The device of what an `O_PATH` descriptor names, without asking a file system that
/// may not answer.
fn device_of(file: &OwnedFd) -> io::Result<u64> {
    let kept = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(file, "", kept, StatxFlags::empty())?;
    Ok(rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor))
}

/// Unmounts whatever FUSE mount is on top at `path`.
pub(super) fn unmount_path(path: &Path, detach: bool, by_root: bool) -> io::Result<()> {
    if by_root {
        let mut flags = UnmountFlags::NOFOLLOW;
        if detach {
            flags |= UnmountFlags::DETACH;
        }
        return Ok(rustix::mount::unmount(path, flags)?);
    }
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if detach {
        command.arg("-z");
    }
    let command = with_first_limits(command.arg("--").arg(path).stdin(Stdio::null()));
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_string();
    if text.to_lowercase().contains("busy") {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    Err(io::Error::other(text))
}

/// Clears away a mount whose daemon was killed, so that nobody meets
/// "transport endpoint is not connected"; tells whether there was one.
pub fn clear_dead_mount(mountpoint: &Path) -> bool {
    let Ok(path) = std::path::absolute(mountpoint) else { return false };
    let mounts = read_mounts().unwrap_or_default();
    // Only our own kind: another program's dead mount is not ours to clear.
    let ours = mount_at(&mounts, &path).is_some_and(|mount| mount.kind == TYPE);
    // stat(2) would be answered from the kernel's cache.
    let dead = || {
        let asked = rustix::fs::statvfs(&path);
        matches!(asked, Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED))
    };
    ours && dead() && {
        let by_root = rustix::process::geteuid().is_root();
        unmount_path(&path, true, by_root).is_ok()
    }
}

/// Ends a mount whose daemon is gone, although one of its threads may still
/// keep the connection open: nothing that waits for it would ever go on. Does
/// nothing unless the mount at `mountpoint` is of `device`.
pub fn clear_orphan(mountpoint: &Path, device: u64) {
    // Neither may ask the file system, which does not answer any more.
    let Ok(root) = rustix::fs::open(mountpoint, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    else {
        return;
    };
    if device_of(&root).ok() != Some(device) {
        return;
    }
    // Open to its owner, where this file system is mounted (fuse(4), "fusectl").
    let connection = format!("/sys/fs/fuse/connections/{}/abort", rustix::fs::minor(device));
    let _ = std::fs::write(connection, "1");
    if rustix::process::geteuid().is_root() {
        // By its number: another one may be mounted over it meanwhile.
        let path = format!("/proc/self/fd/{}", root.as_raw_fd());
        // Forced: that too ends the connection.
        let flags = UnmountFlags::DETACH | UnmountFlags::FORCE;
        if rustix::mount::unmount(path, flags).is_ok() {
            return;
        }
    }
    drop(root);
    let _ = unmount_path(mountpoint, true, false);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A daemon that was killed between mounting and the start of its guard waited for
    /// itself: it could not end, and the mountpoint hung for good.
    #[test]
    fn a_mount_is_found_without_an_answer_of_it() {
        if !Path::new("/dev/fuse").exists() {
            eprintln!("SKIPPED a mount that does not answer: /dev/fuse is missing");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        // Nobody reads from it.
        let (device, by_root) = mount(&path, &MountOptions::default()).unwrap();
        let (done, found) = std::sync::mpsc::channel();
        let asked = path.clone();
        let asking = std::thread::spawn(move || {
            let _ = done.send(KernelMount::find(&asked, by_root).map(|mount| mount.device()));
        });
        let found = found.recv_timeout(std::time::Duration::from_secs(20));
        // Whoever waits for it goes on.
        drop(device);
        asking.join().unwrap();
        clear_dead_mount(&path);
        let before = rustix::fs::stat(&path).unwrap().st_dev;
        let found = found.expect("nothing waits").unwrap();
        assert_ne!(found, before, "the mount was found, not what lies below");
    }
}
