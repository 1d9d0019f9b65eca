//! `restore`: brings files of the past back into the present.
//!
//! Invariant: a file is brought back under a name of its own, and then takes the place of what has
//! its name. No byte of it is read: its content is in the repository. No side file of a database stands
//! beside another version of it: those of then come with it, and those of now go.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use super::super::args::{Global, RestoreArgs};
use super::super::opening::{Access, open};
use super::super::{Exit, Failure, Result};
use super::put::{sweep, temporary};
use super::{DIR, LeftOut, TYPE, find, in_a_mount, names, of, shown, with_cause};
use crate::format::namespace::{Ino, Inode, Key, ROOT, Value};
use crate::format::side_files::{SIDE_SUFFIXES, main_name};
use crate::fs::{Fs, FsError, Operations, RenameMode, SetAttr, TimeSet};
use crate::io::{Timestamp, output};
use crate::volume::Tree;

/// Runs `amberfs restore`: brings files back as they were at a time.
pub fn restore(global: &Global, args: &RestoreArgs) -> Result<Exit> {
    let parsed = args.paths.iter().map(|path| names(path)).collect::<Result<Vec<_>>>()?;
    let mut opened = open(global, &args.repo, Access::Write).map_err(|failure| {
        let hint = "beside the mount, amberfs mount -o snapshot=WHEN shows the past, to copy from; or \
                    amberfs extract --at WHEN";
        in_a_mount(failure, hint)
    })?;
    // What a crash left in the journal counts too.
    opened.publish()?;
    let past = opened.past(global, args.at)?;
    let fs = &opened.fs;
    let present = fs.volume().base();
    let mut restorer = Restorer {
        fs,
        past: fs.volume().tree_at(past.namespace.shown),
        present: fs.volume().tree_at(present.namespace.shown),
        made: HashMap::new(),
        done: HashSet::new(),
        times: Vec::new(),
        brought: 0,
        same: 0,
        removed: 0,
        left_out: LeftOut::default(),
    };
    let done = restorer.all(&args.paths, &parsed);
    done.map_err(|failure| with_cause(fs.take_cause(), failure))?;
    restorer.set_times().map_err(|error| with_cause(fs.take_cause(), error.into()))?;
    opened.publish()?;
    let Restorer { brought, same, removed, left_out, .. } = restorer;
    if global.json {
        output::object(&serde_json::json!({
            "message_type": "restored",
            "restored": brought,
            "same": same,
            "removed": removed,
            "left_out": left_out.count,
            "time": past.commit.time.secs,
        }))?;
    } else if !global.quiet || left_out.count > 0 {
        let some = |count: u64, what: &str| match count {
            0 => String::new(),
            count => format!("; {what}: {count}"),
        };
        note!(
            "{brought} files and folders are as they were, all in the repository folder; {same} \
             files had not changed{}{}",
            some(removed, "side files of databases that were not there then, and are removed"),
            some(left_out.count, "left out")
        );
    }
    Ok(opened.exit(left_out.exit()))
}

/// A file or folder of the past, and where it is to be.
struct Item {
    ino: Ino,
    /// A directory of the present.
    dir: Ino,
    path: Vec<Vec<u8>>,
}

struct Restorer<'a> {
    fs: &'a Fs,
    past: Tree<'a>,
    /// As it was when the command began.
    present: Tree<'a>,
    /// Files that are as they were: the number of the past and that of now. Further names of one are
    /// names of the same file.
    made: HashMap<Ino, Ino>,
    /// Places that were dealt with: directory of the present and name.
    done: HashSet<(Ino, Vec<u8>)>,
    /// Directories that were made, and when they were changed last.
    times: Vec<(Ino, Timestamp)>,
    brought: u64,
    same: u64,
    removed: u64,
    left_out: LeftOut,
}

/// Whether this is the path of a side file of a database that is brought back by its own path.
fn is_side_file_of_one(names: &[&str], all: &[Vec<&str>]) -> bool {
    let Some((last, above)) = names.split_last() else { return false };
    let Some(main) = main_name(last.as_bytes()) else { return false };
    let is_main = |other: &Vec<&str>| {
        other.split_last().is_some_and(|(name, dir)| name.as_bytes() == main && dir == above)
    };
    all.iter().any(is_main)
}

impl Restorer<'_> {
    /// Brings back all these paths. One that was not there is named and left out; an error if none
    /// was.
    fn all(&mut self, paths: &[String], parsed: &[Vec<&str>]) -> Result<()> {
        let (mut there, mut failures) = (Vec::new(), Vec::new());
        for (path, names) in paths.iter().zip(parsed) {
            let found = names.iter().try_fold(ROOT, |dir, name| self.child(dir, name.as_bytes()));
            match found {
                Ok(_) => there.push((path, names)),
                // It goes with its database.
                Err(_) if is_side_file_of_one(names, parsed) => {}
                Err(failure) => failures.push(of(&shown(path.as_bytes()), failure)),
            }
        }
        let last = if there.is_empty() { failures.pop() } else { None };
        for failure in &failures {
            self.left_out.report(failure);
        }
        for (path, names) in there {
            self.path(names).map_err(|failure| of(&shown(path.as_bytes()), failure))?;
        }
        last.map_or(Ok(()), Err)
    }

    /// Brings back what had this path, and the directories above that are gone.
    fn path(&mut self, names: &[&str]) -> Result<()> {
        let (mut ino, mut dir) = (ROOT, ROOT);
        let mut path: Vec<Vec<u8>> = Vec::new();
        let Some((last, above)) = names.split_last() else { return self.below(ROOT, ROOT, &path) };
        let mut last = last.as_bytes();
        for name in above {
            path.push(name.as_bytes().to_vec());
            ino = self.child(ino, name.as_bytes())?;
            dir = self.folder(&Item { ino, dir, path: path.clone() })?;
        }
        let above = ino;
        // A side file goes with its database.
        if let Some(main) = main_name(last)
            && self.past.lookup(above, main)?.is_some()
        {
            last = main;
        }
        path.push(last.to_vec());
        let ino = self.child(above, last)?;
        self.below_and(Item { ino, dir, path: path.clone() })?;
        // Without them a database may be another one, or none.
        for suffix in SIDE_SUFFIXES {
            let side = [last, suffix].concat();
            if main_name(&side).is_some()
                && let Some(ino) = self.past.lookup(above, &side)?
            {
                *path.last_mut().expect("it has a name") = side;
                self.below_and(Item { ino, dir, path: path.clone() })?;
            }
        }
        Ok(())
    }

    /// What had a name in a directory of the past.
    fn child(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        let found = self.past.lookup(dir, name)?;
        found.ok_or_else(|| Failure::new(Exit::Other, "it was not there at that time"))
    }

    fn inode(tree: &Tree<'_>, ino: Ino) -> Result<Option<Box<Inode>>> {
        Ok(match tree.get(&Key::Inode(ino))? {
            Some(Value::Inode(inode)) => Some(inode),
            _ => None,
        })
    }

    /// Brings something back, and all below it. Without recursion, since it is as deep as somebody
    /// made it.
    fn below_and(&mut self, first: Item) -> Result<()> {
        let mut ahead = vec![first];
        while let Some(item) = ahead.pop() {
            let is_dir = Self::inode(&self.past, item.ino)?.is_some_and(|inode| inode.is_dir());
            let done = if is_dir {
                self.folder(&item).and_then(|dir| {
                    ahead.extend(self.children(item.ino, dir, &item.path)?);
                    Ok(())
                })
            } else {
                self.leaf(&item)
            };
            if let Err(failure) = done {
                if !matches!(failure.code, Exit::Other | Exit::NotAllHere | Exit::Damage) {
                    return Err(failure);
                }
                self.left_out.report(&of(&shown(&item.path.join(&b'/')), failure));
            }
        }
        Ok(())
    }

    /// Brings back what was in a directory.
    fn below(&mut self, ino: Ino, dir: Ino, path: &[Vec<u8>]) -> Result<()> {
        for item in self.children(ino, dir, path)? {
            self.below_and(item)?;
        }
        Ok(())
    }

    fn children(&self, of: Ino, dir: Ino, path: &[Vec<u8>]) -> Result<Vec<Item>> {
        let mut found = Vec::new();
        self.past.scan(&Key::entries_from(of, 0), &mut |key, value| match (key, value) {
            (Key::Entry(at, _, name), Value::Entry(ino, _)) if at == of => {
                found.push(Item { ino, dir, path: [path, &[name]].concat() });
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        })?;
        Ok(found)
    }

    /// The directory of the present at this path; it is made as it was if it is gone.
    fn folder(&mut self, item: &Item) -> Result<Ino> {
        let name = item.path.last().expect("the root is never made");
        match find(self.fs, item.dir, name) {
            Ok(attr) if attr.mode & TYPE == DIR => {
                sweep(self.fs, attr.ino)?;
                Ok(attr.ino)
            }
            Ok(_) => {
                Err(Failure::new(Exit::Other, "something that is no folder has this name now"))
            }
            Err(FsError::NotFound) => {
                let attr = self.fs.bring_back(&self.past, item.ino, (item.dir, name))?;
                self.brought += 1;
                self.times.push((attr.ino, attr.mtime));
                Ok(attr.ino)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn leaf(&mut self, item: &Item) -> Result<()> {
        let name = item.path.last().expect("the root is a folder");
        if !self.done.insert((item.dir, name.clone())) {
            return Ok(());
        }
        let made = self.made_of(item.ino)?;
        match find(self.fs, item.dir, name) {
            Ok(attr) if attr.mode & TYPE == DIR => {
                return Err(Failure::new(Exit::Other, "a folder has this name now"));
            }
            // Of a file with several names each is one of the same file.
            Ok(attr)
                if made.is_none_or(|made| made == attr.ino)
                    && self.is_same(item.ino, attr.ino)? =>
            {
                self.made.insert(item.ino, attr.ino);
                self.remove_side_files(item)?;
                self.same += 1;
                return Ok(());
            }
            Ok(_) | Err(FsError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
        let temporary = temporary();
        if let Some(made) = made {
            let attr = self.fs.link(made, item.dir, &temporary)?;
            self.fs.forget(attr.ino, 1);
        } else {
            let attr = self.fs.bring_back(&self.past, item.ino, (item.dir, &temporary))?;
            self.made.insert(item.ino, attr.ino);
        }
        // Before its database is another one: with a log that is not its own it would be spoiled.
        let placed = self.remove_side_files(item).and_then(|()| {
            let (from, to) = ((item.dir, &*temporary), (item.dir, &**name));
            Ok(self.fs.rename(from, to, RenameMode::Replace)?)
        });
        if placed.is_err() {
            // Why it failed is told; this cannot fail for another reason.
            let _ = self.fs.unlink(item.dir, &temporary);
        }
        placed?;
        self.brought += 1;
        Ok(())
    }

    /// The file of now that is this one of then, if there is one and it is as it was.
    fn made_of(&mut self, ino: Ino) -> Result<Option<Ino>> {
        if let Some(made) = self.made.get(&ino) {
            return Ok(Some(*made));
        }
        // Numbers are never used again. A file with one name is looked at where it is.
        if self.past.names_of(ino)?.len() < 2 || self.fs.getattr(ino).is_err() {
            return Ok(None);
        }
        let is_same = self.is_same(ino, ino)?;
        if is_same {
            self.made.insert(ino, ino);
        }
        Ok(is_same.then_some(ino))
    }

    /// Removes files that make a file of then, which has this place, a database with side files, and that
    /// were not there then.
    fn remove_side_files(&mut self, item: &Item) -> Result<()> {
        let name = item.path.last().expect("a file has a name");
        let mut backs = self.past.names_of(item.ino)?.into_iter();
        let Some((above, _)) = backs.find(|(_, back)| back == name) else { return Ok(()) };
        for suffix in SIDE_SUFFIXES {
            let side = [name, suffix].concat();
            if main_name(&side).is_none() || self.past.lookup(above, &side)?.is_some() {
                continue;
            }
            match find(self.fs, item.dir, &side) {
                Ok(attr) if attr.mode & TYPE != DIR => {
                    self.fs.unlink(item.dir, &side)?;
                    self.removed += 1;
                }
                Ok(_) | Err(FsError::NotFound | FsError::NameTooLong) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether a file is as it was: content, attributes and time.
    fn is_same(&self, before: Ino, now: Ino) -> Result<bool> {
        let inodes = (Self::inode(&self.past, before)?, Self::inode(&self.present, now)?);
        let (Some(then), Some(today)) = inodes else { return Ok(false) };
        let of = |inode: &Inode| {
            let content = (inode.mode, inode.size, inode.content, inode.inline.clone());
            (content, inode.uid, inode.gid, inode.rdev, inode.mtime)
        };
        let is_equal = of(&then) == of(&today);
        Ok(is_equal && self.past.xattrs(before)? == self.present.xattrs(now)?)
    }

    /// Directories have the times of then, although files were put into them.
    fn set_times(&self) -> std::result::Result<(), FsError> {
        for (dir, time) in self.times.iter().rev() {
            let mtime = Some(TimeSet::At(*time));
            self.fs.setattr(*dir, &SetAttr { mtime, ..SetAttr::default() })?;
        }
        Ok(())
    }
}
