use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::domain::{
    AccountKey, Direction, EventKind, Identity, MaxPhoneNumbers, MessagingLimit, NumberKey,
    Timestamp,
};

/// A key and what is known under it, as it is stored.
#[derive(Clone, Debug)]
pub enum Record {
    /// A phone number.
    Number(NumberKey, std::sync::Arc<Number>),
    /// An account.
    Account(AccountKey, std::sync::Arc<Account>),
    /// A provider, by its name.
    Provider(&'static str, Heartbeat),
}

/// What is known of a phone number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Number {
    /// Its own limit, or its account's where that was said later.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limit: Limit,
    /// Whether it is flagged for its quality.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flagged: Option<Fact<bool>>,
    /// Whether it may send at the higher throughput.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_throughput: Option<Fact<bool>>,
    /// Accepted events by kind.
    #[serde(default)]
    pub events: Counts,
    /// When the newest event happened, by the provider's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event: Option<Timestamp>,
    /// Deliveries already seen.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seen: Seen,
}

/// What is known of an account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// The limit its numbers share.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limit: Limit,
    /// How many numbers there may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_phone_numbers: Option<Fact<MaxPhoneNumbers>>,
    /// Deliveries already seen.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seen: Seen,
}

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

/// Something known since a time: the newest said of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact<T> {
    /// What is known.
    pub value: T,
    /// When that happened, by the provider's time.
    pub at: Timestamp,
}

/// A limit and how it came about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// The limit, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Fact<MessagingLimit>>,
    /// The limit before the last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<MessagingLimit>,
    /// Changes upward.
    #[serde(default, skip_serializing_if = "is_default")]
    pub up: Changes,
    /// Changes downward.
    #[serde(default, skip_serializing_if = "is_default")]
    pub down: Changes,
}

/// Changes in one direction, as this exporter observed them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// How many.
    pub total: u64,
    /// When the last of them was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
}

/// What stands in for the limit before, where that is not known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hint {
    pub(super) old_limit: Option<MessagingLimit>,
    pub(super) event: Option<EventKind>,
}

impl<T> Fact<T> {
    /// Takes `value` if it is not older than what is known: of equal times the later arrival counts.
    pub(super) fn set(known: &mut Option<Self>, value: T, at: Timestamp) -> bool {
        let newer = known.as_ref().is_none_or(|known| known.at <= at);
        if newer {
            *known = Some(Self { value, at });
        }
        newer
    }
}

impl Limit {
    /// The limit, where it is known.
    pub fn value(&self) -> Option<MessagingLimit> {
        self.current.map(|fact| fact.value)
    }

    /// The changes in one direction.
    pub fn changes(&self, direction: Direction) -> &Changes {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    /// Takes a limit that was said, and records the change from `before`. False where it is stale.
    pub(super) fn say(
        &mut self,
        limit: MessagingLimit,
        at: Timestamp,
        before: Option<MessagingLimit>,
        hint: Hint,
        received: Timestamp,
    ) -> bool {
        let newer = Fact::set(&mut self.current, limit, at);
        if newer {
            let before = before.or(hint.old_limit);
            let direction = match before {
                Some(before) => limit.direction_from(before),
                None => match hint.event {
                    Some(EventKind::Downgrade) => Some(Direction::Down),
                    Some(EventKind::Upgrade) => Some(Direction::Up),
                    _ => None,
                },
            };
            if let Some(direction) = direction {
                self.previous = before;
                self.record(direction, received);
            }
        }
        newer
    }

    /// Records a fall from `before` to a limit that was not given. False where a newer limit is known.
    pub(super) fn say_fell(
        &mut self,
        at: Timestamp,
        before: Option<MessagingLimit>,
        hint: Hint,
        received: Timestamp,
    ) -> bool {
        let newer = self.current.is_none_or(|known| known.at <= at);
        if newer {
            self.previous = before.or(hint.old_limit);
            self.record(Direction::Down, received);
        }
        newer
    }

    /// Takes a newer limit without calling it a change.
    pub(super) fn adopt(&mut self, other: Option<Fact<MessagingLimit>>) {
        if let Some(other) = other
            && self.current.is_none_or(|known| known.at < other.at)
        {
            self.current = Some(other);
        }
    }

    fn record(&mut self, direction: Direction, received: Timestamp) {
        let changes = match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        };
        changes.total += 1;
        changes.last = Some(received);
    }
}

/// Events by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts([u64; EventKind::ALL.len()]);

impl Counts {
    /// How many of a kind.
    pub fn of(&self, kind: EventKind) -> u64 {
        self.0.get(kind as usize).copied().unwrap_or_default()
    }

    pub(super) fn count(&mut self, kind: EventKind) {
        self.add(kind, 1);
    }

    fn add(&mut self, kind: EventKind, events: u64) {
        if let Some(count) = self.0.get_mut(kind as usize) {
            *count += events;
        }
    }
}

/// A map from names to counts, without the zeros.
impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let counted = EventKind::ALL.into_iter().map(|kind| (kind, self.of(kind)));
        serializer.collect_map(counted.filter(|(_, count)| *count > 0))
    }
}

impl<'de> Deserialize<'de> for Counts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let counted = std::collections::BTreeMap::<EventKind, u64>::deserialize(deserializer)?;
        let mut counts = Self::default();
        for (kind, count) in counted {
            counts.add(kind, count);
        }
        Ok(counts)
    }
}

impl Number {
    /// The newest time that is known of the number.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        let facts = [self.flagged, self.high_throughput]
            .into_iter()
            .flatten()
            .map(|fact| fact.at);
        facts
            .chain(self.limit.newest())
            .chain(self.last_event)
            .max()
    }
}

impl Account {
    /// The newest time that is known of the account.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.max_phone_numbers
            .map(|fact| fact.at)
            .max(self.limit.newest())
    }
}

impl Limit {
    /// The time of the newest limit.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.current.map(|fact| fact.at)
    }
}

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

/// The bytes of all of them in base64: most of a document are these, and with them most of what a webhook writes.
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

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
