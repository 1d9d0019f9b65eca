//! Which vaults are trusted, and where they are: typed, pinned before, listed by the
//! administrator, or confirmed.
//!
//! Invariant: before the key has opened a folder, nothing that only the folder says makes
//! this machine connect anywhere, where it knows an endpoint of the vault itself; and an
//! account's token goes to endpoints only that somebody other than the folder named.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::args::Global;
use super::confirm::Question;
use super::place;
use super::{Exit, Failure, Result};
use crate::crypto::{RepoId, hex, unhex};
use crate::io::{
    Clock, DirFolder, PrivateFolder, SystemClock, SystemRandom, Terminal, can_ask,
    read_regular_text,
};
use crate::vault::client::{Pin, VaultError};
use crate::vault::protocol::{
    Address, ENDPOINTS_LIMIT, Endpoint, Fingerprint, LOCATOR_LIMIT, Locator, MANIFEST_LIMIT,
    MANIFEST_WARNS, Manifest,
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
        .map_err(|error| Failure::new(Exit::Usage, format!("--vault: {error}")))
}

/// A vault that this user trusted before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pinned {
    pin: Pin,
    /// Where it is: named by the user or the administrator, sealed with a key, or signed
    /// by the vault's root.
    endpoints: Vec<String>,
}

impl Pinned {
    /// One line: fingerprint, epoch, endpoints between commas.
    fn line(&self) -> String {
        let endpoints = self.endpoints.join(",");
        let text = format!("{} {} {endpoints}", self.pin.fingerprint, self.pin.epoch);
        text.trim_end().to_owned()
    }

    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split(' ');
        let fingerprint = Fingerprint(unhex(parts.next()?)?);
        let epoch = parts.next()?.parse().ok()?;
        let endpoints = parts.next().unwrap_or_default();
        let endpoints: Vec<String> =
            endpoints.split(',').filter(|place| !place.is_empty()).map(str::to_owned).collect();
        let good = parts.next().is_none() && endpoints.iter().all(|p| Endpoint::parse(p).is_some());
        good.then_some(Self { pin: Pin { fingerprint, epoch }, endpoints })
    }

    /// Takes in what is newer; new endpoints come first. With `only` the others are forgotten.
    fn learn(&mut self, epoch: u64, endpoints: &[String], only: bool) {
        self.pin.epoch = self.pin.epoch.max(epoch);
        let before = if only { &[][..] } else { &self.endpoints };
        self.endpoints = in_order(endpoints.iter().chain(before));
    }
}

/// Each endpoint once, as many as an address has.
fn in_order<'a>(endpoints: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for endpoint in endpoints {
        if !all.contains(endpoint) && all.len() < ENDPOINTS_LIMIT {
            all.push(endpoint.clone());
        }
    }
    all
}

/// Each vault pinned by this user.
fn pins(folder: &Path) -> Result<Vec<Pinned>> {
    let file = folder.join(PINS);
    let bad = |what: &dyn std::fmt::Display| {
        Failure::new(Exit::Other, format!("{}: {what}", file.display()))
    };
    let text = match read_regular_text(&file, LIST_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(bad(&error)),
    };
    // A line left out would be an epoch forgotten.
    let pinned = |line| Pinned::parse(line).ok_or_else(|| bad(&"a line is not understood"));
    text.lines().map(pinned).collect()
}

/// A root that this user trusted before, with the highest epoch seen of it.
fn pinned(global: &Global, fingerprint: Fingerprint) -> Result<Option<Pinned>> {
    let mut all: Option<Pinned> = None;
    for folder in place::note_folders(global) {
        for found in pins(&folder)?.into_iter().filter(|one| one.pin.fingerprint == fingerprint) {
            match &mut all {
                None => all = Some(found),
                Some(all) => all.learn(found.pin.epoch, &found.endpoints, false),
            }
        }
    }
    Ok(all)
}

/// A trusted root with the highest epoch seen of it on this machine.
pub fn known(global: &Global, fingerprint: Fingerprint) -> Result<Pin> {
    let pinned = pinned(global, fingerprint)?;
    Ok(pinned.map_or(Pin { fingerprint, epoch: 0 }, |pinned| pinned.pin))
}

/// Remembers a vault, a higher epoch of one, or more endpoints. A vault of which no endpoint is
/// known but those that the folder names is not remembered: it would be asked there next
/// time, without a question to anybody.
fn remember(
    folder: &Path,
    fingerprint: Fingerprint,
    epoch: u64,
    (endpoints, only): (&[String], bool),
) -> Result<()> {
    place::with_base(folder, || {
        let mut all = pins(folder)?;
        let at = all.iter().position(|one| one.pin.fingerprint == fingerprint);
        if at.is_none() && endpoints.is_empty() {
            return Ok(());
        }
        let before = at.map(|at| all[at].clone());
        let at = at.unwrap_or_else(|| {
            all.push(Pinned { pin: Pin { fingerprint, epoch }, endpoints: Vec::new() });
            all.len() - 1
        });
        all[at].learn(epoch, endpoints, only);
        if before.as_ref() == Some(&all[at]) {
            return Ok(());
        }
        let mut text = String::new();
        for one in all {
            let _ = writeln!(text, "{}", one.line());
        }
        Ok(DirFolder::new(folder).replace(PINS, text.as_bytes())?)
    })
}

/// Remembers a vault's manifest and where it is, where everything else is done: a failure
/// is worth a warning, and does not end the command. `endpoints` are those that somebody other
/// than the folder named. Where the manifest says where the vault is, its endpoints come first,
/// and what was pinned before and is no more among them all is forgotten.
pub fn remember_or_warn(
    global: &Global,
    fingerprint: Fingerprint,
    manifest: &Manifest,
    endpoints: &[String],
) {
    let only = !manifest.endpoints.is_empty();
    let endpoints = in_order(manifest.endpoints.iter().chain(endpoints));
    let left = manifest.ends.saturating_sub(SystemClock.now().secs.max(0) as u64);
    if left < MANIFEST_WARNS {
        note!(
            "amberfs: the vault's manifest ends on {}: from then on new machines do not take it. \
             Its operator renews it: amberfs-vault root renew",
            manifest.end_date()
        );
    }
    let done = place::note_in_one(global, |folder| {
        remember(folder, fingerprint, manifest.epoch, (&endpoints, only))?;
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
        Err(error) => return Err(Failure::new(Exit::Other, format!("{SYSTEM_LIST}: {error}"))),
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

/// Who named the vault that a locator leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum NamedBy {
    /// The folder in the clear: whoever can write to the folder.
    Folder,
    /// A copy that is sealed under the folder's key: the folder's owner.
    Sealed,
}

/// The endpoints at which a client asks for a vault, and those to which it may send the
/// account's token.
pub struct VaultEndpoints {
    /// The locator, with the endpoints that the client asks.
    pub locator: Locator,
    /// The endpoints that somebody other than the folder named. An account's token may be
    /// sent to them.
    pub trusted: Vec<String>,
    /// The endpoints that only the folder names, and that the client does not ask because it
    /// knows others.
    pub folder_only: Vec<String>,
}

/// Where this machine's user or administrator says that a vault is, or where it was pinned:
/// what is typed comes first, for it may have moved.
fn endpoints_of(global: &Global, fingerprint: Fingerprint) -> Result<Vec<String>> {
    let typed = moved(global, fingerprint)?;
    let pinned = pinned(global, fingerprint)?.map_or(Vec::new(), |pinned| pinned.endpoints);
    Ok(in_order(typed.iter().flat_map(Address::endpoints).chain(&pinned)))
}

/// Decides which endpoints a client asks for the vault of `locator`. If this machine knows one,
/// these are the known ones alone; else they are those that the folder names, and a message
/// says so.
pub fn vault_endpoints(
    global: &Global,
    locator: &Locator,
    named_by: NamedBy,
) -> Result<VaultEndpoints> {
    let fingerprint = locator.address.fingerprint();
    let mut endpoints = endpoints_of(global, fingerprint)?;
    if named_by == NamedBy::Sealed {
        endpoints = in_order(endpoints.iter().chain(locator.address.endpoints()));
    }
    let named = locator.address.endpoints();
    let (asked, folder_only) = if endpoints.is_empty() {
        if !global.quiet {
            note!(
                "amberfs: only the folder says that the vault is at {}: no account's token is \
                 sent there",
                named.join(", ")
            );
        }
        (named.to_vec(), Vec::new())
    } else {
        (
            endpoints.clone(),
            named.iter().filter(|host| !endpoints.contains(host)).cloned().collect(),
        )
    };
    let address =
        Address::new(asked, fingerprint).map_err(|error| Failure::new(Exit::Usage, error))?;
    Ok(VaultEndpoints {
        locator: Locator { address, ..locator.clone() },
        trusted: endpoints,
        folder_only,
    })
}

impl VaultEndpoints {
    /// Makes `error` a failure. If no endpoint answered, a hint names those that the client did
    /// not ask.
    pub fn explain(&self, error: VaultError) -> Failure {
        let silent = matches!(error, VaultError::Unreachable { .. });
        let failure = Failure::from(error);
        if !silent || self.folder_only.is_empty() {
            return failure;
        }
        failure.hint(format!(
            "the folder also names {}, which whoever can write to it may have put there; if the \
             vault has moved to it, give its address by --vault",
            self.folder_only.join(", ")
        ))
    }
}

/// Beginning of the names of files with the vault entry that opened a repository last.
const ENTRIES: &str = "entry-";

/// The vault entry that opened a repository on this machine last: what the folder says may
/// have been changed since.
pub fn kept_entry(global: &Global, repo: &RepoId) -> Option<Locator> {
    let name = format!("{ENTRIES}{}", hex(repo));
    let read = |folder: PathBuf| DirFolder::new(&folder).read(&name, LOCATOR_LIMIT as u64).ok();
    let found = place::note_folders(global).into_iter().find_map(read)?;
    Locator::decode(&found).ok()
}

/// Keeps the entry that opened a repository.
pub fn keep_entry(global: &Global, repo: &RepoId, locator: &Locator) {
    let name = format!("{ENTRIES}{}", hex(repo));
    let kept = place::note_in_one(global, |folder| {
        Ok(DirFolder::new(folder).replace(&name, &locator.encode())?)
    });
    if let Err(failure) = kept {
        note!("amberfs: the vault entry could not be remembered: {}", failure.message);
    }
}

/// Whether the vault that the folder names may be asked: pinned on this
/// machine, given by `--vault`, in the system's list, or confirmed now.
pub fn trust(global: &Global, locator: &Locator) -> Result<Pin> {
    let fingerprint = locator.address.fingerprint();
    if let Some(address) = typed_address(global)? {
        if address.fingerprint() != fingerprint {
            return Err(Failure::new(
                Exit::NotThePinnedVault,
                format!(
                    "the folder names the vault {}, not the one given by --vault",
                    locator.address
                ),
            ));
        }
        return known(global, fingerprint);
    }
    if let Some(pinned) = pinned(global, fingerprint)? {
        return Ok(pinned.pin);
    }
    if listed()?.iter().any(|address| address.fingerprint() == fingerprint) {
        return Ok(Pin { fingerprint, epoch: 0 });
    }
    let endpoints = locator.address.endpoints().join(", ");
    let other = || {
        Failure::new(
            Exit::NotThePinnedVault,
            format!(
                "the vault that the folder names, at {endpoints}, is not the one on the key sheet"
            ),
        )
        .hint("whoever can write to the folder can name another vault there")
    };
    if !can_ask() {
        let folder_names = format!("the folder names the vault {}", locator.address);
        return Err(Failure::new(
            Exit::NotThePinnedVault,
            format!("{folder_names}, which this machine does not know"),
        )
        .hint("whoever can write to the folder can name another vault there")
        .hint(
            "give the address on your key sheet by --vault ADDRESS, or confirm it on a terminal",
        ));
    }
    let terminal = Terminal::open()?;
    terminal.show(&format!(
        "The folder names a vault at {endpoints}, which this machine does not know."
    ))?;
    terminal.show("Your key sheet shows the vault's fingerprint in 16 groups of 4 digits.")?;
    let question = Question::new(fingerprint, &SystemRandom);
    let answer = terminal.ask(&format!(
        "Type these groups of the fingerprint as they stand there, {}: ",
        question.numbers()
    ))?;
    if question.is_answered_by(&answer) { Ok(Pin { fingerprint, epoch: 0 }) } else { Err(other()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::protocol::{AkeKey, Argon2Cost, Protection, Roots, SiteKey};

    #[test]
    fn a_new_manifest_is_reported_once() {
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
            endpoints: vec!["a.example:7007".into()],
            ends: u64::MAX,
        };
        let changes = |manifest: &Manifest| {
            what_changed(dir.path(), Fingerprint([7; 32]), manifest).ok().unwrap()
        };
        assert!(changes(&manifest).is_empty(), "nothing was there before");
        assert!(changes(&manifest).is_empty());
        manifest.epoch = 2;
        manifest.protection = Protection::Hsm;
        manifest.sites[1] = site("east\n", 6);
        let lines = changes(&manifest);
        let parts = ["epoch 2", "keys were in a file", "gone: site south", "new: site east\\n: "];
        assert_eq!(lines.len(), parts.len(), "{lines:?}");
        for (line, part) in lines.iter().zip(parts) {
            assert!(line.contains(part), "{line}");
        }
        assert!(changes(&manifest).is_empty());
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
                scope.spawn(move || {
                    let place = ["a:1".to_owned()];
                    remember(folder, Fingerprint([byte; 32]), 1, (&place, false)).unwrap();
                });
            }
        });
        assert_eq!(pins(dir.path()).unwrap().len(), 16);
        remember(dir.path(), Fingerprint([99; 32]), 1, (&[], false)).unwrap();
        assert_eq!(pins(dir.path()).unwrap().len(), 16, "only the folder says where it is");
        let endpoints =
            |texts: &[&str]| -> Vec<String> { texts.iter().map(|&t| t.into()).collect() };
        let (old, new) = (endpoints(&["a:1", "b:2"]), endpoints(&["relay+c:3", "a:1"]));
        remember(dir.path(), Fingerprint([3; 32]), 7, (&old, false)).unwrap();
        remember(dir.path(), Fingerprint([3; 32]), 2, (&new, false)).unwrap();
        let all = pins(dir.path()).unwrap();
        let pin = Pin { fingerprint: Fingerprint([3; 32]), epoch: 7 };
        assert!(all.contains(&Pinned { pin, endpoints: endpoints(&["relay+c:3", "a:1", "b:2"]) }));
        let many: Vec<String> = (1..20).map(|port| format!("d:{port}")).collect();
        remember(dir.path(), Fingerprint([3; 32]), 7, (&many, true)).unwrap();
        let all = pins(dir.path()).unwrap();
        assert!(all.iter().any(|one| one.pin == pin && one.endpoints == many[..ENDPOINTS_LIMIT]));
        for bad in [
            "x",
            "ab 1",
            &format!("{} 1 a:1 b:1", "ab".repeat(32)),
            &format!("{} 1 a", "ab".repeat(32)),
        ] {
            assert_eq!(Pinned::parse(bad), None, "{bad}");
        }
        std::fs::write(dir.path().join(PINS), "rubbish\n").unwrap();
        assert!(pins(dir.path()).is_err(), "what cannot be read is not forgotten");
    }
}
