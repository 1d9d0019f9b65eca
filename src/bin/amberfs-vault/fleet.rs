//! Several sites, and the ledger they share.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use amberfs::crypto::Secret;
use amberfs::io::{DirFolder, SecretFrom, SystemClock, SystemRandom, open_secret};
use amberfs::vault::server::{Site, accept, install_manifest, join_site, open_rolled_back};
use zeroize::Zeroizing;

use super::{Failure, check_private, lock, make_folder, say};

const MANIFEST_FILE_LIMIT: u64 = 8192;

#[derive(clap::Subcommand)]
pub enum LedgerCommand {
    /// Count on in a ledger that was put back from an older copy, or is another
    /// one, after taking tries from every record
    AcceptRollback {
        /// The vault's folder; it must not be served
        dir: PathBuf,
        #[command(flatten)]
        spend: Spend,
    },
}

/// Tries that may have come back with the copy
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct Spend {
    /// Close every record: its owner registers anew with the 64-digit key
    #[arg(long)]
    spend_all: bool,
    /// Take N tries from every record (0 at the second and later sites)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=10))]
    spend: Option<u8>,
}

/// The fleet root's key.
pub fn root_key(path: &Path) -> Result<Secret, Failure> {
    let refused = |what: &dyn std::fmt::Display| {
        Failure::other(format!("the root key {} {what}", path.display()))
    };
    let mut bytes = Zeroizing::new([0; 32]);
    open_secret(path, SecretFrom::User)
        .map_err(|error| refused(&error))?
        .read_exact(&mut *bytes)
        .map_err(|error| refused(&error))?;
    Ok(Secret::take(&mut bytes))
}

pub fn join(dir: &Path, from: &Path, name: &str, root: Option<&PathBuf>) -> Result<(), Failure> {
    check_private(from)?;
    let root = root_key(root.unwrap_or(&from.join("root.key")))?;
    make_folder(dir)?;
    let folders = (DirFolder::new(from), DirFolder::new(dir));
    join_site(&folders.0, &folders.1, &SystemRandom, &root, name)
        .map_err(|error| Failure::folder(dir, &error))?;
    log::info!(
        "the manifest has changed: give {} to every other site (amberfs-vault install-manifest), \
         and every site a [ledger] in vault.toml",
        from.join("manifest").display()
    );
    Ok(())
}

pub fn install(dir: &Path, file: &Path) -> Result<(), Failure> {
    check_private(dir)?;
    let named = |error: std::io::Error| Failure::other(format!("{}: {error}", file.display()));
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(named)?;
    opened.take(MANIFEST_FILE_LIMIT).read_to_end(&mut bytes).map_err(named)?;
    let epoch = install_manifest(&DirFolder::new(dir), &bytes)
        .map_err(|error| Failure::folder(dir, &error))?;
    say(&format!("manifest epoch: {epoch}"))?;
    log::info!("a site that is being served shows it after the next start");
    Ok(())
}

pub fn run(command: &LedgerCommand) -> Result<(), Failure> {
    let LedgerCommand::AcceptRollback { dir, spend } = command;
    let _locked = lock(dir)?;
    check_private(dir)?;
    let folder = DirFolder::new(dir);
    let opened = open_rolled_back(&folder).map_err(|error| Failure::folder(dir, &error))?;
    let Some(opened) = opened else {
        return Err(Failure::other("the ledger of this site is in its folder: it has no mark"));
    };
    let tries = if spend.spend_all { u8::MAX } else { spend.spend.unwrap_or(u8::MAX) };
    let site = Site::new(
        Arc::clone(&opened.keys),
        Arc::clone(&opened.ledger),
        Arc::new(SystemRandom),
        Arc::new(SystemClock),
        opened.signed.clone(),
        true,
    );
    let spent = site.spend(tries).map_err(|error| {
        Failure::other(format!("{error}; {spent}", spent = "the site still refuses; do it again"))
    })?;
    // Last: a site that was cut off before still refuses.
    accept(&folder, &opened).map_err(|error| Failure::folder(dir, &error))?;
    say(&format!("records with fewer tries: {spent}"))
}
