//! Sealing, writing and flushing, by whoever holds the pen.
//!
//! Invariant: a file is flushed before the next one gets its first record.

use std::sync::Arc;

use super::buffer::Run;
use super::files::LogFile;
use super::log::Journal;
use super::record::PAGE;
use super::{JournalError, Result};

/// Buffers up to this size are kept for the next records.
const BUFFER_KEPT: usize = 8 << 20;

/// What only the writer of the moment touches.
#[derive(Default)]
pub(super) struct Pen {
    /// The file written last.
    pub file: Option<Arc<LogFile>>,
    /// The sealed bytes in that file's last, partial page.
    pub page: Vec<u8>,
    pub written: u64,
    pub durable: u64,
}

/// Holds the pen; gives it back when dropped.
pub(super) struct Lead<'a> {
    pub journal: &'a Journal,
    pub pen: Option<Pen>,
}

impl Lead<'_> {
    pub fn pen(&mut self) -> &mut Pen {
        self.pen.as_mut().expect("there until drop")
    }

    /// Seals and writes all that is buffered.
    pub fn write(&mut self) -> Result<()> {
        let runs = {
            let mut state = self.journal.state();
            state.buffered = 0;
            std::mem::take(&mut state.runs)
        };
        for mut run in runs {
            if self.pen().file.as_ref().is_none_or(|file| file.number != run.file.number) {
                // So a record in a later file proves all of the earlier ones.
                self.flush()?;
                let pen = self.pen();
                pen.file = Some(run.file.clone());
                pen.page.clear();
            }
            let written = self.pen().write(&mut run);
            if let Err(error) = written {
                return Err(self.failed(&run.file, &error));
            }
            if run.bytes.capacity() <= BUFFER_KEPT {
                let mut state = self.journal.state();
                if state.kept.len() < 2 {
                    state.kept.push(run.bytes);
                }
            }
        }
        Ok(())
    }

    /// Flushes the file written last.
    pub fn flush(&mut self) -> Result<()> {
        let pen = self.pen();
        if pen.durable < pen.written {
            if let Some(file) = pen.file.clone()
                && let Err(error) = file.file.sync_data()
            {
                return Err(self.failed(&file, &error));
            }
            let pen = self.pen();
            pen.durable = pen.written;
            let durable = pen.durable;
            self.journal.state().durable = durable;
        }
        Ok(())
    }

    pub fn failed(&self, file: &LogFile, error: &std::io::Error) -> JournalError {
        self.journal.fail(format!("{}: {error}", LogFile::name(file.number)))
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.journal.fail("its writer panicked".to_owned());
        }
        self.journal.state().pen = self.pen.take();
        self.journal.turn.notify_all();
    }
}

impl Pen {
    /// Seals the records of `run` where they lie and writes them as whole
    /// pages: first what the last page held already, at the end zeros.
    pub fn write(&mut self, run: &mut Run) -> std::io::Result<()> {
        let seal = run.file.seal.as_ref().expect("files made since opening have a seal");
        let mut at = PAGE;
        while at < run.bytes.len() {
            at += seal.seal(&mut run.bytes[at..], self.durable).total();
        }
        let before = (run.offset % PAGE as u64) as usize;
        assert_eq!(before, self.page.len(), "runs follow each other without a gap");
        let start = PAGE - before;
        run.bytes[start..PAGE].copy_from_slice(&self.page);
        self.page.clear();
        let len = run.bytes.len() - start;
        self.page.extend_from_slice(&run.bytes[start + len - len % PAGE..]);
        run.bytes.resize(start + len.next_multiple_of(PAGE), 0);
        run.file.file.write_at(run.offset - before as u64, &run.bytes[start..])?;
        self.written = run.last;
        Ok(())
    }
}
