//! The commands of the vault's staff. If a server has the vault's folder, it gets the
//! command over a socket and executes it; else this process does.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amberfs::io::{DirFolder, SystemClock, SystemRandom};
use amberfs::vault::server::{ADMIN_LIMIT, AdminCommand, Answer, Site, Which, open_site};
use clap::{Args, Subcommand};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::guard::{check_private, read_secret_file};
use super::{Done, Failure, SERVED, lock, opened, say};

/// The socket in the vault's folder.
const SOCKET: &str = "control";
/// How long to wait for the server's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// One of these.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Chosen {
    /// The record's name in the ledger
    #[arg(long, value_name = "DIGITS")]
    name: Option<String>,
    /// File with the ticket from the owner's folder, which `amberfs vault show --ticket` prints
    /// (- for standard input)
    #[arg(long, value_name = "FILE")]
    ticket_file: Option<PathBuf>,
}

impl Chosen {
    fn which(&self) -> Result<Which, Failure> {
        if let Some(name) = &self.name {
            return Ok(Which::Name(name.clone()));
        }
        let file = self.ticket_file.as_deref().unwrap_or(Path::new("-"));
        Ok(Which::Ticket(read_secret_file(file, "Ticket: ")?.trim().to_owned()))
    }
}

#[derive(Subcommand)]
pub enum RecordCommand {
    /// Print the state of a record, and nothing that is in it
    Show {
        /// The vault's folder
        dir: PathBuf,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Print the states of all records of an account
    List {
        /// The vault's folder
        dir: PathBuf,
        /// The account
        account: String,
    },
    /// Freeze a record: the vault evaluates no attempt, and no try is lost
    Freeze {
        /// The vault's folder
        dir: PathBuf,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Release a record that was frozen
    Thaw {
        /// The vault's folder
        dir: PathBuf,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Erase a record; its owner needs the 64-digit key then
    Delete {
        /// The vault's folder
        dir: PathBuf,
        #[command(flatten)]
        chosen: Chosen,
    },
}

pub fn record(command: &RecordCommand) -> Result<(), Failure> {
    match command {
        RecordCommand::Show { dir, chosen } => execute(dir, &AdminCommand::Show(chosen.which()?)),
        RecordCommand::List { dir, account } => execute(dir, &AdminCommand::List(account.clone())),
        RecordCommand::Freeze { dir, chosen } => {
            execute(dir, &AdminCommand::Freeze(chosen.which()?))
        }
        RecordCommand::Thaw { dir, chosen } => execute(dir, &AdminCommand::Thaw(chosen.which()?)),
        RecordCommand::Delete { dir, chosen } => {
            execute(dir, &AdminCommand::Delete(chosen.which()?))
        }
    }
}

/// Has a command executed, by the server of `dir` or else here, and prints the answer.
pub fn execute(dir: &Path, command: &AdminCommand) -> Result<(), Failure> {
    let answer = match lock(dir) {
        Ok(_locked) => {
            check_private(dir)?;
            let opened = opened(dir, open_site(&DirFolder::new(dir)))?;
            let (random, clock) = (Arc::new(SystemRandom), Arc::new(SystemClock));
            Site::new(opened.keys, opened.ledger, random, clock, opened.signed, true)
                .execute(command)
        }
        Err(failure) if failure.code == SERVED => send(&dir.join(SOCKET), command)?,
        Err(failure) => return Err(failure),
    };
    match answer {
        Answer::Done(text) => text.lines().try_for_each(say).but(match command {
            AdminCommand::Invite { .. } => "nobody has this invite: make another",
            _ => "the command was executed",
        }),
        Answer::Failed(why) => Err(Failure::other(why)),
    }
}

fn send(socket: &Path, command: &AdminCommand) -> Result<Answer, Failure> {
    let trouble = |error: std::io::Error| {
        Failure::other(format!("the server of this vault does not answer: {error}"))
    };
    let mut stream = UnixStream::connect(socket).map_err(trouble)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(trouble)?;
    let mut line = serde_json::to_vec(command).map_err(Failure::other)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(trouble)?;
    let mut answer = String::new();
    let limit = ADMIN_LIMIT as u64;
    BufReader::new(stream).take(limit).read_line(&mut answer).map_err(trouble)?;
    serde_json::from_str(&answer).map_err(Failure::other)
}

/// Listens on the socket for commands of the staff, in the vault's folder, which only its
/// owner can enter.
pub fn listen(dir: &Path) -> Result<UnixListener, Failure> {
    let path = dir.join(SOCKET);
    // The folder is locked: nobody else serves it.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)
        .map_err(|error| Failure::other(format!("{}: {error}", path.display())))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .map_err(Failure::other)?;
    Ok(listener)
}

/// Executes the commands that come over `listener`, one a connection. Commands of other
/// users than root and the one that this process runs as are refused.
pub async fn serve_commands(listener: UnixListener, site: Arc<Site>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let owner = rustix::process::geteuid().as_raw();
        if !stream.peer_cred().is_ok_and(|peer| [owner, 0].contains(&peer.uid())) {
            log::warn!("refused a command of another user");
            continue;
        }
        let site = Arc::clone(&site);
        tokio::spawn(async move {
            let (read, mut write) = stream.into_split();
            let mut line = String::new();
            let mut reader = tokio::io::BufReader::new(read.take(ADMIN_LIMIT as u64));
            let read = tokio::time::timeout(Duration::from_secs(10), reader.read_line(&mut line));
            read.await.ok()?.ok()?;
            let answer = match serde_json::from_str::<AdminCommand>(&line) {
                Ok(command) => {
                    tokio::task::spawn_blocking(move || site.execute(&command)).await.ok()?
                }
                Err(error) => {
                    Answer::Failed(format!("this server does not know the command: {error}"))
                }
            };
            let mut line = serde_json::to_vec(&answer).ok()?;
            line.push(b'\n');
            write.write_all(&line).await.ok()
        });
    }
}
