//! Passwords: the vault seen from the command line.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::args::{Global, RepoArgs};
use super::place::{self, LocalState, find, machine_name, open_keyring, open_volume};
use super::{Code, Failure, Result, secrets};
use crate::crypto::{RepoId, Secret, key_check, unhex};
use crate::fs::Fs;
use crate::io::{SystemClock, SystemRandom};
use crate::vault::client::{Client, NewRecord, Pin};
use crate::vault::protocol::{
    Address, Argon2Choice, Argon2Cost, Fingerprint, Locator, Password, Protection, Retirement,
};
use crate::volume::OpenOptions;
use crate::volume::repository::Repository;

/// Vaults that the machine's administrator trusts.
const SYSTEM_LIST: &str = "/etc/amberfs/vaults";

fn client() -> Client<'static> {
    Client::new(&SystemRandom, &SystemClock)
}

fn typed_address(global: &Global) -> Result<Option<Address>> {
    global
        .vault
        .as_ref()
        .map(|text| text.parse())
        .transpose()
        .map_err(|error| Failure::new(Code::Usage, format!("--vault: {error}")))
}

fn pins_file() -> Result<PathBuf> {
    Ok(place::state_base()?.join("vaults"))
}

/// Fingerprint and epoch of each vault pinned on this machine.
fn pins() -> Result<Vec<Pin>> {
    let text = match std::fs::read_to_string(pins_file()?) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error.into()),
    };
    Ok(text
        .lines()
        .filter_map(|line| {
            let (fingerprint, epoch) = line.split_once(' ')?;
            Some(Pin { fingerprint: Fingerprint(unhex(fingerprint)?), epoch: epoch.parse().ok()? })
        })
        .collect())
}

/// A trusted root with the highest epoch seen of it on this machine.
fn known(fingerprint: Fingerprint) -> Pin {
    let seen = pins().unwrap_or_default();
    seen.into_iter()
        .find(|pin| pin.fingerprint == fingerprint)
        .unwrap_or(Pin { fingerprint, epoch: 0 })
}

/// Remembers a vault, or a higher epoch of one.
fn remember(fingerprint: Fingerprint, epoch: u64) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let mut all = pins()?;
    match all.iter_mut().find(|pin| pin.fingerprint == fingerprint) {
        Some(pin) if pin.epoch >= epoch => return Ok(()),
        Some(pin) => pin.epoch = epoch,
        None => all.push(Pin { fingerprint, epoch }),
    }
    let file = pins_file()?;
    let folder = file.parent().expect("the file lies in a folder");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let aside = file.with_extension(format!("{}.new", std::process::id()));
    let mut out =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    for pin in all {
        writeln!(out, "{} {}", pin.fingerprint, pin.epoch)?;
    }
    out.sync_all()?;
    std::fs::rename(&aside, &file)?;
    Ok(())
}

fn in_system_list(fingerprint: &Fingerprint) -> bool {
    std::fs::read_to_string(SYSTEM_LIST).is_ok_and(|text| {
        text.lines()
            .filter_map(|line| line.trim().parse::<Address>().ok())
            .any(|address| address.fingerprint() == *fingerprint)
    })
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
        return Ok(known(fingerprint));
    }
    if let Some(pin) = pins()?.into_iter().find(|pin| pin.fingerprint == fingerprint) {
        return Ok(pin);
    }
    if in_system_list(&fingerprint) {
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

/// K by password: from the first vault that the newest register names.
pub fn unlock(global: &Global, repository: &Repository, password: &[u8]) -> Result<Secret> {
    let password = Password::new(password).map_err(|error| Failure::new(Code::Usage, error))?;
    let slots: Vec<&[u8]> = repository.vault_slots().collect();
    let locators: Vec<Locator> =
        slots.iter().filter_map(|bytes| Locator::decode(bytes).ok()).collect();
    let Some(locator) = locators.first() else {
        return Err(Failure::new(
            Code::WrongSecret,
            "this repository has no password, only its 64-digit key",
        )
        .hint("give --key-file F, or type the key"));
    };
    let pin = trust(global, locator)?;
    let unlocked = client().unlock(locator, &repository.repo, &password, pin)?;
    let key = unlocked
        .keys
        .into_iter()
        .find_map(|(_, key)| repository.unlock(&key).map(|opened| (key, opened)));
    let Some((key, (_, _, sealed))) = key else {
        return Err(Failure::new(
            Code::NotAllHere,
            "the vault's key does not open this folder: the folder is behind, or its header is \
             damaged",
        ));
    };
    let encoded = locator.encode();
    if !sealed.iter().any(|slot| slot.bytes == encoded) {
        return Err(Failure::new(
            Code::NotThePinnedVault,
            "the folder's vault entry is not the one that was sealed with the key: somebody \
             changed it",
        ));
    }
    remember(pin.fingerprint, unlocked.epoch)?;
    Ok(key)
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
    repo: &RepoId,
    key: &Secret,
    password: &Password,
) -> Result<Locator> {
    let epoch = known(address.fingerprint()).epoch;
    let keys = [(key_check(key, repo), key)];
    let record = NewRecord { address, epoch, repo, keys: &keys, password, argon: cost(global)? };
    let registration = client().register(&record)?;
    if registration.manifest.protection == Protection::File && !global.quiet {
        eprintln!(
            "This vault keeps its keys in a file: whoever takes its disk can guess passwords \
             without limit. Choose a long one."
        );
    }
    remember(address.fingerprint(), registration.manifest.epoch)?;
    Ok(registration.locator)
}

/// The vault that `init` and `vault add` register at.
pub fn address(global: &Global) -> Result<Option<Address>> {
    typed_address(global)
}

struct Unlocked {
    fs: Fs,
    key: Secret,
    repo: RepoId,
    slots: Vec<Vec<u8>>,
    path: PathBuf,
    _state: LocalState,
}

fn open(global: &Global, args: &RepoArgs) -> Result<Unlocked> {
    let (path, repository) = find(&args.repo)?;
    let key = secrets::obtain(global, &path, &repository)?;
    let (keyring, register, slots) = open_keyring(&repository, &key)?;
    let slots = slots
        .into_iter()
        .filter(|slot| slot.kind == crate::format::register::SLOT_VAULT)
        .map(|slot| slot.bytes)
        .collect();
    let state = LocalState::lock(place::state_folder(global, &path, &repository)?, &path)?;
    let options = OpenOptions {
        device_name: machine_name(),
        place: place::place_of(&path),
        ..OpenOptions::default()
    };
    let volume = open_volume(&path, &repository, keyring, register, Some(&state), &options)?;
    let (fs, _) = place::file_system(volume, true, (None, None))?;
    Ok(Unlocked { fs, key, repo: repository.repo, slots, path, _state: state })
}

impl Unlocked {
    fn publish(&self, slots: Vec<Vec<u8>>) -> Result<()> {
        self.fs.volume().set_vault_slots(&self.key, slots)?;
        Ok(self.fs.publish_register()?)
    }

    /// Ends the registrations in `slots`; those that cannot be reached are
    /// named and stay.
    fn retire(&self, slots: &[Vec<u8>], reason: Retirement) -> Vec<String> {
        let mut failed = Vec::new();
        for locator in slots.iter().filter_map(|bytes| Locator::decode(bytes).ok()) {
            // Sealed with K: these addresses are the owner's own.
            let pin = known(locator.address.fingerprint());
            if let Err(error) = client().retire(&locator, &self.repo, &self.key, pin, reason) {
                failed.push(format!("{}: {error}", locator.address));
            }
        }
        failed
    }
}

/// `passwd`: a new registration, and the end of the old one.
pub fn passwd(global: &Global, args: &RepoArgs) -> Result<u8> {
    let unlocked = open(global, args)?;
    let typed = typed_address(global)?;
    let sealed = unlocked.slots.iter().find_map(|bytes| Locator::decode(bytes).ok());
    let address = typed.or(sealed.map(|locator| locator.address)).ok_or_else(|| {
        Failure::new(Code::Usage, "this repository has no vault yet")
            .hint("amberfs vault add REPO --vault ADDRESS")
    })?;
    let password = new_password(args.new_password_file.as_deref(), &unlocked.path)?;
    replace(global, &unlocked, &address, &password)?;
    if !global.quiet {
        eprintln!("The new password opens this repository; it was tried once.");
    }
    Ok(0)
}

/// Registers, publishes the locator, and only then ends the old records: at no
/// time does a folder name a record that is gone.
fn replace(
    global: &Global,
    unlocked: &Unlocked,
    address: &Address,
    password: &Password,
) -> Result<()> {
    let locator = register(global, address, &unlocked.repo, &unlocked.key, password)?;
    unlocked.publish(vec![locator.encode()])?;
    for failed in unlocked.retire(&unlocked.slots, Retirement::Superseded) {
        eprintln!("amberfs: the old record could not be ended, its password still works: {failed}");
    }
    Ok(())
}

/// `vault add`.
pub fn add(global: &Global, args: &RepoArgs) -> Result<u8> {
    let address = typed_address(global)?
        .ok_or_else(|| Failure::new(Code::Usage, "give the vault: --vault ADDRESS"))?;
    let unlocked = open(global, args)?;
    let password = new_password(args.new_password_file.as_deref(), &unlocked.path)?;
    replace(global, &unlocked, &address, &password)?;
    if !global.quiet {
        eprintln!("The password opens this repository; it was tried once.");
    }
    Ok(0)
}

/// `vault remove`.
pub fn remove(global: &Global, args: &RepoArgs) -> Result<u8> {
    if global.key_file.is_none() && global.key_command.is_none() {
        return Err(Failure::new(Code::Usage, "vault remove takes the 64-digit key")
            .hint("it will be the only way in: show that you have it with --key-file F")
            .hint("amberfs key show REPO prints it"));
    }
    let unlocked = open(global, args)?;
    if unlocked.slots.is_empty() {
        return Err(Failure::new(Code::Other, "this repository has no vault"));
    }
    let failed = unlocked.retire(&unlocked.slots, Retirement::Deleted);
    if let Some(first) = failed.first() {
        return Err(Failure::new(
            Code::VaultUnreachable,
            format!("the record could not be deleted: {first}"),
        )
        .hint("nothing was changed; try again when the vault can be reached"));
    }
    unlocked.publish(Vec::new())?;
    if !global.quiet {
        eprintln!(
            "The vault's record is deleted. Only the 64-digit key opens this repository now."
        );
    }
    Ok(0)
}

/// `vault show`: spends no try.
pub fn show(global: &Global, args: &RepoArgs) -> Result<u8> {
    let (_, repository) = find(&args.repo)?;
    let mut seen = Vec::new();
    for bytes in repository.vault_slots() {
        let Ok(locator) = Locator::decode(bytes) else { continue };
        if seen.contains(&locator.ticket) {
            continue;
        }
        seen.push(locator.ticket);
        let status = client().status(&locator, trust(global, &locator)?)?;
        println!("{}", locator.address);
        println!("  {:?}", status.standing);
        println!("  keys in {:?}, epoch {}", status.manifest.protection, status.manifest.epoch);
        // Older registers only name what this one replaced.
        break;
    }
    if seen.is_empty() {
        println!("no vault: only the 64-digit key opens this repository");
    }
    Ok(0)
}
