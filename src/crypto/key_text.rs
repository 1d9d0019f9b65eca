//! The 64-digit key as people write it: 16 groups of 4 hexadecimal digits.

use zeroize::Zeroizing;

use super::keys::{KeyCheck, Purpose, RepoId, Secret, key_check};

/// Why a text is not a 64-digit key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyTextError {
    /// A character that is neither a hexadecimal digit nor a separator.
    #[error("the key has a character that is not a digit 0-9 or a letter a-f, in group {group}")]
    BadCharacter {
        /// Group it stands in, from 1.
        group: usize,
    },
    /// Too few or too many digits.
    #[error("the key has {digits} digits, not 64 (16 groups of 4)")]
    WrongLength {
        /// Digits counted.
        digits: usize,
    },
}

/// The key as 16 groups of 4 lower-case digits, in four lines of four groups.
pub fn format_key(key: &Secret) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(80));
    for (group, pair) in key.expose().chunks_exact(2).enumerate() {
        if group > 0 {
            text.push(if group % 4 == 0 { '\n' } else { ' ' });
        }
        for byte in pair {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).expect("below 16"));
            }
        }
    }
    text
}

/// Reads a key: digits in any case, separated by spaces, line ends, dashes or
/// nothing.
pub fn parse_key(text: &str) -> Result<Secret, KeyTextError> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    let mut digits = 0usize;
    for character in text.chars() {
        if character.is_whitespace() || character == '-' {
            continue;
        }
        let group = digits / 4 + 1;
        let digit = character.to_digit(16).ok_or(KeyTextError::BadCharacter { group })?;
        if digits < 64 {
            bytes[digits / 2] = bytes[digits / 2] << 4 | digit as u8;
        }
        digits += 1;
    }
    if digits != 64 {
        return Err(KeyTextError::WrongLength { digits });
    }
    Ok(Secret::take(&mut bytes))
}

/// Digits from which on a text is taken for a key, and how many characters of
/// it may be something else.
const RESEMBLING: (usize, usize) = (48, 4);

/// Whether a text is a key or a mistyped one: long, and nearly all hexadecimal
/// digits. It must not be sent anywhere as a password.
pub fn resembles_key(text: &str) -> bool {
    let characters = || text.chars().filter(|c| !c.is_whitespace() && *c != '-');
    let odd = characters().filter(|c| !c.is_ascii_hexdigit()).count();
    characters().count() >= RESEMBLING.0 && odd <= RESEMBLING.1
}

/// Looks for the one group of `key` that is mistyped: the group (from 1) whose
/// change makes `check` match. Tries 16 x 65535 candidates.
pub fn correct_one_group(key: &Secret, repo: &RepoId, check: &KeyCheck) -> Option<usize> {
    if key_check(key, repo) == *check {
        return None;
    }
    // The context is absorbed once; each candidate costs one compression.
    let base = blake3::Hasher::new_derive_key(Purpose::KeyCheck.context());
    let mut candidate = Zeroizing::new([0u8; 48]);
    candidate[..32].copy_from_slice(key.expose());
    candidate[32..].copy_from_slice(repo);
    for group in 0..16 {
        let original = [candidate[2 * group], candidate[2 * group + 1]];
        for value in 0..=u16::MAX {
            candidate[2 * group..2 * group + 2].copy_from_slice(&value.to_be_bytes());
            let mut hasher = base.clone();
            hasher.update(&candidate[..]);
            if hasher.finalize().as_bytes()[..16] == check[..] {
                return Some(group + 1);
            }
        }
        candidate[2 * group..2 * group + 2].copy_from_slice(&original);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Secret {
        let mut bytes: [u8; 32] = std::array::from_fn(|i| i as u8 * 7 + 1);
        Secret::take(&mut bytes)
    }

    #[test]
    fn a_key_survives_being_written_and_read() {
        let text = format_key(&key());
        assert_eq!(text.split_whitespace().count(), 16);
        for typed in [text.to_string(), text.to_uppercase(), text.replace([' ', '\n'], "-")] {
            assert!(parse_key(&typed).is_ok_and(|read| read.expose() == key().expose()));
        }
    }

    #[test]
    fn bad_texts_are_named() {
        assert_eq!(parse_key("12 34").err(), Some(KeyTextError::WrongLength { digits: 4 }));
        let long = "0".repeat(65);
        assert_eq!(parse_key(&long).err(), Some(KeyTextError::WrongLength { digits: 65 }));
        assert_eq!(parse_key("0000 00g0").err(), Some(KeyTextError::BadCharacter { group: 2 }));
    }

    #[test]
    fn mistyped_keys_are_known_and_pass_phrases_are_not_taken_for_them() {
        let text = format_key(&key());
        let mistyped = text.replacen('8', "O", 1);
        assert!(mistyped != *text && resembles_key(&mistyped));
        assert!(
            resembles_key(&text) && resembles_key(&text[5..]) && resembles_key(&"a".repeat(48))
        );
        for phrase in [
            "seven small boats drift home by the light of a lamp",
            "deadbeef cafe",
            &"0".repeat(47),
            "facade decade added a bead; faded, a dad bade Abe feed a caged bee, and ate beef",
        ] {
            assert!(!resembles_key(phrase), "{phrase}");
        }
    }

    #[test]
    fn the_mistyped_group_is_named() {
        let repo = [9; 16];
        let check = key_check(&key(), &repo);
        let mut bytes = *key().expose();
        bytes[13] ^= 0x40;
        let typed = Secret::take(&mut bytes);
        assert_eq!(correct_one_group(&typed, &repo, &check), Some(7));
        assert_eq!(correct_one_group(&key(), &repo, &check), None);
        let mut other = [3; 32];
        assert_eq!(correct_one_group(&Secret::take(&mut other), &repo, &check), None);
    }
}
