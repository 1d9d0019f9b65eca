//! A Telegram export: one long pretty-printed JSON that is written anew each day with what the
//! day brought at its end, and photos that never change.

use std::io::{self, Write};

use super::date::{AWAKE, Date, awake, clock};
use super::draw::{Draw, spread};
use super::media::{Kind, file};
use super::profile::Profile;
use super::text::{PEOPLE, message};
use super::tree::Tree;

/// Median sizes of a photo and of its preview.
const PHOTO: u64 = 90_000;
const PREVIEW: u64 = 8_000;

/// What the messages of one day have in common.
#[derive(Clone, Copy)]
struct Part {
    day: i64,
    messages: u64,
    photos: u64,
    first_message: u64,
    first_photo: u64,
    /// Days before `day` over which the messages are spread.
    span: u64,
}

impl Part {
    fn of(profile: &Profile, day: i64) -> Self {
        let Some(later) = (day as u64).checked_sub(1) else {
            return Self {
                day: 0,
                messages: profile.export_messages,
                photos: profile.export_photos,
                first_message: 0,
                first_photo: 0,
                span: profile.span as u64,
            };
        };
        Self {
            day,
            messages: profile.daily.export_messages,
            photos: profile.daily.export_photos,
            first_message: profile.export_messages + later * profile.daily.export_messages,
            first_photo: profile.export_photos + later * profile.daily.export_photos,
            span: 0,
        }
    }

    /// The day and time of the message at `index`, later than the ones before.
    fn when(&self, index: u64) -> (i64, i64) {
        let seconds = (self.span + 1) * AWAKE as u64 * index / self.messages;
        let day = self.day - self.span as i64 + (seconds / AWAKE as u64) as i64;
        (day, awake(day, (seconds % AWAKE as u64) as i64))
    }

    /// The number of the photo in the message at `index`, if it has one, counted from 1.
    fn photo(&self, index: u64) -> Option<u64> {
        spread(index, self.messages, self.photos).map(|photo| self.first_photo + photo + 1)
    }
}

/// Brings the export to `day`: its photos, and the JSON of all days so far.
pub fn export(tree: &mut Tree<'_>, profile: &Profile, seed: u64, day: i64) -> io::Result<()> {
    if profile.export_messages == 0 {
        return Ok(());
    }
    let folder = format!("ChatExport_{}", Date::of(0).dashed());
    let part = Part::of(profile, day);
    for index in 0..part.messages {
        if let Some(number) = part.photo(index) {
            photo(tree, profile, seed, &folder, number, part.when(index))?;
        }
    }

    let json = format!("{folder}/result.json");
    let before = if day == 0 { 0 } else { tree.path(&json).metadata()?.len() };
    tree.file(&json, awake(day, AWAKE), |out| result(profile, seed, day, out))?;
    tree.repeats(before);
    Ok(())
}

fn photo(
    tree: &mut Tree<'_>,
    profile: &Profile,
    seed: u64,
    folder: &str,
    number: u64,
    (day, at): (i64, i64),
) -> io::Result<()> {
    let name = photo_name(number, day, at);
    for (suffix, median) in [("", PHOTO), ("_thumb", PREVIEW)] {
        let mut draw = Draw::new(seed, suffix, &[number as i64]);
        let size = draw.lognormal(median, 0.6) / profile.shrink;
        let path = format!("{folder}/{name}{suffix}.jpg");
        tree.file(&path, at, |out| file(Kind::Picture, size, &mut draw, out))?;
    }
    Ok(())
}

fn photo_name(number: u64, day: i64, at: i64) -> String {
    let date = Date::of(day);
    let (day, month, year) = (date.day, date.month, date.year);
    format!("photos/photo_{number}@{day:02}-{month:02}-{year}_{}", clock(at, '-'))
}

fn result(profile: &Profile, seed: u64, today: i64, out: &mut dyn Write) -> io::Result<()> {
    let owner = PEOPLE[0];
    write!(out, "{{\n \"name\": \"{owner}\",\n \"type\": \"personal_chat\",\n \"id\": 4711,\n")?;
    write!(out, " \"messages\": [")?;
    for day in 0..=today {
        let part = Part::of(profile, day);
        for index in 0..part.messages {
            let first = day == 0 && index == 0;
            write!(out, "{}", if first { "\n" } else { ",\n" })?;
            entry(&part, index, seed, out)?;
        }
    }
    write!(out, "\n ]\n}}")
}

/// One message, laid out as Telegram Desktop does.
fn entry(part: &Part, index: u64, seed: u64, out: &mut dyn Write) -> io::Result<()> {
    let id = part.first_message + index;
    let mut draw = Draw::new(seed, "telegram", &[id as i64]);
    let (day, at) = part.when(index);
    let from = draw.below(2) as usize;
    let (date, time, name) = (Date::of(day).dashed(), clock(at, ':'), PEOPLE[from]);
    let text = serde_json::to_string(&message(&mut draw)).expect("a string is always JSON");

    writeln!(out, "  {{\n   \"id\": {},\n   \"type\": \"message\",", id + 1)?;
    writeln!(out, "   \"date\": \"{date}T{time}\",\n   \"date_unixtime\": \"{at}\",")?;
    writeln!(out, "   \"from\": \"{name}\",\n   \"from_id\": \"user{}\",", 70_001 + from)?;
    if let Some(number) = part.photo(index) {
        let photo = photo_name(number, day, at);
        writeln!(out, "   \"photo\": \"{photo}.jpg\",\n   \"width\": 960,\n   \"height\": 1280,")?;
    }
    writeln!(out, "   \"text\": {text},\n   \"text_entities\": [\n    {{")?;
    writeln!(out, "     \"type\": \"plain\",\n     \"text\": {text}\n    }}\n   ]")?;
    write!(out, "  }}")
}
