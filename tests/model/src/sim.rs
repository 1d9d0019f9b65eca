//! A whole world from one seed, with what must hold after every step and in the end.

use crate::map::*;
use crate::ops::{Maker, Op, expected, groups_are_apart};
use crate::oracle::Oracle;
use crate::repair::{Plain, repairs, view};
use crate::rng::Rng;
use crate::rules::Off;
use crate::show::contents;
use crate::world::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

#[derive(Default, Debug, Clone)]
pub struct Stats {
    pub steps: u64,
    pub ops: u64,
    pub heads: u64,
    pub deleted: u64,
    pub quiet_rounds: u64,
    pub conflicts: u64,
    pub clones: u64,
    pub retired: u64,
    pub lost: u64,
    pub exact: u64,
}

impl Stats {
    pub fn add(&mut self, o: &Stats) {
        self.steps += o.steps;
        self.ops += o.ops;
        self.heads += o.heads;
        self.deleted += o.deleted;
        self.quiet_rounds += o.quiet_rounds;
        self.conflicts += o.conflicts;
        self.clones += o.clones;
        self.retired += o.retired;
        self.lost += o.lost;
        self.exact += o.exact;
    }
}

/// Heads that were whole in the cloud once: they must stay so.
#[derive(Default)]
struct Secured {
    newest: HashMap<DevId, File>,
    seen: HashSet<File>,
}

/// What a seed is about: chances in percent, or weights.
#[derive(Clone, Copy)]
struct Profile {
    /// Operations that bring in, or delete, files whose content others have had: what deduplication is about.
    pool: u64,
    /// Sleep, offline, long jumps of time.
    sleep: u64,
    copies: u64,
    joins: u64,
    /// Days that a task of a client may be stuck (alone: 3).
    stuck: i64,
    /// Renames, links and removals before all else, among few names.
    moves: u64,
}

struct Sim {
    w: World,
    stats: Stats,
    secured: Secured,
    exact: bool,
    deletions_first: bool,
    profile: Profile,
    /// Begins with one of the situations.
    situated: bool,
    only: Option<u64>,
    names: Vec<Name>,
}

fn disk(dev: DevId) -> Disk {
    Disk {
        dev,
        generation: 0,
        head: None,
        chain: BTreeMap::new(),
        journal: Vec::new(),
        pending: BTreeSet::new(),
        intents: BTreeSet::new(),
        strays: BTreeSet::new(),
        deleted: BTreeSet::new(),
        steps: 0,
        last_clock: 0,
        condemned_at: BTreeMap::new(),
        retired_at: BTreeMap::new(),
        retire: BTreeMap::new(),
        was: BTreeSet::new(),
        entered_at: BTreeMap::new(),
        thin: false,
    }
}

pub fn run(seed: u64, off: Off, log: bool) -> (Result<Stats, String>, Vec<String>) {
    // Seeds from 10^9 on are of one situation each.
    let mut sim = Sim::new(seed, off, log);
    if seed >= 1_000_000_000 {
        sim.situated = true;
        sim.only = Some((seed - 1_000_000_000) / 100_000);
    }
    let result = sim.go();
    (result.map(|()| sim.stats.clone()), sim.w.log.take().unwrap_or_default())
}

impl Sim {
    fn new(seed: u64, off: Off, log: bool) -> Self {
        let mut w = World {
            rng: Rng(seed.wrapping_mul(0x1234_5678_9abc_def1) ^ 77),
            off,
            now: 400 * DAY,
            conts: Vec::new(),
            bodies: HashMap::new(),
            machines: Vec::new(),
            cloud: BTreeSet::new(),
            trash: BTreeSet::new(),
            writer_dev: HashMap::new(),
            next_dev: 0,
            next_writer: 0,
            next_id: 0,
            next_chunk: 1000,
            oracle: Oracle::default(),
            log: log.then(Vec::new),
            heads_made: 0,
            stored: 0,
            copied: false,
            keep: 2,
            refs_cache: HashMap::new(),
            old_cache: HashMap::new(),
        };
        let n = 1 + w.rng.below(4) as usize;
        let on_demand = w.rng.chance(30);
        let olds = w.rng.chance(20);
        for _ in 0..n {
            w.next_dev += 1;
            let d = disk(w.next_dev);
            let (a, b) = (on_demand && w.rng.chance(50), olds && w.rng.chance(40));
            w.machines.push(Machine {
                alive: true,
                online: true,
                asleep: false,
                on_demand: a,
                old: b,
                skew: 0,
                folder: BTreeMap::new(),
                queue: Vec::new(),
                disk: d,
                mount: None,
                exempt: false,
            });
        }
        let deletions_first = w.rng.chance(30);
        let profile = match seed % 6 {
            0 => Profile { pool: 0, sleep: 1, copies: 60, joins: 1, stuck: 3, moves: 0 },
            1 => Profile { pool: 60, sleep: 3, copies: 5, joins: 1, stuck: 40, moves: 0 },
            2 => Profile { pool: 50, sleep: 2, copies: 5, joins: 4, stuck: 20, moves: 0 },
            3 => Profile { pool: 40, sleep: 2, copies: 100, joins: 1, stuck: 10, moves: 20 },
            4 => Profile { pool: 0, sleep: 1, copies: 5, joins: 1, stuck: 3, moves: 70 },
            _ => Profile { pool: 20, sleep: 1, copies: 20, joins: 2, stuck: 3, moves: 50 },
        };
        let names = ["a", "b", "c", "d"].iter().map(|n| Rc::from(*n)).collect();
        Sim {
            w,
            stats: Stats::default(),
            secured: Secured::default(),
            exact: true,
            deletions_first,
            profile,
            situated: seed % 5 == 4,
            only: None,
            names,
        }
    }

    fn go(&mut self) -> Result<(), String> {
        let steps = if self.situated { self.w.rng.below(40) } else { 60 + self.w.rng.below(240) };
        let first = self.w.machines.len();
        for m in 0..first {
            // Some join later.
            if m == 0 || self.w.rng.chance(60) {
                self.w.mount(m);
            }
        }
        if self.situated {
            let kind = self.only.unwrap_or_else(|| self.w.rng.below(12));
            self.situation(kind)?;
        }
        for step in 0..steps {
            self.stats.steps += 1;
            self.time();
            self.action()?;
            self.secure();
            if step % 3 == 0 {
                self.check()?;
            }
        }
        self.quiesce()?;
        self.finish()
    }

    // ------------------------------------------------------------------ situations that chance alone meets too seldom

    /// Days in which only some machines (and their clients) are at work.
    fn days(&mut self, who: &[usize], days: u32, tidy: bool) {
        for _ in 0..days {
            for _ in 0..400 {
                let busy: Vec<usize> = who
                    .iter()
                    .copied()
                    .filter(|m| self.w.machines[*m].online && !self.w.machines[*m].queue.is_empty())
                    .collect();
                if busy.is_empty() {
                    break;
                }
                let m = busy[self.w.rng.below(busy.len() as u64) as usize];
                let i = self.w.rng.below(self.w.machines[m].queue.len() as u64) as usize;
                self.w.run_task(m, i);
            }
            for m in who.iter().copied() {
                if self.w.machines[m].mount.is_none() && !self.w.mount(m) {
                    continue;
                }
                if self.w.process(m) {
                    let kept = self.w.machines[m]
                        .disk
                        .head
                        .is_some_and(|h| !self.w.commit(h).kept.is_empty());
                    self.w.machines[m].disk.thin = kept;
                    self.checkpoint(m);
                    if tidy {
                        self.tidy(m);
                        self.w.sweep(m);
                    }
                }
            }
            self.secure();
            self.w.now += DAY;
        }
    }

    fn user(&mut self, m: usize, op: Op) -> Result<(), String> {
        if self.w.machines[m].mount.is_none() {
            self.w.mount(m);
        }
        if self.w.machines[m].mount.is_some() {
            let plain = self.w.plain(m);
            self.apply(m, plain, op)?;
        }
        Ok(())
    }

    fn pool(&self, which: u64) -> Vec<Ref> {
        vec![10 * which + 1, 10 * which + 2, 10 * which + 3]
    }

    /// Copies a machine's disk; what either does stays judged.
    fn half(&mut self, of: usize) -> usize {
        let x = &self.w.machines[of];
        let copy = Machine {
            alive: true,
            online: true,
            asleep: false,
            on_demand: false,
            old: x.old,
            skew: x.skew,
            folder: x.folder.clone(),
            queue: Vec::new(),
            disk: x.disk.clone(),
            mount: None,
            exempt: false,
        };
        self.w.machines.push(copy);
        self.w.copied = true;
        self.w.machines.len() - 1
    }

    /// A file comes, is known to all, and is deleted; its content comes again on a device that is then out of touch.
    fn situation(&mut self, kind: u64) -> Result<(), String> {
        self.w.keep = 0;
        while self.w.machines.len() < 3 && ![6, 10, 11].contains(&kind) {
            self.join_new();
        }
        if kind == 11 {
            self.w.machines.truncate(2);
            while self.w.machines.len() < 2 {
                self.join_new();
            }
        }
        if kind == 6 || kind == 10 {
            self.w.machines.truncate(1);
        }
        if kind == 8 {
            self.w.machines[0].old = true;
            self.w.machines[1].old = false;
            self.w.machines[2].old = true;
        }
        let big =
            |from: u64, n: u64| -> Vec<Ref> { (777_000 + from..777_000 + from + n).collect() };
        let all: Vec<usize> = (0..self.w.machines.len()).collect();
        let name: Name = Rc::from("pool");
        let at = (ROOT, name.clone());
        self.days(&all, 3, false);
        self.user(0, Op::Create { dir: ROOT, name: name.clone(), chunks: self.pool(1) })?;
        self.days(&all, 3, false);
        match kind {
            // Out of touch with an edit that relies on what the owner condemns meanwhile.
            0 => {
                self.user(0, Op::Unlink { at })?;
                self.days(&all, 4, false);
                self.user(1, Op::Create { dir: ROOT, name, chunks: self.pool(1) })?;
                if self.w.rng.chance(50) {
                    self.checkpoint(1);
                }
                self.days(&[0, 2], 14, true);
            }
            // The deletion of the container is late at one machine; or it comes back.
            1 => {
                self.user(0, Op::Unlink { at })?;
                for _ in 0..14 {
                    self.days(&[0, 2], 1, true);
                    // Machine 1 gets files, no deletions.
                    while let Some(i) = self.w.machines[1]
                        .queue
                        .iter()
                        .position(|t| !matches!(t.0, Task::DelDown(_)))
                    {
                        self.w.run_task(1, i);
                    }
                    if self.w.machines[1].mount.is_some() && self.w.process(1) {
                        self.checkpoint(1);
                    }
                }
                // The owner's next head does not speak of it any more.
                self.user(0, Op::Mkdir { dir: ROOT, name: Rc::from("x") })?;
                self.days(&[0, 2], 2, true);
                while let Some(i) =
                    self.w.machines[1].queue.iter().position(|t| !matches!(t.0, Task::DelDown(_)))
                {
                    self.w.run_task(1, i);
                }
                if self.w.machines[1].mount.is_some() {
                    self.w.process(1);
                }
                self.user(1, Op::Create { dir: ROOT, name, chunks: self.pool(1) })?;
                self.checkpoint(1);
            }
            // A machine that nobody has heard of edits what the others delete.
            2 => {
                self.join_new();
                let n = self.w.machines.len() - 1;
                while !self.w.machines[n].queue.is_empty() {
                    self.w.run_task(n, 0);
                }
                self.w.mount(n);
                self.w.machines[n].online = false;
                if self.w.rng.chance(50) {
                    self.checkpoint(n);
                }
                let chunks = vec![11, 12, 777_000];
                self.user(n, Op::Write { at: at.clone(), chunks })?;
                self.user(0, Op::Unlink { at })?;
                self.days(&all, 14, true);
                self.w.machines[n].online = true;
            }
            // Two halves of a copied device; the one condemns what the other relies on.
            3 => {
                self.user(0, Op::Unlink { at })?;
                self.days(&all, 4, false);
                let x = &self.w.machines[0];
                let copy = Machine {
                    alive: true,
                    online: true,
                    asleep: false,
                    on_demand: false,
                    old: x.old,
                    skew: x.skew,
                    folder: x.folder.clone(),
                    queue: Vec::new(),
                    disk: x.disk.clone(),
                    mount: None,
                    exempt: false,
                };
                self.w.machines.push(copy);
                self.w.copied = true;
                let c = self.w.machines.len() - 1;
                self.w.mount(c);
                // The copy condemns, unheard; the first half publishes heads with the same numbers, which are heard.
                self.w.machines[c].online = false;
                self.w.thin(c);
                self.user(c, Op::Mkdir { dir: ROOT, name: Rc::from("x") })?;
                self.checkpoint(c);
                self.tidy(c);
                self.user(0, Op::Create { dir: ROOT, name, chunks: self.pool(1) })?;
                let rest: Vec<usize> = all.clone();
                self.days(&rest, 3, false);
                // The copy hears the others, not the first half (whose heads its client is slow with).
                let own = self.w.machines[c].disk.dev;
                self.w.machines[c].online = true;
                for _ in 0..10 {
                    while let Some(i) = self.w.machines[c].queue.iter().position(|t| matches!(t.0, Task::Down(f) | Task::Whole(f) if self.w.conts[f as usize].folder != own)) {
                        self.w.run_task(c, i);
                    }
                    if self.w.machines[c].mount.is_some() {
                        self.w.process(c);
                    }
                    if self.w.machines[c].mount.is_some() {
                        self.w.sweep(c);
                    }
                    self.w.now += DAY;
                }
            }
            // Objects of one machine are stuck at its client, heads and deletions are not; the owner gives back
            // what they replace. 4: the owner's own; 7: another's.
            4 | 7 => {
                let stuck = if kind == 4 { 0 } else { 1 };
                let big_at = (ROOT, Rc::from("big"));
                self.user(0, Op::Create { dir: ROOT, name: Rc::from("big"), chunks: big(0, 8) })?;
                self.days(&all, 4, false);
                let keep = if kind == 4 { 3 } else { 0 };
                let chunks = big(0, keep).into_iter().chain(big(20, 5)).collect();
                self.user(stuck, Op::Write { at: big_at, chunks })?;
                for _ in 0..16 {
                    for m in [0, 1, 2] {
                        while let Some(i) = self.w.machines[m].queue.iter().position(|t| !matches!(t.0, Task::Up(f) if m == stuck && self.w.conts[f as usize].head.is_none())) {
                            self.w.run_task(m, i);
                        }
                        if self.w.machines[m].mount.is_none() {
                            self.w.mount(m);
                        }
                        if self.w.machines[m].mount.is_some() && self.w.process(m) {
                            self.w.machines[m].disk.thin = self.w.machines[m]
                                .disk
                                .head
                                .is_some_and(|h| !self.w.commit(h).kept.is_empty());
                            self.checkpoint(m);
                            if m == 0 {
                                self.tidy(m);
                                self.w.sweep(m);
                            }
                        }
                    }
                    self.secure();
                    self.check()?;
                    self.w.now += DAY;
                }
            }
            // An old program inherits from a device that stored what it cannot read.
            8 => {
                self.user(1, Op::Opaque { at, chunks: big(40, 4) })?;
                self.days(&all, 4, false);
                let victim = self.w.machines[1].disk.dev;
                let x = &mut self.w.machines[0];
                x.disk.retire.insert(victim, x.disk.dev);
                let steps = x.disk.steps;
                x.disk.retired_at.insert(victim, steps);
                self.w.machines[1].alive = false;
                self.w.machines[1].mount = None;
                self.days(&[0, 2], 60, true);
            }
            // What was deleted comes back, months later.
            9 => {
                self.user(0, Op::Unlink { at })?;
                self.days(&all, 20, true);
                for _ in 0..4 {
                    self.w.resurrect();
                }
                self.days(&all, 3, true);
            }
            // A device is copied. The copy condemns what the first half then stands on; a third acknowledges a head
            // of the first half, with the number of the copy's.
            11 => {
                let f: (Ino, Name) = (ROOT, Rc::from("f"));
                self.user(0, Op::Create { dir: ROOT, name: f.1.clone(), chunks: big(0, 3) })?;
                self.user(0, Op::Unlink { at })?;
                self.days(&all, 6, false);
                let copy = self.half(0);
                self.w.mount(copy);
                let own = self.w.machines[copy].disk.dev;
                self.w.machines[copy].online = false;
                if let Some((condemn, extra)) = self.w.plan(copy) {
                    self.w.publish(copy, &condemn, &extra, 0);
                }
                for (m, mode) in [(0, 1), (1, 2)] {
                    while let Some(i) =
                        self.w.machines[m].queue.iter().position(|t| matches!(t.0, Task::Down(_)))
                    {
                        self.w.run_task(m, i);
                    }
                    if self.w.machines[m].mount.is_some() {
                        self.w.process(m);
                    }
                    self.user(m, Op::Chmod { at: f.clone(), mode })?;
                    self.w.publish(m, &[], &BTreeSet::new(), 0);
                    while !self.w.machines[m].queue.is_empty() {
                        self.w.run_task(m, 0);
                    }
                }
                self.user(0, Op::Create { dir: ROOT, name, chunks: self.pool(1) })?;
                self.w.publish(0, &[], &BTreeSet::new(), 0);
                while !self.w.machines[0].queue.is_empty() {
                    self.w.run_task(0, 0);
                }
                self.w.machines[copy].online = true;
                for _ in 0..10 {
                    let theirs = |w: &World, t: &Task| match t {
                        Task::Down(f) | Task::Whole(f) => w.conts[*f as usize].folder != own,
                        Task::DelUp(_) => true,
                        _ => false,
                    };
                    while let Some(i) =
                        self.w.machines[copy].queue.iter().position(|t| theirs(&self.w, &t.0))
                    {
                        self.w.run_task(copy, i);
                    }
                    if self.w.machines[copy].mount.is_some() && self.w.process(copy) {
                        self.w.sweep(copy);
                    }
                    self.w.now += DAY;
                }
                let whole: Vec<usize> = (0..self.w.machines.len()).collect();
                self.days(&whole, 4, true);
            }
            // A device alone is copied; the first half has heard of the other, which is then out of touch with an
            // edit that stands on what the first deletes.
            10 => {
                self.half(0);
                self.user(1, Op::Mkdir { dir: ROOT, name: Rc::from("x") })?;
                self.w.publish(1, &[], &BTreeSet::new(), 0);
                self.w.machines[1].online = false;
                while let Some(i) =
                    self.w.machines[1].queue.iter().position(|t| matches!(t.0, Task::Up(_)))
                {
                    self.w.run_task(1, i);
                }
                let again = (ROOT, Rc::from("again"));
                let (dir, name) = again.clone();
                self.user(1, Op::Create { dir, name, chunks: big(0, 1) })?;
                // A reflink: no new bytes.
                let chunks = big(0, 1).into_iter().chain(self.pool(1)).collect();
                self.user(1, Op::Write { at: again, chunks })?;
                self.user(0, Op::Unlink { at })?;
                self.days(&[0], 16, true);
                self.check()?;
                self.w.machines[1].online = true;
                self.days(&[0, 1], 4, true);
            }
            // A device is retired while it is away with edits; its heir tidies up.
            5 => {
                self.user(1, Op::Create { dir: ROOT, name: Rc::from("q"), chunks: self.pool(2) })?;
                self.days(&all, 3, false);
                self.user(
                    1,
                    Op::Write { at: (ROOT, Rc::from("q")), chunks: vec![21, 22, 777_005] },
                )?;
                self.checkpoint(1);
                self.user(0, Op::Unlink { at: (ROOT, Rc::from("q")) })?;
                let victim = self.w.machines[1].disk.dev;
                if let Some(own) =
                    self.w.machines[0].mount.as_ref().map(|_| self.w.machines[0].disk.dev)
                {
                    let x = &mut self.w.machines[0];
                    x.disk.retire.insert(victim, own);
                    let steps = x.disk.steps;
                    x.disk.retired_at.insert(victim, steps);
                }
                self.days(&[0, 2], 12, true);
                // It comes back in time.
                self.days(&all, 4, true);
            }
            // Alone: the copy of what a condemned container holds goes bad before it is uploaded.
            _ => {
                let at = (ROOT, Rc::from("big"));
                self.user(0, Op::Create { dir: ROOT, name: Rc::from("big"), chunks: big(0, 8) })?;
                self.days(&all, 2, false);
                let chunks = big(0, 3).into_iter().chain(big(20, 5)).collect();
                self.user(0, Op::Write { at, chunks })?;
                self.days(&all, 3, false);
                let before = self.w.conts.len();
                self.tidy(0);
                let head = self.w.machines[0].disk.head;
                for f in before as File..self.w.conts.len() as File {
                    if Some(f) != head && self.w.machines[0].folder.contains_key(&f) {
                        self.w.machines[0].folder.insert(f, Quality::Half);
                        self.w.say(|| format!("{f} goes bad on m0"));
                    }
                }
                self.days(&all, 14, true);
            }
        }
        self.w.keep = 2;
        self.check()
    }

    fn time(&mut self) {
        let p = self.profile.sleep;
        let jump = match self.w.rng.below(1000) / p {
            0..=3 => 40 * DAY,
            4..=15 => 8 * DAY,
            16..=80 => DAY + 3600,
            _ => self.w.rng.below(3 * 3600) as i64,
        };
        let target = self.w.now + jump;
        while self.w.now < target {
            self.w.now = target.min(self.w.now + DAY);
            // A client that is not paused is so many days behind at most.
            let most = if self.w.machines.len() == 1 { 3 } else { self.profile.stuck };
            for m in 0..self.w.machines.len() {
                if !self.w.machines[m].alive || !self.w.machines[m].online {
                    continue;
                }
                while let Some(i) =
                    self.w.machines[m].queue.iter().position(|t| t.1 < self.w.now - most * DAY)
                {
                    self.w.run_task(m, i);
                }
            }
        }
    }

    fn pick(&mut self, ok: impl Fn(&Machine) -> bool) -> Option<usize> {
        let all: Vec<usize> = (0..self.w.machines.len())
            .filter(|m| self.w.machines[*m].alive && ok(&self.w.machines[*m]))
            .collect();
        (!all.is_empty()).then(|| all[self.w.rng.below(all.len() as u64) as usize])
    }

    fn sync(&mut self) {
        let Some(m) = self.pick(|m| m.online && !m.queue.is_empty()) else { return };
        for _ in 0..1 + self.w.rng.below(10) {
            let len = self.w.machines[m].queue.len();
            if len == 0 {
                return;
            }
            let mut i = self.w.rng.below(len as u64) as usize;
            if self.deletions_first {
                let del = |t: &(Task, i64)| matches!(t.0, Task::DelUp(_) | Task::DelDown(_));
                if let Some(d) = self.w.machines[m].queue.iter().position(del) {
                    i = d;
                }
            }
            self.w.run_task(m, i);
        }
    }

    fn action(&mut self) -> Result<(), String> {
        let mounted = |m: &Machine| m.mount.is_some() && !m.asleep;
        match self.w.rng.below(100) {
            0..=33 => {
                if let Some(m) = self.pick(mounted) {
                    self.op(m)?;
                }
            }
            34..=56 => self.sync(),
            57..=64 => {
                if let Some(m) = self.pick(mounted) {
                    self.w.process(m);
                }
            }
            65..=74 => {
                if let Some(m) = self.pick(mounted) {
                    self.checkpoint(m);
                }
            }
            75..=80 => {
                if let Some(m) = self.pick(mounted) {
                    self.tidy(m);
                }
            }
            81..=85 => {
                if let Some(m) = self.pick(mounted) {
                    let before = self.w.machines[m].disk.deleted.len();
                    self.w.sweep(m);
                    self.stats.deleted += (self.w.machines[m].disk.deleted.len() - before) as u64;
                }
            }
            86..=88 => {
                if let Some(m) = self.pick(|m| m.mount.is_none() && !m.asleep) {
                    self.w.mount(m);
                }
            }
            89 => {
                if let Some(m) = self.pick(mounted) {
                    self.w.crash(m);
                }
            }
            90..=91 => {
                if let Some(m) = self.pick(mounted) {
                    self.w.thin(m);
                }
            }
            92..=94 if self.profile.sleep > 1 => self.rest(),
            _ => self.event(),
        }
        Ok(())
    }

    fn checkpoint(&mut self, m: usize) -> bool {
        let dirty = self.w.machines[m].mount.as_ref().is_some_and(|x| x.dirty);
        if !dirty && !self.w.owes(m) && !(self.w.machines[m].disk.thin) {
            return false;
        }
        let crash = if self.w.rng.chance(12) { 1 + self.w.rng.below(2) as u32 } else { 0 };
        self.w.publish(m, &[], &BTreeSet::new(), crash)
    }

    fn tidy(&mut self, m: usize) -> bool {
        let Some((condemn, extra)) = self.w.plan(m) else { return false };
        let crash = if self.w.rng.chance(8) { 1 + self.w.rng.below(2) as u32 } else { 0 };
        self.w.publish(m, &condemn, &extra, crash)
    }

    /// Somebody falls asleep or wakes, or goes offline or online.
    fn rest(&mut self) {
        if self.w.machines.len() == 1 {
            return;
        }
        let Some(m) = self.pick(|_| true) else { return };
        let deep = self.w.rng.chance(50);
        let x = &mut self.w.machines[m];
        if deep {
            x.asleep = !x.asleep;
            x.online = !x.asleep;
        } else {
            x.online = !x.online;
        }
        let (asleep, online) = (x.asleep, x.online);
        self.w.say(|| format!("m{m} asleep {asleep} online {online}"));
    }

    /// Bytes on a disk go bad. Only where nothing is lost by it: then nothing may be lost later either.
    fn rot(&mut self) {
        let Some(m) = self.pick(|_| true) else { return };
        let dev = self.w.machines[m].disk.dev;
        let own: Vec<File> = self.w.machines[m]
            .folder
            .keys()
            .copied()
            .filter(|f| {
                self.w.conts[*f as usize].folder == dev && self.w.machines[m].disk.head != Some(*f)
            })
            .collect();
        for file in own {
            let spare = self.w.conts[file as usize].refs.iter().all(|r| {
                let others = |f: &File| *f != file && self.w.conts[*f as usize].refs.contains(r);
                self.w.cloud.iter().any(&others)
                    && self.w.machines.iter().all(|x| {
                        !x.alive || x.folder.iter().any(|(f, q)| others(f) && *q == Quality::Good)
                    })
            });
            if spare && !self.w.cloud.contains(&file) {
                self.w.machines[m].folder.insert(file, Quality::Half);
                self.w.say(|| format!("{file} goes bad on m{m}"));
                return;
            }
        }
    }

    fn event(&mut self) {
        let single = self.w.machines.len() == 1;
        match self.w.rng.below(26) {
            0..=3 => self.w.resurrect(),
            4..=5 => {
                if let Some(m) = self.pick(|m| m.online) {
                    self.w.roll_back(m);
                }
            }
            6..=8 if !single => {
                if let Some(m) = self.pick(|_| true) {
                    let x = &mut self.w.machines[m];
                    x.online = !x.online;
                }
            }
            9..=11 if !single => {
                if let Some(m) = self.pick(|_| true) {
                    let x = &mut self.w.machines[m];
                    x.asleep = !x.asleep;
                    x.online = !x.asleep;
                    let asleep = x.asleep;
                    self.w.say(|| format!("m{m} asleep: {asleep}"));
                }
            }
            12..=13 => {
                if self.w.rng.chance(30)
                    && let Some(m) = self.pick(|_| true)
                {
                    let years = self.w.rng.below(9) as i64 - 4;
                    self.w.machines[m].skew = years * 300 * DAY;
                }
            }
            14 if self.w.machines.len() < 5 => self.join_new(),
            21 if self.w.machines.len() < 5 && self.profile.joins > 1 => self.join_new(),
            22 if self.profile.sleep > 1 => self.rot(),
            15 if self.w.machines.len() < 5 && self.w.rng.chance(self.profile.copies) => {
                self.copy()
            }
            16 if !single && self.w.rng.chance(50) => self.retire(),
            17 if !single && self.w.rng.chance(40) => self.lose(),
            18..=20 if !single => {
                // A long sleep of one: the others go on.
                if self.w.rng.chance(25) {
                    self.w.now += 60 * DAY;
                }
            }
            _ => self.sync(),
        }
    }

    fn join_new(&mut self) {
        self.w.next_dev += 1;
        let d = disk(self.w.next_dev);
        let now = self.w.now;
        let queue = self.w.cloud.iter().map(|f| (Task::Down(*f), now)).collect();
        let on_demand = self.w.rng.chance(20);
        self.w.machines.push(Machine {
            alive: true,
            online: true,
            asleep: false,
            on_demand,
            old: false,
            skew: 0,
            folder: BTreeMap::new(),
            queue,
            disk: d,
            mount: None,
            exempt: false,
        });
        self.w.say(|| "a new machine".into());
    }

    /// A machine's disk is copied whole: state, folder, client.
    fn copy(&mut self) {
        let Some(m) = self.pick(|m| m.disk.head.is_some()) else { return };
        let x = &self.w.machines[m];
        let copy = Machine {
            alive: true,
            online: true,
            asleep: false,
            on_demand: x.on_demand,
            old: x.old,
            skew: x.skew,
            folder: x.folder.clone(),
            queue: x.queue.clone(),
            disk: x.disk.clone(),
            mount: None,
            exempt: true,
        };
        self.w.machines.push(copy);
        self.w.machines[m].exempt = true;
        self.w.copied = true;
        self.stats.clones += 1;
        let n = self.w.machines.len() - 1;
        self.w.say(|| format!("m{m} was copied to m{n}"));
    }

    fn retire(&mut self) {
        let Some(by) = self.pick(|m| m.mount.is_some() && !m.asleep && m.disk.head.is_some())
        else {
            return;
        };
        let own = self.w.machines[by].disk.dev;
        let known: Vec<DevId> = self.w.machines[by]
            .mount
            .as_ref()
            .expect("mounted")
            .tip
            .keys()
            .copied()
            .filter(|d| *d != own)
            .collect();
        let gone = self.w.retired(by);
        let known: Vec<DevId> = known.into_iter().filter(|d| !gone.contains_key(d)).collect();
        if known.is_empty() {
            return;
        }
        let victim = known[self.w.rng.below(known.len() as u64) as usize];
        let steps = self.w.machines[by].disk.steps;
        self.w.machines[by].disk.retire.insert(victim, own);
        self.w.machines[by].disk.retired_at.insert(victim, steps);
        for x in &mut self.w.machines {
            if x.disk.dev == victim && x.alive {
                x.exempt = true;
            }
        }
        self.stats.retired += 1;
        self.w.say(|| format!("m{by} retires device {victim}"));
    }

    fn lose(&mut self) {
        if self.w.machines.iter().filter(|m| m.alive).count() < 3 {
            return;
        }
        let Some(m) = self.pick(|_| true) else { return };
        let quiet =
            self.w.machines[m].queue.iter().all(|t| !matches!(t.0, Task::Up(_) | Task::DelUp(_)))
                && self.w.machines[m].disk.journal.is_empty()
                && self.w.machines[m].folder.iter().all(|(f, _)| {
                    self.w.cloud.contains(f)
                        || self.w.conts[*f as usize].folder != self.w.machines[m].disk.dev
                });
        if !quiet {
            self.exact = false;
        }
        self.w.machines[m].alive = false;
        self.w.machines[m].mount = None;
        self.stats.lost += 1;
        self.w.say(|| format!("m{m} is lost for ever"));
    }

    // ------------------------------------------------------------------ users

    fn random_op(&mut self, m: usize, plain: &Plain) -> Option<Op> {
        let dirs: Vec<Ino> = [ROOT]
            .into_iter()
            .chain(plain.entries.values().copied().filter(|i| plain.is_dir(*i)))
            .collect();
        let all: Vec<&(Ino, Name)> = plain.entries.keys().collect();
        let rng = &mut self.w.rng;
        let dir = dirs[rng.below(dirs.len() as u64) as usize];
        let name = self.names[rng.below(self.names.len() as u64) as usize].clone();
        let free = !plain.entries.contains_key(&(dir, name.clone()));
        let old = self.w.machines[m].old;
        let some = |rng: &mut Rng| {
            (!all.is_empty()).then(|| all[rng.below(all.len() as u64) as usize].clone())
        };
        let mut fresh = || {
            self.w.next_chunk += 1;
            self.w.next_chunk
        };
        if rng.chance(self.profile.pool) {
            let which = rng.below(4);
            let pool = vec![10 * which + 1, 10 * which + 2, 10 * which + 3];
            if free && rng.chance(50) {
                return Some(Op::Create { dir, name, chunks: pool });
            }
            return Some(Op::Unlink { at: some(rng)? });
        }
        if rng.chance(self.profile.moves) {
            let at = some(rng)?;
            return Some(match rng.below(10) {
                0..=5 => Op::Rename { from: at, dir, name },
                6 if dirs.len() < 9 => Op::Mkdir { dir, name },
                7 => Op::Link { at, dir, name },
                8 => Op::Rmdir { at },
                _ => Op::Unlink { at },
            });
        }
        let op = match rng.below(100) {
            0..=17 if free => {
                let n = 1 + rng.below(4);
                Op::Create { dir, name, chunks: (0..n).map(|_| fresh()).collect() }
            }
            // The same file brought in on several devices, or again after it was deleted.
            18..=27 if free => {
                let which = rng.below(4);
                Op::Create {
                    dir,
                    name,
                    chunks: vec![10 * which + 1, 10 * which + 2, 10 * which + 3],
                }
            }
            28..=37 if free && dirs.len() < 6 => Op::Mkdir { dir, name },
            38..=57 => {
                let at = some(rng)?;
                let mut chunks = plain.recs[&plain.entries[&at]].chunks.to_vec();
                if chunks.is_empty() {
                    chunks.push(fresh());
                } else {
                    let i = rng.below(chunks.len() as u64) as usize;
                    chunks[i] = fresh();
                }
                // A reflink of a part of another file.
                if rng.chance(25) {
                    let other = some(rng)?;
                    chunks.extend(plain.recs[&plain.entries[&other]].chunks.iter().take(2));
                }
                Op::Write { at, chunks }
            }
            58..=61 => Op::Chmod { at: some(rng)?, mode: rng.below(8) as u32 },
            62..=65 => {
                let val = rng.chance(70).then(|| rng.below(100) as u32);
                Op::Xattr { at: some(rng)?, name: rng.below(2) as u8, val }
            }
            66..=68 if !old => Op::Opaque { at: some(rng)?, chunks: vec![fresh(), fresh()] },
            69..=80 => Op::Unlink { at: some(rng)? },
            81..=84 => Op::Rmdir { at: some(rng)? },
            85..=94 => {
                let from = some(rng)?;
                Op::Rename { from, dir, name }
            }
            _ => Op::Link { at: some(rng)?, dir, name },
        };
        Some(op)
    }

    fn op(&mut self, m: usize) -> Result<(), String> {
        let plain = self.w.plain(m);
        match self.random_op(m, &plain) {
            Some(op) => self.apply(m, plain, op),
            None => Ok(()),
        }
    }

    fn apply(&mut self, m: usize, plain: Plain, op: Op) -> Result<(), String> {
        let Some(want) = expected(&plain, &op) else { return Ok(()) };
        let fresh: BTreeSet<Ref> = match &op {
            Op::Create { chunks, .. } | Op::Opaque { chunks, .. } => {
                chunks.iter().copied().collect()
            }
            Op::Write { chunks, .. } => {
                let had: BTreeSet<Ref> =
                    plain.recs.values().flat_map(|r| r.chunks.iter().copied()).collect();
                chunks.iter().copied().filter(|c| !had.contains(c)).collect()
            }
            _ => BTreeSet::new(),
        };
        let w = &mut self.w;
        let mount = w.machines[m].mount.as_ref().expect("mounted");
        let dot = Dot { writer: mount.writer, count: mount.count + 1 };
        let mut inos = mount.inos;
        let base = u64::from(mount.writer) << 20;
        let now = w.now + w.machines[m].skew;
        let mut new_ino = || {
            inos += 1;
            base + inos
        };
        let before = mount.cur.clone();
        let mut maker = Maker {
            state: before,
            dot,
            edits: Vec::new(),
            effect: Default::default(),
            off: w.off,
            now,
            next_id: &mut w.next_id,
            new_ino: &mut new_ino,
        };
        if !maker.run(&op) {
            return Err(format!("an operation was refused that a plain file system does: {op:?}"));
        }
        let (state, edits, effect) = (maker.state, maker.edits, maker.effect);
        let seen = view(&state, w.off);
        let after = Plain::read(&seen, w.off);
        if let Some(fault) = after.fault(&seen) {
            return Err(format!("after {op:?}: {fault}"));
        }
        let got = after.listing();
        if got != want {
            let missing: Vec<_> = want.iter().filter(|(k, v)| got.get(*k) != Some(v)).collect();
            let more: Vec<_> = got.iter().filter(|(k, v)| want.get(*k) != Some(v)).collect();
            return Err(format!(
                "op differs from the plain file system: {op:?} missing {missing:?} more {more:?}"
            ));
        }
        // Every chunk that is written under own dots is relied on, or copied now, or the operation fails (EIO).
        let old = w.machines[m].old;
        let names: Vec<Ref> = edits
            .iter()
            .filter_map(|e| match &e.val {
                Some(Val::Inode(r)) => Some(r.chunks.clone()),
                Some(Val::Opaque(r)) if !old => Some(r.clone()),
                _ => None,
            })
            .flat_map(|r| r.to_vec())
            .collect();
        if !w.ensure_names(m, &names, &fresh) {
            return Ok(());
        }
        w.oracle.apply(&effect);
        for (life, _) in &effect.new_lives {
            let holder = state.items.iter().find(|(k, v)| {
                matches!(k, Key::Inode(_))
                    && v.iter().any(|(_, v)| matches!(v, Val::Inode(r) if r.life == *life))
            });
            if let Some((Key::Inode(ino), _)) = holder {
                let xs: Vec<u8> =
                    crate::show::xattrs(&state, *ino, w.off).iter().map(|x| x.0).collect();
                w.oracle.xattrs.insert(*life, (*ino, xs));
            }
        }
        w.say(|| {
            format!(
                "m{m} {op:?} tokens {:?} replaced {:?} lives {:?} ended {:?}",
                effect.new_tokens.iter().map(|t| t.0).collect::<Vec<_>>(),
                effect.replaced_tokens,
                effect.new_lives,
                effect.ended_lives
            )
        });
        let machine = &mut w.machines[m];
        machine.disk.journal.extend(edits);
        machine.disk.pending.extend(fresh);
        let mount = machine.mount.as_mut().expect("mounted");
        mount.cur = state;
        mount.inos = inos;
        mount.count += 1;
        mount.dirty = true;
        self.stats.ops += 1;
        Ok(())
    }

    // ------------------------------------------------------------------ what must hold

    fn secure(&mut self) {
        let w = &mut self.w;
        let heads: Vec<File> = w
            .cloud
            .iter()
            .copied()
            .filter(|f| w.conts[*f as usize].head.is_some() && !self.secured.seen.contains(f))
            .collect();
        if heads.is_empty() {
            return;
        }
        let all: HashSet<Ref> =
            w.cloud.iter().flat_map(|f| w.conts[*f as usize].refs.iter().copied()).collect();
        for head in heads {
            let c = w.commit(head).clone();
            let roots: Vec<Ref> = [c.root]
                .into_iter()
                .chain(c.kept.iter().map(|k| k.root))
                .filter(|r| *r != 0)
                .collect();
            let whole = roots.iter().all(|r| {
                let refs = w.refs(*r, false);
                refs.0.iter().all(|n| all.contains(n)) && refs.1.iter().all(|d| all.contains(&d.1))
            });
            if whole {
                self.secured.seen.insert(head);
                let newest = self.secured.newest.get(&c.dev);
                if newest.is_none_or(|n| w.commit(*n).generation < c.generation) {
                    self.secured.newest.insert(c.dev, head);
                }
            }
        }
    }

    /// Whether every other device that is not retired has named this one.
    fn known(&self, dev: DevId) -> bool {
        let w = &self.w;
        let newest: BTreeMap<DevId, &Commit> =
            w.conts.iter().filter_map(|c| c.head.as_ref()).map(|c| (c.dev, c)).collect();
        let retired: BTreeSet<DevId> =
            newest.values().flat_map(|c| c.retired.keys().copied()).collect();
        newest
            .iter()
            .filter(|(d, _)| **d != dev && !retired.contains(d))
            .all(|(_, c)| c.processed.contains_key(&dev))
            && !retired.contains(&dev)
    }

    fn check(&mut self) -> Result<(), String> {
        let n = self.w.machines.len();
        let folder_refs: Vec<HashSet<Ref>> = (0..n)
            .map(|m| {
                let x = &self.w.machines[m];
                let good = x.folder.iter().filter(|(_, q)| x.alive && **q == Quality::Good);
                good.flat_map(|(f, _)| self.w.conts[*f as usize].refs.iter().copied()).collect()
            })
            .collect();
        let cloud: HashSet<Ref> = self
            .w
            .cloud
            .iter()
            .flat_map(|f| self.w.conts[*f as usize].refs.iter().copied())
            .collect();
        // (a) what each living device stands on, and its unpublished edits.
        for m in 0..n {
            let x = &self.w.machines[m];
            if !x.alive || x.exempt {
                continue;
            }
            let dev = x.disk.dev;
            let authors: BTreeSet<DevId> = x.disk.was.iter().copied().chain([dev]).collect();
            let known = self.known(dev);
            let mut need: Vec<(Dot, Ref)> = Vec::new();
            let mut nodes: Vec<Ref> = Vec::new();
            let last: BTreeMap<&Key, &Edit> = x.disk.journal.iter().map(|e| (&e.key, e)).collect();
            for edit in last.values() {
                if let Some(Val::Inode(rec)) = &edit.val {
                    need.extend(rec.chunks.iter().map(|c| (edit.dot, *c)));
                }
            }
            let head = x.disk.head;
            if let Some(head) = head {
                let roots: Vec<Ref> = {
                    let c = self.w.commit(head);
                    [c.root]
                        .into_iter()
                        .chain(c.kept.iter().map(|k| k.root))
                        .filter(|r| *r != 0)
                        .collect()
                };
                let mut refs_all = Vec::new();
                for r in roots {
                    refs_all.push(self.w.refs(r, false));
                }
                for r in refs_all {
                    nodes.extend(r.0.iter().copied());
                    need.extend(r.1.iter().copied());
                }
            }
            let x = &self.w.machines[m];
            if let Some(r) = nodes.iter().find(|r| {
                !cloud.contains(r)
                    && !folder_refs.iter().any(|f| f.contains(r))
                    && !x.disk.pending.contains(r)
            }) {
                return Err(format!(
                    "a node of device {dev}'s newest or kept head is nowhere ({r:x})"
                ));
            }
            let has = |r: &Ref| {
                cloud.contains(r)
                    || folder_refs.iter().any(|f| f.contains(r))
                    || self.w.machines[m].disk.pending.contains(r)
            };
            for (dot, r) in need {
                let own = self.w.writer_dev.get(&dot.writer).is_some_and(|d| authors.contains(d));
                // What a device that is lost had not uploaded is lost with it.
                let gone =
                    self.w.writer_dev.get(&dot.writer).is_some_and(|d| {
                        self.w.machines.iter().any(|x| !x.alive && x.disk.dev == *d)
                    });
                if (known || own) && !gone && !has(&r) && (own || !self.before_named(m)) {
                    return Err(format!(
                        "chunk {r} of device {dev} is nowhere (own: {own}, made by {dot:?})"
                    ));
                }
            }
        }
        // (a) whatever was whole in the cloud stays so, whichever one device is lost now.
        let retired: BTreeSet<DevId> = self
            .w
            .conts
            .iter()
            .filter_map(|c| c.head.as_ref())
            .flat_map(|c| c.retired.keys().copied())
            .collect();
        let newest: Vec<(DevId, File)> = self.secured.newest.iter().map(|x| (*x.0, *x.1)).collect();
        for (dev, head) in newest {
            if retired.contains(&dev)
                || !self.known(dev)
                || self.w.machines.iter().any(|x| x.disk.dev == dev && x.exempt)
            {
                continue;
            }
            let c = self.w.commit(head).clone();
            if c.processed.values().any(|(_, f)| !self.w.commit(*f).processed.contains_key(&dev)) {
                continue;
            }
            for root in
                [c.root].into_iter().chain(c.kept.iter().map(|k| k.root)).filter(|r| *r != 0)
            {
                // Kept commits that the device itself dropped since are not owed.
                let refs = self.w.refs(root, false);
                let latest = self
                    .w
                    .machines
                    .iter()
                    .find(|x| x.disk.dev == dev && x.alive)
                    .and_then(|x| x.disk.head);
                let still = root == c.root
                    || latest.is_none_or(|h| self.w.commit(h).kept.iter().any(|k| k.root == root));
                if !still {
                    continue;
                }
                for r in refs.0.iter().copied().chain(refs.1.iter().map(|d| d.1)) {
                    if cloud.contains(&r) {
                        continue;
                    }
                    let holders: Vec<usize> =
                        (0..n).filter(|m| folder_refs[*m].contains(&r)).collect();
                    let pending = (0..n)
                        .filter(|m| {
                            self.w.machines[*m].alive
                                && self.w.machines[*m].disk.pending.contains(&r)
                        })
                        .count();
                    if holders.len() + pending < 2 {
                        return Err(format!(
                            "head {head} of device {dev} was whole in the cloud; {r:x} is now on {} machines only",
                            holders.len() + pending
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// A device that was not named yet when it published owes others' files nothing; what they deleted is gone.
    fn before_named(&self, m: usize) -> bool {
        let x = &self.w.machines[m];
        let Some(head) = x.disk.head else { return true };
        let c = self.w.commit(head);
        c.processed.values().any(|(_, f)| !self.w.commit(*f).processed.contains_key(&c.dev))
    }

    // ------------------------------------------------------------------ in the end

    fn drain(&mut self) {
        for _ in 0..4000 {
            let Some(m) = self.pick(|m| m.online && !m.queue.is_empty()) else { return };
            let i = self.w.rng.below(self.w.machines[m].queue.len() as u64) as usize;
            self.w.run_task(m, i);
        }
    }

    fn quiesce(&mut self) -> Result<(), String> {
        self.w.say(|| "--- everybody wakes".into());
        for x in &mut self.w.machines {
            x.asleep = false;
            x.online = true;
        }
        let mut still = 0;
        let rounds = 900u32;
        for round in 0..rounds {
            let heads = self.w.heads_made;
            let mut deleted = 0;
            self.drain();
            // The lost are retired by the first that is alive.
            if [3, 9, 15, 30].contains(&round) {
                let lost: Vec<DevId> =
                    self.w.machines.iter().filter(|x| !x.alive).map(|x| x.disk.dev).collect();
                if let Some(m) = self.pick(|x| x.mount.is_some()) {
                    let gone = self.w.retired(m);
                    for d in lost {
                        if !gone.contains_key(&d) && d != self.w.machines[m].disk.dev {
                            let x = &mut self.w.machines[m];
                            x.disk.retire.insert(d, x.disk.dev);
                            let s = x.disk.steps;
                            x.disk.retired_at.insert(d, s);
                        }
                    }
                }
            }
            for m in 0..self.w.machines.len() {
                if !self.w.machines[m].alive {
                    continue;
                }
                if self.w.machines[m].mount.is_none() {
                    self.w.mount(m);
                    continue;
                }
                if !self.w.process(m) {
                    continue;
                }
                let dirty = self.w.machines[m].mount.as_ref().is_some_and(|x| x.dirty);
                if dirty || self.w.owes(m) {
                    self.w.publish(m, &[], &BTreeSet::new(), 0);
                }
                if round > 8
                    && let Some((condemn, extra)) = self.w.plan(m)
                {
                    self.w.publish(m, &condemn, &extra, 0);
                }
                let before = self.w.machines[m].disk.deleted.len();
                self.w.sweep(m);
                deleted += self.w.machines[m].disk.deleted.len() - before;
            }
            self.stats.deleted += deleted as u64;
            self.w.now += DAY;
            self.secure();
            if round % 5 == 0 {
                self.check()?;
            }
            let idle = self
                .w
                .machines
                .iter()
                .all(|x| !x.alive || (x.queue.is_empty() && x.mount.is_some()));
            still = if heads == self.w.heads_made && deleted == 0 && idle { still + 1 } else { 0 };
            if still > RETIRE_WAIT + 10 {
                self.stats.quiet_rounds += round as u64;
                return Ok(());
            }
        }
        Err(format!("not quiet after {rounds} rounds (heads {})", self.w.heads_made))
    }

    fn finish(&mut self) -> Result<(), String> {
        self.stats.heads += u64::from(self.w.heads_made);
        let alive: Vec<usize> =
            (0..self.w.machines.len()).filter(|m| self.w.machines[*m].alive).collect();
        let first = alive[0];
        let cur = self.w.machines[first].mount.as_ref().expect("mounted").cur.clone();
        for m in &alive {
            let other = &self.w.machines[*m].mount.as_ref().expect("mounted").cur;
            if other.nodes().0 != cur.nodes().0 {
                let diff: Vec<_> = cur
                    .items
                    .iter()
                    .filter(|(k, v)| other.items.get(*k) != Some(*v))
                    .map(|x| x.0.clone())
                    .collect();
                return Err(format!(
                    "m{first} and m{m} have different roots: {diff:?} or {:?} {:?}",
                    cur.seen, other.seen
                ));
            }
        }
        let seen = view(&cur, self.w.off);
        let plain = Plain::read(&seen, self.w.off);
        self.stats.conflicts += repairs(&cur, self.w.off).groups.len() as u64;
        if let Some(fault) = plain.fault(&seen) {
            return Err(format!("not a plain tree: {fault}"));
        }
        let rng = &mut self.w.rng;
        if let Some(fault) = groups_are_apart(&cur, self.w.off, || rng.chance(50)) {
            return Err(fault);
        }
        if self.exact {
            self.stats.exact += 1;
            self.exactness(&cur, &plain)?;
        }
        // (d) space
        for m in &alive {
            let dev = self.w.machines[*m].disk.dev;
            if self.w.machines[*m].old {
                continue;
            }
            let active = alive.len();
            let heads = self
                .w
                .cloud
                .iter()
                .filter(|f| {
                    self.w.conts[**f as usize].folder == dev
                        && self.w.conts[**f as usize].head.is_some()
                })
                .count();
            if heads > 2 * (active + 1) + 10 {
                let head = self.w.machines[*m].disk.head.expect("published");
                let oldest = *self
                    .w
                    .cloud
                    .iter()
                    .find(|f| self.w.conts[**f as usize].folder == dev && **f != head)
                    .expect("many");
                let why = self.w.why(*m, oldest);
                return Err(format!(
                    "device {dev} keeps {heads} heads: {oldest}, row {:?}: {why}",
                    self.w.commit(head).ledger.get(&oldest)
                ));
            }
            let mut live: HashSet<Ref> = HashSet::new();
            // Of devices that were retired in a circle all is kept until a third device retires them.
            let retired = self.w.retired(*m);
            let tips = self.w.machines[*m].mount.as_ref().expect("mounted").tip.clone();
            let stuck =
                tips.iter().filter(|t| self.w.owner(&retired, *t.0).is_none()).map(|t| *t.1);
            let newest: Vec<File> = alive
                .iter()
                .map(|k| self.w.machines[*k].disk.head.expect("all have published"))
                .chain(stuck)
                .collect();
            for head in newest {
                let c = self.w.commit(head).clone();
                for root in
                    [c.root].into_iter().chain(c.kept.iter().map(|k| k.root)).filter(|r| *r != 0)
                {
                    let refs = self.w.refs(root, false);
                    live.extend(refs.0.iter().copied());
                    live.extend(refs.1.iter().map(|d| d.1));
                }
            }
            let dead: Vec<File> = self
                .w
                .cloud
                .iter()
                .copied()
                .filter(|f| {
                    let c = &self.w.conts[*f as usize];
                    c.folder == dev && c.head.is_none() && !c.refs.iter().any(|r| live.contains(r))
                })
                .collect();
            if !dead.is_empty() {
                let head = self.w.machines[*m].disk.head.expect("published");
                let row = self.w.commit(head).ledger.get(&dead[0]).copied();
                let why = self.w.why(*m, dead[0]);
                return Err(format!(
                    "dead objects {dead:?} of device {dev} are still in the cloud (row {row:?}): {why}"
                ));
            }
        }
        Ok(())
    }

    /// (c) nothing acknowledged is lost, nothing deleted comes back.
    fn exactness(&mut self, cur: &State, plain: &Plain) -> Result<(), String> {
        let w = &self.w;
        let shown: BTreeSet<Rc<[Ref]>> =
            plain.recs.values().filter(|r| !r.dir).map(|r| r.chunks.clone()).collect();
        let (must, may) = w.oracle.contents();
        if let Some(lost) = must.iter().find(|c| !shown.contains(*c)) {
            let at: Vec<_> = cur
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
            let at: Vec<_> = cur
                .items
                .iter()
                .filter(|(k, v)| {
                    matches!(k, Key::Inode(_))
                        && v.iter().any(|(_, v)| matches!(v, Val::Inode(r) if r.chunks == *more))
                })
                .collect();
            return Err(format!(
                "content {more:?} is shown though it was replaced or deleted; stored at {at:?}"
            ));
        }
        for (life, (ino, names)) in &w.oracle.xattrs {
            if w.oracle.lives.get(life).is_some_and(|l| !l.1) && cur.inode(*ino).is_some() {
                for n in names {
                    if !cur.items.contains_key(&Key::Xattr(*ino, *n)) {
                        return Err(format!("attribute {n} of inode {ino:x} is lost"));
                    }
                }
            }
        }
        for (dir, name) in plain.entries.keys() {
            if name.starts_with("inode ") {
                let ino = plain.entries[&(*dir, name.clone())];
                let at: Vec<_> = cur
                    .items
                    .iter()
                    .filter(|(k, v)| k.ino() == ino || v.iter().any(|(_, v)| *v == Val::Entry(ino)))
                    .collect();
                return Err(format!("a file has lost its name: {name} in {dir}; stored {at:?}"));
            }
        }
        // A version that was replaced is not shown as a conflict.
        for (key, vals) in &cur.items {
            if let Key::Inode(_) = key {
                let all = contents(vals);
                for a in &all[1..] {
                    if w.oracle.came_after(a.1.token, all[0].1.token) {
                        return Err(format!(
                            "a version that was replaced is shown as a conflict: {key:?} {a:?}"
                        ));
                    }
                }
            }
        }
        // No chunk of what is shown is missing (but for what a retired or copied device did).
        if !w.machines.iter().any(|x| x.exempt) && w.machines.iter().all(|x| x.alive) {
            let cloud: HashSet<Ref> =
                w.cloud.iter().flat_map(|f| w.conts[*f as usize].refs.iter().copied()).collect();
            for (_, r) in cur.data(false) {
                if !cloud.contains(&r) {
                    return Err(format!("chunk {r} of the final state is not in the cloud"));
                }
            }
        }
        Ok(())
    }
}

/// The laws of join on random states of the same history: it may be done in any order, and twice.
pub fn laws(count: u64) -> u64 {
    let mut bad = 0;
    for seed in 0..count {
        let mut sim = Sim::new(seed, Off::default(), false);
        let mut states: Vec<State> = Vec::new();
        for m in 0..sim.w.machines.len() {
            sim.w.mount(m);
        }
        for _ in 0..150 {
            let _ = sim.action();
            for x in &sim.w.machines {
                if let Some(mount) = &x.mount
                    && !mount.dirty
                {
                    states.push(mount.cur.clone());
                }
            }
        }
        for _ in 0..40 {
            if states.is_empty() {
                break;
            }
            let n = states.len() as u64;
            let mut pick = || states[sim.w.rng.below(n) as usize].clone();
            let (a, b, c) = (pick(), pick(), pick());
            let left = join(&join(&a, &b), &c);
            if left != join(&a, &join(&b, &c))
                || join(&a, &b) != join(&b, &a)
                || join(&a, &a) != a
                || join(&left, &b) != left
            {
                bad += 1;
            }
            let seen = view(&left, Off::default());
            let fault = Plain::read(&seen, Off::default()).fault(&seen);
            let fault =
                fault.or_else(|| groups_are_apart(&left, Off::default(), || sim.w.rng.chance(50)));
            if let Some(f) = fault {
                println!("seed {seed}: {f}");
                bad += 1;
            }
        }
    }
    println!("{count} histories, 40 triples each: {bad} breaches");
    bad
}
