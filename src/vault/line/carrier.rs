//! What carries a client's line to a site: a socket, or a relay's connection.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::outcome::{ConnectError, Timeouts, from_tls, protocol};
use super::tls::outer_client_config;
use crate::vault::protocol::greeting::{WELCOME, Welcome, decode_welcome, encode_greeting};
use crate::vault::protocol::{Endpoint, Transport};

/// What a relay says to somebody without a token.
pub const WANTS_ACCOUNT: &str = "it wants an account: give its token by --vault-token FILE";

/// A socket that is of no use after a point in time, however many bytes still
/// dribble in: each call waits for what is left until then.
pub struct Timed {
    socket: TcpStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

/// What the system calls "would block" is the end of the time.
fn too_late(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(buffer).map_err(too_late)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes).map_err(too_late)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// The way to a site.
pub enum Carrier {
    /// To itself, or to a relay on this machine.
    Socket(Timed),
    /// Through a relay.
    Outer(Box<StreamOwned<ClientConnection, Timed>>),
}

impl Read for Carrier {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.read(buffer),
            Self::Outer(stream) => stream.read(buffer),
        }
    }
}

impl Write for Carrier {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.write(bytes),
            Self::Outer(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.flush(),
            Self::Outer(stream) => stream.flush(),
        }
    }
}

/// The relay's certificate is judged by the roots that this machine trusts. A relay
/// that is not the right one sees the token and who connects; what is said to the
/// site it cannot read.
fn outer_config() -> Result<Arc<ClientConfig>, ConnectError> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    let config = outer_client_config().map_err(|error| protocol(&error))?;
    Ok(Arc::clone(CONFIG.get_or_init(|| config)))
}

impl Carrier {
    /// Connects to an endpoint, and through it if it is a relay's, presenting `token`.
    pub fn open(
        endpoint: &str,
        timeouts: &Timeouts,
        token: Option<&str>,
    ) -> Result<Self, ConnectError> {
        let Endpoint { transport, host } = Endpoint::parse(endpoint)
            .ok_or_else(|| protocol(&"it is no place of the form HOST:PORT"))?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in host.to_socket_addrs()? {
            if transport == Transport::PlainRelay && !address.ip().is_loopback() {
                return Err(protocol(&"a relay without TLS must be on this machine"));
            }
            match TcpStream::connect_timeout(&address, timeouts.connect) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    let deadline = Instant::now() + timeouts.reply;
                    return Self::enter(transport, host, Timed { socket, deadline }, token);
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    fn enter(
        transport: Transport,
        host: &str,
        socket: Timed,
        token: Option<&str>,
    ) -> Result<Self, ConnectError> {
        let mut carrier = match transport {
            Transport::Direct => return Ok(Self::Socket(socket)),
            Transport::PlainRelay => Self::Socket(socket),
            Transport::Relay => {
                let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
                let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(name).map_err(|error| protocol(&error))?;
                let tls = ClientConnection::new(outer_config()?, name)
                    .map_err(|error| protocol(&error))?;
                Self::Outer(Box::new(StreamOwned::new(tls, socket)))
            }
        };
        let greeting =
            encode_greeting(token).ok_or(ConnectError::Relay("the token is too long"))?;
        carrier.write_all(&greeting).map_err(from_tls)?;
        carrier.flush().map_err(from_tls)?;
        let mut answer = [0; WELCOME];
        carrier.read_exact(&mut answer).map_err(from_tls)?;
        match decode_welcome(&answer) {
            Some(Welcome::Open) => Ok(carrier),
            Some(Welcome::Account) if token.is_none() => Err(ConnectError::Relay(WANTS_ACCOUNT)),
            Some(Welcome::Account) => Err(ConnectError::Relay("it does not know this token")),
            Some(Welcome::Busy) => Err(ConnectError::Relay("too many connections; try later")),
            Some(Welcome::NoSite) => Err(ConnectError::Relay("it reaches no site of the vault")),
            None => Err(protocol(&"it is no relay")),
        }
    }

    /// From here on everything must be over at `deadline`.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        let socket = match self {
            Self::Socket(socket) => socket,
            Self::Outer(stream) => &mut stream.sock,
        };
        socket.deadline = deadline;
    }
}
