//! Flushing a layer of changes into the content tree.

use bytes::Bytes;

use super::chunker::{Chunking, PAGE, chunk_region, classify, granularity};
use super::content::{Layer, Stored, read, stored_runs};
use super::shape::{self, Shape};
use super::spans::{Span, Stretch, align_holes, spans};
use crate::format::namespace::{Content, ContentClass, INLINE_MAX};
use crate::format::node::{NO_ID, Node, Run};
use crate::format::record::Piece;
use crate::store::{Result, Store};
use crate::tree::content::{Placed, Splice, splice};
use crate::tree::{Keys, NewNodes, Root, Source};

/// Bytes of a stream that are copied together to be chunked: several times the longest
/// chunk. Where a chunk ends does not depend on bytes that are further away than that, so
/// the chunks are the same as if all were copied at once.
const WINDOW: u64 = 8 << 20;
/// Bytes of content of one page a chunk that are copied together to be chunked.
const PAGES_WINDOW: u64 = 1 << 20;

/// What [`flush`] made.
pub struct Flushed {
    /// The content to store.
    pub stored: Stored,
    /// With `streaming`: all content above the end of `stored`, whether it was
    /// in the layer or stored before. It is in no chunk yet and must stay in memory.
    pub rest: Layer,
    /// The runs that the flush made, ascending. All data of the layer below the end of
    /// `stored` is in them, but for inline content.
    made: Vec<Placed>,
}

impl Flushed {
    /// The parts of chunks that hold `[from, to)`, a range that the layer wrote; `None` if
    /// some of it is in no chunk that the flush made.
    pub fn pieces(&self, from: u64, to: u64) -> Option<Vec<Piece>> {
        let (mut pieces, mut at) = (Vec::new(), from);
        let first = self.made.partition_point(|placed| placed.start + placed.run.total() <= from);
        for Placed { start, run } in &self.made[first..] {
            if at >= to {
                break;
            }
            if *start > at || run.is_hole() {
                return None;
            }
            let end = (start + run.total()).min(to);
            while at < end {
                let within = (at - start) % run.len;
                let len = (run.len - within).min(end - at);
                pieces.push(Piece { id: run.id, from: within, len });
                at += len;
            }
        }
        (at == to).then_some(pieces)
    }
}

/// Makes chunks of a layer of changes, stages them, and splices them into the
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
        let below = shape::read(store, base, 0..size)?;
        let mut inline = Vec::new();
        if !Shape::of(layer).over(below).is_empty() {
            inline.resize(size as usize, 0);
            read(store, base, &[layer], 0, size, &mut inline)?;
        }
        let stored = Stored { class: base.class, inline, size, ..Stored::default() };
        return Ok(Flushed { stored, rest: Layer::default(), made: Vec::new() });
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
            classify(&start)
        }
        known => known,
    };
    let kept = layer.shows_below.min(base.size).min(size);
    let regions = regions(store, &base, layer, class, kept, size)?;
    let root = base_root(store, &base);
    let (mut splices, mut made) = (Vec::new(), Vec::new());
    let mut data = base.data();
    let mut rest = Layer::default();
    let mut chunked_to = size;
    for region in &regions {
        let window = match region.chunking {
            Chunking::Pages(page) => PAGES_WINDOW.max(page),
            Chunking::Stream => WINDOW,
        };
        let range = region.from..region.to;
        let spans = spans(store, &base, layer, range, kept)?;
        let spans = align_holes(spans, region.from, size, granularity(class));
        let (mut runs, mut at) = (Vec::new(), region.from);
        for group in spans.chunk_by(|one, next| one.is_data() && next.is_data()) {
            let end = at + group.iter().map(Span::len).sum::<u64>();
            if let [Span::Hole(len)] = group {
                runs.push(Run { id: NO_ID, len: *len, count: 1 });
                at = end;
                continue;
            }
            // More of a stream may follow.
            let open = streaming && end == size && region.chunking == Chunking::Stream;
            let mut stretch = Stretch::new(group, at);
            while at < end {
                let mut to = at.saturating_add(window).min(end);
                if let Chunking::Pages(page) = region.chunking
                    && to < end
                {
                    // Where a page ends, so that a window changes nothing.
                    to = to / page * page;
                }
                let bytes = Bytes::from(stretch.compose(store, &base, at, to)?);
                let open = open || to < end;
                let done =
                    chunk_region(store, class, region.chunking, at, &bytes, open, &mut runs)?;
                at += done as u64;
                if to == end && at < end {
                    chunked_to = at;
                    rest.write(chunked_to, &bytes[done..]);
                    break;
                }
            }
        }
        let end = if region.to >= kept { base.size.max(region.from) } else { region.to };
        let start = region.from.min(base.size);
        data -= data.min(stored_data(store, &base, start, end)?);
        data += runs.iter().filter(|run| !run.is_hole()).map(Run::total).sum::<u64>();
        let mut at = region.from;
        for run in &runs {
            made.push(Placed { start: at, run: *run });
            at += run.total();
        }
        splices.push(Splice { start, end, runs });
    }
    let mut new = NewNodes::new();
    let root = splice(Keys(&store.context().ids), store, root, &splices, &mut new)?;
    store.stage_nodes(new);
    let content = content_of(store, root, chunked_to)?;
    let holes = match content {
        Content::Tree(..) => chunked_to.saturating_sub(data),
        _ => 0,
    };
    let stored = Stored { class, content, inline: Vec::new(), size: chunked_to, holes };
    Ok(Flushed { stored, rest, made })
}

/// Bytes of data in `[from, to)` of stored content.
fn stored_data(store: &Store, stored: &Stored, from: u64, to: u64) -> Result<u64> {
    let runs = stored_runs(store, stored, from, to)?;
    let data = runs.iter().filter(|placed| !placed.run.is_hole()).map(|placed| {
        let end = (placed.start + placed.run.total()).min(to);
        end.saturating_sub(placed.start.max(from))
    });
    Ok(data.sum())
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
    chunking: Chunking,
}

/// The regions that are chunked anew, ascending and disjoint. Below `kept` they begin and end
/// on chunk boundaries of the base.
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
            if last.to < region.from || last.to == region.from && last.chunking != region.chunking {
                break;
            }
            let last = regions.pop().expect("looked at just now");
            let stream = Chunking::Stream;
            let whole = last.chunking == stream && last.from <= region.from && last.to >= region.to;
            region = Region {
                from: last.from.min(region.from),
                to: last.to.max(region.to),
                chunking: if whole { stream } else { region.chunking },
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
    // nothing is to come there, a region that reaches the end removes it.
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
    // The chunk at the edge of what is kept is made anew too: it may have been
    // shortened, or it is the unfinished end of a stream.
    let touches_end = high >= kept;
    let edge = if touches_end && kept > 0 { low.min(kept - 1) } else { low };
    let mut inside = false;
    let shown = high.min(kept);
    if edge < shown {
        for placed in stored_runs(store, base, edge, shown)? {
            if placed.run.is_hole() {
                // What comes into a hole begins and ends where a page does.
                let (start, end) = match base.content {
                    Content::None => (0, kept),
                    _ => (placed.start, (placed.start + placed.run.total()).min(kept)),
                };
                if (start..=end).contains(&low) {
                    low = (low / PAGE * PAGE).max(start);
                }
                if (start..=end).contains(&high) {
                    high = high.next_multiple_of(PAGE).min(end);
                }
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
    let chunking = match class {
        ContentClass::Pages(page) => Chunking::Pages(u64::from(page)),
        _ if inside => Chunking::Pages(PAGE),
        _ => Chunking::Stream,
    };
    Ok(Region { from: low, to: high.min(size), chunking })
}
