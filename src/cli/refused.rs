//! Password files that a vault refused: a machine that starts again and again must
//! not use up its owner's tries with the same wrong password.
//!
//! A file is known by its path, inode and time of change, never by what is in it: a
//! hash here would be a test for passwords without the vault.

use std::fmt::Write as _;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::args::Global;
use super::{Code, Failure, Result, place};
use crate::crypto::{RepoId, hex};
use crate::io::{DirFolder, PrivateFolder};

/// In the folder of local state.
const REFUSED: &str = "refused";
/// Files remembered.
const KEPT: usize = 64;
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

    /// Fails if a vault refused this very file.
    pub fn check(&self, global: &Global, repo: &RepoId) -> Result<()> {
        let line = self.line(repo);
        let mut known = place::note_folders(global).into_iter().map(|folder| lines(&folder));
        if !known
            .try_fold(false, |found, lines| Ok::<_, Failure>(found | lines?.contains(&line)))?
        {
            return Ok(());
        }
        Err(Failure::new(
            Code::WrongSecret,
            format!(
                "the vault refused the password in {} before, and the file has not changed: it \
                 was not sent again",
                self.path.display()
            ),
        )
        .hint("put the right password there, or send it all the same with --retry"))
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

fn lines(folder: &Path) -> Result<Vec<String>> {
    match DirFolder::new(folder).read(REFUSED, LIMIT) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => {
            let file = folder.join(REFUSED);
            Err(Failure::new(Code::Other, format!("{}: {error}", file.display())))
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
}
