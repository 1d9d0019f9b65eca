//! The locator: what the folder contains so that a password opens it. It is
//! a hint, written by whoever wrote the folder.

use super::address::{Address, ENDPOINTS_LIMIT, Fingerprint};
use super::{Argon2Cost, RegistrationId, SUITE, Ticket};
use crate::format::wire::{DecodeError, Decoder, Encoder, Result};

/// Most bytes of an encoded locator.
pub const LOCATOR_LIMIT: usize = 1024;
const VERSION: u8 = 2;

/// Where the record is and what it takes to ask for it. Not secret, but with
/// it tries can be spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locator {
    /// The address of the vault that has the record.
    pub address: Address,
    /// The ticket that names the record.
    pub ticket: Ticket,
    /// The id of the registration that the record is of.
    pub registration: RegistrationId,
    /// Cost of stretching the password.
    pub cost: Argon2Cost,
    /// Unicode version (major, minor) the password was prepared under.
    pub unicode: (u8, u8),
    /// Epoch of the fleet's manifest when the owner registered: an older one is refused.
    pub epoch: u64,
}

impl Locator {
    /// At most [`LOCATOR_LIMIT`] bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u8(VERSION).u8(SUITE);
        out.raw(&self.address.fingerprint().0).raw(&self.ticket).raw(&self.registration);
        self.cost.encode(&mut out);
        out.u8(self.unicode.0).u8(self.unicode.1).u64(self.epoch);
        out.u8(self.address.endpoints().len() as u8);
        for host in self.address.endpoints() {
            out.bytes(host.as_bytes());
        }
        out.finish()
    }

    /// Reads a whole locator; costs outside floor and ceiling are refused.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > LOCATOR_LIMIT {
            return Err(DecodeError::Limit("locator"));
        }
        let mut input = Decoder::new(bytes);
        if input.u8()? != VERSION {
            return Err(DecodeError::Invalid("locator version"));
        }
        if input.u8()? != SUITE {
            return Err(DecodeError::Invalid("vault suite"));
        }
        let fingerprint = Fingerprint(input.array()?);
        let ticket = input.array()?;
        let registration = input.array()?;
        let cost = Argon2Cost::decode(&mut input)?;
        let unicode = (input.u8()?, input.u8()?);
        let epoch = input.u64()?;
        let count = input.u8()? as usize;
        if count > ENDPOINTS_LIMIT {
            return Err(DecodeError::Limit("vault hosts"));
        }
        let mut hosts = Vec::with_capacity(count);
        for _ in 0..count {
            let host = input.bytes(128, "vault host")?;
            let host = std::str::from_utf8(host).map_err(|_| DecodeError::Invalid("vault host"))?;
            hosts.push(host.to_owned());
        }
        input.end()?;
        let address =
            Address::new(hosts, fingerprint).map_err(|_| DecodeError::Invalid("vault host"))?;
        Ok(Self { address, ticket, registration, cost, unicode, epoch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn locator() -> Locator {
        Locator {
            address: Address::new(vec!["a.example:7007".into(); 5], Fingerprint([7; 32])).unwrap(),
            ticket: [1; 16],
            registration: [2; 16],
            cost: Argon2Cost::USUAL,
            unicode: (6, 3),
            epoch: 7,
        }
    }

    #[test]
    fn locators_survive_and_stay_small() {
        let bytes = locator().encode();
        assert_eq!(Locator::decode(&bytes), Ok(locator()));
        let long = format!("{}:65535", "h".repeat(122));
        let big = Locator {
            address: Address::new(vec![long; 5], Fingerprint([7; 32])).unwrap(),
            ..locator()
        };
        assert!(big.encode().len() <= LOCATOR_LIMIT);
        assert_eq!(Locator::decode(&big.encode()), Ok(big));
    }

    #[test]
    fn bad_locators_are_refused() {
        let good = locator().encode();
        for cut in 0..good.len() {
            assert!(Locator::decode(&good[..cut]).is_err());
        }
        let mut long = good.clone();
        long.push(0);
        assert_eq!(Locator::decode(&long), Err(DecodeError::Trailing));
        assert_eq!(Locator::decode(&[0; 1025]), Err(DecodeError::Limit("locator")));
        let mut cheap = good.clone();
        cheap[66..70].copy_from_slice(&1024u32.to_le_bytes());
        assert_eq!(Locator::decode(&cheap), Err(DecodeError::Invalid("Argon2id cost")));
        let mut newer = good;
        newer[1] = 2;
        assert_eq!(Locator::decode(&newer), Err(DecodeError::Invalid("vault suite")));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(locator) = Locator::decode(&bytes) {
                prop_assert_eq!(locator.encode(), bytes);
            }
        }

        #[test]
        fn a_flipped_byte_is_refused_or_read_canonically(at in 0usize..160, with in 1u8..) {
            let mut bytes = locator().encode();
            let at = at % bytes.len();
            bytes[at] ^= with;
            if let Ok(read) = Locator::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }
}
