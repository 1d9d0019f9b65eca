//! `put`, `ls`, `cat`, `extract`, `restore` and `conflicts`: without FUSE.
//!
//! Invariant: a file that could not be copied as it is was named, and the
//! command ends with an error or with [`Exit::Partial`].

mod beneath;
mod chain;
mod conflicts;
mod extract;
mod keep;
mod list;
mod put;
mod restore;
mod source;

use std::collections::HashSet;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use super::args::Global;
use super::{Exit, Failure, Result};
use crate::format::namespace::ROOT;
use crate::fs::{Attr, FsError, Operations};
use crate::io::output;

pub use conflicts::conflicts;
pub use extract::extract;
pub use keep::keep;
pub use list::{cat, ls};
pub use put::put;
pub use restore::restore;

/// Bytes read or written at once.
const PIECE: usize = 1 << 20;
const TYPE: u32 = 0o170_000;
const DIR: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const SOCKET: u32 = 0o140_000;
const FIFO: u32 = 0o010_000;

/// Extended attributes that hold the lists of acl(5): who may, and what new
/// files in a folder inherit.
const ACL: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// The names in a PATH of the command line, from the root of the repository.
/// None for `/`.
fn names(path: &str) -> Result<Vec<&str>> {
    if path == "/" {
        return Ok(Vec::new());
    }
    let inner = path.strip_prefix('/').unwrap_or(path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    let names: Vec<&str> = inner.split('/').collect();
    if names.iter().any(|name| matches!(*name, "" | "." | "..") || name.contains('\0')) {
        let text = format!("{}: not a path in a repository", shown(path.as_bytes()));
        return Err(Failure::new(Exit::Usage, text)
            .hint("it is written from the repository's root, without . and .. and empty names"));
    }
    Ok(names)
}

/// A name for people.
pub(super) fn shown(name: &[u8]) -> String {
    crate::io::shown(&String::from_utf8_lossy(name)).into_owned()
}

fn shown_path(path: &Path) -> String {
    shown(path.as_os_str().as_encoded_bytes())
}

/// A failure with what it is about before its message.
fn of(what: &str, failure: impl Into<Failure>) -> Failure {
    let mut failure = failure.into();
    failure.message = format!("{what}: {}", failure.message);
    failure
}

/// A failure with what the system answered, where that is why.
pub(super) fn with_cause(cause: Option<String>, mut failure: Failure) -> Failure {
    if let Some(cause) = cause {
        failure.message = format!("{}: {cause}", failure.message);
    }
    failure
}

/// A failure to open, with what to do where a mount has the repository.
fn in_a_mount(failure: Failure, hint: &str) -> Failure {
    if failure.code == Exit::InUse { failure.hint(hint) } else { failure }
}

/// Looks a name up, and leaves no trace in memory.
fn find(fs: &dyn Operations, dir: u64, name: &[u8]) -> std::result::Result<Attr, FsError> {
    let attr = fs.lookup(dir, name)?;
    fs.forget(attr.ino, 1);
    Ok(attr)
}

/// Walks from the root; symlinks are not followed.
fn walk(fs: &dyn Operations, path: &str, names: &[&str]) -> Result<Attr> {
    let named = |error: FsError| of(&shown(path.as_bytes()), error);
    let mut attr = fs.getattr(ROOT).map_err(named)?;
    for (depth, name) in names.iter().enumerate() {
        if attr.mode & TYPE == LINK {
            return Err(link_in_the_way(&names[..depth]));
        }
        attr = find(fs, attr.ino, name.as_bytes()).map_err(named)?;
    }
    Ok(attr)
}

fn link_in_the_way(names: &[&str]) -> Failure {
    let path = shown(names.join("/").as_bytes());
    Failure::new(
        Exit::Other,
        format!("/{path} is a symlink in the repository, and those are not followed"),
    )
}

/// Names and what has them.
type Entries = Vec<(Vec<u8>, Attr)>;

/// What a folder holds, by name.
fn entries(fs: &dyn Operations, dir: u64) -> std::result::Result<Entries, FsError> {
    let mut found = Vec::new();
    fs.readdir(dir, 0, true, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            found.push((entry.name.clone(), entry.attr));
        }
        true
    })?;
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Folders walked through. One that comes a second time is damage: a folder has
/// one name, so it would be within itself.
#[derive(Default)]
struct Seen(HashSet<u64>);

impl Seen {
    fn enter(&mut self, dir: u64) -> Result<()> {
        if self.0.insert(dir) {
            return Ok(());
        }
        Err(Failure::new(Exit::Damage, "this folder has a second name: the repository is damaged"))
    }
}

/// Counts and reports files that a command leaves out. The command goes on, and ends with
/// code 3.
#[derive(Default)]
struct LeftOut {
    count: u64,
    /// Kinds of things of which the first was reported.
    kinds: HashSet<String>,
}

impl LeftOut {
    /// Names one thing that was left out.
    fn name(&mut self, bar: &ProgressBar, what: &str, why: impl std::fmt::Display) {
        self.count += 1;
        bar.suspend(|| note!("amberfs: {what}: {why}"));
    }

    /// Counts and names something that is left out, where a failure says what it is.
    fn report(&mut self, failure: &Failure) {
        self.count += 1;
        super::print_failure(failure);
    }

    /// Counts what is left out, and names it if it is the first of its kind: many may be
    /// left out for one reason.
    fn name_once(&mut self, bar: &ProgressBar, kind: &str, what: &str, why: &std::io::Error) {
        self.count += 1;
        if self.kinds.insert(format!("{kind} {:?}", why.raw_os_error())) {
            bar.suspend(|| {
                note!("amberfs: {what}: {kind} was left out, here and wherever else: {why}");
            });
        }
    }

    /// The exit code of the command.
    fn exit(&self) -> Exit {
        if self.count == 0 { Exit::Done } else { Exit::Partial }
    }
}

/// Bytes done, of `total` if that is known; shown on a terminal only.
fn progress(global: &Global, total: Option<u64>) -> ProgressBar {
    if global.quiet || global.json || !output::messages_are_on_a_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => {
            (ProgressBar::new(total), "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}, {bytes_per_sec}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("a constant that is valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_the_root_and_odd_ones_refused() {
        assert_eq!(names("/").unwrap(), Vec::<&str>::new());
        for path in ["a/b", "/a/b", "a/b/", "/a/b/"] {
            assert_eq!(names(path).unwrap(), ["a", "b"]);
        }
        assert_eq!(names("...").unwrap(), ["..."]);
        for path in ["", ".", "..", "//", "a//b", "/a/..", "./a", "a/./b", "a//", "a\0b"] {
            assert_eq!(names(path).unwrap_err().code, Exit::Usage, "{path:?}");
        }
    }

    #[test]
    fn a_folder_is_entered_once() {
        let mut seen = Seen::default();
        assert!(seen.enter(1).is_ok() && seen.enter(2).is_ok());
        assert_eq!(seen.enter(1).unwrap_err().code, Exit::Damage);
    }
}
