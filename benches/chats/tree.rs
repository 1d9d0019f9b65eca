//! Writing files into the generated folder, with their simulated times, and counting them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::Summary;
use super::date::system_time;

/// Bytes a write call hands over, as `cp` and `rsync` do.
const BUFFER: usize = 256 * 1024;

/// The folder being written.
pub struct Tree<'a> {
    root: &'a Path,
    /// What was written so far.
    pub summary: Summary,
    /// Folders known to exist: asking again for each of 60,000 files is slow on a mount.
    made: HashSet<PathBuf>,
}

impl<'a> Tree<'a> {
    /// A folder under which nothing was written yet.
    pub fn new(root: &'a Path) -> Self {
        Self { root, summary: Summary::default(), made: HashSet::new() }
    }

    /// The full path of `relative`.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Makes a folder and those above it.
    pub fn folder(&mut self, relative: &str) -> io::Result<()> {
        let path = self.path(relative);
        self.make(&path)
    }

    fn make(&mut self, path: &Path) -> io::Result<()> {
        if !self.made.contains(path) {
            fs::create_dir_all(path)?;
            self.made.insert(path.to_owned());
        }
        Ok(())
    }

    /// Writes one file whose bytes come from `contents`, modified at `unix`; returns its length.
    pub fn file(
        &mut self,
        relative: &str,
        unix: i64,
        contents: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<u64> {
        let path = self.path(relative);
        self.make(path.parent().expect("a relative path has the root above it"))?;
        let mut out = BufWriter::with_capacity(BUFFER, File::create(&path)?);
        contents(&mut out)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.set_modified(system_time(unix))?;
        let bytes = file.metadata()?.len();
        self.count(bytes, bytes);
        Ok(bytes)
    }

    /// Counts a file of `bytes`, of which `new_bytes` were in no file before.
    pub fn count(&mut self, bytes: u64, new_bytes: u64) {
        self.summary.files += 1;
        self.summary.bytes += bytes;
        self.summary.new_bytes += new_bytes;
    }

    /// Takes back `bytes` counted as new: they repeat what another file holds.
    pub fn repeats(&mut self, bytes: u64) {
        self.summary.new_bytes -= bytes;
    }
}
