//! What `amberfs check` found, and telling it: one line a file.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use super::args::Global;
use super::files::shown;
use super::opening::refuse_behind;
use super::{Exit, Failure, Result};
use crate::crypto::Hash;
use crate::io::output;
use crate::store::StoreError;
use crate::volume::{Behind, Notice, Shortfall};

/// Most lines of a kind that a terminal is shown without `-v`.
const LINES_MAX: usize = 40;

/// What was found.
#[derive(Default)]
pub(super) struct Report {
    /// Things looked at.
    pub checked: u64,
    pub damage: Vec<String>,
    /// Heads and objects that are whole elsewhere than in their place.
    pub misplaced: Vec<String>,
    pub missing: Vec<String>,
    pub notes: Vec<String>,
    /// What the system did not let be looked at.
    pub unread: Vec<String>,
    /// Files that are not whole.
    pub files: Vec<Shortfall>,
    /// Objects that heads name and that are not here.
    pub objects_missing: u64,
    /// Heads and objects that are here with other bytes than they should have.
    pub bad: HashSet<Hash>,
    /// Files that changed so lately that they may not be whole yet.
    pub arriving: Vec<String>,
    /// What a repair found bad before: known, and no news.
    pub known: HashSet<Hash>,
}

impl Report {
    /// Adds an error, by what it says of REPO.
    pub fn add(&mut self, error: &StoreError) {
        self.add_with(error, "");
    }

    /// Adds a finding, with more to say of it.
    pub fn add_with(&mut self, error: &StoreError, more: &str) {
        let list = match error {
            StoreError::Missing { .. } => &mut self.missing,
            StoreError::Io { .. } => &mut self.unread,
            _ => &mut self.damage,
        };
        list.push(format!("{error}{more}"));
    }

    /// Adds what an opening told.
    pub fn add_notice(&mut self, notice: &Notice) {
        let (list, text) = match notice {
            Notice::Note(text) => (&mut self.notes, text),
            Notice::Missing(text) => (&mut self.missing, text),
            Notice::Damage(text) => (&mut self.damage, text),
            Notice::Misplaced(text) => (&mut self.misplaced, text),
            Notice::Unread(text) => (&mut self.unread, text),
        };
        list.push(text.clone());
    }

    /// Tells everything; the exit code says the worst of it.
    pub fn conclude(mut self, global: &Global, repo: &Path, behind: &[Behind]) -> Result<Exit> {
        let lists = [
            &mut self.damage,
            &mut self.misplaced,
            &mut self.missing,
            &mut self.notes,
            &mut self.unread,
        ];
        for list in lists {
            let mut seen = BTreeSet::new();
            list.retain(|text| seen.insert(text.clone()));
        }
        if global.json {
            self.tell_json()?;
        } else {
            self.tell(global)?;
        }
        self.verdict(global, repo, behind)
    }

    fn verdict(&self, global: &Global, repo: &Path, behind: &[Behind]) -> Result<Exit> {
        let repo = shown(repo.as_os_str().as_encoded_bytes());
        let failed = |code, what: &str| Failure::new(code, format!("{repo}: {what}"));
        let files = |test: fn(&Shortfall) -> bool| self.files.iter().any(test);
        if !self.damage.is_empty() || files(|file| file.gap.damaged > 0) {
            return Err(failed(Exit::Damage, "something in it is damaged").hint(
                "put files that are damaged or not here back from the cloud's older versions and \
                 check again; what cannot be had, check --repair mends or lists",
            ));
        }
        if !self.misplaced.is_empty() {
            return Err(failed(Exit::Damage, "something in it is not in its place")
                .hint("check --repair writes it there"));
        }
        if !global.accept_older {
            refuse_behind(behind)?;
        }
        if !self.unread.is_empty() || files(|file| file.gap.unread > 0) {
            return Err(failed(
                Exit::Partial,
                "not everything in it could be read, and so checked",
            ));
        }
        if !self.missing.is_empty() || !self.files.is_empty() {
            return Err(failed(Exit::NotAllHere, "not everything is here (yet)")
                .hint("let the sync client finish, then check again"));
        }
        Ok(Exit::Done)
    }

    fn tell(&self, global: &Global) -> Result<()> {
        let most =
            if global.verbose == 0 && output::is_terminal() { LINES_MAX } else { usize::MAX };
        let notes: &[String] = if global.quiet { &[] } else { &self.notes };
        let lists =
            [("note", notes), ("cannot be read", &self.unread), ("not here", &self.missing)];
        let damage = [("not in its place", &self.misplaced[..]), ("damage", &self.damage)];
        for (what, list) in lists.into_iter().chain(damage) {
            tell_some(list.iter().map(|text| format!("{what}: {text}")), most)?;
        }
        tell_some(self.files.iter().map(line), most)?;
        if !global.quiet {
            say!("{}", self.summary())?;
        }
        Ok(())
    }

    /// Counts, in a sentence.
    fn summary(&self) -> String {
        let mut parts = Vec::new();
        let sum = |part: fn(&Shortfall) -> u64| -> (usize, u64) {
            let some = self.files.iter().map(part).filter(|bytes| *bytes > 0);
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
        if self.objects_missing > 0 {
            parts.push(format!("{} objects are not here", self.objects_missing));
        }
        let kinds = [
            (self.missing.len(), "other things are not here"),
            (self.misplaced.len(), "things are not in their place"),
            (self.damage.len(), "places are damaged"),
            (self.unread.len(), "places could not be read"),
        ];
        for (count, what) in kinds {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        if parts.is_empty() {
            parts.push("no damage found".into());
        }
        format!("{}; {} things checked", parts.join("; "), self.checked)
    }

    fn tell_json(&self) -> Result<()> {
        for file in &self.files {
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
            "checked": self.checked,
            "files": self.files.len(),
            "objects_missing": self.objects_missing,
            "damage": self.damage,
            "misplaced": self.misplaced,
            "missing": self.missing,
            "unread": self.unread,
            "notes": self.notes,
        }))?;
        Ok(())
    }
}

/// Prints lines, at most so many; then how many more there are.
fn tell_some(lines: impl ExactSizeIterator<Item = String>, most: usize) -> Result<()> {
    let more = lines.len().saturating_sub(most);
    for line in lines.take(most) {
        say!("{line}")?;
    }
    if more > 0 {
        say!("and {more} more; -v shows all")?;
    }
    Ok(())
}

/// The line of a file.
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

/// Says on one line how many files are not here, where a mount begins.
pub(super) fn not_here(volume: &crate::volume::Volume) -> Option<String> {
    let objects = volume.store.missing().len();
    if objects == 0 {
        return None;
    }
    // Nobody is kept from their files by a count.
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

/// Inodes, nodes and chunks that a count at a mount looks at: below a second.
const LOOKED_AT_MAX: usize = 100_000;
