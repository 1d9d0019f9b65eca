//! The real clock, random numbers and folders.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::RenameFlags;

use super::{
    Clock, Listed, OpenMode, PrivateFile, PrivateFolder, Random, Space, SyncedFile, SyncedFolder,
    Timestamp,
};

/// The system's clock.
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
}

/// The kernel's random number generator.
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("the kernel's random numbers are always there");
    }
}

/// Makes the names in a folder durable. Some file systems cannot (EINVAL,
/// ENOTSUP): that is tolerated and noted once in the log.
fn sync_dir(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTSUP)) => {
            log::debug!("this file system cannot sync a folder: {error}");
            Ok(())
        }
        other => other,
    }
}

fn space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Space {
        free: stat.f_bavail * stat.f_frsize,
        total: stat.f_blocks * stat.f_frsize,
        files_free: stat.f_favail,
    })
}

/// A private folder on disk. Files are 0600, folders 0700.
pub struct DirFolder {
    root: PathBuf,
}

impl DirFolder {
    /// The folder at `root`, which must exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

struct RealFile(File);

impl PrivateFile for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        read_full(&self.0, offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
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
        Ok(Box::new(RealFile(options.open(self.root.join(path))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(path))
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.root.join(path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(path)) {
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
        sync_dir(&self.root.join(path))
    }

    fn space(&self) -> io::Result<Space> {
        space(&self.root)
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// REPO on disk.
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

    fn folder_of(&self, path: &str) -> io::Result<PathBuf> {
        let folder = match path.rsplit_once('/') {
            Some((folder, _)) => self.root.join(folder),
            None => return Ok(self.root.clone()),
        };
        if !folder.is_dir() {
            // Every new folder's own name must be durable too.
            let mut missing = vec![folder.clone()];
            while let Some(parent) = missing.last().and_then(|path| path.parent()) {
                if parent.is_dir() {
                    break;
                }
                missing.push(parent.to_path_buf());
            }
            for path in missing.iter().rev() {
                match fs::DirBuilder::new().mode(0o755).create(path) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(error);
                    }
                    _ => sync_dir(path.parent().unwrap_or(&self.root))?,
                }
            }
        }
        Ok(folder)
    }

    /// Writes a file that is not there yet. A part of one is not left behind:
    /// it would take the room whose lack stopped it.
    fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).inspect_err(|_| {
            let _ = fs::remove_file(path);
        })
    }

    /// Moves a whole file to a name that is free; `false` if no rename leads
    /// there. One device number does not say so: of a bind mount, or a folder
    /// with a quota of its own, rename answers EXDEV.
    fn move_in(aside: &Path, target: &Path) -> io::Result<bool> {
        use rustix::fs::{CWD, rename, renameat_with};
        use rustix::io::Errno;
        let moved = match renameat_with(CWD, aside, CWD, target, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS) => rename(aside, target),
            other => other,
        };
        match moved {
            Ok(()) => Ok(true),
            Err(Errno::XDEV) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl SyncedFolder for DirSynced {
    fn list(&self, path: &str) -> io::Result<Vec<Listed>> {
        let entries = match fs::read_dir(self.root.join(path)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_empty() => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let data = match entry.metadata() {
                Ok(data) => data,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            found.push(Listed {
                name: entry.file_name().to_string_lossy().into_owned(),
                size: data.len(),
                changed: Timestamp { secs: data.mtime(), nanos: data.mtime_nsec() as u32 },
                is_dir: data.is_dir(),
            });
        }
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn SyncedFile>> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.root.join(path))?;
        Ok(Box::new(RealFile(file)))
    }

    fn publish(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let folder = self.folder_of(path)?;
        let target = self.root.join(path);
        if let Ok(present) = fs::metadata(&target) {
            if present.len() == bytes.len() as u64 && fs::read(&target)? == bytes {
                File::open(&target)?.sync_all()?;
                return sync_dir(&folder);
            }
            // Torn by a crash of this very device: nobody else writes here.
            fs::remove_file(&target)?;
        }
        let mut entered = false;
        if let Some(staging) = &self.staging {
            let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
            let aside = staging.join(name);
            remove_if_there(&aside)?;
            Self::write_new(&aside, bytes)?;
            let moved = Self::move_in(&aside, &target);
            if !matches!(moved, Ok(true)) {
                remove_if_there(&aside)?;
            }
            entered = moved?;
        }
        if !entered {
            Self::write_new(&target, bytes)?;
        }
        sync_dir(&folder)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let target = self.root.join(path);
        remove_if_there(&target)?;
        match target.parent() {
            Some(folder) if folder.is_dir() => sync_dir(folder),
            _ => Ok(()),
        }
    }

    fn space(&self) -> io::Result<Space> {
        space(&self.root)
    }
}
