//! A site's settings: `vault.toml` in its folder. Without the file every
//! setting has its default.
//!
//! Invariant: a key that is not known is an error that names it; a mistyped
//! setting must not turn into a default.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};

use crate::crypto::unhex;
use crate::io::PrivateFolder;

/// The file's name in a site's folder.
pub const CONFIG: &str = "vault.toml";
const CONFIG_LIMIT: u64 = 64 * 1024;

/// The settings of a site, from `vault.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where its keys are.
    pub keys: Keys,
    /// Where its records are.
    pub ledger: LedgerAt,
    /// The relays whose assertions the site accepts.
    #[serde(skip_serializing_if = "Relays::is_default")]
    pub relays: Relays,
    /// How it is served; the command line goes before.
    #[serde(skip_serializing_if = "Serve::is_default")]
    pub serve: Serve,
    /// Who is told when something happens.
    #[serde(skip_serializing_if = "Notify::is_default")]
    pub notify: Notify,
}

/// How a site is served.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Serve {
    /// The address to listen on, `HOST:PORT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// What clients are told, if that is another place.
    pub advertise: Vec<String>,
    /// Whether anybody who can connect may register.
    pub open_registration: bool,
    /// How many registrations of people without an account or an invite are taken within an
    /// hour from one IPv4 address or one /48 of IPv6.
    pub registrations_each: u32,
    /// How many registrations of people without an account or an invite are taken within an
    /// hour in all.
    pub registrations: u32,
    /// Whether failures in a row make the next attempt wait.
    pub delays: bool,
    /// Where to answer metrics, health and readiness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// Whether log lines are JSON objects.
    pub log_json: bool,
    /// Seconds between SIGTERM and the end of taking connections, at most 300: for a
    /// balancer to notice.
    pub linger_seconds: u16,
}

/// How many registrations a site takes from people without an account or an invite,
/// within an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenLimits {
    /// From one IPv4 address or one /48 of IPv6; loopback is not counted.
    pub each: u32,
    /// How many registrations a day from all clients together.
    pub all: u32,
}

impl Default for OpenLimits {
    fn default() -> Self {
        Self { each: 10, all: 100 }
    }
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            listen: None,
            advertise: Vec::new(),
            open_registration: false,
            registrations_each: OpenLimits::default().each,
            registrations: OpenLimits::default().all,
            delays: true,
            admin: None,
            log_json: false,
            linger_seconds: 0,
        }
    }
}

impl Serve {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The operator's command for what somebody should look at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    /// Program and arguments; the event's name and a line of text are added.
    pub command: Vec<String>,
    /// Wrong passwords within an hour that are worth a look.
    pub wrong_per_hour: u64,
}

impl Default for Notify {
    fn default() -> Self {
        Self { command: Vec::new(), wrong_per_hour: 1000 }
    }
}

impl Notify {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let value = |key, what| Err(ConfigError::Value { key, what });
        if self.command.first().is_some_and(|program| !program.starts_with('/')) {
            return value("notify.command", "must begin with an absolute path");
        }
        if self.wrong_per_hour == 0 {
            return value("notify.wrong_per_hour", "must be at least 1");
        }
        Ok(())
    }
}

/// The relays that a site knows, by key and network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Relays {
    /// Their keys, 64 hexadecimal digits each, as `relay init` prints them.
    pub keys: Vec<String>,
    /// Addresses they come from: more connections are taken from these.
    pub addresses: Vec<IpAddr>,
    /// Whether clients may come through them only.
    pub only: bool,
    /// Whether whoever has an account there may register.
    pub register: bool,
    /// Whether a record that is registered from an account of a relay opens only for that
    /// account, where its owner does not say it.
    pub bind: bool,
}

/// Most relays of a site.
const RELAYS_LIMIT: usize = 16;

impl Relays {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The Ed25519 public keys of the relays, decoded.
    pub fn decoded(&self) -> Result<Vec<[u8; 32]>, ConfigError> {
        let value = |what| ConfigError::Value { key: "relays.keys", what };
        if self.keys.len() > RELAYS_LIMIT {
            return Err(value("must be at most 16"));
        }
        let keys = self.keys.iter().map(|text| {
            unhex(text).filter(|key| VerifyingKey::from_bytes(key).is_ok_and(|key| !key.is_weak()))
        });
        let keys: Vec<[u8; 32]> = keys
            .collect::<Option<_>>()
            .ok_or_else(|| value("must be 64 hexadecimal digits each, of a relay's key"))?;
        if keys.is_empty() && (self.only || self.register || self.bind) {
            return Err(value("must name a relay if only, register or bind is set"));
        }
        Ok(keys)
    }
}

/// Where a site's keys are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Keys {
    /// In the file `keys` of the site's folder.
    // Braces: serde lets unknown fields pass beside a unit variant.
    File {},
    /// In a PKCS#11 token.
    Pkcs11(Token),
}

impl Default for Keys {
    fn default() -> Self {
        Self::File {}
    }
}

/// A PKCS#11 token and the way into it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The PKCS#11 library of the token's maker.
    pub module: PathBuf,
    /// The label of the token.
    pub token: String,
    /// A file with the user's PIN; without it systemd's credential
    /// `amberfs-vault.pin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin_file: Option<PathBuf>,
    /// Sessions to work with at once, 1 to 64.
    #[serde(default = "sessions")]
    pub sessions: u32,
    /// Milliseconds after which one operation of the token counts as failed,
    /// 10 to 60000.
    #[serde(default = "deadline_ms")]
    pub deadline_ms: u32,
}

fn sessions() -> u32 {
    4
}

fn deadline_ms() -> u32 {
    5000
}

impl Token {
    /// A token with the default numbers.
    pub fn new(module: PathBuf, token: String, pin_file: Option<PathBuf>) -> Self {
        Self { module, token, pin_file, sessions: sessions(), deadline_ms: deadline_ms() }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let paths = [("module", Some(&self.module)), ("pin_file", self.pin_file.as_ref())];
        for (key, path) in paths {
            if path.is_some_and(|path| !path.is_absolute()) {
                return Err(ConfigError::Value { key, what: "must be an absolute path" });
            }
        }
        if !(1..=64).contains(&self.sessions) {
            return Err(ConfigError::Value { key: "sessions", what: "must be 1 to 64" });
        }
        if !(10..=60_000).contains(&self.deadline_ms) {
            return Err(ConfigError::Value { key: "deadline_ms", what: "must be 10 to 60000" });
        }
        Ok(())
    }
}

/// Where a site's records are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum LedgerAt {
    /// In the file `ledger` of the site's folder: for a fleet of one site.
    Embedded {},
    /// In an etcd cluster, the same for all sites of a fleet.
    Etcd(Etcd),
}

impl Default for LedgerAt {
    fn default() -> Self {
        Self::Embedded {}
    }
}

/// An etcd cluster and the way into it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Etcd {
    /// `https://HOST:PORT` of 1 to 9 members; the nearest first.
    pub endpoints: Vec<String>,
    /// Who signs the members' certificates.
    pub ca: PathBuf,
    /// The certificate that this site shows to etcd, in PEM.
    pub cert: PathBuf,
    /// The private key of that certificate, a file with mode 600.
    pub key: PathBuf,
    /// Milliseconds for a connection to one member, 50 to 60000.
    #[serde(default = "connect_ms")]
    pub connect_ms: u32,
    /// Milliseconds for one write, or for one read of as many members as it
    /// takes, 200 to 60000.
    #[serde(default = "answer_ms")]
    pub deadline_ms: u32,
}

/// Most members of a cluster.
const ENDPOINTS_LIMIT: usize = 9;

fn connect_ms() -> u32 {
    1000
}

fn answer_ms() -> u32 {
    5000
}

impl Etcd {
    /// A cluster with the default times.
    pub fn new(endpoints: Vec<String>, ca: PathBuf, cert: PathBuf, key: PathBuf) -> Self {
        let (connect_ms, deadline_ms) = (connect_ms(), answer_ms());
        Self { endpoints, ca, cert, key, connect_ms, deadline_ms }
    }

    /// For a connection to one member.
    pub fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms.into())
    }

    /// For one write or read.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms.into())
    }

    fn check(&self) -> Result<(), ConfigError> {
        let value = |key, what| Err(ConfigError::Value { key, what });
        if !(1..=ENDPOINTS_LIMIT).contains(&self.endpoints.len()) {
            return value("endpoints", "must be 1 to 9");
        }
        // Without TLS anybody on the way could write to the ledger.
        if self.endpoints.iter().any(|endpoint| !endpoint.starts_with("https://")) {
            return value("endpoints", "must start with https://");
        }
        for (key, path) in [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)] {
            if !path.is_absolute() {
                return value(key, "must be an absolute path");
            }
        }
        if !(50..=60_000).contains(&self.connect_ms) {
            return value("connect_ms", "must be 50 to 60000");
        }
        if !(200..=60_000).contains(&self.deadline_ms) {
            return value("deadline_ms", "must be 200 to 60000");
        }
        Ok(())
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read or written.
    #[error("{CONFIG}: {0}")]
    Io(#[from] io::Error),
    /// Not the file's language, or an unknown key.
    #[error("{CONFIG}: {0}")]
    Syntax(String),
    /// A value outside what is allowed.
    #[error("{CONFIG}: {key} {what}")]
    Value {
        /// The name of the setting.
        key: &'static str,
        /// What the value must be.
        what: &'static str,
    },
}

/// What is wrong with a settings file, and in which line of it.
pub fn in_one_line(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let number = before.map_or(1, |before| before.matches('\n').count() + 1);
    let line = text.lines().nth(number - 1).unwrap_or_default().trim();
    format!("line {number} ({line}): {}", error.message())
}

impl Config {
    /// Parses the text of `vault.toml` and checks every value.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self =
            toml::from_str(text).map_err(|error| ConfigError::Syntax(in_one_line(text, &error)))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        match &self.keys {
            Keys::File {} => {}
            Keys::Pkcs11(token) => token.check()?,
        }
        self.relays.decoded()?;
        self.notify.check()?;
        if self.serve.linger_seconds > 300 {
            return Err(ConfigError::Value { key: "linger_seconds", what: "must be at most 300" });
        }
        match &self.ledger {
            LedgerAt::Embedded {} => Ok(()),
            LedgerAt::Etcd(etcd) => etcd.check(),
        }
    }

    /// The settings of a site's folder.
    pub fn load(folder: &dyn PrivateFolder) -> Result<Self, ConfigError> {
        match folder.read(CONFIG, CONFIG_LIMIT) {
            Ok(bytes) => {
                let text = String::from_utf8(bytes)
                    .map_err(|_| ConfigError::Syntax("not UTF-8".to_owned()))?;
                Self::parse(&text)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the settings into a site's folder.
    pub fn store(&self, folder: &dyn PrivateFolder) -> Result<(), ConfigError> {
        self.check()?;
        let text = toml::to_string(self).map_err(|error| ConfigError::Syntax(error.to_string()))?;
        Ok(folder.replace(CONFIG, text.as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hex;
    use crate::io::sim::SimWorld;
    use ed25519_dalek::SigningKey;

    const TOKEN: &str = "[keys]\nkind = \"pkcs11\"\nmodule = \"/lib/p11.so\"\ntoken = \"vault\"\n";

    const ETCD: &str = "[ledger]\nkind = \"etcd\"\nendpoints = [\"https://a:2379\"]\n\
         ca = \"/e/ca\"\ncert = \"/e/cert\"\nkey = \"/e/key\"\n";

    fn etcd() -> Etcd {
        let endpoints = vec!["https://a:2379".into()];
        Etcd::new(endpoints, "/e/ca".into(), "/e/cert".into(), "/e/key".into())
    }

    #[test]
    fn a_ledger_on_etcd_has_its_times_by_default() {
        let config = Config { ledger: LedgerAt::Etcd(etcd()), ..Config::default() };
        assert_eq!(Config::parse(ETCD).unwrap(), config);
        assert_eq!(etcd().deadline(), Duration::from_secs(5));
        for (key, line) in [
            ("unknown", "user = \"root\""),
            ("connect_ms", "connect_ms = 1"),
            ("deadline_ms", "deadline_ms = 60001"),
        ] {
            let refused = refusal(&format!("{ETCD}{line}\n"));
            assert!(refused.contains(key), "{line}: {refused}");
        }
        for (key, from, to) in [
            ("endpoints", "https://a", "http://a"),
            ("endpoints", "\"https://a:2379\"", ""),
            ("key", "/e/key", "e/key"),
            ("ca", "ca = \"/e/ca\"\n", ""),
        ] {
            let refused = refusal(&ETCD.replace(from, to));
            assert!(refused.contains(key), "{to}: {refused}");
        }
        assert!(refusal("[ledger]\nkind = \"embedded\"\nca = \"/x\"\n").contains("ca"));
    }

    fn refusal(text: &str) -> String {
        Config::parse(text).err().unwrap().to_string()
    }

    #[test]
    fn without_a_file_keys_are_in_a_file() {
        let folder = SimWorld::new().folder("vault");
        assert_eq!(Config::load(&*folder).unwrap().keys, Keys::File {});
        for text in ["", "[keys]\nkind = \"file\"\n"] {
            assert_eq!(Config::parse(text).unwrap(), Config::default(), "{text}");
        }
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let folder = SimWorld::new().folder("vault");
        let mut token = Token::new("/lib/p11.so".into(), "a \"label\"".into(), None);
        for pin_file in [None, Some(PathBuf::from("/run/pin"))] {
            token.pin_file = pin_file;
            let config = Config {
                keys: Keys::Pkcs11(token.clone()),
                ledger: LedgerAt::Etcd(etcd()),
                relays: Relays {
                    keys: vec![hex(&SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes())],
                    addresses: vec!["192.0.2.1".parse().unwrap()],
                    only: true,
                    register: true,
                    bind: true,
                },
                serve: Serve {
                    listen: Some("[::]:7007".into()),
                    advertise: vec!["vault.example.org:7007".into()],
                    open_registration: true,
                    registrations_each: 1,
                    registrations: 2,
                    delays: false,
                    admin: Some("127.0.0.1:7008".parse().unwrap()),
                    log_json: true,
                    linger_seconds: 10,
                },
                notify: Notify { command: vec!["/bin/page".into()], wrong_per_hour: 7 },
            };
            config.store(&*folder).unwrap();
            assert_eq!(Config::load(&*folder).unwrap(), config);
        }
    }

    #[test]
    fn relays_that_cannot_be_are_refused() {
        let relays = |text: &str| format!("[relays]\n{text}\n");
        let bad = ["keys = [\"ab\"]", "only = true", "register = true", "bind = true"];
        let zeros = format!("keys = [\"{}\"]", "00".repeat(32));
        for text in bad.iter().chain([&&*zeros]) {
            assert!(refusal(&relays(text)).contains("relays.keys"), "{text}");
        }
        assert!(refusal(&relays("addresses = [\"somewhere\"]")).contains("addresses"));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let texts = [
            ("unknown", "unknown = 1\n".to_owned()),
            ("keyz", "[keyz]\nkind = \"file\"\n".to_owned()),
            ("token", "[keys]\nkind = \"file\"\ntoken = \"vault\"\n".to_owned()),
            ("pinfile", format!("{TOKEN}pinfile = \"/run/pin\"\n")),
            ("cloud", "[keys]\nkind = \"cloud\"\n".to_owned()),
        ];
        for (key, text) in texts {
            let refused = refusal(&text);
            assert!(refused.contains(key), "{key}: {refused}");
        }
    }

    #[test]
    fn values_outside_their_limits_are_refused() {
        assert!(Config::parse(TOKEN).is_ok());
        for (key, line) in [
            ("sessions", "sessions = 0"),
            ("sessions", "sessions = 65"),
            ("sessions", "sessions = 300"),
            ("deadline_ms", "deadline_ms = 9"),
            ("deadline_ms", "deadline_ms = 60001"),
            ("pin_file", "pin_file = \"pin\""),
        ] {
            let refused = refusal(&format!("{TOKEN}{line}\n"));
            assert!(refused.contains(key), "{line}: {refused}");
        }
        assert!(refusal(&TOKEN.replace("/lib", "lib")).contains("module must be an absolute path"));
        assert!(refusal(&TOKEN.replace("token = \"vault\"\n", "")).contains("token"));
        assert!(refusal("[keys]\n").contains("kind"));
        assert!(refusal("[serve]\nlinger_seconds = 301\n").contains("linger_seconds"));
        assert!(refusal("[serve]\nopen = true\n").contains("open"));
        assert!(refusal("[notify]\ncommand = [\"page\"]\n").contains("notify.command"));
        assert!(refusal("[notify]\nwrong_per_hour = 0\n").contains("wrong_per_hour"));
    }
}
