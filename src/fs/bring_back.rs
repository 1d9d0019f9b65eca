//! Files of the past into the present, without reading them: their content is in the repository.

use std::ops::ControlFlow;

use super::{Attr, Fs, FsError, Result};
use crate::format::namespace::{Ino, Inode, Key, Value, XattrState};
use crate::format::record::Change;
use crate::format::versions::{History, Versions};
use crate::volume::Tree;

impl Fs {
    /// Makes an inode with a name that has the content, the attributes and the times of one in another
    /// namespace of this repository, but for the entries of a directory. Fails with
    /// [`FsError::Exists`] if the name is taken, with [`FsError::NotFound`] if there is no such inode,
    /// with [`FsError::NotHere`] if its content is not in REPO.
    pub fn bring_back(&self, tree: &Tree<'_>, of: Ino, (dir, name): (Ino, &[u8])) -> Result<Attr> {
        self.check_writable()?;
        let failed = |error| self.store_failed(&error);
        let Some(Value::Inode(old)) = tree.get(&Key::Inode(of)).map_err(failed)? else {
            return Err(FsError::NotFound);
        };
        let mut xattrs = Vec::new();
        tree.scan(&Key::xattrs(of), &mut |key, value| match (key, value) {
            (Key::Xattr(ino, name), Value::Xattr(mut xattr)) if ino == of => {
                if xattr.state != XattrState::Removed {
                    xattr.versions = Versions::default();
                    xattrs.push((name, Value::Xattr(xattr)));
                }
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        })
        .map_err(failed)?;
        let long = xattrs.iter().map(|(_, value)| value.stored().0);
        for content in long.chain([old.content]) {
            if !self.volume.refer_to(&content).map_err(failed)? {
                return Err(FsError::NotHere);
            }
        }
        self.make_room(true);
        let now = self.now();
        let mut state = self.lock();
        let mut above = self.dir(&state, dir)?;
        if state.orphans.contains_key(&dir) {
            return Err(FsError::NotFound);
        }
        let entry = self.entry_key(dir, name)?;
        if self.get(&state, &entry)?.is_some() {
            return Err(FsError::Exists);
        }
        let numbers = state.numbers.as_mut().ok_or(FsError::Io)?;
        let ino = numbers.allot(&*self.volume.world().random);
        let inode = Inode { ctime: now, history: Box::new(History::default()), ..*old };
        (above.mtime, above.ctime) = (now, now);
        let kind = inode.kind();
        let mut changes = vec![
            Change::Set(Key::Inode(ino), Value::Inode(Box::new(inode.clone()))),
            Change::Set(entry, Value::Entry(ino, kind)),
            Change::Set(Key::Back(ino, dir, name.to_vec()), Value::Back),
        ];
        changes.extend(xattrs.into_iter().map(|(n, value)| Change::Set(Key::Xattr(ino, n), value)));
        changes.push(Change::Set(Key::Inode(dir), Value::Inode(Box::new(above))));
        self.perform(&mut state, &changes)?;
        if inode.is_dir() {
            state.subdirs.insert(ino, 0);
        }
        self.attr_of(&mut state, ino, &inode)
    }
}
