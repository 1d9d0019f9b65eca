//! Making keys in a token, and a ceremony's part that tokens do: wrap, unwrap,
//! replace.
//!
//! Invariant: every key is sensitive from the start; only what a ceremony has
//! yet to copy can leave the token, wrapped.

use std::time::Duration;

use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use p256::PublicKey;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::pkcs8::EncodePublicKey;

use super::connection::{Connection, OCTET_STRING, classify};
use super::names::{KeyName, Purpose};
use super::pool::{Access, Pool};
use crate::vault::config::Token;
use crate::vault::hsm::transfer::{RsaPublic, WrappedKeys};
use crate::vault::hsm::{KeyError, TokenError};
use crate::vault::protocol::{AKE_PUBLIC, FleetId};

/// Making an RSA key takes some tokens a minute.
const DEADLINE: Duration = Duration::from_secs(180);
const MODULUS_BITS: u64 = 3072;
/// `CKA_EC_PARAMS` of P-256: its object identifier, DER.
pub(super) const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// What a generation has, beside the lookup key.
const OF_GENERATION: [Purpose; 3] = [Purpose::Seed, Purpose::Ake, Purpose::Seal];

/// A token whose keys may be changed.
pub struct TokenAdmin {
    pool: Pool,
    fleet: FleetId,
}

/// OAEP with SHA-1, which every token has; OAEP needs no collision resistance
/// of its hash.
fn oaep() -> Mechanism<'static> {
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(
        MechanismType::SHA1,
        PkcsMgfType::MGF1_SHA1,
        PkcsOaepSource::empty(),
    ))
}

fn named(name: &KeyName) -> [Attribute; 3] {
    [Attribute::Token(true), Attribute::Id(name.id()), Attribute::Label(name.label().into_bytes())]
}

/// What a secret or private key may do, wherever it came from.
pub(super) fn rights(name: &KeyName, exportable: bool) -> Vec<Attribute> {
    let purpose = name.purpose;
    let signs = !matches!(purpose, Purpose::Ake | Purpose::Wrapping);
    let mut template = named(name).to_vec();
    template.extend([
        Attribute::Class(purpose.class()),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(exportable),
        Attribute::Sign(signs),
        Attribute::Derive(purpose == Purpose::Ake),
        Attribute::Unwrap(purpose == Purpose::Wrapping),
        Attribute::Decrypt(false),
    ]);
    match purpose {
        Purpose::Ake | Purpose::Tls => template.push(Attribute::KeyType(KeyType::EC)),
        Purpose::Wrapping => template.push(Attribute::KeyType(KeyType::RSA)),
        Purpose::Seed | Purpose::Seal | Purpose::Lookup => template.extend([
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Verify(false),
            Attribute::Encrypt(false),
            Attribute::Wrap(false),
        ]),
    }
    template
}

/// What anybody may know of a key pair.
pub(super) fn public_rights(name: &KeyName) -> Vec<Attribute> {
    let mut template = named(name).to_vec();
    template.extend([
        Attribute::Private(false),
        Attribute::Verify(name.purpose == Purpose::Tls),
        Attribute::Encrypt(false),
        Attribute::Wrap(false),
    ]);
    template
}

impl Connection {
    fn must_be_new(&self, name: &KeyName) -> Result<(), TokenError> {
        for class in [name.purpose.class(), ObjectClass::PUBLIC_KEY] {
            if !self.all(name, class)?.is_empty() {
                return Err(TokenError::Refused(format!("it has a {name} already")));
            }
        }
        Ok(())
    }

    fn create(&self, name: &KeyName, exportable: bool) -> Result<(), TokenError> {
        self.must_be_new(name)?;
        let mut template = rights(name, exportable);
        let made = match name.purpose {
            Purpose::Seed | Purpose::Seal | Purpose::Lookup => {
                template.push(Attribute::ValueLen(32.into()));
                self.session.generate_key(&Mechanism::GenericSecretKeyGen, &template).map(drop)
            }
            Purpose::Ake | Purpose::Tls => {
                let mut public = public_rights(name);
                public.push(Attribute::EcParams(P256.to_vec()));
                let kind = Mechanism::EccKeyPairGen;
                self.session.generate_key_pair(&kind, &public, &template).map(drop)
            }
            Purpose::Wrapping => {
                let mut public = public_rights(name);
                public.push(Attribute::ModulusBits(MODULUS_BITS.into()));
                public.push(Attribute::PublicExponent(vec![1, 0, 1]));
                let kind = Mechanism::RsaPkcsKeyPairGen;
                self.session.generate_key_pair(&kind, &public, &template).map(drop)
            }
        };
        made.map_err(classify)
    }

    fn destroy(&mut self, name: &KeyName) -> Result<(), TokenError> {
        self.forget();
        for class in [name.purpose.class(), ObjectClass::PUBLIC_KEY] {
            for handle in self.all(name, class)? {
                self.session.destroy_object(handle).map_err(classify)?;
            }
        }
        Ok(())
    }

    fn wrapped(&self, keys: &[KeyName], to: &RsaPublic) -> Result<Vec<Vec<u8>>, TokenError> {
        let public = [
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(KeyType::RSA),
            Attribute::Token(false),
            Attribute::Wrap(true),
            Attribute::Modulus(to.modulus.clone()),
            Attribute::PublicExponent(to.exponent.clone()),
        ];
        let recipient = self.session.create_object(&public).map_err(classify)?;
        let transport = [
            Attribute::Token(false),
            Attribute::Sensitive(true),
            Attribute::Extractable(true),
            Attribute::Wrap(true),
            Attribute::Unwrap(false),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::ValueLen(32.into()),
        ];
        let transport =
            self.session.generate_key(&Mechanism::AesKeyGen, &transport).map_err(classify)?;
        let wrap = |mechanism: &Mechanism<'_>, by, key| {
            self.session.wrap_key(mechanism, by, key).map_err(classify)
        };
        let mut wrapped = vec![wrap(&oaep(), recipient, transport)?];
        for name in keys {
            let key = self.only(name, name.purpose.class())?;
            wrapped.push(wrap(&Mechanism::AesKeyWrapPad, transport, key)?);
        }
        for handle in [recipient, transport] {
            self.session.destroy_object(handle).map_err(classify)?;
        }
        Ok(wrapped)
    }

    fn unwrap(
        &mut self,
        keys: &[(KeyName, Vec<u8>)],
        by: &KeyName,
        transport: &[u8],
    ) -> Result<(), TokenError> {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(false),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Unwrap(true),
            Attribute::Decrypt(false),
        ];
        keys.iter().try_for_each(|(name, _)| self.must_be_new(name))?;
        let wrapping = self.key(by)?;
        let transport =
            self.session.unwrap_key(&oaep(), wrapping, transport, &template).map_err(classify)?;
        let mut made = Vec::new();
        let outcome = keys.iter().try_for_each(|(name, wrapped)| {
            let mechanism = Mechanism::AesKeyWrapPad;
            let template = rights(name, false);
            made.push(
                self.session
                    .unwrap_key(&mechanism, transport, wrapped, &template)
                    .map_err(classify)?,
            );
            Ok(())
        });
        if outcome.is_ok() {
            made.clear();
        }
        made.push(transport);
        for handle in made {
            self.session.destroy_object(handle).map_err(classify)?;
        }
        outcome
    }

    /// Replaces a key that can leave by a copy that cannot. May be done again
    /// after it was cut off.
    fn lock(&mut self, name: &KeyName) -> Result<bool, TokenError> {
        self.forget();
        let leaves =
            |handle: ObjectHandle| match self.attribute(handle, AttributeType::Extractable)? {
                Attribute::Extractable(leaves) => Ok(leaves),
                _ => Err(TokenError::Wrong("object")),
            };
        let mut stays = false;
        let mut old = Vec::new();
        for handle in self.all(name, name.purpose.class())? {
            if leaves(handle)? {
                old.push(handle);
            } else {
                stays = true;
            }
        }
        match (stays, old.first()) {
            (false, None) => return Err(TokenError::Missing(name.to_string())),
            (false, Some(first)) => {
                let copy = self
                    .session
                    .copy_object(*first, &[Attribute::Token(true), Attribute::Extractable(false)])
                    .map_err(classify)?;
                if leaves(copy)? {
                    return Err(TokenError::Wrong("copy"));
                }
            }
            (true, _) => {}
        }
        for handle in &old {
            self.session.destroy_object(*handle).map_err(classify)?;
        }
        Ok(!old.is_empty())
    }
}

impl TokenAdmin {
    /// Opens the token to change the keys of `fleet`.
    pub fn open(token: &Token, fleet: FleetId) -> Result<Self, KeyError> {
        Ok(Self { pool: Pool::open(token, Access::Change, DEADLINE)?, fleet })
    }

    fn name(&self, generation: u32, purpose: Purpose) -> KeyName {
        KeyName { fleet: self.fleet, generation, purpose }
    }

    /// All keys of a generation that sites share, in the order of a parcel.
    fn shared(&self, generation: u32) -> [KeyName; 4] {
        let [seed, ake, seal] = OF_GENERATION.map(|purpose| self.name(generation, purpose));
        [seed, ake, seal, self.name(0, Purpose::Lookup)]
    }

    /// Makes the keys of a later generation, in place of what a try before left. Only
    /// `exportable` ones can be copied to other sites.
    pub(crate) fn create_generation(
        &self,
        generation: u32,
        exportable: bool,
    ) -> Result<(), KeyError> {
        let names = OF_GENERATION.map(|purpose| self.name(generation, purpose));
        Ok(self.pool.run(move |token| {
            names.iter().try_for_each(|name| token.destroy(name))?;
            names.iter().try_for_each(|name| token.create(name, exportable))
        })?)
    }

    /// Destroys the keys of a generation; the lookup key stays.
    pub(crate) fn destroy_generation(&self, generation: u32) -> Result<(), KeyError> {
        let names = OF_GENERATION.map(|purpose| self.name(generation, purpose));
        Ok(self.pool.run(move |token| names.iter().try_for_each(|name| token.destroy(name)))?)
    }

    /// Makes the shared keys of a new fleet, of generation 1. Only `exportable`
    /// ones can be copied to other sites.
    pub(crate) fn create_fleet(&self, exportable: bool) -> Result<(), KeyError> {
        let names = self.shared(1);
        self.pool
            .run(move |token| names.iter().try_for_each(|name| token.create(name, exportable)))?;
        Ok(())
    }

    /// Makes the site's TLS key, if it has none; its `SubjectPublicKeyInfo`.
    pub(crate) fn create_tls(&self) -> Result<Vec<u8>, KeyError> {
        let name = self.name(0, Purpose::Tls);
        let public = self.pool.run(move |token| {
            if token.all(&name, name.purpose.class())?.is_empty() {
                token.create(&name, false)?;
            }
            token.public(&name)
        })?;
        let spki = public.to_public_key_der().map_err(|_| TokenError::Wrong("TLS key"))?;
        Ok(spki.as_bytes().to_vec())
    }

    /// Makes a wrapping key, in place of one that was not used.
    pub(crate) fn create_wrapping(&self) -> Result<RsaPublic, KeyError> {
        let name = self.name(0, Purpose::Wrapping);
        Ok(self.pool.run(move |token| {
            token.destroy(&name)?;
            token.create(&name, false)?;
            let handle = token.only(&name, ObjectClass::PUBLIC_KEY)?;
            let modulus = token.attribute(handle, AttributeType::Modulus)?;
            let exponent = token.attribute(handle, AttributeType::PublicExponent)?;
            match (modulus, exponent) {
                (Attribute::Modulus(modulus), Attribute::PublicExponent(exponent)) => {
                    Ok(RsaPublic { modulus, exponent })
                }
                _ => Err(TokenError::Wrong("wrapping key")),
            }
        })?)
    }

    /// Destroys the wrapping key, so that a parcel opens once.
    pub(crate) fn destroy_wrapping(&self) -> Result<(), KeyError> {
        let name = self.name(0, Purpose::Wrapping);
        Ok(self.pool.run(move |token| token.destroy(&name))?)
    }

    /// Wraps a generation's shared keys for another token.
    pub fn export(&self, generation: u32, to: &RsaPublic) -> Result<WrappedKeys, KeyError> {
        let (names, to) = (self.shared(generation), to.clone());
        let mut wrapped = self.pool.run(move |token| {
            // All sites have it already if it cannot leave any more.
            let count = 3 + usize::from(token.is_extractable(&names[3])?);
            token.wrapped(&names[..count], &to)
        })?;
        wrapped.resize(5, Vec::new());
        let [transport, seed, ake, seal, lookup] =
            wrapped.try_into().map_err(|_| TokenError::Wrong("wrapped keys"))?;
        Ok(WrappedKeys { transport, seed, ake, seal, lookup })
    }

    /// Takes in a generation's shared keys, so that they cannot leave again.
    pub fn import(
        &self,
        generation: u32,
        wrapped: &WrappedKeys,
        ake: &[u8; AKE_PUBLIC],
    ) -> Result<(), KeyError> {
        let public = PublicKey::from_sec1_bytes(ake).map_err(|_| KeyError::Point)?;
        let point = public.to_encoded_point(false);
        let by = self.name(0, Purpose::Wrapping);
        let names = self.shared(generation);
        let values = [&wrapped.seed, &wrapped.ake, &wrapped.seal, &wrapped.lookup];
        let mut keys: Vec<_> = names.into_iter().zip(values.map(Clone::clone)).collect();
        if wrapped.lookup.is_empty() {
            keys.pop();
        }
        let transport = wrapped.transport.clone();
        let mut template = public_rights(&names[1]);
        template.extend([
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(KeyType::EC),
            Attribute::EcParams(P256.to_vec()),
            Attribute::EcPoint([&OCTET_STRING[..], point.as_bytes()].concat()),
        ]);
        Ok(self.pool.run(move |token| {
            token.unwrap(&keys, &by, &transport)?;
            token.session.create_object(&template).map(drop).map_err(classify)
        })?)
    }

    /// Destroys a generation's shared keys, after an import that went wrong.
    pub(crate) fn destroy_shared(&self, generation: u32) -> Result<(), KeyError> {
        let names = self.shared(generation);
        Ok(self.pool.run(move |token| names.iter().try_for_each(|name| token.destroy(name)))?)
    }

    /// Replaces the shared keys of these generations by copies that cannot
    /// leave the token. Returns how many it replaced.
    pub fn lock(&self, generations: &[u32]) -> Result<usize, KeyError> {
        let mut names: Vec<KeyName> =
            generations.iter().flat_map(|generation| self.shared(*generation)).collect();
        names.dedup();
        Ok(self.pool.run(move |token| {
            let mut replaced = 0;
            for name in &names {
                replaced += usize::from(token.lock(name)?);
            }
            Ok(replaced)
        })?)
    }
}
