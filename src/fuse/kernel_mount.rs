//! mount(2) and umount(2), or fusermount3 for users who are not root.
//!
//! fuser's own mounting is not used: it cannot pass commas in the source,
//! loses the mount when unmounting is refused as busy, and filters requests
//! by user in a way that refuses the kernel's own writeback of times.
//! Invariant: only the very mount that was made here is unmounted: not one that
//! lies over it, and not the next one at its place ([`MountId`]).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::options::{Access, MountOptions};
use crate::control::{MountId, MountLocation, Users, read_mounts};
use crate::io::with_first_limits;

/// The type that /proc/self/mountinfo shows.
pub(super) const TYPE: &str = "fuse.amberfs";
/// The environment variable by which fusermount3 gets its socket.
const FUSERMOUNT_SOCKET: &str = "_FUSE_COMMFD";
/// How much the kernel reads ahead, where we may say so.
const READAHEAD_KIB: u32 = 1024;

/// A mount in place.
pub(super) struct KernelMount {
    /// Where it was made.
    path: PathBuf,
    id: MountId,
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
    // Until the mount is there.
    let _writable = Writable::make(mountpoint);
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

/// A mountpoint that its owner made read-only, so that nobody writes into it while
/// nothing is mounted: fusermount3 refuses it, so it is writable for the moment of
/// mounting.
struct Writable {
    folder: OwnedFd,
    mode: Mode,
}

impl Writable {
    fn make(mountpoint: &Path) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(mountpoint, flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&folder).ok()?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        let locked =
            stat.st_uid == rustix::process::geteuid().as_raw() && !mode.contains(Mode::WUSR);
        (locked && rustix::fs::fchmod(&folder, mode | Mode::WUSR).is_ok())
            .then_some(Self { folder, mode })
    }
}

impl Drop for Writable {
    fn drop(&mut self) {
        // Of the folder below: the mount, if there is one by now, is another.
        if let Err(error) = rustix::fs::fchmod(&self.folder, self.mode) {
            log::warn!("the folder below the mount stays writable: {error}");
        }
    }
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
    /// ever; the guard that would end it needs to know the mount.
    pub(super) fn find(path: &Path, by_root: bool) -> io::Result<Self> {
        let id = MountId::at(path)?;
        let ours = read_mounts()?.iter().any(|entry| id.is_entry(entry) && entry.kind == TYPE);
        if !ours {
            return Err(io::Error::other("something else was mounted there at the same time"));
        }
        Ok(Self { path: path.to_path_buf(), id, by_root })
    }

    pub(super) fn id(&self) -> MountId {
        self.id
    }

    /// Where the mount is now.
    pub(super) fn location(&self) -> io::Result<MountLocation> {
        self.id.find()
    }

    /// Who keeps its file system alive, beside the mount itself.
    pub(super) fn users(&self) -> Users {
        Users::of(&self.id, &self.path)
    }

    /// Which mounts do.
    pub(super) fn other_mounts(&self) -> Users {
        Users::mounts_of(&self.id, &self.path)
    }

    /// Whether the kernel still has the file system, mounted here or not; true
    /// also where that cannot be known.
    pub(super) fn is_alive(&self) -> bool {
        let devices = Path::new("/sys/class/bdi");
        !devices.exists() || devices.join(self.device_name()).exists()
    }

    fn device_name(&self) -> String {
        let device = self.id.device();
        format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
    }

    /// Raises the readahead, once the kernel has greeted fuser, which can only
    /// lower what the kernel offers; for users who are not root it does nothing.
    pub(super) fn raise_readahead(&self) {
        let path = format!("/sys/class/bdi/{}/read_ahead_kb", self.device_name());
        if let Err(error) = std::fs::write(path, READAHEAD_KIB.to_string()) {
            log::debug!("readahead stays at the kernel's default: {error}");
        }
    }

    /// The mount's root directory, also usable after detaching; `None` if no path
    /// leads there. Where the mount is gone or covered, another one of the same
    /// file system will do.
    pub(super) fn open_root(&self) -> Option<File> {
        let same = |path: &Path| {
            let root = File::open(path).ok()?;
            (rustix::fs::fstat(&root).ok()?.st_dev == self.id.device()).then_some(root)
        };
        match self.location() {
            Ok(MountLocation::At(path)) => same(&path),
            _ => self.other_mounts().ways_in().find_map(|path| same(&path)),
        }
    }

    /// Unmounts; `detach` also if busy: the name goes at once, the rest when
    /// the last user is gone. A mount that is gone already is no error.
    pub(super) fn unmount(&self, detach: bool) -> io::Result<()> {
        match self.location()? {
            MountLocation::At(path) => unmount_path(&path, detach, self.by_root),
            MountLocation::Gone => Ok(()),
            // Unmounting what somebody else mounted over ours would be worse than
            // leaving ours.
            MountLocation::Covered(..) => Err(io::Error::from_raw_os_error(libc::EBUSY)),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::super::dead_mount_at;
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
            let found = KernelMount::find(&asked, by_root).map(|mount| mount.id().device());
            let _ = done.send(found);
        });
        let found = found.recv_timeout(std::time::Duration::from_secs(20));
        // Whoever waits for it goes on.
        drop(device);
        asking.join().unwrap();
        dead_mount_at(&path).unwrap().expect("nobody answers").clear().unwrap();
        let before = rustix::fs::stat(&path).unwrap().st_dev;
        let found = found.expect("nothing waits").unwrap();
        assert_ne!(found, before, "the mount was found, not what lies below");
    }
}
