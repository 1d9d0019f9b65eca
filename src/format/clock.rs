//! Who made which change, and what a state has seen of others (`docs/format.md`, "Dots").
//!
//! Two clocks count different things, and each is a type of its own: [`Seen`] counts
//! changes by writer, [`Processed`] and [`Generations`] count heads by device.

use std::collections::BTreeMap;

use super::namespace::Ino;
use super::wire::{DecodeError, Decoder, Encoder, Result};
use crate::crypto::{DeviceId, Hash};

/// Bits of an inode number below its writer.
const COUNTER_BITS: u32 = 23;
/// Bits of a writer's number.
const WRITER_BITS: u32 = 39;
/// Bytes of an encoded writer.
pub const WRITER_BYTES: usize = 5;
/// Most devices that a clock may name.
const DEVICES_MAX: u64 = 65536;

/// One mount that writes: a random number of 39 bits, above 0. It prefixes the numbers of
/// the inodes that this mount makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Writer(u64);

impl Writer {
    /// The writer of this number; `None` for 0, which is reserved, and above 39 bits.
    pub fn new(number: u64) -> Option<Self> {
        (1..1 << WRITER_BITS).contains(&number).then_some(Self(number))
    }

    /// The writer that 8 random bytes give; `None` asks for others.
    pub fn draw(random: [u8; 8]) -> Option<Self> {
        Self::new(u64::from_le_bytes(random) & ((1 << WRITER_BITS) - 1))
    }

    /// The writer whose prefix an inode number has; `None` for the root, for losers and
    /// for snapshots.
    pub fn of(ino: Ino) -> Option<Self> {
        Self::new(ino >> COUNTER_BITS)
    }

    /// The number of the writer, from 1 to 2^39 - 1.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The first inode number with its prefix.
    pub fn first_ino(self) -> Ino {
        self.0 << COUNTER_BITS
    }

    /// The last inode number with its prefix.
    pub fn last_ino(self) -> Ino {
        self.first_ino() | ((1 << COUNTER_BITS) - 1)
    }

    /// Big-endian, so that bytes sort as numbers.
    pub fn to_bytes(self) -> [u8; WRITER_BYTES] {
        self.0.to_be_bytes()[8 - WRITER_BYTES..].try_into().expect("the last 5 of 8 bytes")
    }

    /// Decodes a writer from the bytes that [`Writer::to_bytes`] returns. The number 0 is an error,
    /// and so is one above the limit.
    pub fn from_bytes(bytes: [u8; WRITER_BYTES]) -> Result<Self> {
        let mut number = [0; 8];
        number[8 - WRITER_BYTES..].copy_from_slice(&bytes);
        Self::new(u64::from_be_bytes(number)).ok_or(DecodeError::Invalid("writer"))
    }
}

/// The change that made a value: a writer, and the number of the change among those of
/// this writer, from 1. It is known when the change is acknowledged and is the same after
/// a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// The writer that made the change.
    pub writer: Writer,
    /// The number of the change among the writer's, from 1.
    pub record: u64,
}

impl Dot {
    /// The dot; `None` for the record 0, which stands for no change.
    pub fn new(writer: Writer, record: u64) -> Option<Self> {
        (record > 0).then_some(Self { writer, record })
    }

    /// Writes the writer (5 bytes), then the record.
    pub fn encode(self, out: &mut Encoder) {
        out.raw(&self.writer.to_bytes()).var(self.record);
    }

    /// Decodes a dot, as [`Dot::encode`] writes it. A change with the number 0 is an error.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Self> {
        let writer = Writer::from_bytes(input.array()?)?;
        Self::new(writer, input.var()?).ok_or(DecodeError::Invalid("dot"))
    }
}

/// The highest change of each writer that a state contains. A state that contains a change
/// contains all that the writer made before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(BTreeMap<Writer, u64>);

impl Seen {
    /// Whether the state contains no change of any writer.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it contains the change.
    pub fn covers(&self, dot: Dot) -> bool {
        self.0.get(&dot.writer).is_some_and(|last| dot.record <= *last)
    }

    /// Contains the change from now on.
    pub fn add(&mut self, dot: Dot) {
        let last = self.0.entry(dot.writer).or_default();
        *last = dot.record.max(*last);
    }

    /// Contains all that `other` contains, too.
    pub fn join(&mut self, other: &Self) {
        other.dots().for_each(|dot| self.add(dot));
    }

    /// The last change of each writer, ascending by writer.
    pub fn dots(&self) -> impl Iterator<Item = Dot> + '_ {
        self.0.iter().map(|(writer, record)| Dot { writer: *writer, record: *record })
    }
}

/// The first 8 bytes of a head's hash: two heads of one device and generation have
/// different ones. Zeros: not all that the head names was here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub [u8; 8]);

impl Tag {
    /// The tag of the head with this hash.
    pub fn of(hash: &Hash) -> Self {
        Self(hash[..8].try_into().expect("8 of 32 bytes"))
    }
}

/// The newest head of each other device that was merged into a head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processed(BTreeMap<DeviceId, (u64, Tag)>);

impl Processed {
    /// The newest generation of the device, 0 for none.
    pub fn generation(&self, device: &DeviceId) -> u64 {
        self.0.get(device).map_or(0, |(generation, _)| *generation)
    }

    /// The newest head of the device: generation and tag.
    pub fn get(&self, device: &DeviceId) -> Option<(u64, Tag)> {
        self.0.get(device).copied()
    }

    /// The newest generation of the device, if all that its head names was here.
    pub fn held(&self, device: &DeviceId) -> Option<u64> {
        self.get(device).filter(|(_, tag)| *tag != Tag::default()).map(|(generation, _)| generation)
    }

    /// The heads of which all that they name was here: device and generation.
    pub fn all_held(&self) -> impl Iterator<Item = (DeviceId, u64)> {
        let held = self.0.iter().filter(|(_, (_, tag))| *tag != Tag::default());
        held.map(|(device, (generation, _))| (*device, *generation))
    }

    /// All of them: device and generation.
    pub fn iter(&self) -> impl Iterator<Item = (DeviceId, u64)> + '_ {
        self.0.iter().map(|(device, (generation, _))| (*device, *generation))
    }

    /// These heads without their tags, as a device names them that did not see them.
    #[must_use]
    pub fn by_hearsay(&self) -> Self {
        let heads = self.0.iter();
        Self(
            heads
                .map(|(device, (generation, _))| (*device, (*generation, Tag::default())))
                .collect(),
        )
    }

    /// Names a head, unless a newer one of its device is named.
    pub fn add(&mut self, device: DeviceId, generation: u64, tag: Tag) {
        let newest = self.0.entry(device).or_default();
        *newest = (generation, tag).max(*newest);
    }

    /// Names what `other` names, too.
    pub fn join(&mut self, other: &Self) {
        other.0.iter().for_each(|(device, (generation, tag))| self.add(*device, *generation, *tag));
    }

    /// Names no head of the device.
    pub fn remove(&mut self, device: &DeviceId) {
        self.0.remove(device);
    }

    /// Writes a list of device, generation and tag, ascending by device.
    pub fn encode(&self, out: &mut Encoder) {
        out.var(self.0.len() as u64);
        for (device, (generation, tag)) in &self.0 {
            out.raw(device).var(*generation).raw(&tag.0);
        }
    }

    /// Decodes a list of processed heads, as [`Processed::encode`] writes it. Devices that do not
    /// ascend are an error.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Self> {
        let mut heads = BTreeMap::new();
        for _ in 0..input.var_max(DEVICES_MAX, "processed heads")? {
            let device = next_device(&heads, input)?;
            let generation = input.var()?;
            if generation == 0 {
                return Err(DecodeError::Invalid("generation"));
            }
            heads.insert(device, (generation, Tag(input.array()?)));
        }
        Ok(Self(heads))
    }
}

/// What a head has of all devices' changes, as its commit says.
#[derive(Clone, Copy, Debug)]
pub struct HeadContent<'a> {
    /// The device that wrote the head.
    pub device: DeviceId,
    /// The generation of the head.
    pub generation: u64,
    /// The newest generation of the device, up to this one, that brought changes of its own.
    pub news: u64,
    /// The newest heads of other devices that are merged into it.
    pub processed: &'a Processed,
}

impl HeadContent<'_> {
    /// Whether all changes of the other head are in this one too. A head without news may still
    /// bring changes of third devices: they have to be here by themselves.
    pub fn has_all_of(&self, other: &HeadContent<'_>) -> bool {
        let merged = self.generation_of(&other.device);
        let has_named = || {
            let mut named = other.processed.0.iter();
            named.all(|(device, (generation, _))| self.generation_of(device) >= *generation)
        };
        merged >= other.generation || (merged >= other.news && has_named())
    }

    /// The newest generation of a device whose changes are in this head, 0 for none.
    fn generation_of(&self, device: &DeviceId) -> u64 {
        if *device == self.device { self.generation } else { self.processed.generation(device) }
    }
}

/// The newest generation that is known of each device's heads, in local state and in the
/// owner's notes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generations(BTreeMap<DeviceId, u64>);

impl Generations {
    /// Whether no head is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The newest generation of the device, if a head of it is known.
    pub fn get(&self, device: &DeviceId) -> Option<u64> {
        self.0.get(device).copied()
    }

    /// Whether a head of the device is known.
    pub fn knows(&self, device: &DeviceId) -> bool {
        self.0.contains_key(device)
    }

    /// Knows a head, unless a newer one of its device is known.
    pub fn add(&mut self, device: DeviceId, generation: u64) {
        let newest = self.0.entry(device).or_default();
        *newest = generation.max(*newest);
    }

    /// Knows this head and no newer one of its device.
    pub fn set(&mut self, device: DeviceId, generation: u64) {
        self.0.insert(device, generation);
    }

    /// Forgets devices for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&DeviceId) -> bool) {
        self.0.retain(|device, _| keep(device));
    }

    /// Devices and their newest generations, ascending by device.
    pub fn iter(&self) -> impl Iterator<Item = (&DeviceId, u64)> + '_ {
        self.0.iter().map(|(device, generation)| (device, *generation))
    }

    /// Writes a list of device and generation, ascending by device.
    pub fn encode(&self, out: &mut Encoder) {
        out.var(self.0.len() as u64);
        for (device, generation) in &self.0 {
            out.raw(device).var(*generation);
        }
    }

    /// Decodes a list of generations, as [`Generations::encode`] writes it. Devices that do not
    /// ascend are an error.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Self> {
        let mut newest = BTreeMap::new();
        for _ in 0..input.var_max(DEVICES_MAX, "devices")? {
            let device = next_device(&newest, input)?;
            newest.insert(device, input.var()?);
        }
        Ok(Self(newest))
    }
}

impl FromIterator<(DeviceId, u64)> for Generations {
    fn from_iter<I: IntoIterator<Item = (DeviceId, u64)>>(heads: I) -> Self {
        let mut all = Self::default();
        heads.into_iter().for_each(|(device, generation)| all.add(device, generation));
        all
    }
}

/// Reads a device that must come after all in `before`.
fn next_device<T>(before: &BTreeMap<DeviceId, T>, input: &mut Decoder<'_>) -> Result<DeviceId> {
    let device = input.array()?;
    if before.last_key_value().is_some_and(|(last, _)| *last >= device) {
        return Err(DecodeError::Invalid("device order"));
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(number: u64) -> Writer {
        Writer::new(number).unwrap()
    }

    fn dot(number: u64, record: u64) -> Dot {
        Dot::new(writer(number), record).unwrap()
    }

    #[test]
    fn a_writer_is_the_prefix_of_its_inodes_and_no_other_number() {
        for (number, is) in [(0, false), (1, true), ((1 << 39) - 1, true), (1 << 39, false)] {
            assert_eq!(Writer::new(number).is_some(), is, "{number}");
        }
        let most = writer((1 << 39) - 1);
        assert_eq!(most.last_ino(), (1 << 62) - 1, "bits 62 and 63 are others'");
        for ino in [most.first_ino(), most.last_ino()] {
            assert_eq!(Writer::of(ino), Some(most));
        }
        for ino in [1, 1 << 62, 1 << 63, u64::MAX] {
            assert_eq!(Writer::of(ino), None, "{ino}");
        }
        assert_eq!(Writer::from_bytes(most.to_bytes()), Ok(most));
        assert!(writer(2).to_bytes() < writer(256).to_bytes());
        for bad in [[0; 5], [0x80, 0, 0, 0, 0]] {
            assert_eq!(Writer::from_bytes(bad), Err(DecodeError::Invalid("writer")));
        }
        assert_eq!(Writer::draw([0; 8]), None);
        assert_eq!(Writer::draw([0xff; 8]), Some(most));
    }

    #[test]
    fn what_was_seen_joins_to_the_highest_of_each_writer() {
        let mut a: Seen = Seen::default();
        assert!(a.is_empty() && !a.covers(dot(1, 1)));
        a.add(dot(1, 5));
        a.add(dot(1, 3));
        a.add(dot(2, 1));
        let mut b = Seen::default();
        b.add(dot(2, 4));
        b.add(dot(9, 1));
        let mut joined = a.clone();
        joined.join(&b);
        assert_eq!(joined.dots().collect::<Vec<_>>(), [dot(1, 5), dot(2, 4), dot(9, 1)]);
        let mut other = b.clone();
        other.join(&a);
        assert_eq!(other, joined);
        assert!(joined.covers(dot(1, 5)) && !joined.covers(dot(1, 6)) && !a.covers(dot(9, 1)));
    }

    #[test]
    fn clocks_of_heads_survive_and_refuse_what_is_not_in_order() {
        let mut processed = Processed::default();
        processed.add([2; 16], 7, Tag([1; 8]));
        processed.add([2; 16], 6, Tag([9; 8]));
        processed.add([1; 16], 1, Tag([3; 8]));
        assert_eq!(processed.get(&[2; 16]), Some((7, Tag([1; 8]))));
        let mut out = Encoder::new();
        processed.encode(&mut out);
        let bytes = out.finish();
        assert_eq!(Processed::decode(&mut Decoder::new(&bytes)), Ok(processed.clone()));
        for cut in 0..bytes.len() {
            assert!(Processed::decode(&mut Decoder::new(&bytes[..cut])).is_err());
        }
        let mut twice = bytes.clone();
        twice.copy_within(1..17, 26);
        let order = Err(DecodeError::Invalid("device order"));
        assert_eq!(Processed::decode(&mut Decoder::new(&twice)), order);
        let mut none = bytes;
        none[17] = 0;
        let generation = Err(DecodeError::Invalid("generation"));
        assert_eq!(Processed::decode(&mut Decoder::new(&none)), generation);

        let known: Generations = [([1; 16], 4), ([3; 16], 9), ([1; 16], 2)].into_iter().collect();
        let mut out = Encoder::new();
        known.encode(&mut out);
        let bytes = out.finish();
        assert_eq!(Generations::decode(&mut Decoder::new(&bytes)), Ok(known));
        let mut twice = bytes;
        twice[18..34].copy_from_slice(&[1; 16]);
        assert_eq!(Generations::decode(&mut Decoder::new(&twice)).err(), order.err());
    }

    #[test]
    fn dots_survive_and_zeros_are_refused() {
        let mut out = Encoder::new();
        dot(77, 300).encode(&mut out);
        let bytes = out.finish();
        assert_eq!(bytes, [0, 0, 0, 0, 77, 0xac, 2]);
        assert_eq!(Dot::decode(&mut Decoder::new(&bytes)), Ok(dot(77, 300)));
        let zero = [0, 0, 0, 0, 77, 0];
        assert_eq!(Dot::decode(&mut Decoder::new(&zero)), Err(DecodeError::Invalid("dot")));
    }
}
