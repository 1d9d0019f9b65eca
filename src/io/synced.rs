//! REPO on disk: the folder that a sync client uploads.
//!
//! Invariant: REPO's folder is found by its path at every use and never made,
//! and everything in it is reached from that folder without following a link.
//! Only regular files are read.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::real::{RealFile, space_of, sync_opened};
use super::watch::DirWatch;
use super::{EntryKind, FolderWatch, Listed, Space, SyncedFile, SyncedFolder, Timestamp};

/// Every file of REPO has this mode, whoever wrote it: a sync client may run as
/// another user, and the bytes are sealed.
const FILE_MODE: u32 = 0o644;
/// Every folder that amberfs makes in REPO has this mode.
const FOLDER_MODE: u32 = 0o755;
/// How often a look-up is tried again that a rename elsewhere disturbed
/// (openat2(2), EAGAIN).
const LOOKUP_TRIES: u32 = 16;

/// REPO on disk, found by its path at each use.
pub struct DirSynced {
    root: PathBuf,
    /// A folder on the same file system, outside REPO, through which files
    /// enter by rename; without one they are written in place.
    staging: Option<PathBuf>,
}

impl DirSynced {
    /// REPO at `root`. `staging` is a private folder; it is used if it lies on
    /// the same file system.
    pub fn new(root: impl Into<PathBuf>, staging: Option<&Path>) -> Self {
        let root = root.into();
        let device = |path: &Path| fs::metadata(path).map(|data| data.dev()).ok();
        let staging = staging
            .filter(|staging| device(&root).is_some() && device(staging) == device(&root))
            .map(Path::to_path_buf);
        Self { root, staging }
    }

    /// The folder that is at the path now.
    fn open_root(&self) -> io::Result<Root<'_>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&self.root, flags, Mode::empty())?;
        Ok(Root { folder, at: self })
    }

    /// Folders in the one that is at the path now, not for reading; none for each that is not
    /// there.
    pub(super) fn open_paths(&self, paths: &[String]) -> io::Result<Vec<Option<OwnedFd>>> {
        let root = self.open_root()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let open = |path: &String| match open_beneath(root.folder.as_fd(), path, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        };
        paths.iter().map(open).collect()
    }
}

/// REPO's folder, held open while one operation lasts.
struct Root<'a> {
    folder: OwnedFd,
    at: &'a DirSynced,
}

/// Opens what lies at `path` below `folder`; a link anywhere on the way is an
/// error. `""` is the folder itself.
fn open_beneath(folder: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..LOOKUP_TRIES {
        let opened = rustix::fs::openat2(folder, path, flags, Mode::empty(), resolve);
        return match opened {
            Err(Errno::AGAIN) => continue,
            // Before Linux 5.6, or kept from us by a container's filter.
            Err(Errno::NOSYS | Errno::PERM) => open_stepwise(folder, path, flags),
            Err(Errno::LOOP) => Err(link()),
            other => Ok(other?),
        };
    }
    Err(Errno::AGAIN.into())
}

/// Opens a path beneath a folder with openat(2), one name after another, following no
/// link: for kernels without openat2(2).
fn open_stepwise(folder: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let flags = flags | OFlags::NOFOLLOW;
    let mut above: Option<OwnedFd> = None;
    let mut names = path.split('/').peekable();
    while let Some(name) = names.next() {
        let at = above.as_ref().map_or(folder, AsFd::as_fd);
        let last = names.peek().is_none();
        let opened = rustix::fs::openat(at, name, if last { flags } else { step }, Mode::empty());
        let opened = opened.map_err(|error| {
            let found = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW);
            match found {
                Ok(stat) if kind_of(&stat) == EntryKind::Link => link(),
                _ => error.into(),
            }
        })?;
        if last {
            return Ok(opened);
        }
        above = Some(opened);
    }
    Err(Errno::NOENT.into())
}

/// The error for a symbolic link where a file or folder of ours should be.
fn link() -> io::Error {
    let text = "a symbolic link is in its place or on the way to it, and none is followed in REPO";
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn kind_of(stat: &Stat) -> EntryKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Folder,
        FileType::Symlink => EntryKind::Link,
        _ => EntryKind::Other,
    }
}

fn listed(name: String, stat: &Stat) -> Listed {
    Listed {
        name,
        size: stat.st_size as u64,
        changed: Timestamp { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
        kind: kind_of(stat),
    }
}

/// Folder and name of a path within REPO.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Gives a file or folder its mode, whatever the umask was. Some file systems have
/// one mode for all (vfat, CIFS, some of FUSE): that is as the owner mounted them.
fn set_mode(file: impl AsFd, mode: u32) -> io::Result<()> {
    match rustix::fs::fchmod(file, Mode::from_raw_mode(mode)) {
        Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS) => Ok(()),
        other => Ok(other?),
    }
}

/// Writes `bytes` into the new, empty `file` and makes them durable.
fn fill(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    set_mode(&*file, FILE_MODE)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Root<'_> {
    /// A folder in REPO, open for reading, listing and syncing.
    fn open_folder(&self, path: &str) -> io::Result<OwnedFd> {
        open_beneath(self.folder.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// A regular file in `folder`. Never waits for the other end of a pipe.
    fn open_file(folder: BorrowedFd<'_>, path: &str) -> io::Result<File> {
        let other = |what| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{what} is in its place, no file"))
        };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match open_beneath(folder, path, flags) {
            // A socket, or a device that has no driver.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                return Err(other("a socket or device"));
            }
            opened => opened?,
        };
        match kind_of(&rustix::fs::fstat(&file)?) {
            EntryKind::File => Ok(file.into()),
            EntryKind::Folder => Err(other("a folder")),
            EntryKind::Link | EntryKind::Other => Err(other("a pipe or device")),
        }
    }

    /// A folder in REPO, made with all above it if it is not there; REPO itself
    /// never is. Every new folder's own name is durable when this returns.
    fn make_folder(&self, path: &str) -> io::Result<OwnedFd> {
        match self.open_folder(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_empty() => {}
            other => return other,
        }
        let (above, name) = split(path);
        let above = self.make_folder(above)?;
        match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(FOLDER_MODE)) {
            Ok(()) => {
                set_mode(self.open_folder(path)?, FOLDER_MODE)?;
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        sync_opened(&File::from(above))?;
        self.open_folder(path)
    }

    /// Whether the file `name` in `folder` is there with these bytes; then they are written once more
    /// and are durable: after a sync that failed the page cache may be all that has them, and the
    /// kernel counts them as written (fsync(2), EIO). A regular file with others, torn by a crash,
    /// is removed.
    fn is_there(folder: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<bool> {
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            other => other?,
        };
        // Of another kind: told, and left as it is.
        let present = Self::open_file(folder.as_fd(), name)?;
        if stat.st_size as u64 == bytes.len() as u64 && has_bytes(&present, bytes)? {
            let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?);
            file.write_all_at(bytes, 0)?;
            file.sync_all()?;
            return Ok(true);
        }
        // Torn by a crash of this very device: nobody else writes here.
        rustix::fs::unlinkat(folder, name, AtFlags::empty())?;
        Ok(false)
    }

    /// Writes a file that is not there yet. A part of one is not left behind:
    /// it would take the room whose lack stopped it.
    fn write_in_place(folder: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(FILE_MODE);
        let mut file = File::from(rustix::fs::openat(folder, name, flags, mode)?);
        fill(&mut file, bytes).inspect_err(|_| {
            let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
        })
    }

    /// Writes a file in `staging` and moves it to a name in `folder` that is
    /// free; `false` if no rename leads there, or `staging` is gone.
    fn write_aside(staging: &Path, folder: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<bool> {
        let aside = staging.join(name);
        remove_if_there(&aside)?;
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(FILE_MODE).open(&aside);
        let mut file = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        let moved = fill(&mut file, bytes).and_then(|()| move_in(&aside, folder, name));
        if !matches!(moved, Ok(true)) {
            remove_if_there(&aside)?;
        }
        moved
    }
}

/// Whether `file` has exactly these bytes, which are as many as it is long.
fn has_bytes(file: &File, bytes: &[u8]) -> io::Result<bool> {
    let mut buffer = vec![0; bytes.len().min(1 << 20)];
    for (piece, at) in bytes.chunks(buffer.len().max(1)).zip((0u64..).step_by(1 << 20)) {
        let read = &mut buffer[..piece.len()];
        match file.read_exact_at(read, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        if read != piece {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Moves a whole file to a name that is free; `false` if no rename leads
/// there. One device number does not say so: of a bind mount, or a folder
/// with a quota of its own, rename answers EXDEV.
fn move_in(aside: &Path, folder: &OwnedFd, name: &str) -> io::Result<bool> {
    use rustix::fs::{renameat, renameat_with};
    let moved = match renameat_with(CWD, aside, folder, name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => renameat(CWD, aside, folder, name),
        other => other,
    };
    match moved {
        Ok(()) => Ok(true),
        Err(Errno::XDEV) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl SyncedFolder for Root<'_> {
    fn place(&self) -> String {
        self.at.place()
    }

    fn hold(&self) -> io::Result<Box<dyn SyncedFolder + '_>> {
        Ok(Box::new(Root { folder: self.folder.try_clone()?, at: self.at }))
    }

    fn list(&self, path: &str) -> io::Result<Vec<Listed>> {
        let folder = match self.open_folder(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_empty() => {
                return Ok(Vec::new());
            }
            other => other?,
        };
        let mut found = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => found.push(listed(name.to_string_lossy().into_owned(), &stat)),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn look(&self, path: &str) -> io::Result<Option<Listed>> {
        // The link itself, where there is one.
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let stat = match open_beneath(self.folder.as_fd(), path, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => rustix::fs::fstat(other?)?,
        };
        Ok(Some(listed(split(path).1.to_owned(), &stat)))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn SyncedFile>> {
        Ok(Box::new(RealFile::new(Self::open_file(self.folder.as_fd(), path)?)))
    }

    fn check_writable(&self, path: &str) -> io::Result<()> {
        use rustix::fs::Access;
        let folder = open_beneath(self.folder.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY)?;
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        Ok(rustix::fs::accessat(folder, ".", wanted, AtFlags::EACCESS)?)
    }

    fn publish(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let (folder, name) = split(path);
        let folder = self.make_folder(folder)?;
        if !Self::is_there(&folder, name, bytes)? {
            let entered = match &self.at.staging {
                Some(staging) => Self::write_aside(staging, &folder, name, bytes)?,
                None => false,
            };
            if !entered {
                Self::write_in_place(&folder, name, bytes)?;
            }
        }
        sync_opened(&File::from(folder))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let (folder, name) = split(path);
        let folder = match self.open_folder(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        sync_opened(&File::from(folder))
    }

    fn space(&self) -> io::Result<Space> {
        // Of a descriptor opened with O_PATH too, since Linux 3.12.
        Ok(space_of(&rustix::fs::fstatvfs(&self.folder)?))
    }
}

impl SyncedFolder for DirSynced {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    fn hold(&self) -> io::Result<Box<dyn SyncedFolder + '_>> {
        Ok(Box::new(self.open_root()?))
    }

    fn list(&self, path: &str) -> io::Result<Vec<Listed>> {
        self.open_root()?.list(path)
    }

    fn look(&self, path: &str) -> io::Result<Option<Listed>> {
        self.open_root()?.look(path)
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn SyncedFile>> {
        self.open_root()?.open(path)
    }

    fn check_writable(&self, path: &str) -> io::Result<()> {
        self.open_root()?.check_writable(path)
    }

    fn publish(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.open_root()?.publish(path, bytes)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.open_root()?.remove(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.open_root()?.space()
    }

    fn watch(&self) -> Option<Box<dyn FolderWatch>> {
        let watch = DirWatch::new(Self::new(&self.root, None)).inspect_err(|error| {
            log::warn!("new files in REPO are looked for, since none are reported: {error}");
        });
        Some(Box::new(watch.ok()?))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;
    use std::time::Duration;

    use super::super::Alarm;
    use super::*;

    struct TestFolders {
        folder: tempfile::TempDir,
    }

    impl TestFolders {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("repo")).unwrap();
            fs::create_dir(folder.path().join("staging")).unwrap();
            Self { folder }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn repo(&self) -> DirSynced {
            DirSynced::new(self.path("repo"), None)
        }
    }

    #[test]
    fn a_watch_reports_files_that_appear_in_folders_and_no_others() {
        let folders = TestFolders::new();
        let (repo, root) = (folders.repo(), folders.path("repo"));
        let mut watch = repo.watch().expect("the kernel has inotify");
        let watched = ["", "a/head", "b/head"].map(str::to_owned);
        let soon = Duration::from_millis(20);
        assert!(!watch.wait(&watched, soon, &Alarm::default()), "nothing is there yet");
        fs::create_dir_all(root.join("a/head")).unwrap();
        assert!(watch.wait(&watched, soon, &Alarm::default()), "a folder was made in REPO");
        fs::write(root.join("a/head/file"), "x").unwrap();
        assert!(
            watch.wait(&watched, soon, &Alarm::default()),
            "the new folder is watched from the next wait on"
        );
        fs::write(root.join("a/other"), "x").unwrap();
        assert!(!watch.wait(&watched, soon, &Alarm::default()), "nobody asked about that folder");
        fs::rename(root.join("a/other"), root.join("a/head/other")).unwrap();
        assert!(watch.wait(&watched, soon, &Alarm::default()));
        fs::remove_file(root.join("a/head/other")).unwrap();
        assert!(watch.wait(&watched, soon, &Alarm::default()));
        fs::read(root.join("a/head/file")).unwrap();
        assert!(!watch.wait(&watched, soon, &Alarm::default()), "who reads changes nothing");
        // Another folder takes REPO's place.
        fs::rename(&root, folders.path("aside")).unwrap();
        assert!(!watch.wait(&watched, soon, &Alarm::default()), "REPO is not there");
        fs::create_dir_all(root.join("b/head")).unwrap();
        watch.wait(&watched, soon, &Alarm::default());
        fs::write(root.join("b/head/file"), "x").unwrap();
        assert!(watch.wait(&watched, soon, &Alarm::default()));
    }

    #[test]
    fn an_alarm_ends_a_wait_once() {
        let folders = TestFolders::new();
        let mut watch = folders.repo().watch().expect("the kernel has inotify");
        let (alarm, long) = (Alarm::default(), Duration::from_secs(60));
        let begin = std::time::Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                alarm.ring();
            });
            assert!(!watch.wait(&[String::new()], long, &alarm), "no file appeared");
        });
        // It rings until somebody asks.
        alarm.wait(long);
        assert!(begin.elapsed() < long && alarm.has_rung() && !alarm.has_rung());
        alarm.ring();
        alarm.ring();
        assert!(alarm.has_rung() && !alarm.has_rung());
        alarm.wait(Duration::from_millis(20));
        assert!(begin.elapsed() >= Duration::from_millis(40));
    }

    /// A sync client brings one file after another: they are one report.
    #[test]
    fn a_watch_waits_until_no_more_files_come() {
        let folders = TestFolders::new();
        let (repo, root) = (folders.repo(), folders.path("repo"));
        let mut watch = repo.watch().unwrap();
        let watched = [String::new()];
        let limit = Duration::from_secs(60);
        assert!(!watch.wait(&watched, Duration::ZERO, &Alarm::default()));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..8 {
                    fs::write(root.join(number.to_string()), "x").unwrap();
                }
            });
            assert!(watch.wait(&watched, limit, &Alarm::default()));
        });
        assert_eq!(repo.list("").unwrap().len(), 8);
        assert!(!watch.wait(&watched, Duration::ZERO, &Alarm::default()), "that was all of it");
        // One that goes on for ever is reported all the same.
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    fs::write(root.join("again"), "x").unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            assert!(watch.wait(&watched, limit, &Alarm::default()));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    /// A disk was unmounted under a mount: the next checkpoint made REPO anew
    /// below the empty mountpoint, put its head there and said that all is in
    /// REPO.
    #[test]
    fn a_folder_that_is_gone_is_not_made() {
        let folders = TestFolders::new();
        let repo = folders.repo();
        fs::rename(folders.path("repo"), folders.path("moved")).unwrap();
        let gone = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::NotFound);
        gone(repo.publish("a/b/file", b"bytes").unwrap_err());
        gone(repo.list("").unwrap_err());
        gone(repo.list("a").unwrap_err());
        gone(repo.look("a").unwrap_err());
        gone(repo.hold().map(drop).unwrap_err());
        assert!(!folders.path("repo").exists());
        fs::rename(folders.path("moved"), folders.path("repo")).unwrap();
        repo.publish("a/b/file", b"bytes").unwrap();
        assert_eq!(repo.read("a/b/file", 10).unwrap(), b"bytes");
    }

    #[test]
    fn what_is_held_stays_the_folder_that_it_was() {
        let folders = TestFolders::new();
        let repo = folders.repo();
        let held = repo.hold().unwrap();
        fs::rename(folders.path("repo"), folders.path("moved")).unwrap();
        fs::create_dir(folders.path("repo")).unwrap();
        held.publish("file", b"bytes").unwrap();
        assert!(folders.path("moved/file").exists() && !folders.path("repo/file").exists());
        assert_eq!(repo.look("file").unwrap(), None);
    }

    /// A link that a sync client or an attacker left led to files elsewhere,
    /// and a pipe under the name of an object blocked its reader for ever.
    #[test]
    fn nothing_is_reached_through_a_link_and_nothing_but_files_is_read() {
        let folders = TestFolders::new();
        let repo = folders.repo();
        fs::create_dir(folders.path("elsewhere")).unwrap();
        fs::write(folders.path("elsewhere/file"), "secret").unwrap();
        symlink(folders.path("elsewhere"), folders.path("repo/linked")).unwrap();
        symlink("loop", folders.path("repo/loop")).unwrap();
        symlink(folders.path("elsewhere/file"), folders.path("repo/link")).unwrap();
        fs::create_dir(folders.path("repo/folder")).unwrap();
        let made = Command::new("mkfifo").arg(folders.path("repo/pipe")).status().unwrap();
        assert!(made.success());
        drop(std::os::unix::net::UnixListener::bind(folders.path("repo/socket")).unwrap());
        let odd = |error: io::Error, path: &str| {
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{path}: {error}");
        };
        for path in ["linked/file", "link", "loop", "folder", "pipe", "socket"] {
            odd(repo.open(path).map(drop).unwrap_err(), path);
            odd(repo.publish(path, b"secret").unwrap_err(), path);
        }
        odd(repo.list("linked").map(drop).unwrap_err(), "linked");
        odd(repo.publish("linked/new", b"x").unwrap_err(), "linked/new");
        odd(repo.remove("linked/file").unwrap_err(), "linked/file");
        assert_eq!(fs::read(folders.path("elsewhere/file")).unwrap(), b"secret");
        assert_eq!(fs::read_dir(folders.path("elsewhere")).unwrap().count(), 1);
        let kinds: Vec<_> =
            repo.list("").unwrap().into_iter().map(|found| (found.name, found.kind)).collect();
        let expected = [
            ("folder", EntryKind::Folder),
            ("link", EntryKind::Link),
            ("linked", EntryKind::Link),
            ("loop", EntryKind::Link),
            ("pipe", EntryKind::Other),
            ("socket", EntryKind::Other),
        ];
        assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind)));
    }

    #[test]
    fn a_kernel_without_openat2_gives_the_same_answers() {
        let folders = TestFolders::new();
        fs::create_dir_all(folders.path("repo/a/b")).unwrap();
        fs::write(folders.path("repo/a/b/file"), "x").unwrap();
        symlink("a", folders.path("repo/linked")).unwrap();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let repo = folders.repo();
        let root = repo.open_root().unwrap();
        let open = |path| open_stepwise(root.folder.as_fd(), path, flags);
        open("a/b/file").unwrap();
        open("a").unwrap();
        for path in ["linked", "linked/b/file", "linked/b"] {
            assert_eq!(open(path).unwrap_err().kind(), io::ErrorKind::InvalidData, "{path}");
        }
        assert_eq!(open("a/none/file").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(open("a/b/file/x").unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
    }

    /// Files entered by rename had another mode than those written in place,
    /// and a umask of 077 kept both from the sync client of another user.
    #[test]
    fn every_file_and_folder_has_one_mode() {
        let before = rustix::process::umask(Mode::from_raw_mode(0o077));
        let folders = TestFolders::new();
        folders.repo().publish("a/b/placed", b"x").unwrap();
        let staged = DirSynced::new(folders.path("repo"), Some(&folders.path("staging")));
        staged.publish("a/c/staged", b"x").unwrap();
        rustix::process::umask(before);
        let mode = |path| fs::metadata(folders.path(path)).unwrap().permissions().mode() & 0o7777;
        for path in ["repo/a/b/placed", "repo/a/c/staged"] {
            assert_eq!(mode(path), 0o644, "{path}");
        }
        for path in ["repo/a", "repo/a/b", "repo/a/c"] {
            assert_eq!(mode(path), 0o755, "{path}");
        }
        assert_eq!(fs::read_dir(folders.path("staging")).unwrap().count(), 0);
        // Removed with all local state: what is in memory still enters REPO.
        fs::remove_dir(folders.path("staging")).unwrap();
        staged.publish("a/c/placed", b"x").unwrap();
        assert_eq!(mode("repo/a/c/placed"), 0o644);
    }

    #[test]
    fn the_same_bytes_are_left_alone_and_torn_ones_written_again() {
        let folders = TestFolders::new();
        let repo = folders.repo();
        let bytes = vec![7; (1 << 20) + 5];
        repo.publish("file", &bytes).unwrap();
        let inode = fs::metadata(folders.path("repo/file")).unwrap().ino();
        repo.publish("file", &bytes).unwrap();
        assert_eq!(fs::metadata(folders.path("repo/file")).unwrap().ino(), inode);
        for torn in [&bytes[..9], &[]] {
            fs::write(folders.path("repo/file"), torn).unwrap();
            repo.publish("file", &bytes).unwrap();
            assert_eq!(fs::read(folders.path("repo/file")).unwrap(), bytes);
        }
        let mut other = bytes.clone();
        *other.last_mut().unwrap() = 8;
        fs::write(folders.path("repo/file"), other).unwrap();
        repo.publish("file", &bytes).unwrap();
        assert_eq!(fs::read(folders.path("repo/file")).unwrap(), bytes);
        repo.publish("empty", b"").unwrap();
        repo.publish("empty", b"").unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_says_so() {
        let folders = TestFolders::new();
        folders.repo().check_writable("").unwrap();
        let error = DirSynced::new("/proc/self", None).check_writable("").unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::NotFound, "{error}");
        let error = folders.repo().check_writable("none").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
