//! The parts that most time goes through, each alone: `make bench-micro`, or with a name after
//! `cargo bench --bench micro --`.
#![allow(missing_docs, reason = "each function is named for what it measures")]

use std::ops::ControlFlow;
use std::sync::Arc;

use amberfs::crypto::{Domain, FileCipher, IdKeys, Secret};
use amberfs::format::clock::{Dot, Writer};
use amberfs::format::namespace::Key;
use amberfs::format::node::{Dotted, Id, MapItem, NO_ID, Node};
use amberfs::format::register::Keyring;
use amberfs::io::sim::{SimRandom, SimWorld};
use amberfs::io::{DirFolder, SystemRandom};
use amberfs::journal::{Journal, JournalKeys, Options};
use amberfs::store::{CacheSizes, Context, Index, Store};
use amberfs::tree::map::{Edit, edit, get, scan};
use amberfs::tree::{Keys, NewNodes, Root, Source};
use amberfs::volume::content::{Layer, Stored};
use amberfs::volume::flush::flush;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

fn secret(byte: u8) -> Secret {
    Secret::take(&mut [byte; 32])
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

const SIZES: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];

#[divan::bench(args = SIZES)]
fn seal(bencher: Bencher<'_, '_>, len: usize) {
    let (cipher, plain) = (FileCipher::new(&secret(1), vec![7; 60]), noise(len, 1));
    let mut out = Vec::new();
    bencher.counter(BytesCount::new(len)).bench_local(|| {
        out.clear();
        cipher.seal(Domain::Frame, 3, black_box(&plain), &mut out);
    });
}

#[divan::bench(args = SIZES)]
fn open(bencher: Bencher<'_, '_>, len: usize) {
    let cipher = FileCipher::new(&secret(1), vec![7; 60]);
    let mut sealed = Vec::new();
    cipher.seal(Domain::Frame, 3, &noise(len, 1), &mut sealed);
    bencher.counter(BytesCount::new(len)).bench_local(|| {
        cipher.open(Domain::Frame, 3, black_box(&sealed)).expect("was sealed just now")
    });
}

#[divan::bench(args = SIZES)]
fn chunk_id(bencher: Bencher<'_, '_>, len: usize) {
    let (keys, bytes) = (id_keys(), noise(len, 1));
    bencher.counter(BytesCount::new(len)).bench_local(|| keys.chunk_id(black_box(&bytes)));
}

fn store() -> Store {
    let world = SimWorld::new();
    Store::new(
        Arc::new(Context::new([1; 16], Keyring::random(&SystemRandom))),
        world.synced("repo"),
        None,
        (world.clock(), Arc::new(SimRandom::new(1))),
        [2; 16],
        CacheSizes::default(),
    )
}

/// A file of 8 MiB cut and staged: boundaries, ids, the content tree.
#[divan::bench(args = ["media", "text", "pages"])]
fn chunking(bencher: Bencher<'_, '_>, kind: &str) {
    const LEN: usize = 8 << 20;
    let mut bytes = noise(LEN, 2);
    match kind {
        "text" => bytes.iter_mut().for_each(|byte| *byte = b"etaoin shrdlu"[*byte as usize % 13]),
        "pages" => {
            bytes[..16].copy_from_slice(b"SQLite format 3\0");
            bytes[16..18].copy_from_slice(&4096u16.to_be_bytes());
        }
        _ => {}
    }
    let mut layer = Layer::default();
    layer.write(0, &bytes);
    bencher.counter(BytesCount::new(LEN)).with_inputs(store).bench_local_refs(|store| {
        flush(store, &Stored::default(), &layer, LEN as u64, false).expect("memory does not fail")
    });
}

fn id_keys() -> IdKeys {
    IdKeys::new(&secret(1), &secret(2), &[3; 16])
}

/// Nodes in memory, encoded as they are stored.
struct Memory(NewNodes);

impl Source for Memory {
    type Error = String;
    fn node(&self, id: &Id) -> Result<Arc<Node>, String> {
        Node::decode(&self.0[id]).map(Arc::new).map_err(|error| error.to_string())
    }
    fn misfit(&self, _: &Id) -> String {
        "misfit".into()
    }
}

fn item(number: u64, generation: u64) -> Edit {
    let key = Key::Inode(number).encode();
    let writer = Writer::new(4).expect("above 0");
    let dot = Dot { writer, record: generation + 1 };
    let value = Dotted { dot, bytes: noise(60, number) };
    (key.clone(), Some(MapItem { key: key.into(), values: vec![value] }))
}

/// A namespace of so many inodes.
fn namespace(items: u64) -> (IdKeys, Memory, Root) {
    let keys = id_keys();
    let edits: Vec<Edit> = (0..items).map(|number| item(number, 1)).collect();
    let mut nodes = NewNodes::new();
    let root = edit(Keys(&keys), &Memory(NewNodes::new()), (NO_ID, 0), &edits, &mut nodes);
    (keys, Memory(nodes), root.expect("the tree is empty"))
}

const INODES: [u64; 2] = [10_000, 100_000];

/// A hundred changes all over the tree: time a change.
#[divan::bench(args = INODES)]
fn tree_edit(bencher: Bencher<'_, '_>, items: u64) {
    let (keys, nodes, root) = namespace(items);
    let edits: Vec<Edit> = (0..100).map(|number| item(number * (items / 100), 2)).collect();
    bencher.counter(ItemsCount::new(edits.len())).bench_local(|| {
        edit(Keys(&keys), &nodes, root, &edits, &mut NewNodes::new()).expect("nodes are there")
    });
}

#[divan::bench(args = INODES)]
fn tree_get(bencher: Bencher<'_, '_>, items: u64) {
    let (_, nodes, root) = namespace(items);
    let mut number = 0;
    bencher.bench_local(|| {
        number = (number + 7919) % items;
        get(&nodes, root, &Key::Inode(number).encode(), MapItem::clone)
            .expect("nodes are there")
            .expect("is there")
    });
}

/// A thousand items in order, as a listing reads them.
#[divan::bench(args = INODES)]
fn tree_range(bencher: Bencher<'_, '_>, items: u64) {
    const WANTED: usize = 1000;
    let (_, nodes, root) = namespace(items);
    let from = Key::Inode(items / 2).encode();
    bencher.counter(ItemsCount::new(WANTED)).bench_local(|| {
        let mut found = 0;
        scan(&nodes, root, &from, &mut |_| {
            found += 1;
            if found == WANTED { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .expect("nodes are there");
        assert_eq!(found, WANTED);
    });
}

fn journal(folder: &std::path::Path) -> Journal {
    let keys = JournalKeys {
        repo: [1; 16],
        device: [2; 16],
        epoch: [3; 16],
        epochs: vec![([3; 16], secret(3))],
    };
    let folder = Arc::new(DirFolder::new(folder));
    Journal::open(folder, keys, 0, Arc::new(SystemRandom), Options::default()).expect("opens").0
}

/// Appended to the buffer; sealed and written each 4 MiB, and released.
#[divan::bench(args = SIZES)]
fn journal_append(bencher: Bencher<'_, '_>, len: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let (journal, record) = (journal(folder.path()), noise(len, 3));
    let mut since = 0;
    bencher.counter(BytesCount::new(len)).bench_local(|| {
        let last = journal.append(black_box(&record)).expect("there is space");
        since += len;
        if since >= 4 << 20 {
            since = 0;
            journal.write_out().expect("writes");
            let contained = journal.rotate().expect("rotates");
            assert_eq!(contained, last);
            journal.release(contained).expect("releases");
        }
    });
}

#[divan::bench]
fn journal_append_and_sync(bencher: Bencher<'_, '_>) {
    let folder = tempfile::tempdir().expect("a folder");
    let (journal, record) = (journal(folder.path()), noise(4096, 3));
    bencher.bench_local(|| {
        let last = journal.append(black_box(&record)).expect("there is space");
        journal.sync(last).expect("syncs");
        if last.is_multiple_of(2000) {
            journal.release(journal.rotate().expect("rotates")).expect("releases");
        }
    });
}

const CHUNKS: [u32; 2] = [100_000, 1_000_000];

fn id(number: u32) -> Id {
    noise(16, u64::from(number)).try_into().expect("sixteen bytes")
}

#[divan::bench(args = CHUNKS)]
fn index_lookup(bencher: Bencher<'_, '_>, chunks: u32) {
    let index = Index::new(None);
    let ids: Vec<Id> = (0..chunks).map(id).collect();
    for (number, id) in ids.iter().enumerate() {
        index.insert([*id], number as u32 / 300);
    }
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 7919) % ids.len();
        assert!(index.contains(black_box(&ids[at])).expect("is in memory"), "was inserted");
    });
}
