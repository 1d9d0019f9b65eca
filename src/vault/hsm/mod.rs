//! The fleet's keys behind a trait that a PKCS#11 token can implement: it
//! evaluates, it does not hand keys out.
//!
//! Invariant: nothing but `HMAC(seed, credential id || "OprfKey" || 1)` is ever
//! computed with the OPRF seed, because that *is* a record's OPRF key.

mod file;
#[cfg(feature = "pkcs11")]
pub(crate) mod pkcs11;
#[cfg(any(feature = "pkcs11", test))]
mod point;
mod token;
pub mod transfer;

use std::sync::Arc;

use rustls::sign::SigningKey;
use zeroize::Zeroizing;

pub use file::FileKeys;
pub(crate) use token::TokenError;

use crate::crypto::Secret;
use crate::vault::config::Token;
use crate::vault::protocol::{AKE_PUBLIC, FleetId, Protection};

/// Why keys could not be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// No key of this generation here.
    #[error("no vault key of generation {0}")]
    Generation(u32),
    /// A point that is not on the curve.
    #[error("the client's key is not valid")]
    Point,
    /// The key file is unusable.
    #[error("vault keys: {0}")]
    Unusable(&'static str),
    /// The PKCS#11 token failed.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// The `SubjectPublicKeyInfo` of a signing key, DER, as it appears in TLS.
pub fn spki(key: &dyn SigningKey) -> Option<Vec<u8>> {
    key.public_key().map(|spki| spki.as_ref().to_vec())
}

/// What a site computes with keys that it may not be able to read. Calls may be
/// slow; none is made on an executor's thread.
pub trait KeyProtection: Send + Sync {
    /// How the keys are kept; must agree with the manifest.
    fn protection(&self) -> Protection;
    /// The fleet they belong to.
    fn fleet(&self) -> FleetId;
    /// Generation for new records.
    fn generation(&self) -> u32;
    /// OPRF key material of one record: HMAC-SHA256 under the OPRF seed of
    /// `credential || "OprfKey" || 1` (one block of HKDF-Expand).
    fn oprf_material(&self, generation: u32, credential: &[u8; 32]) -> Result<Secret, KeyError>;
    /// The public AKE key, a compressed point.
    fn ake_public(&self, generation: u32) -> Result<[u8; AKE_PUBLIC], KeyError>;
    /// Diffie-Hellman of the AKE key with a compressed point: a compressed
    /// point.
    fn ake_agree(
        &self,
        generation: u32,
        peer: &[u8; AKE_PUBLIC],
    ) -> Result<Zeroizing<[u8; AKE_PUBLIC]>, KeyError>;
    /// HMAC-SHA256 under the seal key.
    fn seal_mac(&self, generation: u32, message: &[u8]) -> Result<Secret, KeyError>;
    /// HMAC-SHA256 under the lookup key.
    fn lookup_mac(&self, message: &[u8]) -> Result<[u8; 32], KeyError>;
    /// The site's TLS signing key.
    fn tls(&self) -> Arc<dyn SigningKey>;
    /// Whether the keys could be taken out, wrapped: a ceremony is not done.
    fn is_exportable(&self) -> bool {
        false
    }
    /// Whether the keys can be used; if not, the site must be opened anew. May
    /// be slow.
    fn is_usable(&self) -> bool {
        true
    }
}

/// Opens a fleet's keys in a token, with the generations of its manifest.
pub fn open_token(
    token: &Token,
    fleet: FleetId,
    generations: &[u32],
) -> Result<Arc<dyn KeyProtection>, KeyError> {
    #[cfg(feature = "pkcs11")]
    return Ok(Arc::new(pkcs11::TokenKeys::open(token, fleet, generations)?));
    #[cfg(not(feature = "pkcs11"))]
    {
        let _ = (token, fleet, generations);
        Err(TokenError::NotBuilt.into())
    }
}
