//! Settings of a repository, and the one there is: how long states of the past are kept
//! (`docs/format.md`, "Settings").

use super::clock::Dot;
use super::namespace::{Key, NO_INO};
use super::node::Dotted;
use super::versions::Versions;
use super::wire::{DecodeError, Decoder, Encoder, Result};

/// The kind of a setting's key.
const SETTING: u8 = 9;
/// The longest setting, in bytes.
const SETTING_MAX: usize = 4096;
/// The name of the setting that says how long states of the past are kept.
const SNAPSHOTS: &[u8] = b"snapshots";

/// For how long states of the past are kept. A state that has a name is kept for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Hours for which the newest state of each hour is kept.
    pub hours: u64,
    /// Days for which the newest state of each day is kept.
    pub days: u64,
    /// Months, of 31 days, for which the newest state of each month is kept.
    pub months: u64,
    /// Fields of later versions: tag and bytes, ascending by tag.
    unknown: Vec<(u64, Vec<u8>)>,
}

impl Default for Retention {
    /// What holds in a repository whose owner has said nothing: a day, a month, ten years.
    fn default() -> Self {
        Self::new(24, 31, 120)
    }
}

impl Retention {
    /// The newest state of each hour for some hours, of each day for some days, and of each month for
    /// some months.
    pub fn new(hours: u64, days: u64, months: u64) -> Self {
        Self { hours, days, months, unknown: Vec::new() }
    }

    /// The key under which a repository has it.
    pub fn key() -> Key {
        Key::Opaque(NO_INO, SETTING, SNAPSHOTS.to_vec())
    }

    /// The value of a change that sets it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        Versions::default().encode(&mut out);
        out.raw(&self.encode_fields());
        out.finish()
    }

    /// The fields alone.
    pub fn encode_fields(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        let known = [(1, self.hours), (2, self.days), (3, self.months)];
        for (tag, count) in known.into_iter().filter(|(_, count)| *count > 0) {
            let mut field = Encoder::new();
            field.var(count);
            out.var(tag).bytes(&field.finish());
        }
        for (tag, bytes) in &self.unknown {
            out.var(*tag).bytes(bytes);
        }
        out.finish()
    }

    /// Reads what [`Retention::encode_fields`] wrote. A field that is zero is an error: it is absent.
    pub fn decode_fields(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes);
        let mut read = Self::new(0, 0, 0);
        let mut last = 0;
        while input.remaining() > 0 {
            let (tag, bytes) = input.field(&mut last, SETTING_MAX)?;
            let count = match tag {
                1 => &mut read.hours,
                2 => &mut read.days,
                3 => &mut read.months,
                _ => {
                    read.unknown.push((tag, bytes.to_vec()));
                    continue;
                }
            };
            let mut field = Decoder::new(bytes);
            *count = field.var()?;
            field.end()?;
            if *count == 0 {
                return Err(DecodeError::Invalid("count"));
            }
        }
        Ok(read)
    }

    /// What several devices set, as the values of the key: that of the highest dot counts which no
    /// other has replaced.
    ///
    /// # Errors
    ///
    /// If a value is not one of this setting.
    pub fn of(values: &[Dotted]) -> Result<Self> {
        let mut read: Vec<(Dot, Versions, &[u8])> = Vec::new();
        for value in values {
            if value.bytes.len() > SETTING_MAX {
                return Err(DecodeError::Limit("setting"));
            }
            let mut input = Decoder::new(&value.bytes);
            let versions = Versions::decode(&mut input)?;
            read.push((value.dot, versions, input.raw(input.remaining())?));
        }
        let is_replaced = |(dot, versions, _): &(Dot, Versions, &[u8])| {
            read.iter().any(|other| other.1.contain(versions.origin(*dot)) && other.0 != *dot)
        };
        let standing = read.iter().filter(|value| !is_replaced(value));
        let counting = standing.max_by_key(|(dot, ..)| *dot);
        counting.map_or_else(|| Ok(Self::default()), |(_, _, bytes)| Self::decode_fields(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::versions::testing::dot;

    fn value(record: u64, list: &Versions, retention: &Retention) -> Dotted {
        let mut out = Encoder::new();
        list.encode(&mut out);
        out.raw(&retention.encode_fields());
        Dotted { dot: dot(record), bytes: out.finish() }
    }

    #[test]
    fn a_retention_survives_with_fields_it_does_not_know() {
        let mut retention = Retention::new(24, 0, 120);
        retention.unknown = vec![(9, b"later".to_vec())];
        let none = Versions::default();
        assert_eq!(Retention::of(&[value(1, &none, &retention)]), Ok(retention.clone()));
        assert_eq!(Retention::of(&[]), Ok(Retention::default()));
        let bytes = retention.encode();
        for cut in [0, 2, 3, bytes.len() - 1] {
            let value = Dotted { dot: dot(1), bytes: bytes[..cut].to_vec() };
            assert!(Retention::of(&[value]).is_err(), "{cut}");
        }
        for bad in [&[0, 2, 1, 5, 1, 1, 5][..], &[0, 1, 2, 5, 5], &[0, 1, 1, 0], &[0; 5000]] {
            assert!(Retention::of(&[Dotted { dot: dot(1), bytes: bad.to_vec() }]).is_err());
        }
    }

    #[test]
    fn of_several_the_newest_counts_that_none_replaced() {
        let [one, two, three] = [1, 2, 3].map(|hours| Retention::new(hours, 0, 0));
        let none = Versions::default();
        let values = [value(5, &none, &one), value(7, &none, &two)];
        assert_eq!(Retention::of(&values), Ok(two.clone()));
        let replaced = Versions::replacing(&[(dot(7), &none)], dot(6));
        let values = [value(5, &none, &one), value(6, &replaced, &three), value(7, &none, &two)];
        assert_eq!(Retention::of(&values), Ok(three));
    }
}
