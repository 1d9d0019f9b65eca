//! Who may use a site: clients that come directly, and clients that come by a relay.

use std::io::Cursor;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use super::seen::{Fresh, Seen};
use crate::vault::listen::{Origin, read_hello};
use crate::vault::protocol::Seconds;
use crate::vault::protocol::assertion::{self, ASSERTION, Assertion, AssertionError};
use crate::vault::server::Caller;

/// The relays whose connections a site accepts, by key and network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relays {
    /// The Ed25519 public keys of the relays.
    pub keys: Vec<[u8; 32]>,
    /// The addresses of the relays. The limit of connections from one address does not apply to
    /// them.
    pub addresses: Vec<IpAddr>,
    /// Whether clients may come by these relays only.
    pub only: bool,
    /// Whether a client for which a relay vouches an account may register.
    pub register: bool,
}

/// Who a client says it is, before its handshake proves that it speaks itself.
pub(super) struct Claim {
    caller: Caller,
    /// The assertion it comes under.
    fresh: Option<Fresh>,
}

/// Decides who may use a site: which connections it takes, for which account, and whether they
/// may register.
#[derive(Default)]
pub struct Admission {
    open: bool,
    relays: Relays,
    seen: Seen,
}

impl Admission {
    /// Makes the rules of a site. With `open` everybody who connects may register.
    pub fn new(open: bool, relays: Relays) -> Self {
        Self { open, relays, seen: Seen::default() }
    }

    /// Sets how many assertions the site remembers, so that none is used twice.
    #[cfg(test)]
    pub(crate) fn remembering(self, most: usize) -> Self {
        Self { seen: Seen::new(most), ..self }
    }

    /// Whether the settings name `address` as one of a relay.
    pub(super) fn is_relay(&self, address: IpAddr) -> bool {
        self.relays.addresses.contains(&address.to_canonical())
    }

    /// Reads the assertion of a relay, if a relay is at the other end, and the client's hello
    /// after it. Returns the stream as the client sent it, and who the client says it is;
    /// `None` if the assertion is not valid, or if only relays may come and this is none.
    pub(super) async fn identify(
        &self,
        mut stream: TcpStream,
        now: Seconds,
    ) -> Option<(impl AsyncRead + AsyncWrite + Unpin + use<>, Claim)> {
        let mut first = [0];
        stream.peek(&mut first).await.ok()?;
        let (hello, claim) = if first[0] == assertion::FIRST && !self.relays.keys.is_empty() {
            let mut bytes = [0; ASSERTION];
            stream.read_exact(&mut bytes).await.ok()?;
            let hello = read_hello(&mut stream).await.ok()?;
            let claim =
                self.vouched(&bytes, &hello, now).inspect_err(|error| refused(*error)).ok()?;
            (hello, claim)
        } else if self.relays.only {
            return None;
        } else {
            let origin = Origin::of(stream.peer_addr().ok()?.ip()).map(|from| from.network);
            let caller = Caller { origin, ..Caller::unknown(self.open) };
            (Vec::new(), Claim { caller, fresh: None })
        };
        let (read, write) = stream.into_split();
        Some((tokio::io::join(Cursor::new(hello).chain(read), write), claim))
    }

    /// Verifies the assertion in `bytes` for a connection that begins with `hello`.
    fn vouched(
        &self,
        bytes: &[u8; ASSERTION],
        hello: &[u8],
        now: Seconds,
    ) -> Result<Claim, AssertionError> {
        let assertion = Assertion::verify(bytes, &self.relays.keys)?;
        let fresh = Some(self.seen.check(&assertion, hello, now)?);
        let account: Option<Arc<str>> = assertion.account.map(Into::into);
        let open = self.open || self.relays.register && account.is_some();
        Ok(Claim { caller: Caller { open, account, origin: None }, fresh })
    }

    /// Admits a client whose handshake has succeeded. Returns `None` if another connection was
    /// admitted under the same assertion.
    pub(super) fn admit(&self, claim: Claim, now: Seconds) -> Option<Caller> {
        if let Some(fresh) = claim.fresh {
            self.seen.record(fresh, now).inspect_err(|error| refused(*error)).ok()?;
        }
        Some(claim.caller)
    }
}

fn refused(error: AssertionError) {
    log::warn!("a connection that a relay vouches for was refused: {error}");
}
