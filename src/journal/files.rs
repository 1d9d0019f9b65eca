//! The journal's files on disk: prepared before use, released, used again.
//!
//! Invariant: a file is named `NUMBER.log` only while its header is durable and
//! belongs to that number; whatever its bytes are, a file named `NUMBER.spare`
//! holds nothing. So a `.log` with a wrong header is damage, never a crash.

use std::io;
use std::sync::Arc;

use crate::io::{OpenMode, PrivateFile, PrivateFolder, Random};

use super::record::{FileSeal, PAGE};
use super::{FOLDER, JournalError, JournalKeys, Options};

/// Zeros are written in pieces of this size.
const PIECE: usize = 1 << 20;
/// Left free for others when a file is to be made.
const SPACE_LEFT: u64 = 1 << 20;

/// A file that has, or will have, records.
pub(super) struct LogFile {
    pub number: u64,
    pub file: Box<dyn PrivateFile>,
    /// The length of the file in bytes.
    pub len: u64,
    /// The seal of the file's records. `None` for a file of an earlier opening, to which nothing is
    /// appended.
    pub seal: Option<FileSeal>,
}

impl LogFile {
    pub fn name(number: u64) -> String {
        format!("{FOLDER}/{number:016x}.log")
    }
}

fn spare_name(number: u64) -> String {
    format!("{FOLDER}/{number:016x}.spare")
}

/// Numbers of the files with this extension, ascending; other names in the
/// folder are none of the journal's business.
pub(super) fn numbers(names: &[String], extension: &str) -> Vec<u64> {
    let mut found: Vec<u64> = names
        .iter()
        .filter_map(|name| {
            let number = u64::from_str_radix(name.split_once('.')?.0, 16).ok()?;
            (*name == format!("{number:016x}.{extension}")).then_some(number)
        })
        .collect();
    found.sort_unstable();
    found
}

/// Why no file could be prepared.
pub(super) enum PrepareError {
    /// No space, or the journal has its most already.
    Full,
    /// The named file or folder failed.
    Io(String, io::Error),
}

impl PrepareError {
    fn at(path: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io(path.into(), source),
        }
    }
}

impl From<PrepareError> for JournalError {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::Full => Self::Full,
            PrepareError::Io(path, source) => Self::Io { path, source },
        }
    }
}

/// Makes the journal's files, and keeps released ones for later use.
pub(super) struct Files {
    pub folder: Arc<dyn PrivateFolder>,
    pub random: Arc<dyn Random>,
    pub keys: JournalKeys,
    pub options: Options,
    /// Spare files of full length.
    pub spares: Vec<u64>,
    /// The next number; never used before.
    pub next: u64,
    /// Bytes of all files, spares included.
    pub total: u64,
}

impl Files {
    /// A file that is pre-written and whose header and name are durable.
    pub fn prepare(&mut self) -> Result<LogFile, PrepareError> {
        let len = self.options.file_size;
        let (spare, file) = match self.spares.last() {
            Some(number) => {
                let name = spare_name(*number);
                let file = self.folder.open(&name, OpenMode::Write);
                (*number, file.map_err(PrepareError::at(name))?)
            }
            None => self.create()?,
        };
        let name = spare_name(spare);
        let number = self.next;
        let mut salt = [0; 32];
        self.random.fill(&mut salt);
        let (block, seal) = FileSeal::create(&self.keys, number, &salt);
        file.write_at(0, &block)
            .and_then(|()| file.sync_data())
            .map_err(PrepareError::at(name.as_str()))?;
        self.next += 1;
        self.folder.rename(&name, &LogFile::name(number)).map_err(PrepareError::at(name))?;
        self.spares.retain(|number| *number != spare);
        self.folder.sync_dir(FOLDER).map_err(PrepareError::at(FOLDER))?;
        Ok(LogFile { number, file, len, seal: Some(seal) })
    }

    /// A new spare file full of zeros. What ENOSPC left half-made is removed.
    fn create(&mut self) -> Result<(u64, Box<dyn PrivateFile>), PrepareError> {
        let len = self.options.file_size;
        if self.total + len > self.options.max_total {
            return Err(PrepareError::Full);
        }
        let free = self.folder.space().map_err(PrepareError::at(FOLDER))?.free;
        if free < len.saturating_add(SPACE_LEFT) {
            return Err(PrepareError::Full);
        }
        let number = self.next;
        self.next += 1;
        let name = spare_name(number);
        let at = |error| PrepareError::at(name.as_str())(error);
        let file = self.folder.open(&name, OpenMode::CreateNew).map_err(at)?;
        if let Err(error) = write_zeros(file.as_ref(), len) {
            drop(file);
            let error = at(error);
            if matches!(error, PrepareError::Full) {
                self.folder.remove(&name).map_err(at)?;
            }
            return Err(error);
        }
        self.total += len;
        self.spares.push(number);
        Ok((number, file))
    }

    /// Turns files whose records are no longer needed into spares, durably,
    /// and removes those that are too many or of another length.
    pub fn recycle(&mut self, released: &[(u64, u64)]) -> Result<(), PrepareError> {
        if released.is_empty() {
            return Ok(());
        }
        let mut new = Vec::new();
        for (number, len) in released {
            let name = LogFile::name(*number);
            let spares = self.spares.len() + new.len();
            let keep = *len == self.options.file_size && spares < self.options.spares;
            let done = if keep {
                self.folder.rename(&name, &spare_name(*number))
            } else {
                self.folder.remove(&name)
            };
            done.map_err(PrepareError::at(name))?;
            if keep {
                new.push(*number);
            } else {
                self.total = self.total.saturating_sub(*len);
            }
        }
        // Durable before any of their headers is written over: else a crash
        // brings back a log with a foreign header, which is damage.
        self.folder.sync_dir(FOLDER).map_err(|error| PrepareError::Io(FOLDER.into(), error))?;
        self.spares.extend(new);
        Ok(())
    }

    /// Takes over the spares found at opening.
    pub fn adopt_spares(&mut self, found: &[u64]) -> Result<(), PrepareError> {
        for number in found {
            let name = spare_name(*number);
            let at = |error| PrepareError::at(name.as_str())(error);
            let len = self.folder.open(&name, OpenMode::Read).and_then(|f| f.len()).map_err(at)?;
            if len == self.options.file_size && self.spares.len() < self.options.spares {
                self.spares.push(*number);
                self.total += len;
            } else {
                self.folder.remove(&name).map_err(at)?;
            }
        }
        Ok(())
    }
}

fn write_zeros(file: &dyn PrivateFile, len: u64) -> io::Result<()> {
    let zeros = vec![0; PIECE.min(len as usize)];
    let mut at = 0;
    while at < len {
        let piece = zeros.len().min((len - at) as usize);
        file.write_at(at, &zeros[..piece])?;
        at += piece as u64;
    }
    file.sync_data()
}

/// Where records begin in a file.
pub(super) const FIRST: u64 = PAGE as u64;
