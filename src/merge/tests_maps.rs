//! Namespaces as maps in memory: what a device publishes, joined and repaired there. Each join is
//! checked for what holds of every join.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::*;
use crate::format::clock::Writer;
use crate::format::namespace::{Inode, XattrState};
use crate::format::node::{Dotted, NO_ID};
use crate::format::side_files::{SIDE_SUFFIXES, main_name};
use crate::tree::testing::{Memory, keys};
use crate::tree::{Keys, NewNodes, Root, diff, join, map};

/// A namespace as a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Map {
    pub(super) items: BTreeMap<Vec<u8>, Vec<Dotted>>,
}

fn decoded(key: &Key, values: &[Dotted]) -> Values {
    values.iter().map(|v| (v.dot, Value::decode(key, &v.bytes).unwrap())).collect()
}

impl Joined for Map {
    type Error = std::convert::Infallible;

    fn values(&self, key: &Key) -> Result<Values, Self::Error> {
        Ok(self.items.get(&key.encode()).map_or(Vec::new(), |values| decoded(key, values)))
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Result<Vec<(Key, Values)>, Self::Error> {
        let range = self.items.range(from.to_vec()..to.to_vec());
        Ok(range
            .map(|(key, values)| {
                let key = Key::decode(key).unwrap();
                let values = decoded(&key, values);
                (key, values)
            })
            .collect())
    }
}

/// What is seen of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub is_dir: bool,
    pub bytes: String,
    pub(super) mode: u32,
    pub(super) links: usize,
    pub(super) xattrs: Vec<Vec<u8>>,
}

/// All paths.
pub(crate) type Listing = BTreeMap<String, Line>;

impl Map {
    fn all(&self) -> impl Iterator<Item = (Key, Values)> + '_ {
        self.items.iter().map(|(key, values)| {
            let key = Key::decode(key).unwrap();
            let values = decoded(&key, values);
            (key, values)
        })
    }

    /// A writer of which nothing is in it.
    pub fn new_writer(&self) -> Writer {
        let mut all = (0x7f_0000_0001..).map(|number| Writer::new(number).unwrap());
        all.find(|writer| !self.items.contains_key(&Key::Writer(*writer).encode())).unwrap()
    }

    /// All of it is suspected.
    pub fn suspects(&self) -> Suspects {
        let mut suspects = Suspects::default();
        for (key, values) in self.all() {
            for (_, value) in &values {
                suspects.add(&key, value);
            }
        }
        suspects
    }

    fn store(&self, memory: &mut Memory) -> Root {
        let edit = |(key, values): (&Vec<u8>, &Vec<Dotted>)| {
            let item = MapItem { key: key.clone().into(), values: values.clone() };
            (key.clone(), Some(item))
        };
        let edits: Vec<map::Edit> = self.items.iter().map(edit).collect();
        let mut new = NewNodes::new();
        let root = map::edit(Keys(&keys()), memory, (NO_ID, 0), &edits, &mut new).unwrap();
        memory.0.extend(new);
        root
    }

    /// The map with these groups. They stand under the dots that they have, or each under one
    /// of this writer.
    pub fn with<'r>(
        &self,
        groups: impl IntoIterator<Item = &'r Group>,
        writer: Option<Writer>,
    ) -> Self {
        let mut map = self.clone();
        for (at, group) in groups.into_iter().enumerate() {
            for Repair { key, value, drops } in &group.repairs {
                let encoded = key.encode();
                assert!(Key::decode(&encoded).as_ref() == Ok(key), "{key:?} is no key");
                let mut values = map.items.remove(&encoded).unwrap_or_default();
                values.retain(|value| !drops.contains(&value.dot));
                if let Some((dot, value)) = value {
                    let dot = writer.map_or(*dot, |w| Dot::new(w, at as u64 + 1).unwrap());
                    let bytes = value.encode();
                    assert!(Value::decode(key, &bytes).as_ref() == Ok(value), "{value:?}");
                    values.retain(|value| value.dot != dot);
                    values.push(Dotted { dot, bytes });
                    values.sort_by_key(|value| value.dot);
                }
                if !values.is_empty() {
                    map.items.insert(encoded, values);
                }
            }
        }
        if let Some(writer) = writer {
            let key = Key::Writer(writer);
            let dot = Dot::new(writer, 1 << 20).unwrap();
            let bytes = Value::Writer([9; 16], "settler".into()).encode();
            map.items.insert(key.encode(), vec![Dotted { dot, bytes }]);
        }
        map
    }

    /// All names, or why it is no plain tree.
    pub fn listing(&self) -> Result<Listing, String> {
        let mut records: BTreeMap<Ino, Inode> = BTreeMap::new();
        let mut entries: BTreeMap<Place, (Ino, u32)> = BTreeMap::new();
        let mut backs: BTreeMap<Ino, BTreeSet<Place>> = BTreeMap::new();
        let mut xattrs: BTreeMap<Ino, Vec<Vec<u8>>> = BTreeMap::new();
        for (key, mut values) in self.all() {
            // Two devices may have left the same.
            if values.len() != 1 && !matches!(key, Key::Unsettled(..)) {
                return Err(format!("{key:?} has {} values", values.len()));
            }
            match (key, values.pop().unwrap().1) {
                (Key::Inode(ino), Value::Inode(inode)) => drop(records.insert(ino, *inode)),
                (Key::Entry(dir, _, name), Value::Entry(ino, kind)) => {
                    entries.insert((dir, name), (ino, kind));
                }
                (Key::Back(ino, dir, name), _) => {
                    backs.entry(ino).or_default().insert((dir, name));
                }
                (Key::Xattr(ino, _), Value::Xattr(xattr)) => match xattr.state {
                    XattrState::Inline(bytes) => xattrs.entry(ino).or_default().push(bytes),
                    _ => drop(xattrs.entry(ino).or_default()),
                },
                _ => {}
            }
        }
        for (place, (ino, kind)) in &entries {
            let Some(inode) = records.get(ino) else { return Err(format!("{place:?}: no inode")) };
            if inode.kind() != *kind {
                return Err(format!("{place:?} has another kind"));
            }
            if !records.get(&place.0).is_some_and(Inode::is_dir) {
                return Err(format!("{place:?} lies in no directory"));
            }
            if !backs.get(ino).is_some_and(|names| names.contains(place)) {
                return Err(format!("{place:?} has no back reference"));
            }
        }
        for (ino, names) in &backs {
            let stray = names.iter().find(|place| entries.get(*place).map(|e| e.0) != Some(*ino));
            if let Some(place) = stray {
                return Err(format!("{ino:x} has a back reference without an entry: {place:?}"));
            }
            if records[ino].is_dir() && names.len() > 1 {
                return Err(format!("directory {ino:x} has {} names", names.len()));
            }
        }
        if let Some(ino) = xattrs.keys().find(|ino| !records.contains_key(ino)) {
            return Err(format!("{ino:x} has attributes and no record"));
        }
        let mut listing = Listing::new();
        let mut reached = BTreeSet::from([ROOT]);
        for ((dir, name), (ino, _)) in &entries {
            let (mut path, mut at) = (String::from_utf8_lossy(name).into_owned(), *dir);
            let mut steps = 0;
            while at != ROOT {
                let (up, name) = backs[&at].first().unwrap();
                path = format!("{}/{path}", String::from_utf8_lossy(name));
                at = *up;
                steps += 1;
                if steps > records.len() {
                    return Err(format!("{path} hangs in a cycle"));
                }
            }
            reached.insert(*ino);
            let inode = &records[ino];
            let line = Line {
                is_dir: inode.is_dir(),
                bytes: String::from_utf8_lossy(&inode.inline).into_owned(),
                mode: inode.mode,
                links: backs[ino].len(),
                xattrs: xattrs.get(ino).cloned().unwrap_or_default(),
            };
            listing.insert(path, line);
        }
        if let Some(ino) = records.keys().find(|ino| !reached.contains(ino)) {
            return Err(format!("nothing names {ino:x}"));
        }
        self.check_sides(&entries, &records)?;
        Ok(listing)
    }

    /// A file beside a database goes with that very version of it.
    fn check_sides(
        &self,
        entries: &BTreeMap<Place, (Ino, u32)>,
        records: &BTreeMap<Ino, Inode>,
    ) -> Result<(), String> {
        for (place, (side, kind)) in entries {
            let Some(main) = main_name(&place.1) else { continue };
            let Some((main, of)) = entries.get(&(place.0, main.to_vec())) else { continue };
            // A file with both names is no log of itself.
            if (*kind, *of) != (0o100_000, 0o100_000) || side == main {
                continue;
            }
            let dot = self.items[&Key::Inode(*main).encode()][0].dot;
            let from = records[main].history.content.origin(dot);
            if records[side].history.main != Some((*main, from)) {
                let name = String::from_utf8_lossy(&place.1);
                return Err(format!(
                    "{name} stands beside another version: {:?}",
                    records[side].history.main
                ));
            }
        }
        Ok(())
    }
}

/// Of each file that is no side file its bytes, and those of each side file beside it.
pub(crate) type Pairs = BTreeSet<(String, usize, Option<String>)>;

pub(crate) fn pairs(listing: &Listing) -> Pairs {
    let mut pairs = Pairs::new();
    for (path, line) in listing.iter().filter(|(_, line)| !line.is_dir) {
        let name = path.rsplit('/').next().unwrap();
        if main_name(name.as_bytes()).is_some() {
            continue;
        }
        for (at, suffix) in SIDE_SUFFIXES.iter().enumerate() {
            let beside = listing.get(&format!("{path}{}", String::from_utf8_lossy(suffix)));
            // Equal bytes are one file with both names: bytes are made once.
            let beside = beside.filter(|side| !side.is_dir && side.bytes != line.bytes);
            let beside = beside.map(|side| side.bytes.clone());
            pairs.insert((line.bytes.clone(), at, beside));
        }
    }
    pairs
}

/// The join of maps, in their order, and what of it may need a repair.
pub(crate) fn joined(maps: &[&Map]) -> (Map, Suspects) {
    let mut memory = Memory::default();
    let roots: Vec<Root> = maps.iter().map(|map| map.store(&mut memory)).collect();
    let mut root = roots[0];
    for other in &roots[1..] {
        let mut new = NewNodes::new();
        root = join::join(Keys(&keys()), &memory, (root, *other), &mut new).unwrap().unwrap();
        memory.0.extend(new);
    }
    let mut suspects = Suspects::default();
    for one in roots {
        for difference in diff::maps(&memory, root, one) {
            suspects.add_difference(&difference.unwrap()).unwrap();
        }
    }
    let mut items = BTreeMap::new();
    map::scan(&memory, root, &[], &mut |item| {
        items.insert(item.key.to_vec(), item.values.clone());
        ControlFlow::Continue(())
    })
    .unwrap();
    (Map { items }, suspects)
}

pub(crate) fn repairs(map: &Map, ids: &IdKeys, suspects: &Suspects) -> Repairs {
    let Ok(repairs) = repair(map, ids, suspects);
    repairs
}

/// What rows for these repairs suspect in a map.
pub(crate) fn of_rows(map: &Map, repairs: &Repairs) -> Suspects {
    let mut suspects = Suspects::default();
    for repair in repairs.groups.iter().flat_map(|group| &group.repairs) {
        let Ok(values) = map.values(&repair.key);
        let named = match &repair.key {
            key @ Key::Entry(..) => vec![(key.clone(), values)],
            _ => Vec::new(),
        };
        suspects.add_row(repair.key.ino(), &named);
    }
    suspects
}

/// What a joined map and its repairs show; any choice of them, stored, shows the same.
pub(crate) fn settled(map: &Map, ids: &IdKeys, repairs: &Repairs) -> Result<Map, String> {
    let view = map.with(&repairs.groups, None);
    let listing = view.listing()?;
    let again = self::repairs(&view, ids, &view.suspects());
    if !again.is_empty() {
        return Err(format!("repaired again: {:#?}\nafter {:#?}", again.groups, repairs.groups));
    }
    let writer = map.new_writer();
    let count = repairs.groups.len();
    let choices: Vec<u64> = match count {
        0..=3 => (1..1 << count).collect(),
        _ => (0..8u64).map(|n| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3).collect(),
    };
    for choice in choices {
        let chosen = repairs.groups.iter().enumerate();
        let chosen = chosen.filter(|(at, _)| choice >> (at % 60) & 1 == 1).map(|(_, group)| group);
        let stored = map.with(chosen, Some(writer));
        let rest = self::repairs(&stored, ids, &stored.suspects());
        let known = self::repairs(&stored, ids, &of_rows(&stored, repairs));
        if known != rest {
            return Err(format!(
                "choice {choice:b} of {:#?} leaves {:#?}\nby rows {:#?}",
                repairs.groups, rest, known
            ));
        }
        let shown = stored.with(&rest.groups, None).listing()?;
        if shown != listing {
            let groups = &repairs.groups;
            return Err(format!(
                "choice {choice:b} shows {shown:#?}\nnot {listing:#?}\n{groups:#?}"
            ));
        }
    }
    Ok(map.with(&repairs.groups, Some(writer)))
}

/// What plain trees join to, with its repairs: checked for all that holds of every join.
pub(crate) fn checked(maps: &[&Map], ids: &IdKeys) -> Result<(Map, Repairs), String> {
    let (map, suspects) = joined(maps);
    let repairs = self::repairs(&map, ids, &suspects);
    let backwards: Vec<&Map> = maps.iter().rev().copied().collect();
    let (other, others) = joined(&backwards);
    if map != other || repairs != self::repairs(&other, ids, &others) {
        return Err("the order of joins matters".into());
    }
    let whole = self::repairs(&map, ids, &map.suspects());
    if whole != repairs {
        return Err(format!("of the whole map: {whole:#?}\nof what differs: {repairs:#?}"));
    }
    let known = self::repairs(&map, ids, &of_rows(&map, &repairs));
    if known != repairs {
        return Err(format!("by rows: {known:#?}\nof what differs: {repairs:#?}"));
    }
    settled(&map, ids, &repairs)?;
    Ok((map.with(&repairs.groups, None), repairs))
}

/// All that is shown of a join: paths of directories end with a slash, files have their bytes
/// behind them. Digits in names of losers are hidden, as they follow from random numbers.
pub(crate) fn shown(maps: &[&Map], ids: &IdKeys) -> Vec<String> {
    let (map, _) = checked(maps, ids).unwrap_or_else(|error| panic!("{error}"));
    let line = |(path, line): (&String, &Line)| {
        let path = match path.find(" (from ").and_then(|at| Some(at + path[at..].find(')')?)) {
            Some(end) => format!("{}####{}", &path[..end - 4], &path[end..]),
            None => path.clone(),
        };
        if line.is_dir { format!("{path}/") } else { format!("{path}={}", line.bytes) }
    };
    let mut lines: Vec<String> = map.listing().unwrap().iter().map(line).collect();
    lines.sort();
    lines
}

impl Line {
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }
    pub fn links(&self) -> usize {
        self.links
    }
    pub fn xattrs(&self) -> &[Vec<u8>] {
        &self.xattrs
    }
}
