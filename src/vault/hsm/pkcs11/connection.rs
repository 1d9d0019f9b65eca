//! What one session computes with the token's keys.

use std::collections::HashMap;

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use p256::PublicKey;
use zeroize::Zeroizing;

use super::names::KeyName;
use crate::crypto::Secret;
use crate::vault::hsm::TokenError;

/// Bytes of `CKA_EC_POINT`: a DER `OCTET STRING` of an uncompressed point.
const EC_POINT: usize = 67;
/// Head of such a string.
pub(super) const OCTET_STRING: [u8; 2] = [0x04, 65];

/// Translates what a library says.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub fn classify(error: Error) -> TokenError {
    let Error::Pkcs11(code, function) = error else {
        return TokenError::Refused(error.to_string());
    };
    match code {
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange => TokenError::PinWrong,
        RvError::PinLocked => TokenError::PinLocked,
        RvError::DeviceRemoved
        | RvError::DeviceError
        | RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::SlotIdInvalid
        | RvError::SessionHandleInvalid
        | RvError::SessionClosed
        | RvError::UserNotLoggedIn
        | RvError::KeyHandleInvalid
        | RvError::ObjectHandleInvalid
        | RvError::CryptokiNotInitialized => TokenError::Removed,
        code => TokenError::Refused(format!("{function} answered {code:?}")),
    }
}

/// A session that is logged in, and the keys it has found.
pub struct Connection {
    pub(super) session: Session,
    found: HashMap<KeyName, ObjectHandle>,
}

impl Connection {
    pub(super) fn new(session: Session) -> Self {
        Self { session, found: HashMap::new() }
    }

    /// All objects of a class under a key's id.
    pub(super) fn all(
        &self,
        name: &KeyName,
        class: ObjectClass,
    ) -> Result<Vec<ObjectHandle>, TokenError> {
        let template = [Attribute::Token(true), Attribute::Class(class), Attribute::Id(name.id())];
        self.session.find_objects(&template).map_err(classify)
    }

    /// The one object of a class under a key's id.
    pub(super) fn only(
        &self,
        name: &KeyName,
        class: ObjectClass,
    ) -> Result<ObjectHandle, TokenError> {
        match *self.all(name, class)? {
            [handle] => Ok(handle),
            [] => Err(TokenError::Missing(name.to_string())),
            _ => Err(TokenError::Doubled(name.to_string())),
        }
    }

    /// A secret or private key, looked up once.
    pub(super) fn key(&mut self, name: &KeyName) -> Result<ObjectHandle, TokenError> {
        if let Some(handle) = self.found.get(name) {
            return Ok(*handle);
        }
        let handle = self.only(name, name.purpose.class())?;
        self.found.insert(*name, handle);
        Ok(handle)
    }

    /// Forgets what was looked up; for after keys have changed.
    pub(super) fn forget(&mut self) {
        self.found.clear();
    }

    /// Reads one attribute of an object in the token.
    pub(super) fn attribute(
        &self,
        handle: ObjectHandle,
        kind: AttributeType,
    ) -> Result<Attribute, TokenError> {
        let found = self.session.get_attributes(handle, &[kind]).map_err(classify)?;
        found.into_iter().next().ok_or(TokenError::Wrong("object"))
    }

    /// Computes HMAC-SHA256 of `message` in the token, under the key of that name.
    pub(crate) fn mac(&mut self, name: &KeyName, message: &[u8]) -> Result<Secret, TokenError> {
        let key = self.key(name)?;
        let made = self.session.sign(&Mechanism::Sha256Hmac, key, message).map_err(classify)?;
        let made = Zeroizing::new(made);
        let mut mac = made.as_slice().try_into().map_err(|_| TokenError::Wrong("HMAC"))?;
        Ok(Secret::take(&mut mac))
    }

    /// x(dP) for an uncompressed point P, big-endian.
    pub(crate) fn agree(&mut self, name: &KeyName, peer: &[u8; 65]) -> Result<Secret, TokenError> {
        let key = self.key(name)?;
        // PKCS#11 3.0 demands the bare point; some tokens know only the
        // OCTET STRING of older versions.
        let handle = match self.derive(key, peer) {
            Err(TokenError::Refused(_)) => self.derive(key, &[&OCTET_STRING[..], peer].concat())?,
            other => other?,
        };
        let value = self.attribute(handle, AttributeType::Value);
        self.session.destroy_object(handle).map_err(classify)?;
        let Attribute::Value(value) = value? else { return Err(TokenError::Wrong("shared x")) };
        let value = Zeroizing::new(value);
        // Leading zeros may have been dropped.
        let mut x = [0; 32];
        let at = x.len().checked_sub(value.len()).ok_or(TokenError::Wrong("shared x"))?;
        x[at..].copy_from_slice(&value);
        Ok(Secret::take(&mut x))
    }

    fn derive(&self, key: ObjectHandle, peer: &[u8]) -> Result<ObjectHandle, TokenError> {
        let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), peer));
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Token(false),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::ValueLen(32.into()),
        ];
        self.session.derive_key(&mechanism, key, &template).map_err(classify)
    }

    /// ECDSA over a digest: r and s.
    pub fn sign(&mut self, name: &KeyName, digest: &[u8; 32]) -> Result<[u8; 64], TokenError> {
        let key = self.key(name)?;
        let made = self.session.sign(&Mechanism::Ecdsa, key, digest).map_err(classify)?;
        made.as_slice().try_into().map_err(|_| TokenError::Wrong("signature"))
    }

    /// The public half of a P-256 key.
    pub fn public(&self, name: &KeyName) -> Result<PublicKey, TokenError> {
        let handle = self.only(name, ObjectClass::PUBLIC_KEY)?;
        let Attribute::EcPoint(point) = self.attribute(handle, AttributeType::EcPoint)? else {
            return Err(TokenError::Wrong("public key"));
        };
        let point = match point.strip_prefix(&OCTET_STRING) {
            Some(inner) if point.len() == EC_POINT => inner,
            _ => &point,
        };
        PublicKey::from_sec1_bytes(point).map_err(|_| TokenError::Wrong("public key"))
    }

    /// Whether a key can leave the token, wrapped.
    pub(crate) fn is_extractable(&mut self, name: &KeyName) -> Result<bool, TokenError> {
        let key = self.key(name)?;
        match self.attribute(key, AttributeType::Extractable)? {
            Attribute::Extractable(is) => Ok(is),
            _ => Err(TokenError::Wrong("object")),
        }
    }
}
