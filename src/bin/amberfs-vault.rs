//! `amberfs-vault`: a Backup Key Vault of one site.
//!
//! Invariant: standard output has only what was asked for; nothing secret is
//! ever printed, and a panic prints its place only.

use std::fs::{DirBuilder, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use amberfs::io::{DirFolder, PrivateFolder, SystemClock, SystemRandom};
use amberfs::vault::hsm::KeyProtection;
use amberfs::vault::net::{Limits, serve, server_config};
use amberfs::vault::protocol::{Address, Argon2Cost, Protection};
use amberfs::vault::server::{FolderError, Opened, Site, create_site, open_site};
use clap::{Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

/// Time between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// The file that remembers the address last served.
const ADDRESS: &str = "address";
const ADDRESS_LIMIT: u64 = 1024;

/// Keep backup keys for passwords, with a limited number of guesses
#[derive(Parser)]
#[command(name = "amberfs-vault", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a vault of one site with software keys in DIR
    Init {
        /// New or empty folder
        dir: PathBuf,
    },
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
        /// listens on loopback takes registrations
        #[arg(long)]
        open_registration: bool,
        /// Make the next attempt wait after three failures in a row (1 min,
        /// 10 min, 1 h, 12 h, 24 h)
        #[arg(long)]
        delays: bool,
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
        let text = if missing {
            format!("{} is not a vault (make one with: amberfs-vault init)", dir.display())
        } else {
            format!("{}: {error}", dir.display())
        };
        Self { code: if missing { 10 } else { 1 }, text }
    }
}

struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, data: &log::Metadata<'_>) -> bool {
        let ours = data.target().starts_with("amberfs");
        data.level() <= if ours { log::Level::Info } else { log::Level::Warn }
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let _ = writeln!(std::io::stderr(), "{}: {}", record.level(), record.args());
        }
    }

    fn flush(&self) {}
}

static LOGGER: Stderr = Stderr;

/// No core dumps, and no panic message: both could hold secrets.
fn harden() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if setrlimit(Resource::Core, none).is_err()
        || set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err()
    {
        log::warn!("core dumps could not be turned off");
    }
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, ToString::to_string);
        let _ = writeln!(std::io::stderr(), "ERROR: a request failed at {place}; please report it");
    }));
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(log::LevelFilter::Info);
    harden();
    let outcome = match &arguments.command {
        Command::Init { dir } => init(dir),
        Command::Serve { dir, listen, advertise, open_registration, delays } => {
            let options = ServeOptions { open: *open_registration, delays: *delays };
            run(dir, listen, advertise, options)
        }
        Command::Address { dir } => address(dir),
        Command::Status { dir } => status(dir),
    };
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

fn init(dir: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Failure::other)?;
    let fingerprint = create_site(&DirFolder::new(dir), &SystemRandom, Argon2Cost::FLOOR)
        .map_err(|error| Failure::folder(dir, &error))?;
    say(&format!("vault fingerprint: {fingerprint}"))?;
    log::info!(
        "{} signs the manifest; serving does not need it: keep it on another medium",
        dir.join("root.key").display()
    );
    warn_of_software_keys();
    Ok(())
}

fn warn_of_software_keys() {
    log::warn!(
        "the keys of this vault are in a file: whoever takes this disk can guess every \
         record's password without any limit"
    );
}

/// Secret files must be ours (or root's) and closed to everybody else.
fn check_private(dir: &Path) -> Result<(), Failure> {
    for name in ["keys", "root.key"] {
        let path = dir.join(name);
        let Ok(data) = std::fs::symlink_metadata(&path) else { continue };
        let owner = rustix::process::geteuid().as_raw();
        if !data.is_file() || data.mode() & 0o077 != 0 || ![owner, 0].contains(&data.uid()) {
            return Err(Failure::other(format!(
                "{} can be read by others: chmod 600 it, and think about who did",
                path.display()
            )));
        }
    }
    Ok(())
}

fn open(dir: &Path) -> Result<Opened, Failure> {
    check_private(dir)?;
    open_site(&DirFolder::new(dir)).map_err(|error| Failure::folder(dir, &error))
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
    // Two servers on one ledger file would count separately.
    let folder = File::open(dir)
        .map_err(|source| Failure::folder(dir, &FolderError::Io { what: "the folder", source }))?;
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |_| Failure { code: 11, text: format!("{} is being served already", dir.display()) },
    )?;
    let opened = open(dir)?;
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
    let protection = opened.keys.protection();
    let acceptor = TlsAcceptor::from(server_config(opened.keys.tls()).map_err(Failure::other)?);
    let site = Arc::new(Site::new(
        Arc::new(opened.keys),
        Arc::new(opened.ledger),
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
    if protection == Protection::File {
        warn_of_software_keys();
    }
    let open = options.open || place.ip().is_loopback();
    log::info!("registration is {}", if open { "open" } else { "closed" });
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let serving = tokio::spawn(serve(
        listener,
        Arc::clone(&site),
        acceptor,
        Limits::default(),
        open,
        stopped,
    ));
    let sweeping = tokio::spawn(sweep(site));
    say(&format!("vault address: {address}"))?;
    tokio::select! {
        _ = ended.recv() => {}
        _ = interrupted.recv() => {}
    }
    log::info!("stopping");
    let _ = stop.send(true);
    let _ = serving.await;
    sweeping.abort();
    Ok(())
}

async fn sweep(site: Arc<Site>) {
    loop {
        let site = Arc::clone(&site);
        match tokio::task::spawn_blocking(move || site.sweep()).await {
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
    let opened = open(dir)?;
    let manifest = opened.manifest.clone();
    let fingerprint = opened.fingerprint();
    let site = Site::new(
        Arc::new(opened.keys),
        Arc::new(opened.ledger),
        Arc::new(SystemRandom),
        Arc::new(SystemClock),
        opened.signed,
        false,
    );
    let census = site.census().map_err(Failure::other)?;
    say(&format!("fingerprint: {fingerprint}"))?;
    say(&format!("manifest epoch: {}", manifest.epoch))?;
    let keys = match manifest.protection {
        Protection::File => "in a file",
        Protection::Hsm => "in an HSM",
    };
    say(&format!("keys: {keys}"))?;
    say(&format!(
        "records: {} active, {} registering, {} closed, {} ended, {} unreadable",
        census.active, census.registering, census.closed, census.ended, census.unreadable
    ))
}
