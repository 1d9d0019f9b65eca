//! The relay's own end.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::accounts::{Accounts, Stranger};
use super::assertion::{Assertion, VALID, read_hello};
use super::budget::Budget;
use super::greeting::{GREETING, Welcome, decode_greeting, encode_welcome};
use super::sites::Sites;
use crate::crypto::hash;
use crate::io::{Clock, Random};
use crate::vault::net::{Guest, origin};
use crate::vault::protocol::Seconds;

/// What one relay bears.
#[derive(Clone, Copy, Debug)]
pub struct RelayLimits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one IPv4 address or one /64 of IPv6 (loopback is not
    /// counted), and of one account.
    pub connections_each: usize,
    /// Connections from one address within a minute (loopback is not counted), and
    /// of one account.
    pub minute: u32,
    /// For everything until the client speaks to a site.
    pub handshake: Duration,
    /// Of a whole connection.
    pub lifetime: Duration,
    /// Bytes in each direction: far more than a site takes and gives in one
    /// connection.
    pub bytes: u64,
    /// For connections to end by themselves after a call to stop.
    pub drain: Duration,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_each: 16,
            minute: 60,
            handshake: Duration::from_secs(10),
            lifetime: Duration::from_secs(310),
            bytes: 256 << 10,
            drain: Duration::from_secs(10),
        }
    }
}

/// A relay without its socket.
pub struct Relay {
    accounts: RwLock<Accounts>,
    key: SigningKey,
    sites: Sites,
    limits: RelayLimits,
    addresses: Budget<IpAddr>,
    by_account: Budget<String>,
    random: Arc<dyn Random>,
    clock: Arc<dyn Clock>,
    /// The outer TLS; none on loopback.
    acceptor: RwLock<Option<TlsAcceptor>>,
}

impl Relay {
    /// A relay that signs with `key` and carries to `sites`.
    pub fn new(
        accounts: Accounts,
        key: SigningKey,
        sites: Sites,
        limits: RelayLimits,
        (clock, random): (Arc<dyn Clock>, Arc<dyn Random>),
        acceptor: Option<TlsAcceptor>,
    ) -> Self {
        Self {
            accounts: RwLock::new(accounts),
            key,
            sites,
            limits,
            addresses: Budget::new(limits.minute),
            by_account: Budget::new(limits.minute),
            random,
            clock,
            acceptor: RwLock::new(acceptor),
        }
    }

    /// Goes on with other accounts and another certificate; connections there are
    /// stay.
    pub fn reload(&self, accounts: Accounts, acceptor: Option<TlsAcceptor>) {
        *self.accounts.write().expect("replacing does not panic") = accounts;
        *self.acceptor.write().expect("replacing does not panic") = acceptor;
    }

    /// Goes on with other accounts.
    pub fn reload_accounts(&self, accounts: Accounts) {
        *self.accounts.write().expect("replacing does not panic") = accounts;
    }

    fn admit(&self, token: Option<&str>) -> Result<Option<String>, Stranger> {
        self.accounts.read().expect("replacing does not panic").admit(token)
    }

    /// Who comes, and the way to a site; or why not.
    async fn welcome(&self, token: Option<&str>) -> Result<(Option<String>, TcpStream), Welcome> {
        let account = self.admit(token).map_err(|Stranger| Welcome::Account)?;
        if let Some(account) = &account
            && !self.by_account.take(account.clone(), self.clock.elapsed())
        {
            return Err(Welcome::Busy);
        }
        let site = self.sites.connect().await.map_err(|error| {
            log::warn!("no site takes a connection: {error}");
            Welcome::NoSite
        })?;
        Ok((account, site))
    }

    fn assertion(
        &self,
        hello: &[u8],
        account: Option<String>,
    ) -> [u8; super::assertion::ASSERTION] {
        let mut id = [0; 16];
        self.random.fill(&mut id);
        let now = self.clock.now().secs.max(0) as Seconds;
        let relay = self.key.verifying_key().to_bytes();
        Assertion { relay, expires: now + VALID, id, hello: hash(hello), account }.sign(&self.key)
    }

    /// A whole connection. Errors end it; nobody needs to know which.
    async fn carry(self: Arc<Self>, stream: TcpStream, accounts: Arc<Counts>) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let acceptor = self.acceptor.read().expect("replacing does not panic").clone();
        match acceptor {
            Some(acceptor) => {
                let stream = timeout(self.limits.handshake, acceptor.accept(stream));
                self.speak(stream.await.ok()?.ok()?, accounts).await
            }
            None => self.speak(stream, accounts).await,
        }
    }

    async fn speak(
        &self,
        mut client: impl AsyncRead + AsyncWrite + Unpin,
        accounts: Arc<Counts>,
    ) -> Option<()> {
        let greeted = async {
            let mut greeting = Zeroizing::new([0; GREETING]);
            client.read_exact(&mut *greeting).await.ok()?;
            let token = decode_greeting(&greeting).ok()?;
            let met = self.welcome(token).await.and_then(|(account, site)| {
                let each = self.limits.connections_each;
                let held = account.as_ref().map(|name| accounts.admit(name, each));
                match held {
                    Some(None) => Err(Welcome::Busy),
                    held => Ok((account, site, held)),
                }
            });
            let answer = met.as_ref().err().copied().unwrap_or(Welcome::Open);
            client.write_all(&encode_welcome(answer)).await.ok()?;
            client.flush().await.ok()?;
            let (account, mut site, held) = met.ok()?;
            site.set_nodelay(true).ok()?;
            let hello = read_hello(&mut client).await.ok()?;
            site.write_all(&self.assertion(&hello, account)).await.ok()?;
            site.write_all(&hello).await.ok()?;
            Some((site, held))
        };
        let (site, _held) = timeout(self.limits.handshake, greeted).await.ok()??;
        let (from_client, mut to_client) = split(client);
        let (from_site, mut to_site) = site.into_split();
        let (mut up, mut down) =
            (from_client.take(self.limits.bytes), from_site.take(self.limits.bytes));
        // When one side has ended, what the other still says goes nowhere.
        let carried = async {
            tokio::select! {
                done = copy(&mut up, &mut to_site) => done.is_ok(),
                done = copy(&mut down, &mut to_client) => done.is_ok(),
            }
        };
        let _ = timeout(self.limits.lifetime, carried).await;
        let _ = timeout(self.limits.handshake, to_client.shutdown()).await;
        Some(())
    }
}

/// Connections of each account.
#[derive(Default)]
struct Counts(Mutex<HashMap<String, usize>>);

struct Held(Arc<Counts>, String);

impl Counts {
    fn admit(self: &Arc<Self>, account: &str, limit: usize) -> Option<Held> {
        let mut counts = self.0.lock().expect("counting does not panic");
        let count = counts.entry(account.to_owned()).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Held(Arc::clone(self), account.to_owned()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().expect("counting does not panic");
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

/// Carries connections to `listener` until `stop` turns true, then lets those there
/// are end.
pub async fn serve_relay(
    listener: TcpListener,
    relay: Arc<Relay>,
    mut stop: watch::Receiver<bool>,
) {
    let limits = relay.limits;
    let places = Arc::new(Semaphore::new(limits.connections));
    let (counts, accounts) = (Arc::new(Mutex::new(HashMap::new())), Arc::new(Counts::default()));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: wait rather than spin.
                log::warn!("a connection was not accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let address = origin(peer.ip());
        let Some(guest) = Guest::admit(&counts, address, limits.connections_each) else { continue };
        let may = address.is_loopback() || relay.addresses.take(address, relay.clock.elapsed());
        if !may {
            continue;
        }
        let (relay, accounts) = (Arc::clone(&relay), Arc::clone(&accounts));
        tokio::spawn(async move {
            let _held = (place, guest);
            relay.carry(stream, accounts).await
        });
    }
    drop(listener);
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let _ = timeout(limits.drain, places.acquire_many(all)).await;
}
