//! Times in the past, as people write them, and names of states.

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::{Span, ZonedDateTime};

use super::snapshots::label;
use crate::io::Timestamp;

/// Which state of the past is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The newest at this time.
    Time(Timestamp),
    /// The one that has this name.
    Named(String),
}

/// What a time may look like.
pub const EXAMPLES: &str = "a time looks like '2026-11-28 14:00', 2026-11-28, 14:00, yesterday, 'last tuesday 9:30', \
                        '3 days ago' or 2026-11-28T14:00:00Z";

/// The last moment that a text means, in the zone of this machine: of a second its end, of a day
/// alone the end of that day, of today now. A day of the week is the last one before today.
///
/// What is no time is the name of a state.
pub fn parse(text: &str) -> Result<Moment, String> {
    match parse_at(text, &ZonedDateTime::now()) {
        Err(why) if why == EXAMPLES => label(text).map(Moment::Named).map_err(|_| why),
        time => time.map(Moment::Time),
    }
}

fn parse_at(text: &str, now: &ZonedDateTime) -> Result<Timestamp, String> {
    let moment = moment(text.trim(), now).ok_or_else(|| EXAMPLES.to_string())?;
    if moment > *now {
        return Err("that is in the future".into());
    }
    Ok(Timestamp { secs: moment.timestamp().as_second(), nanos: 999_999_999 })
}

fn moment(text: &str, now: &ZonedDateTime) -> Option<ZonedDateTime> {
    // With a zone of its own.
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.to_zoned_datetime(now.time_zone().clone()));
    }
    let lower = text.to_ascii_lowercase();
    if lower == "now" {
        return Some(now.clone());
    }
    if let Some(ago) = lower.strip_suffix("ago") {
        let span: Span = ago.trim().parse().ok()?;
        return if span.is_negative() { None } else { now.checked_sub(span).ok() };
    }
    let lower = lower.strip_prefix("last ").unwrap_or(&lower).trim();
    // 2026-11-28T14:00, as ISO 8601 has it.
    let at_t = lower.split_once('t').filter(|(date, _)| date.len() == "2026-11-28".len());
    let (first, rest) = at_t.or_else(|| lower.split_once(' ')).unwrap_or((lower, ""));
    match day(first, now) {
        Some(day) => on(day, rest.trim(), now),
        None if lower.is_empty() => None,
        None => on(now.date(), lower, now),
    }
}

/// A day: `2026-11-28`, `today`, `yesterday`, or one of the last seven by its name.
fn day(text: &str, now: &ZonedDateTime) -> Option<Date> {
    let today = now.date();
    match text {
        "today" => return Some(today),
        "yesterday" => return today.yesterday().ok(),
        _ => {}
    }
    if let Some(weekday) = weekday(text) {
        return today.nth_weekday(-1, weekday).ok();
    }
    let has_year = text.split('-').map(str::len).eq([4, 2, 2]);
    if has_year { text.parse().ok() } else { None }
}

fn weekday(text: &str) -> Option<Weekday> {
    const NAMES: [(&str, Weekday); 7] = [
        ("monday", Weekday::Monday),
        ("tuesday", Weekday::Tuesday),
        ("wednesday", Weekday::Wednesday),
        ("thursday", Weekday::Thursday),
        ("friday", Weekday::Friday),
        ("saturday", Weekday::Saturday),
        ("sunday", Weekday::Sunday),
    ];
    let found = NAMES.iter().find(|(name, _)| text.len() >= 3 && name.starts_with(text));
    found.map(|(_, weekday)| *weekday)
}

/// A time on a day; without one the end of the day, and now if it has not ended.
fn on(day: Date, time: &str, now: &ZonedDateTime) -> Option<ZonedDateTime> {
    if time.is_empty() && day == now.date() {
        return Some(now.clone());
    }
    let time = if time.is_empty() { Time::MAX } else { clock(time)? };
    DateTime::from_parts(day, time).to_zoned_datetime(now.time_zone().clone()).ok()
}

/// `9:30`, `14:00` or `14:00:05`.
fn clock(text: &str) -> Option<Time> {
    let mut parts = text.split(':').map(|part| {
        let is_number = (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<i8>().ok().filter(|_| is_number)
    });
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().map_or(Some(0), |part| part)?;
    if parts.next().is_some() { None } else { Time::new(hour, minute, second, 0).ok() }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    /// Friday, at noon, where winter time is one hour ahead of UTC.
    fn now() -> ZonedDateTime {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        "2026-11-27T12:00:00".parse::<DateTime>().unwrap().to_zoned_datetime(zone).unwrap()
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in [
            ("2026-11-26 14:00", "2026-11-26T14:00:00"),
            ("2026-11-26T14:00:05", "2026-11-26T14:00:05"),
            ("2026-11-26", "2026-11-26T23:59:59"),
            ("2026-11-26T12:00:00Z", "2026-11-26T13:00:00"),
            ("2026-11-26T12:00:00+03:00", "2026-11-26T10:00:00"),
            ("9:30", "2026-11-27T09:30:00"),
            ("12:00", "2026-11-27T12:00:00"),
            ("now", "2026-11-27T12:00:00"),
            ("today", "2026-11-27T12:00:00"),
            ("2026-11-27", "2026-11-27T12:00:00"),
            ("today 8:00", "2026-11-27T08:00:00"),
            ("Yesterday", "2026-11-26T23:59:59"),
            ("yesterday 7:05", "2026-11-26T07:05:00"),
            ("tuesday", "2026-11-24T23:59:59"),
            ("last Tuesday 14:00", "2026-11-24T14:00:00"),
            ("sat 1:00", "2026-11-21T01:00:00"),
            ("last friday", "2026-11-20T23:59:59"),
            ("3 days ago", "2026-11-24T12:00:00"),
            ("90m ago", "2026-11-27T10:30:00"),
            ("1 month 2 hours ago", "2026-10-27T10:00:00"),
            (" 2 weeks ago ", "2026-11-13T12:00:00"),
        ] {
            let found = parse_at(text, &now()).map(|time| {
                assert_eq!(time.nanos, 999_999_999);
                let time = jiff::Timestamp::from_second(time.secs).unwrap();
                time.to_zoned_datetime(now().time_zone().clone())
                    .strftime("%Y-%m-%dT%H:%M:%S")
                    .to_string()
            });
            assert_eq!(found, Ok(expected.to_string()), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "never",
            "ago",
            "last",
            "t",
            "tu",
            "14",
            "14:60",
            "24:00",
            "9:3:1:2",
            "+9:30",
            "2026-13-01",
            "2026-11-26 noon",
            "26-11-26",
            "-3 days ago",
            "3 days",
            "yesterday tuesday",
        ] {
            assert_eq!(parse_at(text, &now()), Err(EXAMPLES.to_string()), "{text}");
        }
        for text in ["12:01", "today 13:00", "2027-01-01"] {
            assert_eq!(parse_at(text, &now()), Err("that is in the future".into()), "{text}");
        }
    }
}
