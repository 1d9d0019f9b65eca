//! The past of a mounted repository, below `.snapshots` at its root.
//!
//! The directory is not listed: who copies or searches the whole mount does not enter it. Each directory
//! in it shows the repository as it was when a device published a state. All of it is only read.
//!
//! Invariant: what has bit 63 in its number is of the past; nothing of it changes the present.

mod numbers;
mod states;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::numbers::{Numbers, STATES, is_past};
use self::states::{Listed, PastState, States};
use super::{
    Attr, Caller, DirEntry, Fs, FsError, Operations, RenameMode, Result, Seek, SetAttr, SpaceStat,
};
use crate::format::namespace::{Ino, ROOT};
use crate::io::Timestamp;
use crate::sync::Follower;

/// The directory of the past, in the root of a mount.
const SNAPSHOTS: &[u8] = b".snapshots";

/// A file system with its past.
pub struct WithPast {
    present: Arc<Fs>,
    /// None where the past itself is mounted.
    past: Option<Shown>,
}

/// The past that is shown.
///
/// Lock order: `states`, then `newest`. Only who finds or lists a state waits for `states`, which is held
/// while REPO is read; in `fuse` that is done in threads of its own.
struct Shown {
    follower: Arc<Follower>,
    states: Mutex<States>,
    /// When the newest state was published that the last list had.
    newest: Mutex<Option<Timestamp>>,
    numbers: Mutex<Numbers>,
}

/// What a number stands for.
enum Target<'a> {
    /// An inode of the present.
    Present,
    /// The directory of all states.
    States(&'a Shown),
    /// An inode of a state.
    Past(&'a Shown, Arc<PastState>, Ino),
}

impl WithPast {
    /// A file system with the past that the `follower`'s repository has; without, if a state of the past
    /// is what the file system shows.
    pub fn new(present: Arc<Fs>, follower: Arc<Follower>) -> Self {
        let past = follower.until().is_none().then(|| Shown {
            follower,
            states: Mutex::default(),
            newest: Mutex::default(),
            numbers: Mutex::default(),
        });
        Self { present, past }
    }

    fn target(&self, number: u64) -> Result<Target<'_>> {
        if !is_past(number) {
            return Ok(Target::Present);
        }
        let past = self.past.as_ref().ok_or(FsError::Stale)?;
        if number == STATES {
            return Ok(Target::States(past));
        }
        let (state, ino) = past.numbers().inode(number).ok_or(FsError::Stale)?;
        Ok(Target::Past(past, state, ino))
    }

    /// What `read` makes of an inode. None of the directories of all states and of one, which have
    /// nothing to read: nobody looks into a state to list it beside others.
    fn read_past<T>(
        &self,
        number: u64,
        read: impl FnOnce(&Fs, Ino) -> Result<T>,
    ) -> Result<Option<T>> {
        match self.target(number)? {
            Target::Present => read(&self.present, number).map(Some),
            Target::States(_) | Target::Past(_, _, ROOT) => Ok(None),
            Target::Past(past, state, ino) => read(&*self.fs_of(past, &state)?, ino).map(Some),
        }
    }

    fn fs_of(&self, past: &Shown, state: &PastState) -> Result<Arc<Fs>> {
        state.open(&self.present, &past.follower)
    }

    /// Attributes of the directory of all states.
    fn states_attr(&self, past: &Shown) -> Result<Attr> {
        let root = self.present.getattr(ROOT)?;
        let time = past.newest().unwrap_or(root.mtime);
        Ok(Self::dir_attr(&root, STATES, time))
    }

    /// Attributes of the directory of a state. Nobody looks into the state for them.
    fn state_attr(&self, number: u64, state: &PastState) -> Result<Attr> {
        Ok(Self::dir_attr(&self.present.getattr(ROOT)?, number, state.time()))
    }

    /// A directory that has the owner of the root. Nobody counts what is in it: of one name programs
    /// know that the number of directories in it is not told.
    fn dir_attr(root: &Attr, ino: u64, time: Timestamp) -> Attr {
        let mode = root.mode & !0o222;
        let (mtime, ctime, atime, btime) = (time, time, time, time);
        Attr { ino, generation: 0, mode, nlink: 1, mtime, ctime, atime, btime, ..*root }
    }

    /// Attributes of an inode of a state, with its number.
    fn past_attr(&self, number: u64, state: &PastState, attr: Attr) -> Result<Attr> {
        if attr.ino == ROOT {
            return self.state_attr(number, state);
        }
        Ok(Attr { ino: number, generation: 0, ..attr })
    }

    /// All states, by time, as they were a second ago at most.
    fn listed(&self, past: &Shown, states: &mut States) -> Result<Arc<Vec<Listed>>> {
        let listed = states.list(&self.present)?;
        *past.newest.lock().unwrap_or_else(PoisonError::into_inner) =
            listed.last().map(|listed| listed.time);
        Ok(listed)
    }

    fn look_up_state(&self, past: &Shown, name: &[u8]) -> Result<Attr> {
        let state = {
            let mut states = past.states();
            let listed = self.listed(past, &mut states)?;
            let found = listed.iter().find(|listed| listed.name == name);
            states.state(found.ok_or(FsError::NotFound)?)
        };
        let number = past.numbers().look_up(&state, ROOT);
        self.state_attr(number, &state)
    }

    fn look_up_past(
        &self,
        past: &Shown,
        state: &Arc<PastState>,
        ino: Ino,
        name: &[u8],
    ) -> Result<Attr> {
        if ino == ROOT && name == b".." {
            return self.states_attr(past);
        }
        let fs = self.fs_of(past, state)?;
        let attr = fs.lookup(ino, name)?;
        fs.forget(attr.ino, 1);
        let number = past.numbers().look_up(state, attr.ino);
        self.past_attr(number, state, attr)
    }

    fn list_states(
        &self,
        past: &Shown,
        cookie: u64,
        attributes: bool,
        fill: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        let listed = self.listed(past, &mut past.states())?;
        let first = [(1, &b"."[..]), (2, b"..")];
        for (number, name) in first.into_iter().filter(|(number, _)| *number > cookie) {
            let attr =
                if number == 1 { self.states_attr(past)? } else { self.present.getattr(ROOT)? };
            if !fill(&DirEntry { name: name.to_vec(), cookie: number, attr }) {
                return Ok(());
            }
        }
        for listed in listed.iter().filter(|listed| listed.is_shown && listed.cookie > cookie) {
            let state = past.states().state(listed);
            let number = past.numbers().number(&state, ROOT);
            let attr = self.state_attr(number, &state)?;
            if !fill(&DirEntry { name: listed.name.clone(), cookie: listed.cookie, attr }) {
                return Ok(());
            }
            if attributes {
                past.numbers().offer(&state, ROOT);
            }
        }
        Ok(())
    }

    fn list_past(
        &self,
        (past, state, ino): (&Shown, &Arc<PastState>, Ino),
        cookie: u64,
        attributes: bool,
        fill: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        let fs = self.fs_of(past, state)?;
        let mut failed = None;
        fs.readdir(ino, cookie, attributes, &mut |entry| {
            let is_dot = entry.name == b"." || entry.name == b"..";
            let number = past.numbers().number(state, entry.attr.ino);
            let attr = match &*entry.name {
                b".." if ino == ROOT => self.states_attr(past),
                _ => self.past_attr(number, state, entry.attr),
            };
            let attr = match attr {
                Ok(attr) => attr,
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
            };
            let goes_on = fill(&DirEntry { attr, ..entry.clone() });
            if goes_on && attributes && !is_dot {
                past.numbers().offer(state, entry.attr.ino);
            }
            goes_on
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Refuses to change a name in the past, and that of the past.
    fn check_name(&self, dir: u64, name: &[u8]) -> Result<()> {
        check_present(dir)?;
        if dir != ROOT || name != SNAPSHOTS || self.past.is_none() {
            return Ok(());
        }
        // Something of the present may have that name.
        match self.present.lookup(dir, name) {
            Ok(attr) => {
                self.present.forget(attr.ino, 1);
                Ok(())
            }
            Err(FsError::NotFound) => Err(FsError::ReadOnly),
            Err(error) => Err(error),
        }
    }
}

/// Refuses to change what is of the past.
fn check_present(number: u64) -> Result<()> {
    if is_past(number) { Err(FsError::ReadOnly) } else { Ok(()) }
}

impl Shown {
    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn newest(&self) -> Option<Timestamp> {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Operations for WithPast {
    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr> {
        match self.target(parent)? {
            Target::Present => match (self.present.lookup(parent, name), &self.past) {
                (Err(FsError::NotFound), Some(past)) if parent == ROOT && name == SNAPSHOTS => {
                    self.states_attr(past)
                }
                (found, _) => found,
            },
            Target::States(past) => match name {
                b"." => self.states_attr(past),
                b".." => self.present.lookup(ROOT, b"."),
                _ => self.look_up_state(past, name),
            },
            Target::Past(past, state, ino) => self.look_up_past(past, &state, ino, name),
        }
    }
    fn forget(&self, ino: u64, count: u64) {
        match &self.past {
            Some(past) if is_past(ino) => past.numbers().forget(ino, count),
            _ => self.present.forget(ino, count),
        }
    }
    fn getattr(&self, ino: u64) -> Result<Attr> {
        match self.target(ino)? {
            Target::Present => self.present.getattr(ino),
            Target::States(past) => self.states_attr(past),
            Target::Past(_, state, ROOT) => self.state_attr(ino, &state),
            Target::Past(past, state, of) => {
                let attr = self.fs_of(past, &state)?.getattr(of)?;
                self.past_attr(ino, &state, attr)
            }
        }
    }
    fn setattr(&self, ino: u64, change: &SetAttr) -> Result<Attr> {
        check_present(ino)?;
        self.present.setattr(ino, change)
    }
    fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        self.read_past(ino, Operations::readlink)?.ok_or(FsError::Invalid)
    }
    fn mknod(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Result<Attr> {
        self.check_name(parent, name)?;
        self.present.mknod(caller, parent, name, mode, rdev)
    }
    fn mkdir(&self, caller: Caller, parent: u64, name: &[u8], mode: u32) -> Result<Attr> {
        self.check_name(parent, name)?;
        self.present.mkdir(caller, parent, name, mode)
    }
    fn symlink(&self, caller: Caller, parent: u64, name: &[u8], target: &[u8]) -> Result<Attr> {
        self.check_name(parent, name)?;
        self.present.symlink(caller, parent, name, target)
    }
    fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Attr> {
        check_present(ino)?;
        self.check_name(parent, name)?;
        self.present.link(ino, parent, name)
    }
    fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.check_name(parent, name)?;
        self.present.unlink(parent, name)
    }
    fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.check_name(parent, name)?;
        self.present.rmdir(parent, name)
    }
    fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), mode: RenameMode) -> Result<()> {
        self.check_name(from.0, from.1)?;
        self.check_name(to.0, to.1)?;
        self.present.rename(from, to, mode)
    }
    fn open(&self, ino: u64, write: bool, truncate: bool) -> Result<()> {
        if write || truncate {
            check_present(ino)?;
        }
        self.read_past(ino, |fs, ino| fs.open(ino, write, truncate))?.ok_or(FsError::IsDir)
    }
    fn release(&self, ino: u64, write: bool) {
        let released = self.read_past(ino, |fs, ino| {
            fs.release(ino, write);
            Ok(())
        });
        if let Err(error) = released {
            log::warn!("inode {ino}: an open cannot be taken back: {error}");
        }
    }
    fn read_into(&self, ino: u64, offset: u64, out: &mut [u8]) -> Result<usize> {
        self.read_past(ino, |fs, ino| fs.read_into(ino, offset, out))?.ok_or(FsError::IsDir)
    }
    fn write(&self, ino: u64, offset: u64, bytes: &[u8], kill_privileges: bool) -> Result<()> {
        check_present(ino)?;
        self.present.write(ino, offset, bytes, kill_privileges)
    }
    fn before_write(&self, ino: u64, is_paged: bool) {
        if !is_past(ino) {
            self.present.before_write(ino, is_paged);
        }
    }
    fn closed_uncached(&self, ino: u64) {
        if !is_past(ino) {
            self.present.closed_uncached(ino);
        }
    }
    fn is_congested(&self) -> bool {
        Operations::is_congested(&*self.present)
    }
    fn fsync(&self, ino: u64) -> Result<()> {
        if is_past(ino) { Ok(()) } else { self.present.fsync(ino) }
    }
    fn readdir(
        &self,
        ino: u64,
        cookie: u64,
        attributes: bool,
        fill: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        match self.target(ino)? {
            Target::Present => self.present.readdir(ino, cookie, attributes, fill),
            Target::States(past) => self.list_states(past, cookie, attributes, fill),
            Target::Past(past, state, ino) => {
                self.list_past((past, &state, ino), cookie, attributes, fill)
            }
        }
    }
    fn remember(&self, ino: u64) {
        match &self.past {
            Some(past) if is_past(ino) => past.numbers().remember(ino),
            _ => self.present.remember(ino),
        }
    }
    fn statfs(&self) -> Result<SpaceStat> {
        self.present.statfs()
    }
    fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        check_present(ino)?;
        self.present.setxattr(ino, name, value, flags)
    }
    fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        self.read_past(ino, |fs, ino| fs.getxattr(ino, name))?.ok_or(FsError::NoData)
    }
    fn listxattr(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        Ok(self.read_past(ino, Operations::listxattr)?.unwrap_or_default())
    }
    fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        check_present(ino)?;
        self.present.removexattr(ino, name)
    }
    fn fallocate(&self, ino: u64, offset: u64, len: u64, mode: i32) -> Result<()> {
        check_present(ino)?;
        self.present.fallocate(ino, offset, len, mode)
    }
    fn seek(&self, ino: u64, offset: u64, what: Seek) -> Result<u64> {
        self.read_past(ino, |fs, ino| fs.seek(ino, offset, what))?.ok_or(FsError::IsDir)
    }
    fn copy_file_range(&self, from: (u64, u64), to: (u64, u64), len: u64) -> Result<u64> {
        check_present(to.0)?;
        if is_past(from.0) {
            // The kernel copies by reading and writing then.
            return Err(FsError::NotSupported);
        }
        self.present.copy_file_range(from, to, len)
    }
    fn waits_for_repo(&self, ino: u64) -> bool {
        is_past(ino)
    }
    fn changes_unasked(&self, dir: u64) -> bool {
        dir == STATES
    }
}

#[cfg(test)]
mod tests;
