//! Kept commits: states of the past that stay although their heads may go, as rows of their device's
//! ledger.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use jiff::tz::TimeZone;

use super::retention::{Candidate, staying};
use super::{Tree, Volume};
use crate::format::commit::Commit;
use crate::format::ledger::{Kept, Key as LedgerKey};
use crate::format::setting::Retention;
use crate::format::wire;
use crate::io::Timestamp;
use crate::store::{Result, Store, StoreError};
use crate::tree::{Root, ledger};

/// What the next head changes of the commits that its device keeps, beside what the policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptChange {
    /// What it shows is kept under this name.
    Named(String),
    /// What the head of this generation showed is not kept any longer, with or without a name.
    Removed(u64),
}

/// Kept commits of a device by the generation of their heads.
pub type KeptCommits = BTreeMap<u64, Kept>;

/// The kept commits in the ledger at `root`.
///
/// # Errors
///
/// If a node of the ledger is not here or damaged, or a row is.
pub fn kept_in(store: &Store, root: Root) -> Result<KeptCommits> {
    let mut found = KeptCommits::new();
    rows_in(store, root, &LedgerKey::kept(), |key, bytes| match key {
        LedgerKey::Kept(generation) => {
            found.insert(generation, Kept::decode(bytes)?);
            Ok(ControlFlow::Continue(()))
        }
        _ => Ok(ControlFlow::Break(())),
    })?;
    Ok(found)
}

/// Calls `visit` for the rows of the ledger at `root` from the encoded key `from` on, in order, until it
/// breaks: key, and encoded row.
///
/// # Errors
///
/// If a node of the ledger is not here or damaged, a key is, or `visit` finds a row damaged.
pub(super) fn rows_in(
    store: &Store,
    root: Root,
    from: &[u8],
    mut visit: impl FnMut(LedgerKey, &[u8]) -> wire::Result<ControlFlow<()>>,
) -> Result<()> {
    let mut failed = None;
    ledger::scan(store, root, from, &mut |item| {
        let visited = LedgerKey::decode(&item.key).and_then(|key| visit(key, &item.bytes));
        visited.unwrap_or_else(|error| {
            failed = Some(StoreError::damaged("a row of a ledger", error));
            ControlFlow::Break(())
        })
    })?;
    failed.map_or(Ok(()), Err)
}

/// What a commit shows, as a row.
pub(super) fn row_of(commit: &Commit, label: String) -> Kept {
    let Commit { time, root, inodes, bytes, .. } = *commit;
    Kept { time, root, inodes, bytes, label }
}

/// The rows after a commit was made: the one before it joins them, and those go that are not kept any
/// longer at the time `now`, and one that was removed. The newest commit stays without a row, unless it has a
/// name.
pub(super) fn after(
    mut rows: KeptCommits,
    before: Option<&(u64, Kept)>,
    commit: &Commit,
    change: Option<&KeptChange>,
    (now, retention): (Timestamp, &Retention),
) -> KeptCommits {
    if let Some((generation, before)) = before {
        // A head that shows what the one before it showed is no state of its own.
        let is_same = rows.last_key_value().is_some_and(|(_, last)| last.root == before.root);
        if !is_same {
            rows.entry(*generation).or_insert_with(|| before.clone());
        }
    }
    let candidate = |kept: &Kept| Candidate { time: kept.time, is_named: !kept.label.is_empty() };
    let newest = row_of(commit, String::new());
    let states: Vec<Candidate> = rows.values().chain([&newest]).map(candidate).collect();
    let stays = staying(&states, now, retention, &TimeZone::system());
    let mut stays = stays.into_iter();
    rows.retain(|_, _| stays.next() == Some(true));
    if let Some(KeptChange::Removed(generation)) = change {
        rows.remove(generation);
    }
    if let Some(KeptChange::Named(label)) = change {
        // A head that shows what one before it showed is no state of its own: that one gets the name.
        let is_same = |kept: &Kept| kept.root == commit.root && kept.label.is_empty();
        let last = rows.last_key_value().filter(|(_, kept)| is_same(kept));
        let last = last.map(|(generation, kept)| (*generation, kept.clone()));
        let has_row = |generation: &u64| rows.contains_key(generation);
        let before = before.filter(|(generation, kept)| !has_row(generation) && is_same(kept));
        let same = last.or_else(|| before.cloned());
        let (generation, row) =
            same.unwrap_or_else(|| (commit.generation, row_of(commit, String::new())));
        rows.insert(generation, Kept { label: label.clone(), ..row });
    }
    rows
}

impl Tree<'_> {
    /// For how long this repository keeps states of the past.
    ///
    /// # Errors
    ///
    /// If what was set cannot be read.
    pub fn retention(&self) -> Result<Retention> {
        let found =
            self.get_item(&Retention::key().encode(), |item| Retention::of(&item.values))?;
        found
            .unwrap_or_else(|| Ok(Retention::default()))
            .map_err(|error| StoreError::damaged("the setting of what is kept", error))
    }
}

impl Volume {
    /// Has the next head change what this device keeps; none: only as the policy says.
    pub fn change_kept(&self, change: Option<KeptChange>) {
        *self.keeping() = change;
    }

    /// The newest commit of this device that has a name, as its ledger says: its generation, and what
    /// is kept of it.
    pub fn kept_as(&self, label: &str) -> Result<Option<(u64, Kept)>> {
        let rows = kept_in(&self.store, self.own().ledger)?;
        Ok(rows.into_iter().rfind(|(_, kept)| kept.label == label))
    }

    /// The newest commit of this device that was made at `time` or before and that its ledger keeps: its
    /// generation, and what is kept of it. None if that is what it shows now, or has a name: a time is
    /// not enough then.
    pub fn kept_at(&self, time: Timestamp) -> Result<Option<(u64, Kept)>> {
        let own = self.own();
        let shown = own.shown.map(|(_, kept)| kept);
        if shown.as_ref().is_some_and(|shown| shown.time <= time) {
            return Ok(None);
        }
        let found =
            kept_in(&self.store, own.ledger)?.into_iter().rfind(|(_, kept)| kept.time <= time);
        let is_shown = |kept: &Kept| shown.as_ref().is_some_and(|shown| shown.root == kept.root);
        Ok(found.filter(|(_, kept)| kept.label.is_empty() && !is_shown(kept)))
    }

    /// Whether the ledger of this device keeps what its head of this generation showed.
    pub fn is_kept(&self, generation: u64) -> Result<bool> {
        Ok(kept_in(&self.store, self.own().ledger)?.contains_key(&generation))
    }
}
