//! What the phone numbers and the accounts have in common, so that the table, the storage, the
//! exposition and the API are written once for both.

use std::{fmt::Debug, hash::Hash};

use serde::{Serialize, de::DeserializeOwned};
use smallvec::SmallVec;

use super::{History, Shards, Table};
use crate::domain::{MessagingLimit, PhoneNumber, ProviderName, Timestamp};

/// A kind of thing that is known: implemented by its key, with the record type, the label names and
/// the metric families of the kind.
pub trait Entity: Ord + Clone + Hash + Debug + Send + Sync + 'static {
    /// The first word of a stored key.
    const KIND: &'static str;
    /// The name of its list in the API.
    const LIST: &'static str;
    /// What the names of its metric families begin with.
    const PREFIX: &'static str;
    /// The labels that its parts are the values of; the first is `provider`.
    const LABELS: &'static [&'static str];
    /// Its metric families.
    const FAMILIES: &'static [Family<Self::Record>];

    /// What is known under the key.
    type Record: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The values of its labels.
    fn label_values(&self) -> LabelValues<'_>;

    /// The phone number, which is the last of its labels, where it is a phone number's key.
    fn phone_number(&self) -> Option<&PhoneNumber>;

    /// The key with these values after the provider's; `None` where there are not as many.
    fn from_label_values(provider: ProviderName, rest: &[&str]) -> Option<Self>;

    /// Where it stands in the table.
    fn shards(table: &Table) -> &Shards<Self>;

    /// What happened to it.
    fn history(record: &Self::Record) -> &History;
}

/// The values of a key's labels.
pub type LabelValues<'a> = SmallVec<[&'a str; 4]>;

/// A metric family, of which everything of a kind has its samples.
pub struct Family<T> {
    /// The family's name, with `_total` where it counts.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// Its meaning, with the unit.
    pub help: &'static str,
    /// The label it has besides those of its kind.
    pub label: Option<&'static str>,
    /// Hands out its samples: the value of [`Family::label`] and the sample's value.
    pub samples: fn(&T, &mut SampleWriter<'_>),
}

/// Takes a sample: the value of the family's further label, empty where it has none, and the
/// sample's value.
pub type SampleWriter<'a> = dyn FnMut(&str, Value) + 'a;

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// The value of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A number of things.
    Count(u64),
    /// Customers in 24 hours.
    Limit(MessagingLimit),
    /// Seconds of the Unix epoch.
    Time(Timestamp),
}

impl MetricKind {
    /// The type's name in the text format.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}
