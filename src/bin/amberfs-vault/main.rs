//! `amberfs-vault`: a site of a Backup Key Vault.
//!
//! Invariant: standard output has only what was asked for; nothing secret is
//! ever printed, and a panic prints its place only.

#![cfg_attr(
    not(test),
    deny(
        clippy::disallowed_methods,
        clippy::print_stdout,
        clippy::print_stderr,
        clippy::dbg_macro
    )
)]

#[cfg(feature = "pkcs11")]
mod ceremony;
mod fleet;
mod guard;
mod monitor;
mod notify;
mod probe;
mod relay;
mod serve;
mod staff;

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use amberfs::cli::man;
use amberfs::io::output::{self, OutputError};
use amberfs::io::{DirFolder, Exit, PrivateFolder, SystemClock, SystemRandom, widen_limits};
use amberfs::vault::hsm::KeyError;
use amberfs::vault::hsm::transfer::keys_fingerprint;
use amberfs::vault::protocol::{Address, Argon2Cost, Protection};
use amberfs::vault::server::{AdminCommand, FolderError, Opened, Site, create_site, view_site};
use clap::{CommandFactory, Parser, Subcommand};
use guard::{LOGGER, check_owner, check_private, harden};

/// The file that remembers the address last served.
const ADDRESS: &str = "address";
const ADDRESS_LIMIT: u64 = 1024;
/// Exit code for a PIN that the token refused: starting again could lock it.
const PIN_REFUSED: Exit = Exit::WrongSecret;
/// Exit code for a folder that another process serves.
const SERVED: Exit = Exit::InUse;

/// Keep backup keys for passwords, with a limited number of guesses
#[derive(Parser)]
#[command(name = "amberfs-vault", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a vault of one site in DIR, with software keys or keys in a token
    Init {
        /// New or empty folder
        dir: PathBuf,
        #[cfg(feature = "pkcs11")]
        #[command(flatten)]
        token: ceremony::InitToken,
    },
    /// Copy the keys of a vault from token to token
    #[cfg(feature = "pkcs11")]
    #[command(subcommand)]
    Ceremony(ceremony::Ceremony),
    /// Make another site of a vault with software keys: DIR gets its keys, and
    /// the vault's manifest that site
    Join {
        /// New or empty folder
        dir: PathBuf,
        /// The folder of a site there is
        from: PathBuf,
        /// The new site's name, for people
        #[arg(long, value_name = "NAME")]
        site_name: String,
        /// Keys of the fleet's root, if they are not in FROM
        #[arg(long, value_name = "FILE")]
        root_key: Vec<PathBuf>,
    },
    /// Put a newer manifest of the vault in place
    InstallManifest {
        /// The vault's folder
        dir: PathBuf,
        /// The manifest
        file: PathBuf,
        /// It has other roots than before (`root replace`); only while nobody uses the vault
        #[arg(long)]
        new_roots: bool,
    },
    /// The keys that sign manifests, and what they sign
    #[command(subcommand)]
    Root(fleet::RootCommand),
    /// Keys of another generation
    #[command(subcommand)]
    Generation(fleet::GenerationCommand),
    /// Carry connections to the sites of a vault, and read nothing
    #[command(subcommand)]
    Relay(relay::RelayCommand),
    /// Mend what became of the ledger
    #[command(subcommand)]
    Ledger(fleet::LedgerCommand),
    /// Serve the vault in DIR until SIGTERM
    Serve {
        /// The vault's folder
        dir: PathBuf,
        #[command(flatten)]
        arguments: serve::ServeArguments,
    },
    /// Print a new invite: good for one registration
    Invite {
        /// The vault's folder
        dir: PathBuf,
        /// The account it is for, to find its record by
        #[arg(long, value_name = "NAME")]
        account: Option<String>,
        /// Days until it is of no use
        #[arg(long, value_name = "N", default_value_t = 14)]
        days: u32,
    },
    /// Look at a record, stop it, delete it
    #[command(subcommand)]
    Record(staff::RecordCommand),
    /// Try a vault at each of its places as a client does, on a record of its own
    Probe {
        #[command(flatten)]
        arguments: probe::ProbeArguments,
    },
    /// Print the address last served
    Address {
        /// The vault's folder
        dir: PathBuf,
    },
    /// Print what the vault holds
    Status {
        /// The vault's folder
        dir: PathBuf,
    },
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder; made if it is not there
        dir: PathBuf,
    },
}

/// What ends the program, with its exit code.
struct Failure {
    code: Exit,
    text: String,
}

impl Failure {
    fn other(text: impl std::fmt::Display) -> Self {
        Self { code: Exit::Other, text: text.to_string() }
    }

    fn folder(dir: &Path, error: &FolderError) -> Self {
        let missing = matches!(error, FolderError::Io { source, .. }
            if source.kind() == std::io::ErrorKind::NotFound);
        let code = match error {
            FolderError::Keys(KeyError::Token(why)) if why.is_about_the_pin() => PIN_REFUSED,
            _ if missing => Exit::NoRepository,
            _ => Exit::Other,
        };
        let text = if missing {
            format!("{} is not a vault (make one with: amberfs-vault init)", dir.display())
        } else {
            format!("{}: {error}", dir.display())
        };
        Self { code, text }
    }
}

/// What was done is not undone because nobody could read of it; this says how to go on.
trait Done {
    fn but(self, how: &str) -> Self;
}

impl Done for Result<(), Failure> {
    fn but(self, how: &str) -> Self {
        self.map_err(|failure| Failure { text: format!("{}; {how}", failure.text), ..failure })
    }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        Self { code: error.exit_code(), text: error.to_string() }
    }
}

fn main() -> ExitCode {
    let outcome = match amberfs::cli::parse() {
        Ok(arguments) => run(&arguments).and_then(|()| Ok(output::finish()?)),
        Err(said) => match said.show() {
            Ok(()) if said.is_wrong => return Exit::Usage.into(),
            shown => shown.map_err(Failure::from),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.code != Exit::NoReader {
                output::note(format_args!("amberfs-vault: {}", failure.text));
            }
            failure.code.into()
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(log::LevelFilter::Info);
    widen_limits().map_err(|error| {
        Failure::other(format!("the limits of this process could not be widened: {error}"))
    })?;
    harden()?;
    match &arguments.command {
        #[cfg(feature = "pkcs11")]
        Command::Init { dir, token } if token.is_given() => ceremony::init(dir, token),
        Command::Init { dir, .. } => init(dir),
        #[cfg(feature = "pkcs11")]
        Command::Ceremony(step) => ceremony::run(step),
        Command::Serve { dir, arguments } => serve::run(dir, arguments),
        Command::Invite { dir, account, days } => {
            staff::execute(dir, &AdminCommand::Invite { account: account.clone(), days: *days })
        }
        Command::Record(command) => staff::record(command),
        Command::Probe { arguments } => probe::run(arguments),
        Command::Join { dir, from, site_name, root_key } => {
            fleet::join(dir, from, site_name, root_key)
        }
        Command::InstallManifest { dir, file, new_roots } => fleet::install(dir, file, *new_roots),
        Command::Root(command) => fleet::root(command),
        Command::Generation(command) => fleet::generation(command),
        Command::Relay(command) => relay::run(command),
        Command::Ledger(command) => fleet::run(command),
        Command::Address { dir } => address(dir),
        Command::Status { dir } => status(dir),
        Command::Man { dir } => {
            man::write(Arguments::command(), &man::VAULT, dir).map_err(Failure::other)
        }
    }
}

fn say(line: &str) -> Result<(), Failure> {
    Ok(output::line(format_args!("{line}"))?)
}

/// Says where a server listens. It serves whoever reads that.
fn announce(line: &str) {
    if let Err(failure) = say(line) {
        log::warn!("{}; {line}", failure.text);
    }
}

/// Makes a site's folder, if it is not there.
fn make_folder(dir: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Failure::other)?;
    check_owner(dir)
}

/// After `init` whose output could not be written.
const MADE: &str = "the vault is made: amberfs-vault status prints its fingerprint";

fn init(dir: &Path) -> Result<(), Failure> {
    make_folder(dir)?;
    let fingerprint = create_site(&DirFolder::new(dir), &SystemRandom, Argon2Cost::FLOOR)
        .map_err(|error| Failure::folder(dir, &error))?;
    say(&format!("vault fingerprint: {fingerprint}")).but(MADE)?;
    say_where_the_root_is(dir);
    warn_of_software_keys();
    Ok(())
}

fn say_where_the_root_is(dir: &Path) {
    log::info!(
        "{} signs the manifest; serving does not need it: keep it on another medium",
        dir.join("root.key").display()
    );
}

/// A key of the fleet's root that lies in a site's folder, if one does.
fn root_key_in(dir: &Path) -> Option<PathBuf> {
    let file = dir.join("root.key");
    std::fs::symlink_metadata(&file).is_ok().then_some(file)
}

fn warn_of_software_keys() {
    log::warn!(
        "the keys of this vault are in a file: whoever takes this disk can guess every \
         record's password without any limit"
    );
}

fn opened(dir: &Path, opened: Result<Opened, FolderError>) -> Result<Opened, Failure> {
    opened.map_err(|error| Failure::folder(dir, &error))
}

/// Two servers on one ledger file would count separately.
fn lock(dir: &Path) -> Result<File, Failure> {
    let folder = File::open(dir)
        .map_err(|source| Failure::folder(dir, &FolderError::Io { what: "the folder", source }))?;
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |_| Failure { code: SERVED, text: format!("{} is being served already", dir.display()) },
    )?;
    Ok(folder)
}

fn address(dir: &Path) -> Result<(), Failure> {
    let bytes = DirFolder::new(dir).read(ADDRESS, ADDRESS_LIMIT).map_err(|_| {
        Failure::other(format!("{} was never served; its address is not known yet", dir.display()))
    })?;
    let address: Address = String::from_utf8_lossy(&bytes).parse().map_err(Failure::other)?;
    say(&address.to_string())
}

fn status(dir: &Path) -> Result<(), Failure> {
    check_private(dir)?;
    let opened = opened(dir, view_site(&DirFolder::new(dir)))?;
    let manifest = opened.manifest.clone();
    let fingerprint = opened.fingerprint();
    let exportable = opened.keys.is_exportable();
    let keys = keys_fingerprint(&*opened.keys, opened.keys.generation()).map_err(Failure::other)?;
    let site = Site::new(
        opened.keys,
        opened.ledger,
        Arc::new(SystemRandom),
        Arc::new(SystemClock),
        opened.signed,
        false,
    );
    let census = site.census().map_err(Failure::other)?;
    say(&format!("fingerprint: {fingerprint}"))?;
    say(&format!("manifest epoch: {}", manifest.epoch))?;
    let place = match manifest.protection {
        Protection::File => "in a file",
        Protection::Hsm if exportable => "in an HSM; a ceremony is not done",
        Protection::Hsm => "in an HSM",
    };
    say(&format!("keys: {place}"))?;
    say(&format!("keys fingerprint: {keys}"))?;
    let root = match root_key_in(dir) {
        Some(_) => "in root.key, in this folder; move it to another medium",
        None => "not in this folder",
    };
    say(&format!("root key: {root}"))?;
    let counts: Vec<String> =
        census.by_state().iter().map(|(state, count)| format!("{count} {state}")).collect();
    say(&format!("records: {}", counts.join(", ")))
}
