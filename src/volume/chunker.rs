//! Chunking file content into chunks: what changed becomes splices of the
//! content tree.

use std::cell::RefCell;
use std::ops::Range;

use bytes::Bytes;
use fastcdc::v2020::{FastCDC, Normalization};

use crate::format::container::Class;
use crate::format::namespace::ContentClass;
use crate::format::node::{Id, Run};
use crate::store::{Result, Store};

/// Page size where nothing else is known, bytes.
pub const PAGE: u64 = 4096;
/// Bytes of a file's start that decide its class.
const SAMPLE: usize = 16 << 10;
/// Smallest chunk, where a boundary is expected, and largest chunk of a
/// compressible stream, bytes.
const COMPRESSIBLE: (usize, usize, usize) = (16 << 10, 32 << 10, 64 << 10);
/// Smallest chunk, where a boundary is expected, and largest chunk of an incompressible
/// stream, bytes: chunks have 256 KiB or so. Most of it is the smallest chunk, which the
/// chunker skips: looking at every byte took a tenth of the time of a write.
const INCOMPRESSIBLE: (usize, usize, usize) = (192 << 10, 128 << 10, 1 << 20);

/// Judges by the first bytes of a file how it should be chunked.
pub fn classify(start: &[u8]) -> ContentClass {
    if start.len() >= 100 && start.starts_with(b"SQLite format 3\0") {
        // SQLite file format, section 1.3.2: two bytes, big-endian; 1 is 65536.
        let size = match u16::from_be_bytes([start[16], start[17]]) {
            1 => 65536,
            size => u32::from(size),
        };
        if size.is_power_of_two() && size >= 512 {
            return ContentClass::Pages(size.max(PAGE as u32));
        }
    }
    let sample = &start[..start.len().min(SAMPLE)];
    match PACKER.with_borrow_mut(|(packer, out)| packer.compress_to_buffer(sample, out)) {
        Ok(len) if len < sample.len() - sample.len() / 8 => ContentClass::Compressible,
        _ => ContentClass::Incompressible,
    }
}

thread_local! {
    /// Made once, for making one took longer than judging a small file; with room for
    /// a sample that grows.
    static PACKER: RefCell<(zstd::bulk::Compressor<'static>, Vec<u8>)> = RefCell::new((
        zstd::bulk::Compressor::new(1).expect("level 1 exists"),
        Vec::with_capacity(zstd::zstd_safe::compress_bound(SAMPLE)),
    ));
}

/// The class of frames for content of this class.
pub(super) fn frame_class(class: ContentClass) -> Class {
    match class {
        ContentClass::Pages(_) => Class::Pages,
        ContentClass::Compressible => Class::Compressible,
        ContentClass::Incompressible | ContentClass::Unknown => Class::Incompressible,
    }
}

/// Granularity of holes and pages, bytes.
pub fn granularity(class: ContentClass) -> u64 {
    match class {
        ContentClass::Pages(size) => u64::from(size),
        _ => PAGE,
    }
}

/// How a region is chunked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunking {
    /// At multiples of this many bytes from the start of the file.
    Pages(u64),
    /// By content.
    Stream,
}

/// Stages the chunks of `bytes`, which lie at `start` in the file, adds their runs, and
/// returns how many bytes that were. With `open_end`, a last chunk whose end was not
/// decided by content is left out.
pub fn chunk_region(
    store: &Store,
    class: ContentClass,
    chunking: Chunking,
    start: u64,
    bytes: &Bytes,
    open_end: bool,
    runs: &mut Vec<Run>,
) -> Result<usize> {
    match chunking {
        Chunking::Pages(size) => chunk_pages(store, class, size, start, bytes, open_end, runs),
        Chunking::Stream => chunk_stream(store, class, start, bytes, open_end, runs),
    }
}

fn chunk_pages(
    store: &Store,
    class: ContentClass,
    size: u64,
    start: u64,
    bytes: &Bytes,
    open_end: bool,
    runs: &mut Vec<Run>,
) -> Result<usize> {
    let (mut chunks, mut from) = (Vec::new(), 0);
    while from < bytes.len() {
        let at = start + from as u64;
        let to = ((at / size + 1) * size - start).min(bytes.len() as u64) as usize;
        if open_end && to == bytes.len() && !(start + to as u64).is_multiple_of(size) {
            break;
        }
        add(store, bytes, from..to, &mut chunks, runs);
        from = to;
    }
    store.stage_all(frame_class(class), start, bytes, &chunks)?;
    Ok(from)
}

fn chunk_stream(
    store: &Store,
    class: ContentClass,
    start: u64,
    bytes: &Bytes,
    open_end: bool,
    runs: &mut Vec<Run>,
) -> Result<usize> {
    let (min, average, max) = match class {
        ContentClass::Compressible => COMPRESSIBLE,
        _ => INCOMPRESSIBLE,
    };
    let (mut chunks, mut from) = (Vec::new(), 0);
    if bytes.len() <= min && !open_end {
        add(store, bytes, 0..bytes.len(), &mut chunks, runs);
        store.stage_all(frame_class(class), start, bytes, &chunks)?;
        return Ok(bytes.len());
    }
    let seed = store.context().ids.chunker_seed();
    let chunker =
        FastCDC::with_level_and_seed(bytes, min, average, max, Normalization::Level1, seed);
    while from < bytes.len() {
        let rest = bytes.len() - from;
        // What follows is not known yet, so an end within reach of `max` may
        // be an artefact of where the bytes end.
        if open_end && rest < max {
            break;
        }
        let (_, to) = chunker.cut(from, rest);
        add(store, bytes, from..to, &mut chunks, runs);
        from = to;
    }
    store.stage_all(frame_class(class), start, bytes, &chunks)?;
    Ok(from)
}

/// Names one chunk.
fn add(
    store: &Store,
    bytes: &[u8],
    range: Range<usize>,
    chunks: &mut Vec<(Id, Range<usize>)>,
    runs: &mut Vec<Run>,
) {
    let id = store.context().ids.chunk_id(&bytes[range.clone()]);
    runs.push(Run { id, len: range.len() as u64, count: 1 });
    chunks.push((id, range));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_judged_by_their_first_bytes() {
        let mut database = vec![0; 4096];
        database[..16].copy_from_slice(b"SQLite format 3\0");
        database[16..18].copy_from_slice(&8192u16.to_be_bytes());
        assert_eq!(classify(&database), ContentClass::Pages(8192));
        database[16..18].copy_from_slice(&1u16.to_be_bytes());
        assert_eq!(classify(&database), ContentClass::Pages(65536));
        assert_eq!(classify(&b"hello hello hello ".repeat(100)), ContentClass::Compressible);
        let mut noise = vec![0; 16 << 10];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(classify(&noise), ContentClass::Incompressible);
    }
}
