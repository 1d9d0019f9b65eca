//! `amberfs-vault serve`: the listener, the admin port, commands of the staff, and what is done now
//! and then.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use amberfs::io::{Clock, DirFolder, PrivateFolder, SystemClock, SystemRandom};
use amberfs::vault::config::{Config, LedgerAt, OpenLimits, Serve};
use amberfs::vault::listen::affordable;
use amberfs::vault::protocol::{Address, MANIFEST_WARNS, Protection};
use amberfs::vault::serve::{Admission, Limits, Relays, serve, server_config};
use amberfs::vault::server::{Opened, Site, open_site};
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

use super::guard::{LOGGER, check_private};
use super::monitor::{self, Watched};
use super::notify::{Event, Notifier};
use super::{
    ADDRESS, Exit, Failure, announce, lock, opened, root_key_in, staff, warn_of_software_keys,
};

/// Time between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Time between two looks at whether the ledger can be used.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Time between two looks at what others wrote to the ledger.
const TEND_EVERY: Duration = Duration::from_secs(10);
/// In which wrong passwords are counted.
const WINDOW: Duration = Duration::from_secs(3600);

#[derive(Args)]
pub struct ServeArguments {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// What clients are told, if it is not where we listen
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    advertise: Vec<String>,
    /// Let anybody who can connect register; without it only a vault that
    /// listens on loopback, advertises nothing else and has no relays takes registrations
    #[arg(long)]
    open_registration: bool,
    /// Registrations within an hour of people without an account or an invite
    /// (without it: 100)
    #[arg(long, value_name = "N")]
    registrations: Option<u32>,
    /// Let nobody wait after failures in a row (without it: after three,
    /// 1 min, 10 min, 1 h, 12 h, 24 h)
    #[arg(long)]
    no_delays: bool,
    /// Where to answer /metrics, /health and /ready over HTTP
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
    /// Log lines as JSON objects
    #[arg(long)]
    log_json: bool,
}

impl ServeArguments {
    /// The file's settings, and over them what was given on the command line.
    fn over(&self, file: Serve) -> Result<(String, Serve), Failure> {
        let mut settings = file;
        if let Some(listen) = &self.listen {
            settings.listen = Some(listen.clone());
        }
        if !self.advertise.is_empty() {
            settings.advertise.clone_from(&self.advertise);
        }
        settings.open_registration |= self.open_registration;
        settings.registrations = self.registrations.unwrap_or(settings.registrations);
        settings.delays &= !self.no_delays;
        settings.admin = self.admin.or(settings.admin);
        settings.log_json |= self.log_json;
        let listen = settings.listen.clone().ok_or_else(|| Failure {
            code: Exit::Usage,
            text: "where to listen? --listen HOST:PORT, or listen in [serve] of vault.toml".into(),
        })?;
        Ok((listen, settings))
    }
}

/// A key that no server needs lies where a server's intruder finds it.
fn warn_of_root_key(dir: &Path) {
    if let Some(file) = root_key_in(dir) {
        log::warn!(
            "{} signs the manifests of this vault, and serve never reads it. Whoever takes it can \
             stand in for this vault, and try one password at each attempt that a client makes \
             there. Move it to another medium; give it by --root-key when a manifest is to be \
             signed",
            file.display()
        );
    }
}

/// What the operator should know about the keys that are served.
fn warn_of_keys(opened: &Opened, ledger: &LedgerAt) {
    if opened.keys.protection() == Protection::File {
        warn_of_software_keys();
    }
    if opened.keys.is_exportable() {
        log::warn!(
            "the keys of this vault can still leave its token: when all sites have them, \
             run amberfs-vault ceremony seal"
        );
    }
    let left = opened.manifest.ends.saturating_sub(SystemClock.now().secs.max(0) as u64);
    if left < MANIFEST_WARNS {
        log::warn!(
            "this vault's manifest ends on {}: from then on machines that have not seen it do not \
             take it. Renew it: amberfs-vault root renew",
            opened.manifest.end_date()
        );
    }
    if opened.manifest.sites.len() > 1 && matches!(ledger, LedgerAt::Embedded {}) {
        log::warn!(
            "this vault has {} sites, but its ledger is this site's own: served at more \
             than one site, every site counts tries for itself",
            opened.manifest.sites.len()
        );
    }
}

pub fn run(dir: &Path, arguments: &ServeArguments) -> Result<(), Failure> {
    let locked = lock(dir)?;
    check_private(dir)?;
    let config = Config::load(&DirFolder::new(dir)).map_err(Failure::other)?;
    let (listen, settings) = arguments.over(config.serve.clone())?;
    LOGGER.use_json(settings.log_json);
    let opened = opened(dir, open_site(&DirFolder::new(dir)))?;
    warn_of_keys(&opened, &config.ledger);
    warn_of_root_key(dir);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(32)
        .build()
        .map_err(Failure::other)?;
    let outcome = runtime.block_on(serve_here(dir, opened, &listen, &settings, config, locked));
    runtime.shutdown_timeout(Duration::from_secs(10));
    outcome
}

async fn serve_here(
    dir: &Path,
    opened: Opened,
    listen: &str,
    settings: &Serve,
    config: Config,
    _locked: File,
) -> Result<(), Failure> {
    let mut ended = signal(SignalKind::terminate()).map_err(Failure::other)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(Failure::other)?;
    let fingerprint = opened.fingerprint();
    let acceptor = TlsAcceptor::from(server_config(opened.keys.tls()).map_err(Failure::other)?);
    let site = Site::new(
        opened.keys,
        opened.ledger,
        Arc::new(SystemRandom),
        Arc::new(SystemClock),
        opened.signed,
        settings.delays,
    );
    let limits = OpenLimits { each: settings.registrations_each, all: settings.registrations };
    let site = Arc::new(site.binding(config.relays.bind).opening(limits));
    let listener = TcpListener::bind(listen).await.map_err(|error| Failure {
        code: Exit::Other,
        text: format!("cannot listen on {listen}: {error}"),
    })?;
    let place: SocketAddr = listener.local_addr().map_err(Failure::other)?;
    let hosts = if settings.advertise.is_empty() {
        if place.ip().is_unspecified() {
            let text = "listening everywhere needs --advertise HOST:PORT".to_owned();
            return Err(Failure { code: Exit::Usage, text });
        }
        vec![place.to_string()]
    } else {
        settings.advertise.clone()
    };
    let address = Address::new(hosts, fingerprint)
        .map_err(|error| Failure { code: Exit::Usage, text: error.to_string() })?;
    DirFolder::new(dir).replace(ADDRESS, address.to_string().as_bytes()).map_err(Failure::other)?;
    // A relay on this machine brings people from everywhere.
    let is_private = config.relays.keys.is_empty()
        && place.ip().is_loopback()
        && address.endpoints().iter().all(|host| is_here(host));
    let open = settings.open_registration || is_private;
    log::info!("registration is {}", if open { "open" } else { "closed" });
    let relays = Relays {
        keys: config.relays.decoded().map_err(Failure::other)?,
        addresses: config.relays.addresses,
        only: config.relays.only,
        register: config.relays.register,
    };
    let mut limits = Limits::default();
    // A connection is one socket.
    limits.connections = affordable(limits.connections, 1).map_err(Failure::other)?;
    let notifier = Arc::new(Notifier::new(config.notify.command));
    let watched = Arc::new(Watched { site: Arc::clone(&site), draining: false.into() });
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let serving = tokio::spawn(serve(
        listener,
        Arc::clone(&site),
        acceptor,
        limits,
        Arc::new(Admission::new(open, relays)),
        stopped,
    ));
    let mut beside = vec![
        tokio::spawn(sweep(Arc::clone(&site), Arc::clone(&notifier))),
        tokio::spawn(tend(Arc::clone(&site))),
        tokio::spawn(notice(
            Arc::clone(&site),
            Arc::clone(&notifier),
            config.notify.wrong_per_hour,
        )),
    ];
    match staff::listen(dir) {
        Ok(socket) => {
            beside.push(tokio::spawn(staff::serve_commands(socket, Arc::clone(&site))));
        }
        // The way to the folder may be too long for a socket, say.
        Err(failure) => log::warn!("commands of the staff fail while this runs: {}", failure.text),
    }
    if let Some(place) = settings.admin {
        let listener = monitor::bind(place).await?;
        let place = listener.local_addr().map_err(Failure::other)?;
        log::info!("admin port: http://{place}/metrics");
        beside.push(tokio::spawn(monitor::watch(listener, Arc::clone(&watched))));
    }
    announce(&format!("vault address: {address}"));
    let outcome = tokio::select! {
        _ = ended.recv() => Ok(()),
        _ = interrupted.recv() => Ok(()),
        () = unusable(&site) => Err(Failure::other("ledger or keys failed; they must be opened anew")),
    };
    log::info!("stopping");
    watched.draining.store(true, Ordering::Relaxed);
    match &outcome {
        // Whoever sends clients here learns by /ready that it should not.
        Ok(()) => tokio::time::sleep(Duration::from_secs(settings.linger_seconds.into())).await,
        Err(failure) => notifier.notify(Event::Failed, &failure.text),
    }
    let _ = stop.send(true);
    let _ = serving.await;
    beside.iter().for_each(tokio::task::JoinHandle::abort);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || site.keep_time()).await {
        log::warn!("how long the vault was served could not be noted: {error}");
    }
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

/// Other sites' writes must be in this site's high-water mark before long, and how long
/// the vault was served in the ledger.
async fn tend(site: Arc<Site>) {
    loop {
        tokio::time::sleep(TEND_EVERY).await;
        let site = Arc::clone(&site);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || site.tend()).await {
            log::error!("{error}");
        }
    }
}

/// Tells of alarms, and of more than so many wrong passwords in an hour.
async fn notice(site: Arc<Site>, notifier: Arc<Notifier>, wrong_per_hour: u64) {
    let (mut alarms, mut wrong, mut since) = (0, 0, Instant::now());
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let metrics = site.metrics();
        if metrics.alarms() > alarms {
            alarms = metrics.alarms();
            notifier
                .notify(Event::Alarm, "a record was changed behind the vault's back: see the log");
        }
        if metrics.wrong().saturating_sub(wrong) >= wrong_per_hour {
            let text = format!("{wrong_per_hour} wrong passwords within an hour");
            log::warn!("{text}");
            notifier.notify(Event::Guessing, &text);
            (wrong, since) = (metrics.wrong(), Instant::now());
        } else if since.elapsed() >= WINDOW {
            (wrong, since) = (metrics.wrong(), Instant::now());
        }
    }
}

async fn sweep(site: Arc<Site>, notifier: Arc<Notifier>) {
    loop {
        let (site, notifier) = (Arc::clone(&site), Arc::clone(&notifier));
        let swept = tokio::task::spawn_blocking(move || {
            for warning in site.warnings() {
                log::warn!("{warning}");
                notifier.notify(Event::Warning, &warning);
            }
            site.sweep()
        });
        match swept.await {
            Ok(Ok(swept)) if swept.ended + swept.removed > 0 => log::info!(
                "{} records ended, {} names of registrations never activated went",
                swept.ended,
                swept.removed
            ),
            Ok(Err(error)) => log::error!("sweeping failed: {error}"),
            _ => {}
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amberfs::io::sim::{Fault, SimWorld};
    use amberfs::vault::ledger::VALUE_SIZE;
    use amberfs::vault::protocol::Argon2Cost;
    use amberfs::vault::server::create_site;

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
