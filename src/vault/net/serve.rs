//! The site's end. Requests block on keys and ledger, so they run off the
//! executor's threads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::entrance::Entrance;
use super::guests::Guest;
use crate::vault::protocol::{REQUEST_SIZE, Refusal, Reply, decode_request, encode_reply};
use crate::vault::server::Site;

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

/// Serves `site` on `listener` until `stop` turns true, then lets running
/// requests end. `entrance` says who may come, and register.
pub async fn serve(
    listener: TcpListener,
    site: Arc<Site>,
    acceptor: TlsAcceptor,
    limits: Limits,
    entrance: Arc<Entrance>,
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
        site.metrics().connected();
        // A relay comes for many.
        let each = if entrance.is_relay(peer.ip()) { usize::MAX } else { limits.connections_each };
        let Some(guest) = Guest::admit(&counts, peer.ip(), each) else { continue };
        let (site, acceptor, stop) = (Arc::clone(&site), acceptor.clone(), stop.clone());
        let entrance = Arc::clone(&entrance);
        tokio::spawn(async move {
            let _held = (place, guest);
            let whole = connection(stream, site, acceptor, limits, entrance, stop);
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
    entrance: Arc<Entrance>,
    mut stop: watch::Receiver<bool>,
) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let came = async {
        let (stream, claim) = entrance.pass(stream, site.now()).await?;
        let stream = acceptor.accept(stream).await.ok()?;
        Some((stream, entrance.admit(claim, site.now())?))
    };
    let (mut stream, caller) = timeout(limits.handshake, came).await.ok()??;
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
                let (site, caller) = (Arc::clone(&site), caller.clone());
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
