//! What the values of one file, of its attributes and of its extended attributes come to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::loaded::{Loaded, Version};
use crate::format::clock::Dot;
use crate::format::namespace::{Ino, Inode, Key, Value, Xattr};
use crate::format::versions::Versions;

/// The change that made the content of a version.
pub(super) fn origin((dot, inode): &Version) -> Dot {
    inode.history.content.origin(*dot)
}

/// Whether the first version was made in the place of the second, at once or by way of others.
fn replaces(new: (Dot, &Versions), old: (Dot, &Versions)) -> bool {
    let old = old.1.origin(old.0);
    new.1.origin(new.0) != old && new.1.contain(old)
}

/// The versions that no other one replaced, by one of the two lists. All, if each was.
fn unreplaced(all: &[Version], list: impl Fn(&Inode) -> &Versions) -> Vec<Version> {
    let of = |version: &Version| (version.0, list(&version.1).clone());
    let lists: Vec<(Dot, Versions)> = all.iter().map(of).collect();
    let stays = |at: usize| {
        let old = (lists[at].0, &lists[at].1);
        !lists.iter().any(|(dot, list)| replaces((*dot, list), old))
    };
    let left: Vec<Version> =
        all.iter().enumerate().filter(|(at, _)| stays(*at)).map(|(_, v)| v.clone()).collect();
    if left.is_empty() { all.to_vec() } else { left }
}

/// Whether two records have the same bytes. Ids tell it: another cut of the same bytes counts
/// as others.
pub(super) fn same_bytes(one: &Inode, other: &Inode) -> bool {
    one.kind() == other.kind()
        && one.size == other.size
        && one.content == other.content
        && one.inline == other.inline
}

/// Whether two records have the same attributes, times aside.
pub(super) fn same_attributes(one: &Inode, other: &Inode) -> bool {
    (one.mode, one.uid, one.gid, one.rdev, one.flags, one.project)
        == (other.mode, other.uid, other.gid, other.rdev, other.flags, other.project)
        && one.unknown == other.unknown
}

/// The distinct contents of `all` that no other one replaced, the winner first. Two of equal
/// bytes count as one, unless `is_bound` says of the origin of one that it has side files.
fn contents(all: &[Version], is_bound: impl Fn(Dot) -> bool) -> Vec<Version> {
    let mut left = unreplaced(all, |inode| &inode.history.content);
    left.sort_by_key(|version| Reverse((version.1.mtime, origin(version), version.0)));
    let mut found: Vec<Version> = Vec::new();
    for version in left {
        let from = origin(&version);
        let is_same = |other: &Version| {
            let of = origin(other);
            of == from || same_bytes(&other.1, &version.1) && !is_bound(of) && !is_bound(from)
        };
        if !found.iter().any(is_same) {
            found.push(version);
        }
    }
    found
}

/// The version with the attributes that count: the newest of those that nobody replaced.
pub(super) fn attributes(all: &[Version]) -> Version {
    let left = unreplaced(all, |inode| &inode.history.attributes);
    let newest =
        |(dot, inode): &Version| (inode.ctime, inode.history.attributes.origin(*dot), *dot);
    left.into_iter().max_by_key(newest).expect("an inode has a record")
}

/// The extended attribute of a key that counts: of those that nobody replaced the one with the
/// highest dot.
pub(super) fn xattr(values: &[(Dot, Value)]) -> Option<(Dot, &Xattr)> {
    let mut all: Vec<(Dot, &Xattr)> = Vec::new();
    for (dot, value) in values {
        if let Value::Xattr(xattr) = value {
            all.push((*dot, xattr));
        }
    }
    let is_replaced = |(dot, old): &&(Dot, &Xattr)| {
        all.iter().any(|(d, new)| replaces((*d, &new.versions), (*dot, &old.versions)))
    };
    let left = all.iter().filter(|xattr| !is_replaced(xattr)).max_by_key(|(dot, _)| *dot);
    left.or(all.last()).copied()
}

/// Whether the extended attributes of two inodes are equal.
pub(super) fn same_xattrs(loaded: &Loaded<'_>, one: Ino, other: Ino) -> bool {
    let of = |ino| {
        let shown = loaded.beside(ino).filter_map(|(key, values)| match key {
            Key::Xattr(_, name) => {
                let (_, xattr) = xattr(values)?;
                (!xattr.is_removed()).then(|| (name.clone(), xattr.state.clone()))
            }
            _ => None,
        });
        shown.collect::<Vec<_>>()
    };
    of(one) == of(other)
}

/// A side file as it goes with a version of its database.
pub(super) struct Side {
    pub ino: Ino,
    /// The database.
    pub main: Ino,
    /// The origin of the database's version.
    pub from: Dot,
    pub version: Version,
}

/// What the values of each file come to.
#[derive(Default)]
pub(super) struct Files {
    /// Versions that are shown by themselves, the winner first.
    pub plain: BTreeMap<Ino, Vec<Version>>,
    /// Side files of versions that are shown.
    pub sides: Vec<Side>,
    /// Of those the one that has its file's own number: its place in `sides`.
    pub first: BTreeMap<Ino, usize>,
    /// Versions of databases that have side files: file and origin.
    pub bound: BTreeSet<(Ino, Dot)>,
    /// Versions of databases, file and origin, with which side files are shown that somebody else has
    /// apart from them.
    pub shows_for_others: BTreeSet<(Ino, Dot)>,
}

impl Files {
    /// The files of a loaded.
    pub fn read(loaded: &Loaded<'_>) -> Self {
        let is_file = |all: &[Version]| all.last().is_some_and(|(_, inode)| !inode.is_dir());
        let is_side = |all: &[Version]| all.iter().any(|(_, inode)| inode.history.main.is_some());
        let files = || {
            loaded
                .records
                .iter()
                .map(|(ino, all)| (*ino, all.as_slice()))
                .filter(|(_, all)| is_file(all))
        };
        // The version of a database with which a value goes, if anything is known of it.
        let known = |(_, inode): &Version| {
            let (main, from) = inode.history.main?;
            let values = loaded.record(main).filter(|all| is_file(all) && !is_side(all))?;
            let knows =
                |value: &Version| origin(value) == from || value.1.history.content.contain(from);
            values.iter().any(knows).then_some((main, from))
        };
        let mut found = Self {
            bound: files().flat_map(|(_, all)| all).filter_map(known).collect(),
            ..Self::default()
        };
        for (ino, all) in files().filter(|(_, all)| !is_side(all)) {
            let versions = contents(all, |from| found.bound.contains(&(ino, from)));
            found.plain.insert(ino, versions);
        }
        for (ino, all) in files().filter(|(_, all)| is_side(all)) {
            found.add_side(ino, all, &known);
        }
        found
    }

    fn add_side(
        &mut self,
        ino: Ino,
        all: &[Version],
        known: &dyn Fn(&Version) -> Option<(Ino, Dot)>,
    ) {
        let mut own: BTreeMap<(Ino, Dot), Version> = BTreeMap::new();
        for version in all {
            if let Some(to) = known(version) {
                own.insert(to, version.clone());
            }
        }
        // With a version that was replaced its side files were.
        let place = |main: &Ino, from: &Dot| {
            self.plain[main].iter().position(|version| origin(version) == *from)
        };
        let own: Vec<(usize, Side)> = own
            .into_iter()
            .filter_map(|((main, from), version)| {
                Some((place(&main, &from)?, Side { ino, main, from, version }))
            })
            .collect();
        let loose: Vec<Version> =
            all.iter().filter(|version| known(version).is_none()).cloned().collect();
        let mut loose = contents(&loose, |_| false);
        let is_loose = |from: Dot| loose.iter().any(|version| origin(version) == from);
        let shown = own.iter().filter(|(_, side)| is_loose(origin(&side.version)));
        self.shows_for_others.extend(shown.map(|(_, side)| (side.main, side.from)));
        loose.retain(|old| {
            let is_over = |(_, side): &(usize, Side)| {
                let (dot, inode) = &side.version;
                replaces((*dot, &inode.history.content), (old.0, &old.1.history.content))
                    || origin(&side.version) == origin(old)
            };
            !own.iter().any(is_over)
        });
        if loose.iter().len() > 0 {
            self.plain.insert(ino, loose);
        }
        let winners = own.iter().filter(|(place, _)| *place == 0);
        let first = winners.map(|(_, side)| side.version.0).max();
        for (place, side) in own {
            if place == 0 && Some(side.version.0) == first {
                self.first.insert(ino, self.sides.len());
            }
            self.sides.push(side);
        }
    }

    /// The version under a file's own number.
    pub fn best(&self, ino: Ino) -> Option<&Version> {
        match self.first.get(&ino) {
            Some(at) => Some(&self.sides[*at].version),
            None => self.plain.get(&ino).and_then(|versions| versions.first()),
        }
    }

    /// Whether any version of a file is shown.
    pub fn are_shown(&self, ino: Ino) -> bool {
        self.plain.contains_key(&ino) || self.sides.iter().any(|side| side.ino == ino)
    }

    /// Whether versions of a file have side files.
    pub fn has_sides(&self, ino: Ino) -> bool {
        self.bound.iter().any(|(bound, _)| *bound == ino)
    }
}
