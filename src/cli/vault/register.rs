//! New passwords, and their registration.

use std::path::Path;

use super::super::args::{Global, YesNo};
use super::super::trust::{known, remember_or_warn};
use super::super::{Exit, Failure, Result, secrets};
use super::client;
use crate::crypto::{RepoId, Secret, key_check, resembles_key, unhex};
use crate::io::{Terminal, can_ask};
use crate::vault::client::{Claim, NewRecord, VaultError};
use crate::vault::line::Timeouts;
use crate::vault::protocol::{
    Address, Argon2Choice, Argon2Cost, Bind, Locator, Password, Protection,
};

/// How an invite begins, as the operator gives it.
const INVITE: &str = "amber-invite-";

fn cost(global: &Global) -> Result<Argon2Choice> {
    let Some(text) = &global.argon2_cost else { return Ok(Argon2Choice::Calibrated) };
    let parsed = text.split_once(',').and_then(|(memory, passes)| {
        Some(Argon2Cost { memory: memory.parse().ok()?, passes: passes.parse().ok()?, lanes: 1 })
    });
    parsed
        .map(Argon2Choice::Exactly)
        .ok_or_else(|| Failure::new(Exit::Usage, "--argon2-cost takes MEMORY_KIB,PASSES"))
}

/// A new password: from a file, or asked for twice.
pub(super) fn new_password(file: Option<&Path>, repo: &Path) -> Result<Password> {
    if let Some(path) = file {
        return fit(&secrets::read_file(path, repo)?);
    }
    if !can_ask() {
        return Err(Failure::new(Exit::Usage, "no new password was given")
            .hint("give it in a file, or run this on a terminal"));
    }
    let terminal = Terminal::open()?;
    let first = terminal.ask_secret("New password: ")?;
    // One that is refused need not be typed twice.
    let password = fit(&first)?;
    if *first != *terminal.ask_secret("Again: ")? {
        return Err(Failure::new(Exit::Usage, "the two passwords differ"));
    }
    Ok(password)
}

/// A password that may be registered.
fn fit(text: &str) -> Result<Password> {
    if resembles_key(text) {
        return Err(Failure::new(Exit::Usage, "a password must not look like a 64-digit key")
            .hint("typed with a mistake it would be taken for one"));
    }
    let password =
        Password::new(text.as_bytes()).map_err(|error| Failure::new(Exit::Usage, error))?;
    password.check_new().map_err(|error| Failure::new(Exit::Usage, error))?;
    Ok(password)
}

/// Says what the owner should know of the vault before choosing a password for it.
pub(super) fn warn_before_the_choice(
    global: &Global,
    address: &Address,
    path: &Path,
) -> Result<()> {
    let pin = known(global, address.fingerprint())?;
    let client = client(global, path, Timeouts::default(), address.endpoints())?;
    let manifest = client.manifest(address, pin)?;
    if manifest.protection == Protection::File && !global.quiet {
        note!(
            "This vault keeps its keys in a file: whoever takes its disk can guess passwords \
             without limit. Choose a long one."
        );
    }
    Ok(())
}

/// The first registration of a repository: asks for the password, and registers.
pub fn register_first(
    global: &Global,
    address: &Address,
    (path, repo): (&Path, &RepoId),
    key: &Secret,
) -> Result<Locator> {
    let claim = first_claim(global, path)?;
    warn_before_the_choice(global, address, path)?;
    let password = new_password(global.password_file.as_deref(), path)?;
    register(global, address, (path, repo), key, &password, claim)
}

/// Ends the registration of a repository that did not come to pass.
pub fn withdraw(
    global: &Global,
    (path, repo): (&Path, &RepoId),
    key: &Secret,
    locator: &Locator,
) -> Result<()> {
    let pin = known(global, locator.address.fingerprint())?;
    let client = client(global, path, Timeouts::default(), locator.address.endpoints())?;
    Ok(client.delete(locator, repo, key, pin)?)
}

/// Registers K under a password; the registration has been tried once when
/// this returns.
pub(super) fn register(
    global: &Global,
    address: &Address,
    (path, repo): (&Path, &RepoId),
    key: &Secret,
    password: &Password,
    claim: Claim<'_>,
) -> Result<Locator> {
    let epoch = known(global, address.fingerprint())?.epoch;
    let keys = [(key_check(key, repo), key)];
    let argon = cost(global)?;
    let bind = match global.bind_account {
        None => Bind::Usual,
        Some(YesNo::Yes) => Bind::Account,
        Some(YesNo::No) => Bind::Nobody,
    };
    let record = NewRecord { address, epoch, repo, keys: &keys, password, argon, claim, bind };
    let client = client(global, path, Timeouts::default(), address.endpoints())?;
    let registration = match client.register(&record) {
        Err(VaultError::RegistrationClosed) if matches!(claim, Claim::Open) && can_ask() => {
            let invite = Terminal::open()?
                .ask_secret("The vault takes no one without an invite. Invite: ")?;
            client.register(&NewRecord { claim: invited(&invite)?, ..record })?
        }
        outcome => outcome?,
    };
    remember_or_warn(
        global,
        address.fingerprint(),
        &registration.manifest,
        registration.locator.address.endpoints(),
    );
    if !global.quiet {
        warn_of_binding(global, registration.bound);
    }
    Ok(registration.locator)
}

/// Warns the user if the new record is bound to the account whose token was given, or if it
/// could be and is not.
fn warn_of_binding(global: &Global, bound: bool) {
    if bound {
        note!(
            "The password opens this repository only together with the account that it was \
             registered from: a new machine needs that account's token too."
        );
    } else if global.vault_token.is_some() && global.bind_account.is_none() {
        note!(
            "The password is not bound to your account: whoever has the folder may use up its \
             tries. --bind-account yes binds it."
        );
    }
}

/// The claim by which the vault admits the first registration of a repository.
pub(super) fn first_claim(global: &Global, repo: &Path) -> Result<Claim<'static>> {
    match secrets::text(global.invite_file.as_ref(), None, &secrets::INVITE, repo)? {
        Some((text, _)) => invited(&text),
        None => Ok(Claim::Open),
    }
}

fn invited(text: &str) -> Result<Claim<'static>> {
    let digits = text.trim();
    let digits = digits.strip_prefix(INVITE).unwrap_or(digits);
    unhex(digits).map(Claim::Invite).ok_or_else(|| {
        Failure::new(Exit::Usage, "an invite is what the vault's operator gave: amber-invite-...")
    })
}
