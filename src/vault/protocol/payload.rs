//! What the vault keeps for the owner: a list of (key id, K), sealed by the
//! client under the OPAQUE export key, padded to one size.

use zeroize::{Zeroize, Zeroizing};

use super::Binding;
use crate::crypto::{KeyCheck, Purpose, Secret, TAG, ValueCipher, derive};

/// Most keys in a payload; rotating K drops the oldest beyond.
pub const KEYS_LIMIT: usize = 8;
const PLAIN: usize = 1 + KEYS_LIMIT * 48;
/// Bytes of a sealed payload.
pub const PAYLOAD_SEALED: usize = PLAIN + TAG;

/// The payload is not what the owner registered.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the payload kept in the vault is damaged")]
pub struct PayloadError;

fn cipher(export: &Secret, binding: &Binding) -> ValueCipher {
    ValueCipher::new(&derive(Purpose::VaultPayload, export, &[&binding.registration]))
}

/// Seals 1 to [`KEYS_LIMIT`] keys, the current one first. The key is fresh at
/// every registration, so nonce 0 is used once.
pub fn seal_payload(
    export: &Secret,
    binding: &Binding,
    keys: &[(KeyCheck, &Secret)],
) -> Option<Vec<u8>> {
    if keys.is_empty() || keys.len() > KEYS_LIMIT {
        return None;
    }
    // Full capacity at once: no copy of K is left behind by growing.
    let mut sealed = Vec::with_capacity(PAYLOAD_SEALED);
    sealed.push(keys.len() as u8);
    for (check, key) in keys {
        sealed.extend_from_slice(check);
        sealed.extend_from_slice(key.expose());
    }
    sealed.resize(PLAIN, 0);
    cipher(export, binding).seal(0, &binding.payload_aad(), &mut sealed, 0);
    Some(sealed)
}

/// Opens a sealed payload.
pub fn open_payload(
    export: &Secret,
    binding: &Binding,
    sealed: &[u8],
) -> Result<Vec<(KeyCheck, Secret)>, PayloadError> {
    let plain = cipher(export, binding)
        .open(0, &binding.payload_aad(), sealed)
        .map_err(|_| PayloadError)?;
    let plain = Zeroizing::new(plain);
    let count = *plain.first().ok_or(PayloadError)? as usize;
    if plain.len() != PLAIN || count == 0 || count > KEYS_LIMIT {
        return Err(PayloadError);
    }
    let (used, padding) = plain[1..].split_at(count * 48);
    if padding.iter().any(|byte| *byte != 0) {
        return Err(PayloadError);
    }
    let keys = used.chunks_exact(48).map(|entry| {
        let mut key: [u8; 32] = entry[16..].try_into().expect("32 of 48 bytes");
        let secret = Secret::take(&mut key);
        key.zeroize();
        (entry[..16].try_into().expect("16 of 48 bytes"), secret)
    });
    Ok(keys.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> Secret {
        Secret::take(&mut [byte; 32])
    }

    #[test]
    fn keys_come_back_only_under_their_binding() {
        let binding = Binding { repo: [1; 16], registration: [2; 16], fleet: [3; 16] };
        let (one, two) = (secret(1), secret(2));
        let sealed =
            seal_payload(&secret(9), &binding, &[([1; 16], &one), ([2; 16], &two)]).unwrap();
        assert_eq!(sealed.len(), PAYLOAD_SEALED);
        let opened = open_payload(&secret(9), &binding, &sealed).ok().unwrap();
        assert_eq!(opened.len(), 2);
        assert_eq!((opened[1].0, opened[1].1.expose()), ([2; 16], two.expose()));
        assert!(open_payload(&secret(8), &binding, &sealed).is_err());
        let other = Binding { repo: [4; 16], ..binding };
        assert!(open_payload(&secret(9), &other, &sealed).is_err());
        assert!(open_payload(&secret(9), &binding, &sealed[1..]).is_err());
        assert!(open_payload(&secret(9), &binding, &[]).is_err());
    }

    #[test]
    fn no_keys_and_too_many_are_refused() {
        let binding = Binding { repo: [1; 16], registration: [2; 16], fleet: [3; 16] };
        let key = secret(1);
        assert!(seal_payload(&secret(9), &binding, &[]).is_none());
        let many: Vec<_> = (0..9).map(|n| ([n; 16], &key)).collect();
        assert!(seal_payload(&secret(9), &binding, &many).is_none());
    }
}
