//! `put`.
//!
//! Invariant: what is put lies under a name of its own until it is whole, then
//! takes the place of what had its name. So a file that cannot be read leaves
//! the one before, and a file's other names keep what they had.
//!
//! Invariant: SOURCE is walked by open folders (see [`super::beneath`]), so
//! nothing is put that does not lie below it, whoever exchanges what there is
//! meanwhile.

mod contents;
mod placing;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use indicatif::ProgressBar;

use super::super::args::{Global, PutArgs};
use super::super::opening::{Access, open};
use super::super::place::canonical;
use super::super::{Exit, Failure, Result};
use super::beneath::{self, Folder, Identity, is_no_folder};
use super::chain::Chain;
use super::source::{Level, Source};
use super::{
    DIR, FILE, LINK, LeftOut, TYPE, find, link_in_the_way, names, of, progress, shown, shown_path,
    with_cause,
};
use crate::format::namespace::ROOT;
use crate::fs::{Caller, FsError, Operations};
use crate::io::output;
use placing::in_the_way;
pub(super) use placing::{sweep, temporary};

/// Runs `amberfs put`: copies files into a repository.
pub fn put(global: &Global, args: &PutArgs) -> Result<Exit> {
    let names = names(&args.path)?;
    let repo = std::fs::metadata(canonical(&args.repo)?)?;
    let opened = open(global, &args.repo, Access::Write)?;
    let fs = &opened.fs;
    let mut putter = Putter {
        fs,
        caller: Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        },
        repo: (repo.dev(), repo.ino()),
        links: HashMap::new(),
        files: 0,
        bytes: 0,
        left_out: LeftOut::default(),
        bar: progress(global, None),
    };
    let put = putter.all(args, &names);
    putter.bar.finish_and_clear();
    put.map_err(|trouble| match trouble {
        Trouble::Left(failure) | Trouble::Over(failure) => with_cause(fs.take_cause(), failure),
    })?;
    let published = fs.checkpoint().map_err(|error| with_cause(fs.take_cause(), error.into()))?;
    let left_out = putter.left_out.count;
    if global.json {
        output::object(&serde_json::json!({
            "message_type": "summary",
            "files": putter.files,
            "bytes": putter.bytes,
            "left_out": left_out,
            "objects": published.as_ref().map_or(0, |published| published.objects.0),
            "uploaded_bytes": published
                .as_ref()
                .map_or(0, |published| published.objects.1 + published.head_bytes),
        }))?;
    } else if !global.quiet || left_out > 0 {
        let rest = if left_out == 0 { String::new() } else { format!("; {left_out} left out") };
        let (files, bytes) = (putter.files, putter.bytes);
        note!("{files} files, {bytes} bytes, all in the repository folder{rest}");
    }
    Ok(opened.exit(putter.left_out.exit()))
}

/// Why something was not put.
enum Trouble {
    /// The file is left out, and the command goes on.
    Left(Failure),
    /// Nothing more can be put.
    Over(Failure),
}

impl From<FsError> for Trouble {
    fn from(error: FsError) -> Self {
        let failure = Failure::from(error);
        match error {
            FsError::NoSpace
            | FsError::ReadOnly
            | FsError::Stale
            | FsError::Io
            | FsError::NotHere
            | FsError::Damaged => Self::Over(failure),
            _ => Self::Left(failure),
        }
    }
}

/// Of the source; errors of the repository are [`FsError`]s.
impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        // A source has no room that could be used up: this is no code 28.
        Self::Left(Failure::new(Exit::Other, error))
    }
}

impl Trouble {
    fn of(self, what: &str) -> Self {
        match self {
            Self::Left(failure) => Self::Left(of(what, failure)),
            Self::Over(failure) => Self::Over(of(what, failure)),
        }
    }
}

type Put<T> = std::result::Result<T, Trouble>;

fn left(text: impl Into<String>) -> Trouble {
    Trouble::Left(Failure::new(Exit::Other, text.into()))
}

struct Putter<'a> {
    fs: &'a dyn Operations,
    caller: Caller,
    repo: Identity,
    /// Files with several names that were put under one.
    links: HashMap<Identity, u64>,
    files: u64,
    bytes: u64,
    left_out: LeftOut,
    bar: ProgressBar,
}

impl Putter<'_> {
    /// Everything but the checkpoint.
    fn all(&mut self, args: &PutArgs, names: &[&str]) -> Put<()> {
        let source = Source::open(args.from.as_deref(), self.repo).map_err(Trouble::Over)?;
        let (parents, last) = match names.split_last() {
            Some((last, parents)) => (parents, Some(last.as_bytes())),
            None => (names, source.own_name()),
        };
        let mut dir = ROOT;
        for (depth, name) in parents.iter().enumerate() {
            dir = self.way(dir, name.as_bytes(), &names[..=depth])?;
        }
        match (source, last) {
            (Source::Stdin, Some(name)) => {
                sweep(self.fs, dir)?;
                // As if it were written into what is there.
                let mode = match find(self.fs, dir, name) {
                    Ok(attr) if attr.mode & TYPE == FILE => attr.mode & 0o777,
                    _ => 0o644,
                };
                let fill = |putter: &mut Self, ino| {
                    let bytes = putter
                        .stream(ino, &mut io::stdin().lock())
                        .map_err(|error| error.of("standard input"))?;
                    putter.set_final_attributes(ino, mode, None)?;
                    Ok(bytes)
                };
                self.fresh(dir, name, FILE, 0, fill).map_err(|error| error.of(&shown_names(names)))
            }
            (Source::Folder(source, folder), name) => {
                let target = match name {
                    Some(name) => self.way(dir, name, names)?,
                    None => ROOT,
                };
                self.tree(source, folder, target, target != ROOT)
            }
            (Source::File(source, file), Some(name)) => {
                sweep(self.fs, dir)?;
                self.leaf(source, &file, || beneath::read(source), dir, name)
                    .map_err(|error| error.of(&shown_path(source)))
            }
            _ => Err(Trouble::Over(Failure::new(Exit::Usage, "no name to put it under"))),
        }
    }

    /// The folder that a part of PATH names, made if it is not there.
    fn way(&self, dir: u64, name: &[u8], names: &[&str]) -> Put<u64> {
        let named = |error: Trouble| error.of(&shown_names(names));
        match find(self.fs, dir, name) {
            Ok(attr) if attr.mode & TYPE == LINK => Err(Trouble::Over(link_in_the_way(names))),
            Ok(attr) if attr.mode & TYPE != DIR => Err(named(FsError::NotDir.into())),
            Ok(attr) => Ok(attr.ino),
            Err(FsError::NotFound) => {
                let made = self.fs.mkdir(self.caller, dir, name, 0o755).map_err(Trouble::from);
                let ino = made.map_err(named)?.ino;
                self.fs.forget(ino, 1);
                Ok(ino)
            }
            Err(error) => Err(named(error.into())),
        }
    }

    /// Puts what is in a folder and all below; without recursion, since it is as
    /// deep as somebody made it.
    fn tree(&mut self, source: &Path, folder: Folder, dir: u64, dress: bool) -> Put<()> {
        let top = Level::new(&folder, dir)
            .map_err(|error| Trouble::from(error).of(&shown_path(source)))?;
        let mut levels = vec![top];
        let mut chain = Chain::new(folder);
        let mut path = source.to_path_buf();
        while let Some(level) = levels.last_mut() {
            if let (Some(name), Some(folder)) = (level.children.next(), chain.last()) {
                path.push(&name);
                match self.child(folder, &path, level.dir, name.as_bytes()) {
                    Ok(Some((folder, next))) => {
                        levels.push(next);
                        chain.go_into(name.as_bytes(), folder);
                        continue;
                    }
                    Ok(None) => (),
                    Err(failed) => self.go_on(&path, Err(failed))?,
                }
                path.pop();
                continue;
            }
            let level = levels.pop().expect("it is the last");
            if dress || !levels.is_empty() {
                let dressed = self.dress_folder(&path, chain.last(), &level);
                self.go_on(&path, dressed)?;
            }
            let came_back = chain.leave();
            path.pop();
            if let (Err(error), Some(above)) = (came_back, levels.last_mut()) {
                above.children = Vec::new().into_iter();
                let why = left(format!("it was moved, and the rest is left out: {error}"));
                self.go_on(&path, Err(why))?;
            }
        }
        Ok(())
    }

    /// Names what is left out.
    fn go_on(&mut self, source: &Path, put: Put<()>) -> Put<()> {
        match put {
            Ok(()) => Ok(()),
            Err(Trouble::Left(failure)) => {
                self.left_out.name(&self.bar, &shown_path(source), failure.message);
                Ok(())
            }
            Err(over) => Err(over.of(&shown_path(source))),
        }
    }

    /// Puts a file, or begins with a folder.
    fn child(
        &mut self,
        folder: &Folder,
        source: &Path,
        dir: u64,
        name: &[u8],
    ) -> Put<Option<(Folder, Level)>> {
        let found = folder.look(name)?;
        let data = found.metadata()?;
        if !data.is_dir() {
            let put = self.leaf(source, &found, || folder.read(name), dir, name);
            return put.map(|()| None);
        }
        let entered = match folder.enter(name) {
            Err(error) if is_no_folder(&error) => {
                return Err(left("it became something else while it was opened"));
            }
            entered => entered,
        };
        let identity = entered.as_ref().map_or((data.dev(), data.ino()), Folder::identity);
        if identity == self.repo {
            return Err(left("this is the repository itself"));
        }
        let ino = match find(self.fs, dir, name) {
            Ok(attr) if attr.mode & TYPE == DIR => {
                sweep(self.fs, attr.ino)?;
                attr.ino
            }
            Ok(attr) => return Err(in_the_way(&attr)),
            Err(FsError::NotFound) => {
                // As it will be when all is in it.
                let ino = self.fs.mkdir(self.caller, dir, name, 0o700)?.ino;
                self.fs.forget(ino, 1);
                ino
            }
            Err(error) => return Err(error.into()),
        };
        let opened = entered.and_then(|folder| Ok((Level::new(&folder, ino)?, folder)));
        match opened {
            Ok((level, folder)) => Ok(Some((folder, level))),
            Err(error) => {
                self.set_final_attributes(ino, self.mode(&data), Some(&data))?;
                Err(error.into())
            }
        }
    }

    /// Gives a folder what the one in the source has; without its extended
    /// attributes if that is not open any more.
    fn dress_folder(&mut self, source: &Path, folder: Option<&Folder>, level: &Level) -> Put<()> {
        if let Some(folder) = folder {
            self.attributes(
                source,
                level.dir,
                |room| rustix::fs::flistxattr(folder, room),
                |name, room| rustix::fs::fgetxattr(folder, name, room),
            )?;
        }
        self.set_final_attributes(level.dir, self.mode(&level.data), Some(&level.data))
    }

    /// Puts what is no folder. `found` holds it; `read` opens what has its name, if
    /// it is a regular file.
    fn leaf(
        &mut self,
        source: &Path,
        found: &File,
        read: impl FnOnce() -> io::Result<File>,
        dir: u64,
        name: &[u8],
    ) -> Put<()> {
        let mut data = found.metadata()?;
        let file = if data.is_file() { Some(read()?) } else { None };
        if let Some(file) = &file {
            // What is open counts, whatever the name meant a moment ago.
            data = file.metadata()?;
        }
        let kind = data.file_type();
        let identity = (data.dev(), data.ino());
        if data.nlink() > 1
            && let Some(first) = self.links.get(&identity)
        {
            return self.link(*first, dir, name);
        }
        if let Some(file) = &file {
            self.fresh(dir, name, FILE, 0, |putter, ino| putter.file(source, file, &data, ino))?;
        } else if kind.is_symlink() {
            let target = rustix::fs::readlinkat(found, "", Vec::new()).map_err(io::Error::from)?;
            self.fresh_link(source, found, &data, dir, name, target.to_bytes())?;
        } else if kind.is_socket() {
            return Err(left("sockets are not put"));
        } else {
            let mode = data.mode() & TYPE;
            self.fresh(dir, name, mode, data.rdev() as u32, |putter, ino| {
                putter.held_attributes(source, found, ino)?;
                putter.set_final_attributes(ino, putter.mode(&data), Some(&data))?;
                Ok(0)
            })?;
        }
        if data.nlink() > 1 {
            self.links.insert(identity, find(self.fs, dir, name)?.ino);
        }
        Ok(())
    }
}

fn shown_names(names: &[&str]) -> String {
    format!("/{}", shown(names.join("/").as_bytes()))
}
