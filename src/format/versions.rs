//! Which versions of a file one version replaced (`docs/format.md`, "Versions").
//!
//! A version is one state of a file's content, of its attributes, or of one extended
//! attribute. The change that made it is its origin. Writing a version again, unchanged, gives
//! it another dot and keeps its origin.

use super::clock::{Dot, Writer};
use super::namespace::Ino;
use super::wire::{DecodeError, Decoder, Encoder, Result};

/// Most runs that a writer puts into one list; the oldest are dropped.
pub const WRITTEN_MAX: usize = 32;
/// Most runs that a reader takes.
const READ_MAX: u64 = 255;
/// Most files of which one says that it was renamed over them.
pub const OVER_MAX: usize = 8;

/// Versions that one writer made, each in the place of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VersionRun {
    /// The writer of all versions of the run.
    pub writer: Writer,
    /// The record that made the first, from 1.
    pub first: u64,
    /// The record that made the last; not below `first`.
    pub last: u64,
}

impl VersionRun {
    /// The run of the one version that this change made.
    fn of(dot: Dot) -> Self {
        Self { writer: dot.writer, first: dot.record, last: dot.record }
    }

    /// Whether the version with this origin is among them.
    fn has(&self, origin: Dot) -> bool {
        self.writer == origin.writer && (self.first..=self.last).contains(&origin.record)
    }
}

/// The versions that a version replaced, the oldest run first. The last run ends with the
/// origin of the version itself. An empty list belongs to a version that replaced none and
/// is stored under the dot of its origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions(Vec<VersionRun>);

impl Versions {
    /// Whether the version replaced none and is stored under its own dot.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The change that made the version of a value under `dot`.
    pub fn origin(&self, dot: Dot) -> Dot {
        self.0.last().map_or(dot, |run| Dot { writer: run.writer, record: run.last })
    }

    /// Whether the version with this origin is one of them.
    pub fn contain(&self, origin: Dot) -> bool {
        self.0.iter().any(|run| run.has(origin))
    }

    /// The list of a version that was stored under `dot` and is written again, unchanged.
    #[must_use]
    pub fn kept(&self, dot: Dot) -> Self {
        if self.0.is_empty() {
            return Self(vec![VersionRun::of(dot)]);
        }
        // Of a list that another writer made longer than this one writes.
        let from = self.0.len().saturating_sub(WRITTEN_MAX);
        Self(self.0[from..].to_vec())
    }

    /// The list of a version that the change `new` makes in the place of the `old` ones, each
    /// a dot and a list.
    pub fn replacing(old: &[(Dot, &Self)], new: Dot) -> Self {
        let mut own = VersionRun::of(new);
        // A run grows only where the version that it ends with is stored under its own dot: then
        // the writer made nothing of that file in between.
        let grows =
            |(dot, list): &&(Dot, &Self)| dot.writer == new.writer && list.origin(*dot) == *dot;
        for (dot, list) in old.iter().filter(grows) {
            own.first = own.first.min(list.0.last().map_or(dot.record, |run| run.first));
        }
        Self::merged(old, own)
    }

    /// The list of the version `stays`, a dot and a list, that is written again in the place
    /// of `all`.
    #[must_use]
    pub fn settling(all: &[(Dot, &Self)], (dot, stays): (Dot, &Self)) -> Self {
        Self::merged(all, stays.own_run(dot))
    }

    /// The list of a version that was stored under `dot`, without those that it replaced.
    #[must_use]
    pub fn alone(&self, dot: Dot) -> Self {
        Self(vec![VersionRun::of(self.origin(dot))])
    }

    /// The run that ends with the origin of a version that is stored under `dot`.
    fn own_run(&self, dot: Dot) -> VersionRun {
        self.0.last().copied().unwrap_or_else(|| VersionRun::of(dot))
    }

    /// All versions of `old`, and last a run that ends with the origin of the new one.
    fn merged(old: &[(Dot, &Self)], own: VersionRun) -> Self {
        let mut runs: Vec<VersionRun> = Vec::new();
        for run in old.iter().flat_map(|(dot, list)| list.kept(*dot).0) {
            let inside = run.writer == own.writer && run.first >= own.first && run.last <= own.last;
            let same =
                runs.iter_mut().find(|one| one.writer == run.writer && one.first == run.first);
            match same {
                _ if inside => {}
                Some(one) => one.last = one.last.max(run.last),
                None => runs.push(run),
            }
        }
        runs.push(own);
        runs.drain(..runs.len().saturating_sub(WRITTEN_MAX));
        Self(runs)
    }

    /// Drops the oldest run, but for the last one; false if there is no other.
    pub fn forget_oldest(&mut self) -> bool {
        let is_long = self.0.len() > 1;
        if is_long {
            self.0.remove(0);
        }
        is_long
    }

    /// Writes a count, then of each run: writer (5 bytes), first record, last minus first.
    pub fn encode(&self, out: &mut Encoder) {
        out.var(self.0.len() as u64);
        for run in &self.0 {
            out.raw(&run.writer.to_bytes()).var(run.first).var(run.last - run.first);
        }
    }

    /// Decodes a list of versions, as [`Versions::encode`] writes it.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Self> {
        let mut runs = Vec::new();
        for _ in 0..input.var_max(READ_MAX, "versions")? {
            let writer = Writer::from_bytes(input.array()?)?;
            let first = input.var()?;
            let last = first.checked_add(input.var()?).filter(|_| first > 0);
            let last = last.ok_or(DecodeError::Invalid("versions"))?;
            runs.push(VersionRun { writer, first, last });
        }
        Ok(Self(runs))
    }
}

/// What an inode says of versions; all empty where nothing was replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Versions of the content: class, size, content and holes.
    pub content: Versions,
    /// Versions of the attributes: all but the content and the times.
    pub attributes: Versions,
    /// Files that this one was renamed over, and the versions of their content then; the
    /// oldest first.
    pub over: Vec<(Ino, Versions)>,
    /// For a side file of a database (`-wal`, `-journal`, `-shm`): the database to which it
    /// belongs, and the origin of the database's content.
    pub main: Option<(Ino, Dot)>,
}

impl History {
    /// Writes field 17: a count, then of each file its number and its versions.
    pub fn encode_over(&self, out: &mut Encoder) {
        out.var(self.over.len() as u64);
        for (ino, versions) in &self.over {
            out.var(*ino);
            versions.encode(out);
        }
    }

    /// Reads what [`History::encode_over`] wrote; at least one file.
    pub fn decode_over(input: &mut Decoder<'_>) -> Result<Vec<(Ino, Versions)>> {
        let mut over: Vec<(Ino, Versions)> = Vec::new();
        for _ in 0..input.var_max(OVER_MAX as u64, "files renamed over")? {
            over.push((input.var()?, Versions::decode(input)?));
        }
        if over.is_empty() { Err(DecodeError::Invalid("files renamed over")) } else { Ok(over) }
    }
}

/// Dots and lists for tests.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A dot of the writer 5.
    pub fn dot(record: u64) -> Dot {
        Dot::new(Writer::new(5).unwrap(), record).unwrap()
    }

    /// The list of a version with this origin of the writer 5, written again.
    pub fn versions(record: u64) -> Versions {
        Versions::default().kept(dot(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(writer: u64, record: u64) -> Dot {
        Dot::new(Writer::new(writer).unwrap(), record).unwrap()
    }

    fn run(writer: u64, first: u64, last: u64) -> VersionRun {
        VersionRun { writer: Writer::new(writer).unwrap(), first, last }
    }

    #[test]
    fn a_version_written_again_keeps_its_origin() {
        let none = Versions::default();
        assert_eq!(none.origin(dot(1, 5)), dot(1, 5));
        let kept = none.kept(dot(1, 5));
        assert_eq!(kept, Versions(vec![run(1, 5, 5)]));
        // Now under another dot.
        assert_eq!(kept.origin(dot(2, 9)), dot(1, 5));
        assert_eq!(kept.kept(dot(2, 9)), kept);
    }

    #[test]
    fn a_run_grows_only_where_its_end_stands_under_its_own_dot() {
        let none = Versions::default();
        let second = Versions::replacing(&[(dot(1, 5), &none)], dot(1, 9));
        assert_eq!(second, Versions(vec![run(1, 5, 9)]));
        assert!(second.contain(dot(1, 5)) && second.contain(dot(1, 9)));
        assert!(!second.contain(dot(1, 10)) && !second.contain(dot(2, 5)));
        // Written again as (1, 12): record 10 may have been another device's to replace.
        let third = Versions::replacing(&[(dot(1, 12), &second)], dot(1, 14));
        assert_eq!(third, Versions(vec![run(1, 5, 9), run(1, 14, 14)]));
        let other = Versions::replacing(&[(dot(1, 9), &second)], dot(2, 1));
        assert_eq!(other, Versions(vec![run(1, 5, 9), run(2, 1, 1)]));
        // Two versions replaced at once.
        let both = Versions::replacing(&[(dot(1, 9), &second), (dot(2, 1), &other)], dot(2, 3));
        assert_eq!(both, Versions(vec![run(1, 5, 9), run(2, 1, 3)]));
    }

    #[test]
    fn a_list_loses_its_oldest_runs() {
        let mut list = Versions::default();
        for writer in 1..=100 {
            list = Versions::replacing(&[(dot(writer, 1), &list)], dot(writer + 1, 1));
        }
        assert_eq!(list.0.len(), WRITTEN_MAX);
        assert_eq!(list.0.last(), Some(&run(101, 1, 1)));
        assert_eq!(list.0[0].writer.number(), 101 + 1 - WRITTEN_MAX as u64);
    }

    #[test]
    fn lists_survive_and_bad_ones_are_refused() {
        let list = Versions(vec![run(1, 5, 9), run(7, 1, u64::MAX)]);
        let bytes = |list: &Versions| {
            let mut out = Encoder::new();
            list.encode(&mut out);
            out.finish()
        };
        let read = |bytes: &[u8]| {
            let mut input = Decoder::new(bytes);
            Versions::decode(&mut input).and_then(|list| input.end().map(|()| list))
        };
        assert_eq!(read(&bytes(&list)), Ok(list.clone()));
        for cut in 0..bytes(&list).len() {
            assert!(read(&bytes(&list)[..cut]).is_err());
        }
        // Record 0, and a last one above 64 bits.
        assert!(read(&[1, 0, 0, 0, 0, 1, 0, 0]).is_err());
        let mut over = vec![1, 0, 0, 0, 0, 1, 2];
        over.extend([0xff; 9]);
        over.push(1);
        assert_eq!(read(&over), Err(DecodeError::Invalid("versions")));
        let many = [&[0x80, 2][..], &[0; 7]].concat();
        assert_eq!(read(&many), Err(DecodeError::Limit("versions")));
        assert!(History::decode_over(&mut Decoder::new(&[0])).is_err());
        assert!(History::decode_over(&mut Decoder::new(&[9])).is_err());
    }
}
