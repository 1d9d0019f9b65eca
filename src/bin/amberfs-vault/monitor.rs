//! The admin port: what Prometheus, load balancers and service managers ask, over
//! plain HTTP. It tells counts and nothing of any record; still it belongs on
//! loopback, or behind a firewall.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use amberfs::vault::server::Site;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::Failure;

/// Connections at once.
const CONNECTIONS: usize = 16;
/// How long a request may take to arrive, and a whole connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What is asked about.
pub struct Watched {
    pub site: Arc<Site>,
    /// Set when it is to stop: no new clients should be sent.
    pub draining: AtomicBool,
}

impl Watched {
    /// Whether clients should be sent here; else why not.
    fn ready(&self) -> Result<(), &'static str> {
        if self.draining.load(Ordering::Relaxed) {
            return Err("stopping");
        }
        if self.site.is_usable() && self.site.reaches_ledger() {
            return Ok(());
        }
        Err("ledger or keys cannot be used")
    }

    async fn answer(self: Arc<Self>, request: &Request<Incoming>) -> (StatusCode, String) {
        if request.method() != Method::GET {
            return (StatusCode::METHOD_NOT_ALLOWED, "GET only\n".into());
        }
        match request.uri().path() {
            "/metrics" => (StatusCode::OK, self.site.metrics().print()),
            "/health" => (StatusCode::OK, "alive\n".into()),
            "/ready" => {
                let ready = tokio::task::spawn_blocking(move || self.ready()).await;
                match ready.unwrap_or(Err("asking failed")) {
                    Ok(()) => (StatusCode::OK, "ready\n".into()),
                    Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
                }
            }
            _ => (StatusCode::NOT_FOUND, "/metrics, /health, /ready\n".into()),
        }
    }
}

pub async fn bind(place: SocketAddr) -> Result<TcpListener, Failure> {
    if !place.ip().is_loopback() {
        log::warn!("the admin port is not on loopback: it has no TLS and no password");
    }
    TcpListener::bind(place)
        .await
        .map_err(|error| Failure::other(format!("the admin port {place}: {error}")))
}

/// Answers until it is aborted.
pub async fn watch(listener: TcpListener, watched: Arc<Watched>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let watched = Arc::clone(&watched);
        tokio::spawn(async move {
            let _held = slot;
            let service = service_fn(move |request: Request<Incoming>| {
                let watched = Arc::clone(&watched);
                async move {
                    let (status, text) = watched.answer(&request).await;
                    let mut response = Response::new(Full::new(Bytes::from(text)));
                    *response.status_mut() = status;
                    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
                    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
                    Ok::<_, Infallible>(response)
                }
            });
            let serving = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(CONNECTION_TIMEOUT)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serving).await;
        });
    }
}
