//! Devices, their local state, the cloud between them, and what each device may do and when.
//! The rules themselves are `relied`, `process`, `publish`, `plan` and `sweep`; the rest is surroundings.

use crate::map::*;
use crate::oracle::Oracle;
use crate::repair::{Plain, view};
use crate::rng::Rng;
use crate::rules::{Off, Rule};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

pub type DevId = u32;
/// What a tree needs: its nodes, and the chunks that its values name.
pub type Refs = Rc<(Vec<Ref>, Vec<(Dot, Ref)>)>;
/// A file in REPO: its number stands for its name, which is the hash of its bytes.
pub type File = u32;
/// Day steps that a condemned container waits at least; and a retired device's folder.
pub const WAIT: u32 = 7;
pub const RETIRE_WAIT: u32 = 30;
pub const DAY: i64 = 86_400;
/// Feature bit: values of a kind that an old program cannot read name chunks.
pub const NEW_KIND: u8 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Row {
    Kept,
    /// Condemned by the head of this generation.
    Condemned(u32),
}

#[derive(Clone, Debug)]
pub struct Kept {
    pub root: Ref,
}

/// What a head says.
#[derive(Clone, Debug)]
pub struct Commit {
    pub dev: DevId,
    pub generation: u32,
    pub writer: Writer,
    pub root: Ref,
    /// The newest head of each device that is merged into it, itself left out.
    pub processed: BTreeMap<DevId, (u32, File)>,
    /// All containers of this device but this head; and the generation that listed each first.
    pub ledger: BTreeMap<File, Row>,
    pub listed: BTreeMap<File, u32>,
    /// Retired devices whose folders are in the ledger.
    pub took: BTreeSet<DevId>,
    /// Chunks that a retired device never brought; only grows, inherited. They do not make a head incomplete.
    pub lost: BTreeSet<Ref>,
    pub kept: Vec<Kept>,
    pub retired: BTreeMap<DevId, DevId>,
    pub features: u8,
    /// Its newest generation, this one or before, with news that others should acknowledge.
    pub news: u32,
}

#[derive(Debug)]
pub struct Cont {
    pub folder: DevId,
    pub head: Option<Commit>,
    pub refs: BTreeSet<Ref>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quality {
    Good,
    Half,
    Placeholder,
}

#[derive(Clone, Copy, Debug)]
pub enum Task {
    Up(File),
    DelUp(File),
    Down(File),
    Whole(File),
    DelDown(File),
}

/// Local state: what survives a crash.
#[derive(Clone, Debug)]
pub struct Disk {
    pub dev: DevId,
    pub generation: u32,
    pub head: Option<File>,
    /// Own heads by generation: what an acknowledgement must name.
    pub chain: BTreeMap<u32, File>,
    pub journal: Vec<Edit>,
    /// Chunks whose bytes are held here and not in a relied container yet.
    pub pending: BTreeSet<Ref>,
    pub intents: BTreeSet<File>,
    /// What the intent log named at a crash: own files, used or not.
    pub strays: BTreeSet<File>,
    pub deleted: BTreeSet<File>,
    pub steps: u32,
    pub last_clock: i64,
    /// Step at which a container was condemned, and at which a device was seen retired.
    pub condemned_at: BTreeMap<File, u32>,
    pub retired_at: BTreeMap<DevId, u32>,
    pub retire: BTreeMap<DevId, DevId>,
    /// Ids that this state had before.
    pub was: BTreeSet<DevId>,
    /// Step at which each own generation entered.
    pub entered_at: BTreeMap<u32, u32>,
    pub thin: bool,
}

/// A mounted repository: lost in a crash.
#[derive(Clone, Debug)]
pub struct Mount {
    pub writer: Writer,
    pub count: u32,
    pub inos: u64,
    pub cur: State,
    pub dirty: bool,
    pub owe: bool,
    pub done: BTreeSet<File>,
    /// Newest head merged of each device; and others of it that are no ancestors (a copied device).
    pub tip: BTreeMap<DevId, File>,
    pub forks: BTreeSet<File>,
    /// Live chunks found in condemned containers: to be stored again with the next head.
    pub again: BTreeSet<Ref>,
}

#[derive(Debug)]
pub struct Machine {
    pub alive: bool,
    pub online: bool,
    pub asleep: bool,
    pub on_demand: bool,
    pub old: bool,
    pub skew: i64,
    pub folder: BTreeMap<File, Quality>,
    pub queue: Vec<(Task, i64)>,
    pub disk: Disk,
    pub mount: Option<Mount>,
    /// Somebody retired it while it lived, or it is a copy: exactness is not promised for all it does.
    pub exempt: bool,
}

pub struct World {
    pub rng: Rng,
    pub off: Off,
    pub now: i64,
    pub conts: Vec<Rc<Cont>>,
    pub bodies: HashMap<Ref, Node>,
    pub machines: Vec<Machine>,
    pub cloud: BTreeSet<File>,
    pub trash: BTreeSet<File>,
    pub writer_dev: HashMap<Writer, DevId>,
    pub next_dev: DevId,
    pub next_writer: Writer,
    pub next_id: u32,
    pub next_chunk: Ref,
    pub oracle: Oracle,
    pub log: Option<Vec<String>>,
    pub heads_made: u32,
    pub stored: u64,
    pub copied: bool,
    /// Kept commits that thinning leaves.
    pub keep: usize,
    pub refs_cache: HashMap<Ref, Refs>,
    pub old_cache: HashMap<Ref, Refs>,
}

impl World {
    pub fn say(&mut self, text: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(log) = &mut self.log {
            log.push(format!("[day {:.2}] {}", now as f64 / DAY as f64, text()));
        }
    }

    pub fn commit(&self, file: File) -> &Commit {
        self.conts[file as usize].head.as_ref().expect("a head")
    }

    /// Nodes of a tree, and the chunks that its values name. From the model's own knowledge; whether a device
    /// may know it is the caller's business (it must have all nodes here).
    pub fn refs(&mut self, root: Ref, old: bool) -> Refs {
        let cache = if old { &self.old_cache } else { &self.refs_cache };
        if let Some(found) = cache.get(&root) {
            return found.clone();
        }
        let state = self.load(root, None);
        let nodes = if root == 0 { Vec::new() } else { self.node_list(root) };
        let found = Rc::new((nodes, state.data(old).collect()));
        let cache = if old { &mut self.old_cache } else { &mut self.refs_cache };
        cache.insert(root, found.clone());
        found
    }

    fn node_list(&self, root: Ref) -> Vec<Ref> {
        let Some(Node::Root(body)) = self.bodies.get(&root) else { panic!("a root") };
        body.0.iter().copied().chain([root]).collect()
    }

    /// The map below a root; with `here`, only the leaves in it (a wrong way to read).
    pub fn load(&self, root: Ref, here: Option<&HashSet<Ref>>) -> State {
        let mut state = State::default();
        if root == 0 {
            return state;
        }
        let Some(Node::Root(body)) = self.bodies.get(&root) else { panic!("a root") };
        state.seen = body.1.clone();
        for id in &body.0 {
            if here.is_some_and(|here| !here.contains(id)) {
                continue;
            }
            let Some(Node::Leaf(items)) = self.bodies.get(id) else { panic!("a leaf") };
            state.items.extend(items.iter().cloned());
        }
        state
    }

    fn seen_of(&self, root: Ref) -> Seen {
        match self.bodies.get(&root) {
            Some(Node::Root(body)) => body.1.clone(),
            _ => Seen::new(),
        }
    }

    /// Reads a file in a machine's folder; a placeholder is fetched if the cloud has it.
    pub fn readable(&mut self, m: usize, file: File) -> bool {
        let in_cloud = self.cloud.contains(&file);
        let machine = &mut self.machines[m];
        match machine.folder.get(&file) {
            Some(Quality::Good) => true,
            Some(Quality::Placeholder) if in_cloud && machine.online => {
                machine.folder.insert(file, Quality::Good);
                true
            }
            _ => false,
        }
    }

    fn listed(&self, m: usize, file: File) -> bool {
        matches!(self.machines[m].folder.get(&file), Some(Quality::Good | Quality::Placeholder))
    }

    /// All refs that can be read in a machine's folder.
    fn refs_here(&mut self, m: usize) -> HashSet<Ref> {
        let files: Vec<File> = self.machines[m].folder.keys().copied().collect();
        let mut out = HashSet::new();
        for file in files {
            if self.readable(m, file) {
                out.extend(self.conts[file as usize].refs.iter().copied());
            }
        }
        out
    }

    fn refs_listed(&self, m: usize) -> HashSet<Ref> {
        let files = self.machines[m].folder.keys().filter(|f| self.listed(m, **f));
        files.flat_map(|f| self.conts[*f as usize].refs.iter().copied()).collect()
    }

    // ------------------------------------------------------------------ reliance

    /// Retired devices that a machine knows of, with their heirs (of several, the lowest).
    pub fn retired(&self, m: usize) -> BTreeMap<DevId, DevId> {
        let mut out = self.machines[m].disk.retire.clone();
        let Some(mount) = &self.machines[m].mount else { return out };
        for file in mount.tip.values().chain(&mount.forks) {
            for (dev, heir) in &self.commit(*file).retired {
                let have = out.entry(*dev).or_insert(*heir);
                *have = (*have).min(*heir);
            }
        }
        out
    }

    /// Who owns a folder now; none if heirs run in a circle.
    pub fn owner(&self, retired: &BTreeMap<DevId, DevId>, folder: DevId) -> Option<DevId> {
        let mut at = folder;
        for _ in 0..=retired.len() {
            match retired.get(&at) {
                None => return Some(at),
                Some(heir) => at = *heir,
            }
        }
        None
    }

    /// Whether a device has named this one (its newest head acknowledges a head of ours).
    fn named_by(&self, m: usize, dev: DevId) -> bool {
        let disk = &self.machines[m].disk;
        let mount = self.machines[m].mount.as_ref().expect("mounted");
        let Some(tip) = mount.tip.get(&dev) else { return false };
        match self.commit(*tip).processed.get(&disk.dev) {
            Some((generation, file)) => {
                disk.chain.get(generation) == Some(file) || !self.off.on(Rule::ack_tag)
            }
            None => false,
        }
    }

    /// The one question asked before anything refers to a container: may this device rely on it?
    pub fn relied(&self, m: usize, file: File) -> bool {
        let disk = &self.machines[m].disk;
        let mount = self.machines[m].mount.as_ref().expect("mounted");
        let folder = self.conts[file as usize].folder;
        let retired = self.retired(m);
        let row_ok = |row: Option<&Row>| match row {
            Some(Row::Kept) => true,
            Some(Row::Condemned(_)) => !self.off.on(Rule::fresh_reliance),
            None => !self.off.on(Rule::ledger_positive),
        };
        let Some(owner) = self.owner(&retired, folder) else { return false };
        if owner == disk.dev {
            let Some(own) = disk.head else { return false };
            let own_commit = self.commit(own);
            if file == own {
                return true;
            }
            if folder == disk.dev || own_commit.took.contains(&folder) {
                return row_ok(own_commit.ledger.get(&file));
            }
        } else {
            let Some(tip) = mount.tip.get(&owner) else {
                return !self.off.on(Rule::ledger_positive);
            };
            if self.off.on(Rule::new_device) && !self.named_by(m, owner) {
                return false;
            }
            if file == *tip {
                return true;
            }
            if folder == owner || self.commit(*tip).took.contains(&folder) {
                let fork = |f: &&File| self.commit(**f).dev == owner;
                return row_ok(self.commit(*tip).ledger.get(&file))
                    && mount
                        .forks
                        .iter()
                        .filter(fork)
                        .all(|f| row_ok(self.commit(*f).ledger.get(&file)));
            }
        }
        // Retired, and not taken over yet.
        let Some(tip) = mount.tip.get(&folder) else { return false };
        file == *tip || row_ok(self.commit(*tip).ledger.get(&file))
    }

    /// What lies in containers that may be relied on.
    fn refs_relied(&self, m: usize) -> HashSet<Ref> {
        let files =
            self.machines[m].folder.keys().filter(|f| self.listed(m, **f) && self.relied(m, **f));
        files.flat_map(|f| self.conts[*f as usize].refs.iter().copied()).collect()
    }

    /// What lies in other containers that may be relied on and whose bytes are good here.
    fn refs_relied_good(&mut self, m: usize, but: File) -> HashSet<Ref> {
        let files: Vec<File> = self.machines[m]
            .folder
            .keys()
            .copied()
            .filter(|f| *f != but && self.relied(m, *f))
            .collect();
        let mut out = HashSet::new();
        for f in files {
            if self.readable(m, f) {
                out.extend(self.conts[f as usize].refs.iter().copied());
            }
        }
        out
    }

    fn authors(&self, m: usize) -> BTreeSet<DevId> {
        let disk = &self.machines[m].disk;
        let mut out: BTreeSet<DevId> = disk.was.clone();
        out.insert(disk.dev);
        for (dev, heir) in self.retired(m) {
            if heir == disk.dev {
                out.insert(dev);
            }
        }
        out
    }

    // ------------------------------------------------------------------ mount

    pub fn mount(&mut self, m: usize) -> bool {
        if !self.machines[m].alive || self.machines[m].mount.is_some() {
            return false;
        }
        self.recover_intents(m);
        let head = self.machines[m].disk.head;
        let mut cur = State::default();
        if let Some(head) = head {
            // Heads of its id that it did not write, or its id retired: it is a copy, or was given up.
            let (dev, heads): (DevId, Vec<File>) = (
                self.machines[m].disk.dev,
                self.machines[m]
                    .folder
                    .keys()
                    .copied()
                    .filter(|f| self.conts[*f as usize].head.is_some())
                    .collect(),
            );
            let other = heads.into_iter().any(|f| {
                let c = self.commit(f);
                (c.dev == dev
                    && self.machines[m].disk.chain.get(&c.generation) != Some(&f)
                    && self.off.on(Rule::burn_clone))
                    || c.retired.contains_key(&dev)
            });
            if other {
                self.rebirth(m);
                return false;
            }
            if !self.readable(m, head) {
                self.say(|| format!("m{m} cannot mount: its newest head is not here"));
                return false;
            }
            let here = self.refs_here(m);
            let root = self.commit(head).root;
            if root != 0 && !self.node_list_here(root, &here) {
                self.say(|| format!("m{m} cannot mount: nodes of its own tree are not here"));
                return false;
            }
            cur = self.load(root, None);
        }
        let dev = self.machines[m].disk.dev;
        self.next_writer += 1;
        let mut writer = dev << 12 | self.next_writer;
        let mut count = 0;
        if !self.off.on(Rule::writer_per_mount) {
            writer = dev << 12 | 0xfff;
            count = self.machines[m]
                .disk
                .journal
                .iter()
                .map(|e| e.dot.count)
                .chain(cur.seen.get(&writer).copied())
                .max()
                .unwrap_or(0);
        }
        self.writer_dev.insert(writer, dev);
        let mut tip = BTreeMap::new();
        if let Some(head) = head {
            tip.insert(dev, head);
        }
        let inos = if self.off.on(Rule::writer_per_mount) {
            0
        } else {
            u64::from(self.next_writer) * 1000
        };
        self.machines[m].mount = Some(Mount {
            writer,
            count,
            inos,
            cur,
            dirty: false,
            owe: false,
            done: head.into_iter().collect(),
            tip,
            forks: BTreeSet::new(),
            again: BTreeSet::new(),
        });
        if !self.process(m) {
            return false;
        }
        if self.off.on(Rule::no_gap) && self.gap(m) {
            self.say(|| {
                format!("m{m} cannot mount: the head that its journal stands on is not here")
            });
            self.machines[m].mount = None;
            return false;
        }
        self.replay(m);
        self.clean_pending(m);
        self.say(|| format!("m{m} mounted as device {dev}, writer {writer}"));
        true
    }

    fn node_list_here(&self, root: Ref, here: &HashSet<Ref>) -> bool {
        here.contains(&root) && self.node_list(root).iter().all(|n| here.contains(n))
    }

    /// Adopts an own head that a crash kept from the record. A head that is not here may have been: its number is
    /// used up. Nothing is removed: what the log names goes into the ledger, and away like all else.
    fn recover_intents(&mut self, m: usize) {
        let intents: Vec<File> = self.machines[m].disk.intents.iter().copied().collect();
        for file in intents {
            self.machines[m].disk.strays.insert(file);
            let Some(commit) = self.conts[file as usize].head.clone() else { continue };
            if commit.dev != self.machines[m].disk.dev {
                continue;
            }
            if self.machines[m].folder.get(&file) == Some(&Quality::Good)
                && commit.generation == self.machines[m].disk.generation + 1
            {
                self.settled(m, file);
            } else {
                let disk = &mut self.machines[m].disk;
                disk.generation = disk.generation.max(commit.generation);
                disk.chain.insert(commit.generation, file);
            }
        }
        self.machines[m].disk.intents.clear();
    }

    /// Local state takes note of a head that is in REPO.
    fn settled(&mut self, m: usize, head: File) {
        let commit = self.commit(head).clone();
        let seen = self.seen_of(commit.root);
        let step = self.machines[m].disk.steps;
        let disk = &mut self.machines[m].disk;
        disk.generation = disk.generation.max(commit.generation);
        disk.head = Some(head);
        disk.chain.insert(commit.generation, head);
        disk.entered_at.insert(commit.generation, step);
        disk.journal.retain(|e| !covers(&seen, e.dot));
        for (file, row) in &commit.ledger {
            if let Row::Condemned(_) = row {
                disk.condemned_at.entry(*file).or_insert(step);
            }
        }
        for dev in commit.retired.keys() {
            disk.retired_at.entry(*dev).or_insert(step);
        }
    }

    /// Whether records before the journal's first of a writer are missing: replay would call them seen.
    fn gap(&self, m: usize) -> bool {
        let machine = &self.machines[m];
        let seen = &machine.mount.as_ref().expect("mounted").cur.seen;
        let mut first: Seen = Seen::new();
        for e in &machine.disk.journal {
            let c = first.entry(e.dot.writer).or_insert(e.dot.count);
            *c = (*c).min(e.dot.count);
        }
        first.iter().any(|(w, c)| *c > 1 && !covers(seen, Dot { writer: *w, count: c - 1 }))
    }

    /// The journal's edits, on top of what is merged now, each under its own dot.
    fn replay(&mut self, m: usize) {
        let off = self.off;
        let machine = &mut self.machines[m];
        let mount = machine.mount.as_mut().expect("mounted");
        let seen = mount.cur.seen.clone();
        for edit in &machine.disk.journal {
            if off.on(Rule::skip_published) && covers(&seen, edit.dot) {
                continue;
            }
            mount.cur.apply(edit, !off.on(Rule::view_edits));
            mount.dirty = true;
        }
    }

    // ------------------------------------------------------------------ merging heads

    /// Merges every head that is here, whole, and not covered. False if the device found itself copied or retired.
    pub fn process(&mut self, m: usize) -> bool {
        let mut heads: Vec<(DevId, u32, File)> = self.machines[m]
            .folder
            .keys()
            .filter_map(|f| {
                self.conts[*f as usize].head.as_ref().map(|c| (c.dev, c.generation, *f))
            })
            .collect();
        heads.sort_unstable_by(|a, b| b.cmp(a));
        let mut here: Option<HashSet<Ref>> = None;
        for (dev, generation, file) in heads {
            let mount = self.machines[m].mount.as_ref().expect("mounted");
            if mount.done.contains(&file) || !self.readable(m, file) {
                continue;
            }
            let own = self.machines[m].disk.dev;
            let commit = self.commit(file).clone();
            if dev == own
                && self.machines[m].disk.chain.get(&generation) != Some(&file)
                && self.off.on(Rule::burn_clone)
            {
                self.say(|| format!("m{m} found head {file} of its own id that it did not write"));
                self.rebirth(m);
                return false;
            }
            let mount = self.machines[m].mount.as_ref().expect("mounted");
            let covered = covers_all(&mount.cur.seen, &self.seen_of(commit.root));
            let older = mount.tip.get(&dev).is_some_and(|t| {
                let tip = self.commit(*t);
                tip.generation > generation && tip.writer == commit.writer
            });
            if older {
                self.machines[m].mount.as_mut().expect("mounted").done.insert(file);
                continue;
            }
            if here.is_none() {
                here = Some(self.refs_here(m));
            }
            let all = here.as_ref().expect("just filled");
            let whole = commit.root == 0 || self.node_list_here(commit.root, all);
            if !whole && self.off.on(Rule::whole_metadata) {
                continue;
            }
            if !whole && !all.contains(&commit.root) {
                continue;
            }
            if !covered && whole && self.off.on(Rule::merge_complete) {
                // Else files that can be read would give way to some whose bytes may never come.
                let listed = self.refs_listed(m);
                let lost = self.lost(m);
                let theirs = self.refs(commit.root, false);
                let seen = &self.machines[m].mount.as_ref().expect("mounted").cur.seen;
                if theirs
                    .1
                    .iter()
                    .any(|(dot, r)| !covers(seen, *dot) && !listed.contains(r) && !lost.contains(r))
                {
                    continue;
                }
            }
            if !covered {
                let theirs = self.load(commit.root, (!whole).then_some(all));
                let drops_wait = self.off.on(Rule::drops_wait);
                let machine = &mut self.machines[m];
                let mount = machine.mount.as_mut().expect("mounted");
                mount.cur = join(&mount.cur, &theirs);
                // After an older folder was put back: what an unpublished edit took away does not come back with it.
                for edit in machine.disk.journal.iter().filter(|_| drops_wait) {
                    mount.cur.drop_only(edit);
                }
            }
            let mount = self.machines[m].mount.as_ref().expect("mounted");
            let old_tip = mount.tip.get(&dev).copied();
            let newer = old_tip.is_none_or(|t| self.commit(t).generation < generation);
            let other = if newer { old_tip } else { Some(file) };
            let main = if newer { file } else { old_tip.expect("not newer than something") };
            // What the newest head of the device does not cover is a second branch of a copied device.
            let main_seen = self.seen_of(self.commit(main).root);
            let fork = other.filter(|o| {
                self.commit(*o).writer != self.commit(main).writer
                    && !covers_all(&main_seen, &self.seen_of(self.commit(*o).root))
            });
            let stale: Vec<File> = mount
                .forks
                .iter()
                .copied()
                .filter(|f| {
                    self.commit(*f).dev == dev
                        && covers_all(&main_seen, &self.seen_of(self.commit(*f).root))
                })
                .collect();
            let own_head = self.machines[m].disk.head;
            let answered =
                own_head.map_or(0, |h| self.commit(h).processed.get(&dev).map_or(0, |p| p.0));
            let worth = commit.news > answered || !self.off.on(Rule::answer_worth);
            let mount = self.machines[m].mount.as_mut().expect("mounted");
            mount.done.insert(file);
            mount.tip.insert(dev, main);
            for s in stale {
                mount.forks.remove(&s);
            }
            mount.forks.extend(fork);
            if worth && generation > answered && dev != own {
                mount.owe = true;
            }
            self.say(|| format!("m{m} merged head {file} (device {dev}, generation {generation})"));
            // Of its own, from before a crash, and whole only now.
            let newest = own_head.map_or(0, |h| self.commit(h).generation);
            let mine = self.machines[m].disk.chain.get(&generation) == Some(&file);
            if dev == own && mine && generation > newest {
                self.settled(m, file);
            }
            let disk = &self.machines[m].disk;
            let step = disk.steps;
            if commit.retired.contains_key(&own) {
                self.say(|| format!("m{m} finds that its id {own} was retired"));
                self.rebirth(m);
                return false;
            }
            if let Some((g, f)) = commit.processed.get(&own)
                && disk.chain.get(g) != Some(f)
                && self.off.on(Rule::ack_tag)
            {
                self.say(|| format!("m{m} sees its id acknowledged for a head it did not write"));
                self.rebirth(m);
                return false;
            }
            for d in commit.retired.keys() {
                self.machines[m].disk.retired_at.entry(*d).or_insert(step);
            }
        }
        true
    }

    /// A copied or retired device goes on as a new one, with its journal.
    fn rebirth(&mut self, m: usize) {
        self.next_dev += 1;
        let id = self.next_dev;
        let disk = &mut self.machines[m].disk;
        let old = disk.dev;
        disk.was.insert(old);
        disk.dev = id;
        disk.generation = 0;
        disk.head = None;
        disk.chain.clear();
        disk.condemned_at.clear();
        disk.entered_at.clear();
        for heir in disk.retire.values_mut().filter(|h| **h == old) {
            *heir = id;
        }
        disk.retire.insert(old, id);
        disk.retired_at.insert(old, disk.steps);
        self.machines[m].mount = None;
        self.say(|| format!("m{m} goes on as device {id} instead of {old}"));
    }

    /// Before an edit is acknowledged: every chunk that it names is relied on, or copied here now, or it fails.
    pub fn ensure_names(&mut self, m: usize, names: &[Ref], fresh: &BTreeSet<Ref>) -> bool {
        if !self.off.on(Rule::ensure) {
            return true;
        }
        let relied = self.refs_relied(m);
        let mut here: Option<HashSet<Ref>> = None;
        for r in names {
            if relied.contains(r) || fresh.contains(r) || self.machines[m].disk.pending.contains(r)
            {
                continue;
            }
            if here.is_none() {
                here = Some(self.refs_here(m));
            }
            if !here.as_ref().expect("just filled").contains(r) {
                return false;
            }
            self.machines[m].disk.pending.insert(*r);
        }
        true
    }

    // ------------------------------------------------------------------ publishing

    pub fn clock(&self, m: usize) -> i64 {
        self.now + self.machines[m].skew
    }

    fn lost(&self, m: usize) -> BTreeSet<Ref> {
        let tips = self.machines[m].mount.as_ref().expect("mounted").tip.values();
        tips.flat_map(|t| self.commit(*t).lost.iter().copied()).collect()
    }

    fn complete(&mut self, m: usize, listed: &HashSet<Ref>, file: File, old: bool) -> bool {
        let lost = self.lost(m);
        let root = self.commit(file).root;
        if root == 0 {
            return true;
        }
        let refs = self.refs(root, old);
        refs.0.iter().all(|r| listed.contains(r))
            && refs.1.iter().all(|r| listed.contains(&r.1) || lost.contains(&r.1))
    }

    fn new_file(&mut self, cont: Cont) -> File {
        self.conts.push(Rc::new(cont));
        self.conts.len() as File - 1
    }

    fn enter(&mut self, m: usize, file: File) {
        self.machines[m].folder.insert(file, Quality::Good);
        let now = self.now;
        self.machines[m].queue.push((Task::Up(file), now));
        self.stored += self.conts[file as usize].refs.len() as u64;
    }

    /// A checkpoint: what is new, objects first, then the head. `crash` stops after so many steps.
    pub fn publish(
        &mut self,
        m: usize,
        condemn: &[File],
        extra: &BTreeSet<Ref>,
        crash: u32,
    ) -> bool {
        if self.machines[m].mount.is_none() {
            return false;
        }
        let off = self.off;
        let old = self.machines[m].old;
        let mount = self.machines[m].mount.as_ref().expect("mounted");
        let (root, nodes) = mount.cur.nodes();
        let node_ids: Vec<Ref> = nodes.iter().map(|n| n.0).collect();
        let data: Vec<(Dot, Ref)> = mount.cur.data(old).collect();
        self.bodies.extend(nodes);
        let dev = self.machines[m].disk.dev;
        let retired = self.retired(m);
        let generation = self.machines[m].disk.generation + 1;
        let own_head = self.machines[m].disk.head;
        // --- what must be stored with it
        let authors = self.authors(m);
        let here = self.refs_here(m);
        let mut have: HashSet<Ref> =
            if off.on(Rule::ensure) { self.refs_relied(m) } else { self.refs_listed(m) };
        if off.on(Rule::ensure) {
            for file in condemn {
                for r in &self.conts[*file as usize].refs {
                    let other = self.machines[m].folder.keys().any(|f| {
                        !condemn.contains(f)
                            && self.conts[*f as usize].refs.contains(r)
                            && self.listed(m, *f)
                            && self.relied(m, *f)
                    });
                    if !other {
                        have.remove(r);
                    }
                }
            }
        }
        let named = |world: &World, r: Ref| {
            world.machines[m].folder.keys().any(|f| {
                let folder = world.conts[*f as usize].folder;
                world.conts[*f as usize].refs.contains(&r)
                    && world
                        .owner(&retired, folder)
                        .is_none_or(|o| o == dev || world.named_by(m, o))
            })
        };
        let pending = self.machines[m].disk.pending.clone();
        let mut store: BTreeSet<Ref> = BTreeSet::new();
        let mut lacking = false;
        let lost = self.lost(m);
        let mut newly_lost: BTreeSet<Ref> = BTreeSet::new();
        for r in node_ids.iter().copied().filter(|r| !have.contains(r)) {
            store.insert(r);
        }
        for (dot, r) in data.iter().copied().filter(|d| !have.contains(&d.1)) {
            let own = self.writer_dev.get(&dot.writer).is_some_and(|d| authors.contains(d));
            if own || pending.contains(&r) || named(self, r) {
                if pending.contains(&r) || here.contains(&r) {
                    store.insert(r);
                } else if own && !lost.contains(&r) {
                    // What a retired device never brought is lost; own bytes are waited for.
                    if self.writer_dev.get(&dot.writer).is_some_and(|d| {
                        retired.contains_key(d) && !self.machines[m].disk.was.contains(d)
                    }) {
                        newly_lost.insert(r);
                    } else {
                        lacking = true;
                    }
                }
            }
        }
        let mut kept = own_head.map_or(Vec::new(), |h| self.commit(h).kept.clone());
        for k in kept.clone() {
            let refs = self.refs(k.root, old);
            let all = refs.0.iter().copied().chain(refs.1.iter().map(|r| r.1));
            store.extend(
                all.filter(|r| !have.contains(r) && here.contains(r) && off.on(Rule::ensure)),
            );
        }
        let again = self.machines[m].mount.as_ref().expect("mounted").again.clone();
        store.extend(extra.iter().copied().filter(|r| !have.contains(r) && here.contains(r)));
        // Where a copy is listed but cannot be read, it is stored again all the same.
        store.extend(again.iter().copied().filter(|r| here.contains(r)));
        if lacking {
            let missing: Vec<Ref> = data
                .iter()
                .map(|d| d.1)
                .filter(|r| !have.contains(r) && !here.contains(r) && !pending.contains(r))
                .collect();
            let at: Vec<(File, bool, Option<Quality>)> = (0..self.conts.len() as File)
                .filter(|f| missing.iter().any(|r| self.conts[*f as usize].refs.contains(r)))
                .map(|f| (f, self.cloud.contains(&f), self.machines[m].folder.get(&f).copied()))
                .collect();
            self.say(|| format!("m{m} cannot publish: bytes of its own changes are not here: {missing:?} in {at:?}"));
            return false;
        }
        let seen = &self.machines[m].mount.as_ref().expect("mounted").cur.seen;
        let early =
            self.machines[m].disk.journal.iter().flat_map(|e| &e.drop).any(|d| !covers(seen, *d));
        if early && off.on(Rule::drops_wait) {
            self.say(|| format!("m{m} cannot publish: heads that its edits stand on are not here"));
            return false;
        }
        // --- objects
        let mut ledger = own_head.map_or(BTreeMap::new(), |h| self.commit(h).ledger.clone());
        let mut took = own_head.map_or(BTreeSet::new(), |h| self.commit(h).took.clone());
        if let Some(h) = own_head {
            ledger.insert(h, Row::Kept);
        }
        for d in retired.keys() {
            if self.owner(&retired, *d) == Some(dev) && took.insert(*d) {
                let tip = self.machines[m].mount.as_ref().expect("mounted").tip.get(d).copied();
                if let Some(t) = tip {
                    // What it kept is kept on, as far as it is whole here.
                    let mut more = self.commit(t).kept.clone();
                    more.push(Kept { root: self.commit(t).root });
                    for k in more.into_iter().filter(|k| k.root != 0) {
                        let refs = self.refs(k.root, old);
                        if refs.0.iter().all(|r| here.contains(r))
                            && refs.1.iter().all(|r| here.contains(&r.1))
                        {
                            kept.push(k);
                        }
                    }
                    for f in self.commit(t).ledger.keys().copied().chain([t]).collect::<Vec<_>>() {
                        ledger.insert(f, Row::Kept);
                    }
                }
            }
        }
        for f in &self.machines[m].disk.strays {
            if self.conts[*f as usize].folder == dev
                && Some(*f) != own_head
                && self.machines[m].folder.contains_key(f)
            {
                ledger.entry(*f).or_insert(Row::Kept);
            }
        }
        // Stragglers of a taken folder are listed before anything else is done with them.
        for f in self.machines[m].folder.keys() {
            let folder = self.conts[*f as usize].folder;
            if took.contains(&folder) && !self.machines[m].disk.deleted.contains(f) {
                ledger.entry(*f).or_insert(Row::Kept);
            }
        }
        let deleted = &self.machines[m].disk.deleted;
        ledger.retain(|f, _| !deleted.contains(f));
        for f in condemn {
            ledger.insert(*f, Row::Condemned(generation));
        }
        // The only copy of what a condemned container of ours holds: others must say that they hold it.
        let replaces = ledger.iter().any(|(f, row)| {
            *row != Row::Kept && store.iter().any(|r| self.conts[*f as usize].refs.contains(r))
        });
        let (store_nodes, store_data): (BTreeSet<Ref>, BTreeSet<Ref>) =
            store.iter().partition(|r| *r & NODE != 0);
        let mut head_refs = store_nodes;
        if store_data.len() > 2 {
            let file = self.new_file(Cont { folder: dev, head: None, refs: store_data });
            self.machines[m].disk.intents.insert(file);
            self.enter(m, file);
            ledger.insert(file, Row::Kept);
            self.say(|| format!("m{m} published object {file}"));
            if crash == 1 {
                self.crash(m);
                return false;
            }
        } else {
            head_refs.extend(store_data);
        }
        // --- the head
        let mount = self.machines[m].mount.as_ref().expect("mounted");
        let (tips, dirty, owe) = (mount.tip.clone(), mount.dirty, mount.owe);
        let writer = mount.writer;
        let mut processed = BTreeMap::new();
        let mut features = if data.len()
            != self.machines[m].mount.as_ref().expect("mounted").cur.data(true).count()
        {
            NEW_KIND
        } else {
            0
        };
        for (d, t) in &tips {
            features |= self.commit(*t).features;
            if *d != dev {
                processed.insert(*d, (self.commit(*t).generation, *t));
            }
        }
        let before: BTreeSet<DevId> = own_head
            .map_or(BTreeSet::new(), |h| self.commit(h).processed.keys().copied().collect());
        let retired_before = own_head.map_or(BTreeMap::new(), |h| self.commit(h).retired.clone());
        let news = dirty
            || generation == 1
            || !condemn.is_empty()
            || replaces
            || retired != retired_before
            || processed.keys().any(|d| !before.contains(d));
        if dirty {
            kept.push(Kept { root });
        }
        if std::mem::take(&mut self.machines[m].disk.thin) && kept.len() > self.keep {
            kept.drain(..kept.len() - self.keep);
        }
        let mut since = own_head.map_or(BTreeMap::new(), |h| self.commit(h).listed.clone());
        since.retain(|f, _| ledger.contains_key(f));
        for f in ledger.keys() {
            since.entry(*f).or_insert(generation);
        }
        newly_lost.extend(lost);
        let commit = Commit {
            lost: newly_lost,
            dev,
            generation,
            writer,
            root,
            processed,
            ledger,
            listed: since,
            took,
            kept,
            retired: retired.clone(),
            features,
            news: if news { generation } else { own_head.map_or(0, |h| self.commit(h).news) },
        };
        let head = self.new_file(Cont { folder: dev, head: Some(commit), refs: head_refs });
        self.machines[m].disk.intents.insert(head);
        self.enter(m, head);
        self.heads_made += 1;
        self.say(|| format!("m{m} published head {head} (device {dev}, generation {generation}) dirty {dirty} owe {owe} condemns {condemn:?}"));
        if crash == 2 {
            self.crash(m);
            return false;
        }
        self.settled(m, head);
        self.machines[m].disk.intents.clear();
        let mount = self.machines[m].mount.as_mut().expect("mounted");
        mount.dirty = false;
        mount.owe = false;
        mount.tip.insert(dev, head);
        mount.done.insert(head);
        mount.again.clear();
        self.clean_pending(m);
        true
    }

    /// Bytes held here go once a relied container has them, or no edit names them any more.
    fn clean_pending(&mut self, m: usize) {
        let relied = self.refs_relied(m);
        let cur = &self.machines[m].mount.as_ref().expect("mounted").cur;
        let named: HashSet<Ref> = cur.data(false).map(|d| d.1).collect();
        self.machines[m].disk.pending.retain(|r| !relied.contains(r) && named.contains(r));
    }

    pub fn crash(&mut self, m: usize) {
        self.machines[m].mount = None;
        self.say(|| format!("m{m} crashed"));
    }

    /// A head is due though nothing was changed here.
    pub fn owes(&mut self, m: usize) -> bool {
        let Some(mount) = &self.machines[m].mount else { return false };
        if mount.owe || (self.machines[m].disk.head.is_none()) || !mount.again.is_empty() {
            return true;
        }
        let retired = self.retired(m);
        let told =
            self.machines[m].disk.head.map_or(BTreeMap::new(), |h| self.commit(h).retired.clone());
        if retired != told {
            return true;
        }
        false
    }

    // ------------------------------------------------------------------ giving space back

    /// Everything that must stay readable as this device knows it; none if it does not know enough.
    fn live(&mut self, m: usize) -> Option<HashSet<Ref>> {
        let off = self.off;
        let old = self.machines[m].old;
        let mount = self.machines[m].mount.as_ref()?;
        let (_, nodes) = mount.cur.nodes();
        let mut live: HashSet<Ref> = nodes.iter().map(|n| n.0).collect();
        live.extend(mount.cur.data(old).map(|d| d.1));
        live.extend(self.machines[m].disk.pending.iter().copied());
        let own = self.machines[m].disk.dev;
        let mut roots: BTreeSet<Ref> = BTreeSet::new();
        let retired = self.retired(m);
        for t in mount.tip.values().chain(&mount.forks) {
            let c = self.commit(*t);
            if self.taken(m, &retired, c.dev) {
                continue;
            }
            roots.insert(c.root);
            if off.on(Rule::kept_live) || c.dev == own {
                roots.extend(c.kept.iter().map(|k| k.root));
            }
        }
        roots.remove(&0);
        let here = self.refs_here(m);
        for root in roots {
            let refs = self.refs(root, old);
            if refs.0.iter().any(|n| !here.contains(n)) && off.on(Rule::complete_heads) {
                return None;
            }
            live.extend(refs.0.iter().copied());
            live.extend(refs.1.iter().map(|r| r.1));
        }
        Some(live)
    }

    /// Its heir has taken over what a retired device kept.
    fn taken(&self, m: usize, retired: &BTreeMap<DevId, DevId>, dev: DevId) -> bool {
        let tip = &self.machines[m].mount.as_ref().expect("mounted").tip;
        let heir = self.owner(retired, dev).filter(|o| *o != dev);
        heir.and_then(|h| tip.get(&h)).is_some_and(|h| self.commit(*h).took.contains(&dev))
    }

    fn active(&self, m: usize) -> BTreeSet<DevId> {
        let mount = self.machines[m].mount.as_ref().expect("mounted");
        let mut all: BTreeSet<DevId> = mount.tip.keys().copied().collect();
        all.extend(self.machines[m].folder.keys().map(|f| self.conts[*f as usize].folder));
        for t in mount.tip.values() {
            all.extend(self.commit(*t).processed.keys().copied());
        }
        for d in self.retired(m).keys() {
            all.remove(d);
        }
        all.remove(&self.machines[m].disk.dev);
        all
    }

    /// A day step of the own clock, whichever way it moved.
    fn step(&mut self, m: usize) {
        let clock = self.clock(m);
        let day_steps = self.off.on(Rule::day_steps);
        let disk = &mut self.machines[m].disk;
        if (clock - disk.last_clock).abs() >= DAY {
            disk.steps += if day_steps {
                1
            } else {
                ((clock - disk.last_clock) / DAY).clamp(1, 100_000) as u32
            };
            disk.last_clock = clock;
        }
    }

    /// Why a file of a device is still there, for people who look for a fault in the model.
    pub fn why(&mut self, m: usize, file: File) -> String {
        let enough = self.knows_enough(m);
        let active = self.active(m);
        let retired = self.retired(m);
        let dev = self.machines[m].disk.dev;
        let live = self
            .live(m)
            .map(|l| self.conts[file as usize].refs.iter().filter(|r| l.contains(r)).count());
        let tips = self.machines[m].mount.as_ref().expect("mounted").tip.clone();
        let mut holders = Vec::new();
        for t in tips.values() {
            let c = self.commit(*t).clone();
            for root in c.kept.iter().map(|k| k.root).chain([c.root]).filter(|r| *r != 0) {
                let refs = self.refs(root, false);
                if refs.1.iter().any(|r| self.conts[file as usize].refs.contains(&r.1)) {
                    holders.push((c.dev, c.generation));
                }
            }
        }
        let acks: Vec<_> = tips
            .iter()
            .map(|(d, t)| {
                (*d, self.commit(*t).processed.get(&dev).copied(), self.commit(*t).took.clone())
            })
            .collect();
        format!(
            "enough {enough} active {active:?} retired {retired:?} live {live:?} holders {holders:?} acks {acks:?} deleted {}",
            self.machines[m].disk.deleted.contains(&file)
        )
    }

    fn knows_enough(&mut self, m: usize) -> bool {
        let off = self.off;
        let mount = self.machines[m].mount.as_ref().expect("mounted");
        let tips: Vec<File> =
            mount.tip.values().copied().chain(mount.forks.iter().copied()).collect();
        if self.machines[m].old
            && off.on(Rule::old_no_sweep)
            && tips.iter().any(|t| self.commit(*t).features != 0)
        {
            return false;
        }
        let retired = self.retired(m);
        let tips: Vec<File> =
            tips.into_iter().filter(|t| !self.taken(m, &retired, self.commit(*t).dev)).collect();
        for dev in self.active(m) {
            if !self.machines[m].mount.as_ref().expect("mounted").tip.contains_key(&dev)
                && off.on(Rule::ack_all)
            {
                return false;
            }
        }
        if off.on(Rule::heads_named) {
            let own = self.machines[m].disk.dev;
            for t in &tips {
                for (dev, (generation, _)) in &self.commit(*t).processed {
                    let mount = self.machines[m].mount.as_ref().expect("mounted");
                    let have = mount.tip.get(dev).map_or(0, |t| self.commit(*t).generation);
                    if have < *generation && *dev != own && !retired.contains_key(dev) {
                        return false;
                    }
                }
            }
            // Heads that are here and could not be merged yet.
            let mount = self.machines[m].mount.as_ref().expect("mounted");
            let unmerged = self.machines[m].folder.keys().any(|f| {
                let Some(c) = &self.conts[*f as usize].head else { return false };
                // Of a retired device nothing more is waited for.
                !mount.done.contains(f)
                    && !self.taken(m, &retired, c.dev)
                    && mount
                        .tip
                        .get(&c.dev)
                        .is_none_or(|t| self.commit(*t).generation < c.generation)
            });
            if unmerged {
                return false;
            }
        }
        if off.on(Rule::complete_heads) {
            let listed = self.refs_listed(m);
            let old = self.machines[m].old;
            for t in tips {
                if !self.complete(m, &listed, t, old) {
                    return false;
                }
            }
        }
        true
    }

    /// Which own containers to condemn, and what in them must be stored again. `heads` folds old heads.
    pub fn plan(&mut self, m: usize) -> Option<(Vec<File>, BTreeSet<Ref>)> {
        let own_head = self.machines[m].disk.head?;
        self.machines[m].mount.as_ref()?;
        if !self.knows_enough(m) {
            return None;
        }
        let live = self.live(m)?;
        let retired = self.retired(m);
        let ledger = self.commit(own_head).ledger.clone();
        let kept: Vec<File> = ledger.iter().filter(|r| *r.1 == Row::Kept).map(|r| *r.0).collect();
        let dev = self.machines[m].disk.dev;
        let many = 2 * (self.active(m).len() + 1) + 2;
        let heads = kept.iter().filter(|f| self.conts[**f as usize].head.is_some()).count();
        let (mut condemn, mut extra) = (Vec::new(), BTreeSet::new());
        for file in &kept {
            let cont = self.conts[*file as usize].clone();
            if cont.folder != dev && self.off.on(Rule::retire_wait) {
                let disk = &self.machines[m].disk;
                let since = retired
                    .keys()
                    .filter(|d| **d == cont.folder)
                    .filter_map(|d| disk.retired_at.get(d))
                    .max();
                if since.is_none_or(|s| disk.steps < s + RETIRE_WAIT) {
                    continue;
                }
            }
            let good = self.readable(m, *file);
            // Of several own copies the one in the newest container counts.
            let used: BTreeSet<Ref> = cont
                .refs
                .iter()
                .copied()
                .filter(|r| live.contains(r))
                .filter(|r| {
                    !kept.iter().any(|k| k > file && self.conts[*k as usize].refs.contains(r))
                        && !self.conts[own_head as usize].refs.contains(r)
                })
                .collect();
            // What is bad here can only go if nothing in it is needed.
            if !good && !used.is_empty() {
                continue;
            }
            let fold = cont.head.is_some() && heads >= many;
            if used.len() * 2 < cont.refs.len() || cont.refs.is_empty() || fold {
                condemn.push(*file);
                extra.extend(used);
            }
        }
        // A copy in a container that is condemned with it does not count.
        for file in &condemn {
            extra.extend(
                self.conts[*file as usize].refs.iter().copied().filter(|r| live.contains(r)),
            );
        }
        if condemn.len() < many && self.off.on(Rule::fold_threshold) {
            let gain = condemn.iter().any(|f| self.conts[*f as usize].head.is_none());
            if !gain {
                return None;
            }
        }
        (!condemn.is_empty()).then_some((condemn, extra))
    }

    /// Deletes what may be deleted now. Every question is asked anew, on the newest heads; doubt keeps the file.
    pub fn sweep(&mut self, m: usize) {
        if self.machines[m].mount.is_none() {
            return;
        }
        self.step(m);
        let off = self.off;
        let dev = self.machines[m].disk.dev;
        if off.on(Rule::remember_deleted) {
            let back: Vec<File> = self.machines[m]
                .folder
                .keys()
                .copied()
                .filter(|f| self.machines[m].disk.deleted.contains(f))
                .collect();
            for file in back {
                self.say(|| format!("m{m} deletes {file} again"));
                self.delete(m, file);
            }
        }
        let Some(own_head) = self.machines[m].disk.head else { return };
        if !off.on(Rule::no_delete_unknown) {
            let known = self.commit(own_head).ledger.clone();
            let unknown: Vec<File> = self.machines[m]
                .folder
                .keys()
                .copied()
                .filter(|f| {
                    self.conts[*f as usize].folder == dev
                        && *f != own_head
                        && !known.contains_key(f)
                })
                .collect();
            for file in unknown {
                self.delete(m, file);
            }
        }
        if !self.knows_enough(m) {
            return;
        }
        let Some(live) = self.live(m) else { return };
        let active = self.active(m);
        let ledger = self.commit(own_head).ledger.clone();
        for (file, row) in ledger {
            let Row::Condemned(generation) = row else { continue };
            let disk = &self.machines[m].disk;
            if disk.deleted.contains(&file) {
                continue;
            }
            let mount = self.machines[m].mount.as_ref().expect("mounted");
            let acked = |d: &DevId| {
                let Some(tip) = mount.tip.get(d) else { return false };
                match self.commit(*tip).processed.get(&dev) {
                    Some((g, f)) => {
                        *g >= generation && (disk.chain.get(g) == Some(f) || !off.on(Rule::ack_tag))
                    }
                    None => false,
                }
            };
            if off.on(Rule::ack_all) && !active.iter().all(acked) {
                continue;
            }
            // The newest generation of ours that another device has merged, so holds.
            let heard = |d: &DevId| {
                let (g, f) = self.commit(*mount.tip.get(d)?).processed.get(&dev)?;
                (disk.chain.get(g) == Some(f) || !off.on(Rule::ack_tag)).then_some(*g)
            };
            let held = active.iter().filter_map(heard).max().unwrap_or(0);
            let since = disk.condemned_at.get(&file).copied().unwrap_or(disk.steps);
            if off.on(Rule::wait) && disk.steps < since + WAIT {
                continue;
            }
            if off.on(Rule::recheck) {
                let need: Vec<Ref> = self.conts[file as usize]
                    .refs
                    .iter()
                    .copied()
                    .filter(|r| live.contains(r))
                    .collect();
                let listed = self.commit(own_head).listed.clone();
                let entered = self.machines[m].disk.entered_at.clone();
                let steps = self.machines[m].disk.steps;
                // A copy of ours counts once it is elsewhere; alone, once it has had time to get there.
                let safe = |f: &File| {
                    let own = self.commit(own_head).generation;
                    let Some(generation) = listed.get(f).or((*f == own_head).then_some(&own))
                    else {
                        return self.conts[*f as usize].folder != dev;
                    };
                    if active.is_empty() {
                        !off.on(Rule::wait)
                            || entered.get(generation).is_none_or(|e| steps >= e + WAIT)
                    } else {
                        !off.on(Rule::held_elsewhere) || held >= *generation
                    }
                };
                let others: Vec<File> = self.machines[m]
                    .folder
                    .keys()
                    .copied()
                    .filter(|f| *f != file && self.relied(m, *f) && safe(f))
                    .collect();
                let mut missing = Vec::new();
                for r in need {
                    let mut found = false;
                    for f in &others {
                        if self.conts[*f as usize].refs.contains(&r) {
                            let good = if off.on(Rule::verify_bytes) {
                                self.readable(m, *f)
                            } else {
                                true
                            };
                            if good {
                                found = true;
                                break;
                            }
                        }
                    }
                    if !found {
                        missing.push(r);
                    }
                }
                if !missing.is_empty() {
                    // Only what has no copy at all is stored again; the others wait for theirs to be held.
                    let relied = self.refs_relied_good(m, file);
                    let here = self.refs_here(m);
                    let again: Vec<Ref> = missing
                        .into_iter()
                        .filter(|r| !relied.contains(r) && here.contains(r))
                        .collect();
                    self.machines[m].mount.as_mut().expect("mounted").again.extend(again);
                    continue;
                }
            }
            self.say(|| format!("m{m} deletes {file}, condemned in generation {generation}"));
            self.delete(m, file);
        }
    }

    /// A deletion is remembered: what comes back is known for what it is.
    fn delete(&mut self, m: usize, file: File) {
        if self.machines[m].folder.remove(&file).is_some() {
            let now = self.now;
            self.machines[m].queue.push((Task::DelUp(file), now));
        }
        self.machines[m].disk.deleted.insert(file);
    }

    /// Thinning: the next head keeps the newest two commits only. (The rule by hour, day and month picks which;
    /// here only matters that kept commits go.)
    pub fn thin(&mut self, m: usize) {
        self.machines[m].disk.thin = true;
    }

    // ------------------------------------------------------------------ the sync client and the cloud

    pub fn run_task(&mut self, m: usize, index: usize) {
        let (task, _) = self.machines[m].queue.swap_remove(index);
        let now = self.now;
        let tell = |world: &mut World, task: Task| {
            for (n, other) in world.machines.iter_mut().enumerate() {
                if n != m && other.alive {
                    other.queue.push((task, now));
                }
            }
        };
        match task {
            Task::Up(file) => {
                if self.machines[m].folder.get(&file) == Some(&Quality::Good)
                    && self.cloud.insert(file)
                {
                    self.trash.remove(&file);
                    tell(self, Task::Down(file));
                    self.say(|| format!("cloud got {file} from m{m}"));
                }
            }
            Task::DelUp(file) => {
                if !self.machines[m].folder.contains_key(&file) && self.cloud.remove(&file) {
                    self.trash.insert(file);
                    tell(self, Task::DelDown(file));
                    self.say(|| format!("cloud lost {file}, deleted by m{m}"));
                }
            }
            Task::Down(file) => {
                if self.cloud.contains(&file) && !self.machines[m].folder.contains_key(&file) {
                    let quality = if self.machines[m].on_demand && self.rng.chance(50) {
                        Quality::Placeholder
                    } else if self.rng.chance(20) {
                        self.machines[m].queue.push((Task::Whole(file), now));
                        Quality::Half
                    } else {
                        Quality::Good
                    };
                    self.machines[m].folder.insert(file, quality);
                }
            }
            Task::Whole(file) => {
                if self.cloud.contains(&file)
                    && self.machines[m].folder.get(&file) == Some(&Quality::Half)
                {
                    self.machines[m].folder.insert(file, Quality::Good);
                }
            }
            Task::DelDown(file) => {
                if !self.cloud.contains(&file) {
                    self.machines[m].folder.remove(&file);
                }
            }
        }
    }

    /// Somebody takes a file out of the cloud's trash.
    pub fn resurrect(&mut self) {
        let trash: Vec<File> = self.trash.iter().copied().collect();
        if trash.is_empty() {
            return;
        }
        let file = trash[self.rng.below(trash.len() as u64) as usize];
        self.trash.remove(&file);
        self.cloud.insert(file);
        let now = self.now;
        for machine in self.machines.iter_mut().filter(|m| m.alive) {
            machine.queue.push((Task::Down(file), now));
        }
        self.say(|| format!("{file} came back to life in the cloud"));
    }

    /// A client puts an older state of the folder back for a while.
    pub fn roll_back(&mut self, m: usize) {
        let files: Vec<File> =
            self.machines[m].folder.keys().copied().filter(|f| self.cloud.contains(f)).collect();
        let now = self.now;
        let from = files.len() * 2 / 3;
        for file in &files[from..] {
            if self.rng.chance(60) {
                self.machines[m].folder.remove(file);
                self.machines[m].queue.push((Task::Down(*file), now));
            }
        }
        self.say(|| format!("m{m}'s client put an older folder back"));
    }

    /// What a machine shows.
    pub fn plain(&self, m: usize) -> Plain {
        Plain::read(
            &view(&self.machines[m].mount.as_ref().expect("mounted").cur, self.off),
            self.off,
        )
    }
}
