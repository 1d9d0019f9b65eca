//! `key show`, `key sheet` and `key verify`.

use zeroize::Zeroizing;

use super::args::{Global, RepoArgs};
use super::opening::{FoundRepository, changed_entry, find, open_keyring};
use super::{Exit, Failure, Result, confirm, secrets};
use crate::crypto::{SHEET_KEY, SHEET_TITLE, Secret, format_key, hex};
use crate::format::register::Slot;
use crate::io::output;
use crate::vault::protocol::Locator;
use crate::volume::repository::{Repository, vault_slots};

fn opened(global: &Global, args: &RepoArgs) -> Result<(Repository, Secret, Vec<Slot>)> {
    let found = find(&args.repo)?;
    let key = secrets::obtain(global, &found.path, &found.early)?;
    let slots = sealed_slots(&found.early, &key)?;
    Ok((found.early, key, slots))
}

/// The unlock slots that were sealed with the key; tells if the folder shows others.
fn sealed_slots(repository: &Repository, key: &Secret) -> Result<Vec<Slot>> {
    let (_, _, slots) = open_keyring(repository, key)?;
    if let Some(notice) = changed_entry(repository, &slots) {
        note!("amberfs: {notice}");
    }
    Ok(slots)
}

/// Runs `amberfs key show`: prints the 64-digit key.
pub fn show(global: &Global, args: &RepoArgs) -> Result<Exit> {
    let (_, key, _) = opened(global, args)?;
    if global.json {
        // Written by hand: the key is in no copy that is not wiped.
        let mut object = Zeroizing::new(String::with_capacity(128));
        object.push_str(r#"{"message_type":"key","key":""#);
        let text = format_key(&key);
        text.split('\n').for_each(|line| object.extend([line, " "]));
        let end = object.trim_end().len();
        object.truncate(end);
        object.push_str(r#""}"#);
        output::secret(&object)?;
        return Ok(Exit::Done);
    }
    output::secret(&format_key(&key))?;
    Ok(Exit::Done)
}

/// `key verify`: whether the key given opens the repository.
pub fn verify(global: &Global, args: &RepoArgs) -> Result<Exit> {
    if global.password_file.is_some() || global.password_command.is_some() {
        return Err(Failure::new(Exit::Usage, "key verify takes the key, not the password"));
    }
    let FoundRepository { path, early: repository } = find(&args.repo)?;
    let key = secrets::obtain_by_key(global, &path, &repository)?;
    sealed_slots(&repository, &key)?;
    if global.json {
        output::object(&serde_json::json!({
            "message_type": "verified",
            "repository": hex(&repository.repo),
        }))?;
    } else if !global.quiet {
        note!("this key opens the repository");
    }
    Ok(Exit::Done)
}

/// `key sheet`: what to print and put away.
pub fn sheet(global: &Global, args: &RepoArgs) -> Result<Exit> {
    let (repository, key, slots) = opened(global, args)?;
    say!("{SHEET_TITLE}")?;
    say!("")?;
    say!("repository  {}", hex(&repository.repo))?;
    for line in ["", SHEET_KEY, ""] {
        say!("{line}")?;
    }
    for line in format_key(&key).lines() {
        output::bytes(b"    ")?;
        output::secret(line)?;
    }
    // The sealed ones: a page that names a vault is believed later.
    let vaults: Vec<Locator> =
        vault_slots(&slots).filter_map(|bytes| Locator::decode(bytes).ok()).collect();
    for locator in &vaults {
        say!("")?;
        say!("vault       {}", locator.address)?;
        let groups = confirm::groups(locator.address.fingerprint());
        say!("groups 1-8  {}", groups[..8].join(" "))?;
        say!("groups 9-16 {}", groups[8..].join(" "))?;
    }
    let (without, or) = if vaults.is_empty() {
        ("Without it", "")
    } else {
        ("Without it, and without the password,", " (or the password)")
    };
    say!("")?;
    say!("Whoever has this page can read the backup. {without}")?;
    say!("nobody can, and nobody can make a new one.")?;
    say!("")?;
    say!("To open the backup on another machine:")?;
    say!("1. Install amberfs and let your cloud client bring the folder.")?;
    say!("2. amberfs mount FOLDER MOUNTPOINT")?;
    say!("3. Type the key above{or} when asked.")?;
    Ok(Exit::Done)
}
