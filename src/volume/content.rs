//! Content of files: layers of changes, and reading through them and the content
//! tree.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Volume;
use super::chunker::PAGE;
use crate::format::namespace::{Content, ContentClass};
use crate::format::node::{NO_ID, Run};
use crate::store::{Result, Store};
use crate::tree::content::{Placed, range};

/// Content as an inode record has it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Stored {
    /// How the content is chunked.
    pub class: ContentClass,
    /// Where it is.
    pub content: Content,
    /// Bytes that live in the inode.
    pub inline: Vec<u8>,
    /// Length, bytes.
    pub size: u64,
    /// Bytes of it that a content tree leaves to holes.
    pub holes: u64,
}

impl Stored {
    /// Bytes that are no holes.
    pub fn data(&self) -> u64 {
        match self.content {
            Content::None => self.inline.len() as u64,
            Content::Chunk(_) => self.size,
            // A tree has data; a record that says otherwise does not hide it.
            Content::Tree(..) => self.size.saturating_sub(self.holes).max(1),
        }
    }
}

impl Volume {
    /// The bytes of a long extended attribute or of a recipe: `size` bytes of `content`.
    pub fn read_beside(&self, size: u64, content: Content) -> Result<Vec<u8>> {
        let stored = Stored { content, size, ..Stored::default() };
        let mut bytes = vec![0; size as usize];
        read(&self.store, &stored, &[], 0, size, &mut bytes)?;
        Ok(bytes)
    }
}

/// Bytes of a layer: its own, or shared with whoever wrote them.
#[derive(Clone, Debug)]
pub enum Data {
    /// What small writes gathered.
    Own(Vec<u8>),
    /// One large write, or a part of it.
    Shared(Bytes),
}

/// A small part would keep all of the buffer in memory.
fn part_of(bytes: Bytes) -> Data {
    const SHARED_MIN: usize = 64 << 10;
    if bytes.len() < SHARED_MIN { Data::Own(bytes.to_vec()) } else { Data::Shared(bytes) }
}

impl std::ops::Deref for Data {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl PartialEq for Data {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Data {}

/// One changed stretch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// New bytes.
    Data(Data),
    /// Zeros, count of bytes.
    Zero(u64),
}

impl Extent {
    /// Bytes it covers.
    pub fn len(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Zero(len) => *len,
        }
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn slice(&self, from: u64, to: u64) -> Self {
        match self {
            Self::Data(Data::Own(bytes)) => {
                Self::Data(Data::Own(bytes[from as usize..to as usize].to_vec()))
            }
            Self::Data(Data::Shared(bytes)) => {
                Self::Data(part_of(bytes.slice(from as usize..to as usize)))
            }
            Self::Zero(_) => Self::Zero(to - from),
        }
    }
}

/// Changes above stored content: extents, and how much of what is below still
/// shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// By offset; disjoint.
    pub extents: BTreeMap<u64, Extent>,
    /// What is below shows only under this offset (the smallest size since).
    pub shows_below: u64,
    /// Bytes of data in the extents.
    pub bytes: u64,
    /// Bytes of zeros in the extents.
    pub zeros: u64,
}

impl Default for Layer {
    fn default() -> Self {
        Self { extents: BTreeMap::new(), shows_below: u64::MAX, bytes: 0, zeros: 0 }
    }
}

impl Layer {
    /// Whether nothing was changed.
    pub fn is_clean(&self) -> bool {
        self.extents.is_empty() && self.shows_below == u64::MAX
    }

    /// Whether its data lies in many short stretches, as of a database.
    pub fn is_scattered(&self) -> bool {
        const STRETCH: u64 = 64 << 10;
        self.bytes < self.extents.len() as u64 * STRETCH
    }

    /// Whether there is data at offset 0.
    pub fn starts_with_data(&self) -> bool {
        matches!(self.extents.first_key_value(), Some((0, Extent::Data(_))))
    }

    /// Whether nothing that is below shows in `[0, size)`.
    pub(super) fn hides(&self, size: u64) -> bool {
        self.covers(0, size.min(self.shows_below))
    }

    /// Whether extents cover all of `[from, to)`.
    pub fn covers(&self, from: u64, to: u64) -> bool {
        let mut end = from;
        for (start, extent) in self.touching(from, to) {
            if *start > end {
                break;
            }
            end = start + extent.len();
        }
        end >= to
    }

    /// The extents that touch `[from, to)`, in order.
    pub(super) fn touching(&self, from: u64, to: u64) -> impl Iterator<Item = (&u64, &Extent)> {
        let first = self
            .extents
            .range(..from)
            .next_back()
            .filter(|(start, extent)| *start + extent.len() > from)
            .map_or(from, |(start, _)| *start);
        self.extents.range(first..to)
    }

    /// Takes `[from, to)` out of the extents.
    fn clear(&mut self, from: u64, to: u64) {
        let touched: Vec<u64> = self.touching(from, to).map(|(start, _)| *start).collect();
        for start in touched {
            let extent = self.extents.remove(&start).expect("listed just now");
            let end = start + extent.len();
            let gone = end.min(to) - start.max(from);
            match extent {
                Extent::Data(_) => self.bytes -= gone,
                Extent::Zero(_) => self.zeros -= gone,
            }
            if end > to {
                self.extents.insert(to, extent.slice(to - start, end - start));
            }
            if start < from {
                let mut extent = extent;
                match &mut extent {
                    Extent::Data(Data::Own(bytes)) => bytes.truncate((from - start) as usize),
                    Extent::Data(data) => {
                        let Data::Shared(bytes) = data else { unreachable!("own above") };
                        *data = part_of(bytes.slice(..(from - start) as usize));
                    }
                    Extent::Zero(len) => *len = from - start,
                }
                self.extents.insert(start, extent);
            }
        }
    }

    /// Writes bytes; appends to the extent before where that is possible.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        /// Longest extent that is appended to: later slices copy it.
        const EXTENT_MAX: usize = 1 << 20;
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        let exact = self.extents.get_mut(&offset);
        if let Some(Extent::Data(Data::Own(old))) = exact
            && old.len() == bytes.len()
        {
            old.copy_from_slice(bytes);
            return;
        }
        self.clear(offset, end);
        self.bytes += bytes.len() as u64;
        if let Some((start, Extent::Data(Data::Own(before)))) =
            self.extents.range_mut(..offset).next_back()
            && *start + before.len() as u64 == offset
            && before.len() + bytes.len() <= EXTENT_MAX
        {
            before.extend_from_slice(bytes);
            return;
        }
        let mut data = Vec::new();
        if bytes.len() >= PAGE as usize {
            // Streams grow their extents; room avoids copying them often.
            data.reserve(bytes.len());
        }
        data.extend_from_slice(bytes);
        self.extents.insert(offset, Extent::Data(Data::Own(data)));
    }

    /// Writes bytes without copying them.
    pub fn share(&mut self, offset: u64, bytes: Bytes) {
        if !bytes.is_empty() {
            self.clear(offset, offset + bytes.len() as u64);
            self.bytes += bytes.len() as u64;
            self.extents.insert(offset, Extent::Data(Data::Shared(bytes)));
        }
    }

    /// Whether the layer has exactly `bytes` at `offset`.
    pub fn has(&self, offset: u64, bytes: &[u8]) -> bool {
        let end = offset + bytes.len() as u64;
        let mut at = offset;
        for (start, extent) in self.touching(offset, end) {
            let Extent::Data(data) = extent else { return false };
            if *start > at {
                return false;
            }
            let to = end.min(start + extent.len());
            let (mine, theirs) = ((at - start) as usize, (at - offset) as usize);
            let len = (to - at) as usize;
            if data[mine..mine + len] != bytes[theirs..theirs + len] {
                return false;
            }
            at = to;
        }
        at == end
    }

    /// Makes `[from, to)` zero.
    pub fn zero(&mut self, from: u64, to: u64) {
        if from < to {
            self.clear(from, to);
            self.zeros += to - from;
            self.extents.insert(from, Extent::Zero(to - from));
        }
    }

    /// Cuts everything at and above `size`.
    pub fn truncate(&mut self, size: u64) {
        self.clear(size, u64::MAX);
        self.shows_below = self.shows_below.min(size);
    }

    /// The part of the layer that touches `[from, to)`.
    #[must_use]
    pub fn part(&self, from: u64, to: u64) -> Self {
        let mut part = Self { shows_below: self.shows_below, ..Self::default() };
        for (start, extent) in self.touching(from, to) {
            let (low, high) = (from.max(*start), to.min(start + extent.len()));
            let extent = extent.slice(low - start, high - start);
            match extent {
                Extent::Data(_) => part.bytes += high - low,
                Extent::Zero(_) => part.zeros += high - low,
            }
            part.extents.insert(low, extent);
        }
        part
    }

    /// Puts `above` on top of this layer.
    pub fn absorb(&mut self, above: Self) {
        if above.shows_below != u64::MAX {
            self.truncate(above.shows_below);
        }
        for (offset, extent) in above.extents {
            match extent {
                Extent::Data(Data::Own(bytes)) => self.write(offset, &bytes),
                Extent::Data(Data::Shared(bytes)) => self.share(offset, bytes),
                Extent::Zero(len) => self.zero(offset, offset + len),
            }
        }
    }
}

/// The runs of stored content that touch `[from, to)`.
pub(super) fn stored_runs(
    store: &Store,
    stored: &Stored,
    from: u64,
    to: u64,
) -> Result<Vec<Placed>> {
    let to = to.min(stored.size);
    if from >= to {
        return Ok(Vec::new());
    }
    match stored.content {
        Content::None => {
            Ok(vec![Placed { start: from, run: Run { id: NO_ID, len: to - from, count: 1 } }])
        }
        Content::Chunk(id) => {
            Ok(vec![Placed { start: 0, run: Run { id, len: stored.size, count: 1 } }])
        }
        Content::Tree(id, level) => range(store, (id, level), from, to),
    }
}

/// Reads `[from, to)` of stored content into `out`, which is as long; zeros
/// where there is none.
pub fn read_stored(
    store: &Store,
    stored: &Stored,
    from: u64,
    to: u64,
    out: &mut [u8],
) -> Result<()> {
    if !stored.inline.is_empty() {
        let there = stored.inline.get(from as usize..).unwrap_or_default();
        let (data, beyond) = out.split_at_mut(there.len().min(out.len()));
        data.copy_from_slice(&there[..data.len()]);
        beyond.fill(0);
        return Ok(());
    }
    let mut at = from;
    for placed in stored_runs(store, stored, from, to)? {
        let run = placed.run;
        let end = (placed.start + run.total()).min(to);
        if run.is_hole() {
            out[(at - from) as usize..(end - from) as usize].fill(0);
            at = end;
        }
        while at < end {
            let within = (at - placed.start) % run.len;
            let part = (run.len - within).min(end - at);
            let target = (at - from) as usize..(at + part - from) as usize;
            store.read_into(&run.id, within, &mut out[target])?;
            at += part;
        }
    }
    out[(at - from) as usize..].fill(0);
    Ok(())
}

/// Reads `[from, to)` of layers (lowest first) over stored content into `out`,
/// which is as long. `to` must not be above the size.
pub fn read(
    store: &Store,
    stored: &Stored,
    layers: &[&Layer],
    from: u64,
    to: u64,
    out: &mut [u8],
) -> Result<()> {
    let Some((top, below)) = layers.split_last() else {
        return read_stored(store, stored, from, to, out);
    };
    let mut at = from;
    let gap = |gap_from: u64, gap_to: u64, out: &mut [u8]| {
        let shown = gap_to.min(top.shows_below).max(gap_from);
        let out = &mut out[(gap_from - from) as usize..(gap_to - from) as usize];
        let (below_shows, hidden) = out.split_at_mut((shown - gap_from) as usize);
        hidden.fill(0);
        if below_shows.is_empty() {
            return Ok(());
        }
        read(store, stored, below, gap_from, shown, below_shows)
    };
    for (start, extent) in top.touching(from, to) {
        if *start > at {
            gap(at, *start, out)?;
        }
        let (low, high) = (at.max(*start), to.min(start + extent.len()));
        let target = &mut out[(low - from) as usize..(high - from) as usize];
        match extent {
            Extent::Data(bytes) => {
                target.copy_from_slice(&bytes[(low - start) as usize..(high - start) as usize]);
            }
            Extent::Zero(_) => target.fill(0),
        }
        at = high;
    }
    if at < to {
        gap(at, to, out)?;
    }
    Ok(())
}

/// Whether `offset` lies in data, and where that changes at the latest, with
/// the same layers as [`read`].
pub fn is_data(
    store: &Store,
    stored: &Stored,
    layers: &[&Layer],
    offset: u64,
    size: u64,
) -> Result<(bool, u64)> {
    let Some((top, below)) = layers.split_last() else {
        if !stored.inline.is_empty() {
            return Ok((true, size));
        }
        let runs = stored_runs(store, stored, offset, offset + 1)?;
        return Ok(match runs.first() {
            Some(placed) => {
                let end = if stored.content == Content::None {
                    stored.size
                } else {
                    placed.start + placed.run.total()
                };
                (!placed.run.is_hole(), end.min(size))
            }
            None => (false, size),
        });
    };
    if let Some((start, extent)) = top.extents.range(..=offset).next_back()
        && start + extent.len() > offset
    {
        return Ok((matches!(extent, Extent::Data(_)), (start + extent.len()).min(size)));
    }
    let next = top.extents.range(offset..).next().map_or(size, |(start, _)| (*start).min(size));
    if offset >= top.shows_below {
        return Ok((false, next));
    }
    let (data, end) = is_data(store, stored, below, offset, size)?;
    Ok((data, end.min(next).min(top.shows_below.max(offset + 1))))
}
