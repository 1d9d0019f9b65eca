//! Journal records: the one description of change for memory, journal, replay
//! and checkpoint (`docs/format.md`, "Local state").

use std::borrow::Cow;

use super::clock::Dot;
use super::namespace::{Ino, KEY_MAX, Key, VALUE_MAX, Value, XATTR_MAX, Xattr};
use super::node::{CHUNK_MAX, Id, NO_ID};
use super::wire::{DecodeError, Decoder, Encoder, Result};
use crate::io::Timestamp;

/// Longest piece of data in a change.
pub const DATA_MAX: usize = 2 << 20;
/// Most changes in a record.
const CHANGES_MAX: u64 = 4096;
/// Most pieces in a change.
pub const PIECES_MAX: u64 = 4096;

/// One change of the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// A key of the namespace gets a value.
    Set(Key, Value),
    /// The key of the namespace is removed.
    Remove(Key),
    /// Bytes of a file; sets mtime and ctime and grows the file.
    Write {
        /// The inode number of the file.
        ino: Ino,
        /// The offset in the file of the first byte written.
        offset: u64,
        /// The bytes that are written.
        bytes: Cow<'a, [u8]>,
        /// The time that becomes the file's mtime and ctime.
        time: Timestamp,
    },
    /// A write whose bytes are not in the record, because chunks in REPO hold them durably. It has
    /// the same effect as [`Change::Write`].
    Stored {
        /// The inode number of the file.
        ino: Ino,
        /// The offset in the file of the first byte written.
        offset: u64,
        /// What, one after the other; at least one.
        pieces: Vec<Piece>,
        /// The time that becomes the file's mtime and ctime.
        time: Timestamp,
    },
    /// A file's length; bytes beyond the old one are a hole.
    Resize {
        /// The inode number of the file.
        ino: Ino,
        /// The new length of the file in bytes.
        size: u64,
        /// The time that becomes the file's mtime and ctime.
        time: Timestamp,
    },
    /// `[from, to)` of a file becomes a hole; the length stays.
    Zero {
        /// The inode number of the file.
        ino: Ino,
        /// The offset of the first byte of the hole.
        from: u64,
        /// The offset of the first byte behind the hole.
        to: u64,
        /// The time that becomes the file's mtime and ctime.
        time: Timestamp,
    },
}

/// A part of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The id of the chunk.
    pub id: Id,
    /// The offset in the chunk of the first byte that is used.
    pub from: u64,
    /// How many bytes; at least one.
    pub len: u64,
}

impl Change<'_> {
    /// The inode that it changes, if it changes one and no directory entry.
    pub fn ino(&self) -> Option<Ino> {
        match self {
            Self::Set(Key::Inode(ino) | Key::Xattr(ino, _), _)
            | Self::Remove(Key::Xattr(ino, _))
            | Self::Write { ino, .. }
            | Self::Stored { ino, .. }
            | Self::Resize { ino, .. }
            | Self::Zero { ino, .. } => Some(*ino),
            _ => None,
        }
    }
}

const SET: u8 = 1;
const REMOVE: u8 = 2;
const WRITE: u8 = 3;
const RESIZE: u8 = 4;
const ZERO: u8 = 5;
const STORED: u8 = 6;

/// Canonical bytes of a record that made `dot`, in two pieces: the second is the data of
/// the last change, if it writes any, which is not copied.
pub fn encode<'a>(dot: Dot, changes: &'a [Change<'_>]) -> (Vec<u8>, &'a [u8]) {
    let mut out = Encoder::new();
    dot.encode(&mut out);
    out.var(changes.len() as u64);
    for (nth, change) in changes.iter().enumerate() {
        match change {
            Change::Set(key, value) => {
                out.u8(SET).bytes(&key.encode()).bytes(&value.encode());
            }
            Change::Remove(key) => {
                out.u8(REMOVE).bytes(&key.encode());
            }
            Change::Write { ino, offset, bytes, time } => {
                out.u8(WRITE).u64(*ino).var(*offset).time(*time);
                if nth + 1 == changes.len() {
                    out.var(bytes.len() as u64);
                    return (out.finish(), bytes);
                }
                out.bytes(bytes);
            }
            Change::Stored { ino, offset, pieces, time } => {
                out.u8(STORED).u64(*ino).var(*offset).time(*time);
                out.var(pieces.len() as u64);
                for piece in pieces {
                    out.raw(&piece.id).var(piece.from).var(piece.len);
                }
            }
            Change::Resize { ino, size, time } => {
                out.u8(RESIZE).u64(*ino).var(*size).time(*time);
            }
            Change::Zero { ino, from, to, time } => {
                out.u8(ZERO).u64(*ino).var(*from).var(*to).time(*time);
            }
        }
    }
    (out.finish(), &[])
}

/// Reads a record: its dot and its changes.
pub fn decode(bytes: &[u8]) -> Result<(Dot, Vec<Change<'_>>)> {
    let size_max = i64::MAX as u64;
    let mut input = Decoder::new(bytes);
    let dot = Dot::decode(&mut input)?;
    let mut changes = Vec::new();
    for _ in 0..input.var_max(CHANGES_MAX, "change count")? {
        changes.push(match input.u8()? {
            SET => {
                let key = Key::decode(input.bytes(KEY_MAX, "key")?)?;
                let value = match key {
                    // A record has the bytes of a long attribute themselves.
                    Key::Xattr(..) => {
                        let mut bytes = Decoder::new(input.bytes(VALUE_MAX + XATTR_MAX, "value")?);
                        let xattr = Xattr::decode(&mut bytes, XATTR_MAX)?;
                        bytes.end()?;
                        Value::Xattr(xattr)
                    }
                    _ => Value::decode(&key, input.bytes(VALUE_MAX, "value")?)?,
                };
                Change::Set(key, value)
            }
            REMOVE => Change::Remove(Key::decode(input.bytes(KEY_MAX, "key")?)?),
            WRITE => {
                let ino = input.u64()?;
                let offset = input.var_max(size_max, "offset")?;
                let time = input.time()?;
                let bytes = input.bytes(DATA_MAX, "data")?;
                if offset + bytes.len() as u64 > size_max {
                    return Err(DecodeError::Limit("offset"));
                }
                Change::Write { ino, offset, bytes: bytes.into(), time }
            }
            STORED => {
                let ino = input.u64()?;
                let offset = input.var_max(size_max, "offset")?;
                let time = input.time()?;
                let (mut pieces, mut bytes) = (Vec::new(), 0);
                for _ in 0..input.var_max(PIECES_MAX, "pieces")? {
                    let piece = Piece {
                        id: input.array()?,
                        from: input.var_max(CHUNK_MAX, "piece")?,
                        len: input.var_max(CHUNK_MAX, "piece")?,
                    };
                    if piece.id == NO_ID || piece.len == 0 || piece.from + piece.len > CHUNK_MAX {
                        return Err(DecodeError::Invalid("piece"));
                    }
                    bytes += piece.len;
                    pieces.push(piece);
                }
                if bytes == 0 || bytes > DATA_MAX as u64 || offset + bytes > size_max {
                    return Err(DecodeError::Limit("data"));
                }
                Change::Stored { ino, offset, pieces, time }
            }
            RESIZE => Change::Resize {
                ino: input.u64()?,
                size: input.var_max(size_max, "size")?,
                time: input.time()?,
            },
            ZERO => Change::Zero {
                ino: input.u64()?,
                from: input.var_max(size_max, "offset")?,
                to: input.var_max(size_max, "offset")?,
                time: input.time()?,
            },
            _ => return Err(DecodeError::Invalid("change")),
        });
    }
    input.end()?;
    Ok((dot, changes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::clock::Writer;
    use crate::format::namespace::{Inode, Owner};

    fn dot() -> Dot {
        Dot { writer: Writer::new(3).unwrap(), record: 9 }
    }

    #[test]
    fn a_record_survives_and_every_cut_is_refused() {
        let time = Timestamp { secs: -1, nanos: 5 };
        let inode = Inode::new(0o100_644, Owner::SelfOwned, Owner::Id(7), time);
        let changes = vec![
            Change::Set(Key::Inode(5), Value::Inode(Box::new(inode))),
            Change::Remove(Key::Entry(1, 77, b"name".to_vec())),
            Change::Write { ino: 5, offset: 9, bytes: b"bytes"[..].into(), time },
            Change::Resize { ino: 5, size: 1 << 40, time },
            Change::Zero { ino: 5, from: 3, to: 4, time },
            Change::Stored {
                ino: 5,
                offset: 7,
                pieces: vec![
                    Piece { id: [1; 16], from: 0, len: 9 },
                    Piece { id: [2; 16], from: 5, len: 1 << 18 },
                ],
                time,
            },
        ];
        // Whichever change is the last.
        for len in 0..=changes.len() {
            let (start, data) = encode(dot(), &changes[..len]);
            let bytes = [&start, data].concat();
            assert_eq!(decode(&bytes), Ok((dot(), changes[..len].to_vec())));
        }
        let (bytes, _) = encode(dot(), &changes);
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn pieces_of_no_chunk_or_too_many_bytes_are_refused() {
        let time = Timestamp { secs: 0, nanos: 0 };
        let piece = |from, len| Piece { id: [1; 16], from, len };
        let decoded = |offset, pieces| {
            let (bytes, _) = encode(dot(), &[Change::Stored { ino: 1, offset, pieces, time }]);
            decode(&bytes).map(drop)
        };
        assert_eq!(decoded(0, vec![piece(0, 1)]), Ok(()));
        assert_eq!(decoded(0, vec![piece(0, CHUNK_MAX); 2]), Ok(()));
        assert!(decoded(0, vec![piece(0, CHUNK_MAX); 3]).is_err());
        assert!(decoded(0, Vec::new()).is_err());
        assert!(decoded(0, vec![piece(0, 0)]).is_err());
        assert!(decoded(0, vec![piece(1, CHUNK_MAX)]).is_err());
        assert!(decoded(0, vec![Piece { id: NO_ID, from: 0, len: 1 }]).is_err());
        assert!(decoded(i64::MAX as u64, vec![piece(0, 1)]).is_err());
    }
}
