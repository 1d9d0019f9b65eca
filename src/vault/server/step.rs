//! The record's state machine: what to do about one request, decided from the
//! record and the time alone.
//!
//! Law: in the order of writes, at most [`TRIES`] distinct KE1 are evaluated
//! between consecutive successes, the registration's evaluation counted in.

use ed25519_dalek::{Signature, VerifyingKey};

use super::effect::{Effect, Enrolment, PaidAttempt, Reservation, Write, tries};
use super::evaluate;
use super::record::{Record, State};
use super::served::Served;
use crate::crypto::{Hash, hash};
use crate::vault::protocol::{
    AttemptId, Binding, Ended, Enrolled, EventKind, FAILURES, FleetId, GRACE, KE1, KE3, Note,
    PAYLOAD_SEALED, PROOFS, REGISTER_REQUEST, REGISTER_UPLOAD, RecordState, Refusal,
    RegistrationId, Reply, Request, Seconds, TRIES, activation_statement, note_statement,
};

/// A registration that is not activated within this time is dropped.
const ACTIVATION: Seconds = 24 * 3600;

/// What a site allows.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The fleet's id, part of every binding.
    pub fleet: FleetId,
    /// Whether failures in a row make the next attempt wait.
    pub delays: bool,
}

/// Who asks, and when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// By the wall clock: for what people are told, and for nothing else.
    pub wall: Seconds,
    /// By the vault's own time.
    pub now: Served,
    /// The account that a relay vouched for.
    pub account: Option<&'a str>,
}

fn state_of(record: &Record, now: Served) -> RecordState {
    match record.state {
        State::Reserved | State::Started | State::Stored => RecordState::Registering,
        State::Active => RecordState::Active { tries: tries(record, now), bound: record.bound },
        State::Closed { until } => RecordState::Closed { left: until.left_at(now) },
        State::Ended(ended) => RecordState::Ended(ended),
        // Under no ticket's name.
        State::Invite { .. } | State::Used | State::Account | State::Clock => {
            RecordState::Ended(Ended::Removed)
        }
    }
}

fn refuse(refusal: Refusal) -> Effect {
    Effect::Answer(Reply::Refused(refusal))
}

fn refuse_state(record: &Record, now: Served) -> Effect {
    refuse(Refusal::WrongState(state_of(record, now)))
}

fn refuse_proof(record: &Record, now: Served) -> Effect {
    refuse(Refusal::BadProof(tries(record, now)))
}

/// Why a record is over although nobody has written it down yet.
fn due(record: &Record, now: Served) -> Option<Ended> {
    match record.state {
        State::Reserved | State::Started | State::Stored
            if !record.is_placeholder() && now > record.began.plus(ACTIVATION) =>
        {
            Some(Ended::Abandoned)
        }
        State::Closed { until } if now >= until => Some(Ended::Exhausted),
        State::Invite { until } if now >= until => Some(Ended::Abandoned),
        _ => None,
    }
}

/// How long what says that a registration was never activated, or how often an account
/// has registered, is kept: seconds.
const KEPT: Seconds = 24 * 3600;

/// Whether a name may go: nothing was ever guessed at under it, and whoever asks hears
/// that there is no such record. Its ticket may be registered anew, as any other.
pub fn may_go(record: &Record, now: Served) -> bool {
    match record.state {
        State::Ended(Ended::Abandoned) => now >= record.touched.plus(KEPT),
        State::Account => now >= record.touched.plus(2 * KEPT),
        _ => false,
    }
}

/// The tombstone of a record whose time is up.
pub fn sweep_step(record: &Record, now: Served) -> Option<Write> {
    let ended = due(record, now)?;
    let then = Reply::State(RecordState::Ended(ended));
    Some(Write { record: record.tombstone(ended), then })
}

/// The record with so many tries less, if it has any: for a ledger that was put
/// back, in which tries are back that were spent. `u8::MAX` takes all.
pub fn spend_step(record: &Record, asked: &Asked<'_>, tries: u8) -> Option<Write> {
    let mut record = record.clone();
    let had = record.tries_left;
    record.tries_left = had.saturating_sub(tries);
    record.failures = record.failures.saturating_add(had - record.tries_left).min(FAILURES);
    let over = record.tries_left == 0 || record.failures == FAILURES;
    record.events.note(EventKind::Spent, asked.wall);
    record = match record.state {
        // What is activated later has what is left here.
        State::Started | State::Stored if over => record.tombstone(Ended::Abandoned),
        State::Active if over => {
            Record { state: State::Closed { until: asked.now.plus(GRACE) }, ..record }
        }
        State::Started | State::Stored | State::Active => record,
        // One that was used may be back.
        State::Invite { .. } => record.tombstone(Ended::Removed),
        // Evaluated under another key, or not at all.
        State::Reserved
        | State::Closed { .. }
        | State::Ended(_)
        | State::Used
        | State::Account
        | State::Clock => return None,
    };
    let then = Reply::State(state_of(&record, asked.now));
    (tries > 0).then_some(Write { record, then })
}

/// What to do about `request`, which concerns `record` (the one under the
/// request's ticket).
pub fn step(
    policy: &Policy,
    record: Option<Record>,
    asked: &Asked<'_>,
    request: &Request,
) -> Effect {
    let now = asked.now;
    let Some(record) = record else { return step_without_record(asked, request) };
    if record.state.is_beside() {
        return refuse(Refusal::UnknownTicket);
    }
    if let Some(ended) = due(&record, now) {
        let state = RecordState::Ended(ended);
        let then = match request {
            Request::Status { .. } => Reply::State(state),
            _ => Reply::Refused(Refusal::WrongState(state)),
        };
        return Effect::Persist(Write { record: record.tombstone(ended), then });
    }
    if record.frozen_by_staff && !matches!(request, Request::Retire { .. }) {
        return refuse(Refusal::FrozenByStaff);
    }
    let binding = record.binding(policy.fleet);
    match request {
        Request::Manifest => refuse(Refusal::Malformed),
        Request::RegisterStart { registration, repo, terms, request, .. } => {
            register_again(record, now, (registration, repo), terms, request)
        }
        Request::RegisterFinish { registration, upload, verifying, note_key, payload, .. } => {
            if *registration != record.registration {
                return refuse(Refusal::Taken);
            }
            store(record, now, upload, [verifying, note_key], payload)
        }
        Request::Activate { registration, signature, .. } => {
            if *registration != record.registration {
                return refuse(Refusal::Taken);
            }
            activate(record, &binding, asked, signature)
        }
        Request::Attempt { attempt, terms, ke1, .. } => {
            admit(policy, record, asked, attempt, terms, ke1)
        }
        Request::Redeem { attempt, ke3, .. } => redeem(record, &binding, asked, attempt, ke3),
        Request::Retire { registration, reason, signature, .. } => {
            if *registration != record.registration {
                return refuse_proof(&record, now);
            }
            if record.state == State::Ended(reason.ended()) {
                return Effect::Answer(Reply::Retired(reason.ended()));
            }
            if !signed(&record, &reason.statement(&binding), signature) {
                return match record.state {
                    State::Ended(_) => refuse_state(&record, now),
                    _ => refuse_proof(&record, now),
                };
            }
            let ended = reason.ended();
            Effect::Persist(Write { record: record.tombstone(ended), then: Reply::Retired(ended) })
        }
        Request::Status { .. } => Effect::Answer(Reply::State(state_of(&record, now))),
        Request::Note { registration, note, signature, .. } => {
            if *registration != record.registration {
                return refuse_proof(&record, now);
            }
            keep_note(record, &binding, now, note, signature)
        }
    }
}

/// A mount may write and read it; the number keeps one device from writing
/// over what it has not read.
fn keep_note(
    mut record: Record,
    binding: &Binding,
    now: Served,
    note: &Note,
    signature: &[u8; 64],
) -> Effect {
    let (State::Active | State::Closed { .. }, Some(material)) = (record.state, &record.material)
    else {
        return refuse_state(&record, now);
    };
    if !is_signed(&material.note_key, &note_statement(binding, note.bytes()), signature) {
        return refuse_proof(&record, now);
    }
    if record.note.number().checked_add(1) != Some(note.number()) {
        return Effect::Answer(Reply::Noted(record.note.clone()));
    }
    if !record.charge(now) {
        return refuse(Refusal::TooOften);
    }
    record.note = note.clone();
    Effect::Persist(Write { record, then: Reply::Noted(note.clone()) })
}

/// Only a registration does anything where there is no record; everything else
/// gets one constant answer and no write.
fn step_without_record(asked: &Asked<'_>, request: &Request) -> Effect {
    match request {
        Request::RegisterStart { registration, repo, right, bind, request, .. } => {
            // Zeros stand for what is no registration.
            if *registration == [0; 16] || !evaluate::request_is_valid(request) {
                return refuse(Refusal::Malformed);
            }
            Effect::Reserve(Reservation {
                repo: *repo,
                registration: *registration,
                right: *right,
                bind: *bind,
                now: (asked.wall, asked.now),
            })
        }
        _ => refuse(Refusal::UnknownTicket),
    }
}

/// A name that this registration took is evaluated under. The same bytes again
/// get the stored reply; other bytes, or any after activation, are refused: a
/// credential id is evaluated once.
fn register_again(
    record: Record,
    now: Served,
    (registration, repo): (&RegistrationId, &[u8; 16]),
    terms: &Hash,
    request: &[u8; REGISTER_REQUEST],
) -> Effect {
    let same = record.registration == *registration && record.repo == *repo;
    match (&record.state, &record.material) {
        (State::Reserved, _) if same && !evaluate::request_is_valid(request) => {
            refuse(Refusal::Malformed)
        }
        (State::Reserved, _) if same => {
            Effect::Enrol(Enrolment { record, request: *request, terms: *terms })
        }
        (State::Started | State::Stored, Some(material))
            if same && material.request == *request && material.terms == *terms =>
        {
            Effect::Answer(Reply::Registered {
                reply: Box::new(material.reply),
                generation: record.generation,
                bound: record.bound,
            })
        }
        (State::Ended(_), _) => refuse_state(&record, now),
        _ => refuse(Refusal::Taken),
    }
}

fn store(
    mut record: Record,
    now: Served,
    upload: &[u8; REGISTER_UPLOAD],
    [verifying, note_key]: [&[u8; 32]; 2],
    payload: &[u8; PAYLOAD_SEALED],
) -> Effect {
    let state = record.state;
    let Some(material) = record.material.as_mut() else { return refuse_state(&record, now) };
    match state {
        State::Started => {
            let keys = [verifying, note_key].map(VerifyingKey::from_bytes);
            if !evaluate::upload_is_valid(upload) || keys.iter().any(Result::is_err) {
                return refuse(Refusal::Malformed);
            }
            material.upload = *upload;
            material.verifying = *verifying;
            material.note_key = *note_key;
            material.payload = *payload;
            record.state = State::Stored;
            Effect::Persist(Write { record, then: Reply::Uploaded })
        }
        State::Stored
            if material.upload == *upload
                && material.verifying == *verifying
                && material.note_key == *note_key
                && material.payload == *payload =>
        {
            Effect::Answer(Reply::Uploaded)
        }
        _ => refuse(Refusal::Taken),
    }
}

/// Whether the owner of a record signed that another one follows it.
pub(super) fn is_succeeded(record: &Record, statement: &[u8], signature: &[u8; 64]) -> bool {
    matches!(record.state, State::Active | State::Closed { .. })
        && !record.frozen_by_staff
        && signed(record, statement, signature)
}

fn signed(record: &Record, statement: &[u8], signature: &[u8; 64]) -> bool {
    let Some(material) = &record.material else { return false };
    // Zeros, before anything is stored, are a point of small order.
    record.state != State::Started && is_signed(&material.verifying, statement, signature)
}

fn is_signed(verifying: &[u8; 32], statement: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(verifying)
        .is_ok_and(|key| key.verify_strict(statement, &Signature::from_bytes(signature)).is_ok())
}

fn activate(
    mut record: Record,
    binding: &Binding,
    asked: &Asked<'_>,
    signature: &[u8; 64],
) -> Effect {
    let now = asked.now;
    let (State::Stored | State::Active, Some(material)) = (record.state, &record.material) else {
        return refuse_state(&record, now);
    };
    let enrolled = Enrolled {
        generation: record.generation,
        bound: record.bound,
        terms: &material.terms,
        request: &material.request,
        reply: &material.reply,
        upload: &material.upload,
        verifying: &material.verifying,
        note_key: &material.note_key,
        payload: &material.payload,
    };
    if !signed(&record, &activation_statement(&enrolled.hash(binding)), signature) {
        return refuse_proof(&record, now);
    }
    if record.state == State::Active {
        return Effect::Answer(Reply::Activated(tries(&record, now)));
    }
    record.state = State::Active;
    record.events.note(EventKind::Activated, asked.wall);
    Effect::Persist(Write { then: Reply::Activated(tries(&record, now)), record })
}

/// Whether whoever asks has the account that the record is bound to, if it is bound.
fn may_guess(record: &Record, asked: &Asked<'_>) -> bool {
    !record.bound || record.label.as_deref().is_some_and(|label| Some(label) == asked.account)
}

fn admit(
    policy: &Policy,
    mut record: Record,
    asked: &Asked<'_>,
    attempt: &AttemptId,
    terms: &Hash,
    ke1: &[u8; KE1],
) -> Effect {
    let now = asked.now;
    let (State::Active | State::Closed { .. }, Some(material)) = (record.state, &record.material)
    else {
        return refuse_state(&record, now);
    };
    if !may_guess(&record, asked) {
        return refuse(Refusal::Account);
    }
    if material.terms != *terms {
        return refuse(Refusal::Terms);
    }
    if let Some(at) = record.pending.iter().position(|pending| pending.attempt == *attempt) {
        // A retry of the newest attempt is free; its KE2 is stored. The same id
        // with another KE1 would be a second evaluation for one try.
        let newest = at + 1 == record.pending.len();
        return if record.pending[at].ke1 != hash(ke1) {
            refuse(Refusal::Malformed)
        } else if newest {
            let ke2 = Box::new(material.ke2);
            Effect::Answer(Reply::Challenge { ke2, tries: tries(&record, now) })
        } else {
            refuse(Refusal::UnknownAttempt)
        };
    }
    if record.state != State::Active {
        return refuse_state(&record, now);
    }
    if !evaluate::ke1_is_valid(ke1) {
        return refuse(Refusal::Malformed);
    }
    if now < record.not_before {
        return refuse(Refusal::TooEarly(tries(&record, now)));
    }
    if !record.charge(now) {
        return refuse(Refusal::TooOften);
    }
    Effect::Evaluate(PaidAttempt {
        record,
        id: *attempt,
        ke1: Box::new(*ke1),
        wall: asked.wall,
        now,
        delays: policy.delays,
    })
}

/// A right proof refills once; a wrong one changes nothing. Both are written,
/// so that the ledger's readers cannot tell them apart: [`PROOFS`] times. After that an
/// attempt that was not proven right is over, and of one that was nothing is written any
/// more.
fn redeem(
    mut record: Record,
    binding: &Binding,
    asked: &Asked<'_>,
    attempt: &AttemptId,
    ke3: &[u8; KE3],
) -> Effect {
    let now = asked.now;
    let closed = match record.state {
        State::Active => false,
        State::Closed { .. } => true,
        _ => return refuse_state(&record, now),
    };
    let Some(at) = record
        .pending
        .iter()
        .position(|pending| pending.attempt == *attempt && (closed || pending.expires > now))
    else {
        return refuse(Refusal::UnknownAttempt);
    };
    let pending = &mut record.pending[at];
    let right = evaluate::proof_is_right(&pending.login, binding, attempt, ke3);
    let is_written = pending.proofs < PROOFS;
    pending.proofs += u8::from(is_written);
    let is_over = !(is_written || right && pending.redeemed);
    if is_over {
        return refuse(Refusal::UnknownAttempt);
    }
    if !right {
        let then = Reply::Refused(Refusal::BadProof(tries(&record, now)));
        return Effect::Persist(Write { record, then });
    }
    if !pending.redeemed {
        pending.redeemed = true;
        record.events.proven(pending.made, asked.wall);
        record.tries_left = TRIES;
        record.failures = record.failures.saturating_sub(1);
        record.not_before = Served(0);
        record.state = State::Active;
    }
    let payload = Box::new(record.material.as_ref().expect("checked with the state above").payload);
    let (tries, events, note) = (tries(&record, now), record.events.clone(), record.note.clone());
    let then = Reply::Opened { payload, tries, events, note };
    if is_written { Effect::Persist(Write { record, then }) } else { Effect::Answer(then) }
}
