//! A cache with a budget in bytes: what was used least recently goes first.
//!
//! It holds only what was verified; what is in it needs no check again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use domain::Position;
use domain::archive::index::Index;
use domain::merkle::Hash;
use domain::record::Record;

/// Names something that is cached: of the segment with this SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Its index.
    Index(Hash),
    /// One of its blocks.
    Block(Hash, usize),
    /// The back link of the oldest event that it holds of a stream (SHA-256 of the name).
    Link(Hash, Hash),
}

/// Something that is cached. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Cached {
    Index(Arc<Index>),
    Block(Arc<[Record]>),
    Link(Option<Position>),
}

/// Bookkeeping of one entry, roughly.
const ENTRY_BYTES: usize = 128;

#[derive(Debug, Default)]
struct Entries {
    by_key: HashMap<Key, Entry>,
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    cached: Cached,
    bytes: usize,
    used: u64,
}

/// The cache. Its lock is held for look-ups only, never while anything is read.
#[derive(Debug)]
pub(super) struct Cache {
    budget_bytes: usize,
    entries: Mutex<Entries>,
}

impl Cache {
    pub(super) fn new(budget_bytes: usize) -> Self {
        Self { budget_bytes, entries: Mutex::default() }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Cached> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.uses += 1;
        let now = entries.uses;
        let entry = entries.by_key.get_mut(key)?;
        let (cached, before) = (entry.cached.clone(), std::mem::replace(&mut entry.used, now));
        entries.by_use.remove(&before);
        entries.by_use.insert(now, *key);
        Some(cached)
    }

    /// Keeps something of about `bytes` bytes, and forgets the least recently used beyond the budget.
    pub(super) fn put(&self, key: Key, cached: Cached, bytes: usize) {
        let bytes = bytes + ENTRY_BYTES;
        if bytes > self.budget_bytes {
            return;
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.remove(&key);
        entries.uses += 1;
        let used = entries.uses;
        entries.by_key.insert(key, Entry { cached, bytes, used });
        entries.by_use.insert(used, key);
        entries.bytes += bytes;
        while entries.bytes > self.budget_bytes {
            let Some((_, oldest)) = entries.by_use.first_key_value() else { break };
            let oldest = *oldest;
            entries.remove(&oldest);
        }
    }
}

impl Entries {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.by_key.remove(key) {
            self.by_use.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        Key::Block(Hash([0; 32]), number)
    }

    fn link() -> Cached {
        Cached::Link(None)
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = Cache::new(3 * (100 + ENTRY_BYTES));
        (0..3).for_each(|number| cache.put(key(number), link(), 100));
        assert!(cache.get(&key(0)).is_some());
        cache.put(key(3), link(), 100);
        let kept: Vec<bool> = (0..4).map(|number| cache.get(&key(number)).is_some()).collect();
        assert_eq!(kept, [true, false, true, true]);
    }

    #[test]
    fn the_budget_is_never_exceeded() {
        let cache = Cache::new(1000);
        cache.put(key(0), link(), 1000);
        assert!(cache.get(&key(0)).is_none(), "larger than the budget");
        for number in 0..100 {
            cache.put(key(number % 7), link(), number * 7);
            let entries = cache.entries.lock().unwrap();
            let bytes: usize = entries.by_key.values().map(|entry| entry.bytes).sum();
            assert_eq!((bytes, entries.by_key.len()), (entries.bytes, entries.by_use.len()));
            assert!(bytes <= 1000);
        }
    }
}
