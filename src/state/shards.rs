use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::SHARDS;

/// A sorted map in [`SHARDS`] parts, each with a lock of its own and a version that tells whether it changed.
#[derive(Debug)]
pub struct Shards<K, V>(Box<[Mutex<Place<K, V>>]>);

/// A shard, once something was put there: an empty process need not hold 8192 empty ones.
type Place<K, V> = Option<Box<Shard<K, V>>>;

#[derive(Debug)]
struct Shard<K, V> {
    /// It only grows, from 1.
    version: u64,
    entries: BTreeMap<K, Arc<V>>,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl<K: Ord + Clone, V> Shards<K, V> {
    pub(super) fn get(&self, shard: usize, key: &K) -> Option<Arc<V>> {
        self.lock(shard)?.as_ref()?.entries.get(key).cloned()
    }

    /// Puts an entry in the place of the one before, and returns that.
    pub(super) fn put(&self, shard: usize, key: K, value: Arc<V>) -> Option<Arc<V>> {
        let mut shard = self.lock(shard)?;
        let shard = shard.get_or_insert_with(|| {
            Box::new(Shard {
                version: 0,
                entries: BTreeMap::new(),
            })
        });
        shard.version += 1;
        shard.entries.insert(key, value)
    }

    /// The version of a shard; 0 while it is empty.
    pub fn version(&self, shard: usize) -> u64 {
        self.lock(shard)
            .and_then(|shard| Some(shard.as_ref()?.version))
            .unwrap_or_default()
    }

    /// The entries of a shard in the order of their keys, beginning after `after`, with the shard's version.
    pub fn entries(&self, shard: usize, after: Option<&K>) -> (u64, Vec<(K, Arc<V>)>) {
        let shard = self.lock(shard);
        let Some(shard) = shard.as_ref().and_then(|shard| shard.as_ref()) else {
            return (0, Vec::new());
        };
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = shard.entries.range((start, Bound::Unbounded));
        (
            shard.version,
            entries
                .map(|(key, value)| (key.clone(), Arc::clone(value)))
                .collect(),
        )
    }

    /// What a panic left half done is a map with or without one more entry: whole either way.
    fn lock(&self, shard: usize) -> Option<MutexGuard<'_, Place<K, V>>> {
        Some(
            self.0
                .get(shard)?
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}
