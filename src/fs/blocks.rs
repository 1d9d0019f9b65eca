//! How much room a file takes (`st_blocks`), in pages that have data.
//!
//! Invariant: nothing is read from REPO with the state locked. What is stored and not
//! changed tells its count by its record; only of a file with holes that was
//! changed since the last checkpoint the content tree is read, once a change.

use std::sync::MutexGuard;

use super::{File, Fs, Result, State};
use crate::format::namespace::{Ino, Inode};
use crate::volume::content::Stored;
use crate::volume::shape::{self, Shape, Stretches};

/// The unit in which data is counted, in bytes.
const PAGE: u64 = 4096;
/// Units of `st_blocks` in one.
const UNITS: u64 = PAGE / 512;
/// How often a file is counted that changes while it is.
const TRIES: usize = 3;

/// A count that holds until the next change.
#[derive(Default)]
pub(super) struct Pages {
    changes: u64,
    counted: Option<u64>,
}

impl Pages {
    /// Drops the count, because the file changed.
    pub(super) fn forget(&mut self) {
        self.changes += 1;
        self.counted = None;
    }
}

/// What of a file's data can be counted without its bytes.
struct Outline {
    stored: Stored,
    layers: Vec<Shape>,
    size: u64,
    changes: u64,
}

impl Outline {
    fn of(file: &File) -> Self {
        let layers = file.frozen.as_deref().into_iter().chain([&file.layer]);
        Self {
            stored: file.stored.clone(),
            layers: layers.map(Shape::of).collect(),
            size: file.size,
            changes: file.pages.changes,
        }
    }

    fn pages(&self, below: Stretches) -> u64 {
        let seen = self.layers.iter().fold(below, |below, layer| layer.over(below));
        shape::pages(&seen, &(0..self.size.next_multiple_of(PAGE)))
    }
}

impl Fs {
    /// `st_blocks`. If that cannot be told yet, it is what a file without holes has,
    /// and the file is noted as uncounted.
    pub(super) fn blocks(state: &mut State, ino: Ino, inode: &Inode, size: u64) -> u64 {
        if !inode.is_file() {
            return size.div_ceil(512);
        }
        let Some(file) = state.files.get_mut(&ino) else {
            return super::stored_of(inode).data().div_ceil(PAGE) * UNITS;
        };
        let all = file.size.div_ceil(PAGE);
        let pages = if let Some(counted) = file.pages.counted {
            counted
        } else if file.is_clean() && file.stored.size == file.size {
            file.stored.data().div_ceil(PAGE)
        } else if is_dense(file) {
            all
        } else if let Some(below) = shape::known(&file.stored) {
            let counted = Outline::of(file).pages(below);
            file.pages.counted = Some(counted);
            counted
        } else {
            state.uncounted.push(ino);
            all
        };
        pages * UNITS
    }

    /// What `ask` finds, with all it meets counted; `ask` may run more than once.
    pub(super) fn counted<T>(
        &self,
        mut ask: impl FnMut(&mut State) -> Result<T>,
    ) -> Result<(MutexGuard<'_, State>, T)> {
        let mut tries = 0;
        loop {
            let mut state = self.lock();
            state.uncounted.clear();
            let found = ask(&mut state)?;
            if state.uncounted.is_empty() || tries == TRIES {
                return Ok((state, found));
            }
            tries += 1;
            let uncounted = std::mem::take(&mut state.uncounted);
            let outline = |ino: Ino| Some((ino, Outline::of(state.files.get(&ino)?)));
            let outlines: Vec<_> = uncounted.into_iter().filter_map(outline).collect();
            drop(state);
            for (ino, outline) in outlines {
                self.count_pages(ino, &outline);
            }
        }
    }

    /// Counts a file's pages with what its content tree says.
    fn count_pages(&self, ino: Ino, outline: &Outline) {
        let stored = &outline.stored;
        let below = self.volume.stretches(stored, 0..stored.size);
        let below = below.unwrap_or_else(|error| {
            log::warn!("inode {ino}: its holes cannot be counted: {error}");
            std::iter::once(0..stored.size).collect()
        });
        let counted = outline.pages(below);
        if let Some(file) = self.lock().files.get_mut(&ino)
            && file.pages.changes == outline.changes
        {
            file.pages.counted = Some(counted);
        }
    }

    /// Bytes that `[from, to)` of a file would take if it had data everywhere, less
    /// what is there.
    pub(super) fn lacking(&self, ino: Ino, from: u64, to: u64) -> u64 {
        let range = from / PAGE * PAGE..to.next_multiple_of(PAGE);
        let outline = self.lock().files.get(&ino).map(Outline::of);
        let Some(outline) = outline else { return range.end - range.start };
        // What cannot be read has to be written anew.
        let below = self.volume.stretches(&outline.stored, range.clone());
        let below = below.unwrap_or_default();
        let seen = outline.layers.iter().fold(below, |below, layer| layer.over(below));
        range.end - range.start - shape::pages(&seen, &range) * PAGE
    }
}

/// Whether a file has no hole, as far as that is seen at a glance.
fn is_dense(file: &File) -> bool {
    let kept = file.stored.size.min(file.layer.shows_below);
    file.frozen.is_none()
        && file.stored.holes == 0
        && file.stored.data() >= kept
        && file.layer.zeros == 0
        && file.layer.covers(kept, file.size)
}
