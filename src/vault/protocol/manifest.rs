//! The manifest: what the fleet root says about the fleet. Clients pin the
//! root's fingerprint, never a TLS key.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::address::{ENDPOINTS_LIMIT, Endpoint, Fingerprint};
use super::{AKE_PUBLIC, Argon2Cost, FleetId, Seconds};
use crate::crypto::{hash, hex};
use crate::format::wire::{DecodeError, Decoder, Encoder, Result};

/// Most bytes of an encoded manifest; fits in a reply.
pub const MANIFEST_LIMIT: usize = 2700;
/// For how long a manifest is good after it was made: two years.
pub const MANIFEST_LASTS: Seconds = 731 * 24 * 3600;
/// How long before its end its operator and owners are warned: 90 days.
pub const MANIFEST_WARNS: Seconds = 90 * 24 * 3600;
const VERSION: u8 = 2;
const ROOTS_LIMIT: u8 = 7;
const GENERATIONS_LIMIT: u8 = 8;
const SITES_LIMIT: u8 = 7;
const NAME_LIMIT: usize = 32;
const SPKI_LIMIT: usize = 96;
const PLACE_LIMIT: usize = 128;

/// Root keys, sorted, and how many of them must sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// Signatures needed, 1 to the number of keys.
    pub threshold: u8,
    /// Ed25519 public keys in strictly rising order.
    pub keys: Vec<[u8; 32]>,
}

impl Roots {
    fn encode(&self, out: &mut Encoder) {
        out.u8(self.threshold).u8(self.keys.len() as u8);
        for key in &self.keys {
            out.raw(key);
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self> {
        let threshold = input.u8()?;
        let count = input.u8()?;
        if count > ROOTS_LIMIT {
            return Err(DecodeError::Limit("root keys"));
        }
        let keys = (0..count).map(|_| input.array()).collect::<Result<Vec<_>>>()?;
        let sorted = keys.windows(2).all(|pair: &[[u8; 32]]| pair[0] < pair[1]);
        if threshold == 0 || threshold > count || !sorted {
            return Err(DecodeError::Invalid("root keys"));
        }
        Ok(Self { threshold, keys })
    }

    /// The hash of keys and threshold.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut out = Encoder::new();
        out.raw(b"amberfs-vault roots 1");
        self.encode(&mut out);
        Fingerprint(hash(&out.finish()))
    }
}

/// How the fleet's keys are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Protection {
    /// In a file: whoever takes that disk can guess passwords offline.
    File = 1,
    /// The fleet's keys are in PKCS#11 tokens.
    Hsm = 2,
}

impl Protection {
    fn place(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Hsm => "an HSM",
        }
    }
}

/// One generation's public AKE key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AkeKey {
    /// The key generation, counted from 1.
    pub generation: u32,
    /// A compressed P-256 point.
    pub public: [u8; AKE_PUBLIC],
}

/// One site's TLS key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteKey {
    /// A name for people.
    pub name: String,
    /// `SubjectPublicKeyInfo`, DER, as it appears in TLS (RFC 7250).
    pub spki: Vec<u8>,
}

impl SiteKey {
    fn describe(&self) -> String {
        // A name comes from whoever made the manifest.
        format!("site {}: {}", self.name.escape_debug(), hex(&hash(&self.spki)[..16]))
    }
}

/// What the root signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The keys that sign manifests, and how many of them must sign.
    pub roots: Roots,
    /// The id of the fleet.
    pub fleet: FleetId,
    /// Rises with every manifest; clients refuse a lower one than they saw.
    pub epoch: u64,
    /// How keys are kept.
    pub protection: Protection,
    /// Sites of the ledger that must agree (1 for a single site).
    pub quorum: u8,
    /// Least cost of a new registration.
    pub cost: Argon2Cost,
    /// AKE keys, by rising generation; the last is current.
    pub ake: Vec<AkeKey>,
    /// The sites of the fleet with their TLS keys.
    pub sites: Vec<SiteKey>,
    /// Where the fleet is reached, as an address names endpoints; may be empty. Whoever
    /// trusts the root trusts these.
    pub endpoints: Vec<String>,
    /// Seconds since 1970 after which nobody who sees it for the first time believes it.
    pub ends: Seconds,
}

/// Why a manifest is not believed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// Not an encoding of a manifest.
    #[error("the manifest {0}")]
    Encoding(#[from] DecodeError),
    /// Another root than the pinned one.
    #[error("the vault's root is {found}, not the pinned {pinned}")]
    OtherRoot {
        /// The root that signed.
        found: Fingerprint,
        /// The root that is trusted.
        pinned: Fingerprint,
    },
    /// Too few good signatures.
    #[error("the manifest is not signed by the vault's root")]
    Signature,
    /// A key that is none of the manifest's roots.
    #[error("names other root keys than this one")]
    NoRoot,
    /// An older manifest than one seen before.
    #[error("the manifest is of epoch {found}, but epoch {seen} was seen before")]
    Older {
        /// The epoch of the manifest that was refused.
        found: u64,
        /// The highest epoch that this client has seen.
        seen: u64,
    },
}

impl Manifest {
    pub(crate) fn encode_body(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.raw(b"amberfs-vault manifest").u8(VERSION);
        self.roots.encode(&mut out);
        out.raw(&self.fleet).u64(self.epoch).u8(self.protection as u8).u8(self.quorum);
        self.cost.encode(&mut out);
        out.u8(self.ake.len() as u8);
        for key in &self.ake {
            out.u32(key.generation).raw(&key.public);
        }
        out.u8(self.sites.len() as u8);
        for site in &self.sites {
            out.bytes(site.name.as_bytes()).bytes(&site.spki);
        }
        out.u8(self.endpoints.len() as u8);
        for place in &self.endpoints {
            out.bytes(place.as_bytes());
        }
        out.u64(self.ends);
        out.finish()
    }

    pub(crate) fn decode_body(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes);
        if input.raw(22)? != b"amberfs-vault manifest" || input.u8()? != VERSION {
            return Err(DecodeError::Invalid("manifest version"));
        }
        let roots = Roots::decode(&mut input)?;
        let fleet = input.array()?;
        let epoch = input.u64()?;
        let protection = match input.u8()? {
            1 => Protection::File,
            2 => Protection::Hsm,
            _ => return Err(DecodeError::Invalid("key protection")),
        };
        let quorum = input.u8()?;
        let cost = Argon2Cost::decode(&mut input)?;
        let count = input.u8()?;
        if count == 0 || count > GENERATIONS_LIMIT {
            return Err(DecodeError::Limit("key generations"));
        }
        let mut ake: Vec<AkeKey> = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let key = AkeKey { generation: input.u32()?, public: input.array()? };
            if ake.last().is_some_and(|last| last.generation >= key.generation) {
                return Err(DecodeError::Invalid("key generations"));
            }
            ake.push(key);
        }
        let count = input.u8()?;
        if count == 0 || count > SITES_LIMIT {
            return Err(DecodeError::Limit("sites"));
        }
        let mut sites = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let name = std::str::from_utf8(input.bytes(NAME_LIMIT, "site name")?)
                .map_err(|_| DecodeError::Invalid("site name"))?
                .to_owned();
            sites.push(SiteKey { name, spki: input.bytes(SPKI_LIMIT, "site key")?.to_vec() });
        }
        let endpoints = take_endpoints(&mut input)?;
        let ends = input.u64()?;
        input.end()?;
        Ok(Self { roots, fleet, epoch, protection, quorum, cost, ake, sites, endpoints, ends })
    }

    /// Reads a signed manifest and believes it only if the pinned root signed
    /// it and it is no older than `seen`.
    pub fn verify(
        bytes: &[u8],
        pinned: Fingerprint,
        seen: u64,
    ) -> std::result::Result<Self, ManifestError> {
        let (manifest, signatures) = open(bytes, |roots| {
            let found = roots.fingerprint();
            if found == pinned {
                return Ok(());
            }
            Err(ManifestError::OtherRoot { found, pinned })
        })?;
        if signatures.len() < usize::from(manifest.roots.threshold) {
            return Err(ManifestError::Signature);
        }
        if manifest.epoch < seen {
            return Err(ManifestError::Older { found: manifest.epoch, seen });
        }
        Ok(manifest)
    }

    /// Reads a site's own manifest, signed by the root that it names. Only for
    /// the site itself: a client pins a root.
    pub fn own(bytes: &[u8]) -> std::result::Result<Self, ManifestError> {
        let body = Decoder::new(bytes).bytes(MANIFEST_LIMIT, "manifest")?;
        Self::verify(bytes, Self::decode_body(body)?.roots.fingerprint(), 0)
    }

    /// What it says, in lines for people.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = vec![
            format!("vault fingerprint: {}", self.roots.fingerprint()),
            format!("fleet: {}", hex(&self.fleet)),
            format!("epoch: {}", self.epoch),
            format!("signatures needed: {} of {}", self.roots.threshold, self.roots.keys.len()),
        ];
        lines.extend(self.roots.keys.iter().map(|key| format!("root: {}", hex(key))));
        lines.push(format!("keys: in {}", self.protection.place()));
        lines.push(format!("quorum: {} of {} sites", self.quorum, self.sites.len()));
        let Argon2Cost { memory, passes, lanes } = self.cost;
        lines.push(format!("least cost: {memory} KiB, {passes} passes, {lanes} lanes"));
        let ake = |key: &AkeKey| format!("key generation {}: {}", key.generation, hex(&key.public));
        lines.extend(self.ake.iter().map(ake));
        lines.extend(self.sites.iter().map(SiteKey::describe));
        lines.extend(self.endpoints.iter().map(|place| format!("place: {place}")));
        lines.push(format!("ends: {}", date(self.ends)));
        lines
    }

    /// The date on which the manifest expires, in UTC, for people.
    pub fn end_date(&self) -> String {
        date(self.ends)
    }

    /// What is not as it was before, for whoever trusts the fleet.
    pub fn changes_since(&self, before: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.fleet != before.fleet {
            lines.push("it is another fleet".to_owned());
        }
        if self.protection != before.protection {
            let (was, is) = (before.protection.place(), self.protection.place());
            lines.push(format!("keys were in {was} and are in {is} now"));
        }
        for site in before.sites.iter().filter(|site| !self.sites.contains(site)) {
            lines.push(format!("gone: {}", site.describe()));
        }
        for site in self.sites.iter().filter(|site| !before.sites.contains(site)) {
            lines.push(format!("new: {}", site.describe()));
        }
        for key in self.ake.iter().filter(|key| !before.ake.contains(key)) {
            lines.push(format!("new: keys of generation {}", key.generation));
        }
        for place in self.endpoints.iter().filter(|place| !before.endpoints.contains(place)) {
            lines.push(format!("new: place {place}"));
        }
        if self.cost != before.cost {
            lines.push("the least cost of a password is another".to_owned());
        }
        lines
    }

    /// Whether `spki` is the TLS key of one of the sites.
    pub fn has_site(&self, spki: &[u8]) -> bool {
        self.sites.iter().any(|site| site.spki == spki)
    }

    /// The generation of the fleet's AKE key `public`; none if it is no key of it.
    pub fn generation_of(&self, public: &[u8]) -> Option<u32> {
        self.ake.iter().find(|key| key.public == public).map(|key| key.generation)
    }

    /// The generation of new records.
    pub fn generation(&self) -> u32 {
        self.ake.last().map_or(0, |key| key.generation)
    }
}

fn take_endpoints(input: &mut Decoder<'_>) -> Result<Vec<String>> {
    let count = input.u8()?;
    if usize::from(count) > ENDPOINTS_LIMIT {
        return Err(DecodeError::Limit("places"));
    }
    let place = |_| {
        let text = std::str::from_utf8(input.bytes(PLACE_LIMIT, "place")?).ok();
        let text = text.filter(|text| Endpoint::parse(text).is_some());
        text.map(str::to_owned).ok_or(DecodeError::Invalid("place"))
    };
    (0..count).map(place).collect()
}

/// A day, as RFC 3339 writes it.
fn date(seconds: Seconds) -> String {
    let time = i64::try_from(seconds).ok().and_then(|secs| jiff::Timestamp::from_second(secs).ok());
    time.map_or_else(|| "never".into(), |time| time.strftime("%Y-%m-%d").to_string())
}

/// A signature, and which of the root keys made it.
type Signed = (u8, Signature);

/// A manifest, if its roots are the right ones, and its signatures, every one of them
/// good, however many there are.
fn open(
    bytes: &[u8],
    right: impl FnOnce(&Roots) -> std::result::Result<(), ManifestError>,
) -> std::result::Result<(Manifest, Vec<Signed>), ManifestError> {
    let mut input = Decoder::new(bytes);
    let body = input.bytes(MANIFEST_LIMIT, "manifest")?;
    let manifest = Manifest::decode_body(body)?;
    right(&manifest.roots)?;
    let count = input.u8()?;
    if count > ROOTS_LIMIT {
        return Err(DecodeError::Limit("signatures").into());
    }
    let mut signatures: Vec<Signed> = Vec::new();
    for _ in 0..count {
        let index = input.u8()?;
        let signature = Signature::from_bytes(&input.array()?);
        let key = manifest.roots.keys.get(index as usize).ok_or(ManifestError::Signature)?;
        if signatures.last().is_some_and(|(last, _)| *last >= index) {
            return Err(DecodeError::Invalid("signatures").into());
        }
        let key = VerifyingKey::from_bytes(key).map_err(|_| ManifestError::Signature)?;
        key.verify_strict(body, &signature).map_err(|_| ManifestError::Signature)?;
        signatures.push((index, signature));
    }
    input.end()?;
    Ok((manifest, signatures))
}

/// A manifest that is not to be believed yet, and how many of its roots signed it.
pub fn signatures_of(bytes: &[u8]) -> std::result::Result<(Manifest, usize), ManifestError> {
    open(bytes, |_| Ok(())).map(|(manifest, signatures)| (manifest, signatures.len()))
}

/// Adds the signature of one more root key; that of a key there is stays one.
pub fn sign_more(bytes: &[u8], key: &SigningKey) -> std::result::Result<Vec<u8>, ManifestError> {
    let (manifest, mut signatures) = open(bytes, |_| Ok(()))?;
    let public = key.verifying_key().to_bytes();
    let index = manifest.roots.keys.iter().position(|root| *root == public);
    let index = index.ok_or(ManifestError::NoRoot)? as u8;
    let body = manifest.encode_body();
    signatures.push((index, key.sign(&body)));
    Ok(encode_signed(&body, signatures))
}

fn encode_signed(body: &[u8], mut signatures: Vec<Signed>) -> Vec<u8> {
    signatures.sort_unstable_by_key(|(index, _)| *index);
    signatures.dedup_by_key(|(index, _)| *index);
    let mut out = Encoder::new();
    out.bytes(body).u8(signatures.len() as u8);
    for (index, signature) in signatures {
        out.u8(index).raw(&signature.to_bytes());
    }
    out.finish()
}

/// Signs a manifest with those of its root keys that are given. The caller
/// makes sure they reach the threshold; nobody believes it otherwise.
pub fn sign_manifest(manifest: &Manifest, keys: &[&SigningKey]) -> Vec<u8> {
    let body = manifest.encode_body();
    let signatures: Vec<Signed> = keys
        .iter()
        .filter_map(|key| {
            let public = key.verifying_key().to_bytes();
            let index = manifest.roots.keys.iter().position(|root| *root == public)?;
            Some((index as u8, key.sign(&body)))
        })
        .collect();
    let bytes = encode_signed(&body, signatures);
    assert!(bytes.len() <= MANIFEST_LIMIT, "every list in a manifest is limited");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(count: u8) -> Vec<SigningKey> {
        let mut keys: Vec<_> = (1..=count).map(|n| SigningKey::from_bytes(&[n; 32])).collect();
        keys.sort_unstable_by_key(|key| key.verifying_key().to_bytes());
        keys
    }

    fn manifest(count: u8, threshold: u8) -> Manifest {
        Manifest {
            roots: Roots {
                threshold,
                keys: keys(count).iter().map(|key| key.verifying_key().to_bytes()).collect(),
            },
            fleet: [5; 16],
            epoch: 3,
            protection: Protection::File,
            quorum: 1,
            cost: Argon2Cost::FLOOR,
            ake: vec![AkeKey { generation: 1, public: [2; 33] }],
            sites: vec![SiteKey { name: "here".into(), spki: vec![9; 91] }],
            endpoints: vec!["a.example:7007".into(), "relay+b.example:443".into()],
            ends: 1_900_000_000,
        }
    }

    #[test]
    fn the_threshold_of_root_keys_must_sign() {
        let keys = keys(3);
        let manifest = manifest(3, 2);
        let pinned = manifest.roots.fingerprint();
        let two = sign_manifest(&manifest, &[&keys[2], &keys[0]]);
        assert_eq!(Manifest::verify(&two, pinned, 3), Ok(manifest.clone()));
        let one = sign_manifest(&manifest, &[&keys[1]]);
        assert_eq!(Manifest::verify(&one, pinned, 0), Err(ManifestError::Signature));
        let twice = sign_manifest(&manifest, &[&keys[1], &keys[1]]);
        assert_eq!(Manifest::verify(&twice, pinned, 0), Err(ManifestError::Signature));
        let mut changed = two;
        changed[60] ^= 1;
        assert!(Manifest::verify(&changed, pinned, 0).is_err());
    }

    #[test]
    fn another_root_and_an_older_epoch_are_refused() {
        let manifest = manifest(1, 1);
        let bytes = sign_manifest(&manifest, &[&keys(1)[0]]);
        let pinned = manifest.roots.fingerprint();
        assert!(matches!(
            Manifest::verify(&bytes, Fingerprint([0; 32]), 0),
            Err(ManifestError::OtherRoot { .. })
        ));
        assert_eq!(
            Manifest::verify(&bytes, pinned, 4),
            Err(ManifestError::Older { found: 3, seen: 4 })
        );
        // The same keys with another threshold are another root.
        let mut lower = manifest;
        lower.roots.threshold = 2;
        assert_ne!(lower.roots.fingerprint(), pinned);
    }

    #[test]
    fn cut_or_extended_manifests_are_refused() {
        let manifest = manifest(1, 1);
        let pinned = manifest.roots.fingerprint();
        let mut bytes = sign_manifest(&manifest, &[&keys(1)[0]]);
        for cut in 0..bytes.len() {
            assert!(Manifest::verify(&bytes[..cut], pinned, 0).is_err());
        }
        bytes.push(0);
        assert!(Manifest::verify(&bytes, pinned, 0).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Manifest::verify(&bytes, Fingerprint([1; 32]), 0).is_err());
            prop_assert!(Manifest::decode_body(&bytes).is_err());
        }
    }
}
