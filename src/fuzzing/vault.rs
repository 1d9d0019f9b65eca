//! What vaults, their sites, relays and clients say to each other, and keep.

use super::{REPO, canonical, choose, secret};
use crate::crypto::{Purpose, ValueCipher, derive, hash};
use crate::io::sim::SimWorld;
use crate::vault::hsm::FileKeys;
use crate::vault::hsm::transfer::{Aloud, Parcel, SiteRequest};
use crate::vault::ledger::{
    EmbeddedLedger, Head, Ledger, RECORD_LIMIT, Revision, read_mark, reset_mark,
};
use crate::vault::listen::read_hello;
use crate::vault::protocol::assertion::{ASSERTION, Assertion};
use crate::vault::protocol::greeting::{
    decode_greeting, decode_welcome, encode_greeting, encode_welcome,
};
use crate::vault::protocol::{
    Address, Binding, Fingerprint, KEYS_LIMIT, Locator, MARKS_LIMIT, Manifest, NOTE, NOTE_TEXT,
    Note, NoteKeys, PAYLOAD_SEALED, REPLY_SIZE, REQUEST_SIZE, decode_marks, decode_reply,
    decode_request, encode_marks, encode_reply, encode_request, open_payload, seal_payload,
};
use crate::vault::relay::accounts::Accounts;
use crate::vault::relay::jwt::{Terms, Verifier};
use crate::vault::server::Record;

/// The address of a vault as text (0) and the locator in an unlock slot (1).
pub fn locator(data: &[u8]) {
    let (what, rest) = choose(data);
    if what % 2 == 1 {
        return canonical(rest, Locator::decode, Locator::encode);
    }
    let Ok(text) = std::str::from_utf8(rest) else { return };
    if let Ok(address) = text.parse::<Address>() {
        let shown = address.to_string();
        assert_eq!(shown.parse().as_ref(), Ok(&address));
        assert!(shown.eq_ignore_ascii_case(text.trim()) && !address.endpoints().is_empty());
    }
}

/// What a client says to a relay (0), what that answers (1), what it says to a site
/// (2: signed by the relay; 3: as it is), the client's first record (4), the file of
/// tokens (5), an issuer's keys (6), a token that it did not sign (7).
pub fn relay(data: &[u8]) {
    let (what, rest) = choose(data);
    match what % 8 {
        0 => {
            let Some(bytes) = rest.first_chunk() else { return };
            if let Ok(token) = decode_greeting(bytes) {
                assert_eq!(encode_greeting(token).expect("it was short enough")[..], bytes[..]);
            }
        }
        1 => {
            let Some(bytes) = rest.first_chunk() else { return };
            if let Some(welcome) = decode_welcome(bytes) {
                assert_eq!(encode_welcome(welcome), *bytes);
            }
        }
        2 => {
            let Ok(account) = std::str::from_utf8(rest) else { return };
            let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
            let assertion = Assertion {
                relay: key.verifying_key().to_bytes(),
                expires: rest.len() as u64,
                id: [1; 16],
                hello: hash(rest),
                account: crate::vault::protocol::is_account(account).then(|| account.to_owned()),
            };
            let bytes = assertion.sign(&key);
            assert_eq!(Assertion::verify(&bytes, &[assertion.relay]).as_ref(), Ok(&assertion));
        }
        3 => {
            let Some(bytes) = rest.first_chunk::<ASSERTION>() else { return };
            let mut key = [0; 32];
            key.copy_from_slice(&bytes[16..48]);
            let _ = Assertion::verify(bytes, &[key]);
        }
        4 => {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let runtime = runtime.expect("a runtime starts");
            if let Ok(hello) = runtime.block_on(read_hello(&mut &rest[..])) {
                assert!(rest.starts_with(&hello));
            }
        }
        5 => {
            let Ok(text) = std::str::from_utf8(rest) else { return };
            let _ = Accounts::parse(text);
        }
        6 => {
            let Ok(text) = std::str::from_utf8(rest) else { return };
            let _ = Verifier::parse(text, terms());
        }
        _ => {
            let Ok(text) = std::str::from_utf8(rest) else { return };
            let verifier = Verifier::parse(ISSUER_KEYS, terms()).expect("a good set");
            assert_eq!(verifier.account(text), None, "nobody has that key");
        }
    }
}

/// A JWK set; its key is the one of RFC 8037, appendix A.
pub(super) const ISSUER_KEYS: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "one",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn terms() -> Terms {
    Terms { issuer: "https://id.example.org".into(), audience: "vault".into(), claim: "sub".into() }
}

/// What a fleet's root signs (0), and the signed whole (1).
pub fn manifest(data: &[u8]) {
    let (what, rest) = choose(data);
    if what % 2 == 0 {
        canonical(rest, Manifest::decode_body, Manifest::encode_body);
        return;
    }
    assert!(Manifest::verify(rest, Fingerprint([1; 32]), 0).is_err(), "nobody's fingerprint");
    if let Ok(manifest) = Manifest::own(rest) {
        let pinned = manifest.roots.fingerprint();
        assert!(Manifest::verify(rest, pinned, manifest.epoch) == Ok(manifest));
    }
}

/// What goes from site to site in a ceremony: the request (0), the parcel (1)
/// and a fingerprint that was read aloud (2).
pub fn transfer(data: &[u8]) {
    let (what, rest) = choose(data);
    match what % 3 {
        0 => canonical(rest, SiteRequest::decode, SiteRequest::encode),
        1 => canonical(rest, Parcel::decode, Parcel::encode),
        _ => {
            let Ok(text) = std::str::from_utf8(rest) else { return };
            if let Ok(aloud) = text.parse::<Aloud>() {
                assert_eq!(aloud.to_string().parse(), Ok(aloud));
            }
        }
    }
}

/// A frame of a size, with zeros behind what there is.
pub(super) fn framed(data: &[u8], size: usize) -> Vec<u8> {
    let message = &data[..data.len().min(size - 2)];
    let mut frame = (message.len() as u16).to_le_bytes().to_vec();
    frame.extend_from_slice(message);
    frame.resize(size, 0);
    frame
}

/// What a client sends to a vault.
pub fn vault_request(data: &[u8]) {
    for frame in [data, &framed(data, REQUEST_SIZE)] {
        canonical(frame, decode_request, |request| encode_request(request).to_vec());
    }
}

/// What a vault answers.
pub fn vault_reply(data: &[u8]) {
    for frame in [data, &framed(data, REPLY_SIZE)] {
        canonical(frame, decode_reply, encode_reply);
    }
}

/// A site's high-water mark: a file of these bytes (0), or a mark that was made
/// here, of 16 bytes, with one byte after them that says which of its own is
/// damaged (1).
pub fn vault_mark(data: &[u8]) {
    let mut keys = b"amberfs-vault keys\x01".to_vec();
    keys.resize(19 + 16 + 4 + 5 * 32, 1);
    let keys = FileKeys::decode(&keys).expect("any scalar but a few is a key");
    let (what, rest) = choose(data);
    let world = SimWorld::new();
    let folder = world.folder("site");
    let read = || read_mark(&*folder, &keys).ok();
    if what % 2 == 0 {
        world.put("site/mark", rest);
        assert!(read().is_none(), "nobody knows the key");
    } else if let Some((numbers, [at])) = rest.split_at_checked(16) {
        let number = |at: usize| u64::from_le_bytes(numbers[at..at + 8].try_into().expect("8"));
        let head = Head { cluster: number(0), revision: Revision(number(8)) };
        reset_mark(&*folder, &keys, head).expect("a simulated disk");
        assert!(read() == Some(head));
        let mut bytes = world.get("site/mark").expect("just made");
        let at = usize::from(*at) % bytes.len();
        bytes[at] ^= 1;
        world.put("site/mark", &bytes);
        assert!(read().is_none());
    }
}

/// What the ledger holds of a registration, once open; zeros follow it.
pub fn vault_record(data: &[u8]) {
    let mut padded = data[..data.len().min(RECORD_LIMIT)].to_vec();
    padded.resize(RECORD_LIMIT, 0);
    for bytes in [data, &padded] {
        if let Ok(record) = Record::decode(bytes) {
            let mut again = record.encode().to_vec();
            assert!(again.len() <= RECORD_LIMIT);
            let common = again.len().min(bytes.len());
            assert!(bytes[common..].iter().all(|byte| *byte == 0));
            again.truncate(common);
            assert!(again == bytes[..common]);
        }
    }
}

/// A vault's key file.
pub fn vault_keys(data: &[u8]) {
    canonical(data, FileKeys::decode, |keys| keys.encode().to_vec());
}

const BINDING: Binding = Binding { repo: REPO, registration: [2; 16], fleet: [3; 16] };

/// Seals any bytes as a payload under the export key of [`BINDING`]'s registration.
fn sealed_payload(plain: &[u8]) -> Vec<u8> {
    let key = derive(Purpose::VaultPayload, &secret(1), &[&BINDING.registration]);
    let mut sealed = plain.to_vec();
    ValueCipher::new(&key).seal(0, &BINDING.payload_aad(), &mut sealed, 0);
    sealed
}

/// What a vault hands out as a payload (0), and the plaintext of one that the owner
/// sealed (1).
pub fn vault_payload(data: &[u8]) {
    let (what, rest) = choose(data);
    if what % 2 == 0 {
        assert!(open_payload(&secret(8), &BINDING, rest).is_err(), "nobody knows the key");
        return;
    }
    let sealed = sealed_payload(rest);
    if let Ok(keys) = open_payload(&secret(1), &BINDING, &sealed) {
        assert!((1..=KEYS_LIMIT).contains(&keys.len()) && sealed.len() == PAYLOAD_SEALED);
        let keys: Vec<_> = keys.iter().map(|(check, key)| (*check, key)).collect();
        assert!(seal_payload(&secret(1), &BINDING, &keys) == Some(sealed));
    }
}

/// The note of a record as a vault hands it out (0), the marks in one that the owner
/// sealed, after 8 bytes of its number (1), and marks as they are sealed (2).
pub fn vault_note(data: &[u8]) {
    let (what, rest) = choose(data);
    let keys = NoteKeys::derive(&secret(1), &REPO, &BINDING.registration);
    match what % 3 {
        0 => {
            let Ok(bytes) = <Box<[u8; NOTE]>>::try_from(rest.to_vec().into_boxed_slice()) else {
                return;
            };
            let note = Note::from_bytes(bytes);
            assert!(Note::new(note.number(), note.sealed()) == note && note.bytes()[..] == *rest);
            // Where nobody wrote there are no marks, and nobody knows the key.
            assert!(keys.open(&note).is_err() || note == Note::default());
        }
        1 => {
            let Some((number, plain)) = rest.split_first_chunk() else { return };
            let number = u64::from_le_bytes(*number);
            let material = [&REPO[..], &BINDING.registration];
            let cipher = ValueCipher::new(&derive(Purpose::VaultNote, &secret(1), &material));
            let aad = Binding { fleet: [0; 16], ..BINDING }.client_id();
            let mut sealed = plain.to_vec();
            cipher.seal(number, &aad, &mut sealed, 0);
            let Ok(sealed) = <[u8; NOTE_TEXT]>::try_from(sealed) else { return };
            let note = Note::new(number, &sealed);
            if let Ok(marks) = keys.open(&note) {
                assert!(marks.len() <= MARKS_LIMIT && keys.seal(number, &marks) == note);
            }
        }
        _ => {
            let decode = |bytes: &[u8]| decode_marks(bytes).ok_or(());
            canonical(rest, decode, |marks| encode_marks(marks));
        }
    }
}

/// A ledger's file of at most four names. Each page of the input is 40 bytes of
/// name and revision, one that says whether the value is the last, and one that
/// says whether the page is whole (0), torn (1) or not used (2).
pub fn ledger(data: &[u8]) {
    const PAGE: usize = 4096;
    const LAST: usize = 4008;
    let (what, rest) = choose(data);
    let world = SimWorld::new();
    let folder = world.folder("vault");
    EmbeddedLedger::create(&*folder).expect("an empty folder");
    let mut file = world.get("vault/ledger").expect("just made");
    if what % 2 == 0 {
        file.extend_from_slice(rest);
    } else {
        for part in rest.chunks_exact(42).take(8) {
            let mut page = vec![0; PAGE];
            if part[41] % 3 < 2 {
                page[..40].copy_from_slice(&part[..40]);
                page[LAST] = part[40];
                let sum = hash(&page[..PAGE - 32]);
                page[PAGE - 32..].copy_from_slice(&sum);
                page[100] ^= part[41] % 3;
            }
            file.extend_from_slice(&page);
        }
    }
    world.put("vault/ledger", &file);
    let Ok(ledger) = EmbeddedLedger::open(&*folder) else { return };
    let names = ledger.list(None, usize::MAX).expect("it is open");
    let revision = |name| ledger.read(name).ok().flatten().map(|entry| entry.revision);
    let before: Vec<_> = names.iter().map(revision).collect();
    assert!(before.iter().all(Option::is_some));
    drop(ledger);
    // Mending changes nothing that is there, and once is enough.
    let mended = world.get("vault/ledger").expect("it is there");
    let Ok(ledger) = EmbeddedLedger::open(&*folder) else { panic!("it opened just now") };
    assert!(world.get("vault/ledger").expect("it is there") == mended);
    let after: Vec<_> = names
        .iter()
        .map(|name| ledger.read(name).ok().flatten().map(|entry| entry.revision))
        .collect();
    assert!(before == after);
}
