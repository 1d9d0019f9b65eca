//! Names of files that stand beside another one.

use super::Name;
use super::loaded::Loaded;
use crate::crypto::{IdKeys, hex};
use crate::format::clock::{Dot, WRITER_BYTES};
use crate::format::namespace::{Ino, NAME_MAX};
use crate::format::side_files::without_suffix;
use crate::io::Timestamp;

/// Longest name of a device in the name of a file, bytes.
const DEVICE_MAX: usize = 32;
/// Longest ending that stays behind what is added, bytes.
const ENDING_MAX: usize = 32;
/// How a mark begins.
const BEGIN_TEXT: &str = " (from ";
const BEGIN: &[u8] = BEGIN_TEXT.as_bytes();
/// What stands for the day of a time that no calendar has.
const NO_DATE: &str = "no date";
/// What a side file of a database may add to its name, bytes.
const SIDE_MAX: usize = 8;

/// The name of the file `ino` beside the one called `name`: who made it, and when.
///
/// It says nothing of which others are there, so each device finds the same.
pub(super) fn loser(
    loaded: &Loaded<'_>,
    name: &[u8],
    ino: Ino,
    origin: Dot,
    mtime: Timestamp,
) -> Name {
    let device = loaded.device(origin.writer);
    let device = device.map_or_else(String::new, |(id, name)| {
        Some(cleaned(&name)).filter(|name| !name.is_empty()).unwrap_or_else(|| hex(&id[..4]))
    });
    marked(name, &device, mtime, loaded.loser_number(ino, origin))
}

/// The name of a file that was the file `of` where it was written to, while another device's
/// version took its place. It stands beside the one called `name`. The device of this name
/// changed it at this time.
pub fn kept_beside(
    (name, of): (&[u8], Ino),
    (device, time): (&str, Timestamp),
    ino: Ino,
    ids: &IdKeys,
) -> Name {
    marked(name, &cleaned(device), time, kept_number(ids, ino, of))
}

/// What tells such a file from others: a loser number with the writer 0, which no change has.
pub(super) fn kept_number(ids: &IdKeys, ino: Ino, of: Ino) -> u64 {
    ids.loser_number(ino, &[0; WRITER_BYTES], of)
}

fn marked(name: &[u8], device: &str, time: Timestamp, number: u64) -> Name {
    let device = if device.is_empty() { "another device" } else { device };
    with(name, &format!("{BEGIN_TEXT}{device}, {} {:04x})", date(time), number & 0xffff))
}

/// A name in which [`loser`] put a mark: what stands before the mark, the mark, and what stands
/// behind it.
pub(super) struct Mark<'a> {
    before: &'a [u8],
    added: &'a [u8],
    behind: &'a [u8],
}

/// The marks of a name that end with these digits. A device may have called itself anything, so
/// it may be more than one.
pub(super) fn marks(name: &[u8], digits: u64) -> Vec<Mark<'_>> {
    let end = format!(" {digits:04x})");
    let mut found = Vec::new();
    for at in positions(name, end.as_bytes()) {
        let begins = positions(&name[..at], BEGIN);
        found.extend(begins.filter(|from| *from > 0).map(|from| Mark {
            before: &name[..from],
            added: &name[from..at + end.len()],
            behind: &name[at + end.len()..],
        }));
    }
    found
}

/// Whether a name has a mark as [`loser`] makes them, whatever its digits are.
pub(super) fn has_mark(name: &[u8]) -> bool {
    let Some(from) = positions(name, BEGIN).find(|at| *at > 0) else { return false };
    let inside = &name[from + BEGIN.len()..];
    positions(inside, b")").any(|end| is_inside_mark(&inside[..end]))
}

/// Whether a text is device, day and digits, as they stand between the parentheses of a mark.
fn is_inside_mark(text: &[u8]) -> bool {
    let comma = text.windows(2).rposition(|two| two == b", ");
    let dated = comma.and_then(|at| std::str::from_utf8(&text[at + 2..]).ok());
    dated.and_then(|dated| dated.rsplit_once(' ')).is_some_and(|(day, digits)| {
        let is_day = day.len() == 10 && day.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        let is_hex = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        (is_day || day == NO_DATE) && is_hex
    })
}

/// What stands before the marks of a name, for each that it may have.
pub(super) fn before_marks(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    positions(name, BEGIN).filter(|at| *at > 0).map(|at| &name[..at])
}

/// Whether a name may have a mark.
pub(super) fn may_be_marked(name: &[u8]) -> bool {
    positions(name, BEGIN).next().is_some()
}

fn positions<'a>(name: &'a [u8], part: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    name.windows(part.len()).enumerate().filter(move |(_, at)| *at == part).map(|(at, _)| at)
}

impl Mark<'_> {
    /// The number behind the mark, and what comes after it.
    fn number(&self) -> Option<(u32, &[u8])> {
        let rest = self.behind.strip_prefix(b" ")?;
        let end = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        let digits = std::str::from_utf8(&rest[..end]).ok()?;
        Some((digits.parse().ok()?, &rest[end..]))
    }

    /// The names to which the mark may have been added, if none of it had to be cut.
    pub fn plain_names(&self) -> impl Iterator<Item = Name> {
        let behind = std::iter::once(self.behind).chain(self.number().map(|(_, rest)| rest));
        behind.map(|behind| [self.before, behind].concat())
    }

    /// Whether the name is what comes of this one with the mark, whatever had to be cut.
    pub fn is_of(&self, plain: &[u8]) -> bool {
        let name = [self.before, self.added, self.behind].concat();
        let Ok(added) = std::str::from_utf8(self.added) else { return false };
        let wanted = with(plain, added);
        wanted == name || self.number().is_some_and(|(at, _)| numbered(&wanted, at) == name)
    }
}

/// The name with a number behind it.
pub fn numbered(name: &[u8], number: u32) -> Name {
    with(name, &format!(" {number}"))
}

/// The name for a database that cannot have this one: with a number behind it, and no ending
/// that makes it look like a side file.
pub(super) fn of_database(name: &[u8]) -> Name {
    const ADDED: &[u8] = b" 2";
    if !is_like_side(name) {
        return numbered(name, 2);
    }
    [cut(name, NAME_MAX - SIDE_MAX - ADDED.len()), ADDED].concat()
}

/// Whether a name ends like that of a side file. Beside such a file stand none.
pub(super) fn is_like_side(name: &[u8]) -> bool {
    without_suffix(name).is_some()
}

/// A name with this added before its ending, cut where it would be too long.
fn with(name: &[u8], added: &str) -> Name {
    let dot = name.iter().rposition(|byte| *byte == b'.');
    let at = dot.filter(|at| *at > 0 && name.len() - at <= ENDING_MAX).unwrap_or(name.len());
    let (stem, ending) = name.split_at(at);
    let most = NAME_MAX - SIDE_MAX - added.len() - ending.len();
    [cut(stem, most), added.as_bytes(), ending].concat()
}

/// The first bytes, at most `most`, and no part of a character at the end.
fn cut(bytes: &[u8], most: usize) -> &[u8] {
    if bytes.len() <= most {
        return bytes;
    }
    let goes_on = |at: &usize| bytes[*at] & 0xc0 == 0x80;
    let at = (most.saturating_sub(3)..=most).rev().find(|at| !goes_on(at));
    &bytes[..at.unwrap_or(most)]
}

/// What a device calls itself, fit for a name.
fn cleaned(name: &str) -> String {
    let fit: String = name.chars().filter(|c| *c != '/' && !c.is_control()).collect();
    let fit = fit.trim_start_matches('.');
    String::from_utf8_lossy(cut(fit.as_bytes(), DEVICE_MAX)).into_owned()
}

/// A day, in UTC.
fn date(time: Timestamp) -> String {
    let time = jiff::Timestamp::from_second(time.secs);
    time.map_or_else(|_| NO_DATE.into(), |time| time.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_has_a_device_a_day_and_digits() {
        for name in [
            "c (from X, 2026-11-28 3f2a)",
            "chat (from A, B (c), 2026-11-28 00ff).db",
            "a (from another device, 2026-11-28 3f2a) 2.txt",
            "c (from X, no date 3f2a)",
        ] {
            assert!(has_mark(name.as_bytes()), "{name}");
        }
        for name in [
            " (from X, 2026-11-28 3f2a)",
            "c (from X)",
            "c (from X, 2026-11-28 3f2)",
            "c (from X, 2026-11-28 3f2g)",
            "c (from X, today 3f2a)",
            "c (from, 2026-11-28 3f2a)",
            "(from X, 2026-11-28 3f2a)",
            "a) (from ",
            ")",
            "",
        ] {
            assert!(!has_mark(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn what_is_added_stands_before_the_ending() {
        let added = " (from X, 2026-11-28 3f2a)";
        let name = |name: &str| String::from_utf8(with(name.as_bytes(), added)).unwrap();
        assert_eq!(name("chat"), format!("chat{added}"));
        assert_eq!(name("chat.db"), format!("chat{added}.db"));
        assert_eq!(name(".bashrc"), format!(".bashrc{added}"));
        assert_eq!(name("a.tar.gz"), format!("a.tar{added}.gz"));
        let sentence = "a. And here begins another sentence of a name";
        assert_eq!(name(sentence), format!("{sentence}{added}"));
        let long = name(&format!("{}.db", "ä".repeat(126)));
        assert!(long.len() <= NAME_MAX - SIDE_MAX && long.ends_with(&format!("ä{added}.db")));
        assert_eq!(numbered(b"chat.db", 2), b"chat 2.db");
        assert_eq!(numbered(&[0xff; 255], 2).len(), NAME_MAX - SIDE_MAX);
        assert_eq!(of_database(b"chat.db"), b"chat 2.db");
        assert_eq!(of_database(b"chat.db-wal"), b"chat.db-wal 2");
        let long = [&[b'a'; 251][..], b"-wal"].concat();
        assert_eq!(of_database(&long).len(), NAME_MAX - SIDE_MAX);
    }

    #[test]
    fn a_mark_is_found_again_whatever_the_device_was_called() {
        let plain_names = |name: &str, digits| -> Vec<String> {
            let names = marks(name.as_bytes(), digits)
                .into_iter()
                .flat_map(|mark| mark.plain_names().collect::<Vec<_>>());
            names.map(|name| String::from_utf8(name).unwrap()).collect()
        };
        assert_eq!(plain_names("a (from X, 2026-11-28 3f2a).db", 0x3f2a), ["a.db"]);
        assert_eq!(plain_names("a (from X, 2026-11-28 002a) 12.db", 0x2a), ["a 12.db", "a.db"]);
        assert_eq!(plain_names("a (from X, no date 0000)", 0), ["a"]);
        assert_eq!(plain_names("a (from b (from c, 2026-11-28 3f2a)", 0x3f2a).len(), 2);
        for name in ["a", "a (from X, 2026-11-28 3f2b)", " (from X, 2026-11-28 3f2a)", "3f2a)", ""]
        {
            assert!(plain_names(name, 0x3f2a).is_empty(), "{name}");
        }
        // Behind the highest number of its kind there is none.
        assert_eq!(plain_names("a (from X, 2026-11-28 3f2a) 4294967296", 0x3f2a).len(), 1);
    }

    #[test]
    fn a_mark_belongs_to_a_name_that_was_cut_for_it() {
        let added = " (from X, 2026-11-28 3f2a)";
        for plain in ["chat".to_owned(), "chat.db".into(), format!("{}.db", "ä".repeat(126))] {
            let name = with(plain.as_bytes(), added);
            let is_of = |name: &[u8], plain: &str| {
                marks(name, 0x3f2a).iter().any(|mark| mark.is_of(plain.as_bytes()))
            };
            assert!(is_of(&name, &plain) && !is_of(&name, "other"), "{plain}");
            if plain.len() < 20 {
                assert!(is_of(&numbered(&name, 3), &plain), "{plain}");
            }
        }
    }

    #[test]
    fn names_of_devices_are_cleaned() {
        assert_eq!(cleaned("LAPTOP"), "LAPTOP");
        assert_eq!(cleaned("..a/b\n\u{85}c"), "abc");
        assert_eq!(cleaned(&"ä".repeat(40)), "ä".repeat(16));
        assert_eq!(cleaned(&format!("a{}", "ä".repeat(40))), format!("a{}", "ä".repeat(15)));
        assert_eq!(date(Timestamp { secs: 1_764_000_000, nanos: 5 }), "2025-11-24");
        assert_eq!(date(Timestamp { secs: i64::MAX, nanos: 0 }), "no date");
    }
}
