//! `vault remove`.

use super::super::args::{Global, RemoveArgs};
use super::super::{Exit, Failure, Result};
use super::opened::open;
use crate::crypto::{RepoId, hex};
use crate::io::output;
use crate::vault::protocol::Retirement;

/// Runs `amberfs vault remove`: ends the records of the repository's vault entries.
pub fn remove(global: &Global, args: &RemoveArgs) -> Result<Exit> {
    if args.replaced {
        return remove_replaced(global, args);
    }
    if global.key_file.is_none() && global.key_command.is_none() {
        return Err(Failure::new(Exit::Usage, "vault remove takes the 64-digit key")
            .hint("it will be the only way in: show that you have it with --key-file F")
            .hint("amberfs key show REPO prints it"));
    }
    let opened = open(global, &args.repo)?;
    if opened.slots.is_empty() && opened.replaced.is_empty() {
        return Err(Failure::new(Exit::Other, "this repository has no vault"));
    }
    let failed = opened.retire(global, &opened.slots, Retirement::Deleted)?;
    if !failed.is_empty() && !args.give_up {
        let mut failure = Failure::new(
            Exit::VaultUnreachable,
            format!("the record could not be deleted: {}", failed[0].1),
        );
        if failed.len() < opened.slots.len() {
            // The folder does not name what is gone.
            opened.publish(failed.iter().map(|(slot, _)| (*slot).clone()).collect())?;
            let done = opened.slots.len() - failed.len();
            failure = failure.hint(format!(
                "{done} of {} records were deleted, and the folder names the others only",
                opened.slots.len()
            ));
        } else {
            failure = failure.hint("nothing was changed");
        }
        return Err(failure.hint("try again when the vault can be reached").hint(
            "or give it up with --give-up: if it still exists, its password still works there",
        ));
    }
    if !opened.slots.is_empty() {
        opened.publish(Vec::new())?;
    }
    for (_, why) in &failed {
        note!("amberfs: given up; if the record exists, its password still works: {why}");
    }
    let left = opened.retire_replaced(global, &opened.replaced)?;
    if global.json {
        let ended = opened.slots.len() + opened.replaced.len() - failed.len() - left;
        print_removed(&opened.repo, (ended, failed.len(), left))?;
    } else if !global.quiet {
        let done = if failed.is_empty() { "The vault's record is deleted. " } else { "" };
        note!("{done}Only the 64-digit key opens this repository now.");
    }
    Ok(Exit::Done)
}

/// `vault remove --replaced`: finishes what an earlier change of the password
/// could not.
fn remove_replaced(global: &Global, args: &RemoveArgs) -> Result<Exit> {
    let opened = open(global, &args.repo)?;
    let left = opened.retire_replaced(global, &opened.replaced)?;
    if left > 0 {
        return Err(Failure::new(
            Exit::VaultUnreachable,
            format!("{left} of {} older records are left", opened.replaced.len()),
        ));
    }
    if global.json {
        print_removed(&opened.repo, (opened.replaced.len(), 0, 0))?;
    } else if !global.quiet {
        note!("{} older records are over.", opened.replaced.len());
    }
    Ok(Exit::Done)
}

/// Prints one object of JSON with how many records were ended, and how many were not.
fn print_removed(repo: &RepoId, (ended, given_up, left): (usize, usize, usize)) -> Result<()> {
    output::object(&serde_json::json!({
        "message_type": "removed",
        "repository": hex(repo),
        "ended": ended,
        "given_up": given_up,
        "older_records_left": left,
    }))?;
    Ok(())
}
