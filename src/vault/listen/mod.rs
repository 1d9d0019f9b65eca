//! What a site and a relay both do for whoever connects to them: they give it a place
//! among others, and read with what its handshake begins.
//!
//! Invariant: every count has a limit, and whoever comes and says nothing keeps nobody
//! out.

mod accept;
mod descriptors;
mod hello;
mod origin;
mod places;
mod table;

pub(crate) use accept::{TurnedAway, take_connections};
pub use descriptors::{affordable, descriptors_for};
pub(crate) use descriptors::{is_own_trouble, wants_room};
pub(crate) use hello::read_hello;
pub(crate) use origin::Origin;
pub(crate) use places::{Place, Places, Shortage};
