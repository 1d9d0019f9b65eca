//! The shape that a namespace must have: every inode has a name, every entry an
//! inode and a back reference, a directory one name.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::super::{Tree as View, Volume, values};
use crate::format::namespace::{Ino, Inode, Key, Owner, ROOT, Value};
use crate::format::node::MapItem;

const DIRECTORY: u32 = 0o040_000;
/// Where inodes without a name go.
const FOUND: &[u8] = b"lost+found";

/// Names of inodes; parent and name each.
pub(super) type Names = BTreeMap<Ino, BTreeSet<(Ino, Vec<u8>)>>;

/// The namespace, taken apart.
pub(super) struct Tree {
    pub items: BTreeMap<Vec<u8>, MapItem>,
    pub inodes: BTreeMap<Ino, Inode>,
    /// Directory and name, to inode.
    pub entries: BTreeMap<(Ino, Vec<u8>), Ino>,
    pub changes: Vec<String>,
}

impl Tree {
    pub fn names(&self) -> Names {
        let mut names = Names::new();
        for ((dir, name), ino) in &self.entries {
            names.entry(*ino).or_default().insert((*dir, name.clone()));
        }
        names
    }

    fn is_dir(&self, ino: Ino) -> bool {
        self.inodes.get(&ino).is_some_and(Inode::is_dir)
    }

    /// Inodes that a walk from the root meets.
    fn reached(&self) -> HashSet<Ino> {
        let mut reached = HashSet::from([ROOT]);
        let mut ahead = vec![ROOT];
        while let Some(dir) = ahead.pop() {
            let below = self.entries.range((dir, Vec::new())..).take_while(|(key, _)| key.0 == dir);
            for (_, ino) in below {
                if reached.insert(*ino) && self.is_dir(*ino) {
                    ahead.push(*ino);
                }
            }
        }
        reached
    }

    /// The path of an inode by its first names.
    pub fn path(names: &Names, ino: Ino) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut at = ino;
        while at != ROOT {
            let Some((dir, name)) = names.get(&at).and_then(BTreeSet::first) else { break };
            parts.push(name.as_slice());
            at = *dir;
        }
        parts.reverse();
        parts.join(&b'/')
    }
}

impl Volume {
    /// Takes items apart; what cannot be read is left out.
    pub(super) fn take_apart(items: BTreeMap<Vec<u8>, MapItem>) -> Tree {
        let mut tree = Tree {
            items: BTreeMap::new(),
            inodes: BTreeMap::new(),
            entries: BTreeMap::new(),
            changes: Vec::new(),
        };
        let mut backs = Vec::new();
        for (bytes, item) in items {
            let decoded = Key::decode(&bytes).ok().and_then(|key| {
                let value = View::value_of(&key, &item).ok()?;
                Some((key, value))
            });
            match decoded {
                Some((Key::Inode(ino), Value::Inode(inode))) => {
                    tree.inodes.insert(ino, *inode);
                }
                Some((Key::Entry(dir, _, name), Value::Entry(ino, _))) => {
                    tree.entries.insert((dir, name), ino);
                }
                Some((Key::Back(ino, dir, name), Value::Back)) => backs.push((ino, dir, name)),
                Some(_) => {}
                None => {
                    tree.changes.push("an item that cannot be read was left out".into());
                    continue;
                }
            }
            tree.items.insert(bytes, item);
        }
        // What a lost part of a directory named, the inodes remember.
        for (ino, dir, name) in backs {
            if tree.inodes.contains_key(&ino) {
                tree.entries.entry((dir, name)).or_insert(ino);
            }
        }
        tree
    }

    /// Gives the tree the shape that a tree must have.
    pub(super) fn mend(&self, tree: &mut Tree) {
        self.give_inodes(tree);
        // A directory has one name.
        for (ino, names) in tree.names() {
            if tree.is_dir(ino) {
                let spare = usize::from(ino != ROOT);
                for place in names.into_iter().skip(spare) {
                    tree.entries.remove(&place);
                }
            }
        }
        loop {
            let (reached, names) = (tree.reached(), tree.names());
            let lost: Vec<Ino> =
                tree.inodes.keys().filter(|ino| !reached.contains(ino)).copied().collect();
            // Of what hangs together the top; in a circle there is none.
            let mut tops: Vec<Ino> =
                lost.iter().filter(|ino| !names.contains_key(ino)).copied().collect();
            if tops.is_empty() {
                let Some(first) = lost.first() else { break };
                tops.push(*first);
                tree.entries.retain(|_, named| named != first);
            }
            let found = self.found(tree);
            for ino in tops {
                tree.entries.insert((found, format!("inode-{ino}").into_bytes()), ino);
                tree.changes
                    .push(format!("inode {ino} has no name: it is lost+found/inode-{ino} now"));
            }
        }
        self.write_names(tree);
    }

    /// Directories without an inode get a new one; names of nothing go.
    fn give_inodes(&self, tree: &mut Tree) {
        let dirs: BTreeSet<Ino> = tree.entries.keys().map(|(dir, _)| *dir).chain([ROOT]).collect();
        for dir in dirs {
            if !tree.inodes.contains_key(&dir) {
                let what = if dir == ROOT { "the root".into() } else { format!("directory {dir}") };
                tree.changes.push(format!("{what} lost its owner, mode and times"));
                let mut inode = self.directory();
                if dir == ROOT {
                    inode.mode = DIRECTORY | 0o755;
                }
                self.put(tree, &Key::Inode(dir), &Value::Inode(Box::new(inode.clone())));
                tree.inodes.insert(dir, inode);
            }
        }
        let (inodes, before) = (&tree.inodes, tree.entries.len());
        tree.entries.retain(|(dir, _), ino| {
            inodes.contains_key(ino) && inodes.get(dir).is_some_and(Inode::is_dir)
        });
        let gone = before - tree.entries.len();
        if gone > 0 {
            tree.changes.push(format!("{gone} names whose files are gone were left out"));
        }
    }

    /// Entries and back references as `tree.entries` has them; what belongs to
    /// no inode is left out.
    fn write_names(&self, tree: &mut Tree) {
        let ids = &self.store.context().ids;
        let mut wanted: BTreeMap<Vec<u8>, (Key, Value)> = BTreeMap::new();
        for ((dir, name), ino) in &tree.entries {
            let entry = Key::Entry(*dir, ids.name_hash(name), name.clone());
            let back = Key::Back(*ino, *dir, name.clone());
            let kind = tree.inodes[ino].kind();
            wanted.insert(back.encode(), (back, Value::Back));
            wanted.insert(entry.encode(), (entry, Value::Entry(*ino, kind)));
        }
        let inodes = &tree.inodes;
        let before = tree.items.len();
        tree.items.retain(|bytes, _| match Key::decode(bytes) {
            Ok(Key::Entry(..) | Key::Back(..)) => wanted.contains_key(bytes),
            Ok(Key::Xattr(ino, _) | Key::Recipe(ino)) => inodes.contains_key(&ino),
            _ => true,
        });
        let mut changed = before - tree.items.len();
        for (bytes, (key, value)) in wanted {
            let same = |item: &MapItem| View::value_of(&key, item).is_ok_and(|old| old == value);
            if !tree.items.get(&bytes).is_some_and(same) {
                changed += 1;
                self.put(tree, &key, &value);
            }
        }
        if changed > 0 {
            tree.changes.push(format!("{changed} entries of directories were set right"));
        }
    }

    fn put(&self, tree: &mut Tree, key: &Key, value: &Value) {
        let (key, item) = values::single(key.encode(), self.repair_dot(), value.encode());
        tree.items.insert(key, item);
    }

    fn directory(&self) -> Inode {
        let now = self.world.clock.now();
        Inode::new(DIRECTORY | 0o700, Owner::SelfOwned, Owner::SelfOwned, now)
    }

    /// The directory for what has no name.
    fn found(&self, tree: &mut Tree) -> Ino {
        let mut name = FOUND.to_vec();
        loop {
            match tree.entries.get(&(ROOT, name.clone())) {
                Some(ino) if tree.is_dir(*ino) => return *ino,
                Some(_) => name.push(b'+'),
                None => break,
            }
        }
        let mut ino = ROOT;
        while ino <= ROOT || tree.inodes.contains_key(&ino) {
            let mut bytes = [0; 8];
            self.world.random.fill(&mut bytes);
            ino = u64::from_le_bytes(bytes) >> 1;
        }
        let inode = self.directory();
        self.put(tree, &Key::Inode(ino), &Value::Inode(Box::new(inode.clone())));
        tree.inodes.insert(ino, inode);
        tree.entries.insert((ROOT, name), ino);
        ino
    }
}
