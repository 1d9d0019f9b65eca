//! Where K comes from: a file, a command, systemd's credentials or a question.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use super::args::Global;
use super::asked::{Answer, ask_key};
use super::refused::{PasswordFile, Unattended};
use super::{Exit, Failure, Result, vault};
use crate::crypto::{Secret, correct_one_group, parse_key, resembles_key};
use crate::io::{
    SecretFileError, SecretFrom, can_ask, open_secret, read_secret, read_secret_from_stdin,
    with_first_limits,
};
use crate::vault::protocol::{Mark, Password};
use crate::volume::repository::Repository;

/// The name of standard input in place of a file.
pub const STDIN: &str = "-";

/// A kind of secret.
pub struct Kind {
    /// The name of the systemd credential that it can come from; empty if there is none.
    credential: &'static str,
    /// What is asked where it is to come from a terminal.
    question: &'static str,
}

const KEY: Kind = Kind { credential: "amberfs.key", question: "64-digit key: " };
const PASSWORD: Kind = Kind { credential: "amberfs.password", question: "Password: " };
const NEW_PASSWORD: Kind = Kind { credential: "", question: "New password: " };
/// An account's token, for a vault's relay.
pub const TOKEN: Kind = Kind { credential: "amberfs.vault-token", question: "Token: " };
/// An invite of a vault.
pub const INVITE: Kind = Kind { credential: "", question: "Invite: " };

/// K for a repository: the key itself, or out of the vault by password.
pub fn obtain(global: &Global, repo: &Path, repository: &Repository) -> Result<Secret> {
    obtain_all(global, repo, repository).map(|obtained| obtained.key)
}

/// K, and what the vault said of the owner's devices if it was asked.
pub struct Obtained {
    /// K, the 64-digit key.
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

/// K, given as the key itself: no password will do.
pub fn obtain_by_key(global: &Global, repo: &Path, repository: &Repository) -> Result<Secret> {
    if let Some(key) = given_key(global, repo, repository)? {
        return Ok(key);
    }
    if !can_ask() {
        return Err(Failure::new(Exit::WrongSecret, "no key was given")
            .hint("give --key-file F (or a command), or run this on a terminal"));
    }
    match ask_key(false)? {
        Answer::Key(typed) | Answer::Password(typed) => from_key(&typed, repository),
    }
}

fn given_key(global: &Global, repo: &Path, repository: &Repository) -> Result<Option<Secret>> {
    let (file, command) = (global.key_file.as_ref(), global.key_command.as_ref());
    let given = text(file, command, &KEY, repo)?;
    given.map(|(text, _)| from_key(&text, repository)).transpose()
}

/// Obtains K: from the options, or out of the vault by password. Also returns what the
/// vault said of the owner's devices, if it was asked. May ask the user, and blocks on the
/// network.
pub fn obtain_all(global: &Global, repo: &Path, repository: &Repository) -> Result<Obtained> {
    if let Some(key) = given_key(global, repo, repository)? {
        return Ok(key.into());
    }
    let (file, command) = (global.password_file.as_ref(), global.password_command.as_ref());
    if let Some((text, origin)) = text(file, command, &PASSWORD, repo)? {
        // No password looks like that: a try would be spent for nothing.
        if resembles_key(&text) {
            return Err(Failure::new(Exit::WrongSecret, "the password given looks like a key")
                .hint("it was not sent; give a key by --key-file F"));
        }
        let known = match origin {
            Origin::File(file) => Unattended::File(file),
            Origin::Command => Unattended::printed(&text),
            Origin::Input => return vault::unlock(global, repo, repository, text.as_bytes()),
        };
        return by_itself(global, repo, repository, &text, &known);
    }
    if !can_ask() {
        return Err(Failure::new(Exit::WrongSecret, "no password and no key was given").hint(
            "give --password-file F or --key-file F (or a command), or run this on a terminal",
        ));
    }
    match ask_key(repository.has_vault())? {
        Answer::Key(typed) => from_key(&typed, repository).map(Into::into),
        Answer::Password(typed) => vault::unlock(global, repo, repository, typed.as_bytes()),
    }
}

/// By a password of a file or a command: machines try that again and again.
fn by_itself(
    global: &Global,
    repo: &Path,
    repository: &Repository,
    text: &str,
    known: &Unattended,
) -> Result<Obtained> {
    if !global.retry {
        known.check(global, &repository.repo)?;
    }
    let outcome = vault::unlock(global, repo, repository, text.as_bytes());
    let refused = match &outcome {
        Ok(_) => Some(false),
        // A try was spent: the vault said how many are left.
        Err(failure) if failure.code == Exit::WrongSecret && failure.tries_left.is_some() => {
            Some(true)
        }
        Err(_) => None,
    };
    if let Some(refused) = refused
        && let Err(failure) = known.note(global, &repository.repo, refused)
    {
        note!("amberfs: what became of this password could not be remembered: {}", failure.message);
    }
    outcome
}

fn from_key(text: &str, repository: &Repository) -> Result<Secret> {
    let key = parse_key(text).map_err(|error| Failure::new(Exit::WrongSecret, error))?;
    if !repository.names_key(&key) && repository.unlock(&key).is_none() {
        return Err(wrong_key(repository, &key));
    }
    Ok(key)
}

/// Where a secret came from.
pub(super) enum Origin {
    /// The secret is in this file.
    File(PasswordFile),
    /// A command printed it.
    Command,
    /// Standard input, or the terminal.
    Input,
}

/// A secret and where it came from.
type FoundSecret = (Zeroizing<String>, Origin);

/// A secret from a file, a command or systemd's credentials.
pub(super) fn text(
    file: Option<&PathBuf>,
    command: Option<&String>,
    kind: &Kind,
    repo: &Path,
) -> Result<Option<FoundSecret>> {
    if let Some(path) = file {
        return read(path, repo, SecretFrom::User, kind).map(Some);
    }
    if let Some(command) = command {
        return run(command).map(|text| Some((text, Origin::Command)));
    }
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY")
        .filter(|_| !kind.credential.is_empty())
        .map(|folder| PathBuf::from(folder).join(kind.credential))
        .filter(|path| path.exists());
    credential.map(|path| read(&path, repo, SecretFrom::Credential, kind)).transpose()
}

/// The failure for a key that does not open the repository; names the group
/// that is mistyped if changing one group helps.
pub fn wrong_key(repository: &Repository, key: &Secret) -> Failure {
    for check in repository.key_checks() {
        if let Some(group) = correct_one_group(key, &repository.repo, &check) {
            return Failure::new(
                Exit::WrongSecret,
                format!("the key is mistyped in group {group} of 16; the other groups are right"),
            );
        }
    }
    Failure::new(Exit::WrongSecret, "this key does not open this repository")
        .hint("it is the key of another repository, or has mistakes in more than one group")
}

/// Reads a new password from a secrets file: regular, own or root's, closed to others, outside
/// REPO.
pub fn read_file(path: &Path, repo: &Path) -> Result<Zeroizing<String>> {
    read(path, repo, SecretFrom::User, &NEW_PASSWORD).map(|(text, _)| text)
}

fn read(path: &Path, repo: &Path, from: SecretFrom, kind: &Kind) -> Result<FoundSecret> {
    let bad = |what: &dyn std::fmt::Display| {
        Failure::new(Exit::Usage, format!("the secrets file {} {what}", path.display()))
    };
    let refused = |error: SecretFileError| match error {
        SecretFileError::Answer(error) => error.into(),
        SecretFileError::Open => bad(&error).hint(format!("chmod 600 {}", path.display())),
        _ => bad(&error),
    };
    if path == Path::new(STDIN) {
        let text = match kind.credential {
            // A key may have several lines.
            "amberfs.key" if can_ask() => match ask_key(false)? {
                Answer::Key(text) | Answer::Password(text) => text,
            },
            _ => read_secret_from_stdin(kind.question).map_err(refused)?,
        };
        return Ok((text, Origin::Input));
    }
    let file = open_secret(path, from).map_err(refused)?;
    // Of the file that is open, whatever the path leads to by now.
    let place = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if place.starts_with(repo) {
        return Err(bad(&"lies inside the repository, which is uploaded"));
    }
    let known = PasswordFile::new(place, &file.metadata()?);
    read_secret(file).map_err(refused).map(|text| (text, Origin::File(known)))
}

fn run(command: &str) -> Result<Zeroizing<String>> {
    let bad = |what: &str| Failure::new(Exit::Usage, format!("the command for the secret {what}"));
    let mut child = with_first_limits(&mut Command::new("/bin/sh"))
        .arg("-c")
        .arg(command)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| bad(&format!("cannot run: {error}")))?;
    let read = read_secret(child.stdout.take().expect("it is piped"));
    let status = child.wait()?;
    if !status.success() && !matches!(read, Err(SecretFileError::TooLong)) {
        return Err(bad("failed"));
    }
    read.map_err(|error| bad(&format!("printed what {error}")))
}
