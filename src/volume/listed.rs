//! The ledger of the device: what a head adds to it, and takes out of it.
//!
//! Invariant: a row that cannot be added now is added by the next head that can, or is in no ledger. A
//! file in no ledger is never removed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::giving::Giving;
use super::inherited::Own;
use super::kept::{self, KeptChange, KeptCommits, kept_in, rows_in};
use super::state::State;
use super::{Volume, locked};
use crate::crypto::{DeviceId, Hash};
use crate::format::commit::Commit;
use crate::format::container::Kind;
use crate::format::ledger::{Container, Kept, Key as LedgerKey};
use crate::format::node::LedgerItem;
use crate::format::setting::Retention;
use crate::io::Timestamp;
use crate::store::{Result, Rows, Store};
use crate::tree::{Keys, NewNodes, Root, ledger};

/// Rows that the ledger of the newest head lacks, because it could not be read when that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WaitingRows {
    /// Heads and objects, by their encoded keys.
    containers: BTreeMap<Vec<u8>, Container>,
    kept: KeptCommits,
}

/// Rows of a ledger for heads and objects in the folder of a device.
///
/// # Errors
///
/// If a node of the ledger is not here or damaged, or a row is.
pub fn containers_in(store: &Store, root: Root, of: &DeviceId) -> Result<Rows> {
    let mut found = Rows::new();
    rows_in(store, root, &[], |key, bytes| match key {
        LedgerKey::Container(device, hash) => {
            if device == *of {
                found.insert(hash, Container::decode(bytes)?);
            }
            Ok(ControlFlow::Continue(()))
        }
        _ => Ok(ControlFlow::Break(())),
    })?;
    Ok(found)
}

impl Volume {
    pub(super) fn set_waiting_rows(&self, rows: WaitingRows) {
        *locked(&self.waiting_rows) = rows;
    }

    /// The device's ledger with what this commit brings: its objects, the head before, and the kept
    /// commits at the time `now`; it is one itself if it is given a name. If the ledger cannot be read, it
    /// stays as it is, and the rows wait: what it keeps is not lost for that.
    pub(super) fn ledger(
        &self,
        commit: &Commit,
        (change, giving): (Option<&KeptChange>, &Giving),
        state: &State,
        now: Timestamp,
    ) -> (Root, NewNodes, WaitingRows) {
        let own = self.own();
        let mut rows = locked(&self.waiting_rows).clone();
        rows.containers.extend(self.new_containers(commit, state, &own));
        let mut new = NewNodes::new();
        let also = (change, giving);
        match self.edited(own.ledger, &rows, &own, (commit, also, now), &mut new) {
            Ok(root) => return (root, new, WaitingRows::default()),
            Err(error) => log::error!(
                "the ledger of this device cannot be read: it stays as it is, and what this head would \
                 add to it waits for the next one ({error})"
            ),
        }
        let last = rows.kept.last_key_value().map(|(_, last)| last.root);
        rows.kept.extend(own.shown.filter(|(_, kept)| Some(kept.root) != last));
        if let Some(KeptChange::Named(label)) = change {
            rows.kept.insert(commit.generation, kept::row_of(commit, label.clone()));
        }
        (own.ledger, NewNodes::new(), rows)
    }

    /// Rows of what this commit names first, and of the head before it.
    fn new_containers(
        &self,
        commit: &Commit,
        state: &State,
        own: &Own,
    ) -> BTreeMap<Vec<u8>, Container> {
        let mut rows = BTreeMap::new();
        let mut keep = |hash: &Hash, kind, generation, size| {
            let key = LedgerKey::Container(state.device, *hash).encode();
            rows.insert(key, Container { kind, generation, size, condemned: 0 });
        };
        // A repair may name objects in folders of others.
        let is_own = |hash: &Hash| self.store.owner(hash).is_none_or(|owner| owner == state.device);
        for object in commit.objects.iter().filter(|object| is_own(&object.hash)) {
            keep(&object.hash, object.kind, commit.generation, object.size);
        }
        if state.generation > 0 {
            keep(&state.head, Kind::Head, state.generation, own.bytes);
        }
        rows
    }

    /// The ledger at `root` with these rows more, and with the commits that are kept then.
    fn edited(
        &self,
        root: Root,
        rows: &WaitingRows,
        own: &Own,
        (commit, (change, giving), now): (&Commit, (Option<&KeptChange>, &Giving), Timestamp),
        new: &mut NewNodes,
    ) -> Result<Root> {
        let before = kept_in(&self.store, root)?;
        let mut all = before.clone();
        all.extend(rows.kept.clone());
        let retention = self.tree_at(commit.root).retention().unwrap_or_else(|error| {
            log::warn!("all states of the past are kept: {error}");
            Retention::new(u64::MAX, u64::MAX, u64::MAX)
        });
        let after = kept::after(all, own.shown.as_ref(), commit, change, (now, &retention));
        let generations: BTreeSet<u64> = before.keys().chain(after.keys()).copied().collect();
        let changed = generations.into_iter().filter(|at| before.get(at) != after.get(at));
        let kept =
            changed.map(|at| (LedgerKey::Kept(at).encode(), after.get(&at).map(Kept::encode)));
        let mut containers: BTreeMap<Vec<u8>, Option<Container>> =
            rows.containers.iter().map(|(key, row)| (key.clone(), Some(*row))).collect();
        if giving.changes_rows() {
            let listed = containers_in(&self.store, root, &commit.device)?;
            containers.extend(giving.rows(commit, &listed));
        }
        let containers = containers.into_iter();
        let containers = containers.map(|(key, row)| (key, row.as_ref().map(Container::encode)));
        // Keys of containers come before those of kept commits.
        let edits = containers.chain(kept).map(|(key, bytes)| {
            let item = bytes.map(|bytes| LedgerItem { key: key.clone().into(), bytes });
            (key, item)
        });
        let edits: Vec<ledger::Edit> = edits.collect();
        ledger::edit(Keys(&self.store.context().ids), &*self.store, root, &edits, new)
    }
}
