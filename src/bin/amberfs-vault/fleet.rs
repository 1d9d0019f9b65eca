//! Several sites, and the ledger they share.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use amberfs::crypto::{Secret, hex, unhex};
use amberfs::io::{DirFolder, PrivateFolder, SecretFrom, SystemClock, SystemRandom, open_secret};
#[cfg(feature = "pkcs11")]
use amberfs::vault::protocol::Protection;
use amberfs::vault::protocol::{ManifestError, sign_more, signatures_of};
use amberfs::vault::server::{
    AdminCommand, Change, Made, NEXT, Site, accept, add_generation, change_manifest, change_roots,
    copy_generations, drop_generation, install_manifest, join_site, open_rolled_back, open_site,
    view_site,
};
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::staff::execute;
use super::{Exit, Failure, check_private, lock, make_folder, say};

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

/// Keys of the fleet's root: those in `files`, or the one in the folder, if any.
pub fn root_keys(dir: &Path, files: &[PathBuf]) -> Result<Vec<Secret>, Failure> {
    let own = dir.join("root.key");
    if files.is_empty() && own.exists() {
        return Ok(vec![root_key(&own)?]);
    }
    files.iter().map(|file| root_key(file)).collect()
}

/// What became of a manifest.
pub fn say_made(dir: &Path, made: Made) -> Result<(), Failure> {
    match made {
        Made::Installed(epoch) => {
            let manifest = dir.join("manifest");
            log::info!(
                "the manifest has changed: give {} to every other site (amberfs-vault \
                 install-manifest)",
                manifest.display()
            );
            say(&format!("manifest epoch: {epoch}"))
        }
        Made::Waits { have, need } => {
            let next = dir.join(NEXT);
            log::info!(
                "{} waits for signatures: amberfs-vault root sign, then install-manifest at every \
                 site",
                next.display()
            );
            say(&format!("signatures: {have} of {need}"))
        }
    }
}

fn root_key(path: &Path) -> Result<Secret, Failure> {
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

pub fn join(dir: &Path, from: &Path, name: &str, roots: &[PathBuf]) -> Result<(), Failure> {
    check_private(from)?;
    let roots = root_keys(from, roots)?;
    make_folder(dir)?;
    let folders = (DirFolder::new(from), DirFolder::new(dir));
    let made = join_site(&folders.0, &folders.1, &SystemRandom, &roots, name)
        .map_err(|error| Failure::folder(dir, &error))?;
    log::info!("every site needs a [ledger] in vault.toml");
    say_made(from, made)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let named = |error: std::io::Error| Failure::other(format!("{}: {error}", file.display()));
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(named)?;
    opened.take(MANIFEST_FILE_LIMIT).read_to_end(&mut bytes).map_err(named)?;
    Ok(bytes)
}

pub fn install(dir: &Path, file: &Path, new_roots: bool) -> Result<(), Failure> {
    check_private(dir)?;
    let folder = DirFolder::new(dir);
    let bytes = read(file)?;
    if new_roots && !is_unused(dir)? {
        return Err(Failure::other(
            "this vault has records: their owners pinned its roots, and would be locked out",
        ));
    }
    let epoch = install_manifest(&folder, &bytes, new_roots)
        .map_err(|error| Failure::folder(dir, &error))?;
    say(&format!("manifest epoch: {epoch}"))?;
    log::info!("a site that is being served shows it after the next start");
    Ok(())
}

/// Whether the ledger has no name.
fn is_unused(dir: &Path) -> Result<bool, Failure> {
    let opened = view_site(&DirFolder::new(dir)).map_err(|error| Failure::folder(dir, &error))?;
    Ok(opened.ledger.list(None, 1).map_err(Failure::other)?.is_empty())
}

#[derive(clap::Subcommand)]
pub enum RootCommand {
    /// Make a key for the root of a fleet in FILE, and print its public half
    New {
        /// New file; keep it on a medium of its own, away from every site
        file: PathBuf,
    },
    /// Give a new fleet other roots, before anybody uses it: N of the KEYs sign from
    /// then on
    Replace {
        /// The vault's folder
        dir: PathBuf,
        /// What `root new` printed, for each
        #[arg(long = "root", value_name = "KEY", required = true)]
        roots: Vec<String>,
        /// Signatures needed
        #[arg(long, value_name = "N")]
        threshold: u8,
        /// Those of the keys that are here
        #[arg(long, value_name = "FILE")]
        root_key: Vec<PathBuf>,
    },
    /// Print what a manifest says, and what is other than in an older one
    Show {
        /// The manifest
        file: PathBuf,
        /// The older one
        #[arg(long, value_name = "FILE")]
        since: Option<PathBuf>,
    },
    /// Sign a manifest with one more root key; look at it first (`root show`)
    Sign {
        /// The manifest; the signature goes into it
        file: PathBuf,
        /// The key
        #[arg(long, value_name = "FILE")]
        root_key: PathBuf,
    },
    /// Make the manifest anew with a later end: two years from now
    Renew {
        /// The vault's folder
        dir: PathBuf,
        /// Keys of the fleet's root that are here, if they are not in DIR
        #[arg(long, value_name = "FILE")]
        root_key: Vec<PathBuf>,
    },
    /// Say in the manifest where the vault is reached
    Places {
        /// The vault's folder
        dir: PathBuf,
        /// HOST:PORT of a site or relay+HOST:PORT, as in an address, at most 5
        places: Vec<String>,
        /// Keys of the fleet's root that are here, if they are not in DIR
        #[arg(long, value_name = "FILE")]
        root_key: Vec<PathBuf>,
    },
    /// Take a site out of the manifest
    RemoveSite {
        /// The vault's folder
        dir: PathBuf,
        /// The site's name
        name: String,
        /// Keys of the fleet's root that are here, if they are not in DIR
        #[arg(long, value_name = "FILE")]
        root_key: Vec<PathBuf>,
    },
}

#[derive(clap::Subcommand)]
pub enum GenerationCommand {
    /// Make software keys of one more generation, and a manifest by which new records
    /// are made under it
    Add {
        /// The vault's folder
        dir: PathBuf,
        /// Keys of the fleet's root that are here, if they are not in DIR
        #[arg(long, value_name = "FILE")]
        root_key: Vec<PathBuf>,
    },
    /// Give a site the generations that another has; before its new manifest
    Copy {
        /// The folder of the site that gets them
        dir: PathBuf,
        /// The folder of the site that has them
        from: PathBuf,
    },
    /// Seal all records under the newest keys, and count what still needs older ones
    Reseal {
        /// The vault's folder
        dir: PathBuf,
    },
    /// Forget a generation that nothing needs any more
    Drop {
        /// The vault's folder; it must not be served
        dir: PathBuf,
        /// Its number
        number: u32,
        /// Keys of the fleet's root that are here, if they are not in DIR
        #[arg(long, value_name = "FILE")]
        root_key: Vec<PathBuf>,
    },
}

pub fn generation(command: &GenerationCommand) -> Result<(), Failure> {
    match command {
        GenerationCommand::Add { dir, root_key } => {
            check_private(dir)?;
            let roots = root_keys(dir, root_key)?;
            let (generation, made) = add_generation(&DirFolder::new(dir), &SystemRandom, &roots)
                .map_err(|error| Failure::folder(dir, &error))?;
            say(&format!("generation: {generation}"))?;
            log::info!("give every other site the keys (generation copy) before the manifest");
            say_made(dir, made)
        }
        GenerationCommand::Copy { dir, from } => {
            check_private(dir)?;
            check_private(from)?;
            let count = copy_generations(&DirFolder::new(from), &DirFolder::new(dir))
                .map_err(|error| Failure::folder(dir, &error))?;
            say(&format!("generations: {count}"))
        }
        GenerationCommand::Reseal { dir } => execute(dir, &AdminCommand::Reseal),
        GenerationCommand::Drop { dir, number, root_key } => {
            let _locked = lock(dir)?;
            check_private(dir)?;
            let roots = root_keys(dir, root_key)?;
            let folder = DirFolder::new(dir);
            let opened = open_site(&folder).map_err(|error| Failure::folder(dir, &error))?;
            let (random, clock) = (Arc::new(SystemRandom), Arc::new(SystemClock));
            let keys = Arc::clone(&opened.keys);
            let current = keys.generation();
            #[cfg(feature = "pkcs11")]
            let is_token = keys.protection() == Protection::Hsm;
            let site = Site::new(opened.keys, opened.ledger, random, clock, opened.signed, true);
            let census = site.census().map_err(Failure::other)?;
            if *number != current && (census.outdated > 0 || census.unreadable > 0) {
                return Err(Failure::other(format!(
                    "{} records still need older keys: reseal first; owners open with their \
                     password once, or their records end",
                    census.outdated + census.unreadable
                )));
            }
            let made = drop_generation(&folder, &*keys, *number, &roots)
                .map_err(|error| Failure::folder(dir, &error))?;
            #[cfg(feature = "pkcs11")]
            if matches!(made, Made::Installed(_)) && is_token {
                super::ceremony::forget(dir, *number)?;
            }
            say_made(dir, made)
        }
    }
}

fn replace_file(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Failure::other(format!("{}: no file", file.display())))?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    DirFolder::new(folder.unwrap_or(Path::new(".")))
        .replace(name, bytes)
        .map_err(|error| Failure::other(format!("{}: {error}", file.display())))
}

pub fn root(command: &RootCommand) -> Result<(), Failure> {
    match command {
        RootCommand::New { file } => {
            if file.exists() {
                return Err(Failure::other(format!("{} is there already", file.display())));
            }
            let seed = Secret::random(&SystemRandom);
            replace_file(file, seed.expose())?;
            let public = SigningKey::from_bytes(seed.expose()).verifying_key();
            say(&format!("root: {}", hex(&public.to_bytes()))).inspect_err(|_| {
                // Nothing else prints the public half: a key without it is of no use.
                let _ = std::fs::remove_file(file);
            })
        }
        RootCommand::Replace { dir, roots, threshold, root_key } => {
            check_private(dir)?;
            let _locked = lock(dir)?;
            let bad =
                || Failure { code: Exit::Usage, text: "a root is 64 hexadecimal digits".into() };
            let keys = roots.iter().map(|text| unhex(text).ok_or_else(bad));
            let keys = keys.collect::<Result<Vec<[u8; 32]>, _>>()?;
            if !is_unused(dir)? {
                return Err(Failure::other(
                    "this vault has records: their owners pinned its roots, and would be locked \
                     out",
                ));
            }
            let here: Vec<Secret> =
                root_key.iter().map(|file| self::root_key(file)).collect::<Result<_, _>>()?;
            let (roots, made) = change_roots(&DirFolder::new(dir), keys, *threshold, &here)
                .map_err(|error| Failure::folder(dir, &error))?;
            say(&format!("vault fingerprint: {}", roots.fingerprint()))?;
            log::info!("{} counts no more: erase it", dir.join("root.key").display());
            say_made(dir, made)
        }
        RootCommand::Show { file, since } => {
            let named = |file: &Path, error: ManifestError| {
                Failure::other(format!("{}: {error}", file.display()))
            };
            let open =
                |file: &Path| signatures_of(&read(file)?).map_err(|error| named(file, error));
            let (manifest, have) = open(file)?;
            manifest.describe().iter().try_for_each(|line| say(line))?;
            say(&format!("signatures: {have} of {}", manifest.roots.threshold))?;
            let Some(since) = since else { return Ok(()) };
            let (before, _) = open(since)?;
            let changes = manifest.changes_since(&before);
            say(&format!("since epoch {}: {} changes", before.epoch, changes.len()))?;
            changes.iter().try_for_each(|line| say(line))
        }
        RootCommand::Sign { file, root_key } => {
            let key = SigningKey::from_bytes(self::root_key(root_key)?.expose());
            let named = |error| Failure::other(format!("{}: {error}", file.display()));
            let bytes = sign_more(&read(file)?, &key).map_err(named)?;
            replace_file(file, &bytes)?;
            let (manifest, have) = signatures_of(&bytes).map_err(named)?;
            say(&format!("signatures: {have} of {}", manifest.roots.threshold))
        }
        RootCommand::Renew { dir, root_key } => change(dir, Change::Renew, root_key),
        RootCommand::Places { dir, places, root_key } => {
            change(dir, Change::Endpoints(places.clone()), root_key)
        }
        RootCommand::RemoveSite { dir, name, root_key } => {
            change(dir, Change::Remove(name.clone()), root_key)
        }
    }
}

fn change(dir: &Path, change: Change, root_key: &[PathBuf]) -> Result<(), Failure> {
    check_private(dir)?;
    let roots = root_keys(dir, root_key)?;
    let made = change_manifest(&DirFolder::new(dir), change, &roots)
        .map_err(|error| Failure::folder(dir, &error))?;
    say_made(dir, made)
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
