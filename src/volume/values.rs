//! The values of one key. Concurrent changes leave several, each under its own dot;
//! here alone is what they mean together.

use crate::format::clock::Dot;
use crate::format::node::{Dotted, MapItem};

/// An item with one value, beside its key.
pub(super) fn single(key: Vec<u8>, dot: Dot, bytes: Vec<u8>) -> (Vec<u8>, MapItem) {
    let values = vec![Dotted { dot, bytes }];
    (key.clone(), MapItem { key: key.into(), values })
}

/// The value that counts: the one with the highest dot, until joining settles siblings.
pub(super) fn counting(item: &MapItem) -> &Dotted {
    item.values.last().expect("decoded items have a value")
}

/// Whether one of the values has this dot and these bytes.
pub(super) fn holds(item: &MapItem, dot: Dot, bytes: &[u8]) -> bool {
    item.values.iter().any(|held| held.dot == dot && held.bytes == bytes)
}

/// The highest record of all values.
pub(super) fn last_record(item: &MapItem) -> u64 {
    item.values.iter().map(|value| value.dot.record).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::clock::Writer;

    #[test]
    fn several_values_of_a_key() {
        let dot = |writer, record| Dot { writer: Writer::new(writer).unwrap(), record };
        let (key, mut item) = single(b"k".to_vec(), dot(1, 9), b"one".to_vec());
        item.values.push(Dotted { dot: dot(2, 3), bytes: b"two".to_vec() });
        assert_eq!(*item.key, *key);
        assert_eq!(counting(&item).bytes, b"two");
        assert_eq!(last_record(&item), 9);
        assert!(holds(&item, dot(1, 9), b"one"));
        assert!(!holds(&item, dot(1, 9), b"two"), "the bytes of another dot");
        assert!(!holds(&item, dot(2, 9), b"two"), "a dot that is not there");
    }
}
