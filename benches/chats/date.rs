//! The simulated calendar. Nothing in the generator reads the clock.
//!
//! Days are counted from day 0 of the backups; negative ones lie in the history before it.

use std::time::{Duration, SystemTime};

/// Day 0, Monday 2025-06-02, in days since 1970-01-01.
const DAY_0: i64 = 20241;

/// Seconds of a day.
pub const SECONDS: i64 = 86_400;

/// Every day of a chat starts at seven in the morning, UTC, and is this many seconds long.
pub const AWAKE: i64 = 16 * 3600;
const MORNING: i64 = 7 * 3600;

/// When the backup of a day is made: two at night, as the chat programs do.
pub const BACKUP_HOUR: i64 = 2 * 3600;

/// Seconds since 1970 at `second` after midnight of `day`.
pub fn unix(day: i64, second: i64) -> i64 {
    (DAY_0 + day) * SECONDS + second
}

/// Seconds since 1970 at `second` of the waking hours of `day`.
pub fn awake(day: i64, second: i64) -> i64 {
    unix(day, MORNING + second)
}

/// The same as a file time.
pub fn system_time(unix: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(unix as u64)
}

/// A calendar date.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// The year of the Gregorian calendar.
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
    /// The week of the year as voice note folders count it: seven days each from 1 January.
    pub week: i64,
}

impl Date {
    /// The date of a simulated day.
    pub fn of(day: i64) -> Self {
        let mut rest = DAY_0 + day;
        let mut year = 1970;
        while rest >= days_in(year) {
            rest -= days_in(year);
            year += 1;
        }
        let week = rest / 7 + 1;
        let february = days_in(year) - 337;
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if rest < length {
                break;
            }
            rest -= length;
            month += 1;
        }
        Self { year, month, day: rest + 1, week }
    }

    /// `YYYY-MM-DD`.
    pub fn dashed(self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    /// `YYYYMMDD`.
    pub fn plain(self) -> String {
        format!("{:04}{:02}{:02}", self.year, self.month, self.day)
    }
}

/// `HH`, `MM` and `SS` of a time since 1970, with `between` between them.
pub fn clock(unix: i64, between: char) -> String {
    let second = unix.rem_euclid(SECONDS);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{hour:02}{between}{minute:02}{between}{:02}", second % 60)
}

fn days_in(year: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if leap { 366 } else { 365 }
}
