//! `amberfs-vault`: a site of a Backup Key Vault.
//!
//! Invariant: standard output has only what was asked for; nothing secret is
//! ever printed, and a panic prints its place only.

#[cfg(feature = "pkcs11")]
#[path = "amberfs-vault/ceremony.rs"]
mod ceremony;
#[path = "amberfs-vault/fleet.rs"]
mod fleet;
#[path = "amberfs-vault/guard.rs"]
mod guard;
#[path = "amberfs-vault/relay.rs"]
mod relay;

use std::fs::{DirBuilder, File};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use amberfs::io::{DirFolder, PrivateFolder, SystemClock, SystemRandom};
use amberfs::vault::config::Config;
use amberfs::vault::hsm::KeyError;
use amberfs::vault::hsm::transfer::keys_fingerprint;
use amberfs::vault::net::{Entrance, Limits, Relays, serve, server_config};
use amberfs::vault::protocol::{Address, Argon2Cost, Protection};
use amberfs::vault::server::{FolderError, Opened, Site, create_site, open_site, view_site};
use clap::{Parser, Subcommand};
use guard::{LOGGER, check_owner, check_private, harden};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

/// Time between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Time between two looks at whether the ledger can be used.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Time between two looks at what others wrote to the ledger.
const TEND_EVERY: Duration = Duration::from_secs(10);
/// The file that remembers the address last served.
const ADDRESS: &str = "address";
const ADDRESS_LIMIT: u64 = 1024;
/// Exit code for a PIN that the token refused: starting again could lock it.
const PIN_REFUSED: u8 = 12;

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
        /// The fleet root's key, if it is not in FROM
        #[arg(long, value_name = "FILE")]
        root_key: Option<PathBuf>,
    },
    /// Put a newer manifest of the vault in place
    InstallManifest {
        /// The vault's folder
        dir: PathBuf,
        /// The manifest
        file: PathBuf,
    },
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
        /// Where to listen; port 0 takes a free one
        #[arg(long, value_name = "HOST:PORT")]
        listen: String,
        /// What clients are told, if it is not where we listen
        #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
        advertise: Vec<String>,
        /// Let anybody who can connect register; without it only a vault that
        /// listens on loopback, and advertises nothing else, takes registrations
        #[arg(long)]
        open_registration: bool,
        /// Let nobody wait after failures in a row (without it: after three,
        /// 1 min, 10 min, 1 h, 12 h, 24 h)
        #[arg(long)]
        no_delays: bool,
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
}

/// What ends the program, with its exit code.
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn other(text: impl std::fmt::Display) -> Self {
        Self { code: 1, text: text.to_string() }
    }

    fn folder(dir: &Path, error: &FolderError) -> Self {
        let missing = matches!(error, FolderError::Io { source, .. }
            if source.kind() == std::io::ErrorKind::NotFound);
        let code = match error {
            FolderError::Keys(KeyError::Token(why)) if why.is_about_the_pin() => PIN_REFUSED,
            _ if missing => 10,
            _ => 1,
        };
        let text = if missing {
            format!("{} is not a vault (make one with: amberfs-vault init)", dir.display())
        } else {
            format!("{}: {error}", dir.display())
        };
        Self { code, text }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(log::LevelFilter::Info);
    let outcome = harden().and_then(|()| match &arguments.command {
        #[cfg(feature = "pkcs11")]
        Command::Init { dir, token } if token.is_given() => ceremony::init(dir, token),
        Command::Init { dir, .. } => init(dir),
        #[cfg(feature = "pkcs11")]
        Command::Ceremony(step) => ceremony::run(step),
        Command::Serve { dir, listen, advertise, open_registration, no_delays } => {
            let options = ServeOptions { open: *open_registration, delays: !no_delays };
            run(dir, listen, advertise, options)
        }
        Command::Join { dir, from, site_name, root_key } => {
            fleet::join(dir, from, site_name, root_key.as_ref())
        }
        Command::InstallManifest { dir, file } => fleet::install(dir, file),
        Command::Relay(command) => relay::run(command),
        Command::Ledger(command) => fleet::run(command),
        Command::Address { dir } => address(dir),
        Command::Status { dir } => status(dir),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "amberfs-vault: {}", failure.text);
            ExitCode::from(failure.code)
        }
    }
}

fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Failure::other)
}

/// Makes a site's folder, if it is not there.
fn make_folder(dir: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Failure::other)?;
    check_owner(dir)
}

fn init(dir: &Path) -> Result<(), Failure> {
    make_folder(dir)?;
    let fingerprint = create_site(&DirFolder::new(dir), &SystemRandom, Argon2Cost::FLOOR)
        .map_err(|error| Failure::folder(dir, &error))?;
    say(&format!("vault fingerprint: {fingerprint}"))?;
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

fn warn_of_software_keys() {
    log::warn!(
        "the keys of this vault are in a file: whoever takes this disk can guess every \
         record's password without any limit"
    );
}

/// What the operator should know about the keys that are served.
fn warn_of_keys(opened: &Opened) {
    if opened.keys.protection() == Protection::File {
        warn_of_software_keys();
    }
    if opened.keys.is_exportable() {
        log::warn!(
            "the keys of this vault can still leave its token: when all sites have them, \
             run amberfs-vault ceremony seal"
        );
    }
    if opened.manifest.sites.len() > 1 {
        log::warn!(
            "this vault has {} sites, but its ledger is this site's own: served at more \
             than one site, every site counts tries for itself",
            opened.manifest.sites.len()
        );
    }
}

fn opened(dir: &Path, opened: Result<Opened, FolderError>) -> Result<Opened, Failure> {
    opened.map_err(|error| Failure::folder(dir, &error))
}

/// Two servers on one ledger file would count separately.
fn lock(dir: &Path) -> Result<File, Failure> {
    let folder = File::open(dir)
        .map_err(|source| Failure::folder(dir, &FolderError::Io { what: "the folder", source }))?;
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |_| Failure { code: 11, text: format!("{} is being served already", dir.display()) },
    )?;
    Ok(folder)
}

#[derive(Clone, Copy)]
struct ServeOptions {
    open: bool,
    delays: bool,
}

fn run(
    dir: &Path,
    listen: &str,
    advertise: &[String],
    options: ServeOptions,
) -> Result<(), Failure> {
    let _locked = lock(dir)?;
    check_private(dir)?;
    let opened = opened(dir, open_site(&DirFolder::new(dir)))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(32)
        .build()
        .map_err(Failure::other)?;
    let outcome = runtime.block_on(serve_here(dir, opened, listen, advertise, options));
    runtime.shutdown_timeout(Duration::from_secs(10));
    outcome
}

async fn serve_here(
    dir: &Path,
    opened: Opened,
    listen: &str,
    advertise: &[String],
    options: ServeOptions,
) -> Result<(), Failure> {
    let mut ended = signal(SignalKind::terminate()).map_err(Failure::other)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(Failure::other)?;
    let fingerprint = opened.fingerprint();
    warn_of_keys(&opened);
    let acceptor = TlsAcceptor::from(server_config(opened.keys.tls()).map_err(Failure::other)?);
    let site = Arc::new(Site::new(
        opened.keys,
        opened.ledger,
        Arc::new(SystemRandom),
        Arc::new(SystemClock),
        opened.signed,
        options.delays,
    ));
    let listener = TcpListener::bind(listen).await.map_err(|error| Failure {
        code: 1,
        text: format!("cannot listen on {listen}: {error}"),
    })?;
    let place: SocketAddr = listener.local_addr().map_err(Failure::other)?;
    let hosts = if advertise.is_empty() {
        if place.ip().is_unspecified() {
            let text = "listening everywhere needs --advertise HOST:PORT".to_owned();
            return Err(Failure { code: 2, text });
        }
        vec![place.to_string()]
    } else {
        advertise.to_vec()
    };
    let address = Address::new(hosts, fingerprint)
        .map_err(|error| Failure { code: 2, text: error.to_string() })?;
    DirFolder::new(dir).replace(ADDRESS, address.to_string().as_bytes()).map_err(Failure::other)?;
    let open = options.open
        || (place.ip().is_loopback() && address.hosts().iter().all(|host| is_here(host)));
    log::info!("registration is {}", if open { "open" } else { "closed" });
    let settings = Config::load(&DirFolder::new(dir)).map_err(Failure::other)?.relays;
    let relays = Relays {
        keys: settings.decoded().map_err(Failure::other)?,
        addresses: settings.addresses,
        only: settings.only,
        register: settings.register,
    };
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let serving = tokio::spawn(serve(
        listener,
        Arc::clone(&site),
        acceptor,
        Limits::default(),
        Arc::new(Entrance::new(open, relays)),
        stopped,
    ));
    let sweeping = tokio::spawn(sweep(Arc::clone(&site)));
    let tending = tokio::spawn(tend(Arc::clone(&site)));
    say(&format!("vault address: {address}"))?;
    let outcome = tokio::select! {
        _ = ended.recv() => Ok(()),
        _ = interrupted.recv() => Ok(()),
        () = unusable(&site) => Err(Failure::other("ledger or keys failed; they must be opened anew")),
    };
    log::info!("stopping");
    let _ = stop.send(true);
    let _ = serving.await;
    sweeping.abort();
    tending.abort();
    outcome
}

/// Whether `HOST:PORT` leads to this machine only. A vault behind a proxy or a
/// tunnel listens on loopback too; what it advertises gives it away.
fn is_here(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Returns when the site's ledger or keys cannot be used any more.
async fn unusable(site: &Arc<Site>) {
    loop {
        let site = Arc::clone(site);
        if !tokio::task::spawn_blocking(move || site.is_usable()).await.unwrap_or(false) {
            return;
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Other sites' writes must be in this site's high-water mark before long.
async fn tend(site: Arc<Site>) {
    loop {
        tokio::time::sleep(TEND_EVERY).await;
        let site = Arc::clone(&site);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || site.tend()).await {
            log::error!("{error}");
        }
    }
}

async fn sweep(site: Arc<Site>) {
    loop {
        let site = Arc::clone(&site);
        let swept = tokio::task::spawn_blocking(move || {
            site.warnings().iter().for_each(|warning| log::warn!("{warning}"));
            site.sweep()
        });
        match swept.await {
            Ok(Ok(swept)) if swept.ended > 0 => log::info!("{} records ended", swept.ended),
            Ok(Err(error)) => log::error!("sweeping failed: {error}"),
            _ => {}
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
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
    say(&format!(
        "records: {} active, {} registering, {} closed, {} ended, {} frozen, {} unreadable",
        census.active,
        census.registering,
        census.closed,
        census.ended,
        census.frozen,
        census.unreadable
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use amberfs::io::sim::{Fault, SimWorld};
    use amberfs::vault::ledger::VALUE_SIZE;

    #[test]
    fn what_is_advertised_tells_who_can_register() {
        for here in ["127.0.0.1:7007", "localhost:1", "[::1]:7007", "127.9.9.9:1"] {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in ["vault.example.org:7007", "192.0.2.1:1", "[2001:db8::1]:7007"] {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
    }

    /// A poisoned ledger answered "try later" for ever.
    #[test]
    fn a_failed_ledger_ends_serving() {
        let world = SimWorld::new();
        let folder = world.folder("vault");
        create_site(&*folder, &SystemRandom, Argon2Cost::FLOOR).ok().unwrap();
        let opened = open_site(&*folder).ok().unwrap();
        let ledger = opened.ledger;
        let site = Arc::new(Site::new(
            opened.keys,
            Arc::clone(&ledger),
            Arc::new(SystemRandom),
            Arc::new(SystemClock),
            opened.signed,
            true,
        ));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let wait = || tokio::time::timeout(Duration::from_millis(50), unusable(&site));
            assert!(wait().await.is_err(), "it can be used");
            // Room for a new name is made in two steps, then its page is written.
            world.fail_at(world.operations() + 3, Fault::Io);
            assert!(ledger.swap(&[1; 32], None, &Box::new([1; VALUE_SIZE]), false).is_err());
            assert!(wait().await.is_ok());
        });
    }
}
