//! Replay as pure functions: bytes of a file to records, records of all files
//! to one sequence.
//!
//! Invariant: a bad record is damage only if a later valid one calls it
//! durable, else it is the torn tail; nothing after it is taken.

use crate::crypto::hex;

use super::record::{FileSeal, HeaderError, PAGE};
use super::{JournalError, JournalKeys, Replay, Result};

/// Most places that are tried after a bad record. A mark occurs by chance once
/// in 4 GiB, so more means that somebody placed them.
const RESYNC_MAX: usize = 4096;

/// The records that replay could read from one file of the journal.
#[derive(Debug, Default)]
pub(super) struct FileRecords {
    /// The path of the file within local state, for error messages.
    pub name: String,
    /// Records from the start, contiguous, up to the first bad place.
    pub records: Vec<(u64, Vec<u8>)>,
    /// Where the last of them ends, in bytes from the start of the file.
    pub end: usize,
    /// Whether bytes of this use of the file follow the last of them.
    pub bad_tail: bool,
}

impl FileRecords {
    pub fn last(&self) -> Option<u64> {
        self.records.last().map(|record| record.0)
    }
}

fn damaged(name: &str, what: impl Into<String>) -> JournalError {
    JournalError::Damaged { file: name.to_owned(), what: what.into() }
}

/// Reads file `number`, whose first record should be `expected`. A hole that
/// lies wholly at or below `contained` does not matter; any other ends the file.
pub(super) fn read_file(
    keys: &JournalKeys,
    name: &str,
    number: u64,
    bytes: &[u8],
    contained: u64,
    expected: u64,
) -> Result<FileRecords> {
    let seal = FileSeal::open(keys, number, bytes).map_err(|error| match error {
        HeaderError::Damaged(what) => damaged(name, format!("its {what} is wrong")),
        HeaderError::Version(version) => {
            JournalError::Unsupported { file: name.to_owned(), version }
        }
        HeaderError::Foreign => JournalError::Foreign { file: name.to_owned() },
        HeaderError::UnknownEpoch(epoch) => {
            JournalError::UnknownEpoch { file: name.to_owned(), epoch: hex(&epoch) }
        }
    })?;
    let mut file = FileRecords { name: name.to_owned(), ..FileRecords::default() };
    let mut at = PAGE.min(bytes.len());
    loop {
        let next = seal
            .read_frame(&bytes[at..])
            .filter(|frame| file.last().is_none_or(|last| frame.sequence == last + 1))
            .and_then(|frame| Some((frame, seal.unseal(frame, &bytes[at..])?)));
        if let Some((frame, (_, plain))) = next {
            file.records.push((frame.sequence, plain));
            at += frame.total();
            file.end = at;
            continue;
        }
        // Writes are whole pages, so a clean end has zeros up to the page's.
        let page_end = at.next_multiple_of(PAGE).min(bytes.len());
        file.bad_tail = bytes[at..page_end].iter().any(|byte| *byte != 0);
        let missing = file.last().map_or(expected, |last| last + 1);
        match beyond(&seal, &mut file, &bytes[at..], contained, missing)? {
            Some(skip) => at += skip,
            None => return Ok(file),
        }
    }
}

/// Looks for valid records after the place where `missing` should be: damage if
/// one calls it durable; `Some` if the file goes on there, since all that is
/// missing is contained in a head.
fn beyond(
    seal: &FileSeal,
    file: &mut FileRecords,
    rest: &[u8],
    contained: u64,
    missing: u64,
) -> Result<Option<usize>> {
    let lost = missing.max(contained.saturating_add(1));
    let (mut at, mut tries) = (0, 0);
    while let Some(skip) = seal.find_mark(&rest[at..]) {
        at += skip;
        file.bad_tail = true;
        let Some(frame) = seal.read_frame(&rest[at..]).filter(|frame| frame.sequence > missing)
        else {
            at += 1;
            continue;
        };
        tries += 1;
        if tries > RESYNC_MAX {
            return Err(damaged(&file.name, "it has too many false records"));
        }
        let Some((claim, _)) = seal.unseal(frame, &rest[at..]) else {
            at += 1;
            continue;
        };
        if frame.sequence <= lost {
            // All of them are contained in a head.
            file.records.clear();
            return Ok(Some(at));
        }
        if claim >= lost {
            let what = format!("record {lost} is bad, and a later one calls it durable");
            return Err(damaged(&file.name, what));
        }
        at += frame.total();
    }
    Ok(None)
}

/// Joins the files, in order of their numbers, into one sequence after
/// `contained`. A file is flushed before the next one gets its first record, so
/// a gap between files is damage.
pub(super) fn join(files: Vec<FileRecords>, contained: u64) -> Result<Replay> {
    let mut replay = Replay::default();
    let mut expected = contained + 1;
    let mut previous: Option<String> = None;
    for file in files {
        replay.torn_tail =
            if file.records.is_empty() { replay.torn_tail || file.bad_tail } else { file.bad_tail };
        for (sequence, plain) in file.records {
            if sequence <= contained {
                continue;
            }
            if sequence != expected {
                let holder = previous.as_ref().unwrap_or(&file.name);
                let what = if sequence > expected {
                    format!("records {expected} to {} are missing", sequence - 1)
                } else {
                    format!("{} holds record {sequence} a second time", file.name)
                };
                return Err(damaged(holder, what));
            }
            replay.records.push((sequence, plain));
            expected += 1;
        }
        previous = Some(file.name);
    }
    Ok(replay)
}
