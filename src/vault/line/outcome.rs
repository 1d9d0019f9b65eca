//! How long a client waits, and why there is no channel.

use std::io;
use std::time::Duration;

use crate::vault::protocol::ManifestError;

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
    /// A relay lets nobody through, or not this client.
    #[error("the relay says: {0}")]
    Relay(&'static str),
    /// A vault, but not the pinned one.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The manifest is the pinned root's, the site is not in it.
    #[error("the key it proved is not one of the vault's sites")]
    NotASite,
}

pub(super) fn protocol(error: &dyn std::fmt::Display) -> ConnectError {
    ConnectError::Protocol(error.to_string())
}

/// rustls wraps its own errors as `InvalidData`.
pub(super) fn from_tls(error: io::Error) -> ConnectError {
    if error.kind() == io::ErrorKind::InvalidData { protocol(&error) } else { error.into() }
}
