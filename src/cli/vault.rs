//! Passwords: the vault seen from the command line.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::args::{Global, RemoveArgs, RepoArgs, ShowArgs};
use super::control::local_time;
use super::opening::{Found, Keyed, Wanted, find};
use super::place;
use super::secrets::Obtained;
use super::{Code, Failure, Result, secrets};
use crate::crypto::{RepoId, Secret, hex, key_check, resembles_key, unhex};
use crate::io::{
    DirFolder, DirSynced, PrivateFolder, SystemClock, SystemRandom, read_regular_text,
};
use crate::vault::client::{Claim, Client, NewRecord, Pin, Unlocked, VaultError};
use crate::vault::net::Timeouts;
use crate::vault::protocol::{
    Address, Argon2Choice, Argon2Cost, Event, EventKind, Fingerprint, HOSTS_LIMIT, Locator,
    MANIFEST_LIMIT, Manifest, Password, Protection, Retirement, Standing,
};
use crate::vault::server::FAILURES;
use crate::volume::repository::{Repository, vault_slots};

/// Vaults that this user trusted before, in the folder of local state.
const PINS: &str = "vaults";
/// Beginning of the names of files with the manifests of vaults seen last.
const MANIFESTS: &str = "manifest-";
/// How an invite begins, as the operator gives it.
const INVITE: &str = "amber-invite-";
/// Vaults that the machine's administrator trusts.
const SYSTEM_LIST: &str = "/etc/amberfs/vaults";
/// Most bytes of a list of vaults.
const LIST_MAX: u64 = 1 << 20;

/// Who talks to vaults, with the account's token if there is one.
pub fn client(global: &Global, repo: &Path, timeouts: Timeouts) -> Result<Client<'static>> {
    let token = secrets::text(global.vault_token.as_ref(), None, "amberfs.vault-token", repo)?;
    let token = token.map(|(text, _)| Zeroizing::new(text.trim().to_owned()));
    Ok(Client::with_timeouts(&SystemRandom, &SystemClock, timeouts).with_token(token))
}

fn typed_address(global: &Global) -> Result<Option<Address>> {
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

/// A trusted root with the highest epoch seen of it on this machine.
pub fn known(fingerprint: Fingerprint) -> Result<Pin> {
    let seen = pins(&place::state_base()?)?;
    let seen = seen.into_iter().find(|pin| pin.fingerprint == fingerprint);
    Ok(seen.unwrap_or(Pin { fingerprint, epoch: 0 }))
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

/// The same where everything else is done: worth a warning, not a failure.
fn remember_or_warn(fingerprint: Fingerprint, manifest: &Manifest) {
    let done = place::state_base().and_then(|folder| {
        remember(&folder, fingerprint, manifest.epoch)?;
        for line in what_changed(&folder, fingerprint, manifest)? {
            eprintln!("amberfs: {line}");
        }
        Ok(())
    });
    if let Err(failure) = done {
        eprintln!("amberfs: this vault could not be remembered: {}", failure.message);
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
    Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect())
}

/// Where a vault is said to be by `--vault`, or else by the system's list: it
/// may have moved since it was written down elsewhere.
fn moved(global: &Global, fingerprint: Fingerprint) -> Result<Option<Address>> {
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
fn trust(global: &Global, locator: &Locator) -> Result<Pin> {
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
        return known(fingerprint);
    }
    let seen = pins(&place::state_base()?)?;
    if let Some(pin) = seen.into_iter().find(|pin| pin.fingerprint == fingerprint) {
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
    if !std::io::stdin().is_terminal() {
        return Err(unknown);
    }
    eprintln!("The folder names this vault:\n  {}", locator.address);
    eprint!("This machine does not know it. Is that the address on your key sheet? [yes/no] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() == "yes" { Ok(Pin { fingerprint, epoch: 0 }) } else { Err(unknown) }
}

/// K by password, from a vault that a register names: the newest first, and on
/// to older ones while the answer is that there is nothing to try.
pub fn unlock(
    global: &Global,
    repo: &Path,
    repository: &Repository,
    password: &[u8],
) -> Result<Obtained> {
    let password = Password::new(password).map_err(|error| Failure::new(Code::Usage, error))?;
    if !repository.has_vault() {
        return Err(Failure::new(
            Code::WrongSecret,
            "this repository has no password, only its 64-digit key",
        )
        .hint("give --key-file F, or type the key"));
    }
    let client = client(global, repo, Timeouts::default())?;
    let folder = DirSynced::new(repo, None);
    let mut first = None;
    let mut distrusted = Vec::new();
    for locator in
        repository.vault_slots(&folder).into_iter().filter_map(|slot| Locator::decode(slot).ok())
    {
        let fingerprint = locator.address.fingerprint();
        if distrusted.contains(&fingerprint) {
            continue;
        }
        let pin = match trust(global, &locator) {
            Ok(pin) => pin,
            Err(failure) => {
                distrusted.push(fingerprint);
                first.get_or_insert(failure);
                continue;
            }
        };
        let asked = reached(global, &locator)?;
        match client.unlock(&asked, &repository.repo, &password, pin) {
            Ok(unlocked) => {
                let is_outdated = unlocked.generation < unlocked.manifest.generation();
                let obtained = opened(&folder, repository, &locator, unlocked)?;
                let outdated = is_outdated.then_some(password);
                return Ok(Obtained { outdated, ..obtained });
            }
            // These cost nothing.
            Err(
                error @ (VaultError::UnknownTicket
                | VaultError::Ended(_)
                | VaultError::NotActivated
                | VaultError::Frozen),
            ) => drop(first.get_or_insert(error.into())),
            Err(error) => return Err(error.into()),
        }
    }
    Err(first.unwrap_or_else(|| {
        Failure::new(Code::Damage, "what names the vault of this repository is damaged")
            .hint("amberfs check REPO --no-key names the files; the 64-digit key still opens it")
    }))
}

/// Judges what the record that `locator` names has given.
fn opened(
    folder: &DirSynced,
    repository: &Repository,
    locator: &Locator,
    unlocked: Unlocked,
) -> Result<Obtained> {
    let key = unlocked.keys.into_iter().map(|(_, key)| key);
    let Some(key) = key.into_iter().find(|key| repository.unlock(key).is_some()) else {
        return Err(Failure::new(
            Code::NotAllHere,
            "the vault's key does not open this folder: the folder is behind, or its header is \
             damaged",
        ));
    };
    if !repository.sealed_vault_slots(folder, &key).contains(&locator.encode()) {
        return Err(Failure::new(
            Code::NotThePinnedVault,
            "the folder's vault entry is not one that was sealed with the key: somebody changed \
             it",
        ));
    }
    remember_or_warn(locator.address.fingerprint(), &unlocked.manifest);
    for line in told(unlocked.events.since_opened()) {
        eprintln!("amberfs: {line}");
    }
    let failures = FAILURES.saturating_sub(unlocked.tries.failures_left);
    if failures > 0 {
        eprintln!(
            "amberfs: {failures} of {FAILURES} failed attempts in the life of this password are \
             used up; a new one (amberfs passwd) starts anew"
        );
    }
    Ok(Obtained { key, marks: unlocked.marks, outdated: None })
}

/// What the owner should know of what happened since the password last opened the
/// record; of one day and kind in one line.
fn told(events: &[Event]) -> Vec<String> {
    let mut days: Vec<(String, EventKind, usize)> = Vec::new();
    for event in events {
        let day = local_time(event.time.try_into().unwrap_or(i64::MAX));
        let day = day.split(' ').next().unwrap_or_default().to_owned();
        match days.last_mut() {
            Some((last, kind, count)) if *last == day && *kind == event.kind => *count += 1,
            _ => days.push((day, event.kind, 1)),
        }
    }
    let lines = days.into_iter().filter_map(|(day, kind, count)| match kind {
        EventKind::Failed if count == 1 => Some(format!("1 wrong password on {day}")),
        EventKind::Failed => Some(format!("{count} wrong passwords on {day}")),
        EventKind::Closed => Some(format!("all tries were used up on {day}")),
        EventKind::Spent => Some(format!("the vault's operator took tries on {day}")),
        EventKind::Held => Some(format!("the vault's operator stopped the record on {day}")),
        EventKind::Released => Some(format!("the vault's operator let it go on {day}")),
        EventKind::Activated | EventKind::Opened => None,
    });
    lines.collect()
}

fn cost(global: &Global) -> Result<Argon2Choice> {
    let Some(text) = &global.argon2_cost else { return Ok(Argon2Choice::Calibrated) };
    let parsed = text.split_once(',').and_then(|(memory, passes)| {
        Some(Argon2Cost { memory: memory.parse().ok()?, passes: passes.parse().ok()?, lanes: 1 })
    });
    parsed
        .map(Argon2Choice::Exactly)
        .ok_or_else(|| Failure::new(Code::Usage, "--argon2-cost takes MEMORY_KIB,PASSES"))
}

/// A new password: from a file, or asked for twice.
pub fn new_password(file: Option<&Path>, repo: &Path) -> Result<Password> {
    let text = if let Some(path) = file {
        secrets::read_file(path, repo)?
    } else if std::io::stdin().is_terminal() {
        let ask = |question: &str| rpassword::prompt_password(question).map(Zeroizing::new);
        let first = ask("New password: ")?;
        if *first != *ask("Again: ")? {
            return Err(Failure::new(Code::Usage, "the two passwords differ"));
        }
        first
    } else {
        return Err(Failure::new(Code::Usage, "no new password was given")
            .hint("give it in a file, or run this on a terminal"));
    };
    if resembles_key(&text) {
        return Err(Failure::new(Code::Usage, "a password must not look like a 64-digit key")
            .hint("typed with a mistake it would be taken for one"));
    }
    let password =
        Password::new(text.as_bytes()).map_err(|error| Failure::new(Code::Usage, error))?;
    password.check_new().map_err(|error| Failure::new(Code::Usage, error))?;
    Ok(password)
}

/// Registers K under a password; the registration has been tried once when
/// this returns.
pub fn register(
    global: &Global,
    address: &Address,
    (path, repo): (&Path, &RepoId),
    key: &Secret,
    password: &Password,
    claim: Claim<'_>,
) -> Result<Locator> {
    let epoch = known(address.fingerprint())?.epoch;
    let keys = [(key_check(key, repo), key)];
    let argon = cost(global)?;
    let record = NewRecord { address, epoch, repo, keys: &keys, password, argon, claim };
    let registration = client(global, path, Timeouts::default())?.register(&record)?;
    if registration.manifest.protection == Protection::File && !global.quiet {
        eprintln!(
            "This vault keeps its keys in a file: whoever takes its disk can guess passwords \
             without limit. Choose a long one."
        );
    }
    remember_or_warn(address.fingerprint(), &registration.manifest);
    Ok(registration.locator)
}

/// What a registration where there is none before rests on.
pub fn first_claim(global: &Global) -> Result<Claim<'static>> {
    let Some(text) = &global.invite else { return Ok(Claim::Open) };
    let digits = text.trim();
    let digits = digits.strip_prefix(INVITE).unwrap_or(digits);
    unhex(digits).map(Claim::Invite).ok_or_else(|| {
        Failure::new(Code::Usage, "--invite takes what the vault's operator gave: amber-invite-...")
    })
}

/// The vault that `init` and `vault add` register at.
pub fn address(global: &Global) -> Result<Option<Address>> {
    typed_address(global)
}

/// A repository opened with K, and its vault entries as they were sealed.
struct Opened {
    open: super::opening::Opened,
    key: Secret,
    repo: RepoId,
    /// The current ones.
    slots: Vec<Vec<u8>>,
    /// Those that newer ones replaced, as far as the folder still tells.
    replaced: Vec<Vec<u8>>,
    path: PathBuf,
}

fn open(global: &Global, repo: &Path) -> Result<Opened> {
    let found = find(repo)?;
    let mut opening = global.clone();
    if let Some(address) = typed_address(global)? {
        // The vault to move to says nothing about the one to open at.
        let fingerprint = address.fingerprint();
        let names =
            |slot| Locator::decode(slot).is_ok_and(|l| l.address.fingerprint() == fingerprint);
        let folder = DirSynced::new(&found.path, None);
        if !found.early.vault_slots(&folder).into_iter().any(names) {
            opening.vault = None;
        }
    }
    open_by(global, found.key(&opening)?)
}

fn open_by(global: &Global, keyed: Keyed) -> Result<Opened> {
    let looked = keyed.lock(global)?.look()?;
    let (key, repo, path) = (looked.key().duplicate(), looked.repository.repo, looked.path.clone());
    let slots: Vec<Vec<u8>> = vault_slots(&looked.slots).map(<[u8]>::to_vec).collect();
    let folder = DirSynced::new(&path, None);
    let mut replaced = looked.repository.sealed_vault_slots(&folder, &key);
    replaced.retain(|slot| !slots.contains(slot));
    let open = looked.open(global, &Wanted::default())?;
    open.tell();
    open.refuse_less(global)?;
    Ok(Opened { open, key, repo, slots, replaced, path })
}

impl Opened {
    fn publish(&self, slots: Vec<Vec<u8>>) -> Result<()> {
        self.open.fs.volume().set_vault_slots(&self.key, slots)?;
        Ok(self.open.fs.publish_register()?)
    }

    /// Ends the registrations in `slots`; returns those that could not be
    /// ended, and why.
    fn retire<'a>(
        &self,
        global: &Global,
        slots: &'a [Vec<u8>],
        reason: Retirement,
    ) -> Result<Vec<(&'a Vec<u8>, String)>> {
        let client = client(global, &self.path, Timeouts::default())?;
        let mut failed = Vec::new();
        // A vault that does not answer is waited for once.
        let mut silent: Vec<(Fingerprint, String)> = Vec::new();
        for slot in slots {
            let Ok(locator) = Locator::decode(slot) else { continue };
            let fingerprint = locator.address.fingerprint();
            if let Some((_, why)) = silent.iter().find(|(silent, _)| *silent == fingerprint) {
                failed.push((slot, why.clone()));
                continue;
            }
            // Sealed with K: these addresses are the owner's own.
            let asked = reached(global, &locator)?;
            let pin = known(fingerprint)?;
            if let Err(error) = client.retire(&asked, &self.repo, &self.key, pin, reason) {
                let why = format!("{}: {error}", locator.address);
                if matches!(error, VaultError::Unreachable { .. }) {
                    silent.push((fingerprint, why.clone()));
                }
                failed.push((slot, why));
            }
        }
        Ok(failed)
    }

    /// Ends what newer registrations replaced. Returns how many are left; they
    /// are named, with the command that tries again.
    fn retire_replaced(&self, global: &Global, replaced: &[Vec<u8>]) -> Result<usize> {
        let failed = self.retire(global, replaced, Retirement::Superseded)?;
        for (_, why) in &failed {
            eprintln!(
                "amberfs: an older record could not be ended, its password still works: {why}"
            );
        }
        if !failed.is_empty() {
            eprintln!("  amberfs vault remove --replaced {} tries again", self.path.display());
        }
        Ok(failed.len())
    }
}

/// Standard input has one secret.
fn one_from_stdin(global: &Global, args: &RepoArgs) -> Result<()> {
    let files = [&global.key_file, &global.password_file, &args.new_password_file];
    if files.iter().filter(|file| file.as_deref() == Some(Path::new("-"))).count() > 1 {
        return Err(Failure::new(Code::Usage, "only one secret can come from standard input"));
    }
    Ok(())
}

/// `passwd`: a new registration, and the end of the old one.
pub fn passwd(global: &Global, args: &RepoArgs) -> Result<u8> {
    one_from_stdin(global, args)?;
    let opened = open(global, &args.repo)?;
    let sealed = opened.slots.iter().find_map(|bytes| Locator::decode(bytes).ok());
    let address = match (typed_address(global)?, sealed) {
        (Some(typed), _) => typed,
        (None, Some(Locator { address, .. })) => {
            moved(global, address.fingerprint())?.unwrap_or(address)
        }
        (None, None) => {
            return Err(Failure::new(Code::Usage, "this repository has no vault yet")
                .hint("amberfs vault add REPO --vault ADDRESS"));
        }
    };
    let password = new_password(args.new_password_file.as_deref(), &opened.path)?;
    replace(global, &opened, &address, &password)?;
    if !global.quiet {
        eprintln!("The new password opens this repository; it was tried once.");
    }
    Ok(0)
}

/// Registers, publishes the locator, and only then ends the old records: at no
/// time does a folder name a record that is gone. What a crash in between
/// leaves is ended by the next command that comes here.
fn replace(global: &Global, opened: &Opened, address: &Address, password: &Password) -> Result<()> {
    let before = opened.slots.iter().filter_map(|slot| Locator::decode(slot).ok());
    let before = before.into_iter().find(|old| old.address.fingerprint() == address.fingerprint());
    let claim = match (&before, first_claim(global)?) {
        (Some(locator), Claim::Open) => Claim::After { locator, key: &opened.key },
        (_, claim) => claim,
    };
    let place = (&*opened.path, &opened.repo);
    let locator = register(global, address, place, &opened.key, password, claim)?;
    opened.publish(vec![locator.encode()])?;
    let replaced = [opened.slots.as_slice(), &opened.replaced].concat();
    opened.retire_replaced(global, &replaced)?;
    Ok(())
}

/// Registers the same password anew, because its record was made under keys that the
/// vault would retire.
pub fn renew(global: &Global, repo: &Path, key: Secret, password: &Password) -> Result<()> {
    let opened = open_by(global, find(repo)?.keyed(key.into()))?;
    let sealed = opened.slots.iter().find_map(|bytes| Locator::decode(bytes).ok());
    let Some(Locator { address, .. }) = sealed else { return Ok(()) };
    let address = moved(global, address.fingerprint())?.unwrap_or(address);
    replace(global, &opened, &address, password)
}

/// `vault add`.
pub fn add(global: &Global, args: &RepoArgs) -> Result<u8> {
    one_from_stdin(global, args)?;
    let address = typed_address(global)?
        .ok_or_else(|| Failure::new(Code::Usage, "give the vault: --vault ADDRESS"))?;
    let opened = open(global, &args.repo)?;
    let password = new_password(args.new_password_file.as_deref(), &opened.path)?;
    replace(global, &opened, &address, &password)?;
    if !global.quiet {
        eprintln!("The password opens this repository; it was tried once.");
    }
    Ok(0)
}

/// `vault remove`.
pub fn remove(global: &Global, args: &RemoveArgs) -> Result<u8> {
    if args.replaced {
        return remove_replaced(global, args);
    }
    if global.key_file.is_none() && global.key_command.is_none() {
        return Err(Failure::new(Code::Usage, "vault remove takes the 64-digit key")
            .hint("it will be the only way in: show that you have it with --key-file F")
            .hint("amberfs key show REPO prints it"));
    }
    let opened = open(global, &args.repo)?;
    if opened.slots.is_empty() && opened.replaced.is_empty() {
        return Err(Failure::new(Code::Other, "this repository has no vault"));
    }
    let failed = opened.retire(global, &opened.slots, Retirement::Deleted)?;
    if !failed.is_empty() && !args.give_up {
        let mut failure = Failure::new(
            Code::VaultUnreachable,
            format!("the record could not be deleted: {}", failed[0].1),
        );
        if failed.len() < opened.slots.len() {
            // The folder does not name what is gone.
            opened.publish(failed.iter().map(|(slot, _)| (*slot).clone()).collect())?;
            let done = opened.slots.len() - failed.len();
            failure = failure.hint(format!(
                "{done} of {} records were deleted, and the folder names the others only",
                opened.slots.len()
            ));
        } else {
            failure = failure.hint("nothing was changed");
        }
        return Err(failure.hint("try again when the vault can be reached").hint(
            "or give it up with --give-up: if it still exists, its password still works there",
        ));
    }
    if !opened.slots.is_empty() {
        opened.publish(Vec::new())?;
    }
    for (_, why) in &failed {
        eprintln!("amberfs: given up; if the record exists, its password still works: {why}");
    }
    opened.retire_replaced(global, &opened.replaced)?;
    if !global.quiet {
        let done = if failed.is_empty() { "The vault's record is deleted. " } else { "" };
        eprintln!("{done}Only the 64-digit key opens this repository now.");
    }
    Ok(0)
}

/// `vault remove --replaced`: finishes what an earlier change of the password
/// could not.
fn remove_replaced(global: &Global, args: &RemoveArgs) -> Result<u8> {
    let opened = open(global, &args.repo)?;
    let left = opened.retire_replaced(global, &opened.replaced)?;
    if left > 0 {
        return Err(Failure::new(
            Code::VaultUnreachable,
            format!("{left} of {} older records are left", opened.replaced.len()),
        ));
    }
    if !global.quiet {
        eprintln!("{} older records are over.", opened.replaced.len());
    }
    Ok(0)
}

/// `vault show`: spends no try.
pub fn show(global: &Global, args: &ShowArgs) -> Result<u8> {
    let Found { path, early: repository } = find(&args.repo)?;
    let folder = DirSynced::new(&path, None);
    // Older registers only name what this one replaced.
    let locator =
        repository.vault_slots(&folder).into_iter().find_map(|slot| Locator::decode(slot).ok());
    let Some(locator) = locator.filter(|_| !repository.clear_vault_slots().is_empty()) else {
        println!("no vault: only the 64-digit key opens this repository");
        return Ok(0);
    };
    if args.ticket {
        println!("{}", hex(&locator.ticket));
        return Ok(0);
    }
    let pin = trust(global, &locator)?;
    let status =
        client(global, &path, Timeouts::default())?.status(&reached(global, &locator)?, pin)?;
    println!("{}", locator.address);
    println!("  {}", stands(&status.standing));
    let place = match status.manifest.protection {
        Protection::File => "a file",
        Protection::Hsm => "an HSM",
    };
    println!("  its keys are in {place}; manifest of epoch {}", status.manifest.epoch);
    Ok(0)
}

/// How a record stands, for its owner.
fn stands(standing: &Standing) -> String {
    let time = |seconds: u64| local_time(seconds.try_into().unwrap_or(i64::MAX));
    match standing {
        Standing::Registering => "not activated yet".into(),
        Standing::Active(tries) => {
            let left = format!(
                "active: {} tries left, {} failures left in its life",
                tries.left, tries.failures_left
            );
            match tries.not_before {
                0 => left,
                until => format!("{left}, no attempt before {}", time(until)),
            }
        }
        Standing::Closed { until } => {
            format!("closed: all tries are used up; erased at {}", time(*until))
        }
        Standing::Ended(ended) => VaultError::Ended(*ended).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::protocol::{AkeKey, Roots, SiteKey};

    #[test]
    fn what_happened_is_told_by_the_day() {
        let event = |kind, time| Event { kind, time };
        let noon = 1_700_000_000 / 86_400 * 86_400 + 43_200;
        let lines = told(&[
            event(EventKind::Activated, noon),
            event(EventKind::Failed, noon + 1),
            event(EventKind::Failed, noon + 2),
            event(EventKind::Failed, noon + 3 * 86_400),
            event(EventKind::Closed, noon + 3 * 86_400),
            event(EventKind::Spent, u64::MAX),
        ]);
        let starts = [
            "2 wrong passwords on 2023-11-14",
            "1 wrong password on 2023-11-17",
            "all tries were used up on 2023-11-17",
            "the vault's operator took",
        ];
        assert_eq!(lines.len(), starts.len(), "{lines:?}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}");
        }
    }

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
