//! What a file or folder gets of its source: bytes, mode, time, extended attributes.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::super::beneath::held;
use super::super::{ACL, PIECE, shown, shown_path};
use super::{Put, Putter};
use crate::format::namespace::{NAME_MAX, XATTR_MAX};
use crate::fs::{FsError, SetAttr, TimeSet, has_namespace};
use crate::io::Timestamp;

/// Most bytes of names of extended attributes, and of a value (xattr(7)).
const XATTR_ROOM: usize = 64 << 10;

/// Most bytes of a file that tells no length. Those of /proc have far less; a log
/// that was empty a moment ago could grow for ever.
const UNTOLD_MOST: u64 = 64 << 20;

impl Putter<'_> {
    /// Content and attributes of an open file.
    pub(super) fn file(
        &mut self,
        source: &Path,
        file: &File,
        data: &Metadata,
        ino: u64,
    ) -> Put<u64> {
        let bytes = if data.len() == 0 {
            // Files of /proc have a length only once they are read.
            self.stream(ino, &mut file.take(UNTOLD_MOST))?
        } else {
            self.content(ino, file, data.len())?
        };
        self.attributes(
            source,
            ino,
            |room| rustix::fs::flistxattr(file, room),
            |name, room| rustix::fs::fgetxattr(file, name, room),
        )?;
        self.set_final_attributes(ino, self.mode(data), Some(data))?;
        if data.len() == 0 && bytes == UNTOLD_MOST {
            let why = format!("it tells no length: what comes after {bytes} bytes is left out");
            self.left_out.name(&self.bar, &shown_path(source), why);
        }
        let after = file.metadata()?;
        let time = |data: &Metadata| (data.mtime(), data.mtime_nsec());
        if (after.len(), time(&after)) != (data.len(), time(data)) {
            let shown = shown_path(source);
            self.left_out.name(&self.bar, &shown, "changed while it was read; put it again");
        }
        Ok(bytes)
    }

    /// Copies the bytes below `len` that are not holes: what is appended
    /// meanwhile could go on for ever.
    fn content(&mut self, ino: u64, file: &File, len: u64) -> Put<u64> {
        let mut buffer = vec![0; PIECE];
        let (mut at, mut end, mut written) = (0, 0, 0);
        while at < len {
            if at == end {
                at = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                    Ok(data) => data,
                    // All holes from here on.
                    Err(Errno::NXIO) => break,
                    // A file system without holes.
                    Err(_) => at,
                };
                end = rustix::fs::seek(file, SeekFrom::Hole(at)).unwrap_or(len).clamp(at, len);
                if at >= len {
                    break;
                }
                if end == at {
                    end = len;
                }
            }
            let want = (end - at).min(PIECE as u64) as usize;
            let read = file.read_at(&mut buffer[..want], at)?;
            if read == 0 {
                // It is shorter by now.
                self.resize(ino, at)?;
                return Ok(at);
            }
            self.fs.write(ino, at, &buffer[..read], false)?;
            at += read as u64;
            written = at;
            self.bar.inc(read as u64);
        }
        if written < len {
            // The rest is a hole.
            self.resize(ino, len)?;
        }
        Ok(len)
    }

    fn resize(&self, ino: u64, size: u64) -> Put<()> {
        self.fs.setattr(ino, &SetAttr { size: Some(size), ..SetAttr::default() })?;
        Ok(())
    }

    /// Copies up to the end.
    pub(super) fn stream(&mut self, ino: u64, source: &mut dyn Read) -> Put<u64> {
        let mut buffer = Vec::with_capacity(PIECE);
        let mut at = 0u64;
        loop {
            buffer.clear();
            source.take(PIECE as u64).read_to_end(&mut buffer)?;
            if buffer.is_empty() {
                return Ok(at);
            }
            self.fs.write(ino, at, &buffer, false)?;
            at += buffer.len() as u64;
            self.bar.inc(buffer.len() as u64);
        }
    }

    /// Permissions as they are to be stored. What runs as its owner must not
    /// become something that runs as whoever puts it.
    pub(super) fn mode(&self, data: &Metadata) -> u32 {
        let mut mode = data.mode() & 0o7777;
        if data.uid() != self.caller.uid {
            mode &= !0o4000;
        }
        if data.gid() != self.caller.gid {
            mode &= !0o2000;
        }
        mode
    }

    /// The last that is set: owner, mode, and the time of the source.
    pub(super) fn set_final_attributes(
        &self,
        ino: u64,
        mode: u32,
        data: Option<&Metadata>,
    ) -> Put<()> {
        let mtime = data.map(|data| {
            TimeSet::At(Timestamp { secs: data.mtime(), nanos: data.mtime_nsec() as u32 })
        });
        self.fs.setattr(
            ino,
            &SetAttr {
                // Not the group of a folder that gives its own.
                uid: Some(self.caller.uid),
                gid: Some(self.caller.gid),
                mode: Some(mode),
                mtime,
                ..SetAttr::default()
            },
        )?;
        Ok(())
    }

    /// Gives inode `ino` the attributes of a source file that is known by an open
    /// descriptor alone.
    pub(super) fn held_attributes(&mut self, source: &Path, found: &File, ino: u64) -> Put<()> {
        let path = held(found);
        self.attributes(
            source,
            ino,
            |room| rustix::fs::listxattr(&path, room),
            |name, room| rustix::fs::getxattr(&path, name, room),
        )
    }

    /// Makes the extended attributes those of the source.
    pub(super) fn attributes(
        &mut self,
        source: &Path,
        ino: u64,
        list: impl FnOnce(&mut [u8]) -> rustix::io::Result<usize>,
        get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
    ) -> Put<()> {
        let mut room = vec![0; XATTR_ROOM];
        let len = match list(&mut room) {
            Ok(len) => len,
            // The file system has none.
            Err(Errno::NOTSUP) => 0,
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let is_root = self.caller.uid == 0;
        let wanted = |name: &[u8]| {
            ACL.contains(&name) || has_namespace(name) && (is_root || name.starts_with(b"user."))
        };
        let names: Vec<&[u8]> = room[..len]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty() && wanted(name))
            .collect();
        for old in self.fs.listxattr(ino)? {
            if !names.contains(&old.as_slice()) {
                self.fs.removexattr(ino, &old)?;
            }
        }
        let mut value = vec![0; XATTR_ROOM];
        for name in names {
            let kind = format!("attribute {}", shown(name));
            let why = match get(name, &mut value) {
                // It is gone by now.
                Err(Errno::NODATA) => continue,
                Err(error) => error.into(),
                Ok(len) if len > XATTR_MAX || name.len() > NAME_MAX => {
                    io::Error::other(format!("it has {len} bytes, and {XATTR_MAX} are the most"))
                }
                Ok(len) => match self.fs.setxattr(ino, name, &value[..len], 0) {
                    Ok(()) => continue,
                    // It may be one too many. If room is what is missing, what
                    // comes next says so.
                    Err(FsError::NoSpace) => io::Error::other("there is no room for it"),
                    Err(error) => return Err(error.into()),
                },
            };
            self.left_out.name_once(&self.bar, &kind, &shown_path(source), &why);
        }
        Ok(())
    }
}
