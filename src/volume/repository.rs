//! What lies in REPO before any key is there, and opening it with K.

use std::collections::BTreeMap;

use crate::crypto::{DeviceId, Hash, KeyCheck, RepoId, Secret, key_check, unhex};
use crate::format::commit::{
    Commit, Name, find_head_name, find_header_name, head_folder, parse_head_name, parse_header_name,
};
use crate::format::container::{Kind, PREFIX, Prefix};
use crate::format::register::{
    Features, HEADER_MAX, HeadExtension, Header, Keyring, Register, SLOT_VAULT, Slot, Stamp,
    key_check_slot,
};
use crate::io::{EntryKind, Random, SyncedFile, SyncedFolder};
use crate::store::{Copies, Reader, Result, Store, StoreError, check_name};

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
    /// Feature sets: all of header and heads.
    pub features: Features,
    /// Heads of each device, ascending by generation.
    pub heads: BTreeMap<DeviceId, Vec<HeadFile>>,
    /// Registers, the newest first: of the header and of each device's newest
    /// readable head.
    registers: Vec<Told>,
    /// Names that are not ours, for `check`.
    pub foreign: Vec<String>,
    /// Conflict copies of heads.
    pub copies: Copies,
    /// What was wrong with a header, if one was there.
    pub header_trouble: Option<String>,
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
        let listed = folder.list("").map_err(|error| StoreError::io("", error))?;
        let mut foreign = Vec::new();
        let (mut ids, mut header_copies) = (Vec::new(), Vec::new());
        let (mut heads, mut copies) = (BTreeMap::new(), Copies::new());
        for file in listed {
            if file.kind == EntryKind::Folder {
                match unhex::<16>(&file.name) {
                    Some(device) => {
                        heads.insert(
                            device,
                            list_heads(folder, &device, &mut copies, &mut foreign)?,
                        );
                    }
                    None => foreign.push(file.name),
                }
            } else if let Some(repo) = parse_header_name(&file.name) {
                ids.push(repo);
            } else {
                if let Some(repo) = find_header_name(&file.name) {
                    header_copies.push((repo, file.name.clone()));
                }
                foreign.push(file.name);
            }
        }
        let mut registers = Vec::new();
        let mut features = Features::default();
        let mut repos = ids.clone();
        for (device, files) in &heads {
            // The newest head that can be read at all tells the register.
            for file in files.iter().rev().take(8) {
                match read_extension(folder, file, &copies, &ids) {
                    Ok(extension) if extension.device == *device => {
                        merge(&mut features, extension.features);
                        repos.push(extension.repo);
                        let head = Some(file.clone());
                        registers.push(Told { register: extension.register, head });
                        break;
                    }
                    Ok(_) => {}
                    Err(error) => log::info!("a head's prefix cannot be read: {error}"),
                }
            }
        }
        if repos.is_empty() {
            repos.extend(header_copies.iter().map(|(repo, _)| *repo));
        }
        repos.sort_unstable();
        repos.dedup();
        let repo = match repos.as_slice() {
            [] => return Err(OpenFailure::NoRepository),
            [only] => *only,
            several => return Err(OpenFailure::Several(several.len())),
        };
        let mut header_trouble = None;
        let header_copies = header_copies.iter().filter(|(of, _)| *of == repo);
        let header = match read_header(folder, &repo, &Name::Header(repo).path()).or_else(|error| {
            if matches!(error, OpenFailure::Newer(_)) {
                return Err(error);
            }
            header_copies
                .map(|copy| read_header(folder, &repo, &copy.1))
                .find(std::result::Result::is_ok)
                .unwrap_or(Err(error))
        }) {
            Ok(header) => {
                merge(&mut features, header.features);
                registers.push(Told { register: header.register.clone(), head: None });
                Some(header)
            }
            // The header is the oldest file of all: with heads that this
            // version reads, its version field is damaged.
            Err(OpenFailure::Newer(what)) if registers.is_empty() => {
                return Err(OpenFailure::Newer(what));
            }
            Err(error) => {
                header_trouble = Some(error.to_string());
                None
            }
        };
        if features.forbid_reading() {
            let bits = features.incompatible;
            return Err(OpenFailure::Newer(format!("unknown incompatible features {bits:#x}")));
        }
        if registers.is_empty() {
            return Err(OpenFailure::HeaderDamaged(header_trouble.unwrap_or_default()));
        }
        registers.sort_by_key(|told| std::cmp::Reverse(told.register.stamp));
        Ok(Self { repo, header, features, heads, registers, foreign, copies, header_trouble })
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
                log::warn!("a head's bytes changed; what it says of the vault is not used");
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

fn merge(all: &mut Features, more: Features) {
    all.compatible |= more.compatible;
    all.read_only_compatible |= more.read_only_compatible;
    all.incompatible |= more.incompatible;
}

fn list_heads(
    folder: &dyn SyncedFolder,
    device: &DeviceId,
    copies: &mut Copies,
    foreign: &mut Vec<String>,
) -> Result<Vec<HeadFile>> {
    let path = head_folder(device);
    let mut heads = Vec::new();
    for file in folder.list(&path).map_err(|error| StoreError::io(&path, error))? {
        let exact = parse_head_name(&file.name);
        if let Some((generation, hash)) = exact.or_else(|| find_head_name(&file.name)) {
            heads.push(HeadFile { generation, hash, device: *device, size: file.size });
            if exact.is_none() {
                copies.entry(hash).or_default().push(format!("{path}/{}", file.name));
            }
        }
        if exact.is_none() {
            foreign.push(format!("{path}/{}", file.name));
        }
    }
    heads.sort_unstable();
    heads.dedup_by_key(|head| (head.generation, head.hash));
    Ok(heads)
}

fn read_header(
    folder: &dyn SyncedFolder,
    repo: &RepoId,
    path: &str,
) -> std::result::Result<Header, OpenFailure> {
    let bytes = folder.read(path, HEADER_MAX).map_err(|error| StoreError::io(path, error))?;
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
    // A prefix is in the clear: what would forbid the use of everything must
    // at least be what was written.
    let odd = extension.features.forbid_writing() || !headers.contains(&extension.repo);
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
