//! What stands in a head: what it takes over from the heads that it is based on, and what
//! its device says of itself alone.

use std::collections::BTreeSet;

use super::kept::row_of;
use crate::crypto::{DeviceId, Hash};
use crate::format::clock::{Processed, Tag};
use crate::format::commit::{Commit, Retired};
use crate::format::ledger::Kept;
use crate::format::node::{Id, NO_ID};
use crate::merge::Namespace;
use crate::tree::Root;

/// What a head takes over from those that it is based on, whichever device wrote them. The
/// trees of several heads, joined, hand on the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The root of the namespace; the dots in it say which changes it contains.
    pub root: Root,
    /// How many inodes the namespace has.
    pub inodes: u64,
    /// The sum of the sizes of all files, bytes, modulo 2^64.
    pub bytes: u64,
    /// Hashes of the heads that it is based on; none in a fresh repository.
    pub parents: Vec<Hash>,
    /// The newest head of each device whose changes are in it, those of the parents'
    /// devices among them. No head has a tag: who publishes the next head may not have
    /// seen it.
    pub merged: Processed,
    /// Devices that write no more.
    pub retired: Vec<Retired>,
    /// Heads and objects that a repair found damaged, ascending.
    pub bad: Vec<Hash>,
    /// Chunks that nobody can bring any more, ascending.
    pub lost: Vec<Id>,
    /// Fields of later versions with even tags.
    pub unknown: Vec<(u64, Vec<u8>)>,
}

impl Inherited {
    /// What a head hands on.
    pub fn of(commit: &Commit, hash: Hash) -> Self {
        let mut merged = commit.processed.by_hearsay();
        let is_head = commit.generation > 0;
        if is_head {
            merged.add(commit.device, commit.generation, Tag::default());
        }
        Self {
            root: commit.root,
            inodes: commit.inodes,
            bytes: commit.bytes,
            parents: is_head.then_some(hash).into_iter().collect(),
            merged,
            retired: commit.retired.clone(),
            bad: commit.bad.clone(),
            lost: commit.lost.clone(),
            unknown: even_tags(&commit.unknown),
        }
    }
}

impl Inherited {
    /// Whether a device writes no more.
    pub fn is_retired(&self, device: &DeviceId) -> bool {
        self.retired.iter().any(|entry| entry.device == *device)
    }

    /// Takes over what another head hands on too; the namespace, and what is in it, is as
    /// before.
    pub fn join(&mut self, other: &Self) {
        let Self { parents, merged, retired, bad, lost, unknown, .. } = other;
        self.parents.extend(
            parents.iter().filter(|hash| !self.parents.contains(hash)).copied().collect::<Vec<_>>(),
        );
        self.merged.join(merged);
        let new = |entry: &&Retired| !self.retired.contains(entry);
        let retired: Vec<Retired> = retired.iter().filter(new).cloned().collect();
        self.retired.extend(retired);
        self.bad = union(&self.bad, bad);
        self.lost = union(&self.lost, lost);
        for (tag, bytes) in unknown {
            match self.unknown.iter_mut().find(|(own, _)| own == tag) {
                // Which of them a later version would make of the two nobody knows here.
                Some((_, own)) => *own = own.clone().min(bytes.clone()),
                None => self.unknown.push((*tag, bytes.clone())),
            }
        }
        self.unknown.sort_unstable();
    }
}

/// All of two lists, ascending.
fn union<T: Ord + Clone>(one: &[T], other: &[T]) -> Vec<T> {
    let all: BTreeSet<T> = one.iter().chain(other).cloned().collect();
    all.into_iter().collect()
}

/// The fields of later versions that a head takes over: those with even tags.
fn even_tags(fields: &[(u64, Vec<u8>)]) -> Vec<(u64, Vec<u8>)> {
    fields.iter().filter(|(tag, _)| tag % 2 == 0).cloned().collect()
}

/// What a head says of its device, and no head of another device takes over.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    /// The newest heads of others that it has processed.
    pub processed: Processed,
    /// Devices of which the head says that they write no more.
    pub retired: Vec<Retired>,
    /// The root of the ledger that the head names; the empty tree before the first head.
    pub ledger: Root,
    /// Bytes of the head.
    pub bytes: u64,
    /// Its generation, and what it shows; none before the first head.
    pub shown: Option<(u64, Kept)>,
}

impl Own {
    /// Before the device's first head.
    pub fn none() -> Self {
        let (processed, retired) = (Processed::default(), Vec::new());
        Self { processed, retired, ledger: (NO_ID, 0), bytes: 0, shown: None }
    }

    /// What a head of `bytes` bytes says.
    pub fn of(commit: &Commit, bytes: u64) -> Self {
        let (processed, retired) = (commit.processed.clone(), commit.retired.clone());
        let shown = Some((commit.generation, row_of(commit, String::new())));
        Self { processed, retired, ledger: commit.ledger, bytes, shown }
    }
}

/// What everything is based on.
#[derive(Clone, Debug)]
pub struct Base {
    /// What the next head takes over.
    pub inherited: Inherited,
    /// The namespace whose stored root that is.
    pub namespace: Namespace,
    /// The newest commit in it; a fresh repository has an empty one of generation 0.
    pub commit: Commit,
}

impl Base {
    /// What a head says whose namespace needs no repair, or the empty commit of a fresh
    /// repository.
    pub fn plain(commit: Commit, hash: Hash) -> Self {
        let inherited = Inherited::of(&commit, hash);
        let namespace = Namespace::plain(inherited.root);
        Self { inherited, namespace, commit }
    }

    /// Hashes of the heads, ascending; none in a fresh repository.
    pub fn heads(&self) -> Vec<Hash> {
        let heads: BTreeSet<Hash> = self.inherited.parents.iter().copied().collect();
        heads.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::clock::Writer;

    /// A ledger, or a claim to hold what another device's head names, would be wrong in
    /// the head of a device that took it over.
    #[test]
    fn nothing_of_the_device_that_wrote_a_head_is_inherited() {
        let writer = Writer::new(1).unwrap();
        let (device, third) = ([1; 16], [3; 16]);
        let mut commit = Commit::empty(device, writer);
        let fresh = Inherited::of(&commit, [0; 32]);
        assert_eq!((fresh.parents, fresh.merged), (Vec::new(), Processed::default()));
        commit.generation = 4;
        commit.ledger = ([5; 16], 1);
        commit.processed.add(third, 7, Tag([7; 8]));
        commit.unknown = vec![(101, vec![1]), (102, vec![2])];
        let inherited = Inherited::of(&commit, [6; 32]);
        assert_eq!(inherited.parents, [[6; 32]]);
        let of = |device| inherited.merged.get(device);
        assert_eq!(of(&device), Some((4, Tag::default())));
        assert_eq!(of(&third), Some((7, Tag::default())), "contained, and not held");
        assert_eq!(inherited.unknown, [(102, vec![2])], "odd tags belong to one head");
        let own = Own::of(&commit, 9);
        assert_eq!(own.processed.held(&third), Some(7));
        assert_eq!((own.ledger, own.bytes), (([5; 16], 1), 9));
    }

    /// Of two heads the next one takes over everything, in whatever order they are joined.
    #[test]
    fn two_heads_hand_on_what_both_have() {
        let head = |device: u8, bad: u8, unknown: &[u8]| {
            let mut commit = Commit::empty([device; 16], Writer::new(9).unwrap());
            commit.generation = 3;
            commit.processed.add([7; 16], u64::from(device), Tag::default());
            commit.bad = vec![[5; 32], [bad; 32]];
            commit.lost = vec![[device; 16]];
            commit.retired =
                vec![Retired { device: [6; 16], last: 1, tag: Tag::default(), heir: [device; 16] }];
            commit.unknown = vec![(6, unknown.to_vec()), (7, vec![device])];
            Inherited::of(&commit, [device; 32])
        };
        let (one, other) = (head(1, 8, b"more"), head(2, 9, b"less"));
        let joined = |one: &Inherited, other: &Inherited| {
            let mut joined = one.clone();
            joined.join(other);
            joined
        };
        let (both, backwards) = (joined(&one, &other), joined(&other, &one));
        assert_eq!(both.bad, [[5; 32], [8; 32], [9; 32]]);
        assert_eq!(both.lost, [[1; 16], [2; 16]]);
        assert_eq!((both.parents.len(), both.retired.len()), (2, 2));
        assert_eq!(both.unknown, [(6, b"less".to_vec())], "of two the lesser, and no odd one");
        assert_eq!(both.merged.generation(&[7; 16]), 2);
        assert_eq!((both.merged.generation(&[1; 16]), both.merged.generation(&[2; 16])), (3, 3));
        assert_eq!((&both.bad, &both.lost), (&backwards.bad, &backwards.lost));
        assert_eq!((&both.merged, &both.unknown), (&backwards.merged, &backwards.unknown));
        assert_eq!(joined(&both, &other), both, "nothing is taken over twice");
    }
}
