//! Real values of every kind that a repository, local state and a mount have, and the seeds of
//! the corpus that are made from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::seeds_vault::*;
use super::*;
use crate::daemon::{Call, NewRetention, send};
use crate::format::clock::Dot;
use crate::format::container::ChunkPlace;
use crate::format::namespace::{
    Content, ContentClass, Inode, Owner, Xattr, XattrState, recipe_sample,
};
use crate::format::node::{self, Dotted, MapItem, NO_ID, Run};
use crate::format::record::Change;
use crate::format::register::{Features, Slot, key_check_slot};
use crate::format::setting::Retention;
use crate::format::versions::{History, Versions};
use crate::io::{Exit, Timestamp};
use crate::vault::hsm::FileKeys;
use crate::vault::protocol::{encode_marks, encode_reply, encode_request};

pub(super) const TIME: Timestamp = Timestamp { secs: -5, nanos: 999_999_999 };

pub(super) fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

pub(super) fn chosen(what: u8, bytes: &[u8]) -> Vec<u8> {
    [&[what], bytes].concat()
}

pub(super) fn slots() -> Vec<Slot> {
    let locator = Slot { kind: 2, bytes: a_locator().encode() };
    vec![key_check_slot(&secret(1), &REPO), locator, Slot { kind: 77, bytes: b"later".to_vec() }]
}

pub(super) fn a_register() -> Register {
    let stamp = Stamp { counter: 3, device: DEVICE };
    let random = SimRandom::new(5);
    Register::seal(&secret(1), &REPO, stamp, slots(), &context().keyring, &random)
}

/// The plaintext that [`Register::seal`] seals.
pub(super) fn a_keyring() -> Vec<u8> {
    let register = a_register();
    let aad = [&REPO[..], &VERSION.to_le_bytes()].concat();
    let key = derive(Purpose::KeyringSeal, &secret(1), &[&REPO, &register.salt]);
    ValueCipher::new(&key).open(0, &aad, &register.sealed).unwrap()
}

pub(super) fn a_directory() -> Directory {
    let frame =
        |codec, stored, plain| Frame { codec, class: Class::Pages, stored, plain, phase: 0 };
    Directory {
        frames: vec![
            frame(Codec::Zstd, 500, 8192),
            Frame { phase: 300, ..frame(Codec::Raw, 900, 900) },
            frame(Codec::Padding, 70_000, 70_000),
        ],
        chunks: vec![
            ChunkPlace { id: [1; 16], frame: 0, offset: 4096, len: 4096 },
            ChunkPlace { id: [2; 16], frame: 1, offset: 0, len: 900 },
        ],
        extra: b"more".to_vec(),
    }
}

/// What an index run has beside its frames.
fn an_index_run() -> Vec<u8> {
    let object = |kind, chunks| NewObject { hash: [3; 32], kind, size: 16 << 20, chunks };
    let objects = [object(Kind::Data, vec![[1; 16], [2; 16]]), object(Kind::Metadata, Vec::new())];
    let mut out = Encoder::new();
    NewObject::encode_all(&objects, &mut out);
    out.finish()
}

pub(super) fn inodes() -> Vec<Inode> {
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

pub(super) fn dot(record: u64) -> Dot {
    Dot { writer: super::writer(), record }
}

pub(super) fn versions() -> Versions {
    Versions::replacing(&[(dot(1), &Versions::default().kept(dot(9)))], dot(3))
}

pub(super) fn xattrs() -> Vec<Xattr> {
    [
        XattrState::Removed,
        XattrState::Inline(b"value".to_vec()),
        XattrState::Stored(5000, Content::Chunk([6; 16])),
    ]
    .map(|state| Xattr { versions: versions(), state })
    .to_vec()
}

pub(super) fn changes() -> Vec<Change<'static>> {
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

/// A root folder with a file of a content tree, one of a chunk, a small one and
/// a folder, and the content tree.
pub(super) fn a_repository() -> Vec<u8> {
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
pub(super) fn access_lists() -> Vec<Vec<u8>> {
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

/// What the two processes of a mount say to each other.
pub(super) fn launch_seeds() -> Vec<Vec<u8>> {
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

pub(super) fn seeds() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    let (sealed, payload) = a_payload();
    let features = Features::default();
    let header = Header { features, repo: REPO, register: a_register() }.encode();
    let register = a_register();
    let extension = HeadExtension { features, repo: REPO, device: DEVICE, generation: 7, register };
    let prefix =
        Prefix { kind: Kind::Head, epoch: [0x55; 16], salt: [9; 32], extension: Vec::new() };
    let place = DirectoryPlace { offset: 65_297, len: 239 };
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
    device_ledger.push(chosen(3, &Retention::new(24, 31, 120).encode_fields()));
    let mut namespace = vec![
        chosen(0, &Key::Inode(5).encode()),
        chosen(0, &Key::Writer(super::writer()).encode()),
        chosen(0, &Key::Xattr(5, b"user.a".to_vec()).encode()),
        chosen(0, &Key::Back(5, 1, b"name".to_vec()).encode()),
        chosen(0, &Key::Entry(1, 77, b"name".to_vec()).encode()),
        chosen(0, &Key::Unsettled(5, None).encode()),
        chosen(0, &Key::Unsettled(1, Some(77)).encode()),
        chosen(0, &Key::Opaque(1, 77, b"later".to_vec()).encode()),
        chosen(2, &Value::Writer(DEVICE, "laptop".into()).encode()),
        chosen(3, &Value::Xattr(Xattr::new(b"value".to_vec())).encode()),
        chosen(5, &Value::Entry(5, 0o100_000).encode()),
    ];
    namespace.push(chosen(6, &Value::Recipe(Box::new(recipe_sample(dot(3)))).encode()));
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
        base: vec![[7; 32]],
        seen: [(DEVICE, 4), ([0x23; 16], 9)].into_iter().collect(),
        journal_of: DEVICE,
        retires: vec![[0x24; 16]],
        steps: crate::volume::DaySteps::default(),
        entered: vec![(3, 5)],
        swept: 5,
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
        chosen(2, &Call::Keep("before the trip".into()).encode()),
        chosen(
            2,
            &Call::Retention(NewRetention { days: Some(7), ..NewRetention::default() }).encode(),
        ),
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
                chosen(3, &an_index_run()),
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
