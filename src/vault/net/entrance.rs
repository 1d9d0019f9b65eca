//! Who comes to a site: clients themselves, and relays for clients.

use std::io::Cursor;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use super::guests::origin;
use crate::vault::protocol::Seconds;
use crate::vault::relay::assertion::{
    self, ASSERTION, Assertion, AssertionError, Seen, read_hello,
};
use crate::vault::server::Caller;

/// A site's relays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relays {
    /// Their Ed25519 keys.
    pub keys: Vec<[u8; 32]>,
    /// Where they come from: without the limit of connections from one address.
    pub addresses: Vec<IpAddr>,
    /// Nobody else may come.
    pub only: bool,
    /// Whoever has an account there may register.
    pub register: bool,
}

/// The way into a site.
#[derive(Default)]
pub struct Entrance {
    open: bool,
    relays: Relays,
    seen: Seen,
}

impl Entrance {
    /// `open`: whoever connects may register.
    pub fn new(open: bool, relays: Relays) -> Self {
        Self { open, relays, seen: Seen::default() }
    }

    pub(super) fn is_relay(&self, address: IpAddr) -> bool {
        self.relays.addresses.contains(&address.to_canonical())
    }

    /// Takes what a relay says, if one is at the other end, and returns the client's
    /// own bytes and who it is.
    pub(super) async fn pass(
        &self,
        mut stream: TcpStream,
        now: Seconds,
    ) -> Option<(impl AsyncRead + AsyncWrite + Unpin + use<>, Caller)> {
        let mut first = [0];
        stream.peek(&mut first).await.ok()?;
        let (hello, caller) = if first[0] == assertion::FIRST && !self.relays.keys.is_empty() {
            let mut bytes = [0; ASSERTION];
            stream.read_exact(&mut bytes).await.ok()?;
            let hello = read_hello(&mut stream).await.ok()?;
            (hello.clone(), self.vouched(&bytes, &hello, now).ok()?)
        } else if self.relays.only {
            return None;
        } else {
            let origin = Some(origin(stream.peer_addr().ok()?.ip()));
            (Vec::new(), Caller { origin, ..Caller::unknown(self.open) })
        };
        let (read, write) = stream.into_split();
        Some((tokio::io::join(Cursor::new(hello).chain(read), write), caller))
    }

    fn vouched(
        &self,
        bytes: &[u8; ASSERTION],
        hello: &[u8],
        now: Seconds,
    ) -> Result<Caller, AssertionError> {
        let outcome = Assertion::verify(bytes, &self.relays.keys)
            .and_then(|assertion| self.seen.take(&assertion, hello, now).map(|()| assertion));
        let assertion = outcome.inspect_err(|error| {
            log::warn!("a connection that a relay vouches for was refused: {error}");
        })?;
        let account: Option<Arc<str>> = assertion.account.map(Into::into);
        let open = self.open || self.relays.register && account.is_some();
        Ok(Caller { open, account, origin: None })
    }
}
