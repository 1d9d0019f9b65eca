//! Prints what `amberfs check` found, one line a file, and picks the exit code.

use std::path::Path;

use super::args::Global;
use super::files::shown;
use super::opening::refuse_behind;
use super::{Exit, Failure, Result};
use crate::io::output;
use crate::volume::{Behind, Findings, Shortfall, Worst};

/// Most lines of a kind that a terminal is shown without `-v`.
const LINES_MAX: usize = 40;

/// Prints all findings. Returns the exit code of the worst of them.
pub(super) fn conclude(
    found: Findings,
    global: &Global,
    repo: &Path,
    behind: &[Behind],
) -> Result<Exit> {
    let found = found.without_repeats();
    if global.json {
        print_json(&found)?;
    } else {
        print(&found, global)?;
    }
    verdict(&found, global, repo, behind)
}

/// The exit code or failure for the worst of the findings.
fn verdict(found: &Findings, global: &Global, repo: &Path, behind: &[Behind]) -> Result<Exit> {
    let repo = shown(repo.as_os_str().as_encoded_bytes());
    let failed = |exit, what: &str| Failure::new(exit, format!("{repo}: {what}"));
    let worst = found.worst();
    // What is known of newer heads goes before what could not be read, or is not here.
    if !matches!(worst, Worst::Damaged | Worst::Misplaced) && !global.accept_older {
        refuse_behind(behind)?;
    }
    match worst {
        Worst::Damaged => Err(failed(Exit::Damage, "something in it is damaged").hint(
            "put files that are damaged or not here back from the cloud's older versions and \
             check again; what cannot be had, check --repair mends or lists",
        )),
        Worst::Misplaced => Err(failed(Exit::Damage, "something in it is not in its place")
            .hint("check --repair writes it there")),
        Worst::Unread => {
            Err(failed(Exit::Partial, "not everything in it could be read, and so checked"))
        }
        Worst::Missing => Err(failed(Exit::NotAllHere, "not everything is here (yet)")
            .hint("let the sync client finish, then check again")),
        Worst::Nothing => Ok(Exit::Done),
    }
}

fn print(found: &Findings, global: &Global) -> Result<()> {
    let most = if global.verbose == 0 && output::is_terminal() { LINES_MAX } else { usize::MAX };
    let notes: &[String] = if global.quiet { &[] } else { &found.notes };
    let lists = [("note", notes), ("cannot be read", &found.unread), ("not here", &found.missing)];
    let damage = [("not in its place", &found.misplaced[..]), ("damage", &found.damage)];
    for (what, list) in lists.into_iter().chain(damage) {
        print_some(list.iter().map(|text| format!("{what}: {text}")), most)?;
    }
    print_some(found.files.iter().map(line), most)?;
    if !global.quiet {
        say!("{}", summary(found))?;
    }
    Ok(())
}

/// One sentence with how many files and things of each kind were found.
fn summary(found: &Findings) -> String {
    let mut parts = Vec::new();
    let sum = |part: fn(&Shortfall) -> u64| -> (usize, u64) {
        let some = found.files.iter().map(part).filter(|bytes| *bytes > 0);
        some.fold((0, 0), |(files, sum): (usize, u64), bytes| {
            (files + 1, sum.saturating_add(bytes))
        })
    };
    let kinds = [
        (sum(|file| file.gap.missing), "are not here"),
        (sum(|file| file.gap.damaged), "are damaged"),
        (sum(|file| file.gap.unread), "could not be read"),
    ];
    for ((files, bytes), what) in kinds {
        if files > 0 {
            parts.push(format!("{bytes} bytes of {files} files {what}"));
        }
    }
    if found.objects_missing > 0 {
        parts.push(format!("{} objects are not here", found.objects_missing));
    }
    let kinds = [
        (found.missing.len(), "other things are not here"),
        (found.misplaced.len(), "things are not in their place"),
        (found.damage.len(), "places are damaged"),
        (found.unread.len(), "places could not be read"),
    ];
    for (count, what) in kinds {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    if parts.is_empty() {
        parts.push("no damage found".into());
    }
    format!("{}; {} things checked", parts.join("; "), found.checked)
}

fn print_json(found: &Findings) -> Result<()> {
    for file in &found.files {
        output::object(&serde_json::json!({
            "message_type": "file",
            "path": String::from_utf8_lossy(&file.path),
            "names": file.names,
            "size": file.size,
            "missing_bytes": file.gap.missing,
            "damaged_bytes": file.gap.damaged,
            "unread_bytes": file.gap.unread,
        }))?;
    }
    output::object(&serde_json::json!({
        "message_type": "summary",
        "checked": found.checked,
        "files": found.files.len(),
        "objects_missing": found.objects_missing,
        "damage": found.damage,
        "misplaced": found.misplaced,
        "missing": found.missing,
        "unread": found.unread,
        "notes": found.notes,
    }))?;
    Ok(())
}
/// Prints at most `most` lines, and then how many more there are.
fn print_some(lines: impl ExactSizeIterator<Item = String>, most: usize) -> Result<()> {
    let more = lines.len().saturating_sub(most);
    for line in lines.take(most) {
        say!("{line}")?;
    }
    if more > 0 {
        say!("and {more} more; -v shows all")?;
    }
    Ok(())
}

/// The line of a file that is damaged, or not all here.
fn line(file: &Shortfall) -> String {
    let gap = file.gap;
    let what = if gap.damaged > 0 {
        "damage"
    } else if gap.unread > 0 {
        "cannot be read"
    } else {
        "not here"
    };
    let mut parts = Vec::new();
    for (bytes, what) in [
        (gap.missing, "are not here"),
        (gap.damaged, "are damaged"),
        (gap.unread, "cannot be read"),
    ] {
        if bytes > 0 {
            parts.push(format!("{bytes} of {} bytes {what}", file.size));
        }
    }
    let names = match file.names {
        0 | 1 => String::new(),
        2 => " (and 1 more name)".into(),
        names => format!(" (and {} more names)", names - 1),
    };
    format!("{what}: {}{names}: {}", shown(&file.path), parts.join(", "))
}

/// The notice of a mount about files that are not here yet; none if all are here.
pub(super) fn not_here(volume: &crate::volume::Volume) -> Option<String> {
    let objects = volume.missing_objects().len();
    if objects == 0 {
        return None;
    }
    // The mount begins also if the files cannot be counted.
    let (files, all) = volume.not_here(LOOKED_AT_MAX).unwrap_or_default();
    let bytes = files.iter().fold(0u64, |sum, file| sum.saturating_add(file.gap.missing));
    match (files.len(), all) {
        (0, true) => None,
        (0, false) => {
            Some(format!("{objects} objects are not here yet: what is in them cannot be read"))
        }
        (count, all) => Some(format!(
            "{}{count} files are not here yet, or not whole ({bytes} bytes in {objects} objects): \
             reading what is not here fails until the sync client has brought it",
            if all { "" } else { "at least " }
        )),
    }
}

/// How many inodes, nodes and chunks a mount reads to count the files that are not here. It
/// takes less than a second.
const LOOKED_AT_MAX: usize = 100_000;
