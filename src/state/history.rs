//! The last events of a record, for a person who wants to know how it came about. No metric is made
//! of them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::base64;
use crate::domain::{EventName, MessagingLimit, Timestamp};

/// The last accepted events, oldest arrival first: a list of `Stored` in the postcard format, in
/// memory, too, because every phone number has some, and each event stores all of them again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History(Box<[u8]>);

/// An accepted event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PastEvent {
    /// Its name.
    pub name: EventName,
    /// When it happened, by the provider's time. A history keeps milliseconds.
    pub happened_at: Timestamp,
    /// When this exporter accepted it. A history keeps milliseconds.
    pub accepted_at: Timestamp,
    /// The limit that it reported; `None` where it reported none. A history keeps limits up to 2^128,
    /// and a greater one, which no provider documents, as 2^128.
    pub limit: Option<MessagingLimit>,
}

/// As a [`PastEvent`], in numbers that take few bytes.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// The code of the name.
    code: u8,
    /// In milliseconds of the Unix epoch.
    accepted_at: u64,
    /// In milliseconds; below zero where the provider's clock is ahead.
    accepted_after: i64,
    /// Zero where no limit was reported, one where it was unlimited, or else the limit and two more.
    limit: u128,
}

impl History {
    /// How many events are kept.
    pub const LENGTH: u8 = 16;

    /// The events, the last that arrived first.
    pub fn newest_first(&self) -> impl Iterator<Item = PastEvent> {
        // Nothing is left out: all of them were readable when they were added.
        let stored = postcard::from_bytes::<Vec<Stored>>(&self.0).unwrap_or_default();
        stored.into_iter().rev().filter_map(Stored::event)
    }

    /// Adds an event, and drops the oldest beyond [`History::LENGTH`].
    pub(super) fn add(&mut self, event: &PastEvent) {
        let (length, mut kept) = match self.0.split_first() {
            Some((length, events)) => (*length, events),
            None => (0, [].as_slice()),
        };
        if length >= Self::LENGTH
            && let Ok((_, rest)) = postcard::take_from_bytes::<Stored>(kept)
        {
            kept = rest;
        }
        let length = Self::LENGTH.min(length + 1);
        let mut buffer = [0; Stored::MOST_BYTES];
        // The buffer has room for every event.
        if let Ok(event) = postcard::to_slice(&Stored::of(event), &mut buffer) {
            // Of lists that are so short the length is one byte.
            self.0 = [&[length], kept, event].concat().into();
        }
    }

    /// The first code in a stored history that stands for no event of this version.
    pub fn unknown_code(stored: &str) -> Option<u8> {
        let bytes = base64::decode(stored).ok()?;
        let events = postcard::from_bytes::<Vec<Stored>>(&bytes).ok()?;
        let mut codes = events.iter().map(|event| event.code);
        codes.find(|code| EventName::from_code(*code).is_none())
    }
}

impl Stored {
    /// A byte, two varints of 64 bits, and one of 128.
    const MOST_BYTES: usize = 1 + 10 + 10 + 19;

    fn of(event: &PastEvent) -> Self {
        let accepted_at = event.accepted_at.as_unix_milliseconds();
        let happened_at = event.happened_at.as_unix_milliseconds();
        Self {
            code: event.name.code(),
            accepted_at,
            accepted_after: accepted_at.cast_signed() - happened_at.cast_signed(),
            limit: match event.limit {
                None => 0,
                Some(MessagingLimit::UNLIMITED) => 1,
                Some(limit) => (limit.as_f64() as u128).saturating_add(2),
            },
        }
    }

    fn event(self) -> Option<PastEvent> {
        let happened_at = self
            .accepted_at
            .checked_add_signed(self.accepted_after.checked_neg()?)?;
        Some(PastEvent {
            name: EventName::from_code(self.code)?,
            happened_at: Timestamp::from_unix_milliseconds(happened_at)?,
            accepted_at: Timestamp::from_unix_milliseconds(self.accepted_at)?,
            limit: match self.limit {
                0 => None,
                1 => Some(MessagingLimit::UNLIMITED),
                limit => Some(MessagingLimit::from_number((limit - 2) as f64)?),
            },
        })
    }
}

impl Serialize for History {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        base64::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for History {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = base64::deserialize(deserializer)?;
        let events = match postcard::take_from_bytes::<Vec<Stored>>(&bytes) {
            Ok((events, [])) if events.len() <= usize::from(Self::LENGTH) => events,
            _ => return Err(de::Error::custom("not a list of events")),
        };
        match events.into_iter().all(|event| event.event().is_some()) {
            true => Ok(Self(bytes.into())),
            false => Err(de::Error::custom("an event that is not readable")),
        }
    }
}

#[cfg(test)]
mod tests {
    use ::base64::{Engine, engine::general_purpose::STANDARD};

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
            accepted_at: Timestamp::parse_unix(&format!("{second}.025")).unwrap(),
            limit: [
                None,
                Some(MessagingLimit::UNLIMITED),
                Some(MessagingLimit::NOT_SET),
                MessagingLimit::parse("999999999999999M"),
            ][second as usize % 4],
        };
        let mut history = History::default();
        for second in 1..=20 {
            history.add(&event(second));
        }
        let expected: Vec<_> = (5..=20).rev().map(event).collect();
        assert_eq!(history.newest_first().collect::<Vec<_>>(), expected);

        let stored = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&stored).unwrap(), history);
    }

    #[test]
    fn greatest_limit_is_kept_as_a_limit() {
        let mut history = History::default();
        history.add(&PastEvent {
            name: EventName::Capability,
            happened_at: Timestamp::from_unix_seconds(1).unwrap(),
            accepted_at: Timestamp::from_unix_seconds(2).unwrap(),
            limit: MessagingLimit::from_number(f64::MAX),
        });
        let event = history.newest_first().next().unwrap();
        assert_eq!(event.limit, MessagingLimit::from_number(2_f64.powi(128)));
    }

    #[test]
    fn stored_history_stays_readable() {
        let stored = "AQXc25X/vDHEE+oH";
        let history: History = serde_json::from_str(&format!("{stored:?}")).unwrap();
        assert_eq!(
            serde_json::to_string(&history).unwrap(),
            format!("{stored:?}")
        );
        let [event] = history.newest_first().collect::<Vec<_>>()[..] else {
            panic!("{history:?}");
        };
        assert_eq!(event.name, EventName::Quality(EventKind::Upgrade));
        assert_eq!(event.limit, MessagingLimit::parse("1K"));
        assert_eq!(event.happened_at.to_string(), "1700000000.25");
        assert_eq!(event.accepted_at.to_string(), "1700000001.5");
        assert_eq!(History::unknown_code(stored), None);
    }

    #[test]
    fn damaged_history_is_refused() {
        let newer = "Af/c25X/vDHEE+oH";
        assert_eq!(History::unknown_code(newer), Some(255));
        let ends_early = "AQXc25X/vDHEE+o=";
        let goes_on = "AQXc25X/vDHEE+oHAA==";
        let accepted_after_2262 = "AQWAgICAgICAgIABxBPqBw==";
        let happened_before_1970 = "AQXc25X/vDG6t6v++WLqBw==";
        for stored in [
            newer,
            "?",
            ends_early,
            goes_on,
            accepted_after_2262,
            happened_before_1970,
        ] {
            serde_json::from_str::<History>(&format!("{stored:?}")).unwrap_err();
        }
        let mut many = [17].to_vec();
        many.extend([5, 0, 0, 0].repeat(17));
        let stored = STANDARD.encode(many);
        serde_json::from_str::<History>(&format!("{stored:?}")).unwrap_err();
    }
}
