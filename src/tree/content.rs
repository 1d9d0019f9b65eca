//! Content trees: the chunks of one file.

use super::build::{Builder, Shape, load_leaf};
use super::{Keys, NewNodes, Root, Source};
use crate::format::node::{ContentChild, Id, NO_ID, Node, Run};

/// One chunk in this many ends a node, once it has the fewest items allowed:
/// leaves average 32 entries.
const ENDS_EVERY: u32 = 24;

struct Content;

fn ends(id: &Id) -> bool {
    u32::from_le_bytes([id[0], id[1], id[2], id[3]]).is_multiple_of(ENDS_EVERY)
}

impl Shape for Content {
    type Leaf = Run;
    type Child = ContentChild;
    const JOINS: bool = true;

    fn leaf(items: Vec<Run>) -> Node {
        Node::ContentLeaf(items)
    }
    fn branch(level: u8, items: Vec<ContentChild>) -> Node {
        Node::ContentBranch(level, items)
    }
    fn leaf_items(node: &Node) -> Option<&[Run]> {
        match node {
            Node::ContentLeaf(items) => Some(items),
            _ => None,
        }
    }
    fn children(node: &Node, level: u8) -> Option<&[ContentChild]> {
        match node {
            Node::ContentBranch(found, items) if *found == level => Some(items),
            _ => None,
        }
    }
    fn id(child: &ContentChild) -> Id {
        child.id
    }
    fn child_of_leaf(id: Id, items: &[Run]) -> ContentChild {
        ContentChild { id, len: items.iter().map(Run::total).sum() }
    }
    fn child_of_branch(id: Id, items: &[ContentChild]) -> ContentChild {
        ContentChild { id, len: items.iter().map(|item| item.len).sum() }
    }
    fn weight(_: &Run) -> usize {
        // 192 runs are far fewer bytes than end a leaf.
        0
    }
    fn leaf_ends(_: Keys<'_>, run: &Run) -> bool {
        !run.is_hole() && ends(&run.id)
    }
    fn child_ends(_: Keys<'_>, _: u8, item: &ContentChild) -> bool {
        ends(&item.id)
    }
    fn join(last: &mut Run, next: &Run) -> bool {
        if last.id != next.id {
            return false;
        }
        if last.is_hole() {
            last.len += next.len;
        } else if last.len == next.len {
            last.count += next.count;
        } else {
            return false;
        }
        true
    }
}

/// A run with where it starts in the file, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Offset of its first byte in the file.
    pub start: u64,
    /// The run that starts at this offset.
    pub run: Run,
}

/// The runs that touch `[from, to)`, in order.
pub fn range<N: Source>(
    source: &N,
    root: Root,
    from: u64,
    to: u64,
) -> Result<Vec<Placed>, N::Error> {
    let mut found = Vec::new();
    if root.0 != NO_ID && from < to {
        range_node(source, root, 0, from, to, &mut found)?;
    }
    Ok(found)
}

fn range_node<N: Source>(
    source: &N,
    (id, level): Root,
    mut start: u64,
    from: u64,
    to: u64,
    found: &mut Vec<Placed>,
) -> Result<(), N::Error> {
    if level == 0 {
        let node = load_leaf::<Content, N>(source, &id)?;
        for run in Content::leaf_items(&node).expect("checked to be a leaf") {
            if start >= to {
                break;
            }
            if start + run.total() > from {
                found.push(Placed { start, run: *run });
            }
            start += run.total();
        }
        return Ok(());
    }
    let node = source.node(&id)?;
    for child in Content::children(&node, level).ok_or_else(|| source.misfit(&id))? {
        if start >= to {
            break;
        }
        if start + child.len > from {
            range_node(source, (child.id, level - 1), start, from, to, found)?;
        }
        start += child.len;
    }
    Ok(())
}

/// Bytes of content in the tree.
pub fn len<N: Source>(source: &N, root: Root) -> Result<u64, N::Error> {
    if root.0 == NO_ID {
        return Ok(0);
    }
    let node = source.node(&root.0)?;
    Ok(match &*node {
        Node::ContentLeaf(items) => items.iter().map(Run::total).sum(),
        Node::ContentBranch(_, items) => items.iter().map(|item| item.len).sum(),
        _ => return Err(source.misfit(&root.0)),
    })
}

/// Replaces the bytes `[start, end)` of the old content by `runs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    /// The offset of the first byte that is replaced.
    pub start: u64,
    /// The offset of the first byte behind those that are replaced.
    pub end: u64,
    /// The runs that take the place of the replaced bytes. Their length may differ.
    pub runs: Vec<Run>,
}

/// Applies splices, ascending and disjoint, whose ends fall on chunk
/// boundaries or into holes of the old content; an end beyond the old content
/// extends it. New nodes go into `new`. Returns the new root.
pub fn splice<N: Source>(
    keys: Keys<'_>,
    source: &N,
    root: Root,
    splices: &[Splice],
    new: &mut NewNodes,
) -> Result<Root, N::Error> {
    let mut builder = Builder::<Content, N>::new(keys, source, new);
    let mut kept = 0;
    for splice in splices {
        assert!(kept <= splice.start && splice.start <= splice.end, "splices ascend");
        copy(&mut builder, source, root, kept, splice.start)?;
        for run in &splice.runs {
            builder.push(*run);
        }
        kept = splice.end;
    }
    copy(&mut builder, source, root, kept, u64::MAX)?;
    Ok(builder.finish())
}

fn copy<N: Source>(
    builder: &mut Builder<'_, Content, N>,
    source: &N,
    root: Root,
    from: u64,
    to: u64,
) -> Result<(), N::Error> {
    if root.0 == NO_ID || from >= to {
        return Ok(());
    }
    let mut follows = false;
    copy_node(builder, source, root, 0, (from, to), true, &mut follows)
}

fn copy_node<N: Source>(
    builder: &mut Builder<'_, Content, N>,
    source: &N,
    (id, level): Root,
    mut start: u64,
    (from, to): (u64, u64),
    last: bool,
    follows: &mut bool,
) -> Result<(), N::Error> {
    let node = source.node(&id)?;
    if level == 0 {
        for run in Content::leaf_items(&node).ok_or_else(|| source.misfit(&id))? {
            let end = start + run.total();
            let (low, high) = (from.max(start), to.min(end));
            if low < high {
                builder.push(
                    part_of_run(run, low - start, high - start)
                        .ok_or_else(|| source.misfit(&id))?,
                );
                *follows = high == end;
            }
            start = end;
        }
        return Ok(());
    }
    let children = Content::children(&node, level).ok_or_else(|| source.misfit(&id))?;
    for (index, child) in children.iter().enumerate() {
        let end = start + child.len;
        if start >= to {
            break;
        }
        if end > from {
            let last = last && index + 1 == children.len();
            // A node that ends where the copied part does is opened: its last
            // run may join with what comes instead of the next one.
            if !last && from <= start && end < to {
                builder.push_subtree(child, level - 1, *follows)?;
                *follows = true;
            } else {
                let below = (child.id, level - 1);
                copy_node(builder, source, below, start, (from, to), last, follows)?;
            }
        }
        start = end;
    }
    Ok(())
}

/// The part `[low, high)` of a run; `None` if that would cut a chunk.
fn part_of_run(run: &Run, low: u64, high: u64) -> Option<Run> {
    if run.is_hole() {
        return Some(Run { len: high - low, ..*run });
    }
    (low.is_multiple_of(run.len) && high.is_multiple_of(run.len))
        .then_some(Run { count: (high - low) / run.len, ..*run })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::testing::{Memory, keys};

    const PAGE: u64 = 4096;

    fn run(number: u16) -> Run {
        if number == 0 {
            return Run { id: NO_ID, len: PAGE, count: 1 };
        }
        let id = blake3::hash(&number.to_le_bytes()).as_bytes()[..16].try_into().unwrap();
        Run { id, len: PAGE, count: 1 }
    }

    fn build(pages: &[u16], memory: &mut Memory) -> Root {
        let runs = pages.iter().map(|page| run(*page)).collect();
        let splice_all = Splice { start: 0, end: 0, runs };
        let mut new = NewNodes::new();
        let root = splice(Keys(&keys()), memory, (NO_ID, 0), &[splice_all], &mut new).unwrap();
        memory.0.extend(new);
        root
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Few page numbers, so that equal runs, holes and runs that join
        /// across edits happen often.
        #[test]
        fn splices_give_the_same_root_as_building_anew(
            many in any::<bool>(),
            mut pages in prop::collection::vec(0u16..3000, 0..3000),
            edits in prop::collection::vec((0usize..3100, 1usize..40, 0u16..3000), 1..20),
        ) {
            let shrink = |page: u16| if many { page } else { page % 3 };
            for page in &mut pages {
                *page = shrink(*page);
            }
            let mut memory = Memory::default();
            let mut root = build(&pages, &mut memory);
            for (at, count, page) in edits {
                let at = at.min(pages.len());
                let page = shrink(page);
                let end = (at + count).min(pages.len());
                pages.splice(at..end, std::iter::repeat_n(page, count));
                let change = Splice {
                    start: at as u64 * PAGE,
                    end: end as u64 * PAGE,
                    runs: vec![run(page); count],
                };
                let mut new = NewNodes::new();
                root = splice(Keys(&keys()), &memory, root, &[change], &mut new).unwrap();
                memory.0.extend(new);
                prop_assert_eq!(root, build(&pages, &mut memory));
                prop_assert_eq!(len(&memory, root).unwrap(), pages.len() as u64 * PAGE);
            }
            let read: Vec<Run> = range(&memory, root, 0, u64::MAX).unwrap().iter()
                .flat_map(|placed| {
                    let run = placed.run;
                    if run.is_hole() {
                        vec![Run { len: PAGE, ..run }; (run.len / PAGE) as usize]
                    } else {
                        vec![Run { count: 1, ..run }; run.count as usize]
                    }
                })
                .collect();
            prop_assert_eq!(read, pages.iter().map(|page| run(*page)).collect::<Vec<_>>());
        }
    }

    /// A node's last run was followed by an equal run that a splice put there.
    /// The node was taken over whole, so the two were not joined, and the root
    /// differed from that of the same content written at once.
    #[test]
    fn a_run_put_behind_the_end_of_a_node_joins_with_the_node_s_last() {
        let pages: Vec<u16> = (1..2000).collect();
        let ends = |page: &u16| ends(&run(*page).id);
        for at in (20..1500).filter(|at| ends(&pages[*at])).collect::<Vec<_>>() {
            let mut memory = Memory::default();
            let root = build(&pages, &mut memory);
            let start = (at as u64 + 1) * PAGE;
            let same = run(pages[at]);
            for end in [start, start + PAGE] {
                let change = Splice { start, end, runs: vec![same] };
                let mut new = NewNodes::new();
                let found = splice(Keys(&keys()), &memory, root, &[change], &mut new).unwrap();
                let replaced = usize::from(end > start);
                let mut expected = pages.clone();
                expected.splice(at + 1..at + 1 + replaced, [pages[at]]);
                assert_eq!(found, build(&expected, &mut memory), "behind run {at}");
            }
        }
    }

    #[test]
    fn truncation_and_extension_are_canonical() {
        let mut memory = Memory::default();
        let pages: Vec<u16> = (1..2000).collect();
        let root = build(&pages, &mut memory);
        let cut = Splice { start: 700 * PAGE, end: 1999 * PAGE, runs: vec![] };
        let mut new = NewNodes::new();
        let short = splice(Keys(&keys()), &memory, root, &[cut], &mut new).unwrap();
        memory.0.extend(new);
        assert_eq!(short, build(&pages[..700], &mut memory));
        let longer = Splice {
            start: 700 * PAGE,
            end: 700 * PAGE,
            runs: pages[700..].iter().map(|page| run(*page)).collect(),
        };
        let mut new = NewNodes::new();
        assert_eq!(splice(Keys(&keys()), &memory, short, &[longer], &mut new).unwrap(), root);
    }

    #[test]
    fn a_huge_run_is_one_item() {
        let mut memory = Memory::default();
        let huge =
            Splice { start: 0, end: 0, runs: vec![Run { id: [7; 16], len: PAGE, count: 1 << 30 }] };
        let mut new = NewNodes::new();
        let root = splice(Keys(&keys()), &memory, (NO_ID, 0), &[huge], &mut new).unwrap();
        memory.0.extend(new);
        assert_eq!(memory.0.len(), 1);
        let found = range(&memory, root, 5 * PAGE, 6 * PAGE).unwrap();
        assert_eq!(found[0].start, 0);
    }
}
