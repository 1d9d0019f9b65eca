//! The one suite: OPAQUE (RFC 9807) with the P-256 OPRF, 3DH over P-256 with
//! SHA-256, and Argon2id (RFC 9106) at an explicit cost.

use std::cell::RefCell;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use opaque_ke::errors::InternalError;
use opaque_ke::generic_array::{ArrayLength, GenericArray};
use opaque_ke::ksf::Ksf;
use opaque_ke::{CipherSuite, TripleDh};
use rand::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use crate::format::wire::{DecodeError, Decoder, Encoder, Result};
use crate::io::{Clock, Random};

/// The number of this suite in records and locators. Others are reserved (a
/// threshold OPRF).
pub const SUITE: u8 = 1;
/// Bytes of a registration request (a blinded password).
pub const REGISTER_REQUEST: usize = 33;
/// Bytes of the reply to it.
pub const REGISTER_REPLY: usize = 66;
/// Bytes of the registration upload; as secret as a password hash.
pub const REGISTER_UPLOAD: usize = 129;
/// Bytes of KE1, the first message of an attempt.
pub const KE1: usize = 98;
/// Bytes of KE2, the vault's answer.
pub const KE2: usize = 259;
/// Bytes of KE3, the client's proof.
pub const KE3: usize = 32;
/// Bytes of the vault's state between KE2 and KE3; as secret as the record.
pub const LOGIN_STATE: usize = 64;
/// Bytes of the vault's long-term public key, a compressed point.
pub const AKE_PUBLIC: usize = 33;

/// The type-level suite for opaque-ke.
pub struct Suite;

impl CipherSuite for Suite {
    type OprfCs = p256::NistP256;
    type KeyExchange = TripleDh<p256::NistP256, sha2::Sha256>;
    type Ksf = Stretch;
}

/// Cost of Argon2id. Stands beside the locator and is bound by the password
/// input, so whoever lowers it only makes the password wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Cost {
    /// Memory that Argon2id uses, in KiB.
    pub memory: u32,
    /// How many passes Argon2id makes over its memory.
    pub passes: u32,
    /// Lanes; computed one after the other here.
    pub lanes: u32,
}

/// A cost outside what a client agrees to.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "Argon2id cost {} MiB x {} passes x {} lanes is outside what amberfs accepts",
    .0.memory / 1024, .0.passes, .0.lanes
)]
pub struct CostError(pub Argon2Cost);

impl Argon2Cost {
    /// The least anybody may register with: 64 MiB, 3 passes.
    pub const FLOOR: Self = Self { memory: 64 * 1024, passes: 3, lanes: 1 };
    /// The most a client computes; above it a locator could stop a machine.
    pub const CEILING: Self = Self { memory: 2 * 1024 * 1024, passes: 16, lanes: 4 };
    /// Where calibration starts: 256 MiB, 3 passes.
    pub const USUAL: Self = Self { memory: 256 * 1024, passes: 3, lanes: 1 };
    /// Bytes of an encoded cost.
    pub const ENCODED: usize = 12;

    /// Checks floor and ceiling.
    pub fn check(self) -> std::result::Result<Self, CostError> {
        let inside = |value: u32, low: u32, high: u32| (low..=high).contains(&value);
        if inside(self.memory, Self::FLOOR.memory, Self::CEILING.memory)
            && inside(self.passes, Self::FLOOR.passes, Self::CEILING.passes)
            && inside(self.lanes, Self::FLOOR.lanes, Self::CEILING.lanes)
        {
            Ok(self)
        } else {
            Err(CostError(self))
        }
    }

    /// The larger of two costs in every respect.
    #[must_use]
    pub fn at_least(self, other: Self) -> Self {
        Self {
            memory: self.memory.max(other.memory),
            passes: self.passes.max(other.passes),
            lanes: self.lanes.max(other.lanes),
        }
    }

    fn params(self, output: Option<usize>) -> argon2::Result<Params> {
        Params::new(self.memory, self.passes, self.lanes, output)
    }

    /// Appends the 12 bytes of the cost.
    pub fn encode(self, out: &mut Encoder) {
        out.u32(self.memory).u32(self.passes).u32(self.lanes);
    }

    /// Reads 12 bytes; a cost outside floor and ceiling is refused.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Self> {
        let cost = Self { memory: input.u32()?, passes: input.u32()?, lanes: input.u32()? };
        cost.check().map_err(|_| DecodeError::Invalid("Argon2id cost"))
    }

    /// A cost of about a second on this machine: at least [`Self::USUAL`], with
    /// memory doubled and then passes added while there is time left.
    pub fn calibrate(clock: &dyn Clock) -> Self {
        let sample = Self { memory: 64 * 1024, passes: 1, lanes: 1 };
        let start = clock.elapsed();
        let mut output = [0; 32];
        let done = sample.params(Some(output.len())).and_then(|params| {
            let mut memory = claim(&params)?;
            argon2id(params, &mut memory, b"calibration", &[0; 16], &mut output)
        });
        let spent = clock.elapsed().saturating_sub(start).as_micros().max(1) as u64;
        if done.is_err() {
            return Self::USUAL;
        }
        // Work is memory times passes; the sample is 64 MiB times one.
        let affordable = 1_000_000 * u64::from(sample.memory) / spent;
        let mut cost = Self::USUAL;
        while u64::from(cost.memory) * 2 * u64::from(cost.passes) <= affordable
            && cost.memory < 1024 * 1024
        {
            cost.memory *= 2;
        }
        while u64::from(cost.memory) * u64::from(cost.passes + 1) <= affordable
            && cost.passes < Self::CEILING.passes
        {
            cost.passes += 1;
        }
        cost
    }
}

/// How the cost of a new registration is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argon2Choice {
    /// About a second on this machine.
    Calibrated,
    /// Exactly this; still held to floor and ceiling, and raised to the
    /// manifest's minimum.
    Exactly(Argon2Cost),
}

type Memory = Zeroizing<Vec<Block>>;

/// The memory for one computation: our own, so that it is wiped afterwards.
/// Every page is touched, so that it is really there.
fn claim(params: &Params) -> argon2::Result<Memory> {
    let mut memory = Zeroizing::new(Vec::new());
    memory.try_reserve_exact(params.block_count()).map_err(|_| argon2::Error::MemoryTooMuch)?;
    memory.resize(params.block_count(), Block::default());
    Ok(memory)
}

/// *Argon2id(password, salt)*, version 1.3.
fn argon2id(
    params: Params,
    memory: &mut Memory,
    password: &[u8],
    salt: &[u8],
    out: &mut [u8],
) -> argon2::Result<()> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into_with_memory(
        password,
        salt,
        out,
        &mut memory[..],
    )
}

/// The memory for stretching a password could not be had.
#[derive(Debug, thiserror::Error)]
#[error("too little memory for Argon2id")]
pub struct NoMemory;

/// The key stretching function. Its `Default`, which opaque-ke uses when a
/// caller forgets to pass one, refuses to work: a forgotten cost must fail and
/// not become the library's cheap one.
#[derive(Default)]
pub struct Stretch(Option<(Argon2Cost, RefCell<Memory>)>);

impl Stretch {
    /// Claims the memory for stretching at `cost`, which was checked where it
    /// was decoded or chosen. To be had before anything is sent: a try that is
    /// paid for must not fail for want of memory.
    pub fn claim(cost: Argon2Cost) -> std::result::Result<Self, NoMemory> {
        let memory = cost.params(None).and_then(|params| claim(&params)).map_err(|_| NoMemory)?;
        Ok(Self(Some((cost, RefCell::new(memory)))))
    }
}

impl Ksf for Stretch {
    fn hash<L: ArrayLength<u8>>(
        &self,
        input: GenericArray<u8, L>,
    ) -> std::result::Result<GenericArray<u8, L>, InternalError> {
        let (cost, memory) = self.0.as_ref().ok_or(InternalError::KsfError)?;
        let mut memory = memory.try_borrow_mut().map_err(|_| InternalError::KsfError)?;
        let mut output = GenericArray::default();
        // The salt is 16 zero bytes, as RFC 9807 has it: the OPRF is the salt.
        cost.params(Some(output.len()))
            .and_then(|params| argon2id(params, &mut memory, &input, &[0; 16], &mut output))
            .map_err(|_| InternalError::KsfError)?;
        Ok(output)
    }
}

/// Our source of random bytes in the shape opaque-ke wants.
pub(crate) struct Rng<'a>(pub &'a dyn Random);

impl RngCore for Rng<'_> {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, buffer: &mut [u8]) {
        self.0.fill(buffer);
    }

    fn try_fill_bytes(&mut self, buffer: &mut [u8]) -> std::result::Result<(), rand::Error> {
        self.0.fill(buffer);
        Ok(())
    }
}

impl CryptoRng for Rng<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hex;

    /// RFC 9106, section 5.3: 32 KiB, 3 passes, 4 lanes, with secret and
    /// associated data, so through the full interface of the crate.
    #[test]
    fn argon2id_known_answer_of_rfc_9106() {
        let params = argon2::ParamsBuilder::new()
            .m_cost(32)
            .t_cost(3)
            .p_cost(4)
            .data(argon2::AssociatedData::new(&[4; 12]).unwrap())
            .build()
            .unwrap();
        let argon =
            Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params).unwrap();
        let mut out = [0; 32];
        argon.hash_password_into(&[1; 32], &[2; 16], &mut out).unwrap();
        assert_eq!(hex(&out), "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659");
    }

    #[test]
    fn a_forgotten_cost_fails() {
        let input = GenericArray::<u8, opaque_ke::generic_array::typenum::U32>::default();
        assert!(Stretch::default().hash(input).is_err());
    }

    #[test]
    fn costs_outside_floor_and_ceiling_are_refused() {
        assert!(Argon2Cost::FLOOR.check().is_ok());
        assert!(Argon2Cost::USUAL.check().is_ok());
        assert!(Argon2Cost::CEILING.check().is_ok());
        let weak = Argon2Cost { memory: 19 * 1024, ..Argon2Cost::FLOOR };
        assert_eq!(weak.check(), Err(CostError(weak)));
        assert!(Argon2Cost { passes: 2, ..Argon2Cost::FLOOR }.check().is_err());
        assert!(Argon2Cost { memory: u32::MAX, ..Argon2Cost::FLOOR }.check().is_err());
        assert!(Argon2Cost { lanes: 0, ..Argon2Cost::FLOOR }.check().is_err());
    }

    struct FixedClock(std::sync::Mutex<u64>, u64);
    impl Clock for FixedClock {
        fn now(&self) -> crate::io::Timestamp {
            crate::io::Timestamp::default()
        }
        fn elapsed(&self) -> std::time::Duration {
            let mut at = self.0.lock().unwrap();
            *at += self.1;
            std::time::Duration::from_micros(*at)
        }
    }

    #[test]
    fn calibration_is_never_below_the_usual_cost() {
        let slow = Argon2Cost::calibrate(&FixedClock(std::sync::Mutex::new(0), 5_000_000));
        assert_eq!(slow, Argon2Cost::USUAL);
        let quick = Argon2Cost::calibrate(&FixedClock(std::sync::Mutex::new(0), 1_000));
        assert!(quick.check().is_ok() && quick.memory > Argon2Cost::USUAL.memory);
    }
}
