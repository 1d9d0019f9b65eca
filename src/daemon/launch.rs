//! From the command line's process to the daemon's.
//!
//! The daemon is forked before there is a second thread or a secret. The
//! parent keeps the terminal, asks its questions, sends secrets through a pipe
//! and waits for success or the text of an error. Invariant: the parent
//! reports success only if the child said so.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use daemonize::{Daemonize, Outcome};
use rustix::pipe::{PipeFlags, pipe_with};

use super::process::{LockedBytes, close_inherited, harden};
use crate::control::{Failure, char_boundary};
use crate::io::Exit;

/// Longest secret or message through the pipes, in bytes.
const MAX_MESSAGE: u32 = 64 << 10;
const UMASK: u32 = 0o077;

const READY: u8 = 1;
const FAILED: u8 = 2;
const NOTE: u8 = 3;

/// The two sides after the fork of the daemon.
pub enum Launched {
    /// The command line's process.
    Parent(Parent),
    /// This process is the daemon.
    Child(Child),
}

/// The command line's side.
pub struct Parent {
    secrets: File,
    reports: File,
}

/// The daemon's end of the pipe to the process that started it.
pub struct Child {
    secrets: File,
    reports: File,
}

/// How often threads that are ending are waited for.
const ENDING_TRIES: u32 = 100;

/// Forks the daemon: a session of its own, working directory `/`, umask 077,
/// no terminal, no core dumps, none of the caller's descriptors. All paths must be
/// absolute by now.
pub fn launch() -> io::Result<Launched> {
    let mut threads = std::fs::read_dir("/proc/self/task")?.count();
    for _ in 0..ENDING_TRIES {
        if threads == 1 {
            break;
        }
        // One that was joined is listed for a moment still.
        std::thread::sleep(std::time::Duration::from_millis(10));
        threads = std::fs::read_dir("/proc/self/task")?.count();
    }
    if threads != 1 {
        // A lock held by another thread would stay locked in the child.
        return Err(io::Error::other(format!("{threads} threads run before the fork")));
    }
    let (secrets_in, secrets_out) = pipe_with(PipeFlags::CLOEXEC)?;
    let (reports_in, reports_out) = pipe_with(PipeFlags::CLOEXEC)?;
    let daemon = Daemonize::new().working_directory("/").umask(UMASK);
    match daemon.execute() {
        Outcome::Parent(Ok(_)) => {
            Ok(Launched::Parent(Parent { secrets: secrets_out.into(), reports: reports_in.into() }))
        }
        Outcome::Child(Ok(_)) => {
            let child = Child::new(secrets_in, reports_out);
            // The parent's ends must be closed here, or no end is ever seen.
            drop((secrets_out, reports_in));
            close_inherited();
            if let Err(error) = harden() {
                let text = format!("the daemon could not be started: {error}");
                child.failed(&Failure { code: Exit::Other, text });
                std::process::exit(Exit::Other.number().into());
            }
            Ok(Launched::Child(child))
        }
        Outcome::Parent(Err(error)) | Outcome::Child(Err(error)) => Err(io::Error::other(error)),
    }
}

/// Writes a message: 1 kind, 4 length (little-endian), body.
pub(crate) fn send(pipe: &mut impl Write, kind: u8, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_MESSAGE);
    let length = length.ok_or_else(|| io::Error::other("message is too long"))?;
    pipe.write_all(&[kind])?;
    pipe.write_all(&length.to_le_bytes())?;
    // Written from where it is: no copy of a secret is made.
    pipe.write_all(body)
}

/// Reads a message that [`send`] wrote: its kind and body.
pub(crate) fn receive(pipe: &mut impl Read) -> io::Result<(u8, LockedBytes)> {
    let mut head = [0; 5];
    pipe.read_exact(&mut head)?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    if length > MAX_MESSAGE {
        return Err(io::Error::other("message is too long"));
    }
    Ok((head[0], LockedBytes::filled(length as usize, |bytes| pipe.read_exact(bytes))?))
}

/// Whether the child that writes `reports` is ready, or why not; `note` gets what it has
/// to say before.
pub(crate) fn reported(reports: &mut impl Read, note: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let senseless = || Failure { code: Exit::Other, text: "the daemon makes no sense".into() };
    loop {
        let Ok((kind, body)) = receive(reports) else {
            let text = "the daemon ended before the mount was usable; see the log".into();
            return Err(Failure { code: Exit::Other, text });
        };
        let body = body.expose();
        match (kind, body.split_first()) {
            (READY, _) => return Ok(()),
            (NOTE, _) => note(&String::from_utf8_lossy(body)),
            // Failing with the code of success would be taken for it.
            (FAILED, Some((&number, text))) => match Exit::from_number(number) {
                None | Some(Exit::Done) => return Err(senseless()),
                Some(code) => {
                    let text = String::from_utf8_lossy(text).into_owned();
                    return Err(Failure { code, text });
                }
            },
            _ => return Err(senseless()),
        }
    }
}

impl Parent {
    /// Sends a secret; the child takes them in the same order. If the child is
    /// gone, `wait` tells why.
    pub fn send(&mut self, secret: &[u8]) -> io::Result<()> {
        send(&mut &self.secrets, NOTE, secret)
    }

    /// Waits until the mount is usable or failed; `note` gets what the child
    /// has to say meanwhile.
    pub fn wait(self, mut note: impl FnMut(&str)) -> Result<(), Failure> {
        drop(self.secrets);
        reported(&mut &self.reports, &mut note)
    }
}

impl Child {
    fn new(secrets: OwnedFd, reports: OwnedFd) -> Self {
        Self { secrets: secrets.into(), reports: reports.into() }
    }

    /// The next secret; an error if the parent is gone.
    pub fn receive(&mut self) -> io::Result<LockedBytes> {
        receive(&mut &self.secrets).map(|(_, secret)| secret)
    }

    /// Tells the user something while it goes on.
    pub fn note(&mut self, text: &str) {
        // Without a parent nobody waits for it.
        let _ = send(&mut &self.reports, NOTE, text.as_bytes());
    }

    /// Lets the parent return success.
    pub fn ready(self) {
        let _ = send(&mut &self.reports, READY, &[]);
    }

    /// Lets the parent return failure.
    pub fn failed(self, failure: &Failure) {
        let text = &failure.text[..char_boundary(&failure.text, MAX_MESSAGE as usize - 1)];
        let body = [&[failure.code.number()], text.as_bytes()].concat();
        let _ = send(&mut &self.reports, FAILED, &body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Parent, Child) {
        let (secrets_in, secrets_out) = pipe_with(PipeFlags::CLOEXEC).expect("pipe");
        let (reports_in, reports_out) = pipe_with(PipeFlags::CLOEXEC).expect("pipe");
        let parent = Parent { secrets: secrets_out.into(), reports: reports_in.into() };
        (parent, Child::new(secrets_in, reports_out))
    }

    #[test]
    fn secrets_and_success_pass() {
        let (mut parent, mut child) = pair();
        parent.send(b"secret").expect("sends");
        parent.send(b"").expect("sends");
        assert_eq!(child.receive().expect("receives").expose(), b"secret");
        assert_eq!(child.receive().expect("receives").expose(), b"");
        child.note("swap is not encrypted");
        child.ready();
        let mut notes = Vec::new();
        parent.wait(|note| notes.push(note.to_string())).expect("is ready");
        assert_eq!(notes, ["swap is not encrypted"]);
    }

    #[test]
    fn failure_passes_with_its_code() {
        let (parent, child) = pair();
        let failure = Failure { code: Exit::WrongSecret, text: "Wrong password.".into() };
        child.failed(&failure);
        assert_eq!(parent.wait(|_| ()), Err(failure));
        let (parent, child) = pair();
        child.failed(&Failure { code: Exit::Done, text: "no".into() });
        assert_eq!(parent.wait(|_| ()).expect_err("it failed").code, Exit::Other);
    }

    #[test]
    fn a_child_that_dies_is_a_failure() {
        let (parent, child) = pair();
        drop(child);
        assert_eq!(parent.wait(|_| ()).expect_err("died").code, Exit::Other);
        let (parent, mut child) = pair();
        drop(parent);
        assert!(child.receive().is_err(), "a parent that was interrupted ends the child");
    }

    #[test]
    fn a_long_message_is_refused() {
        let (mut parent, child) = pair();
        assert!(parent.send(&vec![0; MAX_MESSAGE as usize + 1]).is_err());
        (&parent.secrets).write_all(&[NOTE, 0xff, 0xff, 0xff, 0xff]).expect("writes");
        let mut child = child;
        assert!(child.receive().is_err());
    }
}
