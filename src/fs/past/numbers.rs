//! Numbers of inodes of the past, by which the kernel knows them.
//!
//! Invariant: bit 63 is set in each, and in no number of the present. Two inodes that the kernel knows
//! have two numbers.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::states::PastState;
use crate::format::namespace::{Ino, ROOT};

/// The bit that inode numbers of the past have.
const PAST: u64 = 1 << 63;
/// The number of the directory of all states.
pub(super) const STATES: u64 = PAST | ROOT;

/// Whether a number is one of the past.
pub(super) fn is_past(number: u64) -> bool {
    number & PAST != 0
}

/// An inode of the past that the kernel knows, or is being told of.
struct Known {
    state: Arc<PastState>,
    ino: Ino,
    lookups: u64,
    /// Directory entries that were handed over with attributes and are not counted as lookups yet.
    offers: u64,
}

/// The inodes of the past that the kernel knows.
#[derive(Default)]
pub(super) struct Numbers {
    known: HashMap<u64, Known>,
    /// Keyed anew in each process.
    hasher: RandomState,
}

impl Numbers {
    /// The number of an inode, whether the kernel knows it or not. An inode keeps it for as long as the
    /// kernel knows it, and mostly longer.
    pub(super) fn number(&self, state: &Arc<PastState>, ino: Ino) -> u64 {
        let mut number = self.hasher.hash_one((state.key(), ino)) | PAST;
        // Of 2^63 numbers it is hardly ever the one of another inode.
        while number == STATES || self.known.get(&number).is_some_and(|it| !it.is(state, ino)) {
            number = number.wrapping_add(1) | PAST;
        }
        number
    }

    /// The state and the inode that a number stands for.
    pub(super) fn inode(&self, number: u64) -> Option<(Arc<PastState>, Ino)> {
        self.known.get(&number).map(|known| (Arc::clone(&known.state), known.ino))
    }

    /// The kernel knows an inode from here on: counts one lookup, and returns the number.
    pub(super) fn look_up(&mut self, state: &Arc<PastState>, ino: Ino) -> u64 {
        let (number, known) = self.entry(state, ino);
        known.lookups += 1;
        number
    }

    /// The kernel is told of an inode in the list of a directory. [`Numbers::remember`] counts the lookup.
    pub(super) fn offer(&mut self, state: &Arc<PastState>, ino: Ino) {
        self.entry(state, ino).1.offers += 1;
    }

    /// Counts one lookup of an inode that was offered.
    pub(super) fn remember(&mut self, number: u64) {
        if let Some(known) = self.known.get_mut(&number) {
            known.offers = known.offers.saturating_sub(1);
            known.lookups += 1;
        }
    }

    /// Takes back lookups.
    pub(super) fn forget(&mut self, number: u64, count: u64) {
        let Some(known) = self.known.get_mut(&number) else { return };
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups == 0 && known.offers == 0 {
            self.known.remove(&number);
        }
    }

    /// How many inodes the kernel knows.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    fn entry(&mut self, state: &Arc<PastState>, ino: Ino) -> (u64, &mut Known) {
        let number = self.number(state, ino);
        let new = || Known { state: Arc::clone(state), ino, lookups: 0, offers: 0 };
        (number, self.known.entry(number).or_insert_with(new))
    }
}

impl Known {
    fn is(&self, state: &PastState, ino: Ino) -> bool {
        self.ino == ino && self.state.key() == state.key()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Timestamp;

    fn state(secs: i64) -> Arc<PastState> {
        Arc::new(PastState::new(Timestamp { secs, nanos: 0 }, 7))
    }

    #[test]
    fn an_inode_is_known_until_all_its_lookups_are_taken_back() {
        let (mut numbers, one) = (Numbers::default(), state(1));
        let number = numbers.look_up(&one, 5);
        assert!(is_past(number) && numbers.inode(number).is_some_and(|(_, ino)| ino == 5));
        assert_eq!(numbers.look_up(&one, 5), number);
        numbers.forget(number, 1);
        numbers.offer(&one, 5);
        // Between the list of a directory and its answer the kernel forgets it.
        numbers.forget(number, 1);
        assert!(numbers.inode(number).is_some());
        numbers.remember(number);
        numbers.forget(number, 1);
        assert!(numbers.inode(number).is_none());
        numbers.forget(number, 1);
    }

    #[test]
    fn two_inodes_never_have_one_number() {
        let (mut numbers, one, other) = (Numbers::default(), state(1), state(2));
        let number = numbers.look_up(&one, 5);
        assert_ne!(numbers.number(&other, 5), number);
        assert_ne!(numbers.number(&one, 6), number);
        // Another inode has the number that this one would have.
        let wanted = numbers.number(&other, 5);
        let ino = 9;
        numbers.known.insert(wanted, Known { state: one.clone(), ino, lookups: 1, offers: 0 });
        let beside = numbers.look_up(&other, 5);
        assert!(beside != wanted && is_past(beside));
        assert!(numbers.inode(beside).is_some_and(|(of, ino)| of.key() == other.key() && ino == 5));
    }
}
