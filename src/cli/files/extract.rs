//! `extract`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::super::args::{ExtractArgs, Global};
use super::super::opening::open_at;
use super::super::place::canonical;
use super::super::{Exit, Failure, Result};
use super::beneath::{Folder, Fresh, Identity, held};
use super::chain::Chain;
use super::{
    ACL, DIR, Entries, FIFO, FILE, LINK, LeftOut, PIECE, SOCKET, Seen, TYPE, entries, names, of,
    progress, shown_path, walk, with_cause,
};
use crate::format::namespace::ROOT;
use crate::fs::{Attr, FsError, Operations, Seek};
use crate::io::{Timestamp, output};

/// Runs `amberfs extract`: copies files out of a repository.
pub fn extract(global: &Global, args: &ExtractArgs) -> Result<Exit> {
    let parsed = args.paths.iter().map(|path| names(path)).collect::<Result<Vec<_>>>()?;
    let repo = canonical(&args.repo)?;
    check_outside(&repo, &args.dest)?;
    let opened = open_at(global, &args.repo, args.at.at.as_ref())?;
    let fs = &opened.fs;
    let all = args.paths.is_empty();
    let mut left_out = LeftOut::default();
    let tops = if all { vec![entries(fs, ROOT)?] } else { tops(fs, args, parsed, &mut left_out)? };
    let repo = std::fs::metadata(repo)?;
    let repo = (repo.dev(), repo.ino());
    let dest =
        open_dest(&args.dest, repo).map_err(|failure| of(&shown_path(&args.dest), failure))?;
    let bar = progress(global, all.then(|| fs.progress().bytes));
    let mut extractor = Extractor {
        fs,
        cause: &|| fs.take_cause(),
        dest: &dest,
        repo,
        shown: &args.dest,
        is_root: rustix::process::geteuid().is_root(),
        links: HashMap::new(),
        folders: Vec::new(),
        files: 0,
        left_out,
        bar,
    };
    let mut done = Ok(());
    for top in tops {
        done = done.and_then(|()| extractor.tree(top));
    }
    extractor.close_folders();
    extractor.bar.finish_and_clear();
    done?;
    let count = extractor.left_out.count;
    if global.json {
        output::object(&serde_json::json!({
            "message_type": "summary",
            "files": extractor.files,
            "bytes": extractor.bar.position(),
            "left_out": count,
        }))?;
    } else if count > 0 {
        note!("amberfs: {count} files or attributes of files were left out");
    }
    Ok(opened.exit(extractor.left_out.exit()))
}

/// What the PATHs lead to, looked up before anything is written. One that is not
/// there is named and left out; an error if nothing is left.
fn tops(
    fs: &dyn Operations,
    args: &ExtractArgs,
    parsed: Vec<Vec<&str>>,
    left_out: &mut LeftOut,
) -> Result<Vec<Entries>> {
    let mut tops = Vec::new();
    let mut failures = Vec::new();
    for (path, names) in args.paths.iter().zip(parsed) {
        let found = walk(fs, path, &names).and_then(|attr| match names.last() {
            Some(name) => Ok(vec![(name.as_bytes().to_vec(), attr)]),
            None => Ok(entries(fs, ROOT)?),
        });
        match found {
            Ok(top) => tops.push(top),
            Err(failure) => failures.push(failure),
        }
    }
    let last = if tops.is_empty() { failures.pop() } else { None };
    for failure in &failures {
        left_out.report(failure);
    }
    last.map_or(Ok(tops), Err)
}

/// Opens DEST, made if it is not there. What it leads to may be another folder
/// than a moment ago, so it is looked at again.
fn open_dest(path: &Path, repo: Identity) -> Result<Folder> {
    let dest = Folder::dest(path)?;
    if dest.lies_in(repo)? {
        return Err(inside());
    }
    Ok(dest)
}

fn inside() -> Failure {
    Failure::new(Exit::Unusable, "this lies inside the repository: what is there is uploaded")
}

/// Plain files in REPO would be uploaded.
fn check_outside(repo: &Path, dest: &Path) -> Result<()> {
    let absolute = std::path::absolute(dest)?;
    let existing = absolute.ancestors().find_map(|path| path.canonicalize().ok());
    if existing.is_some_and(|path| path.starts_with(repo)) {
        return Err(of(&shown_path(dest), inside()));
    }
    Ok(())
}

/// A folder that is being filled.
struct Level {
    entries: std::vec::IntoIter<(Vec<u8>, Attr)>,
    /// What it gets at the end; `None`: nothing, it is DEST itself.
    made: Option<Made>,
}

/// A folder that was filled, and the attributes that it is to have.
struct Made {
    attr: Attr,
    identity: Identity,
}

/// What has a name already and gets the attributes it had.
enum Written {
    /// An open file or folder.
    Open(OwnedFd),
    /// A symlink, fifo or device node, only held.
    Held(OwnedFd),
}

struct Extractor<'a> {
    fs: &'a dyn Operations,
    /// What the system answered last, where that is why something failed.
    cause: &'a dyn Fn() -> Option<String>,
    dest: &'a Folder,
    repo: Identity,
    /// DEST, as it was given.
    shown: &'a Path,
    is_root: bool,
    /// Where files with several names were written first.
    links: HashMap<u64, (PathBuf, Identity)>,
    /// Folders in the order in which they were filled. They get their modes and
    /// times at the very end: a hard link may still change one, or have to enter
    /// one that will be closed.
    folders: Vec<(PathBuf, Made)>,
    /// Files written, of any kind but folders.
    files: u64,
    left_out: LeftOut,
    bar: ProgressBar,
}

impl Extractor<'_> {
    fn shown(&self, path: &Path) -> String {
        shown_path(&self.shown.join(path))
    }

    /// Names what was left out; without space nothing goes on.
    fn leave_out(&mut self, path: &Path, failure: Failure) -> Result<()> {
        let shown = self.shown(path);
        let failure = with_cause((self.cause)(), failure);
        if failure.code == Exit::NoSpace {
            return Err(of(&shown, failure));
        }
        self.left_out.name(&self.bar, &shown, failure.message);
        Ok(())
    }

    /// Writes entries and all below them to DEST; without recursion, since it is
    /// as deep as somebody made it.
    fn tree(&mut self, top: Entries) -> Result<()> {
        let mut seen = Seen::default();
        let mut levels = vec![Level { entries: top.into_iter(), made: None }];
        let mut chain = Chain::new(self.dest.descend(Path::new(""))?);
        let mut path = PathBuf::new();
        while let Some(level) = levels.last_mut() {
            if let (Some((name, attr)), Some(folder)) = (level.entries.next(), chain.last()) {
                path.push(OsStr::from_bytes(&name));
                if attr.mode & TYPE == DIR {
                    match self.enter(&mut seen, folder, &name, attr) {
                        Ok((folder, next)) => {
                            levels.push(next);
                            chain.go_into(&name, folder);
                            continue;
                        }
                        Err(failure) => self.leave_out(&path, failure)?,
                    }
                } else {
                    match self.leaf(folder, &name, &path, &attr) {
                        Ok(()) => self.files += 1,
                        Err(failure) => self.leave_out(&path, failure)?,
                    }
                }
                path.pop();
                continue;
            }
            let level = levels.pop().expect("it is the last");
            self.folders.extend(level.made.map(|made| (path.clone(), made)));
            let came_back = chain.leave();
            path.pop();
            if let (Err(error), Some(above)) = (came_back, levels.last_mut()) {
                above.entries = Vec::new().into_iter();
                let why = format!("it was moved, and the rest is left out: {error}");
                self.leave_out(&path, Failure::new(Exit::Other, why))?;
            }
        }
        Ok(())
    }

    fn enter(
        &self,
        seen: &mut Seen,
        folder: &Folder,
        name: &[u8],
        attr: Attr,
    ) -> Result<(Folder, Level)> {
        seen.enter(attr.ino)?;
        let entries = entries(self.fs, attr.ino)?.into_iter();
        let folder = folder.make(name)?;
        let identity = folder.identity();
        if identity == self.repo {
            return Err(inside());
        }
        Ok((folder, Level { entries, made: Some(Made { attr, identity }) }))
    }

    fn leaf(&mut self, folder: &Folder, name: &[u8], path: &Path, attr: &Attr) -> Result<()> {
        match attr.mode & TYPE {
            FILE => self.file(folder, name, path, attr),
            LINK => {
                folder.symlink(&self.fs.readlink(attr.ino)?, name)?;
                self.dress(&Written::Held(folder.hold(name, attr.mode)?), attr, path)
            }
            SOCKET => Err(Failure::new(Exit::Other, "sockets are not extracted")),
            kind if kind == FIFO || self.is_root => {
                folder.node(name, attr.mode, u64::from(attr.rdev))?;
                self.dress(&Written::Held(folder.hold(name, attr.mode)?), attr, path)
            }
            _ => Err(Failure::new(Exit::Other, "only root can make a device node")),
        }
    }

    fn file(&mut self, folder: &Folder, name: &[u8], path: &Path, attr: &Attr) -> Result<()> {
        folder.check_free(name)?;
        if let Some((first, identity)) = self.links.get(&attr.ino) {
            let parent = self.dest.descend(first.parent().unwrap_or(Path::new("")))?;
            let first = first.file_name().unwrap_or_default().as_encoded_bytes();
            match folder.link((&parent, first), *identity, name) {
                Ok(()) => return Ok(()),
                Err(error) if cannot_link(&error) => {
                    let shown = self.shown(path);
                    self.left_out.name_once(&self.bar, "a hard link", &shown, &error);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let fresh = folder.fresh()?;
        self.fs.open(attr.ino, false, false)?;
        let copied = self.content(attr, &fresh.file);
        self.fs.release(attr.ino, false);
        copied?;
        let identity = fresh.identity()?;
        self.dress_file(&fresh, attr, path)?;
        fresh.finish(name)?;
        if attr.nlink > 1 {
            self.links.entry(attr.ino).or_insert_with(|| (path.to_path_buf(), identity));
        }
        Ok(())
    }

    /// Copies what is not a hole.
    fn content(&self, attr: &Attr, out: &File) -> Result<()> {
        let mut at = 0;
        while at < attr.size {
            at = match self.fs.seek(attr.ino, at, Seek::Data) {
                Ok(data) => data,
                Err(FsError::NoSuchData) => break,
                Err(error) => return Err(error.into()),
            };
            let end = self.fs.seek(attr.ino, at, Seek::Hole)?;
            while at < end {
                let want = (end - at).min(PIECE as u64) as u32;
                let piece = self.fs.read(attr.ino, at, want)?;
                if piece.is_empty() {
                    return Err(Failure::new(Exit::Damage, "it is shorter than its record says"));
                }
                out.write_all_at(&piece, at)?;
                at += piece.len() as u64;
                self.bar.inc(piece.len() as u64);
            }
        }
        out.set_len(attr.size)?;
        Ok(())
    }

    /// Gives folders their attributes, those within others first.
    fn close_folders(&mut self) {
        for (path, Made { attr, identity }) in std::mem::take(&mut self.folders) {
            let dressed = self.dest.descend(&path).map_err(Failure::from).and_then(|folder| {
                if folder.identity() != identity {
                    let text = "another folder is in its place by now";
                    return Err(Failure::new(Exit::Other, text));
                }
                let fd = folder.as_fd().try_clone_to_owned()?;
                self.dress(&Written::Open(fd), &attr, &path)
            });
            if let Err(failure) = dressed {
                let shown = self.shown(&path);
                self.left_out.name(&self.bar, &shown, failure.message);
            }
        }
    }

    fn dress_file(&mut self, fresh: &Fresh<'_>, attr: &Attr, path: &Path) -> Result<()> {
        let fd = fresh.file.as_fd().try_clone_to_owned()?;
        self.dress(&Written::Open(fd), attr, path)
    }

    /// Owner, extended attributes, mode and times. What cannot be had is named;
    /// an error only if the repository cannot be read.
    ///
    /// In this order: a new owner clears capabilities, attributes are set only
    /// where the mode lets the owner write, and the mode alone opens the file to
    /// others.
    fn dress(&mut self, written: &Written, attr: &Attr, path: &Path) -> Result<()> {
        let is_owned = self.is_root && self.own(written, attr, path);
        let mut mode = attr.mode & 0o7777;
        if !is_owned {
            // It would run as whoever extracts, for whoever may run it.
            mode &= !0o6000;
        }
        let limits = self.attributes(written, attr, path, is_owned)?;
        if let Some(group) = limits {
            mode &= !0o070 | group;
        }
        if attr.mode & TYPE != LINK {
            let mode = Mode::from_raw_mode(mode);
            let changed = match written {
                Written::Open(fd) => rustix::fs::fchmod(fd, mode),
                Written::Held(fd) => rustix::fs::chmod(held(fd), mode),
            };
            self.check(path, "mode", changed);
        }
        let times = Timestamps {
            last_access: timespec(attr.atime),
            last_modification: timespec(attr.mtime),
        };
        let changed = match written {
            Written::Open(fd) => rustix::fs::futimens(fd, &times),
            Written::Held(fd) => rustix::fs::utimensat(CWD, held(fd), &times, AtFlags::empty()),
        };
        self.check(path, "time", changed);
        Ok(())
    }

    fn check(&mut self, path: &Path, kind: &str, result: rustix::io::Result<()>) -> bool {
        if let Err(error) = result {
            let shown = self.shown(path);
            self.left_out.name_once(&self.bar, kind, &shown, &error.into());
        }
        result.is_ok()
    }

    fn own(&mut self, written: &Written, attr: &Attr, path: &Path) -> bool {
        // To chown(2) the highest number means that all stays as it is.
        let owned = if attr.uid == u32::MAX || attr.gid == u32::MAX {
            Err(Errno::INVAL)
        } else {
            let (uid, gid) = (Some(Uid::from_raw(attr.uid)), Some(Gid::from_raw(attr.gid)));
            match written {
                Written::Open(fd) => rustix::fs::fchown(fd, uid, gid),
                Written::Held(fd) => rustix::fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH),
            }
        };
        self.check(path, "owner", owned)
    }

    /// Sets extended attributes. If the list that says who may could not be set,
    /// the bits that its owning group had in it.
    fn attributes(
        &mut self,
        written: &Written,
        attr: &Attr,
        path: &Path,
        is_owned: bool,
    ) -> Result<Option<u32>> {
        let mut limits = None;
        for name in self.fs.listxattr(attr.ino)? {
            let is_list = ACL.contains(&name.as_slice());
            let wanted = match name.split(|byte| *byte == b'.').next() {
                Some(b"user") => true,
                // A capability is as strong as suid.
                Some(b"security") => is_owned,
                _ => is_list || self.is_root,
            };
            if !wanted {
                continue;
            }
            let value = self.fs.getxattr(attr.ino, &name)?;
            let flags = XattrFlags::empty();
            let set = match written {
                Written::Open(fd) => rustix::fs::fsetxattr(fd, &name[..], &value, flags),
                Written::Held(fd) => rustix::fs::setxattr(held(fd), &name[..], &value, flags),
            };
            let kind = format!("attribute {}", super::shown(&name));
            if !self.check(path, &kind, set) && name == ACL[0] {
                limits = Some(group_in(&value));
            }
        }
        Ok(limits)
    }
}

fn timespec(time: Timestamp) -> Timespec {
    Timespec { tv_sec: time.secs, tv_nsec: i64::from(time.nanos) }
}

fn cannot_link(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    matches!(code, Some(libc::EPERM | libc::EOPNOTSUPP | libc::EMLINK | libc::EXDEV))
}

/// The bits of the owning group (tag 4) in an access list, as bits of a mode;
/// none in a list that cannot be read. `st_mode` has the mask in their
/// place, which without the list would let that group in.
fn group_in(list: &[u8]) -> u32 {
    let entries = list.get(4..).unwrap_or_default().chunks_exact(8);
    let group = entries.filter(|entry| entry[..2] == [4, 0]).map(|entry| entry[2] & 7).next();
    u32::from(group.unwrap_or(0)) << 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_list_that_cannot_be_set_gets_no_more_than_in_it() {
        let entry = |tag: u8, perm: u8| [tag, 0, perm, 0, 0xff, 0xff, 0xff, 0xff];
        let list = [&[2, 0, 0, 0][..], &entry(1, 6), &entry(4, 5), &entry(0x10, 7)].concat();
        assert_eq!(group_in(&list), 0o050);
        assert_eq!(group_in(&list[..12]), 0);
        assert_eq!(group_in(&[]), 0);
    }
}
