//! What the kernel, mount(8), and the two processes of a mount that begins hand over.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use crate::control::{MountEntry, parse_mountinfo};
use crate::daemon::{receive, reported, send};
use crate::fuse::acl::Acl;
use crate::io::Exit;

/// Of a crate that is a program only.
#[path = "../../mount-helper/src/options.rs"]
mod helper;

/// Arguments of the mount helper, each ended by a zero. They may come from
/// whoever a line of fstab lets mount, and the helper may be root's: nothing in
/// a value becomes an option of `amberfs`.
pub fn helper_options(data: &[u8]) {
    let arguments = data.split(|&byte| byte == 0).map(|bytes| OsString::from_vec(bytes.to_vec()));
    let Ok(call) = helper::parse(arguments.collect()) else { return };
    assert!(call.setuid.is_none_or(|name| !name.is_empty()));
    let mut made = call.arguments.iter();
    assert!(made.next().is_some_and(|command| command == "mount"));
    loop {
        let argument = made.next().expect("the options end");
        if argument == "--" {
            break;
        }
        let takes_value =
            ["-o", "--password-file", "--key-file", "--vault", "--state", "--log-file"];
        if takes_value.iter().any(|known| argument == known) {
            assert!(!made.next().expect("has a value").is_empty() || argument == "-o");
        } else {
            assert!(argument == "-v", "{}", argument.display());
        }
    }
    let places: Vec<&OsString> = made.collect();
    assert!(places.len() == 2 && places[0] == call.repo.as_os_str());
    // An empty one is for amberfs to refuse.
    assert!(places.iter().all(|path| path.is_empty() || path.as_bytes()[0] == b'/'));
}

/// An access list (after two bytes: a mode).
pub fn acl(data: &[u8]) {
    let Some((mode, rest)) = data.split_at_checked(2) else { return };
    let mode = u32::from(u16::from_le_bytes([mode[0], mode[1]]));
    let Ok(mut list) = Acl::parse(rest) else { return };
    assert!(list.bytes() == rest, "another encoding of the same list was taken");
    if list.is_empty() {
        return;
    }
    let before = list.mode_bits();
    assert!(before <= 0o777);
    let (inherited, made) = list.inherit(mode);
    assert_eq!(made & !0o777, mode & !0o777);
    assert_eq!(made & 0o777, inherited.mode_bits());
    assert_eq!(made & 0o777, before & mode, "what both allow");
    assert!(Acl::parse(&inherited.bytes()).is_ok());
    list.follow_mode(mode);
    assert_eq!(list.mode_bits(), mode & 0o777);
    assert!(Acl::parse(&list.bytes()).is_ok());
}

/// The kernel's table of mounts. Whatever it says of them, each that is read
/// reads as it is when written down.
pub fn mountinfo(data: &[u8]) {
    let mounts = parse_mountinfo(data);
    assert!(mounts.len() <= data.split(|&byte| byte == b'\n').count());
    for mount in &mounts {
        assert!(parse_mountinfo(line(mount).as_bytes()) == [mount.clone()]);
    }
}

fn line(mount: &MountEntry) -> String {
    let escaped = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "\\{byte:03o}");
            text
        })
    };
    let [root, mountpoint] =
        [&mount.root, &mount.mountpoint].map(|path| escaped(path.as_os_str().as_bytes()));
    let group = |name: &str, number: Option<u64>| {
        number.map_or_else(String::new, |number| format!(" {name}:{number}"))
    };
    format!(
        "{} {} {}:{} {root} {mountpoint} {}{}{} - {} {} {}",
        mount.id,
        mount.parent,
        rustix::fs::major(mount.device),
        rustix::fs::minor(mount.device),
        if mount.read_only { "ro" } else { "rw" },
        group("shared", mount.shared),
        group("master", mount.master),
        mount.kind,
        escaped(mount.source.as_bytes()),
        escaped(mount.options.as_bytes()),
    )
}

/// What goes through a pipe between the command line's process and the daemon's, from
/// either side, up to where it makes no sense.
pub fn launch(data: &[u8]) {
    let (mut rest, mut again) = (data, Vec::new());
    let mut messages = Vec::new();
    while let Ok((kind, body)) = receive(&mut rest) {
        send(&mut again, kind, body.expose()).expect("it came through a pipe");
        messages.push((kind, body));
    }
    assert!(data.starts_with(&again), "another encoding of the same messages was taken");
    let (mut rest, mut notes) = (data, 0);
    let outcome = reported(&mut rest, &mut |_| notes += 1);
    assert!(messages.iter().take(notes).all(|(kind, _)| *kind == 3), "all of them are notes");
    match outcome {
        Ok(()) => assert!(messages.get(notes).is_some_and(|(kind, _)| *kind == 1)),
        Err(failure) => {
            assert!(failure.code != Exit::Done, "a failure that the shell takes for success");
            assert!(messages.get(notes).is_none_or(|(kind, _)| *kind != 1), "it is ready");
        }
    }
}
