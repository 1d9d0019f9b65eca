//! Writing and reading one container: a head or an object.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Context, Result, StoreError};
use crate::crypto::{Domain, FileCipher, Hash, Segments, hash, hex};
use crate::format::container::{
    CONTAINER_MAX, ChunkPlace, Class, Codec, Directory, DirectoryPlace, EXTENSION_MAX, FRAME_MAX,
    Frame, Kind, PLACE_AT, PLACE_SEALED, PREFIX, Prefix, version_of,
};
use crate::format::node::Id;
use crate::format::register::HeadExtension;
use crate::io::{Random, SyncedFile, SyncedFolder};

/// Bytes of plaintext after which an object is closed.
pub const OBJECT_TARGET: usize = 16 << 20;
/// Bytes of data up to which a checkpoint is one file.
pub const HEAD_DATA_MAX: usize = 1 << 20;
/// Smallest size of a file in REPO.
const SIZE_MIN: u64 = 64 << 10;
/// Plaintext of a frame of pages: four pages of 4 KiB, so that a random read
/// unpacks little.
const PAGES_FRAME: usize = 16 << 10;
/// Plaintext of other compressed frames.
const FRAME: usize = 64 << 10;
/// zstd level: the fastest; chat data gains little from more.
const LEVEL: i32 = 1;
/// Plaintext of one padding frame.
const PADDING_FRAME: u64 = 64 << 20;

/// A container that is complete and sealed, and not yet in REPO.
pub struct Built {
    /// The BLAKE3 hash of the bytes, which is part of the container's name.
    pub hash: Hash,
    /// The bytes of the whole file.
    pub bytes: Vec<u8>,
    /// Ids of its chunks, ascending.
    pub chunks: Vec<Id>,
}

/// A frame being filled: its class, its plaintext, and id, offset and length of
/// each chunk in it.
type OpenFrame = (Class, Vec<u8>, Vec<(Id, u32, u32)>);

/// Packs chunks into frames and seals them.
pub struct Writer {
    cipher: FileCipher,
    bytes: Vec<u8>,
    directory: Directory,
    /// The ids of all that was added.
    added: HashSet<Id>,
    /// Open frames of the classes that share frames.
    open: Vec<OpenFrame>,
    compressor: zstd::bulk::Compressor<'static>,
}

impl Writer {
    /// Starts a container in the newest epoch.
    pub fn new(context: &Context, kind: Kind, extension: Vec<u8>, random: &dyn Random) -> Self {
        assert!(extension.len() <= EXTENSION_MAX, "registers are limited below this");
        let mut salt = [0; 32];
        random.fill(&mut salt);
        let prefix = Prefix { kind, epoch: context.keyring.newest().id, salt, extension };
        let cipher = context.file_cipher(&prefix).expect("the newest epoch has a key");
        Self {
            cipher,
            bytes: prefix.encode(),
            directory: Directory::default(),
            added: HashSet::new(),
            open: Vec::new(),
            compressor: zstd::bulk::Compressor::new(LEVEL).expect("level 1 exists"),
        }
    }

    /// Goes on in this buffer, whose content does not count.
    pub fn fill(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(&self.bytes);
        self.bytes = buffer;
    }

    /// Bytes of the file so far, without what is still packed.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.open.iter().map(|open| open.1.len()).sum::<usize>()
    }

    /// Whether no chunk was added.
    pub fn is_empty(&self) -> bool {
        self.directory.chunks.is_empty() && self.open.is_empty()
    }

    /// Adds a chunk of at most [`FRAME_MAX`] bytes, which begins `phase` bytes behind the start of a
    /// page of 4096 bytes of its file. One that was added before is there already: a directory names
    /// each id once.
    pub fn add(&mut self, class: Class, id: Id, phase: u16, chunk: &[u8]) {
        assert!(chunk.len() as u64 <= FRAME_MAX, "chunks fit into frames");
        if !self.added.insert(id) {
            return;
        }
        let limit = match class {
            Class::Pages => PAGES_FRAME,
            Class::Compressible | Class::Nodes => FRAME,
            Class::Incompressible => {
                self.put_frame(class, chunk, &[(id, 0, chunk.len() as u32)], phase, false);
                return;
            }
        };
        let found = self.open.iter().position(|open| open.0 == class);
        let at = found.unwrap_or_else(|| {
            self.open.push((class, Vec::with_capacity(limit), Vec::new()));
            self.open.len() - 1
        });
        let full = !self.open[at].1.is_empty() && self.open[at].1.len() + chunk.len() > limit;
        if full {
            let (class, plain, chunks) = std::mem::replace(
                &mut self.open[at],
                (class, Vec::with_capacity(limit), Vec::new()),
            );
            self.put_frame(class, &plain, &chunks, 0, true);
        }
        let (_, plain, chunks) = &mut self.open[at];
        chunks.push((id, plain.len() as u32, chunk.len() as u32));
        plain.extend_from_slice(chunk);
    }

    fn put_frame(
        &mut self,
        class: Class,
        plain: &[u8],
        chunks: &[(Id, u32, u32)],
        phase: u16,
        pack: bool,
    ) {
        let frame = self.directory.frames.len() as u32;
        let packed = pack.then(|| self.compressor.compress(plain).ok()).flatten();
        let (codec, stored) = match &packed {
            // A gain below a sixteenth is not worth unpacking for.
            Some(packed) if packed.len() < plain.len() - plain.len() / 16 => {
                (Codec::Zstd, packed.as_slice())
            }
            _ => (Codec::Raw, plain),
        };
        let row =
            Frame { codec, class, stored: stored.len() as u32, plain: plain.len() as u32, phase };
        self.cipher.seal_segments(Domain::Frame, frame, row.segments(), stored, &mut self.bytes);
        self.directory.frames.push(row);
        self.directory.chunks.extend(chunks.iter().map(|&(id, offset, len)| ChunkPlace {
            id,
            frame,
            offset,
            len,
        }));
    }

    /// Seals the directory. `extra` is what the kind adds to it; with `pad`
    /// the size is rounded up so that it tells less.
    pub fn finish(mut self, extra: Vec<u8>, pad: bool) -> Built {
        for (class, plain, chunks) in std::mem::take(&mut self.open) {
            if !plain.is_empty() {
                self.put_frame(class, &plain, &chunks, 0, true);
            }
        }
        self.directory.chunks.sort_unstable_by_key(|chunk| chunk.id);
        self.directory.extra = extra;
        if pad {
            self.pad();
        }
        let directory = self.directory.encode();
        let place = DirectoryPlace {
            offset: self.bytes.len() as u64,
            len: Segments::new(directory.len() as u64).sealed_len(),
        };
        self.cipher.seal(Domain::Directory, 0, &directory, &mut self.bytes);
        let mut sealed = Vec::with_capacity(PLACE_SEALED);
        self.cipher.seal(Domain::Place, 0, &place.encode(), &mut sealed);
        self.bytes[PLACE_AT..PLACE_AT + PLACE_SEALED].copy_from_slice(&sealed);
        Built {
            hash: hash(&self.bytes),
            chunks: self.directory.chunks.iter().map(|chunk| chunk.id).collect(),
            bytes: self.bytes,
        }
    }

    /// Adds the smallest frame of zeros that makes the file at least 64 KiB,
    /// else a Padme size ("PURBs", Proceedings on Privacy Enhancing
    /// Technologies 2019, section 4). A tag that begins with the last byte can
    /// make it up to 16 bytes longer.
    fn pad(&mut self) {
        let padding =
            Frame { codec: Codec::Padding, class: Class::Nodes, stored: 0, plain: 0, phase: 0 };
        self.directory.frames.push(padding);
        let frames = self.bytes.len() as u64;
        let directory = self.directory.encode().len() as u64;
        // The directory was measured with two lengths of one byte each.
        let total = |zeros: u64| {
            let lengths = 2 * (u64::from(zeros.max(1).ilog2()) / 7);
            let sealed = |plain| Segments::new(plain).sealed_len();
            frames + sealed(zeros) + sealed(directory + lengths)
        };
        let target = padme(total(0)).max(SIZE_MIN);
        let (mut low, mut high) = (0, PADDING_FRAME);
        while low < high {
            let middle = low.midpoint(high);
            if total(middle) < target { low = middle + 1 } else { high = middle }
        }
        let number = self.directory.frames.len() - 1;
        self.directory.frames[number].stored = low as u32;
        self.directory.frames[number].plain = low as u32;
        let zeros = vec![0; low as usize];
        self.cipher.seal(Domain::Frame, number as u32, &zeros, &mut self.bytes);
    }
}

/// The Padme size for `len` bytes: at most 12 % more, few distinct values.
fn padme(len: u64) -> u64 {
    if len < 2 {
        return len;
    }
    let exponent = u64::from(len.ilog2());
    let kept = u64::from(exponent.max(1).ilog2()) + 1;
    let mask = (1u64 << exponent.saturating_sub(kept)) - 1;
    (len + mask) & !mask
}

/// A container whose directory was read. Its file is opened again whenever it is
/// needed and was closed meanwhile.
pub struct Reader {
    path: String,
    folder: Arc<dyn SyncedFolder>,
    file: Mutex<Option<Arc<dyn SyncedFile>>>,
    /// Whether the file was read since [`Reader::close_if_idle`] was called last.
    used: AtomicBool,
    prefix: Prefix,
    cipher: FileCipher,
    directory: Directory,
    offsets: Vec<u64>,
    len: u64,
}

impl Reader {
    /// Opens and authenticates prefix and directory; not the frames.
    pub fn open(
        context: &Context,
        path: &str,
        folder: Arc<dyn SyncedFolder>,
        kinds: &[Kind],
    ) -> Result<Self> {
        let damaged = |what: &str| StoreError::damaged(path, what);
        let file = folder.open(path).map_err(|error| StoreError::io(path, error))?;
        let len = file.len().map_err(|error| StoreError::io(path, error))?;
        if len > CONTAINER_MAX {
            return Err(damaged("it is longer than any file of a repository"));
        }
        let mut start = [0; PREFIX];
        read_exact(path, &*file, 0, &mut start)?;
        let (mut prefix, extension, place) =
            Prefix::decode_fixed(&start).map_err(|error| match version_of(&start) {
                Some(version) if version > crate::format::container::VERSION => {
                    let what = format!("its format version is {version}");
                    StoreError::Newer { path: path.to_string(), what }
                }
                _ => StoreError::damaged(path, error),
            })?;
        if !kinds.contains(&prefix.kind) {
            return Err(damaged("it is of another kind"));
        }
        prefix.extension = vec![0; extension];
        read_exact(path, &*file, PREFIX as u64, &mut prefix.extension)?;
        let cipher = context
            .file_cipher(&prefix)
            .ok_or_else(|| StoreError::UnknownEpoch { path: path.to_string() })?;
        let place = cipher
            .open(Domain::Place, 0, &place)
            .map_err(|_| damaged("its prefix does not authenticate"))?;
        // Only now: what the prefix says in the clear is authentic.
        if prefix.kind == Kind::Head
            && let Ok(HeadExtension { features, .. }) = HeadExtension::decode(&prefix.extension)
            && features.forbid_reading()
        {
            let what = format!("unknown incompatible features {:#x}", features.incompatible);
            return Err(StoreError::Newer { path: path.to_string(), what });
        }
        let place =
            DirectoryPlace::decode(&place).map_err(|error| StoreError::damaged(path, error))?;
        let written = place.offset + place.len;
        if written > len {
            // The sync client has not finished it.
            return Err(StoreError::Missing { what: format!("{path} ({len} of {written} bytes)") });
        }
        if written < len {
            return Err(damaged("it is longer than it was written"));
        }
        let mut sealed = vec![0; place.len as usize];
        read_exact(path, &*file, place.offset, &mut sealed)?;
        let plain = cipher
            .open(Domain::Directory, 0, &sealed)
            .map_err(|_| damaged("its directory does not authenticate"))?;
        let directory =
            Directory::decode(&plain).map_err(|error| StoreError::damaged(path, error))?;
        let offsets = directory.frame_offsets((PREFIX + extension) as u64);
        if offsets.last() != Some(&place.offset) {
            return Err(damaged("its frames do not fill it"));
        }
        Ok(Self {
            path: path.to_string(),
            folder,
            file: Mutex::new(Some(file.into())),
            used: AtomicBool::new(true),
            prefix,
            cipher,
            directory,
            offsets,
            len,
        })
    }

    /// Returns the container's file. Opens it if it was closed; an error if it is not in REPO.
    fn file(&self) -> Result<Arc<dyn SyncedFile>> {
        self.used.store(true, Ordering::Relaxed);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*file {
            return Ok(file.clone());
        }
        let opened = self.folder.open(&self.path);
        let opened: Arc<dyn SyncedFile> =
            opened.map_err(|error| StoreError::io(&self.path, error))?.into();
        *file = Some(opened.clone());
        Ok(opened)
    }

    /// Closes the container's file. The next read opens it again.
    pub fn close(&self) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Closes the file if it was not read since the last call.
    pub fn close_if_idle(&self) {
        if !self.used.swap(false, Ordering::Relaxed) {
            self.close();
        }
    }

    /// The sealed directory of the container, which was read when it was opened.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The directory, of a container that is not read further.
    pub fn into_directory(self) -> Directory {
        self.directory
    }

    /// The prefix of the container, which is in the clear.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// The size of the container's file in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file is empty; it never is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The plaintext of one frame, unpacked.
    pub fn frame(&self, number: u32) -> Result<Vec<u8>> {
        let frame = self.directory.frames[number as usize];
        let segments = frame.segments();
        let mut sealed = vec![0; segments.sealed_len() as usize];
        read_exact(&self.path, &*self.file()?, self.offsets[number as usize], &mut sealed)?;
        let mut stored = vec![0; frame.stored as usize];
        self.cipher
            .open_segments(Domain::Frame, number, (segments, 0), &sealed, 0, &mut stored)
            .map_err(|_| {
                StoreError::damaged(
                    &self.path,
                    format_args!("frame {number} does not authenticate"),
                )
            })?;
        match frame.codec {
            Codec::Raw | Codec::Padding => Ok(stored),
            Codec::Zstd => match zstd::bulk::decompress(&stored, frame.plain as usize) {
                Ok(plain) if plain.len() == frame.plain as usize => Ok(plain),
                _ => Err(StoreError::damaged(
                    &self.path,
                    format_args!("frame {number} does not unpack"),
                )),
            },
        }
    }

    /// Bytes of a raw frame from `from` on, as many as `out` takes; opens only the
    /// segments needed. After an error nothing in `out` means anything.
    pub fn raw_range(&self, number: u32, from: u64, out: &mut [u8]) -> Result<()> {
        let frame = self.directory.frames[number as usize];
        let (stored, to) = (u64::from(frame.stored), from + out.len() as u64);
        debug_assert!(frame.codec == Codec::Raw && from < to && to <= stored);
        let segments = frame.segments();
        let (first, last) = (segments.of_byte(from), segments.of_byte(to - 1));
        let (start, end) = (segments.sealed_begin(first), segments.sealed_begin(last + 1));
        let offset = self.offsets[number as usize] + start;
        let skip = (from - segments.begin(first)) as usize;
        let file = self.file()?;
        SEALED.with_borrow_mut(|buffer| {
            let len = (end - start) as usize;
            if buffer.len() < len {
                buffer.resize(len, 0);
            }
            let sealed = &mut buffer[..len];
            read_exact(&self.path, &*file, offset, sealed)?;
            let place = (segments, first);
            self.cipher.open_segments(Domain::Frame, number, place, sealed, skip, out).map_err(
                |_| {
                    StoreError::damaged(
                        &self.path,
                        format_args!("frame {number} does not authenticate"),
                    )
                },
            )
        })
    }
}

thread_local! {
    /// Sealed bytes that a thread reads, at most those of one frame: a fresh
    /// buffer for each read cost more than the reading.
    static SEALED: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn read_exact(path: &str, file: &dyn SyncedFile, offset: u64, buffer: &mut [u8]) -> Result<()> {
    let read = file.read_at(offset, buffer).map_err(|error| StoreError::io(path, error))?;
    if read < buffer.len() {
        // The sync client has not finished it.
        return Err(StoreError::Missing { what: format!("the end of {path}") });
    }
    Ok(())
}

/// BLAKE3 of a file's bytes.
pub fn hash_of(file: &dyn SyncedFile) -> io::Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let read = file.read_at(offset, &mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        offset += read as u64;
    }
    let found = *hasher.finalize().as_bytes();
    log::trace!("{} bytes hash to {}", offset, hex(&found[..6]));
    Ok(found)
}

/// Whether the file's bytes have the hash that names it.
pub fn check_name(file: &dyn SyncedFile, expected: &Hash) -> io::Result<bool> {
    // An endless hole would be read for ever.
    Ok(file.len()? <= CONTAINER_MAX && hash_of(file)? == *expected)
}

#[cfg(test)]
mod tests_example;

#[cfg(test)]
mod tests {
    use super::*;

    /// Padded heads came out some bytes below 64 KiB, and with sizes that told
    /// their length to within those bytes.
    #[test]
    fn padded_files_have_a_padme_size_of_at_least_64_kib() {
        use crate::format::register::Keyring;
        use crate::io::SystemRandom;
        let context = Context::new([1; 16], Keyring::random(&SystemRandom));
        for len in (0..400_000).step_by(3001).chain([65_000, 65_400, 65_536]) {
            let mut writer = Writer::new(&context, Kind::Data, Vec::new(), &SystemRandom);
            let mut noise = vec![0; len];
            blake3::Hasher::new().finalize_xof().fill(&mut noise);
            writer.add(Class::Incompressible, [3; 16], 0, &noise);
            let size = writer.finish(Vec::new(), true).bytes.len() as u64;
            let nearest = (0..=16).any(|more| padme(size - more) == size - more);
            assert!(size >= SIZE_MIN && nearest, "{len} bytes became {size}");
        }
    }

    /// A head held one tree node twice, once to be stored again and once as a new node of the ledger, and
    /// nobody could read it.
    #[test]
    fn what_is_added_twice_is_there_once() {
        use crate::format::register::Keyring;
        use crate::io::SystemRandom;
        let context = Context::new([1; 16], Keyring::random(&SystemRandom));
        let mut writer = Writer::new(&context, Kind::Data, Vec::new(), &SystemRandom);
        for (class, id) in
            [(Class::Nodes, 1), (Class::Pages, 2), (Class::Nodes, 1), (Class::Pages, 1)]
        {
            writer.add(class, [id; 16], 0, &[id; 100]);
        }
        let ids = writer.finish(Vec::new(), true).chunks;
        assert_eq!(ids.iter().map(|id| id[0]).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn padme_rounds_up_by_at_most_an_eighth() {
        let mut last = 0;
        for len in 64..100_000u64 {
            let padded = padme(len);
            assert!(padded >= len && padded - len <= len / 8, "{len} to {padded}");
            assert!(padded >= last);
            last = padded;
        }
    }
}
