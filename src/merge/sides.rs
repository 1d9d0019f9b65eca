//! Databases and the files beside them (`docs/merging.md`, section 6): a log is shown beside
//! the version of its database with which it was written, and beside no other.

use std::collections::BTreeMap;

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
    let firsts = files.sides.iter().enumerate();
    for (_, side) in firsts.filter(|(at, side)| files.first.get(&side.ino) == Some(at)) {
        let versions = loaded.record(side.main).unwrap_or_default();
        let own = versions.iter().filter(|version| origin(version) == side.from);
        let Some(last) = own.map(|version| version.0).max() else { continue };
        let is_seen =
            |link: &Link| loaded.is_name_of(link.ino, (link.dir, &link.name), last.writer);
        let Some(links) = plan.links.get_mut(&side.main) else { continue };
        // Beside a name that is like a side file's there is no room for one.
        let has_room = |link: &Link| !names::is_like_side(&link.name);
        if links.iter().any(|link| has_room(link) && is_seen(link)) {
            links.retain(is_seen);
        } else {
            let at = links.iter().position(has_room).unwrap_or(0);
            *links = vec![links[at].clone()];
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
    let version = |shown: &Shown| match &shown.what {
        What::Loser { version, .. } => version.clone(),
        _ => files.best(shown.ino).expect("it is shown").clone(),
    };
    // One file may have both names, or go with this very version by another of its names.
    let is_apart = |side: &Shown, main: &Shown| {
        let of = match main.what {
            What::Loser { of, .. } => of,
            _ => main.ino,
        };
        let goes_with = (of, origin(&version(main)));
        side.ino != main.ino && version(side).1.history.main != Some(goes_with)
    };
    let mut loose: Vec<(Place, Shown)> = Vec::new();
    for (place, shown) in &tree.entries {
        let Some(main) = main_name(&place.1) else { continue };
        let Some(beside) = tree.entries.get(&(place.0, main.to_vec())) else { continue };
        if is_file(shown) && is_file(beside) && is_apart(shown, beside) {
            loose.push((place.clone(), shown.clone()));
        }
    }
    for ((dir, name), shown) in loose {
        let main = main_name(&name).expect("it looks like a side file");
        // The tree of a single device has such pairs: its databases are tied to them.
        tree.ties.push((Knot::Name(dir, main.to_vec()), Knot::Ino(shown.ino)));
        tree.ties.push((Knot::Name(dir, name.clone()), Knot::Ino(shown.ino)));
        let version = version(&shown);
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
    if is_winner { (side.main, false) } else { loser_number(loaded, files, side.main, side.from) }
}

/// A side file that is to be shown.
struct Beside<'a> {
    side: &'a Side,
    suffix: &'static [u8],
    /// The file that shows its database.
    db: Ino,
    /// Whether it has its file's own number.
    is_first: bool,
}

/// Whether a side file can stand beside a file of this name, with this suffix.
fn fits(tree: &Tree, (dir, name): &Place, suffix: &[u8]) -> bool {
    let beside = [name, suffix].concat();
    let is_free = beside.len() <= NAME_MAX && !tree.entries.contains_key(&(*dir, beside));
    is_free && !names::is_like_side(name)
}

/// Whether a side file has this name.
type IsOwn<'a> = &'a dyn Fn(&Beside<'_>, &Place) -> bool;

/// The names that a side file has beside its database, and where there is room for it: that of
/// the database, and the suffix.
fn own_places(
    beside: &Beside<'_>,
    places: &[Place],
    is_own: IsOwn<'_>,
    tree: &Tree,
) -> Vec<(Place, &'static [u8])> {
    let all = places.iter().flat_map(|place| SIDE_SUFFIXES.map(|suffix| (place.clone(), suffix)));
    let is_there = |((dir, name), suffix): &(Place, &[u8])| {
        let own = (*dir, [name, *suffix].concat());
        is_own(beside, &own) && fits(tree, &(*dir, name.clone()), suffix)
    };
    all.filter(is_there).collect()
}

/// The names of a file that are shown, ascending.
fn names_of(tree: &Tree, ino: Ino) -> Vec<Place> {
    let of = |shown: &(&Place, &Shown)| shown.1.ino == ino;
    tree.entries.iter().filter(of).map(|(place, _)| place.clone()).collect()
}

/// Of each database the name beside which those of its side files stand that have no place of
/// their own. Where there is no room beside any, it gets another name.
fn make_room(
    loaded: &Loaded<'_>,
    all: &[Beside<'_>],
    is_own: IsOwn<'_>,
    tree: &mut Tree,
) -> BTreeMap<Ino, Place> {
    let mut sides: BTreeMap<Ino, Vec<&Beside<'_>>> = BTreeMap::new();
    for beside in all {
        sides.entry(beside.db).or_default().push(beside);
    }
    let mut rooms = BTreeMap::new();
    for (db, sides) in sides {
        let places = names_of(tree, db);
        let has_place = |side: &&Beside<'_>| !own_places(side, &places, is_own, tree).is_empty();
        // A database that is not shown shows none of its side files.
        if places.is_empty() || sides.iter().all(has_place) {
            continue;
        }
        for ((dir, name), side) in places.iter().flat_map(|p| sides.iter().map(move |s| (p, s))) {
            let beside = (*dir, [name, side.suffix].concat());
            if tree.entries.contains_key(&beside) {
                tree.ties.push((Knot::Name(beside.0, beside.1), Knot::Ino(db)));
            }
        }
        let has_room = |place: &&Place| sides.iter().all(|side| fits(tree, place, side.suffix));
        if let Some(place) = places.iter().find(has_room) {
            rooms.insert(db, place.clone());
            continue;
        }
        let (dir, name) = places[0].clone();
        tree.ties.push((Knot::Name(dir, name.clone()), Knot::Ino(db)));
        let shown = tree.entries.remove(&(dir, name.clone())).expect("it is shown");
        let name = put(loaded, tree, dir, &names::of_database(&name), shown);
        rooms.insert(db, (dir, name));
    }
    rooms
}

/// Each side file stands beside the version of its database with which it goes.
pub(super) fn pair_up(
    loaded: &Loaded<'_>,
    plan: &Plan,
    files: &Files,
    canon: &dyn Fn(Ino) -> Ino,
    tree: &mut Tree,
) {
    let mut all = Vec::new();
    for (at, side) in files.sides.iter().enumerate() {
        let (ino, from) = (side.ino, side.from);
        let (db, is_stored) = database(loaded, files, side);
        tree.ties.push((Knot::Ino(ino), Knot::Ino(db)));
        // Somebody stored the database, and this with it, as files of their own already.
        if is_stored {
            let number = loaded.loser_number(ino, from);
            tree.ties.push((Knot::Ino(ino), Knot::Ino(number)));
            let stored = [db, number].into_iter().filter(|ino| loaded.record(*ino).is_some());
            tree.heirs.extend(stored);
            continue;
        }
        let is_first = files.first.get(&ino) == Some(&at);
        all.push(Beside { side, suffix: suffix(loaded, plan, side), db, is_first });
    }
    let is_own = |beside: &Beside<'_>, place: &Place| {
        let mut links = plan.links.get(&beside.side.ino).into_iter().flatten();
        beside.is_first && links.any(|link| canon(link.dir) == place.0 && link.name == place.1)
    };
    let rooms = make_room(loaded, &all, &is_own, tree);
    // Two logs of one database may have one name: of one that was placed first the other would
    // find its own place taken.
    let own: Vec<_> = all
        .iter()
        .map(|beside| own_places(beside, &names_of(tree, beside.db), &is_own, tree))
        .collect();
    for (beside, mut places) in all.iter().zip(own) {
        let (ino, from) = (beside.side.ino, beside.side.from);
        let mut number = ino;
        while number == ino && !beside.is_first || number != ino && loaded.record(number).is_some()
        {
            number = loaded.loser_number(number, from);
            tree.ties.push((Knot::Ino(ino), Knot::Ino(number)));
        }
        if places.is_empty() {
            places.extend(rooms.get(&beside.db).map(|room| (room.clone(), beside.suffix)));
        }
        for (place, suffix) in places {
            stand_beside(loaded, tree, beside, (place, suffix), number);
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
    beside: &Beside<'_>,
    ((dir, mut name), suffix): (Place, &[u8]),
    number: Ino,
) {
    let Beside { side, db, is_first, .. } = beside;
    let what = if *is_first {
        What::File
    } else {
        What::Loser { of: side.ino, version: side.version.clone() }
    };
    tree.mains.insert(number, (*db, side.from));
    let mut own = [&name, suffix].concat();
    loaded.request_name(dir, &own);
    if tree.entries.contains_key(&(dir, own.clone())) {
        // It had two names, and a log at each.
        let again = tree.entries[&(dir, name.clone())].clone();
        name = put(loaded, tree, dir, &names::of_database(&name), again);
        own = [&name, suffix].concat();
    }
    tree.ties.push((Knot::Name(dir, own.clone()), Knot::Ino(number)));
    tree.entries.insert((dir, own), Shown { ino: number, what });
}
