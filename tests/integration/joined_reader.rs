//! What two devices wrote apart is joined by the program and by the second reader, which has it
//! from docs/merging.md alone: both show the same names, numbers, contents and attributes.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use serde_json::{Value, json};

use crate::mounted::has_fuse;
use crate::world::{World, copy_tree};

/// A story in a directory of its own: what is there, what each of two devices makes of it at the
/// same time, and the names that are shown then. What stands in brackets behind `from` is left
/// out.
struct Story {
    name: &'static str,
    base: &'static str,
    one: &'static str,
    other: &'static str,
    shown: &'static [&'static str],
}

const STORIES: &[Story] = &[
    Story {
        name: "both change a file",
        base: "echo base > f",
        one: "echo one >> f; touch -d @1764000000 f",
        other: "echo other >> f; touch -d @1764090000 f",
        shown: &["f", "f (from)"],
    },
    Story {
        name: "both change a file to the same bytes",
        base: "echo base > f",
        one: "echo same >> f; touch -d @1764000000 f",
        other: "echo same >> f; touch -d @1764090000 f",
        shown: &["f"],
    },
    Story {
        name: "one renames a file and the other changes it",
        base: "echo base > f",
        one: "mv f g",
        other: "echo other >> f",
        shown: &["g"],
    },
    Story {
        name: "both rename a file",
        base: "echo base > f",
        one: "mv f g",
        other: "mv f h",
        shown: &["g", "h"],
    },
    Story {
        name: "one deletes a file and the other changes it",
        base: "echo base > f; echo base > g",
        one: "rm f g",
        other: "echo other >> f",
        shown: &["f"],
    },
    Story {
        name: "one deletes a name and the other changes another name's file",
        base: "echo base > f; ln f g",
        one: "rm f; echo one >> g",
        other: "mv g h; echo other >> f",
        shown: &["h", "h (from)"],
    },
    Story {
        name: "one deletes a directory and the other makes a file in it",
        base: "mkdir -p P/D; echo x > P/D/x",
        one: "rm -r P",
        other: "echo new > P/D/new",
        shown: &["P", "P/D", "P/D/new"],
    },
    Story {
        name: "one deletes a file and the other its directory",
        base: "mkdir D; echo x > D/x; echo y > D/y",
        one: "rm D/x",
        other: "rm -r D",
        shown: &[],
    },
    Story {
        name: "both make a directory of one name",
        base: "",
        one: "mkdir -p D/E; echo one > D/1; echo one > D/E/f; echo same > D/s",
        other: "mkdir -p D/E; echo other > D/2; echo other > D/E/f; echo same > D/s",
        shown: &["D", "D/1", "D/2", "D/E", "D/E/f", "D/E/f (from)", "D/s"],
    },
    Story {
        name: "both make a file of one name and the same bytes",
        base: "",
        one: "echo photo > p.jpg; touch -d @5 p.jpg; ln -s p.jpg l",
        other: "echo photo > p.jpg; touch -d @6 p.jpg; ln -s p.jpg l",
        shown: &["l", "p.jpg"],
    },
    Story {
        name: "a directory and a file of one name",
        base: "",
        one: "mkdir n; echo in > n/in",
        other: "echo file > n",
        shown: &["n", "n (from)", "n/in"],
    },
    Story {
        name: "both save by renaming",
        base: "echo base > doc.txt",
        one: "echo one > new; mv new doc.txt",
        other: "echo other > new; mv new doc.txt",
        shown: &["doc (from).txt", "doc.txt"],
    },
    Story {
        name: "one saves by renaming and the other touches the old file",
        base: "echo base > doc.txt",
        one: "echo one > new; mv new doc.txt",
        other: "touch doc.txt; chmod 600 doc.txt",
        shown: &["doc.txt"],
    },
    Story {
        name: "both move directories into each other",
        base: "mkdir X Y; echo x > X/x; echo y > Y/y",
        one: "mv X Y/",
        other: "mv Y X/",
        shown: &[],
    },
    Story {
        name: "one changes attributes and the other the content",
        base: "echo base > f; setfattr -n user.a -v base f; setfattr -n user.b -v base f",
        one: "chmod 600 f; setfattr -n user.a -v one f; setfattr -x user.b f",
        other: "echo other >> f; setfattr -n user.a -v other f",
        shown: &["f"],
    },
    Story {
        name: "one makes a database and the other a file that looks like its log",
        base: "",
        one: "echo db > a.db",
        other: "echo log > a.db-wal",
        shown: &["a (from).db-wal", "a.db"],
    },
    Story {
        name: "a directory has the name of a database's log",
        base: "",
        one: "echo db > a.db; echo log > a.db-wal",
        other: "mkdir a.db-wal",
        shown: &["a 2.db", "a 2.db-wal", "a.db-wal"],
    },
    Story {
        name: "both write to logs of a database with two names",
        base: "echo db > a.db; ln a.db b.db; echo log > a.db-wal; echo log > b.db-wal",
        one: "echo one >> a.db-wal",
        other: "echo other >> b.db-wal; touch -d @5 b.db",
        shown: &[
            "a (from) 2.db",
            "a (from) 2.db-wal",
            "a (from).db",
            "a (from).db-wal",
            "a.db",
            "a.db-wal",
            "b.db",
            "b.db-wal",
        ],
    },
    Story {
        name: "one moves a database and the other writes to its log",
        base: "echo db > a.db; echo log > a.db-wal",
        one: "mv a.db b.db; mv a.db-wal b.db-wal",
        other: "echo other >> a.db-wal",
        shown: &["b (from).db", "b (from).db-wal", "b.db", "b.db-wal"],
    },
];

/// Runs a script of each story in the directory of that story.
fn act(mountpoint: &Path, script: impl Fn(&Story) -> &str) {
    for story in STORIES {
        let folder = mountpoint.join(story.name);
        fs::create_dir_all(&folder).unwrap();
        let status = Command::new("sh").args(["-ec", script(story)]).current_dir(folder).status();
        assert!(status.unwrap().success(), "{}", story.name);
    }
}

/// Runs statements on the database of chats, which leaves its log.
fn chat(mountpoint: &Path, statements: &str) {
    fs::create_dir_all(mountpoint.join("chats")).unwrap();
    let database = Connection::open(mountpoint.join("chats/chat.db")).unwrap();
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    database.pragma_update(None, "journal_mode", "wal").unwrap();
    database.execute_batch(statements).unwrap();
}

/// Changes a file with a long name, and moves a directory. Writers are random numbers, so nobody
/// can say beforehand which of two moves counts.
fn change_and_move(mountpoint: &Path, who: &str) {
    fs::write(mountpoint.join(format!("{}.txt", "ä".repeat(120))), who).unwrap();
    let moved = mountpoint.join("moved");
    for place in ["base", "one", "other"] {
        fs::create_dir_all(moved.join(place)).unwrap();
    }
    if who == "base" {
        fs::create_dir_all(moved.join("base/D/E")).unwrap();
    } else {
        fs::rename(moved.join("base/D"), moved.join(who).join("D")).unwrap();
    }
}

/// What a mount shows, by path.
fn walk(path: &Path, name: &str, found: &mut BTreeMap<String, Value>) {
    let meta = fs::symlink_metadata(path).unwrap();
    let content = match meta.file_type() {
        kind if kind.is_file() => fs::read(path).unwrap(),
        kind if kind.is_symlink() => {
            fs::read_link(path).unwrap().into_os_string().into_encoded_bytes()
        }
        _ => Vec::new(),
    };
    let (kind, hash) = match meta.file_type() {
        kind if kind.is_dir() => ("d", "-".into()),
        kind => (if kind.is_symlink() { "l" } else { "f" }, blake3::hash(&content).to_string()),
    };
    let mut names = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut xattrs = serde_json::Map::new();
    for name in names[..len].split_inclusive(|byte| *byte == 0) {
        let name = CStr::from_bytes_with_nul(name).unwrap();
        let mut value = vec![0; 1 << 16];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        let digits: String = amberfs::crypto::hex(&value[..len]);
        xattrs.insert(name.to_str().unwrap().into(), digits.into());
    }
    let shown = json!({
        "path": name,
        "kind": kind,
        "mode": format!("{:04o}", meta.mode() & 0o7777),
        "size": content.len(),
        "blake3": hash,
        "inode": meta.ino(),
        "mtime": [meta.mtime(), meta.mtime_nsec()],
        "xattrs": xattrs,
    });
    found.insert(name.into(), shown);
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let below = entry.file_name().into_string().unwrap();
            let below = if name == "." { below } else { format!("{name}/{below}") };
            walk(&entry.path(), &below, found);
        }
    }
}

/// What the second reader lists, by path.
fn listed(lines: &str) -> BTreeMap<String, Value> {
    let lines = lines.lines().map(|line| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().remove("owner");
        (value["path"].as_str().unwrap().to_string(), value)
    });
    lines.collect()
}

/// The names below a directory, without what stands behind `from`.
fn names(found: &BTreeMap<String, Value>, folder: &str) -> Vec<String> {
    let below = found.keys().filter_map(|path| path.strip_prefix(&format!("{folder}/")));
    let plain = |name: &str| {
        let (before, rest) = name.split_once(" (from ")?;
        Some(format!("{before} (from){}", rest.split_once(')')?.1))
    };
    let mut names: Vec<_> = below.map(|name| plain(name).unwrap_or_else(|| name.into())).collect();
    names.sort();
    names
}

#[test]
fn both_readers_join_two_devices_to_the_same_tree() {
    if !has_fuse("both readers join") {
        return;
    }
    let world = World::with_repo();
    let key = ["--key-file", "key"];
    let other = ["--key-file", "key", "--state", "other state"];
    let mount = world.mount("repo", "mnt", &key);
    act(&world.path("mnt"), |story| story.base);
    change_and_move(&world.path("mnt"), "base");
    chat(&world.path("mnt"), "create table said (text); insert into said values ('base')");
    mount.unmount(&world);
    copy_tree(&world.path("repo"), &world.path("other repo"));

    let mount = world.mount("repo", "mnt", &key);
    act(&world.path("mnt"), |story| story.one);
    change_and_move(&world.path("mnt"), "one");
    chat(&world.path("mnt"), "insert into said values ('one')");
    mount.unmount(&world);
    let mount = world.mount("other repo", "mnt", &other);
    act(&world.path("mnt"), |story| story.other);
    change_and_move(&world.path("mnt"), "other");
    chat(&world.path("mnt"), "insert into said values ('other'), ('more')");
    mount.unmount(&world);

    copy_tree(&world.path("other repo"), &world.path("repo"));
    let mount = world.mount("repo", "mnt", &["--key-file", "key", "-o", "ro"]);
    let mut found = BTreeMap::new();
    walk(&world.path("mnt"), ".", &mut found);
    copy_tree(&world.path("mnt/chats"), &world.path("chats"));
    mount.unmount(&world);

    for story in STORIES {
        assert_eq!(names(&found, story.name), story.shown, "{}", story.name);
    }
    let long: Vec<_> = found.keys().filter(|path| path.starts_with("ää")).collect();
    assert_eq!(long.len(), 2, "{long:?}");
    let moved = [found.contains_key("moved/one/D/E"), found.contains_key("moved/other/D/E")];
    assert_eq!(moved.iter().filter(|is_there| **is_there).count(), 1, "{moved:?}");
    // Each version of the database has its own log and no other.
    let mut texts: Vec<Vec<String>> = Vec::new();
    for entry in fs::read_dir(world.path("chats")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "db") {
            let database = Connection::open(path).unwrap();
            let mut select = database.prepare("select text from said order by rowid").unwrap();
            let rows = select.query_map([], |row| row.get(0)).unwrap();
            texts.push(rows.map(Result::unwrap).collect());
        }
    }
    texts.sort();
    assert_eq!(texts, [vec!["base", "one"], vec!["base", "other", "more"]]);

    let Some(lines) = world.read_again("repo", &["list", "--json"]) else { return };
    let again = listed(&lines);
    for (path, shown) in &found {
        assert_eq!(again.get(path), Some(shown), "{path}");
    }
    assert_eq!(again.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
}
