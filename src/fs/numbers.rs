//! Inode numbers.
//!
//! Invariant: no number is given twice. A writer's numbers begin with its own prefix, and so do
//! those of no other writer.

use crate::format::clock::Writer;
use crate::format::namespace::Ino;
use crate::io::Random;

/// Numbers that no inode had yet.
#[derive(Debug)]
pub(super) struct Numbers {
    next: Ino,
}

impl Numbers {
    /// The numbers of a writer that has made no inode yet.
    pub(super) fn of(writer: Writer) -> Self {
        Self { next: writer.first_ino() }
    }

    /// A number for a new inode. Once the prefix is used up, another is drawn: the chance that
    /// a random one is taken is below 2^-19 even with a million prefixes in the tree.
    pub(super) fn allot(&mut self, random: &dyn Random) -> Ino {
        let ino = self.next;
        let is_last = Writer::of(ino).is_none_or(|writer| writer.last_ino() == ino);
        self.next = if is_last { draw(random).first_ino() } else { ino + 1 };
        ino
    }
}

/// A prefix for numbers.
pub(super) fn draw(random: &dyn Random) -> Writer {
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    bytes[0] |= 1;
    Writer::draw(bytes).expect("an odd number is not 0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::SystemRandom;

    #[test]
    fn numbers_ascend_within_a_prefix_and_go_on_with_another() {
        let writer = Writer::new(7).unwrap();
        let mut numbers = Numbers::of(writer);
        let first = numbers.allot(&SystemRandom);
        assert_eq!([first, numbers.allot(&SystemRandom)], [writer.first_ino(), first + 1]);
        numbers.next = writer.last_ino() - 1;
        assert_eq!(numbers.allot(&SystemRandom), writer.last_ino() - 1);
        assert_eq!(numbers.allot(&SystemRandom), writer.last_ino());
        let after = numbers.allot(&SystemRandom);
        let other = Writer::of(after).unwrap();
        assert!(other != writer && after == other.first_ino());
    }
}
