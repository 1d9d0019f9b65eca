//! The client's end: plain blocking calls.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::tls::client_config;
use crate::vault::protocol::{
    Fingerprint, Manifest, ManifestError, REPLY_SIZE, Reply, Request, decode_reply, encode_request,
};

/// How long a client waits.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For one TCP connection.
    pub connect: Duration,
    /// For the handshake, and for each reply.
    pub reply: Duration,
    /// For the answer to a proof: an attempt is paid for by then, so it is
    /// asked again and again.
    pub proof: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            reply: Duration::from_secs(20),
            proof: Duration::from_secs(60),
        }
    }
}

/// Why there is no channel, or it broke.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing answers there, or it stopped.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something answers that is no vault.
    #[error("it does not speak the vault's protocol: {0}")]
    Protocol(String),
    /// A vault, but not the pinned one.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The manifest is the pinned root's, the site is not in it.
    #[error("the key it proved is not one of the vault's sites")]
    NotASite,
}

/// Waits before a request is sent again.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

struct Line {
    stream: StreamOwned<ClientConnection, TcpStream>,
    reply: Duration,
}

fn protocol(error: &dyn std::fmt::Display) -> ConnectError {
    ConnectError::Protocol(error.to_string())
}

impl Line {
    fn open(
        host: &str,
        timeouts: &Timeouts,
        config: Arc<ClientConfig>,
    ) -> Result<Self, ConnectError> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in host.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, timeouts.connect) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    // Not sent (SNI is off): the key is judged by the manifest.
                    let name = ServerName::try_from("vault.invalid").expect("a valid name");
                    let tls = ClientConnection::new(config, name).map_err(|e| protocol(&e))?;
                    return Ok(Self {
                        stream: StreamOwned::new(tls, stream),
                        reply: timeouts.reply,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    /// One frame out, one frame in, all within the reply's time.
    fn call(&mut self, request: &Request) -> Result<Reply, ConnectError> {
        let deadline = Instant::now() + self.reply;
        let frame = encode_request(request);
        self.stream.sock.set_write_timeout(Some(self.reply))?;
        self.stream.sock.set_read_timeout(Some(self.reply))?;
        self.stream.write_all(&frame).map_err(from_tls)?;
        self.stream.flush().map_err(from_tls)?;
        let mut bytes = vec![0; REPLY_SIZE];
        let mut done = 0;
        while done < REPLY_SIZE {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            self.stream.sock.set_read_timeout(Some(left))?;
            match self.stream.read(&mut bytes[done..]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(from_tls(error)),
            }
        }
        decode_reply(&bytes).map_err(|e| protocol(&e))
    }
}

/// rustls wraps its own errors as `InvalidData`.
fn from_tls(error: io::Error) -> ConnectError {
    if error.kind() == io::ErrorKind::InvalidData { protocol(&error) } else { error.into() }
}

/// A line to somebody who proved to hold some key. It can only be asked for the
/// manifest.
pub struct Greeting(Line);

impl Greeting {
    /// Connects to `HOST:PORT`.
    pub fn open(host: &str, timeouts: &Timeouts) -> Result<Self, ConnectError> {
        let config = client_config().map_err(|e| protocol(&e))?;
        Ok(Self(Line::open(host, timeouts, config)?))
    }

    /// Fetches the manifest and checks root, epoch and the key at the other
    /// end of this very line.
    pub fn verify(mut self, pinned: Fingerprint, seen: u64) -> Result<Channel, ConnectError> {
        let Reply::Manifest(bytes) = self.0.call(&Request::Manifest)? else {
            return Err(ConnectError::Protocol("no manifest".into()));
        };
        let manifest = Manifest::verify(&bytes, pinned, seen)?;
        let proven = self.0.stream.conn.peer_certificates().and_then(|keys| keys.first());
        if !proven.is_some_and(|key| manifest.has_site(key.as_ref())) {
            return Err(ConnectError::NotASite);
        }
        Ok(Channel { line: self.0, manifest })
    }
}

/// A line to a site of the pinned fleet.
pub struct Channel {
    line: Line,
    manifest: Manifest,
}

impl Channel {
    /// The manifest this channel is trusted by.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Asks one thing. After an error the channel is of no more use.
    pub fn call(&mut self, request: &Request) -> Result<Reply, ConnectError> {
        self.line.call(request)
    }
}
