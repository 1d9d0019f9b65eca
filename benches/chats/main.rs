//! Makes chat backups: `chats generate DEST`, then `chats advance DEST --day 1`, 2, 3.

#[path = "lib.rs"]
mod chats;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use chats::Profile;
use clap::{Args, Parser};

/// Makes folders of chat backups as a phone leaves them, the same ones for the same seed.
#[derive(Parser)]
enum Command {
    /// Write the folder as it is on day 0
    Generate(Folder),
    /// Add one more day to a folder
    Advance {
        #[command(flatten)]
        folder: Folder,
        /// The day to add, the first one being 1
        #[arg(long)]
        day: u32,
    },
}

#[derive(Args)]
struct Folder {
    /// The folder
    dest: PathBuf,
    /// How much of everything: tiny (2 MB), demo (300 MB), week (343 MB) or large (7.6 GB)
    #[arg(long, default_value = "demo", value_parser = profile)]
    profile: &'static Profile,
    /// Everything follows from this number
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn profile(name: &str) -> Result<&'static Profile, String> {
    Profile::named(name).ok_or_else(|| {
        let names: Vec<_> = Profile::ALL.iter().map(|profile| profile.name).collect();
        format!("one of {}", names.join(", "))
    })
}

fn run() -> io::Result<()> {
    let summary = match Command::parse() {
        Command::Generate(Folder { dest, profile, seed }) => chats::generate(&dest, profile, seed)?,
        Command::Advance { folder: Folder { dest, profile, seed }, day } => {
            chats::advance(&dest, profile, seed, day)?
        }
    };
    let chats::Summary { files, bytes, new_bytes } = summary;
    println!("{files} files, {bytes} bytes, {new_bytes} of them new");
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chats: {error}");
            ExitCode::FAILURE
        }
    }
}
