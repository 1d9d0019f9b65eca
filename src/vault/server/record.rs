//! A record: what the ledger holds of one registration, once unsealed. As
//! secret as a password hash; wiped on drop; no `Debug`.

use std::sync::Arc;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::served::Served;
use crate::crypto::{Hash, RepoId};
use crate::format::wire::{DecodeError, Decoder, Encoder, Result};
use crate::vault::ledger::{Lineage, RECORD_LIMIT, Revision};
use crate::vault::protocol::{
    ACCOUNT_MAX, AttemptId, Binding, EVENT, EVENTS, Ended, Events, FleetId, KE2, LOGIN_STATE, NOTE,
    Note, PAYLOAD_SEALED, REGISTER_REPLY, REGISTER_REQUEST, REGISTER_UPLOAD, RegistrationId, SUITE,
    Seconds, is_account,
};

/// Most attempts whose proof is awaited.
pub const PENDING_LIMIT: usize = 10;
/// Attempts and notes of one record within [`DAY`]: each is a write of the ledger.
pub const DAILY: u16 = 1000;
/// A day, in seconds served.
const DAY: Seconds = 24 * 3600;
const LINEAGE: usize = 16;
const VERSION: u8 = 2;

const HEAD: usize = 2 + 4 + 32 + 9 + 1 + 1 + 8 + 8 + 8 + 8 + 1 + 8 + 2;
const MATERIAL: usize = 1
    + 32
    + 32
    + REGISTER_REQUEST
    + REGISTER_REPLY
    + REGISTER_UPLOAD
    + 32
    + 32
    + PAYLOAD_SEALED
    + KE2;
const PENDING: usize = 16 + 32 + LOGIN_STATE + 8 + 8 + 1 + 1;
const LONGEST: usize = HEAD
    + MATERIAL
    + 1
    + PENDING_LIMIT * PENDING
    + EVENTS * EVENT
    + 1
    + ACCOUNT_MAX
    + 1
    + NOTE
    + LINEAGE;
const _: () = assert!(LONGEST <= RECORD_LIMIT);

/// The state of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The name is taken, nothing is evaluated yet: the one value that cannot
    /// state which name it was written to, and so must be worth nothing.
    Reserved,
    /// The blinded password was evaluated.
    Started,
    /// Everything is stored; the owner has not activated it.
    Stored,
    /// The record is active: the right password opens it.
    Active,
    /// No tries left; erased at `until` unless an attempt already paid for is
    /// proven right.
    Closed {
        /// End of the days of grace.
        until: Served,
    },
    /// The record is a tombstone: it is over, and this is why.
    Ended(Ended),
    /// No record: an invite that can be used until then.
    Invite {
        /// End of its time.
        until: Served,
    },
    /// No record: an invite that a registration used. `repo` is that one's ticket, and
    /// `tries_left` 1 once that one's name is taken.
    Used,
    /// No record: how often an account may still register. `began` is when that was
    /// counted anew, `registration` the last one.
    Account,
    /// No record: how long the vault has been served, in `touched`.
    Clock,
}

impl State {
    /// Whether there are no secrets.
    fn is_bare(self) -> bool {
        matches!(
            self,
            Self::Reserved
                | Self::Ended(_)
                | Self::Invite { .. }
                | Self::Used
                | Self::Account
                | Self::Clock
        )
    }

    /// Whether it is what the vault remembers besides records.
    pub(crate) fn is_beside(self) -> bool {
        matches!(self, Self::Invite { .. } | Self::Used | Self::Account | Self::Clock)
    }
}

/// The account under which a record was registered, if that is known.
pub type Label = Option<Arc<str>>;

/// The secret part, gone from a tombstone.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Material {
    /// Random; decides the OPRF key.
    pub credential: [u8; 32],
    /// What an attempt must be computed with, as the client hashed it.
    pub terms: Hash,
    /// The blinded password of the registration.
    pub request: [u8; REGISTER_REQUEST],
    /// Its evaluation, to be repeated to the same request.
    pub reply: [u8; REGISTER_REPLY],
    /// OPAQUE's password file; zeros before it is stored.
    pub upload: [u8; REGISTER_UPLOAD],
    /// Public half of the key derived from K.
    pub verifying: [u8; 32],
    /// Public half of the key for notes.
    pub note_key: [u8; 32],
    /// The payload, sealed by the client.
    pub payload: [u8; PAYLOAD_SEALED],
    /// KE2 of the newest attempt.
    pub ke2: [u8; KE2],
}

/// An attempt that was paid for.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Pending {
    /// Chosen by the client.
    pub attempt: AttemptId,
    /// Hash of its KE1.
    pub ke1: [u8; 32],
    /// Holds the expected KE3.
    pub login: [u8; LOGIN_STATE],
    /// When it was made, by the wall clock: it names its event.
    pub made: Seconds,
    /// No proof is taken after it, unless the record is closed.
    pub expires: Served,
    /// Proofs of it that were written down, right or wrong.
    pub proofs: u8,
    /// Whether it was proven right.
    pub redeemed: bool,
}

/// The vault's record of one registration.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Generation of the keys it was made under.
    pub generation: u32,
    /// The id of the repository.
    pub repo: RepoId,
    /// The id of the registration.
    pub registration: RegistrationId,
    /// What the record is and how far it has come.
    pub state: State,
    /// Guesses left before it closes.
    pub tries_left: u8,
    /// Attempts not proven right, in its life.
    pub failures: u8,
    /// No attempt before this time.
    pub not_before: Served,
    /// When it was made, by the wall clock: for people.
    pub created: Seconds,
    /// When it was made.
    pub began: Served,
    /// When this very value was written.
    pub touched: Served,
    /// Whether attempts are taken only from the account in `label`.
    pub bound: bool,
    /// When attempts and notes were counted anew, and how many there were since.
    pub daily: (Served, u16),
    /// What the ledger must report of this very value.
    pub lineage: Lineage,
    /// The keys and sealed data of the registration; none before them and after the end.
    pub material: Option<Material>,
    /// Attempts, oldest first; KE2 is stored for the last.
    pub pending: Vec<Pending>,
    /// What the owner is told after a right password.
    pub events: Events,
    /// The account that registered it, if there was one.
    pub label: Label,
    /// Whether the staff froze it: the site evaluates no attempt then.
    pub frozen_by_staff: bool,
    /// The owner's note, sealed.
    pub note: Note,
}

impl Record {
    /// What takes a name before anything is evaluated under it.
    pub(crate) fn reservation(
        generation: u32,
        repo: RepoId,
        registration: RegistrationId,
        (label, bound): (Label, bool),
        (wall, served): (Seconds, Served),
    ) -> Self {
        Self {
            generation,
            repo,
            registration,
            state: State::Reserved,
            tries_left: 0,
            failures: 0,
            not_before: Served(0),
            created: wall,
            began: served,
            touched: served,
            bound,
            daily: (served, 0),
            lineage: Lineage::FIRST,
            material: None,
            pending: Vec::new(),
            events: Events::default(),
            label,
            frozen_by_staff: false,
            note: Note::default(),
        }
    }

    /// Whether it holds a name for something beside records.
    pub(crate) fn is_placeholder(&self) -> bool {
        self.state == State::Reserved && self.registration == [0; 16]
    }

    /// Counts one more attempt or note; false if there were too many within a day.
    pub(crate) fn charge(&mut self, now: Served) -> bool {
        if now >= self.daily.0.plus(DAY) {
            self.daily = (now, 0);
        }
        let may = self.daily.1 < DAILY;
        self.daily.1 += u16::from(may);
        may
    }

    /// What its evaluations are bound to.
    pub fn binding(&self, fleet: FleetId) -> Binding {
        Binding { repo: self.repo, registration: self.registration, fleet }
    }

    /// Whether a value is where it was written, and the newest there: what it
    /// states is what the ledger counts. The first value of a name cannot know
    /// when the name was made.
    pub(crate) fn is_in_place(&self, found: Lineage) -> bool {
        match self.state {
            State::Reserved => {
                self.lineage == Lineage::FIRST && found.version == self.lineage.version
            }
            _ => self.lineage == found,
        }
    }

    /// The tombstone that takes this record's place.
    #[must_use]
    pub(crate) fn tombstone(&self, ended: Ended) -> Self {
        Self {
            state: State::Ended(ended),
            tries_left: 0,
            material: None,
            pending: Vec::new(),
            events: Events::default(),
            label: None,
            bound: false,
            frozen_by_staff: false,
            note: Note::default(),
            ..*self
        }
    }

    /// The encoding, at most [`RECORD_LIMIT`] bytes.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // All capacity at once, so that growing leaves no copy behind.
        let mut out = Encoder::with_capacity(RECORD_LIMIT);
        out.u8(VERSION).u8(SUITE).u32(self.generation).raw(&self.repo).raw(&self.registration);
        let (kind, value) = match self.state {
            State::Started => (1, 0),
            State::Stored => (2, 0),
            State::Active => (3, 0),
            State::Closed { until } => (4, until.0),
            State::Ended(ended) => (5, ended as u64),
            State::Reserved => (6, 0),
            State::Invite { until } => (7, until.0),
            State::Used => (8, 0),
            State::Account => (9, 0),
            State::Clock => (10, 0),
        };
        out.u8(kind).u64(value).u8(self.tries_left).u8(self.failures);
        out.u64(self.not_before.0).u64(self.created).u64(self.began.0).u64(self.touched.0);
        out.u8(u8::from(self.bound)).u64(self.daily.0.0).u16(self.daily.1);
        out.u8(u8::from(self.material.is_some()));
        if let Some(material) = &self.material {
            out.raw(&material.credential).raw(&material.terms);
            out.raw(&material.request).raw(&material.reply);
            out.raw(&material.upload).raw(&material.verifying).raw(&material.note_key);
            out.raw(&material.payload);
            out.raw(&material.ke2);
        }
        out.u8(self.pending.len() as u8);
        for pending in &self.pending {
            out.raw(&pending.attempt).raw(&pending.ke1).raw(&pending.login);
            out.u64(pending.made).u64(pending.expires.0);
            out.u8(pending.proofs).u8(u8::from(pending.redeemed));
        }
        self.events.encode(&mut out);
        let label = self.label.as_deref().unwrap_or_default();
        out.u8(label.len() as u8).raw(label.as_bytes()).u8(u8::from(self.frozen_by_staff));
        out.raw(self.note.bytes()).u64(self.lineage.created.0).u64(self.lineage.version);
        Zeroizing::new(out.finish())
    }

    /// Reads an encoding followed by zeros.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes);
        if input.u8()? != VERSION || input.u8()? != SUITE {
            return Err(DecodeError::Invalid("record version"));
        }
        let (generation, repo, registration) = (input.u32()?, input.array()?, input.array()?);
        let state = match (input.u8()?, input.u64()?) {
            (1, 0) => State::Started,
            (2, 0) => State::Stored,
            (3, 0) => State::Active,
            (4, until) => State::Closed { until: Served(until) },
            (5, ended) => u8::try_from(ended)
                .ok()
                .and_then(Ended::from_byte)
                .map(State::Ended)
                .ok_or(DecodeError::Invalid("record state"))?,
            (6, 0) => State::Reserved,
            (7, until) => State::Invite { until: Served(until) },
            (8, 0) => State::Used,
            (9, 0) => State::Account,
            (10, 0) => State::Clock,
            _ => return Err(DecodeError::Invalid("record state")),
        };
        let (tries_left, failures) = (input.u8()?, input.u8()?);
        let (not_before, created) = (Served(input.u64()?), input.u64()?);
        let (began, touched) = (Served(input.u64()?), Served(input.u64()?));
        let (bound, daily) = (input.flag("bound")?, (Served(input.u64()?), input.u16()?));
        let material = if input.flag("material")? {
            Some(Material {
                credential: input.array()?,
                terms: input.array()?,
                request: input.array()?,
                reply: input.array()?,
                upload: input.array()?,
                verifying: input.array()?,
                note_key: input.array()?,
                payload: input.array()?,
                ke2: input.array()?,
            })
        } else {
            None
        };
        if material.is_some() == state.is_bare() {
            return Err(DecodeError::Invalid("material"));
        }
        let count = input.u8()? as usize;
        if count > PENDING_LIMIT {
            return Err(DecodeError::Limit("attempts"));
        }
        let mut pending = Vec::with_capacity(PENDING_LIMIT);
        for _ in 0..count {
            pending.push(Pending {
                attempt: input.array()?,
                ke1: input.array()?,
                login: input.array()?,
                made: input.u64()?,
                expires: Served(input.u64()?),
                proofs: input.u8()?,
                redeemed: input.flag("attempt")?,
            });
        }
        let events = Events::decode(&mut input)?;
        let label = take_label(&mut input)?;
        let frozen_by_staff = input.flag("held")?;
        let note = Note::from_bytes(Box::new(input.array()?));
        let lineage = Lineage { created: Revision(input.u64()?), version: input.u64()? };
        if input.raw(input.remaining())?.iter().any(|byte| *byte != 0) {
            return Err(DecodeError::Invalid("padding of a record"));
        }
        Ok(Self {
            generation,
            repo,
            registration,
            state,
            tries_left,
            failures,
            not_before,
            created,
            began,
            touched,
            bound,
            daily,
            lineage,
            material,
            pending,
            events,
            label,
            frozen_by_staff,
            note,
        })
    }
}

fn take_label(input: &mut Decoder<'_>) -> Result<Label> {
    let len = usize::from(input.u8()?);
    if len == 0 {
        return Ok(None);
    }
    let text = std::str::from_utf8(input.raw(len)?).ok().filter(|text| is_account(text));
    text.map(|text| Some(text.into())).ok_or(DecodeError::Invalid("label"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::protocol::{EventKind, NOTE_TEXT};
    use proptest::prelude::*;

    fn full() -> Record {
        let mut events = Events::default();
        (0..40).for_each(|time| events.note(EventKind::Failed, time));
        let pending = Pending {
            attempt: [1; 16],
            ke1: [2; 32],
            login: [3; 64],
            made: 3,
            expires: Served(4),
            proofs: 5,
            redeemed: true,
        };
        Record {
            generation: 1,
            repo: [1; 16],
            registration: [2; 16],
            state: State::Closed { until: Served(99) },
            tries_left: 0,
            failures: 10,
            not_before: Served(5),
            created: 6,
            began: Served(6),
            touched: Served(7),
            bound: true,
            daily: (Served(8), 9),
            lineage: Lineage { created: Revision(8), version: 9 },
            material: Some(Material {
                credential: [1; 32],
                terms: [9; 32],
                request: [2; REGISTER_REQUEST],
                reply: [3; REGISTER_REPLY],
                upload: [4; REGISTER_UPLOAD],
                verifying: [5; 32],
                note_key: [8; 32],
                payload: [6; PAYLOAD_SEALED],
                ke2: [7; KE2],
            }),
            pending: vec![pending; PENDING_LIMIT],
            events,
            label: Some("x".repeat(ACCOUNT_MAX).into()),
            frozen_by_staff: true,
            note: Note::new(u64::MAX, &[9; NOTE_TEXT]),
        }
    }

    #[test]
    fn the_fullest_record_fits_and_survives() {
        let record = full();
        let mut bytes = record.encode().to_vec();
        assert!(bytes.len() <= RECORD_LIMIT);
        bytes.resize(RECORD_LIMIT, 0);
        assert!(Record::decode(&bytes).is_ok_and(|read| read == record));
        bytes[RECORD_LIMIT - 1] = 1;
        assert!(Record::decode(&bytes).is_err());
    }

    #[test]
    fn a_tombstone_has_no_key_material() {
        let tombstone = full().tombstone(Ended::Exhausted);
        let bytes = tombstone.encode();
        assert!(Record::decode(&bytes).is_ok_and(|read| read == tombstone));
        assert!(tombstone.material.is_none() && tombstone.pending.is_empty());
    }

    #[test]
    fn truncated_records_are_refused() {
        let bytes = full().encode();
        for cut in 0..bytes.len() {
            assert!(Record::decode(&bytes[..cut]).is_err());
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut bytes = bytes;
            let _ = Record::decode(&bytes);
            if bytes.len() > 2 {
                bytes[..2].copy_from_slice(&[VERSION, SUITE]);
                let _ = Record::decode(&bytes);
            }
        }
    }
}
