//! The machines of worlds (`tests_worlds`), their sync clients, and what is known of what they wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::tests_devices::listing;
use super::tests_steps::{DEVICES, During, Step};
use crate::crypto::{hash, hex};
use crate::format::namespace::INLINE_MAX;
use crate::format::setting::Retention;
use crate::fs::{Followed, Later, Operations as _, RecoverError};
use crate::io::sim::{Crash, Fault, SimWorld, Unsynced};
use crate::merge::tests_devices::{Device, Ended, MountError};
use crate::merge::tests_histories::{Act, DIRS, FILES, play};
use crate::merge::tests_maps::{Line, Listing};
use crate::store::StoreError;
use crate::volume::{Portion, VolumeError};

/// Numbers that follow from a seed (`SplitMix64`, Steele and others 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A machine of the world.
pub(super) enum Machine {
    Mounted(Box<Device>),
    Ended(Ended),
}

impl Machine {
    fn disk(&self) -> &SimWorld {
        match self {
            Self::Mounted(device) => device.world(),
            Self::Ended(ended) => &ended.world,
        }
    }

    pub(super) fn mounted(&self) -> Option<&Device> {
        match self {
            Self::Mounted(device) => Some(device),
            Self::Ended(_) => None,
        }
    }
}

/// The texts of all files; each was made once.
fn texts(listing: &Listing) -> BTreeSet<String> {
    let files = listing.values().filter(|line| !line.is_dir);
    files.flat_map(|line| line.bytes.split_terminator(';').map(str::to_owned)).collect()
}

/// Whether a mount shows what the tree below it has. Long texts are not in the tree itself.
fn agree(seen: &Listing, shown: &Listing) -> bool {
    let is_same = |path: &String, line: &Line| {
        shown.get(path).is_some_and(|other| {
            let is_apart = other.bytes.is_empty() && line.bytes.len() > INLINE_MAX;
            let mut line = line.clone();
            if is_apart {
                line.bytes.clear();
            }
            *other == line
        })
    };
    seen.len() == shown.len() && seen.iter().all(|(path, line)| is_same(path, line))
}

/// The devices, and what is known of what they wrote.
pub(super) struct Devices {
    machines: Vec<Option<Machine>>,
    /// The folder in REPO of what each writes.
    folders: Vec<String>,
    /// Files of REPO, as their devices wrote them.
    pub(super) written: BTreeMap<String, Vec<u8>>,
    /// Files of REPO that their devices removed, since nobody needs them.
    gone: BTreeSet<String>,
    /// How many there were that the world must do without.
    swept: usize,
    /// What the client took away, by machine.
    hidden: Vec<BTreeMap<String, Vec<u8>>>,
    /// Texts that were durable somewhere.
    acknowledged: BTreeSet<String>,
    /// Texts that a device removed after it had seen them.
    removed: BTreeSet<String>,
    /// The file that a program has open on each machine.
    open: Vec<Option<u64>>,
    /// Machines of which a disk failed since they were mounted.
    faulty: BTreeSet<usize>,
    /// Machines whose clocks were set.
    set: BTreeSet<usize>,
    /// How many texts were made.
    made: u32,
    /// The seed of the last mount.
    seed: u64,
    /// What happened, for people.
    story: Vec<String>,
}

pub(super) type Outcome = Result<(), TestCaseError>;

fn repo_files(disk: &SimWorld) -> Vec<String> {
    disk.paths().into_iter().filter(|path| path.starts_with("repo/")).collect()
}

impl Devices {
    pub(super) fn new(first: &[Act]) -> Self {
        let laptop = Device::first("LAPTOP");
        let mut made = 0;
        // What no newest state needs can be given back.
        laptop.fs().change_retention(|of| *of = Retention::new(0, 0, 0)).unwrap();
        DIRS[..3].iter().for_each(|dir| assert!(laptop.mkdir(dir)));
        play(&laptop, "base", first, &mut made);
        let mut machines = vec![];
        for (at, name) in ["PHONE", "DESK"].into_iter().enumerate() {
            machines.push(Some(Machine::Mounted(Box::new(laptop.another(name, 3 + at as u64)))));
        }
        machines.insert(0, Some(Machine::Mounted(Box::new(laptop))));
        let hidden = vec![BTreeMap::new(); machines.len()];
        let (acknowledged, removed) = (BTreeSet::new(), BTreeSet::new());
        let id = |machine: &Option<Machine>| {
            let device = machine.as_ref().and_then(Machine::mounted).expect("it is mounted");
            format!("repo/{}/", hex(&device.volume().state().device))
        };
        let mut devices = Self {
            folders: machines.iter().map(id).collect(),
            machines,
            written: BTreeMap::new(),
            gone: BTreeSet::new(),
            swept: 0,
            hidden,
            acknowledged,
            removed,
            open: vec![None; DEVICES],
            faulty: BTreeSet::new(),
            set: BTreeSet::new(),
            made,
            seed: 100,
            story: Vec::new(),
        };
        devices.note_written();
        devices
    }

    pub(super) fn machine(&self, at: usize) -> &Machine {
        self.machines[at].as_ref().expect("each has one")
    }

    /// Takes a machine, whose mount may end then.
    fn take(&mut self, at: usize) -> Machine {
        self.open[at] = None;
        self.machines[at].take().expect("each has one")
    }

    fn tell(&mut self, what: impl Into<String>) {
        self.story.push(what.into());
    }

    /// Notes what each device wrote: nobody else makes files of that name, and none changes. What
    /// is being written when the power goes is finished by nobody, and no client takes it.
    pub(super) fn note_written(&mut self) {
        for at in 0..self.machines.len() {
            let disk = self.machine(at).disk().clone();
            let new: Vec<String> = repo_files(&disk)
                .into_iter()
                .filter(|path| !self.written.contains_key(path) && !self.gone.contains(path))
                .collect();
            for path in new {
                let bytes = disk.get(&path).expect("it was listed");
                // Under another name it was brought by a client.
                let is_whole = !path.contains("/head/") && !path.contains("/obj/")
                    || path.ends_with(&format!("{}.amb", hex(&hash(&bytes))));
                if is_whole {
                    self.written.insert(path, bytes);
                }
            }
        }
    }

    /// What nobody needs any more is given back.
    fn sweep(&mut self, at: usize, is_week: bool) {
        self.note_written();
        let own = self.folders[at].clone();
        // Within a day clients end what they began, everywhere.
        for disk in (0..DEVICES).map(|at| self.machine(at).disk().clone()).collect::<Vec<_>>() {
            for (path, bytes) in &self.written {
                if disk.get(path).is_some_and(|there| there != *bytes) {
                    disk.put(path, bytes);
                }
            }
        }
        let Machine::Mounted(device) = self.machine(at) else { return };
        let is_own = |path: &String| path.starts_with(&own);
        let before: Vec<String> = repo_files(device.world()).into_iter().filter(is_own).collect();
        for _ in 0..if is_week { 8 } else { 1 } {
            device.later(24 * 3600);
            let _ = device.fs().sweep(Portion::All);
        }
        // The days pass for all.
        for machine in self.machines.iter().flatten() {
            match machine {
                Machine::Mounted(device) => device.later(0),
                Machine::Ended(ended) => ended.show_time(),
            }
        }
        let Machine::Mounted(device) = self.machine(at) else { return };
        let after: BTreeSet<String> = repo_files(device.world()).into_iter().collect();
        let removed = before.into_iter().filter(|path| !after.contains(path));
        for path in removed.collect::<Vec<_>>() {
            self.swept += usize::from(self.written.remove(&path).is_some());
            self.hidden.iter_mut().for_each(|hidden| drop(hidden.remove(&path)));
            self.gone.insert(path);
        }
        self.note_written();
    }

    /// All clients bring all that was written, and each device goes on from that and says so.
    fn exchange(&mut self) -> Outcome {
        self.note_written();
        for at in 0..DEVICES {
            self.show(at);
            for (path, bytes) in &self.written {
                self.machine(at).disk().put(path, bytes);
            }
            self.machine(at).disk().clock().advance(Duration::from_secs(1));
            self.close(at);
            self.follow(at)?;
            if let Some(device) = self.machine(at).mounted() {
                let _ = device.fs().checkpoint_and_answer(true);
            }
        }
        self.note_written();
        Ok(())
    }

    /// The client takes away some of what its device removed elsewhere.
    fn remove(&mut self, at: usize, seed: u64) {
        let mut dice = Dice(seed);
        let disk = self.machine(at).disk().clone();
        let is_all = dice.below(2) == 0;
        for path in repo_files(&disk) {
            if self.gone.contains(&path) && (is_all || dice.below(3) == 0) {
                assert!(disk.remove_file(&path));
            }
        }
    }

    /// What is durable at a device from now on.
    fn acknowledge(&mut self, at: usize) {
        let seen = self.machine(at).mounted().map(Device::try_seen);
        if let Some(Ok(seen)) = seen {
            self.acknowledged.extend(texts(&seen));
        }
    }

    fn act(&mut self, at: usize, acts: &[Act], long: bool) {
        let Machine::Mounted(device) = self.machine(at) else { return };
        let mut made = self.made;
        // Of what cannot be read now nobody could say that it was removed by somebody who saw it.
        let Ok(before) = device.try_seen() else { return };
        let name = if long { "long ".repeat(80) } else { "x".into() };
        play(device, &name, acts, &mut made);
        let after = device.try_seen().ok();
        self.made = made;
        let after = after.map_or_else(BTreeSet::new, |after| texts(&after));
        self.removed.extend(texts(&before).difference(&after).cloned());
    }

    fn publish(&mut self, at: usize) -> Outcome {
        let Machine::Mounted(device) = self.machine(at) else { return Ok(()) };
        let before = device.try_seen();
        if let Err(error) = device.fs().checkpoint() {
            // Something that it needs was taken away.
            prop_assert!(
                self.has_trouble(at),
                "nothing is missing, and it cannot publish: {error}: {:?}",
                device.fs().progress().trouble
            );
            return Ok(());
        }
        if let Ok(before) = before {
            let shown = listing(device);
            prop_assert!(
                agree(&before, &shown),
                "the mount shows {:#?}\nthe tree {:#?}",
                before,
                shown
            );
            self.acknowledge(at);
        }
        self.note_written();
        Ok(())
    }

    /// Whether not all of what other devices wrote is there as they wrote it.
    fn is_incomplete(&self, at: usize) -> bool {
        let disk = self.machine(at).disk();
        self.written.iter().any(|(path, bytes)| disk.get(path).as_ref() != Some(bytes))
    }

    /// Whether there is a reason for what fails.
    fn has_trouble(&self, at: usize) -> bool {
        self.faulty.contains(&at) || self.is_incomplete(at)
    }

    /// The client brings what another machine has.
    fn carry(&mut self, to: usize, from: usize, seed: u64) {
        self.note_written();
        let mut dice = Dice(seed);
        let from = repo_files(self.machine(from).disk());
        let disk = self.machine(to).disk();
        // What is missing is looked for once a second.
        disk.clock().advance(Duration::from_secs(1));
        let mut missing: Vec<&String> = from
            .iter()
            .filter(|path| self.written.contains_key(*path))
            .filter(|path| disk.get(path).as_ref() != self.written.get(*path))
            .collect();
        // Files come in any order, and the last ones do not come now.
        let len = missing.len() as u64;
        for at in 0..len {
            missing.swap(at as usize, (at + dice.below(len - at)) as usize);
        }
        let is_all = dice.below(2) == 0;
        let count =
            if is_all { missing.len() } else { dice.below(missing.len() as u64 + 1) as usize };
        for path in &missing[..count] {
            let bytes = &self.written[*path];
            match dice.below(if is_all { 40 } else { 12 }) {
                0 => disk.put(path, &bytes[..bytes.len() / 2]),
                1 => disk.put(path, b""),
                2 => disk.put(path, &vec![0; bytes.len()]),
                3 => {
                    disk.put(&format!("{path} (1)"), bytes);
                    disk.put(path, bytes);
                }
                4 => disk.put(&format!("{path} (1)"), bytes),
                _ => disk.put(path, bytes),
            }
        }
    }

    /// The client takes away some files that other devices wrote.
    fn hide(&mut self, at: usize, seed: u64) {
        self.note_written();
        let mut dice = Dice(seed);
        let disk = self.machine(at).disk().clone();
        let own = self.folders[at].clone();
        let foreign = repo_files(&disk).into_iter().filter(|path| {
            self.written.contains_key(path)
                && path.matches('/').count() > 1
                && !path.starts_with(&own)
        });
        for path in foreign.collect::<Vec<_>>() {
            if dice.below(4) == 0 {
                let bytes = disk.get(&path).expect("it was listed");
                assert!(disk.remove_file(&path));
                self.hidden[at].insert(path, bytes);
            }
        }
    }

    fn show(&mut self, at: usize) {
        for (path, bytes) in std::mem::take(&mut self.hidden[at]) {
            self.machine(at).disk().put(&path, &bytes);
        }
    }

    fn next_seed(&mut self) -> u64 {
        self.seed += 10;
        self.seed
    }

    /// Mounts a machine on which nothing is mounted, and puts it back in its place.
    fn mount(&mut self, at: usize, ended: Ended) -> Outcome {
        let mut ended = ended;
        // Changes of the journal may have to be published before others' heads are joined.
        for _ in 0..3 {
            let seed = self.next_seed();
            match ended.try_mount(seed) {
                Ok(device) if device.volume().is_replay() => {
                    let published = device.fs().checkpoint();
                    ended = device.kill();
                    if published.is_err() {
                        break;
                    }
                }
                Ok(device) => {
                    self.machines[at] = Some(Machine::Mounted(Box::new(device)));
                    self.faulty.remove(&at);
                    self.note_written();
                    return Ok(());
                }
                Err(failed) => {
                    let (machine, error) = *failed;
                    ended = machine;
                    self.machines[at] = Some(Machine::Ended(ended));
                    self.tell(format!("{at} cannot mount: {error}"));
                    // Where no head is left, nothing tells whether they are still to come.
                    let files = repo_files(self.machine(at).disk());
                    let has_heads = files.iter().any(|path| path.contains("/head/"));
                    let waits = match &error {
                        MountError::Volume(
                            VolumeError::Waiting(_)
                            | VolumeError::Store(StoreError::Missing { .. }),
                        ) => true,
                        // The tree on which the journal's changes were made is not here in full.
                        MountError::Recover(RecoverError::Store(StoreError::Missing {
                            ..
                        })) => true,
                        MountError::Volume(VolumeError::RolledBack(_)) => !has_heads,
                        // By a clock that was set, a file is still for ten minutes at once.
                        MountError::Volume(VolumeError::Store(StoreError::Damaged { .. })) => {
                            self.set.contains(&at)
                        }
                        _ => false,
                    };
                    prop_assert!(waits, "it refuses: {error}");
                    prop_assert!(self.is_incomplete(at), "all is here, and it waits: {error}");
                    return Ok(());
                }
            }
        }
        self.machines[at] = Some(Machine::Ended(ended));
        prop_assert!(self.is_incomplete(at), "it does not come to an end of replaying");
        Ok(())
    }

    fn remount(&mut self, at: usize, kill: bool) -> Outcome {
        let mut is_published = false;
        let ended = match self.take(at) {
            Machine::Ended(ended) => ended,
            Machine::Mounted(device) if kill => device.kill(),
            Machine::Mounted(device) => {
                self.machines[at] = Some(Machine::Mounted(device));
                self.publish(at)?;
                let Machine::Mounted(device) = self.take(at) else { unreachable!() };
                is_published = device.fs().progress().waiting_changes == 0;
                // Where a disk failed, this fails, too.
                let _ = device.fs().flush_log();
                device.kill()
            }
        };
        self.mount(at, ended)?;
        let Some(device) = self.machine(at).mounted() else { return Ok(()) };
        // What was replayed stands above the tree.
        if is_published && let Ok(seen) = device.try_seen() {
            match device.try_shown() {
                Ok(_) => {
                    let shown = listing(device);
                    prop_assert!(agree(&seen, &shown), "{:#?}\n{:#?}", seen, shown);
                }
                // A node that nothing of what was looked at needs is with a file that is still to come.
                Err(error) => prop_assert!(self.is_incomplete(at), "all is here: {error}"),
            }
        }
        Ok(())
    }

    fn close(&mut self, at: usize) {
        let open = self.open[at].take();
        if let (Machine::Mounted(device), Some(ino)) = (self.machine(at), open) {
            device.close(ino);
        }
    }

    fn write_open(&mut self, at: usize) {
        let (Machine::Mounted(device), Some(ino)) = (self.machine(at), self.open[at]) else {
            return;
        };
        let Ok(attr) = device.fs().getattr(ino) else { return };
        let made = self.made + 1;
        let _ = device.fs().write(ino, attr.size, format!("open{made};").as_bytes(), false);
        self.made = made;
    }

    /// What a program reads that has a file open.
    fn held(&self, at: usize) -> Option<Vec<u8>> {
        let device = self.machine(at).mounted()?;
        device.fs().read(self.open[at]?, 0, u32::MAX).ok()
    }

    fn follow(&mut self, at: usize) -> Outcome {
        let held = self.held(at);
        let Machine::Mounted(device) = self.machine(at) else { return Ok(()) };
        let before = device.try_seen();
        let followed = device.fs().follow(&Device::follower());
        if let (Some(held), Some(after)) = (held, self.held(at)) {
            prop_assert!(held == after, "an open file is another one");
        }
        let Ok(before) = before else { return Ok(()) };
        match followed {
            Ok(Followed::Changed(_)) => {
                if let Ok(seen) = device.try_seen() {
                    let shown = listing(device);
                    prop_assert!(agree(&seen, &shown), "{:#?}\n{:#?}", seen, shown);
                }
            }
            Ok(Followed::Nothing) => {
                if let Ok(seen) = device.try_seen() {
                    prop_assert_eq!(seen, before);
                }
            }
            // What is acknowledged could not be published.
            Ok(Followed::Later(Later::Unpublished)) => {
                prop_assert!(self.has_trouble(at), "nothing is missing");
            }
            Ok(Followed::Later(Later::Busy)) => prop_assert!(false, "nobody writes"),
            Ok(Followed::Later(Later::Older)) => {
                prop_assert!(self.is_incomplete(at), "all is here");
            }
            Ok(Followed::Later(Later::Database(name))) => {
                prop_assert!(self.open[at].is_some(), "nothing is open: {name:?}");
            }
            Err(error) => prop_assert!(self.has_trouble(at), "it cannot follow: {error}"),
        }
        self.note_written();
        Ok(())
    }

    /// A change of its disk fails while a machine does something.
    fn fault(&mut self, at: usize, during: During, after: u64, fault: Fault) -> Outcome {
        let disk = self.machine(at).disk().clone();
        disk.fail_at(disk.operations() + 1 + after, fault);
        self.faulty.insert(at);
        let outcome = match during {
            During::Fsync => {
                if let Some(device) = self.machine(at).mounted()
                    && device.fs().flush_log().is_ok()
                {
                    self.acknowledge(at);
                }
                Ok(())
            }
            During::Publish => self.publish(at),
            During::Sweep => {
                self.sweep(at, true);
                Ok(())
            }
            During::Follow => self.follow(at),
            During::Mount => {
                let ended = match self.take(at) {
                    Machine::Ended(ended) => ended,
                    Machine::Mounted(device) => device.kill(),
                };
                let seed = self.next_seed();
                self.machines[at] = Some(match ended.try_mount(seed) {
                    Ok(device) if !device.volume().is_replay() => {
                        Machine::Mounted(Box::new(device))
                    }
                    Ok(device) => Machine::Ended(device.kill()),
                    Err(failed) => Machine::Ended(failed.0),
                });
                Ok(())
            }
        };
        disk.clear_faults();
        outcome
    }

    fn crash(&mut self, at: usize, during: During, after: u64, how: u8, taken: bool) -> Outcome {
        let machine = self.take(at);
        let disk = machine.disk().clone();
        disk.freeze_at(disk.operations() + after);
        let mut synced = None;
        let ended = match (machine, during) {
            (Machine::Mounted(device), During::Mount) => {
                let ended = device.kill();
                let seed = self.next_seed();
                match ended.try_mount(seed) {
                    Ok(device) => device.kill(),
                    Err(failed) => failed.0,
                }
            }
            (Machine::Ended(ended), _) => {
                let seed = self.next_seed();
                match ended.try_mount(seed) {
                    Ok(device) => device.kill(),
                    Err(failed) => failed.0,
                }
            }
            (Machine::Mounted(device), During::Fsync) => {
                let seen = device.try_seen();
                if device.fs().flush_log().is_ok() {
                    synced = seen.ok();
                }
                device.kill()
            }
            (Machine::Mounted(device), During::Publish) => {
                let seen = device.try_seen();
                if device.fs().checkpoint().is_ok() {
                    synced = seen.ok();
                }
                device.kill()
            }
            (Machine::Mounted(device), During::Sweep) => {
                self.machines[at] = Some(Machine::Mounted(device));
                self.sweep(at, true);
                let Machine::Mounted(device) = self.take(at) else { unreachable!() };
                device.kill()
            }
            (Machine::Mounted(device), During::Follow) => {
                let _ = device.fs().follow(&Device::follower());
                device.kill()
            }
        };
        if let Some(seen) = synced {
            self.acknowledged.extend(texts(&seen));
        }
        let data = match how % 4 {
            0 => Unsynced::Kept,
            1 => Unsynced::Lost,
            2 => Unsynced::OneLost(usize::from(how / 8) % (disk.pending_writes() + 1)),
            _ => Unsynced::LastTorn(disk.last_pending_len() * usize::from(how / 4) / 64),
        };
        let crash = Crash { data, names_kept: how & 128 != 0 };
        self.machines[at] = Some(Machine::Ended(ended));
        if taken {
            // What the power cut may take back is with another machine by then.
            self.note_written();
            self.carry((at + 1) % self.machines.len(), at, 1);
        }
        let Machine::Ended(ended) = self.take(at) else { unreachable!() };
        self.mount(at, ended.crash(crash))
    }

    pub(super) fn step(&mut self, step: Step) -> Outcome {
        self.tell(format!("{step:?}"));
        match step {
            Step::Act(at, acts, long) => self.act(at, &acts, long),
            Step::Fsync(at) => {
                let device = self.machine(at).mounted();
                if device.is_some_and(|device| device.fs().flush_log().is_ok()) {
                    self.acknowledge(at);
                }
            }
            Step::Publish(at) => self.publish(at)?,
            Step::Answer(at) => {
                self.publish(at)?;
                if let Some(device) = self.machine(at).mounted() {
                    let owes = device.volume().owed_answer().is_some();
                    let _ = device.fs().checkpoint_and_answer(owes);
                }
                self.note_written();
            }
            Step::Carry(to, from, _) if to == from => {}
            Step::Carry(to, from, seed) => self.carry(to, from, seed),
            Step::Hide(at, seed) => self.hide(at, seed),
            Step::Show(at) => self.show(at),
            Step::Sweep(at, is_week) => self.sweep(at, is_week),
            Step::Remove(at, seed) => self.remove(at, seed),
            Step::Exchange => self.exchange()?,
            Step::Mount(at, kill) => self.remount(at, kill)?,
            Step::Follow(at) => self.follow(at)?,
            Step::Open(at, file) => {
                self.close(at);
                let device = self.machine(at).mounted();
                self.open[at] = device.and_then(|device| device.open_file(FILES[file]));
            }
            Step::WriteOpen(at) => self.write_open(at),
            Step::Close(at) => self.close(at),
            Step::Crash(at, during, after, how, taken) => {
                self.crash(at, during, after, how, taken)?;
            }
            Step::Fault(at, during, after, fault) => self.fault(at, during, after, fault)?,
            Step::Sleep(at) => {
                self.machine(at).disk().clock().sleep(Duration::from_secs(60));
            }
            Step::Clock(at, ahead) => {
                if let Some(device) = self.machine(at).mounted() {
                    device.set_ahead(ahead);
                    self.set.insert(at);
                }
            }
        }
        Ok(())
    }

    /// All that was written is everywhere, as it was written.
    fn settle(&mut self) -> Outcome {
        self.note_written();
        for at in 0..self.machines.len() {
            self.show(at);
            for (path, bytes) in &self.written {
                self.machine(at).disk().put(path, bytes);
            }
            for path in &self.gone {
                self.machine(at).disk().remove_file(path);
            }
            // What is missing is looked for once a second.
            self.machine(at).disk().clock().advance(Duration::from_secs(1));
            let followed = self.follow_to_the_end(at)?;
            self.remount(at, false)?;
            if let (Some(shown), Some(device)) = (followed, self.machine(at).mounted()) {
                prop_assert_eq!(
                    device.seen(),
                    shown,
                    "{} shows more than before it was mounted",
                    at
                );
            }
        }
        Ok(())
    }

    /// What a mount shows that went on from all that is here. None if nothing is mounted, or its disk
    /// failed.
    fn follow_to_the_end(&mut self, at: usize) -> Result<Option<Listing>, TestCaseError> {
        self.close(at);
        if self.faulty.contains(&at) {
            return Ok(None);
        }
        let Machine::Mounted(device) = self.machine(at) else { return Ok(None) };
        for _ in 0..3 {
            match device.fs().follow(&Device::follower()) {
                Ok(Followed::Nothing) => return Ok(device.try_seen().ok()),
                Ok(Followed::Changed(_)) => {}
                followed => prop_assert!(false, "all is here: {followed:?}"),
            }
        }
        prop_assert!(false, "it always finds something new");
        Ok(None)
    }

    pub(super) fn finish(&mut self) -> Outcome {
        // Twice: what came may be waited for by what a device publishes after it.
        for _ in 0..3 {
            self.settle()?;
            for at in 0..self.machines.len() {
                self.publish(at)?;
            }
        }
        self.settle()?;
        let all: Vec<&Device> =
            self.machines.iter().flatten().filter_map(Machine::mounted).collect();
        prop_assert_eq!(all.len(), DEVICES, "all is here, and one cannot mount");
        for device in &all[1..] {
            let (one, other) = (all[0].volume().base(), device.volume().base());
            prop_assert_eq!(one.inherited.root, other.inherited.root);
            prop_assert_eq!(one.namespace.shown, other.namespace.shown);
            prop_assert_eq!(&one.namespace.repairs, &other.namespace.repairs);
        }
        let here = texts(&all[0].seen());
        let kept = self.acknowledged.difference(&self.removed);
        let lost: Vec<&String> = kept.filter(|text| !here.contains(*text)).collect();
        prop_assert!(lost.is_empty(), "{:?} were acknowledged, and are gone", lost);
        Ok(())
    }
}

/// Plays a world to its end. The error says what happened in it.
pub(super) fn play_world(first: &[Act], steps: Vec<Step>) -> Outcome {
    play_counted(first, steps).map(drop)
}

/// Plays a world to its end. Returns how many files its devices removed, since nobody needed them. The error
/// says what happened in it.
pub(super) fn play_counted(first: &[Act], steps: Vec<Step>) -> Result<usize, TestCaseError> {
    let mut devices = Devices::new(first);
    let mut outcome = Ok(());
    for step in steps {
        outcome = outcome.and_then(|()| devices.step(step));
    }
    let told = |devices: &Devices| devices.story.join("\n");
    outcome
        .and_then(|()| devices.finish())
        .map(|()| devices.swept)
        .map_err(|error| TestCaseError::fail(format!("{error}\n{}", told(&devices))))
}

/// All files of all machines, when a world has come to its end.
pub(super) fn end_of(first: &[Act], steps: &[Step]) -> Vec<BTreeMap<String, Vec<u8>>> {
    let mut devices = Devices::new(first);
    for step in steps {
        drop(devices.step(step.clone()));
    }
    drop(devices.finish());
    let machines = devices.machines.iter().flatten().map(Machine::disk);
    let files = |disk: &SimWorld| {
        disk.paths().into_iter().map(|path| (path.clone(), disk.get(&path).unwrap())).collect()
    };
    machines.map(files).collect()
}
