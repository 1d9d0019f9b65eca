//! Keys, derivation, sealing and ids.
//!
//! Invariant: every key used anywhere is derived here, with a [`Purpose`] that
//! is listed in the table of `docs/format.md`, and no (key, nonce) pair is used
//! for two plaintexts.

mod key_text;
mod keys;
mod seal;

pub use key_text::{
    KeyTextError, SHEET_KEY, SHEET_TITLE, correct_one_group, digits_of_key, format_key,
    groups_of_key, parse_key, resembles_key,
};
pub use keys::{
    DeviceId, EpochId, IdKeys, KeyCheck, Purpose, RepoId, Secret, derive, key_check, random_id,
};
pub use seal::{Domain, FileCipher, OpenError, SEGMENT, Segments, TAG, ValueCipher};

/// A BLAKE3 hash of public bytes (file names in REPO, chaining of heads).
pub type Hash = [u8; 32];

/// BLAKE3 of `bytes`, the hash that names every file in REPO.
pub fn hash(bytes: &[u8]) -> Hash {
    *blake3::hash(bytes).as_bytes()
}

/// Returns `bytes` as lower-case hexadecimal digits, two for each byte.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

/// Bytes from exactly `2 * N` lower-case hexadecimal digits, else `None`.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}
