//! What client and relay say to each other before the client speaks to a site.
//!
//! From the client 2048 bytes: version 1 (1), kind (1; 0 for no account, 1 for a
//! bearer token), the token's length (2, little-endian), the token, zeros. Back 16
//! bytes: version 1 (1), the answer (1), zeros. So neither tells by its size
//! whether there is an account.

use zeroize::Zeroizing;

use crate::format::wire::{DecodeError, Result};

/// Bytes from the client.
pub const GREETING: usize = 2048;
/// Length of the relay's answer, in bytes.
pub const WELCOME: usize = 16;
/// Longest token of an account, in bytes.
pub const TOKEN_MAX: usize = GREETING - 4;
const VERSION: u8 = 1;

/// What a relay answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Welcome {
    /// A site is at the other end from here on.
    Open = 0,
    /// The relay asks for an account's token, and the client showed none or an unknown one.
    Account = 1,
    /// Too many connections of this account or address.
    Busy = 2,
    /// No site accepted a connection from the relay.
    NoSite = 3,
}

/// The client's bytes; none if the token is too long or empty.
pub fn encode_greeting(token: Option<&str>) -> Option<Zeroizing<Vec<u8>>> {
    let token = token.map(str::as_bytes);
    if token.is_some_and(|token| token.is_empty() || token.len() > TOKEN_MAX) {
        return None;
    }
    let mut bytes = Zeroizing::new(vec![0; GREETING]);
    let text = token.unwrap_or_default();
    bytes[0] = VERSION;
    bytes[1] = u8::from(token.is_some());
    bytes[2..4].copy_from_slice(&(text.len() as u16).to_le_bytes());
    bytes[4..4 + text.len()].copy_from_slice(text);
    Some(bytes)
}

const BAD: DecodeError = DecodeError::Invalid("greeting");

/// The token in a client's bytes; an error if they are no greeting.
pub fn decode_greeting(bytes: &[u8; GREETING]) -> Result<Option<&str>> {
    let len = usize::from(u16::from_le_bytes([bytes[2], bytes[3]]));
    let (token, zeros) = bytes[4..].split_at_checked(len).ok_or(BAD)?;
    if bytes[0] != VERSION || zeros.iter().any(|byte| *byte != 0) {
        return Err(BAD);
    }
    match (bytes[1], std::str::from_utf8(token).map_err(|_| BAD)?) {
        (0, "") => Ok(None),
        (1, token) if !token.is_empty() => Ok(Some(token)),
        _ => Err(BAD),
    }
}

/// Encodes the relay's answer to a greeting.
pub fn encode_welcome(welcome: Welcome) -> [u8; WELCOME] {
    let mut bytes = [0; WELCOME];
    (bytes[0], bytes[1]) = (VERSION, welcome as u8);
    bytes
}

/// The answer in a relay's bytes; none if they are no answer.
pub fn decode_welcome(bytes: &[u8; WELCOME]) -> Option<Welcome> {
    if bytes[0] != VERSION || bytes[2..].iter().any(|byte| *byte != 0) {
        return None;
    }
    [Welcome::Open, Welcome::Account, Welcome::Busy, Welcome::NoSite]
        .into_iter()
        .find(|welcome| *welcome as u8 == bytes[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_and_answers_are_read_as_written() {
        for token in [None, Some("x"), Some(&*"é".repeat(TOKEN_MAX / 2))] {
            let bytes = encode_greeting(token).unwrap();
            assert_eq!(decode_greeting(bytes.as_slice().try_into().unwrap()), Ok(token));
        }
        for answer in [Welcome::Open, Welcome::Account, Welcome::Busy, Welcome::NoSite] {
            assert_eq!(decode_welcome(&encode_welcome(answer)), Some(answer));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(encode_greeting(Some("")).is_none());
        assert!(encode_greeting(Some(&"x".repeat(TOKEN_MAX + 1))).is_none());
        let good = encode_greeting(Some("token")).unwrap();
        for (at, byte) in [(0, 2), (1, 0), (1, 2), (2, 4), (3, 255), (4, 255), (9, 1), (2047, 1)] {
            let mut bad: [u8; GREETING] = good.as_slice().try_into().unwrap();
            bad[at] = byte;
            assert!(decode_greeting(&bad).is_err(), "{at}");
        }
        let mut empty = [0; GREETING];
        (empty[0], empty[1]) = (1, 1);
        assert!(decode_greeting(&empty).is_err());
        for (at, byte) in [(0, 0), (1, 4), (15, 1)] {
            let mut bad = encode_welcome(Welcome::Open);
            bad[at] = byte;
            assert_eq!(decode_welcome(&bad), None);
        }
    }
}
