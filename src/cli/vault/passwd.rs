//! `passwd` and `vault add`: a new password, and the end of those before.

use std::path::Path;

use super::super::args::{Global, RepoArgs};
use super::super::opening::find;
use super::super::trust::{keep_entry, moved, typed_address};
use super::super::{Exit, Failure, Result};
use super::opened::{OpenForVault, open, open_by};
use super::register::{first_claim, new_password, register, warn_before_the_choice};
use crate::crypto::{RepoId, Secret, hex};
use crate::io::output;
use crate::vault::client::Claim;
use crate::vault::protocol::{Address, Locator, Password};

/// `passwd`: a new registration, and the end of the old one.
pub fn passwd(global: &Global, args: &RepoArgs) -> Result<Exit> {
    let opened = open(global, &args.repo)?;
    let sealed = opened.slots.iter().find_map(|bytes| Locator::decode(bytes).ok());
    let address = match (typed_address(global)?, sealed) {
        (Some(typed), _) => typed,
        (None, Some(Locator { address, .. })) => {
            moved(global, address.fingerprint())?.unwrap_or(address)
        }
        (None, None) => {
            return Err(Failure::new(Exit::Usage, "this repository has no vault yet")
                .hint("amberfs vault add REPO --vault ADDRESS"));
        }
    };
    warn_before_the_choice(global, &address, &opened.path)?;
    let password = new_password(args.new_password_file.as_deref(), &opened.path)?;
    let left = replace(global, &opened, &address, &password)?;
    print_registered(global, &opened.repo, &address, left, "The new password")
}

/// Registers, publishes the locator, and only then ends the old records: at no
/// time does a folder name a record that is gone. What a crash in between
/// leaves is ended by the next command that comes here.
///
/// Returns how many old records could not be ended.
fn replace(
    global: &Global,
    opened: &OpenForVault,
    address: &Address,
    password: &Password,
) -> Result<usize> {
    let before = opened.slots.iter().filter_map(|slot| Locator::decode(slot).ok());
    let before = before.into_iter().find(|old| old.address.fingerprint() == address.fingerprint());
    let claim = match (&before, first_claim(global, &opened.path)?) {
        (Some(locator), Claim::Open) => Claim::After { locator, key: &opened.key },
        (_, claim) => claim,
    };
    let place = (&*opened.path, &opened.repo);
    let locator = register(global, address, place, &opened.key, password, claim)?;
    opened.publish(vec![locator.encode()])?;
    keep_entry(global, &opened.repo, &locator);
    let replaced = [opened.slots.as_slice(), &opened.replaced].concat();
    opened.retire_replaced(global, &replaced)
}

/// Registers the same password anew, because its record was made under keys that the
/// vault would retire.
pub fn renew(global: &Global, repo: &Path, key: Secret, password: &Password) -> Result<()> {
    let opened = open_by(global, find(repo)?.with_key(key.into()))?;
    let sealed = opened.slots.iter().find_map(|bytes| Locator::decode(bytes).ok());
    let Some(Locator { address, .. }) = sealed else { return Ok(()) };
    let address = moved(global, address.fingerprint())?.unwrap_or(address);
    replace(global, &opened, &address, password).map(drop)
}

/// Runs `amberfs vault add`: registers a password at a vault.
pub fn add(global: &Global, args: &RepoArgs) -> Result<Exit> {
    let address = typed_address(global)?
        .ok_or_else(|| Failure::new(Exit::Usage, "give the vault: --vault ADDRESS"))?;
    let opened = open(global, &args.repo)?;
    warn_before_the_choice(global, &address, &opened.path)?;
    let password = new_password(args.new_password_file.as_deref(), &opened.path)?;
    let left = replace(global, &opened, &address, &password)?;
    print_registered(global, &opened.repo, &address, left, "The password")
}

/// Reports that a password is registered, as JSON if that was asked for.
fn print_registered(
    global: &Global,
    repo: &RepoId,
    address: &Address,
    left: usize,
    what: &str,
) -> Result<Exit> {
    if global.json {
        output::object(&serde_json::json!({
            "message_type": "registered",
            "repository": hex(repo),
            "vault": address.to_string(),
            "older_records_left": left,
        }))?;
    } else if !global.quiet {
        note!("{what} opens this repository; it was tried once.");
    }
    Ok(Exit::Done)
}
