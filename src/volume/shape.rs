//! Where a file has data and where holes, without the bytes: what takes room.

use std::ops::Range;

use super::chunker::PAGE;
use super::content::{Extent, Layer, Stored, stored_runs};
use crate::format::namespace::Content;
use crate::store::{Result, Store};

/// Stretches of data, ascending and disjoint.
pub type Stretches = Vec<Range<u64>>;

/// What a layer covers.
pub struct Shape {
    /// Where, and whether with data; ascending and disjoint.
    covered: Vec<(Range<u64>, bool)>,
    /// What is below shows only under this offset.
    shows_below: u64,
}

impl Shape {
    /// Of a layer.
    pub fn of(layer: &Layer) -> Self {
        let covered = layer.extents.iter().map(|(start, extent)| {
            (*start..start + extent.len(), matches!(extent, Extent::Data(_)))
        });
        Self { covered: covered.collect(), shows_below: layer.shows_below }
    }

    /// The data that is seen if this layer lies over `below`.
    pub fn over(&self, below: Stretches) -> Stretches {
        let mut seen = Stretches::new();
        let mut below = below.into_iter().map(|part| part.start..part.end.min(self.shows_below));
        let mut next = below.next();
        for (place, is_data) in &self.covered {
            while let Some(part) = next.take() {
                push(&mut seen, part.start..part.end.min(place.start));
                if part.end > place.end {
                    next = Some(part.start.max(place.end)..part.end);
                    break;
                }
                next = below.next();
            }
            if *is_data {
                push(&mut seen, place.clone());
            }
        }
        next.into_iter().chain(below).for_each(|part| push(&mut seen, part));
        seen
    }
}

fn push(stretches: &mut Stretches, part: Range<u64>) {
    match stretches.last_mut() {
        _ if part.is_empty() => {}
        Some(last) if last.end == part.start => last.end = part.end,
        _ => stretches.push(part),
    }
}

/// The data of stored content; `None` if its tree has to be read for that.
pub fn known(stored: &Stored) -> Option<Stretches> {
    let whole = 0..stored.size;
    match stored.content {
        Content::None => Some(Stretches::from_iter((!stored.inline.is_empty()).then_some(whole))),
        Content::Tree(..) if stored.holes > 0 => None,
        Content::Chunk(_) | Content::Tree(..) => Some(vec![whole]),
    }
}

/// The data of stored content that touches `range`.
pub fn read(store: &Store, stored: &Stored, range: Range<u64>) -> Result<Stretches> {
    if let Some(known) = known(stored) {
        return Ok(known);
    }
    let mut found = Stretches::new();
    for placed in stored_runs(store, stored, range.start, range.end)? {
        if !placed.run.is_hole() {
            push(&mut found, placed.start..placed.start + placed.run.total());
        }
    }
    Ok(found)
}

/// How many pages of `range`, which starts and ends at pages, have data.
pub fn pages(data: &[Range<u64>], range: &Range<u64>) -> u64 {
    let (mut count, mut counted) = (0, range.start / PAGE);
    for part in data {
        let first = (part.start / PAGE).max(counted);
        counted = part.end.min(range.end).div_ceil(PAGE).max(first);
        count += counted - first;
    }
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_with_a_byte_counts_once() {
        let all = 0..1 << 30;
        assert_eq!(pages(&[], &all), 0);
        assert_eq!(pages(&[5..6, 7..8, 4095..4097, 9000..9001], &all), 3);
        let long = 0..3 * PAGE;
        assert_eq!(pages(&[long], &(PAGE..2 * PAGE)), 1);
        assert_eq!(pages(&[0..1, 5 * PAGE..6 * PAGE], &(PAGE..2 * PAGE)), 0);
    }

    proptest! {
        #[test]
        fn what_is_seen_is_what_a_byte_for_byte_model_sees(
            below in prop::collection::vec((0u64..60, 1u64..9), 0..6),
            steps in prop::collection::vec((0u64..60, 1u64..9, 0u8..3), 0..12),
        ) {
            let mut model = [false; 80];
            let mut lowest = Layer::default();
            for (at, len) in below {
                lowest.write(at, &vec![1; len as usize]);
                model[at as usize..(at + len) as usize].fill(true);
            }
            let mut layer = Layer::default();
            for (at, len, what) in steps {
                let range = at as usize..(at + len) as usize;
                match what {
                    0 => {
                        layer.write(at, &vec![1; len as usize]);
                        model[range].fill(true);
                    }
                    1 => {
                        layer.zero(at, at + len);
                        model[range].fill(false);
                    }
                    _ => {
                        layer.truncate(at + len);
                        model[range.end..].fill(false);
                    }
                }
            }
            let seen = Shape::of(&layer).over(Shape::of(&lowest).over(Stretches::new()));
            let mut found = [false; 80];
            let mut end = None;
            for part in seen {
                prop_assert!(part.start < part.end && end < Some(part.start));
                end = Some(part.end);
                found[part.start as usize..part.end as usize].fill(true);
            }
            prop_assert_eq!(found, model);
        }
    }
}
