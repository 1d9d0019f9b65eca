//! The fleet's keys from one site's token to the others'.
//!
//! ```text
//! new site      request   makes its TLS key and a wrapping key
//! first site    export    wraps the fleet's keys for it, adds it to the manifest
//! new site      import    takes them in so that they cannot leave again
//! first site    seal      replaces its own by copies that cannot leave
//! ```
//!
//! Invariant: a file that came from elsewhere is used only if its fingerprint
//! is the one that was read aloud where it was made.

use super::folder::{FILE_LIMIT, FolderError, MANIFEST, check_new, found};
use super::roots::{Change, Made, changed, put, signed};
use crate::crypto::{Secret, hash, random_id};
use crate::format::wire::DecodeError;
use crate::io::{PrivateFolder, Random};
use crate::vault::config::{Config, Keys, Token};
use crate::vault::hsm::pkcs11::{TokenAdmin, TokenKeys};
use crate::vault::hsm::transfer::{Aloud, NAME_LIMIT, Parcel, SiteRequest, keys_fingerprint};
use crate::vault::hsm::{KeyError, KeyProtection};
use crate::vault::ledger::{EmbeddedLedger, Head, LEDGER, reset_mark};
use crate::vault::protocol::{
    AkeKey, Argon2Cost, Fingerprint, Manifest, ManifestError, Protection, SiteKey,
};

/// The request's name in a new site's folder.
pub const REQUEST: &str = "request";

/// Why a ceremony does not go on.
#[derive(Debug, thiserror::Error)]
pub enum CeremonyError {
    /// The folder of the site cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Not the file that was read aloud.
    #[error("the file's fingerprint is {found}: this is not the file that was read aloud")]
    Fingerprint {
        /// Of the file that is here.
        found: Aloud,
    },
    /// Neither a request nor a parcel.
    #[error("the file {0}")]
    Decode(#[from] DecodeError),
    /// The keys of the site are in a file, not in a PKCS#11 token.
    #[error("the keys of this fleet are in a file; a ceremony copies keys of tokens")]
    NotToken,
    /// A file of another fleet, or for another site.
    #[error("the file is of another fleet, or for another site")]
    Other,
    /// After `seal`, or without `init --for-ceremony`.
    #[error("the keys cannot leave this site's token any more")]
    Sealed,
    /// A name that the manifest has, or cannot have.
    #[error("the fleet has a site of this name, or the name is longer than {NAME_LIMIT} bytes")]
    Name,
    /// The root key given cannot sign alone.
    #[error("the manifest must be signed by other root keys, or by more than one")]
    Root,
    /// The manifest is full.
    #[error("the manifest has no room for another site")]
    Full,
    /// Keys that are not the first site's.
    #[error("the keys that came out of the parcel are not the first site's")]
    Keys,
    /// A site that has its keys.
    #[error("this site has its keys already")]
    Done,
}

impl From<KeyError> for CeremonyError {
    fn from(error: KeyError) -> Self {
        Self::Folder(error.into())
    }
}

impl From<ManifestError> for CeremonyError {
    fn from(error: ManifestError) -> Self {
        Self::Folder(error.into())
    }
}

type Result<T> = std::result::Result<T, CeremonyError>;

fn read(folder: &dyn PrivateFolder, what: &'static str) -> Result<Vec<u8>> {
    Ok(folder.read(what, FILE_LIMIT).map_err(|source| FolderError::Io { what, source })?)
}

fn write(folder: &dyn PrivateFolder, what: &'static str, bytes: &[u8]) -> Result<()> {
    Ok(folder.replace(what, bytes).map_err(|source| FolderError::Io { what, source })?)
}

fn token(folder: &dyn PrivateFolder) -> Result<Token> {
    match Config::load(folder).map_err(FolderError::from)?.keys {
        Keys::Pkcs11(token) => Ok(token),
        Keys::File {} => Err(CeremonyError::NotToken),
    }
}

fn check(bytes: &[u8], said: Aloud) -> Result<()> {
    let found = Aloud::of(bytes);
    if found == said { Ok(()) } else { Err(CeremonyError::Fingerprint { found }) }
}

/// Makes a fleet's first site with its keys in a token. Only with `exportable`
/// can they be copied to other sites, until [`seal`].
pub fn create_token_site(
    folder: &dyn PrivateFolder,
    random: &dyn Random,
    cost: Argon2Cost,
    token: Token,
    name: &str,
    exportable: bool,
) -> Result<(Fingerprint, Aloud)> {
    check_new(folder)?;
    if name.len() > NAME_LIMIT {
        return Err(CeremonyError::Name);
    }
    let fleet = random_id(random);
    let admin = TokenAdmin::open(&token, fleet)?;
    admin.create_fleet(exportable)?;
    admin.create_tls()?;
    let keys = TokenKeys::open(&token, fleet, &[1])?;
    Config { keys: Keys::Pkcs11(token), ..Config::default() }
        .store(folder)
        .map_err(FolderError::from)?;
    let root = found(folder, random, cost, name, &keys)?;
    Ok((root, keys_fingerprint(&keys, 1)?))
}

/// At a new site: makes its TLS and wrapping keys and the request for the keys
/// of the fleet that `manifest` describes. Returns the request's fingerprint.
pub fn request(
    folder: &dyn PrivateFolder,
    token: Token,
    manifest: &[u8],
    pinned: Fingerprint,
    name: &str,
) -> Result<Aloud> {
    check_new(folder)?;
    let manifest = Manifest::verify(manifest, pinned, 0)?;
    if manifest.protection != Protection::Hsm {
        return Err(CeremonyError::NotToken);
    }
    if name.len() > NAME_LIMIT || manifest.sites.iter().any(|site| site.name == name) {
        return Err(CeremonyError::Name);
    }
    let admin = TokenAdmin::open(&token, manifest.fleet)?;
    let request = SiteRequest {
        fleet: manifest.fleet,
        root: pinned.0,
        name: name.to_owned(),
        spki: admin.create_tls()?,
        wrapping: admin.create_wrapping()?,
    }
    .encode();
    Config { keys: Keys::Pkcs11(token), ..Config::default() }
        .store(folder)
        .map_err(FolderError::from)?;
    write(folder, REQUEST, &request)?;
    Ok(Aloud::of(&request))
}

/// At a site that has its keys, for those of a later generation: makes a wrapping key
/// and the request. Returns the request's fingerprint.
pub fn request_again(folder: &dyn PrivateFolder) -> Result<Aloud> {
    let manifest = Manifest::own(&read(folder, MANIFEST)?)?;
    let admin = TokenAdmin::open(&token(folder)?, manifest.fleet)?;
    let spki = admin.create_tls()?;
    let site = manifest.sites.iter().find(|site| site.spki == spki);
    let name = site.ok_or(CeremonyError::Other)?.name.clone();
    let (root, wrapping) = (manifest.roots.fingerprint().0, admin.create_wrapping()?);
    let request = SiteRequest { fleet: manifest.fleet, root, name, spki, wrapping }.encode();
    write(folder, REQUEST, &request)?;
    Ok(Aloud::of(&request))
}

/// At the first site: makes keys of one more generation in its token, and a manifest
/// by which new records are made under it. Only with `exportable` can they be copied to
/// other sites, until [`seal`]. What was cut off before is made anew.
pub fn add_generation(
    folder: &dyn PrivateFolder,
    roots: &[Secret],
    exportable: bool,
) -> Result<(u32, Made)> {
    let manifest = Manifest::own(&read(folder, MANIFEST)?)?;
    let generation = manifest.generation() + 1;
    let token = token(folder)?;
    TokenAdmin::open(&token, manifest.fleet)?.create_generation(generation, exportable)?;
    let keys = TokenKeys::open(&token, manifest.fleet, &[generation])?;
    let key = AkeKey { generation, public: keys.ake_public(generation)? };
    Ok((
        generation,
        put(folder, &signed(&changed(&manifest, Change::AddGeneration(key))?, roots)?)?,
    ))
}

/// Destroys a generation's keys in the token; the manifest must not have it.
pub fn forget_generation(folder: &dyn PrivateFolder, generation: u32) -> Result<()> {
    let manifest = Manifest::own(&read(folder, MANIFEST)?)?;
    if manifest.ake.iter().any(|key| key.generation == generation) {
        return Err(CeremonyError::Other);
    }
    Ok(TokenAdmin::open(&token(folder)?, manifest.fleet)?.destroy_generation(generation)?)
}

/// What goes to a new site.
pub struct Exported {
    /// The parcel as it is written to a file.
    pub parcel: Vec<u8>,
    /// The keys' fingerprint, equal at all sites.
    pub keys: Aloud,
}

/// At the first site: wraps its keys (the current ones, if no `generation` is named)
/// for the site that asks, adds it to
/// the manifest and signs that with `roots`. Where those are too few, the site must be
/// in the manifest already: [`add_site`].
pub fn export(
    folder: &dyn PrivateFolder,
    roots: &[Secret],
    request: &[u8],
    said: Aloud,
    generation: Option<u32>,
) -> Result<Exported> {
    check(request, said)?;
    let asks = SiteRequest::decode(request)?;
    let before = read(folder, MANIFEST)?;
    let manifest = Manifest::own(&before)?;
    if asks.fleet != manifest.fleet || asks.root != manifest.roots.fingerprint().0 {
        return Err(CeremonyError::Other);
    }
    let token = token(folder)?;
    let generation = generation.unwrap_or(manifest.generation());
    let keys = TokenKeys::open(&token, manifest.fleet, &[generation])?;
    if !keys.is_exportable() {
        return Err(CeremonyError::Sealed);
    }
    // Again, for a parcel that was lost: the manifest stays as it is.
    let known = manifest.sites.iter().find(|site| site.name == asks.name);
    let signed = match known {
        Some(site) if site.spki == asks.spki => before,
        Some(_) => return Err(CeremonyError::Name),
        None => {
            let change = Change::Add(SiteKey { name: asks.name, spki: asks.spki });
            match signed(&changed(&manifest, change)?, roots) {
                Err(FolderError::Manifest(ManifestError::NoRoot)) => {
                    return Err(CeremonyError::Root);
                }
                made => made?,
            }
        }
    };
    match Manifest::own(&signed) {
        Ok(_) => {}
        Err(ManifestError::Encoding(_)) => return Err(CeremonyError::Full),
        Err(_) => return Err(CeremonyError::Root),
    }
    let prints = keys_fingerprint(&keys, generation)?;
    let admin = TokenAdmin::open(&token, manifest.fleet)?;
    let parcel = Parcel {
        request: hash(request),
        generation,
        ake: keys.ake_public(generation)?,
        keys: prints,
        wrapped: admin.export(generation, &asks.wrapping)?,
        manifest: signed.clone(),
    };
    write(folder, MANIFEST, &signed)?;
    Ok(Exported { parcel: parcel.encode(), keys: prints })
}

/// At the first site: a manifest with the site that asks, for several people to sign.
pub fn add_site(
    folder: &dyn PrivateFolder,
    roots: &[Secret],
    request: &[u8],
    said: Aloud,
) -> Result<Made> {
    check(request, said)?;
    let asks = SiteRequest::decode(request)?;
    let manifest = Manifest::own(&read(folder, MANIFEST)?)?;
    if asks.fleet != manifest.fleet || asks.root != manifest.roots.fingerprint().0 {
        return Err(CeremonyError::Other);
    }
    let change = Change::Add(SiteKey { name: asks.name, spki: asks.spki });
    Ok(put(folder, &signed(&changed(&manifest, change)?, roots)?)?)
}

/// At the new site: takes the keys in. Returns their fingerprint, which is the
/// one that the first site shows. May be done again after it was cut off.
pub fn import(folder: &dyn PrivateFolder, parcel: &[u8], said: Aloud) -> Result<Aloud> {
    let io = |source| FolderError::Io { what: "the folder", source };
    let names = folder.list("").map_err(io)?;
    let has = |what: &str| names.iter().any(|name| name == what);
    // A site that asked again gets keys of a later generation.
    let is_new = !has(MANIFEST);
    if !is_new && !has(REQUEST) {
        return Err(CeremonyError::Done);
    }
    check(parcel, said)?;
    let parcel = Parcel::decode(parcel)?;
    let request = read(folder, REQUEST)?;
    if parcel.request != hash(&request) {
        return Err(CeremonyError::Other);
    }
    let request = SiteRequest::decode(&request)?;
    let manifest = Manifest::verify(&parcel.manifest, Fingerprint(request.root), 0)?;
    let current = manifest.ake.last().ok_or(CeremonyError::Other)?;
    let is_current = (current.generation, current.public) == (parcel.generation, parcel.ake);
    // The manifest with a later generation may still wait for signatures.
    let is_later = !is_new && parcel.generation > current.generation;
    if manifest.fleet != request.fleet
        || !manifest.has_site(&request.spki)
        || !(is_current || is_later)
    {
        return Err(CeremonyError::Other);
    }
    let token = token(folder)?;
    let admin = TokenAdmin::open(&token, manifest.fleet)?;
    let here = || -> Result<bool> {
        let keys = TokenKeys::open(&token, manifest.fleet, &[parcel.generation])?;
        Ok(!keys.is_exportable() && keys_fingerprint(&keys, parcel.generation)? == parcel.keys)
    };
    if !here().unwrap_or(false) {
        admin.import(parcel.generation, &parcel.wrapped, &parcel.ake)?;
        let same = here();
        if !matches!(same, Ok(true)) {
            if is_new {
                admin.destroy_shared(parcel.generation)?;
            } else {
                admin.destroy_generation(parcel.generation)?;
            }
            return same.and(Err(CeremonyError::Keys));
        }
    }
    if is_new {
        if !has(LEDGER) {
            EmbeddedLedger::create(folder).map_err(FolderError::from)?;
        }
        let keys = TokenKeys::open(&token, manifest.fleet, &[parcel.generation])?;
        reset_mark(folder, &keys, Head::default()).map_err(FolderError::from)?;
    }
    admin.destroy_wrapping()?;
    if is_new {
        write(folder, MANIFEST, &parcel.manifest)?;
    }
    folder.remove(REQUEST).map_err(|source| FolderError::Io { what: REQUEST, source })?;
    Ok(parcel.keys)
}

/// At the first site: replaces the keys by copies that cannot leave the token.
/// Returns how many were replaced, and the keys' fingerprint. May be done again
/// after it was cut off.
pub fn seal(folder: &dyn PrivateFolder) -> Result<(usize, Aloud)> {
    let manifest = Manifest::own(&read(folder, MANIFEST)?)?;
    let token = token(folder)?;
    let generations: Vec<u32> = manifest.ake.iter().map(|key| key.generation).collect();
    let replaced = TokenAdmin::open(&token, manifest.fleet)?.lock(&generations)?;
    let keys = TokenKeys::open(&token, manifest.fleet, &generations)?;
    if keys.is_exportable() {
        return Err(CeremonyError::Keys);
    }
    Ok((replaced, keys_fingerprint(&keys, keys.generation())?))
}
