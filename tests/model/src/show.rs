//! What a joined map comes to: a pure function, total over every map, always a tree. Only `repair` uses it.
//! It also says which inodes and names hang together, so that repairs fall into groups.

use crate::map::*;
use crate::rules::{Off, Rule};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A name of an inode.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Link {
    pub dir: Ino,
    pub name: Name,
    pub ino: Ino,
}

#[derive(Clone, Debug)]
pub enum What {
    /// A directory; of united ones the lowest, which gives its number and attributes.
    Dir,
    /// A file; of equal files behind one name the lowest.
    File,
    /// A losing content of the inode `of`.
    Loser { of: Ino, dot: Dot, rec: Rc<Rec> },
}

#[derive(Clone, Debug)]
pub struct Shown {
    pub dir: Ino,
    pub name: Name,
    pub ino: Ino,
    pub what: What,
}

/// What may hang together: an inode, or a name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Knot {
    Ino(Ino),
    Name(Ino, Name),
}

#[derive(Default, Debug)]
pub struct Tree {
    /// Entries by (directory, name).
    pub entries: BTreeMap<(Ino, Name), Shown>,
    /// Pairs that hang together.
    pub ties: Vec<(Knot, Knot)>,
    /// The value that each file shows under its own number.
    pub best: BTreeMap<Ino, (Dot, Rc<Rec>)>,
    /// Versions of databases that have side files: inode, origin.
    pub bound: BTreeSet<(Ino, Dot)>,
    /// Of side files that are shown: the file that shows their database, and its version.
    pub mains: BTreeMap<Ino, (Ino, Dot)>,
    /// Inodes that stand for a dropped one, or for a dropped value: they are stamped when it is dropped.
    pub heirs: BTreeSet<Ino>,
}

/// The number of a losing version, before and after it is stored as a file. It depends on what does not change when
/// the value is stamped or cut again.
pub fn loser_ino(of: Ino, from: Dot) -> Ino {
    (hash64(&(of, from)) | 1 << 62) & !(1 << 63)
}

/// The name of a loser does not depend on who else is there (the program writes device and date before the digits:
/// `chat (from LAPTOP, 2026-11-28 3f2a).db`).
fn loser_name(name: &Name, ino: Ino, dot: Dot) -> String {
    format!("{name} (from {} {:04x})", dot.writer, hash64(&(ino, dot)) & 0xffff)
}

pub fn recs(vals: &Vals) -> Vec<(Dot, Rc<Rec>)> {
    vals.iter()
        .filter_map(|(d, v)| if let Val::Inode(r) = v { Some((*d, r.clone())) } else { None })
        .collect()
}

/// The values that no other value replaced, by one of the two versions lists.
fn unreplaced(all: &[(Dot, Rc<Rec>)], list: impl Fn(&Rec) -> &Versions) -> Vec<(Dot, Rc<Rec>)> {
    let replaced =
        |a: &&(Dot, Rc<Rec>)| all.iter().any(|b| replaces((b.0, list(&b.1)), (a.0, list(&a.1))));
    let left: Vec<_> = all.iter().filter(|a| !replaced(a)).cloned().collect();
    if left.is_empty() { all.to_vec() } else { left }
}

/// The distinct contents of a file's values that nobody replaced: the winner first.
pub fn contents(vals: &Vals) -> Vec<(Dot, Rc<Rec>)> {
    versions(&recs(vals), |_| false)
}

/// The distinct contents of `all` that no other version replaced: the winner first. Two versions with
/// equal bytes count as one, unless `bound` is true of the origin of one of them.
fn versions(all: &[(Dot, Rc<Rec>)], bound: impl Fn(Dot) -> bool) -> Vec<(Dot, Rc<Rec>)> {
    let mut left = unreplaced(all, |r| &r.history);
    left.sort_by_key(|(d, r)| std::cmp::Reverse((r.mtime, origin(*d, &r.history), *d)));
    let mut out: Vec<(Dot, Rc<Rec>)> = Vec::new();
    for v in left {
        let from = origin(v.0, &v.1.history);
        let same = |o: &(Dot, Rc<Rec>)| {
            let of = origin(o.0, &o.1.history);
            of == from || o.1.chunks == v.1.chunks && !bound(of) && !bound(from)
        };
        if !out.iter().any(same) {
            out.push(v);
        }
    }
    out
}

/// A side file as it goes with a version of its database.
struct Side {
    ino: Ino,
    main: Ino,
    /// The origin of the database's version.
    from: Dot,
    dot: Dot,
    rec: Rc<Rec>,
}

/// What the values of each file come to.
#[derive(Default)]
struct Files {
    /// Versions that are shown by themselves, the winner first.
    plain: BTreeMap<Ino, Vec<(Dot, Rc<Rec>)>>,
    /// Side files of versions that are shown.
    sides: Vec<Side>,
    /// Of those the one that has its file's own number.
    first: BTreeMap<Ino, usize>,
    bound: BTreeSet<(Ino, Dot)>,
    /// Versions of databases with which side files are shown that somebody else has apart from them.
    shows_for_others: BTreeSet<(Ino, Dot)>,
}

impl Files {
    fn read(state: &State, off: Off) -> Files {
        let mut all: BTreeMap<Ino, Vec<(Dot, Rc<Rec>)>> = BTreeMap::new();
        for (key, vals) in &state.items {
            if let Key::Inode(i) = key {
                let values = recs(vals);
                if values.last().is_some_and(|v| !v.1.dir) {
                    all.insert(*i, values);
                }
            }
        }
        let side = |i: &Ino| off.on(Rule::pairs) && all[i].iter().any(|v| v.1.main.is_some());
        // The version of a database that a value goes with, if anything is known of it.
        let known = |v: &(Dot, Rc<Rec>)| {
            let (main, from) = v.1.main.filter(|_| off.on(Rule::pairs))?;
            let knows = |d: &(Dot, Rc<Rec>)| {
                origin(d.0, &d.1.history) == from || d.1.history.iter().any(|r| r.has(from))
            };
            let values = all.get(&main).filter(|_| !side(&main))?;
            values.iter().any(knows).then_some((main, from))
        };
        let mut out =
            Files { bound: all.values().flatten().filter_map(known).collect(), ..Files::default() };
        for (i, values) in all.iter().filter(|x| !side(x.0)) {
            out.plain.insert(*i, versions(values, |from| out.bound.contains(&(*i, from))));
        }
        for (i, values) in all.iter().filter(|x| side(x.0)) {
            let mut own: BTreeMap<(Ino, Dot), (Dot, Rc<Rec>)> = BTreeMap::new();
            for v in values {
                if let Some(to) = known(v) {
                    own.insert(to, v.clone());
                }
            }
            // With a version that was replaced its side files were.
            let shown = |main: &Ino, from: &Dot| {
                out.plain[main].iter().position(|v| origin(v.0, &v.1.history) == *from)
            };
            let own: Vec<(usize, Side)> = own
                .into_iter()
                .filter_map(|((main, from), (dot, rec))| {
                    Some((shown(&main, &from)?, Side { ino: *i, main, from, dot, rec }))
                })
                .collect();
            let loose: Vec<_> = values.iter().filter(|v| known(v).is_none()).cloned().collect();
            let mut loose = versions(&loose, |_| false);
            let is_loose = |from| loose.iter().any(|v| origin(v.0, &v.1.history) == from);
            let for_others = own.iter().filter(|s| is_loose(origin(s.1.dot, &s.1.rec.history)));
            out.shows_for_others.extend(for_others.map(|s| (s.1.main, s.1.from)));
            loose.retain(|a| {
                let over = |s: &Side| {
                    replaces((s.dot, &s.rec.history), (a.0, &a.1.history))
                        || origin(s.dot, &s.rec.history) == origin(a.0, &a.1.history)
                };
                !own.iter().any(|s| over(&s.1))
            });
            if !loose.is_empty() {
                out.plain.insert(*i, loose);
            }
            let first = own.iter().filter(|s| s.0 == 0).map(|s| s.1.dot).max();
            for (place, s) in own {
                if place == 0 && Some(s.dot) == first {
                    out.first.insert(*i, out.sides.len());
                }
                out.sides.push(s);
            }
        }
        out
    }

    /// The value under a file's own number.
    fn best(&self, ino: Ino) -> Option<(Dot, Rc<Rec>)> {
        match self.first.get(&ino) {
            Some(n) => Some((self.sides[*n].dot, self.sides[*n].rec.clone())),
            None => self.plain.get(&ino).map(|v| v[0].clone()),
        }
    }
}

/// The value with the newest attributes.
pub fn attributes(vals: &Vals) -> (Dot, Rc<Rec>) {
    let left = unreplaced(&recs(vals), |r| &r.attrs);
    left.into_iter()
        .max_by_key(|(d, r)| (r.ctime, origin(*d, &r.attrs), *d))
        .expect("an inode has a value")
}

/// The value of an attribute that counts: of those that nobody replaced the highest dot.
pub fn xattr(vals: &Vals, off: Off) -> (Dot, Option<u32>, Versions) {
    let all: Vec<(Dot, Option<u32>, Versions)> = vals
        .iter()
        .filter_map(
            |(d, v)| if let Val::Xattr(x, runs) = v { Some((*d, *x, runs.clone())) } else { None },
        )
        .collect();
    let replaced =
        |a: &&(Dot, Option<u32>, Versions)| all.iter().any(|b| replaces((b.0, &b.2), (a.0, &a.2)));
    let left =
        all.iter().filter(|a| !off.on(Rule::xattr_versions) || !replaced(a)).max_by_key(|a| a.0);
    left.or(all.last()).cloned().expect("an attribute has a value")
}

pub fn xattrs(state: &State, ino: Ino, off: Off) -> Vec<(u8, u32)> {
    let range = Key::Xattr(ino, 0)..=Key::Xattr(ino, u8::MAX);
    let one = |(k, v): (&Key, &Vals)| match k {
        Key::Xattr(_, n) => xattr(v, off).1.map(|x| (*n, x)),
        _ => None,
    };
    state.items.range(range).filter_map(one).collect()
}

struct Plan {
    dirs: BTreeMap<Ino, bool>,
    links: BTreeMap<Ino, Vec<Link>>,
}

/// One place for every directory, at least one for every file.
fn place(state: &State, off: Off, ties: &mut Vec<(Knot, Knot)>) -> Plan {
    let mut dirs = BTreeMap::new();
    for (key, vals) in &state.items {
        if let (Key::Inode(i), Some((_, Val::Inode(r)))) = (key, vals.last()) {
            dirs.insert(*i, r.dir);
        }
    }
    let is_dir = |i: Ino| dirs.get(&i) == Some(&true) || i == ROOT;
    // Names by entries, and by back references, each with the highest dot that says so.
    let mut entries: BTreeMap<Ino, Vec<(Dot, Link)>> = BTreeMap::new();
    let mut backs: BTreeMap<Ino, Vec<(Dot, Link)>> = BTreeMap::new();
    for (key, vals) in &state.items {
        match key {
            Key::Entry(d, n) => {
                let mut claims: BTreeMap<Ino, Dot> = BTreeMap::new();
                for (dot, v) in vals {
                    if let Val::Entry(i) = v {
                        claims.insert(*i, *dot);
                    }
                }
                for (ino, dot) in claims {
                    if dirs.contains_key(&ino) && is_dir(*d) && ino != ROOT {
                        entries
                            .entry(ino)
                            .or_default()
                            .push((dot, Link { dir: *d, name: n.clone(), ino }));
                    }
                }
            }
            Key::Back(ino, d, n) if dirs.contains_key(ino) => {
                let dot = vals.last().expect("never empty").0;
                backs
                    .entry(*ino)
                    .or_default()
                    .push((dot, Link { dir: *d, name: n.clone(), ino: *ino }));
            }
            _ => {}
        }
    }
    let mut links: BTreeMap<Ino, Vec<Link>> = BTreeMap::new();
    let mut nameless: BTreeSet<Ino> = BTreeSet::new();
    for (&ino, &dir) in &dirs {
        if ino == ROOT {
            continue;
        }
        let mut own = entries.remove(&ino).unwrap_or_default();
        if own.is_empty() {
            // Nameless: the change that kept it alive kept its back references too.
            nameless.insert(ino);
            let known = backs.get(&ino).cloned().unwrap_or_default();
            own = known.iter().filter(|l| is_dir(l.1.dir)).cloned().collect();
            // As whoever stamped it last knew it.
            let last = own.iter().map(|l| l.0).max();
            own.retain(|l| Some(l.0) == last);
            if own.is_empty() {
                // No living parent: under the root, with its plain name.
                let name =
                    known.iter().min_by_key(|l| (&l.1.dir, &l.1.name)).map(|l| l.1.name.clone());
                let name = name.unwrap_or_else(|| Rc::from(format!("inode {ino:x}")));
                own = vec![(Dot { writer: 0, count: 0 }, Link { dir: ROOT, name, ino })];
            }
        }
        if !dir && !off.on(Rule::nameless_only) {
            for l in backs.get(&ino).into_iter().flatten() {
                if is_dir(l.1.dir) && !own.iter().any(|o| o.1 == l.1) {
                    own.push(l.clone());
                }
            }
        }
        if dir && own.len() > 1 {
            own = vec![own.into_iter().max().expect("not empty")];
        }
        let mut own: Vec<Link> = own.into_iter().map(|l| l.1).collect();
        own.sort();
        links.insert(ino, own);
    }
    // A directory without a name in which nothing is shown is not shown: only its times outlived it.
    if off.on(Rule::empty_nameless) {
        loop {
            let used: BTreeSet<Ino> = links.values().flatten().map(|l| l.dir).collect();
            let gone = nameless
                .iter()
                .copied()
                .find(|i| dirs[i] && !used.contains(i) && links.contains_key(i));
            let Some(gone) = gone else { break };
            links.remove(&gone);
        }
    }
    // Directories that do not hang below the root hang in a cycle: its lowest goes under the root.
    let all: Vec<Ino> = links.keys().copied().filter(|i| dirs[i]).collect();
    let mut safe: BTreeSet<Ino> = BTreeSet::from([ROOT]);
    for start in all {
        let (mut path, mut at) = (Vec::new(), start);
        while !safe.contains(&at) && !path.contains(&at) {
            path.push(at);
            at = links[&at][0].dir;
        }
        if !safe.contains(&at) {
            let from = path.iter().position(|p| *p == at).expect("a cycle");
            let lowest = *path[from..].iter().min().expect("not empty");
            ties.extend(path[from..].iter().map(|p| (Knot::Ino(lowest), Knot::Ino(*p))));
            links.get_mut(&lowest).expect("placed")[0].dir = ROOT;
        }
        safe.extend(path);
    }
    dirs.retain(|i, _| *i == ROOT || links.contains_key(i));
    Plan { dirs, links }
}

pub fn show(state: &State, off: Off) -> Tree {
    let mut tree = Tree::default();
    let mut plan = place(state, off, &mut tree.ties);
    let all = Files::read(state, off);
    // A database with side files has the names that whoever wrote its version last saw: their back references
    // were written with it. Under another name it would stand without them.
    for side in all.sides.iter().filter(|s| all.first.contains_key(&s.ino)) {
        let values = state.inode(side.main).map(recs).unwrap_or_default();
        let own = |v: &&(Dot, Rc<Rec>)| origin(v.0, &v.1.history) == side.from;
        let last = values.iter().filter(own).map(|v| v.0).max();
        let seen = |l: &Link| {
            let back = state.items.get(&Key::Back(l.ino, l.dir, l.name.clone()));
            back.into_iter().flatten().any(|b| last.is_some_and(|l| l.writer == b.0.writer))
        };
        let Some(links) = plan.links.get_mut(&side.main) else { continue };
        if links.iter().any(seen) {
            links.retain(seen);
        } else {
            links.truncate(1);
        }
    }
    tree.best = plan.dirs.keys().filter_map(|i| Some((*i, all.best(*i)?))).collect();
    tree.bound = all.bound.clone();
    let mut children: BTreeMap<Ino, Vec<Link>> = BTreeMap::new();
    for link in plan.links.values().flatten() {
        children.entry(link.dir).or_default().push(link.clone());
    }
    let mut united: BTreeMap<Ino, Ino> = BTreeMap::new();
    let mut queue = vec![vec![ROOT]];
    // Losing names and versions, to be named after all plain names: directory, plain name, wanted name, number.
    let mut losers: Vec<(Ino, Name, String, Ino, What)> = Vec::new();
    while let Some(group) = queue.pop() {
        let dir = group[0];
        for m in &group[1..] {
            united.insert(*m, dir);
            tree.heirs.insert(dir);
            tree.ties.push((Knot::Ino(dir), Knot::Ino(*m)));
        }
        let mut names: BTreeMap<Name, Vec<Link>> = BTreeMap::new();
        for m in &group {
            for link in children.get(m).into_iter().flatten() {
                names.entry(link.name.clone()).or_default().push(link.clone());
                if group.len() > 1 {
                    tree.ties.push((Knot::Ino(dir), Knot::Ino(link.ino)));
                    tree.ties.push((Knot::Ino(dir), Knot::Name(dir, link.name.clone())));
                    tree.ties.push((Knot::Ino(dir), Knot::Name(*m, link.name.clone())));
                }
            }
        }
        for (name, links) in names {
            if links.len() > 1 {
                tree.ties.extend(
                    links.iter().map(|l| (Knot::Name(dir, name.clone()), Knot::Ino(l.ino))),
                );
            }
            let mut dirs: Vec<Ino> = links.iter().map(|l| l.ino).filter(|i| plan.dirs[i]).collect();
            dirs.sort();
            let claims: Vec<(Link, Dot, Rc<Rec>)> = links
                .iter()
                .filter(|l| !plan.dirs[&l.ino])
                // A side file goes where its database goes.
                .filter(|l| !all.first.contains_key(&l.ino) || main_of(&l.name).is_none())
                .filter_map(|l| {
                    let (dot, rec) = all.best(l.ino)?;
                    Some((l.clone(), dot, rec))
                })
                .collect();
            // A file that another claimant was renamed over is an older version of it: not shown.
            let over = |c: &&(Link, Dot, Rc<Rec>)| {
                let from = origin(c.1, &c.2.history);
                let by = |o: &(Link, Dot, Rc<Rec>)| {
                    o.2.over
                        .iter()
                        .any(|(i, runs)| *i == c.0.ino && runs.iter().any(|r| r.has(from)))
                };
                // A side file that somebody took away and kept is shown with it only.
                let is_needed = all.shows_for_others.contains(&(c.0.ino, from));
                let is_one = all.plain.get(&c.0.ino).is_some_and(|v| v.len() == 1);
                claims.iter().any(by) && is_one && !is_needed
            };
            let mut left: Vec<_> = claims
                .iter()
                .filter(|c| !off.on(Rule::rename_version) || !over(c))
                .cloned()
                .collect();
            if left.is_empty() {
                left = claims.clone();
            }
            // Files with this name, equal ones together: the newest keeps the name.
            let mut files: Vec<(Dot, Rc<Rec>, Vec<Link>)> = Vec::new();
            for (link, dot, rec) in left {
                let plain = |i: Ino| {
                    !state.items.contains_key(&Key::Opaque(i, 9))
                        && all.bound.range((i, Dot::LEAST)..).next().is_none_or(|b| b.0 != i)
                };
                let alike = |f: &&mut (Dot, Rc<Rec>, Vec<Link>)| {
                    let other = f.2[0].ino;
                    f.1.chunks == rec.chunks
                        && attributes(&state.items[&Key::Inode(other)]).1.mode
                            == attributes(&state.items[&Key::Inode(link.ino)]).1.mode
                        && xattrs(state, other, off) == xattrs(state, link.ino, off)
                        && (other == link.ino || plain(other) && plain(link.ino))
                };
                match files.iter_mut().find(alike) {
                    Some(found) => found.2.push(link),
                    None => files.push((dot, rec, vec![link])),
                }
            }
            for f in &mut files {
                f.2.sort_by_key(|l| (l.ino, l.clone()));
                if f.2.iter().any(|l| l.ino != f.2[0].ino) {
                    tree.heirs.insert(f.2[0].ino);
                }
            }
            files.sort_by_key(|f| std::cmp::Reverse((f.1.mtime, f.2[0].ino)));
            let mut put = |name: Name, ino: Ino, what: What| {
                tree.entries.insert((dir, name.clone()), Shown { dir, name, ino, what });
            };
            if !dirs.is_empty() {
                put(name.clone(), dirs[0], What::Dir);
                queue.push(dirs.clone());
            }
            for (n, (dot, rec, links)) in files.into_iter().enumerate() {
                let ino = links[0].ino;
                let from = origin(dot, &rec.history);
                let what = What::File;
                if n == 0 && dirs.is_empty() {
                    put(name.clone(), ino, what);
                } else {
                    losers.push((dir, name.clone(), loser_name(&name, ino, from), ino, what));
                }
            }
        }
    }
    let canon = |d: Ino| united.get(&d).copied().unwrap_or(d);
    for (ino, is_dir) in &plan.dirs {
        if *is_dir {
            continue;
        }
        let (dir, name) =
            plan.links[ino].iter().map(|l| (canon(l.dir), l.name.clone())).min().expect("placed");
        let own = usize::from(!all.first.contains_key(ino));
        for (dot, rec) in all.plain.get(ino).into_iter().flatten().skip(own).cloned() {
            let from = origin(dot, &rec.history);
            let number = loser_ino(*ino, from);
            tree.ties.push((Knot::Ino(*ino), Knot::Ino(number)));
            // Somebody stored it already: it is that file, unless that is a side file that went with a version of its
            // database.
            let is_shown =
                all.plain.contains_key(&number) || all.sides.iter().any(|side| side.ino == number);
            if state.inode(number).is_some() && is_shown {
                tree.heirs.insert(number);
                continue;
            }
            let what = What::Loser { of: *ino, dot, rec };
            losers.push((dir, name.clone(), loser_name(&name, number, from), number, what));
        }
    }
    losers.sort_by(|a, b| (a.0, &a.2, a.3).cmp(&(b.0, &b.2, b.3)));
    for (dir, plain, wanted, ino, what) in losers {
        tree.ties.push((Knot::Name(dir, plain), Knot::Ino(ino)));
        put(&mut tree, dir, &wanted, ino, what);
    }
    if off.on(Rule::pairs) {
        set_apart(&all, &mut tree);
        pair_up(state, &plan, &all, &canon, &mut tree);
    }
    tree
}

/// Shows something under a name, or with a number behind it if the name is taken.
fn put(tree: &mut Tree, dir: Ino, wanted: &str, ino: Ino, what: What) -> Name {
    let mut name: Name = Rc::from(wanted);
    let mut n = 2;
    while tree.entries.contains_key(&(dir, name.clone())) {
        name = Rc::from(format!("{wanted} {n}"));
        n += 1;
    }
    tree.ties.push((Knot::Name(dir, name.clone()), Knot::Ino(ino)));
    tree.entries.insert((dir, name.clone()), Shown { dir, name: name.clone(), ino, what });
    name
}

/// A file that only its name makes a side file does not stand beside a database.
fn set_apart(all: &Files, tree: &mut Tree) {
    let loose = |s: &&Shown| {
        let base = main_of(&s.name).and_then(|base| tree.entries.get(&(s.dir, Rc::from(base))));
        !matches!(s.what, What::Dir) && base.is_some_and(|b| !matches!(b.what, What::Dir))
    };
    let loose: Vec<Shown> = tree.entries.values().filter(loose).cloned().collect();
    for s in loose {
        tree.entries.remove(&(s.dir, s.name.clone()));
        let base = main_of(&s.name).expect("it looks like one");
        tree.ties.push((Knot::Name(s.dir, Rc::from(base)), Knot::Ino(s.ino)));
        tree.ties.push((Knot::Name(s.dir, s.name.clone()), Knot::Ino(s.ino)));
        let from = match &s.what {
            What::Loser { dot, rec, .. } => origin(*dot, &rec.history),
            _ => all.best(s.ino).map(|v| origin(v.0, &v.1.history)).expect("it is shown"),
        };
        put(tree, s.dir, &loser_name(&s.name, s.ino, from), s.ino, s.what);
    }
}

/// A side file stands beside the version of its database with which it goes.
fn pair_up(state: &State, plan: &Plan, all: &Files, canon: &dyn Fn(Ino) -> Ino, tree: &mut Tree) {
    for (n, side) in all.sides.iter().enumerate() {
        let Side { ino, main, from, dot, rec } = side;
        let winner = origin(all.plain[main][0].0, &all.plain[main][0].1.history) == *from;
        let db = if winner { *main } else { loser_ino(*main, *from) };
        let first = all.first.get(ino) == Some(&n);
        tree.ties.push((Knot::Ino(*ino), Knot::Ino(db)));
        // Somebody stored the database, and this with it, as files of their own already.
        if !winner && state.inode(db).is_some() {
            let number = loser_ino(*ino, *from);
            tree.ties.push((Knot::Ino(*ino), Knot::Ino(number)));
            tree.heirs.extend([db, number].into_iter().filter(|i| state.inode(*i).is_some()));
            continue;
        }
        let mut number = *ino;
        while number == *ino && !first || number != *ino && state.inode(number).is_some() {
            number = loser_ino(number, *from);
            tree.ties.push((Knot::Ino(*ino), Knot::Ino(number)));
        }
        let names: Vec<(Ino, Name)> = tree
            .entries
            .values()
            .filter(|s| s.ino == db)
            .map(|s| (s.dir, s.name.clone()))
            .collect();
        let own = |at: &&(Ino, Name)| {
            let name = side_of(&at.1);
            plan.links
                .get(ino)
                .into_iter()
                .flatten()
                .any(|l| canon(l.dir) == at.0 && l.name == name)
        };
        let mut at: Vec<(Ino, Name)> = names.iter().filter(own).cloned().collect();
        if !first || at.is_empty() {
            at = names.into_iter().take(1).collect();
        }
        // A database that is not shown shows none of its side files.
        for (dir, name) in at {
            let what = if first {
                What::File
            } else {
                What::Loser { of: *ino, dot: *dot, rec: rec.clone() }
            };
            tree.mains.insert(number, (db, *from));
            let mut name = name;
            if tree.entries.contains_key(&(dir, side_of(&name))) {
                // It had two names, and a log at each.
                let again = tree.entries[&(dir, name.clone())].what.clone();
                name = put(tree, dir, &name, db, again);
            }
            put(tree, dir, &side_of(&name), number, what);
        }
    }
    for (key, vals) in &state.items {
        for main in recs(vals).iter().filter_map(|v| v.1.main) {
            tree.ties.push((Knot::Ino(key.ino()), Knot::Ino(main.0)));
        }
    }
}
