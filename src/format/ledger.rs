//! Rows of a device's ledger: what it keeps or gives back in its own folder, and its kept
//! commits (`docs/format.md`, "Ledger").

use super::commit::Name;
use super::container::Kind;
use super::node::{Id, LEVEL_MAX};
use super::wire::{DecodeError, Decoder, Encoder, Result};
use crate::crypto::{DeviceId, Hash};
use crate::io::Timestamp;

/// Longest label of a kept commit, bytes.
pub const LABEL_MAX: usize = 255;
const CONTAINER: u8 = 1;
const KEPT: u8 = 2;

/// The key of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A head or object: the device in whose folder it lies, and its hash.
    Container(DeviceId, Hash),
    /// A kept commit: the generation of its head.
    Kept(u64),
    /// A kind that this version does not know: kind, rest.
    Opaque(u8, Vec<u8>),
}

/// What a ledger says of a head or object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Container {
    /// Head, data, metadata or index run.
    pub kind: Kind,
    /// A head's own generation; else that of the head which listed it first.
    pub generation: u64,
    /// The size of the container's file in bytes.
    pub size: u64,
    /// The generation since which it is given back; 0 while it is kept.
    pub condemned: u64,
}

/// A commit whose tree is kept although its head may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// When the commit was made, by the wall clock of its device.
    pub time: Timestamp,
    /// Root node of its namespace tree, and its level.
    pub root: (Id, u8),
    /// How many inodes the namespace of the commit has.
    pub inodes: u64,
    /// Sum of file sizes, bytes.
    pub bytes: u64,
    /// What its owner calls it, or empty.
    pub label: String,
}

impl Key {
    /// Bytes whose order is the order of the ledger.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Container(device, hash) => [&[CONTAINER][..], device, hash].concat(),
            Self::Kept(generation) => [&[KEPT][..], &generation.to_be_bytes()].concat(),
            Self::Opaque(kind, rest) => [&[*kind][..], rest].concat(),
        }
    }

    /// The lowest key of a kept commit.
    pub fn kept() -> Vec<u8> {
        vec![KEPT]
    }

    /// Reads a key; unknown kinds become [`Key::Opaque`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes);
        let key = match input.u8()? {
            CONTAINER => Self::Container(input.array()?, input.array()?),
            KEPT => Self::Kept(u64::from_be_bytes(input.array()?)),
            kind => Self::Opaque(kind, input.raw(input.remaining())?.to_vec()),
        };
        input.end()?;
        Ok(key)
    }
}

impl Container {
    /// The name of the head or object with this hash, in the folder of a device, of which this is the row.
    pub fn name(&self, device: DeviceId, hash: Hash) -> Name {
        match self.kind {
            Kind::Head => Name::Head { device, generation: self.generation, hash },
            _ => Name::Object { device, hash },
        }
    }

    /// Encodes the row in its canonical form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u8(self.kind as u8).var(self.generation).var(self.size).var(self.condemned);
        out.finish()
    }

    /// Decodes the row of a container. A generation of 0 is an error, and so is the kind *header*.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes);
        let container = Self {
            kind: Kind::from_byte(input.u8()?)?,
            generation: input.var()?,
            size: input.var()?,
            condemned: input.var()?,
        };
        input.end()?;
        if container.kind == Kind::Header || container.generation == 0 {
            return Err(DecodeError::Invalid("row of a container"));
        }
        Ok(container)
    }
}

impl Kept {
    /// Encodes the row in its canonical form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.time(self.time)
            .raw(&self.root.0)
            .u8(self.root.1)
            .var(self.inodes)
            .var(self.bytes)
            .bytes(self.label.as_bytes());
        out.finish()
    }

    /// Decodes the row of a kept commit. A label that is not UTF-8 is an error.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes);
        let kept = Self {
            time: input.time()?,
            root: (input.array()?, input.u8()?),
            inodes: input.var()?,
            bytes: input.var()?,
            label: String::from_utf8(input.bytes(LABEL_MAX, "label")?.to_vec())
                .map_err(|_| DecodeError::Invalid("label"))?,
        };
        input.end()?;
        if kept.root.1 > LEVEL_MAX {
            return Err(DecodeError::Limit("level"));
        }
        Ok(kept)
    }
}

/// A row of each kind, encoded: key and value.
#[cfg(test)]
pub(crate) fn samples() -> Vec<(Vec<u8>, Vec<u8>)> {
    let container = Container { kind: Kind::Data, generation: 5, size: 300, condemned: 7 };
    let kept = Kept {
        time: Timestamp { secs: -5, nanos: 999_999_999 },
        root: ([4; 16], 2),
        inodes: 3,
        bytes: 400,
        label: "before the trip".into(),
    };
    vec![
        (Key::Container([1; 16], [2; 32]).encode(), container.encode()),
        (Key::Kept(258).encode(), kept.encode()),
        (Key::Opaque(9, b"later".to_vec()).encode(), b"anything".to_vec()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_and_every_cut_is_refused() {
        for (key, value) in samples() {
            let decoded = Key::decode(&key).unwrap();
            assert_eq!(decoded.encode(), key);
            let read: fn(&[u8]) -> Result<Vec<u8>> = match decoded {
                Key::Container(..) => |bytes| Container::decode(bytes).map(|row| row.encode()),
                Key::Kept(_) => |bytes| Kept::decode(bytes).map(|row| row.encode()),
                Key::Opaque(..) => continue,
            };
            assert_eq!(read(&value), Ok(value.clone()));
            for cut in 0..value.len() {
                assert!(read(&value[..cut]).is_err(), "{cut}");
            }
            for cut in 1..key.len() {
                assert!(Key::decode(&key[..cut]).is_err(), "{cut}");
            }
        }
        assert!(Key::decode(&[]).is_err());
    }

    #[test]
    fn generations_sort_as_numbers_and_impossible_rows_are_refused() {
        assert!(Key::Kept(255).encode() < Key::Kept(256).encode());
        let good = Container { kind: Kind::Head, generation: 1, size: 0, condemned: 0 };
        assert_eq!(Container::decode(&good.encode()), Ok(good));
        for bad in [Container { kind: Kind::Header, ..good }, Container { generation: 0, ..good }] {
            let refused = Err(DecodeError::Invalid("row of a container"));
            assert_eq!(Container::decode(&bad.encode()), refused);
        }
        assert!(Container::decode(&[99, 1, 0, 0]).is_err());
        let (_, mut kept) = samples().swap_remove(1);
        let level = kept.len() - "before the trip".len() - 1 - 2 - 1 - 1;
        assert_eq!(kept[level], 2);
        kept[level] = LEVEL_MAX + 1;
        assert_eq!(Kept::decode(&kept), Err(DecodeError::Limit("level")));
    }
}
