//! Which conflicts people are shown, before and after a head stored them.

use super::conflicts::Search;
use super::tests_devices::Device;
use super::tests_maps::{checked, joined, repairs};
use super::*;

/// Two devices that begin with the same tree, work apart from each other, and then have what
/// both wrote.
fn two(begin: impl FnOnce(&Device), apart: impl FnOnce(&Device, &Device)) -> (Device, Device) {
    let laptop = Device::first("LAPTOP");
    begin(&laptop);
    let phone = laptop.another("PHONE", 3);
    apart(&laptop, &phone);
    laptop.checkpoint();
    phone.checkpoint();
    laptop.receive(&phone);
    phone.receive(&laptop);
    (laptop.remount(5), phone.remount(7))
}

fn chats(laptop: &Device) {
    laptop.mkdir("D");
    laptop.write("D/chat.txt", "base");
}

fn both_edit(laptop: &Device, phone: &Device) {
    laptop.write("D/chat.txt", "of the laptop");
    phone.write("D/chat.txt", "of the phone");
}

fn everything() -> Scope {
    Scope { dir: ROOT, path: Vec::new(), name: None }
}

fn text(path: &[u8]) -> String {
    String::from_utf8(path.to_vec()).unwrap()
}

fn found(device: &Device) -> Vec<FoundConflict> {
    device.volume().conflicts(&[everything()]).unwrap()
}

/// Kind, path of the other file, and device of each. The other path has no digits.
fn shown(device: &Device) -> Vec<(ConflictKind, Option<String>, String)> {
    let line = |found: &FoundConflict| {
        let device = found.conflict.device.as_ref().map_or("?", |(_, name)| name);
        (found.conflict.kind, found.of.as_deref().map(text), device.to_owned())
    };
    found(device).iter().map(line).collect()
}

/// The path of the only conflict.
fn path(device: &Device) -> String {
    let found = found(device);
    assert_eq!(found.len(), 1, "{found:#?}");
    text(&found[0].path)
}

/// Has the next head store all repairs.
fn store(device: &Device) {
    assert!(device.volume().has_repairs());
    for path in device.seen().keys() {
        assert!(device.chmod(path, 0o750));
    }
    assert!(device.chmod("", 0o750));
    device.checkpoint();
    assert!(!device.volume().has_repairs());
}

fn version_of(of: &str) -> Vec<(ConflictKind, Option<String>, String)> {
    vec![(ConflictKind::Version, Some(of.into()), "LAPTOP".into())]
}

#[test]
fn a_version_is_a_conflict_before_and_after_it_was_stored() {
    let (laptop, phone) = two(chats, both_edit);
    assert_eq!(shown(&phone), version_of("D/chat.txt"));
    let before = found(&laptop);
    assert!(before[0].path.starts_with(b"D/chat (from LAPTOP, 2026-11-28 "));
    store(&laptop);
    assert_eq!(found(&laptop), before);
    // A remount, and what is not the content, change nothing.
    let laptop = laptop.remount(11);
    laptop.chmod(&path(&laptop), 0o600);
    laptop.set_xattr(&path(&laptop), "value");
    laptop.checkpoint();
    assert_eq!(found(&laptop), before);
    phone.receive(&laptop);
    assert_eq!(found(&phone.remount(13)), before);
}

#[test]
fn nothing_is_a_conflict_that_was_not_changed_twice() {
    let (laptop, _) = two(chats, |laptop, phone| {
        laptop.write("D/chat.txt", "of the laptop");
        phone.write("D/other.txt", "of the phone");
    });
    assert_eq!(shown(&laptop), []);
}

/// Each settles it: before it was stored, and after.
#[test]
fn who_edits_renames_or_deletes_one_of_the_versions_has_settled_it() {
    type Settles = fn(&Device, &str) -> bool;
    let all: [(&str, Settles); 8] = [
        ("edit", |device, path| device.write(path, "edited")),
        ("append", |device, path| device.append(path, "more")),
        ("rename", |device, path| device.rename(path, "D/mine.txt")),
        ("move", |device, path| device.rename(path, &path.replace("D/", ""))),
        ("delete", |device, path| device.unlink(path)),
        ("replace", |device, path| device.rename(path, "D/chat.txt")),
        ("save", |device, path| device.write("D/t", "saved") && device.rename("D/t", path)),
        ("delete the other", |device, _| device.unlink("D/chat.txt")),
    ];
    for (how, settles) in all {
        for is_stored in [false, true] {
            let (laptop, phone) = two(chats, both_edit);
            if is_stored {
                store(&laptop);
            }
            assert!(settles(&laptop, &path(&laptop)), "{how}");
            laptop.checkpoint();
            assert_eq!(shown(&laptop), [], "{how}, stored: {is_stored}");
            phone.receive(&laptop);
            assert_eq!(shown(&phone.remount(9)), [], "{how} elsewhere, stored: {is_stored}");
        }
    }
}

#[test]
fn who_goes_on_with_the_plain_name_has_settled_nothing() {
    type GoesOn = fn(&Device) -> bool;
    let all: [(&str, GoesOn, &str); 4] = [
        ("edit", |device| device.write("D/chat.txt", "edited"), "D/chat.txt"),
        ("rename", |device| device.rename("D/chat.txt", "D/mine"), "D/mine"),
        (
            "save",
            |device| device.write("D/t", "saved") && device.rename("D/t", "D/chat.txt"),
            "D/chat.txt",
        ),
        ("rename the directory", |device| device.rename("D", "E"), "E/chat.txt"),
    ];
    for (how, goes_on, of) in all {
        let (laptop, _) = two(chats, both_edit);
        store(&laptop);
        assert!(goes_on(&laptop), "{how}");
        laptop.checkpoint();
        assert_eq!(shown(&laptop), version_of(of), "{how}");
    }
}

#[test]
fn a_name_alone_makes_no_conflict() {
    let (laptop, _) = two(chats, both_edit);
    let marked = path(&laptop);
    let digits = &marked[marked.len() - 9..marked.len() - 5];
    laptop.write("D/other.txt", "another file");
    laptop.write(&format!("D/other (from PHONE, 2026-11-28 {digits}).txt"), "made by hand");
    // A copy of the other version is no version.
    laptop.mkdir("E");
    laptop.write("E/chat.txt", "a copy");
    laptop.write(&marked.replace("D/", "E/"), "of the laptop");
    laptop.checkpoint();
    assert_eq!(path(&laptop), marked);
}

#[test]
fn two_files_with_one_name() {
    let (laptop, phone) = two(chats, |laptop, phone| {
        laptop.write("D/notes", "of the laptop");
        phone.write("D/notes", "of the phone");
        laptop.write("D/what", "a file");
        phone.mkdir("D/what");
    });
    let both = [
        (ConflictKind::Name, Some("D/notes".into()), "LAPTOP".into()),
        (ConflictKind::Name, Some("D/what".into()), "LAPTOP".into()),
    ];
    assert_eq!(shown(&laptop), both);
    let before = found(&laptop);
    store(&laptop);
    assert_eq!(found(&laptop), before);
    // The other one is gone, or this one.
    laptop.unlink("D/notes");
    laptop.rename(&text(&before[1].path), "D/free");
    laptop.checkpoint();
    assert_eq!(shown(&laptop), []);
    phone.receive(&laptop);
    assert_eq!(shown(&phone.remount(9)), []);
}

#[test]
fn a_database_is_one_conflict_with_its_side_files() {
    let begin = |laptop: &Device| {
        laptop.write("chat.db", "base");
        laptop.write("chat.db-wal", "log");
    };
    let (laptop, _) = two(begin, |laptop, phone| {
        laptop.append("chat.db-wal", " of the laptop");
        phone.append("chat.db-wal", " of the phone");
    });
    assert_eq!(laptop.seen().len(), 4);
    let before = found(&laptop);
    assert_eq!((before.len(), before[0].conflict.kind), (1, ConflictKind::Version), "{before:?}");
    assert_eq!(before[0].of.as_deref(), Some(&b"chat.db"[..]));
    store(&laptop);
    assert_eq!(found(&laptop), before);
    // Whoever goes on with its log goes on with it.
    assert!(laptop.append(&format!("{}-wal", text(&before[0].path)), " and more"));
    laptop.checkpoint();
    assert_eq!(shown(&laptop), []);
}

#[test]
fn a_file_that_looks_like_a_side_file_stands_apart() {
    let (laptop, _) = two(chats, |laptop, phone| {
        laptop.write("chat.db", "a database");
        phone.write("chat.db-wal", "no log of it");
    });
    let apart = [(ConflictKind::Apart, Some("chat.db".into()), "PHONE".into())];
    assert_eq!(shown(&laptop), apart);
    store(&laptop);
    assert_eq!(shown(&laptop), apart);
    assert_eq!(version_names(&laptop.volume().conflicts_in(ROOT).unwrap(), b"chat.db"), None);
    // The database may have a log of its own by then.
    laptop.write("chat.db-wal", "its log");
    laptop.checkpoint();
    assert_eq!(shown(&laptop), apart);
    laptop.unlink(&path(&laptop));
    laptop.checkpoint();
    assert_eq!(shown(&laptop), []);
}

#[test]
fn directories_that_were_moved_into_each_other() {
    let begin = |laptop: &Device| {
        laptop.mkdir("X");
        laptop.mkdir("Y");
    };
    let (laptop, _) = two(begin, |laptop, phone| {
        laptop.rename("X", "Y/X");
        phone.rename("Y", "X/Y");
    });
    assert_eq!(path(&laptop), "X");
    assert_eq!(found(&laptop)[0].conflict.kind, ConflictKind::Cycle);
    store(&laptop);
    assert_eq!(shown(&laptop), [], "one place is as good as another");
}

#[test]
fn attributes_of_a_file_that_another_one_took_the_place_of() {
    let (laptop, _) = two(chats, |laptop, phone| {
        laptop.write("D/t", "saved");
        laptop.rename("D/t", "D/chat.txt");
        phone.chmod("D/chat.txt", 0o600);
    });
    assert_eq!(path(&laptop), "D/chat.txt");
    assert_eq!(found(&laptop)[0].conflict.kind, ConflictKind::Replaced);
    assert_eq!(version_names(&laptop.volume().conflicts_in(ROOT).unwrap(), b"D/chat.txt"), None);
}

#[test]
fn conflicts_are_searched_for_where_somebody_asks() {
    let (laptop, _) = two(
        |laptop| {
            for dir in ["D", "D/E", "DE"] {
                laptop.mkdir(dir);
                laptop.write(&format!("{dir}/chat"), "base");
            }
        },
        |laptop, phone| {
            for dir in ["D", "D/E", "DE"] {
                laptop.write(&format!("{dir}/chat"), "of the laptop");
                phone.write(&format!("{dir}/chat"), "of the phone");
            }
        },
    );
    let ino = |path| laptop.find(path).unwrap();
    let (d, e) = (ino("D"), ino("D/E"));
    let of = |scopes: &[Scope]| -> Vec<String> {
        let found = laptop.volume().conflicts(scopes).unwrap();
        found.iter().map(|found| text(found.of.as_ref().unwrap())).collect()
    };
    let scope = |dir, path: &str, name: Option<&str>| Scope {
        dir,
        path: path.into(),
        name: name.map(Into::into),
    };
    assert_eq!(of(&[everything()]), ["D/E/chat", "D/chat", "DE/chat"]);
    assert_eq!(of(&[scope(d, "D", None)]), ["D/E/chat", "D/chat"]);
    assert_eq!(of(&[scope(e, "D/E", None), scope(d, "D", None)]), ["D/E/chat", "D/chat"]);
    assert_eq!(of(&[scope(d, "D", Some("chat"))]), ["D/chat"]);
    assert_eq!(of(&[scope(d, "D", Some("cha"))]), [""; 0]);
    let marked = path_in(&laptop, d);
    assert_eq!(of(&[scope(d, "D", Some(&marked))]), ["D/chat"]);
    assert_eq!(of(&[]), [""; 0]);
}

fn path_in(device: &Device, dir: Ino) -> String {
    text(&device.volume().conflicts_in(dir).unwrap()[0].name)
}

#[test]
fn three_versions_of_one_file_belong_together() {
    let laptop = Device::first("LAPTOP");
    laptop.write("a", "base");
    laptop.write("b", "base");
    let (phone, desk) = (laptop.another("PHONE", 3), laptop.another("DESK", 4));
    for device in [&laptop, &phone, &desk] {
        for path in ["a", "b"] {
            device.write(path, &format!("{path} of {}", device.volume().state().name));
        }
        device.checkpoint();
    }
    laptop.receive(&phone);
    laptop.receive(&desk);
    let laptop = laptop.remount(9);
    let all = laptop.volume().conflicts_in(ROOT).unwrap();
    assert_eq!(all.len(), 4);
    let of = |name: &str| version_names(&all, name.as_bytes());
    let of_a = of("a").unwrap();
    assert_eq!((of_a.plain.as_slice(), of_a.others.len()), (&b"a"[..], 2));
    assert!(of_a.others.iter().all(|name| name.starts_with(b"a (from ")));
    for name in &of_a.others {
        assert_eq!(of(&text(name)).as_ref(), Some(&of_a));
    }
    assert_eq!(of("b").unwrap().plain, b"b");
    assert_eq!(of("c"), None);
}

/// Names that stand beside each other in a circle, as no repair makes them.
#[test]
fn versions_in_a_circle_end_the_search_too() {
    let beside = |name: &[u8], of: &[u8]| ConflictFile {
        name: name.to_vec(),
        of: of.to_vec(),
        conflict: Conflict {
            ino: 9,
            kind: ConflictKind::Version,
            of: 8,
            device: None,
            time: Timestamp::default(),
        },
    };
    let all = [beside(b"a", b"b"), beside(b"b", b"a"), beside(b"d", b"c")];
    assert_eq!(version_names(&all, b"d").unwrap().plain, b"c");
    let _ = version_names(&all, b"a");
}

#[test]
fn a_long_name_that_was_cut_for_its_mark_is_found_again() {
    let name = format!("{}.txt", "ä".repeat(125));
    let laptop = Device::first("LAPTOP");
    laptop.write(&name, "base");
    laptop.write("notes", "base");
    let phone = laptop.another("PHONE", 3);
    laptop.write(&name, "of the laptop");
    phone.write(&name, "of the phone");
    let maps = [&laptop.publish(), &phone.publish()];
    let (view, repairs_of) = checked(&maps, laptop.ids()).unwrap();
    let (map, suspects) = joined(&maps);
    assert_eq!(repairs(&map, laptop.ids(), &suspects), repairs_of);
    let search = Search { ids: laptop.ids(), shown: &view, stored: &map };
    let Ok(found) = search.all(&[everything()], &[]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].of.as_deref(), Some(name.as_bytes()));
}
