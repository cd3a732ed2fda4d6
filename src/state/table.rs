//! Everything that is published.

use super::Shards;
use crate::domain::{AccountKey, NumberKey};

/// Everything that is published, shared between the writer and the readers.
#[derive(Debug, Default)]
pub struct Table {
    /// The phone numbers.
    pub numbers: Shards<NumberKey>,
    /// The accounts.
    pub accounts: Shards<AccountKey>,
}
