//! What a volume is based on: one head, or the join of several.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::plan::{Head, Plan, Refusal, Verdict};
use super::read::{Cause, Heads, KeptState, Lacking, LeftOut, Loaded, Usable, load_heads};
use super::tell;
use crate::crypto::{DeviceId, Hash, hex};
use crate::format::clock::{Seen, Tag, Writer};
use crate::format::commit::Commit;
use crate::format::namespace::{Inode, Key, Value};
use crate::format::node::MapItem;
use crate::io::Timestamp;
use crate::merge;
use crate::store::{Result, Store, StoreError, Stray};
use crate::tree::{Root, diff, join};
use crate::volume::repository::{HeadFile, Repository, open_head};
use crate::volume::state::State;
use crate::volume::{Base, DeviceHead, Holder, Inherited, Notice, Tree, VolumeError, named};

/// With how many heads it is tried to begin a join that fails.
const FIRSTS_MAX: usize = 8;

/// The base that these heads make; it is the same for every order of them.
///
/// # Panics
///
/// If there is no head.
pub(super) fn based_on(store: &Store, heads: &[&(DeviceHead, HeadFile)]) -> Result<Base> {
    let mut heads: Vec<&DeviceHead> = heads.iter().map(|(head, _)| head).collect();
    heads.sort_unstable_by_key(|head| head.hash);
    let of = |head: &DeviceHead| Inherited::of(&head.commit, head.hash);
    let newest = |head: &&&DeviceHead| (head.commit.time, head.generation, head.device);
    let commit = heads.iter().max_by_key(newest).expect("a base has a head").commit.clone();
    let mut inherited = of(heads[0]);
    if heads.len() == 1 {
        let namespace = merge::join(store, &[inherited.root])?;
        return Ok(Base { inherited, namespace, commit });
    }
    for head in &heads[1..] {
        inherited.join(&of(head));
    }
    let roots: Vec<Root> = heads.iter().map(|head| head.commit.root).collect();
    let namespace = merge::join(store, &roots)?;
    let first = merge::join(store, &roots[..1])?;
    let known = (first.shown, inherited.inodes, inherited.bytes);
    (inherited.inodes, inherited.bytes) = counts(store, known, namespace.shown)?;
    inherited.root = namespace.stored;
    Ok(Base { inherited, namespace, commit })
}

/// The base that the heads of a plan make together with states whose heads are gone; none if the plan
/// is another refusal than that nothing was here yet.
fn with_kept(store: &Store, loaded: &Loaded, plan: &Plan) -> Result<Option<Base>> {
    match plan.verdict {
        Verdict::StandOn(_) | Verdict::Join(_) | Verdict::Refuse(Refusal::TooEarly) => {}
        Verdict::Replay | Verdict::Refuse(_) => return Ok(None),
    }
    let tips: Vec<_> = tips(&plan.verdict).iter().map(|at| &loaded.heads[*at]).collect();
    let newest = loaded.kept.iter().max_by_key(|state| (state.kept.time, state.generation));
    let KeptState { device, name, generation, kept } = newest.expect("there is one");
    let commit = Commit {
        generation: *generation,
        time: kept.time,
        root: kept.root,
        inodes: kept.inodes,
        bytes: kept.bytes,
        device_name: name.clone(),
        ..Commit::empty(*device, Writer::new(1).expect("it is in range"))
    };
    let mut base = match tips[..] {
        [] => Base::plain(commit.clone(), [0; 32]),
        _ => based_on(store, &tips)?,
    };
    let roots = loaded.kept.iter().map(|state| state.kept.root);
    let roots: Vec<Root> = roots.chain(tips.iter().map(|(head, _)| head.commit.root)).collect();
    let known = (base.namespace.shown, base.inherited.inodes, base.inherited.bytes);
    let joined = merge::join(store, &roots)?;
    // What only the tree before has is in memory for as long as that is held.
    (base.inherited.inodes, base.inherited.bytes) = counts(store, known, joined.shown)?;
    base.namespace = joined;
    base.inherited.root = base.namespace.stored;
    if base.commit.time < commit.time {
        base.commit = commit;
    }
    Ok(Some(base))
}

/// Heads that were read, what was decided of them, and what they make if they were joined.
pub(super) struct Decided {
    /// The heads that are here, but for those that were left out.
    pub loaded: Loaded,
    /// Which of them count, and what else an opening does.
    pub plan: Plan,
    /// The join of the heads that the plan names, and what the owner is told of it. None if the
    /// plan joins nothing, or the caller has the join already.
    pub joined: Option<(Base, Vec<Notice>)>,
}

/// Reads heads, with all that decides which of them count.
pub(super) fn read_heads(
    store: &Store,
    repository: &Repository,
    heads: &Heads,
    usable: Usable<'_>,
) -> Loaded {
    let mut loaded = load_heads(store, heads, usable);
    mark_contained(store, &mut loaded);
    loaded.here.features.merge(store.context().keyring.features);
    loaded.here.closed = tell::closed(repository).map(|(_, device)| device).collect();
    loaded.here.hides = repository.strays.iter().any(Stray::hides);
    loaded
}

/// What is joined.
#[derive(Clone, Copy, Default)]
pub(super) struct Joining<'a> {
    /// This device: a head of another one that cannot be joined is left out, and its older head
    /// counts. None if nothing is left out.
    pub own: Option<&'a DeviceId>,
    /// What a mount shows already: the heads of just this are not joined once more. A head of another
    /// device that brings files which are not here is left out: what the mount shows can be read.
    pub shown: Option<&'a Base>,
    /// Heads that were made later are passed by.
    pub until: Option<Timestamp>,
}

/// Reads heads, has it decided by `decide` which count, and joins them.
pub(super) fn read_and_join(
    store: &Store,
    repository: &Repository,
    heads: &Heads,
    joining: Joining<'_>,
    mut decide: impl FnMut(&Loaded) -> std::result::Result<Plan, VolumeError>,
) -> std::result::Result<Decided, VolumeError> {
    let Joining { own, shown, until } = joining;
    let has = shown.map_or(Vec::new(), Base::heads);
    let mut left_out = LeftOut::new();
    loop {
        let usable = Usable { with_nodes: own.is_some(), left_out: &left_out, until };
        let loaded = read_heads(store, repository, heads, usable);
        let plan = decide(&loaded)?;
        if let Some(own) = own {
            let mut lacking = lacking_trees(store, &loaded, &plan.verdict, own)?;
            if let Some(shown) = shown {
                lacking.extend(arriving(&loaded, heads, &plan.verdict, (own, shown)));
            }
            if !lacking.is_empty() {
                left_out.extend(lacking);
                continue;
            }
        }
        if !loaded.kept.is_empty()
            && let Some(base) = with_kept(store, &loaded, &plan)?
        {
            let verdict = Verdict::Join(tips(&plan.verdict).to_vec());
            let plan = Plan { verdict, ..plan };
            return Ok(Decided { loaded, plan, joined: Some((base, Vec::new())) });
        }
        let Verdict::Join(tips) = &plan.verdict else {
            return Ok(Decided { loaded, plan, joined: None });
        };
        let tips: Vec<_> = tips.iter().map(|at| &loaded.heads[*at]).collect();
        let hashes: BTreeSet<Hash> = tips.iter().map(|(head, _)| head.hash).collect();
        if hashes.iter().eq(&has) {
            return Ok(Decided { loaded, plan, joined: None });
        }
        let others = match (based_on(store, &tips), own) {
            (Ok(base), _) => {
                let told = tell::joined(&tips, &base);
                return Ok(Decided { loaded, plan, joined: Some((base, told)) });
            }
            (Err(StoreError::Missing { .. } | StoreError::Crowded { .. }), Some(own)) => {
                not_joinable(store, &tips, own)?
            }
            (Err(error), _) => return Err(error.into()),
        };
        left_out.extend(others);
    }
}

/// Marks heads whose device has several that do not follow one another: whether another head has
/// all changes of this one. Of two heads with the same changes the one of the higher generation has
/// those of the other: a clock may have been set between them. A head that a newer one may follow, by
/// way of heads that are not here, counts as one of which another has all changes where nothing tells.
fn mark_contained(store: &Store, loaded: &mut Loaded) {
    let heads = &mut loaded.here.heads;
    let is_one_of_several = |at: usize| {
        let device = |at: usize| heads.get(at).map(|head| head.device);
        let before = at.checked_sub(1).and_then(device);
        [before, device(at + 1)].contains(&device(at))
    };
    let several: Vec<usize> = (0..heads.len()).filter(|at| is_one_of_several(*at)).collect();
    if several.is_empty() {
        return;
    }
    let (mut seen, mut notices): (Vec<Option<Seen>>, _) = (Vec::new(), Vec::new());
    for (head, _) in &loaded.heads {
        seen.push(match join::seen(store, head.commit.root) {
            Ok(seen) => Some(seen),
            Err(StoreError::Missing { .. }) => None,
            Err(error) => {
                notices.push(Notice::of(&error));
                None
            }
        });
    }
    loaded.notices.extend(notices);
    // Heads between it and a newer one of its device, of which nothing tells what that saw, are not here.
    let may_be_followed = |at: usize| {
        let is_newer = |other: &Head| {
            other.device == heads[at].device && other.generation > heads[at].generation
        };
        let untold = heads.iter().zip(&seen).any(|(head, seen)| seen.is_none() && is_newer(head));
        let is_between = |lacking: &Lacking| {
            lacking.device == heads[at].device && lacking.generation > heads[at].generation
        };
        untold && loaded.lacking.iter().any(is_between)
    };
    let has_all = |one: &Seen, other: &Seen| one.dots().all(|dot| other.covers(dot));
    let rank = |at: usize| (heads[at].generation, heads[at].time, heads[at].hash);
    let is_contained = |at: usize| {
        // What is not here in full is taken up once it is.
        let Some(own) = &seen[at] else {
            return at > 0 && heads[at - 1].device == heads[at].device;
        };
        let others = seen.iter().enumerate().filter(|(other, _)| *other != at);
        let is_in = |(other, theirs): (usize, &Seen)| {
            has_all(own, theirs) && (!has_all(theirs, own) || rank(other) > rank(at))
        };
        others.filter_map(|(at, seen)| Some((at, seen.as_ref()?))).any(is_in) || may_be_followed(at)
    };
    let told: Vec<bool> = several.iter().map(|at| is_contained(*at)).collect();
    for (at, is_contained) in several.into_iter().zip(told) {
        heads[at].is_contained = Some(is_contained);
    }
}

/// Places of the heads that a verdict names.
pub(super) fn tips(verdict: &Verdict) -> &[usize] {
    match verdict {
        Verdict::StandOn(at) => at.as_slice(),
        Verdict::Join(tips) => tips,
        Verdict::Replay | Verdict::Refuse(_) => &[],
    }
}

/// Of the heads of other devices that a verdict names, those that bring a state which is not in what
/// is shown, and of which a head or an object is not here.
fn arriving(
    loaded: &Loaded,
    heads: &Heads,
    verdict: &Verdict,
    (own, shown): (&DeviceId, &Base),
) -> LeftOut {
    let mut found = LeftOut::new();
    for (head, _) in tips(verdict).iter().map(|at| &loaded.heads[*at]) {
        let processed = head.commit.processed.iter();
        let processed = processed.map(|(device, generation)| (device, generation, false));
        let brings = processed.chain([(head.device, head.generation, true)]);
        for (device, generation, is_its_own) in brings {
            let merged = shown.inherited.merged.generation(&device);
            if head.device == *own || device == *own || generation <= merged {
                continue;
            }
            let is_retired = head.commit.retired.iter().any(|entry| entry.device == device);
            let newest = heads.get(&device).and_then(|files| files.last());
            let is_here = newest.is_some_and(|file| file.generation >= generation);
            let objects = loaded.arriving.get(&device);
            let objects = objects.and_then(|all| all.range(merged + 1..=generation).next());
            let is_new = |of: &&Lacking| {
                of.device == device && (merged + 1..=generation).contains(&of.generation)
            };
            let what = match (objects, loaded.lacking.iter().find(is_new)) {
                (Some((_, path)), _) => path.clone(),
                (None, Some(of)) => {
                    format!("state {} of device {}", of.generation, &hex(&device)[..8])
                }
                (None, None) if is_its_own || is_here || is_retired => continue,
                (None, None) => format!("state {generation} of device {}", &hex(&device)[..8]),
            };
            let name = named(&head.name, &head.device);
            let what = format!("a part of state {} of {name} ({what})", head.generation);
            found.insert(head.hash, Cause::Missing(what));
        }
    }
    found
}

/// Of the heads of other devices that a verdict names, those whose trees are not here in full.
/// Only heads are looked at that may lack a part: one before them is not here.
fn lacking_trees(
    store: &Store,
    loaded: &Loaded,
    verdict: &Verdict,
    own: &DeviceId,
) -> Result<LeftOut> {
    let mut lacking = LeftOut::new();
    for (head, _) in tips(verdict).iter().map(|at| &loaded.heads[*at]) {
        if head.device == *own || !loaded.lacks_head_of(&head.device) {
            continue;
        }
        let tree = Tree { store, root: head.commit.root };
        // What is damaged is told where it is read.
        let read = tree.scan_items(&[], &mut |_| ControlFlow::Continue(()));
        if let Err(error @ StoreError::Missing { .. }) = read {
            lacking.insert(head.hash, tell::left_out(head, error)?);
        }
    }
    Ok(lacking)
}

/// Of heads that cannot be joined, because something is not here or they are too many, those
/// without which the others can: as many others as possible, the own one among them. At least
/// one.
fn not_joinable(
    store: &Store,
    heads: &[&(DeviceHead, HeadFile)],
    own: &DeviceId,
) -> Result<LeftOut> {
    let own = heads.iter().find(|(head, _)| head.device == *own);
    let firsts = own.map_or(&heads[..heads.len().min(FIRSTS_MAX)], std::slice::from_ref);
    let mut fewest: Option<LeftOut> = None;
    for first in firsts {
        let (mut joined, mut left_out) = (vec![*first], LeftOut::new());
        for head in heads.iter().filter(|head| head.0.hash != first.0.hash) {
            joined.push(*head);
            if let Err(error) = based_on(store, &joined) {
                joined.pop();
                left_out.insert(head.0.hash, tell::left_out(&head.0, error)?);
            }
        }
        if fewest.as_ref().is_none_or(|fewest| left_out.len() < fewest.len()) {
            fewest = Some(left_out);
        }
    }
    Ok(fewest.expect("several heads were to be joined"))
}

/// Which heads of the device with this local state the newest heads of other devices hold. A head
/// of another copy of the device does not count, whatever its number is.
pub(super) fn holders(
    store: &Store,
    heads: &Heads,
    state: &State,
    newest: &[DeviceHead],
) -> Vec<Holder> {
    let own = &state.device;
    let files = heads.get(own).map_or(&[][..], Vec::as_slice);
    let holder = |head: &DeviceHead| {
        let (generation, tag) = head.held_of(own, (state.generation, &state.head))?;
        let mut same = files.iter().filter(|file| file.generation == generation).peekable();
        let is_gone = same.peek().is_none();
        let file = same.find(|file| Tag::of(&file.hash) == tag);
        if file.is_none() && !is_gone {
            return None;
        }
        let time =
            file.and_then(|file| open_head(store, file).ok()).map(|(commit, ..)| commit.time);
        Some(Holder { device: head.device, name: head.name.clone(), generation, time })
    };
    newest.iter().filter(|head| head.device != *own).filter_map(holder).collect()
}

/// Inodes, and the sum of the sizes of all files, of the namespace at `root`; those of
/// another one, that has much in common with it, are known.
fn counts(store: &Store, known: (Root, u64, u64), root: Root) -> Result<(u64, u64)> {
    let (before, mut inodes, mut bytes) = known;
    for difference in diff::maps(store, before, root) {
        let difference = difference?;
        let (old, new) = difference.sides();
        if let Some(inode) = inode(old)? {
            inodes = inodes.wrapping_sub(1);
            bytes = bytes.wrapping_sub(size(&inode));
        }
        if let Some(inode) = inode(new)? {
            inodes = inodes.wrapping_add(1);
            bytes = bytes.wrapping_add(size(&inode));
        }
    }
    Ok((inodes, bytes))
}

fn size(inode: &Inode) -> u64 {
    if inode.is_file() { inode.size } else { 0 }
}

fn inode(item: Option<&MapItem>) -> Result<Option<Box<Inode>>> {
    let Some(item) = item else { return Ok(None) };
    Ok(match Tree::decode(item)? {
        (Key::Inode(_), Value::Inode(inode)) => Some(inode),
        _ => None,
    })
}
