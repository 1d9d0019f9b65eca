//! Repairs: ordinary edits, in groups, after which a joined map is a plain tree. A mount reads the map with all
//! repairs over it, and knows nothing of conflicts; an operation first moves the groups that it touches into the
//! record. A pure function of the map; nothing of it is stored.

use crate::map::*;
use crate::rules::{Off, Rule};
use crate::show::*;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What stands in place of the values of a key.
#[derive(Clone, Debug)]
pub struct Repair {
    pub key: Key,
    pub val: Option<Val>,
    pub drop: Vec<Dot>,
}

#[derive(Default, Debug)]
pub struct Repairs {
    pub groups: Vec<Vec<Repair>>,
    of: BTreeMap<Knot, usize>,
}

/// The dot under which the overlay shows a repair: no writer has the number zero.
const VIEW: Dot = Dot { writer: 0, count: 0 };

struct Sets {
    number: BTreeMap<Knot, usize>,
    up: Vec<usize>,
}

impl Sets {
    fn find(&mut self, k: &Knot) -> usize {
        let next = self.up.len();
        let mut at = *self.number.entry(k.clone()).or_insert(next);
        if at == next {
            self.up.push(next);
        }
        while self.up[at] != at {
            self.up[at] = self.up[self.up[at]];
            at = self.up[at];
        }
        at
    }

    fn tie(&mut self, a: &Knot, b: &Knot) {
        let (a, b) = (self.find(a), self.find(b));
        self.up[a.max(b)] = a.min(b);
    }
}

/// The map that is shown, as keys with one value each.
fn wanted(state: &State, tree: &Tree, off: Off) -> BTreeMap<Key, Val> {
    let mut want: BTreeMap<Key, Val> = BTreeMap::new();
    let own = |ino: Ino, want: &mut BTreeMap<Key, Val>| {
        let Some(vals) = state.inode(ino) else { return };
        let all = recs(vals);
        let rec = if all.len() == 1 {
            all[0].1.clone()
        } else if all[all.len() - 1].1.dir {
            let (dot, rec) = all[all.len() - 1].clone();
            Rc::new(Rec {
                history: kept(dot, &rec.history),
                attrs: kept(dot, &rec.attrs),
                ..(*rec).clone()
            })
        } else {
            let (dot, best) = tree.best[&ino].clone();
            let (at, attrs) = attributes(vals);
            let from = origin(dot, &best.history);
            let apart = |from: Dot| tree.bound.contains(&(ino, from));
            let same = |v: &&(Dot, Rc<Rec>)| {
                let of = origin(v.0, &v.1.history);
                if best.main.is_some() || v.1.main.is_some() {
                    return v.1.main == best.main && v.1.chunks == best.chunks;
                }
                of == from || v.1.chunks == best.chunks && !apart(of) && !apart(from)
            };
            let mine: Vec<(Dot, Versions)> =
                all.iter().filter(same).map(|v| (v.0, v.1.history.clone())).collect();
            let history = merged(&mine, *kept(dot, &best.history).last().expect("a run"));
            let runs = merged(
                &all.iter().map(|v| (v.0, v.1.attrs.clone())).collect::<Vec<_>>(),
                *kept(at, &attrs.attrs).last().expect("a run"),
            );
            Rc::new(Rec {
                history,
                attrs: runs,
                mode: attrs.mode,
                ctime: attrs.ctime,
                ..(*best).clone()
            })
        };
        want.insert(Key::Inode(ino), Val::Inode(rec));
        for (key, vals) in state.beside(ino) {
            match key {
                Key::Xattr(..) if vals.len() == 1 => {
                    want.insert(key.clone(), vals[0].1.clone());
                }
                Key::Xattr(..) => {
                    let (dot, val, runs) = xattr(vals, off);
                    let all: Vec<(Dot, Versions)> = vals
                        .iter()
                        .filter_map(|(d, v)| {
                            if let Val::Xattr(_, r) = v { Some((*d, r.clone())) } else { None }
                        })
                        .collect();
                    want.insert(
                        key.clone(),
                        Val::Xattr(val, merged(&all, *kept(dot, &runs).last().expect("a run"))),
                    );
                }
                // A kind that is not known stays as it is.
                Key::Opaque(..) => {
                    want.insert(key.clone(), vals.last().expect("not empty").1.clone());
                }
                _ => {}
            }
        }
    };
    own(ROOT, &mut want);
    for e in tree.entries.values() {
        match &e.what {
            What::Dir | What::File => own(e.ino, &mut want),
            What::Loser { of, dot, rec } => {
                let shown = attributes(state.inode(*of).expect("it is shown"));
                let from = *kept(*dot, &rec.history).last().expect("a run");
                let rec = Rec {
                    history: Rc::from([Run { first: from.last, ..from }]),
                    attrs: kept(shown.0, &shown.1.attrs),
                    mode: shown.1.mode,
                    ctime: shown.1.ctime,
                    ..(**rec).clone()
                };
                want.insert(Key::Inode(e.ino), Val::Inode(Rc::new(rec)));
                for (key, vals) in state.beside(*of) {
                    if let Key::Xattr(_, n) = key {
                        let (dot, val, runs) = xattr(vals, off);
                        want.insert(Key::Xattr(e.ino, *n), Val::Xattr(val, kept(dot, &runs)));
                    }
                }
            }
        }
        if let (Some(main), Some(Val::Inode(rec))) =
            (tree.mains.get(&e.ino), want.get_mut(&Key::Inode(e.ino)))
            && rec.main != Some(*main)
        {
            // The value is another one now: its own dot is no longer its origin.
            let dot = state.inode(e.ino).and_then(|v| v.last()).map(|v| v.0);
            let list = |l: &Versions| dot.map_or(l.clone(), |d| kept(d, l));
            *rec = Rc::new(Rec {
                main: Some(*main),
                history: list(&rec.history),
                attrs: list(&rec.attrs),
                ..(**rec).clone()
            });
        }
        want.insert(Key::Entry(e.dir, e.name.clone()), Val::Entry(e.ino));
        want.insert(Key::Back(e.ino, e.dir, e.name.clone()), Val::Back);
    }
    want
}

pub fn repairs(state: &State, off: Off) -> Repairs {
    let tree = show(state, off);
    let want = wanted(state, &tree, off);
    let mut edits: Vec<Repair> = Vec::new();
    let dots = |v: &Vals| v.iter().map(|x| x.0).collect::<Vec<Dot>>();
    let mut dropped = false;
    for (key, vals) in &state.items {
        let opaque = matches!(key, Key::Opaque(..)) && want.contains_key(key);
        match want.get(key) {
            None => edits.push(Repair { key: key.clone(), val: None, drop: dots(vals) }),
            Some(w) if !opaque && (vals.len() != 1 || vals[0].1 != *w) => {
                edits.push(Repair { key: key.clone(), val: Some(w.clone()), drop: dots(vals) });
            }
            _ => continue,
        }
        dropped = true;
    }
    for (key, w) in &want {
        if !state.items.contains_key(key) {
            edits.push(Repair { key: key.clone(), val: Some(w.clone()), drop: Vec::new() });
            dropped = true;
        }
    }
    if !dropped {
        return Repairs::default();
    }
    // What stands for something that is dropped is written again, or another's removal of it would take both.
    let mut stamp: BTreeSet<Ino> =
        if off.on(Rule::stamp_heir) { tree.heirs.clone() } else { BTreeSet::new() };
    // A record is never written without what lies beside it.
    if off.on(Rule::stamp_settled) {
        stamp.extend(
            edits
                .iter()
                .filter(|e| matches!(e.key, Key::Inode(_)) && e.val.is_some())
                .map(|e| e.key.ino()),
        );
    }
    // Nor a name of a database: its back references say which names the maker of the version saw.
    let named = |e: &&Repair| matches!(e.key, Key::Back(..));
    let databases: BTreeSet<Ino> = tree.mains.values().map(|m| m.0).collect();
    stamp.extend(edits.iter().filter(named).map(|e| e.key.ino()).filter(|i| databases.contains(i)));
    // Nor a database without its side files.
    let mut written: BTreeSet<Ino> = edits
        .iter()
        .filter(|e| matches!(e.key, Key::Inode(_)) && e.val.is_some())
        .map(|e| e.key.ino())
        .chain(stamp.iter().copied())
        .collect();
    while let Some((side, main)) = tree
        .mains
        .iter()
        .map(|(side, main)| (*side, main.0))
        .find(|(side, main)| written.contains(side) != written.contains(main))
    {
        written.extend([side, main]);
        stamp.extend([side, main]);
    }
    let done: BTreeSet<Key> = edits.iter().map(|e| e.key.clone()).collect();
    for ino in stamp {
        let keys: Vec<Key> = std::iter::once(Key::Inode(ino))
            .chain(state.beside(ino).map(|x| x.0.clone()))
            .collect();
        for key in keys {
            let (Some(vals), Some(val)) = (state.items.get(&key), want.get(&key)) else { continue };
            if !done.contains(&key) {
                edits.push(Repair {
                    val: Some(restamped(vals.last().expect("not empty").0, val)),
                    drop: dots(vals),
                    key,
                });
            }
        }
    }
    // Where a name is dropped the others are written again, or another's removal of them leaves none. The record is
    // not: what somebody deleted does not come back because of that.
    if off.on(Rule::names_again) {
        let done: BTreeSet<Key> = edits.iter().map(|e| e.key.clone()).collect();
        let dropped: BTreeSet<Ino> = edits
            .iter()
            .filter(|e| matches!(e.key, Key::Back(..)) && e.val.is_none())
            .map(|e| e.key.ino())
            .collect();
        for ino in dropped {
            for (key, vals) in state.beside(ino) {
                if matches!(key, Key::Back(..)) && want.contains_key(key) && !done.contains(key) {
                    edits.push(Repair { key: key.clone(), val: Some(Val::Back), drop: dots(vals) });
                }
            }
        }
    }
    let mut sets = Sets { number: BTreeMap::new(), up: Vec::new() };
    for (a, b) in &tree.ties {
        sets.tie(a, b);
    }
    for e in &edits {
        match &e.key {
            Key::Entry(d, n) => {
                let name = Knot::Name(*d, n.clone());
                let old = state.items.get(&e.key).into_iter().flatten().map(|v| v.1.clone());
                for v in old.chain(e.val.clone()) {
                    if let Val::Entry(i) = v {
                        sets.tie(&name, &Knot::Ino(i));
                    }
                }
            }
            Key::Back(i, d, n) if e.val.is_some() => {
                sets.tie(&Knot::Ino(*i), &Knot::Name(*d, n.clone()))
            }
            _ => {}
        }
    }
    let mut out = Repairs::default();
    let mut index: BTreeMap<usize, usize> = BTreeMap::new();
    for e in edits {
        let knot = match &e.key {
            Key::Entry(d, n) => Knot::Name(*d, n.clone()),
            k => Knot::Ino(k.ino()),
        };
        let set = sets.find(&knot);
        let group = *index.entry(set).or_insert_with(|| {
            out.groups.push(Vec::new());
            out.groups.len() - 1
        });
        out.groups[group].push(e);
    }
    let knots: Vec<Knot> = sets.number.keys().cloned().collect();
    for k in knots {
        if let Some(group) = index.get(&sets.find(&k)) {
            out.of.insert(k, *group);
        }
    }
    out
}

impl Repairs {
    /// The groups that an operation on these inodes and names must store first.
    pub fn touched(&self, knots: &[Knot]) -> BTreeSet<usize> {
        knots.iter().filter_map(|k| self.of.get(k).copied()).collect()
    }
}

/// A value written again under another dot.
pub fn restamped(dot: Dot, val: &Val) -> Val {
    match val {
        Val::Inode(r) => Val::Inode(Rc::new(Rec {
            history: kept(dot, &r.history),
            attrs: kept(dot, &r.attrs),
            ..(**r).clone()
        })),
        Val::Xattr(x, runs) => Val::Xattr(*x, kept(dot, runs)),
        other => other.clone(),
    }
}

/// The map with all repairs over it: what a mount reads.
pub fn view(state: &State, off: Off) -> State {
    let mut out = state.clone();
    for e in repairs(state, off).groups.into_iter().flatten() {
        match e.val {
            Some(val) => out.items.insert(e.key, vec![(VIEW, val)]),
            None => out.items.remove(&e.key),
        };
    }
    out
}

/// A plain tree, as a file system without any notion of conflicts reads it.
#[derive(Clone, Default, Debug)]
pub struct Plain {
    pub entries: BTreeMap<(Ino, Name), Ino>,
    pub recs: BTreeMap<Ino, Rc<Rec>>,
    /// Names by back references: the link count is their number, a directory's parent is the only one.
    pub backs: BTreeMap<Ino, Vec<(Ino, Name)>>,
    pub xattrs: BTreeMap<Ino, Vec<(u8, u32)>>,
}

/// What somebody sees of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    pub dir: bool,
    pub chunks: Rc<[Ref]>,
    pub mode: u32,
    pub links: usize,
    pub xattrs: Vec<(u8, u32)>,
}

impl Plain {
    pub fn read(state: &State, off: Off) -> Plain {
        let mut out = Plain::default();
        for (key, vals) in &state.items {
            match (key, &vals.last().expect("not empty").1) {
                (Key::Inode(i), Val::Inode(r)) => {
                    out.recs.insert(*i, r.clone());
                    out.xattrs.insert(*i, xattrs(state, *i, off));
                }
                (Key::Entry(d, n), Val::Entry(i)) => {
                    out.entries.insert((*d, n.clone()), *i);
                }
                (Key::Back(i, d, n), _) => out.backs.entry(*i).or_default().push((*d, n.clone())),
                _ => {}
            }
        }
        out
    }

    pub fn is_dir(&self, ino: Ino) -> bool {
        ino == ROOT || self.recs.get(&ino).is_some_and(|r| r.dir)
    }

    pub fn parent(&self, dir: Ino) -> Ino {
        self.backs.get(&dir).map_or(ROOT, |b| b[0].0)
    }

    pub fn empty(&self, dir: Ino) -> bool {
        self.entries.range((dir, Name::from(""))..).next().is_none_or(|e| e.0.0 != dir)
    }

    /// Every name, with the link count that back references give.
    pub fn listing(&self) -> BTreeMap<(Ino, Name), Line> {
        let line = |ino: &Ino| {
            let rec = &self.recs[ino];
            Line {
                dir: rec.dir,
                chunks: rec.chunks.clone(),
                mode: if rec.dir { 0 } else { rec.mode },
                links: if rec.dir { 1 } else { self.backs.get(ino).map_or(0, Vec::len) },
                xattrs: if rec.dir {
                    Vec::new()
                } else {
                    self.xattrs.get(ino).cloned().unwrap_or_default()
                },
            }
        };
        self.entries.iter().map(|(k, i)| (k.clone(), line(i))).collect()
    }

    /// What keeps it from being a plain tree.
    pub fn fault(&self, state: &State) -> Option<String> {
        for (key, vals) in &state.items {
            if vals.len() > 1 && !matches!(key, Key::Opaque(..)) {
                return Some(format!("{key:?} has {} values", vals.len()));
            }
        }
        for ((d, n), i) in &self.entries {
            if !self.recs.contains_key(i) {
                return Some(format!("{n} in {d} names an inode that is not there"));
            }
            if !self.is_dir(*d) {
                return Some(format!("{n} lies in {d}, which is no directory"));
            }
            if !self.backs.get(i).is_some_and(|b| b.contains(&(*d, n.clone()))) {
                return Some(format!("{n} in {d} has no back reference"));
            }
        }
        for (i, names) in &self.backs {
            if !self.recs.contains_key(i) {
                return Some(format!("back reference of {i:x}, which is not there"));
            }
            if let Some((d, n)) = names.iter().find(|k| self.entries.get(*k) != Some(i)) {
                return Some(format!(
                    "inode {i:x} has a back reference to {n} in {d} without an entry"
                ));
            }
            if self.is_dir(*i) && names.len() > 1 {
                return Some(format!("directory {i:x} has {} names", names.len()));
            }
        }
        for (i, r) in &self.recs {
            if *i != ROOT && !self.backs.contains_key(i) {
                return Some(format!("inode {i:x} has no name"));
            }
            if r.dir {
                let (mut at, mut n) = (*i, 0);
                while at != ROOT {
                    at = self.parent(at);
                    n += 1;
                    if n > self.recs.len() + 1 {
                        return Some(format!("directory {i:x} hangs in a cycle"));
                    }
                }
            }
        }
        None
    }
}
