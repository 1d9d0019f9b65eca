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
/// Of a file with one generation, and with several.
const VERSIONS: [u8; 2] = [1, 2];
/// Most generations of a fleet's keys.
const GENERATIONS: usize = 8;

/// What a generation has.
struct Generation {
    number: u32,
    seed: Secret,
    ake: Secret,
    seal: Secret,
}

impl Generation {
    fn create(number: u32, random: &dyn Random) -> Self {
        let (seed, ake) = (Secret::random(random), random_scalar(random));
        Self { number, seed, ake, seal: Secret::random(random) }
    }
}

/// A fleet's keys and a site's TLS key, in memory.
pub struct FileKeys {
    fleet: FleetId,
    /// The key generations, by rising number.
    generations: Vec<Generation>,
    /// The one for new records: what the manifest says, not the newest here.
    current: u32,
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
            generations: vec![Generation::create(1, random)],
            current: 1,
            lookup: Secret::random(random),
            tls: tls_key(&tls_scalar)?,
            tls_scalar,
        })
    }

    /// Copies the fleet's keys for another site, and makes a TLS key of its own for it.
    pub(crate) fn of_another_site(self, random: &dyn Random) -> Result<Self, KeyError> {
        let tls_scalar = random_scalar(random);
        Ok(Self { tls: tls_key(&tls_scalar)?, tls_scalar, ..self })
    }

    /// Makes `generation` the one that new records are made under.
    pub(crate) fn with_current(self, generation: u32) -> Result<Self, KeyError> {
        self.of(generation)?;
        Ok(Self { current: generation, ..self })
    }

    /// Makes keys of one more generation; its number. They are not for new records
    /// before the manifest says so.
    pub fn add_generation(&mut self, random: &dyn Random) -> Result<u32, KeyError> {
        if self.generations.len() == GENERATIONS {
            return Err(KeyError::Unusable("there are eight generations already"));
        }
        let newest = self.generations.last().map_or(0, |generation| generation.number);
        self.generations.push(Generation::create(newest + 1, random));
        Ok(newest + 1)
    }

    /// Takes the generations over that `from`, the keys of another site of this fleet,
    /// has. Returns how many there are now.
    pub(crate) fn take_generations(&mut self, from: Self) -> Result<usize, KeyError> {
        let is_other =
            |from: &Self| from.fleet != self.fleet || from.lookup.expose() != self.lookup.expose();
        if is_other(&from) {
            return Err(KeyError::Unusable("they are of another fleet"));
        }
        let current = self.current;
        self.generations = from.generations;
        self.of(current)?;
        Ok(self.generations.len())
    }

    /// Forgets a generation that is not the current one.
    pub fn drop_generation(&mut self, number: u32) -> Result<(), KeyError> {
        self.of(number)?;
        if number == self.current {
            return Err(KeyError::Unusable("new records are made under this generation"));
        }
        self.generations.retain(|generation| generation.number != number);
        Ok(())
    }

    /// The bytes of the key file.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let room = MAGIC.len() + 1 + 16 + 1 + self.generations.len() * 100 + 64;
        let mut out = Encoder::with_capacity(room);
        let several = usize::from(self.generations.len() > 1);
        out.raw(MAGIC).u8(VERSIONS[several]).raw(&self.fleet);
        if several == 1 {
            out.u8(self.generations.len() as u8);
        }
        for Generation { number, seed, ake, seal } in &self.generations {
            out.u32(*number);
            for secret in [seed, ake, seal] {
                out.raw(secret.expose());
            }
        }
        out.raw(self.lookup.expose()).raw(self.tls_scalar.expose());
        Zeroizing::new(out.finish())
    }

    /// Reads a key file.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let read = || -> Result<_, DecodeError> {
            let mut input = Decoder::new(bytes);
            if input.raw(MAGIC.len())? != MAGIC {
                return Err(DecodeError::Invalid("magic"));
            }
            let version = input.u8()?;
            let fleet = input.array()?;
            let count = match version {
                1 => 1,
                2 => usize::from(input.u8()?),
                _ => return Err(DecodeError::Invalid("version")),
            };
            if count > GENERATIONS || (version == 2 && count < 2) {
                return Err(DecodeError::Limit("generations"));
            }
            let secret = |input: &mut Decoder<'_>| -> Result<Secret, DecodeError> {
                let mut bytes = input.array()?;
                Ok(Secret::take(&mut bytes))
            };
            let mut generations: Vec<Generation> = Vec::with_capacity(count);
            for _ in 0..count {
                let number = input.u32()?;
                if generations.last().is_some_and(|last| last.number >= number) {
                    return Err(DecodeError::Invalid("generations"));
                }
                let [seed, ake, seal] =
                    [secret(&mut input)?, secret(&mut input)?, secret(&mut input)?];
                generations.push(Generation { number, seed, ake, seal });
            }
            let secrets = [secret(&mut input)?, secret(&mut input)?];
            input.end()?;
            Ok((fleet, generations, secrets))
        };
        let (fleet, generations, [lookup, tls_scalar]) =
            read().map_err(|_| KeyError::Unusable("the key file is damaged"))?;
        generations.iter().try_for_each(|generation| scalar(&generation.ake).map(drop))?;
        let tls = tls_key(&tls_scalar)?;
        // Until the manifest is known.
        let current = generations.first().map_or(0, |generation| generation.number);
        Ok(Self { fleet, generations, current, lookup, tls_scalar, tls })
    }

    fn of(&self, number: u32) -> Result<&Generation, KeyError> {
        let found = self.generations.iter().find(|generation| generation.number == number);
        found.ok_or(KeyError::Generation(number))
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
        self.current
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
    fn a_generation_more_is_not_the_current_one_before_it_is_said() {
        let mut keys = FileKeys::create(&SystemRandom).ok().unwrap();
        let one = keys.encode();
        assert_eq!(keys.add_generation(&SystemRandom), Ok(2));
        let mut read = FileKeys::decode(&keys.encode()).ok().unwrap();
        assert_eq!((read.generation(), read.encode()), (1, keys.encode()));
        let seal = |keys: &FileKeys, generation| *keys.seal_mac(generation, b"x").unwrap().expose();
        assert_ne!(seal(&read, 1), seal(&read, 2));
        assert_ne!(read.ake_public(1), read.ake_public(2));
        assert!(read.drop_generation(1).is_err() && read.drop_generation(3).is_err());
        let mut read = read.with_current(2).ok().unwrap();
        assert_eq!(read.generation(), 2);
        read.drop_generation(1).unwrap();
        assert_eq!(read.ake_public(1), Err(KeyError::Generation(1)));
        assert!(read.with_current(1).is_err());

        let mut other = FileKeys::decode(&one).ok().unwrap();
        let stranger = FileKeys::create(&SystemRandom).ok().unwrap();
        assert!(other.take_generations(stranger).is_err());
        let tls = other.tls();
        assert_eq!(other.take_generations(keys), Ok(2));
        assert!(other.tls().public_key() == tls.public_key() && other.generation() == 1);
        for _ in 0..GENERATIONS - 2 {
            other.add_generation(&SystemRandom).unwrap();
        }
        assert!(other.add_generation(&SystemRandom).is_err());
        assert!(FileKeys::decode(&other.encode()).is_ok());
    }

    #[test]
    fn damaged_key_files_are_refused() {
        let mut two = FileKeys::create(&SystemRandom).ok().unwrap();
        two.add_generation(&SystemRandom).unwrap();
        let bytes = two.encode();
        for cut in 0..bytes.len() {
            assert!(FileKeys::decode(&bytes[..cut]).is_err());
        }
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
