//! Whether what a ledger answered can be explained by one order of all
//! operations in which each takes effect between its call and its answer
//! (linearizability, Herlihy and Wing 1990), by the search of Wing and Gong
//! with the memory of Lowe. Values are sealed with fresh random bytes, so none
//! is written twice and a value tells which write it comes from.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{Entry, Head, Ledger, LedgerError, Name, Revision, Swap, Value};
use crate::crypto::hash;

/// Which value: an index of those that occur; none is "no such name".
type Seen = Option<usize>;

/// What was asked, and what was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// A read that was answered.
    Read(Seen),
    /// A swap that was answered "written".
    Written { expected: Seen, value: usize },
    /// A swap that was answered "lost".
    Lost { expected: Seen },
    /// A swap that was not answered: it may have happened at any time since.
    Unknown { expected: Seen, value: usize },
}

/// One operation on one name.
#[derive(Clone, Copy, Debug)]
struct Operation {
    /// When it was called.
    called: u64,
    /// When it was answered; of no meaning for [`What::Unknown`].
    answered: u64,
    /// What it was.
    what: What,
}

impl Operation {
    /// Before when it must have taken effect.
    fn end(&self) -> u64 {
        if matches!(self.what, What::Unknown { .. }) { u64::MAX } else { self.answered }
    }

    /// The value after it, if it can take effect on this one.
    fn apply(&self, state: Seen) -> Option<Seen> {
        match self.what {
            What::Read(seen) => (seen == state).then_some(state),
            What::Lost { expected } => (expected != state).then_some(state),
            What::Written { expected, value } | What::Unknown { expected, value } => {
                (expected == state).then_some(Some(value))
            }
        }
    }

    fn writes(&self) -> bool {
        matches!(self.what, What::Written { .. } | What::Unknown { .. })
    }
}

/// A point of the search: what is ordered already, and the value after it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Point {
    ordered: Vec<bool>,
    state: Seen,
}

impl Point {
    /// What may come next: nothing else was answered before it was called.
    fn next<'a>(&'a self, all: &'a [Operation]) -> impl Iterator<Item = usize> + 'a {
        let open = || (0..all.len()).filter(|at| !self.ordered[*at]);
        let horizon = open().map(|at| all[at].end()).min().unwrap_or(0);
        open().filter(move |at| all[*at].called < horizon)
    }

    /// Orders all that changes nothing and can be next: to wait with it can
    /// only be worse.
    fn apply_noops(&mut self, all: &[Operation]) {
        loop {
            let fits = |at: &usize| !all[*at].writes() && all[*at].apply(self.state).is_some();
            let found = self.next(all).find(fits);
            let Some(at) = found else { return };
            self.ordered[at] = true;
        }
    }

    fn is_end(&self, all: &[Operation]) -> bool {
        all.iter().zip(&self.ordered).all(|(one, done)| *done || one.end() == u64::MAX)
    }
}

/// Whether operations on one name that had no value at first are explained.
fn is_linearizable(all: &[Operation]) -> bool {
    let mut seen = HashSet::new();
    let mut points = vec![Point { ordered: vec![false; all.len()], state: None }];
    while let Some(mut point) = points.pop() {
        point.apply_noops(all);
        if point.is_end(all) {
            return true;
        }
        for at in point.next(all).filter(|at| all[*at].writes()) {
            let Some(state) = all[at].apply(point.state) else { continue };
            let mut after = Point { ordered: point.ordered.clone(), state };
            after.ordered[at] = true;
            if seen.insert(after.clone()) {
                points.push(after);
            }
        }
    }
    false
}

/// What was answered, with values as hashes and expectations as revisions.
enum Answer {
    Read(Option<(Revision, [u8; 32])>),
    Written { expected: Option<Revision>, value: [u8; 32], revision: Revision },
    Lost { expected: Option<Revision> },
    Unknown { expected: Option<Revision>, value: [u8; 32] },
}

struct Noted {
    name: Name,
    called: u64,
    answered: u64,
    answer: Answer,
}

/// What several sites saw of one ledger.
#[derive(Default)]
pub struct History {
    clock: AtomicU64,
    noted: Mutex<Vec<Noted>>,
}

impl History {
    /// A name had this value before.
    pub fn begin(&self, name: &Name, entry: &Entry) {
        let called = self.tick();
        let (value, revision) = (hash(&entry.value[..]), entry.revision);
        self.note(name, called, Answer::Written { expected: None, value, revision });
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn note(&self, name: &Name, called: u64, answer: Answer) {
        let answered = self.tick();
        self.noted.lock().unwrap().push(Noted { name: *name, called, answered, answer });
    }

    /// Operations that were noted.
    #[expect(clippy::len_without_is_empty, reason = "an empty one explains itself")]
    pub fn len(&self) -> usize {
        self.noted.lock().unwrap().len()
    }

    /// Swaps among them that nobody answered.
    pub fn unknown(&self) -> usize {
        let noted = self.noted.lock().unwrap();
        noted.iter().filter(|one| matches!(one.answer, Answer::Unknown { .. })).count()
    }

    /// All operations, by name. `None` if one revision was seen with two
    /// values.
    fn operations(&self) -> Option<BTreeMap<Name, Vec<Operation>>> {
        let noted = self.noted.lock().unwrap();
        let mut revisions: BTreeMap<(Name, Revision), [u8; 32]> = BTreeMap::new();
        for one in &*noted {
            if let Answer::Read(Some((revision, value))) | Answer::Written { revision, value, .. } =
                one.answer
            {
                let before = revisions.insert((one.name, revision), value);
                if before.is_some_and(|before| before != value) {
                    return None;
                }
            }
        }
        let mut values: HashMap<[u8; 32], usize> = HashMap::new();
        let mut number = |value: [u8; 32]| {
            let next = values.len();
            *values.entry(value).or_insert(next)
        };
        let mut names: BTreeMap<Name, Vec<Operation>> = BTreeMap::new();
        for one in &*noted {
            // Whoever expects a revision has read it.
            let mut expects = |expected: Option<Revision>| {
                expected.map(|revision| number(revisions[&(one.name, revision)]))
            };
            let what = match one.answer {
                Answer::Read(seen) => What::Read(seen.map(|(_, value)| number(value))),
                Answer::Lost { expected } => What::Lost { expected: expects(expected) },
                Answer::Written { expected, value, .. } => {
                    What::Written { expected: expects(expected), value: number(value) }
                }
                Answer::Unknown { expected, value } => {
                    What::Unknown { expected: expects(expected), value: number(value) }
                }
            };
            let operation = Operation { called: one.called, answered: one.answered, what };
            names.entry(one.name).or_default().push(operation);
        }
        Some(names)
    }

    /// Whether all of it is explained.
    pub fn is_linearizable(&self) -> bool {
        self.operations().is_some_and(|names| names.values().all(|all| is_linearizable(all)))
    }
}

/// Passes on, and notes.
pub struct Recorded<L> {
    inner: L,
    history: Arc<History>,
}

impl<L> Recorded<L> {
    /// One site's view.
    pub fn new(inner: L, history: Arc<History>) -> Self {
        Self { inner, history }
    }
}

impl<L: Ledger> Ledger for Recorded<L> {
    fn read(&self, name: &Name) -> Result<Option<Entry>, LedgerError> {
        let called = self.history.tick();
        let entry = self.inner.read(name)?;
        let seen = entry.as_ref().map(|entry| (entry.revision, hash(&entry.value[..])));
        self.history.note(name, called, Answer::Read(seen));
        Ok(entry)
    }

    fn swap(
        &self,
        name: &Name,
        expected: Option<Revision>,
        value: &Value,
        last: bool,
    ) -> Result<Swap, LedgerError> {
        let called = self.history.tick();
        let outcome = self.inner.swap(name, expected, value, last);
        let value = hash(&value[..]);
        let answer = match &outcome {
            Ok(Swap::Written(durable)) => {
                Answer::Written { expected, value, revision: durable.revision() }
            }
            Ok(Swap::Lost) => Answer::Lost { expected },
            Err(_) => Answer::Unknown { expected, value },
        };
        self.history.note(name, called, answer);
        outcome
    }

    /// What is recorded here has no word for it: names stay.
    fn remove(&self, _name: &Name, _expected: Revision) -> Result<Swap, LedgerError> {
        Ok(Swap::Lost)
    }

    fn list(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Name>, LedgerError> {
        self.inner.list(after, limit)
    }

    fn head(&self) -> Result<Head, LedgerError> {
        self.inner.head()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(all: &[(u64, u64, What)]) -> bool {
        let all: Vec<_> = all
            .iter()
            .map(|(called, answered, what)| Operation {
                called: *called,
                answered: *answered,
                what: *what,
            })
            .collect();
        is_linearizable(&all)
    }

    #[test]
    fn histories_that_a_register_can_have_are_explained() {
        use What::{Lost, Read, Unknown, Written};
        assert!(explained(&[]));
        assert!(explained(&[
            (0, 1, Read(None)),
            (2, 3, Written { expected: None, value: 0 }),
            (4, 5, Read(Some(0))),
            (6, 7, Lost { expected: None }),
        ]));
        // Of two at once one loses; a read beside them sees either.
        for seen in [None, Some(0)] {
            assert!(explained(&[
                (0, 9, Written { expected: None, value: 0 }),
                (1, 8, Lost { expected: None }),
                (2, 7, Read(seen)),
            ]));
        }
        // One that was not answered: never, at once, or long after.
        let unknown = (0, 1, Unknown { expected: None, value: 0 });
        assert!(explained(&[unknown, (2, 3, Read(None)), (4, 5, Read(None))]));
        assert!(explained(&[unknown, (2, 3, Read(None)), (4, 5, Read(Some(0)))]));
        let other = (2, 3, Written { expected: None, value: 1 });
        assert!(explained(&[unknown, other, (4, 5, Read(Some(1)))]));
        // Two of them, the later one first.
        let second = (2, 3, Unknown { expected: None, value: 1 });
        assert!(explained(&[unknown, second, (4, 5, Read(Some(1))), (6, 7, Read(Some(1)))]));
    }

    #[test]
    fn histories_that_no_register_has_are_not() {
        use What::{Lost, Read, Unknown, Written};
        let first = (0, 1, Written { expected: None, value: 0 });
        // A read of what was overwritten, and of what nobody wrote.
        assert!(!explained(&[first, (2, 3, Read(None))]));
        assert!(!explained(&[first, (2, 3, Read(Some(7)))]));
        // Two swaps of one value, one after the other and both at once.
        assert!(!explained(&[first, (2, 3, Written { expected: None, value: 1 })]));
        let long = (0, 9, Written { expected: None, value: 0 });
        assert!(!explained(&[long, (1, 8, Written { expected: None, value: 1 })]));
        // Lost to nobody.
        let later = (2, 3, Written { expected: None, value: 0 });
        assert!(!explained(&[(0, 1, Lost { expected: None }), later]));
        assert!(!explained(&[first, (2, 3, Lost { expected: Some(0) })]));
        // There, and gone again.
        let unknown = (0, 1, Unknown { expected: None, value: 0 });
        assert!(!explained(&[unknown, (2, 3, Read(Some(0))), (4, 5, Read(None))]));
        let other = (2, 3, Written { expected: None, value: 1 });
        assert!(!explained(&[unknown, other, (4, 5, Read(Some(0)))]));
    }
}
