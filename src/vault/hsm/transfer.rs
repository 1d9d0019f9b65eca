//! What goes from one site's token to another's in a ceremony, as files. The
//! keys in a parcel are wrapped as `CKM_RSA_AES_KEY_WRAP` has it (PKCS#11 2.40,
//! section 2.1.21): a fresh AES-256 key by RSA-OAEP, each key under it by AES
//! key wrap with padding (RFC 5649).
//!
//! Invariant: neither file is believed by what is in it. A request or parcel is
//! taken only with the fingerprint that was read aloud where it was made.

use std::fmt;
use std::str::FromStr;

use super::{KeyError, KeyProtection};
use crate::crypto::{hash, hex, unhex};
use crate::format::wire::{DecodeError, Decoder, Encoder, Result};
use crate::vault::protocol::{AKE_PUBLIC, FleetId, MANIFEST_LIMIT};

/// Most bytes of a request or parcel.
pub const TRANSFER_LIMIT: usize = 8192;
const REQUEST: &[u8; 21] = b"amberfs-vault request";
const PARCEL: &[u8; 20] = b"amberfs-vault parcel";
const VERSION: u8 = 1;
/// Most bytes of a site's name, as in the manifest.
pub const NAME_LIMIT: usize = 32;
const SPKI_LIMIT: usize = 96;
/// RSA of 3072 to 4096 bits.
const MODULUS: std::ops::RangeInclusive<usize> = 384..=512;
const EXPONENT_LIMIT: usize = 8;
const WRAPPED_LIMIT: usize = 512;

/// A fingerprint for reading aloud: 160 bits of BLAKE3, ten groups of four
/// hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aloud([u8; 20]);

impl Aloud {
    /// The fingerprint of a file.
    pub fn of(bytes: &[u8]) -> Self {
        Self(hash(bytes)[..20].try_into().expect("a hash has 32 bytes"))
    }
}

impl fmt::Display for Aloud {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, pair) in self.0.chunks(2).enumerate() {
            write!(out, "{}{}", if at == 0 { "" } else { " " }, hex(pair))?;
        }
        Ok(())
    }
}

/// Not forty hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a fingerprint has 40 hexadecimal digits")]
pub struct AloudError;

impl FromStr for Aloud {
    type Err = AloudError;

    /// Spaces and case do not matter.
    fn from_str(text: &str) -> std::result::Result<Self, AloudError> {
        let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        unhex(&digits.to_ascii_lowercase()).map(Self).ok_or(AloudError)
    }
}

/// The public half of a wrapping key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RsaPublic {
    /// Big-endian, no leading zero.
    pub modulus: Vec<u8>,
    /// Big-endian, no leading zero.
    pub exponent: Vec<u8>,
}

/// A new site asks for the fleet's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRequest {
    /// The fleet to join.
    pub fleet: FleetId,
    /// The fingerprint of its root.
    pub root: [u8; 32],
    /// The site's name for people.
    pub name: String,
    /// The TLS public key of the new site, as `SubjectPublicKeyInfo` in DER.
    pub spki: Vec<u8>,
    /// The public wrapping key of the new site's token.
    pub wrapping: RsaPublic,
}

impl SiteRequest {
    /// Encodes the file that is carried from site to site.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.raw(REQUEST).u8(VERSION).raw(&self.fleet).raw(&self.root);
        out.bytes(self.name.as_bytes()).bytes(&self.spki);
        out.bytes(&self.wrapping.modulus).bytes(&self.wrapping.exponent);
        out.finish()
    }

    /// Decodes and checks a file that was carried from another site.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes);
        if input.raw(REQUEST.len())? != REQUEST || input.u8()? != VERSION {
            return Err(DecodeError::Invalid("request version"));
        }
        let (fleet, root) = (input.array()?, input.array()?);
        let name = input.bytes(NAME_LIMIT, "site name")?;
        let name = std::str::from_utf8(name).map_err(|_| DecodeError::Invalid("site name"))?;
        let request = Self {
            fleet,
            root,
            name: name.to_owned(),
            spki: input.bytes(SPKI_LIMIT, "site key")?.to_vec(),
            wrapping: RsaPublic {
                modulus: input.bytes(*MODULUS.end(), "modulus")?.to_vec(),
                exponent: input.bytes(EXPONENT_LIMIT, "exponent")?.to_vec(),
            },
        };
        input.end()?;
        let bare = |number: &[u8]| number.first().is_some_and(|first| *first != 0);
        let RsaPublic { modulus, exponent } = &request.wrapping;
        if !MODULUS.contains(&modulus.len()) || !bare(modulus) || !bare(exponent) {
            return Err(DecodeError::Invalid("wrapping key"));
        }
        Ok(request)
    }
}

/// One generation's keys, wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKeys {
    /// The AES key, by RSA-OAEP.
    pub transport: Vec<u8>,
    /// The wrapped OPRF seed.
    pub seed: Vec<u8>,
    /// AKE key, PKCS #8.
    pub ake: Vec<u8>,
    /// The wrapped key that seals records.
    pub seal: Vec<u8>,
    /// Lookup key; empty for a later generation: every site has it.
    pub lookup: Vec<u8>,
}

/// The fleet's keys for one site, and the manifest that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// Hash of the request that it answers.
    pub request: [u8; 32],
    /// The key generation that is transferred.
    pub generation: u32,
    /// The public AKE key.
    pub ake: [u8; AKE_PUBLIC],
    /// What [`keys_fingerprint`] gives for the keys.
    pub keys: Aloud,
    /// The keys, wrapped for the token of the new site.
    pub wrapped: WrappedKeys,
    /// The fleet's manifest as its root signed it.
    pub manifest: Vec<u8>,
}

impl Parcel {
    /// Encodes the file that is carried from site to site.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.raw(PARCEL).u8(VERSION).raw(&self.request).u32(self.generation);
        out.raw(&self.ake).raw(&self.keys.0);
        let WrappedKeys { transport, seed, ake, seal, lookup } = &self.wrapped;
        for wrapped in [transport, seed, ake, seal, lookup] {
            out.bytes(wrapped);
        }
        out.bytes(&self.manifest);
        out.finish()
    }

    /// Decodes and checks a file that was carried from another site.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes);
        if input.raw(PARCEL.len())? != PARCEL || input.u8()? != VERSION {
            return Err(DecodeError::Invalid("parcel version"));
        }
        let (request, generation) = (input.array()?, input.u32()?);
        let (ake, keys) = (input.array()?, Aloud(input.array()?));
        let mut wrapped = || Ok(input.bytes(WRAPPED_LIMIT, "wrapped key")?.to_vec());
        let wrapped = WrappedKeys {
            transport: wrapped()?,
            seed: wrapped()?,
            ake: wrapped()?,
            seal: wrapped()?,
            lookup: wrapped()?,
        };
        let manifest = input.bytes(MANIFEST_LIMIT, "manifest")?.to_vec();
        input.end()?;
        Ok(Self { request, generation, ake, keys, wrapped, manifest })
    }
}

/// A fingerprint of a generation's secret keys: equal at two sites if and only
/// if they hold the same. Each key is asked for one value that no record uses
/// (no credential id, value or ticket is a hash of this text).
pub fn keys_fingerprint(
    keys: &dyn KeyProtection,
    generation: u32,
) -> std::result::Result<Aloud, KeyError> {
    const CHECK: &[u8] = b"amberfs-vault keys check 1";
    let mut text = CHECK.to_vec();
    text.extend_from_slice(&keys.fleet());
    text.extend_from_slice(&generation.to_le_bytes());
    text.extend_from_slice(&keys.ake_public(generation)?);
    for value in [
        hash(keys.oprf_material(generation, &hash(CHECK))?.expose()),
        hash(keys.seal_mac(generation, CHECK)?.expose()),
        hash(&keys.lookup_mac(CHECK)?),
    ] {
        text.extend_from_slice(&value);
    }
    Ok(Aloud::of(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::SystemRandom;
    use crate::vault::hsm::FileKeys;
    use proptest::prelude::*;

    fn request() -> SiteRequest {
        SiteRequest {
            fleet: [1; 16],
            root: [7; 32],
            name: "second".into(),
            spki: vec![2; 91],
            wrapping: RsaPublic { modulus: vec![0xc1; 384], exponent: vec![1, 0, 1] },
        }
    }

    fn parcel() -> Parcel {
        Parcel {
            request: [3; 32],
            generation: 1,
            ake: [2; 33],
            keys: Aloud([9; 20]),
            wrapped: WrappedKeys {
                transport: vec![1; 384],
                seed: vec![2; 40],
                ake: vec![3; 80],
                seal: vec![4; 40],
                lookup: vec![5; 40],
            },
            manifest: vec![6; 300],
        }
    }

    #[test]
    fn files_are_read_as_they_were_written() {
        assert_eq!(SiteRequest::decode(&request().encode()), Ok(request()));
        assert_eq!(Parcel::decode(&parcel().encode()), Ok(parcel()));
        let largest = [384, 512, 512, 512, 512].iter().sum::<usize>() + MANIFEST_LIMIT + 200;
        assert!(largest < TRANSFER_LIMIT);
    }

    #[test]
    fn cut_extended_and_exchanged_files_are_refused() {
        let (request, parcel) = (request().encode(), parcel().encode());
        for cut in 0..request.len() {
            assert!(SiteRequest::decode(&request[..cut]).is_err());
        }
        for cut in 0..parcel.len() {
            assert!(Parcel::decode(&parcel[..cut]).is_err());
        }
        for mut bytes in [request.clone(), parcel.clone()] {
            bytes.push(0);
            assert!(SiteRequest::decode(&bytes).is_err() && Parcel::decode(&bytes).is_err());
        }
        assert!(SiteRequest::decode(&parcel).is_err() && Parcel::decode(&request).is_err());
    }

    #[test]
    fn wrapping_keys_that_are_too_short_or_padded_are_refused() {
        let with = |modulus: Vec<u8>, exponent: Vec<u8>| {
            let wrapping = RsaPublic { modulus, exponent };
            SiteRequest::decode(&SiteRequest { wrapping, ..request() }.encode())
        };
        assert!(with(vec![1; 512], vec![3]).is_ok());
        for modulus in [vec![1; 256], vec![1; 383], vec![1; 513], vec![0; 384], vec![]] {
            assert!(with(modulus, vec![3]).is_err());
        }
        for exponent in [vec![], vec![0, 3], vec![1; 9]] {
            assert!(with(vec![1; 384], exponent).is_err());
        }
    }

    #[test]
    fn a_fingerprint_is_read_as_it_is_said() {
        let aloud = Aloud::of(b"x");
        let text = aloud.to_string();
        assert_eq!(text.len(), 49);
        assert_eq!(text.parse(), Ok(aloud));
        assert_eq!(text.replace(' ', "").to_uppercase().parse(), Ok(aloud));
        for bad in ["", &text[..48], &format!("{text}0"), &text.replace(&text[..1], "g")] {
            assert_eq!(bad.parse::<Aloud>(), Err(AloudError), "{bad}");
        }
    }

    #[test]
    fn each_key_changes_the_keys_fingerprint() {
        let keys = FileKeys::create(&SystemRandom).ok().unwrap();
        let bytes = keys.encode();
        let print = |bytes: &[u8]| keys_fingerprint(&FileKeys::decode(bytes).ok().unwrap(), 1);
        assert_eq!(print(&bytes), keys_fingerprint(&keys, 1));
        // Fleet, seed, AKE key, seal key, lookup key.
        for at in [19, 39 + 31, 39 + 63, 39 + 95, 39 + 127] {
            let mut other = bytes.to_vec();
            other[at] ^= 1;
            assert_ne!(print(&other), print(&bytes), "byte {at}");
        }
        // The TLS key is the site's own.
        let mut other = bytes.to_vec();
        other[39 + 159] ^= 1;
        assert_eq!(print(&other), print(&bytes));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(SiteRequest::decode(&bytes).is_err());
            prop_assert!(Parcel::decode(&bytes).is_err());
        }
    }
}
