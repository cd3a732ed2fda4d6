//! The kinds of phone number quality event.

use serde::{Deserialize, Serialize};

use super::Direction;

/// The kinds of phone number quality event.
///
/// Source: Meta's reference of the `phone_number_quality_update` webhook. Meta itself has
/// documented only `ONBOARDING` and `THROUGHPUT_UPGRADE` since October 2025; resellers still
/// document all six.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventKind {
    /// The limit was lowered after a flagged week.
    Downgrade,
    /// The quality rating is low; the limit may fall.
    Flagged,
    /// The number was registered.
    Onboarding,
    /// The number may send at the higher throughput.
    ThroughputUpgrade,
    /// The quality rating recovered.
    Unflagged,
    /// The limit was raised.
    Upgrade,
    /// A name this version does not know, or none.
    Unknown,
}

impl EventKind {
    /// Every kind, in the order of the label values.
    pub const ALL: [Self; 7] = [
        Self::Downgrade,
        Self::Flagged,
        Self::Onboarding,
        Self::ThroughputUpgrade,
        Self::Unflagged,
        Self::Upgrade,
        Self::Unknown,
    ];

    /// Reads a name as a provider sends it; case does not matter.
    pub fn parse(name: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str().eq_ignore_ascii_case(name))
            .unwrap_or(Self::Unknown)
    }

    /// The value of the label `event`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Downgrade => "DOWNGRADE",
            Self::Flagged => "FLAGGED",
            Self::Onboarding => "ONBOARDING",
            Self::ThroughputUpgrade => "THROUGHPUT_UPGRADE",
            Self::Unflagged => "UNFLAGGED",
            Self::Upgrade => "UPGRADE",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// What the event says about the flagged state, if anything.
    ///
    /// A flagged number cannot be upgraded, and the flagged week ends in either `UNFLAGGED` or a
    /// lower limit, so both limit events end the state.
    pub const fn flagged(self) -> Option<bool> {
        match self {
            Self::Flagged => Some(true),
            Self::Unflagged | Self::Upgrade | Self::Downgrade => Some(false),
            Self::Onboarding | Self::ThroughputUpgrade | Self::Unknown => None,
        }
    }

    /// The direction of the limit that the event's name implies.
    pub const fn implied_direction(self) -> Option<Direction> {
        match self {
            Self::Downgrade => Some(Direction::Down),
            Self::Upgrade => Some(Direction::Up),
            _ => None,
        }
    }

    /// What the event says about the throughput level, if anything.
    pub const fn high_throughput(self) -> Option<bool> {
        match self {
            Self::ThroughputUpgrade => Some(true),
            _ => None,
        }
    }
}

/// The name of an event in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventName {
    /// Of a phone number.
    Quality(EventKind),
    /// Of an account: a limit of the portfolio, or how many numbers there may be.
    Capability,
}

impl EventName {
    /// Every name. Databases have its place here: a further one goes to the end.
    const ALL: [Self; 8] = [
        Self::Quality(EventKind::Downgrade),
        Self::Quality(EventKind::Flagged),
        Self::Quality(EventKind::Onboarding),
        Self::Quality(EventKind::ThroughputUpgrade),
        Self::Quality(EventKind::Unflagged),
        Self::Quality(EventKind::Upgrade),
        Self::Quality(EventKind::Unknown),
        Self::Capability,
    ];

    /// Meta's name: of the event, or else of the webhook's field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quality(kind) => kind.as_str(),
            Self::Capability => "business_capability_update",
        }
    }

    /// What stands for it in a database.
    pub fn code(self) -> u8 {
        let codes = 0..;
        let mut coded = Self::ALL.into_iter().zip(codes);
        let found = coded.find(|(name, _)| *name == self);
        found.map_or(u8::MAX, |(_, code)| code)
    }

    /// The event of this code; `None` where this version knows none.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_does_not_matter_and_the_rest_is_unknown() {
        assert_eq!(EventKind::parse("flagged"), EventKind::Flagged);
        assert_eq!(
            EventKind::parse("Throughput_Upgrade"),
            EventKind::ThroughputUpgrade
        );
        for name in ["", "FLAGGED ", "BANNED", "DÖWNGRADE"] {
            assert_eq!(EventKind::parse(name), EventKind::Unknown, "{name:?}");
        }
    }

    #[test]
    fn all_is_in_the_order_of_the_enum() {
        for (index, kind) in EventKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
    }

    #[test]
    fn every_event_has_a_code_of_its_own() {
        let names = EventKind::ALL.map(EventName::Quality);
        for name in names.into_iter().chain([EventName::Capability]) {
            assert_eq!(EventName::from_code(name.code()), Some(name));
        }
    }
}
