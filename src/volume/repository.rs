//! What lies in REPO before any key is there, and opening it with K.

use std::collections::{BTreeMap, BTreeSet};

use super::look::Look;
use crate::crypto::{DeviceId, Hash, KeyCheck, RepoId, Secret, hex, key_check};
use crate::format::commit::{Commit, Name};
use crate::format::container::{Kind, PREFIX, Prefix};
use crate::format::register::{
    Features, HEADER_MAX, HeadExtension, Header, Keyring, Register, SLOT_VAULT, Slot, Stamp,
    key_check_slot,
};
use crate::io::{Random, SyncedFile, SyncedFolder};
use crate::store::{Copies, Oddity, Reader, Result, Store, StoreError, Stray, check_name};

/// A head as its name tells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeadFile {
    /// Its generation.
    pub generation: u64,
    /// BLAKE3 of the file.
    pub hash: Hash,
    /// The device.
    pub device: DeviceId,
    /// Bytes.
    pub size: u64,
}

impl HeadFile {
    /// Its name.
    pub fn name(&self) -> Name {
        Name::Head { device: self.device, generation: self.generation, hash: self.hash }
    }
}

/// A register, and where it stands.
struct Told {
    register: Register,
    /// The head; without one, the header.
    head: Option<HeadFile>,
}

/// What a folder holds, as far as names and clear prefixes tell.
pub struct Repository {
    /// Its id.
    pub repo: RepoId,
    /// The header, unless it is lost.
    pub header: Option<Header>,
    /// Feature sets, all that header and heads tell in the clear: a hint, which
    /// anybody could have written. Those that count are sealed.
    pub features: Features,
    /// Heads of each device, ascending by generation.
    pub heads: BTreeMap<DeviceId, Vec<HeadFile>>,
    /// Registers, the newest first: of the header and of each device's newest
    /// readable head.
    registers: Vec<Told>,
    /// What in it is not as it should be; in folders of objects, the store
    /// tells.
    pub strays: Vec<Stray>,
    /// Files that may be copies of heads, and of objects in folders that are
    /// called otherwise.
    pub copies: Copies,
    /// Why the header could not be used.
    pub header_trouble: Option<OpenFailure>,
}

/// Why a folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenFailure {
    /// Nothing of amberfs there.
    #[error("no amberfs repository here")]
    NoRepository,
    /// More than one repository in one folder.
    #[error("{0} repositories are in this folder; keep one per folder")]
    Several(usize),
    /// Written by a newer version.
    #[error("the repository needs a newer amberfs ({0})")]
    Newer(String),
    /// The header is there and damaged, and no head could replace it.
    #[error("the header is damaged: {0}")]
    HeaderDamaged(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Repository {
    /// Looks at a folder: names, header, and the newest head of each device.
    pub fn find(folder: &dyn SyncedFolder) -> std::result::Result<Self, OpenFailure> {
        let Look { headers, header_copies, mut heads, copies, mut strays } = Look::at(folder)?;
        let mut read = Headers::read(folder, &headers, &header_copies);
        let decoded: Vec<RepoId> = read.whole.keys().copied().collect();
        // The newest head that can be read at all tells the register.
        let mut told: BTreeMap<DeviceId, (HeadFile, HeadExtension)> = BTreeMap::new();
        for (device, files) in &heads {
            let readable = files.iter().rev().take(8).find_map(|file| {
                let extension = read_extension(folder, file, &copies, &decoded)
                    .inspect_err(|error| log::info!("a head's prefix cannot be read: {error}"))
                    .ok()?;
                (extension.device == *device).then(|| (file.clone(), extension))
            });
            if let Some(readable) = readable {
                told.insert(*device, readable);
            }
        }
        let lived: BTreeSet<RepoId> = told.values().map(|(_, extension)| extension.repo).collect();
        let repo = read.choose(&lived)?;
        let header = read.whole.remove(&repo);
        let header_trouble = match (&header, read.wrong.remove(&repo)) {
            (Some(_), _) => None,
            (None, wrong) => Some(wrong.unwrap_or_else(|| {
                StoreError::io(&Name::Header(repo).path(), NOT_FOUND.into()).into()
            })),
        };
        strays.extend(read.strays(&repo));
        let mut features = header.as_ref().map_or_else(Features::default, |header| header.features);
        let mut registers = Vec::new();
        for (device, (file, extension)) in told {
            if extension.repo != repo {
                heads.remove(&device);
                let what = format!("a device of repository {}", hex(&extension.repo));
                strays.push(Stray::in_place(hex(&device), Oddity::Foreign(what)));
                continue;
            }
            features.merge(extension.features);
            registers.push(Told { register: extension.register, head: Some(file) });
        }
        if let Some(header) = &header {
            registers.push(Told { register: header.register.clone(), head: None });
        }
        registers.sort_by_key(|told| std::cmp::Reverse(told.register.stamp));
        Ok(Self { repo, header, features, heads, registers, strays, copies, header_trouble })
    }

    /// Devices that have a folder here.
    pub(crate) fn devices(&self) -> Vec<DeviceId> {
        self.heads.keys().copied().collect()
    }

    /// Opens the keyring with K: of the registers that authenticate, the one
    /// with the highest *sealed* stamp. The clear stamp and slots are hints that
    /// anybody could have written.
    pub fn unlock(&self, key: &Secret) -> Option<(Keyring, Register, Vec<Slot>)> {
        self.registers
            .iter()
            .filter_map(|Told { register, .. }| {
                let (keyring, stamp, slots) = register.open(key, &self.repo).ok()?;
                let register = Register { stamp, slots: slots.clone(), ..register.clone() };
                Some((keyring, register, slots))
            })
            .max_by_key(|(_, register, _)| register.stamp)
    }

    /// Whether a password may open it.
    pub fn has_vault(&self) -> bool {
        self.registers.iter().any(|told| vault_slots(&told.register.slots).next().is_some())
    }

    /// Vault locators as the newest register tells in the clear.
    pub fn clear_vault_slots(&self) -> Vec<&[u8]> {
        self.registers
            .first()
            .map_or(Vec::new(), |told| vault_slots(&told.register.slots).collect())
    }

    /// Distinct vault locators of all registers, as told in the clear, the
    /// newest first. Registers of heads whose bytes are not what their names
    /// say are left out: a try may be spent on what stands there.
    pub fn vault_slots(&self, folder: &dyn SyncedFolder) -> Vec<&[u8]> {
        let mut found = Vec::new();
        for told in &self.registers {
            if told.head.as_ref().is_some_and(|head| !self.is_whole(folder, head)) {
                log::warn!(
                    "a head is not known to be whole; what it says of the vault is not used"
                );
                continue;
            }
            for slot in vault_slots(&told.register.slots) {
                if !found.contains(&slot) {
                    found.push(slot);
                }
            }
        }
        found
    }

    fn is_whole(&self, folder: &dyn SyncedFolder, head: &HeadFile) -> bool {
        let path = head.name().path();
        let copies = self.copies.get(&head.hash).into_iter().flatten().map(String::as_str);
        std::iter::once(path.as_str()).chain(copies).any(|path| {
            folder.open(path).and_then(|file| check_name(&*file, &head.hash)).unwrap_or(false)
        })
    }

    /// Distinct vault locators in all registers that K opens, those of every
    /// head that is here among them: also what a newer register replaced.
    pub fn sealed_vault_slots(&self, folder: &dyn SyncedFolder, key: &Secret) -> Vec<Vec<u8>> {
        let heads = self.heads.values().flatten();
        let mut registers: Vec<Register> = heads
            .filter_map(|head| read_extension(folder, head, &self.copies, &[self.repo]).ok())
            .map(|extension| extension.register)
            .chain(self.registers.iter().map(|told| told.register.clone()))
            .collect();
        // Most heads have the same one.
        registers.sort_unstable_by(|a, b| (b.stamp, &b.salt).cmp(&(a.stamp, &a.salt)));
        registers.dedup();
        let mut found = Vec::new();
        for register in registers {
            let Ok((_, _, slots)) = register.open(key, &self.repo) else { continue };
            for slot in vault_slots(&slots) {
                if !found.iter().any(|known| known == slot) {
                    found.push(slot.to_vec());
                }
            }
        }
        found
    }

    /// The key check values in all registers.
    pub fn key_checks(&self) -> Vec<KeyCheck> {
        let mut checks: Vec<_> =
            self.registers.iter().flat_map(|told| told.register.key_checks()).collect();
        checks.sort_unstable();
        checks.dedup();
        checks
    }

    /// Whether `key` is one that this repository names.
    pub fn names_key(&self, key: &Secret) -> bool {
        self.key_checks().contains(&key_check(key, &self.repo))
    }
}

/// The vault locators among unlock slots.
pub fn vault_slots(slots: &[Slot]) -> impl Iterator<Item = &[u8]> {
    slots.iter().filter(|slot| slot.kind == SLOT_VAULT).map(|slot| slot.bytes.as_slice())
}

/// The headers in a folder.
#[derive(Default)]
struct Headers {
    /// Those that can be read.
    whole: BTreeMap<RepoId, Header>,
    /// What is wrong with the others.
    wrong: BTreeMap<RepoId, OpenFailure>,
}

impl Headers {
    /// Reads all that have a header's name; copies where that does not help.
    fn read(folder: &dyn SyncedFolder, ids: &[RepoId], copies: &[(RepoId, String)]) -> Self {
        let mut headers = Self::default();
        let named = ids.iter().map(|repo| (*repo, Name::Header(*repo).path()));
        for (repo, path) in named.chain(copies.iter().cloned()) {
            if headers.whole.contains_key(&repo) {
                continue;
            }
            match read_header(folder, &repo, &path) {
                Ok(header) => drop(headers.whole.insert(repo, header)),
                Err(error) => drop(headers.wrong.entry(repo).or_insert(error)),
            }
        }
        headers
    }

    /// Which repository is here, where heads that can be read are of those in
    /// `lived`: a header that cannot be read, or that no head belongs to,
    /// counts only if there is nothing better.
    fn choose(&mut self, lived: &BTreeSet<RepoId>) -> std::result::Result<RepoId, OpenFailure> {
        let known = |repo: &&RepoId| self.whole.contains_key(*repo);
        let mut choice: Vec<RepoId> = lived.iter().filter(known).copied().collect();
        if choice.is_empty() {
            choice = lived.iter().copied().collect();
        }
        if choice.is_empty() {
            choice = self.whole.keys().copied().collect();
        }
        match choice.as_slice() {
            [only] => Ok(*only),
            [] => {
                let newer = |wrong: &OpenFailure| matches!(wrong, OpenFailure::Newer(_));
                let first = self.wrong.iter().find(|(_, wrong)| newer(wrong));
                let first = first.or_else(|| self.wrong.iter().next()).map(|(repo, _)| *repo);
                let wrong = first.and_then(|repo| self.wrong.remove(&repo));
                Err(wrong.unwrap_or(OpenFailure::NoRepository))
            }
            several => Err(OpenFailure::Several(several.len())),
        }
    }

    /// Headers that are not of this repository.
    fn strays(self, repo: &RepoId) -> impl Iterator<Item = Stray> {
        let foreign = |repo: RepoId, what: String| {
            Stray::in_place(Name::Header(repo).path(), Oddity::Foreign(what))
        };
        let whole = self.whole.into_keys().map(move |repo| {
            foreign(repo, "the header of another repository, of which no head is here".into())
        });
        let wrong = self.wrong.into_iter().map(move |(repo, wrong)| {
            foreign(repo, format!("called like the header of another repository ({wrong})"))
        });
        let repo = Name::Header(*repo).path();
        whole.chain(wrong).filter(move |stray| stray.path != repo)
    }
}

/// Of a file that is not there.
const NOT_FOUND: std::io::ErrorKind = std::io::ErrorKind::NotFound;

fn read_header(
    folder: &dyn SyncedFolder,
    repo: &RepoId,
    path: &str,
) -> std::result::Result<Header, OpenFailure> {
    let bytes = match folder.read(path, HEADER_MAX) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Err(OpenFailure::HeaderDamaged(error.to_string()));
        }
        read => read.map_err(|error| StoreError::io(path, error))?,
    };
    match crate::format::container::version_of(&bytes) {
        Some(version) if version > crate::format::container::VERSION => {
            return Err(OpenFailure::Newer(format!("its format version is {version}")));
        }
        _ => {}
    }
    match Header::decode(&bytes) {
        Ok(header) if header.repo == *repo => Ok(header),
        Ok(_) => Err(OpenFailure::HeaderDamaged("it belongs to another repository".into())),
        Err(error) => Err(OpenFailure::HeaderDamaged(error.to_string())),
    }
}

fn read_extension(
    folder: &dyn SyncedFolder,
    head: &HeadFile,
    copies: &Copies,
    headers: &[RepoId],
) -> Result<HeadExtension> {
    let mut read = read_extension_at(folder, &head.name().path(), &head.hash, headers);
    for path in copies.get(&head.hash).into_iter().flatten() {
        if read.is_err() {
            read = read_extension_at(folder, path, &head.hash, headers);
        }
    }
    read
}

/// The extension of a head whose name, or place, is another; its bytes must have
/// this hash.
pub fn read_copy(folder: &dyn SyncedFolder, path: &str, hash: &Hash) -> Result<HeadExtension> {
    read_extension_at(folder, path, hash, &[])
}

fn read_extension_at(
    folder: &dyn SyncedFolder,
    path: &str,
    hash: &Hash,
    headers: &[RepoId],
) -> Result<HeadExtension> {
    let file = folder.open(path).map_err(|error| StoreError::io(path, error))?;
    let mut start = [0; PREFIX];
    exact(path, &*file, 0, &mut start)?;
    let (prefix, len, _) =
        Prefix::decode_fixed(&start).map_err(|error| StoreError::damaged(path, error))?;
    if prefix.kind != Kind::Head {
        return Err(StoreError::damaged(path, "it is of another kind"));
    }
    let mut bytes = vec![0; len];
    exact(path, &*file, PREFIX as u64, &mut bytes)?;
    let extension =
        HeadExtension::decode(&bytes).map_err(|error| StoreError::damaged(path, error))?;
    // A prefix is in the clear: what could make another repository of this one
    // must at least be what was written.
    let odd = !headers.contains(&extension.repo);
    let whole = || check_name(&*file, hash).map_err(|error| StoreError::io(path, error));
    if odd && !whole()? {
        return Err(StoreError::damaged(path, "its bytes changed"));
    }
    Ok(extension)
}

fn exact(path: &str, file: &dyn SyncedFile, offset: u64, buffer: &mut [u8]) -> Result<()> {
    match file.read_at(offset, buffer) {
        Ok(read) if read == buffer.len() => Ok(()),
        Ok(_) => Err(StoreError::damaged(path, "it ends too early")),
        Err(error) => Err(StoreError::io(path, error)),
    }
}

/// Opens a head: prefix, extension, commit, all agreeing with the path.
pub fn open_head(store: &Store, head: &HeadFile) -> Result<(Commit, HeadExtension, Reader)> {
    let name = head.name();
    let path = name.path();
    let reader = store.open(&name)?;
    // Who holds a replaced K has only older epochs and must not add heads.
    if reader.prefix().epoch != store.context().keyring.newest().id {
        return Err(StoreError::damaged(&path, "it is sealed under an epoch that is over"));
    }
    let extension = HeadExtension::decode(&reader.prefix().extension)
        .map_err(|error| StoreError::damaged(&path, error))?;
    let commit = Commit::decode(&reader.directory().extra)
        .map_err(|error| StoreError::damaged(&path, error))?;
    let agree = extension.repo == store.context().repo
        && extension.device == head.device
        && commit.device == head.device
        && extension.generation == head.generation
        && commit.generation == head.generation;
    if !agree {
        return Err(StoreError::damaged(&path, "it belongs to another place"));
    }
    Ok((commit, extension, reader))
}

/// Makes a repository in a new or empty folder: writes the header. Returns K's
/// header. `slots` are unlock slots beside the key check value.
pub fn init(
    folder: &dyn SyncedFolder,
    key: &Secret,
    repo: RepoId,
    device: DeviceId,
    mut slots: Vec<Slot>,
    random: &dyn Random,
) -> Result<Header> {
    slots.insert(0, key_check_slot(key, &repo));
    let stamp = Stamp { counter: 1, device };
    let keyring = Keyring::random(random);
    let register = Register::seal(key, &repo, stamp, slots, &keyring, random);
    let header = Header { features: Features::default(), repo, register };
    let path = Name::Header(repo).path();
    folder.publish(&path, &header.encode()).map_err(|error| StoreError::io(&path, error))?;
    Ok(header)
}
