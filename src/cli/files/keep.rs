//! `conflicts keep`: of the versions of one file, keeps one and removes the others.
//!
//! Invariant: after each operation every database stands beside its own side files or beside
//! none, so that a crash between two of them wrecks no version. The checkpoint publishes all
//! operations in one head.

use super::super::args::{ConflictsKeepArgs, Global};
use super::super::opening::{Access, open};
use super::super::{Exit, Failure, Result};
use super::{DIR, FILE, TYPE, find, in_a_mount, names, of, shown, walk, with_cause};
use crate::format::namespace::NAME_MAX;
use crate::format::side_files::{SIDE_SUFFIXES, main_name, without_suffix};
use crate::fs::{Attr, FsError, Operations, RenameMode};
use crate::io::output;
use crate::merge::{ConflictFile, ConflictKind, VersionNames, version_names};

/// Runs `amberfs conflicts keep`: keeps one version of a file and removes the others.
pub fn keep(global: &Global, args: &ConflictsKeepArgs) -> Result<Exit> {
    let names = names(&args.path)?;
    let opened = open(global, &args.repo, Access::Write).map_err(|failure| {
        let hint =
            "in the mount, deleting the other versions and renaming the one to keep does the same";
        in_a_mount(failure, hint)
    })?;
    let fs = &opened.fs;
    walk(fs, &args.path, &names)?;
    let Some((name, above)) = names.split_last() else { return Err(no_version(&args.path)) };
    let dir = walk(fs, &args.path, above)?.ino;
    // What a crash left in the journal counts too.
    opened.publish()?;
    let all = fs.volume().conflicts_in(dir)?;
    let Some(versions) = version_names(&all, name.as_bytes()) else {
        return Err(no_version_among(&all, name.as_bytes(), &args.path));
    };
    let keeper = Keeper { fs, dir };
    keeper
        .keep(&versions, name.as_bytes(), &all)
        .map_err(|failure| with_cause(fs.take_cause(), failure))?;
    opened.publish()?;
    report(global, above, &versions, name.as_bytes())?;
    Ok(opened.exit(Exit::Done))
}

fn no_version(path: &str) -> Failure {
    let text = format!("{}: no other version of it is here", shown(path.as_bytes()));
    Failure::new(Exit::Other, text).hint("amberfs conflicts list REPO names those that are")
}

fn no_version_among(all: &[ConflictFile], name: &[u8], path: &str) -> Failure {
    let is_apart =
        |beside: &&ConflictFile| beside.conflict.kind == ConflictKind::Apart && beside.name == name;
    let Some(apart) = all.iter().find(is_apart) else { return no_version(path) };
    let text = format!(
        "{}: it is no version of {}, and must not stand beside it as a side file",
        shown(path.as_bytes()),
        shown(&apart.of)
    );
    Failure::new(Exit::Other, text).hint("delete it, or give it another name")
}

fn report(global: &Global, above: &[&str], versions: &VersionNames, kept: &[u8]) -> Result<()> {
    let path = |name: &[u8]| {
        let above: String = above.iter().flat_map(|name| [*name, "/"]).collect();
        [above.as_bytes(), name].concat()
    };
    let plain = path(&versions.plain);
    let all = std::iter::once(&versions.plain).chain(&versions.others);
    let removed: Vec<Vec<u8>> = all.filter(|name| *name != kept).map(|name| path(name)).collect();
    if global.json {
        let removed: Vec<_> = removed.iter().map(|path| String::from_utf8_lossy(path)).collect();
        output::object(&serde_json::json!({
            "message_type": "kept",
            "path": String::from_utf8_lossy(&plain),
            "removed": removed,
        }))?;
    } else if !global.quiet {
        let count = removed.len();
        let versions = if count == 1 { "version" } else { "versions" };
        note!("kept as {}; {count} other {versions} removed", shown(&plain));
    }
    Ok(())
}

struct Keeper<'a> {
    fs: &'a dyn Operations,
    dir: u64,
}

impl Keeper<'_> {
    /// Gives the version `kept` the plain name, and removes the others.
    fn keep(&self, versions: &VersionNames, kept: &[u8], all: &[ConflictFile]) -> Result<()> {
        let VersionNames { plain, others } = versions;
        if kept != plain {
            let kind = all.iter().find(|beside| beside.name == kept).map(|b| b.conflict.kind);
            self.check(plain, kept, kind)?;
            self.replace(plain, kept)?;
        }
        for other in others.iter().filter(|other| *other != kept) {
            self.remove(other).map_err(|failure| of(&shown(other), failure))?;
        }
        Ok(())
    }

    /// Fails if the version `kept` cannot have the plain name. Nothing has been changed then.
    fn check(&self, plain: &[u8], kept: &[u8], kind: Option<ConflictKind>) -> Result<()> {
        let attr = find(self.fs, self.dir, plain).map_err(|error| of(&shown(plain), error))?;
        let refused = |why: &str| {
            let text = format!("{}: {why}", shown(plain));
            Err(Failure::new(Exit::Other, text)
                .hint("delete, rename or move what is not to be kept, as any other file"))
        };
        if attr.mode & TYPE == DIR {
            return refused("a directory has this name, and no file can take its place");
        }
        if kind == Some(ConflictKind::Version) && attr.nlink > 1 {
            return refused("this file has other names too, and under these it would stay");
        }
        if let Some(main) = main_name(plain)
            && self.entry(main)?.is_some()
        {
            return refused("it stands beside a database as a side file");
        }
        for suffix in self.sides(kept)? {
            let side = [plain, suffix].concat();
            if side.len() > NAME_MAX || self.entry(&side)?.is_some_and(|attr| !is_file(&attr)) {
                return refused("there is no room beside it for the side files of the other one");
            }
        }
        Ok(())
    }

    /// Has the version `kept` take the place of the plain one.
    fn replace(&self, plain: &[u8], kept: &[u8]) -> Result<()> {
        let sides = self.sides(kept)?;
        if !sides.is_empty() || !self.sides(plain)?.is_empty() {
            self.remove(plain)?;
        }
        // While the database moves, its side files stand beside both of its names.
        for suffix in &sides {
            let ino = find(self.fs, self.dir, &[kept, *suffix].concat())?.ino;
            self.fs.link(ino, self.dir, &[plain, *suffix].concat())?;
            self.fs.forget(ino, 1);
        }
        self.fs.rename((self.dir, kept), (self.dir, plain), RenameMode::Replace)?;
        for suffix in sides {
            self.fs.unlink(self.dir, &[kept, suffix].concat())?;
        }
        Ok(())
    }

    /// Removes a version: first the database, so that it never stands without its side files.
    fn remove(&self, name: &[u8]) -> Result<()> {
        let sides = self.sides(name)?;
        self.fs.unlink(self.dir, name)?;
        for suffix in sides {
            self.fs.unlink(self.dir, &[name, suffix].concat())?;
        }
        Ok(())
    }

    /// What the names of the side files beside a file add to its name.
    fn sides(&self, name: &[u8]) -> Result<Vec<&'static [u8]>> {
        let mut found = Vec::new();
        if without_suffix(name).is_none() && self.entry(name)?.is_some_and(|attr| is_file(&attr)) {
            for suffix in SIDE_SUFFIXES {
                if self.entry(&[name, suffix].concat())?.is_some_and(|attr| is_file(&attr)) {
                    found.push(suffix);
                }
            }
        }
        Ok(found)
    }

    /// What has a name in the directory.
    fn entry(&self, name: &[u8]) -> Result<Option<Attr>> {
        match find(self.fs, self.dir, name) {
            Ok(attr) => Ok(Some(attr)),
            // No entry has a name of more than 255 bytes.
            Err(FsError::NotFound | FsError::NameTooLong) => Ok(None),
            Err(error) => Err(of(&shown(name), error)),
        }
    }
}

fn is_file(attr: &Attr) -> bool {
    attr.mode & TYPE == FILE
}
