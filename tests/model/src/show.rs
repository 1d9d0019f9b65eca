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
    /// The databases of side files.
    pub mains: BTreeMap<Ino, Ino>,
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
    let mut left = unreplaced(&recs(vals), |r| &r.history);
    left.sort_by_key(|(d, r)| std::cmp::Reverse((r.mtime, origin(*d, &r.history), *d)));
    let mut out: Vec<(Dot, Rc<Rec>)> = Vec::new();
    for v in left {
        if !out.iter().any(|o| o.1.chunks == v.1.chunks) {
            out.push(v);
        }
    }
    out
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
    let plan = place(state, off, &mut tree.ties);
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
                .map(|l| {
                    let (dot, rec) = contents(&state.items[&Key::Inode(l.ino)]).swap_remove(0);
                    (l.clone(), dot, rec)
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
                claims.iter().any(by) && contents(&state.items[&Key::Inode(c.0.ino)]).len() == 1
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
                let plain = |i: Ino| !state.items.contains_key(&Key::Opaque(i, 9));
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
        let vals = &state.items[&Key::Inode(*ino)];
        let (dir, name) =
            plan.links[ino].iter().map(|l| (canon(l.dir), l.name.clone())).min().expect("placed");
        for (dot, rec) in contents(vals).split_off(1) {
            let from = origin(dot, &rec.history);
            let number = loser_ino(*ino, from);
            tree.ties.push((Knot::Ino(*ino), Knot::Ino(number)));
            // Somebody stored it already: it is that file.
            if state.inode(number).is_some() {
                tree.heirs.insert(number);
                continue;
            }
            let what = What::Loser { of: *ino, dot, rec };
            losers.push((dir, name.clone(), loser_name(&name, number, from), number, what));
        }
    }
    let (side, mut losers): (Vec<_>, Vec<_>) = losers.into_iter().partition(|l| {
        off.on(Rule::pairs) && value(state, l.3, &l.4).is_some_and(|v| v.1.main != 0)
    });
    losers.sort_by(|a, b| (a.0, &a.2, a.3).cmp(&(b.0, &b.2, b.3)));
    for (dir, plain, wanted, ino, what) in losers {
        tree.ties.push((Knot::Name(dir, plain), Knot::Ino(ino)));
        put(&mut tree, dir, &wanted, ino, what);
    }
    if off.on(Rule::pairs) {
        pair_up(state, &plan, &mut tree, side);
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

/// The value of an inode that is shown, or that a loser shows.
fn value(state: &State, ino: Ino, what: &What) -> Option<(Dot, Rc<Rec>)> {
    match what {
        What::Loser { dot, rec, .. } => Some((*dot, rec.clone())),
        What::File => Some(contents(state.inode(ino)?).swap_remove(0)),
        What::Dir => None,
    }
}

/// A side file goes with its database as the same device left it, under the name of that.
fn pair_up(
    state: &State,
    plan: &Plan,
    tree: &mut Tree,
    losers: Vec<(Ino, Name, String, Ino, What)>,
) {
    // Those with a plain name first taken down; the newest first.
    let mut side: Vec<(i64, Ino, Name, String, Ino, What)> = Vec::new();
    let plain: Vec<Shown> =
        tree.entries.values().filter(|s| matches!(s.what, What::File)).cloned().collect();
    for s in plain {
        let rec = value(state, s.ino, &s.what).expect("a file").1;
        if rec.main != 0 && plan.dirs.get(&rec.main) == Some(&false) {
            tree.entries.remove(&(s.dir, s.name.clone()));
            side.push((rec.mtime, s.dir, s.name.clone(), s.name.to_string(), s.ino, s.what));
        }
    }
    for (dir, name, wanted, ino, what) in losers {
        let mtime = value(state, ino, &what).expect("a file").1.mtime;
        side.push((mtime, dir, name, wanted, ino, what));
    }
    side.sort_by_key(|s| std::cmp::Reverse((s.0, s.4)));
    let mut used: BTreeSet<Ino> = BTreeSet::new();
    let mut done: BTreeSet<Ino> = BTreeSet::new();
    for (_, dir, plain, wanted, ino, what) in side {
        tree.ties.push((Knot::Name(dir, plain.clone()), Knot::Ino(ino)));
        // It has one name only.
        if !done.insert(ino) {
            continue;
        }
        let (dot, rec) = value(state, ino, &what).expect("a file");
        let main = rec.main;
        tree.ties.push((Knot::Ino(main), Knot::Ino(ino)));
        let all = state.inode(main).map(recs).unwrap_or_default();
        let own = all
            .iter()
            .filter(|v| v.0.device() == dot.device())
            .max_by_key(|v| v.0)
            .or(all.first().filter(|_| all.len() == 1));
        let Some((at, db)) = own.filter(|_| plan.dirs.get(&main) == Some(&false)) else {
            put(tree, dir, &wanted, ino, what);
            continue;
        };
        // The database as that device left it: the file itself, a losing version of it, or a copy.
        let number = loser_ino(main, origin(dot, &rec.history));
        let there = tree.entries.values().find(|s| {
            let same = value(state, s.ino, &s.what).is_some_and(|v| v.1.chunks == db.chunks);
            let of = s.ino == main
                || s.ino == number
                || matches!(s.what, What::Loser { of, .. } if of == main);
            of && same && !used.contains(&s.ino)
        });
        let (dir, stem, number) = match there {
            Some(s) => (s.dir, s.name.clone(), s.ino),
            None => {
                let name = main_of(&plain).map_or(plain.clone(), Rc::from);
                let copy = What::Loser { of: main, dot: *at, rec: db.clone() };
                let wanted = loser_name(&name, number, origin(*at, &db.history));
                (dir, put(tree, dir, &wanted, number, copy), number)
            }
        };
        used.insert(number);
        tree.ties.push((Knot::Ino(number), Knot::Ino(ino)));
        tree.mains.insert(ino, number);
        put(tree, dir, &format!("{stem}-wal"), ino, what);
    }
}
