//! A messaging limit, and how it came about.

use serde::{Deserialize, Serialize};

use super::{Tally, Value, entity::SampleWriter};
use crate::domain::{Direction, MessagingLimit, Timestamp};

/// Something known since a time: the newest said of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dated<T> {
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
    pub current: Option<Dated<MessagingLimit>>,
    /// The limit before the last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<MessagingLimit>,
    /// Changes upward.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub up: Tally,
    /// Changes downward.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub down: Tally,
}

/// A limit as it was reported.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) limit: MessagingLimit,
    /// When it happened, by the provider's time.
    pub(super) happened_at: Timestamp,
    /// When this exporter accepted the report.
    pub(super) accepted_at: Timestamp,
}

/// The limit before a report, as far as anything tells.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PreviousLimit {
    /// What was shown.
    pub(super) shown: Option<MessagingLimit>,
    /// What the provider says, where nothing was shown.
    pub(super) reported: Option<MessagingLimit>,
    /// The direction that the event's name implies; used where no limit before is known.
    pub(super) implied_direction: Option<Direction>,
}

impl<T> Dated<T> {
    /// Takes `value` unless what is known is newer: of equal times the later arrival counts.
    pub(super) fn set(known: &mut Option<Self>, value: T, at: Timestamp) -> bool {
        let is_newer = known.as_ref().is_none_or(|known| known.at <= at);
        if is_newer {
            *known = Some(Self { value, at });
        }
        is_newer
    }
}

impl PreviousLimit {
    fn limit(&self) -> Option<MessagingLimit> {
        self.shown.or(self.reported)
    }
}

impl Limit {
    /// The limit, where it is known.
    pub fn value(&self) -> Option<MessagingLimit> {
        self.current.map(|known| known.value)
    }

    /// The changes in one direction.
    pub fn changes(&self, direction: Direction) -> &Tally {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    /// The time of the newest limit.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.current.map(|known| known.at)
    }

    /// Takes a limit that was reported, and records the change. False where it is stale.
    pub(super) fn apply(&mut self, report: Report, before: PreviousLimit) -> bool {
        let is_newer = Dated::set(&mut self.current, report.limit, report.happened_at);
        if is_newer {
            let direction = match before.limit() {
                Some(before) => report.limit.direction_from(before),
                None => before.implied_direction,
            };
            if let Some(direction) = direction {
                self.record(direction, before, report.accepted_at);
            }
        }
        is_newer
    }

    /// Records a fall to a limit that was not reported. False where a newer limit is known.
    pub(super) fn record_fall_without_limit(
        &mut self,
        happened_at: Timestamp,
        accepted_at: Timestamp,
        before: PreviousLimit,
    ) -> bool {
        let is_newer = self.current.is_none_or(|known| known.at <= happened_at);
        if is_newer {
            self.record(Direction::Down, before, accepted_at);
        }
        is_newer
    }

    /// Copies the account's limit where it is newer. This is not counted as a change: the number
    /// shows that limit already, or is new.
    pub(super) fn inherit(&mut self, account: Option<Dated<MessagingLimit>>) {
        if let Some(account) = account
            && self.current.is_none_or(|known| known.at < account.at)
        {
            self.current = Some(account);
        }
    }

    fn record(&mut self, direction: Direction, before: PreviousLimit, accepted_at: Timestamp) {
        self.previous = before.limit();
        let changes = match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        };
        changes.count(accepted_at);
    }
}

// The samples of a limit's families, for numbers and accounts alike.

const DIRECTIONS: [(&str, Direction); 2] = [("up", Direction::Up), ("down", Direction::Down)];

pub(super) fn current_samples(limit: &Limit, sample: &mut SampleWriter<'_>) {
    if let Some(limit) = limit.value() {
        sample("", Value::Limit(limit));
    }
}

pub(super) fn previous_samples(limit: &Limit, sample: &mut SampleWriter<'_>) {
    if let Some(limit) = limit.previous {
        sample("", Value::Limit(limit));
    }
}

pub(super) fn change_samples(limit: &Limit, sample: &mut SampleWriter<'_>) {
    for (name, direction) in DIRECTIONS {
        sample(name, Value::Count(limit.changes(direction).total));
    }
}

pub(super) fn changed_samples(limit: &Limit, sample: &mut SampleWriter<'_>) {
    for (name, direction) in DIRECTIONS {
        if let Some(time) = limit.changes(direction).last {
            sample(name, Value::Time(time));
        }
    }
}
