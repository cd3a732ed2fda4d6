use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{Account, Number, Shards};
use crate::domain::{AccountKey, NumberKey};

/// How many parts numbers and accounts are divided into: few of a hundred thousand numbers stand in one, so that a
/// change makes little stale.
pub const SHARDS: usize = 4096;

/// Everything published, shared between the writer and the readers.
#[derive(Debug, Default)]
pub struct Table {
    /// The phone numbers, by [`shard_of`].
    pub numbers: Shards<NumberKey, Number>,
    /// The accounts, by [`shard_of_account`].
    pub accounts: Shards<AccountKey, Account>,
    phone_numbers_len: AtomicUsize,
    accounts_len: AtomicUsize,
}

impl Table {
    /// How many phone numbers are known.
    pub fn phone_numbers_len(&self) -> usize {
        self.phone_numbers_len.load(Ordering::Relaxed)
    }

    /// How many accounts are known.
    pub fn accounts_len(&self) -> usize {
        self.accounts_len.load(Ordering::Relaxed)
    }

    /// A phone number.
    pub fn number(&self, key: &NumberKey) -> Option<Arc<Number>> {
        self.numbers.get(shard_of(key), key)
    }

    /// An account.
    pub fn account(&self, key: &AccountKey) -> Option<Arc<Account>> {
        self.accounts.get(shard_of_account(key), key)
    }

    /// Shows a number to the readers, and returns what was shown of it before.
    pub(super) fn publish_number(
        &self,
        key: &NumberKey,
        number: &Arc<Number>,
    ) -> Option<Arc<Number>> {
        let before = self
            .numbers
            .put(shard_of(key), key.clone(), Arc::clone(number));
        self.phone_numbers_len
            .fetch_add(usize::from(before.is_none()), Ordering::Relaxed);
        before
    }

    /// Shows an account to the readers, and returns what was shown of it before.
    pub(super) fn publish_account(
        &self,
        key: &AccountKey,
        account: &Arc<Account>,
    ) -> Option<Arc<Account>> {
        let before = self
            .accounts
            .put(shard_of_account(key), key.clone(), Arc::clone(account));
        self.accounts_len
            .fetch_add(usize::from(before.is_none()), Ordering::Relaxed);
        before
    }
}

/// The shard of a number: CRC-32 of provider, account and number, each ended by a NUL, modulo [`SHARDS`]. Part of
/// the contract: `?shard=` must divide a fleet alike in every version.
pub fn shard_of(key: &NumberKey) -> usize {
    shard(&[
        key.account.provider,
        key.account.waba_id.as_str(),
        key.phone_number.as_str(),
    ])
}

/// The shard of an account, likewise.
pub fn shard_of_account(key: &AccountKey) -> usize {
    shard(&[key.provider, key.waba_id.as_str()])
}

fn shard(parts: &[&str]) -> usize {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    hasher.finalize() as usize % SHARDS
}
