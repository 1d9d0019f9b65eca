//! The law, as somebody checks it who sees all values of a record in the order
//! of the ledger. The test with real processes in `tests/integration` has it too.

use std::collections::{HashMap, HashSet};

use super::{AttemptId, KE2, PENDING_LIMIT, Record, State};

/// What a record's values say that happened.
#[derive(Default)]
pub struct Law {
    /// Guesses evaluated, that of the registration too.
    pub evaluated: usize,
    /// Most of them between two successes.
    pub most: u32,
    /// Attempts that were ever paid for.
    pub known: HashSet<AttemptId>,
    /// Attempts that were proven right.
    pub redeemed: HashSet<AttemptId>,
    /// Attempts with the KE2 that was stored for them.
    pub written: HashSet<(AttemptId, [u8; KE2])>,
}

/// The law, read off the values of one name in the ledger's order.
pub fn check_law(records: &[Record]) -> Law {
    let mut law = Law::default();
    let mut evaluated: u32 = 0;
    let mut failures: u32 = 0;
    let mut seen: HashMap<AttemptId, (bool, [u8; 32])> = HashMap::new();
    let mut newest_ke2: HashMap<AttemptId, [u8; KE2]> = HashMap::new();
    let mut credential = None;
    for (at, record) in records.iter().enumerate() {
        if at > 0 && matches!(records[at - 1].state, State::Ended(_)) {
            assert!(matches!(record.state, State::Ended(_)), "a dead record stays dead");
        }
        if let Some(material) = &record.material {
            let before = *credential.get_or_insert_with(|| {
                // The registration's evaluation counts.
                evaluated += 1;
                law.evaluated += 1;
                material.credential
            });
            assert_eq!(before, material.credential, "one record, one OPRF key");
        }
        // An attempt that was pushed out is a new one if it comes again, and is
        // paid for again.
        let known = |id: &AttemptId| record.pending.iter().any(|pending| pending.attempt == *id);
        seen.retain(|id, _| known(id));
        newest_ke2.retain(|id, _| known(id));
        for pending in &record.pending {
            let first = seen.insert(pending.attempt, (pending.redeemed, pending.ke1));
            match first {
                None => {
                    assert!(!pending.redeemed);
                    law.known.insert(pending.attempt);
                    law.evaluated += 1;
                    evaluated += 1;
                    failures += 1;
                }
                Some((was, ke1)) => {
                    assert_eq!(ke1, pending.ke1, "one attempt, one KE1");
                    assert!(!was || pending.redeemed, "redeemed once");
                    if !was && pending.redeemed {
                        law.redeemed.insert(pending.attempt);
                        evaluated = 0;
                        failures -= 1;
                    }
                }
            }
        }
        assert!(evaluated <= 10, "more than 10 guesses between two successes");
        assert!(failures <= 50, "more than 50 failures in a life");
        assert!(record.pending.len() <= PENDING_LIMIT);
        law.most = law.most.max(evaluated);
        if let (Some(newest), Some(material)) = (record.pending.last(), &record.material) {
            law.written.insert((newest.attempt, material.ke2));
            let before = newest_ke2.insert(newest.attempt, material.ke2);
            assert!(before.is_none_or(|ke2| ke2 == material.ke2), "one attempt, one KE2");
        }
    }
    law
}
