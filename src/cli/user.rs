//! Users of this system, and becoming one of them for good. The helper of mount(8) has
//! this file too.
//!
//! Users are looked up by id(1) and getent(1), which ask every source that the
//! system knows, without code of ours in between.

use std::io;
use std::process::Command;

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

const ID: &str = "/usr/bin/id";
const GETENT: &str = "/usr/bin/getent";

/// A user of this system.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The number of the user.
    pub uid: u32,
    /// The number of the user's first group.
    pub gid: u32,
    /// The numbers of all groups of the user.
    pub groups: Vec<u32>,
    /// The path of the user's home folder.
    pub home: String,
}

impl User {
    /// The user of this name or number.
    pub fn named(name: &str) -> Result<Self, String> {
        // A leading dash would be an option of the programs asked.
        if name.is_empty() || name.starts_with('-') || name.contains(':') {
            return Err(format!("{name:?} is not a user's name"));
        }
        let (name, uid, gid, home) =
            parse_passwd(&ask(GETENT, &["passwd", name])?).ok_or("getent answers strangely")?;
        let groups = parse_numbers(&ask(ID, &["-G", &name])?).ok_or("id answers strangely")?;
        Ok(Self { name, uid, gid, groups, home })
    }

    /// Gives up everything else: groups, then group, then user, each real,
    /// effective and saved; and checks that there is no way back.
    pub fn become_entirely(&self) -> io::Result<()> {
        let uid = Uid::from_raw(self.uid);
        let gid = Gid::from_raw(self.gid);
        if rustix::process::geteuid() == uid && !uid.is_root() {
            return Ok(());
        }
        let groups: Vec<Gid> = self.groups.iter().map(|&group| Gid::from_raw(group)).collect();
        // This process has one thread, so these change the process.
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        let root = Uid::ROOT;
        if !uid.is_root() && set_thread_res_uid(root, root, root).is_ok() {
            return Err(io::Error::other("root could be had back"));
        }
        Ok(())
    }
}

fn ask(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .output()
        .map_err(|error| format!("{program} could not be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program} knows no such user"));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{program} answers strangely"))
}

/// A line of passwd(5): name, number, first group, home.
fn parse_passwd(line: &str) -> Option<(String, u32, u32, String)> {
    let fields: Vec<&str> = line.lines().next()?.split(':').collect();
    let [name, _, uid, gid, _, home, _] = fields[..] else { return None };
    Some((name.into(), uid.parse().ok()?, gid.parse().ok()?, home.into()))
}

fn parse_numbers(line: &str) -> Option<Vec<u32>> {
    line.split_ascii_whitespace().map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_passwd_is_read() {
        let line = "anna:x:1000:1001:Anna,,,:/home/anna:/bin/bash\n";
        assert_eq!(parse_passwd(line), Some(("anna".into(), 1000, 1001, "/home/anna".into())));
        for bad in ["", "anna:x:1000", "anna:x:x:1:a:/:b", "anna:x:-1:1:a:/:b"] {
            assert_eq!(parse_passwd(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn groups_are_read_or_refused() {
        assert_eq!(parse_numbers("4 24 1000\n"), Some(vec![4, 24, 1000]));
        assert_eq!(parse_numbers("4 adm"), None);
    }

    #[test]
    fn names_that_are_options_are_refused() {
        for bad in ["", "-u", "a:b"] {
            assert!(User::named(bad).is_err());
        }
    }

    #[test]
    fn root_is_known() {
        let root = User::named("root").expect("is there");
        assert_eq!((root.uid, root.name.as_str()), (0, "root"));
        assert_eq!(User::named("0").expect("by number"), root);
    }
}
