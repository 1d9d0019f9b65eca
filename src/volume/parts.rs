//! What a stretch of a file consists of once a layer of changes lies on it, and its
//! bytes, a window at a time: so what is cut takes little memory beside the layer.

use std::ops::Range;

use super::content::{Extent, Layer, Stored, read_stored, stored_runs};
use crate::store::{Result, Store};

/// A part of new content.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Bytes of the layer.
    New(&'a [u8]),
    /// Bytes that are stored, by their place in the file.
    Kept(Range<u64>),
    /// Zeros that are stored, count of bytes.
    Zeros(u64),
    /// Zeros that are not stored, count of bytes.
    Hole(u64),
}

impl Part<'_> {
    /// Bytes it covers.
    pub fn len(&self) -> u64 {
        match self {
            Self::New(bytes) => bytes.len() as u64,
            Self::Kept(range) => range.end - range.start,
            Self::Zeros(len) | Self::Hole(len) => *len,
        }
    }

    /// Whether it takes room.
    pub fn is_data(&self) -> bool {
        !matches!(self, Self::Hole(_))
    }
}

fn push_hole(parts: &mut Vec<Part<'_>>, len: u64) {
    match parts.last_mut() {
        Some(Part::Hole(before)) => *before += len,
        _ => parts.push(Part::Hole(len)),
    }
}

/// The parts of `range`: `layer` on `base`, of which nothing at or above `kept` shows.
/// Holes that meet are one.
pub fn parts<'a>(
    store: &Store,
    base: &Stored,
    layer: &'a Layer,
    range: Range<u64>,
    kept: u64,
) -> Result<Vec<Part<'a>>> {
    let mut parts = Vec::new();
    let mut at = range.start;
    let below = |low: u64, high: u64, parts: &mut Vec<Part<'a>>| -> Result<()> {
        let shown = high.min(kept).max(low);
        for placed in stored_runs(store, base, low, shown)? {
            let start = placed.start.max(low);
            let end = (placed.start + placed.run.total()).min(shown);
            if placed.run.is_hole() {
                push_hole(parts, end - start);
            } else if let Some(Part::Kept(last)) = parts.last_mut()
                && last.end == start
            {
                last.end = end;
            } else {
                parts.push(Part::Kept(start..end));
            }
        }
        if high > shown {
            push_hole(parts, high - shown);
        }
        Ok(())
    };
    for (start, extent) in layer.touching(range.start, range.end) {
        if *start > at {
            below(at, *start, &mut parts)?;
        }
        let (low, high) = (at.max(*start), range.end.min(start + extent.len()));
        match extent {
            Extent::Zero(_) => push_hole(&mut parts, high - low),
            Extent::Data(new) => {
                parts.push(Part::New(&new[(low - start) as usize..(high - start) as usize]));
            }
        }
        at = high;
    }
    if at < range.end {
        below(at, range.end, &mut parts)?;
    }
    Ok(parts)
}

/// Makes holes start and end at multiples of `grain`: the rest of them becomes zeros.
/// `start` is where the first part lies.
pub fn align_holes(
    parts: Vec<Part<'_>>,
    start: u64,
    end_of_file: u64,
    grain: u64,
) -> Vec<Part<'_>> {
    let mut aligned: Vec<Part<'_>> = Vec::with_capacity(parts.len());
    let mut at = start;
    for part in parts {
        let Part::Hole(len) = part else {
            at += part.len();
            aligned.push(part);
            continue;
        };
        let end = at + len;
        // The region's start and the file's end count as aligned.
        let first = if at == start { at } else { at.next_multiple_of(grain).min(end) };
        let last = if end == end_of_file { end } else { (end / grain * grain).max(first) };
        let split = [Part::Zeros(first - at), Part::Hole(last - first), Part::Zeros(end - last)];
        aligned.extend(split.into_iter().filter(|part| part.len() > 0));
        at = end;
    }
    aligned
}

/// Parts of data that lie side by side.
pub struct Stretch<'a> {
    parts: &'a [Part<'a>],
    /// Where the first of them lies in the file.
    start: u64,
}

impl<'a> Stretch<'a> {
    /// Parts from `start` on.
    pub fn new(parts: &'a [Part<'a>], start: u64) -> Self {
        Self { parts, start }
    }

    /// The bytes `[from, to)` of the file, which lie within. What is before them cannot
    /// be asked for any more.
    pub fn compose(&mut self, store: &Store, base: &Stored, from: u64, to: u64) -> Result<Vec<u8>> {
        while let Some((first, rest)) = self.parts.split_first()
            && self.start + first.len() <= from
        {
            self.start += first.len();
            self.parts = rest;
        }
        let mut bytes = Vec::with_capacity((to - from) as usize);
        let mut start = self.start;
        for part in self.parts {
            let (low, high) = (from.max(start) - start, to.min(start + part.len()) - start);
            match part {
                Part::New(new) => bytes.extend_from_slice(&new[low as usize..high as usize]),
                Part::Kept(range) => {
                    let before = bytes.len();
                    bytes.resize(before + (high - low) as usize, 0);
                    let (low, high) = (range.start + low, range.start + high);
                    read_stored(store, base, low, high, &mut bytes[before..])?;
                }
                Part::Zeros(_) => bytes.resize(bytes.len() + (high - low) as usize, 0),
                Part::Hole(_) => unreachable!("a stretch is data"),
            }
            start += part.len();
            if start >= to {
                break;
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_rounded_inwards() {
        let (before, after) = ([1; 100], [2; 50]);
        let hole = Part::Hole(3 * 4096);
        let parts = vec![Part::New(&before), hole, Part::New(&after)];
        let expected = [
            Part::New(&before),
            Part::Zeros(3996),
            Part::Hole(2 * 4096),
            Part::Zeros(100),
            Part::New(&after),
        ];
        assert_eq!(align_holes(parts, 0, 1 << 30, 4096), expected);
    }

    #[test]
    fn short_holes_are_zeros_and_the_end_of_the_file_counts_as_aligned() {
        let parts = vec![Part::Kept(0..8200), Part::Hole(4000), Part::New(&[1]), Part::Hole(4099)];
        let expected = [
            Part::Kept(0..8200),
            Part::Zeros(4000),
            Part::New(&[1]),
            Part::Zeros(87),
            Part::Hole(4012),
        ];
        assert_eq!(align_holes(parts, 0, 16300, 4096), expected);
    }
}
