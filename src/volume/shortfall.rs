//! Which files are not whole: what of each is not here, or damaged.
//!
//! Only names, inodes and content trees are read. Whether a chunk can be had,
//! the caller says.

use std::collections::{HashMap, HashSet};
use std::ops::AddAssign;

use super::{Tree, Volume};
use crate::format::namespace::{Content, Ino, Key, ROOT, Value};
use crate::format::node::{Id, Node};
use crate::store::{Result, StoreError};
use crate::tree::Source as _;
use crate::tree::content::range;

/// Whether something can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It can.
    Good,
    /// It is not here.
    Missing,
    /// Only damaged files have it.
    Damaged,
    /// The system does not let it be read.
    Unread,
}

/// Bytes of a file that cannot be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// Bytes that are not here.
    pub missing: u64,
    /// Bytes that only damaged files have.
    pub damaged: u64,
    /// Bytes that the system does not let be read.
    pub unread: u64,
}

impl Gap {
    fn of(presence: Presence, bytes: u64) -> Self {
        let mut gap = Self::default();
        match presence {
            Presence::Good => {}
            Presence::Missing => gap.missing = bytes,
            Presence::Damaged => gap.damaged = bytes,
            Presence::Unread => gap.unread = bytes,
        }
        gap
    }

    fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl AddAssign for Gap {
    fn add_assign(&mut self, more: Self) {
        self.missing = self.missing.saturating_add(more.missing);
        self.damaged = self.damaged.saturating_add(more.damaged);
        self.unread = self.unread.saturating_add(more.unread);
    }
}

/// A file that is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// The first of its names, a path without a slash in front.
    pub path: Vec<u8>,
    /// How many names it has.
    pub names: usize,
    /// Its size.
    pub size: u64,
    /// What of it cannot be had.
    pub gap: Gap,
}

/// What a look at all files found.
#[derive(Debug, Default)]
pub struct Inspection {
    /// Inodes and chunks looked at.
    pub checked: u64,
    /// Files that are not whole, by path.
    pub files: Vec<Shortfall>,
    /// Names, inodes and lengths that do not fit each other.
    pub disagreements: Vec<String>,
    /// Parts of the tree of names that could not be read.
    pub lost: Vec<StoreError>,
    /// Whether it ended early, because it had looked at as much as was allowed.
    pub stopped: bool,
}

/// Sorts an error by what it says of what could not be read; errors of local
/// state say nothing.
fn presence(error: StoreError) -> Result<Presence> {
    match error {
        StoreError::Missing { .. } => Ok(Presence::Missing),
        StoreError::Damaged { .. } => Ok(Presence::Damaged),
        StoreError::Io { .. } => Ok(Presence::Unread),
        other => Err(other),
    }
}

/// The namespace as it is read.
#[derive(Default)]
struct Names {
    /// Type, content, size and bytes of holes of each.
    inodes: HashMap<Ino, (u32, Content, u64, u64)>,
    /// Content of what lies beside inodes: long extended attributes, and recipes.
    beside: Vec<(Ino, Content, u64)>,
    entries: HashSet<(Ino, Vec<u8>, Ino)>,
    backs: HashSet<(Ino, Vec<u8>, Ino)>,
    /// The first name of each inode, and how many it has.
    first: HashMap<Ino, (Ino, Vec<u8>, usize)>,
}

impl Names {
    fn add(&mut self, key: Key, value: Value) {
        match (key, value) {
            (Key::Inode(ino), Value::Inode(inode)) => {
                let inode = (inode.kind(), inode.content, inode.size, inode.holes);
                self.inodes.insert(ino, inode);
            }
            (Key::Xattr(ino, _) | Key::Recipe(ino), value) => {
                let (content, size) = value.stored();
                self.beside.push((ino, content, size));
            }
            (Key::Entry(dir, _, name), Value::Entry(ino, _)) => {
                let first = self.first.entry(ino).or_insert_with(|| (dir, name.clone(), 0));
                first.2 += 1;
                if (dir, &name) < (first.0, &first.1) {
                    (first.0, first.1) = (dir, name.clone());
                }
                self.entries.insert((dir, name, ino));
            }
            (Key::Back(ino, dir, name), Value::Back) => {
                self.backs.insert((dir, name, ino));
            }
            _ => {}
        }
    }

    /// A path for people; of what has no name, the number.
    fn path(&self, ino: Ino) -> Vec<u8> {
        let (mut parts, mut at) = (Vec::new(), ino);
        while at != ROOT {
            // A path that goes on for ever is damage, which is told elsewhere.
            let Some((dir, name, _)) = self.first.get(&at).filter(|_| parts.len() < 4096) else {
                return format!("inode {ino}").into_bytes();
            };
            parts.push(name.as_slice());
            at = *dir;
        }
        parts.reverse();
        parts.join(&b'/')
    }

    fn count(&self, ino: Ino) -> usize {
        self.first.get(&ino).map_or(0, |first| first.2)
    }

    /// Every inode has a name, every entry an inode and a back reference, a
    /// directory one name.
    fn disagreements(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (dir, _, ino) in self.entries.symmetric_difference(&self.backs) {
            found.push(format!("inode {ino} and directory {dir} disagree about a name"));
        }
        for (dir, _, ino) in &self.entries {
            if !self.inodes.contains_key(dir) {
                found.push(format!("directory {dir} has an entry and no inode"));
            }
            if !self.inodes.contains_key(ino) {
                found.push(format!("inode {ino} has a name and no record"));
            }
        }
        for (ino, (kind, ..)) in &self.inodes {
            let (names, expected) = (self.count(*ino), usize::from(*ino != ROOT));
            if names < expected || (*kind == 0o040_000 && names > 1) {
                found.push(format!("inode {ino} has {names} names"));
            }
        }
        found.sort_unstable();
        found
    }
}

/// A walk through the content of files.
struct Walk<'a> {
    volume: &'a Volume,
    has: &'a dyn Fn(&Id) -> Result<Presence>,
    good: HashSet<Id>,
    bad: HashMap<Id, Presence>,
    looked: usize,
}

impl Walk<'_> {
    fn chunk(&mut self, id: &Id) -> Result<Presence> {
        if self.good.contains(id) {
            return Ok(Presence::Good);
        }
        if let Some(known) = self.bad.get(id) {
            return Ok(*known);
        }
        self.looked += 1;
        let presence = (self.has)(id)?;
        if presence == Presence::Good {
            self.good.insert(*id);
        } else {
            self.bad.insert(*id, presence);
        }
        Ok(presence)
    }

    /// What cannot be had of content of `len` bytes, and how many bytes it says it has.
    fn content(&mut self, content: &Content, len: u64) -> Result<(Gap, u64)> {
        match content {
            Content::None => Ok((Gap::default(), 0)),
            Content::Chunk(id) => Ok((Gap::of(self.chunk(id)?, len), len)),
            Content::Tree(id, level) => self.node((*id, *level), len),
        }
    }

    /// What cannot be had below a content node of `len` bytes, and how many
    /// bytes it says it has.
    fn node(&mut self, (id, level): (Id, u8), len: u64) -> Result<(Gap, u64)> {
        self.looked += 1;
        let node = match self.volume.store.node(&id) {
            Ok(node) => node,
            Err(error) => return Ok((Gap::of(presence(error)?, len), len)),
        };
        let (mut gap, mut total) = (Gap::default(), 0u64);
        match &*node {
            Node::ContentLeaf(runs) if level == 0 => {
                for run in runs {
                    total = total.saturating_add(run.total());
                    if !run.is_hole() {
                        gap += Gap::of(self.chunk(&run.id)?, run.total());
                    }
                }
            }
            Node::ContentBranch(at, children) if *at == level && level > 0 => {
                for child in children {
                    total = total.saturating_add(child.len);
                    gap += self.node((child.id, level - 1), child.len)?.0;
                }
            }
            _ => return Ok((Gap::of(Presence::Damaged, len), len)),
        }
        Ok((gap, total))
    }
}

impl Volume {
    /// Looks at all files of the commit. `has` tells whether a chunk can be
    /// had. With `limit` it ends after about so many inodes, nodes and chunks.
    pub fn inspect(
        &self,
        has: &dyn Fn(&Id) -> Result<Presence>,
        limit: usize,
    ) -> Result<Inspection> {
        let (mut names, mut found) = (Names::default(), Inspection::default());
        let mut decoded = Vec::new();
        self.tree().salvage(
            (Vec::new(), None),
            &mut |item| match Tree::decode(item) {
                Ok((key, value)) => names.add(key, value),
                Err(error) => decoded.push(error),
            },
            &mut |_, error| found.lost.push(error),
        );
        found.lost.extend(decoded);
        // Half a tree fits nothing.
        if found.lost.is_empty() {
            found.disagreements = names.disagreements();
        }
        let mut walk =
            Walk { volume: self, has, good: HashSet::new(), bad: HashMap::new(), looked: 0 };
        let mut beside: HashMap<Ino, Gap> = HashMap::new();
        for (ino, content, size) in &names.beside {
            *beside.entry(*ino).or_default() += walk.content(content, *size)?.0;
        }
        for (ino, (_, content, size, holes)) in &names.inodes {
            walk.looked += 1;
            if walk.looked > limit {
                found.stopped = true;
                break;
            }
            let beside = beside.get(ino).copied().unwrap_or_default();
            if *content == Content::None && beside.is_none() {
                continue;
            }
            let (mut gap, total) = match content {
                Content::None => (Gap::default(), *size),
                content => walk.content(content, *size)?,
            };
            gap += beside;
            let path = names.path(*ino);
            if total != *size && gap.is_none() {
                let path = String::from_utf8_lossy(&path);
                found.disagreements.push(format!("{path} has {total} of {size} bytes"));
            }
            // More holes than there are: cp and tar would leave data out.
            if let Content::Tree(id, level) = content
                && *holes > 0
                && gap.is_none()
            {
                let runs = range(&*self.store, (*id, *level), 0, u64::MAX)?;
                let empty = runs.iter().filter(|placed| placed.run.is_hole());
                let empty: u64 = empty.map(|placed| placed.run.len).sum();
                if *holes > empty {
                    let path = String::from_utf8_lossy(&path);
                    found
                        .disagreements
                        .push(format!("{path} counts {holes} bytes of holes and has {empty}"));
                }
            }
            if !gap.is_none() {
                let names = names.count(*ino);
                found.files.push(Shortfall { path, names, size: *size, gap });
            }
        }
        found.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        found.checked = (names.inodes.len() + walk.good.len() + walk.bad.len()) as u64;
        Ok(found)
    }

    /// Files of which something lies in objects that are not here; quick, so
    /// perhaps not all: whether it is all, comes with it.
    pub fn not_here(&self, limit: usize) -> Result<(Vec<Shortfall>, bool)> {
        let gone: HashSet<_> = self.store.missing().into_iter().filter_map(|n| n.hash()).collect();
        if gone.is_empty() {
            return Ok((Vec::new(), true));
        }
        if self.base().inherited.inodes > limit as u64 {
            return Ok((Vec::new(), false));
        }
        let here = |id: &Id| {
            let here = |name: &crate::format::commit::Name| {
                name.hash().is_none_or(|hash| !gone.contains(&hash))
            };
            Ok(if self.store.is_in(id, &here)? { Presence::Good } else { Presence::Missing })
        };
        let found = self.inspect(&here, limit)?;
        Ok((found.files, !found.stopped && found.lost.is_empty()))
    }
}
