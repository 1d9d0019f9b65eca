//! The owner's note in the vault: how far each device had come. Written when a mount
//! ends; compared at the next opening by password, on whatever machine.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::args::Global;
use super::trust::{Reach, Said, known, reached};
use super::{Result, vault};
use crate::crypto::{RepoId, Secret};
use crate::format::register::Slot;
use crate::vault::client::{Client, Pin};
use crate::vault::net::Timeouts;
use crate::vault::protocol::{Locator, Mark, NoteKeys};
use crate::volume::Volume;
use crate::volume::repository::vault_slots;

/// Unmounting waits no longer for a vault.
const IN_ALL: Duration = Duration::from_secs(5);
const PATIENCE: Timeouts = Timeouts {
    connect: Duration::from_secs(2),
    reply: Duration::from_secs(3),
    proof: Duration::from_secs(3),
};

/// Writes the note of one mount, without K.
pub struct NoteWriter {
    client: Client<'static>,
    locator: Locator,
    keys: NoteKeys,
    pin: Pin,
}

impl NoteWriter {
    /// For the record that the sealed entry of a repository names; none without a
    /// vault.
    pub fn new(
        global: &Global,
        (path, repo): (&Path, &RepoId),
        sealed: &[Slot],
        key: &Secret,
    ) -> Result<Option<Self>> {
        let Some(sealed) = vault_slots(sealed).find_map(|slot| Locator::decode(slot).ok()) else {
            return Ok(None);
        };
        // Sealed with K: the address is the owner's own.
        let pin = known(global, sealed.address.fingerprint())?;
        let Reach { locator, places, .. } = reached(global, &sealed, Said::Sealed)?;
        let keys = NoteKeys::derive(key, repo, &locator.registration);
        let client = vault::client(global, path, PATIENCE, &places)?;
        Ok(Some(Self { client, locator, keys, pin }))
    }

    /// Writes it, if the vault answers in time: if not, a later mount does.
    pub fn write(self: Arc<Self>, volume: &Volume) {
        let mut marks: Vec<Mark> =
            volume.devices.iter().map(|head| (head.device, head.generation)).collect();
        let state = volume.state();
        marks.push((state.device, state.generation));
        let (done, outcome) = mpsc::channel();
        std::thread::spawn(move || {
            let written = self.client.write_note(&self.locator, &self.keys, self.pin, &marks);
            // Nobody waits any more, maybe.
            let _ = done.send(written.map(drop));
        });
        let why = match outcome.recv_timeout(IN_ALL) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".into(),
        };
        log::info!("the vault was not told how far this device came: {why}");
    }
}
