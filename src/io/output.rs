//! Standard output and standard error: the one way out for what programs say.
//!
//! Invariant: an error of standard output reaches the caller, none panics, and nothing waits
//! in a buffer of the standard library, which nobody wipes. Lines pass [`shown`]; bytes that
//! were asked for as bytes (`cat`, names in a pipe) are left alone.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::exit::Exit;
use super::shown::{shown, steers};

/// How many bytes [`Data`] gathers before it writes them.
const ROOM: usize = 64 << 10;
/// How long a message waits for a standard error that accepts no bytes.
const STDERR_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether this process was started without a standard output. Only the moment before `main`
/// tells: then the standard library puts `/dev/null` in its place, and writing succeeds.
static CLOSED: AtomicBool = AtomicBool::new(false);
/// Whether something was written to standard output.
static USED: AtomicBool = AtomicBool::new(false);

#[expect(unsafe_code, reason = "nothing safe runs before the standard library; see SAFETY")]
mod start {
    use std::sync::atomic::Ordering;

    // SAFETY: the C library calls each function in this section once before `main`, and takes
    // what it returns for nothing. The function only asks for the flags of a descriptor and
    // stores to a static.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static LOOK: extern "C" fn() = look;

    extern "C" fn look() {
        // SAFETY: fcntl(2) with F_GETFD takes any number, an open descriptor or not.
        if unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } == -1 {
            super::CLOSED.store(true, Ordering::Relaxed);
        }
    }
}

/// Why standard output did not take something.
#[derive(Debug, thiserror::Error)]
#[error("standard output: {0}")]
pub struct OutputError(#[from] io::Error);

impl OutputError {
    /// The exit code that docs/cli.md promises for this error.
    pub fn exit_code(&self) -> Exit {
        match self.0.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Exit::NoSpace,
            Some(libc::EPIPE) => Exit::NoReader,
            _ => Exit::Other,
        }
    }
}

/// Whether people read standard output on a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether people read messages on a terminal.
pub fn messages_are_on_a_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Writes a line for people to standard output.
pub fn line(text: fmt::Arguments<'_>) -> Result<(), OutputError> {
    let text = text.as_str().map_or_else(|| text.to_string().into(), std::borrow::Cow::Borrowed);
    write_out(format!("{}\n", shown(&text)).as_bytes())
}

/// Writes lines of a secret to standard output, from where they lie: no copy of them is made.
pub fn secret(text: &str) -> Result<(), OutputError> {
    for line in text.lines() {
        write_out(line.as_bytes())?;
        write_out(b"\n")?;
    }
    Ok(())
}

/// Writes a JSON object as a line to standard output.
pub fn object(value: &serde_json::Value) -> Result<(), OutputError> {
    write_out(format!("{}\n", json_line(value)).as_bytes())
}

/// Writes bytes to standard output as they are.
pub fn bytes(bytes: &[u8]) -> Result<(), OutputError> {
    write_out(bytes)
}

/// Returns when what was written is where standard output leads: of a file, on its disk. Pipes
/// and terminals have it already.
pub fn sync() -> Result<(), OutputError> {
    match rustix::fs::fsync(io::stdout()) {
        Ok(()) | Err(Errno::INVAL | Errno::NOTSUP | Errno::ROFS) => Ok(()),
        Err(error) => Err(OutputError(error.into())),
    }
}

/// Tells an error that the system kept for the moment of closing, as network file systems do.
/// To be called once, after the last write.
pub fn finish() -> Result<(), OutputError> {
    if !USED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let copy = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 0).map_err(io::Error::from)?;
    close(copy).map_err(OutputError)
}

#[expect(unsafe_code, reason = "an owned descriptor closes without telling; see SAFETY")]
fn close(file: std::os::fd::OwnedFd) -> io::Result<()> {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor is owned, and given up to this call.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Writes a line for people to standard error. Where that takes nothing there is nobody to
/// tell: what was done stays done, and the exit code says it.
pub fn note(text: fmt::Arguments<'_>) {
    let line = format!("{}\n", shown(&text.to_string()));
    let _ = write_all(io::stderr().as_fd(), line.as_bytes(), Some(STDERR_TIMEOUT));
}

/// Bytes and lines for standard output, gathered.
pub struct Data {
    buffer: Vec<u8>,
}

impl Default for Data {
    fn default() -> Self {
        Self { buffer: Vec::with_capacity(ROOM) }
    }
}

impl Data {
    /// Adds bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        if self.buffer.len() + bytes.len() > ROOM {
            self.flush()?;
        }
        if bytes.len() > ROOM {
            return write_out(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Adds a part of a line for people.
    pub fn text(&mut self, text: &str) -> Result<(), OutputError> {
        self.bytes(shown(text).as_bytes())
    }

    /// Adds a JSON object as a line.
    pub fn object(&mut self, value: &serde_json::Value) -> Result<(), OutputError> {
        self.bytes(json_line(value).as_bytes())?;
        self.bytes(b"\n")
    }

    /// Writes to standard output what was gathered.
    pub fn flush(&mut self) -> Result<(), OutputError> {
        let written = write_out(&self.buffer);
        self.buffer.clear();
        written
    }
}

/// A JSON object in one line. What steers is escaped, so the value stays exact.
pub fn json_line(value: &serde_json::Value) -> String {
    let plain = value.to_string();
    let mut line = String::with_capacity(plain.len());
    for c in plain.chars() {
        // Outside of strings JSON has no such character; all of them are below U+10000.
        if steers(c) {
            let _ = write!(line, "\\u{:04x}", c as u32);
        } else {
            line.push(c);
        }
    }
    line
}

fn write_out(bytes: &[u8]) -> Result<(), OutputError> {
    if bytes.is_empty() {
        return Ok(());
    }
    if CLOSED.load(Ordering::Relaxed) {
        return Err(OutputError(Errno::BADF.into()));
    }
    USED.store(true, Ordering::Relaxed);
    write_all(io::stdout().as_fd(), bytes, None).map_err(OutputError)
}

/// Writes all of it; to something that is set not to block, by waiting, at most `patience` for
/// each piece.
fn write_all(out: BorrowedFd<'_>, mut bytes: &[u8], patience: Option<Duration>) -> io::Result<()> {
    let patience = patience.map(|wait| wait.try_into().expect("some seconds"));
    while !bytes.is_empty() {
        match rustix::io::write(out, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let ready = poll(&mut [PollFd::new(&out, PollFlags::OUT)], patience.as_ref());
                match ready {
                    Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// A pipe shared with a program that set it not to block ended `println!`.
    #[test]
    fn a_pipe_that_does_not_block_gets_everything() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let bytes: Vec<u8> = (0..1_000_000u32).map(|i| (i >> 3) as u8).collect();
        let read = std::thread::scope(|scope| {
            let reading = scope.spawn(move || {
                let mut read = Vec::new();
                reader.read_to_end(&mut read).map(|_| read)
            });
            write_all(writer.as_fd(), &bytes, None).unwrap();
            drop(writer);
            reading.join().unwrap().unwrap()
        });
        assert!(read == bytes);
    }

    #[test]
    fn a_full_pipe_that_nobody_reads_does_not_hold_a_message_for_ever() {
        let (_reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let wait = Some(Duration::from_millis(10));
        let error = write_all(writer.as_fd(), &vec![0; 1 << 20], wait).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn json_keeps_the_value_and_steers_nothing() {
        let steering = "\u{1b}]0;x\u{7} \u{9b}31m \r\n\u{7f} \u{202e}\u{2028}\u{fff9} \u{1f600}";
        let value = serde_json::json!({ "path": steering, "\u{9b}": 1 });
        let line = json_line(&value);
        assert!(!line.chars().any(steers), "{line:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), value);
    }

    #[test]
    fn errors_have_their_exit_codes() {
        for (errno, code) in [
            (libc::ENOSPC, Exit::NoSpace),
            (libc::EDQUOT, Exit::NoSpace),
            (libc::EPIPE, Exit::NoReader),
            (libc::EIO, Exit::Other),
        ] {
            assert_eq!(OutputError(io::Error::from_raw_os_error(errno)).exit_code(), code);
        }
    }
}
