//! The site's end. Requests block on keys and ledger, so they run off the
//! executor's threads.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::vault::protocol::{REQUEST_SIZE, Refusal, Reply, decode_request, encode_reply};
use crate::vault::server::Site;

/// What one site bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address (loopback is not counted).
    pub connections_each: usize,
    /// Requests on one connection.
    pub requests: usize,
    /// For the handshake, and for writing a reply.
    pub handshake: Duration,
    /// Between two requests; a client stretches its password meanwhile.
    pub idle: Duration,
    /// Of a whole connection.
    pub lifetime: Duration,
    /// For connections to end by themselves after a call to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_each: 16,
            requests: 32,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            lifetime: Duration::from_secs(300),
            drain: Duration::from_secs(10),
        }
    }
}

/// Counts connections of one address; gives back when dropped.
struct Guest {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Guest {
    fn admit(
        counts: &Arc<Mutex<HashMap<IpAddr, usize>>>,
        address: IpAddr,
        limit: usize,
    ) -> Option<Self> {
        let mut map = counts.lock().expect("counting does not panic");
        let count = map.entry(address).or_insert(0);
        if *count >= limit && !address.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Self { counts: Arc::clone(counts), address })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut map = self.counts.lock().expect("counting does not panic");
        if let Some(count) = map.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                map.remove(&self.address);
            }
        }
    }
}

/// Serves `site` on `listener` until `stop` turns true, then lets running
/// requests end. `open` says whether clients may register.
pub async fn serve(
    listener: TcpListener,
    site: Arc<Site>,
    acceptor: TlsAcceptor,
    limits: Limits,
    open: bool,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let counts = Arc::new(Mutex::new(HashMap::new()));
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
        let Some(guest) = Guest::admit(&counts, peer.ip(), limits.connections_each) else {
            continue;
        };
        let (site, acceptor, stop) = (Arc::clone(&site), acceptor.clone(), stop.clone());
        tokio::spawn(async move {
            let _held = (place, guest);
            let whole = connection(stream, site, acceptor, limits, open, stop);
            let _ = timeout(limits.lifetime, whole).await;
        });
    }
    drop(listener);
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let _ = timeout(limits.drain, places.acquire_many(all)).await;
}

/// One connection. Errors end it; nobody needs to know which.
async fn connection(
    stream: TcpStream,
    site: Arc<Site>,
    acceptor: TlsAcceptor,
    limits: Limits,
    open: bool,
    mut stop: watch::Receiver<bool>,
) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut stream = timeout(limits.handshake, acceptor.accept(stream)).await.ok()?.ok()?;
    let mut frame = Zeroizing::new(vec![0; REQUEST_SIZE]);
    for _ in 0..limits.requests {
        let deadline = Instant::now() + limits.idle;
        tokio::select! {
            read = timeout_at(deadline, stream.read_exact(&mut frame)) => read.ok()?.ok()?,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let reply = match decode_request(&frame) {
            Ok(request) => {
                let site = Arc::clone(&site);
                tokio::task::spawn_blocking(move || site.handle(&request, open)).await.ok()?
            }
            Err(_) => Reply::Refused(Refusal::Malformed),
        };
        let bytes = encode_reply(&reply);
        let write = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        timeout(limits.handshake, write).await.ok()?.ok()?;
    }
    timeout(limits.handshake, stream.shutdown()).await.ok()?.ok()
}
