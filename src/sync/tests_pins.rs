//! Files that are open while another device's version takes their place.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::tests_devices::{listing, publish};
use crate::fs::{Caller, DirEntry, Followed, Later, Operations, RenameMode, SetAttr};
use crate::merge::tests_devices::Device;
use crate::merge::{ConflictKind, FoundConflict, Scope};

/// What a program reads that has the file open.
fn held(device: &Device, open: u64) -> String {
    String::from_utf8(device.fs().read(open, 0, u32::MAX).unwrap()).unwrap()
}

/// A laptop that has what a phone wrote to `f`, and does not show it yet.
fn behind() -> Device {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "base"));
    let phone = laptop.another("PHONE", 3);
    assert!(phone.write("f", "phone"));
    phone.checkpoint();
    laptop.receive(&phone);
    laptop
}

/// A laptop with a file that it has open, and a phone that changes it; the laptop follows.
fn followed(name: &str, change: impl Fn(&Device)) -> (Device, Device, u64) {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.mkdir("D") && laptop.write(name, "base") && laptop.set_xattr(name, "label"));
    let phone = laptop.another("PHONE", 3);
    let open = laptop.look_up(name).unwrap().ino;
    laptop.open_again(open).unwrap();
    change(&phone);
    phone.checkpoint();
    laptop.receive(&phone);
    let outcome = laptop.follow();
    assert!(matches!(outcome, Followed::Changed(_)), "{outcome:?}");
    (laptop, phone, open)
}

#[test]
fn an_open_file_stays_what_it_is_and_its_path_shows_what_another_device_wrote() {
    let (laptop, phone, open) = followed("D/f", |phone| assert!(phone.write("D/f", "phone")));
    assert_eq!(held(&laptop, open), "base");
    assert_eq!(laptop.seen()["D/f"].bytes, "phone");
    let new = laptop.look_up("D/f").unwrap();
    assert!(new.ino != open && new.size == 5);
    assert_eq!(laptop.fs().getattr(open).unwrap().nlink, 0);
    // Also once more, with both versions open.
    laptop.open_again(new.ino).unwrap();
    assert!(phone.write("D/f", "phone again"));
    phone.checkpoint();
    laptop.receive(&phone);
    assert!(matches!(laptop.follow(), Followed::Changed(_)));
    assert_eq!((held(&laptop, open), held(&laptop, new.ino)), ("base".into(), "phone".into()));
    assert_eq!(laptop.seen()["D/f"].bytes, "phone again");
    laptop.close(open);
    laptop.close(new.ino);
    laptop.fs().forget(open, u64::MAX);
    laptop.fs().forget(new.ino, u64::MAX);
    assert!(laptop.fs().getattr(open).is_err() && laptop.fs().getattr(new.ino).is_err());
    // It is the same file for who edits it from here on.
    assert!(laptop.append("D/f", "+laptop"));
    laptop.checkpoint();
    phone.receive(&laptop);
    assert!(matches!(phone.follow(), Followed::Changed(_)));
    assert_eq!(phone.seen()["D/f"].bytes, "phone again+laptop");
    assert_eq!(phone.seen().len(), 2, "{:#?}", phone.seen());
}

#[test]
fn what_is_written_to_an_open_file_stands_beside_what_another_device_wrote() {
    for how in 0..6 {
        let (laptop, phone, open) = followed("D/f", |phone| assert!(phone.write("D/f", "phone")));
        let fs = laptop.fs();
        let wanted = match how {
            0 => fs.write(open, 4, b"+laptop", false).map(|()| "base+laptop"),
            1 => fs.setattr(open, &SetAttr { size: Some(2), ..SetAttr::default() }).map(|_| "ba"),
            2 => fs.fallocate(open, 0, 6, 0).map(|()| "base\0\0"),
            3 => fs.copy_file_range((open, 0), (open, 4), 4).map(|_| "basebase"),
            4 => fs
                .setattr(open, &SetAttr { mode: Some(0o600), ..SetAttr::default() })
                .map(|_| "base"),
            _ => fs.setxattr(open, b"user.x", b"another", 0).map(|()| "base"),
        };
        let wanted = wanted.unwrap();
        assert_eq!(held(&laptop, open), wanted);
        let untold = laptop.fs().take_untold().expect("the kernel does not know the name");
        let [(_, name)] = &untold.names.iter().collect::<Vec<_>>()[..] else { panic!() };
        assert!(name.starts_with(b"f (from LAPTOP, "), "{name:?}");
        let seen = laptop.seen();
        assert_eq!((seen.len(), seen["D/f"].bytes.as_str()), (3, "phone"));
        let beside = seen.keys().find(|path| path.starts_with("D/f (from LAPTOP, ")).unwrap();
        assert_eq!(seen[beside].bytes, wanted);
        assert_eq!(seen[beside].xattrs().len(), 1, "its attributes came with it");
        assert_eq!(laptop.look_up(beside).unwrap().ino, open);
        // A crash brings it back, whether it was published or not.
        let laptop = if how < 2 {
            laptop.remount(20)
        } else {
            publish(&laptop).unwrap();
            laptop
        };
        laptop.checkpoint();
        assert_eq!(listing(&laptop), seen);
        phone.receive(&laptop);
        let phone = phone.remount(21);
        assert_eq!(listing(&phone), seen);
        let (one, other) = (laptop.volume().base(), phone.volume().base());
        assert_eq!(one.inherited.root, other.inherited.root);
        assert_eq!(one.inherited.bytes, other.inherited.bytes);
    }
}

#[test]
fn what_is_written_to_a_file_that_another_device_removed_has_its_name_again() {
    let (laptop, phone, open) = followed("D/f", |phone| assert!(phone.unlink("D/f")));
    assert!(!laptop.seen().contains_key("D/f"));
    assert_eq!(held(&laptop, open), "base");
    laptop.fs().write(open, 4, b"+laptop", false).unwrap();
    laptop.checkpoint();
    assert_eq!(laptop.seen()["D/f"].bytes, "base+laptop");
    laptop.close(open);
    phone.receive(&laptop);
    assert!(matches!(phone.follow(), Followed::Changed(_)));
    assert_eq!(phone.seen(), laptop.seen());
    // Its directory may be gone, too.
    let both = |phone: &Device| assert!(phone.unlink("D/f") && phone.rmdir("D"));
    let (laptop, _, open) = followed("D/f", both);
    laptop.fs().write(open, 4, b"+laptop", false).unwrap();
    laptop.checkpoint();
    assert_eq!(laptop.seen()["f"].bytes, "base+laptop");
}

/// A file that was removed here while it was open, and that another device changed, is back; what is
/// written to the removed one goes with it.
#[test]
fn a_file_without_a_name_stays_apart_from_what_another_device_made_of_it() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("f", "base"));
    let phone = laptop.another("PHONE", 3);
    let open = laptop.look_up("f").unwrap().ino;
    laptop.open_again(open).unwrap();
    assert!(laptop.unlink("f"));
    laptop.fs().write(open, 4, b"+removed", false).unwrap();
    laptop.checkpoint();
    assert!(phone.write("f", "phone"));
    phone.checkpoint();
    laptop.receive(&phone);
    assert!(matches!(laptop.follow(), Followed::Changed(_)));
    assert_eq!(held(&laptop, open), "base+removed");
    laptop.fs().write(open, 12, b"+more", false).unwrap();
    assert_eq!(held(&laptop, open), "base+removed+more");
    laptop.close(open);
    laptop.checkpoint();
    let seen = laptop.seen();
    assert_eq!((seen.len(), seen["f"].bytes.as_str()), (1, "phone"));
}

/// A database that is open goes with its log, so that neither may be exchanged alone.
#[test]
fn an_open_database_holds_following_up() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("db", "base") && laptop.write("db-wal", "log") && laptop.write("f", "x"));
    let phone = laptop.another("PHONE", 3);
    assert!(phone.write("db", "phone") && phone.write("f", "phone"));
    phone.checkpoint();
    laptop.receive(&phone);
    for name in ["db", "db-wal"] {
        assert!(phone.write(name, "again"));
    }
    phone.checkpoint();
    laptop.receive(&phone);
    for name in ["db", "db-wal"] {
        let open = laptop.open_file(name).unwrap();
        let outcome = laptop.follow();
        let is_held = |later: &Later| *later == Later::Database(name.into());
        assert!(matches!(&outcome, Followed::Later(later) if is_held(later)), "{outcome:?}");
        assert_eq!(laptop.seen()["f"].bytes, "x");
        assert!(!laptop.fs().alarm().has_rung());
        laptop.close(open);
        assert!(laptop.fs().alarm().has_rung(), "who follows is told");
    }
    assert!(matches!(laptop.follow(), Followed::Changed(_)));
    assert_eq!(laptop.seen()["db"].bytes, "again");
    let open = laptop.open_file("db").unwrap();
    laptop.close(open);
    assert!(!laptop.fs().alarm().has_rung(), "nobody waits for it any more");
}

/// An open database was looked at again only after 15 seconds, and programs that open it now and
/// then had it open again by then.
#[test]
fn a_database_that_is_closed_is_followed_within_a_second() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("db", "base") && laptop.write("db-wal", "log"));
    let phone = laptop.another("PHONE", 3);
    assert!(phone.write("db", "phone"));
    phone.checkpoint();
    laptop.receive(&phone);
    let follower = Device::follower();
    let [db, log] = ["db", "db-wal"].map(|name| laptop.open_file(name).unwrap());
    let again = laptop.open_file("db").unwrap();
    assert!(matches!(laptop.follow_with(&follower), Followed::Later(Later::Database(_))));
    for open in [log, db] {
        laptop.close(open);
        assert!(!laptop.fs().alarm().has_rung(), "one of two closed it");
    }
    laptop.close(again);
    let (begin, limit) = (Instant::now(), Duration::from_secs(60));
    follower.wait(laptop.volume(), &mut None, limit, laptop.fs().alarm());
    assert!(begin.elapsed() < limit);
    assert!(!laptop.has_news(&follower), "it was looked at just now");
    laptop.pass(1);
    assert!(laptop.has_news(&follower));
    assert!(matches!(laptop.follow_with(&follower), Followed::Changed(_)));
    assert!(!laptop.has_news(&follower));
}

/// What is written here goes before what is shown, and a mount says why it shows nothing new.
#[test]
fn what_cannot_be_published_holds_following_up() {
    let laptop = behind();
    assert!(laptop.write("own", "laptop"));
    laptop.world().set_capacity(0);
    let outcome = laptop.follow();
    assert!(matches!(outcome, Followed::Later(Later::Unpublished)), "{outcome:?}");
    assert_eq!(laptop.seen()["f"].bytes, "base");
    assert_eq!(
        laptop.volume().heads().newest.len(),
        2,
        "what the phone says is known all the same"
    );
    laptop.world().set_capacity(1 << 40);
    laptop.pass(60);
    assert!(matches!(laptop.follow(), Followed::Changed(_)));
    assert_eq!(laptop.seen()["f"].bytes, "phone");
}

/// What stands beside another version because it was open is a conflict for people, too.
#[test]
fn what_was_written_to_an_open_file_is_a_conflict_that_people_are_shown() {
    let everything = Scope { dir: 1, path: Vec::new(), name: None };
    let conflicts = |device: &Device| {
        let found = device.volume().conflicts(std::slice::from_ref(&everything)).unwrap();
        let text = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
        let line = |found: &FoundConflict| {
            let device = found.conflict.device.clone().map(|(_, name)| name);
            assert_eq!(found.conflict.kind, ConflictKind::Version);
            (text(&found.path), found.of.as_deref().map(text), device)
        };
        found.iter().map(line).collect::<Vec<_>>()
    };
    for name in ["D/f", "D/photo.jpg"] {
        let (laptop, phone, open) = followed(name, |phone| assert!(phone.write(name, "phone")));
        laptop.fs().write(open, 4, b"+laptop", false).unwrap();
        laptop.checkpoint();
        let found = conflicts(&laptop);
        let [(path, Some(of), Some(device))] = &found[..] else { panic!("{found:?}") };
        assert!(
            (of.as_str(), device.as_str()) == (name, "LAPTOP") && path.contains("(from LAPTOP, ")
        );
        phone.receive(&laptop);
        let phone = phone.remount(20);
        assert_eq!(conflicts(&phone), found);
        // The program goes on writing: it is the same conflict.
        laptop.fs().write(open, 0, b"more", false).unwrap();
        laptop.checkpoint();
        assert_eq!(conflicts(&laptop), found);
        // Another name settles it, and so does another file in the place of the other version.
        let settle: [&dyn Fn() -> bool; 2] = [&|| laptop.rename(path, "D/kept"), &|| {
            laptop.rename("D/kept", path) && laptop.unlink(name) && laptop.write(name, "new")
        }];
        for settle in settle {
            assert!(settle());
            laptop.checkpoint();
            assert_eq!(conflicts(&laptop), []);
        }
    }
}

/// Two devices make a directory of one name. Who works in the one that is not there any more goes on
/// in the one that took its place.
#[test]
fn a_directory_in_whose_place_another_one_is_keeps_its_number_for_the_kernel() {
    for undone in [false, true] {
        let laptop = Device::first("LAPTOP");
        let phone = laptop.another("PHONE", 3);
        for device in [&laptop, &phone] {
            assert!(device.mkdir("D") && device.mkdir("D/E"));
        }
        assert!(laptop.write("D/E/laptop", "laptop") && phone.write("D/E/phone", "phone"));
        let known = ["D", "D/E"].map(|path| {
            [&laptop, &phone].map(|device| (device.look_up(path).unwrap().ino, device))
        });
        laptop.checkpoint();
        phone.checkpoint();
        laptop.receive(&phone);
        phone.receive(&laptop);
        for device in [&laptop, &phone] {
            let Followed::Changed(changed) = device.follow() else { panic!("nothing is open") };
            // Who works in a directory whose name is forgotten has no path any more.
            assert!(!changed.names.contains(&(1, b"D".to_vec())), "{changed:?}");
        }
        for (ino, device) in known.iter().flatten() {
            assert!(device.fs().getattr(*ino).is_ok(), "the directory is gone");
        }
        for (path, devices) in ["D", "D/E"].iter().zip(&known) {
            for (ino, device) in devices {
                let attr = device.look_up(path).unwrap();
                // Of another generation it would be another inode for the kernel.
                assert_eq!((attr.ino, attr.generation), (*ino, 0), "{path}");
            }
        }
        let caller = Caller { uid: 0, gid: 0 };
        for (ino, device) in &known[1] {
            let fs = device.fs();
            for name in ["laptop", "phone"] {
                assert!(fs.lookup(*ino, name.as_bytes()).is_ok(), "{name}");
            }
            let new = device.volume().state().name;
            let new = fs.mknod(caller, *ino, new.as_bytes(), 0o100_644, 0).unwrap();
            fs.write(new.ino, 0, b"x", false).unwrap();
            assert!(fs.symlink(caller, *ino, b"link", b"target").is_ok());
            fs.link(new.ino, *ino, b"second").unwrap();
            fs.rename((*ino, b"second"), (*ino, b"third"), RenameMode::NoReplace).unwrap();
            fs.unlink(*ino, b"third").unwrap();
            fs.unlink(*ino, b"link").unwrap();
            let made = fs.mkdir(caller, *ino, b"made", 0o755).unwrap();
            let mut names = Vec::new();
            let mut note = |entry: &DirEntry| {
                names.push((entry.name.clone(), entry.attr.ino));
                true
            };
            fs.readdir(made.ino, 0, true, &mut note).unwrap();
            assert_eq!(names[1], (b"..".to_vec(), *ino));
            fs.rmdir(*ino, b"made").unwrap();
        }
        laptop.checkpoint();
        phone.receive(&laptop);
        phone.follow();
        assert_eq!(phone.seen(), listing(&phone));
        assert!(phone.seen().contains_key("D/E/LAPTOP"));
        if undone {
            // One device takes all away, and makes it anew; then the other one.
            for (one, other, name) in [(&laptop, &phone, "again"), (&phone, &laptop, "third")] {
                other.checkpoint();
                one.receive(other);
                one.follow();
                for path in one.seen().keys().rev().filter(|path| path.starts_with("D/E/")) {
                    assert!(one.unlink(path), "{path}");
                }
                assert!(one.rmdir("D/E") && one.mkdir("D/E") && one.write("D/E/x", name));
                one.checkpoint();
                let ino = other.look_up("D/E").unwrap().ino;
                other.receive(one);
                assert!(matches!(other.follow(), Followed::Changed(_)));
                assert_eq!(other.look_up("D/E").unwrap().ino, ino, "{name}");
                let file = other.fs().lookup(ino, b"x").unwrap();
                assert_eq!(other.fs().read(file.ino, 0, 9).unwrap(), name.as_bytes());
            }
        }
    }
}

/// A directory that another device moved stays itself, whatever has its old name.
#[test]
fn a_directory_that_moved_is_not_taken_for_the_one_in_its_place() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.mkdir("D") && laptop.write("D/f", "base"));
    let phone = laptop.another("PHONE", 3);
    let known = laptop.look_up("D").unwrap().ino;
    assert!(phone.rename("D", "moved") && phone.mkdir("D") && phone.write("D/g", "phone"));
    phone.checkpoint();
    laptop.receive(&phone);
    assert!(matches!(laptop.follow(), Followed::Changed(_)));
    assert!(laptop.fs().lookup(known, b"f").is_ok());
    assert_eq!(laptop.look_up("moved").unwrap().ino, known);
    assert_ne!(laptop.look_up("D").unwrap().ino, known);
}

/// A program that makes a change every millisecond kept all that others wrote from being shown.
#[test]
fn programs_that_never_pause_do_not_keep_others_changes_away() {
    let laptop = behind();
    let (fs, caller) = (laptop.fs(), Caller { uid: 0, gid: 0 });
    let stop = AtomicBool::new(false);
    let (shown, longest) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut longest, mut number) = (Duration::ZERO, 0);
            while !stop.load(Ordering::Relaxed) {
                let begin = Instant::now();
                number += 1;
                fs.mkdir(caller, 1, format!("made {number}").as_bytes(), 0o755).unwrap();
                longest = longest.max(begin.elapsed());
                std::thread::sleep(Duration::from_micros(200));
            }
            longest
        });
        let shown = (0..4).any(|_| matches!(laptop.follow(), Followed::Changed(_)));
        stop.store(true, Ordering::Relaxed);
        (shown, writer.join().unwrap())
    });
    assert!(shown, "four tries were in vain");
    assert!(longest < Duration::from_secs(5), "a change waited for {longest:?}");
    assert_eq!(laptop.seen()["f"].bytes, "phone");
    laptop.checkpoint();
    assert_eq!(laptop.seen(), listing(&laptop));
}

/// The name that is told is the one by which the file is a database, whatever else it is called.
#[test]
fn an_open_database_is_told_by_its_name_as_a_database() {
    for (first, second) in [("a", "db"), ("db", "z")] {
        let laptop = Device::first("LAPTOP");
        assert!(laptop.write(first, "base") && laptop.link(first, second));
        assert!(laptop.write("db-wal", "log"));
        let phone = laptop.another("PHONE", 3);
        assert!(phone.append("db", "phone"));
        phone.checkpoint();
        laptop.receive(&phone);
        laptop.open_file(first).unwrap();
        let outcome = laptop.follow();
        let is_told = matches!(&outcome, Followed::Later(Later::Database(name)) if name == b"db");
        assert!(is_told, "{outcome:?}");
    }
}

/// A program that has a database open finds what is beside it by its name.
#[test]
fn an_open_database_that_another_device_renames_holds_following_up() {
    let laptop = Device::first("LAPTOP");
    assert!(laptop.write("db", "base") && laptop.write("db-journal", "log"));
    let phone = laptop.another("PHONE", 3);
    assert!(phone.rename("db", "old") && phone.write("f", "phone"));
    phone.checkpoint();
    laptop.receive(&phone);
    let open = laptop.open_file("db").unwrap();
    let outcome = laptop.follow();
    let is_held = matches!(&outcome, Followed::Later(Later::Database(name)) if name == b"db");
    assert!(is_held, "{outcome:?}");
    laptop.close(open);
    assert!(matches!(laptop.follow(), Followed::Changed(_)));
    assert_eq!(laptop.seen()["f"].bytes, "phone");
}

/// A program opens its log by the path that it knows: beside another database that is there now, or
/// nowhere. Only the file's own names were looked at.
#[test]
fn an_open_database_below_a_directory_that_moves_holds_following_up() {
    for from in ["D", "D/F"] {
        let laptop = Device::first("LAPTOP");
        assert!(laptop.mkdir("D") && laptop.mkdir("D/F") && laptop.mkdir("E"));
        assert!(laptop.write("D/F/db", "base") && laptop.write("D/F/db-journal", "log"));
        assert!(laptop.write("D/F/plain", "base"));
        let phone = laptop.another("PHONE", 3);
        assert!(phone.rename(from, "E/moved"));
        phone.checkpoint();
        laptop.receive(&phone);
        let [plain, db] = ["D/F/plain", "D/F/db"].map(|path| laptop.open_file(path).unwrap());
        let outcome = laptop.follow();
        let is_held = matches!(&outcome, Followed::Later(Later::Database(name)) if name == b"db");
        assert!(is_held, "{from}: {outcome:?}");
        assert!(laptop.find("D/F/db").is_some());
        laptop.close(db);
        assert!(matches!(laptop.follow(), Followed::Changed(_)), "{from}");
        assert_eq!(held(&laptop, plain), "base");
        laptop.close(plain);
    }
}
