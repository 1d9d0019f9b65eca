//! The record of local state: who this device is and how far it has come.
//!
//! It is public data (ids, generations, hashes); the BLAKE3 hash at its end
//! only finds torn or damaged bytes.

use std::io;

use super::retention::DaySteps;
use crate::crypto::{DeviceId, Hash, RepoId, hash};
use crate::format::clock::Generations;
use crate::format::wire::{DecodeError, Decoder, Encoder, Result};
use crate::io::PrivateFolder;

/// File name in local state.
const FILE: &str = "device";
const MAGIC: [u8; 8] = *b"amberst\0";
const LIMIT: u64 = 4 << 20;
/// Most heads whose join a journal is based on.
const HEADS_MAX: u64 = 1 << 16;
/// Most earlier ids of one device that no head has retired yet.
const RETIRES_MAX: u64 = 1 << 10;

/// What this device knows of itself and of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The repository.
    pub repo: RepoId,
    /// This device.
    pub device: DeviceId,
    /// What it calls itself.
    pub name: String,
    /// Machine and folder that the state is bound to.
    pub place: Hash,
    /// Generation of its newest head, 0 before the first.
    pub generation: u64,
    /// The newest generation of its heads that others must answer.
    pub news: u64,
    /// Hash of its newest head, zeros before the first.
    pub head: Hash,
    /// Highest journal sequence number in that head.
    pub journal: u64,
    /// Hashes of the heads on which the records of the journal were made, ascending; none in
    /// a repository without a head. Of several the join is meant.
    pub base: Vec<Hash>,
    /// Highest generation seen of each device.
    pub seen: Generations,
    /// The id from which the keys of the journal are derived: the first one of this local state.
    pub journal_of: DeviceId,
    /// Earlier ids of this device, which its next head retires, ascending.
    pub retires: Vec<DeviceId>,
    /// Days on which it ran.
    pub steps: DaySteps,
    /// Of its heads that give something back the generation, and on how many days it had run when they
    /// were known to have entered; ascending.
    pub entered: Vec<(u64, u64)>,
    /// On how many days it had run when it swept last; 0 if it never did.
    pub swept: u64,
}

impl State {
    /// Gives the device another id. It keeps its journal, and what it saw; its next head
    /// retires the id that it had.
    pub fn renew(&mut self, device: DeviceId) {
        if self.generation > 0 {
            self.seen.add(self.device, self.generation);
        }
        if let Err(at) = self.retires.binary_search(&self.device) {
            self.retires.insert(at, self.device);
        }
        (self.device, self.generation, self.news, self.head) = (device, 0, 0, [0; 32]);
        self.entered.clear();
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.raw(&MAGIC)
            .u16(1)
            .raw(&self.repo)
            .raw(&self.device)
            .bytes(self.name.as_bytes())
            .raw(&self.place)
            .u64(self.generation)
            .u64(self.news)
            .raw(&self.head)
            .u64(self.journal)
            .var(self.base.len() as u64);
        for head in &self.base {
            out.raw(head);
        }
        self.seen.encode(&mut out);
        out.raw(&self.journal_of).var(self.retires.len() as u64);
        for device in &self.retires {
            out.raw(device);
        }
        self.steps.encode(&mut out);
        out.var(self.entered.len() as u64);
        for (generation, steps) in &self.entered {
            out.var(*generation).var(*steps);
        }
        out.var(self.swept);
        let mut bytes = out.finish();
        let check = hash(&bytes);
        bytes.extend_from_slice(&check);
        bytes
    }

    /// Reads the record.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let body = bytes.len().checked_sub(32).ok_or(DecodeError::Short)?;
        if hash(&bytes[..body]) != bytes[body..] {
            return Err(DecodeError::Invalid("checksum"));
        }
        let mut input = Decoder::new(&bytes[..body]);
        if input.array::<8>()? != MAGIC || input.u16()? != 1 {
            return Err(DecodeError::Invalid("version"));
        }
        let state = Self {
            repo: input.array()?,
            device: input.array()?,
            name: String::from_utf8(input.bytes(255, "name")?.to_vec())
                .map_err(|_| DecodeError::Invalid("name"))?,
            place: input.array()?,
            generation: input.u64()?,
            news: input.u64()?,
            head: input.array()?,
            journal: input.u64()?,
            base: ascending(&mut input, HEADS_MAX, "order of heads")?,
            seen: Generations::decode(&mut input)?,
            journal_of: input.array()?,
            retires: ascending(&mut input, RETIRES_MAX, "order of retired ids")?,
            steps: DaySteps::decode(&mut input)?,
            entered: entered(&mut input)?,
            swept: input.var()?,
        };
        input.end()?;
        Ok(state)
    }

    /// Loads it from local state; `None` if there is none yet.
    pub fn load(folder: &dyn PrivateFolder) -> io::Result<Option<Self>> {
        match folder.read(FILE, LIMIT) {
            Ok(bytes) => Self::decode(&bytes)
                .map(Some)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Generations that the record in local state has seen, its own among them; none if
    /// there is no record, or its bytes are damaged.
    pub(crate) fn seen_in(folder: &dyn PrivateFolder) -> io::Result<Generations> {
        let state = match Self::load(folder) {
            Ok(Some(state)) => state,
            Ok(None) => return Ok(Generations::default()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Ok(Generations::default());
            }
            Err(error) => return Err(error),
        };
        let mut seen = state.seen;
        if state.generation > 0 {
            seen.add(state.device, state.generation);
        }
        Ok(seen)
    }

    /// Stores it; either the old or the new record survives a crash.
    pub fn store(&self, folder: &dyn PrivateFolder) -> io::Result<()> {
        folder.replace(FILE, &self.encode())
    }
}

/// Generations, ascending, and a number for each.
fn entered(input: &mut Decoder<'_>) -> Result<Vec<(u64, u64)>> {
    let mut all: Vec<(u64, u64)> = Vec::new();
    for _ in 0..input.var_max(HEADS_MAX, "heads that give back")? {
        let next = (input.var()?, input.var()?);
        if all.last().is_some_and(|last| last.0 >= next.0) {
            return Err(DecodeError::Invalid("order of generations"));
        }
        all.push(next);
    }
    Ok(all)
}

/// A list of at most `most` ids or hashes, each above the one before.
fn ascending<const LEN: usize>(
    input: &mut Decoder<'_>,
    most: u64,
    order: &'static str,
) -> Result<Vec<[u8; LEN]>> {
    let mut all: Vec<[u8; LEN]> = Vec::new();
    for _ in 0..input.var_max(most, order)? {
        let next = input.array()?;
        if all.last().is_some_and(|last| *last >= next) {
            return Err(DecodeError::Invalid(order));
        }
        all.push(next);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_and_damage_is_noticed() {
        let state = State {
            repo: [1; 16],
            device: [2; 16],
            name: "laptop".into(),
            place: [3; 32],
            generation: 4,
            news: 3,
            head: [5; 32],
            journal: 6,
            base: vec![[7; 32], [8; 32]],
            seen: [([2; 16], 4)].into_iter().collect(),
            journal_of: [2; 16],
            retires: vec![[9; 16], [10; 16]],
            steps: DaySteps::default(),
            entered: vec![(3, 5), (4, 5)],
            swept: 5,
        };
        let bytes = state.encode();
        assert_eq!(State::decode(&bytes), Ok(state.clone()));
        // A device named twice: one generation would hide the other.
        let behind = 32 + 1 + 5 + 4 + 16 + 1 + 2 * 16;
        let (start, end) = bytes.split_at(bytes.len() - behind);
        let mut twice = start.to_vec();
        let count = twice.len() - 18;
        twice[count] = 2;
        twice.extend_from_slice(&[2; 16]);
        twice.push(9);
        twice.extend_from_slice(&end[..behind - 32]);
        twice.extend_from_slice(&hash(&twice.clone()));
        assert_eq!(State::decode(&twice), Err(DecodeError::Invalid("device order")));
        for (unordered, what) in [
            (State { base: vec![[8; 32], [7; 32]], ..state.clone() }, "order of heads"),
            (State { retires: vec![[9; 16], [9; 16]], ..state }, "order of retired ids"),
        ] {
            assert_eq!(State::decode(&unordered.encode()), Err(DecodeError::Invalid(what)));
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(State::decode(&flipped).is_err());
            assert!(State::decode(&bytes[..at]).is_err());
        }
    }
}
