//! One simulated machine: booting it, running a workload, and checking what a
//! crash left.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::super::*;
use super::model::{Model, Op, Tree, perform, visible};
use crate::crypto::Secret;
use crate::crypto::{Hash, hex};
use crate::format::clock::{Generations, Seen};
use crate::format::ledger::Key as LedgerKey;
use crate::io::sim::{Crash, SimRandom, SimWorld, Unsynced};
use crate::journal::Options as JournalOptions;
use crate::store::Context;
use crate::sync::{self, OpenOptions};
use crate::tree::ledger;
use crate::volume::repository::{Repository, init};
use crate::volume::{VolumeError, World};

const JOURNAL: JournalOptions =
    JournalOptions { file_size: 256 << 10, max_total: 64 << 20, reserve: 64 << 10, spares: 4 };

pub fn key() -> Secret {
    Secret::take(&mut [7; 32])
}

/// A world with a fresh repository.
pub fn fresh() -> SimWorld {
    let world = SimWorld::new();
    init(&*world.synced("repo"), &key(), [9; 16], [1; 16], Vec::new(), &SimRandom::new(1)).unwrap();
    world
}

/// Opens repository and volume; `state` names the folder of local state, and so
/// the device. Random numbers follow from `life`.
pub fn open(
    world: &SimWorld,
    state: &str,
    life: u64,
    repair: Option<Generations>,
) -> std::result::Result<(Volume, Repository), VolumeError> {
    let repo = world.synced("repo");
    let repository = Repository::find(&*repo)?;
    let (keyring, register, _) = repository.unlock(&key()).expect("the key is right");
    let outside = World {
        repo,
        state: Some(world.folder(state)),
        clock: world.clock(),
        random: Arc::new(SimRandom::new(life)),
    };
    let context = Arc::new(Context::new(repository.repo, keyring));
    let options = OpenOptions { device_name: state.into(), repair, ..OpenOptions::default() };
    let volume = sync::open(outside, &repository, context, register, &options)?;
    Ok((volume, repository))
}

/// Opens repository, volume and journal as a mount does.
pub fn boot(world: &SimWorld, state: &str, life: u64) -> std::result::Result<Fs, String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let (volume, _) = open(world, state, life, None).map_err(|error| told(&error))?;
    let ownership =
        Ownership { uid: 1000, gid: 1000, record_self: true, force_uid: None, force_gid: None };
    let options = Options { read_only: false, ownership };
    Fs::recover(volume, JOURNAL, options).map(|(fs, _)| fs).map_err(|error| told(&error))
}

/// What was acknowledged in a life.
#[derive(Clone)]
pub struct History {
    pub model: Model,
    /// The tree after each acknowledged change, from the start of this life.
    pub trees: Vec<Tree>,
    /// The first of them that a crash may go back to.
    pub promised: usize,
    /// The tree as it would be with the operation that failed first.
    pub unsure: Option<Tree>,
    /// Operations that failed.
    pub failed: Vec<(Op, FsError)>,
}

impl History {
    pub fn new(model: Model) -> Self {
        let trees = vec![model.tree()];
        Self { model, trees, promised: 0, unsure: None, failed: Vec::new() }
    }

    /// Runs operations; stops at the first that fails if told so. An operation
    /// whose path is not there because an earlier one failed is left out.
    pub fn run(&mut self, fs: &Fs, ops: &[Op], stop: bool) {
        for op in ops {
            match perform(fs, *op) {
                Ok(()) => {
                    self.model.apply(*op);
                    let tree = self.model.tree();
                    if self.trees.last() != Some(&tree) {
                        self.trees.push(tree);
                    }
                    if op.is_promise() {
                        self.promised = self.trees.len() - 1;
                    }
                }
                Err(FsError::NotFound | FsError::Exists) if !self.failed.is_empty() => {}
                Err(error) => {
                    if self.unsure.is_none() {
                        let mut model = self.model.clone();
                        model.apply(*op);
                        self.unsure = Some(model.tree());
                    }
                    self.failed.push((*op, error));
                    if stop {
                        return;
                    }
                }
            }
        }
    }

    /// Whether a crash may leave this.
    pub fn allows(&self, tree: &Tree) -> bool {
        self.trees[self.promised..].contains(tree) || self.unsure.as_ref() == Some(tree)
    }
}

/// Every power cut that makes a difference now; tears at every 512 bytes of the
/// last write, but at most `tears`.
pub fn crashes(world: &SimWorld, tears: usize) -> Vec<Crash> {
    let len = world.last_pending_len();
    let mut data = vec![Unsynced::Kept, Unsynced::Lost];
    if world.pending_writes() > 1 {
        data.extend((0..world.pending_writes()).map(Unsynced::OneLost));
    }
    let step = 512 * len.div_ceil(512 * tears.max(1)).max(1);
    data.extend((step..len).step_by(step).map(Unsynced::LastTorn));
    let both = |data| [true, false].map(|names_kept| Crash { data, names_kept });
    data.into_iter().flat_map(both).collect()
}

/// Every value stands under a dot that the tree says to have seen.
fn dots_are_seen(fs: &Fs) {
    let mut seen = Seen::default();
    fs.volume()
        .tree()
        .scan_items(&[], &mut |item| {
            let [value] = &item.values[..] else { panic!("one device has one value of a key") };
            // Rows of writers come before all else.
            if let Ok(Key::Writer(writer)) = Key::decode(&item.key) {
                assert_eq!(writer, value.dot.writer);
                seen.add(value.dot);
            }
            assert!(seen.covers(value.dot), "{:?} of {:?} was not seen", value.dot, &*item.key);
            ControlFlow::Continue(())
        })
        .unwrap();
}

/// The ledger of the newest head has the objects that the head lists, and the head before.
fn is_in_ledger(fs: &Fs) {
    let (volume, base) = (fs.volume(), fs.volume().base());
    let mut hashes = BTreeSet::new();
    ledger::scan(&*volume.store, base.commit.ledger, &[], &mut |item| {
        match LedgerKey::decode(&item.key) {
            Ok(LedgerKey::Container(_, hash)) => drop(hashes.insert(hash)),
            Ok(LedgerKey::Kept(generation)) => assert!(generation < base.commit.generation),
            other => panic!("unexpected row {other:?}"),
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    let is_own = |hash: &Hash| volume.store.owner(hash).is_none_or(|d| d == base.commit.device);
    let objects = base.commit.objects.iter().map(|object| object.hash).filter(is_own);
    for hash in objects.chain((base.commit.generation > 1).then_some(base.commit.previous)) {
        assert!(hashes.contains(&hash), "{} is in no ledger", hex(&hash));
    }
}

/// The namespace agrees with itself: entries, back references and inodes, dots and writers;
/// so does the ledger.
pub fn sound(fs: &Fs) {
    dots_are_seen(fs);
    is_in_ledger(fs);
    let mut inodes: BTreeMap<Ino, (u32, usize)> = BTreeMap::new();
    let (mut entries, mut backs) = (BTreeSet::new(), BTreeSet::new());
    let mut bytes = 0u64;
    fs.volume()
        .tree()
        .scan(&[], &mut |key, value| {
            match (key, value) {
                (Key::Inode(ino), Value::Inode(inode)) => {
                    bytes = bytes.wrapping_add(if inode.is_file() { inode.size } else { 0 });
                    inodes.insert(ino, (inode.kind(), 0));
                }
                (Key::Entry(dir, _, name), Value::Entry(ino, kind)) => {
                    entries.insert((dir, name, ino, kind));
                }
                (Key::Back(ino, dir, name), Value::Back) => {
                    backs.insert((dir, name, ino));
                }
                (Key::Xattr(..), _)
                | (Key::Writer(_), Value::Writer(..))
                | (Key::Unsettled(..), Value::Unsettled) => {}
                other => panic!("unexpected item {other:?}"),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    for (dir, name, ino, kind) in entries {
        assert!(backs.remove(&(dir, name.clone(), ino)), "{name:?} has no back reference");
        assert_eq!(inodes.get(&dir).map(|dir| dir.0), Some(0o040_000), "{name:?} has a folder");
        let inode = inodes.get_mut(&ino).unwrap_or_else(|| panic!("{name:?} has no inode"));
        assert_eq!(inode.0, kind, "type of {name:?}");
        inode.1 += 1;
    }
    assert!(backs.is_empty(), "back references without entries: {backs:?}");
    for (ino, (kind, names)) in &inodes {
        let most = if *kind == 0o040_000 { 1 } else { usize::MAX };
        let least = usize::from(*ino != ROOT);
        assert!((least..=most).contains(names), "inode {ino} has {names} names");
    }
    let inherited = &fs.volume().base().inherited;
    assert_eq!(inherited.inodes, inodes.len() as u64, "inodes counted in the commit");
    assert_eq!(inherited.bytes, bytes, "bytes counted in the commit");
}

/// What every life does after a crash, to show that it can go on.
const GO_ON: &[Op] = &[
    Op::Create("later"),
    Op::Write("later", 10, 5000, 200),
    Op::Fsync,
    Op::Write("later", 3000, 400, 201),
];

/// Boots what a crash left and checks all that the oracle says: a prefix of
/// what was acknowledged, no shorter than promised; then work goes on, is
/// published, and another device sees it.
pub fn check(world: &SimWorld, history: &History, life: u64, what: &str) {
    let fs = boot(world, "state", life).unwrap_or_else(|error| panic!("{what}: {error}"));
    let tree = visible(&fs).unwrap_or_else(|error| panic!("{what}: {error}"));
    if !history.allows(&tree) {
        let at = history.trees.iter().position(|old| *old == tree);
        panic!(
            "{what}: the tree is that after change {at:?} of {}, {} are promised\n{tree:#?}\n{:#?}",
            history.trees.len() - 1,
            history.promised,
            history.trees.last().unwrap()
        );
    }
    let mut later = tree.clone();
    for op in GO_ON {
        perform(&fs, *op).unwrap_or_else(|error| panic!("{what}, then {op:?}: {error}"));
    }
    let mut model = Model::default();
    for op in GO_ON {
        model.apply(*op);
    }
    later.extend(model.tree());
    assert_eq!(visible(&fs).unwrap(), later, "{what}, then more");
    fs.checkpoint().unwrap_or_else(|error| panic!("{what}, then a checkpoint: {error}"));
    assert_eq!(visible(&fs).unwrap(), later, "{what}, then a checkpoint");
    sound(&fs);
    drop(fs);
    let alone = SimWorld::new();
    for path in world.paths().iter().filter(|path| path.starts_with("repo/")) {
        alone.put(path, &world.get(path).unwrap());
    }
    let other = boot(&alone, "other", life + 1)
        .unwrap_or_else(|error| panic!("{what}, on another device: {error}"));
    assert!(other.volume().notices.is_empty(), "{what}: {:?}", other.volume().notices);
    assert_eq!(visible(&other).unwrap(), later, "{what}, on another device");
}
