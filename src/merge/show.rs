//! What a joined namespace comes to: total over every map, always a tree. It also says which
//! inodes and names hang together, so that repairs fall into groups.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::files::{Files, attributes, origin, same_attributes, same_bytes, same_xattrs};
use super::loaded::{Loaded, Version};
use super::place::{Link, Plan, place};
use super::{Conflict, ConflictKind, Knot, Name, Place, ROOT, names, sides};
use crate::format::clock::Dot;
use crate::format::namespace::{Ino, Key};
use crate::format::side_files::{SIDE_SUFFIXES, main_name};

/// What a name shows.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// A directory; of united ones the lowest, which gives its number and attributes.
    Dir,
    /// A file; of equal files behind one name the lowest.
    File,
    /// A version of the file `of` that lost.
    Loser { of: Ino, version: Version },
}

/// A name that is shown.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub ino: Ino,
    pub what: What,
}

/// What is shown.
#[derive(Default)]
pub(super) struct Tree {
    pub entries: BTreeMap<Place, Shown>,
    /// Pairs that hang together.
    pub ties: Vec<(Knot, Knot)>,
    /// The version that each file shows under its own number.
    pub best: BTreeMap<Ino, Version>,
    /// Versions of databases that have side files: inode, origin.
    pub bound: BTreeSet<(Ino, Dot)>,
    /// Of side files that are shown: the file that shows their database, and its version.
    pub mains: BTreeMap<Ino, (Ino, Dot)>,
    /// Inodes that stand for a dropped one, or for a dropped value: they are stamped when it
    /// is dropped.
    pub heirs: BTreeSet<Ino>,
    pub conflicts: Vec<Conflict>,
}

/// Something that is to be named after all plain names.
struct Loser {
    dir: Ino,
    /// The name for which it is too late.
    plain: Name,
    wanted: Name,
    ino: Ino,
    what: What,
}

/// The files that claim one name with one content.
struct Claim {
    version: Version,
    links: Vec<Link>,
}

/// What the joined namespace shows.
pub(super) fn show(loaded: &Loaded<'_>) -> Tree {
    let mut tree = Tree::default();
    let mut plan = place(loaded, &mut tree.ties);
    let files = Files::read(loaded);
    sides::keep_names(loaded, &files, &mut plan);
    drop_given_names(loaded, &files, &mut plan);
    let is_shown = |ino: &Ino| Some((*ino, files.best(*ino)?.clone()));
    tree.best = plan.dirs.keys().filter_map(is_shown).collect();
    tree.bound.clone_from(&files.bound);
    let mut builder = Builder {
        loaded,
        plan: &plan,
        files: &files,
        united: BTreeMap::new(),
        losers: Vec::new(),
        tree,
    };
    builder.directories();
    builder.versions();
    for ino in &plan.cycles {
        builder.report(ConflictKind::Cycle, *ino, *ino, None);
    }
    builder.name_losers();
    let Builder { united, mut tree, .. } = builder;
    let canon = |dir: Ino| united.get(&dir).copied().unwrap_or(dir);
    sides::set_apart(loaded, &files, &mut tree);
    sides::pair_up(loaded, &plan, &files, &canon, &mut tree);
    tree
}

/// Drops names that a repair gave to a file, if the maker of the version that is shown knew another
/// name of the file and not this one. Otherwise two devices that each stored the other's file under
/// such a name would leave both files with two names.
fn drop_given_names(loaded: &Loaded<'_>, files: &Files, plan: &mut Plan) {
    for (ino, links) in plan.links.iter_mut().filter(|(_, links)| links.len() > 1) {
        let Some((dot, _)) = files.best(*ino) else { continue };
        let is_known =
            |link: &Link| loaded.is_name_of(link.ino, (link.dir, &link.name), dot.writer);
        let is_given = |link: &Link| names::has_mark(&link.name);
        if links.iter().any(|link| is_known(link) && !is_given(link)) {
            links.retain(|link| is_known(link) || !is_given(link));
        }
    }
}

struct Builder<'a> {
    loaded: &'a Loaded<'a>,
    plan: &'a Plan,
    files: &'a Files,
    /// Of a directory that is united with a lower one: that one.
    united: BTreeMap<Ino, Ino>,
    losers: Vec<Loser>,
    tree: Tree,
}

impl Builder<'_> {
    /// From the root on: what stands under each name.
    fn directories(&mut self) {
        let mut children: BTreeMap<Ino, Vec<&Link>> = BTreeMap::new();
        for link in self.plan.links.values().flatten() {
            children.entry(link.dir).or_default().push(link);
        }
        let mut queue = vec![vec![ROOT]];
        while let Some(group) = queue.pop() {
            let dir = group[0];
            for member in &group[1..] {
                self.united.insert(*member, dir);
                self.tree.heirs.insert(dir);
                self.tree.ties.push((Knot::Ino(dir), Knot::Ino(*member)));
            }
            let mut names: BTreeMap<&Name, Vec<Link>> = BTreeMap::new();
            for member in &group {
                if group.len() > 1 {
                    self.loaded.request_entries(*member);
                }
                for link in children.get(member).into_iter().flatten() {
                    names.entry(&link.name).or_default().push((*link).clone());
                    if group.len() > 1 {
                        let own = |knot| (Knot::Ino(dir), knot);
                        self.tree.ties.push(own(Knot::Ino(link.ino)));
                        self.tree.ties.push(own(Knot::Name(dir, link.name.clone())));
                        self.tree.ties.push(own(Knot::Name(*member, link.name.clone())));
                    }
                }
            }
            for (name, links) in names {
                queue.extend(self.name(dir, name, &links));
            }
        }
    }

    /// What stands under one name. Returns the directories that it unites.
    fn name(&mut self, dir: Ino, name: &Name, links: &[Link]) -> Option<Vec<Ino>> {
        if links.len() > 1 {
            let tie = |link: &Link| (Knot::Name(dir, name.clone()), Knot::Ino(link.ino));
            self.tree.ties.extend(links.iter().map(tie));
        }
        let is_dir = |link: &&Link| self.plan.dirs[&link.ino];
        let mut dirs: Vec<Ino> = links.iter().filter(is_dir).map(|link| link.ino).collect();
        dirs.sort_unstable();
        let mut claims = self.claims(links);
        for claim in &mut claims {
            claim.links.sort_by(|one, other| (one.ino, one).cmp(&(other.ino, other)));
            let first = claim.links[0].ino;
            if claim.links.iter().any(|link| link.ino != first) {
                self.tree.heirs.insert(first);
            }
        }
        claims.sort_by_key(|claim| Reverse((claim.version.1.mtime, claim.links[0].ino)));
        if let Some(first) = dirs.first() {
            let shown = Shown { ino: *first, what: What::Dir };
            self.tree.entries.insert((dir, name.clone()), shown);
        }
        for (at, claim) in claims.into_iter().enumerate() {
            let ino = claim.links[0].ino;
            if at == 0 && dirs.is_empty() {
                self.tree.entries.insert((dir, name.clone()), Shown { ino, what: What::File });
            } else {
                self.lose(dir, name, ino, &claim.version, What::File);
                self.report(ConflictKind::Name, ino, ino, Some(&claim.version));
            }
        }
        (!dirs.is_empty()).then_some(dirs)
    }

    /// The files that claim a name, equal ones together.
    fn claims(&mut self, links: &[Link]) -> Vec<Claim> {
        let mut all: Vec<(Link, Version)> = Vec::new();
        for link in links.iter().filter(|link| !self.plan.dirs[&link.ino]) {
            // A side file goes where its database goes.
            if self.files.first.contains_key(&link.ino) && main_name(&link.name).is_some() {
                continue;
            }
            if let Some(version) = self.files.best(link.ino) {
                all.push((link.clone(), version.clone()));
            }
        }
        // A file that another claimant was renamed over is an older version of it. A database stays if
        // somebody took a side file away from it and kept that: it is shown with the database only.
        let is_over = |(link, version): &(Link, Version)| {
            let from = origin(version);
            if self.files.shows_for_others.contains(&(link.ino, from)) {
                return false;
            }
            let by = |(_, other): &(Link, Version)| {
                let over = &other.1.history.over;
                over.iter().any(|(ino, runs)| *ino == link.ino && runs.contain(from))
            };
            all.iter().any(by) && self.files.plain.get(&link.ino).is_some_and(|v| v.len() == 1)
        };
        let (over, mut left): (Vec<_>, Vec<_>) = all.iter().cloned().partition(is_over);
        if left.is_empty() {
            left.clone_from(&all);
        } else {
            for (link, version) in &over {
                self.report(ConflictKind::Replaced, link.ino, link.ino, Some(version));
            }
        }
        let mut claims: Vec<Claim> = Vec::new();
        for (link, version) in left {
            match claims.iter_mut().find(|claim| self.alike(claim, &link, &version)) {
                Some(claim) => claim.links.push(link),
                None => claims.push(Claim { version, links: vec![link] }),
            }
        }
        claims
    }

    /// Whether a file is one of those of a claim.
    fn alike(&self, claim: &Claim, link: &Link, version: &Version) -> bool {
        let (ino, other) = (link.ino, claim.links[0].ino);
        if ino == other {
            return true;
        }
        let is_plain = |ino| self.loaded.opaque(ino).next().is_none() && !self.files.has_sides(ino);
        let attributes = |ino: Ino| attributes(&self.loaded.records[&ino]).1;
        same_bytes(&claim.version.1, &version.1)
            && same_attributes(&attributes(other), &attributes(ino))
            && same_xattrs(self.loaded, other, ino)
            && is_plain(other)
            && is_plain(ino)
    }

    /// Versions that lost against another one of their file.
    fn versions(&mut self) {
        for (ino, _) in self.plan.dirs.iter().filter(|(_, is_dir)| !**is_dir) {
            let canon = |dir: Ino| self.united.get(&dir).copied().unwrap_or(dir);
            let names =
                self.plan.links[ino].iter().map(|link| (canon(link.dir), link.name.clone()));
            let (dir, name) = names.min().expect("an inode has a name");
            let own = usize::from(!self.files.first.contains_key(ino));
            for version in self.files.plain.get(ino).into_iter().flatten().skip(own) {
                let (number, is_stored) =
                    loser_number(self.loaded, self.files, *ino, origin(version));
                self.tree.ties.push((Knot::Ino(*ino), Knot::Ino(number)));
                // Somebody stored it already: it is that file.
                if is_stored {
                    self.tree.heirs.insert(number);
                    continue;
                }
                let what = What::Loser { of: *ino, version: version.clone() };
                self.lose(dir, &name, number, version, what);
                self.report(ConflictKind::Version, number, *ino, Some(version));
            }
        }
    }

    fn lose(&mut self, dir: Ino, plain: &Name, ino: Ino, version: &Version, what: What) {
        let wanted = names::loser(self.loaded, plain, ino, origin(version), version.1.mtime);
        self.losers.push(Loser { dir, plain: plain.clone(), wanted, ino, what });
    }

    /// Gives losers names that nobody has.
    fn name_losers(&mut self) {
        let mut losers = std::mem::take(&mut self.losers);
        losers.sort_by(|one, other| {
            (one.dir, &one.wanted, one.ino).cmp(&(other.dir, &other.wanted, other.ino))
        });
        for Loser { dir, plain, wanted, ino, what } in losers {
            self.tree.ties.push((Knot::Name(dir, plain), Knot::Ino(ino)));
            put(self.loaded, &mut self.tree, dir, &wanted, Shown { ino, what });
        }
    }

    fn report(&mut self, kind: ConflictKind, ino: Ino, of: Ino, version: Option<&Version>) {
        self.tree.report(self.loaded, kind, (ino, of), version);
    }
}

impl Tree {
    /// Notes what people should look at. Of a directory the newest record counts.
    pub fn report(
        &mut self,
        loaded: &Loaded<'_>,
        kind: ConflictKind,
        (ino, of): (Ino, Ino),
        version: Option<&Version>,
    ) {
        let last = || loaded.records.get(&of).and_then(|all| all.last());
        let Some(version) = version.or_else(last) else { return };
        let device = loaded.device(origin(version).writer);
        self.conflicts.push(Conflict { ino, kind, of, device, time: version.1.mtime });
    }
}

/// The number of a version as a file of its own, and whether somebody stored it as that. A
/// number that another file has is hashed again. A side file that was stored goes with a version of
/// its database: where that was replaced, the stored file is not shown, and does not stand for
/// what else has this version.
pub(super) fn loser_number(loaded: &Loaded<'_>, files: &Files, of: Ino, from: Dot) -> (Ino, bool) {
    let mut number = loaded.loser_number(of, from);
    while let Some(all) = loaded.record(number) {
        let is_it =
            |version: &Version| origin(version) == from || version.1.history.content.contain(from);
        if all.iter().any(is_it) {
            return (number, files.are_shown(number));
        }
        number = loaded.loser_number(number, from);
    }
    (number, false)
}

/// Shows something under a name, or with a number in it if the name is taken. Under its new
/// name it stands beside no database, and no file beside it.
pub(super) fn put(
    loaded: &Loaded<'_>,
    tree: &mut Tree,
    dir: Ino,
    wanted: &[u8],
    shown: Shown,
) -> Name {
    let is_there = |tree: &Tree, name: &[u8]| {
        loaded.request_name(dir, name);
        tree.entries.contains_key(&(dir, name.to_vec()))
    };
    let is_taken = |tree: &Tree, name: &[u8]| {
        let beside = SIDE_SUFFIXES.iter().map(|suffix| [name, suffix].concat());
        is_there(tree, name)
            || match main_name(name) {
                Some(main) => is_there(tree, main),
                None => beside.into_iter().any(|side| is_there(tree, &side)),
            }
    };
    let mut name = wanted.to_vec();
    for number in 2.. {
        if !is_taken(tree, &name) {
            break;
        }
        name = names::numbered(wanted, number);
    }
    tree.ties.push((Knot::Name(dir, name.clone()), Knot::Ino(shown.ino)));
    tree.entries.insert((dir, name.clone()), shown);
    name
}

/// Whether a key is of a kind that is kept as it is.
pub(super) fn is_opaque(key: &Key) -> bool {
    matches!(key, Key::Opaque(..) | Key::Recipe(_))
}
