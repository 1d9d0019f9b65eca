//! Folders as sync clients and people leave them: renamed, linked, half there.
//! What the volume makes of names is tested in `src/volume/tests_strays.rs`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::mounted::has_fuse;
use crate::world::{World, noise, settle};

/// A file with an object of its own, and a small one.
fn world() -> World {
    let world = World::with_repo();
    fs::write(world.path("photo"), noise(3 << 20, 1)).unwrap();
    world.ok(&["put", "repo", "/dir/photo", "--from", "photo"]);
    fs::write(world.path("small"), b"small").unwrap();
    world.ok(&["put", "repo", "/small", "--from", "small"]);
    world
}

fn object(world: &World) -> PathBuf {
    let mut files = world.files("repo");
    files.retain(|path| path.to_str().unwrap().contains("/obj/"));
    files.pop().unwrap()
}

/// The device's folder, its heads', its objects', and that of an object.
fn levels(world: &World) -> [PathBuf; 4] {
    let digit = object(world).parent().unwrap().to_path_buf();
    let objects = digit.parent().unwrap().to_path_buf();
    let device = objects.parent().unwrap().to_path_buf();
    [device.clone(), device.join("head"), objects, digit]
}

fn with_key(world: &World, arguments: &[&str]) -> (i32, String) {
    let output = world.run(&[arguments, &["--key-file", "key"]].concat());
    let said = [output.stderr, output.stdout].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

fn assert_whole(world: &World) {
    for name in ["dir/photo", "small"] {
        let output = world.run(&["cat", "repo", name, "--key-file", "key"]);
        let said = String::from_utf8_lossy(&output.stderr);
        let local = world.path(name.rsplit('/').next().unwrap());
        assert!(output.stdout == fs::read(local).unwrap(), "{name}: {said}");
    }
}

#[test]
fn a_renamed_folder_is_named_read_and_repaired_and_stays() {
    for (level, _) in levels(&world()).iter().enumerate() {
        let world = world();
        let folder = &levels(&world)[level];
        let name = folder.file_name().unwrap().to_str().unwrap();
        let renamed = folder.with_file_name(format!("{name} (1)"));
        fs::rename(folder, &renamed).unwrap();
        let (_, said) = with_key(&world, &["check", "repo"]);
        assert!(said.contains(&format!("{name} (1): a folder with a name like")), "{said}");
        assert_whole(&world);
        let (code, said) = with_key(&world, &["check", "repo", "--repair"]);
        assert!(code == 0 && said.contains("is put back from"), "{code} {said}");
        assert!(renamed.exists(), "what is not ours stays");
        world.ok(&["check", "repo", "--read-data"]);
        fs::remove_dir_all(renamed).unwrap();
        world.ok(&["check", "repo", "--read-data"]);
        assert_whole(&world);
        world.ok(&["put", "repo", "/more", "--from", "small"]);
    }
}

/// Behind a link there may be what is missing: it is named, and nothing is given
/// up.
#[test]
fn a_linked_folder_is_named_and_nothing_is_given_up() {
    for (level, _) in levels(&world()).iter().enumerate() {
        let world = world();
        let folder = &levels(&world)[level];
        fs::rename(folder, world.path("elsewhere")).unwrap();
        symlink(world.path("elsewhere"), folder).unwrap();
        let (code, said) = with_key(&world, &["check", "repo"]);
        assert!(code == 20 && said.contains("a symlink where amberfs has"), "{code} {said}");
        let before = world.files("repo");
        let states = fs::read_dir(world.path("state/amberfs")).unwrap().count();
        let (code, said) = with_key(&world, &["check", "repo", "--repair"]);
        // In a folder of its own, this device could not even write.
        let named = said.contains("a symlink where amberfs has")
            || said.contains(&format!("{}: a symbolic link", folder.display()))
            || said.contains(&format!("{}/head: a symbolic link", folder.display()));
        assert!(matches!(code, 17 | 20) && named, "{code} {said}");
        assert_eq!(before, world.files("repo"));
        assert_eq!(states, fs::read_dir(world.path("state/amberfs")).unwrap().count());
        fs::remove_file(folder).unwrap();
        fs::rename(world.path("elsewhere"), folder).unwrap();
        world.ok(&["check", "repo", "--read-data"]);
    }
}

/// Nothing of the names is left but the files themselves.
#[test]
fn a_repair_finds_heads_and_objects_by_their_bytes_anywhere_in_the_folder() {
    let world = world();
    let [device, ..] = levels(&world);
    let found = world.path("repo/lost+found/photos 2026");
    fs::create_dir_all(&found).unwrap();
    let mut files = world.files("repo");
    files.retain(|path| path.starts_with(&device));
    for (number, path) in files.iter().enumerate() {
        fs::rename(path, found.join(format!("download ({number})"))).unwrap();
    }
    fs::remove_dir_all(&device).unwrap();
    fs::write(found.join("amberfs.txt"), b"amberfs\0 and nothing of ours").unwrap();
    let (code, said) = with_key(&world, &["check", "repo", "--repair"]);
    assert!(code == 0 && !said.contains("lost content"), "{code} {said}");
    assert!(!said.contains("set aside"), "the device goes on: {said}");
    assert_whole(&world);
    assert!(found.join("download (0)").exists());
    fs::remove_dir_all(world.path("repo/lost+found")).unwrap();
    world.ok(&["check", "repo", "--read-data"]);
}

#[test]
fn stray_names_stop_no_command() {
    let world = world();
    let name = |digit: &str| world.path("repo").join(digit.repeat(32));
    fs::write(name("1"), b"a file").unwrap();
    symlink(name("2"), name("2")).unwrap();
    fs::create_dir(name("3")).unwrap();
    fs::write(name("3").join("head"), b"a file").unwrap();
    fs::create_dir_all(name("4").join("obj")).unwrap();
    fs::write(name("4").join("obj/0"), b"a file").unwrap();
    fs::write(world.path(&format!("repo/amberfs-{}.amb", "5".repeat(32))), b"").unwrap();
    fs::write(world.path("repo/.DS_Store"), b"x").unwrap();
    assert_whole(&world);
    world.ok(&["put", "repo", "/more", "--from", "small"]);
    let (_, said) = with_key(&world, &["check", "repo"]);
    for path in [
        "1".repeat(32),
        "2".repeat(32),
        format!("{}/head", "3".repeat(32)),
        format!("{}/obj/0", "4".repeat(32)),
        format!("amberfs-{}.amb", "5".repeat(32)),
    ] {
        assert!(said.contains(&path), "{path}: {said}");
    }
    assert!(!said.contains("DS_Store"), "{said}");
    // It hides nothing that is missing.
    let (code, said) = with_key(&world, &["check", "repo", "--repair"]);
    assert_eq!((code, said.trim()), (0, "nothing to repair"));
}

#[test]
fn what_sync_clients_and_systems_leave_is_no_content() {
    let world = World::new();
    let repo = world.path("repo");
    fs::create_dir_all(repo.join(".stfolder")).unwrap();
    fs::create_dir_all(repo.join("lost+found")).unwrap();
    for name in [".DS_Store", "._x", "Desktop.ini", ".directory", ".sync_1a.db-wal", "Icon\r"] {
        fs::write(repo.join(name), b"x").unwrap();
    }
    world.ok(&["init", "repo", "--key-out", "key"]);
    assert_eq!(world.ok(&["ls", "repo"]), "");
    assert!(repo.join(".DS_Store").exists());
    world.ok(&["check", "repo"]);
    fs::create_dir(world.path("other")).unwrap();
    fs::write(world.path("other/.DS_Store"), b"x").unwrap();
    fs::write(world.path("other/letter.txt"), b"x").unwrap();
    let said = world.fails(&["init", "other", "--key-out", "key2"], 17);
    assert!(said.contains("letter.txt") && !world.path("key2").exists(), "{said}");
}

/// Two files, one of two names, in objects that have not come.
fn half() -> World {
    let world = World::with_repo();
    fs::create_dir(world.path("chat")).unwrap();
    fs::write(world.path("chat/video"), noise(6 << 20, 1)).unwrap();
    fs::write(world.path("chat/voice"), noise(2 << 20, 2)).unwrap();
    fs::hard_link(world.path("chat/voice"), world.path("chat/zoice")).unwrap();
    fs::write(world.path("chat/text"), b"text").unwrap();
    world.ok(&["put", "repo", "/", "--from", "chat"]);
    let mut files = world.files("repo");
    files.retain(|path| path.to_str().unwrap().contains("/obj/"));
    for path in files {
        fs::remove_file(path).unwrap();
    }
    world
}

/// It was a line a chunk, 1,481 of them, with inode numbers, on standard error.
#[test]
fn a_check_of_a_half_synced_folder_has_one_line_a_file_on_standard_output() {
    let world = half();
    let output = world.run(&["check", "repo", "--key-file", "key"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(20), "{said}");
    let (video, voice) = (6 << 20, 2 << 20);
    let lines: Vec<&str> = said.lines().collect();
    let [one, two, sum] = lines.as_slice() else { panic!("{said}") };
    assert_eq!(*one, format!("not here: video: {video} of {video} bytes are not here"));
    let more = "voice (and 1 more name)";
    assert_eq!(*two, format!("not here: {more}: {voice} of {voice} bytes are not here"));
    assert!(sum.starts_with(&format!("{} bytes of 2 files are not here", video + voice)), "{sum}");
    let output = world.run(&["check", "repo", "--json", "--key-file", "key"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = lines.iter().map(|line| line["message_type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["file", "file", "summary", "exit_error"]);
    assert_eq!(lines[1]["path"], "voice");
    assert_eq!(lines[1]["names"], 2);
    assert_eq!(lines[1]["missing_bytes"], voice);
    assert_eq!(lines[2]["files"], 2);
}

#[test]
fn a_cut_object_is_not_here() {
    let world = world();
    let object = object(&world);
    let bytes = fs::read(&object).unwrap();
    fs::write(&object, &bytes[..bytes.len() - 1]).unwrap();
    settle(&object);
    let said = world.fails(&["check", "repo"], 20);
    assert!(said.contains("not here: dir/photo: "), "{said}");
}

#[test]
fn a_mount_says_how_many_files_are_not_here() {
    if !has_fuse("half") {
        return;
    }
    let world = half();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    assert!(world.log().contains("2 files are not here yet"), "{}", world.log());
    mount.unmount(&world);
}

fn mount_elsewhere(world: &World, more: &[&str]) -> (i32, String) {
    let all = ["mount", "moved", "mnt", "--state", "local"];
    with_key(world, &[&all, more].concat())
}

/// The advice was to remove the state folder.
#[test]
fn a_state_of_another_place_says_what_it_holds_and_can_be_gone_on_with() {
    if !has_fuse("adopt") {
        return;
    }
    let world = World::with_repo();
    let late = ["--key-file", "key", "--state", "local", "-o", "checkpoint=1h,1h"];
    let mount = world.mount("repo", "mnt", &late);
    fs::write(world.path("mnt/kept"), b"kept").unwrap();
    fs::File::open(world.path("mnt/kept")).unwrap().sync_all().unwrap();
    mount.kill();
    fs::rename(world.path("repo"), world.path("moved")).unwrap();
    let before = bytes_below(&world, "local");
    let (code, said) = mount_elsewhere(&world, &[]);
    assert_eq!(code, 17, "{said}");
    assert!(said.contains("its journal holds ") && said.contains("--adopt"), "{said}");
    assert!(!said.contains("remove"), "{said}");
    assert!(before == bytes_below(&world, "local"), "nothing was changed");
    let (code, said) = mount_elsewhere(&world, &["--adopt"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(fs::read(world.path("mnt/kept")).unwrap(), b"kept");
    world.ok(&["umount", "mnt"]);
    let (code, said) = mount_elsewhere(&world, &[]);
    assert_eq!(code, 0, "{said}");
    world.ok(&["umount", "mnt"]);
    assert_eq!(world.ok(&["cat", "moved", "kept"]), "kept");
}

fn bytes_below(world: &World, folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |path: PathBuf| (path.clone(), fs::read(path).unwrap());
    world.files(folder).into_iter().filter(|path| !is_lock(path)).map(read).collect()
}

fn is_lock(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "lock")
        || path.extension().is_some_and(|extension| extension == "sock")
}
