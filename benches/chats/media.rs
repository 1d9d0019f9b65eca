//! Media files: names, folders, sizes and first bytes as the chat programs make them.
//!
//! The contents of the n-th original of a kind and day follow from the seed alone, so a forwarded
//! copy is made again rather than read back, and is the same byte for byte.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::date::{AWAKE, Date, awake};
use super::draw::{Draw, spread};
use super::profile::Profile;
use super::tree::Tree;
use super::{CANARY, NAME_CANARY};

/// Where the media of WhatsApp lie.
const MEDIA: &str = "WhatsApp/Media";

/// Percent of original pictures and videos the owner sent.
const SENT: u64 = 20;

/// The deviation of the logarithm of sizes: a mean 1.35 times the median.
const SIGMA: f64 = 0.78;

/// Documents keep the names people gave them: spaces at both ends, emoji, umlauts composed and
/// decomposed (two files), other scripts, the canary.
const ODD_NAMES: [&str; 9] = [
    "Rechnung März 2025 (Kopie).pdf",
    "Urlaub 🏖️ Übersicht & Liste #1.pdf",
    "Café am See.pdf",
    "Cafe\u{301} am See.pdf",
    " leading and trailing space .pdf",
    "..two dots, a % and a ' quote.pdf",
    "日本旅行 2024.pdf",
    "أرشيف المحادثات.pdf",
    "zeisig-name-7731 Vertrag.pdf",
];

/// The longest name a Linux file system takes.
const LONGEST_NAME: usize = 255;

/// A kind of media.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JPEG.
    Picture,
    /// MP4.
    Video,
    /// Opus in Ogg, in one folder a week.
    VoiceNote,
    /// WebP.
    Sticker,
    /// PDF.
    Document,
}

struct Style {
    folder: &'static str,
    prefix: &'static str,
    extension: &'static str,
    median: u64,
    largest: u64,
}

impl Kind {
    fn style(self, profile: &Profile) -> Style {
        let style = |folder, prefix, extension, median, largest| Style {
            folder,
            prefix,
            extension,
            median,
            largest,
        };
        match self {
            Self::Picture => style("WhatsApp Images", "IMG", "jpg", profile.picture, 4_000_000),
            Self::Video => style("WhatsApp Video", "VID", "mp4", 4_500_000, 64_000_000),
            Self::VoiceNote => style("WhatsApp Voice Notes", "PTT", "opus", 15_000, 1_000_000),
            Self::Sticker => style("WhatsApp Stickers", "STK", "webp", 25_000, 500_000),
            Self::Document => style("WhatsApp Documents", "DOC", "pdf", 400_000, 20_000_000),
        }
    }
}

/// Writes the media of WhatsApp that `day` brings.
pub fn add(tree: &mut Tree<'_>, profile: &Profile, seed: u64, day: i64) -> io::Result<()> {
    let counts = if day == 0 { &profile.media } else { &profile.daily.media };
    if day == 0 {
        hidden_from_galleries(tree)?;
        odd_names(tree, profile, seed)?;
    }
    let kinds = [
        (Kind::Picture, counts.pictures, counts.forwards),
        (Kind::Video, counts.videos, 0),
        (Kind::VoiceNote, counts.voice_notes, 0),
        (Kind::Sticker, counts.stickers, 0),
        (Kind::Document, counts.documents, 0),
    ];
    for (kind, originals, forwards) in kinds {
        batch(tree, profile, seed, day, kind, originals, forwards)?;
    }
    Ok(())
}

/// Writes `originals` and `forwards` of one kind, evenly mixed and, on day 0, spread over the past.
fn batch(
    tree: &mut Tree<'_>,
    profile: &Profile,
    seed: u64,
    day: i64,
    kind: Kind,
    originals: u64,
    forwards: u64,
) -> io::Result<()> {
    let style = kind.style(profile);
    let count = originals + forwards;
    // The date of the last file and its number on that date.
    let mut numbered = (i64::MIN, 0);
    for index in 0..count {
        let past = if day == 0 { profile.span as u64 * (count - index - 1) / count } else { 0 };
        let date = day - past as i64;
        numbered = if numbered.0 == date { (date, numbered.1 + 1) } else { (date, 0) };

        let mut draw = Draw::new(seed, style.prefix, &[day, index as i64]);
        let forward = spread(index, count, forwards);
        let original = index - index * forwards / count;
        let (from_day, number) = match forward {
            Some(_) => earlier(&mut draw, profile, day, original),
            None => (day, original),
        };
        let at = awake(date, draw.row(AWAKE));
        let sent = match kind {
            Kind::Picture | Kind::Video => draw.percent(if forward.is_some() { 60 } else { SENT }),
            _ => false,
        };
        let path = path(&style, kind, Date::of(date), sent, numbered.1);
        let bytes =
            tree.file(&path, at, |out| contents(profile, seed, kind, from_day, number, out))?;
        if forward.is_some() {
            tree.repeats(bytes);
        }
    }
    Ok(())
}

/// The day and number of a picture that was there before `original` of `day`.
fn earlier(draw: &mut Draw, profile: &Profile, day: i64, original: u64) -> (i64, u64) {
    if day == 0 {
        return (0, draw.below(original));
    }
    let first = profile.media.pictures;
    let number = draw.below(first + (day as u64 - 1) * profile.daily.media.pictures);
    match number.checked_sub(first) {
        None => (0, number),
        Some(later) => {
            let a_day = profile.daily.media.pictures;
            (1 + (later / a_day) as i64, later % a_day)
        }
    }
}

fn path(style: &Style, kind: Kind, date: Date, sent: bool, number: u64) -> String {
    let mut path = format!("{MEDIA}/{}/", style.folder);
    if kind == Kind::VoiceNote {
        write!(path, "{:04}{:02}/", date.year, date.week).expect("a String takes everything");
    }
    if sent {
        path.push_str("Sent/");
    }
    let (prefix, extension) = (style.prefix, style.extension);
    path + &format!("{prefix}-{}-WA{number:04}.{extension}", date.plain())
}

/// The bytes of original `number` of `day`.
fn contents(
    profile: &Profile,
    seed: u64,
    kind: Kind,
    day: i64,
    number: u64,
    out: &mut dyn Write,
) -> io::Result<()> {
    let style = kind.style(profile);
    let mut draw = Draw::new(seed, style.extension, &[day, number as i64]);
    let size = draw.lognormal(style.median, SIGMA).min(style.largest) / profile.shrink;
    file(kind, size, &mut draw, out)
}

/// A file of about `size` bytes: what such a file begins with, then what no packer makes smaller.
pub fn file(kind: Kind, size: u64, draw: &mut Draw, out: &mut dyn Write) -> io::Result<()> {
    let start = magic(kind, size as u32);
    out.write_all(&start)?;
    draw.payload(size.saturating_sub(start.len() as u64), out)
}

fn magic(kind: Kind, size: u32) -> Vec<u8> {
    match kind {
        Kind::Picture => {
            let mut start = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0".to_vec();
            // A comment segment, its length with itself: pictures can be searched for leaks too.
            start.extend(b"\xff\xfe\0\x12");
            start.extend(CANARY.as_bytes());
            start.extend(b"\xff\xdb\0\x43\0");
            start
        }
        Kind::Video => {
            let mut start = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom".to_vec();
            start.extend(size.saturating_sub(24).to_be_bytes());
            start.extend(b"mdat");
            start
        }
        Kind::VoiceNote => {
            let mut start = b"OggS\0\x02\0\0\0\0\0\0\0\0".to_vec();
            start.extend(b"\x01\0\0\0\0\0\0\0\0\0\0\0\x01\x13OpusHead\x01\x01\x38\x01");
            start.extend(b"\x80\x3e\0\0\0\0\0");
            start
        }
        Kind::Sticker => {
            let mut start = b"RIFF".to_vec();
            start.extend(size.saturating_sub(8).to_le_bytes());
            start.extend(b"WEBPVP8 ");
            start.extend(size.saturating_sub(20).to_le_bytes());
            start
        }
        Kind::Document => b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\nstream\n".to_vec(),
    }
}

/// The empty files that keep sent media out of picture galleries.
fn hidden_from_galleries(tree: &mut Tree<'_>) -> io::Result<()> {
    for folder in ["WhatsApp Images/Sent", "WhatsApp Images/Private", "WhatsApp Voice Notes"] {
        tree.file(&format!("{MEDIA}/{folder}/.nomedia"), awake(0, 0), |_| Ok(()))?;
    }
    Ok(())
}

fn odd_names(tree: &mut Tree<'_>, profile: &Profile, seed: u64) -> io::Result<()> {
    debug_assert!(ODD_NAMES.iter().any(|name| name.contains(NAME_CANARY)));
    let longest = longest_name();
    for (index, name) in ODD_NAMES.into_iter().chain([longest.as_str()]).enumerate() {
        let mut draw = Draw::new(seed, "odd name", &[index as i64]);
        let size = draw.lognormal(30_000, SIGMA) / profile.shrink;
        let path = format!("{MEDIA}/WhatsApp Documents/{name}");
        let at = awake(-draw.row(profile.span as i64), 0);
        tree.file(&path, at, |out| file(Kind::Document, size, &mut draw, out))?;
    }
    Ok(())
}

fn longest_name() -> String {
    let mut name = "Protokoll ".to_owned();
    while name.len() + "ü.pdf".len() <= LONGEST_NAME {
        name.push('ü');
    }
    while name.len() + ".pdf".len() < LONGEST_NAME {
        name.push('-');
    }
    name + ".pdf"
}
