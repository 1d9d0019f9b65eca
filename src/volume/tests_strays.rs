//! Folders that sync clients renamed, names that are not ours, and what nobody
//! has sealed: what of it is used, what is told, and what stops an opening.

use std::io;

use super::repository::{OpenFailure, Repository, init};
use super::tests_damage::{key, open, open_in, outcome, path, repository};
use super::*;
use crate::crypto::hash;
use crate::format::container::PREFIX;
use crate::format::register::{HeadExtension, Header};
use crate::io::sim::{SimRandom, SimWorld};
use crate::io::{Listed, Space, SyncedFile, SyncedFolder};
use crate::sync::OpenOptions;

fn plain() -> OpenOptions {
    OpenOptions::default()
}

/// Renames a folder, or a file.
fn rename(world: &SimWorld, from: &str, to: &str) {
    let repo = world.synced("repo");
    let inside = format!("repo/{from}/");
    let whole = format!("repo/{from}");
    let mut count = 0;
    for old in world.paths() {
        let Some(rest) = old.strip_prefix(&inside).or((old == whole).then_some("")) else {
            continue;
        };
        let new = if rest.is_empty() { format!("repo/{to}") } else { format!("repo/{to}/{rest}") };
        let bytes = world.get(&old).unwrap();
        SyncedFolder::remove(&*repo, &old["repo/".len()..]).unwrap();
        world.put(&new, &bytes);
        count += 1;
    }
    assert!(count > 0, "{from} is there");
}

/// The device's folder, its heads', its objects', that of an object, and a head and object.
fn levels(world: &SimWorld) -> Vec<String> {
    let (head, object) = (path(world, "head3"), path(world, "object2"));
    let (head, object) = (&head["repo/".len()..], &object["repo/".len()..]);
    let up = |path: &str| path.rsplit_once('/').unwrap().0.to_string();
    vec![up(&up(head)), up(head), up(&up(object)), up(object), head.into(), object.into()]
}

/// How clients rename a folder.
const NAMES: &[fn(&str) -> String] = &[
    |name| format!("{name} (1)"),
    |name| format!("{name}-LAPTOP"),
    |name| format!("{name} 2"),
    |name| format!("{name} (conflicted copy 2026-11-23 101112)"),
    |name| format!("{name}_conflict-20261123-101112"),
    str::to_uppercase,
];

/// The content of a folder called `7 (1)` was "not here", and a repair called it
/// lost.
#[test]
fn what_lies_in_a_renamed_folder_is_used_and_the_folder_is_named() {
    let whole = repository();
    let mut wrong = Vec::new();
    for level in levels(&whole) {
        let (above, name) = level.rsplit_once('/').unwrap_or(("", &level));
        for named in NAMES {
            let new = named(name);
            if new == name {
                continue;
            }
            let world = whole.kill();
            let to = if above.is_empty() { new } else { format!("{above}/{new}") };
            rename(&world, &level, &to);
            for (state, life) in [(Some("state"), 50), (Some("new"), 51), (None, 52)] {
                let opened = open(&world, state, &plain(), life);
                let found = outcome(&opened);
                let told = opened.map_or(String::new(), |volume| {
                    volume.notices.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
                });
                let right = found.trim_end_matches('!') == "3:123"
                    && (level.contains(".amb") || told.contains(&to));
                if !right {
                    wrong.push(format!("{to}, {state:?}: {found}: {told}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_name_in_another_case_is_told_as_that() {
    let world = repository();
    let object = path(&world, "object2")["repo/".len()..].to_string();
    let (folder, _) = object.rsplit_once('/').unwrap();
    let upper = folder.replace("/obj/", "/OBJ/");
    rename(&world, &folder[..folder.len() - 2], &upper[..upper.len() - 2]);
    let volume = open(&world, None, &plain(), 50).unwrap();
    let told: Vec<String> = volume.notices.iter().map(ToString::to_string).collect();
    let (from, to) = (&upper[..upper.len() - 2], &folder[..folder.len() - 2]);
    let expected = format!("only the case of its name changed; rename it back: mv '{from}' '{to}'");
    assert!(told.iter().any(|text| text.contains(&expected)), "{told:?}");
}

#[test]
fn an_object_under_another_first_digit_or_in_another_device_s_folder_is_found() {
    let whole = repository();
    let object = path(&whole, "object2")["repo/".len()..].to_string();
    let parts: Vec<&str> = object.split('/').collect();
    let digit = if parts[2] == "0" { "1" } else { "0" };
    for to in [
        format!("{}/obj/{digit}/{}", parts[0], parts[3]),
        format!("{}/obj/{}", parts[0], parts[3]),
        format!("{}/{}", parts[0], parts[3]),
        format!("{}/obj/{}/below/{}", parts[0], parts[2], parts[3]),
        parts[3].to_string(),
    ] {
        let world = whole.kill();
        rename(&world, &object, &to);
        assert_eq!(
            outcome(&open(&world, None, &plain(), 50)).trim_end_matches('!'),
            "3:123",
            "{to}"
        );
    }
    // Whole in one device's folder, cut in another's: whichever is listed first.
    for device in ["0".repeat(32), "f".repeat(32)] {
        let world = whole.kill();
        let other = object.replace(parts[0], &device);
        world.put(&format!("repo/{other}"), b"cut");
        assert_eq!(outcome(&open(&world, None, &plain(), 50)), "3:123", "{device}");
    }
}

/// A folder that lists nothing at some paths, with this error.
struct Closed(Arc<dyn SyncedFolder>, String, i32);

impl SyncedFolder for Closed {
    fn place(&self) -> String {
        self.0.place()
    }
    fn hold(&self) -> io::Result<Box<dyn SyncedFolder + '_>> {
        Ok(Box::new(Self(self.0.clone(), self.1.clone(), self.2)))
    }
    fn look(&self, path: &str) -> io::Result<Option<Listed>> {
        self.0.look(path)
    }
    fn check_writable(&self, path: &str) -> io::Result<()> {
        self.0.check_writable(path)
    }
    fn list(&self, path: &str) -> io::Result<Vec<Listed>> {
        if path == self.1 || path.starts_with(&format!("{}/", self.1)) {
            return Err(io::Error::from_raw_os_error(self.2));
        }
        self.0.list(path)
    }
    fn open(&self, path: &str) -> io::Result<Box<dyn SyncedFile>> {
        if path.starts_with(&format!("{}/", self.1)) {
            return Err(io::Error::from_raw_os_error(self.2));
        }
        self.0.open(path)
    }
    fn publish(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.publish(path, bytes)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        SyncedFolder::remove(&*self.0, path)
    }
    fn space(&self) -> io::Result<Space> {
        SyncedFolder::space(&*self.0)
    }
}

#[test]
fn a_folder_that_cannot_be_listed_stops_an_opening_only_if_it_matters() {
    let whole = repository();
    let stray = "5".repeat(32);
    whole.put(&format!("repo/{stray}/head/x"), b"x");
    let levels = levels(&whole);
    for errno in [libc::EACCES, libc::EIO] {
        for state in [Some("state"), Some("new"), None] {
            let opened = |closed: &str| {
                let world = whole.kill();
                let repo = Arc::new(Closed(world.synced("repo"), closed.into(), errno));
                open_in(&world, repo, state.map(|name| (&world, name)), &plain(), 50)
            };
            let volume = opened(&stray);
            assert_eq!(outcome(&volume), "3:123!", "{state:?}");
            let told = volume.unwrap().notices[0].to_string();
            let error = io::Error::from_raw_os_error(errno).to_string();
            assert!(told.contains(&stray) && told.contains(&error), "{told}");
            // Those of the only device that ever wrote.
            for level in &levels[..2] {
                let error = opened(level).err().expect("its heads cannot be read").to_string();
                assert!(error.contains(level.as_str()), "{error}");
                assert!(
                    error.contains(&io::Error::from_raw_os_error(errno).to_string()),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn a_stray_name_stops_nothing() {
    let whole = repository();
    let (one, two, three) = ("5".repeat(32), "6".repeat(32), "7".repeat(32));
    whole.put(&format!("repo/{one}"), b"a file");
    whole.put(&format!("repo/{two}/head"), b"a file");
    whole.put(&format!("repo/{three}/obj/0"), b"a file");
    whole.put(&format!("repo/amberfs-{one}.amb"), b"");
    whole.put(&format!("repo/amberfs-{two}.amb"), b"not a header");
    // That of another repository, of which nothing else is here.
    let other = SimWorld::new();
    init(&*other.synced("repo"), &key(), [8; 16], [1; 16], Vec::new(), &SimRandom::new(2)).unwrap();
    let header = format!("repo/{}", Name::Header([8; 16]).path());
    whole.put(&header, &other.get(&header).unwrap());
    for (state, life) in [(Some("state"), 50), (Some("new"), 51), (None, 52)] {
        let world = whole.kill();
        let volume = open(&world, state, &plain(), life);
        assert_eq!(outcome(&volume).trim_end_matches('!'), "3:123", "{state:?}");
        let told: Vec<String> = volume.unwrap().notices.iter().map(ToString::to_string).collect();
        for name in [&one, &two, &three, &header["repo/".len()..]] {
            let heard = told.iter().any(|text| text.contains(name));
            assert!(heard || *name == three, "{name}: {told:?}");
        }
    }
}

/// A repository with a head, and the folder of a device of another one.
#[test]
fn two_repositories_in_one_folder_are_refused_and_a_foreign_device_is_passed_by() {
    let world = repository();
    let other = SimWorld::new();
    init(&*other.synced("repo"), &key(), [8; 16], [1; 16], Vec::new(), &SimRandom::new(2)).unwrap();
    drop(open(&other, Some("state"), &plain(), 60).unwrap());
    let volume = open(&other, Some("state"), &plain(), 60).unwrap();
    super::tests_damage::publish(&volume, 1);
    let header = format!("repo/{}", Name::Header([8; 16]).path());
    for path in other.paths().into_iter().filter(|p| p.starts_with("repo/") && *p != header) {
        world.put(&path, &other.get(&path).unwrap());
    }
    for state in [Some("state"), Some("new"), None] {
        let world = world.kill();
        assert_eq!(outcome(&open(&world, state, &plain(), 61)), "3:123!", "{state:?}");
    }
    world.put(&header, &other.get(&header).unwrap());
    let refused = open(&world, None, &plain(), 62).err().expect("there are two");
    assert!(matches!(refused, VolumeError::Open(OpenFailure::Several(2))), "{refused}");
}

/// One bit that nobody had sealed forbade the use of everything.
#[test]
fn features_that_nobody_sealed_forbid_nothing() {
    let whole = repository();
    // The header: its checksum proves nothing.
    let world = whole.kill();
    let header = path(&world, "header0");
    let mut changed = Header::decode(&world.get(&header).unwrap()).unwrap();
    changed.features.incompatible = 1;
    world.put(&header, &changed.encode());
    for (state, life) in [(Some("state"), 50), (Some("new"), 51), (None, 52)] {
        let volume = open(&world, state, &plain(), life);
        assert_eq!(outcome(&volume), "3:123!", "{state:?}");
        assert!(volume.unwrap().notices[0].to_string().contains("not sealed with the key"));
    }
    // A head, under the name that its bytes have now: damage, and no newer version.
    let world = whole.kill();
    let head = path(&world, "head3");
    let mut bytes = world.get(&head).unwrap();
    bytes[PREFIX + 8] ^= 1;
    let extension = HeadExtension::decode(&bytes[PREFIX..PREFIX + extension_len(&bytes)]).unwrap();
    assert!(extension.features.forbid_reading());
    let name = Name::Head { device: extension.device, generation: 3, hash: hash(&bytes) };
    SyncedFolder::remove(&*world.synced("repo"), &head["repo/".len()..]).unwrap();
    world.put(&format!("repo/{}", name.path()), &bytes);
    world.clock().advance(std::time::Duration::from_secs(600));
    assert_eq!(outcome(&open(&world, Some("state"), &plain(), 50)), "damaged");
    assert_eq!(outcome(&open(&world, None, &plain(), 52)), "2:12-!");
}

fn extension_len(bytes: &[u8]) -> usize {
    u32::from_le_bytes(bytes[96..100].try_into().unwrap()) as usize
}

#[test]
fn features_that_are_sealed_with_the_key_forbid() {
    for (incompatible, reads) in [(1, false), (0, true)] {
        let world = repository();
        let repo = world.synced("repo");
        let repository = Repository::find(&*repo).unwrap();
        let (mut keyring, register, slots) = repository.unlock(&key()).unwrap();
        keyring.features.incompatible = incompatible;
        keyring.features.read_only_compatible = 1 << 31;
        let stamp = Stamp { counter: register.stamp.counter + 1, ..register.stamp };
        let random = SimRandom::new(9);
        let register = Register::seal(&key(), &repository.repo, stamp, slots, &keyring, &random);
        let header = Header { register, ..repository.header.clone().unwrap() };
        world.put(&path(&world, "header0"), &header.encode());
        assert_eq!(outcome(&open(&world, Some("state"), &plain(), 50)), "newer");
        let reader = outcome(&open(&world, None, &plain(), 51));
        assert_eq!(reader, if reads { "3:123" } else { "newer" });
    }
}

/// A folder in which no head is found looked like one in which nothing was ever
/// written.
#[test]
fn a_folder_without_heads_says_so() {
    let world = repository();
    let device = levels(&world)[0].clone();
    rename(&world, &device, "photos/deep");
    // Nothing there is like a name of ours.
    let volume = open(&world, None, &plain(), 51).unwrap();
    assert!(matches!(volume.notices.as_slice(), [Notice::Missing(_)]), "{:?}", volume.notices);
    assert_eq!(outcome(&open(&world, Some("state"), &plain(), 51)), "rolled back");
}
