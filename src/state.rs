//! What is known: a record a number, a record an account, and the fold that makes them.
//!
//! Records are immutable once published: the fold copies, changes and, when the copy is durable,
//! replaces. Readers never wait for it.

mod fold;
mod record;
mod shards;
mod table;

pub use fold::{Applied, Batch, Draft, Fold, Outcome, Sign};
pub use record::{Account, Counts, Fact, Heartbeat, Limit, Number, Record};
pub use shards::Shards;
pub use table::{SHARDS, Table, shard_of, shard_of_account};
