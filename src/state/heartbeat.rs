//! When a provider last showed signs of life.

use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;

/// When a provider last showed signs of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// When a delivery of it was last accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_accepted: Option<Timestamp>,
    /// When a delivery of it last held a change, be it new, repeated or overtaken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change: Option<Timestamp>,
    /// When a handshake of it was last answered with its challenge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handshake: Option<Timestamp>,
}

/// A sign of life of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// A delivery was accepted.
    Accepted,
    /// A delivery held a change, be it new, repeated or overtaken.
    Change,
    /// A handshake was answered with its challenge.
    Handshake,
}

impl Heartbeat {
    /// Notes a sign. False where one was noted within the second: one write a second is enough.
    pub(super) fn note(&mut self, sign: Sign, accepted_at: Timestamp) -> bool {
        let last = match sign {
            Sign::Accepted => &mut self.last_accepted,
            Sign::Change => &mut self.last_change,
            Sign::Handshake => &mut self.last_handshake,
        };
        // A clock that was set back shows at once.
        let is_news =
            last.is_none_or(|last| accepted_at < last || accepted_at.seconds_since(last) >= 1.0);
        if is_news {
            *last = Some(accepted_at);
        }
        is_news
    }
}
