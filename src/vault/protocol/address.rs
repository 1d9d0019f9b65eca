//! The address of a vault as a person types it:
//! `amber-vault://ENDPOINT,.../#FINGERPRINT`. An endpoint is `HOST:PORT` of a site, or
//! `relay+HOST:PORT`. Commands and messages call it a place.

use std::fmt;
use std::str::FromStr;

use crate::crypto::{hex, unhex};

/// Hash of a fleet's root keys and threshold, 32 bytes: what clients trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex(&self.0))
    }
}

/// What answers at an endpoint, and whether TLS is around the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A site answers itself.
    Direct,
    /// A relay answers, over TLS with a certificate (`relay+HOST:PORT`).
    Relay,
    /// A relay on this machine answers, without TLS (`plainrelay+HOST:PORT`).
    PlainRelay,
}

/// One endpoint of a vault's address, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// What answers at this endpoint.
    pub transport: Transport,
    /// The host and port, `HOST:PORT`.
    pub host: &'a str,
}

impl<'a> Endpoint<'a> {
    /// Parses `HOST:PORT`, `relay+HOST:PORT` or `plainrelay+HOST:PORT`.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (transport, host) = match text.split_once('+') {
            None => (Transport::Direct, text),
            Some(("relay", host)) => (Transport::Relay, host),
            Some(("plainrelay", host)) => (Transport::PlainRelay, host),
            Some(_) => return None,
        };
        (text.len() <= ENDPOINT_LIMIT && host_is_valid(host)).then_some(Self { transport, host })
    }
}

/// Most endpoints in one address.
pub const ENDPOINTS_LIMIT: usize = 5;
/// Most bytes of an endpoint.
const ENDPOINT_LIMIT: usize = 128;
const SCHEME: &str = "amber-vault://";

/// The address of a vault: its endpoints, and the fingerprint of its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    hosts: Vec<String>,
    fingerprint: Fingerprint,
}

/// Why a text is not an address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// Another scheme or none.
    #[error("a vault address starts with amber-vault://")]
    Scheme,
    /// No `/#` and 64 digits.
    #[error("a vault address ends in /# and a fingerprint of 64 hexadecimal digits")]
    Fingerprint,
    /// A host without port, or with characters that no host has.
    #[error(
        "a vault address has 1 to {ENDPOINTS_LIMIT} places of the form HOST:PORT or relay+HOST:PORT, between commas"
    )]
    Host,
}

fn host_is_valid(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let good = match bracketed {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(plain),
    };
    // One spelling of a port: no sign, no leading zero.
    good && port.parse::<u16>().is_ok_and(|number| number > 0 && number.to_string() == port)
}

impl Address {
    /// An address of 1 to [`ENDPOINTS_LIMIT`] endpoints.
    pub fn new(hosts: Vec<String>, fingerprint: Fingerprint) -> Result<Self, AddressError> {
        let count = (1..=ENDPOINTS_LIMIT).contains(&hosts.len());
        if !count || !hosts.iter().all(|host| Endpoint::parse(host).is_some()) {
            return Err(AddressError::Host);
        }
        Ok(Self { hosts, fingerprint })
    }

    /// The endpoints, each a text that [`Endpoint::parse`] accepts.
    pub fn endpoints(&self) -> &[String] {
        &self.hosts
    }

    /// The fingerprint of the fleet's root.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{SCHEME}{}/#{}", self.hosts.join(","), self.fingerprint)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = text.trim().strip_prefix(SCHEME).ok_or(AddressError::Scheme)?;
        let (hosts, fingerprint) = rest.split_once("/#").ok_or(AddressError::Fingerprint)?;
        let fingerprint = unhex(&fingerprint.to_ascii_lowercase())
            .map(Fingerprint)
            .ok_or(AddressError::Fingerprint)?;
        Self::new(hosts.split(',').map(str::to_owned).collect(), fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_being_written_and_read() {
        let print = "ab".repeat(32);
        for hosts in [
            "127.0.0.1:7007",
            "a.example:1,b-2.example:65535",
            "[::1]:80",
            "relay+r.example:443,plainrelay+127.0.0.1:8,b:1",
        ] {
            let text = format!("amber-vault://{hosts}/#{print}");
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn bad_addresses_are_named() {
        let print = "ab".repeat(32);
        let read = |text: &str| text.parse::<Address>().err();
        assert_eq!(read("https://x:1/#"), Some(AddressError::Scheme));
        assert_eq!(read("amber-vault://x:1"), Some(AddressError::Fingerprint));
        assert_eq!(read("amber-vault://x:1/#abcd"), Some(AddressError::Fingerprint));
        for host in [
            "",
            "x",
            "x:",
            "x:0",
            "x:70000",
            "x:+1",
            "x:01",
            "a b:1",
            "x:1,",
            "[z]:1",
            ":1",
            "relay+",
            "+x:1",
            "relay+relay+x:1",
            "Relay+x:1",
            "relay+x",
        ] {
            let text = format!("amber-vault://{host}/#{print}");
            assert_eq!(read(&text), Some(AddressError::Host), "{host}");
        }
        let many = ["x:1"; 6].join(",");
        assert_eq!(read(&format!("amber-vault://{many}/#{print}")), Some(AddressError::Host));
    }
}
