//! What a site and a relay both do with a new connection: they give it a slot, and read
//! the first message of its handshake.
//!
//! Invariant: every count has a limit. Connections that say nothing cannot keep out those
//! that speak.

mod accept;
mod descriptors;
mod hello;
mod origin;
mod slots;
mod table;

pub(crate) use accept::{TurnedAway, take_connections};
pub use descriptors::{affordable, descriptors_for};
pub(crate) use descriptors::{is_own_trouble, wants_room};
pub(crate) use hello::read_hello;
pub(crate) use origin::Origin;
pub(crate) use slots::{ConnectionSlot, ConnectionSlots, Shortage};
