//! Databases and the files beside them (`docs/merging.md`, section 6): a log is shown beside
//! the version of its database with which it was written, and beside no other.

use std::collections::BTreeSet;

use super::Knot;
use super::files::{Files, Side, origin};
use super::loaded::{Loaded, Version};
use super::place::{Link, Plan};
use super::show::{Shown, Tree, What, loser_number, put};
use super::{ConflictKind, Place, names};
use crate::format::namespace::{Ino, Key, NAME_MAX};
use crate::format::side_files::{SIDE_SUFFIXES, main_name};

/// A database with side files has the names that whoever wrote its version last saw: their
/// back references were written with it. Under another name it would stand without them.
pub(super) fn keep_names(loaded: &Loaded<'_>, files: &Files, plan: &mut Plan) {
    for side in files.sides.iter().filter(|side| files.first.contains_key(&side.ino)) {
        let versions = loaded.record(side.main).unwrap_or_default();
        let own = versions.iter().filter(|version| origin(version) == side.from);
        let Some(last) = own.map(|version| version.0).max() else { continue };
        let is_seen = |link: &Link| {
            let back = Key::Back(link.ino, link.dir, link.name.clone());
            let values = loaded.items.get(&back);
            values.into_iter().flatten().any(|(dot, _)| dot.writer == last.writer)
        };
        let Some(links) = plan.links.get_mut(&side.main) else { continue };
        if links.iter().any(is_seen) {
            links.retain(is_seen);
        } else {
            links.truncate(1);
        }
    }
}

/// A file that only its name makes a side file does not stand beside a database.
pub(super) fn set_apart(loaded: &Loaded<'_>, files: &Files, tree: &mut Tree) {
    let is_file = |shown: &Shown| match &shown.what {
        What::Dir => false,
        What::File => tree.best.get(&shown.ino).is_some_and(|(_, inode)| inode.is_file()),
        What::Loser { version, .. } => version.1.is_file(),
    };
    let mut loose: Vec<(Place, Shown)> = Vec::new();
    for (place, shown) in &tree.entries {
        let Some(main) = main_name(&place.1) else { continue };
        let beside = tree.entries.get(&(place.0, main.to_vec()));
        if is_file(shown) && beside.is_some_and(is_file) {
            loose.push((place.clone(), shown.clone()));
        }
    }
    for ((dir, name), shown) in loose {
        let main = main_name(&name).expect("it looks like a side file");
        // The tree of a single device has such pairs: its databases are tied to them.
        tree.ties.push((Knot::Name(dir, main.to_vec()), Knot::Ino(shown.ino)));
        tree.ties.push((Knot::Name(dir, name.clone()), Knot::Ino(shown.ino)));
        let version = match &shown.what {
            What::Loser { version, .. } => version.clone(),
            _ => files.best(shown.ino).expect("it is shown").clone(),
        };
        tree.entries.remove(&(dir, name.clone()));
        let wanted = names::loser(loaded, &name, shown.ino, origin(&version), version.1.mtime);
        tree.report(loaded, ConflictKind::Apart, (shown.ino, shown.ino), Some(&version));
        put(loaded, tree, dir, &wanted, shown);
    }
}

/// What a side file's name adds to that of its database.
fn suffix(loaded: &Loaded<'_>, plan: &Plan, side: &Side) -> &'static [u8] {
    let of = |name: &[u8]| {
        let is_side = main_name(name).is_some();
        SIDE_SUFFIXES.into_iter().find(|suffix| is_side && name.ends_with(suffix))
    };
    let backs = |is_own: bool| {
        let maker = side.version.0.writer;
        loaded.backs(side.ino).find_map(|(key, values)| match key {
            Key::Back(_, _, name) if !is_own || values.iter().any(|(d, _)| d.writer == maker) => {
                of(name)
            }
            _ => None,
        })
    };
    // Whoever wrote this version of it wrote its names again with it. Another device may have
    // given it another one.
    let mut links = plan.links.get(&side.ino).into_iter().flatten();
    let shown = || links.find_map(|link| of(&link.name));
    backs(true).or_else(shown).or_else(|| backs(false)).unwrap_or(b"-wal")
}

/// The file that shows the version of the database with which a side file goes, and whether
/// somebody stored it as a file of its own.
fn database(loaded: &Loaded<'_>, files: &Files, side: &Side) -> (Ino, bool) {
    let is_winner = origin(&files.plain[&side.main][0]) == side.from;
    if is_winner { (side.main, false) } else { loser_number(loaded, side.main, side.from) }
}

/// A database beside which there is no room for a side file of it gets another name. Returns
/// the names of those.
fn make_room(loaded: &Loaded<'_>, plan: &Plan, files: &Files, tree: &mut Tree) -> BTreeSet<Place> {
    let mut moved = BTreeSet::new();
    for side in &files.sides {
        let (db, is_stored) = database(loaded, files, side);
        let suffix = suffix(loaded, plan, side);
        let is_crowded = |(place, shown): &(&Place, &Shown)| {
            let beside = [&place.1, suffix].concat();
            let is_long = beside.len() > NAME_MAX;
            shown.ino == db && (is_long || tree.entries.contains_key(&(place.0, beside)))
        };
        let crowded = tree.entries.iter().filter(is_crowded).map(|(place, _)| place.clone());
        let crowded: Vec<Place> = if is_stored { Vec::new() } else { crowded.collect() };
        for (dir, name) in crowded {
            let beside = [&name, suffix].concat();
            tree.ties.push((Knot::Name(dir, beside), Knot::Ino(db)));
            tree.ties.push((Knot::Name(dir, name.clone()), Knot::Ino(db)));
            let shown = tree.entries.remove(&(dir, name.clone())).expect("it is shown");
            moved.insert((dir, put(loaded, tree, dir, &names::numbered(&name, 2), shown)));
        }
    }
    moved
}

/// Each side file stands beside the version of its database with which it goes.
pub(super) fn pair_up(
    loaded: &Loaded<'_>,
    plan: &Plan,
    files: &Files,
    canon: &dyn Fn(Ino) -> Ino,
    tree: &mut Tree,
) {
    let moved = make_room(loaded, plan, files, tree);
    for (at, side) in files.sides.iter().enumerate() {
        let (ino, from) = (side.ino, side.from);
        let suffix = suffix(loaded, plan, side);
        let (db, is_stored) = database(loaded, files, side);
        let is_first = files.first.get(&ino) == Some(&at);
        tree.ties.push((Knot::Ino(ino), Knot::Ino(db)));
        // Somebody stored the database, and this with it, as files of their own already.
        if is_stored {
            let number = loaded.loser_number(ino, from);
            tree.ties.push((Knot::Ino(ino), Knot::Ino(number)));
            let stored = [db, number].into_iter().filter(|ino| loaded.record(*ino).is_some());
            tree.heirs.extend(stored);
            continue;
        }
        let mut number = ino;
        while number == ino && !is_first || number != ino && loaded.record(number).is_some() {
            number = loaded.loser_number(number, from);
            tree.ties.push((Knot::Ino(ino), Knot::Ino(number)));
        }
        let of_main = |shown: &(&Place, &Shown)| shown.1.ino == db;
        let names: Vec<Place> =
            tree.entries.iter().filter(of_main).map(|(place, _)| place.clone()).collect();
        let is_own = |place: &&Place| {
            let name = [&place.1, suffix].concat();
            let mut links = plan.links.get(&ino).into_iter().flatten();
            moved.contains(*place)
                || links.any(|link| canon(link.dir) == place.0 && link.name == name)
        };
        let mut places: Vec<Place> = names.iter().filter(is_own).cloned().collect();
        if !is_first || places.is_empty() {
            places = names.into_iter().take(1).collect();
        }
        // A database that is not shown shows none of its side files.
        for place in places {
            stand_beside(loaded, tree, side, place, suffix, (number, db), is_first);
        }
    }
    // Whatever became of them: what is said of one may change what is said of the other.
    for (ino, all) in &loaded.records {
        let mains = all.iter().filter_map(|(_, inode): &Version| inode.history.main);
        tree.ties.extend(mains.map(|(main, _)| (Knot::Ino(*ino), Knot::Ino(main))));
    }
}

fn stand_beside(
    loaded: &Loaded<'_>,
    tree: &mut Tree,
    side: &Side,
    (dir, mut name): Place,
    suffix: &[u8],
    (number, db): (Ino, Ino),
    is_first: bool,
) {
    let what = if is_first {
        What::File
    } else {
        What::Loser { of: side.ino, version: side.version.clone() }
    };
    tree.mains.insert(number, (db, side.from));
    let mut beside = [&name, suffix].concat();
    loaded.request_name(dir, &beside);
    if tree.entries.contains_key(&(dir, beside.clone())) {
        // It had two names, and a log at each.
        let again = tree.entries[&(dir, name.clone())].clone();
        let wanted = names::numbered(&name, 2);
        name = put(loaded, tree, dir, &wanted, again);
        beside = [&name, suffix].concat();
    }
    tree.ties.push((Knot::Name(dir, beside.clone()), Knot::Ino(number)));
    tree.entries.insert((dir, beside), Shown { ino: number, what });
}
