//! The 64-digit key as people write it: 16 groups of 4 hexadecimal digits.

use zeroize::Zeroizing;

use super::keys::{KeyCheck, Purpose, RepoId, Secret, key_check};

/// Why a text is not a 64-digit key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyTextError {
    /// A character that is neither a hexadecimal digit nor a separator.
    #[error("the key has a character that is not a digit 0-9 or a letter a-f, in group {group}")]
    BadCharacter {
        /// The group of the key in which it is, from 1.
        group: usize,
    },
    /// Too few or too many digits.
    #[error("the key has {digits} digits, not 64 (16 groups of 4)")]
    WrongLength {
        /// How many digits were read.
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

/// First line of a key sheet.
pub const SHEET_TITLE: &str = "amberfs: the key of a backup";
/// The line of a key sheet after which the key's lines come.
pub const SHEET_KEY: &str = "key";
/// How many lines of a key sheet a key takes.
const LINES: usize = 4;

/// The lines of the key in a saved key sheet.
fn key_of_sheet(text: &str) -> Option<Zeroizing<String>> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.find(|line| *line == SHEET_TITLE)?;
    lines.find(|line| *line == SHEET_KEY)?;
    // All room at once, so that growing leaves no copy behind.
    let mut key = Zeroizing::new(String::with_capacity(text.len()));
    for line in lines.take(LINES) {
        key.push_str(line);
        key.push('\n');
    }
    Some(key)
}

/// Reads a key: digits in any case, separated by spaces, line ends, dashes or nothing; or a
/// key sheet, whole.
pub fn parse_key(text: &str) -> Result<Secret, KeyTextError> {
    if let Some(key) = key_of_sheet(text) {
        return parse_digits(&key);
    }
    parse_digits(text)
}

fn parse_digits(text: &str) -> Result<Secret, KeyTextError> {
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
/// digits; or a key sheet. It must not be sent anywhere as a password.
pub fn resembles_key(text: &str) -> bool {
    if key_of_sheet(text).is_some() {
        return true;
    }
    let characters = || text.chars().filter(|c| !c.is_whitespace() && *c != '-');
    let odd = characters().filter(|c| !c.is_ascii_hexdigit()).count();
    characters().count() >= RESEMBLING.0 && odd <= RESEMBLING.1
}

/// Digits of a key of which this is the beginning or all: hexadecimal digits and separators,
/// nothing else.
pub fn digits_of_key(text: &str) -> Option<usize> {
    let mut digits = 0;
    for character in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
        character.is_ascii_hexdigit().then(|| digits += 1)?;
    }
    (1..=64).contains(&digits).then_some(digits)
}

/// Groups of a key that this is a part of as people write it: 2 to 15 whole groups of four
/// digits with something between them. Few passwords are.
pub fn groups_of_key(text: &str) -> Option<usize> {
    let mut count = 0;
    for group in text.split(|c: char| c.is_whitespace() || c == '-').filter(|part| !part.is_empty())
    {
        let is_group = group.len() == 4 && group.chars().all(|c| c.is_ascii_hexdigit());
        is_group.then(|| count += 1)?;
    }
    (2..16).contains(&count).then_some(count)
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
    fn a_key_sheet_is_a_key() {
        let text = format_key(&key());
        let sheet = format!(
            "{SHEET_TITLE}\r\n\r\nrepository  {}\r\n\r\nkey\r\n\r\n    {}\r\n\r\nvault  x\r\n",
            "ab".repeat(16),
            text.replace('\n', "\r\n    ")
        );
        assert!(parse_key(&sheet).is_ok_and(|read| read.expose() == key().expose()));
        assert!(resembles_key(&sheet));
        let mistyped = sheet.replacen("32", "3l", 1);
        assert_ne!(mistyped, sheet);
        assert!(matches!(parse_key(&mistyped), Err(KeyTextError::BadCharacter { .. })));
        assert!(resembles_key(&mistyped));
    }

    #[test]
    fn parts_of_a_key_are_known_by_their_groups() {
        for (text, groups) in [
            ("1234 5678 9abc DEF0", Some(4)),
            ("1234-5678", Some(2)),
            ("  1234 5678  9abc\t", Some(3)),
            ("1234 5678\nabcd ef01\n", Some(4)),
            ("1234", None),
            ("12345678", None),
            ("1234 567", None),
            ("1234 567g", None),
            ("1234 5678 and more", None),
            ("", None),
        ] {
            assert_eq!(groups_of_key(text), groups, "{text}");
        }
        assert_eq!(groups_of_key(&format_key(&key())), None, "it is whole");
        assert_eq!(groups_of_key(&format_key(&key())[5..]), Some(15));
        for (text, digits) in
            [("12 3", Some(3)), ("", None), ("xyz", None), (&*"0".repeat(65), None)]
        {
            assert_eq!(digits_of_key(text), digits, "{text}");
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
