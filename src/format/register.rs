//! The header, the register of what may change after init, and the keyring
//! (`docs/format.md`, "Header" and "Register").

use zeroize::Zeroizing;

use super::container::{
    CIPHER_AES_256_GCM_SIV, COMPRESSION_ZSTD, EXTENSION_MAX, Kind, MAGIC, VERSION,
    decode_algorithms, decode_start,
};
use super::wire::{DecodeError, Decoder, Encoder, Result};
use crate::crypto::{
    DeviceId, EpochId, KeyCheck, OpenError, Purpose, RepoId, Secret, ValueCipher, derive, hash,
    key_check,
};
use crate::io::Random;

/// Most unlock slots in a register.
pub const SLOTS_MAX: u64 = 32;
/// The longest unlock slot, in bytes.
pub const SLOT_MAX: usize = 4096;
/// Most bytes of all slots of a register together.
pub const SLOTS_BYTES_MAX: usize = 32 << 10;
const _: () = assert!(
    64 + SLOTS_BYTES_MAX + SLOTS_MAX as usize * 12 + KEYRING_MAX + 128 <= EXTENSION_MAX
        && 128
            + SLOTS_BYTES_MAX
            + SLOTS_MAX as usize * 12
            + EPOCHS_MAX as usize * 48
            + KEYRING_PAD
            + 64
            <= KEYRING_MAX,
    "the fullest register fits into a head"
);
/// Most epochs in a keyring.
pub const EPOCHS_MAX: u64 = 1024;
/// The longest sealed keyring, in bytes.
pub const KEYRING_MAX: usize = 128 << 10;
/// Keyrings are padded to a multiple of this, so that their size tells nothing
/// of epochs and slots.
const KEYRING_PAD: usize = 1024;
/// The longest header file, in bytes.
pub const HEADER_MAX: u64 = EXTENSION_MAX as u64 + 4096;

/// Slot type of a key check value (16 bytes).
pub const SLOT_KEY_CHECK: u64 = 1;
/// Slot type of a vault locator.
pub const SLOT_VAULT: u64 = 2;
// Reserved: 3 FIDO2 or passkey PRF, 4 public-key recipient, 5 machine-bound.

/// Features that a reader must, may or may not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Unknown bits may be ignored.
    pub compatible: u32,
    /// With unknown bits the repository may be read, not written.
    pub read_only_compatible: u32,
    /// With unknown bits nothing may be done.
    pub incompatible: u32,
}

impl Features {
    /// The bit, read-only compatible, of repositories in which devices give back what is in their
    /// folders: a program that does not know it may not say that it holds anything.
    pub const GIVES_BACK: u32 = 1;

    /// Whether devices give back what is in their folders.
    pub fn gives_back(self) -> bool {
        self.read_only_compatible & Self::GIVES_BACK != 0
    }

    /// Whether there are bits that forbid reading.
    pub fn forbid_reading(self) -> bool {
        self.incompatible != 0
    }

    /// Whether there are bits that forbid writing.
    pub fn forbid_writing(self) -> bool {
        self.incompatible != 0 || self.read_only_compatible & !Self::GIVES_BACK != 0
    }

    /// Sets all bits that are set in `more` too.
    pub fn merge(&mut self, more: Self) {
        self.compatible |= more.compatible;
        self.read_only_compatible |= more.read_only_compatible;
        self.incompatible |= more.incompatible;
    }

    fn encode(self, out: &mut Encoder) {
        out.u32(self.compatible).u32(self.read_only_compatible).u32(self.incompatible);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self> {
        Ok(Self {
            compatible: input.u32()?,
            read_only_compatible: input.u32()?,
            incompatible: input.u32()?,
        })
    }
}

/// One way to unlock; unknown types are kept and skipped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// The type of the slot, which says what the bytes are: [`SLOT_KEY_CHECK`], [`SLOT_VAULT`], or
    /// one that this version does not know.
    pub kind: u64,
    /// The content of the slot.
    pub bytes: Vec<u8>,
}

/// Orders registers: the highest that authenticates wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// How many times the register was changed.
    pub counter: u64,
    /// The device that made this change.
    pub device: DeviceId,
}

/// What may change after init, in the form in which it is stored in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// The place of this register in the order of all registers.
    pub stamp: Stamp,
    /// The unlock slots in the clear. They are a hint; the sealed ones count.
    pub slots: Vec<Slot>,
    /// Salt of the keyring's key.
    pub salt: [u8; 32],
    /// The sealed keyring, with the twin of stamp and slots.
    pub sealed: Vec<u8>,
}

fn encode_slots(out: &mut Encoder, stamp: Stamp, slots: &[Slot]) {
    out.u64(stamp.counter).raw(&stamp.device).var(slots.len() as u64);
    for slot in slots {
        out.var(slot.kind).bytes(&slot.bytes);
    }
}

fn decode_slots(input: &mut Decoder<'_>) -> Result<(Stamp, Vec<Slot>)> {
    let stamp = Stamp { counter: input.u64()?, device: input.array()? };
    let mut slots = Vec::new();
    for _ in 0..input.var_max(SLOTS_MAX, "slot count")? {
        slots.push(Slot { kind: input.var()?, bytes: input.bytes(SLOT_MAX, "slot")?.to_vec() });
    }
    if slots.iter().map(|slot| slot.bytes.len()).sum::<usize>() > SLOTS_BYTES_MAX {
        return Err(DecodeError::Limit("slots"));
    }
    Ok((stamp, slots))
}

impl Register {
    /// Encodes the register in its canonical form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        encode_slots(&mut out, self.stamp, &self.slots);
        out.raw(&self.salt).bytes(&self.sealed);
        out.finish()
    }

    /// Decodes a register. Its keyring stays sealed.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes);
        let (stamp, slots) = decode_slots(&mut input)?;
        let salt = input.array()?;
        let sealed = input.bytes(KEYRING_MAX, "keyring")?.to_vec();
        input.end()?;
        Ok(Self { stamp, slots, salt, sealed })
    }

    /// The key check values it names.
    pub fn key_checks(&self) -> impl Iterator<Item = KeyCheck> + '_ {
        self.slots
            .iter()
            .filter(|slot| slot.kind == SLOT_KEY_CHECK)
            .filter_map(|slot| slot.bytes.as_slice().try_into().ok())
    }

    /// Seals `keyring` under K, its feature sets among it, with the given slots in
    /// the clear and in the sealed twin.
    pub fn seal(
        key: &Secret,
        repo: &RepoId,
        stamp: Stamp,
        slots: Vec<Slot>,
        keyring: &Keyring,
        random: &dyn Random,
    ) -> Self {
        let mut salt = [0; 32];
        random.fill(&mut salt);
        // All room at once, so that no copy is left behind by growing.
        let slots_room: usize = slots.iter().map(|slot| slot.bytes.len() + 20).sum();
        let room = 128 + keyring.epochs.len() * 48 + slots_room;
        let mut inner = Encoder::with_capacity(room);
        inner.raw(keyring.id_key.expose()).raw(keyring.chunker_key.expose());
        inner.var(keyring.epochs.len() as u64);
        for epoch in &keyring.epochs {
            inner.raw(&epoch.id).raw(epoch.key.expose());
        }
        encode_slots(&mut inner, stamp, &slots);
        keyring.features.encode(&mut inner);
        let inner = Zeroizing::new(inner.finish());
        let mut plain = Encoder::with_capacity(room.next_multiple_of(KEYRING_PAD) + KEYRING_PAD);
        plain.bytes(&inner);
        let mut buffer = plain.finish();
        buffer.resize(buffer.len().next_multiple_of(KEYRING_PAD), 0);
        keyring_cipher(key, repo, &salt).seal(0, &keyring_aad(repo), &mut buffer, 0);
        Self { stamp, slots, salt, sealed: buffer }
    }

    /// Opens the keyring with K. The sealed twin of stamp and slots comes with
    /// it: it is what counts, the clear one is a hint.
    pub fn open(
        &self,
        key: &Secret,
        repo: &RepoId,
    ) -> std::result::Result<(Keyring, Stamp, Vec<Slot>), OpenError> {
        let plain = Zeroizing::new(keyring_cipher(key, repo, &self.salt).open(
            0,
            &keyring_aad(repo),
            &self.sealed,
        )?);
        Keyring::decode(&plain).map_err(|_| OpenError)
    }
}

fn keyring_cipher(key: &Secret, repo: &RepoId, salt: &[u8; 32]) -> ValueCipher {
    ValueCipher::new(&derive(Purpose::KeyringSeal, key, &[repo, salt]))
}

fn keyring_aad(repo: &RepoId) -> Vec<u8> {
    let mut aad = repo.to_vec();
    aad.extend_from_slice(&VERSION.to_le_bytes());
    aad
}

/// One epoch: what is written under it names its id.
pub struct Epoch {
    /// The id of the epoch, which is in each file that is sealed under its key.
    pub id: EpochId,
    /// The data key of the epoch, from which the keys of files are derived.
    pub key: Secret,
}

/// The keys that K opens.
pub struct Keyring {
    /// Root of all ids; never changes.
    pub id_key: Secret,
    /// Root of the chunker's seed; never changes.
    pub chunker_key: Secret,
    /// Epochs, the newest last; at least one.
    pub epochs: Vec<Epoch>,
    /// Feature sets: those in the clear are hints, these count.
    pub features: Features,
}

impl Keyring {
    /// A fresh keyring with one epoch.
    pub fn random(random: &dyn Random) -> Self {
        Self {
            id_key: Secret::random(random),
            chunker_key: Secret::random(random),
            epochs: vec![Epoch {
                id: crate::crypto::random_id(random),
                key: Secret::random(random),
            }],
            features: Features::default(),
        }
    }

    /// The epoch under which new files are written.
    pub fn newest(&self) -> &Epoch {
        self.epochs.last().expect("a keyring has at least one epoch")
    }

    /// The data key of an epoch.
    pub fn epoch_key(&self, id: &EpochId) -> Option<&Secret> {
        self.epochs.iter().find(|epoch| epoch.id == *id).map(|epoch| &epoch.key)
    }

    fn decode(plain: &[u8]) -> Result<(Self, Stamp, Vec<Slot>)> {
        let mut outer = Decoder::new(plain);
        let mut input = Decoder::new(outer.bytes(KEYRING_MAX, "keyring")?);
        let padding = outer.raw(outer.remaining())?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(DecodeError::Invalid("padding"));
        }
        let secret = |input: &mut Decoder<'_>| -> Result<Secret> {
            let mut bytes = input.array::<32>()?;
            Ok(Secret::take(&mut bytes))
        };
        let id_key = secret(&mut input)?;
        let chunker_key = secret(&mut input)?;
        let mut epochs = Vec::new();
        for _ in 0..input.var_max(EPOCHS_MAX, "epoch count")? {
            epochs.push(Epoch { id: input.array()?, key: secret(&mut input)? });
        }
        if epochs.is_empty() {
            return Err(DecodeError::Invalid("epoch count"));
        }
        let (stamp, slots) = decode_slots(&mut input)?;
        let features = Features::decode(&mut input)?;
        // Later versions may add fields here; they are ignored.
        Ok((Self { id_key, chunker_key, epochs, features }, stamp, slots))
    }
}

/// The content of the header file, which init writes once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Feature sets: a hint, the keyring has those that count.
    pub features: Features,
    /// The repository's id; also in the file's name.
    pub repo: RepoId,
    /// The register with which the repository was made.
    pub register: Register,
}

impl Header {
    /// Canonical bytes, the BLAKE3 hash of all before it at the end.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.raw(&MAGIC)
            .u16(VERSION)
            .u8(Kind::Header as u8)
            .u8(CIPHER_AES_256_GCM_SIV)
            .u8(COMPRESSION_ZSTD)
            .raw(&[0; 3]);
        self.features.encode(&mut out);
        out.raw(&self.repo).bytes(&self.register.encode());
        let mut bytes = out.finish();
        let check = hash(&bytes);
        bytes.extend_from_slice(&check);
        bytes
    }

    /// Reads and checks a header.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let body = bytes.len().checked_sub(32).ok_or(DecodeError::Short)?;
        let (body, check) = bytes.split_at(body);
        let mut input = Decoder::new(body);
        if decode_start(&mut input)? != Kind::Header {
            return Err(DecodeError::Invalid("kind"));
        }
        if hash(body) != check {
            return Err(DecodeError::Invalid("checksum"));
        }
        decode_algorithms(&mut input)?;
        let features = Features::decode(&mut input)?;
        let repo = input.array()?;
        let register = Register::decode(input.bytes(EXTENSION_MAX, "register")?)?;
        input.end()?;
        Ok(Self { features, repo, register })
    }
}

/// The clear extension of a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadExtension {
    /// The feature sets in the clear. They are a hint; those in the keyring count.
    pub features: Features,
    /// The repository's id, so that a lost header can be made anew.
    pub repo: RepoId,
    /// The device; equal to its folder's name.
    pub device: DeviceId,
    /// The generation; equal to the one in the file's name.
    pub generation: u64,
    /// The newest register that the device knows.
    pub register: Register,
}

impl HeadExtension {
    /// Encodes the extension in its canonical form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        self.features.encode(&mut out);
        out.raw(&self.repo).raw(&self.device).u64(self.generation).bytes(&self.register.encode());
        out.finish()
    }

    /// Decodes the extension of a head.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes);
        let extension = Self {
            features: Features::decode(&mut input)?,
            repo: input.array()?,
            device: input.array()?,
            generation: input.u64()?,
            register: Register::decode(input.bytes(EXTENSION_MAX, "register")?)?,
        };
        input.end()?;
        Ok(extension)
    }
}

/// The slot that names K in `repo`.
pub fn key_check_slot(key: &Secret, repo: &RepoId) -> Slot {
    Slot { kind: SLOT_KEY_CHECK, bytes: key_check(key, repo).to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::SystemRandom;

    fn header() -> (Header, Secret) {
        let key = Secret::random(&SystemRandom);
        let repo = [5; 16];
        let slots = vec![key_check_slot(&key, &repo), Slot { kind: 77, bytes: b"later".to_vec() }];
        let stamp = Stamp { counter: 1, device: [2; 16] };
        let keyring = Keyring::random(&SystemRandom);
        let register = Register::seal(&key, &repo, stamp, slots, &keyring, &SystemRandom);
        (Header { features: Features::default(), repo, register }, key)
    }

    #[test]
    fn a_header_survives_and_k_opens_it() {
        let (header, key) = header();
        let read = Header::decode(&header.encode()).unwrap();
        assert_eq!(read, header);
        let (keyring, stamp, slots) = read.register.open(&key, &read.repo).unwrap();
        assert_eq!(keyring.epochs.len(), 1);
        assert_eq!(keyring.features, Features::default());
        assert_eq!(stamp, header.register.stamp);
        assert_eq!(slots, header.register.slots);
        assert_eq!(read.register.key_checks().collect::<Vec<_>>(), [key_check(&key, &[5; 16])]);
    }

    /// The check at the end proves nothing: whoever changes the header makes a
    /// new one.
    #[test]
    fn a_header_of_another_cipher_compression_or_layout_is_refused() {
        let (header, _) = header();
        for (at, what) in [(11, "cipher"), (12, "compression"), (13, "reserved bytes")] {
            let mut bytes = header.encode();
            bytes[at] = 7;
            let body = bytes.len() - 32;
            let check = hash(&bytes[..body]);
            bytes[body..].copy_from_slice(&check);
            assert_eq!(Header::decode(&bytes), Err(DecodeError::Invalid(what)));
        }
    }

    /// The limits of slots that docs/format.md, "Limits", states.
    #[test]
    fn slots_of_4096_bytes_survive_and_32_kib_are_the_most() {
        let key = Secret::random(&SystemRandom);
        let stamp = Stamp { counter: 1, device: [2; 16] };
        let keyring = Keyring::random(&SystemRandom);
        let register = |count| {
            let slots = vec![Slot { kind: u64::MAX, bytes: vec![7; 4096] }; count];
            Register::seal(&key, &[5; 16], stamp, slots, &keyring, &SystemRandom)
        };
        let read = Register::decode(&register(8).encode()).unwrap();
        assert_eq!(read.open(&key, &[5; 16]).unwrap().2, register(8).slots);
        let long = Register::decode(&register(9).encode());
        assert_eq!(long, Err(DecodeError::Limit("slots")));
    }

    #[test]
    fn another_key_or_repository_does_not_open_it() {
        let (header, key) = header();
        assert!(header.register.open(&Secret::random(&SystemRandom), &header.repo).is_err());
        assert!(header.register.open(&key, &[6; 16]).is_err());
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let (header, _) = header();
        let bytes = header.encode();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(Header::decode(&flipped).is_err(), "byte {at}");
            assert!(Header::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
