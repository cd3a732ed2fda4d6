//! Everything that is published.

use super::Shards;
use crate::domain::{AccountKey, NumberKey};

/// How many parts the things of a kind are divided into: few of a hundred thousand numbers stand in
/// one, so that a change makes little stale.
pub const SHARDS: usize = 4096;

/// Everything that is published, shared between the writer and the readers.
#[derive(Debug, Default)]
pub struct Table {
    /// The phone numbers.
    pub numbers: Shards<NumberKey>,
    /// The accounts.
    pub accounts: Shards<AccountKey>,
}
