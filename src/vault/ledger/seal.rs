//! Sealing ledger values. *HMAC(seal key, label, suite, generation, name, 32
//! random bytes)* gives the AES-256-GCM-SIV key of one value:
//!
//! ```text
//! 1   suite          1   layout (1)     4   key generation
//! 32  random bytes   n   sealed record, padded with zeros
//! 16  tag
//! ```

use zeroize::Zeroizing;

use super::{Name, VALUE_SIZE, Value};
use crate::crypto::{Secret, TAG, ValueCipher};
use crate::io::Random;
use crate::vault::hsm::{KeyError, KeyProtection};
use crate::vault::protocol::{Invite, SUITE, Ticket};

const HEAD: usize = 6 + 32;
const LAYOUT: u8 = 1;
/// Most bytes of an encoded record.
pub const RECORD_LIMIT: usize = VALUE_SIZE - HEAD - TAG;

/// Why a value does not open.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// Keys are missing or unusable.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// Not sealed by this fleet for this name.
    #[error("a ledger value does not authenticate")]
    Forged,
    /// Another suite or layout.
    #[error("a ledger value has an unknown suite or layout")]
    Unknown,
}

/// The name of a ticket's record.
pub fn record_name(keys: &dyn KeyProtection, ticket: &Ticket) -> Result<Name, KeyError> {
    let mut message = b"amberfs-vault name 1".to_vec();
    message.extend_from_slice(ticket);
    keys.lookup_mac(&message)
}

/// The name of what is known of an invite.
pub fn invite_name(keys: &dyn KeyProtection, invite: &Invite) -> Result<Name, KeyError> {
    let mut message = b"amberfs-vault invite 1".to_vec();
    message.extend_from_slice(invite);
    keys.lookup_mac(&message)
}

/// The name of what is known of an account.
pub fn account_name(keys: &dyn KeyProtection, account: &str) -> Result<Name, KeyError> {
    let mut message = b"amberfs-vault account 1".to_vec();
    message.extend_from_slice(account.as_bytes());
    keys.lookup_mac(&message)
}

/// The name of how long the vault has been served.
pub fn clock_name(keys: &dyn KeyProtection) -> Result<Name, KeyError> {
    keys.lookup_mac(b"amberfs-vault clock 1")
}

fn cipher(
    keys: &dyn KeyProtection,
    generation: u32,
    name: &Name,
    head: &[u8],
) -> Result<ValueCipher, KeyError> {
    let mut message = b"amberfs-vault value 1".to_vec();
    message.extend_from_slice(head);
    message.extend_from_slice(name);
    let key: Secret = keys.seal_mac(generation, &message)?;
    Ok(ValueCipher::new(&key))
}

/// Seals an encoded record for its name under the current generation.
pub fn seal_value(
    keys: &dyn KeyProtection,
    random: &dyn Random,
    name: &Name,
    record: &[u8],
) -> Result<Value, SealError> {
    assert!(record.len() <= RECORD_LIMIT, "every part of a record is limited");
    let generation = keys.generation();
    let mut out = Vec::with_capacity(VALUE_SIZE);
    out.extend_from_slice(&[SUITE, LAYOUT]);
    out.extend_from_slice(&generation.to_le_bytes());
    out.resize(HEAD, 0);
    random.fill(&mut out[6..]);
    let cipher = cipher(keys, generation, name, &out)?;
    out.extend_from_slice(record);
    out.resize(HEAD + RECORD_LIMIT, 0);
    // The key is used once, so the nonce may be constant.
    cipher.seal(0, b"", &mut out, HEAD);
    Ok(out.into_boxed_slice().try_into().expect("head, record limit and tag are VALUE_SIZE"))
}

/// The generation of the key that a value is sealed under, as it says.
pub fn sealed_under(value: &Value) -> u32 {
    u32::from_le_bytes(value[2..6].try_into().expect("4 bytes"))
}

/// Opens a value: the record with its padding.
pub fn open_value(
    keys: &dyn KeyProtection,
    name: &Name,
    value: &Value,
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    if value[0] != SUITE || value[1] != LAYOUT {
        return Err(SealError::Unknown);
    }
    let cipher = cipher(keys, sealed_under(value), name, &value[..HEAD])?;
    let plain = cipher.open(0, b"", &value[HEAD..]).map_err(|_| SealError::Forged)?;
    Ok(Zeroizing::new(plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::SystemRandom;
    use crate::vault::hsm::FileKeys;

    #[test]
    fn values_open_only_under_their_name_and_keys() {
        let keys = FileKeys::create(&SystemRandom).ok().unwrap();
        let name = record_name(&keys, &[1; 16]).unwrap();
        let value = seal_value(&keys, &SystemRandom, &name, b"record").ok().unwrap();
        let again = seal_value(&keys, &SystemRandom, &name, b"record").ok().unwrap();
        assert!(value != again, "every touch looks new");
        let opened = open_value(&keys, &name, &value).ok().unwrap();
        assert!(opened.starts_with(b"record\0") && opened.len() == RECORD_LIMIT);
        let other = record_name(&keys, &[2; 16]).unwrap();
        assert_eq!(open_value(&keys, &other, &value).err(), Some(SealError::Forged));
        let strangers = FileKeys::create(&SystemRandom).ok().unwrap();
        assert_eq!(open_value(&strangers, &name, &value).err(), Some(SealError::Forged));
        let mut changed = value;
        changed[100] ^= 1;
        assert_eq!(open_value(&keys, &name, &changed).err(), Some(SealError::Forged));
        changed[0] = 9;
        assert_eq!(open_value(&keys, &name, &changed).err(), Some(SealError::Unknown));
    }
}
