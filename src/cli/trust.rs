//! Which vaults are trusted: typed, pinned before, listed by the administrator, or confirmed.

use std::fmt::Write as _;
use std::path::Path;

use super::args::Global;
use super::place;
use super::{Code, Failure, Result};
use crate::crypto::unhex;
use crate::io::{DirFolder, PrivateFolder, Terminal, can_ask, read_regular_text};
use crate::vault::client::Pin;
use crate::vault::protocol::{
    Address, Fingerprint, HOSTS_LIMIT, Locator, MANIFEST_LIMIT, Manifest,
};

/// Vaults that this user trusted before, in the folder of local state.
const PINS: &str = "vaults";
/// Beginning of the names of files with the manifests of vaults seen last.
const MANIFESTS: &str = "manifest-";
/// Vaults that the machine's administrator trusts.
const SYSTEM_LIST: &str = "/etc/amberfs/vaults";
/// Most bytes of a list of vaults.
const LIST_MAX: u64 = 1 << 20;

/// The vault that `--vault` names.
pub fn typed_address(global: &Global) -> Result<Option<Address>> {
    global
        .vault
        .as_ref()
        .map(|text| text.parse())
        .transpose()
        .map_err(|error| Failure::new(Code::Usage, format!("--vault: {error}")))
}

/// Fingerprint and epoch of each vault pinned by this user.
fn pins(folder: &Path) -> Result<Vec<Pin>> {
    let file = folder.join(PINS);
    let bad = |what: &dyn std::fmt::Display| {
        Failure::new(Code::Other, format!("{}: {what}", file.display()))
    };
    let text = match read_regular_text(&file, LIST_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(bad(&error)),
    };
    let pin = |line: &str| {
        let (fingerprint, epoch) = line.split_once(' ')?;
        Some(Pin { fingerprint: Fingerprint(unhex(fingerprint)?), epoch: epoch.parse().ok()? })
    };
    // A line left out would be an epoch forgotten.
    text.lines().map(|line| pin(line).ok_or_else(|| bad(&"a line is not understood"))).collect()
}

/// A root that this user trusted before, with the highest epoch seen of it.
fn pinned(global: &Global, fingerprint: Fingerprint) -> Result<Option<Pin>> {
    let mut seen = Vec::new();
    for folder in place::note_folders(global) {
        seen.extend(pins(&folder)?);
    }
    let seen = seen.into_iter().filter(|pin| pin.fingerprint == fingerprint);
    Ok(seen.max_by_key(|pin| pin.epoch))
}

/// A trusted root with the highest epoch seen of it on this machine.
pub fn known(global: &Global, fingerprint: Fingerprint) -> Result<Pin> {
    Ok(pinned(global, fingerprint)?.unwrap_or(Pin { fingerprint, epoch: 0 }))
}

/// Remembers a vault, or a higher epoch of one.
fn remember(folder: &Path, fingerprint: Fingerprint, epoch: u64) -> Result<()> {
    place::with_base(folder, || {
        let mut all = pins(folder)?;
        match all.iter_mut().find(|pin| pin.fingerprint == fingerprint) {
            Some(pin) if pin.epoch >= epoch => return Ok(()),
            Some(pin) => pin.epoch = epoch,
            None => all.push(Pin { fingerprint, epoch }),
        }
        let mut text = String::new();
        for pin in all {
            let _ = writeln!(text, "{} {}", pin.fingerprint, pin.epoch);
        }
        Ok(DirFolder::new(folder).replace(PINS, text.as_bytes())?)
    })
}

/// Remembers a vault's manifest where everything else is done: a failure is worth a
/// warning, and does not end the command.
pub fn remember_or_warn(global: &Global, fingerprint: Fingerprint, manifest: &Manifest) {
    let done = place::note_in_one(global, |folder| {
        remember(folder, fingerprint, manifest.epoch)?;
        for line in what_changed(folder, fingerprint, manifest)? {
            note!("amberfs: {line}");
        }
        Ok(())
    });
    if let Err(failure) = done {
        note!("amberfs: this vault could not be remembered: {}", failure.message);
    }
}

/// What is new in a vault's manifest since this machine saw it last, once.
fn what_changed(
    folder: &Path,
    fingerprint: Fingerprint,
    manifest: &Manifest,
) -> Result<Vec<String>> {
    let name = format!("{MANIFESTS}{fingerprint}");
    let body = manifest.encode_body();
    let before = DirFolder::new(folder).read(&name, MANIFEST_LIMIT as u64).ok();
    if before.as_ref() == Some(&body) {
        return Ok(Vec::new());
    }
    DirFolder::new(folder).replace(&name, &body)?;
    // A damaged one says nothing; the signature counts.
    let Some(Ok(before)) = before.map(|body| Manifest::decode_body(&body)) else {
        return Ok(Vec::new());
    };
    let changes = manifest.changes_since(&before);
    let head = format!("the vault's manifest is of epoch {} now:", manifest.epoch);
    let lines = changes.into_iter().map(|line| format!("  {line}"));
    Ok(std::iter::once(head).chain(lines).collect())
}

/// Addresses in the system's list.
fn listed() -> Result<Vec<Address>> {
    let text = match read_regular_text(Path::new(SYSTEM_LIST), LIST_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Failure::new(Code::Other, format!("{SYSTEM_LIST}: {error}"))),
    };
    let text = text.trim_start_matches('\u{feff}');
    Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect())
}

/// Where a vault is said to be by `--vault`, or else by the system's list: it
/// may have moved since it was written down elsewhere.
pub fn moved(global: &Global, fingerprint: Fingerprint) -> Result<Option<Address>> {
    let known = typed_address(global)?.into_iter().chain(listed()?);
    Ok(known.into_iter().find(|address| address.fingerprint() == fingerprint))
}

/// `locator` with the places where to look for its vault: the told ones first.
pub fn reached(global: &Global, locator: &Locator) -> Result<Locator> {
    let fingerprint = locator.address.fingerprint();
    let mut hosts = Vec::new();
    let told = moved(global, fingerprint)?;
    for host in told.iter().chain([&locator.address]).flat_map(Address::hosts) {
        if !hosts.contains(host) && hosts.len() < HOSTS_LIMIT {
            hosts.push(host.clone());
        }
    }
    let address =
        Address::new(hosts, fingerprint).map_err(|error| Failure::new(Code::Usage, error))?;
    Ok(Locator { address, ..locator.clone() })
}

/// Whether the vault that the folder names may be asked: pinned on this
/// machine, given by `--vault`, in the system's list, or confirmed now.
pub fn trust(global: &Global, locator: &Locator) -> Result<Pin> {
    let fingerprint = locator.address.fingerprint();
    if let Some(address) = typed_address(global)? {
        if address.fingerprint() != fingerprint {
            return Err(Failure::new(
                Code::NotThePinnedVault,
                format!(
                    "the folder names the vault {}, not the one given by --vault",
                    locator.address
                ),
            ));
        }
        return known(global, fingerprint);
    }
    if let Some(pin) = pinned(global, fingerprint)? {
        return Ok(pin);
    }
    if listed()?.iter().any(|address| address.fingerprint() == fingerprint) {
        return Ok(Pin { fingerprint, epoch: 0 });
    }
    let unknown = Failure::new(
        Code::NotThePinnedVault,
        format!("the folder names the vault {}, which this machine does not know", locator.address),
    )
    .hint("whoever can write to the folder can write that; compare it with your key sheet")
    .hint("then give it by --vault ADDRESS, or confirm it on a terminal");
    if !can_ask() {
        return Err(unknown);
    }
    let terminal = Terminal::open()?;
    terminal.show("The folder names this vault:")?;
    terminal.show(&format!("  {}", locator.address))?;
    let question =
        "This machine does not know it. Is that the address on your key sheet? [yes/no] ";
    let answer = terminal.ask(question)?;
    if answer.trim() == "yes" { Ok(Pin { fingerprint, epoch: 0 }) } else { Err(unknown) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::protocol::{AkeKey, Argon2Cost, Protection, Roots, SiteKey};

    #[test]
    fn a_new_manifest_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let site = |name: &str, byte| SiteKey { name: name.into(), spki: vec![byte; 91] };
        let mut manifest = Manifest {
            roots: Roots { threshold: 1, keys: vec![[1; 32]] },
            fleet: [2; 16],
            epoch: 1,
            protection: Protection::File,
            quorum: 1,
            cost: Argon2Cost::FLOOR,
            ake: vec![AkeKey { generation: 1, public: [3; 33] }],
            sites: vec![site("north", 4), site("south", 5)],
        };
        let told = |manifest: &Manifest| {
            what_changed(dir.path(), Fingerprint([7; 32]), manifest).ok().unwrap()
        };
        assert!(told(&manifest).is_empty(), "nothing was there before");
        assert!(told(&manifest).is_empty());
        manifest.epoch = 2;
        manifest.protection = Protection::Hsm;
        manifest.sites[1] = site("east\n", 6);
        let lines = told(&manifest);
        let parts = ["epoch 2", "keys were in a file", "gone: site south", "new: site east\\n: "];
        assert_eq!(lines.len(), parts.len(), "{lines:?}");
        for (line, part) in lines.iter().zip(parts) {
            assert!(line.contains(part), "{line}");
        }
        assert!(told(&manifest).is_empty());
    }

    /// Two commands at once lost one of two pins, and an aside file left by a
    /// crash kept everything from being remembered.
    #[test]
    fn pins_are_not_lost_between_processes_or_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vaults.new"), "torn").unwrap();
        std::thread::scope(|scope| {
            for byte in 0..16 {
                let folder = dir.path();
                scope.spawn(move || remember(folder, Fingerprint([byte; 32]), 1).unwrap());
            }
        });
        assert_eq!(pins(dir.path()).unwrap().len(), 16);
        remember(dir.path(), Fingerprint([3; 32]), 7).unwrap();
        remember(dir.path(), Fingerprint([3; 32]), 2).unwrap();
        let all = pins(dir.path()).unwrap();
        assert!(all.contains(&Pin { fingerprint: Fingerprint([3; 32]), epoch: 7 }));
        std::fs::write(dir.path().join(PINS), "rubbish\n").unwrap();
        assert!(pins(dir.path()).is_err(), "what cannot be read is not forgotten");
    }
}
