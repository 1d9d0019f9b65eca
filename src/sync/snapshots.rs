//! The states of the past: what each head of each device shows.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use jiff::tz::TimeZone;

use super::base::{Decided, Joining, based_on, read_and_join};
use super::follow::Follower;
use super::open::{known, take_unusable};
use super::plan::{Known, Verdict, Wanted, plan};
use super::tell;
use crate::crypto::{DeviceId, Hash};
use crate::format::node::Id;
use crate::io::Timestamp;
use crate::volume::repository::{Repository, open_head};
use crate::volume::{Base, Behind, Notice, Unusable, Volume, VolumeError};

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
    root: Id,
}

impl Snapshot {
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
    opened: HashMap<Hash, Snapshot>,
}

impl Snapshots {
    /// The states that are here now, by time, and how many heads cannot be read. Of heads of one
    /// device that follow each other and show the same, the first counts.
    pub fn list(&mut self, volume: &Volume, repository: &Repository) -> (Vec<Snapshot>, usize) {
        let before = std::mem::take(&mut self.opened);
        let (mut found, mut unreadable): (Vec<Snapshot>, usize) = (Vec::new(), 0);
        for file in repository.heads.values().flatten() {
            let snapshot = match before.get(&file.hash) {
                Some(snapshot) => snapshot.clone(),
                None => match open_head(&volume.store, file) {
                    Ok((commit, ..)) => Snapshot {
                        device: file.device,
                        name: commit.device_name,
                        generation: file.generation,
                        time: commit.time,
                        inodes: commit.inodes,
                        bytes: commit.bytes,
                        root: commit.root.0,
                    },
                    Err(error) => {
                        log::debug!("a head cannot be read: {error}");
                        unreadable += 1;
                        continue;
                    }
                },
            };
            self.opened.insert(file.hash, snapshot.clone());
            let is_same =
                |last: &Snapshot| (last.device, last.root) == (snapshot.device, snapshot.root);
            if !found.last().is_some_and(is_same) {
                found.push(snapshot);
            }
        }
        found.sort_by_key(|snapshot| (snapshot.time, snapshot.device, snapshot.generation));
        (found, unreadable)
    }
}

/// How long the last state of each hour is shown, in seconds.
const HOURS: i64 = 24 * 3600;
/// How long the last state of each day is shown, in seconds.
const DAYS: i64 = 31 * 24 * 3600;

/// Of states by time those that are shown to people who do not ask for all: the last of each device in
/// each hour for a day, of each day for a month, and of each month, in the zone of this machine.
pub fn thinned(all: &[Snapshot], now: Timestamp) -> Vec<Snapshot> {
    let zone = TimeZone::system();
    let mut seen = HashSet::new();
    let mut shown: Vec<Snapshot> = all.iter().rev().cloned().collect();
    shown.retain(|found| seen.insert((found.device, period(found.time, now, &zone))));
    shown.reverse();
    shown
}

/// The hour, day or month, in the zone of this machine, in which a state is one of many: year, month
/// or 0, day or 0, hour or -1.
fn period(time: Timestamp, now: Timestamp, zone: &TimeZone) -> (i16, i8, i8, i8) {
    let Ok(moment) = jiff::Timestamp::from_second(time.secs) else { return (0, 0, 0, 0) };
    let moment = zone.to_datetime(moment);
    let (year, month, day, hour) = (moment.year(), moment.month(), moment.day(), moment.hour());
    match now.secs.saturating_sub(time.secs) {
        age if age <= HOURS => (year, month, day, hour),
        age if age <= DAYS => (year, month, day, -1),
        _ => (year, month, 0, -1),
    }
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
