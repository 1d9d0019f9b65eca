//! The commit in a head, and the names of files in REPO (`docs/format.md`,
//! "Commits" and "Names").

use super::clock::{Processed, Tag, Writer};
use super::container::Kind;
use super::node::{Id, LEVEL_MAX, NO_ID};
use super::wire::{DecodeError, Decoder, Encoder, Result};
use crate::crypto::{DeviceId, Hash, RepoId, hex, unhex};
use crate::io::Timestamp;

/// Constant extension of every file in REPO.
pub const EXTENSION: &str = ".amb";
const LIST_MAX: u64 = 1 << 22;
const LABEL_MAX: usize = 255;
/// Longest of the fields with a tag.
const FIELD_MAX: usize = 1 << 20;
/// Tag of [`Commit::bad`]. Fields with even tags are sets that grow, and a merge inherits
/// them; those with odd ones are of one head.
const BAD: u64 = 2;
/// The tag of the field [`Commit::lost`].
const LOST: u64 = 4;
/// Most hashes that [`Commit::bad`] may hold.
pub const BAD_MAX: usize = FIELD_MAX / size_of::<Hash>();
/// Bit of the flags: [`Commit::announcement`].
const ANNOUNCEMENT: u8 = 1;
/// Bit of the flags: [`Commit::asks`].
const ASKS: u8 = 2;

/// An object that a checkpoint brought, with its index entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewObject {
    /// BLAKE3 of its bytes; its name.
    pub hash: Hash,
    /// Data, metadata or index run.
    pub kind: Kind,
    /// The size of the object's file in bytes.
    pub size: u64,
    /// Ids of its chunks, ascending.
    pub chunks: Vec<Id>,
}

impl NewObject {
    /// Writes a list of objects, each with the ids of its chunks.
    pub fn encode_all(objects: &[Self], out: &mut Encoder) {
        out.var(objects.len() as u64);
        for object in objects {
            out.raw(&object.hash).u8(object.kind as u8).var(object.size);
            out.var(object.chunks.len() as u64);
            for id in &object.chunks {
                out.raw(id);
            }
        }
    }

    /// Decodes a list of objects, as [`NewObject::encode_all`] writes it.
    pub fn decode_all(input: &mut Decoder<'_>) -> Result<Vec<Self>> {
        let mut objects = Vec::new();
        for _ in 0..input.var_max(LIST_MAX, "object count")? {
            let mut object = Self {
                hash: input.array()?,
                kind: Kind::from_byte(input.u8()?)?,
                size: input.var()?,
                chunks: Vec::new(),
            };
            if matches!(object.kind, Kind::Header | Kind::Head) {
                return Err(DecodeError::Invalid("kind"));
            }
            for _ in 0..input.var_max(LIST_MAX, "chunk count")? {
                let id = input.array()?;
                if object.chunks.last().is_some_and(|last| *last >= id) {
                    return Err(DecodeError::Invalid("chunk order"));
                }
                object.chunks.push(id);
            }
            objects.push(object);
        }
        Ok(objects)
    }

    /// Reads what an index run says beside its frames: which chunks other objects have.
    pub fn decode_run(extra: &[u8]) -> Result<Vec<Self>> {
        let mut input = Decoder::new(extra);
        let objects = Self::decode_all(&mut input)?;
        input.end()?;
        Ok(objects)
    }
}

/// A device that will not write again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// The id of the retired device.
    pub device: DeviceId,
    /// The last generation of the device that counts.
    pub last: u64,
    /// The tag of that head; zeros where there was none.
    pub tag: Tag,
    /// The device that owns the folder of the retired device from then on.
    pub heir: DeviceId,
}

/// A namespace root with its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Equal to the head's extension.
    pub device: DeviceId,
    /// Equal to the head's extension.
    pub generation: u64,
    /// When the commit was made, by the wall clock of the device.
    pub time: Timestamp,
    /// The mount that made it: two heads of one generation with different ones mean a
    /// clone.
    pub writer: Writer,
    /// BLAKE3 of the device's head before, zeros for the first.
    pub previous: Hash,
    /// Root node of the namespace tree, and its level.
    pub root: (Id, u8),
    /// Root node of the device's ledger, and its level.
    pub ledger: (Id, u8),
    /// The newest head of each other device that is merged into it.
    pub processed: Processed,
    /// Whether only [`Commit::processed`] counts, and the tree is empty.
    pub announcement: bool,
    /// Whether somebody waits on its device for the answers of the others.
    pub asks: bool,
    /// The newest generation of the device, up to this one, that others must answer.
    pub news: u64,
    /// Highest journal sequence number that it contains.
    pub journal: u64,
    /// How many inodes the namespace has.
    pub inodes: u64,
    /// Sum of file sizes, bytes.
    pub bytes: u64,
    /// The name that the owner sees for the device.
    pub device_name: String,
    /// The objects that are listed for the first time in this commit.
    pub objects: Vec<NewObject>,
    /// All devices that were ever retired. Later commits only add to them.
    pub retired: Vec<Retired>,
    /// Heads and objects that a repair found damaged, ascending: what they hold
    /// does not count as stored.
    pub bad: Vec<Hash>,
    /// Chunks that nobody can bring any more, ascending.
    pub lost: Vec<Id>,
    /// Fields that later versions add, by their tags. They are kept as they are.
    pub unknown: Vec<(u64, Vec<u8>)>,
}

fn get_text(input: &mut Decoder<'_>) -> Result<String> {
    let bytes = input.bytes(LABEL_MAX, "text")?;
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Invalid("text"))
}

/// Reads a set of hashes or ids: at least one, ascending.
fn get_set<const N: usize>(bytes: &[u8]) -> Result<Vec<[u8; N]>> {
    let (items, rest) = bytes.as_chunks();
    let ascending = items.windows(2).all(|pair| pair[0] < pair[1]);
    if items.is_empty() || !rest.is_empty() || !ascending {
        return Err(DecodeError::Invalid("set"));
    }
    Ok(items.to_vec())
}

fn get_root(input: &mut Decoder<'_>) -> Result<(Id, u8)> {
    let (id, level) = (input.array()?, input.u8()?);
    if level > LEVEL_MAX {
        return Err(DecodeError::Limit("level"));
    }
    Ok((id, level))
}

impl Commit {
    /// The commit of a folder in which this device finds nothing yet.
    pub fn empty(device: DeviceId, writer: Writer) -> Self {
        Self {
            device,
            generation: 0,
            time: Timestamp::default(),
            writer,
            previous: [0; 32],
            root: (NO_ID, 0),
            ledger: (NO_ID, 0),
            processed: Processed::default(),
            announcement: false,
            asks: false,
            news: 0,
            journal: 0,
            inodes: 0,
            bytes: 0,
            device_name: String::new(),
            objects: Vec::new(),
            retired: Vec::new(),
            bad: Vec::new(),
            lost: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// Encodes the commit in its canonical form: equal commits give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.raw(&self.device)
            .u64(self.generation)
            .time(self.time)
            .raw(&self.writer.to_bytes())
            .raw(&self.previous)
            .raw(&self.root.0)
            .u8(self.root.1)
            .raw(&self.ledger.0)
            .u8(self.ledger.1);
        self.processed.encode(&mut out);
        let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        out.u8(flag(self.announcement, ANNOUNCEMENT) | flag(self.asks, ASKS))
            .var(self.news)
            .u64(self.journal)
            .var(self.inodes)
            .var(self.bytes)
            .bytes(self.device_name.as_bytes());
        NewObject::encode_all(&self.objects, &mut out);
        out.var(self.retired.len() as u64);
        for retired in &self.retired {
            out.raw(&retired.device).var(retired.last).raw(&retired.tag.0).raw(&retired.heir);
        }
        if !self.bad.is_empty() {
            out.var(BAD).bytes(self.bad.as_flattened());
        }
        if !self.lost.is_empty() {
            out.var(LOST).bytes(self.lost.as_flattened());
        }
        for (tag, bytes) in &self.unknown {
            out.var(*tag).bytes(bytes);
        }
        out.finish()
    }

    /// Decodes a commit. Fields with unknown tags are kept; bytes that break a rule of the
    /// format are an error.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes);
        let flags;
        let mut commit = Self {
            device: input.array()?,
            generation: input.u64()?,
            time: input.time()?,
            writer: Writer::from_bytes(input.array()?)?,
            previous: input.array()?,
            root: get_root(&mut input)?,
            ledger: get_root(&mut input)?,
            processed: Processed::decode(&mut input)?,
            announcement: {
                flags = input.u8()?;
                flags & ANNOUNCEMENT != 0
            },
            asks: flags & ASKS != 0,
            news: input.var()?,
            journal: input.u64()?,
            inodes: input.var()?,
            bytes: input.var()?,
            device_name: get_text(&mut input)?,
            objects: Vec::new(),
            retired: Vec::new(),
            bad: Vec::new(),
            lost: Vec::new(),
            unknown: Vec::new(),
        };
        if flags & !(ANNOUNCEMENT | ASKS) != 0 {
            return Err(DecodeError::Invalid("flags"));
        }
        if commit.processed.get(&commit.device).is_some() {
            return Err(DecodeError::Invalid("processed heads"));
        }
        if commit.news > commit.generation {
            return Err(DecodeError::Invalid("news"));
        }
        commit.objects = NewObject::decode_all(&mut input)?;
        for _ in 0..input.var_max(65536, "retired count")? {
            commit.retired.push(Retired {
                device: input.array()?,
                last: input.var()?,
                tag: Tag(input.array()?),
                heir: input.array()?,
            });
        }
        let mut last = 0;
        while input.remaining() > 0 {
            let (tag, field) = input.field(&mut last, FIELD_MAX)?;
            match tag {
                BAD => commit.bad = get_set(field)?,
                LOST => commit.lost = get_set(field)?,
                _ => commit.unknown.push((tag, field.to_vec())),
            }
        }
        Ok(commit)
    }
}

/// A name in REPO that amberfs gives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// The header: `amberfs-<repo id>.amb`.
    Header(RepoId),
    /// A head: `<device>/head/<generation>-<hash>.amb`.
    Head {
        /// The device that published the head.
        device: DeviceId,
        /// The generation of the head.
        generation: u64,
        /// The BLAKE3 hash of the file's bytes.
        hash: Hash,
    },
    /// An object: `<device>/obj/<first digit of hash>/<hash>.amb`.
    Object {
        /// The device that published the object.
        device: DeviceId,
        /// The BLAKE3 hash of the file's bytes.
        hash: Hash,
    },
}

impl Name {
    /// BLAKE3 of the file's bytes; a header has a name without.
    pub fn hash(&self) -> Option<Hash> {
        match self {
            Self::Header(_) => None,
            Self::Head { hash, .. } | Self::Object { hash, .. } => Some(*hash),
        }
    }

    /// The path that a file of this name has within REPO.
    pub fn path(&self) -> String {
        match self {
            Self::Header(repo) => format!("amberfs-{}{EXTENSION}", hex(repo)),
            Self::Head { device, generation, hash } => {
                format!("{}/{}", head_folder(device), head_name(*generation, hash))
            }
            Self::Object { device, hash } => {
                let hash = hex(hash);
                format!("{}/{hash}{EXTENSION}", object_folder(device, &hash[..1]))
            }
        }
    }
}

/// Folder of a device's heads.
pub fn head_folder(device: &DeviceId) -> String {
    format!("{}/head", hex(device))
}

/// One of the sixteen folders of a device's objects.
pub fn object_folder(device: &DeviceId, digit: &str) -> String {
    format!("{}/obj/{digit}", hex(device))
}

fn head_name(generation: u64, hash: &Hash) -> String {
    format!("{generation:016x}-{}{EXTENSION}", hex(hash))
}

/// The repository id in a header's file name.
pub fn parse_header_name(name: &str) -> Option<RepoId> {
    unhex(name.strip_prefix("amberfs-")?.strip_suffix(EXTENSION)?)
}

/// Generation and hash in a head's file name.
pub fn parse_head_name(name: &str) -> Option<(u64, Hash)> {
    let (generation, hash) = name.strip_suffix(EXTENSION)?.split_once('-')?;
    Some((u64::from_be_bytes(unhex(generation)?), unhex(hash)?))
}

/// The hash in an object's file name.
pub fn parse_object_name(name: &str) -> Option<Hash> {
    unhex(name.strip_suffix(EXTENSION)?)
}

/// The first part of `name` that `parse` takes, of `len` bytes.
fn part_of<T>(name: &str, len: usize, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    (0..name.len().saturating_sub(len - 1))
        .find_map(|start| name.get(start..start + len).and_then(&parse))
}

/// The repository id in the name of a conflict copy of a header.
pub fn find_header_name(name: &str) -> Option<RepoId> {
    part_of(name, 8 + 32, |part| unhex(part.strip_prefix("amberfs-")?))
}

/// Generation and hash in the name of a conflict copy of a head.
pub fn find_head_name(name: &str) -> Option<(u64, Hash)> {
    part_of(name, 16 + 1 + 64, |part| parse_head_name(&format!("{part}{EXTENSION}")))
}

/// The hash in the name of a conflict copy of an object.
pub fn find_object_name(name: &str) -> Option<Hash> {
    part_of(name, 64, unhex)
}

/// One with something in every field.
#[cfg(test)]
pub(crate) fn sample() -> Commit {
    Commit {
        device: [0x22; 16],
        generation: 7,
        time: Timestamp { secs: -5, nanos: 999_999_999 },
        writer: Writer::new(0x02_0304_0506).expect("39 bits, and not 0"),
        previous: [3; 32],
        root: ([4; 16], 2),
        ledger: ([5; 16], 1),
        processed: {
            let mut processed = Processed::default();
            processed.add([1; 16], 5, Tag([1; 8]));
            processed.add([9; 16], 1, Tag([9; 8]));
            processed
        },
        announcement: true,
        asks: false,
        news: 5,
        journal: 99,
        inodes: 3,
        bytes: 400,
        device_name: "laptop".into(),
        objects: vec![NewObject {
            hash: [5; 32],
            kind: Kind::Data,
            size: 123,
            chunks: vec![[6; 16], [7; 16]],
        }],
        retired: vec![Retired { device: [8; 16], last: 3, tag: Tag([8; 8]), heir: [1; 16] }],
        bad: vec![[5; 32], [9; 32]],
        lost: vec![[6; 16], [7; 16]],
        unknown: vec![(9, vec![1, 2])],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_told_apart_and_unknown_ones_refused() {
        let at = |bytes: &[u8], other: &[u8]| bytes.iter().zip(other).position(|(a, b)| a != b);
        let with = |announcement, asks| Commit { announcement, asks, ..sample() };
        let none = with(false, false).encode();
        let place = at(&none, &with(true, false).encode()).unwrap();
        for (announcement, asks, flags) in
            [(false, false, 0), (true, false, 1), (false, true, 2), (true, true, 3)]
        {
            let commit = with(announcement, asks);
            let mut bytes = commit.encode();
            assert_eq!(bytes[place], flags);
            assert_eq!(Commit::decode(&bytes), Ok(commit));
            bytes[place] |= 4;
            assert_eq!(Commit::decode(&bytes), Err(DecodeError::Invalid("flags")));
        }
    }

    #[test]
    fn a_commit_survives() {
        let commit = sample();
        let bytes = commit.encode();
        assert_eq!(Commit::decode(&bytes), Ok(commit.clone()));
        // As the format says of the lists of new objects.
        let mut bad = commit.clone();
        bad.objects[0].kind = Kind::Head;
        assert_eq!(Commit::decode(&bad.encode()), Err(DecodeError::Invalid("kind")));
        let mut bad = commit.clone();
        bad.objects[0].chunks.push([6; 16]);
        assert_eq!(Commit::decode(&bad.encode()), Err(DecodeError::Invalid("chunk order")));
        let mut bad = commit.clone();
        bad.bad.push([9; 32]);
        assert_eq!(Commit::decode(&bad.encode()), Err(DecodeError::Invalid("set")));
        for tag in [BAD, LOST] {
            let mut bad = commit.clone();
            (bad.bad, bad.lost) = (Vec::new(), Vec::new());
            bad.unknown = vec![(tag, Vec::new())];
            assert_eq!(Commit::decode(&bad.encode()), Err(DecodeError::Invalid("set")));
        }
        let mut own = commit.clone();
        own.processed.add(own.device, 1, Tag::default());
        assert_eq!(Commit::decode(&own.encode()), Err(DecodeError::Invalid("processed heads")));
        let mut ahead = commit.clone();
        ahead.news = ahead.generation + 1;
        assert_eq!(Commit::decode(&ahead.encode()), Err(DecodeError::Invalid("news")));
        let mut high = commit;
        high.ledger.1 = LEVEL_MAX + 1;
        assert_eq!(Commit::decode(&high.encode()), Err(DecodeError::Limit("level")));
    }

    #[test]
    fn names_survive_and_foreign_ones_do_not_parse() {
        let head = Name::Head { device: [1; 16], generation: 258, hash: [2; 32] };
        let path = head.path();
        let name = path.rsplit('/').next().unwrap();
        assert!(name.starts_with("0000000000000102-"));
        assert_eq!(parse_head_name(name), Some((258, [2; 32])));
        assert_eq!(parse_head_name(&name.to_uppercase()), None);
        assert_eq!(parse_head_name(&name.replace(".amb", " (1).amb")), None);
        assert_eq!(parse_object_name("abc.amb"), None);
        assert_eq!(parse_header_name(&Name::Header([3; 16]).path()), Some([3; 16]));
    }
}
