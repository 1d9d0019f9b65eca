//! K is wiped once the keyring is open: the memory of a mounted daemon is
//! searched for it.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::main_job::{COST, Vault, secret};
use crate::mounted::has_fuse;
use crate::world::{World, noise};

/// Everything that a process can write to: heap, stacks, data.
fn memory_of(pid: u32) -> Vec<Vec<u8>> {
    let mem = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut pieces = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (range, mode) = (fields.next().unwrap(), fields.next().unwrap());
        if !mode.starts_with("rw") || line.ends_with("[vvar]") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let at = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let mut bytes = vec![0; (at(to) - at(from)) as usize];
        if mem.read_exact_at(&mut bytes, at(from)).is_ok() {
            pieces.push(bytes);
        }
    }
    pieces
}

fn count(memory: &[Vec<u8>], needle: &[u8]) -> usize {
    let places = |piece: &Vec<u8>| piece.windows(needle.len()).filter(|w| *w == needle).count();
    memory.iter().map(places).sum()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

/// The process with this argument.
pub fn process_with(argument: &str) -> u32 {
    let has = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|part| part == argument.as_bytes()))
    };
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).find(has).unwrap()
}

#[test]
fn a_mounted_daemon_has_no_k() {
    if !has_fuse("memory") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: memory: needs root to read a process that is closed to others");
        return;
    }
    let world = World::new();
    let vault = Vault::start(&world);
    secret(&world, "password", "seven small boats drift home\n");
    let mut arguments = vec!["init", "repo", "--vault", &vault.address, "--key-out", "key"];
    arguments.extend(["--password-file", "password"]);
    arguments.extend(COST);
    world.ok(&arguments);
    let text = fs::read_to_string(world.path("key")).unwrap();
    let digits: String = text.split_whitespace().collect();
    let key = unhex(&digits);
    let header = fs::read_dir(world.path("repo"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .find_map(|name| Some(name.strip_prefix("amberfs-")?.strip_suffix(".amb")?.to_string()))
        .unwrap();

    let searched = |pid: u32, way: &[&str]| {
        let memory = memory_of(pid);
        // The search finds what is there.
        assert!(count(&memory, &unhex(&header)) > 0, "the repository's id is in memory");
        for part in [&key[..16], &key[16..], &text.as_bytes()[..39], &digits.as_bytes()[..32]] {
            assert_eq!(count(&memory, part), 0, "{way:?}, {} bytes", part.len());
        }
    };
    for way in
        [["--key-file", "key"], ["--password-file", "password"], ["--key-command", "cat key"]]
    {
        let mount = world.mount("repo", "mnt", &way);
        searched(mount.pid(), &way);
        mount.unmount(&world);
    }
    // In the background K comes through a pipe.
    let mountpoint = world.path("mnt");
    let mountpoint = mountpoint.to_str().unwrap();
    world.ok(&["mount", "repo", mountpoint]);
    let daemon = process_with(mountpoint);
    let outcome = std::panic::catch_unwind(|| searched(daemon, &["background"]));
    assert!(world.run_patiently(&["umount", mountpoint]).status.success());
    outcome.unwrap();
}

/// What writing took in many threads' arenas stayed there: after a gigabyte the
/// daemon had 400 MB, with nothing left to do.
#[test]
fn a_daemon_with_nothing_to_do_has_little_memory() {
    if !has_fuse("little memory") {
        return;
    }
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    for number in 0..3 {
        fs::write(world.path(&format!("mnt/{number}")), noise(100 << 20, number)).unwrap();
    }
    // And a new file that is written here and there: its pieces took room for more.
    let file = fs::File::create(world.path("mnt/scattered")).unwrap();
    for (number, block) in (0_u64..).zip(noise(64 << 20, 3).chunks(4096)) {
        file.write_all_at(block, number * 7919 % (24 << 10) * 8192).unwrap();
    }
    drop(file);
    world.ok(&["sync", "mnt"]);
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let kib = |field: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    };
    println!("{} KiB, at most {} KiB", kib("VmRSS:"), kib("VmHWM:"));
    assert!(kib("VmRSS:") < 120 << 10, "{} KiB", kib("VmRSS:"));
    assert!(kib("VmHWM:") < 280 << 10, "at most {} KiB", kib("VmHWM:"));
    mount.unmount(&world);
}
