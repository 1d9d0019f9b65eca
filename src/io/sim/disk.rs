//! The storage below the simulated folders: files with a live and a durable
//! image, folders with live and durable names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use super::{Crash, Fault, Timestamp, Unsynced};

/// A change of a file's bytes that is not synced.
#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>, limit: usize) {
        match self {
            Self::Write { offset, bytes } => {
                let bytes = &bytes[..bytes.len().min(limit)];
                if bytes.is_empty() {
                    return;
                }
                image.resize(image.len().max(offset + bytes.len()), 0);
                image[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Self::SetLen(len) => image.resize(*len, 0),
        }
    }
}

#[derive(Clone, Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// With the number of the operation.
    unsynced: Vec<(u64, Change)>,
    changed: Timestamp,
}

/// What a name of the simulated disk leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    File(u64),
    Folder,
}

type Names = BTreeMap<String, Node>;

/// All of it. Paths are complete: they begin with a root's name.
pub(super) struct Disk {
    files: HashMap<u64, File>,
    live: Names,
    durable: Names,
    next_file: u64,
    pub operations: u64,
    pub data_syncs: u64,
    pub freeze_at: Option<u64>,
    frozen: bool,
    pub faults: BTreeMap<u64, Fault>,
    pub capacity: u64,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            files: HashMap::new(),
            live: Names::new(),
            durable: Names::new(),
            next_file: 1,
            operations: 0,
            data_syncs: 0,
            freeze_at: None,
            frozen: false,
            faults: BTreeMap::new(),
            capacity: 1 << 40,
        }
    }
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Disk {
    pub fn make_root(&mut self, root: &str) {
        self.live.insert(root.to_owned(), Node::Folder);
        self.durable.insert(root.to_owned(), Node::Folder);
    }

    /// Fails if the simulated machine has stopped. Every access begins with this.
    pub fn check(&self) -> io::Result<()> {
        if self.frozen {
            Err(io::Error::other("the simulated machine has stopped"))
        } else {
            Ok(())
        }
    }

    /// Counts a change; the fault that is set for it, if any.
    fn count(&mut self) -> io::Result<()> {
        self.check()?;
        if self.freeze_at.is_some_and(|most| self.operations >= most) {
            self.frozen = true;
            return self.check();
        }
        self.operations += 1;
        self.faults.remove(&self.operations).map_or(Ok(()), |fault| Err(fault.error()))
    }

    pub fn find(&self, path: &str) -> io::Result<u64> {
        match self.live.get(path) {
            Some(Node::File(file)) => Ok(*file),
            Some(Node::Folder) => Err(errno(libc::EISDIR)),
            None => Err(errno(libc::ENOENT)),
        }
    }

    fn folder_exists(&self, path: &str) -> io::Result<()> {
        match self.live.get(path) {
            Some(Node::Folder) => Ok(()),
            _ => Err(errno(libc::ENOENT)),
        }
    }

    pub fn create(&mut self, path: &str, now: Timestamp) -> io::Result<u64> {
        self.check()?;
        self.folder_exists(parent(path))?;
        if self.live.contains_key(path) {
            return Err(errno(libc::EEXIST));
        }
        self.count()?;
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(file, File { changed: now, ..File::default() });
        self.live.insert(path.to_owned(), Node::File(file));
        Ok(file)
    }

    pub fn read_at(&self, file: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        let live = &self.files[&file].live;
        let rest = live.get(offset as usize..).unwrap_or(&[]);
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    pub fn len(&self, file: u64) -> io::Result<u64> {
        self.check()?;
        Ok(self.files[&file].live.len() as u64)
    }

    pub fn changed(&self, file: u64) -> Timestamp {
        self.files[&file].changed
    }

    pub fn used(&self) -> u64 {
        let linked: BTreeSet<u64> = self
            .live
            .values()
            .filter_map(|node| if let Node::File(file) = node { Some(*file) } else { None })
            .collect();
        linked.iter().map(|file| self.files[file].live.len() as u64).sum()
    }

    fn change(&mut self, file: u64, change: Change, now: Timestamp) -> io::Result<()> {
        self.count()?;
        let old = self.files[&file].live.len();
        let new = match &change {
            Change::Write { offset, bytes } => old.max(offset + bytes.len()),
            Change::SetLen(len) => *len,
        };
        if new > old && self.used() + (new - old) as u64 > self.capacity {
            return Err(Fault::NoSpace.error());
        }
        let operation = self.operations;
        let file = self.files.get_mut(&file).expect("handles name files that exist");
        change.apply(&mut file.live, usize::MAX);
        file.unsynced.push((operation, change));
        file.changed = now;
        Ok(())
    }

    pub fn write(&mut self, file: u64, at: u64, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let change = Change::Write { offset: at as usize, bytes: bytes.to_vec() };
        self.change(file, change, now)
    }

    pub fn set_len(&mut self, file: u64, len: u64, now: Timestamp) -> io::Result<()> {
        self.change(file, Change::SetLen(len as usize), now)
    }

    pub fn sync_data(&mut self, file: u64) -> io::Result<()> {
        let counted = self.count();
        if self.frozen {
            return counted;
        }
        let file = self.files.get_mut(&file).expect("handles name files that exist");
        let unsynced = std::mem::take(&mut file.unsynced);
        counted?;
        for (_, change) in unsynced {
            change.apply(&mut file.durable, usize::MAX);
        }
        self.data_syncs += 1;
        Ok(())
    }

    pub fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.check()?;
        let file = self.find(from)?;
        self.folder_exists(parent(to))?;
        self.count()?;
        self.live.remove(from);
        self.live.insert(to.to_owned(), Node::File(file));
        Ok(())
    }

    pub fn remove(&mut self, path: &str) -> io::Result<()> {
        self.check()?;
        self.find(path)?;
        self.count()?;
        self.live.remove(path);
        Ok(())
    }

    pub fn make_dir(&mut self, path: &str) -> io::Result<()> {
        self.check()?;
        if self.live.get(path) == Some(&Node::Folder) {
            return Ok(());
        }
        if !parent(path).is_empty() {
            self.make_dir(parent(path))?;
        }
        self.count()?;
        self.live.insert(path.to_owned(), Node::Folder);
        Ok(())
    }

    /// Makes the names in one folder durable.
    pub fn sync_dir(&mut self, path: &str) -> io::Result<()> {
        self.check()?;
        self.folder_exists(path)?;
        self.count()?;
        self.durable.retain(|name, _| parent(name) != path);
        let names = self.live.iter().filter(|(name, _)| parent(name) == path);
        self.durable.extend(names.map(|(name, node)| (name.clone(), *node)));
        Ok(())
    }

    /// Names and nodes in a folder, sorted; a missing one is empty.
    pub fn list(&self, path: &str) -> io::Result<Vec<(String, Node)>> {
        self.check()?;
        let inside = self.live.iter().filter(|(name, _)| parent(name) == path);
        Ok(inside.map(|(name, node)| (name[path.len() + 1..].to_owned(), *node)).collect())
    }

    /// Operation and file of every write that is not synced, in order.
    pub fn pending(&self) -> Vec<(u64, u64)> {
        let mut pending: Vec<_> = self
            .files
            .iter()
            .flat_map(|(id, file)| file.unsynced.iter().map(|(operation, _)| (*operation, *id)))
            .collect();
        pending.sort_unstable();
        pending
    }

    pub fn last_pending_len(&self) -> usize {
        let Some((operation, file)) = self.pending().last().copied() else { return 0 };
        let changes = &self.files[&file].unsynced;
        match changes.iter().find(|change| change.0 == operation) {
            Some((_, Change::Write { bytes, .. })) => bytes.len(),
            _ => 0,
        }
    }

    pub fn crash(&self, crash: Crash) -> Self {
        let pending = self.pending();
        let keep = |operation: u64| match crash.data {
            Unsynced::Kept => usize::MAX,
            Unsynced::Lost => 0,
            Unsynced::OneLost(index) => {
                let lost = pending.get(index).is_some_and(|lost| lost.0 == operation);
                if lost { 0 } else { usize::MAX }
            }
            Unsynced::LastTorn(bytes) => {
                let last = pending.last().is_some_and(|last| last.0 == operation);
                if last { bytes } else { usize::MAX }
            }
        };
        let mut names = if crash.names_kept { self.live.clone() } else { self.durable.clone() };
        // A folder whose own name is lost takes its content with it.
        let folders: BTreeSet<String> = names
            .iter()
            .filter(|(_, node)| **node == Node::Folder)
            .map(|(name, _)| name.clone())
            .collect();
        names.retain(|name, _| {
            name.match_indices('/').all(|(slash, _)| folders.contains(&name[..slash]))
        });
        let mut disk =
            Self { next_file: self.next_file, capacity: self.capacity, ..Self::default() };
        for node in names.values() {
            let Node::File(id) = node else { continue };
            let old = &self.files[id];
            let mut image = old.durable.clone();
            for (operation, change) in &old.unsynced {
                let limit = keep(*operation);
                if limit > 0 {
                    change.apply(&mut image, limit);
                }
            }
            let changed = old.changed;
            let durable = image.clone();
            disk.files.insert(*id, File { live: image, durable, unsynced: vec![], changed });
        }
        disk.live.clone_from(&names);
        disk.durable = names;
        disk
    }

    pub fn take_away(&mut self, path: &str) -> bool {
        self.durable.remove(path);
        matches!(self.live.remove(path), Some(Node::File(_)))
    }

    pub fn tamper(&mut self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Ok(id) = self.find(path) else { return false };
        let file = self.files.get_mut(&id).expect("names name files that exist");
        change(&mut file.live);
        file.durable.clone_from(&file.live);
        file.unsynced.clear();
        true
    }

    pub fn put(&mut self, path: &str, bytes: &[u8], now: Timestamp) {
        for (slash, _) in path.match_indices('/') {
            self.make_root(&path[..slash]);
        }
        let id = self.next_file;
        self.next_file += 1;
        let (live, durable) = (bytes.to_vec(), bytes.to_vec());
        self.files.insert(id, File { live, durable, unsynced: vec![], changed: now });
        self.live.insert(path.to_owned(), Node::File(id));
        self.durable.insert(path.to_owned(), Node::File(id));
    }

    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.find(path).ok().map(|id| self.files[&id].live.clone())
    }

    pub fn paths(&self) -> Vec<String> {
        let files = self.live.iter().filter(|(_, node)| matches!(node, Node::File(_)));
        files.map(|(name, _)| name.clone()).collect()
    }
}
