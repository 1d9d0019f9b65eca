//! The primitives of every encoding: little-endian integers, canonical
//! variable-length integers, times, fields and length-prefixed bytes, all with limits.

use crate::io::Timestamp;

/// Why bytes are not a valid encoding.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("ends too early")]
    Short,
    /// Bytes are left over after the last field.
    #[error("has bytes left over")]
    Trailing,
    /// A length or count is above its limit.
    #[error("{0} is above its limit")]
    Limit(&'static str),
    /// A field has a value that the format does not allow.
    #[error("{0} is not valid")]
    Invalid(&'static str),
}

/// The result of decoding.
pub type Result<T> = std::result::Result<T, DecodeError>;

/// Appends fields to an encoding; `docs/format.md` has the rules of the encoding.
#[derive(Default)]
pub struct Encoder {
    bytes: Vec<u8>,
    /// Whether growing would leave a copy of a secret behind.
    fixed: bool,
}

impl Encoder {
    /// An encoding without any bytes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty encoding with room for `bytes` and no more: for secrets, of
    /// which growing would leave a copy behind.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), fixed: true }
    }

    fn extend(&mut self, bytes: &[u8]) -> &mut Self {
        debug_assert!(
            !self.fixed || self.bytes.len() + bytes.len() <= self.bytes.capacity(),
            "a secret encoding has no room to grow"
        );
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Returns the bytes that were encoded.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// How many bytes were encoded so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends a number as one byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.extend(&[value])
    }

    /// Appends a number as two bytes, little-endian.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Appends a number as four bytes, little-endian.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Appends a number as eight bytes, little-endian.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// LEB128: seven bits a byte, lowest first, the shortest form only.
    pub fn var(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8)
    }

    /// A signed number as a variable-length one: zigzag, then LEB128.
    pub fn signed(&mut self, value: i64) -> &mut Self {
        self.var((value << 1 ^ value >> 63) as u64)
    }

    /// A point in time: seconds since 1970, negative before, then nanoseconds.
    pub fn time(&mut self, time: Timestamp) -> &mut Self {
        self.signed(time.secs).var(u64::from(time.nanos))
    }

    /// Bytes as they are; the reader must know how many.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.extend(bytes)
    }

    /// A variable-length length, then the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.var(bytes.len() as u64).raw(bytes)
    }
}

/// Reads the fields of an encoding, one after the other.
#[derive(Clone)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Succeeds only if everything was read.
    pub fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }

    /// How many bytes were not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Reads the next `count` bytes. An error if fewer are left.
    pub fn raw(&mut self, count: usize) -> Result<&'a [u8]> {
        if count > self.rest.len() {
            return Err(DecodeError::Short);
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    /// Reads the next `N` bytes. An error if fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.raw(N)?.try_into().expect("raw returns N bytes"))
    }

    /// Reads a number of one byte. An error if none is left.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// Reads a number of two bytes, little-endian. An error if fewer are left.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Reads a number of four bytes, little-endian. An error if fewer are left.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Reads a number of eight bytes, little-endian. An error if fewer are left.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// LEB128; a form that is not the shortest is refused.
    pub fn var(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return Err(DecodeError::Limit("number"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(DecodeError::Invalid("number"));
                }
                return Ok(value);
            }
        }
        Err(DecodeError::Limit("number"))
    }

    /// A variable-length number of at most `limit`.
    pub fn var_max(&mut self, limit: u64, what: &'static str) -> Result<u64> {
        let value = self.var()?;
        if value > limit { Err(DecodeError::Limit(what)) } else { Ok(value) }
    }

    /// Reads a signed number of variable length.
    pub fn signed(&mut self) -> Result<i64> {
        let value = self.var()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A point in time, of fewer than 10^9 nanoseconds.
    pub fn time(&mut self) -> Result<Timestamp> {
        let secs = self.signed()?;
        Ok(Timestamp { secs, nanos: self.var_max(999_999_999, "nanoseconds")? as u32 })
    }

    /// The tag of the next field, which must be above the `last` one, and the bytes of the
    /// field, at most `limit`.
    pub fn field(&mut self, last: &mut u64, limit: usize) -> Result<(u64, &'a [u8])> {
        let tag = self.var()?;
        if tag <= *last {
            return Err(DecodeError::Invalid("field order"));
        }
        *last = tag;
        Ok((tag, self.bytes(limit, "field")?))
    }

    /// Length-prefixed bytes of at most `limit`.
    pub fn bytes(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8]> {
        let len = self.var_max(limit as u64, what)?;
        self.raw(len as usize)
    }

    /// A byte that must be 0 or 1.
    pub fn flag(&mut self, what: &'static str) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid(what)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_and_have_one_form() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut encoder = Encoder::new();
            encoder.var(value);
            let bytes = encoder.finish();
            let mut decoder = Decoder::new(&bytes);
            assert_eq!(decoder.var(), Ok(value));
            assert_eq!(decoder.end(), Ok(()));
        }
        for value in [0, 1, -1, i64::MAX, i64::MIN, -123_456] {
            let mut encoder = Encoder::new();
            encoder.signed(value);
            assert_eq!(Decoder::new(&encoder.finish()).signed(), Ok(value));
        }
        assert_eq!(Decoder::new(&[0x80, 0]).var(), Err(DecodeError::Invalid("number")));
        assert_eq!(Decoder::new(&[0xff; 11]).var(), Err(DecodeError::Limit("number")));
        assert_eq!(Decoder::new(&[0x80]).var(), Err(DecodeError::Short));
    }

    #[test]
    #[should_panic(expected = "no room to grow")]
    fn a_secret_encoding_does_not_grow() {
        Encoder::with_capacity(4).raw(&[1; 4]).u8(2);
    }

    #[test]
    fn times_survive_and_seconds_have_less_than_a_billion_nanoseconds() {
        for (secs, nanos) in [(0, 0), (-5, 999_999_999), (i64::MIN, 1), (i64::MAX, 0)] {
            let mut encoder = Encoder::new();
            encoder.time(Timestamp { secs, nanos });
            let bytes = encoder.finish();
            assert_eq!(Decoder::new(&bytes).time(), Ok(Timestamp { secs, nanos }));
        }
        let mut encoder = Encoder::new();
        encoder.time(Timestamp { secs: 0, nanos: 1_000_000_000 });
        let bytes = encoder.finish();
        assert_eq!(Decoder::new(&bytes).time(), Err(DecodeError::Limit("nanoseconds")));
    }

    #[test]
    fn fields_ascend() {
        let mut decoder = Decoder::new(&[3, 1, 7, 4, 0, 4, 0]);
        let mut last = 0;
        assert_eq!(decoder.field(&mut last, 1), Ok((3, &[7][..])));
        assert_eq!(decoder.field(&mut last, 1), Ok((4, &[][..])));
        assert_eq!(decoder.field(&mut last, 1), Err(DecodeError::Invalid("field order")));
        assert_eq!(
            Decoder::new(&[0, 0]).field(&mut 0, 1),
            Err(DecodeError::Invalid("field order"))
        );
        assert_eq!(Decoder::new(&[1, 2, 0, 0]).field(&mut 0, 1), Err(DecodeError::Limit("field")));
    }

    #[test]
    fn lengths_are_limited() {
        let mut encoder = Encoder::new();
        encoder.bytes(b"hello");
        let bytes = encoder.finish();
        assert_eq!(Decoder::new(&bytes).bytes(5, "text"), Ok(&b"hello"[..]));
        assert_eq!(Decoder::new(&bytes).bytes(4, "text"), Err(DecodeError::Limit("text")));
        assert_eq!(Decoder::new(&bytes[..4]).bytes(5, "text"), Err(DecodeError::Short));
    }
}
