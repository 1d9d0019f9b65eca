//! `amberfs-vault relay`: its folder, its tokens, serving.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amberfs::crypto::hex;
use amberfs::io::{
    DirFolder, OpenMode, PrivateFolder, Random, SystemClock, SystemRandom, read_regular_text,
};
use amberfs::vault::config::in_one_line;
use amberfs::vault::listen::affordable;
use amberfs::vault::protocol::Endpoint;
use amberfs::vault::protocol::is_account;
use amberfs::vault::relay::accounts::{Accounts, new_token};
use amberfs::vault::relay::issuer::fetch_keys;
use amberfs::vault::relay::jwt::{Terms, Verifier};
use amberfs::vault::relay::{
    CONNECTIONS_MAX, DESCRIPTORS_EACH, Relay, RelayLimits, Sites, outer_server_config, serve_relay,
};
use clap::{Subcommand, ValueEnum};
use ed25519_dalek::SigningKey;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::guard::{check_owner, check_secret};
use super::{Exit, Failure, announce, make_folder, say};

const CONFIG: &str = "relay.toml";
const KEY: &str = "relay.key";
const TOKENS: &str = "tokens";
/// Time between two looks at an issuer's keys.
const ASK_EVERY: Duration = Duration::from_secs(3600);
/// Most bytes of the relay's own files.
const FILE_LIMIT: u64 = 16 << 20;

#[derive(Subcommand)]
pub enum RelayCommand {
    /// Make a relay in DIR, and print the key that its sites are to know
    Init {
        /// New or empty folder
        dir: PathBuf,
        /// A site that it carries to; the nearest first
        #[arg(long = "site", value_name = "HOST:PORT", required = true)]
        sites: Vec<String>,
        /// Where to listen
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7443")]
        listen: String,
        /// Where clients reach it, if it is not where it listens: tokens are for this place
        #[arg(long, value_name = "HOST:PORT")]
        advertise: Option<String>,
        /// Its certificate and those up to the root, PEM; without it the relay
        /// listens on this machine only
        #[arg(long, value_name = "FILE", requires = "private_key")]
        certificate: Option<PathBuf>,
        /// The certificate's private key, PEM
        #[arg(long, value_name = "FILE", requires = "certificate")]
        private_key: Option<PathBuf>,
        /// Who may come: everybody, whoever has a token from `relay token`, or whoever
        /// has a JSON Web Token of an issuer ([jwt] in relay.toml)
        #[arg(long, value_enum, default_value_t = Accounting::None)]
        accounts: Accounting,
    },
    /// Print a new token for ACCOUNT; a relay that runs takes it after SIGHUP
    Token {
        /// The relay's folder
        dir: PathBuf,
        /// The account's name
        account: String,
    },
    /// Serve the relay in DIR until SIGTERM
    Serve {
        /// The relay's folder
        dir: PathBuf,
    },
}

/// `relay.toml`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    listen: SocketAddr,
    /// Where clients reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    advertise: Option<String>,
    sites: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<PathBuf>,
    accounts: Accounting,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jwt: Option<JwtSettings>,
    #[serde(default)]
    limits: LimitSettings,
}

/// How a relay knows its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Accounting {
    /// Not at all.
    None,
    /// By the file `tokens`.
    Tokens,
    /// By an issuer's tokens.
    Jwt,
}

/// Whose tokens count.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct JwtSettings {
    /// File with the issuer's public keys, a JWK set; without it the issuer is asked,
    /// at the start and every hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<PathBuf>,
    issuer: String,
    audience: String,
    /// The claim that names the account.
    #[serde(default = "subject")]
    claim: String,
}

fn subject() -> String {
    "sub".into()
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct LimitSettings {
    connections: usize,
    connections_each: usize,
    minute: u32,
}

impl Default for LimitSettings {
    fn default() -> Self {
        let RelayLimits { connections, connections_each, minute, .. } = RelayLimits::default();
        Self { connections, connections_each, minute }
    }
}

impl Settings {
    fn check(&self) -> Result<(), Failure> {
        let bad =
            |what: &str| Err(Failure { code: Exit::Usage, text: format!("{CONFIG}: {what}") });
        let direct = |site: &String| !site.contains('+') && Endpoint::parse(site).is_some();
        if !(1..=9).contains(&self.sites.len()) || !self.sites.iter().all(direct) {
            return bad("sites must be 1 to 9 of the form HOST:PORT");
        }
        if self.certificate.is_some() != self.private_key.is_some() {
            return bad("certificate and private_key go together");
        }
        if self.certificate.is_none() && !self.listen.ip().is_loopback() {
            return bad("without a certificate it can listen on a loopback address only");
        }
        if self.advertise.as_ref().is_some_and(|place| !direct(place)) {
            return bad("advertise must be of the form HOST:PORT");
        }
        match (self.accounts, &self.jwt) {
            (Accounting::Jwt, Some(jwt))
                if jwt.keys.as_ref().is_some_and(|keys| !keys.is_absolute()) =>
            {
                return bad("jwt.keys must be an absolute path");
            }
            (Accounting::None | Accounting::Tokens, Some(_)) => {
                return bad("[jwt] goes with accounts = \"jwt\" only");
            }
            _ => {}
        }
        let LimitSettings { connections, connections_each, minute } = self.limits;
        if !(1..=CONNECTIONS_MAX).contains(&connections)
            || !(1..=connections).contains(&connections_each)
            || !(1..=1_000_000).contains(&minute)
        {
            return bad(
                "limits: connections 1 to 100000, connections_each at most those, minute 1 to 1000000",
            );
        }
        Ok(())
    }

    /// Where clients reach it, as tokens name it; empty if that is not known.
    fn audience(&self) -> String {
        let known = !self.listen.ip().is_unspecified() && self.listen.port() != 0;
        let listens = || if known { self.listen.to_string() } else { String::new() };
        self.advertise.clone().unwrap_or_else(listens)
    }

    fn acceptor(&self) -> Result<Option<TlsAcceptor>, Failure> {
        let (Some(certificate), Some(key)) = (&self.certificate, &self.private_key) else {
            return Ok(None);
        };
        check_secret(key)?;
        let bad = |path: &Path, what: &dyn std::fmt::Display| {
            Failure::other(format!("{}: {what}", path.display()))
        };
        let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect)
            .map_err(|error| bad(certificate, &error))?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, &error))?;
        let config =
            outer_server_config(chain, private).map_err(|error| bad(certificate, &error))?;
        Ok(Some(TlsAcceptor::from(config)))
    }
}

pub fn run(command: &RelayCommand) -> Result<(), Failure> {
    match command {
        RelayCommand::Init {
            dir,
            sites,
            listen,
            advertise,
            certificate,
            private_key,
            accounts,
        } => {
            let listen = listen.parse().map_err(|_| Failure {
                code: Exit::Usage,
                text: format!("--listen {listen}: it must be ADDRESS:PORT"),
            })?;
            let settings = Settings {
                listen,
                advertise: advertise.clone(),
                sites: sites.clone(),
                certificate: certificate.clone(),
                private_key: private_key.clone(),
                accounts: *accounts,
                // To be written there by hand; `serve` says what is missing.
                jwt: None,
                limits: LimitSettings::default(),
            };
            init(dir, &settings)
        }
        RelayCommand::Token { dir, account } => token(dir, account),
        RelayCommand::Serve { dir } => serve(dir),
    }
}

fn init(dir: &Path, settings: &Settings) -> Result<(), Failure> {
    settings.check()?;
    make_folder(dir)?;
    let folder = DirFolder::new(dir);
    if !folder.list("").map_err(Failure::other)?.is_empty() {
        return Err(Failure::other(format!("{} is not empty", dir.display())));
    }
    let mut seed = Zeroizing::new([0; 32]);
    SystemRandom.fill(&mut *seed);
    let key = SigningKey::from_bytes(&seed);
    let text = toml::to_string(settings).map_err(Failure::other)?;
    let write = |name, bytes: &[u8]| folder.replace(name, bytes).map_err(Failure::other);
    write(KEY, &*seed)?;
    write(TOKENS, b"")?;
    write(CONFIG, text.as_bytes())?;
    say(&format!("relay key: {}", hex(&key.verifying_key().to_bytes())))
}

fn load(dir: &Path) -> Result<(Settings, SigningKey), Failure> {
    check_owner(dir)?;
    check_owner(&dir.join(CONFIG))?;
    check_secret(&dir.join(KEY))?;
    let folder = DirFolder::new(dir);
    let bytes = folder.read(CONFIG, FILE_LIMIT).map_err(|_| Failure {
        code: Exit::NoRepository,
        text: format!("{} is not a relay (make one with: amberfs-vault relay init)", dir.display()),
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let settings: Settings = toml::from_str(&text)
        .map_err(|error| Failure::other(format!("{CONFIG}: {}", in_one_line(&text, &error))))?;
    settings.check()?;
    let seed = Zeroizing::new(folder.read(KEY, 32).map_err(Failure::other)?);
    let seed = seed.as_slice().try_into();
    let key = seed.map_err(|_| Failure::other(format!("{KEY} has not 32 bytes")))?;
    Ok((settings, SigningKey::from_bytes(key)))
}

async fn accounts(dir: &Path, settings: &Settings) -> Result<Accounts, Failure> {
    match (settings.accounts, &settings.jwt) {
        (Accounting::Tokens, _) => {}
        (Accounting::Jwt, Some(jwt)) => return jwt_accounts(jwt).await,
        (Accounting::Jwt, None) => {
            return Err(Failure::other(format!("{CONFIG}: accounts = \"jwt\" needs [jwt]")));
        }
        (Accounting::None, _) => return Ok(Accounts::None),
    }
    check_owner(&dir.join(TOKENS))?;
    let bytes = DirFolder::new(dir).read(TOKENS, FILE_LIMIT).map_err(Failure::other)?;
    Accounts::parse(&String::from_utf8_lossy(&bytes))
        .map_err(|error| Failure::other(format!("{TOKENS}: {error}")))
}

async fn jwt_accounts(jwt: &JwtSettings) -> Result<Accounts, Failure> {
    let place = jwt.keys.as_ref().map_or(jwt.issuer.clone(), |keys| keys.display().to_string());
    let bad = |what: &dyn std::fmt::Display| Failure::other(format!("{place}: {what}"));
    let text = match &jwt.keys {
        Some(keys) => {
            // Whoever can write it can sign for every account.
            check_owner(keys)?;
            read_regular_text(keys, FILE_LIMIT).map_err(|error| bad(&error))?
        }
        None => fetch_keys(&jwt.issuer).await.map_err(Failure::other)?,
    };
    let terms = Terms {
        issuer: jwt.issuer.clone(),
        audience: jwt.audience.clone(),
        claim: jwt.claim.clone(),
    };
    Verifier::parse(&text, terms).map(Accounts::Jwt).map_err(|error| bad(&error))
}

fn token(dir: &Path, account: &str) -> Result<(), Failure> {
    let (settings, _) = load(dir)?;
    if !is_account(account) {
        let text = "an account has 1 to 64 printable ASCII characters and no space".to_owned();
        return Err(Failure { code: Exit::Usage, text });
    }
    if settings.accounts != Accounting::Tokens {
        return Err(Failure::other(format!("{CONFIG} does not say accounts = \"tokens\"")));
    }
    let audience = settings.audience();
    if audience.is_empty() {
        log::warn!(
            "this token names no relay, so clients send it to every relay of the vault's address: \
             set advertise = \"HOST:PORT\" in {CONFIG} first"
        );
    }
    let (token, line) = new_token(account, &audience, &SystemRandom);
    let append = || -> std::io::Result<()> {
        let file = DirFolder::new(dir).open(TOKENS, OpenMode::Write)?;
        file.write_at(file.len()?, line.as_bytes())?;
        file.sync_data()
    };
    // A token that nobody could read must not count; one that does not count is told.
    say(&token)?;
    append().map_err(|error| {
        Failure::other(format!("{TOKENS}: {error}: the token that was printed does not count"))
    })
}

fn serve(dir: &Path) -> Result<(), Failure> {
    let (settings, key) = load(dir)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::other)?;
    let outcome = runtime.block_on(serve_here(dir, settings, key));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve_here(dir: &Path, settings: Settings, key: SigningKey) -> Result<(), Failure> {
    let mut ended = signal(SignalKind::terminate()).map_err(Failure::other)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(Failure::other)?;
    let mut hung_up = signal(SignalKind::hangup()).map_err(Failure::other)?;
    let LimitSettings { connections, connections_each, minute } = settings.limits;
    let connections = affordable(connections, DESCRIPTORS_EACH).map_err(Failure::other)?;
    let public = key.verifying_key().to_bytes();
    let relay = Arc::new(Relay::new(
        accounts(dir, &settings).await?,
        key,
        Sites::new(settings.sites.clone()),
        RelayLimits { connections, connections_each, minute, ..RelayLimits::default() },
        (Arc::new(SystemClock), Arc::new(SystemRandom)),
        settings.acceptor()?,
    ));
    let listener = TcpListener::bind(settings.listen).await.map_err(|error| {
        Failure::other(format!("cannot listen on {}: {error}", settings.listen))
    })?;
    let place = listener.local_addr().map_err(Failure::other)?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let serving = tokio::spawn(serve_relay(listener, Arc::clone(&relay), stopped));
    let way = if settings.certificate.is_some() { "relay" } else { "plainrelay" };
    log::info!("relay key: {}", hex(&public));
    announce(&format!("relay place: {way}+{place}"));
    let asks = settings.jwt.as_ref().is_some_and(|jwt| jwt.keys.is_none());
    loop {
        tokio::select! {
            _ = ended.recv() => break,
            _ = interrupted.recv() => break,
            () = tokio::time::sleep(ASK_EVERY), if asks => match accounts(dir, &settings).await {
                Ok(accounts) => relay.reload_accounts(accounts),
                Err(failure) => log::error!("the issuer's keys stay as they were: {}", failure.text),
            },
            _ = hung_up.recv() => match reread(dir).await {
                Ok((accounts, acceptor)) => {
                    relay.reload(accounts, acceptor);
                    log::info!("accounts and certificate were read anew");
                }
                Err(failure) => log::error!("nothing was read anew: {}", failure.text),
            },
        }
    }
    log::info!("stopping");
    let _ = stop.send(true);
    let _ = serving.await;
    Ok(())
}

async fn reread(dir: &Path) -> Result<(Accounts, Option<TlsAcceptor>), Failure> {
    let (settings, _) = load(dir)?;
    Ok((accounts(dir, &settings).await?, settings.acceptor()?))
}
