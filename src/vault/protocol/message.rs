//! Messages and their frames. A frame is the length of its message (2 bytes,
//! LE), the message, and zeros up to the one size of its direction: who watches
//! the line sees the number of messages, never their kind. A message begins with
//! the version of the protocol.

use zeroize::Zeroizing;

use super::{
    AttemptId, Bind, Ended, Events, KE1, KE2, KE3, MANIFEST_LIMIT, Note, PAYLOAD_SEALED,
    REGISTER_REPLY, REGISTER_REQUEST, REGISTER_UPLOAD, RegistrationId, Retirement, Right, Seconds,
    Ticket,
};
use crate::crypto::{Hash, RepoId};
use crate::format::wire::{DecodeError, Decoder, Encoder, Result};

/// Bytes of every frame from client to vault.
pub const REQUEST_SIZE: usize = 1024;
/// Bytes of every frame from vault to client.
pub const REPLY_SIZE: usize = 2816;
/// The version of the protocol, the first byte of every message.
pub const PROTOCOL: u8 = 2;

/// What a client asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Request {
    /// Asks for the fleet's signed manifest.
    Manifest,
    /// A new record; evaluated once.
    RegisterStart {
        /// The ticket that names the record.
        ticket: Ticket,
        /// The id of the registration that the record is of.
        registration: RegistrationId,
        /// The repository, part of the client's identifier.
        repo: RepoId,
        /// Why the vault should take it.
        right: Right,
        /// Whether it is to open for one account only.
        bind: Bind,
        /// Hash of what the password is computed with.
        terms: Hash,
        /// OPAQUE's registration request, with the blinded password.
        request: [u8; REGISTER_REQUEST],
    },
    /// What the record is to hold.
    RegisterFinish {
        /// The ticket that names the record.
        ticket: Ticket,
        /// The id of the registration that the record is of.
        registration: RegistrationId,
        /// OPAQUE's registration upload, with the envelope.
        upload: Box<[u8; REGISTER_UPLOAD]>,
        /// Public half of the key derived from K.
        verifying: [u8; 32],
        /// Public half of the key for notes.
        note_key: [u8; 32],
        /// What the record gives after a right proof, sealed by the client.
        payload: Box<[u8; PAYLOAD_SEALED]>,
    },
    /// Makes the record live.
    Activate {
        /// The ticket that names the record.
        ticket: Ticket,
        /// The id of the registration that the record is of.
        registration: RegistrationId,
        /// Over the hash of the whole stored record.
        signature: [u8; 64],
    },
    /// Asks the site to evaluate one guess. It takes a try.
    Attempt {
        /// The ticket that names the record.
        ticket: Ticket,
        /// Chosen by the client; the same again is a retry.
        attempt: AttemptId,
        /// Hash of what the password is computed with, as at the registration.
        terms: Hash,
        /// OPAQUE's first message, KE1.
        ke1: Box<[u8; KE1]>,
    },
    /// The proof that the guess was right, or as many random bytes.
    Redeem {
        /// The ticket that names the record.
        ticket: Ticket,
        /// The id of the attempt, which the client chose.
        attempt: AttemptId,
        /// OPAQUE's third message, KE3: the proof that the guess was right.
        ke3: [u8; KE3],
    },
    /// The end of a registration.
    Retire {
        /// The ticket that names the record.
        ticket: Ticket,
        /// The id of the registration that the record is of.
        registration: RegistrationId,
        /// Why the owner ends the record.
        reason: Retirement,
        /// By the key derived from K.
        signature: [u8; 64],
    },
    /// Asks for the record's state.
    Status {
        /// The ticket that names the record.
        ticket: Ticket,
    },
    /// The owner's note: kept if its number is one more than that of the note there
    /// is.
    Note {
        /// The ticket that names the record.
        ticket: Ticket,
        /// The id of the registration that the record is of.
        registration: RegistrationId,
        /// The owner's note, sealed.
        note: Note,
        /// By the key for notes.
        signature: [u8; 64],
    },
}

/// How many guesses and failures a record has left, and when the vault takes the next guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// Guesses left before the record closes.
    pub left: u8,
    /// Failures left in the life of the registration.
    pub failures_left: u8,
    /// Seconds from now until the next attempt is taken; 0 if at once.
    pub wait: Seconds,
}

/// The state of a record, as the vault tells it to whoever has the record's ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordState {
    /// The owner has not activated the record yet.
    Registering,
    /// The record is active: the right password opens it.
    Active {
        /// The tries that are left now.
        tries: Tries,
        /// Whether the record opens only for the account that registered it.
        bound: bool,
    },
    /// No tries left. For the time given, a proof of an attempt already paid
    /// for reopens it.
    Closed {
        /// Seconds from now until the key material is erased.
        left: Seconds,
    },
    /// The record is over; only a tombstone is left.
    Ended(Ended),
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No record under this ticket.
    UnknownTicket,
    /// The vault takes no new registrations from here.
    RegistrationClosed,
    /// Something else is registered there, or it is already active.
    Taken,
    /// The site evaluates no attempt until a delay is over.
    TooEarly(Tries),
    /// A record in this state does not allow the request.
    WrongState(RecordState),
    /// The proof or signature is not valid.
    BadProof(Tries),
    /// The vault does not know this attempt any more.
    UnknownAttempt,
    /// The ledger could not be written; nothing was answered.
    TryLater,
    /// The request is malformed.
    Malformed,
    /// The ledger was changed behind the vault's back: nothing is evaluated.
    Tampered,
    /// The invite is not known, used, or too old.
    Invite,
    /// The account has used up its registrations of this day.
    Budget,
    /// The operator has frozen this record: nothing is evaluated until it is released.
    FrozenByStaff,
    /// The record opens for another account only, or there is none to bind it to.
    Account,
    /// What the attempt would be computed with is not what was registered. No try was
    /// taken.
    Terms,
    /// The record was asked for too often within a day.
    TooOften,
}

/// What the vault answers.
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    /// The manifest as its root signed it.
    Manifest(Vec<u8>),
    /// The evaluated password and the key generation it was evaluated under.
    Registered {
        /// OPAQUE's registration response.
        reply: Box<[u8; REGISTER_REPLY]>,
        /// The generation of the keys that evaluated the request.
        generation: u32,
        /// Whether the record opens only for the account that registers it.
        bound: bool,
    },
    /// The record is stored, not yet active.
    Uploaded,
    /// The record is active.
    Activated(Tries),
    /// The vault's answer to a guess, and what is left after it.
    Challenge {
        /// OPAQUE's second message, KE2.
        ke2: Box<[u8; KE2]>,
        /// What is left if this guess fails.
        tries: Tries,
    },
    /// The proof was right.
    Opened {
        /// What the record gives after a right proof, sealed by the client.
        payload: Box<[u8; PAYLOAD_SEALED]>,
        /// The tries that are left now.
        tries: Tries,
        /// What happened to the record before this opening.
        events: Events,
        /// The owner's note, sealed.
        note: Note,
    },
    /// The record's state.
    State(RecordState),
    /// The registration is over.
    Retired(Ended),
    /// The note there is now: the one that was sent, or another that came before it.
    Noted(Note),
    /// The site did not do what was asked.
    Refused(Refusal),
}

fn boxed<const N: usize>(input: &mut Decoder<'_>) -> Result<Box<[u8; N]>> {
    Ok(Box::new(input.array()?))
}

/// Room for the longest message, and the version that it begins with.
fn begin(size: usize) -> Encoder {
    let mut out = Encoder::with_capacity(size);
    out.u8(PROTOCOL);
    out
}

fn frame(message: &[u8], size: usize) -> Vec<u8> {
    assert!(message.len() + 2 <= size, "every message fits in its frame");
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(&(message.len() as u16).to_le_bytes());
    out.extend_from_slice(message);
    out.resize(size, 0);
    out
}

fn unframe(bytes: &[u8], size: usize) -> Result<Decoder<'_>> {
    if bytes.len() != size {
        return Err(DecodeError::Invalid("frame size"));
    }
    let mut input = Decoder::new(bytes);
    let len = input.u16()? as usize;
    let message = input.raw(len)?;
    if input.raw(input.remaining())?.iter().any(|byte| *byte != 0) {
        return Err(DecodeError::Invalid("frame padding"));
    }
    let mut message = Decoder::new(message);
    if message.u8()? != PROTOCOL {
        return Err(DecodeError::Invalid("protocol version"));
    }
    Ok(message)
}

/// A frame of [`REQUEST_SIZE`] bytes; wiped, as an upload is as secret as a
/// password hash.
pub fn encode_request(request: &Request) -> Zeroizing<Vec<u8>> {
    let mut out = begin(REQUEST_SIZE);
    match request {
        Request::Manifest => out.u8(1),
        Request::RegisterStart { ticket, registration, repo, right, bind, terms, request } => {
            out.u8(2).raw(ticket).raw(registration).raw(repo);
            put_right(&mut out, right);
            out.u8(*bind as u8).raw(terms).raw(request)
        }
        Request::RegisterFinish { ticket, registration, upload, verifying, note_key, payload } => {
            out.u8(3)
                .raw(ticket)
                .raw(registration)
                .raw(&upload[..])
                .raw(verifying)
                .raw(note_key)
                .raw(&payload[..])
        }
        Request::Activate { ticket, registration, signature } => {
            out.u8(4).raw(ticket).raw(registration).raw(signature)
        }
        Request::Attempt { ticket, attempt, terms, ke1 } => {
            out.u8(5).raw(ticket).raw(attempt).raw(terms).raw(&ke1[..])
        }
        Request::Redeem { ticket, attempt, ke3 } => out.u8(6).raw(ticket).raw(attempt).raw(ke3),
        Request::Retire { ticket, registration, reason, signature } => {
            out.u8(7).raw(ticket).raw(registration).u8(reason.ended() as u8).raw(signature)
        }
        Request::Status { ticket } => out.u8(8).raw(ticket),
        Request::Note { ticket, registration, note, signature } => {
            out.u8(9).raw(ticket).raw(registration).raw(note.bytes()).raw(signature)
        }
    };
    Zeroizing::new(frame(&Zeroizing::new(out.finish()), REQUEST_SIZE))
}

/// Reads a frame of [`REQUEST_SIZE`] bytes.
pub fn decode_request(bytes: &[u8]) -> Result<Request> {
    let mut input = unframe(bytes, REQUEST_SIZE)?;
    let request = match input.u8()? {
        1 => Request::Manifest,
        2 => Request::RegisterStart {
            ticket: input.array()?,
            registration: input.array()?,
            repo: input.array()?,
            right: take_right(&mut input)?,
            bind: Bind::from_byte(input.u8()?).ok_or(DecodeError::Invalid("bind"))?,
            terms: input.array()?,
            request: input.array()?,
        },
        3 => Request::RegisterFinish {
            ticket: input.array()?,
            registration: input.array()?,
            upload: boxed(&mut input)?,
            verifying: input.array()?,
            note_key: input.array()?,
            payload: boxed(&mut input)?,
        },
        4 => Request::Activate {
            ticket: input.array()?,
            registration: input.array()?,
            signature: input.array()?,
        },
        5 => Request::Attempt {
            ticket: input.array()?,
            attempt: input.array()?,
            terms: input.array()?,
            ke1: boxed(&mut input)?,
        },
        6 => {
            Request::Redeem { ticket: input.array()?, attempt: input.array()?, ke3: input.array()? }
        }
        7 => Request::Retire {
            ticket: input.array()?,
            registration: input.array()?,
            reason: match Ended::from_byte(input.u8()?) {
                Some(Ended::Superseded) => Retirement::Superseded,
                Some(Ended::Deleted) => Retirement::Deleted,
                _ => return Err(DecodeError::Invalid("reason")),
            },
            signature: input.array()?,
        },
        8 => Request::Status { ticket: input.array()? },
        9 => Request::Note {
            ticket: input.array()?,
            registration: input.array()?,
            note: Note::from_bytes(boxed(&mut input)?),
            signature: input.array()?,
        },
        _ => return Err(DecodeError::Invalid("request")),
    };
    input.end()?;
    Ok(request)
}

fn put_right(out: &mut Encoder, right: &Right) {
    match right {
        Right::Open => out.u8(0),
        Right::Invite(invite) => out.u8(1).raw(invite),
        Right::Successor { ticket, registration, signature } => {
            out.u8(2).raw(ticket).raw(registration).raw(signature)
        }
    };
}

fn take_right(input: &mut Decoder<'_>) -> Result<Right> {
    Ok(match input.u8()? {
        0 => Right::Open,
        1 => Right::Invite(input.array()?),
        2 => Right::Successor {
            ticket: input.array()?,
            registration: input.array()?,
            signature: input.array()?,
        },
        _ => return Err(DecodeError::Invalid("right")),
    })
}

fn put_tries(out: &mut Encoder, tries: &Tries) {
    out.u8(tries.left).u8(tries.failures_left).u64(tries.wait);
}

fn take_tries(input: &mut Decoder<'_>) -> Result<Tries> {
    Ok(Tries { left: input.u8()?, failures_left: input.u8()?, wait: input.u64()? })
}

fn take_ended(input: &mut Decoder<'_>) -> Result<Ended> {
    Ended::from_byte(input.u8()?).ok_or(DecodeError::Invalid("reason"))
}

fn put_state(out: &mut Encoder, state: &RecordState) {
    match state {
        RecordState::Registering => {
            out.u8(1);
        }
        RecordState::Active { tries, bound } => {
            put_tries(out.u8(2), tries);
            out.u8(u8::from(*bound));
        }
        RecordState::Closed { left } => {
            out.u8(3).u64(*left);
        }
        RecordState::Ended(ended) => {
            out.u8(4).u8(*ended as u8);
        }
    }
}

fn take_state(input: &mut Decoder<'_>) -> Result<RecordState> {
    Ok(match input.u8()? {
        1 => RecordState::Registering,
        2 => RecordState::Active { tries: take_tries(input)?, bound: input.flag("bound")? },
        3 => RecordState::Closed { left: input.u64()? },
        4 => RecordState::Ended(take_ended(input)?),
        _ => return Err(DecodeError::Invalid("state")),
    })
}

fn put_refusal(out: &mut Encoder, refusal: &Refusal) {
    match refusal {
        Refusal::UnknownTicket => {
            out.u8(1);
        }
        Refusal::RegistrationClosed => {
            out.u8(2);
        }
        Refusal::Taken => {
            out.u8(3);
        }
        Refusal::TooEarly(tries) => put_tries(out.u8(4), tries),
        Refusal::WrongState(state) => put_state(out.u8(5), state),
        Refusal::BadProof(tries) => put_tries(out.u8(6), tries),
        Refusal::UnknownAttempt => {
            out.u8(7);
        }
        Refusal::TryLater => {
            out.u8(8);
        }
        Refusal::Malformed => {
            out.u8(9);
        }
        Refusal::Tampered => {
            out.u8(10);
        }
        Refusal::Invite => {
            out.u8(11);
        }
        Refusal::Budget => {
            out.u8(12);
        }
        Refusal::FrozenByStaff => {
            out.u8(13);
        }
        Refusal::Account => {
            out.u8(14);
        }
        Refusal::Terms => {
            out.u8(15);
        }
        Refusal::TooOften => {
            out.u8(16);
        }
    }
}

fn take_refusal(input: &mut Decoder<'_>) -> Result<Refusal> {
    Ok(match input.u8()? {
        1 => Refusal::UnknownTicket,
        2 => Refusal::RegistrationClosed,
        3 => Refusal::Taken,
        4 => Refusal::TooEarly(take_tries(input)?),
        5 => Refusal::WrongState(take_state(input)?),
        6 => Refusal::BadProof(take_tries(input)?),
        7 => Refusal::UnknownAttempt,
        8 => Refusal::TryLater,
        9 => Refusal::Malformed,
        10 => Refusal::Tampered,
        11 => Refusal::Invite,
        12 => Refusal::Budget,
        13 => Refusal::FrozenByStaff,
        14 => Refusal::Account,
        15 => Refusal::Terms,
        16 => Refusal::TooOften,
        _ => return Err(DecodeError::Invalid("refusal")),
    })
}

/// A frame of [`REPLY_SIZE`] bytes.
pub fn encode_reply(reply: &Reply) -> Vec<u8> {
    let mut out = begin(REPLY_SIZE);
    match reply {
        Reply::Manifest(bytes) => {
            out.u8(1).bytes(bytes);
        }
        Reply::Registered { reply, generation, bound } => {
            out.u8(2).raw(&reply[..]).u32(*generation).u8(u8::from(*bound));
        }
        Reply::Uploaded => {
            out.u8(3);
        }
        Reply::Activated(tries) => put_tries(out.u8(4), tries),
        Reply::Challenge { ke2, tries } => put_tries(out.u8(5).raw(&ke2[..]), tries),
        Reply::Opened { payload, tries, events, note } => {
            put_tries(out.u8(6).raw(&payload[..]), tries);
            events.encode(&mut out);
            out.raw(note.bytes());
        }
        Reply::State(state) => put_state(out.u8(7), state),
        Reply::Retired(ended) => {
            out.u8(8).u8(*ended as u8);
        }
        Reply::Refused(refusal) => put_refusal(out.u8(9), refusal),
        Reply::Noted(note) => {
            out.u8(10).raw(note.bytes());
        }
    }
    frame(&out.finish(), REPLY_SIZE)
}

/// Reads a frame of [`REPLY_SIZE`] bytes.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply> {
    let mut input = unframe(bytes, REPLY_SIZE)?;
    let reply = match input.u8()? {
        1 => Reply::Manifest(input.bytes(MANIFEST_LIMIT, "manifest")?.to_vec()),
        2 => Reply::Registered {
            reply: boxed(&mut input)?,
            generation: input.u32()?,
            bound: input.flag("bound")?,
        },
        3 => Reply::Uploaded,
        4 => Reply::Activated(take_tries(&mut input)?),
        5 => Reply::Challenge { ke2: boxed(&mut input)?, tries: take_tries(&mut input)? },
        6 => Reply::Opened {
            payload: boxed(&mut input)?,
            tries: take_tries(&mut input)?,
            events: Events::decode(&mut input)?,
            note: Note::from_bytes(boxed(&mut input)?),
        },
        7 => Reply::State(take_state(&mut input)?),
        8 => Reply::Retired(take_ended(&mut input)?),
        9 => Reply::Refused(take_refusal(&mut input)?),
        10 => Reply::Noted(Note::from_bytes(boxed(&mut input)?)),
        _ => return Err(DecodeError::Invalid("reply")),
    };
    input.end()?;
    Ok(reply)
}

#[cfg(test)]
mod tests;
