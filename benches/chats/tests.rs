//! The generator keeps its promises: the same seed makes the same folder, a day changes as much as
//! a real day does, and forwarded pictures really are copies.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use super::chats::{CANARY, NAME_CANARY, Profile, Summary, advance, changed_pages, generate};

const NEWEST: &str = "WhatsApp/Databases/msgstore.db";

type Files = BTreeMap<String, (blake3::Hash, u64, SystemTime)>;

/// Every file below `root` by its relative path.
fn files(root: &Path) -> Files {
    let mut found = Files::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            let modified = path.metadata().unwrap().modified().unwrap();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.insert(name, (blake3::hash(&bytes), bytes.len() as u64, modified));
        }
    }
    found
}

fn days(root: &Path, seed: u64, last: u32) -> Vec<Summary> {
    let mut summaries = vec![generate(root, &Profile::TINY, seed).unwrap()];
    summaries.extend((1..=last).map(|day| advance(root, &Profile::TINY, seed, day).unwrap()));
    summaries
}

#[test]
fn the_same_seed_makes_the_same_folder_on_every_day() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let summaries = folders.each_ref().map(|folder| days(folder.path(), 7, 3));
    assert_eq!(summaries[0], summaries[1]);
    assert_eq!(files(folders[0].path()), files(folders[1].path()));

    let other = tempfile::tempdir().unwrap();
    days(other.path(), 8, 3);
    assert_ne!(files(folders[0].path()), files(other.path()));
}

#[test]
fn the_summary_counts_what_lies_there() {
    let folder = tempfile::tempdir().unwrap();
    let summary = days(folder.path(), 1, 0)[0];
    let found = files(folder.path());
    assert_eq!(summary.files, found.len() as u64);
    assert_eq!(summary.bytes, found.values().map(|file| file.1).sum::<u64>());
    println!("tiny: {summary:?}");
    assert!((1_500_000..3_500_000).contains(&summary.bytes), "{summary:?}");
}

#[test]
fn forwarded_pictures_are_copies() {
    let folder = tempfile::tempdir().unwrap();
    days(folder.path(), 2, 2);
    let mut copies = BTreeMap::<_, u64>::new();
    for (name, (hash, _, _)) in files(folder.path()) {
        if name.contains("/IMG-") {
            *copies.entry(*hash.as_bytes()).or_default() += 1;
        }
    }
    let repeated: u64 = copies.values().map(|count| count - 1).sum();
    let (first, later) = (Profile::TINY.media, Profile::TINY.daily.media);
    assert_eq!(repeated, first.forwards + 2 * later.forwards);
}

#[test]
fn databases_are_whole_and_seven_dated_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    days(folder.path(), 3, 9);
    let names: Vec<_> =
        files(folder.path()).into_keys().filter(|name| name.contains("/Databases/")).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    assert_eq!(names[0], "WhatsApp/Databases/msgstore-2025-06-04.1.db");
    assert_eq!(names[6], "WhatsApp/Databases/msgstore-2025-06-10.1.db");
    for name in &names {
        let db = rusqlite::Connection::open(folder.path().join(name)).unwrap();
        let sound: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok", "{name}");
        let without = "SELECT count(*) FROM message WHERE text_data NOT LIKE '%' || ? || '%'";
        assert_eq!(db.query_row(without, [CANARY], |row| row.get::<_, i64>(0)).unwrap(), 0);
        let found = "SELECT count(*) FROM message_ftsv2 WHERE message_ftsv2 MATCH ?";
        assert!(db.query_row(found, [CANARY], |row| row.get::<_, i64>(0)).unwrap() > 100);
    }
}

#[test]
fn exports_grow_at_their_end_and_snapshots_are_two() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("ChatExport_2025-06-02/result.json");
    days(folder.path(), 4, 0);
    let before = fs::read(&json).unwrap();
    for day in 1..=3 {
        advance(folder.path(), &Profile::TINY, 4, day).unwrap();
    }
    let after = fs::read(&json).unwrap();
    let end = b"\n ]\n}".len();
    assert!(after.starts_with(&before[..before.len() - end]) && after.len() > before.len());
    let parsed: serde_json::Value = serde_json::from_slice(&after).unwrap();
    assert_eq!(parsed["messages"].as_array().unwrap().len(), 218);
    for message in parsed["messages"].as_array().unwrap() {
        if let Some(photo) = message["photo"].as_str() {
            assert!(json.with_file_name(photo).exists(), "{photo}");
        }
    }

    let mut snapshots: Vec<_> = fs::read_dir(folder.path().join("SignalBackups"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    snapshots.sort();
    let kept = ["signal-backup-2025-06-04-02-00-00", "signal-backup-2025-06-05-02-00-00"];
    assert_eq!(snapshots, ["files", kept[0], kept[1]]);
}

#[test]
fn names_are_as_odd_as_people_make_them() {
    let folder = tempfile::tempdir().unwrap();
    days(folder.path(), 5, 0);
    let paths: Vec<_> = files(folder.path()).into_keys().collect();
    let names: Vec<_> = paths.iter().map(|path| path.rsplit('/').next().unwrap()).collect();
    assert!(names.iter().any(|name| name.contains(NAME_CANARY)));
    assert!(names.iter().any(|name| name.len() == 255));
    assert!(names.contains(&"Café am See.pdf") && names.contains(&"Cafe\u{301} am See.pdf"));
}

#[test]
fn a_day_follows_only_the_day_before() {
    let folder = tempfile::tempdir().unwrap();
    days(folder.path(), 6, 1);
    let refused = |seed, day| {
        let error = advance(folder.path(), &Profile::TINY, seed, day).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    };
    refused(6, 1);
    refused(6, 3);
    refused(9, 2);
    assert!(generate(folder.path(), &Profile::TINY, 6).is_err());
}

/// A simulated week of a 79.5 MB database changed 3.5 to 3.9 % of its 4 KiB pages a day. Changes
/// follow the number of operations, so a database a sixth as large changes that much more.
#[test]
fn a_day_changes_as_many_pages_as_a_real_one() {
    let profile = Profile {
        messages: 10_000,
        history: 0,
        media: Profile::TINY.media,
        shrink: Profile::TINY.shrink,
        ..Profile::WEEK
    };
    let folder = tempfile::tempdir().unwrap();
    generate(folder.path(), &profile, 1).unwrap();
    for day in 1..=2 {
        let summary = advance(folder.path(), &profile, 1, day).unwrap();
        let dated = format!("WhatsApp/Databases/msgstore-2025-06-{:02}.1.db", day + 1);
        let (old, new) = (folder.path().join(dated), folder.path().join(NEWEST));
        let pages = new.metadata().unwrap().len() / 4096;
        let changed = changed_pages(&old, &new).unwrap();
        println!("day {day}: {changed} of {pages} pages are new, {summary:?}");
        assert!((250..1200).contains(&changed), "{changed} of {pages} pages");
    }
}
