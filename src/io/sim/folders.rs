//! The two kinds of folder over the simulated storage.

use std::io;

use super::super::{
    Clock, EntryKind, Listed, OpenMode, PrivateFile, PrivateFolder, Space, SyncedFile,
    SyncedFolder, Timestamp,
};
use super::SimWorld;
use super::disk::{Disk, Node};

fn join(root: &str, path: &str) -> String {
    if path.is_empty() { root.to_owned() } else { format!("{root}/{path}") }
}

fn space(disk: &Disk) -> io::Result<Space> {
    disk.check()?;
    let (total, files_free) = (disk.capacity, 1 << 20);
    Ok(Space { free: total.saturating_sub(disk.used()), total, files_free })
}

/// A private folder of a [`SimWorld`].
pub struct SimFolder {
    pub(super) world: SimWorld,
    pub(super) root: String,
}

/// A synced folder of a [`SimWorld`]. Files enter in place, as where local
/// state lies on another file system: a crash may leave them torn.
pub struct SimSynced {
    pub(super) world: SimWorld,
    pub(super) root: String,
}

struct SimFile {
    world: SimWorld,
    file: u64,
    mode: OpenMode,
}

impl SimFile {
    fn writable(&self) -> io::Result<Timestamp> {
        if self.mode == OpenMode::Read {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        Ok(self.world.clock.now())
    }
}

impl PrivateFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.world.disk().read_at(self.file, offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let now = self.writable()?;
        self.world.disk().write(self.file, offset, bytes, now)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.world.disk().sync_data(self.file)
    }

    fn len(&self) -> io::Result<u64> {
        self.world.disk().len(self.file)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let now = self.writable()?;
        self.world.disk().set_len(self.file, len, now)
    }
}

impl SyncedFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.world.disk().read_at(self.file, offset, buffer)
    }

    fn len(&self) -> io::Result<u64> {
        self.world.disk().len(self.file)
    }
}

impl PrivateFolder for SimFolder {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn PrivateFile>> {
        let path = join(&self.root, path);
        let now = self.world.clock.now();
        let mut disk = self.world.disk();
        disk.check()?;
        let file = match mode {
            OpenMode::CreateNew => disk.create(&path, now)?,
            OpenMode::Read | OpenMode::Write => disk.find(&path)?,
        };
        Ok(Box::new(SimFile { world: self.world.clone(), file, mode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.world.disk().rename(&join(&self.root, from), &join(&self.root, to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.world.disk().remove(&join(&self.root, path))
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        self.world.disk().make_dir(&join(&self.root, path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let found = self.world.disk().list(&join(&self.root, path))?;
        let files = found.into_iter().filter(|(_, node)| *node != Node::Folder);
        Ok(files.map(|(name, _)| name).collect())
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.world.disk().sync_dir(&join(&self.root, path))
    }

    fn space(&self) -> io::Result<Space> {
        space(&self.world.disk())
    }
}

impl SyncedFolder for SimSynced {
    fn place(&self) -> String {
        self.root.clone()
    }

    fn hold(&self) -> io::Result<Box<dyn SyncedFolder + '_>> {
        self.world.disk().check()?;
        Ok(Box::new(Self { world: self.world.clone(), root: self.root.clone() }))
    }

    fn look(&self, path: &str) -> io::Result<Option<Listed>> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok(self.list(folder)?.into_iter().find(|found| found.name == name))
    }

    fn check_writable(&self, _: &str) -> io::Result<()> {
        self.world.disk().check()
    }

    fn list(&self, path: &str) -> io::Result<Vec<Listed>> {
        let disk = self.world.disk();
        let found = disk.list(&join(&self.root, path))?;
        found
            .into_iter()
            .map(|(name, node)| {
                let (size, changed, kind) = match node {
                    Node::File(file) => (disk.len(file)?, disk.changed(file), EntryKind::File),
                    Node::Folder => (0, Timestamp::default(), EntryKind::Folder),
                };
                Ok(Listed { name, size, changed, kind })
            })
            .collect()
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn SyncedFile>> {
        let disk = self.world.disk();
        disk.check()?;
        let file = disk.find(&join(&self.root, path))?;
        Ok(Box::new(SimFile { world: self.world.clone(), file, mode: OpenMode::Read }))
    }

    fn publish(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let target = join(&self.root, path);
        let folder = target.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        let now = self.world.clock.now();
        let mut disk = self.world.disk();
        disk.check()?;
        if disk.get(&target).is_some_and(|present| present == bytes) {
            let file = disk.find(&target)?;
            disk.write(file, 0, bytes, now)?;
            disk.sync_data(file)?;
            return disk.sync_dir(&folder);
        }
        match disk.remove(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        disk.make_dir(&folder)?;
        for (slash, _) in folder.match_indices('/') {
            disk.sync_dir(&folder[..slash])?;
        }
        let file = disk.create(&target, now)?;
        disk.write(file, 0, bytes, now)?;
        disk.sync_data(file)?;
        disk.sync_dir(&folder)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let target = join(&self.root, path);
        let mut disk = self.world.disk();
        match disk.remove(&target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        disk.sync_dir(target.rsplit_once('/').map_or("", |(folder, _)| folder))
    }

    fn space(&self) -> io::Result<Space> {
        space(&self.world.disk())
    }
}
