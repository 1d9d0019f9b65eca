//! What is shown, as keys with one value each.

use std::collections::BTreeMap;

use super::ROOT;
use super::files::{attributes, origin, same_bytes, xattr};
use super::loaded::{Loaded, Version};
use super::show::{Shown, Tree, What};
use crate::format::clock::Dot;
use crate::format::namespace::{Ino, Inode, Key, Value, Xattr};
use crate::format::versions::Versions;

/// Keys and the one value that each is to have.
pub(super) type Target = BTreeMap<Key, Value>;

/// All keys of what is shown.
pub(super) fn target(loaded: &Loaded<'_>, tree: &Tree) -> Target {
    let mut target = Target::new();
    own(loaded, tree, ROOT, &mut target);
    for ((dir, name), shown) in &tree.entries {
        let Shown { ino, what } = shown;
        match what {
            What::Dir | What::File => own(loaded, tree, *ino, &mut target),
            What::Loser { of, version } => loser(loaded, *ino, *of, version, &mut target),
        }
        let Some(Value::Inode(inode)) = target.get_mut(&Key::Inode(*ino)) else { continue };
        let kind = inode.kind();
        if let Some(main) = tree.mains.get(ino)
            && inode.history.main != Some(*main)
        {
            inode.history.main = Some(*main);
            // The value is another one now: its own dot is no longer its origin.
            if let Some((dot, _)) = loaded.records.get(ino).and_then(|all| all.last()) {
                inode.history.content = inode.history.content.kept(*dot);
                inode.history.attributes = inode.history.attributes.kept(*dot);
            }
        }
        target.insert(loaded.entry(*dir, name), Value::Entry(*ino, kind));
        target.insert(Key::Back(*ino, *dir, name.clone()), Value::Back);
    }
    target
}

/// The lists of several versions, settled by the one that stays.
fn settled(all: &[Version], stays: &Version, list: impl Fn(&Inode) -> &Versions) -> Versions {
    let lists: Vec<(Dot, &Versions)> = all.iter().map(|(dot, inode)| (*dot, list(inode))).collect();
    Versions::settling(&lists, (stays.0, list(&stays.1)))
}

/// Takes over the attributes of another record of the inode, and the list of all versions of
/// them.
fn take_attributes(inode: &mut Inode, all: &[Version], newest: &Version) {
    let other = &newest.1;
    inode.mode = other.mode;
    inode.uid = other.uid;
    inode.gid = other.gid;
    inode.rdev = other.rdev;
    inode.ctime = other.ctime;
    inode.atime = other.atime;
    inode.flags = other.flags;
    inode.project = other.project;
    inode.unknown.clone_from(&other.unknown);
    inode.history.attributes = settled(all, newest, |inode| &inode.history.attributes);
}

/// The record that an inode is to have, of several.
fn record(tree: &Tree, ino: Ino, all: &[Version]) -> Inode {
    let last = all.last().expect("an inode has a record");
    if all.len() == 1 {
        return (*last.1).clone();
    }
    let newest = attributes(all);
    let Some(best) = tree.best.get(&ino) else {
        // A directory: beside its attributes it has its times.
        let mut inode = (*last.1).clone();
        inode.mtime = all.iter().map(|(_, inode)| inode.mtime).max().expect("several records");
        inode.history.content = settled(all, last, |inode| &inode.history.content);
        take_attributes(&mut inode, all, &newest);
        return inode;
    };
    let from = origin(best);
    let is_apart = |from: Dot| tree.bound.contains(&(ino, from));
    let is_same = |version: &&Version| {
        let (main, of) = (version.1.history.main, origin(version));
        let is_equal = same_bytes(&version.1, &best.1);
        if best.1.history.main.is_some() || main.is_some() {
            main == best.1.history.main && is_equal
        } else {
            of == from || is_equal && !is_apart(of) && !is_apart(from)
        }
    };
    let mine: Vec<Version> = all.iter().filter(is_same).cloned().collect();
    let mut inode = (*best.1).clone();
    inode.history.content = settled(&mine, best, |inode| &inode.history.content);
    take_attributes(&mut inode, all, &newest);
    inode
}

/// An inode under its own number, and what lies beside its record.
fn own(loaded: &Loaded<'_>, tree: &Tree, ino: Ino, target: &mut Target) {
    let Some(all) = loaded.records.get(&ino) else { return };
    let inode = record(tree, ino, all);
    let content = inode.history.content.origin(all.last().expect("an inode has a record").0);
    target.insert(Key::Inode(ino), Value::Inode(Box::new(inode)));
    for (key, values) in loaded.beside(ino) {
        let value = match (key, values.as_slice()) {
            (Key::Back(..), _) => continue,
            (_, [(_, only)]) => only.clone(),
            (Key::Xattr(..), values) => {
                let Some((dot, newest)) = xattr(values) else { continue };
                let lists: Vec<(Dot, &Versions)> = values
                    .iter()
                    .filter_map(|(dot, value)| match value {
                        Value::Xattr(xattr) => Some((*dot, &xattr.versions)),
                        _ => None,
                    })
                    .collect();
                let versions = Versions::settling(&lists, (dot, &newest.versions));
                Value::Xattr(Xattr { versions, state: newest.state.clone() })
            }
            // The recipe of the content that stays; a kind that is not known stays as it is.
            (_, values) => {
                let is_of = |value: &&Value| matches!(value, Value::Recipe(recipe) if recipe.origin == content);
                let mut all = values.iter().rev().map(|(_, value)| value);
                let last = values.last().map(|(_, value)| value);
                let Some(value) = all.find(is_of).or(last) else { continue };
                value.clone()
            }
        };
        target.insert(key.clone(), value);
    }
}

/// A version that lost, as a file of its own: with the attributes that its file shows.
fn loser(loaded: &Loaded<'_>, ino: Ino, of: Ino, version: &Version, target: &mut Target) {
    let Some(all) = loaded.records.get(&of) else { return };
    let newest = attributes(all);
    let mut inode = (*version.1).clone();
    take_attributes(&mut inode, all, &newest);
    inode.history.attributes = newest.1.history.attributes.kept(newest.0);
    inode.history.content = version.1.history.content.alone(version.0);
    target.insert(Key::Inode(ino), Value::Inode(Box::new(inode)));
    for (key, values) in loaded.beside(of) {
        match key {
            Key::Xattr(_, name) => {
                let Some((dot, shown)) = xattr(values) else { continue };
                if !shown.is_removed() {
                    let versions = shown.versions.kept(dot);
                    let value = Value::Xattr(Xattr { versions, state: shown.state.clone() });
                    target.insert(Key::Xattr(ino, name.clone()), value);
                }
            }
            Key::Recipe(_) => {
                let is_of = |value: &&Value| matches!(value, Value::Recipe(recipe) if recipe.origin == origin(version));
                let recipe = values.iter().rev().map(|(_, value)| value).find(is_of);
                if let Some(recipe) = recipe {
                    target.insert(Key::Recipe(ino), recipe.clone());
                }
            }
            _ => {}
        }
    }
}

/// A value that is written again under another dot than this.
pub(super) fn written_again(dot: Dot, value: &Value) -> Value {
    let mut value = value.clone();
    match &mut value {
        Value::Inode(inode) => {
            inode.history.content = inode.history.content.kept(dot);
            inode.history.attributes = inode.history.attributes.kept(dot);
        }
        Value::Xattr(xattr) => xattr.versions = xattr.versions.kept(dot),
        _ => {}
    }
    value
}
