//! Software keys in a file, 0600. Whoever takes that disk can guess every
//! record's password offline; the manifest says `file` and clients show it.

use std::sync::Arc;

use hmac::{Hmac, Mac};
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::pkcs8::EncodePrivateKey;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::{KeyError, KeyProtection};
use crate::crypto::Secret;
use crate::format::wire::{DecodeError, Decoder, Encoder};
use crate::io::Random;
use crate::vault::protocol::{AKE_PUBLIC, FleetId, Protection};

const MAGIC: &[u8; 18] = b"amberfs-vault keys";
const VERSION: u8 = 1;

/// One generation of keys, in memory.
pub struct FileKeys {
    fleet: FleetId,
    generation: u32,
    seed: Secret,
    ake: Secret,
    seal: Secret,
    lookup: Secret,
    tls_scalar: Secret,
    tls: Arc<dyn SigningKey>,
}

fn hmac(key: &Secret, parts: &[&[u8]]) -> Secret {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("any length is allowed");
    for part in parts {
        mac.update(part);
    }
    let mut bytes: [u8; 32] = mac.finalize().into_bytes().into();
    Secret::take(&mut bytes)
}

fn scalar(secret: &Secret) -> Result<p256::SecretKey, KeyError> {
    p256::SecretKey::from_slice(secret.expose())
        .map_err(|_| KeyError::Unusable("a P-256 key is out of range"))
}

/// A random P-256 scalar; out of range about once in 2^32.
fn random_scalar(random: &dyn Random) -> Secret {
    loop {
        let candidate = Secret::random(random);
        if scalar(&candidate).is_ok() {
            return candidate;
        }
    }
}

fn tls_key(secret: &Secret) -> Result<Arc<dyn SigningKey>, KeyError> {
    let der = scalar(secret)?
        .to_pkcs8_der()
        .map_err(|_| KeyError::Unusable("the TLS key cannot be encoded"))?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_bytes()));
    rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der)
        .map_err(|_| KeyError::Unusable("the TLS key is refused"))
}

impl FileKeys {
    /// Fresh keys of generation 1 for a new fleet.
    pub fn create(random: &dyn Random) -> Result<Self, KeyError> {
        let tls_scalar = random_scalar(random);
        Ok(Self {
            fleet: crate::crypto::random_id(random),
            generation: 1,
            seed: Secret::random(random),
            ake: random_scalar(random),
            seal: Secret::random(random),
            lookup: Secret::random(random),
            tls: tls_key(&tls_scalar)?,
            tls_scalar,
        })
    }

    /// The same keys with another TLS key.
    pub fn of_another_site(self, random: &dyn Random) -> Result<Self, KeyError> {
        let tls_scalar = random_scalar(random);
        Ok(Self { tls: tls_key(&tls_scalar)?, tls_scalar, ..self })
    }

    /// The bytes of the key file.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Encoder::with_capacity(MAGIC.len() + 1 + 16 + 4 + 5 * 32);
        out.raw(MAGIC).u8(VERSION).raw(&self.fleet).u32(self.generation);
        for secret in [&self.seed, &self.ake, &self.seal, &self.lookup, &self.tls_scalar] {
            out.raw(secret.expose());
        }
        Zeroizing::new(out.finish())
    }

    /// Reads a key file.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let read = || -> Result<_, DecodeError> {
            let mut input = Decoder::new(bytes);
            if input.raw(MAGIC.len())? != MAGIC || input.u8()? != VERSION {
                return Err(DecodeError::Invalid("version"));
            }
            let (fleet, generation) = (input.array()?, input.u32()?);
            let mut secret = || -> Result<Secret, DecodeError> {
                let mut bytes = input.array()?;
                Ok(Secret::take(&mut bytes))
            };
            let secrets = [secret()?, secret()?, secret()?, secret()?, secret()?];
            input.end()?;
            Ok((fleet, generation, secrets))
        };
        let (fleet, generation, [seed, ake, seal, lookup, tls_scalar]) =
            read().map_err(|_| KeyError::Unusable("the key file is damaged"))?;
        scalar(&ake)?;
        let tls = tls_key(&tls_scalar)?;
        Ok(Self { fleet, generation, seed, ake, seal, lookup, tls_scalar, tls })
    }

    fn of(&self, generation: u32) -> Result<&Self, KeyError> {
        if generation == self.generation { Ok(self) } else { Err(KeyError::Generation(generation)) }
    }
}

impl KeyProtection for FileKeys {
    fn protection(&self) -> Protection {
        Protection::File
    }

    fn fleet(&self) -> FleetId {
        self.fleet
    }

    fn generation(&self) -> u32 {
        self.generation
    }

    fn oprf_material(&self, generation: u32, credential: &[u8; 32]) -> Result<Secret, KeyError> {
        Ok(hmac(&self.of(generation)?.seed, &[credential, b"OprfKey", &[1]]))
    }

    fn ake_public(&self, generation: u32) -> Result<[u8; AKE_PUBLIC], KeyError> {
        let point = scalar(&self.of(generation)?.ake)?.public_key().to_encoded_point(true);
        Ok(point.as_bytes().try_into().expect("a compressed P-256 point has 33 bytes"))
    }

    fn ake_agree(
        &self,
        generation: u32,
        peer: &[u8; AKE_PUBLIC],
    ) -> Result<Zeroizing<[u8; AKE_PUBLIC]>, KeyError> {
        // Refuses the identity and points off the curve.
        let peer = p256::PublicKey::from_sec1_bytes(peer).map_err(|_| KeyError::Point)?;
        let own = scalar(&self.of(generation)?.ake)?;
        let mut shared = peer.to_projective() * *own.to_nonzero_scalar();
        let point = shared.to_affine().to_encoded_point(true);
        shared.zeroize();
        let bytes: [u8; AKE_PUBLIC] = point.as_bytes().try_into().map_err(|_| KeyError::Point)?;
        Ok(Zeroizing::new(bytes))
    }

    fn seal_mac(&self, generation: u32, message: &[u8]) -> Result<Secret, KeyError> {
        Ok(hmac(&self.of(generation)?.seal, &[message]))
    }

    fn lookup_mac(&self, message: &[u8]) -> Result<[u8; 32], KeyError> {
        Ok(*hmac(&self.lookup, &[message]).expose())
    }

    fn tls(&self) -> Arc<dyn SigningKey> {
        Arc::clone(&self.tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::SystemRandom;

    #[test]
    fn keys_survive_being_written_and_read() {
        let keys = FileKeys::create(&SystemRandom).ok().unwrap();
        let read = FileKeys::decode(&keys.encode()).ok().unwrap();
        assert_eq!(read.fleet(), keys.fleet());
        assert_eq!(read.ake_public(1), keys.ake_public(1));
        assert_eq!(read.lookup_mac(b"x"), keys.lookup_mac(b"x"));
        assert!(read.tls().public_key() == keys.tls().public_key());
        assert_eq!(read.ake_public(2), Err(KeyError::Generation(2)));
    }

    #[test]
    fn damaged_key_files_are_refused() {
        let bytes = FileKeys::create(&SystemRandom).ok().unwrap().encode();
        for cut in 0..bytes.len() {
            assert!(FileKeys::decode(&bytes[..cut]).is_err());
        }
        let mut long = bytes.to_vec();
        long.push(0);
        assert!(FileKeys::decode(&long).is_err());
        let mut zero = bytes.to_vec();
        zero[39 + 32..39 + 64].fill(0);
        assert!(FileKeys::decode(&zero).is_err());
    }

    #[test]
    fn both_sides_agree_and_bad_points_are_refused() {
        let one = FileKeys::create(&SystemRandom).ok().unwrap();
        let two = FileKeys::create(&SystemRandom).ok().unwrap();
        let left = one.ake_agree(1, &two.ake_public(1).unwrap()).unwrap();
        let right = two.ake_agree(1, &one.ake_public(1).unwrap()).unwrap();
        assert_eq!(left[..], right[..]);
        assert_eq!(one.ake_agree(1, &[0; 33]).err(), Some(KeyError::Point));
        assert_eq!(one.ake_agree(1, &[0xff; 33]).err(), Some(KeyError::Point));
    }
}
