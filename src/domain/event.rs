//! The kinds of phone number quality event.

use super::{
    AccountEvent, AlertSeverity, Direction,
    vocabulary::{Vocabulary, vocabulary},
};

vocabulary! {
    /// The kinds of phone number quality event.
    ///
    /// Source: Meta's reference of the `phone_number_quality_update` webhook. Meta itself has
    /// documented only `ONBOARDING` and `THROUGHPUT_UPGRADE` since October 2025; resellers still
    /// document all six.
    EventKind {
        /// The limit was lowered after a flagged week.
        Downgrade = "DOWNGRADE",
        /// The quality rating is low; the limit may fall.
        Flagged = "FLAGGED",
        /// The number was registered.
        Onboarding = "ONBOARDING",
        /// The number may send at the higher throughput.
        ThroughputUpgrade = "THROUGHPUT_UPGRADE",
        /// The quality rating recovered.
        Unflagged = "UNFLAGGED",
        /// The limit was raised.
        Upgrade = "UPGRADE",
        /// A name this version does not know, or none.
        Unknown = "UNKNOWN",
    }
}

impl EventKind {
    /// Reads a name as a provider sends it; case does not matter.
    pub fn parse(name: &str) -> Self {
        Self::find(name).unwrap_or(Self::Unknown)
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
    /// Of an account.
    Account(AccountEvent),
    /// An alert about an account.
    Alert(AlertSeverity),
}

impl EventName {
    /// Every name. Databases have its place here: a further one goes to the end.
    const ALL: [Self; 21] = [
        Self::Quality(EventKind::Downgrade),
        Self::Quality(EventKind::Flagged),
        Self::Quality(EventKind::Onboarding),
        Self::Quality(EventKind::ThroughputUpgrade),
        Self::Quality(EventKind::Unflagged),
        Self::Quality(EventKind::Upgrade),
        Self::Quality(EventKind::Unknown),
        Self::Capability,
        Self::Account(AccountEvent::Deleted),
        Self::Account(AccountEvent::Offboarded),
        Self::Account(AccountEvent::Reconnected),
        Self::Account(AccountEvent::Restriction),
        Self::Account(AccountEvent::Violation),
        Self::Account(AccountEvent::Disabled),
        Self::Account(AccountEvent::Verified),
        Self::Account(AccountEvent::Other),
        Self::Account(AccountEvent::Unknown),
        Self::Alert(AlertSeverity::Critical),
        Self::Alert(AlertSeverity::Warning),
        Self::Alert(AlertSeverity::Informational),
        Self::Alert(AlertSeverity::Unknown),
    ];

    /// Meta's name: of the event, or else of the webhook's field, with an alert's severity.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quality(kind) => kind.as_str(),
            Self::Capability => "business_capability_update",
            Self::Account(event) => event.as_str(),
            Self::Alert(AlertSeverity::Critical) => "account_alerts CRITICAL",
            Self::Alert(AlertSeverity::Warning) => "account_alerts WARNING",
            Self::Alert(AlertSeverity::Informational) => "account_alerts INFORMATIONAL",
            Self::Alert(AlertSeverity::Unknown) => "account_alerts UNKNOWN",
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
    fn every_event_has_a_code_of_its_own() {
        let kinds = EventKind::ALL.map(EventName::Quality).into_iter();
        let events = AccountEvent::ALL.map(EventName::Account).into_iter();
        let alerts = AlertSeverity::ALL.map(EventName::Alert).into_iter();
        let names = kinds
            .chain([EventName::Capability])
            .chain(events)
            .chain(alerts);
        for name in names {
            assert_eq!(EventName::from_code(name.code()), Some(name));
        }
    }
}
