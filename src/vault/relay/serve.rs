//! The relay's own end.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::accounts::{Accounts, Stranger};
use super::holders::{Counts, Held};
use super::sites::Sites;
use crate::crypto::hash;
use crate::io::{Clock, Random};
use crate::vault::budget::Budget;
use crate::vault::listen::{
    ConnectionSlot, ConnectionSlots, Origin, TurnedAway, is_own_trouble, read_hello,
    take_connections, wants_room,
};
use crate::vault::protocol::Seconds;
use crate::vault::protocol::assertion::{ASSERTION, Assertion, VALID};
use crate::vault::protocol::greeting::{GREETING, Welcome, decode_greeting, encode_welcome};

/// Descriptors that a connection takes: the client's, and that to a site.
pub const DESCRIPTORS_EACH: usize = 2;
/// Most connections at once that a relay can be told to bear.
pub const CONNECTIONS_MAX: usize = 100_000;
/// Most connections that a relay out of descriptors drops to connect one to a site.
const DROPS_PER_CONNECTION: usize = 8;
/// Bytes carried at once in one direction.
const BUFFER: usize = 4096;

/// What one relay bears.
#[derive(Clone, Copy, Debug)]
pub struct RelayLimits {
    /// Most connections at once.
    pub connections: usize,
    /// Connections at once from one IPv4 address or one /64 of IPv6, and of one
    /// account; four times as many from one /48 (loopback is not counted).
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

    /// Finds the account of a token and counts the connection for it. None if the relay
    /// asks for no account. The error is the answer to a client that may not connect.
    fn account(
        &self,
        token: Option<&str>,
        accounts: &Arc<Counts>,
    ) -> Result<Option<(String, Held)>, Welcome> {
        let Some(account) = self.admit(token).map_err(|Stranger| Welcome::Account)? else {
            return Ok(None);
        };
        if !self.by_account.take(account.clone(), self.clock.elapsed()) {
            return Err(Welcome::Busy);
        }
        let held = accounts.admit(&account, self.limits.connections_each).ok_or(Welcome::Busy)?;
        Ok(Some((account, held)))
    }

    /// The way to a site, or why not. A relay that is out of descriptors drops other
    /// connections for it.
    async fn site(&self, slot: &ConnectionSlot) -> Result<TcpStream, Welcome> {
        let mut dropped = 0;
        loop {
            match self.sites.connect().await {
                Ok(site) => return Ok(site),
                Err(error) if wants_room(&error) => {
                    slot.warn("the relay cannot connect to a site", &error);
                    if dropped == DROPS_PER_CONNECTION || !slot.evict_another().await {
                        return Err(Welcome::Busy);
                    }
                    dropped += 1;
                }
                Err(error) if is_own_trouble(&error) => {
                    slot.warn("the relay cannot connect to a site", &error);
                    return Err(Welcome::Busy);
                }
                Err(error) => {
                    log::warn!("no site takes a connection: {error}");
                    return Err(Welcome::NoSite);
                }
            }
        }
    }

    fn assertion(&self, hello: &[u8], account: Option<String>) -> [u8; ASSERTION] {
        let mut id = [0; 16];
        self.random.fill(&mut id);
        let now = self.clock.now().secs.max(0) as Seconds;
        let relay = self.key.verifying_key().to_bytes();
        Assertion { relay, expires: now + VALID, id, hello: hash(hello), account }.sign(&self.key)
    }

    /// A whole connection. Errors end it; nobody needs to know which.
    async fn carry(
        self: Arc<Self>,
        stream: TcpStream,
        accounts: Arc<Counts>,
        slot: &ConnectionSlot,
    ) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let deadline = Instant::now() + self.limits.handshake;
        let acceptor = self.acceptor.read().expect("replacing does not panic").clone();
        match acceptor {
            Some(acceptor) => {
                let stream = timeout_at(deadline, acceptor.accept(stream)).await.ok()?.ok()?;
                self.speak(stream, accounts, slot, deadline).await
            }
            None => self.speak(stream, accounts, slot, deadline).await,
        }
    }

    async fn speak(
        &self,
        mut client: impl AsyncRead + AsyncWrite + Unpin,
        accounts: Arc<Counts>,
        slot: &ConnectionSlot,
        deadline: Instant,
    ) -> Option<()> {
        let greeted = async {
            let mut greeting = Zeroizing::new([0; GREETING]);
            client.read_exact(&mut *greeting).await.ok()?;
            let token = decode_greeting(&greeting).ok()?;
            let met = async {
                let account = self.account(token, &accounts)?;
                // Where accounts are asked for, whoever has one is no stranger.
                if account.is_some() {
                    slot.set_idle();
                }
                Ok((account, self.site(slot).await?))
            };
            let met = met.await;
            let answer = met.as_ref().err().copied().unwrap_or(Welcome::Open);
            client.write_all(&encode_welcome(answer)).await.ok()?;
            client.flush().await.ok()?;
            let (account, mut site) = met.ok()?;
            let (account, held) = account.unzip();
            site.set_nodelay(true).ok()?;
            let hello = read_hello(&mut client).await.ok()?;
            slot.set_idle();
            site.write_all(&self.assertion(&hello, account)).await.ok()?;
            site.write_all(&hello).await.ok()?;
            Some((site, held))
        };
        let (site, _held) = timeout_at(deadline, greeted).await.ok()??;
        let (from_client, mut to_client) = split(client);
        let (from_site, to_site) = site.into_split();
        let most = self.limits.bytes;
        // When one side has ended, what the other still says goes nowhere.
        let carried = async {
            tokio::select! {
                ended = pass_on(from_client.take(most), to_site, slot) => ended,
                ended = pass_on(from_site.take(most), &mut to_client, slot) => ended,
            }
        };
        let _ = timeout(self.limits.lifetime, carried).await;
        let _ = timeout(self.limits.handshake, to_client.shutdown()).await;
        Some(())
    }
}

/// Carries bytes until one end has no more. Whoever says something is not idle.
async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    slot: &ConnectionSlot,
) -> io::Result<()> {
    let mut bytes = vec![0; BUFFER];
    loop {
        let read = from.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        slot.set_idle();
        to.write_all(&bytes[..read]).await?;
        to.flush().await?;
    }
}

/// Carries connections to `listener` until `stop` turns true, then lets those there
/// are end.
pub async fn serve_relay(listener: TcpListener, relay: Arc<Relay>, stop: watch::Receiver<bool>) {
    let limits = relay.limits;
    let slots = ConnectionSlots::new(limits.connections, limits.connections_each, |_| ());
    let accounts = Arc::new(Counts::default());
    let origin = |from| {
        let now = relay.clock.elapsed();
        match Origin::of(from) {
            Some(origin) if !relay.addresses.take(origin.subscriber, now) => Err(TurnedAway),
            origin => Ok(origin),
        }
    };
    let begin = |stream, slot: ConnectionSlot| {
        let (relay, accounts) = (Arc::clone(&relay), Arc::clone(&accounts));
        async move {
            let _ = slot.run_until_evicted(relay.carry(stream, accounts, &slot)).await;
        }
    };
    take_connections(listener, slots, limits.drain, stop, origin, begin).await;
}
