//! What is mounted where, as the kernel tells it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// One line of mountinfo (proc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Where.
    pub mountpoint: PathBuf,
    /// File system type, such as `fuse.amberfs`.
    pub kind: String,
    /// What it came from, as whoever mounted it says.
    pub source: OsString,
}

/// Reads /proc/self/mountinfo; later lines lie over earlier ones.
pub fn read_mounts() -> io::Result<Vec<MountEntry>> {
    Ok(parse_mountinfo(&std::fs::read("/proc/self/mountinfo")?))
}

/// Parses mountinfo; lines that do not parse are left out.
pub fn parse_mountinfo(bytes: &[u8]) -> Vec<MountEntry> {
    bytes.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let mountpoint = fields.get(4)?;
    // The optional fields end with a single dash.
    let dash = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    Some(MountEntry {
        mountpoint: PathBuf::from(unescape(mountpoint)),
        kind: String::from_utf8(fields.get(dash + 1)?.to_vec()).ok()?,
        source: unescape(fields.get(dash + 2)?),
    })
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

/// The mount on top at exactly this path.
pub fn mount_at<'a>(mounts: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    let bytes = path.as_os_str().as_bytes();
    mounts.iter().rev().find(|mount| mount.mountpoint.as_os_str().as_bytes() == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"27 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
        42 27 0:39 / /home/a/my\\040chats rw,noatime - fuse.amberfs /home/a/r rw,user_id=0\n\
        43 42 0:40 / /home/a/my\\040chats rw master:1 shared:2 - tmpfs none rw\n\
        short line\n";

    #[test]
    fn lines_are_read_and_the_last_is_on_top() {
        let mounts = parse_mountinfo(SAMPLE);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[1].kind, "fuse.amberfs");
        assert_eq!(mounts[1].source, "/home/a/r");
        let top = mount_at(&mounts, Path::new("/home/a/my chats")).expect("mounted");
        assert_eq!(top.kind, "tmpfs");
        assert!(mount_at(&mounts, Path::new("/home")).is_none());
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(b"a\\134b\\9\\04\\+12\\777"), "a\\b\\9\\04\\+12\\777");
    }
}
