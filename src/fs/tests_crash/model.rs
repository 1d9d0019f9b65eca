//! What the file system should hold: paths to files, and files to bytes.

use std::collections::BTreeMap;

use super::super::*;
use crate::crypto::hash;

pub const ME: Caller = Caller { uid: 1000, gid: 1000 };
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// One operation; paths are relative to the root.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Mkdir(&'static str),
    Create(&'static str),
    Symlink(&'static str, &'static str),
    /// Offset, length, and what the bytes are made from.
    Write(&'static str, u64, usize, u8),
    Truncate(&'static str, u64),
    /// Offset and length.
    Punch(&'static str, u64, u64),
    Xattr(&'static str, u8),
    Rename(&'static str, &'static str),
    Exchange(&'static str, &'static str),
    Link(&'static str, &'static str),
    Unlink(&'static str),
    Rmdir(&'static str),
    WriteOut,
    Fsync,
    Checkpoint,
}

impl Op {
    /// Whether what was acknowledged before is durable once this returned.
    pub fn is_promise(self) -> bool {
        matches!(self, Self::Fsync | Self::Checkpoint)
    }
}

/// Bytes made from a number: every third is compressible.
pub fn fill(len: usize, from: u8) -> Vec<u8> {
    let mut bytes = vec![from; len];
    if !from.is_multiple_of(3) {
        blake3::Hasher::new().update(&[from]).finalize_xof().fill(&mut bytes);
    }
    bytes
}

/// What one path shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Dir,
    Symlink(Vec<u8>),
    /// Length, hash of the content, number of names, extended attribute.
    File(usize, [u8; 4], u32, Option<u8>),
}

/// Everything visible.
pub type Tree = BTreeMap<String, Seen>;

#[derive(Clone, Copy)]
enum Node {
    Dir,
    Symlink(&'static str),
    File(usize),
}

/// The model.
#[derive(Clone, Default)]
pub struct Model {
    paths: BTreeMap<String, Node>,
    files: Vec<(Vec<u8>, Option<u8>)>,
}

fn show(bytes: &[u8], names: u32, note: Option<u8>) -> Seen {
    Seen::File(bytes.len(), hash(bytes)[..4].try_into().unwrap(), names, note)
}

impl Model {
    fn file(&mut self, path: &str) -> &mut (Vec<u8>, Option<u8>) {
        match self.paths[path] {
            Node::File(file) => &mut self.files[file],
            _ => panic!("{path} is no file"),
        }
    }

    pub fn has(&self, path: &str) -> bool {
        self.paths.contains_key(path)
    }

    fn same(&self, a: &str, b: &str) -> bool {
        let file = |path| match self.paths.get(path) {
            Some(Node::File(file)) => Some(*file),
            _ => None,
        };
        file(a).is_some() && file(a) == file(b)
    }

    /// Takes a path with all that is below it.
    fn take(&mut self, path: &str) -> Vec<(String, Node)> {
        let inside = format!("{path}/");
        let taken: Vec<_> = self
            .paths
            .iter()
            .filter(|(name, _)| *name == path || name.starts_with(&inside))
            .map(|(name, node)| (name[path.len()..].to_owned(), *node))
            .collect();
        self.paths.retain(|name, _| name != path && !name.starts_with(&inside));
        taken
    }

    fn give(&mut self, path: &str, taken: Vec<(String, Node)>) {
        self.paths.extend(taken.into_iter().map(|(rest, node)| (format!("{path}{rest}"), node)));
    }

    pub fn apply(&mut self, op: Op) {
        match op {
            Op::Mkdir(path) => drop(self.paths.insert(path.into(), Node::Dir)),
            Op::Symlink(path, target) => {
                self.paths.insert(path.into(), Node::Symlink(target));
            }
            Op::Create(path) => {
                self.paths.insert(path.into(), Node::File(self.files.len()));
                self.files.push((Vec::new(), None));
            }
            Op::Write(path, offset, len, from) => {
                let (content, _) = self.file(path);
                let (start, end) = (offset as usize, offset as usize + len);
                content.resize(content.len().max(end), 0);
                content[start..end].copy_from_slice(&fill(len, from));
            }
            Op::Truncate(path, size) => self.file(path).0.resize(size as usize, 0),
            Op::Punch(path, offset, len) => {
                let (content, _) = self.file(path);
                let end = content.len().min((offset + len) as usize);
                content[(offset as usize).min(end)..end].fill(0);
            }
            Op::Xattr(path, value) => self.file(path).1 = Some(value),
            // Two names of one file stay both (rename(2)).
            Op::Rename(from, to) if self.same(from, to) => {}
            Op::Rename(from, to) => {
                self.take(to);
                let taken = self.take(from);
                self.give(to, taken);
            }
            Op::Exchange(a, b) => {
                let (of_a, of_b) = (self.take(a), self.take(b));
                self.give(a, of_b);
                self.give(b, of_a);
            }
            Op::Link(from, to) => drop(self.paths.insert(to.into(), self.paths[from])),
            Op::Unlink(path) | Op::Rmdir(path) => drop(self.paths.remove(path)),
            Op::WriteOut | Op::Fsync | Op::Checkpoint => {}
        }
    }

    pub fn tree(&self) -> Tree {
        let names = |file| {
            self.paths.values().filter(|node| matches!(node, Node::File(f) if *f == file)).count()
        };
        let see = |node: &Node| match *node {
            Node::Dir => Seen::Dir,
            Node::Symlink(target) => Seen::Symlink(target.into()),
            Node::File(file) => show(&self.files[file].0, names(file) as u32, self.files[file].1),
        };
        self.paths.iter().map(|(path, node)| (path.clone(), see(node))).collect()
    }
}

fn split(path: &str) -> (&str, &[u8]) {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    (dir, name.as_bytes())
}

/// The inode of a path; the kernel's lookup is given back at once.
pub fn find(fs: &Fs, path: &str) -> Result<Ino> {
    path.split('/').filter(|name| !name.is_empty()).try_fold(ROOT, |dir, name| {
        let ino = fs.lookup(dir, name.as_bytes())?.ino;
        fs.forget(ino, 1);
        Ok(ino)
    })
}

/// Does `op` on the file system.
pub fn perform(fs: &Fs, op: Op) -> Result<()> {
    let made = |attr: Attr| fs.forget(attr.ino, 1);
    let place = |path: &'static str| -> Result<(Ino, &'static [u8])> {
        let (dir, name) = split(path);
        Ok((find(fs, dir)?, name))
    };
    match op {
        Op::Mkdir(path) => {
            let (dir, name) = place(path)?;
            fs.mkdir(ME, dir, name, 0o755).map(made)
        }
        Op::Create(path) => {
            let (dir, name) = place(path)?;
            fs.mknod(ME, dir, name, 0o100_644, 0).map(made)
        }
        Op::Symlink(path, target) => {
            let (dir, name) = place(path)?;
            fs.symlink(ME, dir, name, target.as_bytes()).map(made)
        }
        Op::Write(path, offset, len, from) => {
            fs.write(find(fs, path)?, offset, &fill(len, from), false)
        }
        Op::Truncate(path, size) => {
            let change = SetAttr { size: Some(size), ..SetAttr::default() };
            fs.setattr(find(fs, path)?, &change).map(drop)
        }
        Op::Punch(path, offset, len) => fs.fallocate(find(fs, path)?, offset, len, PUNCH),
        Op::Xattr(path, value) => fs.setxattr(find(fs, path)?, b"user.note", &[value], 0),
        Op::Rename(from, to) => fs.rename(place(from)?, place(to)?, RenameMode::Replace),
        Op::Exchange(a, b) => fs.rename(place(a)?, place(b)?, RenameMode::Exchange),
        Op::Link(from, to) => {
            let (dir, name) = place(to)?;
            fs.link(find(fs, from)?, dir, name).map(made)
        }
        Op::Unlink(path) => {
            let (dir, name) = place(path)?;
            fs.unlink(dir, name)
        }
        Op::Rmdir(path) => {
            let (dir, name) = place(path)?;
            fs.rmdir(dir, name)
        }
        Op::WriteOut => fs.write_log(std::time::Duration::ZERO),
        Op::Fsync => fs.fsync(ROOT),
        Op::Checkpoint => fs.checkpoint().map(drop),
    }
}

/// All that is visible, read to the last byte.
pub fn visible(fs: &Fs) -> Result<Tree> {
    let mut tree = Tree::new();
    walk(fs, ROOT, "", &mut tree)?;
    Ok(tree)
}

fn walk(fs: &Fs, dir: Ino, path: &str, tree: &mut Tree) -> Result<()> {
    let mut entries = Vec::new();
    fs.readdir(dir, 2, true, &mut |entry| {
        entries.push(entry.clone());
        true
    })?;
    for entry in entries {
        let name = String::from_utf8(entry.name).unwrap();
        let path = if path.is_empty() { name } else { format!("{path}/{name}") };
        let ino = entry.attr.ino;
        let seen = match entry.attr.mode & 0o170_000 {
            0o040_000 => {
                walk(fs, ino, &path, tree)?;
                Seen::Dir
            }
            0o120_000 => Seen::Symlink(fs.readlink(ino)?),
            _ => {
                let bytes = fs.read(ino, 0, u32::MAX)?;
                assert_eq!(bytes.len() as u64, entry.attr.size, "{path}");
                let note = match fs.getxattr(ino, b"user.note") {
                    Ok(value) => Some(value[0]),
                    Err(FsError::NoData) => None,
                    Err(error) => return Err(error),
                };
                show(&bytes, entry.attr.nlink, note)
            }
        };
        tree.insert(path, seen);
    }
    Ok(())
}
