//! The bytes of a journal file (`docs/format.md`, "Local state: journal"):
//! a header block, then records one after another.
//!
//! Invariant: everything but lengths is sealed, under a key that belongs to
//! one use of one file, so what an earlier use left behind does not open.

use crate::crypto::{EpochId, Purpose, Secret, TAG, ValueCipher, derive, hash};
use crate::format::wire::{DecodeError, Decoder, Encoder};

use super::JournalKeys;

/// First bytes of a journal file.
const MAGIC: [u8; 8] = *b"amberjrn";
/// Version of the journal's format.
pub(super) const VERSION: u16 = 1;
const CIPHER_AES_256_GCM_SIV: u8 = 1;
/// Bytes of the header's fields.
const HEADER: usize = 128;
/// Bytes of the block that holds the header; records begin after it. Writes
/// are whole pages, so that none has to be read first.
pub(super) const PAGE: usize = 4096;
/// The header's tag is the seal of nothing under this number; no record has it.
const HEADER_NUMBER: u64 = u64::MAX;
/// Clear bytes before a record: mark, length, masked sequence number.
pub(super) const FRAME: usize = 16;
/// Sealed bytes before a record: the highest sequence number known durable.
pub(super) const CLAIM: usize = 8;
/// Bytes that a record takes beside its own.
pub(super) const OVERHEAD: usize = FRAME + CLAIM + TAG;
/// The longest record that the format allows, in bytes.
pub const RECORD_MAX: usize = 4 << 20;

/// Why a header is not one that this device wrote for this file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// Bytes that no journal writes.
    Damaged(&'static str),
    /// A whole header of another version.
    Version(u16),
    /// A whole header of another repository or device.
    Foreign,
    /// A whole header under an epoch that is not in the keyring.
    UnknownEpoch(EpochId),
}

impl From<DecodeError> for HeaderError {
    fn from(_: DecodeError) -> Self {
        Self::Damaged("header")
    }
}

/// Seals and opens the records of one use of one file.
pub(super) struct FileSeal {
    cipher: ValueCipher,
    /// Repository, device, file number, and room for a record's frame.
    aad: [u8; 40 + FRAME],
    mark: [u8; 4],
    mask: u64,
}

/// The fields of a record's frame, unmasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Sequence number of the record.
    pub sequence: u64,
    /// The length of the record's plaintext in bytes.
    pub len: usize,
}

impl Frame {
    /// Bytes of the whole record in the file.
    pub fn total(&self) -> usize {
        self.len + OVERHEAD
    }
}

impl FileSeal {
    /// A header block for file `number` and the seal of its records.
    pub fn create(keys: &JournalKeys, number: u64, salt: &[u8; 32]) -> (Vec<u8>, Self) {
        let mut header = Encoder::new();
        header
            .raw(&MAGIC)
            .u16(VERSION)
            .u8(CIPHER_AES_256_GCM_SIV)
            .raw(&[0; 5])
            .raw(&keys.repo)
            .raw(&keys.device)
            .raw(&keys.epoch)
            .raw(salt)
            .u64(number);
        let mut block = header.finish();
        let key = keys.current().expect("Journal::open checks that the current epoch has a key");
        let cipher = file_cipher(keys, &keys.epoch, key, salt);
        let tag = cipher.seal_in_place(HEADER_NUMBER, &block, &mut []);
        block.extend_from_slice(&tag);
        let sum = hash(&block);
        block.extend_from_slice(&sum[..8]);
        debug_assert_eq!(block.len(), HEADER);
        block.resize(PAGE, 0);
        (block, Self::new(keys, number, cipher, &tag))
    }

    /// Reads the header of file `number`.
    pub fn open(keys: &JournalKeys, number: u64, bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut input = Decoder::new(bytes.get(..HEADER).ok_or(HeaderError::Damaged("header"))?);
        if input.array()? != MAGIC {
            return Err(HeaderError::Damaged("first bytes"));
        }
        if hash(&bytes[..HEADER - 8])[..8] != bytes[HEADER - 8..HEADER] {
            return Err(HeaderError::Damaged("header"));
        }
        let version = input.u16()?;
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        if input.u8()? != CIPHER_AES_256_GCM_SIV {
            return Err(HeaderError::Damaged("cipher"));
        }
        if input.array()? != [0; 5] {
            return Err(HeaderError::Damaged("reserved bytes"));
        }
        if input.array()? != keys.repo || input.array()? != keys.device {
            return Err(HeaderError::Foreign);
        }
        let epoch: EpochId = input.array()?;
        let salt: [u8; 32] = input.array()?;
        if input.u64()? != number {
            return Err(HeaderError::Damaged("file number"));
        }
        let tag: [u8; TAG] = input.array()?;
        let key = keys.get(&epoch).ok_or(HeaderError::UnknownEpoch(epoch))?;
        let cipher = file_cipher(keys, &epoch, key, &salt);
        cipher
            .open(HEADER_NUMBER, &bytes[..HEADER - 8 - TAG], &tag)
            .map_err(|_| HeaderError::Damaged("header's seal"))?;
        Ok(Self::new(keys, number, cipher, &tag))
    }

    /// Mark and mask come from the header's tag: they differ between uses of a
    /// file, and the mask keeps the count of operations out of sight.
    fn new(keys: &JournalKeys, number: u64, cipher: ValueCipher, tag: &[u8; TAG]) -> Self {
        let mut aad = [0; 40 + FRAME];
        aad[..16].copy_from_slice(&keys.repo);
        aad[16..32].copy_from_slice(&keys.device);
        aad[32..40].copy_from_slice(&number.to_le_bytes());
        let mark = tag[..4].try_into().expect("4 of 16 bytes");
        let mask = u64::from_le_bytes(tag[8..].try_into().expect("8 of 16 bytes"));
        Self { cipher, aad, mark, mask }
    }

    /// The clear bytes before a record.
    pub fn frame(&self, frame: Frame) -> [u8; FRAME] {
        let mut bytes = [0; FRAME];
        bytes[..4].copy_from_slice(&self.mark);
        bytes[4..8].copy_from_slice(&(frame.len as u32).to_le_bytes());
        bytes[8..].copy_from_slice(&(frame.sequence ^ self.mask).to_le_bytes());
        bytes
    }

    /// The frame at the start of `bytes`, if the whole record can lie there.
    pub fn read_frame(&self, bytes: &[u8]) -> Option<Frame> {
        let head = bytes.get(..FRAME)?;
        let len = u32::from_le_bytes(head[4..8].try_into().expect("4 bytes")) as usize;
        let masked = u64::from_le_bytes(head[8..].try_into().expect("8 bytes"));
        let frame = Frame { sequence: masked ^ self.mask, len };
        (head[..4] == self.mark
            && len <= RECORD_MAX
            && frame.total() <= bytes.len()
            && (1..HEADER_NUMBER).contains(&frame.sequence))
        .then_some(frame)
    }

    /// Returns the offset of the next mark in `bytes`.
    pub fn find_mark(&self, bytes: &[u8]) -> Option<usize> {
        memchr::memmem::find(bytes, &self.mark)
    }

    fn aad(&self, frame: &[u8]) -> [u8; 40 + FRAME] {
        let mut aad = self.aad;
        aad[40..].copy_from_slice(frame);
        aad
    }

    /// Seals the record at the start of `bytes` (frame, room for the claim,
    /// plaintext, room for the tag) and returns its frame.
    pub fn seal(&self, bytes: &mut [u8], durable: u64) -> Frame {
        let frame = self.read_frame(bytes).expect("the buffer holds records of this file");
        let aad = self.aad(&bytes[..FRAME]);
        let (body, tag) = bytes[FRAME..frame.total()].split_at_mut(CLAIM + frame.len);
        body[..CLAIM].copy_from_slice(&durable.to_le_bytes());
        tag.copy_from_slice(&self.cipher.seal_in_place(frame.sequence, &aad, body));
        frame
    }

    /// Opens the record at the start of `bytes`: what it calls durable, and its
    /// plaintext.
    pub fn unseal(&self, frame: Frame, bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
        let sealed = &bytes[FRAME..frame.total()];
        let mut plain =
            self.cipher.open(frame.sequence, &self.aad(&bytes[..FRAME]), sealed).ok()?;
        let claim = u64::from_le_bytes(plain[..CLAIM].try_into().expect("8 bytes"));
        // A record is written after what it calls durable.
        if claim >= frame.sequence {
            return None;
        }
        plain.drain(..CLAIM);
        Some((claim, plain))
    }
}

fn file_cipher(keys: &JournalKeys, epoch: &EpochId, key: &Secret, salt: &[u8]) -> ValueCipher {
    ValueCipher::new(&derive(Purpose::JournalSeal, key, &[&keys.repo, epoch, salt]))
}
