//! Writes the owner's note in the vault when a mount ends: the newest generation of each
//! device. The next opening by password, on whatever machine, compares it with the heads
//! that are there.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::vault::client::{Client, Pin};
use crate::vault::line::Timeouts;
use crate::vault::protocol::{Locator, Mark, NoteKeys};
use crate::volume::Volume;

/// How long an unmount waits until the note is written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// What is needed to write the note of one mount. K is not part of it.
pub(crate) struct NoteWriter {
    /// Talks to the vault, with [`NoteWriter::TIMEOUTS`].
    pub client: Client<'static>,
    /// The record, and where to look for its vault.
    pub locator: Locator,
    /// The keys of its note.
    pub keys: NoteKeys,
    /// The vault that is trusted.
    pub pin: Pin,
}

impl NoteWriter {
    /// How long each step with the vault may take.
    pub(crate) const TIMEOUTS: Timeouts = Timeouts {
        connect: Duration::from_secs(2),
        reply: Duration::from_secs(3),
        proof: Duration::from_secs(3),
    };

    /// Writes the note. Blocks for at most five seconds. A failure is logged; a later mount
    /// writes a newer note then.
    pub(crate) fn write(self: Arc<Self>, volume: &Volume) {
        let mut marks: Vec<Mark> =
            volume.heads().newest.iter().map(|head| (head.device, head.generation)).collect();
        let state = volume.state();
        marks.push((state.device, state.generation));
        let (done, outcome) = mpsc::channel();
        std::thread::spawn(move || {
            let written = self.client.write_note(&self.locator, &self.keys, self.pin, &marks);
            // Nobody waits any more, maybe.
            let _ = done.send(written.map(drop));
        });
        let why = match outcome.recv_timeout(WRITE_TIMEOUT) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".into(),
        };
        log::info!("the note with this device's newest generation was not written: {why}");
    }
}
