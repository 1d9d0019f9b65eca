//! `put`, `ls`, `cat` and `extract`: without FUSE.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use super::args::{CatArgs, ExtractArgs, Global, LsArgs, PutArgs};
use super::control::local_time;
use super::place::{Access, open};
use super::{Code, Failure, Result};
use crate::format::namespace::ROOT;
use crate::fs::{Attr, Caller, Fs, FsError, Operations, SetAttr, TimeSet};
use crate::io::Timestamp;

/// Bytes read or written at once.
const PIECE: usize = 1 << 20;
const TYPE: u32 = 0o170_000;
const DIR: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

fn not_found(path: &str, error: FsError) -> Failure {
    let mut failure = Failure::from(error);
    failure.message = format!("{path}: {}", failure.message);
    failure
}

/// Walks from the root; symlinks are not followed.
fn walk(fs: &Fs, path: &str) -> Result<Attr> {
    let mut attr = fs.getattr(ROOT)?;
    for part in parts(path) {
        attr = fs.lookup(attr.ino, part.as_bytes()).map_err(|error| not_found(path, error))?;
    }
    Ok(attr)
}

fn entries(fs: &Fs, dir: u64) -> Result<Vec<(Vec<u8>, Attr)>> {
    let mut found = Vec::new();
    fs.readdir(dir, 0, true, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            found.push((entry.name.clone(), entry.attr));
        }
        true
    })?;
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// `ls`.
pub fn ls(global: &Global, args: &LsArgs) -> Result<u8> {
    let opened = open(global, &args.repo, Access::Read)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let all = vec![String::new()];
    let paths = if args.paths.is_empty() { &all } else { &args.paths };
    for path in paths {
        let attr = walk(&opened.fs, path)?;
        if attr.mode & TYPE == DIR {
            list(&opened.fs, global, args, attr.ino, path.trim_matches('/').as_bytes(), &mut out)?;
        } else {
            line(&opened.fs, global, args, path.as_bytes(), &attr, &mut out)?;
        }
    }
    out.flush()?;
    Ok(0)
}

fn list(
    fs: &Fs,
    global: &Global,
    args: &LsArgs,
    dir: u64,
    path: &[u8],
    out: &mut dyn Write,
) -> Result<()> {
    for (name, attr) in entries(fs, dir)? {
        let mut below = path.to_vec();
        if !below.is_empty() {
            below.push(b'/');
        }
        below.extend_from_slice(&name);
        line(fs, global, args, &below, &attr, out)?;
        if args.recursive && attr.mode & TYPE == DIR {
            list(fs, global, args, attr.ino, &below, out)?;
        }
    }
    Ok(())
}

fn line(
    fs: &Fs,
    global: &Global,
    args: &LsArgs,
    path: &[u8],
    attr: &Attr,
    out: &mut dyn Write,
) -> Result<()> {
    if global.json {
        let object = serde_json::json!({
            "message_type": "node",
            "path": String::from_utf8_lossy(path),
            "mode": format!("{:06o}", attr.mode),
            "uid": attr.uid,
            "gid": attr.gid,
            "size": attr.size,
            "mtime": attr.mtime.secs,
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    if args.long {
        write!(
            out,
            "{:06o} {:>3} {:>6} {:>6} {:>12} {} ",
            attr.mode,
            attr.nlink,
            attr.uid,
            attr.gid,
            attr.size,
            local_time(attr.mtime.secs)
        )?;
    }
    out.write_all(path)?;
    if args.long && attr.mode & TYPE == LINK {
        out.write_all(b" -> ")?;
        out.write_all(&fs.readlink(attr.ino)?)?;
    }
    out.write_all(b"\n")?;
    Ok(())
}

/// `cat`.
pub fn cat(global: &Global, args: &CatArgs) -> Result<u8> {
    let opened = open(global, &args.repo, Access::Read)?;
    let mut out = std::io::stdout().lock();
    for path in &args.paths {
        let attr = walk(&opened.fs, path)?;
        if attr.mode & TYPE != FILE {
            return Err(Failure::new(Code::Other, format!("{path}: not a regular file")));
        }
        copy_out(&opened.fs, &attr, &mut out).map_err(|error| prefixed(path, error))?;
    }
    out.flush()?;
    Ok(0)
}

fn prefixed(path: &str, mut failure: Failure) -> Failure {
    failure.message = format!("{path}: {}", failure.message);
    failure
}

fn copy_out(fs: &Fs, attr: &Attr, out: &mut dyn Write) -> Result<()> {
    let mut at = 0;
    while at < attr.size {
        let piece = fs.read(attr.ino, at, PIECE as u32)?;
        if piece.is_empty() {
            break;
        }
        out.write_all(&piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Bytes done, of `total` if that is known; shown on a terminal only.
fn progress(global: &Global, total: Option<u64>) -> ProgressBar {
    if global.quiet || global.json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => {
            (ProgressBar::new(total), "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}, {bytes_per_sec}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("a constant that is valid"))
}

/// `extract`.
pub fn extract(global: &Global, args: &ExtractArgs) -> Result<u8> {
    let opened = open(global, &args.repo, Access::Read)?;
    fs::create_dir_all(&args.dest)?;
    let total = opened.fs.progress().bytes;
    let bar = progress(global, if args.paths.is_empty() { Some(total) } else { None });
    let mut extractor = Extractor { fs: &opened.fs, links: HashMap::new(), failed: 0, bar };
    if args.paths.is_empty() {
        extractor.folder(ROOT, &args.dest)?;
    }
    for path in &args.paths {
        let attr = walk(&opened.fs, path)?;
        let name = parts(path).last().unwrap_or(".");
        extractor.node(&attr, &args.dest.join(name))?;
    }
    if extractor.failed > 0 {
        eprintln!("amberfs: {} files could not be read", extractor.failed);
        return Ok(Code::Partial as u8);
    }
    Ok(0)
}

struct Extractor<'a> {
    fs: &'a Fs,
    /// Where files with several names were written first.
    links: HashMap<u64, PathBuf>,
    failed: u64,
    bar: ProgressBar,
}

impl Extractor<'_> {
    fn folder(&mut self, dir: u64, dest: &Path) -> Result<()> {
        for (name, attr) in entries(self.fs, dir)? {
            self.node(&attr, &dest.join(OsStr::from_bytes(&name)))?;
        }
        Ok(())
    }

    fn node(&mut self, attr: &Attr, dest: &Path) -> Result<()> {
        let named = |error: std::io::Error| {
            let mut failure = Failure::from(error);
            failure.message = format!("{}: {}", dest.display(), failure.message);
            failure
        };
        match attr.mode & TYPE {
            DIR => {
                match fs::create_dir(dest) {
                    Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                        return Err(named(error));
                    }
                    _ => {}
                }
                self.folder(attr.ino, dest)?;
                restore(attr, dest, true).map_err(named)?;
            }
            FILE => {
                if let Some(first) = self.links.get(&attr.ino) {
                    return fs::hard_link(first, dest).map_err(named);
                }
                // An existing file is never written through: it could be a
                // link to somewhere else.
                let mut out = fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .open(dest)
                    .map_err(named)?;
                if let Err(error) = copy_out(self.fs, attr, &mut out) {
                    if error.code == Code::NoSpace {
                        return Err(error);
                    }
                    eprintln!("amberfs: {}: {}", dest.display(), error.message);
                    self.failed += 1;
                }
                drop(out);
                self.bar.inc(attr.size);
                restore(attr, dest, true).map_err(named)?;
                if attr.nlink > 1 {
                    self.links.insert(attr.ino, dest.to_path_buf());
                }
            }
            LINK => {
                let target = self.fs.readlink(attr.ino)?;
                symlink(OsStr::from_bytes(&target), dest).map_err(named)?;
                restore(attr, dest, false).map_err(named)?;
            }
            _ => {
                eprintln!("amberfs: {}: special files are not extracted", dest.display());
                self.failed += 1;
            }
        }
        Ok(())
    }
}

fn restore(attr: &Attr, dest: &Path, mode: bool) -> std::io::Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(dest, Some(attr.uid), Some(attr.gid))?;
    }
    if mode {
        fs::set_permissions(dest, fs::Permissions::from_mode(attr.mode & 0o7777))?;
    }
    let spec = |time: Timestamp| rustix::fs::Timespec {
        tv_sec: time.secs,
        tv_nsec: i64::from(time.nanos),
    };
    let times = rustix::fs::Timestamps {
        last_access: spec(attr.atime),
        last_modification: spec(attr.mtime),
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::utimensat(rustix::fs::CWD, dest, &times, flags)?)
}

/// `put`.
pub fn put(global: &Global, args: &PutArgs) -> Result<u8> {
    let opened = open(global, &args.repo, Access::Write)?;
    let fs = &opened.fs;
    let names: Vec<&str> = parts(&args.path).collect();
    let mut dir = ROOT;
    let parents = names.len().saturating_sub(1);
    for name in &names[..parents] {
        dir = make_dir(fs, dir, name.as_bytes(), 0o755)?;
    }
    let bar = progress(global, None);
    let mut putter = Putter { fs, links: HashMap::new(), files: 0, bytes: 0, bar };
    match &args.from {
        None => {
            let name = names.last().ok_or_else(|| Failure::new(Code::Usage, "no path given"))?;
            let ino = putter.file(dir, name.as_bytes(), 0o644)?;
            putter.content(ino, &mut std::io::stdin().lock())?;
        }
        Some(source) => {
            let data = fs::metadata(source).map_err(|error| {
                Failure::new(Code::Usage, format!("{}: {error}", source.display()))
            })?;
            if data.is_dir() {
                let target = match names.last() {
                    Some(name) => make_dir(fs, dir, name.as_bytes(), data.mode() & 0o7777)?,
                    None => ROOT,
                };
                putter.folder(source, target)?;
                if target != ROOT {
                    putter.attributes(target, &data)?;
                }
            } else {
                let name = match names.last() {
                    Some(name) => name.as_bytes(),
                    None => source.file_name().map(OsStr::as_bytes).unwrap_or_default(),
                };
                putter.node(source, &data, dir, name)?;
            }
        }
    }
    let published = fs.checkpoint()?;
    putter.bar.finish_and_clear();
    if global.json {
        println!(
            "{}",
            serde_json::json!({
                "message_type": "summary",
                "files": putter.files,
                "bytes": putter.bytes,
                "objects": published.as_ref().map_or(0, |published| published.objects.0),
                "uploaded_bytes": published
                    .as_ref()
                    .map_or(0, |published| published.objects.1 + published.head_bytes),
            })
        );
    } else if !global.quiet {
        eprintln!("{} files, {} bytes, all in the repository folder", putter.files, putter.bytes);
    }
    Ok(0)
}

fn caller() -> Caller {
    Caller { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
}

fn make_dir(fs: &Fs, parent: u64, name: &[u8], mode: u32) -> Result<u64> {
    match fs.lookup(parent, name) {
        Ok(attr) if attr.mode & TYPE == DIR => Ok(attr.ino),
        Ok(_) => Err(FsError::NotDir.into()),
        Err(FsError::NotFound) => Ok(fs.mkdir(caller(), parent, name, mode)?.ino),
        Err(error) => Err(error.into()),
    }
}

struct Putter<'a> {
    fs: &'a Fs,
    links: HashMap<(u64, u64), u64>,
    files: u64,
    bytes: u64,
    bar: ProgressBar,
}

impl Putter<'_> {
    fn folder(&mut self, source: &Path, dir: u64) -> Result<()> {
        let mut children: Vec<_> = fs::read_dir(source)?.collect::<std::io::Result<_>>()?;
        children.sort_by_key(fs::DirEntry::file_name);
        for child in children {
            let data = child.metadata()?;
            self.node(&child.path(), &data, dir, child.file_name().as_bytes())?;
        }
        Ok(())
    }

    fn node(&mut self, source: &Path, data: &fs::Metadata, dir: u64, name: &[u8]) -> Result<()> {
        let kind = data.file_type();
        if kind.is_dir() {
            let ino = make_dir(self.fs, dir, name, data.mode() & 0o7777)?;
            self.folder(source, ino)?;
            self.attributes(ino, data)
        } else if kind.is_symlink() {
            let target = fs::read_link(source)?;
            self.replace(dir, name)?;
            let made = self.fs.symlink(caller(), dir, name, target.as_os_str().as_bytes())?;
            self.attributes(made.ino, data)
        } else if kind.is_file() {
            let identity = (data.dev(), data.ino());
            if let Some(first) = self.links.get(&identity) {
                let first = *first;
                self.replace(dir, name)?;
                self.fs.link(first, dir, name)?;
                return Ok(());
            }
            let ino = self.file(dir, name, data.mode() & 0o7777)?;
            self.content(ino, &mut fs::File::open(source)?)?;
            if data.nlink() > 1 {
                self.links.insert(identity, ino);
            }
            self.attributes(ino, data)
        } else {
            eprintln!("amberfs: {}: special files are not put", source.display());
            Ok(())
        }
    }

    fn replace(&self, dir: u64, name: &[u8]) -> Result<()> {
        match self.fs.unlink(dir, name) {
            Ok(()) | Err(FsError::NotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn file(&mut self, dir: u64, name: &[u8], mode: u32) -> Result<u64> {
        self.files += 1;
        match self.fs.lookup(dir, name) {
            Ok(attr) if attr.mode & TYPE == FILE => {
                self.fs.setattr(attr.ino, &SetAttr { size: Some(0), ..SetAttr::default() })?;
                Ok(attr.ino)
            }
            Ok(_) => Err(FsError::Exists.into()),
            Err(FsError::NotFound) => Ok(self.fs.mknod(caller(), dir, name, FILE | mode, 0)?.ino),
            Err(error) => Err(not_found(&String::from_utf8_lossy(name), error)),
        }
    }

    fn content(&mut self, ino: u64, source: &mut dyn Read) -> Result<()> {
        let mut buffer = vec![0; PIECE];
        let mut at = 0u64;
        loop {
            let mut filled = 0;
            while filled < buffer.len() {
                let read = source.read(&mut buffer[filled..])?;
                if read == 0 {
                    break;
                }
                filled += read;
            }
            if filled == 0 {
                break;
            }
            self.fs.write(ino, at, &buffer[..filled], false)?;
            at += filled as u64;
            self.bar.inc(filled as u64);
        }
        self.bytes += at;
        Ok(())
    }

    fn attributes(&self, ino: u64, data: &fs::Metadata) -> Result<()> {
        let mtime = Timestamp { secs: data.mtime(), nanos: data.mtime_nsec() as u32 };
        self.fs.setattr(
            ino,
            &SetAttr {
                mode: Some(data.mode() & 0o7777),
                mtime: Some(TimeSet::At(mtime)),
                ..SetAttr::default()
            },
        )?;
        Ok(())
    }
}
