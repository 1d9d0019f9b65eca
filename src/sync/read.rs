//! Reads the heads in REPO: all are opened for the index of what they hold, and what
//! their commits say becomes plain data.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::plan::{Head, Here, Link, Unread, Why, breaks};
use crate::crypto::{DeviceId, Hash};
use crate::format::commit::{Commit, Name, parse_head_name};
use crate::format::container::Kind;
use crate::format::ledger::{Container, Kept, Key as LedgerKey};
use crate::format::node::NO_ID;
use crate::format::register::Features;
use crate::io::Timestamp;
use crate::store::{Reliance, Result, Rows, Store, StoreError};
use crate::tree::{Root, ledger};
use crate::volume::repository::{HeadFile, open_head};
use crate::volume::state::State;
use crate::volume::{
    DeviceHead, KeptCommits, Notice, VolumeError, World, containers_in, kept_in, named,
};

/// Head files of each device, ascending by generation.
pub(super) type Heads = BTreeMap<DeviceId, Vec<HeadFile>>;

/// Brings the own head back that was entering REPO when the power went: a sync client may have it.
/// It goes in only where the head is on which it was made.
pub(super) fn enter_staged(
    store: &Store,
    world: &World,
    own: &mut Vec<HeadFile>,
    intents: &[String],
    state: &State,
) -> std::result::Result<(), VolumeError> {
    let Some(folder) = &world.state else { return Ok(()) };
    let has_base = state.generation == 0 || own.iter().any(|file| file.hash == state.head);
    if intents.is_empty() || !has_base {
        return Ok(());
    }
    // An earlier one was given up for this one.
    let parsed = |path: &String| parse_head_name(path.rsplit('/').next()?);
    let newest = intents.iter().filter_map(parsed).max();
    let Some((generation, hash)) = newest else { return Ok(()) };
    let staged = Store::staged_head(&**folder, &hash)
        .map_err(|error| VolumeError::State(format!("head: {error}")))?;
    let Some(bytes) = staged else { return Ok(()) };
    let size = bytes.len() as u64;
    let file = HeadFile { device: state.device, generation, hash, size };
    let path = file.name().path();
    if generation <= state.generation || !intents.contains(&path) {
        return Ok(());
    }
    log::info!("bringing back a head that was entering when this machine stopped");
    // Also where it is here: the process before may have failed to make it, or the line of the log
    // that names it, durable.
    store.enter(&file.name(), &bytes)?;
    own.retain(|other| other.hash != hash);
    own.push(file);
    own.sort_unstable();
    Ok(())
}

/// Removes own heads that a crash tore while they entered REPO: their
/// checkpoint never returned, and what they should have held is in the journal.
/// Local state does not know them: heads up to the generation `known` are none.
pub(super) fn drop_torn(
    store: &Store,
    own: &mut Vec<HeadFile>,
    intents: &[String],
    known: u64,
    read_only: bool,
) -> Result<()> {
    let mut whole = Vec::new();
    for file in own.drain(..) {
        let path = file.name().path();
        let entered = file.generation <= known;
        if entered || !intents.contains(&path) || store.verify(&file.name())? {
            whole.push(file);
        } else if !read_only {
            log::info!("removing a head that a crash tore");
            store.folder().remove(&path).map_err(|error| StoreError::io(&path, error))?;
        }
    }
    *own = whole;
    Ok(())
}

/// What the heads in REPO give.
#[derive(Default)]
pub(super) struct Loaded {
    /// What of it decides.
    pub here: Here,
    /// The commits and files of [`Here::heads`], in their order.
    pub heads: Vec<(DeviceHead, HeadFile)>,
    /// The files of [`Here::unusable`], in their order, and what is wrong with them.
    pub unusable: Vec<(HeadFile, StoreError)>,
    /// Heads before those that are passed by, which are not here.
    gaps: Vec<(HeadFile, StoreError)>,
    /// What heads that are passed by say that a repair found damaged.
    bad: BTreeSet<Hash>,
    /// Older heads that cannot be used, and why.
    pub older: Vec<(Hash, StoreError)>,
    /// Older heads that are not here, although a later head of their device names them, or that
    /// cannot be read; each with its device. Those that a repair found damaged are not among them.
    pub lacking: BTreeSet<Lacking>,
    /// Of each device the heads of which objects are not here, by generation, and one such object.
    pub arriving: BTreeMap<DeviceId, BTreeMap<u64, String>>,
    /// Of devices whose newest state of the time that is asked for has no head here any more, that
    /// state.
    pub kept: Vec<KeptState>,
    /// What the newest head of each device that can be read says of its folder.
    newest: BTreeMap<DeviceId, Newest>,
    /// Objects that heads name and that are not here: the device, the generation of the head, the
    /// object, and whether a file could be a copy of it.
    unlisted: Vec<(DeviceId, u64, Name, bool)>,
    /// Heads that are not in their place, and for which a copy stands in.
    copied: Vec<Name>,
    /// What the owner should know of single heads.
    pub notices: Vec<Notice>,
}

/// What the newest head of a device that can be read says of its folder.
struct Newest {
    /// What the device calls itself.
    name: String,
    ledger: Root,
    hash: Hash,
    gives_back: bool,
    /// Whether it knows of the device that opens the repository.
    knows_this: bool,
    /// Devices that write no more, as it says.
    retired: Vec<DeviceId>,
    /// Heads and objects that a repair found damaged, as it says.
    bad: Vec<Hash>,
}

/// A head that is not here, or cannot be read, although a later one of its device can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lacking {
    /// The device that wrote the head.
    pub device: DeviceId,
    /// The generation of the head; of one that is not here the highest that it can have.
    pub generation: u64,
    /// The hash of the head.
    pub hash: Hash,
}

/// A state of the past that its device keeps, and of which the head is gone.
pub(super) struct KeptState {
    /// The device that published it.
    pub device: DeviceId,
    /// What the device calls itself now.
    pub name: String,
    /// The generation of its head.
    pub generation: u64,
    /// What is kept of it.
    pub kept: Kept,
}

/// Why a head that can be read is not joined.
#[derive(Clone, Debug)]
pub(super) enum Cause {
    /// Something that the head needs is not here; says what.
    Missing(String),
    /// A key would have more values with it than a tree holds; says which state it is.
    Crowded(String),
}

impl Cause {
    /// The error for such a head.
    fn error(&self) -> StoreError {
        match self.clone() {
            Self::Missing(what) => StoreError::Missing { what },
            Self::Crowded(what) => StoreError::Crowded { what },
        }
    }
}

/// Heads that are not joined, and why.
pub(super) type LeftOut = BTreeMap<Hash, Cause>;

/// Which heads can be used.
#[derive(Clone, Copy)]
pub(super) struct Usable<'a> {
    /// A head of which tree nodes are not here yet cannot.
    pub with_nodes: bool,
    /// These cannot.
    pub left_out: &'a LeftOut,
    /// Those that were made later are passed by, as if they did not exist yet.
    pub until: Option<Timestamp>,
}

impl Usable<'_> {
    fn is_later(&self, commit: &Commit) -> bool {
        self.until.is_some_and(|until| commit.time > until)
    }
}

/// Opens all heads for their index entries, but for those that are left out.
pub(super) fn load_heads(store: &Store, heads: &Heads, usable: Usable<'_>) -> Loaded {
    let mut loaded = Loaded::default();
    for (device, files) in heads {
        loaded.here.files.extend(files.iter().map(|file| file.hash));
        loaded.add_device(store, device, files, usable);
    }
    if let Some(until) = usable.until {
        loaded.add_all_kept(store, until);
    }
    // What a repair went on without is lacked by nobody.
    let gaps = std::mem::take(&mut loaded.gaps);
    loaded.unusable.extend(gaps.into_iter().filter(|(file, _)| !loaded.bad.contains(&file.hash)));
    loaded.find_what_is_kept(store, heads);
    loaded.mark_lacking();
    loaded.here.heads = loaded.heads.iter().map(|(head, _)| plain(head)).collect();
    let unusable = loaded.unusable.iter().map(|(file, error)| Unread {
        device: file.device,
        generation: file.generation,
        why: Why::of(error),
    });
    loaded.here.unusable = unusable.collect();
    loaded
}

/// What of a head decides.
fn plain(head: &DeviceHead) -> Head {
    Head {
        device: head.device,
        name: head.name.clone(),
        generation: head.generation,
        hash: head.hash,
        time: head.commit.time,
        news: head.commit.news,
        processed: head.commit.processed.clone(),
        retired: head.commit.retired.clone(),
        complete: head.complete,
        is_contained: None,
    }
}

impl Loaded {
    /// Whether an older head of the device is not here, or cannot be read.
    pub fn lacks_head_of(&self, device: &DeviceId) -> bool {
        self.lacking.iter().any(|lacking| lacking.device == *device)
    }

    /// Marks the heads of devices that lack an older one as incomplete: what they need may be in
    /// it. What a repair found damaged, and went on without, is lacked by nobody.
    fn mark_lacking(&mut self) {
        let newest = self.heads.iter().map(|(head, _)| head);
        let bad: BTreeSet<Hash> = newest.flat_map(|head| head.commit.bad.clone()).collect();
        self.lacking.retain(|lacking| !bad.contains(&lacking.hash));
        let lacking: BTreeSet<DeviceId> =
            self.lacking.iter().map(|lacking| lacking.device).collect();
        for (head, _) in self.heads.iter_mut().filter(|(head, _)| lacking.contains(&head.device)) {
            head.complete = false;
        }
    }

    /// Takes over what the newest heads say of their devices' folders, and finds out which of them are
    /// here whole: what a device gave back is not missed, and what it keeps is, whichever head named it.
    fn find_what_is_kept(&mut self, store: &Store, heads: &Heads) {
        let retired: BTreeSet<DeviceId> =
            self.newest.values().flat_map(|newest| newest.retired.clone()).collect();
        for (device, newest) in &self.newest {
            let waits = newest.knows_this || device == store.device() || retired.contains(device);
            let rows = rows_of(store, device, newest).inspect_err(|error| {
                log::warn!("what {} keeps cannot be read: {error}", named(&newest.name, device));
            });
            let rows = rows.ok();
            let Newest { ledger, hash, gives_back, .. } = *newest;
            let reliance = Reliance { ledger, rows, newest: hash, gives_back, waits };
            store.set_reliance(*device, reliance);
        }
        let is_missed = |(.., name, _): &(DeviceId, u64, Name, bool)| !store.is_given_back(name);
        self.unlisted.retain(is_missed);
        // Of what its device gave back a client's copy may be left.
        for name in
            std::mem::take(&mut self.copied).iter().filter(|name| !store.is_given_back(name))
        {
            let text = format!("{}: it is not in its place; a copy stands in", name.path());
            self.notices.push(Notice::Misplaced(text));
        }
        for (device, newest) in &self.newest {
            let files = heads.get(device).map_or(&[][..], Vec::as_slice);
            let kept = kept_and_not_here(store, *device, files).into_iter();
            let is_missed =
                |name: &Name| name.hash().is_none_or(|hash| !newest.bad.contains(&hash));
            self.unlisted.extend(kept.filter(|(.., name, _)| is_missed(name)));
        }
        for (device, generation, name, is_copied) in &self.unlisted {
            if !is_copied {
                let of_device = self.arriving.entry(*device).or_default();
                of_device.entry(*generation).or_insert_with(|| name.path());
            }
        }
        let incomplete: BTreeSet<DeviceId> = self.unlisted.iter().map(|(of, ..)| *of).collect();
        for (head, _) in self.heads.iter_mut().filter(|(head, _)| incomplete.contains(&head.device))
        {
            head.complete = false;
        }
    }

    /// Notes if the head before one that was made later is not here: it may be of the time that is
    /// asked for.
    fn add_gap(
        &mut self,
        device: DeviceId,
        passed: (u64, String, Hash),
        files: &[HeadFile],
        is_given_back: impl Fn(&Hash) -> bool,
    ) {
        let (later, name, hash) = passed;
        if hash == [0; 32] || files.iter().any(|file| file.hash == hash) || is_given_back(&hash) {
            return;
        }
        let what = format!("the state of {} before state {later}", named(&name, &device));
        let file = HeadFile { device, generation: later.saturating_sub(1), hash, size: 0 };
        self.gaps.push((file, StoreError::Missing { what }));
    }

    fn add_device(
        &mut self,
        store: &Store,
        device: &DeviceId,
        files: &[HeadFile],
        usable: Usable<'_>,
    ) {
        let first_unusable = self.unusable.len();
        let mut found: Vec<(DeviceHead, HeadFile)> = Vec::new();
        let mut chain = Vec::new();
        let mut followed: HashSet<Hash> = HashSet::new();
        // The oldest head that is passed by: its generation, what its device was called, and the head
        // before it.
        let mut passed: Option<(u64, String, Hash)> = None;
        for file in files.iter().rev() {
            let loaded = match usable.left_out.get(&file.hash) {
                Some(cause) => Err(cause.error()),
                None => load_head(store, file, found.is_empty(), usable),
            };
            let (commit, features) = match loaded {
                Ok(loaded) => loaded,
                Err(error) if found.is_empty() => {
                    self.unusable.push((file.clone(), error));
                    continue;
                }
                Err(error) => {
                    let HeadFile { device, generation, hash, .. } = *file;
                    self.lacking.insert(Lacking { device, generation, hash });
                    self.older.push((file.hash, error));
                    continue;
                }
            };
            let HeadFile { generation, hash, .. } = *file;
            let newest = self.newest.entry(*device).or_insert_with(|| Newest {
                name: commit.device_name.clone(),
                ledger: commit.ledger,
                hash,
                gives_back: features.gives_back(),
                knows_this: commit.processed.get(store.device()).is_some(),
                retired: commit.retired.iter().map(|entry| entry.device).collect(),
                bad: commit.bad.clone(),
            });
            let ledger = newest.ledger;
            self.here.features.merge(features);
            let is_given_back = |hash: &Hash| is_given_back(store, ledger, device, hash);
            if usable.is_later(&commit) {
                // Those that cannot be used are later still.
                self.unusable.truncate(first_unusable);
                self.here.later.add(*device, generation);
                let oldest = self.here.oldest_later.get_or_insert(commit.time);
                *oldest = commit.time.min(*oldest);
                self.bad.extend(&commit.bad);
                passed = Some((generation, commit.device_name, commit.previous));
                continue;
            }
            if let Some(passed) = passed.take() {
                self.add_gap(*device, passed, files, is_given_back);
            }
            let unlisted = store.unlisted(&commit).into_iter();
            self.unlisted.extend(unlisted.map(|(name, is)| (*device, generation, name, is)));
            followed.insert(commit.previous);
            chain.push(Link { generation, hash, previous: commit.previous });
            if store.is_copied(&file.name()) {
                self.copied.push(file.name());
            }
            if found.is_empty() || !followed.contains(&hash) {
                let name = commit.device_name.clone();
                let device = *device;
                let head = DeviceHead { device, name, generation, hash, commit, complete: true };
                found.push((head, file.clone()));
            }
        }
        let ledger = self.newest.get(device).map_or((NO_ID, 0), |newest| newest.ledger);
        let is_given_back = |hash: &Hash| is_given_back(store, ledger, device, hash);
        if let Some(passed) = passed {
            self.add_gap(*device, passed, files, is_given_back);
        }
        // The newest head's ledger lists the heads before it, though some between them are not here.
        let newest_hash = found.first().map(|(head, _)| head.hash);
        let is_before = |hash: &Hash| matches!(row_of(store, ledger, device, hash), Ok(Some(_)));
        found.retain(|(head, _)| Some(head.hash) == newest_hash || !is_before(&head.hash));
        let is_here = |hash: &Hash| files.iter().any(|file| file.hash == *hash);
        for Link { generation, previous: hash, .. } in &chain {
            if *hash != [0; 32] && !is_here(hash) && !is_given_back(hash) {
                let (device, generation, hash) = (*device, generation.saturating_sub(1), *hash);
                self.lacking.insert(Lacking { device, generation, hash });
            }
        }
        if let Some((newest, _)) = found.first() {
            let who = named(&newest.name, device);
            self.notices.extend(breaks(&chain).map(|Link { generation, hash, .. }| {
                let (device, generation, hash) = (*device, *generation, *hash);
                let path = Name::Head { device, generation, hash }.path();
                Notice::Damage(format!("{path}: the history of {who} does not fit before it"))
            }));
        }
        self.heads.extend(found);
    }

    /// Takes the states into account that devices keep and of which the heads are gone, if that is
    /// asked for.
    fn add_all_kept(&mut self, store: &Store, until: Timestamp) {
        // What a state needs that nobody keeps may be gone then, although its head is here.
        let is_given_back = self.newest.values().any(|newest| newest.gives_back);
        let all = self.newest.iter().map(|(device, newest)| {
            (*device, newest.name.clone(), newest.hash, kept_in(store, newest.ledger))
        });
        for (device, name, newest, kept) in all.collect::<Vec<_>>() {
            if is_given_back && let Ok(kept) = &kept {
                self.heads.retain(|(head, _)| {
                    let is_kept = head.hash == newest || kept.contains_key(&head.generation);
                    head.device != device || is_kept
                });
            }
            let own = self.heads.iter().find(|(head, _)| head.device == device);
            let last = own.map_or(0, |(head, _)| head.generation);
            self.add_kept((device, name), kept, until, last);
        }
    }

    /// Notes the newest state of a device of the time that is asked for, if its ledger keeps that and
    /// its head is gone: it is newer than that of the generation `last`.
    fn add_kept(
        &mut self,
        (device, name): (DeviceId, String),
        kept: Result<KeptCommits>,
        until: Timestamp,
        last: u64,
    ) {
        match kept {
            Ok(kept) => {
                let newer = kept.into_iter().rev().take_while(|(generation, _)| *generation > last);
                let newest = newer.into_iter().find(|(_, kept)| kept.time <= until);
                self.kept.extend(newest.map(|(generation, kept)| KeptState {
                    device,
                    name,
                    generation,
                    kept,
                }));
            }
            Err(error) => self.notices.push(Notice::of(&error)),
        }
    }
}

/// Whether a device has given a head back, as the ledger of its newest head says: the head is not here
/// because nobody needs it. What cannot be read, or has no row, is missed.
fn is_given_back(store: &Store, root: Root, device: &DeviceId, hash: &Hash) -> bool {
    let row = row_of(store, root, device, hash);
    matches!(row, Ok(Some(row)) if row.condemned != 0)
}

/// What the ledger with this root says of a head or object of the device.
fn row_of(store: &Store, root: Root, device: &DeviceId, hash: &Hash) -> Result<Option<Container>> {
    let wanted = LedgerKey::Container(*device, *hash).encode();
    let mut found = None;
    ledger::scan(store, root, &wanted, &mut |item| {
        found = (*item.key == *wanted).then(|| Container::decode(&item.bytes));
        ControlFlow::Break(())
    })?;
    found.transpose().map_err(|error| StoreError::damaged("a row of a ledger", error))
}

/// Opens one head and indexes what it holds. All bytes of the `newest` are inspected;
/// of the others, each is when it is read. Also returns its feature sets.
fn load_head(
    store: &Store,
    file: &HeadFile,
    newest: bool,
    usable: Usable<'_>,
) -> Result<(Commit, Features)> {
    let name = file.name();
    let (mut commit, mut extension, mut reader) = open_head(store, file)?;
    let newest = newest && !usable.is_later(&commit);
    if newest {
        let copied = store.is_copied(&name);
        if !store.verify(&name)? {
            let changed = StoreError::damaged(&name.path(), "its bytes changed");
            return Err(store.unless_arriving(changed));
        }
        if !copied && store.is_copied(&name) {
            (commit, extension, reader) = open_head(store, file)?;
        }
    }
    // What is indexed already stays as it is.
    let is_known = store.is_known(&name);
    if !is_known {
        store.index_commit(&commit);
    }
    if newest
        && usable.with_nodes
        && let Some(path) = store.lacking_nodes(&commit)
    {
        // Nothing below its root could be listed.
        return Err(StoreError::Missing { what: path });
    }
    if !is_known {
        store.index_container(&name, Arc::new(reader));
    }
    Ok((commit, extension.features))
}

/// The rows of a device's ledger for its folder; none as long as it gives nothing back. Those of a ledger
/// that was read before are not read again.
fn rows_of(store: &Store, device: &DeviceId, newest: &Newest) -> Result<Arc<Rows>> {
    if !newest.gives_back {
        return Ok(Arc::default());
    }
    let known = store.reliance(device).filter(|of| of.gives_back && of.ledger == newest.ledger);
    match known.and_then(|known| known.rows) {
        Some(rows) => Ok(rows),
        None => containers_in(store, newest.ledger, device).map(Arc::new),
    }
}

/// Of the heads and objects that a device keeps, as its ledger says, those that are not here at full
/// size: the device, the generation of the head that named it first, its name, and whether a file could
/// be a copy of it.
fn kept_and_not_here(
    store: &Store,
    device: DeviceId,
    files: &[HeadFile],
) -> Vec<(DeviceId, u64, Name, bool)> {
    let Some(reliance) = store.reliance(&device) else { return Vec::new() };
    let heads: HashSet<&Hash> = files.iter().map(|file| &file.hash).collect();
    let kept = reliance.rows().filter(|(_, row)| row.condemned == 0);
    let not_here = kept.filter(|(hash, row)| match row.kind {
        Kind::Head => !heads.contains(hash),
        _ => !store.is_listed(hash, row.size),
    });
    let named = not_here.map(|(hash, row)| {
        (device, row.generation, row.name(device, *hash), store.may_have_copy(hash))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::container::Kind;
    use crate::format::node::LedgerItem;
    use crate::merge::tests_devices::Device;
    use crate::tree::{Keys, NewNodes};

    /// A head that is condemned in the ledger of its device is not missed; one without a row is.
    #[test]
    fn a_head_is_given_back_if_its_row_says_so() {
        let laptop = Device::first("LAPTOP");
        let store = &laptop.volume().store;
        let own = [7; 16];
        let row = |hash: u8, condemned: u64| {
            let key = LedgerKey::Container(own, [hash; 32]).encode();
            let bytes = Container { kind: Kind::Head, generation: 3, size: 9, condemned }.encode();
            (key.clone(), Some(LedgerItem { key: key.into(), bytes }))
        };
        let mut new = NewNodes::new();
        let (keys, edits) = (Keys(&store.context().ids), [row(2, 0), row(4, 9)]);
        let root = ledger::edit(keys, &**store, (NO_ID, 0), &edits, &mut new).unwrap();
        let is_back = |root, hash: u8| is_given_back(store, root, &own, &[hash; 32]);
        // A ledger that cannot be read, or that was never written, says nothing.
        assert!(!is_back(root, 4) && !is_back((NO_ID, 0), 4));
        store.stage_nodes(new);
        for (hash, expected) in [(1, false), (2, false), (3, false), (4, true), (5, false)] {
            assert_eq!(is_back(root, hash), expected, "{hash}");
        }
        assert!(!is_given_back(store, root, &[8; 16], &[4; 32]), "another device's folder");
    }
}
