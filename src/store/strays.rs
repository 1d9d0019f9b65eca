//! Names in REPO that are not ours, or not where ours should be.
//!
//! Sync clients rename folders, change the case of names and leave marks of
//! their own; people put links. Nothing here is trusted, removed or renamed:
//! it is told, and copies of our files below it are used if their bytes are
//! right.

use std::io;

use crate::crypto::unhex;
use crate::format::commit::{
    EXTENSION, Name, parse_head_name, parse_header_name, parse_object_name,
};
use crate::io::{EntryKind, Listed};

/// In which way an entry of REPO is a stray.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// A file with a name that is not ours.
    File,
    /// A file whose name holds one of ours: a copy, which is used if need be.
    Copy,
    /// A folder with a name that is not ours.
    Folder,
    /// A folder whose name holds one of ours, which should be the path here.
    Renamed(String),
    /// A file or folder whose name differs from this path in case only.
    Case(String),
    /// A symbolic link, which amberfs does not follow.
    Link,
    /// A file, or something else, where a folder of ours should be.
    NotAFolder,
    /// A FIFO, socket or device.
    Special,
    /// A folder that the system does not let us look into; errno.
    Unreadable(i32),
    /// A folder in which not all was looked at: there is too much in it.
    Unfinished,
    /// A header, or a folder of a device, that is not of this repository.
    Foreign(String),
}

/// A name in REPO that is not ours, or not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// The path of the entry within REPO.
    pub path: String,
    /// In which way the entry is a stray.
    pub what: Oddity,
    /// Whether it is where something of ours should be, or has such a name.
    pub in_place: bool,
}

impl Stray {
    /// Something whose name is not ours.
    pub fn other(path: String, kind: EntryKind) -> Self {
        let what = match kind {
            EntryKind::File => Oddity::File,
            EntryKind::Folder => Oddity::Folder,
            EntryKind::Link => Oddity::Link,
            EntryKind::Other => Oddity::Special,
        };
        Self { path, what, in_place: false }
    }

    /// A stray that is where something of ours should be.
    pub fn in_place(path: String, what: Oddity) -> Self {
        Self { path, what, in_place: true }
    }

    /// A folder that cannot be listed.
    pub fn unreadable(path: &str, error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        Self::in_place(path.to_string(), Oddity::Unreadable(errno))
    }

    /// Whether files of ours may be below it that were not looked at.
    pub fn hides(&self) -> bool {
        self.in_place
            && matches!(self.what, Oddity::Link | Oddity::Unreadable(_) | Oddity::Unfinished)
    }

    /// The error of a folder that cannot be listed.
    pub fn error(&self) -> Option<io::Error> {
        match self.what {
            Oddity::Unreadable(errno) => Some(io::Error::from_raw_os_error(errno)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Stray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = &self.path;
        match &self.what {
            Oddity::File => write!(f, "{path}: not a file of amberfs; left alone"),
            Oddity::Copy => {
                write!(f, "{path}: not a name of amberfs, but it holds one: a copy of that file?")
            }
            Oddity::Folder => write!(f, "{path}: a folder that is not of amberfs; left alone"),
            Oddity::Renamed(ours) => write!(
                f,
                "{path}: a folder with a name like {ours}, as sync clients rename folders; what \
                 it holds is used where it is not in its place"
            ),
            Oddity::Case(ours) => write!(
                f,
                "{path}: only the case of its name changed; rename it back: mv {} {}",
                quoted(path),
                quoted(ours)
            ),
            Oddity::Link if self.in_place => write!(
                f,
                "{path}: a symlink where amberfs has a file or folder of its own; it is not \
                 followed. Put what it leads to in its place"
            ),
            Oddity::Link => write!(f, "{path}: a symlink; not followed"),
            Oddity::NotAFolder => {
                write!(f, "{path}: not a folder, and amberfs has a folder of that name")
            }
            Oddity::Special => write!(f, "{path}: neither file nor folder; left alone"),
            Oddity::Unreadable(errno) => {
                write!(f, "{path}: {}", io::Error::from_raw_os_error(*errno))
            }
            Oddity::Unfinished => {
                write!(f, "{path}: it holds too many names, or too deep, to be looked through")
            }
            Oddity::Foreign(what) => write!(f, "{path}: {what}; left alone"),
        }
    }
}

/// A path as one word for a shell.
fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', "'\\''"))
}

/// How a name compares with a name of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Likeness<T> {
    /// The name is exactly this one of ours.
    Same(T),
    /// The name differs from this one of ours in case only.
    Case(T),
    /// The name contains this one of ours, and more.
    Like(T),
}

/// What folder of a device this is, if its name is like one.
pub fn like_device(name: &str) -> Option<Likeness<[u8; 16]>> {
    if let Some(device) = unhex(name) {
        return Some(Likeness::Same(device));
    }
    let lower = name.to_ascii_lowercase();
    if let Some(device) = unhex(&lower) {
        return Some(Likeness::Case(device));
    }
    // There must be 32 digits in a row.
    let mut runs = lower.split(|c: char| !c.is_ascii_hexdigit());
    runs.find_map(unhex).map(Likeness::Like)
}

/// Whether a folder's name is `ours` or like it: in another case, or as a word
/// of a longer name (`obj (1)`, `head-LAPTOP`, `7 2`). A single digit must
/// be the first word.
pub fn like_folder(name: &str, ours: &str) -> Option<Likeness<()>> {
    if name == ours {
        return Some(Likeness::Same(()));
    }
    let lower = name.to_ascii_lowercase();
    if lower == ours {
        return Some(Likeness::Case(()));
    }
    let mut words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    let like = if ours.len() == 1 { words.next() == Some(ours) } else { words.any(|w| w == ours) };
    like.then_some(Likeness::Like(()))
}

/// Whether the name is that of a file of ours in another case.
pub fn is_case_of_ours(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower != name
        && lower.ends_with(EXTENSION)
        && (parse_object_name(&lower).is_some()
            || parse_head_name(&lower).is_some()
            || parse_header_name(&lower).is_some())
}

/// A file with a name of ours in it that is not in its place: where that is.
pub fn misplaced_file(path: String, file: &Listed, place: &Name) -> Stray {
    let what = match file.kind {
        EntryKind::File if is_case_of_ours(&file.name) => Oddity::Case(place.path()),
        EntryKind::File => Oddity::Copy,
        EntryKind::Link => Oddity::Link,
        EntryKind::Folder => Oddity::Folder,
        EntryKind::Other => Oddity::Special,
    };
    Stray { path, what, in_place: true }
}

/// Names that sync clients and systems give their own files and folders, in
/// lower case. One that ends with `*` stands for all that begin so.
const OF_CLIENTS: [&str; 18] = [
    ".stfolder",
    ".stignore",
    ".stversions",
    ".ds_store",
    "._*",
    "desktop.ini",
    "thumbs.db",
    "lost+found",
    ".directory",
    ".dropbox*",
    ".owncloudsync.log",
    ".owncloudsync.log.*",
    ".nextcloudsync.log",
    ".nextcloudsync.log.*",
    ".trash-*",
    "icon\r",
    ".sync-exclude.lst",
    ".localized",
];

/// Whether a sync client or the system puts something of this name into a
/// folder of its user.
pub fn is_of_a_client(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let database = |rest: &str| rest.split_once(".db").is_some_and(|(id, _)| !id.is_empty());
    OF_CLIENTS.iter().any(|known| match known.strip_suffix('*') {
        Some(start) => lower.starts_with(start),
        None => lower == *known,
    }) || lower.strip_prefix(".sync_").is_some_and(database)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_clients_are_known_in_any_case_and_nothing_else_is() {
        for name in [
            ".stfolder",
            ".DS_Store",
            "._x",
            "Desktop.ini",
            "Thumbs.db",
            "lost+found",
            ".dropbox.cache",
            ".sync_1a2b.db",
            ".sync_1a2b.db-wal",
            ".Trash-1000",
            "Icon\r",
        ] {
            assert!(is_of_a_client(name), "{name}");
        }
        for name in ["", "x", ".", "Icon", ".sync_.db", "stfolder", ".ssh", "photo.jpg", ".dropbo"]
        {
            assert!(!is_of_a_client(name), "{name}");
        }
    }

    #[test]
    fn names_that_clients_make_of_ours_are_known() {
        let hex = "0123456789abcdef0123456789abcdef";
        let device = unhex(hex).unwrap();
        assert_eq!(like_device(hex), Some(Likeness::Same(device)));
        assert_eq!(like_device(&hex.to_uppercase()), Some(Likeness::Case(device)));
        for name in [
            format!("{hex} (1)"),
            format!("{hex} (conflicted copy 2026-11-23 101112)"),
            format!("{hex}-LAPTOP"),
            format!("{hex}_conflict-20261123-101112"),
            format!("{hex}.sync-conflict-20261123-101112-ABCDEFG"),
            format!("[Conflict] {hex}"),
            format!("{} 2", hex.to_uppercase()),
        ] {
            assert_eq!(like_device(&name), Some(Likeness::Like(device)), "{name}");
        }
        for name in [&hex[1..], "photos", &format!("{hex}{hex}"), &format!("{hex}0")] {
            assert_eq!(like_device(name), None, "{name}");
        }
        for name in ["head (1)", "head-LAPTOP", "head 2", "head_conflict-2026", "[Conflict] head"] {
            assert_eq!(like_folder(name, "head"), Some(Likeness::Like(())), "{name}");
        }
        assert_eq!(like_folder("HEAD", "head"), Some(Likeness::Case(())));
        assert_eq!(like_folder("heads", "head"), None);
        assert_eq!(like_folder("7 (1)", "7"), Some(Likeness::Like(())));
        assert_eq!(like_folder("1 (7)", "7"), None);
        assert_eq!(like_folder("77", "7"), None);
    }
}
