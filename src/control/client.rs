//! The command line's side of the socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::message::{Described, Failure, Reply, Request};
use super::socket;

/// A daemon that does not say who it is within this time hangs.
const DESCRIBE_LIMIT: Duration = Duration::from_secs(5);

/// Why a request was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody is at the other end.
    #[error("the daemon is gone")]
    Gone,
    /// The socket of the daemon failed.
    #[error("the daemon could not be asked: {0}")]
    Io(#[from] io::Error),
    /// The answer makes no sense.
    #[error("the daemon's answer is not understood; is it of another version?")]
    Strange,
    /// Everything is in REPO, and somebody uses the mount.
    #[error("{0}")]
    Busy(String),
    /// The daemon says why not.
    #[error("{}", .0.text)]
    Failed(Failure),
}

/// A connection for one request.
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to a daemon's socket.
    pub fn connect(path: &Path) -> Result<Self, ControlError> {
        Self::connect_to(path, rustix::process::geteuid().as_raw())
    }

    /// Connects to the socket of a daemon of the user `uid`.
    pub(crate) fn connect_to(path: &Path, uid: u32) -> Result<Self, ControlError> {
        let stream = socket::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ControlError::Gone,
            _ => ControlError::Io(error),
        })?;
        socket::check_peer_is(&stream, uid)?;
        Ok(Self { stream })
    }

    /// Asks the daemon who it is.
    pub(crate) fn describe(&mut self) -> Result<Described, ControlError> {
        self.stream.set_read_timeout(Some(DESCRIBE_LIMIT))?;
        self.send(&Request::Describe)?;
        let reply = self.receive()?;
        self.stream.set_read_timeout(None)?;
        match reply {
            Reply::Described(described) => Ok(described),
            _ => Err(ControlError::Strange),
        }
    }

    /// Sends a request or a piece of input.
    pub fn send(&mut self, request: &Request) -> Result<(), ControlError> {
        socket::send(&self.stream, &request.encode()).map_err(|error| match error.kind() {
            // Closed by a daemon that ends.
            io::ErrorKind::BrokenPipe => ControlError::Gone,
            _ => ControlError::Io(error),
        })
    }

    /// Receives one reply; a refusal is an error.
    pub fn receive(&mut self) -> Result<Reply, ControlError> {
        let frame = match socket::receive(&self.stream) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            received => received?,
        };
        let frame = frame.ok_or(ControlError::Gone)?;
        match Reply::decode(&frame).map_err(|_| ControlError::Strange)? {
            Reply::Busy(text) => Err(ControlError::Busy(text)),
            Reply::Failed(failure) => Err(ControlError::Failed(failure)),
            reply => Ok(reply),
        }
    }

    /// Sends a request and waits for its end; `each` gets the data.
    pub fn ask(
        &mut self,
        request: &Request,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ControlError> {
        self.send(request)?;
        loop {
            match self.receive()? {
                Reply::Done => return Ok(()),
                Reply::Data(bytes) => each(&bytes)?,
                _ => return Err(ControlError::Strange),
            }
        }
    }
}
