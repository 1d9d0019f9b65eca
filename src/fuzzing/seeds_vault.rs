//! Real values of every kind that vaults exchange and keep, for the seeds of the corpus.

use super::seeds::*;
use super::vault::ISSUER_KEYS;
use super::*;
use crate::crypto::hash;
use crate::vault::hsm::transfer::{Aloud, Parcel, RsaPublic, SiteRequest, WrappedKeys};
use crate::vault::ledger::{Lineage, Revision};
use crate::vault::protocol::{
    Address, AkeKey, Argon2Cost, Bind, Binding, Ended, EventKind, Events, Fingerprint, Locator,
    Manifest, NOTE, NOTE_TEXT, Note, NoteKeys, PAYLOAD_SEALED, Protection, RecordState, Refusal,
    Reply, Request, Retirement, Right, Roots, SiteKey, Tries, encode_marks, seal_payload,
    sign_manifest,
};
use crate::vault::server::{Material, Pending, Record, Served, State as Stands};

pub(super) fn an_address() -> Address {
    let hosts = vec!["server.home:7450".into(), "[::1]:80".into()];
    Address::new(hosts, Fingerprint([7; 32])).unwrap()
}

pub(super) fn a_locator() -> Locator {
    Locator {
        address: an_address(),
        ticket: [1; 16],
        registration: [2; 16],
        cost: Argon2Cost::USUAL,
        unicode: (6, 3),
        epoch: 3,
    }
}

/// A manifest, and the same signed.
pub(super) fn a_manifest() -> (Manifest, Vec<u8>) {
    let root = ed25519_dalek::SigningKey::from_bytes(&[4; 32]);
    let manifest = Manifest {
        roots: Roots { threshold: 1, keys: vec![root.verifying_key().to_bytes()] },
        fleet: [5; 16],
        epoch: 3,
        protection: Protection::File,
        quorum: 1,
        cost: Argon2Cost::FLOOR,
        ake: vec![AkeKey { generation: 1, public: [2; 33] }],
        sites: vec![SiteKey { name: "here".into(), spki: vec![9; 91] }],
        endpoints: vec!["a.example:7007".into()],
        ends: u64::MAX,
    };
    let signed = sign_manifest(&manifest, &[&root]);
    (manifest, signed)
}

/// A request for keys, and the parcel that answers it.
pub(super) fn a_transfer() -> (SiteRequest, Parcel) {
    let request = SiteRequest {
        fleet: [5; 16],
        root: [6; 32],
        name: "south".into(),
        spki: vec![9; 91],
        wrapping: RsaPublic { modulus: vec![0xc3; 384], exponent: vec![1, 0, 1] },
    };
    let parcel = Parcel {
        request: hash(&request.encode()),
        generation: 1,
        ake: [2; 33],
        keys: Aloud::of(b"keys"),
        wrapped: WrappedKeys {
            transport: vec![1; 384],
            seed: vec![2; 40],
            ake: vec![3; 80],
            seal: vec![4; 40],
            lookup: vec![5; 40],
        },
        manifest: a_manifest().1,
    };
    (request, parcel)
}

pub(super) fn requests() -> Vec<Request> {
    let (ticket, registration, attempt) = ([1; 16], [2; 16], [3; 16]);
    vec![
        Request::Manifest,
        Request::RegisterStart {
            ticket,
            registration,
            repo: REPO,
            right: Right::Open,
            bind: Bind::Usual,
            terms: [6; 32],
            request: [4; 33],
        },
        Request::RegisterStart {
            ticket,
            registration,
            repo: REPO,
            right: Right::Invite([3; 16]),
            bind: Bind::Account,
            terms: [6; 32],
            request: [4; 33],
        },
        Request::RegisterStart {
            ticket,
            registration,
            repo: REPO,
            right: Right::Successor { ticket: [5; 16], registration, signature: [6; 64] },
            bind: Bind::Nobody,
            terms: [6; 32],
            request: [4; 33],
        },
        Request::Note { ticket, registration, note: a_note(), signature: [2; 64] },
        Request::RegisterFinish {
            ticket,
            registration,
            upload: Box::new([5; 129]),
            verifying: [6; 32],
            note_key: [6; 32],
            payload: Box::new([7; PAYLOAD_SEALED]),
        },
        Request::Activate { ticket, registration, signature: [8; 64] },
        Request::Attempt { ticket, attempt, terms: [6; 32], ke1: Box::new([9; 98]) },
        Request::Redeem { ticket, attempt, ke3: [1; 32] },
        Request::Retire { ticket, registration, reason: Retirement::Deleted, signature: [2; 64] },
        Request::Status { ticket },
    ]
}

pub(super) fn a_note() -> Note {
    Note::new(3, &[9; NOTE_TEXT])
}

pub(super) fn some_events() -> Events {
    let mut events = Events::default();
    events.note(EventKind::Activated, 1);
    events.note(EventKind::Failed, 2);
    events
}

pub(super) fn replies() -> Vec<Reply> {
    let tries = Tries { left: 9, failures_left: 49, wait: 77 };
    let events = some_events();
    let mut all = vec![
        Reply::Manifest(a_manifest().1),
        Reply::Registered { reply: Box::new([1; 66]), generation: 1, bound: true },
        Reply::Uploaded,
        Reply::Activated(tries),
        Reply::Challenge { ke2: Box::new([2; 259]), tries },
        Reply::Opened { payload: Box::new([3; PAYLOAD_SEALED]), tries, events, note: a_note() },
        Reply::Noted(a_note()),
        Reply::Retired(Ended::Deleted),
    ];
    let states = [
        RecordState::Registering,
        RecordState::Active { tries, bound: true },
        RecordState::Closed { left: 9 },
        RecordState::Ended(Ended::Exhausted),
    ];
    all.extend(states.map(Reply::State));
    let refusals = [
        Refusal::UnknownTicket,
        Refusal::TooEarly(tries),
        Refusal::WrongState(states[2]),
        Refusal::BadProof(tries),
        Refusal::Malformed,
        Refusal::Tampered,
        Refusal::Invite,
        Refusal::Budget,
        Refusal::FrozenByStaff,
        Refusal::Account,
        Refusal::Terms,
        Refusal::TooOften,
    ];
    all.extend(refusals.map(Reply::Refused));
    all
}

/// The message of a frame, without length and zeros.
pub(super) fn message(frame: &[u8]) -> Vec<u8> {
    let len = usize::from(u16::from_le_bytes([frame[0], frame[1]]));
    frame[2..2 + len].to_vec()
}

pub(super) fn records() -> Vec<Record> {
    let material = Material {
        credential: [1; 32],
        terms: [8; 32],
        request: [2; 33],
        reply: [3; 66],
        upload: [4; 129],
        verifying: [5; 32],
        note_key: [5; 32],
        payload: [6; PAYLOAD_SEALED],
        ke2: [7; 259],
    };
    let pending = Pending {
        attempt: [1; 16],
        ke1: [2; 32],
        login: [3; 64],
        made: 3,
        expires: Served(4),
        proofs: 2,
        redeemed: true,
    };
    let record = Record {
        generation: 1,
        repo: REPO,
        registration: [2; 16],
        state: Stands::Closed { until: Served(99) },
        tries_left: 0,
        failures: 10,
        not_before: Served(5),
        created: 6,
        began: Served(6),
        touched: Served(7),
        bound: true,
        daily: (Served(1), 2),
        lineage: Lineage::default(),
        material: Some(material),
        pending: vec![pending],
        events: some_events(),
        label: Some("anna".into()),
        frozen_by_staff: true,
        note: a_note(),
    };
    let tombstone = record.tombstone(Ended::Superseded);
    let lineage = Lineage { created: Revision(8), version: 9 };
    let in_place = Record { lineage, ..record.clone() };
    let (owner, now) = ((Some("anna".into()), true), (6, Served(5)));
    let reserved = Record::reservation(1, REPO, [2; 16], owner, now);
    let until = Served(9);
    let beside = [Stands::Invite { until }, Stands::Used, Stands::Account, Stands::Clock];
    let beside = beside.map(|state| Record { state, ..reserved.clone() });
    [vec![record, tombstone, in_place, reserved], beside.to_vec()].concat()
}

pub(super) fn without_zeros(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    bytes[..end].to_vec()
}

/// Bytes of one or more values, by target.
pub(super) fn relay_seeds() -> Vec<Vec<u8>> {
    use crate::vault::protocol::{assertion::Assertion, greeting};
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let assertion = Assertion {
        relay: key.verifying_key().to_bytes(),
        expires: 1_800_000_000,
        id: [1; 16],
        hello: [2; 32],
        account: Some("anna".into()),
    };
    let hello = [&[22, 3, 1, 0, 10, 1, 0, 0, 6][..], b"client"].concat();
    vec![
        chosen(0, &greeting::encode_greeting(Some("token")).unwrap()),
        chosen(0, &greeting::encode_greeting(None).unwrap()),
        chosen(1, &greeting::encode_welcome(greeting::Welcome::Busy)),
        chosen(2, b"anna@example.org"),
        chosen(3, &assertion.sign(&key)),
        chosen(4, &hello),
        chosen(5, format!("# people\nanna {}\n", "ab".repeat(32)).as_bytes()),
        chosen(6, ISSUER_KEYS.as_bytes()),
        // {"alg":"EdDSA","kid":"one"}.{"sub":"anna","exp":1800000000}.
        chosen(
            7,
            b"eyJhbGciOiJFZERTQSIsImtpZCI6Im9uZSJ9.eyJzdWIiOiJhbm5hIiwiZXhwIjoxODAwMDAwMDAwfQ.AA",
        ),
    ]
}

/// A sealed payload, and its plaintext.
pub(super) fn a_payload() -> (Vec<u8>, Vec<u8>) {
    let binding = Binding { repo: REPO, registration: [2; 16], fleet: [3; 16] };
    let sealed = seal_payload(&secret(1), &binding, &[([1; 16], &secret(2))]).unwrap();
    let cipher =
        ValueCipher::new(&derive(Purpose::VaultPayload, &secret(1), &[&binding.registration]));
    let plain = cipher.open(0, &binding.payload_aad(), &sealed).unwrap();
    (sealed, plain)
}

pub(super) fn note_seeds() -> Vec<Vec<u8>> {
    let marks = [([1; 16], 7), ([2; 16], 300)];
    let note = NoteKeys::derive(&secret(9), &REPO, &[2; 16]).seal(5, &marks);
    let marks = encode_marks(&marks);
    let numbered = [&5_u64.to_le_bytes()[..], &marks].concat();
    vec![chosen(0, note.bytes()), chosen(0, &[0; NOTE]), chosen(1, &numbered), chosen(2, &marks)]
}
