//! The corpus: real values of every kind, and inputs that once broke a decoder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::vault::{ISSUER_KEYS, framed};
use super::*;
use crate::crypto::{hash, hex};
use crate::daemon::{receive, send};
use crate::format::clock::Dot;
use crate::format::container::ChunkPlace;
use crate::format::namespace::{Content, ContentClass, Inode, Owner, Recipe, Xattr, XattrState};
use crate::format::node::{self, Dotted, MapItem, NO_ID, Run};
use crate::format::record::Change;
use crate::format::register::{Features, Slot, key_check_slot};
use crate::format::versions::{History, Versions};
use crate::io::{Exit, Random, Timestamp};
use crate::vault::hsm::FileKeys;
use crate::vault::hsm::transfer::{Aloud, Parcel, RsaPublic, SiteRequest, WrappedKeys};
use crate::vault::ledger::{Lineage, Revision};
use crate::vault::protocol::{
    Address, AkeKey, Argon2Cost, Bind, Binding, Ended, EventKind, Events, Fingerprint, Locator,
    Manifest, NOTE, NOTE_TEXT, Note, NoteKeys, PAYLOAD_SEALED, Protection, REPLY_SIZE,
    REQUEST_SIZE, Refusal, Reply, Request, Retirement, Right, Roots, SiteKey, Standing, Tries,
    decode_marks, decode_reply, decode_request, encode_marks, encode_reply, encode_request,
    seal_payload, sign_manifest,
};
use crate::vault::server::{Material, Pending, Record, Served, State as Stands};

/// Set to any value, the test below writes the seeds instead of comparing them.
const WRITE: &str = "AMBERFS_WRITE_SEEDS";
const TIME: Timestamp = Timestamp { secs: -5, nanos: 999_999_999 };

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn chosen(what: u8, bytes: &[u8]) -> Vec<u8> {
    [&[what], bytes].concat()
}

fn slots() -> Vec<Slot> {
    let locator = Slot { kind: 2, bytes: a_locator().encode() };
    vec![key_check_slot(&secret(1), &REPO), locator, Slot { kind: 77, bytes: b"later".to_vec() }]
}

fn a_register() -> Register {
    let stamp = Stamp { counter: 3, device: DEVICE };
    let random = SimRandom::new(5);
    Register::seal(&secret(1), &REPO, stamp, slots(), &context().keyring, &random)
}

/// The plaintext that [`Register::seal`] seals.
fn a_keyring() -> Vec<u8> {
    let register = a_register();
    let aad = [&REPO[..], &VERSION.to_le_bytes()].concat();
    let key = derive(Purpose::KeyringSeal, &secret(1), &[&REPO, &register.salt]);
    ValueCipher::new(&key).open(0, &aad, &register.sealed).unwrap()
}

fn a_directory() -> Directory {
    let frame = |codec, stored, plain| Frame { codec, class: Class::Pages, stored, plain };
    Directory {
        frames: vec![
            frame(Codec::Zstd, 500, 8192),
            frame(Codec::Raw, 900, 900),
            frame(Codec::Padding, 70_000, 70_000),
        ],
        chunks: vec![
            ChunkPlace { id: [1; 16], frame: 0, offset: 4096, len: 4096 },
            ChunkPlace { id: [2; 16], frame: 1, offset: 0, len: 900 },
        ],
        extra: b"more".to_vec(),
    }
}

fn inodes() -> Vec<Inode> {
    let plain = Inode::new(0o100_644, Owner::SelfOwned, Owner::Id(7), TIME);
    let small = Inode { size: 6, inline: b"hello\n".to_vec(), ..plain.clone() };
    let full = Inode {
        atime: Some(TIME),
        flags: 3,
        project: 9,
        class: ContentClass::Pages(4096),
        size: 1 << 40,
        content: Content::Tree([7; 16], 2),
        unknown: vec![(40, b"later".to_vec())],
        ..plain.clone()
    };
    let chunk = Inode {
        class: ContentClass::Compressible,
        size: 900,
        content: Content::Chunk([6; 16]),
        ..plain.clone()
    };
    let device = Inode { mode: 0o060_600, rdev: 0x801, ..plain.clone() };
    let link = Inode { mode: 0o120_777, size: 1, inline: b"x".to_vec(), ..plain.clone() };
    let sparse = Inode { unknown: Vec::new(), holes: (1 << 40) - 4096, ..full.clone() };
    let history = History {
        content: versions(),
        attributes: versions(),
        over: vec![(9, versions()), (10, Versions::default())],
        main: Some((11, dot(4))),
    };
    let replaced = Inode { history: Box::new(history), ..small.clone() };
    vec![plain, small, full, chunk, device, link, sparse, replaced]
}

fn dot(record: u64) -> Dot {
    Dot { writer: super::writer(), record }
}

fn versions() -> Versions {
    Versions::replacing(&[(dot(1), &Versions::default().kept(dot(9)))], dot(3))
}

fn recipe() -> Recipe {
    Recipe {
        form: 1,
        origin: dot(3),
        size: 1 << 30,
        hash: [7; 32],
        name: b"msgstore.db.crypt15".to_vec(),
        len: 312,
        content: Content::Chunk([6; 16]),
    }
}

fn xattrs() -> Vec<Xattr> {
    [
        XattrState::Removed,
        XattrState::Inline(b"value".to_vec()),
        XattrState::Stored(5000, Content::Chunk([6; 16])),
    ]
    .map(|state| Xattr { versions: versions(), state })
    .to_vec()
}

fn changes() -> Vec<Change<'static>> {
    vec![
        Change::Set(Key::Inode(5), Value::Inode(Box::new(inodes()[1].clone()))),
        Change::Set(Key::Entry(1, 77, b"name".to_vec()), Value::Entry(5, 0o100_000)),
        Change::Set(Key::Back(5, 1, b"name".to_vec()), Value::Back),
        Change::Set(Key::Xattr(5, b"user.a".to_vec()), Value::Xattr(Xattr::new(b"b".to_vec()))),
        Change::Remove(Key::Entry(1, 77, b"name".to_vec())),
        Change::Write { ino: 5, offset: 9, bytes: b"bytes"[..].into(), time: TIME },
        Change::Resize { ino: 5, size: 1 << 40, time: TIME },
        Change::Zero { ino: 5, from: 3, to: 4, time: TIME },
        Change::Stored {
            ino: 5,
            offset: 7,
            pieces: vec![crate::format::record::Piece { id: [1; 16], from: 2, len: 9 }],
            time: TIME,
        },
    ]
}

fn an_address() -> Address {
    let hosts = vec!["server.home:7450".into(), "[::1]:80".into()];
    Address::new(hosts, Fingerprint([7; 32])).unwrap()
}

fn a_locator() -> Locator {
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
fn a_manifest() -> (Manifest, Vec<u8>) {
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
fn a_transfer() -> (SiteRequest, Parcel) {
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

fn requests() -> Vec<Request> {
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

fn a_note() -> Note {
    Note::new(3, &[9; NOTE_TEXT])
}

fn some_events() -> Events {
    let mut events = Events::default();
    events.note(EventKind::Activated, 1);
    events.note(EventKind::Failed, 2);
    events
}

fn replies() -> Vec<Reply> {
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
    let stands = [
        Standing::Registering,
        Standing::Active { tries, bound: true },
        Standing::Closed { left: 9 },
        Standing::Ended(Ended::Exhausted),
    ];
    all.extend(stands.map(Reply::Standing));
    let refusals = [
        Refusal::UnknownTicket,
        Refusal::TooEarly(tries),
        Refusal::Standing(stands[2]),
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
fn message(frame: &[u8]) -> Vec<u8> {
    let len = usize::from(u16::from_le_bytes([frame[0], frame[1]]));
    frame[2..2 + len].to_vec()
}

fn records() -> Vec<Record> {
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

fn without_zeros(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    bytes[..end].to_vec()
}

/// A root folder with a file of a content tree, one of a chunk, a small one and
/// a folder, and the content tree.
fn a_repository() -> Vec<u8> {
    let dot = Dot { writer: super::writer(), record: 1 };
    let mut items = BTreeMap::new();
    let mut set = |key: Key, value: Value| {
        items.insert(key.encode(), vec![Dotted { dot, bytes: value.encode() }]);
    };
    let mut name = |dir: u64, name: &[u8], ino: u64, inode: Inode| {
        let hash = context().ids.name_hash(name);
        set(Key::Entry(dir, hash, name.to_vec()), Value::Entry(ino, inode.kind()));
        set(Key::Back(ino, dir, name.to_vec()), Value::Back);
        set(Key::Inode(ino), Value::Inode(Box::new(inode)));
    };
    let file = Inode::new(0o100_644, Owner::SelfOwned, Owner::Id(7), TIME);
    let folder = Inode { mode: 0o040_755, ..file.clone() };
    let tree = Inode { size: 9000, content: Content::Tree(CONTENT, 0), ..file.clone() };
    let chunk = Inode { size: 2000, content: Content::Chunk(CHUNK), ..file.clone() };
    name(ROOT, b"folder", 2, folder.clone());
    name(ROOT, b"tree", 3, tree);
    name(2, b"chunk", 4, chunk);
    name(2, b"small", 5, inodes()[1].clone());
    name(2, b"link", 6, inodes()[5].clone());
    set(Key::Inode(ROOT), Value::Inode(Box::new(folder)));
    set(Key::Xattr(3, b"user.a".to_vec()), Value::Xattr(Xattr::new(b"b".to_vec())));
    let items =
        items.into_iter().map(|(key, values)| MapItem { key: key.into(), values }).collect();
    let root = Node::MapLeaf(items).encode();
    let runs = vec![
        Run { id: CHUNK, len: 900, count: 3 },
        Run { id: NO_ID, len: 4000, count: 1 },
        Run { id: CHUNK, len: 900, count: 1 },
    ];
    [&[0][..], &(root.len() as u16).to_le_bytes(), &root, &Node::ContentLeaf(runs).encode()]
        .concat()
}

/// A mode, then a list: none, one that a mode says too, one that says more.
fn access_lists() -> Vec<Vec<u8>> {
    let list = |entries: &[(u16, u16, u32)]| {
        let mut bytes = [&0o100_640u16.to_le_bytes()[..], &2u32.to_le_bytes()].concat();
        for (tag, perm, id) in entries {
            bytes.extend([tag.to_le_bytes(), perm.to_le_bytes()].concat());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    };
    let none = u32::MAX;
    let plain = [(1, 6, none), (4, 4, none), (32, 0, none)];
    let more = [(1, 7, none), (2, 6, 1000), (4, 5, none), (8, 4, 50), (16, 6, none), (32, 4, none)];
    vec![list(&[]), list(&plain), list(&more)]
}

/// Bytes of one or more values, by target.
fn relay_seeds() -> Vec<Vec<u8>> {
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
fn a_payload() -> (Vec<u8>, Vec<u8>) {
    let binding = Binding { repo: REPO, registration: [2; 16], fleet: [3; 16] };
    let sealed = seal_payload(&secret(1), &binding, &[([1; 16], &secret(2))]).unwrap();
    let cipher =
        ValueCipher::new(&derive(Purpose::VaultPayload, &secret(1), &[&binding.registration]));
    let plain = cipher.open(0, &binding.payload_aad(), &sealed).unwrap();
    (sealed, plain)
}

fn note_seeds() -> Vec<Vec<u8>> {
    let marks = [([1; 16], 7), ([2; 16], 300)];
    let note = NoteKeys::derive(&secret(9), &REPO, &[2; 16]).seal(5, &marks);
    let marks = encode_marks(&marks);
    let numbered = [&5_u64.to_le_bytes()[..], &marks].concat();
    vec![chosen(0, note.bytes()), chosen(0, &[0; NOTE]), chosen(1, &numbered), chosen(2, &marks)]
}

/// What the two processes of a mount say to each other.
fn launch_seeds() -> Vec<Vec<u8>> {
    let said = |messages: &[(u8, &[u8])]| {
        let mut pipe = Vec::new();
        for (kind, body) in messages {
            send(&mut pipe, *kind, body).unwrap();
        }
        pipe
    };
    vec![
        said(&[(3, &[7; 32]), (3, &encode_marks(&[([1; 16], 7)]))]),
        said(&[(3, b"swap is not encrypted"), (1, b"")]),
        said(&[(2, b"\x0cWrong password.")]),
        said(&[(2, b"\0no failure")]),
    ]
}

fn seeds() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    let (sealed, payload) = a_payload();
    let features = Features::default();
    let header = Header { features, repo: REPO, register: a_register() }.encode();
    let register = a_register();
    let extension = HeadExtension { features, repo: REPO, device: DEVICE, generation: 7, register };
    let prefix =
        Prefix { kind: Kind::Head, epoch: [0x55; 16], salt: [9; 32], extension: Vec::new() };
    let place = Place { offset: 65_297, len: 239 };
    let packed = zstd::bulk::compress(&[5; 2000], 1).unwrap();
    let framed = |codec: u8, plain: u32, stored: &[u8]| {
        [&[codec], &plain.to_le_bytes()[..3], stored].concat()
    };
    let names = [
        Name::Header(REPO),
        Name::Head { device: DEVICE, generation: 258, hash: [2; 32] },
        Name::Object { device: DEVICE, hash: [3; 32] },
    ]
    .map(|name| name.path().rsplit('/').next().unwrap().to_string());
    let rows = format::ledger::samples();
    let mut device_ledger: Vec<Vec<u8>> = rows.iter().map(|(key, _)| chosen(0, key)).collect();
    device_ledger.extend([chosen(1, &rows[0].1), chosen(2, &rows[1].1)]);
    let mut namespace = vec![
        chosen(0, &Key::Inode(5).encode()),
        chosen(0, &Key::Writer(super::writer()).encode()),
        chosen(0, &Key::Xattr(5, b"user.a".to_vec()).encode()),
        chosen(0, &Key::Back(5, 1, b"name".to_vec()).encode()),
        chosen(0, &Key::Entry(1, 77, b"name".to_vec()).encode()),
        chosen(0, &Key::Opaque(1, 77, b"later".to_vec()).encode()),
        chosen(2, &Value::Writer(DEVICE, "laptop".into()).encode()),
        chosen(3, &Value::Xattr(Xattr::new(b"value".to_vec())).encode()),
        chosen(5, &Value::Entry(5, 0o100_000).encode()),
    ];
    namespace.push(chosen(6, &Value::Recipe(Box::new(recipe())).encode()));
    namespace.extend(xattrs().into_iter().map(|xattr| chosen(3, &Value::Xattr(xattr).encode())));
    namespace.extend(
        inodes().into_iter().map(|inode| chosen(1, &Value::Inode(Box::new(inode)).encode())),
    );
    let mut state = State {
        repo: REPO,
        device: DEVICE,
        name: "laptop".into(),
        place: [3; 32],
        generation: 4,
        news: 3,
        head: [5; 32],
        journal: 6,
        base: [7; 32],
        seen: [(DEVICE, 4), ([0x23; 16], 9)].into_iter().collect(),
    }
    .encode();
    state.truncate(state.len() - 32);
    let key = format_key(&secret(0x5a)).to_string();
    let (manifest, signed) = a_manifest();
    let (asks, parcel) = a_transfer();
    let keys = FileKeys::create(&SimRandom::new(9)).ok().unwrap().encode();
    let page = |name: u8, revision: u8, last: u8, whole: u8| {
        [&[name; 32][..], &[revision, 0, 0, 0, 0, 0, 0, 0], &[last, whole]].concat()
    };
    let ledgers = [
        [page(1, 1, 0, 0), page(1, 2, 0, 0), page(2, 3, 1, 0), page(2, 3, 1, 0)].concat(),
        [page(1, 1, 0, 0), page(1, 2, 1, 1), page(2, 3, 0, 0), page(0, 0, 0, 2)].concat(),
    ];
    let failure = control::Failure { code: Exit::Unusable, text: "no".into() };
    let described =
        control::Described { pid: 7, mountpoint: "/m".into(), repo: "/home/a/r".into() };
    let control = [
        chosen(0, &control::Request::Unmount.encode()),
        chosen(0, &control::Request::Call(b"ls".to_vec()).encode()),
        chosen(0, &control::Request::Input(vec![0; 30]).encode()),
        chosen(1, &control::Reply::Described(described).encode()),
        chosen(1, &control::Reply::Data(vec![1, 2, 3]).encode()),
        chosen(1, &control::Reply::Busy("in use".into()).encode()),
        chosen(1, &control::Reply::Failed(failure).encode()),
    ];
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    BTreeMap::from([
        ("acl", access_lists()),
        ("commit", vec![commit::sample().encode()]),
        (
            "container",
            vec![
                chosen(0, &prefix.encode()),
                chosen(1, &place.encode()),
                chosen(2, &a_directory().encode()),
            ],
        ),
        ("control", control.to_vec()),
        (
            "frame",
            vec![framed(0, 3, b"raw bytes"), framed(1, 2000, &packed), framed(2, 0, &[0; 9])],
        ),
        ("header", vec![chosen(0, &header[..header.len() - 32]), chosen(1, &extension.encode())]),
        (
            "helper_options",
            texts(&[
                "/repo\0/mnt\0-o\0rw,noauto,x-gvfs-show,setuid=anna,checkpoint=\"30s,10m\"",
                "-snv\0repo\0my chats\0-o\0key_file=/k,ro,--state=/x\0-t\0amberfs\0-f",
            ]),
        ),
        ("journal", vec![chosen(2, &[]), chosen(2, &[0x20, 0x10, 1, 0, 0x11, 0x80])]),
        ("key_text", texts(&[&key, &key.to_uppercase().replace([' ', '\n'], "-")])),
        ("keyring", vec![a_keyring()]),
        ("launch", launch_seeds()),
        ("ledger", ledgers.iter().map(|pages| chosen(1, pages)).collect()),
        (
            "locator",
            vec![chosen(0, an_address().to_string().as_bytes()), chosen(1, &a_locator().encode())],
        ),
        ("relay", relay_seeds()),
        ("manifest", vec![chosen(0, &manifest.encode_body()), chosen(1, &signed)]),
        (
            "mount_options",
            texts(&["allow_other,checkpoint=5s,2m,cache=128M,uid=7", "ro\ndevice=a,gid=1"]),
        ),
        (
            "mountinfo",
            texts(&[
                "27 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n42 27 0:39 / /home/a/my\\040chats rw \
                 - fuse.amberfs /home/a/r rw,user_id=0\nshort line\n",
                "43 42 0:40 / /\\134 rw master:1 shared:2 - tmpfs no\\011ne rw",
            ]),
        ),
        ("name", texts(&[&names[0], &names[1], &names[2], &names[1].replace(".amb", " (1).amb")])),
        ("device_ledger", device_ledger),
        ("namespace", namespace),
        ("node", node::samples().iter().map(Node::encode).collect()),
        ("password", texts(&["correct horse battery staple\n", "caf\u{e9}\u{a0}x\u{378}"])),
        (
            "record",
            vec![record::encode(Dot { writer: super::writer(), record: 300 }, &changes()).0],
        ),
        ("register", vec![a_register().encode()]),
        ("repository", vec![a_repository()]),
        ("state", vec![state]),
        (
            "transfer",
            vec![
                chosen(0, &asks.encode()),
                chosen(1, &parcel.encode()),
                chosen(2, parcel.keys.to_string().as_bytes()),
            ],
        ),
        ("vault_keys", vec![keys.to_vec()]),
        ("vault_mark", vec![chosen(0, b"amberfs-vault mark 1\0\0\0\0"), chosen(1, &[7; 17])]),
        ("vault_note", note_seeds()),
        ("vault_payload", vec![chosen(0, &sealed), chosen(1, &payload)]),
        ("vault_record", records().iter().map(|record| without_zeros(&record.encode())).collect()),
        ("vault_reply", replies().iter().map(|reply| message(&encode_reply(reply))).collect()),
        (
            "vault_request",
            requests().iter().map(|request| message(&encode_request(request))).collect(),
        ),
    ])
}

/// A seed that differs means that the encoding of a value changed: people have
/// such bytes.
#[test]
fn values_encode_to_the_bytes_of_the_corpus() {
    let write = std::env::var_os(WRITE).is_some();
    let seeds = seeds();
    assert!(seeds.keys().eq(TARGETS.iter().map(|(name, _)| name)));
    for (target, inputs) in seeds {
        let folder = corpus().join(target);
        for (number, bytes) in inputs.into_iter().enumerate() {
            let path = folder.join(format!("seed-{number}"));
            if write {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &bytes).unwrap();
            }
            let found = std::fs::read(&path).unwrap_or_default();
            assert!(found == bytes, "{}: {}", path.display(), hex(&bytes));
        }
    }
}

/// People have records, and folders that name them: the bytes of the vault's protocol
/// (version 2), of its records and manifests (2), of locators (2) and of what relays say (1)
/// are settled. Whoever changes one makes a new version beside the old.
#[test]
fn what_vaults_exchange_and_keep_is_settled() {
    let settled = [
        ("locator", "f2b5c75aea4cd60d5ed1af4b71efdf05"),
        ("manifest", "6ca93016fa8935454f7baec993effeed"),
        ("relay", "80e6f769669533c5bd25209fdf6b1c52"),
        ("vault_note", "75e09d696bdcd9118650a5b38cbb181b"),
        ("vault_payload", "ab41e4ef6c2ee56b3cf2459d3f5b59a5"),
        ("vault_record", "cb7765964cffeaba39c56a6dc8210a66"),
        ("vault_reply", "658ebb4b2794786f27cd276a727db653"),
        ("vault_request", "ef626d3ed98a262d655649da0e9ea2ac"),
    ];
    let seeds = seeds();
    let found = settled.map(|(target, _)| {
        let all: Vec<u8> = seeds[target].iter().flat_map(|bytes| hash(bytes)).collect();
        (target, hex(&hash(&all)[..16]))
    });
    assert_eq!(found, settled.map(|(target, digits)| (target, digits.to_owned())));
}

/// Seeds, what fuzzing found, and each cut off at every place.
#[test]
fn the_corpus_passes() {
    for (name, target) in TARGETS {
        let mut count = 0;
        for entry in std::fs::read_dir(corpus().join(name)).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            target(&bytes);
            let step = if name == "password" { 7 } else { bytes.len() / 300 + 1 };
            (0..bytes.len()).step_by(step).for_each(|cut| target(&bytes[..cut]));
            count += 1;
        }
        assert!(count > 0, "{name}");
    }
}

/// What the corpus is not: a byte of it changed, one more, one less.
#[test]
fn the_corpus_passes_with_mistakes_in_it() {
    const MISTAKES: u64 = 60;
    let random = SimRandom::new(7);
    let number = |below: usize| {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % below.max(1) as u64) as usize
    };
    // Estimating a password takes its time.
    let seeds = seeds();
    for (name, target) in TARGETS.into_iter().filter(|(name, _)| *name != "password") {
        for bytes in &seeds[name] {
            for _ in 0..MISTAKES {
                let mut bytes = bytes.clone();
                for _ in 0..=number(3) {
                    let at = number(bytes.len());
                    match number(3) {
                        0 if !bytes.is_empty() => bytes[at] = number(256) as u8,
                        1 if !bytes.is_empty() => drop(bytes.remove(at)),
                        _ => bytes.insert(at, number(256) as u8),
                    }
                }
                target(&bytes);
            }
        }
    }
}

/// cargo-fuzz runs what is written down for it, and nothing else.
#[test]
fn every_target_can_be_run_by_cargo_fuzz() {
    let folder = corpus().join("..");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let target = std::fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs")));
        assert!(target.unwrap().contains(&format!("amberfs::fuzzing::{name}(data)")), "{name}");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}

#[test]
fn a_journal_that_nobody_touched_has_all_records() {
    let (path, file) = journal_file();
    let world = SimWorld::new();
    world.folder("state");
    world.put(path, file);
    let (_, replay) = open_journal(&world, 2).unwrap();
    assert_eq!(replay.records.len(), RECORDS.len());
}

/// Seeds are of use only if the decoders take them.
#[test]
fn seeds_are_taken() {
    let seeds = seeds();
    let taken = |target: &str, take: &dyn Fn(&[u8]) -> bool| {
        seeds[target].iter().for_each(|bytes| assert!(take(bytes), "{target}: {}", hex(bytes)));
    };
    taken("repository", &|bytes| walked(bytes) == 5);
    taken("acl", &|bytes| crate::fuse::acl::Acl::parse(&bytes[2..]).is_ok());
    taken("mountinfo", &|bytes| !control::parse_mountinfo(bytes).is_empty());
    taken("transfer", &|bytes| match bytes[0] {
        0 => SiteRequest::decode(&bytes[1..]).is_ok(),
        1 => Parcel::decode(&bytes[1..]).is_ok(),
        _ => std::str::from_utf8(&bytes[1..]).is_ok_and(|text| text.parse::<Aloud>().is_ok()),
    });
    taken("commit", &|bytes| Commit::decode(bytes).is_ok());
    taken("node", &|bytes| Node::decode(bytes).is_ok());
    taken("record", &|bytes| record::decode(bytes).is_ok());
    taken("register", &|bytes| Register::decode(bytes).is_ok());
    taken("state", &|bytes| State::decode(&summed(bytes)).is_ok());
    taken("vault_reply", &|bytes| decode_reply(&framed(bytes, REPLY_SIZE)).is_ok());
    taken("vault_request", &|bytes| decode_request(&framed(bytes, REQUEST_SIZE)).is_ok());
    taken("vault_keys", &|bytes| FileKeys::decode(bytes).is_ok());
    taken("vault_note", &|bytes| bytes[0] != 2 || decode_marks(&bytes[1..]).is_some());
    taken("launch", &|bytes| receive(&mut &*bytes).is_ok());
    taken("key_text", &|bytes| parse_key(std::str::from_utf8(bytes).unwrap()).is_ok());
    taken("device_ledger", &|bytes| match bytes[0] {
        0 => format::ledger::Key::decode(&bytes[1..]).is_ok(),
        1 => format::ledger::Container::decode(&bytes[1..]).is_ok(),
        _ => format::ledger::Kept::decode(&bytes[1..]).is_ok(),
    });
    taken("namespace", &|bytes| match bytes[0] {
        0 => Key::decode(&bytes[1..]).is_ok(),
        1 => Value::decode(&Key::Inode(1), &bytes[1..]).is_ok(),
        _ => true,
    });
}
