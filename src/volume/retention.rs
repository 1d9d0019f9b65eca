//! Which states of the past stay, and what time it is for that.

use std::collections::HashSet;

use jiff::tz::TimeZone;

use crate::format::setting::Retention;
use crate::format::wire::{Decoder, Encoder, Result};
use crate::io::Timestamp;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// As many days a month has at most.
const MONTH: i64 = 31 * DAY;
/// How far the time goes on for which states are thinned out, each day on which the device runs.
const ADVANCE: i64 = 2 * DAY;

/// A state of the past that stays or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// When it was published, by the clock of its device.
    pub time: Timestamp,
    /// Whether its owner gave it a name.
    pub is_named: bool,
}

/// Which states of one device stay at the time `now`, of all in the order in which it published them:
/// those with a name, and the last one of each hour, day and month, in this zone, for as long as
/// `retention` says. The very last one stays in any case.
pub fn staying(
    states: &[Candidate],
    now: Timestamp,
    retention: &Retention,
    zone: &TimeZone,
) -> Vec<bool> {
    let count =
        |count: u64, unit: i64| i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(unit);
    let rules = [
        (count(retention.hours, HOUR), 3),
        (count(retention.days, DAY), 2),
        (count(retention.months, MONTH), 1),
    ];
    let mut seen = HashSet::new();
    let mut stays = vec![false; states.len()];
    for (at, state) in states.iter().enumerate().rev() {
        let age = now.secs.saturating_sub(state.time.secs);
        let period = period(state.time, zone);
        let mut is_last_of_one = false;
        for (limit, parts) in rules {
            let is_last = seen.insert((parts, period.map(|period| period[..parts].to_vec())));
            is_last_of_one |= is_last && age <= limit;
        }
        stays[at] = is_last_of_one || state.is_named || at + 1 == states.len();
    }
    stays
}

/// Month (counted from the year 0), day and hour of a time; none if it is no time of a calendar. The hour
/// that comes twice when summer time ends is two.
fn period(time: Timestamp, zone: &TimeZone) -> Option<[i32; 3]> {
    let timestamp = jiff::Timestamp::from_second(time.secs).ok()?;
    let (moment, offset) = (zone.to_datetime(timestamp), zone.to_offset(timestamp));
    let month = i32::from(moment.year()) * 12 + i32::from(moment.month());
    // An offset is less than a hundred hours.
    let hour = i32::from(moment.hour()) * 1_000_000 + offset.seconds();
    Some([month, i32::from(moment.day()), hour])
}

/// Days on which this device ran, whatever its clock did meanwhile, and what time it is for what
/// happens after days: no clock that jumps makes more than two days pass in one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DaySteps {
    /// How many there were.
    pub count: u64,
    /// What the clock showed at the last one, seconds.
    risen: i64,
    /// The latest time that was believed, seconds.
    believed: i64,
    /// The latest time that may be believed until the next step, seconds.
    limit: i64,
}

impl DaySteps {
    /// The clock shows this now. Returns the time that is believed: not later than the clock.
    pub fn advance(&mut self, clock: Timestamp) -> Timestamp {
        let now = clock.secs;
        let is_first = self.count == 0;
        if is_first {
            self.believed = now;
        }
        if is_first || now.abs_diff(self.risen) >= DAY.unsigned_abs() {
            (self.count, self.risen) = (self.count + 1, now);
            self.limit = self.believed.saturating_add(ADVANCE);
        }
        self.believed = self.believed.max(now.min(self.limit));
        if now <= self.believed { clock } else { Timestamp { secs: self.believed, nanos: 0 } }
    }

    /// Writes the four numbers.
    pub fn encode(&self, out: &mut Encoder) {
        out.var(self.count).signed(self.risen).signed(self.believed).signed(self.limit);
    }

    /// Reads what [`DaySteps::encode`] wrote.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Self> {
        Ok(Self {
            count: input.var()?,
            risen: input.signed()?,
            believed: input.signed()?,
            limit: input.signed()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-28 00:00:00 UTC.
    const MIDNIGHT: i64 = 1_795_824_000;

    fn at(secs: i64) -> Timestamp {
        Timestamp { secs, nanos: 0 }
    }

    /// Of states at these seconds, those that stay.
    fn left(times: &[i64], now: i64, retention: &Retention) -> Vec<i64> {
        let states: Vec<Candidate> =
            times.iter().map(|secs| Candidate { time: at(*secs), is_named: false }).collect();
        let stays = staying(&states, at(now), retention, &TimeZone::UTC);
        times.iter().zip(stays).filter(|(_, stays)| *stays).map(|(secs, _)| *secs).collect()
    }

    #[test]
    fn the_last_of_each_hour_day_and_month_stays() {
        let retention = Retention::new(24, 31, 120);
        let minutes: Vec<i64> = (0..3 * 24 * 60).map(|minute| MIDNIGHT + 60 * minute).collect();
        let now = *minutes.last().unwrap();
        let stay = left(&minutes, now, &retention);
        // Two ends of days, of the third day each hour's end; of the day before none is 24 hours old.
        let ends = |hour: i64| MIDNIGHT + hour * HOUR - 60;
        let expected: Vec<i64> = [24, 48].into_iter().chain(49..=72).map(ends).collect();
        assert_eq!(stay, expected);
        // A month later each day has one left, a year later the month.
        assert_eq!(left(&stay, now + 29 * DAY, &retention), [24, 48, 72].map(ends));
        assert_eq!(left(&stay, now + 300 * DAY, &retention).len(), 1);
        // November ends between them, and December is the last of all.
        assert_eq!(left(&[ends(24), ends(96)], now + 300 * DAY, &retention).len(), 2);
        assert_eq!(left(&[ends(24), ends(96)], now + 4000 * DAY, &retention), [ends(96)]);
    }

    #[test]
    fn the_hour_that_comes_twice_is_two() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        // 2026-10-25 00:30 and 01:30 UTC are both 02:30 in Berlin.
        let twice = [1_792_888_200, 1_792_891_800];
        let states = [twice[0], twice[0] + 60, twice[1], twice[1] + 60]
            .map(|secs| Candidate { time: at(secs), is_named: false });
        let retention = Retention::new(24, 0, 0);
        assert_eq!(
            staying(&states, at(twice[1] + 60), &retention, &zone),
            [false, true, false, true]
        );
    }

    #[test]
    fn thinned_twice_is_thinned_once() {
        let retention = Retention::new(5, 3, 2);
        let mut times: Vec<i64> = Vec::new();
        let mut all: Vec<i64> = Vec::new();
        for step in 0..4000 {
            let now = MIDNIGHT + step * 1733;
            times.push(now);
            all.push(now);
            times = left(&times, now, &retention);
        }
        assert_eq!(times, left(&all, *all.last().unwrap(), &retention));
        assert!(times.len() <= 5 + 1 + 3 + 1 + 2 + 1, "{}", times.len());
    }

    #[test]
    fn what_has_a_name_stays_and_the_last_one_always() {
        let none = Retention::new(0, 0, 0);
        let state = |secs, is_named| Candidate { time: at(secs), is_named };
        let states = [state(1, true), state(2, false), state(3, false)];
        assert_eq!(staying(&states, at(1 << 40), &none, &TimeZone::UTC), [true, false, true]);
        // Times that no calendar has are one period.
        let odd = [state(i64::MAX, false), state(i64::MIN, false), state(i64::MIN, false)];
        let all = Retention::new(u64::MAX, 0, 0);
        assert_eq!(staying(&odd, at(0), &all, &TimeZone::UTC), [false, false, true]);
    }

    #[test]
    fn a_clock_that_jumps_makes_two_days_pass_at_most() {
        let mut steps = DaySteps::default();
        assert_eq!(steps.advance(at(MIDNIGHT)), at(MIDNIGHT));
        assert_eq!(steps.count, 1);
        assert_eq!(steps.advance(at(MIDNIGHT + HOUR)), at(MIDNIGHT + HOUR));
        // Ten years ahead, and a day there.
        let far = MIDNIGHT + 3650 * DAY;
        let limit = MIDNIGHT + HOUR + ADVANCE;
        assert_eq!(steps.advance(at(far)).secs, limit);
        assert_eq!(steps.advance(at(far + DAY - 1)).secs, limit);
        assert_eq!(steps.count, 2);
        // It is set right: the time is what it shows, and nothing was lost of the day.
        assert_eq!(steps.advance(at(MIDNIGHT + 2 * HOUR)), at(MIDNIGHT + 2 * HOUR));
        // And one that is ten years behind is believed for as long as it is.
        assert_eq!(steps.advance(at(MIDNIGHT - 3650 * DAY)).secs, MIDNIGHT - 3650 * DAY);
        // Who was away for a month is back in time after as long.
        let mut steps = DaySteps::default();
        steps.advance(at(MIDNIGHT));
        let believed = (30..=60).map(|day| steps.advance(at(MIDNIGHT + day * DAY)));
        assert_eq!(believed.last().unwrap().secs, MIDNIGHT + 60 * DAY);
    }
}
