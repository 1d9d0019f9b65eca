//! `conflicts list`: names what was changed on two devices at once.

use super::super::args::{ConflictsListArgs, Global};
use super::super::opening::{Access, open};
use super::super::{Exit, Result};
use super::{DIR, TYPE, names, shown, walk};
use crate::crypto::hex;
use crate::format::namespace::ROOT;
use crate::fs::Operations;
use crate::io::{local_time, output};
use crate::merge::{ConflictKind, FoundConflict, Scope};
use crate::volume::named;

/// Runs `amberfs conflicts list`: names what was changed on two devices at once.
pub fn conflicts(global: &Global, args: &ConflictsListArgs) -> Result<Exit> {
    let parsed = args.paths.iter().map(|path| names(path)).collect::<Result<Vec<_>>>()?;
    let opened = open(global, &args.repo, Access::Read)?;
    let mut scopes = Vec::new();
    for (path, names) in args.paths.iter().zip(&parsed) {
        scopes.push(scope(&opened.fs, path, names)?);
    }
    if scopes.is_empty() {
        scopes.push(Scope { dir: ROOT, path: Vec::new(), name: None });
    }
    let found = opened.fs.volume().conflicts(&scopes)?;
    for found in &found {
        if global.json {
            output::object(&object(found))?;
        } else {
            say!("{}", shown(&found.path))?;
            say!("  {}", words(found))?;
        }
    }
    if found.is_empty() && !global.json && !global.quiet {
        say!("no conflicts")?;
    }
    Ok(opened.exit(Exit::Done))
}

/// What a PATH of the command line restricts the search to.
fn scope(fs: &dyn Operations, path: &str, names: &[&str]) -> Result<Scope> {
    let attr = walk(fs, path, names)?;
    let joined = |names: &[&str]| names.join("/").into_bytes();
    match names.split_last() {
        Some((name, above)) if attr.mode & TYPE != DIR => Ok(Scope {
            dir: walk(fs, path, above)?.ino,
            path: joined(above),
            name: Some(name.as_bytes().to_vec()),
        }),
        _ => Ok(Scope { dir: attr.ino, path: joined(names), name: None }),
    }
}

/// Whether device and time of a conflict are those of the change that made it one.
fn is_dated(kind: ConflictKind) -> bool {
    matches!(kind, ConflictKind::Version | ConflictKind::Name | ConflictKind::Apart)
}

/// What happened, for people.
fn words(FoundConflict { of, conflict, .. }: &FoundConflict) -> String {
    let of = |otherwise: &str| of.as_ref().map_or_else(|| otherwise.to_owned(), |of| shown(of));
    let what = match conflict.kind {
        ConflictKind::Version => format!("another version of {}", of("a file")),
        ConflictKind::Name => format!("another file of the name {}", of("of a file")),
        ConflictKind::Apart => format!(
            "a file with the name of a side file of {}, to which it does not belong",
            of("a database")
        ),
        ConflictKind::Cycle => {
            "a directory that was moved into another one while that was moved into it: it is in \
             the root now"
                .into()
        }
        ConflictKind::Replaced => {
            "another file was saved over this one while its mode, owner or extended attributes \
             were changed: those of the other file count"
                .into()
        }
    };
    if !is_dated(conflict.kind) {
        return what;
    }
    let from = conflict
        .device
        .as_ref()
        .map_or_else(|| "a device that is not known here".into(), |(id, name)| named(name, id));
    format!("{what}, from {from}, {}", local_time(conflict.time.secs))
}

fn object(FoundConflict { path, of, conflict }: &FoundConflict) -> serde_json::Value {
    let device = conflict.device.as_ref().filter(|_| is_dated(conflict.kind));
    serde_json::json!({
        "message_type": "conflict",
        "path": String::from_utf8_lossy(path),
        "kind": match conflict.kind {
            ConflictKind::Version => "version",
            ConflictKind::Name => "name",
            ConflictKind::Apart => "side_file",
            ConflictKind::Cycle => "cycle",
            ConflictKind::Replaced => "replaced",
        },
        "of": of.as_ref().map(|of| String::from_utf8_lossy(of)),
        "device": device.map(|(_, name)| name),
        "device_id": device.map(|(id, _)| hex(id)),
        "time": is_dated(conflict.kind).then_some(conflict.time.secs),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Timestamp;
    use crate::merge::Conflict;

    fn found(kind: ConflictKind, of: Option<&str>) -> FoundConflict {
        let device = Some(([0xab; 16], "LAPTOP".into()));
        let time = Timestamp { secs: 1_795_860_000, nanos: 0 };
        let conflict = Conflict { ino: 9, kind, of: 8, device, time };
        FoundConflict { path: b"there".to_vec(), of: of.map(Into::into), conflict }
    }

    #[test]
    fn people_are_told_what_happened_on_which_device_and_when() {
        for (kind, text) in [
            (ConflictKind::Version, "another version of chat.db, from LAPTOP (abababab), 2026-11-"),
            (ConflictKind::Name, "another file of the name chat.db, from LAPTOP (abababab), 2026-"),
            (ConflictKind::Apart, "a file with the name of a side file of chat.db, to which it"),
        ] {
            let words = words(&found(kind, Some("chat.db")));
            assert!(words.starts_with(text), "{words}");
        }
        // Who moved it, or changed the attributes, is not known.
        for kind in [ConflictKind::Cycle, ConflictKind::Replaced] {
            let found = found(kind, None);
            assert!(!words(&found).contains("LAPTOP"));
            assert!(object(&found)["device"].is_null() && object(&found)["time"].is_null());
        }
        let mut found = found(ConflictKind::Version, Some("a\nb"));
        found.conflict.device = None;
        assert!(words(&found).contains("another version of a?b, from a device that is not known"));
    }
}
