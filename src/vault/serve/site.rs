//! The site's end. Requests block on keys and ledger, so they run off the
//! executor's threads.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::admission::Admission;
use crate::vault::listen::{ConnectionSlot, ConnectionSlots, Origin, Shortage, take_connections};
use crate::vault::protocol::{REQUEST_SIZE, Refusal, Reply, decode_request, encode_reply};
use crate::vault::server::Site;

/// What one site bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most connections at once.
    pub connections: usize,
    /// Connections at once from one IPv4 address or one /64 of IPv6; four times as
    /// many from one /48 (loopback is not counted).
    pub connections_each: usize,
    /// Requests on one connection.
    pub requests: usize,
    /// From the start until the first request is there, and for writing a reply.
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
/// requests end. `admission` decides who may connect and who may register.
pub async fn serve(
    listener: TcpListener,
    site: Arc<Site>,
    acceptor: TlsAcceptor,
    limits: Limits,
    admission: Arc<Admission>,
    stop: watch::Receiver<bool>,
) {
    let counted = Arc::clone(&site);
    let slots =
        ConnectionSlots::new(limits.connections, limits.connections_each, move |shortage| {
            match shortage {
                Shortage::Silent => counted.metrics().dropped_silent(),
                Shortage::Idle => counted.metrics().dropped_idle(),
                Shortage::Refused => counted.metrics().refused(),
            }
        });
    let origin = |from| {
        site.metrics().connected();
        // A relay comes for many.
        Ok(if admission.is_relay(from) { None } else { Origin::of(from) })
    };
    let stopped = stop.clone();
    let begin = |stream, slot: ConnectionSlot| {
        let (site, acceptor, stop) = (Arc::clone(&site), acceptor.clone(), stop.clone());
        let admission = Arc::clone(&admission);
        async move {
            let whole = connection(stream, site, acceptor, limits, admission, stop, &slot);
            let _ = slot.run_until_evicted(timeout(limits.lifetime, whole)).await;
        }
    };
    take_connections(listener, slots, limits.drain, stopped, origin, begin).await;
}

/// One connection. Errors end it; nobody needs to know which.
async fn connection(
    stream: TcpStream,
    site: Arc<Site>,
    acceptor: TlsAcceptor,
    limits: Limits,
    admission: Arc<Admission>,
    mut stop: watch::Receiver<bool>,
    slot: &ConnectionSlot,
) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    // Whoever has not asked anything by then is a stranger.
    let mut deadline = Instant::now() + limits.handshake;
    let came = async {
        let (stream, claim) = admission.identify(stream, site.now()).await?;
        let stream = acceptor.accept(stream).await.ok()?;
        Some((stream, admission.admit(claim, site.now())?))
    };
    let (mut stream, caller) = timeout_at(deadline, came).await.ok()??;
    let mut frame = Zeroizing::new(vec![0; REQUEST_SIZE]);
    let mut spoke = false;
    for _ in 0..limits.requests {
        tokio::select! {
            // A request that comes after the call to stop is not taken.
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            read = timeout_at(deadline, stream.read_exact(&mut frame)) => read.ok()?.ok()?,
        };
        let reply = match decode_request(&frame) {
            Ok(request) => {
                if !slot.set_busy() {
                    return None;
                }
                let (site, caller) = (Arc::clone(&site), caller.clone());
                let handled = tokio::task::spawn_blocking(move || site.handle(&request, &caller));
                let reply = handled.await.ok()?;
                slot.set_idle();
                spoke = true;
                reply
            }
            // Nobody of ours says that: it counts as silence.
            Err(_) => Reply::Refused(Refusal::Malformed),
        };
        let bytes = encode_reply(&reply);
        let write = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        timeout(limits.handshake, write).await.ok()?.ok()?;
        if spoke {
            deadline = Instant::now() + limits.idle;
        }
    }
    timeout(limits.handshake, stream.shutdown()).await.ok()?.ok()
}
