//! Runs of the index: rows in order, in a file of local state.
//!
//! The file has no name any more once it is open: after a crash nothing of it is left. A Bloom
//! filter (10 bits a row) and the first id of each block stay in memory, so a lookup reads a block
//! or two, and mostly none.
//!
//! Invariant: rows ascend by id, then by container.

use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::sync::Arc;

use fastbloom::BloomFilter;

use crate::format::node::Id;
use crate::io::{OpenMode, PrivateFile, PrivateFolder};

/// Bytes of a row in a run: id and number, little-endian.
const ROW: usize = 20;
/// Rows of a block, of almost 4 KiB.
const BLOCK: usize = 204;
/// How often a filter sends a lookup to its run in vain.
const FALSE_POSITIVES: f64 = 0.01;
/// Bytes of a run that are written or read together.
const BUFFER: usize = 256 * ROW * BLOCK;

/// Ids are keyed hashes already: their first bytes are as good as any hash.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        let mut word = [0; 8];
        let taken = bytes.len().min(8);
        word[..taken].copy_from_slice(&bytes[..taken]);
        self.0 = u64::from_le_bytes(word);
    }
    fn write_usize(&mut self, _: usize) {}
}

/// A chunk, and the number of a container that has it.
pub(super) type Row = (Id, u32);

fn prefix(id: &Id) -> u64 {
    u64::from_be_bytes(id[..8].try_into().expect("eight of sixteen"))
}

/// Sorted rows in a file.
pub(super) struct Run {
    file: Box<dyn PrivateFile>,
    rows: usize,
    /// The first id's prefix of each block.
    blocks: Vec<u64>,
    filter: BloomFilter<BuildHasherDefault<IdHasher>>,
}

impl Run {
    /// Writes at most `most` rows, which come in order.
    pub(super) fn write(
        state: &dyn PrivateFolder,
        name: &str,
        most: usize,
        rows: impl Iterator<Item = io::Result<Row>>,
    ) -> io::Result<Self> {
        let file = match state.open(name, OpenMode::CreateNew) {
            // Of a process that was killed between the next two lines.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                state.remove(name)?;
                state.open(name, OpenMode::CreateNew)?
            }
            other => other?,
        };
        state.remove(name)?;
        let filter = BloomFilter::with_false_pos(FALSE_POSITIVES)
            .hasher(BuildHasherDefault::<IdHasher>::default())
            .expected_items(most);
        let mut run = Self { file, rows: 0, blocks: Vec::new(), filter };
        let (mut buffer, mut written) = (Vec::with_capacity(BUFFER), 0);
        for row in rows {
            let (id, number) = row?;
            if run.rows.is_multiple_of(BLOCK) {
                run.blocks.push(prefix(&id));
            }
            run.filter.insert_hash(u64::from_le_bytes(id[..8].try_into().expect("of sixteen")));
            buffer.extend_from_slice(&id);
            buffer.extend_from_slice(&number.to_le_bytes());
            run.rows += 1;
            if buffer.len() >= BUFFER {
                run.file.write_at(written, &buffer)?;
                written += buffer.len() as u64;
                buffer.clear();
            }
        }
        run.file.write_at(written, &buffer)?;
        Ok(run)
    }

    /// How many rows it has.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Whether `test` holds for a container that should have the chunk.
    pub(super) fn any(&self, id: &Id, test: &mut dyn FnMut(u32) -> bool) -> io::Result<bool> {
        let hash = u64::from_le_bytes(id[..8].try_into().expect("of sixteen"));
        if !self.filter.contains_hash(hash) {
            return Ok(false);
        }
        let wanted = prefix(id);
        // Equal ids may begin in the block before the first that could start with it.
        let first = self.blocks.partition_point(|start| *start < wanted).saturating_sub(1);
        let mut buffer = [0; BLOCK * ROW];
        for block in first..self.blocks.len() {
            if self.blocks[block] > wanted {
                break;
            }
            let count = BLOCK.min(self.rows - block * BLOCK);
            let bytes = &mut buffer[..count * ROW];
            read_rows(&*self.file, block * BLOCK, bytes)?;
            let (rows, _) = bytes.as_chunks::<ROW>();
            let at = rows.partition_point(|row| row[..16] < id[..]);
            for row in rows[at..].iter().take_while(|row| row[..16] == id[..]) {
                if test(row_of(row).1) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

fn row_of(bytes: &[u8; ROW]) -> Row {
    let (id, number) = bytes.split_at(16);
    (
        id.try_into().expect("sixteen bytes"),
        u32::from_le_bytes(number.try_into().expect("four bytes")),
    )
}

fn read_rows(file: &dyn PrivateFile, first: usize, bytes: &mut [u8]) -> io::Result<()> {
    if file.read_at((first * ROW) as u64, bytes)? < bytes.len() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a run of the index is short"));
    }
    Ok(())
}

/// All rows of a run, in order.
struct Cursor<'a> {
    run: &'a Run,
    /// How many rows of the run were read.
    read: usize,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were given out.
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(run: &'a Run) -> Self {
        Self { run, read: 0, buffer: Vec::new(), at: 0 }
    }

    fn peek(&mut self) -> io::Result<Option<Row>> {
        if self.at == self.buffer.len() {
            let count = (BUFFER / ROW).min(self.run.rows - self.read);
            self.buffer.resize(count * ROW, 0);
            read_rows(&*self.run.file, self.read, &mut self.buffer)?;
            (self.read, self.at) = (self.read + count, 0);
        }
        Ok(self.buffer[self.at..].first_chunk().map(row_of))
    }
}

/// The rows of several runs in order, each once.
pub(super) struct Merged<'a>(Vec<Cursor<'a>>);

impl<'a> Merged<'a> {
    /// Merges all rows of these runs.
    pub(super) fn of(runs: &'a [Arc<Run>]) -> Self {
        Self(runs.iter().map(|run| Cursor::new(run)).collect())
    }

    fn step(&mut self) -> io::Result<Option<Row>> {
        let mut least = None;
        for cursor in &mut self.0 {
            let row = cursor.peek()?;
            if row.is_some() && (least.is_none() || row < least) {
                least = row;
            }
        }
        for cursor in &mut self.0 {
            while least.is_some() && cursor.peek()? == least {
                cursor.at += ROW;
            }
        }
        Ok(least)
    }
}

impl Iterator for Merged<'_> {
    type Item = io::Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
