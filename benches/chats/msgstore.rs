//! The message database, made by SQLite itself: only real pages change as real pages do.
//!
//! The database carries its own day (`user_version`) and a mark of profile and seed
//! (`application_id`), so the folder alone says which day comes next.

use std::io;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::date::{AWAKE, awake};
use super::draw::Draw;
use super::profile::Profile;
use super::text::{PEOPLE, message};

const CHATS: i64 = 240;
const CONTACTS: i64 = 600;

/// Every so many chats one is a group.
const GROUPS: i64 = 5;

/// Messages in one transaction: they come in bursts, and each transaction writes one segment of the
/// full-text index. How often its segments merge decides what a day costs, so the past is made of
/// the same bursts as the days.
const BURST: u64 = 25;

/// Percent of messages with a picture or video and its preview.
const MEDIA: u64 = 18;

/// Median bytes of a preview.
const THUMBNAIL: u64 = 3_600;

/// Status changes reach back this many messages.
const RECENT: u64 = 3_000;

/// Reads the day and the mark of a database.
pub fn day_and_mark(path: &Path) -> io::Result<(i64, i32)> {
    let db = Connection::open(path).map_err(io::Error::other)?;
    let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let day = pragma("user_version").map_err(io::Error::other)?;
    Ok((day as i64, pragma("application_id").map_err(io::Error::other)?))
}

/// The mark of folders made with this profile and seed.
pub fn mark(profile: &Profile, seed: u64) -> i32 {
    Draw::new(seed, profile.name, &[]).bits() as i32 & i32::MAX
}

/// Makes the database as it is on `day`, its messages spread over the days before.
pub fn create(path: &Path, profile: &Profile, seed: u64, day: i64) -> io::Result<()> {
    load(path, profile, seed, day).map_err(io::Error::other)
}

/// Lets one day happen: messages, status changes and deletions.
pub fn live(path: &Path, profile: &Profile, seed: u64, day: i64) -> io::Result<()> {
    happen(path, profile, seed, day).map_err(io::Error::other)
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    // The file is a copy that is renamed when complete, so it needs neither journal nor sync.
    db.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA auto_vacuum = FULL; PRAGMA journal_mode = MEMORY;
         PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -400000;
         PRAGMA locking_mode = EXCLUSIVE;",
    )?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

fn load(path: &Path, profile: &Profile, seed: u64, day: i64) -> rusqlite::Result<()> {
    let mut db = open(path)?;
    db.execute_batch(include_str!("schema.sql"))?;
    db.pragma_update(None, "application_id", mark(profile, seed))?;
    address_book(&mut db, seed, day)?;
    let span = profile.span as u64 * AWAKE as u64;
    for first in (0..profile.messages).step_by(BURST as usize) {
        let batch = db.transaction()?;
        for index in first..profile.messages.min(first + BURST) {
            let mut draw = Draw::new(seed, "past message", &[index as i64]);
            let passed = (span * index / profile.messages) as i64;
            let date = day - profile.span as i64 + passed / AWAKE;
            arrive(&batch, &mut draw, awake(date, passed % AWAKE))?;
        }
        batch.commit()?;
    }
    db.pragma_update(None, "user_version", day)
}

fn happen(path: &Path, profile: &Profile, seed: u64, day: i64) -> rusqlite::Result<()> {
    let mut db = open(path)?;
    let daily = &profile.daily;
    let second = |index: u64| awake(day - 1, AWAKE * index as i64 / daily.messages as i64);
    for first in (0..daily.messages).step_by(BURST as usize) {
        let burst = db.transaction()?;
        let last = daily.messages.min(first + BURST);
        for index in first..last {
            let mut draw = Draw::new(seed, "message", &[day, index as i64]);
            arrive(&burst, &mut draw, second(index))?;
        }
        // Status changes and deletions come between the messages, in proportion.
        let share = |all: u64| all * first / daily.messages..all * last / daily.messages;
        for index in share(daily.updates) {
            let mut draw = Draw::new(seed, "status", &[day, index as i64]);
            is_read(&burst, &mut draw, second(first) * 1000)?;
        }
        for index in share(daily.deletions) {
            let mut draw = Draw::new(seed, "deletion", &[day, index as i64]);
            delete(&burst, &mut draw)?;
        }
        burst.commit()?;
    }
    db.pragma_update(None, "user_version", day)
}

fn address_book(db: &mut Connection, seed: u64, day: i64) -> rusqlite::Result<()> {
    let all = db.transaction()?;
    let mut draw = Draw::new(seed, "address book", &[]);
    for contact in 1..=CONTACTS {
        let group = contact <= CHATS && contact % GROUPS == 0;
        let server = if group { "g.us" } else { "s.whatsapp.net" };
        let user = format!("49{:011}", draw.below(100_000_000_000));
        all.prepare_cached("INSERT INTO jid VALUES (?, ?, ?, 0, 0, 0, ?)")?.execute(params![
            contact,
            user,
            server,
            format!("{user}@{server}")
        ])?;
    }
    for chat in 1..=CHATS {
        let subject = PEOPLE[chat as usize % PEOPLE.len()];
        all.prepare_cached("INSERT INTO chat VALUES (?1, ?1, 0, ?2, ?3, 0, 0, 0, 0, ?3, 0)")?
            .execute(params![chat, subject, awake(day, 0) * 1000])?;
    }
    all.commit()
}

/// One message with everything that hangs on it, at `unix` seconds.
fn arrive(db: &Connection, draw: &mut Draw, unix: i64) -> rusqlite::Result<()> {
    let chat = 1 + draw.zipf(CHATS as u64) as i64;
    let group = chat % GROUPS == 0;
    let from_me = draw.percent(45);
    let sender = if group && !from_me { 1 + draw.row(CONTACTS) } else { 0 };
    let at = unix * 1000 + draw.row(1000);
    let media = draw.percent(MEDIA);
    let kind = if !media {
        0
    } else if draw.percent(85) {
        1
    } else {
        3
    };
    // A picture may have a caption; everything else is text.
    let text = (!media || draw.percent(20)).then(|| message(draw));

    db.prepare_cached(
        "INSERT INTO message (chat_row_id, from_me, key_id, sender_jid_row_id, status, broadcast,
            recipient_count, origination_flags, origin, timestamp, received_timestamp,
            receipt_server_timestamp, message_type, text_data, starred, lookup_tables,
            message_add_on_flags)
         VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, 0, 0, ?6, ?7, ?8, ?9, ?10, 0, 0, 0)",
    )?
    .execute(params![
        chat,
        from_me,
        draw.hex(16).to_uppercase(),
        sender,
        if from_me { 5 } else { 0 },
        at,
        at + draw.row(3000),
        if from_me { at + draw.row(900) } else { -1 },
        kind,
        text
    ])?;
    let id = db.last_insert_rowid();
    db.prepare_cached("UPDATE message SET sort_id = ?1 WHERE _id = ?1")?.execute([id])?;
    db.prepare_cached(
        "UPDATE chat SET display_message_row_id = ?2, last_message_row_id = ?2,
            sort_timestamp = ?3 WHERE _id = ?1",
    )?
    .execute([chat, id, at])?;
    if media {
        attach(db, draw, id, chat, at)?;
    }
    if from_me {
        receipts(db, draw, id, chat, if group { 4 } else { 1 }, at)?;
    }
    if let Some(text) = text {
        db.prepare_cached(
            "INSERT INTO message_ftsv2 (docid, content, fts_jid, fts_namespace)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![id, text, format!("z{chat}"), format!("m{kind}")])?;
    }
    Ok(())
}

fn attach(db: &Connection, draw: &mut Draw, id: i64, chat: i64, at: i64) -> rusqlite::Result<()> {
    let size = draw.lognormal(120_000, 0.78) as i64;
    // The base64 of real hashes has the same entropy and nearly the same length.
    let path =
        format!("/v/t62.7118-24/{}_n.enc?ccb=11-4&oh=01_{}", draw.below(1 << 50), draw.hex(21));
    db.prepare_cached(
        "INSERT INTO message_media VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6, 1200, 1600, ?7,
            'image/jpeg', ?4, ?8, ?9)",
    )?
    .execute(params![
        id,
        chat,
        format!("Media/WhatsApp Images/IMG-{}-WA{:04}.jpg", at / 86_400_000, id % 10_000),
        size,
        draw.bytes(32),
        at,
        path,
        draw.hex(22),
        draw.hex(22)
    ])?;
    let preview = draw.lognormal(THUMBNAIL, 0.5) as usize;
    db.prepare_cached("INSERT INTO message_thumbnail VALUES (?1, ?2)")?
        .execute(params![id, draw.bytes(preview)])?;
    Ok(())
}

fn receipts(
    db: &Connection,
    draw: &mut Draw,
    id: i64,
    chat: i64,
    people: i64,
    at: i64,
) -> rusqlite::Result<()> {
    for person in 0..people {
        let jid = 1 + (chat + person) % CONTACTS;
        let received = at + draw.row(60_000);
        db.prepare_cached(
            "INSERT INTO receipt_user
                (message_row_id, receipt_user_jid_row_id, receipt_timestamp) VALUES (?, ?, ?)",
        )?
        .execute([id, jid, received])?;
        db.prepare_cached(
            "INSERT INTO receipt_device (message_row_id, receipt_device_jid_row_id,
                receipt_device_timestamp, primary_device_version) VALUES (?, ?, ?, 0)",
        )?
        .execute([id, jid, received])?;
    }
    Ok(())
}

/// A message, more likely a recent one, is read by those it was sent to.
fn is_read(db: &Connection, draw: &mut Draw, at: i64) -> rusqlite::Result<()> {
    let newest: i64 = db.query_row("SELECT max(_id) FROM message", [], |row| row.get(0))?;
    let id = (newest - draw.zipf(RECENT) as i64).max(1);
    db.prepare_cached("UPDATE message SET status = 13 WHERE _id = ?")?.execute([id])?;
    db.prepare_cached("UPDATE receipt_user SET read_timestamp = ?2 WHERE message_row_id = ?1")?
        .execute([id, at])?;
    Ok(())
}

/// Any message vanishes with all that hangs on it.
fn delete(db: &Connection, draw: &mut Draw) -> rusqlite::Result<()> {
    let newest: i64 = db.query_row("SELECT max(_id) FROM message", [], |row| row.get(0))?;
    let found = db
        .prepare_cached("SELECT _id FROM message WHERE _id >= ? ORDER BY _id LIMIT 1")?
        .query_row([draw.row(newest)], |row| row.get::<_, i64>(0))
        .optional()?;
    let Some(id) = found else { return Ok(()) };
    for (table, column) in [
        ("message", "_id"),
        ("message_media", "message_row_id"),
        ("message_thumbnail", "message_row_id"),
        ("receipt_user", "message_row_id"),
        ("receipt_device", "message_row_id"),
        ("message_ftsv2", "docid"),
    ] {
        db.prepare_cached(&format!("DELETE FROM {table} WHERE {column} = ?"))?.execute([id])?;
    }
    Ok(())
}
