//! Putting back in its place what lies elsewhere in REPO, before a repair goes on.
//!
//! Invariant: nothing is deleted. A file in REPO is only ever replaced by the bytes that its
//! name says.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::World;
use super::repository::{OpenFailure, Repository, open_head};
use super::search::Search;
use crate::crypto::{DeviceId, Hash, Secret};
use crate::format::commit::Name;
use crate::format::register::{HEADER_MAX, Header, Keyring, Register};
use crate::store::{CacheSizes, Context, Listing, Store, StoreError, Stray, is_arriving};

/// Why nothing was put back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// A file has just changed, and may not be whole yet.
    #[error("still arriving: {0}")]
    Arriving(String),
    /// K does not open the keyring.
    #[error("wrong key")]
    WrongKey,
    /// What was put back is no repository.
    #[error(transparent)]
    Open(#[from] OpenFailure),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was put back.
pub(crate) struct Restored {
    /// What was done, in words.
    pub done: Vec<String>,
    /// What could not be looked into.
    pub closed: Vec<Stray>,
}

/// Puts back the header, heads, and objects that heads name or that lie near their place.
/// `bad` are heads and objects that are here with other bytes than they should have; it
/// loses what is put back.
pub(crate) fn restore(
    world: &World,
    repository: &Repository,
    key: &Secret,
    listing: &Listing,
    bad: &mut HashSet<Hash>,
) -> Result<Restored, RestoreError> {
    let folder = &*world.repo;
    let mut done = restore_header(world, repository, key)?;
    let search = Search::new(folder, repository, listing)?;
    done.extend(search.restore_heads(bad)?);
    // Only now: heads that were put back name objects too.
    let heads = Repository::find(folder)?;
    let wanted = wanted(world, &heads, key)?;
    done.extend(search.restore_objects(&wanted, bad)?);
    let mut closed = search.closed;
    closed.extend(heads.strays.iter().chain(&listing.strays).filter(|s| s.hides()).cloned());
    Ok(Restored { done, closed })
}

fn open_keyring(
    repository: &Repository,
    key: &Secret,
) -> Result<(Keyring, Register), RestoreError> {
    let (keyring, register, _) = repository.unlock(key).ok_or(RestoreError::WrongKey)?;
    Ok((keyring, register))
}

/// Writes a lost or damaged header anew.
fn restore_header(
    world: &World,
    repository: &Repository,
    key: &Secret,
) -> Result<Vec<String>, RestoreError> {
    let folder = &*world.repo;
    let path = Name::Header(repository.repo).path();
    let (keyring, register) = open_keyring(repository, key)?;
    match folder.read(&path, HEADER_MAX) {
        Ok(bytes) => {
            let good = |header: Header| {
                header.repo == repository.repo && header.features == keyring.features
            };
            if Header::decode(&bytes).is_ok_and(good) {
                return Ok(Vec::new());
            }
        }
        // It is too long for a header.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {}
        Err(error) => match StoreError::io(&path, error) {
            StoreError::Missing { .. } => {}
            error => return Err(error.into()),
        },
    }
    if is_arriving(folder, world.clock.now(), &path) {
        return Err(RestoreError::Arriving(path));
    }
    let header = Header { features: keyring.features, repo: repository.repo, register };
    folder.publish(&path, &header.encode()).map_err(|error| StoreError::writing(&path, error))?;
    Ok(vec![format!("{path} is written anew")])
}

/// Objects that heads name, each with the device of a head that does.
fn wanted(
    world: &World,
    repository: &Repository,
    key: &Secret,
) -> Result<HashMap<Hash, DeviceId>, RestoreError> {
    let (keyring, _) = open_keyring(repository, key)?;
    let store = Store::new(
        Arc::new(Context::new(repository.repo, keyring)),
        world.repo.clone(),
        None,
        (world.clock.clone(), world.random.clone()),
        [0; 16],
        CacheSizes::default(),
    );
    let commits = repository.heads.values().flatten().filter_map(|head| {
        open_head(&store, head).inspect_err(|error| log::info!("a head: {error}")).ok()
    });
    Ok(commits
        .flat_map(|(commit, ..)| {
            commit.objects.into_iter().map(move |object| (object.hash, commit.device))
        })
        .collect())
}
