//! Nodes of the namespace tree, of content trees and of ledgers (`docs/format.md`, "Trees").

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::clock::{Dot, Writer};
use super::namespace::{KEY_MAX, VALUE_MAX};
use super::wire::{DecodeError, Decoder, Encoder, Result};

/// Id of a node or chunk: 16 bytes of keyed BLAKE3.
pub type Id = [u8; 16];
/// The id of nothing: an empty tree, or a hole.
pub const NO_ID: Id = [0; 16];
/// Highest level of a node; a leaf has level 0.
pub const LEVEL_MAX: u8 = 15;
/// A node has at least this many items, unless it is the last of its level.
pub const ITEMS_MIN: usize = 8;
/// A node has at most this many items.
pub const ITEMS_MAX: usize = 192;
/// A leaf ends once its items have this many bytes, by [`MapItem::weight`] and
/// [`LedgerItem::weight`].
pub const LEAF_BYTES: usize = 256 << 10;
/// Most bytes of an item, by [`MapItem::weight`].
pub const ITEM_BYTES_MAX: usize = 512 << 10;
/// Longest encoded node: a leaf that was almost full, and the longest item.
pub const NODE_MAX: usize = LEAF_BYTES + ITEM_BYTES_MAX + 4096;
const _: () = assert!(NODE_MAX as u64 <= super::container::FRAME_MAX, "a node fits into a frame");
/// Bytes that an item takes at most beside its key and its values.
const ITEM_OVERHEAD: usize = 8;
/// Bytes that a value takes at most beside its own: its dot, its length, and its writer.
const VALUE_OVERHEAD: usize = 24;
/// Most values a key may hold at once (siblings of concurrent changes).
pub const SIBLINGS_MAX: u64 = 256;
/// Most writers that the values of a leaf may have.
const WRITERS_MAX: u64 = ITEMS_MAX as u64 * SIBLINGS_MAX;
/// The longest chunk, in bytes.
pub const CHUNK_MAX: u64 = super::container::FRAME_MAX;

/// One value with the change that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dotted {
    /// The change that made the value.
    pub dot: Dot,
    /// The encoded value of the namespace.
    pub bytes: Vec<u8>,
}

/// An encoded key in a node. Its first bytes lie beside it, so that most comparisons
/// in a search through the items of a node read nothing else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ItemKey {
    /// The first 16 bytes of the key, as the function [`head`] returns them.
    head: [u64; 2],
    bytes: Box<[u8]>,
}

/// The first 16 bytes as numbers, zeros after the end: in the order of the keys, as
/// far as they differ.
fn head(bytes: &[u8]) -> [u64; 2] {
    let mut first = [0; 16];
    let len = bytes.len().min(16);
    first[..len].copy_from_slice(&bytes[..len]);
    let (high, low) = first.split_at(8);
    [high, low].map(|half| u64::from_be_bytes(half.try_into().expect("eight bytes")))
}

impl From<Vec<u8>> for ItemKey {
    fn from(bytes: Vec<u8>) -> Self {
        Self { head: head(&bytes), bytes: bytes.into() }
    }
}

impl std::ops::Deref for ItemKey {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A key that is searched for.
#[derive(Clone, Copy)]
pub struct Sought<'a> {
    head: [u64; 2],
    bytes: &'a [u8],
}

impl<'a> Sought<'a> {
    /// A key to search for, by its encoding or by the start of one.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { head: head(bytes), bytes }
    }

    /// How an item's key lies to it.
    pub fn order(&self, key: &ItemKey) -> Ordering {
        key.head.cmp(&self.head).then_with(|| (*key.bytes).cmp(self.bytes))
    }
}

/// An item of a namespace leaf: an encoded key and its values, ascending by
/// dot; more than one only after concurrent changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapItem {
    /// The encoded key of the namespace.
    pub key: ItemKey,
    /// The values of the key, ascending by dot; at least one.
    pub values: Vec<Dotted>,
}

impl MapItem {
    /// Bytes that it counts for where a leaf ends; not less than it takes there.
    pub fn weight(&self) -> usize {
        let values = self.values.iter().map(|value| value.bytes.len() + VALUE_OVERHEAD);
        ITEM_OVERHEAD + self.key.len() + values.sum::<usize>()
    }
}

/// An item of a ledger's leaf: an encoded key and its encoded value
/// ([`super::ledger`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerItem {
    /// The encoded key of the ledger.
    pub key: ItemKey,
    /// The encoded value of the ledger.
    pub bytes: Vec<u8>,
}

impl LedgerItem {
    /// Bytes that it counts for where a leaf ends; not less than it takes there.
    pub fn weight(&self) -> usize {
        ITEM_OVERHEAD + self.key.len() + self.bytes.len()
    }
}

/// An item of a branch of the namespace, or of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapChild {
    /// The lowest key in the leaves below the child.
    pub first: ItemKey,
    /// The id of the child node.
    pub id: Id,
}

/// An item of a content leaf: `count` times the same chunk, or a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The chunk, or `NO_ID` for a hole.
    pub id: Id,
    /// Bytes of one chunk, or of the hole.
    pub len: u64,
    /// How often; 1 for a hole.
    pub count: u64,
}

impl Run {
    /// The length of the run in bytes: all its chunks, or the hole.
    pub fn total(&self) -> u64 {
        self.len * self.count
    }

    /// Whether the two could be one.
    fn joins(&self, next: &Self) -> bool {
        self.id == next.id && (self.is_hole() || self.len == next.len)
    }

    /// Whether it is a hole.
    pub fn is_hole(&self) -> bool {
        self.id == NO_ID
    }
}

/// An item of a content branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentChild {
    /// The id of the child node.
    pub id: Id,
    /// Bytes of content below it.
    pub len: u64,
}

/// A node of any tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A leaf of the namespace tree, level 0.
    MapLeaf(Vec<MapItem>),
    /// A branch of the namespace tree: its level, from 1, and its children.
    MapBranch(u8, Vec<MapChild>),
    /// A leaf of a content tree, level 0.
    ContentLeaf(Vec<Run>),
    /// A branch of a content tree: its level, from 1, and its children.
    ContentBranch(u8, Vec<ContentChild>),
    /// A leaf of a ledger, level 0.
    LedgerLeaf(Vec<LedgerItem>),
    /// A branch of a ledger: its level, from 1, and its children.
    LedgerBranch(u8, Vec<MapChild>),
}

impl Node {
    /// Bytes that it takes in memory, more or less.
    pub fn memory(&self) -> usize {
        /// A vector with its place and what the allocator adds.
        fn held(len: usize) -> usize {
            size_of::<Vec<u8>>() + (len + 8).next_multiple_of(16)
        }
        let key = |key: &ItemKey| 8 + held(key.len());
        let values = |item: &MapItem| {
            item.values.iter().map(|v| size_of::<Dot>() + held(v.bytes.len())).sum::<usize>()
        };
        match self {
            Self::MapLeaf(items) => {
                items.iter().map(|item| key(&item.key) + held(values(item))).sum()
            }
            Self::MapBranch(_, items) | Self::LedgerBranch(_, items) => {
                items.iter().map(|item| key(&item.first) + size_of::<Id>()).sum()
            }
            Self::LedgerLeaf(items) => {
                items.iter().map(|item| key(&item.key) + held(item.bytes.len())).sum()
            }
            Self::ContentLeaf(items) => size_of_val(items.as_slice()),
            Self::ContentBranch(_, items) => size_of_val(items.as_slice()),
        }
    }
}

const MAP_LEAF: u8 = 1;
const MAP_BRANCH: u8 = 2;
const CONTENT_LEAF: u8 = 3;
const CONTENT_BRANCH: u8 = 4;
const LEDGER_LEAF: u8 = 5;
const LEDGER_BRANCH: u8 = 6;

fn shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn put_key(out: &mut Encoder, last: &mut Vec<u8>, key: &[u8]) {
    let common = shared(last, key);
    out.var(common as u64).bytes(&key[common..]);
    last.clear();
    last.extend_from_slice(key);
}

fn get_key(input: &mut Decoder<'_>, last: &mut Vec<u8>) -> Result<Vec<u8>> {
    let common = input.var_max(last.len() as u64, "shared prefix")? as usize;
    let rest = input.bytes(KEY_MAX, "key")?;
    let mut key = last[..common].to_vec();
    key.extend_from_slice(rest);
    if key.len() > KEY_MAX || key <= *last || shared(last, &key) != common {
        return Err(DecodeError::Invalid("key order"));
    }
    last.clone_from(&key);
    Ok(key)
}

fn put_children(out: &mut Encoder, kind: u8, level: u8, items: &[MapChild]) {
    out.u8(kind).u8(level).var(items.len() as u64);
    let mut last = Vec::new();
    for item in items {
        put_key(out, &mut last, &item.first);
        out.raw(&item.id);
    }
}

fn get_children(input: &mut Decoder<'_>) -> Result<Vec<MapChild>> {
    let mut items = Vec::new();
    let mut last = Vec::new();
    for _ in 0..input.var_max(ITEMS_MAX as u64, "item count")? {
        let first = get_key(input, &mut last)?.into();
        items.push(MapChild { first, id: input.array()? });
    }
    Ok(items)
}

/// Bytes of content below a node so far: never more than a file may have, so
/// that offsets can be added up without a thought.
fn add_bytes(total: u64, more: u64) -> Result<u64> {
    let total = total.checked_add(more).filter(|total| i64::try_from(*total).is_ok());
    total.ok_or(DecodeError::Limit("length"))
}

impl Node {
    /// Encodes the node in its canonical form: equal nodes give equal bytes and so an equal id.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        match self {
            Self::MapLeaf(items) => {
                out.u8(MAP_LEAF);
                let writers: BTreeSet<Writer> = items
                    .iter()
                    .flat_map(|item| item.values.iter().map(|value| value.dot.writer))
                    .collect();
                out.var(writers.len() as u64);
                for writer in &writers {
                    out.raw(&writer.to_bytes());
                }
                out.var(items.len() as u64);
                let mut last = Vec::new();
                for item in items {
                    put_key(&mut out, &mut last, &item.key);
                    out.var(item.values.len() as u64);
                    for value in &item.values {
                        let index = writers.range(..value.dot.writer).count();
                        out.var(index as u64).var(value.dot.record).bytes(&value.bytes);
                    }
                }
            }
            Self::MapBranch(level, items) => put_children(&mut out, MAP_BRANCH, *level, items),
            Self::LedgerBranch(level, items) => {
                put_children(&mut out, LEDGER_BRANCH, *level, items);
            }
            Self::LedgerLeaf(items) => {
                out.u8(LEDGER_LEAF).var(items.len() as u64);
                let mut last = Vec::new();
                for item in items {
                    put_key(&mut out, &mut last, &item.key);
                    out.bytes(&item.bytes);
                }
            }
            Self::ContentLeaf(items) => {
                out.u8(CONTENT_LEAF).var(items.len() as u64);
                for run in items {
                    out.raw(&run.id).var(run.len).var(run.count);
                }
            }
            Self::ContentBranch(level, items) => {
                out.u8(CONTENT_BRANCH).u8(*level).var(items.len() as u64);
                for item in items {
                    out.raw(&item.id).var(item.len);
                }
            }
        }
        out.finish()
    }

    /// Reads and checks a node: order, counts, lengths.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > NODE_MAX {
            return Err(DecodeError::Limit("node"));
        }
        let mut input = Decoder::new(bytes);
        let kind = input.u8()?;
        let level = |input: &mut Decoder<'_>| match input.u8()? {
            level @ 1..=LEVEL_MAX => Ok(level),
            _ => Err(DecodeError::Invalid("level")),
        };
        let items_max = ITEMS_MAX as u64;
        let node = match kind {
            MAP_LEAF => {
                let mut writers: Vec<Writer> = Vec::new();
                for _ in 0..input.var_max(WRITERS_MAX, "writer count")? {
                    let writer = Writer::from_bytes(input.array()?)?;
                    if writers.last().is_some_and(|last| *last >= writer) {
                        return Err(DecodeError::Invalid("writer order"));
                    }
                    writers.push(writer);
                }
                let count = input.var_max(items_max, "item count")?;
                let mut items = Vec::with_capacity(count as usize);
                let mut last = Vec::new();
                let mut named = vec![false; writers.len()];
                for _ in 0..count {
                    let key = get_key(&mut input, &mut last)?;
                    let siblings = input.var_max(SIBLINGS_MAX, "sibling count")?;
                    // Not a place more: most of the memory of nodes is here.
                    let mut values: Vec<Dotted> = Vec::with_capacity(siblings as usize);
                    for _ in 0..siblings {
                        let index = input.var()? as usize;
                        let writer =
                            *writers.get(index).ok_or(DecodeError::Invalid("writer index"))?;
                        named[index] = true;
                        let dot = Dot::new(writer, input.var()?);
                        let dot = dot.ok_or(DecodeError::Invalid("dot"))?;
                        if values.last().is_some_and(|last| last.dot >= dot) {
                            return Err(DecodeError::Invalid("dot order"));
                        }
                        values
                            .push(Dotted { dot, bytes: input.bytes(VALUE_MAX, "value")?.to_vec() });
                    }
                    if values.is_empty() {
                        return Err(DecodeError::Invalid("sibling count"));
                    }
                    let item = MapItem { key: key.into(), values };
                    if item.weight() > ITEM_BYTES_MAX {
                        return Err(DecodeError::Limit("values of a key"));
                    }
                    items.push(item);
                }
                if named.contains(&false) {
                    return Err(DecodeError::Invalid("writer that no value names"));
                }
                Self::MapLeaf(items)
            }
            MAP_BRANCH => Self::MapBranch(level(&mut input)?, get_children(&mut input)?),
            LEDGER_BRANCH => Self::LedgerBranch(level(&mut input)?, get_children(&mut input)?),
            LEDGER_LEAF => {
                let mut items = Vec::new();
                let mut last = Vec::new();
                for _ in 0..input.var_max(items_max, "item count")? {
                    let key = get_key(&mut input, &mut last)?.into();
                    let bytes = input.bytes(VALUE_MAX, "row")?.to_vec();
                    items.push(LedgerItem { key, bytes });
                }
                Self::LedgerLeaf(items)
            }
            CONTENT_LEAF => {
                let mut items: Vec<Run> = Vec::new();
                let mut total = 0;
                for _ in 0..input.var_max(items_max, "item count")? {
                    let run = Run {
                        id: input.array()?,
                        len: input.var_max(i64::MAX as u64, "length")?,
                        count: input.var()?,
                    };
                    let valid = if run.is_hole() {
                        run.len > 0 && run.count == 1
                    } else {
                        (1..=CHUNK_MAX).contains(&run.len) && run.count > 0
                    };
                    if !valid || items.last().is_some_and(|last| last.joins(&run)) {
                        return Err(DecodeError::Invalid("run"));
                    }
                    let bytes = run.len.checked_mul(run.count);
                    total = add_bytes(total, bytes.ok_or(DecodeError::Limit("length"))?)?;
                    items.push(run);
                }
                Self::ContentLeaf(items)
            }
            CONTENT_BRANCH => {
                let level = level(&mut input)?;
                let mut items = Vec::new();
                let mut total = 0;
                for _ in 0..input.var_max(items_max, "item count")? {
                    let child = ContentChild { id: input.array()?, len: input.var()? };
                    total = add_bytes(total, child.len)?;
                    items.push(child);
                }
                Self::ContentBranch(level, items)
            }
            _ => return Err(DecodeError::Invalid("node kind")),
        };
        input.end()?;
        Ok(node)
    }
}

/// One or more of each kind.
#[cfg(test)]
pub(crate) fn samples() -> Vec<Node> {
    let value = |writer: u8, record| Dotted {
        dot: Dot { writer: Writer::new(writer.into()).expect("above 0"), record },
        bytes: vec![writer; 3],
    };
    vec![
        Node::MapLeaf(vec![
            MapItem { key: b"aab".to_vec().into(), values: vec![value(9, 1)] },
            MapItem { key: b"aac".to_vec().into(), values: vec![value(1, 7), value(9, 2)] },
        ]),
        Node::MapBranch(3, vec![MapChild { first: b"k".to_vec().into(), id: [4; 16] }]),
        Node::ContentLeaf(vec![
            Run { id: [1; 16], len: 4096, count: 9 },
            Run { id: NO_ID, len: 1 << 40, count: 1 },
        ]),
        Node::ContentBranch(1, vec![ContentChild { id: [1; 16], len: 77 }]),
        Node::LedgerLeaf(vec![
            LedgerItem { key: b"aab".to_vec().into(), bytes: vec![7; 3] },
            LedgerItem { key: b"aac".to_vec().into(), bytes: Vec::new() },
        ]),
        Node::LedgerBranch(1, vec![MapChild { first: b"k".to_vec().into(), id: [4; 16] }]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_survive() {
        for node in samples().into_iter().chain([Node::MapLeaf(Vec::new())]) {
            let bytes = node.encode();
            assert_eq!(Node::decode(&bytes).as_ref(), Ok(&node));
            for cut in 0..bytes.len() {
                assert!(Node::decode(&bytes[..cut]).is_err());
            }
        }
    }

    proptest::proptest! {
        /// Few bytes, so that one key is often the start of another, or goes on with zeros.
        #[test]
        fn keys_are_in_the_order_of_their_bytes(
            a in proptest::collection::vec(0u8..3, 0..20),
            b in proptest::collection::vec(0u8..3, 0..20),
            common in proptest::collection::vec(0u8..2, 0..18),
        ) {
            let [a, b] = [a, b].map(|end| [common.clone(), end].concat());
            let (key, other) = (ItemKey::from(a.clone()), ItemKey::from(b.clone()));
            proptest::prop_assert_eq!(key.cmp(&other), a.cmp(&b));
            proptest::prop_assert_eq!(Sought::new(&b).order(&key), a.cmp(&b));
            proptest::prop_assert_eq!(&*key, &a[..]);
        }
    }

    /// Writers that no value names, and neighbours that should be one run, were
    /// taken: the same content had many roots.
    #[test]
    fn a_node_has_one_encoding() {
        let dot = Dot { writer: Writer::new(5).unwrap(), record: 1 };
        let values = vec![Dotted { dot, bytes: vec![7] }];
        let good = Node::MapLeaf(vec![MapItem { key: b"k".to_vec().into(), values }]).encode();
        let mut bad = vec![MAP_LEAF, 2];
        bad.extend_from_slice(&[0, 0, 0, 0, 5]);
        bad.extend_from_slice(&[0, 0, 0, 0, 6]);
        bad.extend_from_slice(&good[7..]);
        let refused = DecodeError::Invalid("writer that no value names");
        assert_eq!(Node::decode(&bad), Err(refused));
        let run = |id, len, count| Run { id: [id; 16], len, count };
        for (first, second, joined) in [
            (run(1, 4096, 1), run(1, 4096, 2), true),
            (run(0, 5, 1), run(0, 6, 1), true),
            (run(1, 4096, 1), run(1, 4095, 1), false),
            (run(1, 4096, 1), run(2, 4096, 1), false),
        ] {
            let found = Node::decode(&Node::ContentLeaf(vec![first, second]).encode());
            assert_eq!(found.is_err(), joined, "{first:?} {second:?}");
        }
    }

    /// Lengths that add up to more than a number holds stopped whoever added
    /// them.
    #[test]
    fn a_node_is_no_longer_than_a_file() {
        let half = 1 << 62;
        let hole = |len| Run { id: NO_ID, len, count: 1 };
        let chunk = Run { id: [1; 16], len: 1, count: 1 };
        let child = |len| ContentChild { id: [1; 16], len };
        for node in [
            Node::ContentLeaf(vec![hole(half), chunk, hole(half - 1)]),
            Node::ContentLeaf(vec![Run { id: [1; 16], len: 1 << 20, count: u64::MAX }]),
            Node::ContentBranch(1, vec![child(half), child(half)]),
            Node::ContentBranch(1, vec![child(u64::MAX)]),
        ] {
            assert_eq!(Node::decode(&node.encode()), Err(DecodeError::Limit("length")));
        }
        let most = Node::ContentBranch(1, vec![child(half), child(half - 1)]);
        assert_eq!(Node::decode(&most.encode()), Ok(most));
    }

    #[test]
    fn unsorted_keys_and_empty_runs_are_refused() {
        let item = |key: &[u8]| MapChild { first: key.to_vec().into(), id: [4; 16] };
        let unsorted = Node::MapBranch(1, vec![item(b"b"), item(b"a")]);
        assert!(Node::decode(&unsorted.encode()).is_err());
        let empty = Node::ContentLeaf(vec![Run { id: [1; 16], len: 5, count: 0 }]);
        assert!(Node::decode(&empty.encode()).is_err());
    }
}
