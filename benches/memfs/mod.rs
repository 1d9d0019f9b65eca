//! A file system in memory behind `fs::Operations`: what a mount could do at
//! best, and a model of what is right.
//!
//! Lock order: tree, then an inode's attributes, then its content.

mod content;
mod operations;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use amberfs::fs::{Attr, FsError, Result};
use amberfs::io::{Clock as _, SystemClock, Timestamp};

use content::Content;

pub const ROOT: u64 = 1;

/// What an inode is, besides its content and entries.
struct Meta {
    mode: u32,
    uid: u32,
    gid: u32,
    rdev: u32,
    nlink: u32,
    atime: Timestamp,
    mtime: Timestamp,
    ctime: Timestamp,
    btime: Timestamp,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    lookups: u64,
    opens: u64,
}

struct Node {
    ino: u64,
    meta: Mutex<Meta>,
    content: RwLock<Content>,
    target: Vec<u8>,
}

#[derive(Default)]
struct Dir {
    parent: u64,
    names: BTreeMap<Vec<u8>, (u64, u64)>,
    order: BTreeMap<u64, Vec<u8>>,
    last_cookie: u64,
}

impl Dir {
    fn insert(&mut self, name: &[u8], ino: u64) {
        self.last_cookie = self.last_cookie.max(3) + 1;
        self.order.insert(self.last_cookie, name.to_vec());
        self.names.insert(name.to_vec(), (ino, self.last_cookie));
    }

    fn remove(&mut self, name: &[u8]) -> Option<u64> {
        let (ino, cookie) = self.names.remove(name)?;
        self.order.remove(&cookie);
        Some(ino)
    }

    fn get(&self, name: &[u8]) -> Result<u64> {
        self.names.get(name).map(|&(ino, _)| ino).ok_or(FsError::NotFound)
    }
}

#[derive(Default)]
struct Tree {
    nodes: HashMap<u64, Arc<Node>>,
    dirs: HashMap<u64, Dir>,
}

impl Tree {
    fn node(&self, ino: u64) -> Result<&Arc<Node>> {
        self.nodes.get(&ino).ok_or(FsError::Stale)
    }

    fn dir(&self, ino: u64) -> Result<&Dir> {
        self.dirs.get(&ino).ok_or(FsError::NotDir)
    }

    fn dir_mut(&mut self, ino: u64) -> Result<&mut Dir> {
        self.dirs.get_mut(&ino).ok_or(FsError::NotDir)
    }

    /// Whether `dir` is `above` or somewhere below it.
    fn is_below(&self, mut dir: u64, above: u64) -> bool {
        loop {
            if dir == above {
                return true;
            }
            match self.dirs.get(&dir) {
                Some(found) if dir != ROOT => dir = found.parent,
                _ => return false,
            }
        }
    }

    /// Drops an inode that nothing names, knows or has open.
    fn drop_if_dead(&mut self, ino: u64) {
        let dead = self.nodes.get(&ino).is_some_and(|node| {
            let meta = node.meta();
            meta.nlink == 0 && meta.lookups == 0 && meta.opens == 0
        });
        if dead {
            self.nodes.remove(&ino);
            self.dirs.remove(&ino);
        }
    }
}

impl Node {
    fn meta(&self) -> MutexGuard<'_, Meta> {
        self.meta.lock().expect("no panic while locked")
    }

    fn attr(&self) -> Attr {
        let meta = self.meta();
        let content = self.content.read().expect("no panic while locked");
        let size = match meta.mode & libc::S_IFMT {
            libc::S_IFLNK => self.target.len() as u64,
            libc::S_IFDIR => 4096,
            _ => content.size(),
        };
        Attr {
            ino: self.ino,
            generation: 0,
            size,
            blocks: content.blocks(),
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
            btime: meta.btime,
            mode: meta.mode,
            nlink: meta.nlink,
            uid: meta.uid,
            gid: meta.gid,
            rdev: meta.rdev,
        }
    }

    fn is_dir(&self) -> bool {
        self.meta().mode & libc::S_IFMT == libc::S_IFDIR
    }
}

impl Meta {
    /// Content changed.
    fn modified(&mut self) {
        self.mtime = now();
        self.ctime = self.mtime;
    }

    /// What a change of content or owner does to suid and sgid of a file:
    /// sgid without group execute is no privilege and stays.
    fn kill_privileges(&mut self) {
        if self.mode & libc::S_IFMT == libc::S_IFREG {
            self.mode &= !libc::S_ISUID;
            if self.mode & libc::S_IXGRP != 0 {
                self.mode &= !libc::S_ISGID;
            }
            self.xattrs.remove(&b"security.capability"[..]);
        }
    }
}

fn now() -> Timestamp {
    SystemClock.now()
}

/// The file system.
pub struct MemFs {
    tree: RwLock<Tree>,
    next: AtomicU64,
    /// How long each write takes besides, in milliseconds.
    pub write_delay: AtomicU64,
    /// Makes reading a symlink panic.
    pub panics: AtomicBool,
    /// Says that writes have to wait.
    pub congested: AtomicBool,
    /// Names that were looked up.
    pub looked_up: AtomicU64,
}

impl MemFs {
    /// With a root directory of `uid` and `gid`.
    pub fn new(uid: u32, gid: u32) -> Self {
        let fs = Self {
            tree: RwLock::default(),
            next: AtomicU64::new(ROOT),
            write_delay: AtomicU64::new(0),
            panics: AtomicBool::new(false),
            congested: AtomicBool::new(false),
            looked_up: AtomicU64::new(0),
        };
        let root = fs.node(libc::S_IFDIR | 0o755, (uid, gid), 0, &[]);
        root.meta().lookups = 1;
        let mut tree = fs.tree.write().expect("no panic while locked");
        tree.dirs.insert(ROOT, Dir { parent: ROOT, ..Dir::default() });
        tree.nodes.insert(ROOT, root);
        drop(tree);
        fs
    }

    fn node(&self, mode: u32, (uid, gid): (u32, u32), rdev: u32, target: &[u8]) -> Arc<Node> {
        let now = now();
        Arc::new(Node {
            ino: self.next.fetch_add(1, Ordering::Relaxed),
            meta: Mutex::new(Meta {
                mode,
                uid,
                gid,
                rdev,
                nlink: if mode & libc::S_IFMT == libc::S_IFDIR { 2 } else { 1 },
                atime: now,
                mtime: now,
                ctime: now,
                btime: now,
                xattrs: BTreeMap::new(),
                lookups: 1,
                opens: 0,
            }),
            content: RwLock::default(),
            target: target.to_vec(),
        })
    }

    fn find(&self, ino: u64) -> Result<Arc<Node>> {
        self.tree.read().expect("no panic while locked").node(ino).cloned()
    }
}
