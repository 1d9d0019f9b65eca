//! `put`.
//!
//! Invariant: what is put lies under a name of its own until it is whole, then
//! takes the place of what had its name. So a file that cannot be read leaves
//! the one before, and a file's other names keep what they had.
//!
//! Invariant: SOURCE is walked by open folders (see [`super::beneath`]), so
//! nothing is put that does not lie below it, whoever exchanges what there is
//! meanwhile.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use indicatif::ProgressBar;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::super::args::{Global, PutArgs};
use super::super::opening::{Access, open};
use super::super::place::canonical;
use super::super::{Exit, Failure, Result};
use super::beneath::{self, Folder, Identity, held, is_no_folder};
use super::chain::Chain;
use super::source::{Level, Source};
use super::{
    ACL, DIR, FILE, LINK, LeftOut, PIECE, SOCKET, TYPE, find, link_in_the_way, names, of, progress,
    shown, shown_path, with_cause,
};
use crate::crypto::{hex, unhex};
use crate::format::namespace::{NAME_MAX, ROOT, XATTR_MAX};
use crate::fs::{Attr, Caller, FsError, Operations, RenameMode, SetAttr, TimeSet, has_namespace};
use crate::io::{Random, SystemRandom, Timestamp, output};

/// Most bytes of names of extended attributes, and of a value (xattr(7)).
const XATTR_ROOM: usize = 64 << 10;

/// Most bytes of a file that tells no length. Those of /proc have far less; a log
/// that was empty a moment ago could grow for ever.
const UNTOLD_MOST: u64 = 64 << 20;

/// `put`.
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
    /// It is left out, and the rest goes on.
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
                self.sweep(dir)?;
                // As if it were written into what is there.
                let mode = match find(self.fs, dir, name) {
                    Ok(attr) if attr.mode & TYPE == FILE => attr.mode & 0o777,
                    _ => 0o644,
                };
                let fill = |putter: &mut Self, ino| {
                    let bytes = putter
                        .stream(ino, &mut io::stdin().lock())
                        .map_err(|error| error.of("standard input"))?;
                    putter.settle(ino, mode, None)?;
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
                self.sweep(dir)?;
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
                self.sweep(attr.ino)?;
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
                self.settle(ino, self.mode(&data), Some(&data))?;
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
        self.settle(level.dir, self.mode(&level.data), Some(&level.data))
    }

    /// Removes what a `put` that was killed had not finished in this folder.
    /// Nobody else is at it: local state is locked.
    fn sweep(&self, dir: u64) -> Put<()> {
        let mut old = Vec::new();
        self.fs.readdir(dir, 0, false, &mut |entry| {
            if is_temporary(&entry.name) && entry.attr.mode & TYPE != DIR {
                old.push(entry.name.clone());
            }
            true
        })?;
        for name in old {
            self.fs.unlink(dir, &name)?;
        }
        Ok(())
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
                putter.settle(ino, putter.mode(&data), Some(&data))?;
                Ok(0)
            })?;
        }
        if data.nlink() > 1 {
            self.links.insert(identity, find(self.fs, dir, name)?.ino);
        }
        Ok(())
    }

    /// Makes something under a name of its own, lets `fill` make it whole, and
    /// puts it where it belongs.
    fn fresh(
        &mut self,
        dir: u64,
        name: &[u8],
        kind: u32,
        rdev: u32,
        fill: impl FnOnce(&mut Self, u64) -> Put<u64>,
    ) -> Put<()> {
        self.check_replaceable(dir, name)?;
        let temporary = temporary();
        let ino = self.fs.mknod(self.caller, dir, &temporary, kind | 0o600, rdev)?.ino;
        let filled = fill(self, ino);
        self.place(dir, &temporary, name, ino, filled)
    }

    fn fresh_link(
        &mut self,
        source: &Path,
        found: &File,
        data: &Metadata,
        dir: u64,
        name: &[u8],
        target: &[u8],
    ) -> Put<()> {
        self.check_replaceable(dir, name)?;
        let temporary = temporary();
        let ino = self.fs.symlink(self.caller, dir, &temporary, target)?.ino;
        let filled = self
            .held_attributes(source, found, ino)
            .and_then(|()| self.settle(ino, 0o777, Some(data)))
            .map(|()| 0);
        self.place(dir, &temporary, name, ino, filled)
    }

    /// Renames what is whole, and removes what is not.
    fn place(
        &mut self,
        dir: u64,
        temporary: &[u8],
        name: &[u8],
        ino: u64,
        filled: Put<u64>,
    ) -> Put<()> {
        let placed = filled.and_then(|bytes| {
            self.fs.rename((dir, temporary), (dir, name), RenameMode::Replace)?;
            Ok(bytes)
        });
        if placed.is_err() {
            // Why it failed is told; this cannot fail for another reason.
            let _ = self.fs.unlink(dir, temporary);
        }
        self.fs.forget(ino, 1);
        self.bytes += placed?;
        self.files += 1;
        Ok(())
    }

    /// Another name for a file that was put already.
    fn link(&mut self, first: u64, dir: u64, name: &[u8]) -> Put<()> {
        match find(self.fs, dir, name) {
            // A rename onto another name of the same file does nothing.
            Ok(attr) if attr.ino == first => return Ok(()),
            _ => self.check_replaceable(dir, name)?,
        }
        let temporary = temporary();
        let ino = self.fs.link(first, dir, &temporary)?.ino;
        self.place(dir, &temporary, name, ino, Ok(0))
    }

    fn check_replaceable(&self, dir: u64, name: &[u8]) -> Put<()> {
        match find(self.fs, dir, name) {
            Ok(attr) if attr.mode & TYPE == DIR => Err(in_the_way(&attr)),
            Ok(_) | Err(FsError::NotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Content and attributes of an open file.
    fn file(&mut self, source: &Path, file: &File, data: &Metadata, ino: u64) -> Put<u64> {
        let bytes = if data.len() == 0 {
            // Files of /proc have a length only once they are read.
            self.stream(ino, &mut file.take(UNTOLD_MOST))?
        } else {
            self.content(ino, file, data.len())?
        };
        self.attributes(
            source,
            ino,
            |room| rustix::fs::flistxattr(file, room),
            |name, room| rustix::fs::fgetxattr(file, name, room),
        )?;
        self.settle(ino, self.mode(data), Some(data))?;
        if data.len() == 0 && bytes == UNTOLD_MOST {
            let why = format!("it tells no length: what comes after {bytes} bytes is left out");
            self.left_out.name(&self.bar, &shown_path(source), why);
        }
        let after = file.metadata()?;
        let time = |data: &Metadata| (data.mtime(), data.mtime_nsec());
        if (after.len(), time(&after)) != (data.len(), time(data)) {
            let shown = shown_path(source);
            self.left_out.name(&self.bar, &shown, "changed while it was read; put it again");
        }
        Ok(bytes)
    }

    /// Copies the bytes below `len` that are not holes: what is appended
    /// meanwhile could go on for ever.
    fn content(&mut self, ino: u64, file: &File, len: u64) -> Put<u64> {
        let mut buffer = vec![0; PIECE];
        let (mut at, mut end, mut written) = (0, 0, 0);
        while at < len {
            if at == end {
                at = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                    Ok(data) => data,
                    // All holes from here on.
                    Err(Errno::NXIO) => break,
                    // A file system without holes.
                    Err(_) => at,
                };
                end = rustix::fs::seek(file, SeekFrom::Hole(at)).unwrap_or(len).clamp(at, len);
                if at >= len {
                    break;
                }
                if end == at {
                    end = len;
                }
            }
            let want = (end - at).min(PIECE as u64) as usize;
            let read = file.read_at(&mut buffer[..want], at)?;
            if read == 0 {
                // It is shorter by now.
                self.resize(ino, at)?;
                return Ok(at);
            }
            self.fs.write(ino, at, &buffer[..read], false)?;
            at += read as u64;
            written = at;
            self.bar.inc(read as u64);
        }
        if written < len {
            // The rest is a hole.
            self.resize(ino, len)?;
        }
        Ok(len)
    }

    fn resize(&self, ino: u64, size: u64) -> Put<()> {
        self.fs.setattr(ino, &SetAttr { size: Some(size), ..SetAttr::default() })?;
        Ok(())
    }

    /// Copies up to the end.
    fn stream(&mut self, ino: u64, source: &mut dyn Read) -> Put<u64> {
        let mut buffer = Vec::with_capacity(PIECE);
        let mut at = 0u64;
        loop {
            buffer.clear();
            source.take(PIECE as u64).read_to_end(&mut buffer)?;
            if buffer.is_empty() {
                return Ok(at);
            }
            self.fs.write(ino, at, &buffer, false)?;
            at += buffer.len() as u64;
            self.bar.inc(buffer.len() as u64);
        }
    }

    /// Permissions as they are to be stored. What runs as its owner must not
    /// become something that runs as whoever puts it.
    fn mode(&self, data: &Metadata) -> u32 {
        let mut mode = data.mode() & 0o7777;
        if data.uid() != self.caller.uid {
            mode &= !0o4000;
        }
        if data.gid() != self.caller.gid {
            mode &= !0o2000;
        }
        mode
    }

    /// The last that is set: owner, mode, and the time of the source.
    fn settle(&self, ino: u64, mode: u32, data: Option<&Metadata>) -> Put<()> {
        let mtime = data.map(|data| {
            TimeSet::At(Timestamp { secs: data.mtime(), nanos: data.mtime_nsec() as u32 })
        });
        self.fs.setattr(
            ino,
            &SetAttr {
                // Not the group of a folder that gives its own.
                uid: Some(self.caller.uid),
                gid: Some(self.caller.gid),
                mode: Some(mode),
                mtime,
                ..SetAttr::default()
            },
        )?;
        Ok(())
    }

    /// Gives inode `ino` the attributes of a source file that is known by an open
    /// descriptor alone.
    fn held_attributes(&mut self, source: &Path, found: &File, ino: u64) -> Put<()> {
        let path = held(found);
        self.attributes(
            source,
            ino,
            |room| rustix::fs::listxattr(&path, room),
            |name, room| rustix::fs::getxattr(&path, name, room),
        )
    }

    /// Makes the extended attributes those of the source.
    fn attributes(
        &mut self,
        source: &Path,
        ino: u64,
        list: impl FnOnce(&mut [u8]) -> rustix::io::Result<usize>,
        get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
    ) -> Put<()> {
        let mut room = vec![0; XATTR_ROOM];
        let len = match list(&mut room) {
            Ok(len) => len,
            // The file system has none.
            Err(Errno::NOTSUP) => 0,
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let is_root = self.caller.uid == 0;
        let wanted = |name: &[u8]| {
            ACL.contains(&name) || has_namespace(name) && (is_root || name.starts_with(b"user."))
        };
        let names: Vec<&[u8]> = room[..len]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty() && wanted(name))
            .collect();
        for old in self.fs.listxattr(ino)? {
            if !names.contains(&old.as_slice()) {
                self.fs.removexattr(ino, &old)?;
            }
        }
        let mut value = vec![0; XATTR_ROOM];
        for name in names {
            let kind = format!("attribute {}", shown(name));
            let why = match get(name, &mut value) {
                // It is gone by now.
                Err(Errno::NODATA) => continue,
                Err(error) => error.into(),
                Ok(len) if len > XATTR_MAX || name.len() > NAME_MAX => {
                    io::Error::other(format!("it has {len} bytes, and {XATTR_MAX} are the most"))
                }
                Ok(len) => match self.fs.setxattr(ino, name, &value[..len], 0) {
                    Ok(()) => continue,
                    // It may be one too many. If room is what is missing, what
                    // comes next says so.
                    Err(FsError::NoSpace) => io::Error::other("there is no room for it"),
                    Err(error) => return Err(error.into()),
                },
            };
            self.left_out.name_once(&self.bar, &kind, &shown_path(source), &why);
        }
        Ok(())
    }
}

fn shown_names(names: &[&str]) -> String {
    format!("/{}", shown(names.join("/").as_bytes()))
}

fn in_the_way(attr: &Attr) -> Trouble {
    left(match attr.mode & TYPE {
        DIR => "there is a folder of this name in the repository",
        LINK => "there is a symlink of this name in the repository, and those are not followed",
        SOCKET | FILE => "there is a file of this name in the repository",
        _ => "something has this name in the repository",
    })
}

const TEMPORARY: &[u8] = b".amberfs-put-";

/// A name that nothing has.
fn temporary() -> Vec<u8> {
    let mut random = [0; 8];
    SystemRandom.fill(&mut random);
    [TEMPORARY, hex(&random).as_bytes()].concat()
}

fn is_temporary(name: &[u8]) -> bool {
    name.strip_prefix(TEMPORARY)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .is_some_and(|digits| unhex::<8>(digits).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_what_is_not_whole_are_known_again() {
        assert!(is_temporary(&temporary()) && temporary() != temporary());
        for name in [&b".amberfs-put-"[..], b".amberfs-put-0123456789abcdeF", b".amberfs-0", b"a"] {
            assert!(!is_temporary(name));
        }
    }
}
