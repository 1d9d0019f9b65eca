//! `ls` and `cat`.

use super::super::args::{CatArgs, Global, LsArgs};
use super::super::opening::open_at;
use super::super::{Exit, Failure, Result};
use super::{
    DIR, FIFO, FILE, LINK, PIECE, SOCKET, Seen, TYPE, entries, names, of, shown, walk, with_cause,
};
use crate::fs::{Attr, Operations};
use crate::io::local_time;
use crate::io::output::{self, Data};

/// Runs `amberfs ls`: lists files.
pub fn ls(global: &Global, args: &LsArgs) -> Result<Exit> {
    let all = vec!["/".to_string()];
    let paths = if args.paths.is_empty() { &all } else { &args.paths };
    let parsed = paths.iter().map(|path| names(path)).collect::<Result<Vec<_>>>()?;
    let opened = open_at(global, &args.repo, args.at.at.as_ref())?;
    let mut list = List {
        fs: &opened.fs,
        global,
        args,
        terminal: output::is_terminal(),
        out: Data::default(),
    };
    let listed = paths.iter().zip(&parsed).try_for_each(|(path, names)| list.path(path, names));
    // What was listed is shown, whatever became of the rest.
    let written = list.out.flush();
    listed?;
    written?;
    Ok(opened.exit(Exit::Done))
}

struct List<'a> {
    fs: &'a dyn Operations,
    global: &'a Global,
    args: &'a LsArgs,
    /// Whether people see it: then names must not steer their terminal.
    terminal: bool,
    out: Data,
}

impl List<'_> {
    fn path(&mut self, path: &str, names: &[&str]) -> Result<()> {
        let attr = walk(self.fs, path, names)?;
        if attr.mode & TYPE == DIR {
            self.folder(attr.ino, names.join("/").into_bytes())
        } else {
            self.line(path.as_bytes(), &attr)
        }
    }

    /// Lists a folder and, if asked, all below; without recursion, since it is
    /// as deep as somebody made it.
    fn folder(&mut self, dir: u64, path: Vec<u8>) -> Result<()> {
        let mut seen = Seen::default();
        let mut levels = vec![(self.enter(&mut seen, dir, &path)?, path)];
        while let Some((entries, path)) = levels.last_mut() {
            let Some((name, attr)) = entries.next() else {
                levels.pop();
                continue;
            };
            let mut below = path.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(&name);
            self.line(&below, &attr)?;
            if self.args.recursive && attr.mode & TYPE == DIR {
                levels.push((self.enter(&mut seen, attr.ino, &below)?, below));
            }
        }
        Ok(())
    }

    fn enter(
        &mut self,
        seen: &mut Seen,
        dir: u64,
        path: &[u8],
    ) -> Result<std::vec::IntoIter<(Vec<u8>, Attr)>> {
        let named = |failure| of(&format!("/{}", shown(path)), failure);
        seen.enter(dir).map_err(named)?;
        Ok(entries(self.fs, dir).map_err(|error| named(error.into()))?.into_iter())
    }

    fn line(&mut self, path: &[u8], attr: &Attr) -> Result<()> {
        if self.global.json {
            let object = serde_json::json!({
                "message_type": "node",
                "path": String::from_utf8_lossy(path),
                "mode": format!("{:06o}", attr.mode),
                "uid": attr.uid,
                "gid": attr.gid,
                "size": attr.size,
                "mtime": attr.mtime.secs,
            });
            self.out.object(&object)?;
            return Ok(());
        }
        if self.args.long {
            self.out.text(&format!(
                "{} {:>3} {:>6} {:>6} {:>12} {} ",
                letters(attr.mode),
                attr.nlink,
                attr.uid,
                attr.gid,
                attr.size,
                local_time(attr.mtime.secs)
            ))?;
        }
        self.name(path)?;
        if self.args.long && attr.mode & TYPE == LINK {
            let target = self.fs.readlink(attr.ino).map_err(|error| of(&shown(path), error))?;
            self.out.bytes(b" -> ")?;
            self.name(&target)?;
        }
        self.out.bytes(b"\n")?;
        Ok(())
    }

    fn name(&mut self, name: &[u8]) -> Result<()> {
        if self.terminal {
            self.out.text(&String::from_utf8_lossy(name))?;
        } else {
            self.out.bytes(name)?;
        }
        Ok(())
    }
}

/// Type and permissions as ls(1) shows them.
fn letters(mode: u32) -> String {
    let kind = match mode & TYPE {
        FILE => '-',
        DIR => 'd',
        LINK => 'l',
        FIFO => 'p',
        SOCKET => 's',
        0o060_000 => 'b',
        0o020_000 => 'c',
        _ => '?',
    };
    let mut text = String::from(kind);
    for (shift, special, set) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => set.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Runs `amberfs cat`: writes the content of files to standard output.
pub fn cat(global: &Global, args: &CatArgs) -> Result<Exit> {
    let parsed = args.paths.iter().map(|path| names(path)).collect::<Result<Vec<_>>>()?;
    let opened = open_at(global, &args.repo, args.at.at.as_ref())?;
    for (path, names) in args.paths.iter().zip(parsed) {
        let attr = walk(&opened.fs, path, &names)?;
        let named = |failure| of(&shown(path.as_bytes()), failure);
        if attr.mode & TYPE != FILE {
            return Err(named(Failure::new(Exit::Other, "not a regular file")));
        }
        copy(&opened.fs, &attr).map_err(|failure| match failure.code {
            // Of standard output, not of the file.
            Exit::NoReader => failure,
            _ => named(with_cause(opened.fs.take_cause(), failure)),
        })?;
    }
    Ok(opened.exit(Exit::Done))
}

fn copy(fs: &dyn Operations, attr: &Attr) -> Result<()> {
    let mut at = 0;
    while at < attr.size {
        let piece = fs.read(attr.ino, at, PIECE as u32)?;
        if piece.is_empty() {
            return Err(Failure::new(Exit::Damage, "it is shorter than its record says"));
        }
        output::bytes(&piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_letters() {
        for (mode, text) in [
            (0o100_644, "-rw-r--r--"),
            (0o104_755, "-rwsr-xr-x"),
            (0o106_644, "-rwSr-Sr--"),
            (0o041_777, "drwxrwxrwt"),
            (0o041_776, "drwxrwxrwT"),
            (0o120_777, "lrwxrwxrwx"),
            (0o010_000, "p---------"),
            (0o140_001, "s--------x"),
            (0o060_660, "brw-rw----"),
            (0o020_666, "crw-rw-rw-"),
            (0o000_002, "?-------w-"),
        ] {
            assert_eq!(letters(mode), text);
        }
    }
}
