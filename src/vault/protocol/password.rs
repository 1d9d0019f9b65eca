//! Passwords: RFC 8265 `OpaqueString`, so that the same password typed on
//! another keyboard is the same bytes; weak ones are refused at registration.

use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::{PrecisFastInvocation, Rules};
use zeroize::Zeroizing;

use super::suite::Argon2Cost;
use crate::crypto::RepoId;

/// Longest password in bytes.
const LIMIT: usize = 1024;
/// zxcvbn looks at this many characters; its time grows faster than linearly.
const JUDGED: usize = 100;

/// Words that an attacker who sees a backup would try first.
const KNOWN: [&str; 6] = ["amberfs", "amber", "backup", "vault", "whatsapp", "telegram"];

/// Version of Unicode (major, minor) whose code point classes decide what a
/// new password may contain. Stored beside the locator.
pub const UNICODE_VERSION: (u8, u8) = (6, 3);

/// Why a password is refused, before any try is spent.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PasswordError {
    /// The password has no characters.
    #[error("the password is empty")]
    Empty,
    /// Longer than the limit.
    #[error("the password is longer than {LIMIT} bytes")]
    TooLong,
    /// The password is not valid UTF-8.
    #[error("the password is not UTF-8 text")]
    NotText,
    /// A control character, or one without a meaning yet in Unicode.
    #[error(
        "the password has a character that other machines may not be able to type the same way"
    )]
    Character,
    /// Guessable within the vault's limit or soon after.
    #[error("the password is too easy to guess: {0}")]
    Weak(String),
}

/// A password as it was typed. Wiped on drop; no `Debug`, no `==`.
pub struct Password(Zeroizing<String>);

impl Password {
    /// A password as typed or read; one trailing line end is stripped.
    pub fn new(bytes: &[u8]) -> Result<Self, PasswordError> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if bytes.len() > LIMIT {
            return Err(PasswordError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| PasswordError::NotText)?;
        if text.is_empty() {
            return Err(PasswordError::Empty);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// Whether this password may be registered: only assigned characters, and
    /// not weak.
    pub fn check_new(&self) -> Result<(), PasswordError> {
        let text = OpaqueString::enforce(self.0.as_str()).map_err(|_| PasswordError::Character)?;
        let text = Zeroizing::new(text.into_owned());
        let judged: Zeroizing<String> = Zeroizing::new(text.chars().take(JUDGED).collect());
        let estimate = zxcvbn::zxcvbn(&judged, &KNOWN);
        if estimate.score() < zxcvbn::Score::Three {
            let advice =
                estimate.feedback().and_then(zxcvbn::feedback::Feedback::warning).map_or_else(
                    || "use more or less common words".to_owned(),
                    |text| text.to_string(),
                );
            return Err(PasswordError::Weak(advice));
        }
        Ok(())
    }

    /// The prepared bytes: spaces mapped, NFC. No check of classes here, so a
    /// password registered under a newer Unicode still opens.
    fn prepared(&self) -> Result<Zeroizing<String>, PasswordError> {
        let profile = OpaqueString::new();
        let mapped = profile
            .additional_mapping_rule(self.0.as_str())
            .map_err(|_| PasswordError::Character)?;
        let mapped = Zeroizing::new(mapped.into_owned());
        let normal =
            profile.normalization_rule(mapped.as_str()).map_err(|_| PasswordError::Character)?;
        Ok(Zeroizing::new(normal.into_owned()))
    }

    /// The OPAQUE password input, each part with its length (4 bytes, LE)
    /// before it: repository id, Argon2id cost, prepared password.
    pub(crate) fn input(
        &self,
        repo: &RepoId,
        cost: Argon2Cost,
    ) -> Result<Zeroizing<Vec<u8>>, PasswordError> {
        let mut encoded = crate::format::wire::Encoder::new();
        cost.encode(&mut encoded);
        let cost = encoded.finish();
        let prepared = self.prepared()?;
        let mut input = Zeroizing::new(Vec::with_capacity(64 + prepared.len()));
        for part in [&repo[..], &cost, prepared.as_bytes()] {
            input.extend_from_slice(&(part.len() as u32).to_le_bytes());
            input.extend_from_slice(part);
        }
        Ok(input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(text: &str) -> String {
        Password::new(text.as_bytes()).unwrap().prepared().unwrap().to_string()
    }

    #[test]
    fn one_trailing_line_end_is_stripped() {
        assert_eq!(prepared("secret\n"), "secret");
        assert_eq!(prepared("secret\r\n"), "secret");
        assert_eq!(prepared("secret\n\n"), "secret\n");
        assert_eq!(Password::new(b"\n").err(), Some(PasswordError::Empty));
    }

    #[test]
    fn two_ways_to_type_it_are_one_password() {
        assert_eq!(prepared("caf\u{e9}\u{a0}x"), prepared("cafe\u{301} x"));
        assert_ne!(prepared("Secret"), prepared("secret"));
    }

    #[test]
    fn weak_and_odd_passwords_are_refused_at_registration_only() {
        let check = |text: &str| Password::new(text.as_bytes()).unwrap().check_new();
        assert!(matches!(check("password1"), Err(PasswordError::Weak(_))));
        assert!(matches!(check("amberfs"), Err(PasswordError::Weak(_))));
        assert_eq!(check("correct\u{7}horse battery staple"), Err(PasswordError::Character));
        assert_eq!(check("correct horse battery staple \u{378}"), Err(PasswordError::Character));
        assert_eq!(check("correct horse battery staple"), Ok(()));
        assert_eq!(prepared("x\u{378}"), "x\u{378}");
    }

    #[test]
    fn inputs_cannot_be_confused() {
        let password = Password::new(b"abc").unwrap();
        let one = password.input(&[1; 16], Argon2Cost::FLOOR).unwrap();
        let two = password.input(&[2; 16], Argon2Cost::FLOOR).unwrap();
        let three = password.input(&[1; 16], Argon2Cost::USUAL).unwrap();
        assert!(one[..] != two[..] && one[..] != three[..]);
        assert_eq!(one.len(), 4 + 16 + 4 + 12 + 4 + 3);
        assert_eq!(Password::new(&[b'a'; 1025]).err(), Some(PasswordError::TooLong));
        assert_eq!(Password::new(&[0xff]).err(), Some(PasswordError::NotText));
    }
}
