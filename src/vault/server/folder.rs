//! A single site's folder:
//!
//! ```text
//! keys       software keys; whoever has them and the ledger can guess
//! vault.toml settings; with keys in a token, where that is
//! root.key   the fleet root's signing key; belongs on another medium
//! manifest   what the root signed
//! ledger     the records, sealed
//! ```

use std::io;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use crate::crypto::Secret;
use crate::io::{PrivateFolder, Random};
use crate::vault::config::{Config, ConfigError, Keys};
use crate::vault::hsm::{FileKeys, KeyError, KeyProtection, open_token};
use crate::vault::ledger::{EmbeddedLedger, LedgerError};
use crate::vault::net::spki;
use crate::vault::protocol::{
    AkeKey, Argon2Cost, Fingerprint, Manifest, ManifestError, Roots, SiteKey, sign_manifest,
};

const KEYS: &str = "keys";
const ROOT: &str = "root.key";
/// The manifest's name in a site's folder.
pub(super) const MANIFEST: &str = "manifest";
pub(super) const FILE_LIMIT: u64 = 8192;

/// Why a folder is not a site's.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// `init` on a folder that has something in it.
    #[error("the folder is not empty; a vault is never made over another")]
    NotEmpty,
    /// The disk.
    #[error("{what}: {source}")]
    Io {
        /// Which file.
        what: &'static str,
        /// What happened.
        source: io::Error,
    },
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Keys and manifest are of different fleets.
    #[error("the keys are not the ones in the manifest")]
    Mismatch,
}

/// An open site's folder.
pub struct Opened {
    /// Its keys.
    pub keys: Arc<dyn KeyProtection>,
    /// Its records.
    pub ledger: EmbeddedLedger,
    /// Its manifest, as signed.
    pub signed: Vec<u8>,
    /// The same, read.
    pub manifest: Manifest,
}

impl Opened {
    /// What clients pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.manifest.roots.fingerprint()
    }
}

/// A vault is never made over something.
pub(super) fn check_new(folder: &dyn PrivateFolder) -> Result<(), FolderError> {
    let list = folder.list("").map_err(|source| FolderError::Io { what: "the folder", source })?;
    if list.is_empty() { Ok(()) } else { Err(FolderError::NotEmpty) }
}

/// Makes a fleet of one site with software keys and a root of 1 of 1. `cost` is
/// the least for new registrations.
pub fn create_site(
    folder: &dyn PrivateFolder,
    random: &dyn Random,
    cost: Argon2Cost,
) -> Result<Fingerprint, FolderError> {
    check_new(folder)?;
    let keys = FileKeys::create(random)?;
    folder
        .replace(KEYS, &keys.encode())
        .map_err(|source| FolderError::Io { what: KEYS, source })?;
    found(folder, random, cost, "single site", &keys)
}

/// Makes what a fleet's first site has beside its keys: root, ledger, manifest.
pub(super) fn found(
    folder: &dyn PrivateFolder,
    random: &dyn Random,
    cost: Argon2Cost,
    name: &str,
    keys: &dyn KeyProtection,
) -> Result<Fingerprint, FolderError> {
    let io = |what| move |source| FolderError::Io { what, source };
    let seed = Secret::random(random);
    let root = SigningKey::from_bytes(seed.expose());
    let tls = spki(&*keys.tls()).ok_or(KeyError::Unusable("the TLS key has no public half"))?;
    let generation = keys.generation();
    let manifest = Manifest {
        roots: Roots { threshold: 1, keys: vec![root.verifying_key().to_bytes()] },
        fleet: keys.fleet(),
        epoch: 1,
        protection: keys.protection(),
        quorum: 1,
        cost,
        ake: vec![AkeKey { generation, public: keys.ake_public(generation)? }],
        sites: vec![SiteKey { name: name.into(), spki: tls }],
    };
    folder.replace(ROOT, seed.expose()).map_err(io(ROOT))?;
    EmbeddedLedger::create(folder)?;
    // Last: a folder without it is not a site's yet.
    folder.replace(MANIFEST, &sign_manifest(&manifest, &[&root])).map_err(io(MANIFEST))?;
    Ok(manifest.roots.fingerprint())
}

/// Opens a site's folder to serve it; nobody else may. The root key is not
/// needed and not read.
pub fn open_site(folder: &dyn PrivateFolder) -> Result<Opened, FolderError> {
    open_with(folder, EmbeddedLedger::open)
}

/// Opens a site's folder to look at it, also while it is served.
pub fn view_site(folder: &dyn PrivateFolder) -> Result<Opened, FolderError> {
    open_with(folder, EmbeddedLedger::view)
}

fn open_with(
    folder: &dyn PrivateFolder,
    ledger: fn(&dyn PrivateFolder) -> Result<EmbeddedLedger, LedgerError>,
) -> Result<Opened, FolderError> {
    let read =
        |what| folder.read(what, FILE_LIMIT).map_err(|source| FolderError::Io { what, source });
    let signed = read(MANIFEST)?;
    let manifest = Manifest::own(&signed)?;
    let keys: Arc<dyn KeyProtection> = match Config::load(folder)?.keys {
        Keys::File {} => Arc::new(FileKeys::decode(&Zeroizing::new(read(KEYS)?))?),
        Keys::Pkcs11(token) => {
            let generations: Vec<u32> = manifest.ake.iter().map(|key| key.generation).collect();
            open_token(&token, manifest.fleet, &generations)?
        }
    };
    let current = manifest.ake.last().ok_or(FolderError::Mismatch)?;
    let ours = manifest.fleet == keys.fleet()
        && manifest.protection == keys.protection()
        && current.generation == keys.generation()
        && current.public == keys.ake_public(current.generation)?
        && spki(&*keys.tls()).is_some_and(|spki| manifest.has_site(&spki));
    if !ours {
        return Err(FolderError::Mismatch);
    }
    Ok(Opened { keys, ledger: ledger(folder)?, signed, manifest })
}
