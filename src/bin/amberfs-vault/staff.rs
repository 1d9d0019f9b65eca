//! What staff does: orders go to the server that has the folder, or are done here if
//! none runs.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amberfs::io::{DirFolder, SystemClock, SystemRandom};
use amberfs::vault::server::{Answer, ORDER_LIMIT, Order, Site, Which, open_site};
use clap::{Args, Subcommand};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::guard::{check_private, read_secret_file};
use super::{Done, Failure, SERVED, lock, opened, say};

/// The socket in the vault's folder.
const SOCKET: &str = "control";
const PATIENCE: Duration = Duration::from_secs(60);

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
    /// How a record stands; nothing that is in it
    Show {
        /// The vault's folder
        dir: PathBuf,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// How all records of an account stand
    List {
        /// The vault's folder
        dir: PathBuf,
        /// The account
        account: String,
    },
    /// Stop a record: no attempt is taken, and no try is lost
    Freeze {
        /// The vault's folder
        dir: PathBuf,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Let a stopped record go
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
        RecordCommand::Show { dir, chosen } => give(dir, &Order::Show(chosen.which()?)),
        RecordCommand::List { dir, account } => give(dir, &Order::List(account.clone())),
        RecordCommand::Freeze { dir, chosen } => give(dir, &Order::Freeze(chosen.which()?)),
        RecordCommand::Thaw { dir, chosen } => give(dir, &Order::Thaw(chosen.which()?)),
        RecordCommand::Delete { dir, chosen } => give(dir, &Order::Delete(chosen.which()?)),
    }
}

/// Gives an order and prints what came of it.
pub fn give(dir: &Path, order: &Order) -> Result<(), Failure> {
    let answer = match lock(dir) {
        Ok(_locked) => {
            check_private(dir)?;
            let opened = opened(dir, open_site(&DirFolder::new(dir)))?;
            let (random, clock) = (Arc::new(SystemRandom), Arc::new(SystemClock));
            Site::new(opened.keys, opened.ledger, random, clock, opened.signed, true).obey(order)
        }
        Err(failure) if failure.code == SERVED => send(&dir.join(SOCKET), order)?,
        Err(failure) => return Err(failure),
    };
    match answer {
        Answer::Done(text) => text.lines().try_for_each(say).but(match order {
            Order::Invite { .. } => "nobody has this invite: make another",
            _ => "the order is done",
        }),
        Answer::Failed(why) => Err(Failure::other(why)),
    }
}

fn send(socket: &Path, order: &Order) -> Result<Answer, Failure> {
    let trouble = |error: std::io::Error| {
        Failure::other(format!("the server of this vault does not answer: {error}"))
    };
    let mut stream = UnixStream::connect(socket).map_err(trouble)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(trouble)?;
    let mut line = serde_json::to_vec(order).map_err(Failure::other)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(trouble)?;
    let mut answer = String::new();
    let limit = ORDER_LIMIT as u64;
    BufReader::new(stream).take(limit).read_line(&mut answer).map_err(trouble)?;
    serde_json::from_str(&answer).map_err(Failure::other)
}

/// The socket for orders, in a folder that only its owner can enter.
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

/// Takes orders, one a connection, of whoever owns the vault and of root.
pub async fn take_orders(listener: UnixListener, site: Arc<Site>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let owner = rustix::process::geteuid().as_raw();
        if !stream.peer_cred().is_ok_and(|peer| [owner, 0].contains(&peer.uid())) {
            log::warn!("an order of another user was refused");
            continue;
        }
        let site = Arc::clone(&site);
        tokio::spawn(async move {
            let (read, mut write) = stream.into_split();
            let mut line = String::new();
            let mut reader = tokio::io::BufReader::new(read.take(ORDER_LIMIT as u64));
            let read = tokio::time::timeout(Duration::from_secs(10), reader.read_line(&mut line));
            read.await.ok()?.ok()?;
            let answer = match serde_json::from_str::<Order>(&line) {
                Ok(order) => tokio::task::spawn_blocking(move || site.obey(&order)).await.ok()?,
                Err(error) => Answer::Failed(format!("this server does not know it: {error}")),
            };
            let mut line = serde_json::to_vec(&answer).ok()?;
            line.push(b'\n');
            write.write_all(&line).await.ok()
        });
    }
}
