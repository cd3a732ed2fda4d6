use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Account, Number, Record};
use crate::domain::{AccountKey, NumberKey};

/// How many parts the numbers are divided into.
pub const SHARDS: usize = 2048;

type Numbers = BTreeMap<NumberKey, Arc<Number>>;
type Accounts = BTreeMap<AccountKey, Arc<Account>>;

/// Everything published, shared between the writer and the readers.
#[derive(Debug)]
pub struct Table {
    shards: Box<[Mutex<Numbers>]>,
    accounts: Mutex<Accounts>,
    numbers: AtomicUsize,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            accounts: Mutex::default(),
            numbers: AtomicUsize::new(0),
        }
    }
}

impl Table {
    /// How many phone numbers are known.
    pub fn len(&self) -> usize {
        self.numbers.load(Ordering::Relaxed)
    }

    /// Whether no phone number is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many accounts are known.
    pub fn accounts_len(&self) -> usize {
        lock(&self.accounts).len()
    }

    /// A phone number.
    pub fn number(&self, key: &NumberKey) -> Option<Arc<Number>> {
        lock(self.shard(shard_of(key))?).get(key).cloned()
    }

    /// An account.
    pub fn account(&self, key: &AccountKey) -> Option<Arc<Account>> {
        lock(&self.accounts).get(key).cloned()
    }

    /// The numbers of a shard in the order of their keys, beginning after `after`.
    pub fn numbers(&self, shard: usize, after: Option<&NumberKey>) -> Vec<(NumberKey, Arc<Number>)> {
        let Some(shard) = self.shard(shard) else { return Vec::new() };
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let numbers = lock(shard);
        numbers.range((start, Bound::Unbounded)).map(|(key, number)| (key.clone(), Arc::clone(number))).collect()
    }

    /// The accounts in the order of their keys, beginning after `after`.
    pub fn accounts(&self, after: Option<&AccountKey>) -> Vec<(AccountKey, Arc<Account>)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let accounts = lock(&self.accounts);
        accounts.range((start, Bound::Unbounded)).map(|(key, account)| (key.clone(), Arc::clone(account))).collect()
    }

    /// Shows a record to the readers.
    pub(super) fn publish(&self, record: &Record) {
        match record {
            Record::Number(key, number) => {
                let Some(shard) = self.shard(shard_of(key)) else { return };
                if lock(shard).insert(key.clone(), Arc::clone(number)).is_none() {
                    self.numbers.fetch_add(1, Ordering::Relaxed);
                }
            }
            Record::Account(key, account) => {
                lock(&self.accounts).insert(key.clone(), Arc::clone(account));
            }
            Record::Provider(..) => {}
        }
    }

    fn shard(&self, index: usize) -> Option<&Mutex<Numbers>> {
        self.shards.get(index)
    }
}

/// The shard of a number: CRC-32 of provider, account and number, each ended by a NUL, modulo [`SHARDS`]. Part of the contract: `?shard=` must divide a fleet alike in every version.
pub fn shard_of(key: &NumberKey) -> usize {
    let mut hasher = crc32fast::Hasher::new();
    for part in [key.account.provider, key.account.waba_id.as_str(), key.phone_number.as_str()] {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    hasher.finalize() as usize % SHARDS
}

/// What a panic left half done is a map with or without one more entry: whole either way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
