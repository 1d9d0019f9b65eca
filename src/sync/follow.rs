//! What other devices write while a volume is open.
//!
//! Invariant: a look changes nothing of the volume but what its store knows of containers.
//! Whoever asked for it decides whether the volume goes on from the new base.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::base::{Decided, Joining, based_on, holders, read_and_join, read_heads};
use super::open::{known, take_unusable};
use super::options::OpenOptions;
use super::plan::{Plan, Verdict, Wanted, plan};
use super::read::{LeftOut, Loaded, Usable};
use super::tell;
use crate::crypto::{DeviceId, unhex};
use crate::format::clock::{Generations, Processed, Seen};
use crate::io::{Alarm, FolderWatch, SyncedFolder, Timestamp};
use crate::store::{Store, StoreError};
use crate::tree::{Root, join};
use crate::volume::repository::Repository;
use crate::volume::state::State;
use crate::volume::{Base, DeviceHead, Heads, Volume, VolumeError};

/// How long after a look that did not end it is repeated, although no file of a head is another;
/// then twice as long, and so on.
const AGAIN: Duration = Duration::from_secs(15);
/// How long after a look that did not end it is repeated, if files appeared since, or programs only
/// have to pause.
const SOON: Duration = Duration::from_secs(3);
/// How long after a look that did not end it is repeated, if what it waited for has happened.
const NOW: Duration = Duration::from_secs(1);
/// The shortest wait, so that looks that fail at once do not follow each other without a pause.
const WAIT_MIN: Duration = Duration::from_millis(500);
/// Of how many namespaces the changes are kept: of what is shown, and of what came of some tries.
const SEEN_MAX: usize = 4;
/// How many times [`AGAIN`] is doubled.
const DOUBLINGS_MAX: u32 = 6;

/// Looks for new heads of other devices, for one open volume.
pub struct Follower {
    pub(super) wanted: Wanted,
    /// Local state that lies beside a repository which is only read.
    beside: Option<State>,
    last: Mutex<Option<Last>>,
    /// The changes in what is shown and in what was to be shown, by the roots of those: later they
    /// may not be here to be read.
    seen: Mutex<Vec<(Root, Seen)>>,
}

/// The last look. Times are those of the clock that counts from the start.
struct Last {
    /// Paths and sizes of other devices' heads.
    files: BTreeSet<(String, u64)>,
    /// When the look began.
    at: Duration,
    /// When it was seen last that REPO has these files and no others. None as long as they were not
    /// read: the look failed, or goes on.
    seen: Option<Duration>,
    /// When it is repeated if it did not end.
    urgency: Urgency,
    /// How many looks in a row found the same files, up to [`DOUBLINGS_MAX`].
    repeated: u32,
    /// Whether the volume goes on from all that was found, and nothing is on its way.
    is_done: bool,
}

/// How soon a look is repeated that did not end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// After [`AGAIN`], doubled.
    None,
    /// After [`SOON`]: files appeared since that are no heads, and may be objects that it lacks, or
    /// programs only have to pause.
    Soon,
    /// After [`NOW`]: what it waited for has happened.
    Now,
}

impl Last {
    /// How long after `now` the look is to be repeated; none if it ended.
    fn due_in(&self, now: Duration) -> Option<Duration> {
        let pause = match self.urgency {
            Urgency::None => AGAIN * (1 << self.repeated),
            Urgency::Soon => SOON,
            Urgency::Now => NOW,
        };
        (!self.is_done).then(|| (self.at + pause).saturating_sub(now))
    }
}

/// What a look found.
pub struct Looked {
    /// What the volume would be based on from here on; none if that is the same as before.
    pub base: Option<Base>,
    /// Whether what is here lacks changes that the volume shows; then there is no other base.
    pub is_older: bool,
    /// The heads of all devices.
    pub heads: Heads,
    /// The newest generation of each device that local state has seen from here on.
    pub seen: Generations,
}

impl Follower {
    /// Looks on behalf of a volume that was opened with these options.
    pub fn new(options: &OpenOptions) -> Self {
        let beside = options.beside.as_ref().map(|beside| beside.state.clone());
        let (last, seen) = (Mutex::default(), Mutex::default());
        Self { wanted: options.wanted(), beside, last, seen }
    }

    /// Local state of this machine: that of the volume, or that beside it.
    pub(super) fn machine(&self, volume: &Volume) -> State {
        self.beside.clone().unwrap_or_else(|| volume.state())
    }

    /// This machine's device.
    pub fn device(&self, volume: &Volume) -> DeviceId {
        self.machine(volume).device
    }

    /// The time up to which states are shown, if that is not all of them: nothing new comes then.
    pub fn until(&self) -> Option<Timestamp> {
        self.wanted.until
    }

    /// Whether other heads of other devices are in REPO than at the last look, or that one is to
    /// be repeated. A look is not repeated at once if the database for whose end it waits is open again
    /// (`is_held`). Lists folders and reads no file.
    pub fn has_news(&self, volume: &Volume, is_held: bool) -> std::io::Result<bool> {
        let files = head_files(&*volume.world().repo, &volume.state().device)?;
        let now = volume.world().clock.elapsed();
        Ok(match &mut *self.last() {
            None => true,
            Some(last) if last.files != files => true,
            Some(last) => {
                last.seen = last.seen.map(|_| now);
                let is_due = last.due_in(now).is_some_and(|left| left.is_zero());
                if is_due && is_held && last.urgency == Urgency::Now {
                    // It goes on after all: the next end of it tells.
                    last.urgency = Urgency::None;
                    return Ok(false);
                }
                is_due
            }
        })
    }

    /// Waits until files appear in the folders of other devices, REPO gets one more folder, a look is
    /// to be repeated, or the alarm rings: what the last look waited for has happened then. Waits at
    /// most for `limit` and some seconds. `watch` is kept from one call to the next.
    pub fn wait(
        &self,
        volume: &Volume,
        watch: &mut Option<Box<dyn FolderWatch>>,
        limit: Duration,
        alarm: &Alarm,
    ) {
        let repo = &*volume.world().repo;
        let now = volume.world().clock.elapsed();
        let due = self.last().as_ref().and_then(|last| last.due_in(now));
        let limit = due.map_or(limit, |due| due.clamp(WAIT_MIN, limit));
        if watch.is_none() {
            *watch = repo.watch();
        }
        if let Some(watch) = watch {
            let folders = watched(repo, &volume.state().device).unwrap_or_default();
            if watch.wait(&folders, limit, alarm) {
                self.note(Urgency::Soon);
            }
        } else {
            alarm.wait(limit);
        }
        if alarm.has_rung() {
            self.look_now();
        }
    }

    /// Files appeared in REPO: a look that did not find all that it needs is repeated soon.
    pub fn note_arrivals(&self) {
        self.note(Urgency::Soon);
    }

    /// What the last look waited for has happened: if it did not end, it is repeated now.
    pub fn look_now(&self) {
        self.note(Urgency::Now);
    }

    fn note(&self, urgency: Urgency) {
        if let Some(last) = &mut *self.last() {
            last.urgency = last.urgency.max(urgency);
        }
    }

    /// The volume does not go on from what the last look found: it is repeated, and soon if told so.
    pub fn look_again(&self, soon: bool) {
        if let Some(last) = &mut *self.last() {
            (last.is_done, last.repeated) = (false, 0);
            let urgency = if soon { Urgency::Soon } else { Urgency::None };
            last.urgency = last.urgency.max(urgency);
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists what is in REPO now: a look begins.
    fn begin(&self, volume: &Volume) -> Result<Repository, VolumeError> {
        let (world, store, state) = (volume.world(), &*volume.store, volume.state());
        let files =
            head_files(&*world.repo, &state.device).map_err(|error| StoreError::io("", error))?;
        let at = world.clock.elapsed();
        let mut last = self.last();
        let before = last.as_ref().filter(|last| last.files == files);
        let repeated = before.map_or(0, |last| (last.repeated + 1).min(DOUBLINGS_MAX));
        let urgency = Urgency::None;
        *last = Some(Last { files, at, seen: None, urgency, repeated, is_done: false });
        drop(last);
        let repository = Repository::find(&*world.repo)?;
        if repository.repo != state.repo {
            return Err(VolumeError::Waiting("the folder of this repository".into()));
        }
        store.list_objects(&repository.devices())?;
        store.add_copies(&repository.copies);
        Ok(repository)
    }

    /// Reads the heads that are here now, and joins nothing.
    pub fn read(&self, volume: &Volume) -> Result<Heads, VolumeError> {
        let repository = self.begin(volume)?;
        let heads = &repository.heads;
        let (left_out, until) = (LeftOut::new(), self.wanted.until);
        let usable = Usable { with_nodes: true, left_out: &left_out, until };
        let loaded = read_heads(&volume.store, &repository, heads, usable);
        let plan = self.plan(volume, &repository, &loaded);
        self.end(volume, &repository, loaded, plan).map(|(heads, _)| heads)
    }

    /// Reads the heads that are here now, and joins them if the volume is not based on them.
    pub fn look(&self, volume: &Volume) -> Result<Looked, VolumeError> {
        let (store, own) = (&*volume.store, volume.state().device);
        let repository = self.begin(volume)?;
        let (shown, heads) = (volume.base(), &repository.heads);
        let seen_before = self.seen(store, shown.inherited.root);
        let joining = Joining { own: Some(&own), shown: Some(&shown), until: self.wanted.until };
        let decided = read_and_join(store, &repository, heads, joining, |loaded| {
            Ok(self.plan(volume, &repository, loaded))
        })?;
        let Decided { loaded, plan, joined } = decided;
        let base = match plan.verdict {
            Verdict::StandOn(Some(at)) if shown.heads() != [loaded.heads[at].0.hash] => {
                Some(based_on(store, &[&loaded.heads[at]])?)
            }
            Verdict::Join(_) => joined.map(|(base, _)| base),
            Verdict::StandOn(_) | Verdict::Replay | Verdict::Refuse(_) => None,
        };
        // A client may have taken a head away: what is shown stays, and does not grow older.
        let had_base = base.is_some();
        let base = base.filter(|base| {
            let seen = (seen_before, self.seen(store, base.inherited.root));
            let has_all = matches!(seen, (Some(before), Some(after)) if before.dots().all(|dot| after.covers(dot)));
            has_all || is_all_here(&shown.inherited.merged, &base.inherited.merged, &loaded)
        });
        let (heads, seen) = self.end(volume, &repository, loaded, plan)?;
        let is_older = had_base && base.is_none();
        Ok(Looked { base, is_older, heads, seen })
    }

    /// The changes in the namespace at a root; none if they cannot be read.
    fn seen(&self, store: &Store, root: Root) -> Option<Seen> {
        let mut kept = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, seen)) = kept.iter().find(|(of, _)| *of == root) {
            return Some(seen.clone());
        }
        let seen = join::seen(store, root).ok()?;
        if kept.len() == SEEN_MAX {
            kept.remove(0);
        }
        kept.push((root, seen.clone()));
        Some(seen)
    }

    fn plan(&self, volume: &Volume, repository: &Repository, loaded: &Loaded) -> Plan {
        let own = known(&volume.state(), &repository.heads, &[]);
        let beside = self.beside.as_ref().map(|state| known(state, &repository.heads, &[]));
        plan(&loaded.here, &own, beside.as_ref(), &self.wanted)
    }

    /// What a look found, if nothing keeps this device from going on from it. Heads that are on
    /// their way are looked for again.
    fn end(
        &self,
        volume: &Volume,
        repository: &Repository,
        mut loaded: Loaded,
        plan: Plan,
    ) -> Result<(Heads, Generations), VolumeError> {
        let Plan { verdict, behind, seen, newest, unusable, .. } = plan;
        if let Verdict::Refuse(refusal) = verdict {
            let published = volume.state().generation;
            return Err(tell::refused(refusal, loaded, repository, published));
        }
        let machine = self.machine(volume);
        let unusable = take_unusable(&mut loaded, &unusable, machine.device);
        if let Some(last) = &mut *self.last() {
            last.seen = Some(last.at);
            last.is_done =
                unusable.is_empty() && loaded.heads.iter().all(|(head, _)| head.complete);
        }
        let all = loaded.heads.into_iter().enumerate();
        let newest: Vec<DeviceHead> =
            all.filter(|(at, _)| newest.contains(at)).map(|(_, (head, _))| head).collect();
        let holders = holders(&volume.store, &repository.heads, &machine, &newest);
        Ok((Heads { newest, behind, unusable, holders }, seen))
    }

    /// How long ago it was seen that REPO has just those heads of other devices that are known
    /// here. None if they could not be read, or were not yet.
    pub fn age(&self, volume: &Volume) -> Option<Duration> {
        let now = volume.world().clock.elapsed();
        let seen = self.last().as_ref().and_then(|last| last.seen);
        seen.map(|seen| now.saturating_sub(seen))
    }
}

/// Whether of each head that is shown, or was merged into one that is, the device's changes are here: in
/// a head of the device that can be used, or in what is joined. The dots alone do not tell: a head without
/// news has those of its repairs, which every device makes of what it merged.
fn is_all_here(shown: &Processed, merged: &Processed, loaded: &Loaded) -> bool {
    shown.iter().all(|(device, generation)| {
        let is_it = |head: &DeviceHead| head.device == device && head.generation >= generation;
        merged.generation(&device) >= generation || loaded.heads.iter().any(|(head, _)| is_it(head))
    })
}

/// REPO's folder, and the folders into which all devices but `own` put files.
fn watched(repo: &dyn SyncedFolder, own: &DeviceId) -> std::io::Result<Vec<String>> {
    let mut folders = vec![String::new()];
    for device in repo.list("")? {
        if unhex::<16>(&device.name).is_none_or(|id| id == *own) {
            continue;
        }
        for folder in ["", "/head", "/obj"] {
            folders.push(format!("{}{folder}", device.name));
        }
        folders.extend((0..16).map(|digit| format!("{}/obj/{digit:x}", device.name)));
    }
    Ok(folders)
}

/// Paths and sizes of what lies in the folders of heads of all devices but `own`.
fn head_files(repo: &dyn SyncedFolder, own: &DeviceId) -> std::io::Result<BTreeSet<(String, u64)>> {
    let mut files = BTreeSet::new();
    for device in repo.list("")? {
        if unhex::<16>(&device.name).is_none_or(|id| id == *own) {
            continue;
        }
        let path = format!("{}/head", device.name);
        let listed = match repo.list(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            listed => listed?,
        };
        files.extend(listed.into_iter().map(|file| (format!("{path}/{}", file.name), file.size)));
    }
    Ok(files)
}
