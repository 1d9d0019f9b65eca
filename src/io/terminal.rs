//! Questions on the terminal.
//!
//! Invariant: when a question is over, however it ended, the terminal is as it was before, and
//! what was typed or pasted and not read is dropped: it was meant for the question, and would
//! reach the shell.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{
    LocalModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios, tcflush, tcgetattr,
    tcsetattr,
};
use zeroize::Zeroizing;

use super::shown::shown;

/// Longest line that a terminal hands out, and its end.
const LINE_MAX: usize = 4096 + 1;
/// How long a terminal is silent before what was pasted counts as all here.
const SILENCE: Duration = Duration::from_millis(50);
/// How often more of a paste may come before it is no longer waited for.
const PIECES: usize = 64;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The terminal cannot be read or written.
    #[error("the terminal: {0}")]
    Io(#[from] io::Error),
    /// Whoever was asked wants to stop.
    #[error("interrupted")]
    Interrupted,
    /// The input ended before an answer.
    #[error("no answer was given")]
    NoAnswer,
    /// The answer is not valid UTF-8.
    #[error("the answer is not text")]
    NotText,
}

impl From<Errno> for AnswerError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Whether somebody can be asked.
pub fn can_ask() -> bool {
    io::stdin().is_terminal()
}

/// The terminal while questions are asked: lines are read whole, and an interrupt is read like
/// a line.
pub struct Terminal {
    file: File,
    before: Termios,
    interrupt: u8,
}

impl Terminal {
    /// The terminal of this process, else the one that standard input is.
    pub fn open() -> Result<Self, AnswerError> {
        let own =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/tty");
        let file = match own {
            Ok(file) => file,
            Err(_) => File::from(io::stdin().as_fd().try_clone_to_owned()?),
        };
        let before = tcgetattr(&file)?;
        let interrupt = before.special_codes[SpecialCodeIndex::VINTR];
        let mut asking = before.clone();
        asking.local_modes.insert(LocalModes::ICANON | LocalModes::ECHONL);
        asking.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        // A signal would end this process with the echo off: its character ends a line instead.
        asking.special_codes[SpecialCodeIndex::VEOL] = interrupt;
        tcsetattr(&file, OptionalActions::Now, &asking)?;
        Ok(Self { file, before, interrupt })
    }

    /// Prints a line on the terminal.
    pub fn show(&self, text: &str) -> Result<(), AnswerError> {
        self.write(&format!("{}\n", shown(text)))
    }

    fn write(&self, text: &str) -> Result<(), AnswerError> {
        let mut bytes = text.as_bytes();
        while !bytes.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(&self.file, bytes))?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Asks for a line that is not shown while it is typed.
    pub fn ask_secret(&self, question: &str) -> Result<Zeroizing<String>, AnswerError> {
        self.write(&shown(question))?;
        self.line()
    }

    /// Asks for a line that is shown while it is typed.
    pub fn ask(&self, question: &str) -> Result<Zeroizing<String>, AnswerError> {
        let hidden = tcgetattr(&self.file)?;
        let mut open = hidden.clone();
        open.local_modes.insert(LocalModes::ECHO);
        tcsetattr(&self.file, OptionalActions::Now, &open)?;
        self.write(&shown(question))?;
        let line = self.line();
        tcsetattr(&self.file, OptionalActions::Now, &hidden)?;
        line
    }

    /// Reads a line, without its end.
    pub fn line(&self) -> Result<Zeroizing<String>, AnswerError> {
        let mut bytes = Zeroizing::new([0u8; LINE_MAX]);
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&self.file, &mut bytes[..]))?;
        let line = match bytes[..read].split_last() {
            None => return Err(AnswerError::NoAnswer),
            Some((end, _)) if *end == self.interrupt => {
                self.write("\n")?;
                return Err(AnswerError::Interrupted);
            }
            Some((b'\n', line)) => line,
            Some(_) => &bytes[..read],
        };
        let text = std::str::from_utf8(line).map_err(|_| AnswerError::NotText)?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    /// Whether more was typed or pasted: it comes in pieces.
    pub fn has_more(&self) -> Result<bool, AnswerError> {
        let silence = SILENCE.try_into().expect("some milliseconds");
        let mut files = [PollFd::new(&self.file, PollFlags::IN)];
        match poll(&mut files, Some(&silence)) {
            Ok(_) => Ok(files[0].revents().contains(PollFlags::IN)),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The echo is still off: nothing of it is seen either. Half a line is no input yet for
        // poll(2), so dropping comes first.
        for _ in 0..PIECES {
            let _ = tcflush(&self.file, QueueSelector::IFlush);
            if !self.has_more().unwrap_or(false) {
                break;
            }
        }
        // Where it fails the terminal is gone.
        let _ = tcsetattr(&self.file, OptionalActions::Flush, &self.before);
    }
}
