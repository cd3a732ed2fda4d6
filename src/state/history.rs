//! The last events of a record, for a person who wants to know how it came about. No metric is made
//! of them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::{EventName, MessagingLimit, Timestamp};

/// The last accepted events, oldest arrival first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History(Box<[Packed]>);

/// An accepted event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PastEvent {
    /// Its name.
    pub name: EventName,
    /// When it happened, by the provider's time.
    pub happened_at: Timestamp,
    /// When this exporter accepted it.
    pub accepted_at: Timestamp,
    /// The limit that it reported; `None` where it reported none.
    pub limit: Option<MessagingLimit>,
}

/// As a [`PastEvent`], in 32 bytes and not in 40: every phone number has some.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Packed {
    happened_at: Timestamp,
    accepted_at: Timestamp,
    /// Only where `has_limit`.
    limit: MessagingLimit,
    has_limit: bool,
    name: EventName,
}

/// As it is stored: a list is a third of the length of an object.
type Stored = (EventName, Timestamp, Timestamp, Option<MessagingLimit>);

impl History {
    /// How many events are kept.
    pub const LENGTH: usize = 16;

    /// The events, the last that arrived first.
    pub fn newest_first(&self) -> impl Iterator<Item = PastEvent> {
        self.0.iter().rev().map(|packed| packed.unpacked())
    }

    /// Adds an event, and drops the oldest beyond [`History::LENGTH`].
    pub(super) fn add(&mut self, event: PastEvent) {
        let dropped = (self.0.len() + 1).saturating_sub(Self::LENGTH);
        let kept = self.0.iter().skip(dropped).copied();
        self.0 = kept.chain([Packed::from(event)]).collect();
    }
}

impl Packed {
    fn unpacked(self) -> PastEvent {
        PastEvent {
            name: self.name,
            happened_at: self.happened_at,
            accepted_at: self.accepted_at,
            limit: self.has_limit.then_some(self.limit),
        }
    }
}

impl From<PastEvent> for Packed {
    fn from(event: PastEvent) -> Self {
        Self {
            happened_at: event.happened_at,
            accepted_at: event.accepted_at,
            limit: event.limit.unwrap_or(MessagingLimit::NOT_SET),
            has_limit: event.limit.is_some(),
            name: event.name,
        }
    }
}

impl Serialize for History {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|packed| -> Stored {
            let event = packed.unpacked();
            (
                event.name,
                event.happened_at,
                event.accepted_at,
                event.limit,
            )
        }))
    }
}

impl<'de> Deserialize<'de> for History {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = Vec::<Stored>::deserialize(deserializer)?;
        let events = stored
            .into_iter()
            .map(|(name, happened_at, accepted_at, limit)| {
                Packed::from(PastEvent {
                    name,
                    happened_at,
                    accepted_at,
                    limit,
                })
            });
        Ok(Self(events.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EventKind;

    #[test]
    fn last_events_are_kept_and_read_again_as_they_were() {
        let event = |second: i64| PastEvent {
            name: match second % 2 {
                0 => EventName::Capability,
                _ => EventName::Quality(EventKind::Downgrade),
            },
            happened_at: Timestamp::from_unix_seconds(second).unwrap(),
            accepted_at: Timestamp::from_unix_seconds(second + 5).unwrap(),
            limit: [
                None,
                Some(MessagingLimit::UNLIMITED),
                Some(MessagingLimit::NOT_SET),
            ][second as usize % 3],
        };
        let mut history = History::default();
        for second in 1..=20 {
            history.add(event(second));
        }
        let expected: Vec<_> = (5..=20).rev().map(event).collect();
        assert_eq!(history.newest_first().collect::<Vec<_>>(), expected);

        let text = serde_json::to_string(&history).unwrap();
        assert!(
            text.starts_with(r#"[["DOWNGRADE",5000000000,10000000000,0],["business_capability_update",6000000000,11000000000,null],"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
        assert_eq!(size_of::<Packed>(), 32);
    }
}
