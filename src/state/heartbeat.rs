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
pub enum HeartbeatKind {
    /// A delivery was accepted.
    Accepted,
    /// A delivery held a change, be it new, repeated or overtaken.
    Change,
    /// A handshake was answered with its challenge.
    Handshake,
}

impl Heartbeat {
    /// The later of each sign.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            last_accepted: self.last_accepted.max(other.last_accepted),
            last_change: self.last_change.max(other.last_change),
            last_handshake: self.last_handshake.max(other.last_handshake),
        }
    }

    /// Notes a sign, and says whether that must be stored even if nothing else is: once a second is
    /// enough, but for a handshake, which is rare and is looked for.
    pub(super) fn note(&mut self, kind: HeartbeatKind, accepted_at: Timestamp) -> bool {
        let last = match kind {
            HeartbeatKind::Accepted => &mut self.last_accepted,
            HeartbeatKind::Change => &mut self.last_change,
            HeartbeatKind::Handshake => &mut self.last_handshake,
        };
        let before = last.replace(accepted_at);
        kind == HeartbeatKind::Handshake
            || before.is_none_or(|before| {
                accepted_at < before || accepted_at.seconds_since(before) >= 1.0
            })
    }
}
