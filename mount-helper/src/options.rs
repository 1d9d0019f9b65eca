//! mount(8)'s command line to that of `amberfs mount`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The repository, absolute.
    pub repo: PathBuf,
    /// The mountpoint, absolute.
    pub mountpoint: PathBuf,
    /// Arguments of `amberfs`.
    pub arguments: Vec<OsString>,
    /// Whom to become first.
    pub setuid: Option<String>,
    /// Do nothing (`-f`).
    pub fake: bool,
    /// A mount that is there is to change.
    pub remount: bool,
}

/// Options that are for mount(8) and systemd, or for the kernel about what is
/// not on a disk of its own. `x-*` and `X-*` are dropped too.
const DROPPED: [&str; 31] = [
    "_netdev",
    "_rnetdev",
    "async",
    "atime",
    "auto",
    "defaults",
    "diratime",
    "dirsync",
    "group",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noauto",
    "nodiratime",
    "nofail",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosymfollow",
    "nouser",
    "owner",
    "rw",
    "silent",
    "strictatime",
    "symfollow",
    "sync",
    "user",
    "users",
];
/// Options that are arguments of `amberfs mount`.
const ARGUMENTS: [(&str, &str); 5] = [
    ("password_file", "--password-file"),
    ("key_file", "--key-file"),
    ("vault", "--vault"),
    ("state", "--state"),
    ("log_file", "--log-file"),
];

/// Reads the arguments that mount(8) gives its helpers.
pub fn parse(arguments: Vec<OsString>) -> Result<Call, String> {
    let mut call = Call::default();
    let (mut places, mut verbose, mut kept) = (Vec::new(), false, Vec::new());
    let mut flags = vec![OsString::from("mount")];
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let bytes = argument.as_bytes();
        let Some(letters) = bytes.strip_prefix(b"-").filter(|letters| !letters.is_empty()) else {
            places.push(argument);
            continue;
        };
        for (at, letter) in letters.iter().enumerate() {
            match letter {
                b'f' => call.fake = true,
                b'v' => verbose = true,
                b'r' => kept.push(b"ro".to_vec()),
                // Sloppy, no mtab, writable: nothing to do.
                b's' | b'n' | b'w' => {}
                b'o' | b't' if at + 1 == letters.len() => {
                    let value = rest.next().ok_or("an option lacks its value")?;
                    if *letter == b'o' {
                        take_options(value.as_bytes(), &mut call, &mut flags, &mut kept)?;
                    }
                }
                _ => return Err(format!("unknown option {}", argument.to_string_lossy())),
            }
        }
    }
    let [repo, mountpoint] = &places[..] else {
        return Err("REPO and MOUNTPOINT are needed".into());
    };
    if verbose {
        flags.push("-v".into());
    }
    if !kept.is_empty() {
        flags.push("-o".into());
        flags.push(OsString::from_vec(kept.join(&b","[..])));
    }
    // Whatever they are called, they are no options.
    flags.push("--".into());
    call.repo = absolute(repo).into();
    flags.push(call.repo.clone().into());
    call.mountpoint = absolute(mountpoint).into();
    flags.push(call.mountpoint.clone().into());
    call.arguments = flags;
    Ok(call)
}

fn take_options(
    list: &[u8],
    call: &mut Call,
    flags: &mut Vec<OsString>,
    kept: &mut Vec<Vec<u8>>,
) -> Result<(), String> {
    for option in split(list) {
        let (name, value) = match option.iter().position(|&byte| byte == b'=') {
            Some(at) => (&option[..at], Some(&option[at + 1..])),
            None => (&option[..], None),
        };
        let text = String::from_utf8_lossy(name).into_owned();
        let dropped = text.is_empty()
            || text.starts_with("x-")
            || text.starts_with("X-")
            || text == "comment"
            || DROPPED.contains(&text.as_str());
        if dropped {
            continue;
        }
        if text == "remount" {
            call.remount = true;
            continue;
        }
        let argument = ARGUMENTS.iter().find(|(option, _)| *option == text);
        match (argument, value) {
            (Some((_, argument)), Some(value)) if !value.is_empty() => {
                flags.push((*argument).into());
                flags.push(OsStr::from_bytes(value).to_os_string());
            }
            (None, Some(value)) if text == "setuid" && !value.is_empty() => {
                let name = std::str::from_utf8(value).map_err(|_| "setuid= is not a user")?;
                call.setuid = Some(name.into());
            }
            (Some(_), _) => return Err(format!("{text}= needs a value")),
            (None, _) if text == "setuid" => return Err("setuid= needs a value".into()),
            // amberfs knows it, or tells that it does not.
            (None, _) => kept.push(option.clone()),
        }
    }
    Ok(())
}

/// Absolute, as far as that can be known here.
fn absolute(path: &OsString) -> OsString {
    std::path::absolute(path).map_or_else(|_| path.clone(), PathBuf::into_os_string)
}

/// Splits at commas that are not between double quotes; the quotes go.
fn split(list: &[u8]) -> Vec<Vec<u8>> {
    let (mut options, mut quoted) = (vec![Vec::new()], false);
    for &byte in list {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => options.push(Vec::new()),
            _ => options.last_mut().expect("starts with one").push(byte),
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(arguments: &[&str]) -> Result<Call, String> {
        parse(arguments.iter().map(OsString::from).collect())
    }

    fn arguments(of: &[&str]) -> Vec<OsString> {
        call(of).expect("is valid").arguments
    }

    #[test]
    fn options_of_fstab_become_arguments() {
        let options = "rw,noauto,user,_netdev,x-systemd.automount,X-mount.mkdir,comment=a,\
                       allow_other,uid=1000,password_file=/etc/amberfs/p,checkpoint=\"30s,10m\",\
                       setuid=anna";
        let call = call(&["/repo", "/mnt", "-o", options]).expect("is valid");
        let expected = [
            "mount",
            "--password-file",
            "/etc/amberfs/p",
            "-o",
            "allow_other,uid=1000,checkpoint=30s,10m",
            "--",
            "/repo",
            "/mnt",
        ];
        assert_eq!(call.arguments, expected);
        assert_eq!(call.setuid.as_deref(), Some("anna"));
        assert!(!call.fake);
    }

    /// As mount(8) gives it, with what fstab says.
    #[test]
    fn a_remount_is_told_from_a_mount() {
        for options in ["ro,remount,key_file=/k", "remount,rw", "rw,nosuid,remount"] {
            assert!(call(&["/r", "/m", "-o", options]).expect("is valid").remount, "{options}");
        }
        assert!(!call(&["/r", "/m", "-o", "ro,x-remount"]).expect("is valid").remount);
    }

    /// All that fstab may hold beside what is ours; what restricts a mount, or
    /// opens it, is amberfs's to judge.
    #[test]
    fn options_of_other_file_systems_are_dropped() {
        let options = "sync,dirsync,atime,nodiratime,strictatime,lazytime,iversion,nosymfollow,\
                       nofail,noauto,user,users,owner,group,_netdev,x-gvfs-show,X-mount.mkdir,\
                       comment=systemd.automount,defaults,rw,async";
        assert_eq!(arguments(&["/r", "/m", "-o", options]), ["mount", "--", "/r", "/m"]);
        let kept = "ro,dev,nosuid,noexec,noatime,relatime";
        assert_eq!(arguments(&["/r", "/m", "-o", kept]), ["mount", "-o", kept, "--", "/r", "/m"]);
    }

    #[test]
    fn letters_of_mount_are_known() {
        assert_eq!(arguments(&["/r", "/m", "-n"]), ["mount", "--", "/r", "/m"]);
        assert_eq!(
            arguments(&["/r", "/m", "-snv", "-r", "-t", "amberfs"]),
            ["mount", "-v", "-o", "ro", "--", "/r", "/m"]
        );
        assert!(call(&["/r", "/m", "-f"]).expect("is valid").fake);
    }

    #[test]
    fn a_name_like_an_option_is_none() {
        let arguments = arguments(&["/r", "/m", "-o", "ro,--key-file=/x"]);
        assert_eq!(arguments, ["mount", "-o", "ro,--key-file=/x", "--", "/r", "/m"]);
    }

    #[test]
    fn wrong_use_is_told() {
        for wrong in [
            &["/r"][..],
            &["/r", "/m", "/n"],
            &["/r", "/m", "-o"],
            &["/r", "/m", "-z"],
            &["/r", "/m", "-o", "setuid="],
            &["/r", "/m", "-o", "setuid"],
            &["/r", "/m", "-o", "password_file"],
            &["/r", "/m", "-N", "1"],
        ] {
            assert!(call(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn relative_places_become_absolute() {
        let arguments = arguments(&["r", "m"]);
        assert!(arguments[2..].iter().all(|path| path.as_bytes()[0] == b'/'));
    }
}
