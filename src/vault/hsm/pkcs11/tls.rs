//! TLS signatures by the token.

use std::fmt;
use std::sync::Arc;

use p256::PublicKey;
use p256::ecdsa::Signature;
use p256::pkcs8::EncodePublicKey;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::names::KeyName;
use super::pool::Pool;

/// The site's TLS key.
#[derive(Clone)]
pub struct TokenTls {
    pool: Arc<Pool>,
    name: KeyName,
    spki: Arc<[u8]>,
}

impl TokenTls {
    pub(super) fn new(pool: Arc<Pool>, name: KeyName, public: &PublicKey) -> Self {
        let spki = public.to_public_key_der().expect("a P-256 point can be encoded");
        Self { pool, name, spki: spki.as_bytes().into() }
    }
}

impl fmt::Debug for TokenTls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.name)
    }
}

impl SigningKey for TokenTls {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let ours = SignatureScheme::ECDSA_NISTP256_SHA256;
        offered.contains(&ours).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(&self.spki[..]))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for TokenTls {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let digest: [u8; 32] = Sha256::digest(message).into();
        let name = self.name;
        let sign = || self.pool.run(move |token| token.sign(&name, &digest));
        // rustls signs where it shakes hands: on an executor's thread, which
        // other connections must not wait for.
        let on_executor = Handle::try_current()
            .is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
        let made = if on_executor { tokio::task::block_in_place(sign) } else { sign() };
        let made = made.map_err(|error| {
            log::error!("a TLS handshake was not signed: {error}");
            Error::General("the token did not sign".into())
        })?;
        let made = Signature::from_slice(&made)
            .map_err(|_| Error::General("the token's signature is out of range".into()))?;
        Ok(made.to_der().as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
