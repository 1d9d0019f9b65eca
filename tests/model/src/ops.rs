//! What users do, as edits: first the groups of repairs that the operation touches, then a plain operation.

use crate::map::*;
use crate::repair::{Line, Plain, repairs, restamped, view};
use crate::rules::{Off, Rule};
use crate::show::Knot;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

pub type Place = (Ino, Name);

#[derive(Clone, Debug)]
pub enum Op {
    Create {
        dir: Ino,
        name: Name,
        chunks: Vec<Ref>,
    },
    Mkdir {
        dir: Ino,
        name: Name,
    },
    Write {
        at: Place,
        chunks: Vec<Ref>,
    },
    Chmod {
        at: Place,
        mode: u32,
    },
    /// Sets an attribute, or removes it.
    Xattr {
        at: Place,
        name: u8,
        val: Option<u32>,
    },
    /// Stores an opaque value (a new program only).
    Opaque {
        at: Place,
        chunks: Vec<Ref>,
    },
    Unlink {
        at: Place,
    },
    Rmdir {
        at: Place,
    },
    Rename {
        from: Place,
        dir: Ino,
        name: Name,
    },
    Link {
        at: Place,
        dir: Ino,
        name: Name,
    },
}

/// What an operation did, for the oracle.
#[derive(Default, Debug)]
pub struct Effect {
    pub new_tokens: Vec<(u32, Rc<[Ref]>)>,
    /// Life, and the token of the content that it keeps alive.
    pub new_lives: Vec<(u32, u32)>,
    /// Old, and the new one in its place.
    pub replaced_tokens: Vec<(u32, u32)>,
    pub ended_lives: Vec<u32>,
}

/// Builds the edits of one operation on a working copy of the state.
pub struct Maker<'a> {
    pub state: State,
    pub dot: Dot,
    pub edits: Vec<Edit>,
    pub effect: Effect,
    pub off: Off,
    pub now: i64,
    pub next_id: &'a mut u32,
    pub new_ino: &'a mut dyn FnMut() -> Ino,
}

impl Maker<'_> {
    fn id(&mut self) -> u32 {
        *self.next_id += 1;
        *self.next_id
    }

    // --- single edits

    /// Replaces all values of a key that are there.
    fn put(&mut self, key: Key, val: Option<Val>) {
        let drop: Vec<Dot> =
            self.state.items.get(&key).map_or(Vec::new(), |v| v.iter().map(|v| v.0).collect());
        self.edit(key, val, drop);
    }

    fn edit(&mut self, key: Key, val: Option<Val>, drop: Vec<Dot>) {
        if val.is_none() && drop.is_empty() {
            return;
        }
        let edit = Edit { key, val, drop, dot: self.dot };
        self.state.apply(&edit, false);
        self.edits.push(edit);
    }

    /// The record of an inode, and its dot.
    fn rec(&self, ino: Ino) -> Option<(Dot, Rc<Rec>)> {
        let (dot, val) = self.state.inode(ino)?.last()?;
        if let Val::Inode(r) = val { Some((*dot, r.clone())) } else { None }
    }

    fn name(&mut self, at: &Place, ino: Ino) {
        self.put(Key::Entry(at.0, at.1.clone()), Some(Val::Entry(ino)));
        self.put(Key::Back(ino, at.0, at.1.clone()), Some(Val::Back));
    }

    fn unname(&mut self, at: &Place, ino: Ino) {
        self.put(Key::Entry(at.0, at.1.clone()), None);
        self.put(Key::Back(ino, at.0, at.1.clone()), None);
    }

    // --- stamping

    /// Writes again what lies beside an inode: back references, attributes, opaque values.
    fn stamp_beside(&mut self, ino: Ino) {
        let all: Vec<(Key, (Dot, Val))> = self
            .state
            .beside(ino)
            .map(|(k, v)| (k.clone(), v.last().expect("not empty").clone()))
            .collect();
        for (key, (dot, val)) in all {
            let again = match key {
                Key::Back(..) => self.off.on(Rule::restamp_back),
                _ => self.off.on(Rule::restamp_xattr),
            };
            if again && dot != self.dot {
                self.put(key, Some(restamped(dot, &val)));
            }
        }
    }

    /// Stamps the directory in which a name is made, and the way up: they outlive a concurrent removal.
    fn stamp_dir(&mut self, plain: &Plain, dir: Ino) {
        let mut at = dir;
        while at != ROOT && self.off.on(Rule::restamp_dir) {
            self.times(at, at == dir);
            if !self.off.on(Rule::stamp_up) {
                break;
            }
            at = plain.parent(at);
        }
    }

    /// Writes a directory's record, with new times or as it is, and what lies beside it.
    fn times(&mut self, dir: Ino, changed: bool) {
        let Some((dot, rec)) = self.rec(dir).filter(|r| r.1.dir) else { return };
        if dot == self.dot || dir == ROOT {
            return;
        }
        let mtime = if changed { self.now } else { rec.mtime };
        let rec = Rec {
            mtime,
            history: kept(dot, &rec.history),
            attrs: kept(dot, &rec.attrs),
            ..(*rec).clone()
        };
        self.put(Key::Inode(dir), Some(Val::Inode(Rc::new(rec))));
        self.stamp_beside(dir);
    }

    /// Writes the record of a file, and everything beside it.
    fn set(&mut self, ino: Ino, change: impl FnOnce(&mut Rec, Dot), content: bool) {
        let (dot, old) = self.rec(ino).expect("a file has a record");
        let mut rec = Rec {
            history: kept(dot, &old.history),
            attrs: kept(dot, &old.attrs),
            ..(*old).clone()
        };
        change(&mut rec, dot);
        rec.life = self.id();
        self.effect.ended_lives.push(old.life);
        if content {
            rec.token = self.id();
            self.effect.replaced_tokens.push((old.token, rec.token));
            self.effect.new_tokens.push((rec.token, rec.chunks.clone()));
        }
        if !self.off.on(Rule::origin) {
            rec.history = Rc::from([]);
        }
        if !self.off.on(Rule::attrs_apart) && content {
            rec.attrs = replaced(&[(dot, old.attrs.clone())], self.dot);
        }
        self.effect.new_lives.push((rec.life, rec.token));
        self.put(Key::Inode(ino), Some(Val::Inode(Rc::new(rec))));
        self.stamp_beside(ino);
    }

    fn touch(&mut self, ino: Ino) {
        self.set(ino, |_, _| (), false);
    }

    fn remove(&mut self, ino: Ino) {
        if let Some((_, rec)) = self.rec(ino) {
            self.effect.ended_lives.push(rec.life);
        }
        let all: Vec<Key> = self.state.beside(ino).map(|x| x.0.clone()).collect();
        for key in all {
            self.put(key, None);
        }
        self.put(Key::Inode(ino), None);
    }

    // --- settling

    /// Moves the groups of repairs that the operation touches into the record. A listing before and after is the same.
    fn settle(&mut self, knots: &[Knot]) {
        let all = repairs(&self.state, self.off);
        for group in all.touched(knots) {
            for r in &all.groups[group] {
                let mut val = r.val.clone();
                if let Key::Inode(_) = r.key {
                    for v in self.state.items.get(&r.key).cloned().unwrap_or_default() {
                        if let Val::Inode(old) = v.1 {
                            self.effect.ended_lives.push(old.life);
                        }
                    }
                    if let Some(Val::Inode(rec)) = &r.val {
                        let life = self.id();
                        if !rec.dir {
                            self.effect.new_lives.push((life, rec.token));
                        }
                        val = Some(Val::Inode(Rc::new(Rec { life, ..(**rec).clone() })));
                    }
                }
                self.edit(r.key.clone(), val, r.drop.clone());
            }
        }
    }

    /// The inodes and names that an operation reads and changes.
    fn knots(&self, plain: &Plain, op: &Op) -> Vec<Knot> {
        let mut out = Vec::new();
        let up = |dir: Ino, out: &mut Vec<Knot>| {
            let (mut at, mut n) = (dir, 0);
            while at != ROOT && n < 1000 {
                out.push(Knot::Ino(at));
                at = plain.parent(at);
                n += 1;
            }
        };
        let place = |at: &Place, out: &mut Vec<Knot>| {
            for at in group(at) {
                let ino = plain.entries.get(&at).copied();
                let names = ino.filter(|i| !plain.is_dir(*i)).and_then(|i| plain.backs.get(&i));
                for at in names.into_iter().flatten().flat_map(group).chain([at]) {
                    out.extend(plain.entries.get(&at).map(|i| Knot::Ino(*i)));
                    out.push(Knot::Name(at.0, at.1));
                }
            }
        };
        match op {
            Op::Create { dir, name, .. } | Op::Mkdir { dir, name } => {
                place(&(*dir, name.clone()), &mut out);
                up(*dir, &mut out);
            }
            Op::Write { at, .. }
            | Op::Chmod { at, .. }
            | Op::Xattr { at, .. }
            | Op::Opaque { at, .. } => place(at, &mut out),
            Op::Unlink { at } | Op::Rmdir { at } => {
                place(at, &mut out);
                out.push(Knot::Ino(at.0));
            }
            Op::Rename { from, dir, name } | Op::Link { at: from, dir, name } => {
                place(from, &mut out);
                out.push(Knot::Ino(from.0));
                place(&(*dir, name.clone()), &mut out);
                up(*dir, &mut out);
            }
        }
        out
    }

    // --- operations

    /// Applies an operation; false if it does not apply to what is shown.
    pub fn run(&mut self, op: &Op) -> bool {
        let before = Plain::read(&view(&self.state, self.off), self.off);
        if !allowed(&before, op) {
            return false;
        }
        let knots = self.knots(&before, op);
        if self.off.on(Rule::settle) {
            self.settle(&knots);
        }
        let plain = Plain::read(&view(&self.state, self.off), self.off);
        if self.off.0 == 0 {
            assert_eq!(plain.listing(), before.listing(), "settling shows on {op:?}");
            assert!(
                repairs(&self.state, self.off).touched(&knots).is_empty(),
                "something is left to settle on {op:?}"
            );
        }
        let file = |at: &Place| plain.entries.get(at).copied().unwrap_or(0);
        match op {
            Op::Create { dir, name, chunks } => {
                let ino = (self.new_ino)();
                let (token, life) = (self.id(), self.id());
                let rec = Rec {
                    dir: false,
                    chunks: Rc::from(chunks.as_slice()),
                    mode: 6,
                    mtime: self.now,
                    ctime: self.now,
                    history: Rc::from([]),
                    attrs: Rc::from([]),
                    over: Rc::from([]),
                    main: None,
                    token,
                    life,
                };
                self.effect.new_tokens.push((token, rec.chunks.clone()));
                self.effect.new_lives.push((life, token));
                self.put(Key::Inode(ino), Some(Val::Inode(Rc::new(rec))));
                self.name(&(*dir, name.clone()), ino);
                self.stamp_dir(&plain, *dir);
            }
            Op::Mkdir { dir, name } => {
                let ino = (self.new_ino)();
                let life = self.id();
                let rec = Rec {
                    dir: true,
                    chunks: Rc::from([]),
                    mode: 7,
                    mtime: self.now,
                    ctime: self.now,
                    history: Rc::from([]),
                    attrs: Rc::from([]),
                    over: Rc::from([]),
                    main: None,
                    token: 0,
                    life,
                };
                self.put(Key::Inode(ino), Some(Val::Inode(Rc::new(rec))));
                self.name(&(*dir, name.clone()), ino);
                self.stamp_dir(&plain, *dir);
            }
            Op::Write { at, chunks } => {
                let (own, now) = (self.dot, self.now);
                let change = |rec: &mut Rec, dot| {
                    rec.history = replaced(&[(dot, rec.history.clone())], own);
                    rec.chunks = Rc::from(chunks.as_slice());
                    rec.mtime = now;
                };
                self.set(file(at), change, true);
            }
            Op::Chmod { at, mode } => {
                let (own, now) = (self.dot, self.now);
                let apart = self.off.on(Rule::attrs_apart);
                let change = |rec: &mut Rec, dot| {
                    rec.attrs = replaced(&[(dot, rec.attrs.clone())], own);
                    if !apart {
                        rec.history = replaced(&[(dot, rec.history.clone())], own);
                    }
                    rec.mode = *mode;
                    rec.ctime = now;
                };
                self.set(file(at), change, false);
            }
            Op::Xattr { at, name, val } => {
                let ino = file(at);
                let key = Key::Xattr(ino, *name);
                let old: Vec<(Dot, Versions)> =
                    self.state
                        .items
                        .get(&key)
                        .into_iter()
                        .flatten()
                        .filter_map(|(d, v)| {
                            if let Val::Xattr(_, r) = v { Some((*d, r.clone())) } else { None }
                        })
                        .collect();
                let runs = if old.is_empty() { Rc::from([]) } else { replaced(&old, self.dot) };
                self.put(key, Some(Val::Xattr(*val, runs)));
                self.touch(ino);
            }
            Op::Opaque { at, chunks } => {
                let ino = file(at);
                self.put(Key::Opaque(ino, 9), Some(Val::Opaque(Rc::from(chunks.as_slice()))));
                self.touch(ino);
            }
            Op::Unlink { at } => {
                self.unlink(&plain, at);
                self.times(at.0, true);
            }
            Op::Rmdir { at } => {
                let ino = file(at);
                self.unname(at, ino);
                self.remove(ino);
                self.times(at.0, true);
            }
            Op::Rename { from, dir, name } => {
                let to = (*dir, name.clone());
                let ino = file(from);
                let over = plain.entries.get(&to).copied();
                // One that goes with this name.
                let old = over.filter(|t| plain.backs[t].len() == 1).and_then(|t| self.rec(t));
                if over.is_some() {
                    self.unlink(&plain, &to);
                }
                self.unname(from, ino);
                self.name(&to, ino);
                if plain.is_dir(ino) {
                    self.times(ino, false);
                } else if let Some((d, o)) = old.filter(|_| self.off.on(Rule::rename_version)) {
                    // A new version of the file that had the name.
                    let token = self.rec(ino).expect("a file").1.token;
                    self.effect.replaced_tokens.push((o.token, token));
                    let target = over.expect("it was there");
                    let change = |rec: &mut Rec, _| {
                        let all: Vec<(Ino, Versions)> = rec
                            .over
                            .iter()
                            .chain(o.over.iter())
                            .cloned()
                            .chain([(target, kept(d, &o.history))])
                            .filter(|x| x.0 != ino)
                            .collect();
                        rec.over = Rc::from(&all[all.len().saturating_sub(OVER)..]);
                    };
                    self.set(ino, change, false);
                } else {
                    self.touch(ino);
                }
                self.times(from.0, true);
                self.stamp_dir(&plain, *dir);
            }
            Op::Link { at, dir, name } => {
                let ino = file(at);
                self.name(&(*dir, name.clone()), ino);
                self.touch(ino);
                self.stamp_dir(&plain, *dir);
            }
        }
        if self.off.on(Rule::pairs) {
            self.regroup(&plain, op);
        }
        true
    }

    /// The file that an entry names now.
    fn file_at(&self, at: &Place) -> Option<Ino> {
        let val = self.state.items.get(&Key::Entry(at.0, at.1.clone()))?.last()?;
        if let Val::Entry(i) = val.1 { Some(i).filter(|i| self.is_file(*i)) } else { None }
    }

    fn is_file(&self, ino: Ino) -> bool {
        self.rec(ino).is_some_and(|r| !r.1.dir)
    }

    /// A database and its side files are one version: what changes one of them makes a new version of the database,
    /// and binds each side file beside it to that. `plain`: before the operation.
    fn regroup(&mut self, plain: &Plain, op: &Op) {
        let (places, change): (Vec<&Place>, bool) = match op {
            Op::Create { .. } | Op::Mkdir { .. } => (Vec::new(), true),
            Op::Write { at, .. } | Op::Unlink { at } => (vec![at], true),
            Op::Chmod { at, .. } | Op::Xattr { at, .. } | Op::Opaque { at, .. } => {
                (vec![at], false)
            }
            Op::Rmdir { .. } => return,
            Op::Rename { from, .. } => (vec![from], true),
            Op::Link { at, .. } => (vec![at], true),
        };
        let mut places: Vec<Place> = places.into_iter().cloned().collect();
        if let Op::Create { dir, name, .. }
        | Op::Rename { dir, name, .. }
        | Op::Link { dir, name, .. } = op
        {
            places.push((*dir, name.clone()));
        }
        let before = |at: &Place| plain.entries.get(at).copied().filter(|i| !plain.is_dir(*i));
        let mut bases: Vec<Place> = places.iter().map(|at| group(at)[0].clone()).collect();
        bases.sort();
        bases.dedup();
        let (mut mains, mut sides): (BTreeSet<Ino>, BTreeSet<Ino>) = Default::default();
        for at in &bases {
            let beside = (at.0, side_of(&at.1));
            sides.extend(before(&beside));
            sides.extend(self.file_at(&beside));
            let names = |i: &Ino| plain.backs.get(i).into_iter().flatten();
            let had = |i: &Ino| names(i).any(|n| before(&(n.0, side_of(&n.1))).is_some());
            mains.extend(before(at).filter(had));
            mains.extend(self.file_at(at).filter(|i| had(i) || !self.beside_of(*i).is_empty()));
        }
        mains.retain(|i| self.is_file(*i) && self.rec(*i).is_some_and(|r| r.1.main.is_none()));
        for main in &mains {
            let beside = self.beside_of(*main);
            if change {
                self.renew(*main, &beside);
            } else {
                for i in beside.into_iter().chain([*main]) {
                    if self.rec(i).is_some_and(|r| r.0 != self.dot) {
                        self.touch(i);
                    }
                }
            }
        }
        for side in sides {
            let Some((_, rec)) = self.rec(side) else {
                // It was removed: so says the new version of its database.
                let new = mains.first().and_then(|m| self.rec(*m)).map(|m| m.1.token);
                self.effect.replaced_tokens.extend(new.map(|t| (plain.recs[&side].token, t)));
                continue;
            };
            let bound = rec.main.is_some_and(|m| self.beside_of(m.0).contains(&side));
            if rec.main.is_some() && !bound {
                self.set(side, |rec, _| rec.main = None, false);
            }
        }
    }

    /// The side files that stand beside a file, under any of its names.
    fn beside_of(&self, main: Ino) -> Vec<Ino> {
        let names = self.state.beside(main).filter_map(|(k, _)| match k {
            Key::Back(_, d, n) if !n.ends_with("-wal") => Some((*d, side_of(n))),
            _ => None,
        });
        let mut out: Vec<Ino> = names.filter_map(|at| self.file_at(&at)).collect();
        out.sort_unstable();
        out.dedup();
        out
    }

    /// A new version of a database, with the side files beside it.
    fn renew(&mut self, main: Ino, beside: &[Ino]) {
        let own = self.dot;
        let (dot, rec) = self.rec(main).expect("a file");
        if origin(dot, &rec.history) != own {
            let change =
                |rec: &mut Rec, dot| rec.history = replaced(&[(dot, rec.history.clone())], own);
            self.set(main, change, true);
        }
        for side in beside {
            self.set(*side, |rec, _| rec.main = Some((main, own)), false);
        }
    }

    /// Takes a file's name away, and the file with its last name.
    fn unlink(&mut self, plain: &Plain, at: &Place) {
        let ino = plain.entries[at];
        self.unname(at, ino);
        // The link count, as the file system reads it.
        if plain.backs[&ino].len() > 1 {
            self.touch(ino);
        } else {
            self.remove(ino);
        }
    }
}

/// The names of a database and its side file, of which this is one.
fn group(at: &Place) -> [Place; 2] {
    let base = main_of(&at.1).map_or(at.1.clone(), Rc::from);
    [(at.0, base.clone()), (at.0, side_of(&base))]
}

/// Whether a plain file system would do it.
fn allowed(plain: &Plain, op: &Op) -> bool {
    let entry = |at: &Place| plain.entries.get(at).copied();
    let file = |at: &Place| entry(at).is_some_and(|i| !plain.is_dir(i));
    match op {
        Op::Create { dir, name, .. } | Op::Mkdir { dir, name } => {
            plain.is_dir(*dir) && entry(&(*dir, name.clone())).is_none()
        }
        Op::Write { at, .. }
        | Op::Chmod { at, .. }
        | Op::Xattr { at, .. }
        | Op::Opaque { at, .. }
        | Op::Unlink { at } => file(at),
        Op::Rmdir { at } => entry(at).is_some_and(|i| plain.is_dir(i) && plain.empty(i)),
        Op::Link { at, dir, name } => {
            file(at) && plain.is_dir(*dir) && entry(&(*dir, name.clone())).is_none()
        }
        Op::Rename { from, dir, name } => {
            let to = (*dir, name.clone());
            let Some(ino) = entry(from) else { return false };
            if *from == to || !plain.is_dir(*dir) {
                return false;
            }
            if plain.is_dir(ino) {
                let mut up = *dir;
                while up != ROOT {
                    if up == ino {
                        return false;
                    }
                    up = plain.parent(up);
                }
                entry(&to).is_none()
            } else {
                entry(&to).is_none_or(|t| t != ino && !plain.is_dir(t))
            }
        }
    }
}

/// What must be listed after an operation, by entries alone: the plainest file system. Link counts are counted.
pub fn expected(plain: &Plain, op: &Op) -> Option<BTreeMap<Place, Line>> {
    if !allowed(plain, op) {
        return None;
    }
    const NEW: Ino = Ino::MAX;
    let mut names = plain.entries.clone();
    let mut lines: BTreeMap<Ino, Line> =
        plain.listing().into_iter().map(|(k, l)| (plain.entries[&k], l)).collect();
    let line = |dir: bool, chunks: &[Ref]| Line {
        dir,
        chunks: Rc::from(chunks),
        mode: if dir { 0 } else { 6 },
        links: 1,
        xattrs: Vec::new(),
    };
    match op {
        Op::Create { dir, name, chunks } => {
            names.insert((*dir, name.clone()), NEW);
            lines.insert(NEW, line(false, chunks));
        }
        Op::Mkdir { dir, name } => {
            names.insert((*dir, name.clone()), NEW);
            lines.insert(NEW, line(true, &[]));
        }
        Op::Write { at, chunks } => {
            lines.get_mut(&names[at]).expect("a line").chunks = Rc::from(chunks.as_slice())
        }
        Op::Chmod { at, mode } => lines.get_mut(&names[at]).expect("a line").mode = *mode,
        Op::Xattr { at, name, val } => {
            let xs = &mut lines.get_mut(&names[at]).expect("a line").xattrs;
            xs.retain(|x| x.0 != *name);
            xs.extend(val.map(|v| (*name, v)));
            xs.sort_unstable();
        }
        Op::Opaque { .. } => {}
        Op::Unlink { at } | Op::Rmdir { at } => {
            names.remove(at);
        }
        Op::Rename { from, dir, name } => {
            let i = names.remove(from).expect("allowed");
            names.insert((*dir, name.clone()), i);
        }
        Op::Link { at, dir, name } => {
            let i = names[at];
            names.insert((*dir, name.clone()), i);
        }
    }
    let mut count: BTreeMap<Ino, usize> = BTreeMap::new();
    for i in names.values() {
        *count.entry(*i).or_default() += 1;
    }
    Some(
        names
            .into_iter()
            .map(|(k, i)| (k, Line { links: count[&i], ..lines[&i].clone() }))
            .collect(),
    )
}

/// Whether any choice of groups may be stored without changing what is shown (a test of how repairs are cut).
pub fn groups_are_apart(
    state: &State,
    off: Off,
    mut choose: impl FnMut() -> bool,
) -> Option<String> {
    let before = Plain::read(&view(state, off), off).listing();
    let all = repairs(state, off);
    let chosen: BTreeSet<usize> = (0..all.groups.len()).filter(|_| choose()).collect();
    let mut next = state.clone();
    let dot = Dot { writer: u32::MAX, count: 1 };
    for r in chosen.iter().flat_map(|g| &all.groups[*g]) {
        next.apply(
            &Edit { key: r.key.clone(), val: r.val.clone(), drop: r.drop.clone(), dot },
            false,
        );
    }
    let after = Plain::read(&view(&next, off), off).listing();
    (before != after).then(|| {
        let gone: Vec<_> = before.iter().filter(|x| after.get(x.0) != Some(x.1)).collect();
        let come: Vec<_> = after.iter().filter(|x| before.get(x.0) != Some(x.1)).collect();
        format!(
            "storing groups {chosen:?} of {} shows: gone {gone:?}, come {come:?}",
            all.groups.len()
        )
    })
}
