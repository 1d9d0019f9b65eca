//! The states of the past that a mount shows, and what their directories are called.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use jiff::tz::TimeZone;

use super::super::{Fs, FsError, NoLog, Options, Result};
use crate::format::setting::Retention;
use crate::io::Timestamp;
use crate::sync::{Follower, Past, Snapshot, Snapshots, thinned};
use crate::volume::VolumeError;
use crate::volume::repository::Repository;

/// How old the list of states may be.
const LIST_AGE: Duration = Duration::from_secs(1);
/// Most states of one second that have a position of their own in the list of the directory.
const POSITIONS: u64 = 1 << 10;
/// Positions before that of the first state.
const FIRST_POSITION: u64 = 3;
/// How many states stay open that nobody uses.
const KEPT_OPEN: usize = 4;

/// The repository as it was at a time.
pub(super) struct PastState {
    time: Timestamp,
    /// Of which heads it is made, as a number.
    heads: u64,
    /// Once somebody looked into it.
    opened: Mutex<Option<Arc<Fs>>>,
}

impl PastState {
    /// The state at a time that the heads with this digest show.
    pub(super) fn new(time: Timestamp, heads: u64) -> Self {
        Self { time, heads, opened: Mutex::default() }
    }

    /// When it was published.
    pub(super) fn time(&self) -> Timestamp {
        self.time
    }

    /// What tells it from other states.
    pub(super) fn key(&self) -> (Timestamp, u64) {
        (self.time, self.heads)
    }

    /// A file system that shows it and is only read. Looks for what it is made of once.
    pub(super) fn open(&self, present: &Fs, follower: &Follower) -> Result<Arc<Fs>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fs) = &*opened {
            return Ok(Arc::clone(fs));
        }
        let volume = present.volume();
        let past = find(present)
            .and_then(|repository| follower.past(volume, &repository, self.time))
            .map_err(|error| failed(present, error))?;
        let Past { base, behind, unusable, .. } = past;
        if let Some(head) = unusable.first() {
            return Err(present.store_failed(&head.error));
        }
        for behind in &behind {
            log::warn!("a state of the past is shown without what is not here: {behind}");
        }
        let options = Options { read_only: true, ..present.options };
        let fs = Fs::new(volume.of_past(base), Box::new(NoLog), options);
        let fs = Arc::new(fs.map_err(|error| present.store_failed(&error))?);
        *opened = Some(Arc::clone(&fs));
        Ok(fs)
    }
}

fn find(present: &Fs) -> std::result::Result<Repository, VolumeError> {
    Ok(Repository::find(&*present.volume().world().repo)?)
}

fn failed(present: &Fs, error: VolumeError) -> FsError {
    match error {
        VolumeError::Store(error) => present.store_failed(&error),
        error => {
            log::error!("the past cannot be shown: {error}");
            if matches!(error, VolumeError::Waiting(_)) { FsError::NotHere } else { FsError::Io }
        }
    }
}

/// A directory below that of all states.
#[derive(Clone)]
pub(super) struct Listed {
    /// What it is called.
    pub name: Vec<u8>,
    /// Its position in the list.
    pub cookie: u64,
    /// Whether it is in the list; it can be entered all the same.
    pub is_shown: bool,
    /// When it was published.
    pub time: Timestamp,
    heads: u64,
}

/// The states of a repository.
#[derive(Default)]
pub(super) struct States {
    snapshots: Snapshots,
    /// How many of them could not be read at the last look.
    unreadable: usize,
    /// By time, and when that was looked at.
    listed: Option<(Duration, Arc<Vec<Listed>>)>,
    in_use: Vec<Weak<PastState>>,
    /// Used last.
    recent: VecDeque<Arc<PastState>>,
}

impl States {
    /// All states, by time, as they were a second ago at most.
    pub(super) fn list(&mut self, present: &Fs) -> Result<Arc<Vec<Listed>>> {
        let volume = present.volume();
        let now = volume.world().clock.elapsed();
        if let Some((at, listed)) = &self.listed
            && now.saturating_sub(*at) < LIST_AGE
        {
            return Ok(Arc::clone(listed));
        }
        let repository = find(present).map_err(|error| failed(present, error))?;
        let (all, unreadable) = self.snapshots.list(volume, &repository);
        if unreadable != self.unreadable {
            log::warn!("{unreadable} states of the past cannot be read");
            self.unreadable = unreadable;
        }
        let retention = volume.tree().retention().unwrap_or_else(|error| {
            log::warn!("how long states of the past are kept is not known: {error}");
            Retention::default()
        });
        let shown = thinned(&all, volume.world().clock.now(), &retention);
        let listed = Arc::new(named(&all, &shown, &TimeZone::system()));
        self.listed = Some((now, Arc::clone(&listed)));
        Ok(listed)
    }

    /// The state of a directory.
    pub(super) fn state(&mut self, of: &Listed) -> Arc<PastState> {
        self.in_use.retain(|state| state.strong_count() > 0);
        let key = (of.time, of.heads);
        let known = self.in_use.iter().filter_map(Weak::upgrade).find(|state| state.key() == key);
        let state = known.unwrap_or_else(|| {
            let state = Arc::new(PastState::new(of.time, of.heads));
            self.in_use.push(Arc::downgrade(&state));
            state
        });
        self.recent.retain(|recent| recent.key() != key);
        self.recent.push_back(Arc::clone(&state));
        if self.recent.len() > KEPT_OPEN {
            self.recent.pop_front();
        }
        state
    }
}

/// What the directories of states are called that stand in the order of their times: each by its time
/// in this zone, to the second. A further one of the same name gets a number.
fn named(all: &[Snapshot], shown: &[Snapshot], zone: &TimeZone) -> Vec<Listed> {
    let shown: Vec<u64> = shown.iter().map(Snapshot::digest).collect();
    let mut named: Vec<Listed> = Vec::with_capacity(all.len());
    let (mut names, mut shown) = (HashMap::new(), shown.into_iter().peekable());
    let mut heads = 0;
    for snapshot in all {
        let digest = snapshot.digest();
        heads ^= digest;
        let is_shown = shown.next_if_eq(&digest).is_some();
        if let Some(last) = named.last_mut().filter(|last| last.time == snapshot.time) {
            // Two devices published at one moment: it is one state of both.
            (last.heads, last.is_shown) = (heads, last.is_shown || is_shown);
            continue;
        }
        let name = name_of(snapshot.time, zone);
        let count = names.entry(name.clone()).or_insert(0_u64);
        *count += 1;
        let name = if *count == 1 { name } else { format!("{name}_{count}") };
        let second = u64::try_from(snapshot.time.secs).unwrap_or(0);
        let mut cookie = FIRST_POSITION + second.saturating_mul(POSITIONS).min(1 << 62);
        if let Some(last) = named.last() {
            cookie = cookie.max(last.cookie + 1);
        }
        let (name, time) = (name.into_bytes(), snapshot.time);
        named.push(Listed { name, cookie, is_shown, time, heads });
    }
    named
}

/// A time as the name of a directory, without what shells and programs take for something else.
pub(super) fn name_of(time: Timestamp, zone: &TimeZone) -> String {
    jiff::Timestamp::from_second(time.secs).map_or_else(
        |_| format!("{}", time.secs),
        |moment| zone.to_datetime(moment).strftime("%Y-%m-%d_%H-%M-%S").to_string(),
    )
}
