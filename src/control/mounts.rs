//! What is mounted where, and which mount is which, as the kernel tells it.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};

/// `STATX_MNT_ID_UNIQUE` (Linux 6.8), which rustix has no name for.
const UNIQUE_ID: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// One line of mountinfo (proc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The mount's number, which the kernel uses again.
    pub id: u64,
    /// The number of the mount that it is mounted on.
    pub parent: u64,
    /// The device number of its file system.
    pub device: u64,
    /// The folder of the file system that is shown.
    pub root: PathBuf,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Whether this mount shows the file system read-only.
    pub read_only: bool,
    /// The group of mounts that what is mounted on this one spreads to.
    pub shared: Option<u64>,
    /// The group of mounts from which it spreads to this one.
    pub master: Option<u64>,
    /// File system type, such as `fuse.amberfs`.
    pub kind: String,
    /// What it came from, as whoever mounted it says.
    pub source: OsString,
    /// The file system's own options, as it shows them.
    pub options: OsString,
}

/// Identifies a mount: one file system at one mountpoint, from mounting to
/// unmounting.
///
/// The kernel gives a device number, and the number of a mount, to the next
/// mount as soon as they are free. A unique number is never given again; before
/// Linux 6.8 there is none, and device and mount number together must do.
#[derive(Clone, Copy, Debug)]
pub struct MountId {
    unique: Option<u64>,
    number: u64,
    device: u64,
}

/// Where a mount is now, and whether something covers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountLocation {
    /// At this mountpoint, and nothing is mounted over it.
    At(PathBuf),
    /// At this mountpoint, below a file system of this type (empty if that is not known).
    Covered(PathBuf, String),
    /// Not mounted any more, as far as this process sees.
    Gone,
}

impl MountId {
    /// The mount that is on top at `path`.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        Self::of(&look_at(path)?)
    }

    /// The mount that an open file, which may be an `O_PATH` one, lies in. Asks
    /// the kernel only: a file system that does not answer keeps nobody waiting.
    pub(crate) fn of(file: &OwnedFd) -> io::Result<Self> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
        let number =
            info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
        let number =
            number.ok_or_else(|| io::Error::other("the kernel tells no mount of a file"))?;
        let kept = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        // A FUSE mount of another user refuses this one.
        let unique = rustix::fs::statx(file, "", kept, UNIQUE_ID).ok().and_then(|told| {
            let known = told.stx_mask & UNIQUE_ID.bits() != 0;
            known.then_some(told.stx_mnt_id)
        });
        Ok(Self { unique, number, device: device_of(file.as_fd(), "", AtFlags::EMPTY_PATH)? })
    }

    /// The device number of the mounted file system.
    pub(crate) fn device(&self) -> u64 {
        self.device
    }

    /// Whether no other mount ever had, or will have, the same.
    pub(crate) fn is_unique(&self) -> bool {
        self.unique.is_some()
    }

    /// Whether this line of a table of mounts may be of this mount: of a live
    /// mount it is.
    pub(crate) fn is_entry(&self, entry: &MountEntry) -> bool {
        entry.id == self.number && entry.device == self.device
    }

    /// Finds the mount in the kernel's table, also if somebody moved it.
    pub(crate) fn find(&self) -> io::Result<MountLocation> {
        let mounts = read_mounts()?;
        let Some(entry) = mounts.iter().find(|entry| self.is_entry(entry)) else {
            return Ok(MountLocation::Gone);
        };
        let mountpoint = entry.mountpoint.clone();
        let kind = |number| mounts.iter().find(|entry| entry.id == number);
        Ok(match Self::at(&mountpoint) {
            Ok(top) if top == *self => MountLocation::At(mountpoint),
            // The next mount has the same numbers.
            Ok(top) if top.number == self.number => MountLocation::Gone,
            Ok(top) => {
                let over = kind(top.number).map_or_else(String::new, |over| over.kind.clone());
                MountLocation::Covered(mountpoint, over)
            }
            // What covers a folder above lacks the path.
            Err(_) => MountLocation::Covered(mountpoint, String::new()),
        })
    }
}

impl PartialEq for MountId {
    fn eq(&self, other: &Self) -> bool {
        match (self.unique, other.unique) {
            (Some(one), Some(two)) => one == two,
            _ => (self.number, self.device) == (other.number, other.device),
        }
    }
}

impl fmt::Display for MountId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}", self.unique.unwrap_or(0), self.number, self.device)
    }
}

impl FromStr for MountId {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let mut numbers = text.split(':').map(|number| number.parse::<u64>().ok());
        match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Some(unique)), Some(Some(number)), Some(Some(device)), None) => {
                Ok(Self { unique: (unique != 0).then_some(unique), number, device })
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

/// Opens what is on top at `path` for looking at, without asking its file system.
pub(crate) fn look_at(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// The device of the file system that `path` leads into, without asking it.
pub(super) fn device_at(path: &Path) -> io::Result<u64> {
    device_of(CWD, path, AtFlags::NO_AUTOMOUNT)
}

fn device_of(folder: impl AsFd, path: impl rustix::path::Arg, flags: AtFlags) -> io::Result<u64> {
    let kept = flags | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(folder, path, kept, StatxFlags::empty())?;
    Ok(rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor))
}

/// Reads /proc/self/mountinfo. A line's place says nothing about what lies over
/// what: [`MountId::at`] does.
pub(crate) fn read_mounts() -> io::Result<Vec<MountEntry>> {
    Ok(parse_mountinfo(&std::fs::read("/proc/self/mountinfo")?))
}

/// Parses mountinfo; lines that do not parse are left out.
pub(crate) fn parse_mountinfo(bytes: &[u8]) -> Vec<MountEntry> {
    bytes.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    // The optional fields end with a single dash.
    let dash = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u64>().ok();
    let group =
        |name: &[u8]| fields[6..dash].iter().find_map(|field| number(field.strip_prefix(name)?));
    let (major, minor) = std::str::from_utf8(fields.get(2)?).ok()?.split_once(':')?;
    Some(MountEntry {
        id: number(fields.first()?)?,
        parent: number(fields.get(1)?)?,
        device: rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?),
        root: PathBuf::from(unescape(fields.get(3)?)),
        mountpoint: PathBuf::from(unescape(fields.get(4)?)),
        read_only: fields.get(5)?.split(|&byte| byte == b',').any(|option| option == b"ro"),
        shared: group(b"shared:"),
        master: group(b"master:"),
        kind: String::from_utf8(fields.get(dash + 1)?.to_vec()).ok()?,
        source: unescape(fields.get(dash + 2)?),
        options: unescape(fields.get(dash + 3)?),
    })
}

impl MountEntry {
    /// The user that a FUSE mount belongs to.
    pub(crate) fn owner(&self) -> Option<u32> {
        let mut options = self.options.as_bytes().split(|&byte| byte == b',');
        let number = options.find_map(|option| option.strip_prefix(b"user_id="))?;
        std::str::from_utf8(number).ok()?.parse().ok()
    }
}

/// Space, tab, newline and backslash come as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            // It would take a sign too.
            text.starts_with(|first: char| first.is_digit(8)).then_some(())?;
            u8::from_str_radix(text, 8).ok()
        });
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes)
}

/// The line of the mount on top at exactly this path, if one is mounted there.
pub(crate) fn mount_at<'a>(
    mounts: &'a [MountEntry],
    path: &Path,
) -> io::Result<Option<&'a MountEntry>> {
    let here = |mount: &&MountEntry| {
        // By bytes: a path with a slash at its end is another.
        mount.mountpoint.as_os_str().as_bytes() == path.as_os_str().as_bytes()
    };
    if !mounts.iter().any(|mount| here(&mount)) {
        return Ok(None);
    }
    let top = MountId::at(path)?;
    Ok(mounts.iter().filter(here).find(|mount| top.is_entry(mount)))
}

/// The line of a mount that `path` lies in: the last of those at the nearest place. To
/// be used where the mount itself may not be asked.
pub(crate) fn mount_over<'a>(mounts: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.mountpoint));
    above.max_by_key(|mount| mount.mountpoint.as_os_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"27 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
        42 27 0:39 / /home/a/my\\040chats rw,noatime - fuse.amberfs /home/a/r rw,user_id=0\n\
        43 42 0:40 / /home/a/my\\040chats rw master:1 shared:2 - tmpfs none rw\n\
        short line\n";

    #[test]
    fn lines_are_read() {
        let mounts = parse_mountinfo(SAMPLE);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[1].kind, "fuse.amberfs");
        assert_eq!(mounts[1].source, "/home/a/r");
        assert_eq!(mounts[1].device, rustix::fs::makedev(0, 39));
        assert_eq!((mounts[2].master, mounts[2].shared), (Some(1), Some(2)));
        assert_eq!(mounts[2].parent, mounts[1].id);
        let owners: Vec<_> = mounts.iter().map(MountEntry::owner).collect();
        assert_eq!(owners, [None, Some(0), None]);
        let over = |path: &str| mount_over(&mounts, Path::new(path)).map(|mount| &*mount.kind);
        assert_eq!(over("/home/a/my chats/x"), Some("tmpfs"));
        assert_eq!(over("/home/a/my chats too"), Some("ext4"));
    }

    #[test]
    fn a_mount_is_found_by_its_id() {
        let id = MountId::at(Path::new("/proc/self")).expect("is there");
        assert_eq!(id.find().expect("is told"), MountLocation::At("/proc".into()));
        let mounts = read_mounts().expect("are told");
        let top = mount_at(&mounts, Path::new("/proc")).expect("is looked at").expect("mounted");
        assert_eq!(top.kind, "proc");
        assert_eq!(mount_at(&mounts, Path::new("/proc/self")).expect("is looked at"), None);
        assert_eq!(id.to_string().parse::<MountId>().expect("is one"), id);
        let another = MountId { unique: id.unique.map(|unique| unique + 1), ..id };
        assert_eq!(another == id, id.unique.is_none(), "the same numbers, used again");
        assert!("1:2".parse::<MountId>().is_err());
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(b"a\\134b\\9\\04\\+12\\777"), "a\\b\\9\\04\\+12\\777");
    }
}
