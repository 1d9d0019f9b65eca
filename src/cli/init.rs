//! `amberfs init`.

use std::fs;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::args::{Global, InitArgs};
use super::opening::{Wanted, find};
use super::{Code, Failure, Result, place, vault};
use crate::crypto::{Secret, format_key, random_id};
use crate::format::register::{SLOT_VAULT, Slot};
use crate::io::{DirSynced, SystemRandom};
use crate::volume::repository::init;

/// Makes a repository.
pub fn run(global: &Global, args: &InitArgs) -> Result<u8> {
    let repo = &args.repo;
    match fs::read_dir(repo) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(Failure::new(
                    Code::Unusable,
                    format!("{} is not empty", repo.display()),
                )
                .hint("a repository needs a folder of its own"));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::create_dir_all(repo)?;
        }
        Err(error) => {
            return Err(Failure::new(Code::Unusable, format!("{}: {error}", repo.display())));
        }
    }
    let path = place::canonical(repo)?;
    let address = vault::address(global)?;
    let key_is_kept = args.key_out.is_some() || args.decline_key;
    if address.is_some() && !key_is_kept && !std::io::stdout().is_terminal() {
        return Err(Failure::new(
            Code::Usage,
            "with a vault, say what becomes of the 64-digit key",
        )
        .hint("--key-out F keeps it in a file; --decline-key goes without it"));
    }
    if global.json && !key_is_kept {
        return Err(Failure::new(Code::Usage, "with --json the key is not shown")
            .hint("--key-out F keeps it in a file"));
    }
    if address.is_none() && args.decline_key {
        return Err(Failure::new(Code::Usage, "without a vault the 64-digit key is all there is"));
    }
    // Its place is taken before anything is registered anywhere.
    let key_file = args.key_out.as_deref().map(|file| KeyFile::create(file, &path)).transpose()?;
    let key = Secret::random(&SystemRandom);
    let id = random_id(&SystemRandom);
    // The vault first: a folder never names a registration that was not tried.
    let mut slots = Vec::new();
    if let Some(address) = &address {
        let password = vault::new_password(global.password_file.as_deref(), &path)?;
        let claim = vault::first_claim(global)?;
        let locator = vault::register(global, address, (&path, &id), &key, &password, claim)?;
        slots.push(Slot { kind: SLOT_VAULT, bytes: locator.encode() });
    }
    // The key is safe before anything depends on it.
    if let Some(file) = key_file {
        file.write(&key)?;
    }
    let folder = DirSynced::new(&path, None);
    let device = random_id(&SystemRandom);
    init(&folder, &key, id, device, slots, &SystemRandom)?;
    let looked = find(repo)?.keyed(key.duplicate().into()).lock(global)?.look()?;
    let wanted = Wanted { device_name: args.device_name.clone(), ..Wanted::default() };
    // The first head: an empty tree, so that every device starts from one root.
    let opened = looked.open(global, &wanted)?;
    opened.tell();
    opened.fs.checkpoint()?;
    if global.json {
        println!(
            "{}",
            serde_json::json!({
                "message_type": "initialized",
                "repository": crate::crypto::hex(&id),
                "path": path.display().to_string(),
            })
        );
        return Ok(0);
    }
    if !global.quiet {
        eprintln!("Repository made in {}.", repo.display());
    }
    match &args.key_out {
        Some(file) => {
            if !global.quiet {
                eprintln!("The 64-digit key is in {}.", file.display());
            }
        }
        None if args.decline_key => eprintln!(
            "The 64-digit key was not kept. If the password is lost, or the vault, the backup is \
             lost too."
        ),
        None => {
            eprintln!("This is the 64-digit key. It is shown only now:\n");
            println!("{}", *format_key(&key));
            eprintln!();
        }
    }
    if !global.quiet && !args.decline_key {
        eprintln!(
            "Keep it where nobody else finds it and you do. Whoever has it can read the backup; \
             without it nobody can,\nand nobody can give you a new one."
        );
    }
    Ok(0)
}

/// The file that will hold the key; gone again if that does not come to pass.
struct KeyFile<'a> {
    path: &'a Path,
    folder: &'a Path,
    file: fs::File,
    written: bool,
}

impl<'a> KeyFile<'a> {
    fn create(path: &'a Path, repo: &Path) -> Result<Self> {
        let folder = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let bad = |error| Failure::new(Code::Usage, format!("{}: {error}", path.display()));
        if fs::canonicalize(folder).map_err(bad)?.starts_with(repo) {
            return Err(Failure::new(
                Code::Usage,
                "the key must not lie inside the repository, which is uploaded",
            ));
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        Ok(Self { path, folder, file: options.open(path).map_err(bad)?, written: false })
    }

    fn write(mut self, key: &Secret) -> Result<()> {
        self.file.write_all(format_key(key).as_bytes())?;
        self.file.write_all(b"\n")?;
        self.file.sync_all()?;
        fs::File::open(self.folder)?.sync_all()?;
        self.written = true;
        Ok(())
    }
}

impl Drop for KeyFile<'_> {
    fn drop(&mut self) {
        if !self.written {
            // It is ours, and without the key.
            let _ = fs::remove_file(self.path);
        }
    }
}
