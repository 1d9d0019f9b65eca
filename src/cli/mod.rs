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
mod opening;
pub(crate) mod options;
mod owner;
mod parsed;
mod place;
mod refused;
mod repair;
mod secrets;
mod trust;
mod user;
mod vault;

use std::path::Path;
use std::process::ExitCode;

use args::{Cli, Command, Global, KeyCommand, PutArgs, RepoArgs, VaultCommand};
pub use parsed::{Said, parse};

use crate::fs::FsError;
use crate::io::Exit;
use crate::io::output::{self, OutputError};
use crate::store::StoreError;
use crate::vault::client::VaultError;
use crate::volume::repository::OpenFailure;
use crate::volume::{Unfit, VolumeError};

/// Why a command failed: one exit for all errors.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub code: Exit,
    /// What happened, to what.
    pub message: String,
    /// What to do, a line each.
    pub hints: Vec<String>,
    /// Tries left at the vault, where it said so.
    pub tries_left: Option<u8>,
}

impl Failure {
    /// A failure without hints.
    pub fn new(code: Exit, message: impl std::fmt::Display) -> Self {
        Self { code, message: message.to_string(), hints: Vec::new(), tries_left: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        let mut failure = Self::new(error.exit_code(), &error);
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
        Self { hints, ..Self::new(failure.code, message) }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Damaged { .. } => Exit::Damage,
            StoreError::Missing { .. } | StoreError::Vanished { .. } => Exit::NotAllHere,
            StoreError::Away { .. } => Exit::Unusable,
            StoreError::UnknownEpoch { .. } => Exit::WrongSecret,
            StoreError::Newer { .. } => Exit::NoRepository,
            StoreError::Full => Exit::NoSpace,
            StoreError::State { .. } | StoreError::Io { .. } | StoreError::Republished { .. } => {
                Exit::Other
            }
        };
        Self::new(code, error)
    }
}

impl From<OpenFailure> for Failure {
    fn from(error: OpenFailure) -> Self {
        match error {
            OpenFailure::Store(error) => error.into(),
            OpenFailure::HeaderDamaged(_) => Self::new(Exit::Damage, error)
                .hint("restore the file amberfs-*.amb from the cloud's older versions"),
            other => Self::new(Exit::NoRepository, other),
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
            VolumeError::WrongKey => Self::new(Exit::WrongSecret, error),
            VolumeError::State(_) => Self::new(Exit::Other, error),
            VolumeError::Unfit { why, ref held, .. } => {
                let failure = Self::new(Exit::Unusable, &error);
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
            VolumeError::NoDevice { .. } => Self::new(Exit::Usage, error),
            VolumeError::SeveralDevices { .. } => Self::new(Exit::Usage, error)
                .hint("device= takes the first digits of an id too, four or more"),
            VolumeError::Diverged(_) => Self::new(Exit::Unusable, error),
            VolumeError::Waiting(_) => Self::new(Exit::NotAllHere, error).hint(
                "reading (-o ro) shows what was before it. A file that its device will never \
                 finish can be moved out of the repository: it is given up then",
            ),
            VolumeError::Unwritable { .. } => Self::new(Exit::Unusable, error)
                .hint("amberfs mount -o ro, ls, cat and extract read it without writing"),
            VolumeError::RolledBack(_) => Self::new(Exit::Rollback, error).hint(
                "let the sync client finish; if the folder really was put back, mount with \
                       a new --state folder to go on from what is there",
            ),
        }
    }
}

impl From<FsError> for Failure {
    fn from(error: FsError) -> Self {
        let code = match error {
            FsError::NoSpace => Exit::NoSpace,
            FsError::NotHere => Exit::NotAllHere,
            FsError::Damaged => Exit::Damage,
            FsError::Away => Exit::Unusable,
            _ => Exit::Other,
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
            Some(libc::ENOSPC | libc::EDQUOT) => Exit::NoSpace,
            _ => Exit::Other,
        };
        Self::new(code, error)
    }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        Self::new(error.exit_code(), error)
    }
}

/// Result of a command.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    if let Err(error) = crate::io::widen_limits() {
        note!("amberfs: the limits of this process could not be widened: {error}");
        return Exit::Other.into();
    }
    if crate::daemon::guard_if_asked() {
        return Exit::Done.into();
    }
    crate::daemon::note_inherited();
    // Every command may hold K: no core dumps, and a panic tells its place only.
    if let Err(error) = crate::daemon::harden() {
        note!("amberfs: core dumps could not be turned off: {error}");
        return Exit::Other.into();
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
    let exit = match result {
        // Some file systems tell only at the end that they have no room.
        Ok(exit) => match output::finish() {
            Ok(()) => exit,
            Err(error) => report(json, &Failure::from(error)),
        },
        Err(failure) => report(json, &failure),
    };
    exit.into()
}

/// What the parser has to say: help, or what is wrong.
fn refuse(said: &Said, json: bool) -> Result<Exit> {
    if json && said.is_wrong {
        let (message, hints) = said.told();
        return Err(Failure { hints, ..Failure::new(Exit::Usage, message) });
    }
    said.show()?;
    Ok(if said.is_wrong { Exit::Usage } else { Exit::Done })
}

/// Tells a failure; returns the exit code.
fn report(json: bool, failure: &Failure) -> Exit {
    if !json {
        tell(failure);
        return failure.code;
    }
    let object = serde_json::json!({
        "message_type": "exit_error",
        "code": failure.code.number(),
        "message": failure.message,
        "hints": failure.hints,
        "tries_left": failure.tries_left,
    });
    match output::object(&object).map_err(Failure::from) {
        Err(unheard) if unheard.code == Exit::NoReader => Exit::NoReader,
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
    if failure.code == Exit::NoReader {
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
        return Err(Failure::new(Exit::Usage, text));
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

/// Runs a command; [`Exit::Done`] or [`Exit::Partial`].
fn run(cli: &Cli) -> Result<Exit> {
    if cli.global.json
        && let Some(what) = without_json(&cli.command)
    {
        return Err(Failure::new(Exit::Usage, format!("{what} has no --json")));
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
            Ok(Exit::Done)
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
        let failure = Failure::from(crate::control::Failure { code: Exit::NoSpace, text });
        assert_eq!((failure.code, &*failure.message), (Exit::NoSpace, "what happened"));
        assert_eq!(failure.hints, ["what to do", "and more"]);
    }
}
