//! What a relay says to a site about a connection, before its first byte.
//!
//! 256 bytes: magic (16), the relay's Ed25519 key (32), time after which it counts
//! no more (8, little-endian), a random id (16), BLAKE3 of the client's first TLS
//! record (32), length of the account (1), the account (64), Ed25519 signature (64,
//! RFC 8032), zeros (23). Signed is a context and all before the signature.
//!
//! The first byte is no type of a TLS record, so a site tells it from a client that
//! comes directly. The hash binds it to one handshake: whoever copies it cannot
//! speak under it. A site remembers the ids of those that were spoken under.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::Seconds;
use super::binding::{ACCOUNT_MAX, is_account};
use crate::crypto::Hash;

/// Bytes of an assertion.
pub const ASSERTION: usize = 256;
/// For how long one counts, seconds.
pub const VALID: Seconds = 120;
/// The first byte of an assertion.
pub const FIRST: u8 = MAGIC[0];

const MAGIC: &[u8; 16] = b"amberfs-relay/1\0";
const CONTEXT: &[u8] = b"amberfs-vault/1 relay assertion";
const SIGNED: usize = 16 + 32 + 8 + 16 + 32 + 1 + ACCOUNT_MAX;
/// Difference of clocks that is borne, seconds.
pub const SLACK: Seconds = 300;

/// Why an assertion does not count.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AssertionError {
    /// The bytes do not have the form of an assertion.
    #[error("it is malformed")]
    Malformed,
    /// Signed by nobody the site knows.
    #[error("it is not a known relay's")]
    Unknown,
    /// The signature is wrong.
    #[error("its signature is wrong")]
    Signature,
    /// Too old, or from too far in the future.
    #[error("its time is over or not there yet")]
    Time,
    /// The assertion is for another handshake than this one.
    #[error("it belongs to another connection")]
    Hello,
    /// A connection went on under it already.
    #[error("it came before")]
    Repeated,
}

/// What a relay vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// The Ed25519 public key of the relay that signed.
    pub relay: [u8; 32],
    /// Seconds since 1970 after which it counts no more.
    pub expires: Seconds,
    /// A random id, so that a site can refuse a second use.
    pub id: [u8; 16],
    /// BLAKE3 of the client's first record.
    pub hello: Hash,
    /// The account that the client showed a token of; none if the relay asks for no
    /// account.
    pub account: Option<String>,
}

impl Assertion {
    /// The signed bytes. `self.relay` is `key`'s public half.
    pub fn sign(&self, key: &SigningKey) -> [u8; ASSERTION] {
        let account = self.account.as_deref().unwrap_or_default().as_bytes();
        let mut bytes = [0; ASSERTION];
        bytes[..16].copy_from_slice(MAGIC);
        bytes[16..48].copy_from_slice(&self.relay);
        bytes[48..56].copy_from_slice(&self.expires.to_le_bytes());
        bytes[56..72].copy_from_slice(&self.id);
        bytes[72..104].copy_from_slice(&self.hello);
        bytes[104] = account.len() as u8;
        bytes[105..105 + account.len()].copy_from_slice(account);
        let signature = key.sign(&[CONTEXT, &bytes[..SIGNED]].concat());
        bytes[SIGNED..SIGNED + 64].copy_from_slice(&signature.to_bytes());
        bytes
    }

    /// Reads one and checks who signed it.
    pub fn verify(bytes: &[u8; ASSERTION], known: &[[u8; 32]]) -> Result<Self, AssertionError> {
        let part = |from: usize, len: usize| &bytes[from..from + len];
        let malformed = || AssertionError::Malformed;
        let account = part(105, ACCOUNT_MAX).split_at_checked(bytes[104].into());
        let (account, zeros) = account.ok_or_else(malformed)?;
        let rest = &bytes[SIGNED + 64..];
        if part(0, 16) != MAGIC || zeros.iter().chain(rest).any(|byte| *byte != 0) {
            return Err(malformed());
        }
        let account = match std::str::from_utf8(account) {
            Ok("") => None,
            Ok(text) if is_account(text) => Some(text.to_owned()),
            _ => return Err(malformed()),
        };
        let fixed = "slices of these lengths";
        let assertion = Self {
            relay: part(16, 32).try_into().expect(fixed),
            expires: Seconds::from_le_bytes(part(48, 8).try_into().expect(fixed)),
            id: part(56, 16).try_into().expect(fixed),
            hello: part(72, 32).try_into().expect(fixed),
            account,
        };
        if !known.contains(&assertion.relay) {
            return Err(AssertionError::Unknown);
        }
        let signature = Signature::from_bytes(part(SIGNED, 64).try_into().expect(fixed));
        VerifyingKey::from_bytes(&assertion.relay)
            .and_then(|key| key.verify_strict(&[CONTEXT, &bytes[..SIGNED]].concat(), &signature))
            .map_err(|_| AssertionError::Signature)?;
        Ok(assertion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hash;

    fn signed(account: Option<&str>) -> (Assertion, [u8; ASSERTION]) {
        let key = SigningKey::from_bytes(&[7; 32]);
        let assertion = Assertion {
            relay: key.verifying_key().to_bytes(),
            expires: 1000,
            id: [3; 16],
            hello: hash(b"hello"),
            account: account.map(str::to_owned),
        };
        let bytes = assertion.sign(&key);
        (assertion, bytes)
    }

    #[test]
    fn what_was_signed_is_read() {
        for account in [None, Some("a"), Some("anna@example.org"), Some(&*"x".repeat(64))] {
            let (assertion, bytes) = signed(account);
            assert_eq!(Assertion::verify(&bytes, &[[0; 32], assertion.relay]), Ok(assertion));
        }
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let (assertion, bytes) = signed(Some("anna"));
        for bit in 0..8 * ASSERTION {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            let known = [assertion.relay, changed[16..48].try_into().unwrap()];
            assert!(Assertion::verify(&changed, &known).is_err(), "bit {bit}");
        }
        assert_eq!(Assertion::verify(&bytes, &[[1; 32]]), Err(AssertionError::Unknown));
    }
}
