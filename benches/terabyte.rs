//! What the index of a terabyte costs: `terabyte STATE_FOLDER`.
//!
//! The commits of a folder of so many bytes are made up (ids are random, as real ones are) and
//! learned by a store, as at a mount; then chunks that are there and chunks that are not are looked
//! up. Nothing is read from objects. One line of JSON for each size.
//!
//! The mix: 96 % photos, videos and voice messages in chunks of 256 KiB on average, 3.5 % databases
//! in pages of 4 KiB, 0.5 % text in chunks of 32 KiB, and a tree node for 30 chunks or 20 files of
//! 1 MB.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use amberfs::format::clock::Writer;
use amberfs::format::commit::{Commit, NewObject};
use amberfs::format::container::Kind;
use amberfs::format::node::Id;
use amberfs::format::register::Keyring;
use amberfs::io::sim::{SimRandom, SimWorld};
use amberfs::io::{DirFolder, Random as _, SystemRandom};
use amberfs::store::{CacheSizes, Context, OBJECT_TARGET, Store};

const TERABYTE: u64 = 1_000_000_000_000;
/// Bytes of one checkpoint of a first upload.
const CHECKPOINT: u64 = 64 << 20;
const LOOKUPS: usize = 200_000;

fn main() {
    let folder = std::env::args().nth(1).expect("terabyte STATE_FOLDER");
    for part in [100, 10, 1] {
        measure(Path::new(&folder), TERABYTE / part);
    }
}

/// KiB of memory, now (`VmRSS`) or at most (`VmHWM`).
fn memory(what: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc is there");
    let line = status.lines().find(|line| line.starts_with(what)).expect("proc(5) has it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Ids in a sequence that can be drawn again.
fn ids(first: u64, count: u64) -> impl Iterator<Item = Id> {
    (first..first + count).map(|number| {
        // Threefry, Philox or any other would do: SplitMix64 (Steele et al. 2014), twice.
        let mix = |seed: u64| {
            let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)).to_le_bytes()
        };
        let mut id = [0; 16];
        id[..8].copy_from_slice(&mix(2 * number + 1));
        id[8..].copy_from_slice(&mix(2 * number + 2));
        id
    })
}

fn measure(folder: &Path, bytes: u64) {
    let chunks_in = |bytes: u64| {
        let chunks = bytes * 960 / 1000 / (256 << 10)
            + bytes * 35 / 1000 / (4 << 10)
            + bytes * 5 / 1000 / (32 << 10);
        chunks + chunks / 30 + bytes / 1_000_000 / 20
    };
    fs::create_dir_all(folder).expect("the folder can be made");
    let world = SimWorld::new();
    let before = memory("VmRSS");
    let store = Store::new(
        Arc::new(Context::new([1; 16], Keyring::random(&SystemRandom))),
        world.synced("repo"),
        Some(Arc::new(DirFolder::new(folder))),
        (world.clock(), Arc::new(SimRandom::new(1))),
        [2; 16],
        CacheSizes::default(),
    );
    let began = Instant::now();
    let (checkpoints, rows) = (bytes / CHECKPOINT, chunks_in(CHECKPOINT));
    for generation in 1..=checkpoints {
        let objects = CHECKPOINT / OBJECT_TARGET as u64;
        let first = generation * rows;
        let commit = Commit {
            objects: (0..objects)
                .map(|object| {
                    let mut hash = [0; 32];
                    SystemRandom.fill(&mut hash);
                    let each = rows / objects;
                    NewObject {
                        hash,
                        kind: Kind::Data,
                        size: OBJECT_TARGET as u64,
                        chunks: ids(first + object * each, each).collect(),
                    }
                })
                .collect(),
            ..Commit::empty([2; 16], Writer::new(1).expect("above 0"))
        };
        store.index_commit(&commit);
    }
    let learned = began.elapsed();
    let (memory_after, total) = (memory("VmRSS").saturating_sub(before), checkpoints * rows);
    let timed = |first: u64| {
        // All over it, each in another place than the one before.
        let wanted: Vec<Id> =
            (0..LOOKUPS as u64).flat_map(|at| ids(first + at * 7919 % total, 1)).collect();
        let began = Instant::now();
        let found =
            wanted.iter().filter(|id| store.is_in(id, &|_| true).expect("can be read")).count();
        (found, began.elapsed().as_secs_f64() / LOOKUPS as f64 * 1e6)
    };
    let (there, hit_us) = timed(rows);
    let (not_there, miss_us) = timed(1 << 50);
    assert!(there > LOOKUPS * 9 / 10 && not_there == 0, "{there} and {not_there} were found");
    println!(
        "{{\"bytes\": {bytes}, \"rows\": {total}, \"memory_mib\": {:.1}, \"peak_mib\": {:.1}, \
         \"learned_s\": {:.2}, \"hit_us\": {hit_us:.2}, \"miss_us\": {miss_us:.2}}}",
        memory_after as f64 / 1024.0,
        memory("VmHWM") as f64 / 1024.0,
        learned.as_secs_f64(),
    );
}
