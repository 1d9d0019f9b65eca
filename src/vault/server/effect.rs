//! What the state machine wants done. A reply that waits for a write is inside
//! the [`Write`]; evaluations turn into writes and into nothing else.

use super::record::{Label, Material, PENDING_LIMIT, Pending, Record, State};
use super::served::Served;
use crate::crypto::{Hash, hash};
use crate::vault::ledger::{Durable, Lineage};
use crate::vault::protocol::{
    AttemptId, Bind, EventKind, FAILURES, GRACE, KE1, KE2, LOGIN_STATE, PAYLOAD_SEALED,
    REGISTER_REPLY, REGISTER_REQUEST, REGISTER_UPLOAD, RecordState, RegistrationId, Reply, Right,
    Seconds, TRIES, Tries,
};

/// Waiting times after the third, fourth, ... failure in a row.
const DELAYS: [Seconds; 5] = [60, 600, 3600, 12 * 3600, 24 * 3600];

/// A record to be written and the reply that waits for it.
pub struct Write {
    pub(super) record: Record,
    pub(super) then: Reply,
}

impl Write {
    /// The record that is to be written.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// This write with a record that states when it is written and what the ledger will
    /// report of it: `found` is what the ledger reports of the value before, none if there
    /// is no such name yet.
    #[must_use]
    pub(crate) fn of_lineage(mut self, found: Option<Lineage>, now: Served) -> Self {
        let reserves = self.record.state == State::Reserved;
        assert!(found.is_none() == reserves, "a name is made by a value that is worth nothing");
        self.record.lineage = found.map_or(Lineage::FIRST, Lineage::next);
        self.record.touched = now;
        self
    }

    /// Whether nothing of the record before may remain.
    pub(crate) fn is_last(&self) -> bool {
        matches!(self.record.state, State::Ended(_))
    }

    /// The reply, once the record is durable.
    pub fn release(self, _: &Durable) -> Reply {
        self.then
    }
}

/// What the site does next with a request.
pub enum Effect {
    /// Send this reply. Nothing was changed.
    Answer(Reply),
    /// Take the name, if the client may have it, then look again what to do.
    Reserve(Reservation),
    /// Write the record, then send the reply that is inside.
    Persist(Write),
    /// Evaluate a registration request, write the record, then send the reply.
    Enrol(Enrolment),
    /// Evaluate an attempt, write the record, then send the reply.
    Evaluate(PaidAttempt),
}

/// A name that is to be taken. Nothing is answered by that.
pub struct Reservation {
    pub(super) repo: [u8; 16],
    pub(super) registration: RegistrationId,
    /// By what right the client may register.
    pub right: Right,
    /// Whether it is to open for one account only.
    pub bind: Bind,
    pub(super) now: (Seconds, Served),
}

impl Reservation {
    /// The record that takes it.
    pub fn write(self, generation: u32, owner: (Label, bool)) -> Write {
        let Self { repo, registration, now, .. } = self;
        let record = Record::reservation(generation, repo, registration, owner, now);
        Write { record, then: Reply::State(RecordState::Registering) }
    }
}

/// A registration that may be evaluated.
pub struct Enrolment {
    /// What holds the name.
    pub(super) record: Record,
    /// OPAQUE's registration request, with the blinded password.
    pub request: [u8; REGISTER_REQUEST],
    pub(super) terms: Hash,
}

impl Enrolment {
    /// The id of the registration that is to be evaluated.
    pub fn registration(&self) -> &RegistrationId {
        &self.record.registration
    }

    /// The new record. Its evaluation counts as one of the tries.
    pub fn evaluated(
        self,
        generation: u32,
        credential: [u8; 32],
        reply: [u8; REGISTER_REPLY],
    ) -> Write {
        let bound = self.record.bound;
        let record = Record {
            generation,
            state: State::Started,
            tries_left: TRIES - 1,
            material: Some(Material {
                credential,
                terms: self.terms,
                request: self.request,
                reply,
                upload: [0; REGISTER_UPLOAD],
                verifying: [0; 32],
                note_key: [0; 32],
                payload: [0; PAYLOAD_SEALED],
                ke2: [0; KE2],
            }),
            ..self.record
        };
        Write { then: Reply::Registered { reply: Box::new(reply), generation, bound }, record }
    }
}

/// An attempt that may be evaluated, because the write that follows pays a try for it.
pub struct PaidAttempt {
    pub(super) record: Record,
    /// The client's id of the attempt.
    pub id: AttemptId,
    /// OPAQUE's first message of the attempt.
    pub ke1: Box<[u8; KE1]>,
    pub(super) wall: Seconds,
    pub(super) now: Served,
    pub(super) delays: bool,
}

impl PaidAttempt {
    /// The record on which the attempt is made.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Spends one try and stores the attempt.
    pub fn evaluated(self, ke2: Box<[u8; KE2]>, login: &[u8; LOGIN_STATE]) -> Write {
        let mut record = self.record;
        assert!(record.state == State::Active && record.tries_left > 0, "admitted only then");
        record.tries_left -= 1;
        record.failures += 1;
        let (wall, now) = (self.wall, self.now);
        record.events.note(EventKind::Failed, wall);
        record.pending.retain(|pending| pending.expires > now);
        if record.pending.len() == PENDING_LIMIT {
            let oldest = record.pending.iter().position(|pending| pending.redeemed).unwrap_or(0);
            record.pending.remove(oldest);
        }
        record.pending.push(Pending {
            attempt: self.id,
            ke1: hash(&self.ke1[..]),
            login: *login,
            made: wall,
            expires: now.plus(GRACE),
            proofs: 0,
            redeemed: false,
        });
        let material = record.material.as_mut().expect("an active record has its material");
        material.ke2 = *ke2;
        let in_a_row = usize::from(TRIES - record.tries_left);
        if self.delays && in_a_row >= 3 {
            record.not_before = now.plus(DELAYS[(in_a_row - 3).min(DELAYS.len() - 1)]);
        }
        if record.tries_left == 0 || record.failures >= FAILURES {
            record.state = State::Closed { until: now.plus(GRACE) };
            record.events.note(EventKind::Closed, wall);
        }
        Write { then: Reply::Challenge { ke2, tries: tries(&record, now) }, record }
    }
}

/// The tries that a record has left at `now`.
pub(super) fn tries(record: &Record, now: Served) -> Tries {
    let failures_left = FAILURES.saturating_sub(record.failures);
    let left = match record.state {
        State::Closed { .. } => 0,
        _ => record.tries_left.min(failures_left),
    };
    Tries { left, failures_left, wait: record.not_before.left_at(now) }
}
