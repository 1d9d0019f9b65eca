//! Which container holds a chunk, and no more: place and length come from the
//! container's sealed directory, so a wrong row cannot serve other bytes.
//!
//! The newest rows are in memory. When they are many they become a sorted run in
//! a file of local state. After a crash nothing of it is left, and the next opening
//! builds the index anew. Runs of one size are merged [`FAN`] at a time, so there are few.
//!
//! Invariant: a row that was inserted is found at any time, in memory, in what is becoming
//! a run, or in a run.
//!
//! Lock order: `spilling`, then `tiers`. No file is read or written under `tiers`.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::runs::{IdHasher, Merged, Row, Run};
use crate::format::node::Id;
use crate::io::PrivateFolder;

/// Rows in memory that become a run: some 11 MiB of them. Few in unit tests, so that
/// crashes and faults meet runs too.
const SPILL: usize = if cfg!(test) { 50 } else { 1 << 18 };
/// Runs of one size that are merged.
const FAN: usize = 8;

/// The newest rows, which are in memory and in no run yet.
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

#[derive(Default)]
struct Tiers {
    recent: Recent,
    /// Rows that are becoming a run.
    frozen: Option<Arc<Recent>>,
    /// The sorted runs, the oldest first.
    runs: Arc<Vec<Arc<Run>>>,
}

#[derive(Default)]
struct Spilling {
    /// How many runs were made since the mount. The name of a run's file has its number.
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
        let tier = |run: &Arc<Run>| (run.len() / self.spill).checked_ilog(FAN);
        loop {
            let runs = self.read().runs.clone();
            let Some((_, last)) = runs.len().checked_sub(FAN).map(|at| runs.split_at(at)) else {
                return Ok(());
            };
            if last.iter().any(|run| tier(run) != tier(&last[0])) {
                return Ok(());
            }
            let most = last.iter().map(|run| run.len()).sum();
            let merged = Run::write(state, &name(), most, Merged::of(last))?;
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
