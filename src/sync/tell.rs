//! What the owner is told of an opening, in words.

use std::collections::HashSet;

use super::plan::{Plan, Refusal};
use super::read::{Cause, Lacking, Loaded};
use crate::crypto::{DeviceId, Hash, hex, unhex};
use crate::format::register::Features;
use crate::io::{Timestamp, local_time};
use crate::merge::ConflictKind;
use crate::store::{Oddity, Store, StoreError, Stray};
use crate::volume::repository::{HeadFile, OpenFailure, Repository};
use crate::volume::{Base, DeviceHead, Notice, VolumeError, name_of, named};

/// Folders of devices, or of their heads, that cannot be listed, and whose they are.
pub(super) fn closed(repository: &Repository) -> impl Iterator<Item = (&Stray, DeviceId)> {
    let strays = repository.strays.iter().filter(|stray| stray.error().is_some());
    strays.filter_map(|stray| Some((stray, device_of(stray)?)))
}

/// The device, if this is its folder or that of its heads.
fn device_of(stray: &Stray) -> Option<DeviceId> {
    let (device, rest) = stray.path.split_once('/').unwrap_or((&stray.path, ""));
    if rest.is_empty() || rest == "head" { unhex(device) } else { None }
}

/// Tells what is wrong with heads that a plan goes on without.
pub(super) fn tell_heads(loaded: &Loaded, plan: &Plan, notices: &mut Vec<Notice>) {
    let error = |at: &usize| &loaded.unusable[*at].1;
    for error in plan.given_up.iter().map(error) {
        notices
            .push(Notice::Note(format!("{error}; its device is retired, and nobody waits for it")));
    }
    notices.extend(plan.unusable.iter().map(error).map(Notice::of));
    let is_told = |hash: &Hash| loaded.older.iter().any(|(older, _)| older == hash);
    for Lacking { device, .. } in loaded.lacking.iter().filter(|of| !is_told(&of.hash)) {
        let mut newest = plan.newest.iter().map(|at| &loaded.heads[*at].0);
        let Some(head) = newest.find(|head| head.device == *device) else { continue };
        notices.push(Notice::Missing(format!(
            "a state of {} before state {} is not here (yet): what only that state has cannot be \
             read",
            named(&head.name, device),
            head.generation
        )));
    }
    let newest = plan.newest.iter().map(|at| &loaded.heads[*at].0);
    let bad: HashSet<&Hash> = newest.flat_map(|head| &head.commit.bad).collect();
    for (hash, error) in &loaded.older {
        notices.push(match Notice::of(error) {
            Notice::Damage(text) if bad.contains(hash) => Notice::Note(text),
            notice => notice,
        });
    }
}

/// Tells where the clear feature sets are others than the sealed ones.
pub(super) fn tell_changed_features(
    repository: &Repository,
    sealed: Features,
    notices: &mut Vec<Notice>,
) {
    let mut all = sealed;
    all.merge(repository.features);
    if all != sealed {
        notices.push(Notice::Damage(
            "a header or head names features in the clear that are not sealed with the key: \
             somebody changed it, and it is not believed"
                .into(),
        ));
    }
}

/// Tells what in REPO is not as it should be, as far as it may keep something
/// from being found.
pub(super) fn tell_strays(store: &Store, repository: &Repository, notices: &mut Vec<Notice>) {
    let in_objects = if store.absent().is_empty() { Vec::new() } else { store.strays() };
    let told = repository.strays.iter().chain(&in_objects).filter(|stray| {
        let above = |other: &&Stray| {
            other.error().is_some()
                && stray.path.strip_prefix(&other.path).is_some_and(|rest| rest.starts_with('/'))
        };
        stray.in_place && stray.what != Oddity::Copy && !repository.strays.iter().any(|o| above(&o))
    });
    notices.extend(told.map(Notice::of_stray));
}

/// Tells where no head is here at all.
pub(super) fn tell_none(repository: &Repository, notices: &mut Vec<Notice>) {
    if repository.heads.values().all(Vec::is_empty) {
        notices.push(Notice::Missing(
            "a head of any device is not here: nothing was written since init, or it has not come"
                .into(),
        ));
    }
}

/// What is wrong with local state, if that is why an opening is refused: what its device
/// has in REPO is of another history.
pub(super) fn overtaken(refusal: &Refusal, loaded: &Loaded, published: u64) -> Option<String> {
    Some(match refusal {
        Refusal::Retired(heir) => {
            let heads = loaded.heads.iter().map(|(head, _)| head);
            format!("{} retired this device", name_of(heads, heir))
        }
        Refusal::Copied => format!("another copy of it published generation {published}"),
        Refusal::StateOlder { here } => format!(
            "it is older than this device's newest head (generation {published} against {here}): \
             it was restored or copied"
        ),
        _ => return None,
    })
}

/// The error for an opening that is refused. `published` is the generation of this
/// device's newest head, as local state has it.
pub(super) fn refused(
    refusal: Refusal,
    mut loaded: Loaded,
    repository: &Repository,
    published: u64,
) -> VolumeError {
    if let Some(what) = overtaken(&refusal, &loaded, published) {
        return VolumeError::State(what);
    }
    match refusal {
        Refusal::NewerHead(at) => match loaded.unusable.swap_remove(at).1 {
            StoreError::Newer { path, what } => {
                OpenFailure::Newer(format!("{path}: {what}")).into()
            }
            error => error.into(),
        },
        Refusal::Features { readable: true } => {
            OpenFailure::Newer("it may only be read by this version".into()).into()
        }
        Refusal::Features { readable: false } => {
            let features = loaded.here.features.incompatible;
            OpenFailure::Newer(format!("unknown incompatible features {features:#x}")).into()
        }
        Refusal::Closed(at) => {
            let (stray, _) = closed(repository).nth(at).expect("a place in this list");
            let source = stray.error().expect("only folders with an error are in it");
            StoreError::io(&stray.path, source).into()
        }
        Refusal::Hidden => {
            let hidden = repository.strays.iter().filter(|stray| stray.hides());
            let hidden: Vec<String> = hidden.map(Stray::to_string).collect();
            VolumeError::Waiting(format!("a head of any device; {}", hidden.join("; ")))
        }
        Refusal::Unusable(at) => loaded.unusable.swap_remove(at).1.into(),
        Refusal::Arriving(places) => {
            let what = |at: &usize| match &loaded.unusable[*at].1 {
                StoreError::Missing { what } => what.clone(),
                error => error.to_string(),
            };
            VolumeError::Waiting(places.iter().map(what).collect::<Vec<_>>().join(" and "))
        }
        Refusal::NoneUsable => VolumeError::Waiting("a readable head of any device".into()),
        Refusal::AllGone => VolumeError::RolledBack(
            "heads of this repository were here before, and none is now: the folder was put back, \
             or its files are not here yet"
                .into(),
        ),
        Refusal::OwnGone => VolumeError::RolledBack(format!(
            "this device published generation {published} and the folder has no head of it: the \
             folder was put back, or its files are not here yet"
        )),
        Refusal::OwnOlder { here } => VolumeError::RolledBack(format!(
            "this device published generation {published}, the folder has only {here}: the folder \
             was put back, or its files are not here yet"
        )),
        Refusal::TooEarly => VolumeError::TooEarly { oldest: loaded.here.oldest_later },
        Refusal::NoDevice(wanted) => {
            let heads = loaded.heads.iter().map(|(head, _)| head);
            VolumeError::NoDevice {
                wanted,
                here: heads.map(|head| named(&head.name, &head.device)).collect(),
            }
        }
        Refusal::SeveralDevices(wanted, places) => {
            let several = places.iter().map(|at| &loaded.heads[*at].0);
            let shown = several.map(|DeviceHead { name, device, generation, .. }| {
                format!("{name}, id {}, generation {generation}", hex(device))
            });
            VolumeError::SeveralDevices { wanted, here: shown.collect() }
        }
        Refusal::Retired(_) | Refusal::Copied | Refusal::StateOlder { .. } => {
            unreachable!("local state that was overtaken is told above")
        }
    }
}

/// What the owner is told of heads that were joined.
pub(super) fn joined(tips: &[&(DeviceHead, HeadFile)], base: &Base) -> Vec<Notice> {
    let shown = tips.iter().map(|(DeviceHead { name, device, generation, .. }, _)| {
        format!("{} (state {generation})", named(name, device))
    });
    let shown: Vec<String> = shown.collect();
    let text =
        format!("what these devices wrote apart from each other is joined: {}", shown.join(", "));
    let mut notices = vec![Notice::Note(text)];
    let beside = base.namespace.repairs.conflicts.iter();
    let beside = beside.filter(|conflict| conflict.kind != ConflictKind::Replaced).count();
    if beside > 0 {
        let what = if beside == 1 {
            "a file or directory was changed".into()
        } else {
            format!("{beside} files or directories were changed")
        };
        notices.push(Notice::Note(format!(
            "{what} on two devices at once: both versions are there, and the name of one says \
             which device it is from. amberfs conflicts list REPO names them"
        )));
    }
    notices
}

/// What the owner is told of an opening without the heads that were made later than `until`: the
/// latest of the others, which are those at these places.
pub(super) fn as_of(until: Timestamp, loaded: &Loaded, newest: &[usize]) -> Option<Notice> {
    let heads = newest.iter().map(|at| &loaded.heads[*at].0);
    let heads = heads.map(|head| (head.commit.time, head.generation, head.device, &head.name));
    let kept = loaded.kept.iter();
    let kept = kept.map(|state| (state.kept.time, state.generation, state.device, &state.name));
    let (time, generation, device, name) = heads.chain(kept).max()?;
    Some(Notice::Note(format!(
        "as of {}: the latest state then is state {generation} of {}, of {}",
        local_time(until.secs),
        named(name, &device),
        local_time(time.secs)
    )))
}

/// Why a head is left out of a join that this error stopped; the error, if it says nothing of
/// the head.
pub(super) fn left_out(head: &DeviceHead, error: StoreError) -> Result<Cause, StoreError> {
    let DeviceHead { name, device, generation, .. } = head;
    let state = format!("state {generation} of {}", named(name, device));
    match error {
        StoreError::Missing { what } => Ok(Cause::Missing(format!("a part of {state} ({what})"))),
        StoreError::Crowded { .. } => Ok(Cause::Crowded(state)),
        error => Err(error),
    }
}
