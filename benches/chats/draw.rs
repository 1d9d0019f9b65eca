//! Seeded draws: every number and byte of the generated folders comes from here.
//!
//! A draw is a BLAKE3 output stream named by the seed, a purpose and some numbers, so each file
//! and each message can be made alone, in any order and on any later day, and is the same again.

use std::io::{self, Write};

/// Bytes taken from the stream at once for single numbers.
const BLOCK: usize = 1024;

/// Bytes of a payload made at once: enough for the wide BLAKE3 kernels.
const PAYLOAD_BLOCK: usize = 64 * 1024;

/// A stream of draws for one purpose.
pub struct Draw {
    stream: blake3::OutputReader,
    block: [u8; BLOCK],
    used: usize,
}

impl Draw {
    /// The draws for `purpose` and `numbers` under `seed`.
    pub fn new(seed: u64, purpose: &str, numbers: &[i64]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("amberfs chat backup generator 1");
        hasher.update(&seed.to_le_bytes());
        for number in numbers {
            hasher.update(&number.to_le_bytes());
        }
        // Last, because it is the only part without a fixed length.
        hasher.update(purpose.as_bytes());
        Self { stream: hasher.finalize_xof(), block: [0; BLOCK], used: BLOCK }
    }

    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        if self.used + 8 > BLOCK {
            self.stream.fill(&mut self.block);
            self.used = 0;
        }
        let bytes = &self.block[self.used..self.used + 8];
        self.used += 8;
        u64::from_le_bytes(bytes.try_into().expect("the slice has 8 bytes"))
    }

    /// A number in `0..limit`. The bias of the remainder is far below anything measured here.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// The same for SQLite, which knows signed integers only.
    pub fn row(&mut self, limit: i64) -> i64 {
        self.below(limit as u64) as i64
    }

    /// Whether an event of so many percent happens.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A number strictly between 0 and 1.
    fn unit(&mut self) -> f64 {
        ((self.bits() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// A rank in `0..limit` that falls off as 1/rank: words, chats, recent messages.
    pub fn zipf(&mut self, limit: u64) -> u64 {
        (((limit + 1) as f64).powf(self.unit()) as u64).clamp(1, limit) - 1
    }

    /// A size whose logarithm is normal: `sigma` is its deviation.
    pub fn lognormal(&mut self, median: u64, sigma: f64) -> u64 {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.unit()).cos();
        (median as f64 * (sigma * normal).exp()) as u64
    }

    /// `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.fill(&mut bytes);
        bytes
    }

    /// `count` bytes as twice as many lower-case hexadecimal digits.
    pub fn hex(&mut self, count: usize) -> String {
        hex(&self.bytes(count))
    }

    /// `count` incompressible bytes into `out`.
    pub fn payload(&mut self, mut count: u64, out: &mut dyn Write) -> io::Result<()> {
        let mut buffer = vec![0; PAYLOAD_BLOCK.min(count as usize)];
        while count > 0 {
            let part = &mut buffer[..PAYLOAD_BLOCK.min(count as usize)];
            self.stream.fill(part);
            out.write_all(part)?;
            count -= part.len() as u64;
        }
        Ok(())
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from(DIGITS[d as usize])).collect()
}

/// If item `index` of `count` is one of `chosen` evenly spread ones, which one of them.
pub fn spread(index: u64, count: u64, chosen: u64) -> Option<u64> {
    let before = index * chosen / count;
    let after = (index + 1) * chosen / count;
    (after > before).then_some(before)
}
