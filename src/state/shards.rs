//! A sorted map in parts, so that a page renders only the parts that changed.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::Entity;

/// How many shards the things of a kind are divided into: few of a hundred thousand numbers stand
/// in one, so that a change makes little stale.
pub const SHARDS: usize = 4096;

/// What is known of a kind, in [`SHARDS`] shards, each with a lock of its own and a version that
/// tells whether it changed.
#[derive(Debug)]
pub struct Shards<K: Entity> {
    /// From the first entry on, so that an empty process does without.
    shards: OnceLock<Box<[Mutex<Slot<K>>]>>,
    len: AtomicUsize,
}

/// Keys and what is known under them.
type Entries<K> = Vec<(K, Arc<<K as Entity>::Record>)>;

/// A shard, once something was put there: an empty process need not hold thousands of empty maps.
type Slot<K> = Option<Box<Shard<K>>>;

#[derive(Debug)]
struct Shard<K: Entity> {
    /// It only grows, from 1.
    version: u64,
    entries: BTreeMap<K, Arc<K::Record>>,
}

impl<K: Entity> Default for Shards<K> {
    fn default() -> Self {
        Self {
            shards: OnceLock::new(),
            len: AtomicUsize::new(0),
        }
    }
}

impl<K: Entity> Shards<K> {
    /// The shard of a key: CRC-32 of its parts, each ended by a NUL, modulo [`SHARDS`]. ShardFilter
    /// of the contract: `?shard=` must divide a fleet alike in every version.
    pub fn shard_of(key: &K) -> usize {
        let mut hasher = crc32fast::Hasher::new();
        for part in key.label_values() {
            hasher.update(part.as_bytes());
            hasher.update(&[0]);
        }
        hasher.finalize() as usize % SHARDS
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known under a key.
    pub fn get(&self, key: &K) -> Option<Arc<K::Record>> {
        self.lock(Self::shard_of(key))?
            .as_ref()?
            .entries
            .get(key)
            .cloned()
    }

    /// Shows an entry in the place of the one before, and returns that.
    pub(super) fn put(&self, key: K, record: Arc<K::Record>) -> Option<Arc<K::Record>> {
        let none = || (0..SHARDS).map(|_| Mutex::new(None)).collect();
        self.shards.get_or_init(none);
        let mut slot = self.lock(Self::shard_of(&key))?;
        let shard = slot.get_or_insert_with(|| {
            Box::new(Shard {
                version: 0,
                entries: BTreeMap::new(),
            })
        });
        shard.version += 1;
        let before = shard.entries.insert(key, record);
        self.len
            .fetch_add(usize::from(before.is_none()), Ordering::Relaxed);
        before
    }

    /// Shows an entry no longer, where there is one.
    pub(super) fn remove(&self, key: &K) {
        let slot = self.lock(Self::shard_of(key));
        if let Some(mut slot) = slot
            && let Some(shard) = slot.as_mut()
            && shard.entries.remove(key).is_some()
        {
            shard.version += 1;
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The version of a shard; 0 while it is empty.
    pub fn version(&self, shard: usize) -> u64 {
        self.lock(shard)
            .and_then(|slot| Some(slot.as_ref()?.version))
            .unwrap_or_default()
    }

    /// The entries of a shard in the order of their keys, beginning after `after`, with the shard's
    /// version.
    pub fn entries(&self, shard: usize, after: Option<&K>) -> (u64, Entries<K>) {
        let slot = self.lock(shard);
        let Some(shard) = slot.as_ref().and_then(|slot| slot.as_ref()) else {
            return (0, Vec::new());
        };
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = shard.entries.range((start, Bound::Unbounded));
        (
            shard.version,
            entries
                .map(|(key, record)| (key.clone(), Arc::clone(record)))
                .collect(),
        )
    }

    /// All entries after a key, shard by shard.
    pub fn iter_after(&self, after: Option<K>) -> impl Iterator<Item = (K, Arc<K::Record>)> {
        let first = after.as_ref().map_or(0, Self::shard_of);
        (first..SHARDS).flat_map(move |shard| {
            self.entries(shard, after.as_ref().filter(|_| shard == first))
                .1
        })
    }

    /// Hands the entries of each shard to `visit`. Nothing is copied, but the writer waits for a shard
    /// while it is visited, so a visit must be short.
    pub fn for_each_shard(&self, mut visit: impl FnMut(usize, &BTreeMap<K, Arc<K::Record>>)) {
        for shard in 0..SHARDS {
            let slot = self.lock(shard);
            if let Some(known) = slot.as_ref().and_then(|slot| slot.as_ref()) {
                visit(shard, &known.entries);
            }
        }
    }

    /// A thread that panicked may have put its entry or not; the map is whole in both cases.
    fn lock(&self, shard: usize) -> Option<MutexGuard<'_, Slot<K>>> {
        Some(
            self.shards
                .get()?
                .get(shard)?
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}
