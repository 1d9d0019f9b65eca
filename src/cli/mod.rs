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
mod devices;
mod failure;
mod files;
mod findings;
mod init;
mod key;
pub mod man;
mod mount;
mod opening;
pub(crate) mod options;
mod owner;
mod parsed;
mod place;
mod refused;
mod repair;
mod secrets;
mod snapshots;
mod sweep;
mod trust;
mod user;
mod vault;
mod wait;
mod when;

use std::path::Path;
use std::process::ExitCode;

use args::{
    Cli, Command, ConflictsCommand, DevicesCommand, Global, KeyCommand, PutArgs, RepoArgs,
    SnapshotsCommand, VaultCommand,
};
use failure::{Failure, Result, print_failure, report};
pub use parsed::{Said, parse};

use crate::io::{Exit, output};

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
        let (message, hints) = said.message_and_hints();
        return Err(Failure { hints, ..Failure::new(Exit::Usage, message) });
    }
    said.show()?;
    Ok(if said.is_wrong { Exit::Usage } else { Exit::Done })
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
        Command::Conflicts(ConflictsCommand::Keep(args)) => Some(&args.repo),
        Command::Restore(args) => Some(&args.repo),
        Command::Mount(args) => Some(&args.repo),
        Command::Check(args) if args.repair => Some(&args.repo),
        Command::Passwd(args) | Command::Vault(VaultCommand::Add(args)) => Some(&args.repo),
        Command::Vault(VaultCommand::Remove(args)) => Some(&args.repo),
        Command::Devices(DevicesCommand::Rename(args)) => Some(&args.repo),
        Command::Devices(DevicesCommand::Retire(args)) => Some(&args.repo),
        Command::Devices(DevicesCommand::Renew(args)) => Some(&args.repo),
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
        Command::Conflicts(ConflictsCommand::List(args)) => files::conflicts(&cli.global, args),
        Command::Conflicts(ConflictsCommand::Keep(args)) => files::keep(&cli.global, args),
        Command::Snapshots(SnapshotsCommand::List(args)) => snapshots::list(&cli.global, args),
        Command::Snapshots(SnapshotsCommand::Add(args)) => snapshots::add(&cli.global, args),
        Command::Snapshots(SnapshotsCommand::Remove(args)) => snapshots::remove(&cli.global, args),
        Command::Snapshots(SnapshotsCommand::Policy(args)) => snapshots::policy(&cli.global, args),
        Command::Sweep(args) => sweep::run(&cli.global, args),
        Command::Restore(args) => files::restore(&cli.global, args),
        Command::Diff(args) => snapshots::diff(&cli.global, args),
        Command::Mount(args) => mount::run(&cli.global, args)
            .map_err(|failure| control::add_users(&cli.global, failure, &args.repo)),
        Command::Umount(args) => control::umount(&cli.global, args),
        Command::Sync(args) => control::sync(&cli.global, args),
        Command::Status(args) => control::status(&cli.global, args),
        Command::Wait(args) => wait::run(&cli.global, args),
        Command::Passwd(args) => vault::passwd(&cli.global, args),
        Command::Vault(VaultCommand::Add(args)) => vault::add(&cli.global, args),
        Command::Vault(VaultCommand::Remove(args)) => vault::remove(&cli.global, args),
        Command::Vault(VaultCommand::Show(args)) => vault::show(&cli.global, args),
        Command::Key(KeyCommand::Show(args)) => key::show(&cli.global, args),
        Command::Key(KeyCommand::Sheet(args)) => key::sheet(&cli.global, args),
        Command::Key(KeyCommand::Verify(args)) => key::verify(&cli.global, args),
        Command::Devices(DevicesCommand::List(args)) => devices::list(&cli.global, args),
        Command::Devices(DevicesCommand::Rename(args)) => devices::rename(&cli.global, args),
        Command::Devices(DevicesCommand::Retire(args)) => devices::retire(&cli.global, args),
        Command::Devices(DevicesCommand::Renew(args)) => devices::renew(&cli.global, args),
        Command::Completions { shell } => {
            // In one piece: the generator panics where it cannot write.
            let mut script = Vec::new();
            let mut command = <Cli as clap::CommandFactory>::command();
            clap_complete::generate(*shell, &mut command, "amberfs", &mut script);
            output::bytes(&script)?;
            Ok(Exit::Done)
        }
        Command::Man { dir } => {
            man::write(<Cli as clap::CommandFactory>::command(), &man::AMBERFS, dir)?;
            Ok(Exit::Done)
        }
        Command::Check(args) => check::run(&cli.global, args),
    }
}
