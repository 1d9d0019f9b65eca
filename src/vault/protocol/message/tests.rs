use super::*;
use crate::vault::protocol::NOTE_TEXT;
use proptest::prelude::*;

fn tries() -> Tries {
    Tries { left: 9, failures_left: 49, wait: 7 }
}

fn requests() -> Vec<Request> {
    let (ticket, registration, attempt) = ([1; 16], [2; 16], [3; 16]);
    let start = Request::RegisterStart {
        ticket,
        registration,
        repo: [4; 16],
        right: Right::Open,
        bind: Bind::Account,
        terms: [5; 32],
        request: [5; REGISTER_REQUEST],
    };
    let by = |right| match start.clone() {
        Request::RegisterStart { ticket, registration, repo, bind, terms, request, .. } => {
            Request::RegisterStart { ticket, registration, repo, right, bind, terms, request }
        }
        _ => unreachable!(),
    };
    let old = Right::Successor { ticket: [6; 16], registration: [7; 16], signature: [8; 64] };
    let (invited, follows) = (by(Right::Invite([5; 16])), by(old));
    let note = Note::new(7, &[1; NOTE_TEXT]);
    let finish = Request::RegisterFinish {
        ticket,
        registration,
        upload: Box::new([6; REGISTER_UPLOAD]),
        verifying: [7; 32],
        note_key: [7; 32],
        payload: Box::new([8; PAYLOAD_SEALED]),
    };
    let retire = |reason| Request::Retire { ticket, registration, reason, signature: [9; 64] };
    vec![
        Request::Manifest,
        start,
        invited,
        follows,
        finish,
        Request::Activate { ticket, registration, signature: [9; 64] },
        Request::Attempt { ticket, attempt, terms: [4; 32], ke1: Box::new([1; KE1]) },
        Request::Redeem { ticket, attempt, ke3: [2; KE3] },
        retire(Retirement::Deleted),
        retire(Retirement::Superseded),
        Request::Status { ticket },
        Request::Note { ticket, registration, note, signature: [9; 64] },
    ]
}

fn replies() -> Vec<Reply> {
    let mut events = Events::default();
    (0..40).for_each(|time| events.note(crate::vault::protocol::EventKind::Failed, time));
    let mut replies = vec![
        Reply::Manifest(vec![1; MANIFEST_LIMIT]),
        Reply::Registered { reply: Box::new([1; REGISTER_REPLY]), generation: 4, bound: true },
        Reply::Uploaded,
        Reply::Activated(tries()),
        Reply::Challenge { ke2: Box::new([1; KE2]), tries: tries() },
        Reply::Opened {
            payload: Box::new([1; PAYLOAD_SEALED]),
            tries: tries(),
            events,
            note: Note::new(3, &[2; NOTE_TEXT]),
        },
        Reply::Noted(Note::default()),
        Reply::State(RecordState::Active { tries: tries(), bound: true }),
        Reply::Retired(Ended::Deleted),
    ];
    let ended =
        [Ended::Exhausted, Ended::Superseded, Ended::Deleted, Ended::Abandoned, Ended::Removed];
    replies.extend(ended.map(|end| Reply::State(RecordState::Ended(end))));
    let refusals = [
        Refusal::UnknownTicket,
        Refusal::RegistrationClosed,
        Refusal::Taken,
        Refusal::TooEarly(tries()),
        Refusal::WrongState(RecordState::Closed { left: 8 }),
        Refusal::WrongState(RecordState::Registering),
        Refusal::BadProof(tries()),
        Refusal::UnknownAttempt,
        Refusal::TryLater,
        Refusal::Malformed,
        Refusal::Tampered,
        Refusal::Invite,
        Refusal::Budget,
        Refusal::FrozenByStaff,
        Refusal::Account,
        Refusal::Terms,
        Refusal::TooOften,
    ];
    replies.extend(refusals.map(Reply::Refused));
    replies
}

#[test]
fn every_message_survives_in_a_frame_of_one_size() {
    for request in requests() {
        let bytes = encode_request(&request);
        assert_eq!(bytes.len(), REQUEST_SIZE);
        assert!(decode_request(&bytes).is_ok_and(|read| read == request));
    }
    for reply in replies() {
        let bytes = encode_reply(&reply);
        assert_eq!(bytes.len(), REPLY_SIZE);
        assert!(decode_reply(&bytes).is_ok_and(|read| read == reply));
    }
}

#[test]
fn frames_of_another_size_and_dirty_padding_are_refused() {
    for request in requests() {
        let mut bytes = encode_request(&request);
        assert!(decode_request(&bytes[1..]).is_err());
        bytes[REQUEST_SIZE - 1] = 1;
        assert_eq!(decode_request(&bytes).err(), Some(DecodeError::Invalid("frame padding")));
        let long = [&bytes[..], &[0]].concat();
        assert_eq!(decode_request(&long).err(), Some(DecodeError::Invalid("frame size")));
    }
}

#[test]
fn truncated_and_trailing_messages_are_refused() {
    for request in requests() {
        let bytes = encode_request(&request);
        let len = u16::from_le_bytes([bytes[0], bytes[1]]) as usize;
        for cut in 0..len {
            assert!(decode_request(&frame(&bytes[2..2 + cut], REQUEST_SIZE)).is_err());
        }
        assert!(decode_request(&frame(&bytes[2..3 + len], REQUEST_SIZE)).is_err());
    }
    for reply in replies() {
        let bytes = encode_reply(&reply);
        let len = u16::from_le_bytes([bytes[0], bytes[1]]) as usize;
        for cut in 0..len {
            assert!(decode_reply(&frame(&bytes[2..2 + cut], REPLY_SIZE)).is_err());
        }
        assert!(decode_reply(&frame(&bytes[2..3 + len], REPLY_SIZE)).is_err());
    }
}

proptest! {
    #[test]
    fn random_frames_never_panic(
        body in proptest::collection::vec(any::<u8>(), 0..700),
        kind in 0u8..12,
        length in any::<u16>(),
        honest in any::<bool>(),
    ) {
        let mut message = body;
        message.insert(0, kind);
        let mut bytes = frame(&message, REQUEST_SIZE);
        if !honest {
            bytes[..2].copy_from_slice(&length.to_le_bytes());
        }
        if let Ok(request) = decode_request(&bytes) {
            prop_assert!(*encode_request(&request) == bytes);
        }
        let mut bytes = frame(&message, REPLY_SIZE);
        if !honest {
            bytes[..2].copy_from_slice(&length.to_le_bytes());
        }
        if let Ok(reply) = decode_reply(&bytes) {
            prop_assert!(encode_reply(&reply) == bytes);
        }
    }
}
