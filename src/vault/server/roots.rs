//! Next manifests: who has which root keys signs on their own machine, and enough
//! signatures make a manifest that sites install.

use ed25519_dalek::SigningKey;

use super::folder::{FolderError, MANIFEST, end_from_now, read};
use crate::crypto::Secret;
use crate::io::PrivateFolder;
use crate::vault::protocol::{
    AkeKey, ENDPOINTS_LIMIT, Endpoint, Manifest, Roots, SiteKey, sign_more, signatures_of,
};

/// A manifest that has too few signatures, in a site's folder.
pub const NEXT: &str = "manifest.next";

/// A change of the fleet's manifest.
pub enum Change {
    /// Add a site.
    Add(SiteKey),
    /// Remove the site of this name.
    Remove(String),
    /// Add a key generation, under which new records are made.
    AddGeneration(AkeKey),
    /// Drop a key generation that no record uses any more.
    DropGeneration(u32),
    /// Set the endpoints where the fleet is reached.
    Endpoints(Vec<String>),
    /// Change nothing but the end of the manifest.
    Renew,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Enough keys have signed: the new manifest is in place, with this epoch.
    Installed(u64),
    /// The new manifest is in [`NEXT`], and more keys must sign it.
    Waits {
        /// How many valid signatures it has.
        have: usize,
        /// How many signatures it needs.
        need: u8,
    },
}

/// The manifest that follows, unsigned.
pub(super) fn changed(manifest: &Manifest, change: Change) -> Result<Manifest, FolderError> {
    let mut next = manifest.clone();
    match change {
        Change::Add(site) => {
            if next.sites.iter().any(|known| known.name == site.name) {
                return Err(FolderError::NotNext("has a site of this name already"));
            }
            next.sites.push(site);
        }
        Change::Remove(name) => {
            let before = next.sites.len();
            next.sites.retain(|site| site.name != name);
            if next.sites.len() == before {
                return Err(FolderError::NotNext("has no site of this name"));
            }
            if next.sites.is_empty() {
                return Err(FolderError::NotNext("would have no site"));
            }
        }
        Change::AddGeneration(key) => {
            if next.ake.last().is_some_and(|last| last.generation >= key.generation) {
                return Err(FolderError::NotNext("has that generation already"));
            }
            next.ake.push(key);
        }
        Change::DropGeneration(number) => {
            let current = next.ake.last().map(|key| key.generation);
            if current == Some(number) {
                return Err(FolderError::NotNext("has no newer generation"));
            }
            next.ake.retain(|key| key.generation != number);
        }
        Change::Endpoints(endpoints) => {
            let is_endpoint = |text: &String| Endpoint::parse(text).is_some();
            if endpoints.len() > ENDPOINTS_LIMIT || !endpoints.iter().all(is_endpoint) {
                return Err(FolderError::NotNext("would have more than 5 places, or a wrong one"));
            }
            next.endpoints = endpoints;
        }
        Change::Renew => {}
    }
    // Whoever signs it now says that it is the newest.
    next.ends = end_from_now();
    next.quorum = (next.sites.len() / 2 + 1) as u8;
    next.epoch += 1;
    Ok(next)
}

/// Signs a manifest with what is given, if that is enough or not.
pub(super) fn signed(manifest: &Manifest, roots: &[Secret]) -> Result<Vec<u8>, FolderError> {
    let mut bytes = crate::vault::protocol::sign_manifest(manifest, &[]);
    for root in roots {
        bytes = sign_more(&bytes, &SigningKey::from_bytes(root.expose()))?;
    }
    Ok(bytes)
}

/// Writes a manifest where it belongs: in place if enough root keys signed it, else
/// beside it.
pub(super) fn put(folder: &dyn PrivateFolder, bytes: &[u8]) -> Result<Made, FolderError> {
    let io = |what| move |source| FolderError::Io { what, source };
    let (manifest, have) = signatures_of(bytes)?;
    let need = manifest.roots.threshold;
    if have < usize::from(need) {
        folder.replace(NEXT, bytes).map_err(io(NEXT))?;
        return Ok(Made::Waits { have, need });
    }
    // Also refuses more sites than a manifest holds.
    Manifest::own(bytes)?;
    folder.replace(MANIFEST, bytes).map_err(io(MANIFEST))?;
    Ok(Made::Installed(manifest.epoch))
}

/// Changes the manifest of a site's folder, signed by `roots`; where those are too
/// few it waits in [`NEXT`].
pub fn change_manifest(
    folder: &dyn PrivateFolder,
    change: Change,
    roots: &[Secret],
) -> Result<Made, FolderError> {
    let manifest = Manifest::own(&read(folder, MANIFEST)?)?;
    put(folder, &signed(&changed(&manifest, change)?, roots)?)
}

/// Gives a fleet that nobody uses yet other roots: `threshold` of `keys`. The
/// manifest waits for their signatures.
pub fn change_roots(
    folder: &dyn PrivateFolder,
    mut keys: Vec<[u8; 32]>,
    threshold: u8,
    roots: &[Secret],
) -> Result<(Roots, Made), FolderError> {
    let mut manifest = Manifest::own(&read(folder, MANIFEST)?)?;
    keys.sort_unstable();
    keys.dedup();
    manifest.roots = Roots { threshold, keys };
    manifest.epoch += 1;
    let bytes = signed(&manifest, roots)?;
    // Refuses what cannot be: too many keys, a threshold that nobody reaches.
    signatures_of(&bytes)?;
    Ok((manifest.roots, put(folder, &bytes)?))
}
