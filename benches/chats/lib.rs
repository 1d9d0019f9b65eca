//! Chat backups as a phone leaves them, for tests, the demo and benches.
//!
//! A folder is a pure function of profile, seed and day: never of the clock, the machine or the
//! order in which things were made. Programs use it as
//! `#[path = "../benches/chats/lib.rs"] mod chats;` or through `cargo run --example chats`.
#![allow(dead_code, reason = "each program that includes this uses another part of it")]
#![allow(clippy::doc_markdown, reason = "WhatsApp and SQLite are names, not code")]

mod date;
mod draw;
mod media;
mod msgstore;
mod pages;
mod profile;
mod signal;
mod telegram;
mod text;
mod tree;

use std::fs::{self, File};
use std::io;
use std::path::Path;

pub use pages::changed_pages;
pub use profile::Profile;

use date::{BACKUP_HOUR, Date, system_time, unix};
use tree::Tree;

/// Sixteen bytes in every message text and picture. Found outside the mount, they prove a leak.
pub const CANARY: &str = "kanarienvogel42x";

/// Sixteen bytes in the name of one document, for the same search.
pub const NAME_CANARY: &str = "zeisig-name-7731";

const _: () = assert!(CANARY.len() == 16 && NAME_CANARY.len() == 16);

/// Where the message databases lie.
const DATABASES: &str = "WhatsApp/Databases";

/// Dated copies of the database that are kept.
const KEPT: i64 = 7;

/// What a call wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files written.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Bytes that were in no file before: of a database the 4 KiB pages the previous one does not
    /// hold, of an export what was appended, of a forwarded picture nothing.
    pub new_bytes: u64,
}

/// Writes the folder as it is on day 0. `dest` is made if it does not exist.
pub fn generate(dest: &Path, profile: &Profile, seed: u64) -> io::Result<Summary> {
    let mut tree = Tree::new(dest);
    tree.folder(DATABASES)?;
    let newest = tree.path(&newest());
    if newest.exists() {
        let message = format!("{} exists: generate wants a new folder", newest.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }

    let first = -(profile.history as i64);
    msgstore::create(&newest, profile, seed, first)?;
    let bytes = stamp(&newest, first)?;
    tree.count(bytes, bytes);
    for day in first + 1..=0 {
        new_database(&mut tree, profile, seed, day)?;
    }
    rest_of_day(tree, profile, seed, 0)
}

/// Adds what `day` brought to a folder that is at the day before.
pub fn advance(dest: &Path, profile: &Profile, seed: u64, day: u32) -> io::Result<Summary> {
    let mut tree = Tree::new(dest);
    let day = day as i64;
    let (is, mark) = msgstore::day_and_mark(&tree.path(&newest()))?;
    let wrong = if mark != msgstore::mark(profile, seed) {
        Some("was made with another profile or seed".to_owned())
    } else if is + 1 != day {
        Some(format!("is at day {is}, so day {} comes next, not {day}", is + 1))
    } else {
        None
    };
    if let Some(what) = wrong {
        let message = format!("{} {what}", dest.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    new_database(&mut tree, profile, seed, day)?;
    rest_of_day(tree, profile, seed, day)
}

fn rest_of_day(mut tree: Tree<'_>, profile: &Profile, seed: u64, day: i64) -> io::Result<Summary> {
    media::add(&mut tree, profile, seed, day)?;
    telegram::export(&mut tree, profile, seed, day)?;
    signal::archive(&mut tree, profile, seed, day)?;
    Ok(tree.summary)
}

fn newest() -> String {
    format!("{DATABASES}/msgstore.db")
}

/// The database of day `day` once a newer one exists.
fn dated(day: i64) -> String {
    format!("{DATABASES}/msgstore-{}.1.db", Date::of(day).dashed())
}

/// Makes the database of `day` from that of the day before, which gets its date as a name, as
/// WhatsApp does it; the oldest copy goes.
fn new_database(tree: &mut Tree<'_>, profile: &Profile, seed: u64, day: i64) -> io::Result<()> {
    let newest = tree.path(&newest());
    let previous = tree.path(&dated(day - 1));
    let unfinished = tree.path(&format!("{DATABASES}/msgstore.db.tmp"));
    fs::copy(&newest, &unfinished)?;
    msgstore::live(&unfinished, profile, seed, day)?;
    let bytes = stamp(&unfinished, day)?;
    fs::rename(&newest, &previous)?;
    fs::rename(&unfinished, &newest)?;
    tree.count(bytes, changed_pages(&previous, &newest)? * pages::PAGE as u64);
    match fs::remove_file(tree.path(&dated(day - KEPT - 1))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives a database the time of its backup; returns its length.
fn stamp(path: &Path, day: i64) -> io::Result<u64> {
    let file = File::options().write(true).open(path)?;
    file.set_modified(system_time(unix(day, BACKUP_HOUR)))?;
    Ok(file.metadata()?.len())
}
