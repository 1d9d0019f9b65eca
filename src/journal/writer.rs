//! Seals, writes and flushes records. One thread at a time does so, the one that holds the
//! [`WriterGuard`].
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

/// What only the thread that writes now may use.
#[derive(Default)]
pub(super) struct WriterState {
    /// The file to which the last page was written.
    pub file: Option<Arc<LogFile>>,
    /// The sealed bytes in that file's last, partial page.
    pub page: Vec<u8>,
    pub written: u64,
    pub durable: u64,
}

/// The exclusive right to write and flush the journal. Dropping it lets the next thread
/// write.
pub(super) struct WriterGuard<'a> {
    pub journal: &'a Journal,
    pub writer: Option<WriterState>,
}

impl WriterGuard<'_> {
    pub fn writer(&mut self) -> &mut WriterState {
        self.writer.as_mut().expect("there until drop")
    }

    /// Seals and writes all that is buffered.
    pub fn write(&mut self) -> Result<()> {
        let runs = {
            let mut state = self.journal.state();
            state.buffered = 0;
            std::mem::take(&mut state.runs)
        };
        for mut run in runs {
            if self.writer().file.as_ref().is_none_or(|file| file.number != run.file.number) {
                // So a record in a later file proves all of the earlier ones.
                self.flush()?;
                let writer = self.writer();
                writer.file = Some(run.file.clone());
                writer.page.clear();
            }
            let written = self.writer().write(&mut run);
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
        let writer = self.writer();
        if writer.durable < writer.written {
            if let Some(file) = writer.file.clone()
                && let Err(error) = file.file.sync_data()
            {
                return Err(self.failed(&file, &error));
            }
            let writer = self.writer();
            writer.durable = writer.written;
            let durable = writer.durable;
            self.journal.state().durable = durable;
        }
        Ok(())
    }

    pub fn failed(&self, file: &LogFile, error: &std::io::Error) -> JournalError {
        self.journal.fail(format!("{}: {error}", LogFile::name(file.number)))
    }
}

impl Drop for WriterGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.journal.fail("its writer panicked".to_owned());
        }
        self.journal.state().writer = self.writer.take();
        self.journal.turn.notify_all();
    }
}

impl WriterState {
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
