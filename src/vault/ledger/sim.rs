//! A simulated ledger: in memory, with a crash before or after any write.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::{Durable, Ledger, LedgerError, Name, Revision, Swap, Value};

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
}

/// Shared by simulated sites.
#[derive(Default)]
pub struct SimLedger {
    values: Mutex<BTreeMap<Name, (Revision, Value)>>,
    fault: Mutex<Option<Fault>>,
}

impl SimLedger {
    /// Sets what happens to the next write.
    pub fn next_write(&self, fault: Fault) {
        *self.fault.lock().unwrap() = Some(fault);
    }
}

impl Ledger for SimLedger {
    fn read(&self, name: &Name) -> Result<Option<(Revision, Value)>, LedgerError> {
        Ok(self
            .values
            .lock()
            .unwrap()
            .get(name)
            .map(|(revision, value)| (*revision, value.clone())))
    }

    fn swap(
        &self,
        name: &Name,
        expected: Option<Revision>,
        value: &Value,
        _last: bool,
    ) -> Result<Swap, LedgerError> {
        let fault = self.fault.lock().unwrap().take().unwrap_or(Fault::None);
        let mut values = self.values.lock().unwrap();
        if fault == Fault::CrashBefore {
            return Err(LedgerError::Poisoned);
        }
        if fault == Fault::Race || values.get(name).map(|(revision, _)| *revision) != expected {
            return Ok(Swap::Lost);
        }
        let revision = Revision(expected.map_or(1, |revision| revision.0 + 1));
        values.insert(*name, (revision, value.clone()));
        if fault == Fault::CrashAfter {
            return Err(LedgerError::Poisoned);
        }
        Ok(Swap::Written(Durable::after_write()))
    }

    fn list(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Name>, LedgerError> {
        let values = self.values.lock().unwrap();
        let above = values.keys().filter(|name| after.is_none_or(|after| *name > after));
        Ok(above.take(limit).copied().collect())
    }
}
