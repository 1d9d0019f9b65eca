//! The command line, as `amberfs --help` shows it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::when::Moment;

/// Encrypted backups of chats, in a folder that your cloud client uploads.
#[derive(Parser, Debug)]
#[command(name = "amberfs", version, max_term_width = 100)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command that is run.
    #[command(subcommand)]
    pub command: Command,
}

/// The answer to a question of yes or no that an option gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum YesNo {
    /// Yes.
    Yes,
    /// No.
    No,
}

/// Options of every command.
#[derive(Args, Debug, Clone)]
pub struct Global {
    /// Folder of local state, one for each repository and device
    #[arg(long, global = true, env = "AMBERFS_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// For root: write into REPO as this user; its owner if not given
    #[arg(long = "as", global = true, env = "AMBERFS_AS", value_name = "USER")]
    pub as_user: Option<String>,
    /// File with the 64-digit key (- for standard input)
    #[arg(long, global = true, env = "AMBERFS_KEY_FILE", value_name = "F")]
    pub key_file: Option<PathBuf>,
    /// Command that prints the 64-digit key
    #[arg(long, global = true, env = "AMBERFS_KEY_COMMAND", value_name = "C")]
    pub key_command: Option<String>,
    /// File with the password (- for standard input)
    #[arg(short = 'p', long, global = true, env = "AMBERFS_PASSWORD_FILE", value_name = "F")]
    pub password_file: Option<PathBuf>,
    /// Command that prints the password
    #[arg(long, global = true, env = "AMBERFS_PASSWORD_COMMAND", value_name = "C")]
    pub password_command: Option<String>,
    /// Send the password of a file or a command although a vault refused it before and it has not
    /// changed
    #[arg(long, global = true)]
    pub retry: bool,
    /// Vault to trust: amber-vault://HOST:PORT/#FINGERPRINT
    #[arg(long, global = true, env = "AMBERFS_VAULT", value_name = "ADDRESS")]
    pub vault: Option<String>,
    /// File with the invite to a vault that does not take everybody (- for standard input)
    #[arg(long, global = true, env = "AMBERFS_VAULT_INVITE_FILE", value_name = "F")]
    pub invite_file: Option<PathBuf>,
    /// File with the account's token, if the vault's relay wants one (- for standard input)
    #[arg(long, global = true, env = "AMBERFS_VAULT_TOKEN_FILE", value_name = "F")]
    pub vault_token: Option<PathBuf>,
    /// Whether a new password opens only for the account that registers it (without this,
    /// as the vault's operator has set it)
    #[arg(long, global = true, value_name = "yes|no")]
    pub bind_account: Option<YesNo>,
    /// Cost of Argon2id for a new password, `MEMORY_KIB,PASSES`; about a second if not given
    #[arg(long, global = true, hide = true, value_name = "COST")]
    pub argon2_cost: Option<String>,
    /// Go on with what is here, although newer states of the repository are known
    #[arg(long, global = true)]
    pub accept_older: bool,
    /// One JSON object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Say only what failed
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The commands of `amberfs`, with their arguments.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make a repository in a new or empty folder
    Init(InitArgs),
    /// Put files into a repository without mounting it
    Put(PutArgs),
    /// List files
    Ls(LsArgs),
    /// Print files to standard output
    Cat(CatArgs),
    /// Write files to a folder as they were
    Extract(ExtractArgs),
    /// What was changed on two devices at once
    #[command(subcommand)]
    Conflicts(ConflictsCommand),
    /// The states of the past
    #[command(subcommand)]
    Snapshots(SnapshotsCommand),
    /// What changed from one time to another
    Diff(DiffArgs),
    /// Bring files back as they were
    Restore(RestoreArgs),
    /// Give back the space of what nobody needs any more
    Sweep(SweepArgs),
    /// Look for damage
    Check(CheckArgs),
    /// Show the decrypted files at a mountpoint
    Mount(MountArgs),
    /// Put everything into the repository and unmount
    Umount(TargetArgs),
    /// Put everything into the repository
    Sync(TargetArgs),
    /// Show what waits, and what other devices hold
    Status(StatusArgs),
    /// Wait until another device has said that it holds what was written here
    Wait(WaitArgs),
    /// Set a new password
    Passwd(RepoArgs),
    /// Show, print or test the 64-digit key
    #[command(subcommand)]
    Key(KeyCommand),
    /// The vault that opens this repository with a password
    #[command(subcommand)]
    Vault(VaultCommand),
    /// The machines that use this repository
    #[command(subcommand)]
    Devices(DevicesCommand),
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder; made if it is not there
        dir: PathBuf,
    },
}

/// Commands about what was changed on two devices at once.
#[derive(Subcommand, Debug)]
pub enum ConflictsCommand {
    /// List what was changed on two devices at once: what, on which device, when
    List(ConflictsListArgs),
    /// Keep one version of a file under the plain name, and remove the others
    Keep(ConflictsKeepArgs),
}

/// Commands about the states of the past.
#[derive(Subcommand, Debug)]
pub enum SnapshotsCommand {
    /// List the states of the past: of each device the last of each hour for a day, of each day for
    /// a month, of each month
    List(SnapshotsListArgs),
    /// Give what is here now a name, and keep it for ever
    Add(SnapshotsAddArgs),
    /// Keep a state of this device no longer, so that sweep can give back what only it needs
    Remove(SnapshotsRemoveArgs),
    /// Show, or say, for how long states of the past are kept
    Policy(SnapshotsPolicyArgs),
}

/// Commands about the key.
#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Show the 64-digit key
    Show(RepoArgs),
    /// A page to print: key, repository, vault and what to do with them
    Sheet(RepoArgs),
    /// Tell whether a key is the right one
    Verify(RepoArgs),
}

/// Commands about the vault.
#[derive(Subcommand, Debug)]
pub enum VaultCommand {
    /// Keep the key in a vault, behind a new password (give --vault ADDRESS)
    Add(RepoArgs),
    /// Delete the vault's record: only the 64-digit key opens the repository then
    Remove(RemoveArgs),
    /// Show the vault and the tries left
    Show(ShowArgs),
}

/// Commands about devices.
#[derive(Subcommand, Debug)]
pub enum DevicesCommand {
    /// List the devices: their newest states, and what each has of the others
    List(RepoOnly),
    /// Give this device another name; files that carry the old one keep it
    Rename(RenameArgs),
    /// Say that a device is gone for good: no other waits for it any more
    Retire(RetireArgs),
    /// Give this device a new id, after its local state was copied or restored, or another device
    /// retired it; it keeps what its journal holds
    Renew(RepoOnly),
}

/// Arguments of a command that takes nothing but a repository.
#[derive(Args, Debug)]
pub struct RepoOnly {
    /// The repository
    pub repo: PathBuf,
}

/// Arguments of `devices rename`.
#[derive(Args, Debug)]
pub struct RenameArgs {
    /// The repository
    pub repo: PathBuf,
    /// The new name
    #[arg(value_parser = super::devices::name)]
    pub name: String,
}

/// Arguments of `devices retire`.
#[derive(Args, Debug)]
pub struct RetireArgs {
    /// The repository
    pub repo: PathBuf,
    /// The device: its name, or four or more of the first digits of its id
    pub device: String,
    /// Ask nothing
    #[arg(long)]
    pub yes: bool,
}

/// Arguments of a command that takes a repository and a new password.
#[derive(Args, Debug)]
pub struct RepoArgs {
    /// The repository
    pub repo: PathBuf,
    /// File with the new password (- for standard input)
    #[arg(long, value_name = "F")]
    pub new_password_file: Option<PathBuf>,
}

/// Arguments of `vault show`.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// The repository
    pub repo: PathBuf,
    /// Print the record's ticket, for the vault's operator; asks nobody
    #[arg(long)]
    pub ticket: bool,
}

/// Arguments of `vault remove`.
#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// The repository
    pub repo: PathBuf,
    /// End only the records that a newer password replaced; the current one stays
    #[arg(long)]
    pub replaced: bool,
    /// Forget a vault that cannot be reached any more; if it exists, its record stays there
    #[arg(long, conflicts_with = "replaced")]
    pub give_up: bool,
}

/// A mount, or all of them.
#[derive(Args, Debug)]
pub struct TargetArgs {
    /// The mountpoint
    #[arg(required_unless_present = "all")]
    pub mountpoint: Option<PathBuf>,
    /// All mounts of this user
    #[arg(long, conflicts_with = "mountpoint")]
    pub all: bool,
}

/// Arguments of `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// A mountpoint or a mounted repository; all mounts of this user if not given
    pub path: Option<PathBuf>,
}

/// Arguments of `wait`.
#[derive(Args, Debug)]
pub struct WaitArgs {
    /// The mountpoint
    pub mountpoint: PathBuf,
    /// Wait until another device holds everything
    #[arg(long, required = true)]
    pub elsewhere: bool,
    /// Only this device counts: its name, or four or more of the first digits of its id
    #[arg(long, value_name = "N")]
    pub device: Option<String>,
    /// Give up after this time, such as 30s, 10m or 2h
    #[arg(long, value_name = "TIME", value_parser = super::options::time)]
    pub timeout: Option<std::time::Duration>,
}

/// Arguments of `init`.
#[derive(Args, Debug)]
pub struct InitArgs {
    /// The folder: new or empty, inside the folder that your cloud client uploads
    pub repo: PathBuf,
    /// Write the 64-digit key to this new file instead of showing it
    #[arg(long, value_name = "F")]
    pub key_out: Option<PathBuf>,
    /// What this device calls itself
    #[arg(long, value_name = "N", value_parser = super::devices::name)]
    pub device_name: Option<String>,
    /// With a vault: do not keep the 64-digit key; a lost password is then a lost backup
    #[arg(long, conflicts_with = "key_out")]
    pub decline_key: bool,
}

/// Arguments of `put`.
#[derive(Args, Debug)]
pub struct PutArgs {
    /// The repository
    pub repo: PathBuf,
    /// Path in the repository
    pub path: String,
    /// File or folder to copy; standard input if not given
    #[arg(long, value_name = "SOURCE")]
    pub from: Option<PathBuf>,
}

/// Arguments of `ls`.
#[derive(Args, Debug)]
pub struct LsArgs {
    /// The repository
    pub repo: PathBuf,
    /// Paths in the repository; all if none is given
    pub paths: Vec<String>,
    /// Show mode, owner, size and time
    #[arg(short, long)]
    pub long: bool,
    /// List folders and everything below
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// As of which time.
    #[command(flatten)]
    pub at: AtArgs,
}

/// A time in the past.
#[derive(Args, Debug)]
pub struct AtArgs {
    /// As it was then, such as '2026-11-28 14:00', 14:00, yesterday, 'last tuesday 9:30',
    /// '3 days ago', or the name of a state; a day alone means its end
    #[arg(long, value_name = "WHEN", value_parser = super::when::parse)]
    pub at: Option<Moment>,
}

/// Arguments of `restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The repository
    pub repo: PathBuf,
    /// Paths in the repository: files, or folders with all that was in them; / for everything
    #[arg(required = true)]
    pub paths: Vec<String>,
    /// As they were then, such as yesterday, '2026-11-28 14:00', or the name of a state
    #[arg(long, value_name = "WHEN", value_parser = super::when::parse)]
    pub at: Moment,
}

/// Arguments of `diff`.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// The repository
    pub repo: PathBuf,
    /// From this time on, such as yesterday, '2026-11-28 14:00', or the name of a state
    #[arg(value_parser = super::when::parse)]
    pub from: Moment,
    /// Up to this time; up to now if not given
    #[arg(value_parser = super::when::parse)]
    pub to: Option<Moment>,
}

/// Arguments of `snapshots list`.
#[derive(Args, Debug)]
pub struct SnapshotsListArgs {
    /// The repository
    pub repo: PathBuf,
    /// List every state
    #[arg(long)]
    pub all: bool,
    /// Show how many bytes of content only this state needs
    #[arg(long)]
    pub sizes: bool,
}

/// Arguments of `snapshots add`.
#[derive(Args, Debug)]
pub struct SnapshotsAddArgs {
    /// The repository, or where it is mounted
    pub repo: PathBuf,
    /// The name
    #[arg(value_parser = super::snapshots::label)]
    pub name: String,
}

/// Arguments of `snapshots remove`.
#[derive(Args, Debug)]
pub struct SnapshotsRemoveArgs {
    /// The repository, or where it is mounted
    pub repo: PathBuf,
    /// The name of the state, or a time: the newest that this device made until then
    #[arg(value_name = "WHEN", value_parser = super::when::parse)]
    pub which: super::when::Moment,
}

/// Arguments of `snapshots policy`.
#[derive(Args, Debug)]
pub struct SnapshotsPolicyArgs {
    /// The repository, or where it is mounted
    pub repo: PathBuf,
    /// Keep the newest state of each hour for so many hours
    #[arg(long, value_name = "N")]
    pub hours: Option<u64>,
    /// Keep the newest state of each day for so many days
    #[arg(long, value_name = "N")]
    pub days: Option<u64>,
    /// Keep the newest state of each month for so many months
    #[arg(long, value_name = "N")]
    pub months: Option<u64>,
}

/// Arguments of `conflicts list`.
#[derive(Args, Debug)]
pub struct ConflictsListArgs {
    /// The repository
    pub repo: PathBuf,
    /// Paths in the repository: only what is there and below; all if none is given
    pub paths: Vec<String>,
}

/// Arguments of `conflicts keep`.
#[derive(Args, Debug)]
pub struct ConflictsKeepArgs {
    /// The repository
    pub repo: PathBuf,
    /// Path in the repository of the version to keep
    pub path: String,
}

/// Arguments of `cat`.
#[derive(Args, Debug)]
pub struct CatArgs {
    /// The repository
    pub repo: PathBuf,
    /// Files in the repository
    #[arg(required = true)]
    pub paths: Vec<String>,
    /// As of which time.
    #[command(flatten)]
    pub at: AtArgs,
}

/// Arguments of `extract`.
#[derive(Args, Debug)]
pub struct ExtractArgs {
    /// The repository
    pub repo: PathBuf,
    /// Folder to write to; made if it is not there
    pub dest: PathBuf,
    /// Paths in the repository; all if none is given
    pub paths: Vec<String>,
    /// As of which time.
    #[command(flatten)]
    pub at: AtArgs,
}

/// Arguments of `sweep`.
#[derive(Args, Debug)]
pub struct SweepArgs {
    /// The repository, or where it is mounted
    pub repo: PathBuf,
    /// Only say what would be given back, and what is waited for
    #[arg(long)]
    pub dry_run: bool,
    /// Give back more than a fifth of this device's folder at once, too
    #[arg(long, conflicts_with = "dry_run")]
    pub all: bool,
}

/// Arguments of `check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The repository
    pub repo: PathBuf,
    /// Read and verify all data
    #[arg(long)]
    pub read_data: bool,
    /// Compare names with bytes only; needs no key
    #[arg(long, conflicts_with = "read_data")]
    pub no_key: bool,
    /// Repair what can be repaired, and list the files that lost content
    #[arg(long, conflicts_with_all = ["read_data", "no_key"])]
    pub repair: bool,
}

/// Arguments of `mount`.
#[derive(Args, Debug)]
pub struct MountArgs {
    /// The repository
    pub repo: PathBuf,
    /// Where to show it: an empty folder
    pub mountpoint: PathBuf,
    /// Options: ro, rw, `allow_other`, `allow_root`, nonempty, dev, nodev, suid, nosuid, exec,
    /// noexec, uid=N, gid=N, cache=SIZE, checkpoint=30s,10m, device=NAME, snapshot=WHEN, nofollow, sweep;
    /// noatime, relatime, async and defaults change nothing
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Stay in the foreground
    #[arg(short = 'f', long)]
    pub foreground: bool,
    /// Write the log to this file instead of the system log
    #[arg(long, value_name = "F")]
    pub log_file: Option<PathBuf>,
    /// What this device calls itself from now on
    #[arg(long, value_name = "N", value_parser = super::devices::name)]
    pub device_name: Option<String>,
    /// Go on with local state that was used on another machine or for another folder; for state that
    /// was moved, not copied
    #[arg(long)]
    pub adopt: bool,
    /// Mount inside a folder that a sync client uploads: the plain files would be uploaded
    #[arg(long)]
    pub allow_synced_mountpoint: bool,
}
