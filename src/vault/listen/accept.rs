//! Taking connections.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::descriptors::{is_out_of_descriptors, wants_room};
use super::origin::Origin;
use super::places::{Place, Places};

/// Somebody whose connection is closed before it has a place.
pub(crate) struct TurnedAway;

/// Gives each connection to `listener` a place, until `stop` turns true, and then lets
/// those there are end, within `drain`. `origin` says what a connection from an address
/// counts for. `connection` holds its place until it is over.
pub(crate) async fn take_connections<C: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    places: Arc<Places>,
    drain: Duration,
    mut stop: watch::Receiver<bool>,
    origin: impl Fn(IpAddr) -> Result<Option<Origin>, TurnedAway>,
    connection: impl Fn(TcpStream, Place) -> C,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                not_accepted(&error, &places).await;
                continue;
            }
        };
        let Ok(origin) = origin(peer.ip()) else { continue };
        let Some(place) = places.admit(origin).await else { continue };
        tokio::spawn(connection(stream, place));
    }
    drop(listener);
    let _ = timeout(drain, places.emptied()).await;
}

/// Goes on after a connection could not be accepted. Where one connection less helps,
/// one is dropped.
async fn not_accepted(error: &io::Error, places: &Places) {
    places.warn("a connection was not accepted", error);
    let dropped = wants_room(error) && places.shed().await;
    // Others of this machine may take what was given back: wait rather than drop all.
    if !(dropped && is_out_of_descriptors(error)) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
