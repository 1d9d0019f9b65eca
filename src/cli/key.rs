//! `key show`, `key sheet` and `key verify`.

use super::args::{Global, RepoArgs};
use super::opening::{changed_entry, find, open_keyring};
use super::{Code, Failure, Result, secrets};
use crate::crypto::{Secret, format_key, hex};
use crate::format::register::Slot;
use crate::vault::protocol::Locator;
use crate::volume::repository::{Repository, vault_slots};

fn opened(global: &Global, args: &RepoArgs) -> Result<(Repository, Secret, Vec<Slot>)> {
    let found = find(&args.repo)?;
    let key = secrets::obtain(global, &found.path, &found.early)?;
    let repository = found.early;
    let (_, _, slots) = open_keyring(&repository, &key)?;
    if let Some(notice) = changed_entry(&repository, &slots) {
        eprintln!("amberfs: {notice}");
    }
    Ok((repository, key, slots))
}

/// `key show`.
pub fn show(global: &Global, args: &RepoArgs) -> Result<u8> {
    let (_, key, _) = opened(global, args)?;
    println!("{}", *format_key(&key));
    Ok(0)
}

/// `key verify`: whether the key given opens the repository.
pub fn verify(global: &Global, args: &RepoArgs) -> Result<u8> {
    if global.password_file.is_some() || global.password_command.is_some() {
        return Err(Failure::new(Code::Usage, "key verify takes the key, not the password"));
    }
    opened(global, args)?;
    if !global.quiet {
        eprintln!("this key opens the repository");
    }
    Ok(0)
}

/// `key sheet`: what to print and put away.
pub fn sheet(global: &Global, args: &RepoArgs) -> Result<u8> {
    let (repository, key, slots) = opened(global, args)?;
    println!("amberfs: the key of a backup\n");
    println!("repository  {}", hex(&repository.repo));
    println!("\nkey\n");
    for line in format_key(&key).lines() {
        println!("    {line}");
    }
    // The sealed ones: a page that names a vault is believed later.
    for locator in vault_slots(&slots).filter_map(|bytes| Locator::decode(bytes).ok()) {
        println!("\nvault       {}", locator.address);
    }
    println!(
        "\nWhoever has this page can read the backup. Without it, and without the password,\n\
         nobody can, and nobody can make a new one.\n\n\
         To open the backup on another machine:\n\
         1. Install amberfs and let your cloud client bring the folder.\n\
         2. amberfs mount FOLDER MOUNTPOINT\n\
         3. Type the key above (or the password) when asked."
    );
    Ok(0)
}
