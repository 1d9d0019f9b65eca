//! The inode record of the namespace map (`docs/format.md`, "Namespace").

use super::clock::Dot;
use super::namespace::{INLINE_MAX, SYMLINK_MAX, VALUE_MAX};
use super::versions::{History, Versions};
use super::wire::{DecodeError, Decoder, Encoder, Result};
use crate::io::Timestamp;

/// A user or group: a number, or *self*, shown as whoever mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Whoever mounts; shown with that person's number.
    SelfOwned,
    /// The user or group with this number.
    Id(u32),
}

/// Where a file's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Content {
    /// No chunk: empty, all holes, or inline.
    #[default]
    None,
    /// The whole file is this chunk.
    Chunk([u8; 16]),
    /// A content tree: root node and its level.
    Tree([u8; 16], u8),
}

impl Content {
    /// Writes 255 and a chunk, or a level and a node; nothing must not be written.
    pub(super) fn encode(&self, out: &mut Encoder) {
        match self {
            Self::None => {}
            Self::Chunk(id) => {
                out.u8(CONTENT_CHUNK).raw(id);
            }
            Self::Tree(id, level) => {
                out.u8(*level).raw(id);
            }
        }
    }

    /// Decodes what [`Content::encode`] writes. A level above the limit is an error.
    pub(super) fn decode(input: &mut Decoder<'_>) -> Result<Self> {
        match input.u8()? {
            CONTENT_CHUNK => Ok(Self::Chunk(input.array()?)),
            level if level <= super::node::LEVEL_MAX => Ok(Self::Tree(input.array()?, level)),
            _ => Err(DecodeError::Invalid("content")),
        }
    }
}

/// How a file's content is chunked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ContentClass {
    /// The class is not decided yet.
    #[default]
    Unknown,
    /// Pages of this many bytes.
    Pages(u32),
    /// A stream that can be compressed; chunks end where the content decides.
    Compressible,
    /// A stream that cannot be compressed; chunks end where the content decides, and are larger.
    Incompressible,
}

/// An inode record. Unknown fields are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// The user that owns the inode.
    pub uid: Owner,
    /// The group that owns the inode.
    pub gid: Owner,
    /// Device number of device nodes.
    pub rdev: u64,
    /// When the content changed last.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// When the inode was made.
    pub btime: Timestamp,
    /// Last access, only where it was set explicitly.
    pub atime: Option<Timestamp>,
    /// Flags as of chattr(1), `FS_*_FL`. They are kept, and nothing obeys them yet.
    pub flags: u64,
    /// The project id for quotas. It is kept, and nothing uses it yet.
    pub project: u64,
    /// How the content is chunked.
    pub class: ContentClass,
    /// The length of the content in bytes.
    pub size: u64,
    /// Where the content is stored, unless it is in `inline`.
    pub content: Content,
    /// Content of at most 256 bytes, or the target of a symlink.
    pub inline: Vec<u8>,
    /// Bytes of the size that a content tree leaves to holes.
    pub holes: u64,
    /// The versions that this one replaced.
    pub history: Box<History>,
    /// Fields of later versions, ascending by tag.
    pub unknown: Vec<(u64, Vec<u8>)>,
}

impl Inode {
    /// A new inode with all times set to `now`.
    pub fn new(mode: u32, uid: Owner, gid: Owner, now: Timestamp) -> Self {
        Self {
            mode,
            uid,
            gid,
            rdev: 0,
            mtime: now,
            ctime: now,
            btime: now,
            atime: None,
            flags: 0,
            project: 0,
            class: ContentClass::Unknown,
            size: 0,
            content: Content::None,
            inline: Vec::new(),
            holes: 0,
            history: Box::default(),
            unknown: Vec::new(),
        }
    }

    /// The type of the inode: the `S_IFMT` bits of its mode.
    pub fn kind(&self) -> u32 {
        self.mode & 0o170_000
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == 0o040_000
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == 0o100_000
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        let mut field = |tag: u64, fill: &dyn Fn(&mut Encoder)| {
            let mut inner = Encoder::new();
            fill(&mut inner);
            out.var(tag).bytes(&inner.finish());
        };
        let time = |time: Timestamp| {
            move |out: &mut Encoder| {
                out.time(time);
            }
        };
        field(1, &|out| {
            out.var(u64::from(self.mode));
        });
        field(2, &|out| {
            let number = |owner| match owner {
                Owner::SelfOwned => (1, 0),
                Owner::Id(id) => (0, id),
            };
            let ((self_uid, uid), (self_gid, gid)) = (number(self.uid), number(self.gid));
            out.u8(self_uid | self_gid << 1).var(u64::from(uid)).var(u64::from(gid));
        });
        if self.rdev != 0 {
            field(3, &|out| {
                out.var(self.rdev);
            });
        }
        field(4, &time(self.mtime));
        field(5, &time(self.ctime));
        field(6, &time(self.btime));
        if let Some(atime) = self.atime {
            field(7, &time(atime));
        }
        if self.flags != 0 {
            field(8, &|out| {
                out.var(self.flags);
            });
        }
        if self.project != 0 {
            field(9, &|out| {
                out.var(self.project);
            });
        }
        match self.class {
            ContentClass::Unknown => {}
            ContentClass::Pages(size) => field(10, &|out| {
                out.u8(1).var(u64::from(size));
            }),
            ContentClass::Compressible => field(10, &|out| {
                out.u8(2);
            }),
            ContentClass::Incompressible => field(10, &|out| {
                out.u8(3);
            }),
        }
        if self.size != 0 {
            field(11, &|out| {
                out.var(self.size);
            });
        }
        if self.content != Content::None {
            field(12, &|out| self.content.encode(out));
        }
        if !self.inline.is_empty() {
            field(13, &|out| {
                out.raw(&self.inline);
            });
        }
        if self.holes != 0 {
            field(14, &|out| {
                out.var(self.holes);
            });
        }
        let history = &*self.history;
        for (tag, versions) in [(15, &history.content), (16, &history.attributes)] {
            if !versions.is_empty() {
                field(tag, &|out| versions.encode(out));
            }
        }
        if !history.over.is_empty() {
            field(17, &|out| history.encode_over(out));
        }
        if let Some((ino, origin)) = history.main {
            field(18, &|out| {
                out.var(ino);
                origin.encode(out);
            });
        }
        for (tag, bytes) in &self.unknown {
            out.var(*tag).bytes(bytes);
        }
    }

    pub(super) fn decode(input: &mut Decoder<'_>) -> Result<Self> {
        /// Mode, owner and three times.
        const ALWAYS: [u64; 5] = [1, 2, 4, 5, 6];
        // A field that is zero or empty is absent: one value has one encoding.
        let present = |number: u64, what| match number {
            0 => Err(DecodeError::Invalid(what)),
            number => Ok(number),
        };
        let mut inode = Self::new(0, Owner::Id(0), Owner::Id(0), Timestamp::default());
        let mut always = ALWAYS.iter();
        let mut last = 0;
        while input.remaining() > 0 {
            let (tag, bytes) = input.field(&mut last, VALUE_MAX)?;
            if ALWAYS.contains(&tag) && always.next() != Some(&tag) {
                return Err(DecodeError::Invalid("inode without a field"));
            }
            let mut field = Decoder::new(bytes);
            match tag {
                1 => inode.mode = field.var_max(0o177_777, "mode")? as u32,
                2 => {
                    let selves = field.u8()?;
                    if selves > 3 {
                        return Err(DecodeError::Invalid("owner"));
                    }
                    let uid = field.var_max(u64::from(u32::MAX), "owner")? as u32;
                    let gid = field.var_max(u64::from(u32::MAX), "owner")? as u32;
                    let owner = |flag, id| match (selves & flag != 0, id) {
                        (false, id) => Ok(Owner::Id(id)),
                        (true, 0) => Ok(Owner::SelfOwned),
                        _ => Err(DecodeError::Invalid("owner")),
                    };
                    inode.uid = owner(1, uid)?;
                    inode.gid = owner(2, gid)?;
                }
                3 => inode.rdev = present(field.var()?, "device number")?,
                4 => inode.mtime = field.time()?,
                5 => inode.ctime = field.time()?,
                6 => inode.btime = field.time()?,
                7 => inode.atime = Some(field.time()?),
                8 => inode.flags = present(field.var()?, "flags")?,
                9 => inode.project = present(field.var()?, "project")?,
                10 => {
                    inode.class = match field.u8()? {
                        1 => match field.var_max(65536, "page size")? as u32 {
                            size if size >= 512 && size.is_power_of_two() => {
                                ContentClass::Pages(size)
                            }
                            _ => return Err(DecodeError::Invalid("page size")),
                        },
                        2 => ContentClass::Compressible,
                        3 => ContentClass::Incompressible,
                        _ => return Err(DecodeError::Invalid("content class")),
                    }
                }
                11 => inode.size = present(field.var_max(i64::MAX as u64, "size")?, "size")?,
                12 => inode.content = Content::decode(&mut field)?,
                13 => {
                    let most = if inode.is_file() { INLINE_MAX } else { SYMLINK_MAX };
                    if bytes.len() > most {
                        return Err(DecodeError::Limit("inline content"));
                    }
                    if bytes.is_empty() || inode.content != Content::None {
                        return Err(DecodeError::Invalid("inline content"));
                    }
                    inode.inline = field.raw(bytes.len())?.to_vec();
                }
                14 => {
                    if !matches!(inode.content, Content::Tree(..)) {
                        return Err(DecodeError::Invalid("holes"));
                    }
                    // Not more than the size is checked by whoever reads both: a
                    // record in a journal names content from before its size.
                    inode.holes = present(field.var_max(i64::MAX as u64, "holes")?, "holes")?;
                }
                15 => inode.history.content = some_versions(&mut field)?,
                16 => inode.history.attributes = some_versions(&mut field)?,
                17 => inode.history.over = History::decode_over(&mut field)?,
                18 => inode.history.main = Some((field.var()?, Dot::decode(&mut field)?)),
                _ => {
                    inode.unknown.push((tag, field.raw(bytes.len())?.to_vec()));
                }
            }
            field.end()?;
        }
        if always.next().is_some() {
            return Err(DecodeError::Invalid("inode without a field"));
        }
        Ok(inode)
    }
}

const CONTENT_CHUNK: u8 = 255;

/// Reads a list of versions that is not empty: an empty one is an absent field.
fn some_versions(input: &mut Decoder<'_>) -> Result<Versions> {
    match Versions::decode(input)? {
        versions if versions.is_empty() => Err(DecodeError::Invalid("versions")),
        versions => Ok(versions),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::namespace::{Key, Value};
    use crate::format::versions::testing::{dot, versions};

    #[test]
    fn an_inode_survives_with_fields_it_does_not_know() {
        let inode = Inode {
            mode: 0o100_644,
            uid: Owner::SelfOwned,
            gid: Owner::Id(1000),
            rdev: 0,
            mtime: Timestamp { secs: -5, nanos: 999_999_999 },
            ctime: Timestamp { secs: 1, nanos: 0 },
            btime: Timestamp { secs: i64::MIN, nanos: 1 },
            atime: None,
            flags: 3,
            project: 0,
            class: ContentClass::Pages(4096),
            size: 1 << 40,
            content: Content::Tree([7; 16], 2),
            inline: Vec::new(),
            holes: (1 << 40) - 1,
            history: Box::new(History {
                content: versions(1),
                attributes: versions(2),
                over: vec![(9, versions(3)), (1 << 40, Versions::default())],
                main: Some((7, dot(4))),
            }),
            unknown: vec![(40, b"later".to_vec())],
        };
        let bytes = Value::Inode(Box::new(inode.clone())).encode();
        let read = Value::decode(&Key::Inode(5), &bytes).unwrap();
        assert_eq!(read, Value::Inode(Box::new(inode)));
        for cut in 0..bytes.len() {
            // A cut behind the fields that are always there is a shorter valid
            // record.
            if let Ok(value) = Value::decode(&Key::Inode(5), &bytes[..cut]) {
                assert_eq!(value.encode(), bytes[..cut]);
            }
        }
    }

    /// Zeros that should be absent, and inodes without times, were taken: the
    /// same inode had many encodings.
    #[test]
    fn an_inode_has_one_encoding() {
        let now = Timestamp { secs: 1, nanos: 0 };
        let mut inode = Inode::new(0o100_644, Owner::Id(0), Owner::Id(0), now);
        let good = Value::Inode(Box::new(inode.clone())).encode();
        let read = |bytes: &[u8]| Value::decode(&Key::Inode(5), bytes).err();
        assert_eq!(read(&good), None);
        let missing = Some(DecodeError::Invalid("inode without a field"));
        assert_eq!(read(&[]), missing);
        for cut in 1..good.len() {
            assert!(read(&good[..cut]).is_some(), "{cut}");
        }
        // Without the owner, which follows a mode of three bytes.
        let owner = 5;
        let without = [&good[..owner], &good[owner + 5..]].concat();
        assert_eq!(read(&without), missing);
        let mut flag = good.clone();
        flag[owner + 2] = 4;
        assert_eq!(read(&flag), Some(DecodeError::Invalid("owner")));
        for (tag, what) in [(8, "flags"), (9, "project"), (11, "size")] {
            let zero = [&good[..], &[tag, 1, 0]].concat();
            assert_eq!(read(&zero), Some(DecodeError::Invalid(what)));
        }
        let empty = [&good[..], &[13, 0]].concat();
        assert_eq!(read(&empty), Some(DecodeError::Invalid("inline content")));
        inode.inline = vec![7; INLINE_MAX + 1];
        let long = Value::Inode(Box::new(inode.clone())).encode();
        assert_eq!(read(&long), Some(DecodeError::Limit("inline content")));
        inode.inline.truncate(1);
        for tag in [15, 16, 17] {
            let none = [&good[..], &[tag, 1, 0]].concat();
            assert!(matches!(read(&none), Some(DecodeError::Invalid(_))), "{tag}");
        }
        inode.content = Content::Chunk([1; 16]);
        let both = Value::Inode(Box::new(inode.clone())).encode();
        assert_eq!(read(&both), Some(DecodeError::Invalid("inline content")));
        inode.inline.clear();
        inode.holes = 1;
        let chunk = Value::Inode(Box::new(inode)).encode();
        assert_eq!(read(&chunk), Some(DecodeError::Invalid("holes")));
    }
}
