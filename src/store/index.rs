//! Which container holds a chunk, and no more: place and length come from the
//! container's sealed directory, so a wrong row cannot serve other bytes.
//!
//! The newest rows are in memory. When they are many they become a sorted run in
//! a file of local state, which has no name any more once it is open: after a
//! crash nothing of it is left, and the next opening builds the index anew. Of a
//! run a Bloom filter (10 bits a row) and the first id of each block stay in
//! memory. Runs of one size are merged [`FAN`] at a time, so there are few.
//!
//! Lock order: `spilling`, then `tiers`. No file is read or written under `tiers`.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use fastbloom::BloomFilter;

use crate::format::node::Id;
use crate::io::{OpenMode, PrivateFile, PrivateFolder};

/// Rows in memory that become a run: some 11 MiB of them. Few in unit tests, so that
/// crashes and faults meet runs too.
const SPILL: usize = if cfg!(test) { 50 } else { 1 << 18 };
/// Runs of one size that are merged.
const FAN: usize = 8;
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
struct IdHasher(u64);

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

type Row = (Id, u32);

fn prefix(id: &Id) -> u64 {
    u64::from_be_bytes(id[..8].try_into().expect("eight of sixteen"))
}

/// Rows in memory.
#[derive(Clone, Default)]
struct Recent {
    rows: HashMap<Id, u32, BuildHasherDefault<IdHasher>>,
    /// Further copies of chunks that are in more than one container.
    copies: HashMap<Id, Vec<u32>>,
}

impl Recent {
    /// The first container of a chunk is preferred.
    fn insert(&mut self, id: Id, container: u32) {
        let first = *self.rows.entry(id).or_insert(container);
        if first != container {
            let copies = self.copies.entry(id).or_default();
            if !copies.contains(&container) {
                copies.push(container);
            }
        }
    }

    fn any(&self, id: &Id, test: &mut dyn FnMut(u32) -> bool) -> bool {
        let Some(first) = self.rows.get(id) else { return false };
        test(*first)
            || !self.copies.is_empty()
                && self.copies.get(id).is_some_and(|more| more.iter().any(|number| test(*number)))
    }

    fn sorted(&self) -> Vec<Row> {
        let copies = self.copies.iter().flat_map(|(id, more)| more.iter().map(|n| (*id, *n)));
        let mut rows: Vec<Row> =
            self.rows.iter().map(|(id, number)| (*id, *number)).chain(copies).collect();
        rows.sort_unstable();
        rows
    }
}

/// Sorted rows in a file.
struct Run {
    file: Box<dyn PrivateFile>,
    rows: usize,
    /// The first id's prefix of each block.
    blocks: Vec<u64>,
    filter: BloomFilter<BuildHasherDefault<IdHasher>>,
}

impl Run {
    /// Writes at most `most` rows, which come in order.
    fn write(
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

    fn any(&self, id: &Id, test: &mut dyn FnMut(u32) -> bool) -> io::Result<bool> {
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
    /// Rows read.
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
struct Merged<'a>(Vec<Cursor<'a>>);

impl Merged<'_> {
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

#[derive(Default)]
struct Tiers {
    recent: Recent,
    /// Rows that are becoming a run.
    frozen: Option<Arc<Recent>>,
    /// Oldest first.
    runs: Arc<Vec<Arc<Run>>>,
}

#[derive(Default)]
struct Spilling {
    /// Runs made so far.
    made: u64,
    /// A run could not be written; all rows stay in memory from then on.
    failed: bool,
}

/// Rows from chunk id to container numbers.
pub struct Index {
    /// Where runs go; without it everything stays in memory.
    state: Option<Arc<dyn PrivateFolder>>,
    spill: usize,
    tiers: RwLock<Tiers>,
    spilling: Mutex<Spilling>,
}

impl Index {
    /// An empty index, whose runs go to files of `state`.
    pub fn new(state: Option<Arc<dyn PrivateFolder>>) -> Self {
        Self { state, spill: SPILL, tiers: RwLock::default(), spilling: Mutex::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, Tiers> {
        self.tiers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tiers> {
        self.tiers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds rows of one container. [`Self::spill_if_large`] is due afterwards.
    pub fn insert(&self, ids: impl IntoIterator<Item = Id>, container: u32) {
        let mut tiers = self.write();
        for id in ids {
            tiers.recent.insert(id, container);
        }
    }

    /// Whether `test` holds for a container that should have the chunk; those that
    /// came last are asked first.
    pub fn any(&self, id: &Id, mut test: impl FnMut(u32) -> bool) -> io::Result<bool> {
        let runs = {
            let tiers = self.read();
            let frozen = tiers.frozen.as_ref();
            if tiers.recent.any(id, &mut test)
                || frozen.is_some_and(|frozen| frozen.any(id, &mut test))
            {
                return Ok(true);
            }
            if tiers.runs.is_empty() {
                return Ok(false);
            }
            tiers.runs.clone()
        };
        for run in runs.iter().rev() {
            if run.any(id, &mut test)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The containers that should hold a chunk, in the order of [`Self::any`].
    pub fn lookup(&self, id: &Id) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        self.any(id, |number| {
            found.push(number);
            false
        })?;
        Ok(found)
    }

    /// Whether a chunk has a row.
    pub fn contains(&self, id: &Id) -> io::Result<bool> {
        self.any(id, |_| true)
    }

    /// Moves rows out of memory, if they are many. Not under a lock that lookups
    /// need.
    pub fn spill_if_large(&self) {
        let many = |tiers: &Tiers| tiers.recent.rows.len() >= self.spill;
        let Some(state) = &self.state else { return };
        if !many(&self.read()) {
            return;
        }
        let mut spilling = self.spilling.lock().unwrap_or_else(PoisonError::into_inner);
        if spilling.failed {
            return;
        }
        if let Err(error) = self.spill(&**state, &mut spilling) {
            log::warn!("the index of chunks stays in memory: {error}");
            spilling.failed = true;
            let mut tiers = self.write();
            if let Some(frozen) = tiers.frozen.take() {
                let newer = std::mem::take(&mut tiers.recent);
                tiers.recent = Arc::unwrap_or_clone(frozen);
                for (id, number) in newer.sorted() {
                    tiers.recent.insert(id, number);
                }
            }
        }
    }

    fn spill(&self, state: &dyn PrivateFolder, spilling: &mut Spilling) -> io::Result<()> {
        let mut name = || {
            spilling.made += 1;
            format!("index-{}", spilling.made)
        };
        let rows = {
            let mut tiers = self.write();
            let frozen = Arc::new(std::mem::take(&mut tiers.recent));
            tiers.frozen = Some(frozen.clone());
            drop(tiers);
            frozen.sorted()
        };
        let run = Run::write(state, &name(), rows.len(), rows.into_iter().map(Ok))?;
        {
            let mut tiers = self.write();
            Arc::make_mut(&mut tiers.runs).push(Arc::new(run));
            tiers.frozen = None;
        }
        let tier = |run: &Arc<Run>| (run.rows / self.spill).checked_ilog(FAN);
        loop {
            let runs = self.read().runs.clone();
            let Some((_, last)) = runs.len().checked_sub(FAN).map(|at| runs.split_at(at)) else {
                return Ok(());
            };
            if last.iter().any(|run| tier(run) != tier(&last[0])) {
                return Ok(());
            }
            let cursors = last.iter().map(|run| Cursor::new(run)).collect();
            let most = last.iter().map(|run| run.rows).sum();
            let merged = Run::write(state, &name(), most, Merged(cursors))?;
            let mut kept = runs[..runs.len() - FAN].to_vec();
            kept.push(Arc::new(merged));
            self.write().runs = Arc::new(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::io::DirFolder;

    fn index(folder: &std::path::Path, spill: usize) -> Index {
        Index { spill, ..Index::new(Some(Arc::new(DirFolder::new(folder)))) }
    }

    fn id(number: u32) -> Id {
        blake3::hash(&number.to_le_bytes()).as_bytes()[..16].try_into().unwrap()
    }

    fn check(index: &Index, model: &BTreeMap<Id, BTreeSet<u32>>) {
        for (id, numbers) in model {
            let mut found = index.lookup(id).unwrap();
            found.sort_unstable();
            found.dedup();
            assert_eq!(found, numbers.iter().copied().collect::<Vec<_>>(), "{id:?}");
        }
        for number in 1 << 20..(1 << 20) + 500 {
            assert!(!index.contains(&id(number)).unwrap(), "nothing else is there");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Few ids, so that chunks in many containers, and runs of equal ids longer
        /// than a block, happen; many, so that runs are merged more than once.
        #[test]
        fn runs_give_what_was_inserted(
            spill in 1usize..300,
            ids in prop_oneof![1u32..4, 10u32..4000],
            inserts in prop::collection::vec((any::<u32>(), 0u32..400), 1..6000),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let index = index(folder.path(), spill);
            let mut model = BTreeMap::<Id, BTreeSet<u32>>::new();
            for (number, container) in inserts {
                let id = id(number % ids);
                index.insert([id], container);
                index.spill_if_large();
                model.entry(id).or_default().insert(container);
            }
            check(&index, &model);
            let left = std::fs::read_dir(folder.path()).unwrap().count();
            prop_assert_eq!(left, 0, "runs have no names");
            let runs = index.read().runs.len();
            prop_assert!(runs < 4 * FAN, "{runs} runs");
        }
    }

    #[test]
    fn a_block_full_of_one_chunk_does_not_hide_the_rest_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let index = index(folder.path(), 2);
        for container in 0..1000 {
            index.insert([id(1), id(2), id(3)], container);
        }
        index.spill_if_large();
        assert_eq!(index.read().runs.len(), 1);
        for number in 1..4 {
            assert_eq!(index.lookup(&id(number)).unwrap(), (0..1000).collect::<Vec<_>>());
        }
    }

    /// What an index of before left, if it was killed in the wrong moment.
    #[test]
    fn a_file_with_the_name_of_a_run_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("index-1"), b"rows of another life").unwrap();
        let index = index(folder.path(), 4);
        index.insert((0..10).map(id), 7);
        index.spill_if_large();
        assert_eq!(index.read().runs.len(), 1);
        assert_eq!(index.lookup(&id(9)).unwrap(), [7]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn without_room_for_runs_all_rows_stay_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let index = index(folder.path(), 4);
        folder.close().unwrap();
        let mut model = BTreeMap::<Id, BTreeSet<u32>>::new();
        for number in 0..100 {
            index.insert([id(number), id(number / 2)], number);
            index.spill_if_large();
            model.entry(id(number)).or_default().insert(number);
            model.entry(id(number / 2)).or_default().insert(number);
        }
        assert!(index.read().runs.is_empty());
        check(&index, &model);
    }
}
