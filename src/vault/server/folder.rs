//! A site's folder:
//!
//! ```text
//! keys       software keys; whoever has them and the ledger can guess
//! vault.toml settings; with keys in a token, where that is
//! root.key   the fleet root's signing key; belongs on another medium
//! manifest   what the root signed
//! ledger     the records, sealed; empty if they are in etcd
//! mark       the newest revision of a ledger in etcd that this site knows
//! ```

use std::io;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::roots::{Change, Made, NEXT, changed, put, signed};
use crate::crypto::Secret;
use crate::io::{Clock, PrivateFolder, Random, SystemClock};
use crate::vault::config::{Config, ConfigError, Etcd, Keys, LedgerAt};
use crate::vault::hsm::{FileKeys, KeyError, KeyProtection, open_token, spki};
use crate::vault::ledger::{
    EmbeddedLedger, Guarded, Head, LEDGER, Ledger, LedgerError, MarkError, read_mark, reset_mark,
};
use crate::vault::protocol::{
    AkeKey, Argon2Cost, Fingerprint, MANIFEST_LASTS, Manifest, ManifestError, Roots, Seconds,
    SiteKey, sign_manifest, signatures_of,
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
    /// A file of the vault's folder could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was done with which file.
        what: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The keys of the site cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// `vault.toml` is wrong or missing.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The manifest of the site is not valid.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Keys and manifest are of different fleets.
    #[error("the keys are not the ones in the manifest")]
    Mismatch,
    /// The high-water mark, or a ledger that is behind it.
    #[error("{}{}", .0, rollback(.0))]
    Mark(#[from] MarkError),
    /// Two ledgers would count separately, and give each its ten tries.
    #[error(
        "the manifest has several sites: they need one ledger in etcd ([ledger] in vault.toml)"
    )]
    SeveralSites,
    /// The settings name another ledger than the one with the records.
    #[error("the records of this site are in {0}; vault.toml names another ledger")]
    OtherLedger(&'static str),
    /// Another root, or no newer epoch, or without this site.
    #[error("this manifest {0}")]
    NotNext(&'static str),
}

/// What an operator can do.
fn rollback(error: &MarkError) -> &'static str {
    match error {
        MarkError::Ledger(LedgerError::WentBack(_)) | MarkError::Missing | MarkError::Damaged => {
            ". If you restored the ledger from a copy: amberfs-vault ledger accept-rollback"
        }
        _ => "",
    }
}

/// An open site's folder.
pub struct Opened {
    /// The keys of the site, open.
    pub keys: Arc<dyn KeyProtection>,
    /// The ledger with all records.
    pub ledger: Arc<dyn Ledger>,
    /// The manifest as its root signed it.
    pub signed: Vec<u8>,
    /// The decoded manifest.
    pub manifest: Manifest,
}

impl Opened {
    /// The fingerprint of the fleet's root, which clients pin.
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
    found(folder, random, cost, "first site", &keys)
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
        endpoints: Vec::new(),
        ends: end_from_now(),
    };
    folder.replace(ROOT, seed.expose()).map_err(io(ROOT))?;
    EmbeddedLedger::create(folder)?;
    reset_mark(folder, keys, Head::default())?;
    // Last: a folder without it is not a site's yet.
    folder.replace(MANIFEST, &sign_manifest(&manifest, &[&root])).map_err(io(MANIFEST))?;
    Ok(manifest.roots.fingerprint())
}

/// When a manifest ends that is made now.
pub(super) fn end_from_now() -> Seconds {
    let now = SystemClock.now().secs.max(0) as Seconds;
    now + MANIFEST_LASTS
}

/// How a site's folder is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    /// To serve it; nobody else may.
    Serving,
    /// To look at it, also while it is served.
    Looking,
    /// To mend it: without the high-water mark.
    Mending,
}

/// Opens a site's folder to serve it; nobody else may. The root key is not
/// needed and not read.
pub fn open_site(folder: &dyn PrivateFolder) -> Result<Opened, FolderError> {
    open_for(For::Serving, folder)
}

/// Opens a site's folder to look at it, also while it is served.
pub fn view_site(folder: &dyn PrivateFolder) -> Result<Opened, FolderError> {
    open_for(For::Looking, folder)
}

/// Opens a site's folder whatever its high-water mark says: only to spend tries
/// and then to [`accept`] the ledger. None where there is no such mark, for a
/// ledger in the folder itself.
pub fn open_rolled_back(folder: &dyn PrivateFolder) -> Result<Option<Opened>, FolderError> {
    match Config::load(folder)?.ledger {
        LedgerAt::Embedded {} => Ok(None),
        LedgerAt::Etcd(_) => open_for(For::Mending, folder).map(Some),
    }
}

/// Takes the ledger as it is now for the one this site counts in.
pub fn accept(folder: &dyn PrivateFolder, opened: &Opened) -> Result<(), FolderError> {
    Ok(reset_mark(folder, &*opened.keys, opened.ledger.head()?)?)
}

pub(super) fn read(folder: &dyn PrivateFolder, what: &'static str) -> Result<Vec<u8>, FolderError> {
    folder.read(what, FILE_LIMIT).map_err(|source| FolderError::Io { what, source })
}

fn open_for(what: For, folder: &dyn PrivateFolder) -> Result<Opened, FolderError> {
    let config = Config::load(folder)?;
    let signed = read(folder, MANIFEST)?;
    let manifest = Manifest::own(&signed)?;
    let keys: Arc<dyn KeyProtection> = match config.keys {
        Keys::File {} => {
            let keys = FileKeys::decode(&Zeroizing::new(read(folder, KEYS)?))?;
            let current = manifest.ake.last().ok_or(FolderError::Mismatch)?.generation;
            Arc::new(keys.with_current(current)?)
        }
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
    let ledger = match &config.ledger {
        LedgerAt::Embedded {} => embedded(what, folder, &*keys, &manifest)?,
        LedgerAt::Etcd(etcd) => replicated(what, folder, etcd, &*keys)?,
    };
    Ok(Opened { keys, ledger, signed, manifest })
}

fn embedded(
    what: For,
    folder: &dyn PrivateFolder,
    keys: &dyn KeyProtection,
    manifest: &Manifest,
) -> Result<Arc<dyn Ledger>, FolderError> {
    if manifest.sites.len() > 1 {
        return Err(FolderError::SeveralSites);
    }
    match read_mark(folder, keys) {
        // None in a folder of before.
        Err(MarkError::Missing) => {}
        Ok(mark) if mark == Head::default() => {}
        Ok(_) => return Err(FolderError::OtherLedger("etcd")),
        Err(error) => return Err(error.into()),
    }
    Ok(Arc::new(match what {
        For::Serving | For::Mending => EmbeddedLedger::open(folder)?,
        For::Looking => EmbeddedLedger::view(folder)?,
    }))
}

fn replicated(
    what: For,
    folder: &dyn PrivateFolder,
    settings: &Etcd,
    keys: &dyn KeyProtection,
) -> Result<Arc<dyn Ledger>, FolderError> {
    let names = folder.list("").map_err(|source| FolderError::Io { what: "the folder", source })?;
    if names.iter().any(|name| name == LEDGER)
        && !EmbeddedLedger::view(folder)?.list(None, 1)?.is_empty()
    {
        return Err(FolderError::OtherLedger("the file ledger"));
    }
    let ledger = open_etcd(settings, keys)?;
    Ok(match what {
        For::Serving => Arc::new(Guarded::open(ledger, folder, keys)?),
        For::Looking | For::Mending => Arc::from(ledger),
    })
}

#[cfg(feature = "etcd")]
fn open_etcd(settings: &Etcd, keys: &dyn KeyProtection) -> Result<Box<dyn Ledger>, LedgerError> {
    Ok(Box::new(crate::vault::ledger::EtcdLedger::open(settings, &keys.fleet())?))
}

#[cfg(not(feature = "etcd"))]
fn open_etcd(_: &Etcd, _: &dyn KeyProtection) -> Result<Box<dyn Ledger>, LedgerError> {
    Err(LedgerError::Settings("this program was built without etcd".into()))
}

/// Makes another site of a fleet with software keys: the same keys but for that
/// of TLS, and a manifest with that site in it, signed by `root` and written to
/// both folders. With too few root keys it waits for signatures, and the new
/// folder is no site until it is installed there.
pub fn join_site(
    from: &dyn PrivateFolder,
    to: &dyn PrivateFolder,
    random: &dyn Random,
    roots: &[Secret],
    name: &str,
) -> Result<Made, FolderError> {
    check_new(to)?;
    let before = read(from, MANIFEST)?;
    let manifest = Manifest::own(&before)?;
    let current = manifest.ake.last().ok_or(FolderError::Mismatch)?.generation;
    let keys = file_keys(from)?.of_another_site(random)?.with_current(current)?;
    let spki = spki(&*keys.tls()).ok_or(KeyError::Unusable("the TLS key has no public half"))?;
    let change = Change::Add(SiteKey { name: name.into(), spki });
    let bytes = signed(&changed(&manifest, change)?, roots)?;
    // Refuses more sites than a manifest holds.
    let (_, have) = signatures_of(&bytes)?;
    let is_enough = have >= usize::from(manifest.roots.threshold);
    let io = |what| move |source| FolderError::Io { what, source };
    to.replace(KEYS, &keys.encode()).map_err(io(KEYS))?;
    reset_mark(to, &keys, Head::default())?;
    to.replace(MANIFEST, if is_enough { &bytes } else { &before }).map_err(io(MANIFEST))?;
    // Last: until then the fleet does not have the site.
    put(from, &bytes)
}

fn file_keys(folder: &dyn PrivateFolder) -> Result<FileKeys, FolderError> {
    if !matches!(Config::load(folder)?.keys, Keys::File {}) {
        return Err(KeyError::Unusable("they are in a token: amberfs-vault ceremony").into());
    }
    Ok(FileKeys::decode(&Zeroizing::new(read(folder, KEYS)?))?)
}

fn put_keys(folder: &dyn PrivateFolder, keys: &FileKeys) -> Result<(), FolderError> {
    folder.replace(KEYS, &keys.encode()).map_err(|source| FolderError::Io { what: KEYS, source })
}

/// Makes software keys of one more generation, and a manifest by which new records are
/// made under it. No site may serve that manifest before it has the keys.
pub fn add_generation(
    folder: &dyn PrivateFolder,
    random: &dyn Random,
    roots: &[Secret],
) -> Result<(u32, Made), FolderError> {
    let mut keys = file_keys(folder)?;
    let generation = keys.add_generation(random)?;
    let change = Change::AddGeneration(AkeKey { generation, public: keys.ake_public(generation)? });
    // The manifest may wait for signatures; the keys are there whenever it comes.
    let manifest = changed(&Manifest::own(&read(folder, MANIFEST)?)?, change)?;
    let bytes = signed(&manifest, roots)?;
    signatures_of(&bytes)?;
    put_keys(folder, &keys)?;
    Ok((generation, put(folder, &bytes)?))
}

/// Gives a site the generations of another's software keys. Returns how many there
/// are.
pub fn copy_generations(
    from: &dyn PrivateFolder,
    to: &dyn PrivateFolder,
) -> Result<usize, FolderError> {
    let (mut keys, theirs) = (file_keys(to)?, file_keys(from)?);
    let count = keys.take_generations(theirs)?;
    put_keys(to, &keys)?;
    Ok(count)
}

/// Takes a generation of which nothing is left out of the manifest, and forgets its
/// software keys once the manifest is in place. `keys` are this site's, all of them.
pub fn drop_generation(
    folder: &dyn PrivateFolder,
    keys: &dyn KeyProtection,
    number: u32,
    roots: &[Secret],
) -> Result<Made, FolderError> {
    let manifest = Manifest::own(&read(folder, MANIFEST)?)?;
    let current = manifest.ake.last().ok_or(FolderError::Mismatch)?.generation;
    // Else it could not be read any more.
    match read_mark(folder, keys) {
        Err(MarkError::Missing) => {}
        mark => reset_mark(folder, keys, mark?)?,
    }
    let made = if manifest.ake.iter().any(|key| key.generation == number) {
        put(folder, &signed(&changed(&manifest, Change::DropGeneration(number))?, roots)?)?
    } else {
        Made::Installed(manifest.epoch)
    };
    if let (Made::Installed(_), Keys::File {}) = (made, Config::load(folder)?.keys) {
        let mut keys = file_keys(folder)?.with_current(current)?;
        keys.drop_generation(number)?;
        put_keys(folder, &keys)?;
    }
    Ok(made)
}

/// Puts a newer manifest of the same fleet in place. Returns its epoch. With
/// `new_roots` its roots may be others than before: clients that pinned the old ones
/// are lost.
pub fn install_manifest(
    folder: &dyn PrivateFolder,
    signed: &[u8],
    new_roots: bool,
) -> Result<u64, FolderError> {
    let before = Manifest::own(&read(folder, MANIFEST)?)?;
    let roots = if new_roots { Manifest::own(signed)?.roots } else { before.roots.clone() };
    let next = Manifest::verify(signed, roots.fingerprint(), before.epoch)?;
    if next.fleet != before.fleet {
        return Err(FolderError::NotNext("is of another fleet"));
    }
    let same = next == before;
    if next.epoch == before.epoch && !same {
        return Err(FolderError::NotNext("differs from the one here and is no newer"));
    }
    let opened = |manifest: &Manifest| -> Result<bool, FolderError> {
        Ok(match Config::load(folder)?.keys {
            Keys::File {} => {
                let keys = FileKeys::decode(&Zeroizing::new(read(folder, KEYS)?))?;
                spki(&*keys.tls()).is_some_and(|spki| manifest.has_site(&spki))
            }
            // Checked when the token is opened.
            Keys::Pkcs11(_) => true,
        })
    };
    if !opened(&next)? {
        return Err(FolderError::NotNext("does not have this site"));
    }
    let io = |what| move |source| FolderError::Io { what, source };
    folder.replace(MANIFEST, signed).map_err(io(MANIFEST))?;
    match folder.remove(NEXT) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(io(NEXT)(source)),
        _ => Ok(next.epoch),
    }
}
