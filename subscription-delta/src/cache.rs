//! What was read of data files, kept for the next read. Files never change, so nothing here is ever wrong.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// Keeps the values that were used last, up to a number of bytes.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    limit: usize,
    inner: Mutex<Inner<K, V>>,
}

#[derive(Debug)]
struct Inner<K, V> {
    entries: HashMap<K, Entry<V>>,
    bytes: usize,
    tick: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: usize,
    used: u64,
}

impl<K: Eq + Hash + Clone, V: Clone> Cache<K, V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, inner: Mutex::new(Inner { entries: HashMap::new(), bytes: 0, tick: 0 }) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tick += 1;
        let tick = inner.tick;
        let entry = inner.entries.get_mut(key)?;
        entry.used = tick;
        Some(entry.value.clone())
    }

    /// Keeps a value that takes about `bytes`; one above half the limit is not kept.
    pub(crate) fn put(&self, key: K, value: V, bytes: usize) {
        if bytes > self.limit / 2 {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tick += 1;
        let entry = Entry { value, bytes, used: inner.tick };
        inner.bytes += bytes;
        if let Some(old) = inner.entries.insert(key, entry) {
            inner.bytes -= old.bytes;
        }
        if inner.bytes > self.limit {
            // A quarter at once, so that the search for the oldest is paid for by many.
            let mut by_use: Vec<(u64, K)> = inner.entries.iter().map(|(key, e)| (e.used, key.clone())).collect();
            by_use.sort_unstable_by_key(|(used, _)| *used);
            for (_, key) in by_use {
                if inner.bytes <= self.limit / 4 * 3 {
                    break;
                }
                if let Some(old) = inner.entries.remove(&key) {
                    inner.bytes -= old.bytes;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_the_limit_holds() {
        let cache = Cache::new(100);
        for key in 0..10 {
            cache.put(key, key, 10);
        }
        assert_eq!(cache.get(&0), Some(0));
        cache.put(10, 10, 10);
        assert_eq!(cache.get(&0), Some(0), "used a moment ago");
        assert_eq!(cache.get(&1), None);
        assert!(cache.inner.lock().unwrap().bytes <= 100);
        cache.put(11, 11, 60);
        assert_eq!(cache.get(&11), None, "too large to keep");
    }
}
