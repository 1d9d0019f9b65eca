//! What of REPO counts once K is in hand, and what must be told of the rest.

use super::heads::Loaded;
use super::repository::{OpenFailure, Repository};
use super::{Notice, VolumeError};
use crate::crypto::{DeviceId, unhex};
use crate::format::clock::Generations;
use crate::format::register::Features;
use crate::store::{Oddity, Store, StoreError, Stray};

/// Refuses what a newer version wrote, by what the keyring and the heads say
/// authentically.
pub(super) fn refuse_newer(
    loaded: &Loaded,
    read_only: bool,
) -> std::result::Result<(), VolumeError> {
    let newest = loaded.unusable.iter().find_map(|(_, error)| match error {
        StoreError::Newer { path, what } => Some(format!("{path}: {what}")),
        _ => None,
    });
    if let Some(what) = newest {
        return Err(OpenFailure::Newer(what).into());
    }
    let features = loaded.features;
    if features.forbid_reading() {
        let what = format!("unknown incompatible features {:#x}", features.incompatible);
        return Err(OpenFailure::Newer(what).into());
    }
    if !read_only && features.forbid_writing() {
        return Err(OpenFailure::Newer("it may only be read by this version".into()).into());
    }
    Ok(())
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
/// from being found. The error is that of a folder which cannot be listed and
/// which matters: of a device that others have seen, or of the only one.
pub(super) fn tell_strays(
    store: &Store,
    repository: &Repository,
    loaded: &Loaded,
    seen: &Generations,
    notices: &mut Vec<Notice>,
) -> std::result::Result<(), VolumeError> {
    let alone = loaded.newest.is_empty();
    for stray in &repository.strays {
        if let Some(source) = stray.error()
            && let Some(device) = device_of(stray)
            && (alone || is_seen(&device, loaded, seen))
        {
            return Err(StoreError::io(&stray.path, source).into());
        }
    }
    let hidden: Vec<String> =
        repository.strays.iter().filter(|stray| stray.hides()).map(Stray::to_string).collect();
    if alone && !hidden.is_empty() {
        return Err(VolumeError::Waiting(format!("a head of any device; {}", hidden.join("; "))));
    }
    let in_objects = if store.absent().is_empty() { Vec::new() } else { store.strays() };
    let told = repository.strays.iter().chain(&in_objects).filter(|stray| {
        let above = |other: &&Stray| {
            other.error().is_some()
                && stray.path.strip_prefix(&other.path).is_some_and(|rest| rest.starts_with('/'))
        };
        stray.in_place && stray.what != Oddity::Copy && !repository.strays.iter().any(|o| above(&o))
    });
    notices.extend(told.map(Notice::of_stray));
    Ok(())
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

/// The device, if this is its folder or that of its heads.
fn device_of(stray: &Stray) -> Option<DeviceId> {
    let (device, rest) = stray.path.split_once('/').unwrap_or((&stray.path, ""));
    if rest.is_empty() || rest == "head" { unhex(device) } else { None }
}

/// Whether somebody saw a head of this device.
fn is_seen(device: &DeviceId, loaded: &Loaded, seen: &Generations) -> bool {
    seen.knows(device)
        || loaded
            .newest
            .iter()
            .any(|(head, _)| head.device == *device || head.commit.processed.get(device).is_some())
}
