//! What is known: a record for each phone number and each account, and the fold that makes them.
//!
//! A kind of thing is one file: its key's [`Entity`], its record, how a change is folded into it,
//! and its metric families. Records are immutable once they are published: the fold copies, changes
//! and, when the copy is durable, replaces. Readers never wait for it.

mod account;
mod account_alert;
mod account_event;
mod base64;
mod entity;
mod fold;
mod heartbeat;
mod history;
mod limit;
mod number;
mod seen;
mod shards;
mod table;
mod tally;
mod template_quality;
mod template_status;

pub use account::Account;
pub use account_alert::Alerts;
pub use account_event::AccountEvents;
pub use entity::{Entity, Family, LabelValues, MetricKind, SampleWriter, Value};
pub use fold::{Applied, Batch, Draft, Fold, Forgettable, Forgotten, Outcome, Record, Update};
pub use heartbeat::{Heartbeat, HeartbeatKind};
pub use history::{History, PastEvent};
pub use limit::{Dated, Limit};
pub use number::{Counts, Number, Observation};
pub use shards::{SHARDS, Shards};
pub use table::{ShownValues, Table};
pub use tally::{ByValue, Tally};
pub use template_quality::TemplateQualities;
pub use template_status::TemplateEvents;

/// For fields that are left out of a document.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
