//! Taking connections.

use std::io;
use std::time::Duration;

use super::descriptors::{is_out_of_descriptors, wants_room};
use super::places::Places;

/// Goes on after a connection could not be accepted. Where one connection less helps,
/// one is dropped.
pub(crate) async fn not_accepted(error: &io::Error, places: &Places) {
    places.warn("a connection was not accepted", error);
    let dropped = wants_room(error) && places.shed().await;
    // Others of this machine may take what was given back: wait rather than drop all.
    if !(dropped && is_out_of_descriptors(error)) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
