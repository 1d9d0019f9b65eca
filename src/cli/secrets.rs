//! Where K comes from: a file, a command, systemd's credentials or a question.

use std::fs;
use std::io::{IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use super::args::Global;
use super::refused::PasswordFile;
use super::{Code, Failure, Result, vault};
use crate::crypto::{Secret, correct_one_group, parse_key, resembles_key};
use crate::io::{
    SECRET_MAX, SecretFileError, SecretFrom, open_secret, read_secret, with_first_limits,
};
use crate::vault::protocol::{Mark, Password};
use crate::volume::repository::Repository;

/// K for a repository: the key itself, or out of the vault by password.
pub fn obtain(global: &Global, repo: &Path, repository: &Repository) -> Result<Secret> {
    obtain_all(global, repo, repository).map(|obtained| obtained.key)
}

/// K, and what the vault said of the owner's devices if it was asked.
pub struct Obtained {
    /// K.
    pub key: Secret,
    /// How far each device had come.
    pub marks: Vec<Mark>,
    /// The password, if its record was made under keys that the vault would retire.
    pub outdated: Option<Password>,
}

impl From<Secret> for Obtained {
    fn from(key: Secret) -> Self {
        Self { key, marks: Vec::new(), outdated: None }
    }
}

/// The same with what else the vault handed out.
pub fn obtain_all(global: &Global, repo: &Path, repository: &Repository) -> Result<Obtained> {
    if let Some((text, _)) =
        text(global.key_file.as_ref(), global.key_command.as_ref(), "amberfs.key", repo)?
    {
        return from_key(&text, repository).map(Into::into);
    }
    let (file, command) = (global.password_file.as_ref(), global.password_command.as_ref());
    if let Some((text, file)) = text(file, command, "amberfs.password", repo)? {
        return match file {
            Some(file) => by_file(global, repo, repository, &text, &file),
            None => vault::unlock(global, repo, repository, text.as_bytes()),
        };
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(Code::WrongSecret, "no password and no key was given").hint(
            "give --password-file F or --key-file F (or a command), or run this on a terminal",
        ));
    }
    let has_vault = repository.has_vault();
    let question = if has_vault { "Password or 64-digit key: " } else { "64-digit key: " };
    let typed = rpassword::prompt_password(question).map(Zeroizing::new).map_err(|error| {
        Failure::new(Code::Other, format!("the answer could not be read: {error}"))
    })?;
    // What looks like a key is one, perhaps mistyped: it is sent nowhere.
    if !has_vault || resembles_key(&typed) {
        return from_key(&typed, repository).map(Into::into);
    }
    vault::unlock(global, repo, repository, typed.as_bytes())
}

/// By a password that lies in a file: machines try that again and again.
fn by_file(
    global: &Global,
    repo: &Path,
    repository: &Repository,
    text: &str,
    file: &PasswordFile,
) -> Result<Obtained> {
    if !global.retry {
        file.check(&repository.repo)?;
    }
    let outcome = vault::unlock(global, repo, repository, text.as_bytes());
    let refused = match &outcome {
        Ok(_) => Some(false),
        // A try was spent: the vault said how many are left.
        Err(failure) if failure.code == Code::WrongSecret && failure.tries_left.is_some() => {
            Some(true)
        }
        Err(_) => None,
    };
    if let Some(refused) = refused
        && let Err(failure) = file.note(&repository.repo, refused)
    {
        eprintln!("amberfs: this password file could not be remembered: {}", failure.message);
    }
    outcome
}

fn from_key(text: &str, repository: &Repository) -> Result<Secret> {
    let key = parse_key(text).map_err(|error| Failure::new(Code::WrongSecret, error))?;
    if !repository.names_key(&key) && repository.unlock(&key).is_none() {
        return Err(wrong_key(repository, &key));
    }
    Ok(key)
}

/// A secret and the file that it lies in.
type Found = (Zeroizing<String>, Option<PasswordFile>);

/// A secret from a file, a command or systemd's credentials.
pub(super) fn text(
    file: Option<&PathBuf>,
    command: Option<&String>,
    credential: &str,
    repo: &Path,
) -> Result<Option<Found>> {
    if let Some(path) = file {
        return read(path, repo, SecretFrom::User).map(Some);
    }
    if let Some(command) = command {
        return run(command).map(|text| Some((text, None)));
    }
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY")
        .map(|folder| PathBuf::from(folder).join(credential))
        .filter(|path| path.exists());
    credential.map(|path| read(&path, repo, SecretFrom::Credential)).transpose()
}

/// The failure for a key that does not open the repository; names the group
/// that is mistyped if changing one group helps.
pub fn wrong_key(repository: &Repository, key: &Secret) -> Failure {
    for check in repository.key_checks() {
        if let Some(group) = correct_one_group(key, &repository.repo, &check) {
            return Failure::new(
                Code::WrongSecret,
                format!("the key is mistyped in group {group} of 16; the other groups are right"),
            );
        }
    }
    Failure::new(Code::WrongSecret, "this key does not open this repository")
        .hint("it is the key of another repository, or has mistakes in more than one group")
}

/// Reads a secrets file: regular, own or root's, closed to others, outside
/// REPO.
pub fn read_file(path: &Path, repo: &Path) -> Result<Zeroizing<String>> {
    read(path, repo, SecretFrom::User).map(|(text, _)| text)
}

fn read(path: &Path, repo: &Path, from: SecretFrom) -> Result<Found> {
    let bad = |what: &dyn std::fmt::Display| {
        Failure::new(Code::Usage, format!("the secrets file {} {what}", path.display()))
    };
    let refused = |error: SecretFileError| match error {
        SecretFileError::Open => bad(&error).hint(format!("chmod 600 {}", path.display())),
        _ => bad(&error),
    };
    if path == Path::new("-") {
        // Around the standard library's buffer, which nobody wipes.
        let stdin = fs::File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        return read_secret(stdin).map_err(refused).map(|text| (text, None));
    }
    let file = open_secret(path, from).map_err(refused)?;
    // Of the file that is open, whatever the path leads to by now.
    let place = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if place.starts_with(repo) {
        return Err(bad(&"lies inside the repository, which is uploaded"));
    }
    let known = PasswordFile::new(place, &file.metadata()?);
    read_secret(file).map_err(refused).map(|text| (text, Some(known)))
}

fn run(command: &str) -> Result<Zeroizing<String>> {
    let bad = |what: &str| Failure::new(Code::Usage, format!("the command for the secret {what}"));
    let mut child = with_first_limits(&mut Command::new("/bin/sh"))
        .arg("-c")
        .arg(command)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| bad(&format!("cannot run: {error}")))?;
    // All room at once, so that growing leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_MAX as usize + 1));
    let output = child.stdout.take().expect("it is piped");
    let read = output.take(SECRET_MAX + 1).read_to_end(&mut bytes);
    let status = child.wait()?;
    read?;
    if bytes.len() as u64 > SECRET_MAX {
        return Err(bad("printed too much"));
    }
    if !status.success() {
        return Err(bad("failed"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| bad("printed no text"))?;
    Ok(Zeroizing::new(text.to_string()))
}
