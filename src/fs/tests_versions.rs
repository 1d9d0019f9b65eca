//! What a checkpoint adds to changes for joining: versions, stamps, databases.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::tests::{Kept, ME, Place};
use super::*;
use crate::format::clock::Dot;
use crate::format::namespace::{XATTR_INLINE_MAX, XATTR_MAX, XattrState};
use crate::format::versions::{History, Versions};
use crate::volume::Presence;

/// All that the newest head holds of an inode, with dots.
struct Stored {
    dot: Dot,
    inode: Inode,
    /// Back references and attributes.
    beside: Vec<(Key, Dot, Value)>,
}

impl Stored {
    fn content_origin(&self) -> Dot {
        self.inode.history.content.origin(self.dot)
    }

    fn attributes_origin(&self) -> Dot {
        self.inode.history.attributes.origin(self.dot)
    }

    fn xattr(&self) -> (Versions, Option<Vec<u8>>) {
        let xattr = self.beside.iter().find_map(|(_, _, value)| match value {
            Value::Xattr(xattr) => Some(xattr.clone()),
            _ => None,
        });
        let xattr = xattr.expect("an attribute");
        let bytes = match xattr.state {
            XattrState::Removed => None,
            XattrState::Inline(bytes) => Some(bytes),
            XattrState::Stored(..) => panic!("a long one"),
        };
        (xattr.versions, bytes)
    }
}

fn stored(fs: &Fs, ino: Ino) -> Option<Stored> {
    let (mut found, mut beside) = (None, Vec::new());
    let prefix = ino.to_be_bytes();
    fs.volume
        .tree()
        .scan_items(&prefix, &mut |item| {
            if !item.key.starts_with(&prefix) {
                return ControlFlow::Break(());
            }
            let key = Key::decode(&item.key).unwrap();
            let [value] = &item.values[..] else { panic!("one device wrote two values") };
            match (key, Value::decode(&Key::decode(&item.key).unwrap(), &value.bytes).unwrap()) {
                (Key::Inode(_), Value::Inode(inode)) => found = Some((value.dot, *inode)),
                (Key::Entry(..), _) => {}
                (key, decoded) => beside.push((key, value.dot, decoded)),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(found.is_some() || beside.is_empty(), "{ino} is gone and has {beside:?}");
    found.map(|(dot, inode)| Stored { dot, inode, beside })
}

/// Publishes, and returns what is stored of an inode then.
fn published(fs: &Fs, ino: Ino) -> Stored {
    fs.checkpoint().unwrap();
    stored(fs, ino).unwrap()
}

fn file(fs: &Fs, dir: Ino, name: &[u8], bytes: &[u8]) -> Ino {
    let ino = fs.mknod(ME, dir, name, 0o100_644, 0).unwrap().ino;
    fs.write(ino, 0, bytes, false).unwrap();
    fs.forget(ino, 1);
    ino
}

fn chmod(fs: &Fs, ino: Ino, mode: u32) {
    fs.setattr(ino, &SetAttr { mode: Some(mode), ..SetAttr::default() }).unwrap();
}

#[test]
fn content_and_attributes_have_versions_of_their_own() {
    let place = Place::new();
    let fs = place.open();
    let ino = file(&fs, ROOT, b"f", b"one");
    let first = published(&fs, ino);
    assert_eq!(*first.inode.history, History::default(), "nothing was replaced");

    fs.write(ino, 0, b"two", false).unwrap();
    fs.write(ino, 0, b"six", false).unwrap();
    let second = published(&fs, ino);
    let history = &second.inode.history;
    assert_eq!(
        history.content,
        Versions::replacing(&[(first.dot, &Versions::default())], second.dot)
    );
    assert_eq!(second.content_origin(), second.dot, "the newest of two writes that nobody saw");
    assert!(history.content.contain(first.dot));
    assert_eq!(second.attributes_origin(), first.dot);

    chmod(&fs, ino, 0o600);
    let third = published(&fs, ino);
    assert_eq!(third.content_origin(), second.dot, "the bytes are as they were");
    assert_eq!(third.attributes_origin(), third.dot);
    assert!(third.inode.history.attributes.contain(first.dot));

    let times =
        SetAttr { mtime: Some(TimeSet::At(Timestamp { secs: 5, nanos: 0 })), ..SetAttr::default() };
    fs.setattr(ino, &times).unwrap();
    let fourth = published(&fs, ino);
    assert_eq!(fourth.inode.mtime.secs, 5);
    assert_eq!((fourth.content_origin(), fourth.attributes_origin()), (second.dot, third.dot));
    assert!(fourth.dot > third.dot);
    drop(fs);

    // Another mount is another writer.
    let fs = place.open();
    fs.write(ino, 0, b"ten", false).unwrap();
    let fifth = published(&fs, ino);
    assert_ne!(fifth.dot.writer, fourth.dot.writer);
    assert_eq!(fifth.content_origin(), fifth.dot);
    assert!([first.dot, second.dot].iter().all(|dot| fifth.inode.history.content.contain(*dot)));
    assert_eq!(fifth.attributes_origin(), third.dot);
}

#[test]
fn a_record_is_never_written_without_what_lies_beside_it() {
    let place = Place::new();
    let fs = place.open();
    let dir = fs.mkdir(ME, ROOT, b"d", 0o755).unwrap().ino;
    let (ino, other) = (file(&fs, dir, b"f", b"one"), file(&fs, dir, b"other", b"one"));
    fs.link(ino, ROOT, b"hard").unwrap();
    fs.setxattr(ino, b"user.a", b"1", 0).unwrap();
    let first = published(&fs, ino);
    let untouched = stored(&fs, other).unwrap();
    assert_eq!(first.beside.len(), 3);
    fs.write(ino, 0, b"two", false).unwrap();
    let second = published(&fs, ino);
    assert!(second.beside.iter().all(|(_, dot, _)| *dot == second.dot), "{:?}", second.beside);
    let (versions, bytes) = second.xattr();
    assert_eq!((versions.origin(second.dot), bytes), (first.beside[0].1, Some(b"1".to_vec())));
    let again = stored(&fs, other).unwrap();
    assert_eq!((again.dot, again.beside), (untouched.dot, untouched.beside));
}

#[test]
fn a_new_name_stamps_the_directories_above_and_a_removal_does_not() {
    let place = Place::new();
    let fs = place.open();
    let a = fs.mkdir(ME, ROOT, b"a", 0o755).unwrap().ino;
    let b = fs.mkdir(ME, a, b"b", 0o755).unwrap().ino;
    let c = fs.mkdir(ME, b, b"c", 0o755).unwrap().ino;
    fs.setxattr(a, b"user.a", b"1", 0).unwrap();
    let old = file(&fs, c, b"old", b"1");
    fs.checkpoint().unwrap();
    let dots = |fs: &Fs| [a, b, c].map(|ino| stored(fs, ino).unwrap().dot);
    let first = dots(&fs);
    file(&fs, c, b"new", b"1");
    fs.checkpoint().unwrap();
    let second = dots(&fs);
    assert!((0..3).all(|at| second[at] > first[at]), "{first:?} {second:?}");
    let above = stored(&fs, a).unwrap();
    assert!(above.beside.iter().all(|(_, dot, _)| *dot == above.dot), "{:?}", above.beside);
    assert_eq!(above.attributes_origin(), first[0], "and is otherwise as it was");
    fs.unlink(c, b"old").unwrap();
    fs.checkpoint().unwrap();
    let third = dots(&fs);
    assert_eq!((third[0], third[1]), (second[0], second[1]));
    assert!(third[2] > second[2]);
    assert!(stored(&fs, old).is_none());
}

#[test]
fn a_removed_attribute_stays_as_that_until_its_inode_goes() {
    let place = Place::new();
    let fs = place.open();
    let ino = file(&fs, ROOT, b"f", b"one");
    fs.setxattr(ino, b"user.a", b"1", 0).unwrap();
    fs.setxattr(ino, b"user.short", b"1", 0).unwrap();
    fs.removexattr(ino, b"user.short").unwrap();
    let first = published(&fs, ino);
    assert_eq!(first.beside.len(), 2, "what no head had is gone without a trace");
    fs.removexattr(ino, b"user.a").unwrap();
    assert_eq!(fs.getxattr(ino, b"user.a"), Err(FsError::NoData));
    let second = published(&fs, ino);
    assert_eq!(second.xattr().1, None);
    assert!(second.xattr().0.contain(first.beside[0].1));
    assert_eq!(fs.getxattr(ino, b"user.a"), Err(FsError::NoData));
    assert_eq!(fs.removexattr(ino, b"user.a"), Err(FsError::NoData));
    assert!(fs.listxattr(ino).unwrap().is_empty());
    let replace = fs.setxattr(ino, b"user.a", b"2", libc::XATTR_REPLACE);
    assert_eq!(replace, Err(FsError::NoData));
    fs.setxattr(ino, b"user.a", b"2", libc::XATTR_CREATE).unwrap();
    fs.removexattr(ino, b"user.a").unwrap();
    let third = published(&fs, ino);
    assert_eq!(third.xattr(), second.xattr(), "set and removed again: as it was");
    fs.setxattr(ino, b"user.a", b"3", libc::XATTR_CREATE).unwrap();
    let fourth = published(&fs, ino);
    assert_eq!(fourth.xattr().1, Some(b"3".to_vec()));
    assert!(fourth.xattr().0.contain(second.dot) && fourth.xattr().0.contain(first.beside[0].1));
    fs.removexattr(ino, b"user.a").unwrap();
    fs.checkpoint().unwrap();
    fs.unlink(ROOT, b"f").unwrap();
    fs.checkpoint().unwrap();
    assert!(stored(&fs, ino).is_none());
}

#[test]
fn removed_attributes_are_kept_up_to_a_number() {
    let place = Place::new();
    let fs = place.open();
    let ino = file(&fs, ROOT, b"f", b"one");
    let name = |at: u32| format!("user.{at:04}").into_bytes();
    for at in 0..200 {
        fs.setxattr(ino, &name(at), b"1", 0).unwrap();
    }
    fs.checkpoint().unwrap();
    for at in 0..200 {
        fs.removexattr(ino, &name(at)).unwrap();
    }
    fs.checkpoint().unwrap();
    fs.write(ino, 0, b"two", false).unwrap();
    let kept = published(&fs, ino).beside;
    let removed = |(key, _, _): &&(Key, Dot, Value)| matches!(key, Key::Xattr(..));
    assert_eq!(kept.iter().filter(removed).count(), 64);
}

/// 4096 bytes were the most; the kernel takes 64 KiB.
#[test]
fn a_long_attribute_survives_crash_checkpoint_and_reopening() {
    let place = Place::new();
    let log = Arc::new(Kept::default());
    let long = |seed: u8, len: usize| -> Vec<u8> {
        (0..len).map(|at| (at as u8).wrapping_mul(seed) ^ (at >> 8) as u8).collect()
    };
    let all = [
        (b"user.a", long(3, XATTR_INLINE_MAX)),
        (b"user.b", long(5, XATTR_INLINE_MAX + 1)),
        (b"user.c", long(7, XATTR_MAX)),
    ];
    let same = |fs: &Fs, ino| {
        for (name, bytes) in &all {
            assert_eq!(fs.getxattr(ino, *name).as_ref(), Ok(bytes));
        }
    };
    let fs = place.recover(&log);
    let ino = file(&fs, ROOT, b"f", b"one");
    for (name, bytes) in &all {
        fs.setxattr(ino, *name, bytes, 0).unwrap();
    }
    assert_eq!(fs.setxattr(ino, b"user.d", &vec![0; XATTR_MAX + 1], 0), Err(FsError::TooBig));
    same(&fs, ino);
    drop(fs);
    let fs = place.recover(&log);
    same(&fs, ino);
    fs.checkpoint().unwrap();
    same(&fs, ino);
    // Written again beside the record, the chunk stays.
    chmod(&fs, ino, 0o600);
    fs.checkpoint().unwrap();
    drop(fs);
    log.records.lock().unwrap().clear();
    let fs = place.open();
    same(&fs, ino);
    let found = fs.volume.inspect(
        &|id| {
            Ok(if fs.volume.store.is_in(id, &|_| true)? {
                Presence::Good
            } else {
                Presence::Missing
            })
        },
        usize::MAX,
    );
    let found = found.unwrap();
    assert!(found.files.is_empty() && found.disagreements.is_empty(), "{found:?}");
    fs.removexattr(ino, b"user.c").unwrap();
    fs.checkpoint().unwrap();
    assert_eq!(fs.getxattr(ino, b"user.c"), Err(FsError::NoData));
}

#[test]
fn a_file_says_which_files_it_was_renamed_over() {
    let place = Place::new();
    let fs = place.open();
    let old = file(&fs, ROOT, b"f", b"one");
    let first = published(&fs, old);
    let save = |bytes: &[u8]| {
        let new = file(&fs, ROOT, b"f.tmp", bytes);
        fs.rename((ROOT, b"f.tmp"), (ROOT, b"f"), RenameMode::Replace).unwrap();
        new
    };
    // The first of the two was in no head.
    save(b"two");
    let second = save(b"three");
    let after = published(&fs, second);
    let origin = first.dot;
    let over = &after.inode.history.over;
    assert_eq!(over, &[(old, Versions::default().kept(origin))]);
    let mut last = second;
    for round in 0..20 {
        last = save(&[round]);
        fs.checkpoint().unwrap();
    }
    let over = stored(&fs, last).unwrap().inode.history.over;
    assert_eq!(over.len(), 8, "the newest of them");
    assert!(over.iter().all(|(ino, _)| *ino != old && *ino != last));
    // A file that moves away and stays was not renamed over.
    let kept = file(&fs, ROOT, b"kept", b"1");
    fs.checkpoint().unwrap();
    fs.rename((ROOT, b"kept"), (ROOT, b"aside"), RenameMode::Replace).unwrap();
    let other = file(&fs, ROOT, b"kept", b"2");
    assert!(published(&fs, other).inode.history.over.is_empty());
    assert!(stored(&fs, kept).is_some());
}

#[test]
fn a_database_and_its_side_files_are_one_version() {
    let place = Place::new();
    let fs = place.open();
    let database = file(&fs, ROOT, b"chat.db", b"pages");
    fs.checkpoint().unwrap();
    assert_eq!(stored(&fs, database).unwrap().inode.history.main, None);
    let wal = file(&fs, ROOT, b"chat.db-wal", b"log");
    let shm = file(&fs, ROOT, b"chat.db-shm", b"index");
    // Of each side file: the database, and the very version that is stored.
    let bound = |fs: &Fs, side: Ino, database: Ino| {
        let main = stored(fs, side).unwrap().inode.history.main;
        assert_eq!(main, Some((database, stored(fs, database).unwrap().content_origin())));
        main.unwrap().1
    };
    fs.checkpoint().unwrap();
    let first = bound(&fs, wal, database);
    assert_eq!(bound(&fs, shm, database), first);

    fs.write(wal, 3, b" and more", false).unwrap();
    fs.checkpoint().unwrap();
    let second = bound(&fs, wal, database);
    assert!(second > first, "the log changed, so the database is another version");
    assert_eq!(bound(&fs, shm, database), second);
    assert!(stored(&fs, database).unwrap().inode.history.content.contain(first));

    // Attributes make no version, and all are written together.
    chmod(&fs, database, 0o600);
    fs.checkpoint().unwrap();
    assert_eq!(bound(&fs, wal, database), second);
    let all = [database, wal, shm].map(|ino| stored(&fs, ino).unwrap().dot);
    assert!(all[0] == all[1] && all[1] == all[2], "{all:?}");

    // A checkpoint of SQLite: the log goes.
    fs.write(database, 0, b"PAGES", false).unwrap();
    fs.unlink(ROOT, b"chat.db-wal").unwrap();
    fs.checkpoint().unwrap();
    let third = bound(&fs, shm, database);
    assert!(third > second);
    assert!(stored(&fs, wal).is_none());
    // Only the log went: a new version all the same.
    fs.unlink(ROOT, b"chat.db-shm").unwrap();
    fs.checkpoint().unwrap();
    assert!(stored(&fs, database).unwrap().content_origin() > third);

    // What stands beside no database any more says nothing.
    let journal = file(&fs, ROOT, b"chat.db-journal", b"hot");
    fs.checkpoint().unwrap();
    bound(&fs, journal, database);
    fs.rename((ROOT, b"chat.db"), (ROOT, b"away.db"), RenameMode::Replace).unwrap();
    fs.checkpoint().unwrap();
    assert_eq!(stored(&fs, journal).unwrap().inode.history.main, None);
    // Another one comes and takes it.
    let other = file(&fs, ROOT, b"chat.db", b"other");
    fs.checkpoint().unwrap();
    bound(&fs, journal, other);
    // Both new, in one checkpoint; a side file of a side file is none.
    let (new, log) = (file(&fs, ROOT, b"n", b"1"), file(&fs, ROOT, b"n-wal", b"1"));
    let none = file(&fs, ROOT, b"n-wal-wal", b"1");
    chmod(&fs, new, 0o600);
    fs.checkpoint().unwrap();
    bound(&fs, log, new);
    assert_eq!(stored(&fs, none).unwrap().inode.history.main, None);
}

/// A crash makes the same changes again, under the same dots, so what is published then is the
/// same, too.
#[test]
fn a_replay_publishes_the_same_versions() {
    let roots: Vec<_> = [false, true]
        .into_iter()
        .map(|crash| {
            let place = Place::new();
            let log = Arc::new(Kept::default());
            let mut fs = place.recover(&log);
            let ino = file(&fs, ROOT, b"f", b"one");
            fs.checkpoint().unwrap();
            fs.write(ino, 0, b"two", false).unwrap();
            chmod(&fs, ino, 0o600);
            fs.setxattr(ino, b"user.a", b"1", 0).unwrap();
            file(&fs, ROOT, b"f-wal", b"log");
            let writer = fs.volume.writer();
            if crash {
                drop(fs);
                fs = place.recover(&log);
            }
            let stored = published(&fs, ino);
            assert_eq!(stored.dot.writer, writer);
            let history = &stored.inode.history;
            let record = |dot: Dot| dot.record;
            (
                record(stored.dot),
                record(stored.content_origin()),
                record(stored.attributes_origin()),
                history.main.map(|(_, origin)| origin.record),
            )
        })
        .collect();
    assert_eq!(roots[0], roots[1]);
}

/// The dot of a name that went was read from its directory's record. Where that went too the
/// log stayed bound to a version of the database that no tree has, and a join would have hidden
/// it.
#[test]
fn a_log_that_leaves_a_directory_that_goes_is_bound_to_nothing() {
    let place = Place::new();
    let fs = place.open();
    let dir = fs.mkdir(ME, ROOT, b"d", 0o755).unwrap().ino;
    let (database, wal) = (file(&fs, dir, b"chat.db", b"1"), file(&fs, dir, b"chat.db-wal", b"1"));
    fs.checkpoint().unwrap();
    let first = stored(&fs, database).unwrap().content_origin();
    fs.rename((dir, b"chat.db-wal"), (ROOT, b"keep.log"), RenameMode::Replace).unwrap();
    fs.rename((dir, b"chat.db"), (ROOT, b"new.db"), RenameMode::Replace).unwrap();
    fs.rmdir(ROOT, b"d").unwrap();
    fs.checkpoint().unwrap();
    assert_eq!(stored(&fs, wal).unwrap().inode.history.main, None);
    assert_ne!(stored(&fs, database).unwrap().content_origin(), first);
}

/// Each name of a database counts: one more is another version, so that a change of its mode
/// elsewhere does not bring back the old names.
#[test]
fn a_second_name_of_a_database_is_a_version_and_a_name_that_came_and_went_is_none() {
    let place = Place::new();
    let fs = place.open();
    let (database, wal) =
        (file(&fs, ROOT, b"chat.db", b"1"), file(&fs, ROOT, b"chat.db-wal", b"1"));
    fs.checkpoint().unwrap();
    let first = stored(&fs, database).unwrap().content_origin();
    file(&fs, ROOT, b"chat.db-journal", b"hot");
    fs.unlink(ROOT, b"chat.db-journal").unwrap();
    fs.checkpoint().unwrap();
    assert_eq!(stored(&fs, database).unwrap().content_origin(), first, "nothing came of it");
    fs.link(database, ROOT, b"second").unwrap();
    fs.checkpoint().unwrap();
    let second = stored(&fs, database).unwrap().content_origin();
    assert_ne!(second, first);
    assert_eq!(stored(&fs, wal).unwrap().inode.history.main, Some((database, second)));
    // A side file of a side file of a side file is none either.
    let strange = file(&fs, ROOT, b"n-wal-wal-wal", b"1");
    file(&fs, ROOT, b"n-wal-wal", b"1");
    fs.checkpoint().unwrap();
    assert_eq!(stored(&fs, strange).unwrap().inode.history.main, None);
}

/// After a crash two writers are in one overlay. Their numbers are random: what is later is
/// decided by the order of the changes, and all beside a record stands under its dot.
#[test]
fn changes_of_two_writers_are_ordered_as_they_were_made() {
    // Which of two random numbers is higher: until it was both.
    let mut higher = [false; 2];
    for _ in 0..64 {
        let place = Place::new();
        let log = Arc::new(Kept::default());
        let fs = place.recover(&log);
        let database = file(&fs, ROOT, b"chat.db", b"1");
        file(&fs, ROOT, b"chat.db-wal", b"1");
        fs.checkpoint().unwrap();
        let wal = fs.lookup(ROOT, b"chat.db-wal").unwrap().ino;
        fs.link(database, ROOT, b"second").unwrap();
        fs.write(wal, 0, b"2", false).unwrap();
        let old = fs.volume.writer();
        drop(fs);
        let fs = place.recover(&log);
        fs.write(database, 0, b"2", false).unwrap();
        let new = fs.volume.writer();
        let after = published(&fs, database);
        assert_eq!((after.dot.writer, after.content_origin().writer), (new, new));
        assert!(after.beside.iter().all(|(_, dot, _)| *dot == after.dot), "{:?}", after.beside);
        let main = stored(&fs, wal).unwrap().inode.history.main;
        assert_eq!(main, Some((database, after.content_origin())));
        higher[usize::from(new > old)] = true;
        if higher == [true; 2] {
            return;
        }
    }
    panic!("64 random numbers on one side");
}

/// Each of many new names had all names of its file looked at.
#[test]
fn many_names_of_one_file_take_no_time_to_stamp() {
    let place = Place::new();
    let fs = place.open();
    let ino = file(&fs, ROOT, b"f", b"one");
    fs.checkpoint().unwrap();
    for number in 0..20_000u32 {
        fs.link(ino, ROOT, format!("name {number}").as_bytes()).unwrap();
    }
    let start = std::time::Instant::now();
    fs.checkpoint().unwrap();
    // Some tenths of a second; it was minutes.
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}
