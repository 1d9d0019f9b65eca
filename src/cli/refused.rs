//! Passwords that a vault refused: a machine that starts again and again must not use
//! up its owner's tries with the same wrong password.
//!
//! A file is known by its path, inode and time of change, never by what is in it: a
//! hash here would be a test for passwords without the vault. What a command printed has
//! nothing else to be known by. One byte of a hash is kept of it: that tells it from 255 of
//! 256 others, and tells whoever reads it 8 bits of a password that is wrong.

use std::fmt::Write as _;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::args::Global;
use super::{Exit, Failure, Result, place};
use crate::crypto::{RepoId, hash, hex};
use crate::io::{DirFolder, PrivateFolder};

/// In the folder of local state.
const REFUSED: &str = "refused";
/// How many refused passwords are remembered.
const KEPT: usize = 64;
/// Passwords of commands remembered, for one repository: with each one more, one more of
/// 256 right ones is taken for a wrong one.
const PRINTED_KEPT: usize = 4;
/// What is remembered in place of an inode where a command printed the password.
const PRINTED: &str = "command";
const LIMIT: u64 = 1 << 20;

/// A password file as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordFile {
    path: PathBuf,
    inode: u64,
    changed: (i64, i64),
}

impl PasswordFile {
    /// The file that is open; `path` is where it lies.
    pub fn new(path: PathBuf, data: &Metadata) -> Self {
        let changed = (data.mtime(), data.mtime_nsec());
        Self { path, inode: data.ino(), changed }
    }

    fn line(&self, repo: &RepoId) -> String {
        let Self { path, inode, changed: (secs, nanos) } = self;
        // The path is last: it may have any characters.
        format!(
            "{} {inode} {secs} {nanos} {}",
            hex(repo),
            path.display().to_string().escape_debug()
        )
    }
}

/// A password that nobody typed, as this machine knows it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unattended {
    /// The password is in this file.
    File(PasswordFile),
    /// Printed by a command: a byte of its hash.
    Printed(u8),
}

impl Unattended {
    /// What a command printed. The byte is the same for all repositories of a machine: the
    /// same password tells no more of itself by being refused twice.
    pub fn printed(text: &str) -> Self {
        // As it is sent: without a line end.
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        let key = hash(&[b"amberfs refused password\0", &place::machine()[..]].concat());
        let mut keyed = Zeroizing::new(Vec::with_capacity(key.len() + text.len()));
        keyed.extend_from_slice(&key);
        keyed.extend_from_slice(text.as_bytes());
        Self::Printed(hash(&keyed)[0])
    }

    fn line(&self, repo: &RepoId) -> String {
        match self {
            Self::File(file) => file.line(repo),
            Self::Printed(byte) => format!("{} {PRINTED} {byte:02x}", hex(repo)),
        }
    }

    /// Fails if a vault refused this very password file, or what a command printed.
    pub fn check(&self, global: &Global, repo: &RepoId) -> Result<()> {
        let line = self.line(repo);
        let mut known = place::note_folders(global).into_iter().map(|folder| lines(&folder));
        if !known
            .try_fold(false, |found, lines| Ok::<_, Failure>(found | lines?.contains(&line)))?
        {
            return Ok(());
        }
        Err(match self {
            Self::File(file) => Failure::new(
                Exit::WrongSecret,
                format!(
                    "the vault refused the password in {} before, and the file has not changed: \
                     it was not sent again",
                    file.path.display()
                ),
            )
            .hint("put the right password there, or send it all the same with --retry"),
            Self::Printed(_) => Failure::new(
                Exit::WrongSecret,
                "the vault refused the password that a command printed before, and this is the \
                 same: it was not sent again",
            )
            .hint("let the command print the right password, or send it all the same with --retry")
            .hint("one of 256 other passwords looks the same to this machine"),
        })
    }

    /// Remembers what became of it: whether the vault refused it.
    pub fn note(&self, global: &Global, repo: &RepoId, refused: bool) -> Result<()> {
        let line = self.line(repo);
        if refused {
            return place::note_in_one(global, |folder| change(folder, &line, true));
        }
        place::note_folders(global).iter().try_for_each(|folder| change(folder, &line, false))
    }
}

/// The beginning that lines of commands' passwords for one repository have in common.
fn printed_for(line: &str) -> Option<&str> {
    let (repo, rest) = line.split_once(' ')?;
    let is_printed = rest.strip_prefix(PRINTED)?.starts_with(' ');
    is_printed.then(|| &line[..=repo.len() + PRINTED.len()])
}

fn lines(folder: &Path) -> Result<Vec<String>> {
    match DirFolder::new(folder).read(REFUSED, LIMIT) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => {
            let file = folder.join(REFUSED);
            Err(Failure::new(Exit::Other, format!("{}: {error}", file.display())))
        }
    }
}

fn change(folder: &Path, line: &str, refused: bool) -> Result<()> {
    let mut all = lines(folder)?;
    if all.iter().any(|known| known == line) == refused {
        return Ok(());
    }
    place::with_base(folder, || {
        // Again: another process may have changed it.
        all = lines(folder)?;
        all.retain(|known| known != line);
        if refused {
            if let Some(kind) = printed_for(line) {
                let same = |known: &String| printed_for(known) == Some(kind);
                let mut over = (all.iter().filter(|known| same(known)).count() + 1)
                    .saturating_sub(PRINTED_KEPT);
                // The oldest are first.
                all.retain(|known| {
                    let is_over = over > 0 && same(known);
                    over -= usize::from(is_over);
                    !is_over
                });
            }
            all.push(line.to_owned());
        }
        let mut text = String::new();
        for known in &all[all.len().saturating_sub(KEPT)..] {
            let _ = writeln!(text, "{known}");
        }
        Ok(DirFolder::new(folder).replace(REFUSED, text.as_bytes())?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_until_it_changes_and_the_oldest_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (base, path) = (dir.path().join("state"), dir.path().join("a \n file"));
        std::fs::write(&path, "x").unwrap();
        let now = || PasswordFile::new(path.clone(), &std::fs::metadata(&path).unwrap());
        let line = |file: &PasswordFile| file.line(&[7; 16]);
        let first = now();
        assert!(!line(&first).contains('\n') && lines(&base).ok().unwrap().is_empty());
        change(&base, &line(&first), true).ok().unwrap();
        change(&base, &line(&first), true).ok().unwrap();
        assert_eq!(lines(&base).ok().unwrap(), [line(&first)]);
        assert_ne!(line(&first), first.line(&[8; 16]), "of another repository");
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
        std::fs::File::open(&path).unwrap().set_modified(later).unwrap();
        assert_ne!(line(&now()), line(&first));
        change(&base, &line(&first), false).ok().unwrap();
        assert!(lines(&base).ok().unwrap().is_empty());
        for number in 0..KEPT + 5 {
            change(&base, &format!("line {number}"), true).ok().unwrap();
        }
        let kept = lines(&base).ok().unwrap();
        assert!(kept.len() == KEPT && kept[0] == "line 5");
    }

    #[test]
    fn of_what_a_command_printed_a_byte_is_kept() {
        let printed = Unattended::printed;
        for same in ["boats\n", "boats\r\n"] {
            assert_eq!(printed(same), printed("boats"));
        }
        let of_many: std::collections::HashSet<String> =
            (0..10_000).map(|number| printed(&format!("{number}")).line(&[7; 16])).collect();
        assert_eq!(of_many.len(), 256);
        let line = printed("boats").line(&[7; 16]);
        assert_ne!(line, printed("boats").line(&[8; 16]), "of another repository");
        assert!(line.len() == 32 + " command ff".len(), "{line}");

        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("state");
        let lines_of = |repo: u8, numbers: std::ops::Range<u8>| {
            let line = move |byte| Unattended::Printed(byte).line(&[repo; 16]);
            numbers.map(line).collect::<Vec<_>>()
        };
        change(&base, "a file", true).ok().unwrap();
        for line in lines_of(7, 0..6).iter().chain(&lines_of(8, 0..2)) {
            change(&base, line, true).ok().unwrap();
        }
        let kept = [vec!["a file".to_owned()], lines_of(7, 2..6), lines_of(8, 0..2)].concat();
        assert_eq!(lines(&base).ok().unwrap(), kept);
        change(&base, &lines_of(7, 3..4)[0], false).ok().unwrap();
        assert_eq!(lines(&base).ok().unwrap().len(), kept.len() - 1);
    }
}
