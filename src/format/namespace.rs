//! Keys and values of the namespace map (`docs/format.md`, "Namespace").

use super::clock::{Dot, WRITER_BYTES, Writer};
use super::versions::Versions;
use super::wire::{DecodeError, Decoder, Encoder, Result};
use crate::crypto::{DeviceId, Hash};

pub use super::inode::{Content, ContentClass, Inode, Owner};

/// An inode number. Bit 63 is reserved for snapshots, bit 62 for a file that lost its number
/// to another version of it; then the [`Writer`] that made it (39 bits) and a counter (23).
pub type Ino = u64;
/// The inode to which the rows of writers and settings belong; no file has this number.
pub(super) const NO_INO: Ino = 0;
/// The inode number of the root directory.
pub const ROOT: Ino = 1;
/// The longest name, in bytes.
pub const NAME_MAX: usize = 255;
/// The longest target of a symlink, in bytes.
pub const SYMLINK_MAX: usize = 4095;
/// The longest content that is in the inode itself, in bytes.
pub const INLINE_MAX: usize = 256;
/// The longest extended attribute, in bytes: the kernel's `XATTR_SIZE_MAX`.
pub const XATTR_MAX: usize = 65536;
/// The longest extended attribute whose bytes are in the tree itself, in bytes.
pub const XATTR_INLINE_MAX: usize = 4096;
/// The lowest hash of a name; lower positions of a listing are for `.` and `..`.
const NAME_HASH_MIN: u64 = 4;
/// The longest encoded value, in bytes: that of an inode with all its lists of versions, or an extended
/// attribute with one.
pub const VALUE_MAX: usize = 8448;
/// The longest encoded key, in bytes.
pub const KEY_MAX: usize = 8 + 1 + 8 + NAME_MAX;

/// A key of the namespace map. Its bytes sort as `docs/format.md` says: by
/// inode first, so that what belongs to one inode lies together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The key of an inode's own record.
    Inode(Ino),
    /// The key of an extended attribute: inode and name.
    Xattr(Ino, Vec<u8>),
    /// A name of the inode: parent and name.
    Back(Ino, Ino, Vec<u8>),
    /// An entry of the directory: keyed 63-bit hash of the name, and the name.
    Entry(Ino, u64, Vec<u8>),
    /// How the original of an inode's content is made again.
    Recipe(Ino),
    /// The row of a writer: its dot is the last change of the writer that the tree contains.
    Writer(Writer),
    /// A repair that is not stored changes this inode, or in this directory the names with
    /// this hash.
    Unsettled(Ino, Option<u64>),
    /// A kind that this version does not know: inode, kind, rest.
    Opaque(Ino, u8, Vec<u8>),
}

const INODE: u8 = 1;
const XATTR: u8 = 3;
const BACK: u8 = 4;
const ENTRY: u8 = 5;
const RECIPE: u8 = 6;
const WRITER: u8 = 7;
const UNSETTLED: u8 = 11;

impl Key {
    /// The inode (or directory) that the key belongs to.
    pub fn ino(&self) -> Ino {
        match self {
            Self::Inode(ino)
            | Self::Xattr(ino, _)
            | Self::Back(ino, ..)
            | Self::Entry(ino, ..)
            | Self::Recipe(ino)
            | Self::Opaque(ino, ..) => *ino,
            Self::Writer(_) | Self::Unsettled(..) => NO_INO,
        }
    }

    /// Encodes the key. The order of the bytes is the order of the map.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(32);
        bytes.extend_from_slice(&self.ino().to_be_bytes());
        match self {
            Self::Inode(_) => bytes.push(INODE),
            Self::Recipe(_) => bytes.push(RECIPE),
            Self::Xattr(_, name) => {
                bytes.push(XATTR);
                bytes.extend_from_slice(name);
            }
            Self::Back(_, parent, name) => {
                bytes.push(BACK);
                bytes.extend_from_slice(&parent.to_be_bytes());
                bytes.extend_from_slice(name);
            }
            Self::Entry(_, hash, name) => {
                bytes.push(ENTRY);
                bytes.extend_from_slice(&hash.to_be_bytes());
                bytes.extend_from_slice(name);
            }
            Self::Writer(writer) => {
                bytes.push(WRITER);
                bytes.extend_from_slice(&writer.to_bytes());
            }
            Self::Unsettled(ino, hash) => {
                bytes.push(UNSETTLED);
                bytes.extend_from_slice(&ino.to_be_bytes());
                bytes.extend(hash.iter().flat_map(|hash| hash.to_be_bytes()));
            }
            Self::Opaque(_, kind, rest) => {
                bytes.push(*kind);
                bytes.extend_from_slice(rest);
            }
        }
        bytes
    }

    /// Reads a key; unknown kinds become [`Key::Opaque`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > KEY_MAX {
            return Err(DecodeError::Limit("key"));
        }
        let mut input = Decoder::new(bytes);
        let ino = u64::from_be_bytes(input.array()?);
        let kind = input.u8()?;
        let name = |input: &mut Decoder<'_>| -> Result<Vec<u8>> {
            let name = input.raw(input.remaining())?;
            if name.is_empty() || name.len() > NAME_MAX || name.contains(&0) {
                return Err(DecodeError::Invalid("name"));
            }
            Ok(name.to_vec())
        };
        // Names are joined to paths by extract: one that leads elsewhere is
        // refused here, once.
        let file_name = |input: &mut Decoder<'_>| -> Result<Vec<u8>> {
            let name = name(input)?;
            if name.contains(&b'/') || name == b"." || name == b".." {
                return Err(DecodeError::Invalid("name"));
            }
            Ok(name)
        };
        let key = match kind {
            INODE => Self::Inode(ino),
            XATTR => Self::Xattr(ino, name(&mut input)?),
            BACK => Self::Back(ino, u64::from_be_bytes(input.array()?), file_name(&mut input)?),
            ENTRY => {
                let hash = name_hash(&mut input)?;
                Self::Entry(ino, hash, file_name(&mut input)?)
            }
            RECIPE => Self::Recipe(ino),
            WRITER if ino == NO_INO => {
                Self::Writer(Writer::from_bytes(input.array::<WRITER_BYTES>()?)?)
            }
            WRITER => return Err(DecodeError::Invalid("row of a writer")),
            UNSETTLED if ino == NO_INO => {
                let (ino, is_name) = (u64::from_be_bytes(input.array()?), input.remaining() > 0);
                let hash = if is_name { Some(name_hash(&mut input)?) } else { None };
                Self::Unsettled(ino, hash)
            }
            UNSETTLED => return Err(DecodeError::Invalid("row of what is unsettled")),
            _ => Self::Opaque(ino, kind, input.raw(input.remaining())?.to_vec()),
        };
        input.end()?;
        Ok(key)
    }

    /// The lowest key of an inode's entries, and of those at or after `hash`.
    pub fn entries_from(dir: Ino, hash: u64) -> Vec<u8> {
        Self::prefix(dir, ENTRY, hash)
    }

    /// What the keys of all rows of writers begin with.
    pub fn writers() -> Vec<u8> {
        let mut bytes = NO_INO.to_be_bytes().to_vec();
        bytes.push(WRITER);
        bytes
    }

    /// What the keys of all rows of what is unsettled begin with.
    pub fn unsettled() -> Vec<u8> {
        let mut bytes = NO_INO.to_be_bytes().to_vec();
        bytes.push(UNSETTLED);
        bytes
    }

    /// The lowest key of an inode's extended attributes.
    pub fn xattrs(ino: Ino) -> Vec<u8> {
        let mut bytes = ino.to_be_bytes().to_vec();
        bytes.push(XATTR);
        bytes
    }

    /// The lowest key of an inode's back references.
    pub fn backs(ino: Ino) -> Vec<u8> {
        let mut bytes = ino.to_be_bytes().to_vec();
        bytes.push(BACK);
        bytes
    }

    fn prefix(ino: Ino, kind: u8, number: u64) -> Vec<u8> {
        let mut bytes = ino.to_be_bytes().to_vec();
        bytes.push(kind);
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes
    }
}

fn name_hash(input: &mut Decoder<'_>) -> Result<u64> {
    let hash = u64::from_be_bytes(input.array()?);
    // Lower ones are the places of `.` and `..` in a listing, and one more than the highest
    // is still a number of 63 bits.
    let is_fit = (NAME_HASH_MIN..=i64::MAX as u64).contains(&hash);
    if is_fit { Ok(hash) } else { Err(DecodeError::Invalid("name hash")) }
}

/// A value of the namespace map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// The value of a [`Key::Inode`]: the record of the inode.
    Inode(Box<Inode>),
    /// The value of a [`Key::Entry`]: the inode that the entry names, and its type (`S_IFMT`
    /// bits).
    Entry(Ino, u32),
    /// The value of a [`Key::Back`], which has no bytes: the key says everything.
    Back,
    /// The value of a [`Key::Xattr`].
    Xattr(Xattr),
    /// The value of a [`Key::Recipe`].
    Recipe(Box<Recipe>),
    /// The value of a [`Key::Writer`]: the device whose mount the writer was, and the name of that
    /// device.
    Writer(DeviceId, String),
    /// The value of a [`Key::Unsettled`].
    Unsettled,
    /// The value of a [`Key::Opaque`], as it was read.
    Opaque(Vec<u8>),
}

impl Value {
    /// Encodes the value in its canonical form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        match self {
            Self::Inode(inode) => inode.encode(&mut out),
            Self::Entry(ino, kind) => {
                out.var(*ino).var(u64::from(kind >> 12));
            }
            Self::Back | Self::Unsettled => {}
            Self::Xattr(xattr) => xattr.encode(&mut out),
            Self::Recipe(recipe) => recipe.encode(&mut out),
            Self::Opaque(bytes) => {
                out.raw(bytes);
            }
            Self::Writer(device, name) => {
                out.raw(device).bytes(name.as_bytes());
            }
        }
        out.finish()
    }

    /// The content that the value needs in chunks, and its bytes.
    pub fn stored(&self) -> (Content, u64) {
        match self {
            Self::Inode(inode) => (inode.content, inode.size),
            Self::Xattr(Xattr { state: XattrState::Stored(size, content), .. }) => {
                (*content, *size)
            }
            Self::Recipe(recipe) => (recipe.content, recipe.len),
            _ => (Content::None, 0),
        }
    }

    /// Reads the value of `key`.
    pub fn decode(key: &Key, bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes);
        let value = match key {
            Key::Inode(_) => Self::Inode(Box::new(Inode::decode(&mut input)?)),
            Key::Entry(..) => {
                Self::Entry(input.var()?, (input.var_max(15, "file type")? as u32) << 12)
            }
            Key::Back(..) => Self::Back,
            Key::Xattr(..) => Self::Xattr(Xattr::decode(&mut input, XATTR_INLINE_MAX)?),
            Key::Recipe(_) => Self::Recipe(Box::new(Recipe::decode(&mut input)?)),
            Key::Writer(_) => {
                let device = input.array()?;
                let name = input.bytes(NAME_MAX, "device name")?.to_vec();
                let name = String::from_utf8(name);
                Self::Writer(device, name.map_err(|_| DecodeError::Invalid("device name"))?)
            }
            Key::Unsettled(..) => Self::Unsettled,
            Key::Opaque(..) => Self::Opaque(input.raw(bytes.len())?.to_vec()),
        };
        input.end()?;
        Ok(value)
    }
}

/// An extended attribute. One that was removed stays as that, until its inode goes: another
/// device may have changed it at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xattr {
    /// The versions that this one replaced.
    pub versions: Versions,
    /// Whether the attribute was removed, or where its bytes are.
    pub state: XattrState,
}

/// The state of an extended attribute: removed, or where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XattrState {
    /// The attribute was removed.
    Removed,
    /// These bytes, at most [`XATTR_INLINE_MAX`] in a tree.
    Inline(Vec<u8>),
    /// Longer: its size in bytes, and its content.
    Stored(u64, Content),
}

impl Xattr {
    /// An attribute of which no other version is known.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { versions: Versions::default(), state: XattrState::Inline(bytes) }
    }

    /// Whether the attribute was removed.
    pub fn is_removed(&self) -> bool {
        self.state == XattrState::Removed
    }

    /// Writes the versions, a byte for the state, and what belongs to that.
    pub fn encode(&self, out: &mut Encoder) {
        self.versions.encode(out);
        match &self.state {
            XattrState::Removed => {
                out.u8(0);
            }
            XattrState::Inline(bytes) => {
                out.u8(1).raw(bytes);
            }
            XattrState::Stored(size, content) => {
                out.u8(2).var(*size);
                content.encode(out);
            }
        }
    }

    /// Reads what [`Xattr::encode`] wrote, to the end of `input`. Bytes that follow the state
    /// are at most `inline_max`.
    pub fn decode(input: &mut Decoder<'_>, inline_max: usize) -> Result<Self> {
        let versions = Versions::decode(input)?;
        let state = match input.u8()? {
            0 => XattrState::Removed,
            1 if input.remaining() > inline_max => {
                return Err(DecodeError::Limit("extended attribute"));
            }
            1 => XattrState::Inline(input.raw(input.remaining())?.to_vec()),
            2 => {
                let size = input.var_max(XATTR_MAX as u64, "extended attribute")?;
                // Shorter ones lie in the tree: one value has one encoding.
                if size <= XATTR_INLINE_MAX as u64 {
                    return Err(DecodeError::Invalid("extended attribute"));
                }
                XattrState::Stored(size, Content::decode(input)?)
            }
            _ => return Err(DecodeError::Invalid("extended attribute")),
        };
        Ok(Self { versions, state })
    }
}

/// How the file that was imported is made again from what is stored opened. This version keeps
/// recipes, and makes none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// What the bytes of the recipe mean; later versions say.
    pub form: u8,
    /// The content of the inode for which it was made, by its origin. For any other it says
    /// nothing.
    pub origin: Dot,
    /// The size of the original in bytes.
    pub size: u64,
    /// The BLAKE3 hash of the original's bytes.
    pub hash: Hash,
    /// Name of the original, 1 to 255 bytes without `/`.
    pub name: Vec<u8>,
    /// The length of the recipe in bytes.
    pub len: u64,
    /// Where the bytes of the recipe are.
    pub content: Content,
}

impl Recipe {
    fn encode(&self, out: &mut Encoder) {
        out.u8(self.form);
        self.origin.encode(out);
        out.var(self.size).raw(&self.hash).bytes(&self.name).var(self.len);
        self.content.encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self> {
        let (form, origin) = (input.u8()?, Dot::decode(input)?);
        let size = input.var_max(i64::MAX as u64, "size")?;
        let (hash, name) = (input.array()?, input.bytes(NAME_MAX, "name")?.to_vec());
        if name.is_empty() || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(DecodeError::Invalid("name"));
        }
        let len = input.var_max(i64::MAX as u64, "recipe")?;
        // One of no bytes has no content.
        let content = if len == 0 { Content::None } else { Content::decode(input)? };
        Ok(Self { form, origin, size, hash, name, len, content })
    }
}

/// A recipe for the content with this origin.
#[cfg(test)]
pub(crate) fn recipe_sample(origin: Dot) -> Recipe {
    Recipe {
        form: 1,
        origin,
        size: 1 << 30,
        hash: [7; 32],
        name: b"msgstore.db.crypt15".to_vec(),
        len: 312,
        content: Content::Chunk([6; 16]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::versions::testing::{dot, versions};

    #[test]
    fn key_bytes_sort_as_the_keys_mean() {
        let keys = [
            Key::Writer(Writer::new(2).unwrap()),
            Key::Writer(Writer::new(256).unwrap()),
            Key::Unsettled(1, None),
            Key::Unsettled(1, Some(4)),
            Key::Unsettled(2, None),
            Key::Inode(1),
            Key::Opaque(1, 2, b"?".to_vec()),
            Key::Xattr(1, b"user.a".to_vec()),
            Key::Back(1, 0, b"x".to_vec()),
            Key::Entry(1, 4, b"b".to_vec()),
            Key::Entry(1, 5, b"a".to_vec()),
            Key::Opaque(1, 99, b"?".to_vec()),
            Key::Inode(2),
        ];
        for pair in keys.windows(2) {
            assert!(pair[0].encode() < pair[1].encode(), "{pair:?}");
        }
        for key in keys {
            assert_eq!(Key::decode(&key.encode()), Ok(key));
        }
    }

    #[test]
    fn an_extended_attribute_has_three_states_and_one_encoding() {
        let key = Key::Xattr(5, b"user.a".to_vec());
        let states = [
            XattrState::Removed,
            XattrState::Inline(Vec::new()),
            XattrState::Inline(vec![7; XATTR_INLINE_MAX]),
            XattrState::Stored(XATTR_INLINE_MAX as u64 + 1, Content::Chunk([1; 16])),
            XattrState::Stored(XATTR_MAX as u64, Content::Tree([1; 16], 1)),
        ];
        for state in states {
            for versions in [Versions::default(), versions(3)] {
                let value = Value::Xattr(Xattr { versions, state: state.clone() });
                assert_eq!(Value::decode(&key, &value.encode()), Ok(value));
            }
        }
        let read = |bytes: &[u8]| Value::decode(&key, bytes).err();
        assert!(read(&[]).is_some() && read(&[0]).is_some());
        assert_eq!(read(&[0, 0, 0]), Some(DecodeError::Trailing));
        assert_eq!(read(&[0, 3]), Some(DecodeError::Invalid("extended attribute")));
        let long = [&[0, 1][..], &[7; XATTR_INLINE_MAX + 1]].concat();
        assert_eq!(read(&long), Some(DecodeError::Limit("extended attribute")));
        for (size, error) in [
            (XATTR_INLINE_MAX, DecodeError::Invalid("extended attribute")),
            (XATTR_MAX + 1, DecodeError::Limit("extended attribute")),
        ] {
            let state = XattrState::Stored(size as u64, Content::Chunk([1; 16]));
            let value = Value::Xattr(Xattr { versions: Versions::default(), state });
            assert_eq!(read(&value.encode()), Some(error));
        }
    }

    #[test]
    fn a_recipe_survives_and_bad_ones_are_refused() {
        let key = Key::Recipe(9);
        assert_eq!(Key::decode(&key.encode()), Ok(key.clone()));
        assert_eq!(Key::decode(&[&key.encode()[..], b"x"].concat()), Err(DecodeError::Trailing));
        let recipe = recipe_sample(dot(3));
        let none = Recipe { len: 0, content: Content::None, ..recipe.clone() };
        for recipe in [recipe.clone(), none] {
            let value = Value::Recipe(Box::new(recipe.clone()));
            assert_eq!(value.stored(), (recipe.content, recipe.len));
            assert_eq!(Value::decode(&key, &value.encode()), Ok(value.clone()));
            for cut in 0..value.encode().len() {
                assert!(Value::decode(&key, &value.encode()[..cut]).is_err());
            }
        }
        for name in [&b""[..], b"a/b", b"a\0b"] {
            let bad = Value::Recipe(Box::new(Recipe { name: name.to_vec(), ..recipe.clone() }));
            assert_eq!(Value::decode(&key, &bad.encode()), Err(DecodeError::Invalid("name")));
        }
    }

    #[test]
    fn rows_of_writers_survive_and_stand_at_inode_0() {
        let key = Key::Writer(Writer::new(5).unwrap());
        let value = Value::Writer([7; 16], "laptop".into());
        assert_eq!(Value::decode(&key, &value.encode()), Ok(value.clone()));
        for cut in 0..value.encode().len() {
            assert!(Value::decode(&key, &value.encode()[..cut]).is_err());
        }
        let mut text = value.encode();
        *text.last_mut().unwrap() = 0xff;
        assert_eq!(Value::decode(&key, &text), Err(DecodeError::Invalid("device name")));
        let mut elsewhere = key.encode();
        elsewhere[7] = 1;
        assert_eq!(Key::decode(&elsewhere), Err(DecodeError::Invalid("row of a writer")));
        let zero = [&key.encode()[..9], &[0; 5]].concat();
        assert_eq!(Key::decode(&zero), Err(DecodeError::Invalid("writer")));
        assert!(Key::decode(&key.encode()[..13]).is_err());
    }

    #[test]
    fn rows_of_what_is_unsettled_survive_and_stand_at_inode_0() {
        for key in [Key::Unsettled(9, None), Key::Unsettled(9, Some(4))] {
            let bytes = key.encode();
            assert!(bytes.starts_with(&Key::unsettled()));
            assert_eq!(Value::decode(&key, &[]), Ok(Value::Unsettled));
            assert_eq!(Value::decode(&key, &[0]), Err(DecodeError::Trailing));
            let mut elsewhere = bytes.clone();
            elsewhere[7] = 1;
            let what = "row of what is unsettled";
            assert_eq!(Key::decode(&elsewhere), Err(DecodeError::Invalid(what)));
            for cut in (0..bytes.len()).filter(|cut| *cut != 17) {
                assert!(Key::decode(&bytes[..cut]).is_err());
            }
        }
        let low = Key::Unsettled(9, Some(3)).encode();
        assert_eq!(Key::decode(&low), Err(DecodeError::Invalid("name hash")));
    }

    /// The next place in a listing is the hash and one: of the highest number
    /// there is none.
    #[test]
    fn name_hashes_out_of_range_are_refused() {
        let read = |hash| Key::decode(&Key::Entry(1, hash, b"a".to_vec()).encode());
        for hash in [0, 3, 1 << 63, u64::MAX] {
            assert_eq!(read(hash), Err(DecodeError::Invalid("name hash")));
        }
        assert!(read(4).is_ok() && read(i64::MAX as u64).is_ok());
    }

    #[test]
    fn names_and_numbers_out_of_range_are_refused() {
        let long = Key::Entry(1, 4, vec![b'a'; 256]);
        assert!(Key::decode(&long.encode()).is_err());
        for name in [&b".."[..], b".", b"a/b", b"a\0b", b"/", b"../x"] {
            for key in [Key::Entry(1, 4, name.to_vec()), Key::Back(5, 1, name.to_vec())] {
                assert_eq!(Key::decode(&key.encode()), Err(DecodeError::Invalid("name")));
            }
        }
        let empty = Key::Entry(1, 4, Vec::new());
        assert_eq!(Key::decode(&empty.encode()), Err(DecodeError::Invalid("name")));
        assert_eq!(
            Value::decode(&Key::Inode(1), &[1, 1, 1, 1, 1, 1]),
            Err(DecodeError::Invalid("field order"))
        );
    }
}
