//! The deliveries that a record remembers, to count a repetition once.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::domain::Identity;

/// The last deliveries that could be told apart, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen(Vec<[u8; 8]>);

impl Seen {
    /// How far back a repetition is noticed.
    pub const WINDOW: usize = 32;

    /// Whether a delivery was seen before; what has no identity never was.
    pub(super) fn contains(&self, identity: Option<Identity>) -> bool {
        identity.is_some_and(|identity| self.0.contains(identity.as_bytes()))
    }

    /// Remembers a delivery, and forgets the oldest beyond the window.
    pub(super) fn remember(&mut self, identity: Option<Identity>) {
        let Some(identity) = identity else { return };
        if self.0.len() >= Self::WINDOW {
            self.0.remove(0);
        }
        self.0.push(*identity.as_bytes());
    }
}

/// All identities as one base64 string, because they are most of a stored document.
impl Serialize for Seen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0.as_flattened()))
    }
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = STANDARD
            .decode(text.as_bytes())
            .map_err(de::Error::custom)?;
        match bytes.as_chunks() {
            (identities, []) => Ok(Self(identities.to_vec())),
            _ => Err(de::Error::custom("not a whole number of identities")),
        }
    }
}
