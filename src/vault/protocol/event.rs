//! What happened to a record, as its owner is told after a right password.

use super::Seconds;
use crate::format::wire::{DecodeError, Decoder, Encoder, Result};

/// Events that a record keeps.
pub const EVENTS: usize = 32;
/// Length of an encoded event, in bytes.
pub const EVENT: usize = 9;

/// What happened to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EventKind {
    /// The registration was activated.
    Activated = 1,
    /// An attempt was not proven right, so far.
    Failed = 2,
    /// An attempt was proven right.
    Opened = 3,
    /// The last try was used up.
    Closed = 4,
    /// The operator took tries, after the ledger was put back.
    Spent = 5,
    /// The operator froze the record.
    FrozenByStaff = 6,
    /// The operator released the record.
    Released = 7,
}

/// One event: its kind (1) and its time (8, little-endian) by a site's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened to the record.
    pub kind: EventKind,
    /// When it happened, by a site's clock.
    pub time: Seconds,
}

impl Event {
    fn decode(input: &mut Decoder<'_>) -> Result<Option<Self>> {
        use EventKind::{Activated, Closed, Failed, FrozenByStaff, Opened, Released, Spent};
        let (byte, time) = (input.u8()?, input.u64()?);
        if (byte, time) == (0, 0) {
            return Ok(None);
        }
        let kinds = [Activated, Failed, Opened, Closed, Spent, FrozenByStaff, Released];
        let kind = kinds.into_iter().find(|kind| *kind as u8 == byte);
        Ok(Some(Self { kind: kind.ok_or(DecodeError::Invalid("event"))?, time }))
    }
}

/// The last [`EVENTS`] events, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events(Vec<Event>);

impl Events {
    /// Notes one, and forgets the oldest if there are too many.
    pub fn note(&mut self, kind: EventKind, time: Seconds) {
        if self.0.len() == EVENTS {
            self.0.remove(0);
        }
        self.0.push(Event { kind, time });
    }

    /// An attempt that was made at `then` was proven right now.
    pub fn proven(&mut self, then: Seconds, now: Seconds) {
        let failed = Event { kind: EventKind::Failed, time: then };
        if let Some(at) = self.0.iter().position(|event| *event == failed) {
            self.0.remove(at);
        }
        self.note(EventKind::Opened, now);
    }

    /// All, the oldest first.
    pub fn all(&self) -> &[Event] {
        &self.0
    }

    /// What happened between the last opening and the one before.
    pub fn since_opened(&self) -> &[Event] {
        let opened = |event: &Event| event.kind == EventKind::Opened;
        let Some(last) = self.0.iter().rposition(opened) else { return &self.0 };
        let before = self.0[..last].iter().rposition(opened).map_or(0, |at| at + 1);
        &self.0[before..last]
    }

    /// [`EVENTS`] places of [`EVENT`] bytes, zeros behind the last.
    pub fn encode(&self, out: &mut Encoder) {
        for event in &self.0 {
            out.u8(event.kind as u8).u64(event.time);
        }
        out.raw(&[0; EVENTS * EVENT][self.0.len() * EVENT..]);
    }

    /// Decodes what [`Events::encode`] wrote.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Self> {
        let mut events = Vec::new();
        for place in 0..EVENTS {
            match Event::decode(input)? {
                Some(event) if events.len() == place => events.push(event),
                Some(_) => return Err(DecodeError::Invalid("place of an event")),
                None => {}
            }
        }
        Ok(Self(events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_and_read_as_written() {
        let mut events = Events::default();
        for time in 0..40 {
            let mut out = Encoder::new();
            events.encode(&mut out);
            let bytes = out.finish();
            assert_eq!(bytes.len(), EVENTS * EVENT);
            assert_eq!(Events::decode(&mut Decoder::new(&bytes)), Ok(events.clone()));
            events.note(EventKind::Failed, time);
        }
        let times: Vec<_> = events.all().iter().map(|event| event.time).collect();
        assert_eq!(times, (8..40).collect::<Vec<_>>());
    }

    #[test]
    fn an_attempt_that_is_proven_was_no_failure() {
        let mut events = Events::default();
        events.note(EventKind::Activated, 1);
        for time in [2, 3, 4] {
            events.note(EventKind::Failed, time);
        }
        events.proven(4, 5);
        let failed = |time| Event { kind: EventKind::Failed, time };
        assert_eq!(events.since_opened()[1..], [failed(2), failed(3)]);
        events.note(EventKind::Failed, 6);
        events.note(EventKind::Failed, 7);
        events.proven(7, 8);
        assert_eq!(events.since_opened(), [failed(6)]);
        // One that came before another was proven, and is proven late.
        events.proven(6, 9);
        assert_eq!(events.since_opened(), []);
    }

    #[test]
    fn other_bytes_are_refused() {
        let decode = |at: usize, byte: u8| {
            let mut bytes = [0; EVENTS * EVENT];
            bytes[at] = byte;
            Events::decode(&mut Decoder::new(&bytes))
        };
        assert!(decode(0, 1).is_ok());
        for (at, byte) in [(0, 8), (1, 1), (EVENT, 1), (EVENTS * EVENT - 1, 1)] {
            assert!(decode(at, byte).is_err(), "{at}");
        }
    }
}
