//! The container that heads and objects share: a clear prefix, sealed frames,
//! a sealed directory (`docs/format.md`, "Containers").

use super::wire::{DecodeError, Decoder, Encoder, Result};
use crate::crypto::{EpochId, RepoId, SEGMENT, Segments, TAG};

/// First bytes of every file in REPO.
pub const MAGIC: [u8; 8] = *b"amberfs\0";
/// Format version that this program reads and writes.
pub const VERSION: u16 = 1;
/// Bytes of a prefix before its extension.
pub const PREFIX: usize = 100;
/// Longest extension (the register with its slots).
pub const EXTENSION_MAX: usize = 256 << 10;
/// Longest file that is opened as a container.
pub const CONTAINER_MAX: u64 = 512 << 20;
/// Longest plaintext of a frame.
pub const FRAME_MAX: u64 = 1 << 20;
/// Most frames in a container.
pub const FRAMES_MAX: u64 = 1 << 18;
/// Most chunks in a container.
pub const CHUNKS_MAX: u64 = 1 << 21;

/// The kind of a file in REPO, by the number in its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// The header, written once by init.
    Header = 1,
    /// A head, which a checkpoint published last.
    Head = 2,
    /// A data object: chunks of file content.
    Data = 3,
    /// Tree nodes, repacked or too many for a head.
    Metadata = 4,
    /// An index run: which chunks other objects have, merged into one file.
    IndexRun = 5,
}

impl Kind {
    /// The kind with this number.
    pub fn from_byte(byte: u8) -> Result<Self> {
        Ok(match byte {
            1 => Self::Header,
            2 => Self::Head,
            3 => Self::Data,
            4 => Self::Metadata,
            5 => Self::IndexRun,
            _ => return Err(DecodeError::Invalid("kind")),
        })
    }
}

/// Number of the only cipher: AES-256-GCM-SIV in segments of 4096 bytes.
pub const CIPHER_AES_256_GCM_SIV: u8 = 1;
/// Number of the only compression: zstd, chosen frame by frame.
pub const COMPRESSION_ZSTD: u8 = 1;

/// The clear prefix of a container, without the sealed place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Head, data, metadata or index run.
    pub kind: Kind,
    /// Epoch whose key opens it.
    pub epoch: EpochId,
    /// Random; makes the file's key.
    pub salt: [u8; 32],
    /// What the kind adds in the clear; empty but for heads.
    pub extension: Vec<u8>,
}

impl Prefix {
    /// `PREFIX` bytes with the place left zero, then the extension.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.raw(&MAGIC)
            .u16(VERSION)
            .u8(self.kind as u8)
            .u8(CIPHER_AES_256_GCM_SIV)
            .u8(COMPRESSION_ZSTD)
            .raw(&[0; 3])
            .raw(&self.epoch)
            .raw(&self.salt)
            .raw(&[0; PLACE_SEALED])
            .u32(self.extension.len() as u32)
            .raw(&self.extension);
        out.finish()
    }

    /// Reads the first `PREFIX` bytes: the prefix with an empty extension, the
    /// extension's length, and the sealed place.
    pub fn decode_fixed(bytes: &[u8]) -> Result<(Self, usize, [u8; PLACE_SEALED])> {
        let mut input = Decoder::new(bytes);
        let kind = decode_start(&mut input)?;
        decode_algorithms(&mut input)?;
        let epoch = input.array()?;
        let salt = input.array()?;
        let place = input.array()?;
        let extension = input.u32()? as usize;
        if extension > EXTENSION_MAX {
            return Err(DecodeError::Limit("extension"));
        }
        if kind == Kind::Header {
            return Err(DecodeError::Invalid("kind"));
        }
        Ok((Self { kind, epoch, salt, extension: Vec::new() }, extension, place))
    }

    /// Associated data of everything sealed in the file: the repository id and
    /// the BLAKE3 hash of the prefix without the place.
    pub fn aad(&self, repo: &RepoId) -> Vec<u8> {
        let mut bytes = self.encode();
        bytes.drain(PLACE_AT..PLACE_AT + PLACE_SEALED);
        let mut aad = repo.to_vec();
        aad.extend_from_slice(&crate::crypto::hash(&bytes));
        aad
    }
}

/// Reads magic, version and kind. A newer version is its own error.
pub fn decode_start(input: &mut Decoder<'_>) -> Result<Kind> {
    if input.array::<8>()? != MAGIC {
        return Err(DecodeError::Invalid("magic"));
    }
    let version = input.u16()?;
    if version != VERSION {
        return Err(DecodeError::Invalid("version"));
    }
    Kind::from_byte(input.u8()?)
}

/// Reads what follows in a prefix and in a header: cipher, compression and
/// reserved bytes.
pub fn decode_algorithms(input: &mut Decoder<'_>) -> Result<()> {
    if input.u8()? != CIPHER_AES_256_GCM_SIV {
        return Err(DecodeError::Invalid("cipher"));
    }
    if input.u8()? != COMPRESSION_ZSTD {
        return Err(DecodeError::Invalid("compression"));
    }
    if input.array::<3>()? != [0; 3] {
        return Err(DecodeError::Invalid("reserved bytes"));
    }
    Ok(())
}

/// The version field of a file, if it starts with our magic: to tell "newer"
/// from "damaged".
pub fn version_of(bytes: &[u8]) -> Option<u16> {
    let mut input = Decoder::new(bytes);
    (input.array::<8>().ok()? == MAGIC).then(|| input.u16().ok())?
}

/// The offset of the sealed place in the prefix, in bytes.
pub const PLACE_AT: usize = 64;
/// The length of the sealed place in bytes.
pub const PLACE_SEALED: usize = 16 + TAG;

/// Where in a container its sealed directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryPlace {
    /// The offset of the directory in the file, in bytes.
    pub offset: u64,
    /// The length of the sealed directory, in bytes.
    pub len: u64,
}

impl DirectoryPlace {
    /// Encodes the place in sixteen bytes.
    pub fn encode(self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u64(self.offset).u64(self.len);
        out.finish()
    }

    /// Decodes the place. It must lie inside a container of legal size.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes);
        let place = Self { offset: input.u64()?, len: input.u64()? };
        input.end()?;
        match place.offset.checked_add(place.len) {
            Some(end) if end <= CONTAINER_MAX => Ok(place),
            _ => Err(DecodeError::Limit("place")),
        }
    }
}

/// Class of what a frame holds; a frame holds one class only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Pages of databases and of files overwritten in place.
    Pages = 1,
    /// Streams of bytes that can be compressed, such as text.
    Compressible = 2,
    /// Streams of bytes that cannot be compressed, such as media.
    Incompressible = 3,
    /// Nodes of trees.
    Nodes = 4,
}

impl Class {
    /// The class with this number.
    pub fn from_byte(byte: u8) -> Result<Self> {
        Ok(match byte {
            1 => Self::Pages,
            2 => Self::Compressible,
            3 => Self::Incompressible,
            4 => Self::Nodes,
            _ => return Err(DecodeError::Invalid("class")),
        })
    }
}

/// How a frame's plaintext is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// The plaintext as it is.
    Raw = 0,
    /// The plaintext compressed as one zstd frame.
    Zstd = 1,
    /// Zeros that only fill; never read.
    Padding = 255,
}

/// A row of the directory for one frame of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// How the plaintext is stored.
    pub codec: Codec,
    /// The class of all chunks in the frame.
    pub class: Class,
    /// The length of the frame in bytes after compression and before sealing.
    pub stored: u32,
    /// The length of the frame's plaintext in bytes, after decompression.
    pub plain: u32,
    /// By how many bytes the first sealed segment is shorter than the full 4096, so that the others
    /// begin where pages of the file do; below 4096, and 0 of a frame that is not raw.
    pub phase: u16,
}

impl Frame {
    /// The segments in which the frame is sealed.
    pub fn segments(&self) -> Segments {
        Segments::with_phase(u64::from(self.stored), self.phase)
    }
}

/// One chunk within a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPlace {
    /// The id of the chunk.
    pub id: [u8; 16],
    /// The number of the frame that holds the chunk, from 0.
    pub frame: u32,
    /// Offset in the frame's plaintext, bytes.
    pub offset: u32,
    /// The length of the chunk in bytes.
    pub len: u32,
}

/// The sealed directory: frames in file order, chunks in order of id, and what
/// the kind adds (a head: its commit).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Frames in the order in which they stand in the file.
    pub frames: Vec<Frame>,
    /// Chunks, strictly ascending by id.
    pub chunks: Vec<ChunkPlace>,
    /// What the kind of container adds; in a head, its commit.
    pub extra: Vec<u8>,
}

impl Directory {
    /// Canonical bytes. The chunks must be sorted, and none there twice: nobody could read the file.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.chunks.windows(2).all(|pair| pair[0].id < pair[1].id));
        let mut out = Encoder::new();
        out.var(self.frames.len() as u64);
        for frame in &self.frames {
            out.u8(frame.codec as u8)
                .u8(frame.class as u8)
                .var(u64::from(frame.stored))
                .var(u64::from(frame.plain));
            if frame.codec == Codec::Raw {
                out.var(u64::from(frame.phase));
            }
        }
        out.var(self.chunks.len() as u64);
        for chunk in &self.chunks {
            out.raw(&chunk.id)
                .var(u64::from(chunk.frame))
                .var(u64::from(chunk.offset))
                .var(u64::from(chunk.len));
        }
        out.raw(&self.extra);
        out.finish()
    }

    /// Reads and checks: frames within limits, chunks sorted and inside their
    /// frames.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes);
        let mut frames = Vec::new();
        for _ in 0..input.var_max(FRAMES_MAX, "frame count")? {
            let codec = match input.u8()? {
                0 => Codec::Raw,
                1 => Codec::Zstd,
                255 => Codec::Padding,
                _ => return Err(DecodeError::Invalid("codec")),
            };
            let class = Class::from_byte(input.u8()?)?;
            let limit = if codec == Codec::Padding { CONTAINER_MAX } else { FRAME_MAX };
            let stored = input.var_max(limit, "frame")? as u32;
            let plain = input.var_max(limit, "frame")? as u32;
            if codec != Codec::Zstd && stored != plain {
                return Err(DecodeError::Invalid("frame length"));
            }
            let phase = match codec {
                Codec::Raw => input.var_max(SEGMENT as u64 - 1, "phase")? as u16,
                Codec::Zstd | Codec::Padding => 0,
            };
            frames.push(Frame { codec, class, stored, plain, phase });
        }
        let mut chunks: Vec<ChunkPlace> = Vec::new();
        for _ in 0..input.var_max(CHUNKS_MAX, "chunk count")? {
            let chunk = ChunkPlace {
                id: input.array()?,
                frame: input.var_max(FRAMES_MAX, "frame number")? as u32,
                offset: input.var_max(FRAME_MAX, "chunk offset")? as u32,
                len: input.var_max(FRAME_MAX, "chunk length")? as u32,
            };
            let frame =
                frames.get(chunk.frame as usize).ok_or(DecodeError::Invalid("frame number"))?;
            if frame.codec == Codec::Padding
                || chunk.len == 0
                || chunk.offset + chunk.len > frame.plain
            {
                return Err(DecodeError::Invalid("chunk place"));
            }
            if chunks.last().is_some_and(|last| last.id >= chunk.id) {
                return Err(DecodeError::Invalid("chunk order"));
            }
            chunks.push(chunk);
        }
        let extra = input.raw(input.remaining())?.to_vec();
        Ok(Self { frames, chunks, extra })
    }

    /// Offset in the file of each frame, and the end of the last, given where
    /// the first starts.
    pub fn frame_offsets(&self, start: u64) -> Vec<u64> {
        let mut offsets = Vec::with_capacity(self.frames.len() + 1);
        let mut at = start;
        for frame in &self.frames {
            offsets.push(at);
            at += frame.segments().sealed_len();
        }
        offsets.push(at);
        offsets
    }

    /// The place of chunk `id`.
    pub fn find(&self, id: &[u8; 16]) -> Option<&ChunkPlace> {
        let at = self.chunks.binary_search_by(|chunk| chunk.id.cmp(id)).ok()?;
        Some(&self.chunks[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(codec: Codec, stored: u32, plain: u32) -> Frame {
        Frame { codec, class: Class::Pages, stored, plain, phase: 0 }
    }

    fn directory() -> Directory {
        Directory {
            frames: vec![
                frame(Codec::Zstd, 500, 8192),
                Frame { phase: 4095, ..frame(Codec::Raw, 70_000, 70_000) },
                frame(Codec::Padding, 70_000, 70_000),
            ],
            chunks: vec![
                ChunkPlace { id: [1; 16], frame: 0, offset: 4096, len: 4096 },
                ChunkPlace { id: [2; 16], frame: 0, offset: 0, len: 4096 },
            ],
            extra: b"more".to_vec(),
        }
    }

    #[test]
    fn a_directory_survives() {
        assert_eq!(Directory::decode(&directory().encode()), Ok(directory()));
        assert_eq!(directory().find(&[2; 16]).map(|chunk| chunk.offset), Some(0));
        assert_eq!(directory().find(&[3; 16]), None);
    }

    #[test]
    fn chunks_out_of_place_or_order_are_refused() {
        let mut bad = directory();
        bad.chunks[0].offset = 4097;
        assert_eq!(Directory::decode(&bad.encode()), Err(DecodeError::Invalid("chunk place")));
        let mut bad = directory();
        bad.chunks[1].len = 0;
        assert_eq!(Directory::decode(&bad.encode()), Err(DecodeError::Invalid("chunk place")));
        let mut bad = directory();
        bad.frames[2].plain -= 1;
        assert_eq!(Directory::decode(&bad.encode()), Err(DecodeError::Invalid("frame length")));
        let mut bad = directory();
        bad.chunks[0].frame = 2;
        assert_eq!(Directory::decode(&bad.encode()), Err(DecodeError::Invalid("chunk place")));
        let mut bad = directory();
        bad.chunks[0].frame = 3;
        assert_eq!(Directory::decode(&bad.encode()), Err(DecodeError::Invalid("frame number")));
        let mut bad = directory();
        bad.frames[1].phase = 4096;
        assert_eq!(Directory::decode(&bad.encode()), Err(DecodeError::Limit("phase")));
    }

    #[test]
    fn a_prefix_survives_and_a_newer_version_is_told_apart() {
        let prefix =
            Prefix { kind: Kind::Head, epoch: [3; 16], salt: [4; 32], extension: vec![9; 20] };
        let bytes = prefix.encode();
        let (fixed, extension, place) = Prefix::decode_fixed(&bytes).unwrap();
        assert_eq!((fixed.kind, extension, place), (Kind::Head, 20, [0; PLACE_SEALED]));
        let mut newer = bytes.clone();
        newer[8] = 2;
        assert_eq!(Prefix::decode_fixed(&newer), Err(DecodeError::Invalid("version")));
        assert_eq!(version_of(&newer), Some(2));
        assert_eq!(version_of(&bytes[1..]), None);
    }
}
