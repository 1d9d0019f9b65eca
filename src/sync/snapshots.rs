//! The states of the past: what each head of each device shows.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use jiff::tz::TimeZone;

use super::base::{Decided, Joining, based_on, read_and_join};
use super::follow::Follower;
use super::open::{known, take_unusable};
use super::plan::{Known, Verdict, Wanted, plan};
use super::tell;
use crate::crypto::{DeviceId, Hash};
use crate::format::commit::Commit;
use crate::format::ledger::Kept;
use crate::format::node::Id;
use crate::format::register::Features;
use crate::format::setting::Retention;
use crate::io::{Timestamp, shown};
use crate::tree::Root;
use crate::volume::repository::{Repository, open_head};
use crate::volume::{
    Base, Behind, Candidate, KeptCommits, Notice, Unusable, Volume, VolumeError, kept_in, named,
    staying,
};

/// A state that a device published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The device that published it.
    pub device: DeviceId,
    /// What the device called itself then.
    pub name: String,
    /// The generation of its head, from 1.
    pub generation: u64,
    /// When it was published, by the wall clock of the device.
    pub time: Timestamp,
    /// How many files, directories and other inodes it has.
    pub inodes: u64,
    /// Sum of the sizes of its files, bytes.
    pub bytes: u64,
    /// What its owner calls it, or empty.
    pub label: String,
    root: Id,
}

impl Snapshot {
    /// A sentence for people who wanted to give this state's name to another one.
    pub fn has_name(&self) -> String {
        let device = named(&self.name, &self.device);
        format!("state {} of {device} has the name {} already", self.generation, shown(&self.label))
    }

    /// A number that another state hardly ever has.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.device, self.generation, self.root).hash(&mut hasher);
        hasher.finish()
    }
}

/// The states in a repository. Each head is opened once.
#[derive(Default)]
pub struct Snapshots {
    opened: HashMap<Hash, Opened>,
}

/// What a head says of itself, and of the commits that its device keeps.
#[derive(Clone)]
struct Opened {
    snapshot: Snapshot,
    ledger: Root,
    /// Whether the device gives back what no state needs that it keeps.
    gives_back: bool,
}

impl Opened {
    fn of(device: DeviceId, generation: u64, commit: Commit, features: Features) -> Self {
        let Commit { time, inodes, bytes, root: (root, _), ledger, device_name: name, .. } = commit;
        let label = String::new();
        let snapshot = Snapshot { device, name, generation, time, inodes, bytes, label, root };
        Self { snapshot, ledger, gives_back: features.gives_back() }
    }
}

impl Snapshots {
    /// The states that are here now, by time, and how many heads and ledgers cannot be read: those of
    /// heads, and those that a device keeps although their heads are gone. Of states of one device that
    /// follow each other and show the same, the first counts.
    pub fn list(&mut self, volume: &Volume, repository: &Repository) -> (Vec<Snapshot>, usize) {
        let before = std::mem::take(&mut self.opened);
        let (mut found, mut unreadable) = (Vec::new(), 0);
        let mut of_devices = Vec::new();
        for (device, files) in &repository.heads {
            let (mut states, mut newest) = (Vec::new(), None);
            for file in files {
                let opened = match before.get(&file.hash) {
                    Some(opened) => opened.clone(),
                    None => match open_head(&volume.store, file) {
                        Ok((commit, extension, _)) => {
                            Opened::of(*device, file.generation, commit, extension.features)
                        }
                        Err(error) => {
                            log::debug!("a head cannot be read: {error}");
                            unreadable += 1;
                            continue;
                        }
                    },
                };
                self.opened.insert(file.hash, opened.clone());
                states.push(opened.snapshot.clone());
                newest = Some(opened);
            }
            of_devices.extend(newest.map(|newest| (states, newest)));
        }
        // What a state needs that nobody keeps may be gone then, although its head is here.
        let is_given_back = of_devices.iter().any(|(_, newest)| newest.gives_back);
        for (mut states, Opened { snapshot, ledger, .. }) in of_devices {
            match kept_in(&volume.store, ledger) {
                Ok(kept) => {
                    states.retain(|state| {
                        let generation = state.generation;
                        !is_given_back
                            || generation == snapshot.generation
                            || kept.contains_key(&generation)
                    });
                    add_kept(&mut states, kept, &snapshot);
                }
                Err(error) => {
                    log::debug!("a ledger cannot be read: {error}");
                    unreadable += 1;
                }
            }
            states.sort_by_key(|snapshot| snapshot.generation);
            states.dedup_by(|next, last| {
                let are_named = !next.label.is_empty() && !last.label.is_empty();
                let is_same = next.root == last.root && !are_named;
                if is_same && last.label.is_empty() {
                    last.label = std::mem::take(&mut next.label);
                }
                is_same
            });
            found.extend(states);
        }
        found.sort_by_key(|snapshot| (snapshot.time, snapshot.device, snapshot.generation));
        (found, unreadable)
    }
}

/// Of each of these states the bytes of content that only it needs: neither another one of them, nor the
/// newest state of any device.
///
/// # Errors
///
/// If one of them is not here in full: then nothing is known.
pub fn bytes_apart(
    volume: &Volume,
    states: &[Snapshot],
) -> Result<Vec<u64>, crate::volume::StoreError> {
    let roots: Vec<Id> = states.iter().map(|state| state.root).collect();
    volume.bytes_apart(&roots)
}

impl Snapshots {
    /// The state that has a name, of those that are here now; and how many heads and ledgers cannot be
    /// read, which may have more.
    pub fn named(
        volume: &Volume,
        repository: &Repository,
        label: &str,
    ) -> (Option<Snapshot>, usize) {
        let (found, unreadable) = Self::default().list(volume, repository);
        (found.into_iter().find(|snapshot| snapshot.label == label), unreadable)
    }
}

/// Adds the commits that the device of the `newest` head keeps.
fn add_kept(states: &mut Vec<Snapshot>, kept: KeptCommits, newest: &Snapshot) {
    for (generation, Kept { time, root: (root, _), inodes, bytes, label }) in kept {
        let mut states_of_it = states.iter_mut().filter(|state| state.generation == generation);
        if let Some(state) = states_of_it.find(|state| state.root == root) {
            state.label = label;
        } else {
            let Snapshot { device, name, .. } = newest.clone();
            states.push(Snapshot { device, name, generation, time, inodes, bytes, label, root });
        }
    }
}

/// Of states by time those that are shown to people who do not ask for all: of each device those that
/// it would keep now if they all were as old as their times say, in the zone of this machine.
pub fn thinned(all: &[Snapshot], now: Timestamp, retention: &Retention) -> Vec<Snapshot> {
    let zone = TimeZone::system();
    let devices: BTreeSet<DeviceId> = all.iter().map(|snapshot| snapshot.device).collect();
    let mut shown: Vec<Snapshot> = Vec::new();
    for device in devices {
        let own = all.iter().filter(|found| found.device == device);
        let mut own: Vec<&Snapshot> = own.collect();
        // As its ledger has them, whatever its clock showed.
        own.sort_by_key(|found| found.generation);
        let candidate =
            |found: &&Snapshot| Candidate { time: found.time, is_named: !found.label.is_empty() };
        let candidates: Vec<Candidate> = own.iter().map(candidate).collect();
        let stays = staying(&candidates, now, retention, &zone);
        let left = own.into_iter().zip(stays).filter(|(_, stays)| *stays);
        shown.extend(left.map(|(found, _)| found.clone()));
    }
    shown.sort_by_key(|snapshot| (snapshot.time, snapshot.device, snapshot.generation));
    shown
}

/// What the repository showed at a time.
pub struct Past {
    /// Of each device the newest state that it had published by then, joined. It is read with the
    /// store of the volume, for as long as this lives.
    pub base: Base,
    /// Devices of which newer states are known than are here: of that time, maybe.
    pub behind: Vec<Behind>,
    /// States that are here and cannot be used: of that time, maybe.
    pub unusable: Vec<Unusable>,
    /// Which state was the latest, for people.
    pub notice: Option<Notice>,
}

impl Follower {
    /// What the repository showed at a time.
    ///
    /// # Errors
    ///
    /// [`VolumeError::TooEarly`] if nothing was here yet; others as for opening.
    pub fn past(
        &self,
        volume: &Volume,
        repository: &Repository,
        time: Timestamp,
    ) -> Result<Past, VolumeError> {
        let (store, heads, until) = (&*volume.store, &repository.heads, Some(time));
        let machine = self.machine(volume);
        let wanted = Wanted { until, told: self.wanted.told.clone(), ..Wanted::default() };
        // Whether this device may write on is no question here.
        let knowing = known(&machine, heads, &[]);
        let joining = Joining { own: Some(&machine.device), until, ..Joining::default() };
        let decided = read_and_join(store, repository, heads, joining, |loaded| {
            Ok(plan(&loaded.here, &Known::default(), Some(&knowing), &wanted))
        })?;
        let Decided { mut loaded, plan, joined } = decided;
        let base = match (plan.verdict, joined) {
            (_, Some((base, _))) => base,
            (Verdict::StandOn(Some(at)), _) => based_on(store, &[&loaded.heads[at]])?,
            (Verdict::Refuse(refusal), _) => {
                return Err(tell::refused(refusal, loaded, repository, 0));
            }
            _ => return Err(VolumeError::TooEarly { oldest: loaded.here.oldest_later }),
        };
        let notice = tell::as_of(time, &loaded, &plan.newest);
        let unusable = take_unusable(&mut loaded, &plan.unusable, machine.device);
        Ok(Past { base, behind: plan.behind, unusable, notice })
    }
}
