//! How keys are found in a token: by class and id. The label is for people.

use crate::crypto::hex;
use crate::vault::protocol::FleetId;

/// What a key is for, and so what it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// HMAC key that gives each record's OPRF key.
    Seed = 1,
    /// P-256 key for 3DH.
    Ake = 2,
    /// HMAC key that seals the ledger's values.
    Seal = 3,
    /// HMAC key that names records; one a fleet, generation 0.
    Lookup = 4,
    /// P-256 key of this site's TLS; generation 0.
    Tls = 5,
    /// RSA key under which other keys reach this token; generation 0.
    Wrapping = 6,
}

/// One key, or key pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyName {
    /// The fleet that the key belongs to.
    pub fleet: FleetId,
    /// The key generation; 0 for keys that have none.
    pub generation: u32,
    /// What the key is used for.
    pub purpose: Purpose,
}

impl KeyName {
    /// `CKA_ID`: fleet (16), generation (4, little-endian), purpose (1).
    pub fn id(&self) -> Vec<u8> {
        let mut id = self.fleet.to_vec();
        id.extend_from_slice(&self.generation.to_le_bytes());
        id.push(self.purpose as u8);
        id
    }

    /// The key's `CKA_LABEL` in the token.
    pub fn label(&self) -> String {
        format!("amberfs-vault {self}")
    }
}

impl std::fmt::Display for KeyName {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.purpose {
            Purpose::Seed => "OPRF seed",
            Purpose::Ake => "AKE key",
            Purpose::Seal => "seal key",
            Purpose::Lookup => "lookup key",
            Purpose::Tls => "TLS key",
            Purpose::Wrapping => "wrapping key",
        };
        write!(out, "{what}")?;
        if self.generation != 0 {
            write!(out, " of generation {}", self.generation)?;
        }
        write!(out, " of fleet {}", hex(&self.fleet[..4]))
    }
}
