//! Keys in a PKCS#11 token. It answers HMAC-SHA256, ECDH and ECDSA with keys
//! that do not leave it; one record's OPRF key and the shared point come back.
//!
//! Invariant: every call ends by its deadline, with the token's answer or with
//! an error; nothing is answered from memory in its place.

mod admin;
mod connection;
mod names;
mod pin;
mod pool;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::object::ObjectClass;
use p256::PublicKey;
use p256::ecdsa::VerifyingKey;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::elliptic_curve::point::AffineCoordinates;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use rustls::sign::SigningKey;
use zeroize::Zeroizing;

pub(crate) use admin::TokenAdmin;
use connection::Connection;
use names::{KeyName, Purpose};
use pool::{Access, Pool};
use tls::TokenTls;

use super::point::{Questions, inverse, questions, recover};
use super::{KeyError, KeyProtection, TokenError};
use crate::crypto::Secret;
use crate::vault::config::Token;
use crate::vault::protocol::{AKE_PUBLIC, FleetId, Protection};

/// How long a token may be away before the site should be started anew: some
/// libraries find a token that is back only then.
const AWAY_LIMIT: Duration = Duration::from_secs(15);

/// A fleet's keys in a token.
pub struct TokenKeys {
    pool: Arc<Pool>,
    fleet: FleetId,
    /// Public AKE keys.
    generations: BTreeMap<u32, PublicKey>,
    tls: TokenTls,
    exportable: bool,
    away: Mutex<Option<Instant>>,
}

impl Purpose {
    fn class(self) -> ObjectClass {
        match self {
            Self::Seed | Self::Seal | Self::Lookup => ObjectClass::SECRET_KEY,
            Self::Ake | Self::Tls | Self::Wrapping => ObjectClass::PRIVATE_KEY,
        }
    }
}

fn compress(point: &PublicKey) -> [u8; AKE_PUBLIC] {
    let point = point.to_encoded_point(true);
    point.as_bytes().try_into().expect("a compressed P-256 point has 33 bytes")
}

/// Looks at every key once: what is missing or does not belong together should
/// stop a start, not a request.
fn inspect(
    token: &mut Connection,
    fleet: FleetId,
    generations: &[u32],
) -> Result<(BTreeMap<u32, PublicKey>, PublicKey, bool), TokenError> {
    let name = |generation, purpose| KeyName { fleet, generation, purpose };
    let mut exportable = token.is_extractable(&name(0, Purpose::Lookup))?;
    let mut publics = BTreeMap::new();
    for generation in generations {
        for purpose in [Purpose::Seed, Purpose::Seal, Purpose::Ake] {
            exportable |= token.is_extractable(&name(*generation, purpose))?;
        }
        let ake = name(*generation, Purpose::Ake);
        let public = token.public(&ake)?;
        let base = p256::ProjectivePoint::GENERATOR.to_affine().to_encoded_point(false);
        let base = base.as_bytes().try_into().expect("an uncompressed P-256 point has 65 bytes");
        if token.agree(&ake, base)?.expose()[..] != public.as_affine().x()[..] {
            return Err(TokenError::Wrong("AKE key"));
        }
        publics.insert(*generation, public);
    }
    let tls = name(0, Purpose::Tls);
    exportable |= token.is_extractable(&tls)?;
    let public = token.public(&tls)?;
    let digest = [0x5a; 32];
    let signature = p256::ecdsa::Signature::from_slice(&token.sign(&tls, &digest)?)
        .map_err(|_| TokenError::Wrong("signature"))?;
    VerifyingKey::from(&public)
        .verify_prehash(&digest, &signature)
        .map_err(|_| TokenError::Wrong("TLS key"))?;
    Ok((publics, public, exportable))
}

impl TokenKeys {
    /// The keys of `fleet` in the token, with the generations of its manifest.
    pub fn open(token: &Token, fleet: FleetId, generations: &[u32]) -> Result<Self, KeyError> {
        let deadline = Duration::from_millis(token.deadline_ms.into());
        let pool = Arc::new(Pool::open(token, Access::Use, deadline)?);
        let wanted = generations.to_vec();
        let (generations, public, exportable) =
            pool.run(move |token| inspect(token, fleet, &wanted))?;
        let name = KeyName { fleet, generation: 0, purpose: Purpose::Tls };
        let tls = TokenTls::new(Arc::clone(&pool), name, &public);
        Ok(Self { pool, fleet, generations, tls, exportable, away: Mutex::new(None) })
    }

    fn of(&self, generation: u32) -> Result<&PublicKey, KeyError> {
        self.generations.get(&generation).ok_or(KeyError::Generation(generation))
    }

    fn mac(&self, generation: u32, purpose: Purpose, message: Vec<u8>) -> Result<Secret, KeyError> {
        let name = KeyName { fleet: self.fleet, generation, purpose };
        Ok(self.pool.run(move |token| token.mac(&name, &message))?)
    }
}

impl KeyProtection for TokenKeys {
    fn protection(&self) -> Protection {
        Protection::Hsm
    }

    fn fleet(&self) -> FleetId {
        self.fleet
    }

    fn generation(&self) -> u32 {
        self.generations.keys().next_back().copied().unwrap_or_default()
    }

    fn oprf_material(&self, generation: u32, credential: &[u8; 32]) -> Result<Secret, KeyError> {
        self.of(generation)?;
        // One block of HKDF-Expand (RFC 5869): few tokens have HKDF, all HMAC.
        let message = [&credential[..], b"OprfKey", &[1]].concat();
        self.mac(generation, Purpose::Seed, message)
    }

    fn ake_public(&self, generation: u32) -> Result<[u8; AKE_PUBLIC], KeyError> {
        self.of(generation).map(compress)
    }

    fn ake_agree(
        &self,
        generation: u32,
        peer: &[u8; AKE_PUBLIC],
    ) -> Result<Zeroizing<[u8; AKE_PUBLIC]>, KeyError> {
        let peer = PublicKey::from_sec1_bytes(peer).map_err(|_| KeyError::Point)?;
        let own = *self.of(generation)?;
        let shared = match questions(&peer) {
            Questions::Inverse => inverse(&own),
            Questions::Two(points) => {
                let name = KeyName { fleet: self.fleet, generation, purpose: Purpose::Ake };
                let (plain, shifted) = self.pool.run(move |token| {
                    Ok((token.agree(&name, &points[0])?, token.agree(&name, &points[1])?))
                })?;
                recover(&plain, &shifted, &own)
            }
        };
        Ok(shared.ok_or(TokenError::Wrong("shared point"))?)
    }

    fn seal_mac(&self, generation: u32, message: &[u8]) -> Result<Secret, KeyError> {
        self.of(generation)?;
        self.mac(generation, Purpose::Seal, message.to_vec())
    }

    fn lookup_mac(&self, message: &[u8]) -> Result<[u8; 32], KeyError> {
        Ok(*self.mac(0, Purpose::Lookup, message.to_vec())?.expose())
    }

    fn tls(&self) -> Arc<dyn SigningKey> {
        Arc::new(self.tls.clone())
    }

    fn is_exportable(&self) -> bool {
        self.exportable
    }

    fn is_usable(&self) -> bool {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.pool.is_lost() {
            *away = None;
            return true;
        }
        let name = KeyName { fleet: self.fleet, generation: 0, purpose: Purpose::Lookup };
        if self.pool.run(move |token| token.is_extractable(&name)).is_ok() {
            *away = None;
            return true;
        }
        away.get_or_insert_with(Instant::now).elapsed() < AWAY_LIMIT
    }
}
