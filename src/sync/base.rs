//! What a volume is based on: one head, or the join of several.

use super::read::LeftOut;
use super::tell;
use crate::crypto::DeviceId;
use crate::format::namespace::{Inode, Key, Value};
use crate::format::node::MapItem;
use crate::merge;
use crate::store::{Result, Store};
use crate::tree::Root;
use crate::tree::diff;
use crate::volume::repository::HeadFile;
use crate::volume::{Base, DeviceHead, Inherited, Tree};

/// With how many heads it is tried to begin a join that fails.
const FIRSTS_MAX: usize = 8;

/// The base that these heads make; it is the same for every order of them.
///
/// # Panics
///
/// If there is no head.
pub(super) fn based_on(store: &Store, heads: &[&(DeviceHead, HeadFile)]) -> Result<Base> {
    let mut heads: Vec<&DeviceHead> = heads.iter().map(|(head, _)| head).collect();
    heads.sort_unstable_by_key(|head| head.hash);
    let of = |head: &DeviceHead| Inherited::of(&head.commit, head.hash);
    let newest = |head: &&&DeviceHead| (head.commit.time, head.generation, head.device);
    let commit = heads.iter().max_by_key(newest).expect("a base has a head").commit.clone();
    let mut inherited = of(heads[0]);
    if heads.len() == 1 {
        let namespace = merge::join(store, &[inherited.root])?;
        return Ok(Base { inherited, namespace, commit });
    }
    for head in &heads[1..] {
        inherited.join(&of(head));
    }
    let roots: Vec<Root> = heads.iter().map(|head| head.commit.root).collect();
    let namespace = merge::join(store, &roots)?;
    let first = merge::join(store, &roots[..1])?.shown;
    let (inodes, bytes) = (inherited.inodes, inherited.bytes);
    (inherited.inodes, inherited.bytes) = counts(store, (first, inodes, bytes), namespace.shown)?;
    inherited.root = namespace.stored;
    Ok(Base { inherited, namespace, commit })
}

/// Of heads that cannot be joined, because something is not here or they are too many, those
/// without which the others can: as many others as possible, the own one among them.
pub(super) fn not_joinable(
    store: &Store,
    heads: &[&(DeviceHead, HeadFile)],
    own: &DeviceId,
) -> LeftOut {
    let mut most: Option<(usize, LeftOut)> = None;
    let firsts = heads.iter().filter(|(head, _)| head.device == *own);
    let firsts: Vec<_> = firsts.chain(heads.iter().take(FIRSTS_MAX)).collect();
    for first in firsts {
        let (mut joined, mut left_out) = (vec![*first], LeftOut::new());
        for head in heads.iter().filter(|head| head.0.hash != first.0.hash) {
            joined.push(*head);
            if let Err(error) = based_on(store, &joined) {
                joined.pop();
                left_out.insert(head.0.hash, tell::left_out(&head.0, &error));
            }
        }
        let is_own = first.0.device == *own;
        if most.as_ref().is_none_or(|(count, _)| joined.len() > *count) {
            most = Some((joined.len(), left_out));
        }
        if is_own {
            break;
        }
    }
    most.map_or_else(LeftOut::new, |(_, left_out)| left_out)
}

/// Inodes, and the sum of the sizes of all files, of the namespace at `root`; those of
/// another one, that has much in common with it, are known.
fn counts(store: &Store, known: (Root, u64, u64), root: Root) -> Result<(u64, u64)> {
    let (before, mut inodes, mut bytes) = known;
    for difference in diff::maps(store, before, root) {
        let difference = difference?;
        let (old, new) = difference.sides();
        if let Some(inode) = inode(old)? {
            inodes = inodes.wrapping_sub(1);
            bytes = bytes.wrapping_sub(size(&inode));
        }
        if let Some(inode) = inode(new)? {
            inodes = inodes.wrapping_add(1);
            bytes = bytes.wrapping_add(size(&inode));
        }
    }
    Ok((inodes, bytes))
}

fn size(inode: &Inode) -> u64 {
    if inode.is_file() { inode.size } else { 0 }
}

fn inode(item: Option<&MapItem>) -> Result<Option<Box<Inode>>> {
    let Some(item) = item else { return Ok(None) };
    Ok(match Tree::decode(item)? {
        (Key::Inode(_), Value::Inode(inode)) => Some(inode),
        _ => None,
    })
}
