//! `restore`: brings files of the past back into the present.
//!
//! Invariant: a file is brought back under a name of its own, and then takes the place of what has
//! its name. No byte of it is read: its content is in the repository. A database and its side files come
//! back together or not at all, and no side file of now stands beside the database of then.

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
    let time = opened.time_of(&args.at)?;
    let past = opened.past(global, time)?;
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
    /// The directory of then in which it was.
    above: Ino,
    /// The directory of the present in which it is to be.
    dir: Ino,
    path: Vec<Vec<u8>>,
}

impl Item {
    fn name(&self) -> &[u8] {
        self.path.last().expect("only the root has no name, and it is no item")
    }

    /// What stood beside it under this name.
    fn beside(&self, ino: Ino, name: Vec<u8>) -> Self {
        let mut path = self.path.clone();
        *path.last_mut().expect("it has a name") = name;
        Self { ino, path, ..*self }
    }
}

/// A file that is ready to have its place.
struct Staged {
    /// Where it is to be: a directory of the present, and the name in it.
    dir: Ino,
    name: Vec<u8>,
    /// The name that it has until then; none if what has its place is as it was.
    temporary: Option<Vec<u8>>,
    /// Its number of then, if it was made anew and not as one more name of a file.
    made: Option<Ino>,
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
            let above = ino;
            ino = self.child(above, name.as_bytes())?;
            dir = self.folder(&Item { ino, above, dir, path: path.clone() })?;
        }
        let above = ino;
        // A side file goes with its database.
        if let Some(main) = self.database(above, last)? {
            last = main;
        }
        path.push(last.to_vec());
        let ino = self.child(above, last)?;
        self.below_and(Item { ino, above, dir, path })
    }

    /// The name of the database of which a file was a side file, by its name in a directory of then.
    fn database<'n>(&self, above: Ino, name: &'n [u8]) -> Result<Option<&'n [u8]>> {
        let Some(main) = main_name(name) else { return Ok(None) };
        let are_files = self.file(above, name)?.is_some() && self.file(above, main)?.is_some();
        Ok(are_files.then_some(main))
    }

    /// The regular file that had a name in a directory of then.
    fn file(&self, above: Ino, name: &[u8]) -> Result<Option<Ino>> {
        let Some(ino) = self.past.lookup(above, name)? else { return Ok(None) };
        let is_file = Self::inode(&self.past, ino)?.is_some_and(|inode| inode.is_file());
        Ok(is_file.then_some(ino))
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
                found.push(Item { ino, above: of, dir, path: [path, &[name]].concat() });
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        })?;
        Ok(found)
    }

    /// The directory of the present at this path; it is made as it was if it is gone.
    fn folder(&mut self, item: &Item) -> Result<Ino> {
        let name = item.name();
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

    /// Brings a file back. Of a database and its side files either all come back or none: beside another
    /// log it would be spoiled.
    fn leaf(&mut self, item: &Item) -> Result<()> {
        if self.database(item.above, item.name())?.is_some() {
            // It comes with its database.
            return Ok(());
        }
        if !self.done.insert((item.dir, item.name().to_vec())) {
            return Ok(());
        }
        let mut staged = Vec::new();
        let done = self.stage_all(item, &mut staged).and_then(|()| self.place(item, &staged));
        if done.is_err() {
            for (dir, temporary) in
                staged.iter().filter_map(|one| Some((one.dir, one.temporary.as_ref()?)))
            {
                // Why it failed is told. What has its place already has no such name any more.
                let _ = self.fs.unlink(dir, temporary);
            }
            self.made.retain(|before, _| !staged.iter().any(|one| one.made == Some(*before)));
        }
        done
    }

    /// Makes a file, and the side files that it had, under names of their own.
    fn stage_all(&mut self, item: &Item, staged: &mut Vec<Staged>) -> Result<()> {
        staged.push(self.stage(item)?);
        for suffix in SIDE_SUFFIXES {
            let side = [item.name(), suffix].concat();
            if main_name(&side).is_some()
                && let Some(ino) = self.file(item.above, &side)?
            {
                staged.push(self.stage(&item.beside(ino, side))?);
            }
        }
        Ok(())
    }

    fn stage(&mut self, item: &Item) -> Result<Staged> {
        let (dir, name) = (item.dir, item.name().to_vec());
        let made = self.made_of(item.ino)?;
        match find(self.fs, dir, &name) {
            Ok(attr) if attr.mode & TYPE == DIR => {
                return Err(Failure::new(Exit::Other, "a folder has this name now"));
            }
            // Of a file with several names each is one of the same file.
            Ok(attr)
                if made.is_none_or(|made| made == attr.ino)
                    && self.is_same(item.ino, attr.ino)? =>
            {
                self.made.insert(item.ino, attr.ino);
                return Ok(Staged { dir, name, temporary: None, made: None });
            }
            Ok(_) | Err(FsError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
        let temporary = temporary();
        let made = if let Some(made) = made {
            let attr = self.fs.link(made, dir, &temporary)?;
            self.fs.forget(attr.ino, 1);
            None
        } else {
            let attr = self.fs.bring_back(&self.past, item.ino, (dir, &temporary))?;
            self.made.insert(item.ino, attr.ino);
            Some(item.ino)
        };
        Ok(Staged { dir, name, temporary: Some(temporary), made })
    }

    /// Gives files their names. First the side files of now go, so that none stands beside another
    /// version of its database, whenever this is interrupted.
    fn place(&mut self, item: &Item, staged: &[Staged]) -> Result<()> {
        for suffix in SIDE_SUFFIXES {
            let side = [item.name(), suffix].concat();
            let then = staged.iter().find(|one| one.name == side);
            if main_name(&side).is_none() || then.is_some_and(|one| one.temporary.is_none()) {
                continue;
            }
            match find(self.fs, item.dir, &side) {
                Ok(attr) if attr.mode & TYPE != DIR => {
                    self.fs.unlink(item.dir, &side)?;
                    self.removed += u64::from(then.is_none());
                }
                Ok(_) | Err(FsError::NotFound | FsError::NameTooLong) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for Staged { dir, name, temporary, .. } in staged {
            match temporary {
                Some(temporary) => {
                    self.fs.rename((*dir, temporary), (*dir, name), RenameMode::Replace)?;
                    self.brought += 1;
                }
                None => self.same += 1,
            }
        }
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
