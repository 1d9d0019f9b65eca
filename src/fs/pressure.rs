//! When memory and the log need room: all thresholds of the file system, and what is done at
//! each.
//!
//! Invariant: every decision follows from [`Amounts`] alone. No other file compares an amount
//! with a threshold.

use std::time::Duration;

/// A write of fewer bytes is logged at once, and a file with fewer bytes of changes is left to
/// a checkpoint.
const LARGE: u64 = 64 << 10;
/// Bytes of changes in one file after which they are chunked at once.
pub(super) const CHUNK_FILE_AT: u64 = 8 << 20;
/// Bytes of changes in files that were written and closed after which they are chunked, the
/// first first. Below, they may still be written anew, or removed, and cost nothing then.
const CHUNK_CLOSED_AT: u64 = 8 << 20;
/// Bytes of changes in memory after which the writer chunks them all
/// itself, so that memory stays bounded.
const DIRTY_MAX: u64 = 96 << 20;
/// Bytes of changes in memory at which a write fails that could not chunk them.
const DIRTY_LIMIT: u64 = 2 * DIRTY_MAX;
/// Bytes in the queue at which a writer waits for room in it.
pub(super) const QUEUE_MAX: u64 = 64 << 20;
/// Bytes in the queue from which a checkpoint lets them bypass the log first.
const CHUNK_BEFORE_FREEZE_AT: u64 = 16 << 20;
/// Bytes of new chunks that may wait for an object when a checkpoint freezes.
pub(super) const STAGED_AT_FREEZE: usize = CHUNK_BEFORE_FREEZE_AT as usize / 2;
/// Bytes of the log after which the next operation makes a checkpoint first.
const LOG_MAX: u64 = 256 << 20;
/// Bytes of the log at which a checkpoint is due, so that no operation has to make one.
const LOG_DUE_AT: u64 = LOG_MAX / 2;
/// Bytes that bypassed the log, into objects, after which a checkpoint is due: a
/// crash has them read again.
const BYPASSED_MAX: u64 = 1 << 30;
/// Changes of names and attributes in memory at which a checkpoint is due.
const EDITS_MAX: usize = 32_000;
/// After so long without a change the next one is published as soon as the first.
const CALM: Duration = Duration::from_secs(3600);
/// With less room than this for local state, files opened for writing bypass the kernel's
/// cache, so that write(2) itself is told that there is no more. In bytes.
const LOW_WATER: u64 = 256 << 20;

/// What was measured. Whoever asks sets what the question is about; the rest is zero, which
/// asks for nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Amounts {
    /// Bytes of data in the layers of all files.
    pub dirty: u64,
    /// Bytes of changes in the file that is written, if they lie in long stretches.
    pub in_file: u64,
    /// Bytes of changes in files that were written and closed.
    pub closed: u64,
    /// Bytes in the queue before the log.
    pub queued: u64,
    /// Bytes that records of the log take which no head contains.
    pub logged: u64,
    /// Bytes that bypassed the log since the last freeze.
    pub bypassed: u64,
    /// Bytes of new chunks, and of objects that no head names.
    pub new: u64,
    /// Changed names and inodes since the last freeze.
    pub edits: usize,
}

/// What a caller has to do so that there is room again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relief {
    /// Nothing: there is room.
    Go,
    /// The file that was asked about is chunked, or the first that was closed; before a
    /// freeze, all large ones.
    Chunk,
    /// Chunks must be made of the changes of all files.
    ChunkAll,
    /// The queue must get room.
    Wait,
    /// A checkpoint must be made.
    Checkpoint,
}

fn at(is_reached: bool, relief: Relief) -> Relief {
    if is_reached { relief } else { Relief::Go }
}

impl Amounts {
    /// Before any change, by `logged` and `queued`: the log must not fill up with records
    /// that a head could hold.
    pub(super) fn before_change(&self) -> Relief {
        at(self.logged + self.queued >= LOG_MAX, Relief::Checkpoint)
    }

    /// Whether a write has to wait until chunks or a head are in REPO, by `dirty`, `queued`
    /// and `logged`.
    pub(super) fn is_congested(&self) -> bool {
        let full = Self { in_file: 0, ..*self };
        [self.before_change(), full.of_memory(), self.of_queue()] != [Relief::Go; 3]
    }

    /// At a write, by `dirty` as it was before and `in_file` as it is then.
    pub(super) fn of_memory(&self) -> Relief {
        if self.dirty >= DIRTY_MAX {
            Relief::ChunkAll
        } else {
            at(self.in_file >= CHUNK_FILE_AT, Relief::Chunk)
        }
    }

    /// Whether a write whose changes could not be chunked fails with that error, by `dirty`. Below,
    /// chunking is tried again with the next write.
    pub(super) fn is_exhausted(&self) -> bool {
        self.dirty >= DIRTY_LIMIT
    }

    /// Before a record enters the queue, by `queued`.
    pub(super) fn of_queue(&self) -> Relief {
        at(self.queued >= QUEUE_MAX, Relief::Wait)
    }

    /// When a file was closed, by `closed`.
    pub(super) fn of_closed(&self) -> Relief {
        at(self.closed >= CHUNK_CLOSED_AT, Relief::Chunk)
    }

    /// Before a checkpoint freezes, by `queued`.
    pub(super) fn before_freeze(&self) -> Relief {
        at(self.queued >= CHUNK_BEFORE_FREEZE_AT, Relief::Chunk)
    }

    /// Whether a checkpoint is due `since` the first and the last change, by `new`, `edits`,
    /// `logged` and `bypassed`.
    pub(super) fn with_time(&self, when: &When, pace: Pace, since: (Duration, Duration)) -> Relief {
        let (first, last) = since;
        let is_due = last >= pace.quiet(when)
            || first >= when.latest
            || self.new >= when.bytes
            || self.edits >= EDITS_MAX
            || self.logged >= LOG_DUE_AT
            || self.bypassed >= BYPASSED_MAX;
        at(is_due, Relief::Checkpoint)
    }
}

/// When a checkpoint is due.
#[derive(Clone, Copy, Debug)]
pub struct When {
    /// This long after the last change.
    pub quiet: Duration,
    /// This long after the first change.
    pub latest: Duration,
    /// When this many bytes wait.
    pub bytes: u64,
    /// Whether the quiet time grows up to the latest while changes keep coming.
    pub backs_off: bool,
}

/// How many checkpoints were made since changes began to come: each is a file more in REPO, so that the
/// next one waits longer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    made: u32,
    /// When the last change was made, by the clock that counts from the start.
    last: Option<Duration>,
}

impl Pace {
    /// A change is made at `now`.
    pub(super) fn note_change(&mut self, now: Duration) {
        if self.last.is_none_or(|last| now.saturating_sub(last) >= CALM) {
            self.made = 0;
        }
        self.last = Some(now);
    }

    /// A checkpoint made a head.
    pub(super) fn note_checkpoint(&mut self) {
        self.made = self.made.saturating_add(1);
    }

    /// How long after the last change a checkpoint is due.
    fn quiet(&self, when: &When) -> Duration {
        if !when.backs_off {
            return when.quiet;
        }
        let grown = when.quiet.saturating_mul(1 << self.made.min(16));
        grown.min(when.latest.max(when.quiet))
    }
}

impl Default for When {
    fn default() -> Self {
        let (quiet, latest) = (Duration::from_secs(30), Duration::from_secs(600));
        Self { quiet, latest, bytes: 64 << 20, backs_off: true }
    }
}

/// How much of a file's changes is worth chunking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Least {
    /// Even a change without a byte of data: a test decides itself when a file is flushed.
    #[cfg(test)]
    Nothing,
    /// One changed byte, or more.
    Anything,
    /// As many bytes as a large write has.
    Large,
    /// As many bytes as the changes of a file may have before they are chunked.
    Full,
}

impl Least {
    /// Whether `bytes` of changes are that much.
    pub(super) fn is_met(self, bytes: u64) -> bool {
        let least = match self {
            #[cfg(test)]
            Self::Nothing => 0,
            Self::Anything => 1,
            Self::Large => LARGE,
            Self::Full => CHUNK_FILE_AT,
        };
        bytes >= least
    }
}

/// Whether a write of `bytes` waits in the queue, since its chunks may enter REPO before the
/// log has to have it.
pub(super) fn is_large(bytes: usize) -> bool {
    Least::Large.is_met(bytes as u64)
}

/// Whether so few bytes are free for local state that write(2) itself has to be told when
/// there are no more.
pub fn is_scarce(free: u64) -> bool {
    free < LOW_WATER
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const NONE: Amounts = Amounts {
        dirty: 0,
        in_file: 0,
        closed: 0,
        queued: 0,
        logged: 0,
        bypassed: 0,
        new: 0,
        edits: 0,
    };

    type Question = fn(&Amounts) -> Relief;
    type Setting = fn(u64) -> Amounts;

    /// Every threshold: what is asked, of which amount, and the answers below, at and above it.
    const TABLE: [(&str, Question, Setting, u64, Relief, Relief); 15] = [
        (
            "log",
            Amounts::before_change,
            |n| Amounts { logged: n, ..NONE },
            256 * MIB,
            Relief::Go,
            Relief::Checkpoint,
        ),
        (
            "log with a queue",
            Amounts::before_change,
            |n| Amounts { logged: n, queued: 60 * MIB, ..NONE },
            196 * MIB,
            Relief::Go,
            Relief::Checkpoint,
        ),
        (
            "memory",
            Amounts::of_memory,
            |n| Amounts { dirty: n, ..NONE },
            96 * MIB,
            Relief::Go,
            Relief::ChunkAll,
        ),
        (
            "one file",
            Amounts::of_memory,
            |n| Amounts { in_file: n, ..NONE },
            8 * MIB,
            Relief::Go,
            Relief::Chunk,
        ),
        (
            "memory, with a full file",
            Amounts::of_memory,
            |n| Amounts { dirty: n, in_file: 9 * MIB, ..NONE },
            96 * MIB,
            Relief::Chunk,
            Relief::ChunkAll,
        ),
        (
            "queue",
            Amounts::of_queue,
            |n| Amounts { queued: n, ..NONE },
            64 * MIB,
            Relief::Go,
            Relief::Wait,
        ),
        (
            "closed files",
            Amounts::of_closed,
            |n| Amounts { closed: n, ..NONE },
            8 * MIB,
            Relief::Go,
            Relief::Chunk,
        ),
        (
            "freeze",
            Amounts::before_freeze,
            |n| Amounts { queued: n, ..NONE },
            16 * MIB,
            Relief::Go,
            Relief::Chunk,
        ),
        (
            "new bytes",
            due,
            |n| Amounts { new: n, ..NONE },
            64 * MIB,
            Relief::Go,
            Relief::Checkpoint,
        ),
        (
            "edits",
            due,
            |n| Amounts { edits: n as usize, ..NONE },
            32_000,
            Relief::Go,
            Relief::Checkpoint,
        ),
        (
            "half a log",
            due,
            |n| Amounts { logged: n, ..NONE },
            128 * MIB,
            Relief::Go,
            Relief::Checkpoint,
        ),
        (
            "bypassed",
            due,
            |n| Amounts { bypassed: n, ..NONE },
            1024 * MIB,
            Relief::Go,
            Relief::Checkpoint,
        ),
        (
            "congested memory",
            congested,
            |n| Amounts { dirty: n, ..NONE },
            96 * MIB,
            Relief::Go,
            Relief::Wait,
        ),
        (
            "congested queue",
            congested,
            |n| Amounts { queued: n, ..NONE },
            64 * MIB,
            Relief::Go,
            Relief::Wait,
        ),
        (
            "congested log",
            congested,
            |n| Amounts { logged: n, ..NONE },
            256 * MIB,
            Relief::Go,
            Relief::Wait,
        ),
    ];

    fn due(amounts: &Amounts) -> Relief {
        amounts.with_time(&When::default(), Pace::default(), (Duration::ZERO, Duration::ZERO))
    }

    fn congested(amounts: &Amounts) -> Relief {
        at(amounts.is_congested(), Relief::Wait)
    }

    #[test]
    fn each_threshold_is_reached_at_its_number_and_not_below() {
        for (name, ask, amounts, threshold, below, reached) in TABLE {
            for (number, expected) in
                [(0, below), (threshold - 1, below), (threshold, reached), (threshold + 1, reached)]
            {
                assert_eq!(ask(&amounts(number)), expected, "{name}: {number}");
            }
        }
    }

    /// One file with much in it is chunked by whoever writes it, who holds nobody up.
    #[test]
    fn other_amounts_congest_nothing() {
        let much = 1 << 40;
        let others = Amounts {
            in_file: much,
            closed: much,
            bypassed: much,
            new: much,
            edits: 1 << 30,
            ..NONE
        };
        assert!(!others.is_congested());
        let nearly = Amounts { dirty: 96 * MIB - 1, queued: 64 * MIB - 1, ..others };
        assert!(!Amounts { logged: 192 * MIB, ..nearly }.is_congested());
        assert!(Amounts { logged: 192 * MIB + 1, ..nearly }.is_congested());
    }

    #[test]
    fn a_checkpoint_is_due_by_time() {
        let when = When::default();
        let secs = Duration::from_secs;
        for (first, last, is_due) in [
            (29, 29, false),
            (30, 30, true),
            (31, 31, true),
            (599, 0, false),
            (600, 0, true),
            (601, 0, true),
        ] {
            let relief = NONE.with_time(&when, Pace::default(), (secs(first), secs(last)));
            assert_eq!(relief, at(is_due, Relief::Checkpoint), "{first} s and {last} s");
        }
    }

    /// Checkpoints in this many seconds if something is written at each of these pauses, and the longest
    /// time from a change to the checkpoint that has it.
    fn play(when: &When, seconds: u64, pauses: impl Fn(u64) -> u64) -> (u32, u64) {
        let (mut pace, mut changed) = (Pace::default(), None::<(u64, u64)>);
        let (mut made, mut longest, mut next) = (0, 0, 0);
        for now in 0..seconds {
            if now == next {
                pace.note_change(Duration::from_secs(now));
                changed = Some((changed.map_or(now, |(first, _)| first), now));
                next = now + pauses(now);
            }
            let Some((first, last)) = changed else { continue };
            let since = (Duration::from_secs(now - first), Duration::from_secs(now - last));
            if NONE.with_time(when, pace, since) == Relief::Checkpoint {
                pace.note_checkpoint();
                (made, longest) = (made + 1, longest.max(now - first));
                changed = None;
            }
        }
        (made, longest)
    }

    #[test]
    fn small_changes_make_at_most_150_checkpoints_a_day_and_none_waits_for_more_than_ten_minutes() {
        const DAY: u64 = 24 * 3600;
        let when = When::default();
        for pause in [1, 10, 29, 31, 60, 61, 120, 300, 599, 601, 900, 3599, 3600, 3601] {
            let (made, longest) = play(&when, DAY, |_| pause);
            assert!(made <= 150 && longest <= 600, "every {pause} s: {made}, {longest} s");
        }
        // An hour of messages, and an hour of calm.
        let (made, _) = play(&when, DAY, |now| if now / 3600 % 2 == 0 { 45 } else { 3700 });
        assert!(made <= 150, "{made}");
        // The first change after calm is out after 30 seconds.
        assert_eq!(play(&when, 3 * 3600, |_| 3600), (3, 30));
        // Who says when has it so.
        let fixed = When { backs_off: false, ..when };
        assert_eq!(play(&fixed, DAY, |_| 60).0, 1440);
    }

    #[test]
    fn a_write_fails_at_twice_the_memory() {
        for (dirty, fails) in
            [(0, false), (192 * MIB - 1, false), (192 * MIB, true), (192 * MIB + 1, true)]
        {
            assert_eq!(Amounts { dirty, ..NONE }.is_exhausted(), fails, "{dirty}");
        }
    }

    #[test]
    fn sizes_of_writes_and_files_have_limits() {
        for (least, limit) in
            [(Least::Anything, 1), (Least::Large, 64 << 10), (Least::Full, 8 * MIB)]
        {
            assert!(!least.is_met(limit - 1) && least.is_met(limit) && least.is_met(limit + 1));
        }
        assert!(!is_large((64 << 10) - 1) && is_large(64 << 10) && is_large((64 << 10) + 1));
        assert_eq!(STAGED_AT_FREEZE, 8 << 20);
    }

    #[test]
    fn little_room_is_less_than_the_water_mark() {
        assert!(is_scarce(0) && is_scarce(256 * MIB - 1));
        assert!(!is_scarce(256 * MIB) && !is_scarce(256 * MIB + 1));
    }
}
