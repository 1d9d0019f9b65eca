//! `amberfs check`. `volume` looks and decides, `findings.rs` tells, `repair.rs` mends.

use super::args::{CheckArgs, Global};
use super::findings::conclude;
use super::opening::{Access, FoundRepository, find, open};
use super::{Exit, Result, repair};
use crate::io::{DirSynced, SystemClock};
use crate::volume::check;

/// Runs the check; damage is exit code 26, missing files 20.
pub fn run(global: &Global, args: &CheckArgs) -> Result<Exit> {
    if args.repair {
        return repair::run(global, &args.repo);
    }
    let FoundRepository { path, early: repository } = find(&args.repo)?;
    let folder = DirSynced::new(&path, None);
    let opened = if args.no_key { None } else { Some(open(global, &args.repo, Access::Check)?) };
    let volume = opened.as_ref().map(|opened| opened.fs.volume());
    let found = check(&folder, &SystemClock, &repository, volume, args.read_data)?;
    let heads = volume.map(crate::volume::Volume::heads).unwrap_or_default();
    conclude(found, global, &args.repo, &heads.behind)
}
