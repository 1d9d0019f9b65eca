//! The client's end: plain blocking calls.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::carrier::Carrier;
use super::outcome::{ConnectError, Timeouts, from_tls, protocol};
use super::tls::client_config;
use crate::vault::protocol::{
    Fingerprint, Manifest, REPLY_SIZE, Reply, Request, decode_reply, encode_request,
};

/// Waits before a request is sent again.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

struct Line {
    stream: StreamOwned<ClientConnection, Carrier>,
    reply: Duration,
}

impl Line {
    fn open(
        endpoint: &str,
        timeouts: &Timeouts,
        token: Option<&str>,
        config: Arc<ClientConfig>,
    ) -> Result<Self, ConnectError> {
        let mut carrier = Carrier::open(endpoint, timeouts, token)?;
        // Not sent (SNI is off): the key is judged by the manifest.
        let name = ServerName::try_from("vault.invalid").expect("a valid name");
        let mut tls = ClientConnection::new(config, name).map_err(|e| protocol(&e))?;
        carrier.set_deadline(Instant::now() + timeouts.reply);
        while tls.is_handshaking() {
            tls.complete_io(&mut carrier).map_err(from_tls)?;
        }
        Ok(Self { stream: StreamOwned::new(tls, carrier), reply: timeouts.reply })
    }

    /// One frame out, one frame in, all within the reply's time.
    fn call(&mut self, request: &Request) -> Result<Reply, ConnectError> {
        self.stream.sock.set_deadline(Instant::now() + self.reply);
        let frame = encode_request(request);
        self.stream.write_all(&frame).map_err(from_tls)?;
        self.stream.flush().map_err(from_tls)?;
        let mut bytes = vec![0; REPLY_SIZE];
        self.stream.read_exact(&mut bytes).map_err(from_tls)?;
        decode_reply(&bytes).map_err(|e| protocol(&e))
    }
}

/// A line to somebody who proved to hold some key. It can only be asked for the
/// manifest.
pub struct Greeting(Line);

impl Greeting {
    /// Connects to an endpoint of an address.
    pub fn open(endpoint: &str, timeouts: &Timeouts) -> Result<Self, ConnectError> {
        Self::open_as(endpoint, timeouts, None)
    }

    /// Connects to an endpoint of an address, and shows `token` of an account to a relay
    /// there.
    pub(crate) fn open_as(
        endpoint: &str,
        timeouts: &Timeouts,
        token: Option<&str>,
    ) -> Result<Self, ConnectError> {
        let config = client_config().map_err(|e| protocol(&e))?;
        Ok(Self(Line::open(endpoint, timeouts, token, config)?))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The time was given to each read: a server that sent a byte now and then
    /// held a client for as long as it liked.
    #[test]
    fn a_server_that_dribbles_does_not_hold_a_client() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The head of a long handshake record, then its body, slowly.
            let mut sent = stream.write_all(&[22, 3, 3, 0x3f, 0xff]).is_ok();
            let started = Instant::now();
            while sent && started.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(50));
                sent = stream.write_all(&[2]).is_ok();
            }
        });
        let timeouts = Timeouts { reply: Duration::from_millis(400), ..Timeouts::default() };
        let started = Instant::now();
        let error = Greeting::open(&host, &timeouts)
            .and_then(|greeting| greeting.verify(Fingerprint([0; 32]), 0))
            .err()
            .unwrap();
        assert!(matches!(error, ConnectError::Io(_)), "{error}");
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        server.join().unwrap();
    }
}
