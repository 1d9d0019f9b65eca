//! A volume's file system as the daemon's service: what it does by itself while it is
//! mounted, what it says of itself, and how it ends.
//!
//! Invariant: nothing acknowledged is only in memory for more than one second, or not on
//! stable storage for more than five.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::calls::{Call, NewRetention};
use super::note::NoteWriter;
use super::process::give_back_memory;
use super::run::TICK;
use super::service::{Handle, Service, Why};
use super::swept;
use super::upkeep::Upkeep;
use crate::control::{Answer, Exchange, Failure};
use crate::format::setting::Retention;
use crate::fs::{Followed, Fs, FsError, KeptState, Later, Progress, When, WithPast, is_scarce};
use crate::io::{Exit, FolderWatch, LocalState, Timestamp, byte_count, shown};
use crate::sync::{Follower, Snapshots};
use crate::volume::repository::Repository;
use crate::volume::{Owed, Portion, SweepPlan, Swept};

/// What is that old goes into the log at each tick.
const LOG_AGE: Duration = Duration::from_millis(400);
/// Ticks from one flush of the log to the next.
const FLUSH_TICKS: u64 = 9;
/// Ticks after which files of REPO that nobody read meanwhile are closed.
const IDLE_TICKS: u64 = 4;

/// How long after a head came its device is answered, if the device is new, asks for the answer, or
/// retired another one. No answer goes out earlier without being asked for here.
const ANSWER_SOON: Duration = Duration::from_secs(60);
/// How long after a head was made, or came, its device is answered in any case.
const ANSWER_LATER: Duration = Duration::from_secs(24 * 3600);
/// How often a mount that does not follow looks what other devices say.
const LOOK_PAUSE: Duration = Duration::from_secs(30);

// The rest of each second and of each five is for the work of a tick.
const _: () = assert!(LOG_AGE.as_millis() + TICK.as_millis() < 1000);
const _: () = assert!(FLUSH_TICKS as u128 * TICK.as_millis() < 5000);

/// A mounted file system, with what must live as long as it.
pub(crate) struct Mounted {
    fs: Arc<Fs>,
    /// What the kernel's requests are answered from: the file system, and its past below `.snapshots`.
    operations: Arc<WithPast>,
    /// Local state, locked; none of a mount that is only read.
    state: Option<LocalState>,
    /// Tells the vault at the end how far this device came.
    note: Option<Arc<NoteWriter>>,
    /// When checkpoints are made.
    when: When,
    read_only: bool,
    /// Looks for what other devices write.
    follower: Arc<Follower>,
    /// Whether what they write is shown while it is mounted.
    follows: bool,
    /// Reports of new files in REPO, once they were asked for.
    watch: Mutex<Option<Box<dyn FolderWatch>>>,
    /// Since when other devices wait for an answer of this one, by the clock that counts from the
    /// start; none if none waits.
    owed_since: Mutex<Option<Duration>>,
    /// Why what they wrote is not shown yet; empty if it is.
    following: Mutex<String>,
    /// What a sweep of this mount found at last.
    swept: Mutex<Option<serde_json::Value>>,
    /// Whether it sweeps by itself.
    sweeps: bool,
    upkeep: Upkeep,
    ticks: AtomicU64,
    handle: OnceLock<Handle>,
}

/// Whether it is time, at the wall clock's `now`, for an answer that this mount has owed for as long
/// as `waited`. A device whose clock is ahead gets it after a day.
fn is_answer_due(owed: Owed, waited: Duration, now: Timestamp) -> bool {
    let age = u64::try_from(now.secs.saturating_sub(owed.oldest.secs)).unwrap_or(0);
    let is_old = age >= ANSWER_LATER.as_secs() || waited >= ANSWER_LATER;
    waited >= ANSWER_SOON && (owed.is_soon || is_old)
}

impl Mounted {
    /// A file system that is ready to be mounted; without local state it is only read.
    pub(crate) fn new(
        fs: Arc<Fs>,
        state: Option<LocalState>,
        note: Option<Arc<NoteWriter>>,
        when: When,
        (follower, follows): (Follower, bool),
        sweeps: bool,
    ) -> Self {
        let read_only = state.is_none();
        let (ticks, handle) = (AtomicU64::new(0), OnceLock::new());
        let (following, owed_since, watch) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (swept, upkeep) = (Mutex::default(), Upkeep::new(&fs));
        let follower = Arc::new(follower);
        let operations = Arc::new(WithPast::new(Arc::clone(&fs), Arc::clone(&follower)));
        Self {
            fs,
            operations,
            state,
            note,
            when,
            read_only,
            follower,
            follows,
            watch,
            owed_since,
            following,
            swept,
            sweeps,
            upkeep,
            ticks,
            handle,
        }
    }

    /// Whether it is time to tell other devices that their changes are here.
    fn is_answer_due(&self) -> bool {
        let volume = self.fs.volume();
        let mut since = locked(&self.owed_since);
        let Some(owed) = volume.owed_answer().filter(|_| !self.read_only) else {
            *since = None;
            return false;
        };
        let now = volume.world().clock.elapsed();
        let waited = now.saturating_sub(*since.get_or_insert(now));
        is_answer_due(owed, waited, volume.world().clock.now())
    }

    /// Publishes what is acknowledged, and keeps that under a name that no state has.
    fn keep(&self, label: &str, exchange: &mut Exchange<'_>) -> Result<(), Failure> {
        let failed = |code, text: String| Failure { code, text };
        let volume = self.fs.volume();
        let repository = Repository::find(&*volume.world().repo)
            .map_err(|error| failed(Exit::Unusable, error.to_string()))?;
        if let (Some(state), _) = Snapshots::named(volume, &repository, label) {
            return Err(failed(Exit::Usage, state.has_name()));
        }
        let (generation, time) = self.fs.keep(label).map_err(|error| match error {
            FsError::Exists => {
                failed(Exit::Usage, format!("a state has the name {} already", shown(label)))
            }
            error => self.explain(error),
        })?;
        let sent = exchange.send(format!("{generation} {}", time.secs).as_bytes());
        sent.map_err(|error| failed(Exit::Other, error.to_string()))
    }

    /// Publishes what is acknowledged, and keeps a state no longer.
    fn remove_kept(&self, which: &KeptState, exchange: &mut Exchange<'_>) -> Result<(), Failure> {
        let (generation, time) = self.fs.remove_kept(which).map_err(|error| match error {
            FsError::NotFound => {
                Failure { code: Exit::Usage, text: "this device keeps no such state".into() }
            }
            error => self.explain(error),
        })?;
        let sent = exchange.send(format!("{generation} {}", time.secs).as_bytes());
        sent.map_err(|error| Failure { code: Exit::Other, text: error.to_string() })
    }

    /// Keeps states of the past for so long, and answers how long that is.
    fn retain(&self, new: NewRetention, exchange: &mut Exchange<'_>) -> Result<(), Failure> {
        let retention = self.fs.change_retention(|retention| new.apply(retention));
        let Retention { hours, days, months, .. } = retention.map_err(|error| {
            let text = format!("the policy was not changed: {error}");
            Failure { code: error.exit(), text }
        })?;
        let sent = exchange.send(format!("{hours} {days} {months}").as_bytes());
        sent.map_err(|error| Failure { code: Exit::Other, text: error.to_string() })
    }

    /// Gives back what nobody needs, or only says what that is, and answers with what came of it.
    fn sweep(&self, portion: Option<Portion>, exchange: &mut Exchange<'_>) -> Result<(), Failure> {
        let failed = |error: FsError| Failure { code: error.exit(), text: self.with_cause(error) };
        let told = |error: &dyn std::fmt::Display| Failure {
            code: Exit::Other,
            text: format!("what other devices wrote cannot be read: {error}"),
        };
        self.fs.read_heads(&self.follower, self.follows).map_err(|error| told(&error))?;
        let (plan, swept) = match portion {
            Some(portion) => self.fs.sweep(portion).map_err(failed)?,
            None => (self.fs.plan_sweep().map_err(failed)?, None),
        };
        let would_go = |portion| plan.doubts.is_empty() && !plan.is_too_much(portion);
        if swept.is_none() && portion.is_some_and(would_go) {
            return Err(Failure { code: Exit::Other, text: "the mount is going away".into() });
        }
        let report = self.note_swept(&plan, swept.as_ref());
        let sent = exchange.send(report.to_string().as_bytes());
        sent.map_err(|error| Failure { code: Exit::Other, text: error.to_string() })
    }

    /// What failed, and what the system answered then.
    fn with_cause(&self, error: FsError) -> String {
        match self.fs.take_cause() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        }
    }

    /// Notes for the status what a sweep found and did just now.
    fn note_swept(&self, plan: &SweepPlan, swept: Option<&Swept>) -> serde_json::Value {
        let volume = self.fs.volume();
        let report = swept::report(plan, swept, &volume.heads());
        let looked = volume.world().clock.now().secs;
        *locked(&self.swept) = Some(swept::summary(&report, looked));
        report
    }

    fn set_following(&self, text: String) {
        *locked(&self.following) = text;
    }

    /// Why not everything is in REPO, where what is not is, and what to do. What it
    /// says of local state was looked at just now.
    fn explain(&self, error: FsError) -> Failure {
        let fs = &self.fs;
        let code = error.exit();
        let kept = fs.flush_log().is_ok();
        let place = self.state.as_ref().map(|state| state.path.display().to_string());
        let text = unpublished(error, &fs.progress(), kept, &place.unwrap_or_default());
        Failure { code, text }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a failed checkpoint left outside of the repository. `kept` says whether local state, at `place`,
/// has it. The only line ends are those of the sentences here.
fn unpublished(error: FsError, progress: &Progress, kept: bool, place: &str) -> String {
    let trouble = progress.trouble.clone().unwrap_or_else(|| error.to_string());
    let (trouble, place) = (shown(&trouble), shown(place));
    let waiting = format!(
        "{} of data and {} changed names and attributes",
        byte_count(progress.waiting_bytes),
        progress.waiting_changes
    );
    let waits = progress.waiting_bytes > 0 || progress.waiting_changes > 0;
    match error {
        // The head is there, and what another device wrote, and was used again, is not.
        FsError::NotHere if kept && !waits => format!(
            "no change made here waits to enter the repository, but {trouble}. It may hold content of \
             files that were written here: they can be read once the sync client has brought it back"
        ),
        _ if kept && !waits => format!(
            "no new head is in the repository: {trouble}. No change made here waits for it. What \
             waits is that other devices are told what this one holds"
        ),
        _ if kept => format!(
            "not everything is in the repository: {trouble}. What is not ({waiting}) was written to \
             local state just now ({place}) and is still shown at the mountpoint. It enters the \
             repository by itself once that can be written, or after the next mount.\n  To leave the \
             mount now all the same: umount(8) or fusermount3 -u, which leaves those changes in \
             local state only"
        ),
        _ => format!(
            "not everything is in the repository: {trouble}. LOCAL STATE FAILED TOO ({place}): what is \
             not in the repository ({waiting}) is in the memory of this mount only. Copy out what \
             you need before you unmount"
        ),
    }
}

impl Service for Mounted {
    type Operations = WithPast;

    fn operations(&self) -> Arc<WithPast> {
        Arc::clone(&self.operations)
    }

    fn started(&self, handle: Handle) {
        let _ = self.handle.set(handle);
    }

    fn tick(&self) -> bool {
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed);
        let fs = &self.fs;
        let flush = ticks.is_multiple_of(FLUSH_TICKS);
        // A failure is logged where it happens, and answered to every writer.
        let _ = if flush { fs.flush_log() } else { fs.write_log(LOG_AGE) };
        if !ticks.is_multiple_of(2) {
            return false;
        }
        if ticks.is_multiple_of(IDLE_TICKS) {
            fs.volume().close_idle();
        }
        // Of local state only: this thread writes the journal, and must not wait
        // for a REPO that hangs.
        let local = fs.volume().world().state.as_ref().map(|state| state.space());
        if let (Some(handle), Some(Ok(space))) = (self.handle.get(), local) {
            handle.set_direct_writes(is_scarce(space.free));
        }
        fs.is_due(&self.when) || (fs.may_checkpoint() && self.is_answer_due())
    }

    fn tell_kernel(&self) {
        if let (Some(handle), Some(untold)) = (self.handle.get(), self.fs.take_untold()) {
            handle.forget(&untold);
        }
    }

    fn wait_for_news(&self, limit: Duration) {
        if !self.follows {
            return std::thread::sleep(limit);
        }
        let mut watch = locked(&self.watch);
        self.follower.wait(self.fs.volume(), &mut watch, limit, self.fs.alarm());
    }

    fn has_news(&self) -> bool {
        let volume = self.fs.volume();
        if self.follower.until().is_some() {
            return false;
        }
        if !self.follows && self.follower.age(volume).is_some_and(|age| age < LOOK_PAUSE) {
            return false;
        }
        let is_held = self.fs.held_following() == Some(true);
        let has_news = self.follower.has_news(volume, is_held).unwrap_or_else(|error| {
            log::debug!("the folders of heads cannot be listed: {error}");
            false
        });
        if self.follows || !has_news {
            return has_news;
        }
        if let Err(error) = self.fs.read_heads(&self.follower, self.follows) {
            log::warn!("what other devices wrote cannot be read: {error}");
        }
        false
    }

    fn follow(&self) {
        match self.fs.follow(&self.follower) {
            Ok(Followed::Nothing) => self.set_following(String::new()),
            Ok(Followed::Changed(changed)) => {
                let count = changed.names.len();
                log::info!("other devices' changes are shown: {count} names");
                if let Some(handle) = self.handle.get() {
                    handle.forget(&changed);
                }
                self.set_following(String::new());
            }
            Ok(Followed::Later(later)) => {
                let why = match later {
                    Later::Busy => {
                        "programs write here just now: what other devices wrote is shown \
                                    in some seconds"
                            .into()
                    }
                    Later::Unpublished => "what was written here is not all in REPO: what other \
                                           devices wrote is shown once it is"
                        .into(),
                    Later::Older => "the heads that are here lack changes that are shown: one of them was \
                                     taken away, or is not here yet. What other devices wrote is shown \
                                     once it is here"
                        .into(),
                    Later::Database(name) => format!(
                        "another device changed {}, which is open here and belongs to a database: \
                         what other devices wrote is shown once it is closed",
                        shown(&String::from_utf8_lossy(&name))
                    ),
                };
                self.set_following(why);
            }
            Err(error) => {
                log::warn!("what other devices wrote cannot be shown: {error}");
                self.set_following(format!("what other devices wrote cannot be shown: {error}"));
            }
        }
    }

    fn maintain(&self) {
        if self.read_only || !self.sweeps || !self.upkeep.is_due(&self.fs) {
            return;
        }
        self.upkeep.note_try(&self.fs);
        let looked = self.fs.read_heads(&self.follower, self.follows);
        let looked = looked.map_err(|error| error.to_string());
        let swept = looked
            .and_then(|()| self.fs.sweep(Portion::Fifth).map_err(|error| self.with_cause(error)));
        match swept {
            Ok((plan, swept)) => {
                let report = self.note_swept(&plan, swept.as_ref());
                log::info!("a sweep: {report}");
            }
            Err(why) => log::warn!("what nobody needs is not given back: {why}"),
        }
        give_back_memory();
    }

    fn checkpoint(&self, why: Why) -> Result<(), Failure> {
        if self.read_only {
            return Ok(());
        }
        log::debug!("checkpoint: {why:?}");
        let answers = match why {
            Why::Due => self.is_answer_due(),
            Why::Asked | Why::Unmount => self.fs.volume().owed_answer().is_some(),
        };
        let made = self.fs.checkpoint_and_answer(answers);
        made.map(drop).map_err(|error| self.explain(error))
    }

    fn status(&self) -> Vec<u8> {
        let fs = &self.fs;
        let progress = fs.progress();
        let volume = fs.volume();
        let (base, state, heads) = (volume.base(), volume.state(), volume.heads());
        let machine = self.follower.device(volume);
        let others = || heads.newest.iter().filter(|head| head.device != machine);
        let waits = progress.waiting_changes > 0 || progress.waiting_bytes > 0;
        let elsewhere: Vec<serde_json::Value> = heads
            .holders
            .iter()
            .map(|holder| {
                serde_json::json!({
                    "name": holder.name,
                    "id": crate::crypto::hex(&holder.device),
                    "generation": holder.generation,
                    "time": holder.time.map(|time| time.secs),
                    "all": !self.read_only && !waits && holder.generation >= state.news,
                })
            })
            .collect();
        // The newest state may be another device's, and no head this one's own.
        let own = if base.commit.device == state.device {
            Some(&base.commit)
        } else {
            heads.newest.iter().find(|head| head.device == state.device).map(|head| &head.commit)
        };
        let own = own.filter(|commit| commit.generation > 0);
        let newest = Some(&base.commit).filter(|commit| commit.generation > 0);
        serde_json::json!({
            "waiting_bytes": progress.waiting_bytes,
            "waiting_changes": progress.waiting_changes,
            "inodes": progress.inodes,
            "bytes": progress.bytes,
            "generation": state.generation,
            "read_only": self.read_only,
            "until": self.follower.until().map(|until| until.secs),
            "news": state.news,
            "looked": self.follower.age(volume).map(|age| age.as_secs()),
            "time": own.map(|commit| commit.time.secs),
            "newest": newest.map(|commit| serde_json::json!({
                "name": commit.device_name,
                "generation": commit.generation,
                "time": commit.time.secs,
            })),
            "others": others().count(),
            "elsewhere": elsewhere,
            "behind": heads.behind.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "unusable": heads.unusable.iter().map(|head| head.error.to_string()).collect::<Vec<_>>(),
            "following": Some(locked(&self.following).clone())
                .filter(|text| !text.is_empty()),
            "given_back": *locked(&self.swept),
            "trouble": progress.trouble,
            "failed": progress.failed,
        })
        .to_string()
        .into_bytes()
    }

    fn call(&self, request: &[u8], exchange: &mut Exchange<'_>) -> Answer {
        let failed = |code, text: String| Answer::Failed(Failure { code, text });
        let Ok(call) = Call::decode(request) else {
            return failed(Exit::Other, "this mount does not know that command".into());
        };
        if self.read_only {
            return failed(Exit::Usage, "it is mounted read-only".into());
        }
        let done = match call {
            Call::Ask => {
                self.fs.volume().ask();
                Ok(())
            }
            Call::Keep(label) => self.keep(&label, exchange),
            Call::Retention(new) => self.retain(new, exchange),
            Call::Remove(which) => self.remove_kept(&which, exchange),
            Call::Sweep(portion) => self.sweep(portion, exchange),
        };
        done.map_or_else(Answer::Failed, |()| Answer::Done)
    }

    fn close(&self) -> Result<(), Failure> {
        if let Some(state) = &self.state {
            state.is_ending();
        }
        self.fs.end_sweeps();
        let outcome = self.checkpoint(Why::Unmount);
        if let Some(note) = &self.note {
            Arc::clone(note).write(self.fs.volume());
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_soon_if_somebody_asks_and_else_after_a_day() {
        const HOUR: u64 = 3600;
        let now = Timestamp { secs: 1_000_000, nanos: 0 };
        for (is_soon, made_before, waited, is_due) in [
            (true, 0, 59, false),
            (true, 0, 60, true),
            (false, 0, 60, false),
            (false, 0, 24 * HOUR - 1, false),
            (false, 0, 24 * HOUR, true),
            // Made a day ago, it has come just now: a mount for some minutes answers it.
            (false, 24 * 3600, 59, false),
            (false, 24 * 3600, 60, true),
            // A device whose clock is ahead made it.
            (false, -9_000_000, 60, false),
            (false, -9_000_000, 24 * HOUR, true),
        ] {
            let oldest = Timestamp { secs: now.secs - made_before, nanos: 0 };
            let found = is_answer_due(Owed { is_soon, oldest }, Duration::from_secs(waited), now);
            assert_eq!(found, is_due, "{is_soon} {made_before} {waited}");
        }
    }
    #[test]
    fn what_failed_is_said_and_no_more() {
        let text = |error, bytes, changes, kept| {
            let progress = Progress {
                waiting_bytes: bytes,
                waiting_changes: changes,
                trouble: Some("X".into()),
                ..Progress::default()
            };
            unpublished(error, &progress, kept, "STATE")
        };
        let waits = text(FsError::NoSpace, 3, 1, true);
        assert!(
            waits.starts_with("not everything is in the repository: X. What is not (3 B of data")
        );
        assert!(waits.contains("(STATE)") && waits.contains("umount(8)"), "{waits}");
        // The head is published; an object of another device is gone.
        let gone = text(FsError::NotHere, 0, 0, true);
        assert!(
            gone.starts_with("no change made here waits to enter the repository, but X."),
            "{gone}"
        );
        let answer = text(FsError::NoSpace, 0, 0, true);
        assert!(answer.starts_with("no new head is in the repository: X."), "{answer}");
        assert!(![gone, answer].iter().any(|text| text.contains("0 B")));
        let lost = text(FsError::Io, 0, 0, false);
        assert!(lost.contains("LOCAL STATE FAILED TOO (STATE)"), "{lost}");
    }
}
