//! `amberfs init`.
//!
//! Invariant: the key is where it belongs, written and flushed, before the repository exists;
//! and whatever fails before `init` has said that it is done, nothing of it stays.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::args::{Global, InitArgs};
use super::opening::{Wanted, find};
use super::{Exit, Failure, Result, files, place, trust, vault};
use crate::crypto::{DeviceId, RepoId, Secret, format_key, hex, random_id, unhex};
use crate::format::commit::Name;
use crate::format::register::{SLOT_VAULT, Slot};
use crate::io::{DirSynced, SyncedFolder, SystemRandom, output};
use crate::store::is_of_a_client;
use crate::vault::protocol::{Address, Locator};
use crate::volume::repository::init;

/// Runs `amberfs init`: makes a repository.
pub fn run(global: &Global, args: &InitArgs) -> Result<Exit> {
    let address = trust::typed_address(global)?;
    check_options(global, args, address.is_some())?;
    let mut made = Made::folder(&args.repo)?;
    match made.repository(global, args, address.as_ref()) {
        Ok(()) => Ok(Exit::Done),
        Err(failure) => Err(made.undo(global, failure)),
    }
}

/// Says what becomes of the key, before anything is made.
fn check_options(global: &Global, args: &InitArgs, has_vault: bool) -> Result<()> {
    let key_is_kept = args.key_out.is_some() || args.decline_key;
    if has_vault && !key_is_kept && !output::is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "with a vault, say what becomes of the 64-digit key",
        )
        .hint("--key-out F keeps it in a file; --decline-key goes without it"));
    }
    if global.json && !key_is_kept {
        return Err(Failure::new(Exit::Usage, "with --json the key is not shown")
            .hint("--key-out F keeps it in a file"));
    }
    if !has_vault && args.decline_key {
        return Err(Failure::new(Exit::Usage, "without a vault the 64-digit key is all there is"));
    }
    Ok(())
}

/// What was made so far.
struct Made {
    /// REPO, as it really is.
    path: PathBuf,
    /// Folders on the way to REPO that were not there, the innermost first.
    folders: Vec<PathBuf>,
    key_file: Option<PathBuf>,
    /// The record that was registered at the vault, to be retired if `init` fails.
    record: Option<(RepoId, Secret, Locator)>,
    /// Whether the key was shown.
    is_shown: bool,
    /// The repository of which files may be in REPO.
    begun: Option<RepoId>,
    /// Local state that was not there, or empty; and whether it was there.
    state: Option<(PathBuf, bool)>,
}

impl Made {
    /// REPO, new or empty.
    fn folder(repo: &Path) -> Result<Self> {
        let mut folders = Vec::new();
        match fs::read_dir(repo) {
            Ok(entries) => {
                for entry in entries {
                    let name = entry?.file_name();
                    if !is_of_a_client(&name.to_string_lossy()) {
                        let name = files::shown(name.as_encoded_bytes());
                        let what = format!("{} is not empty: {name} is in it", repo.display());
                        return Err(Failure::new(Exit::Unusable, what)
                            .hint("a repository needs a folder of its own"));
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let absolute = std::path::absolute(repo)?;
                let missing = absolute.ancestors().take_while(|path| !path.exists());
                folders.extend(missing.map(Path::to_path_buf));
                fs::create_dir_all(repo)?;
            }
            Err(error) => {
                return Err(Failure::new(Exit::Unusable, format!("{}: {error}", repo.display())));
            }
        }
        Ok(Self {
            path: place::canonical(repo)?,
            folders,
            key_file: None,
            record: None,
            is_shown: false,
            begun: None,
            state: None,
        })
    }

    fn repository(
        &mut self,
        global: &Global,
        args: &InitArgs,
        address: Option<&Address>,
    ) -> Result<()> {
        let key = Secret::random(&SystemRandom);
        let id = random_id(&SystemRandom);
        if let Some(file) = &args.key_out {
            self.write_key(file, &key)?;
        }
        if args.decline_key {
            note!(
                "The 64-digit key will not be kept. If the password is lost, or the vault, the \
                 backup is lost too."
            );
        }
        // The vault first: a folder never names a registration that was not tried.
        let mut slots = Vec::new();
        if let Some(address) = address {
            let place = (&*self.path, &id);
            let locator = vault::register_first(global, address, place, &key)?;
            slots.push(Slot { kind: SLOT_VAULT, bytes: locator.encode() });
            self.record = Some((id, key.duplicate(), locator));
        }
        if args.key_out.is_none() && !args.decline_key {
            self.show_key(&key)?;
        }
        self.publish(global, args, &key, id, slots)?;
        if global.json {
            output::object(&serde_json::json!({
                "message_type": "initialized",
                "repository": hex(&id),
                "path": self.path.display().to_string(),
            }))?;
            return Ok(output::finish()?);
        }
        if global.quiet {
            return Ok(());
        }
        note!("Repository made in {}.", args.repo.display());
        if let Some(file) = &args.key_out {
            note!("The 64-digit key is in {}.", file.display());
        }
        if !args.decline_key {
            note!(
                "Keep it where nobody else finds it and you do. Whoever has it can read the backup;"
            );
            if address.is_none() {
                note!("without it nobody can, and nobody can give you a new one.");
            } else {
                note!("it opens the backup when the password is lost or the vault is gone.");
            }
        }
        Ok(())
    }

    /// Shows the key; it is where standard output leads when this returns.
    fn show_key(&mut self, key: &Secret) -> Result<()> {
        note!("This is the 64-digit key of the repository that is made now:");
        note!("");
        output::secret(&format_key(key))?;
        self.is_shown = true;
        output::sync()?;
        note!("");
        Ok(())
    }

    /// Writes the key to a new file; it is on disk when this returns.
    fn write_key(&mut self, path: &Path, key: &Secret) -> Result<()> {
        let bad = |code, error| Failure::new(code, format!("{}: {error}", path.display()));
        let folder = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let real = fs::canonicalize(folder).map_err(|error| bad(Exit::Usage, error))?;
        if real.starts_with(&self.path) {
            return Err(Failure::new(
                Exit::Usage,
                "the key must not lie inside the repository, which is uploaded",
            ));
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(path).map_err(|error| bad(Exit::Usage, error))?;
        self.key_file = Some(path.to_path_buf());
        file.write_all(format_key(key).as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::File::open(&real)?.sync_all())
            .map_err(|error| {
                let mut failure = Failure::from(error);
                failure.message = format!("{}: {}", path.display(), failure.message);
                failure
            })
    }

    fn publish(
        &mut self,
        global: &Global,
        args: &InitArgs,
        key: &Secret,
        id: RepoId,
        slots: Vec<Slot>,
    ) -> Result<()> {
        let folder = DirSynced::new(&self.path, None);
        let device: DeviceId = random_id(&SystemRandom);
        self.begun = Some(id);
        init(&folder, key, id, device, slots, &SystemRandom)?;
        let found = find(&self.path)?;
        let state = place::state_folder(global, &found.path, &found.early)?;
        let (was_there, is_empty) = match fs::read_dir(&state) {
            Ok(mut entries) => (true, entries.next().is_none()),
            Err(error) => (false, error.kind() == std::io::ErrorKind::NotFound),
        };
        self.state = is_empty.then(|| (state.clone(), was_there));
        let scanned = found.with_key(key.duplicate().into()).lock_state(global)?.scan()?;
        let wanted =
            Wanted { device_name: args.device_name.clone(), first: true, ..Wanted::default() };
        // The first head: an empty tree, so that every device starts from one root.
        let opened = scanned.open(global, &wanted)?;
        opened.print_notices();
        opened.fs.checkpoint()?;
        Ok(())
    }

    /// Takes everything away again. What cannot be taken away is named, and the key to it stays.
    fn undo(self, global: &Global, mut failure: Failure) -> Failure {
        if let Some(id) = self.begun
            && let Err(error) = self.empty_folder(&id)
        {
            return failure.hint(format!(
                "what was begun in {} could not be removed: {error}",
                self.path.display()
            ));
        }
        if let Some((id, key, locator)) = &self.record
            && let Err(withdrawn) = vault::withdraw(global, (&self.path, id), key, locator)
        {
            failure = failure.hint(format!(
                "the record at the vault could not be ended; it opens nothing: {}",
                withdrawn.message
            ));
        }
        if let Some(file) = &self.key_file
            && let Err(error) = fs::remove_file(file)
        {
            failure = failure.hint(format!(
                "{} could not be removed; its key opens nothing: {error}",
                file.display()
            ));
        }
        if let Some((state, was_there)) = &self.state {
            // It belongs to a repository that is not there: harmless.
            let _ = fs::remove_dir_all(state);
            if *was_there {
                let _ = fs::DirBuilder::new().mode(0o700).create(state);
            }
        }
        for folder in &self.folders {
            // Somebody may have put something there meanwhile.
            let _ = fs::remove_dir(folder);
        }
        let place = self.path.display();
        failure.hint(if self.is_shown {
            format!("no repository was made in {place}: the key that was shown opens nothing")
        } else {
            format!("no repository was made in {place}")
        })
    }

    /// Removes what a repository has in its folder, which was empty.
    fn empty_folder(&self, id: &RepoId) -> std::io::Result<()> {
        // The header first: without it there is no repository.
        DirSynced::new(&self.path, None).remove(&Name::Header(*id).path())?;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let is_device = unhex::<16>(&entry.file_name().to_string_lossy()).is_some();
            if is_device && entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}
