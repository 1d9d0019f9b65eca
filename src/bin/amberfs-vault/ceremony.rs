//! Keys in a token: made by `init`, copied from token to token by `ceremony`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use amberfs::crypto::unhex;
use amberfs::io::{DirFolder, SystemRandom};
use amberfs::vault::config::Token;
use amberfs::vault::hsm::transfer::{Aloud, TRANSFER_LIMIT};
use amberfs::vault::protocol::{Argon2Cost, Fingerprint};
use amberfs::vault::server::ceremony::{self, CeremonyError, REQUEST};

use super::fleet::{root_keys, say_made};
use super::guard::check_private;
use super::{Done, Exit, Failure, MADE, make_folder, say, say_where_the_root_is};

/// A token and the way into it
#[derive(clap::Args)]
pub struct TokenOptions {
    /// The library of the token's maker; with it keys are in a token
    #[arg(long, value_name = "FILE", requires = "token_label")]
    pkcs11_module: Option<PathBuf>,
    /// The token's label
    #[arg(long, value_name = "LABEL", requires = "pkcs11_module")]
    token_label: Option<String>,
    /// File with the PIN of the token's user, mode 600 (without it: systemd's
    /// credential amberfs-vault.pin)
    #[arg(long, value_name = "FILE", requires = "pkcs11_module")]
    pin_file: Option<PathBuf>,
}

impl TokenOptions {
    fn token(&self) -> Result<Token, Failure> {
        let (Some(module), Some(label)) = (&self.pkcs11_module, &self.token_label) else {
            let text = "--pkcs11-module and --token-label are needed".to_owned();
            return Err(Failure { code: Exit::Usage, text });
        };
        // `serve` may be started elsewhere.
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(Failure::other);
        let pin_file = self.pin_file.as_ref().map(absolute).transpose()?;
        Ok(Token::new(absolute(module)?, label.clone(), pin_file))
    }
}

#[derive(clap::Args)]
pub struct InitToken {
    #[command(flatten)]
    token: TokenOptions,
    /// This site's name, for people
    #[arg(long, value_name = "NAME", default_value = "first site", requires = "pkcs11_module")]
    site_name: String,
    /// Let `ceremony export` copy the keys to other sites' tokens, until
    /// `ceremony seal`
    #[arg(long, requires = "pkcs11_module")]
    for_ceremony: bool,
}

impl InitToken {
    /// Whether keys shall be in a token.
    pub fn is_given(&self) -> bool {
        self.token.pkcs11_module.is_some()
    }
}

#[derive(clap::Subcommand)]
pub enum Ceremony {
    /// At a new site: make its keys in its token, and DIR/request
    Request {
        /// New or empty folder
        dir: PathBuf,
        #[command(flatten)]
        token: TokenOptions,
        /// The first site's manifest
        #[arg(long, value_name = "FILE")]
        manifest: PathBuf,
        /// The vault's fingerprint, read aloud at the first site
        #[arg(long, value_name = "FINGERPRINT")]
        vault: String,
        /// This site's name, for people
        #[arg(long, value_name = "NAME")]
        site_name: String,
    },
    /// At a site that has keys: ask for those of a later generation, in DIR/request
    RequestAgain {
        /// The vault's folder
        dir: PathBuf,
    },
    /// At the first site: make keys of one more generation, and a manifest by which new
    /// records are made under it; then request-again, export and import for every
    /// other site, before it gets that manifest
    AddGeneration {
        /// The vault's folder
        dir: PathBuf,
        /// Other sites get them too: they can leave the token until `seal`
        #[arg(long)]
        for_ceremony: bool,
        /// Keys of the fleet's root that are here, if they are not in DIR
        #[arg(long, value_name = "FILE")]
        root_key: Vec<PathBuf>,
    },
    /// At the first site: wrap the keys for the site that asks, and add it to
    /// the manifest
    Export {
        /// The vault's folder
        dir: PathBuf,
        /// The new site's request
        request: PathBuf,
        /// The request's fingerprint, read aloud at the new site
        #[arg(long, value_name = "FINGERPRINT")]
        fingerprint: Aloud,
        /// Of which generation, if not the newest of the manifest
        #[arg(long, value_name = "N")]
        generation: Option<u32>,
        /// Where the parcel goes; must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Keys of the fleet's root, if they are not in DIR
        #[arg(long, value_name = "FILE")]
        root_key: Vec<PathBuf>,
    },
    /// At the first site, where several people sign: a manifest with the site that
    /// asks, in DIR/manifest.next
    AddSite {
        /// The vault's folder
        dir: PathBuf,
        /// The new site's request
        request: PathBuf,
        /// The request's fingerprint, read aloud at the new site
        #[arg(long, value_name = "FINGERPRINT")]
        fingerprint: Aloud,
        /// Keys of the fleet's root that are here
        #[arg(long, value_name = "FILE")]
        root_key: Vec<PathBuf>,
    },
    /// At the new site: take the keys in
    Import {
        /// The folder that `request` made
        dir: PathBuf,
        /// What the first site exported
        parcel: PathBuf,
        /// The parcel's fingerprint, read aloud at the first site
        #[arg(long, value_name = "FINGERPRINT")]
        fingerprint: Aloud,
    },
    /// At the first site, when all others have the keys: replace its keys by
    /// copies that cannot leave the token
    Seal {
        /// The vault's folder
        dir: PathBuf,
    },
}

fn failure(dir: &Path, error: &CeremonyError) -> Failure {
    match error {
        CeremonyError::Folder(error) => Failure::folder(dir, error),
        _ => Failure::other(format!("{}: {error}", dir.display())),
    }
}

pub fn init(dir: &Path, options: &InitToken) -> Result<(), Failure> {
    let token = options.token.token()?;
    make_folder(dir)?;
    let (folder, name) = (DirFolder::new(dir), options.site_name.as_str());
    let cost = Argon2Cost::FLOOR;
    let (root, keys) = ceremony::create_token_site(
        &folder,
        &SystemRandom,
        cost,
        token,
        name,
        options.for_ceremony,
    )
    .map_err(|error| failure(dir, &error))?;
    say(&format!("vault fingerprint: {root}")).but(MADE)?;
    say(&format!("keys fingerprint: {keys}")).but(MADE)?;
    say_where_the_root_is(dir);
    if options.for_ceremony {
        log::warn!("the keys can leave the token, wrapped, until amberfs-vault ceremony seal");
    }
    Ok(())
}

/// Destroys a generation's keys in the token.
pub fn forget(dir: &Path, generation: u32) -> Result<(), Failure> {
    ceremony::forget_generation(&DirFolder::new(dir), generation)
        .map_err(|error| failure(dir, &error))
}

/// Reads a file that came from elsewhere.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let named = |error: std::io::Error| Failure::other(format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(named)?;
    file.take(TRANSFER_LIMIT as u64 + 1).read_to_end(&mut bytes).map_err(named)?;
    if bytes.len() > TRANSFER_LIMIT {
        return Err(Failure::other(format!("{}: the file is too long", path.display())));
    }
    Ok(bytes)
}

pub fn run(step: &Ceremony) -> Result<(), Failure> {
    match step {
        Ceremony::Request { dir, token, manifest, vault, site_name } => {
            let pinned = unhex(vault).map(Fingerprint).ok_or_else(|| Failure {
                code: Exit::Usage,
                text: "a vault's fingerprint has 64 hexadecimal digits".to_owned(),
            })?;
            let (token, manifest) = (token.token()?, read(manifest)?);
            make_folder(dir)?;
            let request =
                ceremony::request(&DirFolder::new(dir), token, &manifest, pinned, site_name)
                    .map_err(|error| failure(dir, &error))?;
            log::info!("take {} to the first site", dir.join(REQUEST).display());
            say(&format!("request fingerprint: {request}"))
        }
        Ceremony::AddSite { dir, request, fingerprint, root_key } => {
            check_private(dir)?;
            let roots = root_keys(dir, root_key)?;
            let made =
                ceremony::add_site(&DirFolder::new(dir), &roots, &read(request)?, *fingerprint)
                    .map_err(|error| failure(dir, &error))?;
            say_made(dir, made)
        }
        Ceremony::RequestAgain { dir } => {
            check_private(dir)?;
            let request = ceremony::request_again(&DirFolder::new(dir))
                .map_err(|error| failure(dir, &error))?;
            log::info!("take {} to the first site", dir.join(REQUEST).display());
            say(&format!("request fingerprint: {request}"))
        }
        Ceremony::AddGeneration { dir, for_ceremony, root_key } => {
            check_private(dir)?;
            let roots = root_keys(dir, root_key)?;
            let (generation, made) =
                ceremony::add_generation(&DirFolder::new(dir), &roots, *for_ceremony)
                    .map_err(|error| failure(dir, &error))?;
            say(&format!("generation: {generation}"))?;
            say_made(dir, made)
        }
        Ceremony::Export { dir, request, fingerprint, generation, out, root_key } => {
            check_private(dir)?;
            let request = read(request)?;
            let roots = root_keys(dir, root_key)?;
            // Before anything is wrapped.
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(out)
                .map_err(|error| Failure::other(format!("{}: {error}", out.display())))?;
            let exported =
                ceremony::export(&DirFolder::new(dir), &roots, &request, *fingerprint, *generation);
            let exported = exported.map_err(|error| {
                let _ = std::fs::remove_file(out);
                failure(dir, &error)
            })?;
            file.write_all(&exported.parcel).and_then(|()| file.sync_all()).map_err(|error| {
                let _ = std::fs::remove_file(out);
                Failure::other(format!("{}: {error}", out.display()))
            })?;
            log::info!(
                "take {} to the new site; the manifest has changed: give it to all sites",
                out.display()
            );
            say(&format!("parcel fingerprint: {}", Aloud::of(&exported.parcel)))
                .but("the parcel is of no use without it: export once more")?;
            say(&format!("keys fingerprint: {}", exported.keys))
        }
        Ceremony::Import { dir, parcel, fingerprint } => {
            check_private(dir)?;
            let keys = ceremony::import(&DirFolder::new(dir), &read(parcel)?, *fingerprint)
                .map_err(|error| failure(dir, &error))?;
            say(&format!("keys fingerprint: {keys}"))
        }
        Ceremony::Seal { dir } => {
            check_private(dir)?;
            let (replaced, keys) =
                ceremony::seal(&DirFolder::new(dir)).map_err(|error| failure(dir, &error))?;
            log::info!("{replaced} keys were replaced by copies that cannot leave the token");
            say(&format!("keys fingerprint: {keys}"))
        }
    }
}
