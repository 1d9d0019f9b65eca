//! The upper half alone: a few devices that change one small tree and hear each other at random, with no heads,
//! clients or containers between them. Thousands of histories a second meet what whole worlds meet seldom.

use crate::map::*;
use crate::ops::{Maker, Op, Place, expected, groups_are_apart};
use crate::oracle::Oracle;
use crate::repair::{Plain, repairs, view};
use crate::rng::Rng;
use crate::rules::Off;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

struct Device {
    state: State,
    writer: Writer,
    count: u32,
    inos: u64,
    now: i64,
}

#[derive(Default, Debug)]
pub struct Sum {
    pub ops: u64,
    pub joins: u64,
    pub groups: u64,
}

fn plain(d: &Device, off: Off) -> Plain {
    Plain::read(&view(&d.state, off), off)
}

/// What a program, or somebody, does with a database and its log.
fn database_op(rng: &mut Rng, plain: &Plain, next: &mut Ref) -> Option<Op> {
    *next += 1;
    let mut all: Vec<Place> =
        plain.entries.keys().filter(|k| k.1.starts_with("db")).cloned().collect();
    all.retain(|k| !k.1.contains("-wal"));
    if all.is_empty() || rng.chance(2) {
        let name = ["db", "db-wal", "db2", "db2-wal"]
            [if all.is_empty() { 0 } else { rng.below(4) as usize }];
        return Some(Op::Create { dir: ROOT, name: Rc::from(name), chunks: vec![*next] });
    }
    let db = all[rng.below(all.len() as u64) as usize].clone();
    if plain.is_dir(plain.entries[&db]) {
        return None;
    }
    let log: Place = (db.0, side_of(&db.1));
    let old = plain.entries.get(&log).map(|i| plain.recs[i].chunks.to_vec());
    if rng.chance(8) {
        let at = if old.is_some() && rng.chance(50) { log } else { db.clone() };
        let name = ["db", "db2", "dbx"][rng.below(3) as usize];
        let name = if at == db { Rc::from(name) } else { side_of(name) };
        return Some(match rng.below(4) {
            0 => Op::Unlink { at },
            1 => Op::Rename { from: at, dir: ROOT, name },
            2 => Op::Xattr { at, name: 0, val: Some(*next as u32) },
            _ => Op::Chmod { at, mode: rng.below(8) as u32 },
        });
    }
    Some(match (rng.below(5), old) {
        (0 | 1, Some(old)) => {
            Op::Write { at: log, chunks: old.into_iter().chain([*next]).collect() }
        }
        // A checkpoint that leaves the log where it is; or a change without one.
        (4, Some(_)) | (0 | 4, None) => Op::Write { at: db, chunks: vec![*next] },
        (_, None) => Op::Create { dir: db.0, name: log.1, chunks: vec![*next] },
        (2, Some(_)) => Op::Unlink { at: log },
        _ => return None,
    })
}

/// A database and the log beside it; either may be missing.
type Pair = (Option<Rc<[Ref]>>, Option<Rc<[Ref]>>);

/// Every database with its log, and logs that stand alone; with what the oracle calls the database's content.
fn pairs(plain: &Plain) -> Vec<(Place, Pair, Option<u32>)> {
    let file = |at: &Place| plain.entries.get(at).map(|i| &plain.recs[i]).filter(|r| !r.dir);
    let mut out = Vec::new();
    let all = plain.entries.keys().filter(|k| k.1.starts_with("db"));
    for at in all.filter(|k| main_of(&k.1).is_some() || !k.1.contains("-wal")) {
        let own = file(at).map(|r| r.chunks.clone());
        match main_of(&at.1) {
            Some(base) if file(&(at.0, Rc::from(base))).is_none() => {
                out.push((at.clone(), (None, own), None))
            }
            Some(_) => {}
            None => {
                let log = file(&(at.0, side_of(&at.1))).map(|r| r.chunks.clone());
                out.push((at.clone(), (own, log), file(at).map(|r| r.token)));
            }
        }
    }
    out
}

/// No database stands beside another log than a device had it with, and none without one that it had.
fn stranger(plain: &Plain, known: &BTreeSet<Pair>) -> Option<String> {
    let all = pairs(plain);
    let odd = all.iter().find(|p| !known.contains(&p.1))?;
    Some(match &odd.1 {
        (None, Some(log)) => format!("a log stands without its database: {} {log:?}", odd.0.1),
        (_, None) => format!("a database stands without its log: {} {:?}", odd.0.1, odd.1.0),
        _ => format!("a database stands beside a log that is not its own: {} {:?}", odd.0.1, odd.1),
    })
}

fn random_op(rng: &mut Rng, plain: &Plain, next: &mut Ref, sort: u64) -> Option<Op> {
    let dirs: Vec<Ino> = [ROOT]
        .into_iter()
        .chain(plain.entries.values().copied().filter(|i| plain.is_dir(*i)))
        .collect();
    let all: Vec<&(Ino, Name)> = plain.entries.keys().filter(|k| !k.1.starts_with("db")).collect();
    let dir = dirs[rng.below(dirs.len() as u64) as usize];
    let name: Name = Rc::from(["X", "Y", "Z", "f", "g"][rng.below(5) as usize]);
    let at = (!all.is_empty()).then(|| all[rng.below(all.len() as u64) as usize].clone());
    *next += 1;
    // Some contents are made on several devices.
    let chunks = if rng.chance(25) { vec![1 + rng.below(3)] } else { vec![*next] };
    let moves = if sort == 0 { 60 } else { 25 };
    Some(if rng.chance(moves) {
        Op::Rename { from: at?, dir, name }
    } else {
        match rng.below(20) {
            0..=2 => Op::Mkdir { dir, name },
            3..=5 => Op::Create { dir, name, chunks },
            6..=9 => Op::Write { at: at?, chunks: vec![*next] },
            10 => Op::Chmod { at: at?, mode: rng.below(8) as u32 },
            11..=12 => Op::Xattr {
                at: at?,
                name: rng.below(2) as u8,
                val: rng.chance(60).then_some(*next as u32),
            },
            13..=14 => Op::Link { at: at?, dir, name },
            15..=17 => Op::Unlink { at: at? },
            _ => Op::Rmdir { at: at? },
        }
    })
}

/// All that is stored of databases and logs, for people who look for a fault.
fn dump(state: &State, off: Off) {
    if std::env::var("DUMP").is_err() {
        return;
    }
    let name = |i: Ino| {
        let backs = state.beside(i).filter_map(|(k, _)| {
            if let Key::Back(_, _, n) = k { Some(n.to_string()) } else { None }
        });
        backs.collect::<Vec<_>>().join(" | ")
    };
    for (key, vals) in &state.items {
        let Key::Inode(i) = key else { continue };
        if name(*i).contains("db") {
            eprintln!("{i:x} {}", name(*i));
            for (dot, v) in vals {
                if let Val::Inode(r) = v {
                    let from = origin(*dot, &r.history);
                    eprintln!(
                        "    {}:{} {:?} from {}:{} main {:x?} over {:?} token {} history {:?}",
                        dot.writer,
                        dot.count,
                        r.chunks,
                        from.writer,
                        from.count,
                        r.main.map(|m| (m.0, m.1.writer, m.1.count)),
                        r.over.len(),
                        r.token,
                        r.history.iter().map(|r| (r.writer, r.first, r.last)).collect::<Vec<_>>()
                    );
                }
            }
        }
    }
    for ((_, n), i) in &Plain::read(&view(state, off), off).entries {
        if n.contains("db") {
            eprintln!("shown {n} {i:x}");
        }
    }
}

pub fn run(
    seed: u64,
    databases: bool,
    off: Off,
    mut log: Option<&mut Vec<String>>,
) -> Result<Sum, String> {
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 5);
    let mut sum = Sum::default();
    let mut oracle = Oracle::default();
    let (mut next_id, mut next): (u32, Ref) = (0, 100);
    let devices = 2 + rng.below(3) as usize;
    let sort = seed % 2;
    let mut all: Vec<Device> = (0..devices as u32)
        .map(|i| Device {
            state: State::default(),
            writer: (i + 1) << 12,
            count: 0,
            inos: u64::from((i + 1) << 12) << 20,
            now: 100 + i64::from(i) * 7,
        })
        .collect();
    let mut writers = devices as u32;
    // Attribute values that somebody who saw them replaced: inode, attribute, value.
    let mut old_values: BTreeSet<(Ino, u8, u32)> = BTreeSet::new();
    // Files and directories made in a directory, with the chain of directories above them, that nobody touched since.
    let mut made: BTreeMap<Ino, Vec<Ino>> = BTreeMap::new();
    let mut moved_dirs = false;
    // Databases and logs as devices had them beside each other, and by the database's content.
    let mut known: BTreeSet<Pair> = BTreeSet::new();
    let mut pairs_of: BTreeMap<u32, BTreeSet<Pair>> = BTreeMap::new();
    let steps = 20 + rng.below(60);
    for step in 0..steps {
        let i = rng.below(devices as u64) as usize;
        if rng.chance(20) {
            let j = rng.below(devices as u64) as usize;
            let other = all[j].state.clone();
            all[i].state = join(&all[i].state, &other);
            sum.joins += 1;
            if let Some(l) = log.as_mut() {
                l.push(format!("device {i} hears {j}"));
            }
            let seen = view(&all[i].state, off);
            if let Some(fault) = Plain::read(&seen, off).fault(&seen) {
                return Err(format!("step {step}, after a join: {fault}"));
            }
            if let Some(fault) = stranger(&Plain::read(&seen, off), &known) {
                dump(&all[i].state, off);
                return Err(format!("step {step}, after a join: {fault}"));
            }
            sum.groups += repairs(&all[i].state, off).groups.len() as u64;
            if let Some(fault) = groups_are_apart(&all[i].state, off, || rng.chance(50)) {
                return Err(format!("step {step}, after a join: {fault}"));
            }
            continue;
        }
        if rng.chance(10) {
            // A new mount.
            writers += 1;
            let writer = (i as Writer + 1) << 12 | writers;
            (all[i].writer, all[i].count, all[i].inos) = (writer, 0, u64::from(writer) << 20);
        }
        let before = plain(&all[i], off);
        let with_db = databases && rng.chance(70);
        let op = if with_db {
            database_op(&mut rng, &before, &mut next)
        } else {
            random_op(&mut rng, &before, &mut next, sort)
        };
        let Some(op) = op else { continue };
        let Some(want) = expected(&before, &op) else { continue };
        let d = &mut all[i];
        d.count += 1;
        d.now += 1 + rng.below(20) as i64;
        let inos = &mut d.inos;
        let mut new_ino = || {
            *inos += 1;
            *inos
        };
        let mut maker = Maker {
            state: d.state.clone(),
            dot: Dot { writer: d.writer, count: d.count },
            edits: Vec::new(),
            effect: Default::default(),
            off,
            now: d.now,
            next_id: &mut next_id,
            new_ino: &mut new_ino,
        };
        if !maker.run(&op) {
            return Err(format!("step {step}: refused {op:?}"));
        }
        let (state, effect) = (maker.state, maker.effect);
        // A file that went when repairs were stored is as if it was deleted: it may come back as another had it.
        old_values.retain(|x| d.state.inode(x.0).is_none() || state.inode(x.0).is_some());
        d.state = state;
        let target = |at: &(Ino, Name)| before.entries[at];
        match &op {
            Op::Create { dir, .. } if *dir != ROOT => {
                let (mut chain, mut at) = (Vec::new(), *dir);
                while at != ROOT {
                    chain.push(at);
                    at = before.parent(at);
                }
                made.insert(d.inos, chain);
            }
            Op::Xattr { at, name, .. } => {
                let had = before.xattrs[&target(at)].iter().find(|x| x.0 == *name);
                old_values.extend(had.map(|x| (target(at), *name, x.1)));
            }
            Op::Rename { from, dir, name } => {
                moved_dirs |= before.is_dir(target(from));
                made.remove(&target(from));
                if let Some(i) = before.entries.get(&(*dir, name.clone())) {
                    made.remove(i);
                    old_values.retain(|x| x.0 != *i);
                }
            }
            Op::Link { at, .. } | Op::Unlink { at } | Op::Write { at, .. } | Op::Rmdir { at } => {
                made.remove(&target(at));
                // A file that is deleted here and edited there comes back as it was there.
                if matches!(op, Op::Unlink { .. }) {
                    old_values.retain(|x| x.0 != target(at));
                }
            }
            _ => {}
        }
        oracle.apply(&effect);
        sum.ops += 1;
        if let Some(l) = log.as_mut() {
            l.push(format!("device {i} writer {} count {}: {op:?}", d.writer, d.count));
        }
        let seen = view(&d.state, off);
        let after = Plain::read(&seen, off);
        if let Some(fault) = after.fault(&seen) {
            return Err(format!("step {step}, after {op:?}: {fault}"));
        }
        let mut new: BTreeMap<u32, BTreeSet<Pair>> = BTreeMap::new();
        for (_, pair, token) in pairs(&after) {
            if let Some(t) = token.filter(|t| !pairs_of.contains_key(t)) {
                new.entry(t).or_default().insert(pair.clone());
            }
            known.insert(pair);
        }
        // Of a database with two names the one counts that has a log.
        for set in new.values_mut().filter(|s| s.iter().any(|p| p.1.is_some())) {
            set.retain(|p| p.1.is_some());
        }
        pairs_of.extend(new);
        let got = after.listing();
        if got != want {
            let missing: Vec<_> = want.iter().filter(|(k, v)| got.get(*k) != Some(v)).collect();
            let more: Vec<_> = got.iter().filter(|(k, v)| want.get(*k) != Some(v)).collect();
            return Err(format!(
                "step {step}: {op:?} differs from the plain file system: missing {missing:?} more {more:?}"
            ));
        }
    }
    // Everybody hears everybody.
    let mut whole = State::default();
    for d in &all {
        whole = join(&whole, &d.state);
    }
    for d in all.iter().rev() {
        if join(&d.state, &whole) != whole || join(&whole, &d.state) != whole {
            return Err("the devices do not come to the same map".into());
        }
    }
    let seen = view(&whole, off);
    let last = Plain::read(&seen, off);
    if let Some(fault) = last.fault(&seen) {
        return Err(format!("in the end: {fault}"));
    }
    if let Some(fault) = stranger(&last, &known) {
        dump(&whole, off);
        return Err(format!("in the end: {fault}"));
    }
    let shown: BTreeSet<Pair> = pairs(&last).into_iter().map(|p| p.1).collect();
    for token in oracle.due() {
        let had = pairs_of.get(&token);
        if let Some(pair) = had.into_iter().flatten().find(|p| !shown.contains(*p)) {
            dump(&whole, off);
            return Err(format!("in the end: a database is not shown with its log: {pair:?}"));
        }
    }
    if let Some(fault) = groups_are_apart(&whole, off, || rng.chance(50)) {
        return Err(format!("in the end: {fault}"));
    }
    for (ino, xs) in &last.xattrs {
        if let Some(x) = xs.iter().find(|x| old_values.contains(&(*ino, x.0, x.1))) {
            return Err(format!(
                "attribute {} of inode {ino:x} has a value back that was replaced",
                x.0
            ));
        }
    }
    for (ino, chain) in &made {
        let Some(names) = last.backs.get(ino) else { continue };
        if names[0].0 == ROOT {
            return Err(format!("file {ino:x} was made in a directory and lies in the root"));
        }
        if !moved_dirs && chain.len() > 1 && last.parent(names[0].0) == ROOT {
            return Err(format!("file {ino:x} has lost its way: its directory lies in the root"));
        }
    }
    let shown: BTreeSet<Rc<[Ref]>> =
        last.recs.values().filter(|r| !r.dir).map(|r| r.chunks.clone()).collect();
    let (must, may) = oracle.contents();
    if let Some(lost) = must.iter().find(|c| !shown.contains(*c)) {
        let at: Vec<_> = whole
            .items
            .iter()
            .filter(|(k, v)| {
                matches!(k, Key::Inode(_))
                    && v.iter().any(|(_, v)| matches!(v, Val::Inode(r) if r.chunks == *lost))
            })
            .collect();
        return Err(format!("acknowledged content {lost:?} is not shown; stored at {at:?}"));
    }
    if let Some(more) = shown.iter().find(|c| !may.contains(*c)) {
        return Err(format!("content {more:?} is shown though it was replaced or deleted"));
    }
    if let Some((dir, name)) = last.entries.keys().find(|k| k.1.starts_with("inode ")) {
        return Err(format!("something has lost its name: {name} in {dir}"));
    }
    Ok(sum)
}

/// Many seeds; what fails, by kind, with the first seed of each.
pub fn many(
    from: u64,
    count: u64,
    databases: bool,
    off: Off,
) -> (Sum, BTreeMap<String, (u64, u64, String)>) {
    let mut kinds: BTreeMap<String, (u64, u64, String)> = BTreeMap::new();
    let mut sum = Sum::default();
    for seed in from..from + count {
        let result =
            std::panic::catch_unwind(|| run(seed, databases, off, None)).unwrap_or_else(|e| {
                let text = e
                    .downcast_ref::<String>()
                    .cloned()
                    .or(e.downcast_ref::<&str>().map(|s| s.to_string()));
                Err(format!("panic: {}", text.unwrap_or_default()))
            });
        match result {
            Ok(s) => {
                sum.ops += s.ops;
                sum.joins += s.joins;
                sum.groups += s.groups;
            }
            Err(e) => {
                let kind: String = e.chars().filter(|c| !c.is_ascii_digit()).take(40).collect();
                let k = kinds.entry(kind).or_insert((0, seed, e));
                k.0 += 1;
            }
        }
    }
    (sum, kinds)
}
