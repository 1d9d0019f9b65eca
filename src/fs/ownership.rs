//! Whom files belong to: owners as they are stored and as they are shown, what a new inode
//! inherits, and when suid and sgid go. Permissions are checked by the kernel.
//!
//! Invariant: who mounts is stored as *self*, if the mount records that, and *self* is shown as
//! who mounts; so a repository that moves to another machine goes with its owner.

use super::Caller;
use crate::format::namespace::{Inode, Owner};

/// The set-user-id bit of a mode.
const SUID: u32 = 0o4000;
/// The set-group-id bit of a mode.
const SGID: u32 = 0o2000;
/// The group may execute it.
const GROUP_EXECUTES: u32 = 0o010;

/// Whom the files belong to in the eyes of this mount.
#[derive(Clone, Copy, Debug)]
pub struct Ownership {
    /// The user id of whoever mounts, as which *self* is shown.
    pub uid: u32,
    /// The group id of whoever mounts, as which *self* is shown.
    pub gid: u32,
    /// Whether this user's own numbers are recorded as *self* (a daemon that
    /// is not root).
    pub record_self: bool,
    /// Show everything as this user.
    pub force_uid: Option<u32>,
    /// Show everything as this group.
    pub force_gid: Option<u32>,
}

impl Ownership {
    /// The user and group as stored.
    pub(super) fn stored(&self, uid: u32, gid: u32) -> (Owner, Owner) {
        (self.owner(uid, self.uid), self.owner(gid, self.gid))
    }

    /// `id` as stored; `own` is that of who mounts.
    fn owner(&self, id: u32, own: u32) -> Owner {
        if self.record_self && id == own { Owner::SelfOwned } else { Owner::Id(id) }
    }

    /// The user and group as shown.
    pub(super) fn shown(&self, inode: &Inode) -> (u32, u32) {
        let id = |owner, own| match owner {
            Owner::SelfOwned => own,
            Owner::Id(id) => id,
        };
        let (uid, gid) = (id(inode.uid, self.uid), id(inode.gid, self.gid));
        (self.force_uid.unwrap_or(uid), self.force_gid.unwrap_or(gid))
    }

    /// Sets those that are given, as chown(2).
    pub(super) fn set(&self, inode: &mut Inode, uid: Option<u32>, gid: Option<u32>) {
        if let Some(uid) = uid {
            inode.uid = self.owner(uid, self.uid);
        }
        if let Some(gid) = gid {
            inode.gid = self.owner(gid, self.gid);
        }
    }

    /// User, group and mode of an inode that `caller` makes in `dir`. In a setgid directory it
    /// has the directory's group, and directories are setgid too (inode(7)).
    pub(super) fn of_new(&self, caller: Caller, dir: &Inode, mode: u32) -> (Owner, Owner, u32) {
        let (uid, gid) = self.stored(caller.uid, caller.gid);
        if dir.mode & SGID == 0 {
            return (uid, gid, mode);
        }
        let is_dir = mode & 0o170_000 == 0o040_000;
        (uid, dir.gid, if is_dir { mode | SGID } else { mode })
    }
}

/// Clears suid, and sgid where it means "run as this group" (chown(2)).
pub(super) fn kill_privileges(inode: &mut Inode) {
    if inode.is_file() {
        inode.mode &= !SUID;
        if inode.mode & GROUP_EXECUTES != 0 {
            inode.mode &= !SGID;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Timestamp;

    const MINE: Ownership =
        Ownership { uid: 1000, gid: 100, record_self: true, force_uid: None, force_gid: None };

    fn inode(mode: u32, uid: Owner, gid: Owner) -> Inode {
        Inode::new(mode, uid, gid, Timestamp::default())
    }

    #[test]
    fn who_mounts_is_stored_as_self_and_shown_as_who_mounts() {
        let (own, other) = (Owner::SelfOwned, Owner::Id);
        assert_eq!(MINE.stored(1000, 100), (own, own));
        // The number of a user is not that of a group.
        assert_eq!(MINE.stored(100, 1000), (other(100), other(1000)));
        let root = Ownership { record_self: false, ..MINE };
        assert_eq!(root.stored(1000, 100), (other(1000), other(100)));
        let elsewhere = Ownership { uid: 5, gid: 6, ..MINE };
        assert_eq!(elsewhere.shown(&inode(0o100_644, own, other(7))), (5, 7));
        let forced = Ownership { force_uid: Some(8), force_gid: Some(9), ..MINE };
        assert_eq!(forced.shown(&inode(0o100_644, own, other(7))), (8, 9));
    }

    #[test]
    fn only_what_is_given_is_set() {
        let mut inode = inode(0o100_644, Owner::Id(1), Owner::Id(2));
        MINE.set(&mut inode, None, Some(100));
        assert_eq!((inode.uid, inode.gid), (Owner::Id(1), Owner::SelfOwned));
        MINE.set(&mut inode, Some(0), None);
        assert_eq!((inode.uid, inode.gid), (Owner::Id(0), Owner::SelfOwned));
    }

    #[test]
    fn a_setgid_directory_hands_its_group_down() {
        let caller = Caller { uid: 1000, gid: 100 };
        let (own, team) = (Owner::SelfOwned, Owner::Id(50));
        let plain = inode(0o040_755, own, team);
        assert_eq!(MINE.of_new(caller, &plain, 0o100_644), (own, own, 0o100_644));
        let setgid = inode(0o042_755, own, team);
        assert_eq!(MINE.of_new(caller, &setgid, 0o100_644), (own, team, 0o100_644));
        assert_eq!(MINE.of_new(caller, &setgid, 0o040_755), (own, team, 0o042_755));
    }

    #[test]
    fn sgid_stays_where_it_does_not_mean_to_run_as_the_group() {
        for (before, after) in
            [(0o106_755, 0o100_755), (0o106_745, 0o102_745), (0o046_755, 0o046_755)]
        {
            let mut inode = inode(before, Owner::SelfOwned, Owner::SelfOwned);
            kill_privileges(&mut inode);
            assert_eq!(inode.mode, after, "{before:o}");
        }
    }
}
