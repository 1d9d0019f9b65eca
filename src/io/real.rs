//! The real clock, random numbers and folders.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::StatVfs;

use super::{Clock, OpenMode, PrivateFile, PrivateFolder, Random, Space, SyncedFile, Timestamp};

/// The clocks of the operating system.
pub struct SystemClock;

impl Clock for SystemClock {
    /// The kernel's coarse clock, by which it also stamps what programs write
    /// into its cache: by a finer one, a file made later could look older.
    fn now(&self) -> Timestamp {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        Timestamp { secs: now.tv_sec, nanos: now.tv_nsec as u32 }
    }

    fn elapsed(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }

    /// `clock_gettime(2)`: `CLOCK_BOOTTIME` is `CLOCK_MONOTONIC` and the time for which that stood still.
    fn asleep(&self) -> Duration {
        let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let since_boot = Duration::new(since_boot.tv_sec as u64, since_boot.tv_nsec as u32);
        since_boot.saturating_sub(self.elapsed())
    }
}

/// The kernel's random number generator.
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("the kernel's random numbers are always there");
    }
}

/// Makes the names in an open folder durable. Some file systems cannot (EINVAL,
/// ENOTSUP): that is tolerated and noted in the log.
pub(super) fn sync_opened(folder: &File) -> io::Result<()> {
    match folder.sync_all() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTSUP)) => {
            log::debug!("this file system cannot sync a folder: {error}");
            Ok(())
        }
        other => other,
    }
}

/// The room that a file system tells.
pub(super) fn space_of(stat: &StatVfs) -> Space {
    Space {
        free: stat.f_bavail * stat.f_frsize,
        total: stat.f_blocks * stat.f_frsize,
        files_free: stat.f_favail,
    }
}

/// A private folder on disk. Files are 0600, folders 0700.
pub struct DirFolder {
    root: Arc<PrivateRoot>,
}

/// The path of a private folder, and which folder it named when it was first used.
struct PrivateRoot {
    path: PathBuf,
    /// Device and inode number; `None` if the folder was not there yet.
    id: Option<(u64, u64)>,
}

impl PrivateRoot {
    fn is_gone(&self) -> bool {
        let now = fs::metadata(&self.path).ok().map(|data| (data.dev(), data.ino()));
        self.id.is_some() && now != self.id
    }
}

impl DirFolder {
    /// The folder at `path`, which must exist before a file in it is used.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let id = fs::metadata(&path).ok().map(|data| (data.dev(), data.ino()));
        Self { root: Arc::new(PrivateRoot { path, id }) }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path.join(path)
    }
}

/// A file of a private folder.
struct PrivateFileOnDisk {
    file: File,
    root: Arc<PrivateRoot>,
}

impl PrivateFile for PrivateFileOnDisk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        read_full(&self.file, offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()?;
        let gone = |what| Err(io::Error::new(io::ErrorKind::NotFound, what));
        if self.file.metadata()?.nlink() == 0 {
            gone("the file was removed while it was in use")
        } else if self.root.is_gone() {
            gone("its folder was removed or moved while it was in use")
        } else {
            Ok(())
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

/// An open file of REPO on disk.
pub(super) struct RealFile(File);

impl RealFile {
    pub(super) fn new(file: File) -> Self {
        Self(file)
    }
}

impl SyncedFile for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        read_full(&self.0, offset, buffer)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

fn read_full(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

impl PrivateFolder for DirFolder {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn PrivateFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW).create_new(mode == OpenMode::CreateNew);
        let file = options.open(self.path(path))?;
        Ok(Box::new(PrivateFileOnDisk { file, root: Arc::clone(&self.root) }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.path(path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(path)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        sync_opened(&File::open(self.path(path))?)
    }

    fn space(&self) -> io::Result<Space> {
        Ok(space_of(&rustix::fs::statvfs(&self.root.path)?))
    }

    fn is_gone(&self) -> bool {
        self.root.is_gone()
    }
}
