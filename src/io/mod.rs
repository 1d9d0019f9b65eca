//! The outside world in small traits, with a real and a simulated one of each.
//!
//! Invariant: outside this module, `fuse`, `daemon`, `cli` and `vault`'s ends of a line,
//! nothing reads the clock, random numbers or the file system.

mod exit;
mod figures;
mod limits;
mod local_state;
#[allow(clippy::disallowed_methods, reason = "this is the one way out")]
pub mod output;
mod real;
mod regular;
mod secret;
mod shown;
pub mod sim;
mod synced;
mod terminal;
mod watch;

use std::io;
use std::time::Duration;

pub use exit::Exit;
pub use figures::{byte_count, local_time};
pub use limits::{widen_limits, with_first_limits};
pub use local_state::{LocalState, LockError, belongs_to_us_alone};
pub use real::{DirFolder, SystemClock, SystemRandom};
pub use regular::{read_regular, read_regular_text};
pub use secret::{
    SECRET_MAX, SecretFileError, SecretFrom, open_secret, read_secret, read_secret_from_stdin,
};
pub use shown::{shown, steers};
pub use synced::DirSynced;
pub use terminal::{AnswerError, Terminal, can_ask};
pub use watch::Alarm;

/// Wall-clock time: seconds since 1970 and nanoseconds (0 to 999,999,999) that
/// count forward from them, also before 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00:00 UTC, negative before.
    pub secs: i64,
    /// Nanoseconds within the second, from 0 to 999,999,999.
    pub nanos: u32,
}

/// The wall clock and a monotonic one.
pub trait Clock: Send + Sync {
    /// The wall clock; may jump.
    fn now(&self) -> Timestamp;
    /// Time since some fixed moment; never goes back.
    fn elapsed(&self) -> Duration;
    /// How long the machine was suspended since it started: it grows with each suspend, and by how
    /// long it takes to read two clocks it may seem shorter.
    fn asleep(&self) -> Duration {
        Duration::ZERO
    }
}

/// A cryptographically secure source of random bytes.
pub trait Random: Send + Sync {
    /// Fills `buffer` with random bytes.
    fn fill(&self, buffer: &mut [u8]);
}

/// Free and total bytes of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may still be written by this user.
    pub free: u64,
    /// The size of the file system, in bytes.
    pub total: u64,
    /// How many inodes are free.
    pub files_free: u64,
}

/// How a private file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist, and is only read.
    Read,
    /// Must exist; read and written.
    Write,
    /// Must not exist yet; read and written.
    CreateNew,
}

/// A file of the private folder. Reads and writes are at given offsets.
pub trait PrivateFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`. They are durable after the next
    /// [`PrivateFile::sync_data`].
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Returns once what was written is on stable storage (fdatasync). An error if
    /// the file was removed, or its folder is not at its place any more: nobody
    /// would find the bytes.
    fn sync_data(&self) -> io::Result<()>;
    /// The length of the file, in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Truncates or extends with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Whether the length is zero.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A folder that only this program uses (local state). Paths are relative,
/// with `/` between parts.
pub trait PrivateFolder: Send + Sync {
    /// Opens the file at `path`, below this folder.
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn PrivateFile>>;
    /// Renames a file over whatever has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes the file at `path`.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes a folder; no error if it is there.
    fn make_dir(&self, path: &str) -> io::Result<()>;
    /// Names of the files in a folder, sorted; a missing folder is empty.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
    /// Makes names in the folder durable.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// The space of the file system that the folder is on.
    fn space(&self) -> io::Result<Space>;
    /// Whether the folder is not at its place any more: what is written into its
    /// files now is found by nobody later.
    fn is_gone(&self) -> bool {
        false
    }

    /// Reads a whole file of at most `limit` bytes.
    fn read(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let len = file.len()?;
        if len > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "file is too long"));
        }
        let mut bytes = vec![0; len as usize];
        let read = file.read_at(0, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Replaces a small file so that either the old or the new bytes are there
    /// after a crash: written aside, synced, renamed, folder synced.
    fn replace(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let aside = format!("{path}.new");
        match self.remove(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.open(&aside, OpenMode::CreateNew)?;
        file.write_at(0, bytes)?;
        file.sync_data()?;
        drop(file);
        self.rename(&aside, path)?;
        self.sync_dir(path.rsplit_once('/').map_or("", |(folder, _)| folder))
    }
}

/// What an entry of the synced folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder; its content is not listed with it.
    Folder,
    /// A symbolic link: amberfs makes none in REPO, and follows none.
    Link,
    /// A pipe, a socket or a device.
    Other,
}

/// A file or folder seen in the synced folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Name within its folder; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// The size of a file in bytes.
    pub size: u64,
    /// The time of the last change of the content (mtime).
    pub changed: Timestamp,
    /// Whether it is a file, a folder or something else.
    pub kind: EntryKind,
}

/// An open file of the synced folder; immutable while amberfs knows it.
pub trait SyncedFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// The length of the file, in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the length is zero.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Waits for files to appear in folders of REPO. What it says is a reason to look, and no more:
/// where REPO is on a network, nothing may be reported.
pub trait FolderWatch: Send {
    /// Waits until files appeared in one of these folders or left it, and no more came for a moment;
    /// at most for `limit` and two seconds, and until the alarm rings. Returns whether there was
    /// anything in the folders. Those that are not there are left out.
    fn wait(&mut self, folders: &[String], limit: Duration, alarm: &Alarm) -> bool;
}

/// REPO, the folder that a sync client uploads. Files enter it complete and
/// are never changed afterwards. No method makes REPO's own folder: where it
/// is not there (unmounted, moved), all fail with `NotFound`.
///
/// Where something else than a regular file has the name of a file, or a link
/// lies on the way, methods fail with `InvalidData`.
pub trait SyncedFolder: Send + Sync {
    /// Where REPO is, for messages.
    fn place(&self) -> String;
    /// The folder that is at REPO's place now: what is asked of the result
    /// concerns that one, whatever is at its place later. It is to be dropped
    /// soon, since a folder that is held open keeps its disk from being
    /// unmounted.
    fn hold(&self) -> io::Result<Box<dyn SyncedFolder + '_>>;
    /// What a folder holds (`""` is REPO itself), sorted by name; a missing
    /// folder in REPO is empty.
    fn list(&self, path: &str) -> io::Result<Vec<Listed>>;
    /// One entry, as it is now; none if it is not there.
    fn look(&self, path: &str) -> io::Result<Option<Listed>>;
    /// Opens a file for reading.
    fn open(&self, path: &str) -> io::Result<Box<dyn SyncedFile>>;
    /// Fails as the system would, were a file to be made in that folder, where
    /// that can be known without making one.
    fn check_writable(&self, path: &str) -> io::Result<()>;
    /// Puts a complete file in place and returns once it and its name are
    /// durable. A file of that name that holds the same bytes is written over with them, so that
    /// they reach the disk although a sync of them failed before; one that is shorter or differs
    /// (torn by a crash) is written again.
    fn publish(&self, path: &str, bytes: &[u8]) -> io::Result<()>;
    /// Removes a file and returns once that is durable; no error if it is gone
    /// already.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// The space of the file system that the folder is on.
    fn space(&self) -> io::Result<Space>;
    /// A watch of folders in REPO; none if this kind of REPO reports nothing.
    fn watch(&self) -> Option<Box<dyn FolderWatch>> {
        None
    }

    /// Reads a whole file of at most `limit` bytes.
    fn read(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let len = file.len()?;
        if len > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "file is too long"));
        }
        let mut bytes = vec![0; len as usize];
        let mut done = 0;
        while done < bytes.len() {
            let read = file.read_at(done as u64, &mut bytes[done..])?;
            if read == 0 {
                break;
            }
            done += read;
        }
        bytes.truncate(done);
        Ok(bytes)
    }
}
