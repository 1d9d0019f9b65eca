//! What ties a database to its side files (`docs/merging.md`, section 6).

use std::collections::{BTreeMap, BTreeSet};

use super::{ChangedEntry, Place, Stamper};
use crate::format::clock::Dot;
use crate::format::namespace::Ino;
use crate::format::side_files::{SIDE_SUFFIXES, main_name, without_suffix};
use crate::store::Result;

/// What happened to a database or its side files.
#[derive(Clone, Copy)]
struct Touched {
    /// The newest change of one of them.
    dot: Dot,
    /// Whether one changed its content, or came, went or moved.
    is_version: bool,
}

impl Stamper<'_> {
    /// A database and its side files are one version: a change of one of them makes a new
    /// version of the database, and each side file beside it says which.
    pub(super) fn databases(&mut self, entries: &[ChangedEntry]) -> Result<()> {
        let mut touched: BTreeMap<Place, Touched> = BTreeMap::new();
        let all = self.edits.values().flatten().map(|(dot, _)| *dot);
        let Some(newest) = all.reduce(|one, other| self.later(one, other)) else { return Ok(()) };
        let mut named_anew: BTreeMap<Ino, Dot> = BTreeMap::new();
        for ChangedEntry { place, before, after } in entries {
            let (before, named) = (before.map(|(ino, _)| ino), after.map(|(ino, _)| ino));
            if before == named {
                // It came and went, or went and came back.
                continue;
            }
            // A name that goes has no dot of its own: its directory's record has one as late.
            let gone = |stamper: &mut Self| stamper.edit_of(place.0).map(|(dot, _)| *dot);
            let dot = after.map(|(_, dot)| dot).or_else(|| gone(self)).unwrap_or(newest);
            for ino in before.into_iter().chain(named) {
                let last = named_anew.get(&ino).map_or(dot, |last| self.later(*last, dot));
                named_anew.insert(ino, last);
            }
            self.add_touched(&mut touched, place.clone(), dot, true);
        }
        // A name more, or less, is another version of the file under all its names, of which
        // there may be very many.
        for (ino, dot) in named_anew {
            if self.inode_before(ino)?.is_some() && self.is_file_after(ino)? {
                for place in self.names_after(ino)? {
                    self.add_touched(&mut touched, place, dot, true);
                }
            }
        }
        for (ino, dot) in self.changed_inodes() {
            let Some(dot) = dot else { continue };
            if !self.is_file_after(ino)? {
                continue;
            }
            let origins = self.origins.get(&ino).copied().unwrap_or_default();
            let is_version = origins.content.is_some() || self.inode_before(ino)?.is_none();
            for place in self.names_after(ino)? {
                self.add_touched(&mut touched, place, dot, is_version);
            }
        }
        for (place, what) in touched {
            self.database(&place, what)?;
        }
        Ok(())
    }

    fn add_touched(
        &self,
        touched: &mut BTreeMap<Place, Touched>,
        (dir, name): Place,
        dot: Dot,
        is_version: bool,
    ) {
        let main = main_name(&name).map_or_else(|| name.clone(), <[u8]>::to_vec);
        let all = touched.entry((dir, main)).or_insert(Touched { dot, is_version });
        all.dot = self.later(all.dot, dot);
        all.is_version |= is_version;
    }

    /// The names of the side files of a database with this name.
    fn side_places((dir, name): &Place) -> impl Iterator<Item = Place> {
        SIDE_SUFFIXES.iter().map(|suffix| (*dir, [name, *suffix].concat()))
    }

    /// The side files beside a database, under any of its names.
    pub(super) fn sides_after(&self, main: Ino) -> Result<BTreeSet<Ino>> {
        let mut sides = BTreeSet::new();
        for place in self.names_after(main)? {
            if without_suffix(&place.1).is_some() {
                continue;
            }
            for side in Self::side_places(&place) {
                sides.extend(self.files(&side)?.1);
            }
        }
        sides.remove(&main);
        Ok(sides)
    }

    fn database(&mut self, place: &Place, what: Touched) -> Result<()> {
        if without_suffix(&place.1).is_some() {
            return Ok(());
        }
        let (mut sides, mut had) = (BTreeSet::new(), false);
        for side in Self::side_places(place) {
            let (before, after) = self.files(&side)?;
            had |= before.is_some();
            sides.extend(before.into_iter().chain(after));
        }
        if sides.is_empty() {
            return Ok(());
        }
        let (before, after) = self.files(place)?;
        let mains: BTreeSet<Ino> = before.filter(|_| had).into_iter().chain(after).collect();
        for main in mains {
            if !self.is_file_after(main)? {
                continue;
            }
            let beside = self.sides_after(main)?;
            if !had && beside.is_empty() {
                continue;
            }
            self.touch(main, what.dot)?;
            if what.is_version {
                let changed = self.origins.get(&main).and_then(|origins| origins.content);
                let origin = changed.map_or(what.dot, |changed| self.later(changed, what.dot));
                self.origins.entry(main).or_default().content = Some(origin);
            }
            for side in beside {
                self.touch(side, what.dot)?;
                self.main.insert(side, Some(main));
            }
        }
        for side in sides {
            if self.main.contains_key(&side) || !self.is_file_after(side)? {
                continue;
            }
            let Some((_, inode)) = self.inode_before(side)? else { continue };
            let Some((main, _)) = inode.history.main else { continue };
            if !self.sides_after(main)?.contains(&side) {
                self.touch(side, what.dot)?;
                self.main.insert(side, None);
            }
        }
        Ok(())
    }
}
