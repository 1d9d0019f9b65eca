//! Checkpoints of which a part failed to enter REPO.

use super::chunker::{Chunking, chunk_region};
use super::content::{Layer, Stored, read};
use super::flush::flush;
use super::repository::{Repository, init};
use super::spans::{Span, Stretch, align_holes, spans};
use super::state::State;
use super::tests_damage::{key, open, open_beside, open_unresolved, publish, repository};
use super::*;
use crate::crypto::hex;
use crate::format::commit::{Commit, NewObject};
use crate::format::container::{Class, Kind};
use crate::format::namespace::{Content, ContentClass, Ino, Inode, Owner, Xattr};
use crate::format::node::Id;
use crate::format::wire::Encoder;
use crate::io::sim::{Fault, SimRandom, SimWorld};
use crate::io::{SyncedFolder, Timestamp};
use crate::store::{CacheSizes, Context, Writer};
use crate::sync::OpenOptions;
use crate::tree::content::range;

const FILE: Ino = 77;

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Cuts `bytes` into the store; the edit that makes them the content of `FILE`.
fn file(volume: &Volume, bytes: &[u8]) -> (Vec<u8>, Option<Value>) {
    let mut layer = Layer::default();
    layer.write(0, bytes);
    let flushed =
        flush(&volume.store, &Stored::default(), &layer, bytes.len() as u64, false).unwrap();
    let mut inode = Inode::new(0o100_644, Owner::Id(0), Owner::Id(0), Timestamp::default());
    inode.class = flushed.stored.class;
    inode.content = flushed.stored.content;
    inode.size = flushed.stored.size;
    (Key::Inode(FILE).encode(), Some(Value::Inode(Box::new(inode))))
}

/// More bytes of nodes than a head takes.
fn attributes() -> Vec<(Vec<u8>, Option<Value>)> {
    let named = |number: u32| Key::Xattr(FILE + 1, number.to_be_bytes().to_vec()).encode();
    (0..1200).map(|number| (named(number), Some(Value::Xattr(Xattr::new(noise(4096)))))).collect()
}

fn checkpoint(volume: &Volume, edits: Vec<(Vec<u8>, Option<Value>)>) -> Result<Published> {
    super::tests_damage::checkpoint(volume, edits, (1, 0))
}

/// A world in which a head was to follow its metadata objects, and the change
/// number `at` of that checkpoint failed.
fn interrupted(at: u64) -> (SimWorld, Volume, bool) {
    let world = repository();
    let volume = open(&world, Some("state"), &OpenOptions::default(), 50).unwrap();
    let edits = [vec![file(&volume, &noise(600_000))], attributes()].concat();
    world.fail_at(world.operations() + at, Fault::NoSpace);
    let failed = checkpoint(&volume, edits).is_err();
    (world, volume, failed)
}

/// The nodes of a checkpoint whose head failed were known as stored, because
/// their metadata object had entered REPO. The chunks below them were to be in
/// the head. When the file was removed and the same content written again, its
/// node was taken for stored, the chunks were dropped as used by nothing, and
/// the next head named content that was nowhere.
#[test]
fn after_a_failed_head_the_same_content_is_stored_whole() {
    let mut failures = 0;
    for at in 1.. {
        let (world, volume, failed) = interrupted(at);
        if !failed {
            break;
        }
        failures += 1;
        checkpoint(&volume, vec![(Key::Inode(FILE).encode(), None)]).unwrap();
        checkpoint(&volume, vec![file(&volume, &noise(600_000))]).unwrap();
        drop(volume);
        let volume = open(&world, Some("state"), &OpenOptions::default(), 51).unwrap();
        let Ok(Some(Value::Inode(inode))) = volume.tree().get(&Key::Inode(FILE)) else { panic!() };
        let stored = Stored {
            class: inode.class,
            content: inode.content,
            size: inode.size,
            ..Stored::default()
        };
        let mut out = vec![0; 600_000];
        content::read_stored(&volume.store, &stored, 0, 600_000, &mut out).unwrap();
        assert!(out == noise(600_000), "failed at {at}");
        let objects = world.paths().iter().filter(|path| path.contains("/obj/")).count();
        let named: std::collections::HashSet<_> =
            volume.base().commit.objects.iter().map(|object| object.hash).collect();
        assert!(named.len() <= 1 && objects <= 3 + 1, "failed at {at}: {objects} objects");
    }
    assert!(failures > 3, "{failures}");
}

/// A file that was saved again as a whole would share nothing with what is
/// stored if it mattered in how large pieces it is cut.
#[test]
fn a_long_stream_has_the_chunks_of_one_that_is_cut_in_one_go() {
    let world = repository();
    let volume = open(&world, Some("state"), &OpenOptions::default(), 60).unwrap();
    let mut text = Vec::new();
    for number in 0..700_000 {
        text.extend_from_slice(format!("{number}: a message of today\n").as_bytes());
    }
    for bytes in [noise((30 << 20) + 12_345), text] {
        let size = bytes.len() as u64;
        let mut layer = Layer::default();
        for (number, piece) in bytes.chunks(1 << 20).enumerate() {
            layer.write((number << 20) as u64, piece);
        }
        let stored = flush(&volume.store, &Stored::default(), &layer, size, false).unwrap().stored;
        let Content::Tree(id, level) = stored.content else { panic!("{:?}", stored.content) };
        let placed = range(&*volume.store, (id, level), 0, u64::MAX).unwrap();
        let found: Vec<_> = placed.iter().map(|placed| placed.run).collect();
        let (mut runs, whole) = (Vec::new(), bytes.into());
        let done = chunk_region(
            &volume.store,
            stored.class,
            Chunking::Stream,
            0,
            &whole,
            false,
            &mut runs,
        );
        assert_eq!(done.unwrap() as u64, size);
        assert!(found.len() > 50 && found == runs);
    }
}

/// A page of 4096 bytes of the file is in one segment, wherever its chunk begins.
#[test]
fn segments_of_media_begin_where_pages_of_the_file_do() {
    let world = repository();
    let volume = open(&world, Some("state"), &OpenOptions::default(), 60).unwrap();
    let (start, bytes, mut runs) = (8192 + 100, noise(3 << 20).into(), Vec::new());
    let (class, store) = (ContentClass::Incompressible, &volume.store);
    chunk_region(store, class, Chunking::Stream, start, &bytes, false, &mut runs).unwrap();
    store.publish_objects(0).unwrap();
    let names = store.objects().into_iter().map(|(hash, device, _)| Name::Object { device, hash });
    let readers: Vec<_> = names.map(|name| store.open(&name).unwrap()).collect();
    let (mut at, mut odd) = (start, 0);
    for run in runs {
        let directory = readers.iter().map(crate::store::Reader::directory);
        let found = directory.filter_map(|all| Some((all.find(&run.id)?, &all.frames)));
        for (place, frames) in found {
            let segments = frames[place.frame as usize].segments();
            // The first byte of the first whole page.
            let page = at.next_multiple_of(4096) - at;
            assert_eq!(segments.begin(segments.of_byte(page)), page, "{at}");
            odd += u32::from(page > 0);
        }
        at += run.total();
    }
    assert!(odd > 5, "{odd} chunks begin within a page");
}

/// Each piece of a file with holes took room for all that could have followed it, 8 MiB:
/// 24,000 random writes in a new file took 98 GB of addresses, and some pages of each.
#[test]
fn what_lies_between_holes_takes_its_own_room_only() {
    let world = repository();
    let volume = open(&world, Some("state"), &OpenOptions::default(), 70).unwrap();
    let (block, size) = (noise(4096), 64 << 20);
    let mut layer = Layer::default();
    for offset in (0..size).step_by(64 << 10) {
        layer.write(offset, &block);
    }
    layer.zero(1 << 20, 2 << 20);
    let spans = spans(&volume.store, &Stored::default(), &layer, 0..size, 0).unwrap();
    let spans = align_holes(spans, 0, size, 4096);
    let (mut at, mut stretches) = (0, 0);
    for group in spans.chunk_by(|one, next| one.is_data() && next.is_data()) {
        let end = at + group.iter().map(Span::len).sum::<u64>();
        if group[0].is_data() {
            let mut stretch = Stretch::new(group, at);
            let bytes = stretch.compose(&volume.store, &Stored::default(), at, end).unwrap();
            assert_eq!(bytes, block);
            assert!(bytes.capacity() < 2 * block.len());
            stretches += 1;
        }
        at = end;
    }
    assert_eq!((at, stretches), (size, 1024 - 16));
    let flushed = flush(&volume.store, &Stored::default(), &layer, size, false).unwrap();
    let mut out = vec![7; 3 << 20];
    read(&volume.store, &flushed.stored, &[], 0, 3 << 20, &mut out).unwrap();
    let mut expected = vec![0; 3 << 20];
    for offset in (0..1 << 20).chain(2 << 20..3 << 20).step_by(64 << 10) {
        expected[offset..offset + 4096].copy_from_slice(&block);
    }
    assert!(out == expected);
}

/// What is stored, what is new and zeros, composed in windows of any length, are what
/// they are in one go.
#[test]
fn a_stretch_in_windows_is_the_stretch() {
    let world = repository();
    let volume = open(&world, Some("state"), &OpenOptions::default(), 80).unwrap();
    let size = 300_000;
    let below = noise(size as usize);
    let mut layer = Layer::default();
    layer.write(0, &below);
    let base = flush(&volume.store, &Stored::default(), &layer, size, false).unwrap().stored;
    let (mut layer, mut expected) = (Layer::default(), below);
    for (offset, byte) in [(5, 1), (70_000, 2), (70_100, 3), (200_000, 4)] {
        layer.write(offset, &[byte; 100]);
        expected[offset as usize..][..100].fill(byte);
    }
    layer.zero(100_001, 100_099);
    expected[100_001..100_099].fill(0);
    let spans = spans(&volume.store, &base, &layer, 0..size, size).unwrap();
    let spans = align_holes(spans, 0, size, 4096);
    assert!(spans.len() > 8 && spans.iter().all(Span::is_data));
    for window in [1, 99, 4096, 65_537, size] {
        // The first bytes alone: one at a time takes long.
        let end = size.min(window * 3000);
        let (mut stretch, mut composed) = (Stretch::new(&spans, 0), Vec::new());
        for at in (0..end).step_by(window as usize) {
            let to = (at + window).min(end);
            composed.extend(stretch.compose(&volume.store, &base, at, to).unwrap());
        }
        assert!(composed == expected[..end as usize], "windows of {window}");
    }
}

/// The chunks of what was written are those that the content tree has there, whether the
/// flush cut a stream or pages, the whole of a file or some of what is stored.
#[test]
fn a_flush_tells_the_chunks_of_what_was_written() {
    let world = repository();
    let volume = open(&world, Some("state"), &OpenOptions::default(), 90).unwrap();
    let store = &volume.store;
    let mut pages = noise(6_000_000);
    pages[..16].copy_from_slice(b"SQLite format 3\0");
    pages[16..18].copy_from_slice(&4096u16.to_be_bytes());
    for (whole, streaming) in
        [(noise(6_000_000), false), (noise(6_000_000), true), (pages.clone(), false), (pages, true)]
    {
        let size = whole.len() as u64;
        let (mut layer, mut above) = (Layer::default(), Layer::default());
        layer.write(0, &whole);
        let first = flush(store, &Stored::default(), &layer, size, streaming).unwrap();
        above.absorb(first.rest.clone());
        let places = [(3, 70_000), (200_000, 1), (300_000, 4096), (5_999_000, 3_000)];
        for (offset, len) in places {
            above.write(offset, &noise(len));
        }
        let second = flush(store, &first.stored, &above, 6_002_000, false).unwrap();
        let mut found = 0;
        for (flushed, writes) in [(&first, &[(0, 6_000_000)][..]), (&second, &places[..])] {
            for &(offset, len) in writes {
                let end = (offset + len as u64).min(flushed.stored.size);
                let pieces = flushed.pieces(offset, end).unwrap();
                let bytes = pieces.iter().flat_map(|piece| volume.read_piece(piece).unwrap());
                let mut stored = vec![0; (end - offset) as usize];
                read(store, &flushed.stored, &[], offset, end, &mut stored).unwrap();
                assert!(bytes.collect::<Vec<u8>>() == stored, "{offset} {streaming}");
                found += pieces.len();
            }
        }
        assert!(found > 2 + places.len(), "{found} chunks");
        // What was not written was not chunked.
        assert_eq!(second.pieces(3, 6_000_000), None);
        assert_eq!(second.pieces(6_000_000, 6_002_001), None);
    }
    let mut layer = Layer::default();
    layer.write(0, b"inline");
    let inline = flush(store, &Stored::default(), &layer, 6, false).unwrap();
    assert_eq!(inline.pieces(0, 6), None);
}

fn objects(world: &SimWorld) -> Vec<String> {
    world.paths().into_iter().filter(|path| path.contains("/obj/")).collect()
}

fn remove(world: &SimWorld, path: &str) {
    let path = path.strip_prefix("repo/").unwrap();
    SyncedFolder::remove(&*world.synced("repo"), path).unwrap();
}

/// Whether a new opening reads the content of `FILE`.
fn is_whole(world: &SimWorld, bytes: &[u8]) -> bool {
    let volume = open(world, None, &OpenOptions::default(), 90).unwrap();
    let Ok(Some(Value::Inode(inode))) = volume.tree().get(&Key::Inode(FILE)) else { panic!() };
    let stored = Stored {
        class: inode.class,
        content: inode.content,
        inline: vec![],
        size: inode.size,
        holes: inode.holes,
    };
    let mut out = vec![0; bytes.len()];
    let read = content::read_stored(&volume.store, &stored, 0, bytes.len() as u64, &mut out);
    read.is_ok() && out == bytes
}

/// A sync client removed, emptied or cut an object. The same file was copied in
/// again, sync(1) said that all is in REPO, and not a byte of it was.
#[test]
fn what_rests_on_an_object_that_is_not_whole_any_more_is_stored_again() {
    let bytes = noise(3_000_000);
    let ways: [fn(&SimWorld, &str); 3] = [
        remove,
        |world, path| assert!(world.tamper(path, Vec::clear)),
        |world, path| assert!(world.tamper(path, |bytes| bytes.truncate(bytes.len() - 1))),
    ];
    for (number, spoil) in ways.into_iter().enumerate() {
        let world = repository();
        let volume = open(&world, Some("state"), &OpenOptions::default(), 60).unwrap();
        let before = objects(&world);
        checkpoint(&volume, vec![file(&volume, &bytes)]).unwrap();
        for path in objects(&world).iter().filter(|path| !before.contains(path)) {
            spoil(&world, path);
        }
        assert!(!is_whole(&world, &bytes));
        // A look counts for some seconds.
        world.clock().advance(std::time::Duration::from_secs(6));
        checkpoint(&volume, vec![(Key::Inode(FILE).encode(), None)]).unwrap();
        let published = checkpoint(&volume, vec![file(&volume, &bytes)]).unwrap();
        assert!(is_whole(&world, &bytes), "way {number}");
        assert_eq!(published.gone, Vec::<String>::new());
    }
}

/// Chunking a large file takes a while: an object on which it rests may vanish
/// before the head that says so enters REPO.
#[test]
fn an_object_that_vanishes_while_a_checkpoint_cuts_is_noticed() {
    let bytes = noise(3_000_000);
    let world = repository();
    let volume = open(&world, Some("state"), &OpenOptions::default(), 60).unwrap();
    let before = objects(&world);
    checkpoint(&volume, vec![file(&volume, &bytes)]).unwrap();
    let is_new = |path: &&String| !before.contains(path);
    // Cut by the checkpoint, which has its bytes still.
    volume.store.begin_chunking();
    let edit = file(&volume, &bytes);
    let vanished = objects(&world).iter().find(is_new).unwrap().clone();
    let held = world.get(&vanished).unwrap();
    remove(&world, &vanished);
    let error = checkpoint(&volume, vec![edit]).unwrap_err();
    assert!(matches!(&error, StoreError::Vanished { path } if vanished.ends_with(path)), "{error}");
    checkpoint(&volume, vec![file(&volume, &bytes)]).unwrap();
    assert!(is_whole(&world, &bytes));
    // Cut before it began: the owner is told.
    world.put(&vanished, &held);
    for path in objects(&world).iter().filter(is_new).filter(|path| **path != vanished) {
        remove(&world, path);
    }
    world.clock().advance(std::time::Duration::from_secs(6));
    let edit = file(&volume, &bytes);
    volume.store.begin_chunking();
    remove(&world, &vanished);
    let published = checkpoint(&volume, vec![edit]).unwrap();
    assert!(published.gone.iter().any(|path| vanished.ends_with(path)), "{published:?}");
    assert!(!is_whole(&world, &bytes));
}

/// The disk with REPO was unmounted, or the folder put back to an older state, under
/// a mount: heads went into what was there instead.
#[test]
fn nothing_enters_a_folder_that_is_not_the_one_that_was_opened() {
    let spoil: [fn(&SimWorld, &str); 4] = [
        remove,
        |world, path| assert!(world.tamper(path, |bytes| bytes.truncate(bytes.len() - 1))),
        |world, path| {
            remove(world, path);
            world.put(&format!("{path}/folder"), b"x");
        },
        |world, path| {
            let (folder, name) = path.rsplit_once('/').unwrap();
            let bytes = world.get(path).unwrap();
            remove(world, path);
            world.put(&format!("{folder}/copy of {name}"), &bytes);
        },
    ];
    for (number, spoil) in spoil.into_iter().enumerate() {
        for what in ["repo/amberfs-", "/head/0000000000000003"] {
            let world = repository();
            let volume = open(&world, Some("state"), &OpenOptions::default(), 60).unwrap();
            let landmark = world.paths().into_iter().find(|path| path.contains(what)).unwrap();
            let held = world.get(&landmark).unwrap();
            spoil(&world, &landmark);
            let before = world.paths();
            let error = checkpoint(&volume, vec![file(&volume, &noise(2_000_000))]).unwrap_err();
            assert!(matches!(error, StoreError::Away { .. }), "{number} {what}: {error}");
            assert_eq!(world.paths(), before, "{number} {what}: something was written");
            if number == 2 {
                continue;
            }
            // It goes on once that is back.
            world.put(&landmark, &held);
            checkpoint(&volume, vec![file(&volume, &noise(2_000_000))]).unwrap();
            assert!(is_whole(&world, &noise(2_000_000)));
        }
    }
}

/// Once the heads that listed an object are gone, an index run says what it has.
#[test]
fn an_index_run_says_which_chunks_objects_have() {
    let world = repository();
    let volume = open(&world, Some("state"), &OpenOptions::default(), 60).unwrap();
    let commit = volume.base().commit.clone();
    let [object] = &commit.objects[..] else { panic!("one object to a head") };
    let chunk = object.chunks[0];
    let gone = NewObject { hash: [9; 32], chunks: vec![[9; 16]], ..object.clone() };
    let mut extra = Encoder::new();
    NewObject::encode_all(&[object.clone(), gone], &mut extra);
    let run = |extra: Vec<u8>| {
        let run =
            Writer::new(volume.store.context(), Kind::IndexRun, Vec::new(), &SimRandom::new(1));
        let built = run.finish(extra, false);
        let name = Name::Object { device: commit.device, hash: built.hash };
        world.put(&format!("repo/{}", name.path()), &built.bytes);
        let size = built.bytes.len() as u64;
        let object = NewObject { hash: built.hash, kind: Kind::IndexRun, size, chunks: Vec::new() };
        Commit { objects: vec![object], ..commit.clone() }
    };
    // Of no head but one that names the run.
    let found = |commit: &Commit| {
        let repository = Repository::find(&*world.synced("repo")).unwrap();
        let (keyring, ..) = repository.unlock(&key()).unwrap();
        let store = Store::new(
            Arc::new(Context::new(repository.repo, keyring)),
            world.synced("repo"),
            None,
            (world.clock(), Arc::new(SimRandom::new(2))),
            commit.device,
            CacheSizes::default(),
        );
        store.list_objects(&[commit.device]).unwrap();
        store.index_commit(commit);
        assert!(store.unlisted(commit).is_empty(), "the run is here");
        let known = |id: &Id| store.is_in(id, &|_| true).unwrap();
        (known(&chunk), known(&[9; 16]))
    };
    assert_eq!(found(&run(extra.finish())), (true, false), "what is not here is not said to be");
    // One that cannot be read says nothing, and stops nothing.
    assert_eq!(found(&run(b"no list".to_vec())), (false, false));
}

/// A process died between an object and its head, and the device got another id then: what its
/// journal has is in that object, under the old id.
#[test]
fn an_object_under_an_earlier_id_becomes_part_of_the_next_head() {
    let world = repository();
    let volume = open(&world, Some("state"), &OpenOptions::default(), 50).unwrap();
    let before: Vec<String> = world.paths();
    let bytes = noise(300_000);
    let id = volume.store.context().ids.chunk_id(&bytes);
    volume.store.stage(Class::Incompressible, id, &bytes).unwrap();
    volume.store.publish_objects(0).unwrap();
    drop(volume);
    let new = world.paths().into_iter().filter(|path| !before.contains(path));
    let objects: Vec<String> = new.filter(|path| path.contains("/obj/")).collect();
    let [object] = &objects[..] else { panic!("{objects:?}") };
    let folder = world.folder("state");
    let mut state = State::load(&*folder).unwrap().unwrap();
    state.renew([0x44; 16]);
    state.store(&*folder).unwrap();
    let place = Some((&world, "state"));
    let volume =
        open_unresolved(&world, world.synced("repo"), place, &OpenOptions::default(), 51).unwrap();
    assert!(volume.resolve_intents(true).unwrap().is_empty());
    checkpoint(&volume, vec![file(&volume, b"small")]).unwrap();
    let named = volume.base().commit.objects.clone();
    let is_it = |named: &NewObject| object.ends_with(&format!("{}.amb", hex(&named.hash)));
    assert!(named.iter().any(is_it), "{object} is not among {named:?}");
    assert_eq!(volume.store.read(&id, 0, bytes.len() as u64).unwrap(), bytes);
}

/// A copy of each head is kept in local state until it is recorded. Where local state has no room for
/// that, the head enters all the same, and no copy of an earlier one is left that could.
#[test]
fn a_head_enters_although_local_state_has_no_room_for_a_copy() {
    let (world, disk) = (SimWorld::new(), SimWorld::new());
    init(&*world.synced("repo"), &key(), [9; 16], [1; 16], Vec::new(), &SimRandom::new(1)).unwrap();
    let open =
        |life| open_beside(&world, Some((&disk, "state")), &OpenOptions::default(), life).unwrap();
    let volume = open(1);
    publish(&volume, 1);
    let copies = || ["state/head.0", "state/head.1"].map(|path| disk.get(path).is_some());
    assert_eq!(copies(), [false; 2], "it is recorded");
    // A head does not enter: its copy stays.
    let operations = world.operations();
    world.fail_at(operations + 1, Fault::NoSpace);
    assert!(checkpoint(&volume, vec![file(&volume, b"two")]).is_err());
    assert_eq!(copies(), [false, true], "not in the place of the one before");
    let used: usize = disk.paths().iter().map(|path| disk.get(path).unwrap().len()).sum();
    disk.set_capacity(used as u64 + 8192);
    world.clear_faults();
    publish(&volume, 3);
    assert_eq!(copies(), [false; 2]);
    drop(volume);
    disk.set_capacity(1 << 40);
    assert_eq!(open(2).state().generation, 3);
}
