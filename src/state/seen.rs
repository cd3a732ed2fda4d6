//! The deliveries that a record remembers, to count a repetition once.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::base64;
use crate::domain::Identity;

/// The last deliveries that could be told apart, oldest first: at most `WINDOW`, which is how far back
/// a repetition is noticed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen<const WINDOW: usize>(Box<[[u8; 8]]>);

impl<const WINDOW: usize> Seen<WINDOW> {
    /// Whether a delivery was seen before; what has no identity never was.
    pub(super) fn contains(&self, identity: Option<Identity>) -> bool {
        identity.is_some_and(|identity| self.0.contains(identity.as_bytes()))
    }

    /// Remembers a delivery, and forgets the oldest beyond the window.
    pub(super) fn remember(&mut self, identity: Option<Identity>) {
        let Some(identity) = identity else { return };
        if self.0.len() < WINDOW {
            let all = self.0.iter().copied();
            self.0 = all.chain([*identity.as_bytes()]).collect();
            return;
        }
        self.0.rotate_left(1);
        if let Some(last) = self.0.last_mut() {
            *last = *identity.as_bytes();
        }
    }
}

impl<const WINDOW: usize> Serialize for Seen<WINDOW> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        base64::serialize(self.0.as_flattened(), serializer)
    }
}

impl<'de, const WINDOW: usize> Deserialize<'de> for Seen<WINDOW> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = base64::deserialize(deserializer)?;
        match bytes.as_chunks() {
            (identities, []) => Ok(Self(identities.into())),
            _ => Err(de::Error::custom("not a whole number of identities")),
        }
    }
}
