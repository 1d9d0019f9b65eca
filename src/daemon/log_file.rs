//! Opening a log file.
//!
//! Lines are appended as whoever mounts, often root, to a path that may lead through folders
//! where others write, such as `/tmp`. Invariant: what is opened is a regular file of ours or
//! of root's with one name, reached through no link of anybody else's, and opening waits for
//! nobody.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

/// Most links on the way, as the kernel has it.
const LINKS: usize = 40;

/// Opens or makes the log file at an absolute path, to append to it.
pub(crate) fn open_log_file(path: &Path) -> io::Result<File> {
    let root =
        || openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let mut folder = root()?;
    let mut rest = names(path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == "/" {
            folder = root()?;
            continue;
        }
        if rest.is_empty() {
            match open_last(&folder, &name) {
                // A link: it is followed below.
                Err(Errno::LOOP) => {}
                Err(Errno::NXIO) => return Err(refused("is not a regular file")),
                opened => return check(opened?),
            }
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat(&folder, &name, flags, Mode::empty())?;
        let data = fstat(&found)?;
        match FileType::from_raw_mode(data.st_mode) {
            FileType::Directory => folder = found,
            FileType::Symlink => {
                links += 1;
                if links > LINKS {
                    return Err(Errno::LOOP.into());
                }
                if !is_trusted(data.st_uid) {
                    return Err(refused("is reached through somebody else's link"));
                }
                let target = readlinkat(&found, "", Vec::new())?.into_bytes();
                rest.extend(names(Path::new(&OsString::from_vec(target))));
            }
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    Err(Errno::ISDIR.into())
}

/// The names of a path, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().filter(|name| *name != Component::CurDir);
    let mut names: Vec<OsString> = names.map(|name| name.as_os_str().to_owned()).collect();
    names.reverse();
    names
}

fn open_last(folder: &OwnedFd, name: &OsString) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    openat(folder, name, flags, Mode::from_raw_mode(0o600))
}

/// Looks at what was opened, whatever has its name by now.
fn check(file: OwnedFd) -> io::Result<File> {
    let data = fstat(&file)?;
    if FileType::from_raw_mode(data.st_mode) != FileType::RegularFile {
        return Err(refused("is not a regular file"));
    }
    if !is_trusted(data.st_uid) {
        return Err(refused("belongs to somebody else"));
    }
    if data.st_nlink != 1 {
        return Err(refused("has another name elsewhere"));
    }
    Ok(File::from(file))
}

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

fn refused(what: &str) -> io::Error {
    io::Error::other(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn own_files_are_opened_by_any_way_of_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        symlink("folder", at("short")).unwrap();
        symlink(at("folder/log"), at("link")).unwrap();
        for (number, way) in
            ["folder/log", "short/log", "link", "short/../folder/./log"].iter().enumerate()
        {
            writeln!(open_log_file(&at(way)).unwrap(), "{number}").unwrap();
        }
        assert_eq!(fs::read_to_string(at("folder/log")).unwrap(), "0\n1\n2\n3\n");
        assert_eq!(fs::metadata(at("folder/log")).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn no_other_kind_of_file_is_opened_and_none_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let fifo = at("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(open_log_file(&fifo).unwrap_err().to_string().contains("not a regular"));
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let _reader = openat(CWD, &fifo, flags, Mode::empty()).unwrap();
        assert!(open_log_file(&fifo).unwrap_err().to_string().contains("not a regular"));
        assert!(open_log_file(Path::new("/dev/null")).is_err());
        assert!(open_log_file(dir.path()).is_err());
        assert!(open_log_file(Path::new("/")).is_err());
        fs::write(at("file"), "x").unwrap();
        fs::hard_link(at("file"), at("other")).unwrap();
        assert!(open_log_file(&at("file")).unwrap_err().to_string().contains("another name"));
        symlink("loop", at("loop")).unwrap();
        assert!(open_log_file(&at("loop")).is_err());
    }

    /// Root's log went wherever a link of somebody's in `/tmp` led.
    #[test]
    fn nobody_elses_file_or_link_is_used() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: files of others: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        fs::write(at("precious"), "x").unwrap();
        symlink("precious", at("link")).unwrap();
        symlink("folder", at("way")).unwrap();
        fs::write(at("theirs"), "").unwrap();
        for name in ["link", "way", "theirs"] {
            std::os::unix::fs::lchown(at(name), Some(12345), Some(12345)).unwrap();
        }
        let refused = |name: &str| open_log_file(&at(name)).unwrap_err().to_string();
        assert!(refused("link").contains("somebody else's link"));
        assert!(refused("way/log").contains("somebody else's link"));
        assert!(refused("theirs").contains("belongs to somebody else"));
        assert_eq!(fs::read_to_string(at("precious")).unwrap(), "x");
        assert!(fs::read_dir(at("folder")).unwrap().next().is_none());
    }
}
