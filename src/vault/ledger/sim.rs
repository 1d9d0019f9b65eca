//! A simulated ledger that counts as etcd does: in memory, with a crash before
//! or after any write, answers that get lost, writes that happen later, and
//! somebody who writes without asking.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use super::{
    Durable, Entry, Head, Ledger, LedgerError, Lineage, Name, Revision, Swap, VALUE_SIZE, Value,
};

/// What happens to the next write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is written and answered.
    None,
    /// The process dies before it is written.
    CrashBefore,
    /// The process dies after it is written, before it is answered.
    CrashAfter,
    /// Another site's write comes first.
    Race,
    /// Nobody answers, and it is on its way until [`SimLedger::arrive`].
    Late,
}

type Kept = (Revision, Lineage, Value);

/// A swap that is on its way.
#[derive(Clone)]
struct Swapping {
    name: Name,
    expected: Option<Revision>,
    value: Value,
}

/// All that is in the ledger.
#[derive(Clone, Default)]
pub struct Contents {
    revision: u64,
    values: BTreeMap<Name, Kept>,
}

#[derive(Default)]
struct State {
    now: Contents,
    fault: Option<Fault>,
    under_way: Vec<Swapping>,
    /// Every write, in order.
    log: Vec<(Name, Value)>,
}

/// Shared by simulated sites.
#[derive(Default)]
pub struct SimLedger(Mutex<State>);

impl State {
    fn write(&mut self, name: &Name, value: &Value) -> Revision {
        self.now.revision += 1;
        let revision = Revision(self.now.revision);
        let lineage = match self.now.values.get(name) {
            Some((_, lineage, _)) => lineage.next(),
            None => Lineage { created: revision, ..Lineage::FIRST },
        };
        self.now.values.insert(*name, (revision, lineage, value.clone()));
        self.log.push((*name, value.clone()));
        revision
    }

    fn swap(&mut self, swap: &Swapping) -> Swap {
        let current = self.now.values.get(&swap.name).map(|(revision, ..)| *revision);
        if current != swap.expected {
            return Swap::Lost;
        }
        Swap::Written(Durable::after_write(self.write(&swap.name, &swap.value)))
    }
}

impl SimLedger {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Sets what happens to the next write.
    pub(crate) fn next_write(&self, fault: Fault) {
        self.lock().fault = Some(fault);
    }

    /// How many writes are on their way.
    pub(crate) fn under_way(&self) -> usize {
        self.lock().under_way.len()
    }

    /// One of the writes on their way arrives, or none of that number.
    pub fn arrive(&self, which: usize) {
        let mut state = self.lock();
        if which < state.under_way.len() {
            let swap = state.under_way.remove(which);
            let _ = state.swap(&swap);
        }
    }

    /// Every value that was ever written, in order.
    pub fn log(&self) -> Vec<(Name, Value)> {
        self.lock().log.clone()
    }

    /// Somebody who may write but has no keys puts a value there.
    pub fn put(&self, name: &Name, value: &Value) {
        self.lock().write(name, value);
    }

    /// The same one deletes a name.
    pub fn delete(&self, name: &Name) {
        let mut state = self.lock();
        state.now.revision += 1;
        state.now.values.remove(name);
    }

    /// A copy of all, as a snapshot of the database is.
    pub fn contents(&self) -> Contents {
        self.lock().now.clone()
    }

    /// Puts a copy back, as an operator does after a loss.
    pub fn restore(&self, contents: Contents) {
        self.lock().now = contents;
    }
}

impl Ledger for SimLedger {
    fn read(&self, name: &Name) -> Result<Option<Entry>, LedgerError> {
        let state = self.lock();
        let kept = state.now.values.get(name).cloned();
        Ok(kept.map(|(revision, lineage, value)| Entry { revision, lineage, value }))
    }

    fn swap(
        &self,
        name: &Name,
        expected: Option<Revision>,
        value: &Value,
        _last: bool,
    ) -> Result<Swap, LedgerError> {
        let mut state = self.lock();
        let swap = Swapping { name: *name, expected, value: value.clone() };
        let lost = || Err(LedgerError::Unanswered("simulated".into()));
        match state.fault.take().unwrap_or(Fault::None) {
            Fault::None => Ok(state.swap(&swap)),
            Fault::Race => Ok(Swap::Lost),
            Fault::CrashBefore => lost(),
            Fault::CrashAfter => {
                let _ = state.swap(&swap);
                lost()
            }
            Fault::Late => {
                state.under_way.push(swap);
                lost()
            }
        }
    }

    fn remove(&self, name: &Name, expected: Revision) -> Result<Swap, LedgerError> {
        let found = self.lock().now.values.get(name).map(|(revision, ..)| *revision);
        if found != Some(expected) {
            return Ok(Swap::Lost);
        }
        self.delete(name);
        Ok(Swap::Written(Durable::after_write(Revision(self.lock().now.revision))))
    }

    fn list(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Name>, LedgerError> {
        let state = self.lock();
        let above = state.now.values.keys().filter(|name| after.is_none_or(|after| *name > after));
        Ok(above.take(limit).copied().collect())
    }

    fn head(&self) -> Result<Head, LedgerError> {
        Ok(Head { cluster: 1, revision: Revision(self.lock().now.revision) })
    }
}

/// It must count as etcd does, or the rules tested on it hold for it alone.
/// What etcd counts is tested against the same list in `tests/integration`.
#[test]
fn lineages_tell_a_value_from_a_copy_of_it() {
    let ledger = SimLedger::default();
    let value = |byte| Box::new([byte; VALUE_SIZE]);
    let entry = |name| {
        let entry = ledger.read(&[name; 32]).unwrap().unwrap();
        (entry.revision.0, entry.lineage.created.0, entry.lineage.version)
    };
    ledger.swap(&[1; 32], None, &value(1), false).ok().unwrap();
    assert_eq!(entry(1), (1, 1, 1));
    ledger.swap(&[2; 32], None, &value(1), false).ok().unwrap();
    ledger.swap(&[1; 32], Some(Revision(1)), &value(2), false).ok().unwrap();
    assert_eq!(entry(1), (3, 1, 2));
    ledger.put(&[1; 32], &value(1));
    assert_eq!(entry(1), (4, 1, 3));
    ledger.delete(&[1; 32]);
    ledger.put(&[1; 32], &value(1));
    assert_eq!(entry(1), (6, 6, 1));
}
