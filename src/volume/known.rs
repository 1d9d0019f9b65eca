//! What the owner should know of a repository beside its files.

use super::DeviceHead;
use crate::crypto::{DeviceId, hex};
use crate::io::{Timestamp, local_time};
use crate::store::{Oddity, StoreError, Stray};

/// A device as messages name it: two may have one name.
pub(crate) fn named(name: &str, device: &DeviceId) -> String {
    format!("{name} ({})", hex(&device[..4]))
}

/// A device of which no head is here, as messages name it.
fn unnamed(device: &DeviceId) -> String {
    format!("the device {}", hex(&device[..4]))
}

/// The device with this id as messages name it, by the name that its newest head has.
pub(crate) fn name_of<'a>(
    heads: impl IntoIterator<Item = &'a DeviceHead>,
    device: &DeviceId,
) -> String {
    let mut heads = heads.into_iter();
    let head = heads.find(|head| head.device == *device);
    head.map_or_else(|| unnamed(device), |head| named(&head.name, device))
}

/// A device that is known to have written more than can be used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The device.
    pub device: DeviceId,
    /// What it calls itself, if a head of it is here.
    pub name: Option<String>,
    /// Whether it is this machine's own use of the repository.
    pub own: bool,
    /// The generation that is known.
    pub known: u64,
    /// The newest generation that is here, 0 for none.
    pub here: u64,
    /// When that was written.
    pub time: Option<Timestamp>,
}

impl std::fmt::Display for Behind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let who = match (&self.name, self.own) {
            (_, true) => named("this machine", &self.device),
            (Some(name), false) => named(name, &self.device),
            (None, false) => unnamed(&self.device),
        };
        let here = match self.time {
            Some(time) => {
                format!("the newest here is state {} of {}", self.here, local_time(time.secs))
            }
            None => "none of its states is here".into(),
        };
        write!(
            f,
            "the folder is behind: {who} wrote state {}, and {here}. It is not here yet, or the \
             folder was put back",
            self.known
        )
    }
}

/// A newer head that is here and cannot be used.
#[derive(Debug)]
pub struct Unusable {
    /// Its path within REPO.
    pub path: String,
    /// Whether this machine wrote it.
    pub own: bool,
    /// Why.
    pub error: StoreError,
}

/// Something that the owner should be told of an opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// All is well.
    Note(String),
    /// Something is not here (yet).
    Missing(String),
    /// Something is damaged.
    Damage(String),
    /// Something is whole, and not in its place.
    Misplaced(String),
    /// The system would not let something be read: that says nothing of it.
    Unread(String),
}

impl Notice {
    pub(crate) fn of(error: &StoreError) -> Self {
        match error {
            StoreError::Missing { .. } => Self::Missing(error.to_string()),
            StoreError::Io { .. } => Self::Unread(error.to_string()),
            _ => Self::Damage(error.to_string()),
        }
    }

    pub(crate) fn of_stray(stray: &Stray) -> Self {
        let text = stray.to_string();
        match stray.what {
            Oddity::Link if stray.in_place => Self::Missing(text),
            Oddity::Unreadable(_) => Self::Unread(text),
            _ => Self::Note(text),
        }
    }
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Note(text)
        | Self::Missing(text)
        | Self::Damage(text)
        | Self::Misplaced(text)
        | Self::Unread(text)) = self;
        f.write_str(text)
    }
}
