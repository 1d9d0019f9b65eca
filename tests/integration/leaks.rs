//! Nothing leaks: REPO, local state and TMPDIR lie on one disk image, which is
//! searched afterwards, byte by byte, for what must never reach a disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use amberfs::io::{DirSynced, SystemRandom};
use amberfs::vault::client::LoggingIn;
use amberfs::vault::line::{Greeting, Timeouts};
use amberfs::vault::protocol::{Locator, Password};
use amberfs::volume::repository::Repository;

use crate::chats;
use crate::main_job::{COST, Vault, secret};
use crate::memory::process_with;
use crate::mounted::has_fuse;
use crate::world::World;

/// A strong password whose beginning is searched for.
const PASSWORD: &str = "kiebitz+quelle77 over the marsh";

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A secret in every form in which it could stand on a disk.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex = amberfs::crypto::hex(secret);
    let utf16: Vec<u8> = secret.iter().flat_map(|byte| [*byte, 0]).collect();
    let mut forms =
        vec![secret.to_vec(), hex.clone().into_bytes(), hex.to_uppercase().into_bytes(), utf16];
    // Base64 depends on where the secret starts in its group of three.
    for skip in 0..3usize {
        let padded: Vec<u8> = std::iter::repeat_n(0, skip).chain(secret.iter().copied()).collect();
        let encoded = base64(&padded[..padded.len() / 3 * 3]);
        let inner = &encoded[if skip == 0 { 0 } else { 4 }..];
        forms.push(inner.as_bytes().to_vec());
    }
    forms
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes
        .chunks_exact(3)
        .flat_map(|group| {
            let word = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
            [18, 12, 6, 0].map(|shift| char::from(DIGITS[(word >> shift & 63) as usize]))
        })
        .collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    // Candidates by the first bytes, then the whole.
    let first = needle[0];
    let mut at = 0;
    while let Some(found) = haystack[at..].iter().position(|byte| *byte == first) {
        at += found;
        if haystack[at..].starts_with(needle) {
            return true;
        }
        at += 1;
    }
    false
}

fn search(image: &Path, secrets: &[(&str, Vec<u8>)]) -> Vec<String> {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let bytes = fs::read(image).unwrap();
    let mut unpacked = Vec::new();
    for at in 0..bytes.len().saturating_sub(4) {
        if bytes[at..at + 4] == ZSTD {
            let end = bytes.len().min(at + (1 << 20));
            let mut decoder = zstd::stream::raw::Decoder::new().unwrap();
            let mut out = vec![0; 1 << 20];
            let done = zstd::stream::raw::Operation::run_on_buffers(
                &mut decoder,
                &bytes[at..end],
                &mut out,
            );
            if let Ok(status) = done {
                unpacked.extend_from_slice(&out[..status.bytes_written]);
            }
        }
    }
    let mut found = Vec::new();
    for (name, secret) in secrets {
        for form in forms(secret) {
            if contains(&bytes, &form) || contains(&unpacked, &form) {
                found.push(format!("{name}, {} bytes", form.len()));
            }
        }
    }
    found
}

#[test]
fn nothing_plain_reaches_the_disk() {
    if !has_fuse("leaks") {
        return;
    }
    if !rustix::process::geteuid().is_root() || !run("losetup", &["--find"]) {
        println!("SKIPPED: leaks: needs root and loop devices");
        return;
    }
    let world = World::new();
    let image = world.path("image");
    fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    fs::create_dir(world.path("disk")).unwrap();
    let (image_text, disk) = (image.to_str().unwrap(), world.path("disk"));
    assert!(run("mkfs.ext4", &["-q", "-F", image_text]));
    assert!(run("mount", &["-o", "loop", image_text, disk.to_str().unwrap()]));
    let finished = std::panic::catch_unwind(|| work(&world));
    run("umount", &["-l", disk.to_str().unwrap()]);
    run("sync", &[]);
    let (key, export) = match finished {
        Ok(keys) => keys,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    let secrets = [
        ("message text", chats::CANARY.as_bytes().to_vec()),
        ("file name", chats::NAME_CANARY.as_bytes().to_vec()),
        ("password", PASSWORD.as_bytes()[..16].to_vec()),
        ("half of the key", key[..16].to_vec()),
        ("other half of the key", key[16..].to_vec()),
        ("half of the export key", export[..16].to_vec()),
        ("other half of the export key", export[16..].to_vec()),
    ];
    assert_eq!(search(&image, &secrets), Vec::<String>::new());
    // The search finds what is there.
    assert!(run("mount", &["-o", "loop", image_text, disk.to_str().unwrap()]));
    fs::write(disk.join("plain"), format!("xx{}", chats::CANARY)).unwrap();
    run("umount", &[disk.to_str().unwrap()]);
    assert!(!search(&image, &secrets[..1]).is_empty());
}

/// What the right password gives before K: the export key of OPAQUE, the same
/// at every login to one registration.
fn export_key(world: &World) -> [u8; 32] {
    let folder = DirSynced::new(world.path("disk/repo"), None);
    let repository = Repository::find(&folder).unwrap();
    let slot = repository.vault_slots(&folder)[0];
    let locator = Locator::decode(slot).unwrap();
    let mut channel = Greeting::open(&locator.address.endpoints()[0], &Timeouts::default())
        .and_then(|greeting| greeting.verify(locator.address.fingerprint(), 0))
        .ok()
        .unwrap();
    let manifest = channel.manifest().clone();
    let password = Password::new(PASSWORD.as_bytes()).unwrap();
    let (request, step) =
        LoggingIn::start(&manifest, &locator, &repository.repo, &password, &SystemRandom).unwrap();
    let reply = channel.call(&request).unwrap();
    let (proof, step) = step.challenged(reply, &manifest, &SystemRandom).unwrap();
    let export = *step.export_key().unwrap().expose();
    let reply = channel.call(&proof).unwrap();
    assert!(step.answered(reply, &manifest).is_ok());
    export
}

/// Copies a phone's folder in, works on it, unmounts; and again with a kill.
/// Returns K and the export key.
fn work(world: &World) -> (Vec<u8>, [u8; 32]) {
    // The key and the plain source are kept off the image.
    let vault = Vault::start(world);
    secret(world, "password", PASSWORD);
    let mut arguments = vec!["init", "disk/repo", "--key-out", "key", "--state", "disk/state"];
    arguments.extend(["--vault", &vault.address, "--password-file", "password"]);
    arguments.extend(COST);
    world.ok(&arguments);
    let text = fs::read_to_string(world.path("key")).unwrap();
    let key: String = text.split_whitespace().collect();
    chats::generate(&world.path("phone"), &chats::Profile::TINY, 5).unwrap();
    fs::create_dir(world.path("disk/tmp")).unwrap();
    let by_password = ["--password-file", "password", "--state", "disk/state"];
    for killed in [false, true] {
        let mount = world.mount("disk/repo", "mnt", &by_password);
        let copied = Command::new("cp")
            .arg("-a")
            .arg(world.path("phone"))
            .arg(world.path(&format!("mnt/phone-{killed}")))
            .env("TMPDIR", world.path("disk/tmp"))
            .status()
            .unwrap();
        assert!(copied.success());
        chats::advance(&world.path("phone"), &chats::Profile::TINY, 5, 1 + u32::from(killed))
            .unwrap();
        if killed {
            let status = Command::new("sync").arg("-f").arg(world.path("mnt")).status().unwrap();
            assert!(status.success());
            mount.kill();
        } else {
            mount.unmount(world);
        }
    }
    let cores = world
        .files("disk")
        .into_iter()
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("core"))
        .count();
    assert_eq!(cores, 0, "a crash leaves no core");
    let key = (0..32).map(|at| u8::from_str_radix(&key[2 * at..2 * at + 2], 16).unwrap());
    (key.collect(), export_key(world))
}

/// A daemon that failed after its start wrote the whole message to the log.
#[test]
fn a_daemon_that_fails_logs_no_path() {
    if !has_fuse("failing daemon") {
        return;
    }
    let world = World::with_repo();
    let mountpoint = world.path("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let mountpoint = mountpoint.to_str().unwrap();
    world.ok(&["mount", "repo", mountpoint, "--log-file", "log"]);
    let daemon = process_with(mountpoint);
    fs::write(world.path("mnt/secret name"), "content").unwrap();
    fs::rename(world.path("repo"), world.path("away")).unwrap();
    fs::write(world.path("repo"), "no folder").unwrap();
    assert!(run("kill", &[&daemon.to_string()]));
    while Path::new(&format!("/proc/{daemon}")).exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let log = fs::read_to_string(world.path("log")).unwrap();
    assert!(log.contains("failed with exit code 17"), "{log}");
    let here = world.path("");
    for path in [here.to_str().unwrap().trim_end_matches('/'), "secret name"] {
        assert!(!log.contains(path), "{path}: {log}");
    }
}
