//! Everything that is published.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{Entity, Shards};
use crate::domain::{AccountKey, NumberKey, Pseudonyms};

/// Everything that is published, shared between the writer and the readers.
#[derive(Debug, Default)]
pub struct Table {
    /// The phone numbers.
    pub numbers: Shards<NumberKey>,
    /// The accounts.
    pub accounts: Shards<AccountKey>,
    /// What is shown in the place of phone numbers.
    pseudonyms: Option<Pseudonyms>,
}

/// The values of a key's labels, as they are shown.
pub type ShownValues<'a> = SmallVec<[Cow<'a, str>; 4]>;

impl Table {
    /// An empty table, whose phone numbers are shown by pseudonyms where there are some.
    pub fn new(pseudonyms: Option<Pseudonyms>) -> Self {
        Self {
            pseudonyms,
            ..Self::default()
        }
    }

    /// The values of a key's labels, as they are shown.
    pub fn shown<'a, K: Entity>(&self, key: &'a K) -> ShownValues<'a> {
        let mut shown: ShownValues<'a> = key.label_values().into_iter().map(Cow::from).collect();
        if let Some(pseudonyms) = &self.pseudonyms
            && let Some((phone_number, place)) = key.phone_number().zip(shown.last_mut())
        {
            *place = pseudonyms.of(phone_number).into();
        }
        shown
    }

    /// Whether phone numbers are shown by pseudonyms.
    pub fn has_pseudonyms(&self) -> bool {
        self.pseudonyms.is_some()
    }
}
