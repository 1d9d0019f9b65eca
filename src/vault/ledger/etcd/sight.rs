//! What a site has seen of the whole ledger since it was opened: an answer to a
//! question that was asked after another answer cannot be older than that one.

use std::sync::Mutex;

use super::{Head, LedgerError, WentBack};

/// The newest moment seen, or how the ledger was found to be another.
#[derive(Default)]
pub struct Sight(Mutex<State>);

#[derive(Default)]
struct State {
    newest: Option<Head>,
    went_back: Option<WentBack>,
}

impl Sight {
    /// What an answer to a question asked now must reach. An error once the
    /// ledger went back: nothing it answers is believed any more.
    pub(crate) fn floor(&self) -> Result<Option<Head>, LedgerError> {
        let state = self.0.lock().map_err(|_| LedgerError::Poisoned)?;
        match state.went_back {
            Some(how) => Err(how.into()),
            None => Ok(state.newest),
        }
    }

    /// Takes in what an answer says.
    pub(crate) fn admit(&self, floor: Option<Head>, found: Head) -> Result<(), LedgerError> {
        let mut state = self.0.lock().map_err(|_| LedgerError::Poisoned)?;
        if let Some(how) = floor.and_then(|floor| WentBack::find(floor, found)) {
            state.went_back = Some(how);
            return Err(how.into());
        }
        if state.newest.is_none_or(|newest| newest.revision < found.revision) {
            state.newest = Some(found);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Revision;
    use super::*;

    fn at(revision: u64) -> Head {
        Head { cluster: 7, revision: Revision(revision) }
    }

    #[test]
    fn answers_may_cross_but_never_go_back() {
        let sight = Sight::default();
        let before = sight.floor().unwrap();
        assert!(sight.admit(before, at(10)).is_ok());
        // Asked before that answer came.
        assert!(sight.admit(before, at(9)).is_ok());
        let floor = sight.floor().unwrap();
        assert_eq!(floor, Some(at(10)));
        assert!(sight.admit(floor, at(10)).is_ok());
        assert!(sight.admit(floor, at(9)).is_err());
        assert!(sight.floor().is_err(), "and is not believed afterwards");
        assert!(matches!(
            sight.floor(),
            Err(LedgerError::WentBack(WentBack::Older { found: 9, seen: 10 }))
        ));
    }

    #[test]
    fn another_cluster_is_another_ledger() {
        let sight = Sight::default();
        sight.admit(None, at(10)).unwrap();
        let other = Head { cluster: 8, ..at(99) };
        assert!(sight.admit(sight.floor().unwrap(), other).is_err());
        assert!(matches!(
            sight.floor(),
            Err(LedgerError::WentBack(WentBack::Other { found: 8, seen: 7 }))
        ));
    }
}
