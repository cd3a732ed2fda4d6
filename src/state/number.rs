//! Phone numbers: what is known of one, how an event changes it, and its metric families.
//!
//! For example, a number that shows 10000 and is flagged gets a DOWNGRADE with the limit 1000: it
//! is no longer flagged, shows 1000 after 10000, and has one more change downward, dated with the
//! time at which this exporter accepted the event.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Dated, Draft, Entity, Family, History, LabelValues, Limit, MetricKind, Outcome, PastEvent,
    Shards, Table, Value,
    fold::{Freshness, Received},
    limit::{
        PreviousLimit, Report, change_samples, changed_samples, current_samples, previous_samples,
    },
    seen::Seen,
    tally::ByValue,
};
use crate::domain::{
    AccountKey, DisplayName, EventKind, EventName, LimitScope, MessagingLimit, NumberKey,
    PhoneNumber, ProviderName, QualityRating, ReportedLimit, Timestamp, WabaId,
};

impl Entity for NumberKey {
    const KIND: &'static str = "number";
    const LIST: &'static str = "phone_numbers";
    const PREFIX: &'static str = "whatsapp_phone_number_";
    const LABELS: &'static [&'static str] = &["provider", "waba_id", "phone_number"];
    const FAMILIES: &'static [Family<Number>] = FAMILIES;

    type Record = Number;

    fn label_values(&self) -> LabelValues<'_> {
        let account = &self.account;
        [
            account.provider.as_str(),
            account.waba_id.as_str(),
            self.phone_number.as_str(),
        ]
        .into_iter()
        .collect()
    }

    fn phone_number(&self) -> Option<&PhoneNumber> {
        Some(&self.phone_number)
    }

    fn from_label_values(provider: ProviderName, rest: &[&str]) -> Option<Self> {
        let [waba_id, phone_number] = rest else {
            return None;
        };
        let account = AccountKey {
            provider,
            waba_id: WabaId::from_stored(waba_id),
        };
        Some(Self {
            account,
            phone_number: PhoneNumber::from_stored(phone_number),
        })
    }

    fn shards(table: &Table) -> &Shards<Self> {
        &table.numbers
    }

    fn history(number: &Number) -> &History {
        &number.history
    }
}

/// What is known of a phone number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Number {
    /// Its own limit, or its account's where that was said later.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub limit: Limit,
    /// Whether it is flagged for its quality.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flagged: Option<Dated<bool>>,
    /// Whether it may send at the higher throughput.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_throughput: Option<Dated<bool>>,
    /// Its quality rating, where one was reported; within, `None` where it has no rating. Most
    /// providers send none, so that it takes no room in most numbers; nor does the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rating: Option<Box<Dated<Option<QualityRating>>>>,
    /// The name that a person gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Box<DisplayName>>,
    /// Accepted events by kind.
    #[serde(default)]
    pub events: Counts,
    /// When the newest event happened, by the provider's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event: Option<Timestamp>,
    /// The last events.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub history: History,
    /// Deliveries already seen.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub seen: Seen<32>,
}

/// Events of a phone number by kind.
pub type Counts = ByValue<EventKind, u64, { EventKind::ALL.len() }>;

/// What a person reports of a number, as its console shows it: no event.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Whose it is.
    pub key: NumberKey,
    /// The name; `None` leaves the one that is known.
    pub name: Option<DisplayName>,
    /// The limit; `None` leaves the one that is known.
    pub limit: Option<MessagingLimit>,
}

/// An event of a number, as a webhook reports it.
pub(super) struct QualityEvent {
    /// `None` where the provider only observed the number's state.
    pub(super) event: Option<EventKind>,
    pub(super) limit: Option<ReportedLimit>,
    pub(super) old_limit: Option<MessagingLimit>,
    pub(super) rating: Option<Option<QualityRating>>,
}

impl QualityEvent {
    /// The limit, where it is the portfolio's and so the account's.
    fn portfolio_limit(&self) -> Option<MessagingLimit> {
        let reported = self.limit?;
        (reported.scope == LimitScope::Portfolio).then_some(reported.limit)
    }
}

impl Number {
    /// The newest time that is known of the number.
    fn newest(&self) -> Option<Timestamp> {
        let facts = [self.flagged, self.high_throughput];
        let facts = facts.into_iter().flatten().map(|known| known.at);
        facts
            .chain(self.rating.as_ref().map(|known| known.at))
            .chain(self.limit.newest())
            .chain(self.last_event)
            .max()
    }
}

impl Draft<'_> {
    /// Folds an observation into its number. Its limit counts only until a webhook reports one, be
    /// it an older one, because a person may have read the console at any time; so it records no
    /// change. False where there is no room for a further number.
    pub fn observe(&mut self, observation: &Observation) -> bool {
        let Observation { key, name, limit } = observation;
        let known = self.number(key);
        let is_new = known.is_none();
        if is_new && self.has_no_room_for_a_number() {
            return false;
        }
        let mut number = known.map(Arc::unwrap_or_clone).unwrap_or_default();
        let shown = number.limit.value();
        if name.is_some() {
            number.name = name.clone().map(Box::new);
        }
        if let Some(limit) = limit {
            Dated::set(&mut number.limit.current, *limit, Timestamp::BEFORE_ALL);
        }
        let account = self.account(&key.account);
        let account_limit = account.and_then(|known| known.limit.current);
        number.limit.inherit(account_limit);
        let is_changed = is_new || number.limit.value() != shown;
        if is_changed {
            self.mark_joined(&key.account);
        }
        if is_changed && number.limit.value() != account_limit.map(|known| known.value) {
            self.mark_differing(key);
        }
        self.put_number(key.clone(), number, is_new);
        true
    }

    /// Folds an event into its number, and where it reports the portfolio's limit, into the account
    /// and all its numbers.
    pub(super) fn apply_quality(
        &mut self,
        key: NumberKey,
        quality: &QualityEvent,
        received: &Received<'_>,
    ) -> Outcome {
        let known = self.number(&key);
        let is_new = known.is_none();
        if is_new && self.has_no_room_for_a_number() {
            return Outcome::Refused;
        }
        let known = known.unwrap_or_default();
        if known.seen.contains(received.change.identity) {
            return Outcome::Duplicate;
        }
        let account = self.account(&key.account);
        let scope = quality.limit.map(|reported| reported.scope);
        let happened_at = received.happened_at(|| {
            let account = account.as_deref();
            let of_account = account.and_then(|known| self.newest(&key.account, known, scope));
            known.newest().max(of_account)
        });
        let mut number = Arc::unwrap_or_clone(known);
        number.seen.remember(received.change.identity);
        let account_limit = account.as_ref().and_then(|known| known.limit.current);
        number.limit.inherit(account_limit);
        // A number that was never shown had no limit before, whatever its account's is.
        let shown = if is_new { None } else { number.limit.value() };
        let before = PreviousLimit {
            shown,
            reported: quality.old_limit,
            implied_direction: quality.event.and_then(EventKind::implied_direction),
        };
        let accepted_at = received.accepted_at;
        let mut freshness = number.apply(quality, before, happened_at, accepted_at);
        let limits = (shown.or(quality.old_limit), number.limit.value());

        let is_changed = is_new || number.limit.value() != shown;
        if is_changed {
            self.mark_joined(&key.account);
        }
        if is_changed && number.limit.value() != account_limit.map(|known| known.value) {
            self.mark_differing(&key);
        }
        let account_key = key.account.clone();
        self.put_number(key, number, is_new);
        if let Some(limit) = quality.portfolio_limit() {
            let mut account = account.map(Arc::unwrap_or_clone).unwrap_or_default();
            if let Some(event) = quality.event {
                account.history.add(&PastEvent {
                    name: EventName::Quality(event),
                    happened_at,
                    accepted_at,
                    limit: Some(limit),
                });
            }
            let report = Report {
                limit,
                happened_at,
                accepted_at,
            };
            let before = PreviousLimit {
                shown: account.limit.value(),
                ..before
            };
            freshness.note(self.apply_account_limit(&account_key, account, report, before));
        }
        freshness.outcome(limits)
    }
}

impl Number {
    /// Counts an event, and sets what it says. An observation is no event: it only sets.
    fn apply(
        &mut self,
        quality: &QualityEvent,
        before: PreviousLimit,
        happened_at: Timestamp,
        accepted_at: Timestamp,
    ) -> Freshness {
        let mut freshness = Freshness::default();
        if let Some(event) = quality.event {
            self.events.count(event);
            self.history.add(&PastEvent {
                name: EventName::Quality(event),
                happened_at,
                accepted_at,
                limit: quality.limit.map(|reported| reported.limit),
            });
            self.last_event = self.last_event.max(Some(happened_at));
            if let Some(flagged) = event.flagged() {
                freshness.note(Dated::set(&mut self.flagged, flagged, happened_at));
            }
            if let Some(high) = event.high_throughput() {
                freshness.note(Dated::set(&mut self.high_throughput, high, happened_at));
            }
        }
        if let Some(rating) = quality.rating {
            let mut known = self.rating.as_deref().copied();
            freshness.note(Dated::set(&mut known, rating, happened_at));
            self.rating = known.map(Box::new);
        }
        let limit = &mut self.limit;
        if let Some(reported) = quality.limit {
            let report = Report {
                limit: reported.limit,
                happened_at,
                accepted_at,
            };
            freshness.note(limit.apply(report, before));
        } else if quality.event == Some(EventKind::Downgrade) {
            // The limit before the fall is the one that is shown, be it the account's.
            let before = PreviousLimit {
                shown: limit.value(),
                ..before
            };
            freshness.note(limit.record_fall_without_limit(happened_at, accepted_at, before));
        }
        freshness
    }
}

const FAMILIES: &[Family<Number>] = &[
    Family {
        name: "whatsapp_phone_number_messaging_limit",
        kind: MetricKind::Gauge,
        help: "Unique customers the number may open conversations with in a rolling 24 hours: \
               +Inf unlimited, 0 not set yet, absent while unknown.",
        label: None,
        samples: |number, sample| current_samples(&number.limit, sample),
    },
    Family {
        name: "whatsapp_phone_number_previous_messaging_limit",
        kind: MetricKind::Gauge,
        help: "The messaging limit before the last change; absent until there was one.",
        label: None,
        samples: |number, sample| previous_samples(&number.limit, sample),
    },
    Family {
        name: "whatsapp_phone_number_messaging_limit_changes_total",
        kind: MetricKind::Counter,
        help: "Changes of the messaging limit, however they were learned.",
        label: Some("direction"),
        samples: |number, sample| change_samples(&number.limit, sample),
    },
    Family {
        name: "whatsapp_phone_number_messaging_limit_changed_timestamp_seconds",
        kind: MetricKind::Gauge,
        help: "When this exporter applied the last change in that direction; absent until then.",
        label: Some("direction"),
        samples: |number, sample| changed_samples(&number.limit, sample),
    },
    Family {
        name: "whatsapp_phone_number_flagged",
        kind: MetricKind::Gauge,
        help: "1 while the number is flagged for its quality, otherwise 0.",
        label: None,
        samples: |number, sample| {
            sample(
                "",
                Value::Count(number.flagged.is_some_and(|known| known.value).into()),
            );
        },
    },
    Family {
        name: "whatsapp_phone_number_high_throughput",
        kind: MetricKind::Gauge,
        help: "1 after THROUGHPUT_UPGRADE, otherwise 0.",
        label: None,
        samples: |number, sample| {
            sample(
                "",
                Value::Count(
                    number
                        .high_throughput
                        .is_some_and(|known| known.value)
                        .into(),
                ),
            );
        },
    },
    Family {
        name: "whatsapp_phone_number_quality_events_total",
        kind: MetricKind::Counter,
        help: "Accepted quality events by kind.",
        label: Some("event"),
        samples: |number, sample| number.events.total_samples(sample),
    },
    Family {
        name: "whatsapp_phone_number_last_event_timestamp_seconds",
        kind: MetricKind::Gauge,
        help: "When the provider says the newest event happened; the time of its arrival where it says nothing.",
        label: None,
        samples: |number, sample| {
            if let Some(time) = number.last_event {
                sample("", Value::Time(time));
            }
        },
    },
    Family {
        name: "whatsapp_phone_number_info",
        kind: MetricKind::Gauge,
        help: "1, with the display name of a number that was imported with one.",
        label: Some("name"),
        samples: |number, sample| {
            if let Some(name) = &number.name {
                sample(name.as_str(), Value::Count(1));
            }
        },
    },
    Family {
        name: "whatsapp_phone_number_quality_rating",
        kind: MetricKind::Gauge,
        help: "1 for the rating that was last reported, 0 for the others; absent until a provider reports one.",
        label: Some("rating"),
        samples: |number, sample| {
            let Some(known) = &number.rating else {
                return;
            };
            for rating in QualityRating::ALL {
                let is_this = known.value == Some(rating);
                sample(rating.as_str(), Value::Count(is_this.into()));
            }
        },
    },
];
