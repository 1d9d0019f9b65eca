//! The site's end. Requests block on keys and ledger, so they run off the
//! executor's threads.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::vault::protocol::{REQUEST_SIZE, Refusal, Reply, decode_request, encode_reply};
use crate::vault::server::{Caller, Site};

/// What one site bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one IPv4 address or one /64 of IPv6 (loopback is
    /// not counted).
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

/// What counts as one client: an IPv4 address, or the /64 of an IPv6 one, which
/// a single subscriber has whole.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        other => other,
    }
}

/// Counts connections of one origin; gives back when dropped.
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
        let address = origin(address);
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
            // A request that comes after the call to stop is not taken.
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            read = timeout_at(deadline, stream.read_exact(&mut frame)) => read.ok()?.ok()?,
        };
        let reply = match decode_request(&frame) {
            Ok(request) => {
                let (site, caller) = (Arc::clone(&site), Caller::unknown(open));
                tokio::task::spawn_blocking(move || site.handle(&request, &caller)).await.ok()?
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_is_counted_once_however_many_addresses_it_has() {
        let counts = Arc::default();
        let admit = |text: &str| Guest::admit(&counts, text.parse().unwrap(), 1);
        let first = admit("2001:db8:1:2::1");
        assert!(first.is_some() && admit("2001:db8:1:2:ffff::9").is_none());
        let others = [admit("2001:db8:1:3::1"), admit("192.0.2.1"), admit("192.0.2.2")];
        assert!(others.iter().all(Option::is_some));
        assert!(admit("::ffff:192.0.2.1").is_none(), "the same IPv4 address");
        assert!(admit("::1").is_some() && admit("::1").is_some());
        drop(first);
        assert!(admit("2001:db8:1:2::7").is_some());
    }
}
