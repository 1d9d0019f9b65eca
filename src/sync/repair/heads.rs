//! One plain tree of the trees of several heads.

use std::ops::ControlFlow;

use super::{Conflict, Joined, Suspects, Values, repair};
use crate::format::namespace::{Key, Value};
use crate::format::node::{Dotted, MapItem};
use crate::format::wire::DecodeError;
use crate::store::{Result, Store, StoreError};
use crate::tree::{Keys, NewNodes, Root, diff, join, map};
use crate::volume::Tree;

/// The root of a plain tree that shows what these trees join to, and what in it people should
/// look at. New nodes are staged in memory; nothing is stored. Each of the trees must be a
/// plain one.
///
/// # Panics
///
/// If there is no tree.
pub fn join_heads(store: &Store, roots: &[Root]) -> Result<(Root, Vec<Conflict>)> {
    let ids = &store.context().ids;
    let mut root = roots[0];
    for other in &roots[1..] {
        let mut new = NewNodes::new();
        root = join::join(Keys(ids), store, (root, *other), &mut new)?;
        store.stage_nodes(new);
    }
    let mut suspects = Suspects::default();
    for one in roots {
        for difference in diff::maps(store, root, *one) {
            suspects.add_difference(&difference?).map_err(damaged)?;
        }
    }
    let repairs = repair(&Tree { store, root }, ids, &suspects)?;
    let mut edits: Vec<map::Edit> = Vec::new();
    for repair in repairs.groups.into_iter().flatten() {
        let key = repair.key.encode();
        let item = repair.value.map(|(dot, value)| {
            let values = vec![Dotted { dot, bytes: value.encode() }];
            MapItem { key: key.clone().into(), values }
        });
        edits.push((key, item));
    }
    edits.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut new = NewNodes::new();
    let root = map::edit(Keys(ids), store, root, &edits, &mut new)?;
    store.stage_nodes(new);
    Ok((root, repairs.conflicts))
}

fn damaged(error: DecodeError) -> StoreError {
    StoreError::damaged("a value of the namespace", error)
}

fn decoded(key: &Key, item: &MapItem) -> Result<Values> {
    let value =
        |value: &Dotted| Ok((value.dot, Value::decode(key, &value.bytes).map_err(damaged)?));
    item.values.iter().map(value).collect()
}

impl Joined for Tree<'_> {
    type Error = StoreError;

    fn values(&self, key: &Key) -> Result<Values> {
        let found = self.get_item(&key.encode(), |item| decoded(key, item))?;
        found.unwrap_or_else(|| Ok(Vec::new()))
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Result<Vec<(Key, Values)>> {
        let (mut found, mut failed) = (Vec::new(), Ok(()));
        self.scan_items(from, &mut |item| {
            if &*item.key >= to {
                return ControlFlow::Break(());
            }
            let pair = Self::decode_key(&item.key).and_then(|key| {
                let values = decoded(&key, item)?;
                Ok((key, values))
            });
            match pair {
                Ok(pair) => found.push(pair),
                Err(error) => {
                    failed = Err(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        failed.map(|()| found)
    }
}
