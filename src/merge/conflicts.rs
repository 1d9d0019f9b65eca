//! The conflicts that a tree shows: those that no head has stored yet, and those that are
//! stored as files of their own.
//!
//! Invariant: a stored conflict is a file in whose name stand the digits of a keyed hash of its
//! number and of its content's origin, beside the file with the plain name or the one whose
//! version it is. Whoever edits, renames or deletes one of the two settles the conflict; a name
//! alone makes none.

use std::collections::{BTreeMap, BTreeSet};

use super::loaded::Version;
use super::names::{Mark, before_marks, kept_number, marks, may_be_marked};
use super::{Conflict, ConflictKind, Joined, Name, Place, ROOT};
use crate::crypto::{DeviceId, IdKeys};
use crate::format::clock::{Dot, Writer};
use crate::format::namespace::{Ino, Key, Value};
use crate::format::side_files::main_name;

/// How often a loser's number is hashed again, at most, because other files have it.
const HASHES: usize = 4;
/// From this length on a name may have been cut for its mark, bytes.
const CUT_FROM: usize = 240;

const DIR: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// A file that stands beside another one of its directory because of a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictFile {
    /// The name of the file in the directory.
    pub name: Name,
    /// The name of the file beside which it stands: of a file that only looks like a side file,
    /// the database.
    pub of: Name,
    /// What happened, on which device, and when.
    pub conflict: Conflict,
}

/// A conflict, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundConflict {
    /// The path of the file or directory from the root, without a slash before it. If another
    /// file took its place, the path that it had.
    pub path: Vec<u8>,
    /// The path of the file beside which it stands, if it stands beside one.
    pub of: Option<Vec<u8>>,
    /// What happened, on which device, and when.
    pub conflict: Conflict,
}

/// Where conflicts are searched for.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The directory in which the search begins.
    pub dir: Ino,
    /// The path of that directory from the root, without a slash before it.
    pub path: Vec<u8>,
    /// Searches only for the file of this name in the directory and for what stands beside it; if
    /// none, for all below the directory.
    pub name: Option<Vec<u8>>,
}

impl Scope {
    /// Whether a path is at it or below.
    fn has(&self, path: &[u8]) -> bool {
        let own = match &self.name {
            Some(name) => joined_path(&self.path, name),
            None => self.path.clone(),
        };
        let below = path.strip_prefix(own.as_slice());
        own.is_empty() || below.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

/// The versions of one file: the names that they have in one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionNames {
    /// The name without a mark.
    pub plain: Name,
    /// The names of the other versions, ascending.
    pub others: Vec<Name>,
}

/// The versions of which `name` is one, among the conflicts of a directory. None if there are
/// no others.
pub fn version_names(all: &[ConflictFile], name: &[u8]) -> Option<VersionNames> {
    let is_version = |kind| matches!(kind, ConflictKind::Version | ConflictKind::Name);
    let of: BTreeMap<&[u8], &[u8]> = all
        .iter()
        .filter(|beside| is_version(beside.conflict.kind))
        .map(|beside| (beside.name.as_slice(), beside.of.as_slice()))
        .collect();
    let plain = plain_name(&of, name);
    let others = of.keys().filter(|other| **other != plain && plain_name(&of, other) == plain);
    let others: Vec<Name> = others.map(|other| other.to_vec()).collect();
    (!others.is_empty()).then(|| VersionNames { plain: plain.to_vec(), others })
}

/// Where a name leads from one version to the one beside which it stands, and so on: a version may
/// stand beside one that stands beside another one itself.
fn plain_name<'a>(of: &BTreeMap<&'a [u8], &'a [u8]>, name: &'a [u8]) -> &'a [u8] {
    let (mut name, mut passed) = (name, BTreeSet::new());
    while let Some(next) = of.get(name).filter(|_| passed.insert(name)) {
        name = next;
    }
    name
}

fn joined_path(above: &[u8], name: &[u8]) -> Vec<u8> {
    if above.is_empty() { name.to_vec() } else { [above, b"/", name].concat() }
}

/// What a directory has under each name: number and type.
type Names = BTreeMap<Name, (Ino, u32)>;

/// A file, and the marks of its name that fit it.
struct Marked<'a> {
    name: &'a [u8],
    ino: Ino,
    origin: Dot,
    marks: Vec<Mark<'a>>,
}

/// Searches a tree for conflicts.
pub(super) struct Search<'a, J> {
    /// The keys of the repository.
    pub ids: &'a IdKeys,
    /// The tree as it is shown.
    pub shown: &'a J,
    /// The joined tree, of which repairs make the other one.
    pub stored: &'a J,
}

impl<J: Joined> Search<'_, J> {
    /// All conflicts in the scopes, ascending by path. `unstored` are those that no head has
    /// stored yet.
    pub fn all(
        &self,
        scopes: &[Scope],
        unstored: &[Conflict],
    ) -> Result<Vec<FoundConflict>, J::Error> {
        let mut found: Vec<FoundConflict> = Vec::new();
        for scope in scopes {
            found.extend(self.in_scope(scope)?);
        }
        let marked: BTreeSet<Ino> = found.iter().map(|found| found.conflict.ino).collect();
        for conflict in unstored.iter().filter(|conflict| !marked.contains(&conflict.ino)) {
            found.extend(self.unstored(conflict)?);
        }
        found.retain(|FoundConflict { path, of, .. }| {
            let is_in =
                |scope: &Scope| scope.has(path) || of.as_ref().is_some_and(|of| scope.has(of));
            scopes.iter().any(is_in)
        });
        found.sort_by(|one, other| (&one.path, &one.conflict).cmp(&(&other.path, &other.conflict)));
        // Scopes may overlap.
        found.dedup();
        Ok(found)
    }

    fn in_scope(&self, scope: &Scope) -> Result<Vec<FoundConflict>, J::Error> {
        let mut found = Vec::new();
        let mut entered = BTreeSet::from([scope.dir]);
        let mut ahead = vec![(scope.dir, scope.path.clone())];
        while let Some((dir, path)) = ahead.pop() {
            let names = self.names(dir)?;
            for ConflictFile { name, of, conflict } in self.beside(&names)? {
                let (path, of) = (joined_path(&path, &name), joined_path(&path, &of));
                found.push(FoundConflict { path, of: Some(of), conflict });
            }
            let below = names.into_iter().filter(|(_, (_, kind))| *kind == DIR);
            for (name, (ino, _)) in below.filter(|_| scope.name.is_none()) {
                if entered.insert(ino) {
                    ahead.push((ino, joined_path(&path, &name)));
                }
            }
        }
        Ok(found)
    }

    /// The files of a directory that stand beside another one of it.
    pub fn in_directory(&self, dir: Ino) -> Result<Vec<ConflictFile>, J::Error> {
        self.beside(&self.names(dir)?)
    }

    fn beside(&self, names: &Names) -> Result<Vec<ConflictFile>, J::Error> {
        let mut found = Vec::new();
        for (name, (ino, kind)) in names {
            let Some(version) = self.version_with_mark(names, name, *ino, *kind)? else { continue };
            let origin = version.1.history.content.origin(version.0);
            let marks = marks(name, self.number(*ino, origin) & 0xffff);
            let marked = Marked { name, ino: *ino, origin, marks };
            let counterpart = self.counterpart(names, &marked);
            let Some((of, kind)) = counterpart.or_else(|| self.kept_beside(names, name, *ino))
            else {
                continue;
            };
            let conflict = Conflict {
                ino: *ino,
                kind,
                of: if kind == ConflictKind::Version { names[of].0 } else { *ino },
                device: self.device(origin.writer)?,
                time: version.1.mtime,
            };
            found.push(ConflictFile { name: name.clone(), of: of.clone(), conflict });
        }
        Ok(found)
    }

    /// The file of this name, if its name may have a mark.
    fn version_with_mark(
        &self,
        names: &Names,
        name: &[u8],
        ino: Ino,
        kind: u32,
    ) -> Result<Option<Version>, J::Error> {
        // A side file goes with its database.
        let is_side = main_name(name).is_some_and(|main| names.contains_key(main));
        if kind == DIR || is_side || !may_be_marked(name) {
            return Ok(None);
        }
        self.version(ino)
    }

    /// The name beside which a file stands that somebody wrote to while another device's version took
    /// its place.
    fn kept_beside<'n>(
        &self,
        names: &'n Names,
        name: &[u8],
        ino: Ino,
    ) -> Option<(&'n Name, ConflictKind)> {
        let is_counterpart = |other: &Name, of: Ino| {
            let marks = marks(name, kept_number(self.ids, ino, of) & 0xffff);
            marks.iter().any(|mark| {
                mark.plain_names().any(|plain| plain == *other)
                    || name.len() >= CUT_FROM && mark.is_of(other)
            })
        };
        before_marks(name).find_map(|before| {
            let others = names.range(before.to_vec()..);
            let mut others = others.take_while(|(other, _)| other.starts_with(before));
            let found = others.find(|(other, (of, kind))| {
                *kind == FILE && *of != ino && is_counterpart(other, *of)
            });
            found.map(|(other, _)| (other, ConflictKind::Version))
        })
    }

    /// The name beside which a file stands, and what happened to the file.
    fn counterpart<'n>(
        &self,
        names: &'n Names,
        marked: &Marked<'_>,
    ) -> Option<(&'n Name, ConflictKind)> {
        if marked.marks.is_empty() {
            return None;
        }
        let is_other = |name: &Name, ino: Ino| name != marked.name && ino != marked.ino;
        let plain: Vec<Name> = marked.marks.iter().flat_map(Mark::plain_names).collect();
        let there = plain.iter().filter_map(|name| names.get_key_value(name));
        let is_cut = |name: &Name| marked.marks.iter().any(|mark| mark.is_of(name));
        let cut = names.iter().filter(|(name, _)| marked.name.len() >= CUT_FROM && is_cut(name));
        let named: Vec<(&Name, &(Ino, u32))> =
            there.chain(cut).filter(|(name, (ino, _))| is_other(name, *ino)).collect();
        // A version that lost has a number that no mount gives.
        if Writer::of(marked.ino).is_none() {
            let all = named.iter().copied().chain(names);
            let mut files = all.filter(|(_, (_, kind))| *kind != DIR);
            let is_version = |(_, (of, _)): &(&Name, &(Ino, u32))| self.is_loser(marked, *of);
            let by_number = files.find(is_version);
            let by_name = || named.iter().copied().find(|(_, (_, kind))| *kind != DIR);
            return by_number.or_else(by_name).map(|(name, _)| (name, ConflictKind::Version));
        }
        let database = plain.iter().filter_map(|name| names.get_key_value(main_name(name)?));
        let mut database = database;
        let database = database.find(|(_, (_, kind))| *kind == FILE);
        let apart = database.map(|(name, _)| (name, ConflictKind::Apart));
        apart.or_else(|| named.first().map(|(name, _)| (*name, ConflictKind::Name)))
    }

    fn number(&self, ino: Ino, origin: Dot) -> Ino {
        self.ids.loser_number(ino, &origin.writer.to_bytes(), origin.record)
    }

    /// Whether a file has the number that a version of the file `of` gets that loses.
    fn is_loser(&self, marked: &Marked<'_>, of: Ino) -> bool {
        let next = |number: &Ino| Some(self.number(*number, marked.origin));
        let mut numbers = std::iter::successors(next(&of), next).take(HASHES);
        numbers.any(|number| number == marked.ino)
    }

    // --- those that no head has stored

    /// Where such a conflict is, if it can be found.
    fn unstored(&self, conflict: &Conflict) -> Result<Option<FoundConflict>, J::Error> {
        // What another file stands for is not shown.
        let is_shown = conflict.kind != ConflictKind::Replaced;
        let tree = if is_shown { self.shown } else { self.stored };
        let Some(path) = Self::path(tree, conflict.ino)? else { return Ok(None) };
        let of = match conflict.of {
            of if of == conflict.ino => None,
            of => Self::path(self.shown, of)?,
        };
        Ok(Some(FoundConflict { path, of, conflict: conflict.clone() }))
    }

    /// The path of an inode by its lowest name; none if it hangs below nothing.
    fn path(tree: &J, ino: Ino) -> Result<Option<Vec<u8>>, J::Error> {
        let (mut path, mut at) = (Vec::new(), ino);
        let mut passed = BTreeSet::new();
        while at != ROOT {
            let name = Self::lowest_name(tree, at)?.filter(|_| passed.insert(at));
            let Some((dir, name)) = name else { return Ok(None) };
            path = if path.is_empty() { name } else { joined_path(&name, &path) };
            at = dir;
        }
        Ok(Some(path))
    }

    fn lowest_name(tree: &J, ino: Ino) -> Result<Option<Place>, J::Error> {
        let names = tree.scan(&Key::backs(ino), &Key::entries_from(ino, 0))?;
        Ok(names.into_iter().find_map(|(key, _)| match key {
            Key::Back(_, dir, name) => Some((dir, name)),
            _ => None,
        }))
    }

    // --- what is read

    fn names(&self, dir: Ino) -> Result<Names, J::Error> {
        let entries =
            self.shown.scan(&Key::entries_from(dir, 0), &Key::Recipe(dir).encode())?.into_iter();
        let name = |(key, mut values): (Key, super::Values)| match (key, values.pop()) {
            (Key::Entry(_, _, name), Some((_, Value::Entry(ino, kind)))) => {
                Some((name, (ino, kind)))
            }
            _ => None,
        };
        Ok(entries.filter_map(name).collect())
    }

    fn version(&self, ino: Ino) -> Result<Option<Version>, J::Error> {
        Ok(match self.shown.values(&Key::Inode(ino))?.pop() {
            Some((dot, Value::Inode(inode))) => Some((dot, inode.into())),
            _ => None,
        })
    }

    fn device(&self, writer: Writer) -> Result<Option<(DeviceId, String)>, J::Error> {
        Ok(match self.shown.values(&Key::Writer(writer))?.pop() {
            Some((_, Value::Writer(device, name))) => Some((device, name)),
            _ => None,
        })
    }
}
