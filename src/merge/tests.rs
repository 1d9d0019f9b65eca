//! The examples of `docs/merging.md`, sections 5 and 6: what two devices did apart from each
//! other, and what is shown then.

use super::tests_devices::Device;
use super::tests_maps::{Line, checked, shown};
use super::*;

/// Two devices that begin with the same tree.
fn two(begin: impl FnOnce(&Device)) -> (Device, Device) {
    let laptop = Device::first("LAPTOP");
    begin(&laptop);
    let phone = laptop.another("PHONE", 3);
    (laptop, phone)
}

/// What both show when they have joined.
fn both((laptop, phone): &(Device, Device)) -> Vec<String> {
    shown(&[&laptop.publish(), &phone.publish()], laptop.ids())
}

fn conflicts((laptop, phone): &(Device, Device)) -> Vec<(ConflictKind, String)> {
    let (_, repairs) = checked(&[&laptop.publish(), &phone.publish()], laptop.ids()).unwrap();
    let of = |conflict: &Conflict| {
        (conflict.kind, conflict.device.as_ref().map_or("?".into(), |(_, name)| name.clone()))
    };
    repairs.conflicts.iter().map(of).collect()
}

fn line((laptop, phone): &(Device, Device), path: &str) -> Line {
    let (map, _) = checked(&[&laptop.publish(), &phone.publish()], laptop.ids()).unwrap();
    map.listing().unwrap()[path].clone()
}

#[test]
fn nothing_to_repair_where_devices_changed_different_files() {
    let devices = two(|laptop| {
        laptop.mkdir("chats");
        laptop.write("chats/a", "one");
        laptop.write("chats/b", "two");
    });
    devices.0.write("chats/a", "three");
    devices.1.write("chats/b", "four");
    assert_eq!(both(&devices), ["chats/", "chats/a=three", "chats/b=four"]);
    assert_eq!(conflicts(&devices), []);
}

#[test]
fn both_edit_a_file_and_both_contents_stay() {
    let devices = two(|laptop| {
        laptop.write("chat.txt", "base");
    });
    devices.0.write("chat.txt", "of the laptop");
    devices.1.write("chat.txt", "of the phone");
    assert_eq!(
        both(&devices),
        ["chat (from LAPTOP, 2026-11-28 ####).txt=of the laptop", "chat.txt=of the phone"]
    );
    assert_eq!(conflicts(&devices), [(ConflictKind::Version, "LAPTOP".into())]);
}

#[test]
fn one_renames_what_the_other_edits() {
    let devices = two(|laptop| {
        laptop.write("f", "base");
    });
    devices.0.rename("f", "g");
    devices.1.write("f", "edited");
    assert_eq!(both(&devices), ["g=edited"]);
    assert_eq!(line(&devices, "g").links(), 1);
    assert_eq!(conflicts(&devices), []);
}

#[test]
fn one_deletes_what_the_other_edits() {
    let devices = two(|laptop| {
        laptop.mkdir("D");
        laptop.write("D/f", "base");
        laptop.write("D/other", "base");
    });
    devices.0.unlink("D/f");
    devices.0.unlink("D/other");
    devices.1.write("D/f", "edited");
    assert_eq!(both(&devices), ["D/", "D/f=edited"]);
}

#[test]
fn one_deletes_the_folder_of_what_the_other_edits() {
    let devices = two(|laptop| {
        laptop.mkdir("D");
        laptop.write("D/f", "base");
    });
    devices.0.unlink("D/f");
    devices.0.rmdir("D");
    devices.1.write("D/f", "edited");
    // Nothing keeps the folder alive: the file lies in the root.
    assert_eq!(both(&devices), ["f=edited"]);
}

#[test]
fn a_new_file_keeps_the_folders_above_it() {
    let devices = two(|laptop| {
        laptop.mkdir("P");
        laptop.mkdir("P/D");
    });
    devices.0.write("P/D/new", "bytes");
    devices.1.rmdir("P/D");
    devices.1.rmdir("P");
    assert_eq!(both(&devices), ["P/", "P/D/", "P/D/new=bytes"]);
}

#[test]
fn a_folder_that_both_emptied_is_gone() {
    let devices = two(|laptop| {
        laptop.mkdir("D");
        laptop.write("D/x", "base");
    });
    devices.0.unlink("D/x");
    devices.1.unlink("D/x");
    devices.1.rmdir("D");
    assert_eq!(both(&devices), [""; 0]);
}

#[test]
fn both_make_the_same_folder() {
    let devices = two(|_| ());
    devices.0.mkdir("2026-12");
    devices.0.write("2026-12/a", "of the laptop");
    devices.1.mkdir("2026-12");
    devices.1.mkdir("2026-12/deep");
    devices.1.write("2026-12/deep/b", "of the phone");
    assert_eq!(
        both(&devices),
        ["2026-12/", "2026-12/a=of the laptop", "2026-12/deep/", "2026-12/deep/b=of the phone"]
    );
    assert_eq!(conflicts(&devices), []);
}

#[test]
fn both_make_folders_with_the_same_names_in_them() {
    let devices = two(|_| ());
    for (device, bytes) in [(&devices.0, "of the laptop"), (&devices.1, "of the phone")] {
        device.mkdir("2026-12");
        device.mkdir("2026-12/deep");
        device.write("2026-12/deep/f", bytes);
        device.write("2026-12/same", "equal");
    }
    assert_eq!(
        both(&devices),
        [
            "2026-12/",
            "2026-12/deep/",
            "2026-12/deep/f (from LAPTOP, 2026-11-28 ####)=of the laptop",
            "2026-12/deep/f=of the phone",
            "2026-12/same=equal",
        ]
    );
}

#[test]
fn folders_moved_into_each_other() {
    let devices = two(|laptop| {
        laptop.mkdir("X");
        laptop.write("X/x", "in x");
        laptop.mkdir("Y");
        laptop.write("Y/y", "in y");
    });
    devices.0.rename("X", "Y/X");
    devices.1.rename("Y", "X/Y");
    assert_eq!(both(&devices), ["X/", "X/Y/", "X/Y/y=in y", "X/x=in x"]);
    assert_eq!(conflicts(&devices)[0].0, ConflictKind::Cycle);
}

#[test]
fn both_move_a_folder() {
    let devices = two(|laptop| {
        laptop.mkdir("D");
        laptop.write("D/f", "bytes");
    });
    devices.0.rename("D", "A");
    devices.1.rename("D", "B");
    let shown = both(&devices);
    let of = |name: &str| [format!("{name}/"), format!("{name}/f=bytes")];
    assert!(shown == of("A") || shown == of("B"), "{shown:?}");
}

#[test]
fn a_change_of_the_mode_and_a_write() {
    let devices = two(|laptop| {
        laptop.write("f", "base");
    });
    devices.0.chmod("f", 0o400);
    devices.1.write("f", "written");
    assert_eq!(both(&devices), ["f=written"]);
    assert_eq!(line(&devices, "f").permissions(), 0o400);
}

#[test]
fn a_change_of_a_folders_mode_and_a_new_file_in_it() {
    let devices = two(|laptop| {
        laptop.mkdir("D");
    });
    devices.0.chmod("D", 0o700);
    devices.1.write("D/f", "bytes");
    assert_eq!(both(&devices), ["D/", "D/f=bytes"]);
    assert_eq!(line(&devices, "D").permissions(), 0o700);
}

#[test]
fn an_attribute_set_here_and_a_rename_there() {
    let devices = two(|laptop| {
        laptop.write("f", "bytes");
        laptop.set_xattr("f", "wide");
        laptop.write("h", "bytes of h");
        laptop.set_xattr("h", "wide");
    });
    devices.0.set_xattr("f", "tight");
    devices.0.remove_xattr("h");
    devices.1.rename("f", "g");
    devices.1.rename("h", "i");
    assert_eq!(both(&devices), ["g=bytes", "i=bytes of h"]);
    assert_eq!(line(&devices, "g").xattrs(), [b"tight"]);
    assert_eq!(line(&devices, "i").xattrs(), [[0; 0]; 0]);
}

#[test]
fn one_saves_by_rename_what_the_other_touches() {
    let devices = two(|laptop| {
        laptop.write("f", "old");
    });
    devices.0.write("t", "new");
    devices.0.rename("t", "f");
    devices.1.chmod("f", 0o640);
    assert_eq!(both(&devices), ["f=new"]);
    assert_eq!(conflicts(&devices), [(ConflictKind::Replaced, "LAPTOP".into())]);
}

#[test]
fn both_save_by_rename() {
    let devices = two(|laptop| {
        laptop.write("f.txt", "old");
    });
    for (device, bytes) in [(&devices.0, "of the laptop"), (&devices.1, "of the phone")] {
        device.write("t", bytes);
        device.rename("t", "f.txt");
    }
    assert_eq!(
        both(&devices),
        ["f (from LAPTOP, 2026-11-28 ####).txt=of the laptop", "f.txt=of the phone"]
    );
    assert_eq!(conflicts(&devices), [(ConflictKind::Name, "LAPTOP".into())]);
}

#[test]
fn both_import_the_same_photo() {
    let devices = two(|_| ());
    devices.0.write("photo", "the same bytes");
    devices.1.write("photo", "the same bytes");
    assert_eq!(both(&devices), ["photo=the same bytes"]);
    assert_eq!(line(&devices, "photo").links(), 1);
}

#[test]
fn a_file_and_a_folder_get_one_name() {
    let devices = two(|_| ());
    devices.0.write("a", "bytes");
    devices.1.mkdir("a");
    devices.1.write("a/b", "more");
    assert_eq!(both(&devices), ["a (from LAPTOP, 2026-11-28 ####)=bytes", "a/", "a/b=more"]);
}

#[test]
fn both_rename_a_file() {
    let devices = two(|laptop| {
        laptop.write("f", "bytes");
    });
    devices.0.rename("f", "g");
    devices.1.rename("f", "h");
    assert_eq!(both(&devices), ["g=bytes", "h=bytes"]);
    assert_eq!(line(&devices, "g").links(), 2);
}

#[test]
fn each_version_of_a_database_has_its_own_log() {
    let devices = two(|laptop| {
        laptop.write("chat.db", "base");
        laptop.write("chat.db-wal", "log");
    });
    // The laptop checkpoints; the phone appends to the log.
    devices.0.write("chat.db", "checkpointed");
    devices.0.unlink("chat.db-wal");
    devices.1.append("chat.db-wal", " and more");
    let shown = both(&devices);
    let phone = [
        "chat (from PHONE, 2026-11-28 ####).db-wal=log and more",
        "chat (from PHONE, 2026-11-28 ####).db=base",
        "chat.db=checkpointed",
    ];
    assert_eq!(shown, phone);
}

#[test]
fn a_new_log_here_and_a_changed_database_there() {
    let devices = two(|laptop| {
        laptop.write("chat.db", "base");
    });
    devices.0.write("chat.db-journal", "hot");
    devices.1.write("chat.db", "changed");
    assert_eq!(
        both(&devices),
        [
            "chat (from LAPTOP, 2026-11-28 ####).db-journal=hot",
            "chat (from LAPTOP, 2026-11-28 ####).db=base",
            "chat.db=changed",
        ]
    );
}

#[test]
fn both_append_to_the_log_of_a_database() {
    let devices = two(|laptop| {
        laptop.write("chat.db", "base");
        laptop.write("chat.db-wal", "log");
        laptop.write("chat.db-shm", "index");
    });
    devices.0.append("chat.db-wal", " of the laptop");
    devices.1.append("chat.db-wal", " of the phone");
    let shown = both(&devices);
    assert_eq!(shown.len(), 6, "{shown:?}");
    assert_eq!(shown.iter().filter(|line| line.ends_with("=base")).count(), 2);
    assert_eq!(shown.iter().filter(|line| line.ends_with("=index")).count(), 2);
    for of in ["log of the laptop", "log of the phone"] {
        assert_eq!(shown.iter().filter(|line| line.ends_with(of)).count(), 1, "{shown:?}");
    }
}

#[test]
fn a_log_goes_with_its_database_to_another_name() {
    let devices = two(|laptop| {
        laptop.write("chat.db", "base");
        laptop.write("chat.db-wal", "log");
    });
    devices.0.rename("chat.db", "old.db");
    devices.0.rename("chat.db-wal", "old.db-wal");
    devices.1.chmod("chat.db", 0o600);
    assert_eq!(both(&devices), ["old.db-wal=log", "old.db=base"]);
}

#[test]
fn a_file_that_only_looks_like_a_log_does_not_stand_beside_a_database() {
    let devices = two(|_| ());
    devices.0.write("chat.db", "a database");
    devices.1.write("chat.db-wal", "no log of it");
    assert_eq!(
        both(&devices),
        ["chat (from PHONE, 2026-11-28 ####).db-wal=no log of it", "chat.db=a database"]
    );
}

/// The database had the name of a log after the join, and beside that there is none.
#[test]
fn a_database_that_got_the_name_of_a_log_keeps_its_own_log() {
    let begin = |laptop: &Device| {
        laptop.write("chat.db", "base");
        laptop.write("chat.db-wal", "log");
    };
    let devices = two(begin);
    devices.0.rename("chat.db", "old.db-wal");
    devices.1.append("chat.db-wal", " and more");
    let versions = [
        "old (from LAPTOP, 2026-11-28 ####).db-wal=base",
        "old.db-wal 2-wal=log and more",
        "old.db-wal 2=base",
    ];
    assert_eq!(both(&devices), versions);
    let devices = two(begin);
    devices.0.append("chat.db-wal", " and more");
    devices.1.rename("chat.db", "old.db-wal");
    let versions = [
        "old (from LAPTOP, 2026-11-28 ####).db-wal 2-wal=log and more",
        "old (from LAPTOP, 2026-11-28 ####).db-wal 2=base",
        "old.db-wal=base",
    ];
    assert_eq!(both(&devices), versions);
}

#[test]
fn a_database_makes_room_for_its_log() {
    let devices = two(|_| ());
    devices.0.write("chat.db", "a database");
    devices.0.write("chat.db-wal", "its log");
    devices.1.mkdir("chat.db-wal");
    assert_eq!(both(&devices), ["chat 2.db-wal=its log", "chat 2.db=a database", "chat.db-wal/"]);
}

/// The second log was shown nowhere: the first had the place at which it was looked for.
#[test]
fn a_database_with_two_names_and_a_log_at_each_keeps_both_logs() {
    let devices = two(|laptop| {
        laptop.mkdir("D");
        laptop.mkdir("E");
        laptop.write("D/c.db", "base");
        laptop.link("D/c.db", "E/c.db");
        laptop.write("D/c.db-wal", "one log");
        laptop.write("E/c.db-wal", "another log");
    });
    devices.0.rename("D", "X");
    devices.1.rename("E", "X");
    let shown = both(&devices);
    for log in ["one log", "another log"] {
        assert!(shown.iter().any(|line| line.ends_with(&format!("-wal={log}"))), "{shown:?}");
    }
}

/// Its names were written without it: as if another device had given them to it.
#[test]
fn a_database_is_written_with_its_names() {
    let devices = two(|laptop| {
        laptop.write("f", "base");
        laptop.write("chat.db-wal", "log");
    });
    devices.0.rename("f", "g");
    devices.1.write("chat.db", "a database");
    devices.1.link("chat.db", "g");
    let shown = both(&devices);
    let is_there = |line: &str| shown.iter().any(|shown| shown == line);
    assert!(is_there("chat.db=a database") && is_there("chat.db-wal=log"), "{shown:?}");
}
