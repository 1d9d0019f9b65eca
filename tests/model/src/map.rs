//! The namespace map: keys, values with dots, edits, join. Everything here is a pure function.
//!
//! A dot is (writer, count). A writer is a number that every mount draws at random; it is also the prefix of the
//! inode numbers made in that mount. The count is the sequence number of the journal record that made the change.
//! So a dot is known when the change is acknowledged, it is the same when the journal is replayed, and whoever
//! copies a device's state has a prefix of what its writers wrote: a dot never names two values.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

pub type Writer = u32;
pub type Ino = u64;
/// A chunk or a node. Nodes have the top bit set.
pub type Ref = u64;
pub const NODE: Ref = 1 << 63;
pub const ROOT: Ino = 1;
pub type Name = Rc<str>;
/// Highest count seen of each writer.
pub type Seen = BTreeMap<Writer, u32>;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Dot {
    pub writer: Writer,
    pub count: u32,
}

impl Dot {
    pub const LEAST: Dot = Dot { writer: 0, count: 0 };
}

/// The database that a side file belongs to, by their names (one kind of side file stands for all).
pub fn main_of(name: &str) -> Option<&str> {
    name.strip_suffix("-wal").filter(|base| !base.ends_with("-wal"))
}

pub fn side_of(name: &str) -> Name {
    Rc::from(format!("{name}-wal"))
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    Inode(Ino),
    Xattr(Ino, u8),
    /// inode, parent, name
    Back(Ino, Ino, Name),
    /// directory, name
    Entry(Ino, Name),
    /// A kind that an old program does not know. Its value names chunks.
    Opaque(Ino, u8),
}

impl Key {
    pub fn ino(&self) -> Ino {
        match self {
            Key::Inode(i)
            | Key::Xattr(i, _)
            | Key::Back(i, ..)
            | Key::Entry(i, _)
            | Key::Opaque(i, _) => *i,
        }
    }
}

/// An inode record. Content (chunks, mtime) and attributes (mode, ctime) each have their own versions list.
/// `token` and `life` are not in the format: they are how the oracle recognises which acknowledged change a value
/// carries (token: content; life: the operation that stamped it).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Rec {
    pub dir: bool,
    pub chunks: Rc<[Ref]>,
    pub mode: u32,
    pub mtime: i64,
    pub ctime: i64,
    /// Versions of the content that this one replaced, in runs, and last the run that ends with its own origin.
    /// Empty where the dot of the value is the origin and nothing was replaced. At most `HISTORY`.
    pub history: Versions,
    /// Versions of the attributes that this one replaced, in runs as in `history`.
    pub attrs: Versions,
    /// Files that this one was renamed over: their numbers, and their versions then. A run holds record numbers of
    /// other files too, so it counts only together with the inode number.
    pub over: Rc<[(Ino, Versions)]>,
    /// Of a side file: the database with which it goes, and the origin of that one's version.
    pub main: Option<(Ino, Dot)>,
    pub token: u32,
    pub life: u32,
}
pub type Versions = Rc<[Run]>;
pub const HISTORY: usize = 32;
pub const OVER: usize = 8;

/// Versions of one file that one writer made, each in the place of the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Run {
    pub writer: Writer,
    pub first: u32,
    pub last: u32,
}

impl Run {
    pub fn of(dot: Dot) -> Self {
        Run { writer: dot.writer, first: dot.count, last: dot.count }
    }

    pub fn has(&self, dot: Dot) -> bool {
        self.writer == dot.writer && (self.first..=self.last).contains(&dot.count)
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Val {
    Inode(Rc<Rec>),
    Back,
    Entry(Ino),
    /// An extended attribute; none: it was removed (a tombstone, which goes with its inode).
    Xattr(Option<u32>, Versions),
    Opaque(Rc<[Ref]>),
}

/// Values of one key, ascending by dot.
pub type Vals = Vec<(Dot, Val)>;

#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct State {
    pub items: BTreeMap<Key, Vals>,
    pub seen: Seen,
}

/// One edit, as the journal has it: it names the values that it replaces, which its maker saw.
#[derive(Clone, Debug)]
pub struct Edit {
    pub key: Key,
    pub val: Option<Val>,
    /// Dots of the values that it takes away.
    pub drop: Vec<Dot>,
    pub dot: Dot,
}

pub fn covers(seen: &Seen, dot: Dot) -> bool {
    seen.get(&dot.writer).is_some_and(|c| *c >= dot.count)
}

pub fn covers_all(a: &Seen, b: &Seen) -> bool {
    b.iter().all(|(w, c)| covers(a, Dot { writer: *w, count: *c }))
}

/// A value on one side only is kept unless the other side has seen its dot. Commutative, associative, idempotent.
pub fn join(a: &State, b: &State) -> State {
    let mut out = State { items: BTreeMap::new(), seen: a.seen.clone() };
    for (w, c) in &b.seen {
        let have = out.seen.entry(*w).or_insert(0);
        *have = (*have).max(*c);
    }
    for (key, va) in &a.items {
        let empty = Vec::new();
        let vb = b.items.get(key).unwrap_or(&empty);
        let mut vals: Vals = Vec::new();
        for v in va {
            match vb.iter().find(|o| o.0 == v.0) {
                // One change, cut in two ways by two copies of a device: either will do, the same for all.
                Some(o) => vals.push(v.clone().min(o.clone())),
                None if !covers(&b.seen, v.0) => vals.push(v.clone()),
                None => {}
            }
        }
        vals.extend(vb.iter().filter(|v| !covers(&a.seen, v.0)).cloned());
        vals.sort();
        if !vals.is_empty() {
            out.items.insert(key.clone(), vals);
        }
    }
    for (key, vb) in &b.items {
        if !a.items.contains_key(key) {
            let vals: Vals = vb.iter().filter(|v| !covers(&a.seen, v.0)).cloned().collect();
            if !vals.is_empty() {
                out.items.insert(key.clone(), vals);
            }
        }
    }
    out
}

impl State {
    /// Applies an edit. `all`: replace whatever is there (a wrong rule, for the mutation check).
    pub fn apply(&mut self, edit: &Edit, all: bool) {
        let vals = self.items.entry(edit.key.clone()).or_default();
        // One record may edit a key twice (settle it, then change it): the later edit counts.
        vals.retain(|(d, _)| {
            !(all || edit.drop.contains(d) || (*d == edit.dot && edit.val.is_some()))
        });
        if let Some(val) = &edit.val {
            vals.push((edit.dot, val.clone()));
            vals.sort();
        }
        if vals.is_empty() {
            self.items.remove(&edit.key);
        }
        self.seen.insert(edit.dot.writer, edit.dot.count);
    }

    /// Takes away what an edit took away, and no more.
    pub fn drop_only(&mut self, edit: &Edit) {
        if let Some(vals) = self.items.get_mut(&edit.key) {
            vals.retain(|(d, _)| *d == edit.dot || !edit.drop.contains(d));
            if vals.is_empty() {
                self.items.remove(&edit.key);
            }
        }
    }

    /// What lies beside an inode's record: back references, attributes, opaque values.
    pub fn beside(&self, ino: Ino) -> impl Iterator<Item = (&Key, &Vals)> {
        let xattrs = self.items.range(Key::Xattr(ino, 0)..=Key::Xattr(ino, u8::MAX));
        let backs = self
            .items
            .range(Key::Back(ino, 0, Rc::from(""))..)
            .take_while(move |e| matches!(e.0, Key::Back(i, ..) if *i == ino));
        xattrs.chain(backs).chain(self.items.range(Key::Opaque(ino, 0)..=Key::Opaque(ino, u8::MAX)))
    }

    pub fn inode(&self, ino: Ino) -> Option<&Vals> {
        self.items.get(&Key::Inode(ino))
    }

    /// Chunks that the values name; `old`: as a program sees it that does not know the opaque kind.
    pub fn data<'a>(&'a self, old: bool) -> impl Iterator<Item = (Dot, Ref)> + 'a {
        self.items.values().flatten().flat_map(move |(dot, val)| {
            let refs: Rc<[Ref]> = match val {
                Val::Inode(rec) => rec.chunks.clone(),
                Val::Opaque(refs) if !old => refs.clone(),
                _ => Rc::from([]),
            };
            (0..refs.len()).map(move |i| (*dot, refs[i]))
        })
    }

    /// The nodes of its tree: a leaf for each inode, and a root.
    pub fn nodes(&self) -> (Ref, Vec<(Ref, Node)>) {
        let mut leaves: BTreeMap<Ino, Vec<(Key, Vals)>> = BTreeMap::new();
        for (key, vals) in &self.items {
            leaves.entry(key.ino()).or_default().push((key.clone(), vals.clone()));
        }
        let mut nodes: Vec<(Ref, Node)> = leaves
            .into_values()
            .map(|items| (node_id(&items), Node::Leaf(Rc::new(items))))
            .collect();
        let ids: Vec<Ref> = nodes.iter().map(|n| n.0).collect();
        let root = node_id(&(&ids, &self.seen));
        nodes.push((root, Node::Root(Rc::new((ids, self.seen.clone())))));
        (root, nodes)
    }
}

#[derive(Clone, Debug)]
pub enum Node {
    Leaf(Rc<Vec<(Key, Vals)>>),
    Root(Rc<(Vec<Ref>, Seen)>),
}

pub fn hash64<T: Hash>(value: &T) -> u64 {
    #[allow(deprecated)]
    let mut h = std::hash::SipHasher::new();
    value.hash(&mut h);
    h.finish()
}

fn node_id<T: Hash>(value: &T) -> Ref {
    hash64(value) | NODE
}

/// The change that made a version, of a value with this dot and this versions list.
pub fn origin(dot: Dot, runs: &[Run]) -> Dot {
    runs.last().map_or(dot, |r| Dot { writer: r.writer, count: r.last })
}

/// The versions list of a value that is written again unchanged: the origin stays.
pub fn kept(dot: Dot, runs: &Versions) -> Versions {
    if runs.is_empty() { Rc::from([Run::of(dot)]) } else { runs.clone() }
}

/// Whether the version `b` was made in the place of the version `a`, at once or by way of others.
pub fn replaces(b: (Dot, &[Run]), a: (Dot, &[Run])) -> bool {
    let (oa, ob) = (origin(a.0, a.1), origin(b.0, b.1));
    oa != ob && b.1.iter().any(|run| run.has(oa))
}

/// The versions list of a new version with this dot, in the place of the `old` ones. A run grows only where the
/// value that it ends with stands under its own dot: then the writer made nothing of that file in between.
pub fn replaced(old: &[(Dot, Versions)], dot: Dot) -> Versions {
    let mut own = Run::of(dot);
    for (d, runs) in old.iter().filter(|o| o.0.writer == dot.writer && origin(o.0, &o.1) == o.0) {
        own.first = own.first.min(kept(*d, runs).last().expect("a run").first);
    }
    merged(old, own)
}

/// All versions in `old`, and last the run of the version that goes on.
pub fn merged(old: &[(Dot, Versions)], own: Run) -> Versions {
    let mut history: Vec<Run> = old.iter().flat_map(|(d, runs)| kept(*d, runs).to_vec()).collect();
    history.retain(|r| !(r.writer == own.writer && r.first >= own.first && r.last <= own.last));
    let mut seen: Vec<Run> = Vec::new();
    for r in history {
        match seen.iter_mut().find(|s| s.writer == r.writer && s.first == r.first) {
            Some(s) => s.last = s.last.max(r.last),
            None => seen.push(r),
        }
    }
    seen.push(own);
    let from = seen.len().saturating_sub(HISTORY);
    Rc::from(&seen[from..])
}
