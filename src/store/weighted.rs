//! A least-recently-used cache that is bounded by what its values weigh.

use std::hash::Hash;

use lru::LruCache;

/// Values up to a weight in all.
pub(super) struct Weighted<K: Hash + Eq, V> {
    cache: LruCache<K, (V, usize)>,
    weight: usize,
    most: usize,
    count: usize,
}

impl<K: Hash + Eq, V: Clone> Weighted<K, V> {
    /// Keeps values that weigh `most` in all, and `count` of them.
    pub(super) fn new(most: usize, count: usize) -> Self {
        Self { cache: LruCache::unbounded(), weight: 0, most, count }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        self.cache.get(key).map(|(value, _)| value.clone())
    }

    pub(super) fn put(&mut self, key: K, value: V, weight: usize) {
        self.weight += weight;
        if let Some((_, old)) = self.cache.put(key, (value, weight)) {
            self.weight -= old;
        }
        while self.weight > self.most || self.cache.len() > self.count {
            let Some((_, (_, old))) = self.cache.pop_lru() else { break };
            self.weight -= old;
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.cache.iter().map(|(_, (value, _))| value)
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some((_, old)) = self.cache.pop(key) {
            self.weight -= old;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_stays() {
        let mut cache = Weighted::new(10, 3);
        cache.put("a", 1, 4);
        cache.put("b", 2, 4);
        assert_eq!(cache.get(&"a"), Some(1));
        cache.put("c", 3, 4);
        assert_eq!([cache.get(&"a"), cache.get(&"b"), cache.get(&"c")], [Some(1), None, Some(3)]);
        // A new value of a key counts once.
        cache.put("a", 4, 1);
        cache.put("d", 5, 5);
        assert_eq!(
            [cache.get(&"c"), cache.get(&"a"), cache.get(&"d")],
            [Some(3), Some(4), Some(5)]
        );
        cache.put("e", 6, 0);
        assert_eq!(cache.get(&"c"), None, "three at most");
        cache.remove(&"d");
        cache.put("f", 7, 9);
        assert_eq!([cache.get(&"a"), cache.get(&"f")], [Some(4), Some(7)]);
        cache.put("g", 8, 11);
        assert_eq!(cache.get(&"g"), None, "too heavy alone");
    }
}
