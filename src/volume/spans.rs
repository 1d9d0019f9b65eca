//! The spans of which a range of a file consists once a layer of changes lies on it, and their
//! bytes, a window at a time: so chunking takes little memory beside the layer.

use std::ops::Range;

use super::content::{Extent, Layer, Stored, read_stored, stored_runs};
use crate::store::{Result, Store};

/// A range of new content, and where its bytes come from.
#[derive(Debug, PartialEq, Eq)]
pub enum Span<'a> {
    /// These bytes of the layer.
    New(&'a [u8]),
    /// Stored bytes, by their range in the file.
    Kept(Range<u64>),
    /// So many zeros, which are stored as data.
    Zeros(u64),
    /// So many zeros, which are a hole.
    Hole(u64),
}

impl Span<'_> {
    /// The length of the range in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::New(bytes) => bytes.len() as u64,
            Self::Kept(range) => range.end - range.start,
            Self::Zeros(len) | Self::Hole(len) => *len,
        }
    }

    /// Whether the range is stored as data, so that it is no hole.
    pub fn is_data(&self) -> bool {
        !matches!(self, Self::Hole(_))
    }
}

fn push_hole(spans: &mut Vec<Span<'_>>, len: u64) {
    match spans.last_mut() {
        Some(Span::Hole(before)) => *before += len,
        _ => spans.push(Span::Hole(len)),
    }
}

/// The spans of `range` of a file with the changes in `layer` above the stored content `base`,
/// of which nothing at or above `kept` shows. Holes that meet become one. Fails if the content
/// tree cannot be read.
pub fn spans<'a>(
    store: &Store,
    base: &Stored,
    layer: &'a Layer,
    range: Range<u64>,
    kept: u64,
) -> Result<Vec<Span<'a>>> {
    let mut spans = Vec::new();
    let mut at = range.start;
    let below = |low: u64, high: u64, spans: &mut Vec<Span<'a>>| -> Result<()> {
        let shown = high.min(kept).max(low);
        for placed in stored_runs(store, base, low, shown)? {
            let start = placed.start.max(low);
            let end = (placed.start + placed.run.total()).min(shown);
            if placed.run.is_hole() {
                push_hole(spans, end - start);
            } else if let Some(Span::Kept(last)) = spans.last_mut()
                && last.end == start
            {
                last.end = end;
            } else {
                spans.push(Span::Kept(start..end));
            }
        }
        if high > shown {
            push_hole(spans, high - shown);
        }
        Ok(())
    };
    for (start, extent) in layer.touching(range.start, range.end) {
        if *start > at {
            below(at, *start, &mut spans)?;
        }
        let (low, high) = (at.max(*start), range.end.min(start + extent.len()));
        match extent {
            Extent::Zero(_) => push_hole(&mut spans, high - low),
            Extent::Data(new) => {
                spans.push(Span::New(&new[(low - start) as usize..(high - start) as usize]));
            }
        }
        at = high;
    }
    if at < range.end {
        below(at, range.end, &mut spans)?;
    }
    Ok(spans)
}

/// Makes holes start and end at multiples of `grain` bytes: the rest of each becomes zeros.
/// `start` is the offset of the first span in the file.
pub fn align_holes(
    spans: Vec<Span<'_>>,
    start: u64,
    end_of_file: u64,
    grain: u64,
) -> Vec<Span<'_>> {
    let mut aligned: Vec<Span<'_>> = Vec::with_capacity(spans.len());
    let mut at = start;
    for span in spans {
        let Span::Hole(len) = span else {
            at += span.len();
            aligned.push(span);
            continue;
        };
        let end = at + len;
        // The region's start and the file's end count as aligned.
        let first = if at == start { at } else { at.next_multiple_of(grain).min(end) };
        let last = if end == end_of_file { end } else { (end / grain * grain).max(first) };
        let split = [Span::Zeros(first - at), Span::Hole(last - first), Span::Zeros(end - last)];
        aligned.extend(split.into_iter().filter(|span| span.len() > 0));
        at = end;
    }
    aligned
}

/// Adjoining spans of data.
pub struct Stretch<'a> {
    spans: &'a [Span<'a>],
    /// The offset of the first span in the file.
    start: u64,
}

impl<'a> Stretch<'a> {
    /// A stretch of `spans`, of which the first is at offset `start` of the file.
    pub fn new(spans: &'a [Span<'a>], start: u64) -> Self {
        Self { spans, start }
    }

    /// Returns the bytes `[from, to)` of the file, which must be within the stretch. After that
    /// the bytes before `from` can no longer be asked for.
    pub fn compose(&mut self, store: &Store, base: &Stored, from: u64, to: u64) -> Result<Vec<u8>> {
        while let Some((first, rest)) = self.spans.split_first()
            && self.start + first.len() <= from
        {
            self.start += first.len();
            self.spans = rest;
        }
        let mut bytes = Vec::with_capacity((to - from) as usize);
        let mut start = self.start;
        for span in self.spans {
            let (low, high) = (from.max(start) - start, to.min(start + span.len()) - start);
            match span {
                Span::New(new) => bytes.extend_from_slice(&new[low as usize..high as usize]),
                Span::Kept(range) => {
                    let before = bytes.len();
                    bytes.resize(before + (high - low) as usize, 0);
                    let (low, high) = (range.start + low, range.start + high);
                    read_stored(store, base, low, high, &mut bytes[before..])?;
                }
                Span::Zeros(_) => bytes.resize(bytes.len() + (high - low) as usize, 0),
                Span::Hole(_) => unreachable!("a stretch is data"),
            }
            start += span.len();
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
        let hole = Span::Hole(3 * 4096);
        let spans = vec![Span::New(&before), hole, Span::New(&after)];
        let expected = [
            Span::New(&before),
            Span::Zeros(3996),
            Span::Hole(2 * 4096),
            Span::Zeros(100),
            Span::New(&after),
        ];
        assert_eq!(align_holes(spans, 0, 1 << 30, 4096), expected);
    }

    #[test]
    fn short_holes_are_zeros_and_the_end_of_the_file_counts_as_aligned() {
        let spans = vec![Span::Kept(0..8200), Span::Hole(4000), Span::New(&[1]), Span::Hole(4099)];
        let expected = [
            Span::Kept(0..8200),
            Span::Zeros(4000),
            Span::New(&[1]),
            Span::Zeros(87),
            Span::Hole(4012),
        ];
        assert_eq!(align_holes(spans, 0, 16300, 4096), expected);
    }
}
