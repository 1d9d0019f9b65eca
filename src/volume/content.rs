//! Content of files: reading through the content tree, and flushing a layer of
//! changes into it.

use std::collections::BTreeMap;

use super::cut::{Cutting, PAGE, Piece, align_holes, cut, grain, judge};
use bytes::Bytes;

use crate::format::namespace::{Content, ContentClass, INLINE_MAX};
use crate::format::node::{NO_ID, Node, Run};
use crate::format::record::Piece as Part;
use crate::store::{Result, Store};
use crate::tree::content::{Placed, Splice, range, splice};
use crate::tree::{Keys, NewNodes, Root, Source};

/// Bytes of a stream that are copied together to be cut; some times the longest
/// chunk.
const WINDOW: u64 = 8 << 20;
/// The same of what is cut into pages.
const PAGES_WINDOW: u64 = 1 << 20;

/// Content as an inode record has it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Stored {
    /// How it is cut.
    pub class: ContentClass,
    /// Where it is.
    pub content: Content,
    /// Bytes that live in the inode.
    pub inline: Vec<u8>,
    /// Length, bytes.
    pub size: u64,
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
}

impl Default for Layer {
    fn default() -> Self {
        Self { extents: BTreeMap::new(), shows_below: u64::MAX, bytes: 0 }
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
    fn hides(&self, size: u64) -> bool {
        let mut end = 0;
        for (start, extent) in &self.extents {
            if *start > end {
                break;
            }
            end = start + extent.len();
        }
        end >= size.min(self.shows_below)
    }

    /// The extents that touch `[from, to)`, in order.
    fn touching(&self, from: u64, to: u64) -> impl Iterator<Item = (&u64, &Extent)> {
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
            if matches!(extent, Extent::Data(_)) {
                self.bytes -= end.min(to) - start.max(from);
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

    /// Whether `bytes` stand at `offset`.
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
            if matches!(extent, Extent::Data(_)) {
                part.bytes += high - low;
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
fn stored_runs(store: &Store, stored: &Stored, from: u64, to: u64) -> Result<Vec<Placed>> {
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

/// The parts of chunks that hold `[from, to)` of stored content; `None` if some
/// of it is in no chunk.
pub fn pieces(store: &Store, stored: &Stored, from: u64, to: u64) -> Result<Option<Vec<Part>>> {
    let (mut parts, mut at) = (Vec::new(), from);
    if !stored.inline.is_empty() || to > stored.size {
        return Ok(None);
    }
    for placed in stored_runs(store, stored, from, to)? {
        let run = placed.run;
        if run.is_hole() {
            return Ok(None);
        }
        let end = (placed.start + run.total()).min(to);
        while at < end {
            let within = (at - placed.start) % run.len;
            let len = (run.len - within).min(end - at);
            parts.push(Part { id: run.id, from: within, len });
            at += len;
        }
    }
    Ok((at == to).then_some(parts))
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

/// What [`flush`] made.
pub struct Flushed {
    /// The content to store.
    pub stored: Stored,
    /// With `streaming`: all content above the end of `stored`, whether it was
    /// in the layer or stored before; it was not cut yet and must stay.
    pub rest: Layer,
}

/// Cuts a layer of changes into chunks, stages them, and splices them into the
/// content tree. `size` is the new length. With `streaming`, the end of a file
/// that is still being appended to is left in the layer.
pub fn flush(
    store: &Store,
    base: &Stored,
    layer: &Layer,
    size: u64,
    streaming: bool,
) -> Result<Flushed> {
    if size <= INLINE_MAX as u64 {
        let mut inline = vec![0; size as usize];
        read(store, base, &[layer], 0, size, &mut inline)?;
        let stored = Stored { class: base.class, content: Content::None, inline, size };
        return Ok(Flushed { stored, rest: Layer::default() });
    }
    // Inline content becomes part of the layer. Content of which nothing shows
    // is not looked at: it may be damaged, and this is how it is replaced.
    let (grown, base) = if layer.hides(size) {
        let class = if layer.shows_below == 0 { ContentClass::Unknown } else { base.class };
        (None, Stored { class, ..Stored::default() })
    } else if base.inline.is_empty() {
        (None, base.clone())
    } else {
        let mut grown = Layer::default();
        let shown = (base.inline.len() as u64).min(layer.shows_below);
        grown.write(0, &base.inline[..shown as usize]);
        grown.absorb(Layer { shows_below: u64::MAX, ..layer.clone() });
        grown.shows_below = 0;
        (Some(grown), Stored { class: base.class, ..Stored::default() })
    };
    let layer = grown.as_ref().unwrap_or(layer);
    let class = match base.class {
        ContentClass::Unknown => {
            let mut start = vec![0; size.min(16 << 10) as usize];
            read(store, &base, &[layer], 0, start.len() as u64, &mut start)?;
            judge(&start)
        }
        known => known,
    };
    let kept = layer.shows_below.min(base.size).min(size);
    let regions = regions(store, &base, layer, class, kept, size)?;
    let root = base_root(store, &base);
    let mut splices = Vec::new();
    let mut rest = Layer::default();
    let mut cut_to = size;
    for region in &regions {
        let open_end = streaming && region.to == size && region.cutting == Cutting::Stream;
        let (mut runs, mut from) = (Vec::new(), region.from);
        let window = match region.cutting {
            Cutting::Pages(page) => PAGES_WINDOW.max(page),
            Cutting::Stream if has_no_holes(store, &base, layer, region, kept)? => WINDOW,
            Cutting::Stream => region.to - region.from,
        };
        while from < region.to {
            let mut to = from.saturating_add(window);
            if let Cutting::Pages(page) = region.cutting {
                // Where a page ends, so that a window changes nothing.
                to = to / page * page;
            }
            let to = to.min(region.to);
            let pieces = compose(store, &base, layer, from, to, kept)?;
            let pieces = align_holes(pieces, from, size, grain(class));
            let open_end = open_end || to < region.to;
            let (more, done, left) = cut(store, class, region.cutting, from, pieces, open_end)?;
            runs.extend(more);
            if to == region.to && from + done < region.to {
                cut_to = from + done;
                rest.write(cut_to, &left);
                break;
            }
            from += done;
        }
        let end = if region.to >= kept { base.size.max(region.from) } else { region.to };
        splices.push(Splice { start: region.from.min(base.size), end, runs });
    }
    let mut new = NewNodes::new();
    let root = splice(Keys(&store.context().ids), store, root, &splices, &mut new)?;
    store.stage_nodes(new);
    let content = content_of(store, root, cut_to)?;
    let stored = Stored { class, content, inline: Vec::new(), size: cut_to };
    Ok(Flushed { stored, rest })
}

/// The tree of stored content; a single chunk becomes a leaf for the moment.
fn base_root(store: &Store, base: &Stored) -> Root {
    let run = match base.content {
        Content::Tree(id, level) => return (id, level),
        Content::None if base.size == 0 => return (NO_ID, 0),
        Content::None => Run { id: NO_ID, len: base.size, count: 1 },
        Content::Chunk(id) => Run { id, len: base.size, count: 1 },
    };
    let bytes = Node::ContentLeaf(vec![run]).encode();
    let id = store.context().ids.node_id(&bytes);
    store.stage_nodes(NewNodes::from([(id, bytes)]));
    (id, 0)
}

/// The shortest form: nothing for holes, the chunk itself for a single one.
fn content_of(store: &Store, root: Root, size: u64) -> Result<Content> {
    if root.0 == NO_ID {
        return Ok(Content::None);
    }
    if root.1 == 0
        && let Node::ContentLeaf(runs) = &*store.node(&root.0)?
        && let [run] = runs.as_slice()
    {
        if run.is_hole() {
            return Ok(Content::None);
        }
        if run.count == 1 && run.len == size {
            return Ok(Content::Chunk(run.id));
        }
    }
    Ok(Content::Tree(root.0, root.1))
}

#[derive(Debug)]
struct Region {
    from: u64,
    to: u64,
    cutting: Cutting,
}

/// The regions to cut anew, ascending and disjoint, on chunk boundaries of the
/// base below `kept`.
fn regions(
    store: &Store,
    base: &Stored,
    layer: &Layer,
    class: ContentClass,
    kept: u64,
    size: u64,
) -> Result<Vec<Region>> {
    let mut regions: Vec<Region> = Vec::new();
    let mut reached = 0;
    let mut add = |from: u64, to: u64| -> Result<u64> {
        let mut region = widen(store, base, class, kept, size, from, to)?;
        while let Some(last) = regions.last() {
            if last.to < region.from || last.to == region.from && last.cutting != region.cutting {
                break;
            }
            let last = regions.pop().expect("looked at just now");
            let stream = Cutting::Stream;
            let whole = last.cutting == stream && last.from <= region.from && last.to >= region.to;
            region = Region {
                from: last.from.min(region.from),
                to: last.to.max(region.to),
                cutting: if whole { stream } else { region.cutting },
            };
        }
        let end = region.to;
        regions.push(region);
        Ok(end)
    };
    for (start, extent) in &layer.extents {
        let end = (start + extent.len()).min(size);
        if *start < end {
            reached = add(*start, end)?;
        }
    }
    // Beyond what is kept everything is made anew: extents, else holes. If
    // nothing is to come there, a region that reaches the end cuts it off.
    if kept < size || (kept < base.size && reached < size) {
        add(kept, size)?;
    }
    Ok(regions)
}

fn widen(
    store: &Store,
    base: &Stored,
    class: ContentClass,
    kept: u64,
    size: u64,
    from: u64,
    to: u64,
) -> Result<Region> {
    let (mut low, mut high) = (from, to);
    if let ContentClass::Pages(page) = class {
        let page = u64::from(page);
        low = low / page * page;
        high = high.next_multiple_of(page);
    }
    // The chunk at the edge of what is kept is cut again too: it may have been
    // shortened, or it is the unfinished end of a stream.
    let touches_end = high >= kept;
    let edge = if touches_end && kept > 0 { low.min(kept - 1) } else { low };
    let mut inside = false;
    let shown = high.min(kept);
    if edge < shown {
        for placed in stored_runs(store, base, edge, shown)? {
            if placed.run.is_hole() {
                continue;
            }
            let run = placed.run;
            let first = placed.start + (edge.max(placed.start) - placed.start) / run.len * run.len;
            let end = (shown - placed.start).min(run.total());
            let last = placed.start + end.div_ceil(run.len) * run.len;
            low = low.min(first);
            high = high.max(last);
            // An overwrite that leaves most of a chunk as it was.
            inside |= from < kept && to - from < run.len && to <= kept;
        }
    }
    if high >= kept {
        high = high.max(size);
    }
    let cutting = match class {
        ContentClass::Pages(page) => Cutting::Pages(u64::from(page)),
        _ if inside => Cutting::Pages(PAGE),
        _ => Cutting::Stream,
    };
    Ok(Region { from: low, to: high.min(size), cutting })
}

/// Whether all of a region is data. It can be cut piece by piece then, at the
/// same places as in one go: where a chunk ends does not depend on what is
/// further away than the longest chunk.
fn has_no_holes(
    store: &Store,
    base: &Stored,
    layer: &Layer,
    region: &Region,
    kept: u64,
) -> Result<bool> {
    let mut at = region.from;
    let below = |low: u64, high: u64| -> Result<bool> {
        let holds = |placed: &Placed| !placed.run.is_hole();
        Ok(low >= high || high <= kept && stored_runs(store, base, low, high)?.iter().all(holds))
    };
    for (start, extent) in layer.touching(region.from, region.to) {
        if matches!(extent, Extent::Zero(_)) || !below(at, *start)? {
            return Ok(false);
        }
        at = start + extent.len();
    }
    below(at, region.to)
}

/// Where data goes: the last piece if it is data, or a new one with room for
/// `most` bytes.
fn data_end(pieces: &mut Vec<Piece>, most: usize) -> &mut Vec<u8> {
    if !matches!(pieces.last(), Some(Piece::Data(_))) {
        pieces.push(Piece::Data(Vec::with_capacity(most.min(WINDOW as usize))));
    }
    match pieces.last_mut() {
        Some(Piece::Data(bytes)) => bytes,
        _ => unreachable!("a piece of data was pushed"),
    }
}

/// New content of `[from, to)` in pieces; data that meets is one piece.
fn compose(
    store: &Store,
    base: &Stored,
    layer: &Layer,
    from: u64,
    to: u64,
    kept: u64,
) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut at = from;
    let below = |low: u64, high: u64, pieces: &mut Vec<Piece>| -> Result<()> {
        let shown = high.min(kept).max(low);
        for placed in stored_runs(store, base, low, shown)? {
            let start = placed.start.max(low);
            let end = (placed.start + placed.run.total()).min(shown);
            if placed.run.is_hole() {
                pieces.push(Piece::Hole(end - start));
            } else {
                let bytes = data_end(pieces, (to - start) as usize);
                let before = bytes.len();
                bytes.resize(before + (end - start) as usize, 0);
                read_stored(store, base, start, end, &mut bytes[before..])?;
            }
        }
        if high > shown {
            pieces.push(Piece::Hole(high - shown));
        }
        Ok(())
    };
    for (start, extent) in layer.touching(from, to) {
        if *start > at {
            below(at, *start, &mut pieces)?;
        }
        let (low, high) = (at.max(*start), to.min(start + extent.len()));
        match extent {
            Extent::Zero(_) => pieces.push(Piece::Hole(high - low)),
            Extent::Data(new) => {
                let bytes = data_end(&mut pieces, (to - low) as usize);
                bytes.extend_from_slice(&new[(low - start) as usize..(high - start) as usize]);
            }
        }
        at = high;
    }
    if at < to {
        below(at, to, &mut pieces)?;
    }
    Ok(pieces)
}
