//! Arguments, questions and output.
//!
//! Invariant: every error leaves through [`Failure`], with an exit code that
//! `docs/cli.md` promises.

/// Writes a line to standard output; see [`output::line`].
macro_rules! say {
    ($($text:tt)*) => {
        $crate::io::output::line(format_args!($($text)*))
    };
}

/// Writes a line to standard error; see [`output::note`].
macro_rules! note {
    ($($text:tt)*) => {
        $crate::io::output::note(format_args!($($text)*))
    };
}

mod args;
mod asked;
mod check;
mod confirm;
mod control;
mod files;
mod findings;
mod init;
mod key;
mod mount;
mod noting;
mod opening;
pub(crate) mod options;
mod owner;
mod parsed;
mod place;
mod refused;
mod repair;
mod search;
mod secrets;
mod trust;
mod user;
mod vault;

use std::path::Path;
use std::process::ExitCode;

pub use args::Cli;
use args::{Command, Global, KeyCommand, PutArgs, RepoArgs, VaultCommand};
pub use parsed::{Said, parse};

use crate::fs::FsError;
use crate::io::output::{self, OutputError};
use crate::store::StoreError;
use crate::vault::client::VaultError;
use crate::volume::repository::OpenFailure;
use crate::volume::{Unfit, VolumeError};

/// Exit codes, promised in `docs/cli.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Anything else.
    Other = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Done, but something could not be read.
    Partial = 3,
    /// No repository, or a newer one.
    NoRepository = 10,
    /// In use by another process.
    InUse = 11,
    /// Wrong password or key.
    WrongSecret = 12,
    /// The vault's record is closed or dead.
    RecordDead = 13,
    /// The vault says to wait.
    TryLater = 14,
    /// The vault cannot be reached.
    VaultUnreachable = 15,
    /// Not the pinned vault.
    NotThePinnedVault = 16,
    /// Mountpoint or REPO cannot be used.
    Unusable = 17,
    /// Too little memory to stretch the password.
    NoMemory = 18,
    /// An attempt was sent and its outcome is not known.
    Unanswered = 19,
    /// Not everything is here yet.
    NotAllHere = 20,
    /// Damage.
    Damage = 26,
    /// An older state was put back.
    Rollback = 27,
    /// No space.
    NoSpace = 28,
    /// Interrupted.
    Interrupted = 130,
    /// Whoever read the output has gone.
    NoReader = 141,
}

/// Why a command failed: one exit for all errors.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// What happened, to what.
    pub message: String,
    /// What to do, a line each.
    pub hints: Vec<String>,
    /// Tries left at the vault, where it said so.
    pub tries_left: Option<u8>,
}

impl Failure {
    /// A failure without hints.
    pub fn new(code: Code, message: impl std::fmt::Display) -> Self {
        Self { code, message: message.to_string(), hints: Vec::new(), tries_left: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl Code {
    /// The code with this number, as a daemon or the vault's client gives it.
    fn from_number(number: u8) -> Self {
        match number {
            2 => Self::Usage,
            3 => Self::Partial,
            10 => Self::NoRepository,
            11 => Self::InUse,
            12 => Self::WrongSecret,
            13 => Self::RecordDead,
            14 => Self::TryLater,
            15 => Self::VaultUnreachable,
            16 => Self::NotThePinnedVault,
            17 => Self::Unusable,
            18 => Self::NoMemory,
            19 => Self::Unanswered,
            20 => Self::NotAllHere,
            26 => Self::Damage,
            27 => Self::Rollback,
            28 => Self::NoSpace,
            130 => Self::Interrupted,
            141 => Self::NoReader,
            _ => Self::Other,
        }
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        let mut failure = Self::new(Code::from_number(error.exit_code()), &error);
        failure.tries_left = error.tries_left();
        failure
    }
}

impl From<crate::control::Failure> for Failure {
    /// A daemon's text has what happened in its first line, and what to do in the others.
    fn from(failure: crate::control::Failure) -> Self {
        let mut lines = failure.text.lines();
        let message = lines.next().unwrap_or_default();
        let hints = lines.map(|line| line.trim_start().to_owned()).collect();
        Self { hints, ..Self::new(Code::from_number(failure.code), message) }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Damaged { .. } => Code::Damage,
            StoreError::Missing { .. } | StoreError::Vanished { .. } => Code::NotAllHere,
            StoreError::Away { .. } => Code::Unusable,
            StoreError::UnknownEpoch { .. } => Code::WrongSecret,
            StoreError::Newer { .. } => Code::NoRepository,
            StoreError::Full => Code::NoSpace,
            StoreError::State { .. } | StoreError::Io { .. } | StoreError::Republished { .. } => {
                Code::Other
            }
        };
        Self::new(code, error)
    }
}

impl From<OpenFailure> for Failure {
    fn from(error: OpenFailure) -> Self {
        match error {
            OpenFailure::Store(error) => error.into(),
            OpenFailure::HeaderDamaged(_) => Self::new(Code::Damage, error)
                .hint("restore the file amberfs-*.amb from the cloud's older versions"),
            other => Self::new(Code::NoRepository, other),
        }
    }
}

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Self {
        match error {
            VolumeError::Open(error) => error.into(),
            VolumeError::Store(error @ StoreError::Damaged { .. }) => Self::from(error).hint(
                "restore that file from the cloud's older versions; reading (-o ro) shows what \
                 was before it. Moved out of the repository, it is given up",
            ),
            VolumeError::Store(error) => error.into(),
            VolumeError::WrongKey => Self::new(Code::WrongSecret, error),
            VolumeError::State(_) => Self::new(Code::Other, error),
            VolumeError::Unfit { why, ref held, .. } => {
                let failure = Self::new(Code::Unusable, &error);
                let failure = match why {
                    Unfit::Elsewhere => failure.hint(
                        "if the machine was set up anew, or the folder moved, and nobody else uses \
                         this state: amberfs mount --adopt goes on with it, and with what its \
                         journal holds",
                    ),
                    Unfit::Overtaken => failure,
                };
                failure.hint(if held.is_nothing() {
                    "to go on as a new device, give --state another folder"
                } else {
                    "to go on as a new device, give --state another folder; keep this one: what it \
                     holds is not brought back there"
                })
            }
            VolumeError::NoDevice { .. } => Self::new(Code::Usage, error),
            VolumeError::SeveralDevices { .. } => Self::new(Code::Usage, error)
                .hint("device= takes the first digits of an id too, four or more"),
            VolumeError::Diverged(_) => Self::new(Code::Unusable, error),
            VolumeError::Waiting(_) => Self::new(Code::NotAllHere, error).hint(
                "reading (-o ro) shows what was before it. A file that its device will never \
                 finish can be moved out of the repository: it is given up then",
            ),
            VolumeError::Unwritable { .. } => Self::new(Code::Unusable, error)
                .hint("amberfs mount -o ro, ls, cat and extract read it without writing"),
            VolumeError::RolledBack(_) => Self::new(Code::Rollback, error).hint(
                "let the sync client finish; if the folder really was put back, mount with \
                       a new --state folder to go on from what is there",
            ),
        }
    }
}

impl From<FsError> for Failure {
    fn from(error: FsError) -> Self {
        let code = match error {
            FsError::NoSpace => Code::NoSpace,
            FsError::NotHere => Code::NotAllHere,
            FsError::Damaged => Code::Damage,
            FsError::Away => Code::Unusable,
            _ => Code::Other,
        };
        let failure = Self::new(code, error);
        match error {
            FsError::NotHere | FsError::Damaged => {
                failure.hint("amberfs check names the file in REPO")
            }
            _ => failure,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let code = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Code::NoSpace,
            _ => Code::Other,
        };
        Self::new(code, error)
    }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        Self::new(Code::from_number(error.exit_code()), error)
    }
}

/// Result of a command.
pub type Result<T> = std::result::Result<T, Failure>;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    if let Err(error) = crate::io::widen_limits() {
        note!("amberfs: the limits of this process could not be widened: {error}");
        return ExitCode::from(Code::Other as u8);
    }
    if crate::daemon::guard_if_asked() {
        return ExitCode::SUCCESS;
    }
    crate::daemon::note_inherited();
    // Every command may hold K: no core dumps, and a panic tells its place only.
    if let Err(error) = crate::daemon::harden() {
        note!("amberfs: core dumps could not be turned off: {error}");
        return ExitCode::from(Code::Other as u8);
    }
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, ToString::to_string);
        note!("amberfs: internal error at {place}; please report it");
    }));
    let (json, result) = match parse::<Cli>() {
        Ok(cli) => (cli.global.json, run(&cli)),
        Err(said) => {
            let mut options = std::env::args_os().skip(1).take_while(|argument| argument != "--");
            let json = options.any(|argument| argument == "--json");
            (json, refuse(&said, json))
        }
    };
    match result {
        // Some file systems tell only at the end that they have no room.
        Ok(code) => match output::finish() {
            Ok(()) => ExitCode::from(code),
            Err(error) => ExitCode::from(report(json, &Failure::from(error)) as u8),
        },
        Err(failure) => ExitCode::from(report(json, &failure) as u8),
    }
}

/// What the parser has to say: help, or what is wrong.
fn refuse(said: &Said, json: bool) -> Result<u8> {
    if json && said.is_wrong {
        let (message, hints) = said.told();
        return Err(Failure { hints, ..Failure::new(Code::Usage, message) });
    }
    said.show()?;
    Ok(if said.is_wrong { Code::Usage as u8 } else { 0 })
}

/// Tells a failure; returns the exit code.
fn report(json: bool, failure: &Failure) -> Code {
    if !json {
        tell(failure);
        return failure.code;
    }
    let object = serde_json::json!({
        "message_type": "exit_error",
        "code": failure.code as u8,
        "message": failure.message,
        "hints": failure.hints,
        "tries_left": failure.tries_left,
    });
    match output::object(&object).map_err(Failure::from) {
        Err(unheard) if unheard.code == Code::NoReader => Code::NoReader,
        // Where standard output takes nothing, standard error may.
        Err(_) => {
            tell(failure);
            failure.code
        }
        Ok(()) => failure.code,
    }
}

/// Says it on standard error.
fn tell(failure: &Failure) {
    if failure.code == Code::NoReader {
        // Nobody reads this either.
        return;
    }
    note!("amberfs: {}", failure.message);
    for hint in &failure.hints {
        note!("  {hint}");
    }
}

/// A command whose output is something other than messages, and what that is.
fn without_json(command: &Command) -> Option<&'static str> {
    match command {
        Command::Cat(_) => Some("cat prints files as they are and"),
        Command::Completions { .. } => Some("completions prints a script and"),
        Command::Key(KeyCommand::Sheet(_)) => Some("key sheet is a page for people and"),
        _ => None,
    }
}

/// Standard input is one thing: one secret, or what `put` puts.
fn one_from_stdin(cli: &Cli) -> Result<()> {
    let Global { key_file, password_file, invite_file, vault_token, .. } = &cli.global;
    let new_password = match &cli.command {
        Command::Passwd(RepoArgs { new_password_file, .. })
        | Command::Vault(VaultCommand::Add(RepoArgs { new_password_file, .. })) => {
            new_password_file.as_deref()
        }
        _ => None,
    };
    let secrets = [key_file, password_file, invite_file, vault_token].map(Option::as_deref);
    let secrets = secrets.into_iter().chain([new_password]);
    let count = secrets.filter(|file| *file == Some(Path::new(secrets::STDIN))).count();
    let is_put = matches!(&cli.command, Command::Put(PutArgs { from: None, .. }));
    if count + usize::from(is_put) > 1 {
        let text = if is_put {
            "what is put comes from standard input, so no secret can"
        } else {
            "only one secret can come from standard input"
        };
        return Err(Failure::new(Code::Usage, text));
    }
    Ok(())
}

/// The repository that a command writes into.
fn written(command: &Command) -> Option<&std::path::Path> {
    match command {
        Command::Init(args) => Some(&args.repo),
        Command::Put(args) => Some(&args.repo),
        Command::Mount(args) => Some(&args.repo),
        Command::Check(args) if args.repair => Some(&args.repo),
        Command::Passwd(args) | Command::Vault(VaultCommand::Add(args)) => Some(&args.repo),
        Command::Vault(VaultCommand::Remove(args)) => Some(&args.repo),
        _ => None,
    }
}

/// Runs a command; 0 or [`Code::Partial`].
fn run(cli: &Cli) -> Result<u8> {
    if cli.global.json
        && let Some(what) = without_json(&cli.command)
    {
        return Err(Failure::new(Code::Usage, format!("{what} has no --json")));
    }
    one_from_stdin(cli)?;
    if let Some(repo) = written(&cli.command) {
        owner::act(&cli.global, repo)?;
    }
    match &cli.command {
        Command::Init(args) => init::run(&cli.global, args),
        Command::Put(args) => files::put(&cli.global, args),
        Command::Ls(args) => files::ls(&cli.global, args),
        Command::Cat(args) => files::cat(&cli.global, args),
        Command::Extract(args) => files::extract(&cli.global, args),
        Command::Mount(args) => mount::run(&cli.global, args)
            .map_err(|failure| control::tell_who_has(&cli.global, failure, &args.repo)),
        Command::Umount(args) => control::umount(&cli.global, args),
        Command::Sync(args) => control::sync(&cli.global, args),
        Command::Status(args) => control::status(&cli.global, args),
        Command::Passwd(args) => vault::passwd(&cli.global, args),
        Command::Vault(VaultCommand::Add(args)) => vault::add(&cli.global, args),
        Command::Vault(VaultCommand::Remove(args)) => vault::remove(&cli.global, args),
        Command::Vault(VaultCommand::Show(args)) => vault::show(&cli.global, args),
        Command::Key(KeyCommand::Show(args)) => key::show(&cli.global, args),
        Command::Key(KeyCommand::Sheet(args)) => key::sheet(&cli.global, args),
        Command::Key(KeyCommand::Verify(args)) => key::verify(&cli.global, args),
        Command::Completions { shell } => {
            // In one piece: the generator panics where it cannot write.
            let mut script = Vec::new();
            let mut command = <Cli as clap::CommandFactory>::command();
            clap_complete::generate(*shell, &mut command, "amberfs", &mut script);
            output::bytes(&script)?;
            Ok(0)
        }
        Command::Check(args) => check::run(&cli.global, args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What to do stood behind a question mark, in one line with what happened.
    #[test]
    fn a_daemons_lines_are_told_one_by_one() {
        let text = "what happened\n  what to do\n  and more".into();
        let failure = Failure::from(crate::control::Failure { code: 28, text });
        assert_eq!((failure.code, &*failure.message), (Code::NoSpace, "what happened"));
        assert_eq!(failure.hints, ["what to do", "and more"]);
    }
}
