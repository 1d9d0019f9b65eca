//! The heads in REPO: opening them, and which one to stand on.
//!
//! Invariant: nobody writes on while a newer head of any device is here and
//! cannot be used, nor while local state and own heads disagree.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::repository::{HeadFile, open_head};
use super::state::State;
use super::{Base, Behind, DeviceHead, Notice, OpenOptions, Unusable, VolumeError};
use crate::crypto::{DeviceId, Hash, hex};
use crate::format::clock::{Generations, Tag, Writer};
use crate::format::commit::{Commit, Retired};
use crate::format::register::Features;
use crate::io::SyncedFolder;
use crate::store::{Result, Store, StoreError};

/// The fewest digits of a device's id that stand for it.
const ID_DIGITS_MIN: usize = 4;

/// Head files of each device, ascending by generation.
type Heads = BTreeMap<DeviceId, Vec<HeadFile>>;

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
    /// The newest usable one of each device.
    pub newest: Vec<(DeviceHead, HeadFile)>,
    /// Newer ones that cannot be used, and why.
    pub unusable: Vec<(HeadFile, StoreError)>,
    /// Devices that a repair went on without, and the last generation of each
    /// that it found.
    pub retired: BTreeMap<DeviceId, u64>,
    /// Second heads of a device's newest generation: its state was copied.
    pub clones: Vec<String>,
    /// Feature sets that the heads name, authentic.
    pub features: Features,
}

/// Opens all heads for their index entries.
///
/// With `with_nodes`, a head of which tree nodes are not here yet cannot be used.
pub(super) fn load_heads(
    store: &Store,
    heads: &Heads,
    with_nodes: bool,
    notices: &mut Vec<Notice>,
) -> Loaded {
    let mut loaded = Loaded::default();
    let mut older = Vec::new();
    for (device, files) in heads {
        let mut found: Option<(DeviceHead, HeadFile)> = None;
        let mut all_here = true;
        let mut chain = Vec::new();
        for file in files.iter().rev() {
            match load_head(store, file, found.is_none(), with_nodes) {
                Ok((commit, features, complete)) => {
                    all_here &= complete;
                    chain.push((file, commit.previous));
                    loaded.features.merge(features);
                    if store.is_copied(&file.name()) {
                        let path = file.name().path();
                        let text = format!("{path}: it is not in its place; a copy stands in");
                        notices.push(Notice::Misplaced(text));
                    }
                    if found.as_ref().is_some_and(|(_, newer)| newer.generation == file.generation)
                    {
                        loaded.clones.push(shown(&commit.device_name, device, commit.generation));
                    }
                    found.get_or_insert_with(|| {
                        let head = DeviceHead {
                            device: *device,
                            name: commit.device_name.clone(),
                            generation: commit.generation,
                            hash: file.hash,
                            commit,
                            complete: true,
                        };
                        (head, file.clone())
                    });
                }
                Err(error) if found.is_none() => loaded.unusable.push((file.clone(), error)),
                Err(error) => older.push((file.hash, error)),
            }
        }
        if let Some((mut head, file)) = found {
            notices.extend(breaks(&chain).map(|path| {
                let who = named(&head.name, device);
                Notice::Damage(format!("{path}: the history of {who} does not fit before it"))
            }));
            head.complete = all_here;
            loaded.newest.push((head, file));
        }
    }
    let mut heirs: BTreeMap<DeviceId, DeviceId> = BTreeMap::new();
    for retired in loaded.newest.iter().flat_map(|(head, _)| &head.commit.retired) {
        // Of several entries of a device the one with the lowest heir counts.
        let heir = heirs.entry(retired.device).or_insert(retired.heir);
        let last = loaded.retired.entry(retired.device).or_insert(retired.last);
        if retired.heir < *heir {
            (*heir, *last) = (retired.heir, retired.last);
        } else if retired.heir == *heir {
            *last = retired.last.min(*last);
        }
    }
    let given_up = |(file, _): &(HeadFile, _)| {
        loaded.retired.get(&file.device).is_some_and(|last| file.generation > *last)
    };
    for (_, error) in loaded.unusable.extract_if(.., |unusable| given_up(unusable)) {
        notices.push(Notice::Note(format!("{error}; a repair went on without it")));
    }
    notices.extend(loaded.unusable.iter().map(|(_, error)| Notice::of(error)));
    let newest = loaded.newest.iter();
    let bad: HashSet<&Hash> = newest.flat_map(|(head, _)| &head.commit.bad).collect();
    for (hash, error) in &older {
        notices.push(match Notice::of(error) {
            Notice::Damage(text) if bad.contains(hash) => Notice::Note(text),
            notice => notice,
        });
    }
    loaded
}

/// Paths of the heads of one device that do not name the head of the generation before
/// theirs, although that is here and can be read; or that have none before and name one.
/// `chain` has heads that can be read, and the hash that each calls its previous.
fn breaks(chain: &[(&HeadFile, Hash)]) -> impl Iterator<Item = String> {
    let fits = |file: &HeadFile, previous: &Hash| {
        let mut before = chain.iter().filter(|(other, _)| other.generation + 1 == file.generation);
        match before.next() {
            None => file.generation > 1 || *previous == [0; 32],
            Some((first, _)) => {
                first.hash == *previous || before.any(|(other, _)| other.hash == *previous)
            }
        }
    };
    chain
        .iter()
        .filter(move |(file, previous)| !fits(file, previous))
        .map(|(file, _)| file.name().path())
}

/// Opens one head and learns what it holds. The bytes of the `newest` are all
/// looked at; later, each is when it is read. Also tells its feature sets, and
/// whether all objects that it names are here.
fn load_head(
    store: &Store,
    file: &HeadFile,
    newest: bool,
    with_nodes: bool,
) -> Result<(Commit, Features, bool)> {
    let name = file.name();
    let (mut commit, mut extension, mut reader) = open_head(store, file)?;
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
    let complete = store.index_commit(&commit);
    if newest
        && with_nodes
        && let Some(path) = store.lacking_nodes(&commit)
    {
        // Nothing below its root could be listed.
        return Err(StoreError::Missing { what: path });
    }
    store.index_container(&name, Arc::new(reader));
    Ok((commit, extension.features, complete))
}

/// Writing on while a newer head cannot be read would make two histories.
pub(super) fn refuse(unusable: Vec<StoreError>) -> std::result::Result<(), VolumeError> {
    let mut waiting = Vec::new();
    for error in unusable {
        match error {
            StoreError::Missing { what } => waiting.push(what),
            other => return Err(other.into()),
        }
    }
    if waiting.is_empty() { Ok(()) } else { Err(VolumeError::Waiting(waiting.join(" and "))) }
}

/// What a repair by `heir` goes on without: devices with a newest head that cannot be
/// used or that was `seen` and is not here, and the last one that can.
pub(super) fn given_up(loaded: &Loaded, seen: &Generations, heir: DeviceId) -> Vec<Retired> {
    let here = |device: &DeviceId| loaded.newest.iter().find(|(head, _)| head.device == *device);
    let last = |device: &DeviceId| here(device).map_or(0, |(head, _)| head.generation);
    let lost = seen.iter().filter(|(device, seen)| last(device) < *seen);
    let unusable = loaded.unusable.iter().map(|(file, _)| &file.device);
    let devices: BTreeSet<&DeviceId> = unusable.chain(lost.map(|(device, _)| device)).collect();
    let retired = devices.into_iter().map(|device| Retired {
        device: *device,
        last: last(device),
        tag: here(device).map_or(Tag::default(), |(_, file)| Tag::of(&file.hash)),
        heir,
    });
    retired.collect()
}

/// Sets local state right where a crash came between a head and its record,
/// and refuses a state that is older than its heads.
pub(super) fn adopt_own(
    state: &mut State,
    own_heads: &[HeadFile],
    Loaded { newest, retired, .. }: &Loaded,
    repo: &dyn SyncedFolder,
    intents: &[String],
    notices: &mut Vec<Notice>,
) -> std::result::Result<(), VolumeError> {
    if retired.contains_key(&state.device) {
        return Err(VolumeError::State(
            "a repair of the repository went on without the newest changes of this device".into(),
        ));
    }
    let own = newest.iter().find(|(head, _)| head.device == state.device);
    let Some((head, file)) = own else {
        if state.generation > 0 {
            return Err(VolumeError::RolledBack(format!(
                "this device published generation {} and the folder has no head of it: the folder \
                 was put back, or its files are not here yet",
                state.generation
            )));
        }
        return Ok(());
    };
    if head.generation < state.generation {
        return Err(VolumeError::RolledBack(format!(
            "this device published generation {}, the folder has only {}: the folder was put \
             back, or its files are not here yet",
            state.generation, head.generation
        )));
    }
    if head.generation == state.generation {
        // With both of them here, they are two branches.
        if file.hash == state.head || own_heads.iter().any(|file| file.hash == state.head) {
            return Ok(());
        }
        return Err(VolumeError::State(format!(
            "another copy of it published generation {}",
            state.generation
        )));
    }
    let path = file.name().path();
    if intents.contains(&path) {
        // Killed before its flush, the process may have left it in the page
        // cache only; local state must not claim it before it is durable.
        let whole = repo.read(&path, file.size).and_then(|bytes| repo.publish(&path, &bytes));
        whole.map_err(|error| StoreError::io(&path, error))?;
        let text = "finished a checkpoint that a crash had interrupted";
        notices.push(Notice::Note(text.into()));
        state.generation = head.generation;
        state.news = head.commit.news;
        state.head = file.hash;
        state.base = file.hash;
        state.journal = head.commit.journal;
        return Ok(());
    }
    Err(VolumeError::State(format!(
        "it is older than this device's own head (generation {} against {}): it was restored or \
         copied",
        state.generation, head.generation
    )))
}

/// Devices that wrote newer heads than are here, as local state and the vault know.
/// Heads that are here and `unusable` are none of these.
pub(super) fn find_behind(
    Loaded { newest, retired, .. }: &Loaded,
    unusable: &[Unusable],
    state: &State,
    told: &Generations,
) -> Vec<Behind> {
    let mut known = told.clone();
    for (device, seen) in state.seen.iter().chain([(&state.device, state.generation)]) {
        known.add(*device, seen);
    }
    let mut behind = Vec::new();
    for (&device, known) in known.iter() {
        let head = newest.iter().map(|(head, _)| head).find(|head| head.device == device);
        let here = head.map_or(0, |head| head.generation);
        let excused = retired.get(&device).is_some_and(|last| here >= *last);
        let folder = format!("{}/", crate::crypto::hex(&device));
        let is_here = unusable.iter().any(|head| head.path.starts_with(&folder));
        if here < known && !excused && !is_here {
            behind.push(Behind {
                device,
                name: head.map(|head| head.name.clone()),
                own: device == state.device,
                known,
                here,
                time: head.map(|head| head.commit.time),
            });
        }
    }
    behind
}

/// The newest head of the one device that has this name, or an id that begins so.
fn only(newest: &[(DeviceHead, HeadFile)], wanted: &str) -> std::result::Result<Base, VolumeError> {
    let digits = wanted.to_ascii_lowercase();
    let is = |(head, _): &&(DeviceHead, HeadFile)| {
        head.name == wanted
            || (digits.len() >= ID_DIGITS_MIN && hex(&head.device).starts_with(&digits))
    };
    let found: Vec<_> = newest.iter().filter(is).collect();
    match found.as_slice() {
        [(head, file)] => Ok(Base::new(head.commit.clone(), file.hash)),
        [] => Err(VolumeError::NoDevice {
            wanted: wanted.to_owned(),
            here: newest.iter().map(|(head, _)| named(&head.name, &head.device)).collect(),
        }),
        several => Err(VolumeError::SeveralDevices {
            wanted: wanted.to_owned(),
            here: several
                .iter()
                .map(|(head, _)| {
                    let DeviceHead { name, device, generation, .. } = head;
                    format!("{name}, id {}, generation {generation}", hex(device))
                })
                .collect(),
        }),
    }
}

/// The head to stand on: the one that was made knowing all others.
pub(super) fn choose(
    Loaded { newest, clones, .. }: &Loaded,
    state: &State,
    heads: &Heads,
    options: &OpenOptions,
    writer: Writer,
) -> std::result::Result<Base, VolumeError> {
    if let Some(wanted) = &options.only_device {
        return only(newest, wanted);
    }
    let covers =
        |a: &DeviceHead, b: &DeviceHead| a.commit.processed.generation(&b.device) >= b.commit.news;
    let when = |head: &DeviceHead| (head.commit.time, head.generation, head.device);
    let top: Vec<_> = newest
        .iter()
        .filter(|(head, _)| {
            !newest.iter().any(|(other, _)| {
                // Of two that each were made knowing the other's changes, the later one.
                other.device != head.device
                    && covers(other, head)
                    && (!covers(head, other) || when(other) > when(head))
            })
        })
        .collect();
    match top.as_slice() {
        [] if newest.is_empty() => {
            if heads.values().any(|files| !files.is_empty()) {
                return Err(VolumeError::Waiting("a readable head of any device".into()));
            }
            // An empty tree in place of what was here would be a second history.
            if !options.accept_older && !state.seen.is_empty() {
                return Err(VolumeError::RolledBack(
                    "heads of this repository were here before, and none is now: the folder was \
                     put back, or its files are not here yet"
                        .into(),
                ));
            }
            let device_name = state.name.clone();
            let empty = Commit { device_name, ..Commit::empty(state.device, writer) };
            Ok(Base::new(empty, [0; 32]))
        }
        [(head, file)] if clones.is_empty() => Ok(Base::new(head.commit.clone(), file.hash)),
        several => Err(VolumeError::Diverged(
            several
                .iter()
                .map(|(head, _)| shown(&head.name, &head.device, head.generation))
                .chain(clones.iter().cloned())
                .collect(),
        )),
    }
}

fn shown(name: &str, device: &DeviceId, generation: u64) -> String {
    format!("{} generation {generation}", named(name, device))
}

/// A device as messages name it: two may have one name.
fn named(name: &str, device: &DeviceId) -> String {
    format!("{name} ({})", hex(&device[..4]))
}
