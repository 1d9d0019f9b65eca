//! What a look at a repository found, and how bad that is.

use std::collections::{BTreeSet, HashSet};

use super::{Notice, Shortfall};
use crate::crypto::Hash;
use crate::store::{StoreError, Stray};

/// What was found.
#[derive(Default)]
pub(crate) struct Findings {
    /// Things looked at.
    pub checked: u64,
    /// What is damaged.
    pub damage: Vec<String>,
    /// Heads and objects that are whole elsewhere than in their place.
    pub misplaced: Vec<String>,
    /// What is not here.
    pub missing: Vec<String>,
    /// What is worth a word.
    pub notes: Vec<String>,
    /// What the system did not let be looked at.
    pub unread: Vec<String>,
    /// Files that are not whole.
    pub files: Vec<Shortfall>,
    /// Objects that heads name and that are not here.
    pub objects_missing: u64,
    /// Heads and objects that are here with other bytes than they should have.
    pub bad: HashSet<Hash>,
    /// Files that changed so lately that they may not be whole yet.
    pub arriving: Vec<String>,
    /// What a repair found bad before: known, and no news.
    pub known: HashSet<Hash>,
}

/// The worst of what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worst {
    /// Something is damaged.
    Damaged,
    /// Something is whole, and not in its place.
    Misplaced,
    /// Something could not be read.
    Unread,
    /// Something is not here.
    Missing,
    /// All is well.
    Nothing,
}

impl Findings {
    /// Adds an error, by what it says of REPO.
    pub fn add(&mut self, error: &StoreError) {
        self.add_with(error, "");
    }

    /// Adds an error, with more to say of it.
    pub fn add_with(&mut self, error: &StoreError, more: &str) {
        let list = match error {
            StoreError::Missing { .. } => &mut self.missing,
            StoreError::Io { .. } => &mut self.unread,
            _ => &mut self.damage,
        };
        list.push(format!("{error}{more}"));
    }

    /// Adds what an opening told.
    pub fn add_notice(&mut self, notice: &Notice) {
        let (list, text) = match notice {
            Notice::Note(text) => (&mut self.notes, text),
            Notice::Missing(text) => (&mut self.missing, text),
            Notice::Damage(text) => (&mut self.damage, text),
            Notice::Misplaced(text) => (&mut self.misplaced, text),
            Notice::Unread(text) => (&mut self.unread, text),
        };
        list.push(text.clone());
    }

    /// Adds what is not as it should be by its name.
    pub fn add_stray(&mut self, stray: &Stray) {
        self.add_notice(&Notice::of_stray(stray));
    }

    /// Leaves out what was found twice.
    pub fn without_repeats(mut self) -> Self {
        let lists = [
            &mut self.damage,
            &mut self.misplaced,
            &mut self.missing,
            &mut self.notes,
            &mut self.unread,
        ];
        for list in lists {
            let mut seen = BTreeSet::new();
            list.retain(|text| seen.insert(text.clone()));
        }
        self
    }

    /// The worst of it.
    pub fn worst(&self) -> Worst {
        let files = |test: fn(&Shortfall) -> bool| self.files.iter().any(test);
        if !self.damage.is_empty() || files(|file| file.gap.damaged > 0) {
            Worst::Damaged
        } else if !self.misplaced.is_empty() {
            Worst::Misplaced
        } else if !self.unread.is_empty() || files(|file| file.gap.unread > 0) {
            Worst::Unread
        } else if !self.missing.is_empty() || !self.files.is_empty() {
            Worst::Missing
        } else {
            Worst::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Gap;

    #[test]
    fn the_worst_counts_and_is_told_once() {
        let mut found = Findings::default();
        let file = |gap| Shortfall { path: b"a".to_vec(), names: 1, size: 9, gap };
        assert_eq!(found.worst(), Worst::Nothing);
        found.notes.push("a note".into());
        assert_eq!(found.worst(), Worst::Nothing);
        found.files.push(file(Gap { missing: 9, ..Gap::default() }));
        assert_eq!(found.worst(), Worst::Missing);
        found.files.push(file(Gap { unread: 1, ..Gap::default() }));
        assert_eq!(found.worst(), Worst::Unread);
        found.misplaced.push("elsewhere".into());
        assert_eq!(found.worst(), Worst::Misplaced);
        found.damage.extend(["bad".into(), "worse".into(), "bad".into()]);
        assert_eq!(found.worst(), Worst::Damaged);
        assert_eq!(found.without_repeats().damage, ["bad", "worse"]);
    }
}
