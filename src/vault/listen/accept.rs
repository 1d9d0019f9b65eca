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
use super::slots::{ConnectionSlot, ConnectionSlots};

/// Somebody whose connection is closed before it has a slot.
pub(crate) struct TurnedAway;

/// Gives each connection to `listener` a slot, until `stop` turns true, and then lets
/// those there are end, within `drain`. `origin` says what a connection from an address
/// counts for. `connection` holds its slot until it is over.
pub(crate) async fn take_connections<C: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    slots: Arc<ConnectionSlots>,
    drain: Duration,
    mut stop: watch::Receiver<bool>,
    origin: impl Fn(IpAddr) -> Result<Option<Origin>, TurnedAway>,
    connection: impl Fn(TcpStream, ConnectionSlot) -> C,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                not_accepted(&error, &slots).await;
                continue;
            }
        };
        let Ok(origin) = origin(peer.ip()) else { continue };
        let Some(slot) = slots.admit(origin).await else { continue };
        tokio::spawn(connection(stream, slot));
    }
    drop(listener);
    let _ = timeout(drain, slots.wait_until_empty()).await;
}

/// Goes on after a connection could not be accepted. Where one connection less helps,
/// one is dropped.
async fn not_accepted(error: &io::Error, slots: &ConnectionSlots) {
    slots.warn("a connection was not accepted", error);
    let dropped = wants_room(error) && slots.evict().await;
    // Others of this machine may take what was given back: wait rather than drop all.
    if !(dropped && is_out_of_descriptors(error)) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
