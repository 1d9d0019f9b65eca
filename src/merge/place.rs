//! One place for every directory, and at least one for every file.

use std::collections::{BTreeMap, BTreeSet};

use super::Knot;
use super::loaded::Loaded;
use super::{Name, ROOT};
use crate::format::clock::Dot;
use crate::format::namespace::{Ino, Key, Value};

/// A name of an inode.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Link {
    pub dir: Ino,
    pub name: Name,
    pub ino: Ino,
}

/// Where everything has its place.
pub(super) struct Plan {
    /// All inodes, and whether each is a directory.
    pub dirs: BTreeMap<Ino, bool>,
    /// The names of each inode but the root; never none.
    pub links: BTreeMap<Ino, Vec<Link>>,
    /// Directories that hung in a cycle and hang in the root now.
    pub cycles: Vec<Ino>,
}

/// Names, each with the highest dot that says so.
type Claims = BTreeMap<Ino, Vec<(Dot, Link)>>;

/// Names by entries, and names by back references.
fn claims(loaded: &Loaded<'_>, dirs: &BTreeMap<Ino, bool>) -> (Claims, Claims) {
    let (mut entries, mut backs) = (Claims::new(), Claims::new());
    for (key, values) in &loaded.items {
        match key {
            Key::Entry(dir, _, name) => {
                let mut highest: BTreeMap<Ino, Dot> = BTreeMap::new();
                for (dot, value) in values {
                    if let Value::Entry(ino, _) = value {
                        highest.insert(*ino, *dot);
                    }
                }
                let is_dir = dirs.get(dir) == Some(&true);
                highest.retain(|ino, _| is_dir && *ino != ROOT && dirs.contains_key(ino));
                for (ino, dot) in highest {
                    let link = Link { dir: *dir, name: name.clone(), ino };
                    entries.entry(ino).or_default().push((dot, link));
                }
            }
            Key::Back(ino, dir, name) if dirs.contains_key(ino) => {
                let dot = values.last().expect("no key is without a value").0;
                let link = Link { dir: *dir, name: name.clone(), ino: *ino };
                backs.entry(*ino).or_default().push((dot, link));
            }
            _ => {}
        }
    }
    (entries, backs)
}

/// The places; what hangs together by them goes into `ties`.
pub(super) fn place(loaded: &Loaded<'_>, ties: &mut Vec<(Knot, Knot)>) -> Plan {
    let is_dir = |(ino, all): (&Ino, &Vec<_>)| {
        let last: &super::loaded::Version = all.last().expect("an inode has a record");
        (*ino, last.1.is_dir())
    };
    let mut dirs: BTreeMap<Ino, bool> = loaded.records.iter().map(is_dir).collect();
    dirs.insert(ROOT, true);
    let (mut entries, backs) = claims(loaded, &dirs);
    let mut links: BTreeMap<Ino, Vec<Link>> = BTreeMap::new();
    let mut nameless: BTreeSet<Ino> = BTreeSet::new();
    for (&ino, &dir) in dirs.iter().filter(|(ino, _)| **ino != ROOT) {
        let mut own = entries.remove(&ino).unwrap_or_default();
        if own.is_empty() {
            nameless.insert(ino);
            if dir {
                loaded.request_entries(ino);
            }
            let known = backs.get(&ino).map_or(&[][..], Vec::as_slice);
            own = again(loaded, ino, known, &dirs);
        }
        if dir {
            own = own.into_iter().max().into_iter().collect();
        }
        let mut own: Vec<Link> = own.into_iter().map(|(_, link)| link).collect();
        own.sort();
        links.insert(ino, own);
    }
    drop_empty(&mut links, &dirs, &nameless);
    let cycles = cut_cycles(loaded, &mut links, &dirs, ties);
    dirs.retain(|ino, _| *ino == ROOT || links.contains_key(ino));
    Plan { dirs, links, cycles }
}

/// The names of an inode without entries: the change that kept it alive kept its back
/// references too.
fn again(
    loaded: &Loaded<'_>,
    ino: Ino,
    known: &[(Dot, Link)],
    dirs: &BTreeMap<Ino, bool>,
) -> Vec<(Dot, Link)> {
    let mut own: Vec<(Dot, Link)> =
        known.iter().filter(|(_, link)| dirs.get(&link.dir) == Some(&true)).cloned().collect();
    // As whoever stamped it last knew it.
    let last = own.iter().map(|(dot, _)| *dot).max();
    own.retain(|(dot, _)| Some(*dot) == last);
    if own.is_empty() {
        // No parent lives: under the root, with its plain name.
        let name = known.iter().map(|(_, link)| (link.dir, &link.name)).min();
        let name =
            name.map_or_else(|| format!("inode {ino:x}").into_bytes(), |(_, name)| name.clone());
        let dot = loaded.records[&ino].last().expect("an inode has a record").0;
        own = vec![(dot, Link { dir: ROOT, name, ino })];
    }
    for (_, link) in &own {
        loaded.request_name(link.dir, &link.name);
    }
    own
}

/// A directory without a name in which nothing is shown is not shown: only its times outlived
/// it.
fn drop_empty(
    links: &mut BTreeMap<Ino, Vec<Link>>,
    dirs: &BTreeMap<Ino, bool>,
    nameless: &BTreeSet<Ino>,
) {
    loop {
        let used: BTreeSet<Ino> = links.values().flatten().map(|link| link.dir).collect();
        let is_gone = |ino: &&Ino| dirs[ino] && !used.contains(ino) && links.contains_key(ino);
        let gone: Vec<Ino> = nameless.iter().filter(is_gone).copied().collect();
        if gone.is_empty() {
            return;
        }
        for ino in &gone {
            links.remove(ino);
        }
    }
}

/// Directories that do not hang below the root hang in a cycle: its lowest goes under the
/// root.
fn cut_cycles(
    loaded: &Loaded<'_>,
    links: &mut BTreeMap<Ino, Vec<Link>>,
    dirs: &BTreeMap<Ino, bool>,
    ties: &mut Vec<(Knot, Knot)>,
) -> Vec<Ino> {
    let all: Vec<Ino> = links.keys().copied().filter(|ino| dirs[ino]).collect();
    let mut safe: BTreeSet<Ino> = BTreeSet::from([ROOT]);
    let mut cut = Vec::new();
    for start in all {
        let (mut path, mut at) = (Vec::new(), start);
        while !safe.contains(&at) && !path.contains(&at) {
            path.push(at);
            at = links[&at][0].dir;
        }
        if !safe.contains(&at) {
            let from = path.iter().position(|ino| *ino == at).expect("it is on the way");
            let lowest = *path[from..].iter().min().expect("a cycle has members");
            ties.extend(path[from..].iter().map(|ino| (Knot::Ino(lowest), Knot::Ino(*ino))));
            let link = &mut links.get_mut(&lowest).expect("a directory has a place")[0];
            link.dir = ROOT;
            loaded.request_name(ROOT, &link.name);
            cut.push(lowest);
        }
        safe.extend(path);
    }
    cut
}
