//! Who may use a relay.

use std::collections::HashMap;

use zeroize::Zeroizing;

use super::jwt::Verifier;
use crate::crypto::{hash, hex, unhex};
use crate::io::Random;
use crate::vault::protocol::{self, is_account};

/// How a relay knows its clients.
pub enum Accounts {
    /// The relay asks for no token: anybody may connect.
    None,
    /// By bearer tokens: BLAKE3 of each, and whose it is.
    Tokens(HashMap<[u8; 32], String>),
    /// By tokens that an issuer signed.
    Jwt(Verifier),
}

/// Without an account where one is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger;

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {0} is not an account and 64 hexadecimal digits")]
pub struct TokensError(usize);

/// A new token for `account` at the relay `audience` (`HOST:PORT`; empty if it is not
/// known), and the line that makes it count. Clients send it to that relay only.
pub fn new_token(
    account: &str,
    audience: &str,
    random: &dyn Random,
) -> (Zeroizing<String>, String) {
    let token = protocol::new_token(audience, random);
    let line = format!("{account} {}\n", hex(&hash(token.as_bytes())));
    (token, line)
}

impl Accounts {
    /// Reads lines of account and hash; empty ones and comments (`#`) are skipped.
    pub fn parse(text: &str) -> Result<Self, TokensError> {
        let mut tokens = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (account, digits) = line.split_once(' ').ok_or(TokensError(number + 1))?;
            let hash = unhex(digits.trim()).ok_or(TokensError(number + 1))?;
            if !is_account(account) {
                return Err(TokensError(number + 1));
            }
            tokens.insert(hash, account.to_owned());
        }
        Ok(Self::Tokens(tokens))
    }

    /// The account that a token belongs to; none if the relay asks for no token.
    pub(crate) fn admit(&self, token: Option<&str>) -> Result<Option<String>, Stranger> {
        match self {
            Self::None => Ok(None),
            // By the hash: how long the search takes tells nothing about a token.
            Self::Tokens(tokens) => token
                .and_then(|token| tokens.get(&hash(token.as_bytes())).cloned())
                .map(Some)
                .ok_or(Stranger),
            Self::Jwt(verifier) => {
                token.and_then(|token| verifier.account(token)).map(Some).ok_or(Stranger)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::SystemRandom;

    #[test]
    fn a_token_is_its_account_and_nothing_else_is() {
        let (token, line) = new_token("anna", "", &SystemRandom);
        let (other, _) = new_token("anna", "relay-1.example:443", &SystemRandom);
        let accounts = Accounts::parse(&format!("# people\n\n{line}")).ok().unwrap();
        assert_eq!(accounts.admit(Some(&token)), Ok(Some("anna".to_owned())));
        for wrong in [None, Some(""), Some("anna"), Some(&**other), Some(line.trim())] {
            assert_eq!(accounts.admit(wrong), Err(Stranger));
        }
        assert_eq!(Accounts::None.admit(Some("x")), Ok(None));
    }

    #[test]
    fn bad_lines_are_named() {
        let digits = "ab".repeat(32);
        for bad in ["anna", "anna abcd", &format!("{} {digits}", "x".repeat(65)), &digits] {
            let read = Accounts::parse(&format!("b {digits}\n{bad}\n"));
            assert_eq!(read.err(), Some(TokensError(2)), "{bad}");
        }
    }
}
